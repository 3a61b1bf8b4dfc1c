//! From files to a model that runs.

use std::hint::black_box;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use indicatif::HumanBytes;

use super::place::{self, Budgets, GpuPlan, OnGpu};
use super::served::{ModelInfo, Served, served};
use crate::base::memory;
use crate::base::timings::milliseconds;
use crate::complete::PromptProfile;
use crate::complete::remote::{self, Remote};
use crate::compute::cpu::{Cpu, CpuOptions, Level};
use crate::compute::cuda::probe;
use crate::compute::local::Local;
use crate::compute::{Backend, KV_BLOCK, PassSizes, Precision};
use crate::config::CONTEXT_DEFAULT;
use crate::format::ModelDir;
use crate::hub;
use crate::model::experts::trace::Recorder;
use crate::model::experts::{Budget, ExpertOptions};
use crate::model::layout::{self, Types};
use crate::model::{Config, Model, ModelOptions, Tokenizer, architecture};
use crate::serve::{Engine, Reopen};
use crate::session::{self, SessionOptions};

/// Largest batch of one forward pass, in tokens.
const BATCH_MAX: usize = 512;
/// The same where experts are read from disk: most prompts are then one sweep over them.
const SWEEP_MAX: usize = 1024;
/// Smallest batch, in tokens, that DeltaNet prefills in chunks.
const DELTA_CHUNK_ROWS_MIN: usize = 16;
/// The smallest page size of any supported system.
const PAGE_BYTES: usize = 4096;
/// Bytes read between two progress reports.
const STEP_BYTES: usize = 1 << 24;
/// Share of the free memory that a model may be read ahead into.
const MEMORY_SHARE: f64 = 0.8;

/// Memory for everything but weights and caches, in bytes: activations, the tokenizer, the program.
const PROGRAM_BYTES: u64 = 384 << 20;

/// Memory for a model whose experts may not all fit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExpertMemory {
    /// Budget of the model with its caches, in bytes; by default what is free less a margin.
    pub ram_bytes_max: Option<u64>,
    /// Whether the memory of experts is locked.
    pub locks: bool,
    /// The folder in which is remembered which experts were in memory.
    pub remembered_in: Option<PathBuf>,
    /// A smaller copy of the experts.
    pub cold: Option<PathBuf>,
}

impl ExpertMemory {
    /// How experts are kept when caches and states take `others` bytes.
    fn options(&self, others: u64) -> ExpertOptions {
        let others_bytes = others + PROGRAM_BYTES;
        ExpertOptions {
            budget: self.budget(others_bytes),
            locks: self.locks,
            remembered_in: self.remembered_in.clone(),
            cold: self.cold.clone(),
            others_bytes,
            ..ExpertOptions::MAPPED
        }
    }

    /// What is left for weights when everything else takes `others` bytes.
    fn budget(&self, others: u64) -> Budget {
        match self.ram_bytes_max {
            Some(bytes) => Budget::Given(bytes.saturating_sub(others)),
            None => {
                let free = memory::host().free;
                Budget::Free(free.saturating_sub(others + place::margin(free)))
            }
        }
    }
}

/// Which model to run, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    /// Path of a checkpoint; none for the built-in starter model.
    pub model: Option<PathBuf>,
    /// Context length in tokens; by default 4096, or the model's own.
    pub context: Option<u32>,
    /// Budget of the prefix cache, in bytes.
    pub cache_bytes_max: u64,
    /// Compute threads.
    pub threads: usize,
    /// SIMD level of the kernels.
    pub level: Level,
    /// Whether weights are dequantised to f32 instead of quantising activations.
    pub exact: bool,
    /// Whether weights are copied into memory in the order in which the CPU reads them.
    pub repack: bool,
    /// Memory for weights.
    pub experts: ExpertMemory,
    /// Budget of GPU memory, in bytes; by default what is free less a margin. With 0 no GPU is used.
    pub vram_bytes_max: Option<u64>,
    /// After how long without a request the memory of a GPU is given back until the next one; never where it is none.
    pub vram_idle: Option<Duration>,
    /// A file to which the experts that tokens visit are recorded.
    pub trace: Option<PathBuf>,
    /// A remote backend, used instead of a local model.
    pub remote: Option<remote::Options>,
}

