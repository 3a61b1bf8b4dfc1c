//! `fimd bench gpu`: what a GPU, its link and its kernels do; and what a token takes on it at least.

use std::fmt::{self, Display, Formatter};

use anyhow::Result;
use serde::Serialize;

use super::machine::{self, Machine};
use super::plan::{self, Sizes};
use super::rates::{GpuRates, Rates};
use super::schedule::Pair;
use super::{blocks, sizes};
use crate::base::dtype::DType;
use crate::compute::cpu::CpuOptions;
use crate::compute::cuda::measure::{self, Measured};
use crate::compute::cuda::{HostTables, probe};

/// A GPU, and the memory of the host beside it. Bandwidths are decimal gigabytes.
#[derive(Clone, Debug, Serialize)]
pub struct Gpu {
    pub name: String,
    /// Compute capability.
    pub capability: String,
    /// The newest CUDA version that the driver knows.
    pub driver: String,
    /// Bytes of its memory.
    pub memory_bytes: u64,
    /// Those that were free.
    pub free_bytes: u64,
    /// What its memory gives and takes together, in copies inside it.
    pub memory_gb_per_s: f64,
    /// What comes to it from page-locked memory of the host.
    pub link_gb_per_s: f64,
    /// A kernel that has next to nothing to do, among others.
    pub launch_us: f64,
    /// Until the host knows that such a kernel is done.
    pub wait_us: f64,
    /// What memory of the host gives to the threads of the CPU.
    pub host_gb_per_s: f64,
}

/// Kernels with weights of a type, in dense blocks that no cache holds.
#[derive(Clone, Debug, Serialize)]
pub struct Kernels {
    pub dtype: String,
    /// Bytes of weights that one row is multiplied with in a second, in billions.
    pub gb_per_s: f64,
    /// That as a share of the bandwidth of its memory.
    pub memory_share: f64,
    /// Multiply-adds in a second with 64 rows, in billions.
    pub gmacs: f64,
}

/// All figures.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Of fimd.
    pub version: &'static str,
    pub machine: Machine,
    /// Threads of the CPU.
    pub threads: usize,
    pub gpu: Gpu,
    pub kernels: Vec<Kernels>,
}

impl Gpu {
    /// Measures the GPU of this machine. Fails where there is none that can be used.
    pub fn measure(threads: usize) -> Result<Self> {
        let found = probe::probe()?;
        let Measured { link_per_s, launch_s, wait_s } = measure::measure()?;
        Ok(Self {
            name: found.name,
            capability: found.capability.to_string(),
            driver: found.driver.to_string(),
            memory_bytes: found.memory.total,
            free_bytes: found.memory.free,
            memory_gb_per_s: measure::memory_per_s()? / 1e9,
            link_gb_per_s: link_per_s / 1e9,
            launch_us: 1e6 * launch_s,
            wait_us: 1e6 * wait_s,
            host_gb_per_s: machine::bandwidth_at_a_glance(threads) / 1e9,
        })
    }

    /// Seconds of a token were there nothing but bytes to move: all that every token reads in the memory of the GPU, and of
    /// the experts a share there, the others by the CPU and over the link at once.
    pub fn bound_s(&self, sizes: &Sizes, hit_rate: f64) -> f64 {
        let host = 1e9 * self.host_gb_per_s;
        let gpu = GpuRates {
            weights_per_s: 1e9 * self.memory_gb_per_s,
            macs_per_s: f64::INFINITY,
            link_per_s: 1e9 * self.link_gb_per_s,
            launch_s: 0.0,
            wait_s: 0.0,
            memory_per_s: host,
            copy_per_s: f64::INFINITY,
        };
        let pair = Pair { cpu: Rates::at_a_glance(host, f64::INFINITY), gpu };
        1.0 / plan::speed_beside(sizes, HostTables::None, &pair, hit_rate, 1.0).tokens_per_s
    }
}

