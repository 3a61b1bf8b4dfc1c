//! Qwen3 (`qwen3`) and Qwen3-Coder-30B-A3B (`qwen3moe`): attention with norms of queries and keys, and a dense block
//! or experts.

use super::table::Layer;
use crate::model::config::{Architecture, FfnShape, LayerShape, MixerShape};

/// The tensors of a layer.
pub(super) fn layer(layer: &mut Layer, architecture: Architecture, shape: &LayerShape) {
    layer.mixer_norm();
    if let MixerShape::Attention(shape) = &shape.mixer {
        layer.normed_attention(shape);
    }
    layer.ffn_norm("ffn_norm");
    match &shape.ffn {
        FfnShape::Moe(shape) => layer.moe(shape),
        FfnShape::Dense { width } if architecture.has_experts() => layer.dense_without_gguf(*width),
        FfnShape::Dense { width } => layer.dense(*width),
    }
}
