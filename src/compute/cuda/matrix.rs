//! Matrices in device memory, in their stored type, and products with them.

#![expect(unsafe_code, reason = "structures that kernels take")]

use std::collections::HashMap;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Weak};

use anyhow::{Context as _, Result, ensure};

use super::driver::{Address, Device, Function, Param};
use super::input::{Input, Tiles};
use super::memory::{Arena, Buffer};
use super::module::{File, Modules};
use super::tiles::TILE_ROWS;
use crate::base::dtype::DType;
use crate::compute::StoredMatrix;
use crate::compute::experts::{MatrixLayout, Part};
use crate::format::blocks::grids::{IQ1, IQ2_S, IQ2_XS, IQ2_XXS, IQ3_S, IQ3_XXS};

/// What rows of types that are stored one by one are padded to, in bytes and in elements: kernels load eight elements.
const ROW_BYTES: usize = 16;
const ROW_ELEMENTS: usize = 8;
/// Warps of a block, each of which computes one output, or of those on tensor cores 16: as `WARPS` of the kernels.
const WARPS: usize = 8;
const TENSOR_ROWS: usize = 16;
/// Rows of activations that a warp multiplies with each weight it reads: as `matmul_*` of the kernels.
const BATCH: usize = 4;
/// Columns that a warp takes at a time on tensor cores: as `CHUNK` of the kernels.
const CHUNK: usize = 64;
/// Warps that keep a large device busy: with fewer, several share the columns of the same outputs.
const WARPS_MIN: usize = 2048;

/// A matrix as kernels take it; see `matrix.cuh`.
#[derive(Clone, Copy)]
#[repr(C)]
struct Described {
    values: Address,
    scales: Address,
    table: Address,
    stride: u64,
    next_values: u64,
    next_scales: u64,
    rows: i32,
    cols: i32,
    scale_rows: i32,
    scale_cols: i32,
}

// SAFETY: six words, then four halves.
unsafe impl Param for Described {}

/// What becomes of a product, as kernels take it.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Output {
    y: Address,
    gate: Address,
    factor: Address,
    adds: i32,
    unused: i32,
}

// SAFETY: three words, then two halves.
unsafe impl Param for Output {}

impl Output {
    /// `y = W x`.
    pub(super) fn to(y: Address) -> Self {
        Self { y, gate: Address::NULL, factor: Address::NULL, adds: 0, unused: 0 }
    }

    /// `y += W x`.
    pub(super) fn adds_to(y: Address) -> Self {
        Self { adds: 1, ..Self::to(y) }
    }

    /// The product is multiplied by silu of `gate`, `[batch, rows]`.
    pub(super) fn gated_by(self, gate: Address) -> Self {
        Self { gate, ..self }
    }

    /// The product is multiplied by sigmoid of `factor`, `[batch]`.
    pub(super) fn scaled_by(self, factor: Address) -> Self {
        Self { factor, ..self }
    }
}

/// Visits of experts in slots, `[rows, top_k]`.
#[derive(Clone, Copy)]
pub(super) struct Visits {
    /// The slot of each, negative for those that are left out.
    pub slots: Address,
    pub rows: usize,
    pub top_k: usize,
}

/// Which rows are multiplied, and with which of the matrices, as kernels take it; see `group.cuh`.
#[derive(Clone, Copy)]
#[repr(C)]
struct Grouped {
    tiles: Address,
    order: Address,
    divisor: i32,
    batch: i32,
}

// SAFETY: two words, then two halves.
unsafe impl Param for Grouped {}

/// The kernels of a weight type.
#[derive(Clone, Copy)]
struct Kernels {
    matvec: Function,
    matmul: Function,
    visit: Function,
    gather: Function,
    group: Function,
    embed: Function,
}

/// A matrix, or several of one layout: the same one of each expert of a layer.
pub struct Matrix {
    described: Described,
    kernels: Kernels,
    layout: MatrixLayout,
    /// Where its bytes are; none where it lies in memory of another owner.
    buffers: Option<Arc<Buffers>>,
}

/// How experts lie one behind the other, from wherever the first one is.
pub(super) struct Records {
    /// Gate, up and down of the first, as if it were at address 0.
    matrices: [Matrix; 3],
    /// Where their values and scales lie in a record, in bytes.
    parts: [Part<Range<usize>>; 3],
    /// From a record to the next.
    bytes: usize,
}

