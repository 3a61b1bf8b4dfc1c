//! What the daemon costs beside a server of one's own, and how it bears many editors at once. Everything is measured
//! from outside, on programs that are started as editors start them.

use std::collections::HashMap;
use std::fmt;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;
use serde_json::{Value, json};

use super::keystrokes::soak::Dice;
use crate::base::process::memory_bytes;
use crate::base::timings::milliseconds;
use crate::lsp;

/// Longer than any answer takes.
const PATIENCE: Duration = Duration::from_secs(60);
/// A client that waits so long for an answer is stalled.
const STALL: Duration = Duration::from_secs(1);
/// The answers of the two servers are taken in turns of so many.
const TURN: usize = 50;
/// In a thousand edits, how many requests are taken back, and how often a client goes away without a word.
const CANCELLED: usize = 200;
const GONE: usize = 5;
/// What the daemon may keep of earlier prompts: little, so that it is full soon and memory says whether it grows.
const CACHE_BYTES: u64 = 64 << 20;
/// What clients that type together look at.
const TEXT: &str = include_str!("../../tests/data/demo/stack.py");
const URI: &str = "file:///bench/a.py";

/// What to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// The program fimd.
    pub program: PathBuf,
    /// A folder for a daemon of our own.
    pub runtime: PathBuf,
    /// Answers of each server.
    pub answers: usize,
    /// Bytes of the document that is open.
    pub document_bytes: usize,
    /// Editors that type at once.
    pub clients: usize,
    /// Edits of all of them in a second.
    pub edits_per_second: f64,
    /// For how long they type.
    pub time: Duration,
    /// Of their edits.
    pub seed: u64,
}

/// What was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// From a key to its answer, which needs no model, with a server that holds the model itself.
    pub own: Latency,
    /// The same through bridge and daemon.
    pub daemon: Latency,
    /// From the start of the program to the answer to `initialize`, with a daemon that runs, in milliseconds.
    pub start_ms: Vec<f64>,
    /// Memory of a bridge, in bytes.
    pub bridge_bytes: u64,
    /// Many editors at once.
    pub crowd: Crowd,
}

/// Times in milliseconds.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Latency {
    /// Half are as short.
    pub p50: f64,
    /// 99 of 100 are.
    pub p99: f64,
    /// The longest.
    pub max: f64,
}

/// What became of many editors at once.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Crowd {
    /// Seconds that they typed.
    pub seconds: f64,
    /// Edits, each with a request.
    pub edits: usize,
    /// Answered in some way, errors that clients hide included.
    pub answered: usize,
    /// Of clients that went away before the answer.
    pub abandoned: usize,
    /// Never answered.
    pub lost: usize,
    /// Waited for longer than a second.
    pub stalled: usize,
    /// Clients that went away without a word and came back.
    pub reconnects: usize,
    /// From request to answer.
    pub latency: Latency,
    /// Memory of the daemon after a quarter of the time.
    pub early_bytes: u64,
    /// At the end.
    pub late_bytes: u64,
}

