//! What to do about each keystroke: serve what is there, join what runs, or ask the model. Pure: it decides,
//! [`super::driver`] acts, and time is an argument.
//!
//! - What is on screen and still continues what was typed is served without the model, then what earlier
//!   answers left in the cache, then the outcome of a generation that is under way and agrees so far. Only
//!   then a generation of its own begins.
//! - A document has one request that waits: a newer one, and every change of the text, answers it with
//!   nothing. Every request is answered exactly once.
//! - The generation of a request that waits no longer goes on as long as what is typed agrees with it; the
//!   next request joins it or takes its place.
//! - A shown text that the user may accept is continued in the background, as if it had been accepted.

use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, Instant};

use super::plan::trimmed;
use super::record::{Record, Source};
use super::retained::{Looked, Retention};
use super::{ContextFile, Lines, Request, Window, should_offer};
use crate::base::Timings;
use crate::base::timings::milliseconds;
use crate::decode::Budget;
use crate::serve::Priority;
use crate::session::Synced;

/// Answers kept.
const CACHE_ENTRIES_MAX: usize = 256;
/// Typed characters after which an answer is looked for no longer.
const TYPED_CHARS_MAX: usize = 128;
/// How much of the text before a place has to be the same for it to be the same place, in bytes.
const TAIL_BYTES: usize = 512;
/// How much of the text after it, in bytes.
const HEAD_BYTES: usize = 1024;
/// Closers that an editor may have inserted by itself.
const CLOSERS_MAX: usize = 8;
/// An insertion of fewer characters is typing, even where it completes the suggestion.
const ACCEPTED_CHARS_MIN: usize = 2;
/// What a document's head is warmed with before anything is known of its cursor, in bytes.
const WARM_BYTES: usize = 1 << 12;

/// Names a request; whoever asks chooses it and never chooses it again.
pub type AskId = u64;
/// Names a generation.
pub type JobId = u64;

/// How to serve.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Options {
    /// Longest wait for more typing before the model is asked.
    pub debounce_max: Duration,
    /// After this time a completion nobody asked for ends with its line.
    pub soft: Duration,
    /// After this time every completion ends.
    pub hard: Duration,
    /// Most tokens of a completion that nobody asked for.
    pub auto_tokens_max: usize,
    /// Most tokens of a completion that was asked for.
    pub invoked_tokens_max: usize,
    /// Items of a completion that was asked for.
    pub alternatives: usize,
    /// Whether to continue a shown text as if it had been accepted.
    pub speculate: bool,
    /// Whether to evaluate the prompt of a document before anything is asked.
    pub warm: bool,
    /// How long without a keystroke until a larger window is evaluated.
    pub idle: Duration,
}

/// Who wants a completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// The user, by a command.
    Invoked,
    /// The editor, because the user types.
    Automatic,
}

/// A request for a completion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// Its name.
    pub id: AskId,
    /// The document it is about.
    pub key: String,
    /// Where the document lies.
    pub path: Option<String>,
    /// The text before the cursor.
    pub prefix: String,
    /// The text after the cursor.
    pub suffix: String,
    /// Other files that may help, oldest first.
    pub context: Vec<ContextFile>,
    /// Who asks.
    pub trigger: Trigger,
}

/// One change of a document's text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Where it begins, in bytes.
    pub at: usize,
    /// How many bytes it takes away.
    pub removed: usize,
    /// What it puts there.
    pub inserted: String,
}

/// Text to insert at the cursor.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    /// The text; never blank.
    pub text: String,
}

/// How a generation ended.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// What is worth inserting where it was asked for, best first; may have duplicates.
    pub items: Vec<Item>,
    /// Whether it ended before it was done, so that having nothing to offer says nothing of the place.
    pub is_partial: bool,
    /// Whether it was cancelled or failed: it says nothing at all.
    pub is_void: bool,
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
    /// To evaluate a prompt.
    Warmth,
}

/// A generation to begin.
#[derive(Clone, Debug, PartialEq)]
pub struct Start {
    /// Its name.
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

impl Start {
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
        /// Which.
        id: AskId,
        /// With what; nothing where there is nothing to offer.
        items: Vec<Item>,
    },
    /// Note what became of a request. There is one for each; that of a request which gave up while the model
    /// ran for it comes once that has ended.
    Record(Record),
    /// Note what the model did although nobody had asked yet.
    Unasked {
        /// Prompt tokens evaluated.
        evaluated: usize,
        /// Tokens generated.
        generated: usize,
    },
    /// Begin a generation.
    Start(Box<Start>),
    /// End a generation. Its outcome is of no interest any more.
    Cancel {
        /// Which.
        job: JobId,
    },
    /// Count an accepted suggestion.
    Accepted {
        /// How long it was.
        chars: usize,
    },
    /// Count what is left of an accepted suggestion.
    Looked(Looked),
}

/// The state of the documents of one editor.
pub struct Service {
    options: Options,
    documents: HashMap<String, Document>,
    cache: VecDeque<Entry>,
    jobs: JobId,
    /// Of requests that gave up while their generation was under way.
    pending: HashMap<JobId, Record>,
    retention: Retention,
}

#[derive(Default)]
struct Document {
    waiter: Option<Waiter>,
    answer: Option<Job>,
    speculation: Option<Job>,
    warmth: Option<JobId>,
    screen: Option<Screen>,
    /// Where the cursor stands after an accept, until something else happens.
    accepted_to: Option<usize>,
    pace: Pace,
}

/// A request that is not answered yet.
struct Waiter {
    ask: Ask,
    since: Instant,
    is_after_accept: bool,
    /// The generation it waits for.
    job: JobId,
    /// Whether that was begun for an earlier request.
    is_joined: bool,
}

/// A generation under way.
struct Job {
    id: JobId,
    place: Place,
    trigger: Trigger,
    /// Bytes before its place.
    cursor: usize,
    /// What was typed since, as far as changes of the document tell.
    typed: String,
    /// What it said so far, before any rule cuts it.
    text: String,
}

/// A place in a document, recognised without keeping the document.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    /// The end of the text before it.
    tail: String,
    /// Whether that is all of it.
    is_whole: bool,
    /// Stands for the beginning of the text after it.
    head: u64,
}

/// An answer and where it belongs.
#[derive(Clone)]
struct Entry {
    key: String,
    place: Place,
    trigger: Trigger,
    items: Vec<Item>,
}

/// What an editor shows of an answer.
struct Screen {
    entry: Entry,
    /// Bytes before the cursor.
    cursor: usize,
    /// What is left of the items there.
    rests: Vec<String>,
}

/// How fast somebody types and whether asking the model at each keystroke pays.
#[derive(Default)]
struct Pace {
    asked: Option<Instant>,
    /// Mean time between requests.
    interval_ms: Option<f64>,
    /// Mean time from the start of a generation to its end.
    answer_ms: Option<f64>,
    /// The share of requests that a newer one superseded.
    superseded: f64,
}

