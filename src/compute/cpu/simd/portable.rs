//! Plain Rust: runs everywhere and defines what the other levels compute.

#![expect(unsafe_code, reason = "loads by pointer, inside bounds that the caller promises")]

use super::{Kernel, LANES, Simd};

/// Always available.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Portable;

impl Portable {
    pub(super) fn detect() -> Option<Self> {
        Some(Self)
    }
}

#[inline(always)]
fn map<A: Copy, R: Copy + Default>(a: [A; LANES], f: impl Fn(A) -> R) -> [R; LANES] {
    let mut out = [R::default(); LANES];
    for (out, a) in out.iter_mut().zip(a) {
        *out = f(a);
    }
    out
}

#[inline(always)]
fn zip<A: Copy, R: Copy + Default>(a: [A; LANES], b: [A; LANES], f: impl Fn(A, A) -> R) -> [R; LANES] {
    let mut out = [R::default(); LANES];
    for ((out, a), b) in out.iter_mut().zip(a).zip(b) {
        *out = f(a, b);
    }
    out
}

#[inline(always)]
fn dot(acc: [u32; LANES], quants: [u32; LANES], x: [u32; LANES]) -> [u32; LANES] {
    let mut out = acc;
    for ((out, quants), x) in out.iter_mut().zip(quants).zip(x) {
        for (code, x) in quants.to_le_bytes().into_iter().zip(x.to_le_bytes()) {
            *out = out.wrapping_add((i32::from(code) * i32::from(x as i8)) as u32);
        }
    }
    out
}

impl Simd for Portable {
    type F = [f32; LANES];
    type I = [u32; LANES];
    type Dots = Self::I;

    const SUMS: usize = 4;
    const DOTS: usize = 4;
    const WIDE_SIGNED: bool = false;
    /// So that pairs are tested on every machine.
    const PAIRS: bool = true;

