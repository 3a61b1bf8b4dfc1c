//! Long prompts on a GPU, on the emulated driver, where not all experts fit: each of the others passes through its memory
//! once.

use std::io;
use std::sync::Arc;
use std::thread;

use fimd::base::Cancel;
use fimd::base::dtype::DType;
use fimd::base::random::Mmix;
use fimd::bench::random::RandomTensor;
use fimd::compute::cpu::{Cpu, CpuOptions};
use fimd::compute::cuda::{Cuda, CudaOptions};
use fimd::compute::experts::{
    DeviceVisits, ExpertBytes, ExpertId, ExpertParts, ExpertShape, MatrixLayout, Part, Ranking,
};
use fimd::compute::{
    Backend, Interrupted, Keep, MoeWeights, Pass, PassOut, PassSizes, Precision, RoutedWeights, StoredMatrix,
};
use fimd::decode::Generated;
use fimd::decode::sample::log_softmax;
use fimd::format::{Bytes, ModelDir, Tensor};
use fimd::model::experts::ExpertOptions;
use fimd::model::{LogitRows, Model};
use fimd::serve::Engine;

use crate::cuda::build::PRODUCT;
use crate::cuda::child;
use crate::cuda::device::emulator;
use crate::{gpu, late, load, reference, tiny};

/// Rows of a prompt, which visit all experts of the reference checkpoints.
const ROWS: usize = 48;
/// A prompt is swept.
const SWEPT: Option<usize> = Some(16);
const NEVER: Option<usize> = Some(usize::MAX);

fn options(expert_slots: usize, ring_bytes: usize, sweep_rows_min: Option<usize>) -> CudaOptions {
    let cpu = load::cpu(2, 8, Precision::F32);
    let options = gpu::options_with(expert_slots, Precision::F32, Precision::F32, cpu);
    CudaOptions { ring_bytes, sweep_rows_min, ..options }
}

/// Device memory for a ring of four berths that hold an expert of a checkpoint each, or two small ones.
fn ring_bytes(case: &str) -> usize {
    4 * if case == "qwen3_moe_fp8" { 64 << 10 } else { 8 << 10 }
}

fn prompt() -> Vec<u32> {
    (0..ROWS as u32).map(|i| 1 + i * i % 31).collect()
}

/// Log-probabilities of each token of a prompt and of some that follow.
fn log_probabilities<B: Backend>(model: &mut Model<B>) -> (Vec<f32>, Vec<u32>) {
    let (mut logits, ids) = reference::run(model, &prompt(), ROWS, 6);
    logits.chunks_exact_mut(model.config().vocab).for_each(log_softmax);
    (logits, ids)
}

/// What the CPU computes, without rounding activations.
fn on_the_cpu(case: &str) -> (Vec<f32>, Vec<u32>) {
    let cpu = Cpu::new(CpuOptions { exact: true, ..load::cpu(2, 8, Precision::F32) });
    let dir = ModelDir::open(&reference::folder(case)).unwrap();
    let config = fimd::model::Config::read(&dir).unwrap();
    log_probabilities(&mut Model::load(&dir, config, load::options(256, 256), cpu).unwrap())
}

fn sweeps_give_what_the_cpu_computes(cases: &[&str]) {
    for case in cases {
        let (expected, ids) = on_the_cpu(case);
        for slots in [0, 2] {
            let mut model = gpu::model_with(case, options(slots, ring_bytes(case), SWEPT));
            let (found, other_ids) = log_probabilities(&mut model);
            let error = reference::distance(&expected, &found);
            println!("{case}, {slots} slots: {error}");
            assert!(error <= 1e-2, "{case}, {slots} slots: {error}");
            assert_eq!(ids, other_ids, "{case}, {slots} slots");
            assert!(model.expert_visits().unwrap().streamed > 0, "{case}, {slots} slots");
        }
    }
}

