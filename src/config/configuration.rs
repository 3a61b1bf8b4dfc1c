//! Settings, each with where its value came from.

use std::collections::BTreeMap;
use std::mem::discriminant;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use strsim::levenshtein;

use super::definition::{Kind, SETTINGS, Scope, Setting, Settings};
use super::source::{FILE_NAME, Flag, Problem, Source};
use super::value::defaults;

/// Under this name an editor that keeps the settings of several servers together has ours.
pub const SECTION: &str = "fimd";
/// What extensions keep for themselves under the same name: how to start this program and how to show what it
/// says.
const OF_EXTENSIONS: [&str; 4] = ["path", "arguments", "trace", "ghostText"];

/// Settings, where each came from, and what was wrong with those that were given.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Configuration {
    settings: Settings,
    /// By name, what was said of each, the strongest last; one value of each kind of source.
    pub(super) given: BTreeMap<&'static str, BTreeMap<Source, Value>>,
    pub(super) problems: Vec<Problem>,
}

impl Configuration {
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

    pub(super) fn flags(&mut self, flags: &[Flag]) -> Result<(), Problem> {
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

    /// Takes over an object of settings, nested or named by their path in one. Null leaves a setting as it is.
    pub(super) fn take(
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

    pub(super) fn put(&mut self, setting: &'static Setting, value: Value, source: Source) {
        let values = self.given.entry(setting.name).or_default();
        values.retain(|other, _| discriminant(other) != discriminant(&source));
        values.insert(source, value);
    }

    pub(super) fn forget(&mut self, is_forgotten: impl Fn(&Setting, &Source) -> bool) {
        for (name, values) in &mut self.given {
            let setting = Setting::named(name).expect("only settings are given values");
            values.retain(|source, _| !is_forgotten(setting, source));
        }
        self.given.retain(|_, values| !values.is_empty());
        self.settle();
    }

    pub(super) fn strongest(&self, name: &str) -> Option<(&Source, &Value)> {
        self.given.get(name)?.last_key_value()
    }

    /// Makes the settings what was said of them.
    pub(super) fn settle(&mut self) {
        let mut all = serde_json::to_value(Settings::default()).expect("settings are JSON");
        for name in self.given.keys() {
            let place = all.pointer_mut(&format!("/{}", name.replace('.', "/"))).expect("it has a default");
            *place = self.strongest(name).expect("it was given").1.clone();
        }
        self.settings = serde_json::from_value(all).expect("every value was checked");
    }
}

fn unknown(name: &str) -> String {
    let nearest = SETTINGS.iter().min_by_key(|setting| levenshtein(setting.name, name));
    format!("there is no setting {name}; did you mean {}?", nearest.map_or("", |setting| setting.name))
}

/// A path as the file at `file` means it: beside the file, or in the user's own folder after `~/`.
fn beside(file: &Path, path: &str) -> PathBuf {
    match path.strip_prefix("~/").zip(dirs::home_dir()) {
        Some((rest, home)) => home.join(rest),
        None => file.parent().unwrap_or(Path::new("")).join(path),
    }
}
