//! The outcome of a completion request, for statistics, the log and benchmarks. Pure; holds no text.

use serde::Serialize;

use crate::session::Synced;

/// Where the answer came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// The suggestion on screen, whose beginning was typed.
    TypedThrough,
    /// The cache of earlier answers.
    Cache,
    /// A generation that was in flight for an earlier keystroke.
    Joined,
    /// A new generation.
    Model,
    /// None: automatic completion is not shown here.
    Nothing,
}

/// The outcome of a request. Times are milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Record {
    /// Where the answer came from.
    pub source: Source,
    /// Superseded or cancelled; the answer was then empty.
    pub is_cancelled: bool,
    /// Characters of the first item; 0 when there is none.
    pub shown_chars: usize,
    /// Tokens of the prompt, where the model ran for this request.
    pub prompt_tokens: usize,
    /// How many of them were evaluated, where the model ran for this request.
    pub synced: Synced,
    /// Tokens generated, where the model ran for this request.
    pub decode_tokens: usize,
    /// Time in the queue, debounce included.
    pub queue_ms: f64,
    /// Time for evaluating the prompt.
    pub prefill_ms: f64,
    /// From the request to the first token; 0 where there was none.
    pub first_token_ms: f64,
    /// From the request to the answer.
    pub total_ms: f64,
}

impl Record {
    /// For a request that was answered at once, with an empty list, and without the model.
    pub fn new(source: Source) -> Self {
        Self {
            source,
            is_cancelled: false,
            shown_chars: 0,
            prompt_tokens: 0,
            synced: Synced::default(),
            decode_tokens: 0,
            queue_ms: 0.0,
            prefill_ms: 0.0,
            first_token_ms: 0.0,
            total_ms: 0.0,
        }
    }
}
