//! Memory of the host that experts are in, page-locked where the system grants it: from there they are copied to the device
//! without being laid out in other memory first.
//!
//! Locking brings all of the memory in, which takes seconds where it is large. So a thread does it, piece by piece, while
//! passes run and copy what is not locked yet the other way.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, RwLock};
use std::thread::{self, JoinHandle};

use super::driver::Device;
use super::matrix::Matrix;
use super::memory::Registered;
use crate::format::Memory;

/// Bytes that are locked by one call: other calls of the driver may have to wait for it.
const PIECE_BYTES: usize = 256 << 20;

/// Memory that is page-locked, and more that is to be.
pub(super) struct PageLocks {
    shared: Arc<Shared>,
    to_lock: Option<Sender<Memory>>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    device: Arc<Device>,
    /// By its first address.
    pieces: RwLock<BTreeMap<usize, Piece>>,
    is_closed: AtomicBool,
}

struct Piece {
    bytes: usize,
    /// Given back before the memory it is in.
    _registered: Registered,
    _memory: Memory,
}

impl PageLocks {
    pub(super) fn new(device: &Arc<Device>) -> Self {
        let shared =
            Shared { device: device.clone(), pieces: RwLock::default(), is_closed: AtomicBool::new(false) };
        let shared = Arc::new(shared);
        let (to_lock, memory) = mpsc::channel();
        let own = shared.clone();
        let thread = thread::Builder::new().name("fimd-page-locks".into()).spawn(move || own.work(&memory));
        let thread = thread.inspect_err(|error| tracing::warn!("experts are not page-locked: {error}"));
        Self { shared, to_lock: Some(to_lock), thread: thread.ok() }
    }

    /// Has memory locked soon, unless it is or will be.
    pub(super) fn add(&self, memory: Memory) {
        if let Some(to_lock) = &self.to_lock {
            // Without the thread nothing is locked.
            let _ = to_lock.send(memory);
        }
    }

    /// Whether stored values of a matrix can be copied to the device from where they are: they lie as they do there, in memory
    /// that is locked.
    pub(super) fn allow(&self, matrix: &Matrix, values: &[u8]) -> bool {
        matrix.value_bytes() == values.len() && self.hold(values)
    }

    /// Whether these bytes are in memory that is locked.
    fn hold(&self, bytes: &[u8]) -> bool {
        let start = bytes.as_ptr().addr();
        let pieces = self.shared.pieces.read().expect("lock poisoned");
        let before = pieces.range(..=start).next_back();
        before.is_some_and(|(at, piece)| start + bytes.len() <= at + piece.bytes)
    }
}

impl Drop for PageLocks {
    fn drop(&mut self) {
        self.shared.is_closed.store(true, Ordering::Relaxed);
        self.to_lock = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    /// Locks memory until something is refused.
    fn work(&self, to_lock: &Receiver<Memory>) {
        let mut known = BTreeSet::new();
        let mut locked = 0;
        for memory in to_lock {
            let (start, bytes) = memory.span();
            if !known.insert(start.addr()) {
                continue;
            }
            for at in (0..bytes).step_by(PIECE_BYTES) {
                if self.is_closed.load(Ordering::Relaxed) {
                    return;
                }
                let piece = at..bytes.min(at + PIECE_BYTES);
                let bytes = piece.len();
                match Registered::new(&self.device, &memory, piece) {
                    Ok(registered) => {
                        let piece = Piece { bytes, _registered: registered, _memory: memory.clone() };
                        let mut pieces = self.pieces.write().expect("lock poisoned");
                        pieces.insert(start.addr() + at, piece);
                        locked += bytes;
                    }
                    Err(error) => {
                        tracing::warn!(
                            "{} MiB of the memory of experts are page-locked, and more is refused: {error:#}; copies of other \
                             experts to the GPU take longer",
                            locked >> 20
                        );
                        return;
                    }
                }
            }
            tracing::debug!("{} MiB of the memory of experts are page-locked", locked >> 20);
        }
    }
}
