//! What is known of one document: who waits, what runs for it, what is on screen. Pure.

use std::collections::HashMap;
use std::time::Instant;

use super::super::record::{Record, Source};
use super::action::{Action, Ask, JobId, Trigger};
use super::job::Job;
use super::pace::Pace;
use super::place::Here;
use super::suggestion::Screen;
use crate::base::timings::milliseconds;

/// What is known of one document.
#[derive(Default)]
pub(super) struct Tracked {
    pub waiter: Option<Waiter>,
    pub answer: Option<Job>,
    pub speculation: Option<Job>,
    pub prewarm: Option<JobId>,
    pub screen: Option<Screen>,
    /// Where the cursor stands after an accept, until something else happens.
    pub accepted_to: Option<usize>,
    pub pace: Pace,
}

/// A request that is not answered yet.
pub(super) struct Waiter {
    pub ask: Ask,
    pub since: Instant,
    pub is_after_accept: bool,
    /// The generation it waits for.
    pub job: JobId,
    /// Whether that was begun for an earlier request.
    pub is_joined: bool,
}

impl Waiter {
    /// How long it has waited.
    pub(super) fn ms(&self, now: Instant) -> f64 {
        milliseconds(now.saturating_duration_since(self.since))
    }
}

impl Tracked {
    /// Whether this generation runs for it.
    pub(super) fn runs(&self, id: JobId) -> bool {
        let is_speculation = self.speculation.as_ref().is_some_and(|job| job.id == id);
        self.answers(id) || is_speculation || self.prewarm == Some(id)
    }

    /// Whether this generation is to be shown.
    pub(super) fn answers(&self, id: JobId) -> bool {
        self.answer.as_ref().is_some_and(|job| job.id == id)
    }

    /// Answers whoever waits, with nothing.
    pub(super) fn give_up(
        &mut self,
        now: Instant,
        pending: &mut HashMap<JobId, Record>,
        out: &mut Vec<Action>,
    ) {
        if let Some(waiter) = self.waiter.take() {
            self.pace.ended(true);
            let source = if waiter.is_joined { Source::Joined } else { Source::Model };
            let record = Record { is_cancelled: true, total_ms: waiter.ms(now), ..Record::new(source) };
            out.push(Action::Answer { id: waiter.ask.id, items: Vec::new() });
            if waiter.is_joined {
                out.push(Action::Record(record));
            } else {
                pending.insert(waiter.job, record);
            }
        }
    }

    /// Ends what runs for this document but for its prewarming, which costs nothing that is needed.
    pub(super) fn stop(&mut self, out: &mut Vec<Action>) {
        self.stop_answer(out);
        self.stop_speculation(out);
    }

    /// Ends what is to be shown.
    pub(super) fn stop_answer(&mut self, out: &mut Vec<Action>) {
        out.extend(self.answer.take().map(|job| Action::Cancel { job: job.id }));
    }

    /// Ends what is prepared for an accept.
    pub(super) fn stop_speculation(&mut self, out: &mut Vec<Action>) {
        out.extend(self.speculation.take().map(|job| Action::Cancel { job: job.id }));
    }

    /// The generation in flight that `ask` can join. What a background one says is not known before
    /// its end, so it serves only its very place.
    pub(super) fn joinable(&self, ask: &Ask, here: &Here) -> Option<JobId> {
        let answer = self.answer.as_ref().filter(|job| job.fits(ask, here));
        let is_there = |job: &&Job| here.typed_since(&job.place).any(|(typed, _)| typed.is_empty());
        let is_enough = ask.trigger == Trigger::Automatic;
        let speculation = self.speculation.as_ref().filter(|job| is_enough && is_there(job));
        answer.or(speculation).map(|job| job.id)
    }
}
