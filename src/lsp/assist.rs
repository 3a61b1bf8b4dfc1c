//! What explaining, fixing and documenting have in common.

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tower_lsp::gen_lsp_types::Range;
use tower_lsp::jsonrpc::{Error, ErrorCode, Result};

use super::connection::Connection;
use super::snapshot::Snapshot;
use crate::assist::{Action, Job, Problem, Refusal, Subject};
use crate::base::Cancel;
use crate::decode::Generated;
use crate::serve::{self, Priority};

/// A request that was understood and came to nothing (`LSPErrorCodes.RequestFailed`); clients show its message.
const REQUEST_FAILED: i64 = -32803;
/// Most problems of a request that are looked at.
const PROBLEMS_MAX: usize = 64;

/// What is asked for. It travels to the client and back: whatever comes is checked again.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    pub action: Action,
    pub uri: String,
    pub range: Range,
    /// The state of the document it is about.
    pub revision: u64,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<Problem>,
}

/// The error for what the user should read.
pub(super) fn refused(refusal: Refusal) -> Error {
    Error { code: ErrorCode::ServerError(REQUEST_FAILED), message: refusal.0.into(), data: None }
}

/// The document with this URI, if it may be shown to the model.
pub(super) fn readable(connection: &Connection, uri: &str) -> Result<Snapshot> {
    let snapshot = connection.snapshot(uri).filter(Snapshot::may_read);
    snapshot.ok_or_else(|| refused(Refusal("fimd leaves this document alone".into())))
}

/// What a selection in a document is about.
pub(super) fn subject(snapshot: &Snapshot, range: Range) -> Option<Subject> {
    let text = &snapshot.document.text;
    let chars = snapshot.encoding.to_chars(text, range);
    let bytes = text.char_to_byte(chars.start)..text.char_to_byte(chars.end);
    Subject::new(text.to_string(), snapshot.path(), snapshot.document.language.clone(), bytes)
}

/// What there is to do for `wanted`.
pub(super) fn job(snapshot: &Snapshot, wanted: Wanted) -> Result<Job> {
    let nothing = || refused(Refusal("there is no code here".into()));
    let mut subject = subject(snapshot, wanted.range).ok_or_else(nothing)?;
    subject.problems = wanted.problems.into_iter().take(PROBLEMS_MAX).collect();
    Job::new(snapshot.engine(), &snapshot.settings.assist(), wanted.action, subject).map_err(refused)
}

enum Heard {
    Text(String),
    Done(anyhow::Result<Vec<Generated>>),
}

/// Runs a job about a document, and hands out its text as it grows. Whoever types goes first. Fails when the
/// document changes meanwhile; dropping the future cancels the work.
pub(super) async fn run(
    connection: &Connection,
    snapshot: &Snapshot,
    job: &Job,
    mut show: impl FnMut(&str),
) -> Result<Generated> {
    let (hear, mut heard) = mpsc::unbounded_channel();
    let cancel = Cancel::new();
    let _guard = cancel.on_drop();
    snapshot.engine().submit(serve::Request {
        key: connection.next_key(),
        priority: Priority::Patient,
        not_before: None,
        task: job.task.clone(),
        cancel,
        listener: Box::new(move |event| {
            // Nobody listens any more when the client has cancelled.
            let _ = hear.send(match event {
                serve::Event::Text(text) => Heard::Text(text.to_owned()),
                serve::Event::Done(result) => Heard::Done(result),
            });
        }),
    });
    let mut text = String::new();
    loop {
        let event = heard.recv().await;
        if !connection.is_current(snapshot) {
            return Err(Error::content_modified());
        }
        match event {
            Some(Heard::Text(more)) => {
                text.push_str(&more);
                show(&text);
            }
            Some(Heard::Done(Ok(generated))) => {
                let first = generated.into_iter().next();
                return first.ok_or_else(|| refused(Refusal("the model returned nothing".into())));
            }
            Some(Heard::Done(Err(error))) => {
                tracing::error!("an answer failed: {error:#}");
                return Err(refused(Refusal(format!("the model failed: {error:#}"))));
            }
            None => return Err(refused(Refusal("the engine has ended".into()))),
        }
    }
}

/// How far an answer is, for a progress.
pub(super) fn so_far(text: &str) -> String {
    match text.lines().count() {
        1 => "1 line".into(),
        lines => format!("{lines} lines"),
    }
}
