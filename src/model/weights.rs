//! The weights of a model where its backend wants them.

use crate::compute::{AttentionWeights, Backend, DeltaWeights, HeadWeights, MoeWeights};

/// All weights.
pub struct Weights<B: Backend> {
    /// `[vocab, hidden]`.
    pub embedding: B::Matrix,
    /// The layers, first to last.
    pub layers: Vec<Layer<B>>,
    /// From the last layer to logits.
    pub head: HeadWeights<B>,
}

/// One layer: `x += mixer(norm(x)); x += moe(norm(x))`.
pub struct Layer<B: Backend> {
    /// Attention or DeltaNet.
    pub mixer: MixerWeights<B>,
    /// The experts.
    pub moe: MoeWeights<B>,
}

/// The mixer of a layer and where in a sequence's state it keeps its past.
pub enum MixerWeights<B: Backend> {
    /// Gated attention, the n-th such layer of the KV cache.
    Attention(AttentionWeights<B>, usize),
    /// Gated DeltaNet, the n-th recurrent state.
    Delta(DeltaWeights<B>, usize),
}
