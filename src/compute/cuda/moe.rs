//! Feed-forward blocks: dense ones, and mixtures of experts, which are in device memory or with the CPU.

use std::sync::Arc;

use anyhow::{Context as _, Result};

use super::driver::{Address, Function, Param};
use super::matrix::{self, Maker, Matrix};
use super::module::{File, Modules};
use super::saved::Destination;
use super::workspace::Space;
use super::{Cuda, threads};
use crate::compute::cpu::Cpu;
use crate::compute::experts::{ExpertBytes, ExpertId, ExpertShape};
use crate::compute::{Backend, MoeWeights, PassSizes, RoutedWeights, SharedWeights};

/// Kernels of the operation.
#[derive(Clone, Copy)]
pub(super) struct Kernels {
    route: Function,
    combine: Function,
}

impl Kernels {
    pub(super) fn new(modules: &mut Modules) -> Result<Self> {
        let mut function = |name: &str| modules.function(File::Experts, name);
        Ok(Self { route: function("route")?, combine: function("combine")? })
    }
}

/// The routed experts of one layer.
pub struct Experts(Place);

/// Where experts are.
enum Place {
    /// Gate, up and down of all of them, in device memory.
    Device { matrices: [Matrix; 3], count: usize },
    /// In memory of the host, or on disk.
    Host { experts: <Cpu as Backend>::Experts, count: usize },
}

/// What comes to the host for a layer whose experts are there.
#[derive(Default)]
pub(super) struct Visits {
    /// `[rows, hidden]`
    pub normed: Vec<f32>,
    /// `[rows, top_k]`
    pub chosen: Vec<u32>,
    /// `[rows, top_k]`
    pub weights: Vec<f32>,
}

/// Bytes of device memory that the experts of a layer take; `None` where that is no number.
pub(super) fn device_bytes(shape: &ExpertShape) -> Option<usize> {
    shape.matrices.iter().map(|layout| matrix::device_bytes(layout, shape.experts)).sum()
}

impl Experts {
    /// Experts that stay where they are.
    pub(super) fn on_host(experts: <Cpu as Backend>::Experts) -> Self {
        let count = experts.count();
        Self(Place::Host { experts, count })
    }

    /// Copies all of them to device memory.
    pub(super) fn on_device(
        maker: &mut Maker,
        modules: &mut Modules,
        layer: usize,
        shape: ExpertShape,
        bytes: &Arc<dyn ExpertBytes>,
    ) -> Result<Self> {
        let count = shape.experts;
        let [gate, up, down] = shape.matrices.map(|layout| maker.empty(modules, layout, count));
        let matrices = [gate?, up?, down?];
        let parts = shape.parts();
        let mut record = Vec::new();
        for expert in 0..count {
            let id = ExpertId { layer: layer as u32, expert: expert as u32 };
            if let Some(resident) = bytes.resident(id) {
                for (matrix, part) in matrices.iter().zip(&resident) {
                    maker.write(matrix, expert, &part.values, &part.scales)?;
                }
            } else {
                record.resize(shape.record_bytes(), 0);
                bytes.fetch(&[id], &mut record).context("the weights of an expert cannot be read")?;
                for (matrix, part) in matrices.iter().zip(&parts) {
                    maker.write(
                        matrix,
                        expert,
                        &record[part.values.clone()],
                        &record[part.scales.clone()],
                    )?;
                }
            }
        }
        Ok(Self(Place::Device { matrices, count }))
    }
}

/// Workspace of the operation.
struct Parts {
    normed: Address,
    /// `[rows, experts]`
    logits: Address,
    /// `[rows, top_k]`
    chosen: Address,
    /// `[rows, top_k]`
    weights: Address,
    /// Inner activations of visits, or of the shared expert.
    gate: Address,
    up: Address,
    /// Outputs of visits, or of the shared expert.
    out: Address,
    /// Logits of the shared expert's weight, `[rows]`.
    shared: Address,
    /// What experts return that are with the CPU.
    returned: Address,
}

impl Parts {
    fn new(space: &mut Space, sizes: &PassSizes, rows: usize) -> Result<Self> {
        let visits = sizes.top_k.max(1) * rows;
        let inner = (sizes.top_k * rows * sizes.expert_width).max(rows * sizes.dense_width);
        Ok(Self {
            normed: space.words(rows * sizes.hidden)?,
            logits: space.words(rows * sizes.experts)?,
            chosen: space.words(visits)?,
            weights: space.words(visits)?,
            gate: space.words(inner)?,
            up: space.words(inner)?,
            out: space.words(visits * sizes.hidden)?,
            shared: space.words(rows)?,
            returned: space.words(rows * sizes.hidden)?,
        })
    }
}

