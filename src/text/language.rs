//! The table of languages. A new language is added here: its file names and identifiers, its syntax (see
//! [`families`]), its blocks, its imports, its definitions and their documentation.

use super::blocks::{Blocks, Expected, PYTHON_HEADS};
use super::delimiters::opener_of;
use super::syntax::Syntax;
use super::words::has;
use super::{families, heads, tags};

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
    /// Words that imports begin with, separated by spaces; one that ends with a parenthesis may stand anywhere in its line.
    pub imports: &'static str,
    /// How to recognise definitions, if they are supported.
    pub definitions: Option<Definitions>,
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
    pub const UNKNOWN: &Self = &language("Unknown", "", "", &families::UNKNOWN, Blocks::Any);

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

    /// Whether documentation is in strings, which are indented like code.
    pub fn has_docstrings(&self) -> bool {
        self.definitions.is_some_and(|definitions| definitions.documentation == Documentation::Docstring)
    }

    /// Whether `line`, which begins in code, begins a statement at the top level or a comment there: it is not indented, and
    /// closes nothing.
    pub fn begins_statement(&self, line: &str) -> bool {
        match self.blocks {
            // Other lines are text of strings, which are not indented either.
            Blocks::Parentheses { .. } => line.starts_with(['(', '[', '{', ';', '#']),
            _ => line.starts_with(|c: char| !c.is_whitespace() && opener_of(c).is_none()),
        }
    }

    /// Whether its formatter indents by tabs.
    pub(super) fn indents_by_tabs(&self) -> bool {
        self.definitions.is_some_and(|definitions| definitions.layout == Layout::Go)
    }

    /// Whether there may be code between fences.
    pub fn has_fences(&self) -> bool {
        self.name == "Markdown"
    }

    /// Whether tags may begin a line of code.
    pub(super) fn has_tags(&self) -> bool {
        self.definitions.is_some_and(|definitions| definitions.layout == Layout::Script)
    }

    /// Whether `line` opens a block by a word, a sign or a tag.
    pub(super) fn opens_by_words(&self, line: &str) -> bool {
        let opens_tag = || (self.has_tags() || self.blocks == Blocks::Tags) && tags::opens(line);
        heads::opens(self.blocks, line, Expected::Below) || opens_tag()
    }

    const fn importing(self, imports: &'static str) -> Self {
        Self { imports, ..self }
    }

    const fn with(self, definitions: Definitions) -> Self {
        Self { definitions: Some(definitions), ..self }
    }
}

