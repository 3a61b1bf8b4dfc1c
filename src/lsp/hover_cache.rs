//! Documentation that was and is being written for hovers.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::timeout;

use crate::assist::memory::{self, Known, Memory};
use crate::assist::{Action, Job, Options, Subject};
use crate::base::Cancel;
use crate::base::cancel::CancelOnDrop;
use crate::decode::{Generated, StopReason};
use crate::resident::Served;
use crate::serve::{self, Priority};

/// The documentation one connection has asked for. Dropping it cancels what is being written.
pub(super) struct HoverCache {
    shared: Arc<Shared>,
    /// Newer work with this key supersedes older work.
    key: String,
    cancel: Cancel,
    _guard: CancelOnDrop,
}

#[derive(Default)]
struct Shared {
    memory: Mutex<Memory>,
    changed: Notify,
}

impl HoverCache {
    /// An empty cache, whose work has this key on the engine.
    pub(super) fn new(key: String) -> Self {
        let cancel = Cancel::new();
        Self { shared: Arc::default(), key, _guard: cancel.on_drop(), cancel }
    }

    /// What is known of a definition once the budget is over, or earlier if that is all; `None` for nothing.
    pub(super) async fn documentation(
        &self,
        served: &Served,
        options: &Options,
        subject: Subject,
        budget: Duration,
    ) -> Option<Known> {
        let language = format!("{}\n{}", served.name(), subject.language_id);
        let entry = memory::key(&language, &subject.text[subject.lines.clone()]);
        let shared = &self.shared;
        if shared.memory().get(entry).is_none() {
            self.begin(served, options, entry, subject)?;
        }
        let known = match timeout(budget, shared.complete(entry)).await {
            Ok(known) => known,
            Err(_) => shared.memory().get(entry),
        };
        known.filter(|known| !known.text.is_empty())
    }

    /// Has the documentation of a definition written in the background. One is written at a time: a newer one
    /// supersedes what nobody looks at any more.
    fn begin(&self, served: &Served, options: &Options, entry: u64, subject: Subject) -> Option<()> {
        let job = Job::new(&served.engine, options, Action::Document, subject).ok()?;
        let shared = self.shared.clone();
        shared.memory().note(entry, Known { text: String::new(), is_complete: false });
        let (task, mut text) = (job.task.clone(), String::new());
        served.engine.submit(serve::Request {
            key: self.key.clone(),
            priority: Priority::Background,
            not_before: None,
            task,
            cancel: self.cancel.child(),
            listener: Box::new(move |event| {
                match event {
                    serve::Event::Text(more) => {
                        text.push_str(more);
                        let known = Known { text: job.documentation(&text), is_complete: false };
                        shared.memory().note(entry, known);
                    }
                    serve::Event::Done(result) => shared.end(entry, &job, result),
                }
                shared.changed.notify_waiters();
            }),
        });
        Some(())
    }
}

impl Shared {
    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().expect("lock poisoned")
    }

    /// An entry once it is complete; `None` when it was given up.
    async fn complete(&self, entry: u64) -> Option<Known> {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            match self.memory().get(entry) {
                Some(known) if !known.is_complete => {}
                over => return over,
            }
            changed.await;
        }
    }

    fn end(&self, entry: u64, job: &Job, result: anyhow::Result<Vec<Generated>>) {
        let generated = result.unwrap_or_else(|error| {
            tracing::error!("documentation failed: {error:#}");
            Vec::new()
        });
        let is_whole = |generated: &&Generated| generated.stop != StopReason::Cancelled;
        match generated.first().filter(is_whole) {
            Some(generated) => {
                let text = job.documentation(&generated.text);
                self.memory().note(entry, Known { text, is_complete: true });
            }
            None => self.memory().give_up(entry),
        }
    }
}
