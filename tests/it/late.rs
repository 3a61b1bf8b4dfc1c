//! A device that works late: operations are queued, and run at `finish`, on another thread. It computes with the
//! CPU backend, can be told to fail, and is what shows that nothing relies on an operation having run.

use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicIsize, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};
use fimd::base::Cancel;
use fimd::base::memory::Memory;
use fimd::compute::Precision;
use fimd::compute::cpu::{Cpu, CpuOptions};
use fimd::compute::experts::{ExpertBytes, ExpertId, ExpertParts, ExpertShape, Ranking};
use fimd::compute::logits::{IdSet, LogitForm};
use fimd::compute::{
    AttentionBias, AttentionShape, AttentionWeights, Backend, BlockId, DeltaProjection, DeltaShape,
    DeltaWeights, ExpertWeights, HeadWeights, Interrupted, Keep, MoeWeights, Pass, PassOut, RoutedWeights,
    SavedBytes, SharedWeights, StoredMatrix, TableUse,
};
use fimd::decode::{Generated, Task};
use fimd::format::ModelDir;
use fimd::model::{Config, Model};
use fimd::serve::{Engine, Event, Priority, Request};
use fimd::session::{DeviceFailure, Session, SessionOptions};

use crate::load::{self, TestBackend};
use crate::{reference, tiny};

/// Something of the CPU backend that queued operations share.
type Shared<T> = Arc<Mutex<Option<T>>>;
type Operation = Box<dyn FnOnce(&mut Cpu) + Send>;

pub struct Late {
    cpu: Cpu,
    queue: Vec<Operation>,
    pass: Option<Queued>,
    faults: Arc<Faults>,
}

/// A pass that has begun.
struct Queued {
    /// Operations queued before it.
    first: usize,
    start: usize,
    rows: usize,
    blocks: Vec<BlockId>,
    cancel: Cancel,
    marks: Vec<usize>,
    traced: Vec<Range<usize>>,
    logits: LogitForm,
}

/// What goes wrong, counted down by what it happens to; below zero it does not happen.
pub struct Faults {
    /// An operation of a pass fails.
    pub operation: AtomicIsize,
    /// After an operation the pass is cancelled.
    pub cancel: AtomicIsize,
    /// An allocation fails.
    pub allocation: AtomicIsize,
    /// The bytes of experts cannot be read.
    pub fetch: AtomicIsize,
}

impl Default for Faults {
    fn default() -> Self {
        let never = || AtomicIsize::new(-1);
        Self { operation: never(), cancel: never(), allocation: never(), fetch: never() }
    }
}

fn strikes(count: &AtomicIsize) -> bool {
    count.fetch_sub(1, Ordering::Relaxed) == 0
}

fn share<T>(value: T) -> Shared<T> {
    Arc::new(Mutex::new(Some(value)))
}

/// Works on what operations share.
fn with<T, R>(shared: &Shared<T>, work: impl FnOnce(&mut T) -> R) -> R {
    work(shared.lock().unwrap().as_mut().expect("it is in its place"))
}

impl TestBackend for Late {
    fn open(options: CpuOptions) -> Self {
        Self::with_faults(options, Arc::default())
    }
}

impl Late {
    pub fn with_faults(options: CpuOptions, faults: Arc<Faults>) -> Self {
        Self { cpu: Cpu::new(options), queue: Vec::new(), pass: None, faults }
    }

    fn queue(&mut self, operation: impl FnOnce(&mut Cpu) + Send + 'static) {
        self.queue.push(Box::new(operation));
    }

    fn allocate<T>(&mut self, value: impl FnOnce(&mut Cpu) -> Result<T>) -> Result<T> {
        ensure!(!strikes(&self.faults.allocation), "out of memory, as the test wants it");
        value(&mut self.cpu)
    }

