//! Waiting before another attempt.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

/// The wait before a new attempt, `first` at most before the first: twice as long each time, and of random length, so
/// that those whom a server failed together do not come back together.
pub fn back_off(attempt: u32, first: Duration, max: Duration) -> Duration {
    let longest = first.saturating_mul(1 << attempt.min(16)).min(max);
    let random = RandomState::new().build_hasher().finish() as f64 / u64::MAX as f64;
    longest.mul_f64(0.5 + random / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_and_differ() {
        let (first, max) = (Duration::from_millis(200), Duration::from_secs(10));
        for attempt in 0..40 {
            let longest = (200 << attempt.min(16)).min(10_000) as u128;
            let wait = back_off(attempt, first, max).as_millis();
            assert!((longest / 2 - 1..=longest).contains(&wait), "{attempt}: {wait}");
        }
    }
}
