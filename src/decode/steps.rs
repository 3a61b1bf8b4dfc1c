//! Evaluating the tokens that were chosen, several at a time where a draft at them comes true.

use std::collections::VecDeque;
use std::time::Instant;

use anyhow::Result;

use super::drafts::{self, DRAFT_TOKENS_MAX, DraftCost};
use crate::base::Cancel;
use crate::base::timings::milliseconds;
use crate::compute::Backend;
use crate::session::Session;

/// The steps of one generation.
pub(super) struct Steps<'a> {
    draft_cost: &'a mut DraftCost,
    /// Tokens that are evaluated, but not chosen yet.
    draft: VecDeque<u32>,
    /// Logits after each of the evaluated tokens, and how many of these were chosen.
    rows: Vec<f32>,
    chosen: usize,
    /// Time that the draft has taken so far.
    spent_ms: f64,
    /// Tokens drafted.
    pub drafted: usize,
    /// Guessed tokens that were then chosen.
    pub accepted: usize,
}

impl<'a> Steps<'a> {
    /// No step yet.
    pub(super) fn new(draft_cost: &'a mut DraftCost) -> Self {
        Self {
            draft_cost,
            draft: VecDeque::new(),
            rows: Vec::new(),
            chosen: 0,
            spent_ms: 0.0,
            drafted: 0,
            accepted: 0,
        }
    }

    /// Makes `id` the session's last token; `wanted_max` more may follow it. False when it was cancelled. Fails
    /// when the device does.
    pub(super) fn take<B: Backend>(
        &mut self,
        session: &mut Session<B>,
        id: u32,
        wanted_max: usize,
        cancel: &Cancel,
    ) -> Result<bool> {
        let was_drafted = !self.draft.is_empty();
        if self.draft.front() == Some(&id) {
            self.draft.pop_front();
            self.accepted += 1;
            self.accept(session, id);
            return Ok(true);
        }
        self.draft.clear();
        let room = session.context() - session.tokens().len() - 1;
        let draft_max = room.min(session.model().options().batch_max - 1).min(DRAFT_TOKENS_MAX);
        let known = [session.tokens(), &[id]].concat();
        let draft = drafts::look_up(&known, wanted_max.min(draft_max));
        let started = Instant::now();
        if !was_drafted && !draft.is_empty() && self.draft_cost.wants_draft() {
            let ahead = [&[id], draft].concat();
            if session.look_ahead(&ahead, cancel, &mut self.rows)?.cancelled {
                return Ok(false);
            }
            (self.draft, self.chosen) = (draft.iter().copied().collect(), 0);
            self.drafted += draft.len();
            self.spent_ms = milliseconds(started.elapsed());
            self.accept(session, id);
            return Ok(true);
        }
        let synced = session.push(id, cancel)?;
        let ms = milliseconds(started.elapsed());
        if was_drafted {
            // Going back to where the draft went wrong is part of its cost.
            self.draft_cost.note_draft(self.spent_ms + ms, self.chosen + 1);
        } else if (synced.evaluated, synced.replayed) == (1, 0) {
            self.draft_cost.note_single(ms);
        }
        Ok(!synced.cancelled)
    }

    /// Moves the session over an evaluated token.
    fn accept<B: Backend>(&mut self, session: &mut Session<B>, id: u32) {
        let vocab = session.model().config().vocab;
        session.accept(id, &self.rows[self.chosen * vocab..][..vocab]);
        self.chosen += 1;
        if self.draft.is_empty() {
            self.draft_cost.note_draft(self.spent_ms, self.chosen);
        }
    }
}
