//! The block formats of GGUF: how each stores its elements, and their exact values.
//!
//! A block holds integers (or indices of a table) and the scales they share; `d`, `dmin` are f16. Layouts
//! follow the GGML type definitions (ggml-org/ggml, `ggml-common.h`); nibbles are stored so that the low
//! ones of a group of bytes come first, then the high ones.
//!
//! | type | block | layout | value |
//! |---|---|---|---|
//! | Q8_0 | 32 | d, 32 i8 | `d q` |
//! | Q4_0 | 32 | d, 16 nibble pairs | `d (q - 8)` |
//! | Q4_1 | 32 | d, m, 16 nibble pairs | `d q + m` |
//! | Q5_0 | 32 | d, 32 high bits, 16 nibble pairs | `d (q - 16)` |
//! | Q5_1 | 32 | d, m, 32 high bits, 16 nibble pairs | `d q + m` |
//! | MXFP4 | 32 | E8M0 exponent e, 16 nibble pairs | `2^(e-127) E2M1[q]` |
//! | NVFP4 | 64 | 4 unsigned E4M3 scales s, 4 x 8 nibble pairs | `s E2M1[q]` |
//! | IQ4_NL | 32 | d, 16 nibble pairs | `d VALUES[q]` |
//! | Q2_K | 256 | 16 pairs of 4-bit scales and minima, 2 x 32 x 4 bit pairs, d, dmin | `d s q - dmin m` |
//! | Q3_K | 256 | 32 bytes of high bits, 2 x 32 x 4 bit pairs, 12 bytes of 6-bit scales, d | `d (s - 32) (q - 4)` |
//! | Q4_K | 256 | d, dmin, 12 bytes of 6-bit scales and minima, 4 x 32 nibble pairs | `d s q - dmin m` |
//! | Q5_K | 256 | as Q4_K, 32 bytes of high bits before the nibbles | `d s q - dmin m` |
//! | Q6_K | 256 | 128 bytes of low nibbles, 64 of high bit pairs, 16 i8 scales, d | `d s (q - 32)` |
//! | IQ4_XS | 256 | d, 16 + 32 bits of 6-bit scales, 8 x 16 nibble pairs | `d (s - 32) VALUES[q]` |
//! | IQ2_XXS | 256 | d, 8 x (4 indices, 4 x 7 signs, s) | `d (s + 1/2) ± MAGNITUDES[q] / 4` |
//! | IQ2_XS | 256 | d, 32 x (9-bit index, 7 signs), 16 nibbles s | as IQ2_XXS |
//! | IQ2_S | 256 | d, 32 low bytes of indices, 32 x 8 signs, 32 high bit pairs, 16 nibbles s | as IQ2_XXS |
//! | IQ3_XXS | 256 | d, 64 indices, 8 x (4 x 7 signs, s) | `d (s + 1/2) ± MAGNITUDES[q] / 2` |
//! | IQ3_S | 256 | d, 64 low bytes of indices, 64 high bits, 32 x 8 signs, 8 nibbles s | `d (2 s + 1) ± MAGNITUDES[q]` |
//! | IQ1_S | 256 | d, 32 low bytes of indices, 8 x (4 x 3 high bits, s, sign of the shift) | `d (2 s + 1) (q - 1 ± 1/8)` |
//! | IQ1_M | 256 | 32 low bytes of indices, 32 x (3 high bits, sign of the shift), 16 x s and d | as IQ1_S |
//! | TQ1_0 | 256 | 32, 16 and 4 bytes of base-3 digits, d | `d (q - 1)` |
//! | TQ2_0 | 256 | 2 x 32 x 4 bit pairs, d | `d (q - 1)` |

mod codebook;
mod encode;
pub mod grids;
mod nearest;

pub use codebook::{IQ2_VALUES, IQ3_S_VALUES, IQ3_XXS_VALUES, even_signs};
pub use encode::{Ineligible, WRITABLE, from_f32, from_f32_weighted, is_writable};

use half::f16;

use crate::base::dtype::{self, DType};

