//! Documentation as the middle between a signature and its body. Pure.

use super::language::{Comment, Language};
use super::symbol::Symbol;
use crate::decode::stop::Stop;

/// Most lines of a comment.
const LINES_MAX: usize = 12;
/// Fewer letters say nothing.
const LETTERS_MIN: usize = 6;

/// A comment that is to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Writing {
    /// Where it goes, in bytes: the start of a line.
    pub at: usize,
    indent: String,
    comment: Comment,
    /// What it has to begin with.
    seed: String,
}

impl Writing {
    /// The documentation of a definition that has none; `None` where there is no place for it.
    pub fn of(symbol: &Symbol, language: Language) -> Option<Self> {
        let (at, indent) = symbol.documentation.clone().filter(|_| !symbol.is_documented)?;
        // Go has comments begin with the name.
        let seed = if language == Language::Go { format!("{} ", symbol.name) } else { String::new() };
        Some(Self { at, indent, comment: language.comment(), seed })
    }

    /// What stands before the text of the comment, from the start of its line.
    pub fn opening(&self) -> String {
        let Self { indent, seed, .. } = self;
        match self.comment {
            Comment::Docstring => format!("{indent}\"\"\"{seed}"),
            Comment::Lines(mark) => format!("{indent}{mark} {seed}"),
            Comment::Block => format!("{indent}/**\n{indent} * {seed}"),
        }
    }

    /// What stands after it, up to the next line.
    pub fn closing(&self) -> String {
        match self.comment {
            Comment::Docstring => "\"\"\"\n".into(),
            Comment::Lines(_) => "\n".into(),
            Comment::Block => format!("\n{} */\n", self.indent),
        }
    }

    /// The rule that ends it.
    pub fn stop(&self) -> Stop {
        Stop::passage(self.comment.passage())
    }

    /// The lines of the comment's text of which `written` is what the model wrote, complete or not. Empty if it
    /// says nothing.
    pub fn lines(&self, written: &str) -> Vec<String> {
        let written = written.replace("\r\n", "\n");
        let end = self.comment.passage().end(&written).unwrap_or(written.len());
        let mark = match self.comment {
            Comment::Docstring => "",
            Comment::Lines(mark) => mark,
            Comment::Block => "*",
        };
        let text = format!("{}{}", self.seed, &written[..end]);
        let rest = || text.lines().skip(1).filter(|line| !line.trim().is_empty());
        let margin = rest().map(|line| line.len() - line.trim_start().len()).min().unwrap_or(0);
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
        let letters = own.saturating_sub(self.seed.trim().chars().count());
        if letters < LETTERS_MIN { Vec::new() } else { lines }
    }

    /// The text to insert at [`Writing::at`] so that the comment has these lines.
    pub fn comment(&self, lines: &[String]) -> String {
        let indent = &self.indent;
        let indented = |line: &str, mark: &str| format!("{indent}{mark}{line}").trim_end().to_owned() + "\n";
        match (self.comment, lines) {
            (_, []) => String::new(),
            (Comment::Docstring, [line]) if !line.ends_with(['"', '\\']) => {
                format!("{indent}\"\"\"{line}\"\"\"\n")
            }
            (Comment::Docstring, [first, rest @ ..]) => {
                let rest: String = rest.iter().map(|line| indented(line, "")).collect();
                format!("{indent}\"\"\"{first}\n{rest}{indent}\"\"\"\n")
            }
            (Comment::Lines(mark), lines) => {
                lines.iter().map(|line| indented(line, &format!("{mark} "))).collect()
            }
            (Comment::Block, lines) => {
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

    /// `written` is what the model writes between the opening and the closing.
    #[track_caller]
    fn check(language: Language, document: &str, written: &str, expected: &str) {
        let at = document.find("$0").unwrap();
        let text = document.replace("$0", "");
        let writing = Writing::of(&around(&text, at, language).unwrap(), language).unwrap();
        let mut text_with = text.clone();
        text_with.insert_str(writing.at, &writing.comment(&writing.lines(written)));
        assert_eq!(text_with, expected, "{written:?}");
    }

    #[test]
    fn comments_stand_where_the_language_has_them() {
        let python = "class A:\n    def f(self):\n        return 1$0\n";
        check(
            Language::Python,
            python,
            "Returns one.\"\"\"\n        return 1",
            "class A:\n    def f(self):\n        \"\"\"Returns one.\"\"\"\n        return 1\n",
        );
        check(
            Language::Python,
            python,
            "Returns one.\n\n        Args:\n            none\n        \"\"\"",
            "class A:\n    def f(self):\n        \"\"\"Returns one.\n\n        Args:\n            none\n        \"\"\"\n        return 1\n",
        );
        check(
            Language::Rust,
            "    #[inline]\n    fn f() {\n    $0}\n",
            "Does nothing.\n    ///\n    /// Really.\n    #[inline]\n",
            "    /// Does nothing.\n    ///\n    /// Really.\n    #[inline]\n    fn f() {\n    }\n",
        );
        check(
            Language::Script,
            "function f() {$0}\n",
            "Does nothing.\n * @returns nothing\n */\nfunction",
            "/**\n * Does nothing.\n * @returns nothing\n */\nfunction f() {}\n",
        );
        check(
            Language::Go,
            "func Push() {\n$0}\n",
            "pushes a value.\nfunc Push",
            "// Push pushes a value.\nfunc Push() {\n}\n",
        );
        check(
            Language::C,
            "int f(void)\n{\n$0}\n",
            "Does nothing.",
            "/**\n * Does nothing.\n */\nint f(void)\n{\n}\n",
        );
        check(
            Language::Lua,
            "function f()\n$0end\n",
            "Does nothing.\nfunc",
            "--- Does nothing.\nfunction f()\nend\n",
        );
        for nothing in ["", "\"\"\"", "...", "\n\n", "-- 1"] {
            check(Language::Python, "def f():\n    pass$0\n", nothing, "def f():\n    pass\n");
        }
        check(Language::Go, "func Push() {\n$0}\n", "\nfunc Push", "func Push() {\n}\n");
    }

    #[test]
    fn what_has_documentation_or_no_place_gets_none() {
        for (language, text) in [
            (Language::Python, "def f():\n    '''Doc.'''\n"),
            (Language::Python, "def f(): pass\n"),
            (Language::Rust, "/// Doc.\nfn f() {}\n"),
        ] {
            assert_eq!(Writing::of(&around(text, text.len() - 1, language).unwrap(), language), None);
        }
    }
}
