//! The table of languages. A new language is added here: its file names and identifiers, its syntax (see
//! [`families`]), its blocks, its definitions and their documentation.

use super::families;
use super::syntax::Syntax;

/// A programming language, or another kind of text.
#[derive(Clone, Copy, Debug)]
pub struct Language {
    pub name: &'static str,
    /// File extensions and names in lower case, separated by spaces.
    pub files: &'static str,
    /// Its language identifiers in the Language Server Protocol, separated by spaces.
    pub ids: &'static str,
    /// Comments, strings and other literals.
    pub syntax: &'static Syntax,
    /// Block delimiters.
    pub blocks: Blocks,
    /// How to recognise definitions, if they are supported.
    pub definitions: Option<Definitions>,
}

/// The delimiters of blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blocks {
    /// Braces.
    Braces,
    /// A colon at the end of a line opens a block, indentation delimits it.
    Indentation,
    /// Keywords open and close a block; where `close` is empty, indentation delimits it.
    Words {
        /// Words that open a block, separated by spaces.
        open: &'static str,
        /// Words that close one, separated by spaces.
        close: &'static str,
    },
    /// Parentheses.
    Parentheses,
    /// Tags.
    Tags,
    /// No blocks.
    None,
}

/// How definitions and their documentation are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Definitions {
    /// The layout of the first line.
    pub layout: Layout,
    /// Keywords before the name, separated by spaces.
    pub keywords: &'static str,
    /// Keywords that may precede those, separated by spaces.
    pub modifiers: &'static str,
    pub documentation: Documentation,
}

/// The layout of the first line of a definition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Modifiers, a keyword and the name.
    Keyword,
    /// Like Rust: modifiers may have arguments, as in `pub(crate)` and `extern "C"`.
    Rust,
    /// Like TypeScript: also methods without a keyword, and functions bound to a name.
    Script,
    /// Like Go: a receiver may precede the name.
    Go,
    /// Like C: a type and a name with parameters.
    C,
    /// Like Lua: names are paths, and functions may be assigned to them.
    Lua,
}

/// The form of documentation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Documentation {
    /// A string at the start of the block.
    Docstring,
    /// Lines before the definition, each with this prefix.
    Lines(&'static str),
    /// From `/**` to `*/` before the definition.
    Block,
}

impl Language {
    /// The language of unknown files.
    pub const UNKNOWN: &Self = &language("Unknown", "", "", &families::UNKNOWN, Blocks::Braces);

    /// The language of a file, by its name.
    pub fn of_path(path: Option<&str>) -> &'static Self {
        let name = path.and_then(|path| path.rsplit(['/', '\\']).next()).unwrap_or_default().to_lowercase();
        let extension = name.rsplit_once('.').map_or(&*name, |(_, extension)| extension);
        let of = |file: &str| LANGUAGES.iter().find(|language| has(language.files, file));
        of(&name).or_else(|| of(extension)).unwrap_or(Self::UNKNOWN)
    }

    /// The language with the identifier `id`, or else by the name of the file.
    pub fn of(id: &str, path: &str) -> &'static Self {
        let by_id = LANGUAGES.iter().find(|language| has(language.ids, id));
        by_id.unwrap_or_else(|| Self::of_path(Some(path)))
    }

    /// Whether both have the same rules for definitions.
    pub fn is_like(&self, other: &Self) -> bool {
        self.definitions == other.definitions
    }

    const fn with(self, definitions: Definitions) -> Self {
        Self { definitions: Some(definitions), ..self }
    }
}

/// Whether `word` is one of `words`, which are separated by spaces.
pub fn has(words: &str, word: &str) -> bool {
    words.split(' ').any(|one| one == word && !one.is_empty())
}

const fn language(
    name: &'static str,
    files: &'static str,
    ids: &'static str,
    syntax: &'static Syntax,
    blocks: Blocks,
) -> Language {
    Language { name, files, ids, syntax, blocks, definitions: None }
}

