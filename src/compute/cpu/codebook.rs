//! Unpacks the types that store indices of codebooks: an index becomes eight or four numbers of up to three bits, which a
//! table makes quants, and a sign bit says which of them are negative.
//!
//! Entries are loaded word by word: gathers take longer, most of all on processors that keep their results from leaking.

#![expect(unsafe_code, reason = "indices are loaded by pointer")]
#![expect(
    clippy::needless_range_loop,
    reason = "indices go to several arrays, and closures are not inlined reliably"
)]

use super::matrix::{Quants, Slice};
use super::simd::{LANES, Simd};
use crate::format::blocks::grids::{IQ1, IQ2_S, IQ2_XS, IQ2_XXS, IQ3_S, IQ3_XXS};
use crate::format::blocks::{IQ2_VALUES, IQ3_S_VALUES, IQ3_XXS_VALUES};

/// The quants of positive values, and the one that stands for 0: they are greater by the greatest value than what they stand
/// for.
const IQ2: ([u8; 16], u8) = positive(&IQ2_VALUES);
const IQ3_X: ([u8; 16], u8) = positive(&IQ3_XXS_VALUES);
const IQ3: ([u8; 16], u8) = positive(&IQ3_S_VALUES);

/// Entries whose numbers are quants.
static IQ3_X_QUANTS: [u32; 256] = quants(&IQ3_XXS, &IQ3_X.0);
static IQ3_QUANTS: [u32; 512] = quants(&IQ3_S, &IQ3.0);

/// What the scales of IQ2 are odd multiples of, as a part of `d`.
const IQ2_UNIT: f32 = 0.125;

/// The quants of IQ1_M, eight times the values: with bit 3 the shift is downwards.
const IQ1_M: ([u8; 16], u8) = ([2, 10, 18, 0, 0, 0, 0, 0, 0, 8, 16, 0, 0, 0, 0, 0], 9);

/// The bits of a byte of signs that belong to the first four quants, and to the last four.
const OWN_SIGNS: [u32; 2] = [0x0804_0201, 0x8040_2010];

/// The highest bit, where a nibble has an odd number of bits.
const PARITY: [u8; 16] = [0, 128, 128, 0, 128, 0, 0, 128, 128, 0, 0, 128, 0, 128, 128, 0];

const fn positive(magnitudes: &[u8]) -> ([u8; 16], u8) {
    let zero = magnitudes[magnitudes.len() - 1];
    let (mut table, mut i) = ([zero; 16], 0);
    while i < magnitudes.len() {
        table[i] = zero + magnitudes[i];
        i += 1;
    }
    (table, zero)
}

const fn quants<const N: usize>(entries: &[u32; N], table: &[u8; 16]) -> [u32; N] {
    let (mut quants, mut i) = ([0; N], 0);
    while i < N {
        let [a, b, c, d] = entries[i].to_le_bytes();
        quants[i] =
            u32::from_le_bytes([table[a as usize], table[b as usize], table[c as usize], table[d as usize]]);
        i += 1;
    }
    quants
}

impl Quants {
    #[inline(always)]
    pub(super) fn iq2_xxs<S: Simd, const P: bool>(&mut self, simd: S, slice: &Slice<P>) {
        let unit = simd.mul(simd.half_to_f(slice.words(simd, 0)[0]), simd.splat(IQ2_UNIT));
        let mut signs = [simd.splat_i(0); 8];
        for pair in 0..4 {
            let words = slice.words(simd, 2 + 16 * pair);
            for part in 0..2 {
                let block = 2 * pair + part;
                simd.store_i(words[2 * part], &mut self.indices[block]);
                signs[block] = words[2 * part + 1];
                self.factor(simd, block, unit, odd(simd, simd.shr(signs[block], 28)));
            }
        }
        self.zero(simd, unit, 8, IQ2.1);
        for block in 0..8 {
            // SAFETY: the table has an entry for every byte.
            let entries = unsafe { self.entries(simd, &IQ2_XXS, block) };
            let signs = even_signs(simd, apart(simd, signs[block]));
            self.signed_eights(simd, block, entries, signs);
        }
    }

