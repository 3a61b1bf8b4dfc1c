//! What completing as ghost text and in a menu have in common.

use ropey::Rope;
use tokio::sync::oneshot;
use tower_lsp::jsonrpc::{Error, Result};

use super::connection::Connection;
use super::documents::Snapshot;
use super::settings::EffectiveSettings;
use crate::complete::driver::Completer;
use crate::complete::service::{Ask, AskId, Service, Trigger};
use crate::complete::{ContextFile, Document};

/// A larger one is no context for others.
const CONTEXT_BYTES_MAX: usize = 1 << 18;
/// A token of it is taken to stand for at most this many bytes.
const CONTEXT_TOKEN_BYTES_MAX: usize = 8;
/// Most other documents that are context.
const CONTEXT_FILES_MAX: usize = 8;

/// Gives a request up when dropped; one that was answered does not mind.
struct GiveUp<'a>(&'a Completer, AskId);

impl Drop for GiveUp<'_> {
    fn drop(&mut self) {
        self.0.cancel(self.1);
    }
}

/// The texts that belong between `prefix` and `suffix`, taken from `snapshot`, best first. Fails only
/// when the document has changed since.
pub async fn complete(
    connection: &Connection,
    snapshot: &Snapshot,
    prefix: String,
    suffix: String,
    trigger: Trigger,
) -> Result<Vec<String>> {
    let (completer, settings) = (&connection.completer, connection.settings());
    if !connection.may_complete(&settings, snapshot) {
        return Ok(Vec::new());
    }
    let id = completer.next_id();
    // The client's `$/cancelRequest` drops this future, and the guard with it.
    let _guard = GiveUp(completer, id);
    let (answer, answered) = oneshot::channel();
    let path = Some(settings.workspace.relative(&snapshot.uri));
    let others = connection.documents.others(&snapshot.uri);
    let document = Document::new(path, prefix, suffix).with_context(context(&settings, &others));
    let ask = Ask { id, key: snapshot.uri.clone(), document: document.into(), trigger };
    // Nobody listens any more when the client has cancelled.
    completer.ask(ask, Box::new(move |items| drop(answer.send(items))));
    connection.activity.notify_one();
    let items = answered.await;
    if !connection.documents.is_current(&snapshot.uri, snapshot.revision) {
        return Err(Error::content_modified());
    }
    let Ok(items) = items else {
        tracing::error!("a completion was given up");
        return Ok(Vec::new());
    };
    Ok(items.into_iter().map(|item| item.text).collect())
}

/// Has the prompt of a document evaluated where the next request about it is likely to be.
pub fn warm(connection: &Connection, uri: &str) {
    let settings = connection.settings();
    let snapshot = connection.documents.snapshot(uri);
    let Some(snapshot) = snapshot.filter(|snapshot| connection.may_complete(&settings, snapshot)) else {
        return;
    };
    let text = snapshot.text.to_string();
    let cursor = match snapshot.cursor {
        Some(cursor) => snapshot.text.char_to_byte(cursor.min(snapshot.text.len_chars())),
        None => Service::first_cursor(&text),
    };
    let (prefix, suffix) = text.split_at(cursor);
    let document = Document::new(Some(settings.workspace.relative(uri)), prefix, suffix);
    let others = connection.documents.others(uri);
    connection.completer.opened(uri, document.with_context(context(&settings, &others)));
}

/// What other open documents show, those changed or looked at last come last. Only what the editor has sent
/// is looked at; no file is read.
fn context(settings: &EffectiveSettings, others: &[Snapshot]) -> Vec<ContextFile> {
    let (workspace, tokens_max) = (&settings.workspace, settings.options.prompt.context_tokens_max);
    if tokens_max == 0 {
        return Vec::new();
    }
    let bytes_max = tokens_max * CONTEXT_TOKEN_BYTES_MAX;
    let is_text = |snapshot: &Snapshot| {
        let length = snapshot.text.len_bytes();
        (1..=CONTEXT_BYTES_MAX).contains(&length) && !snapshot.text.chunks().any(|part| part.contains('\0'))
    };
    let mut files: Vec<ContextFile> = others
        .iter()
        .filter(|other| is_text(other) && workspace.allows(&other.uri, &other.language))
        .take(CONTEXT_FILES_MAX)
        .map(|other| ContextFile { path: workspace.relative(&other.uri), text: head(&other.text, bytes_max) })
        .collect();
    files.reverse();
    files
}

/// The lines at the start of `text` that have at most `bytes_max` bytes together.
fn head(text: &Rope, bytes_max: usize) -> String {
    if text.len_bytes() <= bytes_max {
        return text.to_string();
    }
    text.slice(..text.line_to_char(text.byte_to_line(bytes_max))).to_string()
}
