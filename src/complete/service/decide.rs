//! The decisions for every event. Pure.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::edit::Change;
use super::super::options::Window;
use super::super::record::{Record, Source};
use super::super::request::{Document, Lines, Request};
use super::super::retained::Retention;
use super::super::rules::may_show;
use super::action::{Action, EditorRequest, Item, JobId, Outcome, Purpose, RequestId, Start, Trigger};
use super::job::Job;
use super::location::{Location, LocationMatcher};
use super::suggestion::{Cache, Entry, Screen};
use super::tracked::{Tracked, Waiter};
use crate::decode::Budget;

/// How much of a document to prewarm while the cursor is unknown, in bytes.
const PREWARM_BYTES: usize = 1 << 12;

/// Options of the service.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Options {
    /// Longest debounce.
    pub debounce_max: Duration,
    /// Soft time limit: an automatic completion then stops at the end of its line.
    pub soft: Duration,
    /// Hard time limit: every completion then stops.
    pub hard: Duration,
    /// Most tokens of an automatic completion.
    pub auto_tokens_max: usize,
    /// Most tokens of an invoked completion.
    pub invoked_tokens_max: usize,
    /// Items of an invoked completion.
    pub alternatives: usize,
    /// Whether to continue a shown text as if it had been accepted.
    pub speculate: bool,
    /// Whether to evaluate the prompt of a document before the first request.
    pub prewarm: bool,
    /// How long without a keystroke until a larger window is evaluated.
    pub idle: Duration,
}

/// The state of the documents of one editor.
pub struct Service {
    options: Options,
    documents: HashMap<String, Tracked>,
    cache: Cache,
    jobs: JobId,
    /// Records of cancelled requests whose generations are in flight.
    pending: HashMap<JobId, Record>,
    retention: Retention,
}

impl Service {
    pub fn new(options: Options) -> Self {
        Self {
            options,
            documents: HashMap::new(),
            cache: Cache::default(),
            jobs: 0,
            pending: HashMap::new(),
            retention: Retention::default(),
        }
    }

    /// Forgets all documents, but keeps job ids unique.
    pub fn reset(&self) -> Self {
        Self { jobs: self.jobs, ..Self::new(self.options) }
    }

    /// Forgets all documents, after [`Service::closed_all`], and replaces the options.
    pub fn reconfigure(&mut self, options: Options) {
        self.options = options;
        self.documents.clear();
        self.cache.clear();
    }

    /// Handles a request.
    pub fn request(&mut self, now: Instant, editor_request: EditorRequest) -> Vec<Action> {
        let mut out = self.samples(now);
        let document = self.documents.entry(editor_request.key.clone()).or_default();
        if editor_request.id < document.newest {
            // It was overtaken on its way here.
            let record = Record { is_cancelled: true, ..Record::new(Source::Nothing) };
            answer(editor_request.id, Vec::new(), record, &mut out);
            return out;
        }
        document.newest = editor_request.id;
        document.answer_empty(now, &mut self.pending, &mut out);
        document.pace.on_request(now);
        let is_after_accept = document.accepted_to.take() == Some(editor_request.document.prefix.len());
        let is_automatic = editor_request.trigger == Trigger::Automatic;
        if is_automatic && !may_show(&editor_request.document.prefix, &editor_request.document.suffix) {
            document.stop(&mut out);
            document.screen = None;
            answer(editor_request.id, Vec::new(), Record::new(Source::Nothing), &mut out);
            return out;
        }
        let shared = editor_request.document.clone();
        let matcher = LocationMatcher::new(&shared);
        if let Some(items) =
            document.screen.as_ref().and_then(|screen| screen.entry.rest(&editor_request, &matcher))
        {
            document.stop_answer(&mut out);
            let entry = document.screen.take().map(|screen| screen.entry).expect("there is one");
            self.show(now, &editor_request, entry, items, Record::new(Source::TypedThrough), &mut out);
        } else if let Some((entry, items)) = self.cache.find(&editor_request, &matcher) {
            document.stop(&mut out);
            self.show(now, &editor_request, entry, items, Record::new(Source::Cache), &mut out);
        } else if let Some(job) = document.joinable(&editor_request, &matcher) {
            document.waiter =
                Some(Waiter { editor_request, since: now, is_after_accept, job, is_joined: true });
        } else {
            let wait = is_automatic && !is_after_accept;
            let delay = if wait { document.pace.debounce(self.options.debounce_max) } else { Duration::ZERO };
            self.generate(now, now, editor_request, is_after_accept, delay, &mut out);
        }
        out
    }

