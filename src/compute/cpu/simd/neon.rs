//! NEON, which every 64-bit ARM CPU has, and the newer instructions for products of bytes where there are some: a
//! vector is four registers.
//!
//! What the standard library lacks, for the oldest supported compiler at least, is a line of assembly.

#![expect(unsafe_code, reason = "intrinsics, which a token of the level makes sound")]

use std::arch::aarch64::*;
use std::arch::{asm, is_aarch64_feature_detected};

use super::{Kernel, LANES, Simd, methods};

/// Proof that the CPU has NEON.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Neon(());

/// Proof of `sdot` too, which adds four products of bytes: from Cortex-A55, Cortex-A76 and Apple M1 on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct DotProd(());

/// Proof of `smmla` too, which multiplies two rows of eight bytes with two inputs: from Cortex-X2, Neoverse V1 and
/// Apple M2 on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct I8mm(());

impl Neon {
    pub(super) fn detect() -> Option<Self> {
        is_aarch64_feature_detected!("neon").then_some(Self(()))
    }
}

impl DotProd {
    pub(super) fn detect() -> Option<Self> {
        (Neon::detect().is_some() && is_aarch64_feature_detected!("dotprod")).then_some(Self(()))
    }
}

impl I8mm {
    pub(super) fn detect() -> Option<Self> {
        (DotProd::detect().is_some() && is_aarch64_feature_detected!("i8mm")).then_some(Self(()))
    }
}

type F = [float32x4_t; 4];
type I = [uint32x4_t; 4];

/// Calls a function of registers with the first, second, third and fourth of each argument.
macro_rules! four {
    ($function:ident($($arg:expr),*)) => {
        [
            $function($($arg[0]),*),
            $function($($arg[1]),*),
            $function($($arg[2]),*),
            $function($($arg[3]),*),
        ]
    };
}

