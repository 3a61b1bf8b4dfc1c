//! The published checkpoints: `A_log`, norms as `w` of `1 + w` (all but `linear_attn.norm`), experts one by
//! one, and FP8 matrices with a sibling `*_scale_inv` of block scales.

use anyhow::{Result, bail, ensure};

use super::{Bytes, Counting, Source, transpose};
use crate::base::dtype::DType;
use crate::compute::{
    AttentionWeights, Backend, BlockScale, DeltaProjection, DeltaWeights, ExpertWeights, HeadWeights,
    MoeWeights, RoutedWeights, SharedWeights, StoredMatrix,
};
use crate::format::{ModelDir, Tensor};
use crate::model::config::Config;

/// The tensors of a checkpoint in safetensors.
pub struct Safetensors<'a, B> {
    pub dir: &'a ModelDir,
    pub config: &'a Config,
    pub backend: Counting<'a, B>,
}

const EMBEDDING: &str = "model.embed_tokens";

impl<B: Backend> Source<B> for Safetensors<'_, B> {
    fn embedding(&mut self) -> Result<B::Matrix> {
        self.matrix(EMBEDDING, self.config.vocab, self.config.hidden)
    }

    fn head(&mut self) -> Result<HeadWeights<B>> {
        let output = if self.config.tied { EMBEDDING } else { "lm_head" };
        Ok(HeadWeights {
            norm: self.norm("model.norm", self.config.hidden)?,
            eps: self.config.eps,
            output: self.matrix(output, self.config.vocab, self.config.hidden)?,
        })
    }

    fn attention(&mut self, layer: usize) -> Result<AttentionWeights<B>> {
        let layer = format!("model.layers.{layer}");
        let hidden = self.config.hidden;
        let shape = self.config.attention;
        let (query_width, kv_width) = (shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim);
        let at = |name: &str| format!("{layer}.self_attn.{name}");
        Ok(AttentionWeights {
            shape,
            norm: self.norm(&format!("{layer}.input_layernorm"), hidden)?,
            query: self.matrix(&at("q_proj"), 2 * query_width, hidden)?,
            key: self.matrix(&at("k_proj"), kv_width, hidden)?,
            value: self.matrix(&at("v_proj"), kv_width, hidden)?,
            bias: None,
            output: self.matrix(&at("o_proj"), hidden, query_width)?,
            query_norm: Some(self.norm(&at("q_norm"), shape.head_dim)?),
            key_norm: Some(self.norm(&at("k_norm"), shape.head_dim)?),
        })
    }

    fn delta(&mut self, layer: usize) -> Result<DeltaWeights<B>> {
        let layer = format!("model.layers.{layer}");
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

    fn moe(&mut self, layer: usize) -> Result<MoeWeights<B>> {
        let (index, sparse) = (layer, self.config.sparse(layer));
        let layer = format!("model.layers.{layer}");
        let hidden = self.config.hidden;
        let shape = self.config.moe;
        let norm = self.norm(&format!("{layer}.post_attention_layernorm"), hidden)?;
        let at = |name: &str| format!("{layer}.mlp.{name}");
        if !sparse {
            let expert = self.expert(&format!("{layer}.mlp"), shape.dense_width)?;
            let shared = Some(SharedWeights { expert, gate: None });
            return Ok(MoeWeights { norm, eps: self.config.eps, routed: None, shared });
        }
        let experts = (0..shape.experts)
            .map(|e| self.stored_expert(&at(&format!("experts.{e}")), shape.width))
            .collect::<Result<_>>()?;
        let experts = self.backend.experts(index, experts)?;
        Ok(MoeWeights {
            norm,
            eps: self.config.eps,
            routed: Some(RoutedWeights {
                router: self.matrix(&at("gate"), shape.experts, hidden)?,
                experts,
                top_k: shape.top_k,
                normalize: shape.normalize,
            }),
            shared: Some(SharedWeights {
                expert: self.expert(&at("shared_expert"), shape.shared_width)?,
                gate: Some(self.matrix(&at("shared_expert_gate"), 1, hidden)?),
            }),
        })
    }

    fn bytes(&self) -> Bytes {
        self.backend.bytes
    }
}

impl<B: Backend> Safetensors<'_, B> {
    fn expert(&mut self, name: &str, width: usize) -> Result<ExpertWeights<B>> {
        let [gate, up, down] = self.stored_expert(name, width)?.map(|matrix| self.backend.matrix(matrix));
        Ok(ExpertWeights { gate: gate?, up: up?, down: down? })
    }

    fn stored_expert(&self, name: &str, width: usize) -> Result<[StoredMatrix; 3]> {
        let hidden = self.config.hidden;
        Ok([
            self.stored(&format!("{name}.gate_proj"), width, hidden)?,
            self.stored(&format!("{name}.up_proj"), width, hidden)?,
            self.stored(&format!("{name}.down_proj"), hidden, width)?,
        ])
    }

    /// `1 + w` of a zero-centred norm.
    fn norm(&mut self, name: &str, len: usize) -> Result<B::Vector> {
        let mut values = self.vector(&format!("{name}.weight"), &[len])?;
        for value in &mut values {
            *value += 1.0;
        }
        self.backend.vector(values)
    }

    fn vector(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        vector(self.dir, name, shape)
    }

    fn matrix(&mut self, name: &str, rows: usize, cols: usize) -> Result<B::Matrix> {
        let stored = self.stored(name, rows, cols)?;
        self.backend.matrix(stored)
    }

    fn stored(&self, name: &str, rows: usize, cols: usize) -> Result<StoredMatrix> {
        let values = tensor(self.dir, &format!("{name}.weight"), &[rows, cols])?;
        let scale = block_scale(self.dir, self.config, &values)?;
        Ok(StoredMatrix { rows, cols, values, scale })
    }
}

/// The scales of a weight: it is FP8 with block scales exactly when it has a sibling `*_scale_inv`.
pub fn block_scale(dir: &ModelDir, config: &Config, weight: &Tensor) -> Result<Option<BlockScale>> {
    let (origin, name) = (dir.origin(), format!("{}_scale_inv", weight.name));
    let scaled = dir.contains(&name);
    ensure!(
        scaled == (weight.dtype == DType::F8E4M3),
        "{origin}: {} is {} {} {name}",
        weight.name,
        weight.dtype,
        if scaled { "with" } else { "without" }
    );
    if !scaled {
        return Ok(None);
    }
    let (Some([block_rows, block_cols]), &[rows, cols]) = (config.fp8_block, &weight.shape[..]) else {
        bail!("{origin}: {name} exists, but config.json has no quantization_config");
    };
    let values = vector(dir, &name, &[rows.div_ceil(block_rows), cols.div_ceil(block_cols)])?;
    Ok(Some(BlockScale { values, block_rows, block_cols }))
}

fn vector(dir: &ModelDir, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
    let tensor = tensor(dir, name, shape)?;
    ensure!(tensor.dtype != DType::F8E4M3, "{}: {name} is stored as FP8, without scales", dir.origin());
    Ok(tensor.to_f32())
}

/// A tensor, which must have this shape.
fn tensor(dir: &ModelDir, name: &str, shape: &[usize]) -> Result<Tensor> {
    let tensor = dir.tensor(name)?;
    ensure!(
        tensor.shape == shape,
        "{}: tensor {name} has shape {:?}; config.json asks for {shape:?}",
        dir.origin(),
        tensor.shape
    );
    Ok(tensor)
}
