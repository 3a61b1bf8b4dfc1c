//! Mixture of experts: every visited expert is read once per pass.

#![expect(unsafe_code, reason = "threads write disjoint parts of one buffer")]

use std::io;

use super::context::Context;
use super::experts::Expert;
use super::matmul::{Activations, Matmul, TASK_ROWS, Writer, linear};
use super::record::{self, Recorded, Records};
use super::simd::{Kernel, Simd};
use super::{Cpu, scalar, vector};
use crate::base::Cancel;
use crate::base::pool::Disjoint;
use crate::compute::{MoeWeights, RoutedWeights, SharedWeights};

/// The experts that rows visit, with the weights of their outputs, `[rows, top_k]`.
pub(super) struct Routing {
    pub top_k: usize,
    pub chosen: Vec<(u32, f32)>,
}

/// An expert of a layer and the rows that visit it.
pub(super) struct Visit {
    pub expert: u32,
    /// Rows, and the weight of the expert's output in each.
    pub rows: Vec<u32>,
    pub weights: Vec<f32>,
}

/// An expert where its bytes are, with the rows that go through it.
struct Visited<'a> {
    expert: Expert<'a>,
    rows: &'a [u32],
    weights: &'a [f32],
    /// 0 for routed experts, 1 for the shared one: they may differ in width.
    group: usize,
    /// Which of the visits of its group are its own.
    visits: Vec<u32>,
    /// What its down is called in records.
    down: Recorded,
}

/// `x += experts(inputs)`; `x` is `[rows, hidden]`. Fails when the bytes of an expert cannot be read.
pub(super) fn moe_ffn(
    context: &mut Context,
    weights: &MoeWeights<Cpu>,
    cancel: &Cancel,
    inputs: &Activations,
    x: &mut [f32],
) -> io::Result<()> {
    let mut routed = Vec::new();
    if let Some(weights) = &weights.routed {
        routed = visits(&route(context, weights, inputs), weights.experts.count());
    }
    let ids: Vec<u32> = routed.iter().map(|visit| visit.expert).collect();
    let held = weights.routed.as_ref().map(|weights| weights.experts.hold(&context.scratch, &ids));
    let held = held.transpose()?;
    let shared = weights.shared.as_ref().map(|weights| (weights, shared(context, weights, inputs)));

    let mut visited = Vec::with_capacity(routed.len() + 1);
    let mut first = 0;
    let layer = weights.routed.as_ref().map_or(0, |weights| weights.experts.layer());
    if let Some(records) = &mut context.records {
        record_gates(records, layer, &routed, shared.as_ref().map(|(weights, _)| *weights), inputs);
    }
    for (n, Visit { expert: id, rows, weights }) in routed.iter().enumerate() {
        let expert = held.as_ref().expect("routed experts are held").expert(n);
        let down = Recorded::Expert { layer, expert: *id, is_down: true };
        let visits = (first..first + rows.len() as u32).collect();
        first += rows.len() as u32;
        visited.push(Visited { expert, rows, weights, group: 0, visits, down });
    }
    if let Some((weights, visit)) = &shared {
        let expert = Expert {
            gate: weights.expert.gate.view(),
            up: weights.expert.up.view(),
            down: weights.expert.down.view(),
        };
        let down = Recorded::Matrix(weights.expert.down.name.clone());
        let Visit { rows, weights, .. } = visit;
        visited.push(Visited { expert, rows, weights, group: 1, visits: rows.clone(), down });
    }
    feed_forward(context, cancel, &visited, inputs, x);
    Ok(())
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
    let mut chosen = vec![(0, 0.0); inputs.count() * top_k];
    let (rows, out) = (Disjoint::new(&mut logits), Disjoint::new(&mut chosen));
    let Context { options, pool, .. } = context;
    pool.run(inputs.count(), |row| {
        // SAFETY: this task alone touches its row.
        let (p, out) = unsafe {
            (rows.part(row * experts..(row + 1) * experts), out.part(row * top_k..(row + 1) * top_k))
        };
        options.level.run(Softmax(p));
        let mut order: Vec<usize> = (0..experts).collect();
        order.select_nth_unstable_by(top_k - 1, |&a, &b| p[b].total_cmp(&p[a]).then(a.cmp(&b)));
        let total = if routed.normalize { order[..top_k].iter().map(|&e| p[e]).sum() } else { 1.0 };
        for (out, &expert) in out.iter_mut().zip(&order) {
            *out = (expert as u32, p[expert] / total);
        }
    });
    Routing { top_k, chosen }
}