/// Device memory of values and scales, which matrices of the same tensor share.
struct Buffers {
    _values: Buffer,
    _scales: Option<Buffer>,
}

/// A tensor in a mapped file, and where it begins there.
type Place = (PathBuf, u64);

/// What matrices are made with: their kernels, and the codebooks that they share.
pub(super) struct Maker {
    device: Arc<Device>,
    arena: Arc<Arena>,
    tables: HashMap<DType, Buffer>,
    /// Matrices of mapped tensors: an embedding may be the head, too.
    made: HashMap<Place, (Described, Weak<Buffers>)>,
}

/// Bytes from a row to the next in device memory.
fn stride(layout: &MatrixLayout) -> Option<usize> {
    let row = layout.dtype.bytes(layout.cols)?;
    if layout.dtype.is_blocked() {
        return Some(row);
    }
    let whole = layout.dtype.block_bytes() * layout.cols.next_multiple_of(ROW_ELEMENTS);
    Some(whole.next_multiple_of(ROW_BYTES))
}

/// Bytes from a matrix's values to those of the next one: whatever kernels load of a row is aligned then.
fn value_bytes(layout: &MatrixLayout) -> Option<usize> {
    Some(stride(layout)?.checked_mul(layout.rows)?.next_multiple_of(ROW_BYTES))
}

/// Bytes of device memory that `count` matrices take.
pub(super) fn device_bytes(layout: &MatrixLayout, count: usize) -> Option<usize> {
    let values = super::memory::taken(value_bytes(layout)?.checked_mul(count)?);
    Some(values + super::memory::taken(layout.scale_bytes() * count))
}

/// Where values and scales of gate, up and down lie in a record of device memory, and its bytes.
fn record_parts(layouts: &[MatrixLayout; 3]) -> Option<([Part<Range<usize>>; 3], usize)> {
    let mut end = 0usize;
    let mut next = |bytes: usize| {
        let start = end;
        end = start.checked_add(bytes)?.checked_next_multiple_of(ROW_BYTES)?;
        Some(start..start + bytes)
    };
    let mut part = |layout: &MatrixLayout| {
        let values = stride(layout)?.checked_mul(layout.rows)?;
        Some(Part { values: next(values)?, scales: next(layout.scale_bytes())? })
    };
    let [gate, up, down] = layouts;
    let parts = [part(gate)?, part(up)?, part(down)?];
    Some((parts, end))
}

/// The codebook of a type.
fn codebook(dtype: DType) -> Option<&'static [u32]> {
    match dtype {
        DType::Iq2Xxs => Some(&IQ2_XXS),
        DType::Iq2Xs => Some(&IQ2_XS),
        DType::Iq2S => Some(&IQ2_S),
        DType::Iq3Xxs => Some(&IQ3_XXS),
        DType::Iq3S => Some(&IQ3_S),
        DType::Iq1S | DType::Iq1M => Some(&IQ1),
        _ => None,
    }
}

impl Maker {
    pub(super) fn new(device: Arc<Device>, arena: Arc<Arena>) -> Self {
        Self { device, arena, tables: HashMap::new(), made: HashMap::new() }
    }

    /// A copy of a matrix.
    pub(super) fn matrix(&mut self, modules: &mut Modules, stored: &StoredMatrix) -> Result<Matrix> {
        let layout = stored.layout();
        let name = &stored.values.name;
        let (rows, cols) = (layout.rows, layout.cols);
        let is_whole =
            layout.value_bytes().is_some_and(|bytes| bytes > 0 && bytes == stored.values.bytes.len());
        ensure!(is_whole, "tensor {name} is not [{rows}, {cols}]");
        let scales = stored.scale.as_ref().map_or_else(Vec::new, |scale| scale.to_bytes());
        ensure!(
            scales.len() == layout.scale_bytes(),
            "the scales of {name} are not {} values",
            layout.scale_bytes() / size_of::<f32>()
        );
        let place = stored.values.bytes.place().map(|(file, offset)| (file.path().to_owned(), offset));
        if let Some((described, buffers)) = place.as_ref().and_then(|place| self.made.get(place))
            && let Some(buffers) = buffers.upgrade()
            && (described.rows as usize, described.cols as usize) == (rows, cols)
        {
            let kernels = kernels(modules, layout.dtype)?;
            return Ok(Matrix { described: *described, kernels, layout, buffers: Some(buffers) });
        }
        let matrix = self.empty(modules, layout, 1)?;
        self.write(&matrix, 0, &stored.values.bytes, &scales)?;
        if let Some((place, buffers)) = place.zip(matrix.buffers.as_ref()) {
            self.made.insert(place, (matrix.described, Arc::downgrade(buffers)));
        }
        Ok(matrix)
    }