impl Latency {
    fn of(mut ms: Vec<f64>) -> Self {
        ms.sort_by(f64::total_cmp);
        let at = |percent: usize| ms.get((ms.len() * percent).div_ceil(100).saturating_sub(1)).copied();
        Self {
            p50: at(50).unwrap_or_default(),
            p99: at(99).unwrap_or_default(),
            max: ms.last().copied().unwrap_or_default(),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        writeln!(f, "| answer without the model, ms | p50 | p99 | max |\n|---|---:|---:|---:|")?;
        for (name, latency) in [("`fimd lsp --no-daemon`", self.own), ("`fimd lsp`", self.daemon)] {
            writeln!(f, "| {name} | {:.2} | {:.2} | {:.2} |", latency.p50, latency.p99, latency.max)?;
        }
        let start = Latency::of(self.start_ms.clone());
        writeln!(f, "\nstart with a daemon: {:.0} ms at the median, {:.0} at most", start.p50, start.max)?;
        writeln!(f, "memory of another editor's bridge: {:.1} MiB", mib(self.bridge_bytes))?;
        let crowd = &self.crowd;
        writeln!(
            f,
            "\n{} edits in {:.0} s: {} answered, {} abandoned by clients that went away ({} times), {} lost, {} later than a second",
            crowd.edits,
            crowd.seconds,
            crowd.answered,
            crowd.abandoned,
            crowd.reconnects,
            crowd.lost,
            crowd.stalled
        )?;
        let Latency { p50, p99, max } = crowd.latency;
        writeln!(f, "answers after {p50:.1} ms at the median, {p99:.1} at 99 %, {max:.1} at most")?;
        writeln!(
            f,
            "memory of the daemon: {:.0} MiB after a quarter of the time, {:.0} MiB at the end",
            mib(crowd.early_bytes),
            mib(crowd.late_bytes)
        )
    }
}

/// Measures everything, with a daemon that is stopped afterwards.
pub fn run(options: &Options, say: &impl Fn(String)) -> Result<Report> {
    let stop = Stop(options);
    let mut shared = Editor::start(options, &["lsp"])?;
    say("answers through the daemon and without".into());
    let (own, daemon) = latencies(options, &mut shared)?;
    say("starting editors".into());
    let (start_ms, bridge_bytes) = starts(options)?;
    shared.end()?;
    say(format!("{} editors type", options.clients));
    let crowd = crowd(options)?;
    drop(stop);
    Ok(Report { own, daemon, start_ms, bridge_bytes, crowd })
}

/// Ends the daemon when dropped.
struct Stop<'o>(&'o Options);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        let _ = command(self.0, &["stop"]).stderr(Stdio::null()).status();
    }
}

fn command(options: &Options, args: &[&str]) -> Command {
    let mut command = Command::new(&options.program);
    command.args(args).stdin(Stdio::null()).env("FIMD_RUNTIME_DIR", &options.runtime);
    command.env("FIMD_CONFIG", "").env("FIMD_CACHE_BYTES_MAX", CACHE_BYTES.to_string());
    command
}

/// Times of answers without the model, by a server of one's own and through the daemon, in turns.
fn latencies(options: &Options, shared: &mut Editor) -> Result<(Latency, Latency)> {
    let mut own = Editor::start(options, &["lsp", "--no-daemon"])?;
    let line = "value = compute(first, second)\n";
    let text = line.repeat(options.document_bytes / line.len());
    let mut times = [Vec::new(), Vec::new()];
    for editor in [&mut own, &mut *shared] {
        editor.open(&text)?;
        editor.key()?;
    }
    while times[1].len() < options.answers {
        for (editor, times) in [&mut own, &mut *shared].into_iter().zip(&mut times) {
            for _ in 0..TURN {
                times.push(editor.key()?);
            }
        }
    }
    own.end()?;
    let [own, daemon] = times;
    Ok((Latency::of(own), Latency::of(daemon)))
}

/// How long bridges take to start, and what one takes of the memory.
fn starts(options: &Options) -> Result<(Vec<f64>, u64)> {
    let (mut times, mut bytes) = (Vec::new(), 0);
    for _ in 0..20 {
        let started = Instant::now();
        let mut editor = Editor::start(options, &["lsp"])?;
        times.push(milliseconds(started.elapsed()));
        editor.open(TEXT)?;
        editor.key()?;
        bytes = memory_bytes(editor.child.id());
        editor.end()?;
    }
    Ok((times, bytes))
}

/// Many editors that type at once.
fn crowd(options: &Options) -> Result<Crowd> {
    let started = Instant::now();
    let is_over = AtomicBool::new(false);
    let mut crowd = thread::scope(|scope| -> Result<Crowd> {
        let typists: Vec<_> = (0..options.clients)
            .map(|number| {
                let is_over = &is_over;
                scope.spawn(move || typist(options, number, is_over))
            })
            .collect();
        thread::sleep(options.time / 4);
        let early_bytes = daemon_memory(options);
        thread::sleep(options.time - options.time / 4);
        let late_bytes = daemon_memory(options);
        is_over.store(true, Ordering::Relaxed);
        let (mut all, mut ms) = (Crowd { early_bytes, late_bytes, ..Crowd::default() }, Vec::new());
        for typist in typists {
            let Ok(typed) = typist.join() else { bail!("a client failed") };
            let (one, times) = typed?;
            all.edits += one.edits;
            all.answered += one.answered;
            all.abandoned += one.abandoned;
            all.lost += one.lost;
            all.stalled += one.stalled;
            all.reconnects += one.reconnects;
            ms.extend(times);
        }
        all.latency = Latency::of(ms);
        Ok(all)
    })?;
    crowd.seconds = started.elapsed().as_secs_f64();
    Ok(crowd)
}

