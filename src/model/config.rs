//! The sizes of a model, from `config.json` or the metadata of a GGUF file, checked once so that the rest can
//! rely on them.

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use crate::compute::{AttentionShape, DeltaShape};
use crate::format::{Description, ModelDir, gguf::Metadata};

/// Which mixer a layer has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mixer {
    /// Gated attention.
    FullAttention,
    /// Gated DeltaNet.
    LinearAttention,
}

/// Sizes of the mixture of experts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MoeShape {
    /// Routed experts of a layer.
    pub experts: usize,
    /// Experts that a token visits.
    pub top_k: usize,
    /// Inner width of a routed expert.
    pub width: usize,
    /// Inner width of the shared expert.
    pub shared_width: usize,
    /// Inner width of a layer without experts.
    pub dense_width: usize,
    /// Whether the weights of the visited experts are scaled to sum to one.
    pub normalize: bool,
}

/// A checked model configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Rows of the embedding; at least the tokens of the tokenizer.
    pub vocab: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// The mixer of every layer.
    pub layers: Vec<Mixer>,
    /// The layers that have one dense feed-forward block instead of experts.
    pub dense_layers: Vec<usize>,
    /// Epsilon of the norms.
    pub eps: f32,
    /// Positions the model was made for.
    pub context_max: usize,
    /// Whether the head is the embedding.
    pub tied: bool,
    /// Sizes of gated attention.
    pub attention: AttentionShape,
    /// Sizes of Gated DeltaNet.
    pub delta: DeltaShape,
    /// Sizes of the experts.
    pub moe: MoeShape,
    /// Block size of FP8 weights, `[rows, cols]`, where the checkpoint has such weights.
    pub fp8_block: Option<[usize; 2]>,
}

/// No size in a configuration may exceed this: products of three sizes then fit 64 bits.
const SIZE_MAX: usize = 1 << 20;

impl Config {
    /// Reads and checks what `dir` says of its model. Fails when something is missing, contradictory or of
    /// another architecture.
    pub fn read(dir: &ModelDir) -> Result<Self> {
        let origin = dir.origin();
        match dir.description() {
            Description::Folder(folder) => {
                let raw: Raw = serde_json::from_slice(&folder.config)
                    .with_context(|| format!("{origin}: config.json does not describe a model"))?;
                raw.check().with_context(|| format!("{origin}: config.json"))
            }
            Description::Gguf(metadata) => {
                let raw = Raw::from_gguf(dir, metadata)
                    .with_context(|| format!("{origin}: the metadata does not describe a model"))?;
                raw.check().with_context(|| format!("{origin}: the metadata, in terms of config.json"))
            }
        }
    }

    /// Whether layer `layer` has experts.
    pub fn sparse(&self, layer: usize) -> bool {
        !self.dense_layers.contains(&layer)
    }

    /// How many layers have this mixer.
    pub fn count(&self, mixer: Mixer) -> usize {
        self.layers.iter().filter(|&&layer| layer == mixer).count()
    }
}

/// `config.json` as it is spelled.
#[derive(Default, Deserialize)]
struct Raw {
    model_type: String,
    vocab_size: usize,
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: usize,
    head_dim: Option<usize>,
    rms_norm_eps: f32,
    max_position_embeddings: usize,
    #[serde(default)]
    tie_word_embeddings: bool,
    hidden_act: Option<String>,
    attention_bias: Option<bool>,

    rope_theta: Option<f64>,
    partial_rotary_factor: Option<f64>,
    /// What GGUF says in place of a factor.
    #[serde(skip)]
    rotary_dim: Option<usize>,
    rope_scaling: Option<RopeParameters>,
    rope_parameters: Option<RopeParameters>,

    full_attention_interval: Option<usize>,
    layer_types: Option<Vec<Mixer>>,
    linear_num_key_heads: usize,
    linear_num_value_heads: usize,
    linear_key_head_dim: usize,
    linear_value_head_dim: usize,
    linear_conv_kernel_dim: usize,

    num_experts: usize,
    num_experts_per_tok: usize,
    moe_intermediate_size: usize,
    shared_expert_intermediate_size: usize,
    intermediate_size: Option<usize>,
    #[serde(default = "yes")]
    norm_topk_prob: bool,
    decoder_sparse_step: Option<usize>,
    mlp_only_layers: Option<Vec<usize>>,

