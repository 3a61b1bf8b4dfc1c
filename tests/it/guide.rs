//! The README and the guide: what they name exists.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use fimd::config::SETTINGS;
use tempfile::TempDir;

use crate::cli::{check_fails, program};

const README_LINES_MAX: usize = 150;
/// Variables that are no settings.
const OTHER_VARIABLES: [&str; 4] = ["FIMD_CONFIG", "FIMD_LOG", "FIMD_RUNTIME_DIR", "FIMD_REMOTE_TOKEN"];

/// A page in the repository.
struct Page {
    path: PathBuf,
    text: String,
}

/// A command as a page shows it.
struct Shown {
    /// Where it stands.
    page: String,
    words: Vec<String>,
    /// Whether it stands in a block of code, and so is complete.
    is_whole: bool,
}

/// The README and every page of the guide.
fn pages() -> Vec<Page> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let guide = fs::read_dir(root.join("src/guide")).unwrap().map(|entry| entry.unwrap().path());
    let paths = guide.chain([root.join("README.md")]);
    let pages: Vec<Page> =
        paths.map(|path| Page { text: fs::read_to_string(&path).unwrap(), path }).collect();
    assert!(pages.len() > 10);
    pages
}

fn topics() -> Vec<String> {
    let names = pages().into_iter().filter(|page| !page.path.ends_with("README.md"));
    names.map(|page| page.path.file_stem().unwrap().to_str().unwrap().to_owned()).collect()
}

fn stdout(args: &[&str]) -> String {
    let output = program().args(args).output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

impl Page {
    fn name(&self) -> String {
        self.path.file_name().unwrap().to_string_lossy().into_owned()
    }

    /// Blocks of code in `language`.
    fn blocks(&self, language: &str) -> Vec<&str> {
        let start = format!("```{language}\n");
        self.text.split(&start[..]).skip(1).map(|rest| rest.split("```").next().unwrap()).collect()
    }

    /// Code within text.
    fn inline_code(&self) -> Vec<String> {
        let prose = self.text.split("```").step_by(2).map(|text| text.replace('\n', " "));
        prose
            .flat_map(|text| text.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>())
            .collect()
    }

    fn commands(&self) -> Vec<Shown> {
        let lines = self.blocks("sh").into_iter().flat_map(str::lines).map(|line| (line.to_owned(), true));
        let inline = self.inline_code().into_iter().map(|code| (code, false));
        let shown = lines
            .chain(inline)
            .filter_map(|(text, is_whole)| Some(Shown { page: self.name(), words: words(&text)?, is_whole }));
        shown.collect()
    }
}

/// The words after `fimd` in a line of shell, or after `cargo run --release --`, which runs it.
fn words(line: &str) -> Option<Vec<String>> {
    let line = line.split(" #").next().unwrap().split(" | ").next().unwrap();
    let line = line.replace("cargo run --release -- ", "fimd ");
    let (before, command) = line.split_at(line.find("fimd ")?);
    let is_command = before.is_empty() || before.ends_with(' ');
    let quoted = command.split('\'').enumerate().flat_map(|(at, part)| {
        let is_quoted = at % 2 == 1;
        if is_quoted { vec![part] } else { part.split_whitespace().collect() }
    });
    is_command.then(|| quoted.skip(1).map(str::to_owned).collect())
}

/// The `--help` of a subcommand and the names of its own.
struct Help {
    text: String,
    subcommands: BTreeSet<String>,
}

impl Help {
    fn of(path: &[String]) -> Self {
        let args: Vec<&str> = path.iter().map(String::as_str).chain(["--help"]).collect();
        let text = stdout(&args);
        let lines =
            text.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
        let names =
            lines.filter(|line| !line.starts_with("   ")).filter_map(|line| line.split_whitespace().next());
        let subcommands = names.map(str::to_owned).collect();
        Self { text, subcommands }
    }

    fn has_flag(&self, flag: &str) -> bool {
        self.text.split([' ', ',', '=', '[', '\n', '<']).any(|word| word == flag)
    }
}

#[derive(Default)]
struct Helps(BTreeMap<Vec<String>, Help>);

impl Helps {
    fn get(&mut self, path: &[String]) -> &Help {
        self.0.entry(path.to_vec()).or_insert_with(|| Help::of(path))
    }

    /// The subcommands that `words` begin with.
    fn path(&mut self, words: &[String]) -> Vec<String> {
        let mut path = Vec::new();
        while let Some(next) =
            words.get(path.len()).filter(|next| self.get(&path).subcommands.contains(*next))
        {
            path.push(next.clone());
        }
        path
    }
}

/// Why a command does not exist as it is shown.
fn check(helps: &mut Helps, shown: &Shown) -> Result<(), String> {
    let path = helps.path(&shown.words);
    let is_placeholder =
        shown.words.first().is_none_or(|word| word.starts_with('-') || *word == word.to_uppercase());
    if path.is_empty() && !is_placeholder {
        return Err("no such command".into());
    }
    let flags = shown.words.iter().filter(|word| word.starts_with("--"));
    let unknown =
        flags.map(|flag| flag.split('=').next().unwrap()).find(|flag| !helps.get(&path).has_flag(flag));
    if let Some(flag) = unknown {
        return Err(format!("no {flag} in {path:?}"));
    }
    if shown.is_whole {
        // Arguments are parsed up to the flag that asks for help.
        let output = program().args(&shown.words).arg("--help").output().unwrap();
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned());
        }
    }
    Ok(())
}

