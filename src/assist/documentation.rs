//! Documentation comments: where they go, and how their text is laid out. Pure.

use super::symbol::Symbol;
use crate::decode::stop::{Passage, Stop};
use crate::text::indentation;
use crate::text::language::{Documentation, Language, Layout};

/// Most lines of a comment.
const LINES_MAX: usize = 12;
/// A comment with fewer letters is not useful.
const LETTERS_MIN: usize = 6;

/// The place and the style of a documentation comment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommentSlot {
    /// The byte to insert it at: the start of a line.
    pub at: usize,
    indent: String,
    style: Documentation,
    /// The text it has to begin with.
    first_words: String,
}

impl CommentSlot {
    /// The slot of an undocumented definition; `None` where there is no place for a comment.
    pub fn of(symbol: &Symbol, language: &Language) -> Option<Self> {
        let (at, indent) = symbol.documentation.clone().filter(|_| !symbol.is_documented)?;
        let definitions = language.definitions?;
        // By convention, comments in Go begin with the name.
        let begins_with_name = definitions.layout == Layout::Go;
        let first_words = if begins_with_name { format!("{} ", symbol.name) } else { String::new() };
        Some(Self { at, indent, style: definitions.documentation, first_words })
    }

    /// The source before the text of the comment, from the start of its line.
    pub fn opening(&self) -> String {
        let Self { indent, first_words, .. } = self;
        match self.style {
            Documentation::Docstring => format!("{indent}\"\"\"{first_words}"),
            Documentation::Lines(mark) => format!("{indent}{mark} {first_words}"),
            Documentation::Block => format!("{indent}/**\n{indent} * {first_words}"),
        }
    }

    /// The source after the text, up to the next line.
    pub fn closing(&self) -> String {
        match self.style {
            Documentation::Docstring => "\"\"\"\n".into(),
            Documentation::Lines(_) => "\n".into(),
            Documentation::Block => format!("\n{} */\n", self.indent),
        }
    }

    /// The rule that ends its generation.
    pub fn stop(&self) -> Stop {
        Stop::passage(self.passage())
    }

    fn passage(&self) -> Passage {
        match self.style {
            Documentation::Docstring => Passage::Until("\"\"\""),
            Documentation::Lines(mark) => Passage::Lines(mark),
            Documentation::Block => Passage::Until("*/"),
        }
    }

    /// The lines of the comment's text, from generated text, complete or not. Empty if there are too few letters.
    pub fn lines(&self, written: &str) -> Vec<String> {
        let written = written.replace("\r\n", "\n");
        let end = self.passage().end(&written).unwrap_or(written.len());
        let mark = match self.style {
            Documentation::Docstring => "",
            Documentation::Lines(mark) => mark,
            Documentation::Block => "*",
        };
        let text = format!("{}{}", self.first_words, &written[..end]);
        let rest = || text.lines().skip(1).filter(|line| !line.trim().is_empty());
        let margin = rest().map(|line| indentation::of_line(line).len()).min().unwrap_or(0);
        let bare = |(at, line): (usize, &str)| {
            let line = line.trim_end();
            if mark.is_empty() {
                return line.get(if at == 0 { 0 } else { margin }..).unwrap_or_default().to_owned();
            }
            let line = line.trim_start();
            let line = line.strip_prefix(mark).map_or(line, |line| line.strip_prefix(' ').unwrap_or(line));
            line.to_owned()
        };
        let mut lines: Vec<String> = text.lines().take(LINES_MAX).enumerate().map(bare).collect();
        lines.dedup();
        while lines.last().is_some_and(|line| line.trim().is_empty()) {
            lines.pop();
        }
        while lines.first().is_some_and(|line| line.trim().is_empty()) {
            lines.remove(0);
        }
        if let Some(first) = lines.first_mut() {
            *first = first.trim_start().to_owned();
        }
        let own = lines.iter().flat_map(|line| line.chars()).filter(|c| c.is_alphabetic()).count();
        let letters = own.saturating_sub(self.first_words.trim().chars().count());
        if letters < LETTERS_MIN { Vec::new() } else { lines }
    }

