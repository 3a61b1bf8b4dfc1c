//! Typing sessions replayed: with the language server, with another server, and from the command line.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread::{self, JoinHandle};

use fimd::bench::keystrokes::client::Client;
use fimd::bench::keystrokes::infill::{Address, Infill};
use fimd::bench::keystrokes::replay::{Cause, Outcome};
use fimd::bench::keystrokes::report::Run;
use fimd::bench::keystrokes::session::Session;
use fimd::bench::keystrokes::{self, Who};
use fimd::complete::fim::Order;
use fimd::resident::served;
use serde_json::{Value, json};

use crate::cli::{check_fails, json};
use crate::tiny;

/// A session that begins after `x =` and has these actions.
fn session_json(events: &[Value], end: &str) -> String {
    let events: Vec<Value> = events
        .iter()
        .cloned()
        .map(|mut event| {
            event["pause_ms"] = json!(1);
            event
        })
        .collect();
    let lines = |text: &str| text.split('\n').map(String::from).collect::<Vec<_>>();
    json!({
        "path": "a.py",
        "language": "python",
        "text": ["# é", "x =", "y = 1", ""],
        "cursor": [1, 3],
        "events": events,
        "end": lines(end),
    })
    .to_string()
}

fn typed(text: &str) -> Vec<Value> {
    text.chars().map(|c| json!({"kind": "type", "text": c})).collect()
}

fn session() -> Session {
    let events = [
        typed(" aq"),
        vec![
            json!({"kind": "delete"}),
            json!({"kind": "accept", "text": "bcd"}),
            json!({"kind": "jump", "to": [2, 5]}),
            json!({"kind": "newline", "indent": ""}),
            json!({"kind": "edit", "at": [0, 0], "remove": 3, "text": "# è🦀"}),
            json!({"kind": "undo"}),
        ],
        typed("a"),
    ]
    .concat();
    Session::parse("short.json", &session_json(&events, "# é\nx = abcd\ny = 1\na\n")).unwrap()
}

fn say(_: String) {}

#[test]
fn a_session_is_typed_with_the_language_server() {
    let model = tiny::folder();
    for (who, pace) in [(Who::Script, 0.0), (Who::Script, 3.0), (Who::Oracle, 1.0)] {
        let served = served(tiny::engine(model.path()), Order::PsmAnchored);
        let mut client = Client::start(served).unwrap();
        let sessions = [session(), session()];
        let run =
            keystrokes::run(&mut client, "fimd", Order::PsmAnchored, &sessions, who, pace, &say).unwrap();
        client.finish().unwrap();
        assert_eq!(run.summary.unanswered, 0, "{who:?}, {pace}");
        assert_eq!(run.summary.requests, run.keystrokes.len());
        assert_eq!(run.summary.answered + run.summary.superseded, run.summary.requests);
        match (who, pace) {
            (Who::Script, 0.0) => check_script(&run),
            (Who::Oracle, _) => check_oracle(&run),
            _ => {}
        }
    }
}

#[test]
fn whatever_is_edited_every_request_is_answered() {
    let model = tiny::folder();
    for (order, seed) in [(Order::PsmAnchored, 1), (Order::Spm, 2), (Order::Psm, 3)] {
        let mut client = Client::start(served(tiny::engine(model.path()), order)).unwrap();
        let report =
            keystrokes::soak::run(&mut client, &Session::embedded().unwrap(), 400, seed, &say).unwrap();
        client.finish().unwrap();
        assert_eq!((report.edits, report.answered + report.superseded), (400, 400));
        assert!(report.answered > 0, "{report}");
    }
}

/// Every key is answered with the model's fixed continuation.
fn check_script(run: &Run) {
    use Cause::*;
    let line = tiny::LINE.len();
    let expected = [
        (Start, line),
        (Typing, line - 1),
        (Typing, line - 17),
        (Deletion, line - 1),
        (Accept, line - 4),
        (Jump, line),
        (Edit, line),
        (Undo, line),
        (Typing, line - 1),
    ];
    let seen: Vec<(Cause, usize)> = run.keystrokes.iter().map(|key| (key.cause, key.shown_chars)).collect();
    assert_eq!(seen, [expected, expected].concat());
    for key in &run.keystrokes {
        assert_eq!(key.outcome, Outcome::Answered);
        assert!(key.answer_ms.unwrap() > 0.0);
        let is_on_screen = key.line_ms == Some(0.0);
        // `a` continues the suggestion, and so does the accepted text.
        assert_eq!(is_on_screen, [1, 4, 8].contains(&(key.event - usize::from(key.event > 5))), "{key:?}");
    }
    assert_eq!(run.summary.causes.iter().map(|by| by.requests).sum::<usize>(), 18);
}

