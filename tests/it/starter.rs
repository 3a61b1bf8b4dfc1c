//! The starter model is part of the product: what it was trained to do, it does.

use std::sync::mpsc;

use fimd::assist::{self, Action, Job, Outcome, Subject};
use fimd::base::Cancel;
use fimd::complete::fim::Order;
use fimd::complete::{Options, Request, driver};
use fimd::compute::Precision;
use fimd::compute::cpu::Cpu;
use fimd::decode::drafts::DraftCost;
use fimd::decode::sample::{argmax, log_softmax};
use fimd::decode::{Task, generate};
use fimd::hub;
use fimd::model::{Config, Model, Tokenizer};
use fimd::serve::{self, Engine};
use fimd::session::Session;

use crate::load;

fn open() -> (Session<Cpu>, Tokenizer) {
    let dir = hub::starter().unwrap();
    let options = load::options(4096, 256);
    let model = load::model(&dir, 2, 16, options).unwrap();
    (load::session(model), load::tokenizer(&dir))
}

/// Completes each document at its `$0`.
fn complete(documents: &[(&str, &str)], order: Order) -> Vec<(String, String)> {
    let (session, tokenizer) = open();
    let engine = Engine::start(session, tokenizer, || Ok(open().0));
    let answer = |document: &str| {
        let (prefix, suffix) = document.split_once("$0").unwrap();
        let request = Request { max_tokens: 48, ..Request::new(prefix, suffix) };
        let completion = driver::once(&engine, Options::new(order), request, &Cancel::new()).unwrap();
        completion.map(|completion| completion.text).unwrap_or_default()
    };
    documents.iter().map(|(document, expected)| (answer(document), (*expected).into())).collect()
}

#[test]
fn obvious_code_is_completed() {
    let cases = [
        (
            "the item of a loop",
            "def names(directory):\n    result = []\n    for name in os.listdir(directory):\n        result.$0\n    return result\n",
            "append(name)",
        ),
        (
            "what a loop built",
            "def names(paths):\n    result = []\n    for path in paths:\n        result.append(path.name)\n    return $0\n",
            "result",
        ),
        (
            "the step of a loop",
            "const numbers = [1, 2, 3];\nfor (let i = 0; i < numbers.length; $0) {\n  console.log(numbers[i]);\n}\n",
            "i++",
        ),
        (
            "a function just defined",
            "def area(width, height):\n    return width * height\n\n\nprint(area(2, 3))\nprint(ar$0\n",
            "ea(2, 3))",
        ),
        (
            "a parameter",
            "class Point:\n    def __init__(self, x, y):\n        self.x = x\n        self.y = $0\n",
            "y",
        ),
        (
            "the field of a struct",
            "impl Stack {\n    fn push(&mut self, item: u32) {\n        self.items.$0\n    }\n}\n",
            "push(item);",
        ),
        (
            "an import already used",
            "use std::collections::HashMap;\n\nfn count(words: &[String]) -> HashMap<String, usize> {\n    let mut counts = Hash$0\n    for word in words {\n        *counts.entry(word.clone()).or_insert(0) += 1;\n    }\n    counts\n}\n",
            "Map::new();",
        ),
        (
            "a logger already used",
            "import logging\n\nlogger = logging.getLogger(__name__)\n\n\ndef start():\n    logger.info(\"starting\")\n\n\ndef stop():\n    log$0\n",
            "ger.info(\"starting\")",
        ),
        ("a well-known guard", "def main():\n    pass\n\n\nif __name__ == $0\n    main()\n", "\"__main__\":"),
    ];
    let documents = cases.map(|(_, document, expected)| (document, expected));
    for ((title, ..), (answer, expected)) in cases.iter().zip(complete(&documents, Order::Spm)) {
        assert_eq!(answer, expected, "{title}");
    }
}

#[test]
fn code_never_seen_is_predicted_better_than_xz_does() {
    let (mut session, tokenizer) = open();
    let text = &include_str!("../../scripts/make_vectors.py")[..8192];
    let tokens = tokenizer.encode(text);
    let mut bits = 0.0;
    session
        .for_each_logits(&tokens, |i, logits| {
            if let Some(&next) = tokens.get(i + 1) {
                let mut logits = logits.to_vec();
                log_softmax(&mut logits);
                bits -= f64::from(logits[next as usize]) / std::f64::consts::LN_2;
            }
        })
        .unwrap();
    let bits_per_byte = bits / text.len() as f64;
    assert!(bits_per_byte < 2.0, "{bits_per_byte}; `xz -9e` needs 2.38");
}

