//! The language server: the only place that names LSP types.
//!
//! `server` declares the server's capabilities and routes each method to its handler, a function of a `connection`
//! in a file of its own. Most handlers first take a `snapshot` of a document and the `settings` in effect. `complete`
//! and `assist` have what several handlers share, `ext` the custom methods, and `status` notifies the client of the
//! state of the model. Below, `capabilities` has those of the client, `documents` the open documents, `position`
//! converts position encodings, and `workspace` has the verdicts of
//! [`privacy`](crate::privacy) about them. `wire` keeps malformed messages from
//! the server.
//!
//! - A document change is applied before the first `await` of its handler: messages are handled in
//!   order up to there. No lock is held across an `await`, nor while the model runs.
//! - A document has at most one completion in flight: a newer request, and every change of the text, ends it.
//! - A completion is answered with a list, which is empty when there is nothing to show, or with an error that
//!   clients hide from the user: cancelled by the client (-32800), or the document has changed (-32801). Other
//!   failures are logged, without document text.

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
mod folders;
mod hover;
mod hover_cache;
mod inline_completion;
mod position;
mod progress;
mod server;
mod settings;
mod snapshot;
mod status;
mod sync;
mod watched_files;
pub(crate) mod wire;
mod workspace;

use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tower_lsp::Server;

pub use bridge::{ConnectReason, Duplex, bridge};
pub use connection::Options;
pub use execute_command::pause;
pub use explain::remove_left_explanations;
pub use wire::{Exit, frame, read_blocking};

use crate::resident::Resident;

/// Most handlers in flight. A waiting one costs nothing, but at the limit the server stops reading messages, `didChange`
/// and `$/cancelRequest` included.
const CONCURRENCY_MAX: usize = 256;

/// Bytes between the reader of the wire and the server.
const PIPE_BYTES: usize = 1 << 16;

/// Serves one client until it sends `exit` or closes `input`; work in flight is then cancelled.
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
    let (filtered, messages) = tokio::io::duplex(PIPE_BYTES);
    let server = Server::new(messages, output, socket).concurrency_level(CONCURRENCY_MAX);
    let (exit, ()) = tokio::join!(wire::filter(input, filtered), server.serve(service));
    exit
}
