//! Beyond completion.
pub mod language;
pub mod symbol;
