//! One process per user that holds the model, for all editors and commands.
//!
//! `host` is that process, `peer` one connection to it, `state` what connections share, and `system` what they need
//! of the system; `client` is how others reach it, `message` what they say to one another, and `place` where they meet.

mod client;
mod host;
mod message;
mod peer;
mod place;
mod state;
mod system;

pub use client::{Client, connect_editor, launch, stop};
pub use host::{Configure, run};
pub use message::{Answer, Generation, Place as Cursor, Purpose, Request, Status, Wishes, absolute};
pub use place::Place;
