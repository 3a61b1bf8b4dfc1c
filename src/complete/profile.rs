//! Prompt profiles: what prompts suit a model, as data in `profiles.toml` and in a model's own files. Pure.

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::fim::{Format, Order};

const PROFILES: &str = include_str!("profiles.toml");
const REMOTE: &str = "remote";

/// What prompts suit a model.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PromptProfile {
    /// The order of their parts.
    pub order: Order,
    /// The FIM format; by default the one for the model's tokenizer.
    pub format: Option<Format>,
    /// Most tokens of other files.
    pub context_tokens_max: usize,
    /// The least mean natural log-probability of an automatic completion that is shown.
    pub logprob_min: f32,
}

impl PromptProfile {
    /// The profile of the architecture that GGUF calls `architecture`, with what the model's own files say instead: a
    /// JSON object of the same fields, any of which may be absent.
    pub fn of_model(architecture: &str, own: Option<&str>) -> Result<Self> {
        let mut fields = family(architecture)?;
        if let Some(own) = own {
            let own: Map<String, Value> =
                serde_json::from_str(own).context("the model's prompt profile is not a JSON object")?;
            fields.extend(own);
        }
        serde_json::from_value(fields.into()).context("the model's prompt profile")
    }

    /// The profile of the model of a remote backend.
    pub fn remote() -> Self {
        Self::of_model(REMOTE, None).expect("profiles.toml has it")
    }
}

impl From<Order> for PromptProfile {
    /// For a model of which nothing else is known.
    fn from(order: Order) -> Self {
        Self { order, ..Self::remote() }
    }
}

fn family(name: &str) -> Result<Map<String, Value>> {
    let mut profiles: Map<String, Value> = toml::from_str(PROFILES).expect("profiles.toml is valid");
    match profiles.remove(name) {
        Some(Value::Object(fields)) => Ok(fields),
        _ => anyhow::bail!("profiles.toml has no architecture {name}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::config::Architecture;

    #[test]
    fn every_architecture_has_a_profile() {
        for architecture in Architecture::ALL {
            PromptProfile::of_model(architecture.name(), None).unwrap();
        }
        assert_eq!(PromptProfile::remote().order, Order::PsmAnchored);
        assert!(PromptProfile::of_model("llama", None).is_err());
    }

    #[test]
    fn a_model_has_the_last_word() {
        let profile = |own| PromptProfile::of_model("qwen3", Some(own));
        let family = PromptProfile::of_model("qwen3", None).unwrap();
        assert_eq!(family.format, Some(Format::SearchReplace));
        let own = profile(r#"{"order": "spm", "context_tokens_max": 0}"#).unwrap();
        assert_eq!(own, PromptProfile { order: Order::Spm, context_tokens_max: 0, ..family });
        assert_eq!(profile("{}").unwrap(), family);
        for (own, expected) in [
            ("[]", "not a JSON object"),
            (r#"{"order": "smp"}"#, "smp"),
            (r#"{"context_tokens": 1}"#, "context_tokens"),
            (r#"{"context_tokens_max": -1}"#, "-1"),
        ] {
            let error = format!("{:#}", profile(own).unwrap_err());
            assert!(error.contains("prompt profile") && error.contains(expected), "{error}");
        }
    }
}
