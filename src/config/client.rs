//! What a process that serves an editor is told of the environment and the flags of the one that it has started.

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::configuration::Configuration;
use super::definition::{SETTINGS, Scope};
use super::source::{Problem, Source};

impl Configuration {
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
}

/// Whether a process has this by how it was started.
fn is_brought(source: &Source) -> bool {
    matches!(source, Source::Environment(_) | Source::Flag(_))
}
