//! The machine: CPU, memory and its bandwidth.

use std::fs;
use std::hint::black_box;
use std::io::Write;
use std::path::Path;
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result};
use serde::Serialize;
use sysinfo::System;

use crate::base::random::SplitMix64;
use crate::base::reads::ReadFile;

/// The machine a benchmark ran on.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// Brand name of the CPU.
    pub cpu: String,
    /// Available cores.
    pub cores: usize,
    /// Size of main memory, in bytes.
    pub memory_bytes: u64,
}

impl Machine {
    /// Asks the system.
    pub fn read() -> Self {
        let mut system = System::new();
        system.refresh_memory();
        system.refresh_cpu_list(sysinfo::CpuRefreshKind::nothing());
        let cpu = system.cpus().first().map_or(String::new(), |cpu| cpu.brand().trim().to_owned());
        let cores = thread::available_parallelism().map_or(1, usize::from);
        Self { cpu, cores, memory_bytes: system.total_memory() }
    }
}

/// Peak resident set size of this process, in bytes (`VmHWM` of Linux; none on other systems).
pub fn peak_memory() -> Option<u64> {
    status_bytes("VmHWM:")
}

/// Resident set size of this process, in bytes (`VmRSS` of Linux; none on other systems).
pub fn resident_memory() -> Option<u64> {
    status_bytes("VmRSS:")
}

fn status_bytes(name: &str) -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

/// Memory bandwidth of all threads together in bytes per second, the best of several passes: the bound for decoding,
/// which reads the weights once per token.
pub fn bandwidth(threads: usize) -> f64 {
    bandwidth_of(threads, 1 << 30, 8)
}

/// The same in a tenth of a second, somewhat too high where the caches are large.
pub fn bandwidth_at_a_glance(threads: usize) -> f64 {
    bandwidth_of(threads, 1 << 28, 3)
}

fn bandwidth_of(threads: usize, bytes: usize, passes: usize) -> f64 {
    let words = bytes / threads / size_of::<u64>();
    // Each thread fills its own part, so that memory lies near the processor that reads it; not with zeros,
    // which the system would not store.
    let parts: Vec<Vec<u64>> = thread::scope(|scope| {
        let started: Vec<_> = (0..threads).map(|_| scope.spawn(|| vec![1; words])).collect();
        started.into_iter().map(|part| part.join().expect("filling cannot panic")).collect()
    });
    let pass = || {
        let started = Instant::now();
        thread::scope(|scope| {
            for part in &parts {
                scope.spawn(move || black_box(part.iter().fold(0u64, |sum, &word| sum.wrapping_add(word))));
            }
        });
        started.elapsed().as_secs_f64()
    };
    let best = (0..passes).map(|_| pass()).fold(f64::INFINITY, f64::min);
    (words * threads * size_of::<u64>()) as f64 / best
}

/// Bytes of the file that is written to measure a disk.
const DISK_PROBE_BYTES: usize = 128 << 20;

/// What the disk that holds the folder `dir` reads in a second, in bytes, past the page cache where the system allows
/// it. Writes a temporary file there.
pub fn disk_rate(dir: &Path) -> Result<f64> {
    let describe = || format!("cannot measure the disk in {}; name a rate", dir.display());
    let mut file = tempfile::NamedTempFile::new_in(dir).with_context(describe)?;
    let mut numbers = SplitMix64(1);
    // Not zeros, which some file systems do not store.
    let piece: Vec<u8> = (0..1 << 17).flat_map(|_| numbers.bits().to_le_bytes()).collect();
    for _ in 0..DISK_PROBE_BYTES / piece.len() {
        file.write_all(&piece).with_context(describe)?;
    }
    file.as_file().sync_all().with_context(describe)?;
    let rate = ReadFile::open(file.path(), true).and_then(|file| file.rate());
    Ok(rate.with_context(describe)?.bytes_per_s)
}
