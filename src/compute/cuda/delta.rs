//! Gated DeltaNet between its projections, and the recurrent state.

#![expect(unsafe_code, reason = "a structure that kernels take")]

use std::sync::Arc;

use anyhow::{Context as _, Result};

use super::driver::{Address, Function, Param};
use super::input::Packed;
use super::matrix::Output;
use super::memory::{Arena, Buffer};
use super::module::{File, Modules};
use super::saved::{Destination, Trace};
use super::workspace::Space;
use super::{Cuda, NO_DELTA, saver, threads};
use crate::compute::{DeltaProjection, DeltaShape, DeltaWeights, Precision};

/// Widest key: as `PER_LANE` of the kernels, for each lane of a warp.
pub(super) const KEY_DIM_MAX: usize = 256;
/// Warps of a block of the recurrence, each of which has a column of the state, or in chunks as many as a chunk has rows.
const WARPS: usize = 4;
/// Rows of a chunk: as `CHUNK` of the kernels.
const CHUNK: usize = 16;
/// Widest key in chunks: as `KEYS` of the kernels.
const CHUNKED_KEY_DIM_MAX: usize = 128;
/// From how many rows on they are computed in chunks: with 32 heads of 128 x 128 on an RTX 3070 Ti laptop a row alone takes 2.3 us
/// (151 instructions of 4,096 warps; 46 multiprocessors issue 4 in a cycle of 1.48 GHz), and a chunk 7 us (156 instructions of
/// tensor cores, 32 cycles each, of 256 warps, of which two share a quarter of a multiprocessor) with 8 us before the first one.
const CHUNKED_ROWS_MIN: usize = CHUNK;
/// Words of what a chunk has for each key head, and for each value head: `ChunkKeys` and `ChunkHead` of the kernels.
const CHUNK_KEYS_WORDS: usize = 2 * CHUNK * CHUNKED_KEY_DIM_MAX;
const CHUNK_HEAD_WORDS: usize = 2 * CHUNK * CHUNK + 2 * CHUNK;

/// As kernels take it; see `delta.cu`.
#[derive(Clone, Copy)]
#[repr(C)]
struct Shape {
    key_heads: i32,
    value_heads: i32,
    key_dim: i32,
    value_dim: i32,
    taps: i32,
    tiled: i32,
    eps: f32,
    rows: i32,
}

// SAFETY: eight halves.
unsafe impl Param for Shape {}

impl Shape {
    fn new(shape: &DeltaShape, rows: usize) -> Self {
        Self {
            key_heads: shape.key_heads as i32,
            value_heads: shape.value_heads as i32,
            key_dim: shape.key_dim as i32,
            value_dim: shape.value_dim as i32,
            taps: shape.conv_kernel as i32,
            tiled: i32::from(shape.tiled),
            eps: shape.eps,
            rows: rows as i32,
        }
    }
}

/// Kernels of the operation.
#[derive(Clone, Copy)]
pub(super) struct Kernels {
    ungroup: Function,
    convolve: Function,
    conv_state: Function,
    trace: Function,
    untrace: Function,
    normalize: Function,
    gates: Function,
    delta_rule: Function,
    delta_chunks: Function,
    delta_chunked: Function,
    gated_norm: Function,
}

impl Kernels {
    pub(super) fn new(modules: &mut Modules, precision: Precision) -> Result<Self> {
        let of = super::name(precision);
        let mut function = |name: &str| modules.function(File::Delta, name);
        Ok(Self {
            ungroup: function("ungroup")?,
            convolve: function("convolve")?,
            conv_state: function("conv_state")?,
            trace: function(&format!("trace_{of}"))?,
            untrace: function(&format!("untrace_{of}"))?,
            normalize: function("normalize")?,
            gates: function("gates")?,
            delta_rule: function("delta_rule")?,
            delta_chunks: function("delta_chunks")?,
            delta_chunked: function("delta_chunked")?,
            gated_norm: function("gated_norm")?,
        })
    }
}

/// A state of one layer: `[value_heads, value_dim, key_dim]`, and the last inputs of the convolution.
struct DeltaState {
    recurrent: Buffer,
    conv: Buffer,
}

/// The state of one layer of one sequence; see [`crate::compute::Backend::Recurrent`].
pub struct Recurrent {
    committed: DeltaState,
    pending: DeltaState,
    shape: DeltaShape,
}

