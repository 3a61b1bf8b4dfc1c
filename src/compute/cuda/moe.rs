//! Feed-forward blocks: dense ones, and mixtures of experts, which are in device memory, with the CPU, or some of them in
//! slots of the device, see `hybrid`.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, Result};

use super::driver::{Address, Function, Param};
use super::hybrid::{Hybrid, Routed};
use super::input::{Input, Packed};
use super::matrix::{Maker, Matrix, Output, Records, Visits};
use super::memory::Buffer;
use super::module::{File, Modules};
use super::saved::Destination;
use super::workspace::Space;
use super::{Cuda, PACED_ROWS_MIN};
use crate::compute::cpu::{Cpu, LEFT_OUT};
use crate::compute::experts::policy::{LayerCache, Policy};
use crate::compute::experts::{ExpertBytes, ExpertId, ExpertShape, Ranking};
use crate::compute::{Backend, MoeWeights, PassSizes, RoutedWeights, SharedWeights};

/// Threads of the block that writes to memory of the host.
const PUBLISHING_THREADS: usize = 256;

/// Kernels of the operation.
#[derive(Clone, Copy)]
pub(super) struct Kernels {
    route: Function,
    publish: Function,
}

impl Kernels {
    pub(super) fn new(modules: &mut Modules) -> Result<Self> {
        let mut function = |name: &str| modules.function(File::Experts, name);
        Ok(Self { route: function("route")?, publish: function("publish")? })
    }
}

/// The routed experts of one layer.
pub struct Experts {
    count: usize,
    /// Those in device memory.
    resident: Option<Resident>,
    /// All of them, unless all are in device memory.
    host: Option<Host>,
    /// Who records the visits, where all are in device memory.
    recorder: Option<Arc<dyn ExpertBytes>>,
}

/// Experts in memory of the host.
struct Host {
    experts: <Cpu as Backend>::Experts,
    /// How they lie in device memory that they pass through, where there is any.
    records: Option<Records>,
}

/// Experts in device memory.
struct Resident {
    /// Gate, up and down of each slot.
    matrices: [Matrix; 3],
    /// Who is in the slots, where not each expert has its own.
    table: Option<Table>,
}

/// The slots of experts.
struct Table {
    /// Of each expert, negative without; i32.
    slots: Buffer,
    /// The same for the host: the index among the caches.
    cache: usize,
}

/// Bytes of the table of a layer's slots.
pub(super) fn table_bytes(experts: usize) -> usize {
    experts * size_of::<i32>()
}

impl Experts {
    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// Gate, up and down of the slots.
    pub(super) fn slots(&self) -> Option<&[Matrix; 3]> {
        self.resident.as_ref().map(|resident| &resident.matrices)
    }

    /// Which of the caches says who is in the slots.
    pub(super) fn cache(&self) -> Option<usize> {
        self.table().map(|(cache, _)| cache)
    }

    /// Which of the caches says who is in the slots, and where the device finds that.
    pub(super) fn table(&self) -> Option<(usize, Address)> {
        let table = self.resident.as_ref()?.table.as_ref()?;
        Some((table.cache, table.slots.address()))
    }

    /// Experts that stay where they are.
    pub(super) fn on_host(
        cuda: &mut Cuda,
        shape: ExpertShape,
        experts: <Cpu as Backend>::Experts,
    ) -> Result<Self> {
        let host = Host { experts, records: cuda.records(&shape)? };
        Ok(Self { count: shape.experts, resident: None, host: Some(host), recorder: None })
    }

    /// Copies all of them to device memory.
    pub(super) fn on_device(
        maker: &mut Maker,
        modules: &mut Modules,
        layer: usize,
        shape: ExpertShape,
        bytes: &Arc<dyn ExpertBytes>,
    ) -> Result<Self> {
        let count = shape.experts;
        let matrices = slots(maker, modules, &shape, count)?;
        let parts = shape.parts();
        let mut record = Vec::new();
        for expert in 0..count {
            let id = ExpertId { layer: layer as u32, expert: expert as u32 };
            if let Some(resident) = bytes.resident(id) {
                for (matrix, part) in matrices.iter().zip(&resident) {
                    maker.write(matrix, expert, &part.values, &part.scales)?;
                }
            } else {
                record.resize(shape.record_bytes(), 0);
                bytes.fetch(&[id], &mut record).context("the weights of an expert cannot be read")?;
                for (matrix, part) in matrices.iter().zip(&parts) {
                    let of = |range: &std::ops::Range<usize>| &record[range.clone()];
                    maker.write(matrix, expert, of(&part.values), of(&part.scales))?;
                }
            }
        }
        let recorder = bytes.is_recorded().then(|| bytes.clone());
        Ok(Self { count, resident: Some(Resident { matrices, table: None }), host: None, recorder })
    }