/// Nothing is shown at first; then what is typed is what is shown.
fn check_oracle(run: &Run) {
    let on_screen = run.keystrokes.iter().filter(|key| key.line_ms == Some(0.0)).count();
    assert_eq!((run.keystrokes.len(), on_screen), (20, 18));
}

/// A server in miniature: answers every completion with `text`, in chunks that part messages, except to
/// prompts that end with `?`, at which it waits until the client disconnects. Ends after so many requests and
/// returns them.
fn serve(
    requests: usize,
    status: &'static str,
    text: &'static str,
) -> (Address, JoinHandle<Vec<(String, Value)>>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let server = thread::spawn(move || {
        let handlers: Vec<_> = (0..requests)
            .map(|_| {
                let (stream, _) = listener.accept().unwrap();
                thread::spawn(move || answer(stream, status, text))
            })
            .collect();
        handlers.into_iter().map(|handler| handler.join().unwrap()).collect()
    });
    (Address::parse(&url).unwrap(), server)
}

fn answer(mut stream: TcpStream, status: &str, text: &str) -> (String, Value) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let (mut request, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        if request.is_empty() {
            request = line.trim().into();
        }
        match line.trim().split_once(": ") {
            Some(("Content-Length", value)) => length = value.parse().unwrap(),
            None if line.trim().is_empty() => break,
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    let body: Value = serde_json::from_slice(&body).unwrap();
    if body["prompt"].as_str().unwrap().ends_with('?') {
        assert_eq!(reader.read(&mut [0]).unwrap_or(0), 0, "the client says no more");
        return (request, body);
    }
    let timings =
        json!({"prompt_n": 40, "cache_n": 2, "prompt_ms": 3.5, "predicted_n": 2, "predicted_ms": 1.5});
    let events = [
        json!({"content": text, "stop": false, "timings": timings}),
        json!({"content": "", "stop": true, "tokens_evaluated": 42, "tokens_cached": 44, "timings": timings}),
    ];
    let events = events.map(|event| format!("data: {event}\n\n")).concat();
    let mut response = format!("HTTP/1.1 {status}\r\nTransfer-Encoding: chunked\r\n\r\n");
    for chunk in events.as_bytes().chunks(50) {
        response += &format!("{:x}\r\n{}\r\n", chunk.len(), String::from_utf8_lossy(chunk));
    }
    stream.write_all((response + "0\r\n\r\n").as_bytes()).unwrap();
    (request, body)
}

#[test]
fn a_session_is_typed_with_a_server() {
    for (order, path) in
        [(Order::Psm, "/infill"), (Order::PsmAnchored, "/infill"), (Order::Spm, "/completion")]
    {
        let (address, server) = serve(9, "200 OK", "abc");
        let mut peer = Infill::new(address, order);
        let run = keystrokes::run(&mut peer, "server", order, &[session()], Who::Script, 0.0, &say).unwrap();
        let requests = server.join().unwrap();
        assert!(requests.iter().all(|(request, _)| *request == format!("POST {path} HTTP/1.1")));
        let summary = &run.summary;
        assert_eq!((summary.answered, summary.suggested), (9, 9));
        assert_eq!((summary.evaluated.unwrap().p50, summary.prompt_tokens.unwrap().p50), (40.0, 42.0));
        assert_eq!(summary.sources.unwrap().model, 9);
        for key in &run.keystrokes {
            assert!(key.figures.unwrap().first_token_ms.unwrap() <= key.answer_ms.unwrap());
        }
        let last = &requests[8].1;
        let part = |name: &str| last[name].as_str().unwrap_or_default();
        match order {
            Order::Psm => {
                assert_eq!((part("input_prefix"), part("prompt")), ("# é\nx = abcd\ny = 1\na", ""));
            }
            Order::PsmAnchored => {
                assert_eq!((part("input_prefix"), part("prompt")), ("# é\nx = abcd\ny = 1\n", "a"));
            }
            Order::Spm => assert!(part("prompt").ends_with("<|fim_middle|># é\nx = abcd\ny = 1\na")),
        }
    }
}

#[test]
fn requests_to_a_server_are_cancelled() {
    let events = typed(" ???a");
    let session = Session::parse("a.json", &session_json(&events, "# é\nx = ???a\ny = 1\n")).unwrap();
    let (address, server) = serve(5, "200 OK", "abc");
    let mut peer = Infill::new(address, Order::PsmAnchored);
    let run = keystrokes::run(&mut peer, "server", Order::PsmAnchored, &[session], Who::Script, 20.0, &say)
        .unwrap();
    assert_eq!(server.join().unwrap().len(), 5);
    let outcomes: Vec<Outcome> = run.keystrokes.iter().map(|key| key.outcome).collect();
    assert_eq!(outcomes[1..4], [Outcome::Superseded; 3]);
    assert_eq!(outcomes[4], Outcome::Answered);
    assert!(run.keystrokes[1].line_ms.unwrap() > run.keystrokes[4].line_ms.unwrap());
}

#[test]
fn errors_name_the_failing_server() {
    let run = |address| {
        let mut peer = Infill::new(address, Order::Psm);
        let run = keystrokes::run(&mut peer, "server", Order::Psm, &[session()], Who::Script, 0.0, &say);
        format!("{:#}", run.unwrap_err())
    };
    let (address, server) = serve(1, "501 Not Implemented", "no infill");
    let error = run(address);
    server.join().unwrap();
    assert!(error.contains("501") && error.contains("no infill"), "{error}");
    let free = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap();
    let error = run(Address::parse(&format!("http://{free}")).unwrap());
    assert!(error.contains("cannot reach") && error.contains(&free.port().to_string()), "{error}");
}

#[test]
fn bench_keystrokes_prints_the_documented_keys() {
    let (model, dir) = (tiny::folder(), tempfile::tempdir().unwrap());
    let model = model.path().to_str().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(path("short.json"), session_json(&typed(" ab"), "# é\nx = ab\ny = 1\n")).unwrap();
    let bench = ["bench", "keystrokes", "--model", model, "--threads", "1", "--pace", "0", "--json"];
    let folder = dir.path().to_str().unwrap();
    let report = json(&[&bench[..], &["--sessions", folder, "--plot", &path("plot.svg")]].concat());
    for key in [
        "/version",
        "/machine/cpu",
        "/typist",
        "/pace",
        "/runs/0/server",
        "/runs/0/model",
        "/runs/0/threads",
        "/runs/0/summary/requests",
        "/runs/0/summary/superseded",
        "/runs/0/summary/unanswered",
        "/runs/0/summary/suggested",
        "/runs/0/summary/prompt_tokens",
        "/runs/0/summary/evaluated",
        "/runs/0/summary/replayed",
        "/runs/0/summary/first_token_ms",
        "/runs/0/summary/answer_ms/p50",
        "/runs/0/summary/answer_ms/p99",
        "/runs/0/summary/line_ms/p90",
        "/runs/0/summary/sources",
        "/runs/0/summary/wasted/share_of_evaluated",
        "/runs/0/summary/causes/1/answer_ms/p90",
        "/runs/0/keystrokes/0/answer_ms",
    ] {
        assert!(report.pointer(key).is_some(), "{key} is not in {report}");
    }
    let orders: Vec<&str> =
        report["runs"].as_array().unwrap().iter().map(|run| run["order"].as_str().unwrap()).collect();
    assert_eq!(orders, ["psm-anchored", "spm", "psm"]);
    assert_eq!(report["sessions"], json!(["short"]));
    assert_eq!(report["runs"][2]["summary"]["answered"], 3);
    let svg = std::fs::read_to_string(path("plot.svg")).unwrap();
    assert!(svg.starts_with("<svg ") && svg.matches("<path ").count() == 3);

    let embedded = ["--sessions", "python,go", "--events", "2", "--order", "spm"];
    let report = json(&[&bench[..], &embedded].concat());
    assert_eq!(report["sessions"], json!(["python", "go"]));
    assert_eq!(report["runs"][0]["summary"]["requests"], 4);

    let (address, server) = serve(3, "200 OK", "abc");
    let url = format!("http://{address}");
    let short = path("short.json");
    let report = json(&[&bench[..], &["--sessions", &short, "--url", &url]].concat());
    server.join().unwrap();
    assert_eq!(report["runs"].as_array().unwrap().len(), 1, "only what was asked for");
    assert_eq!(
        (&report["runs"][0]["server"], &report["runs"][0]["order"]),
        (&json!("llama.cpp"), &json!("psm"))
    );
}

#[test]
fn bench_keystrokes_rejects_invalid_sessions() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(path("bad.json"), session_json(&typed("a"), "")).unwrap();
    let bad = session_json(&[json!({"kind": "delete", "before": 99})], "");
    std::fs::write(path("worse.json"), bad).unwrap();
    std::fs::create_dir(path("empty")).unwrap();
    let check = |args: &[&str], code, words: &[&str]| {
        check_fails(&[&["bench", "keystrokes"], args].concat(), code, words);
    };
    check(&["--sessions", &path("bad.json")], 1, &["bad.json", "\"end\""]);
    check(&["--sessions", &path("worse.json")], 1, &["worse.json", "event 0", "99 characters"]);
    check(&["--sessions", &path("empty")], 1, &["no .json files", "empty"]);
    check(&["--sessions", "cobol"], 1, &["cobol"]);
    check(&["--order", "random"], 2, &["--order", "psm-anchored"]);
    check(&["--pace=-1"], 2, &["--pace"]);
    check(&["--url", "http://example.org"], 2, &["--url", "example.org"]);
    check(&["--url-order", "spm"], 2, &["--url"]);
    check(&["--model", "nowhere.gguf"], 1, &["nowhere.gguf"]);
}
