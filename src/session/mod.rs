//! A model with a prefix cache: evaluates a list of tokens, reusing all it can of earlier ones.
//!
//! A KV cache can be truncated at any position. The recurrent states of Gated DeltaNet cannot: they exist at
//! checkpoints, and where traces are replayed from there, because the recurrence alone runs without a projection or
//! an expert. One radix tree over token prefixes (`prefix`) holds all of it; `keep` decides where to save. A model
//! without recurrent layers needs neither checkpoints nor traces.

mod keep;
pub mod prefix;

use std::fmt;
use std::ops::Range;

use anyhow::{Error, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::base::Cancel;
use crate::compute::experts::DeviceVisits;
use crate::compute::logits::{IdSet, LogitForm, Logits, TopLogits};
use crate::compute::{Backend, BlockId, Interrupted, KV_BLOCK, Keep, SavedBytes};
use crate::model::experts::store::ExpertUsage;
use crate::model::state::{Checkpoint, Trace};
use crate::model::{LogitRows, Model, Sequence};
use keep::Plan;
use prefix::{Allocation, BlockRefs, Origin, PrefixMatch, RadixTree, Route, Sizes};

/// Most tokens of a prompt between two checkpoints, if the budget allows.
const SPACING_TOKENS: usize = 256;

/// Checkpoints that should fit the budget; with a smaller budget they are farther apart.
const CHECKPOINTS_MIN: usize = 24;

/// Limits of a session.
#[derive(Clone, Copy, Debug)]
pub struct SessionOptions {
    /// Most bytes of checkpoints and traces; KV blocks have a budget of their own,
    /// [`ModelOptions::kv_bytes_max`](crate::model::ModelOptions::kv_bytes_max). What the current prompt needs is
    /// kept beyond them.
    pub state_bytes_max: u64,
}

/// Divides `bytes_max` into a budget for KV blocks of `block_bytes` and one for checkpoints and
/// traces, in the ratio in which a long prompt uses them.
pub fn split_budget(bytes_max: u64, block_bytes: usize, saved: SavedBytes) -> (u64, u64) {
    let kv = (SPACING_TOKENS / KV_BLOCK * block_bytes) as f64;
    let states = (saved.state + keep::REPLAY_TOKENS * saved.trace) as f64;
    let kv_bytes_max = (bytes_max as f64 * kv / (kv + states).max(1.0)) as u64;
    (kv_bytes_max, bytes_max - kv_bytes_max)
}

/// The context of errors after which a session is unusable.
#[derive(Clone, Copy, Debug)]
pub struct DeviceFailure;

impl fmt::Display for DeviceFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the device failed")
    }
}

/// A model and its prefix cache.
pub struct Session<B: Backend> {
    model: Model<B>,
    options: SessionOptions,
    store: RadixTree<Checkpoint<B>, Trace<B>>,
    /// The live recurrent states.
    sequence: Sequence<B>,
    /// The tokens evaluated into `sequence`.
    sequence_tokens: Vec<u32>,
    /// The current sequence, all of it evaluated.
    tokens: Vec<u32>,
    /// Logits after the last of `tokens`, a row or none.
    logits: Logits,
    /// The ids that can be chosen.
    allowed: IdSet,
}

/// A position of a prompt where later ones are likely to diverge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Tokens before it.
    pub at: usize,
    /// Tokens before it that may change too: those of an unfinished word.
    pub unstable_tokens: usize,
}

/// Where [`Session::sync`] got its initial recurrent state from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Restored {
    /// The live one, or none was needed.
    #[default]
    Live,
    /// The checkpoint at this position.
    #[serde(rename = "point")]
    Checkpoint(usize),
    /// The state before the first token.
    Start,
}

/// What [`Session::sync`] had to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Synced {
    /// Tokens found in the prefix cache.
    pub reused: usize,
    /// Tokens evaluated now.
    pub evaluated: usize,
    /// Reused tokens whose traces were replayed, without projections and experts.
    pub replayed: usize,
    pub restored_from: Restored,
    /// Whether it was cancelled; the session then keeps the finished passes.
    pub cancelled: bool,
}

