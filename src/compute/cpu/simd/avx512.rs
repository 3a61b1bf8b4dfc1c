//! AVX-512 with VNNI: a vector is one register.

#![expect(unsafe_code, reason = "intrinsics, which a token of the level makes sound")]

use std::arch::x86_64::*;

use super::{Kernel, LANES, Simd, methods};

/// Proof that the CPU has AVX-512 F, BW, DQ, VL and VNNI.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Avx512(());

impl Avx512 {
    pub(super) fn detect() -> Option<Self> {
        let detected = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512vnni")
            && is_x86_feature_detected!("f16c")
            && is_x86_feature_detected!("fma");
        detected.then_some(Self(()))
    }

    #[inline]
    pub(super) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,f16c,fma")]
        #[inline(never)]
        fn compiled<K: Kernel>(simd: Avx512, kernel: K) -> K::Output {
            kernel.run(simd)
        }
        // SAFETY: `self` proves that the CPU has these features.
        unsafe { compiled(self, kernel) }
    }
}

impl Simd for Avx512 {
    type F = __m512;
    type I = __m512i;
    type Dots = __m512i;

    const SUMS: usize = 16;
    const DOTS: usize = 8;
    const WIDE_SIGNED: bool = false;

    #[inline(always)]
    fn call<K: Kernel>(self, kernel: K) -> K::Output {
        self.run(kernel)
    }

