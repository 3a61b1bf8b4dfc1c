//! The prefix cache: a radix tree over the tokens of earlier prompts, shared by all documents and prompt orders. Pure:
//! KV blocks, checkpoints and traces are opaque.
//!
//! A node is a run of tokens without a branch, with the KV blocks of its positions. A block in which a node ends is
//! shared with the child that continues the sequence, and copied for one that branches off (copy-on-write). Keys and
//! values exist for every cached prefix, the recurrent state only at checkpoints and where traces follow one without a
//! gap.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::compute::{BlockId, KV_BLOCK};
use crate::model::state::blocks_for;

/// A node; valid until something is removed.
pub type NodeId = usize;

const ROOT: NodeId = 0;

/// Most nodes: finding a victim visits all of them.
const NODES_MAX: usize = 1024;

/// Reference counts of KV blocks.
pub trait BlockRefs {
    /// Adds a reference.
    fn share(&mut self, block: BlockId);
    /// Removes a reference.
    fn release(&mut self, block: BlockId);
}

/// Bytes per item.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    pub block: usize,
    pub checkpoint: usize,
    /// Per token.
    pub trace: usize,
}

/// Token prefixes with checkpoints `P` and traces `T`.
pub struct RadixTree<P, T> {
    nodes: Vec<Option<Node<P, T>>>,
    sizes: Sizes,
    /// Bytes of checkpoints and traces.
    bytes: usize,
    clock: u64,
}

struct Node<P, T> {
    parent: NodeId,
    children: Vec<NodeId>,
    /// Positions before the first token.
    start: usize,
    tokens: Vec<u32>,
    /// The blocks that hold its positions, in order.
    blocks: Vec<BlockId>,
    /// One per token, where saved.
    traces: Vec<Option<T>>,
    /// By position.
    checkpoints: BTreeMap<usize, P>,
    /// [`RadixTree::clock`] at its last use.
    used: u64,
}

/// The longest cached prefix of some tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct PrefixMatch {
    /// Its nodes, the root first. It may end inside the last.
    pub path: Vec<NodeId>,
    /// Its tokens.
    pub len: usize,
}

/// Where a recurrent state comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The live state.
    Live,
    Checkpoint,
    /// The zero state before the first token.
    Start,
}

/// How to restore the recurrent state closest to a position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    pub origin: Origin,
    /// The position of the origin.
    pub at: usize,
    /// The position after replaying the traces that follow.
    pub reach: usize,
}

/// The KV blocks for evaluating more tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allocation {
    /// The block table of the positions before, without the block to copy.
    pub table: Vec<BlockId>,
    /// The last block, where it is shared: to be copied before it is written to.
    pub copy_on_write: Option<BlockId>,
    /// Number of new blocks.
    pub new_blocks: usize,
}

/// A candidate for eviction.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Victim {
    Leaf(NodeId),
    Checkpoint(NodeId, usize),
    Traces(NodeId),
}

impl<P, T> RadixTree<P, T> {
    /// An empty tree.
    pub fn new(sizes: Sizes) -> Self {
        let root = Node {
            parent: ROOT,
            children: Vec::new(),
            start: 0,
            tokens: Vec::new(),
            blocks: Vec::new(),
            traces: Vec::new(),
            checkpoints: BTreeMap::new(),
            used: 0,
        };
        Self { nodes: vec![Some(root)], sizes, bytes: 0, clock: 0 }
    }

    /// The longest cached prefix of `tokens`.
    pub fn find(&self, tokens: &[u32]) -> PrefixMatch {
        let mut found = PrefixMatch { path: vec![ROOT], len: 0 };
        loop {
            let node = self.node(found.path[found.path.len() - 1]);
            let rest = &tokens[found.len..];
            let next = node.children.iter().find(|&&child| self.node(child).tokens.first() == rest.first());
            let Some(&next) = next else { return found };
            let run = &self.node(next).tokens;
            let same = run.iter().zip(rest).take_while(|(a, b)| a == b).count();
            found.path.push(next);
            found.len += same;
            if same < run.len() {
                return found;
            }
        }
    }

