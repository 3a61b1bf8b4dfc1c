//! Arithmetic on buffers. Knows shapes, not models: no layer has a name here.
//!
//! [`Backend`] is the seam between the model and a device. Its operations are as large as a mixer, so
//! that a device can fuse inside them. Between [`Backend::begin`] and [`Backend::finish`] they enqueue work and
//! return nothing; `finish` is the only wait of a pass. In the formulas below
//! `norm(x) = x * rsqrt(mean(x^2) + eps) * w` over the last dimension (the checkpoint layout has already folded
//! any `1 + w` into `w`), a matrix is `[outputs, inputs]` as stored, and all arithmetic is at least f32.

pub mod cpu;
pub mod cuda;
pub mod experts;
pub mod local;
pub mod logits;

use std::ops::Range;
use std::sync::Arc;

use anyhow::Result;
use half::f16;

use crate::base::Cancel;
use crate::base::memory::Memory;
use crate::format::Tensor;
use experts::{DeviceVisits, ExpertBytes, ExpertShape, MatrixLayout};
use logits::{IdSet, LogitForm, Logits};

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

impl StoredMatrix {
    /// How it is stored.
    pub fn layout(&self) -> MatrixLayout {
        let scale_block = self.scale.as_ref().map(|scale| [scale.block_rows, scale.block_cols]);
        MatrixLayout { rows: self.rows, cols: self.cols, dtype: self.values.dtype, scale_block }
    }
}

impl BlockScale {
    /// The scales, little-endian.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.values.iter().flat_map(|scale| scale.to_le_bytes()).collect()
    }

    /// Multiplies the elements of row `row`, all of them, by their scales.
    pub fn apply(&self, row: usize, values: &mut [f32]) {
        let per_row = values.len().div_ceil(self.block_cols);
        let scales = &self.values[row / self.block_rows * per_row..][..per_row];
        for (values, scale) in values.chunks_mut(self.block_cols).zip(scales) {
            values.iter_mut().for_each(|value| *value *= scale);
        }
    }
}

/// A forward pass over consecutive positions of one sequence, or a replay of their recurrence.
#[derive(Clone, Copy)]
pub struct Pass<'a> {
    /// Position of the first row.
    pub start: usize,
    /// Number of rows.
    pub rows: usize,
    /// The block table: the keys and values of position `p` are in `blocks[p / KV_BLOCK]` at offset
    /// `p % KV_BLOCK`. Covers `start + rows`.
    pub blocks: &'a [BlockId],
    /// Work not yet done may be left out once this is set; [`Backend::finish`] then returns
    /// [`Interrupted::Cancelled`].
    pub cancel: &'a Cancel,
    /// What of it is wanted.
    pub keep: Keep<'a>,
}

/// What a pass leaves in [`PassOut`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Keep<'a> {
    /// After how many rows the states are saved, ascending, 1 to all.
    pub marks: &'a [usize],
    /// Rows whose inputs of the recurrence are saved, ascending and disjoint.
    pub traced: &'a [Range<usize>],
    /// What comes to the host of the rows given to `head`.
    pub logits: LogitForm,
}

impl Keep<'_> {
    /// The traced rows, one by one.
    pub fn traced_rows(&self) -> impl Iterator<Item = usize> {
        self.traced.iter().cloned().flatten()
    }

    /// The rows whose hidden states [`PassOut::hidden`] holds: those before the marks, then the traced ones.
    pub fn hidden_rows(&self) -> impl Iterator<Item = usize> {
        self.marks.iter().map(|mark| mark - 1).chain(self.traced_rows())
    }
}

/// What [`Backend::finish`] brings to the host.
pub struct PassOut<B: Backend + ?Sized> {
    /// Of the rows given to `head`, as [`Keep::logits`] says.
    pub logits: Logits,
    /// Rows after the last layer, `[Keep::hidden_rows, hidden]`.
    pub hidden: Vec<f32>,
    /// The recurrent states of all layers at each of [`Keep::marks`].
    pub states: Vec<B::State>,
    /// What each row of [`Keep::traced`] left behind in all layers.
    pub traces: Vec<B::Trace>,
}

impl<B: Backend + ?Sized> Default for PassOut<B> {
    fn default() -> Self {
        Self { logits: Logits::default(), hidden: Vec::new(), states: Vec::new(), traces: Vec::new() }
    }
}

/// The largest passes that are to come, and what they consist of.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PassSizes {
    /// Most rows.
    pub rows_max: usize,
    /// Most positions of a sequence.
    pub positions_max: usize,
    /// Width of the rows.
    pub hidden: usize,
    /// Logits of a row.
    pub vocab: usize,
    /// The shape of attention layers, where there are any.
    pub attention: Option<AttentionShape>,
    /// Attention layers.
    pub attention_layers: usize,
    /// The shape of DeltaNet layers, where there are any.
    pub delta: Option<DeltaShape>,
    /// DeltaNet layers.
    pub delta_layers: usize,
    /// Inner width of the widest block that every row visits; 0 without.
    pub dense_width: usize,
    /// Routed experts of a layer; 0 without.
    pub experts: usize,
    /// Routed experts that a row visits.
    pub top_k: usize,
    /// Inner width of a routed expert.
    pub expert_width: usize,
}

