//! The device of this machine that a model runs on: the GPU or the CPU, as was decided when it was loaded.

use std::ops::Range;
use std::sync::Arc;

use anyhow::Result;

use super::cpu::Cpu;
use super::cuda::Cuda;
use super::experts::{DeviceVisits, ExpertBytes, ExpertShape};
use super::logits::IdSet;
use super::{
    AttentionBias, AttentionShape, AttentionWeights, Backend, BlockId, DeltaProjection, DeltaShape,
    DeltaWeights, ExpertWeights, HeadWeights, Interrupted, MoeWeights, Pass, PassOut, PassSizes,
    RoutedWeights, SavedBytes, SharedWeights, StoredMatrix, TableUse,
};
use crate::base::memory::Memory;

/// The backend of this machine.
pub enum Local {
    Cpu(Box<Cpu>),
    Gpu(Box<Cuda>),
}

/// What one of the backends has.
#[derive(Clone)]
pub enum Of<C, G> {
    Cpu(C),
    Gpu(G),
}

impl<C, G> Of<C, G> {
    fn cpu(self) -> C {
        match self {
            Self::Cpu(value) => value,
            Self::Gpu(_) => unreachable!("the CPU is given its own"),
        }
    }

    fn gpu(self) -> G {
        match self {
            Self::Gpu(value) => value,
            Self::Cpu(_) => unreachable!("the GPU is given its own"),
        }
    }

    fn as_ref(&self) -> Of<&C, &G> {
        match self {
            Self::Cpu(value) => Of::Cpu(value),
            Self::Gpu(value) => Of::Gpu(value),
        }
    }

    fn as_mut(&mut self) -> Of<&mut C, &mut G> {
        match self {
            Self::Cpu(value) => Of::Cpu(value),
            Self::Gpu(value) => Of::Gpu(value),
        }
    }
}

type OfMatrix = Of<<Cpu as Backend>::Matrix, <Cuda as Backend>::Matrix>;
type OfTable = Of<<Cpu as Backend>::Table, <Cuda as Backend>::Table>;
type OfVector = Of<<Cpu as Backend>::Vector, <Cuda as Backend>::Vector>;
type OfExperts = Of<<Cpu as Backend>::Experts, <Cuda as Backend>::Experts>;

/// A backend whose parts can be made of those of [`Local`].
trait Part: Backend {
    fn own_matrix(part: OfMatrix) -> Self::Matrix;
    fn own_table(part: OfTable) -> Self::Table;
    fn own_vector(part: OfVector) -> Self::Vector;
    fn own_experts(part: OfExperts) -> Self::Experts;
}

impl Part for Cpu {
    fn own_matrix(part: OfMatrix) -> Self::Matrix {
        part.cpu()
    }

    fn own_table(part: OfTable) -> Self::Table {
        part.cpu()
    }

    fn own_vector(part: OfVector) -> Self::Vector {
        part.cpu()
    }

    fn own_experts(part: OfExperts) -> Self::Experts {
        part.cpu()
    }
}

impl Part for Cuda {
    fn own_matrix(part: OfMatrix) -> Self::Matrix {
        part.gpu()
    }

    fn own_table(part: OfTable) -> Self::Table {
        part.gpu()
    }

    fn own_vector(part: OfVector) -> Self::Vector {
        part.gpu()
    }

    fn own_experts(part: OfExperts) -> Self::Experts {
        part.gpu()
    }
}

fn attention<B: Part>(weights: AttentionWeights<Local>) -> AttentionWeights<B> {
    let AttentionWeights { shape, norm, query, key, value, bias, output, query_norm, key_norm } = weights;
    AttentionWeights {
        shape,
        norm: B::own_vector(norm),
        query: B::own_matrix(query),
        key: B::own_matrix(key),
        value: B::own_matrix(value),
        bias: bias.map(|AttentionBias { query, key, value }| AttentionBias {
            query: B::own_vector(query),
            key: B::own_vector(key),
            value: B::own_vector(value),
        }),
        output: B::own_matrix(output),
        query_norm: query_norm.map(B::own_vector),
        key_norm: key_norm.map(B::own_vector),
    }
}

