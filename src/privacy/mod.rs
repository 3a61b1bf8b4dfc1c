//! What may be completed, read as context, hovered, explained or sent: one predicate for every path to a prompt.
//!
//! A [`Guard`] decides about a document, by its [`Location`]: the scheme of its URI, its language, its name, the file that
//! its links lead to, and the rules of git, which [`git`] reads. What cannot be decided is refused, with the rule as the
//! reason. [`content`] finds the secrets in a text that may be read, and leaves them out of it.

pub mod content;
pub mod git;
mod guard;
mod location;
mod names;
mod pattern;
mod refusal;

pub use guard::{Guard, Options};
pub use location::{Location, path_of};
pub use refusal::Refusal;
