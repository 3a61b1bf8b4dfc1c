//! Every setting, once: its name, what it means, its default, which values it may have, and who may set it.
//!
//! A [`Configuration`] holds the settings, each with where its value came from. Weakest first:
//!
//! 1. defaults;
//! 2. the user's file `fimd.toml`, see [`file()`];
//! 3. environment variables, as `FIMD_BUDGET_SOFT_MS` for `budget.soft_ms`;
//! 4. the editor: its `initializationOptions`, replaced by what `workspace/didChangeConfiguration` says later;
//! 5. flags of the command line.
//!
//! No file of a workspace is read: a repository that was cloned must not be able to choose a model, switch
//! completion on, or say where code is sent. Settings of the process ([`Scope::Process`]) are not taken from an
//! editor either, which may well hand on what a workspace says.
//!
//! One process serves many editors, and each of them may have been started with an environment and flags of its
//! own: [`Configuration::client_overrides`] carries those over, [`Configuration::with_client`] lays them over what
//! the process has.
//!
//! What is wrong is reported by name and leaves everything else as it is. Layers below are given option structs
//! of their own.

mod definition;
mod remote;
mod render;
mod value;

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io::ErrorKind;
use std::mem::discriminant;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use sysinfo::{MemoryRefreshKind, RefreshKind, System};

use crate::complete::{self, PromptProfile, driver, service};
use value::{distance, from_toml};

pub use definition::*;
pub use render::{markdown, schema, template, vscode};

/// What is kept of earlier prompts is one in so many bytes of the memory by default.
const MEMORY_PARTS: u64 = 10;
/// Most bytes of it by default.
const CACHE_BYTES_DEFAULT_MAX: u64 = 4 << 30;
/// How long without a keystroke is idle.
const IDLE: Duration = Duration::from_secs(1);

/// The name of the user's file.
const FILE_NAME: &str = "fimd.toml";
/// Names another file; empty for none.
const FILE_VARIABLE: &str = "FIMD_CONFIG";
/// Names another folder for the daemon of this user.
pub const RUNTIME_DIR_VARIABLE: &str = "FIMD_RUNTIME_DIR";
/// How the variables start that set settings.
const VARIABLE_START: &str = "FIMD_";
/// Variables that start so and are no settings.
const OTHER_VARIABLES: [&str; 3] = ["FIMD_LOG", FILE_VARIABLE, RUNTIME_DIR_VARIABLE];
/// How such variables of tests start.
const TEST_VARIABLES: [&str; 3] = ["FIMD_TEST_", "FIMD_QWEN_", "FIMD_WRITE_"];

/// Under this name an editor that keeps the settings of several servers together has ours.
pub const SECTION: &str = "fimd";
/// What extensions keep for themselves under the same name: how to start this program and how to show what it
/// says.
const OF_EXTENSIONS: [&str; 4] = ["path", "arguments", "trace", "ghostText"];

impl Settings {
    /// How to complete with a model whose prompts are best made like this.
    pub fn options(&self, suited: PromptProfile) -> driver::Options {
        driver::Options {
            prompt: self.prompt(suited),
            service: service::Options {
                debounce_max: Duration::from_millis(self.debounce_ms_max),
                soft: Duration::from_millis(self.budget.soft_ms),
                hard: Duration::from_millis(self.budget.hard_ms),
                auto_tokens_max: self.max_tokens.auto,
                invoked_tokens_max: self.max_tokens.invoked,
                alternatives: self.alternatives,
                speculate: self.speculate,
                prewarm: self.warm,
                idle: IDLE,
            },
        }
    }

    /// How to make prompts for a model whose prompts are best made like this.
    pub fn prompt(&self, suited: PromptProfile) -> complete::Options {
        let order = self.fim.order.unwrap_or(suited.order);
        let defaults = complete::Options::new(order);
        complete::Options {
            format: self.fim.format.or(defaults.format),
            context_tokens_max: self.context.tokens_max.unwrap_or(suited.context_tokens_max),
            logprob_min: Some(self.logprob_min),
            ..defaults
        }
    }

    /// Most bytes of memory for what earlier prompts leave behind, on this machine.
    pub fn cache_bytes_max(&self) -> u64 {
        self.cache.bytes_max.unwrap_or_else(|| {
            let memory = RefreshKind::nothing().with_memory(MemoryRefreshKind::nothing().with_ram());
            let bytes = System::new_with_specifics(memory).total_memory() / MEMORY_PARTS;
            bytes.min(CACHE_BYTES_DEFAULT_MAX)
        })
    }
}

/// Where the value of a setting came from, the weakest first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// Nobody set it.
    Default,
    /// The user's file.
    File {
        /// Which.
        path: PathBuf,
        /// In this line, from 1.
        line: usize,
    },
    /// This environment variable.
    Environment(String),
    /// The editor.
    Editor,
    /// This flag of the command line.
    Flag(String),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Environment(name) | Self::Flag(name) => f.write_str(name),
            Self::Editor => f.write_str("editor"),
        }
    }
}

