//! Tests in processes of their own: driver, settings and errors are of a whole process.

use std::env;

use super::build;
use crate::child;

/// Runs the body of the test that calls this, in a process that has the emulated driver with the kernels of the folder
/// `kernels`, and these settings (names without `EMULATED_CUDA_`). Does nothing where the driver cannot be built.
#[track_caller]
pub fn with_driver<F: FnOnce()>(kernels: &str, settings: &[(&str, &str)], body: F) {
    if child::is_child::<F>() {
        return body();
    }
    let Some(emulator) = build::emulator(kernels) else { return };
    child::under(&[], &emulator.environment(settings), body);
}

/// Runs the body of the test on whatever device there is: a real one where `EMULATED_CUDA` is `no`, else the emulated
/// one with the kernels of the folder.
#[track_caller]
pub fn on_device<F: FnOnce()>(kernels: &str, body: F) {
    match env::var("EMULATED_CUDA").as_deref() {
        Ok("no") => without_driver(body),
        _ => with_driver(kernels, &[], body),
    }
}

/// The same with what the machine has, a driver or none.
#[track_caller]
pub fn without_driver<F: FnOnce()>(body: F) {
    child::alone(body);
}
