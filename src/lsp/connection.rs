//! What one connection holds.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::Value;
use tempfile::NamedTempFile;
use tokio::sync::Notify;
use tower_lsp::Client;
use tower_lsp::gen_lsp_types::{ClientCapabilities, InitializeParams, WorkspaceFolders};

use super::documents::{Documents, Snapshot};
use super::hover_cache::HoverCache;
use super::position::Encoding;
use super::settings::{ConnectionSettings, EffectiveSettings};
use super::workspace::path_of;
use crate::complete::driver::Completer;
use crate::complete::stats::Observer;
use crate::config::Problem;
use crate::resident::{Editor, Membership, Resident, View};

/// Most files that the client is shown; the oldest go first.
const FILES_MAX: usize = 8;

/// Numbers connections.
static CONNECTIONS: AtomicU64 = AtomicU64::new(0);

/// How to serve a client.
#[derive(Clone, Default)]
pub struct Options {
    /// What the process that the editor has started has in its environment and flags, where it is another one
    /// than this ([`Configuration::client_overrides`](crate::config::Configuration::client_overrides)).
    pub overrides: Option<Value>,
    /// What to tell the user first.
    pub notice: Option<String>,
    /// Told of every request.
    pub observer: Option<Observer>,
}

/// The state of one connection, from `initialize` on.
pub struct Connection {
    pub client: Client,
    /// What the client can do.
    pub capabilities: ClientCapabilities,
    /// The encoding agreed on.
    pub encoding: Encoding,
    pub documents: Documents,
    pub completer: Completer,
    pub resident: Arc<Resident>,
    pub hovers: HoverCache,
    /// Something to tell `status` about.
    pub activity: Arc<Notify>,
    /// Whether the client numbers inline triggers as early VS Code clients did, see `inline_completion`.
    pub counts_triggers_from_zero: AtomicBool,
    settings: ConnectionSettings,
    /// Files that the client was shown; they go with the session.
    files: Mutex<VecDeque<NamedTempFile>>,
    /// Keeps the work of this connection apart from that of others.
    number: u64,
    /// Numbers what this connection asks for.
    numbers: AtomicU64,
    _membership: Membership,
}

impl Connection {
    /// Agrees with a client on how to go on, and takes over its settings.
    pub fn new(
        client: Client,
        resident: Arc<Resident>,
        options: &Options,
        params: &InitializeParams,
    ) -> Self {
        let (view, roots) = (resident.view(), roots(params));
        let editor = editor(params, &roots);
        let given = params.initialization_options.clone().unwrap_or_default();
        let settings = ConnectionSettings::new(&view, options.overrides.clone(), given, roots);
        let activity = Arc::new(Notify::new());
        let (told, observer) = (activity.clone(), options.observer.clone());
        let observer: Observer = Arc::new(move |record| {
            told.notify_one();
            observer.iter().for_each(|observer| observer(record));
        });
        let (engine, total) = (view.served.engine.clone(), resident.stats().clone());
        let completer = Completer::new(engine, settings.effective().options, total, Some(observer));
        Self {
            client,
            capabilities: params.capabilities.clone(),
            encoding: Encoding::negotiate(params),
            documents: Documents::default(),
            completer,
            hovers: HoverCache::default(),
            activity,
            counts_triggers_from_zero: AtomicBool::new(false),
            settings,
            files: Mutex::default(),
            number: CONNECTIONS.fetch_add(1, Ordering::Relaxed),
            numbers: AtomicU64::new(0),
            _membership: resident.join(editor),
            resident,
        }
    }

    /// The settings that hold now.
    pub fn settings(&self) -> Arc<EffectiveSettings> {
        self.settings.effective()
    }

    /// Takes over other settings of the editor, from the next request on; says what is wrong with them that
    /// was not wrong before. Null says nothing.
    pub fn configure(&self, given: Value) -> Vec<Problem> {
        if !given.is_null() {
            self.settings.replace(given);
        }
        self.apply(&self.resident.view())
    }

    /// Lays the settings of the editor over those of the model that answers, which may have changed; says what
    /// is wrong with them that was not wrong before.
    pub fn apply(&self, view: &View) -> Vec<Problem> {
        self.settings.apply(view, |new| self.completer.configure(new.served.engine.clone(), new.options))
    }

    /// Whether the model may be asked about a document unasked.
    pub fn may_complete(&self, settings: &EffectiveSettings, snapshot: &Snapshot) -> bool {
        !self.resident.is_paused() && settings.may_read(snapshot)
    }

    /// The key of work of this connection that newer work of the same name supersedes.
    pub fn key(&self, name: &str) -> String {
        format!("{}/{name}", self.number)
    }

    /// A number that this connection has not used.
    pub fn next_number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    /// Keeps a file that the client is shown.
    pub fn keep(&self, file: NamedTempFile) {
        let mut files = self.files.lock().expect("nothing panics with this lock");
        files.push_back(file);
        if files.len() > FILES_MAX {
            files.pop_front();
        }
    }

    /// Ends the work that is under way and removes the files.
    pub fn close(&self) {
        self.completer.closed_all();
        self.files.lock().expect("nothing panics with this lock").clear();
    }
}

impl Drop for Connection {
    /// Has `status` look, and find that the session is over.
    fn drop(&mut self) {
        self.activity.notify_one();
    }
}

/// What a client says of itself.
fn editor(client: &InitializeParams, roots: &[String]) -> Editor {
    let info = client.client_info.as_ref();
    Editor {
        name: info.map_or_else(|| "an editor".into(), |info| info.name.clone()),
        version: info.and_then(|info| info.version.clone()),
        folder: roots.first().map(|root| path_of(root)),
    }
}

/// The URIs of the folders a client works in.
fn roots(client: &InitializeParams) -> Vec<String> {
    #[expect(deprecated, reason = "some clients send nothing else")]
    let root = client.root_uri.as_ref();
    match &client.workspace_folders_initialize_params.workspace_folders {
        Some(WorkspaceFolders::WorkspaceFolderList(folders)) if !folders.is_empty() => {
            folders.iter().map(|folder| folder.uri.0.clone()).collect()
        }
        _ => root.map(|uri| uri.0.clone()).into_iter().collect(),
    }
}
