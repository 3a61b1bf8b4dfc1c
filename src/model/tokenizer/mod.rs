//! Text to token ids and back by byte-level BPE, from a Hugging Face `tokenizer.json` or the metadata of a
//! GGUF file.
//!
//! Added tokens never reach the `tokenizers` crate: they are taken out of the file and kept in a
//! table here. So a document that happens to contain `<|endoftext|>` stays text, and only code that
//! asks for a special token by name gets one.

pub mod chat;
mod date;
mod gguf;
mod json;
mod limits;
pub mod specials;
mod values;
pub mod words;

use std::collections::{BTreeSet, HashMap};

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde::Deserialize;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::{NormalizerWrapper, PreTokenizerWrapper};

use crate::compute::logits::IdSet;
use crate::format::{Description, ModelDir};
use chat::{ChatTemplate, Message};

/// Ends a text, as Qwen3-Coder-Next spells it.
pub const END_OF_TEXT: &str = "<|endoftext|>";
/// Ends a turn of a chat.
pub const END_OF_TURN: &str = "<|im_end|>";
/// Fills the place of a token that is missing.
pub const FIM_PAD: &str = "<|fim_pad|>";
/// Begins the name of a repository.
pub const REPO_NAME: &str = "<|repo_name|>";
/// Begins the name of a file.
pub const FILE_SEP: &str = "<|file_sep|>";

/// Every token that ends a generation.
const STOPS: [&str; 8] = [
    END_OF_TEXT,
    END_OF_TURN,
    "<|fim_prefix|>",
    "<|fim_middle|>",
    "<|fim_suffix|>",
    FIM_PAD,
    REPO_NAME,
    FILE_SEP,
];

/// Ids above this are a damaged file, not a vocabulary: tables are as long as the greatest id.
const ID_MAX: u32 = 1 << 22;

/// Most added tokens: each is looked for in every text that may hold some.
const SPECIALS_MAX: usize = 1 << 12;

/// The tokenizer of one model.
pub struct Tokenizer {
    name: String,
    plain: tokenizers::Tokenizer,
    /// Added tokens, longest text first, so that the first that matches is the longest.
    specials: Vec<(String, u32)>,
    /// The bytes of all tokens, one after the other; `spans[id]` is where those of `id` lie.
    bytes: Vec<u8>,
    spans: Vec<(u32, u32)>,
    /// Ids below the vocabulary size that have no text.
    holes: Vec<u32>,
    /// The chat template, or why there is none.
    chat: Result<ChatTemplate, String>,
}

/// The ids fill-in-the-middle prompts are built with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FimTokens {
    /// Before the text that precedes the gap.
    pub prefix: u32,
    /// Before the text of the gap.
    pub middle: u32,
    /// Before the text that follows the gap.
    pub suffix: u32,
    /// Padding, never part of a prompt.
    pub pad: Option<u32>,
    /// Before the name of a repository.
    pub repo_name: Option<u32>,
    /// Before the path of each file.
    pub file_sep: Option<u32>,
}

/// Whether a token is spelled like Qwen's control tokens.
pub fn is_spelled_special(text: &str) -> bool {
    text.len() > 4 && text.starts_with("<|") && text.ends_with("|>")
}

#[derive(Deserialize)]
struct Added {
    id: u32,
    content: String,
}

/// What a tokenizer is made of, wherever it was read.
struct Parts {
    bpe: BPE,
    normalizer: Option<NormalizerWrapper>,
    pre_tokenizer: PreTokenizerWrapper,
    added: Vec<Added>,
}

impl Tokenizer {
    /// Reads the tokenizer of a model, where it has one. Fails when it is not byte-level BPE, or of a kind
    /// whose words fimd does not know to find.
    pub fn read(dir: &ModelDir) -> Result<Option<Self>> {
        let tokenizer = match dir.description() {
            Description::Folder(folder) => {
                folder.tokenizer.as_deref().map(|json| Self::from_bytes(dir.origin(), json)).transpose()
            }
            Description::Gguf(metadata) => gguf::parts(metadata)
                .and_then(|parts| parts.map(|parts| Self::new(dir.origin(), parts)).transpose())
                .with_context(|| format!("cannot use the tokenizer {}", dir.origin())),
        };
        // A damaged template is no reason not to complete.
        Ok(tokenizer?.map(|tokenizer| match dir.chat_template() {
            Ok(Some(template)) => tokenizer.with_chat(&template),
            Ok(None) => tokenizer,
            Err(error) => Self { chat: Err(format!("{error:#}")), ..tokenizer },
        }))
    }

