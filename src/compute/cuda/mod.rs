//! The CUDA backend: everything is in device memory but routed experts that do not fit, which come to slots there or are
//! computed with by the CPU. Work is enqueued in one order, and `finish` waits; in layers with experts on both devices the
//! host looks for a message of the device, and each layer of a long pass is waited for.
//!
//! `probe` says whether there is a GPU to use, without which nothing else here may be called. `driver` is the device, whose
//! operations `batch` puts together and `graphs` launches at once where they came before; `param` is what they take.
//! `memory` is what is allocated on it, `module` the kernels of `kernels`, `matrix` products with weights. `attention`,
//! `delta` and `moe` are the operations, `workspace` the memory that they share. `staging` is what comes back to the host,
//! `saved` what is kept of the recurrence, `saver` copies states there beside the kernels. `hybrid` has what layers share
//! whose experts are on both devices, `split` divides the missing ones; `sweep` computes with the experts of a layer as they
//! pass through device memory, `ring` is that memory, `tiles` the order in which visits are computed.

mod attention;
mod batch;
mod delta;
mod driver;
mod error;
mod graphs;
mod hybrid;
mod matrix;
pub mod measure;
mod memory;
mod module;
mod moe;
mod param;
pub mod probe;
mod ring;
mod saved;
mod saver;
pub mod split;
mod staging;
mod sweep;
mod tiles;
mod workspace;

use std::ops::Range;
use std::sync::Arc;

use anyhow::{Context as _, Error, Result, anyhow, ensure};

use super::cpu::{Cpu, CpuOptions};
use super::experts::{DeviceVisits, ExpertBytes, ExpertShape};
use super::{
    AttentionShape, AttentionWeights, Backend, BlockId, DeltaShape, DeltaWeights, HeadWeights, Interrupted,
    KV_BLOCK, Keep, MoeWeights, Pass, PassOut, PassSizes, Precision, SavedBytes, StoredMatrix,
};
use crate::base::Cancel;
use crate::base::memory::{self as host_memory, Memory, Space as MemorySpace};
use driver::{Address, Device, Function, Param};
use hybrid::{Hybrid, Routed};
use matrix::Output;
use memory::{Arena, Buffer, HostMemory, taken};
use module::{File, Modules};
use saved::Destination;
use saver::Saver;
use split::Visit;
use staging::Staging;
use sweep::Sweep;
use workspace::{Space, Workspace};

/// Rows that are turned to logits at a time.
const HEAD_ROWS: usize = 16;
/// Most threads of a block of a kernel that works on elements.
const THREADS_MAX: usize = 256;
/// Page-locked memory that is enough, in bytes: what does not fit is waited for in parts.
const STAGING_BYTES_MAX: usize = 128 << 20;
/// From how many rows on a pass is waited for layer by layer: it can be cancelled then, and the wait is short beside a layer.
const PACED_ROWS_MIN: usize = 32;
/// Traced rows of a pass that page-locked memory is to hold.
const STAGED_TRACES: usize = 64;

/// What a model without recurrence does not have.
const NO_DELTA: &str = "a model without Gated DeltaNet was announced";
/// What a backend lacks that was told of no passes.
const NOT_PREPARED: &str = "a backend that was not prepared for passes";

/// A precision as kernels are named.
fn name(precision: Precision) -> &'static str {
    match precision {
        Precision::F32 => "f32",
        Precision::F16 => "f16",
    }
}

/// How the CUDA backend computes.
#[derive(Clone, Copy, Debug)]
pub struct CudaOptions {
    /// Device memory for everything, in bytes; allocated at once.
    pub bytes: usize,
    /// The precision of saved states and traces.
    pub precision: Precision,
    /// The precision of keys and values.
    pub kv: Precision,
    /// Slots for routed experts in each layer; all are in device memory where a layer has no more. The others stay with the
    /// host.
    pub expert_slots: usize,
    /// Device memory that experts without slots pass through for long prompts, in bytes; 0 for none.
    pub ring_bytes: usize,
    /// From how many rows on they do; by default as what was measured of this machine favours.
    pub sweep_rows_min: Option<usize>,
    /// Whether short passes are launched as graphs.
    pub graphs: bool,
    /// How the CPU computes with experts that are not in device memory.
    pub cpu: CpuOptions,
}

