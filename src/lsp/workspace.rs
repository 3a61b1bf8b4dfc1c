//! Workspace folders, and which files are excluded: secret, ignored by git, or disabled.
//!
//! Only `.gitignore` files are read.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use dashmap::DashMap;
use ignore::gitignore::{Gitignore, GitignoreBuilder};
use percent_encoding::percent_decode_str;

use super::secret::is_secret;
use crate::config::Disabled;

/// The workspace folders of an editor, and the rules that exclude files.
pub(super) struct Workspace {
    /// Longest first.
    roots: Vec<String>,
    disabled: Disabled,
    globs: Gitignore,
    ignored: Ignored,
}

impl Workspace {
    pub(super) fn new(roots: &[String], disabled: Disabled) -> Self {
        let mut roots: Vec<String> =
            roots.iter().map(|uri| path_of(uri).trim_end_matches('/').to_owned()).collect();
        roots.sort_by_key(|root| std::cmp::Reverse(root.len()));
        let mut globs = GitignoreBuilder::new("/");
        for glob in &disabled.globs {
            if let Err(error) = globs.add_line(None, glob) {
                tracing::warn!("disabled.globs: {error}");
            }
        }
        let globs = globs.build().unwrap_or_else(|_| Gitignore::empty());
        Self { roots, disabled, globs, ignored: Ignored::default() }
    }

    /// The path of a document relative to its workspace folder, or its file name where it is in none.
    pub(super) fn relative(&self, uri: &str) -> String {
        let path = path_of(uri);
        let relative_to =
            |root: &String| Some(path.strip_prefix(root.as_str())?.strip_prefix('/')?.to_owned());
        let name = || path.rsplit('/').next().unwrap_or_default().to_owned();
        self.roots.iter().find_map(relative_to).unwrap_or_else(name)
    }

    /// Whether a document may be completed and used as context.
    pub(super) fn allows(&self, uri: &str, language: &str) -> bool {
        let path = path_of(uri);
        if is_secret(&path) || is_disabled(&self.disabled.languages, language) {
            return false;
        }
        let relative = PathBuf::from("/").join(self.relative(uri));
        if self.globs.matched_path_or_any_parents(&relative, false).is_ignore() {
            return false;
        }
        !(uri.starts_with("file:") && self.ignored.contains(Path::new(native(&path))))
    }
}

/// Whether the last pattern that matches `language` is one without `!`.
fn is_disabled(patterns: &[String], language: &str) -> bool {
    let matches = |pattern: &&str| {
        let name = pattern.strip_prefix('!').unwrap_or(pattern);
        name == "*" || name == language
    };
    let last = patterns.iter().map(String::as_str).rfind(matches);
    last.is_some_and(|pattern| !pattern.starts_with('!'))
}

/// The path of a URI of any scheme, decoded.
pub(super) fn path_of(uri: &str) -> String {
    let path = uri.split_once(':').map_or(uri, |(_, rest)| rest);
    let path = path.strip_prefix("//").map_or(path, |rest| &rest[rest.find('/').unwrap_or(0)..]);
    let path = path.split(['?', '#']).next().unwrap_or_default();
    percent_decode_str(path).decode_utf8_lossy().into_owned()
}

/// The native path: `c:/a` for `/c:/a`.
fn native(path: &str) -> &str {
    match path.as_bytes() {
        [b'/', drive, b':', ..] if drive.is_ascii_alphabetic() => &path[1..],
        _ => path,
    }
}

/// Files that git ignores, by the rules of the innermost repository.
#[derive(Default)]
struct Ignored {
    /// The rules of a file, with its modification time.
    rules: DashMap<PathBuf, (SystemTime, Arc<Gitignore>)>,
    /// The user's global rules.
    global: OnceLock<Gitignore>,
}