    /// The same, where chats with the model are written as a template in Jinja says.
    pub fn with_chat(self, template: &str) -> Self {
        let ends = [END_OF_TURN, END_OF_TEXT];
        let end = ends.into_iter().find(|end| self.special(end).is_some()).unwrap_or_default();
        let chat = ChatTemplate::new(template, end).map_err(|error| format!("{error:#}"));
        Self { chat, ..self }
    }

    /// Reads a `tokenizer.json`. `name` is what errors call it, usually its path.
    pub fn from_bytes(name: &str, json: &[u8]) -> Result<Self> {
        json::parts(json)
            .and_then(|parts| Self::new(name, parts))
            .with_context(|| format!("cannot use the tokenizer {name}"))
    }

    fn new(name: &str, parts: Parts) -> Result<Self> {
        let Parts { bpe, normalizer, pre_tokenizer, added } = parts;
        ensure!(
            added.len() <= SPECIALS_MAX,
            "it has {} added tokens; at most {SPECIALS_MAX} are supported",
            added.len()
        );
        let vocab = bpe.get_vocab();
        let alphabet = alphabet();
        if let Some(missing) = alphabet.keys().find(|c| !vocab.contains_key(&c.to_string())) {
            bail!(
                "its vocabulary has no token for byte {:#04x}, only byte-level BPE is supported",
                alphabet[missing]
            );
        }
        let mut plain = tokenizers::Tokenizer::new(bpe);
        plain.with_normalizer(normalizer).with_pre_tokenizer(Some(pre_tokenizer));

        let mut texts: Vec<(u32, Vec<u8>)> = Vec::with_capacity(vocab.len() + added.len());
        let listed_twice: BTreeSet<(&str, u32)> =
            added.iter().map(|token| (&*token.content, token.id)).collect();
        for (text, id) in vocab.iter().filter(|&(text, id)| !listed_twice.contains(&(text.as_str(), *id))) {
            let bytes = text.chars().map(|c| alphabet.get(&c).copied()).collect::<Option<Vec<u8>>>();
            texts.push((
                *id,
                bytes.with_context(|| format!("token {id} ({text:?}) is not in the byte alphabet"))?,
            ));
        }
        texts.extend(added.iter().map(|token| (token.id, token.content.clone().into_bytes())));
        texts.sort();

        let mut specials: Vec<(String, u32)> =
            added.into_iter().map(|token| (token.content, token.id)).collect();
        specials.retain(|(text, _)| !text.is_empty());
        specials.sort_by(|a, b| b.0.len().cmp(&a.0.len()).then_with(|| a.cmp(b)));

        let mut this = Self {
            name: name.into(),
            plain,
            specials,
            bytes: Vec::new(),
            spans: Vec::new(),
            holes: Vec::new(),
            chat: Err("the model has no chat template".into()),
        };
        for (id, text) in texts {
            this.place(id, &text)?;
        }
        for (text, id) in &this.specials {
            ensure!(!this.encode(text).contains(id), "plain text can become the special token {text}");
        }
        Ok(this)
    }

    fn place(&mut self, id: u32, text: &[u8]) -> Result<()> {
        ensure!(id <= ID_MAX, "token id {id} is out of range");
        ensure!(self.spans.len() <= id as usize, "two tokens have the id {id}");
        self.holes.extend(self.spans.len() as u32..id);
        self.spans.resize(id as usize, (0, 0));
        let start = self.bytes.len() as u32;
        self.bytes.extend(text);
        self.spans.push((start, self.bytes.len() as u32));
        Ok(())
    }

    /// The ids of `text`, which is plain text whatever it contains.
    pub fn encode(&self, text: &str) -> Vec<u32> {
        let encoding = self.plain.encode_fast(text, false);
        encoding.expect("byte-level BPE has a token for every byte").get_ids().to_vec()
    }

