//! Routed experts where files keep them.

use super::trace::LayerHeader;
use crate::compute::experts::{ExpertParts, ExpertShape};

/// The routed experts of one layer where files keep them.
pub struct StoredExperts {
    /// How they are stored.
    pub shape: ExpertShape,
    /// Experts that a token visits.
    pub top_k: usize,
    /// Gate, up and down of each, in mapped files.
    pub parts: Vec<ExpertParts>,
    /// A smaller copy of all of them.
    pub cold: Option<ColdExperts>,
}

/// The routed experts of one layer in a smaller type.
pub struct ColdExperts {
    /// How they are stored.
    pub shape: ExpertShape,
    /// Gate, up and down of each.
    pub parts: Vec<ExpertParts>,
}

impl StoredExperts {
    /// What a trace and a plan say of them.
    pub fn header(&self) -> LayerHeader {
        let record_bytes = self.shape.record_bytes();
        LayerHeader { experts: self.shape.experts, top_k: self.top_k, record_bytes }
    }

    /// Bytes of an expert without its scales.
    pub(super) fn slot_bytes(&self) -> usize {
        self.shape.parts().iter().map(|part| part.values.len()).sum()
    }

    /// Whether all of them are in files.
    pub fn is_mapped(&self) -> bool {
        self.parts.iter().flatten().all(|part| part.values.place().is_some())
    }
}
