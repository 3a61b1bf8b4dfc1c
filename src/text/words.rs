//! Identifiers.

use std::ops::Range;

/// Whether `c` may be part of an identifier.
pub fn is_identifier(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The same in languages that also allow a dollar sign.
pub fn is_identifier_or_dollar(c: char) -> bool {
    is_identifier(c) || c == '$'
}

/// The word that `line` begins with, or its first character.
pub fn first_word(line: &str) -> &str {
    let end = line.find(|c| !is_identifier(c)).unwrap_or(line.len());
    let first = line.chars().next().map_or(0, char::len_utf8);
    &line[..end.max(first)]
}

/// The identifier that contains, ends or begins at the byte `at`; `None` at a number.
pub fn word_at(text: &str, at: usize) -> Option<Range<usize>> {
    let start = at - word_before(&text[..at]).len();
    identifier_from(text, start)
}

/// The part of an identifier that `text` ends with.
pub fn word_before(text: &str) -> &str {
    &text[text.trim_end_matches(is_identifier_or_dollar).len()..]
}

/// The identifier that begins at the byte `at`.
pub fn identifier_from(text: &str, at: usize) -> Option<Range<usize>> {
    let rest = &text[at..];
    let end = rest.find(|c| !is_identifier_or_dollar(c)).unwrap_or(rest.len());
    (end > 0 && !rest.starts_with(|c: char| c.is_ascii_digit())).then_some(at..at + end)
}

/// The byte of the first character from `at` on that is not whitespace.
pub fn skip_whitespace(text: &str, at: usize) -> usize {
    text.len() - text[at..].trim_start().len()
}

/// Whether the repetition of a line is significant: that of closing delimiters is not.
pub fn has_substance(line: &str) -> bool {
    line.chars().filter(|c| c.is_alphanumeric()).nth(1).is_some()
}

/// Whether `word` is one of `words`, which are separated by spaces.
pub fn has(words: &str, word: &str) -> bool {
    words.split(' ').any(|one| one == word && !one.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_found() {
        for (text, at, expected) in [
            ("foo_1(x)", 2, Some("foo_1")),
            ("foo", 3, Some("foo")),
            ("a.$b", 2, Some("$b")),
            ("1é", 0, None),
            ("é(", 2, Some("é")),
            ("", 0, None),
            ("()", 1, None),
        ] {
            assert_eq!(word_at(text, at).map(|range| &text[range]), expected, "{text:?}");
        }
        assert_eq!((word_before("a.bé"), word_before("a."), word_before("")), ("bé", "", ""));
        assert_eq!((first_word("end;"), first_word("}x"), first_word("")), ("end", "}", ""));
        assert!(has_substance("x = 1") && !has_substance("});") && !has_substance("x"));
    }
}
