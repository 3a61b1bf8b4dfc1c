//! The definition of the settings as documentation, schemas and a template file.

use serde_json::{Map, Value, json};

use super::definition::{Kind, SETTINGS, Scope, Setting};
use super::value::defaults;

/// The tables of settings in the guide.
pub fn markdown() -> String {
    let table = |scope: Scope| {
        let rows = SETTINGS.iter().filter(|setting| setting.scope == scope).map(|setting| {
            let name = format!("`{}`", setting.name);
            format!("| {name} | {} | {} |\n", default_of(setting), in_one_line(setting.about()))
        });
        format!("| setting | default | description |\n|---|---|---|\n{}", rows.collect::<String>())
    };
    format!(
        "{}\nThese are shared by all editors and cannot be set by one:\n\n{}",
        table(Scope::Editor),
        table(Scope::Process)
    )
}

/// A JSON schema of the user's file, for editors of TOML.
pub fn schema() -> Value {
    let defaults = defaults();
    let mut properties = Map::new();
    for setting in SETTINGS {
        let property = property(setting, &defaults, Unset::Omitted);
        match setting.name.split_once('.') {
            None => drop(properties.insert(setting.name.into(), property)),
            Some((group, name)) => {
                let group = properties.entry(group).or_insert_with(
                    || json!({"type": "object", "additionalProperties": false, "properties": {}}),
                );
                group["properties"][name] = property;
            }
        }
    }
    json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "fimd.toml",
        "type": "object",
        "additionalProperties": false,
        "properties": properties,
    })
}

/// The section of `contributes.configuration` in the VS Code extension, with the settings that an editor may set.
pub fn vscode() -> Value {
    let defaults = defaults();
    let of_editor = SETTINGS.iter().filter(|setting| setting.scope == Scope::Editor);
    let properties = of_editor.enumerate().map(|(order, setting)| {
        let mut property = property(setting, &defaults, Unset::Null);
        let about = property.as_object_mut().and_then(|property| property.remove("description"));
        property["markdownDescription"] = about.unwrap_or_default();
        property["scope"] = "window".into();
        property["order"] = order.into();
        (format!("fimd.{}", setting.name), property)
    });
    json!({"title": "fimd", "properties": properties.collect::<Map<_, _>>()})
}

/// A file with every setting commented out, each with its default; with an example where that depends on the machine or
/// the model.
pub fn template() -> String {
    let defaults = defaults();
    let mut text =
        "# The settings of fimd. Uncomment one to change it; `fimd config` shows the effective ones.\n"
            .to_owned();
    let mut last_group = "";
    for setting in SETTINGS {
        let (group, name) = setting.name.split_once('.').unwrap_or(("", setting.name));
        if group != last_group {
            text += &format!("\n[{group}]\n");
            last_group = group;
        }
        let value = setting.example.map_or_else(|| defaults[setting.name].to_string(), str::to_owned);
        let unset = setting.unset.map_or_else(String::new, |unset| format!(" By default {unset}."));
        text +=
            &format!("\n{}#{name} = {value}\n", comment(&format!("{}{unset}", in_one_line(setting.about()))));
    }
    text
}

/// How a schema represents an unset value.
#[derive(Clone, Copy, PartialEq)]
enum Unset {
    Omitted,
    Null,
}

fn property(setting: &Setting, defaults: &Map<String, Value>, when_unset: Unset) -> Value {
    let mut property = match &setting.kind {
        Kind::Bool => json!({"type": "boolean"}),
        Kind::Integer(range) => {
            json!({"type": "integer", "minimum": range.start(), "maximum": range.end()})
        }
        Kind::Number(_) => json!({"type": "number"}),
        Kind::Text | Kind::Path => json!({"type": "string"}),
        Kind::Texts => json!({"type": "array", "items": {"type": "string"}}),
        Kind::Choice(choices) => json!({"type": "string", "enum": choices}),
    };
    let mut about = in_one_line(setting.about());
    if let Some(unset) = setting.unset {
        about += &format!(" By default {unset}.");
        if when_unset == Unset::Null {
            property["type"] = json!([property["type"], "null"]);
            property["default"] = Value::Null;
            if let Some(choices) = property["enum"].as_array_mut() {
                choices.push(Value::Null);
            }
        }
    } else {
        property["default"] = defaults[setting.name].clone();
    }
    property["description"] = about.into();
    property
}

fn default_of(setting: &Setting) -> String {
    match (setting.unset, &defaults()[setting.name]) {
        (Some(unset), _) => unset.to_owned(),
        (None, Value::Array(items)) if items.is_empty() => "none".to_owned(),
        (None, Value::String(text)) => format!("`{text}`"),
        (None, value) => value.to_string(),
    }
}

fn in_one_line(text: &str) -> String {
    text.lines().map(str::trim).collect::<Vec<_>>().join(" ")
}

/// `text` as lines of a comment.
fn comment(text: &str) -> String {
    const WIDTH: usize = 100;
    let mut lines = vec![String::from("#")];
    for word in text.split(' ').filter(|word| !word.is_empty()) {
        if lines.last().is_some_and(|line| line.len() + word.len() >= WIDTH) {
            lines.push("#".into());
        }
        let line = lines.last_mut().expect("there is a line");
        line.push(' ');
        line.push_str(word);
    }
    lines.join("\n") + "\n"
}
