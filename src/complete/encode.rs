//! Incremental tokenising of prompts. Pure.

use std::borrow::Cow;
use std::collections::HashMap;

use crate::model::Tokenizer;

/// Bytes of cached text.
const BYTES_MAX: usize = 1 << 20;

/// Caches the ids of stretches of whole lines, so that a keystroke tokenises only its own.
///
/// Stretches begin at line starts where no word of the tokenizer can begin earlier: those whose line has
/// anything but whitespace before it ends. The words of Qwen's pre-tokenizer take in line ends after
/// whitespace or punctuation, but nothing beyond them that is not whitespace, and they look at nothing before them;
/// NFC composes nothing with a line end. For another tokenizer this is tested with short texts first.
#[derive(Debug, Default)]
pub struct Encoder {
    cached: HashMap<Box<str>, Box<[u32]>>,
    bytes: usize,
    /// Whether the tokenizer may be given stretches; unknown before the first text.
    splits: Option<bool>,
}

impl Encoder {
    /// The same as [`Tokenizer::encode`] of `text` with line feeds as line ends.
    pub fn encode(&mut self, text: &str, tokenizer: &Tokenizer) -> Vec<u32> {
        let mut ids = Vec::new();
        self.each(&with_line_feeds(text), tokenizer, |found| ids.extend_from_slice(found));
        ids
    }

    /// How many ids [`Encoder::encode`] gives.
    pub fn count(&mut self, text: &str, tokenizer: &Tokenizer) -> usize {
        let mut count = 0;
        self.each(&with_line_feeds(text), tokenizer, |found| count += found.len());
        count
    }

    /// The same as [`Tokenizer::encode_open`] of `text` with line feeds as line ends.
    pub fn encode_open(&mut self, text: &str, tokenizer: &Tokenizer) -> (Vec<u32>, String) {
        let text = with_line_feeds(text);
        let last = match self.may_split(tokenizer) {
            true => stretches(&text).last().map_or(0, str::len),
            false => text.len(),
        };
        let (whole, last) = text.split_at(text.len() - last);
        let mut ids = Vec::new();
        self.each(whole, tokenizer, |found| ids.extend_from_slice(found));
        let (more, open) = tokenizer.encode_open(last);
        ids.extend(more);
        (ids, open.to_owned())
    }

    fn each(&mut self, text: &str, tokenizer: &Tokenizer, mut found: impl FnMut(&[u32])) {
        if !self.may_split(tokenizer) {
            return found(self.ids(text, tokenizer));
        }
        for stretch in stretches(text) {
            found(self.ids(stretch, tokenizer));
        }
    }

    fn ids(&mut self, text: &str, tokenizer: &Tokenizer) -> &[u32] {
        if !self.cached.contains_key(text) {
            if self.bytes + text.len() > BYTES_MAX {
                self.cached.clear();
                self.bytes = 0;
            }
            self.bytes += text.len();
            self.cached.insert(text.into(), tokenizer.encode(text).into());
        }
        &self.cached[text]
    }

    fn may_split(&mut self, tokenizer: &Tokenizer) -> bool {
        *self.splits.get_or_insert_with(|| splits_at_lines(tokenizer))
    }
}

/// Models are trained on line feeds: CRLF is undone for the prompt and redone for the completion.
pub fn with_line_feeds(text: &str) -> Cow<'_, str> {
    if text.contains("\r\n") { text.replace("\r\n", "\n").into() } else { text.into() }
}

/// `text` cut at every line start that [`Encoder`] may cut at.
fn stretches(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let cuts = rest.match_indices('\n').map(|(end, _)| end + 1);
        let cut = cuts.into_iter().find(|&cut| begins_with_text(&rest[cut..])).unwrap_or(rest.len());
        let (stretch, others) = rest.split_at(cut);
        rest = others;
        Some(stretch)
    })
}

