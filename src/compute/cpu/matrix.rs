//! Matrices in their stored type, and strips of them unpacked for the vector units.
//!
//! A strip is [`LANES`] rows; one lane belongs to one row. Unpacked, four consecutive quants of a row, or one
//! value, stand in its lane, so that a product needs no sum across lanes. Slices of 256 columns of a strip
//! are unpacked at a time, into a few KiB that stay in the first-level cache, and used for all inputs.

#![expect(unsafe_code, reason = "blocks are loaded by pointer, inside bounds that are checked before")]
#![expect(
    clippy::needless_range_loop,
    reason = "indices go to several arrays, and closures are not inlined reliably"
)]

use std::borrow::Cow;
use std::cell::Cell;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};

use super::packed::{self, SLICE, WORD};
use super::quants::BLOCK;
use super::simd::{LANES, LINE, Simd};
use crate::base::dtype::DType;
use crate::compute::StoredMatrix;
use crate::compute::experts::MatrixLayout;
use crate::format::Bytes;
use crate::format::blocks::{self, E2M1_DOUBLED, IQ4_VALUES};
use crate::format::slots::SlotMemory;

/// How many strips ahead of the one that is read the prefetches are.
const LEAD: usize = 2;

/// How many slices, where these follow each other.
const PACKED_LEAD: usize = 3;

/// Bytes that [`Simd::transpose`] reads of a row.
const WORDS: usize = 16;

/// What a matrix is unpacked to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Integers, for activations that are integers too.
    Quants,
    /// f32, for activations in f32.
    Values,
}

/// How the rows of a matrix are read, wherever its bytes are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    stored: MatrixLayout,
    /// Whether zero rows or columns are added: the matrix is too small or too odd to be read in strips.
    is_padded: bool,
    /// Whether the slices of a strip follow each other, and not the rows, see [`packed`].
    is_packed: bool,
    /// Bytes of a row.
    stride: usize,
    /// Bytes of the part of a row that is in a slice, and in the last slice.
    widths: [usize; 2],
    /// Columns with padding.
    depth: usize,
    form: Form,
}

impl Layout {
    /// Fails when the columns are not whole blocks of the type. With `exact`, activations are never quantised. With `pack`,
    /// the matrix is read as [`Layout::pack`] writes it, if it is one of whole strips.
    pub(super) fn new(stored: MatrixLayout, exact: bool, pack: bool) -> Result<Self> {
        let MatrixLayout { rows, cols, dtype, .. } = stored;
        let bytes = dtype.bytes(cols).filter(|_| stored.value_bytes().is_some_and(|bytes| bytes > 0));
        let row_bytes = bytes.with_context(|| format!("[{rows}, {cols}] of {dtype} is no matrix"))?;
        let (stride, depth) = if dtype.is_blocked() {
            (row_bytes, cols)
        } else {
            let stride = row_bytes.next_multiple_of(WORDS);
            (stride, stride / dtype.block_bytes())
        };
        let form = if dtype.is_blocked() && !exact { Form::Quants } else { Form::Values };
        let is_padded = rows < LANES || stride != row_bytes;
        let is_packed = pack && !is_padded && rows.is_multiple_of(LANES);
        let unit = if is_packed { WORD } else { 1 };
        let width = |cols: usize| (cols / dtype.block_len() * dtype.block_bytes()).next_multiple_of(unit);
        let last = (depth - 1) / SLICE * SLICE;
        let widths = [width(SLICE), width(depth - last)];
        let stride = if is_packed { last / SLICE * widths[0] + widths[1] } else { stride };
        Ok(Self { stored, is_padded, is_packed, stride, widths, depth, form })
    }

    /// Whether the stored elements are not read in their order, see [`Layout::pack`].
    pub(super) fn is_packed(&self) -> bool {
        self.is_packed
    }

    /// Bytes of the elements as they are read, unless the matrix is padded.
    pub(super) fn bytes(&self) -> usize {
        self.stored.rows * self.stride
    }

    /// Writes the stored elements in the order in which they are read.
    pub(super) fn pack(&self, values: &[u8], out: &mut [u8]) {
        let MatrixLayout { rows, dtype, .. } = self.stored;
        let (row_bytes, slice_bytes) = (values.len() / rows, SLICE / dtype.block_len() * dtype.block_bytes());
        let strips = values.chunks_exact(LANES * row_bytes);
        for (strip, out) in strips.zip(out.chunks_exact_mut(LANES * self.stride)) {
            for at in (0..self.depth).step_by(SLICE) {
                let out = &mut out[LANES * self.offset(at)..][..LANES * self.width(at)];
                for (lane, row) in strip.chunks_exact(row_bytes).enumerate() {
                    let from = at / SLICE * slice_bytes;
                    packed::pack(&row[from..row_bytes.min(from + slice_bytes)], lane, out);
                }
                packed::arrange(dtype, out);
            }
        }
    }

    /// Bytes of a row before the slice from column `at` on.
    #[inline]
    fn offset(&self, at: usize) -> usize {
        at / SLICE * self.widths[0]
    }

    /// Bytes of the part of a row that is in the slice from column `at` on.
    #[inline]
    fn width(&self, at: usize) -> usize {
        self.widths[usize::from(self.depth - at <= SLICE)]
    }

    /// Where the part of row `row` begins that is in the slice from column `at` on; where slices are packed, that of the
    /// first row of its strip.
    #[inline]
    fn place(&self, row: usize, at: usize) -> usize {
        match self.is_packed {
            false => row * self.stride + self.offset(at),
            true => row / LANES * LANES * self.stride + LANES * self.offset(at),
        }
    }

    /// The matrix whose elements are `values`, padded as [`Layout::pad`] does, and whose scales are `scales`.
    pub(super) fn view<'a>(&'a self, values: &'a [u8], scales: &'a [u8]) -> MatrixRef<'a> {
        MatrixRef { layout: self, bytes: values, scales }
    }

    /// The stored elements as they are read: a copy with zero rows and columns where some are needed.
    pub(super) fn pad<'a>(&self, values: &'a [u8]) -> Cow<'a, [u8]> {
        if !self.is_padded {
            return Cow::Borrowed(values);
        }
        let row_bytes = values.len() / self.stored.rows;
        let mut padded = vec![0; self.stride * self.stored.rows.max(LANES)];
        for (out, row) in padded.chunks_exact_mut(self.stride).zip(values.chunks_exact(row_bytes)) {
            out[..row_bytes].copy_from_slice(row);
        }
        Cow::Owned(padded)
    }
}

