//! Mixture of experts: every visited expert is read once per pass.

#![expect(unsafe_code, reason = "threads write disjoint parts of one buffer")]

use std::io;
use std::ops::{ControlFlow, Range};
use std::sync::{Arc, mpsc};
use std::thread;

use super::context::Context;
use super::experts::{self, Expert};
use super::matmul::{Activations, Matmul, TASK_ROWS, Writer, linear, task_rows};
use super::record::{self, Recorded, Records};
use super::scratch::Buffer;
use super::simd::{Kernel, Simd};
use super::{Cpu, scalar, vector};
use crate::base::Cancel;
use crate::base::pool::Disjoint;
use crate::compute::experts::Ranking;
use crate::compute::{MoeWeights, RoutedWeights, SharedWeights};

/// The experts that rows visit, with the weights of their outputs, `[rows, top_k]`.
pub(super) struct Routing {
    pub top_k: usize,
    pub chosen: Vec<(u32, f32)>,
    /// The experts of each row by rank, [`Ranking::depth`] of them; empty where the owner of their bytes is not told.
    pub ranks: Vec<u32>,
}

/// An expert of a layer and the rows that visit it.
pub(super) struct Visit {
    pub expert: u32,
    /// Rows, and the weight of the expert's output in each.
    pub rows: Vec<u32>,
    pub weights: Vec<f32>,
}

/// An expert where its bytes are, with the rows that go through it.
#[derive(Clone, Copy)]
struct Visited<'a> {
    expert: Expert<'a>,
    visit: &'a Visit,
    /// 0 for routed experts, 1 for the shared one: they may differ in width.
    group: usize,
    /// The first of the visits of its group that are its own.
    first: usize,
    /// The tensor of its down, where it is not a routed expert.
    down: Option<&'a Arc<str>>,
}

/// `x += experts(inputs)`; `x` is `[rows, hidden]`. Fails when the bytes of an expert cannot be read.
pub(super) fn moe_ffn(
    context: &mut Context,
    weights: &MoeWeights<Cpu>,
    cancel: &Cancel,
    inputs: &Activations,
    x: &mut [f32],
) -> io::Result<()> {
    let routed = weights.routed.as_ref().map(|weights| {
        let routing = route(context, weights, inputs);
        let visits = visits(&routing, weights.experts.count());
        let ids = visits.iter().map(|visit| visit.expert).collect();
        if weights.experts.is_told() {
            let depth = Ranking::depth(routing.top_k, weights.experts.count());
            let ranking = Ranking::new(routing.top_k, depth, &routing.ranks);
            weights.experts.record(ranking);
            weights.experts.tell(ranking);
        }
        (weights.experts.visit(ids), visits, weights.experts.width())
    });
    let shared_visit = weights.shared.as_ref().map(|weights| (weights, shared(context, weights, inputs)));
    let shared = shared_visit.as_ref().map(|(weights, visit)| {
        let SharedWeights { expert, .. } = weights;
        let expert = Expert { gate: expert.gate.view(), up: expert.up.view(), down: expert.down.view() };
        Visited { expert, visit, group: 1, first: 0, down: Some(&weights.expert.down.name) }
    });
    let layer = weights.routed.as_ref().map_or(0, |weights| weights.experts.layer());
    if let Some(records) = &mut context.records {
        let visits = routed.as_ref().map_or(&[][..], |(_, visits, _)| visits);
        record_gates(records, layer, visits, weights.shared.as_ref(), inputs);
    }
    let mut pass = Block { context, layer, cancel, inputs, x };
    match &routed {
        Some((experts, visits, width)) => pass.routed(experts, visits, *width, shared),
        None => {
            pass.all(&[], 0, shared);
            Ok(())
        }
    }
}

/// `x += experts(inputs)` of routed experts that another device has chosen.
pub(super) fn routed_ffn(
    context: &mut Context,
    experts: &experts::Experts,
    routing: &Routing,
    cancel: &Cancel,
    inputs: &Activations,
    x: &mut [f32],
) -> io::Result<()> {
    let visits = visits(routing, experts.count());
    let visited = experts.visit(visits.iter().map(|visit| visit.expert).collect());
    Block { context, layer: experts.layer(), cancel, inputs, x }.routed(
        &visited,
        &visits,
        experts.width(),
        None,
    )
}

/// What experts compute with.
struct Block<'a> {
    context: &'a mut Context,
    /// The layer of its routed experts.
    layer: usize,
    cancel: &'a Cancel,
    inputs: &'a Activations,
    x: &'a mut [f32],
}

