//! The past of one sequence: which KV blocks hold it, and its recurrent states.

use crate::compute::{Backend, BlockId, DeltaState, KV_BLOCK};

/// A sequence of evaluated positions.
pub struct Sequence<B: Backend> {
    /// Positions evaluated and committed.
    pub(super) len: usize,
    /// The blocks of its keys and values, in order.
    pub(super) blocks: Vec<BlockId>,
    /// One recurrent state for each DeltaNet layer.
    pub(super) recurrent: Vec<B::Recurrent>,
}

/// All recurrent states of a sequence at one position, in host memory.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// The position: how many tokens the states have seen.
    pub len: usize,
    /// One state for each DeltaNet layer.
    pub layers: Vec<DeltaState>,
}

impl<B: Backend> Sequence<B> {
    /// How many positions are evaluated.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing is evaluated yet.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// Hands out the KV blocks of a backend.
pub struct BlockPool {
    free: Vec<BlockId>,
    total: usize,
}

impl BlockPool {
    /// Blocks for `positions` positions in all, all free; the lowest are handed out first.
    pub fn new(positions: usize) -> Self {
        let total = positions.div_ceil(KV_BLOCK);
        Self { free: (0..total as BlockId).rev().collect(), total }
    }

    /// How many blocks there are, free or not.
    pub fn total(&self) -> usize {
        self.total
    }

    /// Extends `blocks` to hold `positions` positions, or leaves it and returns false when too few
    /// are free.
    pub fn extend(&mut self, blocks: &mut Vec<BlockId>, positions: usize) -> bool {
        let missing = positions.div_ceil(KV_BLOCK).saturating_sub(blocks.len());
        if missing > self.free.len() {
            return false;
        }
        blocks.extend(self.free.drain(self.free.len() - missing..).rev());
        true
    }

    /// Takes blocks back.
    pub fn release(&mut self, blocks: Vec<BlockId>) {
        self.free.extend(blocks.into_iter().rev());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_come_and_go() {
        let mut pool = BlockPool::new(3 * KV_BLOCK - 1);
        let (mut a, mut b) = (Vec::new(), Vec::new());
        assert!(pool.extend(&mut a, 1) && pool.extend(&mut b, KV_BLOCK + 1));
        assert_eq!((a.as_slice(), b.as_slice()), (&[0][..], &[1, 2][..]));
        assert!(pool.extend(&mut a, KV_BLOCK), "the last block has room");
        assert!(!pool.extend(&mut a, KV_BLOCK + 1), "no block is left");
        pool.release(b);
        assert!(pool.extend(&mut a, 3 * KV_BLOCK));
        assert_eq!(a, [0, 1, 2]);
    }
}