/// A matrix in its stored type, `[rows, cols]`.
#[derive(Clone)]
pub struct Matrix {
    /// What it is stored as.
    pub name: Arc<str>,
    layout: Layout,
    values: Bytes,
    scales: Bytes,
}

impl Matrix {
    /// Checks that the stored tensor has the size of the matrix. With `exact`, activations are never quantised.
    /// With `pack`, its elements are copied in the order in which they are read, if they can be.
    pub fn new(stored: StoredMatrix, exact: bool, pack: bool) -> Result<Self> {
        let layout = stored.layout();
        let StoredMatrix { rows, cols, values, scale } = stored;
        let is_whole = layout.value_bytes().is_some_and(|bytes| bytes > 0 && bytes == values.bytes.len());
        ensure!(is_whole, "tensor {} is not [{rows}, {cols}]", values.name);
        let scales = scale.map_or_else(Vec::new, |scale| scale.to_bytes());
        let blocks = layout.scale_bytes() / size_of::<f32>();
        ensure!(
            scales.len() == layout.scale_bytes(),
            "the scales of {} are not {blocks} values",
            values.name
        );
        let layout = Layout::new(layout, exact, pack)?;
        let name = values.name;
        let values = match layout.pad(&values.bytes) {
            Cow::Owned(padded) => padded.into(),
            Cow::Borrowed(bytes) if layout.is_packed => {
                let memory =
                    SlotMemory::new(1, layout.bytes()).with_context(|| format!("no memory for {name}"))?;
                layout.pack(bytes, &mut memory.write(0).expect("new memory"));
                memory.read(0).expect("what is written")
            }
            Cow::Borrowed(_) => values.bytes,
        };
        Ok(Self { name, layout, values, scales: scales.into() })
    }

    /// The matrix where its bytes are.
    pub fn view(&self) -> MatrixRef<'_> {
        self.layout.view(&self.values, &self.scales)
    }
}

/// A matrix whose bytes are held somewhere else.
#[derive(Clone, Copy)]
pub struct MatrixRef<'a> {
    layout: &'a Layout,
    /// All rows as they are read.
    bytes: &'a [u8],
    /// Little-endian f32.
    scales: &'a [u8],
}

impl<'a> MatrixRef<'a> {
    /// Outputs.
    #[inline]
    pub fn rows(&self) -> usize {
        self.layout.stored.rows
    }

    /// Activations.
    #[inline]
    pub fn cols(&self) -> usize {
        self.layout.stored.cols
    }

    /// Columns that are unpacked: zeros follow the last one.
    #[inline]
    pub fn depth(&self) -> usize {
        self.layout.depth
    }

    /// What it is unpacked to.
    #[inline]
    pub fn form(&self) -> Form {
        self.layout.form
    }

    /// Bytes of a row as it is read.
    #[inline]
    pub fn row_bytes(&self) -> usize {
        self.layout.stride
    }

    /// Whether it is read as [`Layout::pack`] writes it.
    #[inline]
    pub fn is_packed(&self) -> bool {
        self.layout.is_packed
    }

    /// Its stored type.
    #[inline]
    pub fn dtype(&self) -> DType {
        self.layout.stored.dtype
    }

    /// Row `row` as f32, scaled.
    pub fn row(&self, row: usize, out: &mut [f32]) {
        let dtype = self.dtype();
        for (i, out) in out.chunks_mut(SLICE).enumerate() {
            let width = dtype.bytes(out.len()).expect("a checked layout");
            let stored = &self.bytes[self.layout.place(row, i * SLICE)..];
            let unpacked;
            let stored = if self.layout.is_packed {
                unpacked = packed::unpack(dtype, stored, row % LANES);
                &unpacked
            } else {
                stored
            };
            blocks::to_f32(dtype, &stored[..width], out);
        }
        if let Some([_, block_cols]) = self.layout.stored.scale_block {
            for (i, values) in out.chunks_mut(block_cols).enumerate() {
                let scale = self.scale(row, i);
                values.iter_mut().for_each(|value| *value *= scale);
            }
        }
    }

    /// The scale of row `row` and the block `block` of columns.
    fn scale(&self, row: usize, block: usize) -> f32 {
        let [block_rows, block_cols] = self.layout.stored.scale_block.expect("a matrix with scales");
        let at = row / block_rows * self.cols().div_ceil(block_cols) + block;
        f32::from_le_bytes(self.scales.as_chunks().0[at])
    }

    /// The first row of the strip that holds rows from `row` on: a strip never goes past the last row.
    #[inline]
    pub fn strip(&self, row: usize) -> usize {
        row.min(self.rows().max(LANES) - LANES)
    }

    /// Where what is read soon after the slice from column `at` on of the strip from row `row` on begins, in bytes behind
    /// the first row, and how much that is.
    #[inline(always)]
    pub fn ahead(&self, row: usize, at: usize) -> (usize, usize) {
        let Layout { is_packed, stride, widths, .. } = self.layout;
        let lead = if *is_packed { PACKED_LEAD * widths[0] } else { LEAD * stride };
        (row * stride + LANES * (self.layout.offset(at) + lead), LANES * widths[0])
    }

    /// `len` bytes from byte `at` behind row `row` on; none where they are not in the matrix.
    #[inline(always)]
    pub fn bytes_behind(&self, row: usize, at: usize, len: usize) -> &'a [u8] {
        let start = row * self.layout.stride + at;
        self.bytes.get(start..start + len).unwrap_or_default()
    }

    /// Columns `at..at + SLICE` of the strip whose first row is `row`, as far as there are so many. While they
    /// are unpacked, as many bytes from `ahead` on are prefetched.
    #[inline(always)]
    pub fn slice<const PACKED: bool>(&self, row: usize, at: usize, ahead: *const u8) -> Slice<'a, PACKED> {
        let (len, width) = (SLICE.min(self.depth() - at), self.layout.width(at));
        let first = self.layout.place(row, at);
        debug_assert!(self.layout.is_packed == PACKED && (!PACKED || row.is_multiple_of(LANES)));
        let stride = if PACKED { width } else { self.layout.stride };
        let bytes = &self.bytes[first..first + (LANES - 1) * stride + width];
        Slice { matrix: *self, row, at, len, bytes, stride, ahead: Cell::new(ahead) }
    }
}

/// Consecutive columns of a strip, as stored, or `PACKED` as [`Layout::pack`] does it.
pub struct Slice<'a, const PACKED: bool> {
    matrix: MatrixRef<'a>,
    row: usize,
    at: usize,
    len: usize,
    /// From the first byte of the first row to the last byte of the last row, or the words of the rows in turn.
    bytes: &'a [u8],
    /// Bytes from a row to the next, unless the slice is packed.
    stride: usize,
    /// What to prefetch while this slice is read.
    ahead: Cell<*const u8>,
}

