//! The engine thread: superseding, pre-emption, and one answer for every request.

use std::sync::mpsc;

use fimd::base::Cancel;
use fimd::decode::{Generated, StopReason, Task};
use fimd::serve::{Engine, Event, Priority, Request};

use crate::tiny;

/// Submits a request that runs until it is cancelled or the context is full.
fn submit(
    engine: &Engine,
    key: &str,
    max_tokens: usize,
) -> (Cancel, mpsc::Receiver<anyhow::Result<Generated>>) {
    let (send, receive) = mpsc::channel();
    let cancel = Cancel::new();
    engine.submit(Request {
        key: key.into(),
        task: Task::greedy(vec![1, 2, 3], max_tokens),
        cancel: cancel.clone(),
        priority: Priority::Interactive,
        not_before: None,
        listener: Box::new(move |event| {
            if let Event::Done(result) = event {
                send.send(result.map(|mut all| all.remove(0))).unwrap();
            }
        }),
    });
    (cancel, receive)
}

#[test]
fn the_newest_request_about_a_document_wins() {
    let dir = tiny::folder();
    let engine = tiny::engine(dir.path());
    let held = tiny::hold(&engine);
    let (_, older) = submit(&engine, "a", 8);
    let (_, other) = submit(&engine, "b", 8);
    let (_, newer) = submit(&engine, "a", 8);
    drop(held);
    let stops = [older, other, newer].map(|reply| reply.recv().unwrap().unwrap().stop);
    assert_eq!(stops, [StopReason::Cancelled, StopReason::Length, StopReason::Length]);
}

#[test]
fn cancelling_ends_a_running_request() {
    let dir = tiny::folder();
    let engine = tiny::engine(dir.path());
    let (cancel, reply) = submit(&engine, "a", usize::MAX);
    cancel.cancel();
    assert_eq!(reply.recv().unwrap().unwrap().stop, StopReason::Cancelled);
}

#[test]
fn a_full_context_ends_a_request() {
    let dir = tiny::folder();
    let engine = tiny::engine(dir.path());
    let (_, reply) = submit(&engine, "a", usize::MAX);
    let generated = reply.recv().unwrap().unwrap();
    assert_eq!(generated.stop, StopReason::Context);
    assert_eq!(generated.ids.len() + 3, engine.context() + 1, "the last token needs no room");
}

#[test]
fn dropping_the_engine_answers_every_request() {
    let dir = tiny::folder();
    let engine = tiny::engine(dir.path());
    let held = tiny::hold(&engine);
    let replies: Vec<_> = (0..5).map(|i| submit(&engine, &i.to_string(), usize::MAX).1).collect();
    drop(engine);
    drop(held);
    for reply in replies {
        assert_eq!(reply.recv().unwrap().unwrap().stop, StopReason::Cancelled);
    }
}

/// Submits the evaluation of a prompt.
fn warm(engine: &Engine, prompt: Vec<u32>, priority: Priority) -> mpsc::Receiver<Generated> {
    let (send, receive) = mpsc::channel();
    engine.submit(Request {
        key: format!("{priority:?}"),
        priority,
        not_before: None,
        task: Task::greedy(prompt, 0),
        cancel: Cancel::new(),
        listener: Box::new(move |event| {
            if let Event::Done(result) = event {
                send.send(result.unwrap().remove(0)).unwrap();
            }
        }),
    });
    receive
}

#[test]
fn background_work_is_preempted_and_loses_nothing() {
    let dir = tiny::folder();
    let engine = tiny::engine(dir.path());
    let mut interrupted = 0;
    for round in 0..30 {
        let prompt: Vec<u32> = (0..2000).map(|i| (i * 7 + round) % 250).collect();
        let background = warm(&engine, prompt.clone(), Priority::Background);
        std::thread::sleep(std::time::Duration::from_millis(round.into()));
        let urgent = warm(&engine, vec![251, round, 3], Priority::Interactive);
        assert_eq!(urgent.recv().unwrap().stop, StopReason::Length);
        let done = background.recv().unwrap();
        assert_eq!(
            (done.stop, done.synced.reused + done.synced.evaluated),
            (StopReason::Length, prompt.len())
        );
        interrupted += u32::from(done.synced.reused > 0);
    }
    assert!(interrupted > 0, "no prompt was ever interrupted");
}

