//! `codeAction/resolve`: computes the edit of the action that the user has picked.

use std::collections::HashMap;
use std::sync::Arc;

use tower_lsp::gen_lsp_types::{
    AnnotatedTextEdit, ChangeAnnotation, CodeAction, OptionalVersionedTextDocumentIdentifier, ProgressToken,
    TextDocumentEdit, TextDocumentIdentifier, TextEdit, WorkspaceEdit,
};
use tower_lsp::jsonrpc::{Error, Result};

use super::assist::{ActionRequest, job, progress_message, readable, request_failed, run};
use super::capabilities::EditSupport;
use super::connection::Connection;
use super::documents::DocumentSnapshot;
use super::progress::Progress;
use crate::assist::{Action, Outcome};

/// The id of the change annotation.
const ANNOTATION: &str = "fimd";

/// Adds the edit to an action.
pub(super) async fn code_action_resolve(
    connection: Arc<Connection>,
    mut action: CodeAction,
) -> Result<CodeAction> {
    let data = action.data.clone().unwrap_or_default();
    let invalid =
        |error: serde_json::Error| Error::invalid_params(format!("not a code action of fimd: {error}"));
    let request: ActionRequest = serde_json::from_value(data).map_err(invalid)?;
    action.edit = Some(edit(&connection, request, None, action.title.clone()).await?);
    Ok(action)
}

/// The edit of a request.
pub(super) async fn edit(
    connection: &Connection,
    request: ActionRequest,
    token: Option<ProgressToken>,
    title: String,
) -> Result<WorkspaceEdit> {
    let (snapshot, action) = (readable(connection, &request.uri).await?, request.action);
    if snapshot.document.revision != request.revision {
        return Err(Error::content_modified());
    }
    let job = job(&snapshot, request)?;
    let capabilities = connection.capabilities();
    let progress = Progress::begin(connection.client(), capabilities, token, title);
    let generated = run(connection, &snapshot, &job, |text| progress.report(progress_message(text))).await;
    progress.finish().await;
    let outcome = job.finish(&generated?).map_err(request_failed)?;
    let Outcome::Edit(bytes, new_text) = outcome else {
        return Err(Error::invalid_params("this action has no edit"));
    };
    let text = &snapshot.document.text;
    let chars = text.byte_to_char(bytes.start)..text.byte_to_char(bytes.end);
    let range = snapshot.encoding.to_range(text, chars);
    let label = match action {
        Action::Document => "Documentation by a model",
        Action::Fix | Action::Explain => "A correction by a model",
    };
    Ok(workspace_edit(&capabilities.edit, &snapshot.document, TextEdit { range, new_text }, label))
}

/// One edit of a document, versioned and annotated where the client supports that.
fn workspace_edit(
    client: &EditSupport,
    document: &DocumentSnapshot,
    edit: TextEdit,
    label: &str,
) -> WorkspaceEdit {
    let uri = document.uri.as_str().into();
    if !client.versioned {
        let changes = Some(HashMap::from([(uri, vec![edit])]));
        return WorkspaceEdit { changes, ..WorkspaceEdit::default() };
    }
    let annotation = ChangeAnnotation {
        label: label.into(),
        needs_confirmation: Some(true),
        description: Some("Written by a language model: read it before you keep it.".into()),
    };
    let edit = match client.annotations {
        true => AnnotatedTextEdit { annotation_id: ANNOTATION.into(), text_edit: edit }.into(),
        false => edit.into(),
    };
    let text_document = OptionalVersionedTextDocumentIdentifier {
        version: Some(document.version),
        text_document_identifier: TextDocumentIdentifier { uri },
    };
    WorkspaceEdit {
        document_changes: Some(vec![TextDocumentEdit { text_document, edits: vec![edit] }.into()]),
        change_annotations: client.annotations.then(|| HashMap::from([(ANNOTATION.to_owned(), annotation)])),
        ..WorkspaceEdit::default()
    }
}
