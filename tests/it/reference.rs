//! The engine against transformers: `scripts/make_vectors.py` made `tests/data/vectors`.

use std::path::PathBuf;

use fimd::base::Cancel;
use fimd::compute::cpu::Cpu;
use fimd::compute::logits::{LogitForm, Logits};
use fimd::compute::{Backend, BlockId, Interrupted, Keep};
use fimd::decode::sample::{argmax, log_softmax};
use fimd::format::ModelDir;
use fimd::model::state::Kept;
use fimd::model::{LogitRows, Model, Sequence};
use safetensors::SafeTensors;

use crate::load::{self, TestBackend, on_every_backend};
use crate::paths;

/// Checkpoints of every architecture; those without a prefix are of Qwen3-Next.
pub const CASES: [&str; 20] = [
    "odd",
    "fp8",
    "tied",
    "layer_types",
    "long",
    "dense_mlp",
    "qwen2_odd",
    "qwen2_tied",
    "qwen3_odd",
    "qwen3_tied",
    "qwen3_moe_odd",
    "qwen3_moe_dense",
    "qwen3_moe_fp8",
    "qwen3_moe_q8_0",
    "qwen3_5",
    "qwen3_5_odd",
    "qwen3_5_text",
    "qwen3_5_moe",
    "qwen3_5_moe_mixed",
    "qwen3_5_moe_odd",
];

/// What transformers computed for one prompt.
pub struct Expected {
    pub prompt: Vec<u32>,
    /// `[prompt, vocab]`.
    pub logprobs: Vec<f32>,
    /// 24 tokens.
    pub greedy: Vec<u32>,
}

pub fn folder(case: &str) -> PathBuf {
    paths::root().join("tests/data/vectors").join(case)
}

