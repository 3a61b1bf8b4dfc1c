//! Files that git ignores: by the `.gitignore` files up to the root of the repository, by its `info/exclude`, and by the
//! files that `core.excludesFile` names.
//!
//! A repository may be hostile. Of it, only regular files of bounded size are opened, and no links are followed, as git
//! follows none; what the user's own configuration names may be a link. Whatever cannot be read excludes all below it.
//! All this blocks, so it is for threads that may.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File, Metadata};
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use super::location::slashed;
use super::pattern::{Patterns, Steps, TooManySteps};
use super::refusal::Refusal;
use crate::base::escape;

/// Largest file of rules or of configuration.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Most rules of one file, and of all files that count for a path.
const RULES_MAX: usize = 20_000;
/// Most bytes of all files that count for a path.
const RULES_BYTES_MAX: usize = 2 << 20;
/// Most steps to match a path, for which it takes a tenth of a second.
const STEPS_MAX: u64 = 30_000_000;
/// Most files whose content is kept,
const FILES_MAX: usize = 128;
/// and most bytes of them, which take up to thirty times as many in memory.
const FILES_BYTES_MAX: usize = 4 << 20;
/// Most problems that are kept.
const PROBLEMS_MAX: usize = 16;
/// Most files of configuration that one includes, by itself or by others.
const INCLUDES_MAX: usize = 16;
/// Whether names differ by case only, as on the file systems that are usual here.
const IGNORES_CASE: bool = cfg!(any(target_os = "macos", windows));

/// Where the user's own configuration of git is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserFiles {
    /// The home folder.
    pub home: Option<PathBuf>,
    /// The folder `git` in that of configuration.
    pub folder: Option<PathBuf>,
    /// Files of configuration.
    pub configs: Vec<PathBuf>,
}

/// What git ignores, with the rules read so far.
pub struct Git {
    user: UserFiles,
    rules: Cache<Rules>,
    configs: Cache<Config>,
    /// What cannot be read, by its path.
    problems: Mutex<BTreeMap<PathBuf, String>>,
}

/// The rules of one file.
struct Rules {
    patterns: Patterns,
    /// Size of the file.
    bytes: usize,
}

/// How many rules there are for a path.
#[derive(Default)]
struct Total {
    rules: usize,
    bytes: usize,
}

impl Total {
    /// Adds those of a file. Fails where they are too many.
    fn with(&mut self, rules: Option<Arc<Rules>>) -> Loaded<Rules> {
        if let Some(rules) = &rules {
            self.rules += rules.patterns.count();
            self.bytes += rules.bytes;
        }
        if self.rules > RULES_MAX || self.bytes > RULES_BYTES_MAX {
            let mib = RULES_BYTES_MAX >> 20;
            return Err(format!(
                "is, with such files of other folders, more than {RULES_MAX} rules or {mib} MiB"
            ));
        }
        Ok(rules)
    }
}

/// A folder, the file with rules for what is in it, and these.
type Source = (PathBuf, PathBuf, Arc<Rules>);

impl Git {
    pub fn new(user: UserFiles) -> Self {
        Self {
            user,
            rules: Cache::new(parse_rules),
            configs: Cache::new(|text| Ok(Config::parse(text))),
            problems: Mutex::default(),
        }
    }

    /// What could not be read, as messages.
    pub fn problems(&self) -> Vec<String> {
        self.problems.lock().expect("lock poisoned").values().cloned().collect()
    }

    /// Fails where git ignores the file at `path`, which is absolute and has no `..`, or where that is not known.
    pub(super) fn check(&self, path: &Path) -> Result<(), Refusal> {
        let Some(root) = root(path)? else { return Ok(()) };
        let sources = self.sources(path, &root)?;
        let folders = path.ancestors().skip(1).take_while(|folder| *folder != root);
        let mut parts: Vec<(&Path, bool)> = folders.map(|folder| (folder, true)).collect();
        parts.reverse();
        parts.push((path, false));
        // Git does not look into a folder that it ignores.
        let mut steps = Steps::new(STEPS_MAX);
        let mut parts = parts.into_iter();
        let verdict =
            parts.find_map(|(part, is_folder)| verdict(&sources, part, is_folder, &mut steps).transpose());
        let verdict =
            verdict.transpose().map_err(|TooManySteps| "has rules that take too long to match".to_owned());
        self.noted(&root, &root, verdict)?.map_or(Ok(()), Err)
    }

