//! Which device a model runs on: the GPU where there is one that holds it, else the CPU.

use std::cell::Cell;
use std::fmt;

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;

use crate::compute::cpu::CpuOptions;
use crate::compute::cuda::probe::{Gpu, probe};
use crate::compute::cuda::{self, Cuda, CudaOptions, HostTables};
use crate::compute::local::Local;
use crate::compute::{Backend, KV_BLOCK, PassSizes, Precision, TableUse};
use crate::format::ModelDir;
use crate::model::Config;
use crate::model::architecture::Role;
use crate::model::layout::Types;
use crate::session;

/// Memory, of the host or of a GPU, that is left to others where no budget is named: this share of what is free,
const MARGIN_SHARE: u64 = 16;
/// and at least this many bytes: a display takes more when windows open.
const MARGIN_BYTES_MIN: u64 = 1 << 29;
/// Share of what is left for experts that more KV blocks may take.
const KV_SHARE: u64 = 4;
/// Share of what is left for experts that others of them may pass through in long prompts.
const RING_SHARE: u64 = 8;
/// Memory for what is small or rounded up, in bytes.
const SLACK_BYTES: u64 = 4 << 20;

/// How keys, values, and what is saved of a sequence are stored.
const PRECISION: Precision = Precision::F16;

/// What a model may take, in bytes, and how the CPU takes part.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budgets {
    /// Of GPU memory; by default what is free less a margin. With 0 no GPU is used.
    pub vram_bytes_max: Option<u64>,
    /// The prefix cache.
    pub cache_bytes_max: u64,
    /// How the CPU computes with experts that do not fit.
    pub cpu: CpuOptions,
}

/// A GPU with room for a model.
pub(super) struct OnGpu {
    pub backend: Local,
    pub gpu: Gpu,
    pub plan: GpuPlan,
}

/// Where a model is in the memory of a GPU, all in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct GpuPlan {
    /// What it may take.
    pub budget_bytes: u64,
    /// Weights but routed experts and what stays with the host.
    pub trunk_bytes: u64,
    /// Whether embedding and head stay with the host, where the CPU works with them;
    pub host_tables: HostTables,
    /// what they take there.
    pub host_bytes: u64,
    /// The KV cache of one sequence.
    pub kv_bytes: u64,
    /// KV blocks that earlier prompts left.
    pub kept_kv_bytes: u64,
    /// Recurrent states.
    pub state_bytes: u64,
    /// Activations.
    pub working_bytes: u64,
    /// Routed experts that have slots, with the tables that say which.
    pub expert_bytes: u64,
    /// What others pass through in long prompts,
    pub ring_bytes: u64,
    /// and that with what else such prompts take.
    pub sweep_bytes: u64,
    /// Most rows of a pass.
    pub rows_max: usize,
    /// Slots of each layer.
    pub slots: usize,
    /// Routed experts of a layer.
    pub experts: usize,
    /// Saved states, in memory of the host.
    pub saved_bytes_max: u64,
    /// Page-locked memory of the host, for results and for experts on their way.
    pub locked_bytes: u64,
}

impl GpuPlan {
    /// What is allocated of the GPU's memory.
    pub fn taken_bytes(&self) -> u64 {
        self.least_bytes() + self.kept_kv_bytes + self.sweep_bytes + self.expert_bytes
    }

    /// Whether all experts are there.
    pub fn holds_all(&self) -> bool {
        self.slots == self.experts
    }

    /// What stays with the host besides experts, for people; `None` where that is nothing.
    pub fn host_part(&self) -> Option<String> {
        let part = match self.host_tables {
            HostTables::None => return None,
            HostTables::Embedding => "the embedding stays",
            HostTables::All => "embedding and head stay",
        };
        Some(format!("{part} with the CPU, which takes {} MiB of memory", self.host_bytes >> 20))
    }

