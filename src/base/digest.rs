//! A fast hash of texts, to notice that they have changed. No protection from someone who wants two to be equal.

/// The golden ratio, as a fraction of 2^64: an odd number whose multiples spread.
const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

/// The fraction of pi: words of zeros count too.
const SECRET: u64 = 0x243f_6a88_85a3_08d3;

/// Bytes that are hashed in one step.
const WORD: usize = 8;

/// Words that are hashed at a time: a step waits for the one before, so that the processor does four as fast as one.
const LANES: usize = 4;
const STRIPE: usize = LANES * WORD;

/// The state of a hash after whole stripes of a text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Digest {
    lanes: [u64; LANES],
    bytes: usize,
}

impl Digest {
    /// After the whole stripes in the first `bytes` of `text`.
    pub fn of_start(text: &str, bytes: usize) -> Self {
        let bytes = bytes.min(text.len()) / STRIPE * STRIPE;
        Self { lanes: stripes([0; LANES], &text.as_bytes()[..bytes]), bytes }
    }

    /// The hash of `text`, which begins with what this has read.
    pub fn of(self, text: &str) -> u64 {
        let rest = &text.as_bytes()[self.bytes..];
        let (whole, last) = rest.split_at(rest.len() / STRIPE * STRIPE);
        let mut stripe = [0; STRIPE];
        stripe[..last.len()].copy_from_slice(last);
        let lanes = stripes(stripes(self.lanes, whole), &stripe);
        lanes.into_iter().fold(text.len() as u64, step)
    }
}

/// The hash of a text.
pub fn digest(text: &str) -> u64 {
    Digest::default().of(text)
}

fn stripes(mut lanes: [u64; LANES], bytes: &[u8]) -> [u64; LANES] {
    for stripe in bytes.as_chunks::<STRIPE>().0 {
        for (lane, word) in lanes.iter_mut().zip(stripe.as_chunks().0) {
            *lane = step(*lane, u64::from_le_bytes(*word));
        }
    }
    lanes
}

/// A product of 128 bits, folded: every bit of a word reaches every bit of the hash.
fn step(state: u64, word: u64) -> u64 {
    let product = u128::from(state.rotate_left(29) ^ word ^ SECRET) * u128::from(MULTIPLIER);
    product as u64 ^ (product >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_that_differ_have_other_hashes() {
        let text = "fn main() { println!(\"a rather long line\"); }".repeat(3);
        let mut seen = std::collections::HashSet::new();
        for end in 0..=text.len() {
            assert!(seen.insert(digest(&text[..end])), "{end}");
        }
        for at in 0..text.len() {
            let changed = format!("{}~{}", &text[..at], &text[at + 1..]);
            assert!(seen.insert(digest(&changed)), "{at}");
        }
        assert_ne!(digest("a"), digest("a\0"));
    }

    #[test]
    fn a_hash_goes_on_from_any_start() {
        let text = "let x = 1; // é and more text\n".repeat(5);
        for bytes in 0..=text.len() + 9 {
            assert_eq!(Digest::of_start(&text, bytes).of(&text), digest(&text), "{bytes}");
        }
    }
}
