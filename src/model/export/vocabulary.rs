//! A `tokenizer.json` as the lists that GGUF metadata holds.

use std::collections::{BTreeSet, HashMap};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use serde_json::Value;

use crate::format::gguf;
use crate::model::tokenizer::words::Words;
use crate::model::tokenizer::{END_OF_TEXT, END_OF_TURN, is_spelled_special};

/// Special tokens that metadata names by a key of its own.
const NAMED: [(&str, &str); 6] = [
    ("fim_pre", "<|fim_prefix|>"),
    ("fim_suf", "<|fim_suffix|>"),
    ("fim_mid", "<|fim_middle|>"),
    ("fim_pad", "<|fim_pad|>"),
    ("fim_rep", "<|repo_name|>"),
    ("fim_sep", "<|file_sep|>"),
];

/// What is known of a model's vocabulary.
#[derive(Clone, Copy, Debug)]
pub struct Vocabulary<'a> {
    /// The text of its `tokenizer.json`.
    pub tokenizer: &'a [u8],
    /// How conversations are written, as a Jinja template.
    pub chat_template: Option<&'a str>,
    /// The token that ends what the model writes. Without it: the end of a turn if there is a chat
    /// template, else the end of a text.
    pub eos: Option<u32>,
}

impl Vocabulary<'_> {
    /// The metadata of a vocabulary of `rows` tokens, those that have no text included. Fails for
    /// tokenizers other than byte-level BPE with the words of Qwen.
    pub(super) fn metadata(&self, rows: usize) -> Result<Vec<(String, gguf::Value)>> {
        let file: File = serde_json::from_slice(self.tokenizer)
            .context("the tokenizer.json does not hold a byte-level BPE vocabulary")?;
        let words = match patterns(&file.pre_tokenizer)[..] {
            [pattern] => Words::of_pattern(pattern),
            _ => None,
        };
        let words = words.context(
            "the tokenizer.json splits text in another way than Qwen2 and Qwen3.5; fimd writes GGUF files for these only",
        )?;
        let (tokens, types) = file.tokens(rows)?;
        let special =
            |text| file.added_tokens.iter().find(|added| added.content == text).map(|added| added.id);

        let mut entries = Entries(Vec::new());
        entries.add("ggml.model", gguf::Value::String("gpt2".into()));
        entries.add("ggml.pre", gguf::Value::String(words.name().into()));
        entries.add("ggml.tokens", gguf::Value::Array(gguf::Array::String(tokens)));
        entries.add("ggml.token_type", gguf::Value::Array(gguf::Array::I32(types)));
        entries.add("ggml.merges", gguf::Value::Array(gguf::Array::String(file.merges())));
        entries.add("ggml.add_bos_token", gguf::Value::Bool(false));
        let turn = self.chat_template.and_then(|_| special(END_OF_TURN));
        let end = special(END_OF_TEXT);
        entries.add_id("eos", self.eos.filter(|&id| (id as usize) < rows).or(turn).or(end));
        entries.add_id("padding", end);
        for (key, text) in NAMED {
            entries.add_id(key, special(text));
        }
        if let Some(template) = self.chat_template {
            entries.add("chat_template", gguf::Value::String(template.into()));
        }
        Ok(entries.0)
    }
}

struct Entries(Vec<(String, gguf::Value)>);

impl Entries {
    fn add(&mut self, key: &str, value: gguf::Value) {
        self.0.push((format!("tokenizer.{key}"), value));
    }

    fn add_id(&mut self, token: &str, id: Option<u32>) {
        if let Some(id) = id {
            self.add(&format!("ggml.{token}_token_id"), gguf::Value::U32(id));
        }
    }
}

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    added_tokens: Vec<Added>,
    #[serde(default)]
    pre_tokenizer: Value,
    model: Model,
}

#[derive(Deserialize)]
struct Added {
    id: u32,
    content: String,
    #[serde(default)]
    special: bool,
}

#[derive(Deserialize)]
struct Model {
    vocab: HashMap<String, u32>,
    merges: Vec<Merge>,
}

/// Both spellings of a merge.
#[derive(Deserialize)]
#[serde(untagged)]
enum Merge {
    Joined(String),
    Pair(String, String),
}

/// `tokenizer.ggml.token_type`.
#[derive(Clone, Copy)]
enum TokenType {
    Normal = 1,
    Control = 3,
    UserDefined = 4,
    Unused = 5,
}

impl File {
    /// Text and type of every id below `rows`.
    fn tokens(&self, rows: usize) -> Result<(Vec<String>, Vec<i32>)> {
        let mut tokens: Vec<String> = (0..rows).map(|id| format!("[PAD{id}]")).collect();
        let mut types = vec![TokenType::Unused as i32; rows];
        let mut place = |id: u32, text: &str, kind: TokenType| -> Result<()> {
            let at = id as usize;
            ensure!(at < rows, "the tokenizer.json has a token {id}, the model only {rows} rows");
            if types[at] != TokenType::Unused as i32 {
                bail!("the tokenizer.json has two tokens with the id {id}");
            }
            tokens[at] = text.to_owned();
            types[at] = kind as i32;
            Ok(())
        };
        let added: BTreeSet<(&str, u32)> =
            self.added_tokens.iter().map(|added| (added.content.as_str(), added.id)).collect();
        for (text, &id) in
            self.model.vocab.iter().filter(|(text, id)| !added.contains(&(text.as_str(), **id)))
        {
            place(id, text, TokenType::Normal)?;
        }
        for added in &self.added_tokens {
            place(added.id, &added.content, added.kind())?;
        }
        Ok((tokens, types))
    }

    fn merges(&self) -> Vec<String> {
        let join = |merge: &Merge| match merge {
            Merge::Joined(text) => text.clone(),
            Merge::Pair(left, right) => format!("{left} {right}"),
        };
        self.model.merges.iter().map(join).collect()
    }
}

impl Added {
    /// llama.cpp finds user-defined tokens in plain text too, so those spelled like control tokens are
    /// control tokens even where the file does not call them special.
    fn kind(&self) -> TokenType {
        if self.special || is_spelled_special(&self.content) {
            TokenType::Control
        } else {
            TokenType::UserDefined
        }
    }
}

/// The regular expressions anywhere in a pre-tokenizer.
fn patterns(pre_tokenizer: &Value) -> Vec<&str> {
    let own = pre_tokenizer.pointer("/pattern/Regex").and_then(Value::as_str);
    let parts = pre_tokenizer.get("pretokenizers").and_then(Value::as_array);
    own.into_iter().chain(parts.into_iter().flatten().flat_map(patterns)).collect()
}
