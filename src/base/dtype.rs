//! Number formats as checkpoints store them.

use std::fmt;
use std::str::FromStr;

/// How the elements of a tensor are stored, little-endian: one by one, or in blocks that share scales.
///
/// The block formats are those of GGUF; `format/blocks.rs` describes each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
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
    /// 4-bit integers, a scale for 32.
    Q4_0,
    /// 4-bit integers, a scale and minimum for 32.
    Q4_1,
    /// 5-bit integers, a scale for 32.
    Q5_0,
    /// 5-bit integers, a scale and minimum for 32.
    Q5_1,
    /// 8-bit integers, a scale for 32.
    Q8_0,
    /// 2-bit integers, a 4-bit scale and minimum for 16, these scaled for 256.
    Q2K,
    /// 3-bit integers, a 6-bit scale for 16, these scaled for 256.
    Q3K,
    /// 4-bit integers, a 6-bit scale and minimum for 32, these scaled for 256.
    Q4K,
    /// 5-bit integers, a 6-bit scale and minimum for 32, these scaled for 256.
    Q5K,
    /// 6-bit integers, an 8-bit scale for 16, these scaled for 256.
    Q6K,
    /// 4-bit floats (2 of exponent, 1 of mantissa), a power of two for 32. OCP Microscaling Formats 1.0.
    Mxfp4,
    /// 4-bit floats, an unsigned E4M3 scale for 16.
    Nvfp4,
    /// 4-bit indices of unevenly spaced values, a scale for 32.
    Iq4Nl,
    /// 4-bit indices of unevenly spaced values, a 6-bit scale for 32, these scaled for 256.
    Iq4Xs,
    /// Magnitudes of 8 from a codebook of 256, an even number of them negative; a 4-bit scale for 32, these scaled
    /// for 256.
    Iq2Xxs,
    /// Magnitudes of 8 from a codebook of 512, an even number of them negative; a 4-bit scale for 16, these scaled
    /// for 256.
    Iq2Xs,
    /// Magnitudes of 8 from a codebook of 1024, and signs; a 4-bit scale for 16, these scaled for 256.
    Iq2S,
    /// Magnitudes of 4 from a codebook of 256, of 8 an even number negative; a 4-bit scale for 32, these scaled for
    /// 256.
    Iq3Xxs,
    /// Magnitudes of 4 from a codebook of 512, and signs; a 4-bit scale for 32, these scaled for 256.
    Iq3S,
    /// -1, 0 and 1 in eights from a codebook of 2048; a shift and a 3-bit scale for 32, these scaled for 256.
    Iq1S,
    /// As IQ1_S, with a shift for 8 and a 3-bit scale for 16.
    Iq1M,
    /// -1, 0 and 1, five in a byte, a scale for 256.
    Tq1_0,
    /// -1, 0 and 1, four in a byte, a scale for 256.
    Tq2_0,
}

impl DType {
    /// Every type.
    pub const ALL: [DType; 27] = [
        DType::F32,
        DType::F16,
        DType::BF16,
        DType::F8E4M3,
        DType::Q4_0,
        DType::Q4_1,
        DType::Q5_0,
        DType::Q5_1,
        DType::Q8_0,
        DType::Q2K,
        DType::Q3K,
        DType::Q4K,
        DType::Q5K,
        DType::Q6K,
        DType::Mxfp4,
        DType::Nvfp4,
        DType::Iq4Nl,
        DType::Iq4Xs,
        DType::Iq2Xxs,
        DType::Iq2Xs,
        DType::Iq2S,
        DType::Iq3Xxs,
        DType::Iq3S,
        DType::Iq1S,
        DType::Iq1M,
        DType::Tq1_0,
        DType::Tq2_0,
    ];

    /// Elements of a block; 1 where elements are stored one by one.
    pub const fn block_len(self) -> usize {
        match self {
            DType::F32 | DType::F16 | DType::BF16 | DType::F8E4M3 => 1,
            DType::Q4_0 | DType::Q4_1 | DType::Q5_0 | DType::Q5_1 | DType::Q8_0 => 32,
            DType::Mxfp4 | DType::Iq4Nl => 32,
            DType::Nvfp4 => 64,
            _ => 256,
        }
    }

