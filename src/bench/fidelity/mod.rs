//! What the rules of completion make of a correct answer: a perfect model, which knows the file, is played at places of
//! source files, and what would be shown is compared with what the author wrote. No model runs.

mod places;
mod play;
mod report;
mod source;
mod variants;
mod verdict;

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use ignore::WalkBuilder;

use places::{Chance, places};
use play::{Answer, answers};
pub use report::{Report, Share};
use source::Source;

use crate::complete::rules;
use crate::text::Language;

/// Smaller files have few places, larger ones are seldom written by hand, in bytes.
const FILE_BYTES: std::ops::RangeInclusive<u64> = 300..=48_000;
/// Files with fewer lines are skipped.
const LINES_MIN: usize = 10;

/// What to play.
pub struct Options {
    pub folder: PathBuf,
    /// Most files of each language.
    pub files_max: usize,
    /// Only files in these languages, by name; all if there are none.
    pub languages: Vec<String>,
    pub seed: u64,
    /// Most examples to print of each kind of fault.
    pub examples: usize,
}

/// Plays at the source files below a folder, without those that git ignores; `say` receives the progress.
pub fn run(options: &Options, say: &impl Fn(String)) -> Result<Report> {
    let files = choose(options);
    ensure!(
        !files.is_empty(),
        "there are no source files of a known language in {}",
        options.folder.display()
    );
    let (mut all, mut count): (Vec<Answer>, usize) = (Vec::new(), 0);
    for (n, File { name, language, text, .. }) in files.iter().enumerate() {
        say(format!("{} of {} files: {name}", n + 1, files.len()));
        let source = Source::new(text, language);
        let seed = format!("{}:{name}", options.seed);
        for (number, place) in places(&source, &seed).iter().enumerate() {
            let mut chance = Chance::new(&[&seed, &number.to_string()]);
            all.extend(answers(&source, place, name, language.name, &mut chance));
            count += 1;
        }
    }
    Ok(Report::new(options.seed, files.len(), count, all, options.examples))
}

struct File {
    /// Its path below the folder.
    name: String,
    language: &'static Language,
    text: String,
    /// Its place in a random order.
    order: u64,
}

/// The files to play at, by name.
fn choose(options: &Options) -> Vec<File> {
    let paths = WalkBuilder::new(&options.folder).sort_by_file_name(Ord::cmp).build();
    let paths = paths.filter_map(|entry| Some(entry.ok()?.into_path()));
    let mut files: Vec<File> = paths.filter_map(|path| File::open(&path, options)).collect();
    files.sort_by_key(|file| file.order);
    let mut chosen: HashMap<&str, usize> = HashMap::new();
    files.retain(|file| {
        let count = chosen.entry(file.language.name).or_default();
        *count += 1;
        *count <= options.files_max
    });
    files.sort_by(|a, b| a.name.cmp(&b.name));
    files
}

impl File {
    /// None for generated text, and for other languages.
    fn open(path: &Path, options: &Options) -> Option<Self> {
        let name = path.strip_prefix(&options.folder).unwrap_or(path).to_string_lossy().replace('\\', "/");
        let language = Language::of_path(Some(&name));
        let is_wanted = options.languages.is_empty()
            || options.languages.iter().any(|wanted| wanted.eq_ignore_ascii_case(language.name));
        let is_known = language.name != Language::UNKNOWN.name;
        let metadata = fs::metadata(path).ok()?;
        if !is_known || !is_wanted || !metadata.is_file() || !FILE_BYTES.contains(&metadata.len()) {
            return None;
        }
        let text = fs::read_to_string(path).ok()?.replace("\r\n", "\n");
        let is_plain = text.lines().count() >= LINES_MIN && !text.contains(['\r', '\0']);
        let is_by_hand = rules::ineligible(&text, "").is_none();
        let order = Chance::new(&[&options.seed.to_string(), &name]).bits();
        (is_plain && is_by_hand).then_some(Self { name, language, text, order })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_played_at() {
        let dir = tempfile::tempdir().unwrap();
        let function = |n| {
            format!(
                "def add_{n}(a, b):\n    \"\"\"Adds {n}.\"\"\"\n    c_{n} = a + b\n    return c_{n} * {n}\n\n\n"
            )
        };
        let text: String = (0..8).map(function).collect();
        fs::write(dir.path().join("a.py"), &text).unwrap();
        fs::write(dir.path().join("b.py"), format!("# @generated\n{text}")).unwrap();
        fs::write(dir.path().join("c.zzz"), &text).unwrap();
        let options = |languages: &[&str]| Options {
            folder: dir.path().into(),
            files_max: 3,
            languages: languages.iter().map(ToString::to_string).collect(),
            seed: 1,
            examples: 1,
        };
        let report = run(&options(&["python"]), &|_| {}).unwrap();
        assert_eq!(report.files, 1);
        let share = |name: &str, trigger: &str| {
            let found = report.variants.iter().find(|share| share.name == name && share.trigger == trigger);
            found.unwrap_or_else(|| panic!("no {name}, {trigger}"))
        };
        let truth = share("the true middle", "invoked");
        assert!(truth.answers > 10 && truth.exact > 60.0, "{truth:?}");
        let all = |share: &Share| share.exact + share.beginning + share.nothing + share.wrong;
        assert!(report.variants.iter().all(|share| (all(share) - 100.0).abs() < 1e-6));
        assert!(report.languages.iter().all(|share| share.name == "Python"));
        assert!(report.to_string().contains("| the true middle | automatic |"));
        let error = run(&options(&["rust"]), &|_| {}).err().unwrap().to_string();
        assert!(error.contains("no source files"), "{error}");
    }
}
