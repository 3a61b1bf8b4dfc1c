//! What `fimd plan` says of a model on a machine: where its weights live and how fast it is to be. Pure arithmetic.

use std::fmt;

use serde::Serialize;

use crate::model::experts::tiers::{Tiers, TooSmall};
use crate::model::experts::trace::LayerHeader;

/// How large a model is.
#[derive(Clone, Debug, Serialize)]
pub struct Sizes {
    /// Bytes of the weights that are no routed experts.
    pub trunk_bytes: u64,
    /// Bytes of those of which a token reads one row.
    pub lookup_bytes: u64,
    /// Weights that a token is multiplied with.
    pub token_weights: u64,
    /// Layers with experts.
    pub layers: Vec<LayerHeader>,
}

/// Memory and rates of a machine.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Machine {
    /// Budget of the model with its caches, in bytes.
    pub ram_bytes: u64,
    /// Bytes for everything but weights: KV cache, states, the program.
    pub other_bytes: u64,
    #[serde(flatten)]
    pub rates: Rates,
}

/// What a machine does in a second.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Rates {
    /// Bytes of weights that one token is multiplied with in a second.
    pub weights_per_s: f64,
    /// Multiply-adds in a second when many tokens are evaluated together.
    pub macs_per_s: f64,
    /// Bytes that the disk reads in a second.
    pub disk_per_s: f64,
}

impl Rates {
    /// Where only memory and disk are measured, in bytes per second: one token after the other is bound by them.
    pub fn at_a_glance(memory_per_s: f64, disk_per_s: f64) -> Self {
        Self { weights_per_s: memory_per_s, macs_per_s: f64::INFINITY, disk_per_s }
    }
}

/// Where weights live.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// All of them in memory.
    Memory,
    /// The trunk and some experts in memory, the others on disk.
    Tiers(Tiers),
    /// Memory does not hold what it must.
    TooSmall {
        /// The least budget that does, in bytes.
        ram_bytes: u64,
    },
}

/// What routing does to hits.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Speed {
    /// Share of the visits that find the expert in memory.
    pub hit_rate: f64,
    /// Tokens per second, one after the other.
    pub tokens_per_s: f64,
    /// Bytes that a token reads from memory.
    pub memory_bytes: u64,
    /// Bytes that it reads from disk.
    pub disk_bytes: u64,
    /// Seconds until a prompt that nothing is known of is evaluated.
    pub cold_prompt_s: f64,
    /// Seconds until a few new tokens are.
    pub keystroke_s: f64,
}

/// A plan.
#[derive(Clone, Debug, Serialize)]
pub struct Plan {
    pub place: Place,
    /// Bytes of all weights.
    pub weight_bytes: u64,
    /// With routing that has no pattern: the worst case, and what a synthetic model does. None where it does not fit.
    pub uniform: Option<Speed>,
    /// With the routing of text, as published for a sibling of Qwen3-Coder-Next.
    pub text: Option<Speed>,
}

/// Tokens of a prompt of which nothing is known.
pub const COLD_TOKENS: usize = 512;
/// Tokens that a keystroke adds to a known prompt.
pub const KEYSTROKE_TOKENS: usize = 4;

/// Share of the experts that have a slot, and share of the visits that then hit, by text: LRU replays of Qwen3-Next with
/// 512 experts, top-10. What lies between is on straight lines.
const TEXT_HITS: [(f64, f64); 5] = [(0.0, 0.0), (0.125, 0.63), (0.25, 0.82), (0.5, 0.92), (1.0, 1.0)];

