//! Products of matrices with inputs.

#![expect(
    unsafe_code,
    reason = "threads write disjoint parts of one buffer; inputs are read by pointer, inside checked bounds"
)]
#![expect(
    clippy::needless_range_loop,
    reason = "indices go to several arrays, and closures are not inlined reliably"
)]

use std::cell::Cell;
use std::hint::black_box;
use std::marker::PhantomData;
use std::ops::Range;

use super::context::{Context, Scratch};
use super::matrix::{Form, MatrixRef, Quants, Slice, Values, q3_k_high, q6_k_quants};
use super::packed::SLICE;
use super::quants::{BLOCK, QuantBlock};
use super::scratch::Buffer;
use super::simd::{Kernel, LANES, LINE, Simd};
use crate::base::dtype::DType;
use crate::base::pool::Disjoint;

/// Rows of inputs, `[count, cols]`, in f32 and, where `cols` is a whole number of [`BLOCK`]s, as integers.
pub(super) struct Activations {
    cols: usize,
    /// Elements from a row to the next; zeros fill it up.
    stride: usize,
    values: Buffer<f32>,
    /// `[count, block_stride]`
    blocks: Buffer<QuantBlock>,
}

/// A part of a row of inputs in both forms.
pub(super) struct Row<'a> {
    pub values: &'a mut [f32],
    blocks: &'a mut [QuantBlock],
}

impl Activations {
    /// Workspace for `count` rows of `cols`, whatever was in it.
    pub(super) fn new(scratch: &Scratch, count: usize, cols: usize) -> Self {
        // Rows that begin in the same sets of a cache would evict each other.
        let stride = cols.next_multiple_of(LANES) + LANES;
        let mut values = scratch.values.take(count * stride);
        for row in values.chunks_exact_mut(stride.max(1)) {
            row[cols..].fill(0.0);
        }
        Self { cols, stride, values, blocks: scratch.quants.take(count * block_stride(cols)) }
    }

    /// `count` rows, each written in f32 by `fill(row, out)` on some thread, in both forms.
    pub(super) fn fill(
        context: &mut Context,
        count: usize,
        cols: usize,
        fill: impl Fn(usize, &mut [f32]) + Sync,
    ) -> Self {
        let Context { options, pool, scratch, .. } = context;
        let mut inputs = Self::new(scratch, count, cols);
        let writer = Writer::new(&mut inputs);
        pool.run(count, |i| {
            // SAFETY: this task alone touches its row.
            let row = unsafe { writer.part(i, 0..cols) };
            fill(i, row.values);
            options.level.run(row);
        });
        inputs
    }

    /// A row in f32.
    pub(super) fn row(&self, row: usize) -> &[f32] {
        &self.values[row * self.stride..][..self.cols]
    }

    /// How many rows.
    pub(super) fn count(&self) -> usize {
        self.values.len() / self.stride
    }
}

/// Blocks from a row to the next, for rows of `cols`.
#[inline]
fn block_stride(cols: usize) -> usize {
    if cols.is_multiple_of(BLOCK) { (cols / BLOCK) | 1 } else { 0 }
}

/// Rounds to integers.
impl Kernel for Row<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        for (values, block) in self.values.as_chunks::<BLOCK>().0.iter().zip(self.blocks) {
            let (values, quants) = (values.as_chunks::<LANES>().0, block.quants.as_chunks_mut::<LANES>().0);
            let (a, b) = (simd.load(&values[0]), simd.load(&values[1]));
            let max = simd.max_lane(simd.max(simd.abs(a), simd.abs(b)));
            // Smaller blocks are zeros: 127 / max would overflow.
            let (scale, inverse) = if max > 1e-30 { (max / 127.0, 127.0 / max) } else { (0.0, 0.0) };
            let inverse = simd.splat(inverse);
            let (a, b) = (simd.round(simd.mul(a, inverse)), simd.round(simd.mul(b, inverse)));
            simd.store_bytes(a, &mut quants[0]);
            simd.store_bytes(b, &mut quants[1]);
            let (a, b) = (simd.sum(simd.to_f(a)), simd.sum(simd.to_f(b)));
            block.scale = scale;
            block.sum = scale * (a + b);
            block.half_sums = [scale * a, scale * b];
            block.quant_sums = u32::from(a as i16 as u16) | u32::from(b as i16 as u16) << 16;
        }
    }
}

/// Writes different columns of inputs from different tasks.
pub(super) struct Writer<'a> {
    stride: usize,
    block_stride: usize,
    values: Disjoint<'a, f32>,
    blocks: Disjoint<'a, QuantBlock>,
}

impl<'a> Writer<'a> {
    pub(super) fn new(inputs: &'a mut Activations) -> Self {
        Self {
            stride: inputs.stride,
            block_stride: block_stride(inputs.cols),
            values: Disjoint::new(&mut inputs.values),
            blocks: Disjoint::new(&mut inputs.blocks),
        }
    }

    /// Columns `cols` of a row: whole blocks, or the rest of the row.
    ///
    /// # Safety
    /// No other part alive at the same time may overlap it.
    #[inline]
    pub(super) unsafe fn part(&self, row: usize, cols: Range<usize>) -> Row<'_> {
        let own = if self.block_stride > 0 { cols.start / BLOCK..cols.end / BLOCK } else { 0..0 };
        let first = row * self.block_stride;
        // SAFETY: the ranges are those of `cols`, which the caller promises to be disjoint.
        unsafe {
            Row {
                values: self.values.part(row * self.stride + cols.start..row * self.stride + cols.end),
                blocks: self.blocks.part(first + own.start..first + own.end),
            }
        }
    }
}

/// Rows of a matrix times some of the inputs: calls `store(i, row, values)` with
/// `values[j] = matrix[row + j] . inputs[which[i]]`. A value does not depend on what is computed with it.
pub(super) struct Matmul<'a> {
    pub matrix: MatrixRef<'a>,
    pub rows: Range<usize>,
    pub inputs: &'a Activations,
    pub which: &'a [u32],
    pub store: &'a mut dyn FnMut(usize, usize, &[f32]),
    /// The matrix that this thread probably reads after these rows, and its first row, unless it goes on
    /// with the rows that follow.
    pub next: Option<(MatrixRef<'a>, usize)>,
}

/// Fewer inputs take less time than reading their slice.
const MEMORY_BOUND_BATCH_MAX: usize = 5;

/// Activations that an unpacked slice is used for before the next slice is: their sums stay in the cache.
const GROUP: usize = 128;

impl Kernel for Matmul<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        assert_eq!(self.matrix.cols(), self.inputs.cols);
        let mut workspace = WORKSPACE.take().unwrap_or_default();
        let Workspace { quants, values, sums } = &mut *workspace;
        for first in (0..self.which.len()).step_by(GROUP) {
            let which = &self.which[first..self.which.len().min(first + GROUP)];
            let sums = &mut sums[..which.len()];
            match self.matrix.form() {
                Form::Quants if self.matrix.is_packed() => {
                    self.quants::<S, true>(simd, first, which, quants, sums);
                }
                Form::Quants => self.quants::<S, false>(simd, first, which, quants, sums),
                Form::Values if self.matrix.is_packed() => {
                    self.values::<S, true>(simd, first, which, values, sums);
                }
                Form::Values => self.values::<S, false>(simd, first, which, values, sums),
            }
        }
        WORKSPACE.set(Some(workspace));
    }
}

