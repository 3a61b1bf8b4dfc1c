//! Gated attention between its projections.

use super::product::{Inputs, Scratch};
use super::scratch::Buffer;
use super::simd::{Kernel, LANES, Simd};
use super::vector::{self, View};
use super::{Cpu, CpuOptions};
use crate::base::pool::{Disjoint, Pool};
use crate::compute::{AttentionShape, AttentionWeights, Batch, BlockId, KV_BLOCK};

/// Keys and values in blocks of f32, allocated at first use. For each layer and head a block holds the keys
/// as `[head_dim, KV_BLOCK]`, so that a product with them needs no sum across lanes, then the values as
/// `[KV_BLOCK, head_dim]`.
pub struct Kv {
    blocks: Vec<Box<[f32]>>,
    layers: usize,
    kv_heads: usize,
    head_dim: usize,
}

impl Kv {
    pub fn new(layers: usize, shape: &AttentionShape, blocks_max: usize) -> Self {
        let blocks = vec![Box::default(); blocks_max];
        Self { blocks, layers, kv_heads: shape.kv_heads, head_dim: shape.head_dim }
    }

    /// f32 elements of a block.
    pub fn block_len(&self) -> usize {
        self.layers * self.kv_heads * 2 * KV_BLOCK * self.head_dim
    }

    /// Copies a block over another one.
    pub fn copy(&mut self, from: BlockId, to: BlockId) {
        let [from, to] =
            self.blocks.get_disjoint_mut([from as usize, to as usize]).expect("they are two blocks");
        if to.len() == from.len() {
            to.copy_from_slice(from);
        } else {
            *to = from.clone();
        }
    }

    /// Gives back the memory of a block.
    pub fn free(&mut self, block: BlockId) {
        self.blocks[block as usize] = Box::default();
    }

    /// Where the keys, then the values of a head lie in a block.
    fn head(&self, layer: usize, head: usize) -> std::ops::Range<usize> {
        let len = 2 * KV_BLOCK * self.head_dim;
        let at = (layer * self.kv_heads + head) * len;
        at..at + len
    }

    /// Keys and values of one head of one layer.
    fn keys_values(&self, block: BlockId, layer: usize, head: usize) -> (&[f32], &[f32]) {
        self.blocks[block as usize][self.head(layer, head)].split_at(KV_BLOCK * self.head_dim)
    }

    /// Stores a row of keys and one of values, `[kv_heads, head_dim]` each, at `offset` of a block.
    fn store(&mut self, block: BlockId, layer: usize, offset: usize, keys: &[f32], values: &[f32]) {
        let (head_dim, len) = (self.head_dim, self.block_len());
        for head in 0..self.kv_heads {
            let range = self.head(layer, head);
            let block = &mut self.blocks[block as usize];
            if block.is_empty() {
                *block = vec![0.0; len].into();
            }
            let (key_block, value_block) = block[range].split_at_mut(KV_BLOCK * head_dim);
            let own = head * head_dim..(head + 1) * head_dim;
            for (out, key) in key_block[offset..].iter_mut().step_by(KV_BLOCK).zip(&keys[own.clone()]) {
                *out = *key;
            }
            value_block[offset * head_dim..][..head_dim].copy_from_slice(&values[own]);
        }
    }
}

/// From projected queries with gates `[rows, H, 2D]`, keys and values `[rows, K, D]` to gated outputs
/// `[rows, H * D]`; appends to `kv`.
#[expect(clippy::too_many_arguments, reason = "the three projections belong to this one call")]
pub fn mix(
    pool: &mut Pool,
    scratch: &Scratch,
    options: &CpuOptions,
    weights: &AttentionWeights<Cpu>,
    batch: &Batch,
    kv: &mut Kv,
    layer: usize,
    mut query_gate: Buffer<f32>,
    mut keys: Buffer<f32>,
    values: &[f32],
) -> Inputs {
    let AttentionShape { heads, kv_heads, head_dim, rotary_dim, rope_theta } = weights.shape;
    let (query_width, kv_width) = (heads * 2 * head_dim, kv_heads * head_dim);
    let frequencies = frequencies(rotary_dim, rope_theta);
    let (queries, key_rows) = (Disjoint::new(&mut query_gate), Disjoint::new(&mut keys));
    pool.run(batch.rows, |row| {
        let angles: Vec<(f32, f32)> = frequencies
            .iter()
            .map(|frequency| {
                let angle = (batch.start + row) as f32 * frequency;
                (angle.cos(), angle.sin())
            })
            .collect();
        // SAFETY: this task alone touches its row.
        let (queries, keys) = unsafe {
            (
                queries.part(row * query_width..(row + 1) * query_width),
                key_rows.part(row * kv_width..(row + 1) * kv_width),
            )
        };
        options.level.run(Position { weights, eps: options.eps, angles: &angles, queries, keys });
    });
    for row in 0..batch.rows {
        let position = batch.start + row;
        let (block, offset) = (batch.blocks[position / KV_BLOCK], position % KV_BLOCK);
        let own = row * kv_width..(row + 1) * kv_width;
        kv.store(block, layer, offset, &keys[own.clone()], &values[own]);
    }

    let mut mixed = scratch.values.zeros(batch.rows * heads * head_dim);
    let out = Disjoint::new(&mut mixed);
    let group = heads / kv_heads;
    let kv = &*kv;
    pool.run(batch.rows * kv_heads, |task| {
        if batch.cancel.is_cancelled() {
            return;
        }
        let (row, kv_head) = (task / kv_heads, task % kv_heads);
        let at = (row * heads + kv_head * group) * head_dim;
        let queries =
            &query_gate[row * query_width + kv_head * group * 2 * head_dim..][..group * 2 * head_dim];
        // SAFETY: this task alone writes the heads of its group in its row.
        let out = unsafe { out.part(at..at + group * head_dim) };
        options.level.run(Attend { kv, batch, len: batch.start + row + 1, layer, kv_head, queries, out });
    });
    let width = heads * head_dim;
    Inputs::fill(pool, scratch, options.level, batch.rows, width, |row, out| {
        out.copy_from_slice(&mixed[row * width..][..width]);
    })
}

