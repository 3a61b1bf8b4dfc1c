//! Counters of what became of requests. Pure; they stay on this machine and hold no text.

use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};

use super::record::{Record, Source};
use super::retained::Looked;

/// Told of every request; also of those that gave up.
pub type Observer = Arc<dyn Fn(&Record) + Send + Sync>;

/// Counters that several editors share.
pub type Shared = Arc<Mutex<Stats>>;

/// Requests that percentiles look back on.
const LATENCIES_MAX: usize = 1024;

/// What was counted so far.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Counters {
    /// Requests for a completion.
    pub requests: u64,
    /// Those that were superseded or given up.
    pub cancelled: u64,
    /// Those that were answered with something.
    pub offered: u64,
    /// Answers from the suggestion on screen.
    pub typed_through: u64,
    /// Answers from earlier ones.
    pub cache: u64,
    /// Answers from a generation begun for an earlier request.
    pub joined: u64,
    /// Answers from a generation of their own.
    pub model: u64,
    /// Suggestions that the editor says it has shown.
    pub shown: u64,
    /// Suggestions accepted whole.
    pub accepted: u64,
    /// Their characters.
    pub accepted_chars: u64,
    /// Suggestions that the editor says were accepted in part.
    pub partially_accepted: u64,
    /// Bytes of accepted suggestions that were looked at again after 30 s.
    pub looked_bytes_30s: u64,
    /// Those of them that were still in their document.
    pub retained_bytes_30s: u64,
    /// The same after 120 s.
    pub looked_bytes_120s: u64,
    /// Those of them that were still in their document.
    pub retained_bytes_120s: u64,
    /// Prompt tokens that were there already when they were asked for.
    pub tokens_reused: u64,
    /// Prompt tokens evaluated for requests.
    pub tokens_evaluated: u64,
    /// Of those reused, the ones whose recurrence was run again.
    pub tokens_replayed: u64,
    /// Tokens generated for requests.
    pub tokens_generated: u64,
    /// Prompt tokens evaluated before anyone asked.
    pub unasked_evaluated: u64,
    /// Tokens generated before anyone asked.
    pub unasked_generated: u64,
}

/// Milliseconds from request to answer, of late.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Percentiles {
    /// Half of the answers were as fast.
    pub p50: f64,
    /// 95 of 100 were.
    pub p95: f64,
    /// 99 of 100 were.
    pub p99: f64,
}

/// Counters and what follows from them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Statistics {
    /// The counters.
    #[serde(flatten)]
    pub counters: Counters,
    /// Accepted suggestions as a share of those shown, or of those offered where the editor does not say
    /// what it shows.
    pub acceptance: f64,
    /// The share of the accepted text that was still in its document 30 s later.
    pub retained_30s: f64,
    /// The share that was still there 120 s later.
    pub retained_120s: f64,
    /// The share of answers with something in them that the model did not have to run for.
    pub without_model: f64,
    /// Of all answers that were not given up.
    pub answer_ms: Percentiles,
    /// Of those that the model ran for.
    pub model_ms: Percentiles,
}

/// Counts.
#[derive(Debug, Default)]
pub struct Stats {
    counters: Counters,
    answers: Latencies,
    models: Latencies,
}

/// The latest of a row of times.
#[derive(Debug, Default)]
struct Latencies {
    ms: Vec<f64>,
    next: usize,
}

impl Latencies {
    fn push(&mut self, ms: f64) {
        if self.ms.len() < LATENCIES_MAX {
            self.ms.push(ms);
        } else {
            self.ms[self.next] = ms;
        }
        self.next = (self.next + 1) % LATENCIES_MAX;
    }

    fn percentiles(&self) -> Percentiles {
        let mut sorted = self.ms.clone();
        sorted.sort_by(f64::total_cmp);
        // The nearest rank: the smallest time that as large a share of the answers did not exceed.
        let rank = |percent: usize| (sorted.len() * percent).div_ceil(100).saturating_sub(1);
        let at = |percent| sorted.get(rank(percent)).copied().unwrap_or_default();
        Percentiles { p50: at(50), p95: at(95), p99: at(99) }
    }
}

