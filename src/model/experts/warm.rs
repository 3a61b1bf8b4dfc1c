//! Which experts were useful, remembered from one start to the next: a small file that is ignored when the model has
//! changed.

use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::{Hash, Hasher};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// Where the experts of a model are remembered.
#[derive(Debug)]
pub struct Remembered {
    path: PathBuf,
    model: Model,
}

/// What tells models apart.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Model {
    path: PathBuf,
    bytes: u64,
    modified_ms: u64,
}

#[derive(Serialize, Deserialize)]
struct Content {
    model: Model,
    /// For each layer its experts, the most useful first.
    layers: Vec<Vec<u32>>,
}

impl Remembered {
    /// In the folder `dir`, for the model whose file, or one of them, is `model`.
    pub fn new(dir: &Path, model: &Path) -> Result<Self> {
        let describe = || format!("cannot read {}", model.display());
        let metadata = fs::metadata(model).with_context(describe)?;
        let modified = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        let model = Model {
            path: std::path::absolute(model).with_context(describe)?,
            bytes: metadata.len(),
            modified_ms: modified.map_or(0, |since| since.as_millis() as u64),
        };
        let mut hasher = DefaultHasher::new();
        model.path.hash(&mut hasher);
        Ok(Self { path: dir.join(format!("{:016x}.json", hasher.finish())), model })
    }

    /// For each layer the experts that were useful, the most useful first; none where nothing is known of this model.
    pub(super) fn read(&self) -> Vec<Vec<u32>> {
        let content =
            fs::read(&self.path).ok().and_then(|bytes| serde_json::from_slice::<Content>(&bytes).ok());
        content.filter(|content| content.model == self.model).map_or_else(Vec::new, |content| content.layers)
    }

    /// Replaces the file. A failure is logged: then the next start is a cold one.
    pub(super) fn write(&self, layers: Vec<Vec<u32>>) {
        if layers.iter().all(Vec::is_empty) {
            return;
        }
        if let Err(error) = self.replace(&Content { model: self.model.clone(), layers }) {
            tracing::warn!("the experts in memory are forgotten: {error:#}");
        }
    }

    fn replace(&self, content: &Content) -> Result<()> {
        let describe = || format!("cannot write {}", self.path.display());
        let dir = self.path.parent().context("it is in no folder")?;
        fs::create_dir_all(dir).with_context(describe)?;
        let mut file = tempfile::NamedTempFile::new_in(dir).with_context(describe)?;
        file.write_all(&serde_json::to_vec(content)?).with_context(describe)?;
        file.persist(&self.path).with_context(describe)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_model_is_not_mistaken_for_this_one() {
        let dir = tempfile::tempdir().unwrap();
        let model = dir.path().join("model.gguf");
        fs::write(&model, "model").unwrap();
        let open = || Remembered::new(&dir.path().join("experts"), &model).unwrap();
        assert!(open().read().is_empty());
        open().write(vec![vec![3, 1], vec![]]);
        assert_eq!(open().read(), [vec![3, 1], vec![]]);
        fs::write(&model, "another").unwrap();
        assert!(open().read().is_empty());
        open().write(vec![vec![2]]);
        fs::write(&open().path, "{").unwrap();
        assert!(open().read().is_empty(), "a damaged file is ignored");
    }
}
