//! Tests of prompts.

use super::super::encode::tests::{starter, tokenizers};
use super::super::fim::Format;
use super::*;
use crate::base::random::Mmix;
use crate::decode::StopReason;
use crate::model::tokenizer::tests::{tiny, tiny_fim};

const ORDERS: [Order; 3] = [Order::Psm, Order::Spm, Order::PsmAnchored];

fn request(document: &str) -> Request {
    let (prefix, suffix) = document.split_once("$0").unwrap();
    Request { max_tokens: 32, ..Request::new(prefix, suffix) }
}

fn plan(request: &Request, order: Order, tokenizer: &Tokenizer, context: usize) -> Result<Task> {
    let planned =
        Planner::new(Options::new(order)).plan("a", request, Window::Small, tokenizer, context, None);
    planned.map(|planned| planned.task)
}

/// The text of a whole prompt.
fn spell(task: &Task, tokenizer: &Tokenizer) -> String {
    tokenizer.decode(&task.prompt) + &task.forced_prefix
}

#[test]
fn plans_fit_the_context() {
    let tokenizer = tiny_fim();
    let long = "let a = b;\r\n".repeat(2000);
    for (prefix, suffix) in [("x = ", ")\n"), (&*long, &*long), ("", ""), (&*long, ""), ("é", &*long)] {
        for (context, order) in [64, 200, 2000, 100_000].into_iter().flat_map(|c| ORDERS.map(|o| (c, o))) {
            let request = Request { max_tokens: 32, ..Request::new(prefix, suffix) };
            for (window, speed) in [(Window::Small, None), (Window::Small, Some(1e4)), (Window::Large, None)]
            {
                let mut planner = Planner::new(Options::new(order));
                let task = planner.plan("a", &request, window, &tokenizer, context, speed).unwrap().task;
                assert!(task.prompt.len() + task.max_tokens <= context && task.max_tokens == 32);
                let most = if window == Window::Large { 4096 + 1024 } else { speed.map_or(1280, |_| 2048) };
                assert!(task.prompt.len() <= 3 + most);
                assert!(!tokenizer.decode(&task.prompt).contains('\r'));
                assert!(
                    task.marks
                        .iter()
                        .all(|mark| mark.at <= task.prompt.len() && mark.unstable_tokens <= mark.at)
                );
            }
        }
    }
    let task = plan(&request("foo($0);\r\nbar"), Order::Psm, &tokenizer, 4096).unwrap();
    assert_eq!(tokenizer.decode(&task.prompt), "<|fim_prefix|>foo(<|fim_suffix|>\nbar<|fim_middle|>");
    assert_eq!(task.stop_ids, tokenizer.stop_ids());
}

#[test]
fn a_small_window_fits_the_machine() {
    let (tokenizer, long) = (starter(), "let a = b(c);\n".repeat(5000));
    let request = Request { max_tokens: 32, ..Request::new(long.clone(), format!("\n{long}")) };
    let tokens = |window, speed| {
        let mut planner = Planner::new(Options::new(Order::PsmAnchored));
        planner.plan("a", &request, window, &tokenizer, 100_000, speed).unwrap().task.prompt.len()
    };
    let small = [Some(10.0), None, Some(300.0), Some(1e6)].map(|speed| tokens(Window::Small, speed));
    for (tokens, expected) in small.into_iter().zip([256, 1280, 450, 2048]) {
        assert!(tokens <= expected + 3 && tokens * 10 >= expected * 6, "{tokens} of {expected}");
    }
    let large = tokens(Window::Large, None);
    assert!((4000..=5123).contains(&large), "{large}");
    assert!(tokens(Window::Large, Some(100.0)) <= 1503);
}

#[test]
fn orders_differ_in_the_anchor() {
    let tokenizer = tiny_fim();
    let cases = [
        (Order::Psm, "<|fim_prefix|>a\n b<|fim_suffix|>\nc<|fim_middle|>", ""),
        (Order::Spm, "<|fim_prefix|><|fim_suffix|>\nc<|fim_middle|>a\n", " b"),
        (Order::PsmAnchored, "<|fim_prefix|>a\n<|fim_suffix|>\nc<|fim_middle|>", " b"),
    ];
    for (order, prompt, open) in cases {
        let task = plan(&request("a\n b$0)\nc"), order, &tokenizer, 4096).unwrap();
        assert_eq!((tokenizer.decode(&task.prompt), &*task.forced_prefix), (prompt.into(), open));
    }
}

