//! Gated DeltaNet between its projections: convolution, gates, recurrence, output norm.

#![expect(unsafe_code, reason = "threads write disjoint parts of one buffer")]

use std::ops::Range;

use super::context::{Context, Scratch};
use super::matmul::Activations;
use super::saved::{LayerState, State};
use super::scratch::Buffer;
use super::simd::{Kernel, LANES, Simd};
use super::vector::{self, View};
use super::{Cpu, CpuPass, scalar};
use crate::base::Cancel;
use crate::base::pool::Disjoint;
use crate::compute::{DeltaShape, DeltaWeights, Precision};

/// Positions that the chunked form works on at a time.
const CHUNK: usize = 64;

/// Positions of a chunk whose triangular system is solved one by one before the next are.
const SOLVE: usize = 16;

/// The recurrent state of one layer in f32.
#[derive(Clone, Debug, PartialEq)]
pub struct DeltaState {
    /// See [`DeltaShape::state_len`].
    pub recurrent: Vec<f32>,
    /// See [`DeltaShape::conv_len`].
    pub conv: Vec<f32>,
}

/// The state of one layer of one sequence; see [`crate::compute::Backend::Recurrent`].
pub struct Recurrent {
    pub committed: DeltaState,
    pending: DeltaState,
    /// The marks of the last pass: after how many rows, and the state there.
    marked: Vec<(usize, LayerState)>,
    /// The traced rows of the last pass, `[rows, trace_len]`.
    trace: Vec<f32>,
}

impl Recurrent {
    pub fn new(shape: &DeltaShape) -> Self {
        let zero = DeltaState { recurrent: vec![0.0; shape.state_len()], conv: vec![0.0; shape.conv_len()] };
        Self { committed: zero.clone(), pending: zero, marked: Vec::new(), trace: Vec::new() }
    }

    /// The states at the marks of the last pass.
    pub fn take_marked(&mut self) -> impl Iterator<Item = LayerState> {
        self.marked.drain(..).map(|(_, state)| state)
    }

    /// The traced rows of the last pass, `[rows, trace_len]`.
    pub fn trace(&self) -> &[f32] {
        &self.trace
    }

    pub fn commit(&mut self) {
        std::mem::swap(&mut self.committed, &mut self.pending);
    }

    /// Places for the states at the marks, and the traced rows of projected `channels` and `ba`.
    fn keep(&mut self, pass: &CpuPass, channels: &[f32], ba: &[f32], precision: Precision) {
        let DeltaState { recurrent, conv } = &self.committed;
        let zeros = || LayerState::zeros(recurrent.len(), conv.len(), precision);
        self.marked = pass.marks.iter().map(|&mark| (mark, zeros())).collect();
        self.trace.clear();
        let (channels_width, ba_width) = (channels.len() / pass.rows, ba.len() / pass.rows);
        for row in pass.keep().traced_rows() {
            self.trace.extend_from_slice(&channels[row * channels_width..][..channels_width]);
            self.trace.extend_from_slice(&ba[row * ba_width..][..ba_width]);
        }
    }
}

/// The projections of a pass.
pub(super) struct Projected {
    /// `[rows, channels]`
    pub channels: Buffer<f32>,
    /// `[rows, V * Dv]`
    pub z: Buffer<f32>,
    /// `[rows, 2V]`
    pub ba: Buffer<f32>,
}

/// From the projections to normed, gated outputs `[rows, V * Dv]`. Reads the committed state and writes the
/// pending one.
pub(super) fn gated_delta_net(
    context: &mut Context,
    weights: &DeltaWeights<Cpu>,
    pass: &CpuPass,
    state: &mut Recurrent,
    projected: &Projected,
) -> Activations {
    let Projected { channels, z, ba } = projected;
    state.keep(pass, channels, ba, context.options.precision);
    let mixed = delta_rule(context, weights, &pass.cancel, state, channels, ba);
    let width = weights.shape.value_heads * weights.shape.value_dim;
    let level = context.options.level;
    Activations::fill(context, pass.rows, width, |row, out| {
        let own = row * width..(row + 1) * width;
        out.copy_from_slice(&mixed[own.clone()]);
        let (weight, eps) = (&weights.output_norm, weights.shape.eps);
        level.run(GatedNorm { weight, eps, z: &z[own], out });
    })
}