/// An unpacked slice of integers: `value = scale code - min`.
#[repr(align(64))]
pub(super) struct Quants {
    /// Four columns of each row at a time.
    pub quants: [[u32; LANES]; SLICE / 4],
    /// For each [`BLOCK`] of columns, or for each half of one.
    pub scales: [[f32; LANES]; SLICE / 16],
    /// As `scales`.
    pub mins: [[f32; LANES]; SLICE / 16],
    /// In place of the scales of a type whose scales are integers times a number, where the level is
    /// [`Simd::SCALED`]: the integer in both halves of each lane.
    pub factors: [[u32; LANES]; SLICE / 16],
    /// What the factors are multiplied with.
    pub unit: [f32; LANES],
    /// In place of the minima of a type whose quants are too large by a constant: minus the constant times the factor,
    /// for the two halves of each [`BLOCK`].
    pub offsets: [[u32; LANES]; SLICE / BLOCK],
    /// Indices of entries of a codebook.
    pub indices: [[u32; LANES]; SLICE / 8],
}

/// An unpacked slice of f32.
#[repr(align(64))]
pub(super) struct Values(pub [[f32; LANES]; SLICE]);

impl Quants {
    /// Workspace for a slice.
    pub(super) const ZERO: Self = Self {
        quants: [[0; LANES]; SLICE / 4],
        scales: [[0.0; LANES]; SLICE / 16],
        mins: [[0.0; LANES]; SLICE / 16],
        factors: [[0; LANES]; SLICE / 16],
        unit: [0.0; LANES],
        offsets: [[0; LANES]; SLICE / BLOCK],
        indices: [[0; LANES]; SLICE / 8],
    };

    /// Whether the quants of a type need all 8 bits, see [`Simd::dot_wide`].
    pub(super) fn wide(dtype: DType) -> bool {
        matches!(dtype, DType::Q8_0 | DType::Iq4Nl | DType::Iq4Xs)
    }

    /// Bits of the quants of a type, unless they are wide.
    pub(super) fn bits(dtype: DType) -> u32 {
        match dtype {
            DType::Q2K | DType::Iq1S | DType::Tq1_0 | DType::Tq2_0 => 2,
            DType::Q3K => 3,
            DType::Q4_0 | DType::Q4_1 | DType::Q4K => 4,
            DType::Q5_0 | DType::Q5_1 | DType::Q5K => 5,
            DType::Mxfp4 | DType::Nvfp4 | DType::Iq3S | DType::Iq1M => 5,
            DType::Q6K => 6,
            _ => 7,
        }
    }

    /// With how many activations at most the quants of a type go from the file to the products without being stored. That
    /// needs code of its own, and pays where storing is most of the work.
    pub(super) fn direct_max<S: Simd, const PACKED: bool>(dtype: DType) -> usize {
        match dtype {
            DType::Q3K if S::SCALED && !PACKED => 1,
            DType::Q2K if S::SCALED => 2,
            DType::Q2K | DType::Q3K | DType::Q4K | DType::Q6K => S::DIRECT,
            _ => 0,
        }
    }

    /// Whether a type has a scale for each half block.
    pub(super) fn halved(dtype: DType) -> bool {
        matches!(
            dtype,
            DType::Q2K | DType::Q3K | DType::Q6K | DType::Nvfp4 | DType::Iq2Xs | DType::Iq2S | DType::Iq1M
        )
    }

    /// Whether the scales of a type are integers times a number for each slice.
    pub(super) fn has_factors(dtype: DType) -> bool {
        dtype.block_len() == SLICE && !Self::wide(dtype)
    }

    /// Whether a type has minima, and not quants that are too large by a constant.
    pub(super) fn has_mins(dtype: DType) -> bool {
        matches!(dtype, DType::Q4_1 | DType::Q5_1 | DType::Q2K | DType::Q4K | DType::Q5K | DType::Iq1S)
    }

    /// Unpacks a slice of a type in blocks; also returns how many [`BLOCK`]s it has.
    #[inline(always)]
    pub(super) fn unpack<S: Simd, const P: bool>(&mut self, simd: S, slice: &Slice<P>) -> usize {
        let dtype = slice.matrix.dtype();
        let blocks = slice.len / BLOCK;
        match dtype {
            DType::Q2K => self.q2_k(simd, slice),
            DType::Q3K => self.q3_k(simd, slice),
            DType::Q4K => self.q4_k(simd, slice),
            DType::Q5K => self.q5_k(simd, slice),
            DType::Q6K => self.q6_k(simd, slice),
            DType::Iq4Xs => self.iq4_xs(simd, slice),
            DType::Q8_0 => self.q8_0(simd, slice),
            DType::Q4_0 => self.q4_0(simd, slice),
            DType::Q4_1 => self.q4_1(simd, slice),
            DType::Q5_0 => self.q5_0(simd, slice),
            DType::Q5_1 => self.q5_1(simd, slice),
            DType::Mxfp4 => self.mxfp4(simd, slice),
            DType::Nvfp4 => self.nvfp4(simd, slice),
            DType::Iq4Nl => self.iq4_nl(simd, slice),
            DType::Iq2Xxs => self.iq2_xxs(simd, slice),
            DType::Iq2Xs => self.iq2_xs(simd, slice),
            DType::Iq2S => self.iq2_s(simd, slice),
            DType::Iq3Xxs => self.iq3_xxs(simd, slice),
            DType::Iq3S => self.iq3_s(simd, slice),
            DType::Iq1S => self.iq1_s(simd, slice),
            DType::Iq1M => self.iq1_m(simd, slice),
            DType::Tq1_0 => self.tq1_0(simd, slice),
            DType::Tq2_0 => self.tq2_0(simd, slice),
            DType::F32 | DType::F16 | DType::BF16 | DType::F8E4M3 => {
                unreachable!("{dtype} is not in blocks")
            }
        }
        debug_assert!(
            Self::wide(dtype)
                || self.quants[..blocks * BLOCK / 4]
                    .iter()
                    .flatten()
                    .all(|quants| quants.to_le_bytes().iter().all(|&quant| quant < 1 << Self::bits(dtype)))
        );
        blocks
    }

    #[inline(always)]
    fn q4_k<S: Simd, const P: bool>(&mut self, simd: S, slice: &Slice<P>) {
        self.k_scales(simd, slice);
        let low = simd.splat_i(0x0f0f_0f0f);
        for pair in 0..4 {
            let words = slice.wide_words(simd, 16 + pair * 32);
            for i in 0..8 {
                simd.store_i(simd.and(words[i], low), &mut self.quants[pair * 16 + i]);
                simd.store_i(simd.and(simd.shr(words[i], 4), low), &mut self.quants[pair * 16 + 8 + i]);
            }
        }
    }

