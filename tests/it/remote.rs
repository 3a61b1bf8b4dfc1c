//! The remote backend, with a scripted server.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use fimd::base::Cancel;
use fimd::complete::fim::Order;
use fimd::complete::remote::{Options, Remote, Template, Token, TokenSource};
use fimd::complete::{self, Request, driver};
use fimd::decode::{Budget, Generated, StopReason, Task};
use fimd::model::Tokenizer;
use fimd::serve::{self, Engine, Event, Priority};
use serde_json::{Value, json};

use crate::cli::program;
use crate::client::{Client, deterministic, place};

/// Longer than any operation that does not hang.
const PATIENCE: Duration = Duration::from_secs(60);

/// The server's reaction to a request.
#[derive(Clone)]
pub enum Act {
    /// Streams these texts, with a pause before each, and then the end.
    Stream(&'static [&'static str], Duration),
    /// Streams them with log-probabilities of so much each.
    Likely(&'static [&'static str], f64),
    /// Streams them, then sends nothing, but keeps the connection open.
    Stall(&'static [&'static str]),
    /// Streams them and closes the connection early.
    Cut(&'static [&'static str]),
    /// Responds with a status, headers and a text.
    Status(u16, String, &'static str),
    /// Responds with this content type and text.
    Say(&'static str, &'static str),
    /// Sends nothing.
    Hang,
}

/// A received request.
pub struct Asked {
    head: String,
    pub body: Value,
}

/// A server with a list of reactions, the last of which repeats.
pub struct Server {
    pub url: String,
    asked: mpsc::Receiver<Asked>,
    /// Connections that the client closed during a response.
    dropped: mpsc::Receiver<()>,
    connections: Arc<Mutex<usize>>,
}

impl Server {
    pub fn new(acts: &[Act]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (tell, asked) = mpsc::channel();
        let (drop_, dropped) = mpsc::channel();
        let acts = Arc::new(Mutex::new(acts.iter().cloned().collect::<VecDeque<Act>>()));
        let connections = Arc::new(Mutex::new(0));
        let counted = connections.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                *counted.lock().unwrap() += 1;
                let (acts, tell, drop_) = (acts.clone(), tell.clone(), drop_.clone());
                thread::spawn(move || serve_connection(stream.unwrap(), &acts, &tell, &drop_));
            }
        });
        Self { url, asked, dropped, connections }
    }

    fn options(&self) -> Options {
        Options {
            url: self.url.clone(),
            model: None,
            token: None,
            timeout: Duration::from_secs(20),
            requests_max: 4,
            retries: 2,
            template: Template::Ours,
            context: 4096,
        }
    }

    pub fn engine(&self) -> Engine {
        engine(self.options())
    }

    pub fn asked(&self) -> Asked {
        self.asked.recv_timeout(PATIENCE).expect("the server was asked")
    }

    /// Waits until the client has closed a connection during a response.
    pub fn wait_until_dropped(&self) {
        self.dropped.recv_timeout(PATIENCE).expect("the connection is dropped");
    }
}

fn serve_connection(
    stream: TcpStream,
    acts: &Mutex<VecDeque<Act>>,
    tell: &mpsc::Sender<Asked>,
    dropped: &mpsc::Sender<()>,
) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut stream = stream;
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if reader.read_line(&mut head).unwrap_or(0) == 0 {
                return;
            }
        }
        let length = head.to_ascii_lowercase();
        let length = length.lines().find_map(|line| line.strip_prefix("content-length:")).unwrap();
        let mut body = vec![0; length.trim().parse().unwrap()];
        reader.read_exact(&mut body).unwrap();
        let _ = tell.send(Asked { head, body: serde_json::from_slice(&body).unwrap() });
        let act = {
            let mut acts = acts.lock().unwrap();
            if acts.len() > 1 { acts.pop_front().unwrap() } else { acts[0].clone() }
        };
        match perform(&mut stream, act) {
            Ok(true) => {}
            Ok(false) => return,
            Err(_) => return dropped.send(()).unwrap_or_default(),
        }
    }
}

