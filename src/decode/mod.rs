//! Decoding: the generation loop, sampling, speculative decoding and stop rules.

pub mod drafts;
pub mod sample;
mod steps;
pub mod stop;

use std::time::Instant;

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use crate::base::timings::milliseconds;
use crate::base::{Cancel, Timings};
use crate::compute::Backend;
use crate::compute::logits::{IdSet, LogitForm, TOP_LOGITS, TopLogits, log_sum_exp};
use crate::model::Tokenizer;
use crate::model::tokenizer::TextStream;
use crate::model::tokenizer::specials::{Cut, SpecialsCut, TextKind};
use crate::session::{Mark, Session, Synced};
use drafts::DraftCost;
use sample::{Sampler, Sampling};
use steps::Steps;
use stop::Stop;

/// One generation: a prompt, and how to decode and stop.
#[derive(Clone, Debug)]
pub struct Task {
    /// The whole prompt as token ids, not empty.
    pub prompt: Vec<u32>,
    /// Token healing: text that the generation has to begin with, usually empty. It is the end of the prompt's text,
    /// whose tokens depend on what follows (see [`Tokenizer::encode_open`]).
    pub forced_prefix: String,
    /// Tokens from a pre-empted run of this task, with their log-probabilities, to resume after.
    pub resumed: Vec<(u32, f32)>,
    /// Where later prompts are likely to diverge from this one.
    pub marks: Vec<Mark>,
    /// Most tokens to generate; 0 only evaluates the prompt.
    pub max_tokens: usize,
    /// Time limits.
    pub budget: Budget,
    /// Number of alternatives, at least one: each begins with the next likeliest token.
    pub alternatives: usize,
    /// How the next token is chosen.
    pub sampling: Sampling,
    /// Stop tokens. They are not part of the text.
    pub stop_ids: Vec<u32>,
    /// The stop rule.
    pub stop: Stop,
    /// Whether the spelling of a special token ends the generation too, and in what kind of text.
    pub ends_at_specials: Option<TextKind>,
    /// Number of the likeliest tokens to report at each position.
    pub top_logprobs: usize,
}

impl Task {
    /// Greedy decoding of at most `max_tokens` tokens.
    pub fn greedy(prompt: Vec<u32>, max_tokens: usize) -> Self {
        Self {
            prompt,
            forced_prefix: String::new(),
            resumed: Vec::new(),
            marks: Vec::new(),
            max_tokens,
            budget: Budget::default(),
            alternatives: 1,
            sampling: Sampling::GREEDY,
            stop_ids: Vec::new(),
            stop: Stop::none(),
            ends_at_specials: None,
            top_logprobs: 0,
        }
    }

    /// Makes the next run resume after the tokens of a pre-empted one. A task with several alternatives, or with
    /// `top_logprobs`, starts over.
    pub fn resume_after(&mut self, interrupted: &Generated) {
        let can_resume = self.alternatives == 1 && self.top_logprobs == 0;
        if can_resume && interrupted.ids.len() > self.resumed.len() {
            self.resumed =
                interrupted.ids.iter().copied().zip(interrupted.logprobs.iter().copied()).collect();
        }
    }
}

/// Time limits of a generation, which then ends with the text so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Budget {
    /// Soft limit: stop at the end of a line.
    pub line_until: Option<Instant>,
    /// Hard limit: stop at any token.
    pub until: Option<Instant>,
}

/// Why a generation stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// The model produced one of the stop tokens.
    EndToken,
    /// The stop rule cut the text.
    Rule,
    /// `max_tokens` were generated.
    Length,
    /// The context is full.
    Context,
    /// A limit of its [`Budget`] has passed.
    Time,
    /// The request was cancelled; the text is incomplete.
    Cancelled,
}

/// The result of a generation.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Generated {
    /// Generated ids, without the stop token.
    pub ids: Vec<u32>,
    /// Their text after [`Task::forced_prefix`], cut by the stop rule; empty without a tokenizer.
    pub text: String,
    /// Natural log-probability of each id under the model (temperature 1), with ids masked that
    /// have no text or contradict [`Task::forced_prefix`]: forced text says nothing about the model.
    pub logprobs: Vec<f32>,
    /// For each position, the likeliest ids with their log-probabilities; the first entry is the
    /// distribution right after the prompt.
    pub top_logprobs: Vec<Vec<(u32, f32)>>,
    pub stop: StopReason,
    /// Tokens of verified drafts.
    pub drafted: usize,
    /// Drafted tokens that were accepted.
    pub accepted: usize,
    /// How much of the prompt was reused.
    pub synced: Synced,
    /// Where the time went.
    pub timings: Timings,
}