/// The prompts of one document as it changes, with whether they were kept.
fn prompts(options: Options, steps: &[(&str, Window)]) -> Vec<(String, Anchoring)> {
    let (tokenizer, mut planner) = (starter(), Planner::new(options));
    let mut step = |&(document, window): &(&str, Window)| {
        let (prefix, suffix) = document.split_once("$0").unwrap();
        let request = Request::new(prefix, suffix);
        let planned = planner.plan("a", &request, window, &tokenizer, 8192, None).unwrap();
        (spell(&planned.task, &tokenizer), planned.anchoring)
    };
    steps.iter().map(&mut step).collect()
}

#[test]
fn a_large_window_waits_for_its_turn() {
    let body: String = (0..300).map(|i| format!("fn item{i}(index: usize) -> usize {{ index }}\n")).collect();
    let at = |typed: &str| format!("{body}{typed}");
    let (one, two, undone) = (at("x$0\nz"), at("x.y$0\nz"), body.trim_end().to_owned() + "$0\nz");
    let steps = [
        (&*one, Window::Small),
        (&*two, Window::Small),
        (&*two, Window::Large),
        (&*two, Window::Large),
        (&*one, Window::Small),
        (&*undone, Window::Small),
        (&*undone, Window::Large),
    ];
    let prompts = prompts(Options::new(Order::PsmAnchored), &steps);
    let expected =
        [Some(Reason::First), None, Some(Reason::Idle), Some(Reason::Idle), None, Some(Reason::Undone)];
    for ((_, anchoring), expected) in prompts.iter().zip(expected) {
        assert_eq!(*anchoring, expected.map_or(Anchoring::Kept, Anchoring::Anchored));
    }
    let before = |prompt: &str| prompt.split("<|fim_suffix|>").next().unwrap().to_owned();
    let [small, large, again, kept, switched] = [0, 2, 3, 4, 5].map(|at| prompts[at].0.clone());
    assert!(large.len() > 2 * small.len());
    assert_eq!(large, again);
    assert_eq!(before(&small), before(&kept), "still the small one");
    assert!(large.starts_with(&before(&switched)), "goes on from the large one");
}

#[test]
fn context_stands_first_and_stays() {
    let tokenizer = starter();
    let file = |path: &str, text: &str| ContextFile { path: path.into(), text: text.into() };
    let mut planner = Planner::new(Options::new(Order::PsmAnchored));
    let mut spelled = |prefix: &str, context: &[ContextFile], window, speed| {
        let document = Document::new(Some("c.rs".into()), prefix, "\nz").with_context(context.to_vec());
        let request = Request::of(Document { repository: Some("repo".into()), ..document });
        let task = planner.plan("a", &request, window, &tokenizer, 8192, speed).unwrap().task;
        assert_eq!(task.marks.len(), if context.is_empty() { 2 } else { 3 });
        spell(&task, &tokenizer)
    };
    let fast = Some(5000.0);
    let (a, b, b2) = (file("a.rs", "fn a() {}\n"), file("b.rs", "fn b() {}"), file("b.rs", "fn b2() {}\n"));
    let with_a = "<|repo_name|>repo\n<|file_sep|>a.rs\nfn a() {}\n";
    let with_b = "<|file_sep|>b.rs\nfn b() {}\n";
    let own = "<|file_sep|>c.rs\n<|fim_prefix|><|fim_suffix|>\nz<|fim_middle|>";
    assert_eq!(spelled("x", std::slice::from_ref(&a), Window::Small, fast), format!("{with_a}{own}x"));
    // New files wait for a new anchor.
    let both = [a.clone(), b];
    assert_eq!(spelled("xy", &both, Window::Small, fast), format!("{with_a}{own}xy"));
    let own = "<|file_sep|>c.rs\n<|fim_prefix|>q\n<|fim_suffix|>\nz<|fim_middle|>";
    assert_eq!(spelled("q\nx", &both, Window::Large, None), format!("{with_a}{with_b}{own}x"));
    // A changed file is shown once, as it is now.
    let changed = [a, b2];
    let with_b2 = "<|file_sep|>b.rs\nfn b2() {}\n";
    assert_eq!(spelled("q\nx", &changed, Window::Large, None), format!("{with_a}{with_b2}{own}x"));
}

