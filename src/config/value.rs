//! Values of settings: validating and parsing.

use serde_json::{Map, Number, Value};

use super::definition::{Kind, SETTINGS, Setting, Settings};

impl Kind {
    /// An error that names what is expected, if `value` is invalid.
    pub fn check(&self, value: &Value) -> Result<(), String> {
        let is_valid = match (self, value) {
            (Self::Bool, Value::Bool(_)) | (Self::Text | Self::Path, Value::String(_)) => true,
            (Self::Integer(range), Value::Number(number)) => {
                number.as_u64().is_some_and(|n| range.contains(&n))
            }
            (Self::Number(range), Value::Number(number)) => {
                number.as_f64().is_some_and(|n| range.contains(&n))
            }
            (Self::Texts, Value::Array(items)) => items.iter().all(Value::is_string),
            (Self::Choice(choices), Value::String(text)) => choices.contains(&text.as_str()),
            _ => false,
        };
        if is_valid { Ok(()) } else { Err(format!("expected {}, not {}", self.expected(), shown(value))) }
    }

    /// Describes the valid values.
    pub fn expected(&self) -> String {
        match self {
            Self::Bool => "true or false".into(),
            Self::Integer(range) => format!("an integer from {} to {}", range.start(), range.end()),
            Self::Number(range) => format!("a number from {} to {}", range.start(), range.end()),
            Self::Text => "a string".into(),
            Self::Path => "a path".into(),
            Self::Texts => "a list of strings".into(),
            Self::Choice(choices) => match choices {
                [first @ .., last] => format!("{} or {last}", first.join(", ")),
                [] => "nothing".into(),
            },
        }
    }
}

impl Setting {
    /// Parses the text of an environment variable or a flag. `null` is unset, where a setting may be; a list is JSON,
    /// or separated by commas.
    pub fn parse(&self, text: &str) -> Result<Value, String> {
        if text == "null" && self.unset.is_some() {
            return Ok(Value::Null);
        }
        let as_text = || Value::String(text.to_owned());
        let value = match &self.kind {
            Kind::Text | Kind::Path | Kind::Choice(_) => as_text(),
            Kind::Texts if !text.trim_start().starts_with('[') => {
                let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
                items.map(|item| Value::String(item.to_owned())).collect()
            }
            Kind::Bool | Kind::Integer(_) | Kind::Number(_) | Kind::Texts => {
                serde_json::from_str(text).unwrap_or_else(|_| as_text())
            }
        };
        self.kind.check(&value).map(|()| value)
    }
}

/// A value as messages show it, abbreviated.
fn shown(value: &Value) -> String {
    match value {
        Value::Array(_) => "a list".into(),
        Value::Object(_) => "a group".into(),
        Value::String(text) if text.chars().count() > 40 => "a long string".into(),
        _ => value.to_string(),
    }
}

/// A TOML value as JSON; types that JSON lacks become strings.
pub(super) fn from_toml(value: &toml::de::DeValue) -> Value {
    use toml::de::DeValue;
    match value {
        DeValue::String(text) => Value::String(text.clone().into_owned()),
        DeValue::Integer(number) => {
            let parsed = i128::from_str_radix(number.as_str(), number.radix()).ok();
            let parsed = parsed.and_then(Number::from_i128);
            parsed.map_or_else(|| Value::String(number.as_str().to_owned()), Value::Number)
        }
        DeValue::Float(number) => {
            let parsed = number.as_str().parse().ok().and_then(Number::from_f64);
            parsed.map_or_else(|| Value::String(number.as_str().to_owned()), Value::Number)
        }
        DeValue::Boolean(value) => Value::Bool(*value),
        DeValue::Datetime(date) => Value::String(date.to_string()),
        DeValue::Array(items) => items.iter().map(|item| from_toml(item.get_ref())).collect(),
        DeValue::Table(table) => Value::Object(
            table
                .iter()
                .map(|(key, value)| (key.get_ref().clone().into_owned(), from_toml(value.get_ref())))
                .collect(),
        ),
    }
}

/// The default of every setting by its name.
pub(super) fn defaults() -> Map<String, Value> {
    let all = serde_json::to_value(Settings::default()).expect("settings are JSON");
    let value = |name: &str| all.pointer(&format!("/{}", name.replace('.', "/"))).map(shortest);
    let defaults = SETTINGS.iter().map(|setting| (setting.name.to_owned(), value(setting.name)));
    defaults.map(|(name, value)| (name, value.expect("it has a default"))).collect()
}

/// An `f32` as its shortest decimal; anything else as it is.
fn shortest(value: &Value) -> Value {
    match value.as_f64().filter(|_| value.is_f64()) {
        Some(number) => (number as f32).to_string().parse().map_or(Value::Null, Value::Number),
        None => value.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn text_is_parsed() {
        for (name, text, expected) in [
            ("enabled", "false", Ok(json!(false))),
            ("enabled", "no", Err("expected true or false, not \"no\"")),
            ("alternatives", "2", Ok(json!(2))),
            ("alternatives", "2.5", Err("expected an integer from 1 to 3, not 2.5")),
            ("logprob_min", "-3", Ok(json!(-3))),
            ("logprob_min", "nan", Err("expected a number from -1000000 to 1000000, not \"nan\"")),
            ("daemon.idle_exit_minutes", "0.5", Ok(json!(0.5))),
            ("model", "7", Ok(json!("7"))),
            ("model", "null", Ok(Value::Null)),
            ("enabled", "null", Err("expected true or false, not null")),
            ("disabled.languages", "a, b,", Ok(json!(["a", "b"]))),
            ("disabled.languages", "[\"a\"]", Ok(json!(["a"]))),
            ("disabled.languages", "[1]", Err("expected a list of strings, not a list")),
            ("disabled.languages", "", Ok(json!([]))),
            ("fim.order", "x", Err("expected psm, spm or psm-anchored, not \"x\"")),
        ] {
            let setting = Setting::named(name).unwrap();
            assert_eq!(setting.parse(text), expected.map_err(str::to_owned), "{name}={text}");
        }
    }
}
