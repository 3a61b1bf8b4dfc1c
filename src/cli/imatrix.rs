//! `fimd imatrix`: the importance matrix of a model.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use indicatif::{ProgressBar, ProgressStyle};

use super::args::{self, ComputeArgs};
use crate::hub::{self, importance};
use crate::model::Tokenizer;

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  fimd imatrix --model coder-bf16.gguf --text src/main.rs --text src/lib.rs -o coder.imatrix
  fimd quantize coder-bf16.gguf coder.gguf --mix iq3_m --imatrix coder.imatrix")]
pub(super) struct Args {
    /// Checkpoint folder, .safetensors or .gguf file [default: the built-in starter model]
    #[arg(long, value_name = "PATH")]
    model: Option<PathBuf>,

    /// A UTF-8 file; may be given several times
    #[arg(long, value_name = "FILE", required = true)]
    text: Vec<PathBuf>,

    /// Output file, written atomically
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,

    /// Tokens that are evaluated together, from an empty context
    #[arg(long, value_name = "TOKENS", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..=4096))]
    chunk: u32,

    /// Replace the output if it exists
    #[arg(long)]
    force: bool,

    #[command(flatten)]
    compute: ComputeArgs,
}

pub(super) fn run(args: &Args) -> Result<()> {
    let output = args.output.display();
    ensure!(args.force || !args.output.exists(), "{output} exists; --force replaces it");
    let dir = hub::open(args.model.as_deref())?;
    let tokenizer = Tokenizer::read(&dir)?;
    let tokenizer = tokenizer.with_context(|| format!("{} has no tokenizer", dir.origin()))?;
    let mut tokens = Vec::new();
    for text in &args.text {
        tokens.extend(tokenizer.encode(&args::read_text(text)?));
    }
    let progress = progress_bar(tokens.len());
    let options = args.compute.spec().cpu();
    let chunk = args.chunk as usize;
    let importance = importance::record(&dir, &tokens, chunk, options, |count| progress.inc(count as u64))?;
    progress.finish_and_clear();
    let texts: Vec<String> = args.text.iter().map(|text| text.display().to_string()).collect();
    importance.write(&args.output, &texts, tokens.len().div_ceil(chunk) as u32, args.chunk)?;
    let (tensors, partial) = (importance.tensors.len(), importance.unvisited());
    let note = if partial > 0 {
        format!("; {partial} experts met no token, and all their columns count alike: give more text")
    } else {
        String::new()
    };
    args::print(&format!("{output} holds {tensors} tensors, from {} tokens{note}\n", tokens.len()))
}

/// On stderr, and only if that is a terminal.
fn progress_bar(tokens: usize) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} tokens, {eta} left")
        .expect("the template is well formed");
    ProgressBar::new(tokens as u64).with_style(style)
}
