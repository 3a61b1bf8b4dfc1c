//! Results on their way to the host: copies to page-locked memory are enqueued, and read together when all have been
//! waited for.

#![expect(unsafe_code, reason = "copies to memory that is read after waiting")]

use std::ops::Range;
use std::sync::Arc;

use anyhow::{Result, ensure};

use super::driver::{Address, Device};
use super::memory::HostMemory;

/// What copies are aligned to, in bytes.
const ALIGNMENT: usize = 64;

/// Copies that are enqueued, with what each is for.
pub(super) struct Staging<T> {
    device: Arc<Device>,
    memory: HostMemory,
    used: usize,
    pieces: Vec<(T, Range<usize>)>,
}

impl<T> Staging<T> {
    /// Memory for copies of `bytes` at a time.
    pub(super) fn new(device: Arc<Device>, bytes: usize) -> Result<Self> {
        let memory = HostMemory::new(&device, bytes)?;
        Ok(Self { device, memory, used: 0, pieces: Vec::new() })
    }

    /// Whether a copy fits before the others are read.
    pub(super) fn fits(&self, bytes: usize) -> bool {
        self.used + bytes <= self.memory.as_slice().len()
    }

    /// Enqueues a copy.
    pub(super) fn download(&mut self, from: Address, bytes: usize, to: T) -> Result<()> {
        ensure!(self.fits(bytes), "{bytes} bytes of results are more than was stated");
        let range = self.used..self.used + bytes;
        self.used = range.end.next_multiple_of(ALIGNMENT);
        let is_locked = self.memory.is_locked();
        let part = &mut self.memory.as_mut_slice()[range.clone()];
        if is_locked {
            // SAFETY: the part is read in `read` alone, after waiting, and given to no other copy before.
            unsafe { self.device.download_later(from, part)? };
        } else {
            self.device.download(from, part)?;
        }
        self.pieces.push((to, range));
        Ok(())
    }

    /// Waits, and hands out all copies in the order they were enqueued in.
    pub(super) fn read(&mut self, mut each: impl FnMut(T, &[u8])) -> Result<()> {
        self.device.wait()?;
        for (to, range) in self.pieces.drain(..) {
            each(to, &self.memory.as_slice()[range]);
        }
        self.used = 0;
        Ok(())
    }

    /// Waits, and drops all copies.
    pub(super) fn clear(&mut self) -> Result<()> {
        self.read(|_, _| ())
    }
}
