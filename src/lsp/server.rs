//! The server itself: what it can do, and what every request has in common.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;
use std::sync::atomic::AtomicBool;

use tokio::sync::oneshot;
use tower_lsp::LanguageServer;
use tower_lsp::gen_lsp_types::{
    CompletionOptions, DidChangeTextDocumentParams, DidCloseTextDocumentParams, DidOpenTextDocumentParams,
    InitializeParams, InitializeResult, ServerCapabilities, ServerInfo, TextDocumentSyncKind,
    TextDocumentSyncOptions,
};
use tower_lsp::jsonrpc::{Error, Result};

use super::documents::{Documents, Snapshot};
use super::position::Encoding;
use super::secret::is_secret;
use crate::complete::{self, Lines, Options, Request};
use crate::serve::Engine;

/// Most tokens of a completion that nobody asked for: a line, or a small block.
const AUTOMATIC_TOKENS_MAX: usize = 64;
/// Most tokens of a completion that was asked for.
const INVOKED_TOKENS_MAX: usize = 128;

/// Characters, besides those of words, after which clients with a completion menu ask for more. Few:
/// at each of them the menu pops up.
const TRIGGER_CHARACTERS: [&str; 1] = ["."];

/// The state of one connection.
pub struct Server {
    engine: Engine,
    options: Options,
    pub documents: Documents,
    encoding: OnceLock<Encoding>,
    /// Whether the client numbers inline triggers as early VS Code clients did; see
    /// [`Server::inline_completion`].
    pub counts_triggers_from_zero: AtomicBool,
}

/// Who wants a completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// The user, by a command.
    Invoked,
    /// The editor, because the user types.
    Automatic,
}

impl LanguageServer for Server {
    async fn initialize(&self, client: InitializeParams) -> Result<InitializeResult> {
        let encoding = *self.encoding.get_or_init(|| Encoding::negotiate(&client));
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

    async fn shutdown(&self) -> Result<()> {
        self.documents.cancel_all();
        Ok(())
    }
}

impl Server {
    pub fn new(engine: Engine, options: Options) -> Self {
        Self {
            engine,
            options,
            documents: Documents::default(),
            encoding: OnceLock::new(),
            counts_triggers_from_zero: AtomicBool::new(false),
        }
    }

    pub async fn did_open(&self, params: DidOpenTextDocumentParams) {
        let document = params.text_document;
        self.documents.open(document.uri.0, document.version, &document.text);
    }

    pub async fn did_change(&self, params: DidChangeTextDocumentParams) {
        let document = params.text_document;
        let uri = document.text_document_identifier.uri.0;
        self.documents.change(&uri, document.version, &params.content_changes, self.encoding());
    }

    pub async fn did_close(&self, params: DidCloseTextDocumentParams) {
        self.documents.close(&params.text_document.uri.0);
    }

    /// Answers a message that [`super::wire`] could not read.
    pub async fn unreadable(&self) -> Result<()> {
        Err(Error::parse_error())
    }

    /// The encoding agreed on.
    pub fn encoding(&self) -> Encoding {
        *self.encoding.get().expect("requests are served after `initialize` only")
    }

    /// The text that belongs between `prefix` and `suffix`, taken from `snapshot`; `None` when there
    /// is nothing to show. Fails only when the document has changed since.
    pub async fn complete(
        &self,
        uri: &str,
        snapshot: &Snapshot,
        prefix: String,
        suffix: String,
        trigger: Trigger,
    ) -> Result<Option<String>> {
        let path = path_of(uri);
        if is_secret(&path) {
            return Ok(None);
        }
        let (lines, max_tokens) = match trigger {
            Trigger::Invoked => (Lines::Multi, INVOKED_TOKENS_MAX),
            Trigger::Automatic => (Lines::Auto, AUTOMATIC_TOKENS_MAX),
        };
        let is_invoked = trigger == Trigger::Invoked;
        let request =
            Request { path: Some(path), lines, max_tokens, is_invoked, ..Request::new(prefix, suffix) };

        // The client's `$/cancelRequest` drops this future, and the guard with it.
        let _guard = snapshot.cancel.on_drop();
        let (answer, answered) = oneshot::channel();
        // Nobody listens any more when the client has cancelled.
        let reply = move |result| drop(answer.send(result));
        let start = || match trigger {
            Trigger::Automatic if !complete::should_offer(&request.prefix, &request.suffix) => {
                reply(Ok(None))
            }
            _ => {
                complete::run(&self.engine, self.options, uri.into(), request, snapshot.cancel.clone(), reply)
            }
        };
        // A panic in here costs this request its answer, and nothing else.
        let _ = catch_unwind(AssertUnwindSafe(start));
        let result = answered.await;
        if !self.documents.is_current(uri, snapshot.revision) {
            return Err(Error::content_modified());
        }
        match result {
            // Part of an answer to a question that the client asks anew elsewhere is no use.
            Ok(Ok(_)) if snapshot.cancel.is_cancelled() => Ok(None),
            Ok(Ok(completion)) => {
                Ok(completion.map(|completion| completion.text).filter(|text| !text.is_empty()))
            }
            Ok(Err(error)) => {
                tracing::error!("a completion failed: {error:#}");
                Ok(None)
            }
            Err(_) => {
                tracing::error!("a completion was given up");
                Ok(None)
            }
        }
    }
}

/// The path of a URI of any scheme, decoded.
fn path_of(uri: &str) -> String {
    let path = uri.split_once(':').map_or(uri, |(_, rest)| rest);
    let path = path.strip_prefix("//").map_or(path, |rest| &rest[rest.find('/').unwrap_or(0)..]);
    let path = path.split(['?', '#']).next().unwrap_or_default();
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let [byte, tail @ ..] = rest {
        let escaped = tail.get(..2).filter(|_| *byte == b'%').and_then(|hex| std::str::from_utf8(hex).ok());
        match escaped.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(value) => (bytes.push(value), rest = &tail[2..]),
            None => (bytes.push(*byte), rest = tail),
        };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris_have_paths() {
        for (uri, path) in [
            ("file:///home/me/a.rs", "/home/me/a.rs"),
            ("file://host/share/a%20b.rs", "/share/a b.rs"),
            ("file:///c%3A/%E4%B8%96.py", "/c:/世.py"),
            ("file:///home/me/%2Eenv", "/home/me/.env"),
            ("untitled:Untitled-1", "Untitled-1"),
            ("vscode-notebook-cell:/n.ipynb#W0", "/n.ipynb"),
            ("100%", "100%"),
            ("a:%zz%4", "%zz%4"),
            ("", ""),
        ] {
            assert_eq!(path_of(uri), path);
        }
    }
}
