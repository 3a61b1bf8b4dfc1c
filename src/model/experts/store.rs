//! Experts in memory of the program, the others on disk.
//!
//! Every layer has as many slots as every other one. A pass says which experts it visits; those without a slot are read
//! with several large reads in flight, and the most useful ones of them stay, see `compute::experts::policy`. While a
//! long prompt is evaluated, the experts of the next layer are read ahead; while nothing is, free slots are filled.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::hint::black_box;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::reserve::{Reserved, reserve};
use super::stored::{ColdExperts, StoredExperts};
use super::tiers::{STAGED_MAX, Tiers};
use super::warm::Remembered;
use crate::base::pool::Pool;
use crate::base::reads::{IN_FLIGHT_MAX, ReadFile, Reader};
use crate::compute::experts::policy::{Insert, LayerCache, Policy};
use crate::compute::experts::{ExpertBytes, ExpertId, ExpertParts, ExpertShape, Part, Ranking};
use crate::format::slots::{SlotMemory, SlotWriter};
use crate::format::{Bytes, Memory};

/// Bytes of one read at most: larger ones are divided, so that several are in flight.
const READ_BYTES_MAX: usize = 1 << 20;
/// Experts that are read ahead together.
const AHEAD: usize = 4;
/// Experts that are read beside passes where there is a smaller copy: in all,
const WANTED_MAX: usize = 32;
/// and of one layer.
const WANTED_OF_LAYER_MAX: usize = 2;
/// The smallest page size of any supported system.
const PAGE_BYTES: usize = 4096;
/// The share of a layer's experts that a pass has to visit for the next layer's to be read ahead.
const AHEAD_SHARE: f64 = 0.5;
/// For how long no pass has asked for experts when free slots are filled.
const IDLE: Duration = Duration::from_millis(100);
/// A read that takes longer is logged.
const STALL: Duration = Duration::from_secs(2);
/// Smallest file whose speed is measured to know how many reads are to be in flight, in bytes.
const MEASURED_BYTES_MIN: u64 = 1 << 30;
/// Reads in flight where it is not measured.
const IN_FLIGHT_DEFAULT: usize = 4;

/// What a store did since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExpertUsage {
    /// Slots of each layer.
    pub slots: usize,
    /// Experts that passes visited, each once for a layer.
    pub visits: u64,
    /// Those that had a slot.
    pub hits: u64,
    /// Those that were read ahead.
    pub ahead: u64,
    /// Those that were computed with in a smaller copy.
    pub cold: u64,
    /// Tokens that were evaluated.
    pub tokens: u64,
    /// Bytes that passes waited for.
    pub fetched_bytes: u64,
    /// Nanoseconds that these reads took.
    pub fetch_ns: u64,
    /// Bytes that were read ahead or into free slots.
    pub background_bytes: u64,
}

impl ExpertUsage {
    /// What it did after `before`.
    pub fn since(&self, before: &Self) -> Self {
        Self {
            slots: self.slots,
            visits: self.visits - before.visits,
            hits: self.hits - before.hits,
            ahead: self.ahead - before.ahead,
            cold: self.cold - before.cold,
            tokens: self.tokens - before.tokens,
            fetched_bytes: self.fetched_bytes - before.fetched_bytes,
            fetch_ns: self.fetch_ns - before.fetch_ns,
            background_bytes: self.background_bytes - before.background_bytes,
        }
    }

    /// Visits whose experts had to be read before they could be computed with.
    pub fn misses(&self) -> u64 {
        self.visits - self.hits - self.ahead - self.cold
    }

    /// Share of the visits that found the expert in its slot.
    pub fn hit_rate(&self) -> f64 {
        self.hits as f64 / (self.visits as f64).max(1.0)
    }

    /// Bytes that a token waited for.
    pub fn bytes_per_token(&self) -> f64 {
        self.fetched_bytes as f64 / (self.tokens as f64).max(1.0)
    }

