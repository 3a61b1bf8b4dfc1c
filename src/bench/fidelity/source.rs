//! A source file: its lines, and what is code, comment or string. Pure.

use std::ops::Range;

use crate::text::words::is_identifier;
use crate::text::{Class, Language, Lexer, Syntax, indentation, opener_of};

/// A text with what the choice of places needs to know about it.
pub(super) struct Source<'a> {
    pub text: &'a str,
    syntax: &'static Syntax,
    /// The lines, without their ends.
    pub lines: Vec<Range<usize>>,
    /// Matching delimiters in code: the bytes of the opener and the closer.
    pub pairs: Vec<(usize, usize)>,
    /// The contents of strings of one line.
    pub strings: Vec<Range<usize>>,
    /// The bytes that are in a comment.
    comments: Vec<bool>,
}

impl<'a> Source<'a> {
    pub(super) fn new(text: &'a str, language: &Language) -> Self {
        let mut start = 0;
        let mut lines = Vec::new();
        for line in text.split_inclusive('\n') {
            lines.push(start..start + line.trim_end_matches('\n').len());
            start += line.len();
        }
        let classes = classes(text, language);
        let comments = classes.iter().map(|&class| class == Class::Comment).collect();
        let (pairs, strings) = (pairs(text, &classes), strings(text, &classes));
        Self { text, syntax: language.syntax, lines, pairs, strings, comments }
    }

    pub(super) fn line(&self, n: usize) -> &'a str {
        &self.text[self.lines[n].clone()]
    }

    pub(super) fn is_blank(&self, n: usize) -> bool {
        self.line(n).trim().is_empty()
    }

    /// The width of the line's indentation.
    pub(super) fn indent(&self, n: usize) -> usize {
        indentation::width(self.line(n))
    }

    /// The byte of the line's first character that is not whitespace.
    pub(super) fn first(&self, n: usize) -> usize {
        self.lines[n].start + indentation::of_line(self.line(n)).len()
    }

    pub(super) fn end(&self, n: usize) -> usize {
        self.lines[n].end
    }

    /// The number of the line with the byte `at`.
    pub(super) fn number(&self, at: usize) -> usize {
        self.lines.partition_point(|line| line.start <= at) - 1
    }

    pub(super) fn is_comment(&self, n: usize) -> bool {
        self.comments.get(self.first(n)).is_some_and(|&is_comment| is_comment)
    }

    /// Whether what is typed at the byte `at` is in a comment.
    pub(super) fn is_in_comment(&self, at: usize) -> bool {
        let lexer = Lexer::new(self.syntax).read_all(&self.text[..at]);
        lexer.is_inside() && lexer.class() == Class::Comment
    }

    /// Where a word or a sign begins or ends, between both bytes.
    pub(super) fn boundaries(&self, start: usize, end: usize) -> Vec<usize> {
        let mut previous = None;
        let mut found = Vec::new();
        for (at, c) in self.text[start..end].char_indices() {
            let is_inside = previous.is_none_or(|before: char| {
                is_identifier(before) && is_identifier(c) || before.is_whitespace() && c.is_whitespace()
            });
            if !is_inside {
                found.push(start + at);
            }
            previous = Some(c);
        }
        found
    }
}

/// The class of each byte.
fn classes(text: &str, language: &Language) -> Vec<Class> {
    let mut lexer = Lexer::new(language.syntax);
    let mut classes = Vec::with_capacity(text.len());
    for c in text.chars() {
        let class = lexer.read(c).class;
        classes.extend(std::iter::repeat_n(class, c.len_utf8()));
    }
    classes
}

fn pairs(text: &str, classes: &[Class]) -> Vec<(usize, usize)> {
    let (mut pairs, mut open) = (Vec::new(), Vec::new());
    let in_code = |at: &usize| matches!(classes[*at], Class::Code | Class::Prose);
    for (at, c) in text.char_indices().filter(|(at, _)| in_code(at)) {
        if matches!(c, '(' | '[' | '{') {
            open.push((at, c));
        } else if let Some(opener) = opener_of(c) {
            match open.pop() {
                Some((start, found)) if found == opener => pairs.push((start, at)),
                _ => open.clear(),
            }
        }
    }
    pairs
}

/// The text between two equal quotes on one line, where the lexer sees a string.
fn strings(text: &str, classes: &[Class]) -> Vec<Range<usize>> {
    let mut strings = Vec::new();
    let mut begun: Option<(usize, char)> = None;
    let mut is_escaped = false;
    for (at, c) in text.char_indices() {
        let is_string = classes[at] == Class::String;
        match begun {
            Some(_) if !is_string || c == '\n' => begun = None,
            Some((start, quote)) if c == quote && !is_escaped => {
                strings.push(start..at);
                begun = None;
            }
            None if is_string && matches!(c, '"' | '\'' | '`') => begun = Some((at + 1, c)),
            _ => {}
        }
        is_escaped = c == '\\' && !is_escaped;
    }
    strings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_pairs_and_strings() {
        let text = "f(a, \"b)\", [1])\n  # (x\n\ny = 'it'\n";
        let source = Source::new(text, Language::of_path(Some("a.py")));
        assert_eq!(source.lines.len(), 4);
        assert_eq!((source.line(1), source.indent(1), source.first(1)), ("  # (x", 2, 18));
        assert!(source.is_in_comment(20) && !source.is_in_comment(15) && !source.is_in_comment(23));
        assert!(source.is_comment(1) && source.is_blank(2) && !source.is_comment(0));
        let strings: Vec<&str> = source.strings.iter().map(|range| &text[range.clone()]).collect();
        assert_eq!(strings, ["b)", "it"]);
        assert_eq!(source.pairs, [(11, 13), (1, 14)]);
        assert_eq!((source.number(0), source.number(18), source.number(24)), (0, 1, 3));
        assert_eq!(source.boundaries(0, 5), [1, 2, 3, 4]);
    }
}
