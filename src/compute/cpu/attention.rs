//! Gated attention between its projections.

use super::{Cpu, CpuOptions, scalar};
use crate::base::pool::{Disjoint, Pool};
use crate::compute::{AttentionShape, AttentionWeights, Batch, BlockId, KV_BLOCK};

/// Keys and values in blocks, each `[layers, 2, kv_heads, KV_BLOCK, head_dim]` f32 (keys, then values),
/// allocated at first use.
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

    fn head_len(&self) -> usize {
        KV_BLOCK * self.head_dim
    }

    /// `[KV_BLOCK, head_dim]` of one head of one layer.
    fn head(&self, block: BlockId, layer: usize, part: Part, head: usize) -> &[f32] {
        let at = ((layer * 2 + part as usize) * self.kv_heads + head) * self.head_len();
        &self.blocks[block as usize][at..at + self.head_len()]
    }

    /// Stores a row `[kv_heads, head_dim]` at `offset` of a block.
    fn store(&mut self, block: BlockId, layer: usize, part: Part, offset: usize, row: &[f32]) {
        let (head_len, head_dim) = (self.head_len(), self.head_dim);
        let block_len = self.layers * 2 * self.kv_heads * head_len;
        let block = &mut self.blocks[block as usize];
        if block.is_empty() {
            *block = vec![0.0; block_len].into();
        }
        for (head, row) in row.chunks_exact(head_dim).enumerate() {
            let at = ((layer * 2 + part as usize) * self.kv_heads + head) * head_len + offset * head_dim;
            block[at..at + head_dim].copy_from_slice(row);
        }
    }
}

#[derive(Clone, Copy)]
enum Part {
    Key,
    Value,
}

/// From projected queries with gates `[rows, H, 2D]`, keys and values `[rows, K, D]` to gated outputs
/// `[rows, H, D]`; appends to `kv`.
#[expect(clippy::too_many_arguments, reason = "the three projections belong to this one call")]
pub fn mix(
    pool: &mut Pool,
    options: &CpuOptions,
    weights: &AttentionWeights<Cpu>,
    batch: &Batch,
    kv: &mut Kv,
    layer: usize,
    mut query_gate: Vec<f32>,
    mut keys: Vec<f32>,
    values: &[f32],
) -> Vec<f32> {
    let AttentionShape { heads, kv_heads, head_dim, rotary_dim, rope_theta } = weights.shape;
    let (query_width, kv_width) = (heads * 2 * head_dim, kv_heads * head_dim);
    let frequencies = frequencies(rotary_dim, rope_theta);

    for row in 0..batch.rows {
        let position = batch.start + row;
        let angles: Vec<(f32, f32)> = frequencies
            .iter()
            .map(|frequency| {
                let angle = position as f32 * frequency;
                (angle.cos(), angle.sin())
            })
            .collect();
        for head in query_gate[row * query_width..][..query_width].chunks_exact_mut(2 * head_dim) {
            let query = &mut head[..head_dim];
            scalar::rms_norm_in_place(query, &weights.query_norm, options.eps);
            scalar::rope(query, &angles);
        }
        let key_row = &mut keys[row * kv_width..][..kv_width];
        for key in key_row.chunks_exact_mut(head_dim) {
            scalar::rms_norm_in_place(key, &weights.key_norm, options.eps);
            scalar::rope(key, &angles);
        }
        let (block, offset) = (batch.blocks[position / KV_BLOCK], position % KV_BLOCK);
        kv.store(block, layer, Part::Key, offset, key_row);
        kv.store(block, layer, Part::Value, offset, &values[row * kv_width..][..kv_width]);
    }

    let mut mixed = vec![0.0; batch.rows * heads * head_dim];
    let out = Disjoint::new(&mut mixed);
    let group = heads / kv_heads;
    let kv = &*kv;
    pool.run(batch.rows * kv_heads, |task| {
        if batch.cancel.is_cancelled() {
            return;
        }
        let (row, kv_head) = (task / kv_heads, task % kv_heads);
        let mut scores = Vec::new();
        for head in kv_head * group..(kv_head + 1) * group {
            let own = &query_gate[row * query_width + head * 2 * head_dim..][..2 * head_dim];
            let (query, gate) = own.split_at(head_dim);
            let at = (row * heads + head) * head_dim;
            // SAFETY: this task alone writes the heads of its group in its row.
            let out = unsafe { out.part(at..at + head_dim) };
            attend(kv, batch, batch.start + row + 1, layer, kv_head, query, &mut scores, out);
            for (out, gate) in out.iter_mut().zip(gate) {
                *out *= scalar::sigmoid(*gate);
            }
        }
    });
    mixed
}

/// Softmax attention of one query over the first `len` positions. `out` is `[head_dim]` of zeros.
#[expect(clippy::too_many_arguments, reason = "one inner loop, named for the reader")]
fn attend(
    kv: &Kv,
    batch: &Batch,
    len: usize,
    layer: usize,
    kv_head: usize,
    query: &[f32],
    scores: &mut Vec<f32>,
    out: &mut [f32],
) {
    let head_dim = query.len();
    let scale = (head_dim as f32).sqrt().recip();
    let rows = |part| {
        batch.blocks[..len.div_ceil(KV_BLOCK)]
            .iter()
            .flat_map(move |&block| kv.head(block, layer, part, kv_head).chunks_exact(head_dim))
            .take(len)
    };
    scores.clear();
    scores.extend(rows(Part::Key).map(|key| scalar::dot(query, key) * scale));
    scalar::softmax(scores);
    for (&score, value) in scores.iter().zip(rows(Part::Value)) {
        scalar::axpy(score, value, out);
    }
}

/// `theta^(-2i / rotary_dim)` for each rotated pair i.
fn frequencies(rotary_dim: usize, theta: f64) -> Vec<f32> {
    (0..rotary_dim / 2).map(|i| theta.powf(-2.0 * i as f64 / rotary_dim as f64) as f32).collect()
}
