//! The CUDA backend on the emulated driver: products with every weight type, and the program as users run it.

use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fimd::base::Cancel;
use fimd::base::dtype::DType;
use fimd::base::random::Mmix;
use fimd::bench::random::RandomTensor;
use fimd::compute::Precision;
use fimd::compute::cpu::{Cpu, CpuOptions, Level};
use fimd::compute::cuda::{Cuda, CudaOptions, HostTables, probe};
use fimd::compute::experts::DeviceVisits;
use fimd::compute::logits::{IdSet, LogitForm, Logits};
use fimd::compute::{
    Backend, BlockScale, HeadWeights, Keep, Pass, PassOut, PassSizes, StoredMatrix, TableUse,
};
use fimd::decode::drafts::DraftCost;
use fimd::decode::{self, Task};
use fimd::format::{Bytes, Tensor};
use fimd::model::experts::ExpertOptions;
use fimd::model::experts::trace::{Recorder, Trace};
use fimd::model::layout::Types;
use fimd::model::{Model, ModelOptions};
use fimd::resident::{ExpertMemory, GpuPlan, Spec};
use serde_json::Value;

use crate::cuda::build::{self, PRODUCT};
use crate::cuda::child;
use crate::cuda::device::emulator;
use crate::load::TestBackend;
use crate::{late, paths, reference, tiny};

/// Device memory of a test's backend, in bytes.
const BYTES: usize = 128 << 20;

/// Whether there is a GPU: that of this machine where tests are to run on it, else the emulated one, unless there is no
/// compiler for it.
pub fn is_there() -> bool {
    if child::is_own() {
        return probe::probe().map(|_| true).expect("a GPU to run tests on");
    }
    build::load_in_process(PRODUCT)
        && probe::probe().inspect_err(|error| println!("skipped: {error}")).is_ok()
}

/// With these slots for the experts of each layer, and nothing that others pass through.
pub fn options_with(
    expert_slots: usize,
    precision: Precision,
    kv: Precision,
    cpu: CpuOptions,
) -> CudaOptions {
    let (ring_bytes, sweep_rows_min, graphs) = (0, None, true);
    let host_tables = HostTables::None;
    CudaOptions {
        bytes: BYTES,
        precision,
        kv,
        expert_slots,
        ring_bytes,
        sweep_rows_min,
        graphs,
        host_tables,
        cpu,
    }
}

/// A backend whose memory has no number in it: what is read before it is written is seen.
pub fn opened(options: CudaOptions) -> Cuda {
    probe::probe().unwrap();
    let backend = Cuda::new(options).unwrap();
    // The emulated driver does the same.
    if child::is_own() {
        backend.poison().unwrap();
    }
    backend
}

/// What the seeds of random inputs begin with: always the same, unless `FIMD_TEST_SEED` says another.
pub fn seed() -> u64 {
    let seed = std::env::var("FIMD_TEST_SEED").map_or(0, |seed| seed.parse().expect("a number"));
    println!("FIMD_TEST_SEED={seed}");
    seed
}

/// What the GPU calls itself.
fn name() -> String {
    if child::is_own() { probe::probe().unwrap().name } else { "Emulated GPU".into() }
}

impl TestBackend for Cuda {
    /// Emulated kernels are slow.
    const STEPS_DIVISOR: usize = 5;

    fn open(options: CpuOptions) -> Self {
        let (precision, kv) = (options.precision, Precision::F32);
        opened(options_with(usize::MAX, precision, kv, options))
    }
}

/// `output norm(x)` for rows `x`, `[rows, cols]`.
fn logits<B: Backend>(backend: &mut B, stored: StoredMatrix, x: &[f32]) -> Vec<f32> {
    logits_in(LogitForm::Whole, backend, stored, x, &IdSet::default()).whole
}

