//! How a checkpoint names and stores what the model computes with.
//!
//! The published files keep `A_log`, norms as `w` of `1 + w` (all but `linear_attn.norm`), and FP8
//! matrices with a sibling `*_scale_inv` of block scales.

use anyhow::{Result, ensure};

use super::config::{Config, Mixer};
use super::weights::{Layer, MixerWeights, WeightBytes, Weights};
use crate::base::dtype::DType;
use crate::compute::{
    AttentionWeights, Backend, BlockScale, DeltaProjection, DeltaWeights, ExpertWeights, HeadWeights,
    MoeWeights, RoutedWeights, StoredMatrix,
};
use crate::format::{ModelDir, Tensor};

/// Reads all weights of `dir` into `backend`, checking every shape against `config`.
pub fn load<B: Backend>(dir: &ModelDir, config: &Config, backend: &mut B) -> Result<Weights<B>> {
    let mut reader = Reader { dir, config, backend, bytes: 0, expert_bytes: 0 };
    let mut layers = Vec::with_capacity(config.layers.len());
    let (mut attention_layers, mut delta_layers) = (0, 0);
    for (i, mixer) in config.layers.iter().enumerate() {
        let prefix = format!("model.layers.{i}");
        let mixer = match mixer {
            Mixer::FullAttention => {
                attention_layers += 1;
                MixerWeights::Attention(reader.attention(&prefix)?, attention_layers - 1)
            }
            Mixer::LinearAttention => {
                delta_layers += 1;
                MixerWeights::Delta(reader.delta(&prefix)?, delta_layers - 1)
            }
        };
        layers.push(Layer { mixer, moe: reader.moe(&prefix, config.sparse(i))? });
    }
    const EMBEDDING: &str = "model.embed_tokens";
    let head = if config.tied { EMBEDDING } else { "lm_head" };
    let head = HeadWeights {
        norm: reader.norm("model.norm", config.hidden)?,
        output: reader.matrix(head, config.vocab, config.hidden)?,
    };
    let all_but_embedding = reader.bytes;
    let embedding = reader.matrix(EMBEDDING, config.vocab, config.hidden)?;
    let bytes = WeightBytes {
        embedding: reader.bytes - all_but_embedding,
        vocab: config.vocab as u64,
        experts: reader.expert_bytes,
        experts_visited: config.moe.top_k as f64 / config.moe.experts as f64,
        rest: all_but_embedding - reader.expert_bytes,
    };
    Ok(Weights { embedding, layers, head, bytes })
}

struct Reader<'a, B> {
    dir: &'a ModelDir,
    config: &'a Config,
    backend: &'a mut B,
    /// Bytes of all tensors read so far.
    bytes: u64,
    /// Those of routed experts.
    expert_bytes: u64,
}

