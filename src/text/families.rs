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

/// A raw string with a tag and a parenthesis after its opener.
const fn raw_between_parentheses(open: &'static str) -> Form {
    Form { open: Pattern::text(open), after: After::NotWord, close: Close::Raw, span: Span::Lines, ..FORM }
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

/// A string with expressions in braces.
const fn f_string(open: &'static str) -> Form {
    let quote = if open.as_bytes()[1] == b'"' { DOUBLE } else { SINGLE };
    Form { open: Pattern::text(open), after: After::NotWord, ..quote.with_hole("{") }
}

/// A literal between delimiters of one's choice.
const fn delimited(open: &'static str, parts: u8) -> Form {
    let (open, close) = (Pattern::text(open), Close::Delimited { parts });
    Form { open, close, span: Span::Lines, ..FORM }
}

const fn delimited_regex(open: &'static str, parts: u8) -> Form {
    Form { class: Class::Regex, ..delimited(open, parts) }
}

/// Lines of documentation in Perl.
const fn pod(open: &'static str) -> Form {
    block(open, "\n=cut").after(After::OneOf("\n"))
}

/// A backslash and the character it names.
const fn character_after(open: &'static str) -> Form {
    Form { class: Class::Character, open: Pattern::text(open), close: Close::Next, ..FORM }
}

/// Where an apostrophe is none.
const APART: After = After::NoneOf("&<abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789");

/// For unknown files: what most languages have, and nothing of several lines but triple quotes.
pub static UNKNOWN: Syntax = Syntax::new(&[
    SLASHES,
    line("# "),
    line("-- ").after(After::Whitespace),
    TRIPLE_DOUBLE,
    TRIPLE_SINGLE,
    DOUBLE,
    BACKQUOTE,
    SINGLE.after(APART),
]);

/// C, C++, Objective-C, CUDA: raw strings `R"tag(..)tag"`.
pub static C: Syntax = Syntax::new(&[
    SLASHES,
    C_BLOCK,
    DOUBLE,
    CHARACTER_APART,
    raw_between_parentheses("R\""),
    raw_between_parentheses("LR\""),
    raw_between_parentheses("uR\""),
    raw_between_parentheses("UR\""),
    raw_between_parentheses("u8R\""),
]);

/// Comments like C's, strings in either quote.
pub static C_LIKE: Syntax = Syntax::new(&[SLASHES, C_BLOCK, DOUBLE, SINGLE]);

/// C#: verbatim strings `@".."`, expressions in `$".."`, raw strings in three quotes.
pub static C_SHARP: Syntax = Syntax::new(&[
    SLASHES,
    C_BLOCK,
    TRIPLE_DOUBLE.unescaped(),
    DOUBLE,
    between("$\"", "\"").with_hole("{"),
    string("@\"").closed_by_quote(),
    string("@$\"").closed_by_quote().with_hole("{"),
    string("$@\"").closed_by_quote().with_hole("{"),
    CHARACTER,
]);

/// Rust: nested comments, raw strings, lifetimes.
pub static RUST: Syntax = Syntax::new(&[
    SLASHES,
    C_BLOCK.nesting(),
    DOUBLE.mostly_a_line(),
    CHARACTER,
    raw(Pattern::filled("r", b'#', "\""), Pattern::filled("\"", b'#', "")).after(After::NotWord),
    raw(Pattern::filled("br", b'#', "\""), Pattern::filled("\"", b'#', "")).after(After::NotWord),
    raw(Pattern::filled("cr", b'#', "\""), Pattern::filled("\"", b'#', "")).after(After::NotWord),
]);

/// JavaScript and TypeScript: templates with code in them, regular expressions.
pub static SCRIPT: Syntax = Syntax::new(&[
    SLASHES,
    C_BLOCK,
    DOUBLE,
    SINGLE.after(APART),
    BACKQUOTE.of_lines().with_hole("${"),
    REGEX,
]);

/// Go: raw strings in backquotes.
pub static GO: Syntax = Syntax::new(&[SLASHES, C_BLOCK, DOUBLE, BACKQUOTE.of_lines().unescaped(), CHARACTER]);

/// Java: text blocks.
pub static JAVA: Syntax = Syntax::new(&[SLASHES, C_BLOCK, TRIPLE_DOUBLE, DOUBLE, CHARACTER]);

/// Kotlin and Scala: nested comments, templates, names in backquotes.
pub static KOTLIN: Syntax = Syntax::new(&[
    SLASHES,
    C_BLOCK.nesting(),
    TRIPLE_DOUBLE.unescaped().with_hole("${"),
    DOUBLE.with_hole("${"),
    CHARACTER_APART,
    BACKQUOTE.unescaped(),
]);

/// Swift: `\(..)` in strings, which may stand between any number of `#`.
pub static SWIFT: Syntax = Syntax::new(&[
    SLASHES,
    C_BLOCK.nesting(),
    TRIPLE_DOUBLE.with_hole("\\("),
    DOUBLE.with_hole("\\("),
    raw(Pattern::filled("", b'#', "\""), Pattern::filled("\"", b'#', "")),
]);

/// Dart and Groovy: strings in either quote, also three of them, with templates.
pub static DART: Syntax = Syntax::new(&[
    SLASHES,
    C_BLOCK,
    TRIPLE_DOUBLE.with_hole("${"),
    TRIPLE_SINGLE.with_hole("${"),
    DOUBLE.with_hole("${"),
    SINGLE.with_hole("${"),
]);

/// Zig: `\\` begins a line of a string.
pub static ZIG: Syntax =
    Syntax::new(&[SLASHES, DOUBLE, CHARACTER, Form { open: Pattern::text("\\\\"), ..FORM }]);

/// D: nested comments in `/+ +/`.
pub static D: Syntax = Syntax::new(&[
    SLASHES,
    C_BLOCK,
    block("/+", "+/").nesting(),
    DOUBLE.mostly_a_line(),
    BACKQUOTE.of_lines().unescaped(),
    CHARACTER,
]);

/// PHP: `#` and a space, since `#[` is an attribute; heredocs.
pub static PHP: Syntax = Syntax::new(&[
    SLASHES,
    line("# "),
    C_BLOCK,
    DOUBLE.mostly_a_line(),
    SINGLE.mostly_a_line(),
    BACKQUOTE,
    heredoc("<<<", Spacing::Free),
]);

/// Comments like C's and strings between double quotes, where a single quote is none: JSON with comments,
/// shaders, Verilog.
pub static C_PLAIN: Syntax = Syntax::new(&[SLASHES, C_BLOCK, DOUBLE]);

/// Style sheets.
pub static CSS: Syntax = Syntax::new(&[C_BLOCK, DOUBLE, SINGLE]);

/// SCSS and Less: `//` is no comment in an address.
pub static SCSS: Syntax = Syntax::new(&[SLASHES.after(After::NoneOf(":")), C_BLOCK, DOUBLE, SINGLE]);

/// Terraform: both kinds of comments, templates, heredocs.
pub static HCL: Syntax =
    Syntax::new(&[HASH, SLASHES, C_BLOCK, DOUBLE.with_hole("${"), heredoc("<<", Spacing::Tight)]);

/// Python and similar languages.
pub static PYTHON: Syntax =
    Syntax::new(&[HASH, TRIPLE_DOUBLE, TRIPLE_SINGLE, DOUBLE, SINGLE, f_string("f\""), f_string("f'")]);

/// TOML: no escapes in single quotes.
pub static TOML: Syntax =
    Syntax::new(&[HASH, TRIPLE_DOUBLE, TRIPLE_SINGLE.unescaped(), DOUBLE, SINGLE.unescaped()]);

/// Julia: nested comments, characters; a quote after an operand transposes it.
pub static JULIA: Syntax = Syntax::new(&[
    HASH,
    block("#=", "=#").nesting(),
    TRIPLE_DOUBLE.with_hole("$("),
    DOUBLE.mostly_a_line().with_hole("$("),
    CHARACTER.after(After::NotOperand),
]);

/// Nim: nested comments, characters.
pub static NIM: Syntax =
    Syntax::new(&[HASH, block("#[", "]#").nesting(), TRIPLE_DOUBLE.unescaped(), DOUBLE, CHARACTER_APART]);

/// Ruby and Crystal: `#{..}` in strings, regular expressions, heredocs.
pub static RUBY: Syntax = Syntax::new(&[
    HASH,
    block("=begin", "\n=end").after(After::OneOf("\n")),
    DOUBLE.mostly_a_line().with_hole("#{").after(After::NoneOf("$?")),
    SINGLE.mostly_a_line().after(After::NoneOf("$?")),
    BACKQUOTE.after(After::NoneOf("$")),
    REGEX.mostly_a_line(),
    delimited("%", 1).after(After::Operator),
    delimited("%w", 1),
    delimited("%W", 1),
    delimited("%i", 1),
    delimited("%I", 1),
    delimited("%q", 1),
    delimited("%Q", 1),
    delimited("%x", 1),
    delimited("%s", 1).after(After::Operator),
    delimited_regex("%r", 1),
    heredoc("<<", Spacing::Tight),
]);

/// Elixir: `#{..}` in strings, regular expressions after `~r`.
pub static ELIXIR: Syntax = Syntax::new(&[
    HASH,
    TRIPLE_DOUBLE.with_hole("#{"),
    TRIPLE_SINGLE,
    DOUBLE.mostly_a_line().with_hole("#{"),
    SINGLE,
    delimited_regex("~r", 1),
    delimited_regex("~R", 1),
    delimited("~s", 1),
    delimited("~S", 1),
    delimited("~w", 1),
    delimited("~W", 1),
    delimited("~c", 1),
    delimited("~C", 1),
    delimited("~H", 1),
    delimited("~p", 1),
    character_after("?").after(After::NotOperand),
]);

/// Shells: `#` begins a comment after whitespace, no escapes in single quotes, heredocs.
pub static SHELL: Syntax = Syntax::new(&[
    HASH.after(After::OneOf(" \n;(")),
    DOUBLE.mostly_a_line().with_hole("$("),
    SINGLE.mostly_a_line().unescaped(),
    character_after("\\"),
    between("$'", "'"),
    heredoc("<<", Spacing::Free),
]);

/// Makefiles, Dockerfiles and other files of lines: `#` after whitespace.
pub static HASHES: Syntax =
    Syntax::new(&[HASH.after(After::Whitespace), DOUBLE, SINGLE.after(After::NotWord)]);

/// YAML: a quote begins a string only where a value begins.
pub static YAML: Syntax = Syntax::new(&[
    HASH.after(After::Whitespace),
    DOUBLE.mostly_a_line().after(After::OneOf(" \n[{(,:")),
    SINGLE.mostly_a_line().unescaped().after(After::OneOf(" \n[{(,:")),
]);

/// INI and similar files: apostrophes are text.
pub static INI: Syntax =
    Syntax::new(&[HASH.after(After::Whitespace), SEMICOLON.after(After::OneOf("\n")), DOUBLE]);

/// CMake: bracket comments and arguments.
pub static CMAKE: Syntax = Syntax::new(&[
    HASH,
    Form { class: Class::Comment, ..raw(Pattern::filled("#[", b'=', "["), Pattern::filled("]", b'=', "]")) },
    raw(Pattern::filled("[", b'=', "["), Pattern::filled("]", b'=', "]")),
    DOUBLE.mostly_a_line(),
]);

/// What precedes a letter that is part of a name.
const NAMED: &str = "$@%&>-_abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";

/// Perl: a quote in a name separates packages; regular expressions, heredocs.
pub static PERL: Syntax = Syntax::new(&[
    HASH.after(After::Whitespace),
    DOUBLE.mostly_a_line().after(After::NoneOf("$")),
    SINGLE.mostly_a_line().after(After::NoneOf(NAMED)),
    BACKQUOTE.after(After::NoneOf("$")),
    REGEX,
    delimited("q", 1).after(After::NoneOf(NAMED)),
    delimited("qq", 1).after(After::NoneOf(NAMED)),
    delimited("qw", 1).after(After::NoneOf(NAMED)),
    delimited("qx", 1).after(After::NoneOf(NAMED)),
    delimited_regex("qr", 1).after(After::NoneOf(NAMED)),
    delimited_regex("m", 1).after(After::NoneOf(NAMED)),
    delimited_regex("s", 2).after(After::NoneOf(NAMED)),
    delimited_regex("tr", 2).after(After::NoneOf(NAMED)),
    delimited_regex("y", 2).after(After::NoneOf(NAMED)),
    pod("=pod"),
    pod("=head"),
    pod("=over"),
    pod("=item"),
    pod("=back"),
    pod("=begin"),
    pod("=encoding"),
    pod("=for"),
    heredoc("<<", Spacing::Tight),
]);

/// R.
pub static R: Syntax = Syntax::new(&[
    HASH,
    DOUBLE.mostly_a_line(),
    SINGLE.mostly_a_line(),
    BACKQUOTE,
    raw_between_parentheses("r\""),
    raw_between_parentheses("R\""),
]);

/// Nix: strings between two single quotes.
pub static NIX: Syntax = Syntax::new(&[
    HASH,
    C_BLOCK,
    DOUBLE.mostly_a_line().with_hole("${"),
    string("''").unescaped().of_lines().with_hole("${"),
]);

/// PowerShell: a backquote escapes; strings of several lines between `@"` and `"@`.
pub static POWERSHELL: Syntax = Syntax::new(&[
    HASH.after(After::NoneOf("`")),
    block("<#", "#>"),
    Form { escape: Some('`'), ..DOUBLE.mostly_a_line().with_hole("$(") },
    SINGLE.mostly_a_line().unescaped(),
    between("@\"", "\n\"@").unescaped().of_lines(),
    between("@'", "\n'@").unescaped().of_lines(),
]);

/// GraphQL.
pub static GRAPHQL: Syntax = Syntax::new(&[HASH, TRIPLE_DOUBLE, DOUBLE]);

/// Lua: long brackets around comments and strings.
pub static LUA: Syntax = Syntax::new(&[
    DASHES,
    Form { class: Class::Comment, ..raw(Pattern::filled("--[", b'=', "["), Pattern::filled("]", b'=', "]")) },
    raw(Pattern::filled("[", b'=', "["), Pattern::filled("]", b'=', "]")),
    DOUBLE,
    SINGLE,
]);

/// SQL: quotes are doubled, not escaped; bodies of functions between `$$` are code.
pub static SQL: Syntax = Syntax::new(&[
    DASHES,
    C_BLOCK,
    SINGLE.mostly_a_line().unescaped(),
    DOUBLE.unescaped(),
    BACKQUOTE.unescaped(),
]);

/// Haskell and Elm: names may end in quotes.
pub static HASKELL: Syntax = Syntax::new(&[
    DASHES.after(After::NoneOf("!#$%&*+./<=>?@^|~:")),
    block("{-", "-}").nesting(),
    TRIPLE_DOUBLE,
    DOUBLE,
    CHARACTER_APART,
]);

/// Ada and VHDL: a quote after a name begins an attribute; quotes are doubled.
pub static ADA: Syntax = Syntax::new(&[DASHES, DOUBLE.unescaped(), CHARACTER_APART]);

/// OCaml: nested comments, type variables, `{|..|}`.
pub static OCAML: Syntax = Syntax::new(&[
    ML_BLOCK,
    DOUBLE.mostly_a_line(),
    CHARACTER_APART,
    between("{|", "|}").unescaped().of_lines(),
]);

/// F#: comments of ML and of C.
pub static F_SHARP: Syntax = Syntax::new(&[
    SLASHES,
    ML_BLOCK,
    TRIPLE_DOUBLE.unescaped(),
    DOUBLE.mostly_a_line(),
    string("@\"").closed_by_quote(),
    CHARACTER_APART,
]);

/// Pascal: comments in braces; quotes are doubled.
pub static PASCAL: Syntax = Syntax::new(&[SLASHES, block("{", "}"), block("(*", "*)"), SINGLE.unescaped()]);

/// Fortran: quotes are doubled.
pub static FORTRAN: Syntax = Syntax::new(&[line("!"), DOUBLE.unescaped(), SINGLE.unescaped()]);

/// Visual Basic: a quote begins a comment.
pub static BASIC: Syntax = Syntax::new(&[line("'"), DOUBLE.unescaped()]);

/// Lisp and Scheme: a quote is not a string; characters after `#\`.
pub static LISP: Syntax = Syntax::new(&[
    SEMICOLON,
    block("#|", "|#").nesting(),
    DOUBLE.mostly_a_line(),
    character_after("#\\"),
    character_after("?\\").after(After::OneOf(" \n(['")),
]);

/// Clojure: characters after a backslash.
pub static CLOJURE: Syntax = Syntax::new(&[SEMICOLON, DOUBLE.mostly_a_line(), character_after("\\")]);

/// Erlang: atoms in single quotes, characters after `$`.
pub static ERLANG: Syntax =
    Syntax::new(&[PERCENT, TRIPLE_DOUBLE, DOUBLE.mostly_a_line(), SINGLE, character_after("$")]);

/// HTML, XML and templates of components: strings are values of attributes, the rest is prose.
pub static MARKUP: Syntax = Syntax::new(&[
    MARKUP_COMMENT,
    DOUBLE.unescaped().mostly_a_line().after(After::OneOf("=")),
    SINGLE.unescaped().mostly_a_line().after(After::OneOf("=")),
])
.of_prose();

/// TeX.
pub static TEX: Syntax = Syntax::new(&[PERCENT, character_after("\\")]).of_prose();

/// A line of three quotes or more.
const fn fence(open: &'static str) -> Form {
    Form { class: Class::Prose, open: Pattern::text(open), ..FORM }
}

/// Markdown and plain text: code in backquotes; other quotes and apostrophes are text.
pub static PROSE: Syntax =
    Syntax::new(&[MARKUP_COMMENT, BACKQUOTE.unescaped(), fence("```"), fence("~~~")]).of_prose();

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
