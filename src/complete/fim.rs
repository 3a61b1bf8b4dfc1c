//! The fill-in-the-middle prompt. Pure.

use std::fmt;
use std::str::FromStr;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::model::Tokenizer;
use crate::model::tokenizer::FimTokens;
use crate::session::Mark;

/// How many tokens before the end of a growing prefix its last word may have changed.
const WORD_TOKENS: usize = 24;
/// The same at a line start, where only line ends and blank lines flow into each other.
const LINE_END_TOKENS: usize = 4;

/// In which order a prompt shows the text around the cursor. One builder makes all three: they
/// differ in where the anchor stands, and what was typed after it opens the middle, as if the model
/// had generated it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Order {
    /// Prefix, suffix, middle: the anchor is the cursor.
    Psm,
    /// Suffix, prefix, middle: the anchor is the start of the window.
    Spm,
    /// The anchor is the start of a line, the cursor's or one above, and stays there while only what
    /// follows it changes: typing only appends to the prompt.
    PsmAnchored,
}

impl Order {
    /// How it is spelled.
    pub fn name(self) -> &'static str {
        match self {
            Self::Psm => "psm",
            Self::Spm => "spm",
            Self::PsmAnchored => "psm-anchored",
        }
    }
}

impl FromStr for Order {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "psm" => Ok(Self::Psm),
            "spm" => Ok(Self::Spm),
            "psm-anchored" => Ok(Self::PsmAnchored),
            _ => Err("expected psm, spm or psm-anchored".into()),
        }
    }
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Psm => "psm",
            Self::Spm => "spm",
            Self::PsmAnchored => "psm-anchored",
        })
    }
}

/// How a model is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// The prompt is the fill-in-the-middle string: for base models, and those trained on it.
    Raw,
    /// The same string is what the user says in ChatML; what was typed since the anchor is how the answer
    /// begins.
    Chat,
}

/// What stands around the parts of a prompt, made once for a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    order: Order,
    fim: FimTokens,
    head: Vec<u32>,
    tail: Vec<u32>,
}

/// The parts of a prompt, as token ids.
#[derive(Clone, Copy, Debug)]
pub struct Parts<'a> {
    /// Of other files, with their own special tokens; may be empty.
    pub context: &'a [u32],
    /// What says which file this is; may be empty.
    pub header: &'a [u32],
    /// The text before the anchor.
    pub before: &'a [u32],
    /// The text after the cursor, see [`after_cursor`].
    pub suffix: &'a [u32],
    /// The text from the anchor to the cursor, without its last word.
    pub typed: &'a [u32],
}

impl Frame {
    /// Fails, naming the missing token, for a tokenizer that cannot fill in the middle or has no chat.
    pub fn new(order: Order, format: Format, tokenizer: &Tokenizer) -> Result<Self> {
        let fim = tokenizer.fim()?;
        let special = |text| {
            let missing = || format!("the tokenizer has no {text}: use the format raw instead of chat");
            tokenizer.special(text).with_context(missing)
        };
        let (mut head, mut tail) = (Vec::new(), Vec::new());
        if format == Format::Chat {
            let (start, end) = (special("<|im_start|>")?, special("<|im_end|>")?);
            head.push(start);
            head.extend(tokenizer.encode("system\nYou are a code completion assistant."));
            head.push(end);
            head.extend(tokenizer.encode("\n"));
            head.push(start);
            head.extend(tokenizer.encode("user\n"));
            tail.push(end);
            tail.extend(tokenizer.encode("\n"));
            tail.push(start);
            tail.extend(tokenizer.encode("assistant\n"));
        }
        Ok(Self { order, fim, head, tail })
    }

    /// How many tokens [`Frame::prompt`] adds to those of the parts.
    pub fn tokens(&self) -> usize {
        self.head.len() + self.tail.len() + 3
    }

    /// The ids of a file shown as context, before those of its text.
    pub fn file_header(&self, path: &str, tokenizer: &Tokenizer) -> Option<Vec<u32>> {
        let mut ids = vec![self.fim.file_sep?];
        ids.extend(tokenizer.encode(&format!("{path}\n")));
        Some(ids)
    }

    /// The ids of a repository's name, before those of its files.
    pub fn repository_header(&self, name: &str, tokenizer: &Tokenizer) -> Option<Vec<u32>> {
        let mut ids = vec![self.fim.repo_name?];
        ids.extend(tokenizer.encode(&format!("{name}\n")));
        Some(ids)
    }

