//! Routed experts: layouts, and the bytes of those that a pass visits.

use std::borrow::Cow;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use anyhow::Result;

use super::context::Scratch;
use super::matrix::{Layout, MatrixRef};
use super::scratch::Buffer;
use crate::compute::experts::{ExpertBytes, ExpertId, ExpertShape, Part};
use crate::format::Bytes;

/// The routed experts of one layer.
#[derive(Clone)]
pub struct Experts {
    layer: usize,
    shape: ExpertShape,
    layouts: [Layout; 3],
    bytes: Arc<dyn ExpertBytes>,
}

/// A feed-forward block with a gate, where its bytes are.
#[derive(Clone, Copy)]
pub struct Expert<'a> {
    pub gate: MatrixRef<'a>,
    pub up: MatrixRef<'a>,
    pub down: MatrixRef<'a>,
}

/// The bytes of some experts, held while they are computed with.
pub struct Held<'a> {
    layouts: &'a [Layout; 3],
    experts: Vec<[Part<Span>; 3]>,
    /// The experts that were fetched, record after record.
    records: Buffer<u8>,
}

enum Span {
    Shared(Bytes),
    Padded(Vec<u8>),
    Fetched(Range<usize>),
}

impl Experts {
    pub fn new(layer: usize, shape: ExpertShape, exact: bool, bytes: Arc<dyn ExpertBytes>) -> Result<Self> {
        let [gate, up, down] = shape.matrices.map(|matrix| Layout::new(matrix, exact));
        Ok(Self { layer, shape, layouts: [gate?, up?, down?], bytes })
    }

    /// Their layer.
    pub fn layer(&self) -> usize {
        self.layer
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.shape.experts
    }

    /// Holds the bytes of the experts `ids`, ascending, after fetching those that are not in memory.
    pub fn hold(&self, scratch: &Scratch, ids: &[u32]) -> io::Result<Held<'_>> {
        self.bytes.visited(self.layer, ids);
        let id = |expert| ExpertId { layer: self.layer as u32, expert };
        let resident: Vec<_> = ids.iter().map(|&expert| self.bytes.resident(id(expert))).collect();
        let missing: Vec<ExpertId> =
            ids.iter().zip(&resident).filter(|(_, parts)| parts.is_none()).map(|(&e, _)| id(e)).collect();
        let record_bytes = self.shape.record_bytes();
        let mut records = scratch.bytes.take(missing.len() * record_bytes);
        if !missing.is_empty() {
            self.bytes.fetch(&missing, &mut records)?;
        }
        let mut fetched = (0..).step_by(record_bytes.max(1));
        let experts = resident
            .into_iter()
            .map(|parts| match parts {
                Some(parts) => self.shared(parts),
                None => self.fetched(fetched.next().expect("records do not end"), &records),
            })
            .collect();
        Ok(Held { layouts: &self.layouts, experts, records })
    }

    fn shared(&self, parts: [Part<Bytes>; 3]) -> [Part<Span>; 3] {
        let mut layouts = self.layouts.iter();
        parts.map(|Part { values, scales }| {
            let values = match layouts.next().expect("three layouts").pad(&values) {
                Cow::Owned(padded) => Span::Padded(padded),
                Cow::Borrowed(_) => Span::Shared(values),
            };
            Part { values, scales: Span::Shared(scales) }
        })
    }

    fn fetched(&self, start: usize, records: &[u8]) -> [Part<Span>; 3] {
        let mut layouts = self.layouts.iter();
        let shifted = |range: Range<usize>| range.start + start..range.end + start;
        self.shape.parts().map(|Part { values, scales }| {
            let (values, scales) = (shifted(values), shifted(scales));
            let values = match layouts.next().expect("three layouts").pad(&records[values.clone()]) {
                Cow::Owned(padded) => Span::Padded(padded),
                Cow::Borrowed(_) => Span::Fetched(values),
            };
            Part { values, scales: Span::Fetched(scales) }
        })
    }
}

impl Held<'_> {
    /// The n-th of the experts.
    pub fn expert(&self, n: usize) -> Expert<'_> {
        let [gate, up, down] = &self.experts[n];
        let view = |layout: usize, part| self.view(&self.layouts[layout], part);
        Expert { gate: view(0, gate), up: view(1, up), down: view(2, down) }
    }

    fn view<'a>(&'a self, layout: &'a Layout, part: &'a Part<Span>) -> MatrixRef<'a> {
        layout.view(self.bytes(&part.values), self.bytes(&part.scales))
    }

    fn bytes<'a>(&'a self, span: &'a Span) -> &'a [u8] {
        match span {
            Span::Shared(bytes) => bytes,
            Span::Padded(bytes) => bytes,
            Span::Fetched(range) => &self.records[range.clone()],
        }
    }
}
