//! The one timing record every command reports.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Where the time of one run went. `prefill_tokens` counts evaluated prompt tokens only: what a
/// session reused costs nothing and is not in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Timings {
    /// Opening the model, in milliseconds.
    pub load_ms: f64,
    /// From the request to the start of its work, in milliseconds.
    pub queue_ms: f64,
    /// Prompt tokens evaluated.
    pub prefill_tokens: usize,
    /// Evaluating the prompt, in milliseconds.
    pub prefill_ms: f64,
    /// From the start of the work to the first token, in milliseconds; 0 when there is none.
    pub first_token_ms: f64,
    /// Tokens generated.
    pub decode_tokens: usize,
    /// Generating them, in milliseconds.
    pub decode_ms: f64,
}

impl Timings {
    /// Prompt tokens per second, or 0 when nothing was evaluated.
    pub fn prefill_per_second(&self) -> f64 {
        per_second(self.prefill_tokens, self.prefill_ms)
    }

    /// Generated tokens per second, or 0 when nothing was generated.
    pub fn decode_per_second(&self) -> f64 {
        per_second(self.decode_tokens, self.decode_ms)
    }
}

/// A duration as fractional milliseconds.
pub fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

fn per_second(count: usize, ms: f64) -> f64 {
    if ms > 0.0 { count as f64 / ms * 1e3 } else { 0.0 }
}
