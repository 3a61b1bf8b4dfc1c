//! The order of the bytes of a matrix that was repacked: memory is then read from one end to the other, and a vector of words
//! with one load.
//!
//! The slices of a strip follow each other, each with the words of its 16 rows in turn. A word is what the file has at its place,
//! but for the quants of Q3_K and Q6_K, which have their bits in two places: there, three words hold eight or four words of
//! quants, most of them whole.

use super::simd::{LANES, Simd};
use crate::base::dtype::DType;

/// Columns that are unpacked at a time: the longest block of any type.
pub(super) const SLICE: usize = 256;

/// Bytes of a lane.
pub(super) const WORD: usize = size_of::<u32>();

/// Words of quants whose bits are moved, in the type that has most of them.
const MOVED_MAX: usize = 48;

/// Writes the part of a row that is in a slice to its places among those of 16 rows, all of which [`arrange`] then takes.
#[inline]
pub(super) fn pack(row: &[u8], lane: usize, out: &mut [u8]) {
    let (words, rest) = row.as_chunks::<WORD>();
    let out = out.as_chunks_mut::<WORD>().0;
    for (out, word) in out.iter_mut().skip(lane).step_by(LANES).zip(words) {
        *out = *word;
    }
    if !rest.is_empty() {
        let mut last = [0; WORD];
        last[..rest.len()].copy_from_slice(rest);
        out[words.len() * LANES + lane] = last;
    }
}

/// Moves the bits of the quants of 16 rows to where they are read.
pub(super) fn arrange(dtype: DType, slice: &mut [u8]) {
    let mut words = [[0; LANES]; MOVED_MAX];
    let (moves, count) = moves(dtype);
    let stored = slice.as_chunks_mut::<WORD>().0.as_chunks_mut::<LANES>().0;
    for (word, stored) in words.iter_mut().zip(&stored[..count]) {
        for (word, bytes) in word.iter_mut().zip(stored) {
            *word = u32::from_le_bytes(*bytes);
        }
    }
    let moved = moved(&words, moves.iter().copied());
    for (stored, word) in stored[..count].iter_mut().zip(moved) {
        for (bytes, word) in stored.iter_mut().zip(word) {
            *bytes = word.to_le_bytes();
        }
    }
}

/// A row as it was before [`pack`] and [`arrange`]; what is behind its end is of no use.
pub(super) fn unpack(dtype: DType, slice: &[u8], lane: usize) -> [u8; SLICE * WORD] {
    let mut row = [0; SLICE * WORD];
    let stored = row.as_chunks_mut::<WORD>().0;
    for (word, rows) in stored.iter_mut().zip(slice.as_chunks().0.as_chunks::<LANES>().0) {
        *word = rows[lane];
    }
    let mut words = [[0]; MOVED_MAX];
    let (moves, count) = moves(dtype);
    for (word, stored) in words.iter_mut().zip(&stored[..count]) {
        *word = [u32::from_le_bytes(*stored)];
    }
    let moved = moved(&words, moves.iter().map(|&[from, to]| [to, from]));
    for (stored, [word]) in stored[..count].iter_mut().zip(moved) {
        *stored = word.to_le_bytes();
    }
    row
}

/// Four words of quants below 64, of Q6_K.
#[inline(always)]
pub(super) fn sextets<S: Simd>(simd: S, words: [S::I; 3]) -> [S::I; 4] {
    let own = simd.splat_i(0x3f3f_3f3f);
    let low = simd.and(simd.shr(words[0], 6), simd.splat_i(0x0303_0303));
    let middle = simd.and(simd.shr(words[1], 4), simd.splat_i(0x0c0c_0c0c));
    let high = simd.and(simd.shr(words[2], 2), simd.splat_i(0x3030_3030));
    let last = simd.or(simd.or(low, middle), high);
    [simd.and(words[0], own), simd.and(words[1], own), simd.and(words[2], own), last]
}

