//! Text rules that end a completion. Pure: given the text so far, is it done, and where to cut it?
//!
//! The rules read lines, indentation and brackets, no grammar. Brackets in strings and comments do not
//! count, as far as [`Syntax`] says how these are written. A string ends at the same quote or with its
//! line, unless it is of a kind that may have several: what is misread is forgotten with the line.

use std::ops::Range;

/// How a language writes comments and strings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Syntax {
    /// `//` to the end of the line.
    slashes: bool,
    /// `/*` to `*/`, over any number of lines.
    block_comments: bool,
    /// `#` and a blank, to the end of the line.
    hashes: bool,
    /// `--` to the end of the line.
    dashes: Dashes,
    /// Three quotes to three quotes, over any number of lines.
    triple_quotes: bool,
    /// Backquotes, over any number of lines.
    backquotes: bool,
    /// A single quote also begins a name, as in `&'a`.
    lifetimes: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dashes {
    Never,
    /// With blank on both sides: elsewhere it may be a decrement.
    Spaced,
    /// Also `--[[` to `]]`.
    Always,
}

impl Syntax {
    /// Of a file that may be anything.
    pub const UNKNOWN: Self = Self {
        slashes: true,
        block_comments: false,
        hashes: true,
        dashes: Dashes::Spaced,
        triple_quotes: true,
        backquotes: false,
        lifetimes: false,
    };

    /// What the name of a file says.
    pub fn of(path: Option<&str>) -> Self {
        let name = path.and_then(|path| path.rsplit(['/', '\\']).next()).unwrap_or_default();
        let extension = name.rsplit_once('.').map_or(name, |(_, extension)| extension).to_lowercase();
        let none = Self {
            slashes: false,
            hashes: false,
            dashes: Dashes::Never,
            triple_quotes: false,
            ..Self::UNKNOWN
        };
        let slashes = Self { slashes: true, block_comments: true, ..none };
        let hashes = Self { hashes: true, ..none };
        match extension.as_str() {
            "rs" => Self { lifetimes: true, ..slashes },
            "c" | "h" | "cc" | "cpp" | "cxx" | "hpp" | "cs" | "php" | "zig" | "proto" | "scss" | "m"
            | "mm" => slashes,
            "js" | "jsx" | "ts" | "tsx" | "mjs" | "cjs" | "mts" | "cts" | "go" => {
                Self { backquotes: true, ..slashes }
            }
            "java" | "kt" | "kts" | "swift" | "scala" | "dart" | "groovy" => {
                Self { triple_quotes: true, ..slashes }
            }
            "py" | "pyi" | "jl" | "toml" | "ex" | "exs" => Self { triple_quotes: true, ..hashes },
            "rb" | "sh" | "bash" | "zsh" | "fish" | "yaml" | "yml" | "pl" | "r" | "nix" | "cmake"
            | "makefile" | "dockerfile" => hashes,
            "lua" | "sql" | "hs" | "elm" | "adb" | "ads" | "vhd" | "vhdl" => {
                Self { dashes: Dashes::Always, ..none }
            }
            _ => Self::UNKNOWN,
        }
    }

    /// The brackets `text` leaves open, outermost first.
    pub fn open_brackets(self, text: &str) -> String {
        let mut brackets = Brackets::new(self, "", Inside::Code);
        text.chars().for_each(|c| {
            brackets.read(c);
        });
        brackets.open.into_iter().collect()
    }

    /// Where the first bracket of `text` outside strings and comments is closed, its closer included.
    pub fn first_block_end(self, text: &str) -> Option<usize> {
        let mut brackets = Brackets::new(self, "", Inside::Code);
        let mut was_open = false;
        text.char_indices().find_map(|(at, c)| {
            brackets.read(c);
            let is_closed = was_open && brackets.open.is_empty();
            was_open |= !brackets.open.is_empty();
            is_closed.then(|| at + c.len_utf8())
        })
    }

    /// The quote whose string of several lines `text`, the start of a document, ends inside.
    pub fn open_text(self, text: &str) -> Option<char> {
        let is_open = |quotes: &&str| text.matches(*quotes).count() % 2 == 1;
        let quotes = ["\"\"\"", "'''"].into_iter().filter(|_| self.triple_quotes).find(is_open);
        quotes.and_then(|quotes| quotes.chars().next())
    }
}

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
    /// Whether the lines of the block are indented like the one that opens it, as in a namespace.
    is_flat: bool,
    fence: Fence,
}

