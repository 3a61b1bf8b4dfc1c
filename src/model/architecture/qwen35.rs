//! Qwen3.5 and Qwen3.6 (`qwen35`, `qwen35moe`): DeltaNet with a projection for each kind of row, gated attention, and
//! a dense block or experts and a shared one.
//!
//! GGUF files have the value heads tiled: their head j uses key head `j % K`, a checkpoint's `j / (V / K)`.

use super::part::{LayerField as F, Role};
use super::table::{HeadOrder, Layer};
use crate::compute::DeltaShape;
use crate::model::config::{FfnShape, LayerShape, MixerShape};

/// The tensors of a layer.
pub(super) fn layer(layer: &mut Layer, shape: &LayerShape) {
    layer.mixer_norm();
    match &shape.mixer {
        MixerShape::Attention(shape) => layer.normed_attention(shape),
        MixerShape::DeltaNet(shape) => delta(layer, shape),
    }
    layer.ffn_norm("post_attention_norm");
    match &shape.ffn {
        FfnShape::Moe(shape) => layer.moe(shape),
        FfnShape::Dense { width } => layer.dense(*width),
    }
}

fn delta(layer: &mut Layer, shape: &DeltaShape) {
    let (hidden, heads, dim) = (layer.hidden, shape.value_heads, shape.value_dim);
    let order = HeadOrder::of(shape);
    let by_head = |size| order.as_ref().map(|order| order.blocks(size));
    let channels = order.as_ref().map(|order| order.channels(shape));
    for (field, role, names, rows, ranges) in [
        (F::DeltaChannels, Role::TrunkSensitive, ["attn_qkv", "in_proj_qkv"], shape.channels(), channels),
        (F::DeltaZ, Role::Trunk, ["attn_gate", "in_proj_z"], heads * dim, by_head(dim)),
        (F::DeltaBeta, Role::Trunk, ["ssm_beta", "in_proj_b"], heads, by_head(1)),
        (F::DeltaAlpha, Role::Trunk, ["ssm_alpha", "in_proj_a"], heads, by_head(1)),
    ] {
        let stored = format!("linear_attn.{}", names[1]);
        let part = layer.matrix(field, role, [names[0], &stored], [rows, hidden]);
        if let Some(ranges) = ranges {
            part.checkpoint_rows(&[rows, hidden], ranges);
        }
    }
    layer.delta_rule(shape, order.as_ref());
    layer.delta_output(shape).checkpoint[0].columns = by_head(dim).unwrap_or_default();
}
