//! The fill-in-the-middle prompt. Pure.

use std::fmt;
use std::str::FromStr;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::model::Tokenizer;
use crate::model::tokenizer::FimTokens;
use crate::model::tokenizer::chat::{Message, Role};
use crate::session::Mark;

/// Tokens at the end of a growing prefix that the last word may change.
const WORD_TOKENS: usize = 24;
/// The same at a line start, where only line ends and blank lines merge.
const LINE_END_TOKENS: usize = 4;

/// The order of prefix and suffix in a prompt. One builder makes all three: they differ in the position of the anchor,
/// and the text typed after it begins the middle, as if the model had generated it.
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
    /// Its spelling in settings.
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

/// The FIM format of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// The prompt is the fill-in-the-middle string: for base models, and those trained on it.
    Raw,
    /// The same string is the user's message in a chat; the text typed since the anchor begins the answer.
    Chat,
    /// The user's message has the code with a mark at the cursor's line and asks for its replacement; the typed text
    /// begins the answer. For chat models without FIM training.
    SearchReplace,
}

impl Format {
    pub fn for_tokenizer(tokenizer: &Tokenizer) -> Self {
        match (tokenizer.fim(), tokenizer.cannot_chat()) {
            (Err(_), None) => Self::SearchReplace,
            _ => Self::Raw,
        }
    }
}

/// Placeholder of the code in the chat template.
const GAP: &str = "\u{f1000}";
/// The mark at the cursor's line.
const MARK: &str = "<<<HERE>>>";
/// Longer than fences in code.
const FENCE: &str = "`````";
const QUESTION: &str = "In this code, something is missing at the mark";
const TASK: &str = "Write what replaces the mark, so that the code goes on after it as it is shown. It may be a part \
                    of a line. Answer with one code block and nothing else.";

/// The tokens around the parts of a prompt, made once for a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    order: Order,
    /// The special tokens, for those formats that have them.
    fim: Option<FimTokens>,
    head: Vec<u32>,
    /// Before the text that precedes the gap, between the two, and after both.
    parts: [Vec<u32>; 3],
    tail: Vec<u32>,
}

/// The parts of a prompt, as token ids.
#[derive(Clone, Copy, Debug)]
pub struct Parts<'a> {
    /// Other files, with their special tokens; may be empty.
    pub context: &'a [u32],
    /// The name of the file; may be empty.
    pub header: &'a [u32],
    /// The text before the anchor.
    pub before: &'a [u32],
    /// The text after the cursor, see [`after_cursor`].
    pub suffix: &'a [u32],
    /// The text from the anchor to the cursor, without its last word.
    pub typed: &'a [u32],
}

impl Frame {
    /// Fails, naming what is missing, for a tokenizer that cannot fill in the middle or has no chat.
    pub fn new(order: Order, format: Format, tokenizer: &Tokenizer) -> Result<Self> {
        if format == Format::SearchReplace {
            let system = "You complete code. You write only what is missing.";
            let (head, mut tail) = chat(tokenizer, system)?;
            tail.extend(tokenizer.encode(&format!("{FENCE}\n")));
            let parts =
                [format!("{QUESTION} {MARK}:\n\n{FENCE}\n"), MARK.to_owned(), format!("\n{FENCE}\n\n{TASK}")];
            let parts = parts.map(|part| tokenizer.encode(&part));
            return Ok(Self { order, fim: None, head, parts, tail });
        }
        let fim = tokenizer.fim()?;
        let parts = [fim.prefix, fim.suffix, fim.middle].map(|id| vec![id]);
        let system = "You are a code completion assistant.";
        let (head, tail) = match format {
            Format::Chat if tokenizer.cannot_chat().is_none() => chat(tokenizer, system)?,
            Format::Chat => chat_ml(tokenizer, system)?,
            Format::Raw | Format::SearchReplace => (Vec::new(), Vec::new()),
        };
        Ok(Self { order, fim: Some(fim), head, parts, tail })
    }

    /// How many tokens [`Frame::prompt`] adds to those of the parts.
    pub fn tokens(&self) -> usize {
        self.head.len() + self.parts.iter().map(Vec::len).sum::<usize>() + self.tail.len()
    }

    /// The ids of a file shown as context, before those of its text.
    pub fn file_header(&self, path: &str, tokenizer: &Tokenizer) -> Option<Vec<u32>> {
        let Some(fim) = self.fim else { return Some(tokenizer.encode(&format!("File `{path}`:\n"))) };
        let mut ids = vec![fim.file_sep?];
        ids.extend(tokenizer.encode(&format!("{path}\n")));
        Some(ids)
    }

    /// The ids of a repository's name, before those of its files.
    pub fn repository_header(&self, name: &str, tokenizer: &Tokenizer) -> Option<Vec<u32>> {
        let mut ids = vec![self.fim?.repo_name?];
        ids.extend(tokenizer.encode(&format!("{name}\n")));
        Some(ids)
    }

