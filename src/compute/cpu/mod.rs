//! The CPU backend: work is done when an operation returns.
//!
//! `simd` is the vector instructions, `packed`, `matrix` and `codebook` how weights are laid out and unpacked for them,
//! `matmul` the matrix products that take most of the time. `attention`, `delta` and `moe` are the operations between the projections,
//! `experts` the bytes of routed experts, `saved` what is kept of recurrent states, `record` what importance matrices
//! are made of, `top` what greedy decoding needs of logits.

mod attention;
mod codebook;
mod context;
mod delta;
mod experts;
mod matmul;
mod matrix;
mod moe;
mod options;
mod packed;
mod quants;
mod record;
mod saved;
mod scalar;
mod scratch;
mod simd;
mod top;
mod vector;

use std::ops::Range;
use std::sync::Arc;

use anyhow::{Context as _, Error, Result};

use super::experts::{ExpertBytes, ExpertShape};
use super::logits::{IdSet, LogitForm};
use super::{
    AttentionShape, AttentionWeights, Backend, BlockId, DeltaProjection, DeltaShape, DeltaWeights,
    HeadWeights, Interrupted, KV_BLOCK, Keep, MoeWeights, Pass, PassOut, SavedBytes, StoredMatrix, TableUse,
};
use crate::base::Cancel;
use crate::base::memory::{self, Memory};
use context::Context;
use matmul::{Activations, add_linear, linear};
use scratch::Buffer;
use simd::{Kernel, Simd};

pub use options::CpuOptions;
pub use record::{Recorded, Records};
pub use simd::Level;

/// Computes on the CPU, reading weights in their stored type.
pub struct Cpu {
    context: Context,
    pass: CpuPass,
    /// The ids that can be chosen.
    allowed: IdSet,
    /// Why the pass has failed. Its other operations then do nothing.
    failure: Option<Error>,
}

/// A pass as it is kept until it is finished; see [`Pass`].
#[derive(Default)]
struct CpuPass {
    start: usize,
    rows: usize,
    blocks: Vec<BlockId>,
    cancel: Cancel,
    marks: Vec<usize>,
    traced: Vec<Range<usize>>,
    logits: LogitForm,
    /// Rows of logits.
    heads: usize,
}

impl CpuPass {
    fn keep(&self) -> Keep<'_> {
        Keep { marks: &self.marks, traced: &self.traced, logits: self.logits }
    }
}

/// No expert: another device computes with the one that was chosen.
pub const LEFT_OUT: u32 = u32::MAX;

/// Activations, `[count, width]`.
pub struct Rows {
    width: usize,
    values: Buffer<f32>,
}

impl Cpu {
    /// A backend with its own threads.
    pub fn new(options: CpuOptions) -> Self {
        let (pass, allowed) = (CpuPass::default(), IdSet::default());
        Self { context: Context::new(options), pass, allowed, failure: None }
    }

    /// One that records what matrices are multiplied with: much slower.
    pub fn recording(options: CpuOptions) -> Self {
        let mut this = Self::new(options);
        this.context.records = Some(Records::new());
        this
    }