/// Norms and rotates the heads of one position in place.
struct Position<'a> {
    weights: &'a AttentionWeights<Cpu>,
    eps: f32,
    /// Cosine and sine for each rotated pair.
    angles: &'a [(f32, f32)],
    /// `[H, 2D]`
    queries: &'a mut [f32],
    /// `[K, D]`
    keys: &'a mut [f32],
}

impl Kernel for Position<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let head_dim = self.weights.shape.head_dim;
        for head in self.queries.chunks_exact_mut(2 * head_dim) {
            let query = &mut head[..head_dim];
            vector::rms_norm_in_place(simd, query, &self.weights.query_norm, self.eps);
            rotate(query, self.angles);
        }
        for key in self.keys.chunks_exact_mut(head_dim) {
            vector::rms_norm_in_place(simd, key, &self.weights.key_norm, self.eps);
            rotate(key, self.angles);
        }
    }
}

/// Softmax attention of one position's query heads that share a KV head, over the first `len` positions.
struct Attend<'a> {
    kv: &'a Kv,
    batch: &'a Batch<'a>,
    len: usize,
    layer: usize,
    kv_head: usize,
    /// `[group, 2D]`: queries with their gates.
    queries: &'a [f32],
    /// `[group, D]`, zeros.
    out: &'a mut [f32],
}

impl Kernel for Attend<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let head_dim = self.kv.head_dim;
        let group = self.out.len() / head_dim;
        let blocks = &self.batch.blocks[..self.len.div_ceil(KV_BLOCK)];
        let width = blocks.len() * KV_BLOCK;
        let mut scores = vec![0.0; group * width];
        let queries = View { values: self.queries, row: 2 * head_dim, col: 1 };
        for (i, &block) in blocks.iter().enumerate() {
            let (keys, _) = self.kv.keys_values(block, self.layer, self.kv_head);
            // Whole vectors: what lies behind the last position is not used.
            let count = (self.len - i * KV_BLOCK).next_multiple_of(LANES).min(KV_BLOCK);
            let scores = &mut scores[i * KV_BLOCK..];
            vector::add_product(simd, group, count, head_dim, queries, keys, KV_BLOCK, scores, width);
        }
        for scores in scores.chunks_exact_mut(width) {
            let scores = &mut scores[..self.len];
            vector::scale(simd, (head_dim as f32).sqrt().recip(), scores);
            vector::softmax(simd, scores);
        }
        for (i, &block) in blocks.iter().enumerate() {
            let (_, values) = self.kv.keys_values(block, self.layer, self.kv_head);
            let count = (self.len - i * KV_BLOCK).min(KV_BLOCK);
            let weights = View { values: &scores[i * KV_BLOCK..], row: width, col: 1 };
            vector::add_product(simd, group, head_dim, count, weights, values, head_dim, self.out, head_dim);
        }
        let gated = self.queries.chunks_exact(2 * head_dim).zip(self.out.chunks_exact_mut(head_dim));
        for (query, out) in gated {
            vector::mul_sigmoid(simd, &query[head_dim..], out);
        }
    }
}

/// `theta^(-2i / rotary_dim)` for each rotated pair i.
fn frequencies(rotary_dim: usize, theta: f64) -> Vec<f32> {
    (0..rotary_dim / 2).map(|i| theta.powf(-2.0 * i as f64 / rotary_dim as f64) as f32).collect()
}

/// Rotates the pairs `(i, i + n)` of a head's first `2n` elements by the `n` angles given as
/// `(cos, sin)`.
#[inline(always)]
fn rotate(head: &mut [f32], angles: &[(f32, f32)]) {
    let (first, second) = head[..2 * angles.len()].split_at_mut(angles.len());
    for ((a, b), &(cos, sin)) in first.iter_mut().zip(second).zip(angles) {
        (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rotation_keeps_length_and_the_rest() {
        let mut head = [3.0, 1.0, 4.0, 2.0, 9.0];
        rotate(&mut head, &[(0.0, 1.0), (0.6, 0.8)]);
        let expected = [-4.0, 0.6 - 1.6, 3.0, 1.2 + 0.8, 9.0];
        assert!(head.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6), "{head:?}");
    }
}
