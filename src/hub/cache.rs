//! The cache of models on disk, laid out as all tools of Hugging Face do, which so share it: in
//! `models--OWNER--NAME`, `blobs` by their checksums, `snapshots/COMMIT` of links to them by their names, and `refs/main`
//! with the newest commit.

use std::collections::BTreeSet;
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use super::reference::{Reference, Repo};
use super::select::{self, Listed, Selected, Variant};
use crate::base::file;

/// Longest name of a commit, in bytes.
const REVISION_BYTES_MAX: u64 = 1 << 10;

/// The folder that all repositories lie in, whether or not it is there.
#[derive(Clone, Debug)]
pub struct Cache {
    root: PathBuf,
}

/// A model on disk.
#[derive(Clone, Debug)]
pub struct Cached {
    pub reference: Reference,
    /// What opens it.
    pub path: PathBuf,
    pub bytes: u64,
}

impl Cache {
    /// The one at `root`.
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// What opens a model, if all of it is here.
    pub fn find(&self, reference: &Reference) -> Result<Option<PathBuf>> {
        let found = self.variant(reference)?;
        Ok(found.map(|(snapshot, variant)| snapshot.join(variant.name)))
    }

    /// All models that are here.
    pub fn models(&self) -> Vec<Cached> {
        let mut models = Vec::new();
        let repos = entries(&self.root).into_iter().filter_map(|path| Repo::of_folder(&name_of(&path)));
        for repo in repos {
            let Some(snapshot) = self.snapshots(&repo).into_iter().next() else { continue };
            let files = files(&snapshot);
            let variants = match select::ggufs(&files) {
                ggufs if ggufs.is_empty() => vec![select::select(&files, None)],
                ggufs => ggufs.iter().map(|gguf| select::select(&files, Some(&gguf.name))).collect(),
            };
            models.extend(variants.into_iter().filter_map(|selected| {
                let Selected::One(variant) = selected else { return None };
                let file = Some(variant.name.clone()).filter(|name| !name.is_empty());
                Some(Cached {
                    reference: Reference { repo: repo.clone(), file },
                    bytes: variant.bytes().unwrap_or_default(),
                    path: snapshot.join(variant.name),
                })
            }));
        }
        models
    }

    /// Deletes a model and what was downloaded of its repository in part; returns the bytes that this frees.
    pub fn remove(&self, reference: &Reference) -> Result<u64> {
        let (repo, found) = (self.repo(&reference.repo), self.variant(reference)?);
        let parts = entries(&repo.join("blobs")).into_iter().filter(|path| is_partial(path));
        let parts: Vec<PathBuf> = parts.collect();
        ensure!(found.is_some() || !parts.is_empty(), "{reference} is not on disk");
        let links = found.into_iter().flat_map(|(snapshot, variant)| {
            variant.files.into_iter().map(move |file| snapshot.join(file.path))
        });
        let mut blobs = BTreeSet::new();
        for link in links {
            blobs.extend(link.canonicalize().ok());
            remove(&link)?;
        }
        let kept = self.targets(&reference.repo);
        let mut freed = 0;
        for blob in blobs.difference(&kept).chain(&parts) {
            freed += blob.metadata().map_or(0, |metadata| metadata.len());
            remove(blob)?;
        }
        if kept.is_empty() {
            fs::remove_dir_all(&repo).with_context(|| format!("cannot delete {}", repo.display()))?;
        }
        Ok(freed)
    }

    /// Where content lies.
    pub(super) fn blob(&self, repo: &Repo, etag: &str) -> PathBuf {
        self.repo(repo).join("blobs").join(etag)
    }

    /// Where it lies as long as it is not whole.
    pub(super) fn partial(&self, repo: &Repo, etag: &str) -> PathBuf {
        self.repo(repo).join("blobs").join(format!("{etag}.incomplete"))
    }