/// Computes on the first GPU.
pub struct Cuda {
    pass: CudaPass,
    /// Why the device cannot be used any more.
    failure: Option<String>,
    planned: Option<Planned>,
    rows_kernels: RowsKernels,
    moe_kernels: Option<moe::Kernels>,
    delta_kernels: Option<delta::Kernels>,
    maker: matrix::Maker,
    /// Where there are recurrent states.
    saver: Option<Saver>,
    /// For experts that are not in device memory.
    cpu: Cpu,
    /// What layers share whose experts are not all in device memory.
    hybrid: Option<Hybrid>,
    /// The same for passes of many rows.
    sweep: Option<Sweep>,
    modules: Modules,
    sizes: PassSizes,
    options: CudaOptions,
    arena: Arc<Arena>,
    device: Arc<Device>,
}

/// Memory that passes of the planned sizes need.
struct Planned {
    workspace: Workspace,
    staging: Staging<Destination>,
    inputs: Buffer,
    /// Where inputs are put together.
    upload: HostMemory,
}

/// Kernels on rows.
#[derive(Clone, Copy)]
struct RowsKernels {
    rms_norm: Function,
    add: Function,
    pack: Function,
    unpack: Function,
}

/// What a pass brings to the device, in the order it lies there.
#[derive(Clone, Copy)]
struct Inputs {
    /// The position of the first row.
    start: Address,
    /// The block table.
    blocks: Address,
    /// Cosine and sine for each rotated pair of each row.
    angles: Address,
    tokens: Address,
}

/// A pass as it is kept until it is finished; see [`Pass`].
#[derive(Default)]
struct CudaPass {
    start: usize,
    rows: usize,
    cancel: Cancel,
    marks: Vec<usize>,
    traced: Vec<Range<usize>>,
    /// Whether it has begun and was not waited for.
    is_open: bool,
    /// Whether an operation was left out.
    is_incomplete: bool,
    /// Whether experts without slots pass through device memory.
    is_swept: bool,
    /// What has come back so far.
    logits: Vec<f32>,
    hidden: Vec<f32>,
    states: Vec<saved::State>,
    traces: Vec<saved::Trace>,
    routed: Routed,
}

/// Activations, `[rows_max, width]` f32.
pub struct Rows {
    buffer: Buffer,
    width: usize,
    rows_max: usize,
}

/// Threads for `count` elements: whole warps, at most a block's.
fn threads(count: usize) -> usize {
    count.next_multiple_of(32).clamp(32, THREADS_MAX)
}

/// Bytes of device memory that passes of these sizes take, besides weights, the KV cache, and recurrent states.
pub fn working_bytes(sizes: &PassSizes) -> Result<u64> {
    let rows = taken(4 * sizes.rows_max * sizes.hidden) + taken(4 * sizes.vocab);
    let pieces = saver::bytes(sizes, &saved_bytes(sizes, Precision::F32));
    Ok((taken(workspace_bytes(sizes)?) + taken(input_bytes(sizes)) + rows + pieces) as u64)
}

/// Bytes of device memory that long prompts take besides when experts pass through `ring_bytes` of it.
pub fn sweep_bytes(sizes: &PassSizes, ring_bytes: usize) -> u64 {
    (taken(ring_bytes) + sweep::bytes(sizes)) as u64
}

/// Fewest bytes of device memory that experts can pass through whose records take `record_bytes`.
pub fn ring_bytes_min(record_bytes: u64) -> u64 {
    ring::BERTHS_MIN as u64 * (taken(record_bytes as usize) as u64)
}

/// Bytes of device memory that say which of a layer's experts are in its slots; none where all are.
pub fn table_bytes(experts: usize, slots: usize) -> u64 {
    if (1..experts).contains(&slots) { taken(moe::table_bytes(experts)) as u64 } else { 0 }
}

/// Bytes of device memory that `count` matrices of a layout take; `None` where it is no layout of a matrix.
pub fn matrix_bytes(layout: &super::experts::MatrixLayout, count: usize) -> Option<u64> {
    matrix::device_bytes(layout, count).map(|bytes| bytes as u64)
}

