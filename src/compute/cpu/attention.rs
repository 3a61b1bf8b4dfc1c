//! Gated attention between its projections.

#![expect(unsafe_code, reason = "threads write disjoint parts of one buffer")]

use std::collections::TryReserveError;

use super::context::Context;
use super::matmul::Activations;
use super::scratch::Buffer;
use super::simd::{Kernel, LANES, Simd};
use super::vector::{self, View};
use super::{Cpu, CpuPass};
use crate::base::pool::Disjoint;
use crate::compute::{AttentionShape, AttentionWeights, BlockId, KV_BLOCK};

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

    /// f32 elements of a block of `layers` layers.
    pub fn block_len(layers: usize, shape: &AttentionShape) -> usize {
        layers * shape.kv_heads * 2 * KV_BLOCK * shape.head_dim
    }

    /// Allocates those of `blocks` that have not been written to.
    pub fn reserve(&mut self, blocks: &[BlockId]) -> Result<(), TryReserveError> {
        let len = self.layers * self.kv_heads * 2 * KV_BLOCK * self.head_dim;
        for &block in blocks {
            let block = &mut self.blocks[block as usize];
            if block.is_empty() && len > 0 {
                let mut zeros = Vec::new();
                zeros.try_reserve_exact(len)?;
                zeros.resize(len, 0.0);
                *block = zeros.into();
            }
        }
        Ok(())
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

    /// Stores a row of keys and one of values, `[kv_heads, head_dim]` each, at `offset` of a block that is
    /// reserved.
    fn store(&mut self, block: BlockId, layer: usize, offset: usize, keys: &[f32], values: &[f32]) {
        let head_dim = self.head_dim;
        for head in 0..self.kv_heads {
            let range = self.head(layer, head);
            let block = &mut self.blocks[block as usize];
            let (key_block, value_block) = block[range].split_at_mut(KV_BLOCK * head_dim);
            let own = head * head_dim..(head + 1) * head_dim;
            for (out, key) in key_block[offset..].iter_mut().step_by(KV_BLOCK).zip(&keys[own.clone()]) {
                *out = *key;
            }
            value_block[offset * head_dim..][..head_dim].copy_from_slice(&values[own]);
        }
    }
}

/// The projections of a pass.
pub(super) struct Projected {
    /// `[rows, H, query_width]`
    pub queries: Buffer<f32>,
    /// `[rows, K, D]`
    pub keys: Buffer<f32>,
    /// `[rows, K, D]`
    pub values: Buffer<f32>,
}

/// From the projections to the outputs of the heads `[rows, H * D]`, gated where they have gates; appends to
/// `kv`.
pub(super) fn attend(
    context: &mut Context,
    weights: &AttentionWeights<Cpu>,
    pass: &CpuPass,
    kv: &mut Kv,
    layer: usize,
    projected: Projected,
) -> Activations {
    let AttentionShape { heads, kv_heads, head_dim, .. } = weights.shape;
    let Projected { mut queries, mut keys, mut values } = projected;
    if let Some(bias) = &weights.bias {
        add_bias(&mut queries, &bias.query);
        add_bias(&mut keys, &bias.key);
        add_bias(&mut values, &bias.value);
    }
    place(context, weights, pass, &mut queries, &mut keys);
    context.options.kv.round(&mut keys);
    context.options.kv.round(&mut values);
    let kv_width = kv_heads * head_dim;
    for row in 0..pass.rows {
        let position = pass.start + row;
        let (block, offset) = (pass.blocks[position / KV_BLOCK], position % KV_BLOCK);
        let own = row * kv_width..(row + 1) * kv_width;
        kv.store(block, layer, offset, &keys[own.clone()], &values[own]);
    }
    let mixed = attention_core(context, weights, pass, kv, layer, &queries);
    let width = heads * head_dim;
    Activations::fill(context, pass.rows, width, |row, out| {
        out.copy_from_slice(&mixed[row * width..][..width]);
    })
}

