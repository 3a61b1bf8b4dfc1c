//! Ghost text, with no LSP and no tensors: from a document and a cursor to what to insert there.
//!
//! [`service`] decides what to do about each keystroke, [`driver`] does it, on the model of this machine or on a
//! server elsewhere ([`remote`]).

pub mod anchor;
pub mod context;
pub mod driver;
pub mod encode;
pub mod fim;
pub mod gate;
pub mod plan;
pub mod record;
pub mod remote;
pub mod service;
pub mod stats;
pub mod trim;

use serde::{Deserialize, Serialize};

use crate::base::Timings;
use crate::decode::StopReason;
use fim::{Format, Order};

pub use plan::{Anchoring, Planned, Planner, Unfit, Window, is_multi_line, should_offer, unfit};

/// How prompts are made for a model, and which of its completions are shown.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Options {
    /// The order of their parts.
    pub order: Order,
    /// How the model is asked.
    pub format: Format,
    /// Most tokens of text before the cursor.
    pub prefix_tokens_max: usize,
    /// Most tokens of text after the cursor.
    pub suffix_tokens_max: usize,
    /// Most tokens of other files.
    pub context_tokens_max: usize,
    /// Whether the prompt says which file it is about even if it shows no other.
    pub names_files: bool,
    /// The least mean natural log-probability of a completion that is shown unasked.
    pub logprob_min: Option<f32>,
}

impl Options {
    /// The usual least mean natural log-probability: less than one in eight for each token is a guess.
    pub const LOGPROB_MIN: f32 = -2.1;

    /// The usual options for prompts in this order.
    pub fn new(order: Order) -> Self {
        Self {
            order,
            format: Format::Raw,
            prefix_tokens_max: 4096,
            suffix_tokens_max: 1024,
            context_tokens_max: 4096,
            names_files: false,
            logprob_min: Some(Self::LOGPROB_MIN),
        }
    }
}

/// A file, or a part of one, to show before the document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContextFile {
    /// What the prompt calls it, usually its path in the repository.
    pub path: String,
    /// Its text.
    pub text: String,
}

/// What to complete: a document, split at the cursor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Where the document lies, as prompts call it.
    pub path: Option<String>,
    /// The text before the cursor.
    pub prefix: String,
    /// The text after the cursor.
    pub suffix: String,
    /// Whether the completion may go beyond the cursor's line.
    pub lines: Lines,
    /// Most tokens to generate; a completion takes at most half the context whatever this says.
    pub max_tokens: usize,
    /// The name of the repository, for prompts with context.
    pub repository: Option<String>,
    /// Other files to show, oldest first, chosen by the caller. Those once shown stay as they were until the
    /// prompt is anchored anew, and in their place until there is no room for newer ones.
    pub context: Vec<ContextFile>,
    /// Whether somebody asked: then whatever the model wrote is shown.
    pub is_invoked: bool,
    /// Whether a completion was just accepted at the cursor: the next one may go on over several lines.
    pub follows_accept: bool,
}

/// How many lines a completion may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lines {
    /// Several at the start of an empty block, after a comment and after an accept, else one.
    Auto,
    /// One.
    Single,
    /// Several.
    Multi,
}

/// Text to insert at the cursor.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Completion {
    /// The text, with the line ends of the document; never blank.
    pub text: String,
    /// Why the model stopped.
    pub stop: StopReason,
    /// Mean natural log-probability of what was generated, before trimming.
    pub mean_logprob: f32,
    /// Where the time went.
    pub timings: Timings,
}

impl Request {
    /// Between `prefix` and `suffix`, unasked, with nothing else known.
    pub fn new(prefix: impl Into<String>, suffix: impl Into<String>) -> Self {
        Self {
            path: None,
            prefix: prefix.into(),
            suffix: suffix.into(),
            lines: Lines::Auto,
            max_tokens: 64,
            repository: None,
            context: Vec::new(),
            is_invoked: false,
            follows_accept: false,
        }
    }

    /// Whether the document ends its lines with CRLF, judged by the line end nearest to the cursor.
    pub fn uses_crlf(&self) -> bool {
        match self.prefix.rfind('\n') {
            Some(end) => self.prefix[..end].ends_with('\r'),
            None => self.suffix.split_once('\n').is_some_and(|(line, _)| line.ends_with('\r')),
        }
    }
}
