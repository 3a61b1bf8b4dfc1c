//! The server itself: what it can do, and what every request has in common.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, RwLock};

use ropey::Rope;
use serde_json::Value;
use tempfile::NamedTempFile;
use tokio::sync::{Notify, oneshot};
use tower_lsp::gen_lsp_types::{
    ClientCapabilities, CodeActionOptions, CompletionOptions, DidChangeTextDocumentParams,
    DidCloseTextDocumentParams, DidOpenTextDocumentParams, ExecuteCommandOptions, InitializeParams,
    InitializeResult, InitializedParams, MessageType, ServerCapabilities, ServerInfo, TextDocumentSyncKind,
    TextDocumentSyncOptions, WorkspaceFolders,
};
use tower_lsp::jsonrpc::{Error, Result};
use tower_lsp::{Client, LanguageServer};

use super::Options;
use super::configuration::{self, CanConfigure};
use super::documents::{Documents, Edit, Snapshot};
use super::hover::Hovers;
use super::position::Encoding;
use super::workspace::{Workspace, path_of};
use super::{code_action, execute_command, status};
use crate::assist;
use crate::complete::driver::{self, Completer};
use crate::complete::service::{Ask, AskId, Service, Trigger};
use crate::complete::stats::Observer;
use crate::complete::{ContextFile, DOCUMENT_BYTES_MAX, Document};
use crate::config::{Configuration, Problem, Settings};
use crate::resident::{Editor, Membership, Resident, Served, View};

/// Characters, besides those of words, after which clients with a completion menu ask for more. Few:
/// at each of them the menu pops up.
const TRIGGER_CHARACTERS: [&str; 1] = ["."];

/// A larger one is no context for others.
const CONTEXT_BYTES_MAX: usize = 1 << 18;
/// A token of it is taken to stand for at most this many bytes.
const CONTEXT_TOKEN_BYTES_MAX: usize = 8;
/// Most other documents that are context.
const CONTEXT_FILES_MAX: usize = 8;

/// The state of one connection.
pub struct Server {
    pub client: Client,
    resident: Arc<Resident>,
    options: Options,
    pub documents: Documents,
    ready: OnceLock<Arc<Ready>>,
    /// Whether the client numbers inline triggers as early VS Code clients did; see
    /// [`Server::inline_completion`].
    pub counts_triggers_from_zero: AtomicBool,
    /// Keeps the work of this connection apart from that of others.
    pub number: u64,
    /// Numbers what this connection asks for.
    numbers: AtomicU64,
    pub hovers: Hovers,
    /// Files that the client was shown; they go with the session.
    pub files: Mutex<VecDeque<NamedTempFile>>,
}

/// Numbers connections.
static CONNECTIONS: AtomicU64 = AtomicU64::new(0);

/// What is known once the client has introduced itself.
pub struct Ready {
    pub encoding: Encoding,
    pub completer: Completer,
    /// What the client can do.
    pub capabilities: ClientCapabilities,
    /// Something to tell `status` about.
    pub activity: Arc<Notify>,
    pub resident: Arc<Resident>,
    options: Options,
    roots: Vec<String>,
    /// The settings of the editor, as it sent them last.
    given: Mutex<Value>,
    rules: RwLock<Arc<Rules>>,
    _membership: Membership,
}

/// What holds until settings change.
pub struct Rules {
    pub settings: Settings,
    pub workspace: Workspace,
    /// What is wrong with the settings.
    problems: Vec<Problem>,
    /// What the settings of the editor are laid over.
    base: Arc<Configuration>,
    served: Arc<Served>,
    options: driver::Options,
}

impl Rules {
    /// How to explain, fix and document.
    pub fn assist(&self) -> assist::Options {
        assist::Options { prompt: self.options.prompt, max_tokens: self.settings.assist.max_tokens }
    }
}

/// Gives a request up when dropped; one that was answered does not mind.
struct GiveUp<'a>(&'a Completer, AskId);

impl Drop for GiveUp<'_> {
    fn drop(&mut self) {
        self.0.cancel(self.1);
    }
}

