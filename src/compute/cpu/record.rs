//! What matrices are multiplied with: the sums of the squares of each column, for importance matrices.

use std::collections::HashMap;
use std::sync::Arc;

/// A matrix, or matrices that are multiplied with the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Recorded {
    /// The matrix of this stored tensor, or that begins with it.
    Matrix(Arc<str>),
    /// Down, or gate and up, of a routed expert.
    Expert {
        /// Its layer.
        layer: usize,
        /// Its index in the router's output.
        expert: u32,
        /// Which of both.
        is_down: bool,
    },
}

/// How many activations each matrix met, and the sums of the squares of their columns.
pub type Records = HashMap<Recorded, (u64, Vec<f64>)>;

/// Adds rows of activations.
pub(super) fn add<'a>(records: &mut Records, key: Recorded, rows: impl Iterator<Item = &'a [f32]>) {
    let (count, squares) = records.entry(key).or_default();
    for row in rows {
        *count += 1;
        squares.resize(row.len(), 0.0);
        for (square, &x) in squares.iter_mut().zip(row) {
            *square += f64::from(x) * f64::from(x);
        }
    }
}