    /// What the model takes without routed experts, for one sequence.
    fn least_bytes(&self) -> u64 {
        self.trunk_bytes + self.kv_bytes + self.state_bytes + self.working_bytes + SLACK_BYTES
    }
}

impl fmt::Display for GpuPlan {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let mib = |bytes: u64| bytes >> 20;
        write!(
            f,
            "{} MiB of weights that every token reads, {} MiB of experts ({} of {} in each layer), {} MiB for the others to pass \
             through, {} MiB of KV cache, {} MiB of states, {} MiB of activations",
            mib(self.trunk_bytes),
            mib(self.expert_bytes),
            self.slots,
            self.experts,
            mib(self.sweep_bytes),
            mib(self.kv_bytes + self.kept_kv_bytes),
            mib(self.state_bytes),
            mib(self.working_bytes)
        )?;
        self.host_part().map_or(Ok(()), |part| write!(f, "; {part}"))
    }
}

/// What is left to others of `free` bytes.
pub(super) fn margin(free: u64) -> u64 {
    (free / MARGIN_SHARE).max(MARGIN_BYTES_MIN)
}

/// The GPU, if there is one that can be used, the model fits and the settings allow it. Says in the log why not. Where not all
/// experts fit, passes may have up to `sweep_max` rows: they read each of the others once.
pub(super) fn gpu(
    budgets: Budgets,
    dir: &ModelDir,
    config: &Config,
    sizes: &PassSizes,
    sweep_max: usize,
) -> Option<OnGpu> {
    if budgets.vram_bytes_max == Some(0) {
        return None;
    }
    let gpu = match probe() {
        Ok(gpu) => gpu,
        Err(absent) if absent.is_absent() => {
            tracing::debug!("{absent}; models run on the CPU");
            return None;
        }
        Err(unusable) => {
            tracing::warn!("the GPU cannot be used: {unusable}; models run on the CPU");
            return None;
        }
    };
    open(budgets, dir, config, sizes, sweep_max, gpu)
        .inspect_err(|error| tracing::warn!("{} runs on the CPU: {error:#}", dir.origin()))
        .ok()
}

fn open(
    budgets: Budgets,
    dir: &ModelDir,
    config: &Config,
    sizes: &PassSizes,
    sweep_max: usize,
    gpu: Gpu,
) -> Result<OnGpu> {
    let plan = plan(&budgets, &Types::Files(dir), config, sizes, sweep_max, gpu.memory.free)?;
    let size = |bytes| usize::try_from(bytes).context("an address space for the GPU");
    let backend = Cuda::new(CudaOptions {
        bytes: size(plan.taken_bytes())?,
        precision: PRECISION,
        kv: PRECISION,
        expert_slots: plan.slots,
        ring_bytes: size(plan.ring_bytes)?,
        sweep_rows_min: None,
        graphs: true,
        host_tables: plan.host_tables,
        cpu: budgets.cpu,
    })?;
    tracing::info!("{} runs on {gpu}: {plan}", dir.origin());
    Ok(OnGpu { backend: Local::Gpu(Box::new(backend)), gpu, plan })
}

