//! The state of one connection from `initialize` on: the client's capabilities, documents and settings, and the work
//! in flight for it.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::Value;
use tempfile::NamedTempFile;
use tokio::sync::{Notify, watch};
use tower_lsp::Client;
use tower_lsp::gen_lsp_types::{
    InitializeParams, InlineCompletionTriggerKind, TextDocumentItem, WorkspaceFolders,
};

use super::capabilities::Capabilities;
use super::documents::{DocumentChange, DocumentSnapshot, Documents, Edit};
use super::hover_cache::HoverCache;
use super::position::Encoding;
use super::settings::{ConnectionSettings, EffectiveSettings};
use super::snapshot::Snapshot;
use crate::complete::driver::Completer;
use crate::complete::service::Trigger;
use crate::complete::stats::Observer;
use crate::config::Problem;
use crate::privacy::path_of;
use crate::resident::{Editor, Membership, Resident, View};

/// Most files kept for `window/showDocument`; the oldest are deleted first.
const FILES_MAX: usize = 8;

/// Numbers connections.
static CONNECTIONS: AtomicU64 = AtomicU64::new(0);

/// How to serve a client.
#[derive(Clone, Default)]
pub struct Options {
    /// Settings from the environment and the flags of the bridge, where that is another process
    /// ([`Configuration::client_overrides`](crate::config::Configuration::client_overrides)).
    pub overrides: Option<Value>,
    /// A warning to show to the user after `initialize`.
    pub notice: Option<String>,
    /// Called for every completion request.
    pub observer: Option<Observer>,
}

pub(super) struct Connection {
    client: Client,
    capabilities: Capabilities,
    encoding: Encoding,
    documents: Documents,
    completer: Completer,
    hovers: HoverCache,
    resident: Arc<Resident>,
    settings: ConnectionSettings,
    /// Wakes the task that sends `fimd/status`.
    activity: Arc<Notify>,
    /// Whether the client numbers inline triggers as early VS Code clients did; see [`Connection::trigger`].
    counts_triggers_from_zero: AtomicBool,
    /// Makes keys on the engine unique per connection.
    number: u64,
    /// The next [`Connection::next_number`].
    numbers: AtomicU64,
    /// Files shown by the client.
    files: Mutex<VecDeque<NamedTempFile>>,
    _membership: Membership,
}

