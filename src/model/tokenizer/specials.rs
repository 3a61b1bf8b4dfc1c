//! How the special tokens of all model families are spelled. As text of a model they end it; as text of a document
//! they are kept from reading as tokens.

/// Spellings besides those in bars: `<|im_end|>`, `<｜fim▁hole｜>`, `<[fim-suffix]>`.
const SPELLINGS: [&str; 39] = [
    // StarCoder, Granite, Mellum
    "<fim_prefix>",
    "<fim_middle>",
    "<fim_suffix>",
    "<fim_pad>",
    "<file_sep>",
    "<empty_output>",
    "<issue_start>",
    "<issue_comment>",
    "<issue_closed>",
    "<jupyter_start>",
    "<jupyter_text>",
    "<jupyter_code>",
    "<jupyter_output>",
    "<jupyter_script>",
    "<commit_before>",
    "<commit_msg>",
    "<commit_after>",
    "<gh_stars>",
    // SantaCoder
    "<fim-prefix>",
    "<fim-middle>",
    "<fim-suffix>",
    "<fim-pad>",
    // CodeLlama
    "<EOT>",
    "<PRE>",
    "<SUF>",
    "<MID>",
    "<<SYS>>",
    "<</SYS>>",
    // Gemma
    "<start_of_turn>",
    "<end_of_turn>",
    // CodeT5, CodeGen2
    "<extra_id_0>",
    "<extra_id_1>",
    "<mask_1>",
    "<eom>",
    // aiXcoder
    "<AIX-SPAN-PRE>",
    "<AIX-SPAN-POST>",
    "<AIX-SPAN-MIDDLE>",
    // Mistral
    "[/INST]",
    "[gMASK]",
];

/// Spellings that code and usage texts may have too, in quotes, after a space, or as an index.
const AMBIGUOUS: [&str; 17] = [
    "<filename>",
    "<reponame>",
    "<repo_name>",
    "<eos>",
    "<bos>",
    "<pad>",
    "<unk>",
    "[PREFIX]",
    "[SUFFIX]",
    "[MIDDLE]",
    "[INST]",
    "[AVAILABLE_TOOLS]",
    "[TOOL_CALLS]",
    "[SYSTEM_PROMPT]",
    "[BOS]",
    "[EOS]",
    "[PAD]",
];

/// Spellings that are tags in markup.
const TAGS: [&str; 2] = ["<s>", "</s>"];

/// Longest name between bars, in characters.
const NAME_CHARS_MAX: usize = 40;
/// The beginning of a token that is too short to be dropped where a text ends with it, in characters.
const BEGINNING_CHARS_MAX: usize = 2;

/// What a text is, where that decides whether a spelling is a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextKind {
    Code,
    /// `<s>` and `</s>` are tags.
    Markup,
}

/// Why the text of a model ended before its generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// At a special token.
    Token,
    /// At bytes that are no text.
    Damage,
}

/// Cuts a stream of text at the first special token, or where it is damaged. What may become a token is held back.
#[derive(Clone, Debug)]
pub struct SpecialsCut {
    /// Without one, nothing is cut.
    kind: Option<TextKind>,
    held: String,
    /// The character before `held`.
    previous: Option<char>,
    cut: Option<Cut>,
}

impl SpecialsCut {
    pub fn new(kind: Option<TextKind>) -> Self {
        Self { kind, held: String::new(), previous: None, cut: None }
    }

    /// The text that is safe to show with the next piece.
    pub fn push(&mut self, piece: &str) -> String {
        let Some(kind) = self.kind else { return piece.to_owned() };
        if self.cut.is_some() {
            return String::new();
        }
        self.held.push_str(piece);
        let (end, found) = self.first_token(kind);
        let shown: String = self.held.drain(..end).collect();
        self.previous = shown.chars().next_back().or(self.previous);
        self.cut = found;
        shown
    }

    /// Why the text has ended, if it has.
    pub fn cut(&self) -> Option<Cut> {
        self.cut
    }

