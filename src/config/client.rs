//! The environment and flags of a client, for the process that serves it.

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::configuration::Configuration;
use super::definition::{SETTINGS, Scope};
use super::source::{Problem, Source};

impl Configuration {
    /// The editor settings that this process has from its environment and flags, and the problems with them, as
    /// JSON: for the process that serves the editor, see [`Configuration::with_client`].
    pub fn client_overrides(&self) -> Value {
        let settings = SETTINGS.iter().filter(|setting| setting.scope == Scope::Editor);
        let settings = settings.filter_map(|setting| {
            let given = self.given.get(setting.name)?.iter().filter(|(source, _)| is_of_client(source));
            let given: Vec<Value> =
                given.map(|(source, value)| json!({"from": source, "value": value})).collect();
            (!given.is_empty()).then(|| (setting.name.to_owned(), Value::Array(given)))
        });
        let problems = self.problems.iter().filter(|problem| is_of_client(&problem.source));
        let problems: Vec<Value> =
            problems.map(|problem| json!({"from": problem.source, "message": problem.message})).collect();
        json!({"settings": settings.collect::<Map<_, _>>(), "problems": problems})
    }

    /// The settings for one editor: those of this process, overlaid with the environment and flags of its client
    /// ([`Configuration::client_overrides`]). Editor settings in the environment of this process are ignored: it is
    /// that of the editor that started it. Flags of this process count, unless the client has the same.
    pub fn with_client(&self, overrides: &Value) -> Self {
        #[derive(Deserialize)]
        struct Given {
            from: Source,
            value: Value,
        }
        #[derive(Deserialize)]
        struct ClientProblem {
            from: Source,
            message: String,
        }
        let mut this = self.clone();
        let is_environment = |source: &Source| matches!(source, Source::Environment(_));
        this.remove(|setting, source| setting.scope == Scope::Editor && is_environment(source));
        this.problems.retain(|problem| !is_environment(&problem.source));
        let problems = overrides["problems"].as_array().into_iter().flatten();
        let problems = problems.filter_map(|problem| ClientProblem::deserialize(problem).ok());
        this.problems
            .extend(problems.map(|ClientProblem { from, message }| Problem { source: from, message }));
        for (name, given) in overrides["settings"].as_object().into_iter().flatten() {
            for Given { from, value } in Vec::<Given>::deserialize(given).into_iter().flatten() {
                match this.checked(name, value, &from) {
                    Ok((setting, value)) if setting.scope == Scope::Editor && is_of_client(&from) => {
                        this.put(setting, value, from);
                    }
                    Ok(_) => {}
                    Err(problem) => this.problems.push(problem),
                }
            }
        }
        this.update();
        this
    }
}

/// Whether a client passes on settings from this source.
fn is_of_client(source: &Source) -> bool {
    matches!(source, Source::Environment(_) | Source::Flag(_))
}
