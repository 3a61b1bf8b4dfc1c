//! `fimd bench batch`: what several tokens at once cost beside one, as drafts are evaluated.

use std::fmt::{self, Display, Formatter};
use std::time::Instant;

use anyhow::{Result, ensure};
use serde::Serialize;

use super::fit::Spread;
use super::machine::Machine;
use super::report::Subject;
use super::speed::Engine;
use super::synthetic::Routing;
use crate::base::Cancel;
use crate::base::timings::milliseconds;
use crate::compute::Backend;
use crate::compute::logits::{LogitForm, Logits};
use crate::session::Session;

/// Options of the benchmark.
#[derive(Clone, Debug)]
pub struct Workload {
    /// Numbers of tokens; one is measured in any case.
    pub sizes: Vec<usize>,
    /// Tokens before them, at least one.
    pub context: usize,
    /// Repetitions of each measurement, at least one.
    pub runs: usize,
}

/// All figures of a run.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Of fimd.
    pub version: &'static str,
    /// Where it ran.
    pub machine: Machine,
    /// Compute threads.
    pub threads: usize,
    /// SIMD level of the kernels.
    pub kernels: String,
    pub model: Subject,
    /// Repetitions of each measurement.
    pub runs: usize,
    /// By the number of tokens.
    pub batches: Vec<Batch>,
}

/// Several tokens at once.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Batch {
    pub tokens: usize,
    /// Bytes of weights that are read, as a multiple of those of one token; experts are chosen evenly.
    pub weights_ratio: f64,
    /// Milliseconds of the layers alone.
    pub layers_ms: Spread,
    /// Their median as a multiple of that of one token.
    pub layers_ratio: f64,
    /// Milliseconds with the logits after each token, as a draft needs them.
    pub draft_ms: Spread,
    /// Their median as a multiple of that of one token.
    pub draft_ratio: f64,
}

/// Measures the model of `session`, all sizes in turn. `say` reports progress. Fails when all runs together exceed the
/// context.
pub fn run<B: Backend>(
    mut session: Session<B>,
    subject: Subject,
    workload: &Workload,
    engine: Engine,
    say: &dyn Fn(String),
) -> Result<Report> {
    let mut sizes = [&[1], &workload.sizes[..]].concat();
    sizes.sort_unstable();
    sizes.dedup();
    let each: usize = sizes.iter().sum();
    let len = workload.context + 2 * each * (workload.runs + 1);
    ensure!(
        len <= session.context(),
        "{len} tokens exceed the context of {}; name fewer --runs or a larger --context",
        session.context()
    );
    let all = Routing::Uniform.tokens(session.model().config().vocab).take(0, len);
    let (start, mut rest) = all.split_at(workload.context);
    session.sync(start, &[], &Cancel::new())?;
    let (mut layers, mut drafts) = (vec![Vec::new(); sizes.len()], vec![Vec::new(); sizes.len()]);
    // The first run reads the weights into memory.
    for run in 0..=workload.runs {
        say(format!("run {run} of {}", workload.runs));
        for (i, &size) in sizes.iter().enumerate() {
            for (times, has_logits) in [(&mut layers[i], false), (&mut drafts[i], true)] {
                let (tokens, after) = rest.split_at(size);
                let ms = evaluate(&mut session, tokens, has_logits)?;
                if run > 0 {
                    times.push(ms);
                }
                rest = after;
            }
        }
    }
    let weights = session.model().weight_bytes();
    let measured: Vec<_> = sizes
        .into_iter()
        .zip(layers.into_iter().map(Spread::of).zip(drafts.into_iter().map(Spread::of)))
        .collect();
    let (_, (layers_of_one, draft_of_one)) = measured[0];
    let batches = measured.into_iter().map(|(tokens, (layers_ms, draft_ms))| Batch {
        tokens,
        weights_ratio: weights.read_by(tokens) as f64 / weights.read_by(1) as f64,
        layers_ms,
        layers_ratio: layers_ms.median / layers_of_one.median,
        draft_ms,
        draft_ratio: draft_ms.median / draft_of_one.median,
    });
    Ok(Report {
        version: env!("CARGO_PKG_VERSION"),
        machine: Machine::read(),
        threads: engine.threads,
        kernels: engine.kernels,
        model: subject,
        runs: workload.runs,
        batches: batches.collect(),
    })
}

/// Milliseconds to go on by `tokens`, with the logits after each of them or with none.
fn evaluate<B: Backend>(session: &mut Session<B>, tokens: &[u32], has_logits: bool) -> Result<f64> {
    let mut logits = Logits::default();
    let started = Instant::now();
    let synced = match has_logits {
        true => session.evaluate_draft(LogitForm::Top, tokens, &Cancel::new(), &mut logits)?,
        false => session.evaluate_layers(tokens, &Cancel::new())?,
    };
    let ms = milliseconds(started.elapsed());
    assert_eq!(synced.evaluated, tokens.len(), "nothing else was to be evaluated");
    for &token in tokens {
        session.accept(token, Logits::default());
    }
    Ok(ms)
}

/// Markdown.
impl Display for Report {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        let Self { model, machine, threads, kernels, runs, .. } = self;
        writeln!(f, "{}, {} layers", model.name, model.layers)?;
        writeln!(f, "{}, {threads} threads with {kernels} kernels, {runs} runs\n", machine.cpu)?;
        writeln!(
            f,
            "| tokens at once | layers, ms | beside one | with logits, ms | beside one | weights read |"
        )?;
        writeln!(f, "|---:|---:|---:|---:|---:|---:|")?;
        for batch in &self.batches {
            let Batch { tokens, weights_ratio, layers_ms, layers_ratio, draft_ms, draft_ratio } = batch;
            writeln!(
                f,
                "| {tokens} | {:.2} ({:.2} to {:.2}) | {layers_ratio:.2} | {:.2} ({:.2} to {:.2}) | {draft_ratio:.2} | \
                 {weights_ratio:.2} |",
                layers_ms.median, layers_ms.min, layers_ms.max, draft_ms.median, draft_ms.min, draft_ms.max
            )?;
        }
        Ok(())
    }
}
