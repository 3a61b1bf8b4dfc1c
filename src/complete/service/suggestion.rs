//! What was suggested: answers that are kept, and the one on screen. Pure.

use std::collections::VecDeque;

use super::super::edit::Change;
use super::super::request::{Lines, Request};
use super::super::rules::trimmed;
use super::action::{Ask, Item, Trigger};
use super::place::{Here, Place};

/// Answers kept.
pub(super) const CACHE_ENTRIES_MAX: usize = 256;
/// An insertion of fewer characters is typing, even where it completes the suggestion.
const ACCEPTED_CHARS_MIN: usize = 2;

/// An answer and where it belongs.
#[derive(Clone)]
pub(super) struct Entry {
    pub key: String,
    pub place: Place,
    pub trigger: Trigger,
    pub items: Vec<Item>,
}

/// Earlier answers, the latest last.
#[derive(Default)]
pub(super) struct Cache {
    entries: VecDeque<Entry>,
}

/// What an editor shows of an answer.
pub(super) struct Screen {
    pub entry: Entry,
    /// Bytes before the cursor.
    pub cursor: usize,
    /// What is left of the items there.
    rests: Vec<String>,
}

impl Entry {
    /// What is left of the items where `ask` is; `None` if this is not their place, or nothing is left.
    pub(super) fn rest(&self, ask: &Ask, here: &Here) -> Option<Vec<Item>> {
        if self.key != ask.key || !ask.trigger.is_served_by(self.trigger) {
            return None;
        }
        here.typed_since(&self.place).find_map(|(typed, closers)| {
            if self.items.is_empty() {
                return (typed.is_empty() && closers == 0).then(Vec::new);
            }
            let rests = self.items.iter().filter_map(|item| rest_of(&item.text, typed, closers, ask));
            let rests: Vec<Item> = rests.map(|text| Item { text }).collect();
            (!rests.is_empty()).then_some(rests)
        })
    }
}

/// What is left of `text` after `typed`, behind which the editor has added `closers` closing delimiters.
fn rest_of(text: &str, typed: &str, closers: usize, ask: &Ask) -> Option<String> {
    let rest = text.strip_prefix(typed).filter(|rest| !rest.trim().is_empty())?;
    if closers == 0 {
        return Some(rest.to_owned());
    }
    let request = Request { lines: Lines::Multi, ..Request::of(ask.document.clone()) };
    trimmed(&request, rest).ok()
}

impl Cache {
    /// The latest answer of which something is left where `ask` is.
    pub(super) fn find(&mut self, ask: &Ask, here: &Here) -> Option<(Entry, Vec<Item>)> {
        let rests = self.entries.iter().enumerate().rev();
        let (at, items) = rests.into_iter().find_map(|(at, entry)| Some((at, entry.rest(ask, here)?)))?;
        let entry = self.entries.remove(at)?;
        self.entries.push_back(entry.clone());
        Some((entry, items))
    }

    /// Keeps an answer in the place of an older one.
    pub(super) fn keep(&mut self, entry: Entry) {
        let is_same = |other: &Entry| {
            other.key == entry.key && other.trigger == entry.trigger && other.place == entry.place
        };
        self.entries.retain(|other| !is_same(other));
        if self.entries.len() == CACHE_ENTRIES_MAX {
            self.entries.pop_front();
        }
        self.entries.push_back(entry);
    }

    /// Whether there is an answer for this very place.
    pub(super) fn knows(&self, key: &str, place: &Place) -> bool {
        self.entries.iter().any(|entry| entry.key == key && entry.place == *place)
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
    /// What is left of `entry`, at `cursor`; `None` if nothing is.
    pub(super) fn new(entry: Entry, cursor: usize, items: &[Item]) -> Option<Self> {
        let rests: Vec<String> = items.iter().map(|item| item.text.clone()).collect();
        (!rests.is_empty()).then_some(Self { entry, cursor, rests })
    }

    /// Whether nothing of it continues what was typed.
    pub(super) fn is_over(&self) -> bool {
        self.rests.is_empty()
    }

    /// Follows a change. If it is an accept, returns the length of what was accepted and where the cursor
    /// is then.
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
