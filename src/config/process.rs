//! The settings of a process: from the user's file, the environment and the flags.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde_json::Value;
use strsim::levenshtein;

use super::configuration::Configuration;
use super::definition::{SETTINGS, Setting, VARIABLE_PREFIX};
use super::source::{FILE_NAME, Flag, Problem, Source};
use super::value::from_toml;

/// Overrides the path of the settings file; empty for none.
const FILE_VARIABLE: &str = "FIMD_CONFIG";
/// Overrides the runtime folder of the daemon.
pub const RUNTIME_DIR_VARIABLE: &str = "FIMD_RUNTIME_DIR";
/// Variables with the prefix of settings that are none.
const OTHER_VARIABLES: [&str; 3] = ["FIMD_LOG", FILE_VARIABLE, RUNTIME_DIR_VARIABLE];
/// What becomes of a file that cannot be read.
const IGNORED: &str = "this file is ignored";
/// What becomes of one with problems when settings are read again.
const KEPT: &str = "until that is corrected, the settings stay as they were";
/// Prefixes of such variables for tests.
const TEST_PREFIXES: [&str; 3] = ["FIMD_TEST_", "FIMD_QWEN_", "FIMD_WRITE_"];

/// Path of the settings file, which may not exist; `None` where the system has no folder for it. `FIMD_CONFIG`
/// overrides it.
pub fn file() -> Option<PathBuf> {
    match std::env::var_os(FILE_VARIABLE) {
        Some(path) => Some(PathBuf::from(path)).filter(|path| !path.as_os_str().is_empty()),
        None => dirs::config_dir().map(|folder| folder.join("fimd").join(FILE_NAME)),
    }
}

impl Configuration {
    /// The settings of this process: from the user's file, the environment and `flags`. Problems with the former two
    /// are in [`Configuration::problems`]; an invalid flag is an error.
    pub fn for_process(flags: &[Flag]) -> Result<Self, Problem> {
        let mut this = Self::default();
        if let Some(path) = file() {
            match fs::read_to_string(&path) {
                Ok(text) => this.read(&path, &text),
                Err(error)
                    if error.kind() == ErrorKind::NotFound && std::env::var_os(FILE_VARIABLE).is_none() => {}
                Err(error) => {
                    let message = format!("cannot read the file: {error}; {IGNORED}");
                    this.problems.push(Problem { source: Source::File { path, line: 1 }, message });
                }
            }
        }
        let variables = std::env::vars_os();
        let variables = variables.filter_map(|(name, value)| Some((name.into_string().ok()?, value)));
        this.environment(variables.map(|(name, value)| (name, value.to_string_lossy().into_owned())));
        this.flags(flags)?;
        Ok(this)
    }

    /// With those settings of the user's file that `before` has, if the file has problems now: a typo must neither unload
    /// the model nor have files read that were disabled.
    pub fn keeping_file_of(mut self, before: &Self) -> Self {
        if !self.problems.iter().any(|problem| problem.source.is_file()) {
            return self;
        }
        self.remove(|_, source| source.is_file());
        for (name, values) in &before.given {
            let setting = Setting::named(name).expect("only known settings have values");
            for (source, value) in values.iter().filter(|(source, _)| source.is_file()) {
                self.put(setting, value.clone(), source.clone());
            }
        }
        self.update();
        for Problem { message, .. } in self.problems.iter_mut().filter(|problem| problem.source.is_file()) {
            let cause = message.strip_suffix(IGNORED).unwrap_or(&format!("{message}; ")).to_owned();
            *message = cause + KEPT;
        }
        self
    }

    /// With a problem that no single value is to blame for.
    pub fn with_problem(&self, message: String) -> Self {
        let mut this = self.clone();
        this.problems.retain(|problem| problem.source != Source::Default);
        this.problems.push(Problem { source: Source::Default, message });
        this
    }

    /// Adds the settings of a file.
    pub(super) fn read(&mut self, path: &Path, text: &str) {
        let line_of = |at: usize| text[..at.min(text.len())].matches('\n').count() + 1;
        let from = |line| Source::File { path: path.to_owned(), line };
        let table = match toml::de::DeTable::parse(text) {
            Ok(table) => table,
            Err(error) => {
                let line = line_of(error.span().map_or(0, |span| span.start));
                let message = format!("{}; {IGNORED}", error.message());
                return self.problems.push(Problem { source: from(line), message });
            }
        };
        // Line of each key, by its dotted path.
        let mut lines = BTreeMap::new();
        note_lines("", table.get_ref(), &mut |name, at| {
            lines.insert(name, line_of(at));
        });
        let source = |name: &str| from(lines.get(name).copied().unwrap_or(1));
        let Value::Object(object) = from_toml(&toml::de::DeValue::Table(table.get_ref().clone())) else {
            return;
        };
        let mut problems = Vec::new();
        self.add("", &object, &source, &mut problems);
        self.problems.extend(problems);
        self.update();
    }

    /// Adds the settings of environment variables.
    pub(super) fn environment(&mut self, variables: impl Iterator<Item = (String, String)>) {
        let is_other = |name: &str| {
            OTHER_VARIABLES.contains(&name) || TEST_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
        };
        let known: Vec<(String, &'static Setting)> =
            SETTINGS.iter().map(|setting| (setting.variable(), setting)).collect();
        let mut unknown = Vec::new();
        for (name, text) in variables.filter(|(name, _)| name.starts_with(VARIABLE_PREFIX)) {
            let source = Source::Environment(name.clone());
            match known.iter().find(|(variable, _)| *variable == name) {
                Some((_, setting)) => match setting.parse(&text) {
                    Ok(value) => self.put(setting, value, source),
                    Err(message) => self.problems.push(Problem { source, message }),
                },
                None if is_other(&name) => {}
                None => unknown.push(name),
            }
        }
        self.update();
        unknown.retain(|name| *name != self.settings().remote.token_env);
        for name in unknown {
            let nearest = known.iter().min_by_key(|(variable, _)| levenshtein(variable, &name));
            let nearest = nearest.map_or("", |(variable, _)| variable);
            let message = format!("unknown setting; did you mean {nearest}?");
            self.problems.push(Problem { source: Source::Environment(name), message });
        }
    }
}

/// Reports the byte offset of each key of a table and its subtables, by dotted path.
fn note_lines(path: &str, table: &toml::de::DeTable, note: &mut dyn FnMut(String, usize)) {
    for (key, value) in table {
        let name = key.get_ref();
        let name = if path.is_empty() { name.to_string() } else { format!("{path}.{name}") };
        note(name.clone(), key.span().start);
        if let Some(table) = value.get_ref().as_table() {
            note_lines(&name, table, note);
        }
    }
}
