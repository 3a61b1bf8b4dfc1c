//! The forward pass.

use anyhow::{Context, Result, ensure};

use super::config::Config;
use super::experts::ExpertOptions;
use super::experts::store::ExpertUsage;
use super::layout;
use super::memory::MemoryEstimate;
use super::state::{BlockPool, Checkpoint, Kept, Sequence, Trace, blocks_for};
use super::weights::{MixerWeights, WeightBytes, Weights};
use crate::base::Cancel;
use crate::compute::experts::DeviceVisits;
use crate::compute::logits::{IdSet, LogitForm, Logits};
use crate::compute::{Backend, BlockId, Interrupted, Keep, Pass, PassOut, SavedBytes};
use crate::format::ModelDir;

/// Most KV blocks besides those of one sequence: a small model could have more than is sensible.
const BLOCKS_MAX: u64 = 1 << 14;

/// How a model is run.
#[derive(Clone, Debug)]
pub struct ModelOptions {
    /// Most positions of a sequence.
    pub positions_max: usize,
    /// Bytes that KV blocks may take besides those of one sequence of `positions_max`.
    pub kv_bytes_max: u64,
    /// Most tokens of one forward pass.
    pub batch_max: usize,
    /// The same where not all experts fit in memory: a pass reads each of the others once, however many tokens it has.
    pub sweep_max: usize,
    /// How routed experts are kept.
    pub experts: ExpertOptions,
}

/// Which rows of a forward pass need logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogitRows {
    None,
    /// Only the last.
    Last,
    /// Every one.
    All,
}

/// A model on its backend.
pub struct Model<B: Backend> {
    config: Config,
    options: ModelOptions,
    weights: Weights<B>,
    kv: B::Kv,
    block_bytes: usize,
    blocks: BlockPool,
    x: B::Rows,
    logits: B::Rows,
    out: PassOut<B>,
    backend: B,
}

impl<B: Backend> Model<B> {
    /// Loads the weights of `dir` into `backend`. Fails, before anything is allocated, where memory does not suffice.
    pub fn load(dir: &ModelDir, config: Config, mut options: ModelOptions, mut backend: B) -> Result<Self> {
        ensure!(options.batch_max > 0 && options.positions_max > 0, "the context cannot be empty");
        let memory = backend.memory();
        // A device with memory of its own says itself what does not fit.
        let free = if memory.device.is_some() { u64::MAX } else { memory.host.free };
        let positions_max = options.positions_max;
        let check = |batch, backend: &B| {
            MemoryEstimate::new(&config, positions_max, batch, backend).check(positions_max, free)
        };
        check(options.batch_max, &backend).with_context(|| dir.origin().to_owned())?;
        let sizes = config.pass_sizes(options.batch_max, options.positions_max);
        backend.prepare(&sizes).with_context(|| dir.origin().to_owned())?;
        let weights = layout::load(dir, &config, &options.experts, &mut backend)?;
        if weights.store.is_some() && check(options.sweep_max, &backend).is_ok() {
            options.batch_max = options.sweep_max.max(options.batch_max);
        }
        let attention_layers = config.attention_shapes().count();
        let block_bytes = backend.kv_block_bytes(attention_layers, &config.attention());
        let more = options.kv_bytes_max / (block_bytes as u64).max(1);
        let blocks = BlockPool::new(blocks_for(options.positions_max) + more.min(BLOCKS_MAX) as usize);
        let kv = backend.kv(attention_layers, &config.attention(), blocks.total())?;
        let x = backend.rows(options.batch_max, config.hidden)?;
        let logits = backend.rows(1, config.vocab)?;
        let out = PassOut::default();
        Ok(Self { config, options, weights, kv, block_bytes, blocks, x, logits, out, backend })
    }

    /// The model's sizes.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// What it computes with.
    pub fn backend_mut(&mut self) -> &mut B {
        &mut self.backend
    }

    /// How large its weights are.
    pub fn weight_bytes(&self) -> WeightBytes {
        self.weights.bytes
    }

    /// What the store of its experts did; none where all weights are mapped.
    pub fn expert_usage(&self) -> Option<ExpertUsage> {
        self.weights.store.as_ref().map(|store| store.usage())
    }

    /// How visits to experts went of which its device holds some.
    pub fn expert_visits(&self) -> Option<DeviceVisits> {
        self.backend.expert_visits()
    }

    /// Whether a device with memory of its own computes.
    pub fn is_on_device(&self) -> bool {
        self.backend.memory().device.is_some()
    }

    /// How it is run.
    pub fn options(&self) -> &ModelOptions {
        &self.options
    }

    /// Bytes of what is saved of a sequence at a position, and for a token, hidden rows included.
    pub fn saved_bytes(&self) -> SavedBytes {
        let layers = self.config.delta_shapes().count();
        let SavedBytes { state, trace } = self.backend.saved_bytes(layers, &self.config.delta());
        let hidden = self.config.hidden * size_of::<f32>();
        SavedBytes { state: state + hidden, trace: trace + hidden }
    }

    /// Whether a sequence has recurrent states: those cannot be cut at any position, as keys and values can.
    pub fn is_recurrent(&self) -> bool {
        self.config.delta_shapes().next().is_some()
    }

    /// An empty sequence.
    pub fn sequence(&mut self) -> Result<Sequence<B>> {
        let shapes = self.config.delta_shapes();
        let recurrent = shapes.map(|shape| self.backend.recurrent(shape)).collect::<Result<_>>();
        Ok(Sequence { len: 0, recurrent: recurrent? })
    }

    /// The KV blocks.
    pub fn blocks(&self) -> &BlockPool {
        &self.blocks
    }