impl Recurrent {
    /// With whatever is in the memory.
    pub(super) fn new(arena: &Arc<Arena>, shape: &DeltaShape) -> Result<Self> {
        let state = || {
            Ok::<_, anyhow::Error>(DeltaState {
                recurrent: arena.take(4 * shape.state_len())?,
                conv: arena.take(4 * shape.conv_len())?,
            })
        };
        Ok(Self { committed: state()?, pending: state()?, shape: *shape })
    }

    pub(super) fn commit(&mut self) {
        std::mem::swap(&mut self.committed, &mut self.pending);
    }

    /// Its sizes.
    pub(super) fn shape(&self) -> &DeltaShape {
        &self.shape
    }

    /// Where the committed state is: the recurrent matrices, and the inputs of the convolution.
    pub(super) fn committed(&self) -> (Address, Address) {
        (self.committed.recurrent.address(), self.committed.conv.address())
    }
}

/// Workspace of the operation.
struct Parts {
    normed: Address,
    /// Of `normed`, then of `mixed`.
    packed_rows: Packed,
    /// The projection of all kinds of heads, grouped by key head.
    grouped: Address,
    /// What chunks have for their key heads, and for their value heads. They lie where `grouped` was.
    chunk_keys: Address,
    chunk_heads: Address,
    channels: Address,
    convolved: Address,
    z: Address,
    ba: Address,
    mixed: Address,
    /// The inputs of the convolution before a chunk of a replay.
    past: Address,
    /// What is saved, on its way to the host.
    packed: Address,
}

impl Parts {
    fn new(space: &mut Space, shape: &DeltaShape, hidden: usize, rows: usize) -> Result<Self> {
        let (channels, z) = (shape.channels(), shape.value_heads * shape.value_dim);
        let chunks = if are_chunked(shape, rows) { rows.div_ceil(CHUNK) } else { 0 };
        let chunk_keys = chunks * shape.key_heads * CHUNK_KEYS_WORDS;
        let chunked = chunk_keys + chunks * shape.value_heads * CHUNK_HEAD_WORDS;
        let grouped = space.words(chunked.max(rows * (channels + z)))?;
        Ok(Self {
            normed: space.words(rows * hidden)?,
            packed_rows: Packed::new(space, [[rows, hidden], [rows, z]])?,
            grouped,
            chunk_keys: grouped,
            chunk_heads: grouped.plus(4 * chunk_keys),
            channels: space.words(rows * channels)?,
            convolved: space.words(rows * channels)?,
            z: space.words(rows * z)?,
            ba: space.words(rows * 2 * shape.value_heads)?,
            mixed: space.words(rows * z)?,
            past: space.words(shape.conv_len())?,
            packed: space.words(packed_len(shape, rows))?,
        })
    }
}

/// Whether the recurrence over `rows` rows goes in chunks.
fn are_chunked(shape: &DeltaShape, rows: usize) -> bool {
    rows >= CHUNKED_ROWS_MIN && shape.key_dim <= CHUNKED_KEY_DIM_MAX
}

/// Numbers that are saved or restored of one layer at a time: a state, or the traces of `rows` rows.
fn packed_len(shape: &DeltaShape, rows: usize) -> usize {
    shape.state_len().max(rows * shape.trace_len())
}

/// Bytes of workspace for `rows` rows.
pub(super) fn workspace_bytes(shape: &DeltaShape, hidden: usize, rows: usize) -> Result<usize> {
    let mut space = Space::counting();
    Parts::new(&mut space, shape, hidden, rows)?;
    Ok(space.used())
}

