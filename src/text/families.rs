//! Families of languages.

use super::syntax::{After, Class, Close, Form, Pattern, Spacing, Span, Syntax};

const FORM: Form = Form {
    class: Class::String,
    open: Pattern::text(""),
    after: After::Any,
    close: Close::Line,
    escape: None,
    interpolation: "",
    span: Span::Line,
    nests: false,
};

/// A comment to the end of the line.
const fn line(open: &'static str) -> Form {
    Form { class: Class::Comment, open: Pattern::text(open), ..FORM }
}

/// A comment of any number of lines.
const fn block(open: &'static str, close: &'static str) -> Form {
    let close = Close::Pattern(Pattern::text(close));
    Form { class: Class::Comment, open: Pattern::text(open), close, span: Span::Lines, ..FORM }
}

/// A string with the same delimiter on both sides and backslash escapes.
const fn string(quote: &'static str) -> Form {
    between(quote, quote)
}

const fn between(open: &'static str, close: &'static str) -> Form {
    let close = Close::Pattern(Pattern::text(close));
    Form { open: Pattern::text(open), close, escape: Some('\\'), ..FORM }
}

/// A raw string of any number of lines, between delimiters with repetitions.
const fn raw(open: Pattern, close: Pattern) -> Form {
    Form { open, close: Close::Pattern(close), span: Span::Lines, ..FORM }
}

const fn heredoc(open: &'static str, spacing: Spacing) -> Form {
    let (open, close) = (Pattern::text(open), Close::Heredoc(spacing));
    Form { open, close, after: After::NoneOf("<"), span: Span::Lines, ..FORM }
}

const SLASHES: Form = line("//");
const HASH: Form = line("#");
const DASHES: Form = line("--");
const SEMICOLON: Form = line(";");
const PERCENT: Form = line("%");
const C_BLOCK: Form = block("/*", "*/");
const ML_BLOCK: Form = block("(*", "*)").nesting();
const MARKUP_COMMENT: Form = block("<!--", "-->");
const DOUBLE: Form = string("\"");
const SINGLE: Form = string("'");
const BACKQUOTE: Form = string("`");
const TRIPLE_DOUBLE: Form = string("\"\"\"").of_lines();
const TRIPLE_SINGLE: Form = string("'''").of_lines();
const CHARACTER: Form =
    Form { class: Class::Character, open: Pattern::text("'"), close: Close::Quote, ..FORM };
/// The same in languages with quotes in identifiers or as digit separators.
const CHARACTER_APART: Form = CHARACTER.after(After::NotWord);
const REGEX: Form = Form { class: Class::Regex, after: After::Operator, ..string("/") };

/// A backslash and the character it names.
const fn character_after(open: &'static str) -> Form {
    Form { class: Class::Character, open: Pattern::text(open), close: Close::Next, ..FORM }
}

const CODE: Syntax = Syntax { forms: &[], is_prose: false };

/// For unknown files: what most languages have, and nothing of several lines but triple quotes.
pub static UNKNOWN: Syntax = Syntax {
    forms: &[
        SLASHES,
        line("# "),
        line("-- ").after(After::Whitespace),
        TRIPLE_DOUBLE,
        TRIPLE_SINGLE,
        DOUBLE,
        BACKQUOTE,
        SINGLE.after(After::NoneOf("&<")),
    ],
    ..CODE
};

/// C, C++, Objective-C, CUDA: raw strings `R"tag(..)tag"`.
pub static C: Syntax = Syntax {
    forms: &[
        SLASHES,
        C_BLOCK,
        DOUBLE,
        CHARACTER_APART,
        Form {
            open: Pattern::text("R\""),
            after: After::NotWord,
            close: Close::Raw,
            span: Span::Lines,
            ..FORM
        },
    ],
    ..CODE
};