    /// The ids of `text` up to its last word, and the rest: what is written after `text` may change the
    /// tokens of its last word, but none before (token healing). A word is what byte-level BPE never
    /// merges across; the rest is at most a few tokens of it.
    pub fn encode_open<'t>(&self, text: &'t str) -> (Vec<u32>, &'t str) {
        const TOKENS_MAX: usize = 8;
        let encoding = self.plain.encode(text, false).expect("byte-level BPE has a token for every byte");
        let (mut ids, words) = (encoding.get_ids().to_vec(), encoding.get_word_ids());
        let last = words.iter().rev().take(TOKENS_MAX).take_while(|&word| Some(word) == words.last()).count();
        let open: Vec<u8> = ids[ids.len() - last..]
            .iter()
            .filter_map(|&id| self.token_bytes(id))
            .flatten()
            .copied()
            .collect();
        let start = text.len().checked_sub(open.len()).filter(|&start| text.is_char_boundary(start));
        match start {
            Some(start) if text.as_bytes()[start..] == open => {
                ids.truncate(ids.len() - last);
                (ids, &text[start..])
            }
            // Normalisation changed the text.
            _ => (ids, ""),
        }
    }

    /// Makes every id impossible whose text neither begins `open` nor begins with it.
    pub fn mask_all_but(&self, open: &[u8], logits: &mut [f32]) {
        for (id, logit) in (0..).zip(logits) {
            let fits =
                self.token_bytes(id).is_some_and(|text| text.starts_with(open) || open.starts_with(text));
            if !fits || self.specials.iter().any(|&(_, special)| special == id) {
                *logit = f32::NEG_INFINITY;
            }
        }
    }

    /// The ids of `text`, in which the texts of special tokens stand for these tokens: the earliest
    /// one first, the longest where several start.
    pub fn encode_with_specials(&self, text: &str) -> Vec<u32> {
        self.encode_marked(text, |plain| self.encode(plain))
    }

    fn encode_marked(&self, mut text: &str, encode: impl Fn(&str) -> Vec<u32>) -> Vec<u32> {
        let mut ids = Vec::new();
        let here =
            |rest: &[u8]| self.specials.iter().find(|(special, _)| rest.starts_with(special.as_bytes()));
        let next =
            |text: &str| (0..text.len()).find_map(|at| here(&text.as_bytes()[at..]).map(|found| (at, found)));
        while let Some((at, (special, id))) = next(text) {
            ids.extend(encode(&text[..at]));
            ids.push(*id);
            text = &text[at + special.len()..];
        }
        ids.extend(encode(text));
        ids
    }

    /// Why the model has no usable chat template, if that is so.
    pub fn cannot_chat(&self) -> Option<&str> {
        self.chat.as_ref().err().map(String::as_str)
    }

    /// The ids of a prompt that has said `messages` and begins the model's answer. Texts of special tokens in
    /// a message are plain text. Fails when the model has no chat template, or one that refuses the messages.
    pub fn encode_chat(&self, messages: &[Message]) -> Result<Vec<u32>> {
        let (text, guard) = self.guarded_chat(messages)?;
        Ok(self.encode_marked(&text, |plain| self.encode(&plain.replace(guard, ""))))
    }

    /// The ids of such a prompt around the place where the last message holds `gap`, which is a text that the
    /// messages have only there.
    pub fn encode_chat_around(&self, messages: &[Message], gap: &str) -> Result<(Vec<u32>, Vec<u32>)> {
        let (text, guard) = self.guarded_chat(messages)?;
        let (before, after) = text.split_once(gap).context("the chat template drops what was said")?;
        ensure!(!after.contains(gap), "the chat template repeats what was said");
        let encode = |text| self.encode_marked(text, |plain| self.encode(&plain.replace(guard, "")));
        Ok((encode(before), encode(after)))
    }

    /// The text of a chat, in which a character that is nowhere else keeps what the messages say from reading
    /// like special tokens.
    fn guarded_chat(&self, messages: &[Message]) -> Result<(String, char)> {
        let template = self.chat.as_ref().map_err(|why| anyhow!("{why}"))?;
        let is_said = |c: char| messages.iter().any(|message| message.content.contains(c));
        let guard =
            ('\u{f0000}'..'\u{f1000}').find(|&c| !is_said(c)).context("the messages hold odd text")?;
        let guarded = |text: &str| {
            let mut text = text.to_owned();
            for (special, _) in &self.specials {
                let first = special.chars().next().map_or(0, char::len_utf8);
                let (start, rest) = special.split_at(first);
                text = text.replace(special, &format!("{start}{guard}{rest}"));
            }
            text
        };
        let messages: Vec<Message> =
            messages.iter().map(|said| Message::new(said.role, guarded(&said.content))).collect();
        Ok((template.render(&messages)?, guard))
    }

    /// Whether `id` is a special token.
    pub fn is_special(&self, id: u32) -> bool {
        self.specials.iter().any(|&(_, special)| special == id)
    }

    /// The id of the special token whose text is `text`.
    pub fn special(&self, text: &str) -> Option<u32> {
        self.specials.iter().find(|(special, _)| special == text).map(|(_, id)| *id)
    }

    /// The tokens of fill-in-the-middle prompts. Fails, naming the missing one, for a model that was
    /// not made for it.
    pub fn fim(&self) -> Result<FimTokens> {
        let need = |text| {
            let missing =
                || anyhow!("the tokenizer {} has no {text}: it cannot fill in the middle", self.name);
            self.special(text).ok_or_else(missing)
        };
        Ok(FimTokens {
            prefix: need("<|fim_prefix|>")?,
            middle: need("<|fim_middle|>")?,
            suffix: need("<|fim_suffix|>")?,
            pad: self.special(FIM_PAD),
            repo_name: self.special(REPO_NAME),
            file_sep: self.special(FILE_SEP),
        })
    }

    /// Every token of this tokenizer that ends a generation.
    pub fn stop_ids(&self) -> Vec<u32> {
        STOPS.iter().filter_map(|text| self.special(text)).collect()
    }

    /// The bytes token `id` stands for, not necessarily whole characters; `None` if it has no text.
    pub fn token_bytes(&self, id: u32) -> Option<&[u8]> {
        let &(start, end) = self.spans.get(id as usize)?;
        (start < end).then(|| &self.bytes[start as usize..end as usize])
    }

    /// One more than the greatest id with text. A model may have more rows of logits than that.
    pub fn vocab_size(&self) -> usize {
        self.spans.len()
    }

    /// The ids with text.
    pub fn ids(&self) -> IdSet {
        let mut ids = IdSet::below(self.spans.len());
        self.holes.iter().for_each(|&id| ids.remove(id));
        ids
    }

    /// Makes the ids without text impossible. `logits` is `[rows]`, at least or less than the
    /// vocabulary.
    pub fn mask(&self, logits: &mut [f32]) {
        let known = self.spans.len().min(logits.len());
        logits[known..].fill(f32::NEG_INFINITY);
        for &id in &self.holes {
            if let Some(logit) = logits.get_mut(id as usize) {
                *logit = f32::NEG_INFINITY;
            }
        }
    }

    /// The text of `ids`; bytes that are not UTF-8 become U+FFFD.
    pub fn decode(&self, ids: &[u32]) -> String {
        let bytes: Vec<u8> = ids.iter().filter_map(|&id| self.token_bytes(id)).flatten().copied().collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// Turns a stream of ids into text that is valid UTF-8 at every moment: a character whose bytes are
/// spread over tokens appears with its last one, and never where that does not come.
#[derive(Clone, Debug, Default)]
pub struct TextStream {
    held: Vec<u8>,
}

impl TextStream {
    /// What becomes text with the next `id`. Bytes that can never become a character are U+FFFD.
    pub fn push(&mut self, tokenizer: &Tokenizer, id: u32) -> String {
        self.held.extend(tokenizer.token_bytes(id).unwrap_or_default());
        let mut text = String::new();
        let mut chunks = self.held.utf8_chunks().peekable();
        let mut kept = 0;
        while let Some(chunk) = chunks.next() {
            text.push_str(chunk.valid());
            let is_unfinished = chunks.peek().is_none() && is_incomplete(chunk.invalid());
            if is_unfinished {
                kept = chunk.invalid().len();
            } else if !chunk.invalid().is_empty() {
                text.push(char::REPLACEMENT_CHARACTER);
            }
        }
        self.held.drain(..self.held.len() - kept);
        text
    }
}

/// Whether more bytes could make a character of these.
fn is_incomplete(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|error| error.error_len().is_none())
}

