//! Gated DeltaNet between its projections: convolution, gates, recurrence, output norm.

use super::{Cpu, CpuOptions, for_each_row, scalar};
use crate::base::pool::{Disjoint, Pool};
use crate::compute::{Batch, DeltaShape, DeltaState, DeltaWeights};

/// Positions that the chunked form works on at a time.
const CHUNK: usize = 64;

/// The state of one layer of one sequence; see [`crate::compute::Backend::Recurrent`].
pub struct Recurrent {
    committed: DeltaState,
    pending: DeltaState,
}

impl Recurrent {
    pub fn new(shape: &DeltaShape) -> Self {
        let zero = DeltaState { recurrent: vec![0.0; shape.state_len()], conv: vec![0.0; shape.conv_len()] };
        Self { committed: zero.clone(), pending: zero }
    }

    pub fn committed(&self) -> &DeltaState {
        &self.committed
    }

    pub fn commit(&mut self) {
        std::mem::swap(&mut self.committed, &mut self.pending);
    }

    pub fn import(&mut self, from: &DeltaState) {
        self.committed.recurrent.copy_from_slice(&from.recurrent);
        self.committed.conv.copy_from_slice(&from.conv);
    }

    /// The pending state, made equal to the committed one.
    fn begin(&mut self) -> &mut DeltaState {
        self.pending.recurrent.copy_from_slice(&self.committed.recurrent);
        self.pending.conv.copy_from_slice(&self.committed.conv);
        &mut self.pending
    }
}

/// Inputs of the recurrence of one value head, one element or row per position.
struct HeadInputs {
    /// Normalised and scaled, `[rows, Dk]`.
    query: Vec<f32>,
    /// Normalised, `[rows, Dk]`.
    key: Vec<f32>,
    /// `[rows, Dv]`.
    value: Vec<f32>,
    beta: Vec<f32>,
    /// Logarithm of the decay.
    gate: Vec<f32>,
}

/// From the projected `channels` `[rows, channels]`, `z` `[rows, V * Dv]` and `ba` `[rows, 2V]` to normed,
/// gated outputs `[rows, V, Dv]`. Reads the committed state and writes the pending one.
#[expect(clippy::too_many_arguments, reason = "the three projections belong to this one call")]
pub fn mix(
    pool: &mut Pool,
    options: &CpuOptions,
    weights: &DeltaWeights<Cpu>,
    batch: &Batch,
    state: &mut Recurrent,
    channels: &[f32],
    z: &[f32],
    ba: &[f32],
) -> Vec<f32> {
    let shape = weights.shape;
    let pending = state.begin();
    let convolved = convolve(pool, weights, batch.rows, &mut pending.conv, channels);

    let state_len = shape.key_dim * shape.value_dim;
    let out_width = shape.value_heads * shape.value_dim;
    let mut mixed = vec![0.0; batch.rows * out_width];
    let out = Disjoint::new(&mut mixed);
    let states = Disjoint::new(&mut pending.recurrent);
    pool.run(shape.value_heads, |head| {
        if batch.cancel.is_cancelled() {
            return;
        }
        let inputs = head_inputs(weights, head, batch.rows, &convolved, ba);
        let mut outputs = vec![0.0; batch.rows * shape.value_dim];
        // SAFETY: this task alone touches the state of its head.
        let state = unsafe { states.part(head * state_len..(head + 1) * state_len) };
        if batch.rows < options.delta_chunk_rows_min {
            recurrent(&shape, &inputs, state, &mut outputs);
        } else {
            chunked(&shape, &inputs, state, &mut outputs);
        }
        for (row, output) in outputs.chunks_exact_mut(shape.value_dim).enumerate() {
            scalar::rms_norm_in_place(output, &weights.output_norm, options.eps);
            let at = row * out_width + head * shape.value_dim;
            let z = &z[at..at + shape.value_dim];
            // SAFETY: this task alone writes the columns of its head.
            let out = unsafe { out.part(at..at + shape.value_dim) };
            for ((out, output), z) in out.iter_mut().zip(output).zip(z) {
                *out = *output * scalar::silu(*z);
            }
        }
    });
    mixed
}