/// Comments like C's, strings in either quote.
pub static C_LIKE: Syntax = Syntax { forms: &[SLASHES, C_BLOCK, DOUBLE, SINGLE], ..CODE };

/// C#: verbatim strings `@".."`, raw ones in three quotes.
pub static C_SHARP: Syntax = Syntax {
    forms: &[
        SLASHES,
        C_BLOCK,
        TRIPLE_DOUBLE.unescaped(),
        DOUBLE,
        string("@\"").closed_by_quote(),
        string("@$\"").closed_by_quote(),
        string("$@\"").closed_by_quote(),
        CHARACTER,
    ],
    ..CODE
};

/// Rust: nested comments, raw strings, lifetimes.
pub static RUST: Syntax = Syntax {
    forms: &[
        SLASHES,
        C_BLOCK.nesting(),
        DOUBLE.mostly_a_line(),
        CHARACTER,
        raw(Pattern::filled("r", b'#', "\""), Pattern::filled("\"", b'#', "")).after(After::NotWord),
        raw(Pattern::filled("br", b'#', "\""), Pattern::filled("\"", b'#', "")).after(After::NotWord),
    ],
    ..CODE
};

/// JavaScript and TypeScript: templates with code in them, regular expressions.
pub static SCRIPT: Syntax = Syntax {
    forms: &[SLASHES, C_BLOCK, DOUBLE, SINGLE, BACKQUOTE.of_lines().with_hole("${"), REGEX],
    ..CODE
};

/// Go: raw strings in backquotes.
pub static GO: Syntax =
    Syntax { forms: &[SLASHES, C_BLOCK, DOUBLE, BACKQUOTE.of_lines().unescaped(), CHARACTER], ..CODE };

/// Java: text blocks.
pub static JAVA: Syntax = Syntax { forms: &[SLASHES, C_BLOCK, TRIPLE_DOUBLE, DOUBLE, CHARACTER], ..CODE };

/// Kotlin and Scala: nested comments, templates, names in backquotes.
pub static KOTLIN: Syntax = Syntax {
    forms: &[
        SLASHES,
        C_BLOCK.nesting(),
        TRIPLE_DOUBLE.unescaped().with_hole("${"),
        DOUBLE.with_hole("${"),
        CHARACTER_APART,
        BACKQUOTE.unescaped(),
    ],
    ..CODE
};

/// Swift: `\(..)` in strings, which may stand between any number of `#`.
pub static SWIFT: Syntax = Syntax {
    forms: &[
        SLASHES,
        C_BLOCK.nesting(),
        TRIPLE_DOUBLE.with_hole("\\("),
        DOUBLE.with_hole("\\("),
        raw(Pattern::filled("", b'#', "\""), Pattern::filled("\"", b'#', "")),
    ],
    ..CODE
};

/// Dart and Groovy: strings in either quote, also three of them, with templates.
pub static DART: Syntax = Syntax {
    forms: &[
        SLASHES,
        C_BLOCK,
        TRIPLE_DOUBLE.with_hole("${"),
        TRIPLE_SINGLE.with_hole("${"),
        DOUBLE.with_hole("${"),
        SINGLE.with_hole("${"),
    ],
    ..CODE
};

/// Zig: `\\` begins a line of a string.
pub static ZIG: Syntax =
    Syntax { forms: &[SLASHES, DOUBLE, CHARACTER, Form { open: Pattern::text("\\\\"), ..FORM }], ..CODE };

/// D: nested comments in `/+ +/`.
pub static D: Syntax = Syntax {
    forms: &[
        SLASHES,
        C_BLOCK,
        block("/+", "+/").nesting(),
        DOUBLE.mostly_a_line(),
        BACKQUOTE.of_lines().unescaped(),
        CHARACTER,
    ],
    ..CODE
};