/// Where a thread unpacks slices and adds up products.
struct Workspace {
    quants: Quants,
    values: Values,
    sums: [[f32; LANES]; GROUP],
}

impl Default for Box<Workspace> {
    fn default() -> Self {
        Box::new(Workspace { quants: Quants::ZERO, values: Values::ZERO, sums: [[0.0; LANES]; GROUP] })
    }
}

thread_local! {
    static WORKSPACE: Cell<Option<Box<Workspace>>> = const { Cell::new(None) };
}

impl Matmul<'_> {
    #[inline(always)]
    fn quants<S: Simd, const PACKED: bool>(
        &mut self,
        simd: S,
        first: usize,
        which: &[u32],
        panel: &mut Quants,
        sums: &mut [[f32; LANES]],
    ) {
        let dtype = self.matrix.dtype();
        let (wide, halved, most) =
            (Quants::wide(dtype), Quants::halved(dtype), S::dots_max(Quants::bits(dtype)));
        let direct_max = Quants::direct_max::<S, PACKED>(dtype);
        let (has_factors, has_mins) = (Quants::has_factors(dtype), Quants::has_mins(dtype));
        let rows = Rows::new(self.inputs, which);
        // What is ahead is asked for where most of the time goes.
        let reading = which.len() < MEMORY_BOUND_BATCH_MAX;
        // Tiles as equal as they can be: a small one takes as long as one twice its size.
        let tiles = which.len().div_ceil(if halved { S::DOTS_HALVED } else { S::DOTS });
        let (tile_min, larger) = (which.len() / tiles, which.len() % tiles);
        for row in self.rows.clone().step_by(LANES) {
            sums.fill([0.0; LANES]);
            macro_rules! direct {
                ($($tile:literal)*) => {
                    match which.len() {
                        $($tile if const { $tile <= S::DIRECT } && $tile <= direct_max => {
                            let sums = sums.first_chunk_mut().expect("a sum for each input");
                            let rows = &rows;
                            simd.call(DirectStrip::<$tile, PACKED> { matmul: self, rows, row, panel, sums });
                            self.finish(first, row, sums);
                            continue;
                        })*
                        _ => {}
                    }
                };
            }
            direct!(1 2 3 4);
            for at in (0..self.matrix.depth()).step_by(SLICE) {
                let ahead = self.ahead(row, at);
                // To prefetch what is in the cache costs less than to decide whether to.
                let early = if reading { ahead.as_ptr() } else { panel.quants.as_ptr().cast() };
                let slice = self.matrix.slice::<PACKED>(self.matrix.strip(row), at, early);
                let block = at / BLOCK;
                let blocks = simd.call(Unpack { panel, slice: &slice });
                let mut i = 0;
                for n in 0..tiles {
                    let tile = tile_min + usize::from(n < larger);
                    let ahead = if n == 0 && !reading { ahead } else { &[] };
                    macro_rules! tiles {
                        ($($tile:literal)*) => {
                            match tile {
                                $($tile if const { $tile <= S::DOTS } => {
                                    let inputs = rows.tile::<$tile>(i, block, blocks);
                                    let sums = sums[i..].first_chunk_mut().expect("a tile of inputs is left");
                                    let panel = &*panel;
                                    macro_rules! call {
                                        ($wide:literal, $halved:literal, $most:literal) => {
                                            simd.call(Tile::<$tile, $wide, $halved, $most> {
                                                inputs, panel, blocks, ahead, sums
                                            })
                                        };
                                    }
                                    macro_rules! scaled {
                                        ($halved:literal, $mins:literal, $most:literal) => {
                                            simd.call(ScaledTile::<$tile, $halved, $mins, $most> {
                                                inputs, panel, ahead, sums
                                            })
                                        };
                                    }
                                    if S::SCALED && has_factors {
                                        match (halved, has_mins, most) {
                                            (false, true, 8..) => scaled!(false, true, 8),
                                            (false, true, _) => scaled!(false, true, 4),
                                            (true, true, _) => scaled!(true, true, 4),
                                            (true, false, 4..) => scaled!(true, false, 4),
                                            (true, false, 2..) => scaled!(true, false, 2),
                                            (true, false, _) => scaled!(true, false, 1),
                                            (false, false, 8..) => scaled!(false, false, 8),
                                            (false, false, 4..) => scaled!(false, false, 4),
                                            (false, false, _) => scaled!(false, false, 1),
                                        }
                                    } else {
                                        match (wide, halved, most) {
                                            (true, ..) => call!(true, false, 8),
                                            (_, true, 4..) => call!(false, true, 4),
                                            (_, true, 2..) if S::DOTS_BOUNDED => call!(false, true, 2),
                                            (_, true, _) if S::DOTS_BOUNDED => call!(false, true, 1),
                                            (_, _, 8..) => call!(false, false, 8),
                                            (_, _, 4..) if S::DOTS_BOUNDED => call!(false, false, 4),
                                            _ => call!(false, false, 1),
                                        }
                                    }
                                })*
                                _ => unreachable!("no tile is larger than the registers allow"),
                            }
                        };
                    }
                    tiles!(1 2 3 4 5 6 7 8);
                    i += tile;
                }
            }
            self.finish(first, row, sums);
        }
    }

    #[inline(always)]
    fn values<S: Simd, const PACKED: bool>(
        &mut self,
        simd: S,
        first: usize,
        which: &[u32],
        panel: &mut Values,
        sums: &mut [[f32; LANES]],
    ) {
        for row in self.rows.clone().step_by(LANES) {
            sums.fill([0.0; LANES]);
            for at in (0..self.matrix.depth()).step_by(SLICE) {
                let slice =
                    self.matrix.slice::<PACKED>(self.matrix.strip(row), at, self.ahead(row, at).as_ptr());
                let cols = panel.unpack(simd, &slice);
                let mut i = 0;
                macro_rules! tiles {
                    ($($tile:literal)*) => {$(
                        while S::SUMS >= $tile && which.len() - i >= $tile {
                            let inputs = ValuesTile::<$tile>::new(self.inputs, &which[i..], at, cols);
                            let sums = sums[i..].first_chunk_mut().expect("a tile of inputs is left");
                            inputs.run(simd, &panel.0[..cols], sums);
                            i += $tile;
                        }
                    )*};
                }
                tiles!(8 6 4 2 1);
            }
            self.finish(first, row, sums);
        }
    }

    /// What is read soon after the slice from column `at` on of the strip from row `row` on. Strips jump from row to row,
    /// which the CPU does not foresee.
    #[inline(always)]
    fn ahead(&self, row: usize, at: usize) -> &[u8] {
        let (at, len) = self.matrix.ahead(row - self.rows.start, at);
        let own = self.matrix.row_bytes() * self.rows.len();
        match self.next {
            Some((matrix, first)) if at >= own => matrix.bytes_behind(first, at - own, len),
            _ => self.matrix.bytes_behind(self.rows.start, at, len),
        }
    }

    #[inline(always)]
    fn finish(&mut self, first: usize, row: usize, sums: &[[f32; LANES]]) {
        let skip = row - self.matrix.strip(row);
        let end = LANES.min(skip + self.rows.end - row);
        for (i, sums) in sums.iter().enumerate() {
            (self.store)(first + i, row, &sums[skip..end]);
        }
    }
}