/// The expectations for the long prompt and for the prompt of one token.
pub fn expected(case: &str) -> [Expected; 2] {
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

/// A reference checkpoint.
pub fn model<B: TestBackend>(case: &str, threads: usize, delta_chunk_rows_min: usize) -> Model<B> {
    let dir = ModelDir::open(&folder(case)).unwrap();
    let options = load::options(256, 256);
    load::model(&dir, threads, delta_chunk_rows_min, options).unwrap()
}

/// Logits after every token, evaluated `batch` tokens at a time, and the greedy continuation.
pub fn run<B: Backend>(
    model: &mut Model<B>,
    prompt: &[u32],
    batch: usize,
    continuation: usize,
) -> (Vec<f32>, Vec<u32>) {
    let (mut all, mut logits) = (Vec::new(), Vec::new());
    let mut sequence = model.sequence().unwrap();
    for tokens in prompt.chunks(batch) {
        forward(model, &mut sequence, tokens, LogitRows::All, &Cancel::new(), &mut logits).unwrap();
        all.extend_from_slice(&logits);
    }
    let mut ids = Vec::new();
    let mut last = all[all.len() - model.config().vocab..].to_vec();
    while ids.len() < continuation {
        ids.push(argmax(&last));
        let token = [ids[ids.len() - 1]];
        forward(model, &mut sequence, &token, LogitRows::Last, &Cancel::new(), &mut last).unwrap();
    }
    (all, ids)
}

/// One pass over a sequence that has all blocks for itself.
pub fn forward<B: Backend>(
    model: &mut Model<B>,
    sequence: &mut Sequence<B>,
    tokens: &[u32],
    wanted: LogitRows,
    cancel: &Cancel,
    out: &mut Vec<f32>,
) -> Result<Kept<B>, Interrupted> {
    let blocks: Vec<BlockId> = (0..model.blocks().total() as BlockId).collect();
    let marks = [tokens.len().div_ceil(2), tokens.len()];
    let all = 0..tokens.len();
    let marks = &marks[usize::from(tokens.len() < 2)..];
    let keep = Keep { marks, traced: std::slice::from_ref(&all), ..Keep::default() };
    let mut logits = Logits::default();
    let kept = model.forward(sequence, tokens, &blocks, keep, wanted, cancel, &mut logits)?;
    *out = logits.whole;
    Ok(kept)
}

/// The largest difference; no number where one is none.
pub fn distance(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let larger = |max: f32, (a, b): (&f32, &f32)| {
        let difference = (a - b).abs();
        if max.is_nan() || difference <= max { max } else { difference }
    };
    a.iter().zip(b).fold(0.0, larger)
}

on_every_backend! {
    logprobs_and_greedy_continuations_agree_with_transformers
    points_and_traces_lead_back
    a_kept_row_has_its_logits
    a_cancelled_pass_changes_nothing
}

fn logprobs_and_greedy_continuations_agree_with_transformers<B: TestBackend>() {
    for case in CASES {
        let mut model = model::<B>(case, 2, 8);
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
        let mut recurrent = model::<Cpu>(case, 1, usize::MAX);
        let [Expected { prompt, .. }, _] = expected(case);
        let (one_by_one, ids) = run(&mut recurrent, &prompt, 1, 24);
        let bound = 1e-4 * one_by_one.iter().fold(0f32, |max, x| max.max(x.abs()));
        for (threads, chunk_rows_min, batch) in
            [(1, usize::MAX, 256), (1, 1, 256), (2, 8, 64), (3, 8, 17), (2, 2, 3)]
        {
            let (logits, other) = run(&mut model::<Cpu>(case, threads, chunk_rows_min), &prompt, batch, 24);
            let error = distance(&one_by_one, &logits);
            assert!(error <= bound, "{case}, batches of {batch}: {error} > {bound}");
            assert_eq!(ids, other, "{case}, batches of {batch}");
        }
    }
}

/// Evaluates half of a prompt, lets `disturb` do what must leave no trace, and evaluates the rest: the
/// logits at the end are those of an undisturbed run.
#[track_caller]
fn check_undisturbed<B: TestBackend>(disturb: impl FnOnce(&mut Model<B>, &mut Sequence<B>, Kept<B>)) {
    let [Expected { prompt, .. }, _] = expected("long");
    let mut model = model("long", 2, 8);
    let (all, _) = run(&mut model, &prompt, 256, 0);
    let (vocab, half) = (model.config().vocab, prompt.len() / 2);

    let mut sequence = model.sequence().unwrap();
    let mut logits = Vec::new();
    let first = &prompt[..half];
    let kept =
        forward(&mut model, &mut sequence, first, LogitRows::Last, &Cancel::new(), &mut logits).unwrap();
    disturb(&mut model, &mut sequence, kept);
    assert_eq!(sequence.len(), half);
    forward(&mut model, &mut sequence, &prompt[half..], LogitRows::Last, &Cancel::new(), &mut logits)
        .unwrap();
    let error = distance(&logits, &all[all.len() - vocab..]);
    assert!(error < 1e-3, "{error}");
}

fn points_and_traces_lead_back<B: TestBackend>() {
    check_undisturbed::<B>(|model, sequence, kept| {
        let Kept { checkpoints: points, traces } = kept;
        let half = sequence.len();
        for (origin, at) in [(Some(&points[0]), half.div_ceil(2)), (Some(&points[1]), half), (None, 0)] {
            forward(model, sequence, &[7; 30], LogitRows::Last, &Cancel::new(), &mut Vec::new()).unwrap();
            model.restore(sequence, at, origin.map(|point| &point.state));
            let traces: Vec<_> = traces[at..].iter().map(|trace| &trace.inputs).collect();
            model.replay(sequence, &traces).unwrap();
        }
    });
}

fn a_kept_row_has_its_logits<B: TestBackend>() {
    let mut model = model::<B>("long", 1, 8);
    let (mut sequence, mut all, mut one) = (model.sequence().unwrap(), Vec::new(), Logits::default());
    let tokens = [3, 1, 4, 1, 5, 9, 2, 6];
    let kept = forward(&mut model, &mut sequence, &tokens, LogitRows::All, &Cancel::new(), &mut all).unwrap();
    for (trace, logits) in kept.traces.iter().zip(all.chunks_exact(all.len() / tokens.len())) {
        model.logits(&trace.hidden, LogitForm::Whole, &mut one).unwrap();
        assert_eq!(one.whole, logits);
    }
    assert_eq!(
        (&kept.checkpoints[0].hidden, &kept.checkpoints[1].hidden),
        (&kept.traces[3].hidden, &kept.traces[7].hidden)
    );
}

fn a_cancelled_pass_changes_nothing<B: TestBackend>() {
    check_undisturbed::<B>(|model, sequence, _| {
        let cancel = Cancel::new();
        cancel.cancel();
        assert!(forward(model, sequence, &[7; 9], LogitRows::Last, &cancel, &mut Vec::new()).is_err());
    });
}