/// Why a pass has no result. Its sequence is as before.
#[derive(Debug)]
pub enum Interrupted {
    /// [`Pass::cancel`] was set.
    Cancelled,
    /// The device failed; nothing that it holds can be relied on any more.
    Device(anyhow::Error),
}

/// Sizes of gated attention.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
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
    /// Whether a sigmoid gate, projected with the queries, multiplies the output of each head.
    pub gated: bool,
    /// Epsilon of the norms.
    pub eps: f32,
}

impl AttentionShape {
    /// Rows of a head in the query projection: `[query D | gate D]`, or the query alone.
    pub fn query_width(&self) -> usize {
        if self.gated { 2 * self.head_dim } else { self.head_dim }
    }
}

/// Sizes of Gated DeltaNet.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
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
    /// Whether value head j uses key head `j % key_heads`, not `j / (value_heads / key_heads)`.
    pub tiled: bool,
    /// Epsilon of the norms.
    pub eps: f32,
}

impl DeltaShape {
    /// The value heads that use a key head.
    pub fn value_heads_of(&self, key_head: usize) -> impl Iterator<Item = usize> + use<> {
        let repeat = self.value_heads / self.key_heads;
        let (first, step) = if self.tiled { (key_head, self.key_heads) } else { (key_head * repeat, 1) };
        (first..).step_by(step).take(repeat)
    }

    /// Channels of the convolution: `[queries | keys | values]`, all heads of each.
    pub fn channels(&self) -> usize {
        2 * self.key_heads * self.key_dim + self.value_heads * self.value_dim
    }

    /// f32 elements of the recurrent matrices of one layer, `[value_heads, key_dim, value_dim]`; those of a key head's
    /// value heads stand together.
    pub fn state_len(&self) -> usize {
        self.value_heads * self.key_dim * self.value_dim
    }

    /// f32 elements of a row of a trace, as projected: `[channels before the convolution | b of all heads | a of all
    /// heads]`.
    pub fn trace_len(&self) -> usize {
        self.channels() + 2 * self.value_heads
    }

    /// f32 elements of the convolution state of one layer, `[conv_kernel - 1, channels]`, oldest first.
    pub fn conv_len(&self) -> usize {
        self.conv_kernel.saturating_sub(1) * self.channels()
    }
}

/// Weights of gated attention. `H` heads, `K` KV heads, `D` head width.
pub struct AttentionWeights<B: Backend + ?Sized> {
    pub shape: AttentionShape,
    /// Norm over the input, `[hidden]`.
    pub norm: B::Vector,
    /// `[H * query_width, hidden]`; see [`AttentionShape::query_width`].
    pub query: B::Matrix,
    /// `[K * D, hidden]`.
    pub key: B::Matrix,
    /// `[K * D, hidden]`.
    pub value: B::Matrix,
    /// Added to the projections of queries, keys and values.
    pub bias: Option<AttentionBias<B>>,
    /// `[hidden, H * D]`.
    pub output: B::Matrix,
    /// Norm over a query head, `[D]`.
    pub query_norm: Option<B::Vector>,
    /// Norm over a key head, `[D]`.
    pub key_norm: Option<B::Vector>,
}

/// Biases of the projections of attention.
pub struct AttentionBias<B: Backend + ?Sized> {
    /// `[H * query_width]`.
    pub query: B::Vector,
    /// `[K * D]`.
    pub key: B::Vector,
    /// `[K * D]`.
    pub value: B::Vector,
}