/// The same in this form, where these ids can be chosen.
pub fn logits_in<B: Backend>(
    form: LogitForm,
    backend: &mut B,
    stored: StoredMatrix,
    x: &[f32],
    allowed: &IdSet,
) -> Logits {
    let (rows, cols) = (stored.rows, stored.cols);
    let batch = x.len() / cols;
    let sizes = PassSizes {
        rows_max: batch,
        positions_max: batch,
        hidden: cols,
        vocab: rows,
        ..PassSizes::default()
    };
    backend.prepare(&sizes).unwrap();
    let norm = backend.vector(vec![1.0; cols]).unwrap();
    let weights =
        HeadWeights { norm, eps: 1e-6, output: backend.table(stored, TableUse::Head).unwrap() }.into();
    let (mut input, mut products) = (backend.rows(batch, cols).unwrap(), backend.rows(batch, rows).unwrap());
    let (cancel, keep) = (Cancel::new(), Keep { logits: form, ..Keep::default() });
    backend.allow(allowed);
    backend.begin(&Pass { start: 0, rows: batch, blocks: &[], cancel: &cancel, keep });
    backend.load(x, &mut input);
    backend.head(&weights, 0..batch, &input, &mut products);
    let mut out = PassOut::default();
    backend.finish(&mut [], &input, &products, &mut out).unwrap();
    out.logits
}

#[test]
fn every_weight_type_is_multiplied_as_on_the_cpu() {
    if !is_there() {
        return;
    }
    let seed = seed();
    for dtype in DType::ALL {
        // Whole blocks, and more of them than lanes of a warp take at once; rows that fill no block of threads.
        let (rows, cols) = if dtype.is_blocked() { (37, 512) } else { (37, 83) };
        let mut bytes = vec![0; dtype.bytes(cols).unwrap() * rows];
        let mut random = Mmix(seed + 3);
        let scale = (dtype == DType::F8E4M3).then(|| BlockScale {
            values: (0..10 * 4).map(|_| random.unit()).collect(),
            block_rows: 4,
            block_cols: 24,
        });
        if scale.is_some() {
            // Any number but those whose seven lowest bits are all ones, which are none.
            bytes.iter_mut().for_each(|byte| *byte = (random.below(127) | random.below(2) << 7) as u8);
        } else {
            RandomTensor::new(dtype, 0.1, seed + 7).fill(0, &mut bytes);
        }
        let values =
            Tensor { name: Arc::from("m"), dtype, shape: vec![rows, cols], bytes: Bytes::from(bytes) };
        let stored = StoredMatrix { rows, cols, values, scale };
        let x: Vec<f32> = (0..9 * cols).map(|_| random.unit()).collect();
        let options = CpuOptions {
            threads: 1,
            delta_chunk_rows_min: 8,
            level: Level::detect(),
            exact: true,
            repack: false,
            precision: Precision::F32,
            kv: Precision::F32,
        };
        for batch in [1, 9] {
            let x = &x[..batch * cols];
            let expected = logits(&mut Cpu::new(options), stored.clone(), x);
            let found = logits(&mut <Cuda as TestBackend>::open(options), stored.clone(), x);
            let largest = expected.iter().fold(0f32, |max, value| max.max(value.abs()));
            let error = reference::distance(&expected, &found);
            assert!(largest > 0.0 && error <= 1e-5 * largest, "{dtype}, {batch} rows: {error} of {largest}");
        }
    }
}

/// The program with the GPU of this machine where tests are to run on it, else with an emulated one, if there is a compiler
/// for it.
fn program(arguments: &[&str], settings: &[(&str, &str)]) -> Option<Command> {
    let mut command = Command::new(paths::program());
    command.args(arguments).env("FIMD_CONFIG", "").env("FIMD_LOG", "info").env("FIMD_GPU_ENABLED", "true");
    if !child::is_own() {
        command.envs(build::emulator(PRODUCT)?.environment(settings));
    } else if !settings.is_empty() {
        child::skip(&format!("fimd {} with {settings:?}", arguments[0]), "it needs the emulated driver");
        return None;
    }
    Some(command)
}

/// What the program generates after some tokens on a reference checkpoint, and what it logs.
fn generate(case: &str, flags: &[&str], settings: &[(&str, &str)]) -> Option<(String, String)> {
    let model = reference::folder(case);
    let arguments = [
        &[
            "generate",
            "--model",
            model.to_str().unwrap(),
            "--ids",
            "3,1,4,1,5,9",
            "--max-tokens",
            "12",
            "--ignore-eos",
        ],
        flags,
    ]
    .concat();
    let output = program(&arguments, settings)?.output().unwrap();
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{log}");
    Some((String::from_utf8(output.stdout).unwrap(), log))
}

