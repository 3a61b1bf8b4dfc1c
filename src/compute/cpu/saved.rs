//! How recurrent states and traces are saved.

use half::f16;
use half::slice::HalfFloatSliceExt;

use super::delta::DeltaState;
use crate::compute::Precision;

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

/// The recurrent states of all layers at one position. The inputs of the convolution are few and stay f32.
#[derive(Clone)]
pub struct State {
    recurrent: Vec<Packed>,
    conv: Vec<Vec<f32>>,
}

impl State {
    /// Packs the states of all layers.
    pub fn new(layers: impl Iterator<Item = DeltaState>, precision: Precision) -> Self {
        let packed = layers.map(|layer| (Packed::new(layer.recurrent, precision), layer.conv));
        let (recurrent, conv) = packed.unzip();
        Self { recurrent, conv }
    }

    /// Writes the state of a layer.
    pub fn read(&self, layer: usize, out: &mut DeltaState) {
        out.recurrent.clear();
        self.recurrent[layer].unpack_all(&mut out.recurrent);
        out.conv.copy_from_slice(&self.conv[layer]);
    }
}

/// What one token left behind in all layers, `[layers, DeltaShape::trace_len]`.
#[derive(Clone)]
pub struct Trace(Packed);

impl Trace {
    /// Packs the rows of all layers.
    pub fn new(rows: Vec<f32>, precision: Precision) -> Self {
        Self(Packed::new(rows, precision))
    }

    /// Appends the row of a layer, `[width]`, to `out`.
    pub fn row(&self, layer: usize, width: usize, out: &mut Vec<f32>) {
        self.0.unpack(layer * width..(layer + 1) * width, out);
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
