//! Long prompts in layers whose experts are not all in device memory: they visit nearly all of them, and copying each once
//! takes less time than computing with them on the CPU.
//!
//! What a layer visits is known when its router has run. Until then the experts that are most likely visited are copied
//! ahead, so that the link works while the layer before and the mixer are computed. Each product reads the weights of an
//! expert once for several of its visits; the outputs of visits are added up in the order of the visits, wherever their
//! experts were.

#![expect(unsafe_code, reason = "copies from memory that is written again after waiting")]

use std::sync::Arc;

use anyhow::{Context as _, Result};

use super::driver::{Address, Device, Function, Param};
use super::hybrid::{Residence, Routed};
use super::input::Tiles;
use super::matrix::{Matrix, Output, Records};
use super::memory::{Arena, Buffer, HostMemory, taken};
use super::module::{File, Modules};
use super::moe::Layer;
use super::page_locks::PageLocks;
use super::ring::{self, Filled, Ring};
use super::saved::Destination;
use super::split::Visit;
use super::tiles::{Tile, Visitors};
use super::{Cuda, threads};
use crate::compute::PassSizes;
use crate::compute::cpu::LEFT_OUT;
use crate::compute::experts::{ExpertParts, Ranking};

/// What sweeps of all layers share.
pub(super) struct Sweep {
    pub ring: Ring,
    lists: Lists,
    /// Of visits, `[visits, hidden]`.
    outputs: Buffer,
    combine: Function,
}

/// What the host tells of visits, in device memory, and page-locked memory in which it is put together.
struct Lists {
    host: HostMemory,
    buffer: Buffer,
    /// Where each begins, in bytes: visits by expert, tiles, places of visits, slots of experts.
    starts: [usize; 4],
    /// Bytes of tiles of the layer so far.
    tiles: usize,
    device: Arc<Device>,
}

#[derive(Clone, Copy)]
enum List {
    Order,
    Tiles,
    Places,
    Slots,
}

/// Experts in a berth.
struct Berthed {
    berth: usize,
    experts: Vec<u32>,
}

/// Bytes where each of [`List`] begins, and of all.
fn list_bytes(sizes: &PassSizes) -> ([usize; 4], usize) {
    let visits = sizes.rows_max * sizes.top_k;
    let mut end = 0;
    let starts = [4 * visits, size_of::<Tile>() * visits, 4 * visits, 4 * sizes.experts].map(|bytes| {
        end += taken(bytes);
        end - taken(bytes)
    });
    (starts, end)
}

/// Bytes of device memory besides the ring.
pub(super) fn bytes(sizes: &PassSizes) -> usize {
    taken(4 * sizes.rows_max * sizes.top_k * sizes.hidden) + taken(list_bytes(sizes).1)
}

/// Bytes of page-locked memory of the host, with a ring of `ring_bytes`.
pub(super) fn locked_bytes(sizes: &PassSizes, ring_bytes: usize) -> usize {
    ring::locked_bytes(ring_bytes) + list_bytes(sizes).1
}

impl Sweep {
    /// For passes of these sizes, with `ring_bytes` of device memory that experts pass through.
    pub(super) fn new(
        device: &Arc<Device>,
        arena: &Arc<Arena>,
        modules: &mut Modules,
        sizes: &PassSizes,
        ring_bytes: usize,
        locks: Arc<PageLocks>,
    ) -> Result<Self> {
        let (starts, bytes) = list_bytes(sizes);
        let lists = Lists {
            host: HostMemory::new(device, bytes)?,
            buffer: arena.take(bytes)?,
            starts,
            tiles: 0,
            device: device.clone(),
        };
        Ok(Self {
            ring: Ring::new(device, arena, ring_bytes, locks)?,
            lists,
            outputs: arena.take(4 * sizes.rows_max * sizes.top_k * sizes.hidden)?,
            combine: modules.function(File::Experts, "combine")?,
        })
    }

    /// Whether a berth holds an expert.
    pub(super) fn holds(&self, records: &Records) -> bool {
        self.ring.capacity(records) > 0
    }
}

impl Lists {
    /// Enqueues bytes of a list, `start` bytes after where it begins; returns where they are.
    fn put<const N: usize>(
        &mut self,
        list: List,
        start: usize,
        bytes: impl Iterator<Item = [u8; N]>,
    ) -> Result<Address> {
        let start = self.starts[list as usize] + start;
        let mut end = start;
        let host = self.host.as_mut_slice();
        for bytes in bytes {
            host[end..end + N].copy_from_slice(&bytes);
            end += N;
        }
        let to = self.buffer.address().plus(start);
        // SAFETY: a layer writes each part once, after waiting for its router, which runs after all copies of the layer
        // before.
        unsafe { self.device.upload_later(&host[start..end], to)? };
        Ok(to)
    }

