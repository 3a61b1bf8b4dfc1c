//! Every setting, defined once: name, description, default, valid values and scope.
//!
//! A [`Configuration`] holds the settings, each with its source. In order of precedence, the weakest first:
//!
//! 1. defaults;
//! 2. the user's file `fimd.toml`, see [`file()`];
//! 3. environment variables, as `FIMD_BUDGET_SOFT_MS` for `budget.soft_ms`;
//! 4. the editor: its `initializationOptions`, replaced by each `workspace/didChangeConfiguration`;
//! 5. flags of the command line.
//!
//! No file of a workspace is read: a cloned repository must not choose a model, enable completion, or set where code
//! is sent. Nor can an editor set settings of the process ([`Scope::Process`]): it may pass on those of a workspace.
//!
//! What an editor passes on can exclude more than the user's own settings, and never less: `enabled`, `hover.enabled`,
//! `trigger` and `context.tokens_max` are then the stricter of both, and of lists of what is excluded both count.
//!
//! One process serves many editors, each with an environment and flags of its own:
//! [`Configuration::client_overrides`] serialises those, [`Configuration::with_client`] applies them.
//!
//! Invalid settings are reported by name and change nothing else. Layers below are given option structs of their own.

mod client;
mod configuration;
mod definition;
mod edit;
mod hub;
mod options;
mod privacy;
mod process;
mod remote;
mod render;
mod source;
mod value;

pub use configuration::{Configuration, SECTION};
pub use definition::*;
pub use edit::set;
pub use hub::{experts_dir, hub};
pub use options::CONTEXT_DEFAULT;
pub use privacy::git_files;
pub use process::{RUNTIME_DIR_VARIABLE, file};
pub use render::{markdown, schema, template, vscode};
pub use source::{Flag, Problem, Source};

#[cfg(test)]
mod tests;
