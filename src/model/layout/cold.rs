//! Smaller copies of routed experts: a GGUF file that holds nothing else, and says of which model it is.

use std::collections::HashMap;
use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::experts::experts_in;
use super::stored::locate;
use crate::base::digest::digest;
use crate::format::{Description, ModelDir};
use crate::model::architecture::{self, Field, Part};
use crate::model::config::{Config, FfnShape};
use crate::model::experts::stored::ColdExperts;

/// The key of such a file that holds the [`identity`] of its model.
pub const COLD_OF: &str = "fimd.cold.of";

/// Bytes of a tensor that tell models apart, at its start and in its middle.
const SAMPLE_BYTES: usize = 32;

/// What tells the experts of a model from those of others: names, types and some bytes of its tensors, hashed.
pub fn identity(dir: &ModelDir, config: &Config) -> Result<String> {
    let mut text = String::new();
    for part in architecture::tensors(config).iter().filter(|part| part.role.is_of_experts()) {
        // Of experts apart those at the ends.
        let tensors = &locate(dir, part)?.tensors;
        for rows in tensors.first().into_iter().chain(tensors.last()) {
            let tensor = dir.tensor(&rows.tensor)?;
            let middle = tensor.bytes.len() / 2;
            let sample = tensor
                .bytes
                .iter()
                .take(SAMPLE_BYTES)
                .chain(tensor.bytes[middle..].iter().take(SAMPLE_BYTES));
            writeln!(
                text,
                "{} {} {:?} {:?}",
                tensor.name,
                tensor.dtype,
                tensor.shape,
                sample.collect::<Vec<_>>()
            )?;
        }
    }
    Ok(format!("{:016x}", digest(&text)))
}

/// A smaller copy of the experts of a model.
pub(super) struct Cold {
    pub dir: ModelDir,
    /// By layer; none where it has no experts.
    pub layers: Vec<Option<ColdExperts>>,
}

impl Cold {
    /// Opens the copy at `path` of the experts of the model in `dir`. Fails where it is that of another one.
    pub(super) fn open(
        path: &Path,
        dir: &ModelDir,
        config: &Config,
        parts: &HashMap<Field, Part>,
    ) -> Result<Self> {
        let cold = ModelDir::open(path)?;
        let of = match cold.description() {
            Description::Gguf(metadata) => metadata.text(COLD_OF)?,
            Description::Folder(_) => None,
        };
        let of = of.with_context(|| {
            format!(
                "{} is no smaller copy of experts; `fimd quantize --cold TYPE` writes one",
                path.display()
            )
        })?;
        ensure!(
            of == identity(dir, config)?,
            "{} is the smaller copy of another model's experts (experts.cold, --cold); `fimd quantize --cold TYPE` \
             writes that of {}",
            path.display(),
            dir.origin()
        );
        let layer = |(layer, shape): (usize, _)| match shape {
            &FfnShape::Moe(moe) => {
                let (shape, mapped) = experts_in(&cold, config, parts, layer, &moe)?;
                Ok(Some(ColdExperts { shape, parts: mapped.into_parts() }))
            }
            FfnShape::Dense { .. } => Ok(None),
        };
        let layers = config.layers.iter().map(|layer| &layer.ffn).enumerate().map(layer);
        let layers = layers.collect::<Result<_>>()?;
        Ok(Self { dir: cold, layers })
    }

    /// Bytes of all of them.
    pub(super) fn bytes(&self) -> u64 {
        let bytes = |cold: &ColdExperts| (cold.shape.experts * cold.shape.record_bytes()) as u64;
        self.layers.iter().flatten().map(bytes).sum()
    }
}