/// A document that is typed in while the files of its context are edited, closed and opened.
#[test]
fn context_is_what_the_files_are_now() {
    let tokenizer = starter();
    let options = Options { context_tokens_max: 600, ..Options::new(Order::PsmAnchored) };
    for seed in 1..40 {
        let (mut planner, mut random) = (Planner::new(options), Mmix(seed));
        let mut files: Vec<ContextFile> = Vec::new();
        let mut last: Option<Vec<u32>> = None;
        let (mut typed, mut version) = (String::from("import os\nx = "), 0);
        for _ in 0..60 {
            let old = files.clone();
            let window = if random.below(8) == 0 { Window::Large } else { Window::Small };
            match random.below(12) {
                0..2 if files.len() < 4 => {
                    version += 1;
                    let text = format!("v{version}\n{}", "let a = b(c);\n".repeat(random.below(40)));
                    files.push(ContextFile { path: format!("f{version}.rs"), text });
                }
                2 if !files.is_empty() => drop(files.remove(random.below(files.len()))),
                3 if !files.is_empty() => {
                    version += 1;
                    let at = random.below(files.len());
                    files[at].text = format!("v{version}\n{}", files[at].text);
                    let changed = files.remove(at);
                    files.push(changed);
                }
                _ if window == Window::Large => {}
                4 => typed.push_str("\n    "),
                _ => typed.push_str(" + y"),
            }
            let document = Document::new(Some("c.rs".into()), &*typed, "\nz").with_context(files.clone());
            let planned =
                planner.plan("a", &Request::of(document), window, &tokenizer, 8192, Some(5000.0)).unwrap();
            let spelled = spell(&planned.task, &tokenizer);
            let shown: Vec<&str> = spelled.split("<|file_sep|>").skip(1).collect();
            let (_, others) = shown.split_last().unwrap_or((&"", &[]));
            for other in others {
                let (path, text) = other.split_once('\n').unwrap();
                let file = files.iter().find(|file| file.path == path).expect("it is open");
                assert!(file.text.starts_with(text.trim_end_matches('\n')), "{path} is {text:?}");
                assert_eq!(others.iter().filter(|other| other.starts_with(&format!("{path}\n"))).count(), 1);
            }
            let first_mark = planned.task.marks[0].at;
            assert!(others.is_empty() || first_mark <= 600, "{first_mark}");
            // Typing costs what was typed, whatever is open.
            let ids = full(&planned.task, &tokenizer);
            if let Some(last) = last.as_ref().filter(|_| old == files && planned.anchoring == Anchoring::Kept)
            {
                assert!(ids.len() - common(last, &ids) <= 4, "{}", ids.len() - common(last, &ids));
            }
            // One for the next anchor is not typed at.
            last = if planned.anchoring == Anchoring::Anchored(Reason::Idle) { last } else { Some(ids) };
        }
    }
}

#[test]
fn what_is_inserted_above_reaches_the_prompt() {
    let tokenizer = starter();
    let body: String = (0..12).map(|i| format!("value_{i} = load(\"{i}\")\n")).collect();
    for order in ORDERS {
        let mut planner = Planner::new(Options::new(order));
        let mut spelled = |head: &str, window| {
            let request = Request::new(format!("{head}{body}x = "), "\nz\n");
            spell(&planner.plan("a", &request, window, &tokenizer, 8192, None).unwrap().task, &tokenizer)
        };
        spelled("", Window::Small);
        for (head, window) in [
            ("import numpy\n", Window::Small),
            ("import os\nimport numpy\n", Window::Large),
            ("# Licence\n\nimport numpy\n", Window::Small),
            ("", Window::Small),
        ] {
            let prompt = spelled(head, window);
            let shown = prompt.replace("<|fim_suffix|>\nz\n<|fim_middle|>", "");
            assert_eq!(shown, format!("<|fim_prefix|>{head}{body}x = "), "{order:?}");
        }
    }
}

