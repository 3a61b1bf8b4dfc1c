//! Arithmetic on buffers. Knows shapes, not models: no layer has a name here.
//!
//! [`Backend`] is the seam between the model and a device. Its operations are as large as a mixer, so
//! that a device can fuse inside them; they enqueue work and return nothing, and only
//! [`Backend::read`] waits. In the formulas below `norm(x) = x * rsqrt(mean(x^2) + eps) * w` over the
//! last dimension (the checkpoint layout has already folded any `1 + w` into `w`), a matrix is
//! `[outputs, inputs]` as stored, and all arithmetic is at least f32.

pub mod cpu;

use std::ops::Range;

use anyhow::Result;

use crate::base::Cancel;
use crate::format::Tensor;

/// Positions that one KV block holds.
pub const KV_BLOCK: usize = 64;

/// Index of a KV block in a backend's storage. A block holds the keys and values of all attention
/// layers for [`KV_BLOCK`] consecutive positions.
pub type BlockId = u32;

/// A matrix as a checkpoint stores it, `[rows, cols]`, with its scales where it is quantised by blocks.
#[derive(Clone)]
pub struct StoredMatrix {
    /// Outputs.
    pub rows: usize,
    /// Inputs.
    pub cols: usize,
    /// The elements.
    pub values: Tensor,
    /// Multipliers of blocks of elements.
    pub scale: Option<BlockScale>,
}

/// Element `[r, c]` of a matrix is multiplied by `values[r / block_rows, c / block_cols]`; the last
/// block of a row or column may be ragged.
#[derive(Clone)]
pub struct BlockScale {
    /// `[ceil(rows / block_rows), ceil(cols / block_cols)]`, f32.
    pub values: Vec<f32>,
    /// Rows that share a scale.
    pub block_rows: usize,
    /// Columns that share a scale.
    pub block_cols: usize,
}

impl BlockScale {
    /// Multiplies the elements of row `row`, all of them, by their scales.
    pub fn apply(&self, row: usize, values: &mut [f32]) {
        let per_row = values.len().div_ceil(self.block_cols);
        let scales = &self.values[row / self.block_rows * per_row..][..per_row];
        for (values, scale) in values.chunks_mut(self.block_cols).zip(scales) {
            values.iter_mut().for_each(|value| *value *= scale);
        }
    }
}

/// Consecutive positions of one sequence that an operation works on.
#[derive(Clone, Copy)]
pub struct Batch<'a> {
    /// Position of the first row.
    pub start: usize,
    /// How many rows.
    pub rows: usize,
    /// The blocks that hold the sequence's keys and values: position `p` is in
    /// `blocks[p / KV_BLOCK]` at offset `p % KV_BLOCK`. Covers `start + rows`.
    pub blocks: &'a [BlockId],
    /// Work not yet done may be left out once this is set; the results are then undefined and the
    /// caller does not commit them.
    pub cancel: &'a Cancel,
    /// What recurrent states keep of their way through these rows.
    pub keep: Keep<'a>,
}

/// What a pass leaves for [`Backend::export_marked`] and [`Backend::export_trace`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Keep<'a> {
    /// After how many rows the state is kept, ascending, 1 to all.
    pub marks: &'a [usize],
    /// Rows whose inputs of the recurrence are kept, ascending and apart.
    pub traced: &'a [Range<usize>],
}

impl Keep<'_> {
    /// The traced rows, one by one.
    pub fn traced_rows(&self) -> impl Iterator<Item = usize> {
        self.traced.iter().cloned().flatten()
    }
}

/// Sizes of gated attention.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionShape {
    /// Query heads, a multiple of `kv_heads`.
    pub heads: usize,
    /// Heads of keys and values.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// How many leading dimensions of a head are rotated; even, at most `head_dim`.
    pub rotary_dim: usize,
    /// Base of the rotation frequencies.
    pub rope_theta: f64,
}

/// Sizes of Gated DeltaNet.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DeltaShape {
    /// Heads of queries and keys.
    pub key_heads: usize,
    /// Heads of values and of the state, a multiple of `key_heads`.
    pub value_heads: usize,
    /// Width of a query or key head.
    pub key_dim: usize,
    /// Width of a value head.
    pub value_dim: usize,
    /// Taps of the causal convolution.
    pub conv_kernel: usize,
}

impl DeltaShape {
    /// Channels of the convolution: `[queries | keys | values]`, all heads of each.
    pub fn channels(&self) -> usize {
        2 * self.key_heads * self.key_dim + self.value_heads * self.value_dim
    }

    /// f32 elements of the recurrent matrices of one layer, `[value_heads, key_dim, value_dim]`.
    pub fn state_len(&self) -> usize {
        self.value_heads * self.key_dim * self.value_dim
    }

    /// f32 elements of a row of a trace: `[channels before the convolution | b and a as projected]`.
    pub fn trace_len(&self) -> usize {
        self.channels() + 2 * self.value_heads
    }

