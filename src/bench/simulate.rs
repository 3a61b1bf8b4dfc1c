//! `fimd bench schedule`: what a model on a machine with a GPU is to take, token by token, by a table of rates. Pure.
//!
//! The policy of the slots and the rule that divides what is missing are those of the program, which learn from the times that
//! `schedule` predicts; routing is drawn, or what was recorded. Some layers are computed, and stand for all.

use std::fmt;

use anyhow::{Result, ensure};
use serde::Serialize;

use super::plan::Sizes;
use super::routing::{Router, Writer};
use super::schedule::{Expert, Pair, Visits};
use super::synthetic::Routing;
use crate::compute::cuda::HostTables;
use crate::compute::cuda::split::{COPIED_MAX, Rates as SplitRates, Visit};
use crate::compute::experts::Ranking;
use crate::compute::experts::policy::{LayerCache, Policy};
use crate::model::experts::trace::{LayerHeader, Trace};

/// Layers that stand for all.
const LAYERS: usize = 6;
/// Tokens whose experts all get slots, since a session is longer than what is computed; those after which slots are as the program
/// leaves them; and those that are measured then.
const FILLING_TOKENS: usize = 150;
const WARM_TOKENS: usize = 100;
const MEASURED_TOKENS: usize = 100;
/// Shares of the visits that hit which slots are looked for.
pub const HIT_RATES: [f64; 4] = [0.0, 0.3, 0.6, 0.85];
/// Those for which routing is varied, how near that comes to them, and within how much of the spread of text it is looked for, in
/// how many steps.
const VARIED_HIT_RATES: [f64; 3] = [0.3, 0.6, 0.85];
const HIT_RATE_ERROR: f64 = 0.03;
const SPREAD_MAX: f32 = 32.0;
const SPREAD_STEPS: usize = 8;
/// Lengths of prompts of which nothing is known, in tokens.
pub const PROMPTS: [usize; 4] = [16, 64, 512, 2048];
/// Fewest rows of a pass that sweeps.
const SWEPT_ROWS_MIN: usize = 32;
/// New tokens of a keystroke.
pub const KEYSTROKE: usize = 16;

/// A model, and a machine.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    pub sizes: &'a Sizes,
    pub pair: Pair,
    /// What of the trunk stays with the CPU.
    pub host_tables: HostTables,
    /// Most rows of a pass.
    pub rows_max: usize,
}

/// Where experts are asked for.
pub enum Routed<'a> {
    Drawn(Routing),
    Recorded(&'a Trace),
}

/// What a pass takes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pass {
    pub seconds: f64,
    /// The same were there no kernels to launch, nothing to wait for and to lay out.
    pub ideal_s: f64,
    pub visits: f64,
    pub hits: f64,
    /// Bytes over the link.
    pub link_bytes: f64,
    /// Bytes of experts that the CPU reads.
    pub cpu_bytes: f64,
    /// Bytes that the GPU reads of its own memory.
    pub gpu_bytes: f64,
}

/// A model in the course of time.
#[derive(Clone, Debug)]
pub struct Simulated<'a> {
    subject: Subject<'a>,
    layer: LayerHeader,
    slots: usize,
    caches: Vec<LayerCache>,
    /// What the program has learned from all layers.
    rates: SplitRates,
    /// Whether all experts that are missing get slots, whatever that takes.
    is_filling: bool,
}

/// Predictions for some slots and routing.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    pub routing: &'static str,
    /// The share of hits that slots or routing were looked for; none where both are what they are.
    pub wanted: Option<f64>,
    /// How much tokens of a topic differ; 1 as in text.
    pub spread: f32,
    pub slots: usize,
    /// The share of hits that it has.
    pub hit_rate: f64,
    pub tokens_per_s: f64,
    /// Of the speed that bandwidths alone allow.
    pub of_ideal: f64,
    /// Bytes of a decoded token: over the link, of experts that the CPU reads, and those that the GPU reads.
    pub link_bytes: f64,
    pub cpu_bytes: f64,
    pub gpu_bytes: f64,
    /// Seconds of prompts of these lengths; empty where they were recorded.
    pub prompts_s: Vec<f64>,
    /// Seconds of a few new tokens.
    pub keystroke_s: f64,
}

