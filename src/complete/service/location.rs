//! Locations in a document that are recognised after text was typed there. Pure.

use std::cell::OnceCell;

use super::super::request::{ContextFile, Document};
use crate::base::digest::{Digest, digest};

/// Most characters typed since an answer for it still to be found.
const TYPED_CHARS_MAX: usize = 128;
/// The same in bytes.
const TYPED_BYTES_MAX: usize = TYPED_CHARS_MAX * 4;
/// Closing delimiters that an editor may have inserted by itself.
const CLOSERS_MAX: usize = 8;

/// A location in a document, which is recognised without keeping the document: as long as nothing else than the text
/// typed there has changed, in the document and in the files of its context.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Location {
    before: Side,
    after: Side,
    context: u64,
    follows_whitespace: bool,
}

/// The text on one side of a location.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Side {
    bytes: usize,
    digest: u64,
}

/// Matches the cursor of a request with locations. The texts are hashed once, when one of them may match.
pub(super) struct LocationMatcher<'a> {
    document: &'a Document,
    /// The text before the cursor, but for what may have been typed.
    before: OnceCell<Digest>,
    /// The text after the cursor, without the first closing delimiters: none, one, and so on.
    after: [OnceCell<u64>; CLOSERS_MAX + 1],
    context: OnceCell<u64>,
}

impl Location {
    /// The cursor of `document`.
    pub(super) fn new(document: &Document) -> Self {
        let Document { prefix, suffix, context, .. } = document;
        Self {
            before: Side { bytes: prefix.len(), digest: digest(prefix) },
            after: Side { bytes: suffix.len(), digest: digest(suffix) },
            context: digest_of_files(context),
            follows_whitespace: prefix.ends_with([' ', '\t']),
        }
    }

    /// Whether the text before it ends with whitespace within a line.
    pub(super) fn follows_whitespace(&self) -> bool {
        self.follows_whitespace
    }
}

impl<'a> LocationMatcher<'a> {
    /// The cursor of `document`.
    pub(super) fn new(document: &'a Document) -> Self {
        Self { document, before: OnceCell::new(), after: Default::default(), context: OnceCell::new() }
    }

    /// The text typed since `location`, and how many closing delimiters the editor has added after it.
    pub(super) fn typed_since(&self, location: &Location) -> Option<(&'a str, usize)> {
        let Document { prefix, suffix, context, .. } = self.document;
        let typed = prefix.get(location.before.bytes..).filter(|typed| typed.len() <= TYPED_BYTES_MAX)?;
        let closers =
            suffix.len().checked_sub(location.after.bytes).filter(|&closers| closers <= CLOSERS_MAX)?;
        let (added, rest) = suffix.split_at_checked(closers)?;
        let is_possible = added.chars().all(is_closer)
            && typed.chars().filter(|&c| is_opener(c)).count() >= closers
            && typed.chars().count() <= TYPED_CHARS_MAX;
        if !is_possible {
            return None;
        }
        let start = || Digest::of_start(prefix, prefix.len().saturating_sub(TYPED_BYTES_MAX));
        let is_same = self.before.get_or_init(start).of(&prefix[..location.before.bytes])
            == location.before.digest
            && *self.after[closers].get_or_init(|| digest(rest)) == location.after.digest
            && *self.context.get_or_init(|| digest_of_files(context)) == location.context;
        is_same.then_some((typed, closers))
    }
}

/// The same in whatever order the files are.
fn digest_of_files(files: &[ContextFile]) -> u64 {
    let of = |file: &ContextFile| digest(&file.text) ^ digest(&file.path).rotate_left(32);
    files.iter().map(of).fold(0, u64::wrapping_add)
}

fn is_closer(c: char) -> bool {
    matches!(c, ')' | ']' | '}' | '>' | '"' | '\'' | '`')
}

fn is_opener(c: char) -> bool {
    matches!(c, '(' | '[' | '{' | '<' | '"' | '\'' | '`')
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
        let far = "x".repeat(2000);
        for (then, now, expected) in [
            ("x = $0\n", "x = $0\n", Some(("", 0))),
            ("x = $0\n", "x = foo$0\n", Some(("foo", 0))),
            ("x = $0\n", "x = f($0)\n", Some(("f(", 1))),
            ("x = $0\n", "x = )$0)\n", None),
            ("x = $0\n", "y = $0\n", None),
            ("x = $0\n", "x =$0\n", None),
            ("x = $0\n", "x = $0\nz", None),
            (&format!("{far}$0"), &format!("{far}y$0"), Some(("y", 0))),
            (&format!("{far}$0"), &format!("more {far}y$0"), None),
            (&format!("a{far}$0"), &format!("b{far}y$0"), None),
            (&format!("x = $0\n{far}a"), &format!("x = $0\n{far}b"), None),
            (&format!("x = $0{far}a"), &format!("x = f(\"$0\"){far}a"), Some(("f(\"", 2))),
            (&format!("{far}$0"), &format!("{far}{}$0", "y".repeat(TYPED_CHARS_MAX + 1)), None),
        ] {
            let (location, now) = (Location::new(&document(then)), document(now));
            assert_eq!(LocationMatcher::new(&now).typed_since(&location), expected, "{then:?} {now:?}");
        }
    }

    #[test]
    fn a_location_depends_on_its_context() {
        let file = |path: &str, text: &str| ContextFile { path: path.into(), text: text.into() };
        let with = |files: &[ContextFile]| document("x = $0\n").with_context(files.to_vec());
        let (a, b) = (file("a.py", "def old(): pass\n"), file("b.py", "y = 1\n"));
        let location = Location::new(&with(&[a.clone(), b.clone()]));
        let is_found =
            |files: &[ContextFile]| LocationMatcher::new(&with(files)).typed_since(&location).is_some();
        assert!(is_found(&[a.clone(), b.clone()]) && is_found(&[b.clone(), a.clone()]));
        assert!(
            !is_found(std::slice::from_ref(&a)) && !is_found(&[file("a.py", "def new(): pass\n"), b.clone()])
        );
        assert!(!is_found(&[file("c.py", "def old(): pass\n"), b]) && !is_found(&[]));
    }
}