/// Memory of a prefix cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Bytes of KV blocks.
    pub kv_bytes: u64,
    /// Bytes of checkpoints and traces.
    pub state_bytes: u64,
    /// Use of the memory for experts, where it does not hold all.
    #[serde(default)]
    pub experts: Option<ExpertUsage>,
    /// Use of the GPU's memory for experts, where it does not hold all.
    #[serde(default)]
    pub device_experts: Option<DeviceVisits>,
}

impl<B: Backend> BlockRefs for Model<B> {
    fn share(&mut self, block: BlockId) {
        self.share_block(block);
    }

    fn release(&mut self, block: BlockId) {
        self.release_block(block);
    }
}

impl<B: Backend> Session<B> {
    /// An empty session. Fails when there is no memory for its recurrent states.
    pub fn new(mut model: Model<B>, options: SessionOptions) -> Result<Self> {
        let SavedBytes { state, trace } = model.saved_bytes();
        let store = RadixTree::new(Sizes { block: model.block_bytes(), checkpoint: state, trace });
        let sequence = model.sequence()?;
        let (sequence_tokens, tokens, logits) = (Vec::new(), Vec::new(), Logits::default());
        let allowed = IdSet::below(model.config().vocab);
        model.allow(&allowed);
        Ok(Self { model, options, store, sequence, sequence_tokens, tokens, logits, allowed })
    }

    /// Makes `tokens` the evaluated sequence, so that [`Session::logits`] are those after its last token:
    /// reuses, extends, rewinds or starts over, whichever costs least. Later calls are expected to diverge from
    /// `tokens` at one of the `marks`, or at its end. Fails, leaving the session as it is, when `tokens` is
    /// empty, too long, or has an id outside the vocabulary; and with [`DeviceFailure`].
    pub fn sync(&mut self, tokens: &[u32], marks: &[Mark], cancel: &Cancel) -> Result<Synced> {
        self.sync_as(LogitForm::Whole, tokens, marks, cancel)
    }

    /// [`Session::sync`] with the logits in this form.
    pub fn sync_as(
        &mut self,
        form: LogitForm,
        tokens: &[u32],
        marks: &[Mark],
        cancel: &Cancel,
    ) -> Result<Synced> {
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
        self.advance(form, tokens, marks, cancel)
    }

    /// Evaluates one more token, which is inside the vocabulary. Fails with [`DeviceFailure`].
    ///
    /// Panics when the session is full.
    pub fn push(&mut self, token: u32, cancel: &Cancel) -> Result<Synced> {
        self.push_as(LogitForm::Whole, token, cancel)
    }

    /// [`Session::push`] with the logits in this form.
    pub fn push_as(&mut self, form: LogitForm, token: u32, cancel: &Cancel) -> Result<Synced> {
        let mut tokens = std::mem::take(&mut self.tokens);
        tokens.push(token);
        let synced = self.advance(form, &tokens, &[], cancel);
        if !synced.as_ref().is_ok_and(|synced| !synced.cancelled) {
            tokens.pop();
        }
        self.tokens = tokens;
        synced
    }

    /// Evaluates `tokens` after those of the session, in one pass, and writes the logits after each to `out`. The current
    /// sequence does not change: [`Session::accept`] extends it, and rejecting the draft costs a rewind. Fails with [`DeviceFailure`].
    ///
    /// Panics when they do not fit.
    pub fn evaluate_draft(
        &mut self,
        form: LogitForm,
        tokens: &[u32],
        cancel: &Cancel,
        out: &mut Logits,
    ) -> Result<Synced> {
        self.evaluate_ahead(tokens, LogitRows::All, form, cancel, out)
    }