    /// The rules for `path`, the strongest first.
    fn sources(&self, path: &Path, root: &Path) -> Result<Vec<Source>, Refusal> {
        let (mut sources, mut total) = (Vec::new(), Total::default());
        let outer: Vec<&Path> =
            path.ancestors().skip(1).take_while(|folder| folder.starts_with(root)).collect();
        for folder in outer {
            let file = folder.join(".gitignore");
            let rules = self.rules.read(&file, Links::Refused).and_then(|rules| total.with(rules));
            let rules = self.noted(folder, &file, rules)?;
            sources.extend(rules.map(|rules| (folder.to_owned(), file, rules)));
        }
        let git_dir = self.noted(root, &root.join(".git"), git_dir(root))?;
        let mut configs = vec![git_dir.join("config")];
        configs.extend(self.user.configs.clone());
        let mut files = vec![git_dir.join("info/exclude")];
        files.extend(self.excludes_files(root, configs)?);
        for file in files {
            let rules = self.rules.read(&file, Links::Followed).and_then(|rules| total.with(rules));
            let rules = self.noted(root, &file, rules)?;
            sources.extend(rules.map(|rules| (root.to_owned(), file, rules)));
        }
        Ok(sources)
    }

    /// The files that `core.excludesFile` names, in whichever configuration, or else the one that git reads by itself.
    fn excludes_files(&self, root: &Path, mut configs: Vec<PathBuf>) -> Result<Vec<PathBuf>, Refusal> {
        let (mut files, mut at) = (Vec::new(), 0);
        while let Some(file) = configs.get(at).cloned() {
            let config = self.noted(root, &file, self.configs.read(&file, Links::Followed))?;
            let base = file.parent().unwrap_or(root);
            for (key, value) in config.iter().flat_map(|config| &config.values) {
                match key {
                    Key::Excludes => files.push(self.path(root, value)),
                    Key::Include if configs.len() < INCLUDES_MAX => configs.push(self.path(base, value)),
                    Key::Include => {}
                }
            }
            at += 1;
        }
        files.extend(self.user.folder.as_ref().map(|folder| folder.join("ignore")));
        Ok(files)
    }

    /// A path in a configuration, relative to `base`.
    fn path(&self, base: &Path, value: &str) -> PathBuf {
        match (value.strip_prefix("~/"), &self.user.home) {
            (Some(rest), Some(home)) => home.join(rest),
            _ => base.join(value),
        }
    }

    /// Remembers whether `file` can be read; if it cannot, nothing below `folder` is.
    fn noted<T>(&self, folder: &Path, file: &Path, read: Result<T, String>) -> Result<T, Refusal> {
        let mut problems = self.problems.lock().expect("lock poisoned");
        match read {
            Ok(content) => {
                problems.remove(file);
                Ok(content)
            }
            Err(why) => {
                let refusal = Refusal::Unreadable { folder: slashed(folder), file: slashed(file), why };
                let message = refusal.to_string();
                let is_new = problems.get(file) != Some(&message);
                if is_new && (problems.contains_key(file) || problems.len() < PROBLEMS_MAX) {
                    tracing::warn!("{}", escape::line(&message));
                    problems.insert(file.to_owned(), message);
                }
                Err(refusal)
            }
        }
    }
}

/// Why the first rules that match a part of a path exclude it.
fn verdict(
    sources: &[Source],
    part: &Path,
    is_folder: bool,
    steps: &mut Steps,
) -> Result<Option<Refusal>, TooManySteps> {
    for (folder, file, rules) in sources {
        let relative = part.strip_prefix(folder).ok().filter(|path| !path.as_os_str().is_empty());
        let Some(relative) = relative else { continue };
        if let Some((pattern, excludes)) = rules.patterns.verdict(&slashed(relative), is_folder, steps)? {
            let refusal = || Refusal::Ignored { file: slashed(file), pattern: pattern.to_owned() };
            return Ok(excludes.then(refusal));
        }
    }
    Ok(None)
}

/// The innermost repository with `path`.
fn root(path: &Path) -> Result<Option<PathBuf>, Refusal> {
    for folder in path.ancestors().skip(1) {
        match present(fs::symlink_metadata(folder.join(".git"))) {
            Ok(Some(_)) => return Ok(Some(folder.to_owned())),
            Ok(None) => {}
            Err(why) => {
                let (folder, file) = (slashed(folder), slashed(&folder.join(".git")));
                return Err(Refusal::Unreadable { folder, file, why });
            }
        }
    }
    Ok(None)
}

