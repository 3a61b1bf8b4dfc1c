//! Heads of blocks: the lines that blocks are indented below.

use super::blocks::{Blocks, Expected, PYTHON_HEADS};
use super::words::{has, is_identifier};

/// Words that may precede one that opens a block.
const MODIFIERS: &str = "abstract async default export final inline local override private protected pub public pure \
                         recursive return static virtual";
/// Words that open a block wherever they stand.
const ANYWHERE: &str = "function fn fun func do begin";
/// Labels of a `switch`.
const LABELS: &str = "case default";

/// Whether `code`, a statement, opens a block.
pub(super) fn opens(blocks: Blocks, code: &str, expected: Expected) -> bool {
    let code = code.trim();
    match blocks {
        Blocks::Braces { last } => {
            let label = code.strip_suffix(':').unwrap_or_default();
            let is_label =
                has(LABELS, first_word(label)) || !label.is_empty() && label.chars().all(is_identifier);
            let is_arrow = code.ends_with("=>") || code.ends_with("->") || ends_with(code, last);
            let is_word = code.ends_with(is_identifier) && ends_with(code, last);
            opens_closure(code) || is_word || expected == Expected::Below && (is_label || is_arrow)
        }
        Blocks::Colon { first } => code.ends_with(':') && has(first, first_word(code)),
        Blocks::Words { first, last, close, ignores_case } => {
            let lower = if ignores_case { code.to_lowercase() } else { String::new() };
            let code = if ignores_case { lower.as_str() } else { code };
            let is_flat = close.is_empty() && first_word(code) == "module";
            !is_flat
                && (ends_with(without_parameters(code), last)
                    || begins_with(code, first, close)
                    || opens_closure(code))
        }
        Blocks::Recipes => is_target(code),
        Blocks::Environments => code.rfind("\\begin{") > code.rfind("\\end{"),
        Blocks::Any => {
            let is_head = |first| code.ends_with(':') && (has(first, first_word(code)));
            let words = ends_with(code, "then do else repeat") || begins_with(code, "function", "end");
            let is_arrow = code.ends_with("=>") || code.ends_with("->");
            is_head(PYTHON_HEADS) || words || expected == Expected::Below && is_arrow
        }
        Blocks::Parentheses { .. } | Blocks::Tags | Blocks::None => false,
    }
}

/// Whether the form after an opening parenthesis has a body, and is written up to that.
pub(super) fn is_lisp_head(form: &str, heads: &str) -> bool {
    let name = form.split(|c: char| c.is_whitespace() || "()[]{}".contains(c)).next().unwrap_or_default();
    let is_head = heads.split(' ').any(|head| match head.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => head == name,
    });
    is_head && form.trim_end().ends_with([')', ']'])
}

/// Whether `code` ends with one of `last`: words, or signs that are no part of a longer one.
fn ends_with(code: &str, last: &str) -> bool {
    last.split(' ').filter(|end| !end.is_empty()).any(|end| {
        let Some(before) = code.strip_suffix(end) else { return false };
        let previous = before.chars().next_back();
        match end {
            ")" => before.matches(')').count() >= before.matches('(').count(),
            "=" => !previous.is_some_and(|c| "=<>!:/~".contains(c)),
            ":" => previous != Some(':'),
            _ if end.starts_with(is_identifier) => {
                !previous.is_some_and(|c| is_identifier(c) || c == '.' || c == ':')
            }
            _ => true,
        }
    })
}

/// Whether a word of `first` begins a block in `code` that no word of `close` ends.
fn begins_with(code: &str, first: &str, close: &str) -> bool {
    let (mut depth, mut previous, mut opened) = (0, "", None);
    for word in code.split_inclusive(|c| !is_identifier(c)) {
        let (name, after) = match word.char_indices().next_back() {
            Some((at, c)) if !is_identifier(c) => (&word[..at], Some(c)),
            _ => (word, None),
        };
        if !name.is_empty() {
            if opened.is_some_and(|at| depth <= at) && has(close, name) {
                opened = None;
            }
            let is_free = previous.is_empty()
                || previous.ends_with(['=', '(', ',', ';', '{'])
                || has(MODIFIERS, previous) && !(previous == "return" && has("if unless while until", name))
                || has(ANYWHERE, name);
            let is_key = after == Some(':') || previous.ends_with(['.', ':']);
            if has(first, name) && is_free && !is_key && !has(close, previous) {
                opened = opened.or(Some(depth));
            }
            previous = name;
        }
        match after {
            Some('(' | '[' | '{') => depth += 1,
            Some(')' | ']' | '}') => depth -= 1,
            _ => {}
        }
        if let Some(sign) = after.filter(|c| !c.is_whitespace()) {
            previous = &word[word.len() - sign.len_utf8()..];
        }
    }
    opened.is_some() && !code.ends_with([',', '\\', '.'])
}