/// PHP: `#` and a space, since `#[` is an attribute; heredocs.
pub static PHP: Syntax = Syntax {
    forms: &[
        SLASHES,
        line("# "),
        C_BLOCK,
        DOUBLE.mostly_a_line(),
        SINGLE.mostly_a_line(),
        BACKQUOTE,
        heredoc("<<<", Spacing::Free),
    ],
    ..CODE
};

/// Comments like C's and strings between double quotes, where a single quote is none: JSON with comments,
/// shaders, Verilog.
pub static C_PLAIN: Syntax = Syntax { forms: &[SLASHES, C_BLOCK, DOUBLE], ..CODE };

/// Style sheets.
pub static CSS: Syntax = Syntax { forms: &[C_BLOCK, DOUBLE, SINGLE], ..CODE };

/// SCSS and Less: `//` is no comment in an address.
pub static SCSS: Syntax =
    Syntax { forms: &[SLASHES.after(After::NoneOf(":")), C_BLOCK, DOUBLE, SINGLE], ..CODE };

/// Terraform: both kinds of comments, templates, heredocs.
pub static HCL: Syntax = Syntax {
    forms: &[HASH, SLASHES, C_BLOCK, DOUBLE.with_hole("${"), heredoc("<<", Spacing::Tight)],
    ..CODE
};

/// Python and similar languages.
pub static PYTHON: Syntax = Syntax { forms: &[HASH, TRIPLE_DOUBLE, TRIPLE_SINGLE, DOUBLE, SINGLE], ..CODE };

/// TOML: no escapes in single quotes.
pub static TOML: Syntax =
    Syntax { forms: &[HASH, TRIPLE_DOUBLE, TRIPLE_SINGLE.unescaped(), DOUBLE, SINGLE.unescaped()], ..CODE };

/// Julia: nested comments, characters; a quote after an operand transposes it.
pub static JULIA: Syntax = Syntax {
    forms: &[HASH, block("#=", "=#").nesting(), TRIPLE_DOUBLE, DOUBLE.mostly_a_line(), CHARACTER_APART],
    ..CODE
};

/// Nim: nested comments, characters.
pub static NIM: Syntax = Syntax {
    forms: &[HASH, block("#[", "]#").nesting(), TRIPLE_DOUBLE.unescaped(), DOUBLE, CHARACTER_APART],
    ..CODE
};

/// Ruby and Crystal: `#{..}` in strings, regular expressions, heredocs.
pub static RUBY: Syntax = Syntax {
    forms: &[
        HASH,
        block("=begin", "\n=end").after(After::OneOf("\n")),
        DOUBLE.mostly_a_line().with_hole("#{"),
        SINGLE.mostly_a_line(),
        BACKQUOTE,
        REGEX,
        heredoc("<<", Spacing::Tight),
    ],
    ..CODE
};

/// Elixir: `#{..}` in strings, regular expressions after `~r`.
pub static ELIXIR: Syntax = Syntax {
    forms: &[
        HASH,
        TRIPLE_DOUBLE.with_hole("#{"),
        TRIPLE_SINGLE,
        DOUBLE.mostly_a_line().with_hole("#{"),
        SINGLE,
        Form { class: Class::Regex, ..between("~r/", "/") },
    ],
    ..CODE
};

/// Shells: `#` begins a comment after whitespace, no escapes in single quotes, heredocs.
pub static SHELL: Syntax = Syntax {
    forms: &[
        HASH.after(After::OneOf(" \n;(")),
        DOUBLE.mostly_a_line().with_hole("$(").after(After::NoneOf("\\")),
        SINGLE.mostly_a_line().unescaped().after(After::NoneOf("\\")),
        between("$'", "'"),
        heredoc("<<", Spacing::Free),
    ],
    ..CODE
};

/// Makefiles, Dockerfiles and other files of lines: `#` after whitespace.
pub static HASHES: Syntax =
    Syntax { forms: &[HASH.after(After::Whitespace), DOUBLE, SINGLE.after(After::NotWord)], ..CODE };

