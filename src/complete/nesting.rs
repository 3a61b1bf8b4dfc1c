//! The delimiters around the cursor: which of them a completion has to close, and which one is closed behind it. Pure.

use super::context::Place;
use crate::text::lexer::string_end;
use crate::text::{Class, Delimiters, Lexer, Syntax, indentation, opener_of};

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
    /// Whether it is on the cursor's line.
    is_here: bool,
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
    pub fn new(place: &Place, prefix: &str, suffix: &str, syntax: &'static Syntax) -> Self {
        let (start, is_complete) = statement_start(place);
        let lexer = Lexer::after(syntax, &prefix[..start]);
        let (lexer, openers) = openers(lexer, &prefix[start..]);
        let is_in_string = lexer.class() == Class::String
            && string_end(lexer, place.rest).is_some()
            && !lexer.read_all(place.rest).is_inside();
        let below: String = suffix.chars().take(CHARS_BELOW).collect();
        let goes_on = string_end(lexer, &below).is_some() || lexer.quote().is_none();
        let lexer_below = if goes_on { lexer } else { Lexer::unsure(syntax) };
        let (mut closers, is_whole) = closers(lexer_below, &below);
        if is_complete {
            closers.retain(|closer| openers.iter().any(|opener| Some(opener.c) == opener_of(closer.c)));
        }
        let open = &openers[closed(&closers, &openers, is_whole)..];
        Self {
            lexer,
            open: open.iter().map(|opener| opener.c).collect(),
            closer: closers.first().map(|closer| closer.c),
            is_in_string,
        }
    }
}

/// The start of the nearest line, the cursor's included, that begins a statement at the top level, where nothing is open;
/// false if it is too far away to be known.
fn statement_start(place: &Place) -> (usize, bool) {
    let begins = |line: &str| {
        let first = line.chars().next();
        first.is_some_and(|c| !c.is_whitespace() && opener_of(c).is_none())
    };
    let mut start = place.before_line.len();
    if begins(place.line) {
        return (start, true);
    }
    for line in place.before_line.split_inclusive('\n').rev().take(LINES_ABOVE) {
        start -= line.len();
        if begins(line) {
            return (start, true);
        }
    }
    (start, start == 0)
}

/// The lexer after `text`, and what is open there.
fn openers(lexer: Lexer, text: &str) -> (Lexer, Vec<Opener>) {
    let mut delimiters = Delimiters::new(lexer, "");
    let mut openers: Vec<Opener> = Vec::new();
    let last_line = text.rfind('\n').map_or(0, |end| end + 1);
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        let line_column = indentation::width(line);
        let indentation = indentation::of_line(line).len();
        for (at, c) in line.char_indices() {
            delimiters.read(c);
            openers.truncate(delimiters.open().len());
            if openers.len() < delimiters.open().len() {
                let column = line_column + at.saturating_sub(indentation);
                openers.push(Opener { c, column, line_column, is_here: start == last_line });
            }
        }
        start += line.len();
    }
    (*delimiters.lexer(), openers)
}

/// The closing delimiters in `text` without an opener there, up to the next statement at the top level; false if the text
/// ends before that.
fn closers(lexer: Lexer, text: &str) -> (Vec<Closer>, bool) {
    let mut delimiters = Delimiters::new(lexer, "");
    let mut closers = Vec::new();
    for (n, line) in text.split_inclusive('\n').enumerate() {
        let first = line.trim_start().chars().next();
        let is_top = n > 0 && !line.starts_with(char::is_whitespace);
        if is_top && first.is_some_and(|c| opener_of(c).is_none()) {
            return (closers, true);
        }
        for (at, c) in line.char_indices() {
            if delimiters.read(c) {
                let is_first = n > 0 && line[..at].trim().is_empty();
                let column = is_first.then(|| indentation::width(line));
                closers.push(Closer { c, is_here: n == 0, column });
            }
        }
    }
    (closers, text.chars().count() < CHARS_BELOW)
}

/// How many of `openers` are closed by `closers`. One at the start of a line is aligned with its opener or with the line of
/// that, and those before it close what was opened after that, the outermost first. The rest of the cursor's line often
/// closes all that the line opens, in unfinished code too.
fn closed(closers: &[Closer], openers: &[Opener], is_whole: bool) -> usize {
    let here = closers.iter().filter(|closer| closer.is_here).count();
    let opened_here = openers.iter().filter(|opener| opener.is_here).count();
    let above = openers.len() - opened_here;
    let aligned =
        closers.iter().enumerate().find_map(|(n, closer)| Some((n, aligned_opener(closer, openers)?)));
    let closed = match aligned {
        _ if here > 0 && here >= opened_here => openers.len(),
        Some((n, at)) => at + 1 + n,
        None if is_whole => closers.len(),
        None => above + here,
    };
    closed.min(openers.len())
}

fn aligned_opener(closer: &Closer, openers: &[Opener]) -> Option<usize> {
    let (column, kind) = (closer.column?, opener_of(closer.c)?);
    let innermost =
        |is: &dyn Fn(&Opener) -> bool| openers.iter().rposition(|opener| opener.c == kind && is(opener));
    innermost(&|opener| opener.column == column).or_else(|| innermost(&|opener| opener.line_column == column))
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
