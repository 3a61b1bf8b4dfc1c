//! AVX2 with FMA and F16C, and with AVX-VNNI where the CPU has it: a vector is two registers.

#![expect(unsafe_code, reason = "intrinsics, which a token of the level makes sound")]
#![expect(clippy::needless_range_loop, reason = "closures are not inlined reliably")]

use std::arch::asm;
use std::arch::x86_64::*;

use super::{Kernel, LANES, Simd, methods};

/// Proof that the CPU has AVX2, FMA and F16C, and with `VNNI` that it has AVX-VNNI.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Avx2<const VNNI: bool>(());

impl<const VNNI: bool> Avx2<VNNI> {
    pub(super) fn detect() -> Option<Self> {
        let detected = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c")
            && (!VNNI || is_x86_feature_detected!("avxvnni"));
        detected.then_some(Self(()))
    }

    #[inline]
    pub(super) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        #[target_feature(enable = "avx2,fma,f16c")]
        #[inline(never)]
        fn compiled<K: Kernel, S: Simd>(simd: S, kernel: K) -> K::Output {
            kernel.run(simd)
        }
        #[target_feature(enable = "avx2,fma,f16c,avxvnni")]
        #[inline(never)]
        fn compiled_vnni<K: Kernel, S: Simd>(simd: S, kernel: K) -> K::Output {
            kernel.run(simd)
        }
        // SAFETY: `self` proves that the CPU has these features.
        unsafe { if VNNI { compiled_vnni(self, kernel) } else { compiled(self, kernel) } }
    }
}

type F = [__m256; 2];
type I = [__m256i; 2];

/// Four products and their sum in each lane.
#[inline(always)]
fn dot_signed(acc: __m256i, quants: __m256i, x: __m256i) -> __m256i {
    // SAFETY: only called by the methods of a token that proves AVX2.
    unsafe {
        let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(quants), _mm256_sign_epi8(x, quants));
        _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
    }
}

/// The same sum, which the compiler then adds up in the order of the program. It would make all products first otherwise,
/// which are many more than there are registers.
#[target_feature(enable = "avx2")]
#[inline]
fn in_order(mut sum: __m256i) -> __m256i {
    // SAFETY: nothing is executed.
    unsafe { asm!("/* {0} */", inout(ymm_reg) sum, options(pure, nomem, nostack, preserves_flags)) };
    sum
}

/// [`Simd::dot`] as it is written: among other products, the compiler would have more sums than there are registers.
///
/// # Safety
/// `AT + 1` words must be readable at `x`.
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn dot_word<const AT: usize>([mut a, mut b]: I, quants: I, x: *const u32) -> I {
    // SAFETY: as the caller promises.
    unsafe {
        asm!(
            "vpbroadcastd {x}, [{words} + {at}]",
            "vpmaddubsw {product}, {first}, {x}",
            "vpaddw {a}, {a}, {product}",
            "vpmaddubsw {product}, {second}, {x}",
            "vpaddw {b}, {b}, {product}",
            words = in(reg) x,
            at = const size_of::<u32>() * AT,
            first = in(ymm_reg) quants[0],
            second = in(ymm_reg) quants[1],
            x = out(ymm_reg) _,
            product = out(ymm_reg) _,
            a = inout(ymm_reg) a,
            b = inout(ymm_reg) b,
            options(readonly, nostack, preserves_flags)
        );
    }
    [a, b]
}

/// [`Simd::dot_scaled`], written for the same reason.
///
/// # Safety
/// `AT + 2` words must be readable at `x`.
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn dot_scaled<const AT: usize>(
    [mut a, mut b]: I,
    [first, second]: [I; 2],
    x: *const u32,
    scale: &[u32; LANES],
) -> I {
    // SAFETY: as the caller promises.
    unsafe {
        asm!(
            "vpbroadcastd {x0}, [{words} + {at}]",
            "vpbroadcastd {x1}, [{words} + {at} + 4]",
            "vpmaddubsw {c}, {first_a}, {x0}",
            "vpmaddubsw {d}, {second_a}, {x1}",
            "vpmaddubsw {x0}, {first_b}, {x0}",
            "vpmaddubsw {x1}, {second_b}, {x1}",
            "vpaddw {c}, {c}, {d}",
            "vpaddw {x0}, {x0}, {x1}",
            "vpmaddwd {c}, {c}, [{scale}]",
            "vpmaddwd {x0}, {x0}, [{scale} + 32]",
            "vpaddd {a}, {a}, {c}",
            "vpaddd {b}, {b}, {x0}",
            words = in(reg) x,
            at = const size_of::<u32>() * AT,
            scale = in(reg) scale,
            first_a = in(ymm_reg) first[0],
            first_b = in(ymm_reg) first[1],
            second_a = in(ymm_reg) second[0],
            second_b = in(ymm_reg) second[1],
            x0 = out(ymm_reg) _,
            x1 = out(ymm_reg) _,
            c = out(ymm_reg) _,
            d = out(ymm_reg) _,
            a = inout(ymm_reg) a,
            b = inout(ymm_reg) b,
            options(readonly, nostack, preserves_flags)
        );
    }
    [a, b]
}

