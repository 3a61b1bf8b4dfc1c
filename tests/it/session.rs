//! Sessions: the results do not depend on what was cached.

use fimd::base::Cancel;
use fimd::base::random::Mmix;
use fimd::compute::Backend;
use fimd::compute::Precision;
use fimd::compute::cpu::Cpu;
use fimd::compute::logits::{LogitForm, Logits};
use fimd::format::ModelDir;
use fimd::model::{Config, Model, ModelOptions};
use fimd::session::{Mark, Restored, Session, SessionOptions, Synced, split_budget};

use crate::load::{self, TestBackend, on_every_backend};
use crate::reference::{self, distance, model};
use crate::tiny;

on_every_backend! {
    what_is_known_is_not_evaluated_again
    typing_and_deleting_cost_what_changed
    random_edits_end_where_a_fresh_session_would
    what_a_session_cannot_hold_leaves_it_as_it_is
    cancelling_at_any_moment_loses_no_evaluated_token
    a_full_session_says_so
    keys_and_values_alone_are_reused_at_any_position
}

/// Brings `session` to `tokens` and compares its logits with those of a fresh one.
#[track_caller]
fn sync<B: Backend>(session: &mut Session<B>, tokens: &[u32], marks: &[Mark]) -> Synced {
    let synced = session.sync(tokens, marks, &Cancel::new()).unwrap();
    check_logits(session, tokens, 1e-3);
    assert_eq!((synced.reused + synced.evaluated, synced.cancelled), (tokens.len(), false));
    synced
}

/// Returns the difference.
#[track_caller]
fn check_logits<B: Backend>(session: &Session<B>, tokens: &[u32], bound: f32) -> f32 {
    assert_eq!(session.tokens(), tokens);
    let mut new_blocks = load::session(model::<Cpu>("long", 1, 8));
    new_blocks.sync(tokens, &[], &Cancel::new()).unwrap();
    let error = distance(session.logits(), new_blocks.logits());
    assert!(error < bound, "{error} after {} tokens", tokens.len());
    error
}

fn run(start: usize, len: usize) -> Vec<u32> {
    (start..start + len).map(|i| (i * 7 % 48) as u32).collect()
}

fn what_is_known_is_not_evaluated_again<B: TestBackend>() {
    let mut session = load::session(model::<B>("long", 2, 8));
    let known = |reused, evaluated| Synced { reused, evaluated, ..Synced::default() };
    assert_eq!(sync(&mut session, &[1, 2, 3], &[]), known(0, 3));
    assert_eq!(sync(&mut session, &[1, 2, 3, 4, 5], &[]), known(3, 2));
    assert_eq!(sync(&mut session, &[1, 2, 3, 4, 5], &[]), known(5, 0));
    assert_eq!(session.push(6, &Cancel::new()).unwrap(), known(5, 1));
    assert_eq!(sync(&mut session, &[1, 2, 3, 4, 5, 6, 7], &[]), known(6, 1));
    let back = sync(&mut session, &[1, 2, 9], &[]);
    assert_eq!((back.reused, back.evaluated, back.replayed), (2, 1, 2));
    assert_eq!(sync(&mut session, &[1, 2], &[]), known(2, 0), "its hidden row is known");
    assert_eq!(sync(&mut session, &[1, 2, 3, 4, 5, 6, 7], &[]), known(7, 0), "the other branch too");
}

/// A prompt of 200 tokens as a completion makes it: a prefix, a suffix, then what is typed.
fn typing_and_deleting_cost_what_changed<B: TestBackend>() {
    let mut session = load::session(model::<B>("long", 1, 8));
    let marks = [Mark { at: 120, unstable_tokens: 24 }, Mark { at: 180, unstable_tokens: 0 }];
    let prompt = run(0, 180);
    sync(&mut session, &prompt, &marks);
    let mut typed = prompt.clone();
    for token in run(50, 20) {
        typed.push(token);
        let synced = sync(&mut session, &typed, &marks);
        assert_eq!(synced.evaluated, 1);
        assert!(synced.replayed <= 64);
        // A completion of some tokens, which the next prompt does not include.
        for offset in [1, 4, 5] {
            assert_eq!(session.push((token + offset) % 48, &Cancel::new()).unwrap().evaluated, 1);
        }
    }
    for len in (181..195).rev() {
        let synced = sync(&mut session, &typed[..len], &marks);
        assert_eq!((synced.evaluated, synced.replayed), (0, 0), "the logits are those that were");
        let synced = sync(&mut session, &[&typed[..len], &[(typed[len] + 2) % 48]].concat(), &marks);
        assert_eq!(synced.evaluated, 1);
        assert!(
            synced.replayed <= 64 && matches!(synced.restored_from, Restored::Checkpoint(_) | Restored::Live)
        );
    }
    // The prefix grows, or loses the last tokens before the suffix, in the plain order.
    for kept in [120, 119, 105, 100] {
        let edited = [&prompt[..kept], &[1, 2], &prompt[120..]].concat();
        let synced = sync(&mut session, &edited, &[Mark { at: kept + 2, unstable_tokens: 24 }]);
        assert_eq!(synced.reused, kept, "{synced:?}");
    }
    // A jump: only the tokens before it are cached.
    let synced = sync(&mut session, &[&prompt[..60], &run(9, 100)].concat(), &[]);
    assert_eq!((synced.reused, synced.evaluated), (0, 160), "no state was saved before 96");
}