/// Unpacks a slice to integers; returns how many [`BLOCK`]s it has.
struct Unpack<'a, const PACKED: bool> {
    panel: &'a mut Quants,
    slice: &'a Slice<'a, PACKED>,
}

impl<const PACKED: bool> Kernel for Unpack<'_, PACKED> {
    type Output = usize;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> usize {
        self.panel.unpack(simd, self.slice)
    }
}

/// `sums[t] += panel . inputs[t]`; meanwhile `ahead` is prefetched. `MOST` words of a block are added up at a time: where
/// that is known, loops are unrolled.
struct Tile<'a, const T: usize, const WIDE: bool, const HALVED: bool, const MOST: usize> {
    inputs: QuantsTile<T>,
    panel: &'a Quants,
    blocks: usize,
    ahead: &'a [u8],
    sums: &'a mut [[f32; LANES]; T],
}

impl<const T: usize, const WIDE: bool, const HALVED: bool, const MOST: usize> Kernel
    for Tile<'_, T, WIDE, HALVED, MOST>
{
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { inputs, panel, blocks, ahead, sums } = self;
        let mut total = load(simd, sums);
        let mut ahead = ahead.chunks((ahead.len() / blocks).next_multiple_of(LINE).max(LINE));
        // In the order in which Q6_K has the halves.
        for four in (0..blocks.min(SLICE / BLOCK)).step_by(4) {
            let end = blocks.min(four + 4).min(SLICE / BLOCK);
            for block in four..end {
                simd.prefetch_all(ahead.next().unwrap_or_default());
                inputs.add_block::<S, WIDE, HALVED, MOST>(simd, panel, (block, 0), &mut total);
            }
            if HALVED {
                for block in four..end {
                    inputs.add_block::<S, WIDE, HALVED, MOST>(simd, panel, (block, 1), &mut total);
                }
            }
        }
        store(simd, &total, sums);
    }
}

/// The same for a type whose scales are integers, on a level that multiplies with them.
struct ScaledTile<'a, const T: usize, const HALVED: bool, const MINS: bool, const MOST: usize> {
    inputs: QuantsTile<T>,
    panel: &'a Quants,
    ahead: &'a [u8],
    sums: &'a mut [[f32; LANES]; T],
}

impl<const T: usize, const HALVED: bool, const MINS: bool, const MOST: usize> Kernel
    for ScaledTile<'_, T, HALVED, MINS, MOST>
{
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { inputs, panel, ahead, sums } = self;
        let mut scaled = Aligned([[0.0; LANES]; T]);
        let mut ahead = ahead.chunks((ahead.len() * BLOCK / SLICE).next_multiple_of(LINE).max(LINE));
        for block in 0..SLICE / BLOCK {
            simd.prefetch_all(ahead.next().unwrap_or_default());
            let dots = inputs.scaled_dots::<S, HALVED, MINS, MOST>(simd, panel, block);
            // The compiler would keep these in registers, which the products need, and spill them to other places.
            let scaled = &mut black_box(&mut scaled).0;
            for t in 0..T {
                let (scale, sum) = (inputs.scale(simd, t, block), simd.load(&scaled[t]));
                simd.store(simd.mul_add(simd.to_f(dots[t]), scale, sum), &mut scaled[t]);
            }
        }
        let mut total = load(simd, sums);
        inputs.add_scaled::<S, HALVED, MINS>(simd, panel, &load(simd, &scaled.0), &mut total);
        store(simd, &total, sums);
    }
}

/// Sums in whole cache lines.
#[repr(align(64))]
struct Aligned<const T: usize>([[f32; LANES]; T]);

/// `sums[t] += strip . inputs[t]` where quants go from the file to the products without being stored: for few inputs that is
/// most of the work.
struct DirectStrip<'a, 'm, const T: usize, const PACKED: bool> {
    matmul: &'a Matmul<'m>,
    rows: &'a Rows<'m>,
    row: usize,
    /// Where the scales are unpacked.
    panel: &'a mut Quants,
    sums: &'a mut [[f32; LANES]; T],
}

impl<const T: usize, const PACKED: bool> Kernel for DirectStrip<'_, '_, T, PACKED> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { matmul, rows, row, panel, sums } = self;
        let matrix = matmul.matrix;
        let mut total = load(simd, sums);
        for at in (0..matrix.depth()).step_by(SLICE) {
            let inputs = rows.tile::<T>(0, at / BLOCK, SLICE / BLOCK);
            let slice = matrix.slice::<PACKED>(matrix.strip(row), at, matmul.ahead(row, at).as_ptr());
            match matrix.dtype() {
                DType::Q2K => inputs.two_bits::<S, PACKED, false>(simd, &slice, panel, &mut total),
                DType::Q3K if PACKED => inputs.q3_k(simd, &slice, panel, &mut total),
                DType::Q3K => inputs.two_bits::<S, PACKED, true>(simd, &slice, panel, &mut total),
                DType::Q4K => inputs.q4_k(simd, &slice, panel, &mut total),
                DType::Q6K => inputs.q6_k(simd, &slice, panel, &mut total),
                dtype => unreachable!("quants of {dtype} are stored first"),
            }
        }
        store(simd, &total, sums);
    }
}

#[inline(always)]
fn load<S: Simd, const T: usize>(simd: S, sums: &[[f32; LANES]; T]) -> [S::F; T] {
    let mut total = [simd.splat(0.0); T];
    for t in 0..T {
        total[t] = simd.load(&sums[t]);
    }
    total
}

#[inline(always)]
fn store<S: Simd, const T: usize>(simd: S, total: &[S::F; T], sums: &mut [[f32; LANES]; T]) {
    for t in 0..T {
        simd.store(total[t], &mut sums[t]);
    }
}

/// The quantised rows of up to [`GROUP`] inputs.
struct Rows<'a> {
    first_blocks: [*const QuantBlock; GROUP],
    /// How many rows, and how many blocks each has.
    size: [usize; 2],
    inputs: PhantomData<&'a Activations>,
}

impl<'a> Rows<'a> {
    #[inline(always)]
    fn new(inputs: &'a Activations, which: &[u32]) -> Self {
        let (stride, blocks) = (block_stride(inputs.cols), inputs.cols / BLOCK);
        let mut first_blocks = [std::ptr::null(); GROUP];
        for (first, &row) in first_blocks.iter_mut().zip(which) {
            *first = inputs.blocks[row as usize * stride..][..blocks].as_ptr();
        }
        Self { first_blocks, size: [which.len(), blocks], inputs: PhantomData }
    }