/// YAML: a quote begins a string only where a value begins.
pub static YAML: Syntax = Syntax {
    forms: &[
        HASH.after(After::Whitespace),
        DOUBLE.mostly_a_line().after(After::OneOf(" \n[{(,:")),
        SINGLE.mostly_a_line().unescaped().after(After::OneOf(" \n[{(,:")),
    ],
    ..CODE
};

/// INI and similar files: apostrophes are text.
pub static INI: Syntax =
    Syntax { forms: &[HASH.after(After::Whitespace), SEMICOLON.after(After::OneOf("\n")), DOUBLE], ..CODE };

/// CMake: bracket comments and arguments.
pub static CMAKE: Syntax = Syntax {
    forms: &[
        HASH,
        Form {
            class: Class::Comment,
            ..raw(Pattern::filled("#[", b'=', "["), Pattern::filled("]", b'=', "]"))
        },
        raw(Pattern::filled("[", b'=', "["), Pattern::filled("]", b'=', "]")),
        DOUBLE.mostly_a_line(),
    ],
    ..CODE
};

/// Perl: a quote in a name separates packages; regular expressions, heredocs.
pub static PERL: Syntax = Syntax {
    forms: &[
        HASH.after(After::Whitespace),
        DOUBLE.mostly_a_line(),
        SINGLE.mostly_a_line().after(After::NotWord),
        BACKQUOTE,
        REGEX,
        heredoc("<<", Spacing::Tight),
    ],
    ..CODE
};

/// R.
pub static R: Syntax =
    Syntax { forms: &[HASH, DOUBLE.mostly_a_line(), SINGLE.mostly_a_line(), BACKQUOTE], ..CODE };

/// Nix: strings between two single quotes.
pub static NIX: Syntax = Syntax {
    forms: &[
        HASH,
        C_BLOCK,
        DOUBLE.mostly_a_line().with_hole("${"),
        string("''").unescaped().of_lines().with_hole("${"),
    ],
    ..CODE
};

/// PowerShell: a backquote escapes; strings of several lines between `@"` and `"@`.
pub static POWERSHELL: Syntax = Syntax {
    forms: &[
        HASH.after(After::NoneOf("`")),
        block("<#", "#>"),
        Form { escape: Some('`'), ..DOUBLE.mostly_a_line().with_hole("$(") },
        SINGLE.mostly_a_line().unescaped(),
        between("@\"", "\n\"@").unescaped().of_lines(),
        between("@'", "\n'@").unescaped().of_lines(),
    ],
    ..CODE
};

/// GraphQL.
pub static GRAPHQL: Syntax = Syntax { forms: &[HASH, TRIPLE_DOUBLE, DOUBLE], ..CODE };

/// Lua: long brackets around comments and strings.
pub static LUA: Syntax = Syntax {
    forms: &[
        DASHES,
        Form {
            class: Class::Comment,
            ..raw(Pattern::filled("--[", b'=', "["), Pattern::filled("]", b'=', "]"))
        },
        raw(Pattern::filled("[", b'=', "["), Pattern::filled("]", b'=', "]")),
        DOUBLE,
        SINGLE,
    ],
    ..CODE
};

/// SQL: quotes are doubled, not escaped; bodies of functions between `$$`.
pub static SQL: Syntax = Syntax {
    forms: &[
        DASHES,
        C_BLOCK,
        SINGLE.mostly_a_line().unescaped(),
        DOUBLE.unescaped(),
        BACKQUOTE.unescaped(),
        string("$$").unescaped().of_lines(),
    ],
    ..CODE
};

/// Haskell and Elm: names may end in quotes.
pub static HASKELL: Syntax =
    Syntax { forms: &[DASHES, block("{-", "-}").nesting(), DOUBLE, CHARACTER_APART], ..CODE };

/// Ada and VHDL: a quote after a name begins an attribute; quotes are doubled.
pub static ADA: Syntax = Syntax { forms: &[DASHES, DOUBLE.unescaped(), CHARACTER_APART], ..CODE };