fn daemon_memory(options: &Options) -> u64 {
    let output = command(options, &["status", "--json"]).output();
    let status = output.ok().and_then(|output| serde_json::from_slice::<Value>(&output.stdout).ok());
    status.and_then(|status| status["memory_bytes"].as_u64()).unwrap_or_default()
}

/// One editor of the crowd, and the times of its answers.
fn typist(options: &Options, number: usize, is_over: &AtomicBool) -> Result<(Crowd, Vec<f64>)> {
    let mut dice = Dice::new(options.seed.wrapping_mul(1_000_003).wrapping_add(number as u64));
    let (mut crowd, mut times) = (Crowd::default(), Vec::new());
    let gap = Duration::from_secs_f64(options.clients as f64 / options.edits_per_second);
    let mut editor = Editor::start(options, &["lsp"])?;
    editor.open(TEXT)?;
    let mut next = Instant::now() + gap.mul_f64(dice.share());
    while !is_over.load(Ordering::Relaxed) {
        editor.collect_until(next, &mut crowd, &mut times)?;
        next += gap.mul_f64(0.5 + dice.share());
        if dice.below(1000) < GONE {
            crowd.abandoned += editor.pending.len();
            crowd.reconnects += 1;
            let _ = editor.child.kill();
            let _ = editor.child.wait();
            editor = Editor::start(options, &["lsp"])?;
            editor.open(TEXT)?;
            continue;
        }
        let line = dice.below(TEXT.lines().count());
        let id = editor.edit(line, ["a", "(", "\n    ", "x.", " "][dice.below(5)])?;
        crowd.edits += 1;
        if dice.below(1000) < CANCELLED {
            editor.send(&json!({"jsonrpc": "2.0", "method": "$/cancelRequest", "params": {"id": id}}))?;
        }
    }
    editor.collect_until(Instant::now() + PATIENCE, &mut crowd, &mut times)?;
    crowd.lost = editor.pending.len();
    editor.end()?;
    Ok((crowd, times))
}

/// An editor as far as its language server can tell.
struct Editor {
    child: Child,
    to_server: ChildStdin,
    messages: Receiver<(Instant, Value)>,
    pending: HashMap<i64, Instant>,
    next_id: i64,
    version: i64,
}

