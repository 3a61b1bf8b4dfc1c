//! How long a pass takes where a GPU has the weights that every token reads and some experts, and the CPU the others: the order
//! in which the backend works, with a table of rates. Pure.
//!
//! In every layer the GPU routes, tells the host, and computes with the experts that have a slot. The host lays the experts that
//! are to be copied out in page-locked memory, one after the other, from where the link takes them, and computes with the rest
//! meanwhile: CPU and link share its memory. The GPU then computes with what came, and adds what the CPU returns.
//!
//! A long pass is swept: the link brings every expert that is missing, while the GPU computes with those that are there.

use super::rates::{GpuRates, Rates};
use crate::compute::cuda::split::COPIED_MAX;

/// Kernels that a set of routed experts takes.
pub const KERNELS_OF_EXPERTS: usize = 3;
/// How often the share of the copies is set by the times of before, where it is to settle.
const ROUNDS: usize = 40;

/// A machine with a GPU.
#[derive(Clone, Copy, Debug)]
pub struct Pair {
    pub cpu: Rates,
    pub gpu: GpuRates,
}

/// The weights that every token reads, and whose they are: `bytes`, and how many weights.
#[derive(Clone, Copy, Debug, Default)]
pub struct Trunk {
    pub bytes: f64,
    pub weights: f64,
    /// Of a head that stays with the CPU, which computes one row of a pass.
    pub host_bytes: f64,
    pub host_weights: f64,
    /// Kernels that the GPU runs, whatever the rows.
    pub kernels: f64,
}

/// A routed expert.
#[derive(Clone, Copy, Debug)]
pub struct Expert {
    pub bytes: f64,
    /// How many weights it has.
    pub weights: f64,
}

/// Where the experts are that a pass visits in a layer.
#[derive(Clone, Copy, Debug, Default)]
pub struct Visits {
    /// Experts with a slot.
    pub hits: f64,
    /// Those that are copied to one.
    pub copied: f64,
    /// Those that the CPU computes with.
    pub computed: f64,
    /// Rows that visit each.
    pub rows: f64,
}

/// What the experts of a layer take, in seconds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Times {
    /// From the routing to the sum.
    pub all_s: f64,
    /// From the first copy to the last.
    pub copies_s: f64,
    /// What the CPU computes.
    pub computed_s: f64,
}

impl Pair {
    /// The same without what launches, waiting and laying out cost: its bandwidths alone.
    pub fn ideal(&self) -> Self {
        let gpu = GpuRates { launch_s: 0.0, wait_s: 0.0, ..self.gpu.page_locked() };
        Self { gpu, ..*self }
    }

    /// Seconds of the weights that every token reads, for `rows` rows, until the host has the result.
    pub fn trunk_s(&self, trunk: &Trunk, rows: f64) -> f64 {
        let Self { cpu, gpu } = self;
        let on_gpu_s = (trunk.bytes / gpu.weights_per_s).max(rows * trunk.weights / gpu.macs_per_s);
        let on_host_s = (trunk.host_bytes / cpu.weights_per_s).max(trunk.host_weights / cpu.macs_per_s);
        self.fixed_s(trunk.kernels) + on_gpu_s + on_host_s
    }

    /// Seconds of a pass that has nothing to read.
    pub fn fixed_s(&self, kernels: f64) -> f64 {
        kernels * self.gpu.launch_s + self.gpu.wait_s
    }

    /// Seconds of `count` experts on the GPU.
    fn on_gpu_s(&self, expert: Expert, count: f64, rows: f64) -> f64 {
        let read = count * expert.bytes / self.gpu.weights_per_s;
        let computed = count * rows * expert.weights / self.gpu.macs_per_s;
        if count > 0.0 { read.max(computed) + KERNELS_OF_EXPERTS as f64 * self.gpu.launch_s } else { 0.0 }
    }