    #[inline(always)]
    fn q5_k<S: Simd, const P: bool>(&mut self, simd: S, slice: &Slice<P>) {
        self.k_scales(simd, slice);
        let (low, bit) = (simd.splat_i(0x0f0f_0f0f), simd.splat_i(0x1010_1010));
        let high = slice.wide_words(simd, 16);
        for chunk in 0..4 {
            let words = slice.wide_words(simd, 48 + chunk * 32);
            for i in 0..8 {
                let at = chunk * 16 + i;
                // The high bit of block b is bit b of its byte, and goes to bit 4.
                let bits = if chunk < 2 {
                    simd.shl(high[i], 4 - 2 * chunk as u32)
                } else {
                    simd.shr(high[i], 2 * chunk as u32 - 4)
                };
                let first = simd.or(simd.and(words[i], low), simd.and(bits, bit));
                let bits = simd.and(simd.shr(bits, 1), bit);
                let second = simd.or(simd.and(simd.shr(words[i], 4), low), bits);
                simd.store_i(first, &mut self.quants[at]);
                simd.store_i(second, &mut self.quants[at + 8]);
            }
        }
    }

    /// The scales and minima of Q4_K and Q5_K, packed as [`blocks::scale_min`] says.
    #[inline(always)]
    pub(super) fn k_scales<S: Simd, const P: bool>(&mut self, simd: S, slice: &Slice<P>) {
        let [d, first, second, third] = slice.words(simd, 0);
        let (d, dmin) = (simd.half_to_f(d), simd.half_to_f(simd.shr(d, 16)));
        let (six, four, two) =
            (simd.splat_i(0x3f3f_3f3f), simd.splat_i(0x0f0f_0f0f), simd.splat_i(0x3030_3030));
        let scales =
            [simd.and(first, six), simd.or(simd.and(third, four), simd.and(simd.shr(first, 2), two))];
        let mins = [
            simd.and(second, six),
            simd.or(simd.and(simd.shr(third, 4), four), simd.and(simd.shr(second, 2), two)),
        ];
        for block in 0..8 {
            let (word, at) = (block / 4, block % 4);
            self.byte_factor(simd, block, d, scales[word], at, false);
            let min = simd.to_f(byte_of(simd, mins[word], at, false));
            simd.store(simd.mul(dmin, min), &mut self.mins[block]);
        }
        self.unit(simd, d);
    }

    #[inline(always)]
    fn q6_k<S: Simd, const P: bool>(&mut self, simd: S, slice: &Slice<P>) {
        self.q6_k_scales(simd, slice);
        if P {
            for four in 0..SLICE / 16 {
                let quants = slice.sextets(simd, four);
                for i in 0..4 {
                    simd.store_i(quants[i], &mut self.quants[4 * four + i]);
                }
            }
            return;
        }
        for four in 0..2 {
            let first = slice.wide_words(simd, four * 64);
            let second = slice.wide_words(simd, four * 64 + 32);
            let high = slice.wide_words(simd, 128 + four * 32);
            for i in 0..8 {
                for j in 0..4 {
                    let nibbles = if j % 2 == 0 { first[i] } else { second[i] };
                    let quants = q6_k_quants(simd, nibbles, high[i], j);
                    simd.store_i(quants, &mut self.quants[four * 32 + j * 8 + i]);
                }
            }
        }
    }

    /// The scales of Q6_K, one for each half block.
    #[inline(always)]
    pub(super) fn q6_k_scales<S: Simd, const P: bool>(&mut self, simd: S, slice: &Slice<P>) {
        // The last 18 of a block's 210 bytes are the scales and d.
        let (scales, tail) = (slice.words(simd, 192), slice.words(simd, 194));
        let d = simd.half_to_f(simd.shr(tail[3], 16));
        macro_rules! each {
            ($($half:literal)*) => {$(
                self.byte_factor(simd, $half, d, scales[$half / 4], $half % 4, true);
            )*};
        }
        each!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
        self.zero(simd, d, 16, 32);
    }

    #[inline(always)]
    fn iq4_xs<S: Simd, const P: bool>(&mut self, simd: S, slice: &Slice<P>) {
        let [first, low, ..] = slice.words(simd, 0);
        let (d, high) = (simd.half_to_f(first), simd.shr(first, 16));
        let (four, two, middle) = (simd.splat_i(15), simd.splat_i(0x30), simd.splat_i(32u32.wrapping_neg()));
        for block in 0..8 {
            let shift = block as u32;
            let low = simd.and(simd.shr(low, 4 * shift), four);
            let high = simd.and(simd.shr(simd.shl(high, 4), 2 * shift), two);
            let scale = simd.to_f(simd.add_i(simd.or(low, high), middle));
            self.wide_scale(simd, block, simd.mul(d, scale));
            let words = slice.words(simd, 8 + block * 16);
            self.nibbles(simd, block, words, &iq4_table::<S>());
        }
    }

    #[inline(always)]
    fn iq4_nl<S: Simd, const P: bool>(&mut self, simd: S, slice: &Slice<P>) {
        for block in 0..slice.len / BLOCK {
            let d = simd.half_to_f(slice.words(simd, block * 18)[0]);
            self.wide_scale(simd, block, d);
            self.nibbles(simd, block, slice.words(simd, block * 18 + 2), &iq4_table::<S>());
        }
    }

    #[inline(always)]
    fn q8_0<S: Simd, const P: bool>(&mut self, simd: S, slice: &Slice<P>) {
        let flip = simd.splat_i(if S::WIDE_SIGNED { 0 } else { 0x8080_8080 });
        for block in 0..slice.len / BLOCK {
            let d = simd.half_to_f(slice.words(simd, block * 34)[0]);
            self.wide_scale(simd, block, d);
            let words = slice.wide_words(simd, block * 34 + 2);
            for i in 0..8 {
                simd.store_i(simd.xor(words[i], flip), &mut self.quants[block * 8 + i]);
            }
        }
    }

    #[inline(always)]
    fn q4_0<S: Simd, const P: bool>(&mut self, simd: S, slice: &Slice<P>) {
        for block in 0..slice.len / BLOCK {
            let d = simd.half_to_f(slice.words(simd, block * 18)[0]);
            self.symmetric(simd, block, d, 8.0);
            self.four_bits(simd, block, slice.words(simd, block * 18 + 2));
        }
    }

