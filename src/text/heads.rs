//! Heads of blocks: the lines that blocks are indented below.

use super::language::{Blocks, has};
use super::outline::Expected;
use super::words::is_identifier;

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
            let is_label = code.ends_with(':') && has(LABELS, first_word(code));
            let is_arrow = code.ends_with("=>") || code.ends_with("->") || ends_with(code, last);
            opens_closure(code) || expected == Expected::Below && (is_label || is_arrow)
        }
        Blocks::Colon { first } => code.ends_with(':') && has(first, first_word(code)),
        Blocks::Words { first, last, close, ignores_case } => {
            let lower = if ignores_case { code.to_lowercase() } else { String::new() };
            let code = if ignores_case { lower.as_str() } else { code };
            let is_flat = close.is_empty() && first_word(code) == "module";
            !is_flat && (ends_with(without_parameters(code), last) || begins_with(code, first, close))
        }
        Blocks::Recipes => is_target(code),
        Blocks::Environments => code.rfind("\\begin{") > code.rfind("\\end{"),
        Blocks::Any => {
            let is_head = |first| code.ends_with(':') && (has(first, first_word(code)));
            let words = ends_with(code, "then do else repeat") || begins_with(code, "function", "end");
            let is_arrow = code.ends_with("=>") || code.ends_with("->");
            is_head(super::language::PYTHON_HEADS) || words || expected == Expected::Below && is_arrow
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
            if has(first, name) && is_free && !is_key {
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
