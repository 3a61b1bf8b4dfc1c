//! Options of the layers below, from the settings.

use std::time::Duration;

use super::definition::{Settings, TriggerMode};
use crate::base::memory;
use crate::complete::{self, PromptProfile, driver, service};

/// Default context length in tokens, unless the model's own is shorter: enough for any completion prompt.
pub const CONTEXT_DEFAULT: u32 = 4096;
/// The default budget of the prefix cache is the memory divided by this,
const CACHE_MEMORY_DIVISOR: u64 = 10;
/// but at most this many bytes.
const CACHE_BYTES_DEFAULT_MAX: u64 = 4 << 30;
/// Time without a keystroke after which a document is idle.
const IDLE: Duration = Duration::from_secs(1);

impl Settings {
    /// Completion options for a model with this prompt profile.
    pub fn options(&self, profile: PromptProfile) -> driver::Options {
        let is_automatic = self.trigger == TriggerMode::Automatic;
        driver::Options {
            prompt: self.prompt(profile),
            service: service::Options {
                debounce_max: Duration::from_millis(self.debounce_ms_max),
                soft: Duration::from_millis(self.budget.soft_ms),
                hard: Duration::from_millis(self.budget.hard_ms),
                auto_tokens_max: self.max_tokens.auto,
                invoked_tokens_max: self.max_tokens.invoked,
                alternatives: self.alternatives,
                speculate: self.speculate && is_automatic,
                prewarm: self.warm && is_automatic,
                idle: IDLE,
            },
        }
    }

    /// Prompt options for a model with this prompt profile.
    pub fn prompt(&self, profile: PromptProfile) -> complete::Options {
        let order = self.fim.order.unwrap_or(profile.order);
        let defaults = complete::Options::new(order);
        complete::Options {
            format: self.fim.format.or(profile.format),
            context_tokens_max: self.context.tokens_max.unwrap_or(profile.context_tokens_max),
            logprob_min: Some(self.logprob_min.unwrap_or(profile.logprob_min)),
            ..defaults
        }
    }

    /// After how long without a request the memory of a GPU is given back; none for never.
    pub fn vram_idle(&self) -> Option<Duration> {
        let idle = Duration::from_secs_f64(self.gpu.idle_minutes * 60.0);
        (!idle.is_zero()).then_some(idle)
    }

    /// Memory budget of the prefix cache on this machine, in bytes.
    pub fn cache_bytes_max(&self) -> u64 {
        self.cache
            .bytes_max
            .unwrap_or_else(|| (memory::host().total / CACHE_MEMORY_DIVISOR).min(CACHE_BYTES_DEFAULT_MAX))
    }
}
