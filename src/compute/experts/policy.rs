//! Which experts of a layer stay in memory. Pure.
//!
//! The unit of time is a token. The priority of an expert is the sum of what its tokens gave it, each halved for every
//! half-life that has passed since. A token gives to the experts that it visits and, by [`Counted::Ranks`], to those that its
//! router ranked next: they are what the same text will visit soon. A half-life of zero leaves the time of the last
//! visit, which is LRU.

use std::collections::BTreeSet;

use super::Ranking;

/// How slots are given to experts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Policy {
    /// Tokens after which a visit counts half; 0 for the time of the last one.
    pub half_life: f64,
    /// What counts.
    pub counted: Counted,
    /// Experts that may take the slot of another one, for each token of a pass.
    pub inserts_max: usize,
}

/// What of a token counts for an expert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counted {
    /// Its visit: 1.
    Visits,
    /// Its rank among the experts, from 0 on: 1, halved for every `top_k` ranks, as far as ranks are known.
    Ranks,
}

/// Tokens of a pass that [`Policy::inserts_max`] counts for: a long prompt must not flush the cache.
const INSERTING_TOKENS_MAX: usize = 16;

impl Policy {
    /// What replays of routing favour, see `fimd bench experts` and `tests/bench/experts.md`. A missing expert is read in any
    /// case, so that keeping it costs a copy at most: there is no reason to insert fewer than a token visits.
    pub const BEST: Self = Self { half_life: 6.0, counted: Counted::Ranks, inserts_max: Self::ALL };
    /// Every expert that a token misses.
    pub const ALL: usize = usize::MAX;

    /// What a rank counts.
    fn weight(&self, rank: usize, top_k: usize) -> f64 {
        match self.counted {
            Counted::Visits => 1.0,
            Counted::Ranks => (-(rank as f64) / top_k as f64).exp2(),
        }
    }
}

/// The slots of one layer, and who is in them.
#[derive(Clone, Debug)]
pub struct LayerCache {
    policy: Policy,
    /// Tokens so far.
    now: f64,
    /// Of each expert.
    priorities: Vec<f64>,
    /// The slot of each expert.
    slots: Vec<Option<usize>>,
    /// The expert in each slot.
    experts: Vec<Option<u32>>,
}

/// An expert that is to be read into a slot; the expert that had the slot is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Insert {
    /// The expert.
    pub expert: u32,
    /// The slot.
    pub slot: usize,
}

impl LayerCache {
    /// Empty slots for some of the experts of a layer.
    pub fn new(policy: Policy, experts: usize, slots: usize) -> Self {
        Self {
            policy,
            now: 0.0,
            priorities: vec![0.0; experts],
            slots: vec![None; experts],
            experts: vec![None; slots],
        }
    }

    /// The slot of an expert that is in memory.
    pub fn slot(&self, expert: u32) -> Option<usize> {
        self.slots[expert as usize]
    }

    /// Records the experts of a pass and returns which of the missing ones are to be inserted, the most useful first.
    /// Each is in memory after [`Self::fill`]; a slot that is never filled is free again at the next visit.
    pub fn visit(&mut self, ranking: Ranking) -> Vec<Insert> {
        self.visit_within(usize::MAX, ranking)
    }

    /// The same with `inserts_max` inserts at most, whatever the policy allows.
    pub fn visit_within(&mut self, inserts_max: usize, ranking: Ranking) -> Vec<Insert> {
        self.record(ranking);
        let visits: Vec<u32> = ranking.visits().collect();
        let tokens = ranking.rows().len().min(INSERTING_TOKENS_MAX);
        let mut missing = self.missing_of(&visits);
        missing.truncate(inserts_max);
        self.admit(&missing, self.policy.inserts_max.min(ranking.top_k) * tokens, &visits)
    }

    /// Records the experts of a pass.
    pub fn record(&mut self, ranking: Ranking) {
        let (policy, top_k) = (self.policy, ranking.top_k);
        let kept = (-1.0 / policy.half_life).exp2();
        for token in ranking.rows() {
            self.now += 1.0;
            let counted = match policy.counted {
                Counted::Visits => top_k.min(token.len()),
                Counted::Ranks => token.len(),
            };
            if policy.half_life > 0.0 {
                self.priorities.iter_mut().for_each(|priority| *priority *= kept);
            }
            for (rank, &expert) in token[..counted].iter().enumerate() {
                let priority = &mut self.priorities[expert as usize];
                *priority = match policy.half_life > 0.0 {
                    true => *priority + policy.weight(rank, top_k),
                    false => self.now,
                };
            }
        }
    }

