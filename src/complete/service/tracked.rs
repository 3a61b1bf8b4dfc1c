//! The state of one document: its pending request, generations and suggestion. Pure.

use std::collections::HashMap;
use std::time::Instant;

use super::super::record::{Record, Source};
use super::action::{Action, EditorRequest, JobId, RequestId, Trigger};
use super::job::Job;
use super::location::LocationMatcher;
use super::pace::Pace;
use super::suggestion::Screen;
use crate::base::timings::milliseconds;

#[derive(Default)]
pub(super) struct Tracked {
    /// The newest request so far.
    pub newest: RequestId,
    pub waiter: Option<Waiter>,
    pub answer: Option<Job>,
    pub speculation: Option<Job>,
    pub prewarm: Option<JobId>,
    pub screen: Option<Screen>,
    /// The cursor after an accept, until the next event.
    pub accepted_to: Option<usize>,
    pub pace: Pace,
}

/// A pending request.
pub(super) struct Waiter {
    pub editor_request: EditorRequest,
    pub since: Instant,
    pub is_after_accept: bool,
    pub job: JobId,
    /// Whether that was begun for an earlier request.
    pub is_joined: bool,
}

impl Waiter {
    pub(super) fn ms(&self, now: Instant) -> f64 {
        milliseconds(now.saturating_duration_since(self.since))
    }
}

impl Tracked {
    /// Whether this generation is for this document.
    pub(super) fn runs(&self, id: JobId) -> bool {
        let is_speculation = self.speculation.as_ref().is_some_and(|job| job.id == id);
        self.answers(id) || is_speculation || self.prewarm == Some(id)
    }

    /// Whether this generation is the answer to a request.
    pub(super) fn answers(&self, id: JobId) -> bool {
        self.answer.as_ref().is_some_and(|job| job.id == id)
    }

    /// Answers the pending request with an empty list.
    pub(super) fn answer_empty(
        &mut self,
        now: Instant,
        pending: &mut HashMap<JobId, Record>,
        out: &mut Vec<Action>,
    ) {
        if let Some(waiter) = self.waiter.take() {
            self.pace.record_end(true);
            let source = if waiter.is_joined { Source::Joined } else { Source::Model };
            let record = Record { is_cancelled: true, total_ms: waiter.ms(now), ..Record::new(source) };
            out.push(Action::Answer { id: waiter.editor_request.id, items: Vec::new() });
            if waiter.is_joined {
                out.push(Action::Record(record));
            } else {
                pending.insert(waiter.job, record);
            }
        }
    }

    /// Cancels the generations of this document, but not its prewarming, which runs only when the engine is idle.
    pub(super) fn stop(&mut self, out: &mut Vec<Action>) {
        self.stop_answer(out);
        self.stop_speculation(out);
    }

    pub(super) fn stop_answer(&mut self, out: &mut Vec<Action>) {
        out.extend(self.answer.take().map(|job| Action::Cancel { job: job.id }));
    }

    pub(super) fn stop_speculation(&mut self, out: &mut Vec<Action>) {
        out.extend(self.speculation.take().map(|job| Action::Cancel { job: job.id }));
    }

    /// The generation in flight that a request can join. A speculation streams no text, so it serves only its exact
    /// location.
    pub(super) fn joinable(
        &self,
        editor_request: &EditorRequest,
        matcher: &LocationMatcher,
    ) -> Option<JobId> {
        let answer = self.answer.as_ref().filter(|job| job.fits(editor_request, matcher));
        let is_there =
            |job: &&Job| matcher.typed_since(&job.location).is_some_and(|(typed, _)| typed.is_empty());
        let is_enough = editor_request.trigger == Trigger::Automatic;
        let speculation = self.speculation.as_ref().filter(|job| is_enough && is_there(job));
        answer.or(speculation).map(|job| job.id)
    }
}
