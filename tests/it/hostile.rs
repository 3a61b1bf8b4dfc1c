//! Messages that no editor should send: whatever comes, the server goes on and serves the next session.

use serde_json::{Value, json};

use fimd::base::random::Mmix;

use crate::client::{Client, place};
use crate::tiny;

const URI: &str = "file:///home/me/a.py";

/// Messages that are wrong each in another way, out of order ones included.
fn corpus() -> Vec<Value> {
    let message = |method: &str, params: Value| json!({"jsonrpc": "2.0", "method": method, "params": params});
    let request = |id: Value, method: &str, params: Value| json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params});
    let change = |range: Value, text: &str| {
        let document = json!({"uri": URI, "version": 3});
        let changes = json!([{"range": range, "text": text}]);
        message("textDocument/didChange", json!({"textDocument": document, "contentChanges": changes}))
    };
    let range = |start: [u32; 2], end: [u32; 2]| json!({"start": {"line": start[0], "character": start[1]}, "end": {"line": end[0], "character": end[1]}});
    let most = u32::MAX;
    let inline = "textDocument/inlineCompletion";
    let mut deep = json!([]);
    for _ in 0..100 {
        deep = json!([deep]);
    }
    vec![
        json!(null),
        json!([]),
        json!("text"),
        json!({}),
        json!({"jsonrpc": "1.0", "id": 1, "method": inline}),
        json!({"jsonrpc": "2.0", "id": {}, "method": inline}),
        json!({"jsonrpc": "2.0", "id": 9_007_199_254_740_993_u64, "result": null}),
        json!({"jsonrpc": "2.0", "id": "unasked", "error": {"code": 1, "message": "x"}}),
        request(json!(""), "", json!(null)),
        request(json!("x".repeat(10_000)), "fimd/unreadable", json!(null)),
        request(json!(100), "initialize", json!({"capabilities": {}})),
        request(json!(101), "no/suchMethod", deep),
        request(json!(102), inline, json!(null)),
        request(json!(103), inline, place(URI, [most, most], json!({"triggerKind": most}))),
        request(json!(104), inline, place("file:///nowhere", [0, 0], json!({"triggerKind": 1}))),
        request(json!(105), inline, place("\u{0}:%zz/../..", [0, 0], json!({"triggerKind": 1}))),
        request(
            json!(106),
            inline,
            place(
                URI,
                [0, 0],
                json!({"triggerKind": 1, "selectedCompletionInfo": {
                "range": range([5, 9], [0, 1]), "text": "x".repeat(1000)}}),
            ),
        ),
        request(json!(107), "textDocument/completion", place(URI, [most, 0], json!({}))),
        request(json!(108), "textDocument/hover", json!({"textDocument": {"uri": URI}, "position": -1})),
        request(json!(109), "textDocument/codeAction", json!({"range": range([9, 9], [0, 0])})),
        request(
            json!(110),
            "workspace/executeCommand",
            json!({"command": "fimd.explain", "arguments": [[]]}),
        ),
        request(
            json!(111),
            "workspace/executeCommand",
            json!({"command": "fimd.pause", "arguments": ["soon"]}),
        ),
        request(json!(112), "codeAction/resolve", json!({"title": "x", "data": {"uri": URI, "version": -7}})),
        request(json!(113), "fimd/statistics", json!({"unexpected": true})),
        change(range([most, most], [0, 0]), "backwards"),
        change(range([0, 3], [0, 1]), "backwards"),
        change(range([0, 0], [most, most]), "\u{2028}\r\u{0}\u{1F600}"),
        message(
            "textDocument/didChange",
            json!({"textDocument": {"uri": "x:y", "version": 1}, "contentChanges": []}),
        ),
        message("textDocument/didClose", json!({"textDocument": {"uri": "x:y"}})),
        message("textDocument/didOpen", json!({"textDocument": {"uri": URI}})),
        message(
            "textDocument/didOpen",
            json!({"textDocument": {
            "uri": URI, "languageId": "", "version": i32::MIN, "text": "\r".repeat(10_000)}}),
        ),
        message("textDocument/didFocus", json!([])),
        message("textDocument/didShowCompletion", json!({"item": 1})),
        message("textDocument/didPartiallyAcceptCompletion", json!({"item": {}, "acceptedLength": -1e300})),
        message("workspace/didChangeConfiguration", json!({"settings": {"fimd": [{}]}})),
        message("workspace/didChangeConfiguration", json!(null)),
        message("$/cancelRequest", json!({"id": []})),
        message("$/cancelRequest", json!({"id": 4_000_000_000_u32})),
        message("$/setTrace", json!({"value": "everything"})),
        message("window/workDoneProgress/cancel", json!({"token": [1]})),
        message("initialized", json!(1)),
        message("exitt", json!(null)),
    ]
}

/// Says everything that is wrong, then does what editors do.
fn survives(client: &mut Client, wrong: &[Vec<u8>]) {
    for body in wrong {
        client.send_body(body);
    }
    // What was damaged may have become a pause.
    client.call("workspace/executeCommand", json!({"command": "fimd.resume"}));
    let uri = "file:///home/me/b.py";
    client.open(uri, "x = ");
    let id = client.request_inline(uri, [0, 4], json!({"triggerKind": 1}));
    let text = client.result(id)["items"][0]["insertText"].clone();
    assert!(text.as_str().unwrap().starts_with(tiny::LINE), "{text}");
    client.close(uri);
    client.call("fimd/statistics", Value::Null);
    client.forget_unread();
}

#[test]
fn wrong_messages_do_not_end_the_session() {
    let model = tiny::folder();
    let engine = tiny::engine(model.path());
    let bodies: Vec<Vec<u8>> = corpus().iter().map(|message| message.to_string().into_bytes()).collect();
    let start = |is_early: bool| {
        let mut client = Client::start(engine.clone());
        if is_early {
            // Before `initialize`, everything but that is refused.
            bodies
                .iter()
                .filter(|body| !body.windows(12).any(|part| part == b"\"initialize\""))
                .for_each(|body| client.send_body(body));
        }
        client.initialize_with(
            json!({"textDocument": {"inlineCompletion": {}}}),
            json!({"fim.order": "spm", "unknown": {"deep": [1]}}),
        );
        client.open(URI, "first\nsecond\n");
        client
    };
    survives(&mut start(true), &bodies);
    let mut client = start(false);
    for body in &bodies {
        survives(&mut client, std::slice::from_ref(body));
    }
}

#[test]
fn damaged_bytes_do_not_end_the_session() {
    let model = tiny::folder();
    let engine = tiny::engine(model.path());
    let bodies: Vec<Vec<u8>> = corpus().iter().map(|message| message.to_string().into_bytes()).collect();
    let mut client = Client::start(engine);
    client.initialize_with(json!({"textDocument": {"inlineCompletion": {}}}), json!({"fim.order": "spm"}));
    client.open(URI, "first\nsecond\n");
    let mut numbers = Mmix(1);
    let mut random = |end| numbers.below(end);
    for _ in 0..20 {
        let mut damaged = Vec::new();
        for _ in 0..50 {
            let mut body = bodies[random(bodies.len())].clone();
            for _ in 0..1 + random(4) {
                let at = random(body.len());
                match random(4) {
                    0 => body[at] = random(256) as u8,
                    1 => body.truncate(at),
                    2 => body.insert(at, b"{}[]\",:0-9e\\"[random(12)]),
                    _ => drop(body.remove(at)),
                }
                if body.is_empty() {
                    break;
                }
            }
            // `exit` and `shutdown` are the client's right.
            damaged.push(body);
        }
        survives(&mut client, &damaged);
    }
}
