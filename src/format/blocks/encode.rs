//! Quantises f32 to blocks, with the least squared error that a short search finds.
//!
//! In every format an element is a scale times a value of a small grid, in some minus a minimum. For given grid
//! values the best scale is a linear least-squares fit; for a given scale the best grid values are the nearest.
//! So each block tries several scales, takes the nearest grid values, fits, and keeps the fit with the least
//! error. Scales that are themselves stored as small integers are then chosen among the neighbours of the fit
//! by the error that really results.

use half::{bf16, f16};

use super::{E2M1_DOUBLED, IQ4_VALUES, e8m0_halved};
use crate::base::dtype::DType;

/// A value that a type cannot hold: NaN, infinite, or too large.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ineligible(pub f32);

/// Quantises f32. `out` holds exactly `values.len()` elements, a multiple of the block length.
/// Fails with the first value that `dtype` cannot hold; `out` is then left in any state.
///
/// Panics for [`DType::F8E4M3`], which fimd only reads.
pub fn from_f32(dtype: DType, values: &[f32], out: &mut [u8]) -> Result<(), Ineligible> {
    assert_eq!(Some(out.len()), dtype.bytes(values.len()));
    let limit = limit(dtype);
    let fits = |value: f32| value.abs() <= limit;
    if let Some(&value) = values.iter().find(|&&value| !fits(value)) {
        return Err(Ineligible(value));
    }
    match dtype {
        DType::F32 => each(values, out, |&[value]: &[f32; 1], out| *out = value.to_le_bytes()),
        DType::F16 => each(values, out, |&[value]: &[f32; 1], out| *out = f16::from_f32(value).to_le_bytes()),
        DType::BF16 => {
            each(values, out, |&[value]: &[f32; 1], out| *out = bf16::from_f32(value).to_le_bytes())
        }
        DType::F8E4M3 => panic!("F8_E4M3 is only read"),
        DType::Q8_0 => each(values, out, q8_0),
        DType::Q4_0 => each(values, out, q4_0),
        DType::Q5_0 => each(values, out, q5_0),
        DType::Mxfp4 => each(values, out, mxfp4),
        DType::Iq4Nl => each(values, out, iq4_nl),
        DType::Q4K => each(values, out, q4_k),
        DType::Q5K => each(values, out, q5_k),
        DType::Q6K => each(values, out, q6_k),
        DType::Iq4Xs => each(values, out, iq4_xs),
    }
    Ok(())
}

/// The greatest magnitude that a type takes. Block types could hold more than their f16 scale, but a weight
/// of that size is a damaged one.
fn limit(dtype: DType) -> f32 {
    match dtype {
        DType::F32 | DType::Mxfp4 => f32::MAX,
        DType::BF16 => bf16::MAX.to_f32(),
        _ => f16::MAX.to_f32(),
    }
}

fn each<const N: usize, const B: usize>(
    values: &[f32],
    out: &mut [u8],
    block: impl Fn(&[f32; N], &mut [u8; B]),
) {
    for (values, out) in values.as_chunks().0.iter().zip(out.as_chunks_mut().0) {
        block(values, out);
    }
}

fn q8_0(x: &[f32; 32], block: &mut [u8; 34]) {
    let grid = Integers { min: -127.0, max: 127.0 };
    let d = put_half(block, 0, fit(grid, x, &[127.0, 126.0, 126.5, 127.5]));
    for (q, value) in block[2..].iter_mut().zip(nearest(grid, x, d)) {
        *q = value as i8 as u8;
    }
}

fn q4_0(x: &[f32; 32], block: &mut [u8; 18]) {
    let grid = Integers { min: -8.0, max: 7.0 };
    const STARTS: [f32; 20] = [
        -8.0, -8.25, -8.5, -8.75, -7.75, -7.5, -7.25, -7.0, -6.75, -6.5, -6.0, 7.0, 7.25, 7.5, 7.75, 6.75,
        6.5, 6.25, 6.0, 5.5,
    ];
    let d = put_half(block, 0, fit(grid, x, &STARTS));
    pack_nibbles(&nearest(grid, x, d).map(|value| (value + 8.0) as u8), &mut block[2..]);
}

