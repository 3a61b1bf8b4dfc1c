//! Requests and completions. Pure.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::base::Timings;
use crate::decode::StopReason;

/// A document, split at the cursor. Made once per request and then shared, not copied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// Its path, as it appears in prompts.
    pub path: Option<String>,
    /// The text before the cursor.
    pub prefix: String,
    /// The text after the cursor.
    pub suffix: String,
    /// The name of the repository, for prompts with context.
    pub repository: Option<String>,
    /// Context files, oldest first, chosen by the caller. A prompt shows some of them, as they are now. New ones are
    /// appended at its next anchor; one that is missing here or has changed leaves it at once.
    pub context: Vec<ContextFile>,
}

/// A file, or a part of one, to put before the document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContextFile {
    /// Its name in the prompt, usually the path in the repository.
    pub path: String,
    pub text: String,
}

/// What to complete, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The document with the cursor.
    pub document: Arc<Document>,
    /// Whether the completion may go beyond the cursor's line.
    pub lines: Lines,
    /// Most tokens to generate; at most half the context.
    pub max_tokens: usize,
    /// Whether the user invoked it: then the completion is always shown.
    pub is_invoked: bool,
    /// Whether a completion was just accepted at the cursor: the next one may have several lines.
    pub follows_accept: bool,
}

/// How many lines a completion may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lines {
    /// Several at the start of an empty block and of an item, in and after a comment and after an accept, else one, or those
    /// of one statement.
    Auto,
    Single,
    Multi,
}

/// Text to insert at the cursor.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Completion {
    /// The text, with the line ends of the document; never only whitespace.
    pub text: String,
    pub stop: StopReason,
    /// Mean natural log-probability of what was generated, before trimming.
    pub mean_logprob: f32,
    pub timings: Timings,
}

impl Document {
    /// With the cursor between `prefix` and `suffix`, and no other files.
    pub fn new(path: Option<String>, prefix: impl Into<String>, suffix: impl Into<String>) -> Self {
        let (prefix, suffix) = (prefix.into(), suffix.into());
        Self { path, prefix, suffix, repository: None, context: Vec::new() }
    }

    pub fn with_context(self, context: Vec<ContextFile>) -> Self {
        Self { context, ..self }
    }

    /// Inserts `text` before the cursor.
    pub fn with_accepted(&self, text: &str) -> Self {
        let Self { path, prefix, suffix, repository, context } = self;
        Self {
            path: path.clone(),
            prefix: format!("{prefix}{text}"),
            suffix: suffix.clone(),
            repository: repository.clone(),
            context: context.clone(),
        }
    }

    /// Whether its line ends are CRLF, by the one nearest to the cursor.
    pub fn uses_crlf(&self) -> bool {
        match self.prefix.rfind('\n') {
            Some(end) => self.prefix[..end].ends_with('\r'),
            None => self.suffix.split_once('\n').is_some_and(|(line, _)| line.ends_with('\r')),
        }
    }
}

impl Request {
    /// An automatic one between `prefix` and `suffix` of an unnamed document.
    pub fn new(prefix: impl Into<String>, suffix: impl Into<String>) -> Self {
        Self::of(Document::new(None, prefix, suffix))
    }

    /// An automatic one at the cursor of `document`.
    pub fn of(document: impl Into<Arc<Document>>) -> Self {
        Self {
            document: document.into(),
            lines: Lines::Auto,
            max_tokens: 64,
            is_invoked: false,
            follows_accept: false,
        }
    }
}
