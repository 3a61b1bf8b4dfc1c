//! The forward pass.

use anyhow::{Result, ensure};

use super::config::{Config, Mixer};
use super::layout;
use super::state::{BlockPool, Kept, Point, Sequence, Trace, blocks_for};
use super::weights::{MixerWeights, WeightBytes, Weights};
use crate::base::Cancel;
use crate::compute::{Backend, Batch, BlockId, DeltaState, Keep};
use crate::format::ModelDir;

/// Most KV blocks besides those of one sequence: a small model could have more than is sensible.
const BLOCKS_MAX: u64 = 1 << 14;

/// How a model is run.
#[derive(Clone, Copy, Debug)]
pub struct ModelOptions {
    /// Most positions of a sequence.
    pub positions_max: usize,
    /// Bytes that KV blocks may take besides those of one sequence of `positions_max`.
    pub kv_bytes_max: u64,
    /// Most tokens of one forward pass.
    pub batch_max: usize,
}

/// Which rows of a forward pass need logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Logits {
    /// None.
    None,
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
        let attention_layers = config.count(Mixer::FullAttention);
        let one = backend.kv(attention_layers, &config.attention, 1);
        let more = options.kv_bytes_max / (backend.block_bytes(&one) as u64).max(1);
        let blocks = BlockPool::new(blocks_for(options.positions_max) + more.min(BLOCKS_MAX) as usize);
        let kv = backend.kv(attention_layers, &config.attention, blocks.total());
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
        Sequence { len: 0, recurrent }
    }

    /// The KV blocks.
    pub fn blocks(&self) -> &BlockPool {
        &self.blocks
    }

    /// Bytes of a KV block.
    pub fn block_bytes(&self) -> usize {
        self.backend.block_bytes(&self.kv)
    }

    /// A free block, with the content of `copied` where that is given; `None` when all are in use.
    pub fn take_block(&mut self, copied: Option<BlockId>) -> Option<BlockId> {
        let block = self.blocks.take()?;
        if let Some(from) = copied {
            self.backend.copy_block(&mut self.kv, from, block);
        }
        Some(block)
    }

    /// One more holder of a block.
    pub fn share_block(&mut self, block: BlockId) {
        self.blocks.share(block);
    }

    /// One holder of a block less.
    pub fn release_block(&mut self, block: BlockId) {
        if self.blocks.release(block) {
            self.backend.free_block(&mut self.kv, block);
        }
    }

    /// Takes all blocks back, whoever holds them.
    pub fn free_blocks(&mut self) {
        self.blocks = BlockPool::new(self.blocks.total());
        for block in 0..self.blocks.total() {
            self.backend.free_block(&mut self.kv, block as BlockId);
        }
    }

    /// Evaluates `tokens` after the positions of `sequence`, whose keys and values are in `blocks` and go
    /// there, and writes the asked rows of logits, `[rows, vocab]`, to `out`. A cancelled pass leaves
    /// `sequence` as it was.
    ///
    /// Panics when there are no tokens or more than `batch_max`, a token outside the vocabulary, or too few
    /// blocks: the session sees to all of these.
    #[expect(clippy::too_many_arguments, reason = "what to evaluate, where, and what of it is wanted")]
    pub fn forward(
        &mut self,
        sequence: &mut Sequence<B>,
        tokens: &[u32],
        blocks: &[BlockId],
        keep: Keep,
        wanted: Logits,
        cancel: &Cancel,
        out: &mut Vec<f32>,
    ) -> Result<Kept, Cancelled> {
        let rows = tokens.len();
        assert!((1..=self.options.batch_max).contains(&rows));
        assert!(tokens.iter().all(|&token| (token as usize) < self.config.vocab));
        assert!(blocks.len() >= blocks_for(sequence.len + rows));

        let (backend, x) = (&mut self.backend, &mut self.x);
        let batch = Batch { start: sequence.len, rows, blocks, cancel, keep };
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
        out.clear();
        let from = match wanted {
            Logits::None => rows,
            Logits::Last => rows - 1,
            Logits::All => 0,
        };
        if from < rows {
            backend.head(&self.weights.head, from..rows, x, &mut self.logits);
            backend.read(&self.logits, 0..rows - from, out);
        }
        if cancel.is_cancelled() {
            return Err(Cancelled);
        }
        for state in &mut sequence.recurrent {
            backend.commit(state);
        }
        sequence.len += rows;
        Ok(self.kept(sequence, &keep))
    }

    fn kept(&mut self, sequence: &mut Sequence<B>, keep: &Keep) -> Kept {
        let (backend, x) = (&mut self.backend, &self.x);
        let inputs = sequence.recurrent.len() * self.config.delta.trace_len();
        let mut hidden = |row: usize| {
            let mut out = Vec::new();
            backend.read(x, row..row + 1, &mut out);
            out
        };
        let mut traces: Vec<Trace> = keep
            .traced_rows()
            .map(|row| Trace { inputs: Vec::with_capacity(inputs), hidden: hidden(row) })
            .collect();
        let mut points: Vec<Point> =
            keep.marks.iter().map(|&mark| Point { states: Vec::new(), hidden: hidden(mark - 1) }).collect();
        for state in &mut sequence.recurrent {
            for (point, marked) in points.iter_mut().zip(backend.export_marked(state)) {
                point.states.push(marked);
            }
            let traced = backend.export_trace(state);
            for (trace, row) in traces.iter_mut().zip(traced.chunks_exact(self.config.delta.trace_len())) {
                trace.inputs.extend_from_slice(row);
            }
        }
        Kept { points, traces }
    }

    /// Takes `sequence` to the start, before its first token.
    pub fn restart(&mut self, sequence: &mut Sequence<B>) {
        for state in &mut sequence.recurrent {
            self.backend.import_state(state, None);
        }
        sequence.len = 0;
    }

    /// Takes `sequence` to `len` positions; `read` writes what the state of a DeltaNet layer was there.
    pub fn restore(&mut self, sequence: &mut Sequence<B>, len: usize, read: impl Fn(usize, &mut DeltaState)) {
        let mut layer = DeltaState { recurrent: Vec::new(), conv: Vec::new() };
        for (i, state) in sequence.recurrent.iter_mut().enumerate() {
            read(i, &mut layer);
            self.backend.import_state(state, Some(&layer));
        }
        sequence.len = len;
    }

    /// Takes `sequence` over tokens that left these traces, without evaluating them: `rows` writes those of
    /// a DeltaNet layer, `[tokens, DeltaShape::trace_len]`.
    pub fn replay(&mut self, sequence: &mut Sequence<B>, tokens: usize, rows: impl Fn(usize, &mut Vec<f32>)) {
        let mut trace = Vec::new();
        for layer in &self.weights.layers {
            if let MixerWeights::Delta(weights, i) = &layer.mixer {
                trace.clear();
                rows(*i, &mut trace);
                self.backend.replay(weights, &trace, &mut sequence.recurrent[*i]);
                self.backend.commit(&mut sequence.recurrent[*i]);
            }
        }
        sequence.len += tokens;
    }

    /// The logits that a row after the last layer stands for.
    pub fn logits(&mut self, hidden: &[f32], out: &mut Vec<f32>) {
        self.backend.write(hidden, &mut self.x);
        self.backend.head(&self.weights.head, 0..1, &self.x, &mut self.logits);
        self.backend.read(&self.logits, 0..1, out);
    }
}