impl Pace {
    /// How much the newest observation counts.
    const WEIGHT: f64 = 0.3;
    /// Answers as fast as this need no debounce.
    const FAST_MS: f64 = 60.0;
    /// A longer time between two requests is no typing.
    const PAUSE_MS: f64 = 400.0;

    fn mean(before: Option<f64>, now: f64) -> Option<f64> {
        Some(before.map_or(now, |before| before + Self::WEIGHT * (now - before)))
    }

    fn asked(&mut self, now: Instant) {
        let since = self.asked.replace(now).map(|before| milliseconds(now.saturating_duration_since(before)));
        match since {
            Some(ms) if ms <= Self::PAUSE_MS => self.interval_ms = Self::mean(self.interval_ms, ms),
            _ => self.interval_ms = None,
        }
    }

    fn ended(&mut self, is_superseded: bool) {
        self.superseded += Self::WEIGHT * (f64::from(u8::from(is_superseded)) - self.superseded);
    }

    fn answered(&mut self, ms: f64) {
        self.answer_ms = Self::mean(self.answer_ms, ms);
    }

    /// How long to wait before a generation nobody asked for. The faster the typing and the more of the
    /// requests came to nothing, the longer.
    fn debounce(&self, max: Duration) -> Duration {
        let is_fast = self.answer_ms.is_some_and(|ms| ms <= Self::FAST_MS);
        let haste = self.interval_ms.map_or(0.0, |ms| 1.0 - ms / Self::PAUSE_MS);
        if is_fast { Duration::ZERO } else { max.mul_f64((self.superseded * 2.0 * haste).clamp(0.0, 1.0)) }
    }
}

/// What a request shows of its place, prepared for comparing.
struct Here<'a> {
    prefix: &'a str,
    /// Stand for the text after the cursor without the first closers: none, one, and so on.
    heads: Vec<u64>,
}

impl<'a> Here<'a> {
    fn new(prefix: &'a str, suffix: &str) -> Self {
        let closers = suffix.chars().take(CLOSERS_MAX).take_while(|&c| is_closer(c)).map(char::len_utf8);
        let mut at = 0;
        let ends = closers.map(|length| {
            at += length;
            at
        });
        let heads = [0].into_iter().chain(ends).map(|at| head(&suffix[at..])).collect();
        Self { prefix, heads }
    }

    /// What was typed since `place`, and how many closers the editor has added behind it, in every way
    /// this can be read, the shortest first.
    fn typed_since(&self, place: &Place) -> impl Iterator<Item = (&'a str, usize)> {
        let prefix = self.prefix;
        let closers = || (0..self.heads.len()).filter(|&n| self.heads[n] == place.head);
        let ends = [prefix.len()].into_iter().chain(prefix.char_indices().rev().map(|(at, _)| at));
        ends.take(if closers().next().is_some() { TYPED_CHARS_MAX + 1 } else { 0 })
            .filter(|&end| {
                prefix[..end].ends_with(&place.tail) && (!place.is_whole || end == place.tail.len())
            })
            .flat_map(move |end| closers().map(move |n| (&prefix[end..], n)))
            .filter(|(typed, closers)| typed.chars().filter(|&c| is_opener(c)).count() >= *closers)
    }
}

fn is_closer(c: char) -> bool {
    matches!(c, ')' | ']' | '}' | '>' | '"' | '\'' | '`')
}

fn is_opener(c: char) -> bool {
    matches!(c, '(' | '[' | '{' | '<' | '"' | '\'' | '`')
}

/// What was typed where the editor has closed a bracket in the same change.
fn without_closer(inserted: &str) -> &str {
    let pairs = ["()", "[]", "{}", "<>", "\"\"", "''", "``"];
    let closed = pairs.iter().any(|pair| inserted.ends_with(pair));
    &inserted[..inserted.len() - usize::from(closed)]
}

fn head(suffix: &str) -> u64 {
    let end = (0..=suffix.len().min(HEAD_BYTES)).rev().find(|&end| suffix.is_char_boundary(end)).unwrap_or(0);
    let mut hasher = DefaultHasher::new();
    suffix[..end].hash(&mut hasher);
    hasher.finish()
}

impl Place {
    fn new(prefix: &str, suffix: &str) -> Self {
        let from = prefix.len().saturating_sub(TAIL_BYTES);
        let from = (from..=prefix.len()).find(|&at| prefix.is_char_boundary(at)).unwrap_or(prefix.len());
        Self { tail: prefix[from..].to_owned(), is_whole: from == 0, head: head(suffix) }
    }
}

impl Entry {
    /// What is left of the items where `ask` is; `None` if this is not their place, or nothing is left.
    fn rest(&self, ask: &Ask, here: &Here) -> Option<Vec<Item>> {
        let is_enough = ask.trigger == Trigger::Automatic || self.trigger == Trigger::Invoked;
        if self.key != ask.key || !is_enough {
            return None;
        }
        here.typed_since(&self.place).find_map(|(typed, closers)| {
            if self.items.is_empty() {
                return (typed.is_empty() && closers == 0).then(Vec::new);
            }
            let rests = self.items.iter().filter_map(|item| rest_of(&item.text, typed, closers, ask));
            let rests: Vec<Item> = rests.map(|text| Item { text }).collect();
            (!rests.is_empty()).then_some(rests)
        })
    }
}

/// What is left of `text` after `typed`, behind which `closers` closers were added by the editor.
fn rest_of(text: &str, typed: &str, closers: usize, ask: &Ask) -> Option<String> {
    let rest = text.strip_prefix(typed).filter(|rest| !rest.trim().is_empty())?;
    if closers == 0 {
        return Some(rest.to_owned());
    }
    trimmed(&request(ask, Lines::Multi, 0), rest).ok()
}

fn request(ask: &Ask, lines: Lines, max_tokens: usize) -> Request {
    Request {
        path: ask.path.clone(),
        lines,
        max_tokens,
        context: ask.context.clone(),
        is_invoked: ask.trigger == Trigger::Invoked,
        ..Request::new(&ask.prefix, &ask.suffix)
    }
}

impl Job {
    /// Whether what it said so far does not contradict `typed`.
    fn agrees(&self, typed: &str) -> bool {
        let typed = typed.replace("\r\n", "\n");
        let said = self.text.as_str();
        let is_blank = |c| matches!(c, ' ' | '\t');
        let (said, typed) = if self.place.tail.ends_with(is_blank) {
            // Blank that the cursor stands behind is cut from the answer.
            (said.trim_start_matches(is_blank), typed.trim_start_matches(is_blank))
        } else {
            (said, &*typed)
        };
        said.starts_with(typed) || typed.starts_with(said)
    }