/// A session of a local model. No other module names its backend.
pub type LocalSession = session::Session<Local>;

/// A model ready to run.
pub struct Opened {
    /// With an empty prefix cache.
    pub session: LocalSession,
    /// None when the model has none.
    pub tokenizer: Option<Tokenizer>,
    pub info: ModelInfo,
    profile: PromptProfile,
    spec: Spec,
    is_on_gpu: bool,
}

impl Spec {
    /// The starter model with the same options.
    pub fn starter(&self) -> Self {
        let experts = ExpertMemory { cold: None, ..self.experts.clone() };
        Self { model: None, context: None, trace: None, remote: None, experts, ..self.clone() }
    }

    /// Opens the model, or the remote backend, and starts its engine.
    pub fn serve(&self) -> Result<Served> {
        let Some(options) = &self.remote else { return self.open()?.into_served() };
        let starter = hub::open(None)?;
        let tokenizer = Tokenizer::read(&starter)?.context("the starter model has no tokenizer")?;
        let remote = Remote::new(options.clone(), tokenizer)?;
        let (name, back_off) = (remote.describe(), Some(remote.back_off()));
        Ok(Served { remote: Some(name), back_off, ..served(remote.engine(), PromptProfile::remote()) })
    }

    /// Name for messages before it is loaded.
    pub fn name(&self) -> String {
        match (&self.remote, &self.model) {
            (Some(remote), _) => remote.url.clone(),
            (None, Some(path)) => path.display().to_string(),
            (None, None) => "the starter model".into(),
        }
    }

    /// Opens the model. A panic while it is read is an error like any other.
    pub fn open(&self) -> Result<Opened> {
        let opened = catch_unwind(AssertUnwindSafe(|| self.read()));
        opened.unwrap_or_else(|_| {
            bail!("{}: fimd has a bug that this model meets; please report it", self.name())
        })
    }

    fn read(&self) -> Result<Opened> {
        let started = Instant::now();
        let dir = hub::open(self.model.as_deref())?;
        let config = Config::read(&dir)?;
        let name = dir.origin().to_owned();
        let tokenizer = Tokenizer::read(&dir)?;
        if let Some(tokenizer) = &tokenizer {
            ensure!(
                tokenizer.vocab_size() <= config.vocab,
                "{name}: the tokenizer has ids up to {}, but the model only {} rows; the files are of different models",
                tokenizer.vocab_size() - 1,
                config.vocab
            );
        }
        let profile = prompt_profile(&dir, &config);
        let layers = config.layers.len();
        let (session, gpu) = self.session(&dir, config)?;
        let bytes = session.model().weight_bytes();
        let info = ModelInfo {
            name,
            layers,
            weight_bytes: bytes.embedding + bytes.experts + bytes.rest,
            expert_bytes: bytes.experts,
            context: session.context(),
            threads: self.threads,
            kernels: gpu.clone().unwrap_or_else(|| self.kernels()),
            load_ms: milliseconds(started.elapsed()),
        };
        Ok(Opened { session, tokenizer, info, profile, spec: self.clone(), is_on_gpu: gpu.is_some() })
    }

    /// Reads the weights ahead into free memory, the trunk first: the first completions then do not wait for the disk.
    /// `progress` is told the share that is read, and returns whether to continue.
    pub fn read_ahead(&self, mut progress: impl FnMut(f64) -> bool) -> Result<()> {
        let dir = hub::open(self.model.as_deref())?;
        let trunk = layout::trunk_names(&Config::read(&dir)?);
        let mut names: Vec<&str> = dir.names().collect();
        names.sort_by_key(|name| (!trunk.contains(*name), *name));
        let tensors: Vec<_> = names.into_iter().filter_map(|name| dir.tensor(name).ok()).collect();
        let all: usize = tensors.iter().map(|tensor| tensor.bytes.len()).sum();
        let free = memory::host().free as f64 * MEMORY_SHARE;
        let total = all.min(free as usize).max(1);
        let mut read = 0;
        for step in tensors.iter().flat_map(|tensor| tensor.bytes.chunks(STEP_BYTES)) {
            if read >= total {
                break;
            }
            black_box(step.iter().step_by(PAGE_BYTES).fold(0, |sum, byte| sum ^ byte));
            read += step.len();
            if !progress((read as f64 / total as f64).min(1.0)) {
                bail!("superseded by a newer load");
            }
        }
        Ok(())
    }

