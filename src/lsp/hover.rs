//! `textDocument/hover`: documentation that the model writes where there is none.

use std::time::Duration;

use tokio::time::timeout;
use tower_lsp::gen_lsp_types::{ClientCapabilities, Hover, HoverParams, MarkupContent, MarkupKind};

use super::assist::assistant;
use super::connection::Connection;
use super::documents::Snapshot;
use super::hover_cache::SharedMemory;
use super::settings::EffectiveSettings;
use super::workspace::Workspace;
use crate::assist::documentation::Writing;
use crate::assist::memory::{self, Known};
use crate::assist::symbol::{self, Symbol};
use crate::assist::{Action, Job, Subject};
use crate::decode::{Generated, StopReason};
use crate::serve::{self, Priority};
use crate::text::Language;

/// Other documents that are searched for a definition, and how large they may be, in bytes.
const OTHERS_MAX: usize = 32;
const OTHER_BYTES_MAX: usize = 1 << 20;

/// What the definition at a place, or of the function called there, is for. `None` where it says so itself,
/// and wherever else there is nothing to say: other servers have hovers too.
pub async fn hover(connection: &Connection, params: HoverParams) -> Option<Hover> {
    let at = params.text_document_position_params;
    let settings = connection.settings();
    let snapshot = connection.documents.snapshot(&at.text_document.uri.0)?;
    if !settings.settings.hover.enabled || !connection.may_complete(&settings, &snapshot) {
        return None;
    }
    let char = connection.encoding.to_char(&snapshot.text, at.position);
    let at = snapshot.text.char_to_byte(char);
    let others = || connection.documents.others(&snapshot.uri);
    let subject = undocumented(&snapshot, at, &settings.workspace, others)?;
    let known = documentation(connection, &settings, subject).await?;
    Some(shown(known, &connection.capabilities))
}

/// Documentation as the client can show it.
fn shown(known: Known, client: &ClientCapabilities) -> Hover {
    let mut value = known.text;
    if !known.is_complete {
        value.push_str(" (writing...)");
    }
    let hovers = client.text_document.as_ref().and_then(|can| can.hover.as_ref());
    let formats = hovers.and_then(|can| can.content_format.as_ref());
    let takes_markdown = formats.is_some_and(|formats| formats.contains(&MarkupKind::Markdown));
    let (kind, note) = match takes_markdown {
        true => (MarkupKind::Markdown, "*written by fimd*"),
        false => (MarkupKind::PlainText, "(written by fimd)"),
    };
    value = format!("{value}\n\n{note}");
    Hover { contents: MarkupContent { kind, value }.into(), range: None }
}

/// The definition without documentation that the byte `at` is about.
fn undocumented(
    snapshot: &Snapshot,
    at: usize,
    workspace: &Workspace,
    others: impl FnOnce() -> Vec<Snapshot>,
) -> Option<Subject> {
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
    let others = others().into_iter().filter(|other| {
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
async fn documentation(
    connection: &Connection,
    settings: &EffectiveSettings,
    subject: Subject,
) -> Option<Known> {
    let view = connection.resident.view();
    let language = format!("{}\n{}", view.served.name(), subject.language_id);
    let key = memory::key(&language, &subject.text[subject.lines.clone()]);
    let memory = connection.hovers.shared();
    if memory.lock().get(key).is_none() {
        begin(connection, key, subject)?;
    }
    let budget = Duration::from_millis(settings.settings.hover.budget_ms);
    let known = match timeout(budget, memory.complete(key)).await {
        Ok(known) => known,
        Err(_) => memory.lock().get(key),
    };
    known.filter(|known| !known.text.is_empty())
}

/// Has the documentation of a definition written in the background. One is written at a time: a newer one
/// takes the place of what nobody looks at any more.
fn begin(connection: &Connection, key: u64, subject: Subject) -> Option<()> {
    let (engine, options) = assistant(connection);
    let job = Job::new(&engine, &options, Action::Document, subject).ok()?;
    let shared = connection.hovers.shared().clone();
    shared.lock().note(key, Known { text: String::new(), is_complete: false });
    let (task, mut text) = (job.task.clone(), String::new());
    engine.submit(serve::Request {
        key: connection.key("hover"),
        priority: Priority::Background,
        not_before: None,
        task,
        cancel: connection.hovers.cancel(),
        listener: Box::new(move |event| {
            match event {
                serve::Event::Text(more) => {
                    text.push_str(more);
                    let known = Known { text: job.documentation(&text), is_complete: false };
                    shared.lock().note(key, known);
                }
                serve::Event::Done(result) => end(&shared, key, &job, result),
            }
            shared.notify();
        }),
    });
    Some(())
}

fn end(shared: &SharedMemory, key: u64, job: &Job, result: anyhow::Result<Vec<Generated>>) {
    let generated = result.unwrap_or_else(|error| {
        tracing::error!("documentation failed: {error:#}");
        Vec::new()
    });
    let is_whole = |generated: &&Generated| generated.stop != StopReason::Cancelled;
    match generated.first().filter(is_whole) {
        Some(generated) => {
            let text = job.documentation(&generated.text);
            shared.lock().note(key, Known { text, is_complete: true });
        }
        None => shared.lock().give_up(key),
    }
}
