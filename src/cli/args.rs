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
use crate::complete::Options;
use crate::complete::fim::Order;
use crate::compute::cpu::{Cpu, CpuOptions, Level};
use crate::config::{Configuration, Settings};
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
    /// Opens the model.
    pub fn open(&self) -> Result<Opened> {
        self.open_caching(Settings::default().cache.bytes_max)
    }

    /// Opens the model with so much memory for what earlier prompts leave behind, unless --cache says
    /// otherwise.
    pub fn open_caching(&self, bytes_max: u64) -> Result<Opened> {
        let started = Instant::now();
        let dir = hub::open(self.model.as_deref())?;
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
        let session = self.session(&dir, config, bytes_max)?;
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
        self.session(&dir, config, Settings::default().cache.bytes_max)
    }

    fn session(&self, dir: &ModelDir, config: Config, cache_bytes_max: u64) -> Result<Session<Cpu>> {
        let positions_max = self.positions_max(&config)?;
        let backend = Cpu::new(self.compute.options(config.eps));
        let cache_bytes_max = self.cache.map_or(cache_bytes_max, |mib| u64::from(mib) << 20);
        let batch_max = BATCH_MAX.min(positions_max);
        let options = ModelOptions { positions_max, batch_max, kv_bytes_max: cache_bytes_max };
        let model = Model::load(dir, config, options, backend)?;
        Ok(Session::new(model, SessionOptions { cache_bytes_max, precision: Precision::F16 }))
    }

    fn positions_max(&self, config: &Config) -> Result<usize> {
        let Some(context) = self.context else { return Ok(CONTEXT_DEFAULT.min(config.context_max)) };
        ensure!(
            context as usize <= config.context_max,
            "--context {context} is more than the {} tokens the model was made for",
            config.context_max
        );
        Ok(context as usize)
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