/// Whether the connection stays open; an error when the client has closed it.
fn perform(stream: &mut TcpStream, act: Act) -> std::io::Result<bool> {
    let event = |text: &str, logprobs: Value, end: Value| json!({"choices": [{"index": 0, "text": text, "logprobs": logprobs, "finish_reason": end}]});
    let mut whole = |kind: &str, text: &str, status: u16, headers: &str| {
        let length = text.len();
        write!(
            stream,
            "HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\n{headers}content-length: {length}\r\n\r\n{text}"
        )
    };
    let stalls = matches!(act, Act::Stall(_));
    let (texts, pause, logprob, is_cut) = match act {
        Act::Stream(texts, pause) => (texts, pause, None, false),
        Act::Likely(texts, logprob) => (texts, NOW, Some(logprob), false),
        Act::Stall(texts) => (texts, NOW, None, false),
        Act::Cut(texts) => (texts, NOW, None, true),
        Act::Status(status, headers, text) => {
            return whole("text/plain", text, status, &headers).map(|()| true);
        }
        Act::Say(kind, text) => return whole(kind, text, 200, "").map(|()| true),
        Act::Hang => return until_dropped(stream),
    };
    let start = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
    stream.write_all(start.as_bytes())?;
    let mut chunk = |data: String| {
        let data = format!("data: {data}\n\n");
        write!(stream, "{:x}\r\n{data}\r\n", data.len())
    };
    for text in texts {
        thread::sleep(pause);
        let logprobs = logprob.map_or(Value::Null, |logprob| json!({"token_logprobs": [logprob]}));
        chunk(event(text, logprobs, Value::Null).to_string())?;
    }
    if is_cut {
        return Ok(false);
    }
    if stalls {
        return until_dropped(stream);
    }
    chunk(event("", Value::Null, json!("stop")).to_string())?;
    chunk("[DONE]".into())?;
    stream.write_all(b"0\r\n\r\n")?;
    Ok(true)
}

/// Blocks until the client closes the connection.
fn until_dropped(stream: &mut TcpStream) -> std::io::Result<bool> {
    let ended = stream.read(&mut [0])?;
    Err(std::io::Error::other(format!("{ended} bytes")))
}

fn tokenizer() -> Tokenizer {
    Tokenizer::from_bytes("starter", include_bytes!("../../src/starter/tokenizer.json")).unwrap()
}

fn engine(options: Options) -> Engine {
    Remote::new(options, tokenizer()).unwrap().engine()
}

const NOW: Duration = Duration::ZERO;
const WORD: Act = Act::Stream(&["wor", "d"], NOW);

fn status(status: u16, headers: &str) -> Act {
    Act::Status(status, headers.into(), "secret words of a document")
}

/// Submits a generation of a document.
fn submit(engine: &Engine, key: &str, priority: Priority) -> mpsc::Receiver<anyhow::Result<Generated>> {
    let (send, receive) = mpsc::channel();
    engine.submit(serve::Request {
        key: key.into(),
        priority,
        not_before: None,
        task: Task::greedy(engine.tokenizer().encode(key), 16),
        cancel: Cancel::new(),
        listener: Box::new(move |event| {
            if let Event::Done(result) = event {
                send.send(result.map(|mut all| all.remove(0))).unwrap();
            }
        }),
    });
    receive
}

#[track_caller]
fn done(reply: &mpsc::Receiver<anyhow::Result<Generated>>) -> Generated {
    reply.recv_timeout(PATIENCE).expect("every request is answered").unwrap()
}

