//! Stop rules: given the text so far, is it complete, and where to cut it? Pure.
//!
//! The rules read lines, indentation and delimiters, no grammar; the [lexer](crate::text::lexer) recognises comments and
//! strings.

mod beyond;
mod fence;
mod passage;
mod repetition;
mod suffix;
#[cfg(test)]
mod tests;

use std::ops::Range;

use beyond::Beyond;
use fence::Fence;
pub use passage::Passage;
use repetition::{repeated_lines, repeated_tail};
use suffix::{LINES, LINES_AT_START, Repeated, Repeats, Suffix};

use super::StopReason;
use crate::text::blocks::Blocks;
use crate::text::indentation;
use crate::text::lexer::string_end;
use crate::text::words::{first_word, is_identifier};
use crate::text::{Delimiters, Lexer, Syntax, families, opener_of};

/// A stop rule and its state. Clone it for each generation.
#[derive(Clone, Debug, PartialEq)]
pub struct Stop {
    rule: Rule,
    /// The cursor's line before the cursor.
    before: String,
    suffix: Suffix,
    /// The delimiter that closes, in the suffix, what the completion must therefore not close.
    closer: Option<char>,
    /// Whether the rest of the cursor's line ends the string that the cursor is in.
    is_in_string: bool,
    /// At the cursor.
    lexer: Lexer,
    delimiters: Delimiters,
    /// Lines at the end of the text that may repeat the suffix.
    repeated: Option<Repeated>,
    /// Where the text ends unless they do.
    done: Option<usize>,
    read: usize,
    line: Line,
    /// The complete lines before `line`, in bytes.
    lines: Vec<Range<usize>>,
    blank_run: usize,
    /// Whether the lines of the block are indented like the one that opens it, as in a namespace.
    is_flat: bool,
    /// Whether the text has left its block, to open the one that the suffix is in.
    has_left: bool,
    beyond: Beyond,
    fence: Fence,
}

#[derive(Clone, Debug, PartialEq)]
enum Rule {
    None,
    /// One line, or the statement in this block that it begins.
    SingleLine(Option<Block>),
    MultiLine(Block),
    Passage(Passage),
}

/// The block that a completion of several lines is in.
#[derive(Clone, Debug, PartialEq)]
pub struct Block {
    /// Delimiters open on the cursor's line, outermost first, that the completion may close.
    pub open: String,
    /// The least [width](indentation::width) a line of the block has.
    pub indent: usize,
    /// What ends the completion besides leaving the block.
    pub extent: Extent,
    /// The start of the text after the cursor, up to a line that is not blank at least.
    pub suffix_start: String,
    /// Most lines of a completion, the rest of the cursor's line counted as one.
    pub lines_max: usize,
    /// How the language delimits blocks.
    pub blocks: Blocks,
    /// The indentation of the line below, if that is deeper than the block and therefore in one that the completion has to
    /// open.
    pub joins: Option<usize>,
}

/// How far a completion of several lines may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// To the end of the block.
    Block,
    /// To the end of the first item, statement or paragraph: a `}` or `end` at the block's
    /// indentation, or a blank line before a line at this indentation.
    Item,
    /// To the first end of a line where all is closed that the statement has opened.
    Statement,
    /// To the end of the comment that the cursor is in.
    Comment,
}

/// The state of the current line.
#[derive(Clone, Debug, Default, PartialEq)]
struct Line {
    start: usize,
    /// The byte of its first character that is not whitespace.
    first: Option<usize>,
    is_judged: bool,
    is_last: bool,
    /// Whether it begins in a string or comment of several lines, where indentation does not count.
    is_text: bool,
    /// The delimiter it begins with, if the suffix closes that: as in `} else {`, the line has to open another one.
    reopens: Option<char>,
}

impl Stop {
    /// Never ends a generation.
    pub fn none() -> Self {
        Self::new(Rule::None, "", "")
    }

    /// Ends with the line: at the first line end, or at a delimiter that closes what is open neither in
    /// the completion nor in `open` (see [`Block::open`]) and that `suffix_start` begins with. A
    /// completion that begins with a line end is empty: the line was complete.
    pub fn single_line(open: &str, suffix_start: &str) -> Self {
        Self::new(Rule::SingleLine(None), open, suffix_start)
    }

