//! Tokens out: the generation loop, sampling, and the rules that end a completion.

pub mod sample;
pub mod stop;

use std::time::Instant;

use anyhow::{Result, bail};
use serde::Serialize;

use crate::base::timings::milliseconds;
use crate::base::{Cancel, Timings};
use crate::compute::Backend;
use crate::model::Tokenizer;
use crate::model::tokenizer::TextStream;
use crate::session::Session;
use sample::{Sampler, Sampling, log_softmax};
use stop::Stop;

/// One generation: a prompt and when to stop.
#[derive(Clone, Debug)]
pub struct Task {
    /// The whole prompt as token ids, not empty.
    pub prompt: Vec<u32>,
    /// Text the generation has to begin with, usually empty: the end of the prompt's text, kept out of
    /// `prompt` because what follows may change its tokens (see [`Tokenizer::encode_open`]).
    pub open: String,
    /// Most tokens to generate.
    pub max_tokens: usize,
    /// How the next token is chosen.
    pub sampling: Sampling,
    /// Tokens that end the generation. They are not part of the text.
    pub stop_ids: Vec<u32>,
    /// Text rules that end the generation.
    pub stop: Stop,
    /// How many of the likeliest tokens to report at each position; 0 for none.
    pub top_logprobs: usize,
}

/// Why a generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// The model produced one of the stop tokens.
    EndToken,
    /// A text rule cut the completion.
    Rule,
    /// `max_tokens` were generated.
    Length,
    /// The context is full.
    Context,
    /// The request was cancelled; the text is what there was.
    Cancelled,
}

/// What a generation produced.
#[derive(Clone, Debug)]
pub struct Generated {
    /// Generated ids, without the stop token.
    pub ids: Vec<u32>,
    /// Their text after [`Task::open`], cut where a rule said so; empty without a tokenizer.
    pub text: String,
    /// Natural log-probability of each id under the model (temperature 1), ids without text masked.
    pub logprobs: Vec<f32>,
    /// For each position, the likeliest ids with their log-probabilities; the first entry is the
    /// distribution right after the prompt.
    pub top_logprobs: Vec<Vec<(u32, f32)>>,
    /// Why it ended.
    pub stop: StopReason,
    /// Where the time went.
    pub timings: Timings,
}

impl Generated {
    /// Mean log-probability of the generated tokens, or 0 when there are none.
    pub fn mean_logprob(&self) -> f32 {
        if self.logprobs.is_empty() {
            0.0
        } else {
            self.logprobs.iter().sum::<f32>() / self.logprobs.len() as f32
        }
    }
}

/// Runs `task` on `session`. Ids that `tokenizer` has no text for are never chosen; without a
/// tokenizer every id may be. `show` is given each stretch of text as it appears, before any rule cuts
/// it. Cancellation is answered between layers and between tokens.
pub fn generate<B: Backend>(
    session: &mut Session<B>,
    tokenizer: Option<&Tokenizer>,
    task: &Task,
    cancel: &Cancel,
    show: &mut dyn FnMut(&str),
) -> Result<Generated> {
    if task.prompt.is_empty() {
        bail!("the prompt is empty: give at least one token");
    }
    let mut out = Generated {
        ids: Vec::new(),
        text: String::new(),
        logprobs: Vec::new(),
        top_logprobs: Vec::new(),
        stop: StopReason::Length,
        timings: Timings::default(),
    };
    let mut sampler = Sampler::new(&task.sampling);
    let mut stream = TextStream::default();
    let mut stop = task.stop.clone();
    let mut open = task.open.as_str();
    let mut max_tokens = task.max_tokens;

    let started = Instant::now();
    let synced = session.sync(&task.prompt, cancel)?;
    out.timings.prefill_tokens = synced.evaluated;
    out.timings.prefill_ms = milliseconds(started.elapsed());
    if synced.cancelled {
        out.stop = StopReason::Cancelled;
        return Ok(out);
    }

    let started = Instant::now();
    while out.ids.len() < max_tokens {
        let mut logits = session.logits().to_vec();
        if let Some(tokenizer) = tokenizer {
            tokenizer.mask(&mut logits);
        }
        let id = match tokenizer {
            Some(tokenizer) if !open.is_empty() => {
                let mut fitting = logits.clone();
                tokenizer.mask_all_but(open.as_bytes(), &mut fitting);
                sampler.choose(&fitting)?
            }
            _ => sampler.choose(&logits)?,
        };
        log_softmax(&mut logits);
        if task.top_logprobs > 0 {
            out.top_logprobs.push(sample::top(&logits, task.top_logprobs));
        }
        if task.stop_ids.contains(&id) {
            out.stop = StopReason::EndToken;
            break;
        }
        out.ids.push(id);
        out.logprobs.push(logits[id as usize]);
        if let Some(tokenizer) = tokenizer {
            let text = stream.push(tokenizer, id);
            let known = open.len().min(text.len());
            open = &open[known..];
            max_tokens += usize::from(known > 0);
            show(&text[known..]);
            out.text.push_str(&text[known..]);
            if let Some(length) = stop.check(&out.text) {
                out.text.truncate(length);
                out.stop = StopReason::Rule;
                break;
            }
        }
        if out.ids.len() == max_tokens {
            break;
        }
        if cancel.is_cancelled() {
            out.stop = StopReason::Cancelled;
            break;
        }
        if session.is_full() {
            out.stop = StopReason::Context;
            break;
        }
        if session.push(id, cancel).cancelled {
            out.stop = StopReason::Cancelled;
            break;
        }
    }
    if out.stop != StopReason::Rule {
        let rest = stream.finish();
        show(&rest);
        out.text.push_str(&rest);
    }
    out.timings.decode_tokens = out.ids.len();
    out.timings.decode_ms = milliseconds(started.elapsed());
    Ok(out)
}