/// What is known about a Markdown fence around the text.
#[derive(Clone, Debug, PartialEq)]
enum Fence {
    None,
    Possible,
    /// Its first line has so many bytes.
    Open(usize),
}

impl Fence {
    /// How much of `text` its first line is; `None` as long as that is open.
    fn skip(&mut self, text: &str) -> Option<usize> {
        const FENCE: &str = "```";
        if *self == Self::Possible && !FENCE.starts_with(text) {
            *self = match text.find('\n') {
                _ if !text.starts_with(FENCE) => Self::None,
                Some(end) => Self::Open(end + 1),
                None => Self::Possible,
            };
        }
        match *self {
            Self::None => Some(0),
            Self::Possible => None,
            Self::Open(length) => Some(length),
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
enum Rule {
    None,
    SingleLine,
    MultiLine(Block),
    Passage(Passage),
}

/// A stretch of text that is no completion of code, and how it ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Passage {
    /// Before this text.
    Until(&'static str),
    /// Before the first line, after the one it begins in, that does not begin with this behind blank.
    Lines(&'static str),
    /// With the code block that a Markdown fence of so many backquotes has opened: before its closing fence.
    Fenced(usize),
    /// Where the model ends it.
    Answer,
}

impl Passage {
    /// Where in `text`, as far as it was generated, it ends.
    pub fn end(&self, text: &str) -> Option<usize> {
        let line_starts = || text.match_indices('\n').map(|(end, _)| (end, text[end + 1..].trim_start()));
        match self {
            Self::Until(mark) => text.find(mark),
            Self::Lines(mark) => line_starts()
                .find(|(_, line)| !line.starts_with(mark) && !mark.starts_with(line))
                .map(|(end, _)| end),
            Self::Fenced(length) => {
                const INDENT_MAX: usize = 3;
                let fence = "`".repeat(*length);
                let first = [(0, text)].into_iter();
                let rest = text.match_indices('\n').map(|(end, _)| (end, &text[end + 1..]));
                first.chain(rest).find_map(|(end, rest)| {
                    // What follows may yet make it a fence that opens.
                    let (line, _) = rest.split_once('\n').unwrap_or((rest, ""));
                    let blank = line.len() - line.trim_start().len();
                    let is_bare =
                        line.trim().strip_prefix(&fence).is_some_and(|rest| rest.chars().all(|c| c == '`'));
                    (blank <= INDENT_MAX && is_bare).then_some(end)
                })
            }
            Self::Answer => None,
        }
    }
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
    /// Whether it begins in a string or comment of several lines, where indentation says nothing.
    is_text: bool,
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

    /// Ends with a passage, and where a text that is nobody's code repeats itself over and over.
    pub fn passage(passage: Passage) -> Self {
        Self::new(Rule::Passage(passage), "", "")
    }

    fn new(rule: Rule, open: &str, suffix_start: &str) -> Self {
        Self {
            rule,
            closer: suffix_start.trim_start().chars().next().filter(|&c| opener_of(c).is_some()),
            brackets: Brackets::new(Syntax::UNKNOWN, open, Inside::Code),
            read: 0,
            line: Line::default(),
            lines: Vec::new(),
            blank_run: 0,
            is_flat: false,
            fence: Fence::None,
        }
    }

    /// The same for a language, where `text` is the quote of the string of several lines that the completion
    /// begins in (see [`Syntax::open_text`]).
    pub fn written_in(mut self, syntax: Syntax, text: Option<char>) -> Self {
        self.brackets.syntax = syntax;
        self.brackets.inside = text.map_or(Inside::Code, Inside::Text);
        self.line.is_text = text.is_some();
        self
    }

    /// The same where the text may come between Markdown fences, which then count for nothing.
    pub fn with_fences(self) -> Self {
        Self { fence: Fence::Possible, ..self }
    }

    /// Reads on in `text`, the whole of what was generated so far, and says at which byte to cut it
    /// if the generation should end. Each call reads only what came since the last one. Any rule
    /// also ends a text whose tail is a short pattern repeated over and over.
    pub fn check(&mut self, text: &str) -> Option<usize> {
        match &self.rule {
            Rule::None => return None,
            Rule::Passage(passage) => {
                let is_code = matches!(passage, Passage::Fenced(_));
                return passage.end(text).or_else(|| if is_code { None } else { repeated_tail(text) });
            }
            Rule::SingleLine | Rule::MultiLine(_) => {}
        }
        let skipped = self.fence.skip(text)?;
        let cut = self.check_inside(&text[skipped..]);
        let closing = text[skipped..].find("\n```").filter(|_| skipped > 0);
        cut.or(closing).map(|cut| skipped + cut)
    }

    fn check_inside(&mut self, text: &str) -> Option<usize> {
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
        if self.line.start == 0 || self.line.is_text {
            return None;
        }
        let width = indent_width(&text[self.line.start..]);
        let head = &text[first..if at == first { at + c.len_utf8() } else { at }];
        let before = text[..self.line.start].trim_end().len();
        let braces = self.brackets.open.iter().filter(|&&open| open == '{').count();
        let owns_brace = block.open.contains('{');
        let is_braced = braces > 0 || !owns_brace && self.closer == Some('}');
        if is_braced && width + 1 == block.indent {
            self.is_flat |= before == 0 && !closes_block(head);
            let is_inside = !closes_block(head) || braces > usize::from(owns_brace);
            if self.is_flat && is_inside || LABELS.contains(&head) {
                return None;
            }
        }
        if is_braced && head == "#" && width == 0 && self.brackets.syntax.slashes {
            return None;
        }
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
        let next = Line { start: end + 1, is_text: self.brackets.is_text(), ..Line::default() };
        let line = std::mem::replace(&mut self.line, next);
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
        let closes = closes_block(first_word(&text[first..end]))
            && indent_width(written) <= block.indent
            && !line.is_text;
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

/// Words that begin lines indented like the line that opens their block.
const LABELS: [&str; 5] = ["case", "default", "public", "private", "protected"];

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
#[derive(Clone, Debug, PartialEq)]
struct Brackets {
    syntax: Syntax,
    open: Vec<char>,
    inside: Inside,
    is_escaped: bool,
    /// The characters read last, the newest last.
    last: [char; 3],
}

/// What the next character belongs to.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Inside {
    Code,
    String(char),
    /// A string of several lines between three of these.
    Text(char),
    LineComment,
    /// From `/*` to `*/`.
    BlockComment,
    /// From `--[[` to `]]`.
    LongComment,
    /// After a quote that begins a character or a name, and this many characters.
    Quoted(usize),
}

impl Brackets {
    fn new(syntax: Syntax, open: &str, inside: Inside) -> Self {
        Self { syntax, open: open.chars().collect(), inside, is_escaped: false, last: ['\n'; 3] }
    }

    /// Whether the next line begins in a string or comment.
    fn is_text(&self) -> bool {
        matches!(
            self.inside,
            Inside::Text(_) | Inside::BlockComment | Inside::LongComment | Inside::String('`')
        )
    }

    /// Reads one character; true if it closes a bracket that is not open.
    fn read(&mut self, c: char) -> bool {
        let [before, previous] = [self.last[1], self.last[2]];
        let earlier = std::mem::replace(&mut self.last, [before, previous, c])[0];
        let was_escaped = std::mem::replace(&mut self.is_escaped, false);
        match self.inside {
            Inside::Code => return self.read_code(earlier, before, previous, c),
            Inside::String('`') if self.syntax.backquotes && c == '\n' => {}
            Inside::String(_) | Inside::LineComment | Inside::Quoted(_) if c == '\n' => {
                self.inside = Inside::Code
            }
            Inside::String(quote) if c == quote && !was_escaped => self.inside = Inside::Code,
            Inside::String(_) => self.is_escaped = c == '\\' && !was_escaped,
            Inside::Text(quote) if [before, previous, c] == [quote; 3] => self.end(),
            Inside::Text(quote) => {
                self.is_escaped = c == '\\' && !was_escaped;
                if was_escaped && c == quote {
                    self.last[2] = ' ';
                }
            }
            Inside::LineComment => {
                let is_long = self.syntax.dashes == Dashes::Always
                    && [earlier, before, previous, c] == ['-', '-', '[', '['];
                if is_long {
                    self.inside = Inside::LongComment;
                }
            }
            Inside::BlockComment if (previous, c) == ('*', '/') => self.end(),
            Inside::LongComment if (previous, c) == (']', ']') => self.end(),
            Inside::BlockComment | Inside::LongComment => {}
            Inside::Quoted(0) if c == '\\' => (self.inside, self.is_escaped) = (Inside::String('\''), true),
            Inside::Quoted(0) => self.inside = Inside::Quoted(1),
            Inside::Quoted(_) if c == '\'' => self.end(),
            Inside::Quoted(_) => {
                self.inside = Inside::Code;
                return self.read_code(earlier, before, previous, c);
            }
        }
        false
    }

    /// Nothing of what ended belongs to what comes.
    fn end(&mut self) {
        self.inside = Inside::Code;
        self.last = [' '; 3];
    }

    fn read_code(&mut self, earlier: char, before: char, previous: char, c: char) -> bool {
        let Syntax { slashes, block_comments, hashes, dashes, triple_quotes, lifetimes, .. } = self.syntax;
        let is_dashed = match dashes {
            Dashes::Never => false,
            Dashes::Spaced => earlier.is_whitespace() && (before, previous, c) == ('-', '-', ' '),
            Dashes::Always => (previous, c) == ('-', '-'),
        };
        if slashes && (previous, c) == ('/', '/') || hashes && (previous, c) == ('#', ' ') || is_dashed {
            self.inside = Inside::LineComment;
        } else if block_comments && (previous, c) == ('/', '*') {
            self.inside = Inside::BlockComment;
            self.last = [' '; 3];
        } else if triple_quotes && matches!(c, '"' | '\'') && [before, previous] == [c; 2] {
            self.inside = Inside::Text(c);
            self.last = [' '; 3];
        } else if lifetimes && c == '\'' {
            self.inside = Inside::Quoted(0);
        } else if matches!(c, '"' | '`') || c == '\'' && !matches!(previous, '&' | '<') {
            self.inside = Inside::String(c);
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
    fn languages_differ_in_comments_and_strings() {
        let cases = [
            ("a.lua", ")", "x -- :) (\n", "x -- :) ("),
            ("a.lua", ")", "x --[[ ) ]])\n", "x --[[ ) ]]"),
            ("a.c", ")", "i--)\n", "i--"),
            ("", ")", "i--)\n", "i--"),
            ("", ")", "x -- :)\n", "x -- :)"),
            ("a.py", ")", "a // b) + (c\n", "a // b"),
            ("a.py", ")", "a  # :)\n", "a  # :)"),
            ("a.rs", ")", "x: Foo<'a, 'b>) {\n", "x: Foo<'a, 'b>"),
            ("a.rs", ")", "')', '\\'')\n", "')', '\\''"),
            ("a.rs", ")", "x /* ) */)\n", "x /* ) */"),
        ];
        for (path, suffix, text, kept) in cases {
            let syntax = Syntax::of(Some(path).filter(|path| !path.is_empty()));
            check(&Stop::single_line("", suffix).written_in(syntax, None), text, kept);
        }
    }

    #[test]
    fn text_of_several_lines_is_not_code() {
        let docstring = "\"\"\"Does\n\nthis (and\nthat.\n\"\"\"\n    return 1\n\nx = 1";
        let cases = [
            ("a.py", block("", 4, ""), docstring, "\"\"\"Does\n\nthis (and\nthat.\n\"\"\"\n    return 1"),
            (
                "a.ts",
                block("", 2, "\n}"),
                "const s = `a\n}\nb`;\n  f();\n}\n",
                "const s = `a\n}\nb`;\n  f();",
            ),
            ("a.c", block("", 4, "\n}"), "/* a\nb\n*/\n    f();\n}\n", "/* a\nb\n*/\n    f();"),
            ("a.lua", block("", 2, "\nend"), "--[[ a\nb\n]]\n  f()\nend\n", "--[[ a\nb\n]]\n  f()"),
        ];
        for (path, block, text, kept) in cases {
            check(&Stop::multi_line(block).written_in(Syntax::of(Some(path)), None), text, kept);
        }
        let inside = Stop::multi_line(block("", 4, "")).written_in(Syntax::of(Some("a.py")), Some('"'));
        check(&inside, "a\n\nb\n\"\"\"\n    x\ny = 1\n", "a\n\nb\n\"\"\"\n    x");
        let python = Syntax::of(Some("a.py"));
        let triple = "\"\"\"";
        assert_eq!(python.open_text(&format!("x = {triple}a{triple}\n{triple}b")), Some('"'));
        assert_eq!(python.open_text(&format!("{triple}a{triple}")), None);
        assert_eq!(Syntax::of(Some("a.go")).open_text(triple), None);
    }

    #[test]
    fn blocks_may_not_be_indented() {
        let cases = [
            (block("{", 1, ""), "\nint f() {\n    g();\n}\n}\nint h", "\nint f() {\n    g();\n}\n}"),
            (
                block("{", 5, ""),
                "\n    case 1:\n        f();\n    default:\n        g();\n    }\n    h",
                "\n    case 1:\n        f();\n    default:\n        g();\n    }",
            ),
            (
                block("{", 1, ""),
                "\n    int x;\npublic:\n    int y;\n}\nint z",
                "\n    int x;\npublic:\n    int y;\n}",
            ),
            (
                block("{", 1, ""),
                "\n    a();\n#ifdef B\n    b();\n#endif\n}\nint z",
                "\n    a();\n#ifdef B\n    b();\n#endif\n}",
            ),
            (block("", 1, "}"), "\ncase 1:\n    f();\n}\nint z", "\ncase 1:\n    f();\n"),
            // A case below the cursor's belongs to the block around it.
            (block("", 8, "\n"), "f();\n    case 2:\n", "f();"),
        ];
        for (block, text, kept) in cases {
            check(&Stop::multi_line(block).written_in(Syntax::of(Some("a.cpp")), None), text, kept);
        }
    }

    #[test]
    fn fences_count_for_nothing() {
        let cases = [
            ("```py\nx = 1\ny", "```py\nx = 1"),
            ("x = 1\n```", "x = 1"),
            ("``x\n", "``x"),
            ("```\n```\n", "```\n```"),
        ];
        for (text, kept) in cases {
            check(&Stop::single_line("", "").with_fences(), text, kept);
        }
        let text = "```\na\nb\n```\nc";
        check(&Stop::multi_line(block("", 0, "")).with_fences(), text, "```\na\nb");
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

    #[test]
    fn passages_end_where_their_kind_does() {
        for (passage, text, expected) in [
            (Passage::Until("\"\"\""), "One line.\"\"\"\n", Some("One line.")),
            (Passage::Until("*/"), "One *line", None),
            (Passage::Lines("///"), "One.\n    /// Two.\n    fn f", Some("One.\n    /// Two.")),
            (Passage::Lines("//"), "One.\n  /", None),
            (Passage::Lines("//"), "One.\n  \n", None),
            (Passage::Lines("//"), "One.\n\nx", Some("One.")),
            (Passage::Fenced(3), "a\n  b\n```\nDone", Some("a\n  b")),
            (Passage::Fenced(3), "a\n      ```\nb\n```x\n", None),
            (Passage::Fenced(4), "a\n```\nb\n````", Some("a\n```\nb")),
            (Passage::Fenced(3), "```", Some("")),
            (Passage::Answer, "a\n```\nb\n```\nc", None),
        ] {
            assert_eq!(passage.end(text).map(|end| &text[..end]), expected, "{passage:?} {text:?}");
        }
        let again = "it is a thing and ".repeat(20);
        assert!(Stop::passage(Passage::Answer).check(&again).is_some());
        assert_eq!(Stop::passage(Passage::Fenced(3)).check(&again), None);
    }

    #[test]
    fn the_first_block_ends_with_its_closer() {
        for (path, text, expected) in [
            ("a.rs", "fn f<'a>(x: &'a str) {\n  '}'; \"}\" // }\n} x", Some("fn f<'a>(x: &'a str)")),
            ("a.c", "{ a{} } b", Some("{ a{} }")),
            ("a.c", "{ a ", None),
            ("a.c", "a ", None),
        ] {
            let syntax = Syntax::of(Some(path));
            assert_eq!(syntax.first_block_end(text).map(|end| &text[..end]), expected, "{text:?}");
        }
    }
}