    /// `count` blocks from one on of `T` rows from row `first` on.
    #[inline(always)]
    fn tile<const T: usize>(&self, first: usize, block: usize, count: usize) -> QuantsTile<T> {
        let [rows, blocks] = self.size;
        assert!(first + T <= rows && block + count <= blocks);
        let mut tile = [std::ptr::null(); T];
        for t in 0..T {
            // SAFETY: the blocks are inside the row, as was just checked.
            tile[t] = unsafe { self.first_blocks[first + t].add(block) };
        }
        QuantsTile(tile)
    }
}

/// Integers of some inputs: the blocks of a slice.
struct QuantsTile<const T: usize>([*const QuantBlock; T]);

impl<const T: usize> QuantsTile<T> {
    /// Adds the products with a slice in Q4_K.
    #[inline(always)]
    fn q4_k<S: Simd, const PACKED: bool>(
        &self,
        simd: S,
        slice: &Slice<PACKED>,
        panel: &mut Quants,
        total: &mut [S::F; T],
    ) {
        panel.k_scales(simd, slice);
        let low = simd.splat_i(0x0f0f_0f0f);
        let mut scaled = [simd.splat(0.0); T];
        for pair in 0..SLICE / BLOCK / 2 {
            let mut dots = [[simd.no_dots(); T]; 2];
            for first in [0, 4] {
                let at = 16 + 32 * pair + 4 * first;
                let words = slice.four(simd, at);
                for i in (0..4).step_by(2) {
                    let a = slice.word(simd, &words, at, i);
                    let b = slice.word(simd, &words, at, i + 1);
                    let quants = [simd.and(a, low), simd.and(b, low)];
                    self.add_two(simd, quants, 2 * pair, first + i, &mut dots[0]);
                    let quants = [simd.and(simd.shr(a, 4), low), simd.and(simd.shr(b, 4), low)];
                    self.add_two(simd, quants, 2 * pair + 1, first + i, &mut dots[1]);
                }
            }
            for i in 0..2 {
                let block = 2 * pair + i;
                if S::SCALED {
                    let mut sums = [simd.splat_i(0); T];
                    self.scale_dots(simd, &dots[i], panel, block, &mut sums);
                    self.add_sums(simd, &sums, block, &mut scaled);
                } else {
                    let sums = self.sums(simd, dots[i]);
                    self.add::<S, false>(simd, sums, panel, block, block, total);
                }
            }
        }
        if S::SCALED {
            self.add_scaled::<S, false, true>(simd, panel, &scaled, total);
        }
    }

    /// Adds the products with a slice in Q2_K or, with third bits, in Q3_K.
    #[inline(always)]
    fn two_bits<S: Simd, const PACKED: bool, const THIRD: bool>(
        &self,
        simd: S,
        slice: &Slice<PACKED>,
        panel: &mut Quants,
        total: &mut [S::F; T],
    ) {
        if THIRD {
            panel.q3_k_scales(simd, slice);
        } else {
            panel.q2_k_scales(simd, slice);
        }
        let two = simd.splat_i(0x0303_0303);
        let mut scaled = [simd.splat(0.0); T];
        for four in 0..2 {
            let mut sums = [[simd.splat_i(0); T]; 4];
            if S::SCALED && THIRD {
                for j in 0..4 {
                    sums[j] = self.offsets(simd, panel, 4 * four + j);
                }
            }
            for part in 0..2 {
                let at = if THIRD { 32 } else { 16 } + 32 * four + 16 * part;
                let words = slice.four(simd, at);
                let high = if THIRD { slice.four(simd, 16 * part) } else { words };
                let mut dots = [[simd.no_dots(); T]; 4];
                for i in [0, 2] {
                    let a = slice.word(simd, &words, at, i);
                    let b = slice.word(simd, &words, at, i + 1);
                    for j in 0..4 {
                        let (block, shift) = (4 * four + j, 2 * j as u32);
                        let mut quants =
                            [simd.and(simd.shr(a, shift), two), simd.and(simd.shr(b, shift), two)];
                        if THIRD {
                            for n in 0..2 {
                                let bits = slice.word(simd, &high, 16 * part, i + n);
                                quants[n] = simd.or(quants[n], q3_k_high(simd, bits, block));
                            }
                        }
                        self.add_two(simd, quants, block, 4 * part + i, &mut dots[j]);
                    }
                }
                for j in 0..4 {
                    let (block, half) = (4 * four + j, 2 * (4 * four + j) + part);
                    if S::SCALED {
                        self.scale_dots(simd, &dots[j], panel, half, &mut sums[j]);
                    } else {
                        self.add::<S, true>(simd, self.sums(simd, dots[j]), panel, block, half, total);
                    }
                }
            }
            if S::SCALED {
                for j in 0..4 {
                    self.add_sums(simd, &sums[j], 4 * four + j, &mut scaled);
                }
            }
        }
        match THIRD {
            _ if !S::SCALED => {}
            true => self.add_scaled::<S, true, false>(simd, panel, &scaled, total),
            false => self.add_scaled::<S, true, true>(simd, panel, &scaled, total),
        }
    }

    /// Adds the products with a slice in Q3_K that is packed.
    #[inline(always)]
    fn q3_k<S: Simd, const PACKED: bool>(
        &self,
        simd: S,
        slice: &Slice<PACKED>,
        panel: &mut Quants,
        total: &mut [S::F; T],
    ) {
        panel.q3_k_scales(simd, slice);
        let mut scaled = [simd.splat(0.0); T];
        for block in 0..SLICE / BLOCK {
            let quants = slice.triplets(simd, block);
            self.halved_block::<S, 4>(simd, quants, block, panel, &mut scaled, total);
        }
        if S::SCALED {
            self.add_scaled::<S, true, false>(simd, panel, &scaled, total);
        }
    }

    /// Adds the products with a slice in Q6_K.
    #[inline(always)]
    fn q6_k<S: Simd, const PACKED: bool>(
        &self,
        simd: S,
        slice: &Slice<PACKED>,
        panel: &mut Quants,
        total: &mut [S::F; T],
    ) {
        panel.q6_k_scales(simd, slice);
        let mut scaled = [simd.splat(0.0); T];
        if PACKED {
            for block in 0..SLICE / BLOCK {
                let [a, b, c, d] = slice.sextets(simd, 2 * block);
                let [e, f, g, h] = slice.sextets(simd, 2 * block + 1);
                let quants = [a, b, c, d, e, f, g, h];
                self.halved_block::<S, 2>(simd, quants, block, panel, &mut scaled, total);
            }
        } else {
            for four in 0..2 {
                let at = [64 * four, 64 * four + 32, 128 + 32 * four];
                let mut words = [[[simd.splat_i(0); 4]; 2]; 3];
                for n in 0..3 {
                    for part in 0..2 {
                        words[n][part] = slice.words(simd, at[n] + 16 * part);
                    }
                }
                macro_rules! blocks {
                    ($($j:literal)*) => {$(
                        let mut quants = [simd.splat_i(0); 8];
                        for i in 0..8 {
                            let (nibbles, pairs) = (words[$j % 2][i / 4][i % 4], words[2][i / 4][i % 4]);
                            quants[i] = q6_k_quants(simd, nibbles, pairs, $j);
                        }
                        self.halved_block::<S, 2>(simd, quants, 4 * four + $j, panel, &mut scaled, total);
                    )*};
                }
                blocks!(0 1 2 3);
            }
        }
        if S::SCALED {
            self.add_scaled::<S, true, false>(simd, panel, &scaled, total);
        }
    }

