//! Requests and completions. Pure.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::base::Timings;
use crate::decode::StopReason;

/// A document, split at the cursor. It is made once for a request and shared from then on: however many look at
/// it, its text is not copied again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// Where it lies, as prompts call it.
    pub path: Option<String>,
    /// The text before the cursor.
    pub prefix: String,
    /// The text after the cursor.
    pub suffix: String,
    /// The name of the repository, for prompts with context.
    pub repository: Option<String>,
    /// Other files to show, oldest first, chosen by the caller. Those once shown stay as they were until the
    /// prompt is anchored anew, and in their place until there is no room for newer ones.
    pub context: Vec<ContextFile>,
}

/// A file, or a part of one, to show before the document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContextFile {
    /// What the prompt calls it, usually its path in the repository.
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
    /// Most tokens to generate; a completion takes at most half the context whatever this says.
    pub max_tokens: usize,
    /// Whether the user invoked it: then whatever the model wrote is shown.
    pub is_invoked: bool,
    /// Whether a completion was just accepted at the cursor: the next one may go on over several lines.
    pub follows_accept: bool,
}

/// How many lines a completion may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lines {
    /// Several at the start of an empty block, after a comment and after an accept, else one.
    Auto,
    Single,
    Multi,
}

/// Text to insert at the cursor.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Completion {
    /// The text, with the line ends of the document; never only whitespace.
    pub text: String,
    /// Why the model stopped.
    pub stop: StopReason,
    /// Mean natural log-probability of what was generated, before trimming.
    pub mean_logprob: f32,
    /// Where the time went.
    pub timings: Timings,
}

impl Document {
    /// With the cursor between `prefix` and `suffix`, and no other files.
    pub fn new(path: Option<String>, prefix: impl Into<String>, suffix: impl Into<String>) -> Self {
        let (prefix, suffix) = (prefix.into(), suffix.into());
        Self { path, prefix, suffix, repository: None, context: Vec::new() }
    }

    /// The same with other files to show.
    pub fn with_context(self, context: Vec<ContextFile>) -> Self {
        Self { context, ..self }
    }

    /// What it is once `text` is inserted at the cursor, and the cursor is behind it.
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

    /// Whether it ends its lines with CRLF, judged by the line end nearest to the cursor.
    pub fn uses_crlf(&self) -> bool {
        match self.prefix.rfind('\n') {
            Some(end) => self.prefix[..end].ends_with('\r'),
            None => self.suffix.split_once('\n').is_some_and(|(line, _)| line.ends_with('\r')),
        }
    }
}

impl Request {
    /// An automatic one between `prefix` and `suffix`, with nothing else known.
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
