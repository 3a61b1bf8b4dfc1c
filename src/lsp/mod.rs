//! The language server: the only place that names LSP types.
//!
//! `connection` has what one connection holds, and `settings` what counts for it. A handler is a function over
//! these, in one file for each method; `server` calls them, [`serve`] lists the methods, and `complete` and `assist`
//! have what several handlers share. `wire` keeps damaged messages away from the server, `documents` holds what
//! the editor shows, `position` translates between the editor's way of counting and ours, `workspace` knows which
//! files to leave alone, `ext` has the methods that the protocol lacks, and `status` tells the client how the model
//! is doing.
//!
//! - A document change is applied before the first `await` of its handler: messages are handled in
//!   order up to there. No lock is held across an `await`, nor while the model runs.
//! - A document has one request that waits: a newer one, and every change of the text, ends it.
//! - Every request is answered with a list, which is empty when there is nothing to show. Errors are
//!   for two cases that clients hide from the user: the client cancelled (-32800), and the document
//!   changed meanwhile (-32801). Whatever else goes wrong is logged, without document text.

mod assist;
mod bridge;
mod code_action;
mod code_action_resolve;
mod complete;
mod completion;
mod configuration;
mod connection;
mod documents;
mod execute_command;
mod explain;
mod ext;
mod hover;
mod hover_cache;
mod inline_completion;
mod position;
mod progress;
mod secret;
mod server;
mod settings;
mod status;
mod sync;
pub(crate) mod wire;
mod workspace;

use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tower_lsp::{LspService, Server};

pub use bridge::{Duplex, Need, bridge};
pub use connection::Options;
pub use wire::Ending;

use crate::resident::Resident;

/// Handlers that may be under way at the same time. Waiting ones cost nothing, but at the limit the
/// server stops reading, and with it `didChange` and `$/cancelRequest`.
const CONCURRENCY_MAX: usize = 256;

/// Bytes between the reader of the wire and the server.
const PIPE_BYTES: usize = 1 << 16;

/// Serves one client until it says `exit` or closes `input`; work that is under way is then cancelled.
///
/// A process that serves its stdin must not wait for the runtime to end afterwards
/// ([`tokio::runtime::Runtime::shutdown_background`]): a client may keep the pipe open, and the thread
/// that reads it cannot be interrupted.
pub async fn serve(
    input: impl AsyncRead + Unpin,
    output: impl AsyncWrite,
    resident: Arc<Resident>,
    options: Options,
) -> Ending {
    let (service, socket) =
        LspService::build_with_lifecycle_methods(|client| server::Server::new(client, resident, options))
            .custom_method("textDocument/didOpen", server::Server::did_open)
            .custom_method("textDocument/didChange", server::Server::did_change)
            .custom_method("textDocument/didClose", server::Server::did_close)
            .custom_method("workspace/didChangeConfiguration", server::Server::did_change_configuration)
            .custom_method("textDocument/inlineCompletion", server::Server::inline_completion)
            .custom_method("textDocument/completion", server::Server::completion)
            .custom_method("textDocument/codeAction", server::Server::code_action)
            .custom_method("codeAction/resolve", server::Server::code_action_resolve)
            .custom_method("workspace/executeCommand", server::Server::execute_command)
            .custom_method("textDocument/hover", server::Server::hover)
            .custom_method("textDocument/didFocus", server::Server::did_focus)
            .custom_method("textDocument/didShowCompletion", server::Server::did_show)
            .custom_method("textDocument/didPartiallyAcceptCompletion", server::Server::did_partially_accept)
            .custom_method("fimd/statistics", server::Server::statistics)
            .custom_method(wire::UNREADABLE, server::Server::unreadable)
            .finish();
    let (sieved, messages) = tokio::io::duplex(PIPE_BYTES);
    let server = Server::new(messages, output, socket).concurrency_level(CONCURRENCY_MAX);
    let (ending, ()) = tokio::join!(wire::sieve(input, sieved), server.serve(service));
    ending
}