#[test]
fn every_command_exists() {
    let mut helps = Helps::default();
    let mut shown: Vec<Shown> = pages().iter().flat_map(Page::commands).collect();
    assert!(shown.len() > 60);
    let mut all = helps.get(&[]).subcommands.clone();
    all.remove("help");
    for name in all {
        let help = helps.get(&[name]);
        let examples = help.text.lines().skip_while(|line| *line != "Examples:").skip(1);
        let examples = examples.filter_map(|line| words(line.trim()));
        shown.extend(examples.map(|words| Shown { page: "--help".into(), words, is_whole: true }));
    }
    let wrong = shown.iter().filter_map(|shown| {
        let why = check(&mut helps, shown).err()?;
        Some(format!("{}: fimd {}: {why}", shown.page, shown.words.join(" ")))
    });
    let wrong: Vec<String> = wrong.collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_command_that_does_not_exist_is_found() {
    let mut helps = Helps::default();
    for (line, is_whole) in [
        ("fimd complet a.rs:1:1", false),
        ("fimd status --wach", false),
        ("fimd bench sped --json", true),
        ("fimd complete a.rs", true),
        ("fimd pull qwen2.5-coder-1.4b", true),
        ("fimd guide nothing", true),
    ] {
        let shown = Shown { page: String::new(), words: words(line).unwrap(), is_whole };
        assert!(check(&mut helps, &shown).is_err(), "{line}");
    }
    for (line, is_whole) in [
        ("X=1 fimd complete a.rs:1:1 # x", true),
        ("fimd COMMAND --help", false),
        ("cargo run --release -- status", true),
        ("fimd generate --prompt 'a b' | cat", true),
    ] {
        let shown = Shown { page: String::new(), words: words(line).unwrap(), is_whole };
        check(&mut helps, &shown).unwrap();
    }
    assert_eq!(words("see fimd.toml"), None);
}

/// The settings among `words`, and whether they exist: a dotted name of which the first part is a group, and a variable.
fn is_known(code: &str) -> bool {
    let is_group =
        |group: &str| SETTINGS.iter().any(|setting| setting.name.starts_with(&format!("{group}.")));
    let name = code.split(['=', ' ']).next().unwrap();
    if let Some(variable) = name.strip_prefix("FIMD_") {
        let is_setting = SETTINGS.iter().any(|setting| setting.variable() == name);
        return is_setting || OTHER_VARIABLES.contains(&name) || variable.is_empty();
    }
    match name.split_once('.') {
        Some((group, _)) if is_group(group) => SETTINGS.iter().any(|setting| setting.name == name),
        _ => true,
    }
}

#[test]
fn every_setting_exists() {
    assert!(is_known("budget.soft_ms") && is_known("FIMD_BUDGET_SOFT_MS=4") && is_known("config.json"));
    assert!(!is_known("budget.soft") && !is_known("FIMD_BUDGET=1"));
    let mut count = 0;
    for page in pages() {
        let code = page.inline_code();
        let code = code.iter().map(String::as_str);
        let blocks: Vec<&str> = page.blocks("sh").into_iter().flat_map(str::split_whitespace).collect();
        for code in code.chain(blocks) {
            assert!(is_known(code), "{}: {code}", page.name());
            count += usize::from(SETTINGS.iter().any(|setting| setting.name == code));
        }
    }
    assert!(count > SETTINGS.len());
}

/// Files of settings, which are not those of an editor.
#[test]
fn every_file_of_settings_is_valid() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("fimd.toml");
    let mut count = 0;
    for page in pages() {
        for block in page.blocks("toml").into_iter().filter(|block| !block.contains("language-server")) {
            fs::write(&path, block).unwrap();
            let output = program().arg("config").env("FIMD_CONFIG", &path).output().unwrap();
            let errors = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success() && errors.is_empty(), "{}: {errors}", page.name());
            count += 1;
        }
    }
    assert!(count > 1);
}