    #[inline(always)]
    pub(super) fn iq2_xs<S: Simd, const P: bool>(&mut self, simd: S, slice: &Slice<P>) {
        let d = simd.half_to_f(slice.words(simd, 0)[0]);
        let [_, _, first, second] = slice.words(simd, 58);
        self.iq2_scales(simd, d, [first, second]);
        let (low, high) = (simd.splat_i(0xffff), simd.splat_i(0xffff_0000));
        let (nine, seven) = (simd.splat_i(0x01ff_01ff), simd.splat_i(0x007f_007f));
        let mut signs = [simd.splat_i(0); 8];
        for quarter in 0..4 {
            let words = slice.words(simd, 2 + 16 * quarter);
            for part in 0..2 {
                let (first, second, block) = (words[2 * part], words[2 * part + 1], 2 * quarter + part);
                let even = simd.or(simd.and(first, low), simd.shl(second, 16));
                let odd = simd.or(simd.shr(first, 16), simd.and(second, high));
                self.wide_indices(simd, block, [simd.and(even, nine), simd.and(odd, nine)]);
                let (even, odd) = (simd.and(simd.shr(even, 9), seven), simd.and(simd.shr(odd, 9), seven));
                signs[block] = even_signs(simd, simd.or(even, simd.shl(odd, 8)));
            }
        }
        for block in 0..8 {
            // SAFETY: nine bits were kept of each index.
            let entries = unsafe { self.entries(simd, &IQ2_XS, block) };
            self.signed_eights(simd, block, entries, signs[block]);
        }
    }

    #[inline(always)]
    pub(super) fn iq2_s<S: Simd, const P: bool>(&mut self, simd: S, slice: &Slice<P>) {
        let d = simd.half_to_f(slice.words(simd, 0)[0]);
        let [first, second, scales @ ..] = slice.words(simd, 66);
        self.iq2_scales(simd, d, scales);
        let high = [first, second];
        for half in 0..2 {
            let low = slice.words(simd, 2 + 16 * half);
            for i in 0..4 {
                let high = simd.shr(high[half], 8 * i as u32);
                self.wide_indices(simd, 4 * half + i, with_high_bits::<_, 2, 2>(simd, low[i], high));
            }
        }
        for half in 0..2 {
            let signs = slice.words(simd, 34 + 16 * half);
            for i in 0..4 {
                let block = 4 * half + i;
                // SAFETY: ten bits were kept of each index.
                let entries = unsafe { self.entries(simd, &IQ2_S, block) };
                self.signed_eights(simd, block, entries, signs[i]);
            }
        }
    }

    #[inline(always)]
    pub(super) fn iq3_xxs<S: Simd, const P: bool>(&mut self, simd: S, slice: &Slice<P>) {
        let unit = simd.mul(simd.half_to_f(slice.words(simd, 0)[0]), simd.splat(0.25));
        for quarter in 0..4 {
            let words = slice.words(simd, 2 + 16 * quarter);
            for i in 0..4 {
                simd.store_i(words[i], &mut self.indices[4 * quarter + i]);
            }
        }
        let signs = slice.wide_words(simd, 66);
        for block in 0..8 {
            self.factor(simd, block, unit, odd(simd, simd.shr(signs[block], 28)));
            let signs = even_signs(simd, apart(simd, signs[block]));
            // SAFETY: the table has an entry for every byte.
            unsafe { self.signed_fours(simd, &IQ3_X_QUANTS, block, signs, IQ3_X.1) };
        }
        self.zero(simd, unit, 8, IQ3_X.1);
    }

