//! Shared by explaining, fixing and documenting.

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tower_lsp::gen_lsp_types::Range;
use tower_lsp::jsonrpc::{Error, ErrorCode, Result};

use super::connection::Connection;
use super::snapshot::Snapshot;
use crate::assist::{Action, Job, Problem, Refusal, Subject};
use crate::base::{Cancel, escape};
use crate::decode::Generated;
use crate::privacy::content;
use crate::serve::{self, Priority};

/// `LSPErrorCodes.RequestFailed`: a valid request failed; clients show the message.
const REQUEST_FAILED: i64 = -32803;
/// Most problems of a request.
const PROBLEMS_MAX: usize = 64;

/// What to do with which code. The client stores it as the action's data, so it is untrusted on its return.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ActionRequest {
    pub action: Action,
    pub uri: String,
    pub range: Range,
    /// The revision of the document that `range` refers to.
    pub revision: u64,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<Problem>,
}

/// The error that shows `refusal` to the user.
pub(super) fn request_failed(refusal: Refusal) -> Error {
    let message = escape::text(&refusal.0).into_owned().into();
    Error { code: ErrorCode::ServerError(REQUEST_FAILED), message, data: None }
}

/// The document with this URI. Fails where it may not be part of prompts.
pub(super) async fn readable(connection: &Connection, uri: &str) -> Result<Snapshot> {
    let refused = |why: String| request_failed(Refusal(format!("fimd does not read this document: {why}")));
    let snapshot = connection.snapshot(uri).ok_or_else(|| refused("it is not open".into()))?;
    snapshot.check().await.map_err(refused)?;
    Ok(snapshot)
}

/// The code at a selection.
pub(super) fn subject(snapshot: &Snapshot, range: Range) -> Option<Subject> {
    let text = &snapshot.document.text;
    let chars = snapshot.encoding.to_chars(text, range);
    let bytes = text.char_to_byte(chars.start)..text.char_to_byte(chars.end);
    Subject::new(content::masked(text.into()), snapshot.path(), snapshot.document.language.clone(), bytes)
}

/// The job of a request.
pub(super) fn job(snapshot: &Snapshot, request: ActionRequest) -> Result<Job> {
    let no_code = || request_failed(Refusal("no code at this position".into()));
    let mut subject = subject(snapshot, request.range).ok_or_else(no_code)?;
    if request.action == Action::Fix {
        check_has_no_secrets(snapshot, &subject)?;
    }
    let problems = request.problems.into_iter().take(PROBLEMS_MAX);
    let masked = |problem: Problem| Problem { message: content::masked(problem.message), ..problem };
    subject.problems = problems.map(masked).collect();
    Job::new(snapshot.engine(), &snapshot.settings.assist(), request.action, subject).map_err(request_failed)
}

/// Fails where lines to rewrite have secrets: the model is not shown those, so it cannot keep them.
fn check_has_no_secrets(snapshot: &Snapshot, subject: &Subject) -> Result<()> {
    let lines = snapshot.document.text.byte_slice(subject.lines.clone());
    if lines == subject.text[subject.lines.clone()] {
        return Ok(());
    }
    let why = "these lines have a secret, which fimd leaves out of prompts: select others";
    Err(request_failed(Refusal(why.into())))
}

enum JobEvent {
    Text(String),
    Done(anyhow::Result<Vec<Generated>>),
}

/// Runs a job at a lower priority than completions, and calls `show` with all text so far. Fails when the document
/// changes meanwhile; dropping the future cancels the job.
pub(super) async fn run(
    connection: &Connection,
    snapshot: &Snapshot,
    job: &Job,
    mut show: impl FnMut(&str),
) -> Result<Generated> {
    let (sender, mut events) = mpsc::unbounded_channel();
    let cancel = Cancel::new();
    let _guard = cancel.on_drop();
    snapshot.engine().submit(serve::Request {
        key: connection.next_key(),
        priority: Priority::Standard,
        not_before: None,
        task: job.task.clone(),
        cancel,
        listener: Box::new(move |event| {
            // Fails once the client has cancelled.
            let _ = sender.send(match event {
                serve::Event::Text(text) => JobEvent::Text(text.to_owned()),
                serve::Event::Done(result) => JobEvent::Done(result),
            });
        }),
    });
    let mut text = String::new();
    loop {
        let event = events.recv().await;
        if !connection.is_current(snapshot) {
            return Err(Error::content_modified());
        }
        match event {
            Some(JobEvent::Text(more)) => {
                text.push_str(&more);
                show(&text);
            }
            Some(JobEvent::Done(Ok(generated))) => {
                let first = generated.into_iter().next();
                return first.ok_or_else(|| request_failed(Refusal("the model returned nothing".into())));
            }
            Some(JobEvent::Done(Err(error))) => {
                tracing::error!("a job failed: {error:#}");
                return Err(request_failed(Refusal(format!("the model failed: {error:#}"))));
            }
            None => return Err(request_failed(Refusal("the engine has stopped".into()))),
        }
    }
}

/// The amount of generated text, for a progress report.
pub(super) fn progress_message(text: &str) -> String {
    match text.lines().count() {
        1 => "1 line".into(),
        lines => format!("{lines} lines"),
    }
}
