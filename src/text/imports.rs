//! The imports at the head of a document: what the rest of it refers to by name.

use super::delimiters::Delimiters;
use super::language::Language;
use super::lexer::Lexer;
use super::words::has;

/// How much of the start of a document is read, in bytes.
const BYTES_MAX: usize = 1 << 14;
/// Most lines of one import.
const LINES_MAX: usize = 40;

/// The imports at the start of `text`, a document or its beginning, each with all its lines and their ends. They begin at
/// the start of a line, in code.
pub fn imports<'a>(language: &'static Language, text: &'a str) -> Vec<&'a str> {
    let mut imports = Vec::new();
    if language.imports.is_empty() {
        return imports;
    }
    let floor = text.len().min(BYTES_MAX);
    let head = &text[..(0..=floor).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0)];
    let mut delimiters = Delimiters::new(Lexer::new(language.syntax), "");
    // The import that has begun, and its lines.
    let mut begun: Option<(usize, usize)> = None;
    let mut start = 0;
    for line in head.split_inclusive('\n') {
        let end = start + line.len();
        let begins = delimiters.open().is_empty() && !delimiters.lexer().is_inside();
        if begun.is_none() && begins && is_import(language, line) {
            begun = Some((start, 0));
        }
        delimiters.read_all(line);
        if let Some((first, lines)) = begun {
            let is_open = !delimiters.open().is_empty() || line.trim_end().ends_with('\\');
            begun = (is_open && lines < LINES_MAX).then_some((first, lines + 1));
            if !is_open && line.ends_with('\n') {
                imports.push(&text[first..end]);
            }
        }
        start = end;
    }
    imports
}

/// Whether `line` begins one.
fn is_import(language: &Language, line: &str) -> bool {
    let line = line.strip_prefix("pub ").unwrap_or(line);
    let is_end = |c: char| c.is_whitespace() || "(<\"';{".contains(c);
    let end = line.char_indices().find(|&(at, c)| at > 0 && is_end(c)).map_or(line.len(), |(at, _)| at);
    let calls = language.imports.split(' ').filter(|word| word.ends_with('('));
    let is_call = |call: &str| line.contains(call);
    let is_statement = !line.starts_with(char::is_whitespace);
    is_statement && (has(language.imports, &line[..end]) || calls.into_iter().any(is_call))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn imports_are_found_in_each_language() {
        for (path, text, expected) in [
            ("a.py", "\"\"\"\nimport a\n\"\"\"\nimport b\nfrom c import (\n    d,\n)\nx = 1\n", 2),
            (
                "a.rs",
                "//! use a;\nuse b::{\n    c,\n};\npub use d;\nmod e;\npub fn f() {\n    use g;\n}\n",
                3,
            ),
            ("a.c", "/*\n#include <a>\n*/\n#include <b.h>\n#include \"c.h\"\nint d;\n", 2),
            ("a.go", "package a\n\nimport (\n\t\"b\"\n)\n\nfunc c() {}\n", 2),
            ("a.ts", "import { a } from 'b';\nconst c = require('d');\nconst e = 1;\n", 2),
            ("A.java", "package a;\n\nimport b.C;\nclass D {}\n", 2),
            ("a.lua", "local a = require(\"b\")\nlocal c = 1\n", 1),
            ("a.rb", "require 'a'\nrequire_relative 'b'\ndef c; end\n", 2),
            ("a.clj", "(ns a\n  (:require [b]))\n(defn c [])\n", 1),
            ("a.hs", "module A where\nimport B\nc = 1\n", 2),
            ("a.scss", "@use 'a';\n.b {}\n", 1),
            ("a.md", "import a\n", 0),
            ("a", "import a\n", 0),
        ] {
            let found = imports(Language::of_path(Some(path)), text);
            assert_eq!(found.len(), expected, "{path} {found:?}");
        }
    }

    #[test]
    fn an_import_has_all_its_lines() {
        let language = Language::of_path(Some("a.py"));
        let text = "from a import (\n    b,\n    c,\n)\nimport d, \\\n    e\n\nimport f";
        assert_eq!(
            imports(language, text),
            ["from a import (\n    b,\n    c,\n)\n", "import d, \\\n    e\n"],
            "the last line is not complete"
        );
        let far = format!("{}import a\n", "x = 1\n".repeat(4000));
        assert_eq!(imports(language, &far), [""; 0], "what is far from the start is not read");
        let unclosed = format!("import (\n{}import b\n", "    a,\n".repeat(50));
        assert_eq!(imports(Language::of_path(Some("a.go")), &unclosed), [""; 0]);
    }
}