impl From<Cut> for StopReason {
    fn from(cut: Cut) -> Self {
        match cut {
            Cut::Token => Self::EndToken,
            Cut::Damage => Self::Length,
        }
    }
}

impl Budget {
    /// How much of `text` to keep if a limit has passed, in bytes.
    pub fn check(&self, text: &str) -> Option<usize> {
        let is_over = |until: Option<Instant>| until.is_some_and(|until| Instant::now() >= until);
        if is_over(self.until) {
            return Some(text.len());
        }
        let last_line = text.trim_end().rfind('\n').filter(|&end| !text[..end].trim().is_empty());
        last_line.filter(|_| is_over(self.line_until))
    }
}

impl Generated {
    /// Without tokens, for this reason.
    pub fn empty(stop: StopReason) -> Self {
        Self {
            ids: Vec::new(),
            text: String::new(),
            logprobs: Vec::new(),
            top_logprobs: Vec::new(),
            stop,
            drafted: 0,
            accepted: 0,
            synced: Synced::default(),
            timings: Timings::default(),
        }
    }

    /// Mean log-probability of the generated tokens, or 0 when there are none.
    pub fn mean_logprob(&self) -> f32 {
        if self.logprobs.is_empty() {
            0.0
        } else {
            self.logprobs.iter().sum::<f32>() / self.logprobs.len() as f32
        }
    }
}

/// Runs `task` on `session` for each of its alternatives, the likeliest first; there is at least one. `show` receives
/// the first only.
pub fn alternatives<B: Backend>(
    session: &mut Session<B>,
    tokenizer: Option<&Tokenizer>,
    task: &Task,
    draft_cost: &mut DraftCost,
    cancel: &Cancel,
    show: &mut dyn FnMut(&str),
) -> Result<Vec<Generated>> {
    let mut first = Vec::new();
    let mut all =
        vec![run(session, tokenizer, task, draft_cost, cancel, &mut FirstToken::Record(&mut first), show)?];
    for &id in first.iter().skip(1) {
        if cancel.is_ending() {
            break;
        }
        all.push(run(session, tokenizer, task, draft_cost, cancel, &mut FirstToken::Force(id), &mut |_| {})?);
    }
    Ok(all)
}

/// How to choose the first token.
enum FirstToken<'a> {
    /// As usual, and record the likeliest ones, it included.
    Record(&'a mut Vec<u32>),
    /// This one.
    Force(u32),
}

/// Runs `task` on `session`, without its alternatives. Ids without text in `tokenizer` are never chosen. `show` receives
/// text as it is generated, before any stop rule cuts it. `draft_cost` measures whether drafts pay. A cancel takes effect
/// between layers and between tokens.
pub fn generate<B: Backend>(
    session: &mut Session<B>,
    tokenizer: Option<&Tokenizer>,
    task: &Task,
    draft_cost: &mut DraftCost,
    cancel: &Cancel,
    show: &mut dyn FnMut(&str),
) -> Result<Generated> {
    run(session, tokenizer, task, draft_cost, cancel, &mut FirstToken::Record(&mut Vec::new()), show)
}

fn run<B: Backend>(
    session: &mut Session<B>,
    tokenizer: Option<&Tokenizer>,
    task: &Task,
    draft_cost: &mut DraftCost,
    cancel: &Cancel,
    first: &mut FirstToken,
    show: &mut dyn FnMut(&str),
) -> Result<Generated> {
    ensure!(!task.prompt.is_empty(), "the prompt is empty: give at least one token");
    let mut run = Run {
        session,
        tokenizer,
        task,
        cancel,
        show,
        started: Instant::now(),
        sampler: Sampler::new(&task.sampling),
        writer: Writer::new(&task.forced_prefix, task.ends_at_specials),
        stop: task.stop.clone(),
        steps: Steps::new(draft_cost),
        max_tokens: task.max_tokens,
        out: Generated::empty(StopReason::Length),
    };
    let ids = tokenizer.map_or_else(|| IdSet::below(run.session.model().config().vocab), Tokenizer::ids);
    run.session.allow(&ids);
    if run.prefill(first)? {
        run.resume();
        run.decode(first)?;
    }
    Ok(run.out)
}

