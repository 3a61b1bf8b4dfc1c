//! `fimd score`: how well a model predicts a text.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Result, bail, ensure};
use serde_json::json;

use super::args::{self, EngineArgs};
use crate::base::Timings;
use crate::base::timings::milliseconds;
use crate::decode::sample::log_softmax;
use crate::model::Tokenizer;

/// Scores every token but the first, in windows of the context length. Each window after the first begins with
/// the last half of the one before, which is context only: a token is scored once.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  fimd score --text-file src/main.rs
  fimd score --text-file src/main.rs --model model.gguf --json")]
pub(super) struct Args {
    #[command(flatten)]
    input: Input,

    /// Report the log-probability of every scored token (with --json)
    #[arg(long, requires = "json")]
    logprobs: bool,

    /// Print one JSON object
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    engine: EngineArgs,
}

#[derive(clap::Args)]
#[group(required = true, multiple = false)]
struct Input {
    /// A UTF-8 file
    #[arg(long, value_name = "FILE")]
    text_file: Option<PathBuf>,

    /// Token ids instead of text: needs no tokenizer
    #[arg(long, value_name = "IDS", value_parser = args::parse_ids)]
    ids: Option<std::vec::Vec<u32>>,
}

pub(super) fn run(args: &Args) -> Result<()> {
    let mut opened = args.engine.open()?;
    let tokens = match (&args.input.text_file, &args.input.ids) {
        (Some(file), _) => opened.tokenizer()?.encode(&args::read_text(file)?),
        (_, ids) => ids.clone().unwrap_or_default(),
    };
    ensure!(tokens.len() > 1, "scoring needs at least two tokens; this is {}", tokens.len());
    let window = opened.session.context();
    ensure!(window > 1, "scoring needs a context of at least two tokens");
    let overlap = window / 2;
    let tokenizer = opened.tokenizer.as_ref().filter(|_| args.input.text_file.is_some());

    let started = Instant::now();
    let (mut logprobs, mut evaluated, mut start) = (Vec::with_capacity(tokens.len() - 1), 0, 0);
    loop {
        let end = tokens.len().min(start + window);
        let first = if start == 0 { 1 } else { start + overlap };
        opened.session.for_each_logits(&tokens[start..end], |i, logits| {
            let next = start + i + 1;
            if (first..end).contains(&next) {
                logprobs.push(logprob(tokenizer, logits, tokens[next]));
            }
        })?;
        evaluated += end - start;
        if end == tokens.len() {
            break;
        }
        start = end - overlap;
    }
    let nll: f64 = logprobs.iter().map(|&logprob| -f64::from(logprob)).sum();
    if nll.is_nan() {
        bail!("the model produced NaN logits: its weights hold NaN or overflow");
    }

    let scored = tokens.len() - 1;
    let bytes = tokenizer.map(|tokenizer| {
        let lengths = tokens[1..].iter().map(|&id| tokenizer.token_bytes(id).map_or(0, <[u8]>::len));
        lengths.sum::<usize>()
    });
    let bits_per_byte = bytes.map(|bytes| nll / std::f64::consts::LN_2 / bytes as f64);
    let timings = Timings {
        load_ms: opened.info.load_ms,
        prefill_tokens: evaluated,
        prefill_ms: milliseconds(started.elapsed()),
        ..Timings::default()
    };
    if args.json {
        return args::print_json(&json!({
            "tokens": tokens.len(),
            "mean_nll": nll / scored as f64,
            "bits_per_byte": bits_per_byte,
            "logprobs": args.logprobs.then_some(logprobs),
            "window": window,
            "overlap": overlap,
            "timings": timings,
        }));
    }
    let bits = bits_per_byte.map_or_else(String::new, |bits| format!("{bits:.4} bits per byte\n"));
    args::print(&format!(
        "{} tokens, mean negative log-likelihood {:.4}\n{bits}windows of {window} tokens, {overlap} of overlap; {:.0} tokens/s\n",
        tokens.len(),
        nll / scored as f64,
        timings.prefill_per_second()
    ))
}

fn logprob(tokenizer: Option<&Tokenizer>, logits: &[f32], token: u32) -> f32 {
    let mut logits = logits.to_vec();
    if let Some(tokenizer) = tokenizer {
        tokenizer.mask(&mut logits);
    }
    log_softmax(&mut logits);
    logits[token as usize]
}