/// Sets the committed states of all layers to `from`, or to zeros.
pub(super) fn restore(context: &mut Context, states: &mut [Recurrent], from: Option<&State>) {
    let layers = states.len();
    let states = Disjoint::new(states);
    context.pool.run(layers, |layer| {
        // SAFETY: this task alone touches its layer.
        let DeltaState { recurrent, conv } = &mut unsafe { states.part(layer..layer + 1) }[0].committed;
        match from {
            Some(from) => from[layer].read(recurrent, conv),
            None => {
                recurrent.fill(0.0);
                conv.fill(0.0);
            }
        }
    });
}

/// Runs the recurrence again over rows that a pass has traced.
pub(super) fn replay(
    context: &mut Context,
    weights: &DeltaWeights<Cpu>,
    trace: &[f32],
    state: &mut Recurrent,
) {
    let DeltaShape { value_heads, .. } = weights.shape;
    let rows = trace.len() / weights.shape.trace_len();
    let mut channels = context.scratch.values.take(rows * weights.shape.channels());
    let mut ba = context.scratch.values.take(rows * 2 * value_heads);
    let traced = trace.chunks_exact(weights.shape.trace_len());
    let outs = channels.chunks_exact_mut(weights.shape.channels()).zip(ba.chunks_exact_mut(2 * value_heads));
    for (row, (channels, ba)) in traced.zip(outs) {
        let (first, second) = row.split_at(channels.len());
        channels.copy_from_slice(first);
        ba.copy_from_slice(second);
    }
    state.marked.clear();
    delta_rule(context, weights, &Cancel::new(), state, &channels, &ba);
}

/// From projected `channels` and `ba` to the outputs of the recurrence `[rows, V * Dv]`. Reads the committed
/// state, writes the pending one and those at the marks.
fn delta_rule(
    context: &mut Context,
    weights: &DeltaWeights<Cpu>,
    cancel: &Cancel,
    state: &mut Recurrent,
    channels: &[f32],
    ba: &[f32],
) -> Buffer<f32> {
    let shape = weights.shape;
    let rows = channels.len() / shape.channels();
    let Recurrent { committed, pending, marked, .. } = state;
    let (mut convs, mut saved) = (Vec::new(), Vec::new());
    for (mark, state) in marked {
        let (recurrent, conv) = state.parts();
        convs.push((*mark, conv));
        saved.push((*mark, recurrent));
    }
    convs.push((rows, &mut *pending.conv));
    let convolved = convolve(context, weights, committed, convs, channels);

    let repeat = shape.value_heads / shape.key_heads;
    let state_len = shape.key_dim * shape.value_dim;
    let width = shape.value_heads * shape.value_dim;
    let Context { options, pool, scratch, .. } = context;
    let mut mixed = scratch.values.take(rows * width);
    let out = Disjoint::new(&mut mixed);
    let after = Disjoint::new(&mut pending.recurrent);
    pool.run(shape.key_heads, |key_head| {
        if cancel.is_cancelled() {
            return;
        }
        let own = key_head * repeat * state_len..(key_head + 1) * repeat * state_len;
        let value_inputs = |head| ValueInputs::new(weights, head, rows, &convolved, ba);
        let mut marked: Vec<_> = saved.iter().map(|(mark, _)| (*mark, vec![0.0; own.len()])).collect();
        // SAFETY: this task alone touches the states of its heads.
        let last = unsafe { after.part(own.clone()) };
        let states = marked.iter_mut().map(|(mark, state)| (*mark, &mut **state)).chain([(rows, last)]);
        let head = KeyHead {
            shape,
            chunk_rows_min: options.delta_chunk_rows_min,
            inputs: KeyInputs::new(&shape, key_head, rows, &convolved),
            values: shape.value_heads_of(key_head).map(value_inputs).collect(),
            before: &committed.recurrent[own.clone()],
            states: states.collect(),
        };
        for (head, outputs) in shape.value_heads_of(key_head).zip(options.level.run(head)) {
            for (row, output) in outputs.chunks_exact(shape.value_dim).enumerate() {
                let at = row * width + head * shape.value_dim;
                // SAFETY: this task alone writes the columns of its heads.
                unsafe { out.part(at..at + shape.value_dim) }.copy_from_slice(output);
            }
        }
        for ((_, saved), (_, state)) in saved.iter().zip(&marked) {
            // SAFETY: as above.
            unsafe { saved.write(own.clone(), state) };
        }
    });
    mixed
}

