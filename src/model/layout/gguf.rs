//! GGUF files: `-exp(A_log)`, norms with the 1 added, the experts of a layer in one tensor, and the projection
//! of Gated DeltaNet split by kind, or as one matrix grouped by heads in older files.

use anyhow::{Result, ensure};

use super::{Bytes, Counting, Source, transpose};
use crate::compute::{
    AttentionWeights, Backend, DeltaProjection, DeltaWeights, ExpertWeights, HeadWeights, MoeWeights,
    RoutedWeights, SharedWeights, StoredMatrix,
};
use crate::format::{ModelDir, Tensor};
use crate::model::config::Config;

/// The tensors of a GGUF file.
pub struct Gguf<'a, B> {
    pub dir: &'a ModelDir,
    pub config: &'a Config,
    pub backend: Counting<'a, B>,
}

const EMBEDDING: &str = "token_embd";

impl<B: Backend> Source<B> for Gguf<'_, B> {
    fn embedding(&mut self) -> Result<B::Matrix> {
        self.matrix(EMBEDDING, self.config.vocab, self.config.hidden)
    }

    fn head(&mut self) -> Result<HeadWeights<B>> {
        let output = if self.config.tied { EMBEDDING } else { "output" };
        Ok(HeadWeights {
            norm: self.vector("output_norm.weight", &[self.config.hidden])?,
            eps: self.config.eps,
            output: self.matrix(output, self.config.vocab, self.config.hidden)?,
        })
    }

    fn attention(&mut self, layer: usize) -> Result<AttentionWeights<B>> {
        let hidden = self.config.hidden;
        let shape = self.config.attention;
        let (query_width, kv_width) = (shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim);
        let at = |name: &str| format!("blk.{layer}.{name}");
        let [query, key, value] = self.query_key_value(layer, 2 * query_width, kv_width)?;
        Ok(AttentionWeights {
            shape,
            norm: self.vector(&at("attn_norm.weight"), &[hidden])?,
            query,
            key,
            value,
            bias: None,
            output: self.matrix(&at("attn_output"), hidden, query_width)?,
            query_norm: Some(self.vector(&at("attn_q_norm.weight"), &[shape.head_dim])?),
            key_norm: Some(self.vector(&at("attn_k_norm.weight"), &[shape.head_dim])?),
        })
    }

    fn delta(&mut self, layer: usize) -> Result<DeltaWeights<B>> {
        let hidden = self.config.hidden;
        let shape = self.config.delta;
        let values = shape.value_heads * shape.value_dim;
        let at = |name: &str| format!("blk.{layer}.{name}");
        let conv = self.tensor(&at("ssm_conv1d.weight"), &[shape.channels(), shape.conv_kernel])?;
        let conv = transpose(&conv.to_f32(), shape.conv_kernel);
        Ok(DeltaWeights {
            shape,
            norm: self.vector(&at("attn_norm.weight"), &[hidden])?,
            projection: self.projection(layer)?,
            ba: self.matrix(&at("ssm_ba"), 2 * shape.value_heads, hidden)?,
            conv: self.backend.vector(conv)?,
            decay: self.vector(&at("ssm_a"), &[shape.value_heads])?,
            dt_bias: self.vector(&at("ssm_dt.bias"), &[shape.value_heads])?,
            output_norm: self.vector(&at("ssm_norm.weight"), &[shape.value_dim])?,
            output: self.matrix(&at("ssm_out"), hidden, values)?,
        })
    }

    fn moe(&mut self, layer: usize) -> Result<MoeWeights<B>> {
        let hidden = self.config.hidden;
        let shape = self.config.moe;
        let at = |name: &str| format!("blk.{layer}.{name}");
        Ok(MoeWeights {
            norm: self.vector(&at("post_attention_norm.weight"), &[hidden])?,
            eps: self.config.eps,
            routed: Some(RoutedWeights {
                router: self.matrix(&at("ffn_gate_inp"), shape.experts, hidden)?,
                experts: self.experts(layer)?,
                top_k: shape.top_k,
                normalize: shape.normalize,
            }),
            shared: Some(SharedWeights {
                expert: ExpertWeights {
                    gate: self.matrix(&at("ffn_gate_shexp"), shape.shared_width, hidden)?,
                    up: self.matrix(&at("ffn_up_shexp"), shape.shared_width, hidden)?,
                    down: self.matrix(&at("ffn_down_shexp"), hidden, shape.shared_width)?,
                },
                gate: Some(self.matrix(&at("ffn_gate_inp_shexp"), 1, hidden)?),
            }),
        })
    }

    fn bytes(&self) -> Bytes {
        self.backend.bytes
    }
}

