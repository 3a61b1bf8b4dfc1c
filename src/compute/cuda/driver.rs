//! The device: its context, and the one stream that all work goes through in order.

#![expect(unsafe_code, reason = "calls of the CUDA driver")]

use std::sync::{Arc, Mutex, MutexGuard};

use anyhow::Result;
use cudarc::driver::result::{self, DriverError, ctx, device, event, primary_ctx, stream};
use cudarc::driver::sys;

use super::batch::Batch;
use super::error::failed;
use super::graphs::Graphs;
pub(super) use super::param::{Address, Function, Param};
use crate::base::memory::Space;

/// The first device, opened.
///
/// No kernel and no copy between addresses reaches memory of the program, but for what copies to and from the host
/// name; those are methods of the types that own such memory, or wait.
pub(super) struct Device {
    ordinal: sys::CUdevice,
    context: sys::CUcontext,
    stream: sys::CUstream,
    pending: Mutex<Pending>,
}

/// What is to be enqueued.
#[derive(Default)]
struct Pending {
    batch: Batch,
    graphs: Graphs,
    /// Whether operations are put together.
    is_batching: bool,
}

// SAFETY: handles of the driver may be used by any thread that has made the context current, as each method does.
unsafe impl Send for Device {}
// SAFETY: as above; the driver's functions may be called by several threads at once.
unsafe impl Sync for Device {}

impl Device {
    /// Opens the device that [`probe`](super::probe::probe) has found.
    pub(super) fn open() -> Result<Arc<Self>> {
        let ordinal = device::get(0).map_err(failed("cuDeviceGet"))?;
        // SAFETY: the device is one that the driver has given.
        let context = unsafe { primary_ctx::retain(ordinal) }.map_err(failed("the GPU cannot be opened"))?;
        let mut this = Self { ordinal, context, stream: stream::null(), pending: Mutex::default() };
        this.enter()?;
        this.stream = stream::create(stream::StreamKind::NonBlocking).map_err(failed("cuStreamCreate"))?;
        Ok(Arc::new(this))
    }

    /// Makes the device that of this thread.
    pub(super) fn enter(&self) -> Result<()> {
        // SAFETY: the context is held until this is dropped.
        unsafe { ctx::set_current(self.context) }.map_err(failed("cuCtxSetCurrent"))
    }

    /// Its memory.
    pub(super) fn memory(&self) -> Result<Space> {
        self.enter()?;
        let (free, total) = result::mem_get_info().map_err(failed("cuMemGetInfo"))?;
        Ok(Space { free: free as u64, total: total as u64 })
    }

    /// Waits for all that was enqueued.
    pub(super) fn wait(&self) -> Result<()> {
        self.enter()?;
        self.flush()?;
        // SAFETY: the stream is held until this is dropped.
        unsafe { stream::synchronize(self.stream) }.map_err(failed("the GPU failed"))
    }

    /// Whether all that was enqueued is done.
    pub(super) fn is_idle(&self) -> Result<bool> {
        self.flush()?;
        // SAFETY: the stream is held until this is dropped.
        match unsafe { sys::cuStreamQuery(self.stream) } {
            sys::CUresult::CUDA_ERROR_NOT_READY => Ok(false),
            other => other.result().map(|()| true).map_err(failed("the GPU failed")),
        }
    }

    /// Enqueues a kernel: `grid` blocks of `threads` threads.
    pub(super) fn launch(
        &self,
        function: Function,
        grid: [usize; 3],
        threads: usize,
        params: &[&dyn Param],
    ) -> Result<()> {
        let grid = grid.map(|count| count as u32);
        self.add(|batch| batch.launch(function, grid, threads as u32, params))
    }

    /// From now on kernels and copies that need no host are put together, and enqueued by [`Device::flush`] or by whatever
    /// they have to precede, as a graph where they came before; or at once.
    pub(super) fn set_batching(&self, is_batching: bool) -> Result<()> {
        self.flush()?;
        self.pending().is_batching = is_batching;
        Ok(())
    }