    #[inline(always)]
    fn q4_1<S: Simd, const P: bool>(&mut self, simd: S, slice: &Slice<P>) {
        for block in 0..slice.len / BLOCK {
            self.line(simd, block, slice.words(simd, block * 20)[0]);
            self.four_bits(simd, block, slice.words(simd, block * 20 + 4));
        }
    }

    #[inline(always)]
    fn q5_0<S: Simd, const P: bool>(&mut self, simd: S, slice: &Slice<P>) {
        for block in 0..slice.len / BLOCK {
            let head = slice.words(simd, block * 22);
            self.symmetric(simd, block, simd.half_to_f(head[0]), 16.0);
            let bits = simd.or(simd.shr(head[0], 16), simd.shl(head[1], 16));
            self.five_bits(simd, block, bits, slice.words(simd, block * 22 + 6));
        }
    }

    #[inline(always)]
    fn q5_1<S: Simd, const P: bool>(&mut self, simd: S, slice: &Slice<P>) {
        for block in 0..slice.len / BLOCK {
            let head = slice.words(simd, block * 24);
            self.line(simd, block, head[0]);
            self.five_bits(simd, block, head[1], slice.words(simd, block * 24 + 8));
        }
    }

    #[inline(always)]
    fn mxfp4<S: Simd, const P: bool>(&mut self, simd: S, slice: &Slice<P>) {
        // As an f32, exponent 0 is 2^-127 and not 0: its half is the smallest scale.
        let smallest = simd.splat(f32::from_bits(0x0020_0000));
        for block in 0..slice.len / BLOCK {
            let e = simd.and(slice.words(simd, block * 17)[0], simd.splat_i(0xff));
            let d = simd.mul(simd.bits_f(simd.shl(e, 23)), simd.splat(0.5));
            self.symmetric(simd, block, simd.max(d, smallest), E2M1_ZERO.into());
            self.nibbles(simd, block, slice.words(simd, block * 17 + 1), &E2M1_TABLE);
        }
    }

    #[inline(always)]
    fn nvfp4<S: Simd, const P: bool>(&mut self, simd: S, slice: &Slice<P>) {
        let (low, seven, own) =
            (simd.splat_i(0x0f0f_0f0f), simd.splat_i(0x7f7f_7f7f), simd.splat_i(0x07f0_0000));
        let bias = simd.splat(f32::from_bits((127 + 119) << 23));
        for block in 0..slice.len / 64 {
            // Half of an E4M3 number has the bits of an f32 that is 2^119 times too small. Bit 7 counts for nothing but that
            // 0x7f alone is no number, which reads as 0.
            let apart = simd.xor(slice.words(simd, block * 36)[0], seven);
            let numbers = simd.flip_bytes(simd.and(apart, seven), 0x7f, apart, u32::MAX);
            for part in 0..4 {
                let bits =
                    if part < 3 { simd.shl(numbers, 20 - 8 * part as u32) } else { simd.shr(numbers, 4) };
                let d = simd.mul(simd.bits_f(simd.and(bits, own)), bias);
                self.symmetric(simd, block * 4 + part, d, E2M1_ZERO.into());
            }
        }
        for block in 0..slice.len / 64 {
            let words = slice.wide_words(simd, block * 36 + 4);
            for part in 0..4 {
                for i in 0..2 {
                    let (word, at) = (words[2 * part + i], block * 16 + part * 4 + i);
                    let first = simd.lookup(&E2M1_TABLE, simd.and(word, low));
                    let second = simd.lookup(&E2M1_TABLE, simd.and(simd.shr(word, 4), low));
                    simd.store_i(first, &mut self.quants[at]);
                    simd.store_i(second, &mut self.quants[at + 2]);
                }
            }
        }
    }

    #[inline(always)]
    fn q2_k<S: Simd, const P: bool>(&mut self, simd: S, slice: &Slice<P>) {
        self.q2_k_scales(simd, slice);
        self.two_bits(simd, slice, 16);
    }

    /// The scales and minima of Q2_K, one of each for each half block.
    #[inline(always)]
    pub(super) fn q2_k_scales<S: Simd, const P: bool>(&mut self, simd: S, slice: &Slice<P>) {
        let d = slice.words(simd, 68)[3];
        let (d, dmin) = (simd.half_to_f(d), simd.half_to_f(simd.shr(d, 16)));
        let (pairs, four) = (slice.words(simd, 0), simd.splat_i(15));
        for half in 0..16 {
            let pair = simd.shr(pairs[half / 4], 8 * (half as u32 % 4));
            self.factor(simd, half, d, simd.and(pair, four));
            let min = simd.to_f(simd.and(simd.shr(pair, 4), four));
            simd.store(simd.mul(dmin, min), &mut self.mins[half]);
        }
        self.unit(simd, d);
    }

    #[inline(always)]
    fn q3_k<S: Simd, const P: bool>(&mut self, simd: S, slice: &Slice<P>) {
        self.q3_k_scales(simd, slice);
        if P {
            for block in 0..SLICE / BLOCK {
                let quants = slice.triplets(simd, block);
                for i in 0..8 {
                    simd.store_i(quants[i], &mut self.quants[8 * block + i]);
                }
            }
            return;
        }
        self.two_bits(simd, slice, 32);
        let high = slice.wide_words(simd, 0);
        for block in 0..8 {
            for i in 0..8 {
                let quants = &mut self.quants[block * 8 + i];
                simd.store_i(simd.or(simd.load_i(quants), q3_k_high(simd, high[i], block)), quants);
            }
        }
    }

    /// The scales of Q3_K, one for each half block.
    #[inline(always)]
    pub(super) fn q3_k_scales<S: Simd, const P: bool>(&mut self, simd: S, slice: &Slice<P>) {
        let d = simd.half_to_f(simd.shr(slice.words(simd, 94)[3], 16));
        let scales = slice.words(simd, 92);
        let (four, two, middle) = (simd.splat_i(15), simd.splat_i(3), simd.splat_i(32u32.wrapping_neg()));
        for half in 0..16 {
            let part = half as u32;
            let low = simd.and(simd.shr(scales[1 + half % 8 / 4], part % 4 * 8 + part / 8 * 4), four);
            let high = simd.and(simd.shr(scales[3], part % 4 * 8 + part / 4 * 2), two);
            self.factor(simd, half, d, simd.add_i(simd.or(low, simd.shl(high, 4)), middle));
        }
        self.zero(simd, d, 16, 4);
    }

