//! Measures typing speed, and computes the debounce. Pure.

use std::time::{Duration, Instant};

use crate::base::timings::milliseconds;

/// Statistics of one document's requests.
#[derive(Default)]
pub(super) struct Pace {
    last_request: Option<Instant>,
    /// Moving average of the time between requests.
    interval_ms: Option<f64>,
    /// Moving average of the time from the start of a generation to its end.
    answer_ms: Option<f64>,
    /// The share of requests that a newer one superseded.
    superseded: f64,
}

impl Pace {
    /// The weight of a new measurement.
    const WEIGHT: f64 = 0.3;
    /// Answers as fast as this need no debounce.
    const FAST_MS: f64 = 60.0;
    /// After a longer time between two requests, the user has paused.
    const PAUSE_MS: f64 = 400.0;

    /// Records a request.
    pub(super) fn on_request(&mut self, now: Instant) {
        let since =
            self.last_request.replace(now).map(|before| milliseconds(now.saturating_duration_since(before)));
        match since {
            Some(ms) if ms <= Self::PAUSE_MS => self.interval_ms = Self::mean(self.interval_ms, ms),
            _ => self.interval_ms = None,
        }
    }

    /// Records the end of a request.
    pub(super) fn record_end(&mut self, is_superseded: bool) {
        self.superseded += Self::WEIGHT * (f64::from(u8::from(is_superseded)) - self.superseded);
    }

    /// Records the milliseconds of a generation.
    pub(super) fn record_answer(&mut self, ms: f64) {
        self.answer_ms = Self::mean(self.answer_ms, ms);
    }

    /// How long to debounce an automatic request. The faster the typing and the more of the
    /// requests were superseded, the longer.
    pub(super) fn debounce(&self, max: Duration) -> Duration {
        let is_fast = self.answer_ms.is_some_and(|ms| ms <= Self::FAST_MS);
        let haste = self.interval_ms.map_or(0.0, |ms| 1.0 - ms / Self::PAUSE_MS);
        if is_fast { Duration::ZERO } else { max.mul_f64((self.superseded * 2.0 * haste).clamp(0.0, 1.0)) }
    }

    fn mean(before: Option<f64>, now: f64) -> Option<f64> {
        Some(before.map_or(now, |before| before + Self::WEIGHT * (now - before)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_faster_the_typing_the_longer_the_wait() {
        const MAX: Duration = Duration::from_millis(75);
        let waits = |interval_ms: u64, is_superseded: bool| {
            let (mut pace, start) = (Pace::default(), Instant::now());
            for keystroke in 0..20 {
                pace.on_request(start + Duration::from_millis(keystroke * interval_ms));
                pace.record_end(is_superseded);
            }
            pace
        };
        assert!(waits(50, true).debounce(MAX) > waits(300, true).debounce(MAX));
        assert!(waits(300, true).debounce(MAX) > Duration::ZERO);
        assert_eq!(waits(50, false).debounce(MAX), Duration::ZERO, "no request came to nothing");
        assert_eq!(waits(500, true).debounce(MAX), Duration::ZERO, "no typing");
        let mut fast = waits(50, true);
        fast.record_answer(Pace::FAST_MS);
        assert_eq!(fast.debounce(MAX), Duration::ZERO);
    }
}
