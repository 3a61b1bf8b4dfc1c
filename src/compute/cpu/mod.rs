//! The CPU backend: work is done when an operation returns.
//!
//! `simd` is the vector instructions, `matrix` how weights are unpacked for them, `product` the products
//! that take most of the time. `attention`, `delta` and `moe` are the operations between the projections.

mod attention;
mod delta;
mod matrix;
mod moe;
mod product;
#[cfg(test)]
mod random;
mod scalar;
mod scratch;
mod simd;
mod vector;

use std::ops::Range;

use anyhow::Result;

use super::{
    AttentionShape, AttentionWeights, Backend, Batch, BlockId, DeltaProjection, DeltaShape, DeltaState,
    DeltaWeights, HeadWeights, MoeWeights, StoredMatrix,
};
use crate::base::pool::Pool;
use product::{Inputs, Scratch, add_linear, linear};
use scratch::Buffer;
use simd::{Kernel, Simd};

pub use simd::Level;

/// How the CPU backend computes.
#[derive(Clone, Copy, Debug)]
pub struct CpuOptions {
    /// Threads in all, at least one.
    pub threads: usize,
    /// Epsilon of every norm.
    pub eps: f32,
    /// From how many rows on Gated DeltaNet works in chunks; fewer go token by token.
    pub delta_chunk_rows_min: usize,
    /// The vector instructions to use.
    pub level: Level,
    /// Whether products with weights in blocks of integers convert them to f32, where otherwise the
    /// inputs are rounded to 8 bits: slow, and what the faster way is measured against.
    pub exact: bool,
}

/// Computes on the CPU, reading weights in their stored type.
pub struct Cpu {
    options: CpuOptions,
    pool: Pool,
    scratch: Scratch,
}

/// Activations, `[count, width]`.
pub struct Rows {
    width: usize,
    values: Buffer<f32>,
}

impl Cpu {
    /// A backend with its own threads.
    pub fn new(options: CpuOptions) -> Self {
        Self { pool: Pool::new(options.threads), options, scratch: Scratch::default() }
    }

    fn norm(&mut self, x: &Rows, rows: Range<usize>, weight: &[f32]) -> Inputs {
        let CpuOptions { level, eps, .. } = self.options;
        Inputs::fill(&mut self.pool, &self.scratch, level, rows.len(), x.width, |row, out| {
            let x = &x.values[(rows.start + row) * x.width..][..x.width];
            level.run(Norm { x, weight, eps, out });
        })
    }

    fn linear(&mut self, matrix: &matrix::Matrix, inputs: &Inputs) -> Buffer<f32> {
        linear(&mut self.pool, &self.scratch, self.options.level, matrix, inputs)
    }

    fn add_linear(&mut self, matrix: &matrix::Matrix, inputs: &Inputs, x: &mut Rows) {
        add_linear(&mut self.pool, self.options.level, matrix, inputs, &mut x.values);
    }
}

struct Norm<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    eps: f32,
    out: &'a mut [f32],
}

impl Kernel for Norm<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        vector::rms_norm(simd, self.x, self.weight, self.eps, self.out);
    }
}

impl Rows {
    fn all(&self) -> Range<usize> {
        0..self.values.len() / self.width
    }
}

impl Backend for Cpu {
    type Matrix = matrix::Matrix;
    type Vector = Vec<f32>;
    type Rows = Rows;
    type Kv = attention::Kv;
    type Recurrent = delta::Recurrent;

    fn matrix(&mut self, stored: StoredMatrix) -> Result<Self::Matrix> {
        matrix::Matrix::new(stored, self.options.exact)
    }

    fn vector(&mut self, values: Vec<f32>) -> Result<Self::Vector> {
        Ok(values)
    }

    fn rows(&mut self, rows_max: usize, width: usize) -> Rows {
        Rows { width, values: self.scratch.values.take(rows_max * width) }
    }