    /// Bytes of a KV block.
    pub fn block_bytes(&self) -> usize {
        self.block_bytes
    }

    /// A free block, with the content of `copied` where that is given; `None` when all are in use.
    pub fn take_block(&mut self, copied: Option<BlockId>) -> Option<BlockId> {
        let block = self.blocks.take()?;
        if let Some(from) = copied {
            self.backend.copy_block(&mut self.kv, from, block);
        }
        Some(block)
    }

    /// Adds a holder of a block.
    pub fn share_block(&mut self, block: BlockId) {
        self.blocks.share(block);
    }

    /// Removes a holder of a block.
    pub fn release_block(&mut self, block: BlockId) {
        if self.blocks.release(block) {
            self.backend.free_block(&mut self.kv, block);
        }
    }

    /// Frees all blocks, whatever holds them.
    pub fn free_blocks(&mut self) {
        self.blocks = BlockPool::new(self.blocks.total());
        for block in 0..self.blocks.total() {
            self.backend.free_block(&mut self.kv, block as BlockId);
        }
    }

    /// Told, before passes whose logits are [`LogitForm::Top`], which ids can be chosen from then on.
    pub fn allow(&mut self, ids: &IdSet) {
        self.backend.allow(ids);
    }

    /// Evaluates `tokens` after the positions of `sequence`, whose keys and values are in `blocks` and go
    /// there, and writes the asked rows of logits to `out`. An interrupted pass leaves
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
        wanted: LogitRows,
        cancel: &Cancel,
        out: &mut Logits,
    ) -> Result<Kept<B>, Interrupted> {
        let rows = tokens.len();
        assert!((1..=self.options.batch_max).contains(&rows));
        assert!(tokens.iter().all(|&token| (token as usize) < self.config.vocab));
        assert!(blocks.len() >= blocks_for(sequence.len + rows));

        self.weights
            .files
            .iter()
            .try_for_each(|file| file.check())
            .map_err(|e| Interrupted::Device(e.into()))?;
        let (backend, x) = (&mut self.backend, &mut self.x);
        backend.begin(&Pass { start: sequence.len, rows, blocks, cancel, keep });
        backend.embed(&self.weights.embedding, tokens, x);
        for layer in &self.weights.layers {
            match &layer.mixer {
                MixerWeights::Attention(weights, i) => backend.attention(weights, &mut self.kv, *i, x),
                MixerWeights::Delta(weights, i) => backend.delta(weights, &mut sequence.recurrent[*i], x),
            }
            backend.moe(&layer.moe, x);
        }
        let from = match wanted {
            LogitRows::None => rows,
            LogitRows::Last => rows - 1,
            LogitRows::All => 0,
        };
        if from < rows {
            backend.head(&self.weights.head, from..rows, x, &mut self.logits);
        }
        backend.finish(&mut sequence.recurrent, x, &self.logits, &mut self.out)?;
        sequence.len += rows;
        std::mem::swap(out, &mut self.out.logits);
        Ok(self.kept(keep.marks.len()))
    }

    /// What the last pass saved, after the rows that it was asked for.
    fn kept(&mut self, marks: usize) -> Kept<B> {
        let PassOut { hidden, states, traces, .. } = &mut self.out;
        let mut hidden = hidden.chunks_exact(self.config.hidden).map(<[f32]>::to_vec);
        let mut next = || hidden.next().expect("a row for each");
        debug_assert_eq!(states.len(), marks);
        let checkpoints = states.drain(..).map(|state| Checkpoint { state, hidden: next() }).collect();
        let traces = traces.drain(..).map(|inputs| Trace { inputs, hidden: next() }).collect();
        Kept { checkpoints, traces }
    }

    /// Takes `sequence` to `len` positions, where its recurrent states were `from`: zeros, before the first
    /// token, where that is `None`.
    pub fn restore(&mut self, sequence: &mut Sequence<B>, len: usize, from: Option<&B::State>) {
        if self.is_recurrent() {
            self.backend.restore(&mut sequence.recurrent, from);
        }
        sequence.len = len;
    }

    /// Takes `sequence` over tokens that left these traces, without evaluating them. An interrupted replay
    /// leaves it as it was.
    pub fn replay(&mut self, sequence: &mut Sequence<B>, traces: &[&B::Trace]) -> Result<(), Interrupted> {
        let (start, rows) = (sequence.len, traces.len());
        let cancel = Cancel::new();
        self.backend.begin(&Pass { start, rows, blocks: &[], cancel: &cancel, keep: Keep::default() });
        for layer in &self.weights.layers {
            if let MixerWeights::Delta(weights, i) = &layer.mixer {
                self.backend.replay(weights, *i, traces, &mut sequence.recurrent[*i]);
            }
        }
        self.backend.finish(&mut sequence.recurrent, &self.x, &self.logits, &mut self.out)?;
        sequence.len += rows;
        Ok(())
    }

    /// The logits that a row after the last layer stands for.
    pub fn logits(&mut self, hidden: &[f32], form: LogitForm, out: &mut Logits) -> Result<(), Interrupted> {
        let (cancel, keep) = (Cancel::new(), Keep { logits: form, ..Keep::default() });
        self.backend.begin(&Pass { start: 0, rows: 1, blocks: &[], cancel: &cancel, keep });
        self.backend.load(hidden, &mut self.x);
        self.backend.head(&self.weights.head, 0..1, &self.x, &mut self.logits);
        self.backend.finish(&mut [], &self.x, &self.logits, &mut self.out)?;
        std::mem::swap(out, &mut self.out.logits);
        Ok(())
    }
}
