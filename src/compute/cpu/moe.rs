//! Mixture of experts after its router: every visited expert is read once per batch.

use super::linear::{TASK_ROWS, linear};
use super::{Cpu, scalar};
use crate::base::pool::{Disjoint, Pool};
use crate::compute::{Batch, ExpertWeights, MoeWeights};

/// One row that goes through one expert.
#[derive(Clone, Copy)]
pub struct Visit {
    row: usize,
    weight: f32,
}

/// Which rows go through which expert, with what weight; the shared expert comes last.
pub struct Visits(Vec<Vec<Visit>>);

/// Chooses experts for each row of `x`, `[rows, hidden]`.
pub fn route(pool: &mut Pool, weights: &MoeWeights<Cpu>, x: &[f32]) -> Visits {
    let rows = x.len() / weights.shared.gate.cols();
    let mut visits = Vec::new();
    if let Some(routed) = &weights.routed {
        let experts = routed.experts.len();
        visits.resize(experts, Vec::new());
        let mut router = linear(pool, &routed.router, x);
        let mut order: Vec<usize> = Vec::with_capacity(experts);
        for (row, logits) in router.chunks_exact_mut(experts).enumerate() {
            scalar::softmax(logits);
            order.clear();
            order.extend(0..experts);
            order.select_nth_unstable_by(routed.top_k - 1, |&a, &b| {
                logits[b].total_cmp(&logits[a]).then(a.cmp(&b))
            });
            let chosen = &order[..routed.top_k];
            let total = if routed.normalize { chosen.iter().map(|&e| logits[e]).sum() } else { 1.0 };
            for &expert in chosen {
                visits[expert].push(Visit { row, weight: logits[expert] / total });
            }
        }
    }
    let gates = weights.shared_gate.as_ref().map(|gate| linear(pool, gate, x));
    let weight = |row| gates.as_ref().map_or(1.0, |gates: &Vec<f32>| scalar::sigmoid(gates[row]));
    visits.push((0..rows).map(|row| Visit { row, weight: weight(row) }).collect());
    Visits(visits)
}

/// A part of the matrices of one expert and all rows that visit it.
#[derive(Clone, Copy)]
struct Piece<'a> {
    expert: &'a ExpertWeights<Cpu>,
    visits: &'a [Visit],
    /// Where the visits of this expert begin among all visits.
    first_visit: usize,
    /// Where the inner activations of this expert begin.
    inner_at: usize,
    /// First matrix row of this piece.
    row: usize,
}

/// The weighted sum of the experts' outputs, `[rows, hidden]`.
pub fn mix(
    pool: &mut Pool,
    weights: &MoeWeights<Cpu>,
    batch: &Batch,
    visits: &Visits,
    x: &[f32],
) -> Vec<f32> {
    let hidden = weights.shared.gate.cols();
    let input = |visit: &Visit| &x[visit.row * hidden..][..hidden];

    let (mut into, mut out_of) = (Vec::new(), Vec::new());
    let (mut first_visit, mut inner_at) = (0, 0);
    let routed = weights.routed.iter().flat_map(|routed| &routed.experts);
    let experts = routed.chain([&weights.shared]);
    for (expert, visits) in experts.zip(&visits.0).filter(|(_, visits)| !visits.is_empty()) {
        let piece = |row| Piece { expert, visits, first_visit, inner_at, row };
        into.extend((0..expert.gate.rows()).step_by(TASK_ROWS).map(piece));
        out_of.extend((0..hidden).step_by(TASK_ROWS).map(piece));
        first_visit += visits.len();
        inner_at += visits.len() * expert.gate.rows();
    }

    let mut inner = vec![0.0; inner_at];
    let shared = Disjoint::new(&mut inner);
    pool.run(into.len(), |task| {
        let Piece { expert, visits, inner_at, row, .. } = into[task];
        if batch.cancel.is_cancelled() {
            return;
        }
        let width = expert.gate.rows();
        let rows = row..width.min(row + TASK_ROWS);
        let inputs = visits.iter().map(input);
        // SAFETY: this task alone touches its rows' columns of this expert's activations.
        let inner = |i: usize, r: usize| unsafe {
            let at = inner_at + i * width + r;
            &mut shared.part(at..at + 1)[0]
        };
        expert.gate.times(rows.clone(), inputs.clone(), |i, r, gate| *inner(i, r) = scalar::silu(gate));
        expert.up.times(rows, inputs, |i, r, up| *inner(i, r) *= up);
    });

    let mut outputs = vec![0.0; first_visit * hidden];
    let shared = Disjoint::new(&mut outputs);
    pool.run(out_of.len(), |task| {
        let Piece { expert, visits, first_visit, inner_at, row } = out_of[task];
        if batch.cancel.is_cancelled() {
            return;
        }
        let width = expert.gate.rows();
        let inputs = inner[inner_at..][..visits.len() * width].chunks_exact(width);
        expert.down.times(row..hidden.min(row + TASK_ROWS), inputs, |i, r, value| {
            let at = (first_visit + i) * hidden + r;
            // SAFETY: this task alone writes its rows' columns of this expert's outputs.
            unsafe { shared.part(at..at + 1)[0] = visits[i].weight * value };
        });
    });

    let mut mixed = vec![0.0; x.len()];
    for (visit, output) in visits.0.iter().flatten().zip(outputs.chunks_exact(hidden)) {
        scalar::axpy(1.0, output, &mut mixed[visit.row * hidden..][..hidden]);
    }
    mixed
}