    /// Whether `ask` may wait for this instead of for a generation of its own.
    fn fits(&self, ask: &Ask, here: &Here) -> bool {
        let is_enough = ask.trigger == Trigger::Automatic || self.trigger == Trigger::Invoked;
        is_enough && here.typed_since(&self.place).any(|(typed, _)| self.agrees(typed))
    }

    /// Takes note of a change of the document; says whether the place may still be the same.
    fn follows(&mut self, change: &Change) -> bool {
        let end = self.cursor + self.typed.len();
        let Some(from) = change.at.checked_sub(self.cursor).filter(|_| change.at + change.removed <= end)
        else {
            return false;
        };
        if !self.typed.is_char_boundary(from) || !self.typed.is_char_boundary(from + change.removed) {
            return false;
        }
        self.typed.replace_range(from..from + change.removed, without_closer(&change.inserted));
        self.agrees(&self.typed)
    }
}

impl Service {
    /// No documents yet.
    pub fn new(options: Options) -> Self {
        Self {
            options,
            documents: HashMap::new(),
            cache: VecDeque::new(),
            jobs: 0,
            pending: HashMap::new(),
            retention: Retention::default(),
        }
    }

    /// No documents, and names for generations that were not given before.
    pub fn emptied(&self) -> Self {
        Self { jobs: self.jobs, ..Self::new(self.options) }
    }

    /// Forgets all documents, after [`Service::closed_all`], and goes on in other ways.
    pub fn start_over(&mut self, options: Options) {
        self.options = options;
        self.documents.clear();
        self.cache.clear();
    }

    /// Somebody wants a completion.
    pub fn ask(&mut self, now: Instant, ask: Ask) -> Vec<Action> {
        let mut out = self.look(now);
        let document = self.documents.entry(ask.key.clone()).or_default();
        document.give_up(now, &mut self.pending, &mut out);
        document.pace.asked(now);
        let is_after_accept = document.accepted_to.take() == Some(ask.prefix.len());
        if ask.trigger == Trigger::Automatic && !should_offer(&ask.prefix, &ask.suffix) {
            document.stop(&mut out);
            document.screen = None;
            answer(ask.id, Vec::new(), Record::new(Source::Nothing), &mut out);
            return out;
        }
        let here = Here::new(&ask.prefix, &ask.suffix);
        if let Some(items) = document.screen.as_ref().and_then(|screen| screen.entry.rest(&ask, &here)) {
            document.answer.take().into_iter().for_each(|job| out.push(Action::Cancel { job: job.id }));
            let entry = document.screen.take().map(|screen| screen.entry).expect("it was just looked at");
            self.show(now, &ask, entry, items, Record::new(Source::TypedThrough), &mut out);
        } else if let Some((at, items)) =
            self.cache.iter().enumerate().rev().find_map(|(at, entry)| Some((at, entry.rest(&ask, &here)?)))
        {
            document.stop(&mut out);
            let entry = self.cache.remove(at).expect("it was just found");
            self.cache.push_back(entry.clone());
            self.show(now, &ask, entry, items, Record::new(Source::Cache), &mut out);
        } else if let Some(job) = document.joinable(&ask, &here) {
            document.waiter = Some(Waiter { ask, since: now, is_after_accept, job, is_joined: true });
        } else {
            let wait = ask.trigger == Trigger::Automatic && !is_after_accept;
            let delay = if wait { document.pace.debounce(self.options.debounce_max) } else { Duration::ZERO };
            self.generate(now, now, ask, is_after_accept, delay, &mut out);
        }
        out
    }

    /// A document changed: whoever waits does so for the wrong text.
    pub fn changed(&mut self, now: Instant, key: &str, change: &Change) -> Vec<Action> {
        let mut out = self.look(now);
        self.retention.changed(key, change);
        let Some(document) = self.documents.get_mut(key) else { return out };
        document.give_up(now, &mut self.pending, &mut out);
        document.accepted_to = None;
        let start = document.screen.as_ref().map_or(0, |screen| screen.cursor);
        if let Some(screen) = &mut document.screen
            && let Some((chars, cursor)) = screen.accept(change)
        {
            document.accepted_to = Some(cursor);
            self.retention.accepted(now, key, start..cursor);
            out.push(Action::Accepted { chars });
            return out;
        }
        if document.screen.as_ref().is_some_and(|screen| screen.rests.is_empty()) {
            document.speculation.take().into_iter().for_each(|job| out.push(Action::Cancel { job: job.id }));
        }
        if document.answer.as_mut().is_some_and(|job| !job.follows(change)) {
            document.stop(&mut out);
        }
        out
    }

    /// A document is another one now, as far as can be told.
    pub fn replaced(&mut self, now: Instant, key: &str) -> Vec<Action> {
        let mut out = self.look(now);
        self.retention.forget(key);
        if let Some(document) = self.documents.get_mut(key) {
            document.give_up(now, &mut self.pending, &mut out);
            document.stop(&mut out);
            document.screen = None;
            document.accepted_to = None;
        }
        out
    }

    /// More text of a generation.
    pub fn streamed(&mut self, now: Instant, job: JobId, text: &str) -> Vec<Action> {
        let mut out = Vec::new();
        let running = self.documents.values_mut().find(|d| d.answer.as_ref().is_some_and(|a| a.id == job));
        let Some(document) = running else { return out };
        let running = document.answer.as_mut().expect("it was just found");
        running.text.push_str(text);
        match &document.waiter {
            Some(waiter) => {
                let here = Here::new(&waiter.ask.prefix, &waiter.ask.suffix);
                if waiter.is_joined && !running.fits(&waiter.ask, &here) {
                    let waiter = document.waiter.take().expect("it was just looked at");
                    self.restart(now, waiter, &mut out);
                }
            }
            None if !running.agrees(&running.typed) => document.stop(&mut out),
            None => {}
        }
        out
    }

