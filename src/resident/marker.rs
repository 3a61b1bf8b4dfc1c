//! The mark on disk that a model is being loaded. A daemon that finds one knows what has ended the daemon before it.

use std::fs;
use std::path::PathBuf;

use crate::base::file;

/// Most bytes of a name that are read.
const BYTES_MAX: u64 = 1 << 12;

/// Where the mark is, if anywhere.
#[derive(Clone, Debug, Default)]
pub struct LoadMarker {
    path: Option<PathBuf>,
}

impl LoadMarker {
    /// A file that need not be there.
    pub fn at(path: PathBuf) -> Self {
        Self { path: Some(path) }
    }

    /// Whether the model of this name was being loaded when the process ended.
    pub(super) fn names(&self, name: &str) -> bool {
        let text = self.path.as_ref().and_then(|path| file::read_text(path, BYTES_MAX).ok());
        text.is_some_and(|text| text == name)
    }

    pub(super) fn set(&self, name: &str) {
        if let Some(path) = &self.path
            && let Err(error) = fs::write(path, name)
        {
            tracing::warn!("cannot write {}: {error}", path.display());
        }
    }

    pub(super) fn clear(&self) {
        if let Some(path) = &self.path {
            let _ = fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_names_one_model_until_it_is_cleared() {
        let dir = tempfile::tempdir().unwrap();
        let marker = LoadMarker::at(dir.path().join("loading"));
        assert!(!marker.names("a"));
        marker.set("a");
        assert!(marker.names("a") && !marker.names("b"));
        marker.clear();
        assert!(!marker.names("a"));
        let none = LoadMarker::default();
        none.set("a");
        assert!(!none.names("a"));
    }
}