/// The folder with the configuration of a repository: its `.git`, or the one that such a file leads to.
fn git_dir(root: &Path) -> Result<PathBuf, String> {
    let own = root.join(".git");
    if own.is_dir() {
        return Ok(own);
    }
    let named = |file: &Path, base: &Path, start: &str| {
        let text = read(file, Links::Refused)?.map(|(text, _)| text);
        let name = text.as_deref().and_then(|text| text.strip_prefix(start));
        Ok::<_, String>(name.map(|name| base.join(name.trim_end_matches(['\n', '\r']))))
    };
    let Some(folder) = named(&own, root, "gitdir: ")? else { return Ok(own) };
    let common = named(&folder.join("commondir"), &folder, "")?;
    Ok(common.unwrap_or(folder))
}

fn parse_rules(text: &str) -> Result<Rules, String> {
    if text.lines().count() > RULES_MAX {
        return Err(format!("has more than {RULES_MAX} rules"));
    }
    Ok(Rules { patterns: Patterns::parse(text, IGNORES_CASE), bytes: text.len() })
}

/// What counts in a configuration of git, in its order.
struct Config {
    values: Vec<(Key, String)>,
}

enum Key {
    /// `core.excludesFile`.
    Excludes,
    /// `include.path`, and that of `includeIf`, whose condition is taken to be met: it can only exclude more.
    Include,
}

impl Config {
    fn parse(text: &str) -> Self {
        let (mut section, mut values) = (String::new(), Vec::new());
        for line in text.lines().map(str::trim) {
            let line = match line.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
                Some((name, rest)) => {
                    section = name.split([' ', '\t', '"']).next().unwrap_or_default().to_ascii_lowercase();
                    rest.trim()
                }
                None => line,
            };
            let Some((name, value)) = line.split_once('=') else { continue };
            let key = match (&*section, &*name.trim().to_ascii_lowercase()) {
                ("core", "excludesfile") => Key::Excludes,
                ("include" | "includeif", "path") => Key::Include,
                _ => continue,
            };
            values.push((key, unquoted(value.trim())));
        }
        values.retain(|(_, value)| !value.is_empty());
        Self { values }
    }
}

/// A value without quotes, escapes and the comment after it.
fn unquoted(value: &str) -> String {
    let (mut text, mut is_quoted, mut chars) = (String::new(), false, value.chars());
    while let Some(char) = chars.next() {
        match char {
            '"' => is_quoted = !is_quoted,
            '\\' => text.extend(chars.next()),
            '#' | ';' if !is_quoted => break,
            char => text.push(char),
        }
    }
    text.trim_end().to_owned()
}

/// Whether a link is followed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Links {
    Followed,
    Refused,
}

/// What a file was when it was read.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp(Option<SystemTime>, u64, u64);

type Loaded<T> = Result<Option<Arc<T>>, String>;

/// What small files have, parsed, until they change.
struct Cache<T> {
    parse: fn(&str) -> Result<T, String>,
    files: Mutex<Files<T>>,
}

struct Files<T> {
    loaded: HashMap<PathBuf, (Stamp, Loaded<T>)>,
    /// Size of them all.
    bytes: usize,
}

impl<T> Cache<T> {
    fn new(parse: fn(&str) -> Result<T, String>) -> Self {
        Self { parse, files: Mutex::new(Files { loaded: HashMap::new(), bytes: 0 }) }
    }

    /// The content of a file; `None` where there is none.
    fn read(&self, file: &Path, links: Links) -> Loaded<T> {
        let Some(stamp) = stamp(file, links)? else { return Ok(None) };
        let known = self.files.lock().expect("lock poisoned").loaded.get(file).cloned();
        if let Some((_, loaded)) = known.filter(|(known, _)| *known == stamp) {
            return loaded;
        }
        let Some((text, stamp)) = read(file, links)? else { return Ok(None) };
        let loaded = (self.parse)(&text).map(|parsed| Some(Arc::new(parsed)));
        let mut files = self.files.lock().expect("lock poisoned");
        if files.loaded.len() >= FILES_MAX || files.bytes + text.len() > FILES_BYTES_MAX {
            (files.loaded, files.bytes) = (HashMap::new(), 0);
        }
        files.bytes += text.len();
        files.loaded.insert(file.to_owned(), (stamp, loaded.clone()));
        loaded
    }
}

