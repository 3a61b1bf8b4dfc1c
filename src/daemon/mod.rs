//! One process per user that holds the model, for all editors and commands.
//!
//! `host` is that process, `peer` one connection to it, `state` what connections share, and `system` what they need
//! of the system. Others reach it through `client` (one request) and `connect` (an editor), which starts it by `launch`;
//! `message` is what they say to one another, and `place` where they meet.

mod client;
mod connect;
mod host;
mod launch;
mod message;
mod peer;
mod place;
mod state;
mod system;

pub use client::{Client, stop};
pub use connect::connect_editor;
pub use host::{Configure, run};
pub use launch::launch;
pub use message::{Answer, Generation, Place as Cursor, Purpose, Request, Status, Wishes, absolute};
pub use place::Place;