impl Cuda {
    pub(super) fn gated_delta_net(
        &mut self,
        weights: &DeltaWeights<Self>,
        state: &Recurrent,
        x: Address,
    ) -> Result<()> {
        let (shape, rows, hidden) = (&weights.shape, self.pass.rows, weights.ba.cols());
        let device = self.device.clone();
        let mut space = self.space()?;
        let parts = Parts::new(&mut space, shape, hidden, rows)?;
        let kernels = self.delta_kernels()?;
        let described = Shape::new(shape, rows);
        self.norm(x, &weights.norm, parts.normed, rows, hidden, shape.eps)?;
        let normed = self.input(parts.normed, &parts.packed_rows, rows, hidden)?;
        match &weights.projection {
            DeltaProjection::Grouped(matrix) => {
                matrix.multiply(&device, &normed, Output::to(parts.grouped), rows)?;
                let ungroup: [&dyn Param; 4] = [&described, &parts.grouped, &parts.channels, &parts.z];
                let width = shape.channels() + shape.value_heads * shape.value_dim;
                let block = threads(width);
                device.launch(kernels.ungroup, [width.div_ceil(block), rows, 1], block, &ungroup)?;
            }
            DeltaProjection::Split { channels, z } => {
                channels.multiply(&device, &normed, Output::to(parts.channels), rows)?;
                z.multiply(&device, &normed, Output::to(parts.z), rows)?;
            }
        }
        weights.ba.multiply(&device, &normed, Output::to(parts.ba), rows)?;
        self.save_traces(&parts, shape, &described)?;
        let marks = self.pass.marks.clone();
        let mut before = (state.committed.recurrent.address(), 0);
        let past = state.committed.conv.address();
        self.convolved(weights, &parts, past, rows)?;
        for end in marks.iter().copied().chain((marks.last() != Some(&rows)).then_some(rows)) {
            let after = state.pending.recurrent.address();
            self.rule(shape, &parts, before.0, after, before.1..end, rows)?;
            if marks.contains(&end) {
                self.save_state(shape, &parts, &described, after, past, end)?;
            }
            before = (after, end);
        }
        self.conv_state(shape, &described, past, parts.channels, state.pending.conv.address(), rows)?;
        let gated: [&dyn Param; 4] = [&described, &parts.mixed, &parts.z, &weights.output_norm.address()];
        device.launch(kernels.gated_norm, [shape.value_heads, rows, 1], 32, &gated)?;
        let mixed = self.input(parts.mixed, &parts.packed_rows, rows, weights.output.cols())?;
        weights.output.multiply(&device, &mixed, Output::adds_to(x), rows)
    }

    /// Runs the recurrence of layer `layer` again over tokens that left these traces.
    pub(super) fn replay_traces(
        &mut self,
        weights: &DeltaWeights<Self>,
        layer: usize,
        traces: &[&Trace],
        state: &Recurrent,
    ) -> Result<()> {
        let (shape, rows_max) = (&weights.shape, self.sizes.rows_max);
        let device = self.device.clone();
        let hidden = weights.ba.cols();
        let kernels = self.delta_kernels()?;
        let mut from = (state.committed.recurrent.address(), state.committed.conv.address());
        let (recurrent, conv) = (state.pending.recurrent.address(), state.pending.conv.address());
        for traces in traces.chunks(rows_max) {
            let rows = traces.len();
            let mut space = self.space()?;
            let parts = Parts::new(&mut space, shape, hidden, rows_max)?;
            let described = Shape::new(shape, rows);
            let width = shape.trace_len() * self.options.precision.bytes();
            let bytes: Vec<u8> =
                traces.iter().flat_map(|trace| trace.of_layer(layer, width)).copied().collect();
            device.upload(&bytes, parts.packed)?;
            let untrace: [&dyn Param; 4] = [&described, &parts.packed, &parts.channels, &parts.ba];
            let block = threads(shape.trace_len());
            let grid = [shape.trace_len().div_ceil(block), rows, 1];
            device.launch(kernels.untrace, grid, block, &untrace)?;
            if shape.conv_len() > 0 {
                device.copy(from.1, parts.past, 4 * shape.conv_len())?;
            }
            self.convolved(weights, &parts, parts.past, rows)?;
            self.rule(shape, &parts, from.0, recurrent, 0..rows, rows)?;
            self.conv_state(shape, &described, parts.past, parts.channels, conv, rows)?;
            from = (recurrent, conv);
        }
        Ok(())
    }

    /// From projected channels, and b and a, to what the recurrence takes.
    fn convolved(
        &mut self,
        weights: &DeltaWeights<Self>,
        parts: &Parts,
        past: Address,
        rows: usize,
    ) -> Result<()> {
        let (shape, kernels) = (&weights.shape, self.delta_kernels()?);
        let described = Shape::new(shape, rows);
        let convolve: [&dyn Param; 5] =
            [&described, &past, &parts.channels, &weights.conv.address(), &parts.convolved];
        let block = threads(shape.channels());
        let grid = [shape.channels().div_ceil(block), rows, 1];
        self.device.launch(kernels.convolve, grid, block, &convolve)?;
        let normalize: [&dyn Param; 2] = [&described, &parts.convolved];
        self.device.launch(kernels.normalize, [2 * shape.key_heads, rows, 1], 32, &normalize)?;
        let gates: [&dyn Param; 4] =
            [&described, &parts.ba, &weights.decay.address(), &weights.dt_bias.address()];
        let (count, block) = (rows * shape.value_heads, threads(rows * shape.value_heads));
        self.device.launch(kernels.gates, [count.div_ceil(block), 1, 1], block, &gates)
    }

