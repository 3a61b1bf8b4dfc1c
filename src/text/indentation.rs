//! Indentation of lines and of documents.

use std::borrow::Cow;
use std::ops::Range;

use super::blocks::Blocks;
use super::language::Language;
use super::outline::Outline;
use super::syntax::Class;
use super::whitespace::TAB_STOP;

pub use super::whitespace::{of_line, width};

/// How a document is indented around the cursor, and what a text inserted there is to be fitted to.
#[derive(Clone, Debug)]
pub struct Indentation<'a> {
    unit: Unit,
    /// The steps of one line below another that the document has, in columns, a bit for each.
    steps: u64,
    outline: Cow<'a, Outline<'a>>,
    language: &'static Language,
    line: &'a str,
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
    /// Whether its whitespace is part of a string.
    is_string: bool,
    /// Whether its end is.
    ends_in_string: bool,
}

/// Most lines to inspect on either side of the cursor.
const LINES_MAX: usize = 200;
/// How many lines of one kind are taken for an exception in many of the other.
const EXCEPTION: usize = 8;

impl<'a> Indentation<'a> {
    /// The indentation of the lines around the cursor; `outline` is that of `prefix`.
    pub fn new(outline: &'a Outline<'a>, prefix: &'a str, suffix: &str) -> Self {
        let language = outline.language();
        let line = &prefix[prefix.rfind('\n').map_or(0, |end| end + 1)..];
        let (unit, steps) = detect(language, prefix, suffix);
        // The cursor's own line knows best.
        let unit = match unit {
            Unit::Tab if line.starts_with(' ') => Unit::Unknown,
            Unit::Spaces(_) if line.starts_with('\t') => Unit::Unknown,
            unit => unit,
        };
        Self { unit, steps, outline: Cow::Borrowed(outline), language, line }
    }

    /// The indentation for what replaces `lines` of `text`.
    pub fn replacing(language: &'static Language, text: &'a str, lines: Range<usize>) -> Self {
        let (before, after) = text.split_at(lines.end);
        let (unit, steps) = detect(language, before, after);
        Self {
            unit,
            steps,
            outline: Cow::Owned(Outline::new(language, &text[..lines.start])),
            language,
            line: "",
        }
    }

    /// `text` indented in this style, without whitespace at the ends of its lines; its first line only where the cursor is at
    /// the start of a line. Where whitespace is part of a string, it stays; at the ends of lines also in prose.
    pub fn apply(&self, text: &str, starts_line: bool) -> String {
        let lines = self.inserted(text);
        let own = self.unit_of(&lines);
        let fits = !matches!(self.language.blocks, Blocks::Recipes | Blocks::Parentheses { .. });
        let mut above: Option<(usize, String)> = None;
        let mut fitted = Vec::with_capacity(lines.len());
        for (at, line) in lines.iter().enumerate() {
            let is_fitted = fits && !line.is_string && (at > 0 || starts_line);
            let text =
                if is_fitted { self.fit(line.text, own, above.as_ref()) } else { line.text.to_owned() };
            // The first line is as deep as the cursor.
            let is_whole = at > 0 || self.line.is_empty() || text.starts_with([' ', '\t']);
            if is_whole && !text.trim().is_empty() {
                above = Some((width(line.text), of_line(&text).to_owned()));
            }
            let is_kept = at + 1 == lines.len() || line.ends_in_string || self.language.syntax.is_prose;
            fitted.push(if is_kept { text } else { text.trim_end_matches([' ', '\t']).to_owned() });
        }
        fitted.join("\n")
    }