    /// The experts of a layer, some of them copied and some computed with by the CPU.
    pub fn shared(&self, expert: Expert, visits: Visits) -> Times {
        let Self { gpu, .. } = self;
        let Visits { hits, copied, computed, rows } = visits;
        let hits_s = self.on_gpu_s(expert, hits, rows);
        if copied + computed == 0.0 {
            return Times { all_s: hits_s, ..Times::default() };
        }
        let (laid_s, sent_s) = (expert.bytes / gpu.copy_per_s, expert.bytes / gpu.link_per_s);
        let copies_s = copied.min(1.0) * (laid_s + sent_s) + (copied - 1.0).max(0.0) * laid_s.max(sent_s);
        let (free_s, sent_until_s) = (gpu.wait_s + copied * laid_s, gpu.wait_s + copies_s);
        let sent_per_s = expert.bytes / laid_s.max(sent_s);
        let computed_s = self.computed_s(expert, computed, rows, sent_per_s, sent_until_s - free_s);
        let copied_s = match copied > 0.0 {
            true => hits_s.max(sent_until_s) + self.on_gpu_s(expert, copied, rows),
            false => hits_s,
        };
        let returned_s = if computed > 0.0 { free_s + computed_s + 2.0 * gpu.launch_s } else { 0.0 };
        Times { all_s: copied_s.max(returned_s), copies_s, computed_s }
    }

    /// Seconds that the CPU takes for `count` experts, where the link takes `sent_per_s` of the memory for `busy_s` seconds.
    fn computed_s(&self, expert: Expert, count: f64, rows: f64, sent_per_s: f64, busy_s: f64) -> f64 {
        let Self { cpu, gpu } = self;
        let bytes = count * expert.bytes;
        let alone = cpu.weights_per_s;
        let beside = alone.min((gpu.memory_per_s - sent_per_s).max(0.1 * alone));
        let first = beside * busy_s.max(0.0);
        let read_s = if bytes <= first { bytes / beside } else { busy_s.max(0.0) + (bytes - first) / alone };
        read_s.max(count * rows * expert.weights / cpu.macs_per_s)
    }

    /// The experts of a layer where all that are missing are copied, each once, while the GPU computes with others.
    pub fn swept(&self, expert: Expert, hits: f64, missing: f64, rows: f64) -> Times {
        let sent_s = missing * expert.bytes / self.gpu.link_per_s.min(self.gpu.copy_per_s);
        let computed_s = self.on_gpu_s(expert, hits + missing, rows);
        Times { all_s: self.gpu.wait_s + sent_s.max(computed_s), copies_s: sent_s, computed_s: 0.0 }
    }

