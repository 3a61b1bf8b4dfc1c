//! The documents that the client has open, as it shows them.

use std::sync::atomic::{AtomicU64, Ordering};

use dashmap::DashMap;
use ropey::Rope;
use tower_lsp::gen_lsp_types::TextDocumentContentChangeEvent;

use super::position::Encoding;
use crate::base::Cancel;

/// Open documents by their URI.
#[derive(Default)]
pub struct Documents {
    open: DashMap<String, Document>,
    revisions: AtomicU64,
}

struct Document {
    text: Rope,
    /// The version the client gave it.
    version: i32,
    /// Unlike `version` never given twice, not even to another document.
    revision: u64,
    /// Cancels the newest request about it.
    newest: Cancel,
}

/// A document as it was when a request came, and the right to work on that request.
pub struct Snapshot {
    /// The whole text; sharing it costs nothing.
    pub text: Rope,
    /// Tells whether the document is still the same, see [`Documents::is_current`].
    pub revision: u64,
    /// Set as soon as nobody needs an answer any more.
    pub cancel: Cancel,
}

impl Documents {
    /// Adds a document, or replaces it.
    pub fn open(&self, uri: String, version: i32, text: &str) {
        let document = Document {
            text: Rope::from_str(text),
            version,
            revision: self.revision(),
            newest: Cancel::new(),
        };
        if let Some(replaced) = self.open.insert(uri, document) {
            replaced.newest.cancel();
        }
    }

    /// Applies changes, each to what the ones before it left, and cancels what ran on the old text.
    /// Those of a document that is not open are ignored.
    pub fn change(
        &self,
        uri: &str,
        version: i32,
        changes: &[TextDocumentContentChangeEvent],
        encoding: Encoding,
    ) {
        let Some(mut document) = self.open.get_mut(uri) else {
            return tracing::warn!("a document was changed that is not open; the change is ignored");
        };
        if version <= document.version {
            // The order of the messages is what counts: the text would be wrong without this change.
            tracing::warn!("a document went from version {} to {version}", document.version);
        }
        for change in changes {
            apply(&mut document.text, change, encoding);
        }
        document.version = version;
        document.revision = self.revision();
        document.newest.cancel();
    }

    /// Forgets a document and cancels what runs on it.
    pub fn close(&self, uri: &str) {
        match self.open.remove(uri) {
            Some((_, document)) => document.newest.cancel(),
            None => tracing::warn!("a document was closed that is not open"),
        }
    }

    /// Starts a request about a document, which ends the one before; `None` when it is not open.
    pub fn begin(&self, uri: &str) -> Option<Snapshot> {
        let mut document = self.open.get_mut(uri)?;
        let cancel = Cancel::new();
        std::mem::replace(&mut document.newest, cancel.clone()).cancel();
        Some(Snapshot { text: document.text.clone(), revision: document.revision, cancel })
    }

    /// Whether a document is still open and unchanged since the snapshot with this revision.
    pub fn is_current(&self, uri: &str, revision: u64) -> bool {
        self.open.get(uri).is_some_and(|document| document.revision == revision)
    }

    /// Cancels everything that runs.
    pub fn cancel_all(&self) {
        for document in &self.open {
            document.newest.cancel();
        }
    }

    fn revision(&self) -> u64 {
        self.revisions.fetch_add(1, Ordering::Relaxed)
    }
}

fn apply(text: &mut Rope, change: &TextDocumentContentChangeEvent, encoding: Encoding) {
    match change {
        TextDocumentContentChangeEvent::TextDocumentContentChangePartial(change) => {
            let chars = encoding.to_chars(text, change.range);
            let start = chars.start;
            text.remove(chars);
            text.insert(start, &change.text);
        }
        TextDocumentContentChangeEvent::TextDocumentContentChangeWholeDocument(change) => {
            *text = Rope::from_str(&change.text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tower_lsp::gen_lsp_types::{
        Position, Range, TextDocumentContentChangePartial, TextDocumentContentChangeWholeDocument,
    };

    fn partial(start: Position, end: Position, text: &str) -> TextDocumentContentChangeEvent {
        TextDocumentContentChangePartial::new(Range { start, end }, None, text.into()).into()
    }

    fn text(documents: &Documents, uri: &str) -> String {
        documents.begin(uri).unwrap().text.to_string()
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
            // Knuth's MMIX generator: the same edits on every run.
            let mut state = 7u64;
            let mut random = |below: usize| {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                (state >> 33) as usize % below
            };
            let documents = Documents::default();
            documents.open("u".into(), 0, "");
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
                documents.change("u", version, &changes, encoding);
                longest = longest.max(expected.len());
                assert_eq!(text(&documents, "u"), expected, "{encoding:?}, version {version}");
            }
            assert!(longest > 200, "the edits came to nothing: at most {longest} bytes");
        }
    }

    #[test]
    fn damaged_changes_do_no_harm() {
        let documents = Documents::default();
        let at = |line, character| Position { line, character };
        documents.change("never opened", 1, &[partial(at(0, 0), at(0, 0), "x")], Encoding::Utf16);
        documents.close("never opened");
        assert!(documents.begin("never opened").is_none());

        documents.open("u".into(), 5, "ab\ncd");
        documents.change("u", 5, &[partial(at(0, 2), at(0, 1), "x")], Encoding::Utf16);
        assert_eq!(text(&documents, "u"), "ax\ncd");
        documents.change("u", 4, &[partial(at(1, 9), at(9, 9), "!")], Encoding::Utf16);
        assert_eq!(text(&documents, "u"), "ax\ncd!");
        documents.open("u".into(), 0, "again");
        assert_eq!(text(&documents, "u"), "again");
    }

    #[test]
    fn what_is_out_of_date_is_cancelled() {
        let documents = Documents::default();
        documents.open("u".into(), 1, "a");
        let first = documents.begin("u").unwrap();
        let second = documents.begin("u").unwrap();
        assert!(first.cancel.is_cancelled() && !second.cancel.is_cancelled());
        assert!(documents.is_current("u", first.revision));
        documents.change("u", 2, &[], Encoding::Utf8);
        assert!(second.cancel.is_cancelled() && !documents.is_current("u", second.revision));
        let third = documents.begin("u").unwrap();
        documents.close("u");
        documents.open("u".into(), 1, "a");
        assert!(third.cancel.is_cancelled() && !documents.is_current("u", third.revision));
    }
}