impl Ignored {
    /// Whether `path` or one of its parents is ignored.
    fn contains(&self, path: &Path) -> bool {
        let has_parts = |path: &Path| path.components().all(|part| part != std::path::Component::ParentDir);
        let folders: Vec<&Path> = path.ancestors().skip(1).collect();
        let is_root = |folder: &&Path| folder.join(".git").exists();
        let Some(depth) = folders.iter().position(is_root).filter(|_| has_parts(path)) else {
            return false;
        };
        let root = folders[depth];
        // The rules of inner folders take precedence.
        let rules: Vec<(&Path, Arc<Gitignore>)> = folders[..=depth]
            .iter()
            .filter_map(|folder| Some((*folder, self.rules(folder, &folder.join(".gitignore"))?)))
            .collect();
        let exclude = self.rules(root, &root.join(".git/info/exclude"));
        let global = self.global.get_or_init(|| Gitignore::global().0);
        let is_ignored = |path: &Path, is_dir: bool| {
            let own = rules.iter().filter(|(folder, _)| path != *folder && path.starts_with(folder));
            let own = own.map(|(_, rules)| rules.matched(path, is_dir));
            let shared = exclude.iter().map(|rules| rules.matched(path, is_dir));
            let verdicts = own.chain(shared).map(|verdict| (verdict.is_ignore(), verdict.is_whitelist()));
            let mut verdicts = verdicts.filter(|&(ignored, kept)| ignored || kept);
            match verdicts.next() {
                Some((is_ignored, _)) => is_ignored,
                None => path.strip_prefix(root).is_ok_and(|path| global.matched(path, is_dir).is_ignore()),
            }
        };
        folders[..depth].iter().any(|folder| is_ignored(folder, true)) || is_ignored(path, false)
    }