/// A chosen token.
struct Choice {
    id: u32,
    logit: f32,
    /// The likeliest tokens with their logits, at least [`Run::recorded`].
    likeliest: Vec<(u32, f32)>,
    /// Logarithm of the sum of the exponentials of all logits.
    log_sum_exp: f32,
}

/// A generation in progress.
struct Run<'a, B: Backend> {
    session: &'a mut Session<B>,
    tokenizer: Option<&'a Tokenizer>,
    task: &'a Task,
    cancel: &'a Cancel,
    show: &'a mut dyn FnMut(&str),
    started: Instant,
    sampler: Sampler,
    writer: Writer<'a>,
    stop: Stop,
    steps: Steps<'a>,
    /// [`Task::max_tokens`], and the tokens of the forced prefix.
    max_tokens: usize,
    out: Generated,
}

impl<B: Backend> Run<'_, B> {
    /// Evaluates the prompt and the resumed tokens; false when cancelled.
    fn prefill(&mut self, first: &FirstToken) -> Result<bool> {
        let (mut prompt, mut marks) = (self.task.prompt.clone(), self.task.marks.clone());
        if !self.task.resumed.is_empty() {
            prompt.extend(self.task.resumed.iter().map(|&(id, _)| id));
            marks.push(Mark { at: prompt.len(), unstable_tokens: 0 });
        }
        let synced = self.session.sync_as(self.form(first), &prompt, &marks, self.cancel)?;
        self.out.synced = synced;
        self.out.timings.prefill_tokens = synced.evaluated;
        self.out.timings.prefill_ms = milliseconds(self.started.elapsed());
        if synced.cancelled {
            self.out.stop = StopReason::Cancelled;
        }
        Ok(!synced.cancelled)
    }

    /// Restores the text of a pre-empted run.
    fn resume(&mut self) {
        self.sampler.skip(self.task.resumed.len());
        for &(id, logprob) in &self.task.resumed {
            self.out.ids.push(id);
            self.out.logprobs.push(logprob);
            if let Some(text) = self.write(id) {
                self.out.text.push_str(&text);
                self.stop.check(&self.out.text);
            }
        }
    }

    fn decode(&mut self, first: &mut FirstToken) -> Result<()> {
        let prefilled = Instant::now();
        while self.out.ids.len() < self.max_tokens {
            let Some(stop) = self.step(first)? else { continue };
            self.out.stop = stop;
            break;
        }
        let out = &mut self.out;
        (out.drafted, out.accepted) = (self.steps.drafted, self.steps.accepted);
        if !matches!(out.stop, StopReason::Rule | StopReason::Time | StopReason::Cancelled) {
            let rest = self.writer.specials.finish();
            (self.show)(&rest);
            out.text.push_str(&rest);
        }
        out.timings.decode_tokens = out.ids.len();
        out.timings.decode_ms = milliseconds(prefilled.elapsed());
        Ok(())
    }

    /// Generates a token; returns the stop reason if it is the last.
    fn step(&mut self, first: &mut FirstToken) -> Result<Option<StopReason>> {
        let (id, logprob) = self.choose(first)?;
        if self.task.stop_ids.contains(&id) {
            return Ok(Some(StopReason::EndToken));
        }
        if self.out.ids.is_empty() {
            self.out.timings.first_token_ms = milliseconds(self.started.elapsed());
        }
        self.out.ids.push(id);
        self.out.logprobs.push(logprob);
        if let Some(text) = self.write(id) {
            (self.show)(&text);
            self.out.text.push_str(&text);
            if let Some(length) = self.stop.check(&self.out.text) {
                self.out.text.truncate(length);
                return Ok(Some(StopReason::Rule));
            }
            if let Some(cut) = self.writer.specials.cut() {
                return Ok(Some(cut.into()));
            }
        }
        if let Some(stop) = self.limit() {
            return Ok(Some(stop));
        }
        let is_forced = !self.writer.forced.is_empty();
        let wanted_max = if is_forced { 0 } else { self.max_tokens - self.out.ids.len() - 1 };
        let is_evaluated = self.steps.take(self.session, id, wanted_max, self.form(first), self.cancel)?;
        Ok((!is_evaluated).then_some(StopReason::Cancelled))
    }

    /// Likeliest tokens that the next choice records.
    fn recorded(&self) -> usize {
        let alternatives = if self.out.ids.is_empty() { self.task.alternatives } else { 1 };
        self.task.top_logprobs.max(if alternatives > 1 { alternatives } else { 0 })
    }

    /// What the next choice needs of the logits.
    fn form(&self, first: &FirstToken) -> LogitForm {
        let is_named = self.out.ids.is_empty() && matches!(first, FirstToken::Force(_));
        let is_greedy = self.task.sampling.temperature <= 0.0 && self.writer.forced.is_empty() && !is_named;
        if is_greedy && self.recorded() <= TOP_LOGITS { LogitForm::Top } else { LogitForm::Whole }
    }

    /// The next token and its log-probability.
    fn choose(&mut self, first: &mut FirstToken) -> Result<(u32, f32)> {
        let Choice { id, logit, mut likeliest, log_sum_exp } = self.next_choice(first)?;
        if let FirstToken::Record(likeliest_ids) = first
            && self.out.ids.is_empty()
            && self.task.alternatives > 1
        {
            let ranked = likeliest.iter().take(self.task.alternatives);
            let possible = ranked.filter(|&&(other, logit)| other != id && logit.is_finite());
            let all = [id].into_iter().chain(possible.map(|&(id, _)| id));
            likeliest_ids.extend(all.take(self.task.alternatives));
        }
        if self.task.top_logprobs > 0 {
            likeliest.truncate(self.task.top_logprobs);
            likeliest.iter_mut().for_each(|(_, logit)| *logit -= log_sum_exp);
            self.out.top_logprobs.push(likeliest);
        }
        Ok((id, logit - log_sum_exp))
    }

    fn next_choice(&mut self, first: &FirstToken) -> Result<Choice> {
        if let Some(top) = self.session.top_logits() {
            let (id, logit) = sample::likeliest(top)?;
            let TopLogits { best: likeliest, log_sum_exp } = top.clone();
            return Ok(Choice { id, logit, likeliest, log_sum_exp });
        }
        let mut logits = self.session.logits().to_vec();
        if let Some(tokenizer) = self.tokenizer {
            tokenizer.mask(&mut logits);
            if !self.writer.forced.is_empty() {
                tokenizer.mask_all_but(self.writer.forced, &mut logits);
            }
        }
        let id = match first {
            FirstToken::Force(id) if self.out.ids.is_empty() => *id,
            _ => self.sampler.choose(&logits)?,
        };
        let likeliest = sample::top(&logits, self.recorded());
        let (logit, log_sum_exp) = (logits[id as usize], log_sum_exp(&logits));
        Ok(Choice { id, logit, likeliest, log_sum_exp })
    }

    /// The text that a generated token adds; `None` without a tokenizer.
    fn write(&mut self, id: u32) -> Option<String> {
        let tokenizer = self.tokenizer?;
        self.max_tokens += usize::from(!self.writer.forced.is_empty());
        Some(self.writer.push(tokenizer, id))
    }

    /// The limit that ends the generation, if one is reached.
    fn limit(&mut self) -> Option<StopReason> {
        if self.out.ids.len() == self.max_tokens {
            return Some(StopReason::Length);
        }
        if self.cancel.is_ending() {
            return Some(StopReason::Cancelled);
        }
        if let Some(length) = self.task.budget.check(&self.out.text) {
            self.out.text.truncate(length);
            return Some(StopReason::Time);
        }
        self.session.is_full().then_some(StopReason::Context)
    }
}

/// Turns ids into the text that follows the forced prefix.
struct Writer<'a> {
    stream: TextStream,
    specials: SpecialsCut,
    /// The rest of the forced prefix.
    forced: &'a [u8],
    /// Bytes of it that are not yet removed from the text.
    hidden: usize,
}

impl<'a> Writer<'a> {
    fn new(forced: &'a str, ends_at_specials: Option<TextKind>) -> Self {
        let (stream, specials) = (TextStream::default(), SpecialsCut::new(ends_at_specials));
        Self { stream, specials, forced: forced.as_bytes(), hidden: forced.len() }
    }

    fn push(&mut self, tokenizer: &Tokenizer, id: u32) -> String {
        let written = tokenizer.token_bytes(id).map_or(0, <[u8]>::len);
        self.forced = &self.forced[self.forced.len().min(written)..];
        let text = self.stream.push(tokenizer, id);
        let known = self.hidden.min(text.len());
        self.hidden -= known;
        self.specials.push(&text[known..])
    }
}
