//! The server's capabilities, and the handler of each method.

use std::sync::{Arc, OnceLock};

use tower_lsp::gen_lsp_types::{
    CodeActionOptions, CompletionOptions, ExecuteCommandOptions, InitializeParams, InitializeResult,
    InitializedParams, MessageType, ServerCapabilities, ServerInfo, TextDocumentSyncKind,
    TextDocumentSyncOptions, WorkspaceFoldersServerCapabilities, WorkspaceOptions,
};
use tower_lsp::jsonrpc::{Error, Result};
use tower_lsp::{Client, ClientSocket, LanguageServer, LspService};

use super::connection::{Connection, Options};
use super::{
    code_action, code_action_resolve, completion, configuration, execute_command, ext, folders, hover,
    inline_completion, status, sync, watched_files, wire,
};
use crate::base::escape;
use crate::resident::Resident;

/// Characters that open the completion menu, besides those of identifiers. Few: the menu opens at each of them.
const TRIGGER_CHARACTERS: [&str; 1] = ["."];

/// Serves one connection, which exists from `initialize` on.
pub(super) struct Server {
    client: Client,
    resident: Arc<Resident>,
    options: Options,
    connection: OnceLock<Arc<Connection>>,
}

/// Routes every method to its handler.
pub(super) fn service(resident: Arc<Resident>, options: Options) -> (LspService<Server>, ClientSocket) {
    let new = |client| Server { client, resident, options, connection: OnceLock::new() };
    LspService::build_with_lifecycle_methods(new)
        .custom_method("textDocument/didOpen", |server: &Server, params| {
            sync::did_open(server.connection(), params)
        })
        .custom_method("textDocument/didChange", |server: &Server, params| {
            sync::did_change(server.connection(), params)
        })
        .custom_method("textDocument/didClose", |server: &Server, params| {
            sync::did_close(server.connection(), params)
        })
        .custom_method("workspace/didChangeConfiguration", |server: &Server, params| {
            configuration::did_change_configuration(server.connection(), params)
        })
        .custom_method("workspace/didChangeWorkspaceFolders", |server: &Server, params| {
            folders::did_change_workspace_folders(server.connection(), params)
        })
        .custom_method("workspace/didChangeWatchedFiles", |server: &Server, params| {
            watched_files::did_change_watched_files(server.connection(), params)
        })
        .custom_method("textDocument/inlineCompletion", |server: &Server, params| {
            inline_completion::inline_completion(server.connection(), params)
        })
        .custom_method("textDocument/completion", |server: &Server, params| {
            completion::completion(server.connection(), params)
        })
        .custom_method("textDocument/codeAction", |server: &Server, params| {
            code_action::code_action(server.connection(), params)
        })
        .custom_method("codeAction/resolve", |server: &Server, params| {
            code_action_resolve::code_action_resolve(server.connection(), params)
        })
        .custom_method("workspace/executeCommand", |server: &Server, params| {
            execute_command::execute_command(server.connection(), params)
        })
        .custom_method("textDocument/hover", |server: &Server, params| {
            hover::hover(server.connection(), params)
        })
        .custom_method("textDocument/didFocus", |server: &Server, params| {
            ext::did_focus(server.connection(), params)
        })
        .custom_method("textDocument/didShowCompletion", |server: &Server, params| {
            ext::did_show(server.connection(), params)
        })
        .custom_method("textDocument/didPartiallyAcceptCompletion", |server: &Server, params| {
            ext::did_partially_accept(server.connection(), params)
        })
        .custom_method("fimd/statistics", |server: &Server| ext::statistics(server.connection()))
        .custom_method(wire::MALFORMED, |_: &Server| malformed())
        .finish()
}

/// Answers a message that [`wire`] could not read.
async fn malformed() -> Result<()> {
    Err(Error::parse_error())
}

impl Server {
    fn connection(&self) -> Arc<Connection> {
        self.connection.get().expect("requests are served after `initialize` only").clone()
    }

    fn begin(&self, params: &InitializeParams) -> Arc<Connection> {
        Connection::new(self.client.clone(), self.resident.clone(), self.options.clone(), params)
    }
}

impl LanguageServer for Server {
    async fn initialize(&self, params: InitializeParams) -> Result<InitializeResult> {
        let connection = self.connection.get_or_init(|| self.begin(&params));
        Ok(InitializeResult {
            capabilities: capabilities(connection),
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
            let message = format!("fimd: {notice}");
            self.client.show_message(MessageType::Warning, escape::text(&message)).await;
        }
        configuration::warn(&self.client, &connection.settings().problems).await;
    }

    async fn shutdown(&self) -> Result<()> {
        if let Some(connection) = self.connection.get() {
            connection.shut_down();
        }
        Ok(())
    }
}

fn capabilities(connection: &Connection) -> ServerCapabilities {
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
    let folders =
        WorkspaceFoldersServerCapabilities { supported: Some(true), change_notifications: Some(true.into()) };
    ServerCapabilities {
        workspace: Some(WorkspaceOptions { workspace_folders: Some(folders), ..Default::default() }),
        position_encoding: Some(connection.encoding().kind()),
        text_document_sync: Some(sync.into()),
        inline_completion_provider: Some(true.into()),
        // A client that supports both would show the same text twice.
        completion_provider: (!connection.capabilities().inline_completion).then_some(menu),
        code_action_provider: Some(actions.into()),
        execute_command_provider: Some(commands),
        hover_provider: Some(true.into()),
        ..Default::default()
    }
}
