//! The thread that owns the model, or those that ask a server for it. Requests are submitted from any thread and answered
//! by callbacks. `queue` schedules them.

mod plan;
mod queue;
mod reopen;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use serde::{Deserialize, Serialize};

use crate::base::Cancel;
use crate::base::timings::milliseconds;
use crate::compute::Backend;
use crate::decode::drafts::DraftCost;
use crate::decode::{self, Generated, StopReason, Task};
use crate::model::Tokenizer;
use crate::session::{DeviceFailure, Session, Usage};
use queue::{Ending, Entry, Next, Queue, RunId};
use reopen::{Attempt, Reopening};

pub use plan::{Plan, PlanInput};
pub use reopen::Reopen;

/// A newer request of higher priority pre-empts a running one between two tokens; that one resumes afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    /// Speculation, prewarming and hovers.
    Background,
    /// Explicit requests for long answers.
    Standard,
    /// Completions while the user types.
    Interactive,
}

/// Progress of a request.
pub enum Event<'a> {
    /// More text, before any stop rule cuts it.
    Text(&'a str),
    /// The alternatives, at least one, the likeliest first. Sent exactly once, last.
    Done(Result<Vec<Generated>>),
}

/// Called on the engine thread, or on the one that submits a superseding request.
pub type Listener = Box<dyn FnMut(Event) + Send>;

/// A request for a generation; `T` is a [`Task`], or a [`Plan`] of one.
pub struct Request<T = Task> {
    /// Usually a document: a newer request with the same key and priority supersedes an older one.
    pub key: String,
    pub priority: Priority,
    /// The end of its debounce.
    pub not_before: Option<Instant>,
    /// What to generate.
    pub task: T,
    /// Set by the caller when the answer is no longer needed.
    pub cancel: Cancel,
    /// Receives the result. Every request is answered, cancelled ones included.
    pub listener: Listener,
}

impl<T> Request<T> {
    /// Replaces the task, and returns the old one.
    fn with<U>(self, task: U) -> (Request<U>, T) {
        let Self { key, priority, not_before, task: old, cancel, listener } = self;
        (Request { key, priority, not_before, task, cancel, listener }, old)
    }
}

/// A handle on the engine's threads. Clones share it; they end when the last one is dropped.
#[derive(Clone)]
pub struct Engine {
    shared: Arc<Handle>,
}

struct Handle {
    inbox: Arc<Inbox>,
    tokenizer: Arc<Tokenizer>,
    context: usize,
}

struct Inbox {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    queue: Queue<QueuedRequest>,
    prefill: Speed,
    decode: Speed,
    usage: Usage,
    is_resting: bool,
    closed: bool,
}

/// Measurements of an engine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Gauge {
    /// Prompt tokens evaluated per second, a moving average.
    pub prefill_per_second: Option<f64>,
    /// Tokens generated per second, a moving average.
    pub decode_per_second: Option<f64>,
    /// Memory of the prefix cache.
    #[serde(flatten)]
    pub usage: Usage,
    /// Whether the memory of its device was given back until something is asked.
    #[serde(default)]
    pub is_resting: bool,
}

/// The context of an error with which a remote backend refuses a task beside others that it works on. The task is run
/// again when fewer run.
#[derive(Debug)]
pub struct Refused;

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("refused beside other requests")
    }
}

/// What an engine's thread runs tasks with.
trait Worker {
    fn run(&mut self, request: &mut Request, cancel: &Cancel) -> (Result<Vec<Generated>>, Usage);

    /// Gives back what can be taken again; returns whether it did.
    fn rest(&mut self) -> bool {
        false
    }
}

/// A session, and what it is used with.
struct Local<B: Backend, R> {
    sessions: Reopening<B, R>,
    tokenizer: Arc<Tokenizer>,
    draft_cost: DraftCost,
}

impl<B: Backend, R: FnMut(Reopen) -> Result<Session<B>>> Worker for Local<B, R> {
    fn run(&mut self, request: &mut Request, cancel: &Cancel) -> (Result<Vec<Generated>>, Usage) {
        let Self { sessions, tokenizer, draft_cost } = self;
        let result = sessions.with(|session| serve(session, tokenizer, draft_cost, request, cancel));
        (result, sessions.usage())
    }

