//! The server itself: what it can do, and what every request has in common.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, OnceLock, RwLock};

use ropey::Rope;
use serde_json::Value;
use tokio::sync::oneshot;
use tower_lsp::gen_lsp_types::{
    CompletionOptions, DidChangeConfigurationParams, DidChangeTextDocumentParams, DidCloseTextDocumentParams,
    DidOpenTextDocumentParams, InitializeParams, InitializeResult, InitializedParams, ServerCapabilities,
    ServerInfo, TextDocumentSyncKind, TextDocumentSyncOptions, WorkspaceFolders,
};
use tower_lsp::jsonrpc::{Error, Result};
use tower_lsp::{Client, LanguageServer};

use super::Options;
use super::configuration::{self, CanConfigure};
use super::documents::{Documents, Edit, Snapshot};
use super::position::Encoding;
use super::workspace::Workspace;
use crate::complete::driver::Completer;
use crate::complete::fim::Order;
use crate::complete::service::{Ask, AskId, Service, Trigger};
use crate::complete::{ContextFile, Request};
use crate::config::{Configuration, Problem, Settings};
use crate::serve::Engine;

/// Characters, besides those of words, after which clients with a completion menu ask for more. Few:
/// at each of them the menu pops up.
const TRIGGER_CHARACTERS: [&str; 1] = ["."];

/// A larger document is not completed.
const DOCUMENT_BYTES_MAX: usize = 8 << 20;
/// A larger one is no context for others.
const CONTEXT_BYTES_MAX: usize = 1 << 18;
/// A token of it is taken to stand for at most this many bytes.
const CONTEXT_TOKEN_BYTES_MAX: usize = 8;
/// Most other documents that are context.
const CONTEXT_FILES_MAX: usize = 8;

/// The state of one connection.
pub struct Server {
    pub client: Client,
    engine: Engine,
    options: Options,
    pub documents: Documents,
    ready: OnceLock<Arc<Ready>>,
    /// What was wrong with the settings and is not reported yet.
    problems: Mutex<Vec<Problem>>,
    /// Whether the client numbers inline triggers as early VS Code clients did; see
    /// [`Server::inline_completion`].
    pub counts_triggers_from_zero: AtomicBool,
}

/// What is known once the client has introduced itself.
pub struct Ready {
    pub encoding: Encoding,
    pub completer: Completer,
    order: Order,
    roots: Vec<String>,
    /// Replaced as a whole; whoever looks at it keeps what was current then.
    configured: RwLock<Arc<Configured>>,
    can: CanConfigure,
}

/// What follows from the settings.
pub struct Configured {
    configuration: Configuration,
    workspace: Workspace,
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
        let encoding = self.ready.get_or_init(|| Arc::new(self.introduce(&client))).encoding;
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
        Ok(InitializeResult {
            capabilities: ServerCapabilities {
                position_encoding: Some(encoding.kind()),
                text_document_sync: Some(sync.into()),
                inline_completion_provider: Some(true.into()),
                completion_provider: (!shows_inline).then_some(menu),
                ..Default::default()
            },
            server_info: Some(ServerInfo {
                name: env!("CARGO_PKG_NAME").into(),
                version: Some(env!("CARGO_PKG_VERSION").into()),
            }),
        })
    }

    async fn initialized(&self, _: InitializedParams) {
        let problems = std::mem::take(&mut *self.problems.lock().expect("nothing panics with this lock"));
        configuration::warn(&self.client, &problems).await;
        if self.ready().can.register {
            configuration::register(self.client.clone());
        }
    }

    async fn did_change_configuration(&self, params: DidChangeConfigurationParams) {
        self.reconfigure(params.settings).await;
    }

    async fn shutdown(&self) -> Result<()> {
        if let Some(ready) = self.ready.get() {
            ready.completer.closed_all();
        }
        Ok(())
    }
}

impl Server {
    pub fn new(client: Client, engine: Engine, options: Options) -> Self {
        Self {
            client,
            engine,
            options,
            documents: Documents::default(),
            ready: OnceLock::new(),
            problems: Mutex::default(),
            counts_triggers_from_zero: AtomicBool::new(false),
        }
    }