    /// Marks these nodes as just used.
    pub fn touch(&mut self, found: &PrefixMatch) {
        self.clock += 1;
        for &id in &found.path {
            self.node_mut(id).used = self.clock;
        }
    }

    /// The route to a position of `found` up to `len_max` that reaches farthest, and of those the one with the fewest
    /// tokens to replay. `live` is the position of the live state, if it is on the path.
    pub fn route(&self, found: &PrefixMatch, len_max: usize, live: Option<usize>) -> Route {
        let checkpoints = found.path.iter().flat_map(|&id| self.node(id).checkpoints.keys().copied());
        let checkpoints = checkpoints.filter(|&at| at <= len_max).map(|at| (Origin::Checkpoint, at));
        let live = live.filter(|&at| at <= len_max).map(|at| (Origin::Live, at));
        let origins = [(Origin::Start, 0)].into_iter().chain(checkpoints).chain(live);
        let routes = origins.map(|(origin, at)| {
            let reach = (at..len_max).find(|&i| self.trace(found, i).is_none()).unwrap_or(len_max);
            Route { origin, at, reach }
        });
        routes.max_by_key(|route| (route.reach, route.at)).expect("the start is always there")
    }

    /// The checkpoint at a position of `found`.
    pub fn checkpoint(&self, found: &PrefixMatch, at: usize) -> Option<&P> {
        let (id, _) = self.place(found, at.checked_sub(1)?)?;
        self.node(id).checkpoints.get(&at)
    }

    /// The trace of token `index` of `found`.
    pub fn trace(&self, found: &PrefixMatch, index: usize) -> Option<&T> {
        let (id, offset) = self.place(found, index)?;
        self.node(id).traces[offset].as_ref()
    }

    /// The position of the last checkpoint of `found` up to `len_max`; 0 where there is none.
    pub fn last_checkpoint(&self, found: &PrefixMatch, len_max: usize) -> usize {
        let checkpoints = found
            .path
            .iter()
            .rev()
            .filter_map(|&id| self.node(id).checkpoints.range(..=len_max).next_back().map(|(&at, _)| at));
        checkpoints.max().unwrap_or(0)
    }

    /// The KV blocks for extending `found` to position `end`.
    pub fn allocation(&self, found: &PrefixMatch, end: usize) -> Allocation {
        let mut table = Vec::new();
        for &id in &found.path {
            let node = self.node(id);
            table.truncate(node.start / KV_BLOCK);
            table.extend(&node.blocks);
        }
        table.truncate(blocks_for(found.len));
        let tip = self.node(found.path[found.path.len() - 1]);
        let is_shared = tip.start + tip.tokens.len() > found.len
            || tip.children.iter().any(|&child| self.node(child).blocks.first() == tip.blocks.last());
        let is_partial = !found.len.is_multiple_of(KV_BLOCK);
        let copy_on_write = table.pop_if(|_| end > found.len && is_partial && is_shared);
        Allocation { table, copy_on_write, new_blocks: blocks_for(end).saturating_sub(blocks_for(found.len)) }
    }

    /// Adds the rest of `tokens` after `found`, which becomes their match. `added` are the blocks of
    /// [`RadixTree::allocation`]: the copy first, if there is one.
    pub fn extend(
        &mut self,
        block_refs: &mut impl BlockRefs,
        found: &mut PrefixMatch,
        tokens: &[u32],
        is_copied: bool,
        added: &[BlockId],
    ) {
        let new = tokens.get(found.len..).unwrap_or_default();
        let tip = found.path[found.path.len() - 1];
        if new.is_empty() {
            return;
        }
        if self.node(tip).start + self.node(tip).tokens.len() > found.len {
            self.split(block_refs, tip, found.len);
        }
        let start = found.len;
        found.len = tokens.len();
        let node = self.node_mut(tip);
        if tip != ROOT && node.children.is_empty() && !is_copied {
            node.tokens.extend(new);
            node.traces.resize_with(node.tokens.len(), || None);
            node.blocks.extend(added);
            return;
        }
        let mut blocks = Vec::new();
        if !start.is_multiple_of(KV_BLOCK) && !is_copied {
            blocks.extend(node.blocks.last());
            blocks.iter().for_each(|&block| block_refs.share(block));
        }
        blocks.extend(added);
        let child = self.insert(Node {
            parent: tip,
            children: Vec::new(),
            start,
            tokens: new.to_vec(),
            blocks,
            traces: new.iter().map(|_| None).collect(),
            checkpoints: BTreeMap::new(),
            used: self.clock,
        });
        self.node_mut(tip).children.push(child);
        found.path.push(child);
    }