    /// Makes the folders of a repository.
    pub(super) fn create(&self, repo: &Repo) -> Result<PathBuf> {
        let blobs = self.repo(repo).join("blobs");
        fs::create_dir_all(&blobs).with_context(|| format!("cannot make the folder {}", blobs.display()))?;
        blobs.canonicalize().with_context(|| format!("cannot find {}", blobs.display()))
    }

    /// Keeps other processes from downloading the same; they lock the same file.
    pub(super) fn lock(&self, repo: &Repo, etag: &str) -> Result<File> {
        let path = self.root.join(".locks").join(repo.folder()).join(format!("{etag}.lock"));
        let describe = || format!("cannot lock {}", path.display());
        fs::create_dir_all(path.parent().expect("a file lies in a folder")).with_context(describe)?;
        let file = File::create(&path).with_context(describe)?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(TryLockError::WouldBlock) => {
                bail!("another process is downloading the same file; wait for it")
            }
            Err(TryLockError::Error(error)) => Err(error).with_context(describe),
        }
    }

    /// Where a file of a commit is found, whether or not it is there.
    pub(super) fn pointer(&self, repo: &Repo, commit: &str, path: &str) -> PathBuf {
        self.repo(repo).join("snapshots").join(commit).join(path)
    }

    /// Lets a file of a commit be found.
    pub(super) fn link(&self, repo: &Repo, commit: &str, path: &str, etag: &str) -> Result<()> {
        let pointer = self.pointer(repo, commit, path);
        let describe = || format!("cannot write {}", pointer.display());
        fs::create_dir_all(pointer.parent().expect("a file lies in a folder")).with_context(describe)?;
        let _ = fs::remove_file(&pointer);
        #[cfg(unix)]
        {
            let up = "../".repeat(2 + path.matches('/').count());
            std::os::unix::fs::symlink(format!("{up}blobs/{etag}"), &pointer).with_context(describe)
        }
        // Links are not for everyone there.
        #[cfg(not(unix))]
        fs::rename(self.blob(repo, etag), &pointer).with_context(describe)
    }

    /// Makes a commit the newest.
    pub(super) fn set_main(&self, repo: &Repo, commit: &str) -> Result<()> {
        let path = self.main(repo);
        let describe = || format!("cannot write {}", path.display());
        fs::create_dir_all(path.parent().expect("a file lies in a folder")).with_context(describe)?;
        fs::write(&path, commit).with_context(describe)
    }

    /// The files of a model, and the snapshot they belong to.
    fn variant(&self, reference: &Reference) -> Result<Option<(PathBuf, Variant)>> {
        for snapshot in self.snapshots(&reference.repo) {
            match select::select(&files(&snapshot), reference.file.as_deref()) {
                Selected::One(variant) => return Ok(Some((snapshot, variant))),
                Selected::Choices(choices) if reference.file.is_none() && !choices.is_empty() => {
                    let names: Vec<&str> = choices.iter().map(|variant| &*variant.name).collect();
                    bail!(
                        "{reference} is on disk several times; name one, as {reference}:FILE: {}",
                        names.join(", ")
                    )
                }
                Selected::Choices(_) | Selected::Incomplete { .. } => {}
            }
        }
        Ok(None)
    }

    /// What the files of all snapshots are.
    fn targets(&self, repo: &Repo) -> BTreeSet<PathBuf> {
        let snapshots = self.snapshots(repo).into_iter();
        let links = snapshots
            .flat_map(|snapshot| files(&snapshot).into_iter().map(move |file| snapshot.join(file.path)));
        links.filter_map(|link| link.canonicalize().ok()).collect()
    }

    /// The newest first.
    fn snapshots(&self, repo: &Repo) -> Vec<PathBuf> {
        let main = file::read_text(&self.main(repo), REVISION_BYTES_MAX).unwrap_or_default();
        let mut snapshots = entries(&self.repo(repo).join("snapshots"));
        snapshots.sort_by_key(|path| (name_of(path) != main.trim(), path.clone()));
        snapshots
    }

    fn repo(&self, repo: &Repo) -> PathBuf {
        self.root.join(repo.folder())
    }

    fn main(&self, repo: &Repo) -> PathBuf {
        self.repo(repo).join("refs").join("main")
    }
}

