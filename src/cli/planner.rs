//! What plans for this machine are made with, whichever command shows them.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::Result;

use super::args;
use crate::base::dtype::DType;
use crate::base::memory;
use crate::bench::hardware::Hardware;
use crate::bench::plan::{self, GpuRates, Machine, Plan, Rates, Sizes};
use crate::bench::sizes;
use crate::config::Settings;
use crate::daemon::{Client, RuntimeDir};
use crate::format::ModelDir;
use crate::hub;
use crate::model::Config;
use crate::model::export::{self, Recipe};
use crate::model::layout::{self, Types};
use crate::resident::{GpuPlan, Spec};

/// Memory and options of the models that are planned for.
pub(super) struct Planner {
    spec: Spec,
    /// Budget of a model with its caches, in bytes, where one is named.
    budget: Option<u64>,
    /// What a model may take otherwise, in bytes.
    free: u64,
    copy: Option<ColdCopy>,
    device: Device,
    /// Whether mapped experts are page-locked for a GPU.
    locks: bool,
}

/// What models are planned for.
#[derive(Clone, Copy, Default)]
pub(super) enum Device {
    /// The CPU of this machine.
    #[default]
    Cpu,
    /// The GPU of this machine, of whose memory these bytes are free.
    Gpu(u64),
    /// A machine that need not be there.
    Named(&'static Hardware),
}

/// A smaller copy of the experts.
#[derive(Clone, Debug)]
pub(super) enum ColdCopy {
    At(PathBuf),
    /// One in a type that need not be there.
    Of(DType),
}

/// The name of a type, or else a path.
impl FromStr for ColdCopy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match export::exportable(text) {
            Ok(dtype) => Ok(Self::Of(dtype)),
            Err(_) if text.is_empty() => Err("must be a path or the name of a type".into()),
            Err(_) => Ok(Self::At(text.into())),
        }
    }
}

/// Flags over settings.
#[derive(Clone, Default)]
pub(super) struct Overrides {
    pub context: Option<u32>,
    pub threads: Option<u16>,
    /// In bytes.
    pub ram_budget: Option<u64>,
    /// In bytes.
    pub vram_budget: Option<u64>,
    pub copy: Option<ColdCopy>,
    pub device: Device,
    /// Whether experts are locked, whatever the settings say.
    pub locks: bool,
}

/// A model that is planned for, and the types of most of its weights and of the smaller copy of its experts.
pub(super) struct Subject {
    pub config: Config,
    pub sizes: Sizes,
    pub dtype: DType,
    pub copy: Option<DType>,
}

impl Planner {
    /// For models in the place of what a daemon holds, `held` bytes.
    pub(super) fn new(settings: &Settings, overrides: Overrides, held: u64) -> Self {
        let Overrides { context, threads, ram_budget, vram_budget, copy, device, locks } = overrides;
        let threads = threads.or(settings.threads);
        let compute = args::ComputeArgs { threads, kernels: None, exact: false, repack: false };
        let spec = Spec {
            cache_bytes_max: settings.cache_bytes_max(),
            context: context.or(settings.context.length),
            vram_bytes_max: vram_budget.or(settings.gpu.vram_bytes_max),
            ..compute.spec()
        };
        let budget = ram_budget.or(settings.experts.ram_bytes_max);
        let copy = copy.or_else(|| settings.experts.cold.clone().map(ColdCopy::At));
        let free = match device {
            Device::Named(machine) => machine.ram_bytes,
            _ => memory::host().free + held,
        };
        let locks = locks || settings.experts.lock;
        Self { spec, budget, free, copy, device, locks }
    }

    /// The machine as a model of this configuration and these types finds it, and why it cannot be on the GPU, if it cannot.
    pub(super) fn machine(
        &self,
        config: &Config,
        types: &Types,
        rates: Rates,
        gpu: Option<GpuRates>,
    ) -> Result<(Machine, Option<String>)> {
        let is_budget_given = self.budget.is_some();
        let shared = (!is_budget_given).then_some(self.free);
        let free = match self.device {
            Device::Cpu => None,
            Device::Gpu(free) => Some(free),
            Device::Named(machine) => Some(machine.vram_bytes),
        };
        let free = free.filter(|_| self.spec.vram_bytes_max != Some(0));
        let planned = gpu.zip(free).map(|(rates, free)| {
            self.spec.gpu_plan(types, config, free).map(|plan| plan::Gpu { plan, rates, locks: self.locks })
        });
        let (gpu, refused) = match planned {
            Some(Ok(gpu)) => (Some(gpu), None),
            Some(Err(error)) => (None, Some(format!("{error:#}"))),
            None => (None, None),
        };
        let other_bytes = match &gpu {
            Some(gpu) => self.spec.other_bytes_beside(&gpu.plan, shared),
            None => self.spec.other_bytes(config, shared)?,
        };
        let ram_bytes = self.budget.unwrap_or(self.free);
        Ok((Machine { ram_bytes, is_budget_given, other_bytes, rates, gpu }, refused))
    }