    /// Those of `experts` that have no slot, each once, the most useful first.
    pub fn missing_of(&self, experts: &[u32]) -> Vec<u32> {
        let mut missing: Vec<u32> = experts.iter().copied().filter(|&e| self.slot(e).is_none()).collect();
        missing.sort_by(|&a, &b| self.priority(b).total_cmp(&self.priority(a)).then(a.cmp(&b)));
        missing.dedup();
        missing
    }

    /// Gives `missing`, the most useful first, the free slots and then those of at most `replaced_max` less useful ones,
    /// none of them `visited`.
    pub fn admit(&mut self, missing: &[u32], replaced_max: usize, visited: &[u32]) -> Vec<Insert> {
        let free = (0..self.experts.len()).filter(|&slot| self.experts[slot].is_none());
        let mut slots: Vec<usize> = free.take(missing.len()).collect();
        let wanted = (missing.len() - slots.len()).min(replaced_max);
        let mut victims: Vec<u32> = Vec::new();
        if wanted > 0 {
            let visited: BTreeSet<&u32> = visited.iter().collect();
            victims.extend(self.residents().filter(|expert| !visited.contains(expert)));
        }
        victims.sort_by(|&a, &b| self.priority(a).total_cmp(&self.priority(b)).then(b.cmp(&a)));
        for (&victim, &expert) in victims.iter().take(wanted).zip(&missing[slots.len()..]) {
            if self.priority(victim) >= self.priority(expert) {
                break;
            }
            slots.extend(self.evict(victim));
        }
        missing.iter().zip(slots).map(|(&expert, slot)| Insert { expert, slot }).collect()
    }

    /// An expert is in its slot now.
    pub fn fill(&mut self, Insert { expert, slot }: Insert) {
        self.experts[slot] = Some(expert);
        self.slots[expert as usize] = Some(slot);
    }

    /// Whether the slot is free and the expert in no other one.
    pub fn accepts(&self, Insert { expert, slot }: Insert) -> bool {
        self.experts[slot].is_none() && self.slot(expert).is_none()
    }

    /// A free slot for an expert that no pass has asked for yet.
    pub fn free(&self, expert: u32) -> Option<Insert> {
        let slot = self.experts.iter().position(Option::is_none).filter(|_| self.slot(expert).is_none())?;
        Some(Insert { expert, slot })
    }

    /// The experts that have no slot, the most useful first.
    pub fn missing(&self) -> Vec<u32> {
        let mut missing: Vec<u32> =
            (0..self.slots.len() as u32).filter(|&expert| self.slot(expert).is_none()).collect();
        missing.sort_by(|&a, &b| self.priority(b).total_cmp(&self.priority(a)));
        missing
    }

    /// All experts that count, the most useful first.
    pub fn order(&self) -> Vec<u32> {
        let mut order: Vec<u32> =
            (0..self.slots.len() as u32).filter(|&expert| self.priority(expert) > 0.0).collect();
        order.sort_by(|&a, &b| self.priority(b).total_cmp(&self.priority(a)));
        order
    }

    /// Takes up an order that [`Self::order`] gave before: as if the experts had been visited in it.
    pub fn remember(&mut self, order: &[u32]) {
        order
            .iter()
            .rev()
            .for_each(|expert| self.record(Ranking::of_visits(1, std::slice::from_ref(expert))));
    }

    fn residents(&self) -> impl Iterator<Item = u32> {
        self.experts.iter().flatten().copied()
    }

    fn evict(&mut self, expert: u32) -> Option<usize> {
        let slot = self.slots[expert as usize].take()?;
        self.experts[slot] = None;
        Some(slot)
    }