impl Stats {
    /// A request is over.
    pub fn record(&mut self, record: &Record) {
        let counters = &mut self.counters;
        counters.requests += 1;
        counters.cancelled += u64::from(record.is_cancelled);
        counters.tokens_reused += record.synced.reused as u64;
        counters.tokens_evaluated += record.synced.evaluated as u64;
        counters.tokens_replayed += record.synced.replayed as u64;
        counters.tokens_generated += record.decode_tokens as u64;
        if record.is_cancelled {
            return;
        }
        self.answers.push(record.total_ms);
        if record.source == Source::Model {
            self.models.push(record.total_ms);
        }
        if record.shown_chars > 0 {
            counters.offered += 1;
            match record.source {
                Source::TypedThrough => counters.typed_through += 1,
                Source::Cache => counters.cache += 1,
                Source::Joined => counters.joined += 1,
                Source::Model => counters.model += 1,
                Source::Nothing => {}
            }
        }
    }

    /// The model worked ahead.
    pub fn unasked(&mut self, evaluated: usize, generated: usize) {
        self.counters.unasked_evaluated += evaluated as u64;
        self.counters.unasked_generated += generated as u64;
    }

    /// The editor says that it shows a suggestion.
    pub fn shown(&mut self) {
        self.counters.shown += 1;
    }

    /// A suggestion was accepted whole.
    pub fn accepted(&mut self, chars: usize) {
        self.counters.accepted += 1;
        self.counters.accepted_chars += chars as u64;
    }

    /// An accepted suggestion was looked at again.
    pub fn looked(&mut self, looked: &Looked) {
        let Counters { looked_bytes_30s, retained_bytes_30s, looked_bytes_120s, retained_bytes_120s, .. } =
            &mut self.counters;
        let (all, retained) = match looked.after {
            0 => (looked_bytes_30s, retained_bytes_30s),
            _ => (looked_bytes_120s, retained_bytes_120s),
        };
        *all += looked.accepted as u64;
        *retained += looked.retained as u64;
    }

    /// The editor says that a part of a suggestion was accepted.
    pub fn partially_accepted(&mut self) {
        self.counters.partially_accepted += 1;
    }

    /// What was counted so far, and what follows from it.
    pub fn statistics(&self) -> Statistics {
        let counters = self.counters.clone();
        let share = |part: u64, whole: u64| if whole == 0 { 0.0 } else { part as f64 / whole as f64 };
        let seen = if counters.shown > 0 { counters.shown } else { counters.offered };
        Statistics {
            acceptance: share(counters.accepted, seen),
            retained_30s: share(counters.retained_bytes_30s, counters.looked_bytes_30s),
            retained_120s: share(counters.retained_bytes_120s, counters.looked_bytes_120s),
            without_model: share(counters.offered - counters.model, counters.offered),
            answer_ms: self.answers.percentiles(),
            model_ms: self.models.percentiles(),
            counters,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_by_what_became_of_them() {
        let mut stats = Stats::default();
        for (source, shown_chars, is_cancelled) in [
            (Source::Model, 5, false),
            (Source::TypedThrough, 4, false),
            (Source::TypedThrough, 3, false),
            (Source::Cache, 2, false),
            (Source::Joined, 0, true),
            (Source::Model, 0, false),
            (Source::Nothing, 0, false),
        ] {
            stats.record(&Record { shown_chars, is_cancelled, ..Record::new(source) });
        }
        stats.accepted(7);
        let Statistics { counters, acceptance, without_model, .. } = stats.statistics();
        assert_eq!((counters.requests, counters.cancelled, counters.offered), (7, 1, 4));
        assert_eq!((counters.model, counters.typed_through, counters.cache, counters.joined), (1, 2, 1, 0));
        assert_eq!((acceptance, without_model), (0.25, 0.75));
        stats.looked(&Looked { after: 0, accepted: 8, retained: 6 });
        stats.looked(&Looked { after: 1, accepted: 8, retained: 2 });
        let kept = stats.statistics();
        assert_eq!((kept.retained_30s, kept.retained_120s), (0.75, 0.25));
        stats.shown();
        stats.shown();
        assert_eq!(stats.statistics().acceptance, 0.5);
        assert_eq!(Stats::default().statistics(), Statistics::default());
    }

    #[test]
    fn percentiles_are_those_of_the_latest_answers() {
        let mut stats = Stats::default();
        let mut times = |times: std::ops::RangeInclusive<u32>| {
            for ms in times {
                stats.record(&Record { total_ms: ms.into(), ..Record::new(Source::Model) });
            }
            stats.statistics().model_ms
        };
        assert_eq!(times(7..=7), Percentiles { p50: 7.0, p95: 7.0, p99: 7.0 });
        times(1..=100);
        let latest = times(1..=LATENCIES_MAX as u32);
        assert_eq!(latest, Percentiles { p50: 512.0, p95: 973.0, p99: 1014.0 });
    }
}
