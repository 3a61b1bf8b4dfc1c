//! `fimd bench experts`: replays recorded routing with policies and sizes of the RAM tier. Pure.
//!
//! Belady's optimum keeps the experts that are visited soonest; it knows the future, and nothing can hit more.

use std::collections::BTreeSet;
use std::fmt;

use serde::Serialize;

use super::keystrokes::plot;
use super::warmups::{self, WarmUp};
use crate::compute::experts::Ranking;
use crate::compute::experts::policy::{Counted, LayerCache, Policy};
use crate::model::experts::trace::{Header, Trace};

/// Policies that are compared, by name.
pub const POLICIES: [(&str, Policy); 11] = [
    ("LRU", visits(0.0, Policy::ALL)),
    ("LRU, 2 inserts", visits(0.0, 2)),
    ("LFU, half-life 4", visits(4.0, Policy::ALL)),
    ("LFU, half-life 8", visits(8.0, Policy::ALL)),
    ("LFU, half-life 16", visits(16.0, Policy::ALL)),
    ("LFU, half-life 16, 2 inserts", visits(16.0, 2)),
    ("LFU, half-life 64", visits(64.0, Policy::ALL)),
    ("ranks, half-life 4", ranks(4.0, Policy::ALL)),
    ("ranks, half-life 6", ranks(6.0, Policy::ALL)),
    ("ranks, half-life 8", ranks(8.0, Policy::ALL)),
    ("ranks, half-life 6, 2 inserts", ranks(6.0, 2)),
];

const fn visits(half_life: f64, inserts_max: usize) -> Policy {
    Policy { half_life, counted: Counted::Visits, inserts_max }
}

const fn ranks(half_life: f64, inserts_max: usize) -> Policy {
    Policy { half_life, counted: Counted::Ranks, inserts_max }
}

/// Name of the optimum.
const BELADY: &str = "Belady";

/// What the tiers read in a second, in bytes.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Rates {
    pub memory: f64,
    pub disk: f64,
}

/// What a cache of some size found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Count {
    /// Distinct experts that passes visited, in all layers.
    pub visits: u64,
    /// Those that were in memory.
    pub hits: u64,
    /// Visits of passes over one token.
    pub decode_visits: u64,
    /// Those that had to be read.
    pub decode_misses: u64,
    /// Bytes of those.
    pub decode_bytes: u64,
}

impl Count {
    fn add(&mut self, is_decode: bool, visits: usize, hits: usize, record_bytes: usize) {
        self.visits += visits as u64;
        self.hits += hits as u64;
        if is_decode {
            self.decode_visits += visits as u64;
            self.decode_misses += (visits - hits) as u64;
            self.decode_bytes += ((visits - hits) * record_bytes) as u64;
        }
    }

    /// Share of the visits that were in memory.
    pub fn hit_rate(&self) -> f64 {
        self.hits as f64 / (self.visits as f64).max(1.0)
    }
}

/// A policy at one size.
#[derive(Clone, Debug, Serialize)]
pub struct Point {
    /// Share of a layer's experts that have a slot.
    pub share: f64,
    #[serde(flatten)]
    pub count: Count,
    pub hit_rate: f64,
    /// Hits, as a share of the optimum's.
    pub of_belady: f64,
    /// Experts that a decoded token reads.
    pub misses_per_token: f64,
    /// What the rates allow, reads and computation one after the other.
    pub tokens_per_s: f64,
}

/// A policy at all sizes.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    pub policy: String,
    pub points: Vec<Point>,
}

/// Results of a replay.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub passes: usize,
    pub decoded_tokens: usize,
    pub rates: Rates,
    pub lines: Vec<Line>,
    /// What warm-ups gain with the policy of the program.
    pub warm_ups: Vec<WarmUp>,
}