/// `out = norm(out) * silu(z)`, head by head.
struct GatedNorm<'a> {
    weight: &'a [f32],
    eps: f32,
    z: &'a [f32],
    out: &'a mut [f32],
}

impl Kernel for GatedNorm<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        for head in self.out.chunks_exact_mut(self.weight.len()) {
            vector::rms_norm_in_place(simd, head, self.weight, self.eps);
        }
        vector::mul_silu(simd, self.z, self.out);
    }
}

/// From projected rows grouped by key head, `[q | k | v R | z R]` each, to the channels
/// `[q of all heads | k of all heads | v of all heads]` and z.
pub(super) fn ungroup(scratch: &Scratch, shape: &DeltaShape, qkvz: &[f32]) -> (Buffer<f32>, Buffer<f32>) {
    let DeltaShape { key_heads, value_heads, key_dim, value_dim, .. } = *shape;
    let (channels, z_width) = (shape.channels(), value_heads * value_dim);
    let (keys, values) = (key_heads * key_dim, z_width / key_heads);
    let rows = qkvz.len() / (channels + z_width);
    let (mut convolved, mut z) = (scratch.values.take(rows * channels), scratch.values.take(rows * z_width));
    let groups = qkvz.chunks_exact(2 * key_dim + 2 * values);
    for (i, group) in groups.enumerate() {
        let (row, head) = (i / key_heads, i % key_heads);
        let out = &mut convolved[row * channels..][..channels];
        out[head * key_dim..][..key_dim].copy_from_slice(&group[..key_dim]);
        out[keys + head * key_dim..][..key_dim].copy_from_slice(&group[key_dim..2 * key_dim]);
        out[2 * keys + head * values..][..values].copy_from_slice(&group[2 * key_dim..][..values]);
        z[row * z_width + head * values..][..values].copy_from_slice(&group[2 * key_dim + values..]);
    }
    (convolved, z)
}

/// Causal depthwise convolution and SiLU: `[rows, channels]`. The committed state holds the inputs before
/// the first row; each of `states` receives the last ones of so many rows.
fn convolve(
    context: &mut Context,
    weights: &DeltaWeights<Cpu>,
    committed: &DeltaState,
    states: Vec<(usize, &mut [f32])>,
    new: &[f32],
) -> Buffer<f32> {
    let channels = weights.shape.channels();
    let rows = new.len() / channels;
    let past = committed.conv.len() / channels;
    let input = |i: usize| {
        let (of, i) = if i < past { (&*committed.conv, i) } else { (new, i - past) };
        &of[i * channels..][..channels]
    };
    for (at, state) in states {
        for (i, out) in state.chunks_exact_mut(channels).enumerate() {
            out.copy_from_slice(input(at + i));
        }
    }
    let Context { options, pool, scratch, .. } = context;
    let mut convolved = scratch.values.zeros(rows * channels);
    let out = Disjoint::new(&mut convolved);
    pool.run(rows, |row| {
        // SAFETY: this task alone touches its row.
        let out = unsafe { out.part(row * channels..(row + 1) * channels) };
        let inputs = (row..=row + past).map(input).collect();
        options.level.run(Convolve { kernel: &weights.conv, inputs, out });
    });
    convolved
}

/// One row of the convolution.
struct Convolve<'a> {
    /// `[taps, channels]`
    kernel: &'a [f32],
    /// An input for each tap.
    inputs: Vec<&'a [f32]>,
    out: &'a mut [f32],
}

impl Kernel for Convolve<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        for (kernel, input) in self.kernel.chunks_exact(self.out.len()).zip(&self.inputs) {
            vector::add_elementwise(simd, kernel, input, self.out);
        }
        vector::silu_in_place(simd, self.out);
    }
}