/// Plans for a model on a machine.
pub fn plan(sizes: &Sizes, machine: &Machine) -> Plan {
    let experts: u64 = sizes.layers.iter().map(|layer| (layer.experts * layer.record_bytes) as u64).sum();
    let budget = machine.ram_bytes.saturating_sub(machine.other_bytes);
    let place = place(sizes, budget, machine.other_bytes);
    let share = match &place {
        Place::Memory => Some(1.0),
        Place::Tiers(tiers) => Some(tiers.share()),
        Place::TooSmall { .. } => None,
    };
    Plan {
        place,
        weight_bytes: sizes.trunk_bytes + experts,
        uniform: share.map(|share| speed(sizes, &machine.rates, share)),
        text: share.map(|share| speed(sizes, &machine.rates, text_hits(share))),
    }
}

fn place(sizes: &Sizes, budget: u64, other_bytes: u64) -> Place {
    if Tiers::fits(budget, sizes.trunk_bytes, &sizes.layers) {
        return Place::Memory;
    }
    if sizes.layers.is_empty() {
        return Place::TooSmall { ram_bytes: sizes.trunk_bytes + other_bytes };
    }
    match Tiers::divide(budget, sizes.trunk_bytes, &sizes.layers) {
        Ok(tiers) => Place::Tiers(tiers),
        Err(TooSmall { needed, .. }) => Place::TooSmall { ram_bytes: needed + other_bytes },
    }
}

fn text_hits(share: f64) -> f64 {
    let above = TEXT_HITS.iter().position(|&(known, _)| known >= share).unwrap_or(TEXT_HITS.len() - 1).max(1);
    let [(x0, y0), (x1, y1)] = [TEXT_HITS[above - 1], TEXT_HITS[above]];
    y0 + (y1 - y0) * ((share - x0) / (x1 - x0)).clamp(0.0, 1.0)
}

/// The speed where this share of the visits finds the expert in memory.
pub fn speed(sizes: &Sizes, rates: &Rates, hit_rate: f64) -> Speed {
    let trunk = (sizes.trunk_bytes - sizes.lookup_bytes) as f64;
    let seconds = |tokens: usize| {
        let visited = visited_bytes(sizes, tokens);
        let multiply = ((trunk + visited) / rates.weights_per_s)
            .max((tokens as u64 * sizes.token_weights) as f64 / rates.macs_per_s);
        let read = visited * (1.0 - hit_rate) / rates.disk_per_s;
        // One token waits for its experts; in a long prompt reads and arithmetic overlap.
        if tokens < COLD_TOKENS { multiply + read } else { multiply.max(read) }
    };
    let visited = visited_bytes(sizes, 1);
    Speed {
        hit_rate,
        tokens_per_s: 1.0 / seconds(1),
        memory_bytes: (trunk + visited) as u64,
        disk_bytes: (visited * (1.0 - hit_rate)) as u64,
        cold_prompt_s: seconds(COLD_TOKENS),
        keystroke_s: seconds(KEYSTROKE_TOKENS),
    }
}