    /// Bytes per second of the reads that passes waited for.
    pub fn fetch_rate(&self) -> f64 {
        self.fetched_bytes as f64 / (self.fetch_ns as f64 / 1e9).max(1e-9)
    }
}

/// The experts of all layers.
pub struct Store {
    shared: Arc<Shared>,
    background: Option<JoinHandle<()>>,
    remembered: Option<Remembered>,
}

struct Shared {
    /// By layer of the model; none where it has no experts.
    layers: Vec<Option<Layer>>,
    files: Vec<ReadFile>,
    readers: Mutex<Pool>,
    staging: Arc<SlotMemory>,
    staged: Mutex<Staged>,
    background: Mutex<Background>,
    wake: Condvar,
    slots: usize,
    counters: Counters,
}

struct Layer {
    shape: ExpertShape,
    /// Gate, up and down of each expert.
    places: Vec<[Place; 3]>,
    scales: Vec<[Bytes; 3]>,
    /// Where gate, up and down lie in a slot.
    slot_parts: [Range<usize>; 3],
    memory: Arc<SlotMemory>,
    cold: Option<ColdExperts>,
    state: Mutex<LayerState>,
}

struct LayerState {
    cache: LayerCache,
    /// Missing experts that get a slot when they are read: by the pass, or beside it where there is a smaller copy.
    inserts: Vec<Insert>,
    /// Missing experts that the pass has not fetched yet.
    to_fetch: usize,
    /// Whether the next layer is read ahead after that.
    reads_ahead: bool,
}

/// Where a matrix lies.
#[derive(Clone, Copy)]
struct Place {
    file: usize,
    offset: u64,
}

/// Experts that were read ahead, and their slots in the staging memory.
type Staged = HashMap<ExpertId, usize>;

/// What the background thread is to do.
struct Background {
    /// Parts of the smaller copy that are not in memory yet, the last one first.
    cold: Vec<Bytes>,
    /// Experts that were computed with in the smaller copy and are to have a slot, the first one first.
    wanted: VecDeque<(usize, Insert)>,
    /// Read experts of this layer ahead, the last one first.
    ahead: Option<(usize, Vec<u32>)>,
    /// Experts for free slots, the last one first.
    fill: Vec<(usize, u32)>,
    last_visit: Instant,
    is_closed: bool,
}

#[derive(Default)]
struct Counters {
    visits: AtomicU64,
    hits: AtomicU64,
    ahead: AtomicU64,
    cold: AtomicU64,
    tokens: AtomicU64,
    fetched_bytes: AtomicU64,
    fetch_ns: AtomicU64,
    background_bytes: AtomicU64,
}

/// A read on its way.
struct Read<'a> {
    file: &'a ReadFile,
    offset: u64,
    into: &'a mut [u8],
    /// Where the bytes are to be, too.
    copy: Option<&'a mut [u8]>,
}

/// How a store works.
#[derive(Debug)]
pub struct StoreOptions {
    /// Whether files are read past the page cache.
    pub wants_direct: bool,
    /// Whether slots are locked.
    pub wants_lock: bool,
    /// Bytes of memory that are left for what is allocated later, besides the trunk.
    pub others_bytes: u64,
    /// What reads files.
    pub reader: Reader,
    /// Where it is remembered which experts were useful.
    pub remembered: Option<Remembered>,
}

