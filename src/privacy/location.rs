//! Where a document is, by its URI. Pure.

use std::path::{Component, Path, PathBuf};

use percent_encoding::percent_decode_str;

/// Schemes of documents that a user writes. Others are what an editor shows: its output, its input fields, and earlier
/// versions of files.
const SCHEMES: [&str; 4] = ["file", "untitled", "vscode-notebook-cell", "vscode-remote"];

/// Where a document is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    /// The scheme of its URI in lower case; empty for none.
    scheme: String,
    /// Its path, decoded, without a slash at the end. That of a cell is the path of its notebook.
    path: String,
}

impl Location {
    pub fn of_uri(uri: &str) -> Self {
        let (scheme, _) = split(uri);
        let path = path_of(uri);
        let trimmed = path.trim_end_matches(['/', '\\']);
        let path = if trimmed.is_empty() { path } else { trimmed.to_owned() };
        Self { scheme: scheme.to_ascii_lowercase(), path }
    }

    /// That of a file.
    pub fn of_path(path: &Path) -> Self {
        Self { scheme: "file".into(), path: slashed(path) }
    }

    /// The scheme, if documents with it are never completed.
    pub(super) fn foreign_scheme(&self) -> Option<&str> {
        let is_known = self.scheme.is_empty() || SCHEMES.contains(&&*self.scheme);
        (!is_known).then_some(&self.scheme)
    }

    /// Its path with the separator `/`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The path of the file, if it can be one.
    pub(super) fn file(&self) -> Option<PathBuf> {
        let path = Path::new(native(&self.path));
        path.is_absolute().then(|| path.to_owned())
    }
}

/// A path for names: without `.` and `..`, whichever separators it has, and without what Windows does not tell apart.
pub(super) fn plain(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split(['/', '\\']) {
        let part = part.strip_suffix("::$DATA").unwrap_or(part);
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            _ => parts.push(part.trim_end_matches([' ', '.'])),
        }
    }
    parts.join("/")
}

/// A path without `.` and `..`, as text says it, whatever links there are.
pub(super) fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => drop(normal.pop()),
            component => normal.push(component),
        }
    }
    normal
}

/// A path as text with the separator `/`.
pub(super) fn slashed(path: &Path) -> String {
    let text = path.to_string_lossy();
    if std::path::MAIN_SEPARATOR == '\\' {
        text.replace('\\', "/").replace("//?/", "/")
    } else {
        text.into_owned()
    }
}

/// The path of a URI of any scheme, decoded.
pub fn path_of(uri: &str) -> String {
    let (_, path) = split(uri);
    let path = path.strip_prefix("//").map_or(path, |rest| &rest[rest.find('/').unwrap_or(0)..]);
    let path = path.split(['?', '#']).next().unwrap_or_default();
    percent_decode_str(path).decode_utf8_lossy().into_owned()
}

/// The scheme of a URI, and the rest. A single letter is a drive.
fn split(uri: &str) -> (&str, &str) {
    let is_scheme = |scheme: &str| {
        scheme.len() > 1 && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
    };
    uri.split_once(':').filter(|(scheme, _)| is_scheme(scheme)).unwrap_or(("", uri))
}

/// The native path: `c:/a` for `/c:/a`.
fn native(path: &str) -> &str {
    match path.as_bytes() {
        [b'/', drive, b':', ..] if drive.is_ascii_alphabetic() => &path[1..],
        _ => path,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris_have_paths() {
        for (uri, path) in [
            ("file:///home/me/a.rs", "/home/me/a.rs"),
            ("file://host/share/a%20b.rs", "/share/a b.rs"),
            ("file:///c%3A/%E4%B8%96.py", "/c:/世.py"),
            ("file:///home/me/%2Eenv", "/home/me/.env"),
            ("FILE:///a", "/a"),
            ("untitled:Untitled-1", "Untitled-1"),
            ("vscode-notebook-cell:/n.ipynb#W0", "/n.ipynb"),
            ("100%", "100%"),
            ("c:/a", "c:/a"),
            ("aa:%zz%4", "%zz%4"),
            ("", ""),
        ] {
            assert_eq!(path_of(uri), path);
        }
        assert_eq!((native("/c:/a"), native("/c/a"), native("/")), ("c:/a", "/c/a", "/"));
    }

    #[test]
    fn locations_have_a_scheme_and_a_plain_path() {
        for (uri, foreign, path) in [
            ("FILE:///w/.env/", None, "w/.env"),
            ("file:///w%5C.env", None, "w/.env"),
            ("file:///w/x/..//./.env", None, "w/.env"),
            ("file:///c%3A/w/.env.%20", None, "c:/w/.env"),
            ("file:///w/.env::$DATA", None, "w/.env"),
            ("vscode-notebook-cell:/w/n.ipynb#W0sZmlsZQ%3D%3D", None, "w/n.ipynb"),
            ("vscode-remote://ssh-remote%2Bhost/w/.env", None, "w/.env"),
            ("untitled:.env", None, ".env"),
            ("output:tasks", Some("output"), "tasks"),
            ("vscode-scm:git/scm0/input?rootUri=file:///w", Some("vscode-scm"), "git/scm0/input"),
            ("git:/w/a.rs?%7B%7D", Some("git"), "w/a.rs"),
            ("", None, ""),
        ] {
            let location = Location::of_uri(uri);
            assert_eq!((location.foreign_scheme(), &*plain(location.path())), (foreign, path), "{uri}");
        }
    }
}