/// Measures the GPU of this machine, and its kernels with weights of these types. `say` reports progress.
pub fn run(types: &[DType], options: CpuOptions, say: &dyn Fn(String)) -> Result<Report> {
    say("measuring memory and link".into());
    let gpu = Gpu::measure(options.threads)?;
    let mut kernels = Vec::new();
    for &dtype in types {
        say(format!("measuring {dtype}"));
        let blocks::Speed { weights_per_s, macs_per_s } =
            sizes::of_gpu_kernels(options, dtype, &blocks::LARGE_SIZES)?;
        kernels.push(Kernels {
            dtype: dtype.to_string(),
            gb_per_s: weights_per_s / 1e9,
            memory_share: weights_per_s / 1e9 / gpu.memory_gb_per_s,
            gmacs: macs_per_s / 1e9,
        });
    }
    let version = env!("CARGO_PKG_VERSION");
    Ok(Report { version, machine: Machine::read(), threads: options.threads, gpu, kernels })
}

/// Markdown.
impl Display for Report {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        let Self { machine, threads, gpu, kernels, .. } = self;
        let gib = |bytes: u64| bytes as f64 / (1u64 << 30) as f64;
        writeln!(
            f,
            "{}, compute capability {}, driver for CUDA {}, {:.1} of {:.1} GiB free",
            gpu.name,
            gpu.capability,
            gpu.driver,
            gib(gpu.free_bytes),
            gib(gpu.memory_bytes)
        )?;
        writeln!(f, "{}, {} cores, {threads} threads\n", machine.cpu, machine.cores)?;
        writeln!(
            f,
            "memory of the GPU {:.1} GB/s, link {:.2} GB/s, memory of the host {:.1} GB/s, a kernel {:.1} us, a wait {:.1} us\n",
            gpu.memory_gb_per_s, gpu.link_gb_per_s, gpu.host_gb_per_s, gpu.launch_us, gpu.wait_us
        )?;
        if kernels.is_empty() {
            return Ok(());
        }
        writeln!(f, "| weights | one row, GB/s | of the memory | 64 rows, GMAC/s |\n|---|---:|---:|---:|")?;
        for Kernels { dtype, gb_per_s, memory_share, gmacs } in kernels {
            writeln!(f, "| {dtype} | {gb_per_s:.1} | {:.0} % | {gmacs:.1} |", 100.0 * memory_share)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::experts::trace::LayerHeader;

    #[test]
    fn a_token_takes_at_least_what_its_bytes_take() {
        let gpu = Gpu {
            name: String::new(),
            capability: String::new(),
            driver: String::new(),
            memory_bytes: 8 << 30,
            free_bytes: 8 << 30,
            memory_gb_per_s: 448.0,
            link_gb_per_s: 12.5,
            launch_us: 4.0,
            wait_us: 15.0,
            host_gb_per_s: 45.0,
        };
        let layer = LayerHeader { experts: 512, top_k: 10, record_bytes: 1_671_168 };
        let sizes = Sizes {
            trunk_bytes: 3_950_000_000,
            lookup_bytes: 200_000_000,
            head_bytes: 200_000_000,
            head_weights: 300_000_000,
            token_weights: 3_000_000_000,
            kernels: 912,
            layers: vec![layer; 48],
            expert_weights: 3 << 20,
            cold_bytes: 0,
        };
        for (hit_rate, tokens_per_s) in [(0.0, 38.1), (0.3, 47.8), (0.6, 64.3), (0.85, 90.1)] {
            let found = 1.0 / gpu.bound_s(&sizes, hit_rate);
            assert!((found / tokens_per_s - 1.0).abs() < 0.03, "{hit_rate}: {found}");
        }
        let resident = (3.75e9 + 480.0 * 1_671_168.0) / 448e9;
        assert!((gpu.bound_s(&sizes, 1.0) / resident - 1.0).abs() < 1e-6);
    }
}