impl Store {
    /// A store of the experts of `layers`, by layer of the model, within `tiers`, or with fewer slots where the system has
    /// less memory. Fails when the experts are not in files, and where there is no memory for two tokens' experts of each
    /// layer.
    pub fn open(layers: Vec<Option<StoredExperts>>, tiers: &Tiers, options: StoreOptions) -> Result<Self> {
        let StoreOptions { wants_direct, wants_lock, others_bytes, reader, remembered } = options;
        let with_experts: Vec<&StoredExperts> = layers.iter().flatten().collect();
        let Reserved { slots, layers: memory, staging } =
            reserve(&with_experts, tiers, others_bytes).with_context(|| {
                let least = Tiers::slots_min(&with_experts.iter().map(|layer| layer.header()).collect::<Vec<_>>());
                format!("the system has no memory for {least} experts of each layer and what every token reads; lower --ram-budget")
            })?;
        let (mut files, mut memory): (Vec<ReadFile>, _) = (Vec::new(), memory.into_iter());
        let mut opened = Vec::with_capacity(layers.len());
        for layer in layers {
            let layer = layer.map(|layer| {
                let memory = memory.next().expect("memory for each layer with experts");
                let open = |path: &Path| ReadFile::open_with(path, wants_direct, reader);
                Layer::open(layer, slots, memory, &mut files, open)
            });
            opened.push(layer.transpose()?);
        }
        let in_flight = in_flight(&files)?;
        let cold = opened.iter().flatten().filter_map(|layer| layer.cold.as_ref());
        let mut cold: Vec<Bytes> =
            cold.flat_map(|cold| cold.parts.iter().flatten().map(|part| part.values.clone())).collect();
        cold.reverse();
        let background = Background {
            cold,
            wanted: VecDeque::new(),
            ahead: None,
            fill: Vec::new(),
            last_visit: Instant::now(),
            is_closed: false,
        };
        let shared = Shared {
            layers: opened,
            files,
            readers: Mutex::new(Pool::new(in_flight)),
            staging,
            staged: Mutex::default(),
            background: Mutex::new(background),
            wake: Condvar::new(),
            slots,
            counters: Counters::default(),
        };
        shared.log(in_flight);
        if wants_lock {
            shared.lock_memory();
        }
        if let Some(remembered) = &remembered {
            shared.remember(&remembered.read());
        }
        shared.plan_filling();
        let shared = Arc::new(shared);
        let own = shared.clone();
        let work = move || own.work();
        let thread = thread::Builder::new().name("fimd-experts".into()).spawn(work);
        let thread = thread.context("cannot start the thread that reads experts ahead")?;
        Ok(Self { shared, background: Some(thread), remembered })
    }

    /// What it did so far.
    pub fn usage(&self) -> ExpertUsage {
        let Counters { visits, hits, ahead, cold, tokens, fetched_bytes, fetch_ns, background_bytes } =
            &self.shared.counters;
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        ExpertUsage {
            slots: self.shared.slots,
            visits: get(visits),
            hits: get(hits),
            ahead: get(ahead),
            cold: get(cold),
            tokens: get(tokens),
            fetched_bytes: get(fetched_bytes),
            fetch_ns: get(fetch_ns),
            background_bytes: get(background_bytes),
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.shared.background().is_closed = true;
        self.shared.wake.notify_all();
        if let Some(thread) = self.background.take() {
            let _ = thread.join();
        }
        if let Some(remembered) = &self.remembered {
            let order = |layer: &Option<Layer>| {
                layer.as_ref().map_or_else(Vec::new, |layer| layer.state().cache.order())
            };
            remembered.write(self.shared.layers.iter().map(order).collect());
        }
    }
}

impl ExpertBytes for Store {
    fn resident(&self, id: ExpertId) -> Option<ExpertParts> {
        let layer = self.shared.layer(id.layer as usize);
        let slot = layer.state().cache.slot(id.expert);
        let bytes = slot.and_then(|slot| layer.memory.read(slot)).or_else(|| self.shared.staged_bytes(id))?;
        let mut scales = layer.scales[id.expert as usize].iter();
        Some(layer.slot_parts.clone().map(|range| Part {
            values: bytes.slice(range),
            scales: scales.next().expect("three matrices").clone(),
        }))
    }

