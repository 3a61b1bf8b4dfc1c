//! The tokenizer in a `tokenizer.json`: the parts that the supported families use, and no others. Of the rest some
//! panic, and some make a text grow without bound.

use std::collections::HashMap;

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokenizers::PreTokenizerWrapper;
use tokenizers::models::bpe::{BPE, Merges};
use tokenizers::normalizers::NFC;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;

use super::words::pre_tokenizer;
use super::{Added, Parts};

/// Longest description of a normalizer or pre-tokenizer, in bytes.
const PART_BYTES_MAX: usize = 1 << 14;
const ONLY: &str = "only byte-level BPE as Qwen's models have it is supported";

/// The parts of the file that matter, unparsed: the vocabulary is large.
#[derive(Deserialize)]
struct File<'a> {
    #[serde(borrow)]
    added_tokens: Option<&'a RawValue>,
    #[serde(borrow)]
    model: Option<&'a RawValue>,
    #[serde(borrow)]
    normalizer: Option<&'a RawValue>,
    #[serde(borrow)]
    pre_tokenizer: Option<&'a RawValue>,
}

/// A normalizer or pre-tokenizer, or a sequence of these.
#[derive(Deserialize)]
struct Part {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    normalizers: Vec<Part>,
    #[serde(default)]
    pretokenizers: Vec<Part>,
    pattern: Option<Pattern>,
    behavior: Option<String>,
    #[serde(default)]
    invert: bool,
    #[serde(default)]
    add_prefix_space: bool,
    use_regex: Option<bool>,
}

#[derive(Deserialize)]
enum Pattern {
    Regex(String),
    String(serde::de::IgnoredAny),
}

#[derive(Deserialize)]
struct Kind {
    #[serde(rename = "type")]
    kind: Option<String>,
}

#[derive(Deserialize)]
struct Model<'a> {
    vocab: HashMap<String, u32>,
    #[serde(borrow)]
    merges: &'a RawValue,
    dropout: Option<f64>,
    unk_token: Option<String>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
    #[serde(default)]
    ignore_merges: bool,
}

pub(super) fn parts(json: &[u8]) -> Result<Parts> {
    let file: File = serde_json::from_slice(json).context("it is not a JSON object")?;
    let added: Vec<Added> = parse("added_tokens", file.added_tokens)?.unwrap_or_default();
    let kind: Kind = parse("model", file.model)?.context("it has no model")?;
    if let Some(kind) = kind.kind.filter(|kind| kind != "BPE") {
        bail!("its model is {kind:?}, {ONLY}");
    }
    let words = part("pre_tokenizer", file.pre_tokenizer)?
        .with_context(|| format!("it has no pre-tokenizer, {ONLY}"))?;
    let pre_tokenizer = words_of(&words)?;
    let normalizer = part("normalizer", file.normalizer)?;
    let is_normalized = normalizer.as_ref().map_or(Ok(false), normalizes)?;
    let model: Model = parse("model", file.model)?.context("it has no model")?;
    let normalizer = is_normalized.then(|| NFC.into());
    Ok(Parts { bpe: model.bpe()?, normalizer, pre_tokenizer, added })
}

fn parse<'a, T: Deserialize<'a>>(part: &'static str, text: Option<&'a RawValue>) -> Result<Option<T>> {
    text.map_or(Ok(None), |text| serde_json::from_str(text.get())).context(part)
}

fn part(name: &'static str, text: Option<&RawValue>) -> Result<Option<Part>> {
    let bytes = text.map_or(0, |text| text.get().len());
    ensure!(bytes <= PART_BYTES_MAX, "{name} has {bytes} bytes; at most {PART_BYTES_MAX} are read");
    parse(name, text)
}

/// Whether text is brought to NFC. Fails for any other normalisation.
fn normalizes(part: &Part) -> Result<bool> {
    match &*part.kind {
        "NFC" => Ok(true),
        "Sequence" => part.normalizers.iter().try_fold(false, |any, part| Ok(normalizes(part)? || any)),
        other => bail!("its normalizer is {other:?}, only \"NFC\" or none is supported"),
    }
}

/// The byte alphabet, after words are found by one pattern or by none.
fn words_of(part: &Part) -> Result<PreTokenizerWrapper> {
    let parts = if part.kind == "Sequence" { &part.pretokenizers[..] } else { std::slice::from_ref(part) };
    match parts {
        [bytes] if is_byte_alphabet(bytes) => Ok(ByteLevel::new(false, true, false).into()),
        [split, bytes] if is_byte_alphabet(bytes) => pre_tokenizer(word_pattern(split)?),
        parts => {
            let other = parts.iter().find(|part| !["Split", "ByteLevel"].contains(&&*part.kind));
            let kind = other.map_or("a combination of others", |part| &part.kind);
            bail!("its pre-tokenizer is {kind:?}, {ONLY}")
        }
    }
}

fn is_byte_alphabet(part: &Part) -> bool {
    part.kind == "ByteLevel" && !part.add_prefix_space && part.use_regex == Some(false)
}

fn word_pattern(part: &Part) -> Result<&str> {
    ensure!(part.kind == "Split", "its pre-tokenizer is {:?}, {ONLY}", part.kind);
    let is_plain = part.behavior.as_deref() == Some("Isolated") && !part.invert;
    match &part.pattern {
        Some(Pattern::Regex(pattern)) if is_plain => Ok(pattern),
        _ => bail!("its pre-tokenizer splits otherwise than \"Isolated\" by a regular expression, {ONLY}"),
    }
}

impl Model<'_> {
    fn bpe(self) -> Result<BPE> {
        let is_set = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
        for (name, is_set) in [
            ("dropout", self.dropout.is_some_and(|share| share != 0.0)),
            ("unk_token", is_set(&self.unk_token)),
            ("continuing_subword_prefix", is_set(&self.continuing_subword_prefix)),
            ("end_of_word_suffix", is_set(&self.end_of_word_suffix)),
            ("ignore_merges", self.ignore_merges),
        ] {
            ensure!(!is_set, "its model sets {name}, {ONLY}");
        }
        let merges = merges(self.merges.get()).context("merges")?;
        let bpe = BPE::builder().vocab_and_merges(self.vocab.into_iter().collect::<super::Vocab>(), merges);
        bpe.build().map_err(|error| anyhow!("the merges of its model do not fit its vocabulary: {error}"))
    }
}

/// Pairs, which older files write as one text with a space.
fn merges(json: &str) -> Result<Merges> {
    if let Ok(pairs) = serde_json::from_str(json) {
        return Ok(pairs);
    }
    let texts: Vec<String> = serde_json::from_str(json)?;
    let pair = |text: &String| {
        let (left, right) = text.split_once(' ').with_context(|| format!("{text:?} is not a pair"))?;
        Ok((left.to_owned(), right.to_owned()))
    };
    texts.iter().map(pair).collect()
}
