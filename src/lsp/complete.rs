//! Shared by inline completion and the completion menu: requesting the completion at a position.

use std::ops::Range;
use std::time::Duration;

use ropey::Rope;
use tokio::sync::oneshot;
use tokio::time::timeout;
use tower_lsp::jsonrpc::{Error, Result};

use super::connection::Connection;
use super::documents::DocumentSnapshot;
use super::snapshot::Snapshot;
use crate::base::escape;
use crate::complete::driver::Completer;
use crate::complete::service::{EditorRequest, RequestId, Service, Trigger};
use crate::complete::{ContextFile, Document};
use crate::privacy::{content, path_of};

/// How much later than its budget an answer may come: the engine looks at the clock between tokens, and is not asked
/// between the layers of a prompt.
const MARGIN: Duration = Duration::from_millis(50);
/// Larger documents are not used as context.
const CONTEXT_BYTES_MAX: usize = 1 << 18;
/// Assumed upper bound of the bytes per context token.
const CONTEXT_TOKEN_BYTES_MAX: usize = 8;
/// Most other documents to use as context.
const CONTEXT_FILES_MAX: usize = 8;
/// Most of them whose verdicts are made for one request.
const CONTEXT_CANDIDATES_MAX: usize = 16;
/// Most open documents that are looked at for these.
const CONTEXT_LOOKED_AT_MAX: usize = 256;

/// Cancels a request when dropped, unless it was answered.
struct CancelOnDrop<'a>(&'a Completer, RequestId);

impl Drop for CancelOnDrop<'_> {
    fn drop(&mut self) {
        self.0.cancel(self.1);
    }
}

/// Completions after `selected` in the place of bytes `replaced`, best first. Fails only when the document has changed
/// since `snapshot`.
pub(super) async fn complete(
    connection: &Connection,
    snapshot: &Snapshot,
    replaced: Range<usize>,
    selected: &str,
    trigger: Trigger,
) -> Result<Vec<String>> {
    let completer = connection.completer();
    // Before any wait: requests are numbered in the order in which they come.
    let id = completer.next_id();
    let answers = snapshot.answers(trigger).await;
    if !connection.is_current(snapshot) {
        return Err(Error::content_modified());
    }
    if !answers {
        // The status says why, where rules cannot be read.
        connection.signal_activity();
        return Ok(Vec::new());
    }
    let context = context(connection, snapshot).await;
    let Some((prefix, suffix)) = connection.masked(snapshot, replaced, selected) else {
        return Err(Error::content_modified());
    };
    // The client's `$/cancelRequest` drops this future, and the guard with it.
    let guard = CancelOnDrop(completer, id);
    let (answer, record_answer) = oneshot::channel();
    let document = Document::new(Some(snapshot.path()), prefix, suffix);
    let document = document.with_context(context);
    let editor_request =
        EditorRequest { id, key: snapshot.document.uri.clone(), document: document.into(), trigger };
    // Fails once the client has cancelled.
    completer.request(editor_request, Box::new(move |items| drop(answer.send(items))));
    connection.signal_activity();
    let options = &snapshot.settings.options.service;
    let Ok(items) = timeout(options.debounce_max + options.hard + MARGIN, record_answer).await else {
        // The work continues: its result is there for the next request, and what is evaluated is not lost.
        std::mem::forget(guard);
        return Ok(Vec::new());
    };
    if !connection.is_current(snapshot) {
        return Err(Error::content_modified());
    }
    let Ok(items) = items else {
        tracing::error!("a completion was dropped without an answer");
        return Ok(Vec::new());
    };
    let text = &snapshot.document.text;
    Ok(items.into_iter().map(|item| item.text).filter(|item| !hides_text(item, text)).collect())
}

/// Whether a completion has characters that control the display, or show nothing, and that the document has none of.
fn hides_text(completion: &str, text: &Rope) -> bool {
    let is_new = |c: char| {
        escape::is_unsafe(c) && !matches!(c, '\n' | '\r' | '\t') && !text.chars().any(|other| other == c)
    };
    completion.chars().any(is_new)
}

/// Prewarms the prompt of a document at the likely position of the next request.
pub(super) async fn prewarm(connection: &Connection, uri: &str) {
    let Some(snapshot) = connection.snapshot(uri) else { return };
    if !snapshot.may_complete().await {
        return;
    }
    let context = context(connection, &snapshot).await;
    let text = &snapshot.document.text;
    let cursor = match snapshot.document.cursor {
        Some(cursor) => text.char_to_byte(cursor.min(text.len_chars())),
        None => Service::first_cursor(&String::from(text)),
    };
    let Some((prefix, suffix)) = connection.masked(&snapshot, cursor..cursor, "") else { return };
    let document = Document::new(Some(snapshot.path()), prefix, suffix);
    connection.completer().opened(uri, document.with_context(context));
}

/// Other open documents as context, the most recently changed or focused last. No file is read.
async fn context(connection: &Connection, snapshot: &Snapshot) -> Vec<ContextFile> {
    let (workspace, prompt) = (&snapshot.settings.workspace, &snapshot.settings.options.prompt);
    if prompt.context_tokens_max == 0 {
        return Vec::new();
    }
    let bytes_max = prompt.context_tokens_max * CONTEXT_TOKEN_BYTES_MAX;
    let others: Vec<DocumentSnapshot> = connection.others(snapshot).take(CONTEXT_LOOKED_AT_MAX).collect();
    // An older state of an open file, as editors show it beside the file, has another scheme.
    let is_shadowed = |uri: &str| {
        let is_file =
            |other: &str| other != uri && other.starts_with("file:") && path_of(other) == path_of(uri);
        is_file(&snapshot.document.uri) || others.iter().any(|other| is_file(&other.uri))
    };
    let candidates = others.iter().filter(|other| is_context(other) && !is_shadowed(&other.uri));
    let candidates = candidates.filter(|other| workspace.may_be_read(other));
    let candidates: Vec<&DocumentSnapshot> = candidates.take(CONTEXT_CANDIDATES_MAX).collect();
    workspace.check(candidates.iter().copied()).await;
    if workspace.take_newly_refused() {
        // No prompt is continued with its text.
        connection.completer().configure(snapshot.engine().clone(), snapshot.settings.options);
    }
    let mut files: Vec<ContextFile> = candidates
        .into_iter()
        .filter(|other| workspace.verdict(other).is_ok())
        .take(CONTEXT_FILES_MAX)
        .map(|other| ContextFile {
            path: workspace.relative(&other.uri),
            text: content::masked(head(&other.text, bytes_max)),
        })
        .collect();
    files.reverse();
    files
}

/// Whether a document is text, and neither empty nor large.
fn is_context(document: &DocumentSnapshot) -> bool {
    (1..=CONTEXT_BYTES_MAX).contains(&document.text.len_bytes())
        && !document.text.chunks().any(|part| part.contains('\0'))
}

/// The lines at the start of `text` that have at most `bytes_max` bytes together.
fn head(text: &Rope, bytes_max: usize) -> String {
    if text.len_bytes() <= bytes_max {
        return text.into();
    }
    text.slice(..text.line_to_char(text.byte_to_line(bytes_max))).to_string()
}
