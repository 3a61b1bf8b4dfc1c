//! Arguments and output that commands share.

use std::fs;
use std::io::{ErrorKind, IsTerminal, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Serialize;

use super::message;
use crate::base::cores::Cores;
use crate::base::escape;
use crate::complete::fim::Order;
use crate::compute::cpu::Level;
use crate::config::{self, Configuration, Flag, Settings};
use crate::daemon::{Client, ModelOverrides, RuntimeDir, absolute};
use crate::model::Config;
use crate::resident::{ExpertMemory, LocalSession, Opened, Spec};

/// The error of a command that needs a daemon.
pub(super) const NO_DAEMON: &str = "no daemon runs; an editor starts it, or `fimd daemon`";

/// Which model to run, and how. Overrides the settings.
#[derive(clap::Args)]
#[command(next_help_heading = "Engine")]
pub(super) struct EngineArgs {
    /// Checkpoint folder, .safetensors or .gguf file [default: the built-in starter model]
    #[arg(long, value_name = "PATH")]
    pub model: Option<PathBuf>,

    /// Context length: prompt and completion together [default: 4096, or the model's own]
    #[arg(long, value_name = "TOKENS", value_parser = clap::value_parser!(u32).range(1..))]
    pub context: Option<u32>,

    /// Memory budget of the prefix cache, in MiB [default: a tenth of the memory, at most 4096]
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u32).range(1..))]
    pub cache: Option<u32>,

    /// Record which experts tokens visit to this file, for `fimd bench experts`; it holds no text
    #[arg(long, value_name = "FILE", hide_short_help = true)]
    pub trace: Option<PathBuf>,

    /// Memory budget of the model with its caches, in MiB: experts that do not fit are read from disk [default: what is
    /// free, less a margin]
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u32).range(1..))]
    pub ram_budget: Option<u32>,

    /// A smaller copy of the experts, which `fimd quantize --cold` writes: what is not in memory is computed with there and
    /// not read from disk
    #[arg(long, value_name = "PATH", hide_short_help = true)]
    pub cold: Option<PathBuf>,

    /// Run on the GPU with this budget of its memory, in MiB; with 0 on the CPU [default: as `gpu.enabled` says]
    #[arg(long, value_name = "MIB")]
    pub vram_budget: Option<u32>,

    #[command(flatten)]
    pub compute: ComputeArgs,
}

#[derive(clap::Args)]
#[command(next_help_heading = "Engine")]
pub(super) struct ComputeArgs {
    /// Compute threads [default: one for each physical core, of a hybrid CPU each for performance]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,

    /// SIMD level of the kernels: portable, on x86-64 avx2, avxvnni or avx512, on ARM neon, dotprod or i8mm [default: the best of this CPU]
    #[arg(long, value_name = "LEVEL", hide_short_help = true)]
    pub kernels: Option<Level>,

    /// Dequantise weights to f32 instead of quantising activations to 8 bits: slow, a reference for accuracy
    #[arg(long, hide_short_help = true)]
    pub exact: bool,

    /// Copy weights into memory in the order in which the CPU reads them: faster, and the copy takes as much memory as the
    /// file
    #[arg(long, hide_short_help = true)]
    pub repack: bool,
}

#[derive(clap::Args)]
#[command(next_help_heading = "Prompt")]
pub(super) struct PromptArgs {
    /// Order of a prompt: first the text before the cursor (psm), first the text after it (spm), or all
    /// before the cursor's line, then the text after it, then the line (psm-anchored) [default: spm for
    /// the starter model, psm-anchored for others]
    #[arg(long, value_name = "ORDER")]
    fim_order: Option<Order>,

    /// Override a setting: NAME=VALUE as in budget.soft_ms=400, the value as JSON
    #[arg(long = "set", value_name = "SETTING", value_parser = parse_setting)]
    settings: Vec<(String, String)>,
}

