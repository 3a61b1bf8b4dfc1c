//! Documentation that was written for a hover, by the text it is about. Pure.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

/// Most texts that are remembered.
const ENTRIES_MAX: usize = 256;

/// What is known about definitions. Their text is not kept.
#[derive(Debug, Default)]
pub struct Memory {
    entries: HashMap<u64, Entry>,
    /// Counts uses, to know which entry was used last.
    clock: u64,
}

/// What is known about one definition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// What was written so far; empty where there is nothing to say.
    pub text: String,
    /// Whether that is all.
    pub is_complete: bool,
}

#[derive(Debug)]
struct Entry {
    known: Known,
    used: u64,
}

/// What stands for the text of a definition in a language.
pub fn key(language: &str, text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    (language, text).hash(&mut hasher);
    hasher.finish()
}

impl Memory {
    /// What is known about `key`.
    pub fn get(&mut self, key: u64) -> Option<Known> {
        self.clock += 1;
        let entry = self.entries.get_mut(&key)?;
        entry.used = self.clock;
        Some(entry.known.clone())
    }

    /// Notes what is known about `key`, and forgets what was not asked for the longest.
    pub fn note(&mut self, key: u64, known: Known) {
        self.clock += 1;
        self.entries.insert(key, Entry { known, used: self.clock });
        if self.entries.len() > ENTRIES_MAX {
            let oldest = self.entries.iter().min_by_key(|(_, entry)| entry.used).map(|(&key, _)| key);
            oldest.map(|oldest| self.entries.remove(&oldest));
        }
    }

    /// Forgets what was not written to its end.
    pub fn give_up(&mut self, key: u64) {
        if self.entries.get(&key).is_some_and(|entry| !entry.known.is_complete) {
            self.entries.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_used_the_longest_is_forgotten() {
        let mut memory = Memory::default();
        let known = |text: &str, is_complete| Known { text: text.into(), is_complete };
        memory.note(0, known("a", false));
        memory.note(1, known("b", true));
        for key in 2..256 {
            memory.note(key, known("", true));
        }
        assert_eq!(memory.get(0), Some(known("a", false)));
        memory.note(256, known("c", true));
        assert_eq!((memory.get(1), memory.get(256)), (None, Some(known("c", true))));
        memory.give_up(0);
        memory.give_up(256);
        assert!(memory.get(0).is_none() && memory.get(256).is_some());
        assert_ne!(key("a", "b"), key("ab", ""));
    }
}
