//! The language server as a client meets it.

use std::sync::mpsc;

use fimd::serve::Engine;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::client::{CANCELLED, CONTENT_MODIFIED, Client, place};
use crate::tiny;

const INLINE: &str = "textDocument/inlineCompletion";
const MENU: &str = "textDocument/completion";
const URI: &str = "file:///home/me/a.py";

fn invoked() -> Value {
    json!({"triggerKind": 1})
}

fn automatic() -> Value {
    json!({"triggerKind": 2})
}

/// An editor with ghost text, and the engine behind its server.
struct Editor {
    client: Client,
    engine: Engine,
    _model: TempDir,
}

fn editor_with(capabilities: Value) -> Editor {
    let model = tiny::folder();
    let engine = tiny::engine(model.path());
    let mut client = Client::start(engine.clone());
    client.initialize(capabilities);
    Editor { client, engine, _model: model }
}

fn editor() -> Editor {
    editor_with(json!({"textDocument": {"inlineCompletion": {}}}))
}

impl Editor {
    /// The items of ghost text at a place.
    #[track_caller]
    fn inline(&mut self, uri: &str, position: [u32; 2], context: Value) -> Vec<Value> {
        let id = self.client.request_inline(uri, position, context);
        items(self.client.result(id))
    }

    /// Checks the first line of the one item at a place, and its range, which is on one line.
    #[track_caller]
    fn check(&mut self, position: [u32; 2], context: Value, text: &str, [line, start, end]: [u32; 3]) {
        let items = self.inline(URI, position, context);
        assert_eq!(items.len(), 1, "{items:?}");
        assert_eq!(items[0]["insertText"].as_str().unwrap().lines().next(), Some(text));
        assert_eq!(items[0]["range"], range([line, start], [line, end]));
    }

    /// Keeps the engine busy until the returned sender is dropped.
    fn hold(&self) -> mpsc::Sender<()> {
        tiny::hold(&self.engine)
    }
}

#[track_caller]
fn items(result: Value) -> Vec<Value> {
    result["items"].as_array().unwrap_or_else(|| panic!("no list: {result}")).clone()
}

fn range(start: [u32; 2], end: [u32; 2]) -> Value {
    let position = |[line, character]: [u32; 2]| json!({"line": line, "character": character});
    json!({"start": position(start), "end": position(end)})
}

#[test]
fn initialize_says_what_the_server_can_do() {
    let model = tiny::folder();
    let engine = tiny::engine(model.path());
    for (offered, agreed) in [
        (json!(["utf-16", "utf-8"]), "utf-8"),
        (json!(["utf-16", "utf-32"]), "utf-16"),
        (json!(["utf-32"]), "utf-32"),
        (json!(["utf-7"]), "utf-16"),
        (Value::Null, "utf-16"),
    ] {
        let mut client = Client::start(engine.clone());
        let general = json!({"positionEncodings": offered});
        let result = client.initialize(json!({"general": general, "textDocument": {"inlineCompletion": {}}}));
        assert_eq!(result["serverInfo"]["name"], "fimd");
        let capabilities = json!({
            "positionEncoding": agreed,
            "textDocumentSync": {"openClose": true, "change": 2},
            "inlineCompletionProvider": true,
        });
        assert_eq!(result["capabilities"], capabilities);
    }
    let menu = Client::start(engine).initialize(json!({}))["capabilities"]["completionProvider"].clone();
    assert_eq!(menu, json!({"triggerCharacters": ["."]}));
}

#[test]
fn ghost_text_appears_at_the_cursor() {
    for (encodings, character) in [("utf-8", 10), ("utf-16", 7), ("utf-32", 6)] {
        let mut editor = editor_with(json!({"general": {"positionEncodings": [encodings]}}));
        editor.client.open(URI, "import os\r\n\t🦀é = \r\n");
        // In UTF-8: 1 + 4 + 2 + 3 bytes.
        editor.check([1, character], automatic(), tiny::LINE, [1, character, character]);
        editor.check([1, 99], invoked(), tiny::LINE, [1, character, character]);
        editor.check([99, 99], invoked(), tiny::LINE, [2, 0, 0]);
    }
}

#[test]
fn completions_have_the_line_ends_of_the_document() {
    let mut editor = editor();
    for (text, line_end) in [("def f():\r\n    x = 1\r\n    ", "\r\n"), ("def f():\n    x = 1\n    ", "\n")] {
        editor.client.open(URI, text);
        let items = editor.inline(URI, [2, 4], invoked());
        let inserted = items[0]["insertText"].as_str().unwrap();
        assert_eq!(inserted.matches('\n').count(), inserted.matches(line_end).count());
    }
}