#[test]
fn a_swept_prompt_gives_what_the_cpu_computes() {
    child::on_device(PRODUCT, || {
        let cases = ["qwen3_moe_q8_0", "long", "qwen3_5_moe", "qwen3_5_moe_mixed", "qwen3_moe_fp8"];
        sweeps_give_what_the_cpu_computes(&cases);
    });
}

#[test]
fn a_swept_prompt_waits_for_late_copies() {
    child::with_driver(PRODUCT, &[("LATE_US", "300"), ("ORDER", "7")], || {
        sweeps_give_what_the_cpu_computes(&["qwen3_moe_q8_0", "qwen3_5_moe_mixed"]);
    });
}

#[test]
fn a_swept_prompt_does_without_page_locked_memory() {
    child::with_driver(PRODUCT, &[("PAGE_LOCK", "0")], || {
        sweeps_give_what_the_cpu_computes(&["qwen3_moe_q8_0"]);
    });
}

#[test]
fn a_swept_prompt_is_copied_from_where_experts_are() {
    child::with_driver(PRODUCT, &[("LATE_US", "300"), ("ORDER", "7")], || {
        let case = "qwen3_moe_q8_0";
        let (expected, ids) = on_the_cpu(case);
        let experts = ExpertOptions { locks: true, ..ExpertOptions::MAPPED };
        let mut model = gpu::open_with(case, options(2, ring_bytes(case), SWEPT), experts);
        for _ in 0..30 {
            let (found, other_ids) = log_probabilities(&mut model);
            assert!(reference::distance(&expected, &found) <= 1e-2);
            assert_eq!(ids, other_ids);
            let DeviceVisits { copied, streamed, in_place, .. } = model.expert_visits().unwrap();
            // More than those that came to slots for tokens alone.
            if in_place > copied {
                return assert!(in_place <= copied + streamed);
            }
        }
        panic!("{:?}", model.expert_visits());
    });
}

#[test]
fn only_passes_above_the_threshold_are_swept() {
    child::on_device(PRODUCT, || {
        let case = "qwen3_moe_q8_0";
        let streamed = |rows_min| {
            let mut model = gpu::model_with(case, options(3, ring_bytes(case), rows_min));
            log_probabilities(&mut model);
            model.expert_visits().unwrap().streamed
        };
        assert_eq!(streamed(Some(ROWS + 1)), 0);
        assert_eq!(streamed(NEVER), 0);
        assert_eq!(streamed(None), 0, "fewer than what is assumed as long as nothing is measured");
        assert!(streamed(Some(ROWS)) > 0);
        // Where nothing can pass, nothing does.
        let mut model = gpu::model_with(case, options(3, 0, SWEPT));
        log_probabilities(&mut model);
        assert_eq!(model.expert_visits().unwrap().streamed, 0);
        // An expert that is larger than a berth stays on the host.
        let mut model = gpu::model_with(case, options(3, 4 << 10, SWEPT));
        let (found, _) = log_probabilities(&mut model);
        assert_eq!(model.expert_visits().unwrap().streamed, 0);
        assert!(reference::distance(&found, &on_the_cpu(case).0) < 0.2, "the CPU rounds activations");
    });
}

/// Copies to the device of a pass that sweeps all experts of a model whose experts have a berth each: the block table, the
/// angles and the tokens; in each layer the visits by expert; tiles of each expert that is visited; and the experts.
fn copies(layers: u64, visits: &DeviceVisits) -> u64 {
    3 + layers + visits.visits + visits.streamed
}

