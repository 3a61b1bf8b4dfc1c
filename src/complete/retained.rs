//! Measures the retention of accepted suggestions. Pure.

use std::ops::Range;
use std::time::{Duration, Instant};

use super::edit::Change;

/// When the retention of accepted text is sampled, after the accept.
pub const AFTER: [Duration; 2] = [Duration::from_secs(30), Duration::from_secs(120)];
/// Most accepted texts to track; the oldest are dropped.
const TRACKED_MAX: usize = 256;

/// Tracks accepted texts through the changes of their documents.
#[derive(Debug, Default)]
pub struct Retention {
    tracked: Vec<TrackedText>,
}

/// How much of an accepted text was retained, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetentionSample {
    /// Which of [`AFTER`].
    pub after: usize,
    pub accepted: usize,
    pub retained: usize,
}

#[derive(Debug)]
struct TrackedText {
    key: String,
    since: Instant,
    /// How many of [`AFTER`] have passed.
    sampled: usize,
    accepted: usize,
    /// The retained parts, in bytes of the document.
    pieces: Vec<Range<usize>>,
}

impl Retention {
    /// Tracks an accepted text at these bytes of the document `key`.
    pub fn accepted(&mut self, now: Instant, key: &str, range: Range<usize>) {
        if self.tracked.len() == TRACKED_MAX {
            self.tracked.remove(0);
        }
        let (key, accepted) = (key.to_owned(), range.len());
        self.tracked.push(TrackedText { key, since: now, sampled: 0, accepted, pieces: vec![range] });
    }

    /// The samples due at `now`. Call it before every change, so that none is taken late.
    pub fn due(&mut self, now: Instant) -> Vec<RetentionSample> {
        let mut all = Vec::new();
        for tracked in &mut self.tracked {
            let TrackedText { since, accepted, .. } = *tracked;
            while AFTER.get(tracked.sampled).is_some_and(|&after| now >= since + after) {
                let retained = tracked.pieces.iter().map(Range::len).sum();
                all.push(RetentionSample { after: tracked.sampled, accepted, retained });
                tracked.sampled += 1;
            }
        }
        self.tracked.retain(|tracked| tracked.sampled < AFTER.len());
        all
    }

    /// Applies a change of the document `key`.
    pub fn changed(&mut self, key: &str, change: &Change) {
        let removed = change.at..change.at + change.removed;
        let moved = |at: usize| at - change.removed + change.inserted.len();
        for tracked in self.tracked.iter_mut().filter(|tracked| tracked.key == key) {
            let split = |piece: &Range<usize>| {
                let before = piece.start..piece.end.min(removed.start);
                let after = piece.start.max(removed.end)..piece.end;
                let after = (!after.is_empty()).then(|| moved(after.start)..moved(after.end));
                [Some(before).filter(|before| !before.is_empty()), after].into_iter().flatten()
            };
            tracked.pieces = tracked.pieces.iter().flat_map(split).collect();
        }
    }

    /// Stops tracking the document `key`.
    pub fn forget(&mut self, key: &str) {
        self.tracked.retain(|tracked| tracked.key != key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_found() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let change = |at, removed, inserted: &str| Change { at, removed, inserted: inserted.into() };
        for (changes, retained) in [
            (&[][..], 10),
            (&[change(0, 0, "abc"), change(2, 1, "")], 10),
            (&[change(20, 0, "abc"), change(30, 5, "")], 10),
            (&[change(15, 0, "abc")], 10),
            (&[change(15, 0, "abc"), change(15, 3, "")], 10),
            (&[change(15, 2, "xy")], 8),
            (&[change(5, 10, "")], 5),
            (&[change(15, 100, "")], 5),
            (&[change(10, 10, "0123456789")], 0),
            (&[change(0, 12, ""), change(0, 3, "")], 5),
        ] {
            let mut retention = Retention::default();
            retention.accepted(at(0), "a", 10..20);
            for change in changes {
                retention.changed("b", change);
                retention.changed("a", change);
            }
            assert_eq!(retention.due(at(29)), []);
            let sampled = |after| RetentionSample { after, accepted: 10, retained };
            assert_eq!(retention.due(at(30)), [sampled(0)], "{changes:?}");
            assert_eq!(retention.due(at(119)), []);
            retention.changed("a", &change(0, 1000, ""));
            assert_eq!(retention.due(at(500)), [RetentionSample { retained: 0, ..sampled(1) }]);
            assert!(retention.tracked.is_empty());
        }
    }

    #[test]
    fn little_is_remembered() {
        let (now, mut retention) = (Instant::now(), Retention::default());
        for i in 0..1000 {
            retention.accepted(now, "a", i..i + 1);
        }
        assert_eq!(retention.tracked.len(), TRACKED_MAX);
        retention.forget("b");
        assert_eq!(retention.due(now + AFTER[1]).len(), 2 * TRACKED_MAX);
        retention.accepted(now, "a", 0..1);
        retention.forget("a");
        assert_eq!(retention.due(now + AFTER[1]), []);
    }
}
