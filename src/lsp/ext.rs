//! Custom methods. The notifications are those of GitHub's Copilot server, so that its clients can send them; unused
//! parameters are ignored.

use std::sync::Arc;

use serde_json::Value;
use tower_lsp::jsonrpc::Result;

use super::complete::prewarm;
use super::connection::Connection;

/// `textDocument/didFocus {textDocument?: {uri}}`: another document, or none, has the focus.
pub(super) async fn did_focus(connection: Arc<Connection>, params: Value) {
    if let Some(uri) = params["textDocument"]["uri"].as_str() {
        connection.focus(uri);
        prewarm(&connection, uri).await;
    }
}

/// `textDocument/didShowCompletion {item}`: an inline completion is shown.
pub(super) async fn did_show(connection: Arc<Connection>, params: Value) {
    if params["item"].is_object() {
        connection.completer().shown();
    }
}

/// `textDocument/didPartiallyAcceptCompletion {item, acceptedLength}`: a prefix of an inline completion was
/// accepted; `acceptedLength` is its total length in UTF-16 code units.
pub(super) async fn did_partially_accept(connection: Arc<Connection>, params: Value) {
    if params["acceptedLength"].as_f64().is_some_and(|length| length > 0.0) {
        connection.completer().partially_accepted();
    }
}

/// `fimd/statistics`: the counters of this session, see
/// [`Statistics`](crate::complete::stats::Statistics).
pub(super) async fn statistics(connection: Arc<Connection>) -> Result<Value> {
    Ok(serde_json::to_value(connection.completer().statistics()).expect("numbers are JSON"))
}
