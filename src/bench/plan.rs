//! What `fimd plan` says of a model on a machine: where its weights live and how fast it is to be. Pure arithmetic.

use std::fmt;

use serde::Serialize;

pub use super::rates::{GpuRates, Rates};

use super::schedule::{Expert, Pair, Trunk};
use crate::compute::TableUse;
use crate::compute::cuda::HostTables;
use crate::model::experts::tiers::{Tiers, TooSmall};
use crate::model::experts::trace::LayerHeader;
use crate::resident::GpuPlan;

/// How large a model is.
#[derive(Clone, Debug, Serialize)]
pub struct Sizes {
    /// Bytes of the weights that are no routed experts.
    pub trunk_bytes: u64,
    /// Bytes of those of which a token reads one row.
    pub lookup_bytes: u64,
    /// Bytes of the head's matrix, which is the embedding's where they are tied.
    pub head_bytes: u64,
    /// Weights of it.
    pub head_weights: u64,
    /// Weights that a token is multiplied with; an element of a recurrent state counts as three.
    pub token_weights: u64,
    /// Kernels of all layers that a GPU runs for a token, but those of routed experts.
    pub kernels: usize,
    /// Layers with experts.
    pub layers: Vec<LayerHeader>,
    /// Weights of a routed expert; 0 without.
    pub expert_weights: u64,
    /// Bytes of a smaller copy of all experts; 0 without.
    pub cold_bytes: u64,
}

impl Sizes {
    /// Bytes of all routed experts.
    pub fn expert_bytes(&self) -> u64 {
        self.layers.iter().map(|layer| (layer.experts * layer.record_bytes) as u64).sum()
    }

    /// The weights that every token reads where a GPU has them, but for what stays with the CPU.
    pub(super) fn trunk(&self, host_tables: HostTables) -> Trunk {
        let visits: usize = self.layers.iter().map(|layer| layer.top_k).sum();
        let weights = self.token_weights.saturating_sub(visits as u64 * self.expert_weights);
        let is_host = host_tables.has(TableUse::Head);
        let (host_bytes, host_weights) = if is_host { (self.head_bytes, self.head_weights) } else { (0, 0) };
        Trunk {
            bytes: (self.trunk_bytes - self.lookup_bytes - host_bytes) as f64,
            weights: weights.saturating_sub(host_weights) as f64,
            host_bytes: host_bytes as f64,
            host_weights: host_weights as f64,
            kernels: self.kernels as f64,
        }
    }
}

/// Memory and rates of a machine.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Machine {
    /// Budget of the model with its caches, in bytes.
    pub ram_bytes: u64,
    /// Whether that was named: what it does not hold is refused then.
    pub is_budget_given: bool,
    /// Bytes for everything but weights: KV cache, states, the program.
    pub other_bytes: u64,
    #[serde(flatten)]
    pub rates: Rates,
    /// The GPU that the model runs on, if any.
    pub gpu: Option<Gpu>,
}

/// A GPU of which a model has some memory.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Gpu {
    #[serde(flatten)]
    pub plan: GpuPlan,
    pub rates: GpuRates,
    /// Whether mapped files are page-locked.
    pub locks: bool,
}

/// Where weights live.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// All of them in the memory of the GPU.
    Gpu,
    /// All of them in memory, or those that a GPU does not hold.
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
    /// Share of the visits that find it in the memory of the GPU.
    pub gpu_hit_rate: f64,
    /// Tokens per second, one after the other.
    pub tokens_per_s: f64,
    /// Bytes that a token reads from memory.
    pub memory_bytes: u64,
    /// Bytes that come to the GPU for a token.
    pub link_bytes: u64,
    /// Of these what it reads of a smaller copy, for visits that miss.
    pub cold_bytes: u64,
    /// Bytes that it waits for the disk to read.
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
    let place = place(sizes, machine);
    let (share, cold_bytes) = match &place {
        Place::Gpu | Place::Memory => (Some(1.0), 0),
        Place::Tiers(tiers) => (Some(tiers.share()), tiers.cold_bytes),
        Place::TooSmall { .. } => (None, 0),
    };
    let used = Sizes { cold_bytes, ..sizes.clone() };
    let speed = |hits: fn(f64) -> f64| {
        let share = share?;
        let Some(gpu) = &machine.gpu else { return Some(speed(&used, &machine.rates, hits(share))) };
        let on_gpu = gpu.plan.slots as f64 / (gpu.plan.experts as f64).max(1.0);
        let on_gpu = if gpu.plan.holds_all() { 1.0 } else { on_gpu };
        let is_locked = gpu.locks || matches!(place, Place::Tiers(_));
        let rates = if is_locked { gpu.rates.page_locked() } else { gpu.rates };
        // What has a slot on the GPU is forgotten in memory.
        let either = hits((share + on_gpu).min(1.0));
        let pair = Pair { cpu: machine.rates, gpu: rates };
        Some(speed_beside(&used, gpu.plan.host_tables, &pair, hits(on_gpu), either))
    };
    Plan {
        place,
        weight_bytes: sizes.trunk_bytes + sizes.expert_bytes(),
        uniform: speed(|share| share),
        text: speed(text_hits),
    }
}