    /// Runs what is queued; the operations of the pass only until something goes wrong.
    fn run(&mut self, pass: &Queued) -> Result<(), Interrupted> {
        let (cpu, faults, operations) = (&mut self.cpu, &self.faults, std::mem::take(&mut self.queue));
        let mut operations = operations.into_iter();
        operations.by_ref().take(pass.first).for_each(|operation| operation(cpu));
        cpu.begin(&pass.borrowed());
        for operation in operations {
            if pass.cancel.is_cancelled() {
                return Err(Interrupted::Cancelled);
            }
            if strikes(&faults.operation) {
                return Err(Interrupted::Device(anyhow!("a fault that the test wants")));
            }
            operation(cpu);
            // A replay has no blocks, and nothing holds its flag.
            if !pass.blocks.is_empty() && strikes(&faults.cancel) {
                pass.cancel.cancel();
            }
        }
        Ok(())
    }
}

impl Queued {
    fn borrowed(&self) -> Pass<'_> {
        let keep = Keep { marks: &self.marks, traced: &self.traced, logits: self.logits };
        Pass { start: self.start, rows: self.rows, blocks: &self.blocks, cancel: &self.cancel, keep }
    }
}

/// Experts of which none is in memory.
struct Absent {
    bytes: Arc<dyn ExpertBytes>,
    shape: ExpertShape,
    faults: Arc<Faults>,
}

impl ExpertBytes for Absent {
    fn resident(&self, _: ExpertId) -> Option<ExpertParts> {
        None
    }

    fn fetch(&self, ids: &[ExpertId], into: &mut [u8]) -> io::Result<()> {
        if strikes(&self.faults.fetch) {
            return Err(io::Error::other("a disk that the test wants to fail"));
        }
        for (id, record) in ids.iter().zip(into.chunks_exact_mut(self.shape.record_bytes())) {
            for (from, to) in self.bytes.resident(*id).unwrap().iter().zip(self.shape.parts()) {
                record[to.values].copy_from_slice(&from.values);
                record[to.scales].copy_from_slice(&from.scales);
            }
        }
        Ok(())
    }

    fn is_told(&self) -> bool {
        self.bytes.is_told()
    }

    fn visited(&self, layer: usize, ranking: Ranking) {
        self.bytes.visited(layer, ranking);
    }
}

impl Backend for Late {
    type Matrix = <Cpu as Backend>::Matrix;
    type Table = <Cpu as Backend>::Table;
    type Vector = Vec<f32>;
    type Experts = <Cpu as Backend>::Experts;
    type Rows = Shared<<Cpu as Backend>::Rows>;
    type Kv = Shared<<Cpu as Backend>::Kv>;
    type Recurrent = Shared<<Cpu as Backend>::Recurrent>;
    type State = <Cpu as Backend>::State;
    type Trace = <Cpu as Backend>::Trace;
    type Attention = AttentionWeights<Self>;
    type Delta = DeltaWeights<Self>;
    type Moe = MoeWeights<Self>;
    type Head = HeadWeights<Self>;

    fn memory(&self) -> Memory {
        self.cpu.memory()
    }

    fn kv_block_bytes(&self, layers: usize, shape: &AttentionShape) -> usize {
        self.cpu.kv_block_bytes(layers, shape)
    }

    fn saved_bytes(&self, layers: usize, shape: &DeltaShape) -> SavedBytes {
        self.cpu.saved_bytes(layers, shape)
    }

    fn matrix(&mut self, stored: StoredMatrix) -> Result<Self::Matrix> {
        self.allocate(|cpu| cpu.matrix(stored))
    }

    fn table(&mut self, stored: StoredMatrix, _: TableUse) -> Result<Self::Table> {
        self.matrix(stored)
    }

    fn vector(&mut self, values: Vec<f32>) -> Result<Self::Vector> {
        self.allocate(|cpu| cpu.vector(values))
    }

    fn experts(
        &mut self,
        layer: usize,
        shape: ExpertShape,
        bytes: Arc<dyn ExpertBytes>,
    ) -> Result<Self::Experts> {
        let bytes = Arc::new(Absent { bytes, shape, faults: self.faults.clone() });
        self.allocate(|cpu| cpu.experts(layer, shape, bytes))
    }

