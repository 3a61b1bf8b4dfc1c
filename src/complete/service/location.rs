//! Locations in a document that are recognised after it has changed. Pure.

use std::hash::{DefaultHasher, Hash, Hasher};

use super::super::request::Document;

/// Most characters typed since an answer for it still to be found.
const TYPED_CHARS_MAX: usize = 128;
/// Bytes before a location that identify it.
const TAIL_BYTES: usize = 512;
/// Bytes after a location that identify it.
const HEAD_BYTES: usize = 1024;
/// Closing delimiters that an editor may have inserted by itself.
const CLOSERS_MAX: usize = 8;

/// A location in a document, which is recognised without keeping the document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Location {
    /// The last [`TAIL_BYTES`] before it.
    tail: String,
    /// Whether that is all of it.
    is_whole: bool,
    /// The hash of the first [`HEAD_BYTES`] after it.
    head: u64,
}

/// Matches the cursor of a request with locations.
pub(super) struct LocationMatcher<'a> {
    prefix: &'a str,
    /// Hashes of the text after the cursor without the first closing delimiters: none, one, and so on.
    heads: Vec<u64>,
}

impl Location {
    /// The cursor of `document`.
    pub(super) fn new(document: &Document) -> Self {
        let Document { prefix, suffix, .. } = document;
        let from = prefix.len().saturating_sub(TAIL_BYTES);
        let from = (from..=prefix.len()).find(|&at| prefix.is_char_boundary(at)).unwrap_or(prefix.len());
        Self { tail: prefix[from..].to_owned(), is_whole: from == 0, head: head(suffix) }
    }

    /// Whether the text before it ends with whitespace within a line.
    pub(super) fn follows_whitespace(&self) -> bool {
        self.tail.ends_with([' ', '\t'])
    }
}

impl<'a> LocationMatcher<'a> {
    /// The cursor of `document`.
    pub(super) fn new(document: &'a Document) -> Self {
        let Document { prefix, suffix, .. } = document;
        let closers = suffix.chars().take(CLOSERS_MAX).take_while(|&c| is_closer(c)).map(char::len_utf8);
        let mut at = 0;
        let ends = closers.map(|length| {
            at += length;
            at
        });
        let heads = [0].into_iter().chain(ends).map(|at| head(&suffix[at..])).collect();
        Self { prefix, heads }
    }

    /// The text typed since `location`, and how many closing delimiters the editor has added after it: every possible
    /// interpretation, the shortest first.
    pub(super) fn typed_since(&self, location: &Location) -> impl Iterator<Item = (&'a str, usize)> {
        let prefix = self.prefix;
        let closers = || (0..self.heads.len()).filter(|&n| self.heads[n] == location.head);
        let ends = [prefix.len()].into_iter().chain(prefix.char_indices().rev().map(|(at, _)| at));
        ends.take(if closers().next().is_some() { TYPED_CHARS_MAX + 1 } else { 0 })
            .filter(|&end| {
                prefix[..end].ends_with(&location.tail) && (!location.is_whole || end == location.tail.len())
            })
            .flat_map(move |end| closers().map(move |n| (&prefix[end..], n)))
            .filter(|(typed, closers)| typed.chars().filter(|&c| is_opener(c)).count() >= *closers)
    }
}

fn is_closer(c: char) -> bool {
    matches!(c, ')' | ']' | '}' | '>' | '"' | '\'' | '`')
}

fn is_opener(c: char) -> bool {
    matches!(c, '(' | '[' | '{' | '<' | '"' | '\'' | '`')
}

fn head(suffix: &str) -> u64 {
    let end = (0..=suffix.len().min(HEAD_BYTES)).rev().find(|&end| suffix.is_char_boundary(end)).unwrap_or(0);
    let mut hasher = DefaultHasher::new();
    suffix[..end].hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(text: &str) -> Document {
        let (prefix, suffix) = text.split_once("$0").unwrap();
        Document::new(None, prefix, suffix)
    }

    #[test]
    fn a_location_is_found_before_typed_text() {
        let far = "x".repeat(TAIL_BYTES + 1);
        for (then, now, expected) in [
            ("x = $0\n", "x = $0\n", Some(("", 0))),
            ("x = $0\n", "x = foo$0\n", Some(("foo", 0))),
            ("x = $0\n", "x = f($0)\n", Some(("f(", 1))),
            ("x = $0\n", "x = )$0)\n", None),
            ("x = $0\n", "y = $0\n", None),
            ("x = $0\n", "x =$0\n", None),
            ("x = $0\n", "x = $0\nz", None),
            (&format!("{far}$0"), &format!("more {far}y$0"), Some(("y", 0))),
            (&format!("{far}$0"), &format!("{far}{}$0", "y".repeat(TYPED_CHARS_MAX + 1)), None),
        ] {
            let (location, now) = (Location::new(&document(then)), document(now));
            assert_eq!(
                LocationMatcher::new(&now).typed_since(&location).next(),
                expected,
                "{then:?} {now:?}"
            );
        }
    }
}
