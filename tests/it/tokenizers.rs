//! The tokenizer with the vocabularies of released models, on texts and ids that `scripts/check_tokenizers` wrote.

use std::path::PathBuf;

use fimd::format::ModelDir;
use fimd::format::gguf::Value;
use fimd::model::Tokenizer;
use serde::Deserialize;

use crate::convert::{Gguf, tokenizer_metadata};

#[derive(Deserialize)]
struct Cases {
    /// Texts in which nothing is special.
    plain: Vec<(String, Vec<u32>)>,
    /// Texts with special tokens.
    special: Vec<(String, Vec<u32>)>,
}

#[test]
fn ids_equal_those_of_qwen_tokenizer() {
    let Some(folder) = std::env::var_os("FIMD_TOKENIZER_CASES").map(PathBuf::from) else {
        return eprintln!("skipped: FIMD_TOKENIZER_CASES is not set; scripts/check_tokenizers sets it");
    };
    for (name, rows) in [("qwen2", 151_936), ("qwen35", 248_320)] {
        let read = |kind: &str| std::fs::read(folder.join(format!("{name}.{kind}.json"))).unwrap();
        let json = read("tokenizer");
        let cases: Cases = serde_json::from_slice(&read("cases")).unwrap();
        check(&format!("{name}, tokenizer.json"), &Tokenizer::from_bytes(name, &json).unwrap(), &cases);
        check(&format!("{name}, GGUF"), &from_gguf(name, &json, rows), &cases);
    }
}

/// The same tokenizer in a GGUF file, which has the name of the words and not their pattern.
fn from_gguf(name: &str, json: &[u8], rows: usize) -> Tokenizer {
    let mut gguf = Gguf { metadata: tokenizer_metadata(json, rows), tensors: Vec::new() };
    gguf.set("tokenizer.ggml.pre", Value::from(name));
    let dir = ModelDir::from_gguf(name, &gguf.bytes().into()).unwrap();
    Tokenizer::read(&dir).unwrap().unwrap()
}

#[track_caller]
fn check(name: &str, tokenizer: &Tokenizer, cases: &Cases) {
    assert!(cases.plain.len() > 2000 && cases.special.len() > 100, "{name}: too few texts");
    let plain = cases.plain.iter().map(|(text, ids)| (text, ids, tokenizer.encode(text)));
    let special = cases.special.iter().map(|(text, ids)| (text, ids, tokenizer.encode_with_specials(text)));
    let wrong: Vec<_> = plain.chain(special).filter(|(_, ids, found)| *ids != found).collect();
    for (text, ids, found) in wrong.iter().take(10) {
        eprintln!("{name}: {text:?}\n  should be {ids:?}\n  and is    {found:?}");
    }
    assert!(wrong.is_empty(), "{name}: {} of {} texts differ", wrong.len(), cases.plain.len());
    eprintln!("{name}: {} texts agree", cases.plain.len() + cases.special.len());
}