    #[inline(never)]
    fn call<K: Kernel>(self, kernel: K) -> K::Output {
        kernel.run(self)
    }
    #[inline(always)]
    fn load(self, from: &[f32; LANES]) -> Self::F {
        *from
    }
    #[inline(always)]
    fn store(self, value: Self::F, to: &mut [f32; LANES]) {
        *to = value;
    }
    #[inline(always)]
    fn splat(self, value: f32) -> Self::F {
        [value; LANES]
    }
    #[inline(always)]
    fn add(self, a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |a, b| a + b)
    }
    #[inline(always)]
    fn sub(self, a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |a, b| a - b)
    }
    #[inline(always)]
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |a, b| a * b)
    }
    #[inline(always)]
    fn div(self, a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |a, b| a / b)
    }
    #[inline(always)]
    fn min(self, a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, f32::min)
    }
    #[inline(always)]
    fn max(self, a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, f32::max)
    }
    /// Rounds twice: without the instruction, a fused operation is a slow function call.
    #[inline(always)]
    fn mul_add(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        zip(zip(a, b, |a, b| a * b), c, |ab, c| ab + c)
    }
    #[inline(always)]
    fn mul_sub(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        zip(zip(a, b, |a, b| a * b), c, |ab, c| c - ab)
    }
    #[inline(always)]
    fn abs(self, a: Self::F) -> Self::F {
        map(a, f32::abs)
    }
    #[inline(always)]
    fn round(self, a: Self::F) -> Self::I {
        map(a, |a| a.round_ties_even() as i32 as u32)
    }
    #[inline(always)]
    fn sum(self, a: Self::F) -> f32 {
        a.iter().sum()
    }
    #[inline(always)]
    fn max_lane(self, a: Self::F) -> f32 {
        a.into_iter().fold(f32::NEG_INFINITY, f32::max)
    }

    #[inline(always)]
    fn load_i(self, from: &[u32; LANES]) -> Self::I {
        *from
    }
    #[inline(always)]
    fn store_i(self, value: Self::I, to: &mut [u32; LANES]) {
        *to = value;
    }
    #[inline(always)]
    fn store_bytes(self, value: Self::I, to: &mut [i8; LANES]) {
        *to = map(value, |value| value as i8);
    }
    #[inline(always)]
    fn splat_i(self, value: u32) -> Self::I {
        [value; LANES]
    }
    #[inline(always)]
    fn and(self, a: Self::I, b: Self::I) -> Self::I {
        zip(a, b, |a, b| a & b)
    }
    #[inline(always)]
    fn or(self, a: Self::I, b: Self::I) -> Self::I {
        zip(a, b, |a, b| a | b)
    }
    #[inline(always)]
    fn xor(self, a: Self::I, b: Self::I) -> Self::I {
        zip(a, b, |a, b| a ^ b)
    }
    #[inline(always)]
    fn add_i(self, a: Self::I, b: Self::I) -> Self::I {
        zip(a, b, u32::wrapping_add)
    }
    #[inline(always)]
    fn shl(self, a: Self::I, bits: u32) -> Self::I {
        map(a, |a| a << bits)
    }
    #[inline(always)]
    fn shr(self, a: Self::I, bits: u32) -> Self::I {
        map(a, |a| a >> bits)
    }
    #[inline(always)]
    fn sar(self, a: Self::I, bits: u32) -> Self::I {
        map(a, |a| (a as i32 >> bits) as u32)
    }
    #[inline(always)]
    fn lookup(self, table: &[u8; 16], bytes: Self::I) -> Self::I {
        map(bytes, |bytes| u32::from_le_bytes(bytes.to_le_bytes().map(|byte| table[byte as usize & 15])))
    }
    #[inline(always)]
    fn spread_byte(self, a: Self::I, at: usize) -> Self::I {
        map(a, |a| (a >> (8 * at) & 0xff) * 0x0101_0101)
    }
    #[inline(always)]
    fn flip_bytes(self, a: Self::I, sum: u8, signs: Self::I, bits: u32) -> Self::I {
        zip(a, signs, |a, signs| {
            let (a, common) = (a.to_le_bytes(), (signs & bits).to_le_bytes());
            u32::from_le_bytes([0, 1, 2, 3].map(|i| if common[i] == 0 { a[i] } else { sum - a[i] }))
        })
    }
    #[inline(always)]
    fn to_f(self, a: Self::I) -> Self::F {
        map(a, |a| a as i32 as f32)
    }
    #[inline(always)]
    fn half_to_f(self, a: Self::I) -> Self::F {
        map(a, |a| half::f16::from_bits(a as u16).to_f32())
    }
    #[inline(always)]
    fn bits_f(self, a: Self::I) -> Self::F {
        map(a, f32::from_bits)
    }
    #[inline(always)]
    fn no_dots(self) -> Self::I {
        [0; LANES]
    }
    #[inline(always)]
    fn dot(self, acc: Self::I, quants: Self::I, x: Self::I) -> Self::I {
        dot(acc, quants, x)
    }
    #[inline(always)]
    fn dots_max(_: u32) -> usize {
        usize::MAX
    }
    #[inline(always)]
    fn sum_dots(self, dots: Self::I) -> Self::I {
        dots
    }
    #[inline(always)]
    fn dot_wide(self, acc: Self::I, quants: Self::I, x: Self::I) -> Self::I {
        dot(acc, quants, x)
    }
    #[inline(always)]
    unsafe fn transpose(self, first: *const u8, stride: usize) -> [Self::I; 4] {
        let mut out = [[0; LANES]; 4];
        for row in 0..LANES {
            // SAFETY: the caller promises 16 bytes in each of the 16 rows.
            let words = unsafe { first.add(row * stride).cast::<[[u8; 4]; 4]>().read() };
            for (out, word) in out.iter_mut().zip(words) {
                out[row] = u32::from_le_bytes(word);
            }
        }
        out
    }
    #[inline(always)]
    fn prefetch(self, _: *const u8) {}
}