    /// Experts on the host of which those that are visited most come to `slots` slots.
    pub(super) fn in_slots(
        cuda: &mut Cuda,
        shape: ExpertShape,
        experts: <Cpu as Backend>::Experts,
        slots: usize,
    ) -> Result<Self> {
        let count = shape.experts;
        let matrices = self::slots(&mut cuda.maker, &mut cuda.modules, &shape, slots)?;
        let table = cuda.arena.take(table_bytes(count))?;
        cuda.device.upload(&vec![-1i32; count], table.address())?;
        let hybrid = cuda.hybrid.as_mut().context(NO_ROUTING)?;
        let cache = hybrid.add(LayerCache::new(Policy::BEST, count, slots), &matrices)?;
        let table = Some(Table { slots: table, cache });
        let host = Host { experts, records: cuda.records(&shape)? };
        Ok(Self { count, resident: Some(Resident { matrices, table }), host: Some(host), recorder: None })
    }
}

/// What a model without routed experts does not have.
pub(super) const NO_ROUTING: &str = "a model without experts was announced";

/// Room for gate, up and down of `count` experts.
fn slots(maker: &mut Maker, modules: &mut Modules, shape: &ExpertShape, count: usize) -> Result<[Matrix; 3]> {
    let [gate, up, down] = shape.matrices.map(|layout| maker.empty(modules, layout, count));
    Ok([gate?, up?, down?])
}

/// The routed experts of a layer, and the rows that visit them.
#[derive(Clone, Copy)]
pub(super) struct Layer<'a> {
    pub experts: &'a Experts,
    pub host: &'a <Cpu as Backend>::Experts,
    pub records: &'a Records,
    pub parts: &'a Parts,
    pub normed: &'a Input,
    pub top_k: usize,
    /// What outputs are added to.
    pub x: Address,
}

/// Workspace of the operation.
pub(super) struct Parts {
    pub normed: Address,
    pub packed_rows: Packed,
    /// `[rows, experts]`
    logits: Address,
    /// `[rows, top_k]`, and the same for the other ones.
    pub chosen: Address,
    pub weights: Address,
    pub slots: Address,
    /// Slots of visits whose experts were copied after the routing.
    late_slots: Address,
    /// Inner activations of visits, or of the shared expert.
    pub gate: Address,
    pub inner: Address,
    pub packed_inner: Packed,
    /// Logits of the shared expert's weight, `[rows]`.
    shared: Address,
    /// What the CPU returns.
    returned: Address,
}

impl Parts {
    fn new(space: &mut Space, sizes: &PassSizes, rows: usize) -> Result<Self> {
        let visits = sizes.top_k.max(1) * rows;
        let inner = (sizes.top_k * rows * sizes.expert_width).max(rows * sizes.dense_width);
        Ok(Self {
            normed: space.words(rows * sizes.hidden)?,
            packed_rows: Packed::new(space, [[rows, sizes.hidden]])?,
            logits: space.words(rows * sizes.experts)?,
            chosen: space.words(visits)?,
            weights: space.words(visits)?,
            slots: space.words(visits)?,
            late_slots: space.words(visits)?,
            gate: space.words(inner)?,
            inner: space.words(inner)?,
            packed_inner: Packed::new(
                space,
                [[sizes.top_k * rows, sizes.expert_width], [rows, sizes.dense_width]],
            )?,
            shared: space.words(rows)?,
            returned: space.words(rows * sizes.hidden)?,
        })
    }
}

/// Bytes of workspace for `rows` rows.
pub(super) fn workspace_bytes(sizes: &PassSizes, rows: usize) -> Result<usize> {
    let mut space = Space::counting();
    Parts::new(&mut space, sizes, rows)?;
    Ok(space.used())
}

