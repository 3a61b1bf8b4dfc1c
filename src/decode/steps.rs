//! Evaluates chosen tokens, several in one pass where a draft is accepted.

use std::collections::VecDeque;
use std::time::Instant;

use anyhow::Result;

use super::drafts::{self, DRAFT_TOKENS_MAX, DraftCost};
use crate::base::Cancel;
use crate::base::timings::milliseconds;
use crate::compute::Backend;
use crate::compute::logits::{LogitForm, Logits};
use crate::session::Session;

/// The steps of one generation.
pub(super) struct Steps<'a> {
    draft_cost: &'a mut DraftCost,
    /// Evaluated tokens of the draft that are not chosen yet.
    draft: VecDeque<u32>,
    /// Logits after each evaluated token, and the number of tokens chosen.
    rows: Logits,
    chosen: usize,
    /// Milliseconds that the draft has taken so far.
    spent_ms: f64,
    /// Tokens drafted.
    pub drafted: usize,
    /// Drafted tokens that were accepted.
    pub accepted: usize,
}

impl<'a> Steps<'a> {
    pub(super) fn new(draft_cost: &'a mut DraftCost) -> Self {
        Self {
            draft_cost,
            draft: VecDeque::new(),
            rows: Logits::default(),
            chosen: 0,
            spent_ms: 0.0,
            drafted: 0,
            accepted: 0,
        }
    }

    /// Makes `id` the session's last token, whose logits have the form `form`; at most `tokens_max` more may follow. False when
    /// cancelled. Fails when the device does.
    pub(super) fn take<B: Backend>(
        &mut self,
        session: &mut Session<B>,
        id: u32,
        tokens_max: usize,
        form: LogitForm,
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
        let free = session.context() - session.tokens().len() - 1;
        let draft_max = free.min(session.model().options().batch_max - 1).min(DRAFT_TOKENS_MAX);
        let tokens = [session.tokens(), &[id]].concat();
        let draft = drafts::look_up(&tokens, tokens_max.min(draft_max));
        let started = Instant::now();
        if !was_drafted && !draft.is_empty() && self.draft_cost.should_draft() {
            let batch = [&[id], draft].concat();
            if session.evaluate_draft(form, &batch, cancel, &mut self.rows)?.cancelled {
                return Ok(false);
            }
            (self.draft, self.chosen) = (draft.iter().copied().collect(), 0);
            self.drafted += draft.len();
            self.spent_ms = milliseconds(started.elapsed());
            self.accept(session, id);
            return Ok(true);
        }
        let synced = session.push_as(form, id, cancel)?;
        let ms = milliseconds(started.elapsed());
        if was_drafted {
            // The rewind after a rejected token is part of the cost of its draft.
            self.draft_cost.record_draft(self.spent_ms + ms, self.chosen + 1);
        } else if (synced.evaluated, synced.replayed) == (1, 0) {
            self.draft_cost.record_single(ms);
        }
        Ok(!synced.cancelled)
    }

    /// Extends the session by an evaluated token.
    fn accept<B: Backend>(&mut self, session: &mut Session<B>, id: u32) {
        let vocab = session.model().config().vocab;
        session.accept(id, self.rows.row(self.chosen, vocab));
        self.chosen += 1;
        if self.draft.is_empty() {
            self.draft_cost.record_draft(self.spent_ms, self.chosen);
        }
    }
}
