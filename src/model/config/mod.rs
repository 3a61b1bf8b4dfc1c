//! The sizes of a model, from `config.json` or the metadata of a GGUF file, checked once so that the rest can
//! rely on them. What a layer is made of is decided here; [`super::architecture`] says which tensors that takes.

mod architecture;
mod json;
mod metadata;

use anyhow::{Context, Result};

pub use architecture::Architecture;

use crate::compute::{AttentionShape, DeltaShape, PassSizes};
use crate::format::{Description, ModelDir};

/// The mixer of a layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum MixerShape {
    /// Attention, gated or not.
    Attention(AttentionShape),
    /// Gated DeltaNet.
    DeltaNet(DeltaShape),
}

/// The feed-forward block of a layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum FfnShape {
    /// One block that every token visits.
    Dense {
        /// Inner width.
        width: usize,
    },
    /// A mixture of experts.
    Moe(MoeShape),
}

/// Sizes of a mixture of experts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MoeShape {
    /// Routed experts of a layer.
    pub experts: usize,
    /// Experts that a token visits.
    pub top_k: usize,
    /// Inner width of a routed expert.
    pub width: usize,
    /// Whether the weights of the visited experts are scaled to sum to one.
    pub normalize: bool,
    /// Inner width of the expert that every token visits, where there is one.
    pub shared_width: Option<usize>,
}

/// One layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LayerShape {
    /// Attention or DeltaNet.
    pub mixer: MixerShape,
    /// Dense or a mixture of experts.
    pub ffn: FfnShape,
}

/// A checked model configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Which tensors there are, and how they are named.
    pub architecture: Architecture,
    /// Rows of the embedding; at least the tokens of the tokenizer.
    pub vocab: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// First to last. All attention layers have one shape, as have all DeltaNet layers and all mixtures.
    pub layers: Vec<LayerShape>,
    /// Epsilon of the norms.
    pub eps: f32,
    /// Positions the model was made for.
    pub context_max: usize,
    /// Whether the head is the embedding.
    pub tied: bool,
    /// Inner width of dense layers, as configurations state it even where there are none; 0 where they do not.
    pub dense_width: usize,
    /// Block size of FP8 weights, `[rows, cols]`, where the checkpoint has such weights.
    pub fp8_block: Option<[usize; 2]>,
    /// What the names of a checkpoint's tensors begin with, but for the head: `model`, or `model.language_model` inside
    /// a multimodal one.
    pub checkpoint_root: &'static str,
}

/// Where a multimodal checkpoint keeps its language model.
const MULTIMODAL_ROOT: &str = "model.language_model";

/// No size in a configuration may exceed this: products of three sizes then fit 64 bits.
const SIZE_MAX: usize = 1 << 20;

/// Most layers, some ten times those of the deepest known model.
const LAYERS_MAX: usize = 1 << 10;
/// Most routed experts of all layers together: each has names of its own.
const EXPERTS_MAX: usize = 1 << 17;
/// Most f32 elements of the recurrent state of a layer: 256 MiB, some hundred times the largest known.
const STATE_ELEMENTS_MAX: usize = 1 << 26;

impl Config {
    /// Reads and checks what `dir` says of its model. Fails when something is missing, contradictory or of
    /// another architecture.
    pub fn read(dir: &ModelDir) -> Result<Self> {
        let origin = dir.origin();
        match dir.description() {
            Description::Folder(folder) => {
                let (architecture, raw) = json::read(&folder.config)
                    .with_context(|| format!("{origin}: config.json does not describe a model"))?;
                let mut config = raw.check(architecture).with_context(|| format!("{origin}: config.json"))?;
                config.tied |= !dir.contains("lm_head.weight");
                if dir.contains(&format!("{MULTIMODAL_ROOT}.embed_tokens.weight")) {
                    config.checkpoint_root = MULTIMODAL_ROOT;
                }
                Ok(config)
            }
            Description::Gguf(metadata) => {
                let (architecture, raw) = metadata::read(dir, metadata)
                    .with_context(|| format!("{origin}: the metadata does not describe a model"))?;
                let config = raw.check(architecture);
                let config =
                    config.with_context(|| format!("{origin}: the metadata, in terms of config.json"))?;
                Ok(config.as_in_gguf())
            }
        }
    }

    /// The same model with its heads in the order of a GGUF file.
    pub fn as_in_gguf(mut self) -> Self {
        let tiled = self.architecture.is_tiled_in_gguf();
        for layer in &mut self.layers {
            if let MixerShape::DeltaNet(shape) = &mut layer.mixer {
                shape.tiled = tiled;
            }
        }
        self
    }

    /// The shapes of the attention layers.
    pub fn attention_shapes(&self) -> impl Iterator<Item = &AttentionShape> {
        self.layers.iter().filter_map(|layer| match &layer.mixer {
            MixerShape::Attention(shape) => Some(shape),
            MixerShape::DeltaNet(_) => None,
        })
    }

    /// The shapes of the DeltaNet layers.
    pub fn delta_shapes(&self) -> impl Iterator<Item = &DeltaShape> {
        self.layers.iter().filter_map(|layer| match &layer.mixer {
            MixerShape::DeltaNet(shape) => Some(shape),
            MixerShape::Attention(_) => None,
        })
    }

    /// The shape of all attention layers; zeros where there are none.
    pub fn attention(&self) -> AttentionShape {
        self.attention_shapes().next().copied().unwrap_or_default()
    }

    /// The shape of all DeltaNet layers; zeros where there are none.
    pub fn delta(&self) -> DeltaShape {
        self.delta_shapes().next().copied().unwrap_or_default()
    }

    /// The sizes of passes over at most `rows_max` tokens, in a sequence of at most `positions_max`.
    pub fn pass_sizes(&self, rows_max: usize, positions_max: usize) -> PassSizes {
        let moe = self.moe_shapes().next();
        let dense = self.layers.iter().map(|layer| match &layer.ffn {
            FfnShape::Dense { width } => *width,
            FfnShape::Moe(moe) => moe.shared_width.unwrap_or(0),
        });
        PassSizes {
            rows_max,
            positions_max,
            hidden: self.hidden,
            vocab: self.vocab,
            attention: self.attention_shapes().next().copied(),
            attention_layers: self.attention_shapes().count(),
            delta: self.delta_shapes().next().copied(),
            delta_layers: self.delta_shapes().count(),
            dense_width: dense.max().unwrap_or(0),
            experts: moe.map_or(0, |moe| moe.experts),
            top_k: moe.map_or(0, |moe| moe.top_k),
            expert_width: moe.map_or(0, |moe| moe.width),
        }
    }

    /// The shapes of the mixtures of experts.
    pub fn moe_shapes(&self) -> impl Iterator<Item = &MoeShape> {
        self.layers.iter().filter_map(|layer| match &layer.ffn {
            FfnShape::Moe(shape) => Some(shape),
            FfnShape::Dense { .. } => None,
        })
    }
}
