//! Random weights, generated directly in the stored form of each type, without a copy in floats.
//!
//! Bytes come from a counter, so that any piece of a tensor can be made by any thread. They are used as
//! quants and scales, except for the shared scales of a block, which determine the magnitude of its values: those
//! are chosen, by the random bits in their place, from a few that give the tensor the requested RMS and
//! mean zero. A mean would add up along a row and drive all activations to one direction.

use half::f16;

use crate::base::dtype::DType;
use crate::base::random::SplitMix64;
use crate::format::blocks;

/// A tensor of random weights.
#[derive(Clone)]
pub struct RandomTensor {
    dtype: DType,
    key: u64,
    scales: Scales,
}

/// Scales of the quants.
#[derive(Clone)]
struct Scales {
    /// For types without blocks.
    plain: f32,
    /// f16, for types with one scale in a block.
    d: [[u8; 2]; CHOICES],
    /// f16, the multiples of `d` that centre types with minima.
    dmin: [[u8; 2]; CHOICES],
    /// E8M0, for MXFP4.
    exponents: [u8; CHOICES],
    /// For NVFP4.
    e4m3: [u8; CHOICES],
}

/// Scales to choose from, a power of two.
const CHOICES: usize = 64;

impl RandomTensor {
    /// Weights of type `dtype` with this root mean square. Tensors with different keys are independent.
    pub fn new(dtype: DType, rms: f32, key: u64) -> Self {
        let mut this = Self { dtype, key, scales: Scales::new(dtype, 1.0) };
        let mut bytes = vec![0; 1024 * this.granularity()];
        this.fill(0, &mut bytes);
        let mut values = vec![0.0; bytes.len() / dtype.block_bytes() * dtype.block_len()];
        blocks::to_f32(dtype, &bytes, &mut values);
        let square: f64 = values.iter().map(|&value| f64::from(value).powi(2)).sum();
        this.scales = Scales::new(dtype, rms / (square / values.len() as f64).sqrt() as f32);
        this
    }

    /// Other weights of the same type and size.
    pub fn with_key(&self, key: u64) -> Self {
        Self { key, ..self.clone() }
    }

    /// Pieces begin and end at multiples of this many bytes.
    pub fn granularity(&self) -> usize {
        WORD * self.dtype.block_bytes()
    }

    /// Writes the bytes from `start` of the tensor on to `out`; both are multiples of
    /// [`RandomTensor::granularity`], but for the end of the tensor.
    pub fn fill(&self, start: usize, out: &mut [u8]) {
        assert!(start.is_multiple_of(self.granularity()));
        for (i, bytes) in out.chunks_mut(WORD).enumerate() {
            let word = mix(self.key, (start / WORD + i) as u64).to_le_bytes();
            bytes.copy_from_slice(&word[..bytes.len()]);
        }
        for block in out.chunks_exact_mut(self.dtype.block_bytes()) {
            self.scales.apply(self.dtype, block);
        }
    }
}

const WORD: usize = 8;

/// The `counter`-th number of the generator at `key`.
fn mix(key: u64, counter: u64) -> u64 {
    SplitMix64::skipped(key, counter).bits()
}

/// Uniform in `[0, 1)`.
pub fn fraction(key: u64, counter: u64) -> f32 {
    SplitMix64::skipped(key, counter).uniform()
}

/// Random tokens of a vocabulary.
pub struct Tokens {
    vocab: usize,
    /// How many topics there are, see [`Tokens::of_topics`]; 1 where tokens are all alike.
    topics: usize,
    /// Of the tokens of a topic up to each one, the sum of their weights.
    cumulative: Vec<f64>,
}

/// Tokens after which a topic changes, on average.
const TOPIC_TOKENS: f32 = 50.0;

impl Tokens {
    /// Tokens that are all alike.
    pub fn alike(vocab: usize) -> Self {
        Self { vocab, topics: 1, cumulative: Vec::new() }
    }