fn delta<B: Part>(weights: DeltaWeights<Local>) -> DeltaWeights<B> {
    let DeltaWeights { shape, norm, projection, ba, conv, decay, dt_bias, output_norm, output } = weights;
    DeltaWeights {
        shape,
        norm: B::own_vector(norm),
        projection: match projection {
            DeltaProjection::Grouped(matrix) => DeltaProjection::Grouped(B::own_matrix(matrix)),
            DeltaProjection::Split { channels, z } => {
                DeltaProjection::Split { channels: B::own_matrix(channels), z: B::own_matrix(z) }
            }
        },
        ba: B::own_matrix(ba),
        conv: B::own_vector(conv),
        decay: B::own_vector(decay),
        dt_bias: B::own_vector(dt_bias),
        output_norm: B::own_vector(output_norm),
        output: B::own_matrix(output),
    }
}

fn moe<B: Part>(weights: MoeWeights<Local>) -> MoeWeights<B> {
    let MoeWeights { norm, eps, routed, shared } = weights;
    let expert = |ExpertWeights { gate, up, down }: ExpertWeights<Local>| ExpertWeights {
        gate: B::own_matrix(gate),
        up: B::own_matrix(up),
        down: B::own_matrix(down),
    };
    MoeWeights {
        norm: B::own_vector(norm),
        eps,
        routed: routed.map(|RoutedWeights { router, experts, top_k, normalize }| RoutedWeights {
            router: B::own_matrix(router),
            experts: B::own_experts(experts),
            top_k,
            normalize,
        }),
        shared: shared.map(|SharedWeights { expert: weights, gate }| SharedWeights {
            expert: expert(weights),
            gate: gate.map(B::own_matrix),
        }),
    }
}

fn head<B: Part>(weights: HeadWeights<Local>) -> HeadWeights<B> {
    let HeadWeights { norm, eps, output } = weights;
    HeadWeights { norm: B::own_vector(norm), eps, output: B::own_table(output) }
}

impl From<AttentionWeights<Local>> for Of<AttentionWeights<Cpu>, AttentionWeights<Cuda>> {
    fn from(weights: AttentionWeights<Local>) -> Self {
        match &weights.norm {
            Of::Cpu(_) => Of::Cpu(attention(weights)),
            Of::Gpu(_) => Of::Gpu(attention(weights)),
        }
    }
}

impl From<DeltaWeights<Local>> for Of<DeltaWeights<Cpu>, DeltaWeights<Cuda>> {
    fn from(weights: DeltaWeights<Local>) -> Self {
        match &weights.norm {
            Of::Cpu(_) => Of::Cpu(delta(weights)),
            Of::Gpu(_) => Of::Gpu(delta(weights)),
        }
    }
}

impl From<MoeWeights<Local>> for Of<MoeWeights<Cpu>, MoeWeights<Cuda>> {
    fn from(weights: MoeWeights<Local>) -> Self {
        match &weights.norm {
            Of::Cpu(_) => Of::Cpu(moe(weights)),
            Of::Gpu(_) => Of::Gpu(moe(weights)),
        }
    }
}

impl From<HeadWeights<Local>> for Of<HeadWeights<Cpu>, HeadWeights<Cuda>> {
    fn from(weights: HeadWeights<Local>) -> Self {
        match &weights.norm {
            Of::Cpu(_) => Of::Cpu(head(weights)),
            Of::Gpu(_) => Of::Gpu(head(weights)),
        }
    }
}

/// An expression for whichever backend it is, with its own of what is named.
macro_rules! on {
    ($local:expr, $backend:ident $(, $own:ident = $part:expr)* => $work:expr) => {
        match $local {
            Local::Cpu($backend) => {
                $(let $own = $part.cpu();)*
                $work
            }
            Local::Gpu($backend) => {
                $(let $own = $part.gpu();)*
                $work
            }
        }
    };
}

/// What the backend returns, as what it is here.
macro_rules! made {
    ($local:expr, |$backend:ident| $work:expr) => {
        match $local {
            Local::Cpu($backend) => $work.map(Of::Cpu),
            Local::Gpu($backend) => $work.map(Of::Gpu),
        }
    };
}

