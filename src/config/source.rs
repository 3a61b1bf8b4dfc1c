//! Where the values of settings come from, and what may be wrong there.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The name of the user's file.
pub(super) const FILE_NAME: &str = "fimd.toml";

/// Where the value of a setting came from, the weakest first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// Nobody set it.
    Default,
    /// The user's file.
    File {
        path: PathBuf,
        /// In this line, from 1.
        line: usize,
    },
    /// This environment variable.
    Environment(String),
    /// The editor.
    Editor,
    /// This flag of the command line.
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

/// Something wrong with what a source says: the setting keeps the value it has without it.
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

/// A setting as a flag gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flag {
    /// The flag as it is written, such as `--model`.
    pub flag: &'static str,
    /// The setting.
    pub name: String,
    /// Its value: JSON, or else a text.
    pub value: String,
}
