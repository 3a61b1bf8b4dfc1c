//! Qwen3-Next and Qwen3-Coder-Next (`qwen3next`): DeltaNet whose projections are grouped by key head, gated
//! attention, experts and a shared one.

use super::part::{Arrangement, LayerField as F, Role};
use super::table::{Layer, grouped_rows};
use crate::compute::DeltaShape;
use crate::model::config::{FfnShape, LayerShape, MixerShape};

/// The tensors of a layer.
pub(super) fn layer(layer: &mut Layer, shape: &LayerShape) {
    layer.mixer_norm();
    match &shape.mixer {
        MixerShape::Attention(shape) => layer.normed_attention(shape),
        MixerShape::DeltaNet(shape) => {
            projections(layer, shape);
            layer.delta_rule(shape, None);
            layer.delta_output(shape);
        }
    }
    layer.ffn_norm("post_attention_norm");
    match &shape.ffn {
        FfnShape::Moe(shape) => layer.moe(shape),
        FfnShape::Dense { width } => layer.dense_without_gguf(*width),
    }
}

/// Two projections have their rows grouped by key head: `[q | k | v | z]`, which is split in most GGUF files, and
/// `[b | a]`.
fn projections(layer: &mut Layer, shape: &DeltaShape) {
    let (hidden, heads, keys) = (layer.hidden, shape.value_heads, shape.key_heads);
    let (channels, values) = (shape.channels(), heads * shape.value_dim);
    let (fused, all) = (layer.gguf("ssm_in.weight"), [channels + values, hidden]);
    let group_values = values / keys;
    let widths = [shape.key_dim, shape.key_dim, group_values, group_values];
    let (qkv, z) = (grouped_rows(keys, &widths, &[0, 1, 2]), grouped_rows(keys, &widths, &[3]));
    let ba = grouped_rows(keys, &[heads / keys; 2], &[0, 1]);

    for (field, role, gguf, rows, ranges) in [
        (F::DeltaChannels, Role::TrunkSensitive, "attn_qkv", channels, qkv),
        (F::DeltaZ, Role::Trunk, "attn_gate", values, z),
    ] {
        layer
            .matrix(field, role, [gguf, "linear_attn.in_proj_qkvz"], [rows, hidden])
            .checkpoint_rows(&all, ranges.clone())
            .fused(&fused, &all, ranges);
    }
    layer
        .matrix(F::DeltaBa, Role::Trunk, ["ssm_ba", "linear_attn.in_proj_ba"], [2 * heads, hidden])
        .arranged(Arrangement::Rows(ba));
}
