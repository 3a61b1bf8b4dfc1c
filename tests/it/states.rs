//! Recurrent states that are saved and restored beside the work of a GPU, on the emulated driver.

use std::time::{Duration, Instant};

use fimd::base::Cancel;
use fimd::compute::Precision;
use fimd::compute::cuda::{Cuda, CudaOptions};
use fimd::model::{LogitRows, Model};
use fimd::serve::Engine;

use crate::cuda::build::PRODUCT;
use crate::cuda::child;
use crate::cuda::device::emulator;
use crate::{gpu, late, load, reference, tiny};

const TOKENS: [u32; 12] = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8];
/// By what the stream for copies is late where nothing is to wait for it, for each of its operations.
const LATE: Duration = Duration::from_secs(8);

fn model(case: &str, precision: Precision) -> Model<Cuda> {
    let options = gpu::options_with(usize::MAX, precision, precision, load::cpu(1, 8, precision));
    gpu::model_with(case, CudaOptions { graphs: true, ..options })
}

/// Logits after some tokens that follow a state which was saved a moment before equal those of going on.
fn states_lead_back(precision: Precision) {
    for case in ["long", "odd", "qwen3_5_moe"] {
        let mut model = model(case, precision);
        let mut sequence = model.sequence().unwrap();
        let (cancel, mut logits, mut expected) = (Cancel::new(), Vec::new(), Vec::new());
        let forward = |model: &mut Model<Cuda>, sequence: &mut _, logits: &mut Vec<f32>| {
            reference::forward(model, sequence, &TOKENS, LogitRows::Last, &cancel, logits).unwrap()
        };
        let kept = forward(&mut model, &mut sequence, &mut logits);
        forward(&mut model, &mut sequence, &mut expected);
        for round in 0..3 {
            model.restore(&mut sequence, TOKENS.len(), Some(&kept.checkpoints[1].state));
            // Its states take the memory of those that are gone.
            forward(&mut model, &mut sequence, &mut logits);
            let error = reference::distance(&logits, &expected);
            let bound = if precision == Precision::F32 { 0.0 } else { 2e-2 };
            assert!(error <= bound, "{case}, round {round}: {error}");
        }
    }
}

#[test]
fn states_are_what_they_were() {
    child::on_device(PRODUCT, || states_lead_back(Precision::F32));
}

#[test]
fn states_are_what_they_were_but_for_rounding() {
    child::on_device(PRODUCT, || states_lead_back(Precision::F16));
}

#[test]
fn states_are_waited_for_where_they_are_used() {
    // The third stream is that of the saver: the driver is tried with one first.
    let settings = [("LATE_US", "3000"), ("LATE_STREAM", "3")];
    child::with_driver(PRODUCT, &settings, || states_lead_back(Precision::F32));
}

#[test]
fn states_are_saved_without_page_locked_memory() {
    child::with_driver(PRODUCT, &[("PAGE_LOCK", "0")], || states_lead_back(Precision::F32));
}

#[test]
fn nothing_waits_for_a_state_to_be_saved() {
    let late_us = LATE.as_micros().to_string();
    let settings = [("LATE_US", &late_us[..]), ("LATE_STREAM", "3")];
    child::with_driver(PRODUCT, &settings, || {
        let mut model = model("long", Precision::F32);
        let layers = model.config().delta_shapes().count() as u32;
        let mut sequence = model.sequence().unwrap();
        let (cancel, mut logits) = (Cancel::new(), Vec::new());
        let waits = emulator::calls("cuStreamSynchronize");
        let started = Instant::now();
        let kept = reference::forward(&mut model, &mut sequence, &[3], LogitRows::Last, &cancel, &mut logits)
            .unwrap();
        // A wait, two copies and an event for each layer.
        assert!(started.elapsed() < LATE * 4 * layers, "it is still on its way");
        assert_eq!(kept.checkpoints.len(), 1);
        assert_eq!(emulator::calls("cuStreamSynchronize"), waits + 1);
        assert_eq!(emulator::calls("cuEventSynchronize"), 0);
        emulator::set("LATE_US", "0");
    });
}

/// Asks `engine` for two tokens after a prompt.
fn ask(engine: &Engine) -> Vec<u32> {
    late::ask_after(engine, (0..100).map(|i| 97 + i % 26).collect()).unwrap().remove(0).ids
}

#[test]
fn a_state_that_cannot_be_saved_loses_no_request() {
    child::with_driver(PRODUCT, &[], || {
        let dir = tiny::folder();
        let expected = ask(&gpu::spec(dir.path(), Some(0)).serve().unwrap().engine);
        let served = gpu::spec(dir.path(), None).serve().unwrap();
        assert_eq!(served.info.as_ref().unwrap().kernels, "Emulated GPU");
        // Of the first layer, after its traces.
        let next = emulator::calls("cuMemcpyDtoHAsync_v2") + 2;
        emulator::set("FAULTS", &format!("cuMemcpyDtoHAsync_v2#{next}=719"));
        for _ in 0..2 {
            assert_eq!(ask(&served.engine), expected);
        }
        assert_eq!(emulator::calls("cuMemcpyDtoHAsync_v2"), next, "the CPU has taken over");
    });
}