    /// Room for `count` matrices.
    pub(super) fn empty(
        &mut self,
        modules: &mut Modules,
        layout: MatrixLayout,
        count: usize,
    ) -> Result<Matrix> {
        let next_values = value_bytes(&layout).unwrap_or_default();
        // Told before anything is allocated.
        let described = self.describe(&layout, next_values, layout.scale_bytes())?;
        let values = self.arena.take(next_values * count)?;
        let scale_bytes = layout.scale_bytes();
        let scales = if scale_bytes > 0 { Some(self.arena.take(scale_bytes * count)?) } else { None };
        let described = Described {
            values: values.address(),
            scales: scales.as_ref().map_or(Address::NULL, Buffer::address),
            ..described
        };
        let kernels = kernels(modules, layout.dtype)?;
        let buffers = Some(Arc::new(Buffers { _values: values, _scales: scales }));
        Ok(Matrix { described, kernels, layout, buffers })
    }

    /// How experts of these layouts lie as records.
    pub(super) fn records(&mut self, modules: &mut Modules, layouts: &[MatrixLayout; 3]) -> Result<Records> {
        let (parts, bytes) = record_parts(layouts).context("the experts are no matrices")?;
        let mut matrix = |layout: &MatrixLayout, part: &Part<Range<usize>>| {
            let described = self.describe(layout, bytes, bytes)?;
            let address = |range: &Range<usize>| Address::NULL.plus(range.start);
            let described =
                Described { values: address(&part.values), scales: address(&part.scales), ..described };
            let kernels = kernels(modules, layout.dtype)?;
            Ok::<_, anyhow::Error>(Matrix { described, kernels, layout: *layout, buffers: None })
        };
        let [gate, up, down] = layouts;
        let matrices = [matrix(gate, &parts[0])?, matrix(up, &parts[1])?, matrix(down, &parts[2])?];
        Ok(Records { matrices, parts, bytes })
    }

    /// Matrices of a layout without memory yet, each of which begins `next_values` and `next_scales` bytes after the one before.
    fn describe(
        &mut self,
        layout: &MatrixLayout,
        next_values: usize,
        next_scales: usize,
    ) -> Result<Described> {
        let &MatrixLayout { rows, cols, dtype, scale_block } = layout;
        ensure!(scale_block.is_none() || !dtype.is_blocked(), "{dtype} with scales of its own and others");
        let fits = rows <= i32::MAX as usize && cols <= i32::MAX as usize;
        let Some(stride) = stride(layout).filter(|_| next_values > 0 && fits) else {
            anyhow::bail!("[{rows}, {cols}] of {dtype} is no matrix");
        };
        let [scale_rows, scale_cols] = scale_block.unwrap_or([1, 1]);
        Ok(Described {
            values: Address::NULL,
            scales: Address::NULL,
            table: self.table(dtype)?,
            stride: stride as u64,
            next_values: next_values as u64,
            next_scales: (next_scales / size_of::<f32>()) as u64,
            rows: rows as i32,
            cols: cols as i32,
            scale_rows: scale_rows as i32,
            scale_cols: scale_cols as i32,
        })
    }

    /// Writes the n-th of the matrices.
    pub(super) fn write(&self, matrix: &Matrix, n: usize, values: &[u8], scales: &[u8]) -> Result<()> {
        self.device.enter()?;
        let [to, to_scales] = matrix.places(n);
        if values.len() == matrix.value_bytes() {
            self.device.upload(values, to)?;
        } else {
            let mut padded = vec![0; matrix.value_bytes()];
            matrix.lay_out(values, &mut padded);
            self.device.upload(&padded, to)?;
        }
        if !scales.is_empty() {
            self.device.upload(scales, to_scales)?;
        }
        Ok(())
    }

