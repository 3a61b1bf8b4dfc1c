//! Indentation of lines and of documents.

use std::borrow::Cow;
use std::ops::Range;

use super::blocks::Blocks;
use super::delimiters::opener_of;
use super::language::Language;
use super::lexer::Lexer;
use super::outline::Outline;
use super::syntax::Class;
use super::whitespace::TAB_STOP;

pub use super::whitespace::{of_line, width};

/// How a document is indented around the cursor, and what a text inserted there is to be fitted to.
#[derive(Clone, Debug)]
pub struct Indentation<'a> {
    style: Style,
    outline: Cow<'a, Outline<'a>>,
    language: &'static Language,
    line: &'a str,
}

/// How the lines around the cursor are indented.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Style {
    unit: Unit,
    /// Whether enough lines agree on the unit for text with another one to be wrong.
    is_sure: bool,
    /// The steps of one line below another that the document has, in columns, a bit for each.
    steps: u64,
}

/// What a level of indentation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unit {
    /// One tab.
    Tab,
    /// Spaces.
    Spaces(usize),
    /// Both, or nothing is indented yet.
    Unknown,
}

/// A line that is inserted.
struct Inserted<'a> {
    text: &'a str,
    /// Whether it begins in a string or comment of several lines.
    is_text: bool,
    /// Whether its whitespace is part of a string.
    is_string: bool,
    /// Whether its end is.
    ends_in_string: bool,
}

/// Most lines to inspect on either side of the cursor.
const LINES_MAX: usize = 200;
/// How many lines of one kind are taken for an exception in many of the other.
const EXCEPTION: usize = 8;
/// Most columns of a level: a line that is deeper is aligned with something.
const UNIT_MAX: usize = 8;
/// How many blocks have to be indented alike for text that is indented otherwise to be converted; one, where the document
/// has no step of another width.
const AGREEING_MIN: usize = 3;

impl<'a> Indentation<'a> {
    /// The indentation of the lines around the cursor; `outline` is that of `prefix`.
    pub fn new(outline: &'a Outline<'a>, prefix: &'a str, suffix: &str) -> Self {
        let language = outline.language();
        let line = &prefix[prefix.rfind('\n').map_or(0, |end| end + 1)..];
        let style = Style::of(language, &code_lines(language, prefix, suffix, outline.lexer()));
        let style = if outline.lexer().is_inside() { style.unsure() } else { style };
        Self { style: style.beside(line), outline: Cow::Borrowed(outline), language, line }
    }

    /// The indentation for what replaces `lines` of `text`.
    pub fn replacing(language: &'static Language, text: &'a str, lines: Range<usize>) -> Self {
        let (before, after) = text.split_at(lines.end);
        let lexer = Lexer::after(language.syntax, before);
        let style = Style::of(language, &code_lines(language, before, after, lexer));
        let outline = Outline::new(language, &text[..lines.start]);
        Self { style, outline: Cow::Owned(outline), language, line: "" }
    }

    /// `text` indented in this style, without whitespace at the ends of its lines; its first line only where the cursor is at
    /// the start of a line. Where whitespace is part of a string, it stays; at the ends of lines also in prose.
    pub fn apply(&self, text: &str, starts_line: bool) -> String {
        let lines = self.inserted(text);
        let own = self.unit_of(&lines);
        let has_levels =
            !matches!(self.language.blocks, Blocks::Recipes | Blocks::Parentheses { .. } | Blocks::None);
        let fits = has_levels && !has_tabs_and_spaces(&lines);
        let mut above = self.line_in_units_of(own);
        let mut fitted = Vec::with_capacity(lines.len());
        for (at, line) in lines.iter().enumerate() {
            let is_fitted = fits && !line.is_string && (at > 0 || starts_line);
            let text =
                if is_fitted { self.fit(line.text, own, above.as_ref()) } else { line.text.to_owned() };
            // The first line is as deep as the cursor.
            let is_blank = self.line.trim().is_empty();
            let is_whole = at > 0 || is_blank && (self.line.is_empty() || text.starts_with([' ', '\t']));
            if is_whole && !text.trim().is_empty() {
                above = Some((width(line.text), of_line(&text).to_owned()));
            }
            let is_kept = at + 1 == lines.len() || line.ends_in_string || self.language.syntax.is_prose;
            fitted.push(if is_kept { text } else { text.trim_end_matches([' ', '\t']).to_owned() });
        }
        fitted.join("\n")
    }