/// A session with these budgets, in bytes.
fn session_with<B: TestBackend>(cache_bytes_max: u64, precision: Precision) -> Session<B> {
    let dir = ModelDir::open(&reference::folder("long")).unwrap();
    let config = Config::read(&dir).unwrap();
    let backend = B::open(load::cpu(1, 8, precision));
    let (block_bytes, saved) = (
        backend.kv_block_bytes(config.attention_shapes().count(), &config.attention()),
        backend.saved_bytes(config.delta_shapes().count(), &config.delta()),
    );
    let (kv_bytes_max, state_bytes_max) = split_budget(cache_bytes_max, block_bytes, saved);
    let options = ModelOptions { kv_bytes_max, ..load::options(256, 256) };
    let model = Model::load(&dir, config, options, backend).unwrap();
    Session::new(model, SessionOptions { state_bytes_max }).unwrap()
}

fn random_edits_end_where_a_fresh_session_would<B: TestBackend>() {
    for (cache_bytes_max, precision, bound) in
        [(1 << 26, Precision::F32, 1e-3), (100_000, Precision::F32, 1e-3), (1 << 26, Precision::F16, 1.0)]
    {
        let mut session = session_with::<B>(cache_bytes_max, precision);
        let mut numbers = Mmix(7);
        let mut random = move |below| numbers.below(below);
        let mut files = [run(0, 100), run(31, 60), run(17, 150)];
        let (mut undo, mut evaluated, mut errors, mut total) = (Vec::new(), 0, Vec::new(), 0);
        for step in 0..250 / B::STEPS_DIVISOR {
            let file = random(30).saturating_sub(27);
            let tokens = &mut files[file];
            let cursor = tokens.len() - random(20).min(tokens.len() - 1);
            match random(10) {
                0 => tokens.truncate(cursor),
                1 => tokens.splice(random(tokens.len()).., run(step, 30)).for_each(drop),
                2 => *tokens = undo.pop().unwrap_or(tokens.clone()),
                3 => tokens.insert(cursor, 5),
                _ => tokens.extend(run(step, 1 + random(3))),
            }
            tokens.truncate(220);
            undo.push(tokens.clone());
            let marks = [Mark { at: tokens.len() * 2 / 3, unstable_tokens: random(2) * 20 }];
            let cancel = Cancel::new();
            if random(8) == 0 {
                cancel.cancel();
            }
            let synced = session.sync(tokens, &marks, &cancel).unwrap();
            assert_eq!(synced.cancelled, cancel.is_cancelled());
            if synced.cancelled {
                continue;
            }
            evaluated += synced.evaluated;
            total += tokens.len();
            errors.push(check_logits(&session, tokens, bound));
            for token in run(step, random(6)) {
                session.push(token, &Cancel::new()).unwrap();
            }
            if random(4) == 0 {
                let (mut at, mut rows) = (session.tokens().to_vec(), Logits::default());
                let draft = run(step, 1 + random(5));
                session.evaluate_draft(LogitForm::Whole, &draft, &Cancel::new(), &mut rows).unwrap();
                let vocab = rows.whole.len() / draft.len();
                for (row, &token) in draft.iter().enumerate().take(2) {
                    session.accept(token, rows.row(row, vocab));
                    at.push(token);
                    check_logits(&session, &at, bound);
                }
            }
            let usage = session.usage();
            let live = session.tokens().len() as u64 * 20_000;
            assert!(usage.kv_bytes + usage.state_bytes <= cache_bytes_max.max(live), "{usage:?}");
        }
        let (greatest, sum) = errors.iter().fold((0f32, 0.0), |(m, s), &e| (m.max(e), s + e));
        println!(
            "{cache_bytes_max} bytes, {precision:?}: {evaluated} of {total} tokens evaluated, largest error in a logit {greatest:.1e}, mean of the largest {:.1e}",
            sum / errors.len() as f32
        );
        assert!(sum / errors.len() as f32 <= if precision == Precision::F32 { 1e-4 } else { 0.05 });
        assert!(evaluated * 3 < total, "{evaluated} of {total}");
    }
}