/// Activations of the recurrence that the value heads of a key head share.
struct KeyInputs {
    /// Scaled and normalised, `[rows, Dk]`.
    query: Vec<f32>,
    /// Normalised, `[rows, Dk]`.
    key: Vec<f32>,
}

impl KeyInputs {
    /// Not yet normalised.
    fn new(shape: &DeltaShape, head: usize, rows: usize, convolved: &[f32]) -> Self {
        let DeltaShape { key_heads, key_dim, .. } = *shape;
        let width = shape.channels();
        Self {
            query: columns(convolved, rows, width, head * key_dim, key_dim),
            key: columns(convolved, rows, width, (key_heads + head) * key_dim, key_dim),
        }
    }
}

/// Activations of the recurrence of one value head.
#[derive(Clone)]
struct ValueInputs {
    /// `[rows, Dv]`
    value: Vec<f32>,
    beta: Vec<f32>,
    /// Logarithm of the decay.
    gate: Vec<f32>,
}

impl ValueInputs {
    fn new(weights: &DeltaWeights<Cpu>, head: usize, rows: usize, convolved: &[f32], ba: &[f32]) -> Self {
        let DeltaShape { key_heads, value_heads, key_dim, value_dim, .. } = weights.shape;
        let column = |at: usize| ba.chunks_exact(2 * value_heads).map(move |ba| ba[at]);
        let start = 2 * key_heads * key_dim + head * value_dim;
        Self {
            value: columns(convolved, rows, weights.shape.channels(), start, value_dim),
            beta: column(head).map(scalar::sigmoid).collect(),
            gate: column(value_heads + head)
                .map(|a| weights.decay[head] * scalar::softplus(a + weights.dt_bias[head]))
                .collect(),
        }
    }
}

/// Columns `start..start + count` of a matrix `[rows, width]`.
fn columns(matrix: &[f32], rows: usize, width: usize, start: usize, count: usize) -> Vec<f32> {
    let mut out = Vec::with_capacity(rows * count);
    for row in matrix.chunks_exact(width) {
        out.extend_from_slice(&row[start..start + count]);
    }
    out
}

/// The recurrence of all value heads of a key head; its result is `[rows, Dv]` for each.
struct KeyHead<'a> {
    shape: DeltaShape,
    /// Fewer rows go one by one.
    chunk_rows_min: usize,
    inputs: KeyInputs,
    values: Vec<ValueInputs>,
    /// States before the first row, `[heads, Dk, Dv]`.
    before: &'a [f32],
    /// States after so many rows, ascending; the last after all.
    states: Vec<(usize, &'a mut [f32])>,
}

impl Kernel for KeyHead<'_> {
    type Output = Vec<Vec<f32>>;

    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) -> Vec<Vec<f32>> {
        let DeltaShape { key_dim, value_dim, .. } = self.shape;
        for query in self.inputs.query.chunks_exact_mut(key_dim) {
            vector::l2_normalize(simd, query, (key_dim as f32).sqrt().recip());
        }
        for key in self.inputs.key.chunks_exact_mut(key_dim) {
            vector::l2_normalize(simd, key, 1.0);
        }
        let mut out = Vec::new();
        for values in &self.values {
            out.push(vec![0.0; values.value.len()]);
        }
        let (mut before, mut first) = (self.before, 0);
        for (end, state) in self.states {
            let rows = first..end;
            if rows.len() >= self.chunk_rows_min {
                chunked(simd, &self.shape, &self.inputs, &self.values, rows, before, state, &mut out);
            } else if rows.is_empty() {
                state.copy_from_slice(before);
            } else {
                let states = state.chunks_exact_mut(key_dim * value_dim);
                let heads = before.chunks_exact(key_dim * value_dim).zip(states);
                for (((before, state), values), out) in heads.zip(&self.values).zip(&mut out) {
                    recurrent(simd, &self.shape, &self.inputs, values, rows.clone(), before, state, out);
                }
            }
            (before, first) = (state, end);
        }
        out
    }
}