    /// Bytes of a model of this configuration besides its weights, with a margin for others of `free` bytes.
    pub fn other_bytes(&self, config: &Config, free: Option<u64>) -> Result<u64> {
        let block_bytes =
            Cpu::new(self.cpu()).kv_block_bytes(config.attention_shapes().count(), &config.attention());
        let sequence = self.positions_max(config)?.div_ceil(KV_BLOCK) as u64 * block_bytes as u64;
        Ok(self.cache_bytes_max + sequence + PROGRAM_BYTES + free.map_or(0, place::margin))
    }

    /// Where a model of this configuration is on a GPU of whose memory `free` bytes are free. Fails where it does not fit.
    pub fn gpu_plan(&self, types: &Types, config: &Config, free: u64) -> Result<GpuPlan> {
        let vram_bytes_max = self.vram_bytes_max;
        let budgets = Budgets { vram_bytes_max, cache_bytes_max: self.cache_bytes_max, cpu: self.cpu() };
        let sizes = self.pass_sizes(config)?;
        place::plan(&budgets, types, config, &sizes, SWEEP_MAX.min(sizes.positions_max), free)
    }

    /// The same with the least budget of GPU memory that has `slots` slots for the experts of each of the first `layers` layers.
    /// Fails where that is more than the GPU has free.
    pub fn with_slots(&self, layers: usize, slots: usize) -> Result<Self> {
        let dir = hub::open(self.model.as_deref())?;
        let mut config = Config::read(&dir)?;
        config.layers.truncate(layers);
        let with = |bytes: u64| Self { vram_bytes_max: Some(bytes), ..self.clone() };
        let plan = |bytes: u64| with(bytes).gpu_plan(&Types::Files(&dir), &config, u64::MAX);
        let free = probe::probe()?.memory.free;
        let is_enough = |bytes: u64| plan(bytes).is_ok_and(|plan| plan.slots >= slots);
        if !is_enough(free) {
            let (found, mib) = (plan(free)?.slots, free >> 20);
            bail!(
                "{}: the {mib} MiB that are free hold {found} experts of each layer, not {slots}",
                self.name()
            );
        }
        let (mut less, mut enough) = (0, free);
        while enough - less > 1 {
            let middle = u64::midpoint(less, enough);
            if is_enough(middle) { enough = middle } else { less = middle }
        }
        Ok(with(enough))
    }

    /// Bytes of memory of the host, besides experts, with a model on a GPU, and a margin for others of `free` bytes.
    pub fn other_bytes_beside(&self, gpu: &GpuPlan, free: Option<u64>) -> u64 {
        gpu.saved_bytes_max + gpu.host_bytes + PROGRAM_BYTES + free.map_or(0, place::margin)
    }

    /// Opens the first `layers` layers of the model, without a tokenizer.
    pub fn open_layers(&self, layers: usize) -> Result<LocalSession> {
        let dir = hub::open(self.model.as_deref())?;
        let mut config = Config::read(&dir)?;
        config.layers.truncate(layers);
        Ok(self.session(&dir, config)?.0)
    }

    /// Name and configuration of the model.
    pub fn describe(&self) -> Result<(String, Config)> {
        let dir = hub::open(self.model.as_deref())?;
        Ok((dir.origin().to_owned(), Config::read(&dir)?))
    }

    /// Name of the kernels.
    pub fn kernels(&self) -> String {
        format!("{}{}", self.level, if self.exact { " exact" } else { "" })
    }

