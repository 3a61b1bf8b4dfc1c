//! AVX2 with FMA and F16C, and with AVX-VNNI where the CPU has it: a vector is two registers.

#![expect(unsafe_code, reason = "intrinsics, which a token of the level makes sound")]

use std::arch::asm;
use std::arch::x86_64::*;

use super::{Kernel, LANES, PartKernel, Simd, methods};

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

    #[inline(always)]
    fn halves(self) -> (Half<VNNI, 0>, Half<VNNI, 8>) {
        (Half(self), Half(self))
    }
}

/// Lanes `AT` to `AT + 8`: half a vector is one register.
#[derive(Clone, Copy)]
pub(super) struct Half<const VNNI: bool, const AT: usize>(Avx2<VNNI>);

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

impl<const VNNI: bool, const AT: usize> Simd for Half<VNNI, AT> {
    type F = __m256;
    type I = __m256i;
    /// Twice 16 bits in each lane, or with VNNI 32.
    type Dots = __m256i;

    const ROWS: usize = 8;
    const TILE: usize = 8;
    const DOTS: usize = 8;
    const DOTS_BOUNDED: bool = !VNNI;
    const WIDE_WORDS: bool = false;
    const WIDE_SIGNED: bool = !VNNI;

    #[inline(always)]
    fn call<K: Kernel>(self, kernel: K) -> K::Output {
        kernel.run(self)
    }