/// Bytes of device memory that the recurrent states of a sequence take in one layer.
pub fn recurrent_bytes(shape: &DeltaShape) -> u64 {
    2 * (taken(4 * shape.state_len()) + taken(4 * shape.conv_len().max(1))) as u64
}

/// Elements of a KV block.
pub fn kv_block_len(sizes: &PassSizes) -> usize {
    sizes.attention.map_or(0, |shape| attention::block_len(sizes.attention_layers, &shape))
}

/// Bytes of what is saved of a sequence.
pub fn saved_bytes(sizes: &PassSizes, precision: Precision) -> SavedBytes {
    SavedBytes::new(sizes.delta_layers, &sizes.delta.unwrap_or_default(), precision)
}

/// Bytes of page-locked memory of the host that passes of these sizes take; `record_bytes` are those of an expert where some
/// have no slot, else 0.
pub fn locked_bytes(sizes: &PassSizes, precision: Precision, record_bytes: u64) -> u64 {
    let own = staging_bytes(sizes, precision) + input_bytes(sizes);
    let shared = if record_bytes > 0 { hybrid::locked_bytes(sizes, PACED_ROWS_MIN - 1) } else { 0 };
    (own + shared) as u64 + split::COPIED_MAX as u64 * record_bytes
}

/// Whether kernels are made for these sizes.
pub fn check(sizes: &PassSizes) -> Result<()> {
    if let Some(shape) = &sizes.attention {
        let (width, max) = (shape.head_dim, attention::HEAD_DIM_MAX);
        ensure!(width <= max, "heads of {width} are wider than the {max} that the GPU kernels take");
    }
    if let Some(shape) = &sizes.delta {
        let (width, max) = (shape.key_dim, delta::KEY_DIM_MAX);
        ensure!(width <= max, "keys of {width} are wider than the {max} that the GPU kernels take");
    }
    Ok(())
}

fn workspace_bytes(sizes: &PassSizes) -> Result<usize> {
    let &PassSizes { rows_max, hidden, vocab, .. } = sizes;
    let mut largest = moe::workspace_bytes(sizes, rows_max)?;
    if let Some(shape) = &sizes.attention {
        largest = largest.max(attention::workspace_bytes(shape, hidden, rows_max)?);
    }
    if let Some(shape) = &sizes.delta {
        largest = largest.max(delta::workspace_bytes(shape, hidden, rows_max)?);
    }
    let head = HEAD_ROWS.min(rows_max);
    Ok(largest.max(taken(4 * head * hidden) + taken(4 * head * vocab)))
}

/// Words of the parts of [`Inputs`].
fn input_words(sizes: &PassSizes) -> [usize; 4] {
    let rotary = sizes.attention.map_or(0, |shape| shape.rotary_dim / 2 * 2);
    let words = [1, sizes.positions_max.div_ceil(KV_BLOCK), sizes.rows_max * rotary, sizes.rows_max];
    words.map(|count| count.next_multiple_of(4))
}

fn input_bytes(sizes: &PassSizes) -> usize {
    4 * input_words(sizes).iter().sum::<usize>()
}

/// Bytes of page-locked memory for results: at least the largest that are copied together.
fn staging_bytes(sizes: &PassSizes, precision: Precision) -> usize {
    let trace = sizes.delta.map_or(0, |shape| shape.trace_len() * precision.bytes());
    let logits = 4 * HEAD_ROWS.min(sizes.rows_max) * sizes.vocab;
    let hidden = 4 * sizes.rows_max * sizes.hidden;
    let largest = (sizes.rows_max * trace).max(logits).max(hidden);
    let usual = logits + hidden + sizes.delta_layers * STAGED_TRACES.min(sizes.rows_max) * trace;
    // Parts are aligned.
    largest.max(usual.min(STAGING_BYTES_MAX)) + (1 << 16)
}

