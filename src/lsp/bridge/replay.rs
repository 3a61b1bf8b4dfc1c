//! What a new daemon needs to continue the session of the previous one, and the requests that are pending. Pure.

use std::collections::{HashMap, HashSet};

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tower_lsp::gen_lsp_types::{DidCloseTextDocumentParams, DidOpenTextDocumentParams, InitializeParams};
use tower_lsp::jsonrpc::ErrorCode;

use crate::lsp::capabilities::Capabilities;
use crate::lsp::documents::{DocumentChange, Documents};
use crate::lsp::position::Encoding;

/// The id of a replayed `initialize`.
const REPLAY_ID: &str = "fimd/again";
/// The id and method of a heartbeat, which any daemon answers, if only with an error.
const HEARTBEAT: &str = "fimd/heartbeat";

/// The state of a session with an editor, as its messages tell it.
#[derive(Default)]
pub(super) struct SessionRecord {
    initialize_params: Option<Box<RawValue>>,
    is_handshake_done: bool,
    is_initialized: bool,
    is_shutting_down: bool,
    wants_status: bool,
    encoding: Option<Encoding>,
    /// The process of the editor, where it was seen.
    editor_process: Option<u32>,
    /// The last `workspace/didChangeConfiguration`.
    configuration: Option<Vec<u8>>,
    /// Every `workspace/didChangeWorkspaceFolders`.
    folder_changes: Vec<Vec<u8>>,
    documents: Documents,
    /// Requests of the editor, as id and method, by their ids.
    pending: HashMap<String, (Value, String)>,
    /// The ids of pending requests of the daemon.
    daemon_requests: HashSet<String>,
}

/// What kind of message an editor sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// It needs a response.
    Request,
    /// It ends the session.
    Exit,
    /// It answers a previous daemon.
    StaleResponse,
    /// A notification, a response, or malformed.
    Other,
}

/// What all messages have in common.
#[derive(Deserialize)]
struct Envelope<'m> {
    id: Option<Value>,
    method: Option<String>,
    #[serde(borrow)]
    params: Option<&'m RawValue>,
}

/// A request that shows whether the daemon responds.
pub(super) fn heartbeat() -> Vec<u8> {
    json!({"jsonrpc": "2.0", "id": HEARTBEAT, "method": HEARTBEAT}).to_string().into_bytes()
}

impl SessionRecord {
    pub(super) fn is_shutting_down(&self) -> bool {
        self.is_shutting_down
    }

    pub(super) fn is_initialized(&self) -> bool {
        self.is_initialized
    }

    pub(super) fn wants_status(&self) -> bool {
        self.is_initialized && self.wants_status
    }

    /// Whether a daemon has answered `initialize`.
    pub(super) fn is_handshake_done(&self) -> bool {
        self.is_handshake_done
    }

    /// The process of the editor.
    pub(super) fn editor_process(&self) -> Option<u32> {
        self.editor_process
    }

    /// Records that the editor's process is not to be seen, as from a container.
    pub(super) fn forget_editor_process(&mut self) {
        self.editor_process = None;
    }

    /// Records a message of the editor.
    pub(super) fn record_editor_message(&mut self, message: &[u8]) -> Kind {
        let Ok(Envelope { id, method, params }) = serde_json::from_slice(message) else { return Kind::Other };
        let Some(method) = method else {
            let is_expected = id.is_none_or(|id| self.daemon_requests.remove(&id.to_string()));
            return if is_expected { Kind::Other } else { Kind::StaleResponse };
        };
        let params = params.map_or("null", RawValue::get);
        match (method.as_str(), &id) {
            ("initialize", Some(_)) => self.record_initialize(params),
            ("initialized", _) => self.is_initialized = true,
            ("shutdown", _) => self.is_shutting_down = true,
            ("exit", _) => return Kind::Exit,
            ("workspace/didChangeConfiguration", _) => self.configuration = Some(message.to_owned()),
            ("workspace/didChangeWorkspaceFolders", _) => self.folder_changes.push(message.to_owned()),
            ("textDocument/didOpen", _) => {
                if let Ok(params) = serde_json::from_str::<DidOpenTextDocumentParams>(params) {
                    let document = params.text_document;
                    let (uri, language) = (document.uri.0, document.language_id.into());
                    self.documents.open(uri, language, document.version, &document.text);
                }
            }
            ("textDocument/didChange", _) => {
                if let Ok(change) = serde_json::from_str::<DocumentChange>(params) {
                    let encoding = self.encoding.unwrap_or(Encoding::Utf16);
                    self.documents.change(&change, encoding);
                }
            }
            ("textDocument/didClose", _) => {
                if let Ok(params) = serde_json::from_str::<DidCloseTextDocumentParams>(params) {
                    self.documents.close(&params.text_document.uri.0);
                }
            }
            _ => {}
        }
        let Some(id) = id else { return Kind::Other };
        self.pending.insert(id.to_string(), (id, method));
        Kind::Request
    }

