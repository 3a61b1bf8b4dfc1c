//! A cancel flag.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

/// A shared, one-way flag: once set it stays set. Work checks it between layers, prefill chunks
/// and tokens.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<State>);

#[derive(Debug, Default)]
struct State {
    /// The work that this is part of, whose flag counts for this too.
    parent: Option<Cancel>,
    /// [`ACTIVE`], [`ENDING`] or [`CANCELLED`]; only grows.
    level: AtomicU8,
    /// Prompt tokens evaluated after the forward pass in progress; 0 outside of prefill.
    next_commit: AtomicUsize,
}

const ACTIVE: u8 = 0;
const ENDING: u8 = 1;
const CANCELLED: u8 = 2;

impl Cancel {
    /// A flag that is not set.
    pub fn new() -> Self {
        Self::default()
    }

    /// A flag for part of the work: it can be set alone, and is set when this one is.
    pub fn child(&self) -> Self {
        Self(Arc::new(State { parent: Some(self.clone()), ..State::default() }))
    }

    /// Cancels the work that holds this flag.
    pub fn cancel(&self) {
        self.0.level.fetch_max(CANCELLED, Ordering::Relaxed);
    }

    /// Cancels the work that holds this flag in favour of newer work on a prompt with the same first `shared` tokens:
    /// a prefill pass over only those runs to its end, since the newer work continues from there. Otherwise typing
    /// could restart a long prefill for ever.
    pub fn supersede(&self, shared: usize) {
        let next_commit = self.0.next_commit.load(Ordering::Relaxed);
        let level = if (1..=shared).contains(&next_commit) { ENDING } else { CANCELLED };
        self.0.level.fetch_max(level, Ordering::Relaxed);
    }

    /// Records that a pass begins after which `tokens` tokens of the prompt are evaluated; 0 for none in progress.
    pub fn begin_pass(&self, tokens: usize) {
        self.0.next_commit.store(tokens, Ordering::Relaxed);
    }

    /// Whether a prefill pass is in progress that newer work may share, see [`Cancel::supersede`].
    pub fn is_prefilling(&self) -> bool {
        self.0.next_commit.load(Ordering::Relaxed) > 0 && !self.is_cancelled()
    }

    /// Whether the work is to stop at once.
    pub fn is_cancelled(&self) -> bool {
        self.level() >= CANCELLED
    }

    /// Whether the work is to stop, at once or after the pass in progress.
    pub fn is_ending(&self) -> bool {
        self.level() > ACTIVE
    }

    fn level(&self) -> u8 {
        let own = self.0.level.load(Ordering::Relaxed);
        self.0.parent.as_ref().map_or(own, |parent| own.max(parent.level()))
    }

    /// A guard that sets the flag when dropped, so that dropping a request cancels its work.
    pub fn on_drop(&self) -> CancelOnDrop {
        CancelOnDrop(self.clone())
    }
}

/// Sets its flag when dropped. See [`Cancel::on_drop`].
#[derive(Debug)]
pub struct CancelOnDrop(Cancel);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pass_over_shared_tokens_runs_to_its_end() {
        for (next_commit, shared, is_cancelled) in [(0, 9, true), (5, 4, true), (5, 5, false), (5, 9, false)]
        {
            let cancel = Cancel::new();
            cancel.begin_pass(next_commit);
            assert!(!cancel.is_ending());
            cancel.supersede(shared);
            assert!(cancel.is_ending() && cancel.is_cancelled() == is_cancelled);
            cancel.cancel();
            assert!(cancel.is_cancelled());
        }
    }

    #[test]
    fn a_part_stops_with_its_parent_and_alone() {
        let parent = Cancel::new();
        let (part, other) = (parent.child(), parent.child());
        part.cancel();
        assert!(part.is_cancelled() && !parent.is_ending() && !other.is_ending());
        parent.cancel();
        assert!(other.is_cancelled());
    }
}