/// Functions of registers that are some instructions each.
macro_rules! functions {
    ($($(#[$doc:meta])* fn $name:ident($($arg:ident: $type:ty),*) -> $result:ty = $body:expr;)*) => {$(
        $(#[$doc])*
        #[inline(always)]
        fn $name($($arg: $type),*) -> $result {
            // SAFETY: only called by the methods of a token that proves the instructions.
            unsafe { $body }
        }
    )*};
}

functions! {
    fn mul_add(a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t = vfmaq_f32(c, a, b);
    fn mul_sub(a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t = vfmsq_f32(c, a, b);
    fn round(a: float32x4_t) -> uint32x4_t = vreinterpretq_u32_s32(vcvtnq_s32_f32(a));
    fn to_f(a: uint32x4_t) -> float32x4_t = vcvtq_f32_s32(vreinterpretq_s32_u32(a));
    /// To the right where `bits` are negative.
    fn shift(a: uint32x4_t, bits: int32x4_t) -> uint32x4_t = vshlq_u32(a, bits);
    fn shift_signed(a: uint32x4_t, bits: int32x4_t) -> uint32x4_t =
        vreinterpretq_u32_s32(vshlq_s32(vreinterpretq_s32_u32(a), bits));
    fn lookup(table: uint8x16_t, bytes: uint32x4_t) -> uint32x4_t =
        vreinterpretq_u32_u8(vqtbl1q_u8(table, vreinterpretq_u8_u32(bytes)));
    fn flip_bytes(a: uint32x4_t, sums: uint8x16_t, signs: uint32x4_t, bits: uint8x16_t) -> uint32x4_t = {
        let a = vreinterpretq_u8_u32(a);
        let flipped = vtstq_u8(vreinterpretq_u8_u32(signs), bits);
        vreinterpretq_u32_u8(vbslq_u8(flipped, vsubq_u8(sums, a), a))
    };
    fn half_to_f(a: uint32x4_t) -> float32x4_t = {
        let (half, out) = (vmovn_u32(a), vdupq_n_f32(0.0));
        let mut out = out;
        asm!(
            "fcvtl {out:v}.4s, {half:v}.4h",
            out = lateout(vreg) out,
            half = in(vreg) half,
            options(pure, nomem, nostack, preserves_flags),
        );
        out
    };
    /// The low bytes of the lanes.
    fn bytes(a: I) -> uint8x16_t = {
        let first = vcombine_u16(vmovn_u32(a[0]), vmovn_u32(a[1]));
        let second = vcombine_u16(vmovn_u32(a[2]), vmovn_u32(a[3]));
        vcombine_u8(vmovn_u16(first), vmovn_u16(second))
    };
    /// Adds the first eight and the last eight products, 16 bits each.
    fn widening(acc: [int16x8_t; 2], quants: uint32x4_t, x: uint32x4_t) -> [int16x8_t; 2] = {
        let (quants, x) = (vreinterpretq_s8_u32(quants), vreinterpretq_s8_u32(x));
        [vmlal_s8(acc[0], vget_low_s8(quants), vget_low_s8(x)), vmlal_high_s8(acc[1], quants, x)]
    };
    /// The sum of each four.
    fn sum_products(products: [int16x8_t; 2]) -> uint32x4_t =
        vreinterpretq_u32_s32(vpaddq_s32(vpaddlq_s16(products[0]), vpaddlq_s16(products[1])));
    /// Adds four products in each lane. The sum of two fits into 16 bits: quants are at least -128, x at least -127.
    fn dot_wide(acc: uint32x4_t, quants: uint32x4_t, x: uint32x4_t) -> uint32x4_t = {
        let (quants, x) = (vreinterpretq_s8_u32(quants), vreinterpretq_s8_u32(x));
        let pairs = vpaddq_s16(vmull_s8(vget_low_s8(quants), vget_low_s8(x)), vmull_high_s8(quants, x));
        vreinterpretq_u32_s32(vpadalq_s16(vreinterpretq_s32_u32(acc), pairs))
    };
    /// Adds four products in each lane.
    fn sdot(acc: uint32x4_t, quants: uint32x4_t, x: uint32x4_t) -> uint32x4_t = {
        let mut sums = acc;
        asm!(
            ".arch_extension dotprod",
            "sdot {sums:v}.4s, {quants:v}.16b, {x:v}.16b",
            sums = inout(vreg) sums,
            quants = in(vreg) quants,
            x = in(vreg) x,
            options(pure, nomem, nostack, preserves_flags),
        );
        sums
    };
    /// Adds the products of two rows of eight bytes with two inputs: of the first row with both, then of the second.
    fn smmla(acc: uint32x4_t, rows: uint32x4_t, inputs: uint64x2_t) -> uint32x4_t = {
        let mut sums = acc;
        asm!(
            ".arch_extension i8mm",
            "smmla {sums:v}.4s, {rows:v}.16b, {inputs:v}.16b",
            sums = inout(vreg) sums,
            rows = in(vreg) rows,
            inputs = in(vreg) inputs,
            options(pure, nomem, nostack, preserves_flags),
        );
        sums
    };
    /// Lane r of result k is word k of row r.
    fn transpose(rows: [uint32x4_t; 4]) -> [uint32x4_t; 4] = {
        let even = (vtrn1q_u32(rows[0], rows[1]), vtrn1q_u32(rows[2], rows[3]));
        let odd = (vtrn2q_u32(rows[0], rows[1]), vtrn2q_u32(rows[2], rows[3]));
        let even = (vreinterpretq_u64_u32(even.0), vreinterpretq_u64_u32(even.1));
        let odd = (vreinterpretq_u64_u32(odd.0), vreinterpretq_u64_u32(odd.1));
        [
            vreinterpretq_u32_u64(vtrn1q_u64(even.0, even.1)),
            vreinterpretq_u32_u64(vtrn1q_u64(odd.0, odd.1)),
            vreinterpretq_u32_u64(vtrn2q_u64(even.0, even.1)),
            vreinterpretq_u32_u64(vtrn2q_u64(odd.0, odd.1)),
        ]
    };
}

/// What the levels have in common.
macro_rules! vectors {
    () => {
        type F = F;
        type I = I;

        const SUMS: usize = 6;
        const WIDE_SIGNED: bool = true;

        /// Assembly names its extensions, and NEON is always enabled: no function needs features of its own.
        #[inline(never)]
        fn call<K: Kernel>(self, kernel: K) -> K::Output {
            kernel.run(self)
        }

        methods! {
            fn load(from: &[f32; LANES]) -> F = {
                let from = from.as_ptr();
                [vld1q_f32(from), vld1q_f32(from.add(4)), vld1q_f32(from.add(8)), vld1q_f32(from.add(12))]
            };
            fn store(value: F, to: &mut [f32; LANES]) = {
                let to = to.as_mut_ptr();
                vst1q_f32(to, value[0]);
                vst1q_f32(to.add(4), value[1]);
                vst1q_f32(to.add(8), value[2]);
                vst1q_f32(to.add(12), value[3]);
            };
            fn splat(value: f32) -> F = [vdupq_n_f32(value); 4];
            fn add(a: F, b: F) -> F = four!(vaddq_f32(a, b));
            fn sub(a: F, b: F) -> F = four!(vsubq_f32(a, b));
            fn mul(a: F, b: F) -> F = four!(vmulq_f32(a, b));
            fn div(a: F, b: F) -> F = four!(vdivq_f32(a, b));
            fn min(a: F, b: F) -> F = four!(vminnmq_f32(a, b));
            fn max(a: F, b: F) -> F = four!(vmaxnmq_f32(a, b));
            fn mul_add(a: F, b: F, c: F) -> F = four!(mul_add(a, b, c));
            fn mul_sub(a: F, b: F, c: F) -> F = four!(mul_sub(a, b, c));
            fn abs(a: F) -> F = four!(vabsq_f32(a));
            fn round(a: F) -> I = four!(round(a));
            fn sum(a: F) -> f32 = vaddvq_f32(vaddq_f32(vaddq_f32(a[0], a[1]), vaddq_f32(a[2], a[3])));
            fn max_lane(a: F) -> f32 =
                vmaxnmvq_f32(vmaxnmq_f32(vmaxnmq_f32(a[0], a[1]), vmaxnmq_f32(a[2], a[3])));

            fn load_i(from: &[u32; LANES]) -> I = {
                let from = from.as_ptr();
                [vld1q_u32(from), vld1q_u32(from.add(4)), vld1q_u32(from.add(8)), vld1q_u32(from.add(12))]
            };
            fn store_i(value: I, to: &mut [u32; LANES]) = {
                let to = to.as_mut_ptr();
                vst1q_u32(to, value[0]);
                vst1q_u32(to.add(4), value[1]);
                vst1q_u32(to.add(8), value[2]);
                vst1q_u32(to.add(12), value[3]);
            };
            fn store_bytes(value: I, to: &mut [i8; LANES]) = vst1q_u8(to.as_mut_ptr().cast(), bytes(value));
            fn splat_i(value: u32) -> I = [vdupq_n_u32(value); 4];
            fn and(a: I, b: I) -> I = four!(vandq_u32(a, b));
            fn or(a: I, b: I) -> I = four!(vorrq_u32(a, b));
            fn xor(a: I, b: I) -> I = four!(veorq_u32(a, b));
            fn add_i(a: I, b: I) -> I = four!(vaddq_u32(a, b));
            fn shl(a: I, bits: u32) -> I = {
                let bits = [vdupq_n_s32(bits as i32); 4];
                four!(shift(a, bits))
            };
            fn shr(a: I, bits: u32) -> I = {
                let bits = [vdupq_n_s32(-(bits as i32)); 4];
                four!(shift(a, bits))
            };
            fn sar(a: I, bits: u32) -> I = {
                let bits = [vdupq_n_s32(-(bits as i32)); 4];
                four!(shift_signed(a, bits))
            };
            fn lookup(table: &[u8; 16], bytes: I) -> I = {
                let table = [vld1q_u8(table.as_ptr()); 4];
                four!(lookup(table, bytes))
            };
            fn spread_byte(a: I, at: usize) -> I = {
                let first = vreinterpretq_u8_u32(vld1q_u32([0, 0x0404_0404, 0x0808_0808, 0x0c0c_0c0c].as_ptr()));
                let index = [vreinterpretq_u32_u8(vaddq_u8(first, vdupq_n_u8(at as u8))); 4];
                let tables = a.map(|a| vreinterpretq_u8_u32(a));
                four!(lookup(tables, index))
            };
            fn flip_bytes(a: I, sum: u8, signs: I, bits: u32) -> I = {
                let (sums, bits) = ([vdupq_n_u8(sum); 4], [vreinterpretq_u8_u32(vdupq_n_u32(bits)); 4]);
                four!(flip_bytes(a, sums, signs, bits))
            };
            fn to_f(a: I) -> F = four!(to_f(a));
            fn half_to_f(a: I) -> F = four!(half_to_f(a));
            fn bits_f(a: I) -> F = four!(vreinterpretq_f32_u32(a));
            fn prefetch(at: *const u8) = asm!(
                "prfm pldl2keep, [{at}]",
                at = in(reg) at,
                options(nostack, preserves_flags, readonly),
            );
        }

        #[inline(always)]
        unsafe fn transpose(self, first: *const u8, stride: usize) -> [I; 4] {
            let mut out = [self.splat_i(0); 4];
            for four in 0..4 {
                let mut rows = out[0];
                for (row, words) in rows.iter_mut().enumerate() {
                    // SAFETY: the caller promises 16 bytes in each of the 16 rows; `self` proves the
                    // instructions.
                    *words = unsafe { vreinterpretq_u32_u8(vld1q_u8(first.add((4 * four + row) * stride))) };
                }
                for (out, words) in out.iter_mut().zip(transpose(rows)) {
                    out[four] = words;
                }
            }
            out
        }
    };
}

impl Simd for Neon {
    /// Sums of products in 16 bits.
    type Dots = [[int16x8_t; 2]; 4];

    const DOTS: usize = 2;
    const DOTS_BOUNDED: bool = true;

    vectors!();

    methods! {
        fn no_dots() -> Self::Dots = [[vdupq_n_s16(0); 2]; 4];
        fn dot(acc: Self::Dots, quants: I, x: I) -> Self::Dots = four!(widening(acc, quants, x));
        fn sum_dots(dots: Self::Dots) -> I = four!(sum_products(dots));
        fn dot_wide(acc: I, quants: I, x: I) -> I = four!(dot_wide(acc, quants, x));
    }

    /// 127 (2^bits - 1) is added to 16 bits each time.
    #[inline(always)]
    fn dots_max(bits: u32) -> usize {
        256 >> bits
    }
}

/// What the levels with sums of four products have in common.
macro_rules! dots {
    () => {
        type Dots = I;

        const DOTS: usize = 4;

        methods! {
            fn no_dots() -> I = [vdupq_n_u32(0); 4];
            fn dot(acc: I, quants: I, x: I) -> I = four!(sdot(acc, quants, x));
            fn sum_dots(dots: I) -> I = dots;
            fn dot_wide(acc: I, quants: I, x: I) -> I = four!(sdot(acc, quants, x));
        }

        #[inline(always)]
        fn dots_max(_: u32) -> usize {
            usize::MAX
        }
    };
}

impl Simd for DotProd {
    vectors!();
    dots!();
}

impl Simd for I8mm {
    const PAIRS: bool = true;

    vectors!();
    dots!();

    methods! {
        /// The first of the sums are of rows 0, 1, 4, 5, 8, 9, 12 and 13, each with both inputs.
        fn dot_pair(acc: [I; 2], quants: [I; 2], x: [u64; 2]) -> [I; 2] = {
            let inputs = [vcombine_u64(vcreate_u64(x[0]), vcreate_u64(x[1])); 4];
            let rows = [four!(vzip1q_u32(quants[0], quants[1])), four!(vzip2q_u32(quants[0], quants[1]))];
            [four!(smmla(acc[0], rows[0], inputs)), four!(smmla(acc[1], rows[1], inputs))]
        };
        fn sum_pair(dots: [I; 2]) -> [I; 2] =
            [four!(vuzp1q_u32(dots[0], dots[1])), four!(vuzp2q_u32(dots[0], dots[1]))];
    }
}