    #[inline(always)]
    pub(super) fn iq3_s<S: Simd, const P: bool>(&mut self, simd: S, slice: &Slice<P>) {
        let d = simd.half_to_f(slice.words(simd, 0)[0]);
        let scales = slice.words(simd, 94)[3];
        for block in 0..8 {
            let stored = simd.and(simd.shr(scales, 4 * block as u32), simd.splat_i(15));
            self.factor(simd, block, d, odd(simd, stored));
        }
        self.zero(simd, d, 8, IQ3.1);
        let high = slice.words(simd, 66);
        for quarter in 0..4 {
            let low = slice.words(simd, 2 + 16 * quarter);
            for i in 0..4 {
                let high = simd.shr(high[quarter / 2], (16 * (quarter % 2) + 4 * i) as u32);
                self.wide_indices(simd, 4 * quarter + i, with_high_bits::<_, 1, 1>(simd, low[i], high));
            }
        }
        for half in 0..2 {
            let signs = slice.words(simd, 74 + 16 * half);
            for i in 0..4 {
                // SAFETY: nine bits were kept of each index.
                unsafe { self.signed_fours(simd, &IQ3_QUANTS, 4 * half + i, signs[i], IQ3.1) };
            }
        }
    }

    #[inline(always)]
    pub(super) fn iq1_s<S: Simd, const P: bool>(&mut self, simd: S, slice: &Slice<P>) {
        let d = simd.half_to_f(slice.words(simd, 0)[0]);
        let (high, seven) = (slice.words(simd, 34), simd.splat_i(7));
        for half in 0..2 {
            let low = slice.words(simd, 2 + 16 * half);
            for i in 0..4 {
                let block = 4 * half + i;
                let high = simd.shr(high[block / 2], 16 * (block as u32 % 2));
                let factor = odd(simd, simd.and(simd.shr(high, 12), seven));
                // 1/8 with the sign of the shift.
                let sign = simd.and(simd.shl(high, 16), simd.splat_i(0x8000_0000));
                let delta = simd.bits_f(simd.or(sign, simd.splat_i(0.125f32.to_bits())));
                let scale = simd.mul(d, simd.to_f(factor));
                self.factor(simd, block, d, factor);
                simd.store(simd.mul_sub(scale, delta, scale), &mut self.mins[block]);
                self.wide_indices(simd, block, with_high_bits::<_, 3, 3>(simd, low[i], high));
            }
        }
        self.unit(simd, d);
        for block in 0..8 {
            // SAFETY: eleven bits were kept of each index.
            let entries = unsafe { self.entries(simd, &IQ1, block) };
            for k in 0..4 {
                let halves = numbers(simd, entries[k]);
                for i in 0..2 {
                    simd.store_i(halves[i], &mut self.quants[8 * block + 2 * k + i]);
                }
            }
        }
    }

    #[inline(always)]
    pub(super) fn iq1_m<S: Simd, const P: bool>(&mut self, simd: S, slice: &Slice<P>) {
        let [_, _, first, second] = slice.words(simd, 40);
        let scales = [first, simd.shr(first, 16), second, simd.shr(second, 16)];
        let (seven, top) = (simd.splat_i(7), simd.splat_i(0xf000));
        let mut bits = simd.splat_i(0);
        for i in 0..4 {
            bits = simd.or(bits, simd.shr(simd.and(scales[i], top), 12 - 4 * i as u32));
        }
        let d = simd.mul(simd.half_to_f(bits), simd.splat(0.125));
        for half in 0..16 {
            let stored = simd.and(simd.shr(scales[half / 4], 3 * (half as u32 % 4)), seven);
            self.factor(simd, half, d, odd(simd, stored));
        }
        self.zero(simd, d, 16, IQ1_M.1);
        let high = slice.words(simd, 32);
        for half in 0..2 {
            let low = slice.words(simd, 16 * half);
            for i in 0..4 {
                let (block, high) = (4 * half + i, simd.shr(high[2 * half + i / 2], 16 * (i as u32 % 2)));
                self.wide_indices(simd, block, with_high_bits::<_, 3, 4>(simd, low[i], high));
            }
        }
        let eight = simd.splat_i(0x0808_0808);
        for block in 0..8 {
            // SAFETY: eleven bits were kept of each index.
            let entries = unsafe { self.entries(simd, &IQ1, block) };
            let high = simd.shr(high[block / 2], 16 * (block as u32 % 2));
            let shifts = [simd.and(high, eight), simd.and(simd.shr(high, 4), eight)];
            macro_rules! each {
                ($($k:literal)*) => {$(
                    let shift = simd.spread_byte(shifts[$k % 2], $k / 2);
                    let halves = numbers(simd, entries[$k]);
                    for i in 0..2 {
                        let quants = simd.lookup(&IQ1_M.0, simd.or(halves[i], shift));
                        simd.store_i(quants, &mut self.quants[8 * block + 2 * $k + i]);
                    }
                )*};
            }
            each!(0 1 2 3);
        }
    }