    /// The width of the cursor's line, unless that is blank, if its levels had `own` columns, and its whitespace.
    fn line_in_units_of(&self, own: usize) -> Option<(usize, String)> {
        let unit = match self.style.unit {
            Unit::Tab => TAB_STOP,
            Unit::Spaces(unit) => unit,
            Unit::Unknown => return None,
        };
        let width = width(self.line);
        let whitespace = of_line(self.line).to_owned();
        (!self.line.trim().is_empty()).then_some((width / unit * own + width % unit, whitespace))
    }

    fn inserted<'t>(&self, text: &'t str) -> Vec<Inserted<'t>> {
        let has_docstrings = self.language.has_docstrings();
        let mut lexer = self.outline.lexer();
        let mut was_string = lexer.class() == Class::String && lexer.is_inside();
        let inserted = text.split('\n').map(|text| {
            let (is_text, is_string) = (lexer.is_inside(), was_string && !has_docstrings);
            lexer = lexer.read_all(text).read_all("\n");
            was_string = lexer.class() == Class::String && lexer.is_inside();
            Inserted { text, is_text, is_string, ends_in_string: was_string }
        });
        inserted.collect()
    }

    /// A line with one level of this style for each `own` columns. One that is deeper than the line `above` by more is aligned,
    /// and keeps its distance, as do those below it.
    fn fit(&self, line: &str, own: usize, above: Option<&(usize, String)>) -> String {
        let content = line.trim_start_matches([' ', '\t']);
        let whitespace = &line[..line.len() - content.len()];
        let has_tab = whitespace.contains('\t');
        let columns = whitespace.len();
        let is_aligned = |(width, above): &&(usize, String)| {
            let is_plain = !above.trim_start_matches('\t').contains('\t');
            !has_tab && (columns > width + own || columns == *width && is_plain)
        };
        if let Some((width, above)) = above.filter(is_aligned) {
            return format!("{above}{}{content}", " ".repeat(columns - width));
        }
        match self.style.unit {
            Unit::Tab if !has_tab => "\t".repeat(columns / own) + &" ".repeat(columns % own) + content,
            Unit::Spaces(unit) if whitespace.starts_with('\t') => {
                whitespace.replace('\t', &" ".repeat(unit)) + content
            }
            Unit::Spaces(unit) if !has_tab => " ".repeat(columns / own * unit + columns % own) + content,
            _ => line.to_owned(),
        }
    }

    /// How many columns a level of `lines` has. It differs from the document's only where all that is indented below heads
    /// of blocks says the same, and the document has no such step: lines may be aligned instead.
    fn unit_of(&self, lines: &[Inserted]) -> usize {
        let assumed = match self.style.unit {
            Unit::Spaces(unit) => unit,
            Unit::Tab | Unit::Unknown => {
                let widths = || lines.iter().skip(1).map(|line| of_line(line.text).len());
                if widths().all(|width| width % 4 == 0) || widths().any(|width| width % 2 == 1) {
                    4
                } else {
                    2
                }
            }
        };
        if !self.style.is_sure {
            return assumed;
        }
        let bodies = self.bodies(lines);
        let fits_document =
            |body: &Body| matches!(self.style.unit, Unit::Spaces(unit) if body.step() == unit);
        let mut units = bodies.iter().filter_map(Body::unit);
        let Some(unit) = units.next() else { return assumed };
        let is_usual = matches!(unit, 2 | 4 | 8) && self.style.steps >> unit & 1 == 0;
        let is_same = units.all(|other| other == unit) && !bodies.iter().any(fits_document);
        let code = lines.iter().skip(1).filter(|line| !line.is_text && !line.text.trim().is_empty());
        let widths = || code.clone().map(|line| width(line.text));
        let is_even = widths().all(|width| width.is_multiple_of(unit));
        // A second line as deep as the cursor's blank one is at the same level.
        let is_level = self.line.trim().is_empty() && widths().next() == Some(width(self.line));
        let is_level = is_level && matches!(self.style.unit, Unit::Spaces(_)) && !self.line.is_empty();
        if is_usual && is_same && is_even && !is_level { unit } else { assumed }
    }

    /// What is indented below heads of blocks, the one on the cursor's line included.
    fn bodies<'t>(&self, lines: &[Inserted<'t>]) -> Vec<Body<'t>> {
        let mut bodies = Vec::new();
        let code = lines.iter().filter(|line| !line.is_text).map(|line| line.text);
        let begins_with_closer = |line: &str| line.trim_start().starts_with(|c| opener_of(c).is_some());
        let mut code = code.filter(|line| !line.trim().is_empty() && !begins_with_closer(line)).peekable();
        let first = lines.first().map_or("", |line| line.text);
        let is_blank = self.line.trim().is_empty();
        let continued = self.outline.continued_width();
        let base = match self.outline.opener_width().filter(|_| !is_blank) {
            Some(opener) => opener,
            None => continued.unwrap_or(width(self.line)),
        };
        let level = match self.style.unit {
            Unit::Spaces(unit) => base / unit,
            Unit::Tab => base / TAB_STOP,
            Unit::Unknown => 0,
        };
        let mut above = None;
        if is_blank && (first.starts_with([' ', '\t']) || base == 0 && self.line.is_empty()) {
            if let Some(line) = code.next_if(|line| *line == first) {
                bodies.extend((level > 0).then_some(Body { head: base, line, level: Some(level) }));
                above = Some((width(line), line));
            }
        } else {
            code.next_if(|line| *line == first);
            let head = format!("{}{first}", self.line);
            let opens = opens(self.language, &head) && !is_aligned(&head);
            if let Some(&line) = code.peek() {
                match self.style.unit {
                    // Where a statement continues, its lines are at no level.
                    Unit::Spaces(_) if opens && is_blank && continued.is_some() => {
                        bodies.push(Body { head: width(self.line), line, level: None })
                    }
                    Unit::Tab => {
                        let level = level + usize::from(opens);
                        bodies.extend((level > 0).then_some(Body { head: base, line, level: Some(level) }));
                    }
                    Unit::Spaces(_) if opens => {
                        bodies.push(Body { head: base, line, level: Some(level + 1) });
                        let is_deeper = width(self.line) > base;
                        bodies.extend(is_deeper.then_some(Body {
                            head: width(self.line),
                            line,
                            level: None,
                        }));
                    }
                    Unit::Spaces(_) | Unit::Unknown => {}
                }
            }
        }
        for line in code {
            let width = width(line);
            if let Some((head, above)) = above
                && opens(self.language, above)
                && !is_aligned(above)
                && width > head
            {
                bodies.push(Body { head, line, level: None });
            }
            let is_at_level = above.is_none_or(|(head, _)| width <= head + UNIT_MAX);
            above = is_at_level.then_some((width, line));
        }
        bodies
    }
}