impl Cuda {
    pub(super) fn feed_forward(&mut self, weights: &MoeWeights<Self>, x: Address) -> Result<()> {
        let (sizes, rows) = (self.sizes, self.pass.rows);
        let mut space = self.space()?;
        let parts = Parts::new(&mut space, &sizes, rows)?;
        self.norm(x, &weights.norm, parts.normed, rows, sizes.hidden, weights.eps)?;
        let normed = self.input(parts.normed, &parts.packed_rows, rows, sizes.hidden)?;
        let Some(routed) = &weights.routed else { return self.shared(weights, &parts, &normed, rows, x) };
        self.route(routed, &parts, &normed, rows)?;
        let Experts { resident, host, recorder, .. } = &routed.experts;
        if let Some(recorder) = recorder {
            self.save(parts.chosen, 4 * rows * routed.top_k, Destination::Chosen)?;
            self.read()?;
            let Routed { chosen, .. } = std::mem::take(&mut self.pass.routed);
            recorder.routed(Ranking::of_visits(routed.top_k, &chosen));
        }
        if self.pass.is_swept
            && let Some(Host { experts: host, records: Some(records) }) = host
        {
            self.shared(weights, &parts, &normed, rows, x)?;
            let layer = Layer {
                experts: &routed.experts,
                host,
                records,
                parts: &parts,
                normed: &normed,
                top_k: routed.top_k,
                x,
            };
            return self.sweep_layer(&layer);
        }
        let is_sent = host.is_some() && self.send_routing(&parts, rows * routed.top_k)?;
        if let Some(resident) = resident {
            let top_k = routed.top_k;
            match self.grouping(&normed, top_k) {
                Some(grouping) => {
                    self.visit_together(grouping, &resident.matrices, &parts, &normed, top_k, x)?;
                }
                None => self.visit(resident, &Visits { slots: parts.slots, rows, top_k }, &parts, x)?,
            }
        }
        // The device computes with the shared expert, too, while the host learns of the others.
        self.shared(weights, &parts, &normed, rows, x)?;
        let Some(host) = host else { return Ok(()) };
        if is_sent {
            self.device.flush()?;
            self.pass.routed = self.hybrid()?.receive(rows * sizes.hidden, rows * routed.top_k)?;
        }
        self.visit_missing(&routed.experts, &host.experts, routed.top_k, &parts, x)
    }

    /// How experts lie in device memory that they pass through, where one fits in there.
    fn records(&mut self, shape: &ExpertShape) -> Result<Option<Records>> {
        let Some(sweep) = &self.sweep else { return Ok(None) };
        let records = self.maker.records(&mut self.modules, &shape.matrices)?;
        Ok(Some(records).filter(|records| sweep.holds(records)))
    }

    pub(super) fn hybrid(&mut self) -> Result<&mut Hybrid> {
        self.hybrid.as_mut().context(NO_ROUTING)
    }

    fn route(
        &mut self,
        routed: &RoutedWeights<Self>,
        parts: &Parts,
        normed: &Input,
        rows: usize,
    ) -> Result<()> {
        let (device, kernels) = (self.device.clone(), self.moe_kernels()?);
        let experts = &routed.experts;
        let table = experts.resident.as_ref().and_then(|resident| resident.table.as_ref());
        let table = table.map_or(Address::NULL, |table| table.slots.address());
        routed.router.multiply(&device, normed, Output::to(parts.logits), rows)?;
        let params: [&dyn Param; 8] = [
            &parts.logits,
            &table,
            &parts.chosen,
            &parts.slots,
            &parts.weights,
            &(experts.count as i32),
            &(routed.top_k as i32),
            &i32::from(routed.normalize),
        ];
        device.launch(kernels.route, [rows, 1, 1], 32, &params)
    }

    /// Brings the rows and their visits to the host; returns whether that is still to be waited for. Many rows are copied,
    /// and waited for here.
    fn send_routing(&mut self, parts: &Parts, visits: usize) -> Result<bool> {
        let (device, kernels, rows) = (self.device.clone(), self.moe_kernels()?, self.pass.rows);
        let values = rows * self.sizes.hidden;
        let envelope = if rows < PACED_ROWS_MIN { self.hybrid()?.envelope() } else { None };
        let Some(envelope) = envelope else {
            self.save(parts.normed, 4 * values, Destination::Normed)?;
            self.save(parts.chosen, 4 * visits, Destination::Chosen)?;
            self.save(parts.weights, 4 * visits, Destination::Weights)?;
            return self.read().map(|()| false);
        };
        let params: [&dyn Param; 10] = [
            &parts.normed,
            &parts.chosen,
            &parts.weights,
            &envelope.normed,
            &envelope.chosen,
            &envelope.weights,
            &(values as i32),
            &(visits as i32),
            &envelope.flag,
            &envelope.counter,
        ];
        device.launch(kernels.publish, [1, 1, 1], PUBLISHING_THREADS, &params)?;
        Ok(true)
    }

    /// Adds what experts in slots return.
    fn visit(&self, resident: &Resident, visits: &Visits, parts: &Parts, x: Address) -> Result<()> {
        let [gate, up, down] = &resident.matrices;
        gate.visit(&self.device, visits, parts.normed, Output::to(parts.gate))?;
        up.visit(&self.device, visits, parts.normed, Output::to(parts.inner).gated_by(parts.gate))?;
        down.gather(&self.device, visits, parts.weights, parts.inner, x)
    }

