//! The server itself: what it can do, and which handler answers what.

use std::sync::{Arc, OnceLock};

use serde_json::Value;
use tower_lsp::gen_lsp_types::{
    ClientCapabilities, CodeAction, CodeActionOptions, CodeActionParams, CodeActionResponse, CompletionList,
    CompletionOptions, CompletionParams, DidChangeConfigurationParams, DidChangeTextDocumentParams,
    DidCloseTextDocumentParams, DidOpenTextDocumentParams, ExecuteCommandOptions, ExecuteCommandParams,
    Hover, HoverParams, InitializeParams, InitializeResult, InitializedParams, InlineCompletionList,
    InlineCompletionParams, MessageType, ServerCapabilities, ServerInfo, TextDocumentSyncKind,
    TextDocumentSyncOptions,
};
use tower_lsp::jsonrpc::{Error, Result};
use tower_lsp::{Client, LanguageServer};

use super::connection::{Connection, Options};
use super::position::Encoding;
use super::{
    code_action, code_action_resolve, completion, configuration, execute_command, ext, hover,
    inline_completion, status, sync,
};
use crate::resident::Resident;

/// Characters, besides those of words, after which clients with a completion menu ask for more. Few:
/// at each of them the menu pops up.
const TRIGGER_CHARACTERS: [&str; 1] = ["."];

/// Serves one connection.
pub struct Server {
    client: Client,
    resident: Arc<Resident>,
    options: Options,
    /// Made when the client introduces itself.
    connection: OnceLock<Arc<Connection>>,
}

impl LanguageServer for Server {
    async fn initialize(&self, params: InitializeParams) -> Result<InitializeResult> {
        let (client, resident) = (&self.client, &self.resident);
        let connect = || Connection::new(client.clone(), resident.clone(), &self.options, &params);
        let connection = self.connection.get_or_init(|| connect().into());
        Ok(InitializeResult {
            capabilities: capabilities(&params.capabilities, connection.encoding),
            server_info: Some(ServerInfo {
                name: env!("CARGO_PKG_NAME").into(),
                version: Some(env!("CARGO_PKG_VERSION").into()),
            }),
        })
    }

    async fn initialized(&self, _: InitializedParams) {
        let Some(connection) = self.connection.get() else { return };
        status::spawn(connection);
        configuration::register(connection);
        if let Some(notice) = &self.options.notice {
            self.client.show_message(MessageType::Warning, format!("fimd: {notice}")).await;
        }
        configuration::warn(&self.client, &connection.settings().problems).await;
    }

    async fn shutdown(&self) -> Result<()> {
        if let Some(connection) = self.connection.get() {
            connection.close();
        }
        Ok(())
    }
}

impl Server {
    pub fn new(client: Client, resident: Arc<Resident>, options: Options) -> Self {
        Self { client, resident, options, connection: OnceLock::new() }
    }

    fn connection(&self) -> &Arc<Connection> {
        self.connection.get().expect("requests are served after `initialize` only")
    }

    pub async fn did_open(&self, params: DidOpenTextDocumentParams) {
        sync::did_open(self.connection(), params);
    }

    pub async fn did_change(&self, params: DidChangeTextDocumentParams) {
        sync::did_change(self.connection(), params);
    }

    pub async fn did_close(&self, params: DidCloseTextDocumentParams) {
        sync::did_close(self.connection(), params);
    }

    pub async fn did_change_configuration(&self, params: DidChangeConfigurationParams) {
        configuration::did_change_configuration(self.connection(), params).await;
    }

    pub async fn inline_completion(&self, params: InlineCompletionParams) -> Result<InlineCompletionList> {
        inline_completion::inline_completion(self.connection(), params).await
    }

    pub async fn completion(&self, params: CompletionParams) -> Result<CompletionList> {
        completion::completion(self.connection(), params).await
    }

    pub async fn code_action(&self, params: CodeActionParams) -> Result<Vec<CodeActionResponse>> {
        Ok(code_action::code_action(self.connection(), params))
    }

    pub async fn code_action_resolve(&self, action: CodeAction) -> Result<CodeAction> {
        code_action_resolve::code_action_resolve(self.connection(), action).await
    }

    pub async fn execute_command(&self, params: ExecuteCommandParams) -> Result<Value> {
        execute_command::execute_command(self.connection(), params).await
    }

    pub async fn hover(&self, params: HoverParams) -> Result<Option<Hover>> {
        Ok(hover::hover(self.connection(), params).await)
    }

    pub async fn did_focus(&self, params: Value) {
        ext::did_focus(self.connection(), &params);
    }

    pub async fn did_show(&self, params: Value) {
        ext::did_show(self.connection(), &params);
    }

    pub async fn did_partially_accept(&self, params: Value) {
        ext::did_partially_accept(self.connection(), &params);
    }

    pub async fn statistics(&self) -> Result<Value> {
        Ok(ext::statistics(self.connection()))
    }

    /// Answers a message that [`super::wire`] could not read.
    pub async fn unreadable(&self) -> Result<()> {
        Err(Error::parse_error())
    }
}

/// What the server can do for a client.
fn capabilities(client: &ClientCapabilities, encoding: Encoding) -> ServerCapabilities {
    let text_document = client.text_document.as_ref();
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
    ServerCapabilities {
        position_encoding: Some(encoding.kind()),
        text_document_sync: Some(sync.into()),
        inline_completion_provider: Some(true.into()),
        completion_provider: (!shows_inline).then_some(menu),
        code_action_provider: Some(actions.into()),
        execute_command_provider: Some(commands),
        hover_provider: Some(true.into()),
        ..Default::default()
    }
}