    /// [`Session::evaluate_draft`] without logits: what the layers alone take.
    pub fn evaluate_layers(&mut self, tokens: &[u32], cancel: &Cancel) -> Result<Synced> {
        self.evaluate_ahead(tokens, LogitRows::None, LogitForm::Whole, cancel, &mut Logits::default())
    }

    fn evaluate_ahead(
        &mut self,
        tokens: &[u32],
        wanted: LogitRows,
        form: LogitForm,
        cancel: &Cancel,
        out: &mut Logits,
    ) -> Result<Synced> {
        let all = [&self.tokens[..], tokens].concat();
        let mut found = self.store.find(&self.tokens);
        let mut synced = self.rewind(&found, &all)?;
        let plan = Plan { logits: form, ..self.plan(&found, synced.reused..all.len(), &[]) };
        found = self.store.find(&all);
        synced.cancelled = !self.pass(&mut found, &all, synced.reused, &plan, wanted, cancel, out)?;
        if !synced.cancelled {
            synced.evaluated = all.len() - synced.reused;
            if wanted == LogitRows::All {
                out.remove_first(synced.evaluated - tokens.len(), self.model.config().vocab);
            }
            self.enforce_budget();
        }
        Ok(synced)
    }

    /// Extends the sequence by the next token of the draft, with the logits after it.
    pub fn accept(&mut self, token: u32, logits: Logits) {
        self.tokens.push(token);
        self.logits = logits;
    }

    fn advance(
        &mut self,
        form: LogitForm,
        tokens: &[u32],
        marks: &[Mark],
        cancel: &Cancel,
    ) -> Result<Synced> {
        if cancel.is_ending() {
            return Ok(Synced { cancelled: true, ..Synced::default() });
        }
        let mut found = self.store.find(tokens);
        self.store.touch(&found);
        if found.len == tokens.len()
            && let Some(hidden) = self.hidden(&found).map(<[f32]>::to_vec)
        {
            if self.tokens != tokens || self.logits.form() != Some(form) {
                self.model.logits(&hidden, form, &mut self.logits).map_err(device_failure)?;
            }
            self.tokens = tokens.to_vec();
            return Ok(Synced { reused: tokens.len(), ..Synced::default() });
        }
        let mut synced = self.rewind(&found, tokens)?;
        let plan = Plan { logits: form, ..self.plan(&found, synced.reused..tokens.len(), marks) };
        let mut logits = std::mem::take(&mut self.logits);
        let mut at = synced.reused;
        while at < tokens.len() && !synced.cancelled {
            let end = tokens.len().min(at + self.model.options().batch_max);
            let wanted = if end == tokens.len() { LogitRows::Last } else { LogitRows::None };
            cancel.begin_pass(end);
            let is_done = self.pass(&mut found, &tokens[..end], at, &plan, wanted, cancel, &mut logits)?;
            at = if is_done { end } else { at };
            synced.cancelled = !is_done || at < tokens.len() && cancel.is_ending();
        }
        cancel.begin_pass(0);
        synced.evaluated = at - synced.reused;
        if !synced.cancelled {
            self.logits = logits;
        }
        self.tokens = tokens[..at].to_vec();
        self.enforce_budget();
        Ok(synced)
    }

    /// Restores the recurrent states at the last possible position of `tokens`, of which `found` is cached, without a
    /// forward pass.
    fn rewind(&mut self, found: &PrefixMatch, tokens: &[u32]) -> Result<Synced> {
        let len_max = found.len.min(tokens.len() - 1);
        if !self.model.is_recurrent() {
            self.model.restore(&mut self.sequence, len_max, None);
            self.sequence_tokens = tokens[..len_max].to_vec();
            return Ok(Synced { reused: len_max, ..Synced::default() });
        }
        let live = tokens.starts_with(&self.sequence_tokens).then_some(self.sequence_tokens.len());
        let Route { origin, at, reach } = self.store.route(found, len_max, live);
        let restored_from = match origin {
            Origin::Live => Restored::Live,
            Origin::Checkpoint => {
                let checkpoint = self.store.checkpoint(found, at).expect("routes begin at checkpoints");
                self.model.restore(&mut self.sequence, at, Some(&checkpoint.state));
                Restored::Checkpoint(at)
            }
            Origin::Start => {
                self.model.restore(&mut self.sequence, 0, None);
                Restored::Start
            }
        };
        self.sequence_tokens = tokens[..at].to_vec();
        if reach > at {
            let trace = |index| &self.store.trace(found, index).expect("routes follow traces").inputs;
            let traces: Vec<_> = (at..reach).map(trace).collect();
            self.model.replay(&mut self.sequence, &traces).map_err(device_failure)?;
            self.sequence_tokens.extend_from_slice(&tokens[at..reach]);
        }
        Ok(Synced { reused: reach, replayed: reach - at, restored_from, ..Synced::default() })
    }