/// Bytes of the experts that `tokens` tokens visit, each counted once.
fn visited_bytes(sizes: &Sizes, tokens: usize) -> f64 {
    let of_layer = |layer: &LayerHeader| {
        let share = 1.0 - (1.0 - layer.top_k as f64 / layer.experts as f64).powf(tokens as f64);
        (layer.experts * layer.record_bytes) as f64 * share
    };
    sizes.layers.iter().map(of_layer).sum()
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let gigabytes = |bytes: u64| format!("{:.2} GB", bytes as f64 / 1e9);
        match &self.place {
            Place::Memory => writeln!(f, "all {} of weights fit in memory", gigabytes(self.weight_bytes))?,
            Place::Tiers(tiers) => {
                let Tiers { slots, trunk_bytes, slot_bytes, passing_bytes, expert_bytes, .. } = *tiers;
                writeln!(f, "memory: {} that every token reads", gigabytes(trunk_bytes))?;
                writeln!(f, "        {} for {slots} experts of each layer", gigabytes(slot_bytes))?;
                writeln!(f, "        {} for experts on their way", gigabytes(passing_bytes))?;
                writeln!(f, "disk:   {} of experts", gigabytes(expert_bytes - slot_bytes))?;
            }
            Place::TooSmall { ram_bytes } => {
                return writeln!(f, "too large: it needs a budget of {} at least", gigabytes(*ram_bytes));
            }
        }
        writeln!(
            f,
            "\n| routing | hits | tokens/s | from disk per token | {COLD_TOKENS} new tokens | {KEYSTROKE_TOKENS} new tokens |"
        )?;
        writeln!(f, "|---|---:|---:|---:|---:|---:|")?;
        for (name, speed) in [("text", &self.text), ("uniform", &self.uniform)] {
            let Some(speed) = speed else { continue };
            writeln!(
                f,
                "| {name} | {:.0} % | {:.2} | {} | {:.1} s | {:.2} s |",
                100.0 * speed.hit_rate,
                speed.tokens_per_s,
                gigabytes(speed.disk_bytes),
                speed.cold_prompt_s,
                speed.keystroke_s
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GB: u64 = 1_000_000_000;
    const MACHINE: Machine = Machine {
        ram_bytes: 24 * GB,
        other_bytes: GB,
        rates: Rates { weights_per_s: 1e10, macs_per_s: 1e11, disk_per_s: 1e9 },
    };

    /// About the size of Qwen3-Coder-Next in 4 bits.
    fn large() -> Sizes {
        let layer = LayerHeader { experts: 512, top_k: 10, record_bytes: 1_800_000 };
        Sizes {
            trunk_bytes: 2 * GB,
            lookup_bytes: GB / 5,
            token_weights: 3_000_000_000,
            layers: vec![layer; 48],
        }
    }

    #[test]
    fn tiers_decide_the_speed() {
        let found = plan(&large(), &MACHINE);
        let Place::Tiers(tiers) = found.place else { panic!("{found:?}") };
        assert!(tiers.slots > 200 && tiers.slots < 256, "{tiers:?}");
        let uniform = found.uniform.unwrap();
        assert!((uniform.hit_rate - tiers.slots as f64 / 512.0).abs() < 1e-9);
        // 864 MB of experts and 1.8 GB of trunk in 0.27 s, and more than half a second of disk.
        let expected = 1.0 / (2.664 / 10.0 + 0.864 * (1.0 - uniform.hit_rate));
        assert!((uniform.tokens_per_s - expected).abs() < 1e-3, "{uniform:?}");
        let text = found.text.unwrap();
        assert!(text.tokens_per_s > uniform.tokens_per_s && text.hit_rate > 0.82 && text.hit_rate < 0.92);
        assert!(
            uniform.keystroke_s > 1.0 / uniform.tokens_per_s && uniform.cold_prompt_s > uniform.keystroke_s
        );

        let whole = plan(&large(), &Machine { ram_bytes: 64 * GB, ..MACHINE });
        assert_eq!(whole.place, Place::Memory);
        assert!((whole.uniform.unwrap().tokens_per_s - 10.0 / 2.664).abs() < 1e-3);
        let small = plan(&large(), &Machine { ram_bytes: 3 * GB, ..MACHINE });
        let Place::TooSmall { ram_bytes } = small.place else { panic!("{small:?}") };
        assert!(ram_bytes > 4 * GB && small.text.is_none());
        let enough = plan(&large(), &Machine { ram_bytes, ..MACHINE });
        assert!(matches!(enough.place, Place::Tiers(Tiers { slots: 20, .. })));
        let dense = Sizes { layers: Vec::new(), ..large() };
        let refused = plan(&dense, &Machine { ram_bytes: 2 * GB, ..MACHINE });
        assert_eq!(refused.place, Place::TooSmall { ram_bytes: 3 * GB });
    }

    #[test]
    fn hits_grow_with_slots() {
        let hits: Vec<f64> = (0..=20).map(|i| text_hits(f64::from(i) / 20.0)).collect();
        assert!(hits.windows(2).all(|pair| pair[0] < pair[1]));
        assert_eq!((hits[0], hits[5], hits[20]), (0.0, 0.82, 1.0));
    }
}