    /// Adds a checkpoint at a position of `found`.
    pub fn put_checkpoint(&mut self, found: &PrefixMatch, at: usize, checkpoint: P) {
        let (id, _) = self.place(found, at - 1).expect("the position is known");
        if self.node_mut(id).checkpoints.insert(at, checkpoint).is_none() {
            self.bytes += self.sizes.checkpoint;
        }
    }

    /// Adds the trace of token `index` of `found`.
    pub fn put_trace(&mut self, found: &PrefixMatch, index: usize, trace: T) {
        let (id, offset) = self.place(found, index).expect("the token is known");
        if self.node_mut(id).traces[offset].replace(trace).is_none() {
            self.bytes += self.sizes.trace;
        }
    }

    /// Bytes of checkpoints and traces.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether there are too many nodes.
    pub fn is_crowded(&self) -> bool {
        self.nodes.iter().flatten().count() > NODES_MAX
    }

    /// Evicts the victim with the least value per byte; false when nothing can be evicted. What extending the tokens
    /// `kept` needs stays. The value is the number of tokens that would have to be evaluated again, divided by the age of
    /// the last use: so redundant traces and checkpoints go first, then old branches. With `only_branches` checkpoints
    /// and traces stay, because they free no block.
    pub fn evict(&mut self, block_refs: &mut impl BlockRefs, kept: &[u32], only_branches: bool) -> bool {
        let kept = self.find(kept);
        let Some(victim) = self.victim(&kept, only_branches) else { return false };
        match victim {
            Victim::Checkpoint(id, at) => {
                self.node_mut(id).checkpoints.remove(&at);
                self.bytes -= self.sizes.checkpoint;
            }
            Victim::Traces(id) => {
                let range = self.spare_traces(id, &kept);
                let traces = &mut self.node_mut(id).traces[range];
                let count = traces.iter().flatten().count();
                traces.fill_with(|| None);
                self.bytes -= count * self.sizes.trace;
            }
            Victim::Leaf(id) => self.remove(block_refs, id),
        }
        true
    }

    pub fn sizes(&self) -> Sizes {
        self.sizes
    }

    fn victim(&self, kept: &PrefixMatch, only_branches: bool) -> Option<Victim> {
        let base = self.last_checkpoint(kept, kept.len);
        let mut least: Option<(f64, Victim)> = None;
        // A node, and the last checkpoint before it.
        let mut open = vec![(ROOT, 0)];
        while let Some((id, mut last_checkpoint)) = open.pop() {
            let node = self.node(id);
            let is_kept = kept.path.contains(&id);
            let mut consider = |victim, value: usize, bytes: usize| {
                let age = (self.clock - node.used + 1) as f64;
                let score = value as f64 / age / bytes.max(1) as f64;
                if least.is_none_or(|(other, _)| score < other) {
                    least = Some((score, victim));
                }
            };
            if node.children.is_empty() && !is_kept {
                let bytes = node.blocks.len() * self.sizes.block + self.saved_bytes(node);
                consider(Victim::Leaf(id), node.tokens.len(), bytes);
            }
            for &at in node.checkpoints.keys() {
                if !(only_branches || is_kept && at == base) {
                    consider(Victim::Checkpoint(id, at), at - last_checkpoint, self.sizes.checkpoint);
                }
                last_checkpoint = at;
            }
            let spare = node.traces[self.spare_traces(id, kept)].iter().flatten().count();
            if spare > 0 && !only_branches {
                consider(Victim::Traces(id), spare, spare * self.sizes.trace);
            }
            open.extend(node.children.iter().map(|&child| (child, last_checkpoint)));
        }
        least.map(|(_, victim)| victim)
    }

