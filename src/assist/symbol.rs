//! Finds definitions by their first lines, indentation and brackets. Pure.
//!
//! There is no grammar: unusual layouts are missed, or found in part.

use std::ops::Range;

use super::definition;
use crate::text::blocks::Blocks;
use crate::text::language::{Documentation, Language, Layout};
use crate::text::words::has;
use crate::text::words::{first_word, word_at};
use crate::text::{Delimiters, Lexer, first_block_end, indentation, open_delimiters};

/// Most lines of a signature.
const HEAD_LINES_MAX: usize = 60;
/// How far above the cursor to search for the definition around it, in lines.
const ABOVE_LINES_MAX: usize = 5000;

/// A definition. All ranges are bytes of the document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Symbol {
    pub name: String,
    pub name_at: Range<usize>,
    /// Its lines, without the last line end; comments and decorators right above are part of it.
    pub whole: Range<usize>,
    /// The lines of its signature, without the last line end.
    pub head: Range<usize>,
    /// Whether it has documentation.
    pub is_documented: bool,
    /// Where documentation goes, which is the start of a line, and its indentation. `None` where there is no place for
    /// any.
    pub documentation: Option<(usize, String)>,
}

/// The innermost definition around the byte `at`, with the comments above it.
pub fn around(text: &str, at: usize, language: &'static Language) -> Option<Symbol> {
    let lines = Lines::new(text, language);
    let line = lines.line_at(at);
    let is_part_of_next = |line: &usize| lines.is_comment(*line) || lines.is_attribute(*line);
    let below = (line..lines.len()).find(|line| !is_part_of_next(line));
    let below = below.filter(|&below| below > line).and_then(|below| lines.symbol(below));
    let contains = |symbol: &Symbol| symbol.whole.start <= at && at <= symbol.whole.end;
    let above = || (line.saturating_sub(ABOVE_LINES_MAX)..=line).rev();
    below.filter(contains).or_else(|| above().filter_map(|line| lines.symbol(line)).find(contains))
}

/// The definition whose name is at the byte `at`.
pub fn defined_at(text: &str, at: usize, language: &'static Language) -> Option<Symbol> {
    let lines = Lines::new(text, language);
    let symbol = lines.symbol(lines.line_at(at))?;
    (symbol.name_at.start <= at && at <= symbol.name_at.end).then_some(symbol)
}

/// The first definition that begins in `range`.
pub fn first_in(text: &str, range: Range<usize>, language: &'static Language) -> Option<Symbol> {
    let lines = Lines::new(text, language);
    (lines.line_at(range.start)..=lines.line_at(range.end)).find_map(|line| lines.symbol(line))
}

/// The definition of `name`; the first if there are several.
pub fn named(text: &str, name: &str, language: &'static Language) -> Option<Symbol> {
    let lines = Lines::new(text, language);
    let is_it = |line: &usize| {
        let line = lines.text(*line);
        line.contains(name) && definition::name_in(line, language).is_some_and(|found| &line[found] == name)
    };
    (0..lines.len()).filter(is_it).find_map(|line| lines.symbol(line))
}

/// The identifier around the byte `at`, and whether it is a call.
pub fn name_at(text: &str, at: usize) -> Option<(&str, bool)> {
    let name = word_at(text, at)?;
    let is_called = text[name.end..].trim_start_matches(['!', ' ']).starts_with('(');
    Some((&text[name], is_called))
}

/// The whole lines of `range`, without the last line end. A line at whose start `range` ends is not included.
pub fn whole_lines(text: &str, range: Range<usize>) -> Range<usize> {
    let start = text[..range.start].rfind('\n').map_or(0, |end| end + 1);
    let last =
        if range.end > range.start && text[..range.end].ends_with('\n') { range.end - 1 } else { range.end };
    let end = text[last..].find('\n').map_or(text.len(), |end| last + end);
    let end = if text[start..end].ends_with('\r') { end - 1 } else { end };
    start..end.max(start)
}

/// The lines of a document.
struct Lines<'a> {
    text: &'a str,
    language: &'static Language,
    starts: Vec<usize>,
}

impl<'a> Lines<'a> {
    fn new(text: &'a str, language: &'static Language) -> Self {
        let starts = [0].into_iter().chain(text.match_indices('\n').map(|(end, _)| end + 1)).collect();
        Self { text, language, starts }
    }

    fn len(&self) -> usize {
        self.starts.len()
    }

