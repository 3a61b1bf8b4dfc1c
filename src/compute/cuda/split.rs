//! Which of the experts that a layer misses are copied to the GPU, and which the CPU computes with. Pure.

/// Weight of a new measurement.
const RECENT: f64 = 1.0 / 8.0;
/// Most experts that are copied to slots in a layer of a pass.
pub const COPIED_MAX: usize = 16;
/// Visits that the CPU computes with in the time that it takes to read their expert: as long as that is not measured.
const VISITS_OF_A_READ: f64 = 4.0;
/// How many experts the CPU computes with for each that is copied where the link brings few.
const COMPUTED_FOR_A_COPY: usize = 4;
/// From how many visits of an expert on the CPU is bound by computing.
const COMPUTE_BOUND_VISITS: usize = 8;
/// From how many rows on all missing experts are copied, as long as nothing is measured: published measurements have the two
/// ways equal at 150 to 300.
const SWEEP_ROWS_DEFAULT: usize = 192;

/// Seconds that an expert takes, as measured while both the CPU and the link work: they share the memory of the host.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rates {
    /// With few visits of each.
    computed: Option<f64>,
    /// The same while the link brings few: it has most of the memory then.
    alone: Option<f64>,
    /// For each visit where there are many.
    visited: Option<f64>,
    copied: Option<f64>,
    /// The part of an expert that earlier layers were to copy, and did not.
    owed: f64,
}

/// Where the experts of a layer are, and a pass that visits them.
#[derive(Clone, Copy, Debug)]
pub struct Visit {
    pub rows: usize,
    pub top_k: usize,
    pub experts: usize,
    pub slots: usize,
}

impl Visit {
    /// How many experts the pass visits that have no slot, and how many visits these have, if all are visited alike.
    pub fn missing(&self) -> (f64, f64) {
        let &Self { rows, top_k, experts, slots } = self;
        let experts = experts.max(1) as f64;
        let missing = (experts - slots as f64).max(0.0);
        let unvisited = (1.0 - top_k as f64 / experts).clamp(0.0, 1.0).powf(rows as f64);
        (missing * (1.0 - unvisited), (rows * top_k) as f64 * missing / experts)
    }
}

impl Rates {
    /// How many of `missing` experts are copied in the next layer: as [`Self::copied`], and over many layers exactly as many, so
    /// that slots are filled where a layer misses few.
    pub fn next_copied(&mut self, missing: usize) -> usize {
        let wanted = missing as f64 * self.share() + self.owed;
        let count = (wanted.round().max(0.0) as usize).min(missing);
        self.owed = (wanted - count as f64).clamp(-1.0, 1.0);
        count
    }

    /// The share of the experts that are to be copied.
    fn share(&self) -> f64 {
        let (computed, copied) = self.computed.zip(self.copied).unwrap_or((1.0, 1.0));
        computed / (computed + copied)
    }

    /// Of `missing` experts, how many are to be copied so that both are done at the same time; half of them as long as
    /// nothing is known.
    pub fn copied(&self, missing: usize) -> usize {
        (missing as f64 * self.share()).round() as usize
    }

    /// Whether a pass is faster when all experts that it misses are copied than when the CPU computes with most of them.
    pub fn favours_sweep(&self, visit: &Visit) -> bool {
        let Some((alone, copied)) = self.alone.zip(self.copied) else {
            return visit.rows >= SWEEP_ROWS_DEFAULT;
        };
        let (missing, visits) = visit.missing();
        let visited = self.visited.unwrap_or(alone / VISITS_OF_A_READ);
        let each = alone.max(visited * visits / missing.max(1.0));
        let some = (self.copied(missing as usize).min(COPIED_MAX)) as f64;
        missing * copied < ((missing - some) * each).max(some * copied)
    }

    /// The CPU has computed with `count` experts, for `visits` visits, while `copied` were copied.
    pub fn observe_computed(&mut self, count: usize, visits: usize, copied: usize, seconds: f64) {
        if visits >= COMPUTE_BOUND_VISITS * count {
            return learn(&mut self.visited, visits, seconds);
        }
        learn(&mut self.computed, count, seconds);
        if count >= COMPUTED_FOR_A_COPY * copied {
            learn(&mut self.alone, count, seconds);
        }
    }