/// The values that the indices of IQ4_NL and IQ4_XS stand for.
pub const IQ4_VALUES: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// Twice the value of each E2M1 bit pattern.
pub const E2M1_DOUBLED: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// Half the value of an E8M0 exponent, `2^(e - 128)`: the scale that goes with [`E2M1_DOUBLED`].
pub fn e8m0_halved(e: u8) -> f32 {
    // The two smallest are subnormal.
    f32::from_bits(if e < 2 { 0x0020_0000 << e } else { u32::from(e - 1) << 23 })
}

/// The scale of an unsigned E4M3 number of NVFP4 that goes with [`E2M1_DOUBLED`]: half its value.
pub static UE4M3_HALVED: [f32; 256] = {
    let mut values = [0.0; 256];
    let mut bits = 0;
    while bits < 256 {
        // Bit 7 counts for nothing but that 0x7f alone is no number, which reads as 0.
        values[bits] = if bits == 0x7f { 0.0 } else { e4m3_halved(bits as u32 & 0x7f) };
        bits += 1;
    }
    values
};

const fn e4m3_halved(bits: u32) -> f32 {
    let (exponent, mantissa) = (bits >> 3, (bits & 7) as f32);
    if exponent == 0 {
        mantissa / 1024.0
    } else {
        f32::from_bits((exponent + 127 - 8) << 23) * (1.0 + mantissa / 8.0)
    }
}

/// The 6-bit scale and minimum of sub-block `i` of a Q4_K or Q5_K block, from its 12 packed bytes.
pub fn scale_min(packed: &[u8; 12], i: usize) -> (u8, u8) {
    if i < 4 {
        (packed[i] & 63, packed[i + 4] & 63)
    } else {
        let scale = packed[i + 4] & 15 | packed[i - 4] >> 6 << 4;
        (scale, packed[i + 4] >> 4 | packed[i] >> 6 << 4)
    }
}

/// Dequantises elements of any type to f32. `bytes` holds exactly `out.len()` elements, a multiple of the block
/// length, at any alignment.
pub fn to_f32(dtype: DType, bytes: &[u8], out: &mut [f32]) {
    assert_eq!(Some(bytes.len()), dtype.bytes(out.len()));
    match dtype {
        DType::F32 | DType::F16 | DType::BF16 | DType::F8E4M3 => dtype::to_f32(dtype, bytes, out),
        DType::Q8_0 => each(bytes, out, q8_0),
        DType::Q4_0 => each(bytes, out, q4_0),
        DType::Q4_1 => each(bytes, out, q4_1),
        DType::Q5_0 => each(bytes, out, q5_0),
        DType::Q5_1 => each(bytes, out, q5_1),
        DType::Mxfp4 => each(bytes, out, mxfp4),
        DType::Nvfp4 => each(bytes, out, nvfp4),
        DType::Iq4Nl => each(bytes, out, iq4_nl),
        DType::Q2K => each(bytes, out, q2_k),
        DType::Q3K => each(bytes, out, q3_k),
        DType::Q4K => each(bytes, out, q4_k),
        DType::Q5K => each(bytes, out, q5_k),
        DType::Q6K => each(bytes, out, q6_k),
        DType::Iq4Xs => each(bytes, out, iq4_xs),
        DType::Iq2Xxs => each(bytes, out, codebook::iq2_xxs),
        DType::Iq2Xs => each(bytes, out, codebook::iq2_xs),
        DType::Iq2S => each(bytes, out, codebook::iq2_s),
        DType::Iq3Xxs => each(bytes, out, codebook::iq3_xxs),
        DType::Iq3S => each(bytes, out, codebook::iq3_s),
        DType::Iq1S => each(bytes, out, codebook::iq1_s),
        DType::Iq1M => each(bytes, out, codebook::iq1_m),
        DType::Tq1_0 => each(bytes, out, tq1_0),
        DType::Tq2_0 => each(bytes, out, tq2_0),
    }
}

fn each<const B: usize, const N: usize>(
    bytes: &[u8],
    out: &mut [f32],
    block: impl Fn(&[u8; B], &mut [f32; N]),
) {
    for (bytes, out) in bytes.as_chunks().0.iter().zip(out.as_chunks_mut().0) {
        block(bytes, out);
    }
}