/// The character GPT-2 writes for each byte: printable ones stand for themselves, the others are
/// moved up from U+0100 in order (openai/gpt-2, `encoder.py`, `bytes_to_unicode`).
fn alphabet() -> HashMap<char, u8> {
    let is_printable = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let moved = (0..=255u8).filter(|byte| !is_printable(byte)).zip('\u{100}'..).map(|(byte, c)| (c, byte));
    (0..=255u8).filter(is_printable).map(|byte| (char::from(byte), byte)).chain(moved).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use serde_json::{Map, Value, json};

    /// A tokenizer over the bytes and a few words, with the given special tokens from id 1000 on.
    pub(crate) fn tiny(specials: &[&str]) -> Tokenizer {
        Tokenizer::from_bytes("tiny", tiny_json(specials).to_string().as_bytes()).unwrap()
    }

    /// A tokenizer that can fill in the middle.
    pub(crate) fn tiny_fim() -> Tokenizer {
        tiny(&["<|endoftext|>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>"])
    }

    fn tiny_json(specials: &[&str]) -> Value {
        let mut bytes: Vec<(u8, char)> = alphabet().into_iter().map(|(c, byte)| (byte, c)).collect();
        bytes.sort();
        let mut vocab: Map<String, Value> =
            bytes.iter().map(|(byte, c)| (c.to_string(), json!(byte))).collect();
        let merges =
            [("r", "e"), ("t", "u"), ("re", "tu"), ("r", "n"), ("retu", "rn"), ("Ġ", "Ġ"), ("ð", "Ł")];
        for (i, (left, right)) in merges.iter().enumerate() {
            vocab.insert(format!("{left}{right}"), json!(256 + i));
        }
        let added: Vec<Value> = specials
            .iter()
            .zip(1000..)
            .map(|(text, id)| json!({"id": id, "content": text, "special": true}))
            .collect();
        let split =
            r"(?i:'s)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
        json!({
            "version": "1.0",
            "added_tokens": added,
            "normalizer": {"type": "NFC"},
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": split}, "behavior": "Isolated", "invert": false},
                {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
            ]},
            "decoder": {"type": "ByteLevel"},
            "model": {"type": "BPE", "vocab": vocab, "merges": merges},
        })
    }

    #[test]
    fn the_last_word_stays_open() {
        let tokenizer = tiny(&["retu"]);
        for (text, open) in [
            ("x = retu", " retu"),
            ("x.retu", ".retu"),
            ("x\n    ", "    "),
            ("x\n", "\n"),
            ("", ""),
            ("🦀", "🦀"),
            ("a e\u{301}", ""),
        ] {
            let (ids, found) = tokenizer.encode_open(text);
            assert_eq!(found, open, "{text:?}");
            if !open.is_empty() {
                assert_eq!(tokenizer.decode(&ids) + open, text);
            }
        }
        let long = "r".repeat(100);
        assert!(tokenizer.encode_open(&long).1.len() < 20, "only the end of a long word");

        let mut logits = [0.0; 1001];
        tokenizer.mask_all_but(b"retu", &mut logits);
        let left: Vec<_> = (0..).zip(logits).filter(|(_, logit)| *logit == 0.0).map(|(id, _)| id).collect();
        let texts: Vec<_> = left.iter().map(|&id| tokenizer.decode(&[id])).collect();
        assert_eq!(texts, ["r", "re", "retu", "return"], "and no special token");
    }

    #[test]
    fn text_survives_a_round_trip() {
        let tokenizer = tiny_fim();
        for text in ["", "return x", "a\r\n\tb  \n", "naïve 世界 🦀🦀", "\u{0}\u{7f}\u{80}", "<|fim_middle|>"]
        {
            assert_eq!(tokenizer.decode(&tokenizer.encode(text)), text);
        }
        assert_eq!(tokenizer.encode("return"), [260]);
        // The pattern may give up on a very long run; nothing is lost where it does.
        let long = " ".repeat(100_000) + "x";
        assert_eq!(tokenizer.decode(&tokenizer.encode(&long)), long);
    }

    #[test]
    fn specials_are_only_what_was_asked_for() {
        let tokenizer = tiny(&["<|a|>", "<|a|><|b|>", "<|b|>"]);
        let text = "<|b|>re<|a|><|b|><|a|>";
        assert!(tokenizer.encode(text).iter().all(|&id| id < 1000));
        assert_eq!(tokenizer.encode_with_specials(text), [1002, 256, 1001, 1000]);
        assert_eq!(tokenizer.special("<|b|>"), Some(1002));
        assert_eq!(tokenizer.special("return"), None);
        assert!(tokenizer.fim().unwrap_err().to_string().contains("<|fim_prefix|>"));
        let fim = tiny_fim();
        assert_eq!(fim.fim().unwrap().middle, 1002);
        assert_eq!(fim.stop_ids(), [1000, 1001, 1002, 1003]);
    }

    #[test]
    fn ids_without_text_are_masked() {
        let tokenizer = tiny(&["<|a|>"]);
        assert_eq!(tokenizer.vocab_size(), 1001);
        assert_eq!(tokenizer.token_bytes(260), Some(&b"return"[..]));
        assert_eq!(tokenizer.token_bytes(1000), Some(&b"<|a|>"[..]));
        assert_eq!((tokenizer.token_bytes(500), tokenizer.token_bytes(5000)), (None, None));
        for rows in [10, 600, 1001, 1200] {
            let mut logits = vec![1.0; rows];
            tokenizer.mask(&mut logits);
            for (id, &logit) in logits.iter().enumerate() {
                assert_eq!(logit == 1.0, tokenizer.token_bytes(id as u32).is_some(), "id {id} of {rows}");
            }
        }
    }

    #[test]
    fn a_stream_is_always_valid_text() {
        let tokenizer = tiny_fim();
        let bytes: &[&[u8]] =
            &["a🦀é".as_bytes(), b"\xf0\x9f", b"\xf0\x9fz", b"\xffx\xe4\xb8", b"\x80\xed\xa0\x80b"];
        for bytes in bytes {
            let ids: Vec<u32> = bytes.iter().map(|&byte| byte.into()).collect();
            let mut stream = TextStream::default();
            let mut text: String = ids.iter().map(|&id| stream.push(&tokenizer, id)).collect();
            let length = text.len();
            text.push_str(&String::from_utf8_lossy(&stream.held));
            assert_eq!(text, tokenizer.decode(&ids));
            assert!(
                !text[..length].ends_with('\u{fffd}') || !bytes.starts_with(b"\xf0\x9f"),
                "held back: {bytes:?}"
            );
        }
        let mut stream = TextStream::default();
        let pieces: Vec<String> =
            tokenizer.encode("x🦀").iter().map(|&id| stream.push(&tokenizer, id)).collect();
        assert_eq!(pieces, ["x", "", "", "🦀"]);
    }

    #[test]
    fn other_files_are_refused_by_name() {
        let with = |path: &str, value: Value| {
            let mut json = tiny_json(&[]);
            *json.pointer_mut(path).unwrap() = value;
            json.to_string()
        };
        let cases = [
            ("{".into(), "not a JSON object"),
            ("{}".into(), "no model"),
            (with("/model/type", json!("Unigram")), "\"Unigram\", only byte-level BPE"),
            (with("/pre_tokenizer", json!({"type": "Whitespace"})), "\"Whitespace\", only byte-level BPE"),
            (with("/pre_tokenizer", Value::Null), "no pre-tokenizer"),
            (
                with("/pre_tokenizer/pretokenizers/0", json!({"type": "FixedLength", "length": 0})),
                "\"FixedLength\"",
            ),
            (with("/pre_tokenizer/pretokenizers/0/behavior", json!("Removed")), "splits otherwise"),
            (with("/pre_tokenizer/pretokenizers/0/pattern", json!({"String": ""})), "splits otherwise"),
            (
                with("/pre_tokenizer/pretokenizers/0/pattern/Regex", json!("(?<n>a)?".repeat(200))),
                "1600 bytes",
            ),
            (with("/pre_tokenizer/pretokenizers/0/pattern/Regex", json!("(?=a)\\w".repeat(40))), "40 groups"),
            (with("/pre_tokenizer/pretokenizers/0/pattern/Regex", json!("(a+)+\\1")), "refers back"),
            (
                with("/pre_tokenizer/pretokenizers/0/pattern/Regex", json!("((((a{100}){100}){100}){100})")),
                "pattern of words",
            ),
            (with("/pre_tokenizer/pretokenizers/1/add_prefix_space", json!(true)), "a combination"),
            (
                with("/normalizer", json!({"type": "Precompiled", "precompiled_charsmap": ""})),
                "\"Precompiled\"",
            ),
            (
                with(
                    "/normalizer",
                    json!({"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Replace"}]}),
                ),
                "\"Replace\", only \"NFC\"",
            ),
            (with("/model", json!({"vocab": {}, "merges": [], "unk_token": "a"})), "sets unk_token"),
            (
                with("/model", json!({"vocab": {}, "merges": [], "continuing_subword_prefix": "##"})),
                "continuing_subword_prefix",
            ),
            (with("/model/merges", json!([["x", "y"]])), "do not fit"),
            (with("/model/merges", json!(["xy"])), "not a pair"),
            (
                with("/added_tokens", (0..5000).map(|id| json!({"id": id, "content": "x"})).collect()),
                "5000 added tokens",
            ),
            (with("/model/vocab", json!({"a": 0})), "model"),
            (with("/model/vocab/a", json!(u32::MAX)), "out of range"),
            (with("/model/vocab/a", json!(98)), "two tokens have the id 98"),
            (with("/added_tokens", json!([{"id": 260, "content": "return"}])), "special token return"),
        ];
        for (json, expected) in cases {
            let error = Tokenizer::from_bytes("some/tokenizer.json", json.as_bytes()).err().expect(expected);
            let error = format!("{error:#}");
            assert!(error.contains(expected) && error.contains("some/tokenizer.json"), "{error}");
        }
    }

    #[test]
    fn what_is_said_in_a_chat_stays_text() {
        let template = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n\n";
        let specials = ["<|im_start|>", "<|im_end|>", "<|im_"];
        let tokenizer = tiny(&specials).with_chat(template);
        assert_eq!(tokenizer.cannot_chat(), None);
        let said = [chat::Message::new(chat::Role::User, "a<|im_end|>b")];
        let ids = tokenizer.encode_chat(&said).unwrap();
        assert_eq!(
            tokenizer.decode(&ids),
            "<|im_start|>user\na<|im_end|>b<|im_end|>\n<|im_start|>assistant\n"
        );
        let count = |id| ids.iter().filter(|&&other| other == id).count();
        assert_eq!((count(1000), count(1001), count(1002)), (2, 1, 0));

        for (tokenizer, why) in
            [(tiny(&specials), "no chat template"), (tiny(&specials).with_chat("{{"), "damaged")]
        {
            assert!(tokenizer.cannot_chat().unwrap().contains(why));
            assert!(tokenizer.encode_chat(&said).is_err());
        }
    }

    #[test]
    fn qwen_vocabulary_strings_agree_with_llama_cpp() {
        let Some(folder) = std::env::var_os("FIMD_QWEN_TOKENIZER").map(std::path::PathBuf::from) else {
            return eprintln!("skipped: FIMD_QWEN_TOKENIZER is not set to a folder with Qwen's tokenizer");
        };
        let read = |name: &str| std::fs::read(folder.join(name)).unwrap();
        let started = std::time::Instant::now();
        let tokenizer = Tokenizer::from_bytes("qwen", &read("tokenizer.json")).unwrap();
        let loaded = started.elapsed();
        let (texts, ids) = (read("vocab_tests.inp"), read("vocab_tests.out"));
        let texts: Vec<&str> =
            std::str::from_utf8(&texts).unwrap().split("\n__ggml_vocab_test__\n").collect();
        let ids: Vec<&str> = std::str::from_utf8(&ids).unwrap().lines().collect();
        let last = texts.iter().rposition(|text| !text.is_empty()).unwrap();
        for (text, ids) in texts.iter().zip(&ids) {
            let expected: Vec<u32> = ids.split_whitespace().map(|id| id.parse().unwrap()).collect();
            assert_eq!(tokenizer.encode(text), expected, "{text:?}");
        }
        assert!(ids.len() > last);
        assert_eq!((tokenizer.vocab_size(), tokenizer.stop_ids().len()), (151_669, 8));
        assert_eq!(tokenizer.special("<|fim_middle|>"), Some(151_660));
        eprintln!("{} strings agree; opened in {loaded:?}", texts.len());
    }
}