    fn plan(&self, found: &PrefixMatch, evaluated: Range<usize>, marks: &[Mark]) -> Plan {
        let last_checkpoint = self.store.last_checkpoint(found, evaluated.start);
        let wanted = CHECKPOINTS_MIN as u64 * self.store.sizes().checkpoint as u64;
        let scarcity = wanted.div_ceil(self.options.state_bytes_max.max(1)).clamp(1, 1 << 16);
        let mut plan = Plan::new(evaluated, last_checkpoint, marks, SPACING_TOKENS * scarcity as usize);
        if !self.model.is_recurrent() {
            plan.checkpoints.clear();
        }
        plan
    }

    /// Evaluates `tokens[at..]` in one pass and saves what is planned. False when cancelled, and then nothing has
    /// changed. Fails with [`DeviceFailure`].
    #[expect(clippy::too_many_arguments, reason = "what to evaluate, save and return")]
    fn pass(
        &mut self,
        found: &mut PrefixMatch,
        tokens: &[u32],
        at: usize,
        plan: &Plan,
        wanted: LogitRows,
        cancel: &Cancel,
        logits: &mut Logits,
    ) -> Result<bool> {
        let Allocation { mut table, copy_on_write, new_blocks } = self.allocate(found, tokens);
        let mut added: Vec<BlockId> = Vec::new();
        for from in copy_on_write.into_iter().map(Some).chain((0..new_blocks).map(|_| None)) {
            added.push(self.model.take_block(from).expect("allocated above"));
        }
        table.extend(&added);
        let (marks, traced) = plan.rows(&(at..tokens.len()));
        let keep = Keep { marks: &marks, traced: &traced, logits: plan.logits };
        let new = &tokens[at..];
        let kept = match self.model.forward(&mut self.sequence, new, &table, keep, wanted, cancel, logits) {
            Ok(kept) => kept,
            Err(Interrupted::Cancelled) => {
                added.iter().for_each(|&block| self.model.release_block(block));
                return Ok(false);
            }
            Err(interrupted) => return Err(device_failure(interrupted)),
        };
        self.sequence_tokens.extend_from_slice(new);
        self.store.extend(&mut self.model, found, tokens, copy_on_write.is_some(), &added);
        for (mark, checkpoint) in marks.into_iter().zip(kept.checkpoints) {
            self.store.put_checkpoint(found, at + mark, checkpoint);
        }
        for (row, trace) in traced.into_iter().flatten().zip(kept.traces) {
            self.store.put_trace(found, at + row, trace);
        }
        Ok(true)
    }

    /// The KV blocks for evaluating `tokens`; evicts others where too few are free.
    fn allocate(&mut self, found: &mut PrefixMatch, tokens: &[u32]) -> Allocation {
        loop {
            let allocation = self.store.allocation(found, tokens.len());
            let missing = allocation.new_blocks + usize::from(allocation.copy_on_write.is_some());
            if missing <= self.model.blocks().total() - self.model.blocks().used() {
                return allocation;
            }
            let kept = &tokens[..found.len.min(tokens.len())];
            assert!(self.store.evict(&mut self.model, kept, true), "one sequence always fits");
            *found = self.store.find(kept);
        }
    }

