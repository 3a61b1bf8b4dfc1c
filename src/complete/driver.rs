//! Executes the actions of [`super::service`]: makes prompts, runs them on the engine, and answers.
//!
//! Events are processed by the threads that bring them, one after the other (`handover`).

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak, mpsc};
use std::time::Instant;

use anyhow::{Context, Result};

use super::edit::Change;
use super::handover::Handover;
use super::options::{self, Window};
use super::plan::Planner;
use super::record::Record;
use super::request::{Completion, Document, Request};
use super::rules::judge;
use super::service::{self, Action, EditorRequest, Item, JobId, Outcome, Purpose, RequestId, Service, Start};
use super::stats::{self, Observer, Statistics, Stats};
use crate::base::Cancel;
use crate::decode::{Generated, StopReason, Task};
use crate::serve::{self, Engine, Plan, PlanInput, Priority};
use crate::text::language::Language;

/// Options of completion.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Options {
    pub prompt: options::Options,
    pub service: service::Options,
}

/// Called once with the answer to a request, empty where there is nothing to show. Must not block.
pub type Reply = Box<dyn FnOnce(Vec<Item>) + Send>;

/// The completions of one editor. Dropping it answers all pending requests and cancels all generations.
pub struct Completer {
    shared: Arc<Shared>,
}

struct Shared {
    /// Makes keys unique among the editors of an engine.
    editor: u64,
    asks: AtomicU64,
    events: Handover<(Instant, Event), State>,
    stats: Mutex<Stats>,
    /// Counters over all editors.
    total: stats::Shared,
    observer: Option<Observer>,
}

struct State {
    engine: Engine,
    options: Options,
    service: Service,
    /// Shared with the engine's thread, which plans requests when they are scheduled.
    planner: Arc<Mutex<Planner>>,
    /// With the language of the document.
    replies: HashMap<RequestId, (Reply, &'static str)>,
    jobs: HashMap<JobId, Running>,
}

/// A generation in flight.
struct Running {
    request: Request,
    /// Set when its prompt is planned.
    prompt_tokens: Arc<OnceLock<usize>>,
    cancel: Cancel,
}

enum Event {
    EditorRequest(EditorRequest, Reply),
    Cancel(RequestId),
    Changed(String, Change),
    Replaced(String),
    Opened(String, Arc<Document>),
    Closed(String),
    ClosedAll,
    Configured(Box<(Engine, Options)>),
    Streamed(JobId, String),
    Done(JobId, Result<Vec<Generated>>),
}

/// Numbers the editors of this process.
static EDITORS: AtomicU64 = AtomicU64::new(0);

impl Completer {
    /// Completes on `engine`, and counts also in `total`; `observer` is called for every request, on any thread.
    pub fn new(engine: Engine, options: Options, total: stats::Shared, observer: Option<Observer>) -> Self {
        let shared = Shared {
            editor: EDITORS.fetch_add(1, Ordering::Relaxed),
            asks: AtomicU64::new(0),
            events: Handover::new(State::new(engine, options)),
            stats: Mutex::default(),
            total,
            observer,
        };
        Self { shared: Arc::new(shared) }
    }

    /// An identifier for the next request.
    pub fn next_id(&self) -> RequestId {
        self.shared.asks.fetch_add(1, Ordering::Relaxed)
    }

    /// Requests a completion. `reply` is called at once or from the engine's thread.
    pub fn request(&self, editor_request: EditorRequest, reply: Reply) {
        self.shared.note(Event::EditorRequest(editor_request, reply));
    }

    /// Cancels a request, which is answered with an empty list.
    pub fn cancel(&self, id: RequestId) {
        self.shared.note(Event::Cancel(id));
    }

    /// Handles a change of a document.
    pub fn changed(&self, key: &str, change: Change) {
        self.shared.note(Event::Changed(key.to_owned(), change));
    }

    /// Handles the replacement of a document's whole text.
    pub fn replaced(&self, key: &str) {
        self.shared.note(Event::Replaced(key.to_owned()));
    }

    /// Prewarms a document that was opened or has the focus, at the cursor of `document`.
    pub fn opened(&self, key: &str, document: Document) {
        self.shared.note(Event::Opened(key.to_owned(), document.into()));
    }

    /// Forgets a document.
    pub fn closed(&self, key: &str) {
        self.shared.note(Event::Closed(key.to_owned()));
    }

    /// Forgets all documents.
    pub fn closed_all(&self) {
        self.shared.note(Event::ClosedAll);
    }

