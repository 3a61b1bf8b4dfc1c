//! The command line: arguments and one file for each subcommand.

mod args;
mod bench;
mod complete;
mod completions;
mod config;
mod daemon;
mod generate;
mod load;
mod lsp;
mod pause;
mod quantize;
mod score;
mod status;
mod stop;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::base::logging;

/// What commands log unless `FIMD_LOG` says otherwise.
const LOG_LEVEL: &str = "warn";

/// Private code completion on your own machine.
///
/// Without --model, a small starter model that is part of the program answers.
#[derive(Parser)]
#[command(name = "fimd", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Complete a place in a file and show it as ghost text
    Complete(complete::Args),
    /// Continue a prompt
    Generate(generate::Args),
    /// Measure how well a model predicts a text
    Score(score::Args),
    /// Write a checkpoint as a GGUF file, in fewer bits
    ///
    /// Types: f32, f16, bf16, q8_0, q6_k, q5_k, q5_0, q4_k, q4_0, iq4_nl, iq4_xs, mxfp4. Norms, convolutions, the
    /// router and other small tensors stay f32. A tensor whose rows are no whole number of blocks takes the next
    /// best type, and --report says so. A tensor that keeps its type is copied bit for bit.
    Quantize(quantize::Args),
    /// Show the settings, and where each came from
    Config(config::Args),
    /// Measure how fast things are on this machine
    Bench(bench::Args),
    /// Serve an editor over stdin and stdout (Language Server Protocol)
    ///
    /// All editors of a user share one daemon, which the first one starts.
    Lsp(lsp::Args),
    /// Hold the model for all editors of this user; they start it themselves when they need it
    Daemon(daemon::Args),
    /// Say how the daemon is doing
    Status(status::Args),
    /// End the daemon; editors that are open do not start it again
    Stop,
    /// Have the daemon serve another model
    Load(load::Args),
    /// Show no completions for a while
    Pause(pause::Args),
    /// End a pause
    Resume,
    /// Print a script that completes the arguments of fimd in a shell
    Completions(completions::Args),
    /// Print the manual page
    Man(completions::ManArgs),
}

/// Runs the program: 0 on success, 1 with a message on stderr, 2 for wrong usage.
pub fn run() -> ExitCode {
    let cli = Cli::parse();
    let started = match &cli.command {
        Command::Daemon(args) => args.start_logging(),
        _ => logging::start(logging::Target::Stderr, LOG_LEVEL),
    };
    let result = started.and_then(|()| dispatch(&cli.command));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fimd: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(command: &Command) -> Result<()> {
    match command {
        Command::Complete(args) => complete::run(args),
        Command::Generate(args) => generate::run(args),
        Command::Score(args) => score::run(args),
        Command::Quantize(args) => quantize::run(args),
        Command::Config(args) => config::run(args),
        Command::Bench(args) => bench::run(args),
        Command::Lsp(args) => lsp::run(args),
        Command::Daemon(args) => daemon::run(args),
        Command::Status(args) => status::run(args),
        Command::Stop => stop::run(),
        Command::Load(args) => load::run(args),
        Command::Pause(args) => pause::run(args),
        Command::Resume => pause::resume(),
        Command::Completions(args) => completions::run(args),
        Command::Man(args) => completions::man(args),
    }
}