    /// Scales of 16 nibbles.
    #[inline(always)]
    fn iq2_scales<S: Simd>(&mut self, simd: S, d: S::F, stored: [S::I; 2]) {
        let unit = simd.mul(d, simd.splat(IQ2_UNIT));
        for half in 0..16 {
            let nibble = simd.and(simd.shr(stored[half / 8], 4 * (half as u32 % 8)), simd.splat_i(15));
            self.factor(simd, half, unit, odd(simd, nibble));
        }
        self.zero(simd, unit, 16, IQ2.1);
    }

    /// Keeps four indices of 16 bits: the first and the third, the second and the fourth.
    #[inline(always)]
    fn wide_indices<S: Simd>(&mut self, simd: S, four: usize, indices: [S::I; 2]) {
        for i in 0..2 {
            simd.store_i(indices[i], &mut self.indices[2 * four + i]);
        }
    }

    /// The entries of the `four`-th four indices, which are bytes, or 16 bits where those are too few.
    ///
    /// # Safety
    /// Indices of 16 bits must have been kept there, all of them below `N`.
    #[inline(always)]
    unsafe fn entries<S: Simd, const N: usize>(&self, simd: S, table: &[u32; N], four: usize) -> [S::I; 4] {
        if N == 256 {
            let indices = &self.indices[four];
            // SAFETY: there is an entry for every byte.
            unsafe {
                [
                    entry::<S, N, 0>(simd, table, indices),
                    entry::<S, N, 1>(simd, table, indices),
                    entry::<S, N, 2>(simd, table, indices),
                    entry::<S, N, 3>(simd, table, indices),
                ]
            }
        } else {
            let (even, odd) = (&self.indices[2 * four], &self.indices[2 * four + 1]);
            // SAFETY: the caller promises that the indices are below N.
            unsafe {
                [
                    entry::<S, N, 0>(simd, table, even),
                    entry::<S, N, 0>(simd, table, odd),
                    entry::<S, N, 1>(simd, table, even),
                    entry::<S, N, 1>(simd, table, odd),
                ]
            }
        }
    }

    /// The quants of a block of IQ2, with a bit of signs for each.
    #[inline(always)]
    fn signed_eights<S: Simd>(&mut self, simd: S, block: usize, entries: [S::I; 4], signs: S::I) {
        macro_rules! each {
            ($($k:literal)*) => {$(
                let own = simd.spread_byte(signs, $k);
                let halves = numbers(simd, entries[$k]);
                for i in 0..2 {
                    let quants = simd.lookup(&IQ2.0, halves[i]);
                    let quants = simd.flip_bytes(quants, 2 * IQ2.1, own, OWN_SIGNS[i]);
                    simd.store_i(quants, &mut self.quants[8 * block + 2 * $k + i]);
                }
            )*};
        }
        each!(0 1 2 3);
    }

