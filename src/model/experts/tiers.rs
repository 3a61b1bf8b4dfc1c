//! How memory is divided between the weights that every token reads and routed experts. Pure.

use std::fmt;

use serde::Serialize;

use super::trace::LayerHeader;

/// Experts that a backend reads at a time and those it computes with meanwhile, see `compute/cpu/moe.rs`.
const IN_PASSING: usize = 2 * 32;

/// Experts of the next layer that are read ahead in a prefill.
pub const STAGED_MAX: usize = 96;

/// Tokens whose experts have slots in every layer at least.
const TOKENS_MIN: usize = 2;

/// What a budget is divided into.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Tiers {
    /// Slots of each layer for experts; all experts of a layer where it has fewer.
    pub slots: usize,
    /// Bytes of the weights that every token reads.
    pub trunk_bytes: u64,
    /// Bytes of all slots.
    pub slot_bytes: u64,
    /// Bytes of experts on their way.
    pub passing_bytes: u64,
    /// Bytes of all routed experts.
    pub expert_bytes: u64,
    /// Bytes of a smaller copy of all of them that is in memory, too; 0 without.
    pub cold_bytes: u64,
}

/// A budget that holds too little.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooSmall {
    /// The budget, in bytes.
    pub budget: u64,
    /// The least that would do, in bytes.
    pub needed: u64,
    /// Of that the trunk.
    pub trunk_bytes: u64,
    /// Slots of each layer that it has to have.
    pub slots: usize,
    /// Of what is needed a smaller copy of all experts; 0 without.
    pub cold_bytes: u64,
}

impl Tiers {
    /// Divides `budget` bytes between a trunk and slots for the experts of `layers`. Fails when there are fewer slots than
    /// two tokens visit experts.
    pub fn divide(budget: u64, trunk_bytes: u64, layers: &[LayerHeader]) -> Result<Self, TooSmall> {
        Self::divide_beside(0, budget, trunk_bytes, layers)
    }

    /// The same beside a smaller copy of all experts, of `cold_bytes`. With that there need be no slots.
    pub fn divide_beside(
        cold_bytes: u64,
        budget: u64,
        trunk_bytes: u64,
        layers: &[LayerHeader],
    ) -> Result<Self, TooSmall> {
        let of_all = |slots: usize| -> u64 {
            layers.iter().map(|layer| (slots.min(layer.experts) * layer.record_bytes) as u64).sum()
        };
        let most = layers.iter().map(|layer| layer.experts).max().unwrap_or_default();
        // Beside a copy nothing is read for a pass.
        let passing = if cold_bytes > 0 { 1 } else { IN_PASSING + STAGED_MAX };
        let passing = |layer: &LayerHeader| (passing.min(2 * layer.experts) * layer.record_bytes) as u64;
        let passing_bytes = layers.iter().map(passing).max().unwrap_or_default();
        let least = if cold_bytes > 0 { 0 } else { Self::slots_min(layers) };
        let taken = |slots| trunk_bytes + cold_bytes + passing_bytes + of_all(slots);
        if taken(least) > budget {
            return Err(TooSmall { budget, needed: taken(least), trunk_bytes, slots: least, cold_bytes });
        }
        let slots = (least..most).rev().find(|&slots| taken(slots) <= budget).unwrap_or(least);
        let (slot_bytes, expert_bytes) = (of_all(slots), of_all(most));
        Ok(Self { slots, trunk_bytes, slot_bytes, passing_bytes, expert_bytes, cold_bytes })
    }

    /// The same for a budget that does not hold all experts: where it was not `is_given`, a copy that it does not hold is left
    /// out.
    pub fn choose(
        cold_bytes: u64,
        is_given: bool,
        budget: u64,
        trunk_bytes: u64,
        layers: &[LayerHeader],
    ) -> Result<Self, TooSmall> {
        match Self::divide_beside(cold_bytes, budget, trunk_bytes, layers) {
            Err(_) if cold_bytes > 0 && !is_given => Self::divide(budget, trunk_bytes, layers),
            divided => divided,
        }
    }