#[test]
fn alternatives_begin_differently() {
    let dir = tiny::folder();
    let engine = tiny::engine(dir.path());
    let (send, receive) = mpsc::channel();
    engine.submit(Request {
        key: "a".into(),
        priority: Priority::Interactive,
        not_before: None,
        task: Task { alternatives: 3, ..Task::greedy(b"xyz".iter().map(|&b| b.into()).collect(), 5) },
        cancel: Cancel::new(),
        listener: Box::new(move |event| {
            if let Event::Done(result) = event {
                send.send(result.unwrap()).unwrap();
            }
        }),
    });
    let all = receive.recv().unwrap();
    let firsts: std::collections::BTreeSet<u32> = all.iter().map(|generated| generated.ids[0]).collect();
    assert_eq!((all.len(), firsts.len(), &*all[0].text), (3, 3, "\nABCD"));
    assert!(all[1..].iter().all(|other| other.synced.evaluated == 0), "they branch from one state");
    assert!(all.windows(2).all(|pair| pair[0].logprobs[0] >= pair[1].logprobs[0]));
}

/// A character may be spread over several tokens, of which the model has to write each.
#[test]
fn open_text_may_have_any_character() {
    let dir = tiny::folder();
    let engine = tiny::engine(dir.path());
    for open in ["é", "🦀a", "x🦀é", "b"] {
        let (send, receive) = mpsc::channel();
        engine.submit(Request {
            key: open.into(),
            priority: Priority::Interactive,
            not_before: None,
            task: Task { forced_prefix: open.into(), ..Task::greedy(vec![1], 3) },
            cancel: Cancel::new(),
            listener: Box::new(move |event| {
                if let Event::Done(result) = event {
                    send.send(result.unwrap().remove(0)).unwrap();
                }
            }),
        });
        let generated = receive.recv().unwrap();
        let written: Vec<u32> = open.bytes().map(u32::from).collect();
        assert_eq!(generated.ids[..written.len()], written, "{open}");
        let expected = if open.ends_with('a') {
            "bcd"
        } else if open == "b" {
            "cde"
        } else {
            "abc"
        };
        assert_eq!(generated.text, expected, "{open}");
    }
}

#[test]
fn a_long_answer_resumes_after_preemption() {
    let dir = tiny::folder();
    let engine = tiny::engine(dir.path());
    let (done, finished) = mpsc::channel();
    let (answered, answers) = mpsc::channel();
    let (typing, mut shown) = (engine.clone(), String::new());
    let task = Task { stop_ids: vec![256], ..Task::greedy(vec![1], 200) };
    engine.submit(Request {
        key: "explain".into(),
        priority: Priority::Standard,
        not_before: None,
        task,
        cancel: Cancel::new(),
        listener: Box::new(move |event| match event {
            Event::Text(text) => {
                shown.push_str(text);
                // Typing pre-empts it at every second letter.
                if shown.len().is_multiple_of(2) {
                    let answered = answered.clone();
                    typing.submit(Request {
                        key: "a".into(),
                        priority: Priority::Interactive,
                        not_before: None,
                        task: Task::greedy(vec![2, 3], 2),
                        cancel: Cancel::new(),
                        listener: Box::new(move |event| {
                            if let Event::Done(_) = event {
                                answered.send(()).unwrap();
                            }
                        }),
                    });
                }
            }
            Event::Done(result) => done.send((std::mem::take(&mut shown), result.unwrap())).unwrap(),
        }),
    });
    let (shown, generated) = finished.recv().unwrap();
    assert_eq!((shown.as_str(), generated[0].text.as_str()), (tiny::TEXT, tiny::TEXT));
    assert_eq!((generated[0].stop, generated[0].ids.len()), (StopReason::EndToken, tiny::TEXT.len()));
    assert_eq!(generated[0].logprobs.len(), tiny::TEXT.len());
    assert!(answers.iter().take(tiny::TEXT.len() / 2).count() >= 10);
}
