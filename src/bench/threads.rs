//! `fimd bench threads`: how the speed of a model grows with the number of threads.

use std::fmt::{self, Display, Formatter};

use anyhow::Result;
use serde::Serialize;

use super::fit::Spread;
use super::machine::{self, Machine};
use super::report::Subject;
use super::speed;
use super::synthetic::Routing;
use crate::base::cores::Cores;
use crate::compute::Backend;
use crate::session::Session;

/// Options of the benchmark.
#[derive(Clone, Debug)]
pub struct Workload {
    /// Numbers of threads, at least one.
    pub counts: Vec<usize>,
    /// Tokens of the prompt.
    pub prompt: usize,
    /// Tokens to decode, at least one.
    pub generate: usize,
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
    /// Cores for performance, and slower ones.
    pub cores: [usize; 2],
    /// SIMD level of the kernels.
    pub kernels: String,
    pub model: Subject,
    /// Tokens of the prompt.
    pub prompt: usize,
    /// Repetitions of each measurement.
    pub runs: usize,
    /// By the number of threads.
    pub speeds: Vec<Speed>,
    /// The fewest threads that reach nearly the best speed of a prompt, and of decoding.
    pub knees: [usize; 2],
}

/// The speed with some number of threads.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Speed {
    pub threads: usize,
    pub prefill_tokens_per_s: Spread,
    pub decode_tokens_per_s: Spread,
    /// What they read from memory, in GB/s.
    pub memory_gb_per_s: f64,
}

/// The share of the best speed that counts as nearly all of it.
const NEARLY: f64 = 0.95;

/// Measures the model that `open` opens with a number of threads. `say` reports progress.
pub fn run<B: Backend>(
    subject: Subject,
    kernels: String,
    workload: &Workload,
    open: impl Fn(usize) -> Result<Session<B>>,
    say: &dyn Fn(String),
) -> Result<Report> {
    let mut speeds = Vec::new();
    for &threads in &workload.counts {
        say(format!("{threads} threads"));
        let mut session = open(threads)?;
        let tokens = Routing::Uniform.tokens(session.model().config().vocab);
        let (prompt, continuation) = (tokens.take(0, workload.prompt), tokens.take(0, workload.generate + 1));
        let (mut prefill, mut decode) = (Vec::new(), Vec::new());
        // The first run reads the weights into memory.
        for run in 0..=workload.runs {
            let ms =
                (speed::prefill_ms(&mut session, &prompt)?, speed::decode_ms(&mut session, &continuation)?);
            if run > 0 {
                prefill.push(ms.0);
                decode.push(ms.1);
            }
        }
        speeds.push(Speed {
            threads,
            prefill_tokens_per_s: Spread::of(prefill).rate(1e3 * workload.prompt as f64),
            decode_tokens_per_s: Spread::of(decode).rate(1e3),
            memory_gb_per_s: machine::bandwidth(threads) / 1e9,
        });
    }
    let Cores { performance, efficiency } = Cores::read();
    Ok(Report {
        version: env!("CARGO_PKG_VERSION"),
        machine: Machine::read(),
        cores: [performance, efficiency],
        kernels,
        model: subject,
        prompt: workload.prompt,
        runs: workload.runs,
        knees: [
            knee(&speeds, |speed| speed.prefill_tokens_per_s.median),
            knee(&speeds, |speed| speed.decode_tokens_per_s.median),
        ],
        speeds,
    })
}

/// The fewest threads that reach nearly the best speed.
fn knee(speeds: &[Speed], rate: impl Fn(&Speed) -> f64) -> usize {
    let best = speeds.iter().map(&rate).fold(0.0, f64::max);
    let reaching = speeds.iter().filter(|speed| rate(speed) >= NEARLY * best);
    reaching.map(|speed| speed.threads).min().unwrap_or(1)
}

/// Markdown.
impl Display for Report {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        let Self { model, machine, cores: [performance, efficiency], kernels, prompt, runs, .. } = self;
        writeln!(f, "{}, {} layers", model.name, model.layers)?;
        write!(f, "{}, {performance} cores", machine.cpu)?;
        if *efficiency > 0 {
            write!(f, " for performance and {efficiency} slower ones")?;
        }
        writeln!(f, ", {kernels} kernels, {runs} runs\n")?;
        writeln!(f, "| threads | prefill of {prompt}, tokens/s | decode, tokens/s | memory, GB/s |")?;
        writeln!(f, "|---:|---:|---:|---:|")?;
        for Speed { threads, prefill_tokens_per_s, decode_tokens_per_s, memory_gb_per_s } in &self.speeds {
            let spread =
                |speed: &Spread| format!("{:.1} ({:.1} to {:.1})", speed.median, speed.min, speed.max);
            writeln!(
                f,
                "| {threads} | {} | {} | {memory_gb_per_s:.1} |",
                spread(prefill_tokens_per_s),
                spread(decode_tokens_per_s)
            )?;
        }
        let [prefill, decode] = self.knees;
        writeln!(f, "\nMore than {prefill} threads hardly make prompts faster, more than {decode} decoding.")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_knee_is_the_fewest_threads_that_are_nearly_best() {
        for (rates, expected) in [
            (&[10.0][..], 1),
            (&[10.0, 20.0, 30.0], 3),
            (&[10.0, 19.0, 19.5, 18.0], 2),
            (&[10.0, 19.0, 20.0, 20.1], 3),
            (&[10.0, 5.0], 1),
        ] {
            let speed = |(i, &rate): (usize, &f64)| {
                let rate = Spread { median: rate, min: rate, max: rate };
                Speed {
                    threads: i + 1,
                    prefill_tokens_per_s: rate,
                    decode_tokens_per_s: rate,
                    memory_gb_per_s: 1.0,
                }
            };
            let speeds: Vec<Speed> = rates.iter().enumerate().map(speed).collect();
            assert_eq!(knee(&speeds, |speed| speed.decode_tokens_per_s.median), expected, "{rates:?}");
        }
    }
}