    /// The quants of a block of IQ3, with a bit of signs for each.
    ///
    /// # Safety
    /// As for [`Quants::entries`].
    #[inline(always)]
    unsafe fn signed_fours<S: Simd, const N: usize>(
        &mut self,
        simd: S,
        table: &[u32; N],
        block: usize,
        signs: S::I,
        zero: u8,
    ) {
        macro_rules! each {
            ($($k:literal)*) => {$(
                // SAFETY: the caller promises it.
                let entries = unsafe { self.entries(simd, table, 2 * block + $k) };
                for i in 0..4 {
                    let own = simd.spread_byte(signs, 2 * $k + i / 2);
                    let quants = simd.flip_bytes(entries[i], 2 * zero, own, OWN_SIGNS[i % 2]);
                    simd.store_i(quants, &mut self.quants[8 * block + 4 * $k + i]);
                }
            )*};
        }
        each!(0 1);
    }
}

/// `table[index]` for the `AT`-th index of each lane: a byte, or 16 bits where those are too few. Each index is loaded, and
/// nothing done with it: the compiler would make vectors of them, and take their lanes apart again.
///
/// # Safety
/// The indices must be below `N`.
#[inline(always)]
unsafe fn entry<S: Simd, const N: usize, const AT: usize>(
    simd: S,
    table: &[u32; N],
    indices: &[u32; LANES],
) -> S::I {
    assert!(N >= 256 && AT < if N == 256 { 4 } else { 2 });
    let indices = indices.as_ptr();
    let mut entries = [0; LANES];
    for lane in 0..LANES {
        // SAFETY: a lane has four bytes, and the caller promises that the index is in the table.
        unsafe {
            let index = match N {
                256 => usize::from(*indices.cast::<u8>().add(4 * lane + AT)),
                _ => usize::from(*indices.cast::<u16>().add(2 * lane + AT)),
            };
            debug_assert!(index < N);
            entries[lane] = *table.get_unchecked(index);
        }
    }
    simd.load_i(&entries)
}

/// Four indices, of which `low` has eight bits each and `high` `BITS` more, `STEP` apart, as two times two of 16 bits: the
/// first and the third, the second and the fourth.
#[inline(always)]
fn with_high_bits<S: Simd, const BITS: u32, const STEP: u32>(simd: S, low: S::I, high: S::I) -> [S::I; 2] {
    let own = ((1 << BITS) - 1) << 8;
    let (bytes, first, second) = (simd.splat_i(0x00ff_00ff), simd.splat_i(own), simd.splat_i(own << 16));
    macro_rules! index {
        ($low:expr, $shift:expr) => {{
            let bits = simd.and(simd.shl(high, $shift), first);
            let bits = simd.or(bits, simd.and(simd.shl(high, 16 + $shift - 2 * STEP), second));
            simd.or(simd.and($low, bytes), bits)
        }};
    }
    [index!(low, 8), index!(simd.shr(low, 8), 8 - STEP)]
}

/// The first and the last four numbers of an entry, which are nibbles.
#[inline(always)]
fn numbers<S: Simd>(simd: S, entry: S::I) -> [S::I; 2] {
    let low = simd.splat_i(0x0f0f_0f0f);
    [simd.and(entry, low), simd.and(simd.shr(entry, 4), low)]
}

/// `2 n + 1`.
#[inline(always)]
fn odd<S: Simd>(simd: S, n: S::I) -> S::I {
    simd.or(simd.shl(n, 1), simd.splat_i(1))
}

/// Four times seven bits as bytes.
#[inline(always)]
fn apart<S: Simd>(simd: S, bits: S::I) -> S::I {
    let mut bytes = simd.and(bits, simd.splat_i(0x7f));
    for (i, own) in [(1, 0x7f00), (2, 0x7f_0000), (3, 0x7f00_0000)] {
        bytes = simd.or(bytes, simd.and(simd.shl(bits, i), simd.splat_i(own)));
    }
    bytes
}

/// Eight sign bits in each byte from the lowest seven, the only ones, so that an even number is set.
#[inline(always)]
fn even_signs<S: Simd>(simd: S, bits: S::I) -> S::I {
    let [low, high] = numbers(simd, bits);
    simd.or(bits, simd.xor(simd.lookup(&PARITY, low), simd.lookup(&PARITY, high)))
}
