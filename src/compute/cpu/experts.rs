//! Routed experts: layouts, and the bytes of those that a pass visits.

use std::borrow::Cow;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use anyhow::Result;

use super::matrix::{Layout, MatrixRef};
use super::scratch::{Buffer, BufferPool};
use super::simd::LINE;
use crate::base::pool::Pool;
use crate::compute::experts::{ExpertBytes, ExpertId, ExpertParts, ExpertShape, Part, Ranking};
use crate::format::slots::SlotMemory;

/// Most experts that are fetched at a time: their bytes are in memory until they are computed with.
const FETCHED_MAX: usize = 32;

/// The routed experts of one layer.
#[derive(Clone)]
pub struct Experts {
    layer: usize,
    shape: ExpertShape,
    layouts: [Layout; 3],
    /// Those of a smaller copy, where there is one.
    cold: Option<[Layout; 3]>,
    bytes: Arc<dyn ExpertBytes>,
    /// All of them as they are read, where they were copied so.
    packed: Option<Packed>,
}

/// Copies of all experts as they are read.
#[derive(Clone)]
struct Packed {
    /// A record in each slot.
    memory: Arc<SlotMemory>,
    /// Where the parts of an expert are in its record.
    parts: [Part<Range<usize>>; 3],
}

/// A feed-forward block with a gate, where its bytes are.
#[derive(Clone, Copy)]
pub struct Expert<'a> {
    pub gate: MatrixRef<'a>,
    pub up: MatrixRef<'a>,
    pub down: MatrixRef<'a>,
}

/// The experts that a pass visits, ascending, with the bytes of those that are in memory.
pub struct Visited<'a> {
    experts: &'a Experts,
    ids: Vec<u32>,
    resident: Vec<Option<Resident<'a>>>,
}

/// An expert in memory.
struct Resident<'a> {
    layouts: &'a [Layout; 3],
    parts: ExpertParts,
}

/// Experts with their bytes.
pub struct Held<'a>(Vec<HeldExpert<'a>>);

struct HeldExpert<'a> {
    layouts: &'a [Layout; 3],
    /// Elements as they are read, and scales, of gate, up and down.
    parts: [Part<Cow<'a, [u8]>>; 3],
}

impl Experts {
    /// Those of layer `layer`. Fails when the columns of a matrix are not whole blocks of its type.
    pub fn new(layer: usize, shape: ExpertShape, exact: bool, bytes: Arc<dyn ExpertBytes>) -> Result<Self> {
        let cold = bytes.cold_shape(layer).map(|shape| layouts(&shape, exact, false)).transpose()?;
        Ok(Self { layer, shape, layouts: layouts(&shape, exact, false)?, cold, bytes, packed: None })
    }

    /// The same, copied in the order in which they are read, if all of them are in memory. Fails where the copy has none.
    pub fn packed(mut self, exact: bool, pool: &mut Pool) -> Result<Self> {
        let resident = (0..self.count() as u32).map(|expert| self.bytes.resident(self.id(expert)));
        let (layouts, Some(experts)) =
            (layouts(&self.shape, exact, true)?, resident.collect::<Option<Vec<ExpertParts>>>())
        else {
            return Ok(self);
        };
        if !layouts.iter().any(Layout::is_packed) {
            return Ok(self);
        }
        let parts = packed_parts(&layouts, &experts[0]);
        let memory = SlotMemory::new(experts.len(), parts[2].scales.end)?;
        pool.run(experts.len(), |expert| {
            let mut record = memory.write(expert).expect("new memory");
            for ((part, to), layout) in experts[expert].iter().zip(&parts).zip(&layouts) {
                let out = &mut record[to.values.clone()];
                match layout.is_packed() {
                    true => layout.pack(&part.values, out),
                    false => out.copy_from_slice(&part.values),
                }
                record[to.scales.clone()].copy_from_slice(&part.scales);
            }
        });
        (self.layouts, self.packed) = (layouts, Some(Packed { memory, parts }));
        Ok(self)
    }

    /// Their layer.
    pub fn layer(&self) -> usize {
        self.layer
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.shape.experts
    }

    /// The width of rows.
    pub fn hidden(&self) -> usize {
        self.shape.matrices[0].cols
    }

    /// Their inner width.
    pub fn width(&self) -> usize {
        self.shape.matrices[0].rows
    }

    /// Whether the owner of the bytes is to be told what rows visit.
    pub fn is_told(&self) -> bool {
        self.bytes.is_told()
    }

    /// Tells the owner of the bytes what rows visit.
    pub fn tell(&self, ranking: Ranking) {
        self.bytes.visited(self.layer, ranking);
    }

    /// Tells the owner of the bytes of all experts of a pass, wherever they are.
    pub fn record(&self, ranking: Ranking) {
        self.bytes.routed(ranking);
    }

    /// The bytes of an expert that is in memory as it is stored.
    pub fn stored(&self, expert: u32) -> Option<ExpertParts> {
        self.bytes.resident(self.id(expert))
    }

