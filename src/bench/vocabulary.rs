//! A vocabulary as large as a real one: the starter's merges, learned from code, then merges of its
//! words with each other, the frequent ones first.

use std::collections::HashSet;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

/// Rows at the end of Qwen's embeddings that are no byte-level tokens: special ones, then padding. The first of them is
/// `<|endoftext|>`, 151643 of 151936 and 248044 of 248320.
fn tail(rows: usize) -> usize {
    if rows == 248_320 { 276 } else { 293 }
}

/// The parts of a `tokenizer.json` that change; the others pass through.
#[derive(Deserialize, Serialize)]
struct File {
    added_tokens: Vec<Map<String, Value>>,
    normalizer: Box<RawValue>,
    pre_tokenizer: Box<RawValue>,
    decoder: Box<RawValue>,
    model: Bpe,
}

#[derive(Deserialize, Serialize)]
struct Bpe {
    #[serde(rename = "type")]
    kind: String,
    vocab: Map<String, Value>,
    merges: Vec<(String, String)>,
}

/// Grows `base`, the text of a byte-level `tokenizer.json`, to the vocabulary of a model with `rows` rows
/// of logits, its special tokens where Qwen's are. Fails when there are too few rows.
pub fn grow(base: &[u8], rows: usize) -> Result<Vec<u8>> {
    let mut file: File = serde_json::from_slice(base).context("the starter's tokenizer is damaged")?;
    let (least, specials, tail) = (file.model.vocab.len(), file.added_tokens.len(), tail(rows));
    ensure!(
        rows >= least + tail,
        "a vocabulary of {rows} is too small for a synthetic model; the least is {}",
        least + tail
    );
    ensure!(specials <= tail, "{specials} special tokens are more than {tail}");
    fill(&mut file.model, rows - tail)?;
    file.added_tokens.sort_by_key(|token| token["id"].as_u64());
    for (token, id) in file.added_tokens.iter_mut().zip(rows - tail..) {
        token.insert("id".into(), id.into());
    }
    Ok(serde_json::to_vec(&file)?)
}

/// Adds merges until there are `tokens` tokens.
fn fill(model: &mut Bpe, tokens: usize) -> Result<()> {
    let words: Vec<String> =
        model.merges.iter().map(|(left, right)| left.clone() + right).filter(|word| is_word(word)).collect();
    let ends: Vec<&String> = words.iter().filter(|word| !word.starts_with(SPACE)).collect();
    let mut known: HashSet<String> = model.vocab.keys().cloned().collect();
    // Along the diagonals: the pairs with the most frequent words come first.
    let pairs = (0..words.len() + ends.len())
        .flat_map(|sum| (0..=sum).map(move |i| (i, sum - i)))
        .filter_map(|(i, j)| Some((words.get(i)?, *ends.get(j)?)));
    for (left, right) in pairs {
        if model.vocab.len() == tokens {
            break;
        }
        let word = format!("{left}{right}");
        if known.insert(word.clone()) {
            model.vocab.insert(word, model.vocab.len().into());
            model.merges.push((left.clone(), right.clone()));
        }
    }
    ensure!(model.vocab.len() == tokens, "{tokens} tokens are more than the starter's words can make");
    Ok(())
}

/// How byte-level BPE writes a space.
const SPACE: char = 'Ġ';

/// Whether a token is of letters, perhaps after a space: two such in a row are one word to the
/// pre-tokenizer, so that their merge can happen.
fn is_word(token: &str) -> bool {
    token.strip_prefix(SPACE).unwrap_or(token).bytes().all(|byte| byte.is_ascii_alphabetic())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub;
    use crate::model::Tokenizer;

    #[test]
    fn the_vocabulary_is_as_large_as_qwens_and_works() {
        let base = hub::STARTER_TOKENIZER;
        let json = grow(base, 151_936).unwrap();
        let tokenizer = Tokenizer::from_bytes("grown", &json).unwrap();
        for (text, id) in [
            ("<|endoftext|>", 151_643),
            ("<|im_start|>", 151_644),
            ("<|im_end|>", 151_645),
            ("<|fim_prefix|>", 151_659),
            ("<|fim_middle|>", 151_660),
            ("<|fim_suffix|>", 151_661),
            ("<|fim_pad|>", 151_662),
            ("<|repo_name|>", 151_663),
            ("<|file_sep|>", 151_664),
        ] {
            assert_eq!(tokenizer.special(text), Some(id), "{text}");
        }
        assert!((0..151_643).all(|id| tokenizer.token_bytes(id).is_some()), "no holes");

        let code = include_str!("vocabulary.rs");
        let ids = tokenizer.encode(code);
        assert_eq!(tokenizer.decode(&ids), code);
        assert!(ids.iter().any(|&id| id > 8192), "the added merges happen");
        let bytes_per_token = code.len() as f64 / ids.len() as f64;
        assert!((2.5..6.0).contains(&bytes_per_token), "{bytes_per_token} bytes per token");
        assert_eq!(grow(base, 151_936).unwrap(), json);
        assert!(grow(base, 8192).unwrap_err().to_string().contains("too small"));
    }
}