    /// The rules in `file`, relative to `folder`; `None` where there is no such file.
    fn rules(&self, folder: &Path, file: &Path) -> Option<Arc<Gitignore>> {
        let changed = file.metadata().and_then(|metadata| metadata.modified()).ok()?;
        if let Some(cached) = self.rules.get(file).filter(|cached| cached.0 == changed) {
            return Some(cached.1.clone());
        }
        let mut builder = GitignoreBuilder::new(folder);
        if builder.add(file).is_some() {
            tracing::warn!("a .gitignore has invalid rules");
        }
        let rules = Arc::new(builder.build().ok()?);
        self.rules.insert(file.to_owned(), (changed, rules.clone()));
        Some(rules)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn uris_have_paths() {
        for (uri, path) in [
            ("file:///home/me/a.rs", "/home/me/a.rs"),
            ("file://host/share/a%20b.rs", "/share/a b.rs"),
            ("file:///c%3A/%E4%B8%96.py", "/c:/世.py"),
            ("file:///home/me/%2Eenv", "/home/me/.env"),
            ("untitled:Untitled-1", "Untitled-1"),
            ("vscode-notebook-cell:/n.ipynb#W0", "/n.ipynb"),
            ("100%", "100%"),
            ("a:%zz%4", "%zz%4"),
            ("", ""),
        ] {
            assert_eq!(path_of(uri), path);
        }
        assert_eq!((native("/c:/a"), native("/c/a"), native("/")), ("c:/a", "/c/a", "/"));
    }

    #[test]
    fn paths_are_relative_to_the_innermost_folder() {
        let roots = ["file:///a".into(), "file:///a/b/".into()];
        let workspace = Workspace::new(&roots, Disabled::default());
        for (uri, path) in [
            ("file:///a/c.rs", "c.rs"),
            ("file:///a/b/c.rs", "c.rs"),
            ("file:///a/bc/d.rs", "bc/d.rs"),
            ("file:///e/f.rs", "f.rs"),
            ("untitled:Untitled-1", "Untitled-1"),
        ] {
            assert_eq!(workspace.relative(uri), path);
        }
    }

    #[test]
    fn files_are_disabled_by_language_and_pattern() {
        let disabled = Disabled {
            languages: vec!["markdown".into()],
            globs: vec!["*.csv".into(), "/vendor/".into(), "!keep.csv".into()],
        };
        let workspace = Workspace::new(&["file:///a".into()], disabled);
        for (uri, language, is_allowed) in [
            ("file:///a/b.rs", "rust", true),
            ("file:///a/b.rs", "markdown", false),
            ("file:///a/b/c.csv", "text", false),
            ("file:///a/keep.csv", "text", true),
            ("file:///a/vendor/b/c.rs", "rust", false),
            ("file:///a/b/vendor/c.rs", "rust", true),
            ("file:///a/.env", "text", false),
            ("untitled:b.csv", "text", false),
            ("", "", true),
        ] {
            assert_eq!(workspace.allows(uri, language), is_allowed, "{uri} {language}");
        }
    }

    #[test]
    fn negated_patterns_enable_again() {
        for (languages, globs, uri, language, is_allowed) in [
            (&["*", "!rust"][..], &[][..], "file:///a/b.rs", "rust", true),
            (&["*", "!rust"], &[], "file:///a/b.py", "python", false),
            (&["!rust", "*"], &[], "file:///a/b.rs", "rust", false),
            (&["rust", "!rust"], &[], "file:///a/b.rs", "rust", true),
            (&["!rust"], &[], "file:///a/b.py", "python", true),
            (&[], &["*", "!*.rs"], "file:///a/b.rs", "rust", true),
            (&[], &["*", "!*.rs"], "file:///a/b.py", "python", false),
            (&[], &["/gen/*", "!/gen/kept.rs"], "file:///a/gen/kept.rs", "rust", true),
            (&[], &["/gen/*", "!/gen/kept.rs"], "file:///a/gen/other.rs", "rust", false),
            (&["rust"], &["!*.rs"], "file:///a/b.rs", "rust", false),
        ] {
            let texts = |texts: &[&str]| texts.iter().map(ToString::to_string).collect();
            let disabled = Disabled { languages: texts(languages), globs: texts(globs) };
            let workspace = Workspace::new(&["file:///a".into()], disabled);
            assert_eq!(workspace.allows(uri, language), is_allowed, "{languages:?} {globs:?} {uri}");
        }
    }

    #[test]
    fn files_that_git_ignores_are_excluded() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        for folder in ["repo/.git/info", "repo/src/deep", "repo/target/kept", "repo/inner/.git"] {
            fs::create_dir_all(root.join(folder)).unwrap();
        }
        fs::write(root.join(".gitignore"), "*\n").unwrap();
        fs::write(root.join("repo/.gitignore"), "/target\n*.gen.rs\nlocal/\n").unwrap();
        fs::write(root.join("repo/src/.gitignore"), "!kept.gen.rs\nown.rs\n").unwrap();
        fs::write(root.join("repo/target/kept/.gitignore"), "!*\n").unwrap();
        fs::write(root.join("repo/.git/info/exclude"), "notes.md\n").unwrap();
        let workspace = Workspace::new(&[], Disabled::default());
        let allows = |path: &str| workspace.allows(&format!("file://{}/{path}", root.display()), "");
        for (path, is_allowed) in [
            ("repo/src/a.rs", true),
            ("repo/src/a.gen.rs", false),
            ("repo/src/kept.gen.rs", true),
            ("repo/src/deep/kept.gen.rs", true),
            ("repo/src/own.rs", false),
            ("repo/own.rs", true),
            ("repo/target/a.rs", false),
            ("repo/target/kept/a.rs", false),
            ("repo/src/target/a.rs", true),
            ("repo/src/local/a.rs", false),
            ("repo/src/notes.md", false),
            ("repo/inner/a.gen.rs", true),
            ("repo/src/../a.gen.rs", true),
            ("outside.rs", true),
        ] {
            assert_eq!(allows(path), is_allowed, "{path}");
        }
        fs::write(root.join("repo/.gitignore"), "src\n").unwrap();
        let later = SystemTime::now() + std::time::Duration::from_secs(5);
        fs::File::options()
            .write(true)
            .open(root.join("repo/.gitignore"))
            .unwrap()
            .set_modified(later)
            .unwrap();
        assert!(!allows("repo/src/a.rs") && allows("repo/a.gen.rs"));
    }
}
