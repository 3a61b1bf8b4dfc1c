//! Processes of this machine.

use sysinfo::{Pid, ProcessRefreshKind, ProcessesToUpdate, System};

/// Resident set size of a process in bytes, the pages of mapped files included; 0 if it does not exist.
pub fn memory_bytes(pid: u32) -> u64 {
    read(pid, sysinfo::Process::memory)
}

/// Size of a process's address space in bytes; 0 if it does not exist.
pub fn address_space_bytes(pid: u32) -> u64 {
    read(pid, sysinfo::Process::virtual_memory)
}

/// Whether a process exists.
pub fn exists(pid: u32) -> bool {
    read(pid, |_| 1) == 1
}

fn read(pid: u32, field: fn(&sysinfo::Process) -> u64) -> u64 {
    let (pid, mut system) = (Pid::from_u32(pid), System::new());
    let kind = ProcessRefreshKind::nothing().with_memory();
    system.refresh_processes_specifics(ProcessesToUpdate::Some(&[pid]), true, kind);
    system.process(pid).map_or(0, field)
}