#[test]
fn the_program_generates_on_a_gpu_as_on_the_cpu() {
    for case in ["qwen2_tied", "qwen3_moe_fp8", "long", "qwen3_5_moe"] {
        let Some((on_gpu, log)) = generate(case, &[], &[]) else { return };
        assert!(log.contains(&format!("runs on {}", name())), "{log}");
        let (on_cpu, log) = generate(case, &["--vram-budget", "0"], &[]).unwrap();
        assert!(!log.contains(&name()), "{log}");
        assert_eq!(on_gpu, on_cpu, "{case}");
    }
}

#[test]
fn the_cpu_takes_over_where_the_gpu_cannot() {
    type Case<'a> = (&'a [&'a str], &'a [(&'a str, &'a str)], &'a str);
    let cases: &[Case] = &[
        (&[], &[("DRIVER", "11080")], "the NVIDIA driver is for CUDA 11.8"),
        (&[], &[("CAPABILITY", "7.5")], "has compute capability 7.5"),
        (&[], &[("MEMORY", "514MiB")], "MiB that are free"),
        (&["--vram-budget", "1"], &[], "1 MiB may be used"),
        (&[], &[("FAULTS", "cuMemAlloc_v2#1=2")], "GPU memory cannot be allocated"),
        (&[], &[("FAULTS", "cuModuleLoadDataEx#2=222")], "the driver refuses the kernels"),
        (&[], &[("FAULTS", "cuInit#1=999")], "cuInit failed"),
        (&[], &[("PAGE_LOCK", "0")], "page-locked memory"),
    ];
    for (flags, settings, expected) in cases {
        let Some((found, log)) = generate("qwen2_tied", flags, settings) else { return };
        assert!(log.contains(expected), "{expected}: {log}");
        assert_eq!(found, generate("qwen2_tied", &["--vram-budget", "0"], &[]).unwrap().0, "{expected}");
    }
}

/// A reference checkpoint on a GPU with `slots` slots for the experts of each layer.
fn model_in_slots(case: &str, expert_slots: usize) -> Model<Cuda> {
    let cpu = crate::load::cpu(1, 8, Precision::F32);
    model_with(case, options_with(expert_slots, Precision::F32, Precision::F32, cpu))
}

/// The same with its routing recorded.
fn model_recorded(case: &str, expert_slots: usize, path: &std::path::Path) -> Model<Cuda> {
    let cpu = crate::load::cpu(1, 8, Precision::F32);
    let recorder = Some(Recorder::new(path));
    let experts = ExpertOptions { is_on_device: true, recorder, ..ExpertOptions::MAPPED };
    open_with(case, options_with(expert_slots, Precision::F32, Precision::F32, cpu), experts)
}

/// A reference checkpoint on a GPU.
pub fn model_with(case: &str, options: CudaOptions) -> Model<Cuda> {
    open_with(case, options, ExpertOptions::MAPPED)
}

/// The same with its experts kept in another way.
pub fn open_with(case: &str, options: CudaOptions, experts: ExpertOptions) -> Model<Cuda> {
    let backend = opened(options);
    let dir = fimd::format::ModelDir::open(&reference::folder(case)).unwrap();
    let config = fimd::model::Config::read(&dir).unwrap();
    let options = ModelOptions { experts, ..crate::load::options(256, 256) };
    Model::load(&dir, config, options, backend).unwrap()
}

/// Log-probabilities and greedy tokens with these slots for experts are those with all experts on the GPU.
fn results_are_the_same_with(slots: &[usize]) {
    for case in ["qwen3_moe_q8_0", "long", "qwen3_5_moe"] {
        let tokens = [1, 2, 3, 4, 5, 6, 7, 8, 9];
        let run = |slots| reference::run(&mut model_in_slots(case, slots), &tokens, 4, 9);
        let (all, ids) = run(usize::MAX);
        for &slots in slots {
            let (some, other_ids) = run(slots);
            let error = reference::distance(&all, &some);
            println!("{case}, {slots} slots: {error}");
            // The CPU quantises activations.
            assert!(error < 0.2, "{case}, {slots} slots: {error}");
            assert_eq!(ids, other_ids, "{case}, {slots} slots");
        }
    }
}

#[test]
fn experts_may_be_anywhere() {
    child::on_device(PRODUCT, || results_are_the_same_with(&[0, 1, 3]));
}

#[test]
fn experts_may_be_anywhere_and_copies_late() {
    let settings = [("LATE_US", "300"), ("ORDER", "7")];
    child::with_driver(PRODUCT, &settings, || results_are_the_same_with(&[0, 1, 3]));
}

#[test]
fn experts_may_be_anywhere_without_page_locked_memory() {
    child::with_driver(PRODUCT, &[("PAGE_LOCK", "0")], || results_are_the_same_with(&[0, 1, 3]));
}

#[test]
fn long_prompts_read_experts_on_the_device_once() {
    child::on_device(PRODUCT, || {
        for case in ["qwen3_moe_q8_0", "qwen3_5_moe_mixed", "qwen3_moe_fp8"] {
            let tokens: Vec<u32> = (0..45).map(|i| 1 + i * i % 31).collect();
            let run = |model: &mut _| reference::run(model, &tokens, tokens.len(), 5);
            let cpu = Cpu::new(CpuOptions { exact: true, ..crate::load::cpu(1, 64, Precision::F32) });
            let dir = fimd::format::ModelDir::open(&reference::folder(case)).unwrap();
            let config = fimd::model::Config::read(&dir).unwrap();
            let mut exact = Model::load(&dir, config, crate::load::options(256, 256), cpu).unwrap();
            let (expected, ids) = reference::run(&mut exact, &tokens, tokens.len(), 5);
            let (found, other_ids) = run(&mut model_in_slots(case, usize::MAX));
            let error = reference::distance(&expected, &found);
            println!("{case}: {error}");
            assert!(error < 1e-2, "{case}: {error}");
            assert_eq!(ids, other_ids, "{case}");
        }
        if !child::is_own() {
            assert!(emulator::executions("sort_visits") > 0);
        }
    });
}

/// A model in a mapped file that may be page-locked: log-probabilities and greedy tokens are those with all experts on the GPU,
/// and some experts are copied from the file, or none.
fn results_are_the_same_from_where_experts_are(expects_in_place: bool) {
    let (case, tokens) = ("qwen3_moe_q8_0", [1, 2, 3, 4, 5, 6, 7, 8, 9]);
    let (all, ids) = reference::run(&mut model_in_slots(case, usize::MAX), &tokens, 4, 9);
    let cpu = crate::load::cpu(1, 8, Precision::F32);
    let options = options_with(2, Precision::F32, Precision::F32, cpu);
    let experts = ExpertOptions { is_on_device: true, locks: true, ..ExpertOptions::MAPPED };
    let mut model = open_with(case, options, experts);
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        let (some, other_ids) = reference::run(&mut model, &tokens, 4, 9);
        assert!(reference::distance(&all, &some) < 0.2);
        assert_eq!(ids, other_ids);
        let DeviceVisits { copied, in_place, .. } = model.expert_visits().unwrap();
        if !expects_in_place {
            assert_eq!(in_place, 0);
            break assert!(copied > 0);
        }
        if in_place > 3 {
            break;
        }
        assert!(Instant::now() < until, "{in_place} of {copied} were copied from where they are");
    }
}

