//! Activations quantised to 8 bits.

/// Columns that share a scale.
pub(super) const BLOCK: usize = 32;

/// A block of activations as integers `round(x / scale)` of -127 to 127 with `scale = max |x| / 127`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(super) struct QuantBlock {
    pub quants: [i8; BLOCK],
    pub scale: f32,
    /// `scale` times the sum of the quants.
    pub sum: f32,
    /// The same for each half.
    pub half_sums: [f32; 2],
    /// The sum of the quants of each half, in 16 bits each.
    pub quant_sums: u32,
}