    /// The tokens of a node whose traces `kept` does not need: all but those after its last checkpoint.
    fn spare_traces(&self, id: NodeId, kept: &PrefixMatch) -> Range<usize> {
        let node = self.node(id);
        let all = node.tokens.len();
        let base = self.last_checkpoint(kept, kept.len);
        0..if kept.path.contains(&id) { base.saturating_sub(node.start).min(all) } else { all }
    }

    /// Splits a node at a position inside it: a new child has the tokens from there.
    fn split(&mut self, block_refs: &mut impl BlockRefs, id: NodeId, at: usize) {
        let node = self.node_mut(id);
        let offset = at - node.start;
        let first_block = at / KV_BLOCK - node.start / KV_BLOCK;
        let blocks = node.blocks[first_block..].to_vec();
        node.blocks.truncate(blocks_for(at) - node.start / KV_BLOCK);
        if !at.is_multiple_of(KV_BLOCK) {
            block_refs.share(blocks[0]);
        }
        let lower = Node {
            parent: id,
            children: std::mem::take(&mut node.children),
            start: at,
            tokens: node.tokens.split_off(offset),
            blocks,
            traces: node.traces.split_off(offset),
            checkpoints: node.checkpoints.split_off(&(at + 1)),
            used: node.used,
        };
        let children = lower.children.clone();
        let lower = self.insert(lower);
        for child in children {
            self.node_mut(child).parent = lower;
        }
        self.node_mut(id).children = vec![lower];
    }

    /// Removes a leaf, and merges its parent with its only child, if one is left.
    fn remove(&mut self, block_refs: &mut impl BlockRefs, id: NodeId) {
        let leaf = self.nodes[id].take().expect("the node is there");
        self.bytes -= self.saved_bytes(&leaf);
        leaf.blocks.iter().for_each(|&block| block_refs.release(block));
        let parent = self.node_mut(leaf.parent);
        parent.children.retain(|&child| child != id);
        if let [only] = parent.children[..]
            && leaf.parent != ROOT
        {
            self.merge(block_refs, leaf.parent, only);
        }
    }

    /// Merges a node with its only child.
    fn merge(&mut self, block_refs: &mut impl BlockRefs, id: NodeId, child: NodeId) {
        let child = self.nodes[child].take().expect("the node is there");
        for &grandchild in &child.children {
            self.node_mut(grandchild).parent = id;
        }
        let node = self.node_mut(id);
        if !child.start.is_multiple_of(KV_BLOCK)
            && let Some(block) = node.blocks.pop()
        {
            block_refs.release(block);
        }
        node.blocks.extend(child.blocks);
        node.tokens.extend(child.tokens);
        node.traces.extend(child.traces);
        node.checkpoints.extend(child.checkpoints);
        node.children = child.children;
        node.used = node.used.max(child.used);
    }

    fn saved_bytes(&self, node: &Node<P, T>) -> usize {
        node.checkpoints.len() * self.sizes.checkpoint + node.traced() * self.sizes.trace
    }

    fn insert(&mut self, node: Node<P, T>) -> NodeId {
        match self.nodes.iter().position(Option::is_none) {
            Some(id) => {
                self.nodes[id] = Some(node);
                id
            }
            None => {
                self.nodes.push(Some(node));
                self.nodes.len() - 1
            }
        }
    }

    /// The node with token `index` of `found`, and the index of the token in that node.
    fn place(&self, found: &PrefixMatch, index: usize) -> Option<(NodeId, usize)> {
        let nth = found.path.partition_point(|&id| self.node(id).start <= index).checked_sub(1)?;
        let id = found.path[nth];
        let offset = index - self.node(id).start;
        (index < found.len && offset < self.node(id).tokens.len()).then_some((id, offset))
    }

    fn node(&self, id: NodeId) -> &Node<P, T> {
        self.nodes[id].as_ref().expect("the node was not removed")
    }