/// A line below the head of a block.
struct Body<'a> {
    /// The width of the head.
    head: usize,
    line: &'a str,
    /// How many levels deep it is, if that is known.
    level: Option<usize>,
}

impl Body<'_> {
    /// How much deeper than its head it is, in columns.
    fn step(&self) -> usize {
        width(self.line).saturating_sub(self.head)
    }

    /// The columns of a level by this line.
    fn unit(&self) -> Option<usize> {
        let width = width(self.line);
        let unit = match self.level {
            Some(level) => width.is_multiple_of(level).then(|| width / level)?,
            None => self.step(),
        };
        (unit > 1 && !self.line.contains('\t')).then_some(unit)
    }
}

impl Style {
    /// That of `lines`, which are code.
    fn of(language: &'static Language, lines: &[&str]) -> Self {
        let (mut tabs, mut spaces, mut all, mut below_heads) = (0, 0, [0; 64], [0; 64]);
        let mut above = "";
        for &line in lines {
            tabs += usize::from(line.starts_with('\t'));
            spaces += usize::from(line.starts_with("  "));
            let step = width(line).saturating_sub(width(above)).min(63);
            if step > 1 && !is_aligned(above) && !line.starts_with('\t') {
                all[step] += 1;
                below_heads[step] += usize::from(opens(language, above));
            }
            above = line;
        }
        let steps = (0..64).filter(|&step| all[step] > 0).fold(0, |steps, step| steps | 1 << step);
        let most = |counts: &[usize; 64]| {
            (2..64).rev().max_by_key(|&step| counts[step]).filter(|&step| counts[step] > 0)
        };
        let is_usual = |&step: &usize| matches!(step, 2 | 3 | 4 | 8);
        let by_heads = most(&below_heads);
        let unit = by_heads.or_else(|| most(&all).filter(is_usual));
        // Without a head there is no telling what a step is.
        let steps = if by_heads.is_some() || tabs > 0 { steps } else { u64::MAX };
        let unit = match (tabs, spaces) {
            (0, 0) if language.indents_by_tabs() => Unit::Tab,
            (0, 0) => Unit::Unknown,
            _ if tabs >= EXCEPTION * spaces => Unit::Tab,
            (0, _) => unit.map_or(Unit::Unknown, Unit::Spaces),
            _ => Unit::Unknown,
        };
        let is_sure = match unit {
            Unit::Tab => true,
            Unit::Spaces(unit) => {
                let is_only = below_heads[unit] > 0 && all.iter().sum::<usize>() == all[unit];
                is_only || below_heads[unit] >= AGREEING_MIN
            }
            Unit::Unknown => false,
        };
        Self { unit, is_sure, steps }
    }