/// Weights of Gated DeltaNet. `K` key heads of width `Dk`, `V` value heads of width `Dv`, `R = V / K`.
pub struct DeltaWeights<B: Backend + ?Sized> {
    pub shape: DeltaShape,
    /// Norm over the input, `[hidden]`.
    pub norm: B::Vector,
    /// From the input to the channels of the convolution and to z.
    pub projection: DeltaProjection<B>,
    /// `[2V, hidden]`: `[b of all heads | a of all heads]`.
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

/// Weights of a feed-forward block: a mixture of experts, or a dense block, which is a shared expert alone.
pub struct MoeWeights<B: Backend + ?Sized> {
    /// Norm over the input, `[hidden]`.
    pub norm: B::Vector,
    /// Epsilon of the norm.
    pub eps: f32,
    /// The experts a row may visit.
    pub routed: Option<RoutedWeights<B>>,
    /// The expert every row visits.
    pub shared: Option<SharedWeights<B>>,
}

/// Weights of the expert that every row visits.
pub struct SharedWeights<B: Backend + ?Sized> {
    /// The expert.
    pub expert: ExpertWeights<B>,
    /// `[1, hidden]`; its sigmoid weighs the expert. Without it the weight is 1.
    pub gate: Option<B::Matrix>,
}

/// Weights of routed experts.
pub struct RoutedWeights<B: Backend + ?Sized> {
    /// `[experts, hidden]`.
    pub router: B::Matrix,
    /// The experts, wherever their bytes are.
    pub experts: B::Experts,
    /// How many experts a row visits, at most all.
    pub top_k: usize,
    /// Whether the weights of the visited experts are scaled to sum to one.
    pub normalize: bool,
}

/// What a matrix `[vocab, hidden]` is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableUse {
    /// Its rows are looked up.
    Embedding,
    /// Hidden rows are multiplied with it.
    Head,
}

/// Weights that turn hidden rows into logits.
pub struct HeadWeights<B: Backend + ?Sized> {
    /// Norm over the input, `[hidden]`.
    pub norm: B::Vector,
    /// Epsilon of the norm.
    pub eps: f32,
    /// `[vocab, hidden]`.
    pub output: B::Table,
}

/// The precision of numbers that are kept: states, traces, keys and values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// 32 bits: nothing is lost.
    F32,
    /// 16 bits, IEEE 754 binary16: half the memory. States are sums of unit vectors times values, far inside its range;
    /// what lies outside becomes its greatest number.
    F16,
}

impl Precision {
    /// Bytes of a number.
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 => 2,
        }
    }

    /// Takes numbers to those that are kept of them.
    pub fn round(self, values: &mut [f32]) {
        if self == Self::F16 {
            let max = f16::MAX.to_f32();
            values.iter_mut().for_each(|x| *x = f16::from_f32(x.clamp(-max, max)).to_f32());
        }
    }
}

/// Bytes that saved parts of a sequence take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SavedBytes {
    /// The recurrent states of all layers at one position.
    pub state: usize,
    /// What one token left behind in all layers.
    pub trace: usize,
}

impl SavedBytes {
    /// Of `layers` DeltaNet layers, the inputs of the convolution in f32 and all else in `precision`.
    pub fn new(layers: usize, shape: &DeltaShape, precision: Precision) -> Self {
        let number = precision.bytes();
        Self {
            state: layers * (shape.state_len() * number + shape.conv_len() * size_of::<f32>()),
            trace: layers * shape.trace_len() * number,
        }
    }
}

/// A device that computes.
///
/// Operations enqueue; [`Backend::finish`] alone waits. A device may run an operation late, so whatever one needs
/// it takes by value or keeps alive itself. An error of an operation is reported by `finish`.
pub trait Backend {
    /// A matrix where this device wants it.
    type Matrix;
    /// A matrix `[vocab, hidden]` where this device wants it.
    type Table;
    /// A small f32 vector where this device wants it.
    type Vector;
    /// The routed experts of one layer, wherever their bytes are.
    type Experts;
    /// Activations, `[rows, width]` f32.
    type Rows;
    /// Keys and values of all attention layers of all sequences, in blocks.
    type Kv;
    /// The recurrent state of one layer of one sequence, in two copies: `delta` and `replay` read the committed
    /// one and write the pending one, which `finish` commits, so that an interrupted pass changes nothing.
    type Recurrent;
    /// The recurrent states of all layers at one position, saved.
    type State;
    /// What one token left behind in all layers: enough to run the recurrence over it again.
    type Trace;
    /// The weights of attention, as its operation takes them.
    type Attention: From<AttentionWeights<Self>>;
    /// The weights of Gated DeltaNet, as its operations take them.
    type Delta: From<DeltaWeights<Self>>;
    /// The weights of a feed-forward block, as its operation takes them.
    type Moe: From<MoeWeights<Self>>;
    /// The weights of the head, as its operation takes them.
    type Head: From<HeadWeights<Self>>;

    /// Memory that is free, and in all.
    fn memory(&self) -> Memory;
    /// How visits to routed experts went; `None` unless the device holds some of them.
    fn expert_visits(&self) -> Option<DeviceVisits> {
        None
    }
    /// Bytes of a KV block of `layers` attention layers.
    fn kv_block_bytes(&self, layers: usize, shape: &AttentionShape) -> usize;
    /// Bytes of what is saved of `layers` DeltaNet layers.
    fn saved_bytes(&self, layers: usize, shape: &DeltaShape) -> SavedBytes;

    /// Told, before weights, of the passes that are to come. A device allocates for them.
    fn prepare(&mut self, _sizes: &PassSizes) -> Result<()> {
        Ok(())
    }