impl<B: Backend> Gguf<'_, B> {
    /// Three matrices, or one with the rows of all.
    fn query_key_value(&mut self, layer: usize, query: usize, kv: usize) -> Result<[B::Matrix; 3]> {
        let hidden = self.config.hidden;
        let at = |name: &str| format!("blk.{layer}.{name}");
        let fused = at("attn_qkv");
        if self.dir.contains(&weight(&fused)) {
            let all = self.weight(&fused, &[query + 2 * kv, hidden])?;
            let (key, value) = (query..query + kv, query + kv..query + 2 * kv);
            return Ok([
                self.take(all.rows(0..query))?,
                self.take(all.rows(key))?,
                self.take(all.rows(value))?,
            ]);
        }
        Ok([
            self.matrix(&at("attn_q"), query, hidden)?,
            self.matrix(&at("attn_k"), kv, hidden)?,
            self.matrix(&at("attn_v"), kv, hidden)?,
        ])
    }

    fn projection(&mut self, layer: usize) -> Result<DeltaProjection<B>> {
        let hidden = self.config.hidden;
        let shape = self.config.delta;
        let values = shape.value_heads * shape.value_dim;
        let grouped = format!("blk.{layer}.ssm_in");
        if self.dir.contains(&weight(&grouped)) {
            let rows = shape.channels() + values;
            return Ok(DeltaProjection::Grouped(self.matrix(&grouped, rows, hidden)?));
        }
        Ok(DeltaProjection::Split {
            channels: self.matrix(&format!("blk.{layer}.attn_qkv"), shape.channels(), hidden)?,
            z: self.matrix(&format!("blk.{layer}.attn_gate"), values, hidden)?,
        })
    }

    fn experts(&mut self, layer: usize) -> Result<B::Experts> {
        let shape = self.config.moe;
        let down = [shape.experts, self.config.hidden, shape.width];
        let down = self.weight(&format!("blk.{layer}.ffn_down_exps"), &down)?;
        let gate_up = self.gate_up(layer)?.into_iter();
        let expert = |(e, [gate, up]): (usize, [Tensor; 2])| [gate, up, nth(&down, e)].map(stored);
        self.backend.experts(layer, gate_up.enumerate().map(expert).collect())
    }

    /// `gate` and `up` of each expert: two tensors hold those of all, or one the rows of both.
    fn gate_up(&self, layer: usize) -> Result<Vec<[Tensor; 2]>> {
        let (shape, hidden) = (self.config.moe, self.config.hidden);
        let (experts, width) = (shape.experts, shape.width);
        let fused = format!("blk.{layer}.ffn_gate_up_exps");
        if self.dir.contains(&weight(&fused)) {
            let both = self.weight(&fused, &[experts, 2 * width, hidden])?;
            let halves = |both: Tensor| [both.rows(0..width), both.rows(width..2 * width)];
            return Ok((0..experts).map(|e| halves(nth(&both, e))).collect());
        }
        let gate = self.weight(&format!("blk.{layer}.ffn_gate_exps"), &[experts, width, hidden])?;
        let up = self.weight(&format!("blk.{layer}.ffn_up_exps"), &[experts, width, hidden])?;
        Ok((0..experts).map(|e| [nth(&gate, e), nth(&up, e)]).collect())
    }

    fn vector(&mut self, name: &str, shape: &[usize]) -> Result<B::Vector> {
        let values = self.tensor(name, shape)?.to_f32();
        self.backend.vector(values)
    }

    fn matrix(&mut self, name: &str, rows: usize, cols: usize) -> Result<B::Matrix> {
        let values = self.weight(name, &[rows, cols])?;
        self.take(values)
    }

    fn take(&mut self, values: Tensor) -> Result<B::Matrix> {
        self.backend.matrix(stored(values))
    }

    /// The weight `name`, which must be all there is of it.
    fn weight(&self, name: &str, shape: &[usize]) -> Result<Tensor> {
        for part in ["bias", "scale"] {
            ensure!(
                !self.dir.contains(&format!("{name}.{part}")),
                "{}: tensor {name}.{part} exists, which the architecture does not have",
                self.dir.origin()
            );
        }
        self.tensor(&weight(name), shape)
    }

    /// Sizes of 1 that stand first may be left out or added.
    fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor> {
        let mut tensor = self.dir.tensor(name)?;
        let trimmed =
            |shape: &[usize]| shape.iter().copied().skip_while(|&size| size == 1).collect::<Vec<_>>();
        ensure!(
            trimmed(&tensor.shape) == trimmed(shape),
            "{}: tensor {name} has shape {:?}; the metadata asks for {shape:?}",
            self.dir.origin(),
            tensor.shape
        );
        tensor.shape = shape.to_vec();
        Ok(tensor)
    }
}

fn stored(values: Tensor) -> StoredMatrix {
    let (rows, cols) = (values.shape[0], values.shape[1]);
    StoredMatrix { rows, cols, values, scale: None }
}

fn weight(name: &str) -> String {
    format!("{name}.weight")
}

/// One of the matrices that a tensor of three dimensions holds.
fn nth(all: &Tensor, i: usize) -> Tensor {
    let mut matrix = all.rows(i..i + 1);
    matrix.shape.remove(0);
    matrix
}
