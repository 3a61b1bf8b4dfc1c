//! The language server, by its protocol.

use std::sync::{Arc, mpsc};

use fimd::complete::record::{Record, Source};
use fimd::config::Configuration;
use fimd::serve::Engine;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::client::{CANCELLED, CONTENT_MODIFIED, Client, deterministic, place};
use crate::{cli, tiny};

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
    records: mpsc::Receiver<Record>,
    _model: TempDir,
}

fn editor_with(capabilities: Value) -> Editor {
    configured(capabilities, deterministic(), Value::Null)
}

fn editor() -> Editor {
    editor_with(json!({"textDocument": {"inlineCompletion": {}}}))
}

/// An editor whose server is started with one configuration and then receives settings.
fn configured(capabilities: Value, configuration: Configuration, settings: Value) -> Editor {
    let model = tiny::folder();
    let engine = tiny::engine(model.path());
    let (record, records) = mpsc::channel();
    let observer = Arc::new(move |happened: &Record| record.send(*happened).unwrap());
    let mut client = Client::start_with(engine.clone(), configuration, Some(observer));
    client.initialize_with(capabilities, settings);
    Editor { client, engine, records, _model: model }
}

/// An editor whose prompts end with the text before the cursor.
fn continued() -> Editor {
    set(json!({"fim.order": "spm"}))
}

fn set(settings: Value) -> Editor {
    configured(json!({"textDocument": {"inlineCompletion": {}}}), deterministic(), settings)
}

impl Editor {
    /// The items of ghost text at a position.
    #[track_caller]
    fn inline(&mut self, uri: &str, position: [u32; 2], context: Value) -> Vec<Value> {
        let id = self.client.request_inline(uri, position, context);
        items(self.client.result(id))
    }

    /// Checks the first line of the first item at a position, and its range, which is on one line. An invoked request
    /// has more items.
    #[track_caller]
    fn check(&mut self, position: [u32; 2], context: Value, text: &str, [line, start, end]: [u32; 3]) {
        let is_invoked = context == invoked();
        let items = self.inline(URI, position, context);
        assert!(items.len() == 1 || is_invoked && (1..=3).contains(&items.len()), "{items:?}");
        assert_eq!(items[0]["insertText"].as_str().unwrap().lines().next(), Some(text));
        assert_eq!(items[0]["range"], range([line, start], [line, end]));
    }

    /// Inserts text in the first line.
    fn insert(&mut self, version: i64, character: u32, text: &str) {
        let at = [0, character];
        self.client.change(URI, version, json!([{"range": range(at, at), "text": text}]));
    }

    /// The source of the answer to the oldest unchecked request, and whether it was cancelled.
    fn record(&self) -> (Source, bool) {
        let record = self.records.recv_timeout(std::time::Duration::from_secs(60)).expect("a request ends");
        assert!(record.total_ms >= 0.0 && (record.source == Source::Model || record.prompt_tokens == 0));
        (record.source, record.is_cancelled)
    }