    /// Takes a matrix in its stored type.
    fn matrix(&mut self, stored: StoredMatrix) -> Result<Self::Matrix>;
    /// Takes a matrix `[vocab, hidden]`.
    fn table(&mut self, stored: StoredMatrix, of: TableUse) -> Result<Self::Table>;
    /// Takes a vector.
    fn vector(&mut self, values: Vec<f32>) -> Result<Self::Vector>;
    /// Takes the routed experts of layer `layer`, whose bytes are had from `bytes`, now or when they are needed.
    fn experts(
        &mut self,
        layer: usize,
        shape: ExpertShape,
        bytes: Arc<dyn ExpertBytes>,
    ) -> Result<Self::Experts>;
    /// Activations for up to `rows_max` rows.
    fn rows(&mut self, rows_max: usize, width: usize) -> Result<Self::Rows>;
    /// A KV cache of `layers` attention layers and `blocks_max` blocks.
    fn kv(&mut self, layers: usize, shape: &AttentionShape, blocks_max: usize) -> Result<Self::Kv>;
    /// The state of one layer before the first token: zeros.
    fn recurrent(&mut self, shape: &DeltaShape) -> Result<Self::Recurrent>;

    /// Copies a KV block over another one.
    fn copy_block(&mut self, kv: &mut Self::Kv, from: BlockId, to: BlockId);
    /// Gives back the memory of a block that is not in use any more.
    fn free_block(&mut self, kv: &mut Self::Kv, block: BlockId);
    /// Replaces the committed states of all layers, by zeros where there is none.
    fn restore(&mut self, states: &mut [Self::Recurrent], from: Option<&Self::State>);

    /// Told, before a pass whose [`Keep::logits`] are [`LogitForm::Top`], which ids can be chosen from then on.
    fn allow(&mut self, ids: &IdSet);

    /// Begins a pass. Whatever an earlier one has left unfinished is dropped.
    fn begin(&mut self, pass: &Pass);

    /// `x[i] = table[tokens[i]]`. Every token is below the table's rows.
    fn embed(&mut self, table: &Self::Table, tokens: &[u32], x: &mut Self::Rows);

    /// Replaces the rows of `x`; `values` are `[rows, width]`.
    fn load(&mut self, values: &[f32], x: &mut Self::Rows);

    /// Attention: `x += O (attend(q, K, V) * sigmoid(gate))` for `n = norm(x)`, queries and keys normed per head
    /// and then rotated (NeoX pairs `i, i + rotary_dim / 2`), scores scaled by `1 / sqrt(head_dim)`, causal.
    /// Gate, norms and biases are optional. Appends keys and values of the pass to `kv` for attention layer
    /// `layer`.
    fn attention(&mut self, weights: &Self::Attention, kv: &mut Self::Kv, layer: usize, x: &mut Self::Rows);

    /// Gated DeltaNet (arXiv:2412.06464): `x += O (norm(o) * silu(z))` where, with `n = norm(x)`, the
    /// channels `[q | k | v]` pass a causal depthwise convolution and SiLU, q and k are l2-normalised,
    /// q is scaled by `1 / sqrt(key_dim)`, `beta = sigmoid(b)`, `g = decay * softplus(a + dt_bias)`, and
    /// per value head, token by token, `S *= exp(g); d = (v - S^T k) * beta; S += k d^T; o = S^T q`.
    fn delta(&mut self, weights: &Self::Delta, state: &mut Self::Recurrent, x: &mut Self::Rows);

    /// The recurrence of `delta` alone, of DeltaNet layer `layer`, over tokens that left these traces: takes the
    /// committed state to the pending one as `delta` did when they were saved.
    fn replay(
        &mut self,
        weights: &Self::Delta,
        layer: usize,
        traces: &[&Self::Trace],
        state: &mut Self::Recurrent,
    );

    /// Mixture of experts: `x += sum_e p_e expert_e(n) + sigmoid(shared_gate n) shared(n)` for
    /// `n = norm(x)`, `expert(n) = down (silu(gate n) * up n)`, p the softmax over all experts, of which
    /// the `top_k` greatest count.
    fn moe(&mut self, weights: &Self::Moe, x: &mut Self::Rows);

    /// `logits[i] = output norm(x[rows[i]])`.
    fn head(&mut self, weights: &Self::Head, rows: Range<usize>, x: &Self::Rows, logits: &mut Self::Rows);

    /// Waits for everything since [`Backend::begin`], all of which ran if this is `Ok`, commits the pending
    /// states of all layers, and replaces `out` by what was asked to be kept and, where `head` ran, by `logits`.
    /// `x` holds the rows after the last layer.
    fn finish(
        &mut self,
        states: &mut [Self::Recurrent],
        x: &Self::Rows,
        logits: &Self::Rows,
        out: &mut PassOut<Self>,
    ) -> Result<(), Interrupted>;
}
