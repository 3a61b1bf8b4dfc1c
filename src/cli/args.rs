//! What every command that runs a model has in common.

use std::fs;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::thread;

use anyhow::{Context, Result};
use serde::Serialize;
use sysinfo::System;

use crate::complete::fim::Order;
use crate::compute::cpu::Level;
use crate::config::{Configuration, Flag, Settings};
use crate::daemon::{Client, Place, Wishes, absolute};
use crate::model::Config;
use crate::resident::{LocalSession, Opened, Spec};

/// What a command says that has nobody to ask.
pub(super) const NO_DAEMON: &str = "no daemon runs; an editor starts it, or `fimd daemon`";

/// Which model to run, and how. Where a command uses the settings, these count more.
#[derive(clap::Args)]
#[command(next_help_heading = "Engine")]
pub(super) struct EngineArgs {
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
pub(super) struct ComputeArgs {
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
pub(super) struct PromptArgs {
    /// What a prompt shows first: the text before the cursor (psm), the text after it (spm), or all
    /// before the cursor's line, then the text after it, then the line (psm-anchored) [default: spm for
    /// the starter model, psm-anchored for others]
    #[arg(long, value_name = "ORDER")]
    fim_order: Option<Order>,

    /// Give a setting a value, whatever a file, the environment or an editor says: NAME=VALUE as in
    /// budget.soft_ms=400, the value as JSON
    #[arg(long = "set", value_name = "SETTING", value_parser = parse_setting)]
    settings: Vec<(String, String)>,
}

impl PromptArgs {
    /// What the flags say, as settings; what is said by a flag of its own counts more than `--set`.
    pub(super) fn flags(&self) -> Vec<Flag> {
        let set = self.settings.iter().cloned();
        let set = set.map(|(name, value)| Flag { flag: "--set", name, value });
        let order = self.fim_order.map(|order| flag("--fim-order", "fim.order", order.name()));
        set.chain(order).collect()
    }
}

fn flag(flag: &'static str, name: &str, value: impl ToString) -> Flag {
    Flag { flag, name: name.to_owned(), value: value.to_string() }
}

/// The settings of this process with what `flags` say. What is wrong elsewhere is said on stderr and changes
/// nothing.
pub(super) fn configuration(flags: &[Flag]) -> Result<Configuration> {
    let configuration = Configuration::for_process(flags).map_err(|problem| anyhow::anyhow!("{problem}"))?;
    for problem in configuration.problems() {
        tracing::warn!("{problem}");
    }
    Ok(configuration)
}

fn parse_setting(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE")?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}

impl EngineArgs {
    /// What the flags say, as settings.
    pub(super) fn flags(&self) -> Vec<Flag> {
        let model = self.model.as_ref().map(|path| flag("--model", "model", path.display()));
        let context = self.context.map(|tokens| flag("--context", "context.length", tokens));
        let cache = self.cache.map(|mib| flag("--cache", "cache.bytes_max", u64::from(mib) << 20));
        let threads = self.compute.threads.map(|threads| flag("--threads", "threads", threads));
        [model, context, cache, threads].into_iter().flatten().collect()
    }

    /// The model that `settings` name, the flags among them.
    pub(super) fn spec(&self, settings: &Settings) -> Result<Spec> {
        Ok(Spec {
            model: settings.model.clone(),
            // Whoever names a model means that one.
            remote: if self.model.is_none() { settings.remote()? } else { None },
            context: settings.context.length,
            cache_bytes_max: settings.cache_bytes_max(),
            threads: threads(settings.threads),
            ..self.compute.spec()
        })
    }

    /// The model that is named, for another process.
    pub(super) fn wishes(&self) -> Result<Wishes> {
        Ok(Wishes {
            model: self.model.as_deref().map(absolute).transpose()?,
            starter: false,
            context: self.context,
            cache_bytes_max: self.cache.map(|mib| u64::from(mib) << 20),
            threads: self.compute.threads.map(usize::from),
            kernels: self.compute.kernels.map(|level| level.to_string()),
            exact: self.compute.exact,
        })
    }

    /// The daemon, where one runs and is to be used: not where flags say how to run a model.
    pub(super) fn daemon(&self, no_daemon: bool) -> Result<Option<Client>> {
        if no_daemon || self.wishes()? != Wishes::default() {
            return Ok(None);
        }
        Client::connect(&Place::find()?)
    }

    /// The model that the flags alone name: what is measured must not depend on somebody's settings.
    fn spec_alone(&self) -> Result<Spec> {
        let configuration = Configuration::of_flags(&self.flags());
        let configuration = configuration.map_err(|problem| anyhow::anyhow!("{problem}"))?;
        self.spec(configuration.settings())
    }

    /// Opens the model that the flags alone name.
    pub(super) fn open(&self) -> Result<Opened> {
        self.spec_alone()?.open()
    }

    /// Opens the first `layers` layers of the model at `path`, or of the starter model, without a tokenizer.
    pub(super) fn open_layers(&self, path: Option<&Path>, layers: usize) -> Result<LocalSession> {
        let model = path.map(Path::to_owned);
        Spec { model, ..self.spec_alone()? }.open_layers(layers)
    }

    /// What to call the model that the flags alone name, and its sizes.
    pub(super) fn describe(&self) -> Result<(String, Config)> {
        self.spec_alone()?.describe()
    }
}

/// How many threads compute where `wanted` says nothing else.
fn threads(wanted: Option<u16>) -> usize {
    wanted.map_or_else(
        || {
            let available = thread::available_parallelism().map_or(1, usize::from);
            System::physical_core_count().unwrap_or(available).min(available)
        },
        usize::from,
    )
}

impl ComputeArgs {
    /// Threads that compute.
    pub(super) fn threads(&self) -> usize {
        threads(self.threads)
    }

    /// The starter model, computed this way, without a past.
    pub(super) fn spec(&self) -> Spec {
        Spec {
            model: None,
            remote: None,
            context: None,
            cache_bytes_max: 0,
            threads: self.threads(),
            level: self.kernels.unwrap_or_else(Level::detect),
            exact: self.exact,
        }
    }

    /// What to call the kernels that compute.
    pub(super) fn kernels(&self) -> String {
        self.spec().kernels()
    }
}

/// Reads a UTF-8 file whole.
pub(super) fn read_text(path: &Path) -> Result<String> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    String::from_utf8(bytes).map_err(|error| {
        anyhow::anyhow!("{} is not UTF-8 text (byte {})", path.display(), error.utf8_error().valid_up_to())
    })
}

/// Parses token ids separated by commas.
pub(super) fn parse_ids(text: &str) -> Result<Vec<u32>, String> {
    text.split(',').map(|id| id.trim().parse().map_err(|_| format!("{id:?} is not a token id"))).collect()
}

/// Prints one JSON object and nothing else.
pub(super) fn print_json(value: &impl Serialize) -> Result<()> {
    print(&(serde_json::to_string(value)? + "\n"))
}

/// Writes to stdout, without colours where it is no terminal. A reader that has seen enough and closed
/// its end is no error.
pub(super) fn print(text: &str) -> Result<()> {
    let mut out = anstream::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        result => result.context("cannot write to stdout"),
    }
}
