//! Text rules that end a completion. Pure: given the text so far, is it done, and where to cut it?
//!
//! The rules read lines, indentation and brackets, no grammar. Brackets in string literals and line
//! comments do not count, in this simple sense: a quote opens a string unless it follows `&` or `<`
//! (a Rust lifetime), a string ends at the same quote or with its line, and a comment runs from `//`
//! or `# ` to the end of its line. What this misreads is forgotten with the line.

use std::ops::Range;

/// A rule that ends a generation, and how much of the text it has read. Clone it for each generation.
#[derive(Clone, Debug, PartialEq)]
pub struct Stop {
    rule: Rule,
    /// The bracket that closes, in the suffix, what the completion must therefore not close.
    closer: Option<char>,
    brackets: Brackets,
    read: usize,
    line: Line,
    /// Where the complete lines before `line` lie.
    lines: Vec<Range<usize>>,
    blank_run: usize,
}

#[derive(Clone, Debug, PartialEq)]
enum Rule {
    None,
    SingleLine,
    MultiLine(Block),
}

/// Where a completion of several lines stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Block {
    /// Brackets open on the cursor's line, outermost first, that the completion may close.
    pub open: String,
    /// The least [`indent_width`] a line of the block has.
    pub indent: usize,
    /// What ends the completion besides leaving the block.
    pub extent: Extent,
    /// The text after the cursor, or as much of it as has a line that is not blank.
    pub suffix_start: String,
    /// Most lines of a completion, the rest of the cursor's line counted as one.
    pub lines_max: usize,
}

/// How far a completion of several lines may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// To the end of the block.
    Block,
    /// To the end of the first item, statement or paragraph: a `}` or `end` at the block's
    /// indentation, or a blank line before a line at this indentation.
    Item,
}

/// What is known about the line being written.
#[derive(Clone, Debug, Default, PartialEq)]
struct Line {
    start: usize,
    /// Where its first character that is not blank is.
    first: Option<usize>,
    is_judged: bool,
    is_last: bool,
}

impl Stop {
    /// Never ends a generation.
    pub fn none() -> Self {
        Self::new(Rule::None, "", "")
    }

    /// Ends with the line: at the first line end, or at a bracket that closes what is open neither in
    /// the completion nor in `open` (see [`Block::open`]) and that `suffix_start` begins with. A
    /// completion that begins with a line end is empty: the line was complete.
    pub fn single_line(open: &str, suffix_start: &str) -> Self {
        Self::new(Rule::SingleLine, open, suffix_start)
    }

    /// Ends where the block does, see [`Block`]; before a line that repeats the suffix's first one;
    /// before a second blank line in a row; where one to four lines come a third time; and after
    /// `lines_max` lines.
    pub fn multi_line(block: Block) -> Self {
        let (open, suffix_start) = (block.open.clone(), block.suffix_start.clone());
        Self::new(Rule::MultiLine(block), &open, &suffix_start)
    }

    fn new(rule: Rule, open: &str, suffix_start: &str) -> Self {
        Self {
            rule,
            closer: suffix_start.trim_start().chars().next().filter(|&c| opener_of(c).is_some()),
            brackets: Brackets { open: open.chars().collect(), ..Brackets::default() },
            read: 0,
            line: Line::default(),
            lines: Vec::new(),
            blank_run: 0,
        }
    }

    /// Reads on in `text`, the whole of what was generated so far, and says at which byte to cut it
    /// if the generation should end. Each call reads only what came since the last one. Any rule
    /// also ends a text whose tail is a short pattern repeated over and over.
    pub fn check(&mut self, text: &str) -> Option<usize> {
        if self.rule == Rule::None {
            return None;
        }
        let from = self.read;
        self.read = text.len();
        for (at, c) in text[from..].char_indices().map(|(at, c)| (from + at, c)) {
            let cut = self.judge_line_start(text, at, c).or_else(|| self.judge_bracket(text, at, c));
            let cut = cut.or_else(|| if c == '\n' { self.judge_line(text, at) } else { None });
            if cut.is_some() {
                return cut;
            }
        }
        repeated_tail(text)
    }