    /// Tokens of a text: it stays with a topic for a while, and the r-th token of a topic has a weight of `1 / r`, by
    /// Zipf's law. Token i is of topic `i % topics`.
    pub fn of_topics(vocab: usize, topics: usize) -> Self {
        let weight = |sum: &mut f64, i: usize| {
            *sum += 1.0 / (i + 1) as f64;
            Some(*sum)
        };
        Self { vocab, topics, cumulative: (0..vocab / topics).scan(0.0, weight).collect() }
    }

    /// The first `len` tokens of the generator at `key`.
    pub fn take(&self, key: u64, len: usize) -> Vec<u32> {
        let Some(sum) = self.cumulative.last() else {
            return (0..len as u64).map(|i| (mix(key, i) % self.vocab as u64) as u32).collect();
        };
        let mut topic = 0;
        let token = |i| {
            if i == 0 || fraction(key, 3 * i) < 1.0 / TOPIC_TOKENS {
                topic = mix(key, 3 * i + 1) as usize % self.topics;
            }
            let at = f64::from(fraction(key, 3 * i + 2)) * sum;
            let rank = self.cumulative.partition_point(|&below| below <= at);
            (rank.min(self.cumulative.len() - 1) * self.topics + topic) as u32
        };
        (0..len as u64).map(token).collect()
    }
}

/// A key for each tensor of a model.
pub fn key(seed: u64, tensor: &str) -> u64 {
    tensor.bytes().fold(mix(seed, 0), |key, byte| mix(key, byte.into()))
}

impl Scales {
    /// Choices with the root mean square `scale`.
    fn new(dtype: DType, scale: f32) -> Self {
        let centre = match dtype {
            DType::Q2K => 1.5,
            DType::Q4_1 => -7.5,
            DType::Q5_1 => -15.5,
            DType::Q4K => 7.5,
            DType::Q5K => 15.5,
            _ => 0.0,
        };
        let (mut d, mut dmin) = ([[0; 2]; CHOICES], [[0; 2]; CHOICES]);
        for i in 0..CHOICES {
            // Half the choices are negative: most codes are not symmetric about zero.
            let sign = if i % 2 == 0 { 1.0 } else { -1.0 };
            let size = 0.5 + (i / 2) as f32 / (CHOICES / 2 - 1) as f32;
            let chosen = f16::from_f32(sign * scale * size);
            d[i] = chosen.to_le_bytes();
            dmin[i] = f16::from_f32(centre * chosen.to_f32()).to_le_bytes();
        }
        Self { plain: scale, d, dmin, exponents: exponents(scale), e4m3: e4m3(scale) }
    }

    /// Replaces the shared scales of a block of random bytes.
    fn apply(&self, dtype: DType, block: &mut [u8]) {
        match dtype {
            DType::F32 | DType::F16 | DType::BF16 | DType::F8E4M3 => self.apply_plain(dtype, block),
            DType::Q4_0 | DType::Q5_0 | DType::Iq4Nl | DType::Iq4Xs => self.apply_d(block, 0),
            DType::Iq2Xxs | DType::Iq2Xs | DType::Iq2S | DType::Iq3Xxs | DType::Iq3S | DType::Iq1S => {
                self.apply_d(block, 0);
            }
            DType::Q4_1 | DType::Q5_1 => self.apply_d_and_min(block, 0),
            DType::Nvfp4 => block[..4].iter_mut().for_each(|e| *e = self.e4m3[*e as usize % CHOICES]),
            DType::Q2K => {
                self.apply_d_and_min(block, 80);
                block[..16].iter_mut().for_each(|pair| *pair = (*pair & 7 | 8) * 0x11);
            }
            DType::Q3K => self.apply_d(block, 108),
            DType::Iq1M => {
                let [low, high] = self.d[usize::from(block[49] >> 4 | block[51] & 0xf0) % CHOICES];
                for (i, nibble) in [low & 15, low >> 4, high & 15, high >> 4].into_iter().enumerate() {
                    block[49 + 2 * i] = block[49 + 2 * i] & 15 | nibble << 4;
                }
            }
            DType::Tq1_0 => self.apply_d(block, 52),
            DType::Tq2_0 => {
                self.apply_d(block, 64);
                // Both bits are no digit.
                block[..64].iter_mut().for_each(|digits| *digits ^= (*digits & *digits >> 1 & 0x55) << 1);
            }
            DType::Q8_0 => {
                self.apply_d(block, 0);
                // No quantiser writes -128: its negative is no i8.
                for code in &mut block[2..] {
                    *code = (*code as i8).max(-127) as u8;
                }
            }
            DType::Mxfp4 => block[0] = self.exponents[block[0] as usize % CHOICES],
            DType::Q4K | DType::Q5K => {
                self.apply_d_and_min(block, 0);
                apply_scales_6bit(&mut block[4..16]);
            }
            DType::Q6K => {
                self.apply_d(block, 208);
                for scale in &mut block[192..208] {
                    *scale = *scale & 31 | 32;
                }
            }
        }
    }