fn q5_0(x: &[f32; 32], block: &mut [u8; 22]) {
    let grid = Integers { min: -16.0, max: 15.0 };
    const STARTS: [f32; 18] = [
        -16.0, -16.25, -16.5, -16.75, -15.75, -15.5, -15.25, -15.0, -14.5, -14.0, 15.0, 15.25, 15.5, 14.75,
        14.5, 14.25, 14.0, 13.5,
    ];
    let d = put_half(block, 0, fit(grid, x, &STARTS));
    let q = nearest(grid, x, d).map(|value| (value + 16.0) as u8);
    let high = (0..32).fold(0, |bits, i| bits | u32::from(q[i] >> 4) << i);
    block[2..6].copy_from_slice(&high.to_le_bytes());
    pack_nibbles(&q.map(|q| q & 15), &mut block[6..]);
}

fn iq4_nl(x: &[f32; 32], block: &mut [u8; 18]) {
    let d = put_half(block, 0, fit(Uneven, x, &UNEVEN_STARTS));
    pack_nibbles(&nearest(Uneven, x, d).map(uneven_index), &mut block[2..]);
}

fn mxfp4(x: &[f32; 32], block: &mut [u8; 17]) {
    let peak = peak(x).abs();
    // 4 <= peak / 2^(e-127) < 8, and 6 is the greatest value; a subnormal peak has the exponent field 0.
    let lowest = (peak.to_bits() >> 23).saturating_sub(2) as u8;
    let error = |e: u8| {
        let d = e8m0_halved(e);
        let unit = f32::from(1u8 << (e - lowest));
        let squares = x.map(|x| (x / d - E2m1.nearest(x / d)) * unit);
        dot(&squares, &squares)
    };
    let e = if error(lowest) <= error(lowest + 1) { lowest } else { lowest + 1 };
    block[0] = e;
    let d = e8m0_halved(e);
    pack_nibbles(&x.map(|x| E2m1::code(x / d)), &mut block[1..]);
}

fn q6_k(x: &[f32; 256], block: &mut [u8; 210]) {
    let grid = Integers { min: -32.0, max: 31.0 };
    const STARTS: [f32; 14] =
        [-32.0, -32.3, -32.6, -32.9, -31.7, -31.4, -31.1, -30.5, 31.0, 31.3, 30.7, 30.4, 30.0, 29.5];
    let (x, _) = x.as_chunks::<16>();
    let fits: [f32; 16] = std::array::from_fn(|i| fit(grid, &x[i], &STARTS));
    let d = put_half(block, 208, peak(&fits) / -128.0);
    let mut q = [0; 256];
    for (i, (x, q)) in x.iter().zip(q.as_chunks_mut::<16>().0).enumerate() {
        let scale = multiple(grid, x, d, fits[i], -128.0, 127.0);
        block[192 + i] = scale as i8 as u8;
        *q = nearest(grid, x, d * scale).map(|value| (value + 32.0) as u8);
    }
    for (half, q) in q.as_chunks::<128>().0.iter().enumerate() {
        for i in 0..64 {
            block[half * 64 + i] = q[i] & 15 | (q[i + 64] & 15) << 4;
        }
        for i in 0..32 {
            block[128 + half * 32 + i] =
                (0..4).fold(0, |bits, quarter| bits | q[quarter * 32 + i] >> 4 << (2 * quarter));
        }
    }
}

fn iq4_xs(x: &[f32; 256], block: &mut [u8; 136]) {
    let (x, _) = x.as_chunks::<32>();
    let fits: [f32; 8] = std::array::from_fn(|i| fit(Uneven, &x[i], &UNEVEN_STARTS));
    let d = put_half(block, 0, peak(&fits) / -32.0);
    let (mut low, mut high) = (0u32, 0u16);
    for (i, x) in x.iter().enumerate() {
        let scale = multiple(Uneven, x, d, fits[i], -32.0, 31.0);
        let stored = (scale + 32.0) as u8;
        low |= u32::from(stored & 15) << (4 * i);
        high |= u16::from(stored >> 4) << (2 * i);
        pack_nibbles(&nearest(Uneven, x, d * scale).map(uneven_index), &mut block[8 + i * 16..][..16]);
    }
    block[2..4].copy_from_slice(&high.to_le_bytes());
    block[4..8].copy_from_slice(&low.to_le_bytes());
}