    fn rest(&mut self) -> bool {
        self.sessions.rest()
    }
}

/// A remote backend, which does the work.
struct OnServer<W>(Arc<W>);

impl<W: Fn(&Task, &Cancel, &mut dyn FnMut(&str)) -> Result<Vec<Generated>>> Worker for OnServer<W> {
    fn run(&mut self, request: &mut Request, cancel: &Cancel) -> (Result<Vec<Generated>>, Usage) {
        let result = run(request, |task, show| (self.0)(task, cancel, show));
        (result.unwrap_or_else(|| Err(failed())), Usage::default())
    }
}

struct QueuedRequest {
    request: Request<Plan>,
    queued_at: Instant,
}

/// What a thread of an engine does next.
enum Turn {
    Run(RunId, QueuedRequest, Cancel),
    /// Nothing was asked for long.
    Rest,
}

/// Tokens per second, a moving average.
#[derive(Clone, Copy, Default)]
struct Speed(Option<f64>);

impl Speed {
    /// Shorter prompts measure overhead rather than speed.
    const PREFILL_TOKENS_MIN: usize = 32;
    /// The same for generated tokens, each of which takes a pass.
    const DECODE_TOKENS_MIN: usize = 4;
    /// The weight of a new measurement.
    const WEIGHT: f64 = 0.3;

    fn note(&mut self, tokens: usize, tokens_min: usize, ms: f64) {
        if tokens >= tokens_min && ms > 0.0 {
            let now = tokens as f64 / ms * 1e3;
            self.0 = Some(self.0.map_or(now, |before| before + Self::WEIGHT * (now - before)));
        }
    }
}

impl Engine {
    /// Moves `session` to a thread of its own, which serves requests until the handle is dropped. After a failure
    /// of its device, `reopen` opens another one.
    pub fn start<B>(
        session: Session<B>,
        tokenizer: Tokenizer,
        mut reopen: impl FnMut() -> Result<Session<B>> + Send + 'static,
    ) -> Self
    where
        B: Backend + Send + 'static,
        Session<B>: Send,
    {
        Self::start_resting(session, tokenizer, None, move |_| reopen())
    }

    /// The same; after `rest_after` without a request the session is dropped, with all memory of its device, and `reopen`
    /// opens another one for the next request.
    pub fn start_resting<B>(
        session: Session<B>,
        tokenizer: Tokenizer,
        rest_after: Option<Duration>,
        reopen: impl FnMut(Reopen) -> Result<Session<B>> + Send + 'static,
    ) -> Self
    where
        B: Backend + Send + 'static,
        Session<B>: Send,
    {
        let (tokenizer, context) = (Arc::new(tokenizer), session.context());
        let sessions = Reopening::new(session, reopen);
        let worker = Local { sessions, tokenizer: tokenizer.clone(), draft_cost: DraftCost::default() };
        Self::start_with(tokenizer, context, rest_after, vec![worker])
    }

    /// An engine whose tasks run on a remote backend, `requests_max` at once at most: `work` is called on a thread of the
    /// engine for each task, with its cancel flag and a callback for new text. It may refuse one, see [`Refused`].
    pub fn remote(
        tokenizer: Arc<Tokenizer>,
        context: usize,
        requests_max: usize,
        work: impl Fn(&Task, &Cancel, &mut dyn FnMut(&str)) -> Result<Vec<Generated>> + Send + Sync + 'static,
    ) -> Self {
        let work = Arc::new(work);
        let workers = (0..requests_max).map(|_| OnServer(work.clone())).collect();
        Self::start_with(tokenizer, context, None, workers)
    }

