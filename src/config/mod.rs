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

mod client;
mod configuration;
mod definition;
mod options;
mod process;
mod remote;
mod render;
mod source;
mod value;

pub use configuration::{Configuration, SECTION};
pub use definition::*;
pub use options::CONTEXT_DEFAULT;
pub use process::{RUNTIME_DIR_VARIABLE, file};
pub use render::{markdown, schema, template, vscode};
pub use source::{Flag, Problem, Source};

#[cfg(test)]
mod tests;
