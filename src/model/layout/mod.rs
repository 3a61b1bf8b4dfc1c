//! How checkpoints name and store what the model computes with: one file for each kind of checkpoint.

mod gguf;
mod safetensors;

use std::sync::Arc;

use anyhow::Result;

pub use safetensors::block_scale;

use super::config::{Config, Mixer};
use super::experts::MappedExperts;
use super::weights::{Layer, MixerWeights, WeightBytes, Weights};
use crate::compute::{AttentionWeights, Backend, DeltaWeights, HeadWeights, MoeWeights, StoredMatrix};
use crate::format::{Description, ModelDir};

/// Reads all weights of `dir` into `backend`, checking every shape against `config`.
pub fn load<B: Backend>(dir: &ModelDir, config: &Config, backend: &mut B) -> Result<Weights<B>> {
    let backend = Counting { backend, bytes: Bytes::default() };
    match dir.description() {
        Description::Folder(_) => assemble(config, safetensors::Safetensors { dir, config, backend }),
        Description::Gguf(_) => assemble(config, gguf::Gguf { dir, config, backend }),
    }
}

/// Whether a tensor of this name belongs to the routed experts, of which a token needs few.
pub fn is_of_experts(name: &str) -> bool {
    name.contains(".experts.") || name.contains("_exps.")
}

/// Where a kind of checkpoint keeps the parts of a model. Layers count from 0.
trait Source<B: Backend> {
    fn embedding(&mut self) -> Result<B::Matrix>;
    fn head(&mut self) -> Result<HeadWeights<B>>;
    fn attention(&mut self, layer: usize) -> Result<AttentionWeights<B>>;
    fn delta(&mut self, layer: usize) -> Result<DeltaWeights<B>>;
    fn moe(&mut self, layer: usize) -> Result<MoeWeights<B>>;
    /// What was handed to the backend so far.
    fn bytes(&self) -> Bytes;
}

/// A backend that counts what it is given.
struct Counting<'a, B> {
    backend: &'a mut B,
    bytes: Bytes,
}

#[derive(Clone, Copy, Default)]
struct Bytes {
    all: u64,
    /// Those of routed experts.
    experts: u64,
}

impl<B: Backend> Counting<'_, B> {
    fn matrix(&mut self, stored: StoredMatrix) -> Result<B::Matrix> {
        let scales = stored.scale.as_ref().map_or(0, |scale| size_of_val(&scale.values[..]));
        self.bytes.all += (stored.values.bytes.len() + scales) as u64;
        self.backend.matrix(stored)
    }

    fn vector(&mut self, values: Vec<f32>) -> Result<B::Vector> {
        self.bytes.all += size_of_val(&values[..]) as u64;
        self.backend.vector(values)
    }

    /// Gate, up and down of each routed expert of a layer.
    fn experts(&mut self, layer: usize, experts: Vec<[StoredMatrix; 3]>) -> Result<B::Experts> {
        let (shape, mapped) = MappedExperts::new(experts)?;
        let bytes = (shape.experts * shape.record_bytes()) as u64;
        self.bytes.all += bytes;
        self.bytes.experts += bytes;
        self.backend.experts(layer, shape, Arc::new(mapped))
    }
}

fn assemble<B: Backend>(config: &Config, mut source: impl Source<B>) -> Result<Weights<B>> {
    let mut layers = Vec::with_capacity(config.layers.len());
    let (mut attention_layers, mut delta_layers) = (0, 0);
    for (i, mixer) in config.layers.iter().enumerate() {
        let mixer = match mixer {
            Mixer::FullAttention => {
                attention_layers += 1;
                MixerWeights::Attention(source.attention(i)?, attention_layers - 1)
            }
            Mixer::LinearAttention => {
                delta_layers += 1;
                MixerWeights::Delta(source.delta(i)?, delta_layers - 1)
            }
        };
        layers.push(Layer { mixer, moe: source.moe(i)? });
    }
    let before = source.bytes();
    let embedding = source.embedding()?;
    let embedding_bytes = source.bytes().all - before.all;
    let head = source.head()?;
    let Bytes { all, experts } = source.bytes();
    let bytes = WeightBytes {
        embedding: embedding_bytes,
        vocab: config.vocab as u64,
        experts,
        experts_visited: config.moe.top_k as f64 / config.moe.experts as f64,
        rest: all - experts - embedding_bytes,
    };
    Ok(Weights { embedding, layers, head, bytes })
}

/// From `[rows, cols]` to `[cols, rows]`.
fn transpose(values: &[f32], cols: usize) -> Vec<f32> {
    (0..cols).flat_map(|col| values.iter().skip(col).step_by(cols)).copied().collect()
}
