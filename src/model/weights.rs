//! The weights of a model where its backend wants them.

use std::sync::Arc;

use super::experts::store::Store;
use crate::compute::Backend;
use crate::format::MappedFile;

/// All weights.
pub struct Weights<B: Backend> {
    /// `[vocab, hidden]`.
    pub embedding: B::Table,
    /// The layers, first to last.
    pub layers: Vec<Layer<B>>,
    /// From the last layer to logits.
    pub head: B::Head,
    /// How large they are.
    pub bytes: WeightBytes,
    /// The mapped files that they are in.
    pub files: Vec<Arc<MappedFile>>,
    /// What keeps the experts of a model that memory does not hold.
    pub store: Option<Arc<Store>>,
}

/// How many bytes of weights there are of each kind, as stored.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct WeightBytes {
    /// The embedding, of which a token reads one row.
    pub embedding: u64,
    /// Rows of the embedding.
    pub vocab: u64,
    /// All routed experts.
    pub experts: u64,
    /// The share of its routed experts that a token visits in a layer.
    pub experts_visited: f64,
    /// Everything else; every pass reads it.
    pub rest: u64,
}

impl WeightBytes {
    /// Bytes that a pass over `tokens` tokens reads at least: each expert it visits once, however many
    /// tokens visit it. Exact for one token, else the expectation when experts are chosen evenly.
    pub fn read_by(&self, tokens: usize) -> u64 {
        let visited = 1.0 - (1.0 - self.experts_visited).powf(tokens as f64);
        let rows = self.embedding as f64 / self.vocab as f64 * tokens as f64;
        self.rest + (self.experts as f64 * visited + rows).round() as u64
    }
}

/// One layer: `x += mixer(norm(x)); x += moe(norm(x))`.
pub struct Layer<B: Backend> {
    /// Attention or DeltaNet.
    pub mixer: MixerWeights<B>,
    /// The experts.
    pub moe: B::Moe,
}

/// The mixer of a layer and where in a sequence's state it keeps its past.
pub enum MixerWeights<B: Backend> {
    /// Gated attention, the n-th such layer of the KV cache.
    Attention(B::Attention, usize),
    /// Gated DeltaNet, the n-th recurrent state.
    Delta(B::Delta, usize),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pass_reads_each_expert_once() {
        let bytes =
            WeightBytes { embedding: 800, vocab: 100, experts: 51_200, experts_visited: 0.25, rest: 7 };
        for (tokens, experts) in [(1, 12_800), (2, 22_400), (1000, 51_200)] {
            assert_eq!(bytes.read_by(tokens), experts + 8 * tokens as u64 + 7, "{tokens} tokens");
        }
    }
}