    /// The experts `ids`, ascending, of whose visits the owner of the bytes was told.
    pub fn visit(&self, ids: Vec<u32>) -> Visited<'_> {
        let resident = ids.iter().map(|&expert| self.resident(self.id(expert))).collect();
        Visited { experts: self, ids, resident }
    }

    /// An expert as it is stored, if that is in memory, or else in the smaller copy.
    fn resident(&self, id: ExpertId) -> Option<Resident<'_>> {
        if let Some(Packed { memory, parts }) = &self.packed {
            let record = memory.read(id.expert as usize)?;
            let of = |range: &Range<usize>| record.slice(range.clone());
            let parts =
                parts.each_ref().map(|part| Part { values: of(&part.values), scales: of(&part.scales) });
            return Some(Resident { layouts: &self.layouts, parts });
        }
        let own = self.bytes.resident(id).map(|parts| Resident { layouts: &self.layouts, parts });
        own.or_else(|| Some(Resident { layouts: self.cold.as_ref()?, parts: self.bytes.cold(id)? }))
    }

    fn id(&self, expert: u32) -> ExpertId {
        ExpertId { layer: self.layer as u32, expert }
    }
}

/// Where the parts of an expert are in a record of copies, each from a whole cache line on.
fn packed_parts(layouts: &[Layout; 3], expert: &ExpertParts) -> [Part<Range<usize>>; 3] {
    let mut end = 0usize;
    let mut next = |bytes| {
        let start = end.next_multiple_of(LINE);
        end = start + bytes;
        start..end
    };
    let [gate, up, down] = [0, 1, 2].map(|i| {
        let values = if layouts[i].is_packed() { layouts[i].bytes() } else { expert[i].values.len() };
        Part { values: next(values), scales: next(expert[i].scales.len()) }
    });
    [gate, up, down]
}

fn layouts(shape: &ExpertShape, exact: bool, pack: bool) -> Result<[Layout; 3]> {
    let [gate, up, down] = shape.matrices.map(|matrix| Layout::new(matrix, exact, pack));
    Ok([gate?, up?, down?])
}

impl<'a> HeldExpert<'a> {
    fn new(layouts: &'a [Layout; 3], parts: [Part<&'a [u8]>; 3]) -> Self {
        let mut own = layouts.iter();
        let parts = parts.map(|Part { values, scales }| Part {
            values: own.next().expect("three layouts").pad(values),
            scales: scales.into(),
        });
        Self { layouts, parts }
    }
}

impl Visited<'_> {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether the n-th is in memory.
    pub fn is_resident(&self, n: usize) -> bool {
        self.resident[n].is_some()
    }

    /// Consecutive ones whose missing bytes can be in memory at a time.
    pub fn groups(&self) -> Vec<Range<usize>> {
        let (mut groups, mut start, mut missing) = (Vec::new(), 0, 0);
        for (n, parts) in self.resident.iter().enumerate() {
            if missing == FETCHED_MAX {
                groups.push(start..n);
                (start, missing) = (n, 0);
            }
            missing += usize::from(parts.is_none());
        }
        groups.push(start..self.len());
        groups
    }

    /// Those of a group that are in memory.
    pub fn held(&self, group: Range<usize>) -> Held<'_> {
        let parts = self.resident[group].iter().flatten();
        let held = parts.map(|Resident { layouts, parts }| {
            let parts = parts.each_ref().map(|part| Part { values: &*part.values, scales: &*part.scales });
            HeldExpert::new(layouts, parts)
        });
        Held(held.collect())
    }

    /// Reads the others of a group, record after record.
    pub fn fetch(&self, group: Range<usize>, pool: &BufferPool<u8>) -> io::Result<Buffer<u8>> {
        let missing = group.filter(|&n| !self.is_resident(n)).map(|n| self.experts.id(self.ids[n]));
        let missing: Vec<ExpertId> = missing.collect();
        let mut records = pool.take(missing.len() * self.experts.shape.record_bytes());
        if !missing.is_empty() {
            self.experts.bytes.fetch(&missing, &mut records)?;
        }
        Ok(records)
    }

    /// Those of a group that were fetched to `records`.
    pub fn fetched<'a>(&'a self, records: &'a [u8]) -> Held<'a> {
        let record_bytes = self.experts.shape.record_bytes().max(1);
        let parts = records.chunks_exact(record_bytes).map(|record| {
            let of = |range: Range<usize>| &record[range];
            let parts = self.experts.shape.parts();
            let parts = parts.map(|part| Part { values: of(part.values), scales: of(part.scales) });
            HeldExpert::new(&self.experts.layouts, parts)
        });
        Held(parts.collect())
    }
}

impl Held<'_> {
    /// The n-th of the experts.
    pub fn expert(&self, n: usize) -> Expert<'_> {
        let HeldExpert { layouts: [of_gate, of_up, of_down], parts: [gate, up, down] } = &self.0[n];
        Expert {
            gate: of_gate.view(&gate.values, &gate.scales),
            up: of_up.view(&up.values, &up.scales),
            down: of_down.view(&down.values, &down.scales),
        }
    }
}
