//! Where the bytes of routed experts are.

use std::io;

use anyhow::{Result, ensure};

use crate::compute::StoredMatrix;
use crate::compute::experts::{ExpertBytes, ExpertId, ExpertParts, ExpertShape, Part};
use crate::format::Bytes;

/// The routed experts of one layer in a mapped checkpoint: the system reads them when they are touched.
pub struct MappedExperts(Vec<ExpertParts>);

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
        Ok((shape, Self(parts.collect())))
    }
}

impl ExpertBytes for MappedExperts {
    fn resident(&self, id: ExpertId) -> Option<ExpertParts> {
        self.0.get(id.expert as usize).cloned()
    }

    fn fetch(&self, ids: &[ExpertId], _into: &mut [u8]) -> io::Result<()> {
        Err(io::Error::other(format!("the checkpoint has no expert {ids:?}")))
    }

    fn visited(&self, _layer: usize, _experts: &[u32]) {}
}