impl PromptArgs {
    /// The flags as settings; a dedicated flag overrides `--set`.
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

/// The settings of this process, overridden by `flags`. Other invalid settings are ignored with a warning.
pub(super) fn configuration(flags: &[Flag]) -> Result<Configuration> {
    let configuration = read_configuration(flags)?;
    configuration.problems().iter().for_each(message::warning);
    Ok(configuration)
}

/// The same without warnings.
pub(super) fn read_configuration(flags: &[Flag]) -> Result<Configuration> {
    Configuration::for_process(flags).map_err(|problem| anyhow::anyhow!("{problem}"))
}

/// The same, with warnings in the log.
pub(super) fn logged_configuration(flags: &[Flag]) -> Result<Configuration> {
    let configuration = read_configuration(flags)?;
    log_problems(&configuration);
    Ok(configuration)
}

/// Logs problems with settings.
pub(super) fn log_problems(configuration: &Configuration) {
    configuration.problems().iter().for_each(|problem| tracing::warn!("{problem}"));
}

fn parse_setting(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE")?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}

impl EngineArgs {
    /// The flags as settings.
    pub(super) fn flags(&self) -> Vec<Flag> {
        let model = self.model.as_ref().map(|path| flag("--model", "model", path.display()));
        let context = self.context.map(|tokens| flag("--context", "context.length", tokens));
        let cache = self.cache.map(|mib| flag("--cache", "cache.bytes_max", u64::from(mib) << 20));
        let threads = self.compute.threads.map(|threads| flag("--threads", "threads", threads));
        let ram =
            self.ram_budget.map(|mib| flag("--ram-budget", "experts.ram_bytes_max", u64::from(mib) << 20));
        let vram =
            self.vram_budget.map(|mib| flag("--vram-budget", "gpu.vram_bytes_max", u64::from(mib) << 20));
        let gpu = self.vram_budget.map(|mib| flag("--vram-budget", "gpu.enabled", mib > 0));
        let cold = self.cold.as_ref().map(|path| flag("--cold", "experts.cold", path.display()));
        let repack = self.compute.repack.then(|| flag("--repack", "repack", true));
        [model, context, cache, threads, repack, ram, cold, vram, gpu].into_iter().flatten().collect()
    }

    /// The model that `settings` name, the flags among them.
    pub(super) fn spec(&self, settings: &Settings) -> Result<Spec> {
        Ok(Spec {
            model: settings.model.clone(),
            // A model on the command line overrides a remote backend.
            remote: if self.model.is_none() { settings.remote()? } else { None },
            context: settings.context.length,
            cache_bytes_max: settings.cache_bytes_max(),
            threads: threads(settings.threads),
            repack: settings.repack,
            experts: ExpertMemory {
                ram_bytes_max: settings.experts.ram_bytes_max,
                locks: settings.experts.lock,
                remembered_in: config::experts_dir(),
                cold: settings.experts.cold.clone(),
            },
            vram_bytes_max: if settings.gpu.enabled { settings.gpu.vram_bytes_max } else { Some(0) },
            vram_idle: settings.vram_idle(),
            trace: self.trace.clone(),
            ..self.compute.spec()
        })
    }

    /// The flags for another process.
    pub(super) fn model_overrides(&self) -> Result<ModelOverrides> {
        Ok(ModelOverrides {
            model: self.model.as_deref().map(absolute).transpose()?,
            starter: false,
            context: self.context,
            cache_bytes_max: self.cache.map(|mib| u64::from(mib) << 20),
            ram_bytes_max: self.ram_budget.map(|mib| u64::from(mib) << 20),
            cold: self.cold.as_deref().map(absolute).transpose()?,
            vram_bytes_max: self.vram_budget.map(|mib| u64::from(mib) << 20),
            threads: self.compute.threads.map(usize::from),
            kernels: self.compute.kernels.map(|level| level.to_string()),
            exact: self.compute.exact,
            repack: self.compute.repack,
        })
    }

    /// The daemon, if one runs and no flag needs the model in this process.
    pub(super) fn daemon(&self, no_daemon: bool) -> Result<Option<Client>> {
        if no_daemon || self.trace.is_some() || self.model_overrides()? != ModelOverrides::default() {
            return Ok(None);
        }
        Client::connect(&RuntimeDir::find()?)
    }

    /// The model that the flags alone name: a measurement must not depend on the user's settings.
    fn spec_alone(&self) -> Result<Spec> {
        let configuration = Configuration::of_flags(&self.flags());
        let configuration = configuration.map_err(|problem| anyhow::anyhow!("{problem}"))?;
        let spec = self.spec(configuration.settings())?;
        // Nor on whether there is a GPU.
        let vram_bytes_max = spec.vram_bytes_max.or(Some(0));
        let experts = ExpertMemory { remembered_in: None, ..spec.experts.clone() };
        Ok(Spec { experts, vram_bytes_max, ..spec })
    }

    /// Opens the model that the flags alone name.
    pub(super) fn open(&self) -> Result<Opened> {
        self.spec_alone()?.open()
    }

    /// Opens the first `layers` layers of the model at `path`, or of the starter model, without a tokenizer.
    pub(super) fn open_layers(&self, path: Option<&Path>, layers: usize) -> Result<LocalSession> {
        self.open_layers_with(path, layers, self.compute.threads())
    }

    /// The same with a number of threads.
    pub(super) fn open_layers_with(
        &self,
        path: Option<&Path>,
        layers: usize,
        threads: usize,
    ) -> Result<LocalSession> {
        let model = path.map(Path::to_owned);
        Spec { model, threads, ..self.spec_alone()? }.open_layers(layers)
    }

    /// The same on the GPU, with `slots` slots for the experts of each layer, in as much of its memory as that takes.
    pub(super) fn open_layers_in_slots(
        &self,
        path: Option<&Path>,
        layers: usize,
        slots: usize,
    ) -> Result<LocalSession> {
        let spec = Spec { model: path.map(Path::to_owned), ..self.spec_alone()? };
        spec.with_slots(layers, slots)?.open_layers(layers)
    }

    /// Opens the model at `path` without a tokenizer, and without a smaller copy of its experts, in as much memory as there
    /// is: the budget of both may hold too few experts.
    pub(super) fn open_exact(&self, path: Option<&Path>) -> Result<LocalSession> {
        let (model, spec) = (path.map(Path::to_owned), self.spec_alone()?);
        let experts = ExpertMemory { cold: None, ram_bytes_max: None, ..spec.experts.clone() };
        Spec { model, experts, ..spec }.open_layers(usize::MAX)
    }

    /// Name and configuration of the model that the flags alone name.
    pub(super) fn describe(&self) -> Result<(String, Config)> {
        self.spec_alone()?.describe()
    }
}

/// Compute threads: `requested`, or one for each physical core, those for performance where they differ.
pub(super) fn threads(requested: Option<u16>) -> usize {
    requested.map_or_else(|| Cores::read().threads(), usize::from)
}

impl ComputeArgs {
    pub(super) fn threads(&self) -> usize {
        threads(self.threads)
    }

    /// The starter model with these options, without a prefix cache.
    pub(super) fn spec(&self) -> Spec {
        Spec {
            model: None,
            experts: ExpertMemory::default(),
            vram_bytes_max: None,
            vram_idle: None,
            trace: None,
            remote: None,
            context: None,
            cache_bytes_max: 0,
            threads: self.threads(),
            level: self.kernels.unwrap_or_else(Level::detect),
            exact: self.exact,
            repack: self.repack,
        }
    }

    /// Name of the SIMD kernels.
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

/// Prints one JSON object and nothing else. What a terminal might obey is escaped as JSON escapes it.
pub(super) fn print_json(value: &impl Serialize) -> Result<()> {
    let mut text = String::new();
    for c in serde_json::to_string(value)?.chars() {
        if escape::is_unsafe(c) {
            let units = &mut [0; 2];
            c.encode_utf16(units).iter().for_each(|unit| text += &format!("\\u{unit:04x}"));
        } else {
            text.push(c);
        }
    }
    write(&(text + "\n"))
}

/// Prints text that a model generated: as it is, but on a terminal without what that might obey.
pub(super) fn print_generated(text: &str) -> Result<()> {
    if std::io::stdout().is_terminal() { write(&escape::text(text)) } else { write(text) }
}

/// Writes to stdout, without colours unless it is a terminal. Of what a terminal might obey, only colours pass.
pub(super) fn print(text: &str) -> Result<()> {
    write(&escape::styled(text))
}

/// A closed pipe is no error.
fn write(text: &str) -> Result<()> {
    let mut out = anstream::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        result => result.context("cannot write to stdout"),
    }
}
