//! How languages write documentation. Pure.

use crate::decode::stop::{Passage, Syntax};

/// A family of languages whose definitions are found alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    /// Python: blocks are indented, documentation is the first string of a block.
    Python,
    /// Rust.
    Rust,
    /// TypeScript, JavaScript and their dialects.
    Script,
    /// Go.
    Go,
    /// C and what writes functions like it: C++, Java, C#.
    C,
    /// Lua: blocks end with `end`.
    Lua,
    /// Any other: nothing is known of its definitions.
    Other,
}

/// How documentation is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comment {
    /// A string at the start of the block.
    Docstring,
    /// Lines before the definition, each with this at its start.
    Lines(&'static str),
    /// From `/**` to `*/` before the definition.
    Block,
}

impl Language {
    /// Of a document that an editor calls `id`, or else whose name says it.
    pub fn of(id: &str, path: &str) -> Self {
        let by_id = match id {
            "python" => Self::Python,
            "rust" => Self::Rust,
            "javascript" | "javascriptreact" | "typescript" | "typescriptreact" => Self::Script,
            "go" => Self::Go,
            "c" | "cpp" | "java" | "csharp" | "objective-c" | "cuda-cpp" => Self::C,
            "lua" => Self::Lua,
            _ => Self::Other,
        };
        if by_id != Self::Other {
            return by_id;
        }
        match path.rsplit_once('.').map_or("", |(_, extension)| extension) {
            "py" | "pyi" => Self::Python,
            "rs" => Self::Rust,
            "js" | "jsx" | "ts" | "tsx" | "mjs" | "cjs" | "mts" | "cts" => Self::Script,
            "go" => Self::Go,
            "c" | "h" | "cc" | "cpp" | "cxx" | "hpp" | "java" | "cs" | "cu" => Self::C,
            "lua" => Self::Lua,
            _ => Self::Other,
        }
    }

    /// How it writes comments and strings.
    pub fn syntax(self) -> Syntax {
        let path = match self {
            Self::Python => "a.py",
            Self::Rust => "a.rs",
            Self::Script => "a.ts",
            Self::Go => "a.go",
            Self::C => "a.c",
            Self::Lua => "a.lua",
            Self::Other => return Syntax::UNKNOWN,
        };
        Syntax::of(Some(path))
    }

    /// How it writes documentation.
    pub fn comment(self) -> Comment {
        match self {
            Self::Python => Comment::Docstring,
            Self::Rust => Comment::Lines("///"),
            Self::Go | Self::Other => Comment::Lines("//"),
            Self::Lua => Comment::Lines("---"),
            Self::Script | Self::C => Comment::Block,
        }
    }
}

impl Comment {
    /// Where the text of a comment ends that was begun.
    pub fn passage(self) -> Passage {
        match self {
            Self::Docstring => Passage::Until("\"\"\""),
            Self::Lines(mark) => Passage::Lines(mark),
            Self::Block => Passage::Until("*/"),
        }
    }
}
