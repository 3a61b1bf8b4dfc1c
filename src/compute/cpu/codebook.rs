//! Unpacks the types that store indices of codebooks: an index becomes eight or four numbers of up to three bits,
//! a sign bit is put over each, and a table gives the quant.

#![expect(
    clippy::needless_range_loop,
    reason = "indices go to several arrays, and closures are not inlined reliably"
)]

use super::matrix::{Quants, Slice};
use super::simd::Simd;
use crate::format::blocks::grids::{IQ1, IQ2_S, IQ2_XS, IQ2_XXS, IQ3_S, IQ3_XXS};
use crate::format::blocks::{IQ2_VALUES, IQ3_S_VALUES, IQ3_XXS_VALUES};

/// The quants of signed values: greater by their greatest value than what they stand for.
const IQ2: ([u8; 16], u8) = signed(&IQ2_VALUES);
const IQ3_X: ([u8; 16], u8) = signed(&IQ3_XXS_VALUES);
const IQ3: ([u8; 16], u8) = signed(&IQ3_S_VALUES);

/// What the scales of IQ2 are odd multiples of, as a part of `d`.
const IQ2_UNIT: f32 = 0.125;

/// The quants of IQ1_M, eight times the values: with bit 3 the shift is downwards.
const IQ1_M: ([u8; 16], u8) = ([2, 10, 18, 0, 0, 0, 0, 0, 0, 8, 16, 0, 0, 0, 0, 0], 9);

/// Quants by the index of a magnitude and, in bit 3, the sign; and the quant that stands for 0.
const fn signed(magnitudes: &[u8]) -> ([u8; 16], u8) {
    let zero = magnitudes[magnitudes.len() - 1];
    let (mut table, mut i) = ([zero; 16], 0);
    while i < magnitudes.len() {
        table[i] = zero + magnitudes[i];
        table[i + 8] = zero - magnitudes[i];
        i += 1;
    }
    (table, zero)
}

impl Quants {
    #[inline(always)]
    pub(super) fn iq2_xxs<S: Simd, const P: bool>(&mut self, simd: S, slice: &Slice<P>) {
        let unit = simd.mul(simd.half_to_f(slice.words(simd, 0)[0]), simd.splat(IQ2_UNIT));
        for pair in 0..4 {
            let words = slice.words(simd, 2 + 16 * pair);
            for part in 0..2 {
                let (block, indices, signs) = (2 * pair + part, words[2 * part], words[2 * part + 1]);
                self.factor(simd, block, unit, odd(simd, simd.shr(signs, 28)));
                for i in 0..4 {
                    let entry = simd.gather(&IQ2_XXS, byte(simd, indices, i));
                    let signs = even_signs(simd, simd.shr(signs, 7 * i as u32));
                    self.eight(simd, 4 * block + i, entry, signs);
                }
            }
        }
        self.zero(simd, unit, 8, IQ2.1);
    }

    #[inline(always)]
    pub(super) fn iq2_xs<S: Simd, const P: bool>(&mut self, simd: S, slice: &Slice<P>) {
        let d = simd.half_to_f(slice.words(simd, 0)[0]);
        let [_, _, first, second] = slice.words(simd, 58);
        self.iq2_scales(simd, d, [first, second]);
        for quarter in 0..4 {
            let words = slice.words(simd, 2 + 16 * quarter);
            for i in 0..8 {
                let stored = simd.shr(words[i / 2], 16 * (i as u32 % 2));
                let entry = simd.gather(&IQ2_XS, stored);
                self.eight(simd, 8 * quarter + i, entry, even_signs(simd, simd.shr(stored, 9)));
            }
        }
    }

    #[inline(always)]
    pub(super) fn iq2_s<S: Simd, const P: bool>(&mut self, simd: S, slice: &Slice<P>) {
        let d = simd.half_to_f(slice.words(simd, 0)[0]);
        let [first, second, scales @ ..] = slice.words(simd, 66);
        self.iq2_scales(simd, d, scales);
        for half in 0..2 {
            let (low, signs) = (slice.words(simd, 2 + 16 * half), slice.words(simd, 34 + 16 * half));
            let high = if half == 0 { first } else { second };
            for i in 0..16 {
                let high = simd.and(simd.shr(high, 2 * i as u32), simd.splat_i(3));
                let index = simd.or(byte(simd, low[i / 4], i % 4), simd.shl(high, 8));
                let entry = simd.gather(&IQ2_S, index);
                self.eight(simd, 16 * half + i, entry, byte(simd, signs[i / 4], i % 4));
            }
        }
    }