    fn fetch(&self, ids: &[ExpertId], into: &mut [u8]) -> io::Result<()> {
        let Some(first) = ids.first() else { return Ok(()) };
        let started = Instant::now();
        let layer = self.shared.layer(first.layer as usize);
        let record_bytes = layer.shape.record_bytes();
        let mut kept = layer.kept(ids);
        let (mut reads, mut slots) = (Vec::new(), kept.iter_mut().peekable());
        for (id, record) in ids.iter().zip(into.chunks_exact_mut(record_bytes)) {
            let parts = layer.shape.parts();
            for (scales, part) in layer.scales[id.expert as usize].iter().zip(&parts) {
                record[part.scales.clone()].copy_from_slice(scales);
            }
            let slot = slots.next_if(|(insert, _)| insert.expert == id.expert);
            let copy = slot.map(|(_, writer)| &mut **writer);
            self.shared.add_reads(layer, id.expert, parts.map(|part| part.values), record, copy, &mut reads);
        }
        let bytes = self.shared.read(reads)?;
        let inserts: Vec<Insert> = kept.into_iter().map(|(insert, _)| insert).collect();
        let mut state = layer.state();
        for insert in inserts {
            if state.cache.accepts(insert) {
                state.cache.fill(insert);
            }
        }
        state.to_fetch = state.to_fetch.saturating_sub(ids.len());
        let reads_ahead = state.reads_ahead && state.to_fetch == 0;
        drop(state);
        let counters = &self.shared.counters;
        counters.fetched_bytes.fetch_add(bytes, Ordering::Relaxed);
        counters.fetch_ns.fetch_add(started.elapsed().as_nanos() as u64, Ordering::Relaxed);
        if reads_ahead {
            self.shared.read_ahead(first.layer as usize + 1);
        }
        Ok(())
    }

    fn memory(&self, layer: usize) -> Vec<Memory> {
        let Shared { staging, .. } = &*self.shared;
        [&self.shared.layer(layer).memory, staging].map(|slots| Memory::Slots(slots.clone())).into()
    }

    fn cold_shape(&self, layer: usize) -> Option<ExpertShape> {
        Some(self.shared.layer(layer).cold.as_ref()?.shape)
    }

    fn cold(&self, id: ExpertId) -> Option<ExpertParts> {
        self.shared.layer(id.layer as usize).cold.as_ref()?.parts.get(id.expert as usize).cloned()
    }

    fn is_told(&self) -> bool {
        true
    }

    fn visited(&self, layer: usize, ranking: Ranking) {
        match self.shared.layer(layer).cold {
            Some(_) => self.shared.visited_beside_cold(layer, ranking),
            None => self.shared.visited(layer, ranking),
        }
    }
}

impl Layer {
    fn open(
        stored: StoredExperts,
        slots: usize,
        memory: Arc<SlotMemory>,
        files: &mut Vec<ReadFile>,
        open: impl Fn(&Path) -> io::Result<ReadFile>,
    ) -> Result<Self> {
        let StoredExperts { shape, parts, cold, .. } = stored;
        let mut places = Vec::with_capacity(parts.len());
        let mut scales = Vec::with_capacity(parts.len());
        for expert in parts {
            let mut own = [Place { file: 0, offset: 0 }; 3];
            for (own, part) in own.iter_mut().zip(&expert) {
                let (file, offset) = part.values.place().context("the experts are in no file")?;
                let known = files.iter().position(|known| known.path() == file.path());
                let index = known.unwrap_or(files.len());
                if known.is_none() {
                    let describe = || format!("cannot open {}", file.path().display());
                    files.push(open(file.path()).with_context(describe)?);
                    ensure!(files[index].len() == file.len() as u64, "{} was changed", file.path().display());
                }
                *own = Place { file: index, offset };
            }
            places.push(own);
            scales.push(expert.map(|part| part.scales));
        }
        let mut end = 0;
        let slot_parts = shape.parts().map(|part| {
            end += part.values.len();
            end - part.values.len()..end
        });
        let cache = LayerCache::new(Policy::BEST, shape.experts, slots.min(shape.experts));
        let state = LayerState { cache, inserts: Vec::new(), to_fetch: 0, reads_ahead: false };
        Ok(Self { shape, places, scales, slot_parts, memory, cold, state: Mutex::new(state) })
    }

    fn state(&self) -> MutexGuard<'_, LayerState> {
        self.state.lock().expect("nothing panics with this lock")
    }

