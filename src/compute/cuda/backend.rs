//! The operations of a backend, as the others of this module do them.

use std::ops::Range;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};

use super::grouping::Grouping;
use super::hybrid::Hybrid;
use super::matrix;
use super::memory::{Buffer, HostMemory};
use super::saver::Saver;
use super::sizes::{check, input_bytes, saved_bytes, staging_bytes, workspace_bytes};
use super::staging::Staging;
use super::sweep::Sweep;
use super::table::Table;
use super::top;
use super::workspace::Workspace;
use super::{Cuda, CudaPass, PACED_ROWS_MIN, Planned, Rows, attention, delta, moe, saved};
use crate::base::memory::{self as host_memory, Memory, Space as MemorySpace};
use crate::compute::experts::{DeviceVisits, ExpertBytes, ExpertShape};
use crate::compute::logits::IdSet;
use crate::compute::{
    AttentionShape, AttentionWeights, Backend, BlockId, DeltaShape, DeltaWeights, HeadWeights, Interrupted,
    MoeWeights, Pass, PassOut, PassSizes, SavedBytes, StoredMatrix, TableUse,
};

impl Backend for Cuda {
    type Matrix = matrix::Matrix;
    type Table = Table;
    type Vector = Buffer;
    type Experts = moe::Experts;
    type Rows = Rows;
    type Kv = attention::Kv;
    type Recurrent = delta::Recurrent;
    type State = saved::State;
    type Trace = saved::Trace;
    type Attention = AttentionWeights<Self>;
    type Delta = DeltaWeights<Self>;
    type Moe = MoeWeights<Self>;
    type Head = HeadWeights<Self>;

    fn memory(&self) -> Memory {
        let MemorySpace { free, total } = self.arena.space();
        Memory { host: host_memory::host(), device: Some(MemorySpace { free, total }) }
    }

    fn expert_visits(&self) -> Option<DeviceVisits> {
        self.hybrid.as_ref().map(|hybrid| DeviceVisits { slots: self.options.expert_slots, ..hybrid.visits })
    }

    fn kv_block_bytes(&self, layers: usize, shape: &AttentionShape) -> usize {
        attention::block_len(layers, shape) * self.options.kv.bytes()
    }

    fn saved_bytes(&self, layers: usize, shape: &DeltaShape) -> SavedBytes {
        SavedBytes::new(layers, shape, self.options.precision)
    }

    fn prepare(&mut self, sizes: &PassSizes) -> Result<()> {
        check(sizes)?;
        self.sizes = *sizes;
        let inputs = self.arena.take(input_bytes(sizes))?;
        self.planned = Some(Planned {
            workspace: Workspace::new(self.arena.take(workspace_bytes(sizes)?)?),
            staging: Staging::new(self.device.clone(), staging_bytes(sizes, self.options.precision))?,
            upload: HostMemory::new(&self.device, inputs.bytes())?,
            inputs,
            allowed: self.arena.take(top::allowed_bytes(sizes.vocab))?,
        });
        if sizes.delta.is_some() {
            let precision = self.options.precision;
            self.delta_kernels = Some(delta::Kernels::new(&mut self.modules, precision)?);
            let saved = saved_bytes(sizes, precision);
            self.saver = Some(Saver::new(&self.device, &self.arena, sizes, &saved)?);
        }
        if sizes.top_k > 0 {
            self.moe_kernels = Some(moe::Kernels::new(&mut self.modules)?);
            self.hybrid = match self.options.expert_slots < sizes.experts {
                true => Some(Hybrid::new(&self.device, &self.arena, sizes, PACED_ROWS_MIN - 1)?),
                false => None,
            };
            if self.hybrid.is_none() {
                self.grouping = Grouping::new(&self.arena, &mut self.modules, sizes)?;
            }
            let ring_bytes = self.options.ring_bytes;
            if let Some(hybrid) = self.hybrid.as_ref().filter(|_| ring_bytes > 0) {
                let locks = hybrid.locks.clone();
                let sweep =
                    Sweep::new(&self.device, &self.arena, &mut self.modules, sizes, ring_bytes, locks)?;
                self.sweep = Some(sweep);
            }
        }
        Ok(())
    }

    fn matrix(&mut self, stored: StoredMatrix) -> Result<Self::Matrix> {
        self.maker.matrix(&mut self.modules, &stored).with_context(|| stored.values.name.to_string())
    }

    fn table(&mut self, stored: StoredMatrix, of: TableUse) -> Result<Table> {
        self.take_table(stored, of)
    }

    fn vector(&mut self, values: Vec<f32>) -> Result<Self::Vector> {
        self.device.enter()?;
        let buffer = self.arena.take(size_of_val(&values[..]))?;
        if !values.is_empty() {
            self.device.upload(&values, buffer.address())?;
        }
        Ok(buffer)
    }