    #[inline(always)]
    pub(super) fn iq3_xxs<S: Simd, const P: bool>(&mut self, simd: S, slice: &Slice<P>) {
        let unit = simd.mul(simd.half_to_f(slice.words(simd, 0)[0]), simd.splat(0.25));
        let signs = slice.wide_words(simd, 66);
        for pair in 0..4 {
            let indices = slice.words(simd, 2 + 16 * pair);
            for part in 0..2 {
                let block = 2 * pair + part;
                self.factor(simd, block, unit, odd(simd, simd.shr(signs[block], 28)));
                for i in 0..4 {
                    let (word, at) = (indices[2 * part + i / 2], 2 * (i % 2));
                    let first = simd.gather(&IQ3_XXS, byte(simd, word, at));
                    let second = simd.gather(&IQ3_XXS, byte(simd, word, at + 1));
                    let signs = even_signs(simd, simd.shr(signs[block], 7 * i as u32));
                    self.fours(simd, 4 * block + i, [first, second], signs, &IQ3_X.0);
                }
            }
        }
        self.zero(simd, unit, 8, IQ3_X.1);
    }

    #[inline(always)]
    pub(super) fn iq3_s<S: Simd, const P: bool>(&mut self, simd: S, slice: &Slice<P>) {
        let d = simd.half_to_f(slice.words(simd, 0)[0]);
        let scales = slice.words(simd, 94)[3];
        let one = simd.splat_i(1);
        for block in 0..8 {
            let stored = simd.and(simd.shr(scales, 4 * block as u32), simd.splat_i(15));
            self.factor(simd, block, d, odd(simd, stored));
        }
        self.zero(simd, d, 8, IQ3.1);
        let high = slice.words(simd, 66);
        for quarter in 0..4 {
            let low = slice.words(simd, 2 + 16 * quarter);
            let signs = slice.words(simd, 74 + 16 * (quarter / 2));
            for i in 0..8 {
                let mut entries = [one; 2];
                for n in 0..2 {
                    let at = 16 * quarter + 2 * i + n;
                    let bit = simd.and(simd.shr(high[at / 32], at as u32 % 32), one);
                    let index = simd.or(byte(simd, low[i / 2], 2 * (i % 2) + n), simd.shl(bit, 8));
                    entries[n] = simd.gather(&IQ3_S, index);
                }
                let at = 8 * quarter + i;
                let signs = byte(simd, signs[at % 16 / 4], at % 4);
                self.fours(simd, at, entries, signs, &IQ3.0);
            }
        }
    }

    #[inline(always)]
    pub(super) fn iq1_s<S: Simd, const P: bool>(&mut self, simd: S, slice: &Slice<P>) {
        let d = simd.half_to_f(slice.words(simd, 0)[0]);
        let high = slice.words(simd, 34);
        let (seven, low) = (simd.splat_i(7), simd.splat_i(0x0f0f_0f0f));
        for half in 0..2 {
            let indices = slice.words(simd, 2 + 16 * half);
            for part in 0..4 {
                let block = 4 * half + part;
                let high = simd.shr(high[block / 2], 16 * (block as u32 % 2));
                let factor = odd(simd, simd.and(simd.shr(high, 12), seven));
                // 1/8 with the sign of the shift.
                let sign = simd.and(simd.shl(high, 16), simd.splat_i(0x8000_0000));
                let delta = simd.bits_f(simd.or(sign, simd.splat_i(0.125f32.to_bits())));
                let scale = simd.mul(d, simd.to_f(factor));
                self.factor(simd, block, d, factor);
                simd.store(simd.mul_sub(scale, delta, scale), &mut self.mins[block]);
                for i in 0..4 {
                    let high = simd.and(simd.shr(high, 3 * i as u32), seven);
                    let index = simd.or(byte(simd, indices[part], i), simd.shl(high, 8));
                    let (entry, at) = (simd.gather(&IQ1, index), 8 * block + 2 * i);
                    simd.store_i(simd.and(entry, low), &mut self.quants[at]);
                    simd.store_i(simd.and(simd.shr(entry, 4), low), &mut self.quants[at + 1]);
                }
            }
        }
        simd.store(d, &mut self.unit);
    }