    /// Bytes of a block.
    pub const fn block_bytes(self) -> usize {
        match self {
            DType::F32 => 4,
            DType::F16 | DType::BF16 => 2,
            DType::F8E4M3 => 1,
            DType::Q4_0 | DType::Iq4Nl => 18,
            DType::Q4_1 => 20,
            DType::Q5_0 => 22,
            DType::Q5_1 => 24,
            DType::Q8_0 => 34,
            DType::Q2K => 84,
            DType::Q3K => 110,
            DType::Q4K => 144,
            DType::Q5K => 176,
            DType::Q6K => 210,
            DType::Mxfp4 => 17,
            DType::Nvfp4 => 36,
            DType::Iq4Xs => 136,
            DType::Iq2Xxs | DType::Tq2_0 => 66,
            DType::Iq2Xs => 74,
            DType::Iq2S => 82,
            DType::Iq3Xxs => 98,
            DType::Iq3S => 110,
            DType::Iq1S => 50,
            DType::Iq1M => 56,
            DType::Tq1_0 => 54,
        }
    }

    /// Bytes of `len` elements; none unless `len` is a multiple of the block length, or on overflow.
    pub const fn bytes(self, len: usize) -> Option<usize> {
        if len.is_multiple_of(self.block_len()) {
            (len / self.block_len()).checked_mul(self.block_bytes())
        } else {
            None
        }
    }

    /// Whether elements are stored in blocks.
    pub const fn is_blocked(self) -> bool {
        self.block_len() > 1
    }

    /// Bits per element, scales included.
    pub fn bits(self) -> f64 {
        8.0 * self.block_bytes() as f64 / self.block_len() as f64
    }

    const fn name(self) -> &'static str {
        match self {
            DType::F32 => "F32",
            DType::F16 => "F16",
            DType::BF16 => "BF16",
            DType::F8E4M3 => "F8_E4M3",
            DType::Q4_0 => "Q4_0",
            DType::Q4_1 => "Q4_1",
            DType::Q5_0 => "Q5_0",
            DType::Q5_1 => "Q5_1",
            DType::Q8_0 => "Q8_0",
            DType::Q2K => "Q2_K",
            DType::Q3K => "Q3_K",
            DType::Q4K => "Q4_K",
            DType::Q5K => "Q5_K",
            DType::Q6K => "Q6_K",
            DType::Mxfp4 => "MXFP4",
            DType::Nvfp4 => "NVFP4",
            DType::Iq4Nl => "IQ4_NL",
            DType::Iq4Xs => "IQ4_XS",
            DType::Iq2Xxs => "IQ2_XXS",
            DType::Iq2Xs => "IQ2_XS",
            DType::Iq2S => "IQ2_S",
            DType::Iq3Xxs => "IQ3_XXS",
            DType::Iq3S => "IQ3_S",
            DType::Iq1S => "IQ1_S",
            DType::Iq1M => "IQ1_M",
            DType::Tq1_0 => "TQ1_0",
            DType::Tq2_0 => "TQ2_0",
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Finds a type by its name, whatever the case.
impl FromStr for DType {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        DType::ALL.into_iter().find(|dtype| dtype.name().eq_ignore_ascii_case(name)).ok_or_else(|| {
            let known: Vec<_> = DType::ALL.iter().map(|dtype| dtype.name().to_lowercase()).collect();
            format!("{name:?} is not a tensor type; known are {}", known.join(", "))
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

/// Converts little-endian elements, stored one by one, to f32. `bytes` holds exactly `out.len()` elements,
/// at any alignment. Panics for types in blocks.
pub fn to_f32(dtype: DType, bytes: &[u8], out: &mut [f32]) {
    assert_eq!(Some(bytes.len()), dtype.bytes(out.len()));
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
        _ => panic!("{dtype} is stored in blocks"),
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

    #[test]
    fn types_have_names_and_sizes() {
        for dtype in DType::ALL {
            assert_eq!(dtype.to_string().to_lowercase().parse(), Ok(dtype));
            assert_eq!(dtype.bytes(2 * dtype.block_len()), Some(2 * dtype.block_bytes()));
            assert_eq!(dtype.bytes(dtype.block_len() + 1).is_some(), !dtype.is_blocked());
        }
        assert_eq!((DType::Q4K.bits(), DType::Mxfp4.bits()), (4.5, 4.25));
        assert!("q8_k".parse::<DType>().unwrap_err().contains("q4_k"));
    }
}
