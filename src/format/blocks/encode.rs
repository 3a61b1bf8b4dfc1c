//! Quantises f32 to blocks, with the least squared error that a short search finds.
//!
//! In every format an element is a scale times a value of a small grid, in some minus a minimum. For given grid
//! values the best scale is a linear least-squares fit; for a given scale the best grid values are the nearest.
//! So each block tries several scales, takes the nearest grid values, fits, and keeps the fit with the least
//! error. Scales that are themselves stored as small integers are then chosen among the neighbours of the fit
//! by the error that really results.
//!
//! An error counts as much as the weight of its column, the mean square of what is multiplied with it where that is
//! known: the error of a product is the sum of such terms, as far as columns are independent.

use half::{bf16, f16};

use super::nearest::{Codebook, Grid, IQ2_S, IQ3_S};
use super::{E2M1_DOUBLED, IQ4_VALUES, e8m0_halved};
use crate::base::dtype::DType;

/// A value that a type cannot hold: NaN, infinite, or too large.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ineligible(pub f32);

/// Quantises f32. `out` holds exactly `values.len()` elements, a multiple of the block length.
/// Fails with the first value that `dtype` cannot hold; `out` is then left in any state.
///
/// Panics for types that are not [`is_writable`].
pub fn from_f32(dtype: DType, values: &[f32], out: &mut [u8]) -> Result<(), Ineligible> {
    from_f32_weighted(dtype, values, &[1.0; 256], out)
}

/// The same, with errors weighted by `weights`, which repeat: those of a row, or of a whole number of the longest
/// blocks. They must be positive.
pub fn from_f32_weighted(
    dtype: DType,
    values: &[f32],
    weights: &[f32],
    out: &mut [u8],
) -> Result<(), Ineligible> {
    assert_eq!(Some(out.len()), dtype.bytes(values.len()));
    assert!(weights.len().is_multiple_of(dtype.block_len()));
    let limit = limit(dtype);
    let fits = |value: f32| value.abs() <= limit;
    if let Some(&value) = values.iter().find(|&&value| !fits(value)) {
        return Err(Ineligible(value));
    }
    let all = (values, weights, out);
    match dtype {
        DType::F32 => each(all, |&[value]: &[f32; 1], _, out| *out = value.to_le_bytes()),
        DType::F16 => each(all, |&[value]: &[f32; 1], _, out| *out = f16::from_f32(value).to_le_bytes()),
        DType::BF16 => each(all, |&[value]: &[f32; 1], _, out| *out = bf16::from_f32(value).to_le_bytes()),
        DType::Q8_0 => each(all, q8_0),
        DType::Q4_0 => each(all, q4_0),
        DType::Q4_1 => each(all, q4_1),
        DType::Q5_0 => each(all, q5_0),
        DType::Q5_1 => each(all, q5_1),
        DType::Mxfp4 => each(all, mxfp4),
        DType::Iq4Nl => each(all, iq4_nl),
        DType::Q2K => each(all, q2_k),
        DType::Q3K => each(all, q3_k),
        DType::Q4K => each(all, q4_k),
        DType::Q5K => each(all, q5_k),
        DType::Q6K => each(all, q6_k),
        DType::Iq4Xs => each(all, iq4_xs),
        DType::Iq2S => each(all, iq2_s),
        DType::Iq3S => each(all, iq3_s),
        _ => panic!("{dtype} is only read"),
    }
    Ok(())
}

/// Whether [`from_f32`] takes a type. The others are only read.
pub fn is_writable(dtype: DType) -> bool {
    WRITABLE.contains(&dtype)
}

/// Types that are written.
pub const WRITABLE: [DType; 18] = [
    DType::F32,
    DType::F16,
    DType::BF16,
    DType::Q8_0,
    DType::Q6K,
    DType::Q5K,
    DType::Q5_0,
    DType::Q5_1,
    DType::Q4K,
    DType::Q4_0,
    DType::Q4_1,
    DType::Iq4Nl,
    DType::Iq4Xs,
    DType::Mxfp4,
    DType::Q3K,
    DType::Iq3S,
    DType::Q2K,
    DType::Iq2S,
];

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
    (values, weights, out): (&[f32], &[f32], &mut [u8]),
    block: impl Fn(&[f32; N], &[f32; N], &mut [u8; B]),
) {
    let weights = weights.as_chunks().0.iter().cycle();
    for ((values, weights), out) in values.as_chunks().0.iter().zip(weights).zip(out.as_chunks_mut().0) {
        block(values, weights, out);
    }
}