    /// Judges a line once its first word, or its first character if that is none, is known.
    fn judge_line_start(&mut self, text: &str, at: usize, c: char) -> Option<usize> {
        if self.line.first.is_none() && !c.is_whitespace() {
            self.line.first = Some(at);
        }
        let first = self.line.first?;
        if self.line.is_judged || is_word(c) {
            return None;
        }
        self.line.is_judged = true;
        let Rule::MultiLine(block) = &self.rule else { return None };
        if self.line.start == 0 {
            return None;
        }
        let width = indent_width(&text[self.line.start..]);
        let head = &text[first..if at == first { at + c.len_utf8() } else { at }];
        let before = text[..self.line.start].trim_end().len();
        if width >= block.indent {
            let begins_next = block.extent == Extent::Item && width == block.indent && self.blank_run > 0;
            return (begins_next && before > 0 && self.brackets.open.is_empty()).then_some(before);
        }
        if !closes_block(head) && !head.starts_with([')', ']']) {
            return Some(before);
        }
        let suffix = block.suffix_start.trim_start();
        let suffix_width = suffix_line(&block.suffix_start).map(indent_width);
        if suffix.starts_with(head) && suffix_width.is_none_or(|suffix| suffix >= width) {
            return Some(self.before_closer(text, first));
        }
        let goes_on = suffix_width.is_none_or(|suffix| suffix >= block.indent);
        self.line.is_last = suffix.is_empty() || !goes_on;
        (!self.line.is_last).then_some(before)
    }

    /// Judges brackets inside a line: line starts are judged by their indentation.
    fn judge_bracket(&mut self, text: &str, at: usize, c: char) -> Option<usize> {
        let is_unmatched = self.brackets.read(c);
        let is_inside = self.line.start == 0 || self.line.first != Some(at);
        (is_unmatched && is_inside && self.closer == Some(c)).then(|| self.before_closer(text, at))
    }

    /// A closer that follows the cursor on its line keeps the line end and indentation before it.
    fn before_closer(&self, text: &str, at: usize) -> usize {
        let follows_cursor = match &self.rule {
            Rule::MultiLine(block) => {
                !block.suffix_start.lines().next().unwrap_or_default().trim().is_empty()
            }
            _ => false,
        };
        if follows_cursor { at } else { text[..at].trim_end().len() }
    }

    fn judge_line(&mut self, text: &str, end: usize) -> Option<usize> {
        let line = std::mem::replace(&mut self.line, Line { start: end + 1, ..Line::default() });
        let here = text[..end].trim_end().len();
        let Rule::MultiLine(block) = &self.rule else { return Some(here) };
        let Some(first) = line.first else {
            self.blank_run += usize::from(line.start > 0);
            self.lines.push(line.start..end);
            return (self.blank_run >= 2 || self.lines.len() >= block.lines_max).then_some(here);
        };
        self.blank_run = 0;
        let written = text[line.start..end].trim_end();
        let is_suffix = |next: &str| line.start > 0 && has_substance(next) && next.trim_end() == written;
        if suffix_line(&block.suffix_start).is_some_and(is_suffix) {
            return Some(text[..line.start].trim_end().len());
        }
        self.lines.push(line.start..line.start + written.len());
        if let Some(cut) = self.repeated_lines(text) {
            return Some(cut);
        }
        let closes = closes_block(first_word(&text[first..end])) && indent_width(written) <= block.indent;
        let is_item =
            block.extent == Extent::Item && line.start > 0 && closes && self.brackets.open.is_empty();
        let is_done = (line.is_last || is_item) && !written.ends_with(['{', '(', '[', ':']);
        (is_done || self.lines.len() >= block.lines_max).then_some(here)
    }

    /// Where the second of three equal groups of one to four lines at the end begins.
    fn repeated_lines(&self, text: &str) -> Option<usize> {
        let lines = &self.lines;
        (1..=4).filter(|period| 3 * period <= lines.len()).find_map(|period| {
            let tail = &lines[lines.len() - 3 * period..];
            let same = |i: usize| text[tail[i].clone()] == text[tail[i + period].clone()];
            let is_repeated =
                (0..2 * period).all(same) && has_substance(&text[tail[0].start..tail[period].start]);
            is_repeated.then(|| text[..tail[period].start].trim_end().len())
        })
    }
}

/// The column that the blank start of a line reaches; a tab goes on to the next multiple of four.
pub fn indent_width(line: &str) -> usize {
    let blank = line.chars().take_while(|c| matches!(c, ' ' | '\t'));
    blank.fold(0, |width, c| if c == '\t' { (width / 4 + 1) * 4 } else { width + 1 })
}

/// The brackets `text` leaves open, outermost first.
pub fn open_brackets(text: &str) -> String {
    let mut brackets = Brackets::default();
    text.chars().for_each(|c| {
        brackets.read(c);
    });
    brackets.open.into_iter().collect()
}