impl Block<'_> {
    /// The outputs of routed experts, ascending, then that of the shared one. Experts that are not in memory are fetched
    /// while others are computed with; sums are the same wherever they are.
    fn routed(
        &mut self,
        experts: &experts::Visited,
        visits: &[Visit],
        width: usize,
        shared: Option<Visited>,
    ) -> io::Result<()> {
        if (0..experts.len()).all(|n| experts.is_resident(n)) {
            let held = experts.held(0..experts.len());
            let mut first = 0;
            let routed = visits.iter().enumerate().map(|(n, visit)| {
                first += visit.rows.len();
                Visited {
                    expert: held.expert(n),
                    visit,
                    group: 0,
                    first: first - visit.rows.len(),
                    down: None,
                }
            });
            self.all(&routed.collect::<Vec<_>>(), width, shared);
            return Ok(());
        }
        let (groups, pool, cancel) = (experts.groups(), self.context.scratch.bytes.clone(), self.cancel);
        thread::scope(|scope| {
            // One group is fetched ahead.
            let (send, receive) = mpsc::sync_channel(0);
            let ahead = groups.clone();
            scope.spawn(move || {
                for group in ahead {
                    let records = experts.fetch(group, &pool);
                    let is_last = records.is_err() || cancel.is_cancelled();
                    if send.send(records).is_err() || is_last {
                        return;
                    }
                }
            });
            for group in &groups {
                let shared = shared.filter(|_| group.end == experts.len());
                if self.group(experts, group.clone(), visits, width, shared, &receive)?.is_break() {
                    break;
                }
            }
            Ok(())
        })
    }

    /// The outputs of a group, whose missing experts are received. Breaks when the pass was cancelled.
    fn group(
        &mut self,
        experts: &experts::Visited,
        group: Range<usize>,
        visits: &[Visit],
        width: usize,
        shared: Option<Visited>,
        receive: &mpsc::Receiver<io::Result<Buffer<u8>>>,
    ) -> io::Result<ControlFlow<()>> {
        let held = experts.held(group.clone());
        let (mut resident, mut missing, mut first) = (Vec::new(), Vec::new(), 0);
        for n in group {
            let visit = &visits[n];
            match experts.is_resident(n) {
                true => resident.push(Visited {
                    expert: held.expert(resident.len()),
                    visit,
                    group: 0,
                    first,
                    down: None,
                }),
                false => missing.push((visit, first)),
            }
            first += visit.rows.len();
        }
        let mut inner = self.workspace(first, width, shared);
        let present: Vec<Visited> = resident.iter().copied().chain(shared).collect();
        self.inner(&present, &mut inner);
        let Ok(records) = receive.recv() else { return Ok(ControlFlow::Break(())) };
        let records = records?;
        let fetched = experts.fetched(&records);
        let missing = missing.iter().enumerate();
        let missing: Vec<Visited> = missing
            .map(|(n, &(visit, first))| Visited {
                expert: fetched.expert(n),
                visit,
                group: 0,
                first,
                down: None,
            })
            .collect();
        self.inner(&missing, &mut inner);
        let mut all = [resident, missing].concat();
        all.sort_by_key(|visited| visited.visit.expert);
        all.extend(shared);
        self.outputs(&all, &inner);
        Ok(ControlFlow::Continue(()))
    }

    /// The outputs of experts that are all in memory.
    fn all(&mut self, routed: &[Visited], width: usize, shared: Option<Visited>) {
        let all: Vec<Visited> = routed.iter().copied().chain(shared).collect();
        let visits = routed.iter().map(|visited| visited.visit.rows.len()).sum();
        let mut inner = self.workspace(visits, width, shared);
        self.inner(&all, &mut inner);
        self.outputs(&all, &inner);
    }

    /// Workspace for the inner activations of `visits` visits to routed experts, and of those to the shared one.
    fn workspace(&self, visits: usize, width: usize, shared: Option<Visited>) -> [Activations; 2] {
        let (rows, shared_width) =
            shared.map_or((0, 0), |shared| (shared.visit.rows.len(), shared.expert.gate.rows()));
        let scratch = &self.context.scratch;
        [Activations::new(scratch, visits, width), Activations::new(scratch, rows, shared_width)]
    }

    /// `silu(gate n) * up n` of the visits to `visited`.
    fn inner(&mut self, visited: &[Visited], inner: &mut [Activations; 2]) {
        let (inputs, cancel) = (self.inputs, self.cancel);
        let Context { options, pool, .. } = &mut *self.context;
        let mut pieces = Vec::new();
        let total = visited.iter().map(|visited| visited.expert.gate.rows()).sum();
        let step = task_rows(total, TASK_ROWS, pool.threads());
        for visited in visited {
            let width = visited.expert.gate.rows();
            pieces.extend(parts(width, step).map(|rows| (visited, rows)));
        }
        let [routed, shared] = inner;
        let writers = [Writer::new(routed), Writer::new(shared)];
        pool.run(pieces.len(), |task| {
            let (Visited { expert, visit, group, first, .. }, range) = &pieces[task];
            if cancel.is_cancelled() {
                return;
            }
            let (rows, width) = (&visit.rows, range.len());
            let mut gates = vec![0.0; rows.len() * width];
            let product = |matrix, next, store: &mut dyn FnMut(usize, usize, &[f32])| {
                options.level.run(Matmul { matrix, rows: range.clone(), inputs, which: rows, store, next });
            };
            product(expert.gate, Some((expert.up, range.start)), &mut |i, row, values| {
                gates[i * width + row - range.start..][..values.len()].copy_from_slice(values);
            });
            let after = pieces.get(task + 1).map(|(visited, range)| (visited.expert.gate, range.start));
            product(expert.up, after, &mut |i, row, values| {
                // SAFETY: this task alone touches these columns of its expert's visits.
                let part = unsafe { writers[*group].part(first + i, row..row + values.len()) };
                part.values.copy_from_slice(values);
            });
            for (visit, gate) in (*first..).zip(gates.chunks_exact(width)) {
                // SAFETY: as above.
                let row = unsafe { writers[*group].part(visit, range.clone()) };
                options.level.run(MulSilu { x: gate, out: row.values });
                options.level.run(row);
            }
        });
    }

    /// Adds the weighted outputs of the experts to the rows that visit them.
    fn outputs(&mut self, all: &[Visited], inner: &[Activations; 2]) {
        let Some(Visited { expert: first_expert, .. }) = all.first() else { return };
        let (hidden, cancel) = (first_expert.down.rows(), self.cancel);
        let visits: Vec<Vec<u32>> = all.iter().map(Visited::visits).collect();
        if let Some(records) = &mut self.context.records {
            for (Visited { visit, group, down, .. }, visits) in all.iter().zip(&visits) {
                let expert = Recorded::Expert { layer: self.layer, expert: visit.expert, is_down: true };
                let key = down.map_or(expert, |name| Recorded::Matrix(name.clone()));
                record::add(records, key, visits.iter().map(|&row| inner[*group].row(row as usize)));
            }
        }
        let Context { options, pool, scratch, .. } = &mut *self.context;
        // What is added to each row, ascending by expert: the number of the visit and its weight.
        let mut terms = vec![Vec::new(); self.x.len() / hidden];
        let (mut pieces, mut count) = (Vec::new(), 0);
        for (Visited { expert, visit, group, .. }, visits) in all.iter().zip(&visits) {
            for (i, (&row, &weight)) in visit.rows.iter().zip(&visit.weights).enumerate() {
                terms[row as usize].push((count + i, weight));
            }
            // Tasks with as many weights as those of `inner`.
            let unit = TASK_ROWS * (hidden / expert.down.cols()).max(1);
            let step = task_rows(all.len() * hidden, unit, pool.threads());
            pieces.extend(parts(hidden, step).map(|rows| (expert.down, &inner[*group], visits, count, rows)));
            count += visits.len();
        }
        let mut outputs = scratch.values.take(count * hidden);
        let out = Disjoint::new(&mut outputs);
        pool.run(pieces.len(), |task| {
            let &(matrix, inputs, which, first, ref rows) = &pieces[task];
            if cancel.is_cancelled() {
                return;
            }
            let store = &mut |i: usize, row: usize, values: &[f32]| {
                let at = (first + i) * hidden + row;
                // SAFETY: this task alone touches these columns of its expert's visits.
                unsafe { out.part(at..at + values.len()) }.copy_from_slice(values);
            };
            let next = pieces.get(task + 1).map(|(matrix, .., rows)| (*matrix, rows.start));
            options.level.run(Matmul { matrix, rows: rows.clone(), inputs, which, store, next });
        });
        let x = Disjoint::new(self.x);
        pool.run(terms.len(), |row| {
            // SAFETY: this task alone touches its row.
            let out = unsafe { x.part(row * hidden..(row + 1) * hidden) };
            options.level.run(AddOutputs { terms: &terms[row], outputs: &outputs, out });
        });
    }
}

