//! Memory for the slots of all layers: what is planned, or less where the system refuses that.

use std::io;
use std::sync::Arc;

use super::stored::StoredExperts;
use super::tiers::{STAGED_MAX, Tiers};
use crate::format::slots::SlotMemory;

/// Of the planned slots this share is tried next where the system has no memory for them.
const NEXT_SHARE: f64 = 0.875;

/// Memory for experts.
pub(super) struct Reserved {
    /// Slots of each layer; fewer than planned where the system has no memory for those.
    pub slots: usize,
    /// Of the layers that have experts, in order.
    pub layers: Vec<Arc<SlotMemory>>,
    /// For experts that are read ahead.
    pub staging: Arc<SlotMemory>,
}

/// Reserves memory for the slots that `tiers` plans for `layers`, and leaves address space for the trunk and for
/// `others_bytes`. Fails where there is none for two tokens' experts of each layer.
pub(super) fn reserve(layers: &[&StoredExperts], tiers: &Tiers, others_bytes: u64) -> io::Result<Reserved> {
    let headers: Vec<_> = layers.iter().map(|layer| layer.header()).collect();
    let least = if tiers.cold_bytes > 0 { 0 } else { Tiers::slots_min(&headers) };
    let others = tiers.trunk_bytes.saturating_add(others_bytes);
    let mut slots = tiers.slots;
    loop {
        match attempt(layers, slots, others) {
            Ok(reserved) => {
                if slots < tiers.slots {
                    tracing::warn!(
                        "the system has memory for {slots} experts of each layer where {} were planned: more of them are \
                         read from disk; lower --ram-budget, or raise what `ulimit -v` allows",
                        tiers.slots
                    );
                }
                return Ok(reserved);
            }
            Err(error) if slots <= least => return Err(error),
            Err(_) => slots = ((slots as f64 * NEXT_SHARE) as usize).max(least),
        }
    }
}

fn attempt(layers: &[&StoredExperts], slots: usize, others: u64) -> io::Result<Reserved> {
    let others = usize::try_from(others).map_err(|_| io::ErrorKind::OutOfMemory)?;
    // What is allocated later would end the program if it found nothing.
    let _later = SlotMemory::new(1, others)?;
    let largest = layers.iter().map(|layer| layer.slot_bytes()).max().unwrap_or_default();
    let staging = SlotMemory::new(STAGED_MAX, largest)?;
    let memory = |layer: &&StoredExperts| SlotMemory::new(slots.min(layer.shape.experts), layer.slot_bytes());
    Ok(Reserved { slots, layers: layers.iter().map(memory).collect::<io::Result<_>>()?, staging })
}