#[test]
fn experts_are_copied_from_where_they_are() {
    child::on_device_with(PRODUCT, &[("LATE_US", "100"), ("ORDER", "7")], || {
        results_are_the_same_from_where_experts_are(true);
        if child::is_own() {
            return;
        }
        assert_eq!(emulator::calls("cuMemHostRegister_v2"), emulator::calls("cuMemHostUnregister"));
    });
}

#[test]
fn experts_are_laid_out_where_their_memory_cannot_be_locked() {
    child::with_driver(PRODUCT, &[("FAULTS", "cuMemHostRegister_v2#1=801")], || {
        results_are_the_same_from_where_experts_are(false);
        assert_eq!(emulator::calls("cuMemHostRegister_v2"), 1, "what is refused is not asked for again");
    });
}

#[test]
fn a_token_with_experts_on_both_devices_is_waited_for_once() {
    child::with_driver(PRODUCT, &[], || {
        let mut session = crate::load::session(model_in_slots("qwen3_moe_q8_0", 3));
        let cancel = fimd::base::Cancel::new();
        session.sync(&[3, 1, 4], &[], &cancel).unwrap();
        let before = emulator::calls("cuStreamSynchronize");
        for token in 1..20 {
            session.push(token, &cancel).unwrap();
        }
        assert_eq!(emulator::calls("cuStreamSynchronize"), before + 19);
    });
}

