//! `textDocument/didOpen`, `didChange` and `didClose`.

use tower_lsp::gen_lsp_types::{
    DidChangeTextDocumentParams, DidCloseTextDocumentParams, DidOpenTextDocumentParams,
};

use super::complete::warm;
use super::connection::Connection;
use super::documents::Edit;

pub fn did_open(connection: &Connection, params: DidOpenTextDocumentParams) {
    let document = params.text_document;
    let uri = document.uri.0;
    connection.completer.replaced(&uri);
    connection.documents.open(uri.clone(), document.language_id.into(), document.version, &document.text);
    warm(connection, &uri);
}

pub fn did_change(connection: &Connection, params: DidChangeTextDocumentParams) {
    let document = params.text_document;
    let uri = document.text_document_identifier.uri.0;
    let Connection { documents, completer, encoding, .. } = connection;
    for edit in documents.change(&uri, document.version, &params.content_changes, *encoding) {
        match edit {
            Edit::Change(change) => completer.changed(&uri, change),
            Edit::Whole => completer.replaced(&uri),
        }
    }
}

pub fn did_close(connection: &Connection, params: DidCloseTextDocumentParams) {
    let uri = params.text_document.uri.0;
    connection.documents.close(&uri);
    connection.completer.closed(&uri);
}
