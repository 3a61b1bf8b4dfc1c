//! The metadata of a GGUF file, in the terms of `config.json`. Per-layer lists stand for their one value.

use anyhow::{Context, Result, ensure};

use super::LAYERS_MAX;
use super::architecture::Architecture;
use super::json::{LayerType, Raw};
use crate::format::{ModelDir, gguf::Metadata};

/// Reads what the file of `dir` says of its model.
pub(super) fn read(dir: &ModelDir, metadata: &Metadata) -> Result<(Architecture, Raw)> {
    let name = metadata.text("general.architecture")?.context("general.architecture is missing")?;
    let architecture = Architecture::of_name(name)?;
    let keys = Keys { metadata, architecture };
    keys.check_rope_scaling()?;
    let layers = keys.layers()?;
    let mut raw = Raw {
        vocab_size: dir.tensor("token_embd.weight")?.shape[0],
        hidden_size: keys.count("embedding_length")?,
        num_hidden_layers: layers,
        rms_norm_eps: keys.number("attention.layer_norm_rms_epsilon")? as f32,
        max_position_embeddings: keys.count("context_length")?,
        tie_word_embeddings: !dir.contains("output.weight"),
        full_attention_interval: keys.optional("full_attention_interval")?,
        layer_types: keys.recurrent_layers(layers)?,
        ..Raw::default()
    };
    if architecture.has_experts() {
        keys.experts(&mut raw)?;
    } else {
        raw.intermediate_size = Some(keys.count("feed_forward_length")?);
    }
    let types = raw.layer_types(architecture)?;
    if types.contains(&LayerType::FullAttention) {
        keys.attention(&mut raw)?;
    }
    if types.contains(&LayerType::LinearAttention) {
        keys.delta(&mut raw)?;
    }
    Ok((architecture, raw))
}

/// The keys of an architecture.
struct Keys<'a> {
    metadata: &'a Metadata,
    architecture: Architecture,
}

impl Keys<'_> {
    fn experts(&self, raw: &mut Raw) -> Result<()> {
        const SOFTMAX: usize = 1;
        let gating = self.optional("expert_gating_func")?.unwrap_or(SOFTMAX);
        ensure!(gating == SOFTMAX, "{} is {gating}; it must be {SOFTMAX}", self.at("expert_gating_func"));
        raw.num_experts = Some(self.count("expert_count")?);
        raw.num_experts_per_tok = Some(self.count("expert_used_count")?);
        raw.moe_intermediate_size = Some(self.count("expert_feed_forward_length")?);
        raw.norm_topk_prob = Some(self.metadata.flag(&self.at("expert_weights_norm"))?.unwrap_or(true));
        if self.architecture.has_shared_expert() {
            raw.shared_expert_intermediate_size = Some(self.count("expert_shared_feed_forward_length")?);
        }
        Ok(())
    }

    fn attention(&self, raw: &mut Raw) -> Result<()> {
        let heads = self.count("attention.head_count")?;
        let head_dim = match self.architecture {
            Architecture::Qwen2 => raw.hidden_size / heads.max(1),
            _ => self.count("attention.key_length")?,
        };
        let value_dim = self.optional("attention.value_length")?.unwrap_or(head_dim);
        ensure!(
            value_dim == head_dim,
            "{} is {value_dim}, key_length {head_dim}; they must be equal",
            self.at("attention.value_length")
        );
        raw.head_dim = Some(head_dim);
        raw.num_attention_heads = Some(heads);
        raw.num_key_value_heads = Some(self.count("attention.head_count_kv")?);
        raw.rope_theta = Some(self.number("rope.freq_base")?);
        raw.rotary_dim = match self.architecture.is_hybrid() {
            true => Some(self.count("rope.dimension_count")?),
            false => self.optional("rope.dimension_count")?,
        };
        Ok(())
    }

    fn delta(&self, raw: &mut Raw) -> Result<()> {
        let value_heads = self.count("ssm.time_step_rank")?;
        let values = self.count("ssm.inner_size")?;
        ensure!(
            value_heads > 0 && values.is_multiple_of(value_heads),
            "{} ({values}) is not a multiple of ssm.time_step_rank ({value_heads})",
            self.at("ssm.inner_size")
        );
        raw.linear_num_key_heads = Some(self.count("ssm.group_count")?);
        raw.linear_num_value_heads = Some(value_heads);
        raw.linear_key_head_dim = Some(self.count("ssm.state_size")?);
        raw.linear_value_head_dim = Some(values / value_heads);
        raw.linear_conv_kernel_dim = Some(self.count("ssm.conv_kernel")?);
        Ok(())
    }

    /// The layers that run: those that predict further tokens stand after them.
    fn layers(&self) -> Result<usize> {
        let [blocks_key, nextn_key] = ["block_count", "nextn_predict_layers"].map(|key| self.at(key));
        let blocks = self.metadata.count(&blocks_key)?.with_context(|| format!("{blocks_key} is missing"))?;
        let nextn = self.metadata.count(&nextn_key)?.unwrap_or(0);
        let layers = blocks.checked_sub(nextn);
        let layers =
            layers.with_context(|| format!("{nextn_key} ({nextn}) exceeds {blocks_key} ({blocks})"))?;
        ensure!(layers <= LAYERS_MAX, "{blocks_key} is {blocks}; it must lie between 1 and {LAYERS_MAX}");
        Ok(layers)
    }

    fn recurrent_layers(&self, layers: usize) -> Result<Option<Vec<LayerType>>> {
        let key = self.at("attention.recurrent_layers");
        let Some(recurrent) = self.metadata.integers(&key)? else { return Ok(None) };
        ensure!(recurrent.len() >= layers, "{key} lists {} of {layers} layers", recurrent.len());
        let kind = |&recurrent: &i64| match recurrent {
            0 => LayerType::FullAttention,
            _ => LayerType::LinearAttention,
        };
        Ok(Some(recurrent[..layers].iter().map(kind).collect()))
    }

    /// Linear scaling by 1 changes nothing.
    fn check_rope_scaling(&self) -> Result<()> {
        let [type_key, factor_key] = ["rope.scaling.type", "rope.scaling.factor"].map(|key| self.at(key));
        let factor = self.metadata.number(&factor_key)?.unwrap_or(1.0);
        let kind = self.metadata.text(&type_key)?.unwrap_or(if factor == 1.0 { "none" } else { "linear" });
        let is_neutral = kind == "none" || (kind == "linear" && factor == 1.0);
        ensure!(is_neutral, "{type_key} is {kind:?}; only \"none\", or \"linear\" by 1, is supported");
        Ok(())
    }

    fn at(&self, key: &str) -> String {
        format!("{}.{key}", self.architecture.name())
    }

    /// A count that may be given as a list for all layers, in which 0 says that a layer has none.
    fn optional(&self, key: &str) -> Result<Option<usize>> {
        let key = self.at(key);
        let Some(all) = self.metadata.integers(&key)? else { return Ok(None) };
        let mut counts = all.iter().copied().filter(|&count| count != 0);
        let first = counts.next().unwrap_or(0);
        ensure!(
            counts.all(|count| count == first),
            "{key} differs between layers; fimd runs models where it does not"
        );
        usize::try_from(first).map(Some).with_context(|| format!("{key} is {first}"))
    }

    fn count(&self, key: &str) -> Result<usize> {
        self.optional(key)?.with_context(|| format!("{} is missing", self.at(key)))
    }

    fn number(&self, key: &str) -> Result<f64> {
        self.metadata.number(&self.at(key))?.with_context(|| format!("{} is missing", self.at(key)))
    }
}
