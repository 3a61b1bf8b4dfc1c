//! How recurrent states and traces are saved.

#![expect(unsafe_code, reason = "threads write disjoint parts of one state")]

use std::ops::Range;

use half::f16;
use half::slice::HalfFloatSliceExt;
use half::vec::HalfBitsVecExt;

use crate::base::pool::Disjoint;
use crate::compute::Precision;

/// Numbers as they are kept.
#[derive(Clone, Debug)]
enum Packed {
    F32(Vec<f32>),
    F16(Vec<f16>),
}

impl Packed {
    fn zeros(len: usize, precision: Precision) -> Self {
        match precision {
            Precision::F32 => Self::F32(vec![0.0; len]),
            // Zeros of an integer type are pages that are not touched yet.
            Precision::F16 => Self::F16(vec![0u16; len].reinterpret_into()),
        }
    }

    /// Shares the numbers among tasks that write them.
    fn parts(&mut self) -> Parts<'_> {
        match self {
            Self::F32(out) => Parts::F32(Disjoint::new(out)),
            Self::F16(out) => Parts::F16(Disjoint::new(out)),
        }
    }

    /// Writes numbers from `first` on to `out`.
    fn read(&self, first: usize, out: &mut [f32]) {
        match self {
            Self::F32(values) => out.copy_from_slice(&values[first..][..out.len()]),
            Self::F16(values) => values[first..][..out.len()].convert_to_f32_slice(out),
        }
    }
}

/// Numbers that several tasks write.
pub(super) enum Parts<'a> {
    F32(Disjoint<'a, f32>),
    F16(Disjoint<'a, f16>),
}

impl Parts<'_> {
    /// Writes the numbers `range`, as near to `values` as can be.
    ///
    /// # Safety
    /// No other task may write some of them at the same time.
    pub(super) unsafe fn write(&self, range: Range<usize>, values: &[f32]) {
        match self {
            // SAFETY: as the caller promises.
            Self::F32(out) => unsafe { out.part(range) }.copy_from_slice(values),
            // SAFETY: as the caller promises.
            Self::F16(out) => to_f16(values, unsafe { out.part(range) }),
        }
    }
}

/// Numbers too large become the largest.
fn to_f16(values: &[f32], out: &mut [f16]) {
    const SOME: usize = 256;
    let max = f16::MAX.to_f32();
    for (values, out) in values.chunks(SOME).zip(out.chunks_mut(SOME)) {
        let mut clamped = [0.0; SOME];
        for (clamped, value) in clamped.iter_mut().zip(values) {
            *clamped = value.clamp(-max, max);
        }
        out.convert_from_f32_slice(&clamped[..values.len()]);
    }
}

/// The recurrent state of one layer. The inputs of the convolution are few and stay f32.
#[derive(Clone)]
pub struct LayerState {
    recurrent: Packed,
    conv: Vec<f32>,
}

impl LayerState {
    /// Zeros: `recurrent` numbers of the state, and `conv` of the inputs of the convolution.
    pub(super) fn zeros(recurrent: usize, conv: usize, precision: Precision) -> Self {
        Self { recurrent: Packed::zeros(recurrent, precision), conv: vec![0.0; conv] }
    }

    /// What is to be written: the state by many tasks, the inputs of the convolution by one.
    pub(super) fn parts(&mut self) -> (Parts<'_>, &mut [f32]) {
        (self.recurrent.parts(), &mut self.conv)
    }

    /// Writes all of it.
    pub(super) fn read(&self, recurrent: &mut [f32], conv: &mut [f32]) {
        self.recurrent.read(0, recurrent);
        conv.copy_from_slice(&self.conv);
    }
}

/// The recurrent states of all layers at one position.
pub(super) type State = Vec<LayerState>;

/// What one token left behind in all layers, `[layers, DeltaShape::trace_len]`.
#[derive(Clone)]
pub struct Trace(Packed);

impl Trace {
    /// Packs the row of each of `layers`.
    pub fn new<'a>(
        layers: impl ExactSizeIterator<Item = &'a [f32]>,
        width: usize,
        precision: Precision,
    ) -> Self {
        let mut packed = Packed::zeros(layers.len() * width, precision);
        let parts = packed.parts();
        for (layer, row) in layers.enumerate() {
            // SAFETY: there is one task.
            unsafe { parts.write(layer * width..(layer + 1) * width, row) };
        }
        Self(packed)
    }

    /// Writes the row of a layer.
    pub fn read(&self, layer: usize, out: &mut [f32]) {
        self.0.read(layer * out.len(), out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back() {
        let rows = [[0.0, -1.5, 1e-3], [3e5, -7e7, 2.0]];
        let read = |precision| {
            let trace = Trace::new(rows.iter().map(|row| &row[..]), 3, precision);
            let mut out = [[9.0; 3]; 2];
            out.iter_mut().enumerate().for_each(|(layer, out)| trace.read(layer, out));
            out
        };
        assert_eq!(read(Precision::F32), rows);
        assert_eq!(read(Precision::F16), [[0.0, -1.5, 0.001_000_404_4], [65504.0, -65504.0, 2.0]]);
    }
}
