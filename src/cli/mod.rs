//! The command line: arguments and one file for each subcommand.

mod args;
mod bench;
mod complete;
mod config;
mod generate;
mod lsp;
mod quantize;
mod score;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

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
    Lsp(lsp::Args),
}

/// Runs the program: 0 on success, 1 with a message on stderr, 2 for wrong usage.
pub fn run() -> ExitCode {
    let cli = Cli::parse();
    crate::base::logging::start();
    let result = match &cli.command {
        Command::Complete(args) => complete::run(args),
        Command::Generate(args) => generate::run(args),
        Command::Score(args) => score::run(args),
        Command::Quantize(args) => quantize::run(args),
        Command::Config(args) => config::run(args),
        Command::Bench(args) => bench::run(args),
        Command::Lsp(args) => lsp::run(args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fimd: {error:#}");
            ExitCode::FAILURE
        }
    }
}