    fn record_initialize(&mut self, params: &str) {
        let Ok(params) = RawValue::from_string(params.to_owned()) else { return };
        if let Ok(client) = serde_json::from_str::<InitializeParams>(params.get()) {
            self.encoding = Some(Encoding::negotiate(&client));
            self.wants_status = Capabilities::of(&client.capabilities).status;
            self.editor_process = client.process_id.and_then(|pid| u32::try_from(pid).ok());
        }
        self.initialize_params = Some(params);
    }

    /// Records a message of the daemon, and returns whether to forward it to the editor.
    pub(super) fn record_daemon_message(&mut self, message: &[u8]) -> bool {
        let Ok(Envelope { id: Some(id), method, .. }) = serde_json::from_slice(message) else { return true };
        if method.is_some() {
            self.daemon_requests.insert(id.to_string());
            return true;
        }
        match self.pending.remove(&id.to_string()) {
            Some((_, method)) if method == "initialize" => self.is_handshake_done = true,
            Some(_) => {}
            None => return id.is_null(),
        }
        true
    }

    /// `initialize` with an id of its own, whose response [`is_initialize_response`] recognises.
    pub(super) fn replayed_initialize(&self) -> Vec<u8> {
        self.initialize_with(&json!(REPLAY_ID))
    }

    /// `initialize` with the editor's id, while it is pending.
    pub(super) fn pending_initialize(&self) -> Option<Vec<u8>> {
        let (id, _) = self.pending.values().find(|(_, method)| method == "initialize")?;
        Some(self.initialize_with(id))
    }

    fn initialize_with(&self, id: &Value) -> Vec<u8> {
        let params = self.initialize_params.as_ref().map_or("null", |params| params.get());
        format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"initialize","params":{params}}}"#).into_bytes()
    }

    /// The messages that follow `initialize`.
    pub(super) fn replay(&self) -> Vec<Vec<u8>> {
        let notification = |method: &str, params: Value| {
            json!({"jsonrpc": "2.0", "method": method, "params": params}).to_string().into_bytes()
        };
        let mut messages = Vec::new();
        if self.is_initialized {
            messages.push(notification("initialized", json!({})));
            messages.extend(self.configuration.clone());
            messages.extend(self.folder_changes.clone());
        }
        // The latest document is opened last.
        let documents: Vec<_> = self.documents.others("").collect();
        for snapshot in documents.iter().rev() {
            let document = json!({
                "uri": snapshot.uri,
                "languageId": snapshot.language,
                "version": snapshot.version,
                "text": snapshot.text.to_string(),
            });
            messages.push(notification("textDocument/didOpen", json!({"textDocument": document})));
        }
        messages
    }

    /// Makes responses to the requests of a daemon that disconnected stale.
    pub(super) fn forget_daemon_requests(&mut self) {
        self.daemon_requests.clear();
    }

    /// Responses to all pending requests. `initialize` is among them only with a `reason` why no daemon is connected.
    pub(super) fn drain_pending(&mut self, reason: Option<&str>) -> Vec<Vec<u8>> {
        let is_kept = |method: &str| method == "initialize" && reason.is_none();
        let pending = std::mem::take(&mut self.pending);
        let (kept, ended) = pending.into_iter().partition(|(_, (_, method))| is_kept(method));
        self.pending = kept;
        let ended: HashMap<String, (Value, String)> = ended;
        let answer = |(id, method): (Value, String)| {
            let error = |code: ErrorCode, message: &str| json!({"code": code.code(), "message": message});
            let (key, value) = match (method.as_str(), reason) {
                ("initialize", Some(reason)) => ("error", error(ErrorCode::InternalError, reason)),
                ("shutdown", _) => ("result", Value::Null),
                // With null some clients keep showing the previous text.
                ("textDocument/inlineCompletion", Some(_)) => ("result", json!({"items": []})),
                (_, Some(_)) => ("result", Value::Null),
                // Clients hide this one.
                (_, None) => ("error", error(ErrorCode::ContentModified, "the fimd daemon was replaced")),
            };
            json!({"jsonrpc": "2.0", "id": id, key: value}).to_string().into_bytes()
        };
        ended.into_values().map(answer).collect()
    }
}