/// A generation, and the text that was streamed meanwhile.
fn generate(engine: &Engine, budget: Budget, cancel: &Cancel) -> (Result<Generated, String>, String) {
    let task = Task { budget, ..Task::greedy(engine.tokenizer().encode("x = "), 16) };
    let (send, receive) = mpsc::channel();
    engine.submit(serve::Request {
        key: String::new(),
        priority: Priority::Interactive,
        not_before: None,
        task,
        cancel: cancel.clone(),
        listener: Box::new(move |event| match event {
            Event::Text(text) => send.send((None, text.to_owned())).unwrap(),
            Event::Done(result) => send.send((Some(result), String::new())).unwrap(),
        }),
    });
    let mut streamed = String::new();
    loop {
        match receive.recv_timeout(PATIENCE).expect("every request is answered") {
            (None, text) => streamed += &text,
            (Some(result), _) => {
                let result = result.map(|mut all| all.remove(0)).map_err(|error| format!("{error:#}"));
                return (result, streamed);
            }
        }
    }
}

#[test]
fn a_prompt_is_sent_and_a_completion_received() {
    let request = || Request::new("import os\nx = os.", ")\ny = 1\n");
    for (template, prompt, suffix) in [
        (Template::Ours, "<|fim_prefix|>import os\n<|fim_suffix|>\ny = 1\n<|fim_middle|>x = os.", None),
        (Template::Server, "import os\nx = os.", Some("\ny = 1\n")),
    ] {
        let server = Server::new(&[WORD]);
        let token = Some(TokenSource::Text(Token::new("sesame").unwrap()));
        let model = Some("coder".to_owned());
        let engine = engine(Options { template, token, model, ..server.options() });
        let options = complete::Options::new(Order::PsmAnchored);
        let completion = driver::once(&engine, options, request(), &Cancel::new()).unwrap().unwrap();
        assert_eq!((&*completion.text, completion.stop), ("word", StopReason::EndToken));
        assert_eq!(completion.timings.decode_tokens, 2);
        let Asked { head, body } = server.asked();
        assert!(head.starts_with("POST /v1/completions HTTP/1.1\r\n"), "{head}");
        assert!(head.to_ascii_lowercase().contains("authorization: bearer sesame\r\n"), "{head}");
        assert_eq!((&body["prompt"], body["suffix"].as_str()), (&json!(prompt), suffix));
        assert_eq!(
            (&body["model"], &body["stream"], &body["max_tokens"]),
            (&json!("coder"), &json!(true), &json!(64))
        );
        assert_eq!((&body["temperature"], &body["logprobs"]), (&json!(0.0), &json!(1)));
    }
}

#[test]
fn completions_are_judged_by_log_probabilities() {
    let options = complete::Options::new(Order::PsmAnchored);
    for (act, is_shown) in
        [(Act::Likely(&["word"], -0.1), true), (Act::Likely(&["word"], -9.0), false), (WORD, true)]
    {
        let server = Server::new(&[act]);
        let request = Request::new("x = ", "\n");
        let shown = driver::once(&server.engine(), options, request, &Cancel::new()).unwrap();
        assert_eq!(shown.is_some(), is_shown);
    }
}

#[test]
fn special_tokens_end_a_completion() {
    let options = complete::Options::new(Order::PsmAnchored);
    for texts in [
        &["word()<|im_end|>\n<|im_start|>user\n"][..],
        &["wo", "rd()", "<", "|im_", "end", "|>", " more"],
        &["word()<fim_mid", "dle>x"],
        &["word()", "<｜end▁of", "▁sentence｜>"],
        &["word()<EOT"],
        &["word()\u{fffd}"],
    ] {
        let server = Server::new(&[Act::Stream(texts, NOW)]);
        let shown = driver::once(&server.engine(), options, Request::new("x = ", "\n"), &Cancel::new())
            .unwrap()
            .unwrap();
        assert_eq!(shown.text, "word()", "{texts:?}");
        let stops = server.asked().body["stop"].clone();
        for stop in ["<|im_end|>", "<fim_middle>", "<EOT>", "<｜end▁of▁sentence｜>"] {
            assert!(stops.as_array().unwrap().contains(&json!(stop)), "{stops}");
        }
    }
    // A server that takes four stop sequences only.
    let few = Act::Status(400, String::new(), "at most 4 stop sequences");
    let server = Server::new(&[few, WORD]);
    let shown =
        driver::once(&server.engine(), options, Request::new("x = ", "\n"), &Cancel::new()).unwrap().unwrap();
    assert_eq!(shown.text, "word");
    let counts = server.asked.try_iter().map(|asked| asked.body["stop"].as_array().unwrap().len());
    assert_eq!(counts.collect::<Vec<_>>(), [26, 4]);
}