    #[inline(always)]
    fn tq1_0<S: Simd, const P: bool>(&mut self, simd: S, slice: &Slice<P>) {
        let tail = slice.words(simd, 38);
        let d = simd.half_to_f(simd.shr(tail[3], 16));
        for block in 0..8 {
            self.factor(simd, block, d, simd.splat_i(1));
        }
        self.zero(simd, d, 8, 1);
        let (first, second) = (slice.wide_words(simd, 0), slice.words(simd, 32));
        for i in 0..8 {
            self.digits(simd, first[i], 5, i, 8);
        }
        for i in 0..4 {
            self.digits(simd, second[i], 5, 40 + i, 4);
        }
        let third = simd.or(simd.shr(tail[2], 16), simd.shl(tail[3], 16));
        self.digits(simd, third, 4, 60, 1);
    }

    /// The first `count` base-3 digits of four bytes, as quants from `at` on in steps.
    #[inline(always)]
    fn digits<S: Simd>(&mut self, simd: S, word: S::I, count: usize, at: usize, step: usize) {
        let (even, odd) = (simd.splat_i(0x00ff_00ff), simd.splat_i(0xff00_ff00));
        let mut rest = [simd.and(word, even), simd.and(simd.shr(word, 8), even)];
        for n in 0..count {
            // Three times a fraction of 256 has the next digit above the byte.
            let first = simd.add_i(rest[0], simd.shl(rest[0], 1));
            let second = simd.add_i(rest[1], simd.shl(rest[1], 1));
            let digits = simd.or(simd.and(simd.shr(first, 8), even), simd.and(second, odd));
            simd.store_i(digits, &mut self.quants[at + n * step]);
            rest = [simd.and(first, even), simd.and(second, even)];
        }
    }

    #[inline(always)]
    fn tq2_0<S: Simd, const P: bool>(&mut self, simd: S, slice: &Slice<P>) {
        let d = simd.half_to_f(simd.shr(slice.words(simd, 50)[3], 16));
        for block in 0..8 {
            self.factor(simd, block, d, simd.splat_i(1));
        }
        self.zero(simd, d, 8, 1);
        self.two_bits(simd, slice, 0);
    }

    /// Quants of 64 bytes of bit pairs from byte `at` of a block on.
    #[inline(always)]
    fn two_bits<S: Simd, const P: bool>(&mut self, simd: S, slice: &Slice<P>, at: usize) {
        let two = simd.splat_i(0x0303_0303);
        for half in 0..2 {
            let words = slice.wide_words(simd, at + half * 32);
            for part in 0..4 {
                for i in 0..8 {
                    let quants = simd.and(simd.shr(words[i], 2 * part as u32), two);
                    simd.store_i(quants, &mut self.quants[half * 32 + part * 8 + i]);
                }
            }
        }
    }

    /// Quants of a block of nibble pairs.
    #[inline(always)]
    fn four_bits<S: Simd>(&mut self, simd: S, block: usize, words: [S::I; 4]) {
        let low = simd.splat_i(0x0f0f_0f0f);
        for i in 0..4 {
            simd.store_i(simd.and(words[i], low), &mut self.quants[block * 8 + i]);
            simd.store_i(simd.and(simd.shr(words[i], 4), low), &mut self.quants[block * 8 + 4 + i]);
        }
    }

    /// Quants of a block of nibble pairs with their high bits.
    #[inline(always)]
    fn five_bits<S: Simd>(&mut self, simd: S, block: usize, bits: S::I, words: [S::I; 4]) {
        let low = simd.splat_i(0x0f0f_0f0f);
        for i in 0..4 {
            let first = high_bits(simd, simd.shr(bits, 4 * i as u32));
            let second = high_bits(simd, simd.shr(bits, 16 + 4 * i as u32));
            let first = simd.or(simd.and(words[i], low), first);
            let second = simd.or(simd.and(simd.shr(words[i], 4), low), second);
            simd.store_i(first, &mut self.quants[block * 8 + i]);
            simd.store_i(second, &mut self.quants[block * 8 + 4 + i]);
        }
    }

    /// Quants of a block of nibble pairs through a table.
    #[inline(always)]
    fn nibbles<S: Simd>(&mut self, simd: S, block: usize, words: [S::I; 4], table: &[u8; 16]) {
        let low = simd.splat_i(0x0f0f_0f0f);
        for i in 0..4 {
            let first = simd.lookup(table, simd.and(words[i], low));
            let second = simd.lookup(table, simd.and(simd.shr(words[i], 4), low));
            simd.store_i(first, &mut self.quants[block * 8 + i]);
            simd.store_i(second, &mut self.quants[block * 8 + 4 + i]);
        }
    }

    /// The scale of quants that are `zero` too large.
    #[inline(always)]
    pub(super) fn symmetric<S: Simd>(&mut self, simd: S, block: usize, scale: S::F, zero: f32) {
        simd.store(scale, &mut self.scales[block]);
        simd.store(simd.mul(scale, simd.splat(zero)), &mut self.mins[block]);
    }

    /// The scale of a block, or of a half of one, as an integer of 16 bits times what all of the slice have in common.
    #[inline(always)]
    pub(super) fn factor<S: Simd>(&mut self, simd: S, at: usize, unit: S::F, factor: S::I) {
        if S::SCALED {
            let low = simd.and(factor, simd.splat_i(0xffff));
            simd.store_i(simd.or(low, simd.shl(factor, 16)), &mut self.factors[at]);
        } else {
            simd.store(simd.mul(unit, simd.to_f(factor)), &mut self.scales[at]);
        }
    }

    /// A factor that is byte `byte` of each lane, an integer with a sign or without.
    #[inline(always)]
    fn byte_factor<S: Simd>(
        &mut self,
        simd: S,
        at: usize,
        unit: S::F,
        word: S::I,
        byte: usize,
        is_signed: bool,
    ) {
        if S::SCALED {
            simd.store_i(simd.byte_halves(word, byte, is_signed), &mut self.factors[at]);
        } else {
            self.factor(simd, at, unit, byte_of(simd, word, byte, is_signed));
        }
    }

    /// What the factors of a slice are multiplied with, where they are kept as integers.
    #[inline(always)]
    pub(super) fn unit<S: Simd>(&mut self, simd: S, unit: S::F) {
        if S::SCALED {
            simd.store(unit, &mut self.unit);
        }
    }

    /// Completes `count` factors of a slice whose quants are `zero` too large.
    #[inline(always)]
    pub(super) fn zero<S: Simd>(&mut self, simd: S, unit: S::F, count: usize, zero: u8) {
        self.unit(simd, unit);
        if !S::SCALED {
            for at in 0..count {
                let min = simd.mul(simd.load(&self.scales[at]), simd.splat(zero.into()));
                simd.store(min, &mut self.mins[at]);
            }
            return;
        }
        let (low, high) = (simd.splat_i(0xffff), simd.splat_i(0xffff_0000));
        let minus = simd.splat_i(u32::from(u16::from(zero).wrapping_neg()) * 0x1_0001);
        let halves = count / self.offsets.len();
        for block in 0..self.offsets.len() {
            let (first, last) = (halves * block, halves * block + halves - 1);
            let first = simd.and(simd.load_i(&self.factors[first]), low);
            let both = simd.or(first, simd.and(simd.load_i(&self.factors[last]), high));
            simd.store_i(simd.mul_halves(both, minus), &mut self.offsets[block]);
        }
    }