    /// Adds the products with a block of a type with a scale for each half to `scaled` sums, or to `total` on a level that has
    /// none. `MOST` words may be added up before they are scaled.
    #[inline(always)]
    fn halved_block<S: Simd, const MOST: usize>(
        &self,
        simd: S,
        quants: [S::I; 8],
        block: usize,
        panel: &Quants,
        scaled: &mut [S::F; T],
        total: &mut [S::F; T],
    ) {
        let mut sums = [simd.splat_i(0); T];
        if S::SCALED {
            sums = self.offsets(simd, panel, block);
        }
        for part in 0..2 {
            let half = 2 * block + part;
            let mut dots = [simd.no_dots(); T];
            for word in [4 * part, 4 * part + 2] {
                self.add_two(simd, [quants[word], quants[word + 1]], block, word, &mut dots);
                if S::SCALED && (word + 2).is_multiple_of(MOST) {
                    self.scale_dots(simd, &dots, panel, half, &mut sums);
                    dots = [simd.no_dots(); T];
                }
            }
            if !S::SCALED {
                self.add::<S, true>(simd, self.sums(simd, dots), panel, block, half, total);
            }
        }
        if S::SCALED {
            self.add_sums(simd, &sums, block, scaled);
        }
    }

    /// Adds the products with two words of a block.
    #[inline(always)]
    fn add_two<S: Simd>(
        &self,
        simd: S,
        quants: [S::I; 2],
        block: usize,
        word: usize,
        dots: &mut [S::Dots; T],
    ) {
        if S::PAIRS {
            return self.add_pairs(simd, quants, block, word, dots);
        }
        for i in 0..2 {
            for t in 0..T {
                dots[t] = simd.dot(dots[t], quants[i], simd.splat_i(self.word(t, block, word + i)));
            }
        }
    }

    /// The sums in each lane.
    #[inline(always)]
    fn sums<S: Simd>(&self, simd: S, dots: [S::Dots; T]) -> [S::I; T] {
        if S::PAIRS {
            return self.sum_pairs(simd, dots);
        }
        let mut sums = [simd.splat_i(0); T];
        for t in 0..T {
            sums[t] = simd.sum_dots(dots[t]);
        }
        sums
    }

    /// Sums of the products of a block of quants times their factors, as if no quant were too large.
    #[inline(always)]
    fn scaled_dots<S: Simd, const HALVED: bool, const MINS: bool, const MOST: usize>(
        &self,
        simd: S,
        panel: &Quants,
        block: usize,
    ) -> [S::I; T] {
        let parts = if HALVED { 2 } else { 1 };
        let words = BLOCK / 4 / parts;
        let mut sums = if MINS { [simd.splat_i(0); T] } else { self.offsets(simd, panel, block) };
        for part in 0..parts {
            let at = parts * block + part;
            if HALVED && MOST == 2 {
                self.add_scaled_words(simd, panel, block, part * words, at, &mut sums);
                continue;
            }
            for word in (part * words..(part + 1) * words).step_by(MOST) {
                // Few are left to the compiler, which does other things meanwhile.
                let dots = match MOST {
                    4.. => self.ordered_dots::<S, MOST>(simd, panel, block, word),
                    _ => self.some_dots::<S, MOST>(simd, panel, block, word),
                };
                self.scale_dots(simd, &dots, panel, at, &mut sums);
            }
        }
        sums
    }

    /// Adds the products with the four words from `first` on of a block, of which two may be added up before they are
    /// scaled, times the factor `at`.
    #[inline(always)]
    fn add_scaled_words<S: Simd>(
        &self,
        simd: S,
        panel: &Quants,
        block: usize,
        first: usize,
        at: usize,
        sums: &mut [S::I; T],
    ) {
        let (words, factor) = (&panel.quants[block * 8 + first..][..4], &panel.factors[at]);
        macro_rules! pairs {
            ($($i:literal)*) => {$(
                let quants = [simd.load_i(&words[$i]), simd.load_i(&words[$i + 1])];
                for t in 0..T {
                    let x = self.words(t, block)[first..][..4].as_ptr();
                    // SAFETY: there are four words.
                    sums[t] = unsafe { simd.dot_scaled::<$i>(sums[t], quants, x, factor) };
                }
            )*};
        }
        pairs!(0 2);
    }

    /// What is too much in the sums of a block whose quants are too large, negative.
    #[inline(always)]
    fn offsets<S: Simd>(&self, simd: S, panel: &Quants, block: usize) -> [S::I; T] {
        let offset = simd.load_i(&panel.offsets[block]);
        let mut sums = [offset; T];
        for t in 0..T {
            sums[t] = simd.dot_halves(offset, simd.splat_i(self.block(t, block).quant_sums));
        }
        sums
    }

    /// Adds `dots` times the factor `at` to `sums`.
    #[inline(always)]
    fn scale_dots<S: Simd>(
        &self,
        simd: S,
        dots: &[S::Dots; T],
        panel: &Quants,
        at: usize,
        sums: &mut [S::I; T],
    ) {
        let factor = simd.load_i(&panel.factors[at]);
        for t in 0..T {
            sums[t] = simd.add_i(sums[t], simd.scale_dots(dots[t], factor));
        }
    }

    /// Adds the `sums` of a block, which were scaled, times the scales of the inputs.
    #[inline(always)]
    fn add_sums<S: Simd>(&self, simd: S, sums: &[S::I; T], block: usize, scaled: &mut [S::F; T]) {
        for t in 0..T {
            scaled[t] = simd.mul_add(simd.to_f(sums[t]), self.scale(simd, t, block), scaled[t]);
        }
    }

    /// The scale of a block of an input.
    #[inline(always)]
    fn scale<S: Simd>(&self, simd: S, t: usize, block: usize) -> S::F {
        simd.splat(self.block(t, block).scale)
    }

    /// Adds what `scaled` sums of a slice stand for, and takes away its minima.
    #[inline(always)]
    fn add_scaled<S: Simd, const HALVED: bool, const MINS: bool>(
        &self,
        simd: S,
        panel: &Quants,
        scaled: &[S::F; T],
        total: &mut [S::F; T],
    ) {
        let unit = simd.load(&panel.unit);
        for t in 0..T {
            total[t] = simd.mul_add(scaled[t], unit, total[t]);
        }
        let parts = if HALVED { 2 } else { 1 };
        if !MINS {
            return;
        }
        for at in 0..parts * SLICE / BLOCK {
            let min = simd.load(&panel.mins[at]);
            for t in 0..T {
                let x = self.block(t, at / parts);
                let sum = if HALVED { x.half_sums[at % 2] } else { x.sum };
                total[t] = simd.mul_sub(min, simd.splat(sum), total[t]);
            }
        }
    }

