//! What is saved of the recurrence, as bytes in memory of the host.

/// The recurrent states of all layers at one position: for each layer the matrices in the saved precision, then the
/// inputs of the convolution in f32.
#[derive(Clone, Default)]
pub struct State(pub(super) Vec<u8>);

/// What one token left behind in all layers, in the saved precision.
#[derive(Clone, Default)]
pub struct Trace(pub(super) Vec<u8>);

/// Where a copy from the device belongs. Layers come in order, and extend what is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Destination {
    /// The state at the n-th mark.
    State(usize),
    /// Traced rows from the n-th on, of `bytes` bytes each.
    Traces { first: usize, bytes: usize },
    /// Normed rows, for experts that are with the CPU.
    Normed,
    /// The experts that rows visit.
    Chosen,
    /// Their weights.
    Weights,
    /// Rows after the last layer.
    Hidden,
    /// Logits.
    Logits,
}

impl Trace {
    /// The row of a layer, of `bytes` bytes.
    pub(super) fn of_layer(&self, layer: usize, bytes: usize) -> &[u8] {
        &self.0[layer * bytes..(layer + 1) * bytes]
    }
}
