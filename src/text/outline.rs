//! Reads the lines before the cursor: which block they open, and which statement continues.

use std::ops::Range;

use super::blocks::{Blocks, Expected};
use super::delimiters::opener_of;
use super::language::Language;
use super::lexer::Lexer;
use super::syntax::Class;
use super::{heads, tags, whitespace};

/// How much text before the cursor is read, in bytes.
const BYTES_MAX: usize = 4096;

/// The lines before the cursor, the one with the cursor last.
#[derive(Clone, Debug)]
pub struct Outline<'a> {
    language: &'static Language,
    lines: Vec<Line<'a>>,
    open: Vec<Open>,
    lexer: Lexer,
    /// Whether the first line is that of the document.
    is_whole: bool,
}

/// An open delimiter.
#[derive(Clone, Copy, Debug)]
pub struct Open {
    pub delimiter: char,
    /// The number of its line in the outline.
    line: usize,
    /// The characters before it on its line.
    at: usize,
    /// The columns before it.
    pub column: usize,
    /// The [width](whitespace::width) of its line.
    pub line_width: usize,
    /// Whether anything follows on its line.
    pub hangs: bool,
}

/// The delimiters that are open at the cursor.
#[derive(Clone, Copy, Debug)]
pub struct Opened<'a> {
    /// Those of the statement at the top level that the cursor is in, outermost first.
    pub delimiters: &'a [Open],
    /// How many of them are on the cursor's line.
    pub here: usize,
    /// Whether the start of that statement is known.
    pub is_complete: bool,
}

#[derive(Clone, Debug)]
struct Line<'a> {
    text: &'a str,
    /// Without comments, and with quotes for all characters of strings.
    code: String,
    /// Whether it begins in a comment or string.
    begins_inside: bool,
    /// Whether it begins or ends in one.
    is_text: bool,
    /// The first line of the delimiters that it closes.
    first: usize,
}

impl<'a> Outline<'a> {
    /// Reads the end of `prefix`.
    pub fn new(language: &'static Language, prefix: &'a str) -> Self {
        let start = window_start(prefix);
        let lexer = Lexer::at(language.syntax, prefix, start);
        let mut outline = Self { language, lines: Vec::new(), open: Vec::new(), lexer, is_whole: start == 0 };
        prefix[start..].split('\n').for_each(|line| outline.read(line));
        outline
    }

