//! The vector instructions of a CPU behind one trait, so that every kernel is written once.
//!
//! A [`Kernel`] is a struct of its arguments whose `run` is generic over [`Simd`]; [`Level::run`] compiles
//! it for each level of instructions and calls the one that this CPU has. Everything a kernel calls must be
//! `#[inline(always)]`, or it is compiled without those instructions; closures are not inlined reliably.
//! A level takes whole tasks, never single operations.
//!
//! Another level is a token, which is only made where the CPU has the instructions, in a file here and a line of
//! `levels!`.

#![expect(unsafe_code, reason = "intrinsics, which a token of the level makes sound")]

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;

use std::fmt;
use std::str::FromStr;

/// Lanes of a vector: rows of a strip of a matrix, or consecutive elements.
pub(super) const LANES: usize = 16;

/// Bytes of a cache line.
pub(super) const LINE: usize = 64;

/// Sixteen 32-bit lanes of some instruction set. A value of the implementing type proves that the CPU has
/// the instructions.
pub trait Simd: Copy {
    /// 16 x f32.
    type F: Copy;
    /// 16 x 32 bits: an integer, or four bytes.
    type I: Copy;
    /// Sums of products in as many lanes as the instructions for bytes leave, see [`Simd::dot`].
    type Dots: Copy;

    /// Vectors of sums that the registers hold, besides what is being added to them.
    const SUMS: usize;
    /// Activations that a product with quants works on at a time; it takes two registers for each.
    const DOTS: usize;
    /// The same for types with a scale for each half block.
    const DOTS_HALVED: usize = Self::DOTS;
    /// Whether sums of products overflow, see [`Simd::dots_max`].
    const DOTS_BOUNDED: bool = false;
    /// Most activations that are multiplied with quants which are not stored first.
    const DIRECT: usize = 4;
    /// Whether sums of products are multiplied with integer scales before they become f32: that costs nothing where
    /// pairs of sums are still to be added. The other levels lack the
    /// operations for it.
    const SCALED: bool = false;
    /// Whether [`Simd::dot_wide`] takes quants as signed bytes, or as bytes that are 128 too large.
    const WIDE_SIGNED: bool;
    /// Whether the products of quants with several inputs are [`Simd::dot_pair`]s. [`Simd::dot`] then takes wide
    /// quants too, and any number of products.
    const PAIRS: bool = false;

    /// Runs a kernel as a function of its own: what is compiled together shares the registers.
    fn call<K: Kernel>(self, kernel: K) -> K::Output;