impl Cuda {
    /// Opens the GPU that [`probe::probe`] has found. Fails when it has less memory free than the options name.
    pub fn new(options: CudaOptions) -> Result<Self> {
        let device = Device::open()?;
        let arena = Arena::new(device.clone(), options.bytes)?;
        let mut modules = Modules::new(device.clone());
        let mut function = |name: &str| modules.function(File::Rows, name);
        let rows_kernels = RowsKernels {
            rms_norm: function("rms_norm")?,
            add: function("add")?,
            pack: function("pack")?,
            unpack: function("unpack")?,
        };
        Ok(Self {
            maker: matrix::Maker::new(device.clone(), arena.clone()),
            pass: CudaPass::default(),
            failure: None,
            planned: None,
            cpu: Cpu::new(options.cpu),
            saver: None,
            hybrid: None,
            sweep: None,
            moe_kernels: None,
            delta_kernels: None,
            sizes: PassSizes::default(),
            rows_kernels,
            modules,
            options,
            arena,
            device,
        })
    }

    /// Keeps the first error: what the device holds cannot be relied on any more.
    fn keep(&mut self, done: Result<()>) {
        if let Err(error) = done
            && self.failure.is_none()
        {
            self.failure = Some(format!("{error:#}"));
        }
    }

    /// Enqueues an operation of a pass, unless the pass has failed or was cancelled.
    fn enqueue(&mut self, operation: impl FnOnce(&mut Self) -> Result<()>) {
        if self.failure.is_some() {
            return;
        }
        if self.pass.cancel.is_cancelled() {
            self.pass.is_incomplete = true;
            return;
        }
        let done = operation(self);
        self.keep(done);
    }

    fn planned(&mut self) -> Result<&mut Planned> {
        self.planned.as_mut().context(NOT_PREPARED)
    }

    /// Workspace for an operation.
    fn space(&mut self) -> Result<Space> {
        Ok(self.planned()?.workspace.space())
    }

    fn inputs(&mut self) -> Result<Inputs> {
        let [start, blocks, angles, _] = input_words(&self.sizes);
        let at = |words: usize| {
            Ok::<_, Error>(self.planned.as_ref().context(NOT_PREPARED)?.inputs.address().plus(4 * words))
        };
        Ok(Inputs {
            start: at(0)?,
            blocks: at(start)?,
            angles: at(start + blocks)?,
            tokens: at(start + blocks + angles)?,
        })
    }

    fn delta_kernels(&mut self) -> Result<delta::Kernels> {
        self.delta_kernels.context(NO_DELTA)
    }

    fn saver(&mut self) -> Result<&mut Saver> {
        self.saver.as_mut().context(NO_DELTA)
    }

    fn moe_kernels(&mut self) -> Result<moe::Kernels> {
        self.moe_kernels.context("a model without experts was announced")
    }

    /// `out = norm(x)` for `rows` rows.
    fn norm(
        &self,
        x: Address,
        weight: &Buffer,
        out: Address,
        rows: usize,
        width: usize,
        eps: f32,
    ) -> Result<()> {
        let params: [&dyn Param; 5] = [&x, &weight.address(), &out, &(width as i32), &eps];
        self.device.launch(self.rows_kernels.rms_norm, [rows, 1, 1], threads(width.div_ceil(4)), &params)
    }

    /// `x += y`.
    fn add(&self, x: Address, y: Address, count: usize) -> Result<()> {
        let params: [&dyn Param; 3] = [&x, &y, &(count as u64)];
        self.each(self.rows_kernels.add, count, &params)
    }

    /// f32 to 16 bits.
    fn pack(&self, from: Address, to: Address, count: usize) -> Result<()> {
        let params: [&dyn Param; 3] = [&from, &to, &(count as u64)];
        self.each(self.rows_kernels.pack, count, &params)
    }

    /// 16 bits to f32.
    fn unpack(&self, from: Address, to: Address, count: usize) -> Result<()> {
        let params: [&dyn Param; 3] = [&from, &to, &(count as u64)];
        self.each(self.rows_kernels.unpack, count, &params)
    }

    /// A kernel with a thread for each of `count` elements.
    fn each(&self, function: Function, count: usize, params: &[&dyn Param]) -> Result<()> {
        let block = threads(count);
        self.device.launch(function, [count.div_ceil(block), 1, 1], block, params)
    }

    /// Enqueues a copy to the host.
    fn save(&mut self, from: Address, bytes: usize, to: Destination) -> Result<()> {
        if !self.planned()?.staging.fits(bytes) {
            self.read()?;
        }
        self.planned()?.staging.download(from, bytes, to)
    }