/// Something wrong with what a source says: the setting keeps the value it has without it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    source: Source,
    message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match &self.source {
            Source::Default | Source::Editor => f.write_str(&self.message),
            source => write!(f, "{source}: {}", self.message),
        }
    }
}

/// A setting as a flag gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flag {
    /// The flag as it is written, such as `--model`.
    pub flag: &'static str,
    /// The setting.
    pub name: String,
    /// Its value: JSON, or else a text.
    pub value: String,
}

/// Settings, where each came from, and what was wrong with those that were given.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Configuration {
    settings: Settings,
    /// By name, what was said of each, the strongest last; one value of each kind of source.
    given: BTreeMap<&'static str, BTreeMap<Source, Value>>,
    problems: Vec<Problem>,
}

/// The file that settings are read from, whether or not it is there; `None` where the system has no place for
/// it. `FIMD_CONFIG` names another one.
pub fn file() -> Option<PathBuf> {
    match std::env::var_os(FILE_VARIABLE) {
        Some(path) => Some(PathBuf::from(path)).filter(|path| !path.as_os_str().is_empty()),
        None => dirs::config_dir().map(|folder| folder.join("fimd").join(FILE_NAME)),
    }
}

impl Configuration {
    /// The settings of this process: of the user's file, the environment and `flags`. What is wrong with the
    /// former two is in [`Configuration::problems`]; a wrong flag is an error, since whoever gave it is there to
    /// correct it.
    pub fn for_process(flags: &[Flag]) -> Result<Self, Problem> {
        let mut this = Self::default();
        if let Some(path) = file() {
            match fs::read_to_string(&path) {
                Ok(text) => this.read(&path, &text),
                Err(error)
                    if error.kind() == ErrorKind::NotFound && std::env::var_os(FILE_VARIABLE).is_none() => {}
                Err(error) => {
                    let message = format!("cannot read {}: {error}", path.display());
                    this.problems.push(Problem { source: Source::Default, message });
                }
            }
        }
        let variables = std::env::vars_os();
        let variables = variables.filter_map(|(name, value)| Some((name.into_string().ok()?, value)));
        this.environment(variables.map(|(name, value)| (name, value.to_string_lossy().into_owned())));
        this.flags(flags)?;
        Ok(this)
    }

    /// Defaults and `flags`, nothing else: for what must not depend on who measures.
    pub fn of_flags(flags: &[Flag]) -> Result<Self, Problem> {
        let mut this = Self::default();
        this.flags(flags)?;
        Ok(this)
    }