impl LanguageServer for Server {
    async fn initialize(&self, client: InitializeParams) -> Result<InitializeResult> {
        let encoding = self.ready.get_or_init(|| self.introduce(&client)).encoding;
        let text_document = client.capabilities.text_document.as_ref();
        let shows_inline = text_document.is_some_and(|can| can.inline_completion.is_some());
        // A client that has both would show the same text twice.
        let menu = CompletionOptions {
            trigger_characters: Some(TRIGGER_CHARACTERS.map(String::from).into()),
            ..Default::default()
        };
        let sync = TextDocumentSyncOptions {
            open_close: Some(true),
            change: Some(TextDocumentSyncKind::Incremental),
            ..Default::default()
        };
        let actions = CodeActionOptions {
            code_action_kinds: Some(code_action::KINDS.into()),
            resolve_provider: Some(true),
            ..Default::default()
        };
        let commands = ExecuteCommandOptions {
            commands: execute_command::COMMANDS.map(String::from).into(),
            ..Default::default()
        };
        Ok(InitializeResult {
            capabilities: ServerCapabilities {
                position_encoding: Some(encoding.kind()),
                text_document_sync: Some(sync.into()),
                inline_completion_provider: Some(true.into()),
                completion_provider: (!shows_inline).then_some(menu),
                code_action_provider: Some(actions.into()),
                execute_command_provider: Some(commands),
                hover_provider: Some(true.into()),
                ..Default::default()
            },
            server_info: Some(ServerInfo {
                name: env!("CARGO_PKG_NAME").into(),
                version: Some(env!("CARGO_PKG_VERSION").into()),
            }),
        })
    }

    async fn initialized(&self, _: InitializedParams) {
        let Some(ready) = self.ready.get() else { return };
        status::spawn(&self.client, ready);
        if ready.can().register {
            configuration::register(self.client.clone());
        }
        if let Some(notice) = &self.options.notice {
            self.client.show_message(MessageType::Warning, format!("fimd: {notice}")).await;
        }
        configuration::warn(&self.client, &ready.rules().problems).await;
    }

    async fn shutdown(&self) -> Result<()> {
        if let Some(ready) = self.ready.get() {
            ready.completer.closed_all();
        }
        self.files.lock().expect("nothing panics with this lock").clear();
        Ok(())
    }
}

impl Server {
    pub fn new(client: Client, resident: Arc<Resident>, options: Options) -> Self {
        Self {
            client,
            resident,
            options,
            documents: Documents::default(),
            ready: OnceLock::new(),
            counts_triggers_from_zero: AtomicBool::new(false),
            number: CONNECTIONS.fetch_add(1, Ordering::Relaxed),
            numbers: AtomicU64::new(0),
            hovers: Hovers::default(),
            files: Mutex::default(),
        }
    }

    /// Agrees with a client on how to go on, and takes over its settings.
    fn introduce(&self, client: &InitializeParams) -> Arc<Ready> {
        let (view, roots) = (self.resident.view(), roots(client));
        let given = client.initialization_options.clone().unwrap_or_default();
        let rules = Rules::new(&view, &self.options, &given, &roots);
        let activity = Arc::new(Notify::new());
        let (told, observer) = (activity.clone(), self.options.observer.clone());
        let observer: Observer = Arc::new(move |record| {
            told.notify_one();
            observer.iter().for_each(|observer| observer(record));
        });
        let total = self.resident.stats().clone();
        let completer = Completer::new(view.served.engine.clone(), rules.options, total, Some(observer));
        let info = client.client_info.as_ref();
        let editor = Editor {
            name: info.map_or_else(|| "an editor".into(), |info| info.name.clone()),
            version: info.and_then(|info| info.version.clone()),
            folder: roots.first().map(|root| path_of(root)),
        };
        Arc::new(Ready {
            encoding: Encoding::negotiate(client),
            completer,
            capabilities: client.capabilities.clone(),
            activity,
            resident: self.resident.clone(),
            options: self.options.clone(),
            roots,
            given: Mutex::new(given),
            rules: RwLock::new(Arc::new(rules)),
            _membership: self.resident.join(editor),
        })
    }