impl<B: Backend> Reader<'_, B> {
    fn attention(&mut self, layer: &str) -> Result<AttentionWeights<B>> {
        let hidden = self.config.hidden;
        let shape = self.config.attention;
        let (query_width, kv_width) = (shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim);
        let at = |name: &str| format!("{layer}.self_attn.{name}");
        Ok(AttentionWeights {
            shape,
            norm: self.norm(&format!("{layer}.input_layernorm"), hidden)?,
            query_gate: self.matrix(&at("q_proj"), 2 * query_width, hidden)?,
            key: self.matrix(&at("k_proj"), kv_width, hidden)?,
            value: self.matrix(&at("v_proj"), kv_width, hidden)?,
            output: self.matrix(&at("o_proj"), hidden, query_width)?,
            query_norm: self.norm(&at("q_norm"), shape.head_dim)?,
            key_norm: self.norm(&at("k_norm"), shape.head_dim)?,
        })
    }

    fn delta(&mut self, layer: &str) -> Result<DeltaWeights<B>> {
        let hidden = self.config.hidden;
        let shape = self.config.delta;
        let values = shape.value_heads * shape.value_dim;
        let at = |name: &str| format!("{layer}.linear_attn.{name}");
        let decay = self.vector(&at("A_log"), &[shape.value_heads])?.iter().map(|a| -a.exp()).collect();
        let dt_bias = self.vector(&at("dt_bias"), &[shape.value_heads])?;
        let conv = self.vector(&at("conv1d.weight"), &[shape.channels(), 1, shape.conv_kernel])?;
        let conv = transpose(&conv, shape.conv_kernel);
        let output_norm = self.vector(&at("norm.weight"), &[shape.value_dim])?;
        Ok(DeltaWeights {
            shape,
            norm: self.norm(&format!("{layer}.input_layernorm"), hidden)?,
            projection: DeltaProjection::Grouped(self.matrix(
                &at("in_proj_qkvz"),
                shape.channels() + values,
                hidden,
            )?),
            ba: self.matrix(&at("in_proj_ba"), 2 * shape.value_heads, hidden)?,
            conv: self.backend.vector(conv)?,
            decay: self.backend.vector(decay)?,
            dt_bias: self.backend.vector(dt_bias)?,
            output_norm: self.backend.vector(output_norm)?,
            output: self.matrix(&at("out_proj"), hidden, values)?,
        })
    }

    fn moe(&mut self, layer: &str, sparse: bool) -> Result<MoeWeights<B>> {
        let hidden = self.config.hidden;
        let shape = self.config.moe;
        let norm = self.norm(&format!("{layer}.post_attention_layernorm"), hidden)?;
        let at = |name: &str| format!("{layer}.mlp.{name}");
        if !sparse {
            let shared = self.expert(&format!("{layer}.mlp"), shape.dense_width)?;
            return Ok(MoeWeights { norm, routed: None, shared, shared_gate: None });
        }
        let before = self.bytes;
        let experts = (0..shape.experts)
            .map(|e| self.expert(&at(&format!("experts.{e}")), shape.width))
            .collect::<Result<_>>()?;
        self.expert_bytes += self.bytes - before;
        Ok(MoeWeights {
            norm,
            routed: Some(RoutedWeights {
                router: self.matrix(&at("gate"), shape.experts, hidden)?,
                experts,
                top_k: shape.top_k,
                normalize: shape.normalize,
            }),
            shared: self.expert(&at("shared_expert"), shape.shared_width)?,
            shared_gate: Some(self.matrix(&at("shared_expert_gate"), 1, hidden)?),
        })
    }

    fn expert(&mut self, name: &str, width: usize) -> Result<ExpertWeights<B>> {
        let hidden = self.config.hidden;
        Ok(ExpertWeights {
            gate: self.matrix(&format!("{name}.gate_proj"), width, hidden)?,
            up: self.matrix(&format!("{name}.up_proj"), width, hidden)?,
            down: self.matrix(&format!("{name}.down_proj"), hidden, width)?,
        })
    }

    /// `1 + w` of a zero-centred norm.
    fn norm(&mut self, name: &str, len: usize) -> Result<B::Vector> {
        let mut values = self.vector(&format!("{name}.weight"), &[len])?;
        for value in &mut values {
            *value += 1.0;
        }
        self.backend.vector(values)
    }

    fn vector(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let tensor = self.tensor(name, shape)?;
        ensure!(
            tensor.dtype != DType::F8E4M3,
            "{}: {name} is stored as FP8, without scales",
            self.dir.origin()
        );
        Ok(tensor.to_f32())
    }

    /// A weight is FP8 with block scales exactly when it has a sibling `*_scale_inv`.
    fn matrix(&mut self, name: &str, rows: usize, cols: usize) -> Result<B::Matrix> {
        let name = format!("{name}.weight");
        let values = self.tensor(&name, &[rows, cols])?;
        let scale_name = format!("{name}_scale_inv");
        let scaled = self.dir.contains(&scale_name);
        ensure!(
            scaled == (values.dtype == DType::F8E4M3),
            "{}: {name} is {} {} {scale_name}",
            self.dir.origin(),
            values.dtype,
            if scaled { "with" } else { "without" }
        );
        let scale = if scaled { Some(self.scale(&scale_name, rows, cols)?) } else { None };
        self.backend.matrix(StoredMatrix { rows, cols, values, scale })
    }

    fn scale(&mut self, name: &str, rows: usize, cols: usize) -> Result<BlockScale> {
        let Some([block_rows, block_cols]) = self.config.fp8_block else {
            anyhow::bail!("{}: {name} exists, but config.json has no quantization_config", self.dir.origin());
        };
        let shape = [rows.div_ceil(block_rows), cols.div_ceil(block_cols)];
        Ok(BlockScale { values: self.vector(name, &shape)?, block_rows, block_cols })
    }

    fn tensor(&mut self, name: &str, shape: &[usize]) -> Result<Tensor> {
        let tensor = self.dir.tensor(name)?;
        self.bytes += tensor.bytes.len() as u64;
        ensure!(
            tensor.shape == shape,
            "{}: tensor {name} has shape {:?}; config.json asks for {shape:?}",
            self.dir.origin(),
            tensor.shape
        );
        Ok(tensor)
    }
}

/// From `[rows, cols]` to `[cols, rows]`.
fn transpose(values: &[f32], cols: usize) -> Vec<f32> {
    (0..cols).flat_map(|col| values.iter().skip(col).step_by(cols)).copied().collect()
}
