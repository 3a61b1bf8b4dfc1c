//! Sampling.

use serde::{Deserialize, Serialize};

use anyhow::{Context as _, Result, bail, ensure};

use crate::base::random::SplitMix64;
use crate::compute::logits::{TopLogits, log_sum_exp};

const NAN_LOGITS: &str = "the model produced NaN logits: its weights hold NaN or overflow";

/// Sampling parameters.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sampling {
    /// 0 chooses the likeliest token; above, logits are divided by it before sampling.
    pub temperature: f32,
    /// Keep only this many likeliest tokens; 0 keeps all.
    pub top_k: usize,
    /// Keep the smallest set of likeliest tokens whose probabilities reach this sum; 1 keeps all.
    pub top_p: f32,
    /// Seed of the random numbers: the same seed repeats the same choice.
    pub seed: u64,
}

impl Sampling {
    /// Always the likeliest token.
    pub const GREEDY: Self = Self { temperature: 0.0, top_k: 0, top_p: 1.0, seed: 0 };
}

/// Samples tokens; has the state of the random numbers.
#[derive(Clone, Debug)]
pub struct Sampler {
    sampling: Sampling,
    random: SplitMix64,
}

impl Sampler {
    /// A sampler at the start of its random sequence.
    pub fn new(sampling: &Sampling) -> Self {
        Self { sampling: sampling.clone(), random: SplitMix64(sampling.seed) }
    }

    /// Advances the random numbers as if `ids` tokens had been chosen.
    pub fn skip(&mut self, ids: usize) {
        if self.sampling.temperature > 0.0 {
            for _ in 0..ids {
                self.random.uniform();
            }
        }
    }

    /// The id chosen from `logits` (`[vocab]`; masked ids are negative infinity). Fails when a logit
    /// is NaN: the weights are damaged.
    pub fn choose(&mut self, logits: &[f32]) -> Result<u32> {
        if logits.iter().any(|logit| logit.is_nan()) {
            bail!(NAN_LOGITS);
        }
        if self.sampling.temperature <= 0.0 {
            return Ok(argmax(logits));
        }
        let keep = if self.sampling.top_k == 0 { logits.len() } else { self.sampling.top_k };
        let mut candidates = top(logits, keep);
        let max = candidates[0].1;
        for (_, weight) in &mut candidates {
            *weight = ((*weight - max) / self.sampling.temperature).exp();
        }
        let total: f32 = candidates.iter().map(|(_, weight)| weight).sum();
        let mut kept = 0.0;
        let mut count = 0;
        while count < candidates.len() && (count == 0 || kept < self.sampling.top_p * total) {
            kept += candidates[count].1;
            count += 1;
        }
        let mut draw = self.random.uniform() * kept;
        for &(id, weight) in &candidates[..count] {
            draw -= weight;
            if draw < 0.0 {
                return Ok(id);
            }
        }
        Ok(candidates[count - 1].0)
    }
}

/// The id of the greatest logit, as [`argmax`] chooses it, with the logit. Fails as [`Sampler::choose`] does.
pub fn likeliest(top: &TopLogits) -> Result<(u32, f32)> {
    let &(id, logit) = top.best.first().context("a model without logits")?;
    ensure!(!logit.is_nan(), NAN_LOGITS);
    Ok((id, logit))
}

/// The id of the greatest logit; the lowest such id on a tie.
pub fn argmax(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (id, &logit) in logits.iter().enumerate() {
        if logit > logits[best] {
            best = id;
        }
    }
    best as u32
}

/// The `count` greatest entries with their ids, greatest first, lower ids first on a tie.
pub fn top(logits: &[f32], count: usize) -> Vec<(u32, f32)> {
    let mut entries: Vec<(u32, f32)> = (0..).zip(logits.iter().copied()).collect();
    let order = |a: &(u32, f32), b: &(u32, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
    if count < entries.len() {
        entries.select_nth_unstable_by(count, order);
        entries.truncate(count);
    }
    entries.sort_unstable_by(order);
    entries
}

/// Turns logits into natural log-probabilities in place.
pub fn log_softmax(logits: &mut [f32]) {
    let shift = log_sum_exp(logits);
    for logit in logits {
        *logit -= shift;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f32; 5] = [1.0, 3.0, f32::NEG_INFINITY, 2.0, 3.0];

    #[test]
    fn greedy_takes_the_first_of_equals() {
        assert_eq!(Sampler::new(&Sampling::GREEDY).choose(&LOGITS).unwrap(), 1);
        assert_eq!(top(&LOGITS, 3).iter().map(|e| e.0).collect::<Vec<_>>(), [1, 4, 3]);
    }

    #[test]
    fn top_k_and_top_p_limit_the_choice() {
        for (top_k, top_p, allowed) in
            [(1, 1.0, &[1][..]), (2, 1.0, &[1, 4]), (0, 0.39, &[1]), (0, 1.0, &[0, 1, 3, 4])]
        {
            let mut sampler = Sampler::new(&Sampling { temperature: 1.0, top_k, top_p, seed: 7 });
            let mut seen = [false; 5];
            for _ in 0..400 {
                seen[sampler.choose(&LOGITS).unwrap() as usize] = true;
            }
            let seen: Vec<u32> = (0..5).filter(|&id| seen[id as usize]).collect();
            assert_eq!(seen, allowed, "top_k {top_k} top_p {top_p}");
        }
    }

    #[test]
    fn a_seed_repeats_its_choices() {
        let draw = |seed| {
            let mut sampler = Sampler::new(&Sampling { temperature: 2.0, top_k: 0, top_p: 1.0, seed });
            (0..50).map(|_| sampler.choose(&LOGITS).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(draw(3), draw(3));
        assert_ne!(draw(3), draw(4));
    }

    #[test]
    fn nan_is_an_error() {
        assert!(Sampler::new(&Sampling::GREEDY).choose(&[0.0, f32::NAN]).is_err());
    }

    #[test]
    fn log_probabilities_sum_to_one() {
        let mut logits = LOGITS;
        log_softmax(&mut logits);
        let sum: f32 = logits.iter().map(|l| l.exp()).sum();
        assert!((sum - 1.0).abs() < 1e-6);
        assert_eq!(logits[2], f32::NEG_INFINITY);
    }
}
