//! Where definitions begin and end, read from their first lines, indentation and brackets. Pure.
//!
//! No grammar: what is laid out in an unusual way is not found, or found in part.

use std::ops::Range;

use super::language::Language;
use crate::decode::stop::indent_width;

/// Most lines of a signature.
const HEAD_LINES_MAX: usize = 60;
/// How far above the cursor the definition around it is searched, in lines.
const ABOVE_LINES_MAX: usize = 5000;

/// A definition. All ranges are bytes of the document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Symbol {
    /// What it is called.
    pub name: String,
    /// Where its name stands.
    pub name_at: Range<usize>,
    /// Its lines, without the last line end; comments and decorators right above are part of it.
    pub whole: Range<usize>,
    /// The lines of its signature, without the last line end.
    pub head: Range<usize>,
    /// Whether it has documentation.
    pub is_documented: bool,
    /// Where documentation would begin, which is the start of a line, and how it would be indented. `None`
    /// where there is no place for any.
    pub documentation: Option<(usize, String)>,
}

/// The innermost definition that has the byte `at` in it, or right below its comments.
pub fn around(text: &str, at: usize, language: Language) -> Option<Symbol> {
    let lines = Lines::new(text, language);
    let line = lines.line_at(at);
    let belongs_below = |line: &usize| lines.is_comment(*line) || lines.is_attribute(*line);
    let below = (line..lines.len()).find(|line| !belongs_below(line));
    let below = below.filter(|&below| below > line).and_then(|below| lines.symbol(below));
    let contains = |symbol: &Symbol| symbol.whole.start <= at && at <= symbol.whole.end;
    let above = || (line.saturating_sub(ABOVE_LINES_MAX)..=line).rev();
    below.filter(contains).or_else(|| above().filter_map(|line| lines.symbol(line)).find(contains))
}

/// The definition whose name has the byte `at` in it.
pub fn defined_at(text: &str, at: usize, language: Language) -> Option<Symbol> {
    let lines = Lines::new(text, language);
    let symbol = lines.symbol(lines.line_at(at))?;
    (symbol.name_at.start <= at && at <= symbol.name_at.end).then_some(symbol)
}

/// The first definition that begins in `range`.
pub fn first_in(text: &str, range: Range<usize>, language: Language) -> Option<Symbol> {
    let lines = Lines::new(text, language);
    (lines.line_at(range.start)..=lines.line_at(range.end)).find_map(|line| lines.symbol(line))
}

/// The definition of `name`; the first if there are several.
pub fn named(text: &str, name: &str, language: Language) -> Option<Symbol> {
    let lines = Lines::new(text, language);
    let is_it = |line: &usize| {
        let line = lines.text(*line);
        line.contains(name) && definition(line, language).is_some_and(|found| &line[found] == name)
    };
    (0..lines.len()).filter(is_it).find_map(|line| lines.symbol(line))
}

/// The word around the byte `at`, and whether it is called there.
pub fn word_at(text: &str, at: usize) -> Option<(&str, bool)> {
    let start = text[..at]
        .rfind(|c| !is_word(c))
        .map_or(0, |before| before + text[before..].chars().next().map_or(0, char::len_utf8));
    let end = text[at..].find(|c| !is_word(c)).map_or(text.len(), |end| at + end);
    let word = &text[start..end];
    let is_name = word.chars().next().is_some_and(|c| !c.is_ascii_digit());
    is_name.then(|| (word, text[end..].trim_start_matches(['!', ' ']).starts_with('(')))
}

/// The whole lines of `range`, without the last line end; one that ends at the start of a line leaves that out.
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
    language: Language,
    starts: Vec<usize>,
}

