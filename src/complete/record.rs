//! What became of one request for a completion, for statistics, the log and benchmarks. Pure; holds no text.

use serde::Serialize;

use crate::session::Synced;

/// Where the answer came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// The suggestion on screen: what was typed is its beginning.
    TypedThrough,
    /// An earlier answer for the same place.
    Cache,
    /// A generation that was in flight for an earlier keystroke.
    Joined,
    /// A generation of its own.
    Model,
    /// None: nothing is completed here, or the request was superseded before its turn.
    Nothing,
}

/// What became of one request. Times are milliseconds since the request unless they say otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Record {
    /// Where the answer came from.
    pub source: Source,
    /// Whether it was superseded or cancelled; the answer was then empty.
    pub is_cancelled: bool,
    /// Characters of the first item; 0 when there is none.
    pub shown_chars: usize,
    /// Tokens of the prompt, where the model ran for this request.
    pub prompt_tokens: usize,
    /// What of them had to be evaluated, where the model ran for this request.
    pub synced: Synced,
    /// Tokens generated, where the model ran for this request.
    pub decode_tokens: usize,
    /// How long it waited for its turn, debounce included.
    pub queue_ms: f64,
    /// How long the prompt took.
    pub prefill_ms: f64,
    /// Until the first token; 0 where there was none.
    pub first_token_ms: f64,
    /// Until the answer.
    pub total_ms: f64,
}

impl Record {
    /// Of a request that no model ran for, and whose answer is empty and came at once.
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