#[test]
fn what_is_inserted_above_a_window_with_room_reaches_the_prompt() {
    let tokenizer = starter();
    let line = |i: usize| format!("fn item{i}(index: usize) -> usize {{ index }}\n");
    let body: String = (0..200).map(line).collect();
    let mut planner = Planner::new(Options::new(Order::PsmAnchored));
    let mut shows = |head: &str, body: &str, window, speed| {
        let request = Request::new(format!("{head}{body}x = "), "\nz\n");
        let planned = planner.plan("a", &request, window, &tokenizer, 16_000, speed).unwrap();
        (planned.anchoring, spell(&planned.task, &tokenizer).contains("import numpy"))
    };
    assert!(!shows("", &body, Window::Small, None).1);
    // What is far above a full window costs nothing.
    assert_eq!(shows("import numpy\n", &body, Window::Small, None), (Anchoring::Kept, false));
    // With half the text gone there is room.
    let rest: String = (190..200).map(line).collect();
    shows("", &rest, Window::Small, None);
    assert!(shows("import numpy\n", &rest, Window::Small, None).1);
}

/// A document longer than its window, with imports at its head.
struct Long {
    head: String,
    typed: String,
}

impl Long {
    fn request(&self) -> Request {
        let line = |i: usize| format!("value_{i} = load(\"{i}\", mode=compute(index, {i}))\n");
        let body: String = (0..200).map(line).collect();
        let Self { head, typed } = self;
        Request::of(Document::new(Some("a.py".into()), format!("{head}{body}x = {typed}"), "\nz\n"))
    }
}

#[test]
fn imports_above_the_window_are_in_the_prompt_as_they_are_now() {
    let tokenizer = starter();
    for order in ORDERS {
        let mut planner = Planner::new(Options::new(order));
        let mut document = Long { head: "# Licence.\n\nimport os\n\n".into(), typed: String::new() };
        let mut last = Vec::new();
        let mut plan = |document: &Long| {
            let planned =
                planner.plan("a", &document.request(), Window::Small, &tokenizer, 16_000, None).unwrap();
            let ids = full(&planned.task, &tokenizer);
            let new = ids.len() - common(&last, &ids);
            last = ids;
            (planned.anchoring, spell(&planned.task, &tokenizer), new, planned.task.prompt.len())
        };
        let (_, spelled, _, tokens) = plan(&document);
        assert!(spelled.contains("import os\nvalue_") && !spelled.contains("Licence"), "{order:?}");
        assert!(
            spelled.contains("value_199") && !spelled.contains("value_0 "),
            "it is longer than the window"
        );
        assert!(tokens <= 1283, "{tokens}");
        // An editor adds imports while the cursor stays.
        let added = "# Licence.\n\nimport os\nfrom numpy import (\n    array,\n)\n\n";
        document.head = added.into();
        let (anchoring, spelled, ..) = plan(&document);
        assert_eq!(anchoring, Anchoring::Anchored(Reason::EditBefore));
        assert!(spelled.contains("import os\nfrom numpy import (\n    array,\n)\nvalue_"), "{order:?}");
        // Typing costs what is typed.
        for letter in "load".chars() {
            document.typed.push(letter);
            let (anchoring, spelled, new, _) = plan(&document);
            assert!(anchoring == Anchoring::Kept && spelled.contains("from numpy"));
            let others = if order == Order::Psm { tokenizer.encode("\nz\n").len() + 2 } else { 0 };
            assert!(new <= 2 + others, "{order:?}: {new}");
        }
        // What else changes far above costs nothing.
        document.head = added.replace("Licence", "License");
        assert_eq!(plan(&document).0, Anchoring::Kept);
        // An import that is gone is gone.
        document.head = "import os\n".into();
        let (anchoring, spelled, ..) = plan(&document);
        assert!(anchoring != Anchoring::Kept && !spelled.contains("numpy"));
    }
}

#[test]
fn a_new_import_is_shown_among_many() {
    let tokenizer = starter();
    let mut planner = Planner::new(Options::new(Order::PsmAnchored));
    let many: String = (0..60).map(|i| format!("import library_number_{i}\n")).collect();
    let mut spelled = |head: &str, typed: &str| {
        let document = Long { head: head.into(), typed: typed.into() };
        let task =
            planner.plan("a", &document.request(), Window::Small, &tokenizer, 16_000, None).unwrap().task;
        assert!(task.prompt.len() <= 1283);
        spell(&task, &tokenizer)
    };
    let first = spelled(&many, "");
    assert!(first.contains("import library_number_59\n") && !first.contains("import library_number_0\n"));
    let with_new = format!("import numpy\n{many}");
    assert!(spelled(&with_new, "").contains("<|fim_prefix|>import numpy\nimport library_number_"));
    // It stays there when another one is added.
    let with_both = format!("import pandas\n{with_new}");
    assert!(spelled(&with_both, "").contains("import pandas\nimport numpy\nimport library"));
}

