//! Experts that both devices have: the GPU in slots, the CPU all of them.
//!
//! The GPU computes with those that have a slot, and tells the host which experts are visited by writing to mapped memory.
//! Of the others some are copied to slots by a second stream, where the GPU computes with them, too, and the CPU computes
//! with the rest meanwhile: as many of each as takes both the same time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::driver::{Address, Device, Event, Lane};
use super::matrix::Matrix;
use super::memory::{Arena, Buffer, HostMemory};
use super::page_locks::PageLocks;
use super::ring::Timed;
use super::split::{COPIED_MAX, Rates};
use crate::compute::cpu::Cpu;
use crate::compute::experts::policy::{Insert, LayerCache};
use crate::compute::experts::{DeviceVisits, ExpertParts, Ranking};
use crate::compute::{Backend, PassSizes};

/// What parts of a message are aligned to, in bytes.
const ALIGNMENT: usize = 64;
/// For how long the host looks for a message without giving way to other threads.
const SPIN: Duration = Duration::from_micros(50);
/// Between two looks whether the device has failed.
const CHECK: Duration = Duration::from_millis(1);

/// What comes to the host for a layer with experts that are not on the device.
#[derive(Default)]
pub(super) struct Routed {
    /// `[rows, hidden]`
    pub normed: Vec<f32>,
    /// `[rows, top_k]`
    pub chosen: Vec<u32>,
    /// `[rows, top_k]`
    pub weights: Vec<f32>,
}

/// An expert that gets a slot.
pub(super) struct Copied {
    pub insert: Insert,
    /// Its bytes.
    parts: ExpertParts,
}

/// Where the experts are that a sweep visits.
pub(super) struct Residence {
    /// Those in slots.
    pub hits: Vec<(u32, usize)>,
    /// Those without, the most useful first.
    pub missing: Vec<u32>,
    /// Those of them that get a slot when they are on the device.
    inserts: Vec<Insert>,
    /// Whether slots have been given or taken.
    pub is_changed: bool,
}

impl Residence {
    /// The slot that an expert gets.
    pub(super) fn take_insert(&mut self, expert: u32) -> Option<Insert> {
        let at = self.inserts.iter().position(|insert| insert.expert == expert)?;
        Some(self.inserts.swap_remove(at))
    }
}

/// What layers with experts on both devices share.
pub(super) struct Hybrid {
    /// By layer with slots.
    pub caches: Vec<LayerCache>,
    pub rates: Rates,
    pub visits: DeviceVisits,
    /// Copies of the last layer whose time is not known yet.
    timed: Option<usize>,
    lane: Lane,
    /// Before and after the copies of a layer.
    begun: Event,
    copied: Event,
    /// Experts on their way to the device, as they are laid out there: what is not copied from where it is.
    ring: HostMemory,
    /// What is copied from where it is.
    sources: Vec<ExpertParts>,
    /// What the CPU returns, `[rows, hidden]`.
    returned: HostMemory,
    mail: Option<Mail>,
    pub locks: Arc<PageLocks>,
    device: Arc<Device>,
}

/// Mapped memory that a kernel writes and the host reads: the number of the message, then its parts.
struct Mail {
    memory: HostMemory,
    /// Where kernels find it.
    address: Address,
    /// Where kernels count messages.
    counter: Buffer,
    /// Where hidden rows, experts and weights begin, in bytes.
    parts: [usize; 3],
    /// Of the last message.
    number: u32,
}

/// Where a kernel writes a message.
pub(super) struct Envelope {
    pub normed: Address,
    pub chosen: Address,
    pub weights: Address,
    pub flag: Address,
    pub counter: Address,
}

impl Hybrid {
    /// For passes of these sizes, and messages of those with at most `rows_max` rows.
    pub(super) fn new(
        device: &Arc<Device>,
        arena: &Arc<Arena>,
        sizes: &PassSizes,
        rows_max: usize,
    ) -> Result<Self> {
        Ok(Self {
            caches: Vec::new(),
            rates: Rates::default(),
            visits: DeviceVisits::default(),
            timed: None,
            lane: Lane::new(device.clone())?,
            begun: Event::new(device)?,
            copied: Event::new(device)?,
            ring: HostMemory::new(device, 0)?,
            sources: Vec::new(),
            returned: HostMemory::new(device, 4 * sizes.rows_max * sizes.hidden)?,
            mail: Mail::new(device, arena, sizes, rows_max)?,
            locks: Arc::new(PageLocks::new(device)),
            device: device.clone(),
        })
    }

    /// Takes up a layer's slots; returns their index.
    pub(super) fn add(&mut self, cache: LayerCache, matrices: &[Matrix; 3]) -> Result<usize> {
        let bytes = COPIED_MAX * record_bytes(matrices);
        if self.ring.as_slice().len() < bytes {
            self.ring = HostMemory::new(&self.device, bytes)?;
        }
        self.caches.push(cache);
        Ok(self.caches.len() - 1)
    }

