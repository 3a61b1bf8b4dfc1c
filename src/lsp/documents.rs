//! The open documents of a client.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};

use dashmap::DashMap;
use ropey::Rope;
use serde::Deserialize;
use tower_lsp::gen_lsp_types::TextDocumentContentChangeEvent;

use super::position::Encoding;
use crate::complete::edit::Change;
use crate::privacy::content::Scanner;

/// Open documents by their URI.
#[derive(Default)]
pub(super) struct Documents {
    open: DashMap<String, Document>,
    /// Their URIs by `last_used`. While it is locked, no entry of `open` is taken.
    by_use: Mutex<BTreeMap<u64, String>>,
    revisions: AtomicU64,
}

struct Document {
    text: Rope,
    scanner: Scanner,
    language: String,
    /// The version the client gave it.
    version: i32,
    /// Unique over all documents, unlike `version`.
    revision: u64,
    /// Increases with each open, change and focus, over all documents.
    last_used: u64,
    /// The character after the last change.
    cursor: Option<usize>,
}

/// The state of a document when a request arrived.
pub(super) struct DocumentSnapshot {
    pub uri: String,
    /// Shared, not copied.
    pub text: Rope,
    /// The client's language identifier.
    pub language: String,
    /// The version the client gave it.
    pub version: i32,
    /// See [`Documents::is_current`].
    pub revision: u64,
    /// The character after the last change, if it was changed.
    pub cursor: Option<usize>,
}

/// The parameters of `textDocument/didChange`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct DocumentChange {
    pub text_document: ChangedDocument,
    pub content_changes: Vec<TextDocumentContentChangeEvent>,
}

#[derive(Deserialize)]
pub(super) struct ChangedDocument {
    pub uri: String,
    /// The protocol allows null up to version 3.15.
    #[serde(default)]
    pub version: Option<i32>,
}

/// The effect of one change of a `didChange`.
pub(super) enum Edit {
    /// A replaced range.
    Change(Change),
    /// The whole text was replaced.
    Whole,
}

impl Documents {
    /// Adds a document, or replaces it.
    pub(super) fn open(&self, uri: String, language: String, version: i32, text: &str) {
        let revision = self.next();
        let document = Document {
            text: Rope::from_str(text),
            scanner: Scanner::default(),
            language,
            version,
            revision,
            last_used: revision,
            cursor: None,
        };
        self.note_use(&uri, revision);
        if let Some(before) = self.open.insert(uri, document) {
            self.by_use().remove(&before.last_used);
        }
    }

    /// Applies changes in order and returns them. Changes of a document that is not open are ignored.
    pub(super) fn change(
        &self,
        DocumentChange { text_document, content_changes }: &DocumentChange,
        encoding: Encoding,
    ) -> Vec<Edit> {
        let ChangedDocument { uri, version } = text_document;
        let Some(mut document) = self.open.get_mut(uri.as_str()) else {
            tracing::warn!("ignored a change of a document that is not open");
            return Vec::new();
        };
        let version = version.unwrap_or(document.version.saturating_add(1));
        if version <= document.version {
            // Only the order of the messages counts: the text would be wrong without this change.
            tracing::warn!("a document changed from version {} to {version}", document.version);
        }
        document.version = version;
        document.revision = self.next();
        self.by_use().remove(&document.last_used);
        document.last_used = document.revision;
        self.note_use(uri, document.last_used);
        content_changes.iter().map(|change| document.apply(change, encoding)).collect()
    }

    pub(super) fn close(&self, uri: &str) {
        match self.open.remove(uri) {
            Some((_, document)) => drop(self.by_use().remove(&document.last_used)),
            None => tracing::warn!("ignored the close of a document that is not open"),
        }
    }

    /// Records that a document has the focus.
    pub(super) fn touch(&self, uri: &str) {
        if let Some(mut document) = self.open.get_mut(uri) {
            self.by_use().remove(&document.last_used);
            document.last_used = self.next();
            self.note_use(uri, document.last_used);
        }
    }

    /// The current state of a document; `None` when it is not open.
    pub(super) fn snapshot(&self, uri: &str) -> Option<DocumentSnapshot> {
        self.open.get(uri).map(|document| document.snapshot(uri))
    }