#[test]
fn context_has_a_budget() {
    let (tokenizer, text) = (starter(), "let a = b(c);\n".repeat(80));
    let options = Options { context_tokens_max: 1500, ..Options::new(Order::Psm) };
    let mut planner = Planner::new(options);
    let mut context = Vec::new();
    for round in 0..12 {
        context.push(ContextFile { path: format!("{round}.rs"), text: format!("{round}\n{text}") });
        let request = Request::of(Document::new(None, "x", "\nz").with_context(context.clone()));
        let task = planner.plan("a", &request, Window::Large, &tokenizer, 8192, None).unwrap().task;
        let spelled = spell(&task, &tokenizer);
        assert!(task.marks[0].at <= 1500);
        assert!(spelled.contains(&format!("<|file_sep|>{round}.rs\n")), "the newest is shown");
    }
}

#[test]
fn a_chat_is_prefilled_and_its_fence_is_dropped() {
    let options = Options { format: Some(Format::Chat), ..Options::new(Order::PsmAnchored) };
    let prompts = prompts(options, &[("a\nx = 1$0\nb", Window::Small)]);
    assert!(
        prompts[0].0.ends_with("<|fim_middle|><|im_end|>\n<|im_start|>assistant\nx = 1"),
        "{}",
        prompts[0].0
    );

    let planner = Planner::new(options);
    for (output, expected) in [("```python\nreturn 1\n```\nDone.", "return 1"), ("return 1\n", "return 1")] {
        let request = request("def f():\n    $0\n");
        let mut stop = rules::stop(&request, Format::Chat);
        let cut = (0..=output.len()).find_map(|end| stop.check(&output[..end]));
        let generated = Generated {
            text: output[..cut.unwrap_or(output.len())].into(),
            ..Generated::empty(StopReason::Rule)
        };
        assert_eq!(planner.finish(&request, generated).unwrap().text, expected);
    }
}

#[test]
fn a_model_that_only_chats_is_asked_for_a_replacement() {
    let tokenizer = tiny(&["<s>"]).with_chat("{% for m in messages %}<s>{{ m.content }}{% endfor %}<s>");
    let mut planner = Planner::new(Options::new(Order::Spm));
    let request = request("a\n    x = 1$0)\nb\n");
    let task = planner.plan("a", &request, Window::Small, &tokenizer, 4096, None).unwrap().task;
    let spelled = spell(&task, &tokenizer);
    assert!(spelled.contains("a\n<<<HERE>>>\nb\n"), "{spelled}");
    assert!(spelled.ends_with("<s>`````\n    x = 1"), "{spelled}");
    for (output, expected) in [("2\n`````\nDone.", Some("2")), ("2", Some("2")), ("`````", None)] {
        let mut stop = task.stop.clone();
        let cut = (0..=output.len()).find_map(|end| stop.check(&output[..end]));
        let text = output[..cut.unwrap_or(output.len())].into();
        let generated = Generated { text, ..Generated::empty(StopReason::Rule) };
        let invoked = Request { is_invoked: true, ..request.clone() };
        let completion = planner.finish(&invoked, generated).ok();
        assert_eq!(completion.as_ref().map(|completion| completion.text.as_str()), expected, "{output}");
    }
}

#[test]
fn documents_are_forgotten() {
    let (tokenizer, mut planner) = (tiny_fim(), Planner::new(Options::new(Order::Psm)));
    let anchoring = |planner: &mut Planner, key: &str| {
        planner.plan(key, &request("x$0"), Window::Small, &tokenizer, 4096, None).unwrap().anchoring
    };
    let first = Anchoring::Anchored(Reason::First);
    assert_eq!(anchoring(&mut planner, "0"), first);
    assert_eq!(anchoring(&mut planner, "0"), Anchoring::Kept);
    planner.forget("0");
    assert_eq!(anchoring(&mut planner, "0"), first);
    for key in 1..=DOCUMENTS_MAX {
        anchoring(&mut planner, &key.to_string());
    }
    assert_eq!(anchoring(&mut planner, "0"), first);
    assert!(planner.documents.len() <= DOCUMENTS_MAX);
}