/// The visited ones of `experts` experts, ascending.
pub(super) fn visits(routing: &Routing, experts: usize) -> Vec<Visit> {
    let visit = |expert| Visit { expert, rows: Vec::new(), weights: Vec::new() };
    let mut all: Vec<Visit> = (0..experts as u32).map(visit).collect();
    for (i, &(expert, weight)) in routing.chosen.iter().enumerate() {
        all[expert as usize].rows.push((i / routing.top_k) as u32);
        all[expert as usize].weights.push(weight);
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

/// Adds the weighted outputs of the experts to the rows that visit them.
fn feed_forward(
    context: &mut Context,
    cancel: &Cancel,
    visited: &[Visited],
    inputs: &Activations,
    x: &mut [f32],
) {
    let Some(Visited { expert: first, .. }) = visited.first() else { return };
    let inner = inner(context, cancel, visited, inputs);
    if let Some(records) = &mut context.records {
        for Visited { visits, group, down, .. } in visited {
            let rows = visits.iter().map(|&row| inner[*group].row(row as usize));
            record::add(records, down.clone(), rows);
        }
    }
    let hidden = first.down.rows();
    let out = Disjoint::new(x);
    let Context { options, pool, .. } = context;
    pool.run(hidden.div_ceil(TASK_ROWS), |task| {
        let rows = task * TASK_ROWS..hidden.min((task + 1) * TASK_ROWS);
        for (i, Visited { expert, rows: into, weights, group, visits, .. }) in visited.iter().enumerate() {
            if cancel.is_cancelled() {
                return;
            }
            let store = &mut |i: usize, row: usize, values: &[f32]| {
                let at = into[i] as usize * hidden + row;
                // SAFETY: each task writes the columns of its own matrix rows.
                let out = unsafe { out.part(at..at + values.len()) };
                for (out, value) in out.iter_mut().zip(values) {
                    *out += weights[i] * value;
                }
            };
            let inputs = &inner[*group];
            let next = match visited.get(i + 1) {
                Some(next) => (next.expert.down, rows.start),
                None => (first.down, rows.end),
            };
            options.level.run(Matmul {
                matrix: expert.down,
                rows: rows.clone(),
                inputs,
                which: visits,
                store,
                next: Some(next),
            });
        }
    });
}

/// `silu(gate n) * up n` of every visit, for each group of experts.
fn inner(
    context: &mut Context,
    cancel: &Cancel,
    visited: &[Visited],
    inputs: &Activations,
) -> [Activations; 2] {
    let Context { options, pool, scratch, .. } = context;
    let mut inner = [0, 1].map(|group| {
        let own = || visited.iter().filter(|visited| visited.group == group);
        let visits = own().map(|visited| visited.rows.len()).sum();
        Activations::new(scratch, visits, own().next().map_or(0, |visited| visited.expert.gate.rows()))
    });
    let mut pieces = Vec::new();
    for visited in visited {
        let width = visited.expert.gate.rows();
        pieces.extend((0..width).step_by(TASK_ROWS).map(|row| (visited, row..width.min(row + TASK_ROWS))));
    }
    let [routed, shared] = &mut inner;
    let writers = [Writer::new(routed), Writer::new(shared)];
    pool.run(pieces.len(), |task| {
        let (Visited { expert, rows, group, visits, .. }, range) = &pieces[task];
        if cancel.is_cancelled() {
            return;
        }
        let width = range.len();
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
            let part = unsafe { writers[*group].part(visits[i] as usize, row..row + values.len()) };
            part.values.copy_from_slice(values);
        });
        for (visit, gate) in visits.iter().zip(gates.chunks_exact(width)) {
            // SAFETY: as above.
            let row = unsafe { writers[*group].part(*visit as usize, range.clone()) };
            options.level.run(MulSilu { x: gate, out: row.values });
            options.level.run(row);
        }
    });
    inner
}

struct Softmax<'a>(&'a mut [f32]);

impl Kernel for Softmax<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        vector::softmax(simd, self.0);
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