    fn table(&mut self, dtype: DType) -> Result<Address> {
        let Some(table) = codebook(dtype) else { return Ok(Address::NULL) };
        if let Some(buffer) = self.tables.get(&dtype) {
            return Ok(buffer.address());
        }
        self.device.enter()?;
        let buffer = self.arena.take(size_of_val(table))?;
        let address = buffer.address();
        self.device.upload(table, address)?;
        self.tables.insert(dtype, buffer);
        Ok(address)
    }
}

/// How many warps share the columns of the same outputs where `warps` are enough for all: a power of two.
fn splits(warps: usize, cols: usize) -> usize {
    1 << (WARPS_MIN / warps).min(cols.div_ceil(CHUNK)).clamp(1, WARPS).ilog2()
}

fn kernels(modules: &mut Modules, dtype: DType) -> Result<Kernels> {
    let (file, of) = (File::of(dtype), dtype.to_string().to_lowercase());
    let mut function = |kind: &str| modules.function(file, &format!("{kind}_{of}"));
    Ok(Kernels {
        matvec: function("matvec")?,
        matmul: function("matmul")?,
        visit: function("visit")?,
        gather: function("gather")?,
        group: function("group")?,
        embed: function("embed")?,
    })
}

impl Records {
    /// Bytes of a record.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Gate, up or down.
    pub(super) fn matrix(&self, n: usize) -> &Matrix {
        &self.matrices[n]
    }

    /// Where values and scales of that lie in record `expert`, in bytes.
    pub(super) fn places(&self, expert: usize, n: usize) -> [Range<usize>; 2] {
        let Part { values, scales } = &self.parts[n];
        let start = expert * self.bytes;
        [values, scales].map(|range| start + range.start..start + range.end)
    }

    /// Gate, up and down of records from an address on.
    pub(super) fn at(&self, start: Address) -> [Matrix; 3] {
        self.matrices.each_ref().map(|matrix| {
            let Described { values, scales, .. } = matrix.described;
            let has_scales = matrix.scale_bytes() > 0;
            let described = Described {
                values: start.plus(values.0 as usize),
                scales: if has_scales { start.plus(scales.0 as usize) } else { Address::NULL },
                ..matrix.described
            };
            Matrix { described, kernels: matrix.kernels, layout: matrix.layout, buffers: None }
        })
    }
}

impl Matrix {
    /// Outputs.
    pub fn rows(&self) -> usize {
        self.layout.rows
    }

    /// Inputs.
    pub fn cols(&self) -> usize {
        self.layout.cols
    }

    /// Where values and scales of the n-th one are.
    pub(super) fn places(&self, n: usize) -> [Address; 2] {
        let Described { values, scales, next_values, next_scales, .. } = self.described;
        let to_scales = n * next_scales as usize * size_of::<f32>();
        [values.plus(n * next_values as usize), scales.plus(to_scales)]
    }

    /// Bytes of its values in device memory.
    pub(super) fn value_bytes(&self) -> usize {
        self.described.stride as usize * self.layout.rows
    }

    /// Bytes of its scales.
    pub(super) fn scale_bytes(&self) -> usize {
        self.layout.scale_bytes()
    }

    /// Copies stored values as device memory has them: rows may be padded there.
    pub(super) fn lay_out(&self, values: &[u8], out: &mut [u8]) {
        let stride = self.described.stride as usize;
        let row_bytes = values.len() / self.layout.rows;
        if row_bytes == stride {
            return out.copy_from_slice(values);
        }
        for (out, row) in out.chunks_exact_mut(stride).zip(values.chunks_exact(row_bytes)) {
            let (own, padding) = out.split_at_mut(row_bytes);
            own.copy_from_slice(row);
            padding.fill(0);
        }
    }

    /// Enqueues a copy of the n-th one to place `to` of others of the same layout.
    pub(super) fn copy(&self, device: &Device, n: usize, others: &Self, to: usize) -> Result<()> {
        let ([values, scales], [to_values, to_scales]) = (self.places(n), others.places(to));
        device.copy(values, to_values, self.value_bytes())?;
        if self.scale_bytes() > 0 { device.copy(scales, to_scales, self.scale_bytes()) } else { Ok(()) }
    }