/// `0..count` in parts of `size`.
fn parts(count: usize, size: usize) -> impl Iterator<Item = Range<usize>> {
    (0..count).step_by(size).map(move |start| start..count.min(start + size))
}

impl Visited<'_> {
    /// Its visits among those of its group.
    fn visits(&self) -> Vec<u32> {
        let first = self.first as u32;
        (first..first + self.visit.rows.len() as u32).collect()
    }
}

/// Records what gates and ups of the visited experts are multiplied with.
fn record_gates(
    records: &mut Records,
    layer: usize,
    routed: &[Visit],
    shared: Option<&SharedWeights<Cpu>>,
    inputs: &Activations,
) {
    for Visit { expert, rows, .. } in routed {
        let key = Recorded::Expert { layer, expert: *expert, is_down: false };
        record::add(records, key, rows.iter().map(|&row| inputs.row(row as usize)));
    }
    for matrix in shared.iter().flat_map(|shared| [&shared.expert.gate, &shared.expert.up]) {
        let rows = (0..inputs.count()).map(|row| inputs.row(row));
        record::add(records, Recorded::Matrix(matrix.name.clone()), rows);
    }
}

/// The experts of each row with their weights.
pub(super) fn route(context: &mut Context, routed: &RoutedWeights<Cpu>, inputs: &Activations) -> Routing {
    let (experts, top_k) = (routed.experts.count(), routed.top_k);
    let mut logits = linear(context, routed.router.view(), inputs);
    let depth = if routed.experts.is_told() { Ranking::depth(top_k, experts) } else { 0 };
    let (mut chosen, mut ranks) = (vec![(0, 0.0); inputs.count() * top_k], vec![0; inputs.count() * depth]);
    let (rows, out, ranked) =
        (Disjoint::new(&mut logits), Disjoint::new(&mut chosen), Disjoint::new(&mut ranks));
    let Context { options, pool, .. } = context;
    pool.run(inputs.count(), |row| {
        // SAFETY: this task alone touches its row.
        let (p, out, ranked) = unsafe {
            (
                rows.part(row * experts..(row + 1) * experts),
                out.part(row * top_k..(row + 1) * top_k),
                ranked.part(row * depth..(row + 1) * depth),
            )
        };
        options.level.run(Softmax(p));
        let by_rank = |&a: &usize, &b: &usize| p[b].total_cmp(&p[a]).then(a.cmp(&b));
        let mut order: Vec<usize> = (0..experts).collect();
        order.select_nth_unstable_by(top_k - 1, by_rank);
        let total = if routed.normalize { order[..top_k].iter().map(|&e| p[e]).sum() } else { 1.0 };
        for (out, &expert) in out.iter_mut().zip(&order) {
            *out = (expert as u32, p[expert] / total);
        }
        if depth > top_k {
            order[top_k..].select_nth_unstable_by(depth - top_k - 1, by_rank);
        }
        order[..depth].sort_unstable_by(by_rank);
        for (out, &expert) in ranked.iter_mut().zip(&order) {
            *out = expert as u32;
        }
    });
    Routing { top_k, chosen, ranks }
}