    fn kv(&mut self, layers: usize, shape: &AttentionShape, blocks_max: usize) -> Self::Kv {
        attention::Kv::new(layers, shape, blocks_max)
    }

    fn recurrent(&mut self, shape: &DeltaShape) -> Self::Recurrent {
        delta::Recurrent::new(shape)
    }

    fn embed(&mut self, table: &Self::Matrix, tokens: &[u32], x: &mut Rows) {
        x.values.resize(tokens.len() * x.width);
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
        let normed = self.norm(x, x.all(), &weights.norm);
        let query_gate = self.linear(&weights.query_gate, &normed);
        let keys = self.linear(&weights.key, &normed);
        let values = self.linear(&weights.value, &normed);
        let mixed = attention::mix(
            &mut self.pool,
            &self.scratch,
            &self.options,
            weights,
            batch,
            kv,
            layer,
            query_gate,
            keys,
            &values,
        );
        self.add_linear(&weights.output, &mixed, x);
    }

    fn delta(
        &mut self,
        weights: &DeltaWeights<Self>,
        batch: &Batch,
        state: &mut Self::Recurrent,
        x: &mut Rows,
    ) {
        let normed = self.norm(x, x.all(), &weights.norm);
        let (channels, z) = match &weights.projection {
            DeltaProjection::Grouped(matrix) => {
                let qkvz = self.linear(matrix, &normed);
                delta::ungroup(&self.scratch, &weights.shape, &qkvz)
            }
            DeltaProjection::Split { channels, z } => {
                (self.linear(channels, &normed), self.linear(z, &normed))
            }
        };
        let ba = self.linear(&weights.ba, &normed);
        let mixed = delta::mix(
            &mut self.pool,
            &self.scratch,
            &self.options,
            weights,
            batch,
            state,
            &channels,
            &z,
            &ba,
        );
        self.add_linear(&weights.output, &mixed, x);
    }

    fn replay(&mut self, weights: &DeltaWeights<Self>, trace: &[f32], state: &mut Self::Recurrent) {
        delta::replay(&mut self.pool, &self.scratch, &self.options, weights, trace, state);
    }

    fn moe(&mut self, weights: &MoeWeights<Self>, batch: &Batch, x: &mut Rows) {
        let normed = self.norm(x, x.all(), &weights.norm);
        moe::mix(&mut self.pool, &self.scratch, &self.options, weights, batch, &normed, &mut x.values);
    }

    fn head(&mut self, weights: &HeadWeights<Self>, rows: Range<usize>, x: &Rows, logits: &mut Rows) {
        let normed = self.norm(x, rows, &weights.norm);
        logits.values = self.linear(&weights.output, &normed);
    }

    fn commit(&mut self, state: &mut Self::Recurrent) {
        state.commit();
    }

    fn export_marked(&mut self, state: &mut Self::Recurrent) -> Vec<DeltaState> {
        state.take_marked()
    }

    fn export_trace(&mut self, state: &mut Self::Recurrent) -> Vec<f32> {
        state.take_trace()
    }

    fn import_state(&mut self, state: &mut Self::Recurrent, from: Option<&DeltaState>) {
        state.import(from);
    }

    fn block_bytes(&self, kv: &Self::Kv) -> usize {
        kv.block_len() * size_of::<f32>()
    }

    fn copy_block(&mut self, kv: &mut Self::Kv, from: BlockId, to: BlockId) {
        kv.copy(from, to);
    }

    fn free_block(&mut self, kv: &mut Self::Kv, block: BlockId) {
        kv.free(block);
    }

    fn read(&mut self, from: &Rows, rows: Range<usize>, out: &mut Vec<f32>) {
        out.clear();
        out.extend_from_slice(&from.values[rows.start * from.width..rows.end * from.width]);
    }

    fn write(&mut self, values: &[f32], to: &mut Rows) {
        to.values.resize(values.len());
        to.values.copy_from_slice(values);
    }
}