    fn blocks(&self) -> (usize, usize) {
        let warps = WARPS.min(self.layout.rows);
        (self.layout.rows.div_ceil(warps), 32 * warps)
    }

    /// Multiplies `batch` rows of `x`.
    pub(super) fn multiply(&self, device: &Device, x: &Input, out: Output, batch: usize) -> Result<()> {
        if x.is_packed() && self.is_for_tensor_cores() {
            let all = Grouped { tiles: Address::NULL, order: Address::NULL, divisor: 1, batch: batch as i32 };
            return self.tiled(device, &all, batch.div_ceil(TILE_ROWS), x, out);
        }
        let (blocks, threads) = self.blocks();
        let (function, rows) =
            if batch == 1 { (self.kernels.matvec, 1) } else { (self.kernels.matmul, BATCH) };
        let grid = [blocks, batch.div_ceil(rows), 1];
        device.launch(function, grid, threads, &[&self.described, &x.rows(), &out, &(batch as i32)])
    }

    /// `y[v] = W_s x[v / top_k]` for each visit v of the expert in slot s. Nothing is added.
    pub(super) fn visit(&self, device: &Device, visits: &Visits, x: Address, out: Output) -> Result<()> {
        let &Visits { slots, rows, top_k } = visits;
        let (blocks, threads) = self.blocks();
        let params: [&dyn Param; 5] = [&self.described, &slots, &(top_k as i32), &x, &out];
        device.launch(self.kernels.visit, [blocks, rows * top_k, 1], threads, &params)
    }

    /// `y[i] +=` the sum over the visits v of row i of `weights[v] W_s x[v]`.
    pub(super) fn gather(
        &self,
        device: &Device,
        visits: &Visits,
        weights: Address,
        x: Address,
        y: Address,
    ) -> Result<()> {
        let &Visits { slots, rows, top_k } = visits;
        let (blocks, threads) = self.blocks();
        let params: [&dyn Param; 6] = [&self.described, &slots, &weights, &(top_k as i32), &x, &y];
        device.launch(self.kernels.gather, [blocks, rows, 1], threads, &params)
    }

    /// `y[v] = W_s x[v / divisor]` for the visits v of `count` tiles; see `tiles`.
    pub(super) fn group(
        &self,
        device: &Device,
        tiles: &Tiles,
        divisor: usize,
        x: &Input,
        out: Output,
    ) -> Result<()> {
        let &Tiles { tiles, count, order } = tiles;
        self.tiled(device, &Grouped { tiles, order, divisor: divisor as i32, batch: 0 }, count, x, out)
    }

    /// Multiplies `count` tiles of rows, which are packed.
    fn tiled(&self, device: &Device, grouped: &Grouped, count: usize, x: &Input, out: Output) -> Result<()> {
        ensure!(x.is_packed(), "rows that are not packed");
        let &MatrixLayout { rows, cols, .. } = &self.layout;
        let splits = splits(rows.div_ceil(TENSOR_ROWS) * count, cols);
        let (blocks, threads) = match self.is_for_tensor_cores() {
            true => (rows.div_ceil(TENSOR_ROWS * WARPS / splits), 32 * WARPS),
            false => self.blocks(),
        };
        let params: [&dyn Param; 5] = [&self.described, grouped, x, &out, &(splits as i32)];
        device.launch(self.kernels.group, [blocks, count, 1], threads, &params)
    }

    /// Whether tensor cores multiply it, which takes weights of up to 65504: those in f32 are meant to be exact.
    fn is_for_tensor_cores(&self) -> bool {
        self.layout.dtype != DType::F32
    }

    /// `x[i]` = the row `tokens[i]`.
    pub(super) fn embed(&self, device: &Device, tokens: Address, count: usize, x: Address) -> Result<()> {
        let threads = super::threads(self.layout.cols.div_ceil(ROW_ELEMENTS));
        let params: [&dyn Param; 3] = [&self.described, &tokens, &x];
        device.launch(self.kernels.embed, [count, 1, 1], threads, &params)
    }
}
