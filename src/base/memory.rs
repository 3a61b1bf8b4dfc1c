//! Free and total memory.

use serde::Serialize;
use sysinfo::{MemoryRefreshKind, RefreshKind, System};

/// Memory in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Space {
    /// Unused, or used by caches that can be reclaimed.
    pub free: u64,
    pub total: u64,
}

/// The memory of a backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    pub host: Space,
    /// Device memory; `None` where the backend uses host memory.
    pub device: Option<Space>,
}

/// The memory of the system.
pub fn host() -> Space {
    let kinds = RefreshKind::nothing().with_memory(MemoryRefreshKind::nothing().with_ram());
    let system = System::new_with_specifics(kinds);
    Space { free: system.available_memory(), total: system.total_memory() }
}