#[inline(always)]
fn flip_bytes(a: __m256i, sum: u8, signs: __m256i, bits: u32) -> __m256i {
    // SAFETY: only called by the methods of a token that proves AVX2.
    unsafe {
        let bits = _mm256_set1_epi32(bits as i32);
        let kept = _mm256_cmpeq_epi8(_mm256_and_si256(signs, bits), _mm256_setzero_si256());
        let flipped = _mm256_sub_epi8(_mm256_set1_epi8(sum as i8), a);
        _mm256_blendv_epi8(flipped, a, kept)
    }
}

#[inline(always)]
fn half_to_f(a: __m256i) -> __m256 {
    // SAFETY: only called by the methods of a token that proves AVX2 and F16C.
    unsafe {
        let low = _mm256_and_si256(a, _mm256_set1_epi32(0xffff));
        let packed = _mm256_permute4x64_epi64::<0b1000>(_mm256_packus_epi32(low, low));
        _mm256_cvtph_ps(_mm256_castsi256_si128(packed))
    }
}

impl<const VNNI: bool> Simd for Avx2<VNNI> {
    type F = F;
    type I = I;
    /// Twice 16 bits in each lane, or with VNNI 32.
    type Dots = I;

    const SUMS: usize = 6;
    const DOTS: usize = if VNNI { 4 } else { 6 };
    const DOTS_HALVED: usize = 4;
    const DOTS_BOUNDED: bool = !VNNI;
    const DIRECT: usize = if VNNI { 4 } else { 3 };
    const SCALED: bool = !VNNI;
    const WIDE_SIGNED: bool = !VNNI;

    #[inline(always)]
    fn call<K: Kernel>(self, kernel: K) -> K::Output {
        self.run(kernel)
    }

