//! What every command that runs a model has in common.

use std::fs;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::thread;

use anyhow::{Context, Result};
use serde::Serialize;
use sysinfo::System;

use crate::complete::Options;
use crate::complete::fim::Order;
use crate::compute::cpu::{Cpu, Level};
use crate::config::{Configuration, Settings};
use crate::model::Config;
use crate::resident::{Opened, Spec};
use crate::session::Session;

/// Which model to run, and how.
#[derive(clap::Args)]
#[command(next_help_heading = "Engine")]
pub struct EngineArgs {
    /// Checkpoint folder, .safetensors or .gguf file [default: the starter model in the program]
    #[arg(long, value_name = "PATH")]
    pub model: Option<PathBuf>,

    /// Most tokens that prompt and completion may have together [default: 4096, or the model's own]
    #[arg(long, value_name = "TOKENS", value_parser = clap::value_parser!(u32).range(1..))]
    pub context: Option<u32>,

    /// Memory for what earlier prompts left behind, in MiB [default: a tenth of the memory, at most 4096]
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u32).range(1..))]
    pub cache: Option<u32>,

    #[command(flatten)]
    pub compute: ComputeArgs,
}

/// How to compute.
#[derive(clap::Args)]
#[command(next_help_heading = "Engine")]
pub struct ComputeArgs {
    /// Threads that compute [default: one for each physical core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,

    /// Vector instructions to compute with: portable, avx2 or avx512 [default: the best this CPU has]
    #[arg(long, value_name = "LEVEL", hide_short_help = true)]
    pub kernels: Option<Level>,

    /// Convert quantised weights to f32 instead of rounding activations to 8 bits: slow, to measure against
    #[arg(long, hide_short_help = true)]
    pub exact: bool,
}

/// How to ask a model for a completion.
#[derive(clap::Args)]
#[command(next_help_heading = "Prompt")]
pub struct PromptArgs {
    /// What a prompt shows first: the text before the cursor (psm), the text after it (spm), or all
    /// before the cursor's line, then the text after it, then the line (psm-anchored) [default: spm for
    /// the starter model, psm-anchored for others]
    #[arg(long, value_name = "ORDER")]
    fim_order: Option<Order>,

    /// Give a setting a value, whatever an editor says: NAME=VALUE as in budget.soft_ms=400, the value as JSON
    #[arg(long = "set", value_name = "SETTING", value_parser = parse_setting)]
    settings: Vec<(String, String)>,
}

impl PromptArgs {
    /// The settings of the command line.
    pub fn configuration(&self) -> Result<Configuration> {
        let mut configuration = Configuration::default();
        for (name, value) in &self.settings {
            configuration.fix(name, value).map_err(|problem| anyhow::anyhow!("--set: {problem}"))?;
        }
        if let Some(order) = self.fim_order {
            configuration.fix_order(order);
        }
        Ok(configuration)
    }

    /// The order of prompts that suits the model that `engine` names.
    pub fn order(&self, engine: &EngineArgs) -> Order {
        if engine.model.is_none() { Order::Spm } else { Order::PsmAnchored }
    }

    /// How to make prompts for the model that `engine` names.
    pub fn options(&self, engine: &EngineArgs) -> Result<Options> {
        Ok(self.configuration()?.settings().prompt(self.order(engine)))
    }
}

fn parse_setting(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE")?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}

impl EngineArgs {
    /// The model that is named, with so much memory for what earlier prompts leave behind unless --cache says
    /// otherwise.
    pub fn spec(&self, cache_bytes_max: u64) -> Spec {
        Spec {
            model: self.model.clone(),
            context: self.context,
            cache_bytes_max: self.cache.map_or(cache_bytes_max, |mib| u64::from(mib) << 20),
            ..self.compute.spec()
        }
    }

    /// Opens the model.
    pub fn open(&self) -> Result<Opened> {
        self.spec(Settings::default().cache.bytes_max).open()
    }

    /// Opens the first `layers` layers of the model at `path`, or of the starter model, without a tokenizer.
    pub fn open_layers(&self, path: Option<&Path>, layers: usize) -> Result<Session<Cpu>> {
        let model = path.map(Path::to_owned);
        Spec { model, ..self.spec(Settings::default().cache.bytes_max) }.open_layers(layers)
    }

    /// What to call the model, and its sizes.
    pub fn describe(&self) -> Result<(String, Config)> {
        self.spec(0).describe()
    }
}

impl ComputeArgs {
    /// Threads that compute.
    pub fn threads(&self) -> usize {
        match self.threads {
            Some(threads) => threads.into(),
            None => {
                let available = thread::available_parallelism().map_or(1, usize::from);
                System::physical_core_count().unwrap_or(available).min(available)
            }
        }
    }

    /// The starter model, computed this way, without a past.
    pub fn spec(&self) -> Spec {
        Spec {
            model: None,
            context: None,
            cache_bytes_max: 0,
            threads: self.threads(),
            level: self.kernels.unwrap_or_else(Level::detect),
            exact: self.exact,
        }
    }

    /// What to call the kernels that compute.
    pub fn kernels(&self) -> String {
        self.spec().kernels()
    }
}

/// Reads a UTF-8 file whole.
pub fn read_text(path: &Path) -> Result<String> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    String::from_utf8(bytes).map_err(|error| {
        anyhow::anyhow!("{} is not UTF-8 text (byte {})", path.display(), error.utf8_error().valid_up_to())
    })
}

/// Parses token ids separated by commas.
pub fn parse_ids(text: &str) -> Result<Vec<u32>, String> {
    text.split(',').map(|id| id.trim().parse().map_err(|_| format!("{id:?} is not a token id"))).collect()
}

/// Prints one JSON object and nothing else.
pub fn print_json(value: &impl Serialize) -> Result<()> {
    print(&(serde_json::to_string(value)? + "\n"))
}

/// Writes to stdout, without colours where it is no terminal. A reader that has seen enough and closed
/// its end is no error.
pub fn print(text: &str) -> Result<()> {
    let mut out = anstream::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        result => result.context("cannot write to stdout"),
    }
}