/// OCaml: nested comments, type variables, `{|..|}`.
pub static OCAML: Syntax = Syntax {
    forms: &[ML_BLOCK, DOUBLE.mostly_a_line(), CHARACTER_APART, between("{|", "|}").unescaped().of_lines()],
    ..CODE
};

/// F#: comments of ML and of C.
pub static F_SHARP: Syntax = Syntax {
    forms: &[
        SLASHES,
        ML_BLOCK,
        TRIPLE_DOUBLE.unescaped(),
        DOUBLE.mostly_a_line(),
        string("@\"").closed_by_quote(),
        CHARACTER_APART,
    ],
    ..CODE
};

/// Pascal: comments in braces; quotes are doubled.
pub static PASCAL: Syntax =
    Syntax { forms: &[SLASHES, block("{", "}"), block("(*", "*)"), SINGLE.unescaped()], ..CODE };

/// Fortran: quotes are doubled.
pub static FORTRAN: Syntax = Syntax { forms: &[line("!"), DOUBLE.unescaped(), SINGLE.unescaped()], ..CODE };

/// Visual Basic: a quote begins a comment.
pub static BASIC: Syntax = Syntax { forms: &[line("'"), DOUBLE.unescaped()], ..CODE };

/// Lisp and Scheme: a quote is not a string; characters after `#\`.
pub static LISP: Syntax = Syntax {
    forms: &[SEMICOLON, block("#|", "|#").nesting(), DOUBLE.mostly_a_line(), character_after("#\\")],
    ..CODE
};

/// Clojure: characters after a backslash.
pub static CLOJURE: Syntax =
    Syntax { forms: &[SEMICOLON, DOUBLE.mostly_a_line(), character_after("\\")], ..CODE };

/// Erlang: atoms in single quotes, characters after `$`.
pub static ERLANG: Syntax =
    Syntax { forms: &[PERCENT, DOUBLE.mostly_a_line(), SINGLE, character_after("$")], ..CODE };

/// HTML, XML and templates of components: strings are values of attributes, the rest is prose.
pub static MARKUP: Syntax = Syntax {
    forms: &[
        MARKUP_COMMENT,
        DOUBLE.unescaped().mostly_a_line().after(After::OneOf("=")),
        SINGLE.unescaped().mostly_a_line().after(After::OneOf("=")),
    ],
    is_prose: true,
};

/// TeX.
pub static TEX: Syntax = Syntax { forms: &[PERCENT.after(After::NoneOf("\\"))], is_prose: true };

/// Markdown and plain text: quotes and apostrophes are text.
pub static PROSE: Syntax = Syntax { forms: &[MARKUP_COMMENT], is_prose: true };

impl Form {
    const fn after(self, after: After) -> Self {
        Self { after, ..self }
    }

    const fn with_hole(self, interpolation: &'static str) -> Self {
        Self { interpolation, ..self }
    }

    const fn nesting(self) -> Self {
        Self { nests: true, ..self }
    }

    const fn unescaped(self) -> Self {
        Self { escape: None, ..self }
    }

    const fn mostly_a_line(self) -> Self {
        Self { span: Span::MostlyLine, ..self }
    }

    const fn of_lines(self) -> Self {
        Self { span: Span::Lines, ..self }
    }

    /// A string whose opener is longer than the quote that ends it, in which quotes are doubled.
    const fn closed_by_quote(self) -> Self {
        Self { close: Close::Pattern(Pattern::text("\"")), ..self.unescaped().of_lines() }
    }
}

impl Pattern {
    const fn text(tail: &'static str) -> Self {
        Self { head: "", fill: None, tail }
    }

    const fn filled(head: &'static str, fill: u8, tail: &'static str) -> Self {
        Self { head, fill: Some(fill), tail }
    }
}