    /// Adds the products with one block of quants, or with half of one.
    #[inline(always)]
    fn add_block<S: Simd, const WIDE: bool, const HALVED: bool, const MOST: usize>(
        &self,
        simd: S,
        panel: &Quants,
        (block, part): (usize, usize),
        total: &mut [S::F; T],
    ) {
        let parts = if HALVED { 2 } else { 1 };
        let words = BLOCK / 4 / parts;
        let words = part * words..(part + 1) * words;
        let dots = match WIDE {
            _ if S::PAIRS => self.pair_dots(simd, panel, block, words),
            true => self.wide_dots(simd, panel, block),
            false => self.dots::<S, MOST>(simd, panel, block, words),
        };
        self.add::<S, HALVED>(simd, dots, panel, block, parts * block + part, total);
    }

    /// Adds what the sums of the products of a block, or of the half `at`, stand for.
    #[inline(always)]
    fn add<S: Simd, const HALVED: bool>(
        &self,
        simd: S,
        dots: [S::I; T],
        panel: &Quants,
        block: usize,
        at: usize,
        total: &mut [S::F; T],
    ) {
        let (scale, min) = (simd.load(&panel.scales[at]), simd.load(&panel.mins[at]));
        for t in 0..T {
            let x = self.block(t, block);
            let sum = if HALVED { x.half_sums[at % 2] } else { x.sum };
            let scaled = simd.mul(simd.to_f(dots[t]), scale);
            total[t] = simd.mul_add(scaled, simd.splat(x.scale), total[t]);
            total[t] = simd.mul_sub(min, simd.splat(sum), total[t]);
        }
    }

    /// Sums of the products of `words` of a block, of which `MOST` are added up at a time.
    #[inline(always)]
    fn dots<S: Simd, const MOST: usize>(
        &self,
        simd: S,
        panel: &Quants,
        block: usize,
        words: Range<usize>,
    ) -> [S::I; T] {
        let mut sums = self.sums(simd, self.some_dots::<S, MOST>(simd, panel, block, words.start));
        for word in (words.start + MOST..words.end).step_by(MOST) {
            let more = self.sums(simd, self.some_dots::<S, MOST>(simd, panel, block, word));
            for t in 0..T {
                sums[t] = simd.add_i(sums[t], more[t]);
            }
        }
        sums
    }

    /// The products with `MOST` words from `first` on.
    #[inline(always)]
    fn some_dots<S: Simd, const MOST: usize>(
        &self,
        simd: S,
        panel: &Quants,
        block: usize,
        first: usize,
    ) -> [S::Dots; T] {
        let mut dots = [simd.no_dots(); T];
        let panel = panel.quants[block * 8 + first..].first_chunk::<MOST>().expect("words of a block");
        for i in 0..MOST {
            let quants = simd.load_i(&panel[i]);
            for t in 0..T {
                dots[t] = simd.dot(dots[t], quants, simd.splat_i(self.word(t, block, first + i)));
            }
        }
        dots
    }

    /// The same without a loop over the words.
    #[inline(always)]
    fn ordered_dots<S: Simd, const MOST: usize>(
        &self,
        simd: S,
        panel: &Quants,
        block: usize,
        first: usize,
    ) -> [S::Dots; T] {
        let mut dots = [simd.no_dots(); T];
        let panel = panel.quants[block * 8 + first..].first_chunk::<MOST>().expect("words of a block");
        let quants = simd.load_i(&panel[0]);
        for t in 0..T {
            dots[t] = simd.dot(dots[t], quants, simd.splat_i(self.word(t, block, first)));
        }
        macro_rules! words {
            ($($i:literal)*) => {$(
                if $i < MOST {
                    let quants = simd.load_i(&panel[$i]);
                    for t in 0..T {
                        let x = self.words(t, block)[first..].as_ptr();
                        // SAFETY: the block has the `MOST` words.
                        dots[t] = unsafe { simd.dot_word::<$i>(dots[t], quants, x) };
                    }
                }
            )*};
        }
        words!(1 2 3 4 5 6 7);
        dots
    }

    /// Sums of the products of a block of wide quants.
    #[inline(always)]
    fn wide_dots<S: Simd>(&self, simd: S, panel: &Quants, block: usize) -> [S::I; T] {
        let mut sums = [simd.splat_i(0); T];
        let panel = panel.quants[block * 8..].first_chunk::<8>().expect("words of a block");
        for i in 0..8 {
            let quants = simd.load_i(&panel[i]);
            for t in 0..T {
                sums[t] = simd.dot_wide(sums[t], quants, simd.splat_i(self.word(t, block, i)));
            }
        }
        sums
    }

    /// Sums of the products of `words` of a block of any type, by pairs of inputs.
    #[inline(always)]
    fn pair_dots<S: Simd>(&self, simd: S, panel: &Quants, block: usize, words: Range<usize>) -> [S::I; T] {
        let mut dots = [simd.no_dots(); T];
        for word in words.step_by(2) {
            let quants = &panel.quants[block * 8 + word..][..2];
            let quants = [simd.load_i(&quants[0]), simd.load_i(&quants[1])];
            self.add_pairs(simd, quants, block, word, &mut dots);
        }
        self.sum_pairs(simd, dots)
    }

    /// Adds the products with two words to sums of pairs of inputs and, where their number is odd, of the last.
    #[inline(always)]
    fn add_pairs<S: Simd>(
        &self,
        simd: S,
        quants: [S::I; 2],
        block: usize,
        word: usize,
        dots: &mut [S::Dots; T],
    ) {
        for t in (0..T / 2 * 2).step_by(2) {
            let x = [self.two_words(t, block, word), self.two_words(t + 1, block, word)];
            [dots[t], dots[t + 1]] = simd.dot_pair([dots[t], dots[t + 1]], quants, x);
        }
        if T % 2 == 1 {
            for i in 0..2 {
                let x = simd.splat_i(self.word(T - 1, block, word + i));
                dots[T - 1] = simd.dot(dots[T - 1], quants[i], x);
            }
        }
    }

    #[inline(always)]
    fn sum_pairs<S: Simd>(&self, simd: S, dots: [S::Dots; T]) -> [S::I; T] {
        let mut sums = [simd.splat_i(0); T];
        for t in (0..T / 2 * 2).step_by(2) {
            [sums[t], sums[t + 1]] = simd.sum_pair([dots[t], dots[t + 1]]);
        }
        if T % 2 == 1 {
            sums[T - 1] = simd.sum_dots(dots[T - 1]);
        }
        sums
    }

    /// Eight integers of an input.
    #[inline(always)]
    fn two_words(&self, t: usize, block: usize, word: usize) -> u64 {
        u64::from(self.word(t, block, word)) | u64::from(self.word(t, block, word + 1)) << 32
    }

    /// Four integers of an input.
    #[inline(always)]
    fn word(&self, t: usize, block: usize, word: usize) -> u32 {
        debug_assert!(word < BLOCK / 4);
        // SAFETY: a block has eight words.
        unsafe { *self.words(t, block).get_unchecked(word) }
    }

    /// The words of a block.
    #[inline(always)]
    fn words(&self, t: usize, block: usize) -> &[u32; BLOCK / 4] {
        // SAFETY: a block begins with them, and is as aligned as they are.
        unsafe { &*std::ptr::from_ref(self.block(t, block)).cast() }
    }

