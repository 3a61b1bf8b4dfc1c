//! `codeAction/resolve`: what an action changes.

use std::collections::HashMap;

use tower_lsp::gen_lsp_types::{
    AnnotatedTextEdit, ChangeAnnotation, ClientCapabilities, CodeAction,
    OptionalVersionedTextDocumentIdentifier, ProgressToken, TextDocumentEdit, TextDocumentIdentifier,
    TextEdit, WorkspaceEdit,
};
use tower_lsp::jsonrpc::{Error, Result};

use super::assist::{Wanted, job_for, readable, refused, run, so_far};
use super::connection::Connection;
use super::documents::Snapshot;
use super::progress::Progress;
use crate::assist::{Action, Outcome};

/// Names the reason of a change in a [`WorkspaceEdit`].
const ANNOTATION: &str = "fimd";

/// Computes what an action that was offered changes.
pub async fn code_action_resolve(connection: &Connection, mut action: CodeAction) -> Result<CodeAction> {
    let data = action.data.clone().unwrap_or_default();
    let invalid = |error: serde_json::Error| Error::invalid_params(format!("no action of fimd: {error}"));
    let wanted: Wanted = serde_json::from_value(data).map_err(invalid)?;
    action.edit = Some(edit(connection, wanted, None, action.title.clone()).await?);
    Ok(action)
}

/// What `wanted` changes.
pub async fn edit(
    connection: &Connection,
    wanted: Wanted,
    token: Option<ProgressToken>,
    title: String,
) -> Result<WorkspaceEdit> {
    let (snapshot, action) = (readable(connection, &wanted.uri)?, wanted.action);
    if snapshot.revision != wanted.revision {
        return Err(Error::content_modified());
    }
    let (engine, job) = job_for(connection, &snapshot, wanted)?;
    let capabilities = &connection.capabilities;
    let progress = Progress::begin(&connection.client, capabilities, token, title);
    let generated = run(connection, &engine, &job, &snapshot, |text| progress.report(so_far(text))).await;
    progress.finish().await;
    let outcome = job.finish(&generated?).map_err(refused)?;
    let Outcome::Edit(bytes, new_text) = outcome else {
        return Err(Error::invalid_params("this action changes nothing"));
    };
    let text = &snapshot.text;
    let chars = text.byte_to_char(bytes.start)..text.byte_to_char(bytes.end);
    let range = connection.encoding.to_range(text, chars);
    let label = match action {
        Action::Document => "Documentation by a model",
        Action::Fix | Action::Explain => "A correction by a model",
    };
    Ok(workspace_edit(capabilities, &snapshot, TextEdit { range, new_text }, label))
}

/// One change of a document, said as precisely as the client understands.
fn workspace_edit(
    client: &ClientCapabilities,
    snapshot: &Snapshot,
    edit: TextEdit,
    label: &str,
) -> WorkspaceEdit {
    let uri = snapshot.uri.as_str().into();
    let can = client.workspace.as_ref().and_then(|can| can.workspace_edit.as_ref());
    if can.is_none_or(|can| can.document_changes != Some(true)) {
        let changes = Some(HashMap::from([(uri, vec![edit])]));
        return WorkspaceEdit { changes, ..WorkspaceEdit::default() };
    }
    let annotates = can.is_some_and(|can| can.change_annotation_support.is_some());
    let annotation = ChangeAnnotation {
        label: label.into(),
        needs_confirmation: Some(true),
        description: Some("Written by a language model: read it before you keep it.".into()),
    };
    let edit = match annotates {
        true => AnnotatedTextEdit { annotation_id: ANNOTATION.into(), text_edit: edit }.into(),
        false => edit.into(),
    };
    let text_document = OptionalVersionedTextDocumentIdentifier {
        version: Some(snapshot.version),
        text_document_identifier: TextDocumentIdentifier { uri },
    };
    WorkspaceEdit {
        document_changes: Some(vec![TextDocumentEdit { text_document, edits: vec![edit] }.into()]),
        change_annotations: annotates.then(|| HashMap::from([(ANNOTATION.to_owned(), annotation)])),
        ..WorkspaceEdit::default()
    }
}
