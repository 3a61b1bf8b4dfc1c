//! What is nearest: the values of a grid, and the vectors of codebooks.

use std::sync::LazyLock;

use super::{IQ2_VALUES, IQ3_S_VALUES, grids};

/// The values that a scale stretches.
pub(super) trait Grid: Copy {
    /// The grid values nearest to `v`, where errors have weights.
    fn nearest<const N: usize>(self, v: [f32; N], w: &[f32; N]) -> [f32; N];
}

/// A codebook of vectors of E magnitudes, each with any signs.
pub(super) struct Codebook<const E: usize> {
    /// The magnitudes, ascending.
    magnitudes: &'static [u8],
    /// The vectors of its indices.
    vectors: Vec<[f32; E]>,
    /// For each combination of magnitudes the indices of vectors near to it: of its own alone, where it has one.
    near: Vec<Vec<u16>>,
}

pub(super) static IQ2_S: LazyLock<Codebook<8>> = LazyLock::new(|| {
    let number = |entry: u32, i: usize| (entry >> (8 * (i % 4) + 4 * (i / 4)) & 15) as usize;
    Codebook::new(&IQ2_VALUES, &grids::IQ2_S, number)
});

pub(super) static IQ3_S: LazyLock<Codebook<4>> =
    LazyLock::new(|| Codebook::new(&IQ3_S_VALUES, &grids::IQ3_S, |entry, i| entry.to_le_bytes()[i].into()));

/// How many vectors are compared where the best combination of magnitudes has none.
const NEAR: usize = 12;

impl<const E: usize> Codebook<E> {
    fn new(magnitudes: &'static [u8], entries: &[u32], number: impl Fn(u32, usize) -> usize) -> Self {
        let value = |number: usize| f32::from(magnitudes[number]);
        let vector = |&entry: &u32| std::array::from_fn(|i| value(number(entry, i)));
        let vectors: Vec<[f32; E]> = entries.iter().map(vector).collect();
        let near = (0..magnitudes.len().pow(E as u32)).map(|mut code| {
            let combination = std::array::from_fn(|_| {
                let number = code % magnitudes.len();
                code /= magnitudes.len();
                value(number)
            });
            near(&vectors, &combination)
        });
        Self { magnitudes, near: near.collect(), vectors }
    }

    /// Index and signs of the vector nearest to `v`.
    pub(super) fn index(&self, v: &[f32; E], w: &[f32; E]) -> (u16, u8) {
        let mut code = 0;
        for v in v.iter().rev() {
            code = code * self.magnitudes.len() + self.number(v.abs());
        }
        let error = |&index: &u16| -> f32 {
            let vector = &self.vectors[index as usize];
            (0..E).map(|i| w[i] * (v[i].abs() - vector[i]).powi(2)).sum()
        };
        let index = match &self.near[code][..] {
            [own] => *own,
            several => {
                let errors = several.iter().map(|index| (*index, error(index)));
                errors.reduce(|a, b| if b.1 < a.1 { b } else { a }).expect("near vectors").0
            }
        };
        (index, (0..E).fold(0, |signs, i| signs | u8::from(v[i] < 0.0) << i))
    }

    /// The number of the nearest magnitude.
    fn number(&self, v: f32) -> usize {
        let is_beyond = |pair: &[u8]| v > f32::from(pair[0] + pair[1]) / 2.0;
        self.magnitudes.windows(2).filter(|pair| is_beyond(pair)).count()
    }
}

/// The indices of the vectors nearest to a combination of magnitudes.
fn near<const E: usize>(vectors: &[[f32; E]], combination: &[f32; E]) -> Vec<u16> {
    let distance = |vector: &[f32; E]| -> f32 { (0..E).map(|i| (vector[i] - combination[i]).powi(2)).sum() };
    let mut all: Vec<(f32, u16)> = vectors.iter().map(distance).zip(0..).collect();
    all.select_nth_unstable_by(NEAR, |a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    all.truncate(NEAR);
    if let Some(own) = all.iter().find(|(distance, _)| *distance == 0.0) {
        return vec![own.1];
    }
    all.into_iter().map(|(_, index)| index).collect()
}

impl<const E: usize> Grid for &Codebook<E> {
    fn nearest<const N: usize>(self, v: [f32; N], w: &[f32; N]) -> [f32; N] {
        let mut values = [0.0; N];
        let vectors = v.as_chunks::<E>().0.iter().zip(w.as_chunks::<E>().0);
        for ((v, w), out) in vectors.zip(values.as_chunks_mut::<E>().0) {
            let (index, signs) = self.index(v, w);
            let vector = &self.vectors[index as usize];
            *out = std::array::from_fn(|i| if signs >> i & 1 == 1 { -vector[i] } else { vector[i] });
        }
        values
    }
}
