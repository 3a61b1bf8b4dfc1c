//! Number formats as checkpoints store them.

use std::fmt;

/// How one element of a tensor is stored, little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DType {
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary16.
    F16,
    /// The upper half of a binary32.
    BF16,
    /// 8 bits: 4 of exponent (bias 7), 3 of mantissa, no infinities, NaN where all bits but the sign
    /// are set. "FP8 Formats for Deep Learning", arXiv:2209.05433.
    F8E4M3,
}

impl DType {
    /// Bytes of one element.
    pub const fn size(self) -> usize {
        match self {
            DType::F32 => 4,
            DType::F16 | DType::BF16 => 2,
            DType::F8E4M3 => 1,
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DType::F32 => "F32",
            DType::F16 => "F16",
            DType::BF16 => "BF16",
            DType::F8E4M3 => "F8_E4M3",
        })
    }
}

/// The value of every E4M3 bit pattern.
pub static F8E4M3_VALUES: [f32; 256] = {
    let mut values = [0.0; 256];
    let mut bits = 0;
    while bits < 256 {
        values[bits] = f8e4m3_to_f32(bits as u8);
        bits += 1;
    }
    values
};

const fn f8e4m3_to_f32(bits: u8) -> f32 {
    let sign = if bits & 0x80 == 0 { 1.0 } else { -1.0 };
    let exponent = (bits >> 3 & 0xf) as u32;
    let mantissa = (bits & 7) as f32;
    if bits & 0x7f == 0x7f {
        f32::NAN
    } else if exponent == 0 {
        sign * mantissa / 512.0
    } else {
        sign * f32::from_bits((exponent + 127 - 7) << 23) * (1.0 + mantissa / 8.0)
    }
}

/// Converts little-endian elements of `dtype` to f32. `bytes` holds exactly `out.len()` elements, at any
/// alignment.
pub fn to_f32(dtype: DType, bytes: &[u8], out: &mut [f32]) {
    assert_eq!(bytes.len(), out.len() * dtype.size());
    match dtype {
        DType::F32 => {
            for (value, bytes) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
                *value = f32::from_le_bytes(*bytes);
            }
        }
        DType::F16 => {
            for (value, bytes) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
                *value = half::f16::from_le_bytes(*bytes).to_f32();
            }
        }
        DType::BF16 => {
            for (value, bytes) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
                *value = f32::from_bits(u32::from(u16::from_le_bytes(*bytes)) << 16);
            }
        }
        DType::F8E4M3 => {
            for (value, &byte) in out.iter_mut().zip(bytes) {
                *value = F8E4M3_VALUES[byte as usize];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn e4m3_has_the_published_extremes() {
        for (bits, value) in [
            (0x00, 0.0),
            (0x01, 2f32.powi(-9)),
            (0x07, 7.0 * 2f32.powi(-9)),
            (0x08, 2f32.powi(-6)),
            (0x38, 1.0),
            (0x7e, 448.0),
            (0xfe, -448.0),
            (0xb9, -1.125),
        ] {
            assert_eq!(F8E4M3_VALUES[bits], value, "{bits:#x}");
        }
        assert!(F8E4M3_VALUES[0x7f].is_nan() && F8E4M3_VALUES[0xff].is_nan());
    }

    #[test]
    fn every_type_converts() {
        let mut out = [0.0; 2];
        for (dtype, bytes) in [
            (DType::F32, &[0, 0, 0x20, 0xc0, 0, 0, 0x80, 0x3e][..]),
            (DType::F16, &[0x00, 0xc1, 0x00, 0x34]),
            (DType::BF16, &[0x20, 0xc0, 0x80, 0x3e]),
            (DType::F8E4M3, &[0xc2, 0x28]),
        ] {
            to_f32(dtype, bytes, &mut out);
            assert_eq!(out, [-2.5, 0.25], "{dtype}");
        }
    }
}