/// Replays `trace` with every policy and at sizes that are `shares` of a layer's experts.
pub fn replay(trace: &Trace, shares: &[f64], rates: Rates) -> Report {
    let decoded_tokens = trace.passes.iter().filter(|pass| is_decode(&trace.header, pass)).count();
    let point = |share, count: Count, best: Count| Point {
        share,
        count,
        hit_rate: count.hit_rate(),
        of_belady: count.hits as f64 / (best.hits as f64).max(1.0),
        misses_per_token: count.decode_misses as f64 / decoded_tokens.max(1) as f64,
        tokens_per_s: tokens_per_s(&trace.header, count, decoded_tokens, rates),
    };
    let best: Vec<Count> = shares.iter().map(|&share| over_layers(trace, share, belady)).collect();
    let line = |name: &str, counts: Vec<Count>| {
        let points =
            shares.iter().zip(counts).zip(&best).map(|((&share, count), &best)| point(share, count, best));
        Line { policy: name.into(), points: points.collect() }
    };
    let of_policy = |policy: Policy| {
        let count = move |header: &Header, layer, slots, passes: &[Ranking]| {
            online(header, layer, LayerCache::new(policy, header.layers[layer].experts, slots), passes)
        };
        shares.iter().map(|&share| over_layers(trace, share, count)).collect()
    };
    let mut lines: Vec<Line> = POLICIES.iter().map(|(name, policy)| line(name, of_policy(*policy))).collect();
    lines.push(line(BELADY, best.clone()));
    Report { passes: trace.passes.len(), decoded_tokens, rates, lines, warm_ups: Vec::new() }
}

fn is_decode(header: &Header, pass: &[Vec<u32>]) -> bool {
    header.ranking(0, &pass[0]).rows().len() == 1
}

/// A token reads the trunk and the experts it hits from memory, the others from disk.
fn tokens_per_s(header: &Header, count: Count, tokens: usize, rates: Rates) -> f64 {
    let all: usize = header.layers.iter().map(|layer| layer.top_k * layer.record_bytes).sum();
    let missed = count.decode_bytes as f64 / tokens.max(1) as f64;
    let in_memory = header.trunk_bytes as f64 + all as f64;
    1.0 / (in_memory / rates.memory + missed / rates.disk)
}

/// Slots of a layer for a share of its experts: never fewer than two tokens visit.
fn slots(header: &Header, layer: usize, share: f64) -> usize {
    let layer = &header.layers[layer];
    ((layer.experts as f64 * share).round() as usize).clamp(layer.top_k.min(layer.experts), layer.experts)
}

fn over_layers(
    trace: &Trace,
    share: f64,
    count: impl Fn(&Header, usize, usize, &[Ranking]) -> Count,
) -> Count {
    let mut sum = Count::default();
    for layer in 0..trace.header.layers.len() {
        let passes: Vec<Ranking> =
            trace.passes.iter().map(|pass| trace.header.ranking(layer, &pass[layer])).collect();
        let found = count(&trace.header, layer, slots(&trace.header, layer, share), &passes);
        sum.visits += found.visits;
        sum.hits += found.hits;
        sum.decode_visits += found.decode_visits;
        sum.decode_misses += found.decode_misses;
        sum.decode_bytes += found.decode_bytes;
    }
    sum
}

fn online(header: &Header, layer: usize, mut cache: LayerCache, passes: &[Ranking]) -> Count {
    let (mut count, layer) = (Count::default(), &header.layers[layer]);
    for &ranking in passes {
        let visits: BTreeSet<u32> = ranking.visits().collect();
        let hits = visits.iter().filter(|&&expert| cache.slot(expert).is_some()).count();
        count.add(ranking.rows().len() == 1, visits.len(), hits, layer.record_bytes);
        cache.visit(ranking).into_iter().for_each(|insert| cache.fill(insert));
    }
    count
}

/// The optimum: after each pass the cache holds those of its experts and of what it held that are visited soonest.
fn belady(header: &Header, layer: usize, slots: usize, passes: &[Ranking]) -> Count {
    let (mut count, layer) = (Count::default(), &header.layers[layer]);
    let visits: Vec<BTreeSet<u32>> = passes.iter().map(|ranking| ranking.visits().collect()).collect();
    // For each pass and each of its experts the next pass that visits it.
    let mut soonest = vec![usize::MAX; layer.experts];
    let mut nexts: Vec<Vec<usize>> = Vec::with_capacity(visits.len());
    for (pass, experts) in visits.iter().enumerate().rev() {
        let next = |&expert: &u32| std::mem::replace(&mut soonest[expert as usize], pass);
        nexts.push(experts.iter().map(next).collect());
    }
    nexts.reverse();
    let mut kept: BTreeSet<(usize, u32)> = BTreeSet::new();
    for (pass, (experts, nexts)) in visits.iter().zip(nexts).enumerate() {
        let hits = experts.iter().filter(|&&expert| kept.remove(&(pass, expert))).count();
        count.add(passes[pass].rows().len() == 1, experts.len(), hits, layer.record_bytes);
        kept.extend(nexts.into_iter().zip(experts.iter().copied()));
        while kept.len() > slots {
            kept.pop_last();
        }
    }
    count
}