#[test]
fn what_cannot_be_planned_says_why() {
    let error = plan(&request("$0"), Order::Psm, &tiny(&["<|fim_prefix|>"]), 4096).unwrap_err().to_string();
    assert!(error.contains("<|fim_middle|>"), "{error}");
    let error = plan(&request("$0"), Order::Psm, &tiny_fim(), 20).unwrap_err().to_string();
    assert!(error.contains("20 tokens"), "{error}");
}

/// Tokens of a prompt, its last word included.
fn full(task: &Task, tokenizer: &Tokenizer) -> Vec<u32> {
    [&task.prompt[..], &tokenizer.encode(&task.forced_prefix)].concat()
}

fn common(one: &[u32], other: &[u32]) -> usize {
    one.iter().zip(other).take_while(|(a, b)| a == b).count()
}

/// What happened over many prompts of one order.
#[derive(Default)]
struct Tally {
    kept: usize,
    reasons: HashMap<Reason, usize>,
    /// For each prompt that was kept: tokens of the changed text, tokens of it from the start of the word
    /// that it changed, and tokens that differ.
    tokens: Vec<[usize; 3]>,
}

/// Somebody who types, deletes, undoes, jumps and accepts at random.
struct Typist {
    text: String,
    cursor: usize,
    undo: Vec<(String, usize)>,
    random: Mmix,
}

impl Typist {
    fn below(&mut self, limit: usize) -> usize {
        self.random.below(limit)
    }

    fn insert(&mut self, text: &str) {
        self.text.insert_str(self.cursor, text);
        self.cursor += text.len();
    }

    fn delete(&mut self) {
        if let Some(last) = self.text[..self.cursor].chars().next_back() {
            self.cursor -= last.len_utf8();
            self.text.remove(self.cursor);
        }
    }

    /// Whether it was a keystroke, not a jump.
    fn act(&mut self, words: &[&str]) -> bool {
        if self.below(40) == 0 {
            self.undo.push((self.text.clone(), self.cursor));
        }
        let line_start = self.text[..self.cursor].rfind('\n').map_or(0, |end| end + 1);
        match self.below(200) {
            0 => {
                let at = self.below(self.text.len() + 1);
                self.cursor = (at..).find(|&at| self.text.is_char_boundary(at)).unwrap();
                self.cursor += self.text[self.cursor..].find('\n').unwrap_or(self.text.len() - self.cursor);
                return false;
            }
            1 if !self.undo.is_empty() => {
                (self.text, self.cursor) = self.undo.pop().unwrap();
                return false;
            }
            2..20 => self.delete(),
            20..24 => (0..self.below(12)).for_each(|_| self.delete()),
            24..34 => {
                let line = &self.text[line_start..self.cursor];
                let blank = line[..line.len() - line.trim_start().len()].to_owned();
                self.insert(&format!("\n{blank}"));
            }
            34..40 => {
                self.insert("()");
                self.cursor -= 1;
            }
            40..44 if self.text[self.cursor..].starts_with(')') => self.cursor += 1,
            44..48 => {
                let accepted: Vec<&str> = (0..4).map(|_| words[self.below(words.len())]).collect();
                self.insert(&accepted.join(" "));
            }
            _ => {
                let word = words[self.below(words.len())];
                let at = self.below(word.len());
                let letter = word.chars().nth(at).unwrap_or(' ').to_string();
                let is_blank = self.below(6) == 0;
                self.insert(if is_blank { " " } else { &letter });
            }
        }
        true
    }
}

