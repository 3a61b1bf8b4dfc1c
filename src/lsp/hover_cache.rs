//! Cached documentation for hovers, and its generation in the background.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::timeout;

use crate::assist::cache::{self, CachedText, DocumentationCache};
use crate::assist::{Action, Job, Options, Subject};
use crate::base::Cancel;
use crate::base::cancel::CancelOnDrop;
use crate::decode::{Generated, StopReason};
use crate::resident::Served;
use crate::serve::{self, Priority};

/// The documentation requested by one connection. Dropping it cancels its generation.
pub(super) struct HoverCache {
    shared: Arc<Shared>,
    /// The key of its work on the engine.
    key: String,
    cancel: Cancel,
    _guard: CancelOnDrop,
}

#[derive(Default)]
struct Shared {
    cache: Mutex<DocumentationCache>,
    changed: Notify,
}

impl HoverCache {
    /// An empty cache. Its requests to the engine have this key.
    pub(super) fn new(key: String) -> Self {
        let cancel = Cancel::new();
        Self { shared: Arc::default(), key, _guard: cancel.on_drop(), cancel }
    }

    /// Documentation of a definition: complete, or whatever was generated within `budget`; `None` for nothing.
    pub(super) async fn documentation(
        &self,
        served: &Served,
        options: &Options,
        subject: Subject,
        budget: Duration,
    ) -> Option<CachedText> {
        let language = format!("{}\n{}", served.name(), subject.language_id);
        let entry = cache::key(&language, &subject.text[subject.lines.clone()]);
        let shared = &self.shared;
        if shared.cache().get(entry).is_none() {
            self.start(served, options, entry, subject)?;
        }
        let cached = match timeout(budget, shared.complete(entry)).await {
            Ok(cached) => cached,
            Err(_) => shared.cache().get(entry),
        };
        cached.filter(|cached| !cached.text.is_empty())
    }

    /// Starts to generate documentation in the background. A newer request supersedes an older one.
    fn start(&self, served: &Served, options: &Options, entry: u64, subject: Subject) -> Option<()> {
        let job = Job::new(&served.engine, options, Action::Document, subject).ok()?;
        let shared = self.shared.clone();
        shared.cache().insert(entry, CachedText { text: String::new(), is_complete: false });
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
                        let cached = CachedText { text: job.documentation(&text), is_complete: false };
                        shared.cache().insert(entry, cached);
                    }
                    serve::Event::Done(result) => shared.finish(entry, &job, result),
                }
                shared.changed.notify_waiters();
            }),
        });
        Some(())
    }
}

impl Shared {
    fn cache(&self) -> MutexGuard<'_, DocumentationCache> {
        self.cache.lock().expect("lock poisoned")
    }

    /// Waits until an entry is complete; `None` when its generation failed or was superseded.
    async fn complete(&self, entry: u64) -> Option<CachedText> {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            match self.cache().get(entry) {
                Some(cached) if !cached.is_complete => {}
                settled => return settled,
            }
            changed.await;
        }
    }

    fn finish(&self, entry: u64, job: &Job, result: anyhow::Result<Vec<Generated>>) {
        let generated = result.unwrap_or_else(|error| {
            tracing::error!("documentation failed: {error:#}");
            Vec::new()
        });
        let is_complete = |generated: &&Generated| generated.stop != StopReason::Cancelled;
        match generated.first().filter(is_complete) {
            Some(generated) => {
                let text = job.documentation(&generated.text);
                self.cache().insert(entry, CachedText { text, is_complete: true });
            }
            None => self.cache().remove_incomplete(entry),
        }
    }
}
