//! Operations of the device that are put together before they are enqueued.

#![expect(unsafe_code, reason = "calls of the CUDA driver")]

use std::ffi::c_void;
use std::ptr;

use anyhow::Result;
use cudarc::driver::{result, sys};

use super::error::failed;
use super::param::{Address, Function, Param};

/// Operations in their order, as words: batches of the same words do the same. Each operation is its kind and then what it
/// takes.
#[derive(Clone, Default, PartialEq, Eq)]
pub(super) struct Batch {
    words: Vec<u64>,
    len: usize,
}

/// Kinds of operations. A kernel's has the number of its arguments in the upper half, and each argument its bytes before it.
const LAUNCH: u32 = 0;
const COPY: u32 = 1;
const DOWNLOAD: u32 = 2;
const CLEAR: u32 = 3;

fn pair(low: u32, high: u32) -> u64 {
    u64::from(low) | u64::from(high) << 32
}

fn halves(word: u64) -> (u32, u32) {
    (word as u32, (word >> 32) as u32)
}

impl Batch {
    /// A kernel: `grid` blocks of `threads` threads.
    pub(super) fn launch(
        &mut self,
        function: Function,
        [x, y, z]: [u32; 3],
        threads: u32,
        params: &[&dyn Param],
    ) {
        let handle = function.0.expose_provenance() as u64;
        self.words.extend([pair(LAUNCH, params.len() as u32), handle, pair(x, y), pair(z, threads)]);
        for param in params {
            let bytes = param.bytes();
            self.words.push(bytes as u64);
            let start = self.words.len();
            self.words.resize(start + bytes.div_ceil(size_of::<u64>()), 0);
            let to: *mut u64 = self.words[start..].as_mut_ptr();
            // SAFETY: an argument is as many initialised bytes, for which there are words.
            unsafe { ptr::copy_nonoverlapping(param.place().cast::<u8>(), to.cast(), bytes) };
        }
        self.len += 1;
    }

    /// A copy inside device memory.
    pub(super) fn copy(&mut self, from: Address, to: Address, bytes: usize) {
        self.add([u64::from(COPY), from.0, to.0, bytes as u64]);
    }

    /// A copy to page-locked memory of the host.
    ///
    /// # Safety
    /// The memory is used by nothing else until the operation was waited for.
    pub(super) unsafe fn download(&mut self, from: Address, to: &mut [u8]) {
        let place = to.as_mut_ptr().expose_provenance();
        self.add([u64::from(DOWNLOAD), from.0, place as u64, to.len() as u64]);
    }

    /// Zeros.
    pub(super) fn clear(&mut self, at: Address, bytes: usize) {
        self.add([u64::from(CLEAR), at.0, bytes as u64]);
    }

    fn add<const N: usize>(&mut self, words: [u64; N]) {
        self.words.extend(words);
        self.len += 1;
    }

    /// How many operations there are.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Removes all.
    pub(super) fn forget(&mut self) {
        self.words.clear();
        self.len = 0;
    }

    /// The same for equal batches, and most likely another for others.
    pub(super) fn hash(&self) -> u64 {
        self.words
            .iter()
            .fold(0, |hash: u64, word| (hash.rotate_left(5) ^ word).wrapping_mul(0x9E37_79B9_7F4A_7C15))
    }

    /// Enqueues all.
    pub(super) fn enqueue(&self, stream: sys::CUstream) -> Result<()> {
        let mut rest = &self.words[..];
        while let Some((&word, after)) = rest.split_first() {
            let (kind, count) = halves(word);
            rest = match kind {
                LAUNCH => enqueue_kernel(after, count as usize, stream)?,
                COPY => {
                    let (&[from, to, bytes], after) = after.split_first_chunk().expect("a whole operation");
                    // SAFETY: both are device memory.
                    unsafe { result::memcpy_dtod_async(to, from, bytes as usize, stream) }
                        .map_err(failed("a copy inside the GPU"))?;
                    after
                }
                DOWNLOAD => {
                    let (&[from, to, bytes], after) = after.split_first_chunk().expect("a whole operation");
                    let to: *mut c_void = ptr::with_exposed_provenance_mut(to as usize);
                    // SAFETY: who added it keeps the memory.
                    unsafe { sys::cuMemcpyDtoHAsync_v2(to, from, bytes as usize, stream) }
                        .result()
                        .map_err(failed("a copy from the GPU"))?;
                    after
                }
                _ => {
                    let (&[at, bytes], after) = after.split_first_chunk().expect("a whole operation");
                    // SAFETY: it is device memory.
                    unsafe { result::memset_d8_async(at, 0, bytes as usize, stream) }
                        .map_err(failed("filling memory"))?;
                    after
                }
            };
        }
        Ok(())
    }
}

/// Enqueues a kernel of `count` arguments; returns what follows.
fn enqueue_kernel(words: &[u64], count: usize, stream: sys::CUstream) -> Result<&[u64]> {
    let (&[handle, xy, z], mut rest) = words.split_first_chunk().expect("a whole operation");
    let function: sys::CUfunction = ptr::with_exposed_provenance_mut(handle as usize);
    let ((x, y), (z, threads)) = (halves(xy), halves(z));
    let mut places: Vec<*mut c_void> = Vec::with_capacity(count);
    for _ in 0..count {
        let (&bytes, after) = rest.split_first().expect("a whole operation");
        let (argument, after) = after.split_at((bytes as usize).div_ceil(size_of::<u64>()));
        places.push(argument.as_ptr().cast_mut().cast());
        rest = after;
    }
    // SAFETY: the driver copies the arguments before it returns; what the kernel reaches is device memory.
    let launched =
        unsafe { result::launch_kernel(function, (x, y, z), (threads, 1, 1), 0, stream, &mut places) };
    launched.map_err(failed("a kernel cannot be launched"))?;
    Ok(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(argument: i32) -> Batch {
        let mut batch = Batch::default();
        let function = Function(ptr::without_provenance_mut(8));
        batch.launch(function, [1, 2, 3], 32, &[&argument, &Address(7), &1.5f32]);
        batch.copy(Address(1), Address(2), 3);
        batch.clear(Address(4), 5);
        batch
    }

    #[test]
    fn equal_batches_do_the_same() {
        assert_eq!(batch(1).len(), 3);
        assert!(batch(1) == batch(1) && batch(1).hash() == batch(1).hash());
        assert!(batch(1) != batch(2) && batch(1).hash() != batch(2).hash());
        let mut longer = batch(1);
        longer.clear(Address(4), 5);
        assert!(longer != batch(1) && longer.hash() != batch(1).hash());
        longer.forget();
        assert!(longer == Batch::default());
    }
}