impl<'a> Lines<'a> {
    fn new(text: &'a str, language: Language) -> Self {
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

    /// Whether a line is, or is in, a comment that is documentation.
    fn is_comment(&self, line: usize) -> bool {
        let line = self.text(line).trim();
        match self.language {
            Language::Python => line.starts_with('#'),
            Language::Lua => line.starts_with("--"),
            Language::Rust => {
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
        match self.language {
            Language::Rust => line.starts_with("#[") && line.ends_with(']'),
            Language::Python | Language::Script => line.starts_with('@'),
            Language::C => {
                line.starts_with('@') || line.starts_with("template<") || line.starts_with("template <")
            }
            _ => false,
        }
    }

    /// The definition that begins in this line.
    fn symbol(&self, line: usize) -> Option<Symbol> {
        let name_in_line = definition(self.text(line), self.language)?;
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
        let has_comment = (first..line).any(|line| self.is_comment(line));
        let indent = self.indent(line).to_owned();
        let (is_documented, documentation) = match self.language {
            Language::Python => {
                let body = (head_last + 1..=last).find(|&line| !self.is_blank(line));
                let quoted = |line: usize| {
                    let line = self.text(line).trim_start().trim_start_matches(['r', 'R', 'u', 'U']);
                    line.starts_with(['"', '\''])
                };
                let place = body.map(|body| (self.starts[head_last + 1], self.indent(body).to_owned()));
                (body.is_some_and(quoted), place)
            }
            _ => (has_comment, Some((self.starts[attributes], indent))),
        };
        Some(Symbol {
            name: self.text[name_at.clone()].to_owned(),
            name_at,
            whole: self.starts[first]..self.range(last).end,
            head,
            is_documented,
            documentation,
        })
    }

    fn indent(&self, line: usize) -> &'a str {
        let line = self.text(line);
        &line[..line.len() - line.trim_start().len()]
    }

    /// The last line of the signature that begins in `line`; `None` if it is none after all.
    fn head_last(&self, line: usize) -> Option<usize> {
        let syntax = self.language.syntax();
        let start = self.starts[line];
        let last_possible = self.len().min(line + HEAD_LINES_MAX);
        for last in line..last_possible {
            let so_far = &self.text[start..self.range(last).end];
            let open = syntax.open_brackets(so_far);
            let end = so_far.trim_end();
            match self.language {
                Language::Python | Language::Lua if open.is_empty() => return Some(last),
                Language::Python | Language::Lua => {}
                _ if open.starts_with('{') => return Some(last),
                _ if !open.is_empty() => {}
                Language::C if end.ends_with(';') && !end.contains('{') => return None,
                _ if end.ends_with([';', '}']) => return Some(last),
                Language::Go | Language::Script => {
                    let goes_on = last + 1 < last_possible && self.text(last + 1).trim() == "{";
                    if !goes_on {
                        return Some(last);
                    }
                }
                _ if last > line && self.is_blank(last) => return None,
                _ => {}
            }
        }
        None
    }

    /// The last line of the definition whose signature these are the first and the last line of.
    fn last(&self, first: usize, head_last: usize) -> usize {
        let width = indent_width(self.text(first));
        let deeper = |line: &usize| self.is_blank(*line) || indent_width(self.text(*line)) > width;
        let indented = (head_last + 1..self.len()).take_while(deeper).last().unwrap_or(head_last);
        let last_written = |last: usize| (head_last..=last).rev().find(|&line| !self.is_blank(line));
        match self.language {
            Language::Python => last_written(indented).unwrap_or(head_last),
            Language::Lua => {
                let ends = |line: usize| self.text(line).trim_start().starts_with("end");
                let is_one_line =
                    self.text(head_last).trim_end().trim_end_matches([')', ',', ';']).ends_with(" end");
                match indented + 1 {
                    _ if is_one_line => head_last,
                    next if next < self.len() && ends(next) => next,
                    _ => last_written(indented).unwrap_or(head_last),
                }
            }
            _ => {
                let head = &self.text[self.starts[first]..self.range(head_last).end];
                if self.language.syntax().open_brackets(head).is_empty() {
                    return head_last;
                }
                // Parentheses of the signature are closed within it: count from its last line's brace.
                let brace = self.starts[first] + head.rfind('{').unwrap_or(0);
                match self.language.syntax().first_block_end(&self.text[brace..]) {
                    Some(length) => self.line_at(brace + length - 1),
                    None => last_written(indented).unwrap_or(head_last),
                }
            }
        }
    }
}

/// Where the name stands in a line that begins a definition.
fn definition(line: &str, language: Language) -> Option<Range<usize>> {
    let start = line.len() - line.trim_start().len();
    match language {
        Language::Python => keyed(line, start, &["async"], &["def", "class"]),
        Language::Rust => rust(line, start),
        Language::Script => script(line, start),
        Language::Go => go(line, start),
        Language::C => c(line, start),
        Language::Lua => lua(line, start),
        Language::Other => None,
    }
}

/// The name after `modifiers` and one of `keys`.
fn keyed(line: &str, mut at: usize, modifiers: &[&str], keys: &[&str]) -> Option<Range<usize>> {
    loop {
        let word = word_from(line, at)?;
        let next = skip_blank(line, word.end);
        if keys.contains(&&line[word.clone()]) {
            return word_from(line, next);
        }
        if !modifiers.contains(&&line[word]) {
            return None;
        }
        at = next;
    }
}

fn rust(line: &str, mut at: usize) -> Option<Range<usize>> {
    const KEYS: [&str; 10] =
        ["fn", "struct", "enum", "trait", "union", "mod", "type", "const", "static", "macro_rules"];
    const MODIFIERS: [&str; 7] = ["pub", "default", "async", "unsafe", "extern", "const", "mut"];
    loop {
        let word = word_from(line, at)?;
        let mut next = skip_blank(line, word.end);
        let text = &line[word];
        if text == "macro_rules" {
            next = skip_blank(line, next + usize::from(line[next..].starts_with('!')));
        }
        if text == "pub" && line[next..].starts_with('(') {
            next = skip_blank(line, next + line[next..].find(')')? + 1);
        }
        if text == "extern" && line[next..].starts_with('"') {
            next = skip_blank(line, next + line[next + 1..].find('"')? + 2);
        }
        if KEYS.contains(&text) {
            let name = word_from(line, next)?;
            let is_modifier =
                text == "const" && matches!(&line[name.clone()], "fn" | "async" | "unsafe" | "extern");
            if !is_modifier && &line[name.clone()] != "mut" {
                return Some(name);
            }
        } else if !MODIFIERS.contains(&text) {
            return None;
        }
        at = next;
    }
}

fn script(line: &str, mut at: usize) -> Option<Range<usize>> {
    const KEYS: [&str; 6] = ["function", "class", "interface", "enum", "type", "namespace"];
    const BINDINGS: [&str; 3] = ["const", "let", "var"];
    const MODIFIERS: [&str; 13] = [
        "export",
        "default",
        "declare",
        "abstract",
        "async",
        "public",
        "private",
        "protected",
        "static",
        "readonly",
        "override",
        "get",
        "set",
    ];
    const CONTROL: [&str; 11] =
        ["if", "for", "while", "switch", "catch", "return", "with", "else", "do", "try", "new"];
    let is_indented = at > 0;
    loop {
        let word = word_from(line, at)?;
        let mut next = skip_blank(line, word.end);
        let text = &line[word.clone()];
        if is_indented && line.trim_end().ends_with('{') && line[word.end..].starts_with(['(', '<']) {
            return (!CONTROL.contains(&text) && text != "function").then_some(word);
        }
        if KEYS.contains(&text) {
            next = skip_blank(line, next + usize::from(line[next..].starts_with('*')));
            return word_from(line, next);
        }
        if BINDINGS.contains(&text) {
            let name = word_from(line, next)?;
            let value = line[name.end..].split_once('=')?.1.trim_start();
            let value = value.strip_prefix("async").unwrap_or(value).trim_start();
            return (value.starts_with("function") || line.contains("=>")).then_some(name);
        }
        if !MODIFIERS.contains(&text) {
            return None;
        }
        at = next;
    }
}

fn go(line: &str, at: usize) -> Option<Range<usize>> {
    let word = word_from(line, at)?;
    let mut next = skip_blank(line, word.end);
    match &line[word] {
        "func" if line[next..].starts_with('(') => {
            next = skip_blank(line, next + line[next..].find(')')? + 1);
            word_from(line, next)
        }
        "func" | "type" => word_from(line, next),
        _ => None,
    }
}

fn lua(line: &str, at: usize) -> Option<Range<usize>> {
    let first = word_from(line, at)?;
    let start = if &line[first.clone()] == "local" { skip_blank(line, first.end) } else { at };
    let word = word_from(line, start)?;
    let path_from = |start: usize| {
        let rest = &line[start..];
        let end = rest.find(|c: char| !is_word(c) && !matches!(c, '.' | ':')).unwrap_or(rest.len());
        let name = rest[..end].rfind(['.', ':']).map_or(0, |dot| dot + 1);
        (name < end).then_some(start + name..start + end)
    };
    if &line[word] == "function" {
        return path_from(skip_blank(line, start + "function".len()));
    }
    let name = path_from(start)?;
    let value = line[name.end..].trim_start().strip_prefix('=')?.trim_start();
    value.starts_with("function").then_some(name)
}

fn c(line: &str, at: usize) -> Option<Range<usize>> {
    const TYPES: [&str; 6] = ["struct", "enum", "union", "class", "interface", "namespace"];
    const MODIFIERS: [&str; 8] =
        ["typedef", "static", "const", "public", "private", "protected", "abstract", "final"];
    const OTHERS: [&str; 16] = [
        "if", "for", "while", "switch", "return", "else", "do", "case", "goto", "new", "delete", "throw",
        "using", "catch", "sizeof", "default",
    ];
    let first = word_from(line, at)?;
    if OTHERS.contains(&&line[first]) {
        return None;
    }
    let Some(paren) = line.find('(') else {
        return keyed(line, at, &MODIFIERS, &TYPES).filter(|_| !line.trim_end().ends_with(';'));
    };
    let before = line[..paren].trim_end();
    let start = before.rfind(|c| !is_word(c)).map_or(0, |before| before + 1);
    let name = word_from(line, start).filter(|name| name.end == before.len())?;
    let kind = &line[at..name.start.max(at)];
    let is_kind = |c: char| is_word(c) || c.is_whitespace() || "*&:<>,~[]".contains(c);
    let is_definition =
        !kind.trim().is_empty() && kind.chars().all(is_kind) && !OTHERS.contains(&&line[name.clone()]);
    is_definition.then_some(name)
}

/// The word that begins at `at`.
fn word_from(line: &str, at: usize) -> Option<Range<usize>> {
    let rest = &line[at..];
    let end = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
    (end > 0 && !rest.starts_with(|c: char| c.is_ascii_digit())).then_some(at..at + end)
}

fn skip_blank(line: &str, at: usize) -> usize {
    line.len() - line[at..].trim_start().len()
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '$')
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `$0` is the cursor, `[[` and `]]` stand around the whole definition around it and `^` where its
    /// documentation would begin.
    #[track_caller]
    fn check(language: Language, marked: &str, name: &str) {
        let text = marked.replace("[[", "").replace("]]", "").replace('^', "");
        let at = text.find("$0").unwrap();
        let text = text.replace("$0", "");
        let Some(symbol) = around(&text, at, language) else {
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
        let check = |marked, name| check(Language::Python, marked, name);
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
        let check = |marked, name| check(Language::Rust, marked, name);
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
        let check = |marked, name| check(Language::Script, marked, name);
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
        let check = |marked, name| check(Language::Go, marked, name);
        check("package a\n\n^[[func (s *Stack) Push(v int) {\n\ts.v = append(s.v, v)$0\n}]]\n", "Push");
        check("[[// Stack holds.\ntype Stack struct {\n\tv []int$0\n}]]\n", "Stack");
        check("^[[type ID $0int]]\n\nvar x = 1\n", "ID");
    }

    #[test]
    fn c() {
        let check = |marked, name| check(Language::C, marked, name);
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
        let check = |marked, name| check(Language::Lua, marked, name);
        check("^[[local function f(a)\n  if a then\n    $0return 1\n  end\nend]]\n", "f");
        check("[[-- Doc.\nfunction M.a:push(x)\n  x()$0\nend]]\nlocal y = 1\n", "push");
        check("^[[M.pop = function()\n  return$0\nend]]\n", "pop");
    }

    #[test]
    fn names_are_found_where_they_are_defined_and_called() {
        let text = "def pop(x):\n    return pop (x.y)\n\nclass A: pass\n";
        assert_eq!(defined_at(text, 5, Language::Python).unwrap().name, "pop");
        assert!(defined_at(text, 8, Language::Python).is_none());
        assert_eq!(named(text, "A", Language::Python).unwrap().name, "A");
        assert!(named(text, "x", Language::Python).is_none());
        let at = |wanted| word_at(text, text.find(wanted).unwrap());
        assert_eq!(at("op (x"), Some(("pop", true)));
        assert_eq!(at(".y"), Some(("x", false)));
        assert_eq!((word_at("", 0), word_at("1é", 0), word_at("é(", 2)), (None, None, Some(("é", true))));
        assert_eq!(first_in(text, 17..40, Language::Python).unwrap().name, "A");
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
