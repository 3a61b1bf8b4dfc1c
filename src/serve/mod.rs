//! The thread that owns the model. Requests are submitted from any thread and answered by callbacks. `queue` schedules
//! them.

mod plan;
mod queue;
mod reopen;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::Instant;

use anyhow::{Result, anyhow};
use serde::{Deserialize, Serialize};

use crate::base::Cancel;
use crate::base::timings::milliseconds;
use crate::compute::Backend;
use crate::decode::drafts::DraftCost;
use crate::decode::{self, Generated, StopReason, Task};
use crate::model::Tokenizer;
use crate::session::{DeviceFailure, Session, Usage};
use queue::{Entry, Next, Queue};
use reopen::{Attempt, Reopening};

pub use plan::{Plan, PlanInput};

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

/// A handle on the engine thread. Clones share it; the thread ends when the last one is dropped.
#[derive(Clone)]
pub struct Engine {
    shared: Arc<Handle>,
}

struct Handle {
    inbox: Arc<Inbox>,
    tokenizer: Arc<Tokenizer>,
    context: usize,
}

#[derive(Default)]
struct Inbox {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    queue: Queue<QueuedRequest>,
    prefill: Speed,
    decode: Speed,
    usage: Usage,
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
}

struct QueuedRequest {
    request: Request<Plan>,
    queued_at: Instant,
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
        reopen: impl FnMut() -> Result<Session<B>> + Send + 'static,
    ) -> Self
    where
        B: Backend + Send + 'static,
        Session<B>: Send,
    {
        let tokenizer = Arc::new(tokenizer);
        let (context, tokenizer_copy, mut draft_cost) =
            (session.context(), tokenizer.clone(), DraftCost::default());
        let mut sessions = Reopening::new(session, reopen);
        Self::start_with(tokenizer, context, move |request, cancel| {
            let result =
                sessions.with(|session| serve(session, &tokenizer_copy, &mut draft_cost, request, cancel));
            (result, sessions.usage())
        })
    }

    /// An engine whose tasks run on a remote backend: `work` is called on the engine's thread for one task at a time, with its
    /// cancel flag and a callback for new text.
    pub fn remote(
        tokenizer: Arc<Tokenizer>,
        context: usize,
        mut work: impl FnMut(&Task, &Cancel, &mut dyn FnMut(&str)) -> Result<Vec<Generated>> + Send + 'static,
    ) -> Self {
        Self::start_with(tokenizer, context, move |request, cancel| {
            let result = run(request, |task, show| work(task, cancel, show));
            (result.unwrap_or_else(|| Err(failed())), Usage::default())
        })
    }

    fn start_with(
        tokenizer: Arc<Tokenizer>,
        context: usize,
        mut work: impl FnMut(&mut Request, &Cancel) -> (Result<Vec<Generated>>, Usage) + Send + 'static,
    ) -> Self {
        let inbox = Arc::new(Inbox::default());
        let (for_thread, tokenizer_copy) = (inbox.clone(), tokenizer.clone());
        thread::Builder::new()
            .name("fimd-engine".into())
            .spawn(move || {
                while let Some((queued, cancel)) = for_thread.next() {
                    let input = for_thread.plan_input(&tokenizer_copy, context);
                    for_thread.run(&mut work, &input, queued, &cancel);
                }
            })
            .expect("the system can start a thread");
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
        inbox.changed.notify_one();
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
        Gauge { prefill_per_second: state.prefill.0, decode_per_second: state.decode.0, usage: state.usage }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let mut state = self.inbox.lock();
        state.closed = true;
        state.queue.cancel_all();
        self.inbox.changed.notify_one();
    }
}

impl Inbox {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("lock poisoned")
    }

    fn next(&self) -> Option<(QueuedRequest, Cancel)> {
        let mut state = self.lock();
        loop {
            let now = Instant::now();
            state = match state.queue.next(now) {
                Next::Run(queued, cancel) => return Some((queued, cancel)),
                Next::Nothing if state.closed => return None,
                Next::Nothing => self.changed.wait(state).expect("lock poisoned"),
                Next::Wait(until) => {
                    let waited = self.changed.wait_timeout(state, until.saturating_duration_since(now));
                    waited.expect("lock poisoned").0
                }
            };
        }
    }

    fn plan_input<'a>(&self, tokenizer: &'a Tokenizer, context_tokens: usize) -> PlanInput<'a> {
        PlanInput { tokenizer, context_tokens, prefill_per_second: self.lock().prefill.0 }
    }

    fn run(
        &self,
        work: &mut impl FnMut(&mut Request, &Cancel) -> (Result<Vec<Generated>>, Usage),
        input: &PlanInput,
        QueuedRequest { request, queued_at }: QueuedRequest,
        cancel: &Cancel,
    ) {
        let queue_ms = milliseconds(queued_at.elapsed());
        let (mut request, plan) = request.with(());
        let task = match plan.make(input) {
            Ok(task) => task,
            Err(error) => {
                self.lock().queue.discard();
                return answer(&mut request.listener, Err(error));
            }
        };
        self.lock().queue.set_prompt(&task.prompt);
        let (mut request, ()) = request.with(task);
        let (mut result, usage) = work(&mut request, cancel);
        for generated in result.iter_mut().flatten() {
            generated.timings.queue_ms = queue_ms;
        }
        let mut state = self.lock();
        if let Ok([first, ..]) = result.as_deref() {
            let timings = first.timings;
            state.prefill.note(timings.prefill_tokens, Speed::PREFILL_TOKENS_MIN, timings.prefill_ms);
            state.decode.note(timings.decode_tokens, Speed::DECODE_TOKENS_MIN, timings.decode_ms);
        }
        state.usage = usage;
        let is_unfinished = result.iter().flatten().any(|done| done.stop == StopReason::Cancelled);
        if let Ok([only]) = result.as_deref() {
            request.task.resume_after(only);
        }
        let ended = {
            let may_resume = is_unfinished && !state.closed;
            let (request, task) = request.with(());
            let queued = QueuedRequest { request: request.with(task.into()).0, queued_at };
            state.queue.finish(queued, may_resume)
        };
        drop(state);
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
