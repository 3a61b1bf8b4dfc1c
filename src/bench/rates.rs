//! What the parts of a machine do in a second. Pure.

use serde::Serialize;

/// What the CPU, its memory and the disk do in a second.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Rates {
    /// Bytes of weights that one token is multiplied with in a second.
    pub weights_per_s: f64,
    /// Multiply-adds in a second when many tokens are evaluated together.
    pub macs_per_s: f64,
    /// Bytes that the disk reads in a second.
    pub disk_per_s: f64,
    /// As `weights_per_s`, for the type of a smaller copy of the experts.
    pub cold_per_s: f64,
}

impl Rates {
    /// Where only memory and disk are measured, in bytes per second: one token after the other is bound by them.
    pub fn at_a_glance(memory_per_s: f64, disk_per_s: f64) -> Self {
        Self { weights_per_s: memory_per_s, macs_per_s: f64::INFINITY, disk_per_s, cold_per_s: memory_per_s }
    }
}

/// What a GPU does beside a CPU.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct GpuRates {
    /// Bytes of weights of its own memory that one token is multiplied with in a second.
    pub weights_per_s: f64,
    /// Multiply-adds in a second when many tokens are evaluated together.
    pub macs_per_s: f64,
    /// Bytes that come to it from page-locked memory of the host in a second.
    pub link_per_s: f64,
    /// Seconds that each kernel takes besides.
    pub launch_s: f64,
    /// Seconds until the host knows what a kernel has written.
    pub wait_s: f64,
    /// Bytes that the memory of the host gives in a second, to the CPU and the link together.
    pub memory_per_s: f64,
    /// Bytes that one thread copies to page-locked memory in a second.
    pub copy_per_s: f64,
}

impl GpuRates {
    /// The same where experts are in page-locked memory: nothing is copied before the link takes it.
    pub fn page_locked(self) -> Self {
        Self { copy_per_s: f64::INFINITY, ..self }
    }
}