#[test]
fn changes_are_seen_by_the_next_request() {
    let mut editor = editor();
    editor.client.open(URI, "x = (\ny\n");
    editor.client.change(
        URI,
        2,
        json!([
            {"range": range([0, 0], [0, 1]), "text": "one\r\ntwo 🦀"},
            {"range": range([1, 9], [2, 0]), "rangeLength": 1, "text": " "},
        ]),
    );
    // one\r\n two 🦀 = ( y\n: nothing is offered before `y`, but on request.
    assert!(editor.inline(URI, [1, 10], automatic()).is_empty());
    editor.check([1, 99], automatic(), tiny::LINE, [1, 11, 11]);
    editor.check([1, 10], invoked(), tiny::LINE, [1, 10, 10]);
    editor.client.change(URI, 3, json!([{"text": "z = "}]));
    editor.check([7, 7], automatic(), tiny::LINE, [0, 4, 4]);
}

#[test]
fn a_selected_entry_of_the_menu_is_continued() {
    let mut editor = editor();
    editor.client.open(URI, "os.pa\n");
    let selected = |range, text: &str| json!({"triggerKind": 2, "selectedCompletionInfo": {"range": range, "text": text}});
    let continued = format!("path{}", tiny::LINE);
    editor.check([0, 5], selected(range([0, 3], [0, 5]), "path"), &continued, [0, 3, 5]);
    editor.check([0, 5], selected(range([0, 5], [0, 3]), "path"), &continued, [0, 3, 5]);
    editor.check([0, 5], selected(range([0, 3], [1, 0]), "path"), tiny::LINE, [0, 5, 5]);
}

#[test]
fn trigger_kinds_of_early_vs_code_are_understood() {
    let mut editor = editor();
    editor.client.open(URI, "x = y\n");
    // Before `y` something appears only when it was asked for.
    for (kind, appears) in [(2, false), (1, true), (0, true), (1, false), (0, true), (2, false)] {
        let items = editor.inline(URI, [0, 4], json!({"triggerKind": kind}));
        assert_eq!(!items.is_empty(), appears, "{kind}");
    }
}

#[test]
fn a_cancelled_request_is_answered_at_once() {
    let mut editor = editor();
    editor.client.open(URI, "x = ");
    let release = editor.hold();
    let id = editor.client.request_inline(URI, [0, 4], automatic());
    editor.client.notify("$/cancelRequest", json!({"id": id}));
    assert_eq!(editor.client.error(id), CANCELLED);
    drop(release);
    editor.check([0, 4], automatic(), tiny::LINE, [0, 4, 4]);

    // While it runs, too: the model is at it for longer than the messages take.
    editor.client.open(URI, &"word word word word\n".repeat(500));
    let id = editor.client.request_inline(URI, [500, 0], automatic());
    editor.client.notify("$/cancelRequest", json!({"id": id}));
    assert_eq!(editor.client.error(id), CANCELLED);
    editor.client.notify("$/cancelRequest", json!({"id": id}));
    editor.client.notify("$/cancelRequest", json!({"id": "unknown"}));
}

#[test]
fn superseded_requests_are_all_answered() {
    let mut editor = editor();
    editor.client.open(URI, "x = ");
    editor.client.open("untitled:other", "x = ");
    let release = editor.hold();
    let other = editor.client.request_inline("untitled:other", [0, 4], automatic());
    let ids: Vec<i64> = (0..20).map(|_| editor.client.request_inline(URI, [0, 4], automatic())).collect();
    drop(release);
    for &id in &ids[..19] {
        assert!(items(editor.client.result(id)).is_empty());
    }
    for id in [ids[19], other] {
        assert_eq!(items(editor.client.result(id))[0]["insertText"], tiny::LINE);
    }
}

#[test]
fn answers_to_another_text_are_withheld() {
    let mut editor = editor();
    editor.client.open(URI, "x = ");
    let release = editor.hold();
    let mut ids = Vec::new();
    for version in 2..12 {
        ids.push(editor.client.request_inline(URI, [0, 4], invoked()));
        editor.client.change(URI, version, json!([{"range": range([0, 0], [0, 0]), "text": "x"}]));
    }
    ids.push(editor.client.request_inline(URI, [0, 4], invoked()));
    editor.client.close(URI);
    let after = editor.client.request_inline(URI, [0, 4], invoked());
    assert!(items(editor.client.result(after)).is_empty(), "it is not open");
    drop(release);
    for id in ids {
        assert_eq!(editor.client.error(id), CONTENT_MODIFIED);
    }
}

#[test]
fn what_is_not_open_or_secret_is_not_completed() {
    let mut editor = editor();
    assert!(editor.inline(URI, [0, 0], invoked()).is_empty());
    editor.client.change(URI, 2, json!([{"text": "x = "}]));
    editor.client.close(URI);
    assert!(editor.inline(URI, [0, 0], invoked()).is_empty());
    for uri in ["file:///srv/.env", "file:///home/me/%2Essh/config", "vscode-remote://host/srv/server.key"] {
        editor.client.open(uri, "x = ");
        assert!(editor.inline(uri, [0, 4], invoked()).is_empty(), "{uri}");
    }
    editor.client.open("untitled:Untitled-1", "x = ");
    assert_eq!(editor.inline("untitled:Untitled-1", [0, 4], invoked()).len(), 1);
}