/// Calls `part` for each N elements, with their place.
fn each_mut<const N: usize>(out: &mut [f32], mut part: impl FnMut(usize, &mut [f32; N])) {
    for (i, out) in out.as_chunks_mut().0.iter_mut().enumerate() {
        part(i, out);
    }
}

fn half_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// `out[i] = value(low nibble i)`, `out[n + i] = value(high nibble i)` for the n bytes of `pairs`.
fn nibbles(pairs: &[u8], out: &mut [f32], value: impl Fn(u8) -> f32) {
    let (low, high) = out.split_at_mut(pairs.len());
    for ((pair, low), high) in pairs.iter().zip(low).zip(high) {
        *low = value(pair & 15);
        *high = value(pair >> 4);
    }
}

fn q8_0(block: &[u8; 34], out: &mut [f32; 32]) {
    let d = half_at(block, 0);
    for (out, &q) in out.iter_mut().zip(&block[2..]) {
        *out = d * f32::from(q as i8);
    }
}

fn q4_0(block: &[u8; 18], out: &mut [f32; 32]) {
    let d = half_at(block, 0);
    nibbles(&block[2..], out, |q| d * (f32::from(q) - 8.0));
}

fn q4_1(block: &[u8; 20], out: &mut [f32; 32]) {
    let (d, m) = (half_at(block, 0), half_at(block, 2));
    nibbles(&block[4..], out, |q| d * f32::from(q) + m);
}

fn q5_0(block: &[u8; 22], out: &mut [f32; 32]) {
    let d = half_at(block, 0);
    for (i, out) in out.iter_mut().enumerate() {
        *out = d * (f32::from(five_bits(&block[2..], i)) - 16.0);
    }
}

fn q5_1(block: &[u8; 24], out: &mut [f32; 32]) {
    let (d, m) = (half_at(block, 0), half_at(block, 2));
    for (i, out) in out.iter_mut().enumerate() {
        *out = d * f32::from(five_bits(&block[4..], i)) + m;
    }
}

/// Number `i` of 32 high bits and 16 nibble pairs.
fn five_bits(stored: &[u8], i: usize) -> u8 {
    let pair = stored[4 + i % 16];
    let low = if i < 16 { pair & 15 } else { pair >> 4 };
    low | (stored[i / 8] >> (i % 8) & 1) << 4
}

fn mxfp4(block: &[u8; 17], out: &mut [f32; 32]) {
    let d = e8m0_halved(block[0]);
    nibbles(&block[1..], out, |q| d * f32::from(E2M1_DOUBLED[q as usize]));
}

fn nvfp4(block: &[u8; 36], out: &mut [f32; 64]) {
    each_mut(out, |i, out: &mut [f32; 16]| {
        let d = UE4M3_HALVED[block[i] as usize];
        nibbles(&block[4 + 8 * i..][..8], out, |q| d * f32::from(E2M1_DOUBLED[q as usize]));
    });
}

fn iq4_nl(block: &[u8; 18], out: &mut [f32; 32]) {
    let d = half_at(block, 0);
    nibbles(&block[2..], out, |q| d * f32::from(IQ4_VALUES[q as usize]));
}

fn q2_k(block: &[u8; 84], out: &mut [f32; 256]) {
    let (d, dmin) = (half_at(block, 80), half_at(block, 82));
    for (i, out) in out.iter_mut().enumerate() {
        let (scale, min) = (block[i / 16] & 15, block[i / 16] >> 4);
        let q = two_bits(&block[16..80], i);
        *out = d * f32::from(scale) * f32::from(q) - dmin * f32::from(min);
    }
}

fn q3_k(block: &[u8; 110], out: &mut [f32; 256]) {
    let d = half_at(block, 108);
    for (i, out) in out.iter_mut().enumerate() {
        let (low, high) = (block[96 + i / 16 % 8] >> (i / 128 * 4), block[104 + i / 16 % 4] >> (i / 64 * 2));
        let scale = f32::from(low & 15 | (high & 3) << 4) - 32.0;
        let q = two_bits(&block[32..96], i) | (block[i % 32] >> (i / 32) & 1) << 2;
        *out = d * scale * (f32::from(q) - 4.0);
    }
}