    #[inline(always)]
    pub(super) fn iq1_m<S: Simd, const P: bool>(&mut self, simd: S, slice: &Slice<P>) {
        let [_, _, first, second] = slice.words(simd, 40);
        let scales = [first, simd.shr(first, 16), second, simd.shr(second, 16)];
        let (seven, eight, top) = (simd.splat_i(7), simd.splat_i(8), simd.splat_i(0xf000));
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
            let indices = slice.words(simd, 16 * half);
            for i in 0..16 {
                let at = 16 * half + i;
                let high = simd.shr(high[at / 8], 4 * (at as u32 % 8));
                let index = simd.or(byte(simd, indices[i / 4], i % 4), simd.shl(simd.and(high, seven), 8));
                let entry = simd.gather(&IQ1, index);
                let shift = four_bytes(simd, simd.and(high, eight));
                self.numbers(simd, at, entry, [shift; 2], &IQ1_M.0);
            }
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

    /// The `at`-th eight quants of IQ2, with a byte of signs.
    #[inline(always)]
    fn eight<S: Simd>(&mut self, simd: S, at: usize, entry: S::I, signs: S::I) {
        self.numbers(simd, at, entry, sign_bits(simd, signs), &IQ2.0);
    }

    /// The `at`-th eight quants from the nibbles of an entry, with what is put over the first and last four.
    #[inline(always)]
    fn numbers<S: Simd>(&mut self, simd: S, at: usize, entry: S::I, over: [S::I; 2], table: &[u8; 16]) {
        let low = simd.splat_i(0x0f0f_0f0f);
        let entries = [simd.and(entry, low), simd.and(simd.shr(entry, 4), low)];
        for i in 0..2 {
            let quants = simd.lookup(table, simd.or(entries[i], over[i]));
            simd.store_i(quants, &mut self.quants[2 * at + i]);
        }
    }

    /// The `at`-th eight quants of IQ3, with a byte of signs.
    #[inline(always)]
    fn fours<S: Simd>(&mut self, simd: S, at: usize, entries: [S::I; 2], signs: S::I, table: &[u8; 16]) {
        let signs = sign_bits(simd, signs);
        for i in 0..2 {
            let quants = simd.lookup(table, simd.or(entries[i], signs[i]));
            simd.store_i(quants, &mut self.quants[2 * at + i]);
        }
    }
}

/// `2 n + 1`.
#[inline(always)]
fn odd<S: Simd>(simd: S, n: S::I) -> S::I {
    simd.or(simd.shl(n, 1), simd.splat_i(1))
}

/// Byte `i` of each lane.
#[inline(always)]
fn byte<S: Simd>(simd: S, word: S::I, i: usize) -> S::I {
    simd.and(simd.shr(word, 8 * i as u32), simd.splat_i(0xff))
}

/// The lowest byte in all four; there is nothing above it.
#[inline(always)]
fn four_bytes<S: Simd>(simd: S, byte: S::I) -> S::I {
    let two = simd.or(byte, simd.shl(byte, 8));
    simd.or(two, simd.shl(two, 16))
}

/// Bits 0 to 3 and 4 to 7 of a byte, each as bit 3 of a byte.
#[inline(always)]
fn sign_bits<S: Simd>(simd: S, signs: S::I) -> [S::I; 2] {
    let signs = four_bytes(simd, signs);
    let (carry, bit) = (simd.splat_i(0x7f7f_7f7f), simd.splat_i(0x0808_0808));
    let mut bits = [signs; 2];
    for (i, own) in [0x0804_0201, 0x8040_2010].into_iter().enumerate() {
        // Where the bit is set, the sum reaches 128.
        let sum = simd.add_i(simd.and(signs, simd.splat_i(own)), carry);
        bits[i] = simd.and(simd.shr(sum, 4), bit);
    }
    bits
}

/// Eight sign bits from the lowest seven, so that an even number is set.
#[inline(always)]
fn even_signs<S: Simd>(simd: S, bits: S::I) -> S::I {
    let seven = simd.and(bits, simd.splat_i(0x7f));
    let mut parity = simd.xor(seven, simd.shr(seven, 4));
    parity = simd.xor(parity, simd.shr(parity, 2));
    parity = simd.xor(parity, simd.shr(parity, 1));
    simd.or(seven, simd.shl(simd.and(parity, simd.splat_i(1)), 7))
}