    pub async fn did_open(&self, params: DidOpenTextDocumentParams) {
        let document = params.text_document;
        let uri = document.uri.0;
        self.ready().completer.replaced(&uri);
        self.documents.open(uri.clone(), document.language_id.into(), document.version, &document.text);
        self.warm(&uri);
    }

    pub async fn did_change(&self, params: DidChangeTextDocumentParams) {
        let document = params.text_document;
        let uri = document.text_document_identifier.uri.0;
        let Ready { encoding, completer, .. } = &**self.ready();
        for edit in self.documents.change(&uri, document.version, &params.content_changes, *encoding) {
            match edit {
                Edit::Change(change) => completer.changed(&uri, change),
                Edit::Whole => completer.replaced(&uri),
            }
        }
    }

    pub async fn did_close(&self, params: DidCloseTextDocumentParams) {
        let uri = params.text_document.uri.0;
        self.documents.close(&uri);
        self.ready().completer.closed(&uri);
    }

    /// Answers a message that [`super::wire`] could not read.
    pub async fn unreadable(&self) -> Result<()> {
        Err(Error::parse_error())
    }

    /// What was agreed on.
    pub fn ready(&self) -> &Arc<Ready> {
        self.ready.get().expect("requests are served after `initialize` only")
    }

    /// The encoding agreed on.
    pub fn encoding(&self) -> Encoding {
        self.ready().encoding
    }

    /// The texts that belong between `prefix` and `suffix`, taken from `snapshot`, best first. Fails only
    /// when the document has changed since.
    pub async fn complete(
        &self,
        snapshot: &Snapshot,
        prefix: String,
        suffix: String,
        trigger: Trigger,
    ) -> Result<Vec<String>> {
        let completer = &self.ready().completer;
        let rules = self.ready().rules();
        if !self.may_complete(snapshot) {
            return Ok(Vec::new());
        }
        let id = completer.next_id();
        // The client's `$/cancelRequest` drops this future, and the guard with it.
        let _guard = GiveUp(completer, id);
        let (answer, answered) = oneshot::channel();
        let path = Some(rules.workspace.relative(&snapshot.uri));
        let document = Document::new(path, prefix, suffix).with_context(self.context(&snapshot.uri));
        let ask = Ask { id, key: snapshot.uri.clone(), document: document.into(), trigger };
        // Nobody listens any more when the client has cancelled.
        completer.ask(ask, Box::new(move |items| drop(answer.send(items))));
        self.ready().activity.notify_one();
        let items = answered.await;
        if !self.documents.is_current(&snapshot.uri, snapshot.revision) {
            return Err(Error::content_modified());
        }
        let Ok(items) = items else {
            tracing::error!("a completion was given up");
            return Ok(Vec::new());
        };
        Ok(items.into_iter().map(|item| item.text).collect())
    }

    /// Has the prompt of a document evaluated where the next request about it is likely to be.
    pub fn warm(&self, uri: &str) {
        let (completer, rules) = (&self.ready().completer, self.ready().rules());
        let Some(snapshot) = self.documents.snapshot(uri).filter(|snapshot| self.may_complete(snapshot))
        else {
            return;
        };
        let text = snapshot.text.to_string();
        let cursor = match snapshot.cursor {
            Some(cursor) => snapshot.text.char_to_byte(cursor.min(snapshot.text.len_chars())),
            None => Service::first_cursor(&text),
        };
        let (prefix, suffix) = text.split_at(cursor);
        let document = Document::new(Some(rules.workspace.relative(uri)), prefix, suffix);
        completer.opened(uri, document.with_context(self.context(uri)));
    }

    /// A number that this connection has not used.
    pub fn next_number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    /// Whether the model may be asked about a document unasked.
    pub fn may_complete(&self, snapshot: &Snapshot) -> bool {
        !self.resident.is_paused() && self.may_read(snapshot)
    }

    /// Whether the model may be asked about a document.
    pub fn may_read(&self, snapshot: &Snapshot) -> bool {
        let rules = self.ready().rules();
        let Rules { settings, workspace, .. } = &*rules;
        settings.enabled
            && snapshot.text.len_bytes() <= DOCUMENT_BYTES_MAX
            && workspace.allows(&snapshot.uri, &snapshot.language)
    }