    fn rows(&mut self, rows_max: usize, width: usize) -> Result<Self::Rows> {
        self.allocate(|cpu| cpu.rows(rows_max, width).map(share))
    }

    fn kv(&mut self, layers: usize, shape: &AttentionShape, blocks_max: usize) -> Result<Self::Kv> {
        self.allocate(|cpu| cpu.kv(layers, shape, blocks_max).map(share))
    }

    fn recurrent(&mut self, shape: &DeltaShape) -> Result<Self::Recurrent> {
        self.allocate(|cpu| cpu.recurrent(shape).map(share))
    }

    fn copy_block(&mut self, kv: &mut Self::Kv, from: BlockId, to: BlockId) {
        let kv = kv.clone();
        self.queue(move |cpu| with(&kv, |kv| cpu.copy_block(kv, from, to)));
    }

    fn free_block(&mut self, kv: &mut Self::Kv, block: BlockId) {
        let kv = kv.clone();
        self.queue(move |cpu| with(&kv, |kv| cpu.free_block(kv, block)));
    }

    fn restore(&mut self, states: &mut [Self::Recurrent], from: Option<&Self::State>) {
        let (states, from) = (states.to_vec(), from.cloned());
        self.queue(move |cpu| on_states(&states, |states| cpu.restore(states, from.as_ref())));
    }

    fn allow(&mut self, ids: &IdSet) {
        let ids = ids.clone();
        self.queue(move |cpu| cpu.allow(&ids));
    }

    fn begin(&mut self, pass: &Pass) {
        if let Some(unfinished) = self.pass.take() {
            self.queue.truncate(unfinished.first);
        }
        self.pass = Some(Queued {
            first: self.queue.len(),
            start: pass.start,
            rows: pass.rows,
            blocks: pass.blocks.to_vec(),
            cancel: pass.cancel.clone(),
            marks: pass.keep.marks.to_vec(),
            traced: pass.keep.traced.to_vec(),
            logits: pass.keep.logits,
        });
    }

    fn embed(&mut self, table: &Self::Table, tokens: &[u32], x: &mut Self::Rows) {
        let (table, tokens, x) = (table.clone(), tokens.to_vec(), x.clone());
        self.queue(move |cpu| with(&x, |x| cpu.embed(&table, &tokens, x)));
    }

    fn load(&mut self, values: &[f32], x: &mut Self::Rows) {
        let (values, x) = (values.to_vec(), x.clone());
        self.queue(move |cpu| with(&x, |x| cpu.load(&values, x)));
    }

    fn attention(
        &mut self,
        weights: &AttentionWeights<Self>,
        kv: &mut Self::Kv,
        layer: usize,
        x: &mut Self::Rows,
    ) {
        let (weights, kv, x) = (attention(weights), kv.clone(), x.clone());
        self.queue(move |cpu| with(&x, |x| with(&kv, |kv| cpu.attention(&weights, kv, layer, x))));
    }

    fn delta(&mut self, weights: &DeltaWeights<Self>, state: &mut Self::Recurrent, x: &mut Self::Rows) {
        let (weights, state, x) = (delta(weights), state.clone(), x.clone());
        self.queue(move |cpu| with(&x, |x| with(&state, |state| cpu.delta(&weights, state, x))));
    }

    fn replay(
        &mut self,
        weights: &DeltaWeights<Self>,
        layer: usize,
        traces: &[&Self::Trace],
        state: &mut Self::Recurrent,
    ) {
        let traces: Vec<Self::Trace> = traces.iter().map(|&trace| trace.clone()).collect();
        let (weights, state) = (delta(weights), state.clone());
        self.queue(move |cpu| {
            let traces: Vec<_> = traces.iter().collect();
            with(&state, |state| cpu.replay(&weights, layer, &traces, state));
        });
    }

    fn moe(&mut self, weights: &MoeWeights<Self>, x: &mut Self::Rows) {
        let (weights, x) = (moe(weights), x.clone());
        self.queue(move |cpu| with(&x, |x| cpu.moe(&weights, x)));
    }