    /// Waits, and takes what has come back to where it belongs.
    fn read(&mut self) -> Result<()> {
        let Self { planned, pass, device, saver, .. } = self;
        let Some(planned) = planned else { return device.wait() };
        let numbers = |bytes: &[u8], out: &mut Vec<f32>| {
            out.extend(bytes.as_chunks().0.iter().map(|&bytes| f32::from_ne_bytes(bytes)));
        };
        let done = planned.staging.read(|to, bytes| match to {
            Destination::Traces { first, bytes: width } => {
                for (trace, bytes) in pass.traces[first..].iter_mut().zip(bytes.chunks_exact(width)) {
                    trace.0.extend_from_slice(bytes);
                }
            }
            Destination::Normed => numbers(bytes, &mut pass.routed.normed),
            Destination::Weights => numbers(bytes, &mut pass.routed.weights),
            Destination::Chosen => {
                let chosen = bytes.as_chunks().0.iter().map(|&bytes| u32::from_ne_bytes(bytes));
                pass.routed.chosen.extend(chosen);
            }
            Destination::Hidden => numbers(bytes, &mut pass.hidden),
            Destination::Logits => numbers(bytes, &mut pass.logits),
        });
        saver.iter_mut().for_each(Saver::release);
        done
    }

    /// Enqueues copies of the rows that are kept.
    fn save_hidden(&mut self, x: &Rows) -> Result<()> {
        let keep = Keep { marks: &self.pass.marks, traced: &self.pass.traced };
        let rows: Vec<usize> = keep.hidden_rows().collect();
        for run in rows.chunk_by(|before, after| before + 1 == *after) {
            let row_bytes = 4 * x.width;
            let from = x.buffer.address().plus(run[0] * row_bytes);
            self.save(from, run.len() * row_bytes, Destination::Hidden)?;
        }
        Ok(())
    }

    fn begin_pass(&mut self, pass: &Pass) -> Result<()> {
        self.device.enter()?;
        if self.pass.is_open {
            // Its inputs and results are still in use.
            match &mut self.planned {
                Some(planned) => planned.staging.clear()?,
                None => self.device.wait()?,
            }
        }
        let is_swept = self.favours_sweep(pass.rows);
        let traces = pass.keep.traced_rows().map(|_| saved::Trace::default()).collect();
        let states = match &self.saver {
            Some(saver) => pass.keep.marks.iter().map(|_| saver.state()).collect::<Result<_>>()?,
            None => Vec::new(),
        };
        self.pass = CudaPass {
            start: pass.start,
            rows: pass.rows,
            cancel: pass.cancel.clone(),
            marks: pass.keep.marks.to_vec(),
            traced: pass.keep.traced.to_vec(),
            is_open: true,
            is_incomplete: false,
            is_swept,
            logits: Vec::new(),
            hidden: Vec::new(),
            states,
            traces,
            routed: Routed::default(),
        };
        let is_short = pass.rows < PACED_ROWS_MIN && !pass.blocks.is_empty();
        self.device.set_batching(self.options.graphs && is_short)?;
        if pass.blocks.is_empty() {
            return Ok(());
        }
        let (sizes, inputs) = (self.sizes, self.inputs()?);
        ensure!(pass.rows <= sizes.rows_max, "a pass is larger than was stated");
        let blocks = &pass.blocks[..(pass.start + pass.rows).div_ceil(KV_BLOCK)];
        let angles =
            sizes.attention.map_or_else(Vec::new, |shape| attention::angles(&shape, pass.start, pass.rows));
        let [start_words, blocks_max, ..] = input_words(&sizes);
        ensure!(blocks.len() <= blocks_max, "a pass ends behind the last position that was stated");
        let mut head = vec![0; start_words];
        head[0] = pass.start as u32;
        let head = head.iter().chain(blocks).flat_map(|word| word.to_ne_bytes());
        self.put(0, head, inputs.start)?;
        let angles_at = 4 * (start_words + blocks_max);
        self.put(angles_at, angles.iter().flat_map(|angle| angle.to_ne_bytes()), inputs.angles)
    }

    /// What the states of the pass wait for has been enqueued.
    fn seal_states(&self) -> Result<()> {
        let Some(saver) = &self.saver else { return Ok(()) };
        self.pass.states.iter().try_for_each(|state| saver.seal(state))
    }

