//! How checkpoints name and store what the model computes with: one file for each kind of checkpoint.

mod gguf;
mod safetensors;

use anyhow::Result;

use super::config::{Config, Mixer};
use super::weights::{Layer, MixerWeights, Weights};
use crate::compute::{AttentionWeights, Backend, DeltaWeights, HeadWeights, MoeWeights};
use crate::format::{Description, ModelDir};

/// Reads all weights of `dir` into `backend`, checking every shape against `config`.
pub fn load<B: Backend>(dir: &ModelDir, config: &Config, backend: &mut B) -> Result<Weights<B>> {
    match dir.description() {
        Description::Folder(_) => assemble(config, safetensors::Safetensors { dir, config, backend }),
        Description::Gguf(_) => assemble(config, gguf::Gguf { dir, config, backend }),
    }
}

/// Where a kind of checkpoint keeps the parts of a model. Layers count from 0.
trait Source<B: Backend> {
    fn embedding(&mut self) -> Result<B::Matrix>;
    fn head(&mut self) -> Result<HeadWeights<B>>;
    fn attention(&mut self, layer: usize) -> Result<AttentionWeights<B>>;
    fn delta(&mut self, layer: usize) -> Result<DeltaWeights<B>>;
    fn moe(&mut self, layer: usize) -> Result<MoeWeights<B>>;
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
    Ok(Weights { embedding: source.embedding()?, layers, head: source.head()? })
}

/// From `[rows, cols]` to `[cols, rows]`.
fn transpose(values: &[f32], cols: usize) -> Vec<f32> {
    (0..cols).flat_map(|col| values.iter().skip(col).step_by(cols)).copied().collect()
}
