//! Settings, each with the source of its value.

use std::collections::BTreeMap;
use std::mem::discriminant;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use strsim::levenshtein;

use super::definition::{Kind, SETTINGS, Scope, Setting, Settings};
use super::source::{FILE_NAME, Flag, Problem, Source};
use super::value::defaults;

/// The section of our settings, where an editor sends those of several servers together.
pub const SECTION: &str = "fimd";
/// Settings of editor extensions in the same section: how to start this program and how to show ghost text.
const OF_EXTENSIONS: [&str; 4] = ["path", "arguments", "trace", "ghostText"];

/// Settings, the source of each, and the problems with those that were given.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Configuration {
    settings: Settings,
    /// By name, the values given, in order of precedence with the strongest last; one for each kind of source.
    pub(super) given: BTreeMap<&'static str, BTreeMap<Source, Value>>,
    pub(super) problems: Vec<Problem>,
}

impl Configuration {
    /// Defaults and `flags` only: for benchmarks, which must not depend on the user.
    pub fn of_flags(flags: &[Flag]) -> Result<Self, Problem> {
        let mut this = Self::default();
        this.flags(flags)?;
        Ok(this)
    }

    /// The effective settings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Problems in the user's file, the environment, and the overrides of a client.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// Every setting with its value and its source.
    pub fn effective(&self) -> impl Iterator<Item = (&'static Setting, Value, Source)> + '_ {
        let defaults = defaults();
        SETTINGS.iter().map(move |setting| match self.strongest(setting.name) {
            Some((source, value)) => (setting, value.clone(), source.clone()),
            None => (setting, defaults[setting.name].clone(), Source::Default),
        })
    }

    /// Sets a setting as the flag `--set` does. `text` is JSON, or else a string.
    pub fn fix(&mut self, name: &str, text: &str) -> Result<(), Problem> {
        self.flags(&[Flag { flag: "--set", name: name.to_owned(), value: text.to_owned() }])
    }

    /// Replaces the settings from the editor: with an object of settings, nested or named by their dotted path, or
    /// such an object under `fimd`. Null is ignored.
    pub fn overlay(&mut self, given: &Value) -> Vec<Problem> {
        let mut problems = Vec::new();
        match given {
            Value::Null => {}
            Value::Object(object) if object.contains_key(SECTION) => return self.overlay(&object[SECTION]),
            Value::Object(object) => {
                self.remove(|_, source| *source == Source::Editor);
                self.add("", object, &|_| Source::Editor, &mut problems);
                self.update();
            }
            // An empty table of Lua.
            Value::Array(items) if items.is_empty() => self.remove(|_, source| *source == Source::Editor),
            _ => {
                let message = "the settings are not an object".into();
                problems.push(Problem { source: Source::Editor, message });
            }
        }
        problems
    }

    pub(super) fn flags(&mut self, flags: &[Flag]) -> Result<(), Problem> {
        for Flag { flag, name, value } in flags {
            let source = Source::Flag((*flag).to_owned());
            let wrong = |message| Problem { source: source.clone(), message };
            let setting = Setting::named(name).ok_or_else(|| wrong(unknown(name)))?;
            let value = setting.parse(value).map_err(|message| wrong(format!("{name}: {message}")))?;
            self.put(setting, value, source);
        }
        self.update();
        Ok(())
    }

    /// Adds an object of settings, nested or named by their dotted path. Null is ignored.
    pub(super) fn add(
        &mut self,
        path: &str,
        object: &Map<String, Value>,
        source: &dyn Fn(&str) -> Source,
        problems: &mut Vec<Problem>,
    ) {
        for (key, value) in object {
            let name = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            let start = format!("{name}.");
            let member = SETTINGS.iter().find(|setting| setting.name.starts_with(&start));
            let from = source(&name);
            match (value, member) {
                (Value::Null, _) => {}
                (Value::Object(object), Some(_)) => self.add(&name, object, source, problems),
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

    /// The setting of this name and the value to store, if valid from that source.
    pub(super) fn checked(
        &self,
        name: &str,
        value: Value,
        source: &Source,
    ) -> Result<(&'static Setting, Value), Problem> {
        let wrong = |message| Problem { source: source.clone(), message };
        let setting = Setting::named(name).ok_or_else(|| wrong(unknown(name)))?;
        if *source == Source::Editor && setting.scope == Scope::Process {
            return Err(wrong(format!(
                "{name} is shared by all editors and cannot be set by one: set it in {FILE_NAME}, by {} or by a flag",
                setting.variable()
            )));
        }
        if !(value.is_null() && setting.unset.is_some()) {
            setting.kind.check(&value).map_err(|message| wrong(format!("{name}: {message}")))?;
        }
        let value = match (&setting.kind, source, &value) {
            (Kind::Path, Source::File { path, .. }, Value::String(text)) => {
                Value::String(resolve(path, text).to_string_lossy().into_owned())
            }
            _ => value,
        };
        Ok((setting, value))
    }

    pub(super) fn put(&mut self, setting: &'static Setting, value: Value, source: Source) {
        let values = self.given.entry(setting.name).or_default();
        values.retain(|other, _| discriminant(other) != discriminant(&source));
        values.insert(source, value);
    }

    pub(super) fn remove(&mut self, is_removed: impl Fn(&Setting, &Source) -> bool) {
        for (name, values) in &mut self.given {
            let setting = Setting::named(name).expect("only known settings have values");
            values.retain(|source, _| !is_removed(setting, source));
        }
        self.given.retain(|_, values| !values.is_empty());
        self.update();
    }

    /// The value that counts: that of the strongest source, or a stricter one of the user where that is the editor.
    pub(super) fn strongest(&self, name: &str) -> Option<(&Source, &Value)> {
        let mut values = self.given.get(name)?.iter().rev();
        let strongest = values.next()?;
        let of_user = values.next().filter(|_| *strongest.0 == Source::Editor);
        Some(of_user.filter(|(_, value)| is_stricter(name, value, strongest.1)).unwrap_or(strongest))
    }

    /// Updates the effective settings.
    pub(super) fn update(&mut self) {
        let mut all = serde_json::to_value(Settings::default()).expect("settings are JSON");
        for name in self.given.keys() {
            let slot = all.pointer_mut(&format!("/{}", name.replace('.', "/"))).expect("it has a default");
            *slot = self.strongest(name).expect("it has a value").1.clone();
        }
        self.settings = serde_json::from_value(all).expect("every value was checked");
    }
}

/// Whether `value` excludes more than `other`, for a setting that decides what is read.
fn is_stricter(name: &str, value: &Value, other: &Value) -> bool {
    match name {
        "enabled" | "hover.enabled" => *value == Value::Bool(false),
        "trigger" => value.as_str() == Some("manual"),
        "context.tokens_max" => {
            value.as_u64().zip(other.as_u64()).is_some_and(|(value, other)| value < other)
        }
        _ => false,
    }
}

/// What to say of a name that no setting has.
pub(super) fn unknown(name: &str) -> String {
    let nearest = SETTINGS.iter().min_by_key(|setting| levenshtein(setting.name, name));
    format!("unknown setting {name}; did you mean {}?", nearest.map_or("", |setting| setting.name))
}

/// Resolves a path in the settings file `file`: relative to its folder, or to the home folder after `~/`.
fn resolve(file: &Path, path: &str) -> PathBuf {
    match path.strip_prefix("~/").zip(dirs::home_dir()) {
        Some((rest, home)) => home.join(rest),
        None => file.parent().unwrap_or(Path::new("")).join(path),
    }
}