    fn enforce_budget(&mut self) {
        loop {
            let Usage { kv_bytes, state_bytes, .. } = self.usage();
            let has_many_states = state_bytes > self.options.state_bytes_max;
            let has_many_blocks = kv_bytes > self.model.options().kv_bytes_max;
            let is_full = has_many_states || has_many_blocks || self.store.is_crowded();
            if !(is_full && self.store.evict(&mut self.model, &self.tokens, !has_many_states)) {
                return;
            }
        }
    }

    /// The activation after the last layer at the end of `found`, where it is saved.
    fn hidden(&self, found: &PrefixMatch) -> Option<&[f32]> {
        let trace = self.store.trace(found, found.len.checked_sub(1)?).map(|trace| &trace.hidden[..]);
        trace.or_else(|| self.store.checkpoint(found, found.len).map(|checkpoint| &checkpoint.hidden[..]))
    }

    /// Evaluates `tokens` from the start and calls `each(position, logits)` with the logits after every
    /// one of them. The session is empty afterwards.
    pub fn for_each_logits(&mut self, tokens: &[u32], mut each: impl FnMut(usize, &[f32])) -> Result<()> {
        self.reset();
        let vocab = self.model.config().vocab;
        ensure!(tokens.len() <= self.context(), "the window is larger than the context");
        let (mut logits, mut found) = (Logits::default(), self.store.find(&[]));
        for at in (0..tokens.len()).step_by(self.model.options().batch_max) {
            let end = tokens.len().min(at + self.model.options().batch_max);
            let (plan, cancel) = (Plan::default(), Cancel::new());
            let prompt = &tokens[..end];
            let is_done = self.pass(&mut found, prompt, at, &plan, LogitRows::All, &cancel, &mut logits)?;
            assert!(is_done, "nothing can cancel it");
            for (row, logits) in logits.whole.chunks_exact(vocab).enumerate() {
                each(at + row, logits);
            }
        }
        self.reset();
        Ok(())
    }

    pub fn model(&self) -> &Model<B> {
        &self.model
    }

    /// Logits after the last token, `[vocab]`; empty where they are in another form.
    pub fn logits(&self) -> &[f32] {
        &self.logits.whole
    }

    /// The same as [`LogitForm::Top`], where they are in this form.
    pub fn top_logits(&self) -> Option<&TopLogits> {
        self.logits.top.first()
    }

    /// Makes these the ids that can be chosen, which [`TopLogits`] depend on; all until then.
    pub fn allow(&mut self, ids: &IdSet) {
        if self.allowed != *ids {
            self.allowed = ids.clone();
            self.model.allow(ids);
            self.logits.top.clear();
        }
    }

    /// Memory of the prefix cache.
    pub fn usage(&self) -> Usage {
        let kv_bytes = self.model.blocks().used() as u64 * self.model.block_bytes() as u64;
        Usage {
            kv_bytes,
            state_bytes: self.store.bytes() as u64,
            experts: self.model.expert_usage(),
            device_experts: self.model.expert_visits(),
        }
    }

    /// Most tokens of a sequence.
    pub fn context(&self) -> usize {
        self.model.options().positions_max
    }

    /// The current sequence.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Whether not one more token fits.
    pub fn is_full(&self) -> bool {
        self.tokens.len() >= self.context()
    }

    /// Empties the prefix cache and the sequence.
    pub fn reset(&mut self) {
        self.model.free_blocks();
        self.store = RadixTree::new(self.store.sizes());
        self.model.restore(&mut self.sequence, 0, None);
        self.sequence_tokens.clear();
        self.tokens.clear();
        self.logits.clear();
    }
}

fn device_failure(interrupted: Interrupted) -> Error {
    match interrupted {
        Interrupted::Device(error) => error.context(DeviceFailure),
        Interrupted::Cancelled => unreachable!("a pass that nothing can cancel"),
    }
}
