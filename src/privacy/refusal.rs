//! Why a document is not read.

use std::fmt;

/// The rule by which a document is not read. Its text is a message for the user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    Disabled,
    Scheme(String),
    Language(String),
    /// A pattern of `disabled.globs`.
    File(String),
    /// A pattern of names.
    Secret(String),
    /// What applies to the file that a link leads to.
    Linked(String, Box<Refusal>),
    /// A rule of git.
    Ignored {
        file: String,
        pattern: String,
    },
    /// Rules of git that cannot be read.
    Unreadable {
        folder: String,
        file: String,
        why: String,
    },
    /// Where its path leads is not known.
    Path(String),
    /// The rules are being read.
    Pending,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Disabled => f.write_str("completion is disabled (enabled = false)"),
            Self::Scheme(scheme) => write!(f, "{scheme}: is no scheme of files that you write"),
            Self::Language(language) => write!(f, "disabled.languages excludes {language}"),
            Self::File(pattern) => write!(f, "disabled.globs excludes it ({pattern})"),
            Self::Secret(pattern) => {
                write!(f, "its name is that of a file with secrets ({pattern}); privacy.allow can allow it")
            }
            Self::Linked(path, refusal) => write!(f, "it leads to {path}: {refusal}"),
            Self::Ignored { file, pattern } => write!(f, "git ignores it ({pattern} in {file})"),
            Self::Unreadable { folder, file, why } => {
                write!(f, "{file} {why}: nothing below {folder} is completed or read")
            }
            Self::Path(why) => write!(f, "its path leads nowhere: {why}"),
            Self::Pending => f.write_str("the ignore rules of its folder are not read yet"),
        }
    }
}