#[test]
fn each_expert_is_copied_once() {
    child::with_driver(PRODUCT, &[], || {
        let case = "qwen3_moe_q8_0";
        let (layers, experts) = (3, 8);
        let mut model = gpu::model_with(case, options(0, ring_bytes(case), SWEPT));
        let mut sequence = model.sequence().unwrap();
        let before = emulator::calls("cuMemcpyHtoDAsync_v2");
        let (cancel, mut logits) = (Cancel::new(), Vec::new());
        reference::forward(&mut model, &mut sequence, &prompt(), LogitRows::Last, &cancel, &mut logits)
            .unwrap();
        let visits = model.expert_visits().unwrap();
        // Some may have been copied ahead that are not visited.
        assert!(visits.visits <= visits.streamed && visits.streamed <= layers * experts, "{visits:?}");
        assert_eq!(emulator::calls("cuMemcpyHtoDAsync_v2") - before, copies(layers, &visits));
    });
}

#[test]
fn experts_of_the_next_layer_are_copied_while_this_one_is_computed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("trace");
    // Kernels are late, the streams for copies are not.
    let settings = [("TRACE", path.to_str().unwrap()), ("LATE_US", "3000"), ("LATE_STREAM", "2")];
    child::with_driver(PRODUCT, &settings, || {
        let case = "qwen3_moe_q8_0";
        let mut model = gpu::model_with(case, options(0, ring_bytes(case), SWEPT));
        let mut sequence = model.sequence().unwrap();
        let (cancel, mut logits) = (Cancel::new(), Vec::new());
        let path = std::env::var("EMULATED_CUDA_TRACE").unwrap();
        let before = std::fs::read_to_string(&path).unwrap().len();
        reference::forward(&mut model, &mut sequence, &prompt(), LogitRows::Last, &cancel, &mut logits)
            .unwrap();
        let trace = std::fs::read_to_string(&path).unwrap();
        let counts: Vec<usize> = trace[before..]
            .split("kernel:route\n")
            .map(|part| part.matches("cuMemcpyHtoDAsync_v2 = 0").count())
            .collect();
        println!("copies before each router and after the last: {counts:?}");
        let visits = model.expert_visits().unwrap();
        assert_eq!(counts.iter().sum::<usize>() as u64, copies(3, &visits));
        // As many as there are berths are copied before it is known who is visited.
        assert_eq!(counts[0], 3 + 4);
        assert!(counts[3] <= 1 + 8 + 4, "of the last layer at most four experts are left for later");
    });
}

#[test]
fn experts_that_pass_come_to_slots() {
    child::on_device(PRODUCT, || {
        let case = "qwen3_moe_q8_0";
        let slots = 6;
        let mut model = gpu::model_with(case, options(slots, ring_bytes(case), SWEPT));
        let (first, ids) = log_probabilities(&mut model);
        let before = model.expert_visits().unwrap();
        let (second, other_ids) = log_probabilities(&mut model);
        let DeviceVisits { visits, hits, streamed, .. } = model.expert_visits().unwrap();
        assert!(reference::distance(&first, &second) < 1e-3 && ids == other_ids);
        let (hits, streamed) = (hits - before.hits, streamed - before.streamed);
        println!("{hits} hits, {streamed} streamed of {}", visits - before.visits);
        assert!(
            0 < streamed && streamed <= 3 * (8 - slots as u64),
            "free slots are given to experts that pass"
        );
        assert!(hits >= 3 * slots as u64);
    });
}

#[test]
fn a_cancelled_sweep_ends_within_a_layer() {
    child::with_driver(PRODUCT, &[("LATE_US", "1000")], || {
        let case = "long";
        let mut model = gpu::model_with(case, options(2, ring_bytes(case), SWEPT));
        let (expected, ids) = log_probabilities(&mut model);
        let mut sequence = model.sequence().unwrap();
        let (cancel, routed) = (Cancel::new(), emulator::executions("route"));
        let layers = model.config().moe_shapes().count() as u64;
        let other = cancel.clone();
        let canceller = thread::spawn(move || {
            while emulator::executions("route") == routed {
                thread::yield_now();
            }
            other.cancel();
        });
        let mut logits = Vec::new();
        let done =
            reference::forward(&mut model, &mut sequence, &prompt(), LogitRows::Last, &cancel, &mut logits);
        canceller.join().unwrap();
        assert!(matches!(done, Err(Interrupted::Cancelled)));
        let ran = emulator::executions("route") - routed;
        assert!(ran <= 2 && ran < layers, "{ran} of {layers} layers");
        assert_eq!(sequence.len(), 0);
        // Slots that were promised to experts which did not come are not believed to have them.
        let (found, other_ids) = log_probabilities(&mut model);
        assert!(reference::distance(&found, &expected) < 1e-3 && ids == other_ids);
    });
}