#[test]
fn only_transient_failures_are_retried() {
    let garbage = Act::Say("text/html", "<html>secret words</html>");
    for (acts, count, expected) in [
        (vec![status(500, ""), status(503, ""), WORD], 3, Ok("word")),
        (vec![status(429, "retry-after: 1\r\n"), WORD], 2, Ok("word")),
        (vec![Act::Cut(&[]), WORD], 2, Ok("word")),
        (vec![garbage.clone(), Act::Say("text/event-stream", "data: x\n\n"), WORD], 3, Ok("word")),
        (vec![Act::Stream(&[" w", "ord"], NOW)], 1, Ok("word")),
        (vec![status(500, "")], 3, Err("status 500")),
        (vec![garbage], 3, Err("closed the connection early")),
        (vec![status(400, "")], 1, Err("status 400")),
        (vec![status(401, "")], 1, Err("remote.token_env")),
        (vec![status(404, "")], 1, Err("remote.url")),
        (
            vec![Act::Say(
                "application/json",
                "{\"choices\":[{\"text\":\"word\",\"finish_reason\":\"stop\"}]}",
            )],
            1,
            Ok("word"),
        ),
        (
            vec![Act::Say("text/event-stream", "data: {\"error\":{\"message\":\"secret words\"}}\n\n")],
            3,
            Err("an error"),
        ),
        (vec![Act::Cut(&["one\n", "tw"])], 1, Ok("one")),
        (vec![Act::Cut(&["on"])], 1, Err("closed the connection early")),
        (vec![Act::Status(500, String::new(), "logits_all must be True"), WORD, WORD], 2, Ok("word")),
    ] {
        let server = Server::new(&acts);
        let engine = server.engine();
        let started = Instant::now();
        let (result, streamed) = generate(&engine, Budget::default(), &Cancel::new());
        match (&result, expected) {
            (Ok(generated), Ok(text)) => {
                assert!(generated.text == text && streamed.starts_with(text), "{streamed}")
            }
            (Err(error), Err(words)) => {
                assert!(error.contains(words) && !error.contains("secret"), "{error}");
                assert!(error.contains(&server.url), "{error}");
            }
            _ => panic!("{result:?} is not {expected:?}"),
        }
        let bodies: Vec<Value> = server.asked.try_iter().map(|asked| asked.body).collect();
        assert_eq!(bodies.len(), count, "{expected:?}");
        assert_eq!(bodies[0]["prompt"], "x =", "words begin with their blank");
        if let [Act::Status(429, ..), ..] = &acts[..] {
            assert!(started.elapsed() >= Duration::from_secs(1));
        }
        if let [Act::Status(500, _, "logits_all must be True"), ..] = &acts[..] {
            assert!(bodies[0]["logprobs"] == 1 && bodies[1]["logprobs"].is_null());
            generate(&engine, Budget::default(), &Cancel::new()).0.unwrap();
            assert!(server.asked().body["logprobs"].is_null());
        }
    }
}

