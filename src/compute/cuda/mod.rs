//! The CUDA backend: everything is in device memory but routed experts that do not fit, which come to slots there or are
//! computed with by the CPU. Work is enqueued in one order, and `finish` waits; in layers with experts on both devices the
//! host looks for a message of the device, and each layer of a long pass is waited for.
//!
//! `probe` says whether there is a GPU to use, without which nothing else here may be called. `driver` is the device, whose
//! operations `batch` puts together and `graphs` launches at once where they came before; `param` is what they take.
//! `memory` is what is allocated on it, `module` the kernels of `kernels`, `matrix` products with weights, `input` the rows
//! that they multiply. `backend` has the operations of a backend, of which `attention`, `delta` and `moe` are the larger ones,
//! `table` has embedding and head, `top` reduces logits, `sizes` is what passes need, and `workspace` the memory that operations
//! share. `staging` is what comes back to the host, `saved` what is kept of the recurrence, `saver` copies states there beside
//! the kernels. `hybrid` has what layers share whose experts are on both devices, `split` divides the missing ones,
//! `page_locks` lets the device copy them from where they are; `sweep` computes with the experts of a layer as they pass through
//! device memory, `ring` is that memory, `tiles` the order in which visits are computed, and `grouping` the same where all
//! experts are there.

mod attention;
mod backend;
mod batch;
mod delta;
mod driver;
mod error;
mod graphs;
mod grouping;
mod hybrid;
mod input;
mod matrix;
pub mod measure;
mod memory;
mod module;
mod moe;
mod page_locks;
mod param;
pub mod probe;
mod ring;
mod saved;
mod saver;
mod sizes;
pub mod split;
mod staging;
mod sweep;
mod table;
mod tiles;
mod top;
mod workspace;

use std::ops::Range;
use std::sync::Arc;

use anyhow::{Context as _, Error, Result, anyhow, ensure};

use super::cpu::{Cpu, CpuOptions};
use super::logits::{IdSet, LogitForm, Logits};
use super::{KV_BLOCK, Keep, Pass, PassSizes, Precision};
use crate::base::Cancel;
use driver::{Address, Device, Function, Param};
use grouping::Grouping;
use hybrid::{Hybrid, Routed};
use input::TENSOR_ROWS_MIN;
use memory::{Arena, Buffer, HostMemory};
use module::{File, Modules};
use saved::Destination;
use saver::Saver;
use sizes::input_words;
pub use sizes::{
    check, grouping_bytes, kv_block_len, locked_bytes, matrix_bytes, recurrent_bytes, ring_bytes_min,
    saved_bytes, sweep_bytes, table_bytes, working_bytes,
};
use split::Visit;
use staging::Staging;
use sweep::Sweep;
pub use table::{HostTables, Table};
use workspace::{Space, Workspace};

/// Rows that are turned to logits at a time.
const HEAD_ROWS: usize = 16;
/// Most threads of a block of a kernel that works on elements.
const THREADS_MAX: usize = 256;
/// From how many rows on a pass is waited for layer by layer: it can be cancelled then, and the wait is short beside a layer.
const PACED_ROWS_MIN: usize = 32;

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
    /// What else stays with the host.
    pub host_tables: HostTables,
    /// How the CPU computes with what is not in device memory.
    pub cpu: CpuOptions,
}

/// Computes on the first GPU.
pub struct Cuda {
    pass: CudaPass,
    /// Why the device cannot be used any more.
    failure: Option<String>,
    planned: Option<Planned>,
    rows_kernels: RowsKernels,
    top_kernels: top::Kernels,
    moe_kernels: Option<moe::Kernels>,
    delta_kernels: Option<delta::Kernels>,
    maker: matrix::Maker,
    /// Where there are recurrent states.
    saver: Option<Saver>,
    /// For what is not in device memory.
    cpu: Cpu,
    /// The ids that can be chosen.
    allowed: IdSet,
    /// What layers share whose experts are not all in device memory.
    hybrid: Option<Hybrid>,
    /// The same for passes of many rows.
    sweep: Option<Sweep>,
    /// For passes of many rows where all are.
    grouping: Option<Grouping>,
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
    /// The ids that can be chosen, a bit each.
    allowed: Buffer,
}

/// Kernels on rows.
#[derive(Clone, Copy)]
struct RowsKernels {
    rms_norm: Function,
    add: Function,
    pack: Function,
    pack_rows: Function,
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
    form: LogitForm,
    /// Whether it has begun and was not waited for.
    is_open: bool,
    /// Whether an operation was left out.
    is_incomplete: bool,
    /// Whether experts without slots pass through device memory.
    is_swept: bool,
    /// What has come back so far.
    logits: Logits,
    head_rows: Vec<f32>,
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
            pack_rows: function("pack_rows")?,
            unpack: function("unpack")?,
        };
        let top_kernels = top::Kernels::new(&mut modules)?;
        Ok(Self {
            maker: matrix::Maker::new(device.clone(), arena.clone()),
            pass: CudaPass::default(),
            failure: None,
            planned: None,
            cpu: Cpu::new(options.cpu),
            allowed: IdSet::default(),
            saver: None,
            hybrid: None,
            sweep: None,
            grouping: None,
            moe_kernels: None,
            delta_kernels: None,
            sizes: PassSizes::default(),
            rows_kernels,
            top_kernels,
            modules,
            options,
            arena,
            device,
        })
    }

    /// Fills its memory with what is no number: for tests, right after [`Cuda::new`].
    pub fn poison(&self) -> Result<()> {
        self.arena.poison()
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
            Destination::Logits => numbers(bytes, &mut pass.logits.whole),
            Destination::HeadRows => numbers(bytes, &mut pass.head_rows),
            Destination::TopLogits => pass.logits.top.extend(top::read(bytes)),
        });
        saver.iter_mut().for_each(Saver::release);
        done
    }

    /// Enqueues copies of the rows that are kept.
    fn save_hidden(&mut self, x: &Rows) -> Result<()> {
        let keep = Keep { marks: &self.pass.marks, traced: &self.pass.traced, logits: self.pass.form };
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
        let state = || self.saver.as_ref().map_or_else(|| Ok(saved::State::default()), Saver::state);
        let states = pass.keep.marks.iter().map(|_| state()).collect::<Result<_>>()?;
        self.pass = CudaPass {
            start: pass.start,
            rows: pass.rows,
            cancel: pass.cancel.clone(),
            marks: pass.keep.marks.to_vec(),
            traced: pass.keep.traced.to_vec(),
            form: pass.keep.logits,
            is_open: true,
            is_incomplete: false,
            is_swept,
            logits: Logits::default(),
            head_rows: Vec::new(),
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
            // Tensor cores multiply the rows.
            Some(rows_min) => rows >= rows_min.max(TENSOR_ROWS_MIN),
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

    fn allow_ids(&mut self, ids: &IdSet) -> Result<()> {
        self.device.enter()?;
        let mut words = vec![0; self.sizes.vocab.div_ceil(32)];
        let count = words.len().min(ids.words().len());
        words[..count].copy_from_slice(&ids.words()[..count]);
        let to = self.planned()?.allowed.address();
        self.allowed = ids.clone();
        self.device.upload(&words, to)
    }

    fn device_error(&self) -> Option<Error> {
        self.failure.as_ref().map(|failure| anyhow!("{failure}"))
    }
}