    /// `count` experts were copied.
    pub fn observe_copies(&mut self, count: usize, seconds: f64) {
        learn(&mut self.copied, count, seconds);
    }
}

fn learn(known: &mut Option<f64>, count: usize, seconds: f64) {
    let measured = seconds / count.max(1) as f64;
    if count > 0 && measured > 0.0 {
        *known = Some(known.map_or(measured, |known| known + RECENT * (measured - known)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_take_the_same_time() {
        let mut rates = Rates::default();
        assert_eq!(rates.copied(7), 4, "nothing is known");
        rates.observe_copies(4, 4.0 * 126e-6);
        assert_eq!(rates.copied(7), 4, "one is not known");
        rates.observe_computed(3, 6, 4, 3.0 * 42e-6);
        assert_eq!([0, 1, 2, 4, 8].map(|missing| rates.copied(missing)), [0, 0, 1, 1, 2]);
        for _ in 0..100 {
            rates.observe_computed(6, 6, 2, 6.0 * 1.0);
        }
        assert_eq!(rates.copied(8), 8, "the CPU has become busy");
    }

    #[test]
    fn layers_that_miss_few_experts_copy_some_now_and_then() {
        let mut rates = Rates::default();
        rates.observe_copies(1, 9.0);
        rates.observe_computed(1, 1, 1, 1.0);
        // A tenth of three.
        assert_eq!(rates.copied(3), 0);
        let counts: Vec<usize> = (0..100).map(|_| rates.next_copied(3)).collect();
        assert_eq!(counts.iter().sum::<usize>(), 30);
        assert!(counts.iter().all(|&count| count <= 1), "{counts:?}");
        assert_eq!(rates.next_copied(0), 0);
    }

    #[test]
    fn what_takes_no_time_teaches_nothing() {
        let mut rates = Rates::default();
        rates.observe_computed(0, 0, 0, 1.0);
        rates.observe_copies(3, 0.0);
        assert_eq!(rates, Rates::default());
    }

    /// From how many rows on a layer of 512 experts with 60 slots, 10 of them visited by a row, is swept.
    fn sweep_rows(rates: &Rates) -> usize {
        let visit = |rows| Visit { rows, top_k: 10, experts: 512, slots: 60 };
        let is_swept = |rows: &usize| rates.favours_sweep(&visit(*rows));
        let from = (1..1 << 14).find(is_swept).unwrap_or(usize::MAX);
        assert!((from..from.saturating_add(500)).all(|rows| is_swept(&rows)), "one threshold");
        from
    }

    #[test]
    fn long_prompts_are_swept_where_the_link_is_faster_than_computing() {
        let mut rates = Rates::default();
        assert_eq!(sweep_rows(&rates), SWEEP_ROWS_DEFAULT, "nothing is known");
        // PCIe 4.0 x8 beside the DDR4 of a laptop, at 4.25 bits.
        rates.observe_copies(8, 8.0 * 134e-6);
        rates.observe_computed(8, 8, 8, 8.0 * 84e-6);
        assert_eq!(sweep_rows(&rates), SWEEP_ROWS_DEFAULT, "what the CPU does alone is not known");
        rates.observe_computed(8, 8, 2, 8.0 * 37e-6);
        assert_eq!(sweep_rows(&rates), 769, "the CPU is assumed to keep up with four visits of an expert");
        // It computes with 300 billion multiply-adds in a second.
        rates.observe_computed(10, 200, 0, 200.0 * 10.5e-6);
        assert_eq!(sweep_rows(&rates), 678);
        // PCIe 4.0 x16.
        let mut faster = Rates { copied: None, ..rates };
        faster.observe_copies(8, 8.0 * 67e-6);
        assert_eq!(sweep_rows(&faster), 339);
        // A CPU that is busy.
        let slow = Rates { alone: Some(1e-3), visited: Some(1e-3), ..rates };
        assert_eq!(sweep_rows(&slow), 1);
    }

    #[test]
    fn a_short_pass_visits_few_of_the_experts() {
        let visit = |rows, slots| Visit { rows, top_k: 10, experts: 512, slots }.missing();
        let (missing, visits) = visit(1, 0);
        assert!((missing - 10.0).abs() < 1e-9 && visits == 10.0);
        let (missing, visits) = visit(1024, 256);
        assert!(missing > 255.9 && visits == 5120.0);
        assert_eq!(visit(100, 512).0, 0.0);
    }
}