/// Asks `engine` for two tokens after a long prompt.
fn ask(engine: &Engine) -> anyhow::Result<Vec<Generated>> {
    late::ask_after(engine, (0..220).map(|i| 97 + i % 26).collect())
}

/// GPU memory that holds all of a model but most of its experts, in bytes.
const BUDGET: u64 = 10 << 20;

/// Such a model on the CPU and on the GPU.
fn engines() -> (tempfile::TempDir, Engine, Engine) {
    let dir = tiny::folder_with(&["full_attention", "full_attention"], 64);
    let on_cpu = gpu::spec(dir.path(), Some(0)).serve().unwrap();
    let on_gpu = gpu::spec(dir.path(), Some(BUDGET)).serve().unwrap();
    assert_eq!(on_gpu.info.as_ref().unwrap().kernels, "Emulated GPU");
    (dir, on_cpu.engine, on_gpu.engine)
}

#[test]
fn the_program_sweeps_within_its_budget() {
    child::with_driver(PRODUCT, &[], || {
        let (_dir, on_cpu, on_gpu) = engines();
        let expected = ask(&on_cpu).unwrap().remove(0).ids;
        assert_eq!(ask(&on_gpu).unwrap().remove(0).ids, expected);
        assert!(emulator::executions("combine") >= 2, "both layers are swept");
        let peak = emulator::peak_memory();
        assert!(peak <= BUDGET, "{peak} bytes");
    });
}

#[test]
fn a_copy_that_fails_in_a_sweep_loses_no_request() {
    child::with_driver(PRODUCT, &[], || {
        let (_dir, on_cpu, on_gpu) = engines();
        let expected = ask(&on_cpu).unwrap().remove(0).ids;
        let next = emulator::calls("cuMemcpyHtoDAsync_v2") + 12;
        emulator::set("FAULTS", &format!("cuMemcpyHtoDAsync_v2#{next}=719"));
        let before = emulator::executions("combine");
        assert_eq!(ask(&on_gpu).unwrap().remove(0).ids, expected);
        assert!(emulator::executions("combine") < before + 2, "it failed in the middle");
        assert!(emulator::calls("cuMemcpyHtoDAsync_v2") >= next);
        let swept = emulator::executions("combine");
        assert_eq!(ask(&on_gpu).unwrap().remove(0).ids, expected, "the CPU has taken over");
        assert_eq!(emulator::executions("combine"), swept);
    });
}

/// Experts in memory.
struct InMemory(Vec<ExpertParts>);

impl ExpertBytes for InMemory {
    fn resident(&self, id: ExpertId) -> Option<ExpertParts> {
        self.0.get(id.expert as usize).cloned()
    }

    fn fetch(&self, _: &[ExpertId], _: &mut [u8]) -> io::Result<()> {
        unreachable!("all are in memory")
    }

    fn is_told(&self) -> bool {
        false
    }

    fn visited(&self, _: usize, _: Ranking) {}
}

/// What a mixture of experts has.
const SIZES: PassSizes = PassSizes {
    rows_max: 17,
    positions_max: 17,
    hidden: 256,
    vocab: 8,
    attention: None,
    attention_layers: 0,
    delta: None,
    delta_layers: 0,
    dense_width: 0,
    experts: 2,
    top_k: 1,
    expert_width: 256,
};

