//! `config.json` as it is spelled, and its checks.

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use serde_json::Value;

use super::architecture::Architecture;
use super::{
    Config, EXPERTS_MAX, FfnShape, LAYERS_MAX, LayerShape, MixerShape, MoeShape, SIZE_MAX, STATE_ELEMENTS_MAX,
};
use crate::compute::{AttentionShape, DeltaShape};

/// Which mixer a layer has, as `layer_types` spells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum LayerType {
    FullAttention,
    LinearAttention,
}

/// The keys that matter.
#[derive(Default, Deserialize)]
pub(super) struct Raw {
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: Option<usize>,
    pub num_key_value_heads: Option<usize>,
    pub head_dim: Option<usize>,
    pub rms_norm_eps: f32,
    pub max_position_embeddings: usize,
    #[serde(default)]
    pub tie_word_embeddings: bool,
    pub hidden_act: Option<String>,
    pub attention_bias: Option<bool>,
    pub attn_output_gate: Option<bool>,
    pub output_gate_type: Option<String>,
    pub use_sliding_window: Option<bool>,

    pub rope_theta: Option<f64>,
    pub partial_rotary_factor: Option<f64>,
    /// What GGUF says in place of a factor.
    #[serde(skip)]
    pub rotary_dim: Option<usize>,
    pub rope_scaling: Option<RopeParameters>,
    pub rope_parameters: Option<RopeParameters>,

    pub full_attention_interval: Option<usize>,
    pub layer_types: Option<Vec<LayerType>>,
    pub linear_num_key_heads: Option<usize>,
    pub linear_num_value_heads: Option<usize>,
    pub linear_key_head_dim: Option<usize>,
    pub linear_value_head_dim: Option<usize>,
    pub linear_conv_kernel_dim: Option<usize>,

    pub num_experts: Option<usize>,
    pub num_experts_per_tok: Option<usize>,
    pub moe_intermediate_size: Option<usize>,
    pub shared_expert_intermediate_size: Option<usize>,
    pub intermediate_size: Option<usize>,
    pub norm_topk_prob: Option<bool>,
    pub decoder_sparse_step: Option<usize>,
    pub mlp_only_layers: Option<Vec<usize>>,

    pub quantization_config: Option<Quantization>,
}

#[derive(Deserialize)]
pub(super) struct RopeParameters {
    rope_theta: Option<f64>,
    partial_rotary_factor: Option<f64>,
    rope_type: Option<String>,
    /// What older files say in place of `rope_type`, and newer ones beside it.
    #[serde(rename = "type")]
    older_type: Option<String>,
    factor: Option<f64>,
}

#[derive(Deserialize)]
pub(super) struct Quantization {
    quant_method: String,
    fmt: Option<String>,
    weight_block_size: Option<[usize; 2]>,
}

/// What a multimodal model says once for all its parts.
const SHARED_KEYS: [&str; 2] = ["tie_word_embeddings", "quantization_config"];

/// Reads the text of `config.json`. Multimodal models have what is said of their language model inside
/// `text_config`.
pub(super) fn read(text: &[u8]) -> Result<(Architecture, Raw)> {
    let mut config: Value = serde_json::from_slice(text)?;
    if let Some(mut inner) = config.get_mut("text_config").filter(|inner| inner.is_object()).map(Value::take)
    {
        for key in SHARED_KEYS {
            if let Some(value) = config.get_mut(key).filter(|_| inner.get(key).is_none()) {
                inner[key] = value.take();
            }
        }
        config = inner;
    }
    let model_type = config.get("model_type").and_then(Value::as_str).context("model_type is missing")?;
    let architecture = Architecture::of_model_type(model_type)?;
    Ok((architecture, serde_json::from_value(config)?))
}

impl Raw {
    /// Checks it. What only the tensors tell is for the caller to add: the root of their names, and a missing head.
    pub(super) fn check(self, architecture: Architecture) -> Result<Config> {
        let vocab = sized("vocab_size", self.vocab_size)?;
        let hidden = sized("hidden_size", self.hidden_size)?;
        let layers = self.num_hidden_layers;
        ensure!(
            (1..=LAYERS_MAX).contains(&layers),
            "num_hidden_layers is {layers}; it must lie between 1 and {LAYERS_MAX}"
        );
        ensure!(self.max_position_embeddings > 0, "max_position_embeddings is 0");
        ensure!(
            self.rms_norm_eps > 0.0 && self.rms_norm_eps < 1.0,
            "rms_norm_eps is {}; it must lie between 0 and 1",
            self.rms_norm_eps
        );
        self.check_variants()?;
        Ok(Config {
            architecture,
            vocab,
            hidden,
            layers: self.layers(architecture)?,
            eps: self.rms_norm_eps,
            context_max: self.max_position_embeddings,
            tied: self.tie_word_embeddings,
            dense_width: self.intermediate_size.unwrap_or(0),
            fp8_block: self.fp8_block()?,
            checkpoint_root: "model",
        })
    }