/// The opening bracket that `c` closes.
pub fn opener_of(c: char) -> Option<char> {
    match c {
        ')' => Some('('),
        ']' => Some('['),
        '}' => Some('{'),
        _ => None,
    }
}

/// Whether a line says enough for its repetition to mean something: closing brackets do not.
pub fn has_substance(line: &str) -> bool {
    line.chars().filter(|c| c.is_alphanumeric()).nth(1).is_some()
}

/// The first line of the suffix that is not blank, unless it is the rest of the cursor's line.
fn suffix_line(suffix: &str) -> Option<&str> {
    let at = suffix.lines().position(|line| !line.trim().is_empty()).filter(|&at| at > 0)?;
    suffix.lines().nth(at)
}

fn closes_block(head: &str) -> bool {
    matches!(head, "}" | "end")
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The word `line` begins with, or its first character.
fn first_word(line: &str) -> &str {
    let end = line.find(|c| !is_word(c)).unwrap_or(line.len());
    let first = line.chars().next().map_or(0, char::len_utf8);
    &line[..end.max(first)]
}

/// Where to cut a text that ends in a pattern of at most 40 bytes, with letters or digits, repeated
/// four times or more over 120 bytes or more: after its first occurrence.
fn repeated_tail(text: &str) -> Option<usize> {
    const PERIOD_MAX: usize = 40;
    const LENGTH: usize = 120;
    let bytes = text.as_bytes();
    let equal_from = |period: usize| {
        let equal = (period..bytes.len()).rev().take_while(|&i| bytes[i] == bytes[i - period]).count();
        bytes.len() - equal
    };
    let least = |period: usize| LENGTH.max(4 * period) - period;
    let is_run = |period: usize| {
        let tail = bytes.len().checked_sub(least(period)).filter(|&start| start >= period);
        tail.is_some_and(|start| (start..bytes.len()).rev().all(|i| bytes[i] == bytes[i - period]))
    };
    let period = (1..=PERIOD_MAX).find(|&period| is_run(period))?;
    bytes[bytes.len() - period..].iter().any(u8::is_ascii_alphanumeric).then_some(())?;
    (equal_from(period)..=text.len()).find(|&at| text.is_char_boundary(at))
}

/// The brackets that are open, outside strings and comments.
#[derive(Clone, Debug, Default, PartialEq)]
struct Brackets {
    open: Vec<char>,
    quote: Option<char>,
    is_escaped: bool,
    is_comment: bool,
    previous: char,
}

impl Brackets {
    /// Reads one character; true if it closes a bracket that is not open.
    fn read(&mut self, c: char) -> bool {
        let previous = std::mem::replace(&mut self.previous, c);
        if c == '\n' {
            (self.quote, self.is_escaped, self.is_comment) = (None, false, false);
        } else if self.is_comment {
        } else if let Some(quote) = self.quote {
            if c == quote && !self.is_escaped {
                self.quote = None;
            }
            self.is_escaped = c == '\\' && !self.is_escaped;
        } else if (previous, c) == ('/', '/') || (previous, c) == ('#', ' ') {
            self.is_comment = true;
        } else if matches!(c, '"' | '`') || c == '\'' && !matches!(previous, '&' | '<') {
            self.quote = Some(c);
        } else if matches!(c, '(' | '[' | '{') {
            self.open.push(c);
        } else if let Some(opener) = opener_of(c) {
            match self.open.iter().rposition(|&open| open == opener) {
                Some(at) => self.open.truncate(at),
                None => return true,
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds `text` in pieces of one to three characters and as a whole: all must end alike.
    #[track_caller]
    fn check(stop: &Stop, text: &str, kept: &str) {
        let chars: Vec<char> = text.chars().collect();
        for size in [1, 2, 3, chars.len().max(1)] {
            let (mut stop, mut so_far) = (stop.clone(), String::new());
            let cut = chars.chunks(size).find_map(|piece| {
                so_far.extend(piece);
                stop.check(&so_far)
            });
            assert_eq!(&so_far[..cut.unwrap_or(so_far.len())], kept, "in pieces of {size}");
        }
    }

    fn block(open: &str, indent: usize, suffix_start: &str) -> Block {
        let (open, suffix_start) = (open.into(), suffix_start.into());
        Block { open, indent, extent: Extent::Block, suffix_start, lines_max: 8 }
    }

    #[test]
    fn single_lines() {
        check(&Stop::none(), "a\n\n\n\n", "a\n\n\n\n");
        let cases = [
            ("", "", "x = 1\ny", "x = 1"),
            ("", "", "x = 1  \r\ny", "x = 1"),
            ("", "", "\n  foo", ""),
            ("", ")", "x)", "x"),
            ("", ");\n", "f(x), [\")\"]);", "f(x), [\")\"]"),
            ("", "\n)", "x)", "x"),
            ("(", "\n)", "x)\n", "x)"),
            ("", "]", "a['x'], '🦀'][0]", "a['x'], '🦀'"),
            ("", ")", "&'a str) {", "&'a str"),
            ("", ")", "x // :)\n", "x // :)"),
        ];
        for (open, suffix, text, kept) in cases {
            check(&Stop::single_line(open, suffix), text, kept);
        }
    }

    #[test]
    fn blocks_end_by_indentation() {
        let cases = [
            // Python: after the colon, and on the blank line below it.
            (block("", 1, ""), "\n    return 1\n\ndef g():\n", "\n    return 1"),
            (
                block("", 4, "\n"),
                "a = 1\n    if a:\n        b\n    c\nd = 1",
                "a = 1\n    if a:\n        b\n    c",
            ),
            // The closer is in the suffix: not repeated.
            (block("", 4, "\n}\n"), "let a = 1;\n    a\n}\n\nfn g", "let a = 1;\n    a"),
            (block("", 1, "}"), "\n    body\n}\n", "\n    body\n"),
            (block("", 2, "\nend"), "return 1\nend\n", "return 1"),
            // It is not: the completion closes its block and ends.
            (block("{", 1, ""), "\n    a\n}\n\nfn g", "\n    a\n}"),
            (block("{", 5, "\n}"), "\n        a\n    }\n}\n", "\n        a\n    }"),
            (block("{", 1, "\nfn g"), "\n    a\n} else {\n    b\n}\nx", "\n    a\n} else {\n    b\n}"),
            (block("", 1, ""), "\n  return 1\nend\nx", "\n  return 1\nend"),
            // The block goes on below the cursor: the closer belongs there.
            (block("", 4, "\n    b();\n}"), "a();\n}\n", "a();"),
            // Tabs, and closers of inner blocks.
            (block("", 4, "\n}"), "for {\n\t\tx()\n\t}\n\ty()\n}", "for {\n\t\tx()\n\t}\n\ty()"),
        ];
        for (block, text, kept) in cases {
            check(&Stop::multi_line(block), text, kept);
        }
    }

    #[test]
    fn items_end_with_their_body() {
        let item = |indent| Block { extent: Extent::Item, ..block("", indent, "") };
        let cases = [
            (0, "fn f(\n    a: u8,\n) -> u8 {\n    a\n}\nfn g", "fn f(\n    a: u8,\n) -> u8 {\n    a\n}"),
            (0, "def f():\n    a = 1\n\n    b\n\ndef g", "def f():\n    a = 1\n\n    b"),
            (
                2,
                "local s = 0\n  for i = 1, 2 do\n    s = i\n  end\n  x",
                "local s = 0\n  for i = 1, 2 do\n    s = i\n  end",
            ),
            (2, "a = 1;\n\n  b = 2;", "a = 1;"),
        ];
        for (indent, text, kept) in cases {
            check(&Stop::multi_line(item(indent)), text, kept);
        }
    }

    #[test]
    fn repetition_ends() {
        let cases = [
            (block("", 0, "\n  next(x)\n"), "a\n  b\n  next(x)\n", "a\n  b"),
            (block("", 0, ""), "a\n\n\n\nb", "a"),
            (block("", 0, ""), "x\nfoo()\nfoo()\nfoo()\n", "x\nfoo()"),
            (block("", 0, ""), "aa\nbb\naa\nbb\naa\nbb\n", "aa\nbb"),
            (block("", 0, ""), "]\n]\n]\n", "]\n]\n]\n"),
            (Block { lines_max: 3, ..block("", 0, "") }, "a\nb\nc\nd\n", "a\nb\nc"),
        ];
        for (block, text, kept) in cases {
            check(&Stop::multi_line(block), text, kept);
        }
        let mut stop = Stop::single_line("", "");
        let looping = "x = ".to_string() + &"é, 12, ".repeat(60);
        assert_eq!(stop.check(&looping).map(|cut| &looping[..cut]), Some("x = é, 12,"));
        assert_eq!(Stop::single_line("", "").check(&"-".repeat(500)), None);
    }
}