    /// The held text when no more comes: nothing where it is the beginning of a token.
    pub fn finish(&mut self) -> String {
        let held = std::mem::take(&mut self.held);
        let is_text = self.cut.is_none() && held.chars().nth(BEGINNING_CHARS_MAX).is_none();
        if is_text { held } else { String::new() }
    }

    /// How much of the held text is shown, and why the rest never is.
    fn first_token(&self, kind: TextKind) -> (usize, Option<Cut>) {
        let mut previous = self.previous;
        for (at, c) in self.held.char_indices() {
            if c == char::REPLACEMENT_CHARACTER {
                return (at, Some(Cut::Damage));
            }
            let rest = &self.held[at..];
            match spelling(rest).filter(|found| found.is_token(rest, previous, kind)) {
                Some(Spelling::Whole(_)) => return (at, Some(Cut::Token)),
                Some(Spelling::Beginning) => return (at, None),
                None => previous = Some(c),
            }
        }
        (self.held.len(), None)
    }
}

/// `text` with `guard` inside every special token: then it reads as none.
pub fn broken_up(text: &str, guard: char) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(['<', '[']) {
        let (before, token) = rest.split_at(at + 1);
        out.push_str(before);
        if let Some(Spelling::Whole(_)) = spelling(&rest[at..]) {
            out.push(guard);
        }
        rest = token;
    }
    out.push_str(rest);
    out
}

/// What a text begins with.
#[derive(Clone, Copy)]
enum Spelling {
    /// A token of this many bytes.
    Whole(usize),
    /// All of it may become a token.
    Beginning,
}

impl Spelling {
    /// Whether the beginning of `text` is a token after `previous`.
    fn is_token(self, text: &str, previous: Option<char>, kind: TextKind) -> bool {
        let Self::Whole(length) = self else { return true };
        let token = &text[..length];
        if TAGS.contains(&token) {
            return kind == TextKind::Code;
        }
        let is_quoted = |c: char| {
            matches!(c, ' ' | '\t' | '"' | '\'' | '`' | '/' | '=' | ':' | '-' | '(' | '[' | ',' | '|')
        };
        let is_index = |c: char| token.starts_with('[') && (c.is_alphanumeric() || matches!(c, '_' | ']'));
        !AMBIGUOUS.contains(&token) || !previous.is_some_and(|c| is_quoted(c) || is_index(c))
    }
}

fn spelling(text: &str) -> Option<Spelling> {
    if !text.starts_with(['<', '[']) {
        return None;
    }
    let all = || SPELLINGS.iter().chain(&AMBIGUOUS).chain(&TAGS);
    if let Some(whole) = all().find(|spelling| text.starts_with(**spelling)) {
        return Some(Spelling::Whole(whole.len()));
    }
    if all().any(|spelling| spelling.starts_with(text)) {
        return Some(Spelling::Beginning);
    }
    barred(text)
}