    /// The scale and, as what is added, the minimum of a block: two f16.
    #[inline(always)]
    fn line<S: Simd>(&mut self, simd: S, block: usize, halves: S::I) {
        let min = simd.half_to_f(simd.shr(halves, 16));
        simd.store(simd.half_to_f(halves), &mut self.scales[block]);
        simd.store(simd.mul(min, simd.splat(-1.0)), &mut self.mins[block]);
    }

    #[inline(always)]
    fn wide_scale<S: Simd>(&mut self, simd: S, block: usize, scale: S::F) {
        self.symmetric(simd, block, scale, if S::WIDE_SIGNED { 0.0 } else { 128.0 });
    }
}

/// Byte `at` of each lane, an integer with a sign or without.
#[inline(always)]
fn byte_of<S: Simd>(simd: S, word: S::I, at: usize, is_signed: bool) -> S::I {
    match is_signed {
        true => simd.sar(simd.shl(word, 24 - 8 * at as u32), 24),
        false => simd.and(simd.shr(word, 8 * at as u32), simd.splat_i(0xff)),
    }
}

/// The third bits of the quants of a block in Q3_K, from a bit for each of the eight blocks.
#[inline(always)]
pub(super) fn q3_k_high<S: Simd>(simd: S, bits: S::I, block: usize) -> S::I {
    let bits = if block < 2 { simd.shl(bits, 2 - block as u32) } else { simd.shr(bits, block as u32 - 2) };
    simd.and(bits, simd.splat_i(0x0404_0404))
}

/// The quants of the block `block` of four in Q6_K, from the nibbles of its own and of another, and pairs of bits of all.
#[inline(always)]
pub(super) fn q6_k_quants<S: Simd>(simd: S, nibbles: S::I, pairs: S::I, block: usize) -> S::I {
    let nibbles = if block < 2 { nibbles } else { simd.shr(nibbles, 4) };
    let pairs = match block {
        0 | 1 => simd.shl(pairs, 4 - 2 * block as u32),
        2 => pairs,
        _ => simd.shr(pairs, 2),
    };
    let (low, pair) = (simd.splat_i(0x0f0f_0f0f), simd.splat_i(0x3030_3030));
    simd.or(simd.and(nibbles, low), simd.and(pairs, pair))
}

/// The four lowest bits as bit 4 of four bytes.
#[inline(always)]
fn high_bits<S: Simd>(simd: S, bits: S::I) -> S::I {
    let four = simd.and(simd.shl(bits, 4), simd.splat_i(0xf0));
    let two = simd.or(four, simd.shl(four, 14));
    simd.and(simd.or(two, simd.shl(two, 7)), simd.splat_i(0x1010_1010))
}

/// The quant that stands for 0 in types of E2M1 numbers.
const E2M1_ZERO: u8 = 12;

/// [`E2M1_DOUBLED`] as quants.
const E2M1_TABLE: [u8; 16] = {
    let mut table = [0; 16];
    let mut i = 0;
    while i < 16 {
        table[i] = E2M1_ZERO.wrapping_add_signed(E2M1_DOUBLED[i]);
        i += 1;
    }
    table
};

/// [`IQ4_VALUES`] as wide quants.
const fn iq4_table<S: Simd>() -> [u8; 16] {
    let mut table = [0; 16];
    let mut i = 0;
    while i < 16 {
        table[i] = if S::WIDE_SIGNED { IQ4_VALUES[i] as u8 } else { (IQ4_VALUES[i] as u8) ^ 0x80 };
        i += 1;
    }
    table
}

impl Values {
    /// Workspace for a slice.
    pub(super) const ZERO: Self = Self([[0.0; LANES]; SLICE]);

    /// Unpacks a slice of any type; also returns how many columns it has.
    #[inline(always)]
    pub(super) fn unpack<S: Simd, const P: bool>(&mut self, simd: S, slice: &Slice<P>) -> usize {
        match slice.matrix.dtype() {
            DType::F32 => self.f32(simd, slice),
            DType::F16 => self.f16(simd, slice),
            DType::BF16 => self.bf16(simd, slice),
            DType::F8E4M3 => self.f8e4m3(simd, slice),
            dtype => self.blocked(slice, dtype),
        }
        if slice.matrix.layout.stored.scale_block.is_some() {
            self.scale(simd, slice);
        }
        slice.len
    }

    #[inline(always)]
    fn f32<S: Simd, const P: bool>(&mut self, simd: S, slice: &Slice<P>) {
        for at in (0..slice.len).step_by(4) {
            let words = slice.words(simd, at * 4);
            for i in 0..4 {
                simd.store(simd.bits_f(words[i]), &mut self.0[at + i]);
            }
        }
    }

    #[inline(always)]
    fn f16<S: Simd, const P: bool>(&mut self, simd: S, slice: &Slice<P>) {
        for at in (0..slice.len).step_by(8) {
            let words = slice.words(simd, at * 2);
            for i in 0..4 {
                simd.store(simd.half_to_f(words[i]), &mut self.0[at + 2 * i]);
                simd.store(simd.half_to_f(simd.shr(words[i], 16)), &mut self.0[at + 2 * i + 1]);
            }
        }
    }

    #[inline(always)]
    fn bf16<S: Simd, const P: bool>(&mut self, simd: S, slice: &Slice<P>) {
        let high = simd.splat_i(0xffff_0000);
        for at in (0..slice.len).step_by(8) {
            let words = slice.words(simd, at * 2);
            for i in 0..4 {
                simd.store(simd.bits_f(simd.shl(words[i], 16)), &mut self.0[at + 2 * i]);
                simd.store(simd.bits_f(simd.and(words[i], high)), &mut self.0[at + 2 * i + 1]);
            }
        }
    }

