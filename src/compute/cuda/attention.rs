//! Attention between its projections, and the KV cache.

#![expect(unsafe_code, reason = "a structure that kernels take")]

use std::sync::Arc;

use anyhow::Result;

use super::driver::{Address, Device, Function, Param};
use super::input::{Packed, TENSOR_ROWS_MIN};
use super::matrix::Output;
use super::memory::{Arena, Buffer};
use super::module::{File, Modules};
use super::workspace::Space;
use super::{Cuda, threads};
use crate::compute::{AttentionShape, AttentionWeights, BlockId, KV_BLOCK, Precision};

/// Widest head: as `PER_LANE` of the kernels, for each lane of a warp.
pub(super) const HEAD_DIM_MAX: usize = 256;
/// Positions that a warp takes at a time.
const CHUNK: usize = 32;
/// Most warps that share the positions of a head: as `WARPS` of the kernels.
const WARPS: usize = 8;
/// Blocks that keep a large device busy: with fewer heads in all rows, positions are split among more.
const BLOCKS: usize = 512;
/// Fewest positions of a split.
const SPLIT_MIN: usize = 256;
/// Query vectors that a block takes on tensor cores: as `QUERIES` of the kernels.
const TILE: usize = 32;
/// Such blocks that keep a large device busy.
const TILES: usize = 128;
/// What heads are of on tensor cores, in elements.
const EIGHT: usize = 8;

/// As kernels take it; see `attention.cu`.
#[derive(Clone, Copy)]
#[repr(C)]
struct Shape {
    heads: i32,
    kv_heads: i32,
    head_dim: i32,
    rotary_dim: i32,
    query_width: i32,
    eps: f32,
    layer: i32,
    unused: i32,
    start: Address,
    block_len: u64,
}

// SAFETY: eight halves, then two words.
unsafe impl Param for Shape {}

/// Kernels for a precision of the KV cache.
#[derive(Clone, Copy)]
struct Kernels {
    place: Function,
    attend: Function,
    /// Of tiles of queries of many rows, and threads of its blocks, where the heads are made for it.
    attend_tile: Option<(Function, usize)>,
    merge: Function,
}

/// Keys and values in blocks; a block is `[layers, kv_heads, 2, KV_BLOCK, head_dim]`.
pub struct Kv {
    buffer: Buffer,
    block_len: usize,
    precision: Precision,
    kernels: Kernels,
}

/// Elements of a block of the cache.
pub(super) fn block_len(layers: usize, shape: &AttentionShape) -> usize {
    layers * shape.kv_heads * 2 * KV_BLOCK * shape.head_dim
}

impl Kv {
    pub(super) fn new(
        arena: &Arc<Arena>,
        modules: &mut Modules,
        block_len: usize,
        blocks: usize,
        head_dim: usize,
        precision: Precision,
    ) -> Result<Self> {
        let buffer = arena.take(block_len * precision.bytes() * blocks)?;
        let of = super::name(precision);
        let mut function = |name: &str| modules.function(File::Attention, name);
        let width = [64, 128, 256].into_iter().find(|&width| head_dim <= width);
        let width = width.filter(|_| precision == Precision::F16 && head_dim.is_multiple_of(EIGHT));
        let attend_tile = match width {
            Some(width) => Some((function(&format!("attend_tile_{width}"))?, width / 2)),
            None => None,
        };
        let kernels = Kernels {
            attend_tile,
            place: function(&format!("place_{of}"))?,
            attend: function(&format!("attend_{of}"))?,
            merge: function("attend_merge")?,
        };
        Ok(Self { buffer, block_len, precision, kernels })
    }

    /// Copies a block over another one.
    pub(super) fn copy(&self, device: &Device, from: BlockId, to: BlockId) -> Result<()> {
        let bytes = self.block_len * self.precision.bytes();
        let at = |block: BlockId| self.buffer.address().plus(block as usize * bytes);
        if bytes == 0 { Ok(()) } else { device.copy(at(from), at(to), bytes) }
    }
}

/// Workspace of the operation.
struct Parts {
    normed: Address,
    /// Of `normed`, then of `attended`.
    packed_rows: Packed,
    queries: Address,
    keys: Address,
    values: Address,
    attended: Address,
    partial: Address,
}

impl Parts {
    fn new(space: &mut Space, shape: &AttentionShape, hidden: usize, rows: usize) -> Result<Self> {
        let kv = shape.kv_heads * shape.head_dim;
        let heads = shape.heads * rows;
        Ok(Self {
            normed: space.words(rows * hidden)?,
            packed_rows: Packed::new(space, [[rows, hidden], [rows, shape.heads * shape.head_dim]])?,
            queries: space.words(heads * shape.query_width())?,
            keys: space.words(rows * kv)?,
            values: space.words(rows * kv)?,
            attended: space.words(heads * shape.head_dim)?,
            // Splits are only made where there are few heads, or few tiles.
            partial: space.words((2 * BLOCKS).max(TILE * TILES) * (shape.head_dim + 2))?,
        })
    }
}

/// Bytes of workspace for `rows` rows.
pub(super) fn workspace_bytes(shape: &AttentionShape, hidden: usize, rows: usize) -> Result<usize> {
    let mut space = Space::counting();
    Parts::new(&mut space, shape, hidden, rows)?;
    Ok(space.used())
}