/// The recurrence as defined, one position after the other, over `rows`: from the state `before` to `state`,
/// both `[Dk, Dv]`; `out` is `[all rows, Dv]` of zeros.
#[expect(clippy::too_many_arguments, reason = "inputs, rows and states of one recurrence")]
#[inline(always)]
fn recurrent<S: Simd>(
    simd: S,
    shape: &DeltaShape,
    keys: &KeyInputs,
    values: &ValueInputs,
    rows: Range<usize>,
    before: &[f32],
    state: &mut [f32],
    out: &mut [f32],
) {
    let DeltaShape { key_dim, value_dim, .. } = *shape;
    let mut delta = vec![0.0; value_dim];
    for row in rows.clone() {
        let out = &mut out[row * value_dim..][..value_dim];
        let query = &keys.query[row * key_dim..][..key_dim];
        let key = &keys.key[row * key_dim..][..key_dim];
        let decay = values.gate[row].exp();
        delta.fill(0.0);
        let past: &[f32] = if row == rows.start { before } else { state };
        let key_view = View { values: key, row: key_dim, col: 1 };
        vector::add_product(simd, 1, value_dim, key_dim, key_view, past, value_dim, &mut delta, value_dim);
        for (delta, value) in delta.iter_mut().zip(&values.value[row * value_dim..]) {
            *delta = (value - decay * *delta) * values.beta[row];
        }
        for (k, (&key, &query)) in key.iter().zip(query).enumerate() {
            let own = k * value_dim..(k + 1) * value_dim;
            let past = if row == rows.start { Some(&before[own.clone()]) } else { None };
            let step = vector::Step { decay, key, query, delta: &delta };
            step.run(simd, past, &mut state[own], out);
        }
    }
}

/// The same recurrence of several heads over `all` these rows, from the states `before` to `states`, in chunks of
/// positions, after the WY form of arXiv:2406.06484 with the gates of arXiv:2412.06464. Within a chunk, with G the
/// cumulative sum of the gates and S the state before it:
/// `d_i = beta_i (v_i - exp(G_i) S^T k_i - sum_{j<i} exp(G_i - G_j) (k_i . k_j) d_j)`,
/// `o_i = exp(G_i) S^T q_i + sum_{j<=i} exp(G_i - G_j) (q_i . k_j) d_j`, and after it
/// `S = exp(G_last) S + sum_j exp(G_last - G_j) k_j d_j^T`. The triangular system for d is solved by
/// substitution, which is stable whatever the keys.
#[expect(clippy::too_many_arguments, reason = "inputs, rows and states of one recurrence")]
#[inline(always)]
fn chunked<S: Simd>(
    simd: S,
    shape: &DeltaShape,
    keys: &KeyInputs,
    heads: &[ValueInputs],
    all: Range<usize>,
    before: &[f32],
    states: &mut [f32],
    out: &mut [Vec<f32>],
) {
    let DeltaShape { key_dim, value_dim, .. } = *shape;
    let mut chunk = Chunk::new(shape);
    for first in all.clone().step_by(CHUNK) {
        let rows = first..all.end.min(first + CHUNK);
        let own = rows.start * key_dim..rows.end * key_dim;
        let (key, query) = (&keys.key[own.clone()], &keys.query[own]);
        chunk.multiply_keys(simd, key, query);
        for (head, values) in heads.iter().enumerate() {
            let own = head * key_dim * value_dim..(head + 1) * key_dim * value_dim;
            let past = if first == all.start { Some(&before[own.clone()]) } else { None };
            let state = &mut states[own];
            let out = &mut out[head][rows.start * value_dim..rows.end * value_dim];
            let cumulative = cumulative(&values.gate[rows.clone()]);
            let beta = &values.beta[rows.clone()];
            chunk.decay(simd, &cumulative, beta);
            let value = &values.value[rows.start * value_dim..rows.end * value_dim];
            chunk.read_state(simd, &cumulative, beta, (key, query, value), past.unwrap_or(state), out);
            chunk.solve(simd, rows.len());
            chunk.write_state(simd, &cumulative, key, past, state, out);
        }
    }
}

/// The cumulative sums of up to [`CHUNK`] gates.
fn cumulative(gates: &[f32]) -> [f32; CHUNK] {
    let (mut cumulative, mut sum) = ([0.0f32; CHUNK], 0.0);
    for (cumulative, gate) in cumulative.iter_mut().zip(gates) {
        sum += gate;
        *cumulative = sum;
    }
    cumulative
}