/// Where a model is on a GPU of whose memory `free` bytes are free. Where not all experts fit, passes have up to `sweep_max` rows.
/// Fails where it does not fit, with the numbers.
pub(super) fn plan(
    budgets: &Budgets,
    types: &Types,
    config: &Config,
    sizes: &PassSizes,
    sweep_max: usize,
    free: u64,
) -> Result<GpuPlan> {
    cuda::check(sizes)?;
    let block_bytes = (cuda::kv_block_len(sizes) * PRECISION.bytes()) as u64;
    let recurrent = sizes.delta.map_or(0, |shape| cuda::recurrent_bytes(&shape));
    let trunk_bytes = |tables: HostTables| {
        types.bytes(config, |role, matrix, count| {
            let stays = match role {
                Role::Embedding => tables.has(TableUse::Embedding),
                Role::Head => tables.has(TableUse::Head),
                _ => false,
            };
            if count > 1 || stays { Some(0) } else { cuda::matrix_bytes(matrix, 1) }
        })
    };
    let whole_trunk_bytes = trunk_bytes(HostTables::None)?;
    let of_size = |sizes: &PassSizes, host_tables: HostTables| -> Result<GpuPlan> {
        let trunk_bytes = trunk_bytes(host_tables)?;
        Ok(GpuPlan {
            budget_bytes: budgets
                .vram_bytes_max
                .unwrap_or_else(|| free.saturating_sub(margin(free)))
                .min(free),
            trunk_bytes,
            host_tables,
            host_bytes: whole_trunk_bytes - trunk_bytes,
            kv_bytes: sizes.positions_max.div_ceil(KV_BLOCK) as u64 * block_bytes,
            kept_kv_bytes: 0,
            state_bytes: recurrent * sizes.delta_layers as u64,
            working_bytes: cuda::working_bytes(sizes)?,
            expert_bytes: 0,
            ring_bytes: 0,
            sweep_bytes: 0,
            rows_max: sizes.rows_max,
            slots: 0,
            experts: sizes.experts,
            saved_bytes_max: 0,
            locked_bytes: 0,
        })
    };
    let mut least = of_size(sizes, HostTables::None)?;
    for tables in [HostTables::Embedding, HostTables::All] {
        if least.least_bytes() > least.budget_bytes {
            least = of_size(sizes, tables)?;
        }
    }
    let mib = |bytes: u64| bytes >> 20;
    ensure!(
        least.least_bytes() <= least.budget_bytes,
        "it takes {} MiB of GPU memory even with embedding and head on the CPU ({} of weights that every token reads, {} for a context of {} tokens, {} of states, {} of activations), and \
         {} MiB may be used of the {} MiB that are free (gpu.vram_bytes_max, --vram-budget); a shorter context takes less",
        mib(least.least_bytes()),
        mib(least.trunk_bytes),
        mib(least.kv_bytes),
        sizes.positions_max,
        mib(least.state_bytes),
        mib(least.working_bytes),
        mib(least.budget_bytes),
        mib(free)
    );
    let grouping_bytes = cuda::grouping_bytes(sizes);
    let of_experts = |slots| {
        let more = if slots >= sizes.experts { grouping_bytes } else { 0 };
        Ok::<_, anyhow::Error>(expert_bytes(types, config, slots)? + more)
    };
    let (mut sizes, all_bytes) = (*sizes, of_experts(sizes.experts)?);
    if least.least_bytes() + all_bytes > least.budget_bytes {
        let sweeping = PassSizes { rows_max: sweep_max, ..sizes };
        let more = of_size(&sweeping, least.host_tables)?;
        if more.least_bytes() <= more.budget_bytes {
            (sizes, least) = (sweeping, more);
        }
    }
    let sizes = &sizes;
    let saved = cuda::saved_bytes(sizes, PRECISION);
    let (kv_wanted, saved_bytes_max) =
        session::split_budget(budgets.cache_bytes_max, block_bytes as usize, saved);
    let left = least.budget_bytes - least.least_bytes();
    // Where not all experts fit, most of what is left is for them.
    let kept_kv_bytes = kv_wanted.min(left.saturating_sub(all_bytes).max(left / KV_SHARE));
    let for_experts = left - kept_kv_bytes;
    let ring_bytes =
        if all_bytes > for_experts { ring(sizes, for_experts, record_bytes(types, config)?) } else { 0 };
    let sweep_bytes = if ring_bytes > 0 { cuda::sweep_bytes(sizes, ring_bytes as usize) } else { 0 };
    let slots = slots(sizes, for_experts - sweep_bytes, of_experts)?;
    let one = if (1..sizes.experts).contains(&slots) { of_experts(1)? } else { 0 };
    let layers = config.moe_shapes().count().max(1) as u64;
    Ok(GpuPlan {
        kept_kv_bytes,
        expert_bytes: of_experts(slots)?,
        ring_bytes,
        sweep_bytes,
        slots,
        saved_bytes_max,
        locked_bytes: cuda::locked_bytes(sizes, PRECISION, one / layers, ring_bytes as usize),
        ..least
    })
}

