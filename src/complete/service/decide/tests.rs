//! Tables of what happens, and of what is to be done about it.

use std::collections::VecDeque;

use super::super::super::edit;
use super::super::super::retained::RetentionSample;
use super::super::suggestion::CACHE_ENTRIES_MAX;
use super::*;
use crate::base::Timings;
use crate::base::random::Mmix;
use crate::base::timings::milliseconds;
use crate::serve::Priority;

const OPTIONS: Options = Options {
    debounce_max: Duration::from_millis(75),
    soft: Duration::from_millis(250),
    hard: Duration::from_millis(2000),
    auto_tokens_max: 64,
    invoked_tokens_max: 128,
    alternatives: 3,
    speculate: false,
    prewarm: false,
    idle: Duration::from_secs(1),
};
const SPECULATING: Options = Options { speculate: true, ..OPTIONS };

/// Something that happens. Documents have the cursor at `$0`.
enum Step {
    Type(RequestId, &'static str),
    Invoke(RequestId, &'static str),
    Text(JobId, &'static str),
    Done(JobId, &'static [&'static str]),
    Void(JobId),
    Partial(JobId),
    Change(usize, usize, &'static str),
    Cancel(RequestId),
    Close,
}
use Step::*;

fn editor_request(id: RequestId, document: &str, trigger: Trigger) -> EditorRequest {
    let (prefix, suffix) = document.split_once("$0").unwrap();
    EditorRequest { id, key: "a".into(), document: Document::new(None, prefix, suffix).into(), trigger }
}

fn outcome(items: &[&str]) -> Outcome {
    let items = items.iter().map(|&text| Item { text: text.into() }).collect();
    Outcome { items, ..Outcome::default() }
}

/// What an action does, in short.
fn describe(action: &Action) -> String {
    match action {
        Action::Answer { id, items } => {
            let texts: Vec<&str> = items.iter().map(|item| item.text.as_str()).collect();
            format!("{id}: {}", texts.join(" | ")).trim_end().to_owned()
        }
        Action::Record(record) if record.is_cancelled => format!("{:?} cancelled", record.source),
        Action::Record(record) => format!("{:?}", record.source),
        Action::Background { .. } => "unasked".into(),
        Action::Start(start) => {
            let Start { job, purpose, request, window, .. } = start.as_ref();
            match purpose {
                Purpose::Answer if request.follows_accept => format!("start {job} after an accept"),
                Purpose::Answer => format!("start {job} {:?}", request.lines),
                _ => format!("start {job} {purpose:?} {window:?} after {:?}", request.document.prefix),
            }
        }
        Action::Cancel { job } => format!("cancel {job}"),
        Action::Accepted { chars, .. } => format!("accepted {chars}"),
        Action::Retention(RetentionSample { accepted, retained, .. }) => {
            format!("retained {retained} of {accepted}")
        }
    }
}

fn step(service: &mut Service, now: Instant, step: &Step) -> Vec<Action> {
    match *step {
        Type(id, document) => service.request(now, editor_request(id, document, Trigger::Automatic)),
        Invoke(id, document) => service.request(now, editor_request(id, document, Trigger::Invoked)),
        Text(job, text) => service.streamed(now, job, text),
        Done(job, items) => service.done(now, job, outcome(items)),
        Void(job) => service.done(now, job, Outcome { is_cancelled_or_failed: true, ..Outcome::default() }),
        Partial(job) => service.done(now, job, Outcome { is_partial: true, ..Outcome::default() }),
        Change(at, removed, inserted) => {
            service.changed(now, "a", &edit::Change { at, removed, inserted: inserted.into() })
        }
        Cancel(id) => service.cancel(now, id),
        Close => service.closed(now, "a"),
    }
}

#[track_caller]
fn check(options: Options, steps: &[(Step, &[&str])]) {
    let (mut service, now) = (Service::new(options), Instant::now());
    for (i, (event, expected)) in steps.iter().enumerate() {
        let actions = step(&mut service, now, event);
        let actions: Vec<String> = actions.iter().map(describe).collect();
        assert_eq!(actions, *expected, "step {i}");
    }
}

#[test]
fn what_is_on_screen_is_typed_through() {
    check(
        OPTIONS,
        &[
            (Type(1, "x = $0\n"), &["start 1 Auto"]),
            (Done(1, &["foo(a, b)"]), &["1: foo(a, b)", "Model"]),
            (Type(2, "x = fo$0\n"), &["2: o(a, b)", "TypedThrough"]),
            (Type(3, "x = foo($0\n"), &["3: a, b)", "TypedThrough"]),
            (Type(4, "x = foo($0)\n"), &["4: a, b", "TypedThrough"]),
            (Type(5, "x = foo(a$0)\n"), &["5: , b", "TypedThrough"]),
            (Type(6, "x = f$0\n"), &["6: oo(a, b)", "TypedThrough"]),
            (Type(7, "x = $0\n"), &["7: foo(a, b)", "TypedThrough"]),
            (Type(8, "x = g$0\n"), &["start 2 Auto"]),
            (Done(2, &[]), &["8:", "Model"]),
            (Type(9, "x = g$0\n"), &["9:", "Cache"]),
            (Type(10, "x = g$0y\n"), &["10:", "Nothing"]),
            (Type(11, "x = foo(a, b)$0\n"), &["start 3 Auto"]),
        ],
    );
}

#[test]
fn an_overtaken_request_takes_nothing_from_a_newer_one() {
    check(
        OPTIONS,
        &[
            (Type(2, "x = $0\n"), &["start 1 Auto"]),
            (Type(1, "x = $0\n"), &["1:", "Nothing cancelled"]),
            (Done(1, &["foo"]), &["2: foo", "Model"]),
            (Type(1, "x = $0\n"), &["1:", "Nothing cancelled"]),
        ],
    );
}

#[test]
fn earlier_answers_are_kept() {
    check(
        OPTIONS,
        &[
            (Type(1, "x = $0\n"), &["start 1 Auto"]),
            (Done(1, &["foo"]), &["1: foo", "Model"]),
            (Type(2, "y = $0\n"), &["start 2 Auto"]),
            (Done(2, &["bar"]), &["2: bar", "Model"]),
            (Type(3, "x = $0\n"), &["3: foo", "Cache"]),
            (Type(4, "y = b$0\n"), &["4: ar", "Cache"]),
            (Type(5, "x = $0\nz"), &["start 3 Auto"]),
            (Partial(3), &["5:", "Model"]),
            (Type(6, "x = $0\nz"), &["start 4 Auto"]),
            (Void(4), &["6:", "Model cancelled"]),
            (Type(7, "x = $0\nz"), &["start 5 Auto"]),
            (Close, &["7:", "cancel 5"]),
            (Void(5), &["Model cancelled"]),
            (Type(8, "y = $0\n"), &["start 6 Auto"]),
        ],
    );
}

#[test]
fn a_generation_under_way_is_joined_while_it_agrees() {
    check(
        OPTIONS,
        &[
            (Type(1, "x = $0\n"), &["start 1 Auto"]),
            (Type(2, "x = f$0\n"), &["1:"]),
            (Text(1, "fo"), &[]),
            (Type(3, "x = foo$0\n"), &["2:", "Joined cancelled"]),
            (Text(1, "o(a"), &[]),
            (Done(1, &["foo(a)"]), &["Model cancelled", "3: (a)", "Joined"]),
            (Type(4, "y = $0\n"), &["start 2 Auto"]),
            (Type(5, "y = b$0\n"), &["4:"]),
            (Text(2, "c"), &["start 3 Auto"]),
            (Void(2), &["Model cancelled"]),
            (Text(3, "ar"), &[]),
            (Type(6, "y = bz$0\n"), &["5:", "start 4 Auto"]),
            (Void(3), &["Model cancelled"]),
            (Done(4, &["z"]), &["6: z", "Model"]),
            (Type(7, "z = $0\n"), &["start 5 Auto"]),
            (Type(8, "z = foo$0\n"), &["7:"]),
            (Done(5, &["foo"]), &["Model cancelled", "start 6 Auto"]),
            (Cancel(8), &["8:", "cancel 6"]),
            (Cancel(8), &[]),
            (Void(6), &["Model cancelled"]),
        ],
    );
}

#[test]
fn a_change_answers_and_a_contradiction_cancels() {
    check(
        OPTIONS,
        &[
            (Type(1, "x = $0\n"), &["start 1 Auto"]),
            (Text(1, "foo"), &[]),
            (Change(4, 0, "fo"), &["1:"]),
            (Change(5, 1, ""), &[]),
            (Change(5, 0, "oo()"), &[]),
            (Text(1, "(a)"), &[]),
            (Change(8, 0, "b"), &["cancel 1"]),
            (Void(1), &["Model cancelled"]),
            (Type(2, "y = $0\n"), &["start 2 Auto"]),
            (Change(0, 0, "z"), &["2:", "cancel 2"]),
            (Void(2), &["Model cancelled"]),
            (Type(3, "y = $0\n"), &["start 3 Auto"]),
            (Change(4, 0, "b"), &["3:"]),
            (Text(3, "c"), &["cancel 3"]),
        ],
    );
}

#[test]
fn several_items_and_lines_when_asked_for() {
    check(
        OPTIONS,
        &[
            (Type(1, "x = $0\n"), &["start 1 Auto"]),
            (Done(1, &["foo()"]), &["1: foo()", "Model"]),
            (Invoke(2, "x = $0\n"), &["start 2 Multi"]),
            (Done(2, &["foo()", "bar()", "foo()", "fab()"]), &["2: foo() | bar() | fab()", "Model"]),
            (Invoke(3, "x = f$0\n"), &["3: oo() | ab()", "TypedThrough"]),
            (Type(4, "x = fa$0\n"), &["4: b()", "TypedThrough"]),
            (Invoke(5, "x = $0y\n"), &["start 3 Multi"]),
        ],
    );
}

#[test]
fn the_retention_of_accepted_text_is_sampled() {
    let (mut service, start) = (Service::new(OPTIONS), Instant::now());
    let at = |seconds| start + Duration::from_secs(seconds);
    service.request(at(0), editor_request(1, "x = $0\n", Trigger::Automatic));
    service.done(at(0), 1, outcome(&["foo(a)"]));
    let change = |at, removed, inserted: &str| edit::Change { at, removed, inserted: inserted.into() };
    assert_eq!(service.changed(at(1), "a", &change(4, 0, "foo(a)")).len(), 1);
    service.changed(at(2), "a", &change(7, 3, "(b, c)"));
    let samples: Vec<String> = service
        .changed(at(40), "a", &change(0, 1, "y"))
        .iter()
        .filter(|action| matches!(action, Action::Retention(_)))
        .map(describe)
        .collect();
    assert_eq!(samples, ["retained 3 of 6"]);
}

#[test]
fn an_accept_is_followed_by_several_lines() {
    check(
        OPTIONS,
        &[
            (Type(1, "x = $0\n"), &["start 1 Auto"]),
            (Done(1, &["foo(a)"]), &["1: foo(a)", "Model"]),
            (Change(4, 0, "f"), &[]),
            (Change(5, 0, "oo(a)"), &["accepted 5"]),
            (Type(2, "x = foo(a)$0\n"), &["start 2 after an accept"]),
            (Done(2, &["\ny = 1"]), &["2: \ny = 1", "Model"]),
            // A menu entry was selected: its text and the suggestion replace what was typed.
            (Change(8, 2, "a)\ny = 1"), &["accepted 6"]),
            (Change(0, 0, "z"), &[]),
            (Type(3, "zx = foo(a)\ny = 1$0\n"), &["start 3 Auto"]),
        ],
    );
}

#[test]
fn the_next_request_is_answered_beforehand() {
    check(
        SPECULATING,
        &[
            (Type(1, "x = $0\n"), &["start 1 Auto"]),
            (Done(1, &["foo()"]), &["1: foo()", "Model", "start 2 Speculation Small after \"x = foo()\""]),
            (Change(4, 0, "f"), &[]),
            (Type(2, "x = f$0\n"), &["2: oo()", "TypedThrough"]),
            (Done(2, &["\ny"]), &["unasked"]),
            (Change(5, 0, "oo()"), &["accepted 4"]),
            (
                Type(3, "x = foo()$0\n"),
                &["3: \ny", "Cache", "start 3 Speculation Small after \"x = foo()\\ny\""],
            ),
            (Change(9, 0, "\ny"), &["accepted 2"]),
            (Type(4, "x = foo()\ny$0\n"), &[]),
            (
                Done(3, &[" = 1"]),
                &["unasked", "4:  = 1", "Joined", "start 4 Speculation Small after \"x = foo()\\ny = 1\""],
            ),
            (Change(11, 0, "z"), &["cancel 4"]),
            // Typing something else is no accept.
            (Type(5, "x = foo()\nyz$0\n"), &["start 5 Auto"]),
        ],
    );
}

#[test]
fn prompts_are_prewarmed_when_opened_and_when_idle() {
    let mut service = Service::new(Options { prewarm: true, ..OPTIONS });
    let now = Instant::now();
    let start = |actions: &[Action]| match actions.last() {
        Some(Action::Start(start)) => (**start).clone(),
        other => panic!("nothing starts: {other:?}"),
    };
    let location = editor_request(0, "x = $0\n", Trigger::Automatic).document;
    let warm = start(&service.opened("a", location));
    assert_eq!((warm.purpose, warm.window, warm.not_before), (Purpose::Prewarm, Window::Small, None));
    assert_eq!((warm.request.max_tokens, warm.priority()), (0, Priority::Background));
    service.done(now, warm.job, Outcome::default());
    let answer = start(&service.request(now, editor_request(1, "x = $0\n", Trigger::Automatic)));
    assert_eq!(answer.priority(), Priority::Interactive);
    let idle = start(&service.done(now, answer.job, outcome(&["y"])));
    assert_eq!((idle.window, idle.not_before), (Window::Large, Some(now + OPTIONS.idle)));
}

#[test]
fn the_text_of_a_document_is_not_copied() {
    let mut service = Service::new(Options { prewarm: true, ..OPTIONS });
    let (now, editor_request) = (Instant::now(), editor_request(1, "x = $0\n", Trigger::Automatic));
    let document = editor_request.document.clone();
    let answer = service.request(now, editor_request);
    let prewarm = service.done(now, 1, outcome(&["y"]));
    for actions in [answer, prewarm] {
        let Some(Action::Start(start)) = actions.last() else { panic!("nothing starts") };
        assert!(Arc::ptr_eq(&start.request.document, &document));
    }
}

#[test]
fn budgets_and_debounce_depend_on_who_asks_and_how() {
    let mut service = Service::new(OPTIONS);
    let mut now = Instant::now();
    let mut start = |service: &mut Service, ms: u64, trigger| {
        now += Duration::from_millis(ms);
        // Places that have nothing to do with each other.
        let document = format!("{} = $0\n", milliseconds(now.elapsed()) + ms as f64);
        let document = format!("{document}{:?}", now);
        let actions = service.request(now, editor_request(0, &document, trigger));
        match actions.into_iter().find(|action| matches!(action, Action::Start(_))) {
            Some(Action::Start(start)) => (now, start),
            other => panic!("nothing starts: {other:?}"),
        }
    };
    let (now, first) = start(&mut service, 0, Trigger::Automatic);
    assert_eq!((first.not_before, first.alternatives), (None, 1));
    assert_eq!(
        first.budget,
        Budget { line_until: Some(now + OPTIONS.soft), until: Some(now + OPTIONS.hard) }
    );
    let mut waits = Vec::new();
    for ms in [50, 50, 50, 50, 50, 1000, 300] {
        let (now, next) = start(&mut service, ms, Trigger::Automatic);
        waits.push(next.not_before.map_or(0, |at| (at - now).as_millis()));
    }
    assert!(waits[..5].is_sorted() && waits[4] > 60 && waits[4] <= 75, "{waits:?}");
    assert!(waits[5] == 0 && waits[6] > 0 && waits[6] < waits[4], "{waits:?}");
    let (now, invoked) = start(&mut service, 50, Trigger::Invoked);
    assert_eq!((invoked.not_before, invoked.alternatives), (None, 3));
    assert_eq!(invoked.budget, Budget { line_until: None, until: Some(now + OPTIONS.hard) });
    let timings = Timings { prefill_ms: 5.0, decode_ms: 20.0, ..Timings::default() };
    service.done(now, invoked.job, Outcome { timings, ..outcome(&["x"]) });
    assert_eq!(start(&mut service, 50, Trigger::Automatic).1.not_before, None, "the model is fast");
}

#[test]
fn old_answers_make_room() {
    let (mut service, now) = (Service::new(OPTIONS), Instant::now());
    for i in 0..CACHE_ENTRIES_MAX as u64 + 10 {
        service.request(now, editor_request(i, &format!("{i} = $0\n"), Trigger::Automatic));
        service.done(now, i + 1, outcome(&["x"]));
    }
    assert_eq!(service.cache.len(), CACHE_ENTRIES_MAX);
    assert!(service.pending.is_empty());
}

#[test]
fn the_cursor_is_expected_after_the_head() {
    for (text, at) in [
        (String::new(), 0),
        ("ab\n".into(), 3),
        ("é".repeat(PREWARM_BYTES), PREWARM_BYTES),
        ("é\n".repeat(PREWARM_BYTES), 4095),
    ] {
        assert_eq!(Service::first_cursor(&text), at);
    }
}

/// A typist, an editor and a model that all know the same text, in random order: everyone who asks is
/// answered once, and an answer continues the text as soon as it comes from the place it was asked for.
#[test]
fn everyone_is_answered_once_whatever_happens() {
    const TEXT: &str =
        "fn add(a: u8, b: u8) -> u8 {\n    a + b\n}\n\nfn sub(a: u8, b: u8) -> u8 {\n    a - b\n}\n";
    for seed in 0..400u64 {
        let mut numbers = Mmix(seed);
        let mut random = move |below| numbers.below(below);
        let options = Options { speculate: seed % 2 == 0, prewarm: seed % 3 == 0, ..OPTIONS };
        let (mut service, mut now) = (Service::new(options), Instant::now());
        let mut open: HashMap<RequestId, (String, String)> = HashMap::new();
        let mut jobs: Vec<(Start, usize)> = Vec::new();
        let (mut records, mut answers, mut sources) = (0, 0, [0; 5]);
        let mut at = 0;
        let mut on_request = 0;
        for turn in 0..150 {
            now += Duration::from_millis(random(120) as u64);
            let key = ["a", "b"][usize::from(random(9) == 0)];
            let actions = match random(12) {
                0..4 => {
                    on_request += 1;
                    let (prefix, suffix) = (TEXT[..at].to_owned(), String::new());
                    let trigger = if random(6) == 0 { Trigger::Invoked } else { Trigger::Automatic };
                    open.insert(on_request, (prefix.clone(), key.into()));
                    let document = Document::new(None, prefix, suffix).into();
                    service.request(now, EditorRequest { id: on_request, key: key.into(), document, trigger })
                }
                4 => {
                    let (from, length) = (at, random(4).min(TEXT.len() - at));
                    at += length;
                    let inserted = TEXT[from..at].to_owned();
                    service.changed(now, key, &edit::Change { at: from, removed: 0, inserted })
                }
                5 => {
                    let to = at;
                    at = at.saturating_sub(random(3));
                    let (removed, inserted) = (to - at, String::new());
                    service.changed(now, key, &edit::Change { at, removed, inserted })
                }
                6 if random(4) == 0 => service.cancel(now, on_request),
                7 if random(12) == 0 => service.closed(now, key),
                _ if jobs.is_empty() => Vec::new(),
                8..10 => {
                    let i = random(jobs.len());
                    let (start, generated_text) = &mut jobs[i];
                    let (job, from) = (start.job, start.request.document.prefix.len() + *generated_text);
                    let text = &TEXT[from.min(TEXT.len())..(from + 3).min(TEXT.len())];
                    *generated_text += text.len();
                    service.streamed(now, job, text)
                }
                _ => {
                    let (start, _) = jobs.swap_remove(random(jobs.len()));
                    let rest = &TEXT[start.request.document.prefix.len().min(TEXT.len())..];
                    let items = if start.request.max_tokens == 0 { vec![] } else { vec![rest, "z", rest] };
                    let is_cancelled_or_failed = random(6) == 0;
                    let items: Vec<&str> = items.into_iter().filter(|text| !text.trim().is_empty()).collect();
                    service.done(now, start.job, Outcome { is_cancelled_or_failed, ..outcome(&items) })
                }
            };
            let is_last = turn == 149;
            let mut queue: VecDeque<Action> = actions.into();
            if is_last {
                queue.extend(service.closed_all(now));
            }
            loop {
                let Some(action) = queue.pop_front() else {
                    let Some((start, _)) = jobs.pop_if(|_| is_last) else { break };
                    queue.extend(service.done(now, start.job, Outcome::default()));
                    continue;
                };
                match action {
                    Action::Answer { id, items } => {
                        answers += 1;
                        let (prefix, _) = open.remove(&id).expect("it was asked and not yet answered");
                        let expected = &TEXT[prefix.len()..];
                        let fits = items.is_empty() || items.iter().any(|item| item.text == expected);
                        assert!(fits || items.iter().all(|item| item.text == "z"), "{items:?}");
                    }
                    Action::Record(record) => {
                        records += 1;
                        sources[record.source as usize] += 1;
                    }
                    Action::Start(start) => jobs.push((*start, 0)),
                    Action::Cancel { job } => {
                        if let Some(i) = jobs.iter().position(|(start, _)| start.job == job) {
                            jobs.swap_remove(i);
                            let void = Outcome { is_cancelled_or_failed: true, ..Outcome::default() };
                            queue.extend(service.done(now, job, void));
                        }
                    }
                    Action::Background { .. } | Action::Accepted { .. } | Action::Retention(_) => {}
                }
            }
        }
        assert!(open.is_empty(), "seed {seed}: nobody answered {:?}", open.keys());
        assert_eq!((answers, records), (on_request, on_request), "seed {seed}");
        assert!(service.pending.is_empty() && sources[..4].iter().filter(|&&n| n > 0).count() >= 2);
    }
}
