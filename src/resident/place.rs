//! Which device a model runs on: the GPU where there is one that holds it, else the CPU.

use std::cell::Cell;

use anyhow::{Context as _, Result, ensure};

use crate::compute::cpu::CpuOptions;
use crate::compute::cuda::probe::{Gpu, probe};
use crate::compute::cuda::{self, Cuda, CudaOptions};
use crate::compute::local::Local;
use crate::compute::{Backend, KV_BLOCK, PassSizes, Precision};
use crate::format::ModelDir;
use crate::model::{Config, layout};
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
    /// Bytes that KV blocks may take besides those of one sequence.
    pub kv_bytes_max: u64,
    /// Bytes of saved states, in memory of the host.
    pub state_bytes_max: u64,
    pub gpu: Gpu,
    /// Whether all experts are in its memory.
    pub holds_all: bool,
    /// Most rows of a pass.
    pub rows_max: usize,
}

/// What a model takes of a GPU's memory, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Needs {
    /// Weights but routed experts.
    trunk: u64,
    /// The KV cache of one sequence.
    kv: u64,
    /// Recurrent states.
    states: u64,
    /// Activations.
    working: u64,
}

impl Needs {
    /// Without routed experts.
    fn total(&self) -> u64 {
        self.trunk + self.kv + self.states + self.working + SLACK_BYTES
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
    cuda::check(sizes)?;
    let (precision, kv) = (Precision::F16, Precision::F16);
    let block_bytes = (cuda::kv_block_len(sizes) * kv.bytes()) as u64;
    let mut sizes = *sizes;
    let mut needs = needs(dir, config, &sizes, block_bytes)?;
    let free = gpu.memory.free;
    let budget = budgets.vram_bytes_max.unwrap_or_else(|| free.saturating_sub(margin(free))).min(free);
    let mib = |bytes: u64| bytes >> 20;
    ensure!(
        needs.total() <= budget,
        "it takes {} MiB of GPU memory ({} of weights that every token reads, {} for a context of {} tokens, {} of states, {} of activations), and \
         {} MiB may be used of the {} MiB that are free (gpu.vram_bytes_max, --vram-budget); a shorter context takes less",
        mib(needs.total()),
        mib(needs.trunk),
        mib(needs.kv),
        sizes.positions_max,
        mib(needs.states),
        mib(needs.working),
        mib(budget),
        mib(free)
    );
    let of_experts = |slots| expert_bytes(dir, config, slots);
    let all_bytes = of_experts(sizes.experts)?;
    if needs.total() + all_bytes > budget {
        let sweeping = PassSizes { rows_max: sweep_max, ..sizes };
        let more = self::needs(dir, config, &sweeping, block_bytes)?;
        if more.total() <= budget {
            (sizes, needs) = (sweeping, more);
        }
    }
    let sizes = &sizes;
    let saved = cuda::saved_bytes(sizes, precision);
    let (kv_wanted, state_bytes_max) =
        session::split_budget(budgets.cache_bytes_max, block_bytes as usize, saved);
    let left = budget - needs.total();
    // Where not all experts fit, most of what is left is for them.
    let kv_bytes_max = kv_wanted.min(left.saturating_sub(all_bytes).max(left / KV_SHARE));
    let for_experts = left - kv_bytes_max;
    let ring_bytes =
        if all_bytes > for_experts { ring(sizes, for_experts, record_bytes(dir, config)?) } else { 0 };
    let sweep_bytes = if ring_bytes > 0 { cuda::sweep_bytes(sizes, ring_bytes as usize) } else { 0 };
    let slots = slots(sizes, for_experts - sweep_bytes, of_experts)?;
    let expert_bytes = of_experts(slots)?;
    let size = |bytes| usize::try_from(bytes).context("an address space for the GPU");
    let backend = Cuda::new(CudaOptions {
        bytes: size(needs.total() + kv_bytes_max + sweep_bytes + expert_bytes)?,
        precision,
        kv,
        expert_slots: slots,
        ring_bytes: size(ring_bytes)?,
        sweep_rows_min: None,
        graphs: true,
        cpu: budgets.cpu,
    })?;
    tracing::info!(
        "{} runs on {gpu}: {} MiB of weights that every token reads, {} MiB of experts ({slots} of {} in each layer), \
         {} MiB for the others to pass through, {} MiB of KV cache, {} MiB of states, {} MiB of activations",
        dir.origin(),
        mib(needs.trunk),
        mib(expert_bytes),
        sizes.experts,
        mib(sweep_bytes),
        mib(needs.kv + kv_bytes_max),
        mib(needs.states),
        mib(needs.working)
    );
    let holds_all = slots == sizes.experts;
    let (backend, rows_max) = (Local::Gpu(Box::new(backend)), sizes.rows_max);
    Ok(OnGpu { backend, kv_bytes_max, state_bytes_max, gpu, holds_all, rows_max })
}

fn needs(dir: &ModelDir, config: &Config, sizes: &PassSizes, block_bytes: u64) -> Result<Needs> {
    let trunk = layout::bytes(dir, config, |matrix, count| match count {
        1 => cuda::matrix_bytes(matrix, 1),
        _ => Some(0),
    })?;
    let states = sizes.delta.map_or(0, |shape| cuda::recurrent_bytes(&shape));
    Ok(Needs {
        trunk,
        kv: sizes.positions_max.div_ceil(KV_BLOCK) as u64 * block_bytes,
        states: states * sizes.delta_layers as u64,
        working: cuda::working_bytes(sizes)?,
    })
}

/// Bytes of GPU memory that routed experts take with `slots` slots in each layer.
fn expert_bytes(dir: &ModelDir, config: &Config, slots: usize) -> Result<u64> {
    let matrices = layout::bytes(dir, config, |matrix, count| match count {
        1 => Some(0),
        _ => cuda::matrix_bytes(matrix, slots.min(count)),
    })?;
    let tables = config.moe_shapes().map(|shape| cuda::table_bytes(shape.experts, slots));
    Ok(matrices + tables.sum::<u64>())
}

/// Bytes that an expert takes on its way through GPU memory, at most.
fn record_bytes(dir: &ModelDir, config: &Config) -> Result<u64> {
    let largest = Cell::new(0);
    layout::bytes(dir, config, |matrix, count| {
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