    /// Ends with the line like [`Stop::single_line`], but continues with a statement that the line does not complete: where
    /// it opens a delimiter, ends in a backslash, or where the text begins with a line end and deeper lines.
    pub fn statement(block: Block) -> Self {
        let (open, suffix_start) = (block.open.clone(), block.suffix_start.clone());
        Self::new(Rule::SingleLine(Some(block)), &open, &suffix_start)
    }

    /// Ends where the block does, see [`Block`]; before a line that repeats the suffix's first one;
    /// before a second blank line in a row; where one to four lines come a third time; and after
    /// `lines_max` lines.
    pub fn multi_line(block: Block) -> Self {
        let (open, suffix_start) = (block.open.clone(), block.suffix_start.clone());
        Self::new(Rule::MultiLine(block), &open, &suffix_start)
    }

    /// Ends with a passage, or, unless that is code, at repetitive text.
    pub fn passage(passage: Passage) -> Self {
        Self::new(Rule::Passage(passage), "", "")
    }

    fn new(rule: Rule, open: &str, suffix_start: &str) -> Self {
        let lexer = Lexer::unsure(&families::UNKNOWN);
        Self {
            rule,
            before: String::new(),
            suffix: Suffix::new(suffix_start),
            closer: suffix_start.trim_start().chars().next().filter(|&c| opener_of(c).is_some()),
            is_in_string: false,
            lexer,
            delimiters: Delimiters::new(lexer, open),
            repeated: None,
            done: None,
            read: 0,
            line: Line::default(),
            lines: Vec::new(),
            blank_run: 0,
            is_flat: false,
            has_left: false,
            beyond: Beyond::default(),
            fence: Fence::None,
        }
    }

    /// Reads the text with `lexer`, from its state on.
    pub fn read_by(mut self, lexer: Lexer) -> Self {
        self.line.is_text = lexer.is_inside();
        self.lexer = lexer;
        self.delimiters = self.delimiters.read_by(lexer);
        self
    }

    /// Continues the cursor's line, which is `before` so far.
    pub fn after(self, before: &str) -> Self {
        Self { before: before.into(), ..self }
    }

    /// Ends at this delimiter if it closes what is not open in the text: the suffix has it.
    pub fn before_closer(self, closer: Option<char>) -> Self {
        Self { closer, ..self }
    }

    /// Reads up to `lines_max` lines behind the end of the block: a text that ends by itself there is not cut. `closed` are the
    /// delimiters that the suffix closes, outermost first.
    pub fn beyond_block(self, lines_max: usize, closed: &str) -> Self {
        Self { beyond: Beyond::new(lines_max, closed), ..self }
    }

    /// Ends where the string ends that the cursor is in, if that is so.
    pub fn inside_string(self, is_in_string: bool) -> Self {
        Self { is_in_string, ..self }
    }

    /// Whether it ends with a string.
    pub fn is_in_string(&self) -> bool {
        self.is_in_string
    }

    /// Reads the text from its start.
    pub fn lexer(&self) -> Lexer {
        self.lexer
    }