    methods! {
        fn load(from: &[f32; LANES]) -> __m512 = _mm512_loadu_ps(from.as_ptr());
        fn store(value: __m512, to: &mut [f32; LANES]) = _mm512_storeu_ps(to.as_mut_ptr(), value);
        fn splat(value: f32) -> __m512 = _mm512_set1_ps(value);
        fn add(a: __m512, b: __m512) -> __m512 = _mm512_add_ps(a, b);
        fn sub(a: __m512, b: __m512) -> __m512 = _mm512_sub_ps(a, b);
        fn mul(a: __m512, b: __m512) -> __m512 = _mm512_mul_ps(a, b);
        fn div(a: __m512, b: __m512) -> __m512 = _mm512_div_ps(a, b);
        fn min(a: __m512, b: __m512) -> __m512 = _mm512_min_ps(a, b);
        fn max(a: __m512, b: __m512) -> __m512 = _mm512_max_ps(a, b);
        fn mul_add(a: __m512, b: __m512, c: __m512) -> __m512 = _mm512_fmadd_ps(a, b, c);
        fn mul_sub(a: __m512, b: __m512, c: __m512) -> __m512 = _mm512_fnmadd_ps(a, b, c);
        fn abs(a: __m512) -> __m512 = _mm512_abs_ps(a);
        fn round(a: __m512) -> __m512i = _mm512_cvtps_epi32(a);
        fn sum(a: __m512) -> f32 = _mm512_reduce_add_ps(a);
        fn max_lane(a: __m512) -> f32 = _mm512_reduce_max_ps(a);

        fn load_i(from: &[u32; LANES]) -> __m512i = _mm512_loadu_si512(from.as_ptr().cast());
        fn store_i(value: __m512i, to: &mut [u32; LANES]) = _mm512_storeu_si512(to.as_mut_ptr().cast(), value);
        fn store_bytes(value: __m512i, to: &mut [i8; LANES]) =
            _mm_storeu_si128(to.as_mut_ptr().cast(), _mm512_cvtepi32_epi8(value));
        fn splat_i(value: u32) -> __m512i = _mm512_set1_epi32(value as i32);
        fn and(a: __m512i, b: __m512i) -> __m512i = _mm512_and_si512(a, b);
        fn or(a: __m512i, b: __m512i) -> __m512i = _mm512_or_si512(a, b);
        fn xor(a: __m512i, b: __m512i) -> __m512i = _mm512_xor_si512(a, b);
        fn add_i(a: __m512i, b: __m512i) -> __m512i = _mm512_add_epi32(a, b);
        fn shl(a: __m512i, bits: u32) -> __m512i = _mm512_sll_epi32(a, _mm_cvtsi32_si128(bits as i32));
        fn shr(a: __m512i, bits: u32) -> __m512i = _mm512_srl_epi32(a, _mm_cvtsi32_si128(bits as i32));
        fn sar(a: __m512i, bits: u32) -> __m512i = _mm512_sra_epi32(a, _mm_cvtsi32_si128(bits as i32));
        fn lookup(table: &[u8; 16], bytes: __m512i) -> __m512i = _mm512_shuffle_epi8(
            _mm512_broadcast_i32x4(_mm_loadu_si128(table.as_ptr().cast())),
            bytes,
        );
        fn spread_byte(a: __m512i, at: usize) -> __m512i = {
            let first = _mm512_broadcast_i32x4(_mm_set_epi32(0x0c0c_0c0c, 0x0808_0808, 0x0404_0404, 0));
            _mm512_shuffle_epi8(a, _mm512_add_epi8(first, _mm512_set1_epi8(at as i8)))
        };
        fn flip_bytes(a: __m512i, sum: u8, signs: __m512i, bits: u32) -> __m512i = {
            let flipped = _mm512_test_epi8_mask(signs, _mm512_set1_epi32(bits as i32));
            _mm512_mask_sub_epi8(a, flipped, _mm512_set1_epi8(sum as i8), a)
        };
        fn to_f(a: __m512i) -> __m512 = _mm512_cvtepi32_ps(a);
        fn half_to_f(a: __m512i) -> __m512 = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(a));
        fn bits_f(a: __m512i) -> __m512 = _mm512_castsi512_ps(a);
        fn no_dots() -> __m512i = _mm512_setzero_si512();
        fn dot(acc: __m512i, quants: __m512i, x: __m512i) -> __m512i = _mm512_dpbusd_epi32(acc, quants, x);
        fn dot_wide(acc: __m512i, quants: __m512i, x: __m512i) -> __m512i = _mm512_dpbusd_epi32(acc, quants, x);
        fn prefetch(at: *const u8) = _mm_prefetch::<_MM_HINT_T1>(at.cast());
    }

    #[inline(always)]
    fn sum_dots(self, dots: __m512i) -> __m512i {
        dots
    }

    #[inline(always)]
    fn dots_max(_: u32) -> usize {
        usize::MAX
    }

    #[inline(always)]
    unsafe fn transpose(self, first: *const u8, stride: usize) -> [__m512i; 4] {
        // SAFETY: the caller promises 16 bytes in each of the 16 rows; `self` proves the instructions.
        unsafe {
            // The 128-bit lanes of v[j] are rows j, 4 + j, 8 + j and 12 + j.
            let mut v = [_mm512_setzero_si512(); 4];
            for (j, v) in v.iter_mut().enumerate() {
                let row = first.add(j * stride);
                *v = _mm512_castsi128_si512(_mm_loadu_si128(row.cast()));
                *v = _mm512_inserti32x4::<1>(*v, _mm_loadu_si128(row.add(4 * stride).cast()));
                *v = _mm512_inserti32x4::<2>(*v, _mm_loadu_si128(row.add(8 * stride).cast()));
                *v = _mm512_inserti32x4::<3>(*v, _mm_loadu_si128(row.add(12 * stride).cast()));
            }
            transpose_lanes(v)
        }
    }

    #[inline(always)]
    unsafe fn transpose_wide(self, first: *const u8, stride: usize) -> [__m512i; 8] {
        // SAFETY: the caller promises 32 bytes in each of the 16 rows; `self` proves the instructions.
        unsafe {
            // The halves of a vector are rows j and j + 4.
            macro_rules! rows {
                ($j:literal) => {{
                    let row = first.add($j * stride);
                    let low = _mm512_castsi256_si512(_mm256_loadu_si256(row.cast()));
                    _mm512_inserti64x4::<1>(low, _mm256_loadu_si256(row.add(4 * stride).cast()))
                }};
            }
            let (low, high) = (
                transpose_lanes([rows!(0), rows!(1), rows!(2), rows!(3)]),
                transpose_lanes([rows!(8), rows!(9), rows!(10), rows!(11)]),
            );
            macro_rules! words {
                ($k:literal, $lanes:literal) => {
                    _mm512_shuffle_i32x4::<$lanes>(low[$k], high[$k])
                };
            }
            [
                words!(0, 0b10_00_10_00),
                words!(1, 0b10_00_10_00),
                words!(2, 0b10_00_10_00),
                words!(3, 0b10_00_10_00),
                words!(0, 0b11_01_11_01),
                words!(1, 0b11_01_11_01),
                words!(2, 0b11_01_11_01),
                words!(3, 0b11_01_11_01),
            ]
        }
    }
}

/// Transposes the 4 x 4 words of each 128-bit lane of four vectors.
#[inline(always)]
fn transpose_lanes(v: [__m512i; 4]) -> [__m512i; 4] {
    // SAFETY: only called by the methods of a token that proves AVX-512.
    unsafe {
        let (a, b) = (_mm512_unpacklo_epi32(v[0], v[1]), _mm512_unpacklo_epi32(v[2], v[3]));
        let (c, d) = (_mm512_unpackhi_epi32(v[0], v[1]), _mm512_unpackhi_epi32(v[2], v[3]));
        [
            _mm512_unpacklo_epi64(a, b),
            _mm512_unpackhi_epi64(a, b),
            _mm512_unpacklo_epi64(c, d),
            _mm512_unpackhi_epi64(c, d),
        ]
    }
}
