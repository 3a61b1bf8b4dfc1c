//! Device memory that experts pass through: berths that a second stream fills, one after the other.

#![expect(unsafe_code, reason = "copies from memory that is written again after waiting")]

use std::sync::Arc;

use anyhow::{Result, ensure};

use super::driver::{Address, Device, Event, Lane};
use super::matrix::Records;
use super::memory::{Arena, Buffer, HostMemory};
use super::page_locks::PageLocks;
use crate::base::pool::Disjoint;
use crate::compute::cpu::Cpu;
use crate::compute::experts::ExpertParts;

/// Bytes of a berth, unless experts are larger: copying them takes far longer than enqueuing the copy.
const BERTH_BYTES: usize = 16 << 20;
/// Fewest berths: one that is computed with, one that is being filled, and as many on the way.
pub(super) const BERTHS_MIN: usize = 4;
/// Most berths whose contents are in page-locked memory at a time.
const SOURCES_MAX: usize = 4;
/// What berths are aligned to, in bytes.
const ALIGNMENT: usize = 256;

/// The berths, and what is copied to them.
pub(super) struct Ring {
    lane: Lane,
    berths: Vec<Berth>,
    sources: Vec<Source>,
    locks: Arc<PageLocks>,
    berth_bytes: usize,
    /// How often berths were filled: they take turns, and so do sources.
    fills: usize,
    device: Arc<Device>,
    _memory: Buffer,
}

/// Where the contents of a berth are copied from.
struct Source {
    /// Page-locked memory in which they are laid out, but for those that are copied from where they are.
    memory: HostMemory,
    /// The experts.
    held: Vec<ExpertParts>,
}

struct Berth {
    start: Address,
    /// Before and after the copy.
    begun: Event,
    copied: Event,
    /// After the kernels that use what is there.
    used: Event,
    /// Experts of the copy.
    count: usize,
}

/// Copies to a berth that are enqueued.
pub(super) struct Filled {
    pub berth: usize,
    /// Experts of them that are copied from where they are.
    pub in_place: usize,
    /// Copies of earlier.
    pub timed: Timed,
}

/// Copies whose time is known: of how many experts, and how many seconds.
pub(super) type Timed = Option<(usize, f64)>;

/// How many berths a ring of `bytes` has, and the bytes of each.
fn berths(bytes: usize) -> (usize, usize) {
    let count = (bytes / BERTH_BYTES).max(BERTHS_MIN);
    (count, bytes / count / ALIGNMENT * ALIGNMENT)
}

/// Bytes of page-locked memory of the host that a ring of `bytes` takes.
pub(super) fn locked_bytes(bytes: usize) -> usize {
    SOURCES_MAX * berths(bytes).1
}

impl Ring {
    /// A ring of `bytes` of device memory.
    pub(super) fn new(
        device: &Arc<Device>,
        arena: &Arc<Arena>,
        bytes: usize,
        locks: Arc<PageLocks>,
    ) -> Result<Self> {
        let (count, berth_bytes) = berths(bytes);
        ensure!(berth_bytes > 0, "{bytes} bytes of GPU memory are too few for experts to pass through");
        let memory = arena.take(bytes)?;
        let berth = |n| {
            Ok(Berth {
                start: memory.address().plus(n * berth_bytes),
                begun: Event::new(device)?,
                copied: Event::new(device)?,
                used: Event::new(device)?,
                count: 0,
            })
        };
        let berths = (0..count).map(berth).collect::<Result<_>>()?;
        let source = |_| Ok(Source { memory: HostMemory::new(device, berth_bytes)?, held: Vec::new() });
        Ok(Self {
            lane: Lane::new(device.clone())?,
            berths,
            sources: (0..SOURCES_MAX).map(source).collect::<Result<_>>()?,
            locks,
            berth_bytes,
            fills: 0,
            device: device.clone(),
            _memory: memory,
        })
    }

    /// How many berths there are.
    pub(super) fn len(&self) -> usize {
        self.berths.len()
    }

    /// How many records a berth holds.
    pub(super) fn capacity(&self, records: &Records) -> usize {
        self.berth_bytes / records.bytes()
    }

    /// Enqueues copies of experts to the next berth, in this order; waits only where all page-locked memory is on its way.
    pub(super) fn fill(
        &mut self,
        records: &Records,
        experts: Vec<ExpertParts>,
        cpu: &mut Cpu,
    ) -> Result<Filled> {
        let (fill, size) = (self.fills, records.bytes());
        let mut timed = None;
        if let Some(before) = fill.checked_sub(self.sources.len()) {
            let count = self.berths.len();
            let Berth { begun, copied, count, .. } = &mut self.berths[before % count];
            copied.wait()?;
            timed = begun.seconds_to(copied)?.map(|seconds| (std::mem::take(count), seconds));
        }
        let source = fill % self.sources.len();
        let Source { memory, held } = &mut self.sources[source];
        let bytes = &mut memory.as_mut_slice()[..experts.len() * size];
        let is_in_place =
            |task: usize| self.locks.allow(records.matrix(task % 3), &experts[task / 3][task % 3].values);
        let are_in_place: Vec<bool> = (0..3 * experts.len()).map(is_in_place).collect();
        let places = Disjoint::new(bytes);
        cpu.in_parallel(are_in_place.len(), |task| {
            let (expert, n) = (task / 3, task % 3);
            let [values, scales] = records.places(expert, n);
            // SAFETY: each task has the places of its own matrix.
            let (values, scales) = unsafe { (places.part(values), places.part(scales)) };
            if !are_in_place[task] {
                records.matrix(n).lay_out(&experts[expert][n].values, values);
            }
            scales.copy_from_slice(&experts[expert][n].scales);
        });
        let berth = fill % self.berths.len();
        let Berth { start, begun, copied, used, count } = &mut self.berths[berth];
        self.lane.wait_for(used)?;
        self.lane.record(begun)?;
        let in_place = are_in_place.chunks(3).filter(|expert| !expert.contains(&false)).count();
        if are_in_place.contains(&true) {
            for (task, &is_in_place) in are_in_place.iter().enumerate() {
                let [values, scales] = records.places(task / 3, task % 3);
                let own = &experts[task / 3][task % 3].values;
                let laid_out = &bytes[values.clone()];
                let parts =
                    [(if is_in_place { own } else { laid_out }, values), (&bytes[scales.clone()], scales)];
                for (from, at) in parts.into_iter().filter(|(from, _)| !from.is_empty()) {
                    // SAFETY: the source is written again or given back after this copy was waited for, above.
                    unsafe { self.lane.upload_later(from, start.plus(at.start))? };
                }
            }
        } else {
            // SAFETY: as above.
            unsafe { self.lane.upload_later(bytes, *start)? };
        }
        self.lane.record(copied)?;
        *count = experts.len();
        *held = experts;
        self.fills += 1;
        Ok(Filled { berth, in_place, timed })
    }

    /// Has whatever is enqueued on the device from now on find what was copied to a berth; returns where that is.
    pub(super) fn arrive(&self, berth: usize) -> Result<Address> {
        let Berth { start, copied, .. } = &self.berths[berth];
        self.device.wait_for(copied)?;
        Ok(*start)
    }

    /// What is enqueued from now on does not use the berth.
    pub(super) fn leave(&self, berth: usize) -> Result<()> {
        self.device.record(&self.berths[berth].used)
    }
}
