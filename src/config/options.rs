//! What the settings say to the layers below.

use std::time::Duration;

use super::definition::Settings;
use crate::base::memory;
use crate::complete::{self, PromptProfile, driver, service};

/// Most tokens of a prompt and its completion where the settings say nothing else, unless the model's own context is
/// smaller: enough for any completion prompt.
pub const CONTEXT_DEFAULT: u32 = 4096;
/// What is kept of earlier prompts is one in so many bytes of the memory by default.
const MEMORY_PARTS: u64 = 10;
/// Most bytes of it by default.
const CACHE_BYTES_DEFAULT_MAX: u64 = 4 << 30;
/// How long without a keystroke is idle.
const IDLE: Duration = Duration::from_secs(1);

impl Settings {
    /// How to complete with a model whose prompts are best made like this.
    pub fn options(&self, suited: PromptProfile) -> driver::Options {
        driver::Options {
            prompt: self.prompt(suited),
            service: service::Options {
                debounce_max: Duration::from_millis(self.debounce_ms_max),
                soft: Duration::from_millis(self.budget.soft_ms),
                hard: Duration::from_millis(self.budget.hard_ms),
                auto_tokens_max: self.max_tokens.auto,
                invoked_tokens_max: self.max_tokens.invoked,
                alternatives: self.alternatives,
                speculate: self.speculate,
                prewarm: self.warm,
                idle: IDLE,
            },
        }
    }

    /// How to make prompts for a model whose prompts are best made like this.
    pub fn prompt(&self, suited: PromptProfile) -> complete::Options {
        let order = self.fim.order.unwrap_or(suited.order);
        let defaults = complete::Options::new(order);
        complete::Options {
            format: self.fim.format.or(suited.format),
            context_tokens_max: self.context.tokens_max.unwrap_or(suited.context_tokens_max),
            logprob_min: Some(self.logprob_min),
            ..defaults
        }
    }

    /// Most bytes of memory for what earlier prompts leave behind, on this machine.
    pub fn cache_bytes_max(&self) -> u64 {
        self.cache
            .bytes_max
            .unwrap_or_else(|| (memory::host().total / MEMORY_PARTS).min(CACHE_BYTES_DEFAULT_MAX))
    }
}
