//! Suggestions: the cache of answers, and the one on screen. Pure.

use std::collections::VecDeque;

use super::super::edit::Change;
use super::super::request::{Lines, Request};
use super::super::rules::trimmed;
use super::action::{EditorRequest, Item, Trigger};
use super::location::{Location, LocationMatcher};
use crate::decode::StopReason;

/// Most cached answers.
pub(super) const CACHE_ENTRIES_MAX: usize = 256;
/// An insertion of fewer characters is typing, even where it completes the suggestion.
const ACCEPTED_CHARS_MIN: usize = 2;

/// An answer and its location.
#[derive(Clone)]
pub(super) struct Entry {
    pub key: String,
    pub location: Location,
    pub trigger: Trigger,
    pub items: Vec<Item>,
}

/// LRU cache of answers, the latest last.
#[derive(Default)]
pub(super) struct Cache {
    entries: VecDeque<Entry>,
}

/// The suggestion that an editor shows.
pub(super) struct Screen {
    pub entry: Entry,
    /// Bytes before the cursor.
    pub cursor: usize,
    /// The rest of each item there.
    rests: Vec<String>,
}

impl Entry {
    /// The rest of the items at the cursor of a request; `None` if this is not their location, or nothing is left.
    pub(super) fn rest(
        &self,
        editor_request: &EditorRequest,
        matcher: &LocationMatcher,
    ) -> Option<Vec<Item>> {
        if self.key != editor_request.key || !editor_request.trigger.is_served_by(self.trigger) {
            return None;
        }
        let (typed, closers) = matcher.typed_since(&self.location)?;
        if self.items.is_empty() {
            return (typed.is_empty() && closers == 0).then(Vec::new);
        }
        let rests = self.items.iter().filter_map(|item| rest_of(&item.text, typed, closers, editor_request));
        let rests: Vec<Item> = rests.map(|text| Item { text }).collect();
        (!rests.is_empty()).then_some(rests)
    }
}

/// The rest of `text` after `typed`, after which the editor has added `closers` closing delimiters.
fn rest_of(text: &str, typed: &str, closers: usize, editor_request: &EditorRequest) -> Option<String> {
    let rest = text.strip_prefix(typed).filter(|rest| !rest.trim().is_empty())?;
    if closers == 0 {
        return Some(rest.to_owned());
    }
    let request = Request { lines: Lines::Multi, ..Request::of(editor_request.document.clone()) };
    trimmed(&request, rest, StopReason::EndToken).ok()
}

impl Cache {
    /// The latest answer with a rest at the cursor of a request.
    pub(super) fn find(
        &mut self,
        editor_request: &EditorRequest,
        matcher: &LocationMatcher,
    ) -> Option<(Entry, Vec<Item>)> {
        let rests = self.entries.iter().enumerate().rev();
        let (at, items) =
            rests.into_iter().find_map(|(at, entry)| Some((at, entry.rest(editor_request, matcher)?)))?;
        let entry = self.entries.remove(at)?;
        self.entries.push_back(entry.clone());
        Some((entry, items))
    }

    /// Adds an answer, or replaces one of the same location.
    pub(super) fn keep(&mut self, entry: Entry) {
        let is_same = |other: &Entry| {
            other.key == entry.key && other.trigger == entry.trigger && other.location == entry.location
        };
        self.entries.retain(|other| !is_same(other));
        if self.entries.len() == CACHE_ENTRIES_MAX {
            self.entries.pop_front();
        }
        self.entries.push_back(entry);
    }

    /// Whether there is an answer at exactly this location.
    pub(super) fn contains(&self, key: &str, location: &Location) -> bool {
        self.entries.iter().any(|entry| entry.key == key && entry.location == *location)
    }

    /// Forgets the answers in the document `key`.
    pub(super) fn forget(&mut self, key: &str) {
        self.entries.retain(|entry| entry.key != key);
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.entries.clear();
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }
}

impl Screen {
    /// The rest of `entry` at `cursor`; `None` if there is none.
    pub(super) fn new(entry: Entry, cursor: usize, items: &[Item]) -> Option<Self> {
        let rests: Vec<String> = items.iter().map(|item| item.text.clone()).collect();
        (!rests.is_empty()).then_some(Self { entry, cursor, rests })
    }

    /// Whether no item continues the typed text.
    pub(super) fn is_over(&self) -> bool {
        self.rests.is_empty()
    }

    /// Applies a change. If it is an accept, returns the accepted length in characters and the cursor after it.
    pub(super) fn accept(&mut self, change: &Change) -> Option<(usize, usize)> {
        let Change { at, removed, inserted } = change;
        let accepted = self.rests.iter().find(|rest| {
            inserted.ends_with(rest.as_str())
                && rest.chars().nth(ACCEPTED_CHARS_MIN - 1).is_some()
                && at + inserted.len() == self.cursor + rest.len()
        });
        if let Some(rest) = accepted {
            let accepted = (rest.chars().count(), self.cursor + rest.len());
            self.rests.clear();
            return Some(accepted);
        }
        let is_typed = *removed == 0 && *at == self.cursor;
        let typed = change.typed();
        let left = |rest: &String| rest.strip_prefix(typed).filter(|_| is_typed).map(str::to_owned);
        self.rests = self.rests.iter().filter_map(left).collect();
        self.cursor += typed.len();
        None
    }
}
