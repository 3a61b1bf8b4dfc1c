//! The machine: CPU, memory and its bandwidth.

use std::env;
use std::fs;
use std::hint::black_box;
use std::path::PathBuf;
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result};
use serde::Serialize;
use sysinfo::System;

/// Bytes that are copied to measure that: more than the caches of most machines hold.
const COPIED_BYTES: usize = 64 << 20;

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

/// The file of this program.
pub fn program() -> Result<PathBuf> {
    env::current_exe().context("cannot find the program fimd")
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

/// Bytes that one thread copies from one place in memory to another in a second.
pub fn copies_at_a_glance() -> f64 {
    let (from, mut to) = (vec![1u8; COPIED_BYTES], vec![0u8; COPIED_BYTES]);
    let mut copy = || {
        let started = Instant::now();
        to.copy_from_slice(black_box(&from));
        black_box(&to);
        started.elapsed().as_secs_f64()
    };
    COPIED_BYTES as f64 / (0..4).map(|_| copy()).fold(f64::INFINITY, f64::min)
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