fn q8_0(x: &[f32; 32], w: &[f32; 32], block: &mut [u8; 34]) {
    let grid = Integers { min: -127.0, max: 127.0 };
    let d = put_half(block, 0, fit(grid, x, w, &[127.0, 126.0, 126.5, 127.5]));
    for (q, value) in block[2..].iter_mut().zip(nearest(grid, x, w, d)) {
        *q = value as i8 as u8;
    }
}

fn q4_0(x: &[f32; 32], w: &[f32; 32], block: &mut [u8; 18]) {
    let grid = Integers { min: -8.0, max: 7.0 };
    const STARTS: [f32; 20] = [
        -8.0, -8.25, -8.5, -8.75, -7.75, -7.5, -7.25, -7.0, -6.75, -6.5, -6.0, 7.0, 7.25, 7.5, 7.75, 6.75,
        6.5, 6.25, 6.0, 5.5,
    ];
    let d = put_half(block, 0, fit(grid, x, w, &STARTS));
    pack_nibbles(&nearest(grid, x, w, d).map(|value| (value + 8.0) as u8), &mut block[2..]);
}

fn q4_1(x: &[f32; 32], w: &[f32; 32], block: &mut [u8; 20]) {
    let q = put_line(x, w, 15.0, block);
    pack_nibbles(&q, &mut block[4..]);
}

fn q5_0(x: &[f32; 32], w: &[f32; 32], block: &mut [u8; 22]) {
    let grid = Integers { min: -16.0, max: 15.0 };
    const STARTS: [f32; 18] = [
        -16.0, -16.25, -16.5, -16.75, -15.75, -15.5, -15.25, -15.0, -14.5, -14.0, 15.0, 15.25, 15.5, 14.75,
        14.5, 14.25, 14.0, 13.5,
    ];
    let d = put_half(block, 0, fit(grid, x, w, &STARTS));
    put_five_bits(&nearest(grid, x, w, d).map(|value| (value + 16.0) as u8), &mut block[2..]);
}

fn q5_1(x: &[f32; 32], w: &[f32; 32], block: &mut [u8; 24]) {
    let q = put_line(x, w, 31.0, block);
    put_five_bits(&q, &mut block[4..]);
}

/// Stores scale and minimum of the line that fits best, and returns its integers of 0 to `top`.
fn put_line(x: &[f32; 32], w: &[f32; 32], top: f32, block: &mut [u8]) -> [u8; 32] {
    // Below the greatest value every line has a minimum that is not negative.
    let high = x.iter().copied().fold(f32::MIN, f32::max);
    let (scale, min) = fit_line(&x.map(|x| x - high), w, top);
    let (d, m) = (put_half(block, 0, scale), put_half(block, 2, high - min));
    line_nearest(x, d, -m, top).map(|value| value as u8)
}

/// The high bits of 32 numbers, then their nibbles.
fn put_five_bits(q: &[u8; 32], out: &mut [u8]) {
    let high = (0..32).fold(0, |bits, i| bits | u32::from(q[i] >> 4) << i);
    out[..4].copy_from_slice(&high.to_le_bytes());
    pack_nibbles(&q.map(|q| q & 15), &mut out[4..]);
}

fn iq4_nl(x: &[f32; 32], w: &[f32; 32], block: &mut [u8; 18]) {
    let d = put_half(block, 0, fit(Uneven, x, w, &UNEVEN_STARTS));
    pack_nibbles(&nearest(Uneven, x, w, d).map(uneven_index), &mut block[2..]);
}