/// Works on states that lie side by side, as one of the backends has them; here they are lent for as long.
fn with_states<C, G, T, R>(
    states: &mut [Option<Of<C, G>>],
    own: impl Fn(Of<C, G>) -> T,
    back: impl Fn(T) -> Of<C, G>,
    work: impl FnOnce(&mut [T]) -> R,
) -> R {
    let mut taken: Vec<T> = states.iter_mut().map(|state| own(state.take().expect(IN_PLACE))).collect();
    let result = work(&mut taken);
    for (state, value) in states.iter_mut().zip(taken) {
        *state = Some(back(value));
    }
    result
}

const IN_PLACE: &str = "a state is in its place between operations";

/// Takes what a pass returned to where it belongs.
fn bring<B: Backend>(
    found: PassOut<B>,
    out: &mut PassOut<Local>,
    state: impl Fn(B::State) -> <Local as Backend>::State,
    trace: impl Fn(B::Trace) -> <Local as Backend>::Trace,
) {
    let PassOut { logits, hidden, states, traces } = found;
    out.logits = logits;
    out.hidden = hidden;
    out.states = states.into_iter().map(state).collect();
    out.traces = traces.into_iter().map(trace).collect();
}

impl Backend for Local {
    type Matrix = OfMatrix;
    type Table = OfTable;
    type Vector = OfVector;
    type Experts = OfExperts;
    type Rows = Of<<Cpu as Backend>::Rows, <Cuda as Backend>::Rows>;
    type Kv = Of<<Cpu as Backend>::Kv, <Cuda as Backend>::Kv>;
    type Recurrent = Option<Of<<Cpu as Backend>::Recurrent, <Cuda as Backend>::Recurrent>>;
    type State = Of<<Cpu as Backend>::State, <Cuda as Backend>::State>;
    type Trace = Of<<Cpu as Backend>::Trace, <Cuda as Backend>::Trace>;
    type Attention = Of<AttentionWeights<Cpu>, AttentionWeights<Cuda>>;
    type Delta = Of<DeltaWeights<Cpu>, DeltaWeights<Cuda>>;
    type Moe = Of<MoeWeights<Cpu>, MoeWeights<Cuda>>;
    type Head = Of<HeadWeights<Cpu>, HeadWeights<Cuda>>;

    fn memory(&self) -> Memory {
        on!(self, backend => backend.memory())
    }

    fn expert_visits(&self) -> Option<DeviceVisits> {
        on!(self, backend => backend.expert_visits())
    }

    fn kv_block_bytes(&self, layers: usize, shape: &AttentionShape) -> usize {
        on!(self, backend => backend.kv_block_bytes(layers, shape))
    }

    fn saved_bytes(&self, layers: usize, shape: &DeltaShape) -> SavedBytes {
        on!(self, backend => backend.saved_bytes(layers, shape))
    }

    fn prepare(&mut self, sizes: &PassSizes) -> Result<()> {
        on!(self, backend => backend.prepare(sizes))
    }

    fn matrix(&mut self, stored: StoredMatrix) -> Result<Self::Matrix> {
        made!(self, |backend| backend.matrix(stored))
    }

    fn table(&mut self, stored: StoredMatrix, of: TableUse) -> Result<Self::Table> {
        made!(self, |backend| backend.table(stored, of))
    }

    fn vector(&mut self, values: Vec<f32>) -> Result<Self::Vector> {
        made!(self, |backend| backend.vector(values))
    }

    fn experts(
        &mut self,
        layer: usize,
        shape: ExpertShape,
        bytes: Arc<dyn ExpertBytes>,
    ) -> Result<Self::Experts> {
        made!(self, |backend| backend.experts(layer, shape, bytes))
    }

    fn rows(&mut self, rows_max: usize, width: usize) -> Result<Self::Rows> {
        made!(self, |backend| backend.rows(rows_max, width))
    }

    fn kv(&mut self, layers: usize, shape: &AttentionShape, blocks_max: usize) -> Result<Self::Kv> {
        made!(self, |backend| backend.kv(layers, shape, blocks_max))
    }

    fn recurrent(&mut self, shape: &DeltaShape) -> Result<Self::Recurrent> {
        made!(self, |backend| backend.recurrent(shape)).map(Some)
    }

    fn copy_block(&mut self, kv: &mut Self::Kv, from: BlockId, to: BlockId) {
        on!(self, backend, kv = kv.as_mut() => backend.copy_block(kv, from, to));
    }