    /// A generation ended. Those cancelled or replaced meanwhile are ignored.
    pub fn done(&mut self, now: Instant, job: JobId, outcome: Outcome) -> Vec<Action> {
        let mut out = Vec::new();
        let Outcome { timings, synced, .. } = outcome;
        let unasked = Action::Unasked { evaluated: synced.evaluated, generated: timings.decode_tokens };
        if let Some(pending) = self.pending.remove(&job) {
            out.push(Action::Record(with_outcome(pending, &outcome)));
        } else if !self.documents.values().any(|document| document.answers(job)) {
            out.push(unasked);
        }
        let Some((key, document)) = self.documents.iter_mut().find(|(_, document)| document.runs(job)) else {
            return out;
        };
        let key = key.clone();
        let is_answer = document.answers(job);
        if document.warmth == Some(job) {
            document.warmth = None;
            return out;
        }
        let ended = if is_answer { &mut document.answer } else { &mut document.speculation };
        let ended = ended.take().expect("it was just found");
        let waiter = document.waiter.take_if(|waiter| waiter.job == job);
        if is_answer && !outcome.is_void {
            document.pace.answered(timings.prefill_ms + timings.decode_ms);
        }
        let mut items: Vec<Item> = Vec::new();
        for item in &outcome.items {
            if !items.iter().any(|other| other.text.trim_end() == item.text.trim_end()) {
                items.push(item.clone());
            }
        }
        let entry = Entry { key, place: ended.place, trigger: ended.trigger, items };
        let says_nothing = outcome.is_void || outcome.is_partial && entry.items.is_empty();
        if !says_nothing {
            self.keep(entry.clone());
        }
        let Some(waiter) = waiter else { return out };
        let Waiter { ask, since, is_joined, .. } = &waiter;
        let rest = entry.rest(ask, &Here::new(&ask.prefix, &ask.suffix));
        let record = if *is_joined {
            Record::new(Source::Joined)
        } else {
            with_outcome(Record::new(Source::Model), &outcome)
        };
        let record = Record { total_ms: ms_since(now, *since), ..record };
        match rest {
            Some(items) if !says_nothing => self.show(now, ask, entry, items, record, &mut out),
            _ if *is_joined && !outcome.is_void => self.restart(now, waiter, &mut out),
            _ => {
                self.document(&ask.key).pace.ended(outcome.is_void);
                answer(ask.id, Vec::new(), Record { is_cancelled: outcome.is_void, ..record }, &mut out);
            }
        }
        out
    }

    /// A request is wanted no longer. One that is answered already is ignored.
    pub fn cancel(&mut self, now: Instant, id: AskId) -> Vec<Action> {
        let mut out = Vec::new();
        let waits = |d: &&mut Document| d.waiter.as_ref().is_some_and(|waiter| waiter.ask.id == id);
        if let Some(document) = self.documents.values_mut().find(waits) {
            document.give_up(now, &mut self.pending, &mut out);
            document.stop(&mut out);
        }
        out
    }

    /// A document is looked at, with the cursor where `request` is, if that is known: what will be asked
    /// about it begins like this.
    pub fn opened(&mut self, key: &str, request: Request) -> Vec<Action> {
        let document = self.documents.entry(key.to_owned()).or_default();
        if !self.options.warm || document.waiter.is_some() || document.answer.is_some() {
            return Vec::new();
        }
        let request = Request { max_tokens: 0, lines: Lines::Single, ..request };
        vec![self.warm(key, request, Window::Small, None)]
    }

    /// Where to expect the cursor in a document that has just been opened: behind as much of its head as a
    /// prompt shows.
    pub fn first_cursor(text: &str) -> usize {
        if text.len() <= WARM_BYTES {
            return text.len();
        }
        let end = (0..=WARM_BYTES).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
        text[..end].rfind('\n').map_or(end, |at| at + 1)
    }

    /// A document is gone, and everything that was known of it.
    pub fn closed(&mut self, now: Instant, key: &str) -> Vec<Action> {
        let mut out = self.look(now);
        self.retention.forget(key);
        if let Some(mut document) = self.documents.remove(key) {
            document.give_up(now, &mut self.pending, &mut out);
            document.stop(&mut out);
            document.warmth.into_iter().for_each(|job| out.push(Action::Cancel { job }));
        }
        self.cache.retain(|entry| entry.key != key);
        out
    }

    /// All documents are gone.
    pub fn closed_all(&mut self, now: Instant) -> Vec<Action> {
        let keys: Vec<String> = self.documents.keys().cloned().collect();
        keys.iter().flat_map(|key| self.closed(now, key)).collect()
    }

    /// What is left of accepted suggestions.
    fn look(&mut self, now: Instant) -> Vec<Action> {
        self.retention.due(now).into_iter().map(Action::Looked).collect()
    }

    fn document(&mut self, key: &str) -> &mut Document {
        self.documents.entry(key.to_owned()).or_default()
    }

    fn job(&mut self) -> JobId {
        self.jobs += 1;
        self.jobs
    }

    fn keep(&mut self, entry: Entry) {
        let is_same = |other: &Entry| {
            other.key == entry.key && other.trigger == entry.trigger && other.place == entry.place
        };
        self.cache.retain(|other| !is_same(other));
        if self.cache.len() == CACHE_ENTRIES_MAX {
            self.cache.pop_front();
        }
        self.cache.push_back(entry);
    }

    /// Answers with what is left of `entry`, and prepares for what comes next.
    fn show(
        &mut self,
        now: Instant,
        ask: &Ask,
        entry: Entry,
        mut items: Vec<Item>,
        record: Record,
        out: &mut Vec<Action>,
    ) {
        items.truncate(if ask.trigger == Trigger::Invoked { self.options.alternatives } else { 1 });
        let shown_chars = items.first().map_or(0, |item| item.text.chars().count());
        let is_new = record.source != Source::TypedThrough;
        let rests: Vec<String> = items.iter().map(|item| item.text.clone()).collect();
        answer(ask.id, items, Record { shown_chars, ..record }, out);
        let document = self.document(&ask.key);
        document.pace.ended(false);
        let accepted = rests.first().map(|text| format!("{}{text}", ask.prefix));
        document.screen = accepted.is_some().then_some(Screen { entry, cursor: ask.prefix.len(), rests });
        if is_new && let Some(prefix) = accepted {
            self.speculate(ask, prefix, out);
        }
        if is_new && self.options.warm {
            let request = request(ask, Lines::Single, 0);
            let idle = now + self.options.idle;
            out.push(self.warm(&ask.key, request, Window::Large, Some(idle)));
        }
    }

    fn speculate(&mut self, ask: &Ask, prefix: String, out: &mut Vec<Action>) {
        let next = Ask { prefix, trigger: Trigger::Automatic, ..ask.clone() };
        let place = Place::new(&next.prefix, &next.suffix);
        let is_known = self.cache.iter().any(|entry| entry.key == next.key && entry.place == place);
        let is_wanted = self.options.speculate && !is_known && should_offer(&next.prefix, &next.suffix);
        let document = self.document(&ask.key);
        let is_under_way = document.speculation.as_ref().is_some_and(|job| job.place == place);
        if !is_under_way {
            document.speculation.take().into_iter().for_each(|job| out.push(Action::Cancel { job: job.id }));
        }
        if is_wanted && !is_under_way {
            let id = self.job();
            self.document(&ask.key).speculation = Some(Job::new(id, &next));
            out.push(Action::Start(Box::new(Start {
                job: id,
                key: next.key.clone(),
                purpose: Purpose::Speculation,
                request: Request {
                    follows_accept: true,
                    ..request(&next, Lines::Auto, self.options.auto_tokens_max)
                },
                window: Window::Small,
                not_before: None,
                budget: Budget::default(),
                alternatives: 1,
            })));
        }
    }