fn mxfp4(x: &[f32; 32], w: &[f32; 32], block: &mut [u8; 17]) {
    let peak = peak(x).abs();
    // 4 <= peak / 2^(e-127) < 8, and 6 is the greatest value; a subnormal peak has the exponent field 0.
    let lowest = (peak.to_bits() >> 23).saturating_sub(2) as u8;
    let error = |e: u8| {
        let d = e8m0_halved(e);
        let unit = f32::from(1u8 << (e - lowest));
        let differences = x.map(|x| (x / d - E2m1::nearest_value(x / d)) * unit);
        weighted(&differences, w, &differences)
    };
    let e = if error(lowest) <= error(lowest + 1) { lowest } else { lowest + 1 };
    block[0] = e;
    let d = e8m0_halved(e);
    pack_nibbles(&x.map(|x| E2m1::code(x / d)), &mut block[1..]);
}

fn q6_k(x: &[f32; 256], w: &[f32; 256], block: &mut [u8; 210]) {
    let grid = Integers { min: -32.0, max: 31.0 };
    const STARTS: [f32; 14] =
        [-32.0, -32.3, -32.6, -32.9, -31.7, -31.4, -31.1, -30.5, 31.0, 31.3, 30.7, 30.4, 30.0, 29.5];
    let range = Multiples { min: -128.0, max: 127.0, offset: 0.0 };
    let parts = Parts::<16, 16>::fit(grid, x, w, &STARTS, range);
    put_half(block, 208, parts.d);
    for (i, scale) in parts.multiples.into_iter().enumerate() {
        block[192 + i] = scale as i8 as u8;
    }
    let q = parts.nearest(grid, x, w).map(|value| (value + 32.0) as u8);
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

fn q3_k(x: &[f32; 256], w: &[f32; 256], block: &mut [u8; 110]) {
    let grid = Integers { min: -4.0, max: 3.0 };
    const STARTS: [f32; 22] = [
        -4.0, -4.2, -4.4, -4.6, -4.8, -3.8, -3.6, -3.4, -3.2, -3.0, -2.8, -2.5, 3.0, 3.2, 3.4, 3.6, 3.8, 2.8,
        2.6, 2.4, 2.2, 2.0,
    ];
    let range = Multiples { min: -32.0, max: 31.0, offset: 0.0 };
    let parts = Parts::<16, 16>::fit(grid, x, w, &STARTS, range).refit(grid, x, w);
    put_half(block, 108, parts.d);
    let scales = parts.multiples.map(|scale| (scale + 32.0) as u8);
    for i in 0..8 {
        block[96 + i] = scales[i] & 15 | (scales[8 + i] & 15) << 4;
    }
    for i in 0..4 {
        block[104 + i] = (0..4).fold(0, |bits, part| bits | scales[4 * part + i] >> 4 << (2 * part));
    }
    let q = parts.nearest(grid, x, w).map(|value| (value + 4.0) as u8);
    for i in 0..32 {
        block[i] = (0..8).fold(0, |bits, part| bits | (q[32 * part + i] >> 2) << part);
    }
    put_two_bits(&q.map(|q| q & 3), &mut block[32..96]);
}

fn q2_k(x: &[f32; 256], w: &[f32; 256], block: &mut [u8; 84]) {
    let lines = Lines::<16, 16>::fit(x, w, 3.0, 15.0);
    for (pair, (&scale, &min)) in block.iter_mut().zip(lines.scales.iter().zip(&lines.mins)) {
        *pair = scale as u8 | (min as u8) << 4;
    }
    put_half(block, 80, lines.d);
    put_half(block, 82, lines.dmin);
    put_two_bits(&lines.nearest(x), &mut block[16..80]);
}

/// Pairs of bits of a 256-block: each byte of a half has one of each of its four parts.
fn put_two_bits(q: &[u8; 256], out: &mut [u8]) {
    for (q, out) in q.as_chunks::<128>().0.iter().zip(out.as_chunks_mut::<32>().0) {
        *out = std::array::from_fn(|i| (0..4).fold(0, |bits, part| bits | q[32 * part + i] << (2 * part)));
    }
}

fn iq4_xs(x: &[f32; 256], w: &[f32; 256], block: &mut [u8; 136]) {
    let range = Multiples { min: -32.0, max: 31.0, offset: 0.0 };
    let parts = Parts::<8, 32>::fit(Uneven, x, w, &UNEVEN_STARTS, range);
    put_half(block, 0, parts.d);
    let (mut low, mut high) = (0u32, 0u16);
    let values = parts.nearest(Uneven, x, w);
    for (i, values) in values.as_chunks().0.iter().enumerate() {
        let stored = (parts.multiples[i] + 32.0) as u8;
        low |= u32::from(stored & 15) << (4 * i);
        high |= u16::from(stored >> 4) << (2 * i);
        pack_nibbles(&values.map(uneven_index), &mut block[8 + i * 16..][..16]);
    }
    block[2..4].copy_from_slice(&high.to_le_bytes());
    block[4..8].copy_from_slice(&low.to_le_bytes());
}

/// Where among the magnitudes of a codebook, as a part of the greatest, a peak may lie.
const CODEBOOK_STARTS: [f32; 17] =
    [1.0, 1.03, 1.06, 1.09, 1.12, 1.16, 1.2, 0.97, 0.94, 0.91, 0.88, 0.85, 0.82, 0.79, 0.76, 0.73, 0.7];

/// Multiples of a half, of scales that are not negative.
const HALF_STEPS: Multiples = Multiples { min: 0.0, max: 15.0, offset: 0.5 };

fn iq2_s(x: &[f32; 256], w: &[f32; 256], block: &mut [u8; 82]) {
    let book: &Codebook<8> = &IQ2_S;
    let starts = CODEBOOK_STARTS.map(|part| part * 43.0);
    let parts = Parts::<16, 16>::fit(book, x, w, &starts, HALF_STEPS).refit(book, x, w);
    // The format has steps of d / 4.
    put_half(block, 0, 4.0 * parts.d);
    block[66..].fill(0);
    for (i, scale) in parts.multiples.into_iter().enumerate() {
        block[74 + i / 2] |= (scale as u8) << (i % 2 * 4);
    }
    for (i, (x, w)) in x.as_chunks::<8>().0.iter().zip(w.as_chunks::<8>().0).enumerate() {
        let (index, signs) = book.index(&x.map(|x| x * inverse(parts.scale(i / 2))), w);
        (block[2 + i], block[34 + i]) = (index as u8, signs);
        block[66 + i / 4] |= ((index >> 8) as u8) << (i % 4 * 2);
    }
}

fn iq3_s(x: &[f32; 256], w: &[f32; 256], block: &mut [u8; 110]) {
    let book: &Codebook<4> = &IQ3_S;
    let starts = CODEBOOK_STARTS.map(|part| part * 15.0);
    let parts = Parts::<8, 32>::fit(book, x, w, &starts, HALF_STEPS).refit(book, x, w);
    // The format has odd multiples of d.
    put_half(block, 0, parts.d / 2.0);
    block[66..].fill(0);
    for (i, scale) in parts.multiples.into_iter().enumerate() {
        block[106 + i / 2] |= (scale as u8) << (i % 2 * 4);
    }
    for (i, (x, w)) in x.as_chunks::<4>().0.iter().zip(w.as_chunks::<4>().0).enumerate() {
        let (index, signs) = book.index(&x.map(|x| x * inverse(parts.scale(i / 8))), w);
        block[2 + i] = index as u8;
        block[66 + i / 8] |= ((index >> 8) as u8) << (i % 8);
        block[74 + i / 2] |= signs << (i % 2 * 4);
    }
}

fn q4_k(x: &[f32; 256], w: &[f32; 256], block: &mut [u8; 144]) {
    let lines = Lines::fit(x, w, 15.0, 63.0);
    lines.put(block);
    put_nibbles_of_pairs(&lines.nearest(x), &mut block[16..]);
}

fn q5_k(x: &[f32; 256], w: &[f32; 256], block: &mut [u8; 176]) {
    let lines = Lines::fit(x, w, 31.0, 63.0);
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

#[derive(Clone, Copy)]
struct Integers {
    min: f32,
    max: f32,
}

impl Grid for Integers {
    fn nearest<const N: usize>(self, v: [f32; N], _: &[f32; N]) -> [f32; N] {
        v.map(|v| round(v.clamp(self.min, self.max)))
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
    fn nearest<const N: usize>(self, v: [f32; N], _: &[f32; N]) -> [f32; N] {
        v.map(|v| {
            let mut value = f32::from(IQ4_VALUES[0]);
            for (middle, step) in UNEVEN_STEPS {
                value += if v > middle { step } else { 0.0 };
            }
            value
        })
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
struct E2m1;

impl E2m1 {
    fn nearest_value(v: f32) -> f32 {
        f32::from(E2M1_DOUBLED[E2m1::code(v) as usize])
    }

    fn code(v: f32) -> u8 {
        let below = |pair: &[i8]| v.abs() > f32::from(pair[0] + pair[1]) / 2.0;
        let magnitude = E2M1_DOUBLED[..8].windows(2).filter(|pair| below(pair)).count() as u8;
        magnitude | u8::from(v < 0.0 && magnitude > 0) << 3
    }
}

/// The scale that fits `x` best among those that put its peak near one of `starts`; 0 when all is so small
/// that no f16 scale could hold it.
fn fit<const N: usize>(grid: impl Grid, x: &[f32; N], w: &[f32; N], starts: &[f32]) -> f32 {
    const TINY: f32 = 1.0 / (1 << 30) as f32;
    let peak = peak(x);
    if peak.abs() < TINY {
        return 0.0;
    }
    let wx: [f32; N] = std::array::from_fn(|i| w[i] * x[i]);
    let (mut scale, mut best) = (0.0, 0.0);
    for start in starts {
        let values = nearest(grid, x, w, peak / start);
        let (cross, square) = (dot(&wx, &values), weighted(&values, w, &values));
        // The fit lowers the squared error by cross^2 / square.
        if cross * cross > best * square {
            (scale, best) = (cross / square, cross * cross / square);
        }
    }
    scale
}

/// The grid values nearest to `x / scale`.
fn nearest<const N: usize>(grid: impl Grid, x: &[f32; N], w: &[f32; N], scale: f32) -> [f32; N] {
    let inverse = inverse(scale);
    grid.nearest(x.map(|x| x * inverse), w)
}

/// Which multiples of a shared factor the parts of a block can have as scales: integers plus an offset.
#[derive(Clone, Copy)]
struct Multiples {
    min: f32,
    max: f32,
    offset: f32,
}

/// The scales of the P parts of L elements that a block has.
struct Parts<const P: usize, const L: usize> {
    d: f32,
    /// Without the offset.
    multiples: [f32; P],
    fits: [f32; P],
    range: Multiples,
}

impl<const P: usize, const L: usize> Parts<P, L> {
    fn fit(grid: impl Grid, x: &[f32; 256], w: &[f32; 256], starts: &[f32], range: Multiples) -> Self {
        let (parts, weights) = (x.as_chunks::<L>().0, w.as_chunks::<L>().0);
        let mut fits: [f32; P] = std::array::from_fn(|i| fit(grid, &parts[i], &weights[i], starts));
        let d = if range.min < 0.0 {
            peak(&fits) / range.min
        } else {
            // Such grids have every value with both signs.
            fits = fits.map(f32::abs);
            peak(&fits) / (range.max + range.offset)
        };
        Self::around(grid, x, w, d, fits, range)
    }

    /// The multiples of `d`, rounded as it is stored, that fit best, near `fits`.
    fn around(
        grid: impl Grid,
        x: &[f32; 256],
        w: &[f32; 256],
        d: f32,
        fits: [f32; P],
        range: Multiples,
    ) -> Self {
        let d = f16::from_f32(d.clamp(f16::MIN.to_f32(), f16::MAX.to_f32())).to_f32();
        let mut this = Self { d, multiples: [0.0; P], fits, range };
        let (parts, weights) = (x.as_chunks::<L>().0, w.as_chunks::<L>().0);
        for i in 0..P {
            this.multiples[i] = this.multiple(grid, &parts[i], &weights[i], fits[i]);
        }
        this
    }

    fn multiple(&self, grid: impl Grid, x: &[f32; L], w: &[f32; L], fit: f32) -> f32 {
        let Multiples { min, max, offset } = self.range;
        let middle = round((fit * inverse(self.d) - offset).clamp(min, max));
        let error = |multiple: f32| self.part_error(grid, x, w, multiple);
        let near = [middle, middle - 1.0, middle + 1.0].into_iter();
        least(near.filter(|multiple| (min..=max).contains(multiple)), error)
    }

    fn part_error(&self, grid: impl Grid, x: &[f32; L], w: &[f32; L], multiple: f32) -> f32 {
        let scale = self.d * (multiple + self.range.offset);
        let values = nearest(grid, x, w, scale);
        let difference: [f32; L] = std::array::from_fn(|i| x[i] - scale * values[i]);
        weighted(&difference, w, &difference)
    }

    /// The same with the factor that fits the values which resulted, where that is better.
    fn refit(self, grid: impl Grid, x: &[f32; 256], w: &[f32; 256]) -> Self {
        let values = self.nearest(grid, x, w);
        let scaled: [f32; 256] =
            std::array::from_fn(|i| values[i] * (self.multiples[i / L] + self.range.offset));
        let square = weighted(&scaled, w, &scaled);
        if square == 0.0 {
            return self;
        }
        let second = Self::around(grid, x, w, weighted(&scaled, w, x) / square, self.fits, self.range);
        if second.error(grid, x, w) < self.error(grid, x, w) { second } else { self }
    }

    fn error(&self, grid: impl Grid, x: &[f32; 256], w: &[f32; 256]) -> f32 {
        let (parts, weights) = (x.as_chunks::<L>().0, w.as_chunks::<L>().0);
        (0..P).map(|i| self.part_error(grid, &parts[i], &weights[i], self.multiples[i])).sum()
    }

    fn scale(&self, part: usize) -> f32 {
        self.d * (self.multiples[part] + self.range.offset)
    }

    fn nearest(&self, grid: impl Grid, x: &[f32; 256], w: &[f32; 256]) -> [f32; 256] {
        let mut all = [0.0; 256];
        let parts = x.as_chunks::<L>().0.iter().zip(w.as_chunks::<L>().0);
        for (i, ((x, w), out)) in parts.zip(all.as_chunks_mut::<L>().0).enumerate() {
            *out = nearest(grid, x, w, self.scale(i));
        }
        all
    }
}

/// P lines `scale q - min`, one for each L of a block, with multiples of shared factors.
struct Lines<const P: usize, const L: usize> {
    d: f32,
    dmin: f32,
    scales: [f32; P],
    mins: [f32; P],
    /// The greatest q.
    top: f32,
    /// The greatest multiple.
    limit: f32,
}

impl<const P: usize, const L: usize> Lines<P, L> {
    fn fit(x: &[f32; 256], w: &[f32; 256], top: f32, limit: f32) -> Self {
        let (parts, weights) = (x.as_chunks::<L>().0, w.as_chunks::<L>().0);
        let fits: [(f32, f32); P] = std::array::from_fn(|i| fit_line(&parts[i], &weights[i], top));
        let largest = |values: [f32; P]| values.into_iter().fold(0.0, f32::max);
        let [d, dmin] =
            [largest(fits.map(|fit| fit.0)), largest(fits.map(|fit| fit.1))].map(|max| max / limit);
        let empty = Self { d, dmin, scales: [0.0; P], mins: [0.0; P], top, limit };
        let first = empty.around(x, w, &fits, d, dmin);
        let (d, dmin) = first.refit(x, w);
        let second = first.around(x, w, &fits, d, dmin);
        if second.error(x, w) < first.error(x, w) { second } else { first }
    }

    /// The best lines near `fits` with the factors `d` and `dmin`, rounded as they are stored.
    fn around(&self, x: &[f32; 256], w: &[f32; 256], fits: &[(f32, f32); P], d: f32, dmin: f32) -> Self {
        let stored = |value: f32| f16::from_f32(value.clamp(0.0, f16::MAX.to_f32())).to_f32();
        let (d, dmin) = (stored(d), stored(dmin));
        let (top, limit) = (self.top, self.limit);
        let mut lines = Self { d, dmin, scales: [0.0; P], mins: [0.0; P], top, limit };
        let parts = x.as_chunks::<L>().0.iter().zip(w.as_chunks::<L>().0);
        for (i, ((x, w), fit)) in parts.zip(fits).enumerate() {
            let near = |fit: f32, factor: f32| {
                let middle = round((fit * inverse(factor)).clamp(0.0, limit));
                [middle, middle - 1.0, middle + 1.0]
                    .into_iter()
                    .filter(move |value| (0.0..=limit).contains(value))
            };
            let pairs = near(fit.0, d).flat_map(|scale| near(fit.1, dmin).map(move |min| (scale, min)));
            let error = |(scale, min): (f32, f32)| line_error(x, w, d * scale, dmin * min, top);
            (lines.scales[i], lines.mins[i]) = least(pairs, error);
        }
        lines
    }

    /// The factors that fit `x` best with these multiples and their nearest q.
    fn refit(&self, x: &[f32; 256], w: &[f32; 256]) -> (f32, f32) {
        let q = self.nearest(x);
        let a: [f32; 256] = std::array::from_fn(|i| self.scales[i / L] * f32::from(q[i]));
        let b: [f32; 256] = std::array::from_fn(|i| self.mins[i / L]);
        let (aa, ab, bb) = (weighted(&a, w, &a), weighted(&a, w, &b), weighted(&b, w, &b));
        let (ax, bx) = (weighted(&a, w, x), weighted(&b, w, x));
        let determinant = aa * bb - ab * ab;
        if determinant > 1e-6 * aa * bb {
            ((ax * bb - bx * ab) / determinant, (ax * ab - bx * aa) / determinant)
        } else {
            (self.d, self.dmin)
        }
    }

    fn error(&self, x: &[f32; 256], w: &[f32; 256]) -> f32 {
        let parts = x.as_chunks::<L>().0.iter().zip(w.as_chunks::<L>().0);
        let part = |(i, (x, w)): (usize, (&[f32; L], &[f32; L]))| {
            line_error(x, w, self.d * self.scales[i], self.dmin * self.mins[i], self.top)
        };
        parts.enumerate().map(part).sum()
    }

    fn nearest(&self, x: &[f32; 256]) -> [u8; 256] {
        let mut q = [0; 256];
        for (i, (x, q)) in x.as_chunks::<L>().0.iter().zip(q.as_chunks_mut().0).enumerate() {
            let values = line_nearest(x, self.d * self.scales[i], self.dmin * self.mins[i], self.top);
            *q = values.map(|value| value as u8);
        }
        q
    }
}

impl Lines<8, 32> {
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
fn fit_line<const L: usize>(x: &[f32; L], w: &[f32; L], top: f32) -> (f32, f32) {
    let low = x.iter().copied().fold(0.0, f32::min);
    let range = x.iter().copied().fold(f32::MIN, f32::max) - low;
    if range <= 0.0 {
        return (0.0, -low);
    }
    let wx: [f32; L] = std::array::from_fn(|i| w[i] * x[i]);
    let (sum, sum_x, sum_xx) = (w.iter().sum::<f32>(), wx.iter().sum::<f32>(), dot(&wx, x));
    let (mut line, mut best) = ((range / top, -low), f32::INFINITY);
    for step in -12..=12 {
        let q = line_nearest(x, range / (top + step as f32 * top.max(15.0) / 150.0), -low, top);
        let (sum_q, sum_qq, sum_qx) = (dot(w, &q), weighted(&q, w, &q), dot(&q, &wx));
        let determinant = sum * sum_qq - sum_q * sum_q;
        if determinant <= 0.0 {
            continue;
        }
        let mut scale = (sum * sum_qx - sum_q * sum_x) / determinant;
        let mut min = (sum_q * sum_qx - sum_qq * sum_x) / determinant;
        if min < 0.0 {
            (scale, min) = (sum_qx / sum_qq, 0.0);
        }
        let error = sum_xx - 2.0 * (scale * sum_qx - min * sum_x) + scale * scale * sum_qq
            - 2.0 * scale * min * sum_q
            + sum * min * min;
        if error < best {
            (line, best) = ((scale, min), error);
        }
    }
    line
}

fn line_error<const L: usize>(x: &[f32; L], w: &[f32; L], scale: f32, min: f32, top: f32) -> f32 {
    let q = line_nearest(x, scale, min, top);
    let difference: [f32; L] = std::array::from_fn(|i| x[i] + min - scale * q[i]);
    weighted(&difference, w, &difference)
}

fn line_nearest<const L: usize>(x: &[f32; L], scale: f32, min: f32, top: f32) -> [f32; L] {
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

/// The sum of `a w b`.
fn weighted<const N: usize>(a: &[f32; N], w: &[f32; N], b: &[f32; N]) -> f32 {
    dot(&std::array::from_fn(|i| a[i] * w[i]), b)
}

#[cfg(test)]
mod tests {
    use super::super::{IQ2_VALUES, IQ3_S_VALUES, grids, to_f32};
    use super::*;

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
            (DType::Q4_1, 2.0 / 15.0),
            (DType::Q5_1, 2.0 / 31.0),
            (DType::Q3K, 1.0 / 4.0),
            (DType::Q2K, 2.0 / 3.0),
            // Codebooks have a part of all combinations of magnitudes: 512 of 8^4, 1024 of 3^8.
            (DType::Iq3S, 1.8 * 2.0 / 15.0),
            (DType::Iq2S, 1.3 * 18.0 / 43.0),
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
        check(DType::Q4_1, &|i| 0.375 * (i % 16) as f32 + 2.0);
        check(DType::Q5_1, &|i| 0.375 * (i % 32) as f32 - 40.0);
        check(DType::Q3K, &|i| integers(-4, 3, 16)(i) * (2 * (i / 16) - 32) as f32);
        check(DType::Q2K, &|i| {
            let part = i / 16;
            0.25 * ((15 - part) * (i % 4)) as f32 - 0.5 * (15 - part / 2) as f32
        });
        let sign = |i: i32| if i % 3 == 0 { -1.0 } else { 1.0 };
        let odd = |i: i32, parts: i32| sign(i) * (2 * (15 - i / parts) + 1) as f32;
        let number = |entry: u32, i: i32, bits: i32| (entry >> (8 * (i % 4) + bits * (i / 4)) & 7) as usize;
        check(DType::Iq3S, &|i| {
            let entry = grids::IQ3_S[i as usize / 4 * 7];
            0.125 * odd(i, 32) * f32::from(IQ3_S_VALUES[number(entry, i % 4, 0)])
        });
        check(DType::Iq2S, &|i| {
            let entry = grids::IQ2_S[i as usize / 8 * 31];
            0.125 * odd(i, 16) * f32::from(IQ2_VALUES[number(entry, i % 8, 4)])
        });
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
        for dtype in WRITABLE {
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
                    // IQ2_S has no value near zero, which draws an outlier down.
                    let step = if dtype == DType::Iq2S { 0.4 } else { 0.25 };
                    for (value, decoded) in values.iter().zip(round_trip(dtype, &values)) {
                        let error = (value - decoded).abs();
                        assert!(
                            error <= peak * step + floor,
                            "{dtype}, {name} by {scale:e}: {value:e} became {decoded:e}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn heavy_columns_have_the_smaller_errors() {
        let values = uniform(256 * 16);
        let weights: Vec<f32> = (0..256).map(|i| if i % 8 == 3 { 100.0 } else { 1.0 }).collect();
        let error = |decoded: &[f32]| {
            let heavy = values.iter().zip(decoded).skip(3).step_by(8);
            rms(heavy.map(|(a, b)| a - b).collect::<Vec<_>>().into_iter())
        };
        for dtype in WRITABLE.into_iter().filter(|dtype| dtype.is_blocked()) {
            let mut bytes = vec![0; dtype.bytes(values.len()).unwrap()];
            from_f32_weighted(dtype, &values, &weights, &mut bytes).unwrap();
            let mut decoded = vec![f32::NAN; values.len()];
            to_f32(dtype, &bytes, &mut decoded);
            let (weighted, plain) = (error(&decoded), error(&round_trip(dtype, &values)));
            assert!(weighted < plain, "{dtype}: {weighted}, without weights {plain}");
        }
    }

    #[test]
    fn what_no_type_holds_is_refused() {
        for dtype in WRITABLE {
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