    /// What was recorded since the last call.
    pub fn take_records(&mut self) -> Records {
        self.context.records.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Calls `body(task)` once for each task below `tasks` on some thread.
    pub fn in_parallel(&mut self, tasks: usize, body: impl Fn(usize) + Sync) {
        self.context.pool.run(tasks, body);
    }

    /// `x += experts(normed)` for rows whose experts another device has chosen: `chosen` and their `weights` are
    /// `[rows, top_k]`, `normed` and `x` `[rows, hidden]`. Visits of [`LEFT_OUT`] are none. The owner of the experts' bytes
    /// was told of the visits. Fails when the bytes of an expert cannot be read.
    pub fn visit(
        &mut self,
        experts: &experts::Experts,
        chosen: &[u32],
        weights: &[f32],
        normed: &[f32],
        cancel: &Cancel,
        x: &mut [f32],
    ) -> Result<()> {
        let width = experts.hidden();
        let chosen = chosen.iter().copied().zip(weights.iter().copied()).collect();
        let inputs = self.activations(normed, width);
        let routing = moe::Routing { top_k: weights.len() / inputs.count(), chosen, ranks: Vec::new() };
        let done = moe::routed_ffn(&mut self.context, experts, &routing, cancel, &inputs, x);
        done.context("the weights of an expert cannot be read")
    }

    /// `matrix x` for rows `x` of another device, `[rows, inputs]`.
    pub fn multiply(&mut self, matrix: &matrix::Matrix, x: &[f32]) -> Vec<f32> {
        let inputs = self.activations(x, matrix.view().cols());
        linear(&mut self.context, matrix.view(), &inputs).to_vec()
    }

    /// Writes the rows `tokens` of a table to `out`, `[tokens, hidden]`.
    pub fn look_up(table: &matrix::Matrix, tokens: &[u32], out: &mut [f32]) {
        let width = out.len() / tokens.len();
        for (out, &token) in out.chunks_exact_mut(width).zip(tokens) {
            table.view().row(token as usize, out);
        }
    }

    fn activations(&mut self, rows: &[f32], width: usize) -> Activations {
        Activations::fill(&mut self.context, rows.len() / width, width, |row, out| {
            out.copy_from_slice(&rows[row * width..][..width]);
        })
    }

    fn norm(&mut self, x: &Rows, rows: Range<usize>, weight: &[f32], eps: f32) -> Activations {
        let level = self.context.options.level;
        Activations::fill(&mut self.context, rows.len(), x.width, |row, out| {
            let x = &x.values[(rows.start + row) * x.width..][..x.width];
            level.run(Norm { x, weight, eps, out });
        })
    }

    fn record(&mut self, matrix: &matrix::Matrix, inputs: &Activations) {
        if let Some(records) = &mut self.context.records {
            let rows = (0..inputs.count()).map(|row| inputs.row(row));
            record::add(records, Recorded::Matrix(matrix.name.clone()), rows);
        }
    }

    fn linear(&mut self, matrix: &matrix::Matrix, inputs: &Activations) -> Buffer<f32> {
        self.record(matrix, inputs);
        linear(&mut self.context, matrix.view(), inputs)
    }

    fn add_linear(&mut self, matrix: &matrix::Matrix, inputs: &Activations, x: &mut Rows) {
        self.record(matrix, inputs);
        add_linear(&mut self.context, matrix.view(), inputs, &mut x.values);
    }

    /// Whether the rest of the pass is left out.
    fn is_interrupted(&self) -> bool {
        self.failure.is_some() || self.pass.cancel.is_cancelled()
    }

    /// What the pass was asked to save.
    fn save(&self, states: &mut [delta::Recurrent], x: &Rows, out: &mut PassOut<Self>) {
        let precision = self.context.options.precision;
        let keep = self.pass.keep();
        for row in keep.hidden_rows() {
            out.hidden.extend_from_slice(&x.values[row * x.width..][..x.width]);
        }
        let mut marked: Vec<_> = states.iter_mut().map(delta::Recurrent::take_marked).collect();
        for _ in keep.marks {
            let layers = marked.iter_mut().map(|layer| layer.next().expect("a state for each mark"));
            out.states.push(layers.collect());
        }
        drop(marked);
        let rows = keep.traced_rows().count();
        let width = states.first().map_or(0, |state| state.trace().len() / rows.max(1));
        for row in 0..rows {
            let layers = states.iter().map(|state| &state.trace()[row * width..][..width]);
            out.traces.push(saved::Trace::new(layers, width, precision));
        }
    }
}

struct Norm<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    eps: f32,
    out: &'a mut [f32],
}

impl Kernel for Norm<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        vector::rms_norm(simd, self.x, self.weight, self.eps, self.out);
    }
}