/// Eight words of quants below 8, of Q3_K.
#[inline(always)]
pub(super) fn triplets<S: Simd>(simd: S, words: [S::I; 3]) -> [S::I; 8] {
    let (own, low, high) = (simd.splat_i(0x0707_0707), simd.splat_i(0x0303_0303), simd.splat_i(0x0404_0404));
    let mut quants = [own; 8];
    for i in 0..3 {
        quants[2 * i] = simd.and(words[i], own);
        quants[2 * i + 1] = simd.and(simd.shr(words[i], 3), own);
    }
    for i in 0..2 {
        let third = simd.and(simd.shr(words[2], 4 + i as u32), high);
        quants[6 + i] = simd.or(simd.and(simd.shr(words[i], 6), low), third);
    }
    quants
}

/// Bits of each byte of a word: which word, from which bit on, and how many as a mask.
#[derive(Clone, Copy)]
struct Bits(usize, u32, u32);

/// Words of `N` rows with their bits moved.
fn moved<const N: usize>(
    words: &[[u32; N]; MOVED_MAX],
    moves: impl Iterator<Item = [Bits; 2]>,
) -> [[u32; N]; MOVED_MAX] {
    let mut moved = [[0; N]; MOVED_MAX];
    for [from, to] in moves {
        let (word, out, mask) = (&words[from.0], &mut moved[to.0], from.2 * 0x0101_0101);
        for row in 0..N {
            out[row] |= ((word[row] >> from.1) & mask) << to.1;
        }
    }
    moved
}

/// Where the bits of a type are stored, and where they are read; in how many words they are.
fn moves(dtype: DType) -> (&'static [[Bits; 2]], usize) {
    match dtype {
        DType::Q3K => (&Q3_K, 24),
        DType::Q6K => (&Q6_K, 48),
        _ => (&[], 0),
    }
}

/// Two bits and the third of each word of quants. Six of eight words are whole, two in a word; the others have two bits in
/// the first and the second word, and one in the third.
const Q3_K: [[Bits; 2]; 128] = {
    let mut moves = [[Bits(0, 0, 0); 2]; 128];
    let mut i = 0;
    while i < moves.len() {
        let (quant, part) = (i / 2, i % 2);
        let (block, word) = (quant / 8, quant % 8);
        let mask = if part == 0 { 3 } else { 1 };
        let (from, at) = match part {
            0 => (8 + block / 4 * 8 + word, block % 4 * 2),
            _ => (word, block),
        };
        let (to, place) = match (word, part) {
            (0..6, _) => (word / 2, word % 2 * 3 + 2 * part),
            (_, 0) => (word - 6, 6),
            _ => (2, word),
        };
        moves[i] = [Bits(from, at as u32, mask), Bits(3 * block + to, place as u32, mask)];
        i += 1;
    }
    moves
};

/// Two bits, two more and two more of each word of quants. Three of four words are whole; the last has two bits in each of
/// their words.
const Q6_K: [[Bits; 2]; 192] = {
    let mut moves = [[Bits(0, 0, 0); 2]; 192];
    let mut i = 0;
    while i < moves.len() {
        let (quant, part) = (i / 3, i % 3);
        let (half, block, word) = (quant / 32, quant / 8 % 4, quant % 8);
        let (from, at) = match part {
            0 | 1 => (half * 16 + block % 2 * 8 + word, block / 2 * 4 + 2 * part),
            _ => (32 + half * 8 + word, 2 * block),
        };
        let (to, place) = match quant % 4 {
            3 => (part, 6),
            own => (own, 2 * part),
        };
        moves[i] = [Bits(from, at as u32, 3), Bits(quant / 4 * 3 + to, place as u32, 3)];
        i += 1;
    }
    moves
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_back() {
        let byte = |i: usize| (i * 167 % 251) as u8;
        for (dtype, len) in [
            (DType::Q6K, 210_usize),
            (DType::Q3K, 110),
            (DType::Q4K, 144),
            (DType::Q8_0, 34),
            (DType::BF16, 14),
            (DType::F32, 1024),
        ] {
            let mut slice = vec![0; len.next_multiple_of(WORD) * LANES];
            let row = |lane: usize| (0..len).map(|i| byte(i + 1000 * lane)).collect::<Vec<u8>>();
            (0..LANES).for_each(|lane| pack(&row(lane), lane, &mut slice));
            arrange(dtype, &mut slice);
            for lane in 0..LANES {
                assert_eq!(unpack(dtype, &slice, lane)[..len], row(lane), "{dtype} {lane}");
            }
        }
    }
}
