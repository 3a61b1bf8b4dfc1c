//! The sizes of a model, from `config.json` or the metadata of a GGUF file, checked once so that the rest can
//! rely on them. What a layer is made of is decided here; [`super::architecture`] says which tensors that takes.

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use crate::compute::{AttentionShape, DeltaShape};
use crate::format::{Description, ModelDir, gguf::Metadata};

/// The mixer of a layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum MixerShape {
    /// Gated attention.
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
    /// Inner width that dense layers would have, told even where there are none; 0 where nothing is told.
    pub dense_width: usize,
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

    /// The shapes of the mixtures of experts.
    pub fn moe_shapes(&self) -> impl Iterator<Item = &MoeShape> {
        self.layers.iter().filter_map(|layer| match &layer.ffn {
            FfnShape::Moe(shape) => Some(shape),
            FfnShape::Dense { .. } => None,
        })
    }
}

/// Which mixer a layer has, as `layer_types` spells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum LayerType {
    FullAttention,
    LinearAttention,
}

/// `config.json` as it is spelled.
#[derive(Default, Deserialize)]
struct Raw {
    model_type: String,
    vocab_size: usize,
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: Option<usize>,
    num_key_value_heads: Option<usize>,
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
    layer_types: Option<Vec<LayerType>>,
    linear_num_key_heads: Option<usize>,
    linear_num_value_heads: Option<usize>,
    linear_key_head_dim: Option<usize>,
    linear_value_head_dim: Option<usize>,
    linear_conv_kernel_dim: Option<usize>,

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

/// What `general.architecture` says, and the prefix of the architecture's keys.
pub const ARCHITECTURE: &str = "qwen3next";

/// What `model_type` says.
const MODEL_TYPE: &str = "qwen3_next";

impl Raw {
    /// The metadata of a GGUF file, in the terms of `config.json`. Per-layer lists stand for their one value.
    fn from_gguf(dir: &ModelDir, metadata: &Metadata) -> Result<Self> {
        let architecture =
            metadata.text("general.architecture")?.context("general.architecture is missing")?;
        ensure!(
            architecture == ARCHITECTURE,
            "general.architecture is {architecture:?}; fimd runs {ARCHITECTURE:?} (Qwen3-Coder-Next and Qwen3-Next)"
        );
        check_rope_scaling(metadata)?;
        let keys = Keys(metadata);
        const SOFTMAX: usize = 1;
        let gating = keys.optional("expert_gating_func")?.unwrap_or(SOFTMAX);
        ensure!(gating == SOFTMAX, "{ARCHITECTURE}.expert_gating_func is {gating}; it must be {SOFTMAX}");
        let layers = layer_count(metadata)?;
        let mut raw = Self {
            model_type: MODEL_TYPE.into(),
            vocab_size: dir.tensor("token_embd.weight")?.shape[0],
            hidden_size: keys.count("embedding_length")?,
            num_hidden_layers: layers,
            rms_norm_eps: keys.number("attention.layer_norm_rms_epsilon")? as f32,
            max_position_embeddings: keys.count("context_length")?,
            tie_word_embeddings: !dir.contains("output.weight"),
            full_attention_interval: keys.optional("full_attention_interval")?,
            layer_types: recurrent_layers(metadata, layers)?,
            num_experts: keys.count("expert_count")?,
            num_experts_per_tok: keys.count("expert_used_count")?,
            moe_intermediate_size: keys.count("expert_feed_forward_length")?,
            shared_expert_intermediate_size: keys.count("expert_shared_feed_forward_length")?,
            norm_topk_prob: metadata.flag(&keys.at("expert_weights_norm"))?.unwrap_or(true),
            ..Self::default()
        };
        let types = raw.layer_types()?;
        if types.contains(&LayerType::FullAttention) {
            raw.read_attention(&keys)?;
        }
        if types.contains(&LayerType::LinearAttention) {
            raw.read_delta(&keys)?;
        }
        Ok(raw)
    }

