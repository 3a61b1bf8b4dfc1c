//! Decoding on a GPU, on the emulated driver, with CUDA graphs.

use std::ops::Range;

use fimd::base::Cancel;
use fimd::bench::schedule::KERNELS_OF_EXPERTS;
use fimd::bench::sizes;
use fimd::compute::Precision;
use fimd::compute::cuda::{Cuda, CudaOptions};
use fimd::format::ModelDir;
use fimd::model::{Config, LogitRows, Model, Sequence};
use fimd::session::Session;

use crate::cuda::build::PRODUCT;
use crate::cuda::child;
use crate::cuda::device::emulator;
use crate::{gpu, late, load, reference, tiny};

/// Most kernels that a layer launches one by one for a token.
const LAUNCHES_MAX: u64 = 12;
/// Tokens of a prompt from which on several blocks of threads divide the positions of a head.
const LONG: u32 = 512;
/// Tokens after which all that decoding repeats has come twice: states take turns.
const WARM_UP: u32 = 5;
/// Slots that are more than all experts.
const ALL: usize = usize::MAX;

fn model(case: &str, slots: usize, graphs: bool) -> Model<Cuda> {
    let options = gpu::options_with(slots, Precision::F32, Precision::F32, load::cpu(1, 8, Precision::F32));
    gpu::model_with(case, CudaOptions { graphs, ..options })
}

/// Logits of one token after the other.
fn decode(model: &mut Model<Cuda>, sequence: &mut Sequence<Cuda>, tokens: Range<u32>) -> Vec<f32> {
    let (mut all, mut logits) = (Vec::new(), Vec::new());
    for token in tokens {
        let token = [1 + token * token % 31];
        reference::forward(model, sequence, &token, LogitRows::Last, &Cancel::new(), &mut logits).unwrap();
        all.extend_from_slice(&logits);
    }
    all
}

/// The same from the beginning.
fn decoded(model: &mut Model<Cuda>, tokens: u32) -> Vec<f32> {
    let mut sequence = model.sequence().unwrap();
    decode(model, &mut sequence, 0..tokens)
}

/// Evaluates tokens one by one.
fn push(session: &mut Session<Cuda>, tokens: u32) {
    for token in 1..=tokens {
        session.push(token, &Cancel::new()).unwrap();
    }
}

/// Decoding gives the same, bit for bit, with graphs and without, and launches them.
fn graphs_change_nothing(cases: &[(&str, usize)], tokens: u32) {
    for &(case, slots) in cases {
        // Only the emulated driver counts.
        let launches = || (!child::is_own()).then(|| emulator::calls("cuGraphLaunch"));
        let before = launches();
        let expected = decoded(&mut model(case, slots, false), tokens);
        assert_eq!(launches(), before);
        let found = decoded(&mut model(case, slots, true), tokens);
        assert!(before.is_none() || launches() > before, "{case}");
        assert!(found == expected, "{case}, {slots} slots: {}", reference::distance(&found, &expected));
    }
}

#[test]
fn graphs_change_no_bit() {
    child::on_device(PRODUCT, || {
        graphs_change_nothing(&[("qwen2_tied", ALL), ("long", ALL), ("qwen3_5_moe", ALL)], 70);
    });
}

#[test]
fn graphs_run_with_experts_on_both_devices() {
    // What the CPU computes is the same as long as the same experts are copied: all, or none.
    child::on_device_with(PRODUCT, &[("LATE_US", "100"), ("ORDER", "3")], || {
        graphs_change_nothing(&[("qwen3_moe_q8_0", 0), ("long", 0)], 12);
    });
}

#[test]
fn a_token_launches_few_kernels_outside_graphs() {
    child::with_driver(PRODUCT, &[], || {
        for (case, slots) in
            [("qwen2_tied", ALL), ("long", ALL), ("long", 3), ("qwen3_moe_q8_0", 3), ("qwen3_5_moe", 2)]
        {
            let mut session = load::session(model(case, slots, true));
            let layers = session.model().config().layers.len() as u64;
            session.sync(&[3, 1, 4], &[], &Cancel::new()).unwrap();
            push(&mut session, WARM_UP);
            let (launches, graphs) = (emulator::calls("cuLaunchKernel"), emulator::calls("cuGraphLaunch"));
            let captures = emulator::calls("cuStreamBeginCapture_v2");
            let tokens = 10;
            push(&mut session, tokens);
            let launched = emulator::calls("cuLaunchKernel") - launches;
            let in_captures = emulator::calls("cuStreamBeginCapture_v2") - captures;
            println!(
                "{case}, {slots} slots: {launched} launches for {tokens} tokens of {layers} layers, {in_captures} captures"
            );
            assert!(
                launched <= LAUNCHES_MAX * layers * u64::from(tokens),
                "{case}, {slots} slots: {launched}"
            );
            assert!(
                emulator::calls("cuGraphLaunch") - graphs >= layers * u64::from(tokens),
                "{case}, {slots} slots"
            );
        }
    });
}