    fn head(
        &mut self,
        weights: &HeadWeights<Self>,
        rows: Range<usize>,
        x: &Self::Rows,
        logits: &mut Self::Rows,
    ) {
        let HeadWeights { norm, eps, output } = weights;
        let weights = HeadWeights { norm: norm.clone(), eps: *eps, output: output.clone() };
        let (x, logits) = (x.clone(), logits.clone());
        self.queue(move |cpu| with(&x, |x| with(&logits, |logits| cpu.head(&weights, rows, x, logits))));
    }

    fn finish(
        &mut self,
        states: &mut [Self::Recurrent],
        x: &Self::Rows,
        logits: &Self::Rows,
        out: &mut PassOut<Self>,
    ) -> Result<(), Interrupted> {
        let pass = self.pass.take().expect("a pass has begun");
        std::thread::scope(|scope| {
            let device = scope.spawn(|| {
                self.run(&pass)?;
                let mut found = PassOut::default();
                let cpu = &mut self.cpu;
                let finish = |states: &mut [_]| {
                    with(x, |x| with(logits, |logits| cpu.finish(states, x, logits, &mut found)))
                };
                on_states(states, finish)?;
                let PassOut { logits, hidden, states, traces } = found;
                *out = PassOut { logits, hidden, states, traces };
                Ok(())
            });
            device.join().unwrap()
        })
    }
}

/// Works on the states of all layers, which lie apart here and side by side on the CPU.
fn on_states<T, R>(states: &[Shared<T>], work: impl FnOnce(&mut [T]) -> R) -> R {
    let mut all: Vec<T> = states.iter().map(|state| state.lock().unwrap().take().unwrap()).collect();
    let result = work(&mut all);
    for (state, value) in states.iter().zip(all) {
        *state.lock().unwrap() = Some(value);
    }
    result
}

fn attention(weights: &AttentionWeights<Late>) -> AttentionWeights<Cpu> {
    let AttentionWeights { shape, norm, query, key, value, bias, output, query_norm, key_norm } = weights;
    let bias = bias.as_ref().map(|AttentionBias { query, key, value }| AttentionBias {
        query: query.clone(),
        key: key.clone(),
        value: value.clone(),
    });
    AttentionWeights {
        shape: *shape,
        norm: norm.clone(),
        query: query.clone(),
        key: key.clone(),
        value: value.clone(),
        bias,
        output: output.clone(),
        query_norm: query_norm.clone(),
        key_norm: key_norm.clone(),
    }
}

fn delta(weights: &DeltaWeights<Late>) -> DeltaWeights<Cpu> {
    let DeltaWeights { shape, norm, projection, ba, conv, decay, dt_bias, output_norm, output } = weights;
    let projection = match projection {
        DeltaProjection::Grouped(matrix) => DeltaProjection::Grouped(matrix.clone()),
        DeltaProjection::Split { channels, z } => {
            DeltaProjection::Split { channels: channels.clone(), z: z.clone() }
        }
    };
    DeltaWeights {
        shape: *shape,
        norm: norm.clone(),
        projection,
        ba: ba.clone(),
        conv: conv.clone(),
        decay: decay.clone(),
        dt_bias: dt_bias.clone(),
        output_norm: output_norm.clone(),
        output: output.clone(),
    }
}

fn moe(weights: &MoeWeights<Late>) -> MoeWeights<Cpu> {
    let MoeWeights { norm, eps, routed, shared } = weights;
    let routed = routed.as_ref().map(|routed| RoutedWeights {
        router: routed.router.clone(),
        experts: routed.experts.clone(),
        top_k: routed.top_k,
        normalize: routed.normalize,
    });
    let expert = |ExpertWeights { gate, up, down }: &ExpertWeights<Late>| ExpertWeights {
        gate: gate.clone(),
        up: up.clone(),
        down: down.clone(),
    };
    let shared = shared
        .as_ref()
        .map(|shared| SharedWeights { expert: expert(&shared.expert), gate: shared.gate.clone() });
    MoeWeights { norm: norm.clone(), eps: *eps, routed, shared }
}