/// Norms and rotates the queries and keys of every row.
fn place(
    context: &mut Context,
    weights: &AttentionWeights<Cpu>,
    pass: &CpuPass,
    queries: &mut [f32],
    keys: &mut [f32],
) {
    let AttentionShape { heads, kv_heads, head_dim, rotary_dim, rope_theta, .. } = weights.shape;
    let (query_width, kv_width) = (heads * weights.shape.query_width(), kv_heads * head_dim);
    let frequencies = frequencies(rotary_dim, rope_theta);
    let (queries, keys) = (Disjoint::new(queries), Disjoint::new(keys));
    let Context { options, pool, .. } = context;
    pool.run(pass.rows, |row| {
        let angles: Vec<(f32, f32)> = frequencies
            .iter()
            .map(|frequency| {
                let angle = (pass.start + row) as f32 * frequency;
                (angle.cos(), angle.sin())
            })
            .collect();
        // SAFETY: this task alone touches its row.
        let (queries, keys) = unsafe {
            (
                queries.part(row * query_width..(row + 1) * query_width),
                keys.part(row * kv_width..(row + 1) * kv_width),
            )
        };
        options.level.run(Position { weights, angles: &angles, queries, keys });
    });
}

/// Softmax attention of all heads over the KV cache: `[rows, H * D]`.
fn attention_core(
    context: &mut Context,
    weights: &AttentionWeights<Cpu>,
    pass: &CpuPass,
    kv: &Kv,
    layer: usize,
    queries: &[f32],
) -> Buffer<f32> {
    let Context { options, pool, scratch, .. } = context;
    let AttentionShape { heads, kv_heads, head_dim, gated, .. } = weights.shape;
    let (group, stride) = (heads / kv_heads, weights.shape.query_width());
    let mut mixed = scratch.values.zeros(pass.rows * heads * head_dim);
    let out = Disjoint::new(&mut mixed);
    pool.run(pass.rows * kv_heads, |task| {
        if pass.cancel.is_cancelled() {
            return;
        }
        let (row, kv_head) = (task / kv_heads, task % kv_heads);
        let first = row * heads + kv_head * group;
        // SAFETY: this task alone writes the heads of its group in its row.
        let out = unsafe { out.part(first * head_dim..(first + group) * head_dim) };
        options.level.run(Attend {
            kv,
            blocks: &pass.blocks,
            len: pass.start + row + 1,
            layer,
            kv_head,
            queries: &queries[first * stride..(first + group) * stride],
            gated,
            out,
        });
    });
    mixed
}

fn add_bias(rows: &mut [f32], bias: &[f32]) {
    for row in rows.chunks_exact_mut(bias.len()) {
        row.iter_mut().zip(bias).for_each(|(value, bias)| *value += bias);
    }
}

/// Norms and rotates the heads of one position in place.
struct Position<'a> {
    weights: &'a AttentionWeights<Cpu>,
    /// Cosine and sine for each rotated pair.
    angles: &'a [(f32, f32)],
    /// `[H, query_width]`
    queries: &'a mut [f32],
    /// `[K, D]`
    keys: &'a mut [f32],
}

impl Kernel for Position<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let AttentionShape { head_dim, eps, .. } = self.weights.shape;
        for head in self.queries.chunks_exact_mut(self.weights.shape.query_width()) {
            let query = &mut head[..head_dim];
            if let Some(norm) = &self.weights.query_norm {
                vector::rms_norm_in_place(simd, query, norm, eps);
            }
            rotate(query, self.angles);
        }
        for key in self.keys.chunks_exact_mut(head_dim) {
            if let Some(norm) = &self.weights.key_norm {
                vector::rms_norm_in_place(simd, key, norm, eps);
            }
            rotate(key, self.angles);
        }
    }
}