#[test]
fn experts_that_are_visited_often_come_to_slots() {
    child::with_driver(PRODUCT, &[], || {
        let mut model = model_in_slots("qwen3_moe_q8_0", 4);
        reference::run(&mut model, &[1, 2, 3, 4, 5, 6, 7, 8, 9], 1, 40);
        let DeviceVisits { visits, hits, copied, .. } = model.expert_visits().unwrap();
        println!("{hits} of {visits} experts had a slot, {copied} were copied");
        assert!(0 < copied && copied < visits - hits, "the CPU computes with some of the missing ones");
        assert!(hits > visits / 8 && hits < visits);
    });
}

/// A device fails in a layer with slots, perhaps before the message that the host waits for.
fn is_lost(expected: &str) {
    let mut session = crate::load::session(model_in_slots("qwen3_moe_q8_0", 3));
    let cancel = fimd::base::Cancel::new();
    let failed = (1..40).find_map(|token| session.push(token, &cancel).err());
    let error = format!("{:#}", failed.unwrap());
    assert!(error.contains(expected), "{error}");
}

#[test]
fn a_message_that_never_comes_is_not_waited_for() {
    child::with_driver(PRODUCT, &[("FAULTS", "kernel:publish#9=719")], || is_lost("the GPU failed"));
}

#[test]
fn copies_that_cannot_be_enqueued_are_noticed() {
    child::with_driver(PRODUCT, &[("FAULTS", "cuEventRecord#9=719")], || is_lost("cuEventRecord"));
}

/// A model with these budgets of GPU memory, as the daemon opens it.
pub fn spec(model: &std::path::Path, vram_bytes_max: Option<u64>) -> Spec {
    Spec {
        model: Some(model.to_owned()),
        context: Some(256),
        cache_bytes_max: 1 << 22,
        threads: 1,
        level: Level::detect(),
        exact: false,
        repack: false,
        experts: ExpertMemory::default(),
        vram_bytes_max,
        vram_idle: None,
        trace: None,
        remote: None,
    }
}

#[test]
fn a_device_that_is_lost_loses_no_request() {
    child::with_driver(PRODUCT, &[("FAULTS", "kernel:rms_norm#3=719")], || {
        let dir = tiny::folder();
        let on_cpu = late::ask(&spec(dir.path(), Some(0)).serve().unwrap().engine).unwrap();
        assert_eq!(emulator::executions("rms_norm"), 0);
        let served = spec(dir.path(), None).serve().unwrap();
        assert_eq!(served.info.as_ref().unwrap().kernels, "Emulated GPU");
        assert_eq!(late::ask(&served.engine).unwrap()[0].ids, on_cpu[0].ids);
        assert_eq!(emulator::executions("rms_norm"), 3, "the third fails, and the CPU takes over");
        assert_eq!(late::ask(&served.engine).unwrap()[0].ids, on_cpu[0].ids);
        assert_eq!(emulator::executions("rms_norm"), 3);
    });
}

