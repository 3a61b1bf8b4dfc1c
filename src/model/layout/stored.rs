//! Parts of a model as files store them. Published checkpoints have FP8 matrices with a sibling `*_scale_inv` of
//! block scales; GGUF files leave out or add sizes of 1 that stand first.

use std::ops::Range;
use std::slice;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};

use crate::base::dtype::DType;
use crate::compute::{BlockScale, StoredMatrix};
use crate::format::{Bytes, Description, ModelDir, Tensor};
use crate::model::architecture::{Change, Part, Source};
use crate::model::config::Config;

/// A part, found in the files of a model.
pub struct Stored {
    /// Its rows, one below the other.
    pub pieces: Vec<Piece>,
    /// Which elements of each row; all where it is empty.
    columns: Vec<Range<usize>>,
    /// What is done to each element.
    change: Change,
    /// Number of rows.
    pub rows: usize,
    /// Length of a row.
    pub cols: usize,
}

/// Rows that lie one after the other in a stored tensor.
pub struct Piece {
    /// The tensor, as `[rows, cols]`.
    pub tensor: Tensor,
    /// The scales of a tensor in FP8.
    pub scale: Option<Arc<BlockScale>>,
    /// The first row in the tensor.
    pub first: usize,
    /// The row of the part that it becomes.
    pub start: usize,
    /// Number of rows.
    pub rows: usize,
}

/// Where the files of `dir` keep `part`: together with others if they have such a tensor, else in its usual place.
/// Fails where their kind has none.
pub fn locate<'a>(dir: &ModelDir, part: &'a Part) -> Result<&'a Source> {
    let sources = match dir.description() {
        Description::Folder(_) => &part.checkpoint,
        Description::Gguf(_) => &part.gguf,
    };
    let exists = |source: &&Source| dir.contains(&source.tensors[0].tensor);
    let found = sources.iter().rev().find(exists).or(sources.first());
    found.with_context(|| format!("{}: GGUF's architecture has no place for {:?}", dir.origin(), part.field))
}

impl Stored {
    /// Opens the tensors of `source`, with rows of `cols` elements, and checks their shapes and scales.
    pub fn open(dir: &ModelDir, config: &Config, source: &Source, cols: usize) -> Result<Self> {
        let mut pieces = Vec::new();
        let mut start = 0;
        for rows in &source.tensors {
            let mut tensor = checked(dir, &rows.tensor, &rows.shape)?;
            let scale = block_scale(dir, config, &tensor)?.map(Arc::new);
            tensor.shape = vec![tensor.shape.iter().product::<usize>() / cols.max(1), cols];
            // The whole rows: the queries' part of a fused bias is longer than what follows it.
            if let Some(bytes) = tensor.dtype.bytes(tensor.shape[0] * cols) {
                tensor.bytes = tensor.bytes.slice(0..bytes);
            }
            for range in &rows.ranges {
                let (tensor, scale) = (tensor.clone(), scale.clone());
                pieces.push(Piece { tensor, scale, first: range.start, start, rows: range.len() });
                start += range.len();
            }
        }
        let (columns, change) = (source.columns.clone(), source.change);
        Ok(Self { pieces, columns, change, rows: start, cols })
    }

    /// All elements, changed.
    pub fn values(&self) -> Vec<f32> {
        let mut values = Vec::with_capacity(self.rows * self.cols);
        for piece in &self.pieces {
            values.extend(piece.values());
        }
        self.rearrange(&mut values);
        values
    }

    /// From rows as stored to those of the part.
    pub fn rearrange(&self, values: &mut [f32]) {
        if !self.columns.is_empty() {
            for row in values.chunks_exact_mut(self.cols) {
                let moved: Vec<f32> =
                    self.columns.iter().flat_map(|range| &row[range.clone()]).copied().collect();
                row.copy_from_slice(&moved);
            }
        }
        self.change.apply(values);
    }

    /// Whether rows are as stored.
    pub fn is_plain(&self) -> bool {
        self.columns.is_empty() && self.change == Change::None
    }

    /// These rows and then those of `other`, which are as long.
    pub fn above(mut self, other: Self) -> Self {
        let moved = other.pieces.into_iter().map(|piece| Piece { start: piece.start + self.rows, ..piece });
        self.pieces.extend(moved);
        Self { rows: self.rows + other.rows, ..self }
    }

    /// Some rows: where they lie if they lie together, else copied.
    pub fn matrix(&self, rows: Range<usize>) -> Result<StoredMatrix> {
        self.stacked(slice::from_ref(&rows))
    }