/// A pass over the model has more operations: two for each of its layers.
const OPERATIONS_MIN: isize = 8;

/// A session on a device with these faults.
fn session(faults: &Arc<Faults>) -> Session<Late> {
    let dir = ModelDir::open(&reference::folder("long")).unwrap();
    load::session(open(&dir, faults).unwrap())
}

fn open(dir: &ModelDir, faults: &Arc<Faults>) -> Result<Model<Late>> {
    let backend = Late::with_faults(load::cpu(1, 8, Precision::F32), faults.clone());
    Model::load(dir, Config::read(dir)?, load::options(256, 256), backend)
}

fn prompt(len: u32) -> Vec<u32> {
    (0..len).map(|i| i * 7 % 48).collect()
}

#[test]
fn absent_experts_compute_the_same_to_the_bit() {
    for case in ["fp8", "odd", "long"] {
        let tokens = [1, 2, 3, 4, 5, 6, 7, 8, 9];
        let mut here = reference::model::<Cpu>(case, 2, 8);
        let mut late = reference::model::<Late>(case, 2, 8);
        assert_eq!(
            reference::run(&mut here, &tokens, 4, 9),
            reference::run(&mut late, &tokens, 4, 9),
            "{case}"
        );
    }
}

#[test]
fn more_absent_experts_than_are_fetched_at_a_time_compute_the_same() {
    let dir = tiny::folder_with(&["linear_attention", "full_attention"], 100);
    let dir = ModelDir::open(dir.path()).unwrap();
    let tokens: Vec<u32> = (0..120).map(|i| i * 7 % 256).collect();
    let mut late = load::session(open(&dir, &Arc::default()).unwrap());
    late.sync(&tokens, &[], &Cancel::new()).unwrap();
    let mut here = load::session(load::model::<Cpu>(&dir, 2, 8, load::options(256, 256)).unwrap());
    here.sync(&tokens, &[], &Cancel::new()).unwrap();
    assert_eq!(late.logits(), here.logits());
}

#[test]
fn a_pass_that_is_cancelled_after_any_operation_changes_nothing() {
    for operation in 0.. {
        let faults = Arc::<Faults>::default();
        let mut session = session(&faults);
        session.sync(&prompt(40), &[], &Cancel::new()).unwrap();
        faults.cancel.store(operation, Ordering::Relaxed);
        let cancel = Cancel::new();
        let other = [prompt(40), vec![9, 9, 9]].concat();
        let synced = session.sync(&other, &[], &cancel).unwrap();
        assert_eq!(synced.cancelled, cancel.is_cancelled(), "what was skipped is not committed");
        if !synced.cancelled {
            assert!(operation > OPERATIONS_MIN, "there are so few operations");
            break;
        }
        let expected = session.sync(&prompt(41), &[], &Cancel::new()).unwrap();
        assert_eq!(expected.reused, 40);
        let mut fresh = load::session(reference::model::<Cpu>("long", 1, 8));
        fresh.sync(&prompt(41), &[], &Cancel::new()).unwrap();
        assert!(reference::distance(session.logits(), fresh.logits()) < 1e-3);
    }
}

#[test]
fn a_fault_in_any_operation_is_the_error_of_its_request() {
    for operation in 0.. {
        let faults = Arc::<Faults>::default();
        let mut session = session(&faults);
        faults.operation.store(operation, Ordering::Relaxed);
        match session.sync(&prompt(40), &[], &Cancel::new()) {
            Ok(_) => return assert!(operation > OPERATIONS_MIN, "there are so few operations"),
            Err(error) => {
                assert!(error.is::<DeviceFailure>());
                assert!(format!("{error:#}").contains("a fault that the test wants"), "{error:#}");
            }
        }
    }
}