    fn free_block(&mut self, kv: &mut Self::Kv, block: BlockId) {
        on!(self, backend, kv = kv.as_mut() => backend.free_block(kv, block));
    }

    fn restore(&mut self, states: &mut [Self::Recurrent], from: Option<&Self::State>) {
        let from = from.map(Of::as_ref);
        match self {
            Self::Cpu(cpu) => {
                let from = from.map(Of::cpu);
                with_states(states, Of::cpu, Of::Cpu, |states| cpu.restore(states, from));
            }
            Self::Gpu(gpu) => {
                let from = from.map(Of::gpu);
                with_states(states, Of::gpu, Of::Gpu, |states| gpu.restore(states, from));
            }
        }
    }

    fn allow(&mut self, ids: &IdSet) {
        on!(self, backend => backend.allow(ids));
    }

    fn begin(&mut self, pass: &Pass) {
        on!(self, backend => backend.begin(pass));
    }

    fn embed(&mut self, table: &Self::Table, tokens: &[u32], x: &mut Self::Rows) {
        on!(self, backend, table = table.as_ref(), x = x.as_mut() => backend.embed(table, tokens, x));
    }

    fn load(&mut self, values: &[f32], x: &mut Self::Rows) {
        on!(self, backend, x = x.as_mut() => backend.load(values, x));
    }

    fn attention(&mut self, weights: &Self::Attention, kv: &mut Self::Kv, layer: usize, x: &mut Self::Rows) {
        on!(self, backend, weights = weights.as_ref(), kv = kv.as_mut(), x = x.as_mut() => backend
            .attention(weights, kv, layer, x));
    }

    fn delta(&mut self, weights: &Self::Delta, state: &mut Self::Recurrent, x: &mut Self::Rows) {
        let state = state.as_mut().expect(IN_PLACE);
        on!(self, backend, weights = weights.as_ref(), state = state.as_mut(), x = x.as_mut() => backend
            .delta(weights, state, x));
    }

    fn replay(
        &mut self,
        weights: &Self::Delta,
        layer: usize,
        traces: &[&Self::Trace],
        state: &mut Self::Recurrent,
    ) {
        let state = state.as_mut().expect(IN_PLACE).as_mut();
        let traces = traces.iter().map(|trace| trace.as_ref());
        match self {
            Self::Cpu(cpu) => {
                let traces: Vec<_> = traces.map(Of::cpu).collect();
                cpu.replay(weights.as_ref().cpu(), layer, &traces, state.cpu());
            }
            Self::Gpu(gpu) => {
                let traces: Vec<_> = traces.map(Of::gpu).collect();
                gpu.replay(weights.as_ref().gpu(), layer, &traces, state.gpu());
            }
        }
    }

    fn moe(&mut self, weights: &Self::Moe, x: &mut Self::Rows) {
        on!(self, backend, weights = weights.as_ref(), x = x.as_mut() => backend.moe(weights, x));
    }

    fn head(&mut self, weights: &Self::Head, rows: Range<usize>, x: &Self::Rows, logits: &mut Self::Rows) {
        on!(self, backend, weights = weights.as_ref(), x = x.as_ref(), logits = logits.as_mut() => backend
            .head(weights, rows, x, logits));
    }

    fn finish(
        &mut self,
        states: &mut [Self::Recurrent],
        x: &Self::Rows,
        logits: &Self::Rows,
        out: &mut PassOut<Self>,
    ) -> Result<(), Interrupted> {
        let (x, logits) = (x.as_ref(), logits.as_ref());
        match self {
            Self::Cpu(cpu) => {
                let mut found =
                    PassOut::<Cpu> { logits: std::mem::take(&mut out.logits), ..PassOut::default() };
                let finish = |states: &mut [_]| cpu.finish(states, x.cpu(), logits.cpu(), &mut found);
                with_states(states, Of::cpu, Of::Cpu, finish)?;
                bring(found, out, Of::Cpu, Of::Cpu);
            }
            Self::Gpu(gpu) => {
                let mut found = PassOut::<Cuda>::default();
                let finish = |states: &mut [_]| gpu.finish(states, x.gpu(), logits.gpu(), &mut found);
                with_states(states, Of::gpu, Of::Gpu, finish)?;
                bring(found, out, Of::Gpu, Of::Gpu);
            }
        }
        Ok(())
    }
}