const PYTHON: Definitions = Definitions {
    layout: Layout::Keyword,
    keywords: "def class",
    modifiers: "async",
    documentation: Documentation::Docstring,
};
const RUST: Definitions = Definitions {
    layout: Layout::Rust,
    keywords: "fn struct enum trait union mod type const static macro_rules",
    modifiers: "pub default async unsafe extern const mut",
    documentation: Documentation::Lines("///"),
};
const SCRIPT: Definitions = Definitions {
    layout: Layout::Script,
    keywords: "function class interface enum type namespace",
    modifiers: "export default declare abstract async public private protected static readonly override get set",
    documentation: Documentation::Block,
};
const GO: Definitions = Definitions {
    layout: Layout::Go,
    keywords: "func type",
    modifiers: "",
    documentation: Documentation::Lines("//"),
};
const C: Definitions = Definitions {
    layout: Layout::C,
    keywords: "struct enum union class interface namespace",
    modifiers: "typedef static const public private protected abstract final",
    documentation: Documentation::Block,
};
const LUA: Definitions = Definitions {
    layout: Layout::Lua,
    keywords: "function",
    modifiers: "local",
    documentation: Documentation::Lines("---"),
};

const BRACES: Blocks = Blocks::Braces;
const COLON: Blocks = Blocks::Indentation;
const PARENTHESES: Blocks = Blocks::Parentheses;
const TAGS: Blocks = Blocks::Tags;
const NONE: Blocks = Blocks::None;

/// Blocks that end with `end`.
const fn until_end(open: &'static str) -> Blocks {
    Blocks::Words { open, close: "end" }
}

const fn words(open: &'static str, close: &'static str) -> Blocks {
    Blocks::Words { open, close }
}

const RUBY: &str =
    "def class module do begin if unless case while until for then else elsif ensure rescue when";
const SHELL: &str = "then do else in";
const ML: &str = "= -> begin do else function of object sig struct then with";
const VERILOG: &str = "begin case function module task generate fork";
const SQL: &str = "begin case loop then else";
const BASIC: &str = "then else do for while sub function class module with select";