/// A chunk of positions in the form of [`chunked`]; matrices are `[CHUNK, CHUNK]`, rows are positions.
struct Chunk {
    key_dim: usize,
    value_dim: usize,
    /// `[Dk, CHUNK]`
    keys_transposed: Vec<f32>,
    /// `k_i . k_j`
    key_key: Vec<f32>,
    /// `q_i . k_j`
    query_key: Vec<f32>,
    /// `-beta_i exp(G_i - G_j) (k_i . k_j)` for j < i, else 0.
    lower: Vec<f32>,
    /// `exp(G_i - G_j) (q_i . k_j)` for j <= i, else 0.
    mixing: Vec<f32>,
    /// `d_i`, `[CHUNK, Dv]`.
    deltas: Vec<f32>,
}

impl Chunk {
    fn new(shape: &DeltaShape) -> Self {
        let DeltaShape { key_dim, value_dim, .. } = *shape;
        let square = || vec![0.0; CHUNK * CHUNK];
        Self {
            key_dim,
            value_dim,
            keys_transposed: vec![0.0; key_dim * CHUNK],
            key_key: square(),
            query_key: square(),
            lower: square(),
            mixing: square(),
            deltas: vec![0.0; CHUNK * value_dim],
        }
    }

    /// The products of keys and of queries, `[rows, Dk]` each, with keys, which all heads share.
    #[inline(always)]
    fn multiply_keys<S: Simd>(&mut self, simd: S, key: &[f32], query: &[f32]) {
        let key_dim = self.key_dim;
        for (i, key) in key.chunks_exact(key_dim).enumerate() {
            for (out, key) in self.keys_transposed[i..].iter_mut().step_by(CHUNK).zip(key) {
                *out = *key;
            }
        }
        let rows = key.len() / key_dim;
        let (cols, keys) = (rows.next_multiple_of(LANES), &self.keys_transposed);
        for (of, out) in [(key, &mut self.key_key), (query, &mut self.query_key)] {
            out.fill(0.0);
            vector::add_product(simd, rows, cols, key_dim, rows_of(of, key_dim), keys, CHUNK, out, CHUNK);
        }
    }

    /// `lower` and `mixing` of a head.
    #[inline(always)]
    fn decay<S: Simd>(&mut self, simd: S, cumulative: &[f32; CHUNK], beta: &[f32]) {
        self.lower.fill(0.0);
        self.mixing.fill(0.0);
        for i in 0..beta.len() {
            let mut decays = *cumulative;
            vector::exp_difference(simd, cumulative[i], &mut decays);
            let at = i * CHUNK;
            for (j, decay) in decays[..i].iter().enumerate() {
                self.lower[at + j] = -beta[i] * decay * self.key_key[at + j];
                self.mixing[at + j] = decay * self.query_key[at + j];
            }
            self.mixing[at + i] = self.query_key[at + i];
        }
    }

    /// What the state before the chunk gives: `beta_i (v_i - exp(G_i) S^T k_i)` to the deltas and
    /// `exp(G_i) S^T q_i` to `out`.
    #[inline(always)]
    fn read_state<S: Simd>(
        &mut self,
        simd: S,
        cumulative: &[f32],
        beta: &[f32],
        (key, query, value): (&[f32], &[f32], &[f32]),
        state: &[f32],
        out: &mut [f32],
    ) {
        let (rows, key_dim, value_dim) = (beta.len(), self.key_dim, self.value_dim);
        let deltas = &mut self.deltas[..rows * value_dim];
        deltas.fill(0.0);
        let (key, query) = (rows_of(key, key_dim), rows_of(query, key_dim));
        vector::add_product(simd, rows, value_dim, key_dim, key, state, value_dim, deltas, value_dim);
        vector::add_product(simd, rows, value_dim, key_dim, query, state, value_dim, out, value_dim);
        let past = deltas.chunks_exact_mut(value_dim).zip(out.chunks_exact_mut(value_dim));
        for (i, (delta, out)) in past.enumerate() {
            let decay = cumulative[i].exp();
            vector::scale(simd, decay, out);
            vector::scale(simd, -beta[i] * decay, delta);
            vector::axpy(simd, beta[i], &value[i * value_dim..][..value_dim], delta);
        }
    }