    /// The settings as they are.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// What was wrong with the user's file, the environment, and what a client brought along.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// Every setting with its value and where that came from.
    pub fn effective(&self) -> impl Iterator<Item = (&'static Setting, Value, Source)> + '_ {
        let defaults = defaults();
        SETTINGS.iter().map(move |setting| match self.strongest(setting.name) {
            Some((source, value)) => (setting, value.clone(), source.clone()),
            None => (setting, defaults[setting.name].clone(), Source::Default),
        })
    }

    /// Gives a setting a value that only a flag changes again. `text` is JSON, or else a string.
    pub fn fix(&mut self, name: &str, text: &str) -> Result<(), Problem> {
        self.flags(&[Flag { flag: "--set", name: name.to_owned(), value: text.to_owned() }])
    }

    /// Takes over what an editor says, instead of what it said before: an object of settings, nested or named by
    /// their path in one, or such an object under `fimd`. Null says nothing.
    pub fn overlay(&mut self, given: &Value) -> Vec<Problem> {
        let mut problems = Vec::new();
        match given {
            Value::Null => {}
            Value::Object(object) if object.contains_key(SECTION) => return self.overlay(&object[SECTION]),
            Value::Object(object) => {
                self.forget(|_, source| *source == Source::Editor);
                self.take("", object, &|_| Source::Editor, &mut problems);
                self.settle();
            }
            // An empty table of Lua.
            Value::Array(items) if items.is_empty() => self.forget(|_, source| *source == Source::Editor),
            _ => {
                let message = "the settings are not an object".into();
                problems.push(Problem { source: Source::Editor, message });
            }
        }
        problems
    }

    /// What the environment and the flags of this process say about settings of an editor, and what is wrong
    /// with them, as JSON: for the process that serves the editor, see [`Configuration::with_client`].
    pub fn client_overrides(&self) -> Value {
        let settings = SETTINGS.iter().filter(|setting| setting.scope == Scope::Editor);
        let settings = settings.filter_map(|setting| {
            let given = self.given.get(setting.name)?.iter().filter(|(source, _)| is_brought(source));
            let given: Vec<Value> =
                given.map(|(source, value)| json!({"from": source, "value": value})).collect();
            (!given.is_empty()).then(|| (setting.name.to_owned(), Value::Array(given)))
        });
        let problems = self.problems.iter().filter(|problem| is_brought(&problem.source));
        let problems: Vec<Value> =
            problems.map(|problem| json!({"from": problem.source, "message": problem.message})).collect();
        json!({"settings": settings.collect::<Map<_, _>>(), "problems": problems})
    }

    /// The settings for one editor: those of this process with what another one, which the editor has started,
    /// has in its environment and flags ([`Configuration::client_overrides`]). The environment of this process
    /// says nothing about settings of an editor then: it is that of whichever editor came first. Flags of this
    /// process do, unless the client has the same.
    pub fn with_client(&self, overrides: &Value) -> Self {
        #[derive(Deserialize)]
        struct Given {
            from: Source,
            value: Value,
        }
        #[derive(Deserialize)]
        struct Wrong {
            from: Source,
            message: String,
        }
        let mut this = self.clone();
        let is_environment = |source: &Source| matches!(source, Source::Environment(_));
        this.forget(|setting, source| setting.scope == Scope::Editor && is_environment(source));
        this.problems.retain(|problem| !is_environment(&problem.source));
        let wrong = overrides["problems"].as_array().into_iter().flatten();
        let wrong = wrong.filter_map(|wrong| Wrong::deserialize(wrong).ok());
        this.problems.extend(wrong.map(|Wrong { from, message }| Problem { source: from, message }));
        for (name, given) in overrides["settings"].as_object().into_iter().flatten() {
            for Given { from, value } in Vec::<Given>::deserialize(given).into_iter().flatten() {
                match this.checked(name, value, &from) {
                    Ok((setting, value)) if setting.scope == Scope::Editor && is_brought(&from) => {
                        this.put(setting, value, from);
                    }
                    Ok(_) => {}
                    Err(problem) => this.problems.push(problem),
                }
            }
        }
        this.settle();
        this
    }

    fn flags(&mut self, flags: &[Flag]) -> Result<(), Problem> {
        for Flag { flag, name, value } in flags {
            let source = Source::Flag((*flag).to_owned());
            let wrong = |message| Problem { source: source.clone(), message };
            let setting = Setting::named(name).ok_or_else(|| wrong(unknown(name)))?;
            let value = setting.parse(value).map_err(|message| wrong(format!("{name}: {message}")))?;
            self.put(setting, value, source);
        }
        self.settle();
        Ok(())
    }

    /// Takes over a file of settings.
    fn read(&mut self, path: &Path, text: &str) {
        let line_of = |at: usize| text[..at.min(text.len())].matches('\n').count() + 1;
        let from = |line| Source::File { path: path.to_owned(), line };
        let table = match toml::de::DeTable::parse(text) {
            Ok(table) => table,
            Err(error) => {
                let line = line_of(error.span().map_or(0, |span| span.start));
                let message = format!("{}; nothing in this file counts", error.message());
                return self.problems.push(Problem { source: from(line), message });
            }
        };
        // Where each key stands, by its path as `take` gives it.
        let mut lines = BTreeMap::new();
        note_lines("", table.get_ref(), &mut |name, at| {
            lines.insert(name, line_of(at));
        });
        let source = |name: &str| from(lines.get(name).copied().unwrap_or(1));
        let Value::Object(object) = from_toml(&toml::de::DeValue::Table(table.get_ref().clone())) else {
            return;
        };
        let mut problems = Vec::new();
        self.take("", &object, &source, &mut problems);
        self.problems.extend(problems);
        self.settle();
    }

    /// Takes over environment variables.
    fn environment(&mut self, variables: impl Iterator<Item = (String, String)>) {
        let is_other = |name: &str| {
            OTHER_VARIABLES.contains(&name) || TEST_VARIABLES.iter().any(|start| name.starts_with(start))
        };
        let known: Vec<(String, &'static Setting)> =
            SETTINGS.iter().map(|setting| (setting.variable(), setting)).collect();
        let mut unknown = Vec::new();
        for (name, text) in variables.filter(|(name, _)| name.starts_with(VARIABLE_START)) {
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
        self.settle();
        unknown.retain(|name| *name != self.settings.remote.token_env);
        for name in unknown {
            let nearest = known.iter().min_by_key(|(variable, _)| distance(variable, &name));
            let nearest = nearest.map_or("", |(variable, _)| variable);
            let message = format!("there is no such setting; did you mean {nearest}?");
            self.problems.push(Problem { source: Source::Environment(name), message });
        }
    }

    /// Takes over an object of settings, nested or named by their path in one. Null leaves a setting as it is.
    fn take(
        &mut self,
        path: &str,
        object: &Map<String, Value>,
        source: &dyn Fn(&str) -> Source,
        problems: &mut Vec<Problem>,
    ) {
        for (key, value) in object {
            let name = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            let start = format!("{name}.");
            let in_group = SETTINGS.iter().find(|setting| setting.name.starts_with(&start));
            let from = source(&name);
            match (value, in_group) {
                (Value::Null, _) => {}
                (Value::Object(object), Some(_)) => self.take(&name, object, source, problems),
                (_, Some(setting)) => {
                    let message = format!("{name} is a group of settings, such as {}", setting.name);
                    problems.push(Problem { source: from, message });
                }
                _ if from == Source::Editor
                    && OF_EXTENSIONS.contains(&name.split('.').next().unwrap_or_default()) => {}
                _ => match self.checked(&name, value.clone(), &from) {
                    Ok((setting, value)) => self.put(setting, value, from),
                    Err(problem) => problems.push(problem),
                },
            }
        }
    }

    /// The setting of this name, if that source may give it this value.
    fn checked(
        &self,
        name: &str,
        value: Value,
        source: &Source,
    ) -> Result<(&'static Setting, Value), Problem> {
        let wrong = |message| Problem { source: source.clone(), message };
        let setting = Setting::named(name).ok_or_else(|| wrong(unknown(name)))?;
        if *source == Source::Editor && setting.scope == Scope::Process {
            return Err(wrong(format!(
                "{name} counts for all editors together and is not taken from one: set it in {FILE_NAME}, by {} or by a flag",
                setting.variable()
            )));
        }
        if !(value.is_null() && setting.unset.is_some()) {
            setting.kind.check(&value).map_err(|message| wrong(format!("{name}: {message}")))?;
        }
        let value = match (&setting.kind, source, &value) {
            (Kind::Path, Source::File { path, .. }, Value::String(text)) => {
                Value::String(beside(path, text).to_string_lossy().into_owned())
            }
            _ => value,
        };
        Ok((setting, value))
    }

    fn put(&mut self, setting: &'static Setting, value: Value, source: Source) {
        let values = self.given.entry(setting.name).or_default();
        values.retain(|other, _| discriminant(other) != discriminant(&source));
        values.insert(source, value);
    }

    fn forget(&mut self, is_forgotten: impl Fn(&Setting, &Source) -> bool) {
        for (name, values) in &mut self.given {
            let setting = Setting::named(name).expect("only settings are given values");
            values.retain(|source, _| !is_forgotten(setting, source));
        }
        self.given.retain(|_, values| !values.is_empty());
        self.settle();
    }

    fn strongest(&self, name: &str) -> Option<(&Source, &Value)> {
        self.given.get(name)?.last_key_value()
    }

    /// Makes the settings what was said of them.
    fn settle(&mut self) {
        let mut all = serde_json::to_value(Settings::default()).expect("settings are JSON");
        for name in self.given.keys() {
            let place = all.pointer_mut(&format!("/{}", name.replace('.', "/"))).expect("it has a default");
            *place = self.strongest(name).expect("it was given").1.clone();
        }
        self.settings = serde_json::from_value(all).expect("every value was checked");
    }
}

/// Whether a process has this by how it was started.
fn is_brought(source: &Source) -> bool {
    matches!(source, Source::Environment(_) | Source::Flag(_))
}

/// The default of every setting by its name.
fn defaults() -> Map<String, Value> {
    let all = serde_json::to_value(Settings::default()).expect("settings are JSON");
    let value = |name: &str| all.pointer(&format!("/{}", name.replace('.', "/"))).map(plain);
    let defaults = SETTINGS.iter().map(|setting| (setting.name.to_owned(), value(setting.name)));
    defaults.map(|(name, value)| (name, value.expect("it has a default"))).collect()
}

/// A number of 32 bits as short as it was written; anything else as it is.
fn plain(value: &Value) -> Value {
    match value.as_f64().filter(|_| value.is_f64()) {
        Some(number) => (number as f32).to_string().parse().map_or(Value::Null, Value::Number),
        None => value.clone(),
    }
}

fn unknown(name: &str) -> String {
    let nearest = SETTINGS.iter().min_by_key(|setting| distance(setting.name, name));
    format!("there is no setting {name}; did you mean {}?", nearest.map_or("", |setting| setting.name))
}

/// Tells where each key of a table and of its tables begins, by its path.
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

/// A path as the file at `file` means it: beside the file, or in the user's own folder after `~/`.
fn beside(file: &Path, path: &str) -> PathBuf {
    match path.strip_prefix("~/").zip(dirs::home_dir()) {
        Some((rest, home)) => home.join(rest),
        None => file.parent().unwrap_or(Path::new("")).join(path),
    }
}

#[cfg(test)]
mod tests;
