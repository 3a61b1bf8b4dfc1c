//! The delimiters around the cursor: which of them a completion has to close, and which one is closed behind it. Pure.

use super::context::Place;
use crate::text::blocks::Blocks;
use crate::text::lexer::string_end;
use crate::text::outline::{Open, Opened};
use crate::text::{Class, Delimiters, Language, Lexer, indentation, opener_of};

/// How much after the cursor to read for closing delimiters, in characters.
const CHARS_BELOW: usize = 4096;

/// What is open at the cursor.
#[derive(Clone, Debug, PartialEq)]
pub struct Nesting {
    /// Reads the text from the cursor on.
    pub lexer: Lexer,
    /// The delimiters that nothing behind the cursor closes, outermost first.
    pub open: String,
    /// Those that are closed behind the cursor, outermost first.
    pub closed: String,
    /// The first closing delimiter behind the cursor whose opener is before it: a completion does not close that.
    pub closer: Option<char>,
    /// Whether the text behind the cursor ends the string that the cursor is in.
    pub is_in_string: bool,
}

/// A closing delimiter behind the cursor.
struct Closer {
    c: char,
    /// Whether it is on the cursor's line.
    is_here: bool,
    /// Its column, if it is the first character of a line.
    column: Option<usize>,
}

impl Nesting {
    pub fn new(place: &Place, suffix: &str) -> Self {
        let lexer = place.outline().lexer();
        let opened = place.outline().opened();
        let is_in_string = lexer.class() == Class::String && ends_string(lexer, place, suffix);
        let below: String = suffix.chars().take(CHARS_BELOW).collect();
        let is_code = matches!(lexer.class(), Class::Code | Class::Prose | Class::Comment);
        let goes_on = is_code || string_end(lexer, &below).is_some();
        let lexer_below = if goes_on { lexer } else { Lexer::unsure(lexer.syntax()) };
        let (mut closers, is_whole) = closers(place.language, lexer_below, &below);
        if opened.is_complete {
            let is_open = |closer: &Closer| opened.delimiters.iter().any(|open| closer.closes(open));
            closers.retain(is_open);
        }
        let closable = closable(place, &opened);
        let (closed, open) = opened.delimiters.split_at(closed(&closers, &opened, is_whole).min(closable));
        let text = |delimiters: &[Open]| delimiters.iter().map(|open| open.delimiter).collect();
        Self {
            lexer,
            open: text(open),
            closed: text(closed),
            closer: closers.first().map(|closer| closer.c),
            is_in_string,
        }
    }
}

impl Closer {
    fn closes(&self, open: &Open) -> bool {
        opener_of(self.c) == Some(open.delimiter)
    }
}

/// Whether the rest of the document ends the string that the cursor is in: on its line, or, if it has several, by one more
/// quote than begin and end the strings below.
fn ends_string(lexer: Lexer, place: &Place, suffix: &str) -> bool {
    if let Some(end) = string_end(lexer, place.rest) {
        // The quote behind a tag belongs to another one.
        let is_in_tag = place.language.blocks != Blocks::Tags || !place.rest[..end].contains(['<', '>']);
        return is_in_tag && !lexer.read_all(place.rest).is_inside();
    }
    lexer.triple_quote().is_some_and(|quote| suffix.matches(quote).count() % 2 == 1)
}

/// The closing delimiters in `text` without an opener there, up to the next statement at the top level; false if the text
/// ends before that.
fn closers(language: &Language, lexer: Lexer, text: &str) -> (Vec<Closer>, bool) {
    let mut delimiters = Delimiters::new(lexer, "");
    let mut closers = Vec::new();
    for (n, line) in text.split_inclusive('\n').enumerate() {
        let is_code = n > 0 && !delimiters.lexer().is_inside();
        if is_code && language.begins_statement(line) && !language.syntax.begins_with_comment(line) {
            return (closers, true);
        }
        for (at, c) in line.char_indices() {
            if delimiters.read(c) {
                let is_first = n > 0 && line[..at].trim().is_empty();
                let column = is_first.then(|| indentation::width(line));
                closers.push(Closer { c, is_here: n == 0, column });
            }
        }
        let is_end = is_code && line.starts_with(|c| opener_of(c).is_some());
        if is_end && delimiters.open().is_empty() {
            return (closers, true);
        }
    }
    (closers, text.chars().count() < CHARS_BELOW)
}