    /// The syntax of the text's language.
    fn syntax(&self) -> &'static Syntax {
        self.lexer.syntax()
    }

    /// Ends also at the closing fence: the text is in a Markdown fence.
    pub fn inside_fence(self) -> Self {
        Self { fence: Fence::Open(0), ..self }
    }

    /// Skips a Markdown fence around the text.
    pub fn with_fences(self) -> Self {
        Self { fence: Fence::Possible, ..self }
    }

    /// Returns the byte to cut `text` at, if the generation should end. `text` is all text generated so far; each call
    /// reads only what is new. Repetitive text also ends, whatever the rule.
    pub fn check(&mut self, text: &str) -> Option<usize> {
        match &self.rule {
            Rule::None => return None,
            Rule::Passage(passage) => {
                let is_code = matches!(passage, Passage::Fenced(_));
                return passage.end(text).or_else(|| if is_code { None } else { repeated_tail(text) });
            }
            Rule::SingleLine(_) | Rule::MultiLine(_) => {}
        }
        let skipped = self.fence.skip(text)?;
        let text = &text[skipped..];
        let (inside, is_closed) = self.fence.inside(text);
        let cut = self.check_inside(inside);
        // A text that ends its block of code ends by itself.
        let end = || self.clone().ended(inside, StopReason::EndToken).unwrap_or(inside.len());
        cut.or_else(|| is_closed.then(end)).map(|cut| skipped + cut)
    }

    /// The end of the whole `text`, in bytes, of which `check` has read nothing. A limit that ended it may have torn its last
    /// line; a rule has left only whole lines.
    pub fn end(mut self, text: &str, reason: StopReason) -> Option<usize> {
        let cut = self.check(text);
        let is_completion = matches!(self.rule, Rule::SingleLine(_) | Rule::MultiLine(_));
        if cut.is_some() || reason == StopReason::Rule || !is_completion {
            return cut;
        }
        let skipped = self.fence.skip(text)?;
        self.ended(&text[skipped..], reason).map(|cut| skipped + cut)
    }

    /// The same of a text that was read, without a fence before it.
    fn ended(mut self, text: &str, reason: StopReason) -> Option<usize> {
        let is_cut = reason != StopReason::EndToken;
        if let Some(left) = self.beyond.left().filter(|_| is_cut) {
            return Some(left);
        }
        let is_torn = is_cut && !text.ends_with('\n');
        let line = self.whole_line(text, text.len());
        if let Some(cut) = self.unopened(text, &line) {
            return Some(self.beyond.left().unwrap_or(cut));
        }
        let line = if text[self.line.start..].trim().is_empty() { "" } else { &*line };
        // A line that the user has begun may be as the next one.
        let is_begun = !is_cut && self.line.start == 0 && !self.before.trim().is_empty();
        if let Some(cut) = self.suffix.judge_end(line, self.line.start, self.repeated, is_torn)
            && !is_begun
        {
            return Some(self.settled(text, self.line_end(text, cut)));
        }
        if is_torn || self.done.is_some() {
            return self.done;
        }
        let cut = self.check_inside(&format!("{text}\n")).map(|cut| cut.min(text.len()));
        cut.or_else(|| self.beyond.left().map(|_| self.settled(text, text.len())))
    }

    fn check_inside(&mut self, text: &str) -> Option<usize> {
        let string_end = if self.is_in_string { string_end(self.lexer, text) } else { None };
        let all = text;
        let text = &text[..string_end.unwrap_or(text.len())];
        let from = self.read.min(text.len());
        self.read = text.len();
        for (at, c) in text[from..].char_indices().map(|(at, c)| (from + at, c)) {
            let cut = self.judge_line_start(text, at, c).map(|cut| self.unrepeated(text, at, cut));
            let cut = cut.or_else(|| self.judge_delimiter(text, at, c));
            let cut = cut.or_else(|| if c == '\n' { self.judge_line(text, at) } else { None });
            if cut.is_some() {
                return cut;
            }
        }
        string_end.map(|end| self.unrepeated_before(all, end)).or_else(|| repeated_tail(text))
    }

    /// The end of a text that ends by itself, or where the suffix begins, at the byte `end`.
    fn settled(&self, text: &str, end: usize) -> usize {
        let open = if let Rule::MultiLine(block) = &self.rule { &*block.open } else { "" };
        let settled = self.beyond.settle(&text[..end], self.lexer, open);
        settled.min(end)
    }

    /// The end of a text whose string ends at the byte `end`, without the lines that the suffix has in it.
    fn unrepeated_before(&self, text: &str, end: usize) -> usize {
        let is_below = self.line.start > 0;
        let line = &text[self.line.start..end];
        let start = self.suffix.goes_on(line, self.line.start, self.repeated).filter(|_| is_below);
        start.map_or(end, |start| self.line_end(text, start))
    }

    /// The cut where a line that ends the text has begun, or that of a repetition that this line continues.
    fn unrepeated(&self, text: &str, at: usize, cut: usize) -> usize {
        let line = &text[self.line.start..at];
        let line = if line.trim().is_empty() { &text[self.line.start..] } else { line };
        let start = self.repeated.and(self.suffix.goes_on(line, self.line.start, self.repeated));
        start.map_or(self.done.unwrap_or(cut), |start| self.settled(text, self.line_end(text, start)))
    }

    /// Judges a line by its first word, or by its first character if that begins no word.
    fn judge_line_start(&mut self, text: &str, at: usize, c: char) -> Option<usize> {
        if self.line.first.is_none() && !c.is_whitespace() {
            self.line.first = Some(at);
        }
        let first = self.line.first?;
        if self.line.is_judged || is_identifier(c) {
            return None;
        }
        self.line.is_judged = true;
        if matches!(self.rule, Rule::SingleLine(_))
            && self.line.start > 0
            && text[..self.line.start].trim().is_empty()
        {
            return self.judge_second_line(text);
        }
        let Rule::MultiLine(block) = &self.rule else { return None };
        if self.line.start == 0 || self.line.is_text {
            return None;
        }
        let width = indentation::width(&text[self.line.start..]);
        let head = &text[first..if at == first { at + c.len_utf8() } else { at }];
        let before = self.line_end(text, self.line.start);
        let is_first = text[..before].trim().is_empty();
        let count = |open: &str| open.matches('{').count();
        let (braces, owned) =
            (self.delimiters.open().iter().filter(|&&open| open == '{').count(), count(&block.open));
        let is_braced = braces > 0 || owned == 0 && self.closer == Some('}');
        let closes = block.blocks.closes(head);
        if is_braced && width + 1 == block.indent {
            self.is_flat |= is_first && !closes;
            let is_inside = !closes || braces > owned;
            if self.is_flat && is_inside || LABELS.contains(&head) {
                return None;
            }
        }
        if is_braced && head == "#" && width == 0 && self.syntax().has_line_comment("//") {
            return None;
        }
        if let Some(joins) = block.joins {
            let above = self.lines.iter().rev().find(|line| !text[(*line).clone()].trim().is_empty());
            let above = above.map_or(0, |line| indentation::width(&text[line.clone()]));
            let is_joined = self.has_left && above < width && width >= joins;
            self.has_left |= width < block.indent;
            return is_joined.then_some(before);
        }
        if width >= block.indent {
            let begins_next = block.extent == Extent::Item && width == block.indent && self.blank_run > 0;
            let is_next = begins_next && !is_first && !block.blocks.continues(head);
            return if is_next && self.has_closed(block) { self.beyond.leave(before) } else { None };
        }
        // A line within brackets may begin anywhere.
        if self.delimiters.open().iter().any(|open| matches!(open, '(' | '[')) {
            return None;
        }
        if !closes && !head.starts_with([')', ']']) {
            return self.beyond.leave(before);
        }
        if head == "}" && braces == 0 && self.closer == Some('}') {
            return None;
        }
        let suffix = self.suffix.first();
        let suffix_width = self.suffix.width();
        if suffix.starts_with(head) && suffix_width.is_none_or(|suffix| suffix >= width) {
            let end = self.end_before(text, first);
            return self.beyond.leave(end);
        }
        let goes_on = suffix_width.is_none_or(|suffix| suffix >= block.indent);
        self.line.is_last = suffix.is_empty() || !goes_on;
        if self.line.is_last { None } else { self.beyond.leave(before) }
    }

    /// Whether all is closed that the text has opened.
    fn has_closed(&self, block: &Block) -> bool {
        self.delimiters.open().len() <= block.open.len()
    }

    fn judge_delimiter(&mut self, text: &str, at: usize, c: char) -> Option<usize> {
        if self.line.reopens.is_some()
            && opener_of(c).is_none()
            && self.line.reopens.and_then(opener_of) == Some(c)
        {
            // It is the suffix that closes it.
            self.line.reopens = None;
            self.delimiters.read(c);
            let (lexer, open) = (*self.delimiters.lexer(), self.delimiters.open());
            let open: String = open[..open.len().saturating_sub(1)].iter().collect();
            self.delimiters = Delimiters::new(lexer, &open);
            return None;
        }
        let is_unmatched = self.delimiters.read(c);
        let joins = matches!(&self.rule, Rule::MultiLine(block) if block.joins.is_some());
        if !is_unmatched || self.closer != Some(c) || joins {
            return None;
        }
        if c == '}' && self.line.first == Some(at) && self.suffix.rest.trim().is_empty() {
            self.line.reopens = Some(c);
            return None;
        }
        let end = at + c.len_utf8();
        let is_first = self.line.start == 0 && self.before.trim().is_empty() || self.line.start > 0;
        let line = self.whole_line(text, end);
        let repeated = self.suffix.goes_on(&line, self.line.start, self.repeated).filter(|_| is_first);
        if let Some(start) = repeated {
            return Some(self.settled(text, self.line_end(text, start)));
        }
        if let Some(start) = self.suffix.repeats_rest(&text[..end]) {
            return Some(start);
        }
        let first = self.line.first.filter(|_| self.line.reopens.is_some());
        let end = self.end_before(text, first.unwrap_or(at));
        self.beyond.leave(end)
    }

    /// The end before a closer at the byte `at`. One that follows the cursor on its line keeps the whitespace before it.
    fn end_before(&self, text: &str, at: usize) -> usize {
        let is_next = self.suffix.rest.starts_with(|c: char| !c.is_whitespace());
        let space = &text[text[..at].trim_end().len()..at];
        if is_next || self.suffix.has_closer() && space.contains('\n') { at } else { at - space.len() }
    }

    /// The end of the last line before the byte `at`, with its line end where a closer follows the cursor.
    fn line_end(&self, text: &str, at: usize) -> usize {
        let end = text[..at].trim_end().len();
        let is_block = self.suffix.has_closer() && text[..end].contains('\n');
        let line_end = text[end..].find('\n').filter(|_| is_block);
        line_end.map_or(end, |length| end + length + 1)
    }

    /// The line up to the byte `end`, with the text before the cursor if it is the first one.
    fn whole_line(&self, text: &str, end: usize) -> String {
        let before = if self.line.start == 0 { &*self.before } else { "" };
        format!("{before}{}", &text[self.line.start..end])
    }

    /// Judges a line of a text that has one line. One that equals the line below may be the first of two equal pieces: the
    /// line after it decides.
    fn judge_single(&mut self, text: &str, whole: &str, line: &Line, end: usize) -> Option<usize> {
        let here = text[..end].trim_end().len();
        if line.first.is_none() {
            return self.done.or(Some(here).filter(|_| line.start == 0));
        }
        match self.suffix.judge(whole, line.start, self.repeated, LINES) {
            Repeats::From(start) => Some(self.line_end(text, start)),
            Repeats::Maybe(repeated) if line.start == 0 => {
                (self.repeated, self.done) = (Some(repeated), Some(here));
                None
            }
            _ => self.done.or(Some(here)),
        }
    }

    /// Judges the start of the second line of a text whose first one is blank: what is indented deeper than the cursor's
    /// line belongs to it, and what follows an opening delimiter.
    fn judge_second_line(&mut self, text: &str) -> Option<usize> {
        let Rule::SingleLine(Some(block)) = &self.rule else { return None };
        let own = indentation::width(&self.before);
        let opens = self.before.trim_end().ends_with(['(', '[']);
        let is_deeper = indentation::width(&text[self.line.start..]) > own;
        let is_empty = self.suffix.width().is_none_or(|below| below <= own);
        if !is_deeper || !is_empty && !opens && !self.suffix.has_closer() {
            return Some(0);
        }
        let extent = Extent::Block;
        self.rule = Rule::MultiLine(Block { indent: own + 1, extent, ..block.clone() });
        None
    }

    /// Whether a statement continues after its line `line`: with what it has opened, except for a block in braces, and up to
    /// what is closed behind the cursor.
    fn is_unfinished(&self, block: &Block, line: &str) -> bool {
        let (open, line) = (self.delimiters.open(), line.trim_end());
        let owned = block.open.chars().count().min(open.len());
        let is_list = |c: &char| matches!(c, '(' | '[');
        let before_brace = line.strip_suffix('{').map(str::trim_end);
        let is_literal = before_brace.is_none_or(|before| before.ends_with(['=', '(', ',', ':', '[', '{']));
        let has_braces = open[owned..].contains(&'{') && is_literal;
        open.iter().any(is_list) || has_braces || line.ends_with('\\') || self.suffix.has_closer()
    }

    /// The end of a text whose last line, `line`, begins with a delimiter that the suffix closes, and opens no other one.
    fn unopened(&self, text: &str, line: &str) -> Option<usize> {
        let first = self.line.first.filter(|_| self.line.reopens.is_some())?;
        let above = |start: usize| (start < self.line.start).then(|| self.line_end(text, start));
        let repeated = match self.suffix.judge(line, self.line.start, self.repeated, LINES) {
            Repeats::From(start) => above(start),
            // Closing delimiters alone, but the suffix has to have this one.
            Repeats::Maybe(repeated) => above(repeated.start),
            Repeats::No => None,
        };
        repeated.or_else(|| Some(self.end_before(text, first)))
    }

    fn judge_line(&mut self, text: &str, end: usize) -> Option<usize> {
        let whole = self.whole_line(text, end);
        if let Some(cut) = self.unopened(text, &whole).and_then(|cut| self.beyond.leave(cut)) {
            return Some(cut);
        }
        let next = Line { start: end + 1, is_text: self.delimiters.lexer().is_inside(), ..Line::default() };
        let line = std::mem::replace(&mut self.line, next);
        let here = self.line_end(text, end);
        if let Rule::SingleLine(Some(block)) = &self.rule
            && line.start == 0
        {
            if line.first.is_none() && !self.before.trim().is_empty() && !self.suffix.has_code() {
                // What the next line begins with decides.
                return None;
            }
            if line.first.is_some() && self.is_unfinished(block, &whole) {
                self.rule = Rule::MultiLine(block.clone());
            }
        }
        let Rule::MultiLine(block) = &self.rule else { return self.judge_single(text, &whole, &line, end) };
        let Some(first) = line.first else {
            self.blank_run += usize::from(line.start > 0);
            self.lines.push(line.start..end);
            // Lines that equal the first of the suffix, and then a blank one, are no coincidence.
            let repeated = self.repeated.filter(Repeated::is_substantial);
            let repeated = repeated.map(|repeated| self.settled(text, self.line_end(text, repeated.start)));
            if self.lines.len() >= block.lines_max {
                return repeated.or(self.beyond.left()).or(Some(here));
            }
            let is_end = self.blank_run >= 2;
            return repeated
                .filter(|_| is_end)
                .or_else(|| if is_end { self.beyond.leave(here) } else { None });
        };
        self.blank_run = 0;
        self.repeated = match self.suffix.judge(&whole, line.start, self.repeated, LINES_AT_START) {
            Repeats::From(start) => return Some(self.settled(text, self.line_end(text, start))),
            Repeats::Maybe(repeated) => Some(repeated),
            Repeats::No => None,
        };
        if let Some(left) = self.beyond.read_line(self.repeated.is_some()) {
            return Some(left);
        }
        if let Some(done) = self.done {
            return Some(done);
        }
        let written = text[line.start..end].trim_end();
        self.lines.push(line.start..line.start + written.len());
        if let Some(cut) = repeated_lines(text, &self.lines) {
            return Some(self.beyond.left().unwrap_or(self.line_end(text, cut)));
        }
        let closes = block.blocks.closes(first_word(&text[first..end]))
            && indentation::width(written) <= block.indent
            && !line.is_text;
        let is_item = block.extent == Extent::Item && line.start > 0 && closes && self.has_closed(block);
        let is_finished = match block.extent {
            Extent::Statement => !self.is_unfinished(block, &whole),
            Extent::Comment => !self.delimiters.lexer().is_inside(),
            Extent::Block | Extent::Item => false,
        };
        let is_done = is_finished || (line.is_last || is_item) && !written.ends_with(['{', '(', '[', ':']);
        if self.lines.len() >= block.lines_max {
            return self.beyond.left().or(Some(here));
        }
        if is_done && self.beyond.leave(here).is_none() {
            return None;
        }
        if is_done && self.repeated.is_some() {
            // The suffix may begin with this line: the next one decides.
            self.done.get_or_insert(here);
            return None;
        }
        is_done.then_some(here)
    }
}

/// Words that begin lines indented like the line that opens their block.
const LABELS: [&str; 5] = ["case", "default", "public", "private", "protected"];
