//! What passes of given sizes need, in bytes.

use anyhow::{Result, ensure};

use super::memory::taken;
use super::{
    HEAD_ROWS, PACED_ROWS_MIN, attention, delta, grouping, hybrid, matrix, moe, ring, saver, split, sweep,
    top,
};
use crate::compute::experts::MatrixLayout;
use crate::compute::{DeltaShape, KV_BLOCK, PassSizes, Precision, SavedBytes};

/// Page-locked memory that is enough, in bytes: what does not fit is waited for in parts.
const STAGING_BYTES_MAX: usize = 128 << 20;
/// Traced rows of a pass that page-locked memory is to hold.
const STAGED_TRACES: usize = 64;

/// Bytes of device memory that passes of these sizes take, besides weights, the KV cache, and recurrent states.
pub fn working_bytes(sizes: &PassSizes) -> Result<u64> {
    let rows = taken(4 * sizes.rows_max * sizes.hidden) + taken(4 * sizes.vocab);
    let pieces = saver::bytes(sizes, &saved_bytes(sizes, Precision::F32));
    let allowed = taken(top::allowed_bytes(sizes.vocab));
    Ok((taken(workspace_bytes(sizes)?) + taken(input_bytes(sizes)) + rows + pieces + allowed) as u64)
}

/// Bytes of device memory that long prompts take besides when experts pass through `ring_bytes` of it.
pub fn sweep_bytes(sizes: &PassSizes, ring_bytes: usize) -> u64 {
    (taken(ring_bytes) + sweep::bytes(sizes)) as u64
}

/// Fewest bytes of device memory that experts can pass through whose records take `record_bytes`.
pub fn ring_bytes_min(record_bytes: u64) -> u64 {
    ring::BERTHS_MIN as u64 * (taken(record_bytes as usize) as u64)
}

/// Bytes of device memory for long passes where all experts are in device memory.
pub fn grouping_bytes(sizes: &PassSizes) -> u64 {
    grouping::bytes(sizes) as u64
}

/// Bytes of device memory that say which of a layer's experts are in its slots; none where all are.
pub fn table_bytes(experts: usize, slots: usize) -> u64 {
    if (1..experts).contains(&slots) { taken(moe::table_bytes(experts)) as u64 } else { 0 }
}

/// Bytes of device memory that `count` matrices of a layout take; `None` where it is no layout of a matrix.
pub fn matrix_bytes(layout: &MatrixLayout, count: usize) -> Option<u64> {
    matrix::device_bytes(layout, count).map(|bytes| bytes as u64)
}

/// Bytes of device memory that the recurrent states of a sequence take in one layer.
pub fn recurrent_bytes(shape: &DeltaShape) -> u64 {
    2 * (taken(4 * shape.state_len()) + taken(4 * shape.conv_len().max(1))) as u64
}

/// Elements of a KV block.
pub fn kv_block_len(sizes: &PassSizes) -> usize {
    sizes.attention.map_or(0, |shape| attention::block_len(sizes.attention_layers, &shape))
}

/// Bytes of what is saved of a sequence.
pub fn saved_bytes(sizes: &PassSizes, precision: Precision) -> SavedBytes {
    SavedBytes::new(sizes.delta_layers, &sizes.delta.unwrap_or_default(), precision)
}

/// Bytes of page-locked memory of the host that passes of these sizes take; `record_bytes` are those of an expert where some
/// have no slot, else 0, and `ring_bytes` those of device memory that experts pass through.
pub fn locked_bytes(sizes: &PassSizes, precision: Precision, record_bytes: u64, ring_bytes: usize) -> u64 {
    let own = staging_bytes(sizes, precision) + input_bytes(sizes);
    let shared = if record_bytes > 0 { hybrid::locked_bytes(sizes, PACED_ROWS_MIN - 1) } else { 0 };
    let passing = if ring_bytes > 0 { sweep::locked_bytes(sizes, ring_bytes) } else { 0 };
    (own + shared + passing) as u64 + split::COPIED_MAX as u64 * record_bytes
}

/// Whether kernels are made for these sizes.
pub fn check(sizes: &PassSizes) -> Result<()> {
    if let Some(shape) = &sizes.attention {
        let (width, max) = (shape.head_dim, attention::HEAD_DIM_MAX);
        ensure!(width <= max, "heads of {width} are wider than the {max} that the GPU kernels take");
    }
    if let Some(shape) = &sizes.delta {
        let (width, max) = (shape.key_dim, delta::KEY_DIM_MAX);
        ensure!(width <= max, "keys of {width} are wider than the {max} that the GPU kernels take");
    }
    Ok(())
}

pub(super) fn workspace_bytes(sizes: &PassSizes) -> Result<usize> {
    let &PassSizes { rows_max, hidden, vocab, .. } = sizes;
    let mut largest = moe::workspace_bytes(sizes, rows_max)?;
    if let Some(shape) = &sizes.attention {
        largest = largest.max(attention::workspace_bytes(shape, hidden, rows_max)?);
    }
    if let Some(shape) = &sizes.delta {
        largest = largest.max(delta::workspace_bytes(shape, hidden, rows_max)?);
    }
    let head = HEAD_ROWS.min(rows_max);
    let top = top::workspace_bytes(head, vocab)?;
    Ok(largest.max(taken(4 * head * hidden) + taken(4 * head * vocab) + top))
}

/// Words of the parts of [`Inputs`](super::Inputs).
pub(super) fn input_words(sizes: &PassSizes) -> [usize; 4] {
    let rotary = sizes.attention.map_or(0, |shape| shape.rotary_dim / 2 * 2);
    let words = [1, sizes.positions_max.div_ceil(KV_BLOCK), sizes.rows_max * rotary, sizes.rows_max];
    words.map(|count| count.next_multiple_of(4))
}

pub(super) fn input_bytes(sizes: &PassSizes) -> usize {
    4 * input_words(sizes).iter().sum::<usize>()
}

/// Bytes of page-locked memory for results: at least the largest that are copied together.
pub(super) fn staging_bytes(sizes: &PassSizes, precision: Precision) -> usize {
    let trace = sizes.delta.map_or(0, |shape| shape.trace_len() * precision.bytes());
    let logits = 4 * HEAD_ROWS.min(sizes.rows_max) * sizes.vocab;
    let hidden = 4 * sizes.rows_max * sizes.hidden;
    let largest = (sizes.rows_max * trace).max(logits).max(hidden);
    let usual = logits + hidden + sizes.delta_layers * STAGED_TRACES.min(sizes.rows_max) * trace;
    // Parts are aligned.
    largest.max(usual.min(STAGING_BYTES_MAX)) + (1 << 16)
}
