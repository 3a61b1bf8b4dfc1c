//! Qwen2 and Qwen2.5-Coder (`qwen2`): attention with biases and a dense block.

use super::table::Layer;
use crate::model::config::{FfnShape, LayerShape, MixerShape};

/// The tensors of a layer.
pub(super) fn layer(layer: &mut Layer, shape: &LayerShape) {
    layer.mixer_norm();
    if let MixerShape::Attention(shape) = &shape.mixer {
        layer.query_key_value(shape);
        layer.query_key_value_bias(shape);
        layer.attention_output(shape);
    }
    layer.ffn_norm("ffn_norm");
    if let FfnShape::Dense { width } = shape.ffn {
        layer.dense(width);
    }
}