    /// The experts of a layer where `missing` of them have no slot, by the faster of both ways; and how many the link brings.
    pub fn settled(&self, expert: Expert, hits: f64, missing: f64, rows: f64) -> (Times, f64) {
        let mut share = 0.5;
        let mut visits = Visits { hits, copied: 0.0, computed: missing, rows };
        let mut times = self.shared(expert, visits);
        for _ in 0..ROUNDS {
            let copied = (share * missing).min(COPIED_MAX as f64);
            visits = Visits { copied, computed: missing - copied, ..visits };
            times = self.shared(expert, visits);
            let each = |seconds: f64, count: f64| if count > 0.0 { seconds / count } else { f64::INFINITY };
            let (computed, copied) = (each(times.computed_s, visits.computed), each(times.copies_s, copied));
            if !computed.is_finite() || !copied.is_finite() {
                break;
            }
            share += (computed / (computed + copied) - share) / 4.0;
        }
        let swept = self.swept(expert, hits, missing, rows);
        if swept.all_s < times.all_s { (swept, missing) } else { (times, visits.copied) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An RTX 3070 Ti in a laptop, without what kernels and copies in memory cost.
    const IDEAL: Pair = Pair {
        cpu: Rates { weights_per_s: 45e9, macs_per_s: f64::INFINITY, disk_per_s: 3e9, cold_per_s: 45e9 },
        gpu: GpuRates {
            weights_per_s: 448e9,
            macs_per_s: f64::INFINITY,
            link_per_s: 12.5e9,
            launch_s: 0.0,
            wait_s: 0.0,
            memory_per_s: 45e9,
            copy_per_s: f64::INFINITY,
        },
    };
    /// 4.25 bits for each of 3.1 million weights.
    const EXPERT: Expert = Expert { bytes: 1_671_168.0, weights: 3_145_728.0 };

    fn near(found: f64, expected: f64) {
        assert!((found / expected - 1.0).abs() < 1e-3, "{found} is not {expected}");
    }

    #[test]
    fn hits_take_the_time_of_the_memory_of_the_gpu() {
        let (times, copied) = IDEAL.settled(EXPERT, 10.0, 0.0, 1.0);
        near(times.all_s, 10.0 * EXPERT.bytes / 448e9);
        assert_eq!(copied, 0.0);
        let trunk = Trunk { bytes: 3.5e9, weights: 3e9, ..Trunk::default() };
        near(IDEAL.trunk_s(&trunk, 1.0), 3.5 / 448.0);
    }

    #[test]
    fn misses_take_the_time_of_the_memory_of_the_host() {
        let (times, copied) = IDEAL.settled(EXPERT, 0.0, 10.0, 1.0);
        // What the link brings is its part of the memory, and the GPU computes with it at last.
        near(copied, 10.0 * 12.5 / 45.0);
        near(times.all_s, 10.0 * EXPERT.bytes / 45e9 + copied * EXPERT.bytes / 448e9);
        // The same without a link, or without a CPU.
        let cpu = IDEAL.shared(EXPERT, Visits { computed: 10.0, rows: 1.0, ..Visits::default() });
        near(cpu.all_s, 10.0 * EXPERT.bytes / 45e9);
        let link = IDEAL.shared(EXPERT, Visits { copied: 10.0, rows: 1.0, ..Visits::default() });
        near(link.all_s, 10.0 * EXPERT.bytes / 12.5e9 + 10.0 * EXPERT.bytes / 448e9);
        // A CPU that does not use up the memory works beside the link at its own speed.
        let slow = Pair { cpu: Rates { weights_per_s: 20e9, ..IDEAL.cpu }, ..IDEAL };
        let (times, copied) = slow.settled(EXPERT, 0.0, 10.0, 1.0);
        near(times.all_s, 10.0 * EXPERT.bytes / 32.5e9 + copied * EXPERT.bytes / 448e9);
    }

    #[test]
    fn ceilings_are_those_of_the_published_arithmetic() {
        // A trunk of 3.75 GB, and 480 experts for a token of which a share misses.
        let trunk = Trunk { bytes: 3.75e9, weights: 3e9, ..Trunk::default() };
        let per_s = |hit_rate: f64| {
            let (times, _) = IDEAL.settled(EXPERT, 10.0 * hit_rate, 10.0 * (1.0 - hit_rate), 1.0);
            1.0 / (IDEAL.trunk_s(&trunk, 1.0) + 48.0 * times.all_s)
        };
        for (hit_rate, expected) in [(0.0, 38.1), (0.3, 47.8), (0.6, 64.3), (0.85, 90.1)] {
            let found = per_s(hit_rate);
            assert!((found / expected - 1.0).abs() < 0.03, "{hit_rate}: {found}, {expected}");
        }
    }

    #[test]
    fn more_hits_and_faster_parts_never_cost() {
        let real =
            Pair { gpu: GpuRates { launch_s: 4e-6, wait_s: 15e-6, copy_per_s: 10e9, ..IDEAL.gpu }, ..IDEAL };
        let time = |pair: &Pair, hits: f64, rows| pair.settled(EXPERT, hits, 40.0 - hits, rows).0.all_s;
        for rows in [1.0, 4.0, 40.0] {
            let times: Vec<f64> = (0..=40).map(|hits| time(&real, f64::from(hits), rows)).collect();
            assert!(times.windows(2).all(|pair| pair[1] <= pair[0] * 1.02), "{rows}: {times:?}");
            let faster = [
                Pair { gpu: GpuRates { link_per_s: 25e9, ..real.gpu }, ..real },
                Pair { gpu: GpuRates { memory_per_s: 90e9, ..real.gpu }, ..real },
                Pair { gpu: GpuRates { copy_per_s: 40e9, ..real.gpu }, ..real },
                Pair { gpu: GpuRates { weights_per_s: 900e9, ..real.gpu }, ..real },
                Pair { cpu: Rates { weights_per_s: 60e9, ..real.cpu }, ..real },
            ];
            for pair in faster {
                let (before, after) = (time(&real, 10.0, rows), time(&pair, 10.0, rows));
                assert!(after <= before * 1.02, "{pair:?}: {after}, {before}");
            }
        }
    }

    #[test]
    fn long_passes_are_swept() {
        let visited = |rows: f64| {
            let experts = 512.0 * (1.0 - (1.0 - 10.0 / 512.0_f64).powf(rows));
            (experts, 10.0 * rows / experts)
        };
        let pair = Pair { cpu: Rates { macs_per_s: 300e9, ..IDEAL.cpu }, ..IDEAL };
        let swept = |rows: f64| {
            let (experts, each) = visited(rows);
            pair.settled(EXPERT, 0.0, experts, each).1 == experts
        };
        assert!(!swept(16.0) && swept(2048.0));
        let (experts, each) = visited(2048.0);
        near(pair.settled(EXPERT, 0.0, experts, each).0.all_s, experts * EXPERT.bytes / 12.5e9);
    }
}