    fn load(self, from: &[f32; LANES]) -> Self::F;
    fn store(self, value: Self::F, to: &mut [f32; LANES]);
    fn splat(self, value: f32) -> Self::F;
    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    fn sub(self, a: Self::F, b: Self::F) -> Self::F;
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    fn div(self, a: Self::F, b: Self::F) -> Self::F;
    fn min(self, a: Self::F, b: Self::F) -> Self::F;
    fn max(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a b + c`, rounded once.
    fn mul_add(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// `c - a b`, rounded once.
    fn mul_sub(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    fn abs(self, a: Self::F) -> Self::F;
    /// To the nearest integer, ties to even.
    fn round(self, a: Self::F) -> Self::I;
    /// The sum of all lanes.
    fn sum(self, a: Self::F) -> f32;
    /// The greatest lane.
    fn max_lane(self, a: Self::F) -> f32;

    fn load_i(self, from: &[u32; LANES]) -> Self::I;
    fn store_i(self, value: Self::I, to: &mut [u32; LANES]);
    /// The low bytes of the lanes.
    fn store_bytes(self, value: Self::I, to: &mut [i8; LANES]);
    fn splat_i(self, value: u32) -> Self::I;
    fn and(self, a: Self::I, b: Self::I) -> Self::I;
    fn or(self, a: Self::I, b: Self::I) -> Self::I;
    fn xor(self, a: Self::I, b: Self::I) -> Self::I;
    fn add_i(self, a: Self::I, b: Self::I) -> Self::I;
    /// `a << bits`, zeros shifted in.
    fn shl(self, a: Self::I, bits: u32) -> Self::I;
    /// `a >> bits`, zeros shifted in.
    fn shr(self, a: Self::I, bits: u32) -> Self::I;
    /// `a >> bits`, the sign shifted in.
    fn sar(self, a: Self::I, bits: u32) -> Self::I;
    /// `table[byte]` for each byte, all of which are below 16.
    fn lookup(self, table: &[u8; 16], bytes: Self::I) -> Self::I;
    /// Byte `at` of each lane in all four.
    fn spread_byte(self, a: Self::I, at: usize) -> Self::I;
    /// For each byte `sum - byte` where `bits` and the byte of `signs` have a bit in common, else the byte. `bits` has four
    /// bytes, none of them 0; no byte is greater than `sum`.
    fn flip_bytes(self, a: Self::I, sum: u8, signs: Self::I, bits: u32) -> Self::I;
    /// Signed integers as f32.
    fn to_f(self, a: Self::I) -> Self::F;
    /// The binary16 in the low half of each lane.
    fn half_to_f(self, a: Self::I) -> Self::F;
    /// The same bits.
    fn bits_f(self, a: Self::I) -> Self::F;
    /// No sums.
    fn no_dots(self) -> Self::Dots;
    /// `acc + quants[i] x[i]`, four for each lane: quants below 2^bits, at most 7, x of -127 to 127, at most
    /// [`Simd::dots_max`] times.
    fn dot(self, acc: Self::Dots, quants: Self::I, x: Self::I) -> Self::Dots;
    /// [`Simd::dot`] with word `AT` of those at `x` in each lane, in the order of the program.
    ///
    /// # Safety
    /// `AT + 1` words must be readable at `x`.
    #[inline(always)]
    unsafe fn dot_word<const AT: usize>(
        self,
        _acc: Self::Dots,
        _quants: Self::I,
        _x: *const u32,
    ) -> Self::Dots {
        unreachable!("only called where SCALED")
    }
    /// How often [`Simd::dot`] may add to the same sums; at least 8 times unless [`Simd::DOTS_BOUNDED`].
    fn dots_max(bits: u32) -> usize;
    /// The sum in each lane.
    fn sum_dots(self, dots: Self::Dots) -> Self::I;
    /// The sum in each lane times the scale in both 16-bit halves of the lane.
    #[inline(always)]
    fn scale_dots(self, _dots: Self::Dots, _scale: Self::I) -> Self::I {
        unreachable!("only called where SCALED")
    }
    /// `acc` and the products with two words times the scale in both 16-bit halves of the lane: words `AT` and `AT + 1` of
    /// those at `x`, in the order of the program.
    ///
    /// # Safety
    /// `AT + 2` words must be readable at `x`.
    #[inline(always)]
    unsafe fn dot_scaled<const AT: usize>(
        self,
        _acc: Self::I,
        _quants: [Self::I; 2],
        _x: *const u32,
        _scale: &[u32; LANES],
    ) -> Self::I {
        unreachable!("only called where SCALED")
    }
    /// Byte `at` of each lane, an integer with a sign or without, as both 16-bit halves of the lane.
    #[inline(always)]
    fn byte_halves(self, _a: Self::I, _at: usize, _is_signed: bool) -> Self::I {
        unreachable!("only called where SCALED")
    }
    /// `a0 b0 + a1 b1` for the signed 16-bit halves of each lane.
    #[inline(always)]
    fn dot_halves(self, _a: Self::I, _b: Self::I) -> Self::I {
        unreachable!("only called where SCALED")
    }
    /// The low 16 bits of the products of 16-bit halves.
    #[inline(always)]
    fn mul_halves(self, _a: Self::I, _b: Self::I) -> Self::I {
        unreachable!("only called where SCALED")
    }
    /// `acc + sum of 4 quants[i] x[i]` per lane for quants that need all 8 bits, see [`Simd::WIDE_SIGNED`].
    fn dot_wide(self, acc: Self::I, quants: Self::I, x: Self::I) -> Self::I;
    /// [`Simd::dot`] for two words of quants and two words of each of two inputs, with sums that belong together:
    /// they begin with [`Simd::no_dots`] and end with [`Simd::sum_pair`].
    #[inline(always)]
    fn dot_pair(self, acc: [Self::Dots; 2], quants: [Self::I; 2], x: [u64; 2]) -> [Self::Dots; 2] {
        let mut sums = acc;
        for (sums, x) in sums.iter_mut().zip(x) {
            *sums = self.dot(*sums, quants[0], self.splat_i(x as u32));
            *sums = self.dot(*sums, quants[1], self.splat_i((x >> 32) as u32));
        }
        sums
    }
    /// The sum in each lane for each of the two inputs.
    #[inline(always)]
    fn sum_pair(self, dots: [Self::Dots; 2]) -> [Self::I; 2] {
        [self.sum_dots(dots[0]), self.sum_dots(dots[1])]
    }
    /// Four 32-bit words of 16 rows: lane r of result k is word k of row r, which begins at
    /// `first + r * stride`.
    ///
    /// # Safety
    /// 16 bytes must be readable from the start of each row.
    unsafe fn transpose(self, first: *const u8, stride: usize) -> [Self::I; 4];
    /// As [`Simd::transpose`], eight words of each row.
    ///
    /// # Safety
    /// 32 bytes must be readable from the start of each row.
    #[inline(always)]
    unsafe fn transpose_wide(self, first: *const u8, stride: usize) -> [Self::I; 8] {
        // SAFETY: both halves are among the 32 bytes.
        let ([a, b, c, d], [e, f, g, h]) =
            unsafe { (self.transpose(first, stride), self.transpose(first.add(16), stride)) };
        [a, b, c, d, e, f, g, h]
    }
    /// Asks for the cache line at `at`, which need not be readable, to come to the second-level cache: the
    /// first has too few places for lines on their way.
    fn prefetch(self, at: *const u8);
    /// [`Simd::prefetch`] for all of `bytes`.
    #[inline(always)]
    fn prefetch_all(self, bytes: &[u8]) {
        for line in (0..bytes.len()).step_by(LINE) {
            self.prefetch(bytes.as_ptr().wrapping_add(line));
        }
    }
}

/// Work that is compiled for every level of instructions.
pub trait Kernel {
    type Output;
    /// Must be `#[inline(always)]`.
    fn run<S: Simd>(self, simd: S) -> Self::Output;
}

/// A level of vector instructions that this CPU has.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Level(Token);

/// The levels, for each architecture the slowest first, as: variant, token, name.
macro_rules! levels {
    ($($(#[$only:meta])* $level:ident($token:ty) = $name:literal;)*) => {
        #[derive(Clone, Copy, PartialEq, Eq)]
        enum Token {
            $($(#[$only])* $level($token),)*
        }

        impl Level {
            /// The levels that this CPU has, the slowest first.
            pub fn supported() -> impl Iterator<Item = Level> {
                [$($(#[$only])* <$token>::detect().map(Token::$level),)*].into_iter().flatten().map(Level)
            }

            /// Runs a kernel with the instructions of this level.
            #[inline]
            pub fn run<K: Kernel>(self, kernel: K) -> K::Output {
                match self.0 {
                    $($(#[$only])* Token::$level(token) => token.call(kernel),)*
                }
            }

            fn name(self) -> &'static str {
                match self.0 {
                    $($(#[$only])* Token::$level(_) => $name,)*
                }
            }
        }
    };
}

levels! {
    Portable(portable::Portable) = "portable";
    #[cfg(target_arch = "x86_64")]
    Avx2(avx2::Avx2<false>) = "avx2";
    #[cfg(target_arch = "x86_64")]
    AvxVnni(avx2::Avx2<true>) = "avxvnni";
    #[cfg(target_arch = "x86_64")]
    Avx512(avx512::Avx512) = "avx512";
    #[cfg(target_arch = "aarch64")]
    Neon(neon::Neon) = "neon";
    #[cfg(target_arch = "aarch64")]
    DotProd(neon::DotProd) = "dotprod";
    #[cfg(target_arch = "aarch64")]
    I8mm(neon::I8mm) = "i8mm";
}

impl Level {
    /// The fastest level that this CPU has.
    pub fn detect() -> Level {
        Self::supported().last().expect("the portable level is always there")
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl fmt::Debug for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// Finds a level of this CPU by its name.
impl FromStr for Level {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::supported().find(|level| level.to_string() == name).ok_or_else(|| {
            let known: Vec<_> = Self::supported().map(|level| level.to_string()).collect();
            format!("this CPU has no level {name:?}; it has {}", known.join(", "))
        })
    }
}

/// Methods of [`Simd`] that are one expression of intrinsics.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
macro_rules! methods {
    ($($(#[$doc:meta])* fn $name:ident($($arg:ident: $type:ty),*) $(-> $result:ty)? = $body:expr;)*) => {$(
        $(#[$doc])*
        #[inline(always)]
        fn $name(self, $($arg: $type),*) $(-> $result)? {
            // SAFETY: `self` proves that the CPU has the instructions, and the references are to as
            // many bytes as they touch.
            #[allow(unused_unsafe, reason = "some only call functions of this crate")]
            unsafe {
                $body
            }
        }
    )*};
}

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use methods;

#[cfg(test)]
mod tests {
    use super::*;

    /// `FIMD_TEST_LEVELS` names those of an emulated processor.
    #[test]
    fn levels_are_found_by_their_names() {
        let levels: Vec<Level> = Level::supported().collect();
        for level in &levels {
            assert_eq!(level.to_string().parse(), Ok(*level));
        }
        assert_eq!(levels.last(), Some(&Level::detect()));
        assert!("sse".parse::<Level>().unwrap_err().contains("portable"));
        if let Ok(expected) = std::env::var("FIMD_TEST_LEVELS") {
            let names: Vec<String> = levels.iter().map(Level::to_string).collect();
            assert_eq!(names.join(" "), expected);
        }
    }
}
