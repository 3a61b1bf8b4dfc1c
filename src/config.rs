//! Every setting, once: its name, what it means, its default, and which values it may have.
//!
//! A [`Configuration`] starts from defaults; the command line fixes settings, an editor's
//! `initializationOptions` set those that are left. Layers below are given option structs of their own.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};
use sysinfo::{MemoryRefreshKind, RefreshKind, System};

use crate::complete::fim::{Format, Order};
use crate::complete::{self, driver, service};

/// [`Cache::bytes_max`] is one in so many bytes of the memory by default.
const MEMORY_PARTS: u64 = 10;
/// Most bytes of it by default.
const CACHE_BYTES_DEFAULT_MAX: u64 = 4 << 30;
/// How long without a keystroke is idle.
const IDLE: Duration = Duration::from_secs(1);

/// All settings. A setting is named by the path to it, as in `fim.order`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Whether to complete at all.
    pub enabled: bool,
    /// Where not to complete.
    pub disabled: Disabled,
    /// Longest wait for more typing before the model is asked, in milliseconds; how long it is depends on how
    /// fast you type and how fast the model answers.
    pub debounce_ms_max: u64,
    /// How long a completion may take.
    pub budget: Budget,
    /// How long a completion may be.
    pub max_tokens: MaxTokens,
    /// How many items to offer when asked for a completion by hand.
    pub alternatives: usize,
    /// What a prompt shows of other files.
    pub context: Context,
    /// How fill-in-the-middle prompts are made.
    pub fim: Fim,
    /// What is kept of prompts evaluated earlier.
    pub cache: Cache,
    /// Least mean natural log-probability of the tokens of a completion that is shown.
    pub logprob_min: f32,
    /// Whether to continue a suggestion in the background, as if it had been accepted.
    pub speculate: bool,
    /// Whether to evaluate a document's prompt in the background when it is opened, focused, or left idle.
    pub warm: bool,
}

/// Where not to complete. Such files are no context for others either.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Disabled {
    /// Language identifiers as editors send them, such as `markdown`.
    pub languages: Vec<String>,
    /// Patterns of paths, as in a `.gitignore` at the root of the workspace.
    pub globs: Vec<String>,
}

/// How long a completion may take.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Budget {
    /// After so many milliseconds, a completion that was not asked for by hand ends with its line.
    pub soft_ms: u64,
    /// After so many milliseconds, every completion ends with what there is.
    pub hard_ms: u64,
}

/// How long a completion may be, in tokens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MaxTokens {
    /// While typing.
    pub auto: usize,
    /// When asked for by hand.
    pub invoked: usize,
}

/// What a prompt shows of other files.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Context {
    /// Most tokens of other open files; 0 for none.
    pub tokens_max: usize,
}

/// How fill-in-the-middle prompts are made.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fim {
    /// `psm`, `spm` or `psm-anchored`; by default what suits the model.
    #[serde(with = "spelled_order")]
    pub order: Option<Order>,
    /// `raw` or `chat`; by default what suits the model.
    #[serde(with = "spelled_format")]
    pub format: Option<Format>,
}

/// What is kept of prompts evaluated earlier.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cache {
    /// Most bytes; by default a tenth of the memory, at most 4 GiB. It counts when the model is loaded, so
    /// only where the command line sets it.
    pub bytes_max: u64,
}

impl Default for Settings {
    fn default() -> Self {
        let memory = RefreshKind::nothing().with_memory(MemoryRefreshKind::nothing().with_ram());
        let bytes_max = System::new_with_specifics(memory).total_memory() / MEMORY_PARTS;
        Self {
            enabled: true,
            disabled: Disabled::default(),
            debounce_ms_max: 75,
            budget: Budget { soft_ms: 250, hard_ms: 5000 },
            max_tokens: MaxTokens { auto: 64, invoked: 128 },
            alternatives: 3,
            context: Context { tokens_max: 512 },
            fim: Fim::default(),
            cache: Cache { bytes_max: bytes_max.min(CACHE_BYTES_DEFAULT_MAX) },
            logprob_min: complete::Options::LOGPROB_MIN,
            speculate: true,
            warm: true,
        }
    }
}

