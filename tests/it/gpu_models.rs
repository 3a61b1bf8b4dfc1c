//! Models on a GPU as the program runs them, with 16 bits for keys, values and states, beside the CPU.

use fimd::compute::cpu::{Cpu, CpuOptions};
use fimd::compute::{Backend, Precision};
use fimd::decode::sample::log_softmax;
use fimd::format::ModelDir;
use fimd::hub;
use fimd::model::{Config, Model};

use crate::cuda::build::PRODUCT;
use crate::cuda::child;
use crate::{gpu, load, reference};

/// What log-probabilities may differ by.
const ERROR_MAX: f32 = 1e-2;

/// Log-probabilities of each token of a prompt, and the greedy tokens that follow.
fn said<B: Backend>(mut model: Model<B>, prompt: &[u32], continuation: usize) -> (Vec<f32>, Vec<u32>) {
    let (mut logits, ids) = reference::run(&mut model, prompt, 16, continuation);
    logits.chunks_exact_mut(model.config().vocab).for_each(log_softmax);
    (logits, ids)
}

/// Says the same on both, whatever follows a prompt; on the CPU with keys and values in this precision.
#[track_caller]
fn check(name: &str, dir: &ModelDir, prompt: &[u32], continuation: usize, kv: Precision) {
    let open = |dir| Config::read(dir).unwrap();
    let options = load::options(256, 64);
    let cpu = load::cpu(2, 8, Precision::F32);
    let exact = Cpu::new(CpuOptions { exact: true, kv, ..cpu });
    let on_cpu = Model::load(dir, open(dir), options.clone(), exact).unwrap();
    let backend = gpu::opened(gpu::options_with(usize::MAX, Precision::F16, Precision::F16, cpu));
    let on_gpu = Model::load(dir, open(dir), options, backend).unwrap();
    let (expected, ids) = said(on_cpu, prompt, continuation);
    let (found, other_ids) = said(on_gpu, prompt, continuation);
    let error = reference::distance(&expected, &found);
    println!("{name}: largest log-probability error {error:.1e}");
    assert!(error <= ERROR_MAX, "{name}: {error}");
    assert_eq!(ids, other_ids, "{name}");
}

/// Weights are random, and keys so large that rounding them to 16 bits changes log-probabilities by up to 3.5e-2: the CPU rounds
/// them, too.
#[test]
fn every_checkpoint_says_what_it_says_on_the_cpu() {
    child::on_device(PRODUCT, || {
        for case in reference::CASES {
            let dir = ModelDir::open(&reference::folder(case)).unwrap();
            let [long, _] = reference::expected(case);
            let prompt = &long.prompt[..long.prompt.len().min(24)];
            check(case, &dir, prompt, 8, Precision::F16);
        }
    });
}

#[test]
fn the_starter_says_what_it_says_on_the_cpu() {
    child::on_device(PRODUCT, || {
        let dir = hub::starter().unwrap();
        let text = "def area(width, height):\n    return width *";
        check("the starter", &dir, &load::tokenizer(&dir).encode(text), 4, Precision::F32);
    });
}
