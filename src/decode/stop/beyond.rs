//! What a text has behind the end of its block. A text that ends by itself there, or where the suffix begins, is meant like
//! that; one that does not end by itself ends with its block.

use crate::text::{Delimiters, Lexer};

/// The text behind the end of its block.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Beyond {
    /// Most lines to read there, blank ones not counted; with 0, the text ends with its block.
    lines_max: usize,
    /// The delimiters that are closed behind the cursor, outermost first: they have to be open again where the text ends.
    closed: String,
    /// Where the text left its block, in bytes.
    left: Option<usize>,
    /// The lines since then.
    lines: usize,
}

impl Beyond {
    pub(super) fn new(lines_max: usize, closed: &str) -> Self {
        Self { lines_max, closed: closed.into(), left: None, lines: 0 }
    }

    /// The end of a text that leaves its block at the byte `cut`; `None` if what follows decides.
    pub(super) fn leave(&mut self, cut: usize) -> Option<usize> {
        if self.lines_max == 0 {
            return Some(cut);
        }
        self.left.get_or_insert(cut);
        None
    }

    /// Where the text left its block.
    pub(super) fn left(&self) -> Option<usize> {
        self.left
    }

    /// Counts a line; the end of the text if it has too many, unless it `repeats` the suffix.
    pub(super) fn read_line(&mut self, repeats: bool) -> Option<usize> {
        self.lines += usize::from(self.left.is_some());
        self.left.filter(|_| self.lines > self.lines_max && !repeats)
    }

    /// The end of a `text` that ends by itself: its own, unless it has left its block and closed there what the suffix closes,
    /// or opened what nothing closes. `open` are the delimiters that it may close.
    pub(super) fn settle(&self, text: &str, lexer: Lexer, open: &str) -> usize {
        let Some(left) = self.left else { return text.len() };
        if lexer.syntax().is_prose {
            return text.len();
        }
        let before: Vec<char> = self.closed.chars().chain(open.chars()).collect();
        let mut delimiters = Delimiters::new(lexer, &format!("{}{open}", self.closed));
        let is_matched = text.chars().all(|c| !delimiters.read(c));
        let after = delimiters.open();
        let closed = self.closed.chars().count();
        let is_same = after.len() >= closed && after[..closed] == before[..closed];
        if is_matched && is_same && after.len() <= before.len() { text.len() } else { left }
    }
}
