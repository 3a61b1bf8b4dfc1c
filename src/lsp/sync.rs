//! `textDocument/didOpen`, `didChange` and `didClose`, without an `await` before their effects, so that later messages
//! see those.

use std::sync::Arc;

use tower_lsp::gen_lsp_types::{DidCloseTextDocumentParams, DidOpenTextDocumentParams};

use super::complete::prewarm;
use super::connection::Connection;
use super::documents::DocumentChange;

pub(super) async fn did_open(connection: Arc<Connection>, params: DidOpenTextDocumentParams) {
    let uri = params.text_document.uri.0.clone();
    connection.open(params.text_document);
    prewarm(&connection, &uri).await;
}

pub(super) async fn did_change(connection: Arc<Connection>, change: DocumentChange) {
    connection.change(&change);
    // Ahead of the request that follows, which then need not wait for it.
    if let Some(snapshot) = connection.snapshot(&change.text_document.uri) {
        snapshot.settings.workspace.renew(&snapshot.document).await;
    }
}

pub(super) async fn did_close(connection: Arc<Connection>, params: DidCloseTextDocumentParams) {
    connection.close(&params.text_document.uri.0);
}
