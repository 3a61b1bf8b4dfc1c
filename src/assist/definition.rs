//! Finds the name in the first line of a definition. Pure.

use std::ops::Range;

use crate::text::language::{Definitions, Language, Layout};
use crate::text::words::has;
use crate::text::words::{identifier_from, is_identifier_or_dollar, skip_whitespace};

/// The bytes of the name, if `line` begins a definition.
pub(super) fn name_in(line: &str, language: &Language) -> Option<Range<usize>> {
    let definitions = language.definitions.as_ref()?;
    let start = skip_whitespace(line, 0);
    match definitions.layout {
        Layout::Keyword => keyword(line, start, definitions),
        Layout::Rust => rust(line, start, definitions),
        Layout::Script => script(line, start, definitions),
        Layout::Go => go(line, start, definitions),
        Layout::C => c(line, start, definitions),
        Layout::Lua => lua(line, start, definitions),
    }
}

/// The name after modifiers and a keyword.
fn keyword(line: &str, mut at: usize, definitions: &Definitions) -> Option<Range<usize>> {
    loop {
        let word = identifier_from(line, at)?;
        let next = skip_whitespace(line, word.end);
        if has(definitions.keywords, &line[word.clone()]) {
            return identifier_from(line, next);
        }
        if !has(definitions.modifiers, &line[word]) {
            return None;
        }
        at = next;
    }
}

fn rust(line: &str, mut at: usize, definitions: &Definitions) -> Option<Range<usize>> {
    loop {
        let word = identifier_from(line, at)?;
        let mut next = skip_whitespace(line, word.end);
        let text = &line[word];
        if text == "macro_rules" {
            next = skip_whitespace(line, next + usize::from(line[next..].starts_with('!')));
        }
        if text == "pub" && line[next..].starts_with('(') {
            next = skip_whitespace(line, next + line[next..].find(')')? + 1);
        }
        if text == "extern" && line[next..].starts_with('"') {
            next = skip_whitespace(line, next + line[next + 1..].find('"')? + 2);
        }
        if has(definitions.keywords, text) {
            let name = identifier_from(line, next)?;
            let is_modifier =
                text == "const" && matches!(&line[name.clone()], "fn" | "async" | "unsafe" | "extern");
            if !is_modifier && &line[name.clone()] != "mut" {
                return Some(name);
            }
        } else if !has(definitions.modifiers, text) {
            return None;
        }
        at = next;
    }
}

fn script(line: &str, mut at: usize, definitions: &Definitions) -> Option<Range<usize>> {
    const BINDINGS: &str = "const let var";
    const CONTROL: &str = "if for while switch catch return with else do try new";
    let is_indented = at > 0;
    loop {
        let word = identifier_from(line, at)?;
        let mut next = skip_whitespace(line, word.end);
        let text = &line[word.clone()];
        if is_indented && line.trim_end().ends_with('{') && line[word.end..].starts_with(['(', '<']) {
            return (!has(CONTROL, text) && text != "function").then_some(word);
        }
        if has(definitions.keywords, text) {
            next = skip_whitespace(line, next + usize::from(line[next..].starts_with('*')));
            return identifier_from(line, next);
        }
        if has(BINDINGS, text) {
            let name = identifier_from(line, next)?;
            let value = line[name.end..].split_once('=')?.1.trim_start();
            let value = value.strip_prefix("async").unwrap_or(value).trim_start();
            return (value.starts_with("function") || line.contains("=>")).then_some(name);
        }
        if !has(definitions.modifiers, text) {
            return None;
        }
        at = next;
    }
}

fn go(line: &str, at: usize, definitions: &Definitions) -> Option<Range<usize>> {
    let word = identifier_from(line, at)?;
    let is_function = &line[word.clone()] == "func";
    if !has(definitions.keywords, &line[word.clone()]) {
        return None;
    }
    let mut next = skip_whitespace(line, word.end);
    if is_function && line[next..].starts_with('(') {
        next = skip_whitespace(line, next + line[next..].find(')')? + 1);
    }
    identifier_from(line, next)
}

fn lua(line: &str, at: usize, definitions: &Definitions) -> Option<Range<usize>> {
    let first = identifier_from(line, at)?;
    let start =
        if has(definitions.modifiers, &line[first.clone()]) { skip_whitespace(line, first.end) } else { at };
    let word = identifier_from(line, start)?;
    let path_from = |start: usize| {
        let rest = &line[start..];
        let end =
            rest.find(|c: char| !is_identifier_or_dollar(c) && !matches!(c, '.' | ':')).unwrap_or(rest.len());
        let name = rest[..end].rfind(['.', ':']).map_or(0, |dot| dot + 1);
        (name < end).then_some(start + name..start + end)
    };
    if has(definitions.keywords, &line[word.clone()]) {
        return path_from(skip_whitespace(line, word.end));
    }
    let name = path_from(start)?;
    let value = line[name.end..].trim_start().strip_prefix('=')?.trim_start();
    value.starts_with("function").then_some(name)
}

fn c(line: &str, at: usize, definitions: &Definitions) -> Option<Range<usize>> {
    const OTHERS: &str =
        "if for while switch return else do case goto new delete throw using catch sizeof default";
    let first = identifier_from(line, at)?;
    if has(OTHERS, &line[first]) {
        return None;
    }
    let Some(paren) = line.find('(') else {
        return keyword(line, at, definitions).filter(|_| !line.trim_end().ends_with(';'));
    };
    let before = line[..paren].trim_end();
    let start = before.rfind(|c| !is_identifier_or_dollar(c)).map_or(0, |before| before + 1);
    let name = identifier_from(line, start).filter(|name| name.end == before.len())?;
    let kind = &line[at..name.start.max(at)];
    let is_kind = |c: char| is_identifier_or_dollar(c) || c.is_whitespace() || "*&:<>,~[]".contains(c);
    let is_definition =
        !kind.trim().is_empty() && kind.chars().all(is_kind) && !has(OTHERS, &line[name.clone()]);
    is_definition.then_some(name)
}