    /// Refuses what the configuration format has keys for and no published model uses.
    fn check_variants(&self) -> Result<()> {
        if let Some(act) = self.hidden_act.as_deref().filter(|&act| act != "silu") {
            bail!("hidden_act is {act:?}; the architecture uses \"silu\"");
        }
        if let Some(gate) = self.output_gate_type.as_deref().filter(|gate| !["swish", "silu"].contains(gate))
        {
            bail!("output_gate_type is {gate:?}; only \"swish\" is supported");
        }
        ensure!(self.attention_bias != Some(true), "attention_bias is true; such biases are not supported");
        ensure!(self.attn_output_gate != Some(false), "attn_output_gate is false; only true is supported");
        ensure!(self.use_sliding_window != Some(true), "use_sliding_window is true; only false is supported");
        Ok(())
    }

    fn layers(&self, architecture: Architecture) -> Result<Vec<LayerShape>> {
        let moe = if architecture.has_experts() { Some(self.moe(architecture)?) } else { None };
        let layer = |(i, kind)| -> Result<LayerShape> {
            let mixer = match kind {
                LayerType::FullAttention => MixerShape::Attention(self.attention(architecture)?),
                LayerType::LinearAttention => MixerShape::DeltaNet(self.delta()?),
            };
            let ffn = match moe.filter(|_| !self.is_dense(i)) {
                Some(moe) => FfnShape::Moe(moe),
                None => self.dense(i)?,
            };
            Ok(LayerShape { mixer, ffn })
        };
        self.layer_types(architecture)?.into_iter().enumerate().map(layer).collect()
    }

    pub(super) fn layer_types(&self, architecture: Architecture) -> Result<Vec<LayerType>> {
        let count = self.num_hidden_layers;
        if !architecture.is_hybrid() {
            return Ok(vec![LayerType::FullAttention; count]);
        }
        if let Some(types) = &self.layer_types {
            ensure!(
                types.len() == count,
                "layer_types lists {} layers; num_hidden_layers is {count}",
                types.len()
            );
            return Ok(types.clone());
        }
        let interval = self.full_attention_interval.unwrap_or(4);
        ensure!(interval > 0, "full_attention_interval is 0");
        let kind = |i: usize| match (i + 1).is_multiple_of(interval) {
            true => LayerType::FullAttention,
            false => LayerType::LinearAttention,
        };
        Ok((0..count).map(kind).collect())
    }

    fn is_dense(&self, layer: usize) -> bool {
        let step = self.decoder_sparse_step.unwrap_or(1).max(1);
        let listed = self.mlp_only_layers.as_deref().unwrap_or_default();
        listed.contains(&layer) || !(layer + 1).is_multiple_of(step)
    }

    fn dense(&self, layer: usize) -> Result<FfnShape> {
        let width = self.intermediate_size.unwrap_or(0);
        ensure!((1..=SIZE_MAX).contains(&width), "layer {layer} is dense, and intermediate_size is {width}");
        Ok(FfnShape::Dense { width })
    }

    fn moe(&self, architecture: Architecture) -> Result<MoeShape> {
        let experts = required("num_experts", self.num_experts)?;
        let top_k = required("num_experts_per_tok", self.num_experts_per_tok)?;
        ensure!(
            experts * self.num_hidden_layers <= EXPERTS_MAX,
            "num_experts is {experts}; all layers together may have {EXPERTS_MAX}"
        );
        ensure!(top_k <= experts, "num_experts_per_tok ({top_k}) exceeds num_experts ({experts})");
        let shared_width = architecture
            .has_shared_expert()
            .then(|| required("shared_expert_intermediate_size", self.shared_expert_intermediate_size));
        Ok(MoeShape {
            experts,
            top_k,
            width: required("moe_intermediate_size", self.moe_intermediate_size)?,
            normalize: self.norm_topk_prob.unwrap_or(architecture.normalizes()),
            shared_width: shared_width.transpose()?,
        })
    }

