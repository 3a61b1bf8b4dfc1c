//! The past of one sequence: its recurrent states, and the KV blocks that hold the rest.

use crate::compute::{Backend, BlockId, KV_BLOCK};

/// The recurrent states of a sequence. Its keys and values are in blocks that the caller keeps account of.
pub struct Sequence<B: Backend> {
    /// Positions evaluated and committed.
    pub(super) len: usize,
    /// One recurrent state for each DeltaNet layer.
    pub(super) recurrent: Vec<B::Recurrent>,
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

/// All that a sequence needs of its past at one position, besides keys and values.
pub struct Checkpoint<B: Backend> {
    /// The recurrent states of all layers.
    pub state: B::State,
    /// The row after the last layer, from which the logits are computed, `[hidden]`.
    pub hidden: Vec<f32>,
}

/// What one token left behind: enough to run the recurrence over it again.
pub struct Trace<B: Backend> {
    /// The inputs of the recurrence in all layers.
    pub inputs: B::Trace,
    /// The row after the last layer, `[hidden]`.
    pub hidden: Vec<f32>,
}

/// What a pass was asked to keep.
pub struct Kept<B: Backend> {
    /// The state at each mark.
    pub checkpoints: Vec<Checkpoint<B>>,
    /// Each traced row.
    pub traces: Vec<Trace<B>>,
}

/// Hands out the KV blocks of a backend, which several sequences may share.
pub struct BlockPool {
    free: Vec<BlockId>,
    /// How many hold each block.
    holders: Vec<u32>,
}

impl BlockPool {
    /// So many blocks, all free; the lowest are handed out first.
    pub fn new(total: usize) -> Self {
        Self { free: (0..total as BlockId).rev().collect(), holders: vec![0; total] }
    }

    /// How many blocks there are, free or not.
    pub fn total(&self) -> usize {
        self.holders.len()
    }

    /// How many blocks are not free.
    pub fn used(&self) -> usize {
        self.total() - self.free.len()
    }

    /// A free block, if there is one, for one holder.
    pub fn take(&mut self) -> Option<BlockId> {
        let block = self.free.pop()?;
        self.holders[block as usize] = 1;
        Some(block)
    }

    /// One more holder of a block.
    pub fn share(&mut self, block: BlockId) {
        self.holders[block as usize] += 1;
    }

    /// One holder less; true when it was the last.
    pub fn release(&mut self, block: BlockId) -> bool {
        let holders = &mut self.holders[block as usize];
        *holders = holders.checked_sub(1).expect("a block is held until it is released");
        let is_free = *holders == 0;
        if is_free {
            self.free.push(block);
        }
        is_free
    }
}

/// KV blocks that `positions` take.
pub fn blocks_for(positions: usize) -> usize {
    positions.div_ceil(KV_BLOCK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_come_and_go() {
        let mut pool = BlockPool::new(blocks_for(2 * KV_BLOCK - 1));
        assert_eq!((pool.take(), pool.take(), pool.take()), (Some(0), Some(1), None));
        pool.share(0);
        assert!(!pool.release(0) && pool.used() == 2);
        assert!(pool.release(0) && pool.used() == 1);
        assert_eq!(pool.take(), Some(0));
    }
}
