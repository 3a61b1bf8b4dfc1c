//! The CUDA backend.

use fimd::compute::cpu::{CpuOptions, Precision as CpuPrecision};
use fimd::compute::cuda::{Cuda, CudaOptions, Precision, probe};

use crate::load::TestBackend;

/// Device memory of a test's backend, in bytes.
const BYTES: usize = 256 << 20;

/// Whether there is a GPU.
pub fn is_there() -> bool {
    probe::probe().inspect_err(|error| println!("skipped: {error}")).is_ok()
}

impl TestBackend for Cuda {
    fn open(options: CpuOptions) -> Self {
        let precision = match options.precision {
            CpuPrecision::F32 => Precision::F32,
            CpuPrecision::F16 => Precision::F16,
        };
        Cuda::new(CudaOptions { bytes: BYTES, precision, kv: Precision::F32 }).unwrap()
    }
}