    fn apply_d_and_min(&self, block: &mut [u8], at: usize) {
        let dmin = self.dmin[block[at] as usize % CHOICES];
        block[at + 2..at + 4].copy_from_slice(&dmin);
        self.apply_d(block, at);
    }

    fn apply_d(&self, block: &mut [u8], at: usize) {
        let chosen = self.d[block[at] as usize % CHOICES];
        block[at..at + 2].copy_from_slice(&chosen);
    }

    /// One element: its random bits, read as a fraction between -1 and 1, times the scale.
    fn apply_plain(&self, dtype: DType, element: &mut [u8]) {
        match (dtype, &mut *element) {
            (DType::F32, &mut [a, b, c, d]) => {
                let value = self.plain * i32::from_le_bytes([a, b, c, d]) as f32 / 2f32.powi(31);
                element.copy_from_slice(&value.to_le_bytes());
            }
            (DType::F16, &mut [a, b]) => {
                let value = self.plain * f32::from(i16::from_le_bytes([a, b])) / 2f32.powi(15);
                element.copy_from_slice(&f16::from_f32(value).to_le_bytes());
            }
            (DType::BF16, &mut [a, b]) => {
                let value = self.plain * f32::from(i16::from_le_bytes([a, b])) / 2f32.powi(15);
                element.copy_from_slice(&value.to_le_bytes()[2..]);
            }
            _ => panic!("{dtype} needs a separate scale tensor"),
        }
    }
}

/// Sub-block scales of 32 to 63, each minimum equal to its scale, in the 12 bytes that
/// [`blocks::scale_min`] reads.
fn apply_scales_6bit(packed: &mut [u8]) {
    for i in 0..4 {
        let (first, second) = (packed[i] & 31 | 32, packed[i + 4] & 31 | 32);
        packed[i] = first | second >> 4 << 6;
        packed[i + 4] = packed[i];
        packed[i + 8] = (second & 15) * 0x11;
    }
}

/// The two powers of two next to `scale`, in such a proportion that their root mean square is `scale`,
/// as exponents of [`blocks::e8m0_halved`].
fn exponents(scale: f32) -> [u8; CHOICES] {
    let low = scale.log2().floor();
    mixed((low + 128.0).clamp(0.0, 253.0) as u8, [low.exp2(), (low + 1.0).exp2()], scale)
}

/// The same of the two numbers next to `scale` among [`blocks::UE4M3_HALVED`].
fn e4m3(scale: f32) -> [u8; CHOICES] {
    let value = |code: u8| blocks::UE4M3_HALVED[code as usize];
    let low = (0..125).rev().find(|&code| value(code) <= scale).unwrap_or(0);
    mixed(low, [value(low), value(low + 1)], scale)
}