    /// Starts a thread for each of `workers`.
    fn start_with(
        tokenizer: Arc<Tokenizer>,
        context: usize,
        rest_after: Option<Duration>,
        workers: Vec<impl Worker + Send + 'static>,
    ) -> Self {
        let inbox = Arc::new(Inbox::new(workers.len()));
        for mut worker in workers {
            let (inbox, tokenizer) = (inbox.clone(), tokenizer.clone());
            let serve = move || {
                let mut rest_at = rest_after.map(|after| Instant::now() + after);
                while let Some(turn) = inbox.next(rest_at) {
                    match turn {
                        Turn::Run(id, queued, cancel) => {
                            let input = inbox.plan_input(&tokenizer, context);
                            inbox.run(&mut worker, &input, id, queued, &cancel);
                            rest_at = rest_after.map(|after| Instant::now() + after);
                        }
                        Turn::Rest => {
                            rest_at = None;
                            inbox.rest(&mut worker);
                        }
                    }
                }
            };
            thread::Builder::new()
                .name("fimd-engine".into())
                .spawn(serve)
                .expect("the system can start a thread");
        }
        Self { shared: Arc::new(Handle { inbox, tokenizer, context }) }
    }

    /// Queues a request, which supersedes older ones with the same key and priority.
    pub fn submit(&self, request: Request<impl Into<Plan>>) {
        let inbox = &self.shared.inbox;
        let (mut request, task) = request.with(());
        let mut plan = task.into();
        let mut state = inbox.lock();
        if plan.prompt().is_empty() && state.queue.needs_prompt(&request.key, request.priority) {
            drop(state);
            match plan.make(&inbox.plan_input(self.tokenizer(), self.context())) {
                Ok(task) => plan = task.into(),
                Err(error) => return answer(&mut request.listener, Err(error)),
            }
            state = inbox.lock();
        }
        let (request, ()) = request.with(plan);
        let superseded = state.queue.push(Entry {
            key: request.key.clone(),
            priority: request.priority,
            not_before: request.not_before,
            prompt: request.task.prompt().to_vec(),
            cancel: request.cancel.clone(),
            work: QueuedRequest { request, queued_at: Instant::now() },
        });
        drop(state);
        inbox.changed.notify_all();
        if let Some(mut superseded) = superseded {
            answer(&mut superseded.request.listener, Ok(vec![Generated::empty(StopReason::Cancelled)]));
        }
    }

    /// The tokenizer of the model being served.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.shared.tokenizer
    }

    /// Most tokens of a prompt and its completion together.
    pub fn context(&self) -> usize {
        self.shared.context
    }

    /// Prompt tokens evaluated per second, a moving average; `None` before the first prompt of some length.
    pub fn prefill_per_second(&self) -> Option<f64> {
        self.shared.inbox.lock().prefill.0
    }

    pub fn gauge(&self) -> Gauge {
        let state = self.shared.inbox.lock();
        Gauge {
            prefill_per_second: state.prefill.0,
            decode_per_second: state.decode.0,
            usage: state.usage,
            is_resting: state.is_resting,
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let mut state = self.inbox.lock();
        state.closed = true;
        state.queue.cancel_all();
        self.inbox.changed.notify_all();
    }
}