/// A file extension that several languages share belongs to the first.
#[rustfmt::skip]
pub static LANGUAGES: &[Language] = &[
    language("Rust", "rs", "rust", &families::RUST, BRACES).with(RUST),
    language("Python", "py pyi pyw", "python", &families::PYTHON, COLON).with(PYTHON),
    language("TypeScript", "ts mts cts", "typescript", &families::SCRIPT, BRACES).with(SCRIPT),
    language("TSX", "tsx", "typescriptreact", &families::SCRIPT, BRACES).with(SCRIPT),
    language("JavaScript", "js mjs cjs", "javascript", &families::SCRIPT, BRACES).with(SCRIPT),
    language("JSX", "jsx", "javascriptreact", &families::SCRIPT, BRACES).with(SCRIPT),
    language("Go", "go", "go", &families::GO, BRACES).with(GO),
    language("C", "c h", "c", &families::C, BRACES).with(C),
    language("C++", "cc cpp cxx hh hpp hxx metal", "cpp", &families::C, BRACES).with(C),
    language("CUDA", "cu cuh", "cuda-cpp", &families::C, BRACES).with(C),
    language("Java", "java", "java", &families::JAVA, BRACES).with(C),
    language("C#", "cs csx", "csharp", &families::C_SHARP, BRACES).with(C),
    language("Objective-C", "m mm", "objective-c objective-cpp", &families::C, BRACES).with(C),
    language("Lua", "lua", "lua", &families::LUA, until_end("function then do else repeat")).with(LUA),
    language("Kotlin", "kt kts", "kotlin", &families::KOTLIN, BRACES),
    language("Scala", "scala sc", "scala", &families::KOTLIN, BRACES),
    language("Swift", "swift", "swift", &families::SWIFT, BRACES),
    language("Dart", "dart", "dart", &families::DART, BRACES),
    language("Groovy", "groovy gradle", "groovy", &families::DART, BRACES),
    language("PHP", "php", "php", &families::PHP, BRACES),
    language("Zig", "zig zon", "zig", &families::ZIG, BRACES),
    language("D", "d di", "d", &families::D, BRACES),
    language("Protocol Buffers", "proto", "proto proto3", &families::C_LIKE, BRACES),
    language("Solidity", "sol", "solidity", &families::C_LIKE, BRACES),
    language("GLSL", "glsl vert frag comp hlsl wgsl", "glsl hlsl wgsl", &families::C_PLAIN, BRACES),
    language("Verilog", "v sv svh vh", "verilog systemverilog", &families::C_PLAIN, words(VERILOG, "end endcase endfunction endmodule endtask")),
    language("CSS", "css", "css", &families::CSS, BRACES),
    language("SCSS", "scss sass less", "scss sass less", &families::SCSS, BRACES),
    language("JSON", "json jsonc json5", "json jsonc json5", &families::C_PLAIN, BRACES),
    language("Terraform", "tf tfvars hcl", "terraform hcl", &families::HCL, BRACES),
    language("Nix", "nix", "nix", &families::NIX, BRACES),
    language("GraphQL", "graphql gql", "graphql", &families::GRAPHQL, BRACES),
    language("PowerShell", "ps1 psm1 psd1", "powershell", &families::POWERSHELL, BRACES),
    language("Perl", "pl pm", "perl", &families::PERL, BRACES),
    language("R", "r", "r", &families::R, BRACES),
    language("Ruby", "rb rake gemspec gemfile rakefile", "ruby", &families::RUBY, until_end(RUBY)),
    language("Crystal", "cr", "crystal", &families::RUBY, until_end(RUBY)),
    language("Elixir", "ex exs", "elixir", &families::ELIXIR, until_end("do else -> fn after rescue")),
    language("Julia", "jl", "julia", &families::JULIA, until_end("begin do else elseif for function if let module quote struct try while")),
    language("Nim", "nim nims", "nim", &families::NIM, words("= :", "")),
    language("Shell", "sh bash zsh fish", "shellscript fish", &families::SHELL, words(SHELL, "fi done esac end")),
    language("Makefile", "makefile mk gnumakefile", "makefile", &families::HASHES, words(":", "")),
    language("Dockerfile", "dockerfile containerfile", "dockerfile", &families::HASHES, NONE),
    language("CMake", "cmake cmakelists.txt", "cmake", &families::CMAKE, PARENTHESES),
    language("YAML", "yaml yml", "yaml", &families::YAML, COLON),
    language("TOML", "toml", "toml", &families::TOML, NONE),
    language("INI", "ini cfg properties editorconfig gitconfig", "ini properties", &families::INI, NONE),
    language("SQL", "sql", "sql", &families::SQL, until_end(SQL)),
    language("Haskell", "hs", "haskell", &families::HASKELL, words("where do of let then else = ->", "")),
    language("Elm", "elm", "elm", &families::HASKELL, words("of let in then else = ->", "")),
    language("Ada", "adb ads", "ada", &families::ADA, until_end("is begin loop then else declare record")),
    language("VHDL", "vhd vhdl", "vhdl", &families::ADA, until_end("is begin loop then else generate")),
    language("OCaml", "ml mli", "ocaml", &families::OCAML, words(ML, "end done")),
    language("F#", "fs fsi fsx", "fsharp", &families::F_SHARP, words(ML, "")),
    language("Pascal", "pas pp dpr lpr", "pascal objectpascal", &families::PASCAL, until_end("begin case record repeat then else do")),
    language("Fortran", "f90 f95 f03 f08", "fortran FortranFreeForm", &families::FORTRAN, until_end("do then else function module program subroutine")),
    language("Visual Basic", "vb bas", "vb", &families::BASIC, words(BASIC, "end next loop")),
    language("Lisp", "lisp lsp cl el", "lisp commonlisp elisp", &families::LISP, PARENTHESES),
    language("Scheme", "scm ss rkt", "scheme racket", &families::LISP, PARENTHESES),
    language("Clojure", "clj cljs cljc edn", "clojure", &families::CLOJURE, PARENTHESES),
    language("Erlang", "erl hrl", "erlang", &families::ERLANG, until_end("-> of case if fun begin receive try")),
    language("HTML", "html htm xhtml", "html", &families::MARKUP, TAGS),
    language("XML", "xml svg xsd xsl plist", "xml xsl", &families::MARKUP, TAGS),
    language("Vue", "vue svelte astro", "vue svelte astro", &families::UNKNOWN, TAGS),
    language("TeX", "tex sty cls bib", "latex tex bibtex", &families::TEX, NONE),
    language("Markdown", "md markdown mdx", "markdown mdx", &families::PROSE, NONE),
    language("Plain text", "txt rst adoc", "plaintext restructuredtext asciidoc", &families::PROSE, NONE),
];
