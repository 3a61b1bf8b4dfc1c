//! How the CPU backend computes.

use super::simd::Level;
use crate::compute::Precision;

/// How the CPU backend computes.
#[derive(Clone, Copy, Debug)]
pub struct CpuOptions {
    /// Threads in all, at least one.
    pub threads: usize,
    /// From how many rows on Gated DeltaNet works in chunks; fewer go token by token.
    pub delta_chunk_rows_min: usize,
    /// The vector instructions to use.
    pub level: Level,
    /// Whether products with weights in blocks of integers convert them to f32, where otherwise the
    /// activations are quantised to 8 bits: slow, and what the faster way is measured against.
    pub exact: bool,
    /// Whether weights are copied into memory, in the order in which they are read.
    pub repack: bool,
    /// The precision of saved states and traces.
    pub precision: Precision,
    /// The precision that keys and values are rounded to. They take 32 bits all the same: this is what a backend that keeps
    /// fewer is compared with.
    pub kv: Precision,
}
