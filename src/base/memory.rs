//! How much memory there is.

use sysinfo::{MemoryRefreshKind, RefreshKind, System};

/// Memory in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Space {
    /// Not in use, or in use for caches that give way.
    pub free: u64,
    /// In all.
    pub total: u64,
}

/// The memories that a backend computes in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// That of the system.
    pub host: Space,
    /// The device's own; `None` where it computes in the host's.
    pub device: Option<Space>,
}

/// The memory of the system.
pub fn host() -> Space {
    let kinds = RefreshKind::nothing().with_memory(MemoryRefreshKind::nothing().with_ram());
    let system = System::new_with_specifics(kinds);
    Space { free: system.available_memory(), total: system.total_memory() }
}