/// Number `i` of a 256-block in pairs of bits: each byte of a half has one of each of its four parts.
fn two_bits(stored: &[u8], i: usize) -> u8 {
    stored[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3
}

fn q4_k(block: &[u8; 144], out: &mut [f32; 256]) {
    let (d, dmin) = (half_at(block, 0), half_at(block, 2));
    let packed = block[4..16].first_chunk().expect("12 bytes");
    for i in 0..256 {
        let (scale, min) = scale_min(packed, i / 32);
        let pair = block[16 + i / 64 * 32 + i % 32];
        let q = if i % 64 < 32 { pair & 15 } else { pair >> 4 };
        out[i] = d * f32::from(scale) * f32::from(q) - dmin * f32::from(min);
    }
}

fn q5_k(block: &[u8; 176], out: &mut [f32; 256]) {
    let (d, dmin) = (half_at(block, 0), half_at(block, 2));
    let packed = block[4..16].first_chunk().expect("12 bytes");
    for i in 0..256 {
        let (scale, min) = scale_min(packed, i / 32);
        let pair = block[48 + i / 64 * 32 + i % 32];
        let low = if i % 64 < 32 { pair & 15 } else { pair >> 4 };
        let high = block[16 + i % 32] >> (i / 32) & 1;
        out[i] = d * f32::from(scale) * f32::from(low | high << 4) - dmin * f32::from(min);
    }
}

fn q6_k(block: &[u8; 210], out: &mut [f32; 256]) {
    let d = half_at(block, 208);
    for i in 0..256 {
        // Each half of the block: 64 bytes of low nibbles, 32 bytes of high pairs.
        let (half, within) = (i / 128, i % 128);
        let pair = block[half * 64 + within % 64];
        let low = if within < 64 { pair & 15 } else { pair >> 4 };
        let high = block[128 + half * 32 + within % 32] >> (within / 32 * 2) & 3;
        let scale = block[192 + i / 16] as i8;
        out[i] = d * f32::from(scale) * (f32::from(low | high << 4) - 32.0);
    }
}

fn iq4_xs(block: &[u8; 136], out: &mut [f32; 256]) {
    let d = half_at(block, 0);
    let high = u16::from_le_bytes([block[2], block[3]]);
    for (i, out) in out.chunks_exact_mut(32).enumerate() {
        let low = block[4 + i / 2] >> (i % 2 * 4) & 15;
        let scale = f32::from(low | ((high >> (2 * i) & 3) as u8) << 4) - 32.0;
        nibbles(&block[8 + i * 16..][..16], out, |q| d * scale * f32::from(IQ4_VALUES[q as usize]));
    }
}

fn tq1_0(block: &[u8; 54], out: &mut [f32; 256]) {
    const POWERS: [u8; 5] = [1, 3, 9, 27, 81];
    let d = half_at(block, 52);
    let digits = |bytes: &[u8], count: usize, out: &mut [f32]| {
        for (power, out) in POWERS[..count].iter().zip(out.chunks_exact_mut(bytes.len())) {
            for (byte, out) in bytes.iter().zip(out) {
                // A byte is the fraction of 256 that the digits make in base 3, rounded up.
                let digit = (u16::from(byte.wrapping_mul(*power)) * 3) >> 8;
                *out = d * (f32::from(digit) - 1.0);
            }
        }
    };
    digits(&block[..32], 5, &mut out[..160]);
    digits(&block[32..48], 5, &mut out[160..240]);
    digits(&block[48..52], 4, &mut out[240..]);
}

fn tq2_0(block: &[u8; 66], out: &mut [f32; 256]) {
    let d = half_at(block, 64);
    for (i, out) in out.iter_mut().enumerate() {
        *out = d * (f32::from(two_bits(&block[..64], i)) - 1.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One block of each type with known elements, written out by hand.
    #[test]
    fn blocks_have_the_documented_values() {
        let half = |value: f32| f16::from_f32(value).to_le_bytes();
        let decode = |dtype: DType, block: &[u8]| {
            let mut out = vec![0.0; dtype.block_len()];
            to_f32(dtype, block, &mut out);
            out
        };

        let mut block = half(0.5).to_vec();
        block.extend((0..32).map(|i| (i * 8 - 128) as u8));
        let q8_0 = decode(DType::Q8_0, &block);
        assert_eq!((q8_0[0], q8_0[16], q8_0[31]), (-64.0, 0.0, 60.0));

        let mut block = half(2.0).to_vec();
        block.extend((0..16).map(|i| i | (15 - i) << 4));
        let q4_0 = decode(DType::Q4_0, &block);
        assert_eq!((q4_0[0], q4_0[15], q4_0[16], q4_0[31]), (-16.0, 14.0, 14.0, -16.0));
        let iq4_nl = decode(DType::Iq4Nl, &block);
        assert_eq!((iq4_nl[0], iq4_nl[15], iq4_nl[16], iq4_nl[31]), (-254.0, 226.0, 226.0, -254.0));

        block.splice(0..2, [128]);
        let mxfp4 = decode(DType::Mxfp4, &block);
        assert_eq!((mxfp4[1], mxfp4[7], mxfp4[15], mxfp4[16]), (1.0, 12.0, -12.0, -12.0));
        assert_eq!((e8m0_halved(0), e8m0_halved(1)), (f32::MIN_POSITIVE / 4.0, f32::MIN_POSITIVE / 2.0));
        assert_eq!((e8m0_halved(2), e8m0_halved(127)), (f32::MIN_POSITIVE, 0.5));

        let mut block = half(1.0).to_vec();
        block.extend([0b1000_0001, 0, 0, 0b0100_0000]);
        block.extend([0x21; 16]);
        let q5_0 = decode(DType::Q5_0, &block);
        assert_eq!((q5_0[0], q5_0[1], q5_0[7], q5_0[30], q5_0[31]), (1.0, -15.0, 1.0, 2.0, -14.0));

        // Scales 1 2 3 4 33 34 35 36, minima 5 6 7 8 49 50 51 52.
        let packed = [0x81, 0x82, 0x83, 0x84, 0xc5, 0xc6, 0xc7, 0xc8, 0x11, 0x22, 0x33, 0x44];
        let pairs: Vec<_> = (0..8).map(|i| scale_min(&packed, i)).collect();
        assert_eq!(pairs, [(1, 5), (2, 6), (3, 7), (4, 8), (33, 49), (34, 50), (35, 51), (36, 52)]);
        let head = [half(0.5), half(0.25)].concat();
        let q4_k = decode(DType::Q4K, &[&head[..], &packed, &[0x52; 128]].concat());
        assert_eq!((q4_k[0], q4_k[32], q4_k[255]), (1.0 - 1.25, 5.0 - 1.5, 90.0 - 13.0));
        let q5_k = decode(DType::Q5K, &[&head[..], &packed, &[0b1000_0001; 32], &[0x52; 128]].concat());
        assert_eq!((q5_k[0], q5_k[32], q5_k[255]), (9.0 - 1.25, 5.0 - 1.5, 378.0 - 13.0));

        let mut scales = [1u8; 16];
        (scales[3], scales[15]) = (2, -3i8 as u8);
        let q6_k = decode(DType::Q6K, &[&[0x52; 128][..], &[0b1110_0100; 64], &scales, &half(0.5)].concat());
        assert_eq!((q6_k[0], q6_k[32], q6_k[48]), (-15.0, -7.0, -14.0));
        assert_eq!((q6_k[64], q6_k[127], q6_k[255]), (2.5, 10.5, -31.5));

        let mut block = [half(1.0), [0b01, 0b1000_0000]].concat();
        block.extend([0x21, 0, 0, 0xf0]);
        block.extend([0xf0; 128]);
        let iq4_xs = decode(DType::Iq4Xs, &block);
        assert_eq!((iq4_xs[0], iq4_xs[16], iq4_xs[32]), (15.0 * 127.0, -15.0 * 113.0, 30.0 * 127.0));
        assert_eq!((iq4_xs[224], iq4_xs[255]), (-15.0 * 127.0, 15.0 * 113.0));
    }
}