    methods! {
        fn load(from: &[f32; LANES]) -> __m256 = _mm256_loadu_ps(from[AT..].as_ptr());
        fn store(value: __m256, to: &mut [f32; LANES]) = _mm256_storeu_ps(to[AT..].as_mut_ptr(), value);
        fn splat(value: f32) -> __m256 = _mm256_set1_ps(value);
        fn add(a: __m256, b: __m256) -> __m256 = _mm256_add_ps(a, b);
        fn sub(a: __m256, b: __m256) -> __m256 = _mm256_sub_ps(a, b);
        fn mul(a: __m256, b: __m256) -> __m256 = _mm256_mul_ps(a, b);
        fn div(a: __m256, b: __m256) -> __m256 = _mm256_div_ps(a, b);
        fn min(a: __m256, b: __m256) -> __m256 = _mm256_min_ps(a, b);
        fn max(a: __m256, b: __m256) -> __m256 = _mm256_max_ps(a, b);
        fn mul_add(a: __m256, b: __m256, c: __m256) -> __m256 = _mm256_fmadd_ps(a, b, c);
        fn mul_sub(a: __m256, b: __m256, c: __m256) -> __m256 = _mm256_fnmadd_ps(a, b, c);
        fn abs(a: __m256) -> __m256 = _mm256_andnot_ps(_mm256_set1_ps(-0.0), a);
        fn round(a: __m256) -> __m256i = _mm256_cvtps_epi32(a);
        fn sum(a: __m256) -> f32 = {
            let four = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
        };
        fn max_lane(a: __m256) -> f32 = {
            let four = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps::<1>(two, two)))
        };

        fn load_i(from: &[u32; LANES]) -> __m256i = _mm256_loadu_si256(from[AT..].as_ptr().cast());
        fn store_i(value: __m256i, to: &mut [u32; LANES]) =
            _mm256_storeu_si256(to[AT..].as_mut_ptr().cast(), value);
        fn store_bytes(value: __m256i, to: &mut [i8; LANES]) = {
            let words = _mm_packs_epi32(_mm256_castsi256_si128(value), _mm256_extracti128_si256::<1>(value));
            _mm_storel_epi64(to[AT..].as_mut_ptr().cast(), _mm_packs_epi16(words, words));
        };
        fn splat_i(value: u32) -> __m256i = _mm256_set1_epi32(value as i32);
        fn and(a: __m256i, b: __m256i) -> __m256i = _mm256_and_si256(a, b);
        fn or(a: __m256i, b: __m256i) -> __m256i = _mm256_or_si256(a, b);
        fn xor(a: __m256i, b: __m256i) -> __m256i = _mm256_xor_si256(a, b);
        fn add_i(a: __m256i, b: __m256i) -> __m256i = _mm256_add_epi32(a, b);
        fn shl(a: __m256i, bits: u32) -> __m256i = _mm256_sll_epi32(a, _mm_cvtsi32_si128(bits as i32));
        fn shr(a: __m256i, bits: u32) -> __m256i = _mm256_srl_epi32(a, _mm_cvtsi32_si128(bits as i32));
        fn sar(a: __m256i, bits: u32) -> __m256i = _mm256_sra_epi32(a, _mm_cvtsi32_si128(bits as i32));
        fn lookup(table: &[u8; 16], bytes: __m256i) -> __m256i =
            _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast())), bytes);
        fn no_dots() -> __m256i = _mm256_setzero_si256();
        fn dot(acc: __m256i, quants: __m256i, x: __m256i) -> __m256i = if VNNI {
            _mm256_dpbusd_avx_epi32(acc, quants, x)
        } else {
            in_order(_mm256_add_epi16(acc, _mm256_maddubs_epi16(quants, x)))
        };
        fn sum_dots(dots: __m256i) -> __m256i =
            if VNNI { dots } else { _mm256_madd_epi16(dots, _mm256_set1_epi16(1)) };
        fn to_f(a: __m256i) -> __m256 = _mm256_cvtepi32_ps(a);
        fn half_to_f(a: __m256i) -> __m256 = {
            let low = _mm256_and_si256(a, _mm256_set1_epi32(0xffff));
            let packed = _mm256_permute4x64_epi64::<0b1000>(_mm256_packus_epi32(low, low));
            _mm256_cvtph_ps(_mm256_castsi256_si128(packed))
        };
        fn bits_f(a: __m256i) -> __m256 = _mm256_castsi256_ps(a);
        fn prefetch(at: *const u8) = _mm_prefetch::<_MM_HINT_T1>(at.cast());
    }

    #[inline(always)]
    fn gather<const N: usize>(self, table: &[u32; N], index: __m256i) -> __m256i {
        const { assert!(N.is_power_of_two() && N <= 1 << 30) };
        let index = self.and(index, self.splat_i(N as u32 - 1));
        // SAFETY: `self` proves that the CPU has AVX2, and every index is below N.
        unsafe { _mm256_i32gather_epi32::<4>(table.as_ptr().cast(), index) }
    }

    /// Without VNNI, twice 127 (2^bits - 1) is added to 16 bits each time.
    #[inline(always)]
    fn dots_max(bits: u32) -> usize {
        if VNNI { usize::MAX } else { 128 >> bits }
    }

    #[inline(always)]
    fn dot_wide(self, acc: __m256i, quants: __m256i, x: __m256i) -> __m256i {
        if VNNI { self.dot(acc, quants, x) } else { dot_signed(acc, quants, x) }
    }

    #[inline(always)]
    unsafe fn transpose(self, first: *const u8, stride: usize) -> [__m256i; 4] {
        // SAFETY: the caller promises 16 bytes in each of the 16 rows; `self` proves the instructions.
        unsafe {
            // The 128-bit lanes of v[j] are rows j and 4 + j of this half.
            let mut v = [_mm256_setzero_si256(); 4];
            for (j, v) in v.iter_mut().enumerate() {
                let row = first.add((AT + j) * stride);
                *v = _mm256_castsi128_si256(_mm_loadu_si128(row.cast()));
                *v = _mm256_inserti128_si256::<1>(*v, _mm_loadu_si128(row.add(4 * stride).cast()));
            }
            let (a, b) = (_mm256_unpacklo_epi32(v[0], v[1]), _mm256_unpacklo_epi32(v[2], v[3]));
            let (c, d) = (_mm256_unpackhi_epi32(v[0], v[1]), _mm256_unpackhi_epi32(v[2], v[3]));
            [
                _mm256_unpacklo_epi64(a, b),
                _mm256_unpackhi_epi64(a, b),
                _mm256_unpacklo_epi64(c, d),
                _mm256_unpackhi_epi64(c, d),
            ]
        }
    }
}

/// Methods that do the same with both halves: first the arguments that are vectors.
macro_rules! both {
    ($($name:ident($($pair:ident: $type:ty),*; $($arg:ident: $plain:ty),*) -> $result:ty;)*) => {$(
        #[inline(always)]
        fn $name(self, $($pair: $type,)* $($arg: $plain),*) -> $result {
            let (low, high) = self.halves();
            [low.$name($($pair[0],)* $($arg),*), high.$name($($pair[1],)* $($arg),*)]
        }
    )*};
}

impl<const VNNI: bool> Simd for Avx2<VNNI> {
    type F = F;
    type I = I;
    type Dots = I;

