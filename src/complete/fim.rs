//! The fill-in-the-middle prompt. Pure.

use std::str::FromStr;

use crate::model::Tokenizer;
use crate::model::tokenizer::FimTokens;

/// In which order a prompt shows the text around the cursor. One builder makes all three: they
/// differ in where the anchor stands, and what was typed after it opens the middle, as if the model
/// had generated it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Prefix, suffix, middle: the anchor is the cursor.
    Psm,
    /// Suffix, prefix, middle: the anchor is the start of the window.
    Spm,
    /// The anchor is the start of the cursor's line, so that typing only appends to the prompt.
    PsmAnchored,
}

impl Order {
    /// Splits the text before the cursor at the anchor: what precedes it, and what was typed since.
    pub fn split(self, prefix: &str) -> (&str, &str) {
        prefix.split_at(match self {
            Self::Psm => prefix.len(),
            Self::Spm => 0,
            Self::PsmAnchored => prefix.rfind('\n').map_or(0, |end| end + 1),
        })
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

/// The parts of a prompt.
#[derive(Clone, Copy, Debug)]
pub struct Prompt<'a> {
    /// Tokens of other files and of the repository, with their own special tokens; may be empty.
    pub context: &'a [u32],
    /// Text before the anchor.
    pub before: &'a str,
    /// Text from the anchor to the cursor.
    pub typed: &'a str,
    /// Text after the cursor, see [`after_cursor`].
    pub suffix: &'a str,
}

impl Prompt<'_> {
    /// How many special tokens [`Prompt::build`] adds.
    pub const SPECIALS: usize = 3;

    /// The ids of `context <|fim_prefix|> before <|fim_suffix|> suffix <|fim_middle|> typed` up to the
    /// last word of `typed`, and that word, with which the generation has to begin.
    pub fn build(&self, tokenizer: &Tokenizer, fim: &FimTokens) -> (Vec<u32>, String) {
        let mut ids = self.context.to_vec();
        for (special, text) in [(fim.prefix, self.before), (fim.suffix, self.suffix)] {
            ids.push(special);
            ids.extend(tokenizer.encode(text));
        }
        ids.push(fim.middle);
        let (typed, open) = tokenizer.encode_open(self.typed);
        ids.extend(typed);
        (ids, open.to_owned())
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
    use crate::model::tokenizer::tests::tiny_fim;

    #[test]
    fn orders_differ_in_the_anchor() {
        let tokenizer = tiny_fim();
        let fim = tokenizer.fim().unwrap();
        let spell = |order: Order, prefix, suffix| {
            let (before, typed) = order.split(prefix);
            let (ids, open) = Prompt { context: &[7], before, typed, suffix }.build(&tokenizer, &fim);
            (tokenizer.decode(&ids), open)
        };
        let cases = [
            (Order::Psm, "\u{7}<|fim_prefix|>a\n b<|fim_suffix|>\nc<|fim_middle|>", ""),
            (Order::Spm, "\u{7}<|fim_prefix|><|fim_suffix|>\nc<|fim_middle|>a\n", " b"),
            (Order::PsmAnchored, "\u{7}<|fim_prefix|>a\n<|fim_suffix|>\nc<|fim_middle|>", " b"),
        ];
        for (order, prompt, open) in cases {
            assert_eq!(spell(order, "a\n b", "\nc"), (prompt.into(), open.into()));
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