/// `code` without the parameters of a block, as in `do |a, b|`, and without its label, as in `begin : a`.
fn without_parameters(code: &str) -> &str {
    if let Some(inner) = code.strip_suffix('|')
        && let Some((before, _)) = inner.rsplit_once('|')
    {
        return before.trim_end();
    }
    match code.rsplit_once(':') {
        Some((before, label)) if label.trim().chars().all(is_identifier) && !label.trim().is_empty() => {
            let before = before.trim_end();
            if ends_with(before, "begin fork") { before } else { code }
        }
        _ => code,
    }
}

/// Whether `code` ends with a brace and the parameters after it: `{ x in`, `{ x ->`, `{ |x|`.
fn opens_closure(code: &str) -> bool {
    let Some((_, parameters)) = code.rsplit_once('{') else { return false };
    let parameters = parameters.trim();
    let is_list = parameters.len() > 1 && parameters.starts_with('|') && parameters.ends_with('|');
    is_list || ends_with(parameters, "in -> =>") && !parameters.contains('}')
}

/// Whether a line of a makefile names targets.
fn is_target(code: &str) -> bool {
    let Some((targets, after)) = code.split_once(':') else { return false };
    !after.trim_start_matches(':').starts_with('=') && !targets.contains('=') && !targets.starts_with('.')
}

fn first_word(code: &str) -> &str {
    let code = code.trim_start_matches(['}', ' ']);
    &code[..code.find(|c| !is_identifier(c)).unwrap_or(code.len())]
}

#[cfg(test)]
mod tests {
    use super::super::{Language, Outline};