fn q4_k(x: &[f32; 256], block: &mut [u8; 144]) {
    let lines = Lines::fit(x, 15.0);
    lines.put(block);
    put_nibbles_of_pairs(&lines.nearest(x), &mut block[16..]);
}

fn q5_k(x: &[f32; 256], block: &mut [u8; 176]) {
    let lines = Lines::fit(x, 31.0);
    lines.put(block);
    let q = lines.nearest(x);
    for i in 0..32 {
        block[16 + i] = (0..8).fold(0, |bits, part| bits | q[part * 32 + i] >> 4 << part);
    }
    put_nibbles_of_pairs(&q.map(|q| q & 15), &mut block[48..]);
}

/// Nibbles of a 256-block: in each 64, the first 32 are the low ones.
fn put_nibbles_of_pairs(q: &[u8; 256], out: &mut [u8]) {
    for (q, out) in q.as_chunks::<64>().0.iter().zip(out.as_chunks_mut::<32>().0) {
        *out = std::array::from_fn(|i| q[i] | q[i + 32] << 4);
    }
}

/// `pairs[i]` holds `q[i]` low and `q[16 + i]` high.
fn pack_nibbles(q: &[u8; 32], pairs: &mut [u8]) {
    for (i, pair) in pairs.iter_mut().enumerate() {
        *pair = q[i] | q[16 + i] << 4;
    }
}

/// Stores `value` as f16 and returns what was stored.
fn put_half(block: &mut [u8], at: usize, value: f32) -> f32 {
    let stored = f16::from_f32(value.clamp(f16::MIN.to_f32(), f16::MAX.to_f32()));
    block[at..at + 2].copy_from_slice(&stored.to_le_bytes());
    stored.to_f32()
}

/// The values that a scale stretches.
trait Grid: Copy {
    /// The grid value nearest to `v`.
    fn nearest(self, v: f32) -> f32;
}

#[derive(Clone, Copy)]
struct Integers {
    min: f32,
    max: f32,
}

impl Grid for Integers {
    fn nearest(self, v: f32) -> f32 {
        round(v.clamp(self.min, self.max))
    }
}

/// The values of IQ4_NL and IQ4_XS.
#[derive(Clone, Copy)]
struct Uneven;

/// Where in [`IQ4_VALUES`] a peak may lie, mostly beyond or near the ends.
const UNEVEN_STARTS: [f32; 20] = [
    -127.0, -130.0, -133.0, -136.0, -124.0, -121.0, -118.0, -115.0, -112.0, -107.0, 113.0, 116.0, 119.0,
    122.0, 126.0, 110.0, 107.0, 104.0, 100.0, 96.0,
];

impl Grid for Uneven {
    fn nearest(self, v: f32) -> f32 {
        let mut value = f32::from(IQ4_VALUES[0]);
        for (middle, step) in UNEVEN_STEPS {
            value += if v > middle { step } else { 0.0 };
        }
        value
    }
}

/// The middle of neighbouring values, and how far they lie apart.
const UNEVEN_STEPS: [(f32, f32); 15] = {
    let mut steps = [(0.0, 0.0); 15];
    let mut i = 0;
    while i < 15 {
        let (low, high) = (IQ4_VALUES[i] as f32, IQ4_VALUES[i + 1] as f32);
        steps[i] = ((low + high) / 2.0, high - low);
        i += 1;
    }
    steps
};

fn uneven_index(value: f32) -> u8 {
    IQ4_VALUES.iter().filter(|&&low| f32::from(low) < value).count() as u8
}

/// The values of MXFP4, doubled.
#[derive(Clone, Copy)]
struct E2m1;

impl Grid for E2m1 {
    fn nearest(self, v: f32) -> f32 {
        f32::from(E2M1_DOUBLED[E2m1::code(v) as usize])
    }
}