    /// The other open documents, the most recently changed or focused first. Each costs its own snapshot only, however
    /// many are open.
    pub(super) fn others(&self, uri: &str) -> impl Iterator<Item = DocumentSnapshot> {
        let mut before = u64::MAX;
        let next = move || {
            let (used, next) =
                self.by_use().range(..before).next_back().map(|(&used, uri)| (used, uri.clone()))?;
            before = used;
            Some(next)
        };
        std::iter::from_fn(next).filter(move |other| other != uri).filter_map(|other| self.snapshot(&other))
    }

    /// Whether a document is still open and unchanged since the snapshot with this revision.
    pub(super) fn is_current(&self, uri: &str, revision: u64) -> bool {
        self.open.get(uri).is_some_and(|document| document.revision == revision)
    }

    /// The text with bytes `replaced` replaced by `inserted` and its secrets masked, before and after the end of
    /// `inserted`; `None` when the document was closed or changed since the snapshot.
    pub(super) fn masked(
        &self,
        snapshot: &DocumentSnapshot,
        replaced: Range<usize>,
        inserted: &str,
    ) -> Option<(String, String)> {
        let mut document = self.open.get_mut(&snapshot.uri)?;
        let Document { text, scanner, revision, .. } = &mut *document;
        if *revision != snapshot.revision {
            return None;
        }
        let cursor = replaced.start + inserted.len();
        if replaced.is_empty() && inserted.is_empty() {
            return Some(scanner.masked_parts(text, cursor));
        }
        let mut text = text.clone();
        let after = text.len_bytes() - replaced.end;
        let chars = text.byte_to_char(replaced.start)..text.byte_to_char(replaced.end);
        text.remove(chars.clone());
        text.insert(chars.start, inserted);
        scanner.edited(replaced.start, after);
        let parts = scanner.masked_parts(&text, cursor);
        scanner.edited(replaced.start, after);
        Some(parts)
    }

    fn note_use(&self, uri: &str, at: u64) {
        self.by_use().insert(at, uri.to_owned());
    }

    fn by_use(&self) -> MutexGuard<'_, BTreeMap<u64, String>> {
        self.by_use.lock().expect("lock poisoned")
    }

    fn next(&self) -> u64 {
        self.revisions.fetch_add(1, Ordering::Relaxed)
    }
}

impl Document {
    fn snapshot(&self, uri: &str) -> DocumentSnapshot {
        DocumentSnapshot {
            uri: uri.to_owned(),
            text: self.text.clone(),
            version: self.version,
            language: self.language.clone(),
            revision: self.revision,
            cursor: self.cursor,
        }
    }

