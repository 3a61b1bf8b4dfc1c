//! The predicate.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use super::git::Git;
use super::location::{Location, normal, path_of, plain, slashed};
use super::names::secret_pattern;
use super::pattern::Patterns;
use super::refusal::Refusal;

/// Longest path of a file that is looked at.
const PATH_BYTES_MAX: usize = 4096;
/// Most links that lead from one to the next.
const LINKS_MAX: usize = 32;

/// What settings exclude. There may be several lists of each kind: a document must pass all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Whether nothing is completed at all.
    pub is_disabled: bool,
    /// Language identifiers; `*` is any, and `!` negates.
    pub languages: Vec<Vec<String>>,
    /// Patterns of files, relative to the workspace folder.
    pub files: Vec<Vec<String>>,
    /// Patterns of files with secrets, besides those that are known.
    pub secrets: Vec<Vec<String>>,
    /// Patterns of files that may be read although their names are those of files with secrets.
    pub allowed: Vec<String>,
}

/// Decides which documents may be completed, read as context, hovered, explained and sent.
pub struct Guard {
    options: Options,
    files: Vec<Patterns>,
    secrets: Vec<Patterns>,
    allowed: Patterns,
    git: Arc<Git>,
    /// Paths of the workspace folders, the longest first.
    roots: Vec<String>,
    /// Where their links lead.
    resolved_roots: OnceLock<Vec<String>>,
}

impl Guard {
    /// With the URIs of the workspace folders.
    pub fn new(options: Options, roots: &[String], git: Arc<Git>) -> Self {
        let parse = |lists: &[Vec<String>]| lists.iter().map(|list| Patterns::of(list, false)).collect();
        let mut roots: Vec<String> =
            roots.iter().map(|uri| path_of(uri).trim_end_matches('/').to_owned()).collect();
        roots.sort_by_key(|root| std::cmp::Reverse(root.len()));
        Self {
            files: parse(&options.files),
            secrets: parse(&options.secrets),
            allowed: Patterns::of(&options.allowed, false),
            options,
            git,
            roots,
            resolved_roots: OnceLock::new(),
        }
    }

    /// Whether both decide alike.
    pub fn has_rules_of(&self, other: &Self) -> bool {
        self.options == other.options && self.roots == other.roots
    }

    /// The path of a document relative to its workspace folder, or its file name where it is in none.
    pub fn relative(&self, uri: &str) -> String {
        let path = path_of(uri);
        let name = || path.rsplit('/').next().unwrap_or_default().to_owned();
        relative_to(&self.roots, &path).map_or_else(name, str::to_owned)
    }

    /// What can be said without looking at the disk.
    pub fn check_name(&self, location: &Location, language: &str) -> Result<(), Refusal> {
        if self.options.is_disabled {
            return Err(Refusal::Disabled);
        }
        if let Some(scheme) = location.foreign_scheme() {
            return Err(Refusal::Scheme(scheme.to_owned()));
        }
        if self.options.languages.iter().any(|patterns| is_disabled(patterns, language)) {
            return Err(Refusal::Language(language.to_owned()));
        }
        self.check_path(&self.roots, location.path())
    }

    /// The whole predicate. It looks at the disk, which may take long or for ever.
    pub fn check(&self, location: &Location, language: &str) -> Result<(), Refusal> {
        self.check_name(location, language)?;
        let Some(file) = location.file() else { return Ok(()) };
        let resolved = resolve(&file, 0).map_err(Refusal::Path)?;
        let named = normal(&file);
        if resolved != named {
            let roots = self
                .resolved_roots
                .get_or_init(|| self.roots.iter().map(|root| resolved_root(root)).collect());
            let path = slashed(&resolved);
            let linked = self.check_path(roots, &path).and_then(|()| self.git.check(&resolved));
            linked.map_err(|refusal| Refusal::Linked(path, Box::new(refusal)))?;
        }
        self.git.check(&named)
    }

