//! Tests in processes of their own: driver, settings and errors are of a whole process.

use std::env;
use std::io::{self, Write as _};

use super::build;
use crate::child;

/// Where it is `own`, tests run on the driver of this machine, not on the emulated one.
const DRIVER: &str = "FIMD_TEST_DRIVER";

/// Whether tests run on the driver of this machine.
pub fn is_own() -> bool {
    match env::var(DRIVER) {
        Ok(driver) => driver == "own" || panic!("{DRIVER}={driver}: it can be own"),
        Err(_) => false,
    }
}

/// Says on stderr that a test is left out. Bytes of stderr itself, not its macros, whose output is captured: it is seen
/// although tests pass.
pub fn skip(what: &str, why: &str) {
    io::stderr().write_all(format!("SKIPPED: {what}: {why}\n").as_bytes()).unwrap();
}

/// Runs the body of the test that calls this, in a process that has the emulated driver with the kernels of the folder
/// `kernels`, and these settings (names without `EMULATED_CUDA_`). Does nothing where the driver cannot be built.
#[track_caller]
pub fn with_driver<F: FnOnce()>(kernels: &str, settings: &[(&str, &str)], body: F) {
    if is_own() {
        return skip(child::test_of::<F>(), "it needs the emulated driver");
    }
    if child::is_child::<F>() {
        return body();
    }
    let Some(emulator) = build::emulator(kernels) else { return };
    child::under(&[], &emulator.environment(settings), body);
}

/// Runs the body of the test on the machine's own driver where `FIMD_TEST_DRIVER` is `own`, else on the emulated one with
/// the kernels of the folder.
#[track_caller]
pub fn on_device<F: FnOnce()>(kernels: &str, body: F) {
    on_device_with(kernels, &[], body);
}

/// The same; these settings are those of the emulated one alone.
#[track_caller]
pub fn on_device_with<F: FnOnce()>(kernels: &str, settings: &[(&str, &str)], body: F) {
    if is_own() { without_driver(body) } else { with_driver(kernels, settings, body) }
}

/// The same with what the machine has, a driver or none.
#[track_caller]
pub fn without_driver<F: FnOnce()>(body: F) {
    child::alone(body);
}