    /// Handles a change of a document, which outdates a pending request.
    pub fn changed(&mut self, now: Instant, key: &str, change: &Change) -> Vec<Action> {
        let mut out = self.samples(now);
        self.retention.changed(key, change);
        let Some(document) = self.documents.get_mut(key) else { return out };
        document.answer_empty(now, &mut self.pending, &mut out);
        document.accepted_to = None;
        let start = document.screen.as_ref().map_or(0, |screen| screen.cursor);
        if let Some(screen) = &mut document.screen
            && let Some((chars, cursor)) = screen.accept(change)
        {
            document.accepted_to = Some(cursor);
            self.retention.accepted(now, key, start..cursor);
            out.push(Action::Accepted { key: key.to_owned(), chars });
            return out;
        }
        if document.screen.as_ref().is_some_and(Screen::is_over) {
            document.stop_speculation(&mut out);
        }
        if document.answer.as_mut().is_some_and(|job| !job.follows(change)) {
            document.stop(&mut out);
        }
        out
    }

    /// Handles the replacement of a document's whole text.
    pub fn replaced(&mut self, now: Instant, key: &str) -> Vec<Action> {
        let mut out = self.samples(now);
        self.retention.forget(key);
        if let Some(document) = self.documents.get_mut(key) {
            document.answer_empty(now, &mut self.pending, &mut out);
            document.stop(&mut out);
            document.screen = None;
            document.accepted_to = None;
        }
        out
    }

    /// Handles new text of a generation.
    pub fn streamed(&mut self, now: Instant, job: JobId, text: &str) -> Vec<Action> {
        let mut out = Vec::new();
        let Some(document) = self.documents.values_mut().find(|document| document.answers(job)) else {
            return out;
        };
        let running = document.answer.as_mut().expect("it was just found");
        running.push_text(text);
        let fits = |waiter: &mut Waiter| {
            running.fits(&waiter.editor_request, &LocationMatcher::new(&waiter.editor_request.document))
        };
        match &document.waiter {
            None if !running.is_consistent() => document.stop(&mut out),
            None => {}
            Some(_) => {
                if let Some(waiter) = document.waiter.take_if(|waiter| waiter.is_joined && !fits(waiter)) {
                    self.restart(now, waiter, &mut out);
                }
            }
        }
        out
    }

    /// Handles the end of a generation, unless it was cancelled or superseded meanwhile.
    pub fn done(&mut self, now: Instant, job: JobId, outcome: Outcome) -> Vec<Action> {
        let mut out = Vec::new();
        let Outcome { timings, synced, .. } = outcome;
        if let Some(pending) = self.pending.remove(&job) {
            out.push(Action::Record(outcome.complete(pending)));
        } else if !self.documents.values().any(|document| document.answers(job)) {
            out.push(Action::Background { evaluated: synced.evaluated, generated: timings.decode_tokens });
        }
        let Some((key, document)) = self.documents.iter_mut().find(|(_, document)| document.runs(job)) else {
            return out;
        };
        if document.prewarm == Some(job) {
            document.prewarm = None;
            return out;
        }
        let is_answer = document.answers(job);
        if is_answer && !outcome.is_cancelled_or_failed {
            document.pace.record_answer(timings.prefill_ms + timings.decode_ms);
        }
        let finished = if is_answer { &mut document.answer } else { &mut document.speculation };
        let Job { location, trigger, .. } = finished.take().expect("it was just found");
        let entry = Entry { key: key.clone(), location, trigger, items: outcome.distinct() };
        let waiter = document.waiter.take_if(|waiter| waiter.job == job);
        if !outcome.is_inconclusive() {
            self.cache.keep(entry.clone());
        }
        if let Some(waiter) = waiter {
            self.conclude(now, waiter, entry, &outcome, &mut out);
        }
        out
    }

