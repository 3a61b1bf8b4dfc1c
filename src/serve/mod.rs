//! The one thread that owns the model. Everyone else submits requests and is called back.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;

use anyhow::{Result, anyhow};

use crate::base::Cancel;
use crate::compute::Backend;
use crate::decode::{self, Generated, Task};
use crate::model::Tokenizer;
use crate::session::Session;

/// Called once, on the engine thread, with what became of a request.
pub type Reply = Box<dyn FnOnce(Result<Generated>) + Send>;

/// A generation somebody waits for.
pub struct Request {
    /// What the request is about, usually a document: a newer request cancels older ones with the
    /// same key.
    pub key: String,
    /// What to generate.
    pub task: Task,
    /// Set by whoever no longer needs the answer.
    pub cancel: Cancel,
    /// Receives the result. Every request is answered, cancelled ones included.
    pub reply: Reply,
}

/// A handle on the engine thread. Clones share it; the thread ends when the last one is dropped.
#[derive(Clone)]
pub struct Engine {
    shared: Arc<Handle>,
}

struct Handle {
    queue: Arc<Queue>,
    tokenizer: Arc<Tokenizer>,
    context: usize,
}

#[derive(Default)]
struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Request>,
    running: Option<(String, Cancel)>,
    closed: bool,
}

impl Engine {
    /// Moves `session` to a thread of its own, which serves requests until the handle is dropped.
    pub fn start<B>(mut session: Session<B>, tokenizer: Tokenizer) -> Self
    where
        B: Backend + Send + 'static,
        Session<B>: Send,
    {
        let tokenizer = Arc::new(tokenizer);
        let queue = Arc::new(Queue::default());
        let context = session.context();
        let (for_thread, words) = (queue.clone(), tokenizer.clone());
        thread::Builder::new()
            .name("fimd-engine".into())
            .spawn(move || {
                while let Some(request) = for_thread.next() {
                    let result = serve(&mut session, &words, &request);
                    for_thread.done();
                    // A panic of the receiver is reported by the panic hook and is no reason to stop.
                    let _ = catch_unwind(AssertUnwindSafe(|| (request.reply)(result)));
                }
            })
            .expect("the system can start a thread");
        Self { shared: Arc::new(Handle { queue, tokenizer, context }) }
    }

    /// Queues a request, cancelling older ones with the same key.
    pub fn submit(&self, request: Request) {
        self.shared.queue.push(request);
    }

    /// The tokenizer of the model being served.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.shared.tokenizer
    }

    /// Most tokens a prompt and its completion may have together.
    pub fn context(&self) -> usize {
        self.shared.context
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let mut state = self.queue.lock();
        state.closed = true;
        for request in &state.waiting {
            request.cancel.cancel();
        }
        if let Some((_, cancel)) = &state.running {
            cancel.cancel();
        }
        self.queue.changed.notify_one();
    }
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("the queue's lock is never held across a panic")
    }

    fn push(&self, request: Request) {
        let mut state = self.lock();
        let older = state.waiting.iter().map(|r| (&r.key, &r.cancel));
        for (key, cancel) in older.chain(state.running.iter().map(|(key, cancel)| (key, cancel))) {
            if *key == request.key {
                cancel.cancel();
            }
        }
        state.waiting.push_back(request);
        self.changed.notify_one();
    }

    fn next(&self) -> Option<Request> {
        let mut state = self.lock();
        loop {
            if let Some(request) = state.waiting.pop_front() {
                state.running = Some((request.key.clone(), request.cancel.clone()));
                return Some(request);
            }
            if state.closed {
                return None;
            }
            state = self.changed.wait(state).expect("the queue's lock is never held across a panic");
        }
    }

    fn done(&self) {
        self.lock().running = None;
    }
}

/// A panic ends this request and forgets the session's past, never the engine.
fn serve<B: Backend>(
    session: &mut Session<B>,
    tokenizer: &Tokenizer,
    request: &Request,
) -> Result<Generated> {
    let run = || decode::generate(session, Some(tokenizer), &request.task, &request.cancel, &mut |_| {});
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| {
        session.reset();
        Err(anyhow!("the engine failed on this request; it was dropped and the engine goes on"))
    })
}