    /// Whether experts without slots are to pass through device memory in a pass of `rows` rows.
    fn favours_sweep(&self, rows: usize) -> bool {
        let Some((hybrid, _)) = self.hybrid.as_ref().zip(self.sweep.as_ref()) else { return false };
        let PassSizes { experts, top_k, .. } = self.sizes;
        let visit = Visit { rows, top_k, experts, slots: self.options.expert_slots };
        match self.options.sweep_rows_min {
            Some(rows_min) => rows >= rows_min,
            None => rows >= PACED_ROWS_MIN && hybrid.rates.favours_sweep(&visit),
        }
    }

    /// Enqueues bytes of the inputs, which are put together at `start` of the page-locked memory.
    fn put(&mut self, start: usize, bytes: impl Iterator<Item = u8>, to: Address) -> Result<()> {
        let device = self.device.clone();
        let upload = self.planned()?.upload.as_mut_slice();
        let mut end = start;
        for byte in bytes {
            upload[end] = byte;
            end += 1;
        }
        if start == end {
            return Ok(());
        }
        // SAFETY: the bytes are written again in the next pass, which begins after this one was waited for.
        #[expect(unsafe_code, reason = "a copy from memory that stays as it is")]
        unsafe {
            device.upload_later(&upload[start..end], to)
        }
    }

    fn restore_all(&mut self, states: &mut [delta::Recurrent], from: Option<&saved::State>) -> Result<()> {
        self.device.enter()?;
        let precision = self.options.precision;
        if let Some(from) = from {
            self.saver()?.hold(from)?;
        }
        let mut rest = from.map(saved::State::as_slice);
        for state in states {
            let (recurrent, conv) = state.committed();
            let (count, conv_bytes) = (state.shape().state_len(), 4 * state.shape().conv_len());
            let Some(bytes) = rest else {
                self.device.clear(recurrent, 4 * count)?;
                if conv_bytes > 0 {
                    self.device.clear(conv, conv_bytes)?;
                }
                continue;
            };
            let (packed, bytes) = bytes.split_at(count * precision.bytes());
            match precision {
                Precision::F32 => self.upload_held(packed, recurrent)?,
                Precision::F16 => {
                    let at = self.space()?.words(count.div_ceil(2))?;
                    self.upload_held(packed, at)?;
                    self.unpack(at, recurrent, count)?;
                }
            }
            let (inputs, bytes) = bytes.split_at(conv_bytes);
            if conv_bytes > 0 {
                self.upload_held(inputs, conv)?;
            }
            rest = Some(bytes);
        }
        Ok(())
    }

    /// Enqueues a copy of a part of a state that is held.
    fn upload_held(&self, part: &[u8], to: Address) -> Result<()> {
        // SAFETY: the state is held until the copy was waited for, and nothing writes to it once it was saved.
        #[expect(unsafe_code, reason = "a copy from memory that stays as it is")]
        unsafe {
            self.device.upload_later(part, to)
        }
    }

    fn logits_of(&mut self, weights: &HeadWeights<Self>, rows: Range<usize>, x: &Rows) -> Result<()> {
        let (hidden, vocab) = (weights.output.cols(), weights.output.rows());
        let most = HEAD_ROWS.min(self.sizes.rows_max);
        for first in rows.clone().step_by(most) {
            let count = most.min(rows.end - first);
            let mut space = self.space()?;
            let (normed, logits) = (space.words(count * hidden)?, space.words(count * vocab)?);
            let from = x.buffer.address().plus(4 * first * hidden);
            self.norm(from, &weights.norm, normed, count, hidden, weights.eps)?;
            weights.output.multiply(&self.device, normed, Output::to(logits), count)?;
            self.save(logits, 4 * count * vocab, Destination::Logits)?;
        }
        Ok(())
    }

    fn device_error(&self) -> Option<Error> {
        self.failure.as_ref().map(|failure| anyhow!("{failure}"))
    }
}