    fn experts(
        &mut self,
        layer: usize,
        shape: ExpertShape,
        bytes: Arc<dyn ExpertBytes>,
    ) -> Result<Self::Experts> {
        let slots = self.options.expert_slots;
        let made = if slots >= shape.experts {
            moe::Experts::on_device(&mut self.maker, &mut self.modules, layer, shape, &bytes)
        } else {
            let locks = &self.hybrid.as_ref().context(moe::NO_ROUTING)?.locks;
            bytes.memory(layer).into_iter().for_each(|memory| locks.add(memory));
            let on_host = self.cpu.experts(layer, shape, bytes)?;
            match slots {
                0 => moe::Experts::on_host(self, shape, on_host),
                _ => moe::Experts::in_slots(self, shape, on_host, slots),
            }
        };
        made.with_context(|| format!("the experts of layer {layer}"))
    }

    fn rows(&mut self, rows_max: usize, width: usize) -> Result<Rows> {
        Ok(Rows { buffer: self.arena.take(4 * rows_max * width)?, width, rows_max })
    }

    fn kv(&mut self, layers: usize, shape: &AttentionShape, blocks_max: usize) -> Result<Self::Kv> {
        let block_len = attention::block_len(layers, shape);
        let (head_dim, precision) = (shape.head_dim, self.options.kv);
        let kv =
            attention::Kv::new(&self.arena, &mut self.modules, block_len, blocks_max, head_dim, precision);
        kv.context("the KV cache")
    }

    fn recurrent(&mut self, shape: &DeltaShape) -> Result<Self::Recurrent> {
        let mut state = delta::Recurrent::new(&self.arena, shape).context("the recurrent states")?;
        self.restore_all(std::slice::from_mut(&mut state), None)?;
        Ok(state)
    }

    fn copy_block(&mut self, kv: &mut Self::Kv, from: BlockId, to: BlockId) {
        let done = self.device.enter().and_then(|()| kv.copy(&self.device, from, to));
        self.keep(done);
    }

    fn free_block(&mut self, _: &mut Self::Kv, _: BlockId) {}

    fn restore(&mut self, states: &mut [Self::Recurrent], from: Option<&Self::State>) {
        let done = self.restore_all(states, from);
        self.keep(done);
    }

    fn allow(&mut self, ids: &IdSet) {
        let done = self.allow_ids(ids);
        self.keep(done);
    }

    fn begin(&mut self, pass: &Pass) {
        let done = self.begin_pass(pass);
        self.keep(done);
    }

    fn embed(&mut self, table: &Table, tokens: &[u32], x: &mut Rows) {
        self.enqueue(|this| this.look_up(table, tokens, x));
    }

    fn load(&mut self, values: &[f32], x: &mut Rows) {
        self.enqueue(|this| {
            ensure!(values.len() <= x.rows_max * x.width, "a pass is larger than was stated");
            this.device.upload(values, x.buffer.address())
        });
    }

    fn attention(&mut self, weights: &AttentionWeights<Self>, kv: &mut Self::Kv, layer: usize, x: &mut Rows) {
        self.enqueue(|this| this.attend(weights, kv, layer, x.buffer.address()));
    }

    fn delta(&mut self, weights: &DeltaWeights<Self>, state: &mut Self::Recurrent, x: &mut Rows) {
        self.enqueue(|this| this.gated_delta_net(weights, state, x.buffer.address()));
    }

    fn replay(
        &mut self,
        weights: &DeltaWeights<Self>,
        layer: usize,
        traces: &[&Self::Trace],
        state: &mut Self::Recurrent,
    ) {
        self.enqueue(|this| this.replay_traces(weights, layer, traces, state));
    }

    fn moe(&mut self, weights: &MoeWeights<Self>, x: &mut Rows) {
        self.enqueue(|this| {
            this.feed_forward(weights, x.buffer.address())?;
            // Sweeps wait for the router of each layer.
            let is_paced = this.pass.rows >= PACED_ROWS_MIN && !this.pass.is_swept;
            if is_paced { this.device.wait() } else { this.device.flush() }
        });
    }

    fn head(&mut self, weights: &HeadWeights<Self>, rows: Range<usize>, x: &Rows, _: &mut Rows) {
        self.enqueue(|this| this.logits_of(weights, rows, x));
    }

    fn finish(
        &mut self,
        states: &mut [Self::Recurrent],
        x: &Rows,
        _: &Rows,
        out: &mut PassOut<Self>,
    ) -> Result<(), Interrupted> {
        if let Some(error) = self.device_error() {
            return Err(Interrupted::Device(error));
        }
        if self.pass.is_incomplete || self.pass.cancel.is_cancelled() {
            return Err(Interrupted::Cancelled);
        }
        let done = self.save_hidden(x).and_then(|()| self.read());
        let done = done.and_then(|()| self.device.set_batching(false)).and_then(|()| self.seal_states());
        self.keep(done);
        if let Some(error) = self.device_error() {
            return Err(Interrupted::Device(error));
        }
        self.pass.is_open = false;
        let CudaPass { logits, hidden, states: saved, traces, .. } = &mut self.pass;
        out.logits = std::mem::take(logits);
        out.hidden = std::mem::take(hidden);
        out.states = std::mem::take(saved);
        out.traces = std::mem::take(traces);
        states.iter_mut().for_each(delta::Recurrent::commit);
        Ok(())
    }
}
