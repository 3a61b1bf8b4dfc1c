//! What a daemon has to be told to go on where another one left off, and who still waits for an answer.

use std::collections::{HashMap, HashSet};

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tower_lsp::gen_lsp_types::{
    DidChangeTextDocumentParams, DidCloseTextDocumentParams, DidOpenTextDocumentParams, InitializeParams,
};
use tower_lsp::jsonrpc::ErrorCode;

use crate::lsp::capabilities::Capabilities;
use crate::lsp::documents::Documents;
use crate::lsp::position::Encoding;

/// The id of `initialize` when it is said again.
const AGAIN: &str = "fimd/again";
/// What is known of a session.
#[derive(Default)]
pub(super) struct Past {
    /// The parameters of `initialize`.
    introduction: Option<Box<RawValue>>,
    is_introduced: bool,
    is_initialized: bool,
    is_shutting_down: bool,
    wants_status: bool,
    encoding: Option<Encoding>,
    /// The last `workspace/didChangeConfiguration`.
    configuration: Option<Vec<u8>>,
    documents: Documents,
    /// The requests of the editor that are not answered, with their methods.
    pending: HashMap<String, (Value, String)>,
    /// The requests of the daemon that are not answered.
    asked: HashSet<String>,
}

/// What kind of message an editor sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// It wants an answer.
    Request,
    /// It ends the session.
    Exit,
    /// It answers a daemon that is gone.
    StaleResponse,
    /// A notification, a response, or nothing that can be read.
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

impl Past {
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
    pub(super) fn is_introduced(&self) -> bool {
        self.is_introduced
    }

