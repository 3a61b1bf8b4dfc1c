//! `fimd generate`: continue a prompt.

use std::path::PathBuf;

use anyhow::{Result, bail};
use serde_json::json;

use super::args::{self, EngineArgs};
use super::guard;
use crate::base::Cancel;
use crate::config::Configuration;
use crate::daemon::{Client, Generation, Request, Response};
use crate::decode::drafts::DraftCost;
use crate::decode::sample::Sampling;
use crate::decode::{self, Generated};
use crate::privacy::content;

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  fimd generate --prompt 'def add(a, b):'
  fimd generate --prompt-file prompt.txt --max-tokens 64 --temperature 0.7
  fimd generate --ids 1,2,3 --top-logprobs 5 --json")]
pub(super) struct Args {
    #[command(flatten)]
    prompt: Prompt,

    /// Generation limit, in tokens
    #[arg(long, value_name = "N", default_value_t = 128)]
    max_tokens: usize,

    /// 0 is greedy; higher values sample more freely
    #[arg(long, value_name = "T", default_value_t = 0.0, value_parser = temperature)]
    temperature: f32,

    /// Sample from the K likeliest tokens only; 0 for all
    #[arg(long, value_name = "K", default_value_t = 0)]
    top_k: usize,

    /// Sample from the likeliest tokens with this cumulative probability
    #[arg(long, value_name = "P", default_value_t = 1.0, value_parser = probability)]
    top_p: f32,

    /// Random seed
    #[arg(long, value_name = "S", default_value_t = 0)]
    seed: u64,

    /// Ignore end-of-text tokens
    #[arg(long)]
    ignore_eos: bool,

    /// Report the K likeliest tokens at each position (with --json)
    #[arg(long, value_name = "K", default_value_t = 0)]
    top_logprobs: usize,

    /// Print one JSON object
    #[arg(long)]
    json: bool,

    /// Load the model in this process even if a daemon runs
    #[arg(long)]
    no_daemon: bool,

    #[command(flatten)]
    engine: EngineArgs,
}

#[derive(clap::Args)]
#[group(required = true, multiple = false)]
struct Prompt {
    /// The prompt; special tokens such as <|fim_prefix|> are parsed
    #[arg(long = "prompt", value_name = "TEXT")]
    text: Option<String>,

    /// A file with the prompt
    #[arg(long = "prompt-file", value_name = "FILE")]
    file: Option<PathBuf>,

    /// Token ids instead of text: needs no tokenizer
    #[arg(long, value_name = "IDS", value_parser = args::parse_ids)]
    ids: Option<std::vec::Vec<u32>>,
}

pub(super) fn run(args: &Args) -> Result<()> {
    let configuration = args::configuration(&args.engine.flags())?;
    let generation = args.generation(&configuration)?;
    match args.engine.daemon(args.no_daemon)? {
        Some(daemon) => args.request(daemon, generation),
        None => args.generate(&configuration, &generation),
    }
}

impl Args {
    /// Generates in the daemon.
    fn request(&self, mut daemon: Client, generation: Generation) -> Result<()> {
        daemon.send(&Request::Generate(Box::new(generation)))?;
        loop {
            match daemon.response()? {
                Response::Text(text) if !self.json => args::print_generated(&text)?,
                Response::Text(_) => {}
                Response::Generated(prompt, generated) => return self.finish(&prompt, &generated, true),
                _ => bail!("unexpected reply from the daemon"),
            }
        }
    }

    /// Generates in this process.
    fn generate(&self, configuration: &Configuration, generation: &Generation) -> Result<()> {
        let mut opened = self.engine.spec(configuration.settings())?.open()?;
        let task = generation.task(opened.tokenizer())?;
        let cancel = Cancel::new();
        let mut printed = Ok(());
        let mut show = |text: &str| {
            if !self.json && printed.is_ok() {
                printed = args::print_generated(text);
                if printed.is_err() {
                    cancel.cancel();
                }
            }
        };
        let tokenizer = opened.tokenizer.as_ref();
        let (session, draft_cost) = (&mut opened.session, &mut DraftCost::default());
        let mut generated = decode::generate(session, tokenizer, &task, draft_cost, &cancel, &mut show)?;
        printed?;
        generated.timings.load_ms = opened.info.load_ms;
        self.finish(&task.prompt, &generated, tokenizer.is_some())
    }

    fn generation(&self, configuration: &Configuration) -> Result<Generation> {
        let Self { temperature, top_k, top_p, seed, .. } = *self;
        Ok(Generation {
            text: self.prompt.read(configuration)?,
            ids: self.prompt.ids.clone(),
            max_tokens: self.max_tokens,
            sampling: Sampling { temperature, top_k, top_p, seed },
            ignores_end: self.ignore_eos,
            top_logprobs: self.top_logprobs,
        })
    }

    /// Prints what streaming has not.
    fn finish(&self, prompt: &[u32], generated: &Generated, has_text: bool) -> Result<()> {
        if self.json {
            return args::print_json(&json!({
                "prompt_ids": prompt,
                "ids": generated.ids,
                "text": has_text.then_some(&generated.text),
                "logprobs": generated.logprobs,
                "top_logprobs": generated.top_logprobs,
                "stop": generated.stop,
                "drafts": { "guessed": generated.drafted, "accepted": generated.accepted },
                "timings": generated.timings,
            }));
        }
        if !has_text {
            let ids: Vec<String> = generated.ids.iter().map(u32::to_string).collect();
            args::print(&ids.join(","))?;
        }
        args::print("\n")
    }
}

impl Prompt {
    /// The prompt, where it is text. That of a file is read as an editor's would be.
    fn read(&self, configuration: &Configuration) -> Result<Option<String>> {
        match (&self.text, &self.file) {
            (Some(text), _) => Ok(Some(text.clone())),
            (_, Some(file)) => {
                guard::check(configuration, file)?;
                Ok(Some(content::masked(args::read_text(file)?)))
            }
            _ => Ok(None),
        }
    }
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