    /// `context header <|fim_prefix|> before <|fim_suffix|> suffix <|fim_middle|> typed`, and where later prompts are
    /// likely to diverge.
    pub fn prompt(&self, parts: &Parts) -> (Vec<u32>, Vec<Mark>) {
        let Parts { context, header, before, suffix, typed } = parts;
        let mut marks = Vec::new();
        let mut ids = [&self.head[..], context].concat();
        if !context.is_empty() {
            marks.push(Mark { at: ids.len(), unstable_tokens: 0 });
        }
        ids.extend_from_slice(header);
        ids.extend_from_slice(&self.parts[0]);
        ids.extend_from_slice(before);
        let unstable_tokens = match self.order {
            Order::Spm => None,
            Order::Psm => Some(WORD_TOKENS),
            Order::PsmAnchored => Some(LINE_END_TOKENS),
        };
        marks.extend(unstable_tokens.map(|unstable_tokens| Mark {
            at: ids.len(),
            unstable_tokens: unstable_tokens.min(before.len()),
        }));
        ids.extend_from_slice(&self.parts[1]);
        ids.extend_from_slice(suffix);
        ids.extend_from_slice(&self.parts[2]);
        ids.extend_from_slice(&self.tail);
        marks.push(Mark { at: ids.len(), unstable_tokens: 0 });
        ids.extend_from_slice(typed);
        (ids, marks)
    }
}

/// The tokens before and after the user's message, by the model's chat template.
fn chat(tokenizer: &Tokenizer, system: &str) -> Result<(Vec<u32>, Vec<u32>)> {
    let both = [Message::new(Role::System, system), Message::new(Role::User, GAP)];
    // Some templates do not support system messages.
    let one = [Message::new(Role::User, format!("{system}\n\n{GAP}"))];
    tokenizer
        .encode_chat_around(&both, GAP)
        .or_else(|error| tokenizer.encode_chat_around(&one, GAP).map_err(|_| error))
}

/// The same for a model without a chat template, by ChatML.
fn chat_ml(tokenizer: &Tokenizer, system: &str) -> Result<(Vec<u32>, Vec<u32>)> {
    let special = |text| {
        let missing = || format!("the tokenizer has no {text}: use the format raw instead of chat");
        tokenizer.special(text).with_context(missing)
    };
    let (start, end) = (special("<|im_start|>")?, special("<|im_end|>")?);
    let encode = |text: &str| tokenizer.encode(text);
    let head = [
        &[start],
        &encode(&format!("system\n{system}"))[..],
        &[end],
        &encode("\n"),
        &[start],
        &encode("user\n"),
    ];
    let tail = [&[end], &encode("\n")[..], &[start], &encode("assistant\n")];
    Ok((head.concat(), tail.concat()))
}

/// The suffix a prompt shows. It begins right after the cursor; but where only closing delimiters and
/// punctuation follow on the line (`ends_line`), they are left out, and it begins with the line end:
/// an editor that closes brackets by itself must not change the prompt. The model then writes such
/// delimiters itself, and trimming drops those that the document already has.
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
        for (order, unstable_tokens) in
            [(Order::Psm, Some(2)), (Order::PsmAnchored, Some(2)), (Order::Spm, None)]
        {
            let frame = Frame::new(order, Format::Raw, &tokenizer).unwrap();
            let (ids, marks) = frame.prompt(&parts);
            let expected = "\u{7}\u{8}<|fim_prefix|>a\n<|fim_suffix|>b<|fim_middle|>c";
            assert_eq!(tokenizer.decode(&ids), expected);
            assert_eq!(ids.len(), frame.tokens() + 6);
            let mark = |at, unstable_tokens| Mark { at, unstable_tokens };
            let suffix = unstable_tokens.map(|unstable_tokens| mark(5, unstable_tokens));
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
    fn a_chat_is_written_as_the_model_has_it() {
        const TEMPLATE: &str =
            "{% for m in messages %}<s>{{ m.role }}: {{ m.content.strip() }}</s>{% endfor %}<s>";
        let specials = ["<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<s>", "</s>"];
        let parts = Parts { context: &[], header: &[], before: &[97, 10], suffix: &[98], typed: &[99] };
        let ids = |format: Format, specials: &[&str], template: &str| {
            let tokenizer = tiny(specials).with_chat(template);
            let frame = Frame::new(Order::PsmAnchored, format, &tokenizer).unwrap();
            let (ids, marks) = frame.prompt(&parts);
            assert_eq!(ids.len(), frame.tokens() + 4);
            assert_eq!(ids[marks.last().unwrap().at..], [99]);
            tokenizer.decode(&ids)
        };
        let system = "<s>system: You are a code completion assistant.</s>";
        assert_eq!(
            ids(Format::Chat, &specials, TEMPLATE),
            format!("{system}<s>user: <|fim_prefix|>a\n<|fim_suffix|>b<|fim_middle|></s><s>c")
        );
        let asked = format!("{QUESTION} {MARK}:\n\n{FENCE}\na\n{MARK}b\n{FENCE}\n\n{TASK}");
        let system = "You complete code. You write only what is missing.";
        assert_eq!(
            ids(Format::SearchReplace, &specials[3..], TEMPLATE),
            format!("<s>system: {system}</s><s>user: {asked}</s><s>{FENCE}\nc")
        );
        let refusing = "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}<s>{{ messages[0].content }}</s>";
        assert_eq!(
            ids(Format::SearchReplace, &specials[3..], refusing),
            format!("<s>{system}\n\n{asked}</s>{FENCE}\nc")
        );
    }

    #[test]
    fn the_format_is_what_the_model_was_made_for() {
        let fim = ["<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>"];
        for (specials, template, expected) in [
            (&fim[..], None, Format::Raw),
            (&fim, Some("{{ messages }}"), Format::Raw),
            (&[], Some("{{ messages }}"), Format::SearchReplace),
            (&[], None, Format::Raw),
        ] {
            let tokenizer = tiny(specials);
            let tokenizer = match template {
                Some(template) => tokenizer.with_chat(template),
                None => tokenizer,
            };
            assert_eq!(Format::for_tokenizer(&tokenizer), expected);
        }
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