#[test]
fn experts_that_cannot_be_read_are_the_error_of_the_request() {
    let faults = Arc::<Faults>::default();
    let mut session = session(&faults);
    faults.fetch.store(2, Ordering::Relaxed);
    let error = session.sync(&prompt(40), &[], &Cancel::new()).unwrap_err();
    let text = format!("{error:#}");
    assert!(text.contains("the weights of an expert cannot be read: a disk that the test wants"), "{text}");
}

#[test]
fn a_model_that_does_not_fit_says_so() {
    let dir = ModelDir::open(&reference::folder("long")).unwrap();
    for allocation in 0.. {
        let faults = Arc::<Faults>::default();
        faults.allocation.store(allocation, Ordering::Relaxed);
        let options = SessionOptions { state_bytes_max: 1 << 20 };
        match open(&dir, &faults).and_then(|model| Session::new(model, options)) {
            Ok(_) => return assert!(allocation > 50, "there are so few allocations"),
            Err(error) => assert!(format!("{error:#}").contains("out of memory"), "{error:#}"),
        }
    }
}

/// Asks `engine` for two tokens.
pub fn ask(engine: &Engine) -> Result<Vec<Generated>> {
    ask_after(engine, vec![1, 2, 3])
}

/// Asks `engine` for two tokens after a prompt.
pub fn ask_after(engine: &Engine, prompt: Vec<u32>) -> Result<Vec<Generated>> {
    let (send, receive) = mpsc::channel();
    engine.submit(Request {
        key: "a".into(),
        priority: Priority::Interactive,
        not_before: None,
        task: Task::greedy(prompt, 2),
        cancel: Cancel::new(),
        listener: Box::new(move |event| {
            if let Event::Done(result) = event {
                send.send(result).unwrap();
            }
        }),
    });
    receive.recv().unwrap()
}

#[test]
fn the_engine_opens_the_session_again() {
    let dir = tiny::folder();
    let dir = ModelDir::open(dir.path()).unwrap();
    let (faults, opened) = (Arc::<Faults>::default(), Arc::new(AtomicUsize::new(0)));
    let fails_again = Arc::new(AtomicBool::new(false));
    let session = load::session(open(&dir, &faults).unwrap());
    let engine = {
        let (faults, opened, fails_again) = (faults.clone(), opened.clone(), fails_again.clone());
        let tokenizer = load::tokenizer(&dir);
        Engine::start(session, tokenizer, move || {
            opened.fetch_add(1, Ordering::Relaxed);
            let session = load::session(open(&dir, &faults)?);
            if fails_again.load(Ordering::Relaxed) {
                faults.operation.store(0, Ordering::Relaxed);
            }
            Ok(session)
        })
    };
    // The first operation: nothing was shown yet.
    let expected = ask(&engine).unwrap().remove(0).ids;
    for times in 1..=3 {
        faults.operation.store(0, Ordering::Relaxed);
        assert_eq!(ask(&engine).unwrap().remove(0).ids, expected, "the request is not lost");
        assert_eq!(opened.load(Ordering::Relaxed), times);
    }
    fails_again.store(true, Ordering::Relaxed);
    faults.operation.store(0, Ordering::Relaxed);
    let error = format!("{:#}", ask(&engine).unwrap_err());
    assert!(error.contains("the device failed: a fault that the test wants"), "{error}");
    faults.operation.store(-1, Ordering::Relaxed);
    let error = format!("{:#}", ask(&engine).unwrap_err());
    assert!(error.contains("a fault that the test wants") && error.contains("opened again in"), "{error}");
    assert_eq!(opened.load(Ordering::Relaxed), 4, "a device that fails right away is left alone for a while");
    fails_again.store(false, Ordering::Relaxed);
    let started = Instant::now();
    let found = loop {
        match ask(&engine) {
            Ok(mut found) => break found.remove(0).ids,
            Err(error) => assert!(started.elapsed() < Duration::from_secs(60), "{error:#}"),
        }
        thread::sleep(Duration::from_millis(50));
    };
    assert!(found == expected && opened.load(Ordering::Relaxed) == 5);
}
