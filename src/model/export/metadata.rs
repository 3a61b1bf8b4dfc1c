//! What a GGUF file says of its model.

use anyhow::Result;

use super::recipe::Recipe;
use super::vocabulary::Vocabulary;
use crate::compute::{AttentionShape, DeltaShape};
use crate::format::gguf::{Array, Value};
use crate::model::config::{Architecture, Config, LayerShape, MixerShape, MoeShape};

/// How often attention comes where the file does not say.
const INTERVAL_DEFAULT: usize = 4;

/// All metadata of the model `config` called `name`, stored as `recipe` says: the keys that llama.cpp's
/// loader needs and those of the vocabulary. Fails for a tokenizer that GGUF files cannot describe.
pub fn metadata(
    config: &Config,
    recipe: &Recipe,
    name: &str,
    vocabulary: Option<Vocabulary>,
) -> Result<Vec<(String, Value)>> {
    let mut entries = general(config.architecture, recipe, name);
    entries.extend(sizes(config));
    match vocabulary {
        Some(vocabulary) => entries.extend(vocabulary.metadata(config.vocab)?),
        None => entries.push(("tokenizer.ggml.model".into(), Value::String("none".into()))),
    }
    Ok(entries)
}

fn general(architecture: Architecture, recipe: &Recipe, name: &str) -> Vec<(String, Value)> {
    [
        ("architecture", Value::String(architecture.name().into())),
        ("type", Value::String("model".into())),
        ("name", Value::String(name.into())),
        ("file_type", Value::U32(recipe.file_type())),
        ("quantization_version", Value::U32(2)),
    ]
    .into_iter()
    .map(|(key, value)| (format!("general.{key}"), value))
    .collect()
}

fn sizes(config: &Config) -> Vec<(String, Value)> {
    let mut entries = vec![
        ("vocab_size", count(config.vocab)),
        ("context_length", count(config.context_max)),
        ("embedding_length", count(config.hidden)),
        ("block_count", count(config.layers.len())),
        ("feed_forward_length", count(config.dense_width)),
    ];
    entries.extend(config.attention_shapes().next().into_iter().flat_map(attention));
    entries.extend(config.delta_shapes().next().into_iter().flat_map(delta));
    entries.extend(config.moe_shapes().next().into_iter().flat_map(moe));
    entries.push(("attention.layer_norm_rms_epsilon", Value::F32(config.eps)));
    if let Some(shape) = config.attention_shapes().next() {
        entries.push(("rope.freq_base", Value::F32(shape.rope_theta as f32)));
        if matches!(config.architecture, Architecture::Qwen35 | Architecture::Qwen35Moe) {
            entries.push(("rope.dimension_sections", rope_sections(shape.rotary_dim / 2)));
        }
    }
    if config.moe_shapes().any(|shape| !shape.normalize) {
        entries.push(("expert_weights_norm", Value::Bool(false)));
    }
    if config.architecture.is_hybrid() {
        entries.push(recurrent_layers(&config.layers));
    }
    let name = config.architecture.name();
    entries.into_iter().map(|(key, value)| (format!("{name}.{key}"), value)).collect()
}

/// How many of the frequencies turn with time, height and width. In text the three are equal, so that it makes no
/// difference, but llama.cpp's loader needs the key.
fn rope_sections(frequencies: usize) -> Value {
    let time = frequencies.div_ceil(3);
    let height = (frequencies - time).div_ceil(2);
    let sections = [time, height, frequencies - time - height, 0];
    Value::Array(Array::I32(sections.map(|count| i32::try_from(count).unwrap_or(i32::MAX)).to_vec()))
}

fn recurrent_layers(layers: &[LayerShape]) -> (&'static str, Value) {
    match interval(layers) {
        Some(interval) => ("full_attention_interval", count(interval)),
        None => {
            let recurrent = layers.iter().map(|layer| !has_attention(layer)).collect();
            ("attention.recurrent_layers", Value::Array(Array::Bool(recurrent)))
        }
    }
}

fn attention(shape: &AttentionShape) -> [(&'static str, Value); 5] {
    [
        ("attention.head_count", count(shape.heads)),
        ("attention.head_count_kv", count(shape.kv_heads)),
        ("attention.key_length", count(shape.head_dim)),
        ("attention.value_length", count(shape.head_dim)),
        ("rope.dimension_count", count(shape.rotary_dim)),
    ]
}

fn delta(shape: &DeltaShape) -> [(&'static str, Value); 5] {
    [
        ("ssm.conv_kernel", count(shape.conv_kernel)),
        ("ssm.state_size", count(shape.key_dim)),
        ("ssm.group_count", count(shape.key_heads)),
        ("ssm.time_step_rank", count(shape.value_heads)),
        ("ssm.inner_size", count(shape.value_heads * shape.value_dim)),
    ]
}

fn moe(shape: &MoeShape) -> Vec<(&'static str, Value)> {
    let mut entries = vec![
        ("expert_count", count(shape.experts)),
        ("expert_used_count", count(shape.top_k)),
        ("expert_feed_forward_length", count(shape.width)),
    ];
    entries.extend(shape.shared_width.map(|width| ("expert_shared_feed_forward_length", count(width))));
    entries
}

fn count(size: usize) -> Value {
    Value::U32(u32::try_from(size).unwrap_or(u32::MAX))
}

/// The n for which exactly every n-th layer has attention.
fn interval(layers: &[LayerShape]) -> Option<usize> {
    let fits = |n: &usize| {
        layers.iter().zip(1..).all(|(layer, i): (_, usize)| has_attention(layer) == i.is_multiple_of(*n))
    };
    [INTERVAL_DEFAULT].into_iter().chain(1..=layers.len() + 1).find(fits)
}

fn has_attention(layer: &LayerShape) -> bool {
    matches!(layer.mixer, MixerShape::Attention(_))
}