/// In how many parts the positions of each head, or of each tile, are taken, if there are to be `wanted` blocks: a power of two,
/// so that it rarely changes with each token.
fn splits(heads: usize, wanted: usize, positions: usize) -> usize {
    1 << (wanted / heads).min(positions / SPLIT_MIN).max(1).ilog2()
}

impl Cuda {
    pub(super) fn attend(
        &mut self,
        weights: &AttentionWeights<Self>,
        kv: &Kv,
        layer: usize,
        x: Address,
    ) -> Result<()> {
        let (shape, rows, hidden) = (&weights.shape, self.pass.rows, weights.query.cols());
        let device = self.device.clone();
        let mut space = self.space()?;
        let parts = Parts::new(&mut space, shape, hidden, rows)?;
        self.norm(x, &weights.norm, parts.normed, rows, hidden, shape.eps)?;
        let normed = self.input(parts.normed, &parts.packed_rows, rows, hidden)?;
        weights.query.multiply(&device, &normed, Output::to(parts.queries), rows)?;
        weights.key.multiply(&device, &normed, Output::to(parts.keys), rows)?;
        weights.value.multiply(&device, &normed, Output::to(parts.values), rows)?;
        let inputs = self.inputs()?;
        let described = Shape {
            heads: shape.heads as i32,
            kv_heads: shape.kv_heads as i32,
            head_dim: shape.head_dim as i32,
            rotary_dim: shape.rotary_dim as i32,
            query_width: shape.query_width() as i32,
            eps: shape.eps,
            layer: layer as i32,
            unused: 0,
            start: inputs.start,
            block_len: kv.block_len as u64,
        };
        let address = |vector: Option<&Buffer>| vector.map_or(Address::NULL, Buffer::address);
        let bias = weights.bias.as_ref();
        let cache = kv.buffer.address();
        let place: [&dyn Param; 12] = [
            &described,
            &parts.queries,
            &parts.keys,
            &parts.values,
            &address(bias.map(|bias| &bias.query)),
            &address(bias.map(|bias| &bias.key)),
            &address(bias.map(|bias| &bias.value)),
            &address(weights.query_norm.as_ref()),
            &address(weights.key_norm.as_ref()),
            &inputs.angles,
            &cache,
            &inputs.blocks,
        ];
        device.launch(kv.kernels.place, [shape.heads + 2 * shape.kv_heads, rows, 1], 32, &place)?;
        let positions = self.pass.start + rows;
        let attend: [&dyn Param; 7] = [
            &described,
            &parts.queries,
            &cache,
            &inputs.blocks,
            &parts.attended,
            &parts.partial,
            &(rows as i32),
        ];
        let splits = match kv.kernels.attend_tile {
            Some((attend_tile, threads)) if rows >= TENSOR_ROWS_MIN => {
                let tiles = (rows * shape.heads / shape.kv_heads).div_ceil(TILE);
                let splits = splits(tiles * shape.kv_heads, TILES, positions);
                device.launch(attend_tile, [tiles, shape.kv_heads, splits], threads, &attend)?;
                splits
            }
            _ => {
                let splits = splits(shape.heads * rows, BLOCKS, positions);
                let warps = positions.div_ceil(splits).div_ceil(CHUNK).clamp(1, WARPS).next_power_of_two();
                device.launch(kv.kernels.attend, [shape.heads, rows, splits], 32 * warps, &attend[..6])?;
                splits
            }
        };
        if splits > 1 {
            let merge: [&dyn Param; 5] =
                [&described, &parts.queries, &parts.partial, &parts.attended, &(splits as i32)];
            device.launch(kv.kernels.merge, [shape.heads, rows, 1], threads(shape.head_dim), &merge)?;
        }
        let attended = self.input(parts.attended, &parts.packed_rows, rows, weights.output.cols())?;
        weights.output.multiply(&device, &attended, Output::adds_to(x), rows)
    }
}

/// Cosine and sine for each rotated pair of each of `rows` positions from `start` on.
pub(super) fn angles(shape: &AttentionShape, start: usize, rows: usize) -> Vec<f32> {
    let pairs = shape.rotary_dim / 2;
    let frequency = |i: usize| {
        let exponent = -2.0 * i as f64 / shape.rotary_dim as f64;
        shape.rope_theta.powf(exponent) as f32
    };
    let frequencies: Vec<f32> = (0..pairs).map(frequency).collect();
    let mut angles = Vec::with_capacity(2 * rows * pairs);
    for row in 0..rows {
        for frequency in &frequencies {
            let angle = (start + row) as f32 * frequency;
            angles.extend([angle.cos(), angle.sin()]);
        }
    }
    angles
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_split_where_heads_are_few() {
        let split = |heads, positions| splits(heads, BLOCKS, positions);
        assert_eq!([split(16, 100), split(16, 1024), split(16, 1 << 20)], [1, 4, 32]);
        assert_eq!([split(8192, 1 << 20), split(1, 512)], [1, 2]);
        // The workspace has two blocks' worth for each of them.
        assert!(
            (1..4096)
                .all(|heads| { split(heads, 1 << 22) == 1 || split(heads, 1 << 22) * heads <= 2 * BLOCKS })
        );
        // And for as many tiles.
        assert!((1..4096).all(|tiles| {
            let splits = splits(tiles, TILES, 1 << 22);
            splits == 1 || splits * tiles <= TILES
        }));
    }
}