    /// The recurrence over rows `range` of `rows`.
    fn rule(
        &mut self,
        shape: &DeltaShape,
        parts: &Parts,
        before: Address,
        after: Address,
        range: std::ops::Range<usize>,
        rows: usize,
    ) -> Result<()> {
        let (kernels, described) = (self.delta_kernels()?, Shape::new(shape, rows));
        let (first, end) = (range.start as i32, range.end as i32);
        let Parts { convolved, ba, mixed, chunk_keys, chunk_heads, .. } = *parts;
        if !are_chunked(shape, range.len()) {
            let warps = WARPS.min(shape.value_dim);
            let rule: [&dyn Param; 8] = [&described, &convolved, &ba, &before, &after, &mixed, &first, &end];
            let grid = [shape.value_dim.div_ceil(warps), shape.value_heads, 1];
            return self.device.launch(kernels.delta_rule, grid, 32 * warps, &rule);
        }
        let chunks: [&dyn Param; 7] = [&described, &convolved, &ba, &chunk_keys, &chunk_heads, &first, &end];
        let grid = [range.len().div_ceil(CHUNK), shape.value_heads, 1];
        self.device.launch(kernels.delta_chunks, grid, CHUNK * CHUNK, &chunks)?;
        let tiles = shape.value_dim.div_ceil(CHUNK);
        let warps = WARPS.min(tiles);
        let rule: [&dyn Param; 9] =
            [&described, &convolved, &chunk_keys, &chunk_heads, &before, &after, &mixed, &first, &end];
        let grid = [tiles.div_ceil(warps), shape.value_heads, 1];
        self.device.launch(kernels.delta_chunked, grid, 32 * warps, &rule)
    }

    /// Writes the state of the convolution after `at` rows.
    fn conv_state(
        &mut self,
        shape: &DeltaShape,
        described: &Shape,
        past: Address,
        channels: Address,
        to: Address,
        at: usize,
    ) -> Result<()> {
        let kernels = self.delta_kernels()?;
        let inputs = shape.conv_kernel.saturating_sub(1);
        if inputs == 0 {
            return Ok(());
        }
        let params: [&dyn Param; 5] = [described, &past, &channels, &to, &(at as i32)];
        let block = threads(shape.channels());
        self.device.launch(kernels.conv_state, [shape.channels().div_ceil(block), inputs, 1], block, &params)
    }

    /// Enqueues the state after `at` rows to be saved.
    fn save_state(
        &mut self,
        shape: &DeltaShape,
        parts: &Parts,
        described: &Shape,
        recurrent: Address,
        past: Address,
        at: usize,
    ) -> Result<()> {
        let mark = self.pass.marks.iter().position(|&mark| mark == at).expect("a mark");
        let (count, precision) = (shape.state_len(), self.options.precision);
        let piece = self.saver()?.piece()?;
        match precision {
            Precision::F32 => self.device.copy(recurrent, piece, 4 * count)?,
            Precision::F16 => self.pack(recurrent, piece, count)?,
        }
        let packed = count * precision.bytes();
        let inputs = packed.next_multiple_of(saver::ALIGNMENT);
        self.conv_state(shape, described, past, parts.channels, piece.plus(inputs), at)?;
        let saved = [0..packed, inputs..inputs + 4 * shape.conv_len()];
        self.saver.as_mut().context(NO_DELTA)?.save(saved, &mut self.pass.states[mark])
    }

    /// Enqueues the traced rows to be saved.
    fn save_traces(&mut self, parts: &Parts, shape: &DeltaShape, described: &Shape) -> Result<()> {
        let kernels = self.delta_kernels()?;
        let width = shape.trace_len();
        let mut first = 0;
        for range in self.pass.traced.clone() {
            let params: [&dyn Param; 5] =
                [described, &parts.channels, &parts.ba, &parts.packed, &(range.start as i32)];
            let block = threads(width);
            self.device.launch(kernels.trace, [width.div_ceil(block), range.len(), 1], block, &params)?;
            let bytes = width * self.options.precision.bytes();
            self.save(parts.packed, range.len() * bytes, Destination::Traces { first, bytes })?;
            first += range.len();
        }
        Ok(())
    }
}