impl E2m1 {
    fn code(v: f32) -> u8 {
        let below = |pair: &[i8]| v.abs() > f32::from(pair[0] + pair[1]) / 2.0;
        let magnitude = E2M1_DOUBLED[..8].windows(2).filter(|pair| below(pair)).count() as u8;
        magnitude | u8::from(v < 0.0 && magnitude > 0) << 3
    }
}

/// The scale that fits `x` best among those that put its peak near one of `starts`; 0 when all is so small
/// that no f16 scale could hold it.
fn fit<const N: usize>(grid: impl Grid, x: &[f32; N], starts: &[f32]) -> f32 {
    const TINY: f32 = 1.0 / (1 << 30) as f32;
    let peak = peak(x);
    if peak.abs() < TINY {
        return 0.0;
    }
    let (mut scale, mut best) = (0.0, 0.0);
    for start in starts {
        let values = nearest(grid, x, peak / start);
        let (cross, square) = (dot(x, &values), dot(&values, &values));
        // The fit lowers the squared error by cross^2 / square.
        if cross * cross > best * square {
            (scale, best) = (cross / square, cross * cross / square);
        }
    }
    scale
}

/// The integer between `min` and `max` by which `d` fits `x` best, near the scale `fit`.
fn multiple<const N: usize>(grid: impl Grid, x: &[f32; N], d: f32, fit: f32, min: f32, max: f32) -> f32 {
    let middle = round((fit * inverse(d)).clamp(min, max));
    let error = |scale: f32| {
        let values = nearest(grid, x, scale * d);
        let difference: [f32; N] = std::array::from_fn(|i| x[i] - scale * d * values[i]);
        dot(&difference, &difference)
    };
    least([middle, middle - 1.0, middle + 1.0].into_iter().filter(|scale| (min..=max).contains(scale)), error)
}

/// The grid values nearest to `x / scale`.
fn nearest<const N: usize>(grid: impl Grid, x: &[f32; N], scale: f32) -> [f32; N] {
    let inverse = inverse(scale);
    x.map(|x| grid.nearest(x * inverse))
}

/// Eight lines `scale q - min`, one for each 32 of a block, with 6-bit multiples of shared factors.
struct Lines {
    d: f32,
    dmin: f32,
    scales: [f32; 8],
    mins: [f32; 8],
    /// The greatest q.
    top: f32,
}

impl Lines {
    fn fit(x: &[f32; 256], top: f32) -> Self {
        let (parts, _) = x.as_chunks::<32>();
        let fits: [(f32, f32); 8] = std::array::from_fn(|i| fit_line(&parts[i], top));
        let largest = |values: [f32; 8]| values.into_iter().fold(0.0, f32::max);
        let [d, dmin] =
            [largest(fits.map(|fit| fit.0)), largest(fits.map(|fit| fit.1))].map(|max| max / 63.0);
        let first = Self::around(parts, &fits, d, dmin, top);
        let (d, dmin) = first.refit(x);
        let second = Self::around(parts, &fits, d, dmin, top);
        if second.error(x) < first.error(x) { second } else { first }
    }

    /// The best lines near `fits` with the factors `d` and `dmin`, rounded as they are stored.
    fn around(parts: &[[f32; 32]], fits: &[(f32, f32); 8], d: f32, dmin: f32, top: f32) -> Self {
        let stored = |value: f32| f16::from_f32(value.clamp(0.0, f16::MAX.to_f32())).to_f32();
        let (d, dmin) = (stored(d), stored(dmin));
        let mut lines = Self { d, dmin, scales: [0.0; 8], mins: [0.0; 8], top };
        for (i, (x, fit)) in parts.iter().zip(fits).enumerate() {
            let near = |fit: f32, factor: f32| {
                let middle = round((fit * inverse(factor)).clamp(0.0, 63.0));
                [middle, middle - 1.0, middle + 1.0].into_iter().filter(|value| (0.0..=63.0).contains(value))
            };
            let pairs = near(fit.0, d).flat_map(|scale| near(fit.1, dmin).map(move |min| (scale, min)));
            let error = |(scale, min): (f32, f32)| line_error(x, d * scale, dmin * min, top);
            (lines.scales[i], lines.mins[i]) = least(pairs, error);
        }
        lines
    }