/// Kernels that the first layers of the model "long" launch for a token after a long prompt, with what is outside of layers; and
/// those that plans count.
fn kernels(layers: usize, slots: usize) -> (u64, u64) {
    let dir = ModelDir::open(&reference::folder("long")).unwrap();
    let mut config = Config::read(&dir).unwrap();
    config.layers.truncate(layers);
    let planned = sizes::of_files(&dir, &config).unwrap().0.kernels as u64;
    let options = gpu::options_with(slots, Precision::F32, Precision::F32, load::cpu(1, 8, Precision::F32));
    let backend = gpu::opened(CudaOptions { graphs: false, ..options });
    let mut session = load::session(Model::load(&dir, config, load::options(1024, 256), backend).unwrap());
    let prompt: Vec<u32> = (0..LONG).map(|at| 1 + at * at % 31).collect();
    session.sync(&prompt, &[], &Cancel::new()).unwrap();
    let launches = |_| {
        let before = emulator::calls("cuLaunchKernel");
        push(&mut session, 1);
        emulator::calls("cuLaunchKernel") - before
    };
    // Some tokens leave a checkpoint, too.
    ((0..4).map(launches).min().unwrap(), planned)
}

#[test]
fn a_layer_launches_as_many_kernels_as_plans_count() {
    child::with_driver(PRODUCT, &[], || {
        // DeltaNet, attention, DeltaNet. With no slots the host is told of the routing and a kernel adds what the CPU returns;
        // with all, the host is not told.
        for (slots, more) in [(0, 1), (ALL, KERNELS_OF_EXPERTS as i64 - 1)] {
            let found = [1, 2, 3].map(|layers| kernels(layers, slots));
            println!("{slots} slots: {found:?}");
            for pair in found.windows(2) {
                let (launched, planned) = (pair[1].0 - pair[0].0, pair[1].1 - pair[0].1);
                assert_eq!(launched as i64, planned as i64 + more, "{slots} slots: {found:?}");
            }
        }
    });
}

#[test]
fn all_of_a_token_is_in_graphs_where_all_is_on_the_device() {
    child::with_driver(PRODUCT, &[], || {
        let mut session = load::session(model("long", ALL, true));
        session.sync(&[3, 1, 4], &[], &Cancel::new()).unwrap();
        push(&mut session, WARM_UP);
        let launches = emulator::calls("cuLaunchKernel");
        push(&mut session, 8);
        // The norm and the product of the head.
        assert_eq!(emulator::calls("cuLaunchKernel") - launches, 2 * 8);
    });
}

/// Decoding gives the same where the driver refuses what makes or launches graphs.
fn kernels_are_launched_one_by_one() {
    let expected = decoded(&mut model("long", ALL, false), 12);
    let found = decoded(&mut model("long", ALL, true), 12);
    assert!(found == expected);
}

#[test]
fn a_graph_that_cannot_be_launched_is_done_without() {
    child::with_driver(PRODUCT, &[("FAULTS", "cuGraphLaunch#3=1")], || {
        kernels_are_launched_one_by_one();
        assert_eq!(emulator::calls("cuGraphLaunch"), 3, "none is tried again");
    });
}

#[test]
fn a_capture_that_cannot_begin_is_done_without() {
    child::with_driver(PRODUCT, &[("FAULTS", "cuStreamBeginCapture_v2#2=901")], || {
        kernels_are_launched_one_by_one();
    });
}

#[test]
fn a_kernel_that_cannot_be_captured_is_done_without() {
    child::with_driver(PRODUCT, &[], || {
        let expected = decoded(&mut model("long", ALL, false), 12);
        let mut model = model("long", ALL, true);
        let mut sequence = model.sequence().unwrap();
        let mut found = decode(&mut model, &mut sequence, 0..2);
        let captures = emulator::calls("cuStreamBeginCapture_v2");
        // The first layer comes again with the next token, and is captured.
        let next = emulator::calls("cuLaunchKernel") + 4;
        emulator::set("FAULTS", &format!("cuLaunchKernel#{next}=1"));
        found.extend(decode(&mut model, &mut sequence, 2..12));
        assert!(found == expected);
        assert_eq!(emulator::calls("cuStreamBeginCapture_v2"), captures + 1, "none is tried again");
    });
}

#[test]
fn a_graph_that_cannot_be_instantiated_is_done_without() {
    child::with_driver(PRODUCT, &[("FAULTS", "cuGraphInstantiateWithFlags#2=2")], || {
        kernels_are_launched_one_by_one();
        assert_eq!(emulator::calls("cuGraphInstantiateWithFlags"), 2, "none is tried again");
    });
}

#[test]
fn a_device_that_is_lost_in_a_graph_loses_no_request() {
    child::with_driver(PRODUCT, &[("FAULTS", "cuGraphLaunch#2=719")], || {
        let dir = tiny::folder();
        let on_cpu = late::ask(&gpu::spec(dir.path(), Some(0)).serve().unwrap().engine).unwrap();
        let served = gpu::spec(dir.path(), None).serve().unwrap();
        assert_eq!(served.info.as_ref().unwrap().kernels, "Emulated GPU");
        for _ in 0..3 {
            assert_eq!(late::ask(&served.engine).unwrap()[0].ids, on_cpu[0].ids);
        }
    });
}