    /// Adds what experts return that had no slot, for the visits that have come to the host.
    fn visit_missing(
        &mut self,
        experts: &Experts,
        host: &<Cpu as Backend>::Experts,
        top_k: usize,
        parts: &Parts,
        x: Address,
    ) -> Result<()> {
        let Routed { normed, mut chosen, weights } = std::mem::take(&mut self.pass.routed);
        host.record(Ranking::of_visits(top_k, &chosen));
        match &experts.resident {
            None => host.tell(Ranking::of_visits(top_k, &chosen)),
            Some(resident) => self.copy_missing(resident, host, top_k, &mut chosen, parts, x)?,
        }
        self.visit_on_cpu(host, &Routed { normed, chosen, weights }, parts, x)
    }

    /// Adds what experts return that the CPU computes with: all of the visits that are not left out.
    pub(super) fn visit_on_cpu(
        &mut self,
        host: &<Cpu as Backend>::Experts,
        Routed { normed, chosen, weights }: &Routed,
        parts: &Parts,
        x: Address,
    ) -> Result<()> {
        let mut left: Vec<u32> = chosen.iter().copied().filter(|&expert| expert != LEFT_OUT).collect();
        let visits = left.len();
        if visits == 0 {
            return Ok(());
        }
        left.sort_unstable();
        left.dedup();
        let cancel = self.pass.cancel.clone();
        let started = Instant::now();
        let mut sums = vec![0.0; normed.len()];
        self.cpu.visit(host, chosen, weights, normed, &cancel, &mut sums)?;
        let hybrid = self.hybrid.as_mut().context(NO_ROUTING)?;
        let seconds = started.elapsed().as_secs_f64();
        hybrid.rates.observe_computed(left.len(), visits, hybrid.copies(), seconds);
        hybrid.send_back(&sums, parts.returned)?;
        self.add(x, parts.returned, sums.len())
    }

    /// Copies some of the visited experts that have no slot to one, and adds what they return. Only those that the CPU is to
    /// compute with are left in `chosen`.
    fn copy_missing(
        &mut self,
        resident: &Resident,
        host: &<Cpu as Backend>::Experts,
        top_k: usize,
        chosen: &mut [u32],
        parts: &Parts,
        x: Address,
    ) -> Result<()> {
        let Some(Table { slots, cache }) = &resident.table else { return Ok(()) };
        let hybrid = self.hybrid.as_mut().context(NO_ROUTING)?;
        hybrid.observe_copies()?;
        let copies = hybrid.plan(*cache, host, top_k, chosen);
        let cache = &hybrid.caches[*cache];
        let visited = chosen.to_vec();
        for expert in chosen.iter_mut().filter(|expert| cache.slot(**expert).is_some()) {
            *expert = LEFT_OUT;
        }
        if copies.is_empty() {
            return Ok(());
        }
        let slot = |expert: u32| cache.slot(expert).map_or(-1, |slot| slot as i32);
        let table: Vec<i32> = (0..host.count() as u32).map(slot).collect();
        let is_late = |expert: u32| copies.iter().any(|copy| copy.insert.expert == expert);
        let late: Vec<i32> =
            visited.into_iter().map(|expert| if is_late(expert) { slot(expert) } else { -1 }).collect();
        let tables = [(&late[..], parts.late_slots), (&table[..], slots.address())];
        hybrid.copy(&resident.matrices, copies, tables)?;
        let visits = Visits { slots: parts.late_slots, rows: self.pass.rows, top_k };
        self.visit(resident, &visits, parts, x)
    }

    /// Adds what the expert returns that every row visits, where there is one.
    fn shared(
        &self,
        weights: &MoeWeights<Self>,
        parts: &Parts,
        normed: &Input,
        rows: usize,
        x: Address,
    ) -> Result<()> {
        let Some(SharedWeights { expert, gate }) = &weights.shared else { return Ok(()) };
        let device = &self.device;
        expert.gate.multiply(device, normed, Output::to(parts.gate), rows)?;
        expert.up.multiply(device, normed, Output::to(parts.inner).gated_by(parts.gate), rows)?;
        let mut out = Output::adds_to(x);
        if let Some(gate) = gate {
            gate.multiply(device, normed, Output::to(parts.shared), rows)?;
            out = out.scaled_by(parts.shared);
        }
        let inner = self.input(parts.inner, &parts.packed_inner, rows, expert.down.cols())?;
        expert.down.multiply(device, &inner, out, rows)
    }
}