    methods! {
        fn load(from: &[f32; LANES]) -> F = [_mm256_loadu_ps(from.as_ptr()), _mm256_loadu_ps(from[8..].as_ptr())];
        fn store(value: F, to: &mut [f32; LANES]) = {
            _mm256_storeu_ps(to.as_mut_ptr(), value[0]);
            _mm256_storeu_ps(to[8..].as_mut_ptr(), value[1]);
        };
        fn splat(value: f32) -> F = [_mm256_set1_ps(value); 2];
        fn add(a: F, b: F) -> F = [_mm256_add_ps(a[0], b[0]), _mm256_add_ps(a[1], b[1])];
        fn sub(a: F, b: F) -> F = [_mm256_sub_ps(a[0], b[0]), _mm256_sub_ps(a[1], b[1])];
        fn mul(a: F, b: F) -> F = [_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])];
        fn div(a: F, b: F) -> F = [_mm256_div_ps(a[0], b[0]), _mm256_div_ps(a[1], b[1])];
        fn min(a: F, b: F) -> F = [_mm256_min_ps(a[0], b[0]), _mm256_min_ps(a[1], b[1])];
        fn max(a: F, b: F) -> F = [_mm256_max_ps(a[0], b[0]), _mm256_max_ps(a[1], b[1])];
        fn mul_add(a: F, b: F, c: F) -> F =
            [_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])];
        fn mul_sub(a: F, b: F, c: F) -> F =
            [_mm256_fnmadd_ps(a[0], b[0], c[0]), _mm256_fnmadd_ps(a[1], b[1], c[1])];
        fn abs(a: F) -> F = {
            let sign = _mm256_set1_ps(-0.0);
            [_mm256_andnot_ps(sign, a[0]), _mm256_andnot_ps(sign, a[1])]
        };
        fn round(a: F) -> I = [_mm256_cvtps_epi32(a[0]), _mm256_cvtps_epi32(a[1])];
        fn sum(a: F) -> f32 = {
            let both = _mm256_add_ps(a[0], a[1]);
            let four = _mm_add_ps(_mm256_castps256_ps128(both), _mm256_extractf128_ps::<1>(both));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
        };
        fn max_lane(a: F) -> f32 = {
            let both = _mm256_max_ps(a[0], a[1]);
            let four = _mm_max_ps(_mm256_castps256_ps128(both), _mm256_extractf128_ps::<1>(both));
            let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps::<1>(two, two)))
        };

        fn load_i(from: &[u32; LANES]) -> I =
            [_mm256_loadu_si256(from.as_ptr().cast()), _mm256_loadu_si256(from[8..].as_ptr().cast())];
        fn store_i(value: I, to: &mut [u32; LANES]) = {
            _mm256_storeu_si256(to.as_mut_ptr().cast(), value[0]);
            _mm256_storeu_si256(to[8..].as_mut_ptr().cast(), value[1]);
        };
        fn store_bytes(value: I, to: &mut [i8; LANES]) = {
            let words = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packs_epi32(value[0], value[1]));
            let bytes = _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words));
            _mm_storeu_si128(to.as_mut_ptr().cast(), bytes);
        };
        fn splat_i(value: u32) -> I = [_mm256_set1_epi32(value as i32); 2];
        fn and(a: I, b: I) -> I = [_mm256_and_si256(a[0], b[0]), _mm256_and_si256(a[1], b[1])];
        fn or(a: I, b: I) -> I = [_mm256_or_si256(a[0], b[0]), _mm256_or_si256(a[1], b[1])];
        fn xor(a: I, b: I) -> I = [_mm256_xor_si256(a[0], b[0]), _mm256_xor_si256(a[1], b[1])];
        fn add_i(a: I, b: I) -> I = [_mm256_add_epi32(a[0], b[0]), _mm256_add_epi32(a[1], b[1])];
        fn shl(a: I, bits: u32) -> I = {
            let bits = _mm_cvtsi32_si128(bits as i32);
            [_mm256_sll_epi32(a[0], bits), _mm256_sll_epi32(a[1], bits)]
        };
        fn shr(a: I, bits: u32) -> I = {
            let bits = _mm_cvtsi32_si128(bits as i32);
            [_mm256_srl_epi32(a[0], bits), _mm256_srl_epi32(a[1], bits)]
        };
        fn sar(a: I, bits: u32) -> I = {
            let bits = _mm_cvtsi32_si128(bits as i32);
            [_mm256_sra_epi32(a[0], bits), _mm256_sra_epi32(a[1], bits)]
        };
        fn lookup(table: &[u8; 16], bytes: I) -> I = {
            let table = _mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast()));
            [_mm256_shuffle_epi8(table, bytes[0]), _mm256_shuffle_epi8(table, bytes[1])]
        };
        fn spread_byte(a: I, at: usize) -> I = {
            let first = _mm256_broadcastsi128_si256(_mm_set_epi32(0x0c0c_0c0c, 0x0808_0808, 0x0404_0404, 0));
            let index = _mm256_add_epi8(first, _mm256_set1_epi8(at as i8));
            [_mm256_shuffle_epi8(a[0], index), _mm256_shuffle_epi8(a[1], index)]
        };
        fn flip_bytes(a: I, sum: u8, signs: I, bits: u32) -> I = [
            flip_bytes(a[0], sum, signs[0], bits),
            flip_bytes(a[1], sum, signs[1], bits),
        ];
        fn no_dots() -> I = [_mm256_setzero_si256(); 2];
        fn dot(acc: I, quants: I, x: I) -> I = if VNNI {
            [
                _mm256_dpbusd_avx_epi32(acc[0], quants[0], x[0]),
                _mm256_dpbusd_avx_epi32(acc[1], quants[1], x[1]),
            ]
        } else {
            [
                in_order(_mm256_add_epi16(acc[0], _mm256_maddubs_epi16(quants[0], x[0]))),
                in_order(_mm256_add_epi16(acc[1], _mm256_maddubs_epi16(quants[1], x[1]))),
            ]
        };
        fn sum_dots(dots: I) -> I = if VNNI {
            dots
        } else {
            let one = _mm256_set1_epi16(1);
            [_mm256_madd_epi16(dots[0], one), _mm256_madd_epi16(dots[1], one)]
        };
        fn scale_dots(dots: I, scale: I) -> I =
            [_mm256_madd_epi16(dots[0], scale[0]), _mm256_madd_epi16(dots[1], scale[1])];
        fn byte_halves(a: I, at: usize, is_signed: bool) -> I = {
            // The bytes of a lane begin at 0, 4, 8 or 12; bytes from index 128 are 0.
            let first = _mm256_set_epi32(12, 8, 4, 0, 12, 8, 4, 0);
            let index = _mm256_add_epi8(
                _mm256_or_si256(first, _mm256_slli_epi32::<16>(first)),
                _mm256_set1_epi16(at as i16),
            );
            let index = if is_signed { _mm256_slli_epi16::<8>(index) } else { index };
            let zeros = _mm256_set1_epi16(if is_signed { 0x0080 } else { 0x8000u16 as i16 });
            let index = _mm256_or_si256(index, zeros);
            let halves = [_mm256_shuffle_epi8(a[0], index), _mm256_shuffle_epi8(a[1], index)];
            match is_signed {
                true => [_mm256_srai_epi16::<8>(halves[0]), _mm256_srai_epi16::<8>(halves[1])],
                false => halves,
            }
        };
        fn dot_halves(a: I, b: I) -> I = [_mm256_madd_epi16(a[0], b[0]), _mm256_madd_epi16(a[1], b[1])];
        fn mul_halves(a: I, b: I) -> I = [_mm256_mullo_epi16(a[0], b[0]), _mm256_mullo_epi16(a[1], b[1])];
        fn to_f(a: I) -> F = [_mm256_cvtepi32_ps(a[0]), _mm256_cvtepi32_ps(a[1])];
        fn bits_f(a: I) -> F = [_mm256_castsi256_ps(a[0]), _mm256_castsi256_ps(a[1])];
        fn prefetch(at: *const u8) = _mm_prefetch::<_MM_HINT_T1>(at.cast());
    }

    #[inline(always)]
    unsafe fn dot_word<const AT: usize>(self, acc: I, quants: I, x: *const u32) -> I {
        // SAFETY: `self` proves that the CPU has AVX2, and the caller promises the words.
        unsafe { dot_word::<AT>(acc, quants, x) }
    }

    #[inline(always)]
    unsafe fn dot_scaled<const AT: usize>(
        self,
        acc: I,
        quants: [I; 2],
        x: *const u32,
        scale: &[u32; LANES],
    ) -> I {
        // SAFETY: `self` proves that the CPU has AVX2, and the caller promises the words.
        unsafe { dot_scaled::<AT>(acc, quants, x, scale) }
    }

    #[inline(always)]
    fn half_to_f(self, a: I) -> F {
        [half_to_f(a[0]), half_to_f(a[1])]
    }

    /// Without VNNI, twice 127 (2^bits - 1) is added to 16 bits each time.
    #[inline(always)]
    fn dots_max(bits: u32) -> usize {
        if VNNI { usize::MAX } else { 128 >> bits }
    }

    #[inline(always)]
    fn dot_wide(self, acc: I, quants: I, x: I) -> I {
        if VNNI {
            self.dot(acc, quants, x)
        } else {
            [dot_signed(acc[0], quants[0], x[0]), dot_signed(acc[1], quants[1], x[1])]
        }
    }

    #[inline(always)]
    unsafe fn transpose(self, first: *const u8, stride: usize) -> [I; 4] {
        let mut out = [[self.splat_i(0)[0]; 2]; 4];
        for half in 0..2 {
            // SAFETY: the caller promises 16 bytes in each of the 16 rows; `self` proves the
            // instructions.
            unsafe {
                // The 128-bit lanes of v[j] are rows j and 4 + j of this half.
                let mut v = [_mm256_setzero_si256(); 4];
                for (j, v) in v.iter_mut().enumerate() {
                    let row = first.add((8 * half + j) * stride);
                    *v = _mm256_castsi128_si256(_mm_loadu_si128(row.cast()));
                    *v = _mm256_inserti128_si256::<1>(*v, _mm_loadu_si128(row.add(4 * stride).cast()));
                }
                let (a, b) = (_mm256_unpacklo_epi32(v[0], v[1]), _mm256_unpacklo_epi32(v[2], v[3]));
                let (c, d) = (_mm256_unpackhi_epi32(v[0], v[1]), _mm256_unpackhi_epi32(v[2], v[3]));
                out[0][half] = _mm256_unpacklo_epi64(a, b);
                out[1][half] = _mm256_unpackhi_epi64(a, b);
                out[2][half] = _mm256_unpacklo_epi64(c, d);
                out[3][half] = _mm256_unpackhi_epi64(c, d);
            }
        }
        out
    }
}
