//! The service's inputs and actions. Pure.

use std::sync::Arc;
use std::time::Instant;

use super::super::options::Window;
use super::super::record::Record;
use super::super::request::{Document, Lines, Request};
use super::super::retained::RetentionSample;
use crate::base::Timings;
use crate::decode::Budget;
use crate::serve::Priority;
use crate::session::Synced;

/// Identifies a request of an editor.
pub type RequestId = u64;
/// Identifies a generation.
pub type JobId = u64;

/// What triggers a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// The user, by a command.
    Invoked,
    /// The editor, while the user types.
    Automatic,
}

impl Trigger {
    /// Whether an answer to a request triggered by `other` also serves one triggered by this.
    pub fn is_served_by(self, other: Self) -> bool {
        self == Self::Automatic || other == Self::Invoked
    }
}

/// A request for a completion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EditorRequest {
    /// Unique; chosen by the caller.
    pub id: RequestId,
    /// The key of the document.
    pub key: String,
    pub document: Arc<Document>,
    pub trigger: Trigger,
}

/// Text to insert at the cursor.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    /// The text; never only whitespace.
    pub text: String,
}

/// The outcome of a generation.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Suggestions at the location of the request, best first; may have duplicates.
    pub items: Vec<Item>,
    /// Whether it ran out of time, so that an empty result is inconclusive.
    pub is_partial: bool,
    /// Then the result is inconclusive.
    pub is_cancelled_or_failed: bool,
    /// Tokens of its prompt.
    pub prompt_tokens: usize,
    /// How much of the prompt was evaluated.
    pub synced: Synced,
    pub timings: Timings,
}

/// What a generation is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// The answer to a request.
    Answer,
    /// The answer to the request that follows an accept.
    Speculation,
    /// Evaluating a prompt before it is needed.
    Prewarm,
}

/// A generation to begin.
#[derive(Clone, Debug, PartialEq)]
pub struct Start {
    /// Unique in a service.
    pub job: JobId,
    /// The key of the document.
    pub key: String,
    /// A newer generation with the same key and purpose supersedes an older one.
    pub purpose: Purpose,
    /// What to complete.
    pub request: Request,
    /// How much of the document to show.
    pub window: Window,
    /// The end of its debounce.
    pub not_before: Option<Instant>,
    /// Time limits.
    pub budget: Budget,
    /// Number of alternatives.
    pub alternatives: usize,
}

impl EditorRequest {
    /// The request for the model.
    pub fn request(&self, lines: Lines, max_tokens: usize) -> Request {
        let is_invoked = self.trigger == Trigger::Invoked;
        Request { lines, max_tokens, is_invoked, ..Request::of(self.document.clone()) }
    }
}

impl Outcome {
    /// Its items without duplicates of better ones.
    pub fn distinct(&self) -> Vec<Item> {
        let mut items: Vec<Item> = Vec::new();
        for item in &self.items {
            if !items.iter().any(|other| other.text.trim_end() == item.text.trim_end()) {
                items.push(item.clone());
            }
        }
        items
    }

    /// Whether an empty result must not be cached.
    pub fn is_inconclusive(&self) -> bool {
        self.is_cancelled_or_failed || self.is_partial && self.items.is_empty()
    }

    /// Adds the measurements of the generation to `record`.
    pub fn complete(&self, record: Record) -> Record {
        let Self { prompt_tokens, synced, timings, .. } = *self;
        let first_token_ms = match timings.first_token_ms {
            0.0 => 0.0,
            ms => timings.queue_ms + ms,
        };
        Record {
            prompt_tokens,
            synced,
            decode_tokens: timings.decode_tokens,
            queue_ms: timings.queue_ms,
            prefill_ms: timings.prefill_ms,
            first_token_ms,
            ..record
        }
    }
}

impl Start {
    pub fn background(job: JobId, key: String, purpose: Purpose, request: Request) -> Self {
        Self {
            job,
            key,
            purpose,
            request,
            window: Window::Small,
            not_before: None,
            budget: Budget::default(),
            alternatives: 1,
        }
    }

    pub fn priority(&self) -> Priority {
        if self.purpose == Purpose::Answer { Priority::Interactive } else { Priority::Background }
    }
}

/// What the driver has to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Answer a request.
    Answer {
        id: RequestId,
        /// Empty where there is nothing to show.
        items: Vec<Item>,
    },
    /// Record the outcome of a request, once per request; for one that was cancelled while its generation was in flight,
    /// once that has ended.
    Record(Record),
    /// Count background work of the model.
    Background {
        /// Prompt tokens evaluated.
        evaluated: usize,
        /// Tokens generated.
        generated: usize,
    },
    /// Begin a generation.
    Start(Box<Start>),
    /// Cancel a generation. Its outcome is ignored.
    Cancel { job: JobId },
    /// Count an accepted suggestion.
    Accepted {
        /// The document.
        key: String,
        /// Its length.
        chars: usize,
    },
    /// Count the retention of an accepted suggestion.
    Retention(RetentionSample),
}

impl From<Start> for Action {
    fn from(start: Start) -> Self {
        Self::Start(Box::new(start))
    }
}