impl Inbox {
    /// Of which `running_max` requests may run at once.
    fn new(running_max: usize) -> Self {
        let state = State {
            queue: Queue::new(running_max),
            prefill: Speed::default(),
            decode: Speed::default(),
            usage: Usage::default(),
            is_resting: false,
            closed: false,
        };
        Self { state: state.into(), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("lock poisoned")
    }

    /// What to do next, or to rest where nothing is asked until `rest_at`.
    fn next(&self, rest_at: Option<Instant>) -> Option<Turn> {
        let mut state = self.lock();
        loop {
            let now = Instant::now();
            let until = match state.queue.next(now) {
                Next::Run(id, queued, cancel) => return Some(Turn::Run(id, queued, cancel)),
                Next::Nothing if state.closed => return None,
                Next::Nothing if rest_at.is_some_and(|at| at <= now) => return Some(Turn::Rest),
                Next::Nothing => rest_at,
                Next::Wait(until) => Some(until),
            };
            state = match until {
                Some(until) => {
                    let waited = self.changed.wait_timeout(state, until.saturating_duration_since(now));
                    waited.expect("lock poisoned").0
                }
                None => self.changed.wait(state).expect("lock poisoned"),
            };
        }
    }

    fn rest(&self, worker: &mut impl Worker) {
        if worker.rest() {
            tracing::info!(
                "nothing was asked for a while: the memory of the GPU is given back until the next request"
            );
            let mut state = self.lock();
            (state.is_resting, state.usage) = (true, Usage::default());
        }
    }

    fn plan_input<'a>(&self, tokenizer: &'a Tokenizer, context_tokens: usize) -> PlanInput<'a> {
        PlanInput { tokenizer, context_tokens, prefill_per_second: self.lock().prefill.0 }
    }

    fn run(
        &self,
        worker: &mut impl Worker,
        input: &PlanInput,
        id: RunId,
        QueuedRequest { request, queued_at }: QueuedRequest,
        cancel: &Cancel,
    ) {
        let queue_ms = milliseconds(queued_at.elapsed());
        let (mut request, plan) = request.with(());
        let task = match plan.make(input) {
            Ok(task) => task,
            Err(error) => {
                self.lock().queue.discard(id);
                return answer(&mut request.listener, Err(error));
            }
        };
        self.lock().queue.set_prompt(id, &task.prompt);
        let (mut request, ()) = request.with(task);
        let (mut result, usage) = worker.run(&mut request, cancel);
        for generated in result.iter_mut().flatten() {
            generated.timings.queue_ms = queue_ms;
        }
        let mut state = self.lock();
        if let Ok([first, ..]) = result.as_deref() {
            let timings = first.timings;
            state.prefill.note(timings.prefill_tokens, Speed::PREFILL_TOKENS_MIN, timings.prefill_ms);
            state.decode.note(timings.decode_tokens, Speed::DECODE_TOKENS_MIN, timings.decode_ms);
        }
        (state.usage, state.is_resting) = (usage, false);
        let is_unfinished = result.iter().flatten().any(|done| done.stop == StopReason::Cancelled);
        let ending = match &result {
            _ if state.closed => Ending::Done,
            Err(error) if error.is::<Refused>() => Ending::Refused,
            _ if is_unfinished => Ending::Stopped,
            _ => Ending::Done,
        };
        if let Ok([only]) = result.as_deref() {
            request.task.resume_after(only);
        }
        let ended = {
            let (request, task) = request.with(());
            let queued = QueuedRequest { request: request.with(task.into()).0, queued_at };
            state.queue.finish(id, queued, ending, Instant::now())
        };
        drop(state);
        if ending == Ending::Refused {
            result = Ok(vec![Generated::empty(StopReason::Cancelled)]);
        }
        if let Some(mut queued) = ended {
            answer(&mut queued.request.listener, result);
        }
    }
}

/// A panic of the listener is reported by the panic hook and otherwise ignored.
fn answer(listener: &mut Listener, result: Result<Vec<Generated>>) {
    let _ = catch_unwind(AssertUnwindSafe(|| listener(Event::Done(result))));
}

/// A panic ends this request and empties the prefix cache, but does not end the engine.
fn serve<B: Backend>(
    session: &mut Session<B>,
    tokenizer: &Tokenizer,
    draft_cost: &mut DraftCost,
    request: &mut Request,
    cancel: &Cancel,
) -> Attempt<Vec<Generated>> {
    let mut may_repeat = true;
    let result = run(request, |task, show| {
        let mut show = |text: &str| {
            may_repeat &= text.is_empty();
            show(text);
        };
        decode::alternatives(session, Some(tokenizer), task, draft_cost, cancel, &mut show)
    });
    let Some(result) = result else {
        let reset = catch_unwind(AssertUnwindSafe(|| session.reset()));
        let error = if reset.is_ok() { failed() } else { failed().context(DeviceFailure) };
        return Attempt { result: Err(error), may_repeat: false };
    };
    Attempt { result, may_repeat }
}

/// Runs the task of a request; `None` on a panic.
fn run(
    request: &mut Request,
    work: impl FnOnce(&Task, &mut dyn FnMut(&str)) -> Result<Vec<Generated>>,
) -> Option<Result<Vec<Generated>>> {
    let Request { task, listener, .. } = request;
    let mut show = |text: &str| {
        if !text.is_empty() {
            listener(Event::Text(text));
        }
    };
    catch_unwind(AssertUnwindSafe(|| work(task, &mut show))).ok()
}

fn failed() -> anyhow::Error {
    anyhow!("the engine failed on this request; other requests are not affected")
}