/// Predictions for a machine.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub machine: String,
    pub sources: &'static str,
    pub model: String,
    /// Slots that fit its GPU, of the experts of a layer.
    pub slots: usize,
    pub experts: usize,
    /// Seconds of a token that has nothing to read.
    pub fixed_s: f64,
    pub rows: Vec<Row>,
}

impl Pass {
    fn add(&mut self, other: &Self) {
        self.seconds += other.seconds;
        self.ideal_s += other.ideal_s;
        self.visits += other.visits;
        self.hits += other.hits;
        self.link_bytes += other.link_bytes;
        self.cpu_bytes += other.cpu_bytes;
        self.gpu_bytes += other.gpu_bytes;
    }
}

impl<'a> Simulated<'a> {
    /// With empty slots; `layers` of the model's layers are computed. Fails for a model without experts.
    pub fn new(subject: Subject<'a>, slots: usize, layers: usize) -> Result<Self> {
        let headers = &subject.sizes.layers;
        ensure!(!headers.is_empty(), "a model without experts needs no schedule: `fimd plan` predicts it");
        // Of experts in several types, the mean.
        let record_bytes =
            subject.sizes.expert_bytes() as usize / headers.iter().map(|l| l.experts).sum::<usize>();
        let layer = LayerHeader { record_bytes, ..headers[0] };
        let slots = slots.min(layer.experts);
        let caches = vec![LayerCache::new(Policy::BEST, layer.experts, slots); layers];
        Ok(Self { subject, layer, slots, caches, rates: SplitRates::default(), is_filling: false })
    }

    /// A pass whose rows visit these experts in the layers that are computed.
    pub fn pass(&mut self, visits: &[&[u32]]) -> Pass {
        let Subject { sizes, pair, host_tables, .. } = self.subject;
        let rows = (visits[0].len() / self.layer.top_k) as f64;
        let trunk = sizes.trunk(host_tables);
        let mut all = Pass {
            seconds: pair.trunk_s(&trunk, rows),
            ideal_s: pair.ideal().trunk_s(&trunk, rows),
            gpu_bytes: trunk.bytes,
            ..Pass::default()
        };
        let scale = sizes.layers.len() as f64 / self.caches.len() as f64;
        for (index, visits) in visits.iter().enumerate() {
            let layer = self.layer(index, visits, rows);
            all.add(&layer.times(scale));
        }
        all
    }

    fn layer(&mut self, index: usize, visits: &[u32], rows: f64) -> Pass {
        let Subject { sizes, pair, .. } = self.subject;
        let expert = Expert { bytes: self.layer.record_bytes as f64, weights: sizes.expert_weights as f64 };
        let (cache, rates) = (&mut self.caches[index], &mut self.rates);
        let mut distinct = visits.to_vec();
        distinct.sort_unstable();
        distinct.dedup();
        let each = visits.len() as f64 / distinct.len() as f64;
        cache.record(Ranking::of_visits(self.layer.top_k, visits));
        // All are there where each has its own slot.
        let missing = if self.slots < self.layer.experts { cache.missing_of(visits) } else { Vec::new() };
        let hits = (distinct.len() - missing.len()) as f64;
        let count = match self.is_filling {
            true => missing.len(),
            false if self.slots == 0 => 0,
            false => rates.next_copied(missing.len()).min(COPIED_MAX),
        };
        let inserts = cache.admit(&missing[..count], count, visits);
        inserts.iter().for_each(|&insert| cache.fill(insert));
        let (all, copied) = (missing.len() as f64, inserts.len() as f64);
        let shared = pair.shared(expert, Visits { hits, copied, computed: all - copied, rows: each });
        let swept = pair.swept(expert, hits, all, each);
        let visit = Visit {
            rows: rows as usize,
            top_k: self.layer.top_k,
            experts: self.layer.experts,
            slots: self.slots,
        };
        let is_swept = visit.rows >= SWEPT_ROWS_MIN && rates.favours_sweep(&visit);
        let (times, copied) = if is_swept { (swept, all) } else { (shared, copied) };
        if !is_swept && !self.is_filling {
            rates.observe_copies(inserts.len(), times.copies_s);
            let computed = missing.len() - inserts.len();
            let visits = (computed as f64 * each) as usize;
            rates.observe_computed(computed, visits, inserts.len(), times.computed_s);
        }
        let (ideal, _) = pair.ideal().settled(expert, hits, all, each);
        Pass {
            seconds: times.all_s,
            ideal_s: ideal.all_s,
            visits: distinct.len() as f64,
            hits,
            link_bytes: copied * expert.bytes,
            cpu_bytes: (all - copied) * expert.bytes,
            gpu_bytes: (hits + copied) * expert.bytes,
        }
    }
}