    /// Where the model at `path` is on a GPU of whose memory `free` bytes are free.
    pub(super) fn on_gpu(&self, path: &Path, free: u64) -> Result<GpuPlan> {
        let dir = hub::open(Some(path))?;
        self.spec.gpu_plan(&Types::Files(&dir), &Config::read(&dir)?, free)
    }

    /// What the machine does in a second with weights of these types; the disk is that of the model at `path`.
    pub(super) fn rates(
        &self,
        dtype: DType,
        copy: Option<DType>,
        path: Option<&Path>,
    ) -> Result<(Rates, Option<GpuRates>)> {
        if let Device::Named(machine) = self.device {
            return Ok((machine.rates.cpu, Some(machine.rates.gpu)));
        }
        let rates = sizes::rates(self.spec.cpu(), dtype, copy, path)?;
        let is_used = matches!(self.device, Device::Gpu(_)) && self.spec.vram_bytes_max != Some(0);
        let gpu = is_used.then(|| sizes::gpu_rates(self.spec.cpu(), dtype)).transpose()?;
        Ok((rates, gpu))
    }

    /// The model of `dir`.
    pub(super) fn of_files(&self, dir: &ModelDir) -> Result<Subject> {
        let config = Config::read(dir)?;
        let (sizes, dtype) = sizes::of_files(dir, &config)?;
        let copy = match &self.copy {
            Some(ColdCopy::At(path)) if !sizes.layers.is_empty() => {
                Some(layout::cold_copy(path, dir, &config)?)
            }
            Some(ColdCopy::Of(dtype)) => {
                Some((sizes::of_copy(&config.clone().as_in_gguf(), *dtype)?, *dtype))
            }
            _ => None,
        };
        Ok(Subject { config, sizes, dtype, copy: None }.with(copy))
    }

    /// A model in the types of a mix. Only a copy that need not be there is planned for.
    pub(super) fn in_mix(&self, config: Config, mix: &Recipe) -> Result<Subject> {
        let (sizes, dtype) = sizes::in_mix(&config, mix)?;
        let copy = match &self.copy {
            Some(ColdCopy::Of(dtype)) => Some((sizes::of_copy(&config, *dtype)?, *dtype)),
            _ => None,
        };
        Ok(Subject { config, sizes, dtype, copy: None }.with(copy))
    }

    /// The plan of the model at `path`, and how large it is. A smaller copy is that of one model: others have none.
    pub(super) fn plan(&self, path: &Path, rates: Rates) -> Result<(Plan, Sizes)> {
        let dir = hub::open(Some(path))?;
        let alone = || Self { copy: None, spec: self.spec.clone(), ..*self }.of_files(&dir);
        let Subject { config, sizes, .. } = self.of_files(&dir).or_else(|_| alone())?;
        let (machine, _) = self.machine(&config, &Types::Files(&dir), rates, None)?;
        Ok((plan::plan(&sizes, &machine), sizes))
    }
}

impl Subject {
    /// The same with a copy of these bytes and this type.
    fn with(self, copy: Option<(u64, DType)>) -> Self {
        let (cold_bytes, copy) = copy.unzip();
        let sizes = Sizes { cold_bytes: cold_bytes.unwrap_or_default(), ..self.sizes };
        Self { sizes, copy, ..self }
    }
}

/// Bytes that a daemon holds, which are free for the model that it loads next; 0 where none runs.
pub(super) fn held() -> u64 {
    let client = RuntimeDir::find().and_then(|runtime_dir| Client::connect(&runtime_dir));
    let status = client.and_then(|client| client.map(Client::status).transpose());
    status.ok().flatten().map_or(0, |status| status.memory_bytes)
}
