//! What a GGUF file says of its model.

use anyhow::Result;

use super::recipe::Recipe;
use super::vocabulary::Vocabulary;
use crate::format::gguf::{Array, Value};
use crate::model::config::{Config, Mixer};

/// The name of the architecture, and the prefix of its keys.
pub const ARCHITECTURE: &str = "qwen3next";

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
    let mut entries = general(recipe, name);
    entries.extend(sizes(config));
    match vocabulary {
        Some(vocabulary) => entries.extend(vocabulary.metadata(config.vocab)?),
        None => entries.push(("tokenizer.ggml.model".into(), Value::String("none".into()))),
    }
    Ok(entries)
}

fn general(recipe: &Recipe, name: &str) -> Vec<(String, Value)> {
    [
        ("architecture", Value::String(ARCHITECTURE.into())),
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
    let Config { attention, delta, moe, .. } = config;
    let sizes = [
        ("vocab_size", config.vocab),
        ("context_length", config.context_max),
        ("embedding_length", config.hidden),
        ("block_count", config.layers.len()),
        ("feed_forward_length", moe.dense_width),
        ("attention.head_count", attention.heads),
        ("attention.head_count_kv", attention.kv_heads),
        ("attention.key_length", attention.head_dim),
        ("attention.value_length", attention.head_dim),
        ("rope.dimension_count", attention.rotary_dim),
        ("ssm.conv_kernel", delta.conv_kernel),
        ("ssm.state_size", delta.key_dim),
        ("ssm.group_count", delta.key_heads),
        ("ssm.time_step_rank", delta.value_heads),
        ("ssm.inner_size", delta.value_heads * delta.value_dim),
        ("expert_count", moe.experts),
        ("expert_used_count", moe.top_k),
        ("expert_feed_forward_length", moe.width),
        ("expert_shared_feed_forward_length", moe.shared_width),
    ];
    let count = |size: usize| Value::U32(u32::try_from(size).unwrap_or(u32::MAX));
    let mut entries: Vec<(&str, Value)> = sizes.map(|(key, size)| (key, count(size))).into();
    entries.push(("attention.layer_norm_rms_epsilon", Value::F32(config.eps)));
    entries.push(("rope.freq_base", Value::F32(attention.rope_theta as f32)));
    if !moe.normalize {
        entries.push(("expert_weights_norm", Value::Bool(false)));
    }
    match interval(&config.layers) {
        Some(interval) => entries.push(("full_attention_interval", count(interval))),
        None => {
            let recurrent = config.layers.iter().map(|&mixer| mixer == Mixer::LinearAttention).collect();
            entries.push(("attention.recurrent_layers", Value::Array(Array::Bool(recurrent))));
        }
    }
    entries.into_iter().map(|(key, value)| (format!("{ARCHITECTURE}.{key}"), value)).collect()
}

/// The n for which exactly every n-th layer has attention.
fn interval(layers: &[Mixer]) -> Option<usize> {
    let fits = |n: &usize| {
        layers
            .iter()
            .zip(1..)
            .all(|(&mixer, i): (_, usize)| (mixer == Mixer::FullAttention) == i.is_multiple_of(*n))
    };
    [INTERVAL_DEFAULT].into_iter().chain(1..=layers.len() + 1).find(fits)
}
