//! The delimiters around the cursor: which of them a completion has to close, and which one is closed behind it. Pure.

use super::context::Place;
use crate::text::lexer::string_end;
use crate::text::{Delimiters, Lexer, Syntax, indentation, opener_of};

/// Most lines above the cursor to read for open delimiters.
const LINES_ABOVE: usize = 80;
/// How much after the cursor to read for closing ones, in characters.
const CHARS_BELOW: usize = 4096;

/// What is open at the cursor.
#[derive(Clone, Debug, PartialEq)]
pub struct Nesting {
    /// Reads the text from the cursor on.
    pub lexer: Lexer,
    /// The delimiters that nothing behind the cursor closes, outermost first.
    pub open: String,
    /// The first closing delimiter behind the cursor whose opener is before it: a completion does not close that.
    pub closer: Option<char>,
    /// Whether the rest of the cursor's line ends the string that the cursor is in.
    pub is_in_string: bool,
}

/// An open delimiter.
#[derive(Clone, Copy)]
struct Opener {
    c: char,
    /// The column it is at, and that of the first character on its line.
    column: usize,
    line_column: usize,
}

/// A closing delimiter behind the cursor.
struct Closer {
    c: char,
    /// Its column, if it is the first character of a line.
    column: Option<usize>,
}

impl Nesting {
    pub fn new(place: &Place, prefix: &str, suffix: &str, syntax: &'static Syntax) -> Self {
        let start = statement_start(place);
        let lexer = Lexer::after(syntax, &prefix[..start]);
        let (lexer, openers) = openers(lexer, &prefix[start..]);
        let is_in_string = string_end(lexer, place.rest).is_some();
        let below: String = suffix.chars().take(CHARS_BELOW).collect();
        let goes_on = string_end(lexer, &below).is_some() || lexer.quote().is_none();
        let lexer_below = if goes_on { lexer } else { Lexer::unsure(syntax) };
        let closer = first_closer(lexer_below, &below, place.starts_line());
        let closed = closer.as_ref().and_then(|closer| closed_by(closer, &openers));
        let open = &openers[closed.map_or(0, |at| at + 1)..];
        Self {
            lexer,
            open: open.iter().map(|opener| opener.c).collect(),
            closer: closer.map(|closer| closer.c),
            is_in_string,
        }
    }
}

/// The start of the nearest line, the cursor's included, that begins a statement at the top level: what is open at the
/// cursor was opened from there on.
fn statement_start(place: &Place) -> usize {
    let begins = |line: &str| {
        let first = line.chars().next();
        first.is_some_and(|c| !c.is_whitespace() && opener_of(c).is_none())
    };
    let mut start = place.before_line.len();
    if begins(place.line) {
        return start;
    }
    for line in place.before_line.split_inclusive('\n').rev().take(LINES_ABOVE) {
        start -= line.len();
        if begins(line) {
            break;
        }
    }
    start
}

/// The lexer after `text`, and what is open there.
fn openers(lexer: Lexer, text: &str) -> (Lexer, Vec<Opener>) {
    let mut delimiters = Delimiters::new(lexer, "");
    let mut openers: Vec<Opener> = Vec::new();
    for line in text.split_inclusive('\n') {
        let line_column = indentation::width(line);
        let indentation = indentation::of_line(line).len();
        for (at, c) in line.char_indices() {
            delimiters.read(c);
            openers.truncate(delimiters.open().len());
            if openers.len() < delimiters.open().len() {
                openers.push(Opener { c, column: line_column + at.saturating_sub(indentation), line_column });
            }
        }
    }
    (*delimiters.lexer(), openers)
}

fn first_closer(lexer: Lexer, text: &str, starts_line: bool) -> Option<Closer> {
    let mut delimiters = Delimiters::new(lexer, "");
    let at = text.char_indices().find_map(|(at, c)| delimiters.read(c).then_some(at))?;
    let line = text[..at].rfind('\n').map(|end| end + 1);
    let before = &text[line.unwrap_or(0)..at];
    let is_first = before.trim().is_empty() && (line.is_some() || starts_line);
    let column = is_first.then(|| indentation::width(before));
    text[at..].chars().next().map(|c| Closer { c, column: column.filter(|_| line.is_some()) })
}

/// The opener that `closer` closes. One that begins a line is aligned with its opener or with the line of that.
fn closed_by(closer: &Closer, openers: &[Opener]) -> Option<usize> {
    let kind = opener_of(closer.c)?;
    let innermost =
        |is: &dyn Fn(&Opener) -> bool| openers.iter().rposition(|opener| opener.c == kind && is(opener));
    let Some(column) = closer.column else { return innermost(&|_| true) };
    innermost(&|opener| opener.column == column)
        .or_else(|| innermost(&|opener| opener.line_column == column))
        .or_else(|| innermost(&|opener| opener.line_column < column))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::Language;

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
            ("a.py", "print(\"a$0)\n", "", Some(')')),
            ("a.py", "x = ($0\n", "(", None),
            ("a.py", "}\nx = $0\n", "", None),
        ] {
            let (prefix, suffix) = document.split_once("$0").unwrap();
            let syntax = Language::of_path(Some(path)).syntax;
            let nesting = Nesting::new(&Place::new(prefix, suffix), prefix, suffix, syntax);
            assert_eq!((&*nesting.open, nesting.closer), (open, closer), "{document:?}");
        }
    }

    #[test]
    fn the_string_at_the_cursor_ends_on_the_line() {
        for (document, expected) in
            [("print(\"a$0b\")\n", true), ("print(\"a$0)\n", false), ("print($0\"b\")\n", false)]
        {
            let (prefix, suffix) = document.split_once("$0").unwrap();
            let syntax = Language::of_path(Some("a.py")).syntax;
            let nesting = Nesting::new(&Place::new(prefix, suffix), prefix, suffix, syntax);
            assert_eq!(nesting.is_in_string, expected, "{document:?}");
        }
    }
}