    fn delta(&self) -> Result<DeltaShape> {
        let shape = DeltaShape {
            key_heads: required("linear_num_key_heads", self.linear_num_key_heads)?,
            value_heads: required("linear_num_value_heads", self.linear_num_value_heads)?,
            key_dim: required("linear_key_head_dim", self.linear_key_head_dim)?,
            value_dim: required("linear_value_head_dim", self.linear_value_head_dim)?,
            conv_kernel: required("linear_conv_kernel_dim", self.linear_conv_kernel_dim)?,
            tiled: false,
            eps: self.rms_norm_eps,
        };
        ensure!(
            shape.value_heads.is_multiple_of(shape.key_heads),
            "linear_num_value_heads ({}) is not a multiple of linear_num_key_heads ({})",
            shape.value_heads,
            shape.key_heads
        );
        let elements = shape.state_len().max(shape.conv_len());
        ensure!(
            elements <= STATE_ELEMENTS_MAX,
            "the recurrent state of a layer has {elements} elements (linear_num_value_heads, linear_key_head_dim, \
             linear_value_head_dim, linear_conv_kernel_dim); at most {STATE_ELEMENTS_MAX} are supported"
        );
        Ok(shape)
    }

    fn attention(&self, architecture: Architecture) -> Result<AttentionShape> {
        let heads = required("num_attention_heads", self.num_attention_heads)?;
        let kv_heads = required("num_key_value_heads", self.num_key_value_heads)?;
        ensure!(
            heads.is_multiple_of(kv_heads),
            "num_attention_heads ({heads}) is not a multiple of num_key_value_heads ({kv_heads})"
        );
        let head_dim = sized("head_dim", self.head_dim.unwrap_or(self.hidden_size / heads))?;
        let gated = architecture.is_hybrid();
        let (rotary_dim, rope_theta) = self.rope(head_dim, if gated { 0.25 } else { 1.0 })?;
        let eps = self.rms_norm_eps;
        Ok(AttentionShape { heads, kv_heads, head_dim, rotary_dim, rope_theta, gated, eps })
    }

    /// How many dimensions of a head are rotated, `factor_default` of all where nothing is said, and the base of the
    /// frequencies.
    fn rope(&self, head_dim: usize, factor_default: f64) -> Result<(usize, f64)> {
        let nested = self.rope_parameters.as_ref().or(self.rope_scaling.as_ref());
        if let Some(kind) = nested.and_then(RopeParameters::unsupported_type) {
            bail!("rope type {kind:?} is not supported; only \"default\", or \"linear\" by 1, is");
        }
        let rope_theta = nested
            .and_then(|rope| rope.rope_theta)
            .or(self.rope_theta)
            .context("rope_theta is missing, at top level and in rope_parameters")?;
        ensure!(
            rope_theta.is_finite() && rope_theta > 0.0,
            "rope_theta is {rope_theta}; it must be positive"
        );
        let factor = nested.and_then(|rope| rope.partial_rotary_factor).or(self.partial_rotary_factor);
        let factor = factor.unwrap_or(factor_default);
        ensure!(
            factor > 0.0 && factor <= 1.0,
            "partial_rotary_factor is {factor}; it must lie between 0 and 1"
        );
        let rotary_dim = self.rotary_dim.unwrap_or((head_dim as f64 * factor) as usize);
        ensure!(
            rotary_dim.is_multiple_of(2) && rotary_dim <= head_dim,
            "{rotary_dim} of {head_dim} dimensions of a head are rotated; the count must be even and fit"
        );
        Ok((rotary_dim, rope_theta))
    }

    fn fp8_block(&self) -> Result<Option<[usize; 2]>> {
        let Some(quantization) = &self.quantization_config else { return Ok(None) };
        ensure!(
            quantization.quant_method == "fp8" && quantization.fmt.as_deref().unwrap_or("e4m3") == "e4m3",
            "quantization_config is {} {}; fimd reads fp8 e4m3 with block scales",
            quantization.quant_method,
            quantization.fmt.as_deref().unwrap_or("")
        );
        let Some(block) = quantization.weight_block_size else {
            bail!("quantization_config has no weight_block_size; fimd reads fp8 with block scales");
        };
        ensure!(block.iter().all(|size| (1..=SIZE_MAX).contains(size)), "weight_block_size is {block:?}");
        Ok(Some(block))
    }
}

impl RopeParameters {
    fn unsupported_type(&self) -> Option<&str> {
        let is_neutral = |kind: &str| kind == "default" || (kind == "linear" && self.factor == Some(1.0));
        self.rope_type.as_deref().or(self.older_type.as_deref()).filter(|kind| !is_neutral(kind))
    }
}

fn sized(name: &str, size: usize) -> Result<usize> {
    ensure!((1..=SIZE_MAX).contains(&size), "{name} is {size}; it must lie between 1 and {SIZE_MAX}");
    Ok(size)
}

fn required(name: &str, size: Option<usize>) -> Result<usize> {
    sized(name, size.with_context(|| format!("{name} is missing"))?)
}