    /// A block of an input.
    #[inline(always)]
    fn block(&self, t: usize, block: usize) -> &QuantBlock {
        // SAFETY: the tile was made with the blocks of the slice, of which all that are asked for are.
        unsafe { &*self.0[t].add(block) }
    }
}

/// f32 elements of some inputs from one column on.
struct ValuesTile<const T: usize>([*const f32; T]);

impl<const T: usize> ValuesTile<T> {
    /// The pointers are good for `cols` elements.
    #[inline(always)]
    fn new(inputs: &Activations, which: &[u32], at: usize, cols: usize) -> Self {
        let mut tile = [std::ptr::null(); T];
        for t in 0..T {
            tile[t] = inputs.values[which[t] as usize * inputs.stride + at..][..cols].as_ptr();
        }
        Self(tile)
    }

    /// `sums[t] += panel . inputs[t]`.
    #[inline(always)]
    fn run<S: Simd>(&self, simd: S, panel: &[[f32; LANES]], sums: &mut [[f32; LANES]; T]) {
        let mut total = load(simd, sums);
        for (col, values) in panel.iter().enumerate() {
            let values = simd.load(values);
            for t in 0..T {
                // SAFETY: `new` checked that each row has an element for every column of the panel.
                let x = unsafe { *self.0[t].add(col) };
                total[t] = simd.mul_add(values, simd.splat(x), total[t]);
            }
        }
        store(simd, &total, sums);
    }
}

/// `y[i] = matrix inputs[i]`, `[count, rows]`.
pub(super) fn linear(context: &mut Context, matrix: MatrixRef, inputs: &Activations) -> Buffer<f32> {
    let mut y = context.scratch.values.take(inputs.count() * matrix.rows());
    let out = Disjoint::new(&mut y);
    let width = matrix.rows();
    each_value(context, matrix, inputs, |i, row, values| {
        let at = i * width + row;
        // SAFETY: each task writes the columns of its own rows.
        unsafe { out.part(at..at + values.len()) }.copy_from_slice(values);
    });
    y
}

/// `y[i] += matrix inputs[i]`, `[count, rows]`.
pub(super) fn add_linear(context: &mut Context, matrix: MatrixRef, inputs: &Activations, y: &mut [f32]) {
    let out = Disjoint::new(y);
    let width = matrix.rows();
    each_value(context, matrix, inputs, |i, row, values| {
        let at = i * width + row;
        // SAFETY: each task writes the columns of its own rows.
        for (y, value) in unsafe { out.part(at..at + values.len()) }.iter_mut().zip(values) {
            *y += value;
        }
    });
}

/// The fewest rows of a matrix that a task computes, unless they are the last: it outweighs its dispatch.
pub(super) const TASK_ROWS: usize = 64;

/// How many rows of all `rows` a task computes, `unit` to four times that: as many as leave some tasks for each thread.
pub(super) fn task_rows(rows: usize, unit: usize, threads: usize) -> usize {
    let own = rows / (16 * threads);
    (own - own % unit).clamp(unit, 4 * unit)
}

fn each_value(
    context: &mut Context,
    matrix: MatrixRef,
    inputs: &Activations,
    store: impl Fn(usize, usize, &[f32]) + Sync,
) {
    let Context { options, pool, .. } = context;
    let which: Vec<u32> = (0..inputs.count() as u32).collect();
    let step = task_rows(matrix.rows(), TASK_ROWS, pool.threads());
    pool.run(matrix.rows().div_ceil(step), |task| {
        let rows = task * step..matrix.rows().min((task + 1) * step);
        let store = &mut |i: usize, row: usize, values: &[f32]| store(i, row, values);
        options.level.run(Matmul { matrix, rows, inputs, which: &which, store, next: None });
    });
}

#[cfg(test)]
mod tests {
    use super::super::matrix::Matrix;
    use super::super::simd::Level;
    use super::*;
    use crate::base::random::Mmix;
    use crate::compute::{BlockScale, StoredMatrix};
    use crate::format::{Bytes, Tensor, blocks};

    /// How the f16 scales of the blocks are chosen.
    const SCALES: [&[f32]; 4] = [&[0.01, -0.02], &[0.0, 1.0], &[6e-8, 3e-5], &[65504.0]];

    /// A matrix of random bits whose scales are finite, and its values.
    fn random(
        random: &mut Mmix,
        dtype: DType,
        rows: usize,
        cols: usize,
        scales: &[f32],
    ) -> (Tensor, Vec<f32>) {
        let mut bytes: Vec<u8> =
            (0..dtype.bytes(cols).unwrap() * rows).map(|_| random.bits() as u8).collect();
        for block in bytes.chunks_exact_mut(dtype.block_bytes()) {
            let scale = scales[random.bits() as usize % scales.len()];
            let half = half::f16::from_f32(scale).to_le_bytes();
            match dtype {
                DType::F32 => block.copy_from_slice(&(scale * random.unit()).to_le_bytes()),
                DType::F16 => {
                    block.copy_from_slice(&half::f16::from_f32(scale * random.unit()).to_le_bytes())
                }
                DType::BF16 => {
                    block.copy_from_slice(&half::bf16::from_f32(scale * random.unit()).to_le_bytes())
                }
                DType::F8E4M3 => block[0] = if block[0] & 0x7f == 0x7f { 0 } else { block[0] },
                DType::Mxfp4 => block[0] = if scale == 0.0 { 0 } else { 100 + block[0] % 50 },
                DType::Nvfp4 => {}
                DType::Q6K => block[208..].copy_from_slice(&half),
                DType::Q3K => block[108..].copy_from_slice(&half),
                DType::Tq1_0 => block[52..].copy_from_slice(&half),
                DType::Tq2_0 => block[64..].copy_from_slice(&half),
                DType::Q2K => block[80..].copy_from_slice(&[half, half].concat()),
                DType::Q4_1 | DType::Q5_1 | DType::Q4K | DType::Q5K => {
                    block[..4].copy_from_slice(&[half, half].concat());
                }
                DType::Iq1M => {
                    let nibbles = [half[0] << 4, half[0] & 0xf0, half[1] << 4, half[1] & 0xf0];
                    for (i, nibble) in nibbles.into_iter().enumerate() {
                        block[49 + 2 * i] = block[49 + 2 * i] & 15 | nibble;
                    }
                }
                _ => block[..2].copy_from_slice(&half),
            }
        }
        let mut values = vec![0.0; rows * cols];
        blocks::to_f32(dtype, &bytes, &mut values);
        let bytes = Bytes::embedded(bytes.leak());
        (Tensor { name: "random".into(), dtype, shape: vec![rows, cols], bytes }, values)
    }

