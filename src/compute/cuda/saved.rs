//! What is saved of the recurrence, as bytes in memory of the host.

use std::sync::{Arc, Mutex};

use super::driver::Event;
use super::memory::HostMemory;

/// The recurrent states of all layers at one position: for each layer the matrices in the saved precision, then the
/// inputs of the convolution in f32; nothing where there are none. Clones are the same state.
#[derive(Clone, Default)]
pub struct State(Option<Arc<Saved>>);

struct Saved {
    memory: Memory,
    /// Bytes that were saved.
    len: usize,
    /// After the copies.
    saved: Event,
}

/// Page-locked memory that goes back to where it came from.
pub(super) struct Memory {
    memory: Option<HostMemory>,
    pool: Arc<Mutex<Vec<HostMemory>>>,
}

/// What one token left behind in all layers, in the saved precision.
#[derive(Clone, Default)]
pub struct Trace(pub(super) Vec<u8>);

/// Where a copy from the device belongs. Layers come in order, and extend what is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Destination {
    /// Traced rows from the n-th on, of `bytes` bytes each.
    Traces { first: usize, bytes: usize },
    /// Normed rows, for experts that are with the CPU.
    Normed,
    /// The experts that rows visit.
    Chosen,
    /// Their weights.
    Weights,
    /// Rows after the last layer.
    Hidden,
    /// Logits.
    Logits,
    /// Rows for a head that is with the CPU.
    HeadRows,
    /// The greatest of each row, as kernels write them.
    TopLogits,
}

impl Memory {
    pub(super) fn new(memory: HostMemory, pool: Arc<Mutex<Vec<HostMemory>>>) -> Self {
        Self { memory: Some(memory), pool }
    }

    fn get(&self) -> &HostMemory {
        self.memory.as_ref().expect("memory until it is dropped")
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // Copies to it that are on their way end before those of the state that has it next.
        let memory = self.memory.take();
        self.pool.lock().expect("lock poisoned").extend(memory);
    }
}

impl State {
    /// An empty one.
    pub(super) fn new(memory: Memory, saved: Event) -> Self {
        Self(Some(Arc::new(Saved { memory, len: 0, saved })))
    }

    /// What comes after its copies.
    pub(super) fn saved(&self) -> Option<&Event> {
        self.0.as_ref().map(|saved| &saved.saved)
    }

    /// The next `bytes` bytes, to be written; less where it ends. `None` where there are clones.
    pub(super) fn next(&mut self, bytes: usize) -> Option<&mut [u8]> {
        let Saved { memory, len, .. } = Arc::get_mut(self.0.as_mut()?)?;
        let memory = memory.memory.as_mut()?.as_mut_slice();
        let start = *len;
        *len = (start + bytes).min(memory.len());
        Some(&mut memory[start..*len])
    }

    /// Its bytes, once the copies were waited for.
    pub(super) fn as_slice(&self) -> &[u8] {
        self.0.as_ref().map_or(&[], |saved| &saved.memory.get().as_slice()[..saved.len])
    }
}

impl Trace {
    /// The row of a layer, of `bytes` bytes.
    pub(super) fn of_layer(&self, layer: usize, bytes: usize) -> &[u8] {
        &self.0[layer * bytes..(layer + 1) * bytes]
    }
}