    /// The options of the CPU.
    pub fn cpu(&self) -> CpuOptions {
        CpuOptions {
            threads: self.threads,
            delta_chunk_rows_min: DELTA_CHUNK_ROWS_MIN,
            level: self.level,
            exact: self.exact,
            repack: self.repack,
            precision: Precision::F16,
            kv: Precision::F32,
        }
    }

    /// A session, with the name of the GPU where it runs on one.
    fn session(&self, dir: &ModelDir, config: Config) -> Result<(LocalSession, Option<String>)> {
        let sizes = self.pass_sizes(&config)?;
        let (positions_max, sweep_max) = (sizes.positions_max, SWEEP_MAX.min(sizes.positions_max));
        let Some(on_gpu) = place::gpu(self.budgets(), dir, &config, &sizes, sweep_max) else {
            return Ok((self.session_on_cpu(dir, config, positions_max)?, None));
        };
        let name = on_gpu.gpu.name.clone();
        let experts = ExpertOptions::MAPPED;
        let batch_max = on_gpu.plan.rows_max;
        let size = ModelOptions { positions_max, batch_max, sweep_max: batch_max, kv_bytes_max: 0, experts };
        let opened = self.session_on_gpu(dir, config.clone(), size, on_gpu);
        match opened {
            Ok(session) => Ok((session, Some(name))),
            Err(error) => {
                tracing::warn!(
                    "{} runs on the CPU, since loading it to {name} failed: {error:#}",
                    dir.origin()
                );
                Ok((self.session_on_cpu(dir, config, positions_max)?, None))
            }
        }
    }

    /// Sizes of passes on a GPU that holds all experts.
    fn pass_sizes(&self, config: &Config) -> Result<PassSizes> {
        let positions_max = self.positions_max(config)?;
        Ok(config.pass_sizes(BATCH_MAX.min(positions_max), positions_max))
    }

    fn budgets(&self) -> Budgets {
        // The starter model is too small to gain from a GPU.
        let vram_bytes_max = if self.model.is_some() { self.vram_bytes_max } else { Some(0) };
        // A GPU copies experts as they are stored.
        let cpu = CpuOptions { repack: false, ..self.cpu() };
        Budgets { vram_bytes_max, cache_bytes_max: self.cache_bytes_max, cpu }
    }

    fn session_on_gpu(
        &self,
        dir: &ModelDir,
        config: Config,
        size: ModelOptions,
        on_gpu: OnGpu,
    ) -> Result<LocalSession> {
        let OnGpu { backend, plan, .. } = on_gpu;
        let GpuPlan { kept_kv_bytes: kv_bytes_max, saved_bytes_max: state_bytes_max, host_bytes, .. } = plan;
        let experts = match plan.holds_all() {
            true => ExpertOptions::MAPPED,
            false => self.experts.options(state_bytes_max + host_bytes),
        };
        let recorder = self.trace.as_deref().map(Recorder::new);
        let experts = ExpertOptions { is_on_device: true, recorder, ..experts };
        let options = ModelOptions { kv_bytes_max, experts, ..size };
        let model = Model::load(dir, config, options, backend)?;
        session::Session::new(model, SessionOptions { state_bytes_max })
    }

    fn session_on_cpu(&self, dir: &ModelDir, config: Config, positions_max: usize) -> Result<LocalSession> {
        let repack = self.repack && self.has_memory_to_repack(dir);
        let backend = Local::Cpu(Box::new(Cpu::new(CpuOptions { repack, ..self.cpu() })));
        let block_bytes = place::block_bytes(&backend, &config);
        let saved = backend.saved_bytes(config.delta_shapes().count(), &config.delta());
        let (kv_bytes_max, state_bytes_max) = session::split_budget(self.cache_bytes_max, block_bytes, saved);
        let sequence = positions_max.div_ceil(KV_BLOCK) as u64 * block_bytes as u64;
        let experts = ExpertOptions {
            recorder: self.trace.as_deref().map(Recorder::new),
            ..self.experts.options(self.cache_bytes_max + sequence)
        };
        let [batch_max, sweep_max] = [BATCH_MAX, SWEEP_MAX].map(|tokens| tokens.min(positions_max));
        let options = ModelOptions { positions_max, batch_max, sweep_max, kv_bytes_max, experts };
        let model = Model::load(dir, config, options, backend)?;
        if repack {
            dir.files().iter().for_each(|file| file.leave());
        }
        session::Session::new(model, SessionOptions { state_bytes_max })
    }