/// A name between `<|` and `|>`, with bars of either width, or between `<[` and `]>`.
fn barred(text: &str) -> Option<Spelling> {
    let rest = text.strip_prefix('<')?;
    let Some(bar) = rest.chars().next() else { return Some(Spelling::Beginning) };
    let closing: &[char] = match bar {
        '|' | '｜' => &['|', '｜'],
        '[' => &[']'],
        _ => return None,
    };
    let name = &rest[bar.len_utf8()..];
    let is_name = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | ':' | '▁');
    let end = name.find(|c| !is_name(c)).unwrap_or(name.len());
    let chars = name[..end].chars().count();
    if chars > NAME_CHARS_MAX || name.starts_with(|c: char| is_name(c) && !c.is_alphabetic()) {
        return None;
    }
    let after = &name[end..];
    let Some(close) = after.chars().next() else { return Some(Spelling::Beginning) };
    if chars < 2 || !closing.contains(&close) {
        return None;
    }
    match after[close.len_utf8()..].chars().next() {
        None => Some(Spelling::Beginning),
        Some('>') => Some(Spelling::Whole(text.len() - after.len() + close.len_utf8() + 1)),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAMILIES: [&str; 24] = [
        "<|im_end|>",
        "<|im_start|>",
        "<|endoftext|>",
        "<|fim_prefix|>",
        "<|fim_pad|>",
        "<|file_sep|>",
        "<|repo_name|>",
        "<fim_middle>",
        "<fim-suffix>",
        "<file_sep>",
        "<EOT>",
        "<SUF>",
        "<|EOT|>",
        "<｜fim▁hole｜>",
        "<｜end▁of▁sentence｜>",
        "<|end_of_text|>",
        "<|eot_id|>",
        "<|file_separator|>",
        "<end_of_turn>",
        "<[fim-middle]>",
        "[SUFFIX]",
        "[/INST]",
        "</s>",
        "<filename>",
    ];

    /// The shown text and the cut of a text that comes in pieces of at most this many characters.
    fn stream(text: &str, chars: usize, kind: TextKind) -> (String, Option<Cut>) {
        let (mut cut, mut shown) = (SpecialsCut::new(Some(kind)), String::new());
        let all: Vec<char> = text.chars().collect();
        for piece in all.chunks(chars) {
            shown += &cut.push(&piece.iter().collect::<String>());
        }
        let found = cut.cut();
        (shown + &cut.finish(), found)
    }

    #[test]
    fn tokens_of_all_families_end_a_text() {
        for token in FAMILIES {
            for (text, expected) in [
                (format!("f(a){token}"), "f(a)"),
                (format!("f(a);\n{token}import os\n"), "f(a);\n"),
                (token.to_owned(), ""),
            ] {
                for chars in 1..30 {
                    let found = stream(&text, chars, TextKind::Code);
                    assert_eq!(found, (expected.to_owned(), Some(Cut::Token)), "{text:?} by {chars}");
                }
            }
        }
    }

    #[test]
    fn code_that_looks_like_tokens_stays() {
        for text in [
            "a < b && c[PREFIX] > d",
            "f <| x |> g",
            "(<|>) <$> p",
            "usage: tool <filename> <repo_name>",
            "x[i]<[1, 2][j]",
            "vec![PAD; 3]; a = \"<pad>\"",
            "parts[SUFFIX]",
            "cat <<EOT\nx\nEOT\n",
            "<div><span>[x]</span></div>",
            "Vec<Option<T>>",
            "|a| a <= 1",
            "a <",
            "é🦀 [",
        ] {
            for chars in 1..30 {
                assert_eq!(stream(text, chars, TextKind::Code), (text.to_owned(), None), "{text:?}");
            }
        }
        let markup = "<s>old</s> new";
        assert_eq!(stream(markup, 3, TextKind::Markup), (markup.to_owned(), None));
    }

    #[test]
    fn halves_of_tokens_and_characters_are_not_shown() {
        for (text, expected, cut) in [
            ("f(a)<|im_en", "f(a)", None),
            ("f(a)<fim", "f(a)", None),
            ("f(a)<｜end▁of", "f(a)", None),
            ("世\u{fffd}", "世", Some(Cut::Damage)),
            ("a\u{fffd}b", "a", Some(Cut::Damage)),
        ] {
            assert_eq!(stream(text, 2, TextKind::Code), (expected.to_owned(), cut), "{text:?}");
        }
        let mut unchanged = SpecialsCut::new(None);
        assert_eq!(unchanged.push("a<|im_end|>\u{fffd}") + &unchanged.finish(), "a<|im_end|>\u{fffd}");
    }

    #[test]
    fn tokens_in_documents_are_broken_up() {
        for token in FAMILIES {
            let text = format!("x = \"{token}\" <{token}[");
            let broken = broken_up(&text, '\u{200b}');
            assert!(!broken.contains(token), "{broken:?}");
            assert_eq!(broken.replace('\u{200b}', ""), text);
        }
        assert_eq!(broken_up("a < b[0] <| c", '\u{200b}'), "a < b[0] <| c");
    }
}