    /// Cancels a request, unless it is answered.
    pub fn cancel(&mut self, now: Instant, id: RequestId) -> Vec<Action> {
        let mut out = Vec::new();
        let waits = |d: &&mut Tracked| d.waiter.as_ref().is_some_and(|waiter| waiter.editor_request.id == id);
        if let Some(document) = self.documents.values_mut().find(waits) {
            document.answer_empty(now, &mut self.pending, &mut out);
            document.stop(&mut out);
        }
        out
    }

    /// Prewarms an opened or focused document, with the cursor where requests are likely to have it.
    pub fn opened(&mut self, key: &str, document: impl Into<Arc<Document>>) -> Vec<Action> {
        let is_wanted = self.options.prewarm;
        let tracked = self.document(key);
        if !is_wanted || tracked.waiter.is_some() || tracked.answer.is_some() {
            return Vec::new();
        }
        vec![self.prewarm(key, document.into(), Window::Small, None)]
    }

    /// The expected cursor in a document that has just been opened: after as much of its head as a prompt shows.
    pub fn first_cursor(text: &str) -> usize {
        if text.len() <= PREWARM_BYTES {
            return text.len();
        }
        let end = (0..=PREWARM_BYTES).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
        text[..end].rfind('\n').map_or(end, |at| at + 1)
    }

    /// Forgets a document and cancels its work.
    pub fn closed(&mut self, now: Instant, key: &str) -> Vec<Action> {
        let mut out = self.samples(now);
        self.retention.forget(key);
        if let Some(mut document) = self.documents.remove(key) {
            document.answer_empty(now, &mut self.pending, &mut out);
            document.stop(&mut out);
            out.extend(document.prewarm.map(|job| Action::Cancel { job }));
        }
        self.cache.forget(key);
        out
    }

    /// Closes all documents.
    pub fn closed_all(&mut self, now: Instant) -> Vec<Action> {
        let keys: Vec<String> = self.documents.keys().cloned().collect();
        keys.iter().flat_map(|key| self.closed(now, key)).collect()
    }

    /// Retention samples that are due.
    fn samples(&mut self, now: Instant) -> Vec<Action> {
        self.retention.due(now).into_iter().map(Action::Retention).collect()
    }

    fn document(&mut self, key: &str) -> &mut Tracked {
        self.documents.entry(key.to_owned()).or_default()
    }

    fn job(&mut self) -> JobId {
        self.jobs += 1;
        self.jobs
    }

    /// Answers the pending request of a finished generation with the rest of `entry`, if there is any.
    fn conclude(
        &mut self,
        now: Instant,
        waiter: Waiter,
        entry: Entry,
        outcome: &Outcome,
        out: &mut Vec<Action>,
    ) {
        let Waiter { editor_request, is_joined, .. } = &waiter;
        let record = match is_joined {
            true => Record::new(Source::Joined),
            false => outcome.complete(Record::new(Source::Model)),
        };
        let record = Record { total_ms: waiter.ms(now), ..record };
        match entry.rest(editor_request, &LocationMatcher::new(&editor_request.document)) {
            Some(items) if !outcome.is_inconclusive() => {
                self.show(now, editor_request, entry, items, record, out)
            }
            _ if *is_joined && !outcome.is_cancelled_or_failed => self.restart(now, waiter, out),
            _ => {
                self.document(&editor_request.key).pace.record_end(outcome.is_cancelled_or_failed);
                answer(
                    editor_request.id,
                    Vec::new(),
                    Record { is_cancelled: outcome.is_cancelled_or_failed, ..record },
                    out,
                );
            }
        }
    }

    /// Answers with the rest of `entry`, then speculates and prewarms.
    fn show(
        &mut self,
        now: Instant,
        editor_request: &EditorRequest,
        entry: Entry,
        mut items: Vec<Item>,
        record: Record,
        out: &mut Vec<Action>,
    ) {
        items.truncate(if editor_request.trigger == Trigger::Invoked {
            self.options.alternatives
        } else {
            1
        });
        let best = items.first().map(|item| item.text.clone());
        let shown_chars = best.as_ref().map_or(0, |text| text.chars().count());
        let is_new = record.source != Source::TypedThrough;
        let document = self.document(&editor_request.key);
        document.pace.record_end(false);
        document.screen = Screen::new(entry, editor_request.document.prefix.len(), &items);
        answer(editor_request.id, items, Record { shown_chars, ..record }, out);
        if is_new
            && self.options.speculate
            && let Some(text) = best
        {
            self.speculate(editor_request, &text, out);
        }
        if is_new && self.options.prewarm {
            let idle = now + self.options.idle;
            out.push(self.prewarm(
                &editor_request.key,
                editor_request.document.clone(),
                Window::Large,
                Some(idle),
            ));
        }
    }

