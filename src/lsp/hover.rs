//! `textDocument/hover`: documentation that the model writes where there is none.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::timeout;
use tower_lsp::gen_lsp_types::{Hover, HoverParams, MarkupContent, MarkupKind};
use tower_lsp::jsonrpc::Result;

use super::documents::Snapshot;
use super::server::Server;
use crate::assist::documentation::Writing;
use crate::assist::memory::{self, Known, Memory};
use crate::assist::symbol::{self, Symbol};
use crate::assist::{Action, Job, Subject};
use crate::base::Cancel;
use crate::base::cancel::CancelOnDrop;
use crate::decode::{Generated, StopReason};
use crate::serve::{self, Priority};
use crate::text::Language;

/// Other documents that are searched for a definition, and how large they may be, in bytes.
const OTHERS_MAX: usize = 32;
const OTHER_BYTES_MAX: usize = 1 << 20;

/// What was and is being written for hovers.
pub struct Hovers {
    shared: Arc<Shared>,
    cancel: Cancel,
    _guard: CancelOnDrop,
}

#[derive(Default)]
struct Shared {
    memory: Mutex<Memory>,
    changed: Notify,
}

impl Shared {
    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().expect("nothing panics with this lock")
    }
}

impl Default for Hovers {
    fn default() -> Self {
        let cancel = Cancel::new();
        Self { shared: Arc::default(), _guard: cancel.on_drop(), cancel }
    }
}

impl Server {
    /// What the definition at a place, or of the function called there, is for. `None` where it says so itself,
    /// and wherever else there is nothing to say: other servers have hovers too.
    pub async fn hover(&self, params: HoverParams) -> Result<Option<Hover>> {
        let at = params.text_document_position_params;
        let snapshot = self.documents.snapshot(&at.text_document.uri.0);
        let is_wanted = self.ready().rules().settings.hover.enabled;
        let Some(snapshot) = snapshot.filter(|snapshot| is_wanted && self.may_complete(snapshot)) else {
            return Ok(None);
        };
        let char = self.encoding().to_char(&snapshot.text, at.position);
        let at = snapshot.text.char_to_byte(char);
        let Some(subject) = self.defined(&snapshot, at) else { return Ok(None) };
        let Some(known) = self.documentation(subject).await else { return Ok(None) };
        let mut value = known.text;
        if !known.is_complete {
            value.push_str(" (writing...)");
        }
        let hovers = self.ready().capabilities.text_document.as_ref().and_then(|can| can.hover.as_ref());
        let formats = hovers.and_then(|can| can.content_format.as_ref());
        let takes_markdown = formats.is_some_and(|formats| formats.contains(&MarkupKind::Markdown));
        let (kind, note) = match takes_markdown {
            true => (MarkupKind::Markdown, "*written by fimd*"),
            false => (MarkupKind::PlainText, "(written by fimd)"),
        };
        value = format!("{value}\n\n{note}");
        Ok(Some(Hover { contents: MarkupContent { kind, value }.into(), range: None }))
    }

    /// The definition without documentation that the byte `at` is about.
    fn defined(&self, snapshot: &Snapshot, at: usize) -> Option<Subject> {
        let workspace = &self.ready().rules().workspace;
        let path = workspace.relative(&snapshot.uri);
        let language = Language::of(&snapshot.language, &path);
        let text = snapshot.text.to_string();
        let subject = |text: String, path: String, of: &Snapshot, symbol: Symbol| {
            let is_open = Writing::of(&symbol, language).is_some();
            is_open.then(|| Subject::of_symbol(text, path, of.language.clone(), symbol))
        };
        if let Some(symbol) = symbol::defined_at(&text, at, language) {
            return subject(text, path, snapshot, symbol);
        }
        let (name, is_called) = symbol::name_at(&text, at)?;
        if !is_called {
            return None;
        }
        if let Some(symbol) = symbol::named(&text, name, language) {
            return subject(text, path, snapshot, symbol);
        }
        let others = self.documents.others(&snapshot.uri).into_iter().filter(|other| {
            other.text.len_bytes() <= OTHER_BYTES_MAX && workspace.allows(&other.uri, &other.language)
        });
        others.take(OTHERS_MAX).find_map(|other| {
            let path = workspace.relative(&other.uri);
            let is_alike = Language::of(&other.language, &path).is_like(language);
            let text = other.text.to_string();
            let symbol = symbol::named(&text, name, language).filter(|_| is_alike)?;
            subject(text, path, &other, symbol)
        })
    }

    /// What is known of a definition once the budget is over, or earlier if that is all; `None` for nothing.
    async fn documentation(&self, subject: Subject) -> Option<Known> {
        let view = self.ready().resident.view();
        let language = format!("{}\n{}", view.served.name(), subject.language_id);
        let key = memory::key(&language, &subject.text[subject.lines.clone()]);
        let shared = &self.hovers.shared;
        if shared.memory().get(key).is_none() {
            self.begin(key, subject)?;
        }
        let complete = async {
            loop {
                let changed = shared.changed.notified();
                tokio::pin!(changed);
                changed.as_mut().enable();
                match shared.memory().get(key) {
                    Some(known) if !known.is_complete => {}
                    over => return over,
                }
                changed.await;
            }
        };
        let budget = Duration::from_millis(self.ready().rules().settings.hover.budget_ms);
        let known = match timeout(budget, complete).await {
            Ok(known) => known,
            Err(_) => shared.memory().get(key),
        };
        known.filter(|known| !known.text.is_empty())
    }

    /// Has the documentation of a definition written in the background. One is written at a time: a newer one
    /// takes the place of what nobody looks at any more.
    fn begin(&self, key: u64, subject: Subject) -> Option<()> {
        let (engine, options) = self.assistant();
        let job = Job::new(&engine, &options, Action::Document, subject).ok()?;
        let shared = self.hovers.shared.clone();
        shared.memory().note(key, Known { text: String::new(), is_complete: false });
        let (task, mut text) = (job.task.clone(), String::new());
        engine.submit(serve::Request {
            key: format!("{}/hover", self.number),
            priority: Priority::Background,
            not_before: None,
            task,
            cancel: self.hovers.cancel.child(),
            listener: Box::new(move |event| {
                match event {
                    serve::Event::Text(more) => {
                        text.push_str(more);
                        let known = Known { text: job.documentation(&text), is_complete: false };
                        shared.memory().note(key, known);
                    }
                    serve::Event::Done(result) => end(&shared, key, &job, result),
                }
                shared.changed.notify_waiters();
            }),
        });
        Some(())
    }
}

fn end(shared: &Shared, key: u64, job: &Job, result: anyhow::Result<Vec<Generated>>) {
    let generated = result.unwrap_or_else(|error| {
        tracing::error!("documentation failed: {error:#}");
        Vec::new()
    });
    let is_whole = |generated: &&Generated| generated.stop != StopReason::Cancelled;
    match generated.first().filter(is_whole) {
        Some(generated) => {
            let text = job.documentation(&generated.text);
            shared.memory().note(key, Known { text, is_complete: true });
        }
        None => shared.memory().give_up(key),
    }
}
