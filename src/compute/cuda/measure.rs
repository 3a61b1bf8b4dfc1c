//! What the link to the GPU and the launch of a kernel take, measured.

use std::time::Instant;

use anyhow::{Result, ensure};

use super::THREADS_MAX;
use super::driver::{Device, Param};
use super::memory::{Arena, HostMemory};
use super::module::{File, Modules};

/// Bytes of a copy: about those of some experts.
const COPY_BYTES: usize = 8 << 20;
/// Bytes of a copy inside the memory of a GPU: more than its caches hold.
const INNER_BYTES: usize = 128 << 20;
/// Copies of which the fastest counts.
const COPIES: usize = 5;
/// Kernels that follow each other.
const LAUNCHES: usize = 64;
/// Kernels of which each is waited for.
const WAITS: usize = 16;

/// What was measured on the GPU.
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    /// Bytes that come to it from page-locked memory of the host in a second.
    pub link_per_s: f64,
    /// Seconds that a kernel takes that has next to nothing to do, among others.
    pub launch_s: f64,
    /// Seconds until the host knows that such a kernel is done.
    pub wait_s: f64,
}

/// Bytes that the memory of the GPU gives and takes in a second, together, in copies inside it. Takes 256 MiB of it.
pub fn memory_per_s() -> Result<f64> {
    let device = Device::open()?;
    let arena = Arena::new(device.clone(), 2 * INNER_BYTES)?;
    let [from, to] = [arena.take(INNER_BYTES)?, arena.take(INNER_BYTES)?];
    let copy_s = fastest_copy_s(&device, || device.copy(from.address(), to.address(), INNER_BYTES))?;
    Ok(2.0 * INNER_BYTES as f64 / copy_s)
}

/// Seconds of the fastest of some copies, each of which is waited for.
fn fastest_copy_s(device: &Device, enqueue: impl Fn() -> Result<()>) -> Result<f64> {
    let mut fastest_s = f64::INFINITY;
    for _ in 0..COPIES {
        let started = Instant::now();
        enqueue()?;
        device.wait()?;
        fastest_s = fastest_s.min(started.elapsed().as_secs_f64());
    }
    ensure!(fastest_s > 0.0, "the clock stands still");
    Ok(fastest_s)
}

/// Measures the GPU that [`probe`](super::probe::probe) has found. Takes some MiB of its memory.
pub fn measure() -> Result<Measured> {
    let device = Device::open()?;
    let arena = Arena::new(device.clone(), COPY_BYTES)?;
    let buffer = arena.take(COPY_BYTES)?;
    let at = buffer.address();
    let memory = HostMemory::new(&device, COPY_BYTES)?;
    let copy_s = fastest_copy_s(&device, || {
        // SAFETY: the memory is written by nothing, and the copy is waited for.
        #[expect(unsafe_code, reason = "a copy from memory that stays as it is")]
        unsafe {
            device.upload_later(memory.as_slice(), at)
        }
    })?;
    let mut modules = Modules::new(device.clone());
    let add = modules.function(File::Rows, "add")?;
    let (count, other) = (THREADS_MAX as u64, at.plus(COPY_BYTES / 2));
    let params: [&dyn Param; 3] = [&at, &other, &count];
    let launch = || device.launch(add, [1, 1, 1], THREADS_MAX, &params);
    launch()?;
    device.wait()?;
    let started = Instant::now();
    for _ in 0..WAITS {
        launch()?;
        device.wait()?;
    }
    let wait_s = started.elapsed().as_secs_f64() / WAITS as f64;
    let started = Instant::now();
    for _ in 0..LAUNCHES {
        launch()?;
    }
    device.wait()?;
    let launch_s = started.elapsed().as_secs_f64() / LAUNCHES as f64;
    Ok(Measured { link_per_s: COPY_BYTES as f64 / copy_s, launch_s, wait_s })
}