    fn line_at(&self, at: usize) -> usize {
        self.starts.partition_point(|&start| start <= at) - 1
    }

    /// The bytes of a line, without its line end.
    fn range(&self, line: usize) -> Range<usize> {
        let start = self.starts[line];
        let end = self.starts.get(line + 1).map_or(self.text.len(), |next| next - 1);
        start..if self.text[start..end].ends_with('\r') { end - 1 } else { end }
    }

    fn text(&self, line: usize) -> &'a str {
        &self.text[self.range(line)]
    }

    fn is_blank(&self, line: usize) -> bool {
        self.text(line).trim().is_empty()
    }

    fn layout(&self) -> Option<Layout> {
        self.language.definitions.map(|definitions| definitions.layout)
    }

    /// Whether a line is part of a documentation comment.
    fn is_comment(&self, line: usize) -> bool {
        let line = self.text(line).trim();
        match self.layout() {
            Some(Layout::Keyword | Layout::Lua) => self.language.syntax.begins_with_comment(line),
            Some(Layout::Rust) => {
                line.starts_with("///")
                    || line.starts_with("/**")
                    || line.ends_with("*/")
                    || line.starts_with("* ")
            }
            _ => {
                ["//", "/*", "* "].iter().any(|mark| line.starts_with(mark))
                    || line.ends_with("*/")
                    || line == "*"
            }
        }
    }

    fn is_attribute(&self, line: usize) -> bool {
        let line = self.text(line).trim();
        match self.layout() {
            Some(Layout::Rust) => line.starts_with("#[") && line.ends_with(']'),
            Some(Layout::Keyword | Layout::Script) => line.starts_with('@'),
            Some(Layout::C) => {
                line.starts_with('@') || line.starts_with("template<") || line.starts_with("template <")
            }
            _ => false,
        }
    }

    /// The definition that begins in this line.
    fn symbol(&self, line: usize) -> Option<Symbol> {
        let name_in_line = definition::name_in(self.text(line), self.language)?;
        let range = self.range(line);
        let name_at = range.start + name_in_line.start..range.start + name_in_line.end;
        let head_last = self.head_last(line)?;
        let head = range.start..self.range(head_last).end;
        let last = self.last(line, head_last);

        let mut attributes = line;
        while attributes > 0 && self.is_attribute(attributes - 1) {
            attributes -= 1;
        }
        let mut first = attributes;
        while first > 0 && (self.is_comment(first - 1) || self.is_attribute(first - 1)) {
            first -= 1;
        }
        let (is_documented, documentation) = self.documentation(first..line, attributes, head_last, last);
        Some(Symbol {
            name: self.text[name_at.clone()].to_owned(),
            name_at,
            whole: self.starts[first]..self.range(last).end,
            head,
            is_documented,
            documentation,
        })
    }

    /// [`Symbol::is_documented`] and [`Symbol::documentation`] of the definition that ends with the line `last`. `above`
    /// are the comments and attributes before its signature.
    fn documentation(
        &self,
        mut above: Range<usize>,
        attributes: usize,
        head_last: usize,
        last: usize,
    ) -> (bool, Option<(usize, String)>) {
        let definitions = self.language.definitions;
        if definitions.is_none_or(|definitions| definitions.documentation != Documentation::Docstring) {
            let indent = self.indent(above.end).to_owned();
            return (above.any(|line| self.is_comment(line)), Some((self.starts[attributes], indent)));
        }
        let Some(body) = (head_last + 1..=last).find(|&line| !self.is_blank(line)) else {
            return (false, None);
        };
        let first = self.text(body).trim_start().trim_start_matches(['r', 'R', 'u', 'U']);
        let place = (self.starts[head_last + 1], self.indent(body).to_owned());
        (first.starts_with(['"', '\'']), Some(place))
    }

    fn indent(&self, line: usize) -> &'a str {
        indentation::of_line(self.text(line))
    }

    fn width(&self, line: usize) -> usize {
        indentation::width(self.text(line))
    }

    /// The last line of the signature that begins in `line`; `None` if it is not a definition.
    fn head_last(&self, line: usize) -> Option<usize> {
        let has_braces = matches!(self.language.blocks, Blocks::Braces { .. } | Blocks::Any);
        let mut delimiters = Delimiters::new(Lexer::new(self.language.syntax), "");
        let start = self.starts[line];
        let mut read = start;
        let last_possible = self.len().min(line + HEAD_LINES_MAX);
        for last in line..last_possible {
            let end = self.range(last).end;
            delimiters.read_all(&self.text[read..end]);
            read = end;
            let open = delimiters.open();
            let head = self.text[start..end].trim_end();
            match self.layout() {
                _ if !has_braces && open.is_empty() => return Some(last),
                _ if !has_braces => {}
                _ if open.first() == Some(&'{') => return Some(last),
                _ if !open.is_empty() => {}
                Some(Layout::C) if head.ends_with(';') && !head.contains('{') => return None,
                _ if head.ends_with([';', '}']) => return Some(last),
                Some(Layout::Go | Layout::Script) => {
                    let has_brace_below = last + 1 < last_possible && self.text(last + 1).trim() == "{";
                    if !has_brace_below {
                        return Some(last);
                    }
                }
                _ if last > line && self.is_blank(last) => return None,
                _ => {}
            }
        }
        None
    }

    /// The last line of the definition whose signature is these lines.
    fn last(&self, first: usize, head_last: usize) -> usize {
        let width = self.width(first);
        let is_inside = |line: &usize| self.is_blank(*line) || self.width(*line) > width;
        let indented = (head_last + 1..self.len()).take_while(is_inside).last().unwrap_or(head_last);
        let by_indentation =
            (head_last..=indented).rev().find(|&line| !self.is_blank(line)).unwrap_or(head_last);
        match self.language.blocks {
            Blocks::Braces { .. } | Blocks::Any => {
                self.last_by_braces(first, head_last).unwrap_or(by_indentation)
            }
            Blocks::Words { close, .. } => {
                let head = self.text(head_last).trim_end().trim_end_matches([')', ',', ';']);
                let is_one_line = head.rsplit_once(' ').is_some_and(|(_, word)| has(close, word));
                let next = indented + 1;
                let closes = |line| has(close, first_word(self.text(line).trim_start()));
                match next {
                    _ if is_one_line => head_last,
                    _ if next < self.len() && closes(next) => next,
                    _ => by_indentation,
                }
            }
            _ => by_indentation,
        }
    }

    /// The line of the closing brace; `None` if it is missing.
    fn last_by_braces(&self, first: usize, head_last: usize) -> Option<usize> {
        let syntax = self.language.syntax;
        let head = &self.text[self.starts[first]..self.range(head_last).end];
        if open_delimiters(syntax, head).is_empty() {
            return Some(head_last);
        }
        // Parentheses of the signature are closed within it: count from its last line's brace.
        let brace = self.starts[first] + head.rfind('{').unwrap_or(0);
        let length = first_block_end(syntax, &self.text[brace..])?;
        Some(self.line_at(brace + length - 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `$0` is the cursor, `[[` and `]]` stand around the whole definition around it and `^` where its
    /// documentation would begin.
    #[track_caller]
    fn check(id: &str, marked: &str, name: &str) {
        let text = marked.replace("[[", "").replace("]]", "").replace('^', "");
        let at = text.find("$0").unwrap();
        let text = text.replace("$0", "");
        let Some(symbol) = around(&text, at, Language::of(id, "")) else {
            assert_eq!(name, "", "{marked}");
            return;
        };
        assert_eq!(symbol.name, name, "{marked}");
        assert_eq!(&text[symbol.name_at.clone()], name);
        let mut marks = vec![(symbol.whole.start, 1, "[["), (symbol.whole.end, 3, "]]"), (at, 2, "$0")];
        if let Some((place, _)) = symbol.documentation.filter(|_| !symbol.is_documented) {
            marks.push((place, 0, "^"));
        }
        marks.sort();
        let mut shown = text.clone();
        for (at, _, mark) in marks.into_iter().rev() {
            shown.insert_str(at, mark);
        }
        assert_eq!(shown, marked);
    }

    #[test]
    fn python() {
        let check = |marked, name| check("python", marked, name);
        check("import os\n\n[[def f(a,\n      b) -> int:\n^    $0return a\n\n    # more]]\n\nx = 1\n", "f");
        check(
            "class A:\n    \"\"\"Doc.\"\"\"\n\n[[    @property\n    async def g(self):\n^        return 1$0]]\n",
            "g",
        );
        check("[[class A:\n    '''Doc.'''\n    x = 1$0\n\n    def g(self):\n        pass]]\n", "A");
        check("[[@cache$0\ndef f():\n^    pass]]\n", "f");
        check("[[def f(): return$0 1]]\n", "f");
        check("x = 1$0\n", "");
        check("def f():\n    pass\nx = $01\n", "");
    }

    #[test]
    fn rust() {
        let check = |marked, name| check("rust", marked, name);
        check(
            "use a;\n\n^[[#[inline]\npub(crate) const fn f<'a>(x: &'a str) -> u8\nwhere\n    T: A,\n{\n    '}';$0\n}]]\n",
            "f",
        );
        check("[[/// Doc.\npub struct A {\n    x: u8,$0\n}]]\n\nimpl A {}\n", "A");
        check("impl A {\n^[[    fn f(&self) -> u8 {\n        $0{ 1 }\n    }]]\n\n    fn g() {}\n}\n", "f");
        check("trait B {\n^[[    fn f(&self)$0;]]\n}\n", "f");
        check("^[[const X: [u8; 2] = [1, $02];]]\n", "X");
        check("^[[macro_rules! m {\n    () => {$0};\n}]]\n", "m");
        check("impl A {\n    $0\n}\n", "");
    }

    #[test]
    fn typescript() {
        let check = |marked, name| check("typescript", marked, name);
        check(
            "^[[export async function load<T>(\n  url: string,\n): Promise<T> {\n  return `}`;$0\n}]]\n",
            "load",
        );
        check("^[[const add = (a: number, b: number) => {\n  return a + b;$0\n};]]\n", "add");
        check(
            "class A {\n^[[  private static of(x: number): A {\n    if (x) {\n      $0\n    }\n  }]]\n}\n",
            "of",
        );
        check("[[/**\n * Doc.\n */\nexport interface P {\n  x: number;$0\n}]]\n", "P");
        check("for (const x of y) {\n  $0\n}\n", "");
    }

    #[test]
    fn go() {
        let check = |marked, name| check("go", marked, name);
        check("package a\n\n^[[func (s *Stack) Push(v int) {\n\ts.v = append(s.v, v)$0\n}]]\n", "Push");
        check("[[// Stack holds.\ntype Stack struct {\n\tv []int$0\n}]]\n", "Stack");
        check("^[[type ID $0int]]\n\nvar x = 1\n", "ID");
    }

    #[test]
    fn c() {
        let check = |marked, name| check("c", marked, name);
        check(
            "#include <a.h>\n\n^[[static int *find(const char *s,\n                 int n)\n{\n\tif (n) {\n\t\t$0return 0;\n\t}\n}]]\n",
            "find",
        );
        check("[[/* Doc. */\nstruct point {\n    int x;$0\n};]]\n", "point");
        check("int find(const char *s)$0;\n", "");
        check("int main(void) {\n    return f(1);\n}\n$0\n", "");
    }

    #[test]
    fn lua() {
        let check = |marked, name| check("lua", marked, name);
        check("^[[local function f(a)\n  if a then\n    $0return 1\n  end\nend]]\n", "f");
        check("[[-- Doc.\nfunction M.a:push(x)\n  x()$0\nend]]\nlocal y = 1\n", "push");
        check("^[[M.pop = function()\n  return$0\nend]]\n", "pop");
    }

    #[test]
    fn names_are_found_where_they_are_defined_and_called() {
        let python = Language::of("python", "");
        let text = "def pop(x):\n    return pop (x.y)\n\nclass A: pass\n";
        assert_eq!(defined_at(text, 5, python).unwrap().name, "pop");
        assert!(defined_at(text, 8, python).is_none());
        assert_eq!(named(text, "A", python).unwrap().name, "A");
        assert!(named(text, "x", python).is_none());
        let at = |wanted| name_at(text, text.find(wanted).unwrap());
        assert_eq!(at("op (x"), Some(("pop", true)));
        assert_eq!(at(".y"), Some(("x", false)));
        assert_eq!((name_at("", 0), name_at("1é", 0), name_at("é(", 2)), (None, None, Some(("é", true))));
        assert_eq!(first_in(text, 17..40, python).unwrap().name, "A");
    }

    #[test]
    fn selections_become_whole_lines() {
        let text = "ab\r\ncd\r\n\r\nef";
        for (range, expected) in [
            (1..1, "ab"),
            (1..4, "ab"),
            (1..5, "ab\r\ncd"),
            (4..8, "cd"),
            (8..8, ""),
            (11..12, "ef"),
            (12..12, "ef"),
        ] {
            assert_eq!(&text[whole_lines(text, range.clone())], expected, "{range:?}");
        }
    }
}
