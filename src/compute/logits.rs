//! Logits as they come to the host: whole rows, or what greedy decoding needs of them.

use std::cmp::Ordering;

/// Most candidates of [`TopLogits`].
pub const TOP_LOGITS: usize = 8;

/// What comes to the host of a row of logits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogitForm {
    /// All of them.
    #[default]
    Whole,
    /// [`TopLogits`] alone.
    Top,
}

/// Rows of logits, in the form that was asked for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Logits {
    /// `[rows, vocab]`; empty in the other form.
    pub whole: Vec<f32>,
    /// One for each row; empty in the other form.
    pub top: Vec<TopLogits>,
}

/// What greedy decoding needs of a row of logits. Those of ids that cannot be chosen count as negative infinity.
#[derive(Clone, Debug, PartialEq)]
pub struct TopLogits {
    /// The [`TOP_LOGITS`] greatest with their ids, or all where there are fewer: NaN first, then the greatest first, lower ids
    /// first on a tie.
    pub best: Vec<(u32, f32)>,
    /// Logarithm of the sum of the exponentials of all.
    pub log_sum_exp: f32,
}

/// A set of token ids.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IdSet {
    words: Vec<u32>,
}

impl IdSet {
    /// All ids below `end`.
    pub fn below(end: usize) -> Self {
        let mut words = vec![u32::MAX; end.div_ceil(32)];
        if let Some(last) = words.last_mut().filter(|_| !end.is_multiple_of(32)) {
            *last >>= 32 - end % 32;
        }
        Self { words }
    }

    /// Takes out an id.
    pub fn remove(&mut self, id: u32) {
        if let Some(word) = self.words.get_mut(id as usize / 32) {
            *word &= !(1 << (id % 32));
        }
    }

    /// Whether an id is one of them.
    pub fn contains(&self, id: usize) -> bool {
        self.words.get(id / 32).is_some_and(|word| word >> (id % 32) & 1 == 1)
    }

    /// Makes those of `logits`, the ids from `first` on, negative infinity whose ids are not in the set. `first` is a multiple
    /// of 32.
    pub fn mask(&self, first: usize, logits: &mut [f32]) {
        debug_assert!(first.is_multiple_of(32));
        for (word, logits) in (first / 32..).zip(logits.chunks_mut(32)) {
            let word = self.words.get(word).copied().unwrap_or(0);
            if word == u32::MAX {
                continue;
            }
            for (bit, logit) in logits.iter_mut().enumerate() {
                if word >> bit & 1 == 0 {
                    *logit = f32::NEG_INFINITY;
                }
            }
        }
    }

    /// A bit for each id, the lowest first.
    pub fn words(&self) -> &[u32] {
        &self.words
    }
}

impl Logits {
    /// In which form they are; `None` where there are none.
    pub fn form(&self) -> Option<LogitForm> {
        match (self.whole.is_empty(), self.top.is_empty()) {
            (false, _) => Some(LogitForm::Whole),
            (true, false) => Some(LogitForm::Top),
            (true, true) => None,
        }
    }

    /// A row of `vocab` logits.
    pub fn row(&self, row: usize, vocab: usize) -> Self {
        Self {
            whole: self.whole.chunks_exact(vocab).nth(row).map_or_else(Vec::new, <[f32]>::to_vec),
            top: self.top.get(row).cloned().into_iter().collect(),
        }
    }

    /// Removes the first `rows` rows, of `vocab` logits.
    pub fn remove_first(&mut self, rows: usize, vocab: usize) {
        self.whole.drain(..self.whole.len().min(rows * vocab));
        self.top.drain(..self.top.len().min(rows));
    }

    /// Removes all.
    pub fn clear(&mut self) {
        self.whole.clear();
        self.top.clear();
    }
}

impl TopLogits {
    /// Of a row of which the ids in `allowed` can be chosen.
    pub fn of(logits: &[f32], allowed: &IdSet) -> Self {
        let mut masked = logits.to_vec();
        allowed.mask(0, &mut masked);
        Self::of_part(0, &masked)
    }