/// `low` and the next code, which have these values, in such a proportion that their root mean square is `scale`.
fn mixed(low: u8, values: [f32; 2], scale: f32) -> [u8; CHOICES] {
    let [below, above] = values.map(|value| (value / scale).powi(2));
    let share = (1.0 - below) / (above - below);
    std::array::from_fn(|i| low + u8::from((i as f32 + 0.5) < share * CHOICES as f32))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROW: usize = 2048;

    fn types() -> impl Iterator<Item = DType> {
        DType::ALL.into_iter().filter(|&dtype| dtype != DType::F8E4M3)
    }

    #[test]
    fn a_text_stays_with_its_topic() {
        const DRAWN: usize = 100_000;
        let text = Tokens::of_topics(6400, 64);
        let tokens = text.take(3, DRAWN);
        assert!(tokens.iter().all(|&token| token < 6400));
        let share = |is: &dyn Fn(&&[u32]) -> bool| {
            tokens.windows(2).filter(|pair| is(pair)).count() as f64 / DRAWN as f64
        };
        // 1 / (1 + 1/2 + ... + 1/100) is 0.193.
        assert!((0.185..0.2).contains(&share(&|pair| pair[0] < 64)));
        assert!((0.97..0.99).contains(&share(&|pair| pair[0] % 64 == pair[1] % 64)));
        let alike = Tokens::alike(6400).take(3, DRAWN);
        assert!(alike.iter().filter(|&&token| token < 64).count() < DRAWN / 50);
        for tokens in [text, Tokens::alike(6400)] {
            assert_eq!(tokens.take(3, 9)[..5], tokens.take(3, 5));
            assert_ne!(tokens.take(3, 9), tokens.take(4, 9));
        }
    }

    #[test]
    fn every_type_has_the_requested_size_and_no_mean() {
        for dtype in types() {
            for cols in [512, 2048, 4096] {
                let rms = 1.0 / (cols as f32).sqrt();
                let mut bytes = vec![0; dtype.bytes(128 * ROW).unwrap()];
                RandomTensor::new(dtype, rms, key(1, "a")).fill(0, &mut bytes);
                let mut values = vec![0.0; 128 * ROW];
                blocks::to_f32(dtype, &bytes, &mut values);
                let mean = |f: &dyn Fn(f64) -> f64| {
                    values.iter().map(|&value| f(value.into())).sum::<f64>() / values.len() as f64
                };
                let found = mean(&|value| value * value).sqrt();
                assert!((found / f64::from(rms) - 1.0).abs() < 0.02, "{dtype} {cols}: {found} for {rms}");
                let off = mean(&|value| value) / found * (values.len() as f64).sqrt();
                // Values of one block share their scale, so the mean spreads wider than 1.
                assert!(off.abs() < 6.0, "{dtype} {cols}: the mean is off by {off} sigma");
            }
        }
    }

    #[test]
    fn pieces_make_the_whole() {
        for dtype in types() {
            let tensor = RandomTensor::new(dtype, 0.02, key(1, "a"));
            let mut whole = vec![0; dtype.bytes(3 * ROW).unwrap()];
            tensor.fill(0, &mut whole);
            let mut pieces = vec![0; whole.len()];
            let step = tensor.granularity();
            for (i, piece) in pieces.chunks_mut(step).enumerate() {
                tensor.fill(i * step, piece);
            }
            assert_eq!(whole, pieces, "{dtype}");
            RandomTensor::new(dtype, 0.02, key(1, "b")).fill(0, &mut pieces);
            assert_ne!(whole, pieces, "{dtype}: another tensor is another one");
        }
    }

    #[test]
    fn scales_and_minima_are_packed_as_they_are_read() {
        let mut packed: [u8; 12] = std::array::from_fn(|i| (i * 37 + 11) as u8);
        let expected: Vec<u8> = packed[..8].iter().map(|byte| byte & 31 | 32).collect();
        apply_scales_6bit(&mut packed);
        for (i, &scale) in expected.iter().enumerate() {
            assert_eq!(blocks::scale_min(&packed, i), (scale, scale), "sub-block {i}");
        }
    }
}