fn backend(options: CudaOptions) -> Cuda {
    let mut backend = gpu::opened(options);
    backend.prepare(&SIZES).unwrap();
    backend
}

/// `x + experts(norm(x))` for experts of a type.
fn mixture([resident, swept]: [&mut Cuda; 2], dtype: DType) -> [Vec<f32>; 2] {
    let PassSizes { rows_max: rows, hidden, experts, top_k, expert_width: width, .. } = SIZES;
    let scale_block = (dtype == DType::F8E4M3).then_some([4, 24]);
    let matrix = |rows, cols| MatrixLayout { rows, cols, dtype, scale_block };
    let shape = ExpertShape {
        experts,
        matrices: [matrix(width, hidden), matrix(width, hidden), matrix(hidden, width)],
    };
    let first_seed = gpu::seed();
    let mut seed = first_seed;
    let mut part = |layout: &MatrixLayout| {
        let mut bytes = vec![0; layout.value_bytes().unwrap()];
        seed += 1;
        let mut random = Mmix(seed);
        if scale_block.is_some() {
            // What has all bits but the sign is no number.
            bytes.iter_mut().for_each(|byte| *byte = (random.below(127) | random.below(2) << 7) as u8);
        } else {
            RandomTensor::new(dtype, 0.1, seed).fill(0, &mut bytes);
        }
        let scales = (0..layout.scale_bytes() / 4).flat_map(|_| (0.001 * random.unit()).to_le_bytes());
        Part { values: Bytes::from(bytes), scales: Bytes::from(scales.collect::<Vec<u8>>()) }
    };
    let parts: Vec<ExpertParts> = (0..experts).map(|_| shape.matrices.each_ref().map(&mut part)).collect();
    let mut random = Mmix(first_seed + 9);
    let mut floats = |count: usize| -> Vec<f32> { (0..count).map(|_| random.unit()).collect() };
    let router: Vec<u8> = floats(experts * hidden).iter().flat_map(|value| value.to_le_bytes()).collect();
    let values = Tensor {
        name: Arc::from("router"),
        dtype: DType::F32,
        shape: vec![experts, hidden],
        bytes: Bytes::from(router),
    };
    let router = StoredMatrix { rows: experts, cols: hidden, values, scale: None };
    let input = floats(rows * hidden);
    [resident, swept].map(|backend| {
        let routed = RoutedWeights {
            router: backend.matrix(router.clone()).unwrap(),
            experts: backend.experts(0, shape, Arc::new(InMemory(parts.clone()))).unwrap(),
            top_k,
            normalize: true,
        };
        let norm = backend.vector(vec![1.0; hidden]).unwrap();
        let weights = MoeWeights { norm, eps: 1e-6, routed: Some(routed), shared: None };
        let (mut x, none) = (backend.rows(rows, hidden).unwrap(), backend.rows(1, 8).unwrap());
        let (cancel, all) = (Cancel::new(), 0..rows);
        let keep = Keep { traced: std::slice::from_ref(&all), ..Keep::default() };
        backend.begin(&Pass { start: 0, rows, blocks: &[], cancel: &cancel, keep });
        backend.load(&input, &mut x);
        backend.moe(&weights, &mut x);
        let mut out = PassOut::default();
        backend.finish(&mut [], &x, &none, &mut out).unwrap();
        out.hidden
    })
}

#[test]
fn experts_of_every_type_pass() {
    child::on_device(PRODUCT, || {
        let mut resident = backend(options(usize::MAX, 0, None));
        let mut swept = backend(options(0, 4 << 20, SWEPT));
        for dtype in DType::ALL {
            let [expected, found] = mixture([&mut resident, &mut swept], dtype);
            let largest = expected.iter().fold(0f32, |max, value| max.max(value.abs()));
            let error = reference::distance(&expected, &found);
            assert!(largest > 0.0 && error <= 1e-5 * largest, "{dtype}: {error} of {largest}");
        }
    });
}