    pub fn language(&self) -> &'static Language {
        self.language
    }

    /// The lexer for the text after the cursor.
    pub fn lexer(&self) -> Lexer {
        self.lexer
    }

    /// The delimiters that are open at the cursor.
    pub fn opened(&self) -> Opened<'_> {
        let statement = (0..self.lines.len()).rev().find(|&line| self.begins_statement(line));
        let last = self.lines.len() - 1;
        let from = |line| self.open.partition_point(|open| open.line < line);
        Opened {
            delimiters: &self.open[from(statement.unwrap_or(0))..],
            here: self.open.len() - from(last),
            is_complete: statement.is_some() || self.is_whole,
        }
    }

    /// Whether the line `at` begins a statement at the top level, where nothing is open.
    fn begins_statement(&self, at: usize) -> bool {
        let line = &self.lines[at];
        let is_label = self.language.blocks.are_braces() && line.code.ends_with(':');
        let begins = self.language.begins_statement(line.text);
        begins && !line.begins_inside && !line.code.is_empty() && !is_label && !self.is_directive(line)
    }

    /// The [width](whitespace::width) of the line that opens the block which the cursor is at the start of: the cursor's
    /// line, or, where that is blank, the last one that is not.
    pub fn opener_width(&self) -> Option<usize> {
        let last = self.lines.len() - 1;
        match self.lines.iter().rposition(|line| !line.text.trim().is_empty())? {
            at if at == last => {
                let is_code = !self.lexer.is_inside();
                is_code.then(|| self.block_of(at, Expected::Here)).flatten()
            }
            at => self.block_of(at, Expected::Below),
        }
    }

    /// The width of the first line of the statement that the cursor's line continues; `None` if it begins one.
    pub fn continued_width(&self) -> Option<usize> {
        let last = self.lines.len() - 1;
        let has_forms = matches!(self.language.blocks, Blocks::Parentheses { .. });
        let begins_block = |open: &Open| !has_forms && (open.delimiter == '{' || !open.hangs);
        let above = || self.open.iter().filter(|open| open.line < last);
        let inner = above().collect::<Vec<_>>().iter().rposition(|open| begins_block(open));
        let hanging = above().skip(inner.map_or(0, |at| at + 1)).find(|open| open.hangs);
        let first = hanging.map_or(last, |open| self.head(open.line));
        let first = if first == last { self.head(last) } else { first };
        (first < last).then(|| self.width(first))
    }

    fn read(&mut self, line: &'a str) {
        let at = self.lines.len();
        let text = line.strip_suffix('\r').unwrap_or(line);
        if at > 0 {
            self.lexer.read('\n');
        }
        let (mut code, mut first, mut was_comment) = (String::new(), at, false);
        let begins_inside = self.lexer.is_inside();
        let line_width = whitespace::width(text);
        let indentation = whitespace::of_line(text).chars().count();
        for (column, c) in text.chars().enumerate() {
            let read = self.lexer.read(c);
            self.open.truncate(self.open.len().saturating_sub(read.retracted));
            let is_comment = read.class == Class::Comment;
            match read.class {
                Class::Code | Class::Prose => {
                    let (line, column_of) = (at, line_width + column.saturating_sub(indentation));
                    let open =
                        Open { delimiter: c, line, at: column, column: column_of, line_width, hangs: false };
                    self.read_delimiter(open, &mut first);
                    code.push(c);
                }
                Class::Comment if !was_comment => {
                    code.truncate(code.len().saturating_sub(self.lexer.opener_length() - 1));
                }
                Class::Comment => {}
                Class::Character if self.language.syntax.is_prose => code.push(c),
                Class::String | Class::Character | Class::Regex => code.push('"'),
            }
            was_comment = is_comment;
        }
        code.truncate(code.trim_end().len());
        let ends_column = text.trim_end().chars().count();
        for open in self.open.iter_mut().filter(|open| open.line == at) {
            open.hangs = open.at + 1 < ends_column && !code.ends_with(open.delimiter);
        }
        let is_text = begins_inside || self.lexer.is_inside() && !was_comment;
        self.lines.push(Line { text, code, begins_inside, is_text, first });
    }

    /// Reads the delimiter of `read`, if it is one.
    fn read_delimiter(&mut self, read: Open, first: &mut usize) {
        if matches!(read.delimiter, '(' | '[' | '{') {
            self.open.push(read);
        } else if let Some(opener) = opener_of(read.delimiter)
            && let Some(at) = self.open.iter().rposition(|open| open.delimiter == opener)
        {
            *first = self.open[at].line.min(*first);
            self.open.truncate(at);
        }
    }

    /// The width of the head of the block that the line `at` opens.
    fn block_of(&self, at: usize, expected: Expected) -> Option<usize> {
        let line = &self.lines[at];
        if line.is_text || line.code.trim().is_empty() || self.is_directive(line) {
            return None;
        }
        let head = self.head(at);
        match self.language.blocks {
            Blocks::Parentheses { heads } => {
                let open = self.open.last().filter(|open| open.line == at)?;
                let form = line.code.chars().skip(open.at + 1).collect::<String>();
                let is_head = expected == Expected::Below || heads::is_lisp_head(&form, heads);
                is_head.then_some(open.column)
            }
            Blocks::Tags => {
                let first = self.tag_start(at);
                let opens = tags::opens(&self.code(first..at + 1)) || ends_with_bracket(&line.code, expected);
                opens.then(|| self.width(first))
            }
            blocks => {
                let is_tag = self.language.has_tags() && line.code.trim_start().starts_with('<');
                let opens = is_tag && tags::opens(&line.code)
                    || ends_with_bracket(&line.code, expected) && !self.language.syntax.is_prose
                    || heads::opens(blocks, &self.code(head..at + 1), expected);
                opens.then(|| self.width(head))
            }
        }
    }

    /// Whether it is for a preprocessor, which blocks do not depend on.
    fn is_directive(&self, line: &Line) -> bool {
        let is_hash = line.code.trim_start().starts_with('#') && !line.code.trim_start().starts_with("#[");
        is_hash && self.language.blocks.are_braces() && !self.language.syntax.has_line_comment("#")
    }

    /// The first line of the statement that the line `at` ends: where the delimiters that it closes are opened, and what
    /// it is indented below without being its block.
    fn head(&self, at: usize) -> usize {
        let mut head = at;
        loop {
            let first = (head..=at).map(|line| self.lines[line].first).min().unwrap_or(head);
            let first = if first < head { first } else { self.continued_line(head).unwrap_or(head) };
            if first == head {
                return head;
            }
            head = first;
        }
    }

    /// The line that the line `at` continues, though no delimiter is open.
    fn continued_line(&self, at: usize) -> Option<usize> {
        let before = &self.lines[at.checked_sub(1)?];
        let code = before.code.as_str();
        if code.ends_with('\\') {
            return Some(at - 1);
        }
        let is_complete = code.trim().is_empty()
            || code.ends_with(['{', '(', '[', ',', ';', ':', '}'])
            || code.ends_with("=>")
            || code.ends_with("->");
        let is_known = at + 1 == self.lines.len() || !self.lines[at].text.trim().is_empty();
        let is_deeper = is_known && self.width(at) > self.width(at - 1);
        let continues = self.language.blocks.are_braces() && is_deeper && !is_complete;
        (continues && !before.is_text && !self.is_directive(before)).then_some(at - 1)
    }

    /// The line where the tag begins that the line `at` ends with.
    fn tag_start(&self, at: usize) -> usize {
        let is_end = |line: &Line| line.code.ends_with('>') && !line.code.contains('<');
        if !is_end(&self.lines[at]) {
            return at;
        }
        let begins = |line: &Line| line.code.rfind('<') > line.code.rfind('>');
        self.lines[..at].iter().rposition(begins).unwrap_or(at)
    }

    fn code(&self, lines: Range<usize>) -> String {
        self.lines[lines].iter().map(|line| line.code.as_str()).collect::<Vec<_>>().join(" ")
    }

    fn width(&self, line: usize) -> usize {
        whitespace::width(self.lines[line].text)
    }
}