    fn warm(&mut self, key: &str, request: Request, window: Window, not_before: Option<Instant>) -> Action {
        let job = self.job();
        self.document(key).warmth = Some(job);
        Action::Start(Box::new(Start {
            job,
            key: key.to_owned(),
            purpose: Purpose::Warmth,
            request,
            window,
            not_before,
            budget: Budget::default(),
            alternatives: 1,
        }))
    }

    /// Starts over for somebody who waited for a generation that said something else.
    fn restart(&mut self, now: Instant, waiter: Waiter, out: &mut Vec<Action>) {
        let Waiter { ask, since, is_after_accept, .. } = waiter;
        self.generate(now, since, ask, is_after_accept, Duration::ZERO, out);
    }

    /// Asks the model. A generation for the same document that still runs is replaced by the engine, which
    /// lets a pass over tokens that both share run to its end.
    fn generate(
        &mut self,
        now: Instant,
        since: Instant,
        ask: Ask,
        is_after_accept: bool,
        delay: Duration,
        out: &mut Vec<Action>,
    ) {
        let Options { soft, hard, auto_tokens_max, invoked_tokens_max, alternatives, .. } = self.options;
        let is_invoked = ask.trigger == Trigger::Invoked;
        let id = self.job();
        let document = self.document(&ask.key);
        document.speculation.take().into_iter().for_each(|job| out.push(Action::Cancel { job: job.id }));
        document.screen = None;
        document.answer = Some(Job::new(id, &ask));
        let lines = if is_invoked { Lines::Multi } else { Lines::Auto };
        let max_tokens = if is_invoked { invoked_tokens_max } else { auto_tokens_max };
        out.push(Action::Start(Box::new(Start {
            job: id,
            key: ask.key.clone(),
            purpose: Purpose::Answer,
            request: Request { follows_accept: is_after_accept, ..request(&ask, lines, max_tokens) },
            window: Window::Small,
            not_before: (!delay.is_zero()).then_some(now + delay),
            budget: Budget {
                line_until: (!is_invoked).then_some(now + delay + soft),
                until: Some(now + delay + hard),
            },
            alternatives: if is_invoked { alternatives } else { 1 },
        })));
        document.waiter = Some(Waiter { ask, since, is_after_accept, job: id, is_joined: false });
    }
}

impl Job {
    fn new(id: JobId, ask: &Ask) -> Self {
        Self {
            id,
            place: Place::new(&ask.prefix, &ask.suffix),
            trigger: ask.trigger,
            cursor: ask.prefix.len(),
            typed: String::new(),
            text: String::new(),
        }
    }
}

impl Screen {
    /// Follows a change. If it is an accept, returns the length of what was accepted and where the cursor
    /// is then.
    fn accept(&mut self, change: &Change) -> Option<(usize, usize)> {
        let Change { at, removed, inserted } = change;
        let accepted = self.rests.iter().find(|rest| {
            inserted.ends_with(rest.as_str())
                && rest.chars().nth(ACCEPTED_CHARS_MIN - 1).is_some()
                && at + inserted.len() == self.cursor + rest.len()
        });
        if let Some(rest) = accepted {
            let accepted = (rest.chars().count(), self.cursor + rest.len());
            self.rests.clear();
            return Some(accepted);
        }
        let is_typed = *removed == 0 && *at == self.cursor;
        let typed = without_closer(inserted);
        self.rests = self
            .rests
            .iter()
            .filter_map(|rest| rest.strip_prefix(typed).filter(|_| is_typed))
            .map(str::to_owned)
            .collect();
        self.cursor += typed.len();
        None
    }
}

impl Document {
    fn runs(&self, id: JobId) -> bool {
        let is_speculation = self.speculation.as_ref().is_some_and(|job| job.id == id);
        self.answers(id) || is_speculation || self.warmth == Some(id)
    }

    fn answers(&self, id: JobId) -> bool {
        self.answer.as_ref().is_some_and(|job| job.id == id)
    }

    /// Answers whoever waits, with nothing.
    fn give_up(&mut self, now: Instant, pending: &mut HashMap<JobId, Record>, out: &mut Vec<Action>) {
        if let Some(waiter) = self.waiter.take() {
            self.pace.ended(true);
            let source = if waiter.is_joined { Source::Joined } else { Source::Model };
            let total_ms = ms_since(now, waiter.since);
            let record = Record { is_cancelled: true, total_ms, ..Record::new(source) };
            out.push(Action::Answer { id: waiter.ask.id, items: Vec::new() });
            if waiter.is_joined {
                out.push(Action::Record(record));
            } else {
                pending.insert(waiter.job, record);
            }
        }
    }

    /// Ends what runs for this document but for its warmth, which costs nothing that is needed.
    fn stop(&mut self, out: &mut Vec<Action>) {
        for job in [self.answer.take(), self.speculation.take()].into_iter().flatten() {
            out.push(Action::Cancel { job: job.id });
        }
    }

    /// The generation under way that `ask` can wait for. What a background one says is not known before
    /// its end, so it serves only its very place.
    fn joinable(&self, ask: &Ask, here: &Here) -> Option<JobId> {
        let answer = self.answer.as_ref().filter(|job| job.fits(ask, here));
        let is_there = |job: &&Job| here.typed_since(&job.place).any(|(typed, _)| typed.is_empty());
        let is_enough = ask.trigger == Trigger::Automatic;
        let speculation = self.speculation.as_ref().filter(|job| is_enough && is_there(job));
        answer.or(speculation).map(|job| job.id)
    }
}

fn answer(id: AskId, items: Vec<Item>, record: Record, out: &mut Vec<Action>) {
    out.extend([Action::Answer { id, items }, Action::Record(record)]);
}