    quantization_config: Option<Quantization>,
}

#[derive(Deserialize)]
struct RopeParameters {
    rope_theta: Option<f64>,
    partial_rotary_factor: Option<f64>,
    #[serde(alias = "type")]
    rope_type: Option<String>,
}

#[derive(Deserialize)]
struct Quantization {
    quant_method: String,
    fmt: Option<String>,
    weight_block_size: Option<[usize; 2]>,
}

fn yes() -> bool {
    true
}

const ARCHITECTURE: &str = "qwen3next";

impl Raw {
    /// The metadata of a GGUF file, in the terms of `config.json`. Per-layer lists stand for their one value.
    fn from_gguf(dir: &ModelDir, metadata: &Metadata) -> Result<Self> {
        let architecture =
            metadata.text("general.architecture")?.context("general.architecture is missing")?;
        ensure!(
            architecture == ARCHITECTURE,
            "general.architecture is {architecture:?}; fimd runs {ARCHITECTURE:?} (Qwen3-Coder-Next and Qwen3-Next)"
        );
        let at = |key: &str| format!("{ARCHITECTURE}.{key}");
        let optional = |key: &str| uniform(metadata, &at(key));
        let count = |key: &str| optional(key)?.with_context(|| format!("{} is missing", at(key)));
        let number =
            |key: &str| metadata.number(&at(key))?.with_context(|| format!("{} is missing", at(key)));

        check_rope_scaling(metadata)?;
        let head_dim = count("attention.key_length")?;
        let value_dim = optional("attention.value_length")?.unwrap_or(head_dim);
        ensure!(
            value_dim == head_dim,
            "{ARCHITECTURE}.attention.value_length is {value_dim}, key_length {head_dim}; they must be equal"
        );
        const SOFTMAX: usize = 1;
        let gating = optional("expert_gating_func")?.unwrap_or(SOFTMAX);
        ensure!(gating == SOFTMAX, "{ARCHITECTURE}.expert_gating_func is {gating}; it must be {SOFTMAX}");
        let layers = layer_count(metadata)?;
        let value_heads = count("ssm.time_step_rank")?;
        let values = count("ssm.inner_size")?;
        ensure!(
            value_heads > 0 && values.is_multiple_of(value_heads),
            "{ARCHITECTURE}.ssm.inner_size ({values}) is not a multiple of ssm.time_step_rank ({value_heads})"
        );
        Ok(Self {
            model_type: "qwen3_next".into(),
            vocab_size: dir.tensor("token_embd.weight")?.shape[0],
            hidden_size: count("embedding_length")?,
            num_hidden_layers: layers,
            num_attention_heads: count("attention.head_count")?,
            num_key_value_heads: count("attention.head_count_kv")?,
            head_dim: Some(head_dim),
            rms_norm_eps: number("attention.layer_norm_rms_epsilon")? as f32,
            max_position_embeddings: count("context_length")?,
            tie_word_embeddings: !dir.contains("output.weight"),
            rope_theta: Some(number("rope.freq_base")?),
            rotary_dim: Some(count("rope.dimension_count")?),
            full_attention_interval: optional("full_attention_interval")?,
            layer_types: recurrent_layers(metadata, layers)?,
            linear_num_key_heads: count("ssm.group_count")?,
            linear_num_value_heads: value_heads,
            linear_key_head_dim: count("ssm.state_size")?,
            linear_value_head_dim: values / value_heads,
            linear_conv_kernel_dim: count("ssm.conv_kernel")?,
            num_experts: count("expert_count")?,
            num_experts_per_tok: count("expert_used_count")?,
            moe_intermediate_size: count("expert_feed_forward_length")?,
            shared_expert_intermediate_size: count("expert_shared_feed_forward_length")?,
            norm_topk_prob: metadata.flag(&at("expert_weights_norm"))?.unwrap_or(true),
            ..Self::default()
        })
    }
}

