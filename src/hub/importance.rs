//! Records an importance matrix: runs a model over a text, and adds up the squares of all activations.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};

use crate::base::Cancel;
use crate::compute::cpu::{Cpu, CpuOptions, Recorded, Records};
use crate::compute::logits::Logits;
use crate::compute::{Interrupted, Keep};
use crate::format::ModelDir;
use crate::format::imatrix::{Importance, Sums};
use crate::model::architecture::{self, Field, LayerField, Part, Role};
use crate::model::config::Config;
use crate::model::experts::ExpertOptions;
use crate::model::{LogitRows, Model, ModelOptions, layout};

/// Evaluates `tokens` in chunks of `chunk_tokens`, each from an empty context; `progress` is told of evaluated tokens.
/// The head is left out, as llama.cpp leaves it out: it takes many bits anyway.
pub fn record(
    dir: &ModelDir,
    tokens: &[u32],
    chunk_tokens: usize,
    options: CpuOptions,
    mut progress: impl FnMut(usize),
) -> Result<Importance> {
    let config = Config::read(dir)?;
    let gguf_config = config.clone().as_in_gguf();
    let experts = ExpertOptions::MAPPED;
    let size = ModelOptions {
        positions_max: chunk_tokens,
        kv_bytes_max: 0,
        batch_max: chunk_tokens,
        sweep_max: chunk_tokens,
        experts,
    };
    let mut model = Model::load(dir, config, size, Cpu::recording(options))?;
    let blocks: Vec<_> = (0..model.blocks().total()).filter_map(|_| model.take_block(None)).collect();
    let mut sequence = model.sequence()?;
    for chunk in tokens.chunks(chunk_tokens) {
        model.restore(&mut sequence, 0, None);
        let (keep, cancel, wanted) = (Keep::default(), Cancel::new(), LogitRows::None);
        let passed =
            model.forward(&mut sequence, chunk, &blocks, keep, wanted, &cancel, &mut Logits::default());
        passed.map_err(|interrupted| match interrupted {
            Interrupted::Device(error) => error,
            Interrupted::Cancelled => unreachable!("this pass has no caller that cancels"),
        })?;
        progress(chunk.len());
    }
    named(dir, &gguf_config, &model.backend_mut().take_records())
}

/// The records by the names that GGUF files give tensors, with columns in their order.
fn named(dir: &ModelDir, config: &Config, records: &Records) -> Result<Importance> {
    let mut tensors = BTreeMap::new();
    for part in architecture::tensors(config).iter().filter(|part| part.role != Role::Exact) {
        let Some(name) = part.gguf_name() else { continue };
        let source = layout::locate(dir, part)?;
        let matrices = if part.role.is_of_experts() { part.shape[0] } else { 1 };
        let mut sums = Sums { squares: Vec::new(), counts: Vec::new() };
        for matrix in 0..matrices {
            let met = records.get(&recorded(part, &source.tensors[0].tensor, matrix));
            let (count, squares) = met.cloned().unwrap_or((0, vec![0.0; part.cols()]));
            ensure!(squares.len() == part.cols(), "{name} has {} columns", squares.len());
            sums.counts.push(count as f32);
            if source.columns.is_empty() {
                sums.squares.extend(squares.iter().map(|&square| square as f32));
            } else {
                let moved = source.columns.iter().flat_map(|range| &squares[range.clone()]);
                sums.squares.extend(moved.map(|&square| square as f32));
            }
        }
        if sums.counts.iter().any(|&count| count > 0.0) {
            tensors.insert(name.to_owned(), sums);
        }
    }
    ensure!(!tensors.is_empty(), "nothing was recorded: the text has no tokens");
    Ok(Importance { tensors })
}

/// What a backend calls a matrix of a part.
fn recorded(part: &Part, tensor: &str, matrix: usize) -> Recorded {
    match part.field {
        Field::Layer(layer, LayerField::ExpertsGate | LayerField::ExpertsUp) => {
            Recorded::Expert { layer, expert: matrix as u32, is_down: false }
        }
        Field::Layer(layer, LayerField::ExpertsDown) => {
            Recorded::Expert { layer, expert: matrix as u32, is_down: true }
        }
        _ => Recorded::Matrix(tensor.into()),
    }
}
