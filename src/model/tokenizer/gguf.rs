//! The tokenizer in the metadata of a GGUF file: the vocabulary in order of ids, merges in order of rank, and
//! the name of a rule that splits text into words, which the file does not hold.

use anyhow::{Context, Result, bail, ensure};
use tokenizers::models::bpe::{BPE, Merges};
use tokenizers::normalizers::NFC;

use super::words::{Words, pre_tokenizer};
use super::{Added, Parts, Vocab, is_spelled_special};
use crate::format::gguf::Metadata;

const MODEL: &str = "tokenizer.ggml.model";
const PRE: &str = "tokenizer.ggml.pre";
const TOKENS: &str = "tokenizer.ggml.tokens";
const TYPES: &str = "tokenizer.ggml.token_type";
const MERGES: &str = "tokenizer.ggml.merges";

/// Token types as files number them.
mod token_type {
    pub(super) const NORMAL: i64 = 1;
    pub(super) const UNKNOWN: i64 = 2;
    pub(super) const CONTROL: i64 = 3;
    pub(super) const USER_DEFINED: i64 = 4;
    pub(super) const UNUSED: i64 = 5;
}

/// The parts of the tokenizer, where the file has one.
pub(super) fn parts(metadata: &Metadata) -> Result<Option<Parts>> {
    let Some(model) = metadata.text(MODEL)?.filter(|&model| model != "none") else { return Ok(None) };
    ensure!(model == "gpt2", "{MODEL} is {model:?}, only \"gpt2\" (byte-level BPE) is supported");
    let pre = metadata.text(PRE)?.with_context(|| format!("{PRE} is missing"))?;
    let words = Words::of_name(pre)
        .with_context(|| format!("{PRE} is {pre:?}, only \"qwen2\" and \"qwen35\" are supported"))?;
    let tokens = metadata.texts(TOKENS)?.with_context(|| format!("{TOKENS} is missing"))?;
    let types = metadata.integers(TYPES)?.with_context(|| format!("{TYPES} is missing"))?;
    ensure!(types.len() == tokens.len(), "{TYPES} lists {} types for {} tokens", types.len(), tokens.len());
    let (mut vocab, mut added) = (Vocab::default(), Vec::new());
    for ((id, text), kind) in (0..).zip(tokens).zip(types) {
        match kind {
            // Some converters do not know which tokens are special.
            token_type::NORMAL | token_type::UNKNOWN if is_spelled_special(text) => {
                added.push(Added { id, content: text.clone() });
            }
            token_type::NORMAL => {
                if let Some(other) = vocab.insert(text.clone(), id) {
                    bail!("tokens {other} and {id} are both {text:?}");
                }
            }
            token_type::CONTROL | token_type::USER_DEFINED => added.push(Added { id, content: text.clone() }),
            token_type::UNKNOWN | token_type::UNUSED => {}
            other => bail!("token {id} ({text:?}) has type {other}, which byte-level BPE does not use"),
        }
    }
    let bpe = BPE::builder().vocab_and_merges(vocab, merges(metadata)?).build();
    let bpe = bpe.map_err(|error| anyhow::anyhow!("{MERGES} do not fit the vocabulary: {error}"))?;
    Ok(Some(Parts {
        bpe,
        normalizer: Some(NFC.into()),
        pre_tokenizer: pre_tokenizer(words.pattern())?,
        added,
    }))
}

fn merges(metadata: &Metadata) -> Result<Merges> {
    let merges = metadata.texts(MERGES)?.with_context(|| format!("{MERGES} is missing"))?;
    let pair = |merge: &String| {
        let (left, right) =
            merge.split_once(' ').with_context(|| format!("{MERGES}: {merge:?} is not a pair"))?;
        Ok((left.to_owned(), right.to_owned()))
    };
    merges.iter().map(pair).collect()
}
