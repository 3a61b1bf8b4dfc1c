//! Mixture of experts: every visited expert is read once per batch.

use super::product::{Inputs, Product, Scratch, TASK_ROWS, Writer, linear};
use super::simd::{Kernel, Simd};
use super::{Cpu, CpuOptions, scalar, vector};
use crate::base::pool::{Disjoint, Pool};
use crate::compute::{Batch, ExpertWeights, MoeWeights, RoutedWeights};

/// An expert with the rows that go through it.
struct Visited<'a> {
    expert: &'a ExpertWeights<Cpu>,
    /// The rows, and the weight of its output in each.
    rows: Vec<u32>,
    weights: Vec<f32>,
    /// 0 for routed experts, 1 for the shared one: they may differ in width.
    group: usize,
    /// Which of the visits of its group are its own.
    visits: Vec<u32>,
}

/// `x += experts(inputs)`; `x` is `[rows, hidden]`.
pub fn mix(
    pool: &mut Pool,
    scratch: &Scratch,
    options: &CpuOptions,
    weights: &MoeWeights<Cpu>,
    batch: &Batch,
    inputs: &Inputs,
    x: &mut [f32],
) {
    let visited = visited(pool, scratch, options, weights, inputs);
    let inner = inner(pool, scratch, options, batch, &visited, inputs);

    let hidden = weights.shared.down.rows();
    let out = Disjoint::new(x);
    pool.run(hidden.div_ceil(TASK_ROWS), |task| {
        let rows = task * TASK_ROWS..hidden.min((task + 1) * TASK_ROWS);
        for (i, Visited { expert, rows: into, weights, group, visits }) in visited.iter().enumerate() {
            if batch.cancel.is_cancelled() {
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
                Some(next) => (&next.expert.down, rows.start),
                None => (&visited[0].expert.down, rows.end),
            };
            options.level.run(Product {
                matrix: &expert.down,
                rows: rows.clone(),
                inputs,
                which: visits,
                store,
                next: Some(next),
            });
        }
    });
}

/// The experts that some row visits, in order, the shared one last.
fn visited<'a>(
    pool: &mut Pool,
    scratch: &Scratch,
    options: &CpuOptions,
    weights: &'a MoeWeights<Cpu>,
    inputs: &Inputs,
) -> Vec<Visited<'a>> {
    let rows = inputs.count();
    let mut all = Vec::new();
    if let Some(routed) = &weights.routed {
        let visit = |expert| Visited { expert, rows: vec![], weights: vec![], group: 0, visits: vec![] };
        all.extend(routed.experts.iter().map(visit));
        for (i, (expert, weight)) in route(pool, scratch, options, routed, inputs).into_iter().enumerate() {
            all[expert].rows.push((i / routed.top_k) as u32);
            all[expert].weights.push(weight);
        }
        all.retain(|visited| !visited.rows.is_empty());
        let mut first = 0;
        for visited in &mut all {
            visited.visits = (first..first + visited.rows.len() as u32).collect();
            first += visited.rows.len() as u32;
        }
    }
    let gates = weights.shared_gate.as_ref().map(|gate| linear(pool, scratch, options.level, gate, inputs));
    let every: Vec<u32> = (0..rows as u32).collect();
    all.push(Visited {
        expert: &weights.shared,
        rows: every.clone(),
        weights: gates.map_or(vec![1.0; rows], |gates| gates.iter().map(|&x| scalar::sigmoid(x)).collect()),
        group: 1,
        visits: every,
    });
    all
}

/// The experts of each row with their weights, `top_k` for each row.
fn route(
    pool: &mut Pool,
    scratch: &Scratch,
    options: &CpuOptions,
    routed: &RoutedWeights<Cpu>,
    inputs: &Inputs,
) -> Vec<(usize, f32)> {
    let (experts, top_k) = (routed.experts.len(), routed.top_k);
    let mut logits = linear(pool, scratch, options.level, &routed.router, inputs);
    let mut chosen = vec![(0, 0.0); inputs.count() * top_k];
    let (rows, out) = (Disjoint::new(&mut logits), Disjoint::new(&mut chosen));
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
            *out = (expert, p[expert] / total);
        }
    });
    chosen
}

struct Softmax<'a>(&'a mut [f32]);

impl Kernel for Softmax<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        vector::softmax(simd, self.0);
    }
}

/// `silu(gate n) * up n` of every visit, for each group of experts.
fn inner(
    pool: &mut Pool,
    scratch: &Scratch,
    options: &CpuOptions,
    batch: &Batch,
    visited: &[Visited],
    inputs: &Inputs,
) -> [Inputs; 2] {
    let mut inner = [0, 1].map(|group| {
        let own = || visited.iter().filter(|visited| visited.group == group);
        let visits = own().map(|visited| visited.rows.len()).sum();
        Inputs::new(scratch, visits, own().next().map_or(0, |visited| visited.expert.gate.rows()))
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
        if batch.cancel.is_cancelled() {
            return;
        }
        let width = range.len();
        let mut gates = vec![0.0; rows.len() * width];
        let product = |matrix, next, store: &mut dyn FnMut(usize, usize, &[f32])| {
            options.level.run(Product { matrix, rows: range.clone(), inputs, which: rows, store, next });
        };
        product(&expert.gate, Some((&expert.up, range.start)), &mut |i, row, values| {
            gates[i * width + row - range.start..][..values.len()].copy_from_slice(values);
        });
        let after = pieces.get(task + 1).map(|(visited, range)| (&visited.expert.gate, range.start));
        product(&expert.up, after, &mut |i, row, values| {
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