    /// Replaces the engine and the options. Pending requests are answered with an empty list.
    pub fn configure(&self, engine: Engine, options: Options) {
        self.shared.note(Event::Configured(Box::new((engine, options))));
    }

    /// Whether a request is in flight.
    pub fn is_busy(&self) -> bool {
        let is_pending = |state: &State| !state.replies.is_empty();
        // Another thread that holds the state is processing an event.
        self.shared.events.peek(is_pending, |state, event| self.shared.process(state, event)).unwrap_or(true)
    }

    /// Counts a shown suggestion.
    pub fn shown(&self) {
        self.shared.count(Stats::shown);
    }

    /// Counts a partially accepted suggestion.
    pub fn partially_accepted(&self) {
        self.shared.count(Stats::partially_accepted);
    }

    pub fn statistics(&self) -> Statistics {
        stats(&self.shared.stats).statistics()
    }
}

impl Drop for Completer {
    fn drop(&mut self) {
        self.closed_all();
    }
}

/// Completes one request and waits for it, or until it is cancelled.
pub fn once(
    engine: &Engine,
    options: options::Options,
    request: Request,
    cancel: &Cancel,
) -> Result<Option<Completion>> {
    let options = options.for_model(engine.tokenizer());
    let (planned_request, mut planner) = (request.clone(), Planner::new(options));
    let (send, receive) = mpsc::channel();
    engine.submit(serve::Request {
        key: "once".into(),
        priority: Priority::Interactive,
        not_before: None,
        task: Plan::lazy(move |input| plan(&mut planner, "once", &planned_request, Window::Large, input)),
        cancel: cancel.clone(),
        listener: Box::new(move |event| {
            if let serve::Event::Done(result) = event {
                let _ = send.send(result);
            }
        }),
    });
    let generated = receive.recv().context("the engine has stopped")??;
    Ok(generated.into_iter().find_map(|generated| judge(&request, generated, &options).ok()))
}

fn plan(
    planner: &mut Planner,
    key: &str,
    request: &Request,
    window: Window,
    input: &PlanInput,
) -> Result<Task> {
    let PlanInput { tokenizer, context_tokens, prefill_per_second } = *input;
    Ok(planner.plan(key, request, window, tokenizer, context_tokens, prefill_per_second)?.task)
}

impl Shared {
    fn note(self: &Arc<Self>, event: Event) {
        self.events.send((Instant::now(), event), |state, event| self.process(state, event));
    }

    fn process(self: &Arc<Self>, state: &mut State, (now, event): (Instant, Event)) {
        let act = || state.handle(self, now, event);
        if catch_unwind(AssertUnwindSafe(act)).is_err() {
            // Dropping a reply answers its request.
            state.jobs.values().for_each(|running| running.cancel.cancel());
            let service = state.service.reset();
            *state = State { service, ..State::new(state.engine.clone(), state.options) };
        }
    }

    fn count(&self, happened: impl Fn(&mut Stats)) {
        happened(&mut stats(&self.stats));
        happened(&mut stats(&self.total));
    }

    fn record(&self, record: &Record) {
        self.count(|stats| stats.record(record));
        tracing::info!(
            source = ?record.source,
            cancelled = record.is_cancelled,
            shown_chars = record.shown_chars,
            prompt_tokens = record.prompt_tokens,
            reused = record.synced.reused,
            evaluated = record.synced.evaluated,
            replayed = record.synced.replayed,
            decode_tokens = record.decode_tokens,
            queue_ms = record.queue_ms,
            prefill_ms = record.prefill_ms,
            first_token_ms = record.first_token_ms,
            total_ms = record.total_ms,
            "request"
        );
        if let Some(observer) = &self.observer {
            observer(record);
        }
    }
}

/// The language of a document by its name.
fn language(key: &str) -> &'static str {
    Language::of_path(Some(key)).name
}

/// After a panic the planner has lost that document only.
fn planner(shared: &Mutex<Planner>) -> MutexGuard<'_, Planner> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

fn stats(shared: &Mutex<Stats>) -> MutexGuard<'_, Stats> {
    shared.lock().expect("lock poisoned")
}

impl State {
    fn new(engine: Engine, options: Options) -> Self {
        let prompt = options.prompt.for_model(engine.tokenizer());
        Self {
            engine,
            options: Options { prompt, ..options },
            service: Service::new(options.service),
            planner: Arc::new(Mutex::new(Planner::new(prompt))),
            replies: HashMap::new(),
            jobs: HashMap::new(),
        }
    }