    /// The rows of `ranges`, one below the other: where they lie if they lie together, else copied.
    pub fn stacked(&self, ranges: &[Range<usize>]) -> Result<StoredMatrix> {
        debug_assert!(self.is_plain(), "matrices are loaded as stored");
        let mut pieces = ranges.iter().flat_map(|range| self.rows(range.clone()));
        let first = pieces.next().context("a matrix without rows")?;
        let rest: Vec<Piece> = pieces.collect();
        if rest.is_empty() {
            return Ok(first.matrix());
        }
        Ok(stack(first, &rest))
    }

    /// What some of its rows are made of.
    fn rows(&self, range: Range<usize>) -> impl Iterator<Item = Piece> {
        let index = self.pieces.partition_point(|piece| piece.start <= range.start) - 1;
        let pieces = self.pieces[index..].iter().take_while(move |piece| piece.start < range.end);
        pieces.map(move |piece| {
            let start = range.start.max(piece.start);
            let end = range.end.min(piece.start + piece.rows);
            let (tensor, scale) = (piece.tensor.clone(), piece.scale.clone());
            Piece { tensor, scale, first: piece.first + start - piece.start, start, rows: end - start }
        })
    }
}

impl Piece {
    fn matrix(&self) -> StoredMatrix {
        let values = self.tensor.rows(self.first..self.first + self.rows);
        let is_whole = values.shape == self.tensor.shape;
        let scale = self.scale.as_deref();
        let scale = if is_whole { scale.cloned() } else { scale.map(|scale| self.row_scales(scale)) };
        StoredMatrix { rows: self.rows, cols: self.tensor.shape[1], values, scale }
    }

    /// All elements.
    fn values(&self) -> Vec<f32> {
        let mut values = self.tensor.rows(self.first..self.first + self.rows).to_f32();
        if let Some(scale) = &self.scale {
            for (row, values) in (self.first..).zip(values.chunks_mut(self.tensor.shape[1])) {
                scale.apply(row, values);
            }
        }
        values
    }

    /// The scales with those of each row apart: rows of a block may be in different places.
    fn row_scales(&self, scale: &BlockScale) -> BlockScale {
        let width = self.tensor.shape[1].div_ceil(scale.block_cols);
        let of_row = |row: usize| &scale.values[row / scale.block_rows * width..][..width];
        let values = (self.first..self.first + self.rows).flat_map(of_row).copied().collect();
        BlockScale { values, block_rows: 1, block_cols: scale.block_cols }
    }
}

/// Pieces one below the other; in F32 where they are stored in different ways.
fn stack(first: Piece, rest: &[Piece]) -> StoredMatrix {
    let pieces = || std::iter::once(&first).chain(rest);
    let rows = pieces().map(|piece| piece.rows).sum();
    let (name, cols) = (first.tensor.name.clone(), first.tensor.shape[1]);
    let is_alike = |piece: &Piece| {
        piece.tensor.dtype == first.tensor.dtype && piece.scale.is_some() == first.scale.is_some()
    };
    let (mut bytes, mut scale, mut dtype) = (Vec::new(), None::<BlockScale>, first.tensor.dtype);
    if rest.iter().all(is_alike) {
        for piece in pieces() {
            bytes.extend_from_slice(&piece.tensor.rows(piece.first..piece.first + piece.rows).bytes);
        }
        let scales = pieces().filter_map(|piece| Some(piece.row_scales(piece.scale.as_deref()?)));
        scale = scales.reduce(|mut all, own| {
            all.values.extend(own.values);
            all
        });
    } else {
        dtype = DType::F32;
        bytes.extend(pieces().flat_map(Piece::values).flat_map(f32::to_le_bytes));
    }
    let values = Tensor { name, dtype, shape: vec![rows, cols], bytes: Bytes::from(bytes) };
    StoredMatrix { rows, cols, values, scale }
}

/// The scales of a tensor: it is FP8 with block scales exactly when it has a sibling `*_scale_inv`.
fn block_scale(dir: &ModelDir, config: &Config, tensor: &Tensor) -> Result<Option<BlockScale>> {
    let (origin, name) = (dir.origin(), format!("{}_scale_inv", tensor.name));
    let scaled = dir.contains(&name);
    ensure!(
        scaled == (tensor.dtype == DType::F8E4M3),
        "{origin}: {} is {} {} {name}",
        tensor.name,
        tensor.dtype,
        if scaled { "with" } else { "without" }
    );
    if !scaled {
        return Ok(None);
    }
    let &[rows, cols] = &tensor.shape[..] else {
        bail!("{origin}: {} is FP8 and no matrix; fimd reads FP8 with block scales", tensor.name);
    };
    let Some([block_rows, block_cols]) = config.fp8_block else {
        bail!("{origin}: {name} exists, but config.json has no quantization_config");
    };
    let scale = checked(dir, &name, &[rows.div_ceil(block_rows), cols.div_ceil(block_cols)])?;
    ensure!(scale.dtype != DType::F8E4M3, "{origin}: {name} is stored as FP8, without scales");
    Ok(Some(BlockScale { values: scale.to_f32(), block_rows, block_cols }))
}

