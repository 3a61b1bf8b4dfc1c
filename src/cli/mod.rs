//! The command line: arguments and one file for each subcommand.

mod args;
mod bench;
mod complete;
mod completions;
mod config;
mod daemon;
mod doctor;
mod generate;
mod guard;
mod guide;
mod imatrix;
mod load;
mod log;
mod lsp;
mod message;
mod models;
mod overview;
mod pause;
mod plan;
mod planner;
mod pull;
mod quantize;
mod score;
mod status;
mod stop;
mod use_model;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::base::{crash, logging};

/// Log level of commands, unless `FIMD_LOG` overrides it.
const LOG_LEVEL: &str = "warn";

/// Private code completion on your own machine.
///
/// Without a subcommand it says what runs and what to do next. Without --model or a setting, a small built-in starter
/// model is used.
#[derive(Parser)]
#[command(name = "fimd", version)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Complete at a position in a file and show the ghost text
    Complete(complete::Args),
    /// Continue a prompt
    Generate(generate::Args),
    /// Measure how well a model predicts a text
    Score(score::Args),
    /// Quantise a checkpoint to a GGUF file
    ///
    /// Types: f32, f16, bf16, q8_0, q6_k, q5_k, q5_0, q5_1, q4_k, q4_0, q4_1, iq4_nl, iq4_xs, mxfp4, q3_k, iq3_s, q2_k,
    /// iq2_s. Norms, convolutions, the router and other small tensors stay f32. A tensor whose rows are not a multiple of the block size takes the
    /// next best type, and --report shows it. A tensor that keeps its type is copied bit for bit.
    Quantize(quantize::Args),
    /// Record an importance matrix: which columns of a model's matrices matter most for a text
    ///
    /// `fimd quantize --imatrix` then makes the errors smaller there, which helps types of 2 and 3 bits most. The text
    /// should be what the model is used for, in its languages; 50,000 tokens are plenty for a dense model, a mixture of
    /// experts needs more. The file is in llama.cpp's format.
    Imatrix(imatrix::Args),
    /// Download a model from Hugging Face
    ///
    /// It is stored in the cache that other tools of the hub share (HF_HOME), and its checksum is verified. An
    /// interrupted download resumes when the command is repeated. HF_ENDPOINT names another server, HF_TOKEN a token
    /// for restricted models.
    #[command(after_help = "\
Examples:
  fimd pull qwen2.5-coder-1.5b
  fimd pull unsloth/Qwen3.5-9B-GGUF:Q5_K_M
  fimd pull Qwen/Qwen2.5-Coder-0.5B")]
    Pull(pull::Args),
    /// List recommended models: size, speed to expect on this machine, which are on disk
    ///
    /// The speed is an upper bound: memory bandwidth divided by the bytes of weights that a token reads.
    Models(models::Args),
    /// Show what of a model fits in memory, and the speed that this machine allows
    Plan(plan::Args),
    /// Make a model on disk the default, now and after a restart
    #[command(after_help = "\
Examples:
  fimd use qwen2.5-coder-1.5b
  fimd use ./model.gguf
  fimd use starter")]
    Use(use_model::Args),
    /// Show the effective settings and their sources; `set` changes one
    Config(config::Args),
    /// Run benchmarks on this machine
    Bench(bench::Args),
    /// Serve an editor over stdin and stdout (Language Server Protocol)
    ///
    /// All editors of a user share one daemon, which the first one starts if needed.
    Lsp(lsp::Args),
    /// Run the daemon that holds the model for all editors of this user; editors start it themselves
    Daemon(daemon::Args),
    /// Show daemon status
    Status(status::Args),
    /// Check this machine, the daemon, the model, editors and settings, and say what to do about problems
    ///
    /// Each line begins with ✓, with ! where something could be better, or with ✗ where it must be corrected; the exit
    /// code is then 1.
    Doctor(doctor::Args),
    /// Show the end of the daemon's log
    Log(log::Args),
    /// Shut the daemon down; editors that are open do not start it again
    Stop,
    /// Swap the daemon's model until it ends; starts the daemon if none runs
    Load(load::Args),
    /// Pause completion
    Pause(pause::Args),
    /// Resume completion
    Resume,
    /// Print a page of the guide, or list its topics
    Guide(guide::Args),
    /// Print a shell completion script
    Completions(completions::Args),
    /// Print the manual page
    Man(completions::ManArgs),
}

/// Runs the program. Exit code: 0 on success, 1 on an error, 2 on invalid usage.
pub fn run() -> ExitCode {
    crash::forbid_dumps();
    crash::name_signals();
    let cli = Cli::parse();
    let started = match &cli.command {
        Some(Command::Daemon(args)) => args.start_logging(),
        _ => logging::start(logging::Target::Stderr, LOG_LEVEL),
    };
    let result = started.and_then(|()| match &cli.command {
        Some(command) => dispatch(command),
        None => overview::run(),
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            message::error(&error);
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
        Command::Imatrix(args) => imatrix::run(args),
        Command::Pull(args) => pull::run(args),
        Command::Models(args) => models::run(args),
        Command::Plan(args) => plan::run(args),
        Command::Use(args) => use_model::run(args),
        Command::Config(args) => config::run(args),
        Command::Bench(args) => bench::run(args),
        Command::Lsp(args) => lsp::run(args),
        Command::Daemon(args) => daemon::run(args),
        Command::Status(args) => status::run(args),
        Command::Doctor(args) => doctor::run(args),
        Command::Log(args) => log::run(args),
        Command::Stop => stop::run(),
        Command::Load(args) => load::run(args),
        Command::Pause(args) => pause::run(args),
        Command::Resume => pause::resume(),
        Command::Guide(args) => guide::run(args),
        Command::Completions(args) => completions::run(args),
        Command::Man(args) => completions::man(args),
    }
}