    const TILE: usize = 4;
    const DOTS: usize = 4;
    const DOTS_BOUNDED: bool = !VNNI;
    const WIDE_SIGNED: bool = !VNNI;

    #[inline(always)]
    fn call<K: Kernel>(self, kernel: K) -> K::Output {
        self.run(kernel)
    }

    #[inline(always)]
    fn each_part<K: PartKernel>(self, mut kernel: K) {
        let (low, high) = self.halves();
        kernel.run(low);
        kernel.run(high);
    }

    #[inline(always)]
    fn in_memory<T>(self, value: &mut T) -> &mut T {
        let mut at: *mut T = value;
        // SAFETY: nothing is executed, and the reference is the only one as before.
        unsafe {
            asm!("/* {0} */", inout(reg) at, options(pure, nomem, nostack, preserves_flags));
            &mut *at
        }
    }

    both! {
        load(; from: &[f32; LANES]) -> F;
        splat(; value: f32) -> F;
        add(a: F, b: F;) -> F;
        sub(a: F, b: F;) -> F;
        mul(a: F, b: F;) -> F;
        div(a: F, b: F;) -> F;
        min(a: F, b: F;) -> F;
        max(a: F, b: F;) -> F;
        mul_add(a: F, b: F, c: F;) -> F;
        mul_sub(a: F, b: F, c: F;) -> F;
        abs(a: F;) -> F;
        round(a: F;) -> I;
        load_i(; from: &[u32; LANES]) -> I;
        splat_i(; value: u32) -> I;
        and(a: I, b: I;) -> I;
        or(a: I, b: I;) -> I;
        xor(a: I, b: I;) -> I;
        add_i(a: I, b: I;) -> I;
        shl(a: I; bits: u32) -> I;
        shr(a: I; bits: u32) -> I;
        sar(a: I; bits: u32) -> I;
        to_f(a: I;) -> F;
        half_to_f(a: I;) -> F;
        bits_f(a: I;) -> F;
        no_dots(;) -> I;
        dot(acc: I, quants: I, x: I;) -> I;
        sum_dots(dots: I;) -> I;
        dot_wide(acc: I, quants: I, x: I;) -> I;
    }

    #[inline(always)]
    fn store(self, value: F, to: &mut [f32; LANES]) {
        let (low, high) = self.halves();
        low.store(value[0], to);
        high.store(value[1], to);
    }

    #[inline(always)]
    fn store_i(self, value: I, to: &mut [u32; LANES]) {
        let (low, high) = self.halves();
        low.store_i(value[0], to);
        high.store_i(value[1], to);
    }

    #[inline(always)]
    fn sum(self, a: F) -> f32 {
        let low = self.halves().0;
        low.sum(low.add(a[0], a[1]))
    }

    #[inline(always)]
    fn max_lane(self, a: F) -> f32 {
        let low = self.halves().0;
        low.max_lane(low.max(a[0], a[1]))
    }

    methods! {
        fn store_bytes(value: I, to: &mut [i8; LANES]) = {
            let words = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packs_epi32(value[0], value[1]));
            let bytes = _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words));
            _mm_storeu_si128(to.as_mut_ptr().cast(), bytes);
        };
    }

    #[inline(always)]
    fn lookup(self, table: &[u8; 16], bytes: I) -> I {
        let (low, high) = self.halves();
        [low.lookup(table, bytes[0]), high.lookup(table, bytes[1])]
    }

    #[inline(always)]
    fn gather<const N: usize>(self, table: &[u32; N], index: I) -> I {
        let (low, high) = self.halves();
        [low.gather(table, index[0]), high.gather(table, index[1])]
    }

    #[inline(always)]
    fn dots_max(bits: u32) -> usize {
        Half::<VNNI, 0>::dots_max(bits)
    }

    #[inline(always)]
    fn prefetch(self, at: *const u8) {
        self.halves().0.prefetch(at);
    }

    #[inline(always)]
    unsafe fn transpose(self, first: *const u8, stride: usize) -> [I; 4] {
        let (low, high) = self.halves();
        // SAFETY: as the caller promises.
        let (low, high) = unsafe { (low.transpose(first, stride), high.transpose(first, stride)) };
        [[low[0], high[0]], [low[1], high[1]], [low[2], high[2]], [low[3], high[3]]]
    }
}