impl Pass {
    fn times(&self, scale: f64) -> Self {
        Self {
            seconds: scale * self.seconds,
            ideal_s: scale * self.ideal_s,
            visits: scale * self.visits,
            hits: scale * self.hits,
            link_bytes: scale * self.link_bytes,
            cpu_bytes: scale * self.cpu_bytes,
            gpu_bytes: scale * self.gpu_bytes,
        }
    }
}

/// Routing that was drawn once, of tokens that fill the slots and of those that are measured; and what draws more.
struct Drawn {
    routing: Routing,
    spread: f32,
    decoded: Vec<Vec<Vec<u32>>>,
    writer: Writer,
    router: Router,
}

impl Drawn {
    fn new(routing: Routing, spread: f32, layer: LayerHeader) -> Self {
        let mut writer = Writer::new(11);
        let mut router = Router::new(routing, layer, layer.top_k, LAYERS, 12).spread(spread);
        let tokens = FILLING_TOKENS + WARM_TOKENS + MEASURED_TOKENS;
        let decoded = (0..tokens).map(|_| router.pass(&writer.write(1))).collect();
        Self { routing, spread, decoded, writer, router }
    }

    /// What the measured tokens take with `slots` slots, and what is there then.
    fn decode<'a>(&self, subject: Subject<'a>, slots: usize) -> Result<(Simulated<'a>, Pass)> {
        let mut simulated = Simulated::new(subject, slots, LAYERS)?;
        let mut sum = Pass::default();
        for (token, visits) in self.decoded.iter().enumerate() {
            simulated.is_filling = token < FILLING_TOKENS;
            let pass = simulated.pass(&visits.iter().map(|visits| &visits[..]).collect::<Vec<_>>());
            if token >= FILLING_TOKENS + WARM_TOKENS {
                sum.add(&pass);
            }
        }
        Ok((simulated, sum))
    }

    /// The same, then a keystroke, or prompts of other documents.
    fn row(&self, subject: Subject, slots: usize) -> Result<Row> {
        let (simulated, sum) = self.decode(subject, slots)?;
        let chunked = |prompt: &[Vec<u32>]| {
            let mut simulated = simulated.clone();
            let most = subject.rows_max * simulated.layer.top_k;
            let chunks = prompt[0].len().div_ceil(most);
            let chunk = |at: usize| {
                prompt
                    .iter()
                    .map(|visits| &visits[at * most..visits.len().min((at + 1) * most)])
                    .collect::<Vec<_>>()
            };
            (0..chunks).map(|at| simulated.pass(&chunk(at)).seconds).sum::<f64>()
        };
        let name = match self.routing {
            Routing::Uniform => "uniform",
            Routing::Text if self.spread == 1.0 => "text",
            Routing::Text => "varied",
        };
        let (mut writer, mut router) = (self.writer.clone(), self.router.clone());
        let keystroke_s = chunked(&router.pass(&writer.write(KEYSTROKE)));
        let prompts_s = PROMPTS.map(|tokens| {
            writer.turn();
            chunked(&router.pass(&writer.write(tokens)))
        });
        Ok(Row::new(name, self.spread, &simulated, &sum, MEASURED_TOKENS, prompts_s.to_vec(), keystroke_s))
    }

    /// The fewest slots with which this share of the visits hits; at least those of a token's experts.
    fn slots_for(&self, subject: Subject, hit_rate: f64) -> Result<usize> {
        let LayerHeader { experts, top_k, .. } = subject.sizes.layers[0];
        let (mut least, mut most) = (top_k, experts);
        while least < most {
            let middle = least.midpoint(most);
            let (_, sum) = self.decode(subject, middle)?;
            match sum.hits >= hit_rate * sum.visits {
                true => most = middle,
                false => least = middle + 1,
            }
        }
        Ok(least)
    }

    /// Tokens of text that differ as much as makes this share of the visits hit with `slots` slots.
    fn hitting(hit_rate: f64, subject: Subject, slots: usize) -> Result<Self> {
        let (mut less, mut more) = (SPREAD_MAX.recip(), SPREAD_MAX);
        for _ in 0..SPREAD_STEPS {
            let middle = (less * more).sqrt();
            let drawn = Self::new(Routing::Text, middle, subject.sizes.layers[0]);
            let (_, sum) = drawn.decode(subject, slots)?;
            match sum.hits > hit_rate * sum.visits {
                true => less = middle,
                false => more = middle,
            }
        }
        Ok(Self::new(Routing::Text, (less * more).sqrt(), subject.sizes.layers[0]))
    }
}