#[test]
fn time_limits_end_stalled_responses() {
    let until = |time: Duration| Budget { until: Some(Instant::now() + time), ..Budget::default() };
    // The time limit ends a response that sends nothing, and one that stalls, with the text so far.
    for (act, expected) in [(Act::Hang, ""), (Act::Stall(&["one\n"]), "one\n")] {
        let server = Server::new(&[act]);
        let engine = server.engine();
        // A busy machine may exceed the limit before that: then the limit is doubled.
        let mut time = Duration::from_millis(100);
        loop {
            let (result, _) = generate(&engine, until(time), &Cancel::new());
            let generated = result.unwrap();
            assert_eq!(generated.stop, StopReason::Time);
            assert!([expected, ""].contains(&&*generated.text), "{}", generated.text);
            if generated.text == expected && server.asked.try_recv().is_ok() {
                break server.dropped.recv_timeout(PATIENCE).expect("the connection is dropped");
            }
            assert!(time < PATIENCE, "the server is never asked, or never heard");
            time *= 2;
        }
    }
    // A retry that would be too late is not made, and Retry-After is respected, of which a minute counts at most.
    let server = Server::new(&[status(429, "retry-after: 3600\r\n")]);
    let engine = server.engine();
    for expected in ["status 429", "Retry-After"] {
        let (result, _) = generate(&engine, until(Duration::from_secs(10)), &Cancel::new());
        let error = result.unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
    assert_eq!(server.asked.try_iter().count(), 1);
    // More than a clock can count is no other than that.
    let server = Server::new(&[status(429, &format!("retry-after: {}\r\n", u64::MAX))]);
    let (result, _) = generate(&server.engine(), until(Duration::from_secs(10)), &Cancel::new());
    assert!(result.unwrap_err().contains("status 429"));
    // Without a time limit, three times the timeout end a response that drips.
    let server = Server::new(&[Act::Stream(&["word "; 10_000], Duration::from_millis(50))]);
    let options = Options { timeout: Duration::from_millis(500), retries: 1, ..server.options() };
    let (result, _) = generate(&self::engine(options), Budget::default(), &Cancel::new());
    let error = result.unwrap_err();
    assert!(error.contains("has not finished within 1 s"), "{error}");
    // And the timeout itself one that sends nothing: it is long enough for both attempts to end before three times as long,
    // on a busy machine, too.
    let server = Server::new(&[Act::Hang]);
    let impatient =
        self::engine(Options { timeout: Duration::from_millis(1500), retries: 1, ..server.options() });
    let (result, _) = generate(&impatient, Budget::default(), &Cancel::new());
    let error = result.unwrap_err();
    assert!(error.contains("timeout"), "{error}");
    // The server may see the second attempt after that has ended.
    for _ in 0..2 {
        server.asked();
    }
    assert!(server.asked.try_recv().is_err());
}

#[test]
fn a_cancel_closes_the_connection() {
    let endless = Act::Stream(&["word "; 10_000], Duration::from_millis(50));
    for act in [Act::Hang, endless, status(503, "retry-after: 30\r\n")] {
        let hangs_up = !matches!(act, Act::Status(..));
        let server = Server::new(&[act]);
        let (engine, cancel) = (server.engine(), Cancel::new());
        let (result, _) = thread::scope(|scope| {
            let generation = scope.spawn(|| generate(&engine, Budget::default(), &cancel));
            server.asked();
            // Usually it is in the middle of its response, or of its wait, by then.
            thread::sleep(Duration::from_millis(300));
            cancel.cancel();
            generation.join().unwrap()
        });
        // No server here ends by itself.
        assert_eq!(result.unwrap().stop, StopReason::Cancelled);
        if hangs_up {
            server.dropped.recv_timeout(PATIENCE).expect("the connection is dropped");
        }
    }
}

#[test]
fn connections_are_reused() {
    let server = Server::new(&[WORD]);
    let engine = server.engine();
    for _ in 0..3 {
        assert_eq!(generate(&engine, Budget::default(), &Cancel::new()).0.unwrap().text, "word");
        thread::sleep(Duration::from_millis(100));
    }
    assert_eq!((server.asked.try_iter().count(), *server.connections.lock().unwrap()), (3, 1));
}

#[test]
fn a_slow_answer_holds_no_other() {
    let server = Server::new(&[Act::Stall(&["one"]), WORD]);
    let engine = server.engine();
    let slow = submit(&engine, "a", Priority::Interactive);
    assert_eq!(server.asked().body["prompt"], "a");
    for key in ["b", "c", "d"] {
        assert_eq!(done(&submit(&engine, key, Priority::Interactive)).text, "word");
    }
    assert!(slow.try_recv().is_err(), "it is in flight");
    // A newer request about its document cancels it, and is sent after that.
    assert_eq!(done(&submit(&engine, "a", Priority::Interactive)).text, "word");
    assert_eq!(done(&slow).stop, StopReason::Cancelled);
    server.dropped.recv_timeout(PATIENCE).expect("the connection is dropped");
}

#[test]
fn no_more_requests_are_in_flight_than_the_setting_says() {
    let server = Server::new(&[Act::Hang]);
    let engine = engine(Options { requests_max: 2, ..server.options() });
    let replies = ["a", "b", "c"].map(|key| submit(&engine, key, Priority::Interactive));
    let mut prompts = [0, 1].map(|_| server.asked().body["prompt"].clone());
    prompts.sort_by_key(Value::to_string);
    assert_eq!(prompts, ["a", "b"]);
    assert!(server.asked.recv_timeout(Duration::from_millis(200)).is_err());
    drop(engine);
    for reply in replies {
        assert_eq!(done(&reply).stop, StopReason::Cancelled);
    }
}

#[test]
fn the_server_begins_with_what_is_most_urgent() {
    let server = Server::new(&[Act::Hang, Act::Stall(&["one"]), WORD]);
    let engine = server.engine();
    let explanation = submit(&engine, "explain", Priority::Standard);
    assert_eq!(server.asked().body["prompt"], "explain");
    let typed = submit(&engine, "typed", Priority::Interactive);
    server.dropped.recv_timeout(PATIENCE).expect("the explanation gives way");
    assert_eq!(server.asked().body["prompt"], "typed");
    assert_eq!(server.asked().body["prompt"], "explain", "it resumes beside what was typed");
    assert_eq!(done(&explanation).text, "word");
    assert!(typed.try_recv().is_err(), "that is in flight");
}

#[test]
fn a_server_that_refuses_a_second_request_gets_one_at_a_time() {
    for busy in [status(429, ""), status(503, "retry-after: 1\r\n")] {
        let slow = Act::Stream(&["wor", "d"], Duration::from_secs(1));
        let server = Server::new(&[slow, busy, WORD]);
        let engine = engine(Options { retries: 0, ..server.options() });
        let first = submit(&engine, "a", Priority::Interactive);
        server.asked();
        let second = submit(&engine, "b", Priority::Interactive);
        assert_eq!(server.asked().body["prompt"], "b");
        assert!(server.asked.recv_timeout(Duration::from_millis(200)).is_err(), "it waits for the first");
        assert_eq!(done(&second).text, "word", "a refusal is no failed attempt");
        assert_eq!(done(&first).text, "word");
        assert_eq!(server.asked.try_iter().count(), 1);
    }
}

#[test]
fn nothing_is_sent_elsewhere() {
    let server = Server::new(&[WORD]);
    let location = format!("location: {}/v1/completions\r\n", server.url);
    for code in [301, 302, 307, 308] {
        let server = Server::new(&[status(code, &location)]);
        let (result, _) = generate(&server.engine(), Budget::default(), &Cancel::new());
        assert!(result.unwrap_err().contains("not followed"));
    }
    assert_eq!(*server.connections.lock().unwrap(), 0);

    // No server listens there.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let unreachable = engine(Options { url: format!("http://{port}"), retries: 1, ..server.options() });
    assert!(generate(&unreachable, Budget::default(), &Cancel::new()).0.is_err());
}

#[test]
fn an_editor_is_served_as_by_a_local_model() {
    const URI: &str = "file:///home/me/a.py";
    let server = Server::new(&[Act::Stream(&["alpha", "bet()"], NOW)]);
    let mut client = Client::start_with(server.engine(), deterministic(), None);
    client.initialize(json!({"textDocument": {"inlineCompletion": {}}}));
    client.open(URI, "x = ");
    let inline = |client: &mut Client, character: u32| {
        let params = place(URI, [0, character], json!({"triggerKind": 2}));
        client.call("textDocument/inlineCompletion", params)["items"][0]["insertText"].clone()
    };
    assert_eq!(inline(&mut client, 4), "alphabet()");
    let at = json!({"line": 0, "character": 4});
    client.change(URI, 2, json!([{"range": {"start": at, "end": at}, "text": "alp"}]));
    assert_eq!(inline(&mut client, 7), "habet()");
    assert_eq!(server.asked.try_iter().count(), 1, "what is on screen is served without the server");
    client.change(URI, 3, json!([{"text": "y = "}]));
    assert_eq!(inline(&mut client, 4), "alphabet()");
    assert_eq!(server.asked.try_iter().count(), 1);
}

#[test]
fn an_import_added_far_above_is_in_the_next_prompt() {
    const URI: &str = "file:///home/me/long.py";
    let server = Server::new(&[Act::Stream(&["alpha", "bet()"], NOW)]);
    let mut client = Client::start_with(server.engine(), deterministic(), None);
    client.initialize(json!({"textDocument": {"inlineCompletion": {}}}));
    let body: String = (0..300).map(|i| format!("value_{i} = load(\"{i}\")\n")).collect();
    client.open(URI, &format!("# Licence\nimport os\n{body}x = "));
    let prompt = |client: &mut Client, at: [u32; 2]| {
        client.call("textDocument/inlineCompletion", place(URI, at, json!({"triggerKind": 1})));
        server.asked().body["prompt"].as_str().unwrap().to_owned()
    };
    let first = prompt(&mut client, [302, 4]);
    assert!(first.contains("import os\nvalue_") && first.contains("value_299"), "{first}");
    assert!(
        !first.contains("Licence") && !first.contains("value_0 "),
        "the document is longer than the window"
    );
    let above = json!({"line": 1, "character": 0});
    client.change(URI, 2, json!([{"range": {"start": above, "end": above}, "text": "import numpy as np\n"}]));
    let second = prompt(&mut client, [303, 4]);
    assert!(second.contains("import numpy as np\nimport os\nvalue_"), "{second}");
    let end = json!({"line": 303, "character": 4});
    client.change(URI, 3, json!([{"range": {"start": end, "end": end}, "text": "np"}]));
    let third = prompt(&mut client, [303, 6]);
    assert_eq!(third, second.replacen("x = <|fim_suffix|>", "x = np<|fim_suffix|>", 1));
}

#[test]
fn the_program_logs_no_tokens_and_documents() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.py");
    std::fs::write(&file, "password = hunter2.\n").unwrap();
    let server = Server::new(&[status(500, ""), WORD, status(401, "")]);
    for is_answered in [true, false] {
        let output = program()
            .args(["complete", &format!("{}:1:20", file.display()), "--no-daemon"])
            .env("FIMD_REMOTE_URL", &server.url)
            .env("FIMD_REMOTE_TOKEN", "sesame")
            .env("FIMD_LOG", "trace")
            .output()
            .unwrap();
        assert_eq!(output.status.success(), is_answered);
        let (said, logged) =
            (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
        assert_eq!(said.contains("word"), is_answered, "{said}");
        assert_eq!(logged.contains("status 401"), !is_answered, "{logged}");
        for secret in ["sesame", "hunter2", "secret words"] {
            assert!(!logged.contains(secret), "{secret} is in {logged}");
        }
    }
}
