//! Methods that the protocol does not have. Notifications are named as those of GitHub's Copilot server, so
//! that its clients can send them; what they do not need of the parameters is not looked at.

use serde_json::Value;

use super::complete::warm;
use super::connection::Connection;

/// `textDocument/didFocus {textDocument?: {uri}}`: the user looks at a document, or at none.
pub fn did_focus(connection: &Connection, params: &Value) {
    if let Some(uri) = params["textDocument"]["uri"].as_str() {
        connection.documents.touch(uri);
        warm(connection, uri);
    }
}

/// `textDocument/didShowCompletion {item}`: the user sees an inline completion.
pub fn did_show(connection: &Connection, params: &Value) {
    if params["item"].is_object() {
        connection.completer.shown();
    }
}

/// `textDocument/didPartiallyAcceptCompletion {item, acceptedLength}`: the user took the beginning of an
/// inline completion; how much in all is counted in UTF-16 code units.
pub fn did_partially_accept(connection: &Connection, params: &Value) {
    if params["acceptedLength"].as_f64().is_some_and(|length| length > 0.0) {
        connection.completer.partially_accepted();
    }
}

/// `fimd/statistics`: what was counted since the session began, see
/// [`Statistics`](crate::complete::stats::Statistics).
pub fn statistics(connection: &Connection) -> Value {
    serde_json::to_value(connection.completer.statistics()).expect("numbers are JSON")
}
