//! Evaluating the tokens that were chosen, several at a time where a guess at them comes true.

use std::collections::VecDeque;
use std::time::Instant;

use anyhow::Result;

use super::drafts::{self, DRAFT_TOKENS_MAX, Pace};
use crate::base::Cancel;
use crate::base::timings::milliseconds;
use crate::compute::Backend;
use crate::session::Session;

/// The steps of one generation.
pub struct Steps<'a> {
    pace: &'a mut Pace,
    /// Tokens that are evaluated, but not chosen yet.
    guess: VecDeque<u32>,
    /// Logits after each of the evaluated tokens, and how many of these were chosen.
    rows: Vec<f32>,
    chosen: usize,
    /// Time that the guess has taken so far.
    spent_ms: f64,
    /// Tokens guessed.
    pub guessed: usize,
    /// Guessed tokens that were then chosen.
    pub accepted: usize,
}

impl<'a> Steps<'a> {
    /// No step yet.
    pub fn new(pace: &'a mut Pace) -> Self {
        Self {
            pace,
            guess: VecDeque::new(),
            rows: Vec::new(),
            chosen: 0,
            spent_ms: 0.0,
            guessed: 0,
            accepted: 0,
        }
    }

    /// Makes `id` the session's last token; `wanted_max` more may follow it. False when it was cancelled. Fails
    /// when the device does.
    pub fn take<B: Backend>(
        &mut self,
        session: &mut Session<B>,
        id: u32,
        wanted_max: usize,
        cancel: &Cancel,
    ) -> Result<bool> {
        let was_guessed = !self.guess.is_empty();
        if self.guess.front() == Some(&id) {
            self.guess.pop_front();
            self.accepted += 1;
            self.accept(session, id);
            return Ok(true);
        }
        self.guess.clear();
        let room = session.context() - session.tokens().len() - 1;
        let guess_max = room.min(session.model().options().batch_max - 1).min(DRAFT_TOKENS_MAX);
        let known = [session.tokens(), &[id]].concat();
        let guess = drafts::look_up(&known, wanted_max.min(guess_max));
        let started = Instant::now();
        if !was_guessed && !guess.is_empty() && self.pace.wants_draft() {
            let ahead = [&[id], guess].concat();
            if session.look_ahead(&ahead, cancel, &mut self.rows)?.cancelled {
                return Ok(false);
            }
            (self.guess, self.chosen) = (guess.iter().copied().collect(), 0);
            self.guessed += guess.len();
            self.spent_ms = milliseconds(started.elapsed());
            self.accept(session, id);
            return Ok(true);
        }
        let synced = session.push(id, cancel)?;
        let ms = milliseconds(started.elapsed());
        if was_guessed {
            // Going back to where the guess went wrong is part of its cost.
            self.pace.note_draft(self.spent_ms + ms, self.chosen + 1);
        } else if (synced.evaluated, synced.replayed) == (1, 0) {
            self.pace.note_single(ms);
        }
        Ok(!synced.cancelled)
    }

    /// Moves the session over an evaluated token.
    fn accept<B: Backend>(&mut self, session: &mut Session<B>, id: u32) {
        let vocab = session.model().config().vocab;
        session.accept(id, &self.rows[self.chosen * vocab..][..vocab]);
        self.chosen += 1;
        if self.guess.is_empty() {
            self.pace.note_draft(self.spent_ms, self.chosen);
        }
    }
}