    /// Generates the answer to the request that follows an accept of `shown`.
    fn speculate(&mut self, editor_request: &EditorRequest, shown: &str, out: &mut Vec<Action>) {
        let document = Arc::new(editor_request.document.with_accepted(shown));
        let is_eligible = may_show(&document.prefix, &document.suffix);
        let next = EditorRequest { document, trigger: Trigger::Automatic, ..editor_request.clone() };
        let location = Location::new(&next.document);
        let is_cached = self.cache.contains(&next.key, &location);
        let tracked = self.document(&next.key);
        if tracked.speculation.as_ref().is_some_and(|job| job.location == location) {
            return;
        }
        tracked.stop_speculation(out);
        if is_eligible && !is_cached {
            let job = self.job();
            self.document(&next.key).speculation = Some(Job::new(job, &next));
            let request = next.request(Lines::Auto, self.options.auto_tokens_max);
            let request = Request { follows_accept: true, ..request };
            out.push(Start::background(job, next.key, Purpose::Speculation, request).into());
        }
    }

    /// Evaluates a prompt in the background.
    fn prewarm(
        &mut self,
        key: &str,
        document: Arc<Document>,
        window: Window,
        not_before: Option<Instant>,
    ) -> Action {
        let job = self.job();
        self.document(key).prewarm = Some(job);
        let request = Request { lines: Lines::Single, max_tokens: 0, ..Request::of(document) };
        let start = Start::background(job, key.to_owned(), Purpose::Prewarm, request);
        Start { window, not_before, ..start }.into()
    }

    /// Begins a new generation for a request that joined an inconsistent one.
    fn restart(&mut self, now: Instant, waiter: Waiter, out: &mut Vec<Action>) {
        let Waiter { editor_request, since, is_after_accept, .. } = waiter;
        self.generate(now, since, editor_request, is_after_accept, Duration::ZERO, out);
    }

    /// Begins a generation. One for the same document that is in flight is superseded by the engine, which
    /// lets a pass over tokens that both share run to its end.
    fn generate(
        &mut self,
        now: Instant,
        since: Instant,
        editor_request: EditorRequest,
        is_after_accept: bool,
        delay: Duration,
        out: &mut Vec<Action>,
    ) {
        let Options { soft, hard, auto_tokens_max, invoked_tokens_max, alternatives, .. } = self.options;
        let is_invoked = editor_request.trigger == Trigger::Invoked;
        let id = self.job();
        let document = self.document(&editor_request.key);
        document.stop_speculation(out);
        document.screen = None;
        document.answer = Some(Job::new(id, &editor_request));
        let lines = if is_invoked { Lines::Multi } else { Lines::Auto };
        let max_tokens = if is_invoked { invoked_tokens_max } else { auto_tokens_max };
        let start = Start {
            job: id,
            key: editor_request.key.clone(),
            purpose: Purpose::Answer,
            request: Request { follows_accept: is_after_accept, ..editor_request.request(lines, max_tokens) },
            window: Window::Small,
            not_before: (!delay.is_zero()).then_some(now + delay),
            budget: Budget {
                line_until: (!is_invoked).then_some(now + delay + soft),
                until: Some(now + delay + hard),
            },
            alternatives: if is_invoked { alternatives } else { 1 },
        };
        out.push(start.into());
        document.waiter = Some(Waiter { editor_request, since, is_after_accept, job: id, is_joined: false });
    }
}

fn answer(id: RequestId, items: Vec<Item>, record: Record, out: &mut Vec<Action>) {
    out.extend([Action::Answer { id, items }, Action::Record(record)]);
}

#[cfg(test)]
mod tests;