    fn unsure(self) -> Self {
        Self { is_sure: false, ..self }
    }

    /// The style where the cursor's line, which knows best, is `line` before the cursor.
    fn beside(self, line: &str) -> Self {
        match self.unit {
            Unit::Tab if line.starts_with(' ') => Self { unit: Unit::Unknown, ..self.unsure() },
            Unit::Spaces(_) if line.starts_with('\t') => Self { unit: Unit::Unknown, ..self.unsure() },
            Unit::Spaces(unit) if !width(line).is_multiple_of(unit) => self.unsure(),
            _ => self,
        }
    }
}

/// The lines around the cursor that begin in code and are not blank; `lexer` is at the cursor.
fn code_lines<'t>(
    language: &'static Language,
    prefix: &'t str,
    suffix: &'t str,
    mut lexer: Lexer,
) -> Vec<&'t str> {
    let start = prefix.rmatch_indices('\n').nth(LINES_MAX - 1).map_or(0, |(end, _)| end + 1);
    let mut before = Lexer::at(language.syntax, prefix, start);
    let read = |lexer: &mut Lexer, line: &str| {
        let begins_in_code = !lexer.is_inside();
        *lexer = lexer.read_all(line).read_all("\n");
        let is_comment = language.syntax.begins_with_comment(line.trim_start());
        begins_in_code && !is_comment && !line.trim().is_empty()
    };
    let mut lines: Vec<&str> = prefix[start..].split('\n').filter(|line| read(&mut before, line)).collect();
    let mut below = suffix.split('\n');
    read(&mut lexer, below.next().unwrap_or_default());
    lines.extend(below.take(LINES_MAX).filter(|line| read(&mut lexer, line)));
    lines
}

/// Whether some lines are indented by tabs and others by spaces: tabs then stand for some number of spaces.
fn has_tabs_and_spaces(lines: &[Inserted]) -> bool {
    let begins = |mark: &str| lines.iter().any(|line| !line.is_string && line.text.starts_with(mark));
    begins("\t") && begins("  ")
}

/// Whether the next line may be aligned with a delimiter of `line`.
fn is_aligned(line: &str) -> bool {
    let count = |delimiters: [char; 2]| line.matches(delimiters).count();
    count(['(', '[']) > count([')', ']']) && !line.trim_end().ends_with(['(', '['])
}

