//! `fimd bench batch`: what several tokens at once cost beside one.

use anyhow::Result;

use super::{existing, spinner};
use crate::bench::batch::{self, Workload};
use crate::bench::speed::Engine;
use crate::cli::args::{self, EngineArgs};

/// Drafts and keystrokes evaluate a few tokens at once. Where memory limits the speed, these take hardly longer than
/// one: this measures how much longer, for the layers alone and with the logits after each token.
#[derive(clap::Args)]
pub(super) struct BatchArgs {
    /// Numbers of tokens, measured beside one
    #[arg(long, value_name = "TOKENS", value_delimiter = ',', default_value = "2,3,4,8", value_parser = clap::value_parser!(u32).range(1..=512))]
    tokens: Vec<u32>,

    /// Tokens before them
    #[arg(long, value_name = "TOKENS", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    prompt: u32,

    /// Repetitions of each measurement; medians are shown
    #[arg(long, value_name = "N", default_value_t = 9, value_parser = clap::value_parser!(u16).range(1..))]
    runs: u16,

    /// Print one JSON object
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    engine: EngineArgs,
}

pub(super) fn run(args: &BatchArgs) -> Result<()> {
    let (model, subject, _) = existing(&args.engine)?;
    let workload = Workload {
        sizes: args.tokens.iter().map(|&tokens| tokens as usize).collect(),
        context: args.prompt as usize,
        runs: args.runs.into(),
    };
    let (status, say) = spinner();
    let session = args.engine.open_layers(model.as_deref(), subject.layers)?;
    let compute = &args.engine.compute;
    let engine = Engine { threads: compute.threads(), kernels: compute.kernels(), gpu: None };
    let report = batch::run(session, subject, &workload, engine, &say)?;
    status.finish_and_clear();
    if args.json { args::print_json(&report) } else { args::print(&report.to_string()) }
}
