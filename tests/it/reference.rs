//! The engine against transformers: `scripts/make_vectors.py` made `tests/data/vectors`.

use std::path::{Path, PathBuf};

use fimd::base::Cancel;
use fimd::compute::cpu::Cpu;
use fimd::decode::sample::{argmax, log_softmax};
use fimd::format::ModelDir;
use fimd::model::{Logits, Model, ModelOptions, Sequence};
use safetensors::SafeTensors;

use crate::load;

const CASES: [&str; 6] = ["odd", "fp8", "tied", "layer_types", "long", "dense_mlp"];

/// What transformers computed for one prompt.
struct Expected {
    prompt: Vec<u32>,
    /// `[prompt, vocab]`.
    logprobs: Vec<f32>,
    /// 24 tokens.
    greedy: Vec<u32>,
}

pub fn folder(case: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/vectors").join(case)
}

/// The expectations for the long prompt and for the prompt of one token.
fn expected(case: &str) -> [Expected; 2] {
    let bytes = std::fs::read(folder(case).join("expected.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    ["", "one."].map(|prefix| {
        let words = |name: &str| -> Vec<[u8; 4]> {
            tensors.tensor(&format!("{prefix}{name}")).unwrap().data().as_chunks::<4>().0.to_vec()
        };
        Expected {
            prompt: words("prompt_ids").into_iter().map(u32::from_le_bytes).collect(),
            logprobs: words("logprobs").into_iter().map(f32::from_le_bytes).collect(),
            greedy: words("greedy").into_iter().map(u32::from_le_bytes).collect(),
        }
    })
}

/// A reference checkpoint on the CPU.
pub fn model(case: &str, threads: usize, delta_chunk_rows_min: usize) -> Model<Cpu> {
    let dir = ModelDir::open(&folder(case)).unwrap();
    let options = ModelOptions { positions_max: 256, batch_max: 256 };
    load::model(&dir, threads, delta_chunk_rows_min, options).unwrap()
}

/// Logits after every token, evaluated `batch` tokens at a time, and the greedy continuation.
pub fn run(
    model: &mut Model<Cpu>,
    prompt: &[u32],
    batch: usize,
    continuation: usize,
) -> (Vec<f32>, Vec<u32>) {
    let (mut all, mut logits) = (Vec::new(), Vec::new());
    let mut sequence = model.sequence();
    for tokens in prompt.chunks(batch) {
        model.forward(&mut sequence, tokens, Logits::All, &Cancel::new(), &mut logits).unwrap();
        all.extend_from_slice(&logits);
    }
    let mut ids = Vec::new();
    let mut last = all[all.len() - model.config().vocab..].to_vec();
    while ids.len() < continuation {
        ids.push(argmax(&last));
        let token = [ids[ids.len() - 1]];
        model.forward(&mut sequence, &token, Logits::Last, &Cancel::new(), &mut last).unwrap();
    }
    model.release(sequence);
    (all, ids)
}

pub fn distance(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).fold(0.0, |max, (a, b)| max.max((a - b).abs()))
}

#[test]
fn logprobs_and_greedy_continuations_agree_with_transformers() {
    for case in CASES {
        let mut model = model(case, 2, 8);
        let vocab = model.config().vocab;
        for expected in expected(case) {
            let (mut logits, greedy) = run(&mut model, &expected.prompt, 256, 24);
            logits.chunks_exact_mut(vocab).for_each(log_softmax);
            let error = distance(&logits, &expected.logprobs);
            println!("{case}: {} tokens, largest log-probability error {error:.1e}", expected.prompt.len());
            assert!(error <= 2e-3, "{case}: {error}");
            assert_eq!(greedy, expected.greedy, "{case}");
        }
    }
}

#[test]
fn chunks_of_any_size_equal_token_by_token() {
    for case in CASES {
        let mut recurrent = model(case, 1, usize::MAX);
        let [Expected { prompt, .. }, _] = expected(case);
        let (one_by_one, ids) = run(&mut recurrent, &prompt, 1, 24);
        let bound = 1e-4 * one_by_one.iter().fold(0f32, |max, x| max.max(x.abs()));
        for (threads, chunk_rows_min, batch) in
            [(1, usize::MAX, 256), (1, 1, 256), (2, 8, 64), (3, 8, 17), (2, 2, 3)]
        {
            let (logits, other) = run(&mut model(case, threads, chunk_rows_min), &prompt, batch, 24);
            let error = distance(&one_by_one, &logits);
            assert!(error <= bound, "{case}, batches of {batch}: {error} > {bound}");
            assert_eq!(ids, other, "{case}, batches of {batch}");
        }
    }
}

/// Evaluates half of a prompt, lets `disturb` do what must leave no trace, and evaluates the rest: the
/// logits at the end are those of an undisturbed run.
#[track_caller]
fn check_undisturbed(disturb: impl FnOnce(&mut Model<Cpu>, &mut Sequence<Cpu>)) {
    let [Expected { prompt, .. }, _] = expected("long");
    let mut model = model("long", 2, 8);
    let (all, _) = run(&mut model, &prompt, 256, 0);
    let (vocab, half) = (model.config().vocab, prompt.len() / 2);

    let mut sequence = model.sequence();
    let mut logits = Vec::new();
    model.forward(&mut sequence, &prompt[..half], Logits::Last, &Cancel::new(), &mut logits).unwrap();
    disturb(&mut model, &mut sequence);
    assert_eq!(sequence.len(), half);
    model.forward(&mut sequence, &prompt[half..], Logits::Last, &Cancel::new(), &mut logits).unwrap();
    let error = distance(&logits, &all[all.len() - vocab..]);
    assert!(error < 1e-3, "{error}");
}

#[test]
fn a_snapshot_restores_its_position() {
    check_undisturbed(|model, sequence| {
        let snapshot = model.snapshot(sequence);
        assert_eq!(snapshot.len, sequence.len());
        model.forward(sequence, &[7; 30], Logits::Last, &Cancel::new(), &mut Vec::new()).unwrap();
        model.restore(sequence, &snapshot);
    });
}

#[test]
fn a_cancelled_pass_changes_nothing() {
    check_undisturbed(|model, sequence| {
        let cancel = Cancel::new();
        cancel.cancel();
        assert!(model.forward(sequence, &[7; 9], Logits::Last, &cancel, &mut Vec::new()).is_err());
    });
}
