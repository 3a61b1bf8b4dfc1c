//! States on their way to page-locked memory of the host: a second stream copies them there while kernels run, and nothing
//! waits for it but what uses the copies.
//!
//! Kernels put what is saved of a layer in one of a few pieces of device memory, from where it is copied; before the piece
//! is used again they wait for that.

#![expect(unsafe_code, reason = "copies to memory that is read after waiting")]

use std::ops::Range;
use std::sync::{Arc, Mutex};

use anyhow::{Context as _, Result, ensure};

use super::driver::{Address, Device, Event, Lane};
use super::memory::{Arena, Buffer, HostMemory, taken};
use super::saved::{Memory, State};
use crate::compute::{PassSizes, SavedBytes};

/// Pieces: one that is written, and others on their way.
const PIECES: usize = 4;

/// What parts of a piece are aligned to, in bytes.
pub(super) const ALIGNMENT: usize = 16;

/// Saves states of all layers of a sequence.
pub(super) struct Saver {
    lane: Lane,
    pieces: Vec<Piece>,
    next: usize,
    /// Bytes of a state.
    state_bytes: usize,
    /// Memory of states that are gone.
    pool: Arc<Mutex<Vec<HostMemory>>>,
    /// What copies to the device that were not waited for read.
    restored: Vec<State>,
    device: Arc<Device>,
}

/// Device memory for what is saved of a layer.
struct Piece {
    buffer: Buffer,
    written: Event,
    copied: Event,
}

/// Bytes of what is saved of a layer, with room to align its second part.
fn piece_bytes(sizes: &PassSizes, saved: &SavedBytes) -> usize {
    saved.state / sizes.delta_layers.max(1) + ALIGNMENT
}

/// Bytes of device memory.
pub(super) fn bytes(sizes: &PassSizes, saved: &SavedBytes) -> usize {
    if sizes.delta.is_some() { PIECES * taken(piece_bytes(sizes, saved)) } else { 0 }
}

impl Saver {
    pub(super) fn new(
        device: &Arc<Device>,
        arena: &Arc<Arena>,
        sizes: &PassSizes,
        saved: &SavedBytes,
    ) -> Result<Self> {
        let piece = |_| {
            Ok(Piece {
                buffer: arena.take(piece_bytes(sizes, saved))?,
                written: Event::new(device)?,
                copied: Event::new(device)?,
            })
        };
        Ok(Self {
            lane: Lane::new(device.clone())?,
            pieces: (0..PIECES).map(piece).collect::<Result<_>>()?,
            next: 0,
            state_bytes: saved.state,
            pool: Arc::default(),
            restored: Vec::new(),
            device: device.clone(),
        })
    }

    /// A state that nothing was saved to yet.
    pub(super) fn state(&self) -> Result<State> {
        let pooled = self.pool.lock().expect("lock poisoned").pop();
        let memory = match pooled {
            Some(memory) => memory,
            None => HostMemory::new(&self.device, self.state_bytes)?,
        };
        Ok(State::new(Memory::new(memory, self.pool.clone()), Event::new(&self.device)?))
    }

    /// Device memory for what is saved of a layer, once its last contents are copied.
    pub(super) fn piece(&self) -> Result<Address> {
        let Piece { buffer, copied, .. } = &self.pieces[self.next];
        self.device.wait_for(copied)?;
        Ok(buffer.address())
    }

    /// Copies parts of what was written to that to the end of a state.
    pub(super) fn save(&mut self, parts: [Range<usize>; 2], state: &mut State) -> Result<()> {
        let Piece { buffer, written, copied } = &self.pieces[self.next];
        self.device.record(written)?;
        self.lane.wait_for(written)?;
        for Range { start, end } in parts {
            let to = state.next(end - start).context("a state that is used already")?;
            ensure!(to.len() == end - start && end <= buffer.bytes(), "a state is larger than was stated");
            if !to.is_empty() {
                // SAFETY: what reads the state waits for its event, which comes after this.
                unsafe { self.lane.download_later(buffer.address().plus(start), to)? };
            }
        }
        self.lane.record(copied)?;
        self.next = (self.next + 1) % self.pieces.len();
        Ok(())
    }

    /// All layers of a state are on their way.
    pub(super) fn seal(&self, state: &State) -> Result<()> {
        state.saved().map_or(Ok(()), |saved| self.lane.record(saved))
    }

    /// Has whatever is enqueued from now on find a state, and keeps it until that was waited for.
    pub(super) fn hold(&mut self, state: &State) -> Result<()> {
        let saved = state.saved().context("a state of another model")?;
        self.device.wait_for(saved)?;
        self.restored.push(state.clone());
        Ok(())
    }

    /// What was enqueued was waited for.
    pub(super) fn release(&mut self) {
        self.restored.clear();
    }
}
