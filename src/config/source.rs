//! Sources of settings, and problems with them.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The name of the user's file.
pub(super) const FILE_NAME: &str = "fimd.toml";

/// Source of a setting's value, in order of precedence, the weakest first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    Default,
    /// The settings file.
    File {
        path: PathBuf,
        /// From 1.
        line: usize,
    },
    /// Name of the environment variable.
    Environment(String),
    Editor,
    /// The command-line flag.
    Flag(String),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Environment(name) | Self::Flag(name) => f.write_str(name),
            Self::Editor => f.write_str("editor"),
        }
    }
}

impl Source {
    /// Whether it is the settings file.
    pub(super) fn is_file(&self) -> bool {
        matches!(self, Self::File { .. })
    }
}

/// An invalid setting, which is ignored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub(super) source: Source,
    pub(super) message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match &self.source {
            Source::Default | Source::Editor => f.write_str(&self.message),
            source => write!(f, "{source}: {}", self.message),
        }
    }
}

/// A setting given by a flag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flag {
    /// The flag itself, such as `--model`.
    pub flag: &'static str,
    /// Name of the setting.
    pub name: String,
    /// Its value: JSON, or else a string.
    pub value: String,
}
