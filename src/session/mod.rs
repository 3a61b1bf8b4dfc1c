//! A model plus a past: bring it to a list of tokens, whatever it held before.

use anyhow::{Result, bail, ensure};
use serde::Serialize;

use crate::base::Cancel;
use crate::compute::Backend;
use crate::model::{Logits, Model, Sequence};

/// A model and the sequence it holds.
pub struct Session<B: Backend> {
    model: Model<B>,
    sequence: Sequence<B>,
    /// The tokens of `sequence`.
    tokens: Vec<u32>,
    /// Logits after the last token; empty when there is none or they were lost to a cancellation.
    logits: Vec<f32>,
}

/// A place in a prompt from which a later one is likely to go on differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// How many tokens stand before it.
    pub at: usize,
    /// How many tokens before it may change too: those of a word that is still being written.
    pub behind: usize,
}

/// Where the recurrent state came from that [`Session::sync`] went on with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Restored {
    /// It was the one in place, or none was needed.
    #[default]
    Live,
    /// A snapshot at this position.
    Snapshot(usize),
    /// The state before the first token.
    Start,
}

/// What [`Session::sync`] had to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Synced {
    /// Tokens that were already evaluated.
    pub reused: usize,
    /// Tokens evaluated now.
    pub evaluated: usize,
    /// Reused tokens whose recurrence alone was run again, without projections and experts.
    pub replayed: usize,
    /// What the reused tokens were restored from.
    pub restored_from: Restored,
    /// Whether it was cancelled; the session then holds what was finished.
    pub cancelled: bool,
}

impl<B: Backend> Session<B> {
    /// An empty session.
    pub fn new(mut model: Model<B>) -> Self {
        let sequence = model.sequence();
        Self { model, sequence, tokens: Vec::new(), logits: Vec::new() }
    }

    /// Makes `tokens` the evaluated sequence, so that [`Session::logits`] are those after its last
    /// token. Reuses what is there when `tokens` extends it and starts over otherwise. Fails, leaving
    /// the session as it is, when `tokens` is empty, too long, or has an id outside the vocabulary. Later
    /// calls are expected to leave `tokens` at one of the `marks`, or at its end.
    pub fn sync(&mut self, tokens: &[u32], _marks: &[Mark], cancel: &Cancel) -> Result<Synced> {
        ensure!(!tokens.is_empty(), "there are no tokens to evaluate");
        ensure!(
            tokens.len() <= self.context(),
            "{} tokens do not fit the context of {}; shorten the prompt or raise --context",
            tokens.len(),
            self.context()
        );
        let vocab = self.model.config().vocab;
        if let Some(token) = tokens.iter().find(|&&token| token as usize >= vocab) {
            bail!("token id {token} is out of range: the model has {vocab} tokens");
        }
        if cancel.is_ending() {
            return Ok(Synced { cancelled: true, ..Synced::default() });
        }
        if !tokens.starts_with(&self.tokens) || (tokens == self.tokens && self.logits.is_empty()) {
            self.reset();
        }
        let reused = self.tokens.len();
        Ok(Synced { reused, ..self.extend(&tokens[reused..], cancel) })
    }

    /// Evaluates one more token, which is inside the vocabulary.
    ///
    /// Panics when the session is full.
    pub fn push(&mut self, token: u32, cancel: &Cancel) -> Synced {
        self.extend(&[token], cancel)
    }

    fn extend(&mut self, tokens: &[u32], cancel: &Cancel) -> Synced {
        let mut synced = Synced::default();
        for chunk in tokens.chunks(self.model.options().batch_max) {
            if cancel.is_ending() {
                synced.cancelled = true;
                break;
            }
            cancel.begin_pass(self.tokens.len() + chunk.len());
            let done = self.model.forward(&mut self.sequence, chunk, Logits::Last, cancel, &mut self.logits);
            if done.is_err() {
                self.logits.clear();
                synced.cancelled = true;
                break;
            }
            self.tokens.extend_from_slice(chunk);
            synced.evaluated += chunk.len();
        }
        cancel.begin_pass(0);
        synced
    }

    /// Evaluates `tokens` from nothing and calls `each(position, logits)` with the logits after every
    /// one of them. The session is empty afterwards.
    pub fn for_each_logits(&mut self, tokens: &[u32], mut each: impl FnMut(usize, &[f32])) -> Result<()> {
        self.reset();
        let vocab = self.model.config().vocab;
        ensure!(tokens.len() <= self.context(), "the window is larger than the context");
        let mut logits = Vec::new();
        let mut position = 0;
        for chunk in tokens.chunks(self.model.options().batch_max) {
            self.model
                .forward(&mut self.sequence, chunk, Logits::All, &Cancel::new(), &mut logits)
                .expect("nobody can cancel it");
            for logits in logits.chunks_exact(vocab) {
                each(position, logits);
                position += 1;
            }
        }
        self.reset();
        Ok(())
    }

    /// The model.
    pub fn model(&self) -> &Model<B> {
        &self.model
    }

    /// Logits after the last token, `[vocab]`.
    pub fn logits(&self) -> &[f32] {
        &self.logits
    }

    /// Most tokens the session can hold.
    pub fn context(&self) -> usize {
        self.model.options().positions_max
    }

    /// Whether not one more token fits.
    pub fn is_full(&self) -> bool {
        self.tokens.len() >= self.context()
    }

    /// Forgets the past.
    pub fn reset(&mut self) {
        let fresh = self.model.sequence();
        self.model.release(std::mem::replace(&mut self.sequence, fresh));
        self.tokens.clear();
        self.logits.clear();
    }
}