    /// A file extension, lines that open a block below, of which those with a `+` do so where the cursor is at their end
    /// too, and lines that open none.
    const HEADS: &[(&str, &[&str], &[&str])] = &[
        (
            "rs",
            &["+fn f() {", "x => ", "f(", "+ y.map(|x| {", "+} else {"],
            &["match Pin:", "let x:", "// a {", "\"{", "a();"],
        ),
        ("js", &["+if (a) {", "f(x =>", "  case 1:", "default:"], &["{ a:", "let a: A", "`{"]),
        (
            "c",
            &["+int f() {", "+}, {", "+x = {", "public:", "  case 1:"],
            &["#else", "#define A {", "a ? b :"],
        ),
        ("swift", &["+a.map { x in", "+f {"], &["for x in", "let a = { x in y }"]),
        ("kt", &["+a.map { x ->", "+f {", "fun f() ="], &["val x: Int"]),
        ("scala", &["+def f = {", "+x match", "def f(x: Int) =", "class A:"], &["val x = 1", "a == b"]),
        ("php", &["+if ($a) {", "fn ($x) =>"], &["$a = 1;"]),
        (
            "py",
            &["+def f(a):", "if a: # b", "x = [", "+else:", "+async def f():"],
            &["a:", "# if:", "\"if a:", "x: int"],
        ),
        (
            "lua",
            &["+if a then", "+local f = function(a)", "+f(function()", "+else", "+repeat"],
            &["f(function() end)", "x = 1", "local function_a"],
        ),
        (
            "rb",
            &["+def f(a)", "+a.each do |b|", "+a do", "+x = if a", "+private def f", "+when 1", "+a { |b|"],
            &["return if a", "b if a", "a.class", "def f; end", "if: a", "x.if"],
        ),
        ("cr", &["+def f", "+module A"], &["x"]),
        ("ex", &["+def f(x) do", "+else", "+x ->", "+case x do"], &["def f(x), do: x", "x = 1"]),
        (
            "jl",
            &["+function f(x)", "+for i in x", "+map(a) do x", "+struct A", "+x = if a"],
            &["f(x) = 2", "a[end]", "if a; b end"],
        ),
        ("ml", &["+let f x =", "+match x with", "+| A ->", "+begin"], &["let x = 1", "a <= b"]),
        (
            "hs",
            &["+f x = do", "+class A a where", "+f x =", "+case x of", "+  A ->"],
            &["module A where", "f :: Int", "x == y"],
        ),
        ("elm", &["+f x =", "+case x of"], &["import A"]),
        ("fs", &["+let f x =", "+| A ->"], &["open A"]),
        ("nim", &["+proc f(x: int) =", "+if x:", "+type"], &["let x = 1"]),
        (
            "sh",
            &["+if a; then", "+for i in x; do", "+case $x in", "+  a)", "+f() {"],
            &["f(a)", "echo then x", "fi"],
        ),
        ("fish", &["+if a", "+for x in y", "+function f"], &["echo if"]),
        ("sql", &["+BEGIN", "+SELECT", "+if x then", "create table a ("], &["select a from b;", "end;"]),
        ("f90", &["+do i = 1, n", "+IF (a) THEN", "+subroutine f(x)"], &["end do", "call f(x)"]),
        ("adb", &["+procedure A is", "+loop", "+if X then"], &["end A;"]),
        ("vhd", &["+entity a is", "+process (b) is"], &["a <= b;"]),
        (
            "v",
            &["+always @(a) begin", "+module a;", "+begin : b", "+case (x)"],
            &["assign a = b;", "endmodule"],
        ),
        ("pas", &["+begin", "+repeat", "+case x of", "+try"], &["x := 1;", "end;"]),
        ("vb", &["+Sub F()", "+If a Then", "+Private Function G()"], &["End Sub", "x = 1"]),
        ("cmake", &["+if(A)", "+foreach(a b)", "set("], &["set(a b)", "endif()"]),
        ("erl", &["+f(X) ->", "+case X of"], &["x() -> y."]),
        ("yaml", &["+a:", "+- b:", "+c: |"], &["a: b", "# a:"]),
        ("makefile", &["+a: b", "+a:"], &["A := b", ".PHONY: a", "\techo a"]),
        ("lisp", &["+(defun f (x)", "(f x", "+(let ((a 1))", "(f (g x"], &["(f x)", "x"]),
        ("el", &["+(when (a)", "+(with-b (c)"], &["(setq x 1)"]),
        ("clj", &["+(defn f [x]", "(f {:a 1"], &["(f x)"]),
        ("scm", &["+(define (f x)", "(f"], &["'(a b)"]),
        ("html", &["+<ul>", "+<a b=\"c\">", "+<p><b>"], &["<br>", "<p>a</p>", "<a />", "a", "<p>a"]),
        ("xml", &["+<a>", "+<a:b c='d'>"], &["<a/>", "<?xml?>", "</a>"]),
        ("tex", &["+\\begin{a}"], &["\\end{a}", "a:", "\\begin{a} \\end{a}"]),
        ("md", &[], &["Add this:", "a (", "# A {", "if a then"]),
        ("toml", &["a = ["], &["[a]", "a = 1"]),
        ("json", &["+\"a\": {", "["], &["\"a\": 1,"]),
        ("", &["+if a {", "+if a then", "+def f():", "a =>", "f("], &["x = 1", "a:"]),
    ];

    #[test]
    fn blocks_are_opened_as_in_each_language() {
        let mut wrong = Vec::new();
        for (extension, heads, others) in HEADS {
            let language = Language::of_path(Some(&format!("a.{extension}")));
            let opens = |text: &str| Outline::new(language, text).opener_width().is_some();
            for (head, expected) in
                heads.iter().map(|head| (head, true)).chain(others.iter().map(|line| (line, false)))
            {
                let line = head.trim_start_matches('+');
                if opens(&format!("{line}\n  ")) != expected {
                    wrong.push((*extension, *head, "below"));
                }
                if opens(line) != (expected && head.starts_with('+')) {
                    wrong.push((*extension, *head, "here"));
                }
            }
        }
        assert_eq!(wrong, []);
    }
}