#[test]
fn every_link_leads_somewhere() {
    for page in pages() {
        let links: Vec<&str> =
            page.text.split("](").skip(1).map(|rest| rest.split(')').next().unwrap()).collect();
        for link in links.into_iter().filter(|link| !link.starts_with("http")) {
            assert!(page.path.parent().unwrap().join(link).exists(), "{}: {link}", page.name());
        }
    }
}

#[test]
fn the_readme_is_short_and_names_every_topic() {
    let readme = pages().into_iter().find(|page| page.path.ends_with("README.md")).unwrap().text;
    let lines = readme.lines().count();
    assert!(lines <= README_LINES_MAX, "README.md has {lines} lines, {README_LINES_MAX} at most");
    for topic in topics() {
        assert!(readme.contains(&format!("[{topic}](src/guide/{topic}.md)")), "{topic}");
    }
}

#[test]
fn topics_are_listed_and_printed() {
    let list = stdout(&["guide"]);
    for topic in topics() {
        let line = list.lines().find(|line| line.split_whitespace().next() == Some(&*topic));
        assert!(line.is_some_and(|line| line.split_whitespace().count() > 1), "{topic} is not in {list}");
        let page = stdout(&["guide", &topic]);
        let leftovers = ["](", "```", "<!--", "|--", "\x1b", "**"];
        assert!(leftovers.iter().all(|leftover| !page.contains(leftover)), "{topic}: {page}");
    }
    let settings = stdout(&["guide", "settings"]);
    assert!(SETTINGS.iter().all(|setting| settings.contains(&format!("`{}`", setting.name))));
    check_fails(&["guide", "setings"], 2, &["setings", "similar", "settings"]);
}

#[test]
fn manual_pages_have_the_guide() {
    let dir = TempDir::new().unwrap();
    stdout(&["man", "--out", dir.path().to_str().unwrap()]);
    for topic in topics() {
        let page = fs::read_to_string(dir.path().join(format!("fimd-guide-{topic}.7"))).unwrap();
        assert!(
            page.contains(&format!(".TH fimd-guide-{topic} 7")) && page.contains(".SH DESCRIPTION"),
            "{page}"
        );
        assert!(!page.contains("](") && !page.contains('`'), "{page}");
    }
    assert!(dir.path().join("fimd-complete.1").exists());
}