    fn node_mut(&mut self, id: NodeId) -> &mut Node<P, T> {
        self.nodes[id].as_mut().expect("the node was not removed")
    }
}

impl<P, T> Node<P, T> {
    fn traced(&self) -> usize {
        self.traces.iter().flatten().count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::random::Mmix;
    use crate::model::state::BlockPool;

    const SIZES: Sizes = Sizes { block: 10, checkpoint: 1000, trace: 20 };

    impl BlockRefs for BlockPool {
        fn share(&mut self, block: BlockId) {
            BlockPool::share(self, block);
        }

        fn release(&mut self, block: BlockId) {
            BlockPool::release(self, block);
        }
    }

    struct Fixture {
        tree: RadixTree<usize, usize>,
        pool: BlockPool,
        /// Tokens in each row of each block, as a device would have them.
        rows: Vec<[u32; KV_BLOCK]>,
    }

    impl Fixture {
        fn new() -> Self {
            let pool = BlockPool::new(400);
            Self { tree: RadixTree::new(SIZES), rows: vec![[u32::MAX; KV_BLOCK]; pool.total()], pool }
        }

        /// Evaluates the uncached end of `tokens`, checks that every row is the sequence's own, and returns the number
        /// of cached tokens.
        fn add(&mut self, tokens: &[u32]) -> usize {
            let mut found = self.tree.find(tokens);
            let known = found.len;
            let Allocation { mut table, copy_on_write, new_blocks } =
                self.tree.allocation(&found, tokens.len());
            let mut added: Vec<BlockId> = Vec::new();
            if let Some(from) = copy_on_write {
                let to = self.pool.take().unwrap();
                self.rows[to as usize] = self.rows[from as usize];
                added.push(to);
            }
            added.extend((0..new_blocks).map(|_| self.pool.take().unwrap()));
            table.extend(&added);
            for (at, &token) in tokens.iter().enumerate().skip(known) {
                self.rows[table[at / KV_BLOCK] as usize][at % KV_BLOCK] = token;
            }
            self.tree.extend(&mut self.pool, &mut found, tokens, copy_on_write.is_some(), &added);
            self.tree.touch(&found);
            known
        }

        /// Every cached prefix has its own tokens in its blocks.
        fn check(&self) {
            let mut open = vec![(vec![ROOT], Vec::<u32>::new())];
            let mut held = std::collections::HashSet::<BlockId>::new();
            while let Some((path, mut tokens)) = open.pop() {
                let node = self.tree.node(path[path.len() - 1]);
                assert_eq!((node.start, node.traces.len()), (tokens.len(), node.tokens.len()));
                tokens.extend(&node.tokens);
                held.extend(&node.blocks);
                let found = PrefixMatch { path: path.clone(), len: tokens.len() };
                let Allocation { mut table, copy_on_write, .. } = self.tree.allocation(&found, tokens.len());
                table.extend(copy_on_write);
                for (at, &token) in tokens.iter().enumerate() {
                    assert_eq!(self.rows[table[at / KV_BLOCK] as usize][at % KV_BLOCK], token);
                }
                for &child in &node.children {
                    assert_eq!(self.tree.node(child).parent, found.path[found.path.len() - 1]);
                    open.push(([&path[..], &[child]].concat(), tokens.clone()));
                }
            }
            assert_eq!(held.len(), self.pool.used(), "every block in use is held by a node");
            let bytes = |node| self.tree.saved_bytes(node);
            assert_eq!(self.tree.bytes(), self.tree.nodes.iter().flatten().map(bytes).sum::<usize>());
        }
    }

    fn run(start: u32, len: usize) -> Vec<u32> {
        (start..start + len as u32).collect()
    }

    #[test]
    fn branches_share_blocks_and_never_write_into_each_other() {
        let mut all = Fixture::new();
        assert_eq!(all.add(&run(0, 200)), 0);
        assert_eq!(all.pool.used(), 4);
        assert_eq!(all.add(&run(0, 130)), 130);
        assert_eq!(all.add(&[run(0, 130), run(900, 20)].concat()), 130);
        assert_eq!(all.pool.used(), 5, "one copied block");
        assert_eq!(all.add(&[run(0, 150), run(700, 100)].concat()), 150);
        assert_eq!(all.add(&[run(0, 128), run(800, 10)].concat()), 128);
        assert_eq!(all.add(&[run(0, 130), run(900, 20), run(5, 60)].concat()), 150);
        assert_eq!(all.add(&run(0, 210)), 200);
        all.check();
        while all.tree.evict(&mut all.pool, &[], true) {
            all.check();
        }
        assert_eq!(all.pool.used(), 0);
    }

    #[test]
    fn random_prompts_and_evictions_keep_every_prefix_intact() {
        let mut all = Fixture::new();
        let mut numbers = Mmix(1);
        let mut random = move |below| numbers.below(below);
        let mut tokens = Vec::new();
        for round in 0..2000 {
            tokens.truncate(tokens.len().saturating_sub(random(90)));
            tokens.extend((0..random(100)).map(|_| random(3) as u32));
            tokens.truncate(600);
            if tokens.is_empty() {
                continue;
            }
            while all.pool.total() - all.pool.used() < 40 {
                assert!(all.tree.evict(&mut all.pool, &tokens, true));
            }
            all.add(&tokens);
            let found = all.tree.find(&tokens);
            assert_eq!(found.len, tokens.len());
            all.tree.put_checkpoint(&found, found.len, round);
            all.tree.put_trace(&found, found.len - 1, round);
            if round % 50 == 0 {
                all.check();
            }
        }
    }

    #[test]
    fn routes_reach_farthest_with_the_fewest_tokens() {
        let mut all = Fixture::new();
        all.add(&run(0, 100));
        let found = all.tree.find(&run(0, 100));
        let route = |all: &Fixture, len_max, live| {
            let Route { origin, at, reach } = all.tree.route(&found, len_max, live);
            (origin, at, reach)
        };
        assert_eq!(route(&all, 100, None), (Origin::Start, 0, 0));
        assert_eq!(route(&all, 100, Some(30)), (Origin::Live, 30, 30));
        for at in [20, 60] {
            all.tree.put_checkpoint(&found, at, 0);
        }
        for index in (22..40).chain(60..80) {
            all.tree.put_trace(&found, index, 0);
        }
        assert_eq!(route(&all, 100, Some(30)), (Origin::Checkpoint, 60, 80));
        assert_eq!(route(&all, 70, None), (Origin::Checkpoint, 60, 70));
        assert_eq!(route(&all, 59, Some(30)), (Origin::Live, 30, 40));
        assert_eq!(route(&all, 59, Some(70)), (Origin::Checkpoint, 20, 20));
        assert_eq!(route(&all, 78, Some(62)), (Origin::Live, 62, 78));
        assert_eq!((all.tree.last_checkpoint(&found, 59), all.tree.last_checkpoint(&found, 19)), (20, 0));
    }

    #[test]
    fn the_least_valuable_is_evicted_first() {
        let mut all = Fixture::new();
        all.add(&run(0, 300));
        let found = all.tree.find(&run(0, 300));
        for at in [100, 110, 250] {
            all.tree.put_checkpoint(&found, at, 0);
        }
        all.tree.put_trace(&found, 260, 0);
        all.add(&[run(0, 280), run(900, 9)].concat());
        let mut order = Vec::new();
        while let Some(victim) = all.tree.victim(&all.tree.find(&run(0, 300)), false) {
            order.push(victim);
            assert!(all.tree.evict(&mut all.pool, &run(0, 300), false));
        }
        let checkpoints: Vec<usize> = order
            .iter()
            .filter_map(|v| if let Victim::Checkpoint(_, at) = v { Some(*at) } else { None })
            .collect();
        assert_eq!(checkpoints, [110, 100], "dense ones first, the one of the kept prefix never");
        assert!(order.iter().any(|victim| matches!(victim, Victim::Leaf(_))));
        assert!(all.tree.trace(&all.tree.find(&run(0, 300)), 260).is_some());
        all.check();
    }
}
