//! The memory that a model takes besides its mapped files, estimated before any of it is allocated: a file of a few
//! megabytes can describe a state of terabytes.

use anyhow::{Result, ensure};

use super::architecture::{self, Arrangement, Part};
use super::config::{Config, FfnShape, MixerShape, MoeShape};
use super::state::blocks_for;
use crate::compute::Backend;

/// Most that states, scratch and copied weights may take together: several times what the largest known model needs.
const WORKING_BYTES_MAX: u64 = 1 << 30;
/// Copies of the recurrent states that are there at once: committed, pending, marked and saved.
const STATE_COPIES: u64 = 4;
/// Buffers of a layer's width that are there at once: projected, mixed, activated, quantised.
const BUFFERS: u64 = 4;
/// Tokens of a draft, each of which has logits.
const DRAFT_TOKENS: u64 = 16;
/// Matrices with fewer rows, or with columns that are not a multiple of this, are copied with padding.
const PADDED_TO: usize = 32;

/// Bytes of memory that are not mapped files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MemoryEstimate {
    /// Weights that are not used where they lie in the file.
    pub copied: u64,
    /// Recurrent states.
    pub states: u64,
    /// Activations and logits.
    pub scratch: u64,
    /// The KV cache of one sequence.
    pub kv: u64,
}

impl MemoryEstimate {
    pub(super) fn new<B: Backend>(config: &Config, positions: usize, batch: usize, backend: &B) -> Self {
        let attention_layers = config.attention_shapes().count();
        let block = backend.kv_block_bytes(attention_layers, &config.attention()) as u64;
        let parts = architecture::tensors(config);
        let copied = parts.iter().filter(|part| !part.role.is_of_experts()).map(copied_bytes).sum();
        let state = config.delta_shapes().map(|shape| shape.state_len() + shape.conv_len()).sum::<usize>();
        Self {
            copied,
            states: STATE_COPIES * f32s(state),
            scratch: scratch_bytes(config, batch) + padded_experts(config, &parts, batch),
            kv: block.saturating_mul(blocks_for(positions) as u64),
        }
    }

    /// Fails when it is more than is sensible, or than is free.
    pub(super) fn check(&self, positions_max: usize, free: u64) -> Result<()> {
        let Self { copied, states, scratch, kv } = *self;
        let working = copied.saturating_add(states).saturating_add(scratch);
        let mib = |bytes: u64| bytes >> 20;
        ensure!(
            working <= WORKING_BYTES_MAX,
            "besides its weights it takes {} MiB of recurrent states, {} MiB of activations and {} MiB of copied weights, \
             more than the {} MiB that any known model does; its sizes are wrong",
            mib(states),
            mib(scratch),
            mib(copied),
            mib(WORKING_BYTES_MAX)
        );
        ensure!(
            working.saturating_add(kv) <= free,
            "the KV cache of {positions_max} tokens takes {} MiB, its other memory {} MiB, and {} MiB are free; a shorter \
             context takes less (context.length, --context)",
            mib(kv),
            mib(working),
            mib(free)
        );
        Ok(())
    }
}

fn f32s(count: usize) -> u64 {
    (count as u64).saturating_mul(size_of::<f32>() as u64)
}

/// Vectors become f32, and odd matrices are padded.
fn copied_bytes(part: &Part) -> u64 {
    match part.shape[..] {
        [rows, cols] if part.arrangement != Arrangement::Transposed => padded_bytes(rows, cols),
        _ => f32s(part.shape.iter().product()),
    }
}

/// Bytes of the padded copy of a matrix; 0 where it is used as it is stored.
fn padded_bytes(rows: usize, cols: usize) -> u64 {
    let is_used_as_stored = rows >= PADDED_TO && cols.is_multiple_of(PADDED_TO);
    if is_used_as_stored { 0 } else { f32s(rows.max(PADDED_TO) * cols.next_multiple_of(PADDED_TO)) }
}

/// The padded copies of all experts that a batch visits in a layer.
fn padded_experts(config: &Config, parts: &[Part], batch: usize) -> u64 {
    let Some(&MoeShape { experts, top_k, .. }) = config.moe_shapes().next() else { return 0 };
    let of_one = |part: &Part| {
        let cols = part.shape.last().copied().unwrap_or(1);
        padded_bytes(part.shape.iter().product::<usize>() / cols / experts, cols)
    };
    let largest = parts.iter().filter(|part| part.role.is_of_experts()).map(of_one).max().unwrap_or(0);
    largest.saturating_mul(3 * experts.min(batch * top_k) as u64)
}

fn scratch_bytes(config: &Config, batch: usize) -> u64 {
    let mixer = |mixer: &MixerShape| match mixer {
        MixerShape::Attention(shape) => {
            shape.heads * shape.query_width() + 2 * shape.kv_heads * shape.head_dim
        }
        MixerShape::DeltaNet(shape) => shape.trace_len() + shape.value_heads * shape.value_dim,
    };
    let ffn = |ffn: &FfnShape| match ffn {
        FfnShape::Dense { width } => 2 * width,
        FfnShape::Moe(moe) => moe.experts + 2 * (moe.top_k * moe.width).max(moe.shared_width.unwrap_or(0)),
    };
    let width = config.layers.iter().map(|layer| mixer(&layer.mixer).max(ffn(&layer.ffn))).max().unwrap_or(0);
    let rows = f32s(config.hidden.saturating_add(width)).saturating_mul(batch as u64 * BUFFERS);
    let visits = config.moe_shapes().map(|moe| moe.top_k).max().unwrap_or(0).saturating_add(1);
    let outputs = f32s(config.hidden).saturating_mul(visits as u64).saturating_mul(batch as u64);
    rows.saturating_add(outputs).saturating_add(f32s(config.vocab) * DRAFT_TOKENS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_refused_with_its_size() {
        let estimate = MemoryEstimate { copied: 1 << 20, states: 2 << 20, scratch: 3 << 20, kv: 64 << 20 };
        estimate.check(4096, 70 << 20).unwrap();
        let error = estimate.check(4096, 69 << 20).unwrap_err().to_string();
        assert!(error.contains("4096 tokens takes 64 MiB") && error.contains("--context"), "{error}");
        for large in [
            MemoryEstimate { states: 4 << 40, ..estimate },
            MemoryEstimate { copied: u64::MAX, ..estimate },
            MemoryEstimate { scratch: u64::MAX, ..estimate },
        ] {
            let error = large.check(4096, u64::MAX).unwrap_err().to_string();
            assert!(error.contains("its sizes are wrong"), "{error}");
        }
    }
}