impl Row {
    fn new(
        routing: &'static str,
        spread: f32,
        simulated: &Simulated,
        sum: &Pass,
        tokens: usize,
        prompts_s: Vec<f64>,
        keystroke_s: f64,
    ) -> Self {
        let tokens = tokens.max(1) as f64;
        Self {
            routing,
            wanted: None,
            spread,
            slots: simulated.slots,
            hit_rate: sum.hits / sum.visits.max(1.0),
            tokens_per_s: tokens / sum.seconds,
            of_ideal: sum.ideal_s / sum.seconds,
            link_bytes: sum.link_bytes / tokens,
            cpu_bytes: sum.cpu_bytes / tokens,
            gpu_bytes: sum.gpu_bytes / tokens,
            prompts_s,
            keystroke_s,
        }
    }
}

/// Predictions with as many slots as shares of hits need, and with those that fit; with the latter also for text that is varied
/// until shares of the visits hit.
pub fn run(subject: Subject, slots: usize, routed: &Routed) -> Result<Vec<Row>> {
    Simulated::new(subject, slots, 1)?;
    match routed {
        Routed::Recorded(trace) => Ok(vec![replayed(subject, slots, trace)?]),
        &Routed::Drawn(routing) => {
            let layer = subject.sizes.layers[0];
            let drawn = Drawn::new(routing, 1.0, layer);
            let mut rows = Vec::new();
            for hit_rate in HIT_RATES {
                let slots = drawn.slots_for(subject, hit_rate)?;
                rows.push(Row { wanted: Some(hit_rate), ..drawn.row(subject, slots)? });
            }
            rows.push(drawn.row(subject, slots)?);
            let varied = if routing == Routing::Text { &VARIED_HIT_RATES[..] } else { &[] };
            for &hit_rate in varied {
                let row = Drawn::hitting(hit_rate, subject, slots)?.row(subject, slots)?;
                // Nothing can be drawn that misses where all have slots, or hits where none has.
                if (row.hit_rate - hit_rate).abs() <= HIT_RATE_ERROR {
                    rows.push(Row { wanted: Some(hit_rate), ..row });
                }
            }
            Ok(rows)
        }
    }
}