fn place(sizes: &Sizes, machine: &Machine) -> Place {
    let Machine { ram_bytes, is_budget_given, other_bytes, gpu, .. } = *machine;
    if gpu.is_some_and(|gpu| gpu.plan.holds_all()) {
        return Place::Gpu;
    }
    let budget = ram_bytes.saturating_sub(other_bytes);
    let trunk_bytes = if gpu.is_some() { 0 } else { sizes.trunk_bytes };
    if Tiers::fits(budget, trunk_bytes, &sizes.layers) {
        return Place::Memory;
    }
    if sizes.layers.is_empty() {
        return Place::TooSmall { ram_bytes: trunk_bytes + other_bytes };
    }
    match Tiers::choose(sizes.cold_bytes, is_budget_given, budget, trunk_bytes, &sizes.layers) {
        Ok(tiers) => Place::Tiers(tiers),
        Err(TooSmall { needed, .. }) => Place::TooSmall { ram_bytes: needed + other_bytes },
    }
}

fn text_hits(share: f64) -> f64 {
    let above = TEXT_HITS.iter().position(|&(known, _)| known >= share).unwrap_or(TEXT_HITS.len() - 1).max(1);
    let [(x0, y0), (x1, y1)] = [TEXT_HITS[above - 1], TEXT_HITS[above]];
    y0 + (y1 - y0) * ((share - x0) / (x1 - x0)).clamp(0.0, 1.0)
}

/// The speed where this share of the visits finds the expert in memory. The others wait for the disk, or are computed with in
/// the smaller copy where there is one.
pub fn speed(sizes: &Sizes, rates: &Rates, hit_rate: f64) -> Speed {
    let trunk = (sizes.trunk_bytes - sizes.lookup_bytes) as f64;
    let copy_share = sizes.cold_bytes as f64 / (sizes.expert_bytes() as f64).max(1.0);
    // Bytes of the weights as they are in memory or come there, of the copy, and of the disk.
    let bytes = |tokens: usize| {
        let visited = visited_bytes(sizes, tokens);
        let missed = visited * (1.0 - hit_rate);
        match sizes.cold_bytes {
            0 => (trunk + visited, 0.0, missed),
            _ => (trunk + visited - missed, missed * copy_share, 0.0),
        }
    };
    let seconds = |tokens: usize| {
        let (own, cold, disk) = bytes(tokens);
        let multiply = (own / rates.weights_per_s + cold / rates.cold_per_s)
            .max((tokens as u64 * sizes.token_weights) as f64 / rates.macs_per_s);
        let read = disk / rates.disk_per_s;
        // One token waits for its experts; in a long prompt reads and arithmetic overlap.
        if tokens < COLD_TOKENS { multiply + read } else { multiply.max(read) }
    };
    let (own, cold, disk) = bytes(1);
    Speed {
        hit_rate,
        gpu_hit_rate: 0.0,
        tokens_per_s: 1.0 / seconds(1),
        memory_bytes: (own + cold) as u64,
        link_bytes: 0,
        cold_bytes: cold as u64,
        disk_bytes: disk as u64,
        cold_prompt_s: seconds(COLD_TOKENS),
        keystroke_s: seconds(KEYSTROKE_TOKENS),
    }
}