impl Backend for Cuda {
    type Matrix = matrix::Matrix;
    type Vector = Buffer;
    type Experts = moe::Experts;
    type Rows = Rows;
    type Kv = attention::Kv;
    type Recurrent = delta::Recurrent;
    type State = saved::State;
    type Trace = saved::Trace;
    type Attention = AttentionWeights<Self>;
    type Delta = DeltaWeights<Self>;
    type Moe = MoeWeights<Self>;
    type Head = HeadWeights<Self>;

    fn memory(&self) -> Memory {
        let MemorySpace { free, total } = self.arena.space();
        Memory { host: host_memory::host(), device: Some(MemorySpace { free, total }) }
    }

    fn expert_visits(&self) -> Option<DeviceVisits> {
        self.hybrid.as_ref().map(|hybrid| DeviceVisits { slots: self.options.expert_slots, ..hybrid.visits })
    }

    fn kv_block_bytes(&self, layers: usize, shape: &AttentionShape) -> usize {
        attention::block_len(layers, shape) * self.options.kv.bytes()
    }

    fn saved_bytes(&self, layers: usize, shape: &DeltaShape) -> SavedBytes {
        SavedBytes::new(layers, shape, self.options.precision)
    }

    fn prepare(&mut self, sizes: &PassSizes) -> Result<()> {
        check(sizes)?;
        self.sizes = *sizes;
        let inputs = self.arena.take(input_bytes(sizes))?;
        self.planned = Some(Planned {
            workspace: Workspace::new(self.arena.take(workspace_bytes(sizes)?)?),
            staging: Staging::new(self.device.clone(), staging_bytes(sizes, self.options.precision))?,
            upload: HostMemory::new(&self.device, inputs.bytes())?,
            inputs,
        });
        if sizes.delta.is_some() {
            let precision = self.options.precision;
            self.delta_kernels = Some(delta::Kernels::new(&mut self.modules, precision)?);
            let saved = saved_bytes(sizes, precision);
            self.saver = Some(Saver::new(&self.device, &self.arena, sizes, &saved)?);
        }
        if sizes.top_k > 0 {
            self.moe_kernels = Some(moe::Kernels::new(&mut self.modules)?);
            self.hybrid = match self.options.expert_slots < sizes.experts {
                true => Some(Hybrid::new(&self.device, &self.arena, sizes, PACED_ROWS_MIN - 1)?),
                false => None,
            };
            if self.hybrid.is_some() && self.options.ring_bytes > 0 {
                let ring_bytes = self.options.ring_bytes;
                let sweep = Sweep::new(&self.device, &self.arena, &mut self.modules, sizes, ring_bytes)?;
                self.sweep = Some(sweep);
            }
        }
        Ok(())
    }

    fn matrix(&mut self, stored: StoredMatrix) -> Result<Self::Matrix> {
        self.maker.matrix(&mut self.modules, &stored).with_context(|| stored.values.name.to_string())
    }

    fn vector(&mut self, values: Vec<f32>) -> Result<Self::Vector> {
        self.device.enter()?;
        let buffer = self.arena.take(size_of_val(&values[..]))?;
        if !values.is_empty() {
            self.device.upload(&values, buffer.address())?;
        }
        Ok(buffer)
    }

    fn experts(
        &mut self,
        layer: usize,
        shape: ExpertShape,
        bytes: Arc<dyn ExpertBytes>,
    ) -> Result<Self::Experts> {
        let slots = self.options.expert_slots;
        let made = if slots >= shape.experts {
            moe::Experts::on_device(&mut self.maker, &mut self.modules, layer, shape, &bytes)
        } else {
            let on_host = self.cpu.experts(layer, shape, bytes)?;
            match slots {
                0 => moe::Experts::on_host(self, shape, on_host),
                _ => moe::Experts::in_slots(self, shape, on_host, slots),
            }
        };
        made.with_context(|| format!("the experts of layer {layer}"))
    }

    fn rows(&mut self, rows_max: usize, width: usize) -> Result<Rows> {
        Ok(Rows { buffer: self.arena.take(4 * rows_max * width)?, width, rows_max })
    }

    fn kv(&mut self, layers: usize, shape: &AttentionShape, blocks_max: usize) -> Result<Self::Kv> {
        let block_len = attention::block_len(layers, shape);
        let kv = attention::Kv::new(&self.arena, &mut self.modules, block_len, blocks_max, self.options.kv);
        kv.context("the KV cache")
    }

