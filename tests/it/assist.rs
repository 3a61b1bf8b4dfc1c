//! Explaining, fixing, documenting and hovers, by the protocol. The model's output is fixed (see `tiny`).

use fimd::serve::Engine;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::client::{CANCELLED, CONTENT_MODIFIED, Client};
use crate::tiny;

const URI: &str = "file:///home/me/a.py";
const TEXT: &str = "import os\n\n\ndef f(a):\n    return a\n\n\nprint(f(1))\n";
/// The model's output after a line end.
const REST: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
const REQUEST_FAILED: i64 = -32803;
const INVALID_PARAMS: i64 = -32602;

struct Editor {
    client: Client,
    engine: Engine,
    _model: TempDir,
}

fn editor(model: TempDir, capabilities: Value) -> Editor {
    let engine = tiny::engine(model.path());
    let mut client = Client::start(engine.clone());
    client.initialize(capabilities);
    client.open(URI, TEXT);
    Editor { client, engine, _model: model }
}

/// A client with all capabilities.
fn modern() -> Value {
    json!({
        "textDocument": {
            "codeAction": {
                "codeActionLiteralSupport": {"codeActionKind": {"valueSet": []}},
                "resolveSupport": {"properties": ["edit"]},
                "dataSupport": true,
                "disabledSupport": true,
                "tagSupport": {"valueSet": [1]},
            },
            "hover": {"contentFormat": ["markdown", "plaintext"]},
        },
        "workspace": {
            "applyEdit": true,
            "workspaceEdit": {"documentChanges": true, "changeAnnotationSupport": {}},
        },
        "window": {"showDocument": {"support": true}},
        "experimental": {"fimd": {"explanation": true}},
    })
}

/// A client with the oldest capabilities.
fn old() -> Value {
    json!({"workspace": {"applyEdit": true}})
}

fn at(line: u32, start: u32, end: u32) -> Value {
    json!({"start": {"line": line, "character": start}, "end": {"line": line, "character": end}})
}

impl Editor {
    fn actions(&mut self, range: Value, context: Value) -> Vec<Value> {
        let params = json!({"textDocument": {"uri": URI}, "range": range, "context": context});
        self.client.call("textDocument/codeAction", params).as_array().unwrap().clone()
    }

    /// The action whose title has this in it.
    #[track_caller]
    fn action(&mut self, range: Value, title: &str) -> Value {
        let actions = self.actions(range, json!({"diagnostics": []}));
        let is_it = |action: &&Value| action["title"].as_str().unwrap().contains(title);
        actions.iter().find(is_it).unwrap_or_else(|| panic!("no {title}: {actions:?}")).clone()
    }

    fn command(&mut self, command: &str, argument: Value) -> i64 {
        let params = json!({"command": command, "arguments": [argument]});
        self.client.request("workspace/executeCommand", params)
    }

    fn hover(&mut self, line: u32, character: u32) -> Value {
        let position = json!({"line": line, "character": character});
        self.client.call("textDocument/hover", json!({"textDocument": {"uri": URI}, "position": position}))
    }
}

fn titles(actions: &[Value]) -> Vec<&str> {
    actions.iter().map(|action| action["title"].as_str().unwrap()).collect()
}