    /// The source of a comment with these lines, to insert at [`CommentSlot::at`].
    pub fn comment(&self, lines: &[String]) -> String {
        let indent = &self.indent;
        let indented = |line: &str, mark: &str| format!("{indent}{mark}{line}").trim_end().to_owned() + "\n";
        match (self.style, lines) {
            (_, []) => String::new(),
            (Documentation::Docstring, [line]) if !line.ends_with(['"', '\\']) => {
                format!("{indent}\"\"\"{line}\"\"\"\n")
            }
            (Documentation::Docstring, [first, rest @ ..]) => {
                let rest: String = rest.iter().map(|line| indented(line, "")).collect();
                format!("{indent}\"\"\"{first}\n{rest}{indent}\"\"\"\n")
            }
            (Documentation::Lines(mark), lines) => {
                lines.iter().map(|line| indented(line, &format!("{mark} "))).collect()
            }
            (Documentation::Block, lines) => {
                let lines: String = lines.iter().map(|line| indented(line, " * ")).collect();
                format!("{indent}/**\n{lines}{indent} */\n")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::assist::symbol::around;

    /// `written` is generated between the opening and the closing.
    #[track_caller]
    fn check(id: &str, document: &str, written: &str, expected: &str) {
        let language = Language::of(id, "");
        let at = document.find("$0").unwrap();
        let text = document.replace("$0", "");
        let slot = CommentSlot::of(&around(&text, at, language).unwrap(), language).unwrap();
        let mut text_with = text.clone();
        text_with.insert_str(slot.at, &slot.comment(&slot.lines(written)));
        assert_eq!(text_with, expected, "{written:?}");
    }

    #[test]
    fn comments_follow_the_conventions_of_the_language() {
        let python = "class A:\n    def f(self):\n        return 1$0\n";
        check(
            "python",
            python,
            "Returns one.\"\"\"\n        return 1",
            "class A:\n    def f(self):\n        \"\"\"Returns one.\"\"\"\n        return 1\n",
        );
        check(
            "python",
            python,
            "Returns one.\n\n        Args:\n            none\n        \"\"\"",
            "class A:\n    def f(self):\n        \"\"\"Returns one.\n\n        Args:\n            none\n        \"\"\"\n        return 1\n",
        );
        check(
            "rust",
            "    #[inline]\n    fn f() {\n    $0}\n",
            "Does nothing.\n    ///\n    /// Really.\n    #[inline]\n",
            "    /// Does nothing.\n    ///\n    /// Really.\n    #[inline]\n    fn f() {\n    }\n",
        );
        check(
            "typescript",
            "function f() {$0}\n",
            "Does nothing.\n * @returns nothing\n */\nfunction",
            "/**\n * Does nothing.\n * @returns nothing\n */\nfunction f() {}\n",
        );
        check(
            "go",
            "func Push() {\n$0}\n",
            "pushes a value.\nfunc Push",
            "// Push pushes a value.\nfunc Push() {\n}\n",
        );
        check(
            "c",
            "int f(void)\n{\n$0}\n",
            "Does nothing.",
            "/**\n * Does nothing.\n */\nint f(void)\n{\n}\n",
        );
        check(
            "lua",
            "function f()\n$0end\n",
            "Does nothing.\nfunc",
            "--- Does nothing.\nfunction f()\nend\n",
        );
        for nothing in ["", "\"\"\"", "...", "\n\n", "-- 1"] {
            check("python", "def f():\n    pass$0\n", nothing, "def f():\n    pass\n");
        }
        check("go", "func Push() {\n$0}\n", "\nfunc Push", "func Push() {\n}\n");
    }

    #[test]
    fn documented_definitions_and_those_without_a_place_have_no_slot() {
        for (id, text) in [
            ("python", "def f():\n    '''Doc.'''\n"),
            ("python", "def f(): pass\n"),
            ("rust", "/// Doc.\nfn f() {}\n"),
        ] {
            let language = Language::of(id, "");
            assert_eq!(CommentSlot::of(&around(text, text.len() - 1, language).unwrap(), language), None);
        }
    }
}
