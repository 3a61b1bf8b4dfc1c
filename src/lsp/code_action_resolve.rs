//! `codeAction/resolve`: what to change is computed when the user wants it.

use std::collections::HashMap;
use std::sync::Arc;

use tower_lsp::gen_lsp_types::{
    AnnotatedTextEdit, ChangeAnnotation, CodeAction, OptionalVersionedTextDocumentIdentifier, ProgressToken,
    TextDocumentEdit, TextDocumentIdentifier, TextEdit, WorkspaceEdit,
};
use tower_lsp::jsonrpc::{Error, Result};

use super::assist::{Wanted, job, readable, refused, run, so_far};
use super::capabilities::EditSupport;
use super::connection::Connection;
use super::documents::DocumentSnapshot;
use super::progress::Progress;
use crate::assist::{Action, Outcome};

/// Names the reason of a change in a [`WorkspaceEdit`].
const ANNOTATION: &str = "fimd";

/// Computes what an action that was offered changes.
pub(super) async fn code_action_resolve(
    connection: Arc<Connection>,
    mut action: CodeAction,
) -> Result<CodeAction> {
    let data = action.data.clone().unwrap_or_default();
    let invalid = |error: serde_json::Error| Error::invalid_params(format!("no action of fimd: {error}"));
    let wanted: Wanted = serde_json::from_value(data).map_err(invalid)?;
    action.edit = Some(edit(&connection, wanted, None, action.title.clone()).await?);
    Ok(action)
}

/// What `wanted` changes.
pub(super) async fn edit(
    connection: &Connection,
    wanted: Wanted,
    token: Option<ProgressToken>,
    title: String,
) -> Result<WorkspaceEdit> {
    let (snapshot, action) = (readable(connection, &wanted.uri)?, wanted.action);
    if snapshot.document.revision != wanted.revision {
        return Err(Error::content_modified());
    }
    let job = job(&snapshot, wanted)?;
    let capabilities = connection.capabilities();
    let progress = Progress::begin(connection.client(), capabilities, token, title);
    let generated = run(connection, &snapshot, &job, |text| progress.report(so_far(text))).await;
    progress.finish().await;
    let outcome = job.finish(&generated?).map_err(refused)?;
    let Outcome::Edit(bytes, new_text) = outcome else {
        return Err(Error::invalid_params("this action changes nothing"));
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

/// One change of a document, said as precisely as the client understands.
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