/// How many of the open delimiters are closed by `closers`. One at the start of a line is aligned with its opener or with the
/// line of that, and those before it close what was opened after that, the outermost first. The rest of the cursor's line
/// often closes all that the line opens, in unfinished code too.
fn closed(closers: &[Closer], opened: &Opened, is_whole: bool) -> usize {
    let count = opened.delimiters.len();
    let here = closers.iter().filter(|closer| closer.is_here).count();
    let above = count.saturating_sub(opened.here);
    let aligned = closers.iter().enumerate().find_map(|(n, closer)| Some((n, aligned(closer, opened)?)));
    // What comes after the aligned one closes what is open outside of it.
    let is_known = is_whole && opened.is_complete;
    let aligned = aligned.filter(|&(n, at)| !is_known || closers.len() <= at + n + 1);
    let closed = match aligned {
        _ if here > 0 && here >= opened.here => count,
        Some((n, at)) => at + 1 + n,
        None if is_whole => closers.len(),
        None if opened.is_complete => (above + here).max(closers.len()),
        None => above + here,
    };
    closed.min(count)
}

/// The open delimiter that `closer` is aligned with, or whose line is: rather one at the end of that.
fn aligned(closer: &Closer, opened: &Opened) -> Option<usize> {
    let column = closer.column?;
    let innermost = |is: &dyn Fn(&Open) -> bool| {
        opened.delimiters.iter().rposition(|open| closer.closes(open) && is(open))
    };
    innermost(&|open| open.column == column)
        .or_else(|| innermost(&|open| open.line_width == column && !open.hangs))
        .or_else(|| innermost(&|open| open.line_width == column))
}

/// How many of the open delimiters the line below may be inside of. It is indented deeper than what it is inside of, except
/// for blocks in braces.
fn closable(place: &Place, opened: &Opened) -> usize {
    let below = place.below_code();
    let begins_with_closer = below.trim_start().starts_with(|c| opener_of(c).is_some());
    if !place.rest.trim().is_empty() || below.is_empty() || begins_with_closer {
        return opened.delimiters.len();
    }
    let width = indentation::width(below);
    let has_forms = matches!(place.language.blocks, Blocks::Parentheses { .. });
    let is_over = |open: &Open| match has_forms {
        true => open.column >= width,
        false => open.line_width >= width && open.delimiter != '{',
    };
    opened.delimiters.iter().position(is_over).unwrap_or(opened.delimiters.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_closed_behind_the_cursor_is_not_to_be_closed() {
        for (path, document, open, closer) in [
            ("a.js", "f(\"x\", function ($0) {\n});\n", "", Some(')')),
            ("a.js", "f(\"x\", function () {$0\n});\n", "", Some('}')),
            ("A.java", "@T({A.X, A.$0)\n@interface U {}\n", "{", Some(')')),
            ("a.c", "void f() {\n    if (x) {\n        g();\n    $0\n}\n", "{", Some('}')),
            ("a.c", "int f()\n{\n    $0\n}\n", "", Some('}')),
            ("a.hs", "module A\n    ( a\n    , B($0\n    ) where\n", "(", Some(')')),
            ("a.el", "(defun f (x)\n  $0\n  ;; sum )\n  )\n", "", Some(')')),
            ("a.el", "(defun f (x)\n  (g $0\n\n(defun h ())\n", "((", None),
            ("a.ml", "let f = E (\n  G (\n    $0\n  ))\n\nlet g = 1\n", "", Some(')')),
            ("a.el", "(defun f (x$0)\n  \"A\nB.\"\n  x)\n", "", Some(')')),
            ("a.cpp", "{\nvoid f() {\n  a = {b.$0\n}\n\n}\n", "{", Some('}')),
            ("a.pl", "if ($a =~ /b$0)\n", "", Some(')')),
            ("a.py", "print(\"a$0)\n", "", Some(')')),
            ("a.py", "x = ($0\n", "(", None),
            ("a.py", "}\nx = $0\n", "", None),
        ] {
            let (prefix, suffix) = document.split_once("$0").unwrap();
            let place = Place::new(prefix, suffix).in_language(Language::of_path(Some(path)));
            let nesting = Nesting::new(&place, suffix);
            assert_eq!((&*nesting.open, nesting.closer), (open, closer), "{document:?}");
        }
    }

    #[test]
    fn the_string_at_the_cursor_ends_on_the_line() {
        for (document, expected) in [
            ("print(\"a$0b\")\n", true),
            ("print(\"a$0)\n", false),
            ("print($0\"b\")\n", false),
            ("x = \"\"\"a\n$0\nb\"\"\"\n", true),
            ("x = \"\"\"a\n$0\ny = \"\"\"b\"\"\"\n", false),
        ] {
            let (prefix, suffix) = document.split_once("$0").unwrap();
            let place = Place::new(prefix, suffix).in_language(Language::of_path(Some("a.py")));
            let nesting = Nesting::new(&place, suffix);
            assert_eq!(nesting.is_in_string, expected, "{document:?}");
        }
        for (document, expected) in [("<a b=\"c$0d\" e=\"f\">", true), ("<a b=\"c$0><d e=\"f\">", false)] {
            let (prefix, suffix) = document.split_once("$0").unwrap();
            let place = Place::new(prefix, suffix).in_language(Language::of_path(Some("a.html")));
            assert_eq!(Nesting::new(&place, suffix).is_in_string, expected, "{document:?}");
        }
    }
}
