//! What every command that runs a model has in common.

use std::fs;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use sysinfo::System;

use crate::base::timings::milliseconds;
use crate::complete::fim::Order;
use crate::compute::cpu::{Cpu, CpuOptions, Level};
use crate::config::{Configuration, Flag, Settings};
use crate::format::ModelDir;
use crate::hub;
use crate::model::{Config, Model, ModelOptions, Tokenizer};
use crate::serve::Engine;
use crate::session::packed::Precision;
use crate::session::{Session, SessionOptions};

/// Context without --context, unless the model's own is smaller: enough for any completion prompt.
const CONTEXT_DEFAULT: usize = 4096;

/// Most tokens of one forward pass.
const BATCH_MAX: usize = 512;

/// From how many tokens on DeltaNet prefills in chunks.
const DELTA_CHUNK_ROWS_MIN: usize = 16;

/// Which model to run, and how. Where a command uses the settings, these count more.
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

    /// Give a setting a value, whatever a file, the environment or an editor says: NAME=VALUE as in budget.soft_ms=400, the value as JSON
    #[arg(long = "set", value_name = "SETTING", value_parser = parse_setting)]
    settings: Vec<(String, String)>,
}

impl PromptArgs {
    /// What the flags say, as settings; what is said by a flag of its own counts more than `--set`.
    pub fn flags(&self) -> Vec<Flag> {
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
pub fn configuration(flags: &[Flag]) -> Result<Configuration> {
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

/// A model ready to run.
pub struct Opened {
    pub session: Session<Cpu>,
    /// None when the model has none.
    pub tokenizer: Option<Tokenizer>,
    /// What to call the model in messages.
    pub origin: String,
    pub load_ms: f64,
}

impl EngineArgs {
    /// What the flags say, as settings.
    pub fn flags(&self) -> Vec<Flag> {
        let model = self.model.as_ref().map(|path| flag("--model", "model", path.display()));
        let context = self.context.map(|tokens| flag("--context", "context.length", tokens));
        let cache = self.cache.map(|mib| flag("--cache", "cache.bytes_max", u64::from(mib) << 20));
        let threads = self.compute.threads.map(|threads| flag("--threads", "threads", threads));
        [model, context, cache, threads].into_iter().flatten().collect()
    }

    /// Opens the model that the flags alone name. What is measured must not depend on somebody's settings.
    pub fn open(&self) -> Result<Opened> {
        self.open_as(&self.flags_alone()?)
    }

    /// Opens the model as `settings` say, the flags among them.
    pub fn open_as(&self, settings: &Settings) -> Result<Opened> {
        let started = Instant::now();
        let dir = hub::open(settings.model.as_deref())?;
        let config = Config::read(&dir)?;
        let origin = dir.origin().to_owned();
        let tokenizer = Tokenizer::read(&dir)?;
        if let Some(tokenizer) = &tokenizer {
            ensure!(
                tokenizer.vocab_size() <= config.vocab,
                "{origin}: the tokenizer has ids up to {}, the model only {} rows; the files do not belong together",
                tokenizer.vocab_size() - 1,
                config.vocab
            );
        }
        let session = self.session(&dir, config, settings)?;
        Ok(Opened { session, tokenizer, origin, load_ms: milliseconds(started.elapsed()) })
    }

    /// What to call the model, and its sizes.
    pub fn describe(&self) -> Result<(String, Config)> {
        let dir = hub::open(self.model.as_deref())?;
        Ok((dir.origin().to_owned(), Config::read(&dir)?))
    }

    /// Opens the first `layers` layers of the model at `path`, or of the starter model, without a tokenizer.
    pub fn open_layers(&self, path: Option<&Path>, layers: usize) -> Result<Session<Cpu>> {
        let dir = hub::open(path)?;
        let mut config = Config::read(&dir)?;
        config.layers.truncate(layers);
        self.session(&dir, config, &self.flags_alone()?)
    }

    fn flags_alone(&self) -> Result<Settings> {
        let configuration = Configuration::of_flags(&self.flags());
        Ok(configuration.map_err(|problem| anyhow::anyhow!("{problem}"))?.settings().clone())
    }

    fn session(&self, dir: &ModelDir, config: Config, settings: &Settings) -> Result<Session<Cpu>> {
        let positions_max = positions_max(&config, settings.context.length)?;
        let backend =
            Cpu::new(CpuOptions { threads: threads(settings.threads), ..self.compute.options(config.eps) });
        let cache_bytes_max = settings.cache_bytes_max();
        let batch_max = BATCH_MAX.min(positions_max);
        let options = ModelOptions { positions_max, batch_max, kv_bytes_max: cache_bytes_max };
        let model = Model::load(dir, config, options, backend)?;
        Ok(Session::new(model, SessionOptions { cache_bytes_max, precision: Precision::F16 }))
    }
}

fn positions_max(config: &Config, context: Option<u32>) -> Result<usize> {
    let Some(context) = context else { return Ok(CONTEXT_DEFAULT.min(config.context_max)) };
    ensure!(
        context as usize <= config.context_max,
        "a context of {context} is more than the {} tokens the model was made for",
        config.context_max
    );
    Ok(context as usize)
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
    pub fn threads(&self) -> usize {
        threads(self.threads)
    }

    /// The options of the CPU for a model with this epsilon of its norms.
    pub fn options(&self, eps: f32) -> CpuOptions {
        CpuOptions {
            threads: self.threads(),
            eps,
            delta_chunk_rows_min: DELTA_CHUNK_ROWS_MIN,
            level: self.level(),
            exact: self.exact,
        }
    }

    /// What to call the kernels that compute.
    pub fn kernels(&self) -> String {
        format!("{}{}", self.level(), if self.exact { " exact" } else { "" })
    }

    fn level(&self) -> Level {
        self.kernels.unwrap_or_else(Level::detect)
    }
}

impl Opened {
    /// The tokenizer, or an error that says what is missing.
    pub fn tokenizer(&self) -> Result<&Tokenizer> {
        self.tokenizer.as_ref().with_context(|| missing_tokenizer(&self.origin))
    }

    /// Moves the model to an engine thread; also returns how long loading took, in milliseconds.
    pub fn into_engine(self) -> Result<(Engine, f64)> {
        let tokenizer = self.tokenizer.with_context(|| missing_tokenizer(&self.origin))?;
        Ok((Engine::start(self.session, tokenizer), self.load_ms))
    }
}

fn missing_tokenizer(origin: &str) -> String {
    format!(
        "{origin}: there is no tokenizer (tokenizer.json, or the metadata of a GGUF file); only `generate --ids` and `score --ids` work without"
    )
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