/// The layers that run: those that predict further tokens stand after them.
fn layer_count(metadata: &Metadata) -> Result<usize> {
    let (blocks_key, nextn_key) =
        (format!("{ARCHITECTURE}.block_count"), format!("{ARCHITECTURE}.nextn_predict_layers"));
    let blocks = metadata.count(&blocks_key)?.with_context(|| format!("{blocks_key} is missing"))?;
    let nextn = metadata.count(&nextn_key)?.unwrap_or(0);
    let layers = blocks.checked_sub(nextn);
    let layers = layers.with_context(|| format!("{nextn_key} ({nextn}) exceeds {blocks_key} ({blocks})"))?;
    ensure!(layers <= SIZE_MAX, "{blocks_key} is {blocks}; it must lie between 1 and {SIZE_MAX}");
    Ok(layers)
}

fn recurrent_layers(metadata: &Metadata, layers: usize) -> Result<Option<Vec<Mixer>>> {
    let key = format!("{ARCHITECTURE}.attention.recurrent_layers");
    let Some(recurrent) = metadata.integers(&key)? else { return Ok(None) };
    ensure!(recurrent.len() >= layers, "{key} lists {} of {layers} layers", recurrent.len());
    let mixer = |&recurrent: &i64| if recurrent == 0 { Mixer::FullAttention } else { Mixer::LinearAttention };
    Ok(Some(recurrent[..layers].iter().map(mixer).collect()))
}

fn check_rope_scaling(metadata: &Metadata) -> Result<()> {
    let (type_key, factor_key) =
        (format!("{ARCHITECTURE}.rope.scaling.type"), format!("{ARCHITECTURE}.rope.scaling.factor"));
    let factor = metadata.number(&factor_key)?.unwrap_or(1.0);
    let kind = metadata.text(&type_key)?.unwrap_or(if factor == 1.0 { "none" } else { "linear" });
    ensure!(kind == "none", "{type_key} is {kind:?}; only \"none\" is supported");
    Ok(())
}

/// A count that may be given as a list for all layers, in which 0 says that a layer has none.
fn uniform(metadata: &Metadata, key: &str) -> Result<Option<usize>> {
    let Some(all) = metadata.integers(key)? else { return Ok(None) };
    let mut counts = all.iter().copied().filter(|&count| count != 0);
    let first = counts.next().unwrap_or(0);
    ensure!(
        counts.all(|count| count == first),
        "{key} differs between layers; fimd runs models where it does not"
    );
    usize::try_from(first).map(Some).with_context(|| format!("{key} is {first}"))
}