/// The speed on a GPU where a share of the visits finds the expert in its memory, and a share there or in memory.
pub(super) fn speed_beside(
    sizes: &Sizes,
    host_tables: HostTables,
    pair: &Pair,
    on_gpu: f64,
    either: f64,
) -> Speed {
    let trunk = sizes.trunk(host_tables);
    let copy_share = sizes.cold_bytes as f64 / (sizes.expert_bytes() as f64).max(1.0);
    // Seconds, and bytes of the link, of the copy, and of the disk.
    let pass = |tokens: usize| {
        let mut seconds = pair.trunk_s(&trunk, tokens as f64);
        let (mut link, mut cold, mut disk) = (0.0, 0.0, 0.0);
        for layer in &sizes.layers {
            let visited = visited(layer, tokens);
            let expert = Expert { bytes: layer.record_bytes as f64, weights: sizes.expert_weights as f64 };
            let rows = (tokens * layer.top_k) as f64 / visited;
            let (hits, here) = (visited * on_gpu, visited * (either - on_gpu));
            let away = (visited * (1.0 - either)).max(0.0) * expert.bytes;
            let missing = if sizes.cold_bytes > 0 { here } else { visited - hits };
            let (times, copied) = pair.settled(expert, hits, missing, rows);
            link += copied * expert.bytes;
            let (from_copy, read) = if sizes.cold_bytes > 0 { (away * copy_share, 0.0) } else { (0.0, away) };
            seconds += times.all_s + from_copy / pair.cpu.cold_per_s;
            (cold, disk) = (cold + from_copy, disk + read);
        }
        let read_s = disk / pair.cpu.disk_per_s;
        // As without a GPU.
        (if tokens < COLD_TOKENS { seconds + read_s } else { seconds.max(read_s) }, link, cold, disk)
    };
    let (seconds, link, cold, disk) = pass(1);
    let visited_bytes: f64 =
        sizes.layers.iter().map(|layer| visited(layer, 1) * layer.record_bytes as f64).sum();
    Speed {
        hit_rate: either,
        gpu_hit_rate: on_gpu,
        tokens_per_s: 1.0 / seconds,
        memory_bytes: (visited_bytes * (either - on_gpu).max(0.0) + trunk.host_bytes + cold) as u64,
        link_bytes: link as u64,
        cold_bytes: cold as u64,
        disk_bytes: disk as u64,
        cold_prompt_s: pass(COLD_TOKENS).0,
        keystroke_s: pass(KEYSTROKE_TOKENS).0,
    }
}

/// Experts of a layer that `tokens` tokens visit, were they chosen evenly.
fn visited(layer: &LayerHeader, tokens: usize) -> f64 {
    let unvisited = (1.0 - layer.top_k as f64 / layer.experts as f64).powf(tokens as f64);
    layer.experts as f64 * (1.0 - unvisited)
}