    fn check_path(&self, roots: &[String], path: &str) -> Result<(), Refusal> {
        let plain_path = plain(path);
        if let Some(pattern) = self.secret_pattern(&plain_path) {
            return Err(Refusal::Secret(pattern.to_owned()));
        }
        let inner = relative_to(roots, path).map_or(plain_path, plain);
        let excluding = self.files.iter().find_map(|patterns| patterns.covering(&inner));
        excluding.map_or(Ok(()), |pattern| Err(Refusal::File(pattern.to_owned())))
    }

    fn secret_pattern(&self, path: &str) -> Option<&str> {
        if self.allowed.covering(path).is_some() {
            return None;
        }
        secret_pattern(path).or_else(|| self.secrets.iter().find_map(|patterns| patterns.covering(path)))
    }
}

/// The path relative to the innermost of `roots`.
fn relative_to<'p>(roots: &[String], path: &'p str) -> Option<&'p str> {
    roots.iter().find_map(|root| path.strip_prefix(root.as_str())?.strip_prefix('/'))
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

fn resolved_root(root: &str) -> String {
    fs::canonicalize(root).map_or_else(|_| root.to_owned(), |path| slashed(&path))
}

/// Where the links of a path lead, whether or not there is a file. Nothing is opened.
fn resolve(path: &Path, links: usize) -> Result<PathBuf, String> {
    if path.as_os_str().len() > PATH_BYTES_MAX || links > LINKS_MAX {
        return Err("it is too long".into());
    }
    match fs::canonicalize(path) {
        Ok(resolved) => return Ok(resolved),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {}
        Err(error) => return Err(error.to_string()),
    }
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else { return Ok(normal(path)) };
    let folder = resolve(folder, links)?;
    match fs::read_link(folder.join(name)) {
        Ok(target) => resolve(&folder.join(target), links + 1),
        Err(_) => Ok(folder.join(name)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard(roots: &[&str], options: Options) -> Guard {
        let roots: Vec<String> = roots.iter().map(ToString::to_string).collect();
        Guard::new(options, &roots, Arc::new(Git::new(super::super::git::UserFiles::default())))
    }

    fn texts(texts: &[&str]) -> Vec<String> {
        texts.iter().map(ToString::to_string).collect()
    }

    /// Why a document is refused; empty if it is not.
    fn refused(guard: &Guard, uri: &str, language: &str) -> String {
        guard
            .check(&Location::of_uri(uri), language)
            .map_or_else(|refusal| refusal.to_string(), |()| String::new())
    }

    #[test]
    fn paths_are_relative_to_the_innermost_folder() {
        let guard = guard(&["file:///a", "file:///a/b/"], Options::default());
        for (uri, path) in [
            ("file:///a/c.rs", "c.rs"),
            ("file:///a/b/c.rs", "c.rs"),
            ("file:///a/bc/d.rs", "bc/d.rs"),
            ("file:///e/f.rs", "f.rs"),
            ("untitled:Untitled-1", "Untitled-1"),
        ] {
            assert_eq!(guard.relative(uri), path);
        }
    }

    #[test]
    fn the_refusal_names_the_rule() {
        let options = Options {
            languages: vec![texts(&["markdown"])],
            files: vec![texts(&["*.csv", "/vendor/", "!keep.csv"])],
            secrets: vec![texts(&["*.internal"])],
            allowed: texts(&[".env.example"]),
            ..Options::default()
        };
        let guard = guard(&["file:///a"], options);
        for (uri, language, reason) in [
            ("file:///a/b.rs", "rust", ""),
            ("file:///a/b.rs", "markdown", "disabled.languages"),
            ("file:///a/b/c.csv", "text", "*.csv"),
            ("file:///a/keep.csv", "text", ""),
            ("file:///a/vendor/b/c.rs", "rust", "/vendor/"),
            ("file:///a/b/vendor/c.rs", "rust", ""),
            ("file:///elsewhere/x.csv", "rust", "*.csv"),
            ("file:///a/.env", "text", ".env*"),
            ("FILE:///a/.env", "text", ".env*"),
            ("file:///a/x%5C.env", "text", ".env*"),
            ("file:///a/.env/", "text", ".env*"),
            ("vscode-notebook-cell:/a/.env#W0", "python", ".env*"),
            ("vscode-remote://ssh-remote%2Bh/a/.env", "text", ".env*"),
            ("vscode-remote://ssh-remote%2Bh/a/b.rs", "rust", ""),
            ("untitled:.env", "text", ".env*"),
            ("untitled:b.csv", "text", "*.csv"),
            ("output:tasks", "log", "output:"),
            ("vscode-scm:git/scm0/input", "scminput", "vscode-scm:"),
            ("file:///a/x.internal", "text", "*.internal"),
            ("file:///a/.env.example", "text", ""),
            ("", "", ""),
        ] {
            let refused = refused(&guard, uri, language);
            assert!(refused.is_empty() == reason.is_empty() && refused.contains(reason), "{uri}: {refused}");
        }
    }

    #[test]
    fn every_list_has_to_let_a_document_pass() {
        for (languages, files, uri, language, is_allowed) in [
            (&[&["*", "!rust"][..]][..], &[][..], "file:///a/b.rs", "rust", true),
            (&[&["*", "!rust"]], &[], "file:///a/b.py", "python", false),
            (&[&["!rust", "*"]], &[], "file:///a/b.rs", "rust", false),
            (&[&["rust"], &["!rust"]], &[], "file:///a/b.rs", "rust", false),
            (&[&["!rust"]], &[], "file:///a/b.py", "python", true),
            (&[], &[&["*", "!*.rs"][..]], "file:///a/b.rs", "rust", true),
            (&[], &[&["*", "!*.rs"]], "file:///a/b.py", "python", false),
            (&[], &[&["/gen/*", "!/gen/kept.rs"]], "file:///a/gen/kept.rs", "rust", true),
            (&[], &[&["/gen/*", "!/gen/kept.rs"]], "file:///a/gen/other.rs", "rust", false),
            (&[], &[&["*.rs"], &["!*.rs"]], "file:///a/b.rs", "rust", false),
            (&[], &[&["!*.rs"], &["*.rs"]], "file:///a/b.rs", "rust", false),
        ] {
            let lists = |lists: &[&[&str]]| lists.iter().map(|list| texts(list)).collect();
            let options = Options { languages: lists(languages), files: lists(files), ..Options::default() };
            let guard = guard(&["file:///a"], options);
            assert_eq!(
                refused(&guard, uri, language).is_empty(),
                is_allowed,
                "{languages:?} {files:?} {uri}"
            );
        }
        let guard = guard(&[], Options { is_disabled: true, ..Options::default() });
        assert!(refused(&guard, "file:///a.rs", "rust").contains("enabled"));
    }

    #[test]
    fn files_that_git_ignores_are_excluded() {
        let dir = tempfile::tempdir().unwrap();
        let root = &fs::canonicalize(dir.path()).unwrap();
        for folder in ["repo/.git/info", "repo/src/deep", "repo/target/kept", "repo/inner/.git", "home/git"] {
            fs::create_dir_all(root.join(folder)).unwrap();
        }
        let write = |path: &str, text: &str| fs::write(root.join(path), text).unwrap();
        write(".gitignore", "*\n");
        write("repo/.gitignore", "/target\n*.gen.rs\nlocal/\n");
        write("repo/src/.gitignore", "!kept.gen.rs\nown.rs\n");
        write("repo/target/kept/.gitignore", "!*\n");
        write("repo/.git/info/exclude", "notes.md\n");
        write("home/git/ignore", "*.mine\n");
        write("home/config", "[include]\npath = more\n");
        write("home/more", "[core]\nexcludesFile = ~/global\n");
        write("home/global", "*.swp\n!notes.md\n");
        let git = Arc::new(Git::new(super::super::git::UserFiles {
            home: Some(root.join("home")),
            folder: Some(root.join("home/git")),
            configs: vec![root.join("home/config"), root.join("home/none")],
        }));
        let guard = Guard::new(Options::default(), &[], git.clone());
        let refused = |path: &str| refused(&guard, &format!("file://{}/{path}", root.display()), "");
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
            ("repo/src/a.swp", false),
            ("repo/a.mine", false),
            ("repo/inner/a.gen.rs", true),
            ("repo/inner/a.swp", false),
            ("repo/src/../a.gen.rs", false),
            ("outside.rs", true),
            ("outside.swp", true),
        ] {
            assert_eq!(refused(path).is_empty(), is_allowed, "{path}");
        }
        // A worktree has the rules of the repository that it belongs to.
        fs::create_dir_all(root.join("repo/.git/worktrees/tree")).unwrap();
        fs::create_dir(root.join("tree")).unwrap();
        write("repo/.git/worktrees/tree/commondir", "../..\n");
        write("tree/.git", &format!("gitdir: {}\n", root.join("repo/.git/worktrees/tree").display()));
        assert!(refused("tree/notes.md").contains("info/exclude") && refused("tree/a.rs").is_empty());
        write("repo/.gitignore", "src\n");
        assert!(refused("repo/src/a.rs").contains("src in ") && refused("repo/a.gen.rs").is_empty());
        let rules = "x\n".repeat(20_001);
        for (text, why) in [(&*rules, "more than 20000 rules"), (&"#\n".repeat(1 << 20), "exceeds 1 MiB")] {
            write("repo/.gitignore", text);
            assert!(refused("repo/a.rs").contains(why), "{}", refused("repo/a.rs"));
            assert!(git.problems().concat().contains(why), "{:?}", git.problems());
        }
        fs::remove_file(root.join("repo/.gitignore")).unwrap();
        assert!(refused("repo/a.rs").is_empty() && git.problems().is_empty());
    }

    #[cfg(unix)]
    #[test]
    fn links_are_seen_through_and_rules_never_come_from_them() {
        use std::os::unix::fs::symlink;
        let dir = tempfile::tempdir().unwrap();
        let root = &fs::canonicalize(dir.path()).unwrap();
        let guard = guard(
            &[&format!("file://{}/work", root.display())],
            Options { files: vec![texts(&["/vendor/"])], ..Options::default() },
        );
        for folder in ["home/.ssh", "work/vendor", "clone/.git", "clone/deep/er"] {
            fs::create_dir_all(root.join(folder)).unwrap();
        }
        fs::write(root.join("work/.env"), "").unwrap();
        fs::write(root.join("clone/.gitignore"), "hidden.py\n").unwrap();
        for (target, link) in [
            (".env", "work/settings.txt"),
            ("settings.txt", "work/again.txt"),
            ("nowhere.pem", "work/dangling.txt"),
            ("loop.txt", "work/loop.txt"),
            ("vendor", "work/lib"),
            ("../home/.ssh", "work/keys"),
            ("../clone", "work/clone"),
            ("../clone/hidden.py", "work/seen.py"),
        ] {
            symlink(target, root.join(link)).unwrap();
        }
        let refused = |path: &str| refused(&guard, &format!("file://{}/{path}", root.display()), "");
        for (path, reason) in [
            ("work/settings.txt", ".env*"),
            ("work/again.txt", ".env*"),
            ("work/dangling.txt", "*.pem"),
            ("work/loop.txt", "leads nowhere"),
            ("work/lib/a.py", "/vendor/"),
            ("work/keys/config", ".ssh/"),
            ("work/clone/hidden.py", "hidden.py"),
            ("work/seen.py", "hidden.py"),
        ] {
            assert!(refused(path).contains(reason), "{path}: {}", refused(path));
        }
        assert_eq!(refused("work/a.py") + &refused("work/clone/a.py"), "");
        for target in ["/dev/ptmx", "/dev/zero", "/dev/null", "../.gitignore", "nowhere", "."] {
            let rules = root.join("clone/deep/.gitignore");
            symlink(target, &rules).unwrap();
            assert!(refused("clone/deep/er/a.py").contains("is a link"), "{target}");
            assert_eq!(refused("clone/a.py"), "");
            fs::remove_file(rules).unwrap();
        }
        fs::create_dir(root.join("clone/deep/.gitignore")).unwrap();
        assert!(refused("clone/deep/a.py").contains("is no regular file"));
        fs::create_dir(root.join("clone/.git/info")).unwrap();
        symlink("/dev/zero", root.join("clone/.git/info/exclude")).unwrap();
        assert!(refused("clone/a.py").contains("is no regular file"));
    }
}