    /// The factors that fit `x` best with these multiples and their nearest q.
    fn refit(&self, x: &[f32; 256]) -> (f32, f32) {
        let q = self.nearest(x);
        let a: [f32; 256] = std::array::from_fn(|i| self.scales[i / 32] * f32::from(q[i]));
        let b: [f32; 256] = std::array::from_fn(|i| self.mins[i / 32]);
        let (aa, ab, bb) = (dot(&a, &a), dot(&a, &b), dot(&b, &b));
        let (ax, bx) = (dot(&a, x), dot(&b, x));
        let determinant = aa * bb - ab * ab;
        if determinant > 1e-6 * aa * bb {
            ((ax * bb - bx * ab) / determinant, (ax * ab - bx * aa) / determinant)
        } else {
            (self.d, self.dmin)
        }
    }

    fn error(&self, x: &[f32; 256]) -> f32 {
        let part = |(i, x): (usize, &[f32; 32])| {
            line_error(x, self.d * self.scales[i], self.dmin * self.mins[i], self.top)
        };
        x.as_chunks().0.iter().enumerate().map(part).sum()
    }

    fn nearest(&self, x: &[f32; 256]) -> [u8; 256] {
        let mut q = [0; 256];
        for (i, (x, q)) in x.as_chunks::<32>().0.iter().zip(q.as_chunks_mut().0).enumerate() {
            let values = line_nearest(x, self.d * self.scales[i], self.dmin * self.mins[i], self.top);
            *q = values.map(|value| value as u8);
        }
        q
    }

    /// Writes d, dmin and the 6-bit pairs, as [`super::scale_min`] reads them.
    fn put(&self, block: &mut [u8]) {
        put_half(block, 0, self.d);
        put_half(block, 2, self.dmin);
        let packed = &mut block[4..16];
        for i in 0..8 {
            let (scale, min) = (self.scales[i] as u8, self.mins[i] as u8);
            if i < 4 {
                packed[i] = scale;
                packed[i + 4] = min;
            } else {
                packed[i + 4] = scale & 15 | min << 4;
                packed[i - 4] |= scale >> 4 << 6;
                packed[i] |= min >> 4 << 6;
            }
        }
    }
}

/// Scale and minimum, neither negative, of the line `scale q - min` with q from 0 to `top` that fits `x` best.
fn fit_line(x: &[f32; 32], top: f32) -> (f32, f32) {
    const COUNT: f32 = 32.0;
    let low = x.iter().copied().fold(0.0, f32::min);
    let range = x.iter().copied().fold(f32::MIN, f32::max) - low;
    if range <= 0.0 {
        return (0.0, -low);
    }
    let (sum_x, sum_xx) = (x.iter().sum::<f32>(), dot(x, x));
    let (mut line, mut best) = ((range / top, -low), f32::INFINITY);
    for step in -12..=12 {
        let q = line_nearest(x, range / (top + step as f32 * top / 150.0), -low, top);
        let (sum_q, sum_qq, sum_qx) = (q.iter().sum::<f32>(), dot(&q, &q), dot(&q, x));
        let determinant = COUNT * sum_qq - sum_q * sum_q;
        if determinant <= 0.0 {
            continue;
        }
        let mut scale = (COUNT * sum_qx - sum_q * sum_x) / determinant;
        let mut min = (sum_q * sum_qx - sum_qq * sum_x) / determinant;
        if min < 0.0 {
            (scale, min) = (sum_qx / sum_qq, 0.0);
        }
        let error = sum_xx - 2.0 * (scale * sum_qx - min * sum_x) + scale * scale * sum_qq
            - 2.0 * scale * min * sum_q
            + COUNT * min * min;
        if error < best {
            (line, best) = ((scale, min), error);
        }
    }
    line
}

fn line_error(x: &[f32; 32], scale: f32, min: f32, top: f32) -> f32 {
    let q = line_nearest(x, scale, min, top);
    let difference: [f32; 32] = std::array::from_fn(|i| x[i] + min - scale * q[i]);
    dot(&difference, &difference)
}