    /// What other open documents show, those changed or looked at last come last. Only what the editor has sent
    /// is looked at; no file is read.
    fn context(&self, uri: &str) -> Vec<ContextFile> {
        let rules = self.ready().rules();
        let Rules { workspace, options, .. } = &*rules;
        let tokens_max = options.prompt.context_tokens_max;
        if tokens_max == 0 {
            return Vec::new();
        }
        let bytes_max = tokens_max * CONTEXT_TOKEN_BYTES_MAX;
        let is_text = |snapshot: &Snapshot| {
            let length = snapshot.text.len_bytes();
            (1..=CONTEXT_BYTES_MAX).contains(&length)
                && !snapshot.text.chunks().any(|part| part.contains('\0'))
        };
        let mut files: Vec<ContextFile> = self
            .documents
            .others(uri)
            .iter()
            .filter(|other| is_text(other) && workspace.allows(&other.uri, &other.language))
            .take(CONTEXT_FILES_MAX)
            .map(|other| ContextFile {
                path: workspace.relative(&other.uri),
                text: head(&other.text, bytes_max),
            })
            .collect();
        files.reverse();
        files
    }
}

impl Ready {
    /// What holds now.
    pub fn rules(&self) -> Arc<Rules> {
        self.rules.read().expect("nothing panics with this lock").clone()
    }

    /// Takes over other settings of the editor, from the next request on; says what is wrong with them that
    /// was not wrong before. Null says nothing.
    pub fn configure(&self, given: Value) -> Vec<Problem> {
        if !given.is_null() {
            *self.given.lock().expect("nothing panics with this lock") = given;
        }
        self.apply(&self.resident.view())
    }

    /// Whether the rules are those of the model and the settings in `view`.
    pub fn is_current(&self, view: &View) -> bool {
        let rules = self.rules();
        Arc::ptr_eq(&rules.served, &view.served) && Arc::ptr_eq(&rules.base, &view.configuration)
    }

    /// Lays the settings of the editor over those of the model that answers, which may have changed; says what
    /// is wrong with them that was not wrong before.
    pub fn apply(&self, view: &View) -> Vec<Problem> {
        let given = self.given.lock().expect("nothing panics with this lock");
        let rules = Rules::new(view, &self.options, &given, &self.roots);
        let mut current = self.rules.write().expect("nothing panics with this lock");
        if !Arc::ptr_eq(&current.served, &rules.served) || current.options != rules.options {
            self.completer.configure(rules.served.engine.clone(), rules.options);
        }
        let is_new = |problem: &&Problem| !current.problems.contains(problem);
        let problems = rules.problems.iter().filter(is_new).cloned().collect();
        *current = Arc::new(rules);
        problems
    }

    /// What the client can do about settings.
    pub fn can(&self) -> CanConfigure {
        CanConfigure::of(&self.capabilities)
    }
}

impl Rules {
    fn new(view: &View, options: &Options, given: &Value, roots: &[String]) -> Self {
        let mut configuration = match &options.overrides {
            Some(overrides) => view.configuration.with_client(overrides),
            None => (*view.configuration).clone(),
        };
        let mut problems = configuration.overlay(given);
        problems.splice(..0, configuration.problems().iter().cloned());
        let settings = configuration.settings().clone();
        let workspace = Workspace::new(roots, settings.disabled.clone());
        let options = settings.options(view.served.suited);
        let (base, served) = (view.configuration.clone(), view.served.clone());
        Self { settings, workspace, problems, base, served, options }
    }
}

impl Drop for Ready {
    /// Has `status` look, and find that the session is over.
    fn drop(&mut self) {
        self.activity.notify_one();
    }
}

/// The lines at the start of `text` that have at most `bytes_max` bytes together.
fn head(text: &Rope, bytes_max: usize) -> String {
    if text.len_bytes() <= bytes_max {
        return text.to_string();
    }
    text.slice(..text.line_to_char(text.byte_to_line(bytes_max))).to_string()
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
