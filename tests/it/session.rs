//! Sessions: whatever they held before, they end where a fresh one would.

use fimd::base::Cancel;
use fimd::session::{Session, Synced};

use crate::reference::model;

#[track_caller]
fn check(session: &mut Session<fimd::compute::cpu::Cpu>, tokens: &[u32], reused: usize, evaluated: usize) {
    let synced = session.sync(tokens, &[], &Cancel::new()).unwrap();
    assert_eq!(synced, Synced { reused, evaluated, ..Synced::default() });
    let mut fresh = Session::new(model("long", 1, 8));
    fresh.sync(tokens, &[], &Cancel::new()).unwrap();
    let error = session.logits().iter().zip(fresh.logits()).fold(0f32, |max, (a, b)| max.max((a - b).abs()));
    assert!(error < 1e-3, "{error}");
}

#[test]
fn a_session_reuses_what_it_extends() {
    let mut session = Session::new(model("long", 2, 8));
    check(&mut session, &[1, 2, 3], 0, 3);
    check(&mut session, &[1, 2, 3, 4, 5], 3, 2);
    check(&mut session, &[1, 2, 3, 4, 5], 5, 0);
    assert_eq!(session.push(6, &Cancel::new()), Synced { evaluated: 1, ..Synced::default() });
    check(&mut session, &[1, 2, 3, 4, 5, 6, 7], 6, 1);
    check(&mut session, &[1, 2, 9], 0, 3);
    check(&mut session, &[1, 2], 0, 2);
}

#[test]
fn what_a_session_cannot_hold_leaves_it_as_it_is() {
    let mut session = Session::new(model("long", 1, 8));
    check(&mut session, &[1, 2, 3], 0, 3);
    for (tokens, word) in [(&[][..], "no tokens"), (&[1, 2, 3, 48], "48"), (&[1; 257], "--context")] {
        let error = session.sync(tokens, &[], &Cancel::new()).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    }
    check(&mut session, &[1, 2, 3, 4], 3, 1);
}

#[test]
fn a_cancelled_sync_loses_no_committed_token() {
    let mut session = Session::new(model("long", 1, 8));
    check(&mut session, &[1, 2, 3], 0, 3);
    let cancel = Cancel::new();
    cancel.cancel();
    let synced = session.sync(&[1, 2, 3, 4, 5], &[], &cancel).unwrap();
    assert_eq!(synced, Synced { cancelled: true, ..Synced::default() });
    assert!(session.push(4, &cancel).cancelled);
    check(&mut session, &[1, 2, 3], 3, 0);
    assert!(session.push(4, &cancel).cancelled);
    check(&mut session, &[1, 2, 3, 4], 3, 1);
}

#[test]
fn a_full_session_says_so() {
    let mut session = Session::new(model("long", 1, 8));
    check(&mut session, &[5; 256], 0, 256);
    assert!(session.is_full());
}
