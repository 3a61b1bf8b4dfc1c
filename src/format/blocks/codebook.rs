//! Types that store indices of codebooks, see [`grids`]: a vector of magnitudes for each index, and signs.

use super::{each_mut, grids, half_at};

/// The magnitudes that the numbers of [`grids::IQ2_XXS`], [`grids::IQ2_XS`] and [`grids::IQ2_S`] stand for.
pub const IQ2_VALUES: [u8; 3] = [8, 25, 43];

/// The magnitudes that the numbers of [`grids::IQ3_XXS`] stand for.
pub const IQ3_XXS_VALUES: [u8; 8] = [4, 12, 20, 28, 36, 44, 52, 62];

/// The magnitudes that the numbers of [`grids::IQ3_S`] stand for.
pub const IQ3_S_VALUES: [u8; 8] = [1, 3, 5, 7, 9, 11, 13, 15];

/// The shift of IQ1_S and IQ1_M.
const IQ1_DELTA: f32 = 0.125;

/// Eight sign bits from seven: an even number is set.
pub fn even_signs(seven: u32) -> u8 {
    let seven = (seven & 0x7f) as u8;
    seven | (seven.count_ones() as u8 & 1) << 7
}

pub(super) fn iq2_xxs(block: &[u8; 66], out: &mut [f32; 256]) {
    let d = half_at(block, 0);
    each_mut(out, |i, out: &mut [f32; 32]| {
        let part = &block[2 + 8 * i..][..8];
        let signs = word(part, 4);
        let scale = d * (0.5 + (signs >> 28) as f32) * 0.25;
        each_mut(out, |j, out| {
            let entry = grids::IQ2_XXS[part[j] as usize];
            eight(entry, even_signs(signs >> (7 * j)), scale, out);
        });
    });
}

pub(super) fn iq2_xs(block: &[u8; 74], out: &mut [f32; 256]) {
    let d = half_at(block, 0);
    each_mut(out, |i, out| {
        let stored = usize::from(half_word(block, 2 + 2 * i));
        let scale = d * (0.5 + f32::from(nibble(&block[66..], i / 2))) * 0.25;
        eight(grids::IQ2_XS[stored & 511], even_signs(stored as u32 >> 9), scale, out);
    });
}

pub(super) fn iq2_s(block: &[u8; 82], out: &mut [f32; 256]) {
    let d = half_at(block, 0);
    each_mut(out, |i, out| {
        let high = usize::from(block[66 + i / 4] >> (i % 4 * 2) & 3);
        let scale = d * (0.5 + f32::from(nibble(&block[74..], i / 2))) * 0.25;
        eight(grids::IQ2_S[usize::from(block[2 + i]) | high << 8], block[34 + i], scale, out);
    });
}

pub(super) fn iq3_xxs(block: &[u8; 98], out: &mut [f32; 256]) {
    let d = half_at(block, 0);
    each_mut(out, |i, out| {
        let signs = word(block, 66 + i / 4 * 4);
        let scale = d * (0.5 + (signs >> 28) as f32) * 0.5;
        let entries = [0, 1].map(|n| grids::IQ3_XXS[block[2 + 2 * i + n] as usize]);
        fours(entries, &IQ3_XXS_VALUES, even_signs(signs >> (i % 4 * 7)), scale, out);
    });
}

pub(super) fn iq3_s(block: &[u8; 110], out: &mut [f32; 256]) {
    let d = half_at(block, 0);
    each_mut(out, |i, out| {
        let scale = d * f32::from(1 + 2 * nibble(&block[106..], i / 4));
        let entries = [2 * i, 2 * i + 1].map(|n| {
            let high = usize::from(block[66 + n / 8] >> (n % 8) & 1);
            grids::IQ3_S[usize::from(block[2 + n]) | high << 8]
        });
        fours(entries, &IQ3_S_VALUES, block[74 + i], scale, out);
    });
}

pub(super) fn iq1_s(block: &[u8; 50], out: &mut [f32; 256]) {
    let d = half_at(block, 0);
    each_mut(out, |i, out| {
        let high = half_word(block, 34 + i / 4 * 2);
        let scale = d * f32::from(2 * (high >> 12 & 7) + 1);
        let index = usize::from(block[2 + i]) | usize::from(high >> (3 * (i % 4)) & 7) << 8;
        shifted(grids::IQ1[index], high >> 15 == 1, scale, out);
    });
}

pub(super) fn iq1_m(block: &[u8; 56], out: &mut [f32; 256]) {
    let scales: [u16; 4] = std::array::from_fn(|i| half_word(block, 48 + 2 * i));
    let bits = (0..4).fold(0, |bits, i| bits | scales[i] >> 12 << (4 * i));
    let d = half::f16::from_bits(bits).to_f32();
    each_mut(out, |i, out| {
        let high = nibble(&block[32..], i);
        let scale = d * f32::from(2 * (scales[i / 8] >> (i / 2 % 4 * 3) & 7) + 1);
        shifted(grids::IQ1[usize::from(block[i]) | usize::from(high & 7) << 8], high & 8 != 0, scale, out);
    });
}

/// Eight values of IQ2: number `i` of an entry is in byte `i % 4`.
fn eight(entry: u32, signs: u8, scale: f32, out: &mut [f32; 8]) {
    for (i, out) in out.iter_mut().enumerate() {
        *out = scale * f32::from(IQ2_VALUES[number(entry, i)]) * sign(signs, i);
    }
}

/// Eight values of IQ3.
fn fours(entries: [u32; 2], values: &[u8; 8], signs: u8, scale: f32, out: &mut [f32; 8]) {
    for (i, out) in out.iter_mut().enumerate() {
        let number = entries[i / 4].to_le_bytes()[i % 4];
        *out = scale * f32::from(values[number as usize]) * sign(signs, i);
    }
}

/// Eight values of IQ1.
fn shifted(entry: u32, is_down: bool, scale: f32, out: &mut [f32; 8]) {
    let delta = if is_down { -IQ1_DELTA } else { IQ1_DELTA };
    for (i, out) in out.iter_mut().enumerate() {
        *out = scale * (number(entry, i) as f32 - 1.0 + delta);
    }
}

/// Number `i` of the eight in an entry.
fn number(entry: u32, i: usize) -> usize {
    (entry >> (8 * (i % 4) + 4 * (i / 4)) & 15) as usize
}

fn sign(signs: u8, i: usize) -> f32 {
    if signs >> i & 1 == 1 { -1.0 } else { 1.0 }
}

fn nibble(bytes: &[u8], i: usize) -> u8 {
    bytes[i / 2] >> (i % 2 * 4) & 15
}

fn half_word(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(*bytes[at..].first_chunk().expect("four bytes"))
}
