//! What plans for this machine are made with, whichever command shows them.

use std::path::Path;

use anyhow::Result;

use super::args;
use crate::base::memory;
use crate::bench::plan::{self, Machine, Plan, Rates, Sizes};
use crate::bench::sizes;
use crate::config::Settings;
use crate::daemon::{Client, RuntimeDir};
use crate::hub;
use crate::model::Config;
use crate::resident::Spec;

/// Memory and options of the models that are planned for.
pub(super) struct Planner {
    spec: Spec,
    /// Budget of a model with its caches, in bytes, where one is named.
    budget: Option<u64>,
    /// What a model may take otherwise, in bytes.
    free: u64,
}

/// Flags over settings.
#[derive(Clone, Copy, Default)]
pub(super) struct Overrides {
    pub context: Option<u32>,
    pub threads: Option<u16>,
    /// In bytes.
    pub ram_budget: Option<u64>,
}

impl Planner {
    /// For models in the place of what a daemon holds, `held` bytes.
    pub(super) fn new(settings: &Settings, overrides: Overrides, held: u64) -> Self {
        let Overrides { context, threads, ram_budget } = overrides;
        let threads = threads.or(settings.threads);
        let compute = args::ComputeArgs { threads, kernels: None, exact: false };
        let spec = Spec {
            cache_bytes_max: settings.cache_bytes_max(),
            context: context.or(settings.context.length),
            ..compute.spec()
        };
        let budget = ram_budget.or(settings.experts.ram_bytes_max);
        Self { spec, budget, free: memory::host().free + held }
    }

    /// Options of the CPU.
    pub(super) fn spec(&self) -> &Spec {
        &self.spec
    }

    /// This machine as a model of this configuration finds it.
    pub(super) fn machine(&self, config: &Config, rates: Rates) -> Result<Machine> {
        let other_bytes = self.spec.other_bytes(config, self.budget.is_none())?;
        Ok(Machine { ram_bytes: self.budget.unwrap_or(self.free), other_bytes, rates })
    }

    /// The plan of the model at `path`, and how large it is.
    pub(super) fn of_files(&self, path: &Path, rates: Rates) -> Result<(Plan, Sizes)> {
        let dir = hub::open(Some(path))?;
        let config = Config::read(&dir)?;
        let (sizes, _) = sizes::of_files(&dir, &config)?;
        Ok((plan::plan(&sizes, &self.machine(&config, rates)?), sizes))
    }
}

/// Bytes that a daemon holds, which are free for the model that it loads next; 0 where none runs.
pub(super) fn held() -> u64 {
    let client = RuntimeDir::find().and_then(|runtime_dir| Client::connect(&runtime_dir));
    let status = client.and_then(|client| client.map(Client::status).transpose());
    status.ok().flatten().map_or(0, |status| status.memory_bytes)
}