impl Settings {
    /// The values that make no sense although their type is right.
    fn check(&self) -> Result<(), String> {
        let ranges: [(u64, std::ops::RangeInclusive<u64>); 7] = [
            (self.debounce_ms_max, 0..=10_000),
            (self.budget.soft_ms, 0..=600_000),
            (self.budget.hard_ms, 1..=600_000),
            (self.max_tokens.auto as u64, 1..=4096),
            (self.max_tokens.invoked as u64, 1..=4096),
            (self.alternatives as u64, 1..=3),
            (self.context.tokens_max as u64, 0..=1 << 20),
        ];
        for (value, range) in ranges {
            if !range.contains(&value) {
                return Err(format!("expected {} to {}, not {value}", range.start(), range.end()));
            }
        }
        if self.logprob_min.is_nan() {
            return Err("expected a number".into());
        }
        Ok(())
    }

    /// How to complete with a model whose prompts are best made in `order`.
    pub fn options(&self, order: Order) -> driver::Options {
        driver::Options {
            prompt: self.prompt(order),
            service: service::Options {
                debounce_max: Duration::from_millis(self.debounce_ms_max),
                soft: Duration::from_millis(self.budget.soft_ms),
                hard: Duration::from_millis(self.budget.hard_ms),
                auto_tokens_max: self.max_tokens.auto,
                invoked_tokens_max: self.max_tokens.invoked,
                alternatives: self.alternatives,
                speculate: self.speculate,
                warm: self.warm,
                idle: IDLE,
            },
        }
    }

    /// How to make prompts for a model whose prompts are best made in `order`.
    pub fn prompt(&self, order: Order) -> complete::Options {
        let order = self.fim.order.unwrap_or(order);
        let defaults = complete::Options::new(order);
        complete::Options {
            format: self.fim.format.unwrap_or(defaults.format),
            context_tokens_max: self.context.tokens_max,
            logprob_min: Some(self.logprob_min),
            ..defaults
        }
    }
}

/// Something wrong with a setting: it keeps the value it had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem(String);

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Settings, and which of them may not be changed any more.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Configuration {
    settings: Settings,
    fixed: BTreeSet<String>,
}

impl Configuration {
    /// The settings as they are.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Gives a setting a value that later ones do not change. `text` is JSON, or else a string.
    pub fn fix(&mut self, name: &str, text: &str) -> Result<(), Problem> {
        let value = serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned()));
        let text = Value::String(text.to_owned());
        self.set(name, value).or_else(|problem| self.set(name, text).map_err(|_| problem))?;
        self.fixed.insert(name.to_owned());
        Ok(())
    }

    /// Fixes the order of prompts.
    pub fn fix_order(&mut self, order: Order) {
        self.fix("fim.order", &order.to_string()).expect("every order has a spelling");
    }

    /// Takes over an object of settings, also of those named by their path in one. What is wrong is left
    /// as it was and reported; null leaves a setting as it is.
    pub fn overlay(&mut self, given: &Value) -> Vec<Problem> {
        let mut problems = Vec::new();
        match given {
            Value::Null => {}
            Value::Object(object) => self.overlay_object("", object, &mut problems),
            _ => problems.push(Problem(format!("the settings are an object, not {}", kind(given)))),
        }
        problems
    }

    fn overlay_object(&mut self, path: &str, object: &Map<String, Value>, problems: &mut Vec<Problem>) {
        for (key, value) in object {
            let name = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            let is_group = names().iter().any(|known| known.starts_with(&format!("{name}.")));
            match value {
                Value::Object(object) if is_group => self.overlay_object(&name, object, problems),
                Value::Null => {}
                _ if self.fixed.contains(&name) => {}
                _ => problems.extend(self.set(&name, value.clone()).err()),
            }
        }
    }

    fn set(&mut self, name: &str, value: Value) -> Result<(), Problem> {
        let names = names();
        if !names.iter().any(|known| known == name) {
            let nearest = names.iter().min_by_key(|known| distance(known, name)).map_or("", |known| known);
            return Err(Problem(format!("there is no setting {name}; did you mean {nearest}?")));
        }
        let mut all = serde_json::to_value(&self.settings).expect("settings are JSON");
        let place = all.pointer_mut(&format!("/{}", name.replace('.', "/"))).expect("it has a value");
        *place = value;
        let wrong = |error: String| Problem(format!("{name}: {error}"));
        let settings: Settings = serde_json::from_value(all).map_err(|error| wrong(error.to_string()))?;
        settings.check().map_err(wrong)?;
        self.settings = settings;
        Ok(())
    }
}