    /// Substitutes the deltas of earlier positions into those of later ones.
    #[inline(always)]
    fn solve<S: Simd>(&mut self, simd: S, rows: usize) {
        let value_dim = self.value_dim;
        let deltas = &mut self.deltas[..rows * value_dim];
        for start in (0..rows).step_by(SOLVE) {
            let end = rows.min(start + SOLVE);
            let (solved, rest) = deltas.split_at_mut(start * value_dim);
            let view = View { values: &self.lower[start * CHUNK..], row: CHUNK, col: 1 };
            let count = end - start;
            vector::add_product(simd, count, value_dim, start, view, solved, value_dim, rest, value_dim);
            for i in start + 1..end {
                let (solved, rest) = rest.split_at_mut((i - start) * value_dim);
                for (j, solved) in solved.chunks_exact(value_dim).enumerate() {
                    vector::axpy(simd, self.lower[i * CHUNK + start + j], solved, &mut rest[..value_dim]);
                }
            }
        }
    }

    /// Adds what the deltas give to `out` and to the state after the chunk; that before it is `past`, or in the same place.
    #[inline(always)]
    fn write_state<S: Simd>(
        &mut self,
        simd: S,
        cumulative: &[f32],
        key: &[f32],
        past: Option<&[f32]>,
        state: &mut [f32],
        out: &mut [f32],
    ) {
        let (key_dim, value_dim) = (self.key_dim, self.value_dim);
        let rows = key.len() / key_dim;
        let last = cumulative[rows - 1];
        let deltas = &mut self.deltas[..rows * value_dim];
        let view = rows_of(&self.mixing, CHUNK);
        vector::add_product(simd, rows, value_dim, rows, view, deltas, value_dim, out, value_dim);
        for (delta, cumulative) in deltas.chunks_exact_mut(value_dim).zip(cumulative) {
            vector::scale(simd, (last - cumulative).exp(), delta);
        }
        match past {
            Some(past) => vector::scaled(simd, last.exp(), past, state),
            None => vector::scale(simd, last.exp(), state),
        }
        let view = View { values: key, row: 1, col: key_dim };
        vector::add_product(simd, key_dim, value_dim, rows, view, deltas, value_dim, state, value_dim);
    }
}

/// A row-major matrix.
fn rows_of(values: &[f32], width: usize) -> View<'_> {
    View { values, row: width, col: 1 }
}

#[cfg(test)]
mod tests {
    use super::super::simd::Level;
    use super::*;
    use crate::base::random::Mmix;

    fn inputs(shape: &DeltaShape, rows: usize, gate: f32) -> (KeyInputs, Vec<ValueInputs>) {
        let mut random = Mmix(rows as u64);
        let mut take = |count: usize| (0..count).map(|_| random.unit()).collect::<Vec<f32>>();
        let keys = KeyInputs { query: take(rows * shape.key_dim), key: take(rows * shape.key_dim) };
        let mut value = || ValueInputs {
            value: take(rows * shape.value_dim),
            beta: take(rows).into_iter().map(scalar::sigmoid).collect(),
            gate: take(rows).into_iter().map(|x| gate * scalar::softplus(x)).collect(),
        };
        (keys, vec![value(), value()])
    }

    /// The formula of [`crate::compute::Backend::delta`], in f64.
    fn reference(shape: &DeltaShape, keys: &KeyInputs, values: &ValueInputs, state: &mut [f64]) -> Vec<f64> {
        let DeltaShape { key_dim, value_dim, .. } = *shape;
        let unit = |row: &[f32], scale: f64| -> Vec<f64> {
            let norm = (row.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() + 1e-6).sqrt();
            row.iter().map(|x| f64::from(*x) * scale / norm).collect()
        };
        let mut outputs = Vec::new();
        for row in 0..values.beta.len() {
            let key = unit(&keys.key[row * key_dim..][..key_dim], 1.0);
            let query = unit(&keys.query[row * key_dim..][..key_dim], (key_dim as f64).sqrt().recip());
            let decay = f64::from(values.gate[row]).exp();
            state.iter_mut().for_each(|s| *s *= decay);
            for col in 0..value_dim {
                let column = |k: usize| k * value_dim + col;
                let past: f64 = (0..key_dim).map(|k| state[column(k)] * key[k]).sum();
                let value = f64::from(values.value[row * value_dim + col]);
                let delta = (value - past) * f64::from(values.beta[row]);
                (0..key_dim).for_each(|k| state[column(k)] += key[k] * delta);
                outputs.push((0..key_dim).map(|k| state[column(k)] * query[k]).sum());
            }
        }
        outputs
    }