    /// Whether memory holds a copy of the weights and the prefix cache. Where it does not, that is logged.
    fn has_memory_to_repack(&self, dir: &ModelDir) -> bool {
        let weights: u64 = dir.files().iter().map(|file| file.len() as u64).sum();
        // Rows of a slice are padded to whole words: 50 bytes, those of the narrowest type, to 52.
        let (needed, free) = (weights + weights / 25 + self.cache_bytes_max, memory::host().free);
        if needed > free {
            let [needed, free] = [needed, free].map(HumanBytes);
            tracing::warn!(
                "{} is not repacked: that takes {needed} of memory, and {free} are free",
                dir.origin()
            );
        }
        needed <= free
    }

    fn positions_max(&self, config: &Config) -> Result<usize> {
        let Some(context) = self.context else {
            return Ok((CONTEXT_DEFAULT as usize).min(config.context_max));
        };
        ensure!(
            context as usize <= config.context_max,
            "a context of {context} tokens exceeds the model's {}",
            config.context_max
        );
        Ok(context as usize)
    }
}

impl Opened {
    /// Whether its weights are in memory of its own, so that nothing is gained by reading its files ahead.
    pub fn is_in_memory(&self) -> bool {
        self.is_on_gpu || self.spec.repack || self.session.model().expert_usage().is_some()
    }

    /// The tokenizer, or an error that names what is missing.
    pub fn tokenizer(&self) -> Result<&Tokenizer> {
        self.tokenizer.as_ref().with_context(|| missing_tokenizer(&self.info.name))
    }

    /// Moves the model to an engine thread.
    pub fn into_served(self) -> Result<Served> {
        let tokenizer = self.tokenizer.with_context(|| missing_tokenizer(&self.info.name))?;
        let (spec, profile) = (self.spec, self.profile);
        let idle = spec.vram_idle.filter(|_| self.is_on_gpu);
        let reopen = move |why| match why {
            // A device that has failed may fail again: the CPU is slower, and there.
            Reopen::AfterFailure => Spec { vram_bytes_max: Some(0), ..spec.clone() }.open_layers(usize::MAX),
            Reopen::AfterRest => {
                tracing::info!("a request takes the memory of the GPU again");
                spec.open_layers(usize::MAX)
            }
        };
        let engine = Engine::start_resting(self.session, tokenizer, idle, reopen);
        Ok(Served { info: Some(self.info), ..served(engine, profile) })
    }
}

/// The prompt profile of a model. A damaged one is ignored with a warning.
fn prompt_profile(dir: &ModelDir, config: &Config) -> PromptProfile {
    let family = config.architecture.name();
    let own = dir.prompt_profile().and_then(|own| PromptProfile::of_model(family, own.as_deref()));
    own.unwrap_or_else(|error| {
        tracing::warn!("{}: {error:#}; it is ignored", dir.origin());
        PromptProfile::of_model(family, None).expect("every architecture has one")
    })
}

/// Fails where there is no model at `path` that could be served.
pub fn check(path: &Path) -> Result<()> {
    let dir = hub::open(Some(path))?;
    let config = Config::read(&dir)?;
    for part in architecture::tensors(&config) {
        let source = layout::locate(&dir, &part).with_context(|| dir.origin().to_owned())?;
        for rows in &source.tensors {
            dir.tensor(&rows.tensor)?;
        }
    }
    Tokenizer::read(&dir)?.with_context(|| missing_tokenizer(dir.origin()))?;
    Ok(())
}

fn missing_tokenizer(name: &str) -> String {
    format!(
        "{name}: missing tokenizer (tokenizer.json, or the metadata of a GGUF file); only `generate --ids` and `score --ids` work without"
    )
}