    /// Enqueues more tiles of the layer.
    fn add(&mut self, tiles: &[Tile]) -> Result<Address> {
        let start = self.tiles;
        self.tiles += size_of_val(tiles);
        self.put(List::Tiles, start, tiles.iter().map(|tile| tile.to_bytes()))
    }
}

impl Cuda {
    /// Adds what routed experts return, for visits that the host does not know of yet.
    pub(super) fn sweep_layer(&mut self, layer: &Layer) -> Result<()> {
        let mut sweep = self.sweep.take().context("a backend without memory for sweeps")?;
        let done = self.sweep_with(&mut sweep, layer);
        self.sweep = Some(sweep);
        done
    }

    fn sweep_with(&mut self, sweep: &mut Sweep, layer: &Layer) -> Result<()> {
        let &Layer { experts, host, parts, top_k, x, .. } = layer;
        let (rows, hidden) = (self.pass.rows, self.sizes.hidden);
        self.save(parts.chosen, 4 * rows * top_k, Destination::Chosen)?;
        self.save(parts.weights, 4 * rows * top_k, Destination::Weights)?;
        let ahead = self.look_ahead(sweep, layer)?;
        self.read()?;
        let Routed { chosen, weights, .. } = std::mem::take(&mut self.pass.routed);
        host.record(Ranking::of_visits(top_k, &chosen));
        let visitors = Visitors::new(&chosen, experts.count());
        let visited: Vec<u32> = visitors.experts().collect();
        let mut residence = self.hybrid()?.plan_sweep(experts.cache(), host, top_k, &chosen, &visited);
        sweep.lists.tiles = 0;
        let order =
            sweep.lists.put(List::Order, 0, visitors.order.iter().map(|visit| visit.to_ne_bytes()))?;
        let group = Group { layer, visitors: &visitors, order };
        if let Some(matrices) = experts.slots() {
            self.compute(sweep, &group, matrices, residence.hits.iter().copied())?;
        }
        let is_ahead = |expert: &u32| ahead.iter().any(|berthed| berthed.experts.contains(expert));
        let mut rest = residence.missing.clone();
        rest.retain(|expert| !is_ahead(expert));
        for berthed in &ahead {
            self.compute_berthed(sweep, &group, berthed, &mut residence)?;
        }
        let mut left = Vec::new();
        let mut rest = rest.into_iter().peekable();
        while rest.peek().is_some() && !self.pass.cancel.is_cancelled() {
            let is_loaded = |expert| match host.stored(expert) {
                Some(stored) => Some((expert, stored)),
                None => {
                    left.push(expert);
                    None
                }
            };
            let capacity = sweep.ring.capacity(layer.records);
            let loaded: Vec<_> = rest.by_ref().filter_map(is_loaded).take(capacity).collect();
            if let Some(berthed) = self.load(sweep, layer.records, loaded)? {
                self.compute_berthed(sweep, &group, &berthed, &mut residence)?;
            }
        }
        if residence.is_changed
            && let Some((cache, slots)) = experts.table()
        {
            // Also where the pass was cancelled: who has lost a slot must not be found there.
            let cache = &self.hybrid()?.caches[cache];
            let slot = |expert| cache.slot(expert).map_or(-1, |slot| slot as i32).to_ne_bytes();
            let table: Vec<_> = (0..experts.count() as u32).map(slot).collect();
            let from = sweep.lists.put(List::Slots, 0, table.into_iter())?;
            self.device.copy(from, slots, 4 * experts.count())?;
        }
        if self.pass.cancel.is_cancelled() {
            self.pass.is_incomplete = true;
            return Ok(());
        }
        let mut places = Address::NULL;
        if !left.is_empty() {
            let place = |expert: &u32| if left.contains(expert) { -1i32 } else { 0 };
            places = sweep.lists.put(List::Places, 0, chosen.iter().map(|e| place(e).to_ne_bytes()))?;
        }
        let params: [&dyn Param; 6] =
            [&sweep.outputs.address(), &parts.weights, &places, &x, &(top_k as i32), &(hidden as i32)];
        let block = threads(hidden);
        self.device.launch(sweep.combine, [hidden.div_ceil(block), rows, 1], block, &params)?;
        if left.is_empty() {
            return Ok(());
        }
        // Those are not in memory: the CPU computes with them as they are read.
        self.save(parts.normed, 4 * rows * hidden, Destination::Normed)?;
        self.read()?;
        let normed = std::mem::take(&mut self.pass.routed.normed);
        let chosen: Vec<u32> =
            chosen.into_iter().map(|expert| if left.contains(&expert) { expert } else { LEFT_OUT }).collect();
        self.visit_on_cpu(host, &Routed { normed, chosen, weights }, parts, x)
    }