/// Waits until the memory of the device was given back.
fn rest(engine: &fimd::serve::Engine) {
    let started = Instant::now();
    while !engine.gauge().is_resting {
        assert!(started.elapsed() < Duration::from_secs(60), "the engine does not rest");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn memory_of_the_device_is_given_back_and_taken_again() {
    child::with_driver(PRODUCT, &[], || {
        let dir = tiny::folder();
        let free = || probe::probe().unwrap().memory.free;
        let before = free();
        let spec = Spec { vram_idle: Some(Duration::from_millis(300)), ..spec(dir.path(), None) };
        let served = spec.serve().unwrap();
        let loaded = free();
        assert!(loaded < before);
        let first = late::ask(&served.engine).unwrap();
        for _ in 0..2 {
            rest(&served.engine);
            assert_eq!(free(), before, "all of it");
            assert_eq!(served.engine.gauge().usage, Default::default());
            let executions = emulator::executions("rms_norm");
            assert_eq!(late::ask(&served.engine).unwrap()[0].ids, first[0].ids);
            assert!(emulator::executions("rms_norm") > executions, "the GPU computes again");
            assert!(!served.engine.gauge().is_resting && free() == loaded);
        }
        drop(served);
    });
}

#[test]
fn without_an_idle_time_memory_of_the_device_is_kept() {
    child::with_driver(PRODUCT, &[], || {
        let dir = tiny::folder();
        let served = spec(dir.path(), None).serve().unwrap();
        let loaded = probe::probe().unwrap().memory.free;
        late::ask(&served.engine).unwrap();
        std::thread::sleep(Duration::from_secs(2));
        assert!(!served.engine.gauge().is_resting);
        assert_eq!(probe::probe().unwrap().memory.free, loaded);
    });
}

#[test]
fn where_others_took_the_memory_meanwhile_the_cpu_answers() {
    child::with_driver(PRODUCT, &[("FAULTS", "cuMemAlloc_v2#2=2")], || {
        let dir = tiny::folder();
        let spec = Spec { vram_idle: Some(Duration::from_millis(300)), ..spec(dir.path(), None) };
        let served = spec.serve().unwrap();
        let first = late::ask(&served.engine).unwrap();
        rest(&served.engine);
        let executions = emulator::executions("rms_norm");
        assert_eq!(late::ask(&served.engine).unwrap()[0].ids, first[0].ids);
        assert_eq!(emulator::executions("rms_norm"), executions, "the CPU computes");
        rest(&served.engine);
        assert_eq!(late::ask(&served.engine).unwrap()[0].ids, first[0].ids);
        assert!(emulator::executions("rms_norm") > executions, "the GPU does where there is memory again");
    });
}

#[test]
fn routing_is_recorded_wherever_experts_are() {
    child::on_device(PRODUCT, || {
        let dir = tempfile::tempdir().unwrap();
        let trace = |slots: usize| {
            let path = dir.path().join(slots.to_string());
            let mut session = crate::load::session(model_recorded("qwen3_moe_q8_0", slots, &path));
            let cancel = fimd::base::Cancel::new();
            session.sync(&(1..40).collect::<Vec<u32>>(), &[], &cancel).unwrap();
            for token in 2..9 {
                session.push(token, &cancel).unwrap();
            }
            Trace::read(&path).unwrap()
        };
        let all = trace(usize::MAX);
        let top_k = all.header.layers[0].top_k;
        let tokens: Vec<usize> = all.passes.iter().map(|pass| pass[0].len() / top_k).collect();
        assert_eq!(tokens, [39, 1, 1, 1, 1, 1, 1, 1]);
        for slots in [0, 3] {
            let some = trace(slots);
            assert_eq!(some.header, all.header);
            assert_eq!(some.passes.len(), all.passes.len());
            assert_eq!(some.passes[0][0], all.passes[0][0], "before any expert");
            let visits =
                |trace: &Trace| -> Vec<u32> { trace.passes.iter().flatten().flatten().copied().collect() };
            let (some, all) = (visits(&some), visits(&all));
            let same = some.iter().zip(&all).filter(|(a, b)| a == b).count();
            assert!(some.len() == all.len() && same * 10 > all.len() * 9, "{same} of {}", all.len());
        }
    });
}

#[test]
fn a_command_records_routing_on_the_gpu() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("trace");
    let flags = ["--trace", path.to_str().unwrap()];
    let Some((_, log)) = generate("qwen3_moe_q8_0", &flags, &[]) else { return };
    assert!(log.contains(&format!("runs on {}", name())), "{log}");
    assert_eq!(Trace::read(&path).unwrap().passes.len(), 12);
}

#[test]
fn late_copies_and_any_order_of_threads_change_nothing() {
    child::with_driver(PRODUCT, &[("LATE_US", "200"), ("ORDER", "7")], || {
        let dir = tiny::folder();
        let on_cpu = late::ask(&spec(dir.path(), Some(0)).serve().unwrap().engine).unwrap();
        let served = spec(dir.path(), None).serve().unwrap();
        for _ in 0..2 {
            assert_eq!(late::ask(&served.engine).unwrap()[0].ids, on_cpu[0].ids);
        }
        assert!(emulator::executions("rms_norm") > 0);
    });
}

#[test]
fn memory_of_the_device_stays_within_the_budget() {
    child::with_driver(PRODUCT, &[], || {
        let dir = tiny::folder();
        let budget = 48 << 20;
        let served = spec(dir.path(), Some(budget)).serve().unwrap();
        let before = emulator::calls("cuMemAlloc_v2");
        late::ask(&served.engine).unwrap();
        assert_eq!(emulator::calls("cuMemAlloc_v2"), before, "nothing is allocated after loading");
        let peak = emulator::peak_memory();
        assert!(peak > 0 && peak <= budget, "{peak} of {budget}");
    });
}

#[test]
fn a_tensor_is_copied_once() {
    child::on_device(PRODUCT, || {
        probe::probe().unwrap();
        let dir = fimd::format::ModelDir::open(&reference::folder("qwen2_tied")).unwrap();
        let values = dir.tensor("model.embed_tokens.weight").unwrap();
        let (rows, cols) = (values.shape[0], values.shape[1]);
        let stored = StoredMatrix { rows, cols, values, scale: None };
        let mut backend = <Cuda as TestBackend>::open(crate::load::cpu(1, 8, Precision::F32));
        let free = |backend: &Cuda| backend.memory().device.unwrap().free;
        let before = free(&backend);
        let first = backend.matrix(stored.clone()).unwrap();
        let after = free(&backend);
        assert!(before - after >= stored.values.bytes.len() as u64);
        let second = backend.matrix(stored.clone()).unwrap();
        assert_eq!(free(&backend), after, "the head is the embedding");
        drop((first, second));
        assert_eq!(free(&backend), before);
        drop(backend.matrix(stored).unwrap());
    });
}

#[test]
fn a_token_is_waited_for_once() {
    child::with_driver(PRODUCT, &[], || {
        probe::probe().unwrap();
        let mut session = crate::load::session(reference::model::<Cuda>("long", 1, 8));
        let cancel = fimd::base::Cancel::new();
        session.sync(&[3, 1, 4], &[], &cancel).unwrap();
        let before = emulator::calls("cuStreamSynchronize");
        session.push(1, &cancel).unwrap();
        assert_eq!(emulator::calls("cuStreamSynchronize"), before + 1);
    });
}

/// What `fimd plan --json` says with an emulated GPU.
fn planned(flags: &[&str]) -> Option<Value> {
    let output = program(&[&["plan", "--json"], flags].concat(), &[])?.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(serde_json::from_slice(&output.stdout).unwrap())
}

#[test]
fn the_gpu_is_measured() {
    let types = ["q4_k", "f8_e4m3"];
    let arguments = ["bench", "gpu", "--types", &types.join(","), "--json"];
    let Some(mut command) = program(&arguments, &[]) else { return };
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let rates = ["memory_gb_per_s", "link_gb_per_s", "host_gb_per_s", "launch_us", "wait_us"];
    assert!(rates.iter().all(|rate| report["gpu"][rate].as_f64().unwrap() > 0.0), "{report}");
    let kernels = report["kernels"].as_array().unwrap();
    assert_eq!(kernels.len(), types.len());
    for kernel in kernels {
        let share = kernel["gb_per_s"].as_f64().unwrap() / report["gpu"]["memory_gb_per_s"].as_f64().unwrap();
        assert!((kernel["memory_share"].as_f64().unwrap() / share - 1.0).abs() < 1e-6, "{report}");
    }
}

#[test]
fn a_plan_says_what_loading_does() {
    let case = "qwen3_moe_q8_0";
    let model = reference::folder(case);
    let model = model.to_str().unwrap();
    let budget = ["--vram-budget", "6"];
    let Some(plan) = planned(&[&["--model", model], &budget[..]].concat()) else { return };
    let gpu = &plan["machine"]["gpu"];
    let (slots, experts) = (gpu["slots"].as_u64().unwrap(), gpu["experts"].as_u64().unwrap());
    assert!((1..=experts).contains(&slots), "{plan}");
    assert_eq!(plan["place"] == "gpu", slots == experts, "{plan}");
    let (_, log) = generate(case, &budget, &[]).unwrap();
    let trunk = gpu["trunk_bytes"].as_u64().unwrap() >> 20;
    let expected = format!("{trunk} MiB of weights that every token reads");
    let in_slots = format!("({slots} of {experts} in each layer)");
    assert!(log.contains(&expected) && log.contains(&in_slots), "{gpu}: {log}");
    for rate in ["weights_per_s", "macs_per_s", "link_per_s", "launch_s", "wait_s"] {
        assert!(gpu["rates"][rate].as_f64().unwrap() > 0.0, "{gpu}");
    }
    assert!(plan["text"]["tokens_per_s"].as_f64().unwrap() > 0.0);
}

#[test]
fn a_plan_takes_of_the_device_what_loading_takes() {
    child::with_driver(PRODUCT, &[], || {
        let dir = tiny::folder();
        let spec = spec(dir.path(), Some(48 << 20));
        let free = probe::probe().unwrap().memory.free;
        let opened = fimd::format::ModelDir::open(dir.path()).unwrap();
        let config = fimd::model::Config::read(&opened).unwrap();
        let plan = spec.gpu_plan(&Types::Files(&opened), &config, free).unwrap();
        spec.open().unwrap();
        // The driver takes whole 512 bytes.
        assert_eq!(emulator::peak_memory(), plan.taken_bytes().next_multiple_of(512));
        let tiny = Spec { vram_bytes_max: Some(1 << 20), ..spec };
        let refused = tiny.gpu_plan(&Types::Files(&opened), &config, free).unwrap_err().to_string();
        assert!(refused.contains("1 MiB may be used"), "{refused}");
    });
}

#[test]
fn the_doctor_finds_a_gpu() {
    let found = match child::is_own() {
        true => format!("{}, compute capability", name()),
        false => "Emulated GPU, compute capability 8.6, driver for CUDA 12.2".into(),
    };
    for (settings, expected) in
        [(&[][..], &*found), (&[("DRIVER", "11080")][..], "the NVIDIA driver is for CUDA 11.8")]
    {
        let Some(mut command) = program(&["doctor"], settings) else { return };
        let text = String::from_utf8(command.output().unwrap().stdout).unwrap();
        assert!(text.contains(expected), "{text}");
    }
}

/// The least budget with which the plan of a model is good enough, in bytes.
fn least_budget(plan: &dyn Fn(u64) -> anyhow::Result<GpuPlan>, is_enough: impl Fn(&GpuPlan) -> bool) -> u64 {
    let (mut less, mut enough) = (0, 1 << 30);
    while enough - less > 1 {
        let middle = u64::midpoint(less, enough);
        if plan(middle).is_ok_and(|plan| is_enough(&plan)) { enough = middle } else { less = middle }
    }
    enough
}

/// What a model says with a budget of GPU memory.
fn said_within(model: &std::path::Path, vram_bytes_max: u64) -> Vec<u32> {
    let mut session = spec(model, Some(vram_bytes_max)).open_layers(usize::MAX).unwrap();
    assert_eq!(session.model().is_on_device(), vram_bytes_max > 0);
    let (task, cancel) = (Task::greedy(vec![3, 1, 4, 1, 5, 9], 8), Cancel::new());
    decode::generate(&mut session, None, &task, &mut DraftCost::default(), &cancel, &mut |_| {}).unwrap().ids
}

#[test]
fn embedding_and_head_stay_with_the_cpu_where_only_that_fits() {
    child::with_driver(PRODUCT, &[], || {
        let folder = tiny::folder();
        for (model, is_tied) in [(folder.path(), false), (&reference::folder("qwen2_tied"), true)] {
            let dir = fimd::format::ModelDir::open(model).unwrap();
            let config = fimd::model::Config::read(&dir).unwrap();
            let plan = |bytes| spec(model, Some(bytes)).gpu_plan(&Types::Files(&dir), &config, u64::MAX);
            let expected = said_within(model, 0);
            let whole = least_budget(&plan, |plan| plan.host_tables == HostTables::None);
            let part = least_budget(&plan, |plan| plan.host_tables != HostTables::All);
            let least = least_budget(&plan, |_| true);
            assert!(least < part && if is_tied { part == whole } else { part < whole });
            let mut budgets = vec![(whole, HostTables::None), (least, HostTables::All)];
            if !is_tied {
                budgets.push((part, HostTables::Embedding));
            }
            for (bytes, tables) in budgets {
                let found = plan(bytes).unwrap();
                assert_eq!(found.host_tables, tables);
                assert_eq!(found.host_bytes > 0, tables != HostTables::None);
                assert_eq!(found.to_string().contains("with the CPU"), tables != HostTables::None);
                assert!(found.taken_bytes() <= bytes);
                assert_eq!(said_within(model, bytes), expected, "{tables:?}");
            }
            let error = plan(least - 1).unwrap_err().to_string();
            let (needed, given) = (least >> 20, (least - 1) >> 20);
            assert!(
                error.contains(&format!("it takes {needed} MiB of GPU memory even with embedding")),
                "{error}"
            );
            assert!(error.contains(&format!("{given} MiB may be used")), "{error}");
        }
    });
}
