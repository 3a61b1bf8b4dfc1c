//! Where the bytes of routed experts are.

mod reserve;
pub mod store;
pub mod stored;
pub mod tiers;
pub mod trace;
pub mod warm;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Result, ensure};

use crate::base::reads::Reader;
use crate::compute::StoredMatrix;
use crate::compute::experts::{ExpertBytes, ExpertId, ExpertParts, ExpertShape, Part, Ranking};
use crate::format::{Bytes, Memory};

use trace::Recorder;

/// How much memory weights may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Budget {
    /// As much as there is: files are mapped, and what memory does not hold is read when it is touched.
    Unlimited,
    /// At most these bytes. A model that needs more is refused.
    Given(u64),
    /// These bytes are free. A model that needs more is mapped.
    Free(u64),
}

/// How routed experts are kept.
#[derive(Clone, Debug)]
pub struct ExpertOptions {
    /// Memory for weights. Where it does not hold all of a model, the program keeps some experts in memory of its own and
    /// reads the others.
    pub budget: Budget,
    /// Whether that memory is locked, and whether mapped files are page-locked for a device that copies experts from them.
    pub locks: bool,
    /// The folder in which is remembered which experts were in memory.
    pub remembered_in: Option<PathBuf>,
    /// What records the experts that tokens visit.
    pub recorder: Option<Arc<Recorder>>,
    /// A smaller copy of the experts: what is not in memory is computed with there and not read.
    pub cold: Option<PathBuf>,
    /// Whether a device has the weights that every token reads, and routes.
    pub is_on_device: bool,
    /// Bytes of caches and states: memory for experts leaves them free, where the system has less than the budget.
    pub others_bytes: u64,
    /// What reads experts that are not in memory.
    pub reader: Reader,
}

impl ExpertOptions {
    /// Everything is mapped, and nothing is remembered.
    pub const MAPPED: Self = Self {
        budget: Budget::Unlimited,
        locks: false,
        remembered_in: None,
        recorder: None,
        cold: None,
        is_on_device: false,
        others_bytes: 0,
        reader: Reader::SYSTEM,
    };
}

/// The routed experts of one layer in a mapped checkpoint: the system reads them when they are touched.
pub struct MappedExperts {
    parts: Vec<ExpertParts>,
    /// Whether the files may be page-locked.
    may_be_locked: bool,
}

impl MappedExperts {
    /// The experts of a layer, each as gate, up and down, and how they are stored. Fails where they are not all
    /// stored alike.
    pub fn new(experts: Vec<[StoredMatrix; 3]>) -> Result<(ExpertShape, Self)> {
        let shape =
            ExpertShape { experts: experts.len(), matrices: experts[0].each_ref().map(StoredMatrix::layout) };
        for (matrix, layout) in experts.iter().flat_map(|expert| expert.iter().zip(&shape.matrices)) {
            let StoredMatrix { rows, cols, values, .. } = matrix;
            ensure!(
                matrix.layout() == *layout,
                "tensor {} is {} [{rows}, {cols}], that of expert 0 is {} [{}, {}]; the experts of a layer must be stored alike",
                values.name,
                values.dtype,
                layout.dtype,
                layout.rows,
                layout.cols
            );
            let is_whole = layout.value_bytes() == Some(values.bytes.len());
            ensure!(is_whole, "tensor {} is not [{rows}, {cols}]", values.name);
        }
        let parts = experts.into_iter().map(|expert| {
            expert.map(|matrix| Part {
                values: matrix.values.bytes,
                scales: matrix.scale.map_or_else(|| Bytes::from(Vec::new()), |scale| scale.to_bytes().into()),
            })
        });
        Ok((shape, Self { parts: parts.collect(), may_be_locked: false }))
    }

    /// The same in files that may be page-locked for a device, or not.
    pub fn with_locks(self, may_be_locked: bool) -> Self {
        Self { may_be_locked, ..self }
    }

    /// Their bytes.
    pub fn into_parts(self) -> Vec<ExpertParts> {
        self.parts
    }
}

impl ExpertBytes for MappedExperts {
    fn resident(&self, id: ExpertId) -> Option<ExpertParts> {
        self.parts.get(id.expert as usize).cloned()
    }

    fn fetch(&self, ids: &[ExpertId], _into: &mut [u8]) -> io::Result<()> {
        Err(io::Error::other(format!("the checkpoint has no expert {ids:?}")))
    }

    fn memory(&self, _layer: usize) -> Vec<Memory> {
        let parts = self.parts.iter().filter(|_| self.may_be_locked).flatten();
        let mut files: Vec<Memory> = parts.filter_map(|part| part.values.memory()).collect();
        files.dedup_by_key(|file| file.span());
        files
    }

    fn is_told(&self) -> bool {
        false
    }

    fn visited(&self, _layer: usize, _ranking: Ranking) {}
}