    /// Those of `ids` that are to have a slot when they are read, in the same order, and the slots.
    fn kept(&self, ids: &[ExpertId]) -> Vec<(Insert, SlotWriter<'_>)> {
        let mut state = self.state();
        let LayerState { cache, inserts, .. } = &mut *state;
        let kept = |id: &ExpertId| {
            let at = inserts.iter().position(|insert| insert.expert == id.expert)?;
            let insert = inserts.swap_remove(at);
            let writer = self.memory.write(insert.slot).filter(|_| cache.accepts(insert))?;
            Some((insert, writer))
        };
        ids.iter().filter_map(kept).collect()
    }

    /// Writes an expert to its slot, unless the slot has been taken or is read.
    fn insert(&self, state: &mut LayerState, insert: Insert, write: impl FnOnce(&mut [u8])) {
        if !state.cache.accepts(insert) {
            return;
        }
        if let Some(mut slot) = self.memory.write(insert.slot) {
            write(&mut slot);
            drop(slot);
            state.cache.fill(insert);
        }
    }
}

impl Shared {
    fn layer(&self, layer: usize) -> &Layer {
        self.layers[layer].as_ref().expect("only layers with experts are asked for")
    }

    fn background(&self) -> MutexGuard<'_, Background> {
        self.background.lock().expect("nothing panics with this lock")
    }

    fn staged(&self) -> MutexGuard<'_, Staged> {
        self.staged.lock().expect("nothing panics with this lock")
    }

    fn staged_bytes(&self, id: ExpertId) -> Option<Bytes> {
        let staged = self.staged();
        self.staging.read(*staged.get(&id)?)
    }

    fn visited(&self, index: usize, ranking: Ranking) {
        let layer = self.layer(index);
        let mut background = self.background();
        background.ahead = None;
        background.last_visit = Instant::now();
        drop(background);

        let distinct: BTreeSet<u32> = ranking.visits().collect();
        let mut staged = self.staged();
        staged.retain(|id, _| id.layer as usize == index);
        let id = |expert| ExpertId { layer: index as u32, expert };
        let mut state = layer.state();
        let is_hit = |&&expert: &&u32| state.cache.slot(expert).is_some();
        let hits = distinct.iter().filter(is_hit).count();
        let is_ahead = |expert: &&u32| !is_hit(expert) && staged.contains_key(&id(**expert));
        let ahead = distinct.iter().filter(is_ahead).count();
        let tokens = ranking.rows().len();
        state.inserts = state.cache.visit(ranking);
        let (kept, read): (Vec<Insert>, _) = std::mem::take(&mut state.inserts)
            .into_iter()
            .partition(|insert| staged.contains_key(&id(insert.expert)));
        state.inserts = read;
        for insert in kept {
            if let Some(bytes) = self.staging.read(staged[&id(insert.expert)]) {
                layer.insert(&mut state, insert, |slot| slot.copy_from_slice(&bytes[..slot.len()]));
            }
        }
        state.to_fetch = distinct.len() - hits - ahead;
        let visited = 1.0 - (1.0 - ranking.top_k as f64 / layer.shape.experts as f64).powf(tokens as f64);
        state.reads_ahead = visited >= AHEAD_SHARE;
        let now = state.reads_ahead && state.to_fetch == 0;
        drop((state, staged));
        if now {
            self.read_ahead(index + 1);
        }
        self.count(index, tokens, distinct.len(), hits);
        self.counters.ahead.fetch_add(ahead as u64, Ordering::Relaxed);
    }

    /// The same where there is a smaller copy: nothing waits for the disk, and some of the missing experts are read beside
    /// the pass.
    fn visited_beside_cold(&self, index: usize, ranking: Ranking) {
        let layer = self.layer(index);
        let distinct: BTreeSet<u32> = ranking.visits().collect();
        let mut background = self.background();
        background.last_visit = Instant::now();
        let mut state = layer.state();
        let hits = distinct.iter().filter(|&&expert| state.cache.slot(expert).is_some()).count();
        // Those before are to have their slots first.
        let room =
            if state.inserts.is_empty() { WANTED_MAX.saturating_sub(background.wanted.len()) } else { 0 };
        let inserts = state.cache.visit_within(room.min(WANTED_OF_LAYER_MAX), ranking);
        background.wanted.extend(inserts.iter().map(|&insert| (index, insert)));
        state.inserts.extend(inserts);
        drop((state, background));
        self.wake.notify_all();
        self.count(index, ranking.rows().len(), distinct.len(), hits);
        self.counters.cold.fetch_add((distinct.len() - hits) as u64, Ordering::Relaxed);
    }

    fn count(&self, index: usize, tokens: usize, visits: usize, hits: usize) {
        let is_first = self.layers.iter().position(Option::is_some) == Some(index);
        let counters = &self.counters;
        counters.visits.fetch_add(visits as u64, Ordering::Relaxed);
        counters.hits.fetch_add(hits as u64, Ordering::Relaxed);
        counters.tokens.fetch_add(if is_first { tokens as u64 } else { 0 }, Ordering::Relaxed);
    }

    /// Adds the reads that bring an expert to `ranges` of `record`, and to a slot: as few as the file allows, none too
    /// large.
    fn add_reads<'a>(
        &'a self,
        layer: &Layer,
        expert: u32,
        ranges: [Range<usize>; 3],
        record: &'a mut [u8],
        mut slot: Option<&'a mut [u8]>,
        reads: &mut Vec<Read<'a>>,
    ) {
        let mut runs: Vec<(Place, Range<usize>)> = Vec::with_capacity(3);
        for (place, range) in layer.places[expert as usize].iter().zip(ranges) {
            let follows = |(first, before): &&mut (Place, Range<usize>)| {
                first.file == place.file
                    && first.offset + before.len() as u64 == place.offset
                    && before.end == range.start
            };
            match runs.last_mut().filter(follows) {
                Some((_, before)) => before.end = range.end,
                None => runs.push((*place, range)),
            }
        }
        let (mut rest, mut at) = (record, 0);
        for (Place { file, mut offset }, range) in runs {
            let (_, later) = std::mem::take(&mut rest).split_at_mut(range.start - at);
            let (mut own, later) = later.split_at_mut(range.len());
            (rest, at) = (later, range.end);
            let pieces = own.len().div_ceil(READ_BYTES_MAX).max(1);
            let piece_bytes = own.len().div_ceil(pieces);
            while !own.is_empty() {
                let len = piece_bytes.min(own.len());
                let (into, later) = own.split_at_mut(len);
                let (copy, later_slot) = slot.map(|slot| slot.split_at_mut(len)).unzip();
                reads.push(Read { file: &self.files[file], offset, into, copy });
                (own, slot, offset) = (later, later_slot, offset + len as u64);
            }
        }
    }

    /// Reads, with several reads in flight; returns how many bytes.
    fn read(&self, reads: Vec<Read>) -> io::Result<u64> {
        self.files.iter().try_for_each(ReadFile::check)?;
        let bytes: usize = reads.iter().map(|read| read.into.len()).sum();
        let failure = Mutex::new(None);
        let reads: Vec<Mutex<Read>> = reads.into_iter().map(Mutex::new).collect();
        let started = Instant::now();
        self.readers.lock().expect("reads do not panic").run(reads.len(), |i| {
            if failure.lock().expect("nothing panics with this lock").is_some() {
                return;
            }
            let read = &mut *reads[i].lock().expect("each read is done once");
            match read.file.read(read.offset, read.into) {
                Ok(()) => {
                    if let Some(copy) = &mut read.copy {
                        copy.copy_from_slice(read.into);
                    }
                }
                Err(error) => *failure.lock().expect("nothing panics with this lock") = Some(error),
            }
        });
        let elapsed = started.elapsed();
        if elapsed > STALL {
            tracing::warn!(
                "reading {:.1} MB of experts took {:.1} s: the disk stalls",
                bytes as f64 / 1e6,
                elapsed.as_secs_f64()
            );
        }
        match failure.into_inner().expect("nothing panics with this lock") {
            Some(error) => Err(error),
            None => Ok(bytes as u64),
        }
    }

    /// Has the experts of the next layer that has some read ahead.
    fn read_ahead(&self, from: usize) {
        let layers = self.layers.iter().enumerate().skip(from);
        let Some((index, layer)) = layers.filter_map(|(i, layer)| Some((i, layer.as_ref()?))).next() else {
            return;
        };
        let mut missing = layer.state().cache.missing();
        missing.truncate(STAGED_MAX);
        missing.reverse();
        self.background().ahead = Some((index, missing));
        self.wake.notify_all();
    }

    /// Free slots are for the experts that were useful before, then for any; of all layers in turn.
    fn plan_filling(&self) {
        let missing = |(index, layer): (usize, &Option<Layer>)| {
            let missing = layer.as_ref().map(|layer| layer.state().cache.missing()).unwrap_or_default();
            missing.into_iter().take(self.slots).enumerate().map(move |(rank, expert)| (rank, index, expert))
        };
        let mut fill: Vec<_> = self.layers.iter().enumerate().flat_map(missing).collect();
        fill.sort_by(|a, b| b.cmp(a));
        self.background().fill = fill.into_iter().map(|(_, layer, expert)| (layer, expert)).collect();
    }

    /// What the background thread does until the store is closed.
    fn work(&self) {
        let started = Instant::now();
        loop {
            let mut background = self.background();
            if background.is_closed {
                return;
            }
            if let Some(part) = background.cold.pop() {
                drop(background);
                black_box(part.iter().step_by(PAGE_BYTES).fold(0, |sum, byte| sum ^ byte));
            } else if !background.wanted.is_empty() {
                let count = AHEAD.min(background.wanted.len());
                let wanted: Vec<(usize, Insert)> = background.wanted.drain(..count).collect();
                drop(background);
                self.promote(&wanted);
            } else if let Some((layer, experts)) = &mut background.ahead {
                let (layer, first) = (*layer, experts.len().saturating_sub(AHEAD));
                let experts = experts.split_off(first);
                if experts.is_empty() {
                    background.ahead = None;
                }
                drop(background);
                self.stage(layer, &experts);
            } else if background.fill.is_empty() {
                drop(self.wake.wait(background));
            } else if let Some(wait) = IDLE.checked_sub(background.last_visit.elapsed()) {
                drop(self.wake.wait_timeout(background, wait));
            } else if let Some((layer, expert)) = background.fill.pop() {
                let is_last = background.fill.is_empty();
                drop(background);
                self.fill(layer, expert);
                if is_last {
                    tracing::info!(
                        "experts fill their memory after {:.1} s",
                        started.elapsed().as_secs_f64()
                    );
                }
            }
        }
    }

    /// Reads experts to the slots they are to have. What cannot be read stays in the smaller copy.
    fn promote(&self, wanted: &[(usize, Insert)]) {
        let writer = |&(index, insert): &(usize, Insert)| {
            let layer = self.layer(index);
            let may = layer.state().cache.accepts(insert);
            let writer = layer.memory.write(insert.slot).filter(|_| may)?;
            Some((layer, insert, writer))
        };
        let mut writers: Vec<_> = wanted.iter().filter_map(writer).collect();
        let mut reads = Vec::new();
        for (layer, insert, writer) in &mut writers {
            self.add_reads(layer, insert.expert, layer.slot_parts.clone(), writer, None, &mut reads);
        }
        let bytes = self.read(reads);
        let written: Vec<_> = writers.into_iter().map(|(layer, insert, _)| (layer, insert)).collect();
        if let Ok(bytes) = bytes {
            self.counters.background_bytes.fetch_add(bytes, Ordering::Relaxed);
            for (layer, insert) in written {
                let mut state = layer.state();
                if state.cache.accepts(insert) {
                    state.cache.fill(insert);
                }
            }
        }
        for (index, insert) in wanted {
            self.layer(*index).state().inserts.retain(|other| other != insert);
        }
    }

    /// Reads experts ahead. What cannot be read is read again when it is needed, and reported then.
    fn stage(&self, index: usize, experts: &[u32]) {
        let layer = self.layer(index);
        let taken: BTreeSet<usize> = self.staged().values().copied().collect();
        let mut free = (0..STAGED_MAX).filter(|slot| !taken.contains(slot));
        let mut writers = Vec::with_capacity(experts.len());
        for &expert in experts {
            let next = free.by_ref().find_map(|slot| Some((slot, self.staging.write(slot)?)));
            writers.extend(next.map(|(slot, writer)| (expert, slot, writer)));
        }
        let mut reads = Vec::new();
        for (expert, _, writer) in &mut writers {
            self.add_reads(layer, *expert, layer.slot_parts.clone(), writer, None, &mut reads);
        }
        let Ok(bytes) = self.read(reads) else { return };
        self.counters.background_bytes.fetch_add(bytes, Ordering::Relaxed);
        let id = |expert| ExpertId { layer: index as u32, expert };
        let slots: Vec<_> = writers.into_iter().map(|(expert, slot, _)| (id(expert), slot)).collect();
        self.staged().extend(slots);
    }

    /// Reads an expert into a free slot of its layer, if there still is one.
    fn fill(&self, index: usize, expert: u32) {
        let layer = self.layer(index);
        if layer.state().cache.free(expert).is_none() {
            return;
        }
        let mut values = vec![0; layer.slot_parts[2].end];
        let mut reads = Vec::new();
        self.add_reads(layer, expert, layer.slot_parts.clone(), &mut values, None, &mut reads);
        let Ok(bytes) = self.read(reads) else { return };
        self.counters.background_bytes.fetch_add(bytes, Ordering::Relaxed);
        let mut state = layer.state();
        if let Some(insert) = state.cache.free(expert) {
            layer.insert(&mut state, insert, |slot| slot.copy_from_slice(&values));
        }
    }

    /// Takes up what was useful before.
    fn remember(&self, orders: &[Vec<u32>]) {
        for (layer, order) in self.layers.iter().zip(orders) {
            if let Some(layer) = layer {
                let is_expert = |&expert: &u32| (expert as usize) < layer.shape.experts;
                let order: Vec<u32> = order.iter().copied().filter(is_expert).collect();
                layer.state().cache.remember(&order);
            }
        }
    }

    /// Keeps slots in memory, as far as the system grants it.
    fn lock_memory(&self) {
        for (granted, layer) in self.layers.iter().flatten().enumerate() {
            if let Err(error) = layer.memory.lock() {
                tracing::warn!(
                    "the system keeps the experts of {granted} layers in memory and refuses more ({error}); they work \
                     without, and `ulimit -l` says how much is allowed"
                );
                return;
            }
        }
    }

    fn log(&self, in_flight: usize) {
        let experts = self.layers.iter().flatten().map(|layer| layer.shape.experts).max().unwrap_or_default();
        let how = match self.files.iter().all(ReadFile::is_direct) {
            true => "past the page cache",
            false => "through the page cache",
        };
        tracing::info!(
            "{} of {experts} experts of each layer fit in memory; the others are {}read {how}, {in_flight} at a time",
            self.slots,
            if self.layers.iter().flatten().any(|layer| layer.cold.is_some()) {
                "there in a smaller copy, and "
            } else {
                ""
            }
        );
    }
}

/// As many reads in flight as the disk needs.
fn in_flight(files: &[ReadFile]) -> Result<usize> {
    match files.iter().max_by_key(|file| file.len()).filter(|file| file.len() >= MEASURED_BYTES_MIN) {
        Some(file) => Ok(file.rate()?.in_flight.clamp(IN_FLIGHT_DEFAULT, IN_FLIGHT_MAX)),
        None => Ok(IN_FLIGHT_DEFAULT),
    }
}
