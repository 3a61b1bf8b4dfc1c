//! How the CPU backend computes.

use super::simd::Level;

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
    /// The precision of saved states and traces.
    pub precision: Precision,
}

/// The precision of saved states and traces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// 32: nothing is lost.
    F32,
    /// 16, IEEE 754 binary16: half the memory. States are sums of unit vectors times values, far inside
    /// its range; what lies outside becomes its greatest number.
    F16,
}

impl Precision {
    /// Bytes of a number.
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 => 2,
        }
    }
}
