//! Methods that the protocol does not have. Notifications are named as those of GitHub's Copilot server, so
//! that its clients can send them; what they do not need of the parameters is not looked at.

use serde_json::Value;
use tower_lsp::jsonrpc::Result;

use super::server::Server;

impl Server {
    /// `textDocument/didFocus {textDocument?: {uri}}`: the user looks at a document, or at none.
    pub async fn did_focus(&self, params: Value) {
        if let Some(uri) = params["textDocument"]["uri"].as_str() {
            self.documents.touch(uri);
            self.warm(uri);
        }
    }

    /// `textDocument/didShowCompletion {item}`: the user sees an inline completion.
    pub async fn did_show(&self, params: Value) {
        if params["item"].is_object() {
            self.ready().completer.shown();
        }
    }

    /// `textDocument/didPartiallyAcceptCompletion {item, acceptedLength}`: the user took the beginning of an
    /// inline completion; how much in all is counted in UTF-16 code units.
    pub async fn did_partially_accept(&self, params: Value) {
        if params["acceptedLength"].as_f64().is_some_and(|length| length > 0.0) {
            self.ready().completer.partially_accepted();
        }
    }

    /// `fimd/statistics`: what was counted since the session began, see
    /// [`Statistics`](crate::complete::stats::Statistics).
    pub async fn statistics(&self) -> Result<Value> {
        Ok(serde_json::to_value(self.ready().completer.statistics()).expect("numbers are JSON"))
    }
}
