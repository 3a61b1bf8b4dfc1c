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

/// The memory of the system, as far as this process may use it.
pub fn host() -> Space {
    let kinds = RefreshKind::nothing().with_memory(MemoryRefreshKind::nothing().with_ram());
    let system = System::new_with_specifics(kinds);
    // What a control group has cached of files counts as its own, but is given back when needed.
    let group =
        system.cgroup_limits().map_or(u64::MAX, |limits| limits.total_memory.saturating_sub(limits.rss));
    let free = system.available_memory().min(group).min(address_space_left());
    Space { free, total: system.total_memory() }
}

/// What a limit of this process's address space leaves.
fn address_space_left() -> u64 {
    #[cfg(unix)]
    if let Some(limit) = rustix::process::getrlimit(rustix::process::Resource::As).current {
        return limit.saturating_sub(super::process::address_space_bytes(std::process::id()));
    }
    u64::MAX
}