/// A tensor, which must have this shape.
fn checked(dir: &ModelDir, name: &str, shape: &[usize]) -> Result<Tensor> {
    let mut tensor = dir.tensor(name)?;
    let (fits, asking) = match dir.description() {
        Description::Folder(_) => (tensor.shape == shape, "config.json"),
        Description::Gguf(_) => (trimmed(&tensor.shape) == trimmed(shape), "the metadata"),
    };
    ensure!(
        fits,
        "{}: tensor {name} has shape {:?}; {asking} asks for {shape:?}",
        dir.origin(),
        tensor.shape
    );
    tensor.shape = shape.to_vec();
    Ok(tensor)
}

fn trimmed(shape: &[usize]) -> &[usize] {
    let ones = shape.iter().take_while(|&&size| size == 1).count();
    &shape[ones..]
}

#[cfg(test)]
mod tests {
    use std::iter::once;

    use safetensors::Dtype;
    use safetensors::tensor::TensorView;

    use super::*;
    use crate::format::blocks;
    use crate::model::architecture::Rows;

    const SHAPE: [usize; 2] = [5, 4];
    const BLOCK: [usize; 2] = [2, 3];

    /// Every value of a matrix in FP8 with ragged blocks of scales.
    fn values(matrix: &StoredMatrix) -> Vec<Vec<f32>> {
        assert_eq!(matrix.values.shape, [matrix.rows, matrix.cols]);
        let mut all = vec![0.0; matrix.rows * matrix.cols];
        blocks::to_f32(matrix.values.dtype, &matrix.values.bytes, &mut all);
        let mut rows: Vec<Vec<f32>> = all.chunks(matrix.cols).map(<[f32]>::to_vec).collect();
        for (i, row) in rows.iter_mut().enumerate() {
            matrix.scale.as_ref().unwrap().apply(i, row);
        }
        rows
    }

    #[test]
    fn rows_keep_their_scales_wherever_they_go() {
        let elements: Vec<u8> = (0x30..0x30 + 20).collect();
        let scales: Vec<u8> = (1..=6).flat_map(|i| (i as f32).to_le_bytes()).collect();
        let view = |dtype, shape: [usize; 2], bytes| TensorView::new(dtype, shape.to_vec(), bytes).unwrap();
        let tensors = [
            ("w", view(Dtype::F8_E4M3, SHAPE, &elements)),
            ("w_scale_inv", view(Dtype::F32, [3, 2], &scales)),
        ];
        let bytes = Bytes::from(safetensors::serialize(tensors, None).unwrap());
        let text = include_bytes!("../../starter/config.json");
        let dir = ModelDir::from_safetensors("test", text, None, &bytes).unwrap();
        let config = Config { fp8_block: Some(BLOCK), ..Config::read(&dir).unwrap() };

        let open = |ranges: Vec<Range<usize>>| {
            let rows = Rows::new("w", &SHAPE, ranges);
            Stored::open(&dir, &config, &Source::of(rows), 4).unwrap()
        };
        let whole = open(once(0..5).collect());
        let expected = values(&whole.matrix(0..5).unwrap());
        // 0x43 is 2.75; the scale of the last block is 6.
        assert_eq!(expected[4][3], 16.5);
        let rows = |rows: &[usize]| -> Vec<Vec<f32>> { rows.iter().map(|&i| expected[i].clone()).collect() };
        assert_eq!(values(&whole.matrix(1..4).unwrap()), rows(&[1, 2, 3]));
        assert_eq!(values(&whole.stacked(&[3..5, 0..2]).unwrap()), rows(&[3, 4, 0, 1]));
        let moved = open(vec![3..5, 0..3]);
        assert_eq!(values(&moved.matrix(0..5).unwrap()), rows(&[3, 4, 0, 1, 2]));
        assert_eq!(values(&moved.stacked(&[1..3, 0..1]).unwrap()), rows(&[4, 0, 3]));
        assert_eq!(moved.rows, 5);
    }
}