    fn read_attention(&mut self, keys: &Keys) -> Result<()> {
        let head_dim = keys.count("attention.key_length")?;
        let value_dim = keys.optional("attention.value_length")?.unwrap_or(head_dim);
        ensure!(
            value_dim == head_dim,
            "{ARCHITECTURE}.attention.value_length is {value_dim}, key_length {head_dim}; they must be equal"
        );
        self.head_dim = Some(head_dim);
        self.num_attention_heads = Some(keys.count("attention.head_count")?);
        self.num_key_value_heads = Some(keys.count("attention.head_count_kv")?);
        self.rope_theta = Some(keys.number("rope.freq_base")?);
        self.rotary_dim = Some(keys.count("rope.dimension_count")?);
        Ok(())
    }

    fn read_delta(&mut self, keys: &Keys) -> Result<()> {
        let value_heads = keys.count("ssm.time_step_rank")?;
        let values = keys.count("ssm.inner_size")?;
        ensure!(
            value_heads > 0 && values.is_multiple_of(value_heads),
            "{ARCHITECTURE}.ssm.inner_size ({values}) is not a multiple of ssm.time_step_rank ({value_heads})"
        );
        self.linear_num_key_heads = Some(keys.count("ssm.group_count")?);
        self.linear_num_value_heads = Some(value_heads);
        self.linear_key_head_dim = Some(keys.count("ssm.state_size")?);
        self.linear_value_head_dim = Some(values / value_heads);
        self.linear_conv_kernel_dim = Some(keys.count("ssm.conv_kernel")?);
        Ok(())
    }
}

/// The keys of the architecture.
struct Keys<'a>(&'a Metadata);

