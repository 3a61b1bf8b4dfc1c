//! Which experts of a layer stay in memory. Pure.
//!
//! The unit of time is a token. The priority of an expert is `log2` of its visits, each halved for every half-life
//! that has passed since, plus the time in half-lives: so it changes only when the expert is visited. A half-life of
//! zero leaves the time of the last visit, which is LRU.

use std::collections::BTreeSet;

/// How slots are given to experts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Policy {
    /// Tokens after which a visit counts half; 0 for LRU.
    pub half_life: f64,
    /// Experts that may take the slot of another one, for each token of a pass.
    pub inserts_max: usize,
}

/// Tokens of a pass that [`Policy::inserts_max`] counts for: a long prompt must not flush the cache.
const INSERTING_TOKENS_MAX: usize = 16;

impl Policy {
    /// What replays of routing favour, see `fimd bench experts` and `tests/bench/experts.md`. A missing expert is read in any
    /// case, so that keeping it costs a copy at most: there is no reason to insert fewer than a token visits.
    pub const BEST: Self = Self { half_life: 8.0, inserts_max: Self::ALL };
    /// Every expert that a token misses.
    pub const ALL: usize = usize::MAX;
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
            priorities: vec![f64::NEG_INFINITY; experts],
            slots: vec![None; experts],
            experts: vec![None; slots],
        }
    }

    /// The slot of an expert that is in memory.
    pub fn slot(&self, expert: u32) -> Option<usize> {
        self.slots[expert as usize]
    }

    /// Records the visits of a pass, `[tokens, top_k]`, and returns which of the missing experts are to be inserted,
    /// the most useful first. Each is in memory after [`Self::fill`]; a slot that is never filled is free again at the
    /// next visit.
    pub fn visit(&mut self, top_k: usize, experts: &[u32]) -> Vec<Insert> {
        self.visit_within(usize::MAX, top_k, experts)
    }

    /// The same with `inserts_max` inserts at most, whatever the policy allows.
    pub fn visit_within(&mut self, inserts_max: usize, top_k: usize, experts: &[u32]) -> Vec<Insert> {
        self.record(top_k, experts);
        let tokens = (experts.len() / top_k.max(1)).min(INSERTING_TOKENS_MAX);
        let mut missing = self.missing_of(experts);
        missing.truncate(inserts_max);
        self.admit(&missing, self.policy.inserts_max.min(top_k) * tokens, experts)
    }

    /// Records the visits of a pass, `[tokens, top_k]`.
    pub fn record(&mut self, top_k: usize, experts: &[u32]) {
        for token in experts.chunks(top_k.max(1)) {
            self.now += 1.0;
            token.iter().for_each(|&expert| self.touch(expert));
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

    /// All experts that were ever visited, the most useful first.
    pub fn order(&self) -> Vec<u32> {
        let mut order: Vec<u32> =
            (0..self.slots.len() as u32).filter(|&expert| self.priority(expert).is_finite()).collect();
        order.sort_by(|&a, &b| self.priority(b).total_cmp(&self.priority(a)));
        order
    }

    /// Takes up an order that [`Self::order`] gave before: as if the experts had been visited in it.
    pub fn remember(&mut self, order: &[u32]) {
        for &expert in order.iter().rev() {
            self.now += 1.0;
            self.touch(expert);
        }
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

    fn touch(&mut self, expert: u32) {
        let priority = &mut self.priorities[expert as usize];
        *priority = if self.policy.half_life > 0.0 {
            let now = self.now / self.policy.half_life;
            now + (1.0 + (*priority - now).exp2()).log2()
        } else {
            self.now
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::random::Mmix;

    const LRU: Policy = Policy { half_life: 0.0, inserts_max: 1 };

    /// Visits one expert after the other; which are in memory in the end.
    fn after(policy: Policy, slots: usize, visits: &[u32]) -> Vec<u32> {
        let mut cache = LayerCache::new(policy, 8, slots);
        for &expert in visits {
            cache.visit(1, &[expert]).into_iter().for_each(|insert| cache.fill(insert));
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
    fn a_pass_replaces_few_and_fills_free_slots() {
        let mut cache = LayerCache::new(LRU, 8, 4);
        let inserts = cache.visit(3, &[0, 1, 2]);
        assert_eq!(inserts.len(), 3, "free slots are no one's");
        inserts.into_iter().for_each(|insert| cache.fill(insert));
        cache.visit(1, &[3]).into_iter().for_each(|insert| cache.fill(insert));
        assert_eq!(cache.visit(3, &[4, 5, 6]).len(), 1);
        assert_eq!(cache.slot(4), None, "it is in memory when it is filled");
        assert_eq!(cache.visit(3, &[4, 5, 6]).len(), 2, "the slot that was not filled is free");
        let long: Vec<u32> = (0..8).cycle().take(8 * INSERTING_TOKENS_MAX * 4).collect();
        assert!(cache.visit(1, &long).len() <= INSERTING_TOKENS_MAX);
    }

    #[test]
    fn experts_of_the_pass_itself_are_no_victims() {
        let mut numbers = Mmix(1);
        for policy in [LRU, Policy::BEST] {
            let mut cache = LayerCache::new(policy, 16, 6);
            for _ in 0..500 {
                let visits: Vec<u32> = (0..3).map(|_| numbers.below(16) as u32).collect();
                let hits: Vec<u32> = visits.iter().copied().filter(|&e| cache.slot(e).is_some()).collect();
                let inserts = cache.visit(3, &visits);
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
            cache.visit(1, &[expert]);
        }
        assert_eq!(cache.order(), [2, 7, 5]);
        let mut other = LayerCache::new(LRU, 8, 2);
        other.remember(&cache.order());
        assert_eq!(other.order(), cache.order());
        assert_eq!(other.missing()[..3], [2, 7, 5]);
    }
}
