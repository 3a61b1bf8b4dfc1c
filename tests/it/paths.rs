//! Where the tests find the sources and the program: where both were built, or, on another machine, in the folder that
//! `scripts/gpu_check` has made.

use std::env;
use std::path::PathBuf;

/// The folder of the sources; one that was carried has what tests of the GPU read.
pub fn root() -> PathBuf {
    env::var_os("FIMD_TEST_ROOT").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from)
}

/// The committed PTX of a file of kernels.
pub fn ptx(kernels: &str) -> String {
    let path = root().join("src/compute/cuda/kernels").join(kernels).with_extension("ptx");
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The program.
pub fn program() -> PathBuf {
    env::var_os("FIMD_TEST_PROGRAM").map_or_else(|| env!("CARGO_BIN_EXE_fimd").into(), PathBuf::from)
}
