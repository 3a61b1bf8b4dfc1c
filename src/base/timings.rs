//! The timings that every command reports.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Timings of one run. `prefill_tokens` counts evaluated prompt tokens only, not those from the prefix cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Timings {
    /// Load time of the model, in milliseconds.
    pub load_ms: f64,
    /// Time in the queue, in milliseconds.
    pub queue_ms: f64,
    /// Prompt tokens evaluated.
    pub prefill_tokens: usize,
    /// Prefill time, in milliseconds.
    pub prefill_ms: f64,
    /// Time from the start of prefill to the first token, in milliseconds; 0 without tokens.
    pub first_token_ms: f64,
    /// Tokens generated.
    pub decode_tokens: usize,
    /// Decode time, in milliseconds.
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