    /// Waits until a counter is no longer 0.
    fn wait_for(&mut self, counter: &str) {
        for _ in 0..600 {
            let statistics = self.client.call("fimd/statistics", Value::Null);
            if statistics[counter] != 0 {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        panic!("{counter} stays 0: {}", self.client.call("fimd/statistics", Value::Null));
    }

    /// Waits until a request is with the engine.
    fn wait_until_busy(&mut self) {
        while self.client.notification("fimd/status")["busy"] != json!(true) {}
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
fn initialize_declares_the_capabilities() {
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
            "workspace": {"workspaceFolders": {"supported": true, "changeNotifications": true}},
            "inlineCompletionProvider": true,
            "hoverProvider": true,
            "codeActionProvider": {"codeActionKinds": ["quickfix", "refactor.rewrite"], "resolveProvider": true},
            "executeCommandProvider": {"commands": ["fimd.apply", "fimd.explain", "fimd.pause", "fimd.resume"]},
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
    // one\r\n two 🦀 = ( y\n: nothing is shown before `y` unless invoked.
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
    // Before `y` something is shown only when invoked.
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

    // While it runs, too: the generation takes longer than the messages.
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
fn answers_to_an_outdated_text_are_dropped() {
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
    assert_eq!(editor.inline("untitled:Untitled-1", [0, 4], automatic()).len(), 1);
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
fn malformed_messages_do_not_end_the_session() {
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

    // A client that disconnects cancels its request.
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
    let mut program = cli::program();
    program.args(["lsp", "--no-daemon", "--threads", "1", "--model"]).arg(model.path());
    let mut client = Client::spawn(program);
    let experimental = json!({"fimd": {"status": true}});
    client.initialize(json!({"textDocument": {"inlineCompletion": {}}, "experimental": experimental}));
    // The starter answers until the model is loaded.
    while client.notification("fimd/status")["model"] != json!(model.path()) {}
    client.open(URI, "x = ");
    let id = client.request_inline(URI, [0, 4], automatic());
    assert_eq!(items(client.result(id))[0]["insertText"], tiny::LINE);
}

#[test]
fn completing_is_paused_by_command() {
    let mut editor = continued();
    editor.client.open(URI, "x = ");
    let command = |command: &str, arguments: Value| json!({"command": command, "arguments": arguments});
    for (wanted, arguments, completes) in [
        ("fimd.pause", json!([]), false),
        ("fimd.resume", json!([]), true),
        ("fimd.pause", json!([60]), false),
        ("fimd.pause", json!([0]), true),
    ] {
        editor.client.call("workspace/executeCommand", command(wanted, arguments));
        let started = std::time::Instant::now();
        loop {
            let id = editor.client.request_inline(URI, [0, 4], invoked());
            if items(editor.client.result(id)).is_empty() != completes {
                break;
            }
            assert!(started.elapsed().as_secs() < 60, "{wanted}: completes is not {completes}");
        }
    }
    for arguments in [json!(["soon"]), json!([-1]), json!([1, 2])] {
        let id = editor.client.request("workspace/executeCommand", command("fimd.pause", arguments));
        assert_eq!(editor.client.error(id), -32602);
    }
}

#[test]
fn typing_through_a_suggestion_needs_no_model() {
    let mut editor = continued();
    editor.client.open(URI, "x = \ny = \n");
    editor.check([0, 4], automatic(), tiny::LINE, [0, 4, 4]);
    editor.insert(2, 4, "a");
    editor.check([0, 5], automatic(), &tiny::LINE[1..], [0, 5, 5]);
    editor.insert(3, 5, "bc");
    editor.check([0, 7], automatic(), &tiny::LINE[3..], [0, 7, 7]);
    editor.client.change(URI, 4, json!([{"range": range([0, 5], [0, 7]), "text": ""}]));
    editor.check([0, 5], automatic(), &tiny::LINE[1..], [0, 5, 5]);
    editor.check([1, 4], automatic(), tiny::LINE, [1, 4, 4]);
    editor.check([0, 5], automatic(), &tiny::LINE[1..], [0, 5, 5]);
    for source in [Source::Model, Source::TypedThrough, Source::TypedThrough, Source::TypedThrough] {
        assert_eq!(editor.record(), (source, false));
    }
    for source in [Source::Model, Source::Cache] {
        assert_eq!(editor.record(), (source, false));
    }
    // An invoked request is not served from an automatic answer.
    editor.check([0, 5], invoked(), &tiny::LINE[1..], [0, 5, 5]);
    assert_eq!(editor.record(), (Source::Model, false));
}

#[test]
fn a_newer_request_joins_or_supersedes_a_generation() {
    for (typed, rest, source) in
        [("a", &tiny::LINE[1..], Source::Joined), ("B", "CDEFGHIJKLMNOPQRSTUVWXYZ0123456789", Source::Model)]
    {
        let capabilities = json!({
            "textDocument": {"inlineCompletion": {}}, "experimental": {"fimd": {"status": true}},
        });
        let mut editor = configured(capabilities, deterministic(), json!({"fim.order": "spm"}));
        editor.client.open(URI, "x = \n");
        let release = editor.hold();
        let older = editor.client.request_inline(URI, [0, 4], automatic());
        editor.wait_until_busy();
        editor.insert(2, 4, typed);
        let newer = editor.client.request_inline(URI, [0, 5], automatic());
        // It need not wait for the generation to become inconsistent.
        assert_eq!(editor.client.error(older), CONTENT_MODIFIED);
        drop(release);
        assert_eq!(items(editor.client.result(newer))[0]["insertText"], rest);
        let mut records = [editor.record(), editor.record()];
        records.sort_by_key(|record| record.1);
        assert_eq!(records, [(source, false), (Source::Model, true)]);
    }
}

#[test]
fn invoked_requests_have_several_items() {
    let mut editor = editor();
    editor.client.open(URI, "x = \n");
    let items = editor.inline(URI, [0, 4], invoked());
    let mut texts: Vec<&str> = items.iter().map(|item| item["insertText"].as_str().unwrap()).collect();
    assert!(texts[0].starts_with(tiny::LINE) && (2..=3).contains(&texts.len()), "{texts:?}");
    assert!(items.iter().all(|item| item.get("command").is_none()));
    texts.sort();
    texts.dedup();
    assert_eq!(texts.len(), items.len());
}

#[test]
fn an_accept_is_counted_and_followed_by_several_lines() {
    for is_accept in [true, false] {
        let mut editor = continued();
        editor.client.open(URI, "x = \n");
        editor.check([0, 4], automatic(), tiny::LINE, [0, 4, 4]);
        let item = json!({"insertText": tiny::LINE, "range": range([0, 4], [0, 4])});
        editor.client.notify("textDocument/didShowCompletion", json!({"item": item}));
        let partially = json!({"item": item, "acceptedLength": 3});
        editor.client.notify("textDocument/didPartiallyAcceptCompletion", partially);
        if is_accept {
            editor.insert(2, 4, tiny::LINE);
        } else {
            editor.insert(2, 4, &tiny::LINE[..20]);
            editor.insert(3, 24, &tiny::LINE[20..25]);
            editor.insert(4, 29, &tiny::LINE[25..]);
        }
        let items = editor.inline(URI, [0, 30], automatic());
        assert_eq!(!items.is_empty(), is_accept, "{items:?}");
        assert!(!is_accept || items[0]["insertText"].as_str().unwrap().starts_with("\nABC"));
        let statistics = editor.client.call("fimd/statistics", Value::Null);
        for (name, count) in [
            ("requests", 2),
            ("offered", 1 + u64::from(is_accept)),
            ("model", 1 + u64::from(is_accept)),
            ("shown", 1),
            ("accepted", u64::from(is_accept)),
            ("partially_accepted", 1),
        ] {
            assert_eq!(statistics[name], count, "{name}");
        }
        let python = &statistics["languages"]["Python"];
        assert_eq!(
            (&python["offered"], &python["accepted"]),
            (&statistics["offered"], &statistics["accepted"])
        );
        assert!(statistics["answer_ms"]["p95"].as_f64() >= statistics["model_ms"]["p50"].as_f64());
        assert!(statistics["tokens_evaluated"].as_u64() > Some(0));
    }
}

#[test]
fn speculation_answers_the_next_request() {
    let mut configuration = Configuration::default();
    configuration.fix("budget.hard_ms", "600000").unwrap();
    configuration.fix("budget.soft_ms", "600000").unwrap();
    configuration.fix("fim.order", "spm").unwrap();
    let mut editor = configured(json!({}), configuration, Value::Null);
    editor.client.open(URI, "x = \n");
    editor.client.notify("textDocument/didFocus", json!({"textDocument": {"uri": URI}}));
    editor.client.notify("textDocument/didFocus", json!({}));
    editor.wait_for("unasked_evaluated");
    editor.check([0, 4], automatic(), tiny::LINE, [0, 4, 4]);
    editor.wait_for("unasked_generated");
    editor.insert(2, 4, tiny::LINE);
    let items = editor.inline(URI, [0, 30], automatic());
    assert!(items[0]["insertText"].as_str().unwrap().starts_with("\nABC"));
    assert_eq!(editor.record(), (Source::Model, false));
    assert!(!editor.record().1);
}

#[test]
fn settings_decide_what_is_completed() {
    for (settings, is_completed) in [
        (json!({}), true),
        (json!({"enabled": false}), false),
        (json!({"disabled": {"languages": ["python"]}}), false),
        (json!({"disabled": {"globs": ["/*.py"]}}), false),
        (json!({"disabled.globs": ["sub/*.py"]}), true),
        (json!({"max_tokens": {"auto": 1}}), true),
    ] {
        let mut editor = set(settings.clone());
        editor.client.open(URI, "x = ");
        let items = editor.inline(URI, [0, 4], automatic());
        assert_eq!(!items.is_empty(), is_completed, "{settings}");
    }
}

#[test]
fn invalid_settings_are_reported_by_name() {
    let mut editor =
        set(json!({"alternative": 2, "disabled": {"languages": "python"}, "max_tokens.auto": 3}));
    let messages: Vec<String> = (0..2)
        .map(|_| editor.client.notification("window/showMessage")["message"].as_str().unwrap().to_owned())
        .collect();
    let says = |text: &str| messages.iter().any(|message| message.contains(text));
    assert!(says("unknown setting alternative; did you mean alternatives?"), "{messages:?}");
    assert!(says("disabled.languages: expected a list of strings"), "{messages:?}");
    editor.client.open(URI, "x = ");
    editor.check([0, 4], automatic(), &tiny::LINE[..3], [0, 4, 4]);
}

#[test]
fn what_git_ignores_is_not_completed() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join(".git")).unwrap();
    std::fs::write(dir.path().join(".gitignore"), "build/\n").unwrap();
    let mut editor = editor();
    for (path, is_completed) in [("a.py", true), ("build/a.py", false)] {
        let uri = format!("file://{}/{path}", dir.path().display());
        editor.client.open(&uri, "x = ");
        assert_eq!(!editor.inline(&uri, [0, 4], automatic()).is_empty(), is_completed, "{path}");
    }
}