    fn handle(&mut self, shared: &Arc<Shared>, now: Instant, event: Event) {
        let actions = match event {
            Event::EditorRequest(editor_request, reply) => {
                let language = language(&editor_request.key);
                self.replies.insert(editor_request.id, (reply, language));
                self.service.request(now, editor_request)
            }
            Event::Cancel(id) => self.service.cancel(now, id),
            Event::Changed(key, change) => self.service.changed(now, &key, &change),
            Event::Replaced(key) => self.service.replaced(now, &key),
            Event::Opened(key, document) => self.service.opened(&key, document),
            Event::Closed(key) => {
                planner(&self.planner).forget(&key);
                self.service.closed(now, &key)
            }
            Event::ClosedAll => self.service.closed_all(now),
            Event::Configured(new) => {
                let answers = self.service.closed_all(now);
                let (engine, options) = *new;
                self.service.reconfigure(options.service);
                let Self { engine, options, planner, .. } = Self::new(engine, options);
                (self.engine, self.options, self.planner) = (engine, options, planner);
                answers
            }
            Event::Streamed(job, text) => self.service.streamed(now, job, &text),
            Event::Done(job, result) => {
                let Some(running) = self.jobs.remove(&job) else { return };
                let outcome = self.outcome(&running, result);
                self.service.done(now, job, outcome)
            }
        };
        // Count before answering.
        let (records, rest): (Vec<_>, Vec<_>) =
            actions.into_iter().partition(|action| matches!(action, Action::Record(_)));
        for action in records.into_iter().chain(rest) {
            self.act(shared, action);
        }
    }

    fn act(&mut self, shared: &Arc<Shared>, action: Action) {
        match action {
            Action::Answer { id, items } => {
                if let Some((reply, language)) = self.replies.remove(&id) {
                    if !items.is_empty() {
                        shared.count(|stats| stats.offered(language));
                    }
                    reply(items);
                }
            }
            Action::Record(record) => shared.record(&record),
            Action::Background { evaluated, generated } => {
                shared.count(|stats| stats.background(evaluated, generated))
            }
            Action::Retention(sample) => shared.count(|stats| stats.retention(&sample)),
            Action::Accepted { key, chars } => shared.count(|stats| stats.accepted(language(&key), chars)),
            Action::Cancel { job } => {
                if let Some(running) = self.jobs.get(&job) {
                    running.cancel.cancel();
                }
            }
            Action::Start(start) => self.start(shared, *start),
        }
    }

    fn start(&mut self, shared: &Arc<Shared>, start: Start) {
        let (priority, not_before, job) = (start.priority(), start.not_before, start.job);
        let (prompt_tokens, cancel) = (Arc::new(OnceLock::new()), Cancel::new());
        self.jobs.insert(
            job,
            Running {
                request: start.request.clone(),
                prompt_tokens: prompt_tokens.clone(),
                cancel: cancel.clone(),
            },
        );
        let purpose = match start.purpose {
            Purpose::Answer => "answer",
            Purpose::Speculation => "speculation",
            Purpose::Prewarm => "prewarm",
        };
        let key = format!("{}/{purpose}/{}", shared.editor, start.key);
        // Weak: the engine does not keep its users alive.
        let shared_weak: Weak<Shared> = Arc::downgrade(shared);
        let is_answer = start.purpose == Purpose::Answer;
        let listener = Box::new(move |event: serve::Event| {
            let event = match event {
                serve::Event::Text(_) if !is_answer => return,
                serve::Event::Text(text) => Event::Streamed(job, text.to_owned()),
                serve::Event::Done(result) => Event::Done(job, result),
            };
            if let Some(shared) = shared_weak.upgrade() {
                shared.note(event);
            }
        });
        let shared_planner = self.planner.clone();
        let task = Plan::lazy(move |input| {
            let Start { key, request, window, budget, alternatives, .. } = start;
            let task = plan(&mut planner(&shared_planner), &key, &request, window, input)?;
            let _ = prompt_tokens.set(task.prompt.len());
            Ok(Task { budget, alternatives, ..task })
        });
        self.engine.submit(serve::Request { key, priority, not_before, task, cancel, listener });
    }