    /// The fewest slots of each layer that are of use: those of two tokens' experts.
    pub fn slots_min(layers: &[LayerHeader]) -> usize {
        let most = layers.iter().map(|layer| layer.experts).max().unwrap_or_default();
        layers.iter().map(|layer| TOKENS_MIN * layer.top_k).max().unwrap_or_default().min(most)
    }

    /// Whether all weights fit the budget: then the file is mapped, and there are no slots.
    pub fn fits(budget: u64, trunk_bytes: u64, layers: &[LayerHeader]) -> bool {
        let experts: u64 = layers.iter().map(|layer| (layer.experts * layer.record_bytes) as u64).sum();
        trunk_bytes + experts <= budget
    }

    /// Share of the routed experts that have a slot.
    pub fn share(&self) -> f64 {
        self.slot_bytes as f64 / (self.expert_bytes as f64).max(1.0)
    }
}

impl fmt::Display for TooSmall {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let gigabytes = |bytes: u64| bytes as f64 / 1e9;
        let Self { budget, needed, trunk_bytes, slots, cold_bytes } = self;
        if *cold_bytes > 0 {
            return write!(
                f,
                "{:.2} GB of memory are too few for this model with a smaller copy of its experts: it needs {:.2} GB, {:.2} GB of \
                 them for the copy and {:.2} GB for what every token reads; raise --ram-budget, choose a smaller type for the \
                 copy, or leave out --cold",
                gigabytes(*budget),
                gigabytes(*needed),
                gigabytes(*cold_bytes),
                gigabytes(*trunk_bytes)
            );
        }
        if *trunk_bytes == 0 {
            return write!(
                f,
                "{:.2} GB of memory are too few for {slots} experts of each layer beside a GPU: they need {:.2} GB; raise \
                 --ram-budget, or choose a smaller model or quantisation",
                gigabytes(*budget),
                gigabytes(*needed)
            );
        }
        write!(
            f,
            "{:.2} GB of memory are too few for this model: it needs {:.2} GB, {:.2} GB of them for what every token reads \
             and the rest for {slots} experts of each layer; raise --ram-budget, or choose a smaller model or quantisation",
            gigabytes(*budget),
            gigabytes(*needed),
            gigabytes(*trunk_bytes)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_trunk_leaves_becomes_slots() {
        let layers = [LayerHeader { experts: 512, top_k: 10, record_bytes: 1000 }; 4];
        let passing = (IN_PASSING + STAGED_MAX) as u64 * 1000;
        let divide = |budget| Tiers::divide(budget, 50_000, &layers);
        let least = 50_000 + passing + 4 * 20 * 1000;
        let error = divide(least - 1).unwrap_err();
        let refused =
            TooSmall { budget: least - 1, needed: least, trunk_bytes: 50_000, slots: 20, cold_bytes: 0 };
        assert_eq!(error, refused);
        assert_eq!(divide(least).unwrap().slots, 20);
        assert_eq!(divide(least + 3999).unwrap().slots, 20);
        let tiers = divide(least + 4000).unwrap();
        assert_eq!((tiers.slots, tiers.slot_bytes, tiers.expert_bytes), (21, 84_000, 2_048_000));
        assert!(Tiers::fits(2_098_000, 50_000, &layers) && !Tiers::fits(2_097_999, 50_000, &layers));
        assert!(error.to_string().contains("for 20 experts of each layer"));
        let beside = |budget| Tiers::divide_beside(9000, budget, 50_000, &layers);
        let least = 50_000 + 9000 + 1000;
        assert_eq!(beside(least).unwrap().slots, 0, "the copy has all experts");
        assert_eq!(beside(least + 8000).unwrap().slots, 2);
        assert!(beside(least - 1).unwrap_err().to_string().contains("leave out --cold"));
        let choose = |is_given, budget| Tiers::choose(9_000_000, is_given, budget, 50_000, &layers);
        assert_eq!(choose(true, 1_000_000).unwrap_err().cold_bytes, 9_000_000);
        let without = choose(false, 1_000_000).unwrap();
        assert_eq!((without.cold_bytes, without), (0, divide(1_000_000).unwrap()));
        assert_eq!(choose(false, 9_060_000).unwrap().cold_bytes, 9_000_000);
    }
}