/// Typing, deleting and jumping, in models of every architecture.
#[test]
fn edits_end_where_a_fresh_session_would_in_every_architecture() {
    for case in reference::CASES {
        let open = || load::session(model::<Cpu>(case, 1, 8));
        let (mut session, mut fresh) = (open(), open());
        let vocab = session.model().config().vocab;
        let run = |start: usize, len: usize| (start..start + len).map(move |i| (i * 7 % vocab) as u32);
        let mut random = Mmix(11);
        let mut tokens: Vec<u32> = run(0, 90).collect();
        let (mut evaluated, mut total) = (0, 0);
        for step in 0..40 {
            let cursor = tokens.len() - random.below(12).min(tokens.len() - 1);
            match random.below(6) {
                0 => tokens.truncate(cursor),
                1 => tokens.insert(cursor, 5),
                2 if step % 3 == 0 => tokens = run(step, 60).collect(),
                _ => tokens.extend(run(step, 1 + random.below(3))),
            }
            tokens.truncate(180);
            let marks = [Mark { at: tokens.len() * 2 / 3, unstable_tokens: 20 * random.below(2) }];
            evaluated += session.sync(&tokens, &marks, &Cancel::new()).unwrap().evaluated;
            total += tokens.len();
            fresh.reset();
            fresh.sync(&tokens, &[], &Cancel::new()).unwrap();
            let error = distance(session.logits(), fresh.logits());
            assert!(error < 1e-3, "{case}: {error} at step {step}");
        }
        assert!(evaluated * 2 < total, "{case}: {evaluated} of {total}");
    }
}

fn what_a_session_cannot_hold_leaves_it_as_it_is<B: TestBackend>() {
    let mut session = load::session(model::<B>("long", 1, 8));
    sync(&mut session, &[1, 2, 3], &[]);
    for (tokens, word) in [(&[][..], "no tokens"), (&[1, 2, 3, 48], "48"), (&[1; 257], "--context")] {
        let error = session.sync(tokens, &[], &Cancel::new()).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    }
    assert_eq!(sync(&mut session, &[1, 2, 3, 4], &[]).evaluated, 1);
}

fn cancelling_at_any_moment_loses_no_evaluated_token<B: TestBackend>() {
    let mut session = load::session(model::<B>("long", 1, 8));
    sync(&mut session, &[1, 2, 3], &[]);
    let cancel = Cancel::new();
    cancel.cancel();
    let cancelled = Synced { cancelled: true, ..Synced::default() };
    assert_eq!(session.sync(&[1, 2, 3, 4, 5], &[], &cancel).unwrap(), cancelled);
    assert!(session.push(4, &cancel).unwrap().cancelled);
    assert_eq!(sync(&mut session, &[1, 2, 3], &[]).evaluated, 0);
    // From another thread, some time into the pass.
    let prompt = run(0, 250);
    for delay in 0..40 {
        let cancel = Cancel::new();
        let from_outside = cancel.clone();
        let thread = std::thread::spawn(move || {
            std::thread::sleep(std::time::Duration::from_micros(delay * 100));
            from_outside.cancel();
        });
        session.sync(&prompt, &[], &cancel).unwrap();
        thread.join().unwrap();
        assert!(sync(&mut session, &[1, 2, 3, 4], &[]).evaluated <= 1);
    }
}

fn a_full_session_says_so<B: TestBackend>() {
    let mut session = load::session(model::<B>("long", 1, 8));
    assert_eq!(sync(&mut session, &[5; 256], &[]).evaluated, 256);
    assert!(session.is_full());
}

/// Without recurrent layers nothing has to be saved.
fn keys_and_values_alone_are_reused_at_any_position<B: TestBackend>() {
    let dir = tiny::folder_of(["full_attention", "full_attention"]);
    let dir = ModelDir::open(dir.path()).unwrap();
    let open = || load::model::<B>(&dir, 1, 8, load::options(512, 256)).unwrap();
    let mut session = Session::new(open(), SessionOptions { state_bytes_max: 0 }).unwrap();
    let mut tokens = run(0, 300);
    session.sync(&tokens, &[], &Cancel::new()).unwrap();
    for cut in [299, 200, 131, 128, 64, 63, 1] {
        tokens.truncate(cut);
        tokens.extend([49, cut as u32 % 48, 50]);
        let synced = session.sync(&tokens, &[Mark { at: cut, unstable_tokens: 8 }], &Cancel::new()).unwrap();
        assert_eq!(synced, Synced { reused: cut, evaluated: 3, ..Synced::default() });
        let mut new_blocks = load::session(open());
        new_blocks.sync(&tokens, &[], &Cancel::new()).unwrap();
        assert!(distance(session.logits(), new_blocks.logits()) < 1e-3, "after {cut}");
        let (form, draft) = (LogitForm::Whole, [1, 2, 3]);
        session.evaluate_draft(form, &draft, &Cancel::new(), &mut Logits::default()).unwrap();
    }
}