    /// Where the next message is written; `None` where kernels cannot write to memory of the host.
    pub(super) fn envelope(&mut self) -> Option<Envelope> {
        let Mail { address, counter, parts, number, .. } = self.mail.as_mut()?;
        *number = number.wrapping_add(1);
        let [normed, chosen, weights] = parts.map(|at| address.plus(at));
        Some(Envelope { normed, chosen, weights, flag: *address, counter: counter.address() })
    }

    /// Waits for the message whose envelope was made last: of `values` elements of hidden rows and `visits` visits.
    pub(super) fn receive(&self, values: usize, visits: usize) -> Result<Routed> {
        let mail = self.mail.as_ref().context("no message was sent")?;
        let started = Instant::now();
        let mut checked = started;
        while !mail.is_there() {
            let now = Instant::now();
            if now - checked > CHECK {
                checked = now;
                if self.device.is_idle()? && !mail.is_there() {
                    bail!("the GPU has not said which experts it visits");
                }
            }
            if now - started > SPIN { std::thread::yield_now() } else { std::hint::spin_loop() }
        }
        let [normed, chosen, weights] = mail.parts;
        let bytes = mail.memory.as_slice();
        let words = |at: usize, count: usize| bytes[at..at + 4 * count].as_chunks().0.iter().copied();
        Ok(Routed {
            normed: words(normed, values).map(f32::from_ne_bytes).collect(),
            chosen: words(chosen, visits).map(u32::from_ne_bytes).collect(),
            weights: words(weights, visits).map(f32::from_ne_bytes).collect(),
        })
    }

    /// Records the visits to a layer, `[rows, top_k]`, and says which of the experts without a slot get one: of those in memory
    /// as many as are to be copied.
    pub(super) fn plan(
        &mut self,
        cache: usize,
        host: &<Cpu as Backend>::Experts,
        top_k: usize,
        chosen: &[u32],
    ) -> Vec<Copied> {
        let cache = &mut self.caches[cache];
        cache.record(Ranking::of_visits(top_k, chosen));
        let missing = cache.missing_of(chosen);
        let mut visited = chosen.to_vec();
        visited.sort_unstable();
        visited.dedup();
        self.visits.visits += visited.len() as u64;
        self.visits.hits += (visited.len() - missing.len()) as u64;
        let visits: Vec<u32> =
            chosen.iter().copied().filter(|&expert| cache.slot(expert).is_none()).collect();
        host.tell(Ranking::of_visits(top_k, &visits));
        let count = self.rates.next_copied(missing.len()).min(COPIED_MAX);
        let in_memory: Vec<(u32, ExpertParts)> =
            missing.iter().filter_map(|&expert| Some((expert, host.stored(expert)?))).take(count).collect();
        let experts: Vec<u32> = in_memory.iter().map(|(expert, _)| *expert).collect();
        let inserts = cache.admit(&experts, count, chosen);
        inserts.iter().for_each(|&insert| cache.fill(insert));
        inserts.into_iter().zip(in_memory).map(|(insert, (_, parts))| Copied { insert, parts }).collect()
    }

    /// Records the visits of a sweep, `[rows, top_k]`, to the experts `visited`, and says where these are. Some without a slot
    /// get one: a free one, or of those that are not visited a few.
    pub(super) fn plan_sweep(
        &mut self,
        cache: Option<usize>,
        host: &<Cpu as Backend>::Experts,
        top_k: usize,
        chosen: &[u32],
        visited: &[u32],
    ) -> Residence {
        self.visits.visits += visited.len() as u64;
        let Some(cache) = cache.map(|cache| &mut self.caches[cache]) else {
            host.tell(Ranking::of_visits(top_k, chosen));
            return Residence {
                hits: Vec::new(),
                missing: visited.to_vec(),
                inserts: Vec::new(),
                is_changed: false,
            };
        };
        cache.record(Ranking::of_visits(top_k, chosen));
        let hits: Vec<(u32, usize)> =
            visited.iter().filter_map(|&expert| Some((expert, cache.slot(expert)?))).collect();
        self.visits.hits += hits.len() as u64;
        let missing = cache.missing_of(visited);
        let visits: Vec<u32> =
            chosen.iter().copied().filter(|&expert| cache.slot(expert).is_none()).collect();
        host.tell(Ranking::of_visits(top_k, &visits));
        let in_memory: Vec<u32> =
            missing.iter().copied().filter(|&expert| host.stored(expert).is_some()).collect();
        let inserts = cache.admit(&in_memory, COPIED_MAX, visited);
        let is_changed = !inserts.is_empty();
        Residence { hits, missing, inserts, is_changed }
    }

    /// Counts experts that a sweep copies, and learns from copies whose time is known.
    pub(super) fn observe_sweep(&mut self, count: usize, in_place: usize, timed: Timed) {
        self.visits.streamed += count as u64;
        self.visits.in_place += in_place as u64;
        if let Some((count, seconds)) = timed {
            self.rates.observe_copies(count, seconds);
        }
    }