/// What is in a folder; nothing where there is none.
fn entries(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

/// The files below a folder that are there.
fn files(root: &Path) -> Vec<Listed> {
    let mut files = Vec::new();
    let mut dirs = vec![root.to_owned()];
    while let Some(dir) = dirs.pop() {
        for path in entries(&dir) {
            match path.metadata() {
                Ok(metadata) if metadata.is_dir() => dirs.push(path),
                Ok(metadata) => {
                    let name = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().replace('\\', "/");
                    files.push(Listed { path: name, bytes: Some(metadata.len()) });
                }
                Err(_) => {}
            }
        }
    }
    files
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn is_partial(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "incomplete")
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot delete {}", path.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    /// Puts a file into the cache.
    fn put(cache: &Cache, repo: &Repo, commit: &str, path: &str, content: &str) {
        cache.create(repo).unwrap();
        fs::write(cache.blob(repo, content), content).unwrap();
        cache.link(repo, commit, path, content).unwrap();
        cache.set_main(repo, commit).unwrap();
    }

    #[test]
    fn models_are_found_and_removed_with_what_only_they_need() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::new(dir.path());
        let reference = |text: &str| text.parse::<Reference>().unwrap();
        let repo = Repo::new("me/m").unwrap();
        assert_eq!(cache.find(&reference("me/m")).unwrap(), None);
        put(&cache, &repo, "1", "m-Q4_K_M.gguf", "four");
        put(&cache, &repo, "1", "eight/m-Q8_0.gguf", "eight");
        put(&cache, &repo, "2", "eight/m-Q8_0.gguf", "eight");
        put(&cache, &repo, "2", "m-00001-of-00002.gguf", "part");
        fs::write(cache.partial(&repo, "more"), "mo").unwrap();

        let found = |text: &str| cache.find(&reference(text)).unwrap();
        let content = |text: &str| fs::read_to_string(found(text).unwrap()).unwrap();
        assert_eq!(content("me/m:q4_k_m"), "four");
        assert_eq!((content("me/m:Q8_0"), content("me/m:m-Q8_0.gguf")), ("eight".into(), "eight".into()));
        assert_eq!((found("me/m:m-00001-of-00002.gguf"), found("me/other")), (None, None));
        assert!(cache.find(&reference("me/m")).unwrap_err().to_string().contains("several times"));
        let models = cache.models();
        assert_eq!(models.len(), 1);
        assert_eq!((models[0].reference.to_string(), models[0].bytes), ("me/m:eight/m-Q8_0.gguf".into(), 5));

        // The older snapshot still needs it.
        assert_eq!(cache.remove(&reference("me/m:Q8_0")).unwrap(), 2);
        assert_eq!(cache.remove(&reference("me/m:Q8_0")).unwrap(), 5);
        assert!(cache.remove(&reference("me/m:Q8_0")).is_err());
        assert_eq!(content("me/m:q4_k_m"), "four");
        cache.remove(&reference("me/m:q4_k_m")).unwrap();
        assert!(cache.repo(&repo).exists(), "a part is left");
        remove(&cache.pointer(&repo, "2", "m-00001-of-00002.gguf")).unwrap();
        put(&cache, &repo, "2", "m-Q4_K_M.gguf", "four");
        cache.remove(&reference("me/m")).unwrap();
        assert!(!cache.repo(&repo).exists());
        cache.create(&repo).unwrap();
        fs::write(cache.partial(&repo, "more"), "mo").unwrap();
        assert_eq!(cache.remove(&reference("me/m")).unwrap(), 2);
        assert!(cache.remove(&reference("me/m")).is_err() && !cache.repo(&repo).exists());
    }
}
