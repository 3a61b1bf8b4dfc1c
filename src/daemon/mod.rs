//! One process per user that holds the model, for all editors and commands.
//!
//! `host` is that process, `peer` one connection to it, `state` what connections share, and `system` sockets, signals
//! and file changes. Clients connect by `client` (one request) or by `connect` (an editor), which starts the daemon by
//! `launch`; `message` is the protocol, and `runtime_dir` the folder of the socket.

mod client;
mod connect;
mod host;
mod last_words;
mod launch;
mod message;
mod peer;
mod runtime_dir;
mod state;
mod system;

pub use client::{Client, stop};
pub use connect::connect_editor;
pub use host::{Configure, run};
pub use launch::{launch, start};
pub use message::{
    CompletionRequest, Generation, ModelOverrides, Purpose, Request, Response, Status, absolute,
};
pub use runtime_dir::RuntimeDir;
