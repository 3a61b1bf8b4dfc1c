//! Products with matrices in their stored type.

use anyhow::{Result, ensure};

use super::scalar;
use crate::base::pool::{Disjoint, Pool};
use crate::compute::StoredMatrix;
use crate::format::blocks;

/// A matrix in its stored type, `[rows, cols]`.
pub struct Matrix(StoredMatrix);

/// Matrix rows that one task computes: wide enough that a task outweighs its dispatch, narrow enough
/// that a small matrix still feeds every thread.
pub const TASK_ROWS: usize = 32;

/// Matrix rows converted to f32 at a time.
const STRIP: usize = 4;

impl Matrix {
    pub fn new(stored: StoredMatrix) -> Result<Self> {
        let StoredMatrix { rows, cols, values, scale } = &stored;
        let bytes = values.dtype.bytes(*cols).and_then(|row| row.checked_mul(*rows));
        ensure!(bytes == Some(values.bytes.len()), "tensor {} is not [{rows}, {cols}]", values.name);
        if let Some(scale) = scale {
            let blocks = rows.div_ceil(scale.block_rows) * cols.div_ceil(scale.block_cols);
            ensure!(scale.values.len() == blocks, "the scales of {} are not {blocks} values", values.name);
        }
        Ok(Self(stored))
    }

    /// Outputs.
    pub fn rows(&self) -> usize {
        self.0.rows
    }

    /// Inputs.
    pub fn cols(&self) -> usize {
        self.0.cols
    }

    /// Row `row` as f32, scaled.
    pub fn row(&self, row: usize, out: &mut [f32]) {
        let StoredMatrix { rows, cols, values, scale } = &self.0;
        let width = values.bytes.len() / rows;
        blocks::to_f32(values.dtype, &values.bytes[row * width..][..width], out);
        if let Some(scale) = scale {
            let per_row = cols.div_ceil(scale.block_cols);
            let scales = &scale.values[row / scale.block_rows * per_row..][..per_row];
            for (block, scale) in out.chunks_mut(scale.block_cols).zip(scales) {
                for value in block {
                    *value *= scale;
                }
            }
        }
    }

    /// Calls `store(i, r, value)` with `value = row r . x[i]` for every row r of `rows` and every
    /// `x[i]`. A value does not depend on which rows or inputs are computed together.
    pub fn times<'x>(
        &self,
        rows: std::ops::Range<usize>,
        inputs: impl Iterator<Item = &'x [f32]> + Clone,
        mut store: impl FnMut(usize, usize, f32),
    ) {
        let cols = self.cols();
        let mut strip = vec![0.0; STRIP * cols];
        let mut row = rows.start;
        while row < rows.end {
            let count = STRIP.min(rows.end - row);
            for (i, out) in strip.chunks_exact_mut(cols.max(1)).take(count).enumerate() {
                self.row(row + i, out);
            }
            let strips: [&[f32]; STRIP] = std::array::from_fn(|i| &strip[i * cols..][..cols]);
            for (i, x) in inputs.clone().enumerate() {
                let values = scalar::dot4(strips, x);
                for (r, &value) in values[..count].iter().enumerate() {
                    store(i, row + r, value);
                }
            }
            row += count;
        }
    }
}

/// `y[i] = matrix x[i]`: from x `[n, cols]` to y `[n, rows]`.
pub fn linear(pool: &mut Pool, matrix: &Matrix, x: &[f32]) -> Vec<f32> {
    let (rows, cols) = (matrix.rows(), matrix.cols());
    let mut y = vec![0.0; x.len() / cols * rows];
    let parts = Disjoint::new(&mut y);
    pool.run(rows.div_ceil(TASK_ROWS), |task| {
        let own = task * TASK_ROWS..rows.min((task + 1) * TASK_ROWS);
        matrix.times(own, x.chunks_exact(cols), |i, r, value| {
            // SAFETY: this task alone writes the columns of its own rows.
            unsafe { parts.part(i * rows + r..i * rows + r + 1)[0] = value };
        });
    });
    y
}
