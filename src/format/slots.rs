//! Memory of the program in equal slots: each is written by one, and then read by many.

#![expect(unsafe_code, reason = "slots are parts of one mapping that are lent apart from each other")]

use std::fmt;
use std::io;
use std::ops::{Deref, DerefMut};
use std::slice;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use memmap2::{MmapMut, MmapRaw};

use super::Bytes;

/// What slots are aligned to, in bytes.
const ALIGNMENT: usize = 64;

/// The holders of a slot that is being written.
const WRITING: usize = usize::MAX;

/// Anonymous memory in slots, in huge pages where the system grants them. Pages take memory once they are written.
pub struct SlotMemory {
    map: MmapRaw,
    slot_bytes: usize,
    stride: usize,
    /// For each slot how many hold it for reading, or [`WRITING`].
    holders: Vec<AtomicUsize>,
}

/// A slot that can be read until this is dropped.
pub(super) struct SlotBytes {
    memory: Arc<SlotMemory>,
    slot: usize,
}

/// A slot that can be written until this is dropped.
pub struct SlotWriter<'a> {
    memory: &'a SlotMemory,
    slot: usize,
}

impl SlotMemory {
    /// Memory for `slots` slots. Fails where the system has no address space for it.
    pub fn new(slots: usize, slot_bytes: usize) -> io::Result<Arc<Self>> {
        let stride = slot_bytes.next_multiple_of(ALIGNMENT);
        let bytes = stride.checked_mul(slots).ok_or(io::ErrorKind::OutOfMemory)?;
        let map = MmapRaw::from(MmapMut::map_anon(bytes.max(1))?);
        // Without huge pages it is slower, and nothing else.
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage);
        let holders = (0..slots).map(|_| AtomicUsize::new(0)).collect();
        Ok(Arc::new(Self { map, slot_bytes, stride, holders }))
    }

    /// Keeps all of it in memory. Fails where the system grants less.
    pub fn lock(&self) -> io::Result<()> {
        #[cfg(unix)]
        return self.map.lock();
        #[cfg(not(unix))]
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Where it is: its first address, and its bytes.
    pub fn span(&self) -> (*const u8, usize) {
        (self.map.as_ptr(), self.stride * self.holders.len())
    }

    /// A slot for reading; `None` while it is written.
    pub fn read(self: &Arc<Self>, slot: usize) -> Option<Bytes> {
        let more = |holders| if holders == WRITING { None } else { Some(holders + 1) };
        self.holders[slot].fetch_update(Ordering::Acquire, Ordering::Relaxed, more).ok()?;
        Some(Bytes::of_slot(SlotBytes { memory: self.clone(), slot }))
    }

    /// A slot for writing; `None` while anyone has it.
    pub fn write(&self, slot: usize) -> Option<SlotWriter<'_>> {
        let taken = self.holders[slot].compare_exchange(0, WRITING, Ordering::Acquire, Ordering::Relaxed);
        // Only where it was taken is there a writer, which gives it back.
        taken.ok().map(|_| SlotWriter { memory: self, slot })
    }

    fn start(&self, slot: usize) -> *mut u8 {
        assert!(slot < self.holders.len());
        // SAFETY: the mapping is `stride` bytes for each slot long, so the offset is inside it.
        unsafe { self.map.as_mut_ptr().add(slot * self.stride) }
    }
}

impl SlotBytes {
    /// The memory that the slot is in.
    pub(super) fn memory(&self) -> &Arc<SlotMemory> {
        &self.memory
    }
}

impl fmt::Debug for SlotMemory {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{} slots of {} bytes", self.holders.len(), self.slot_bytes)
    }
}

impl Deref for SlotBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the slot is inside the mapping, which lives as long as `memory`, and its bytes are initialised, zeros
        // at first. This is one of its holders, so that there is no writer.
        unsafe { slice::from_raw_parts(self.memory.start(self.slot), self.memory.slot_bytes) }
    }
}

impl Clone for SlotBytes {
    fn clone(&self) -> Self {
        self.memory.holders[self.slot].fetch_add(1, Ordering::Relaxed);
        Self { memory: self.memory.clone(), slot: self.slot }
    }
}

impl Drop for SlotBytes {
    fn drop(&mut self) {
        self.memory.holders[self.slot].fetch_sub(1, Ordering::Release);
    }
}

impl Deref for SlotWriter<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: as in `deref_mut`.
        unsafe { slice::from_raw_parts(self.memory.start(self.slot), self.memory.slot_bytes) }
    }
}

impl DerefMut for SlotWriter<'_> {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: the slot is inside the mapping, which `memory` keeps, and initialised. It is marked as being written, so
        // that this is the only one that has it; slots do not overlap.
        unsafe { slice::from_raw_parts_mut(self.memory.start(self.slot), self.memory.slot_bytes) }
    }
}

impl Drop for SlotWriter<'_> {
    fn drop(&mut self) {
        self.memory.holders[self.slot].store(0, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_has_one_writer_or_readers() {
        let memory = SlotMemory::new(3, 100).unwrap();
        for slot in 0..3 {
            memory.write(slot).unwrap().fill(slot as u8 + 1);
        }
        let bytes = memory.read(1).unwrap();
        let part = bytes.slice(10..20);
        drop(bytes);
        assert!(memory.write(1).is_none(), "a part is still read");
        assert_eq!(part[..], [2; 10]);
        drop(part.clone());
        drop(part);
        let mut writer = memory.write(1).unwrap();
        assert!(memory.read(1).is_none() && memory.write(1).is_none());
        writer.fill(9);
        drop(writer);
        assert_eq!(memory.read(1).unwrap()[..], [9; 100]);
        assert_eq!((memory.read(0).unwrap()[99], memory.read(2).unwrap()[0]), (1, 3), "slots are apart");
        assert!(SlotMemory::new(usize::MAX / 2, 100).is_err());
    }
}