    fn recurrent(&mut self, shape: &DeltaShape) -> Result<Self::Recurrent> {
        let mut state = delta::Recurrent::new(&self.arena, shape).context("the recurrent states")?;
        self.restore_all(std::slice::from_mut(&mut state), None)?;
        Ok(state)
    }

    fn copy_block(&mut self, kv: &mut Self::Kv, from: BlockId, to: BlockId) {
        let done = self.device.enter().and_then(|()| kv.copy(&self.device, from, to));
        self.keep(done);
    }

    fn free_block(&mut self, _: &mut Self::Kv, _: BlockId) {}

    fn restore(&mut self, states: &mut [Self::Recurrent], from: Option<&Self::State>) {
        let done = self.restore_all(states, from);
        self.keep(done);
    }

    fn begin(&mut self, pass: &Pass) {
        let done = self.begin_pass(pass);
        self.keep(done);
    }

    fn embed(&mut self, table: &Self::Matrix, tokens: &[u32], x: &mut Rows) {
        self.enqueue(|this| {
            ensure!(tokens.len() <= x.rows_max, "a pass is larger than was stated");
            let [start, blocks, angles, _] = input_words(&this.sizes);
            let to = this.inputs()?.tokens;
            this.put(4 * (start + blocks + angles), tokens.iter().flat_map(|token| token.to_ne_bytes()), to)?;
            table.embed(&this.device, to, tokens.len(), x.buffer.address())
        });
    }

    fn load(&mut self, values: &[f32], x: &mut Rows) {
        self.enqueue(|this| {
            ensure!(values.len() <= x.rows_max * x.width, "a pass is larger than was stated");
            this.device.upload(values, x.buffer.address())
        });
    }

    fn attention(&mut self, weights: &AttentionWeights<Self>, kv: &mut Self::Kv, layer: usize, x: &mut Rows) {
        self.enqueue(|this| this.attend(weights, kv, layer, x.buffer.address()));
    }

    fn delta(&mut self, weights: &DeltaWeights<Self>, state: &mut Self::Recurrent, x: &mut Rows) {
        self.enqueue(|this| this.gated_delta_net(weights, state, x.buffer.address()));
    }

    fn replay(
        &mut self,
        weights: &DeltaWeights<Self>,
        layer: usize,
        traces: &[&Self::Trace],
        state: &mut Self::Recurrent,
    ) {
        self.enqueue(|this| this.replay_traces(weights, layer, traces, state));
    }

    fn moe(&mut self, weights: &MoeWeights<Self>, x: &mut Rows) {
        self.enqueue(|this| {
            this.feed_forward(weights, x.buffer.address())?;
            // Sweeps wait for the router of each layer.
            let is_paced = this.pass.rows >= PACED_ROWS_MIN && !this.pass.is_swept;
            if is_paced { this.device.wait() } else { this.device.flush() }
        });
    }

    fn head(&mut self, weights: &HeadWeights<Self>, rows: Range<usize>, x: &Rows, _: &mut Rows) {
        self.enqueue(|this| this.logits_of(weights, rows, x));
    }

    fn finish(
        &mut self,
        states: &mut [Self::Recurrent],
        x: &Rows,
        _: &Rows,
        out: &mut PassOut<Self>,
    ) -> Result<(), Interrupted> {
        if let Some(error) = self.device_error() {
            return Err(Interrupted::Device(error));
        }
        if self.pass.is_incomplete || self.pass.cancel.is_cancelled() {
            return Err(Interrupted::Cancelled);
        }
        let done = self.save_hidden(x).and_then(|()| self.read());
        let done = done.and_then(|()| self.device.set_batching(false)).and_then(|()| self.seal_states());
        self.keep(done);
        if let Some(error) = self.device_error() {
            return Err(Interrupted::Device(error));
        }
        self.pass.is_open = false;
        let CudaPass { logits, hidden, states: saved, traces, .. } = &mut self.pass;
        out.logits = std::mem::take(logits);
        out.hidden = std::mem::take(hidden);
        out.states = std::mem::take(saved);
        out.traces = std::mem::take(traces);
        states.iter_mut().for_each(delta::Recurrent::commit);
        Ok(())
    }
}