    /// Enqueues copies of experts to slots, and of what the device is to know of them; what is enqueued on the device
    /// afterwards finds them there.
    pub(super) fn copy(
        &mut self,
        matrices: &[Matrix; 3],
        experts: Vec<Copied>,
        tables: [(&[i32], Address); 2],
    ) -> Result<()> {
        self.lane.record(&self.begun)?;
        let size = record_bytes(matrices);
        for (Copied { insert, parts }, record) in
            experts.iter().zip(self.ring.as_mut_slice().chunks_exact_mut(size))
        {
            let (mut rest, mut are_in_place) = (record, true);
            for (matrix, part) in matrices.iter().zip(parts) {
                let (values, after) = rest.split_at_mut(matrix.value_bytes());
                let (scales, after) = after.split_at_mut(matrix.scale_bytes());
                scales.copy_from_slice(&part.scales);
                let is_in_place = self.locks.allow(matrix, &part.values);
                are_in_place &= is_in_place;
                let values = match is_in_place {
                    true => &*part.values,
                    false => {
                        matrix.lay_out(&part.values, values);
                        values
                    }
                };
                let [to, to_scales] = matrix.places(insert.slot);
                // SAFETY: the record is written again, and the source given back, in a later layer, of whose visits the
                // device tells after these copies.
                #[expect(unsafe_code, reason = "copies from memory that stays as it is")]
                unsafe {
                    self.lane.upload_later(values, to)?;
                    if !scales.is_empty() {
                        self.lane.upload_later(scales, to_scales)?;
                    }
                }
                rest = after;
            }
            self.visits.in_place += u64::from(are_in_place);
        }
        for (table, to) in tables {
            self.lane.upload(table, to)?;
        }
        self.timed = Some(experts.len());
        self.visits.copied += experts.len() as u64;
        self.sources = experts.into_iter().map(|copied| copied.parts).collect();
        self.lane.record(&self.copied)?;
        self.device.wait_for(&self.copied)
    }

    /// Enqueues a copy of what the CPU has computed.
    pub(super) fn send_back(&mut self, sums: &[f32], to: Address) -> Result<()> {
        let bytes = &mut self.returned.as_mut_slice()[..size_of_val(sums)];
        for (out, sum) in bytes.as_chunks_mut().0.iter_mut().zip(sums) {
            *out = sum.to_ne_bytes();
        }
        // SAFETY: it is written again in a later layer, of whose visits the device tells after this copy.
        #[expect(unsafe_code, reason = "a copy from memory that stays as it is")]
        unsafe {
            self.device.upload_later(bytes, to)
        }
    }

    /// Copies of the last layer, as long as it is not known that they are done.
    pub(super) fn copies(&self) -> usize {
        self.timed.unwrap_or_default()
    }

    /// Learns from the copies of the last layer, which are done.
    pub(super) fn observe_copies(&mut self) -> Result<()> {
        if let Some(count) = self.timed
            && let Some(seconds) = self.begun.seconds_to(&self.copied)?
        {
            self.timed = None;
            self.rates.observe_copies(count, seconds);
        }
        Ok(())
    }
}

impl Mail {
    fn new(
        device: &Arc<Device>,
        arena: &Arc<Arena>,
        sizes: &PassSizes,
        rows_max: usize,
    ) -> Result<Option<Self>> {
        let visits = 4 * rows_max * sizes.top_k;
        let mut end = ALIGNMENT;
        let parts = [4 * rows_max * sizes.hidden, visits, visits].map(|bytes| {
            let start = end;
            end = (start + bytes).next_multiple_of(ALIGNMENT);
            start
        });
        let mut memory = HostMemory::new(device, end)?;
        memory.as_mut_slice().fill(0);
        let Some(address) = memory.address()? else { return Ok(None) };
        let counter = arena.take(size_of::<u32>())?;
        device.clear(counter.address(), size_of::<u32>())?;
        Ok(Some(Self { memory, address, counter, parts, number: 0 }))
    }

    /// Whether the message with the last number has been written.
    fn is_there(&self) -> bool {
        let flag = self.memory.as_slice().as_ptr().cast::<u32>().cast_mut();
        // SAFETY: the memory is aligned to pages, lives as long as this, and its first word is written by kernels alone.
        #[expect(unsafe_code, reason = "a word that a kernel writes")]
        let flag = unsafe { AtomicU32::from_ptr(flag) };
        flag.load(Ordering::Acquire) == self.number
    }
}

/// Bytes of page-locked memory that layers with experts on both devices share, besides those of experts on their way.
pub(super) fn locked_bytes(sizes: &PassSizes, rows_max: usize) -> usize {
    4 * sizes.rows_max * sizes.hidden + 4 * rows_max * (sizes.hidden + 2 * sizes.top_k) + 4 * ALIGNMENT
}

/// Bytes of an expert as the device has it.
fn record_bytes(matrices: &[Matrix; 3]) -> usize {
    matrices.iter().map(|matrix| matrix.value_bytes() + matrix.scale_bytes()).sum()
}
