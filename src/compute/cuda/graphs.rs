//! CUDA graphs of batches that come again and again: launching one takes as long as launching a few kernels.
//!
//! A graph is found by the operations it has, with all their arguments. Whatever changes with each token is in device
//! memory; what changes now and then, as the number of positions does, makes another graph.

#![expect(unsafe_code, reason = "calls of the CUDA driver")]

use std::collections::HashMap;
use std::ptr;

use anyhow::Result;
use cudarc::driver::result::{graph, stream};
use cudarc::driver::sys;

use super::batch::Batch;
use super::error::failed;

/// Operations of the smallest batch that is worth a graph.
const LEN_MIN: usize = 6;
/// Most batches that are remembered: a model of 48 layers has two to six of each.
const ENTRIES_MAX: usize = 512;

/// Batches that were enqueued before.
#[derive(Default)]
pub(super) struct Graphs {
    entries: HashMap<u64, Entry>,
    /// Batches so far.
    clock: u64,
    is_broken: bool,
}

struct Entry {
    batch: Batch,
    /// Once it has come again.
    graph: Option<Graph>,
    /// When it came last.
    used: u64,
}

/// A graph that can be launched.
struct Graph(sys::CUgraphExec);

// SAFETY: a handle of the driver, which any thread may use.
unsafe impl Send for Graph {}

impl Graphs {
    /// Enqueues a batch, as a graph where it came before. Where the driver makes or launches no graphs, there are none from
    /// then on.
    pub(super) fn enqueue(&mut self, batch: &Batch, stream: sys::CUstream) -> Result<()> {
        if !self.is_broken && batch.len() >= LEN_MIN {
            match self.launch(batch, stream) {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(error) => {
                    tracing::warn!("{error:#}; kernels are launched one by one");
                    *self = Self { is_broken: true, ..Self::default() };
                }
            }
        }
        batch.enqueue(stream)
    }

    /// Launches the graph of a batch; false where it comes for the first time.
    fn launch(&mut self, batch: &Batch, stream: sys::CUstream) -> Result<bool> {
        self.clock += 1;
        let (hash, used) = (batch.hash(), self.clock);
        if let Some(entry) = self.entries.get_mut(&hash)
            && entry.batch == *batch
        {
            entry.used = used;
            let graph = match &mut entry.graph {
                Some(graph) => graph,
                none => none.insert(Graph::new(batch, stream)?),
            };
            return graph.launch(stream).map(|()| true);
        }
        if self.entries.len() >= ENTRIES_MAX {
            let oldest = self.entries.iter().min_by_key(|(_, entry)| entry.used).map(|(&hash, _)| hash);
            oldest.and_then(|hash| self.entries.remove(&hash));
        }
        self.entries.insert(hash, Entry { batch: batch.clone(), graph: None, used });
        Ok(false)
    }
}

impl Graph {
    fn new(batch: &Batch, stream: sys::CUstream) -> Result<Self> {
        // Others may call the driver meanwhile.
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream is open.
        unsafe { stream::begin_capture(stream, mode) }.map_err(failed("cuStreamBeginCapture"))?;
        let enqueued = batch.enqueue(stream);
        let mut captured = ptr::null_mut();
        // SAFETY: the stream captures.
        let ended = unsafe { sys::cuStreamEndCapture(stream, &mut captured) }.result();
        enqueued?;
        ended.map_err(failed("cuStreamEndCapture"))?;
        let mut handle = ptr::null_mut();
        // SAFETY: a graph was captured. What can be launched has all of it.
        let made = unsafe { sys::cuGraphInstantiateWithFlags(&mut handle, captured, 0) }.result();
        // SAFETY: it is used no more.
        let _ = unsafe { graph::destroy(captured) };
        made.map_err(failed("cuGraphInstantiate"))?;
        Ok(Self(handle))
    }

    fn launch(&self, stream: sys::CUstream) -> Result<()> {
        // SAFETY: the graph is held until this is dropped, and the stream is open.
        unsafe { graph::launch(self.0, stream) }.map_err(failed("cuGraphLaunch"))
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        // SAFETY: nothing uses it after this; the driver keeps what is enqueued.
        let _ = unsafe { graph::exec_destroy(self.0) };
    }
}
