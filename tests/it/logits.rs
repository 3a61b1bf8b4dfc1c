//! Logits in the form that greedy decoding needs, on every backend what whole rows of them say.

use std::sync::Arc;

use fimd::base::Cancel;
use fimd::base::dtype::DType;
use fimd::base::random::Mmix;
use fimd::compute::cuda::Cuda;
use fimd::compute::logits::{IdSet, LogitForm, TOP_LOGITS, TopLogits};
use fimd::compute::{Precision, StoredMatrix};
use fimd::decode::drafts::DraftCost;
use fimd::decode::sample::{argmax, log_softmax, top};
use fimd::decode::{self, Generated, Task};
use fimd::format::{Bytes, ModelDir, Tensor};
use fimd::model::Config;
use fimd::session::Session;

use crate::cuda::build::PRODUCT;
use crate::cuda::child;
use crate::cuda::device::emulator;
use crate::load::{self, TestBackend, on_every_backend};
use crate::{gpu, tiny};

on_every_backend! {
    rows_are_reduced_to_their_greatest
    greedy_text_is_that_of_whole_rows
    the_ids_that_can_be_chosen_may_change
}

const COLS: usize = 8;

/// A head whose logits have many ties and what is no number, or none.
fn head(vocab: usize, odd: &[(usize, f32)]) -> StoredMatrix {
    let mut random = Mmix(vocab as u64);
    let mut values: Vec<f32> = (0..vocab).map(|_| random.below(9) as f32 - 4.0).collect();
    odd.iter().for_each(|&(id, value)| values[id] = value);
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_ne_bytes().repeat(COLS)).collect();
    let (name, dtype) = (Arc::from("head"), DType::F32);
    let values = Tensor { name, dtype, shape: vec![vocab, COLS], bytes: Bytes::from(bytes) };
    StoredMatrix { rows: vocab, cols: COLS, values, scale: None }
}

fn rows_are_reduced_to_their_greatest<B: TestBackend>() {
    let (nan, inf) = (f32::NAN, f32::INFINITY);
    type Case<'a> = (usize, &'a [(usize, f32)], &'a [u32]);
    let cases: &[Case] = &[
        (1, &[], &[]),
        (5, &[], &[4]),
        (33, &[(32, 9.0)], &[]),
        (33, &[(32, 9.0)], &[32]),
        (100, &[(0, nan), (99, nan)], &[]),
        (100, &[(50, -nan)], &[]),
        (100, &[(50, nan), (51, inf)], &[50, 51]),
        (100, &[(50, inf), (60, -inf)], &[]),
        (64, &[(0, -0.0), (1, 0.0)], &[]),
        (2048, &[(2047, 5.0)], &[]),
        (2049, &[(2048, 5.0), (0, 5.0)], &[]),
        (6001, &[(1, 5.0), (3000, 7.0), (6000, 7.0), (4100, nan)], &[4100]),
    ];
    for &(vocab, odd, forbidden) in cases {
        let mut allowed = IdSet::below(vocab);
        forbidden.iter().for_each(|&id| allowed.remove(id));
        let mut random = Mmix(7);
        let x: Vec<f32> = (0..3 * COLS).map(|_| 0.5 + random.unit().abs()).collect();
        let open = || B::open(load::cpu(1, 8, Precision::F32));
        let found = |form| gpu::logits_in(form, &mut open(), head(vocab, odd), &x, &allowed);
        let (whole, found) = (found(LogitForm::Whole), found(LogitForm::Top));
        assert!(whole.top.is_empty() && found.whole.is_empty());
        assert_eq!((whole.whole.len(), found.top.len()), (3 * vocab, 3));
        for (row, found) in whole.whole.chunks_exact(vocab).zip(&found.top) {
            let expected = TopLogits::of(row, &allowed);
            let text = format!("{vocab} {odd:?} {forbidden:?}: {found:?}, {expected:?}");
            assert_eq!(found.best.len(), expected.best.len(), "{text}");
            for (found, expected) in found.best.iter().zip(&expected.best) {
                let is_same = found.1 == expected.1 || found.1.is_nan() && expected.1.is_nan();
                assert!(found.0 == expected.0 && is_same, "{text}");
            }
            let [found, expected] = [found.log_sum_exp, expected.log_sum_exp];
            let is_near = (found - expected).abs() < 1e-5 * expected.abs().max(1.0);
            assert!(is_near || found.is_nan() && expected.is_nan(), "{text}");
        }
    }
}

fn session<B: TestBackend>(dir: &ModelDir) -> Session<B> {
    load::session(load::model(dir, 1, 8, load::options(256, 64)).unwrap())
}

