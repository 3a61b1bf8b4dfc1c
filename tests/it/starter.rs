//! The starter model is part of the product: what it was trained to do, it does.

use fimd::complete::fim::Order;
use fimd::complete::{Options, Request, driver};
use fimd::compute::cpu::Cpu;
use fimd::decode::sample::log_softmax;
use fimd::hub;
use fimd::model::{ModelOptions, Tokenizer};
use fimd::serve::Engine;
use fimd::session::Session;

use crate::load;

fn open() -> (Session<Cpu>, Tokenizer) {
    let dir = hub::starter().unwrap();
    let options = ModelOptions { positions_max: 4096, batch_max: 256 };
    let model = load::model(&dir, 2, 16, options).unwrap();
    (Session::new(model), load::tokenizer(&dir))
}

/// Completes each document at its `$0`.
fn complete(documents: &[(&str, &str)], order: Order) -> Vec<(String, String)> {
    let (session, tokenizer) = open();
    let engine = Engine::start(session, tokenizer);
    let answer = |document: &str| {
        let (prefix, suffix) = document.split_once("$0").unwrap();
        let request = Request { max_tokens: 48, ..Request::new(prefix, suffix) };
        let completion = driver::once(&engine, Options::new(order), request).unwrap();
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