impl Rows {
    fn all(&self) -> Range<usize> {
        0..self.values.len() / self.width
    }
}

impl Backend for Cpu {
    type Matrix = matrix::Matrix;
    type Table = matrix::Matrix;
    type Vector = Vec<f32>;
    type Experts = experts::Experts;
    type Rows = Rows;
    type Kv = attention::Kv;
    type Recurrent = delta::Recurrent;
    type State = saved::State;
    type Trace = saved::Trace;
    type Attention = AttentionWeights<Self>;
    type Delta = DeltaWeights<Self>;
    type Moe = MoeWeights<Self>;
    type Head = HeadWeights<Self>;

    fn memory(&self) -> Memory {
        Memory { host: memory::host(), device: None }
    }

    fn kv_block_bytes(&self, layers: usize, shape: &AttentionShape) -> usize {
        attention::Kv::block_len(layers, shape) * size_of::<f32>()
    }

    fn saved_bytes(&self, layers: usize, shape: &DeltaShape) -> SavedBytes {
        SavedBytes::new(layers, shape, self.context.options.precision)
    }

    fn matrix(&mut self, stored: StoredMatrix) -> Result<Self::Matrix> {
        matrix::Matrix::new(stored, self.context.options.exact, self.context.options.repack)
    }

    fn table(&mut self, stored: StoredMatrix, _: TableUse) -> Result<Self::Table> {
        self.matrix(stored)
    }

    fn vector(&mut self, values: Vec<f32>) -> Result<Self::Vector> {
        Ok(values)
    }

    fn experts(
        &mut self,
        layer: usize,
        shape: ExpertShape,
        bytes: Arc<dyn ExpertBytes>,
    ) -> Result<Self::Experts> {
        let Context { options, pool, .. } = &mut self.context;
        let experts = experts::Experts::new(layer, shape, options.exact, bytes)?;
        if options.repack {
            experts.packed(options.exact, pool).context("no memory to repack experts")
        } else {
            Ok(experts)
        }
    }

    fn rows(&mut self, rows_max: usize, width: usize) -> Result<Rows> {
        Ok(Rows { width, values: self.context.scratch.values.take(rows_max * width) })
    }

    fn kv(&mut self, layers: usize, shape: &AttentionShape, blocks_max: usize) -> Result<Self::Kv> {
        Ok(attention::Kv::new(layers, shape, blocks_max))
    }

    fn recurrent(&mut self, shape: &DeltaShape) -> Result<Self::Recurrent> {
        Ok(delta::Recurrent::new(shape))
    }

    fn copy_block(&mut self, kv: &mut Self::Kv, from: BlockId, to: BlockId) {
        kv.copy(from, to);
    }

    fn free_block(&mut self, kv: &mut Self::Kv, block: BlockId) {
        kv.free(block);
    }

    fn restore(&mut self, states: &mut [Self::Recurrent], from: Option<&Self::State>) {
        delta::restore(&mut self.context, states, from);
    }

    fn allow(&mut self, ids: &IdSet) {
        self.allowed = ids.clone();
    }

    fn begin(&mut self, pass: &Pass) {
        self.failure = None;
        self.pass = CpuPass {
            start: pass.start,
            rows: pass.rows,
            blocks: pass.blocks.to_vec(),
            cancel: pass.cancel.clone(),
            marks: pass.keep.marks.to_vec(),
            traced: pass.keep.traced.to_vec(),
            logits: pass.keep.logits,
            heads: 0,
        };
    }

    fn embed(&mut self, table: &Self::Table, tokens: &[u32], x: &mut Rows) {
        x.values.resize(tokens.len() * x.width);
        Self::look_up(table, tokens, &mut x.values);
    }

    fn load(&mut self, values: &[f32], x: &mut Rows) {
        x.values.resize(values.len());
        x.values.copy_from_slice(values);
    }

