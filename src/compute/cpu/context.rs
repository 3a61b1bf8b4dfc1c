//! What every operation computes with.

use super::options::CpuOptions;
use super::quants::QuantBlock;
use super::record::Records;
use super::scratch::BufferPool;
use crate::base::pool::Pool;

/// Options, threads and memory of a backend.
pub(super) struct Context {
    pub options: CpuOptions,
    pub pool: Pool,
    pub scratch: Scratch,
    /// What matrices are multiplied with, where that is recorded.
    pub records: Option<Records>,
}

/// Buffers that operations take and put back.
#[derive(Default)]
pub(super) struct Scratch {
    /// For f32.
    pub values: BufferPool<f32>,
    /// For quantised activations.
    pub quants: BufferPool<QuantBlock>,
    /// For experts that are read into memory.
    pub bytes: BufferPool<u8>,
}

impl Context {
    pub(super) fn new(options: CpuOptions) -> Self {
        Self { pool: Pool::new(options.threads), options, scratch: Scratch::default(), records: None }
    }

    #[cfg(test)]
    pub(super) fn for_test(level: super::simd::Level) -> Self {
        let precision = crate::compute::Precision::F32;
        Self::new(CpuOptions {
            threads: 2,
            delta_chunk_rows_min: 16,
            level,
            exact: false,
            repack: false,
            precision,
            kv: precision,
        })
    }
}