/// Whether the first line has anything but whitespace.
fn begins_with_text(text: &str) -> bool {
    let is_end = |c: char| matches!(c, '\r' | '\n');
    text.chars().find(|&c| !c.is_whitespace() || is_end(c)).is_some_and(|c| !is_end(c))
}

/// Whether short texts have the same ids when they are cut at line starts.
fn splits_at_lines(tokenizer: &Tokenizer) -> bool {
    const ENDS: [&str; 4] = ["x\n", "x {\n", "x;  \n", "x\n\n"];
    let starts = ('!'..='~').filter(|c| !c.is_ascii_alphanumeric()).chain(['a', '1', 'é']);
    let starts = starts.flat_map(|c| [format!("{c}"), format!("{c}{c}"), format!("  {c}"), format!("\t{c}")]);
    let starts: Vec<_> = starts.map(|start| (tokenizer.encode(&start), start)).collect();
    ENDS.into_iter().all(|end| {
        let ids = tokenizer.encode(end);
        starts.iter().all(|(start_ids, start)| {
            tokenizer.encode(&format!("{end}{start}")) == [&ids[..], &start_ids[..]].concat()
        })
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::base::random::Mmix;
    use crate::model::tokenizer::tests::tiny_fim;

    /// The starter's tokenizer, and Qwen's where it is at hand.
    pub(crate) fn tokenizers() -> Vec<Tokenizer> {
        let mut all = vec![starter()];
        match std::env::var_os("FIMD_QWEN_TOKENIZER").map(std::path::PathBuf::from) {
            Some(folder) => {
                let json = std::fs::read(folder.join("tokenizer.json")).unwrap();
                all.push(Tokenizer::from_bytes("qwen", &json).unwrap());
            }
            None => {
                eprintln!("not tried with Qwen's tokenizer: FIMD_QWEN_TOKENIZER is not set to its folder")
            }
        }
        all
    }

    pub(crate) fn starter() -> Tokenizer {
        Tokenizer::from_bytes("starter", include_bytes!("../starter/tokenizer.json")).unwrap()
    }

    #[test]
    fn stretches_begin_where_a_line_has_text() {
        let all: Vec<_> = stretches("a\n\n  \n  b\nc\r\n\u{c}d\n   ").collect();
        assert_eq!(all, ["a\n\n  \n", "  b\n", "c\r\n", "\u{c}d\n   "]);
        assert_eq!(stretches("").count(), 0);
    }

    #[test]
    fn line_by_line_is_the_same_as_the_whole() {
        const PIECES: [&str; 30] = [
            "\n", "\n", "\n", " ", "    ", "\t", "\r\n", "\r", "x", "return", "foo_bar", "12", "(", "{\n",
            "});\n", "/", "//", "-- ", "'s", "'", "\"", "é", "e\u{301}", "\u{301}", "🦀", "世界", "\u{a0}",
            "\u{85}", "\u{2028}", "\u{c}",
        ];
        for tokenizer in tokenizers() {
            assert!(splits_at_lines(&tokenizer));
            let (mut random, mut encoder) = (Mmix(1), Encoder::default());
            for round in 0..2000 {
                let mut text = String::new();
                for _ in 0..round % 40 {
                    text += PIECES[random.below(PIECES.len())];
                }
                let plain = with_line_feeds(&text);
                let whole = tokenizer.encode(&plain);
                assert_eq!(encoder.encode(&text, &tokenizer), whole, "{text:?}");
                assert_eq!(encoder.count(&text, &tokenizer), whole.len());
                let (ids, open) = tokenizer.encode_open(&plain);
                assert_eq!(encoder.encode_open(&text, &tokenizer), (ids, open.to_owned()), "{text:?}");
            }
        }
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (tokenizer, mut encoder) = (tiny_fim(), Encoder::default());
        for i in 0..40 {
            encoder.count(&format!("{i}{}", "x".repeat(BYTES_MAX / 16)), &tokenizer);
            assert!(encoder.bytes <= BYTES_MAX);
        }
    }
}