    /// Takes note of what the editor says.
    pub(super) fn note_of_editor(&mut self, message: &[u8]) -> Kind {
        let Ok(Envelope { id, method, params }) = serde_json::from_slice(message) else { return Kind::Other };
        let Some(method) = method else {
            let is_expected = id.is_none_or(|id| self.asked.remove(&id.to_string()));
            return if is_expected { Kind::Other } else { Kind::StaleResponse };
        };
        let params = params.map_or("null", RawValue::get);
        match (method.as_str(), &id) {
            ("initialize", Some(_)) => self.introduce(params),
            ("initialized", _) => self.is_initialized = true,
            ("shutdown", _) => self.is_shutting_down = true,
            ("exit", _) => return Kind::Exit,
            ("workspace/didChangeConfiguration", _) => self.configuration = Some(message.to_owned()),
            ("textDocument/didOpen", _) => {
                if let Ok(params) = serde_json::from_str::<DidOpenTextDocumentParams>(params) {
                    let document = params.text_document;
                    let (uri, language) = (document.uri.0, document.language_id.into());
                    self.documents.open(uri, language, document.version, &document.text);
                }
            }
            ("textDocument/didChange", _) => {
                if let Ok(params) = serde_json::from_str::<DidChangeTextDocumentParams>(params) {
                    let uri = &params.text_document.text_document_identifier.uri.0;
                    let encoding = self.encoding.unwrap_or(Encoding::Utf16);
                    self.documents.change(
                        uri,
                        params.text_document.version,
                        &params.content_changes,
                        encoding,
                    );
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

    fn introduce(&mut self, params: &str) {
        let Ok(params) = RawValue::from_string(params.to_owned()) else { return };
        if let Ok(client) = serde_json::from_str::<InitializeParams>(params.get()) {
            self.encoding = Some(Encoding::negotiate(&client));
            self.wants_status = Capabilities::of(&client.capabilities).status;
        }
        self.introduction = Some(params);
    }

    /// Takes note of what the daemon says, and returns whether it is for the editor.
    pub(super) fn note_of_daemon(&mut self, message: &[u8]) -> bool {
        let Ok(Envelope { id: Some(id), method, .. }) = serde_json::from_slice(message) else { return true };
        if method.is_some() {
            self.asked.insert(id.to_string());
            return true;
        }
        match self.pending.remove(&id.to_string()) {
            Some((_, method)) if method == "initialize" => self.is_introduced = true,
            Some(_) => {}
            None => return id.is_null(),
        }
        true
    }

    /// `initialize`, said again.
    pub(super) fn introduction(&self) -> Vec<u8> {
        self.introduction_with(&json!(AGAIN))
    }

    /// `initialize`, where the editor still waits for its answer.
    pub(super) fn unanswered_introduction(&self) -> Option<Vec<u8>> {
        let (id, _) = self.pending.values().find(|(_, method)| method == "initialize")?;
        Some(self.introduction_with(id))
    }

    fn introduction_with(&self, id: &Value) -> Vec<u8> {
        let params = self.introduction.as_ref().map_or("null", |params| params.get());
        format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"initialize","params":{params}}}"#).into_bytes()
    }

    /// What another daemon is told after that.
    pub(super) fn retell(&self) -> Vec<Vec<u8>> {
        let notification = |method: &str, params: Value| {
            json!({"jsonrpc": "2.0", "method": method, "params": params}).to_string().into_bytes()
        };
        let mut messages = Vec::new();
        if self.is_initialized {
            messages.push(notification("initialized", json!({})));
            messages.extend(self.configuration.clone());
        }
        // The one changed last is opened last.
        for snapshot in self.documents.others("").iter().rev() {
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

    /// The daemon is gone: nobody waits for what it asked.
    pub(super) fn forget_asked(&mut self) {
        self.asked.clear();
    }

    /// Answers to everyone who waits; with a `reason` that there is no daemon, to `initialize` too.
    pub(super) fn answers(&mut self, reason: Option<&str>) -> Vec<Vec<u8>> {
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
                // Null leaves the text of before on the screens of some clients.
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

/// Whether a message is the answer to [`Past::introduction`].
pub(super) fn answers_introduction(message: &[u8]) -> bool {
    let envelope = serde_json::from_slice::<Envelope>(message);
    envelope.is_ok_and(|envelope| envelope.method.is_none() && envelope.id == Some(json!(AGAIN)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn editor_says(past: &mut Past, id: Option<i64>, method: &str, params: Value) -> Kind {
        let mut message = json!({"jsonrpc": "2.0", "method": method, "params": params});
        if let Some(id) = id {
            message["id"] = json!(id);
        }
        past.note_of_editor(message.to_string().as_bytes())
    }

    fn read(messages: Vec<Vec<u8>>) -> Vec<Value> {
        messages.iter().map(|message| serde_json::from_slice(message).unwrap()).collect()
    }

    /// A session with one document, changed since it was opened.
    fn session() -> Past {
        let mut past = Past::default();
        let capabilities = json!({"general": {"positionEncodings": ["utf-8"]}});
        editor_says(
            &mut past,
            Some(1),
            "initialize",
            json!({"processId": null, "rootUri": null, "capabilities": capabilities}),
        );
        assert!(past.note_of_daemon(br#"{"jsonrpc":"2.0","id":1,"result":{}}"#));
        editor_says(&mut past, None, "initialized", json!({}));
        for uri in ["file:///a", "file:///b"] {
            let document = json!({"uri": uri, "languageId": "python", "version": 1, "text": "\u{e9}x\n"});
            editor_says(&mut past, None, "textDocument/didOpen", json!({"textDocument": document}));
        }
        let range = json!({"start": {"line": 0, "character": 2}, "end": {"line": 0, "character": 3}});
        let change = json!({"textDocument": {"uri": "file:///a", "version": 7}, "contentChanges": [{"range": range, "text": "y"}]});
        editor_says(&mut past, None, "textDocument/didChange", change);
        editor_says(&mut past, None, "textDocument/didClose", json!({"textDocument": {"uri": "file:///b"}}));
        past
    }

    #[test]
    fn another_daemon_is_told_what_is_open_now() {
        let mut past = session();
        editor_says(&mut past, None, "workspace/didChangeConfiguration", json!({"settings": {"warm": true}}));
        editor_says(
            &mut past,
            None,
            "workspace/didChangeConfiguration",
            json!({"settings": {"warm": false}}),
        );
        let told = read(past.retell());
        let methods: Vec<_> = told.iter().map(|message| message["method"].as_str().unwrap()).collect();
        assert_eq!(methods, ["initialized", "workspace/didChangeConfiguration", "textDocument/didOpen"]);
        assert_eq!(told[1]["params"]["settings"]["warm"], false);
        let document = json!({"uri": "file:///a", "languageId": "python", "version": 7, "text": "\u{e9}y\n"});
        assert_eq!(told[2]["params"]["textDocument"], document);
        let introduction = past.introduction();
        let id = serde_json::from_slice::<Value>(&introduction).unwrap()["id"].clone();
        let answer = json!({"jsonrpc": "2.0", "id": id, "result": {}}).to_string();
        assert!(answers_introduction(answer.as_bytes()) && !answers_introduction(&introduction));
        assert!(!past.note_of_daemon(answer.as_bytes()), "the editor has not asked for it");
    }

    #[test]
    fn everyone_who_waits_is_answered_once() {
        let mut past = session();
        for (id, method) in [(2, "textDocument/inlineCompletion"), (3, "textDocument/hover"), (4, "shutdown")]
        {
            assert_eq!(editor_says(&mut past, Some(id), method, json!({})), Kind::Request);
        }
        assert!(past.is_shutting_down());
        assert!(past.note_of_daemon(br#"{"jsonrpc":"2.0","id":3,"result":null}"#));
        let mut answers = read(past.answers(Some("it is gone")));
        answers.sort_by_key(|answer| answer["id"].as_i64());
        assert_eq!(answers[0], json!({"jsonrpc": "2.0", "id": 2, "result": {"items": []}}));
        assert_eq!(answers[1], json!({"jsonrpc": "2.0", "id": 4, "result": null}));
        assert_eq!((answers.len(), past.answers(None).len()), (2, 0));
        // What comes late from a daemon that was given up is for nobody.
        assert!(!past.note_of_daemon(br#"{"jsonrpc":"2.0","id":2,"result":null}"#));
    }

    #[test]
    fn initialize_is_answered_by_a_daemon_or_fails() {
        let mut past = Past::default();
        editor_says(&mut past, Some(1), "initialize", json!({"capabilities": {}}));
        assert!(past.answers(None).is_empty() && past.unanswered_introduction().is_some());
        let failed = read(past.answers(Some("there is none")));
        assert_eq!((&failed[0]["id"], &failed[0]["error"]["message"]), (&json!(1), &json!("there is none")));
        assert!(past.unanswered_introduction().is_none());
    }

    #[test]
    fn answers_to_a_daemon_that_is_gone_are_dropped() {
        let mut past = session();
        let answer = br#"{"jsonrpc":"2.0","id":0,"result":null}"#;
        assert!(past.note_of_daemon(br#"{"jsonrpc":"2.0","id":0,"method":"client/registerCapability"}"#));
        assert_eq!(past.note_of_editor(answer), Kind::Other);
        assert!(past.note_of_daemon(br#"{"jsonrpc":"2.0","id":0,"method":"client/registerCapability"}"#));
        past.forget_asked();
        assert_eq!(past.note_of_editor(answer), Kind::StaleResponse);
        assert_eq!(past.note_of_editor(b"{"), Kind::Other);
    }
}
