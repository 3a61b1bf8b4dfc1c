//! Routed experts as files store them.

use std::collections::HashMap;

use anyhow::Result;

use super::stored::{Stored, locate};
use crate::compute::experts::ExpertShape;
use crate::format::ModelDir;
use crate::model::architecture::{Field, LayerField, Part};
use crate::model::config::{Config, MoeShape};
use crate::model::experts::MappedExperts;

/// Gate, up and down of routed experts.
pub(super) const EXPERT_FIELDS: [LayerField; 3] =
    [LayerField::ExpertsGate, LayerField::ExpertsUp, LayerField::ExpertsDown];

/// The experts of a layer as the files of `dir` have them, and how they are stored.
pub(super) fn experts_in(
    dir: &ModelDir,
    config: &Config,
    parts: &HashMap<Field, Part>,
    layer: usize,
    shape: &MoeShape,
) -> Result<(ExpertShape, MappedExperts)> {
    let stored = |field| {
        let part = &parts[&Field::Layer(layer, field)];
        Stored::open(dir, config, locate(dir, part)?, part.cols())
    };
    let [gate, up, down] = EXPERT_FIELDS.map(stored);
    let (gate, up, down) = (gate?, up?, down?);
    let matrix = |e: usize, all: &Stored| {
        let rows = all.rows / shape.experts;
        all.matrix(e * rows..(e + 1) * rows)
    };
    let expert = |e| Ok([matrix(e, &gate)?, matrix(e, &up)?, matrix(e, &down)?]);
    MappedExperts::new((0..shape.experts).map(expert).collect::<Result<_>>()?)
}