    /// Enqueues what was put together.
    pub(super) fn flush(&self) -> Result<()> {
        let Pending { batch, graphs, .. } = &mut *self.pending();
        if batch.len() == 0 {
            return Ok(());
        }
        let done = graphs.enqueue(batch, self.stream);
        batch.forget();
        done
    }

    fn add(&self, add: impl FnOnce(&mut Batch)) -> Result<()> {
        let Pending { batch, is_batching, .. } = &mut *self.pending();
        add(batch);
        if *is_batching {
            return Ok(());
        }
        let done = batch.enqueue(self.stream);
        batch.forget();
        done
    }

    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().expect("lock poisoned")
    }

    /// Enqueues a copy from memory that the system may move: it is read before this returns.
    pub(super) fn upload<T: Copy>(&self, from: &[T], to: Address) -> Result<()> {
        self.flush()?;
        // SAFETY: the driver has copied memory that is not page-locked when it returns.
        unsafe { upload(self.stream, from, to) }
    }

    /// Enqueues a copy from page-locked memory.
    ///
    /// # Safety
    /// The memory stays as it is until [`Device::wait`] returns.
    pub(super) unsafe fn upload_later(&self, from: &[u8], to: Address) -> Result<()> {
        self.flush()?;
        // SAFETY: the caller keeps the memory.
        unsafe { upload(self.stream, from, to) }
    }

    /// Enqueues a copy to page-locked memory of the host.
    ///
    /// # Safety
    /// The memory is used by nothing else until [`Device::wait`] returns.
    pub(super) unsafe fn download_later(&self, from: Address, to: &mut [u8]) -> Result<()> {
        // SAFETY: the caller keeps the memory.
        self.add(|batch| unsafe { batch.download(from, to) })
    }

    /// Copies to memory that the system may move, which may wait.
    pub(super) fn download(&self, from: Address, to: &mut [u8]) -> Result<()> {
        self.flush()?;
        // SAFETY: the driver has written memory that is not page-locked when it returns.
        unsafe { result::memcpy_dtoh_async(to, from.0, self.stream) }.map_err(failed("a copy from the GPU"))
    }

    /// Enqueues a copy inside device memory.
    pub(super) fn copy(&self, from: Address, to: Address, bytes: usize) -> Result<()> {
        self.add(|batch| batch.copy(from, to, bytes))
    }

    /// Marks what is enqueued so far.
    pub(super) fn record(&self, event: &Event) -> Result<()> {
        self.flush()?;
        // SAFETY: stream and event are held until they are dropped.
        unsafe { event::record(event.handle, self.stream) }.map_err(failed("cuEventRecord"))
    }

    /// Has whatever is enqueued from now on wait for an event.
    pub(super) fn wait_for(&self, event: &Event) -> Result<()> {
        self.flush()?;
        wait_for(self.stream, event)
    }

    /// Enqueues ones in all bits, which are no numbers.
    pub(super) fn poison(&self, at: Address, bytes: usize) -> Result<()> {
        self.flush()?;
        // SAFETY: it is device memory.
        unsafe { result::memset_d8_async(at.0, 0xff, bytes, self.stream) }.map_err(failed("filling memory"))
    }

    /// Enqueues zeros.
    pub(super) fn clear(&self, at: Address, bytes: usize) -> Result<()> {
        self.add(|batch| batch.clear(at, bytes))
    }
}

/// Enqueues a copy to the device.
///
/// # Safety
/// The stream is held, and page-locked memory stays as it is until the copy was waited for.
unsafe fn upload<T: Copy>(stream: sys::CUstream, from: &[T], to: Address) -> Result<()> {
    // SAFETY: the caller's.
    unsafe { result::memcpy_htod_async(to.0, from, stream) }.map_err(failed("a copy to the GPU"))
}

impl Drop for Device {
    fn drop(&mut self) {
        // Nothing can be done about errors here: a device that has failed returns one from every call.
        let _ = self.wait();
        *self.pending() = Pending::default();
        // SAFETY: nothing uses stream and context any more.
        unsafe {
            if !self.stream.is_null() {
                let _ = stream::destroy(self.stream);
            }
            let _ = primary_ctx::release(self.ordinal);
        }
    }
}

/// A point in what was enqueued, which others wait for.
pub(super) struct Event {
    device: Arc<Device>,
    handle: sys::CUevent,
}