/// Bytes of GPU memory that routed experts take with `slots` slots in each layer.
fn expert_bytes(types: &Types, config: &Config, slots: usize) -> Result<u64> {
    let matrices = types.matrix_bytes(config, |_, matrix, count| match count {
        1 => Some(0),
        _ => cuda::matrix_bytes(matrix, slots.min(count)),
    })?;
    let tables = config.moe_shapes().map(|shape| cuda::table_bytes(shape.experts, slots));
    Ok(matrices + tables.sum::<u64>())
}

/// Bytes that an expert takes on its way through GPU memory, at most.
fn record_bytes(types: &Types, config: &Config) -> Result<u64> {
    let largest = Cell::new(0);
    types.matrix_bytes(config, |_, matrix, count| {
        let bytes = cuda::matrix_bytes(matrix, 1)?;
        if count > 1 {
            largest.set(largest.get().max(bytes));
        }
        Some(bytes)
    })?;
    Ok(3 * largest.get())
}

/// Bytes of GPU memory that experts without a slot pass through in long prompts, of `bytes` that all experts may take: those
/// of two layers, if that is no large share; 0 where there is too little.
fn ring(sizes: &PassSizes, bytes: u64, record_bytes: u64) -> u64 {
    let two_layers = 2 * sizes.experts as u64 * record_bytes;
    let ring_bytes = two_layers.min(bytes / RING_SHARE).max(cuda::ring_bytes_min(record_bytes));
    if cuda::sweep_bytes(sizes, ring_bytes as usize) > bytes / 2 { 0 } else { ring_bytes }
}

/// The most slots of each layer that fit `bytes`: all experts, or enough for those that a token visits, or none.
fn slots(sizes: &PassSizes, bytes: u64, of_slots: impl Fn(usize) -> Result<u64>) -> Result<usize> {
    let (mut fit, mut more) = (0, sizes.experts + 1);
    while more - fit > 1 {
        let middle = fit.midpoint(more);
        match of_slots(middle)? <= bytes {
            true => fit = middle,
            false => more = middle,
        }
    }
    Ok(if fit < sizes.top_k { 0 } else { fit })
}

/// Bytes of a KV block where the model runs.
pub(super) fn block_bytes(backend: &Local, config: &Config) -> usize {
    backend.kv_block_bytes(config.attention_shapes().count(), &config.attention())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn experts_pass_through_a_share_of_the_memory() {
        let sizes =
            PassSizes { experts: 512, top_k: 10, rows_max: 1024, hidden: 2048, ..PassSizes::default() };
        let record = 1_700_000;
        assert_eq!(ring(&sizes, 4 << 30, record), (4 << 30) / 8);
        assert_eq!(ring(&sizes, 40 << 30, record), 2 * 512 * record, "two layers");
        assert_eq!(ring(&sizes, 50 << 20, record), 0, "outputs of visits alone take more");
        assert_eq!(ring(&PassSizes { rows_max: 64, ..sizes }, 50 << 20, record), 4 * 1_700_096);
    }

    #[test]
    fn what_is_left_becomes_slots_of_each_layer() {
        let sizes = PassSizes { experts: 512, top_k: 10, ..PassSizes::default() };
        let count = |bytes| slots(&sizes, bytes, |slots| Ok(100 * slots.min(512) as u64 + 7)).unwrap();
        assert_eq!([0, 1006, 1007, 1106, 1107].map(count), [0, 0, 10, 10, 11]);
        assert_eq!([51_206, 51_207, u64::MAX].map(count), [511, 512, 512], "all of them");
        let dense = PassSizes::default();
        assert_eq!(slots(&dense, 1 << 30, |_| Ok(0)).unwrap(), 0);
    }
}