/// Bytes of workspace for `rows` rows.
pub(super) fn workspace_bytes(sizes: &PassSizes, rows: usize) -> Result<usize> {
    let mut space = Space::counting();
    Parts::new(&mut space, sizes, rows)?;
    Ok(space.used())
}

impl Cuda {
    pub(super) fn feed_forward(&mut self, weights: &MoeWeights<Self>, x: Address) -> Result<()> {
        let (sizes, rows) = (self.sizes, self.pass.rows);
        let mut space = self.space()?;
        let parts = Parts::new(&mut space, &sizes, rows)?;
        self.norm(x, &weights.norm, parts.normed, rows, sizes.hidden, weights.eps)?;
        if let Some(routed) = &weights.routed {
            self.routed(routed, &parts, rows, x)?;
        }
        let on_host = weights.routed.as_ref().and_then(|routed| match &routed.experts.0 {
            Place::Device { .. } => None,
            Place::Host { experts, .. } => Some(experts),
        });
        if on_host.is_some() {
            self.read()?;
        }
        // The device computes with the shared expert while the CPU computes with the others.
        if let Some(shared) = &weights.shared {
            self.shared(shared, &parts, rows, x)?;
        }
        on_host.map_or(Ok(()), |experts| self.visit_on_host(experts, &parts, x))
    }

    /// Adds what experts return that are with the CPU, for the visits that have come to the host.
    fn visit_on_host(
        &mut self,
        experts: &<Cpu as Backend>::Experts,
        parts: &Parts,
        x: Address,
    ) -> Result<()> {
        let Visits { normed, chosen, weights } = std::mem::take(&mut self.pass.visits);
        let cancel = self.pass.cancel.clone();
        let mut out = vec![0.0; normed.len()];
        self.cpu.visit(experts, &chosen, &weights, &normed, &cancel, &mut out)?;
        self.device.upload(&out, parts.returned)?;
        self.add(x, parts.returned, out.len())
    }

    fn routed(&mut self, routed: &RoutedWeights<Self>, parts: &Parts, rows: usize, x: Address) -> Result<()> {
        let (device, kernels) = (self.device.clone(), self.moe_kernels()?);
        let top_k = routed.top_k;
        let count = match &routed.experts.0 {
            Place::Device { count, .. } | Place::Host { count, .. } => *count,
        };
        routed.router.multiply(&device, parts.normed, parts.logits, rows, false)?;
        let route: [&dyn Param; 6] = [
            &parts.logits,
            &parts.chosen,
            &parts.weights,
            &(count as i32),
            &(top_k as i32),
            &i32::from(routed.normalize),
        ];
        device.launch(kernels.route, [rows, 1, 1], 32, &route)?;
        let visits = rows * top_k;
        let [gate, up, down] = match &routed.experts.0 {
            Place::Device { matrices, .. } => matrices,
            Place::Host { .. } => {
                self.save(parts.normed, 4 * rows * self.sizes.hidden, Destination::Normed)?;
                self.save(parts.chosen, 4 * visits, Destination::Chosen)?;
                return self.save(parts.weights, 4 * visits, Destination::Weights);
            }
        };
        gate.visit(&device, parts.chosen, visits, top_k, parts.normed, parts.gate)?;
        up.visit(&device, parts.chosen, visits, top_k, parts.normed, parts.up)?;
        self.silu_mul(parts.gate, parts.up, visits * gate.rows())?;
        down.visit(&device, parts.chosen, visits, 1, parts.gate, parts.out)?;
        let hidden = down.rows();
        let combine: [&dyn Param; 5] = [&x, &parts.out, &parts.weights, &(top_k as i32), &(hidden as i32)];
        let block = threads(hidden);
        device.launch(kernels.combine, [hidden.div_ceil(block), rows, 1], block, &combine)
    }

    fn shared(&mut self, shared: &SharedWeights<Self>, parts: &Parts, rows: usize, x: Address) -> Result<()> {
        let device = self.device.clone();
        let expert = &shared.expert;
        expert.gate.multiply(&device, parts.normed, parts.gate, rows, false)?;
        expert.up.multiply(&device, parts.normed, parts.up, rows, false)?;
        self.silu_mul(parts.gate, parts.up, rows * expert.gate.rows())?;
        let Some(gate) = &shared.gate else {
            return expert.down.multiply(&device, parts.gate, x, rows, true);
        };
        gate.multiply(&device, parts.normed, parts.shared, rows, false)?;
        expert.down.multiply(&device, parts.gate, parts.out, rows, false)?;
        self.add_gated(x, parts.out, parts.shared, rows, expert.down.rows())
    }
}