/// Whether a message is the response to [`SessionRecord::replayed_initialize`].
pub(super) fn is_initialize_response(message: &[u8]) -> bool {
    let envelope = serde_json::from_slice::<Envelope>(message);
    envelope.is_ok_and(|envelope| envelope.method.is_none() && envelope.id == Some(json!(REPLAY_ID)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receive(record: &mut SessionRecord, id: Option<i64>, method: &str, params: Value) -> Kind {
        let mut message = json!({"jsonrpc": "2.0", "method": method, "params": params});
        if let Some(id) = id {
            message["id"] = json!(id);
        }
        record.record_editor_message(message.to_string().as_bytes())
    }

    fn read(messages: Vec<Vec<u8>>) -> Vec<Value> {
        messages.iter().map(|message| serde_json::from_slice(message).unwrap()).collect()
    }

    /// A session with one document, changed since it was opened.
    fn session() -> SessionRecord {
        let mut record = SessionRecord::default();
        let capabilities = json!({"general": {"positionEncodings": ["utf-8"]}});
        receive(
            &mut record,
            Some(1),
            "initialize",
            json!({"processId": null, "rootUri": null, "capabilities": capabilities}),
        );
        assert!(record.record_daemon_message(br#"{"jsonrpc":"2.0","id":1,"result":{}}"#));
        receive(&mut record, None, "initialized", json!({}));
        for uri in ["file:///a", "file:///b"] {
            let document = json!({"uri": uri, "languageId": "python", "version": 1, "text": "\u{e9}x\n"});
            receive(&mut record, None, "textDocument/didOpen", json!({"textDocument": document}));
        }
        let range = json!({"start": {"line": 0, "character": 2}, "end": {"line": 0, "character": 3}});
        let change = json!({"textDocument": {"uri": "file:///a", "version": 7}, "contentChanges": [{"range": range, "text": "y"}]});
        receive(&mut record, None, "textDocument/didChange", change);
        receive(&mut record, None, "textDocument/didClose", json!({"textDocument": {"uri": "file:///b"}}));
        record
    }

    #[test]
    fn the_current_state_is_replayed_to_a_new_daemon() {
        let mut record = session();
        receive(&mut record, None, "workspace/didChangeConfiguration", json!({"settings": {"warm": true}}));
        receive(&mut record, None, "workspace/didChangeConfiguration", json!({"settings": {"warm": false}}));
        let replayed = read(record.replay());
        let methods: Vec<_> = replayed.iter().map(|message| message["method"].as_str().unwrap()).collect();
        assert_eq!(methods, ["initialized", "workspace/didChangeConfiguration", "textDocument/didOpen"]);
        assert_eq!(replayed[1]["params"]["settings"]["warm"], false);
        let document = json!({"uri": "file:///a", "languageId": "python", "version": 7, "text": "\u{e9}y\n"});
        assert_eq!(replayed[2]["params"]["textDocument"], document);
        let initialize = record.replayed_initialize();
        let id = serde_json::from_slice::<Value>(&initialize).unwrap()["id"].clone();
        let answer = json!({"jsonrpc": "2.0", "id": id, "result": {}}).to_string();
        assert!(is_initialize_response(answer.as_bytes()) && !is_initialize_response(&initialize));
        assert!(!record.record_daemon_message(answer.as_bytes()), "the editor has not sent it");
    }

    #[test]
    fn every_pending_request_is_answered_once() {
        let mut record = session();
        for (id, method) in [(2, "textDocument/inlineCompletion"), (3, "textDocument/hover"), (4, "shutdown")]
        {
            assert_eq!(receive(&mut record, Some(id), method, json!({})), Kind::Request);
        }
        assert!(record.is_shutting_down());
        assert!(record.record_daemon_message(br#"{"jsonrpc":"2.0","id":3,"result":null}"#));
        let mut answers = read(record.drain_pending(Some("it is gone")));
        answers.sort_by_key(|answer| answer["id"].as_i64());
        assert_eq!(answers[0], json!({"jsonrpc": "2.0", "id": 2, "result": {"items": []}}));
        assert_eq!(answers[1], json!({"jsonrpc": "2.0", "id": 4, "result": null}));
        assert_eq!((answers.len(), record.drain_pending(None).len()), (2, 0));
        // A late response of the previous daemon is dropped.
        assert!(!record.record_daemon_message(br#"{"jsonrpc":"2.0","id":2,"result":null}"#));
    }

    #[test]
    fn initialize_is_answered_by_a_daemon_or_fails() {
        let mut record = SessionRecord::default();
        receive(&mut record, Some(1), "initialize", json!({"capabilities": {}}));
        assert!(record.drain_pending(None).is_empty() && record.pending_initialize().is_some());
        let failed = read(record.drain_pending(Some("there is none")));
        assert_eq!((&failed[0]["id"], &failed[0]["error"]["message"]), (&json!(1), &json!("there is none")));
        assert!(record.pending_initialize().is_none());
    }

    #[test]
    fn responses_to_a_previous_daemon_are_dropped() {
        let mut record = session();
        let answer = br#"{"jsonrpc":"2.0","id":0,"result":null}"#;
        assert!(
            record.record_daemon_message(br#"{"jsonrpc":"2.0","id":0,"method":"client/registerCapability"}"#)
        );
        assert_eq!(record.record_editor_message(answer), Kind::Other);
        assert!(
            record.record_daemon_message(br#"{"jsonrpc":"2.0","id":0,"method":"client/registerCapability"}"#)
        );
        record.forget_daemon_requests();
        assert_eq!(record.record_editor_message(answer), Kind::StaleResponse);
        assert_eq!(record.record_editor_message(b"{"), Kind::Other);
    }
}
