//! Device memory in one allocation, which buffers are carved from, and page-locked memory of the host, of the driver and of
//! others.

#![expect(unsafe_code, reason = "memory that the CUDA driver allocates")]

use std::collections::BTreeMap;
use std::ops::Range;
use std::slice;
use std::sync::{Arc, Mutex, MutexGuard, Once};

use anyhow::{Result, ensure};
use cudarc::driver::{result, sys};

use super::driver::{Address, Device};
use super::error::failed;
use crate::base::memory::Space;
use crate::format::Memory;

/// What buffers are aligned to, in bytes.
const ALIGNMENT: usize = 256;

/// All device memory that is used.
pub(super) struct Arena {
    device: Arc<Device>,
    base: Address,
    bytes: usize,
    /// Free ranges: where they begin, and their bytes.
    free: Mutex<BTreeMap<usize, usize>>,
}

/// A part of an [`Arena`], which it goes back to when dropped.
pub struct Buffer {
    arena: Arc<Arena>,
    start: usize,
    bytes: usize,
}

/// Bytes that a buffer of `bytes` takes.
pub(super) fn taken(bytes: usize) -> usize {
    bytes.next_multiple_of(ALIGNMENT)
}

impl Arena {
    /// Takes `bytes` of device memory. Fails when there is not as much.
    pub(super) fn new(device: Arc<Device>, bytes: usize) -> Result<Arc<Self>> {
        device.enter()?;
        let Space { free, .. } = device.memory()?;
        let bytes = taken(bytes);
        ensure!(
            bytes as u64 <= free,
            "{} MiB of GPU memory are needed, and {} MiB are free",
            bytes >> 20,
            free >> 20
        );
        // SAFETY: it is freed when the arena is dropped, which every buffer keeps alive.
        let base = unsafe { result::malloc_sync(bytes) }.map_err(failed("GPU memory cannot be allocated"))?;
        let free = Mutex::new(BTreeMap::from([(0, bytes)]));
        Ok(Arc::new(Self { device, base: Address(base), bytes, free }))
    }

    /// Fills all of it with what is no number, so that it is seen where something is read before it is written. Fails
    /// once something was taken.
    pub(super) fn poison(&self) -> Result<()> {
        let Space { free, total } = self.space();
        ensure!(free == total, "memory that is in use cannot be filled");
        self.device.poison(self.base, self.bytes)
    }

    /// A buffer, with whatever is in it. Fails when no free range is as large.
    pub(super) fn take(self: &Arc<Self>, bytes: usize) -> Result<Buffer> {
        let wanted = taken(bytes.max(1));
        let mut free = self.free();
        let found = free.iter().find(|&(_, &len)| len >= wanted).map(|(&start, &len)| (start, len));
        let Some((start, len)) = found else {
            let left: usize = free.values().sum();
            anyhow::bail!(
                "{} KiB of GPU memory are needed, and {} KiB of the {} MiB budget are left",
                wanted >> 10,
                left >> 10,
                self.bytes >> 20
            );
        };
        free.remove(&start);
        if len > wanted {
            free.insert(start + wanted, len - wanted);
        }
        drop(free);
        Ok(Buffer { arena: self.clone(), start, bytes: wanted })
    }

    /// What is free of it.
    pub(super) fn space(&self) -> Space {
        Space { free: self.free().values().sum::<usize>() as u64, total: self.bytes as u64 }
    }

    fn free(&self) -> MutexGuard<'_, BTreeMap<usize, usize>> {
        self.free.lock().expect("lock poisoned")
    }

    fn give_back(&self, start: usize, bytes: usize) {
        let (mut start, mut bytes) = (start, bytes);
        let mut free = self.free();
        if let Some(after) = free.remove(&(start + bytes)) {
            bytes += after;
        }
        let before = free.range(..start).next_back().map(|(&at, &len)| (at, len));
        if let Some((at, len)) = before.filter(|(at, len)| at + len == start) {
            (start, bytes) = (at, len + bytes);
        }
        free.insert(start, bytes);
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // What is enqueued may still use it.
        let _ = self.device.wait();
        // SAFETY: no buffer is left.
        let _ = unsafe { result::free_sync(self.base.0) };
    }
}

impl Buffer {
    /// Where it begins.
    pub(super) fn address(&self) -> Address {
        self.arena.base.plus(self.start)
    }

    /// Its bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.arena.give_back(self.start, self.bytes);
    }
}