const fn language(
    name: &'static str,
    files: &'static str,
    ids: &'static str,
    syntax: &'static Syntax,
    blocks: Blocks,
) -> Language {
    Language { name, files, ids, syntax, blocks, imports: "", definitions: None }
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

const BRACES: Blocks = braces("");
const TAGS: Blocks = Blocks::Tags;
const NONE: Blocks = Blocks::None;

const fn braces(last: &'static str) -> Blocks {
    Blocks::Braces { last }
}

const fn words(first: &'static str, last: &'static str, close: &'static str) -> Blocks {
    Blocks::Words { first, last, close, ignores_case: false }
}

const fn in_any_case(blocks: Blocks) -> Blocks {
    match blocks {
        Blocks::Words { first, last, close, .. } => Blocks::Words { first, last, close, ignores_case: true },
        other => other,
    }
}

const LUA_BLOCKS: Blocks = words("function", "then do else repeat", "end until");
const RUBY: Blocks = words(
    "def class module begin if unless elsif case when while until for else ensure rescue in",
    "do then else ensure rescue begin",
    "end",
);
const ELIXIR: Blocks = words("", "do else -> after rescue catch = |>", "end");
const JULIA: Blocks = words(
    "begin do else elseif for function if let macro module baremodule mutable quote struct try catch finally while",
    "begin do else let quote try finally =",
    "end",
);
const SHELL: Blocks = words("", "then do else in )", "fi done esac");
const FISH: Blocks = words("begin case else for function if switch while", "", "end");
const HASKELL: Blocks = words("", "where do mdo rec of let then else in = -> <- $ =>", "");
const ML: Blocks = words("", "= -> begin do else function of object sig struct then try with in", "end done");
const F_SHARP: Blocks = words("", "= -> begin do else function of struct then try with", "");
const NIM: Blocks = words("", ": = object enum tuple type var let const using", "");
const VERILOG: Blocks = words(
    "module interface package class program function task case casez casex generate fork begin",
    "begin case fork generate else",
    "end endcase endclass endfunction endgenerate endinterface endmodule endpackage endtask join",
);
const SQL: Blocks = in_any_case(words(
    "begin case declare",
    "begin loop then else select from where set declare as case values and or on $$",
    "end",
));
const ADA: Blocks = in_any_case(words(
    "",
    "is begin loop then else declare record generate exception private process do => units protected",
    "end",
));
const PASCAL: Blocks = in_any_case(words(
    "case class record repeat try",
    "begin record repeat then else do of try finally except var const type uses interface class",
    "end until",
));
const FORTRAN: Blocks = in_any_case(words(
    "block do else function module program subroutine interface contains select case submodule type",
    "then else contains",
    "end enddo endif endfunction endmodule endprogram endsubroutine",
));
const BASIC: Blocks = in_any_case(words(
    "case class do else elseif enum for function get interface module namespace property select set structure sub try \
     catch while with",
    "then else do",
    "end next loop wend",
));
const CMAKE: Blocks = in_any_case(words(
    "if else elseif foreach function macro while",
    "",
    "endif endforeach endfunction endmacro endwhile",
));
const ERLANG: Blocks = words("", "-> of begin receive try after catch =", "end");
const YAML: Blocks = words("", ": | > |- >- |+ >+ -", "");
const LISP: Blocks = Blocks::Parentheses {
    heads: "def* let* labels flet macrolet when* unless if if-* cond condition-case case case* ecase typecase progn prog1 \
            save-* with-* while do dolist dotimes dolist loop lambda eval-when handler-case unwind-protect catch \
            multiple-value-bind destructuring-bind define* syntax-rules module parameterize match* begin for* ert-deftest \
            pcase* iter-* letrec*",
};
const CLOJURE: Blocks = Blocks::Parentheses {
    heads: "def* let* ns fn if if-* when* cond* case do doseq dotimes for loop while try catch finally binding with-* \
            testing are extend* reify proxy go go-loop ->* some->* as->",
};

/// A file extension that several languages share belongs to the first.
#[rustfmt::skip]
pub static LANGUAGES: &[Language] = &[
    language("Rust", "rs", "rust", &families::RUST, BRACES).importing("use mod extern").with(RUST),
    language("Python", "py pyi pyw", "python", &families::PYTHON, Blocks::Colon { first: PYTHON_HEADS }).importing("import from").with(PYTHON),
    language("TypeScript", "ts mts cts", "typescript", &families::SCRIPT, BRACES).importing("import require(").with(SCRIPT),
    language("TSX", "tsx", "typescriptreact", &families::SCRIPT, BRACES).importing("import require(").with(SCRIPT),
    language("JavaScript", "js mjs cjs", "javascript", &families::SCRIPT, BRACES).importing("import require(").with(SCRIPT),
    language("JSX", "jsx", "javascriptreact", &families::SCRIPT, BRACES).importing("import require(").with(SCRIPT),
    language("Go", "go", "go", &families::GO, BRACES).importing("package import").with(GO),
    language("C", "c h", "c", &families::C, BRACES).importing("#include #import").with(C),
    language("C++", "cc cpp cxx hh hpp hxx metal", "cpp", &families::C, BRACES).importing("#include #import import using module").with(C),
    language("CUDA", "cu cuh", "cuda-cpp", &families::C, BRACES).importing("#include").with(C),
    language("Java", "java", "java", &families::JAVA, BRACES).importing("package import").with(C),
    language("C#", "cs csx", "csharp", &families::C_SHARP, BRACES).importing("using namespace global").with(C),
    language("Objective-C", "m mm", "objective-c objective-cpp", &families::C, BRACES).importing("#include #import @import").with(C),
    language("Lua", "lua", "lua", &families::LUA, LUA_BLOCKS).importing("require(").with(LUA),
    language("Kotlin", "kt kts", "kotlin", &families::KOTLIN, braces("=")).importing("package import"),
    language("Scala", "scala sc", "scala", &families::KOTLIN, braces("= : then else do yield match with try finally")).importing("package import"),
    language("Swift", "swift", "swift", &families::SWIFT, BRACES).importing("import"),
    language("Dart", "dart", "dart", &families::DART, BRACES).importing("import export part library"),
    language("Groovy", "groovy gradle", "groovy", &families::DART, BRACES).importing("package import"),
    language("PHP", "php", "php", &families::PHP, BRACES).importing("namespace use require require_once include include_once"),
    language("Zig", "zig zon", "zig", &families::ZIG, BRACES).importing("@import("),
    language("D", "d di", "d", &families::D, BRACES).importing("module import"),
    language("Protocol Buffers", "proto", "proto proto3", &families::C_LIKE, BRACES).importing("syntax package import"),
    language("Solidity", "sol", "solidity", &families::C_LIKE, BRACES).importing("pragma import"),
    language("GLSL", "glsl vert frag comp hlsl wgsl", "glsl hlsl wgsl", &families::C_PLAIN, BRACES).importing("#include #version"),
    language("Verilog", "v sv svh vh", "verilog systemverilog", &families::C_PLAIN, VERILOG).importing("`include `define import"),
    language("CSS", "css", "css", &families::CSS, BRACES).importing("@import"),
    language("SCSS", "scss sass less", "scss sass less", &families::SCSS, BRACES).importing("@import @use @forward"),
    language("JSON", "json jsonc json5", "json jsonc json5", &families::C_PLAIN, BRACES),
    language("Terraform", "tf tfvars hcl", "terraform hcl", &families::HCL, BRACES),
    language("Nix", "nix", "nix", &families::NIX, BRACES),
    language("GraphQL", "graphql gql", "graphql", &families::GRAPHQL, BRACES),
    language("PowerShell", "ps1 psm1 psd1", "powershell", &families::POWERSHELL, BRACES).importing("using Import-Module"),
    language("Perl", "pl pm", "perl", &families::PERL, BRACES).importing("package use require"),
    language("R", "r", "r", &families::R, BRACES).importing("library( require( source("),
    language("Ruby", "rb rake gemspec gemfile rakefile", "ruby", &families::RUBY, RUBY).importing("require require_relative"),
    language("Crystal", "cr", "crystal", &families::RUBY, RUBY).importing("require"),
    language("Elixir", "ex exs", "elixir", &families::ELIXIR, ELIXIR).importing("import alias require use"),
    language("Julia", "jl", "julia", &families::JULIA, JULIA).importing("using import include("),
    language("Nim", "nim nims", "nim", &families::NIM, NIM).importing("import from include"),
    language("Shell", "sh bash zsh ksh", "shellscript", &families::SHELL, SHELL).importing("source ."),
    language("Fish", "fish", "fish", &families::SHELL, FISH).importing("source"),
    language("Makefile", "makefile mk gnumakefile", "makefile", &families::HASHES, Blocks::Recipes).importing("include"),
    language("Dockerfile", "dockerfile containerfile", "dockerfile", &families::HASHES, NONE),
    language("CMake", "cmake cmakelists.txt", "cmake", &families::CMAKE, CMAKE).importing("include( find_package("),
    language("YAML", "yaml yml", "yaml", &families::YAML, YAML),
    language("TOML", "toml", "toml", &families::TOML, NONE),
    language("INI", "ini cfg properties editorconfig gitconfig", "ini properties", &families::INI, NONE),
    language("SQL", "sql", "sql", &families::SQL, SQL),
    language("Haskell", "hs", "haskell", &families::HASKELL, HASKELL).importing("module import"),
    language("Elm", "elm", "elm", &families::HASKELL, HASKELL).importing("module import"),
    language("Ada", "adb ads", "ada", &families::ADA, ADA).importing("with use"),
    language("VHDL", "vhd vhdl", "vhdl", &families::ADA, ADA).importing("library use"),
    language("OCaml", "ml mli", "ocaml", &families::OCAML, ML).importing("open include"),
    language("F#", "fs fsi fsx", "fsharp", &families::F_SHARP, F_SHARP).importing("open module namespace"),
    language("Pascal", "pas pp dpr lpr", "pascal objectpascal", &families::PASCAL, PASCAL).importing("unit uses"),
    language("Fortran", "f90 f95 f03 f08", "fortran FortranFreeForm", &families::FORTRAN, FORTRAN).importing("use"),
    language("Visual Basic", "vb bas", "vb", &families::BASIC, BASIC).importing("Imports"),
    language("Lisp", "lisp lsp cl el", "lisp commonlisp elisp", &families::LISP, LISP).importing("(require (in-package (use-package"),
    language("Scheme", "scm ss rkt", "scheme racket", &families::LISP, LISP).importing("(import (require (use-modules #lang"),
    language("Clojure", "clj cljs cljc edn", "clojure", &families::CLOJURE, CLOJURE).importing("(ns (require (import"),
    language("Erlang", "erl hrl", "erlang", &families::ERLANG, ERLANG).importing("-module -include -include_lib -import"),
    language("HTML", "html htm xhtml", "html", &families::MARKUP, TAGS),
    language("XML", "xml svg xsd xsl plist", "xml xsl", &families::MARKUP, TAGS),
    language("Vue", "vue svelte astro", "vue svelte astro", &families::UNKNOWN, TAGS),
    language("TeX", "tex sty cls bib", "latex tex bibtex", &families::TEX, Blocks::Environments).importing("\\usepackage \\documentclass \\RequirePackage"),
    language("Markdown", "md markdown mdx", "markdown mdx", &families::PROSE, NONE),
    language("Plain text", "txt rst adoc", "plaintext restructuredtext asciidoc", &families::PROSE, NONE),
];