/// Whether the next line is indented deeper than `line` by one level.
fn opens(language: &'static Language, line: &str) -> bool {
    let line = line.trim_end();
    line.ends_with(['{', ':']) || language.opens_by_words(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_indented() {
        for (line, expected, whitespace) in
            [("", 0, ""), ("  x ", 2, "  "), ("\tx", 4, "\t"), ("  \tx", 4, "  \t"), (" \t ", 5, " \t ")]
        {
            assert_eq!((width(line), of_line(line)), (expected, whitespace), "{line:?}");
        }
    }

    #[test]
    fn the_unit_is_that_of_the_lines_around() {
        for (path, prefix, suffix, expected) in [
            ("a.c", "a {\n\tb", "\n\tc", Unit::Tab),
            ("a.c", "a {\n    b {\n      c", "", Unit::Spaces(2)),
            ("a.c", "a {", "\n    b\n", Unit::Spaces(4)),
            ("a.c", "/*\n * a", "", Unit::Unknown),
            ("a.c", "\ta\n  b", "", Unit::Unknown),
            ("a.go", "/*\n  a\n  b\n*/\nx {\n\ty\n", "", Unit::Tab),
            ("a.py", "x = f(a,\n      b)\ndef g():\n  return 1\n", "", Unit::Spaces(2)),
            ("a.rb", "def f\n  g(a,\n    b)\nend\ndef h\n  1\nend\n", "", Unit::Spaces(2)),
        ] {
            let language = Language::of_path(Some(path));
            let lines = code_lines(language, prefix, suffix, Lexer::after(language.syntax, prefix));
            assert_eq!(Style::of(language, &lines).unit, expected, "{prefix:?}");
        }
    }

    /// `text` fitted to a document with the cursor at `$0`.
    #[track_caller]
    fn check(path: &str, document: &str, text: &str, expected: &str) {
        let (prefix, suffix) = document.split_once("$0").unwrap();
        let starts_line = prefix.rsplit('\n').next().unwrap().trim().is_empty();
        let outline = Outline::new(Language::of_path(Some(path)), prefix);
        let indentation = Indentation::new(&outline, prefix, suffix);
        assert_eq!(indentation.apply(text, starts_line), expected, "{document:?}");
    }

    #[test]
    fn text_is_indented_like_the_document() {
        let tabs = "f() {\n\tg();\n}\n";
        check("a.c", &format!("{tabs}$0"), "    a\n       b\n", "\ta\n\t   b\n");
        check("a.c", &format!("{tabs}x$0"), "  a\n  b\n    c", "  a\n\tb\n\t\tc");
        check(
            "a.c",
            &format!("{tabs}h() {{\n\t$0"),
            "if (a) {\n                b\n        }",
            "if (a) {\n\t\tb\n\t}",
        );
        let two = "f() {\n  g();\n}\n".repeat(3);
        check("a.c", &format!("{two}$0"), "\ta", "  a");
        check("a.c", &format!("{two}h() {{$0}}"), "\n    a {\n        b\n    }\n", "\n  a {\n    b\n  }\n");
        check("a.c", &format!("{two}h() {{\n  if (a) {{$0}}"), "\n        b\n    ", "\n    b\n  ");
        let list = "<ul>\n  <li>a</li>\n</ul>\n".repeat(3) + "<ol>\n  ";
        check("a.html", &format!("{list}$0"), "<li>\n        b\n    </li>", "<li>\n    b\n  </li>");
        let four = "def f():\n    g()\n".repeat(3);
        check("a.py", &format!("{four}def h():$0"), "\n  if a:\n    b\n", "\n    if a:\n        b\n");
        check("a.py", "$0", "\ta\n  b", "\ta\n  b");
        check("a.go", "func f() {$0}\n", "\n    a()\n    b()\n", "\n\ta()\n\tb()\n");
    }

    #[test]
    fn aligned_lines_and_strings_stay() {
        let two = "f() {\n  g();\n}\n";
        check("a.c", &format!("{two}h() {{\n  $0"), "k(a,\n    b);\n  x", "k(a,\n    b);\n  x");
        check(
            "a.c",
            &format!("{two}h() {{\n  k(\n      a) {{\n    }}$0"),
            "\n  l(\n      a);",
            "\n  l(\n      a);",
        );
        check("a.c", "f() {\n\tg();\n}\nh() {\n    $0", "a;\n    b;", "a;\n    b;");
        check("a.c", &format!("{two}h() {{$0"), "\n  \ta", "\n  \ta");
        check("a.js", &format!("{two}h() {{$0"), "\n  a = `  \n    b\n`;", "\n  a = `  \n    b\n`;");
        check("makefile", "A = \\\n  b\n\n$0", "a: b\n\tc", "a: b\n\tc");
    }

    #[test]
    fn the_unit_is_converted_only_where_text_and_document_are_certain() {
        // One block of the document says enough if nothing is indented otherwise.
        let text = "\n    a {\n        b\n    }\n";
        check("a.c", "f() {\n  g();\n}\nh() {$0}", text, "\n  a {\n    b\n  }\n");
        check("a.c", "f() {\n  g();\n}\nk() {\n    g();\n}\nh() {$0}", text, text);
        let two = "f() {\n  g();\n}\n".repeat(3);
        // A text that is one step deeper than its head fits, however the step is counted from the margin.
        let nested = format!("{two}t(\"a\", () => {{\n  o = {{\n    b: {{$0");
        check("a.js", &nested, "\n      c\n    }", "\n      c\n    }");
        // Arms of a match are indented by two levels.
        let ml = "let f x =\n  y\n".repeat(3) + "let g x =\n  ";
        check(
            "a.ml",
            &format!("{ml}$0"),
            "match x with\n  | A ->\n      a",
            "match x with\n  | A ->\n      a",
        );
        // Tabs that stand for eight spaces.
        check("a.c", &format!("{two}$0"), "f() {\n    a {\n\tb", "f() {\n    a {\n\tb");
        // The cursor is in a comment, or in a string.
        check("a.c", &format!("{two}/* $0"), "x {\n     y", "x {\n     y");
        // A line that continues a statement is not at a level.
        let four = "def f():\n    g()\n".repeat(3);
        let with = format!("{four}def h():\n    with a(b,\n            $0");
        check("a.py", &with, "c):\n        d()", "c):\n        d()");
    }

    #[test]
    fn continued_lines_are_no_levels() {
        let two = "f() {\n  g();\n}\n".repeat(3);
        // Within parentheses that are open at the end of the head.
        let cmake = "if(A)\n  f()\nendif()\n".repeat(3);
        check("a.cmake", &format!("{cmake}if$0"), "((A OR B)\n    AND C)", "((A OR B)\n    AND C)");
        // An argument of a call whose first line has others.
        let r = "f <- function(a) {\n  b\n}\n".repeat(3) + "p <- q(\"P\", G,\n  $0";
        check("a.R", &r, "s = function(d) {\n    e\n  }", "s = function(d) {\n    e\n  }");
        // One step from the cursor's line, or one from the head.
        let wrapped = format!("{two}const a: A<\n  B<{{$0}}>\n> = c;\n");
        check("a.ts", &wrapped, "\n    d: E;\n  ", "\n    d: E;\n  ");
        // The second line is as deep as the first one.
        let four = format!("{two}h(function (a) {{\n    $0");
        check("a.js", &four, "b;\n    if (c) {\n      d;\n    }", "b;\n    if (c) {\n      d;\n    }");
        let elm = "f a =\n    b\n".repeat(3) + "g a =\n    let\n        c =\n            d\n    $0";
        check("a.elm", &elm, "in\n    c\n\n\nh a =\n    b", "in\n    c\n\n\nh a =\n    b");
        // What is far to the right is aligned.
        let text = "- (A)b:(C)d\n              e:\n                  (F)g";
        check("a.m", &format!("{two}$0"), text, text);
        // So are the lines below it.
        let tabs = "f() {\n\tg();\n}\n".repeat(3);
        check(
            "a.c",
            &format!("{tabs}x = (a$0"),
            " ||\n        b ||\n        c)",
            " ||\n        b ||\n        c)",
        );
    }

    #[test]
    fn what_is_in_strings_and_comments_says_nothing_about_the_document() {
        for (path, prefix, suffix, expected) in [
            ("a.pl", "$a = <<END;\n\tb\n\tc\nEND\nif ($b) {\n    c();\n", "", Unit::Spaces(4)),
            ("a.py", "def f():\n  \"\"\"A:\n\n      b\n", "\n      c\n  \"\"\"\n  d()\n", Unit::Spaces(2)),
            ("a.js", "f() {\n  g(`\n        a {\n            b\n`);\n", "", Unit::Spaces(2)),
        ] {
            let language = Language::of_path(Some(path));
            let lexer = Outline::new(language, prefix).lexer();
            let style = Style::of(language, &code_lines(language, prefix, suffix, lexer));
            assert_eq!(style.unit, expected, "{prefix:?}");
        }
        // The document begins in front of the lines that are inspected: in a string.
        let far = format!("x = \"\"\"\n{}\"\"\"\ndef f():\n  g()\n", "if a:\n        b\n".repeat(150));
        let language = Language::of_path(Some("a.py"));
        let lines = code_lines(language, &far, "", Lexer::new(language.syntax));
        assert_eq!(Style::of(language, &lines).unit, Unit::Spaces(2));
    }

    #[test]
    fn lines_have_no_whitespace_at_their_ends() {
        check("a.py", "def f():\n    $0", "a  \n    \n    b  ", "a\n\n    b  ");
        check("a.md", "$0", "a  \nb", "a  \nb");
    }
}
