//! The tokenizer in the metadata of a GGUF file: the vocabulary in order of ids, merges in order of rank, and
//! the name of a rule that splits text into words, which the file does not hold.

use anyhow::{Context, Result, bail, ensure};
use tokenizers::models::bpe::{BPE, Merges, Vocab};
use tokenizers::normalizers::NFC;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{PreTokenizerWrapper, SplitDelimiterBehavior};

use super::{Added, Parts};
use crate::format::gguf::Metadata;

const MODEL: &str = "tokenizer.ggml.model";
const PRE: &str = "tokenizer.ggml.pre";
const TOKENS: &str = "tokenizer.ggml.tokens";
const TYPES: &str = "tokenizer.ggml.token_type";
const MERGES: &str = "tokenizer.ggml.merges";

/// The words of Qwen2 and later, as their `tokenizer.json` gives them.
const QWEN2_WORDS: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Token types as files number them.
mod token_type {
    pub(super) const NORMAL: i64 = 1;
    pub(super) const CONTROL: i64 = 3;
    pub(super) const USER_DEFINED: i64 = 4;
    pub(super) const UNUSED: i64 = 5;
}

/// The parts of the tokenizer, where the file has one.
pub(super) fn parts(metadata: &Metadata) -> Result<Option<Parts>> {
    let Some(model) = metadata.text(MODEL)?.filter(|&model| model != "none") else { return Ok(None) };
    ensure!(model == "gpt2", "{MODEL} is {model:?}, only \"gpt2\" (byte-level BPE) is supported");
    let pre = metadata.text(PRE)?.with_context(|| format!("{PRE} is missing"))?;
    ensure!(pre == "qwen2", "{PRE} is {pre:?}, only \"qwen2\" is supported");
    let tokens = metadata.texts(TOKENS)?.with_context(|| format!("{TOKENS} is missing"))?;
    let types = metadata.integers(TYPES)?.with_context(|| format!("{TYPES} is missing"))?;
    ensure!(types.len() == tokens.len(), "{TYPES} lists {} types for {} tokens", types.len(), tokens.len());
    let (mut vocab, mut added) = (Vocab::default(), Vec::new());
    for ((id, text), kind) in (0..).zip(tokens).zip(types) {
        match kind {
            token_type::NORMAL => {
                if let Some(other) = vocab.insert(text.clone(), id) {
                    bail!("tokens {other} and {id} are both {text:?}");
                }
            }
            token_type::CONTROL | token_type::USER_DEFINED => added.push(Added { id, content: text.clone() }),
            token_type::UNUSED => {}
            other => bail!("token {id} ({text:?}) has type {other}, which byte-level BPE does not use"),
        }
    }
    let bpe = BPE::builder().vocab_and_merges(vocab, merges(metadata)?).build();
    let bpe = bpe.map_err(|error| anyhow::anyhow!("{MERGES} do not fit the vocabulary: {error}"))?;
    Ok(Some(Parts { bpe, normalizer: Some(NFC.into()), pre_tokenizer: qwen2_words()?, added }))
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

fn qwen2_words() -> Result<PreTokenizerWrapper> {
    let words = SplitPattern::Regex(QWEN2_WORDS.into());
    let split = Split::new(words, SplitDelimiterBehavior::Isolated, false);
    let split = split.map_err(|error| anyhow::anyhow!("the pattern of words: {error}"))?;
    let bytes = ByteLevel::new(false, true, false);
    Ok(Sequence::new(vec![split.into(), bytes.into()]).into())
}
