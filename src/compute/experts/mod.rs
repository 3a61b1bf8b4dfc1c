//! The bytes of routed experts: how they are stored, and who has them.

pub mod policy;

use std::io;
use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::base::dtype::DType;
use crate::format::{Bytes, Memory};

/// A routed expert of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ExpertId {
    /// Its layer.
    pub layer: u32,
    /// Its index in the router's output.
    pub expert: u32,
}

/// How a matrix is stored: `[rows, cols]` elements of a type, and f32 scales where it is quantised by blocks of
/// rows and columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MatrixLayout {
    /// Outputs.
    pub rows: usize,
    /// Inputs; whole blocks of the type.
    pub cols: usize,
    /// Type of the elements.
    pub dtype: DType,
    /// `[rows, cols]` that share a scale.
    pub scale_block: Option<[usize; 2]>,
}

impl MatrixLayout {
    /// Bytes of the elements; `None` where the columns are not whole blocks, or too many.
    pub fn value_bytes(&self) -> Option<usize> {
        self.dtype.bytes(self.cols)?.checked_mul(self.rows)
    }

    /// Bytes of the scales.
    pub fn scale_bytes(&self) -> usize {
        let count = |[rows, cols]: [usize; 2]| self.rows.div_ceil(rows) * self.cols.div_ceil(cols);
        self.scale_block.map_or(0, count) * size_of::<f32>()
    }
}

/// How every routed expert of a layer is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpertShape {
    /// Routed experts of the layer.
    pub experts: usize,
    /// Gate, up and down, as in [`ExpertWeights`](super::ExpertWeights).
    pub matrices: [MatrixLayout; 3],
}

impl ExpertShape {
    /// Where elements and scales of gate, up and down lie in a record.
    pub fn parts(&self) -> [Part<Range<usize>>; 3] {
        let mut start = 0;
        let mut next = |bytes: usize| {
            start += bytes;
            start - bytes..start
        };
        self.matrices.map(|matrix| Part {
            values: next(matrix.value_bytes().expect("a checked layout")),
            scales: next(matrix.scale_bytes()),
        })
    }

    /// Bytes of a record: one expert, its parts one after the other.
    pub fn record_bytes(&self) -> usize {
        self.parts()[2].scales.end
    }
}

/// Elements and scales of one matrix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part<T> {
    /// Elements, row by row.
    pub values: T,
    /// Little-endian f32 scales, `[blocks of rows, blocks of columns]`; empty without.
    pub scales: T,
}

/// Gate, up and down of one expert.
pub type ExpertParts = [Part<Bytes>; 3];

/// Ranks of experts that are known for each one that a token visits, where the router tells: an expert that was ranked
/// next is soon visited.
pub const RANKS_PER_VISIT: usize = 4;

/// The experts of each row of a pass in a layer, the one that its router ranks first before the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ranking<'a> {
    /// Experts that a row visits: the first ones.
    pub top_k: usize,
    /// Experts of each row, at least `top_k`.
    ranked: usize,
    /// `[rows, ranked]`
    experts: &'a [u32],
}

impl<'a> Ranking<'a> {
    /// `ranked` experts of each row, of which the first `top_k` are visited; at least one.
    pub fn new(top_k: usize, ranked: usize, experts: &'a [u32]) -> Self {
        assert!((1..=ranked).contains(&top_k));
        Self { top_k, ranked, experts }
    }

    /// Of rows of which only the visited experts are known, `[rows, top_k]`; the last row may have fewer.
    pub fn of_visits(top_k: usize, experts: &'a [u32]) -> Self {
        Self::new(top_k, top_k, experts)
    }

    /// How many ranks of a layer are known, see [`RANKS_PER_VISIT`].
    pub fn depth(top_k: usize, experts: usize) -> usize {
        (RANKS_PER_VISIT * top_k).min(experts)
    }

    /// The experts of each row.
    pub fn rows(self) -> std::slice::Chunks<'a, u32> {
        self.experts.chunks(self.ranked)
    }

    /// The visited experts of all rows.
    pub fn visits(self) -> impl Iterator<Item = u32> + 'a {
        self.rows().flat_map(move |row| &row[..self.top_k.min(row.len())]).copied()
    }
}

/// How visits went to routed experts of which a device holds some.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceVisits {
    /// Slots of each layer.
    pub slots: usize,
    /// Experts that passes visited, each once for a layer.
    pub visits: u64,
    /// Those that had a slot.
    pub hits: u64,
    /// Those that were copied to one.
    pub copied: u64,
    /// Those that were copied past the slots, for long prompts.
    pub streamed: u64,
    /// Those of both that were copied from page-locked memory where they are, without being laid out in other memory first.
    pub in_place: u64,
}

impl DeviceVisits {
    /// What was added to `before`.
    pub fn since(&self, before: &Self) -> Self {
        Self {
            slots: self.slots,
            visits: self.visits - before.visits,
            hits: self.hits - before.hits,
            copied: self.copied - before.copied,
            streamed: self.streamed - before.streamed,
            in_place: self.in_place - before.in_place,
        }
    }

    /// Share of the visits that found the expert in its slot.
    pub fn hit_rate(&self) -> f64 {
        self.hits as f64 / (self.visits as f64).max(1.0)
    }
}

/// The owner of the bytes of routed experts: a map of the checkpoint, or a cache over it.
pub trait ExpertBytes: Send + Sync {
    /// The bytes of an expert that is in memory; `None` where it has to be fetched.
    fn resident(&self, id: ExpertId) -> Option<ExpertParts>;

    /// Reads experts as records ([`ExpertShape::record_bytes`]), one after the other.
    fn fetch(&self, ids: &[ExpertId], into: &mut [u8]) -> io::Result<()>;

    /// Where experts of a layer are as long as this exists, and which may be page-locked for a device.
    fn memory(&self, _layer: usize) -> Vec<Memory> {
        Vec::new()
    }

    /// How a smaller copy of all experts of a layer is stored, where there is one.
    fn cold_shape(&self, _layer: usize) -> Option<ExpertShape> {
        None
    }

    /// The bytes of an expert in that copy: what is computed with instead of being fetched.
    fn cold(&self, _id: ExpertId) -> Option<ExpertParts> {
        None
    }

    /// Whether [`Self::visited`] is to be told.
    fn is_told(&self) -> bool;

    /// Told of the experts of a pass in a layer before they are asked for: of those that no device holds.
    fn visited(&self, layer: usize, ranking: Ranking);

    /// Whether [`Self::routed`] is to be told.
    fn is_recorded(&self) -> bool {
        false
    }

    /// Told of all experts of a pass in a layer, wherever their bytes are.
    fn routed(&self, _ranking: Ranking) {}
}
