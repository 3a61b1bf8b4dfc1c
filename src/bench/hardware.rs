//! Machines with a GPU that plans and schedules can be made for without having one. Pure.
//!
//! Nothing here was measured by this program: a number is that of a published specification, or an assumption that says so.

use super::rates::{GpuRates, Rates};
use super::schedule::Pair;

/// A machine.
#[derive(Clone, Copy, Debug)]
pub struct Hardware {
    /// What it is called on the command line.
    pub name: &'static str,
    /// Memory of the GPU, in bytes.
    pub vram_bytes: u64,
    /// Memory of the host, in bytes.
    pub ram_bytes: u64,
    pub rates: Pair,
    /// Where its numbers are from.
    pub sources: &'static str,
}

/// Share of the bandwidth of its memory that kernels on a GPU are taken to reach: assumed.
const GPU_MEMORY_SHARE: f64 = 0.8;
/// Share of the multiply-adds of its tensor cores: assumed. Kernels take up to three for each, and are not tuned.
const GPU_MACS_SHARE: f64 = 0.15;
/// Share of the bandwidth of its memory that a CPU reaches: 45 of 51.2 GB/s with two channels of DDR4-3200.
const RAM_SHARE: f64 = 0.88;
/// Multiply-adds in a second of a core with AVX2 and 64 rows: 51 to 71 billion measured (`tests/bench/epyc-2-cores-avx2.md`).
const CORE_MACS_PER_S: f64 = 6e10;
/// Bytes that one thread copies in a second: assumed.
const COPY_PER_S: f64 = 1e10;
/// What an NVMe disk of PCIe 4.0 gives to large reads: 257 us for an expert of 1.67 MB.
const DISK_PER_S: f64 = 6.5e9;
/// What a kernel takes in a queue, and what the host takes to see a message: assumed.
const LAUNCH_S: f64 = 4e-6;
const WAIT_S: f64 = 15e-6;

/// What its maker says of a machine, in GB/s but the cores, and those of the GPU in 10^12 multiply-adds in a second.
struct Specification {
    gpu_memory: f64,
    gpu_tera_macs: f64,
    link: f64,
    memory: f64,
    cores: f64,
}

impl Specification {
    const fn rates(&self) -> Pair {
        let memory_per_s = RAM_SHARE * 1e9 * self.memory;
        Pair {
            cpu: Rates {
                weights_per_s: memory_per_s,
                macs_per_s: CORE_MACS_PER_S * self.cores,
                disk_per_s: DISK_PER_S,
                cold_per_s: memory_per_s,
            },
            gpu: GpuRates {
                weights_per_s: GPU_MEMORY_SHARE * 1e9 * self.gpu_memory,
                macs_per_s: GPU_MACS_SHARE * 1e12 * self.gpu_tera_macs,
                link_per_s: 1e9 * self.link,
                launch_s: LAUNCH_S,
                wait_s: WAIT_S,
                memory_per_s,
                copy_per_s: COPY_PER_S,
            },
        }
    }
}

/// The machines, the slowest link first.
pub const MACHINES: [Hardware; 3] = [
    Hardware {
        name: "rtx-3070-ti-laptop",
        vram_bytes: 8 << 30,
        ram_bytes: 64 << 30,
        rates: Specification { gpu_memory: 448.0, gpu_tera_macs: 17.4, link: 12.5, memory: 51.2, cores: 6.0 }
            .rates(),
        sources: "GA104 with 46 SMs up to 1.48 GHz, 256 bits of GDDR6 at 14 Gb/s (NVIDIA's specification of the RTX 3070 Ti Laptop GPU); \
                  tensor cores with 256 multiply-adds with f32 sums per SM and cycle (GA102 whitepaper); PCIe 4.0 with 8 lanes; 6 \
                  performance cores and two channels of DDR4-3200",
    },
    Hardware {
        name: "rtx-4060-laptop",
        vram_bytes: 8 << 30,
        ram_bytes: 64 << 30,
        rates: Specification { gpu_memory: 256.0, gpu_tera_macs: 11.6, link: 12.5, memory: 89.6, cores: 6.0 }
            .rates(),
        sources: "AD107 with 24 SMs at 1.89 GHz, 128 bits of GDDR6 at 16 Gb/s (NVIDIA's specification of the RTX 4060 Laptop GPU); \
                  tensor cores as of the RTX 30 series; PCIe 4.0 with 8 lanes; 6 performance cores and two channels of DDR5-5600",
    },
    Hardware {
        name: "rtx-3060-desktop",
        vram_bytes: 12 << 30,
        ram_bytes: 64 << 30,
        rates: Specification { gpu_memory: 360.0, gpu_tera_macs: 12.7, link: 25.0, memory: 51.2, cores: 8.0 }
            .rates(),
        sources: "GA106 with 28 SMs at 1.777 GHz, 192 bits of GDDR6 at 15 Gb/s (NVIDIA's specification of the RTX 3060); tensor \
                  cores as of the GA102 whitepaper; PCIe 4.0 with 16 lanes; 8 cores and two channels of DDR4-3200",
    },
];

impl Hardware {
    /// By its name.
    pub fn of_name(name: &str) -> Option<&'static Self> {
        MACHINES.iter().find(|machine| machine.name == name)
    }
}
