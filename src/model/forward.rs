//! The forward pass.

use anyhow::{Result, ensure};

use super::config::{Config, Mixer};
use super::layout;
use super::state::{BlockPool, Sequence, Snapshot};
use super::weights::{MixerWeights, WeightBytes, Weights};
use crate::base::Cancel;
use crate::compute::{Backend, Batch};
use crate::format::ModelDir;

/// How a model is run.
#[derive(Clone, Copy, Debug)]
pub struct ModelOptions {
    /// Positions that all sequences may hold together.
    pub positions_max: usize,
    /// Most tokens of one forward pass.
    pub batch_max: usize,
}

/// Which rows of a forward pass need logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Logits {
    /// Only the last.
    Last,
    /// Every one.
    All,
}

/// A forward pass that was cancelled; its sequence is as before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cancelled;

/// A model on its backend.
pub struct Model<B: Backend> {
    config: Config,
    options: ModelOptions,
    weights: Weights<B>,
    kv: B::Kv,
    blocks: BlockPool,
    x: B::Rows,
    logits: B::Rows,
    backend: B,
}

impl<B: Backend> Model<B> {
    /// Loads the weights of `dir` into `backend`.
    pub fn load(dir: &ModelDir, config: Config, options: ModelOptions, mut backend: B) -> Result<Self> {
        ensure!(options.batch_max > 0 && options.positions_max > 0, "the context cannot be empty");
        let weights = layout::load(dir, &config, &mut backend)?;
        let blocks = BlockPool::new(options.positions_max);
        let kv = backend.kv(config.count(Mixer::FullAttention), &config.attention, blocks.total());
        let x = backend.rows(options.batch_max, config.hidden);
        let logits = backend.rows(1, config.vocab);
        Ok(Self { config, options, weights, kv, blocks, x, logits, backend })
    }

    /// The model's sizes.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// How large its weights are.
    pub fn weight_bytes(&self) -> WeightBytes {
        self.weights.bytes
    }

    /// How it is run.
    pub fn options(&self) -> &ModelOptions {
        &self.options
    }

    /// An empty sequence.
    pub fn sequence(&mut self) -> Sequence<B> {
        let delta_layers = self.config.count(Mixer::LinearAttention);
        let recurrent = (0..delta_layers).map(|_| self.backend.recurrent(&self.config.delta)).collect();
        Sequence { len: 0, blocks: Vec::new(), recurrent }
    }

    /// Ends a sequence and frees its blocks.
    pub fn release(&mut self, sequence: Sequence<B>) {
        self.blocks.release(sequence.blocks);
    }

    /// Evaluates `tokens` after the positions of `sequence` and writes the asked rows of logits,
    /// `[rows, vocab]`, to `out`. A cancelled pass leaves `sequence` as it was.
    ///
    /// Panics when there are no tokens or more than `batch_max`, a token outside the vocabulary, or no
    /// room left: the session sees to all of these.
    pub fn forward(
        &mut self,
        sequence: &mut Sequence<B>,
        tokens: &[u32],
        wanted: Logits,
        cancel: &Cancel,
        out: &mut Vec<f32>,
    ) -> Result<(), Cancelled> {
        let rows = tokens.len();
        assert!((1..=self.options.batch_max).contains(&rows));
        assert!(tokens.iter().all(|&token| (token as usize) < self.config.vocab));
        assert!(self.blocks.extend(&mut sequence.blocks, sequence.len + rows));

        let (backend, x) = (&mut self.backend, &mut self.x);
        let batch = Batch { start: sequence.len, rows, blocks: &sequence.blocks, cancel };
        backend.embed(&self.weights.embedding, tokens, x);
        for layer in &self.weights.layers {
            if cancel.is_cancelled() {
                return Err(Cancelled);
            }
            match &layer.mixer {
                MixerWeights::Attention(weights, i) => {
                    backend.attention(weights, &batch, &mut self.kv, *i, x)
                }
                MixerWeights::Delta(weights, i) => {
                    backend.delta(weights, &batch, &mut sequence.recurrent[*i], x)
                }
            }
            backend.moe(&layer.moe, &batch, x);
        }
        let from = if wanted == Logits::All { 0 } else { rows - 1 };
        backend.head(&self.weights.head, from..rows, x, &mut self.logits);
        backend.read(&self.logits, out);
        if cancel.is_cancelled() {
            return Err(Cancelled);
        }
        for state in &mut sequence.recurrent {
            backend.commit(state);
        }
        sequence.len += rows;
        Ok(())
    }

    /// The recurrent states of `sequence` as they are now.
    pub fn snapshot(&mut self, sequence: &Sequence<B>) -> Snapshot {
        let layers = sequence.recurrent.iter().map(|state| self.backend.export_state(state)).collect();
        Snapshot { len: sequence.len, layers }
    }

    /// Takes `sequence` back to a snapshot of its own past.
    ///
    /// Panics when the snapshot lies ahead of it or is of another shape.
    pub fn restore(&mut self, sequence: &mut Sequence<B>, snapshot: &Snapshot) {
        assert!(snapshot.len <= sequence.len && snapshot.layers.len() == sequence.recurrent.len());
        for (state, from) in sequence.recurrent.iter_mut().zip(&snapshot.layers) {
            self.backend.import_state(state, from);
        }
        sequence.len = snapshot.len;
    }
}
