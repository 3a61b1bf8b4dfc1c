//! The architectures that fimd runs, and what tells them apart.

use anyhow::{Context, Result};

/// An architecture. Each has its table of tensors in [`crate::model::architecture`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Architecture {
    /// Qwen2 and Qwen2.5-Coder: attention with biases.
    Qwen2,
    /// Qwen3: attention with norms of queries and keys.
    Qwen3,
    /// Qwen3-Coder-30B-A3B: Qwen3 with experts.
    Qwen3Moe,
    /// Qwen3-Next and Qwen3-Coder-Next: DeltaNet and gated attention, with experts and a shared one.
    Qwen3Next,
    /// Qwen3.5 and Qwen3.6: DeltaNet and gated attention.
    Qwen35,
    /// Qwen3.5 and Qwen3.6 with experts and a shared one.
    Qwen35Moe,
}

use Architecture::{Qwen2, Qwen3, Qwen3Moe, Qwen3Next, Qwen35, Qwen35Moe};

impl Architecture {
    /// All of them.
    pub const ALL: [Self; 6] = [Qwen2, Qwen3, Qwen3Moe, Qwen3Next, Qwen35, Qwen35Moe];

    /// What `general.architecture` of a GGUF file says, and the prefix of the architecture's keys.
    pub fn name(self) -> &'static str {
        match self {
            Qwen2 => "qwen2",
            Qwen3 => "qwen3",
            Qwen3Moe => "qwen3moe",
            Qwen3Next => "qwen3next",
            Qwen35 => "qwen35",
            Qwen35Moe => "qwen35moe",
        }
    }

    /// What `model_type` of `config.json` says.
    pub fn model_type(self) -> &'static str {
        match self {
            Qwen2 => "qwen2",
            Qwen3 => "qwen3",
            Qwen3Moe => "qwen3_moe",
            Qwen3Next => "qwen3_next",
            Qwen35 => "qwen3_5",
            Qwen35Moe => "qwen3_5_moe",
        }
    }

    /// The architecture that GGUF calls `name`.
    pub fn of_name(name: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|architecture| architecture.name() == name);
        found.with_context(|| {
            format!("general.architecture is {name:?}; fimd runs {}", Self::ALL.map(Self::name).join(", "))
        })
    }

    /// The architecture that transformers calls `name`; `_text` follows where it is part of a multimodal model.
    pub fn of_model_type(name: &str) -> Result<Self> {
        let stem = name.strip_suffix("_text").unwrap_or(name);
        let found = Self::ALL.into_iter().find(|architecture| architecture.model_type() == stem);
        found.with_context(|| {
            format!("model_type is {name:?}; fimd runs {}", Self::ALL.map(Self::model_type).join(", "))
        })
    }

    /// Whether three of four layers are DeltaNet; attention is gated and rotates a quarter of a head then, and
    /// checkpoints store norms as `w` of `1 + w`.
    pub fn is_hybrid(self) -> bool {
        matches!(self, Qwen3Next | Qwen35 | Qwen35Moe)
    }

    /// Whether layers have experts.
    pub fn has_experts(self) -> bool {
        matches!(self, Qwen3Moe | Qwen3Next | Qwen35Moe)
    }

    /// Whether one of the experts is visited by every token.
    pub fn has_shared_expert(self) -> bool {
        matches!(self, Qwen3Next | Qwen35Moe)
    }

    /// Whether GGUF files have the value heads of DeltaNet tiled; see
    /// [`DeltaShape::tiled`](crate::compute::DeltaShape::tiled).
    pub fn is_tiled_in_gguf(self) -> bool {
        matches!(self, Qwen35 | Qwen35Moe)
    }

    /// Whether the weights of visited experts sum to one where a checkpoint does not say.
    pub(super) fn normalizes(self) -> bool {
        self != Qwen3Moe
    }
}