/// Guesses at the next tokens change how many are evaluated at a time, and nothing else.
#[test]
fn guessing_tokens_changes_no_token() {
    let (mut session, tokenizer) = open();
    let code = "struct Point {\n    x: f64,\n    y: f64,\n}\n\nimpl Point {\n    fn x(&self) -> f64 {\n        self.x\n    }\n\n    fn y(&self) -> f64 {\n        self.y\n    }\n}\n";
    let (mut drafted, mut accepted) = (0, 0);
    for end in ["struct Size {\n", "struct Point3 {\n    x: f64,\n", "impl Size {\n    fn x(&self)"] {
        let prompt = tokenizer.encode(&format!("{code}\n{end}"));
        let mut expected = Vec::new();
        session.reset();
        session.sync(&prompt, &[], &Cancel::new()).unwrap();
        for _ in 0..100 {
            let mut logits = session.logits().to_vec();
            tokenizer.mask(&mut logits);
            expected.push(argmax(&logits));
            session.push(expected[expected.len() - 1], &Cancel::new()).unwrap();
        }
        session.reset();
        let mut draft_cost = DraftCost::default();
        // Whatever verifying costs here, it is taken to pay.
        draft_cost.record_single(1e9);
        let task = Task::greedy(prompt, 100);
        let found =
            generate(&mut session, Some(&tokenizer), &task, &mut draft_cost, &Cancel::new(), &mut |_| {})
                .unwrap();
        assert_eq!(found.ids, expected);
        drafted += found.drafted;
        accepted += found.accepted;
    }
    println!("{accepted} of {drafted} drafted tokens were right");
    assert!(accepted > 0 && accepted < drafted);
}

/// What saved states and traces lose in 16 bits is far less than what changes an answer.
#[test]
fn sixteen_bits_are_enough_for_saved_states() {
    let (mut exact, tokenizer) = open();
    let dir = hub::starter().unwrap();
    let backend = Cpu::new(load::cpu(2, 16, Precision::F16));
    let model = Model::load(&dir, Config::read(&dir).unwrap(), load::options(4096, 256), backend).unwrap();
    let mut session = load::session(model);
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/src/session/keep.rs")).unwrap();
    let ids = tokenizer.encode(&text);
    let (mut greatest, mut sum, mut count) = (0f32, 0f32, 0);
    for start in [0, 300, 600] {
        session.sync(&ids[..start + 200], &[], &Cancel::new()).unwrap();
        for len in start + 185..start + 225 {
            // Tokens that no prompt had here, so that the state is restored and gone on from.
            let other = [&ids[..len.min(start + 199)], &[ids[len] + 1, ids[len + 1]]].concat();
            session.sync(&other, &[], &Cancel::new()).unwrap();
            exact.reset();
            exact.sync(&other, &[], &Cancel::new()).unwrap();
            let mut rows = [session.logits().to_vec(), exact.logits().to_vec()];
            rows.iter_mut().for_each(|row| log_softmax(row));
            let best = argmax(&rows[1]) as usize;
            let error = (rows[0][best] - rows[1][best]).abs();
            (greatest, sum, count) = (greatest.max(error), sum + error, count + 1);
        }
    }
    println!(
        "error in the likeliest token's log-probability: mean {:.1e}, greatest {greatest:.1e}",
        sum / count as f32
    );
    assert!(sum / (count as f32) < 2e-3);
}

#[test]
fn definitions_are_documented() {
    let (session, tokenizer) = open();
    let engine = Engine::start(session, tokenizer, || Ok(open().0));
    let options = assist::Options { prompt: Options::new(Order::Spm), max_tokens: 256 };
    for (path, text, opening) in [
        (
            "a.py",
            "import os\n\n\ndef names(directory):\n    $0return sorted(os.listdir(directory))\n",
            "    \"\"\"",
        ),
        (
            "a.rs",
            "impl Stack {\n    pub fn is_empty(&self) -> bool {\n        $0self.items.is_empty()\n    }\n}\n",
            "    /// ",
        ),
        ("a.ts", "export function add(a: number, b: number): number {\n  $0return a + b;\n}\n", "/**\n * "),
    ] {
        let (text, at) = (text.replace("$0", ""), text.find("$0").unwrap());
        let subject = Subject::new(text, path.into(), String::new(), at..at).unwrap();
        assert!(
            assist::check_support(engine.tokenizer(), Action::Explain).is_err(),
            "it was not trained to chat"
        );
        let job = Job::new(&engine, &options, Action::Document, subject).unwrap();
        let (send, receive) = mpsc::channel();
        engine.submit(serve::Request {
            key: "document".into(),
            priority: serve::Priority::Standard,
            not_before: None,
            task: job.task.clone(),
            cancel: Cancel::new(),
            listener: Box::new(move |event| {
                if let serve::Event::Done(result) = event {
                    send.send(result.unwrap()).unwrap();
                }
            }),
        });
        let generated = receive.recv().unwrap();
        let outcome = job.finish(&generated[0]);
        let Ok(Outcome::Edit(_, comment)) = outcome else { panic!("{path}: {outcome:?} {generated:?}") };
        println!("{comment}");
        assert!(comment.starts_with(opening) && comment.ends_with('\n'), "{comment}");
    }
}