    #[track_caller]
    fn check(shape: &DeltaShape, keys: &KeyInputs, values: &[ValueInputs], what: &str) {
        let (key_dim, rows) = (shape.key_dim, values[0].beta.len());
        let state_len = key_dim * shape.value_dim;
        let before: Vec<f32> = (0..2 * state_len).map(|i| (i % 7) as f32 / 7.0).collect();
        let half = rows / 2;
        let expect = |rows: usize| -> Vec<Vec<f64>> {
            let mut states: Vec<f64> = before.iter().map(|&x| x.into()).collect();
            let mut expected: Vec<Vec<f64>> = values
                .iter()
                .zip(states.chunks_exact_mut(state_len))
                .map(|(values, state)| {
                    let first = ValueInputs { beta: values.beta[..rows].to_vec(), ..values.clone() };
                    reference(shape, keys, &first, state)
                })
                .collect();
            expected.push(states);
            expected
        };
        let mut expected = expect(rows);
        expected.extend(expect(half).pop());
        for level in Level::supported() {
            for chunked in [false, true] {
                let mut states = [vec![0.0; before.len()], vec![0.0; before.len()]];
                let [state, marked] = &mut states;
                let head = KeyHead {
                    shape: *shape,
                    chunk_rows_min: if chunked { 1 } else { usize::MAX },
                    inputs: KeyInputs { query: keys.query.clone(), key: keys.key.clone() },
                    values: values.to_vec(),
                    before: &before,
                    states: vec![(half, marked), (rows, state)],
                };
                let mut found = level.run(head);
                found.extend(states);
                for (found, expected) in found.iter().zip(&expected) {
                    let scale = expected.iter().fold(1.0f64, |m, x| m.max(x.abs()));
                    let errors = found.iter().zip(expected).map(|(a, b)| (f64::from(*a) - b).abs());
                    let error = errors.fold(0.0f64, f64::max);
                    let steps = 8 * (key_dim + if chunked { rows.min(CHUNK) } else { rows });
                    let bound = scale * f64::from(f32::EPSILON) * steps as f64;
                    assert!(
                        error <= bound,
                        "{level}, chunked {chunked}, {shape:?}, {rows} rows, {what}: {error} > {bound}"
                    );
                }
            }
        }
    }

    #[test]
    fn every_form_equals_the_definition() {
        for (key_dim, value_dim) in [(1, 1), (10, 6), (32, 48), (16, 128)] {
            let shape = DeltaShape {
                key_heads: 1,
                value_heads: 2,
                key_dim,
                value_dim,
                conv_kernel: 4,
                tiled: false,
                eps: 1e-6,
            };
            for rows in [1, 2, 63, 64, 65, 200] {
                for gate in [0.0, -0.1, -8.0] {
                    let (keys, values) = inputs(&shape, rows, gate);
                    check(&shape, &keys, &values, &format!("gate {gate}"));
                }
            }
        }
    }

    /// The same token over and over makes the triangular system of a chunk as bad as it gets.
    #[test]
    fn repeated_keys_lose_no_precision() {
        let shape = DeltaShape {
            key_heads: 1,
            value_heads: 2,
            key_dim: 16,
            value_dim: 8,
            conv_kernel: 4,
            tiled: false,
            eps: 1e-6,
        };
        for beta in [0.5, 0.99, 1.0] {
            let (mut keys, mut values) = inputs(&shape, 200, 0.0);
            keys.key = keys.key[..shape.key_dim].repeat(200);
            values.iter_mut().for_each(|values| values.beta.fill(beta));
            check(&shape, &keys, &values, &format!("beta {beta}"));
        }
    }
}