/// `record` of the request that `outcome` was begun for.
fn with_outcome(record: Record, outcome: &Outcome) -> Record {
    let Outcome { prompt_tokens, synced, timings, .. } = *outcome;
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

fn ms_since(now: Instant, since: Instant) -> f64 {
    milliseconds(now.saturating_duration_since(since))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPTIONS: Options = Options {
        debounce_max: Duration::from_millis(75),
        soft: Duration::from_millis(250),
        hard: Duration::from_millis(2000),
        auto_tokens_max: 64,
        invoked_tokens_max: 128,
        alternatives: 3,
        speculate: false,
        warm: false,
        idle: Duration::from_secs(1),
    };
    const SPECULATING: Options = Options { speculate: true, ..OPTIONS };

    /// Something that happens. Documents have the cursor at `$0`.
    enum Step {
        Type(AskId, &'static str),
        Invoke(AskId, &'static str),
        Text(JobId, &'static str),
        Done(JobId, &'static [&'static str]),
        Void(JobId),
        Partial(JobId),
        Change(usize, usize, &'static str),
        Cancel(AskId),
        Close,
    }
    use Step::*;

    fn ask(id: AskId, document: &str, trigger: Trigger) -> Ask {
        let (prefix, suffix) = document.split_once("$0").unwrap();
        let (prefix, suffix) = (prefix.into(), suffix.into());
        Ask { id, key: "a".into(), path: None, prefix, suffix, context: Vec::new(), trigger }
    }

    fn outcome(items: &[&str]) -> Outcome {
        let items = items.iter().map(|&text| Item { text: text.into() }).collect();
        Outcome { items, ..Outcome::default() }
    }

    /// What an action does, in short.
    fn describe(action: &Action) -> String {
        match action {
            Action::Answer { id, items } => {
                let texts: Vec<&str> = items.iter().map(|item| item.text.as_str()).collect();
                format!("{id}: {}", texts.join(" | ")).trim_end().to_owned()
            }
            Action::Record(record) if record.is_cancelled => format!("{:?} cancelled", record.source),
            Action::Record(record) => format!("{:?}", record.source),
            Action::Unasked { .. } => "unasked".into(),
            Action::Start(start) => {
                let Start { job, purpose, request, window, .. } = start.as_ref();
                match purpose {
                    Purpose::Answer if request.follows_accept => format!("start {job} after an accept"),
                    Purpose::Answer => format!("start {job} {:?}", request.lines),
                    _ => format!("start {job} {purpose:?} {window:?} after {:?}", request.prefix),
                }
            }
            Action::Cancel { job } => format!("cancel {job}"),
            Action::Accepted { chars } => format!("accepted {chars}"),
            Action::Looked(Looked { accepted, retained, .. }) => format!("retained {retained} of {accepted}"),
        }
    }

    fn step(service: &mut Service, now: Instant, step: &Step) -> Vec<Action> {
        match *step {
            Type(id, document) => service.ask(now, ask(id, document, Trigger::Automatic)),
            Invoke(id, document) => service.ask(now, ask(id, document, Trigger::Invoked)),
            Text(job, text) => service.streamed(now, job, text),
            Done(job, items) => service.done(now, job, outcome(items)),
            Void(job) => service.done(now, job, Outcome { is_void: true, ..Outcome::default() }),
            Partial(job) => service.done(now, job, Outcome { is_partial: true, ..Outcome::default() }),
            Change(at, removed, inserted) => {
                service.changed(now, "a", &super::Change { at, removed, inserted: inserted.into() })
            }
            Cancel(id) => service.cancel(now, id),
            Close => service.closed(now, "a"),
        }
    }

    #[track_caller]
    fn check(options: Options, steps: &[(Step, &[&str])]) {
        let (mut service, now) = (Service::new(options), Instant::now());
        for (i, (event, expected)) in steps.iter().enumerate() {
            let actions = step(&mut service, now, event);
            let actions: Vec<String> = actions.iter().map(describe).collect();
            assert_eq!(actions, *expected, "step {i}");
        }
    }

    #[test]
    fn what_is_on_screen_is_typed_through() {
        check(
            OPTIONS,
            &[
                (Type(1, "x = $0\n"), &["start 1 Auto"]),
                (Done(1, &["foo(a, b)"]), &["1: foo(a, b)", "Model"]),
                (Type(2, "x = fo$0\n"), &["2: o(a, b)", "TypedThrough"]),
                (Type(3, "x = foo($0\n"), &["3: a, b)", "TypedThrough"]),
                (Type(4, "x = foo($0)\n"), &["4: a, b", "TypedThrough"]),
                (Type(5, "x = foo(a$0)\n"), &["5: , b", "TypedThrough"]),
                (Type(6, "x = f$0\n"), &["6: oo(a, b)", "TypedThrough"]),
                (Type(7, "x = $0\n"), &["7: foo(a, b)", "TypedThrough"]),
                (Type(8, "x = g$0\n"), &["start 2 Auto"]),
                (Done(2, &[]), &["8:", "Model"]),
                (Type(9, "x = g$0\n"), &["9:", "Cache"]),
                (Type(10, "x = g$0y\n"), &["10:", "Nothing"]),
                (Type(11, "x = foo(a, b)$0\n"), &["start 3 Auto"]),
            ],
        );
    }

    #[test]
    fn earlier_answers_are_kept() {
        check(
            OPTIONS,
            &[
                (Type(1, "x = $0\n"), &["start 1 Auto"]),
                (Done(1, &["foo"]), &["1: foo", "Model"]),
                (Type(2, "y = $0\n"), &["start 2 Auto"]),
                (Done(2, &["bar"]), &["2: bar", "Model"]),
                (Type(3, "x = $0\n"), &["3: foo", "Cache"]),
                (Type(4, "y = b$0\n"), &["4: ar", "Cache"]),
                (Type(5, "x = $0\nz"), &["start 3 Auto"]),
                (Partial(3), &["5:", "Model"]),
                (Type(6, "x = $0\nz"), &["start 4 Auto"]),
                (Void(4), &["6:", "Model cancelled"]),
                (Type(7, "x = $0\nz"), &["start 5 Auto"]),
                (Close, &["7:", "cancel 5"]),
                (Void(5), &["Model cancelled"]),
                (Type(8, "y = $0\n"), &["start 6 Auto"]),
            ],
        );
    }

    #[test]
    fn a_generation_under_way_is_joined_while_it_agrees() {
        check(
            OPTIONS,
            &[
                (Type(1, "x = $0\n"), &["start 1 Auto"]),
                (Type(2, "x = f$0\n"), &["1:"]),
                (Text(1, "fo"), &[]),
                (Type(3, "x = foo$0\n"), &["2:", "Joined cancelled"]),
                (Text(1, "o(a"), &[]),
                (Done(1, &["foo(a)"]), &["Model cancelled", "3: (a)", "Joined"]),
                (Type(4, "y = $0\n"), &["start 2 Auto"]),
                (Type(5, "y = b$0\n"), &["4:"]),
                (Text(2, "c"), &["start 3 Auto"]),
                (Void(2), &["Model cancelled"]),
                (Text(3, "ar"), &[]),
                (Type(6, "y = bz$0\n"), &["5:", "start 4 Auto"]),
                (Void(3), &["Model cancelled"]),
                (Done(4, &["z"]), &["6: z", "Model"]),
                (Type(7, "z = $0\n"), &["start 5 Auto"]),
                (Type(8, "z = foo$0\n"), &["7:"]),
                (Done(5, &["foo"]), &["Model cancelled", "start 6 Auto"]),
                (Cancel(8), &["8:", "cancel 6"]),
                (Cancel(8), &[]),
                (Void(6), &["Model cancelled"]),
            ],
        );
    }

    #[test]
    fn a_change_answers_and_a_contradiction_cancels() {
        check(
            OPTIONS,
            &[
                (Type(1, "x = $0\n"), &["start 1 Auto"]),
                (Text(1, "foo"), &[]),
                (Change(4, 0, "fo"), &["1:"]),
                (Change(5, 1, ""), &[]),
                (Change(5, 0, "oo()"), &[]),
                (Text(1, "(a)"), &[]),
                (Change(8, 0, "b"), &["cancel 1"]),
                (Void(1), &["Model cancelled"]),
                (Type(2, "y = $0\n"), &["start 2 Auto"]),
                (Change(0, 0, "z"), &["2:", "cancel 2"]),
                (Void(2), &["Model cancelled"]),
                (Type(3, "y = $0\n"), &["start 3 Auto"]),
                (Change(4, 0, "b"), &["3:"]),
                (Text(3, "c"), &["cancel 3"]),
            ],
        );
    }

    #[test]
    fn several_items_and_lines_when_asked_for() {
        check(
            OPTIONS,
            &[
                (Type(1, "x = $0\n"), &["start 1 Auto"]),
                (Done(1, &["foo()"]), &["1: foo()", "Model"]),
                (Invoke(2, "x = $0\n"), &["start 2 Multi"]),
                (Done(2, &["foo()", "bar()", "foo()", "fab()"]), &["2: foo() | bar() | fab()", "Model"]),
                (Invoke(3, "x = f$0\n"), &["3: oo() | ab()", "TypedThrough"]),
                (Type(4, "x = fa$0\n"), &["4: b()", "TypedThrough"]),
                (Invoke(5, "x = $0y\n"), &["start 3 Multi"]),
            ],
        );
    }

    #[test]
    fn what_was_accepted_is_looked_at_again() {
        let (mut service, start) = (Service::new(OPTIONS), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        service.ask(at(0), ask(1, "x = $0\n", Trigger::Automatic));
        service.done(at(0), 1, outcome(&["foo(a)"]));
        let change = |at, removed, inserted: &str| super::Change { at, removed, inserted: inserted.into() };
        assert_eq!(service.changed(at(1), "a", &change(4, 0, "foo(a)")).len(), 1);
        service.changed(at(2), "a", &change(7, 3, "(b, c)"));
        let looked: Vec<String> = service
            .changed(at(40), "a", &change(0, 1, "y"))
            .iter()
            .filter(|action| matches!(action, Action::Looked(_)))
            .map(describe)
            .collect();
        assert_eq!(looked, ["retained 3 of 6"]);
    }

    #[test]
    fn an_accept_is_followed_by_several_lines() {
        check(
            OPTIONS,
            &[
                (Type(1, "x = $0\n"), &["start 1 Auto"]),
                (Done(1, &["foo(a)"]), &["1: foo(a)", "Model"]),
                (Change(4, 0, "f"), &[]),
                (Change(5, 0, "oo(a)"), &["accepted 5"]),
                (Type(2, "x = foo(a)$0\n"), &["start 2 after an accept"]),
                (Done(2, &["\ny = 1"]), &["2: \ny = 1", "Model"]),
                // A menu entry was selected: its text and the suggestion replace what was typed.
                (Change(8, 2, "a)\ny = 1"), &["accepted 6"]),
                (Change(0, 0, "z"), &[]),
                (Type(3, "zx = foo(a)\ny = 1$0\n"), &["start 3 Auto"]),
            ],
        );
    }

    #[test]
    fn the_next_request_is_answered_beforehand() {
        check(
            SPECULATING,
            &[
                (Type(1, "x = $0\n"), &["start 1 Auto"]),
                (
                    Done(1, &["foo()"]),
                    &["1: foo()", "Model", "start 2 Speculation Small after \"x = foo()\""],
                ),
                (Change(4, 0, "f"), &[]),
                (Type(2, "x = f$0\n"), &["2: oo()", "TypedThrough"]),
                (Done(2, &["\ny"]), &["unasked"]),
                (Change(5, 0, "oo()"), &["accepted 4"]),
                (
                    Type(3, "x = foo()$0\n"),
                    &["3: \ny", "Cache", "start 3 Speculation Small after \"x = foo()\\ny\""],
                ),
                (Change(9, 0, "\ny"), &["accepted 2"]),
                (Type(4, "x = foo()\ny$0\n"), &[]),
                (
                    Done(3, &[" = 1"]),
                    &[
                        "unasked",
                        "4:  = 1",
                        "Joined",
                        "start 4 Speculation Small after \"x = foo()\\ny = 1\"",
                    ],
                ),
                (Change(11, 0, "z"), &["cancel 4"]),
                // Typing something else is no accept.
                (Type(5, "x = foo()\nyz$0\n"), &["start 5 Auto"]),
            ],
        );
    }

    #[test]
    fn prompts_are_warmed_when_opened_and_when_idle() {
        let mut service = Service::new(Options { warm: true, ..OPTIONS });
        let now = Instant::now();
        let start = |actions: &[Action]| match actions.last() {
            Some(Action::Start(start)) => (**start).clone(),
            other => panic!("nothing starts: {other:?}"),
        };
        let place = request(&ask(0, "x = $0\n", Trigger::Automatic), Lines::Auto, 9);
        let warm = start(&service.opened("a", place));
        assert_eq!((warm.purpose, warm.window, warm.not_before), (Purpose::Warmth, Window::Small, None));
        assert_eq!((warm.request.max_tokens, warm.priority()), (0, Priority::Background));
        service.done(now, warm.job, Outcome::default());
        let answer = start(&service.ask(now, ask(1, "x = $0\n", Trigger::Automatic)));
        assert_eq!(answer.priority(), Priority::Interactive);
        let idle = start(&service.done(now, answer.job, outcome(&["y"])));
        assert_eq!((idle.window, idle.not_before), (Window::Large, Some(now + OPTIONS.idle)));
    }

    #[test]
    fn budgets_and_debounce_depend_on_who_asks_and_how() {
        let mut service = Service::new(OPTIONS);
        let mut now = Instant::now();
        let mut start = |service: &mut Service, ms: u64, trigger| {
            now += Duration::from_millis(ms);
            // Places that have nothing to do with each other.
            let document = format!("{} = $0\n", milliseconds(now.elapsed()) + ms as f64);
            let document = format!("{document}{:?}", now);
            let actions = service.ask(now, ask(0, &document, trigger));
            match actions.into_iter().find(|action| matches!(action, Action::Start(_))) {
                Some(Action::Start(start)) => (now, start),
                other => panic!("nothing starts: {other:?}"),
            }
        };
        let (now, first) = start(&mut service, 0, Trigger::Automatic);
        assert_eq!((first.not_before, first.alternatives), (None, 1));
        assert_eq!(
            first.budget,
            Budget { line_until: Some(now + OPTIONS.soft), until: Some(now + OPTIONS.hard) }
        );
        let mut waits = Vec::new();
        for ms in [50, 50, 50, 50, 50, 1000, 300] {
            let (now, next) = start(&mut service, ms, Trigger::Automatic);
            waits.push(next.not_before.map_or(0, |at| (at - now).as_millis()));
        }
        assert!(waits[..5].is_sorted() && waits[4] > 60 && waits[4] <= 75, "{waits:?}");
        assert!(waits[5] == 0 && waits[6] > 0 && waits[6] < waits[4], "{waits:?}");
        let (now, invoked) = start(&mut service, 50, Trigger::Invoked);
        assert_eq!((invoked.not_before, invoked.alternatives), (None, 3));
        assert_eq!(invoked.budget, Budget { line_until: None, until: Some(now + OPTIONS.hard) });
        let timings = Timings { prefill_ms: 5.0, decode_ms: 20.0, ..Timings::default() };
        service.done(now, invoked.job, Outcome { timings, ..outcome(&["x"]) });
        assert_eq!(start(&mut service, 50, Trigger::Automatic).1.not_before, None, "the model is fast");
    }

    #[test]
    fn old_answers_make_room() {
        let (mut service, now) = (Service::new(OPTIONS), Instant::now());
        for i in 0..CACHE_ENTRIES_MAX as u64 + 10 {
            service.ask(now, ask(i, &format!("{i} = $0\n"), Trigger::Automatic));
            service.done(now, i + 1, outcome(&["x"]));
        }
        assert_eq!(service.cache.len(), CACHE_ENTRIES_MAX);
        assert!(service.pending.is_empty());
    }

    #[test]
    fn the_cursor_is_expected_after_the_head() {
        for (text, at) in [
            (String::new(), 0),
            ("ab\n".into(), 3),
            ("é".repeat(WARM_BYTES), WARM_BYTES),
            ("é\n".repeat(WARM_BYTES), 4095),
        ] {
            assert_eq!(Service::first_cursor(&text), at);
        }
    }

    /// A typist, an editor and a model that all know the same text, in random order: everyone who asks is
    /// answered once, and an answer continues the text as soon as it comes from the place it was asked for.
    #[test]
    fn everyone_is_answered_once_whatever_happens() {
        const TEXT: &str =
            "fn add(a: u8, b: u8) -> u8 {\n    a + b\n}\n\nfn sub(a: u8, b: u8) -> u8 {\n    a - b\n}\n";
        for seed in 0..400u64 {
            let mut state = seed;
            let mut random = move |below: usize| {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                (state >> 33) as usize % below
            };
            let options = Options { speculate: seed % 2 == 0, warm: seed % 3 == 0, ..OPTIONS };
            let (mut service, mut now) = (Service::new(options), Instant::now());
            let mut open: HashMap<AskId, (String, String)> = HashMap::new();
            let mut jobs: Vec<(Start, usize)> = Vec::new();
            let (mut records, mut answers, mut sources) = (0, 0, [0; 5]);
            let mut at = 0;
            let mut asked = 0;
            for turn in 0..150 {
                now += Duration::from_millis(random(120) as u64);
                let key = ["a", "b"][usize::from(random(9) == 0)];
                let actions = match random(12) {
                    0..4 => {
                        asked += 1;
                        let (prefix, suffix) = (TEXT[..at].to_owned(), String::new());
                        let trigger = if random(6) == 0 { Trigger::Invoked } else { Trigger::Automatic };
                        open.insert(asked, (prefix.clone(), key.into()));
                        let (key, context) = (key.into(), Vec::new());
                        service.ask(now, Ask { id: asked, key, path: None, prefix, suffix, context, trigger })
                    }
                    4 => {
                        let (from, length) = (at, random(4).min(TEXT.len() - at));
                        at += length;
                        let inserted = TEXT[from..at].to_owned();
                        service.changed(now, key, &super::Change { at: from, removed: 0, inserted })
                    }
                    5 => {
                        let to = at;
                        at = at.saturating_sub(random(3));
                        let (removed, inserted) = (to - at, String::new());
                        service.changed(now, key, &super::Change { at, removed, inserted })
                    }
                    6 if random(4) == 0 => service.cancel(now, asked),
                    7 if random(12) == 0 => service.closed(now, key),
                    _ if jobs.is_empty() => Vec::new(),
                    8..10 => {
                        let i = random(jobs.len());
                        let (start, said) = &mut jobs[i];
                        let (job, from) = (start.job, start.request.prefix.len() + *said);
                        let text = &TEXT[from.min(TEXT.len())..(from + 3).min(TEXT.len())];
                        *said += text.len();
                        service.streamed(now, job, text)
                    }
                    _ => {
                        let (start, _) = jobs.swap_remove(random(jobs.len()));
                        let rest = &TEXT[start.request.prefix.len().min(TEXT.len())..];
                        let items =
                            if start.request.max_tokens == 0 { vec![] } else { vec![rest, "z", rest] };
                        let is_void = random(6) == 0;
                        let items: Vec<&str> =
                            items.into_iter().filter(|text| !text.trim().is_empty()).collect();
                        service.done(now, start.job, Outcome { is_void, ..outcome(&items) })
                    }
                };
                let is_last = turn == 149;
                let mut queue: VecDeque<Action> = actions.into();
                if is_last {
                    queue.extend(service.closed_all(now));
                }
                loop {
                    let Some(action) = queue.pop_front() else {
                        let Some((start, _)) = jobs.pop_if(|_| is_last) else { break };
                        queue.extend(service.done(now, start.job, Outcome::default()));
                        continue;
                    };
                    match action {
                        Action::Answer { id, items } => {
                            answers += 1;
                            let (prefix, _) = open.remove(&id).expect("it was asked and not yet answered");
                            let expected = &TEXT[prefix.len()..];
                            let fits = items.is_empty() || items.iter().any(|item| item.text == expected);
                            assert!(fits || items.iter().all(|item| item.text == "z"), "{items:?}");
                        }
                        Action::Record(record) => {
                            records += 1;
                            sources[record.source as usize] += 1;
                        }
                        Action::Start(start) => jobs.push((*start, 0)),
                        Action::Cancel { job } => {
                            if let Some(i) = jobs.iter().position(|(start, _)| start.job == job) {
                                jobs.swap_remove(i);
                                let void = Outcome { is_void: true, ..Outcome::default() };
                                queue.extend(service.done(now, job, void));
                            }
                        }
                        Action::Unasked { .. } | Action::Accepted { .. } | Action::Looked(_) => {}
                    }
                }
            }
            assert!(open.is_empty(), "seed {seed}: nobody answered {:?}", open.keys());
            assert_eq!((answers, records), (asked, asked), "seed {seed}");
            assert!(service.pending.is_empty() && sources[..4].iter().filter(|&&n| n > 0).count() >= 2);
        }
    }
}
