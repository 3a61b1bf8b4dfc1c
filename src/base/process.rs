//! Processes of this machine.

use sysinfo::{Pid, ProcessRefreshKind, ProcessesToUpdate, System};

/// Bytes of memory that a process has, mapped files included as far as they were read; 0 when there is none.
pub fn memory_bytes(pid: u32) -> u64 {
    let (pid, mut system) = (Pid::from_u32(pid), System::new());
    let kind = ProcessRefreshKind::nothing().with_memory();
    system.refresh_processes_specifics(ProcessesToUpdate::Some(&[pid]), true, kind);
    system.process(pid).map_or(0, sysinfo::Process::memory)
}
