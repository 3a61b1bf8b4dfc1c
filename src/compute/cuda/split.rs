//! Which of the experts that a layer misses are copied to the GPU, and which the CPU computes with. Pure.

/// Weight of a new measurement.
const RECENT: f64 = 1.0 / 8.0;

/// Seconds that an expert takes, as measured while both the CPU and the link work: they share the memory of the host.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Rates {
    computed: Option<f64>,
    copied: Option<f64>,
}

impl Rates {
    /// Of `missing` experts, how many are to be copied so that both are done at the same time; half of them as long as
    /// nothing is known.
    pub(super) fn copied(&self, missing: usize) -> usize {
        let (computed, copied) = self.computed.zip(self.copied).unwrap_or((1.0, 1.0));
        let share = computed / (computed + copied);
        (missing as f64 * share).round() as usize
    }

    /// The CPU has computed with `count` experts.
    pub(super) fn observe_computed(&mut self, count: usize, seconds: f64) {
        learn(&mut self.computed, count, seconds);
    }

    /// `count` experts were copied.
    pub(super) fn observe_copies(&mut self, count: usize, seconds: f64) {
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
        rates.observe_computed(3, 3.0 * 42e-6);
        assert_eq!([0, 1, 2, 4, 8].map(|missing| rates.copied(missing)), [0, 0, 1, 1, 2]);
        for _ in 0..100 {
            rates.observe_computed(6, 6.0 * 1.0);
        }
        assert_eq!(rates.copied(8), 8, "the CPU has become busy");
    }

    #[test]
    fn what_takes_no_time_teaches_nothing() {
        let mut rates = Rates::default();
        rates.observe_computed(0, 1.0);
        rates.observe_copies(3, 0.0);
        assert_eq!(rates, Rates::default());
    }
}