    fn attention(&mut self, weights: &AttentionWeights<Self>, kv: &mut Self::Kv, layer: usize, x: &mut Rows) {
        if self.is_interrupted() {
            return;
        }
        let written = self.pass.start / KV_BLOCK..(self.pass.start + self.pass.rows).div_ceil(KV_BLOCK);
        if let Err(error) = kv.reserve(&self.pass.blocks[written]).context("no memory for the KV cache") {
            self.failure = Some(error);
            return;
        }
        let normed = self.norm(x, x.all(), &weights.norm, weights.shape.eps);
        let projected = attention::Projected {
            queries: self.linear(&weights.query, &normed),
            keys: self.linear(&weights.key, &normed),
            values: self.linear(&weights.value, &normed),
        };
        let attended = attention::attend(&mut self.context, weights, &self.pass, kv, layer, projected);
        self.add_linear(&weights.output, &attended, x);
    }

    fn delta(&mut self, weights: &DeltaWeights<Self>, state: &mut Self::Recurrent, x: &mut Rows) {
        if self.is_interrupted() {
            return;
        }
        let normed = self.norm(x, x.all(), &weights.norm, weights.shape.eps);
        let (channels, z) = match &weights.projection {
            DeltaProjection::Grouped(matrix) => {
                let qkvz = self.linear(matrix, &normed);
                delta::ungroup(&self.context.scratch, &weights.shape, &qkvz)
            }
            DeltaProjection::Split { channels, z } => {
                (self.linear(channels, &normed), self.linear(z, &normed))
            }
        };
        let projected = delta::Projected { channels, z, ba: self.linear(&weights.ba, &normed) };
        let mixed = delta::gated_delta_net(&mut self.context, weights, &self.pass, state, &projected);
        self.add_linear(&weights.output, &mixed, x);
    }

    fn replay(
        &mut self,
        weights: &DeltaWeights<Self>,
        layer: usize,
        traces: &[&Self::Trace],
        state: &mut Self::Recurrent,
    ) {
        let width = weights.shape.trace_len();
        let mut rows = vec![0.0; traces.len() * width];
        rows.chunks_exact_mut(width).zip(traces).for_each(|(row, trace)| trace.read(layer, row));
        delta::replay(&mut self.context, weights, &rows, state);
    }

    fn moe(&mut self, weights: &MoeWeights<Self>, x: &mut Rows) {
        if self.is_interrupted() {
            return;
        }
        let normed = self.norm(x, x.all(), &weights.norm, weights.eps);
        let done = moe::moe_ffn(&mut self.context, weights, &self.pass.cancel, &normed, &mut x.values);
        self.failure = done.context("the weights of an expert cannot be read").err();
    }

    fn head(&mut self, weights: &HeadWeights<Self>, rows: Range<usize>, x: &Rows, logits: &mut Rows) {
        if self.is_interrupted() {
            return;
        }
        self.pass.heads = rows.len();
        let normed = self.norm(x, rows, &weights.norm, weights.eps);
        logits.values = self.linear(&weights.output, &normed);
    }

    fn finish(
        &mut self,
        states: &mut [Self::Recurrent],
        x: &Rows,
        logits: &Rows,
        out: &mut PassOut<Self>,
    ) -> Result<(), Interrupted> {
        if let Some(error) = self.failure.take() {
            return Err(Interrupted::Device(error));
        }
        if self.pass.cancel.is_cancelled() {
            return Err(Interrupted::Cancelled);
        }
        out.logits.clear();
        let rows = &logits.values[..self.pass.heads * logits.width];
        match self.pass.logits {
            LogitForm::Whole => out.logits.whole.extend_from_slice(rows),
            LogitForm::Top => {
                out.logits.top = top::top_logits(&mut self.context, rows, logits.width, &self.allowed);
            }
        }
        out.hidden.clear();
        out.states.clear();
        out.traces.clear();
        self.save(states, x, out);
        states.iter_mut().for_each(delta::Recurrent::commit);
        Ok(())
    }
}