/// Bytes of the experts that `tokens` tokens visit, each counted once.
fn visited_bytes(sizes: &Sizes, tokens: usize) -> f64 {
    sizes.layers.iter().map(|layer| visited(layer, tokens) * layer.record_bytes as f64).sum()
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let gigabytes = |bytes: u64| format!("{:.2} GB", bytes as f64 / 1e9);
        match &self.place {
            Place::Gpu => {
                writeln!(f, "all {} of weights fit in the memory of the GPU", gigabytes(self.weight_bytes))?;
            }
            Place::Memory => writeln!(f, "all {} of weights fit in memory", gigabytes(self.weight_bytes))?,
            Place::Tiers(tiers) => {
                let Tiers { slots, trunk_bytes, slot_bytes, passing_bytes, expert_bytes, cold_bytes } =
                    *tiers;
                let what_all_read = if trunk_bytes > 0 { gigabytes(trunk_bytes) } else { "nothing".into() };
                writeln!(f, "memory: {what_all_read} that every token reads")?;
                writeln!(f, "        {} for {slots} experts of each layer", gigabytes(slot_bytes))?;
                if cold_bytes > 0 {
                    writeln!(f, "        {} for the smaller copy of all experts", gigabytes(cold_bytes))?;
                }
                writeln!(f, "        {} for experts on their way", gigabytes(passing_bytes))?;
                writeln!(f, "disk:   {} of experts", gigabytes(expert_bytes - slot_bytes))?;
            }
            Place::TooSmall { ram_bytes } => {
                return writeln!(f, "too large: it needs a budget of {} at least", gigabytes(*ram_bytes));
            }
        }
        writeln!(
            f,
            "\n| routing | hits | on the GPU | tokens/s | over the link per token | from disk | from the copy | {COLD_TOKENS} new tokens | {KEYSTROKE_TOKENS} new tokens |"
        )?;
        writeln!(f, "|---|---:|---:|---:|---:|---:|---:|---:|---:|")?;
        for (name, speed) in [("text", &self.text), ("uniform", &self.uniform)] {
            let Some(speed) = speed else { continue };
            writeln!(
                f,
                "| {name} | {:.0} % | {:.0} % | {:.2} | {} | {} | {} | {:.1} s | {:.2} s |",
                100.0 * speed.hit_rate,
                100.0 * speed.gpu_hit_rate,
                speed.tokens_per_s,
                gigabytes(speed.link_bytes),
                gigabytes(speed.disk_bytes),
                gigabytes(speed.cold_bytes),
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
        is_budget_given: true,
        other_bytes: GB,
        rates: Rates { weights_per_s: 1e10, macs_per_s: 1e11, disk_per_s: 1e9, cold_per_s: 5e9 },
        gpu: None,
    };

    /// About the size of Qwen3-Coder-Next in 4 bits.
    fn large() -> Sizes {
        let layer = LayerHeader { experts: 512, top_k: 10, record_bytes: 1_800_000 };
        Sizes {
            trunk_bytes: 2 * GB,
            lookup_bytes: GB / 5,
            head_bytes: GB / 4,
            head_weights: 300_000_000,
            token_weights: 3_000_000_000,
            kernels: 912,
            layers: vec![layer; 48],
            expert_weights: 3 << 20,
            cold_bytes: 0,
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
    fn a_smaller_copy_takes_memory_and_spares_the_disk() {
        // 12.4 of 44.2 GB.
        let copied = Sizes { cold_bytes: 12_386_304_000, ..large() };
        let found = plan(&copied, &MACHINE);
        let Place::Tiers(tiers) = found.place else { panic!("{found:?}") };
        let Place::Tiers(without) = plan(&large(), &MACHINE).place else { panic!() };
        assert_eq!(tiers.cold_bytes, copied.cold_bytes);
        assert!(tiers.slots + 100 < without.slots, "{tiers:?}");
        let uniform = found.uniform.unwrap();
        // What misses is 0.28 of the bytes, at half the rate.
        let missed = 0.864 * (1.0 - uniform.hit_rate);
        let expected = 1.0 / ((2.664 - missed) / 10.0 + missed * 0.28 / 5.0);
        assert!((uniform.tokens_per_s / expected - 1.0).abs() < 1e-3, "{uniform:?}, {expected}");
        assert_eq!(uniform.disk_bytes, 0);
        assert!((uniform.cold_bytes as f64 / (missed * 0.28e9) - 1.0).abs() < 1e-3);
        assert!(uniform.tokens_per_s > 2.0 * plan(&large(), &MACHINE).uniform.unwrap().tokens_per_s);
        let text = found.to_string();
        assert!(text.contains("12.39 GB for the smaller copy of all experts"), "{text}");

        let small = Machine { ram_bytes: 12 * GB, ..MACHINE };
        let Place::TooSmall { ram_bytes } = plan(&copied, &small).place else { panic!() };
        let Place::Tiers(tiers) = plan(&copied, &Machine { ram_bytes, ..small }).place else { panic!() };
        assert_eq!((tiers.slots, tiers.cold_bytes), (0, copied.cold_bytes));
        let left_out = plan(&copied, &Machine { is_budget_given: false, ..small });
        assert_eq!(left_out.place, plan(&large(), &small).place, "a copy that does not fit is not used");
        assert!(left_out.uniform.unwrap().disk_bytes > 0);
        let whole = plan(&copied, &Machine { ram_bytes: 64 * GB, ..MACHINE });
        assert_eq!((whole.place, whole.uniform.unwrap().cold_bytes), (Place::Memory, 0));
    }

    #[test]
    fn a_head_that_stays_is_read_at_the_rate_of_the_memory() {
        let gpu = GpuRates {
            weights_per_s: 4e11,
            macs_per_s: f64::INFINITY,
            link_per_s: 1e10,
            launch_s: 4e-6,
            wait_s: 15e-6,
            memory_per_s: 1e10,
            copy_per_s: 1e10,
        };
        let pair = Pair { cpu: MACHINE.rates, gpu };
        let of = |tables| speed_beside(&large(), tables, &pair, 0.5, 1.0);
        let [none, embedding, all] = [HostTables::None, HostTables::Embedding, HostTables::All].map(of);
        // A row of the embedding is nothing.
        assert_eq!(none.tokens_per_s, embedding.tokens_per_s);
        let more_s = 0.25e9 * (1.0 / 1e10 - 1.0 / 4e11);
        let times = |speed: &Speed| [1.0 / speed.tokens_per_s, speed.keystroke_s, speed.cold_prompt_s];
        // One row of a pass has logits.
        for (stays, whole) in times(&all).into_iter().zip(times(&none)) {
            assert!((stays - whole - more_s).abs() < 1e-9, "{all:?}, {none:?}");
        }
        assert_eq!(all.memory_bytes - none.memory_bytes, GB / 4);
    }

    #[test]
    fn hits_grow_with_slots() {
        let hits: Vec<f64> = (0..=20).map(|i| text_hits(f64::from(i) / 20.0)).collect();
        assert!(hits.windows(2).all(|pair| pair[0] < pair[1]));
        assert_eq!((hits[0], hits[5], hits[20]), (0.0, 0.82, 1.0));
    }
}