#[test]
fn editors_without_ghost_text_have_a_menu() {
    let mut editor = editor_with(json!({"general": {"positionEncodings": ["utf-8", "utf-32", "utf-16"]}}));
    editor.client.open(URI, "🦀 = _wört1\nx = \n");
    let list = editor.client.call(MENU, place(URI, [0, 14], json!({"triggerKind": 1})));
    let text = format!("_wört1{}", tiny::LINE);
    let item = json!({
        "label": text,
        "kind": 1,
        "detail": "fimd",
        "filterText": "_wört1",
        "insertTextMode": 1,
        "textEdit": {"range": range([0, 7], [0, 14]), "newText": text},
    });
    assert_eq!(list, json!({"isIncomplete": true, "items": [item]}));

    let list = editor
        .client
        .call(MENU, json!({"textDocument": {"uri": URI}, "position": {"line": 1, "character": 4}}));
    assert_eq!(list["items"][0]["textEdit"], json!({"range": range([1, 4], [1, 4]), "newText": tiny::LINE}));
    for place in [place(URI, [0, 9], invoked()), place("file:///other", [0, 0], invoked())] {
        assert_eq!(editor.client.call(MENU, place), json!({"isIncomplete": true, "items": []}));
    }
}

#[test]
fn damaged_messages_do_not_end_the_session() {
    let mut editor = editor();
    let bodies: [&[u8]; 6] =
        [b"{", b"", b"[]", b"{\"jsonrpc\":\"1.0\"}", b"\"\xff\"", b"{\"jsonrpc\":\"2.0\",\"id\":1.5}"];
    for body in bodies {
        editor.client.send_body(body);
        assert_eq!(editor.client.response(&Value::Null)["error"]["code"], -32700);
    }
    editor.client.send_bytes(b"garbage\r\n\r\nX-Header: 7\r\nContent-Length: many\r\n\r\n{}\r\n");
    editor.client.send_bytes(&[b'x'; 10_000]);
    editor.client.send_body(b"{\"jsonrpc\":\"2.0\",\"id\":7,\"result\":null}");
    editor.client.notify("workspace/didChangeConfiguration", json!({"settings": null}));
    editor.client.notify("no/such", json!([]));
    editor.client.notify("textDocument/didOpen", json!({"textDocument": 7}));
    let id = editor.client.request("no/such", Value::Null);
    assert_eq!(editor.client.error(id), -32601);
    let id = editor.client.request(INLINE, json!({"position": {"line": -1}}));
    assert_eq!(editor.client.error(id), -32602);
    editor.client.open(URI, "x = ");
    editor.check([0, 4], automatic(), tiny::LINE, [0, 4, 4]);
}

#[test]
fn sessions_end_as_the_client_wants() {
    let model = tiny::folder();
    let engine = tiny::engine(model.path());
    let start = || Client::start(engine.clone());

    let mut early = start();
    let id = early.request_inline(URI, [0, 0], automatic());
    assert_eq!(early.error(id), -32002, "not initialized");
    assert_eq!(early.exit(), 1);

    let mut orderly = start();
    orderly.initialize(json!({}));
    orderly.call("shutdown", Value::Null);
    let id = orderly.request_inline(URI, [0, 0], automatic());
    assert_eq!(orderly.error(id), -32600, "refused after shutdown");
    assert_eq!(orderly.exit(), 0);

    // Whoever leaves during a request takes it along.
    let _release = tiny::hold(&engine);
    for hangs_up in [false, true] {
        let mut abrupt = start();
        abrupt.initialize(json!({}));
        abrupt.open(URI, "x = ");
        let id = abrupt.request_inline(URI, [0, 4], automatic());
        if hangs_up {
            abrupt.send_bytes(b"Content-Length: 100\r\n\r\n{");
        }
        assert_eq!(if hangs_up { abrupt.hang_up() } else { abrupt.exit() }, 1);
        assert_eq!(abrupt.error(id), CANCELLED);
    }
}

#[test]
fn the_program_serves_its_stdin() {
    let model = tiny::folder();
    let mut client = Client::spawn(&["--model", model.path().to_str().unwrap(), "--threads", "1"]);
    client.initialize(json!({"textDocument": {"inlineCompletion": {}}}));
    client.open(URI, "x = ");
    let id = client.request_inline(URI, [0, 4], automatic());
    assert_eq!(items(client.result(id))[0]["insertText"], tiny::LINE);
}