/// The visited ones of `experts` experts, ascending; what is none of them is left out.
pub(super) fn visits(routing: &Routing, experts: usize) -> Vec<Visit> {
    let visit = |expert| Visit { expert, rows: Vec::new(), weights: Vec::new() };
    let mut all: Vec<Visit> = (0..experts as u32).map(visit).collect();
    for (i, &(expert, weight)) in routing.chosen.iter().enumerate() {
        let Some(visit) = all.get_mut(expert as usize) else { continue };
        visit.rows.push((i / routing.top_k) as u32);
        visit.weights.push(weight);
    }
    all.retain(|visit| !visit.rows.is_empty());
    all
}

/// The visit of every row to the shared expert.
pub(super) fn shared(context: &mut Context, shared: &SharedWeights<Cpu>, inputs: &Activations) -> Visit {
    let rows = inputs.count();
    let gates = shared.gate.as_ref().map(|gate| linear(context, gate.view(), inputs));
    Visit {
        expert: 0,
        rows: (0..rows as u32).collect(),
        weights: gates.map_or(vec![1.0; rows], |gates| gates.iter().map(|&x| scalar::sigmoid(x)).collect()),
    }
}

struct Softmax<'a>(&'a mut [f32]);

impl Kernel for Softmax<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        vector::softmax(simd, self.0);
    }
}

/// `out += weight outputs[visit]` for each of the terms.
struct AddOutputs<'a> {
    terms: &'a [(usize, f32)],
    /// `[visits, hidden]`
    outputs: &'a [f32],
    out: &'a mut [f32],
}

impl Kernel for AddOutputs<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let hidden = self.out.len();
        for &(visit, weight) in self.terms {
            vector::axpy(simd, weight, &self.outputs[visit * hidden..][..hidden], self.out);
        }
    }
}

struct MulSilu<'a> {
    x: &'a [f32],
    out: &'a mut [f32],
}

impl Kernel for MulSilu<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        vector::mul_silu(simd, self.x, self.out);
    }
}