/// Softmax attention of one position's query heads that share a KV head, over the first `len` positions.
struct Attend<'a> {
    kv: &'a Kv,
    blocks: &'a [BlockId],
    len: usize,
    layer: usize,
    kv_head: usize,
    /// `[group, query_width]`: queries, with their gates where they have some.
    queries: &'a [f32],
    gated: bool,
    /// `[group, D]`, zeros.
    out: &'a mut [f32],
}

impl Kernel for Attend<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let head_dim = self.kv.head_dim;
        let group = self.out.len() / head_dim;
        let stride = self.queries.len() / group;
        let blocks = &self.blocks[..self.len.div_ceil(KV_BLOCK)];
        let width = blocks.len() * KV_BLOCK;
        let mut scores = vec![0.0; group * width];
        let queries = View { values: self.queries, row: stride, col: 1 };
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
        if self.gated {
            let heads = self.queries.chunks_exact(stride).zip(self.out.chunks_exact_mut(head_dim));
            for (query, out) in heads {
                vector::mul_sigmoid(simd, &query[head_dim..], out);
            }
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
    use super::super::matrix::Matrix;
    use super::super::scratch::BufferPool;
    use super::super::simd::Level;
    use super::*;
    use crate::base::dtype::DType;
    use crate::base::random::Mmix;
    use crate::compute::{AttentionBias, StoredMatrix};
    use crate::format::{Bytes, Tensor};

    #[test]
    fn rotation_keeps_length_and_the_rest() {
        let mut head = [3.0, 1.0, 4.0, 2.0, 9.0];
        rotate(&mut head, &[(0.0, 1.0), (0.6, 0.8)]);
        let expected = [-4.0, 0.6 - 1.6, 3.0, 1.2 + 0.8, 9.0];
        assert!(head.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6), "{head:?}");
    }

    const SHAPE: AttentionShape = AttentionShape {
        heads: 4,
        kv_heads: 2,
        head_dim: 8,
        rotary_dim: 4,
        rope_theta: 100.0,
        gated: true,
        eps: 1e-6,
    };

    /// One head at one position: bias, norm, rotation.
    fn placed(x: &[f32], bias: Option<&[f32]>, norm: Option<&[f32]>, position: usize) -> Vec<f64> {
        let at = |values: Option<&[f32]>, i: usize, other: f32| f64::from(values.map_or(other, |v| v[i]));
        let x: Vec<f64> = x.iter().enumerate().map(|(i, &x)| f64::from(x) + at(bias, i, 0.0)).collect();
        let square = x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
        let scale = if norm.is_some() { (square + f64::from(SHAPE.eps)).sqrt().recip() } else { 1.0 };
        let mut x: Vec<f64> = x.iter().enumerate().map(|(i, x)| x * scale * at(norm, i, 1.0)).collect();
        let half = SHAPE.rotary_dim / 2;
        for i in 0..half {
            let angle = position as f64 * SHAPE.rope_theta.powf(-(i as f64) / half as f64);
            let (a, b) = (x[i], x[i + half]);
            (x[i], x[i + half]) = (a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin());
        }
        x
    }

    fn check(gated: bool, has_bias: bool, has_norms: bool) {
        let shape = AttentionShape { gated, ..SHAPE };
        let AttentionShape { heads, kv_heads, head_dim, .. } = shape;
        let (rows, width) = (70, shape.query_width());
        let mut random = Mmix(width as u64);
        let mut vector = |len: usize| (0..len).map(|_| random.unit()).collect::<Vec<f32>>();
        let [queries, keys, values] =
            [heads * width, kv_heads * head_dim, kv_heads * head_dim].map(|width| vector(rows * width));
        let bias = AttentionBias::<Cpu> {
            query: vector(heads * width),
            key: vector(kv_heads * head_dim),
            value: vector(kv_heads * head_dim),
        };
        let norms = [vector(head_dim), vector(head_dim)];

        let bias_of = |values: &'_ [f32], head: usize, width: usize| {
            has_bias.then(|| values[head * width..][..width].to_vec())
        };
        let norm_of = |norm: usize| has_norms.then_some(&norms[norm][..]);
        let mut expected = vec![0.0f64; rows * heads * head_dim];
        for row in 0..rows {
            for head in 0..heads {
                let kv_head = head / (heads / kv_heads);
                let own = &queries[(row * heads + head) * width..][..width];
                let query_bias = bias_of(&bias.query, head, width);
                let query_bias = query_bias.as_deref().map(|bias| &bias[..head_dim]);
                let query = placed(&own[..head_dim], query_bias, norm_of(0), row);
                let key_bias = bias_of(&bias.key, kv_head, head_dim);
                let scores: Vec<f64> = (0..=row)
                    .map(|at| {
                        let key = &keys[(at * kv_heads + kv_head) * head_dim..][..head_dim];
                        let key = placed(key, key_bias.as_deref(), norm_of(1), at);
                        let dot: f64 = query.iter().zip(&key).map(|(q, k)| q * k).sum();
                        (dot / (head_dim as f64).sqrt()).exp()
                    })
                    .collect();
                let total: f64 = scores.iter().sum();
                for i in 0..head_dim {
                    let value_bias = if has_bias { bias.value[kv_head * head_dim + i] } else { 0.0 };
                    let value = |at: usize| values[(at * kv_heads + kv_head) * head_dim + i] + value_bias;
                    let sum: f64 = (0..=row).map(|at| scores[at] / total * f64::from(value(at))).sum();
                    let gate = || {
                        own[head_dim + i]
                            + if has_bias { bias.query[head * width + head_dim + i] } else { 0.0 }
                    };
                    let gate = if gated { 1.0 / (1.0 + (-f64::from(gate())).exp()) } else { 1.0 };
                    expected[(row * heads + head) * head_dim + i] = sum * gate;
                }
            }
        }

        for level in Level::supported() {
            let mut context = Context::for_test(level);
            let one = |_| {
                let bytes = Bytes::from(vec![0; 4]);
                let values = Tensor { name: "one".into(), dtype: DType::F32, shape: vec![1, 1], bytes };
                Matrix::new(StoredMatrix { rows: 1, cols: 1, values, scale: None }, false, false).unwrap()
            };
            let [query, key, value, output] = [0, 1, 2, 3].map(one);
            let own_bias =
                AttentionBias { query: bias.query.clone(), key: bias.key.clone(), value: bias.value.clone() };
            let weights = AttentionWeights {
                shape,
                norm: Vec::new(),
                query,
                key,
                value,
                bias: has_bias.then_some(own_bias),
                output,
                query_norm: norm_of(0).map(<[f32]>::to_vec),
                key_norm: norm_of(1).map(<[f32]>::to_vec),
            };
            let buffer = |values: &[f32]| {
                let mut buffer = BufferPool::default().take(values.len());
                buffer.copy_from_slice(values);
                buffer
            };
            let projected =
                Projected { queries: buffer(&queries), keys: buffer(&keys), values: buffer(&values) };
            let pass = CpuPass { rows, blocks: vec![1, 0], ..CpuPass::default() };
            let mut kv = Kv::new(1, &shape, 2);
            kv.reserve(&pass.blocks).unwrap();
            let found = attend(&mut context, &weights, &pass, &mut kv, 0, projected);
            for (row, expected) in expected.chunks_exact(heads * head_dim).enumerate() {
                for (found, expected) in found.row(row).iter().zip(expected) {
                    let error = (f64::from(*found) - expected).abs();
                    assert!(error < 1e-5, "{level}, {gated} {has_bias} {has_norms}, row {row}: {error}");
                }
            }
        }
    }

    #[test]
    fn optional_parts_equal_the_definition() {
        for gated in [true, false] {
            for has_bias in [true, false] {
                for has_norms in [true, false] {
                    check(gated, has_bias, has_norms);
                }
            }
        }
    }
}
