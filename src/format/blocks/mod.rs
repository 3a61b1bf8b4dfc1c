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
//! | Q5_0 | 32 | d, 32 high bits, 16 nibble pairs | `d (q - 16)` |
//! | MXFP4 | 32 | E8M0 exponent e, 16 nibble pairs | `2^(e-127) E2M1[q]` |
//! | IQ4_NL | 32 | d, 16 nibble pairs | `d VALUES[q]` |
//! | Q4_K | 256 | d, dmin, 12 bytes of 6-bit scales and minima, 4 x 32 nibble pairs | `d s q - dmin m` |
//! | Q5_K | 256 | as Q4_K, 32 bytes of high bits before the nibbles | `d s q - dmin m` |
//! | Q6_K | 256 | 128 bytes of low nibbles, 64 of high bit pairs, 16 i8 scales, d | `d s (q - 32)` |
//! | IQ4_XS | 256 | d, 16 + 32 bits of 6-bit scales, 8 x 16 nibble pairs | `d (s - 32) VALUES[q]` |

mod encode;

pub use encode::{Ineligible, from_f32};

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
        DType::Q5_0 => each(bytes, out, q5_0),
        DType::Mxfp4 => each(bytes, out, mxfp4),
        DType::Iq4Nl => each(bytes, out, iq4_nl),
        DType::Q4K => each(bytes, out, q4_k),
        DType::Q5K => each(bytes, out, q5_k),
        DType::Q6K => each(bytes, out, q6_k),
        DType::Iq4Xs => each(bytes, out, iq4_xs),
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

fn q5_0(block: &[u8; 22], out: &mut [f32; 32]) {
    let d = half_at(block, 0);
    for i in 0..32 {
        let pair = block[6 + i % 16];
        let low = if i < 16 { pair & 15 } else { pair >> 4 };
        let high = block[2 + i / 8] >> (i % 8) & 1;
        out[i] = d * (f32::from(low | high << 4) - 16.0);
    }
}

fn mxfp4(block: &[u8; 17], out: &mut [f32; 32]) {
    let d = e8m0_halved(block[0]);
    nibbles(&block[1..], out, |q| d * f32::from(E2M1_DOUBLED[q as usize]));
}

fn iq4_nl(block: &[u8; 18], out: &mut [f32; 32]) {
    let d = half_at(block, 0);
    nibbles(&block[2..], out, |q| d * f32::from(IQ4_VALUES[q as usize]));
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