    fn priority(&self, expert: u32) -> f64 {
        self.priorities[expert as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::random::Mmix;

    const LRU: Policy = Policy { half_life: 0.0, counted: Counted::Visits, inserts_max: 1 };

    /// Visits one expert after the other; which are in memory in the end.
    fn after(policy: Policy, slots: usize, visits: &[u32]) -> Vec<u32> {
        let mut cache = LayerCache::new(policy, 8, slots);
        for &expert in visits {
            cache.visit(Ranking::of_visits(1, &[expert])).into_iter().for_each(|insert| cache.fill(insert));
        }
        (0..8).filter(|&expert| cache.slot(expert).is_some()).collect()
    }

    #[test]
    fn recency_or_frequency_decides_who_stays() {
        let visits = [1, 1, 1, 2, 3];
        assert_eq!(after(LRU, 2, &visits), [2, 3]);
        assert_eq!(after(Policy { half_life: 100.0, ..LRU }, 2, &visits), [1, 3]);
        let long_ago = [vec![1; 3], vec![2; 40], vec![3]].concat();
        assert_eq!(after(Policy { half_life: 4.0, ..LRU }, 2, &long_ago), [2, 3], "visits fade");
    }

    #[test]
    fn experts_that_are_ranked_next_stay() {
        let ranks = Policy { half_life: 4.0, counted: Counted::Ranks, inserts_max: 1 };
        for (policy, expected) in [(ranks, [1, 3]), (Policy { counted: Counted::Visits, ..ranks }, [2, 3])] {
            let mut cache = LayerCache::new(policy, 8, 2);
            for row in [[1, 5, 6], [2, 1, 7], [3, 1, 7]] {
                cache.visit(Ranking::new(1, 3, &row)).into_iter().for_each(|insert| cache.fill(insert));
            }
            let found: Vec<u32> = (0..8).filter(|&expert| cache.slot(expert).is_some()).collect();
            assert_eq!(found, expected, "{policy:?}");
        }
    }

    #[test]
    fn a_pass_replaces_few_and_fills_free_slots() {
        let mut cache = LayerCache::new(LRU, 8, 4);
        let inserts = cache.visit(Ranking::of_visits(3, &[0, 1, 2]));
        assert_eq!(inserts.len(), 3, "free slots are no one's");
        inserts.into_iter().for_each(|insert| cache.fill(insert));
        cache.visit(Ranking::of_visits(1, &[3])).into_iter().for_each(|insert| cache.fill(insert));
        assert_eq!(cache.visit(Ranking::of_visits(3, &[4, 5, 6])).len(), 1);
        assert_eq!(cache.slot(4), None, "it is in memory when it is filled");
        assert_eq!(
            cache.visit(Ranking::of_visits(3, &[4, 5, 6])).len(),
            2,
            "the slot that was not filled is free"
        );
        let long: Vec<u32> = (0..8).cycle().take(8 * INSERTING_TOKENS_MAX * 4).collect();
        assert!(cache.visit(Ranking::of_visits(1, &long)).len() <= INSERTING_TOKENS_MAX);
    }

    #[test]
    fn experts_of_the_pass_itself_are_no_victims() {
        let mut numbers = Mmix(1);
        for policy in [LRU, Policy::BEST] {
            let mut cache = LayerCache::new(policy, 16, 6);
            for _ in 0..500 {
                let experts: Vec<u32> = (0..3).map(|_| numbers.below(16) as u32).collect();
                let hits: Vec<u32> = experts.iter().copied().filter(|&e| cache.slot(e).is_some()).collect();
                let inserts = cache.visit(Ranking::of_visits(3, &experts));
                let slots: Vec<usize> = inserts.iter().map(|insert| insert.slot).collect();
                inserts.into_iter().for_each(|insert| cache.fill(insert));
                assert!(hits.iter().all(|&e| cache.slot(e).is_some_and(|slot| !slots.contains(&slot))));
                let mut found: Vec<usize> = (0..16).filter_map(|expert| cache.slot(expert)).collect();
                found.sort();
                found.dedup();
                assert_eq!(found.len(), cache.residents().count(), "a slot has one expert");
            }
        }
    }

    #[test]
    fn an_order_survives() {
        let mut cache = LayerCache::new(LRU, 8, 2);
        for expert in [5, 2, 7, 2] {
            cache.visit(Ranking::of_visits(1, &[expert]));
        }
        assert_eq!(cache.order(), [2, 7, 5]);
        let mut other = LayerCache::new(LRU, 8, 2);
        other.remember(&cache.order());
        assert_eq!(other.order(), cache.order());
        assert_eq!(other.missing()[..3], [2, 7, 5]);
    }
}
