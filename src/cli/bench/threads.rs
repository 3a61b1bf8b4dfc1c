//! `fimd bench threads`: how the speed of a model grows with the number of threads.

use std::thread;

use anyhow::Result;

use super::{existing, spinner};
use crate::base::cores::Cores;
use crate::bench::threads::{self, Workload};
use crate::cli::args::{self, EngineArgs};

/// Decoding is bound by memory, which a few threads use up; prompts are bound by arithmetic. The last line says from
/// which number of threads on more of them hardly help.
#[derive(clap::Args)]
pub(super) struct ThreadsArgs {
    /// Numbers of threads [default: 1, 2, 4 and so on, the cores, and --threads or all that can run at once]
    #[arg(long, value_name = "N", value_delimiter = ',', value_parser = clap::value_parser!(u16).range(1..=1024))]
    counts: Vec<u16>,

    /// Tokens of the prompt
    #[arg(long, value_name = "TOKENS", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..))]
    prompt: u32,

    /// Tokens to decode
    #[arg(long, value_name = "TOKENS", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..))]
    generate: u32,

    /// Repetitions of each measurement; medians are shown
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    runs: u16,

    /// Print one JSON object
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    engine: EngineArgs,
}

pub(super) fn run(args: &ThreadsArgs) -> Result<()> {
    let (model, subject, _) = existing(&args.engine)?;
    let counts = if args.counts.is_empty() {
        let most = args.engine.compute.threads.map(usize::from);
        let most = most.unwrap_or_else(|| thread::available_parallelism().map_or(1, usize::from));
        counts(Cores::read().threads(), most)
    } else {
        args.counts.iter().copied().map(usize::from).collect()
    };
    let workload = Workload {
        counts,
        prompt: args.prompt as usize,
        generate: args.generate as usize,
        runs: args.runs.into(),
    };
    let (status, say) = spinner();
    let open = |threads| args.engine.open_layers_with(model.as_deref(), subject.layers, threads);
    let report = threads::run(subject.clone(), args.engine.compute.kernels(), &workload, open, &say)?;
    status.finish_and_clear();
    if args.json { args::print_json(&report) } else { args::print(&report.to_string()) }
}

/// Powers of two up to `most`, `most` itself and, if it is less, `cores`.
fn counts(cores: usize, most: usize) -> Vec<usize> {
    let powers = (0..).map(|power| 1 << power).take_while(|&count| count < most);
    let mut counts: Vec<usize> = powers.chain([cores.min(most), most]).collect();
    counts.sort_unstable();
    counts.dedup();
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_go_to_the_most() {
        for (cores, most, expected) in
            [(1, 1, &[1][..]), (2, 2, &[1, 2]), (6, 12, &[1, 2, 4, 6, 8, 12]), (8, 3, &[1, 2, 3])]
        {
            assert_eq!(counts(cores, most), expected);
        }
    }
}
