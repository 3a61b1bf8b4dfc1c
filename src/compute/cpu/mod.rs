//! The CPU backend: work is done when an operation returns.

mod attention;
mod delta;
mod linear;
mod moe;
mod scalar;

use std::ops::Range;

use anyhow::Result;

use super::{
    AttentionShape, AttentionWeights, Backend, Batch, DeltaProjection, DeltaShape, DeltaState, DeltaWeights,
    HeadWeights, MoeWeights, StoredMatrix,
};
use crate::base::pool::{Disjoint, Pool};
use linear::linear;

/// How the CPU backend computes.
#[derive(Clone, Copy, Debug)]
pub struct CpuOptions {
    /// Threads in all, at least one.
    pub threads: usize,
    /// Epsilon of every norm.
    pub eps: f32,
    /// From how many rows on Gated DeltaNet works in chunks; fewer go token by token.
    pub delta_chunk_rows_min: usize,
}

/// Computes on the CPU, in f32, reading weights in their stored type.
pub struct Cpu {
    options: CpuOptions,
    pool: Pool,
}

/// Activations, `[count, width]`.
pub struct Rows {
    width: usize,
    values: Vec<f32>,
}

impl Cpu {
    /// A backend with its own threads.
    pub fn new(options: CpuOptions) -> Self {
        Self { pool: Pool::new(options.threads), options }
    }

    fn norm(&mut self, x: &Rows, weight: &[f32]) -> Vec<f32> {
        let mut normed = vec![0.0; x.values.len()];
        for (out, x) in normed.chunks_exact_mut(x.width).zip(x.values.chunks_exact(x.width)) {
            scalar::rms_norm(x, weight, self.options.eps, out);
        }
        normed
    }
}

fn add(x: &mut Rows, y: &[f32]) {
    for (x, y) in x.values.iter_mut().zip(y) {
        *x += y;
    }
}

impl Backend for Cpu {
    type Matrix = linear::Matrix;
    type Vector = Vec<f32>;
    type Rows = Rows;
    type Kv = attention::Kv;
    type Recurrent = delta::Recurrent;

    fn matrix(&mut self, stored: StoredMatrix) -> Result<Self::Matrix> {
        linear::Matrix::new(stored)
    }

    fn vector(&mut self, values: Vec<f32>) -> Result<Self::Vector> {
        Ok(values)
    }

    fn rows(&mut self, rows_max: usize, width: usize) -> Rows {
        Rows { width, values: Vec::with_capacity(rows_max * width) }
    }

    fn kv(&mut self, layers: usize, shape: &AttentionShape, blocks_max: usize) -> Self::Kv {
        attention::Kv::new(layers, shape, blocks_max)
    }

    fn recurrent(&mut self, shape: &DeltaShape) -> Self::Recurrent {
        delta::Recurrent::new(shape)
    }

    fn embed(&mut self, table: &Self::Matrix, tokens: &[u32], x: &mut Rows) {
        x.values.resize(tokens.len() * x.width, 0.0);
        for (out, &token) in x.values.chunks_exact_mut(x.width).zip(tokens) {
            table.row(token as usize, out);
        }
    }

    fn attention(
        &mut self,
        weights: &AttentionWeights<Self>,
        batch: &Batch,
        kv: &mut Self::Kv,
        layer: usize,
        x: &mut Rows,
    ) {
        let normed = self.norm(x, &weights.norm);
        let query_gate = linear(&mut self.pool, &weights.query_gate, &normed);
        let keys = linear(&mut self.pool, &weights.key, &normed);
        let values = linear(&mut self.pool, &weights.value, &normed);
        let mixed = attention::mix(
            &mut self.pool,
            &self.options,
            weights,
            batch,
            kv,
            layer,
            query_gate,
            keys,
            &values,
        );
        add(x, &linear(&mut self.pool, &weights.output, &mixed));
    }

    fn delta(
        &mut self,
        weights: &DeltaWeights<Self>,
        batch: &Batch,
        state: &mut Self::Recurrent,
        x: &mut Rows,
    ) {
        let normed = self.norm(x, &weights.norm);
        let (channels, z) = match &weights.projection {
            DeltaProjection::Grouped(matrix) => {
                delta::ungroup(&weights.shape, &linear(&mut self.pool, matrix, &normed))
            }
            DeltaProjection::Split { channels, z } => {
                (linear(&mut self.pool, channels, &normed), linear(&mut self.pool, z, &normed))
            }
        };
        let ba = linear(&mut self.pool, &weights.ba, &normed);
        let mixed = delta::mix(&mut self.pool, &self.options, weights, batch, state, &channels, &z, &ba);
        add(x, &linear(&mut self.pool, &weights.output, &mixed));
    }

    fn moe(&mut self, weights: &MoeWeights<Self>, batch: &Batch, x: &mut Rows) {
        let normed = self.norm(x, &weights.norm);
        let visits = moe::route(&mut self.pool, weights, &normed);
        add(x, &moe::mix(&mut self.pool, weights, batch, &visits, &normed));
    }

    fn head(&mut self, weights: &HeadWeights<Self>, rows: Range<usize>, x: &Rows, logits: &mut Rows) {
        let chosen =
            Rows { width: x.width, values: x.values[rows.start * x.width..rows.end * x.width].to_vec() };
        let normed = self.norm(&chosen, &weights.norm);
        logits.values = linear(&mut self.pool, &weights.output, &normed);
    }

    fn commit(&mut self, state: &mut Self::Recurrent) {
        state.commit();
    }

    fn export_state(&mut self, state: &Self::Recurrent) -> DeltaState {
        state.committed().clone()
    }

    fn import_state(&mut self, state: &mut Self::Recurrent, from: &DeltaState) {
        state.import(from);
    }

    fn read(&mut self, rows: &Rows, out: &mut Vec<f32>) {
        out.clear();
        out.extend_from_slice(&rows.values);
    }
}

/// Runs `body(row, out_row)` for every row of `out`, shared among the threads.
fn for_each_row(pool: &mut Pool, out: &mut [f32], width: usize, body: impl Fn(usize, &mut [f32]) + Sync) {
    let rows = out.len() / width.max(1);
    let out = Disjoint::new(out);
    // SAFETY: each task takes its own row.
    pool.run(rows, |row| body(row, unsafe { out.part(row * width..(row + 1) * width) }));
}