    /// f32 elements of the convolution state of one layer, `[conv_kernel - 1, channels]`, oldest first.
    pub fn conv_len(&self) -> usize {
        (self.conv_kernel - 1) * self.channels()
    }
}

/// Weights of gated attention. `H` heads, `K` KV heads, `D` head width.
pub struct AttentionWeights<B: Backend + ?Sized> {
    /// Sizes.
    pub shape: AttentionShape,
    /// Norm over the input, `[hidden]`.
    pub norm: B::Vector,
    /// `[H * 2D, hidden]`; rows of head h are `[query D | gate D]`.
    pub query_gate: B::Matrix,
    /// `[K * D, hidden]`.
    pub key: B::Matrix,
    /// `[K * D, hidden]`.
    pub value: B::Matrix,
    /// `[hidden, H * D]`.
    pub output: B::Matrix,
    /// Norm over a query head, `[D]`.
    pub query_norm: B::Vector,
    /// Norm over a key head, `[D]`.
    pub key_norm: B::Vector,
}

/// Weights of Gated DeltaNet. `K` key heads of width `Dk`, `V` value heads of width `Dv`, `R = V / K`.
pub struct DeltaWeights<B: Backend + ?Sized> {
    /// Sizes.
    pub shape: DeltaShape,
    /// Norm over the input, `[hidden]`.
    pub norm: B::Vector,
    /// From the input to the channels of the convolution and to z.
    pub projection: DeltaProjection<B>,
    /// `[2V, hidden]`; rows of key head h are `[b R | a R]`.
    pub ba: B::Matrix,
    /// `[conv_kernel, channels]`, the newest input last.
    pub conv: B::Vector,
    /// `-exp(A_log)`, `[V]`.
    pub decay: B::Vector,
    /// Bias of the time step, `[V]`.
    pub dt_bias: B::Vector,
    /// Norm over an output head, `[Dv]`.
    pub output_norm: B::Vector,
    /// `[hidden, V * Dv]`.
    pub output: B::Matrix,
}

/// The projection of Gated DeltaNet, in either of the orders that checkpoints keep its rows in.
pub enum DeltaProjection<B: Backend + ?Sized> {
    /// `[K * (2 Dk + 2 R Dv), hidden]`; rows of key head h are `[q Dk | k Dk | v R*Dv | z R*Dv]`.
    Grouped(B::Matrix),
    /// Rows of all heads of one kind together.
    Split {
        /// `[channels, hidden]`: `[q of all heads | k of all heads | v of all heads]`.
        channels: B::Matrix,
        /// `[V * Dv, hidden]`.
        z: B::Matrix,
    },
}

/// Weights of one feed-forward block with a gate, of inner width `I`.
pub struct ExpertWeights<B: Backend + ?Sized> {
    /// `[I, hidden]`.
    pub gate: B::Matrix,
    /// `[I, hidden]`.
    pub up: B::Matrix,
    /// `[hidden, I]`.
    pub down: B::Matrix,
}

/// Weights of a mixture of experts. A dense layer is one with nothing but a shared expert.
pub struct MoeWeights<B: Backend + ?Sized> {
    /// Norm over the input, `[hidden]`.
    pub norm: B::Vector,
    /// The experts a row may visit.
    pub routed: Option<RoutedWeights<B>>,
    /// The expert every row visits.
    pub shared: ExpertWeights<B>,
    /// `[1, hidden]`; its sigmoid weighs the shared expert. Without it the weight is 1.
    pub shared_gate: Option<B::Matrix>,
}

/// Weights of routed experts.
pub struct RoutedWeights<B: Backend + ?Sized> {
    /// `[experts, hidden]`.
    pub router: B::Matrix,
    /// The experts.
    pub experts: Vec<ExpertWeights<B>>,
    /// How many experts a row visits, at most all.
    pub top_k: usize,
    /// Whether the weights of the visited experts are scaled to sum to one.
    pub normalize: bool,
}

/// Weights that turn hidden rows into logits.
pub struct HeadWeights<B: Backend + ?Sized> {
    /// Norm over the input, `[hidden]`.
    pub norm: B::Vector,
    /// `[vocab, hidden]`.
    pub output: B::Matrix,
}

/// The recurrent state of one layer in host memory.
#[derive(Clone, Debug, PartialEq)]
pub struct DeltaState {
    /// See [`DeltaShape::state_len`].
    pub recurrent: Vec<f32>,
    /// See [`DeltaShape::conv_len`].
    pub conv: Vec<f32>,
}