impl Connection {
    /// Negotiates with a client and applies its settings.
    pub(super) fn new(
        client: Client,
        resident: Arc<Resident>,
        options: Options,
        params: &InitializeParams,
    ) -> Arc<Self> {
        let (view, roots) = (resident.view(), roots(params));
        let given = params.initialization_options.clone().unwrap_or_default();
        let Options { overrides, observer, notice: _ } = options;
        let editor = editor(params, &roots);
        let settings = ConnectionSettings::new(&view, overrides, given, roots, resident.git().clone());
        let activity = Arc::new(Notify::new());
        let activity_signal = activity.clone();
        let observer: Observer = Arc::new(move |record| {
            activity_signal.notify_one();
            observer.iter().for_each(|observer| observer(record));
        });
        let (engine, total) = (view.served.engine.clone(), resident.stats().clone());
        let number = CONNECTIONS.fetch_add(1, Ordering::Relaxed);
        Arc::new(Self {
            client,
            capabilities: Capabilities::of(&params.capabilities),
            encoding: Encoding::negotiate(params),
            documents: Documents::default(),
            completer: Completer::new(engine, settings.effective().options, total, Some(observer)),
            hovers: HoverCache::new(format!("{number}/hover")),
            settings,
            activity,
            counts_triggers_from_zero: AtomicBool::new(false),
            number,
            numbers: AtomicU64::new(0),
            files: Mutex::default(),
            _membership: resident.join(editor),
            resident,
        })
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    pub(super) fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    pub(super) fn encoding(&self) -> Encoding {
        self.encoding
    }

    pub(super) fn resident(&self) -> &Arc<Resident> {
        &self.resident
    }

    pub(super) fn completer(&self) -> &Completer {
        &self.completer
    }

    pub(super) fn hovers(&self) -> &HoverCache {
        &self.hovers
    }

    /// See [`Documents::masked`].
    pub(super) fn masked(
        &self,
        snapshot: &Snapshot,
        replaced: Range<usize>,
        inserted: &str,
    ) -> Option<(String, String)> {
        self.documents.masked(&snapshot.document, replaced, inserted)
    }

    pub(super) fn open(&self, document: TextDocumentItem) {
        let TextDocumentItem { uri, language_id, version, text } = document;
        self.completer.replaced(&uri.0);
        self.documents.open(uri.0, language_id.into(), version, &text);
    }

    pub(super) fn change(&self, change: &DocumentChange) {
        let uri = &change.text_document.uri;
        for edit in self.documents.change(change, self.encoding) {
            match edit {
                Edit::Change(change) => self.completer.changed(uri, change),
                Edit::Whole => self.completer.replaced(uri),
            }
        }
    }

    pub(super) fn close(&self, uri: &str) {
        self.documents.close(uri);
        self.settings().workspace.close(uri);
        self.completer.closed(uri);
    }

    /// Records that a document has the focus.
    pub(super) fn focus(&self, uri: &str) {
        self.documents.touch(uri);
    }

    /// The current state of a document; `None` when it is not open.
    pub(super) fn snapshot(&self, uri: &str) -> Option<Snapshot> {
        let (document, view) = (self.documents.snapshot(uri)?, self.resident.view());
        Some(Snapshot {
            document,
            settings: self.settings(),
            encoding: self.encoding,
            served: view.served,
            is_paused: view.pause.is_some(),
        })
    }

    /// The other open documents, the most recently changed or focused first.
    pub(super) fn others(&self, snapshot: &Snapshot) -> impl Iterator<Item = DocumentSnapshot> {
        self.documents.others(&snapshot.document.uri)
    }

    /// Whether the document is still open and unchanged.
    pub(super) fn is_current(&self, snapshot: &Snapshot) -> bool {
        self.documents.is_current(&snapshot.document.uri, snapshot.document.revision)
    }

    /// The settings in effect now.
    pub(super) fn settings(&self) -> Arc<EffectiveSettings> {
        self.settings.effective()
    }

    /// Replaces the settings of the editor, from the next request on; null leaves them as they are. Returns the new
    /// problems.
    pub(super) fn configure(&self, given: Value) -> Vec<Problem> {
        if !given.is_null() {
            self.settings.replace(given);
        }
        self.apply(&self.resident.view())
    }

    /// Adds and removes workspace folders.
    pub(super) fn change_roots(&self, added: Vec<String>, removed: &[String]) {
        self.settings.change_roots(added, removed);
        self.apply(&self.resident.view());
    }

    /// Applies the settings of the editor to a changed model or changed settings of the process. Returns the new problems.
    pub(super) fn follow(&self, view: &View) -> Vec<Problem> {
        if self.settings().are_current(view) { Vec::new() } else { self.apply(view) }
    }

    fn apply(&self, view: &View) -> Vec<Problem> {
        self.settings.apply(view, |new| self.completer.configure(new.served.engine.clone(), new.options))
    }

    /// Signals activity of this connection, and changes of the model.
    pub(super) fn watch(&self) -> (Arc<Notify>, watch::Receiver<View>) {
        (self.activity.clone(), self.resident.watch())
    }

    /// Signals a change of what `fimd/status` shows.
    pub(super) fn signal_activity(&self) {
        self.activity.notify_one();
    }

    /// Early VS Code clients send 0 for invoked and 1 for automatic, where the protocol has 1 and 2: a client that
    /// sends 0 once is one of them.
    pub(super) fn trigger(&self, kind: InlineCompletionTriggerKind) -> Trigger {
        let kind = u32::from(kind);
        let from_zero = kind == 0 || self.counts_triggers_from_zero.load(Ordering::Relaxed);
        self.counts_triggers_from_zero.store(from_zero, Ordering::Relaxed);
        if kind == u32::from(!from_zero) { Trigger::Invoked } else { Trigger::Automatic }
    }

    /// Unique per connection.
    pub(super) fn next_number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    /// A key for the engine that supersedes no other work.
    pub(super) fn next_key(&self) -> String {
        format!("{}/assist/{}", self.number, self.next_number())
    }

    /// Keeps a file for the client to show; it is deleted with the connection.
    pub(super) fn keep(&self, file: NamedTempFile) {
        let mut files = self.files.lock().expect("lock poisoned");
        files.push_back(file);
        if files.len() > FILES_MAX {
            files.pop_front();
        }
    }

    /// Cancels all work and deletes the files.
    pub(super) fn shut_down(&self) {
        self.completer.closed_all();
        self.files.lock().expect("lock poisoned").clear();
    }
}

impl Drop for Connection {
    /// Wakes the status task, which finds the connection closed and ends.
    fn drop(&mut self) {
        self.activity.notify_one();
    }
}

/// The client as `fimd status` shows it.
fn editor(params: &InitializeParams, roots: &[String]) -> Editor {
    let info = params.client_info.as_ref();
    Editor {
        name: info.map_or_else(|| "an editor".into(), |info| info.name.clone()),
        version: info.and_then(|info| info.version.clone()),
        folder: roots.first().map(|root| path_of(root)),
    }
}

fn roots(params: &InitializeParams) -> Vec<String> {
    #[expect(deprecated, reason = "some clients send no other root")]
    let root = params.root_uri.as_ref();
    match &params.workspace_folders_initialize_params.workspace_folders {
        Some(WorkspaceFolders::WorkspaceFolderList(folders)) if !folders.is_empty() => {
            folders.iter().map(|folder| folder.uri.0.clone()).collect()
        }
        _ => root.map(|uri| uri.0.clone()).into_iter().collect(),
    }
}
