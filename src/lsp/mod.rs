//! The language server: the only place that names LSP types.
//!
//! From the top: `server` says what it can do and which handler is asked for what. A handler is a function of a
//! `connection`, in one file for each method; most first take a `snapshot` of a document and the `settings` in
//! effect. `complete` and `assist` have what several handlers share, `ext` the methods that the protocol lacks, and
//! `status` tells the client how the model is doing. Below, `capabilities` says what the client can do, `documents`
//! holds what the editor shows, `position` translates between the editor's way of counting and ours, and `workspace`
//! knows which files to leave alone. `wire` keeps damaged messages away from the server.
//!
//! - A document change is applied before the first `await` of its handler: messages are handled in
//!   order up to there. No lock is held across an `await`, nor while the model runs.
//! - A document has one request that waits: a newer one, and every change of the text, ends it.
//! - Every request is answered with a list, which is empty when there is nothing to show. Errors are
//!   for two cases that clients hide from the user: the client cancelled (-32800), and the document
//!   changed meanwhile (-32801). Whatever else goes wrong is logged, without document text.

mod assist;
mod bridge;
mod capabilities;
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
mod snapshot;
mod status;
mod sync;
pub(crate) mod wire;
mod workspace;

use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tower_lsp::Server;

pub use bridge::{ConnectReason, Duplex, bridge};
pub use connection::Options;
pub use wire::{Exit, frame, read_blocking};

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
) -> Exit {
    let (service, socket) = server::service(resident, options);
    let (sieved, messages) = tokio::io::duplex(PIPE_BYTES);
    let server = Server::new(messages, output, socket).concurrency_level(CONCURRENCY_MAX);
    let (exit, ()) = tokio::join!(wire::sieve(input, sieved), server.serve(service));
    exit
}
