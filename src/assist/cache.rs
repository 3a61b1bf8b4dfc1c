//! An LRU cache of documentation written for hovers, by the text of the definition. Pure.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

/// Most entries.
const ENTRIES_MAX: usize = 256;

/// Generated documentation by [`key`]. The text of definitions is not kept.
#[derive(Debug, Default)]
pub struct DocumentationCache {
    entries: HashMap<u64, Entry>,
    /// Number of uses.
    clock: u64,
}

/// The documentation of one definition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CachedText {
    /// The text generated so far; empty when the model wrote nothing useful.
    pub text: String,
    /// Whether generation has finished.
    pub is_complete: bool,
}

#[derive(Debug)]
struct Entry {
    cached: CachedText,
    used: u64,
}

/// A hash of the text of a definition and its language.
pub fn key(language: &str, text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    (language, text).hash(&mut hasher);
    hasher.finish()
}

impl DocumentationCache {
    /// The entry of `key`, which becomes the most recently used.
    pub fn get(&mut self, key: u64) -> Option<CachedText> {
        self.clock += 1;
        let entry = self.entries.get_mut(&key)?;
        entry.used = self.clock;
        Some(entry.cached.clone())
    }

    /// Inserts or replaces an entry, and evicts the least recently used one when the cache is full.
    pub fn insert(&mut self, key: u64, cached: CachedText) {
        self.clock += 1;
        self.entries.insert(key, Entry { cached, used: self.clock });
        if self.entries.len() > ENTRIES_MAX {
            let oldest = self.entries.iter().min_by_key(|(_, entry)| entry.used).map(|(&key, _)| key);
            oldest.map(|oldest| self.entries.remove(&oldest));
        }
    }

    /// Removes an entry whose generation has not finished.
    pub fn remove_incomplete(&mut self, key: u64) {
        if self.entries.get(&key).is_some_and(|entry| !entry.cached.is_complete) {
            self.entries.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_entry_is_evicted() {
        let mut cache = DocumentationCache::default();
        let cached = |text: &str, is_complete| CachedText { text: text.into(), is_complete };
        cache.insert(0, cached("a", false));
        cache.insert(1, cached("b", true));
        for key in 2..256 {
            cache.insert(key, cached("", true));
        }
        assert_eq!(cache.get(0), Some(cached("a", false)));
        cache.insert(256, cached("c", true));
        assert_eq!((cache.get(1), cache.get(256)), (None, Some(cached("c", true))));
        cache.remove_incomplete(0);
        cache.remove_incomplete(256);
        assert!(cache.get(0).is_none() && cache.get(256).is_some());
        assert_ne!(key("a", "b"), key("ab", ""));
    }
}