#[test]
fn a_chat_model_explains_fixes_and_documents() {
    let mut editor = editor(tiny::chatting_folder(), modern());
    let problem = json!({"range": at(4, 4, 10), "message": "unexpected thing", "severity": 1});
    let actions = editor.actions(at(4, 0, 0), json!({"diagnostics": [problem]}));
    assert_eq!(titles(&actions), ["fimd: fix `f`", "fimd: document `f`", "fimd: explain `f`"]);
    let kinds: Vec<&str> = actions.iter().map(|action| action["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["quickfix", "refactor.rewrite", "fimd.explain"]);
    assert!(actions.iter().all(|action| action["tags"] == json!([1]) && action.get("edit").is_none()));
    assert_eq!(actions[0]["diagnostics"][0]["message"], "unexpected thing");

    let resolved = editor.client.call("codeAction/resolve", actions[0].clone());
    let annotation = &resolved["edit"]["changeAnnotations"]["fimd"];
    assert_eq!(annotation["needsConfirmation"], true);
    let edits = json!([{"range": {"start": {"line": 3, "character": 0}, "end": {"line": 4, "character": 12}},
        "newText": REST, "annotationId": "fimd"}]);
    let document = json!({"uri": URI, "version": 1});
    assert_eq!(resolved["edit"]["documentChanges"], json!([{"textDocument": document, "edits": edits}]));

    let resolved = editor.client.call("codeAction/resolve", actions[1].clone());
    let edit = &resolved["edit"]["documentChanges"][0]["edits"][0];
    let comment = format!("    \"\"\"{}\n    {REST}\n    \"\"\"\n", tiny::LINE);
    assert_eq!((&edit["newText"], &edit["range"]), (&json!(comment), &at(4, 0, 0)));

    let arguments = actions[2]["command"]["arguments"][0].clone();
    let id = editor.command("fimd.explain", arguments);
    let mut last = String::new();
    loop {
        let told = editor.client.notification("fimd/explanation");
        let markdown = told["markdown"].as_str().unwrap();
        assert!(markdown.starts_with(&last) && told["title"] == "Explanation of f");
        last = markdown.to_owned();
        if told["done"] == true {
            break;
        }
    }
    assert_eq!(last, tiny::TEXT);
    assert_eq!(editor.client.result(id), Value::Null);
}

#[test]
fn actions_depend_on_the_request() {
    let mut editor = editor(tiny::chatting_folder(), modern());
    let none: [&str; 0] = [];
    let selection = ["fimd: fix the selection", "fimd: document `f`", "fimd: explain the selection"];
    let problem = json!([{"range": at(3, 0, 1), "message": "m"}]);
    for (range, context, expected) in [
        (at(3, 4, 4), json!({"diagnostics": [], "triggerKind": 2}), &none[..]),
        (
            at(3, 4, 4),
            json!({"diagnostics": problem, "triggerKind": 2}),
            &["fimd: fix `f`", "fimd: document `f`", "fimd: explain `f`"],
        ),
        (at(3, 0, 4), json!({"diagnostics": [], "triggerKind": 1}), &selection),
        (at(3, 0, 4), json!({"diagnostics": [], "triggerKind": 2}), &selection[1..]),
        (at(3, 0, 4), json!({"diagnostics": [], "only": ["quickfix"]}), &none),
        (at(3, 0, 4), json!({"diagnostics": [], "only": ["refactor"]}), &selection[..2]),
        (at(3, 0, 4), json!({"diagnostics": problem, "only": ["quickfix"]}), &selection[..1]),
        (at(0, 0, 0), json!({"diagnostics": []}), &["fimd: fix the line", "fimd: explain the line"]),
        (at(1, 0, 0), json!({"diagnostics": []}), &none),
    ] {
        let actions = editor.actions(range.clone(), context.clone());
        assert_eq!(titles(&actions), expected, "{range} {context}");
    }
    editor.client.open("file:///home/me/.env", "A = 1\n");
    let secret = json!({"textDocument": {"uri": "file:///home/me/.env"}, "range": at(0, 0, 0), "context": {"diagnostics": []}});
    assert_eq!(editor.client.call("textDocument/codeAction", secret), json!([]));
}

#[test]
fn a_model_without_a_chat_only_documents_and_says_so() {
    let mut editor = editor(tiny::folder(), modern());
    let actions = editor.actions(at(3, 4, 4), json!({"diagnostics": []}));
    assert_eq!(titles(&actions), ["fimd: fix `f`", "fimd: document `f`", "fimd: explain `f`"]);
    for action in [&actions[0], &actions[2]] {
        assert!(action["disabled"]["reason"].as_str().unwrap().contains("no chat template"), "{action}");
    }
    let resolved = editor.client.call("codeAction/resolve", actions[1].clone());
    let edit = &resolved["edit"]["documentChanges"][0]["edits"][0];
    assert!(edit["newText"].as_str().unwrap().starts_with("    \"\"\"abc"), "{edit}");

    let id = editor.command("fimd.explain", json!({"uri": URI, "range": at(3, 4, 4)}));
    assert_eq!(editor.client.error(id), REQUEST_FAILED);

    let mut plain = self::editor(tiny::folder(), old());
    let actions = plain.actions(at(3, 4, 4), json!({"diagnostics": []}));
    assert_eq!(titles(&actions), ["fimd: document `f`"]);
}

#[test]
fn a_client_that_cannot_resolve_is_sent_the_edit() {
    let mut editor = editor(tiny::chatting_folder(), old());
    let action = editor.action(at(3, 4, 4), "document");
    assert_eq!(action["command"], "fimd.apply");
    let argument = action["arguments"][0].clone();
    let params = json!({"command": "fimd.apply", "arguments": [argument], "workDoneToken": 7});
    let id = editor.client.request("workspace/executeCommand", params);
    let edit = editor.client.answer("workspace/applyEdit", json!({"applied": true}))["edit"].clone();
    assert_eq!(edit["changes"][URI][0]["range"], at(4, 0, 0));
    assert_eq!(editor.client.result(id), Value::Null);
    let mut kinds = Vec::new();
    while kinds.last().is_none_or(|kind| kind != "end") {
        let progress = editor.client.notification("$/progress");
        assert_eq!(progress["token"], 7);
        kinds.push(progress["value"]["kind"].as_str().unwrap().to_owned());
    }
    assert_eq!(kinds[0], "begin");

    // An explanation is a message where the client supports nothing else.
    let id = editor.command("fimd.explain", json!({"uri": URI, "range": at(3, 4, 4)}));
    assert_eq!(editor.client.notification("window/showMessage")["message"], tiny::TEXT);
    editor.client.result(id);
}

#[test]
fn an_explanation_is_a_file_that_goes_with_the_session() {
    let capabilities = json!({"window": {"showDocument": {"support": true}, "workDoneProgress": true}});
    let mut editor = editor(tiny::chatting_folder(), capabilities);
    let id = editor.command("fimd.explain", json!({"uri": URI, "range": at(3, 4, 4)}));
    editor.client.answer("window/workDoneProgress/create", Value::Null);
    let shown = editor.client.answer("window/showDocument", json!({"success": true}));
    editor.client.result(id);
    while editor.client.notification("$/progress")["value"]["kind"] != "end" {}
    let path = shown["uri"].as_str().unwrap().strip_prefix("file://").unwrap().to_owned();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("# Explanation of f\n\n{}\n", tiny::TEXT));
    drop(editor);
    assert!(!std::path::Path::new(&path).exists());
}

#[test]
fn lines_with_secrets_are_not_fixed() {
    let mut editor = editor(tiny::chatting_folder(), modern());
    let text = "password = 'hunter2-Zq9xK'\nother = 1\n";
    editor.client.change(URI, 2, json!([{"text": text}]));
    let fix = editor.action(at(0, 0, 5), "fix");
    let id = editor.client.request("codeAction/resolve", fix);
    let message = editor.client.response(&json!(id))["error"]["message"].clone();
    assert!(message.as_str().unwrap().contains("have a secret"), "{message}");
    let fix = editor.action(at(1, 0, 5), "fix");
    let id = editor.client.request("codeAction/resolve", fix);
    let response = editor.client.response(&json!(id));
    assert!(!response.to_string().contains("have a secret"), "{response}");
}

#[test]
fn action_data_from_the_client_is_untrusted() {
    let mut editor = editor(tiny::chatting_folder(), modern());
    let action = editor.action(at(3, 4, 4), "document");
    let data = action["data"].clone();
    let changed = |name: &str, value: Value| {
        let mut action = action.clone();
        action["data"] = data.clone();
        action["data"][name] = value;
        action
    };
    for (action, code) in [
        (json!({"title": "t"}), INVALID_PARAMS),
        (json!({"title": "t", "data": {"action": "delete"}}), INVALID_PARAMS),
        (changed("more", json!(1)), INVALID_PARAMS),
        (changed("action", json!("erase")), INVALID_PARAMS),
        (changed("action", json!("explain")), INVALID_PARAMS),
        (changed("uri", json!("file:///etc/passwd")), REQUEST_FAILED),
        (changed("revision", json!(12345)), CONTENT_MODIFIED),
        (changed("range", at(99, 9, 9)), REQUEST_FAILED),
        (changed("range", at(1, 0, 0)), REQUEST_FAILED),
    ] {
        let id = editor.client.request("codeAction/resolve", action.clone());
        assert_eq!(editor.client.error(id), code, "{action}");
    }
    for (command, argument, code) in [
        ("fimd.nothing", json!({}), INVALID_PARAMS),
        ("fimd.explain", json!({}), INVALID_PARAMS),
        ("fimd.apply", json!([]), INVALID_PARAMS),
        ("fimd.explain", json!({"uri": "file:///etc/passwd", "range": at(0, 0, 0)}), REQUEST_FAILED),
        ("fimd.explain", json!({"uri": URI, "range": at(1, 0, 0)}), REQUEST_FAILED),
    ] {
        let id = editor.command(command, argument);
        assert_eq!(editor.client.error(id), code, "{command}");
    }
}

#[test]
fn work_ends_when_it_is_cancelled_or_the_document_changes() {
    let mut editor = editor(tiny::chatting_folder(), modern());
    let action = editor.action(at(3, 4, 4), "document");
    let release = tiny::hold(&editor.engine);
    let cancelled = editor.client.request("codeAction/resolve", action.clone());
    let modified = editor.client.request("codeAction/resolve", action.clone());
    editor.client.notify("$/cancelRequest", json!({"id": cancelled}));
    assert_eq!(editor.client.error(cancelled), CANCELLED);
    editor.client.change(URI, 2, json!([{"range": at(0, 0, 0), "text": "#"}]));
    let late = editor.client.request("codeAction/resolve", action);
    assert_eq!(editor.client.error(late), CONTENT_MODIFIED);
    drop(release);
    assert_eq!(editor.client.error(modified), CONTENT_MODIFIED);
}

#[test]
fn hovers_document_undocumented_definitions() {
    for model in [tiny::folder(), tiny::chatting_folder()] {
        let mut editor = editor(model, modern());
        let release = tiny::hold(&editor.engine);
        assert_eq!(editor.hover(3, 4), Value::Null, "there is nothing yet");
        drop(release);
        let contents = loop {
            // A call is about the same definition.
            let hover = editor.hover(7, 6);
            let text = hover["contents"]["value"].as_str().unwrap_or("(writing...)").to_owned();
            if !text.contains("(writing...)") {
                break hover["contents"].clone();
            }
        };
        let text = format!("{}\n{REST}\n\n*written by fimd*", tiny::LINE);
        assert_eq!(contents, json!({"kind": "markdown", "value": text}));
        let _release = tiny::hold(&editor.engine);
        assert_eq!(editor.hover(3, 5)["contents"], contents, "it needs the model no more");
        for (line, character) in [(0, 8), (4, 11), (7, 2), (7, 8), (2, 0), (99, 99)] {
            assert_eq!(editor.hover(line, character), Value::Null, "{line}:{character}");
        }
        let id = editor.client.request(
            "textDocument/hover",
            json!({"textDocument": {"uri": "file:///home/me/.env"}, "position": {"line": 0, "character": 4}}),
        );
        assert_eq!(editor.client.result(id), Value::Null);
    }
}

#[test]
fn ghost_text_does_not_wait_for_a_long_answer() {
    let mut editor = editor(tiny::chatting_folder(), modern());
    let release = tiny::hold(&editor.engine);
    let explained = editor.command("fimd.explain", json!({"uri": URI, "range": at(3, 4, 4)}));
    // The requests are handled in order, the responses are sent in another.
    let position = json!({"line": 7, "character": 11});
    let context = json!({"triggerKind": 1});
    let params = json!({"textDocument": {"uri": URI}, "position": position, "context": context});
    let ghost = editor.client.request("textDocument/inlineCompletion", params);
    drop(release);
    assert!(!editor.client.result(ghost)["items"].as_array().unwrap().is_empty());
    editor.client.result(explained);
    loop {
        let told = editor.client.notification("fimd/explanation");
        if told["done"] == true {
            assert_eq!(told["markdown"], tiny::TEXT);
            break;
        }
    }
}
