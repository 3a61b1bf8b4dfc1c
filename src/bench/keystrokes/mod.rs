//! `fimd bench keystrokes`: the cost of a keystroke, measured by replaying typing sessions.

pub mod client;
pub mod infill;
pub mod plot;
pub mod replay;
pub mod report;
pub mod session;
pub mod soak;
pub mod typist;

use anyhow::Result;

use crate::complete::fim::Order;
use replay::{Peer, replay};
use report::Run;
use session::Session;
use typist::Typist;

/// What determines the keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// The script of the session.
    Script,
    /// A typist who follows the model's suggestions.
    Oracle,
}

/// Replays `sessions` one after the other with `peer`, named `server` in the report, whose requests have this prompt
/// order. `say` reports progress.
pub fn run(
    peer: &mut dyn Peer,
    server: &str,
    order: Order,
    sessions: &[Session],
    who: Who,
    pace: f64,
    say: &dyn Fn(String),
) -> Result<Run> {
    let mut replayed = Vec::new();
    for session in sessions {
        say(format!("{server}, {}: {}", order.name(), session.name));
        let typist = match who {
            Who::Script => Typist::script(session),
            Who::Oracle => Typist::oracle(session),
        };
        replayed.push(replay(peer, session, typist, pace)?);
    }
    Ok(Run::new(server.into(), order, replayed))
}