fn line_nearest(x: &[f32; 32], scale: f32, min: f32, top: f32) -> [f32; 32] {
    let inverse = inverse(scale);
    x.map(|x| round(((x + min) * inverse).clamp(0.0, top)))
}

/// The candidate with the least error, the first of several.
fn least<T: Copy>(candidates: impl Iterator<Item = T>, error: impl Fn(T) -> f32) -> T {
    candidates
        .map(|candidate| (candidate, error(candidate)))
        .reduce(|a, b| if b.1 < a.1 { b } else { a })
        .expect("a candidate")
        .0
}

/// The value of the greatest magnitude.
fn peak(x: &[f32]) -> f32 {
    x.iter().copied().fold(0.0, |peak: f32, x| if x.abs() > peak.abs() { x } else { peak })
}

/// `1 / x`, or 0.
fn inverse(x: f32) -> f32 {
    if x == 0.0 { 0.0 } else { 1.0 / x }
}

/// The nearest integer, ties to even, for magnitudes up to 2^22. Unlike [`f32::round`], it vectorises on every
/// x86-64.
fn round(x: f32) -> f32 {
    const SHIFT: f32 = (3 << 22) as f32;
    (x + SHIFT) - SHIFT
}

fn dot<const N: usize>(a: &[f32; N], b: &[f32; N]) -> f32 {
    let mut sums = [0.0; 8];
    for (a, b) in a.as_chunks::<8>().0.iter().zip(b.as_chunks::<8>().0) {
        for i in 0..8 {
            sums[i] += a[i] * b[i];
        }
    }
    sums.iter().sum()
}

#[cfg(test)]
mod tests {
    use super::super::to_f32;
    use super::*;

    const TYPES: [DType; 12] = [
        DType::F32,
        DType::F16,
        DType::BF16,
        DType::Q8_0,
        DType::Q4_0,
        DType::Q5_0,
        DType::Q4K,
        DType::Q5K,
        DType::Q6K,
        DType::Mxfp4,
        DType::Iq4Nl,
        DType::Iq4Xs,
    ];

    fn round_trip(dtype: DType, values: &[f32]) -> Vec<f32> {
        // Encoders write every byte, whatever was there.
        let mut bytes = vec![0xa5; dtype.bytes(values.len()).unwrap()];
        from_f32(dtype, values, &mut bytes).unwrap();
        let mut out = vec![f32::NAN; values.len()];
        to_f32(dtype, &bytes, &mut out);
        out
    }

    /// Evenly distributed between -1 and 1.
    fn uniform(len: usize) -> Vec<f32> {
        let mut state = 1u32;
        let mut next = || {
            state = state.wrapping_mul(747_796_405).wrapping_add(2_891_336_453);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..len).map(|_| next()).collect()
    }

    fn rms(values: impl ExactSizeIterator<Item = f32>) -> f32 {
        let len = values.len() as f32;
        (values.map(|x| x * x).sum::<f32>() / len).sqrt()
    }

    #[test]
    fn errors_are_those_of_the_step() {
        let values = uniform(256 * 16);
        // The step between neighbouring values, as a part of the peak; the largest where they are uneven.
        for (dtype, step) in [
            (DType::F32, 0.0),
            (DType::F16, 1.0 / 2048.0),
            (DType::BF16, 1.0 / 256.0),
            (DType::Q8_0, 1.0 / 127.0),
            (DType::Q4_0, 1.0 / 8.0),
            (DType::Q5_0, 1.0 / 16.0),
            (DType::Q4K, 2.0 / 15.0),
            (DType::Q5K, 2.0 / 31.0),
            (DType::Q6K, 1.0 / 32.0),
            (DType::Mxfp4, 2.0 / 6.0),
            (DType::Iq4Nl, 24.0 / 113.0),
            (DType::Iq4Xs, 24.0 / 113.0),
        ] {
            let decoded = round_trip(dtype, &values);
            let error = rms(values.iter().zip(&decoded).map(|(a, b)| a - b));
            assert!(error <= step / 12f32.sqrt(), "{dtype}: {error} with a step of {step}");
        }
    }