    /// Agrees with a client on how to go on, and takes over its settings.
    fn introduce(&self, client: &InitializeParams) -> Ready {
        let mut configuration = self.options.configuration.clone();
        let mut problems = configuration.problems().to_vec();
        problems.extend(client.initialization_options.iter().flat_map(|given| configuration.overlay(given)));
        for problem in &problems {
            tracing::warn!("a setting is wrong: {problem}");
        }
        *self.problems.lock().expect("nothing panics with this lock") = problems;
        let (order, roots) = (self.options.order, roots(client));
        let options = configuration.settings().options(order);
        let completer = Completer::new(self.engine.clone(), options, self.options.observer.clone());
        let configured = RwLock::new(Arc::new(Configured::new(configuration, &roots)));
        let can = CanConfigure::of(client);
        Ready { encoding: Encoding::negotiate(client), completer, order, roots, configured, can }
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
        let (completer, configured) = (&self.ready().completer, self.ready().configured());
        if !configured.may_complete(snapshot) {
            return Ok(Vec::new());
        }
        let id = completer.next_id();
        // The client's `$/cancelRequest` drops this future, and the guard with it.
        let _guard = GiveUp(completer, id);
        let (answer, answered) = oneshot::channel();
        let ask = Ask {
            id,
            key: snapshot.uri.clone(),
            path: Some(configured.workspace.relative(&snapshot.uri)),
            prefix,
            suffix,
            context: self.context(&configured, &snapshot.uri),
            trigger,
        };
        // Nobody listens any more when the client has cancelled.
        completer.ask(ask, Box::new(move |items| drop(answer.send(items))));
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
        let (completer, configured) = (&self.ready().completer, self.ready().configured());
        let snapshot = self.documents.snapshot(uri).filter(|snapshot| configured.may_complete(snapshot));
        let Some(snapshot) = snapshot else { return };
        let text = snapshot.text.to_string();
        let cursor = match snapshot.cursor {
            Some(cursor) => snapshot.text.char_to_byte(cursor.min(snapshot.text.len_chars())),
            None => Service::first_cursor(&text),
        };
        let (prefix, suffix) = text.split_at(cursor);
        let (path, context) = (Some(configured.workspace.relative(uri)), self.context(&configured, uri));
        completer.opened(uri, Request { path, context, ..Request::new(prefix, suffix) });
    }

    /// What other open documents show, those changed or looked at last come last. Only what the editor has sent
    /// is looked at; no file is read.
    fn context(&self, configured: &Configured, uri: &str) -> Vec<ContextFile> {
        let Configured { configuration, workspace } = configured;
        let tokens_max = configuration.settings().context.tokens_max;
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
    /// What follows from the settings as they are now.
    pub fn configured(&self) -> Arc<Configured> {
        self.configured.read().expect("nothing panics with this lock").clone()
    }

    /// Takes over other settings of the client, from the next request on; returns what is wrong with them.
    pub fn configure(&self, given: &Value) -> Vec<Problem> {
        let mut configured = self.configured.write().expect("nothing panics with this lock");
        let mut configuration = configured.configuration.clone();
        let problems = configuration.overlay(given);
        if configuration != configured.configuration {
            self.completer.configure(configuration.settings().options(self.order));
            *configured = Arc::new(Configured::new(configuration, &self.roots));
        }
        problems
    }

    /// What the client can do about settings.
    pub fn can(&self) -> CanConfigure {
        self.can
    }
}

impl Configured {
    fn new(configuration: Configuration, roots: &[String]) -> Self {
        let workspace = Workspace::new(roots, configuration.settings().disabled.clone());
        Self { configuration, workspace }
    }

    /// The settings.
    pub fn settings(&self) -> &Settings {
        self.configuration.settings()
    }

    /// Whether a document may be completed.
    pub fn may_complete(&self, snapshot: &Snapshot) -> bool {
        self.settings().enabled
            && snapshot.text.len_bytes() <= DOCUMENT_BYTES_MAX
            && self.workspace.allows(&snapshot.uri, &snapshot.language)
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