// SAFETY: as for the device.
unsafe impl Send for Event {}
// SAFETY: as for the device.
unsafe impl Sync for Event {}

impl Event {
    pub(super) fn new(device: &Arc<Device>) -> Result<Self> {
        device.enter()?;
        let flags = sys::CUevent_flags::CU_EVENT_DEFAULT;
        let handle = event::create(flags).map_err(failed("cuEventCreate"))?;
        Ok(Self { device: device.clone(), handle })
    }

    /// Waits until what was enqueued before it is done.
    pub(super) fn wait(&self) -> Result<()> {
        // SAFETY: the event is held until this is dropped.
        unsafe { event::synchronize(self.handle) }.map_err(failed("the GPU failed"))
    }

    /// Seconds from this to a later one; `None` while that is to come.
    pub(super) fn seconds_to(&self, later: &Self) -> Result<Option<f64>> {
        // SAFETY: both events are held until they are dropped.
        match unsafe { event::elapsed(self.handle, later.handle) } {
            Ok(ms) => Ok(Some(f64::from(ms) / 1e3)),
            Err(DriverError(sys::CUresult::CUDA_ERROR_NOT_READY)) => Ok(None),
            Err(error) => Err(failed("the GPU failed")(error)),
        }
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        let _ = self.device.enter();
        // SAFETY: nothing uses it after this; the driver keeps what is enqueued.
        let _ = unsafe { event::destroy(self.handle) };
    }
}

/// A second stream, whose copies run beside the kernels.
pub(super) struct Lane {
    device: Arc<Device>,
    stream: sys::CUstream,
}

// SAFETY: as for the device.
unsafe impl Send for Lane {}

impl Lane {
    pub(super) fn new(device: Arc<Device>) -> Result<Self> {
        device.enter()?;
        let stream = stream::create(stream::StreamKind::NonBlocking).map_err(failed("cuStreamCreate"))?;
        Ok(Self { device, stream })
    }

    /// Marks what is enqueued so far.
    pub(super) fn record(&self, event: &Event) -> Result<()> {
        // SAFETY: stream and event are held until they are dropped.
        unsafe { event::record(event.handle, self.stream) }.map_err(failed("cuEventRecord"))
    }

    /// Has whatever is enqueued here from now on wait for an event.
    pub(super) fn wait_for(&self, event: &Event) -> Result<()> {
        wait_for(self.stream, event)
    }

    /// Enqueues a copy from memory that the system may move: it is read before this returns.
    pub(super) fn upload<T: Copy>(&self, from: &[T], to: Address) -> Result<()> {
        // SAFETY: the driver has copied memory that is not page-locked when it returns.
        unsafe { upload(self.stream, from, to) }
    }

    /// Enqueues a copy from page-locked memory.
    ///
    /// # Safety
    /// The memory stays as it is until the copy was waited for.
    pub(super) unsafe fn upload_later(&self, from: &[u8], to: Address) -> Result<()> {
        // SAFETY: the caller keeps the memory.
        unsafe { upload(self.stream, from, to) }
    }

    /// Enqueues a copy to the host.
    ///
    /// # Safety
    /// The memory is used by nothing else until the copy was waited for.
    pub(super) unsafe fn download_later(&self, from: Address, to: &mut [u8]) -> Result<()> {
        // SAFETY: the caller keeps the memory.
        unsafe { result::memcpy_dtoh_async(to, from.0, self.stream) }.map_err(failed("a copy from the GPU"))
    }
}

/// Has whatever is enqueued on a stream from now on wait for an event; at once for one that was never recorded.
fn wait_for(stream: sys::CUstream, event: &Event) -> Result<()> {
    let flags = sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT;
    // SAFETY: stream and event are held until they are dropped.
    unsafe { stream::wait_event(stream, event.handle, flags) }.map_err(failed("cuStreamWaitEvent"))
}

impl Drop for Lane {
    fn drop(&mut self) {
        let _ = self.device.enter();
        // SAFETY: nothing uses the stream after this.
        unsafe {
            let _ = stream::synchronize(self.stream);
            let _ = stream::destroy(self.stream);
        }
    }
}
