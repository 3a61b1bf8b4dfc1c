//! The order of the bytes of a matrix that was repacked: memory is then read from one end to the other, and a vector of words
//! with one load.
//!
//! The slices of a strip follow each other, each with the words of its 16 rows in turn. A word is what the file has at its place,
//! but for the quants of Q6_K: those are read as [`sextets`].

use super::matrix::{SLICE, WORD};
use super::simd::{LANES, Simd};
use crate::base::dtype::DType;

/// Words of four quants in a slice.
const QUANTS: usize = SLICE / WORD;

/// Words of the quants of a slice in Q6_K, as they are stored and as they are read.
const SEXTETS: usize = QUANTS / 4 * 3;

const PAIRS: u32 = 0x0303_0303;

/// Writes the part of a row that is in a slice to its places among those of 16 rows.
pub(super) fn pack(dtype: DType, row: &[u8], lane: usize, out: &mut [u8]) {
    let (whole, rest) = row.as_chunks();
    let mut words: Vec<u32> = whole.iter().copied().map(u32::from_le_bytes).collect();
    if !rest.is_empty() {
        let mut last = [0; WORD];
        last[..rest.len()].copy_from_slice(rest);
        words.push(u32::from_le_bytes(last));
    }
    if let (DType::Q6K, Some(stored)) = (dtype, words.first_chunk_mut()) {
        *stored = to_sextets(stored);
    }
    let out = out.as_chunks_mut::<WORD>().0.iter_mut().skip(lane).step_by(LANES);
    out.zip(words).for_each(|(out, word)| *out = word.to_le_bytes());
}

/// What [`pack`] made of a row, as it was; what is behind its end is of no use.
pub(super) fn unpack(dtype: DType, slice: &[u8], lane: usize) -> [u8; SLICE * WORD] {
    let mut words = [0; SLICE];
    for (out, rows) in words.iter_mut().zip(slice.as_chunks().0.as_chunks::<LANES>().0) {
        *out = u32::from_le_bytes(rows[lane]);
    }
    if let (DType::Q6K, Some(sextets)) = (dtype, words.first_chunk_mut()) {
        *sextets = from_sextets(sextets);
    }
    let mut row = [0; SLICE * WORD];
    row.as_chunks_mut().0.iter_mut().zip(words).for_each(|(out, word)| *out = word.to_le_bytes());
    row
}

/// Four words of quants below 64 from three: each is one of them with two bits of the last on top.
#[inline(always)]
pub(super) fn sextets<S: Simd>(simd: S, words: [S::I; 3]) -> [S::I; 4] {
    let own = simd.splat_i(0x3f3f_3f3f);
    let low = simd.and(simd.shr(words[0], 6), simd.splat_i(PAIRS));
    let middle = simd.and(simd.shr(words[1], 4), simd.splat_i(PAIRS << 2));
    let high = simd.and(simd.shr(words[2], 2), simd.splat_i(PAIRS << 4));
    let last = simd.or(simd.or(low, middle), high);
    [simd.and(words[0], own), simd.and(words[1], own), simd.and(words[2], own), last]
}

fn to_sextets(stored: &[u32; SEXTETS]) -> [u32; SEXTETS] {
    let mut quants = [0; QUANTS];
    for (quant, [nibbles, pairs]) in quants.iter_mut().zip(q6_k_places()) {
        let (nibbles, pairs) = (stored[nibbles.0] >> nibbles.1, stored[pairs.0] >> pairs.1);
        *quant = nibbles & 0x0f0f_0f0f | (pairs & PAIRS) << 4;
    }
    let mut sextets = [0; SEXTETS];
    for (out, four) in sextets.chunks_exact_mut(3).zip(quants.chunks_exact(4)) {
        for i in 0..3 {
            out[i] = four[i] | (four[3] >> (2 * i) & PAIRS) << 6;
        }
    }
    sextets
}

fn from_sextets(sextets: &[u32; SEXTETS]) -> [u32; SEXTETS] {
    let mut quants = [0; QUANTS];
    for (four, words) in quants.chunks_exact_mut(4).zip(sextets.chunks_exact(3)) {
        for i in 0..3 {
            four[i] = words[i] & 0x3f3f_3f3f;
            four[3] |= (words[i] >> 6 & PAIRS) << (2 * i);
        }
    }
    let mut stored = [0; SEXTETS];
    for (quant, [nibbles, pairs]) in quants.iter().zip(q6_k_places()) {
        stored[nibbles.0] |= (quant & 0x0f0f_0f0f) << nibbles.1;
        stored[pairs.0] |= (quant >> 4 & PAIRS) << pairs.1;
    }
    stored
}

/// Where Q6_K has the four lowest and the two highest bits of each word of quants: a word, and how far they are shifted in it.
fn q6_k_places() -> impl Iterator<Item = [(usize, u32); 2]> {
    (0..QUANTS).map(|quant| {
        let (half, block, i) = (quant / 32, quant / 8 % 4, quant % 8);
        [(16 * half + 8 * (block % 2) + i, 4 * (block as u32 / 2)), (32 + 8 * half + i, 2 * block as u32)]
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_back() {
        let byte = |i: usize| (i * 167 % 251) as u8;
        for (dtype, len) in [(DType::Q6K, 210_usize), (DType::Q4K, 144), (DType::Q8_0, 34), (DType::BF16, 14)]
        {
            let mut slice = vec![0; len.next_multiple_of(WORD) * LANES];
            let row = |lane: usize| (0..len).map(|i| byte(i + 1000 * lane)).collect::<Vec<u8>>();
            (0..LANES).for_each(|lane| pack(dtype, &row(lane), lane, &mut slice));
            for lane in 0..LANES {
                assert_eq!(unpack(dtype, &slice, lane)[..len], row(lane), "{dtype} {lane}");
            }
        }
    }
}
