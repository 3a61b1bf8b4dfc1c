//! Visits of many rows where all experts are in device memory, put together by expert there: each weight is read once for a
//! tile of rows.

use std::sync::Arc;

use anyhow::Result;

use super::Cuda;
use super::driver::{Address, Device, Function, Param};
use super::input::{Input, Tiles};
use super::matrix::{Matrix, Output};
use super::memory::{Arena, Buffer, taken};
use super::module::{File, Modules};
use super::moe::Parts;
use super::threads;
use super::tiles::{TILE_ROWS, Tile};
use crate::compute::PassSizes;

/// Most experts of a layer,
const EXPERTS_MAX: usize = 1024;
/// and threads that sort their visits: as the kernels have them.
const SORTING_THREADS: usize = 256;
/// From how many visits of an expert on, at the mean, they are put together.
const VISITS_MIN: usize = 2;

/// Device memory for the order of visits and for their outputs, and the kernels that need it.
pub(super) struct Grouping {
    order: Buffer,
    tiles: Buffer,
    /// `[visits, hidden]`
    outputs: Buffer,
    sort: Function,
    combine: Function,
}

/// Most tiles of `visits` visits.
fn tiles_max(visits: usize, experts: usize) -> usize {
    visits / TILE_ROWS + experts.min(visits)
}

/// Bytes of order, tiles and outputs; `None` where visits are never put together.
fn parts(sizes: &PassSizes) -> Option<[usize; 3]> {
    let visits = sizes.rows_max * sizes.top_k;
    let is_used = (1..=EXPERTS_MAX).contains(&sizes.experts) && visits >= VISITS_MIN * sizes.experts;
    let tiles = size_of::<Tile>() * tiles_max(visits, sizes.experts);
    is_used.then_some([4 * visits, tiles, 4 * visits * sizes.hidden])
}

/// Bytes of device memory.
pub(super) fn bytes(sizes: &PassSizes) -> usize {
    parts(sizes).into_iter().flatten().map(taken).sum()
}

impl Grouping {
    /// For passes of these sizes; `None` where they are too short.
    pub(super) fn new(arena: &Arc<Arena>, modules: &mut Modules, sizes: &PassSizes) -> Result<Option<Self>> {
        let Some([order, tiles, outputs]) = parts(sizes) else { return Ok(None) };
        Ok(Some(Self {
            order: arena.take(order)?,
            tiles: arena.take(tiles)?,
            outputs: arena.take(outputs)?,
            sort: modules.function(File::Experts, "sort_visits")?,
            combine: modules.function(File::Experts, "combine")?,
        }))
    }

    /// Enqueues putting `visits` visits of the experts in `slots` together.
    fn sort(&self, device: &Device, slots: Address, visits: usize, experts: usize) -> Result<Tiles> {
        let count = tiles_max(visits, experts);
        let (order, tiles) = (self.order.address(), self.tiles.address());
        let params: [&dyn Param; 5] = [&slots, &order, &tiles, &(visits as i32), &(count as i32)];
        device.launch(self.sort, [1, 1, 1], SORTING_THREADS, &params)?;
        Ok(Tiles { tiles, count, order })
    }
}

impl Cuda {
    /// How visits of a pass are put together, where there are enough of them.
    pub(super) fn grouping(&self, normed: &Input, top_k: usize) -> Option<&Grouping> {
        let are_many = self.pass.rows * top_k >= VISITS_MIN * self.sizes.experts;
        self.grouping.as_ref().filter(|_| are_many && normed.is_packed())
    }

    /// Adds what experts return, all of which are in `matrices` and in slots of their own.
    pub(super) fn visit_together(
        &self,
        grouping: &Grouping,
        [gate, up, down]: &[Matrix; 3],
        parts: &Parts,
        normed: &Input,
        top_k: usize,
        x: Address,
    ) -> Result<()> {
        let (device, rows, sizes) = (&self.device, self.pass.rows, &self.sizes);
        let tiles = grouping.sort(device, parts.slots, rows * top_k, sizes.experts)?;
        gate.group(device, &tiles, top_k, normed, Output::to(parts.gate))?;
        up.group(device, &tiles, top_k, normed, Output::to(parts.inner).gated_by(parts.gate))?;
        let inner = self.visits(parts.inner, &parts.packed_inner, &tiles, down.cols())?;
        let outputs = grouping.outputs.address();
        down.group(device, &tiles, 1, &inner, Output::to(outputs))?;
        let (top_k, hidden) = (top_k as i32, sizes.hidden as i32);
        let params: [&dyn Param; 6] = [&outputs, &parts.weights, &parts.slots, &x, &top_k, &hidden];
        let block = threads(sizes.hidden);
        device.launch(grouping.combine, [sizes.hidden.div_ceil(block), rows, 1], block, &params)
    }
}