impl Report {
    /// Hit rates by size, as an SVG.
    pub fn svg(&self) -> String {
        let curve = |line: &Line| {
            let points = line.points.iter().map(|point| (point.share, point.hit_rate));
            (line.policy.clone(), points.collect())
        };
        let curves: Vec<(String, Vec<(f64, f64)>)> = self.lines.iter().map(curve).collect();
        plot::shares("Visits found in memory", "share of the experts that have a slot", &curves)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Self { passes, decoded_tokens, rates, lines, warm_ups } = self;
        writeln!(f, "{passes} passes, {decoded_tokens} of them decode one token")?;
        let (memory, disk) = (rates.memory / 1e9, rates.disk / 1e9);
        writeln!(f, "predicted from {memory:.1} GB/s of memory and {disk:.2} GB/s of disk\n")?;
        writeln!(f, "| experts in memory | policy | hits | of Belady's | misses per token | tokens/s |")?;
        writeln!(f, "|---:|---|---:|---:|---:|---:|")?;
        for i in 0..lines.first().map_or(0, |line| line.points.len()) {
            for Line { policy, points } in lines {
                let Point { share, hit_rate, of_belady, misses_per_token, tokens_per_s, .. } = &points[i];
                let [share, hit_rate, of_belady] = [share, hit_rate, of_belady].map(|share| 100.0 * share);
                writeln!(
                    f,
                    "| {share:.1} % | {policy} | {hit_rate:.1} % | {of_belady:.1} % | {misses_per_token:.1} | {tokens_per_s:.2} |"
                )?;
            }
        }
        if warm_ups.is_empty() { Ok(()) } else { warmups::write(warm_ups, f) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::random::Mmix;
    use crate::model::experts::trace::LayerHeader;

    const RATES: Rates = Rates { memory: 1e9, disk: 1e8 };

    /// A layer of eight experts of which each token visits one.
    fn trace(visits: &[u32]) -> Trace {
        let layer = LayerHeader { experts: 8, top_k: 1, record_bytes: 1_000_000 };
        let passes = visits.iter().map(|&expert| vec![vec![expert]]).collect();
        let header = Header { ranks_per_visit: 1, ..Header::new(9_000_000, vec![layer]) };
        Trace::new(header, passes)
    }

    /// The most hits of any choice of what to keep.
    fn best(visits: &[u32], kept: BTreeSet<u32>, slots: usize) -> usize {
        let Some((&now, later)) = visits.split_first() else { return 0 };
        let hit = usize::from(kept.contains(&now));
        let mut all = kept;
        all.insert(now);
        let mut most = 0;
        if all.len() <= slots {
            most = best(later, all, slots);
        } else {
            for &victim in &all.clone() {
                let kept = all.iter().copied().filter(|&expert| expert != victim).collect();
                most = most.max(best(later, kept, slots));
            }
        }
        hit + most
    }

    #[test]
    fn nothing_hits_more_than_belady() {
        let mut numbers = Mmix(3);
        for _ in 0..40 {
            let visits: Vec<u32> = (0..9).map(|_| numbers.below(5) as u32).collect();
            let report = replay(&trace(&visits), &[0.25], RATES);
            let belady = report.lines.last().unwrap().points[0].count;
            assert_eq!(belady.hits as usize, best(&visits, BTreeSet::new(), 2), "{visits:?}");
            for line in &report.lines {
                assert!(line.points[0].count.hits <= belady.hits && line.points[0].of_belady <= 1.0);
                assert_eq!(line.points[0].count.visits, 9);
            }
        }
    }

    #[test]
    fn speeds_follow_from_misses_and_rates() {
        let report = replay(&trace(&[0, 1, 2, 3, 4, 5, 6, 7]), &[0.25, 1.0], RATES);
        let point = &report.lines[0].points[0];
        assert_eq!((point.misses_per_token, point.hit_rate), (1.0, 0.0));
        // 10 MB of memory in 10 ms, 1 MB of disk in 10 ms.
        assert!((point.tokens_per_s - 50.0).abs() < 1e-9);
        let text = report.to_string();
        assert!(text.contains("| 25.0 % | LRU | 0.0 % | 0.0 % | 1.0 | 50.00 |"), "{text}");
        assert!(text.contains("| 100.0 % | Belady |"), "{text}");
        let svg = report.svg();
        assert_eq!(svg.matches("<path ").count(), report.lines.len());
        assert!(!svg.contains("NaN"));
    }
}