impl Editor {
    fn start(options: &Options, args: &[&str]) -> Result<Self> {
        let mut child = command(options, args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", options.program.display()))?;
        let to_server = child.stdin.take().context("a child has a stdin")?;
        let mut reader = BufReader::new(child.stdout.take().context("a child has a stdout")?);
        let (send, messages) = mpsc::channel();
        thread::spawn(move || {
            while let Some(message) = read(&mut reader) {
                if send.send((Instant::now(), message)).is_err() {
                    break;
                }
            }
        });
        let mut editor = Self { child, to_server, messages, pending: HashMap::new(), next_id: 0, version: 0 };
        let capabilities = json!({"textDocument": {"inlineCompletion": {}}});
        let params = json!({"processId": null, "rootUri": null, "capabilities": capabilities,
            "clientInfo": {"name": "fimd bench"}});
        editor.call("initialize", &params)?;
        editor.notify("initialized", &json!({}))?;
        Ok(editor)
    }

    fn open(&mut self, text: &str) -> Result<()> {
        let document = json!({"uri": URI, "languageId": "python", "version": 0, "text": text});
        self.notify("textDocument/didOpen", &json!({"textDocument": document}))
    }

    /// Types one character where nothing is offered, takes it back, and returns the milliseconds to the answer.
    fn key(&mut self) -> Result<f64> {
        let started = Instant::now();
        // Inside a word: it is answered without the model.
        for (end, text) in [(3, "x"), (4, "")] {
            self.change(
                json!({"start": {"line": 9, "character": 3}, "end": {"line": 9, "character": end}}),
                text,
            )?;
        }
        let position = json!({"line": 9, "character": 3});
        self.call("textDocument/inlineCompletion", &at(&position))?;
        Ok(milliseconds(started.elapsed()))
    }

    /// Inserts `text` at the start of a line and asks for what follows it.
    fn edit(&mut self, line: usize, text: &str) -> Result<i64> {
        let start = json!({"line": line, "character": 0});
        self.change(json!({"start": start, "end": start}), text)?;
        let position = match text.strip_prefix('\n') {
            Some(indent) => json!({"line": line + 1, "character": indent.len()}),
            None => json!({"line": line, "character": text.len()}),
        };
        let id = self.request("textDocument/inlineCompletion", &at(&position))?;
        self.pending.insert(id, Instant::now());
        Ok(id)
    }

    fn change(&mut self, range: Value, text: &str) -> Result<()> {
        self.version += 1;
        let document = json!({"uri": URI, "version": self.version});
        let changes = json!([{"range": range, "text": text}]);
        self.notify("textDocument/didChange", &json!({"textDocument": document, "contentChanges": changes}))
    }

    /// Takes answers until `end`, or until there is nothing to wait for after it.
    fn collect_until(&mut self, end: Instant, crowd: &mut Crowd, times: &mut Vec<f64>) -> Result<()> {
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left > PATIENCE / 2 && self.pending.is_empty() {
                return Ok(());
            }
            let (at, message) = match self.messages.recv_timeout(left) {
                Ok(message) => message,
                Err(mpsc::RecvTimeoutError::Timeout) => return Ok(()),
                Err(mpsc::RecvTimeoutError::Disconnected) => bail!("the language server ended"),
            };
            let asked = message["id"].as_i64().and_then(|id| self.pending.remove(&id));
            if let Some(asked) = asked {
                let waited = at.saturating_duration_since(asked);
                crowd.answered += 1;
                crowd.stalled += usize::from(waited > STALL);
                times.push(milliseconds(waited));
            }
        }
    }

    fn end(mut self) -> Result<()> {
        self.call("shutdown", &Value::Null)?;
        self.notify("exit", &Value::Null)?;
        ensure!(self.child.wait()?.success(), "the language server failed");
        Ok(())
    }

    fn call(&mut self, method: &str, params: &Value) -> Result<Value> {
        let id = self.request(method, params)?;
        loop {
            let (_, mut message) =
                self.messages.recv_timeout(PATIENCE).context("the language server is silent")?;
            if message["id"].as_i64() == Some(id) && message.get("method").is_none() {
                ensure!(message.get("error").is_none(), "{method} failed: {}", message["error"]);
                return Ok(message["result"].take());
            }
        }
    }

    fn request(&mut self, method: &str, params: &Value) -> Result<i64> {
        self.next_id += 1;
        self.send(&json!({"jsonrpc": "2.0", "id": self.next_id, "method": method, "params": params}))?;
        Ok(self.next_id)
    }

    fn notify(&mut self, method: &str, params: &Value) -> Result<()> {
        self.send(&json!({"jsonrpc": "2.0", "method": method, "params": params}))
    }

    fn send(&mut self, message: &Value) -> Result<()> {
        let frame = lsp::frame(message.to_string().as_bytes());
        self.to_server.write_all(&frame).context("the language server is gone")
    }
}

/// What an unasked request about a position says.
fn at(position: &Value) -> Value {
    json!({"textDocument": {"uri": URI}, "position": position, "context": {"triggerKind": 2}})
}

fn read(reader: &mut impl BufRead) -> Option<Value> {
    serde_json::from_slice(&lsp::read_blocking(reader).ok()??).ok()
}