    fn apply(&mut self, change: &TextDocumentContentChangeEvent, encoding: Encoding) -> Edit {
        let text = &mut self.text;
        match change {
            TextDocumentContentChangeEvent::TextDocumentContentChangePartial(change) => {
                let chars = encoding.to_chars(text, change.range);
                let bytes = text.char_to_byte(chars.start)..text.char_to_byte(chars.end);
                let start = chars.start;
                text.remove(chars);
                text.insert(start, &change.text);
                self.scanner.edited(bytes.start, text.len_bytes() - bytes.start - change.text.len());
                self.cursor = Some(start + change.text.chars().count());
                let inserted = change.text.clone();
                Edit::Change(Change { at: bytes.start, removed: bytes.len(), inserted })
            }
            TextDocumentContentChangeEvent::TextDocumentContentChangeWholeDocument(change) => {
                *text = Rope::from_str(&change.text);
                self.scanner = Scanner::default();
                self.cursor = None;
                Edit::Whole
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::random::Mmix;
    use crate::privacy::content;
    use tower_lsp::gen_lsp_types::{
        Position, Range, TextDocumentContentChangePartial, TextDocumentContentChangeWholeDocument,
    };

    fn partial(start: Position, end: Position, text: &str) -> TextDocumentContentChangeEvent {
        TextDocumentContentChangePartial::new(Range { start, end }, None, text.into()).into()
    }

    fn apply(
        documents: &Documents,
        uri: &str,
        version: impl Into<Option<i32>>,
        changes: &[TextDocumentContentChangeEvent],
        encoding: Encoding,
    ) -> Vec<Edit> {
        let text_document = ChangedDocument { uri: uri.into(), version: version.into() };
        documents.change(&DocumentChange { text_document, content_changes: changes.to_vec() }, encoding)
    }

    fn text(documents: &Documents, uri: &str) -> String {
        documents.snapshot(uri).unwrap().text.to_string()
    }

    /// The position of byte `at` of `text`, counted without a rope.
    fn position(text: &str, at: usize, encoding: Encoding) -> Position {
        let bytes = text.as_bytes();
        let ends_line =
            |&i: &usize| bytes[i] == b'\n' || (bytes[i] == b'\r' && bytes.get(i + 1) != Some(&b'\n'));
        let breaks: Vec<usize> = (0..at).filter(ends_line).collect();
        let before = &text[breaks.last().map_or(0, |i| i + 1)..at];
        let character = match encoding {
            Encoding::Utf8 => before.len(),
            Encoding::Utf16 => before.encode_utf16().count(),
            Encoding::Utf32 => before.chars().count(),
        };
        Position { line: breaks.len() as u32, character: character as u32 }
    }

    #[test]
    fn incremental_edits_equal_the_whole_text() {
        const PIECES: [&str; 12] = [
            "",
            "a",
            "\n",
            "\r\n",
            "\r",
            "\t\t",
            "🦀",
            "é",
            "世界\n",
            "fn f() {\r\n\t🦀\r\n}",
            "\u{2028}",
            "x\u{b}y",
        ];
        for encoding in [Encoding::Utf8, Encoding::Utf16, Encoding::Utf32] {
            // The same edits on every run.
            let mut numbers = Mmix(7);
            let mut random = |below| numbers.below(below);
            let documents = Documents::default();
            documents.open("u".into(), String::new(), 0, "");
            let (mut expected, mut longest) = (String::new(), 0);
            for version in 1..600 {
                let mut changes = Vec::new();
                for _ in 0..=random(3) {
                    // No position lies inside a character or between \r and \n.
                    let is_place = |&at: &usize| {
                        expected.is_char_boundary(at)
                            && !(expected[..at].ends_with('\r') && expected[at..].starts_with('\n'))
                    };
                    let places: Vec<usize> = (0..=expected.len()).filter(is_place).collect();
                    let first = random(places.len());
                    let (start, end) = (places[first], places[(first + random(4)).min(places.len() - 1)]);
                    let piece = PIECES[random(PIECES.len())];
                    let at = |at| position(&expected, at, encoding);
                    changes.push(partial(at(start), at(end), piece));
                    expected.replace_range(start..end, piece);
                }
                if random(100) == 0 {
                    expected = "whole\r\n🦀".into();
                    changes.push(TextDocumentContentChangeWholeDocument::new(expected.clone()).into());
                }
                apply(&documents, "u", version, &changes, encoding);
                longest = longest.max(expected.len());
                assert_eq!(text(&documents, "u"), expected, "{encoding:?}, version {version}");
            }
            assert!(longest > 200, "the texts stayed short: at most {longest} bytes");
        }
    }

    #[test]
    fn secrets_are_masked_after_every_edit() {
        const PIECES: [&str; 6] =
            ["password = \"", "hunter2-Zq9xK", "\"", "\n", "é = 1", "api_key: 9f86d081884c7d65\n"];
        let mut random = Mmix(5);
        let documents = Documents::default();
        documents.open("u".into(), String::new(), 0, "");
        let (mut text, mut secrets) = (String::new(), 0);
        for version in 1..2000 {
            let mut places = || {
                let mut at = || {
                    (0..=random.below(text.len() + 1)).rev().find(|&at| text.is_char_boundary(at)).unwrap()
                };
                let (one, other) = (at(), at());
                one.min(other)..one.max(other)
            };
            let (mut replaced, selected) = (places(), places());
            if text.len() < 200 {
                replaced.end = replaced.start;
            }
            let [piece, other] = [0; 2].map(|_| PIECES[random.below(PIECES.len())]);
            match version % 3 {
                // A completion is requested in the place of a selection, which changes nothing.
                0 => {
                    let snapshot = documents.snapshot("u").unwrap();
                    let (before, after) = documents.masked(&snapshot, selected.clone(), other).unwrap();
                    let mut expected = text.clone();
                    expected.replace_range(selected.clone(), other);
                    assert_eq!(before.len(), selected.start + other.len());
                    let expected = content::masked(expected);
                    assert_eq!(before + &after, expected, "version {version}");
                    secrets += expected.matches("*****").count();
                }
                1 if random.below(40) == 0 => {
                    text = format!("{piece}{other}");
                    let whole = TextDocumentContentChangeWholeDocument::new(text.clone()).into();
                    apply(&documents, "u", version, &[whole], Encoding::Utf8);
                }
                _ => {
                    let at = |at| position(&text, at, Encoding::Utf8);
                    let change = partial(at(replaced.start), at(replaced.end), piece);
                    let before = documents.snapshot("u").unwrap();
                    apply(&documents, "u", version, &[change], Encoding::Utf8);
                    assert!(documents.masked(&before, 0..0, "").is_none(), "a text from before the change");
                    text.replace_range(replaced, piece);
                }
            }
        }
        assert!(secrets > 200, "only {secrets} secrets");
    }

    #[test]
    fn invalid_changes_are_clamped_or_ignored() {
        let documents = Documents::default();
        let at = |line, character| Position { line, character };
        apply(&documents, "not open", 1, &[partial(at(0, 0), at(0, 0), "x")], Encoding::Utf16);
        documents.close("not open");
        assert!(documents.snapshot("not open").is_none());

        documents.open("u".into(), String::new(), 5, "ab\ncd");
        apply(&documents, "u", 5, &[partial(at(0, 2), at(0, 1), "x")], Encoding::Utf16);
        assert_eq!(text(&documents, "u"), "ax\ncd");
        apply(&documents, "u", 4, &[partial(at(1, 9), at(9, 9), "!")], Encoding::Utf16);
        assert_eq!(text(&documents, "u"), "ax\ncd!");
        documents.open("u".into(), String::new(), 0, "again");
        assert_eq!(text(&documents, "u"), "again");
    }

    #[test]
    fn changes_without_a_version_are_applied() {
        let documents = Documents::default();
        documents.open("u".into(), String::new(), 5, "ab");
        for version in ["null", "6"] {
            let document = format!("{{\"uri\": \"u\", \"version\": {version}}}");
            let changes = format!(
                "{{\"textDocument\": {document}, \"contentChanges\": [{{\"text\": \"{version}\"}}]}}"
            );
            documents.change(&serde_json::from_str(&changes).unwrap(), Encoding::Utf16);
            assert_eq!((&*text(&documents, "u"), documents.snapshot("u").unwrap().version), (version, 6));
        }
    }

    #[test]
    fn snapshots_become_outdated() {
        let documents = Documents::default();
        documents.open("u".into(), "python".into(), 1, "a");
        let first = documents.snapshot("u").unwrap();
        documents.touch("u");
        assert!(documents.is_current("u", first.revision) && first.language == "python");
        apply(&documents, "u", 2, &[], Encoding::Utf8);
        assert!(!documents.is_current("u", first.revision));
        let second = documents.snapshot("u").unwrap();
        documents.close("u");
        documents.open("u".into(), String::new(), 1, "a");
        assert!(!documents.is_current("u", second.revision));
    }

    #[test]
    fn changes_are_reported_in_bytes() {
        let documents = Documents::default();
        documents.open("u".into(), String::new(), 1, "é\n世xy");
        let at = |line, character| Position { line, character };
        let whole = TextDocumentContentChangeWholeDocument::new("z".into()).into();
        let edits = apply(&documents, "u", 2, &[partial(at(1, 2), at(1, 1), "🦀b"), whole], Encoding::Utf16);
        let Edit::Change(change) = &edits[0] else { panic!("a range was replaced") };
        assert_eq!(*change, Change { at: 6, removed: 1, inserted: "🦀b".into() });
        assert!(matches!(edits[1], Edit::Whole) && edits.len() == 2);
        apply(&documents, "u", 3, &[partial(at(0, 0), at(0, 0), "ab")], Encoding::Utf16);
        assert_eq!(documents.snapshot("u").unwrap().cursor, Some(2));
    }

    #[test]
    fn other_documents_come_latest_first() {
        let documents = Documents::default();
        for uri in ["a", "b", "c", "d"] {
            documents.open(uri.into(), String::new(), 1, uri);
        }
        apply(&documents, "b", 2, &[], Encoding::Utf8);
        documents.touch("a");
        documents.touch("unknown");
        let uris: Vec<String> = documents.others("c").map(|other| other.uri).collect();
        assert_eq!(uris, ["a", "b", "d"]);
    }
}