#[test]
fn a_keystroke_changes_what_was_typed() {
    let texts = [
        include_str!("../gate.rs"),
        include_str!("../../../scripts/make_vectors.py"),
        &include_str!("../trim.rs").replace('\n', "\r\n"),
        "",
    ];
    for tokenizer in tokenizers() {
        for order in ORDERS {
            let mut tally = Tally::default();
            for (seed, text) in (1..).zip(texts) {
                let cursor = text[..text.len() / 2].rfind('\n').map_or(0, |end| end + 1);
                let mut typist = Typist { text: text.into(), cursor, undo: Vec::new(), random: Mmix(seed) };
                walk(&mut typist, order, &tokenizer, &mut tally);
            }
            let Tally { kept, reasons, mut tokens } = tally;
            let anchored: usize = reasons.values().sum();
            let over = |at: usize| tokens.iter().filter(|tokens| tokens[2] > tokens[at] + 2).count();
            let (letters, words) = (over(0), over(1));
            tokens.sort_unstable_by_key(|tokens| tokens[2]);
            let at = |share: usize| tokens[tokens.len() * share / 100][2];
            eprintln!(
                "{order:?}: kept {kept}, anchored anew {reasons:?}; tokens that differ: median {}, p90 {}, \
                 p99 {}; more than those of the changed text + 2: {letters}, of the changed words + 2: {words}",
                at(50),
                at(90),
                at(99)
            );
            assert_eq!(words, 0, "{order:?}");
            assert!(letters * 20 <= kept, "{order:?}: {letters}");
            assert!(anchored * 12 <= kept, "{order:?}: anchored anew {anchored} times, kept {kept} times");
        }
    }
}

fn walk(typist: &mut Typist, order: Order, tokenizer: &Tokenizer, tally: &mut Tally) {
    let words: Vec<&str> =
        "let self return foo_bar HashMap 12 == ( ) \" ' , ; : é // value.len() += }".split(' ').collect();
    let mut planner = Planner::new(Options::new(order));
    let mut last: Option<(Vec<u32>, String, String)> = None;
    for _ in 0..400 {
        typist.act(&words);
        let (prefix, suffix) = typist.text.split_at(typist.cursor);
        let request = Request { max_tokens: 48, ..Request::new(prefix, suffix) };
        let planned = planner.plan("a", &request, Window::Small, tokenizer, 4096, None).unwrap();
        let ids = full(&planned.task, tokenizer);

        // The prompt spells the text around the cursor.
        let spelled = tokenizer.decode(&ids);
        let (before, rest) =
            spelled.strip_prefix("<|fim_prefix|>").unwrap().split_once("<|fim_suffix|>").unwrap();
        let (shown, typed) = rest.split_once("<|fim_middle|>").unwrap();
        let plain = |text: &str| text.replace("\r\n", "\n");
        let around = format!("{before}{typed}");
        assert!(plain(prefix).ends_with(&around), "{order:?}: {around:?}");
        assert!(!around.is_empty() || prefix.is_empty());
        assert!(plain(suffix).contains(shown), "{order:?}: {shown:?}");

        if let Some((old, old_prefix, old_shown)) = &last {
            match planned.anchoring {
                Anchoring::Kept => {
                    tally.kept += 1;
                    assert_eq!(shown, old_shown, "the suffix is stable");
                    let same = common_bytes(old_prefix, prefix);
                    // Words are what the tokenizer changes: the last one counts as a whole.
                    let word = plain(&prefix[word_start(&prefix[..same])..]);
                    let mut new = ids.len() - common(old, &ids);
                    if order == Order::Psm {
                        new = new.saturating_sub(tokenizer.encode(shown).len() + 2);
                    }
                    let changed = tokenizer.encode(&plain(&prefix[same..])).len();
                    tally.tokens.push([changed, tokenizer.encode(&word).len(), new]);
                }
                Anchoring::Anchored(reason) => *tally.reasons.entry(reason).or_default() += 1,
            }
        }
        last = Some((ids, prefix.to_owned(), shown.to_owned()));
    }
}

fn common_bytes(one: &str, other: &str) -> usize {
    let same = one.bytes().zip(other.bytes()).take_while(|(a, b)| a == b).count();
    (0..=same).rev().find(|&at| other.is_char_boundary(at)).unwrap()
}

/// Where the last word of `text` begins, with the blank or the sign before it.
fn word_start(text: &str) -> usize {
    let last = text.chars().next_back().unwrap_or(' ');
    let is_same =
        |c: char| c.is_alphanumeric() == last.is_alphanumeric() && c.is_whitespace() == last.is_whitespace();
    let start = text.trim_end_matches(is_same).len();
    text[..start].char_indices().next_back().map_or(0, |(at, _)| at)
}
