//! The types of a model's weights: as files have them, or as a mix gives them to a file that need not be there.

use anyhow::{Context, Result};

use super::stored::locate;
use crate::base::dtype::DType;
use crate::compute::experts::MatrixLayout;
use crate::format::ModelDir;
use crate::model::architecture::{self, Arrangement, Field, Part, Role};
use crate::model::config::Config;
use crate::model::export::{ExportTensor, Recipe};

/// What a small tensor may take in memory at most, in bytes, beyond its elements.
const SMALL_BYTES: u64 = 1 << 10;

/// Where the types of weights are known from.
#[derive(Clone, Copy)]
pub enum Types<'a> {
    /// The headers of files.
    Files(&'a ModelDir),
    /// A mix.
    Mix(&'a Recipe),
}

impl Types<'_> {
    /// Bytes that all weights take where `of` says what a number of matrices of one role and layout take.
    pub fn bytes(
        &self,
        config: &Config,
        of: impl Fn(Role, &MatrixLayout, usize) -> Option<u64>,
    ) -> Result<u64> {
        // What is small is aligned.
        let others = architecture::tensors(config).into_iter().map(|part| {
            let elements: usize = if is_vector(&part) { part.shape.iter().product() } else { 0 };
            SMALL_BYTES + (elements * size_of::<f32>()) as u64
        });
        Ok(others.sum::<u64>() + self.matrix_bytes(config, of)?)
    }

    /// The same without what is no matrix.
    pub fn matrix_bytes(
        &self,
        config: &Config,
        of: impl Fn(Role, &MatrixLayout, usize) -> Option<u64>,
    ) -> Result<u64> {
        let mut all = 0;
        for part in architecture::tensors(config).into_iter().filter(|part| !is_vector(part)) {
            let (dtype, is_in_file) = self.of(config, &part)?;
            let count = if part.shape.len() == 3 { part.shape[0] } else { 1 };
            let cols = part.cols();
            let scale_block = config.fp8_block.filter(|_| dtype == DType::F8E4M3);
            let layout = MatrixLayout { rows: part.rows() / count, cols, dtype, scale_block };
            let matrix =
                of(part.role, &layout, count).with_context(|| format!("{:?} is no matrix", part.field))?;
            // A device knows a tensor again by its place in a file.
            let is_copied_twice = part.field == Field::Embedding && config.tied && !is_in_file;
            all += if is_copied_twice { 2 * matrix } else { matrix };
        }
        Ok(all)
    }

    /// The type of a part, and whether it is as a file has it.
    fn of(&self, config: &Config, part: &Part) -> Result<(DType, bool)> {
        match self {
            Self::Files(dir) => {
                let stored = dir.tensor(&locate(dir, part)?.tensors[0].tensor)?;
                Ok((stored.dtype, stored.bytes.place().is_some()))
            }
            Self::Mix(mix) => Ok((mix.choose(&ExportTensor::of(part), config.layers.len()).dtype, true)),
        }
    }
}

fn is_vector(part: &Part) -> bool {
    part.shape.len() == 1 || part.arrangement == Arrangement::Transposed
}