/// From projected rows grouped by key head, `[q | k | v R | z R]` each, to the channels
/// `[q of all heads | k of all heads | v of all heads]` and z.
pub fn ungroup(shape: &DeltaShape, qkvz: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let DeltaShape { key_heads, value_heads, key_dim, value_dim, .. } = *shape;
    let (channels, z_width) = (shape.channels(), value_heads * value_dim);
    let (keys, values) = (key_heads * key_dim, z_width / key_heads);
    let rows = qkvz.len() / (channels + z_width);
    let (mut convolved, mut z) = (vec![0.0; rows * channels], vec![0.0; rows * z_width]);
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

/// Causal depthwise convolution and SiLU: `[rows, channels]`. `state` holds the inputs before the
/// first row and receives the last ones.
fn convolve(
    pool: &mut Pool,
    weights: &DeltaWeights<Cpu>,
    rows: usize,
    state: &mut [f32],
    new: &[f32],
) -> Vec<f32> {
    let (channels, taps) = (weights.shape.channels(), weights.shape.conv_kernel);
    let inputs = [&*state, new].concat();
    state.copy_from_slice(&inputs[rows * channels..]);

    let mut out = vec![0.0; rows * channels];
    for_each_row(pool, &mut out, channels, |row, out| {
        let inputs = inputs[row * channels..].chunks_exact(channels);
        for (input, kernel) in inputs.take(taps).zip(weights.conv.chunks_exact(channels)) {
            for ((out, input), kernel) in out.iter_mut().zip(input).zip(kernel) {
                *out += input * kernel;
            }
        }
        for out in out {
            *out = scalar::silu(*out);
        }
    });
    out
}

fn head_inputs(
    weights: &DeltaWeights<Cpu>,
    head: usize,
    rows: usize,
    convolved: &[f32],
    ba: &[f32],
) -> HeadInputs {
    let DeltaShape { key_heads, value_heads, key_dim, value_dim, .. } = weights.shape;
    let repeat = value_heads / key_heads;
    let (key_head, within) = (head / repeat, head % repeat);
    let take = |start: usize, width: usize| -> Vec<f32> {
        let rows = convolved.chunks_exact(weights.shape.channels());
        rows.flat_map(|row| &row[start..start + width]).copied().collect()
    };
    let mut query = take(key_head * key_dim, key_dim);
    let mut key = take((key_heads + key_head) * key_dim, key_dim);
    let value = take(2 * key_heads * key_dim + head * value_dim, value_dim);
    for (query, key) in query.chunks_exact_mut(key_dim).zip(key.chunks_exact_mut(key_dim)) {
        scalar::l2_normalize(query, (key_dim as f32).sqrt().recip());
        scalar::l2_normalize(key, 1.0);
    }
    let column = |offset: usize| {
        let at = key_head * 2 * repeat + offset + within;
        (0..rows).map(move |row| ba[row * 2 * value_heads + at])
    };
    let beta = column(0).map(scalar::sigmoid).collect();
    let gate =
        column(repeat).map(|a| weights.decay[head] * scalar::softplus(a + weights.dt_bias[head])).collect();
    HeadInputs { query, key, value, beta, gate }
}

/// The recurrence as defined, one position after the other. `state` is `[Dk, Dv]`, `out` `[rows, Dv]`
/// of zeros.
fn recurrent(shape: &DeltaShape, inputs: &HeadInputs, state: &mut [f32], out: &mut [f32]) {
    let DeltaShape { key_dim, value_dim, .. } = *shape;
    let mut delta = vec![0.0; value_dim];
    for (row, out) in out.chunks_exact_mut(value_dim).enumerate() {
        let query = &inputs.query[row * key_dim..][..key_dim];
        let key = &inputs.key[row * key_dim..][..key_dim];
        let decay = inputs.gate[row].exp();
        delta.fill(0.0);
        for (state, &key) in state.chunks_exact_mut(value_dim).zip(key) {
            for state in state.iter_mut() {
                *state *= decay;
            }
            scalar::axpy(key, state, &mut delta);
        }
        for (delta, value) in delta.iter_mut().zip(&inputs.value[row * value_dim..]) {
            *delta = (value - *delta) * inputs.beta[row];
        }
        for ((state, &key), &query) in state.chunks_exact_mut(value_dim).zip(key).zip(query) {
            scalar::axpy(key, &delta, state);
            scalar::axpy(query, state, out);
        }
    }
}

/// The same recurrence over chunks of positions, after the WY form of arXiv:2406.06484 with the gates of
/// arXiv:2412.06464. Within a chunk, with G the cumulative sum of the gates and S the state before it:
/// `d_i = beta_i (v_i - exp(G_i) S^T k_i - sum_{j<i} exp(G_i - G_j) (k_i . k_j) d_j)`,
/// `o_i = exp(G_i) S^T q_i + sum_{j<=i} exp(G_i - G_j) (q_i . k_j) d_j`, and after it
/// `S = exp(G_last) S + sum_j exp(G_last - G_j) k_j d_j^T`.
fn chunked(shape: &DeltaShape, inputs: &HeadInputs, state: &mut [f32], out: &mut [f32]) {
    let DeltaShape { key_dim, value_dim, .. } = *shape;
    let mut deltas = vec![0.0; CHUNK * value_dim];
    let mut cumulative = [0.0f32; CHUNK];
    for (chunk, out) in out.chunks_mut(CHUNK * value_dim).enumerate() {
        let (first, rows) = (chunk * CHUNK, out.len() / value_dim);
        let query = |i: usize| &inputs.query[(first + i) * key_dim..][..key_dim];
        let key = |i: usize| &inputs.key[(first + i) * key_dim..][..key_dim];
        let mut sum = 0.0;
        for (cumulative, gate) in cumulative[..rows].iter_mut().zip(&inputs.gate[first..]) {
            sum += gate;
            *cumulative = sum;
        }

        for i in 0..rows {
            let (before, rest) = deltas.split_at_mut(i * value_dim);
            let delta = &mut rest[..value_dim];
            let out = &mut out[i * value_dim..][..value_dim];
            delta.fill(0.0);
            for ((state, &key), &query) in state.chunks_exact(value_dim).zip(key(i)).zip(query(i)) {
                scalar::axpy(key, state, delta);
                scalar::axpy(query, state, out);
            }
            let decay = cumulative[i].exp();
            for (delta, out) in delta.iter_mut().zip(out.iter_mut()) {
                *delta *= decay;
                *out *= decay;
            }
            for (j, before) in before.chunks_exact(value_dim).enumerate() {
                let decay = (cumulative[i] - cumulative[j]).exp();
                scalar::axpy(decay * scalar::dot(key(i), key(j)), before, delta);
                scalar::axpy(decay * scalar::dot(query(i), key(j)), before, out);
            }
            for (delta, value) in delta.iter_mut().zip(&inputs.value[(first + i) * value_dim..]) {
                *delta = (value - *delta) * inputs.beta[first + i];
            }
            scalar::axpy(scalar::dot(query(i), key(i)), delta, out);
        }

        let last = cumulative[rows - 1];
        let remaining = cumulative.map(|cumulative| (last - cumulative).exp());
        for (k, state) in state.chunks_exact_mut(value_dim).enumerate() {
            for state in state.iter_mut() {
                *state *= last.exp();
            }
            for (j, delta) in deltas.chunks_exact(value_dim).take(rows).enumerate() {
                scalar::axpy(remaining[j] * key(j)[k], delta, state);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inputs(shape: &DeltaShape, rows: usize, gate: f32) -> HeadInputs {
        let mut seed = 1u64;
        let mut next = move || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        };
        let mut take = |count: usize| (0..count).map(|_| next()).collect::<Vec<f32>>();
        let mut inputs = HeadInputs {
            query: take(rows * shape.key_dim),
            key: take(rows * shape.key_dim),
            value: take(rows * shape.value_dim),
            beta: take(rows).into_iter().map(scalar::sigmoid).collect(),
            gate: take(rows).into_iter().map(|x| gate * scalar::softplus(x)).collect(),
        };
        for key in inputs.key.chunks_exact_mut(shape.key_dim) {
            scalar::l2_normalize(key, 1.0);
        }
        inputs
    }

    #[track_caller]
    fn check(shape: &DeltaShape, inputs: &HeadInputs, what: &str) {
        let (key_dim, value_dim, rows) = (shape.key_dim, shape.value_dim, inputs.beta.len());
        let start: Vec<f32> = (0..key_dim * value_dim).map(|i| (i % 7) as f32 / 7.0).collect();
        let (mut state_a, mut state_b) = (start.clone(), start);
        let (mut a, mut b) = (vec![0.0; rows * value_dim], vec![0.0; rows * value_dim]);
        recurrent(shape, inputs, &mut state_a, &mut a);
        chunked(shape, inputs, &mut state_b, &mut b);
        for (a, b) in [(a, b), (state_a, state_b)] {
            let scale = a.iter().fold(1.0f32, |m, x| m.max(x.abs()));
            let error = a.iter().zip(&b).fold(0.0f32, |m, (x, y)| m.max((x - y).abs()));
            let bound = scale * f32::EPSILON * (8 * (key_dim + rows.min(CHUNK))) as f32;
            assert!(error <= bound, "{key_dim}x{value_dim}, {rows} rows, {what}: {error}");
        }
    }

    #[test]
    fn chunks_equal_the_recurrence() {
        for (key_dim, value_dim) in [(1, 1), (10, 6), (32, 48)] {
            let shape = DeltaShape { key_heads: 1, value_heads: 1, key_dim, value_dim, conv_kernel: 4 };
            for rows in [1, 2, 63, 64, 65, 200] {
                for gate in [0.0, -0.1, -8.0] {
                    check(&shape, &inputs(&shape, rows, gate), &format!("gate {gate}"));
                }
            }
        }
    }

    /// The same token over and over makes the triangular system of a chunk as bad as it gets.
    #[test]
    fn repeated_keys_lose_no_precision() {
        let shape = DeltaShape { key_heads: 1, value_heads: 1, key_dim: 16, value_dim: 8, conv_kernel: 4 };
        for beta in [0.5, 0.99, 1.0] {
            let mut inputs = inputs(&shape, 200, 0.0);
            let key = inputs.key[..shape.key_dim].to_vec();
            inputs.key = key.repeat(200);
            inputs.beta.fill(beta);
            check(&shape, &inputs, &format!("beta {beta}"));
        }
    }
}