impl Keys<'_> {
    fn at(&self, key: &str) -> String {
        format!("{ARCHITECTURE}.{key}")
    }

    fn optional(&self, key: &str) -> Result<Option<usize>> {
        uniform(self.0, &self.at(key))
    }

    fn count(&self, key: &str) -> Result<usize> {
        self.optional(key)?.with_context(|| format!("{} is missing", self.at(key)))
    }

    fn number(&self, key: &str) -> Result<f64> {
        self.0.number(&self.at(key))?.with_context(|| format!("{} is missing", self.at(key)))
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

fn recurrent_layers(metadata: &Metadata, layers: usize) -> Result<Option<Vec<LayerType>>> {
    let key = format!("{ARCHITECTURE}.attention.recurrent_layers");
    let Some(recurrent) = metadata.integers(&key)? else { return Ok(None) };
    ensure!(recurrent.len() >= layers, "{key} lists {} of {layers} layers", recurrent.len());
    let kind = |&recurrent: &i64| match recurrent {
        0 => LayerType::FullAttention,
        _ => LayerType::LinearAttention,
    };
    Ok(Some(recurrent[..layers].iter().map(kind).collect()))
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
            self.model_type == MODEL_TYPE,
            "model_type is {:?}; fimd runs {MODEL_TYPE:?} (Qwen3-Coder-Next and Qwen3-Next)",
            self.model_type
        );
        let vocab = sized("vocab_size", self.vocab_size)?;
        let hidden = sized("hidden_size", self.hidden_size)?;
        sized("num_hidden_layers", self.num_hidden_layers)?;
        ensure!(self.max_position_embeddings > 0, "max_position_embeddings is 0");
        ensure!(
            self.rms_norm_eps > 0.0 && self.rms_norm_eps < 1.0,
            "rms_norm_eps is {}; it must lie between 0 and 1",
            self.rms_norm_eps
        );
        if let Some(act) = self.hidden_act.as_deref().filter(|&act| act != "silu") {
            bail!("hidden_act is {act:?}; the architecture uses \"silu\"");
        }
        ensure!(self.attention_bias != Some(true), "attention_bias is true; biases are not supported");
        Ok(Config {
            vocab,
            hidden,
            layers: self.layers()?,
            eps: self.rms_norm_eps,
            context_max: self.max_position_embeddings,
            tied: self.tie_word_embeddings,
            dense_width: self.intermediate_size.unwrap_or(0),
            fp8_block: self.fp8_block()?,
        })
    }

    fn layers(&self) -> Result<Vec<LayerShape>> {
        let types = self.layer_types()?;
        let moe = self.moe()?;
        let layer = |(i, kind)| -> Result<LayerShape> {
            let mixer = match kind {
                LayerType::FullAttention => MixerShape::Attention(self.attention()?),
                LayerType::LinearAttention => MixerShape::DeltaNet(self.delta()?),
            };
            let ffn = if self.is_dense(i) { self.dense(i)? } else { FfnShape::Moe(moe) };
            Ok(LayerShape { mixer, ffn })
        };
        types.into_iter().enumerate().map(layer).collect()
    }

    fn layer_types(&self) -> Result<Vec<LayerType>> {
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
        ensure!(
            (1..=SIZE_MAX).contains(&width),
            "layer {layer} has no experts, and intermediate_size is {width}"
        );
        Ok(FfnShape::Dense { width })
    }

    fn moe(&self) -> Result<MoeShape> {
        let experts = sized("num_experts", self.num_experts)?;
        let top_k = sized("num_experts_per_tok", self.num_experts_per_tok)?;
        ensure!(top_k <= experts, "num_experts_per_tok ({top_k}) exceeds num_experts ({experts})");
        let shared_width = sized("shared_expert_intermediate_size", self.shared_expert_intermediate_size)?;
        Ok(MoeShape {
            experts,
            top_k,
            width: sized("moe_intermediate_size", self.moe_intermediate_size)?,
            normalize: self.norm_topk_prob,
            shared_width: Some(shared_width),
        })
    }

    fn delta(&self) -> Result<DeltaShape> {
        let shape = DeltaShape {
            key_heads: required("linear_num_key_heads", self.linear_num_key_heads)?,
            value_heads: required("linear_num_value_heads", self.linear_num_value_heads)?,
            key_dim: required("linear_key_head_dim", self.linear_key_head_dim)?,
            value_dim: required("linear_value_head_dim", self.linear_value_head_dim)?,
            conv_kernel: required("linear_conv_kernel_dim", self.linear_conv_kernel_dim)?,
            eps: self.rms_norm_eps,
        };
        ensure!(
            shape.value_heads.is_multiple_of(shape.key_heads),
            "linear_num_value_heads ({}) is not a multiple of linear_num_key_heads ({})",
            shape.value_heads,
            shape.key_heads
        );
        Ok(shape)
    }

    fn attention(&self) -> Result<AttentionShape> {
        let heads = required("num_attention_heads", self.num_attention_heads)?;
        let kv_heads = required("num_key_value_heads", self.num_key_value_heads)?;
        ensure!(
            heads.is_multiple_of(kv_heads),
            "num_attention_heads ({heads}) is not a multiple of num_key_value_heads ({kv_heads})"
        );
        let head_dim = sized("head_dim", self.head_dim.unwrap_or(self.hidden_size / heads))?;
        let (rotary_dim, rope_theta) = self.rope(head_dim)?;
        let eps = self.rms_norm_eps;
        Ok(AttentionShape { heads, kv_heads, head_dim, rotary_dim, rope_theta, gated: true, eps })
    }

    /// How many dimensions of a head are rotated, and the base of the frequencies.
    fn rope(&self, head_dim: usize) -> Result<(usize, f64)> {
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

fn sized(name: &str, size: usize) -> Result<usize> {
    ensure!((1..=SIZE_MAX).contains(&size), "{name} is {size}; it must lie between 1 and {SIZE_MAX}");
    Ok(size)
}

fn required(name: &str, size: Option<usize>) -> Result<usize> {
    sized(name, size.with_context(|| format!("{name} is missing"))?)
}