fn ends_with_bracket(code: &str, expected: Expected) -> bool {
    match expected {
        Expected::Below => code.ends_with(['{', '(', '[']),
        Expected::Here => code.ends_with('{'),
    }
}

/// Where a line begins, [`BYTES_MAX`] before the end of `text` at most, or inside a line that is longer.
fn window_start(text: &str) -> usize {
    let floor = text.len().saturating_sub(BYTES_MAX);
    if floor == 0 {
        return 0;
    }
    let line = text.as_bytes()[floor - 1..].iter().position(|&byte| byte == b'\n');
    line.map_or_else(
        || (floor..).find(|&at| text.is_char_boundary(at)).unwrap_or(text.len()),
        |skipped| floor + skipped,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outline<'a>(path: &str, prefix: &'a str) -> Outline<'a> {
        Outline::new(Language::of_path(Some(path)), prefix)
    }

    #[test]
    fn the_head_of_a_block_may_have_several_lines() {
        for (path, prefix, expected) in [
            ("a.py", "def f(a,\n      b):\n    ", Some(0)),
            ("a.py", "  if a and \\\n          b:\n", Some(2)),
            ("a.py", "  x = f(a,\n        b)\n", None),
            ("a.cpp", "int f(int a,\n      int b) {", Some(0)),
            ("a.java", "  void f()\n      throws A {\n", Some(2)),
            ("a.js", "  a\n    .b(function () {\n", Some(2)),
            ("a.js", "  f(a, {\n  }, function () {", Some(2)),
            ("a.c", "  case 1:\n    if (a) {\n", Some(4)),
            ("a.rs", "impl A\nwhere\n    B: C,\n{\n", Some(0)),
            ("a.v", "module a (\n  input b\n);\n", Some(0)),
            ("a.html", "  <a b=\"c\"\n     d>\n", Some(2)),
            ("a.lisp", "(f\n  (when a\n", Some(2)),
            ("a.c", "#if A\nf() {\n", Some(0)),
            ("a.py", "\"\"\"\nif a:\n", None),
            ("a.js", "/*\n f() {\n", None),
        ] {
            assert_eq!(outline(path, prefix).opener_width(), expected, "{prefix:?}");
        }
    }

    #[test]
    fn statements_go_on_below_their_first_line() {
        for (path, prefix, expected) in [
            ("a.c", "  f(a,\n    b", Some(2)),
            ("a.c", "  x = a\n      + b", Some(2)),
            ("a.c", "  f(\n    b", None),
            ("a.c", "  f() {\n    b", None),
            ("a.js", "f(\"a\", () => {\n    b", None),
            ("a.js", "f(\"a\", () => {\n    g(b,\n      c", Some(4)),
            ("a.js", "f(a, [\n    b", None),
            ("a.c", "  f();\n  b", None),
            ("a.lisp", "(f a\n   (g b\n      ", Some(0)),
        ] {
            assert_eq!(outline(path, prefix).continued_width(), expected, "{prefix:?}");
        }
    }

    #[test]
    fn delimiters_of_the_statement_are_open() {
        for (path, prefix, expected, is_complete) in [
            ("a.c", "f(\nint g() {\n  h(a, ", "{(", true),
            ("a.c", "int g() {\n#if A\n  h(a, ", "{(", true),
            ("a.c", "int g() {\nout:\n  h(a, ", "{(", true),
            ("a.el", "(defun f (x)\n  \"A (\nb\"\n  (g\n;; (c\n  ", "((", true),
            ("a.py", "  f(a, [", "([", true),
        ] {
            let outline = outline(path, prefix);
            let opened = outline.opened();
            let open: String = opened.delimiters.iter().map(|open| open.delimiter).collect();
            assert_eq!((&*open, opened.is_complete), (expected, is_complete), "{prefix:?}");
        }
        let far = format!("  f({}", "\n    a b c,".repeat(1000));
        assert!(!outline("a.c", &far).opened().is_complete);
    }

    #[test]
    fn the_lexer_is_where_the_cursor_is() {
        let long = "x = 1\n".repeat(2000);
        for (path, prefix, expected) in [
            ("a.py", "f(\"a", Class::String),
            ("a.py", "x\n\"\"\"\na\n", Class::String),
            ("a.c", "/* a\n b\n", Class::Comment),
            ("a.c", "/* a */\n b\n", Class::Code),
            ("a.js", "f(\"src/*\");\n", Class::Code),
        ] {
            for before in ["", &long] {
                let text = format!("{before}{prefix}");
                assert_eq!(outline(path, &text).lexer().class(), expected, "{prefix:?}");
            }
        }
        let far = |opener: &str| format!("{opener}\n{}", "a b c\n".repeat(1000));
        assert_eq!(outline("a.c", &far("/*")).lexer().class(), Class::Comment);
        assert_eq!(outline("a.c", &far("x = \"a/*\";")).lexer().class(), Class::Code);
        assert_eq!(outline("a.c", &far("// a/*")).lexer().class(), Class::Code);
        assert_eq!(outline("a.py", &far("\"\"\"")).lexer().class(), Class::String);
    }
}
