//! What the service is told of and what it wants done. Pure.

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

/// Identifies a request; unique, chosen by the caller.
pub type AskId = u64;
/// Identifies a generation.
pub type JobId = u64;

/// What triggers a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// The user, with a command.
    Invoked,
    /// The editor, because the user types.
    Automatic,
}

impl Trigger {
    /// Whether an answer begun for `other` is good enough for this one.
    pub fn is_served_by(self, other: Self) -> bool {
        self == Self::Automatic || other == Self::Invoked
    }
}

/// A request for a completion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// Unique; chosen by the caller.
    pub id: AskId,
    /// The document it is about.
    pub key: String,
    /// That document, with the cursor.
    pub document: Arc<Document>,
    /// What triggered it.
    pub trigger: Trigger,
}

/// Text to insert at the cursor.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    /// The text; never only whitespace.
    pub text: String,
}

/// How a generation ended.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// What is worth inserting at the place of the request, best first; may have duplicates.
    pub items: Vec<Item>,
    /// Whether it ended early, so that having no items says nothing of the place.
    pub is_partial: bool,
    /// Whether it was cancelled or failed: it says nothing at all.
    pub is_cancelled_or_failed: bool,
    /// Tokens of its prompt.
    pub prompt_tokens: usize,
    /// What of them was evaluated.
    pub synced: Synced,
    /// Where its time went.
    pub timings: Timings,
}

/// What a generation is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To be shown.
    Answer,
    /// To be there if the shown text is accepted.
    Speculation,
    /// To evaluate a prompt before it is needed.
    Prewarm,
}

/// A generation to begin.
#[derive(Clone, Debug, PartialEq)]
pub struct Start {
    /// Unique in a service.
    pub job: JobId,
    /// The document.
    pub key: String,
    /// What it is for. One with the same key and purpose replaces an older one.
    pub purpose: Purpose,
    /// What to complete.
    pub request: Request,
    /// How much of the document to show.
    pub window: Window,
    /// Not to be begun earlier.
    pub not_before: Option<Instant>,
    /// When it ends whatever is missing.
    pub budget: Budget,
    /// How many items are wanted.
    pub alternatives: usize,
}

impl Ask {
    /// What to ask the model for.
    pub fn request(&self, lines: Lines, max_tokens: usize) -> Request {
        let is_invoked = self.trigger == Trigger::Invoked;
        Request { lines, max_tokens, is_invoked, ..Request::of(self.document.clone()) }
    }
}

impl Outcome {
    /// Its items without those that say the same as a better one.
    pub fn distinct(&self) -> Vec<Item> {
        let mut items: Vec<Item> = Vec::new();
        for item in &self.items {
            if !items.iter().any(|other| other.text.trim_end() == item.text.trim_end()) {
                items.push(item.clone());
            }
        }
        items
    }

    /// Whether having no items says nothing of the place.
    pub fn says_nothing(&self) -> bool {
        self.is_cancelled_or_failed || self.is_partial && self.items.is_empty()
    }

    /// `record` of the request that it was begun for.
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
    /// One in the background.
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

    /// How urgent it is.
    pub fn priority(&self) -> Priority {
        if self.purpose == Purpose::Answer { Priority::Interactive } else { Priority::Background }
    }
}

/// Something to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Answer a request.
    Answer {
        id: AskId,
        /// With what; empty where there is nothing to show.
        items: Vec<Item>,
    },
    /// Note what became of a request. There is one for each; that of a request cancelled while the model
    /// ran for it comes once that has ended.
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
    /// End a generation. Its outcome is of no interest any more.
    Cancel { job: JobId },
    /// Count an accepted suggestion.
    Accepted {
        /// How long it was.
        chars: usize,
    },
    /// Count what is left of an accepted suggestion.
    Retention(RetentionSample),
}

impl From<Start> for Action {
    fn from(start: Start) -> Self {
        Self::Start(Box::new(start))
    }
}