    /// Judges the alternatives; the measurements are those of the likeliest.
    fn outcome(&self, running: &Running, result: Result<Vec<Generated>>) -> Outcome {
        let generated = result.unwrap_or_else(|error| {
            tracing::error!("a completion failed: {error:#}");
            Vec::new()
        });
        let Some(first) = generated.first() else {
            return Outcome { is_cancelled_or_failed: true, ..Outcome::default() };
        };
        let (stop, synced, mut timings) = (first.stop, first.synced, first.timings);
        timings.decode_tokens = generated.iter().map(|generated| generated.ids.len()).sum();
        let finish = |generated| judge(&running.request, generated, &self.options.prompt).ok();
        let completions = generated.into_iter().filter_map(finish);
        Outcome {
            items: completions.map(|completion| Item { text: completion.text }).collect(),
            is_partial: stop == StopReason::Time,
            is_cancelled_or_failed: stop == StopReason::Cancelled,
            prompt_tokens: running.prompt_tokens.get().copied().unwrap_or_default(),
            synced,
            timings,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;
    use std::thread;
    use std::time::Duration;

    use super::super::fim::Order;
    use super::super::service::Trigger;
    use super::*;
    use crate::model::tokenizer::tests::tiny_fim;

    /// Longer than anything takes that does not hang.
    const PATIENCE: Duration = Duration::from_secs(60);

    const SERVICE: service::Options = service::Options {
        debounce_max: Duration::ZERO,
        soft: PATIENCE,
        hard: PATIENCE,
        auto_tokens_max: 8,
        invoked_tokens_max: 8,
        alternatives: 1,
        speculate: false,
        prewarm: false,
        idle: Duration::ZERO,
    };

    /// An engine that ends each task at once after a message on the channel.
    fn engine() -> (Engine, mpsc::Sender<()>) {
        let (release, released) = mpsc::channel();
        let released = Mutex::new(released);
        let engine = Engine::remote(Arc::new(tiny_fim()), 4096, 1, move |_, _, _| {
            let _ = released.lock().unwrap().recv();
            Ok(vec![Generated::empty(StopReason::EndToken)])
        });
        (engine, release)
    }

    fn completer(engine: Engine, observer: Option<Observer>) -> Completer {
        let options = Options { prompt: options::Options::new(Order::PsmAnchored), service: SERVICE };
        Completer::new(engine, options, stats::Shared::default(), observer)
    }

    fn editor_request(
        completer: &Completer,
        key: &str,
        prefix: &str,
        suffix: &str,
    ) -> mpsc::Receiver<Vec<Item>> {
        let (send, receive) = mpsc::channel();
        let document = Arc::new(Document::new(None, prefix, suffix));
        let (id, trigger) = (completer.next_id(), Trigger::Automatic);
        let reply = Box::new(move |items| drop(send.send(items)));
        completer.request(EditorRequest { id, key: key.into(), document, trigger }, reply);
        receive
    }

    #[test]
    fn what_is_typed_over_is_never_tokenised() {
        let records = Arc::new(Mutex::new(Vec::new()));
        let observed = records.clone();
        let observer = move |record: &Record| observed.lock().unwrap().push(*record);
        let (engine, release) = engine();
        let completer = completer(engine, Some(Arc::new(observer)));
        let busy = editor_request(&completer, "busy", "x = ", "\n");
        let typed: Vec<_> =
            (0..30).map(|line| editor_request(&completer, "a", &format!("{line} = "), "\n")).collect();
        (0..2).for_each(|_| release.send(()).unwrap());
        for reply in typed.iter().chain([&busy]) {
            assert_eq!(reply.recv_timeout(PATIENCE).unwrap(), []);
        }
        let records = records.lock().unwrap();
        let tokenised: Vec<bool> = records
            .iter()
            .filter(|record| record.prompt_tokens > 0)
            .map(|record| record.is_cancelled)
            .collect();
        assert_eq!((records.len(), tokenised), (31, vec![false, false]));
    }

    #[test]
    fn events_queued_while_the_state_is_locked_are_processed() {
        let (engine, _release) = engine();
        let (completer, is_over) = (completer(engine, None), AtomicBool::new(false));
        thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    completer.is_busy();
                }
            });
            for _ in 0..2000 {
                // Nothing is offered in the middle of a line.
                let reply = editor_request(&completer, "a", "x", "y\n").recv_timeout(PATIENCE);
                if reply.is_err() {
                    is_over.store(true, Ordering::Relaxed);
                }
                assert_eq!(reply, Ok(Vec::new()));
            }
            is_over.store(true, Ordering::Relaxed);
        });
    }
}