    /// The bits of an E4M3 number are those of an f32 that is 2^120 times too small, subnormal ones
    /// included. Its NaN reads as 480.
    #[inline(always)]
    fn f8e4m3<S: Simd, const P: bool>(&mut self, simd: S, slice: &Slice<P>) {
        let (sign, rest) = (simd.splat_i(0x8000_0000), simd.splat_i(0x07f0_0000));
        let bias = simd.splat(f32::from_bits((127 + 120) << 23));
        for at in (0..slice.len).step_by(16) {
            let words = slice.words(simd, at);
            for i in 0..4 {
                for byte in 0..4 {
                    let top = simd.shl(words[i], 24 - 8 * byte as u32);
                    let bits = simd.or(simd.and(top, sign), simd.and(simd.shr(top, 4), rest));
                    simd.store(simd.mul(simd.bits_f(bits), bias), &mut self.0[at + 4 * i + byte]);
                }
            }
        }
    }

    /// Any type in blocks, exactly.
    fn blocked<const P: bool>(&mut self, slice: &Slice<P>, dtype: DType) {
        let bytes = slice.len / dtype.block_len() * dtype.block_bytes();
        let mut row = [0.0; SLICE];
        for lane in 0..LANES {
            let unpacked;
            let stored = if P {
                unpacked = packed::unpack(dtype, slice.bytes, lane);
                &unpacked
            } else {
                &slice.bytes[lane * slice.stride..]
            };
            blocks::to_f32(dtype, &stored[..bytes], &mut row[..slice.len]);
            for (out, value) in self.0.iter_mut().zip(row) {
                out[lane] = value;
            }
        }
    }

    #[inline(always)]
    fn scale<S: Simd, const P: bool>(&mut self, simd: S, slice: &Slice<P>) {
        let MatrixLayout { rows, cols, scale_block, .. } = slice.matrix.layout.stored;
        let Some([_, block_cols]) = scale_block else { return };
        let per_row = cols.div_ceil(block_cols);
        let mut at = 0;
        while at < slice.len {
            let block = ((slice.at + at) / block_cols).min(per_row - 1);
            let end = ((block + 1) * block_cols - slice.at).min(slice.len);
            let end = if block + 1 == per_row { slice.len } else { end };
            let mut scales = [0.0; LANES];
            for (lane, out) in scales.iter_mut().enumerate() {
                *out = slice.matrix.scale((slice.row + lane).min(rows - 1), block);
            }
            let scales = simd.load(&scales);
            for values in &mut self.0[at..end] {
                simd.store(simd.mul(simd.load(values), scales), values);
            }
            at = end;
        }
    }
}

impl<const PACKED: bool> Slice<'_, PACKED> {
    /// Bytes `at..at + WORDS` of each row.
    #[inline(always)]
    pub(super) fn words<S: Simd>(&self, simd: S, at: usize) -> [S::I; 4] {
        self.prefetch(simd, WORDS);
        if PACKED {
            return self.packed_words(simd, at);
        }
        debug_assert!((LANES - 1) * self.stride + at + WORDS <= self.bytes.len());
        // SAFETY: `bytes` holds the rows `stride` apart, of which the last ends with the slice; every
        // caller asks for bytes that its format has in the slice's whole blocks.
        unsafe { simd.transpose(self.bytes.as_ptr().add(at), self.stride) }
    }

    /// Bytes `at..at + 2 * WORDS` of each row.
    #[inline(always)]
    pub(super) fn wide_words<S: Simd>(&self, simd: S, at: usize) -> [S::I; 8] {
        self.prefetch(simd, 2 * WORDS);
        if PACKED {
            return self.packed_words(simd, at);
        }
        debug_assert!((LANES - 1) * self.stride + at + 2 * WORDS <= self.bytes.len());
        // SAFETY: as in `words`.
        unsafe { simd.transpose_wide(self.bytes.as_ptr().add(at), self.stride) }
    }

    /// `N` words of each row from byte `at` on, of a slice that is packed.
    #[inline(always)]
    fn packed_words<S: Simd, const N: usize>(&self, simd: S, at: usize) -> [S::I; N] {
        let (first, shift) = (at / WORD, at as u32 % 4 * 8);
        let mut words = [simd.splat_i(0); N];
        for i in 0..N {
            words[i] = self.packed_word(simd, first + i);
        }
        if shift > 0 {
            for i in 0..N {
                let next = if i + 1 < N { words[i + 1] } else { self.packed_word(simd, first + N) };
                words[i] = simd.or(simd.shr(words[i], shift), simd.shl(next, 32 - shift));
            }
        }
        words
    }

    /// The word from byte `at + i * WORD` on: of a slice that is packed, or one of `words` from `at` on.
    #[inline(always)]
    pub(super) fn word<S: Simd>(&self, simd: S, words: &[S::I; 4], at: usize, i: usize) -> S::I {
        if PACKED { self.packed_word(simd, at / WORD + i) } else { words[i] }
    }

    /// Four words of the quants of Q6_K, of a slice that is packed.
    #[inline(always)]
    pub(super) fn sextets<S: Simd>(&self, simd: S, four: usize) -> [S::I; 4] {
        packed::sextets(simd, self.three_words(simd, four))
    }

    /// The words of a block of quants of Q3_K, of a slice that is packed.
    #[inline(always)]
    pub(super) fn triplets<S: Simd>(&self, simd: S, block: usize) -> [S::I; 8] {
        packed::triplets(simd, self.three_words(simd, block))
    }

    #[inline(always)]
    fn three_words<S: Simd>(&self, simd: S, three: usize) -> [S::I; 3] {
        self.prefetch(simd, 3 * WORD);
        let mut words = [simd.splat_i(0); 3];
        for i in 0..3 {
            words[i] = self.packed_word(simd, 3 * three + i);
        }
        words
    }

    /// [`Slice::words`] for [`Slice::word`]: none of a slice that is packed.
    #[inline(always)]
    pub(super) fn four<S: Simd>(&self, simd: S, at: usize) -> [S::I; 4] {
        if !PACKED {
            return self.words(simd, at);
        }
        self.prefetch(simd, WORDS);
        [simd.splat_i(0); 4]
    }

    #[inline(always)]
    fn packed_word<S: Simd>(&self, simd: S, word: usize) -> S::I {
        debug_assert!((word + 1) * LINE <= self.bytes.len());
        let word = self.bytes.as_ptr().wrapping_add(word * LINE).cast::<[u32; LANES]>();
        debug_assert!(word.is_aligned());
        // SAFETY: as in `words`; strips begin at whole cache lines.
        simd.load_i(unsafe { &*word })
    }

    /// Prefetches `bytes` for each row. That is a small step: many prefetches at once would wait for each
    /// other, and the loads behind for them.
    #[inline(always)]
    fn prefetch<S: Simd>(&self, simd: S, bytes: usize) {
        let ahead = self.ahead.get();
        for line in (0..LANES * bytes).step_by(LINE) {
            simd.prefetch(ahead.wrapping_add(line));
        }
        self.ahead.set(ahead.wrapping_add(LANES * bytes));
    }
}