    /// Copies experts that the layer is likely to visit, until it is known which it does.
    fn look_ahead(&mut self, sweep: &mut Sweep, layer: &Layer) -> Result<Vec<Berthed>> {
        let &Layer { experts, host, records, top_k, .. } = layer;
        let likely = match experts.cache() {
            Some(cache) => self.hybrid()?.caches[cache].missing(),
            None => (0..experts.count() as u32).collect(),
        };
        let slots = experts.count() - likely.len();
        let visit = Visit { rows: self.pass.rows, top_k, experts: experts.count(), slots };
        let (expected, _) = visit.missing();
        let stored = |expert| Some((expert, host.stored(expert)?));
        let mut likely = likely.into_iter().take(expected as usize).filter_map(stored);
        let mut ahead = Vec::new();
        while ahead.len() < sweep.ring.len() && !self.device.is_idle()? && !self.pass.cancel.is_cancelled() {
            let loaded = likely.by_ref().take(sweep.ring.capacity(records)).collect();
            match self.load(sweep, records, loaded)? {
                Some(berthed) => ahead.push(berthed),
                None => break,
            }
        }
        Ok(ahead)
    }

    /// Enqueues copies of experts to a berth, if there are any.
    fn load(
        &mut self,
        sweep: &mut Sweep,
        records: &Records,
        loaded: Vec<(u32, ExpertParts)>,
    ) -> Result<Option<Berthed>> {
        if loaded.is_empty() {
            return Ok(None);
        }
        let (experts, parts): (Vec<u32>, Vec<ExpertParts>) = loaded.into_iter().unzip();
        let Filled { berth, in_place, timed } = sweep.ring.fill(records, parts, &mut self.cpu)?;
        self.hybrid()?.observe_sweep(experts.len(), in_place, timed);
        Ok(Some(Berthed { berth, experts }))
    }

    /// Computes with the experts of a berth, and copies those to their slots that get one.
    fn compute_berthed(
        &mut self,
        sweep: &mut Sweep,
        group: &Group,
        berthed: &Berthed,
        residence: &mut Residence,
    ) -> Result<()> {
        let start = sweep.ring.arrive(berthed.berth)?;
        let matrices = group.layer.records.at(start);
        let placed = berthed.experts.iter().enumerate().map(|(place, &expert)| (expert, place));
        self.compute(sweep, group, &matrices, placed.clone())?;
        if let Some((resident, cache)) = group.layer.experts.slots().zip(group.layer.experts.cache()) {
            for (expert, place) in placed {
                let Some(insert) = residence.take_insert(expert) else { continue };
                for (from, to) in matrices.iter().zip(resident) {
                    from.copy(&self.device, place, to, insert.slot)?;
                }
                self.hybrid()?.caches[cache].fill(insert);
            }
        }
        sweep.ring.leave(berthed.berth)
    }

    /// Computes the outputs of the visits to experts that are at these places of the matrices.
    fn compute(
        &self,
        sweep: &mut Sweep,
        group: &Group,
        [gate, up, down]: &[Matrix; 3],
        placed: impl Iterator<Item = (u32, usize)>,
    ) -> Result<()> {
        let &Group { layer: Layer { parts, normed, top_k, .. }, visitors, order } = group;
        let tiles = visitors.tiles(placed);
        if tiles.is_empty() {
            return Ok(());
        }
        let tiles = Tiles { tiles: sweep.lists.add(&tiles)?, count: tiles.len(), order };
        let (device, outputs) = (&self.device, Output::to(sweep.outputs.address()));
        gate.group(device, &tiles, *top_k, normed, Output::to(parts.gate))?;
        up.group(device, &tiles, *top_k, normed, Output::to(parts.inner).gated_by(parts.gate))?;
        let inner = self.visits(parts.inner, &parts.packed_inner, &tiles, down.cols())?;
        down.group(device, &tiles, 1, &inner, outputs)
    }
}

/// A layer whose visits are known.
struct Group<'a> {
    layer: &'a Layer<'a>,
    visitors: &'a Visitors,
    /// Visits by expert in device memory.
    order: Address,
}
