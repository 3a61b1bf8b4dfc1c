//! How states and traces are kept in memory.

use half::f16;
use half::slice::HalfFloatSliceExt;

use crate::compute::DeltaState;
use crate::model::state::{Point, Trace};

/// With how many bits saved states and traces are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// 32: nothing is lost.
    F32,
    /// 16, IEEE 754 binary16: half the memory. States are sums of unit vectors times values, far inside
    /// its range; what lies outside becomes its greatest number.
    F16,
}

impl Precision {
    /// Bytes of a number.
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 => 2,
        }
    }
}

/// Numbers as they are kept.
#[derive(Clone, Debug)]
enum Packed {
    F32(Vec<f32>),
    F16(Vec<f16>),
}

impl Packed {
    fn new(values: Vec<f32>, precision: Precision) -> Self {
        match precision {
            Precision::F32 => Self::F32(values),
            Precision::F16 => {
                let max = f16::MAX.to_f32();
                let clamped: Vec<f32> = values.iter().map(|x| x.clamp(-max, max)).collect();
                let mut out = vec![f16::ZERO; values.len()];
                out.convert_from_f32_slice(&clamped);
                Self::F16(out)
            }
        }
    }

    /// Appends numbers `range` to `out`.
    fn unpack(&self, range: std::ops::Range<usize>, out: &mut Vec<f32>) {
        match self {
            Self::F32(values) => out.extend_from_slice(&values[range]),
            Self::F16(values) => {
                let start = out.len();
                out.resize(start + range.len(), 0.0);
                values[range].convert_to_f32_slice(&mut out[start..]);
            }
        }
    }

    /// Appends all numbers to `out`.
    fn unpack_all(&self, out: &mut Vec<f32>) {
        let len = match self {
            Self::F32(values) => values.len(),
            Self::F16(values) => values.len(),
        };
        self.unpack(0..len, out);
    }
}

/// A [`Point`] as it is kept. The inputs of the convolution and the hidden row are small and stay f32.
pub struct SavedPoint {
    recurrent: Vec<Packed>,
    conv: Vec<Vec<f32>>,
    /// See [`Point::hidden`].
    pub hidden: Vec<f32>,
}

impl SavedPoint {
    /// Packs a point.
    pub fn new(point: Point, precision: Precision) -> Self {
        let (recurrent, conv) = point
            .states
            .into_iter()
            .map(|state| (Packed::new(state.recurrent, precision), state.conv))
            .unzip();
        Self { recurrent, conv, hidden: point.hidden }
    }

    /// Writes the state of a DeltaNet layer.
    pub fn read(&self, layer: usize, out: &mut DeltaState) {
        out.recurrent.clear();
        self.recurrent[layer].unpack_all(&mut out.recurrent);
        out.conv.clone_from(&self.conv[layer]);
    }
}

/// A [`Trace`] as it is kept.
pub struct SavedTrace {
    inputs: Packed,
    /// See [`Trace::hidden`].
    pub hidden: Vec<f32>,
}

impl SavedTrace {
    /// Packs a trace.
    pub fn new(trace: Trace, precision: Precision) -> Self {
        Self { inputs: Packed::new(trace.inputs, precision), hidden: trace.hidden }
    }

    /// Appends the row of a DeltaNet layer, `[width]`, to `out`.
    pub fn row(&self, layer: usize, width: usize, out: &mut Vec<f32>) {
        self.inputs.unpack(layer * width..(layer + 1) * width, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back() {
        let values = vec![0.0, -1.5, 1e-3, 3e5, -7e7];
        let all = |packed: &Packed| {
            let mut out = Vec::new();
            packed.unpack_all(&mut out);
            out
        };
        assert_eq!(all(&Packed::new(values.clone(), Precision::F32)), values);
        let halves = Packed::new(values, Precision::F16);
        assert_eq!(all(&halves), [0.0, -1.5, 0.001_000_404_4, 65504.0, -65504.0]);
        let mut out = vec![9.0];
        halves.unpack(1..3, &mut out);
        assert_eq!(out, [9.0, -1.5, 0.001_000_404_4]);
    }
}