/// Passes that were recorded, the first quarter of which fills the slots.
fn replayed(subject: Subject, slots: usize, trace: &Trace) -> Result<Row> {
    let (own, recorded) = (&subject.sizes.layers, &trace.header.layers);
    let is_same = |(a, b): (&LayerHeader, &LayerHeader)| (a.experts, a.top_k) == (b.experts, b.top_k);
    ensure!(
        own.len() == recorded.len() && own.iter().zip(recorded).all(is_same),
        "the trace is of {} layers with {} experts, and the model has {} with {}",
        recorded.len(),
        recorded[0].experts,
        own.len(),
        own[0].experts
    );
    let mut simulated = Simulated::new(subject, slots, own.len())?;
    let (mut sum, mut tokens, mut keystrokes) = (Pass::default(), 0, Vec::new());
    for (number, pass) in trace.passes.iter().enumerate() {
        let ranked = |index: usize| trace.header.ranking(index, &pass[index]);
        let rows = ranked(0).rows().len();
        let visits: Vec<Vec<u32>> = (0..pass.len()).map(|index| ranked(index).visits().collect()).collect();
        let found = simulated.pass(&visits.iter().map(|visits| &visits[..]).collect::<Vec<_>>());
        if number < trace.passes.len() / 4 {
            continue;
        }
        if rows == 1 {
            sum.add(&found);
            tokens += 1;
        } else if rows <= 2 * KEYSTROKE {
            keystrokes.push(found.seconds);
        }
    }
    ensure!(tokens > 0, "the trace has too few passes of one token");
    let keystroke_s = keystrokes.iter().sum::<f64>() / (keystrokes.len() as f64).max(1.0);
    Ok(Row::new("recorded", 1.0, &simulated, &sum, tokens, Vec::new(), keystroke_s))
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Self { machine, sources, model, slots, experts, fixed_s, rows } = self;
        writeln!(f, "{model} on {machine}: {slots} of {experts} experts of each layer fit its GPU")?;
        writeln!(f, "predicted and not measured, from specifications: {sources}")?;
        writeln!(f, "a token that has nothing to read takes {:.1} ms\n", 1e3 * fixed_s)?;
        let prompts: String = PROMPTS.iter().map(|tokens| format!(" {tokens} new, s |")).collect();
        writeln!(
            f,
            "| routing | hits | slots | tokens/s | of the bandwidths | link, MB | CPU, MB | GPU, MB |{prompts} {KEYSTROKE} more, ms |"
        )?;
        writeln!(f, "|---|---:|---:|---:|---:|---:|---:|---:|{}---:|", "---:|".repeat(PROMPTS.len()))?;
        for row in rows {
            let megabytes = |bytes: f64| bytes / 1e6;
            let is_varied = row.spread != 1.0;
            let spread = if is_varied { format!(" x {:.2}", row.spread) } else { String::new() };
            let fits = if row.wanted.is_none() || is_varied { ", what fits" } else { "" };
            write!(
                f,
                "| {}{spread} | {:.0} % | {}{fits} | {:.1} | {:.0} % | {:.0} | {:.0} | {:.0} |",
                row.routing,
                100.0 * row.hit_rate,
                row.slots,
                row.tokens_per_s,
                100.0 * row.of_ideal,
                megabytes(row.link_bytes),
                megabytes(row.cpu_bytes),
                megabytes(row.gpu_bytes)
            )?;
            for at in 0..PROMPTS.len() {
                match row.prompts_s.get(at) {
                    Some(seconds) => write!(f, " {seconds:.2} |")?,
                    None => write!(f, " |")?,
                }
            }
            writeln!(f, " {:.0} |", 1e3 * row.keystroke_s)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::hardware::MACHINES;

    /// 64 experts of 1.67 MB, eight layers, as on the first machine.
    fn sizes() -> Sizes {
        Sizes {
            trunk_bytes: 600_000_000,
            lookup_bytes: 0,
            head_bytes: 100_000_000,
            head_weights: 100_000_000,
            token_weights: 500_000_000 + 8 * 4 * (3 << 20),
            kernels: 152,
            layers: vec![LayerHeader { experts: 64, top_k: 4, record_bytes: 1_671_168 }; 8],
            expert_weights: 3 << 20,
            cold_bytes: 0,
        }
    }

    fn subject(sizes: &Sizes) -> Subject<'_> {
        let host_tables = HostTables::None;
        Subject { sizes, pair: MACHINES[0].rates, host_tables, rows_max: 512 }
    }

    #[test]
    fn with_all_experts_in_slots_a_token_takes_what_the_gpu_reads() {
        let sizes = sizes();
        let drawn = Drawn::new(Routing::Uniform, 1.0, sizes.layers[0]);
        let ideal = Subject { pair: subject(&sizes).pair.ideal(), ..subject(&sizes) };
        let row = drawn.row(ideal, 64).unwrap();
        let bytes = 600e6 + 8.0 * 4.0 * 1_671_168.0;
        assert_eq!((row.hit_rate, row.link_bytes, row.cpu_bytes), (1.0, 0.0, 0.0));
        let expected = MACHINES[0].rates.gpu.weights_per_s / bytes;
        assert!((row.tokens_per_s / expected - 1.0).abs() < 1e-6, "{row:?}");
        assert!((row.of_ideal - 1.0).abs() < 1e-6 && (row.gpu_bytes / bytes - 1.0).abs() < 1e-6);
    }

    #[test]
    fn a_head_that_stays_takes_the_memory_of_the_host() {
        let sizes = sizes();
        let drawn = Drawn::new(Routing::Uniform, 1.0, sizes.layers[0]);
        let subject = Subject { pair: subject(&sizes).pair.ideal(), ..subject(&sizes) };
        let row = |host_tables| drawn.row(Subject { host_tables, ..subject }, 64).unwrap();
        let (all, stays) = (row(HostTables::Embedding), row(HostTables::All));
        let expected = 100e6 * (1.0 / subject.pair.cpu.weights_per_s - 1.0 / subject.pair.gpu.weights_per_s);
        let found = 1.0 / stays.tokens_per_s - 1.0 / all.tokens_per_s;
        assert!((found / expected - 1.0).abs() < 1e-6, "{stays:?}, {all:?}");
        assert!((all.gpu_bytes - stays.gpu_bytes - 100e6).abs() < 1.0, "{stays:?}, {all:?}");
    }

    #[test]
    fn with_few_slots_a_token_takes_what_the_memory_of_the_host_gives() {
        let sizes = sizes();
        let drawn = Drawn::new(Routing::Uniform, 1.0, sizes.layers[0]);
        let pair = subject(&sizes).pair.ideal();
        let row = drawn.row(Subject { pair, ..subject(&sizes) }, 4).unwrap();
        assert!(row.hit_rate < 0.15, "{row:?}");
        let missed = row.link_bytes + row.cpu_bytes;
        let expected = 1.0 / (600e6 / pair.gpu.weights_per_s + missed / pair.gpu.memory_per_s);
        // Whole experts cannot be divided as the rates want it.
        assert!((row.tokens_per_s / expected - 1.0).abs() < 0.25, "{row:?}: {expected}");
    }

    #[test]
    fn more_slots_make_more_hits_and_tokens() {
        let sizes = sizes();
        let drawn = Drawn::new(Routing::Text, 1.0, sizes.layers[0]);
        let rows: Vec<Row> =
            [4, 12, 24, 40, 64].map(|slots| drawn.row(subject(&sizes), slots).unwrap()).into();
        for pair in rows.windows(2) {
            assert!(pair[0].hit_rate < pair[1].hit_rate, "{rows:?}");
            assert!(pair[0].tokens_per_s < pair[1].tokens_per_s * 1.02, "{rows:?}");
            assert!(pair[0].keystroke_s * 1.02 > pair[1].keystroke_s, "{rows:?}");
        }
        for row in &rows {
            assert!(row.of_ideal <= 1.0 + 1e-9, "{row:?}");
            assert!(row.prompts_s.windows(2).all(|pair| pair[0] < pair[1]), "{row:?}");
        }
    }

    #[test]
    fn slots_or_routing_are_found_that_hit_as_often_as_is_wanted() {
        let sizes = sizes();
        let rows = run(subject(&sizes), 12, &Routed::Drawn(Routing::Text)).unwrap();
        let (by_slots, rest) = rows.split_at(HIT_RATES.len());
        let (fits, varied) = rest.split_first().unwrap();
        assert_eq!((fits.slots, fits.wanted, varied.len()), (12, None, VARIED_HIT_RATES.len()));
        let drawn = Drawn::new(Routing::Text, 1.0, sizes.layers[0]);
        for row in &by_slots[1..] {
            let fewer = drawn.row(subject(&sizes), row.slots - 1).unwrap();
            assert!(row.hit_rate >= row.wanted.unwrap() && fewer.hit_rate < row.wanted.unwrap(), "{row:?}");
        }
        for (row, wanted) in varied.iter().zip(VARIED_HIT_RATES) {
            assert!((row.hit_rate - wanted).abs() <= HIT_RATE_ERROR && row.slots == 12, "{row:?}");
        }
        assert!(varied.windows(2).all(|pair| pair[0].spread > pair[1].spread), "{varied:?}");
        assert!(varied.windows(2).all(|pair| pair[0].tokens_per_s < pair[1].tokens_per_s), "{varied:?}");
        // All have slots.
        assert_eq!(
            run(subject(&sizes), 64, &Routed::Drawn(Routing::Text)).unwrap().len(),
            HIT_RATES.len() + 1
        );
    }

    #[test]
    fn a_trace_is_replayed_on_the_model_that_it_is_of() {
        let sizes = sizes();
        let requests = crate::bench::routing::requests(Routing::Text, sizes.layers[0], 8, 4);
        let rows = run(subject(&sizes), 16, &Routed::Recorded(&requests.trace)).unwrap();
        assert!(rows.len() == 1 && rows[0].hit_rate > 0.25 && rows[0].keystroke_s > 0.0, "{rows:?}");
        let other = Sizes { layers: sizes.layers[..4].to_vec(), ..sizes.clone() };
        let error = run(subject(&other), 16, &Routed::Recorded(&requests.trace)).unwrap_err();
        assert!(error.to_string().contains("the trace is of 8 layers"), "{error}");
        let dense = Sizes { layers: Vec::new(), ..sizes };
        assert!(run(subject(&dense), 16, &Routed::Drawn(Routing::Text)).is_err());
    }
}