fn stamp(file: &Path, links: Links) -> Result<Option<Stamp>, String> {
    // Git users switch their own file off by this name.
    if links == Links::Followed && file == Path::new("/dev/null") {
        return Ok(None);
    }
    let metadata = match links {
        Links::Followed => fs::metadata(file),
        Links::Refused => fs::symlink_metadata(file),
    };
    present(metadata)?.map(|metadata| checked(&metadata)).transpose()
}

/// The text of a regular file, and what the file was then.
fn read(file: &Path, links: Links) -> Result<Option<(String, Stamp)>, String> {
    if stamp(file, links)?.is_none() {
        return Ok(None);
    }
    let Some(file) = present(open(file, links))? else { return Ok(None) };
    let failed = |error: io::Error| format!("cannot be read: {error}");
    // It may have been replaced since.
    let stamp = checked(&file.metadata().map_err(failed)?)?;
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(too_large());
    }
    Ok(Some((String::from_utf8_lossy(&bytes).into_owned(), stamp)))
}

fn checked(metadata: &Metadata) -> Result<Stamp, String> {
    if metadata.is_symlink() {
        return Err("is a link".into());
    }
    if !metadata.is_file() {
        return Err("is no regular file".into());
    }
    if metadata.len() > FILE_BYTES_MAX {
        return Err(too_large());
    }
    #[cfg(unix)]
    let number = std::os::unix::fs::MetadataExt::ino(metadata);
    #[cfg(not(unix))]
    let number = 0;
    Ok(Stamp(metadata.modified().ok(), metadata.len(), number))
}

fn too_large() -> String {
    format!("exceeds {} MiB", FILE_BYTES_MAX >> 20)
}

/// Opens without waiting, whatever it is.
fn open(file: &Path, links: Links) -> io::Result<File> {
    let mut options = File::options();
    options.read(true);
    #[cfg(unix)]
    {
        use rustix::fs::OFlags;
        let no_follow = if links == Links::Refused { OFlags::NOFOLLOW } else { OFlags::empty() };
        let flags = OFlags::NONBLOCK | OFlags::NOCTTY | no_follow;
        std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, flags.bits().cast_signed());
    }
    #[cfg(not(unix))]
    let _ = links;
    options.open(file)
}

/// `None` where there is no such file.
fn present<T>(result: io::Result<T>) -> Result<Option<T>, String> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::InvalidFilename
            ) =>
        {
            Ok(None)
        }
        Err(error) => Err(format!("cannot be read: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_rules_take_neither_time_nor_memory() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        fs::create_dir(root.join(".git")).unwrap();
        let git = Git::new(UserFiles::default());
        let deep = (0..100).fold(root.clone(), |folder, _| folder.join("d"));
        fs::create_dir_all(&deep).unwrap();
        let started = std::time::Instant::now();
        fs::write(root.join(".gitignore"), ("*a".repeat(40) + "b\n").repeat(9_000)).unwrap();
        let refusal = git.check(&deep.join("a".repeat(200))).unwrap_err().to_string();
        assert!(refusal.contains("take too long to match"), "{refusal}");
        assert_eq!(git.problems().len(), 1);
        assert_eq!(git.check(&root.join("x.rs")), Ok(()));
        assert!(git.problems().is_empty(), "{:?}", git.problems());
        for folder in deep.ancestors().take_while(|folder| *folder != root) {
            fs::write(folder.join(".gitignore"), "a\n".repeat(19_000)).unwrap();
        }
        let refusal = git.check(&deep.join("x.rs")).unwrap_err().to_string();
        assert!(refusal.contains("more than 20000 rules"), "{refusal}");
        assert!(started.elapsed().as_secs() < 20);
    }

    #[test]
    fn configurations_name_files() {
        let text = "[core] # x\n\teditor = vi\n\tExcludesFile = ~/.ignore ; mine\n[CORE]excludesfile=\"a # b\"\n\
                    [include]\npath = c\\\\d\n[includeIf \"gitdir:~/w/\"]\n  path = e\n[user]\npath = f\n[core]\nexcludesfile =\n";
        let config = Config::parse(text);
        let shown: Vec<(bool, &str)> =
            config.values.iter().map(|(key, value)| (matches!(key, Key::Excludes), value.as_str())).collect();
        assert_eq!(shown, [(true, "~/.ignore"), (true, "a # b"), (false, "c\\d"), (false, "e")]);
    }
}