    #[test]
    fn what_blocks_can_hold_comes_back() {
        let integers = |min: i32, max: i32, len: i32| {
            move |i: i32| 0.375 * (min + (max - min) * (i % len) / (len - 1)) as f32
        };
        let line = |top: i32| {
            move |i: i32| {
                let (part, q) = (i / 32, top * (i % 32) / 31);
                0.25 * ((63 - 5 * part) * q) as f32 - 0.5 * (28 + 5 * part) as f32
            }
        };
        let uneven = |i: i32| f32::from(IQ4_VALUES[i as usize % 16]);
        let check = |dtype: DType, value: &dyn Fn(i32) -> f32| {
            let values: Vec<f32> = (0..256).map(value).collect();
            assert_eq!(round_trip(dtype, &values), values, "{dtype}");
        };
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            check(dtype, &|i| (i - 128) as f32 * 0.5);
        }
        check(DType::Q8_0, &integers(-127, 127, 32));
        check(DType::Q4_0, &integers(-8, 7, 32));
        check(DType::Q4_0, &|i| -integers(-8, 7, 32)(i));
        check(DType::Q5_0, &integers(-16, 15, 32));
        check(DType::Q6K, &|i| integers(-32, 31, 16)(i) * (128 - i / 16) as f32);
        check(DType::Q4K, &line(15));
        check(DType::Q5K, &line(31));
        check(DType::Mxfp4, &|i| f32::from(E2M1_DOUBLED[i as usize % 16]) * 2f32.powi(i / 32 - 4));
        check(DType::Iq4Nl, &|i| uneven(i) * 0.125);
        check(DType::Iq4Xs, &|i| uneven(i) * 0.125 * (i / 32 - 32) as f32);
    }

    #[test]
    fn extremes_stay_within_the_step() {
        let shapes: [(&str, &dyn Fn(usize) -> f32); 6] = [
            ("zero", &|_| 0.0),
            ("minus zero", &|_| -0.0),
            ("constant", &|_| 1.0),
            ("negative", &|i| -1.0 - (i % 3) as f32 / 8.0),
            ("one outlier", &|i| if i == 37 { -1.0 } else { 1e-6 }),
            ("alternating", &|i| if i % 2 == 0 { 1.0 } else { -1.0 }),
        ];
        for dtype in TYPES {
            for (name, shape) in shapes {
                for scale in [1.0, 5e4, 1e-7, 1e-20, 1e-40, f32::from_bits(1)] {
                    let values: Vec<f32> = (0..256).map(|i| shape(i) * scale).collect();
                    let peak = peak(&values).abs();
                    // Half the smallest number next to zero, in units that a scale can still have.
                    let floor = match dtype {
                        DType::F32 | DType::BF16 => f32::from_bits(1 << 16),
                        DType::Mxfp4 => f32::MIN_POSITIVE / 4.0,
                        _ => 1e-6,
                    };
                    for (value, decoded) in values.iter().zip(round_trip(dtype, &values)) {
                        let error = (value - decoded).abs();
                        assert!(
                            error <= peak / 4.0 + floor,
                            "{dtype}, {name} by {scale:e}: {value:e} became {decoded:e}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn what_no_type_holds_is_refused() {
        for dtype in TYPES {
            let refused = |value: f32| {
                let mut values = vec![0.5; 256];
                values[100] = value;
                let mut bytes = vec![0; dtype.bytes(256).unwrap()];
                from_f32(dtype, &values, &mut bytes).err()
            };
            assert!(refused(f32::NAN).unwrap().0.is_nan(), "{dtype}");
            assert_eq!(refused(f32::NEG_INFINITY), Some(Ineligible(f32::NEG_INFINITY)), "{dtype}");
            let is_wide = matches!(dtype, DType::F32 | DType::BF16 | DType::Mxfp4);
            assert_eq!(refused(1e5), (!is_wide).then_some(Ineligible(1e5)), "{dtype}");
            assert_eq!(refused(65504.0), None, "{dtype}");
        }
        let mut bytes = [0; 2];
        assert!(from_f32(DType::BF16, &[f32::MAX], &mut bytes).is_err());
    }
}
