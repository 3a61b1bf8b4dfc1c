//! Rows that matrices multiply: f32, and where there are many of them, in pairs of f16 for tensor cores, too.

#![expect(unsafe_code, reason = "a structure that kernels take")]

use anyhow::Result;

use super::Cuda;
use super::driver::{Address, Param};
use super::tiles::TILE_ROWS;
use super::workspace::Space;

/// From how many rows on tensor cores multiply them. Up to four rows are multiplied in f32 with each weight that is read, so
/// that it takes as long as reading the weights; more would be read again, or take longer to multiply than to read.
pub(super) const TENSOR_ROWS_MIN: usize = 5;
/// What packed rows are padded to, in elements: as many as a warp takes at a time.
const PACKED_COLS: usize = 64;
/// Warps of a block, each of which packs a row.
const WARPS: usize = 8;

/// Rows as kernels take them; see `group.cuh`.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Input {
    rows: Address,
    packed: Address,
    scales: Address,
}

// SAFETY: three words.
unsafe impl Param for Input {}

impl Input {
    /// Rows that are multiplied in f32, however many there are.
    pub(super) fn exact(rows: Address) -> Self {
        Self { rows, packed: Address::NULL, scales: Address::NULL }
    }

    /// The rows in f32.
    pub(super) fn rows(&self) -> Address {
        self.rows
    }

    /// Whether there are enough of them for tensor cores.
    pub(super) fn is_packed(&self) -> bool {
        self.packed != Address::NULL
    }
}

/// Visits by expert in device memory; see `tiles`.
#[derive(Clone, Copy)]
pub(super) struct Tiles {
    pub tiles: Address,
    pub count: usize,
    /// All visits of the pass, those of an expert together.
    pub order: Address,
}

/// Workspace for packed rows.
#[derive(Clone, Copy)]
pub(super) struct Packed {
    values: Address,
    scales: Address,
}

impl Packed {
    /// For any of these, one after the other: `[rows, cols]`.
    pub(super) fn new<const N: usize>(space: &mut Space, shapes: [[usize; 2]; N]) -> Result<Self> {
        let values = shapes.map(|[rows, cols]| rows * cols.next_multiple_of(PACKED_COLS));
        let [values, scales] =
            [values, shapes.map(|[rows, _]| rows)].map(|c| c.into_iter().max().unwrap_or(0));
        Ok(Self { values: space.words(values)?, scales: space.words(scales)? })
    }
}

impl Cuda {
    /// `rows` rows of `cols`, packed if there are many.
    pub(super) fn input(&self, x: Address, packed: &Packed, rows: usize, cols: usize) -> Result<Input> {
        if rows < TENSOR_ROWS_MIN {
            return Ok(Input::exact(x));
        }
        let all = Tiles { tiles: Address::NULL, count: 1, order: Address::NULL };
        self.pack_rows(x, packed, &all, rows, cols)
    }

    /// The rows of `cols` that the visits of tiles have.
    pub(super) fn visits(&self, x: Address, packed: &Packed, tiles: &Tiles, cols: usize) -> Result<Input> {
        self.pack_rows(x, packed, tiles, TILE_ROWS, cols)
    }

    fn pack_rows(
        &self,
        x: Address,
        packed: &Packed,
        tiles: &Tiles,
        rows: usize,
        cols: usize,
    ) -> Result<Input> {
        let &Packed { values, scales } = packed;
        let params: [&dyn Param; 7] =
            [&x, &tiles.tiles, &tiles.order, &values, &scales, &(rows as i32), &(cols as i32)];
        let grid = [rows.div_ceil(WARPS), tiles.count, 1];
        self.device.launch(self.rows_kernels.pack_rows, grid, 32 * WARPS, &params)?;
        Ok(Input { rows: x, packed: values, scales })
    }
}
