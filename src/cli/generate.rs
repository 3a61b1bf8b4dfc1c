//! `fimd generate`: continue a prompt.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use serde_json::json;

use super::args::{self, EngineArgs};
use crate::base::Cancel;
use crate::decode::drafts::Pace;
use crate::decode::sample::Sampling;
use crate::decode::{self, Task};

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    prompt: Prompt,

    /// Most tokens to generate
    #[arg(long, value_name = "N", default_value_t = 128)]
    max_tokens: usize,

    /// 0 takes the likeliest token; higher values draw more freely
    #[arg(long, value_name = "T", default_value_t = 0.0, value_parser = temperature)]
    temperature: f32,

    /// Draw from the K likeliest tokens only; 0 for all
    #[arg(long, value_name = "K", default_value_t = 0)]
    top_k: usize,

    /// Draw from the likeliest tokens that reach this probability together
    #[arg(long, value_name = "P", default_value_t = 1.0, value_parser = probability)]
    top_p: f32,

    /// Seed of the draws
    #[arg(long, value_name = "S", default_value_t = 0)]
    seed: u64,

    /// Go on past the tokens that end a text
    #[arg(long)]
    ignore_eos: bool,

    /// Report the K likeliest tokens at each position (with --json)
    #[arg(long, value_name = "K", default_value_t = 0)]
    top_logprobs: usize,

    /// Print one JSON object
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    engine: EngineArgs,
}

#[derive(clap::Args)]
#[group(required = true, multiple = false)]
struct Prompt {
    /// The prompt; special tokens such as <|fim_prefix|> may be written out
    #[arg(long = "prompt", value_name = "TEXT")]
    text: Option<String>,

    /// A file that holds the prompt
    #[arg(long = "prompt-file", value_name = "FILE")]
    file: Option<PathBuf>,

    /// Token ids instead of text: needs no tokenizer
    #[arg(long, value_name = "IDS", value_parser = args::parse_ids)]
    ids: Option<std::vec::Vec<u32>>,
}

pub fn run(args: &Args) -> Result<()> {
    let mut opened = args.engine.open()?;
    let prompt = match (&args.prompt.text, &args.prompt.file, &args.prompt.ids) {
        (Some(text), _, _) => opened.tokenizer()?.encode_with_specials(text),
        (_, Some(file), _) => opened.tokenizer()?.encode_with_specials(&args::read_text(file)?),
        (_, _, ids) => ids.clone().unwrap_or_default(),
    };
    ensure!(!prompt.is_empty(), "the prompt is empty: give at least one token");
    let stop_ids = match &opened.tokenizer {
        Some(tokenizer) if !args.ignore_eos => tokenizer.stop_ids(),
        _ => Vec::new(),
    };
    let task = Task {
        sampling: Sampling {
            temperature: args.temperature,
            top_k: args.top_k,
            top_p: args.top_p,
            seed: args.seed,
        },
        stop_ids,
        top_logprobs: args.top_logprobs,
        ..Task::greedy(prompt, args.max_tokens)
    };
    let cancel = Cancel::new();
    let mut printed = Ok(());
    let mut show = |text: &str| {
        if !args.json && printed.is_ok() {
            printed = args::print(text);
            if printed.is_err() {
                cancel.cancel();
            }
        }
    };
    let tokenizer = opened.tokenizer.as_ref();
    let mut generated =
        decode::generate(&mut opened.session, tokenizer, &task, &mut Pace::default(), &cancel, &mut show)?;
    printed?;
    generated.timings.load_ms = opened.facts.load_ms;

    if args.json {
        return args::print_json(&json!({
            "prompt_ids": task.prompt,
            "ids": generated.ids,
            "text": tokenizer.map(|_| &generated.text),
            "logprobs": generated.logprobs,
            "top_logprobs": generated.top_logprobs,
            "stop": generated.stop,
            "drafts": { "guessed": generated.guessed, "accepted": generated.accepted },
            "timings": generated.timings,
        }));
    }
    if tokenizer.is_none() {
        let ids: Vec<String> = generated.ids.iter().map(u32::to_string).collect();
        args::print(&ids.join(","))?;
    }
    args::print("\n")
}

fn temperature(text: &str) -> Result<f32, String> {
    number(text, 0.0..=100.0)
}

fn probability(text: &str) -> Result<f32, String> {
    number(text, 0.0..=1.0)
}

fn number(text: &str, range: std::ops::RangeInclusive<f32>) -> Result<f32, String> {
    let value = text.parse().map_err(|_| "not a number".to_owned())?;
    if range.contains(&value) {
        Ok(value)
    } else {
        Err(format!("must lie between {} and {}", range.start(), range.end()))
    }
}