/// The names of all settings.
pub fn names() -> Vec<String> {
    fn collect(path: &str, value: &Value, names: &mut Vec<String>) {
        match value {
            Value::Object(object) => {
                for (key, value) in object {
                    let name = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                    collect(&name, value, names);
                }
            }
            _ => names.push(path.to_owned()),
        }
    }
    let mut names = Vec::new();
    let all = serde_json::to_value(Settings::default()).expect("settings are JSON");
    collect("", &all, &mut names);
    names
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// How many characters have to be changed, added or left out to make one of the other (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, a) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for j in 0..b.len() {
            let changed = diagonal + usize::from(a != b[j]);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

/// A value spelled as text, or null.
mod spelled_order {
    use super::{Deserialize, Deserializer, FromStr, Order, Serialize, Serializer};

    pub fn serialize<S: Serializer>(value: &Option<Order>, serializer: S) -> Result<S::Ok, S::Error> {
        value.map(|order| order.to_string()).serialize(serializer)
    }

    pub fn deserialize<'d, D: Deserializer<'d>>(deserializer: D) -> Result<Option<Order>, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?;
        text.map(|text| Order::from_str(&text).map_err(serde::de::Error::custom)).transpose()
    }
}

/// A value spelled as text, or null.
mod spelled_format {
    use super::{Deserialize, Deserializer, Format, FromStr, Serialize, Serializer};

    pub fn serialize<S: Serializer>(value: &Option<Format>, serializer: S) -> Result<S::Ok, S::Error> {
        value
            .map(|format| match format {
                Format::Raw => "raw",
                Format::Chat => "chat",
            })
            .serialize(serializer)
    }

    pub fn deserialize<'d, D: Deserializer<'d>>(deserializer: D) -> Result<Option<Format>, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?;
        text.map(|text| Format::from_str(&text).map_err(serde::de::Error::custom)).transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn problems(given: Value) -> (Settings, Vec<String>) {
        let mut configuration = Configuration::default();
        let problems = configuration.overlay(&given).iter().map(ToString::to_string).collect();
        (configuration.settings, problems)
    }

    #[test]
    fn settings_are_given_nested_or_by_path() {
        let (settings, none) = problems(json!({
            "fim": {"order": "spm", "format": "chat"},
            "budget.hard_ms": 900,
            "disabled": {"languages": ["markdown"]},
            "cache": null,
            "speculate": false,
        }));
        assert_eq!(none, Vec::<String>::new());
        let defaults = Settings::default();
        let disabled = Disabled { languages: vec!["markdown".into()], globs: Vec::new() };
        let expected = Settings {
            fim: Fim { order: Some(Order::Spm), format: Some(Format::Chat) },
            budget: Budget { hard_ms: 900, ..defaults.budget },
            disabled,
            speculate: false,
            ..defaults
        };
        assert_eq!(settings, expected);
    }

    #[test]
    fn what_is_wrong_is_named_and_left_as_it_was() {
        for (given, message) in [
            (json!({"debounce_ms": 3}), "there is no setting debounce_ms; did you mean debounce_ms_max?"),
            (json!({"fim": {"ordre": "spm"}}), "there is no setting fim.ordre; did you mean fim.order?"),
            (json!({"fim": {"order": "x"}}), "fim.order: expected psm, spm or psm-anchored"),
            (json!({"enabled": 1}), "enabled: invalid type: integer `1`, expected a boolean"),
            (json!({"alternatives": 9}), "alternatives: expected 1 to 3, not 9"),
            (json!({"fim": 7}), "there is no setting fim; did you mean warm?"),
            (json!([]), "the settings are an object, not an array"),
        ] {
            assert_eq!(problems(given), (Settings::default(), vec![message.to_owned()]));
        }
        let (settings, two) = problems(json!({"a": 1, "warm": false, "logprob_min": "high"}));
        assert!(two.len() == 2 && !settings.warm);
    }

    #[test]
    fn what_the_command_line_says_stays() {
        let mut configuration = Configuration::default();
        for (name, text) in [
            ("fim.order", "spm"),
            ("alternatives", "2"),
            ("disabled.languages", "[\"a\"]"),
            ("cache.bytes_max", "1000"),
        ] {
            configuration.fix(name, text).unwrap();
        }
        assert!(configuration.fix("alternatives", "many").is_err());
        let none = configuration.overlay(&json!({"alternatives": 3, "fim": {"order": "psm"}, "warm": false}));
        let settings = configuration.settings();
        assert_eq!((none.len(), settings.alternatives, settings.fim.order), (0, 2, Some(Order::Spm)));
        assert_eq!((settings.cache.bytes_max, settings.warm), (1000, false));
    }

    #[test]
    fn names_that_differ_little_are_near() {
        for (a, b, expected) in [("", "", 0), ("abc", "", 3), ("kitten", "sitting", 3), ("ab", "ba", 2)] {
            assert_eq!(distance(a, b), expected);
        }
    }
}
