//! Random numbers that depend on the seed only, on every system.

/// SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014), by its seed:
/// for sampling and synthetic weights.
#[derive(Clone, Debug)]
pub struct SplitMix64(pub u64);

impl SplitMix64 {
    const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

    /// The generator at `seed` after `count` numbers.
    pub fn skipped(seed: u64, count: u64) -> Self {
        Self(seed.wrapping_add(count.wrapping_mul(Self::STEP)))
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(Self::STEP);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// Uniform in `[0, 1)`.
    pub fn uniform(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1 << 24) as f32
    }
}

/// Knuth's MMIX linear congruential generator, by its seed: for test cases.
#[derive(Clone, Debug)]
pub struct Mmix(pub u64);

impl Mmix {
    /// 32 random bits.
    pub fn bits(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 32) as u32
    }

    /// Uniform in `[-1, 1)`.
    pub fn unit(&mut self) -> f32 {
        (self.bits() >> 8) as f32 / (1 << 23) as f32 - 1.0
    }

    /// Below `end`, or 0 where that is 0.
    pub fn below(&mut self, end: usize) -> usize {
        (self.bits() >> 1) as usize % end.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_papers() {
        // The first outputs of the authors' own code for the seed 0.
        let mut numbers = SplitMix64(0);
        let first: [u64; 3] = std::array::from_fn(|_| numbers.bits());
        assert_eq!(first, [0xe220_a839_7b1d_cdaf, 0x6e78_9e6a_a1b9_65f4, 0x06c4_5d18_8009_454f]);
        assert_eq!(SplitMix64::skipped(0, 2).bits(), first[2]);
        assert_eq!(Mmix(0).bits(), (1_442_695_040_888_963_407_u64 >> 32) as u32);
    }
}