    /// `context header <|fim_prefix|> before <|fim_suffix|> suffix <|fim_middle|> typed`, and where later
    /// prompts are likely to leave it.
    pub fn prompt(&self, parts: &Parts) -> (Vec<u32>, Vec<Mark>) {
        let Parts { context, header, before, suffix, typed } = parts;
        let mut marks = Vec::new();
        let mut ids = [&self.head[..], context].concat();
        if !context.is_empty() {
            marks.push(Mark { at: ids.len(), behind: 0 });
        }
        ids.extend_from_slice(header);
        ids.push(self.fim.prefix);
        ids.extend_from_slice(before);
        let behind = match self.order {
            Order::Spm => None,
            Order::Psm => Some(WORD_TOKENS),
            Order::PsmAnchored => Some(LINE_END_TOKENS),
        };
        marks.extend(behind.map(|behind| Mark { at: ids.len(), behind: behind.min(before.len()) }));
        ids.push(self.fim.suffix);
        ids.extend_from_slice(suffix);
        ids.push(self.fim.middle);
        ids.extend_from_slice(&self.tail);
        marks.push(Mark { at: ids.len(), behind: 0 });
        ids.extend_from_slice(typed);
        (ids, marks)
    }
}

/// The suffix a prompt shows. It begins right after the cursor; but where only closers and
/// punctuation follow on the line (`ends_line`), they are left out, and it begins with the line end:
/// an editor that closes brackets by itself must not change the prompt. The model then writes such
/// closers itself, and trimming drops those that the document already has.
pub fn after_cursor(suffix: &str, ends_line: bool) -> &str {
    if !ends_line {
        return suffix;
    }
    let end = suffix.find('\n').unwrap_or(suffix.len());
    &suffix[if suffix[..end].ends_with('\r') { end - 1 } else { end }..]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::tokenizer::tests::{tiny, tiny_fim};

    #[test]
    fn prompts_say_where_they_will_be_left() {
        let tokenizer = tiny_fim();
        let parts = Parts { context: &[7], header: &[8], before: &[97, 10], suffix: &[98], typed: &[99] };
        for (order, behind) in [(Order::Psm, Some(2)), (Order::PsmAnchored, Some(2)), (Order::Spm, None)] {
            let frame = Frame::new(order, Format::Raw, &tokenizer).unwrap();
            let (ids, marks) = frame.prompt(&parts);
            let expected = "\u{7}\u{8}<|fim_prefix|>a\n<|fim_suffix|>b<|fim_middle|>c";
            assert_eq!(tokenizer.decode(&ids), expected);
            assert_eq!(ids.len(), frame.tokens() + 6);
            let mark = |at, behind| Mark { at, behind };
            let suffix = behind.map(|behind| mark(5, behind));
            let expected: Vec<_> =
                [Some(mark(1, 0)), suffix, Some(mark(8, 0))].into_iter().flatten().collect();
            assert_eq!(marks, expected);
        }
        assert!(
            Frame::new(Order::Psm, Format::Raw, &tokenizer).unwrap().file_header("a", &tokenizer).is_none()
        );
    }

    #[test]
    fn a_chat_asks_for_the_same_and_begins_the_answer() {
        let specials = [
            "<|fim_prefix|>",
            "<|fim_middle|>",
            "<|fim_suffix|>",
            "<|im_start|>",
            "<|im_end|>",
            "<|file_sep|>",
        ];
        let tokenizer = tiny(&specials);
        let frame = Frame::new(Order::PsmAnchored, Format::Chat, &tokenizer).unwrap();
        let context = frame.file_header("b.rs", &tokenizer).unwrap();
        let parts = Parts { context: &context, header: &[], before: &[97], suffix: &[98], typed: &[99] };
        let (ids, marks) = frame.prompt(&parts);
        let (before, typed) = ids.split_at(marks.last().unwrap().at);
        assert_eq!(
            tokenizer.decode(before),
            "<|im_start|>system\nYou are a code completion assistant.<|im_end|>\n<|im_start|>user\n\
             <|file_sep|>b.rs\n<|fim_prefix|>a<|fim_suffix|>b<|fim_middle|><|im_end|>\n<|im_start|>assistant\n"
        );
        assert_eq!(typed, [99]);
        let error = Frame::new(Order::Psm, Format::Chat, &tiny_fim()).unwrap_err().to_string();
        assert!(error.contains("<|im_start|>"), "{error}");
    }

    #[test]
    fn closers_after_the_cursor_are_not_shown() {
        for (suffix, ends_line, expected) in [
            (");\r\nx", true, "\r\nx"),
            (");\nx", true, "\nx"),
            (")", true, ""),
            ("\r\nx", true, "\r\nx"),
            ("b)\nx", false, "b)\nx"),
        ] {
            assert_eq!(after_cursor(suffix, ends_line), expected);
        }
    }
}