    /// Compares every level with a sum in f64. Rounding is judged by what is added up: weights as large as
    /// the largest of their block, because quants are added before their offset is taken away.
    #[track_caller]
    fn check(stored: &StoredMatrix, values: &[f32], count: usize, exact: bool, pack: bool) {
        let (rows, cols, dtype) = (stored.rows, stored.cols, stored.values.dtype);
        let matrix = Matrix::new(stored.clone(), exact, pack).unwrap();
        let mut random = Mmix(count as u64);
        let x: Vec<f32> =
            (0..count * cols).map(|_| random.unit() * 10f32.powi(random.bits() as i32 % 4)).collect();
        let x = &x;
        for level in Level::supported() {
            let mut context = Context::for_test(level);
            let inputs = Activations::fill(&mut context, count, cols, |row, out| {
                out.copy_from_slice(&x[row * cols..][..cols]);
            });
            let y = linear(&mut context, matrix.view(), &inputs);
            for (i, y) in y.chunks_exact(rows).enumerate() {
                let rounded: Vec<f64> = match matrix.view().form() {
                    Form::Values => x[i * cols..][..cols].iter().map(|&x| x.into()).collect(),
                    Form::Quants => inputs.blocks[i * block_stride(cols)..][..cols / BLOCK]
                        .iter()
                        .flat_map(|block| block.quants.map(|code| f64::from(code) * f64::from(block.scale)))
                        .collect(),
                };
                for (row, &y) in y.iter().enumerate() {
                    let weights = &values[row * cols..][..cols];
                    let (mut sum, mut norm) = (0.0, 0.0);
                    for (weights, x) in weights.chunks(BLOCK).zip(rounded.chunks(BLOCK)) {
                        let largest = weights.iter().fold(0.0f64, |m, w| m.max(f64::from(w.abs())));
                        norm += 4.0 * largest * x.iter().map(|x| x.abs()).sum::<f64>();
                        sum += weights.iter().zip(x).map(|(w, x)| f64::from(*w) * x).sum::<f64>();
                    }
                    let bound = norm * f64::from(f32::EPSILON) * (2.0 + cols as f64).sqrt() + 1e-36;
                    let error = (f64::from(y) - sum).abs();
                    assert!(
                        error <= bound,
                        "{level} {dtype} [{rows}, {cols}] row {row}, input {i} of {count}: {y}, not {sum}"
                    );
                }
            }
        }
    }

    #[test]
    fn products_equal_the_definition() {
        let mut source = Mmix(1);
        for dtype in DType::ALL {
            for rows in [1, 15, 16, 17, 100] {
                for cols in [1, 3, 10, 16, 100, 300, 1, 2, 9].map(|n| n * dtype.block_len()) {
                    if dtype.is_blocked() && cols > 2304 {
                        continue;
                    }
                    for scales in SCALES {
                        let (tensor, values) = random(&mut source, dtype, rows, cols, scales);
                        let stored = StoredMatrix { rows, cols, values: tensor, scale: None };
                        check(
                            &stored,
                            &values,
                            1 + source.bits() as usize % 18,
                            false,
                            source.bits().is_multiple_of(2),
                        );
                        check(&stored, &values, 1, true, source.bits().is_multiple_of(2));
                    }
                }
            }
        }
    }

    /// Every type with tiles of many sizes, and with more inputs than the largest has: few enough to be emulated.
    #[test]
    fn every_batch_is_multiplied() {
        let mut source = Mmix(5);
        for dtype in DType::ALL {
            let cols = dtype.block_len().max(SLICE / 2);
            let (tensor, values) = random(&mut source, dtype, LANES, cols, SCALES[0]);
            let stored = StoredMatrix { rows: LANES, cols, values: tensor, scale: None };
            [1, 2, 3, 4, 5, 8, 12, 13]
                .into_iter()
                .for_each(|count| check(&stored, &values, count, false, count % 3 == 0));
        }
    }

    #[test]
    fn many_inputs_go_in_groups() {
        let (tensor, values) = random(&mut Mmix(2), DType::Q4K, 33, 256, SCALES[0]);
        let stored = StoredMatrix { rows: 33, cols: 256, values: tensor, scale: None };
        check(&stored, &values, 2 * GROUP + 7, false, false);
    }

    /// Packed strips begin at whole multiples of [`LANES`].
    #[test]
    fn tasks_have_whole_units() {
        for unit in [1, 2, 4].map(|n| n * TASK_ROWS) {
            for threads in [1, 2, 8, 64] {
                for rows in [1, 64, 2048, 5632, 151_936] {
                    let step = task_rows(rows, unit, threads);
                    assert!(step.is_multiple_of(unit) && (unit..=4 * unit).contains(&step));
                    assert!(
                        step == unit || rows / step >= 16 * threads,
                        "{rows} rows, {threads} threads: {step}"
                    );
                }
            }
        }
    }

    #[test]
    fn block_scales_apply_to_ragged_blocks() {
        for (rows, cols, block_rows, block_cols) in
            [(17, 40, 8, 16), (300, 300, 128, 128), (20, 7, 3, 2), (5, 600, 128, 100)]
        {
            let (tensor, mut values) = random(&mut Mmix(3), DType::F8E4M3, rows, cols, &[1.0]);
            let per_row = cols.div_ceil(block_cols);
            let count = rows.div_ceil(block_rows) * per_row;
            let scales: Vec<f32> = (0..count).map(|i| (i + 1) as f32 * 1e-3).collect();
            for (at, value) in values.iter_mut().enumerate() {
                *value *= scales[at / cols / block_rows * per_row + at % cols / block_cols];
            }
            let scale = Some(BlockScale { values: scales, block_rows, block_cols });
            check(&StoredMatrix { rows, cols, values: tensor, scale }, &values, 3, false, true);
        }
    }

    #[test]
    fn a_value_does_not_depend_on_its_company() {
        let mut random_bits = Mmix(4);
        for dtype in [DType::Q2K, DType::Q3K, DType::Q4K, DType::Q6K, DType::Q8_0, DType::F8E4M3] {
            let (tensor, _) = random(&mut random_bits, dtype, 100, 512, SCALES[0]);
            let stored = StoredMatrix { rows: 100, cols: 512, values: tensor, scale: None };
            let matrix = Matrix::new(stored, false, false).unwrap();
            let level = Level::detect();
            let x: Vec<f32> = (0..19 * 512).map(|_| random_bits.unit()).collect();
            let some = |rows: std::ops::Range<usize>| {
                let mut context = Context::for_test(level);
                let inputs = Activations::fill(&mut context, rows.len(), 512, |row, out| {
                    out.copy_from_slice(&x[(rows.start + row) * 512..][..512]);
                });
                linear(&mut context, matrix.view(), &inputs)
            };
            let all = some(0..19);
            for i in 0..19 {
                assert_eq!(some(i..i + 1)[..], all[i * 100..(i + 1) * 100], "{dtype}");
            }
        }
    }

    #[test]
    fn tiny_and_huge_inputs_round_to_codes() {
        for level in Level::supported() {
            for (value, code) in [(0.0, 0), (1e-40, 0), (1e-20, 127), (-3e38, -127)] {
                let inputs = Activations::fill(&mut Context::for_test(level), 1, 64, |_, out| {
                    out.fill(0.0);
                    out[40] = value;
                });
                let [zero, block, ..] = inputs.blocks[..] else { panic!("two blocks") };
                assert_eq!((block.quants[8], zero.quants[0], zero.sum), (code, 0, 0.0), "{level}, {value}");
                let found = f32::from(block.quants[8]) * block.scale;
                assert!((found - value).abs() <= 1e-30 + value.abs() * 1e-6, "{level}, {value}: {found}");
                assert_eq!(block.half_sums, [block.sum, 0.0]);
            }
        }
    }
}