    fn inserted<'t>(&self, text: &'t str) -> Vec<Inserted<'t>> {
        let has_docstrings = self.language.has_docstrings();
        let mut lexer = self.outline.lexer();
        let mut was_string = lexer.class() == Class::String && lexer.is_inside();
        let inserted = text.split('\n').map(|text| {
            let is_string = was_string && !has_docstrings;
            lexer = lexer.read_all(text).read_all("\n");
            was_string = lexer.class() == Class::String && lexer.is_inside();
            Inserted { text, is_string, ends_in_string: was_string }
        });
        inserted.collect()
    }

    /// A line with one level of this style for each `own` columns. One that is deeper than the line `above` by more is aligned,
    /// and keeps its distance.
    fn fit(&self, line: &str, own: usize, above: Option<&(usize, String)>) -> String {
        let content = line.trim_start_matches([' ', '\t']);
        let whitespace = &line[..line.len() - content.len()];
        let has_tab = whitespace.contains('\t');
        let columns = whitespace.len();
        if let Some((width, above)) = above.filter(|(width, _)| !has_tab && columns > width + own) {
            return format!("{above}{}{content}", " ".repeat(columns - width));
        }
        match self.unit {
            Unit::Tab if !has_tab => "\t".repeat(columns / own) + &" ".repeat(columns % own) + content,
            Unit::Spaces(unit) if whitespace.starts_with('\t') => {
                whitespace.replace('\t', &" ".repeat(unit)) + content
            }
            Unit::Spaces(unit) if !has_tab => " ".repeat(columns / own * unit + columns % own) + content,
            _ => line.to_owned(),
        }
    }

    /// How many columns a level of `lines` has. It differs from the document's only where all lines below heads of blocks
    /// say the same, and the document has no such step: lines may be aligned instead.
    fn unit_of(&self, lines: &[Inserted]) -> usize {
        let assumed = match self.unit {
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
        let mut units = self.steps_of(lines);
        let Some(unit) = units.next() else { return assumed };
        let is_known = matches!(unit, 2 | 4 | 8) && self.steps >> unit & 1 == 0;
        if is_known && units.all(|other| other == unit) { unit } else { assumed }
    }

    /// The columns of a level by each line below the head of a block.
    fn steps_of(&self, lines: &[Inserted]) -> impl Iterator<Item = usize> {
        let written = lines.iter().filter(|line| !line.is_string).map(|line| line.text);
        let mut written = written.filter(|line| !line.trim().is_empty()).peekable();
        let first = lines.first().map_or("", |line| line.text);
        let base = if self.line.trim().is_empty() { width(self.line) } else { self.head_width() };
        let level = match self.unit {
            Unit::Spaces(unit) => base / unit,
            Unit::Tab => base / TAB_STOP,
            Unit::Unknown => 0,
        };
        let mut steps = Vec::new();
        let mut push_level = |line: &str, level: usize| {
            let is_whole = level > 0 && !line.starts_with('\t') && width(line).is_multiple_of(level);
            steps.extend(is_whole.then(|| width(line) / level));
        };
        let is_blank = self.line.trim().is_empty();
        if is_blank && (first.starts_with([' ', '\t']) || base == 0) {
            push_level(first, level);
        } else {
            let head = format!("{}{first}", self.line);
            written.next_if(|line| *line == first);
            if let Some(line) = written.peek() {
                match self.unit {
                    Unit::Unknown => {}
                    _ if opens(self.language, &head) => push_level(line, level + 1),
                    Unit::Tab => push_level(line, level),
                    Unit::Spaces(_) => {}
                }
            }
        }
        let mut above = written.next().unwrap_or_default();
        for line in written {
            let step = width(line).saturating_sub(width(above));
            if opens(self.language, above) && step > 0 && !line.contains('\t') {
                steps.push(step);
            }
            above = line;
        }
        steps.into_iter().filter(|&step| step > 1)
    }

    /// The width of the line that begins the statement on the cursor's line.
    fn head_width(&self) -> usize {
        self.outline.opener_width().or_else(|| self.outline.continued_width()).unwrap_or(width(self.line))
    }
}

/// The unit of the lines around the cursor, and their steps. Lines in comments and strings do not count, since they
/// may be aligned.
fn detect(language: &'static Language, prefix: &str, suffix: &str) -> (Unit, u64) {
    let mut lines: Vec<&str> = prefix.rsplit('\n').take(LINES_MAX).collect();
    lines.reverse();
    lines.extend(suffix.split('\n').skip(1).take(LINES_MAX));
    let mut text_end = None;
    let (mut tabs, mut spaces, mut all, mut below_heads) = (0, 0, [0; 64], [0; 64]);
    let mut above = "";
    for line in lines {
        let is_text = text_end.is_some();
        text_end = language.syntax.text_end(line, text_end);
        if is_text || line.trim().is_empty() || language.syntax.begins_with_comment(line.trim_start()) {
            continue;
        }
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
    (unit, steps)
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
            assert_eq!(detect(language, prefix, suffix).0, expected, "{prefix:?}");
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
        let two = "f() {\n  g();\n}\n";
        check("a.c", &format!("{two}$0"), "\ta", "  a");
        check("a.c", &format!("{two}h() {{$0}}"), "\n    a {\n        b\n    }\n", "\n  a {\n    b\n  }\n");
        check("a.c", &format!("{two}h() {{\n  if (a) {{$0}}"), "\n        b\n    ", "\n    b\n  ");
        let list = "<ul>\n  <li>a</li>\n</ul>\n<ol>\n  ";
        check("a.html", &format!("{list}$0"), "<li>\n        b\n    </li>", "<li>\n    b\n  </li>");
        let four = "def f():\n    g()\n";
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
    fn lines_have_no_whitespace_at_their_ends() {
        check("a.py", "def f():\n    $0", "a  \n    \n    b  ", "a\n\n    b  ");
        check("a.md", "$0", "a  \nb", "a  \nb");
    }
}