impl Raw {
    fn check(self) -> Result<Config> {
        ensure!(
            self.model_type == "qwen3_next",
            "model_type is {:?}; fimd runs \"qwen3_next\" (Qwen3-Coder-Next and Qwen3-Next)",
            self.model_type
        );
        let head_dim = self.head_dim.unwrap_or(self.hidden_size / self.num_attention_heads.max(1));
        for (name, size) in [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_attention_heads", self.num_attention_heads),
            ("num_key_value_heads", self.num_key_value_heads),
            ("head_dim", head_dim),
            ("linear_num_key_heads", self.linear_num_key_heads),
            ("linear_num_value_heads", self.linear_num_value_heads),
            ("linear_key_head_dim", self.linear_key_head_dim),
            ("linear_value_head_dim", self.linear_value_head_dim),
            ("linear_conv_kernel_dim", self.linear_conv_kernel_dim),
            ("num_experts", self.num_experts),
            ("num_experts_per_tok", self.num_experts_per_tok),
            ("moe_intermediate_size", self.moe_intermediate_size),
            ("shared_expert_intermediate_size", self.shared_expert_intermediate_size),
        ] {
            ensure!((1..=SIZE_MAX).contains(&size), "{name} is {size}; it must lie between 1 and {SIZE_MAX}");
        }
        ensure!(self.max_position_embeddings > 0, "max_position_embeddings is 0");
        ensure!(
            self.rms_norm_eps > 0.0 && self.rms_norm_eps < 1.0,
            "rms_norm_eps is {}; it must lie between 0 and 1",
            self.rms_norm_eps
        );
        ensure!(
            self.num_attention_heads.is_multiple_of(self.num_key_value_heads),
            "num_attention_heads ({}) is not a multiple of num_key_value_heads ({})",
            self.num_attention_heads,
            self.num_key_value_heads
        );
        ensure!(
            self.linear_num_value_heads.is_multiple_of(self.linear_num_key_heads),
            "linear_num_value_heads ({}) is not a multiple of linear_num_key_heads ({})",
            self.linear_num_value_heads,
            self.linear_num_key_heads
        );
        ensure!(
            self.num_experts_per_tok <= self.num_experts,
            "num_experts_per_tok ({}) exceeds num_experts ({})",
            self.num_experts_per_tok,
            self.num_experts
        );
        if let Some(act) = self.hidden_act.as_deref().filter(|&act| act != "silu") {
            bail!("hidden_act is {act:?}; the architecture uses \"silu\"");
        }
        ensure!(self.attention_bias != Some(true), "attention_bias is true; biases are not supported");
        let dense_layers = self.dense_layers();
        let dense_width = self.intermediate_size.unwrap_or(0);
        ensure!(
            dense_layers.is_empty() || (1..=SIZE_MAX).contains(&dense_width),
            "layer {} has no experts, and intermediate_size is {dense_width}",
            dense_layers[0]
        );

        Ok(Config {
            vocab: self.vocab_size,
            hidden: self.hidden_size,
            layers: self.layers()?,
            dense_layers,
            eps: self.rms_norm_eps,
            context_max: self.max_position_embeddings,
            tied: self.tie_word_embeddings,
            attention: self.attention(head_dim)?,
            delta: DeltaShape {
                key_heads: self.linear_num_key_heads,
                value_heads: self.linear_num_value_heads,
                key_dim: self.linear_key_head_dim,
                value_dim: self.linear_value_head_dim,
                conv_kernel: self.linear_conv_kernel_dim,
                eps: self.rms_norm_eps,
            },
            moe: MoeShape {
                experts: self.num_experts,
                top_k: self.num_experts_per_tok,
                width: self.moe_intermediate_size,
                shared_width: self.shared_expert_intermediate_size,
                dense_width,
                normalize: self.norm_topk_prob,
            },
            fp8_block: self.fp8_block()?,
        })
    }

    fn layers(&self) -> Result<Vec<Mixer>> {
        let count = self.num_hidden_layers;
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
        let mixer = |i: usize| {
            if (i + 1).is_multiple_of(interval) { Mixer::FullAttention } else { Mixer::LinearAttention }
        };
        Ok((0..count).map(mixer).collect())
    }

    fn dense_layers(&self) -> Vec<usize> {
        let step = self.decoder_sparse_step.unwrap_or(1).max(1);
        let listed = self.mlp_only_layers.as_deref().unwrap_or_default();
        (0..self.num_hidden_layers).filter(|i| listed.contains(i) || !(i + 1).is_multiple_of(step)).collect()
    }

    fn attention(&self, head_dim: usize) -> Result<AttentionShape> {
        let nested = self.rope_parameters.as_ref().or(self.rope_scaling.as_ref());
        if let Some(kind) =
            nested.and_then(|rope| rope.rope_type.as_deref()).filter(|&kind| kind != "default")
        {
            bail!("rope type {kind:?} is not supported; only \"default\" is");
        }
        let rope_theta = nested
            .and_then(|rope| rope.rope_theta)
            .or(self.rope_theta)
            .context("rope_theta is missing, at top level and in rope_parameters")?;
        ensure!(
            rope_theta.is_finite() && rope_theta > 0.0,
            "rope_theta is {rope_theta}; it must be positive"
        );
        let factor =
            nested.and_then(|rope| rope.partial_rotary_factor).or(self.partial_rotary_factor).unwrap_or(0.25);
        ensure!(
            factor > 0.0 && factor <= 1.0,
            "partial_rotary_factor is {factor}; it must lie between 0 and 1"
        );
        let rotary_dim = self.rotary_dim.unwrap_or((head_dim as f64 * factor) as usize);
        ensure!(
            rotary_dim.is_multiple_of(2) && rotary_dim <= head_dim,
            "{rotary_dim} of {head_dim} dimensions of a head are rotated; the count must be even and fit"
        );
        Ok(AttentionShape {
            heads: self.num_attention_heads,
            kv_heads: self.num_key_value_heads,
            head_dim,
            rotary_dim,
            rope_theta,
            gated: true,
            eps: self.rms_norm_eps,
        })
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