fn generate<B: TestBackend>(session: &mut Session<B>, dir: &ModelDir, task: &Task) -> Generated {
    let (tokenizer, cancel) = (load::tokenizer(dir), Cancel::new());
    let mut draft_cost = DraftCost::default();
    // Drafts pay.
    draft_cost.record_single(1e9);
    decode::generate(session, Some(&tokenizer), task, &mut draft_cost, &cancel, &mut |_| {}).unwrap()
}

fn greedy_text_is_that_of_whole_rows<B: TestBackend>() {
    const TOKENS: usize = 12;
    let folder = tiny::folder();
    let dir = ModelDir::open(folder.path()).unwrap();
    let tokenizer = load::tokenizer(&dir);
    let prompt = tokenizer.encode("abcdefghijabcd");
    let (mut by_hand, mut tokens) = (session::<B>(&dir), prompt.clone());
    let (mut logprobs, mut likeliest) = (Vec::new(), Vec::new());
    for _ in 0..TOKENS {
        by_hand.sync(&tokens, &[], &Cancel::new()).unwrap();
        let mut logits = by_hand.logits().to_vec();
        assert!(by_hand.top_logits().is_none());
        tokenizer.mask(&mut logits);
        let id = argmax(&logits);
        tokens.push(id);
        log_softmax(&mut logits);
        logprobs.push(logits[id as usize]);
        likeliest.push(top(&logits, TOP_LOGITS));
    }
    for top_logprobs in [0, TOP_LOGITS, TOP_LOGITS + 1] {
        let mut session = session::<B>(&dir);
        let task = Task { top_logprobs, ..Task::greedy(prompt.clone(), TOKENS) };
        let found = generate(&mut session, &dir, &task);
        assert_eq!(session.top_logits().is_some(), top_logprobs <= TOP_LOGITS);
        assert!(found.accepted > 0, "{found:?}");
        assert_eq!(found.ids, tokens[prompt.len()..]);
        let is_near = |a: f32, b: f32| (a - b).abs() < 1e-4;
        assert!(found.logprobs.iter().zip(&logprobs).all(|(&a, &b)| is_near(a, b)), "{found:?}");
        for (found, expected) in found.top_logprobs.iter().zip(&likeliest) {
            assert_eq!(found.len(), top_logprobs);
            assert!(found.iter().zip(expected).all(|(a, b)| a.0 == b.0 && is_near(a.1, b.1)), "{found:?}");
        }
    }
    let forced = Task { forced_prefix: "é".into(), ..Task::greedy(vec![1], 3) };
    assert_eq!(generate(&mut session::<B>(&dir), &dir, &forced).text, "abc");
}

fn the_ids_that_can_be_chosen_may_change<B: TestBackend>() {
    let folder = tiny::folder();
    let dir = ModelDir::open(folder.path()).unwrap();
    let mut session = session::<B>(&dir);
    let (tokens, cancel) = ([b'x', b'y', b'z'].map(u32::from), Cancel::new());
    let mut allowed = IdSet::below(session.model().config().vocab);
    for _ in 0..2 {
        session.sync(&tokens, &[], &cancel).unwrap();
        let expected = TopLogits::of(session.logits(), &allowed).best;
        session.sync_as(LogitForm::Top, &tokens, &[], &cancel).unwrap();
        let found = &session.top_logits().unwrap().best;
        assert!(found.iter().map(|best| best.0).eq(expected.iter().map(|best| best.0)), "{found:?}");
        allowed.remove(expected[0].0);
        session.allow(&allowed);
        assert!(session.top_logits().is_none(), "it was of other ids");
    }
    session.sync_as(LogitForm::Top, &tokens, &[], &cancel).unwrap();
    session.push_as(LogitForm::Top, 1, &cancel).unwrap();
    assert!(session.top_logits().is_some() && session.logits().is_empty());
}

#[test]
fn few_bytes_come_to_the_host() {
    child::with_driver(PRODUCT, &[], || {
        let folder = tiny::folder();
        let dir = ModelDir::open(folder.path()).unwrap();
        let vocab = Config::read(&dir).unwrap().vocab as u64;
        let [few, all] = [TOP_LOGITS, TOP_LOGITS + 1].map(|top_logprobs| {
            let mut session = session::<Cuda>(&dir);
            let task = Task { top_logprobs, ..Task::greedy(vec![1], 20) };
            let before = emulator::bytes_to_host();
            assert_eq!(generate(&mut session, &dir, &task).ids.len(), 20);
            emulator::bytes_to_host() - before
        });
        // The last token is not evaluated.
        assert_eq!(all - few, 20 * (4 * vocab - 8 * (TOP_LOGITS as u64 + 1)));
    });
}