    /// Of logits of the ids from `first` on.
    pub fn of_part(first: usize, logits: &[f32]) -> Self {
        let mut best = Vec::with_capacity(TOP_LOGITS + 1);
        (first as u32..).zip(logits).for_each(|(id, &logit)| insert_best(&mut best, id, logit));
        Self { best, log_sum_exp: log_sum_exp(logits) }
    }

    /// Of a row from those of its parts. A part of ids that cannot be chosen has negative infinity for a logarithm.
    pub fn merge(parts: &[Self]) -> Self {
        let mut best = Vec::with_capacity(TOP_LOGITS + 1);
        parts.iter().flat_map(|part| &part.best).for_each(|&(id, logit)| insert_best(&mut best, id, logit));
        let logarithms: Vec<f32> = parts.iter().map(|part| part.log_sum_exp).collect();
        Self { best, log_sum_exp: log_sum_exp(&logarithms) }
    }
}

/// Adds a logit to the greatest ones, in their order, if it is one of them.
pub fn insert_best(best: &mut Vec<(u32, f32)>, id: u32, logit: f32) {
    if best.len() == TOP_LOGITS && best.last().is_some_and(|&last| !is_before((id, logit), last)) {
        return;
    }
    best.insert(best.partition_point(|&other| is_before(other, (id, logit))), (id, logit));
    best.truncate(TOP_LOGITS);
}

fn is_before(a: (u32, f32), b: (u32, f32)) -> bool {
    let by_value = match b.1.partial_cmp(&a.1) {
        Some(order) => order,
        None => b.1.is_nan().cmp(&a.1.is_nan()),
    };
    by_value.then(a.0.cmp(&b.0)) == Ordering::Less
}

/// Logarithm of the sum of the exponentials of `logits`.
pub fn log_sum_exp(logits: &[f32]) -> f32 {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&logit| f64::from(logit - max).exp()).sum();
    max + sum.ln() as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_come_first() {
        let mut logits = vec![-3.0; 40];
        for (id, logit) in
            [(3, 2.0), (39, 2.0), (7, 5.0), (8, 9.0), (9, f32::NEG_INFINITY), (20, -0.0), (21, 0.0)]
        {
            logits[id] = logit;
        }
        let mut allowed = IdSet::below(40);
        allowed.remove(8);
        let TopLogits { best, log_sum_exp: sum } = TopLogits::of(&logits, &allowed);
        assert_eq!(best[..6], [(7, 5.0), (3, 2.0), (39, 2.0), (20, -0.0), (21, 0.0), (0, -3.0)]);
        assert_eq!(best.len(), TOP_LOGITS);
        logits[8] = f32::NEG_INFINITY;
        assert_eq!(sum, log_sum_exp(&logits));
        logits[30] = f32::NAN;
        let with_nan = TopLogits::of(&logits, &allowed);
        assert!(with_nan.best[0].0 == 30 && with_nan.best[0].1.is_nan() && with_nan.log_sum_exp.is_nan());
        allowed.remove(30);
        assert_eq!(TopLogits::of(&logits, &allowed).best[0], (7, 5.0), "what cannot be chosen does no harm");
    }

    #[test]
    fn a_set_has_the_ids_below_its_end_that_were_not_removed() {
        for end in [0, 1, 31, 32, 33, 64, 70] {
            let mut ids = IdSet::below(end);
            assert!((0..100).all(|id| ids.contains(id) == (id < end)));
            ids.remove(0);
            ids.remove(99);
            assert!((0..100).all(|id| ids.contains(id) == (1..end).contains(&id)));
        }
    }

    #[test]
    fn few_logits_are_all_among_the_best() {
        assert_eq!(TopLogits::of(&[1.0, 2.0], &IdSet::below(1)).best, [(0, 1.0), (1, f32::NEG_INFINITY)]);
    }
}