/// Memory of the host that copies come from and go to while the program continues; page-locked where the system grants
/// it, and else copies wait.
pub(super) enum HostMemory {
    /// Allocated by the driver.
    Locked { device: Arc<Device>, start: *mut u8, bytes: usize },
    /// Ordinary memory.
    Paged(Vec<u8>),
}

// SAFETY: the memory belongs to this value alone.
unsafe impl Send for HostMemory {}
// SAFETY: what is shared is only read.
unsafe impl Sync for HostMemory {}

impl HostMemory {
    /// `bytes` bytes of it.
    pub(super) fn new(device: &Arc<Device>, bytes: usize) -> Result<Self> {
        device.enter()?;
        // SAFETY: it is freed when this is dropped. It is cached, so that reading it is fast.
        match unsafe { result::malloc_host(bytes.max(1), sys::CU_MEMHOSTALLOC_DEVICEMAP) } {
            Ok(start) => Ok(Self::Locked { device: device.clone(), start: start.cast(), bytes }),
            Err(error) => {
                static WARNED: Once = Once::new();
                let error = failed("page-locked memory")(error);
                WARNED.call_once(|| {
                    tracing::warn!("{error:#}; copies from the GPU use ordinary memory and are slower")
                });
                Ok(Self::Paged(vec![0; bytes]))
            }
        }
    }

    /// Whether it is page-locked.
    pub(super) fn is_locked(&self) -> bool {
        matches!(self, Self::Locked { .. })
    }

    /// Where kernels find it; `None` for ordinary memory.
    pub(super) fn address(&self) -> Result<Option<Address>> {
        let Self::Locked { start, .. } = self else { return Ok(None) };
        let mut address = 0;
        // SAFETY: the memory was allocated by the driver, and mapped.
        let found = unsafe { sys::cuMemHostGetDevicePointer_v2(&mut address, start.cast(), 0) };
        found.result().map_err(failed("cuMemHostGetDevicePointer"))?;
        Ok(Some(Address(address)))
    }

    /// Its bytes.
    pub(super) fn as_slice(&self) -> &[u8] {
        match self {
            // SAFETY: `bytes` bytes were allocated; what enqueues a copy to them waits before reading.
            Self::Locked { start, bytes, .. } => unsafe { slice::from_raw_parts(*start, *bytes) },
            Self::Paged(bytes) => bytes,
        }
    }

    /// Its bytes.
    pub(super) fn as_mut_slice(&mut self) -> &mut [u8] {
        match self {
            // SAFETY: as above.
            Self::Locked { start, bytes, .. } => unsafe { slice::from_raw_parts_mut(*start, *bytes) },
            Self::Paged(bytes) => bytes,
        }
    }
}

impl Drop for HostMemory {
    fn drop(&mut self) {
        if let Self::Locked { device, start, .. } = self {
            // Copies that are enqueued still use it.
            let _ = device.wait();
            // SAFETY: it was allocated by the driver, and nothing uses it any more.
            let _ = unsafe { result::free_host(start.cast()) };
        }
    }
}

/// Memory of another owner that is page-locked until this is dropped.
pub(super) struct Registered {
    device: Arc<Device>,
    start: *mut u8,
}

// SAFETY: the address is only told to the driver.
unsafe impl Send for Registered {}
// SAFETY: as above.
unsafe impl Sync for Registered {}

impl Registered {
    /// Locks a part of `memory`, from whole pages on, which the caller keeps for as long as this. Fails where the system grants
    /// no more, and where the device does not support it.
    pub(super) fn new(device: &Arc<Device>, memory: &Memory, part: Range<usize>) -> Result<Self> {
        device.enter()?;
        let (start, bytes) = memory.span();
        ensure!(part.end <= bytes, "a part that is outside of its memory");
        let start = start.wrapping_add(part.start).cast_mut();
        let flags = if memory.is_read_only() { sys::CU_MEMHOSTREGISTER_READ_ONLY } else { 0 };
        // SAFETY: the driver checks the range, and it stays mapped: the caller keeps it.
        unsafe { sys::cuMemHostRegister_v2(start.cast(), part.len(), flags) }
            .result()
            .map_err(failed("cuMemHostRegister"))?;
        Ok(Self { device: device.clone(), start })
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        // Copies that are enqueued still use it.
        let _ = self.device.wait();
        // SAFETY: it was registered, and nothing uses it any more.
        let _ = unsafe { sys::cuMemHostUnregister(self.start.cast()) };
    }
}