/// A device that computes. Operations enqueue; [`Backend::read`] and the exports wait.
pub trait Backend {
    /// A matrix where this device wants it.
    type Matrix;
    /// A small f32 vector where this device wants it.
    type Vector;
    /// Activations, `[rows, width]` f32.
    type Rows;
    /// Keys and values of all attention layers of all sequences, in blocks.
    type Kv;
    /// The recurrent state of one layer of one sequence, in two copies: `delta` reads the committed one
    /// and writes the pending one, so that a forward pass left half-way changes nothing. It also holds what
    /// the last pass was to [`Keep`].
    type Recurrent;

    /// Takes a matrix in its stored type.
    fn matrix(&mut self, stored: StoredMatrix) -> Result<Self::Matrix>;
    /// Takes a vector.
    fn vector(&mut self, values: Vec<f32>) -> Result<Self::Vector>;
    /// Activations for up to `rows_max` rows.
    fn rows(&mut self, rows_max: usize, width: usize) -> Self::Rows;
    /// Room for the keys and values of `layers` attention layers; blocks below `blocks_max` may be used.
    fn kv(&mut self, layers: usize, shape: &AttentionShape, blocks_max: usize) -> Self::Kv;
    /// The state of one layer before the first token: zeros.
    fn recurrent(&mut self, shape: &DeltaShape) -> Self::Recurrent;

    /// `x[i] = table[tokens[i]]`. Every token is below the table's rows.
    fn embed(&mut self, table: &Self::Matrix, tokens: &[u32], x: &mut Self::Rows);

    /// Gated attention: `x += O (attend(q, K, V) * sigmoid(gate))` for `n = norm(x)`, queries and keys
    /// normed per head and then rotated (NeoX pairs `i, i + rotary_dim / 2`), scores scaled by
    /// `1 / sqrt(head_dim)`, causal. Appends keys and values of the batch to `kv` for attention layer
    /// `layer`.
    fn attention(
        &mut self,
        weights: &AttentionWeights<Self>,
        batch: &Batch,
        kv: &mut Self::Kv,
        layer: usize,
        x: &mut Self::Rows,
    );

    /// Gated DeltaNet (arXiv:2412.06464): `x += O (norm(o) * silu(z))` where, with `n = norm(x)`, the
    /// channels `[q | k | v]` pass a causal depthwise convolution and SiLU, q and k are l2-normalised,
    /// q is scaled by `1 / sqrt(key_dim)`, `beta = sigmoid(b)`, `g = decay * softplus(a + dt_bias)`, and
    /// per value head, token by token, `S *= exp(g); d = (v - S^T k) * beta; S += k d^T; o = S^T q`.
    fn delta(
        &mut self,
        weights: &DeltaWeights<Self>,
        batch: &Batch,
        state: &mut Self::Recurrent,
        x: &mut Self::Rows,
    );

    /// The recurrence of `delta` alone, over `trace`, `[rows, trace_len]`: takes the committed state to the
    /// pending one as `delta` did when it kept these rows.
    fn replay(&mut self, weights: &DeltaWeights<Self>, trace: &[f32], state: &mut Self::Recurrent);

    /// Mixture of experts: `x += sum_e p_e expert_e(n) + sigmoid(shared_gate n) shared(n)` for
    /// `n = norm(x)`, `expert(n) = down (silu(gate n) * up n)`, p the softmax over all experts, of which
    /// the `top_k` greatest count.
    fn moe(&mut self, weights: &MoeWeights<Self>, batch: &Batch, x: &mut Self::Rows);

    /// `logits[i] = output norm(x[rows[i]])`.
    fn head(
        &mut self,
        weights: &HeadWeights<Self>,
        rows: Range<usize>,
        x: &Self::Rows,
        logits: &mut Self::Rows,
    );

    /// Makes the pending state the committed one.
    fn commit(&mut self, state: &mut Self::Recurrent);
    /// The states at the marks of the last pass, moved to host memory.
    fn export_marked(&mut self, state: &mut Self::Recurrent) -> Vec<DeltaState>;
    /// The rows that the last pass traced, `[rows, trace_len]`, moved to host memory.
    fn export_trace(&mut self, state: &mut Self::Recurrent) -> Vec<f32>;
    /// Replaces the committed state, by zeros where there is none. Panics when the sizes differ.
    fn import_state(&mut self, state: &mut Self::Recurrent, from: Option<&DeltaState>);

    /// Bytes of a KV block.
    fn block_bytes(&self, kv: &Self::Kv) -> usize;
    /// Copies a KV block over another one.
    fn copy_block(&mut self, kv: &mut Self::Kv, from: BlockId, to: BlockId);
    /// Gives back the memory of a block that nobody uses any more.
    fn free_block(&mut self, kv: &mut Self::Kv, block: BlockId);

    /// Waits for all work and copies some of the rows last written to `from` into `out`.
    fn read(&mut self, from: &Self::Rows, rows: Range<usize>, out: &mut Vec<f32>);
    /// Replaces the rows of `to`; `values` are `[rows, width]`.
    fn write(&mut self, values: &[f32], to: &mut Self::Rows);
}
