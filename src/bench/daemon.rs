//! Overhead of the daemon compared with a separate server, and its load with many editors. Measured end to end, on
//! processes started as editors start them.

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
use crate::config::RUNTIME_DIR_VARIABLE;
use crate::lsp;

/// Longer than any response takes.
const TIMEOUT: Duration = Duration::from_secs(60);
/// A response later than this is stalled.
const STALL: Duration = Duration::from_secs(1);
/// Responses measured of one server before the other takes its turn.
const TURN: usize = 50;
/// Cancelled requests and crashes of a client, per thousand edits.
const CANCELLED: usize = 200;
const CRASHES: usize = 5;
/// Budget of the prefix cache: small, so that it is full soon and a leak shows.
const CACHE_BYTES: u64 = 64 << 20;
/// Document of the load test.
pub(super) const TEXT: &str = include_str!("../../tests/data/demo/stack.py");
/// A line of it that has a word around [`WORD_CHARACTER`].
pub(super) const WORD_LINE: usize = 9;
const WORD_CHARACTER: usize = 3;
const URI: &str = "file:///bench/a.py";

/// Options of the benchmark.
#[derive(Clone, Debug)]
pub struct Options {
    /// Path of fimd.
    pub program: PathBuf,
    /// Runtime folder of a separate daemon.
    pub runtime: PathBuf,
    /// Responses measured of each server.
    pub answers: usize,
    /// Size of the open document, in bytes.
    pub document_bytes: usize,
    /// Concurrent editors.
    pub clients: usize,
    /// Edits per second, of all editors together.
    pub edits_per_second: f64,
    /// Duration of the load test.
    pub time: Duration,
    /// Random seed of the edits.
    pub seed: u64,
}

/// Results.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// From a key to a response without the model, with a separate server.
    pub own: Latency,
    /// The same with bridge and daemon.
    pub daemon: Latency,
    /// From the start of the process to the response to `initialize`, with a running daemon, in milliseconds.
    pub start_ms: Vec<f64>,
    /// Resident set size of a bridge, in bytes.
    pub bridge_bytes: u64,
    /// The load test.
    pub crowd: Crowd,
}

/// Latency in milliseconds.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Latency {
    pub p50: f64,
    pub p99: f64,
    pub max: f64,
}

/// Results of the load test.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Crowd {
    /// Duration, in seconds.
    pub seconds: f64,
    /// Edits, each with a request.
    pub edits: usize,
    /// Responses, errors that clients hide included.
    pub answered: usize,
    /// Requests of clients that crashed before the response.
    pub abandoned: usize,
    /// Requests without a response.
    pub lost: usize,
    /// Responses later than a second.
    pub stalled: usize,
    /// Crashes of clients, each with a reconnect.
    pub reconnects: usize,
    /// From request to response.
    pub latency: Latency,
    /// Resident set size of the daemon after a quarter of the time, in bytes.
    pub early_bytes: u64,
    /// The same at the end.
    pub late_bytes: u64,
}

impl Latency {
    pub(super) fn of(mut ms: Vec<f64>) -> Self {
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
        writeln!(f, "| response without the model, ms | p50 | p99 | max |\n|---|---:|---:|---:|")?;
        for (name, latency) in [("`fimd lsp --no-daemon`", self.own), ("`fimd lsp`", self.daemon)] {
            writeln!(f, "| {name} | {:.2} | {:.2} | {:.2} |", latency.p50, latency.p99, latency.max)?;
        }
        let start = Latency::of(self.start_ms.clone());
        writeln!(f, "\nstart with a running daemon: p50 {:.0} ms, max {:.0} ms", start.p50, start.max)?;
        writeln!(f, "memory of a bridge: {:.1} MiB", mib(self.bridge_bytes))?;
        let crowd = &self.crowd;
        writeln!(
            f,
            "\n{} edits in {:.0} s: {} responses, {} abandoned in {} client crashes, {} lost, {} later than a second",
            crowd.edits,
            crowd.seconds,
            crowd.answered,
            crowd.abandoned,
            crowd.reconnects,
            crowd.lost,
            crowd.stalled
        )?;
        let Latency { p50, p99, max } = crowd.latency;
        writeln!(f, "latency p50 {p50:.1} ms, p99 {p99:.1} ms, max {max:.1} ms")?;
        writeln!(
            f,
            "memory of the daemon: {:.0} MiB after a quarter of the time, {:.0} MiB at the end",
            mib(crowd.early_bytes),
            mib(crowd.late_bytes)
        )
    }
}

/// Runs all measurements, with a daemon that is stopped afterwards.
pub fn run(options: &Options, say: &impl Fn(String)) -> Result<Report> {
    let stop = Stop(options);
    let mut shared = Editor::start(options, &["lsp"])?;
    say("responses with and without the daemon".into());
    let (own, daemon) = latencies(options, &mut shared)?;
    say("starting editors".into());
    let (start_ms, bridge_bytes) = starts(options)?;
    shared.end()?;
    say(format!("{} editors type", options.clients));
    let crowd = crowd(options)?;
    drop(stop);
    Ok(Report { own, daemon, start_ms, bridge_bytes, crowd })
}

/// Shuts the daemon down when dropped.
pub(super) struct Stop<'o>(pub(super) &'o Options);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        let _ = command(self.0, &["stop"]).stderr(Stdio::null()).status();
    }
}

fn command(options: &Options, args: &[&str]) -> Command {
    let mut command = Command::new(&options.program);
    command.args(args).stdin(Stdio::null()).env(RUNTIME_DIR_VARIABLE, &options.runtime);
    command.env("FIMD_CONFIG", "").env("FIMD_CACHE_BYTES_MAX", CACHE_BYTES.to_string());
    command
}

/// Latency without the model, of a separate server and of the daemon in turns.
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

/// Start-up times of bridges in milliseconds, and the memory of one in bytes.
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

/// The load test.
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

pub(super) fn daemon_memory(options: &Options) -> u64 {
    let output = command(options, &["status", "--json"]).output();
    let status = output.ok().and_then(|output| serde_json::from_slice::<Value>(&output.stdout).ok());
    status.and_then(|status| status["memory_bytes"].as_u64()).unwrap_or_default()
}

/// One editor of the load test, and its latencies.
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
        if dice.below(1000) < CRASHES {
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
    editor.collect_until(Instant::now() + TIMEOUT, &mut crowd, &mut times)?;
    crowd.lost = editor.pending.len();
    editor.end()?;
    Ok((crowd, times))
}

/// A simulated editor.
pub(super) struct Editor {
    child: Child,
    to_server: ChildStdin,
    messages: Receiver<(Instant, Value)>,
    pending: HashMap<i64, Instant>,
    next_id: i64,
    version: i64,
}

impl Editor {
    pub(super) fn start(options: &Options, args: &[&str]) -> Result<Self> {
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

    pub(super) fn open(&mut self, text: &str) -> Result<()> {
        let document = json!({"uri": URI, "languageId": "python", "version": 0, "text": text});
        self.notify("textDocument/didOpen", &json!({"textDocument": document}))
    }

    /// Types one character where there is no completion, deletes it, and returns the milliseconds to the response.
    fn key(&mut self) -> Result<f64> {
        let started = Instant::now();
        // Inside a word: no completion, so the model does not run.
        for (end, text) in [(3, "x"), (4, "")] {
            let range = json!({"start": word_position(WORD_CHARACTER), "end": word_position(end)});
            self.change(range, text)?;
        }
        self.call("textDocument/inlineCompletion", &at(&word_position(WORD_CHARACTER)))?;
        Ok(milliseconds(started.elapsed()))
    }

    /// Requests a completion where there is none, so that the model does not run.
    pub(super) fn ask_inside_word(&mut self) -> Result<i64> {
        let id = self.request("textDocument/inlineCompletion", &at(&word_position(WORD_CHARACTER)))?;
        self.pending.insert(id, Instant::now());
        Ok(id)
    }

    /// Whether a request has no response yet.
    pub(super) fn is_pending(&self, id: i64) -> bool {
        self.pending.contains_key(&id)
    }

    pub(super) fn is_idle(&self) -> bool {
        self.pending.is_empty()
    }

    pub(super) fn pending(&self) -> usize {
        self.pending.len()
    }

    /// Receives responses until `is_enough` or `end`, and adds the milliseconds that each took to `times`.
    pub(super) fn receive_until(
        &mut self,
        end: Instant,
        is_enough: impl Fn(&Self) -> bool,
        times: &mut Vec<f64>,
    ) -> Result<()> {
        while !is_enough(self) {
            match self.messages.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok((at, message)) => times.extend(self.response_ms(at, &message)),
                Err(mpsc::RecvTimeoutError::Timeout) => return Ok(()),
                Err(mpsc::RecvTimeoutError::Disconnected) => bail!("the language server exited"),
            }
        }
        Ok(())
    }

    /// How long the request took that this message responds to, if it does.
    fn response_ms(&mut self, at: Instant, message: &Value) -> Option<f64> {
        let is_response = message.get("method").is_none();
        let sent = message["id"].as_i64().filter(|_| is_response).and_then(|id| self.pending.remove(&id))?;
        Some(milliseconds(at.saturating_duration_since(sent)))
    }

    /// Inserts `text` at the start of a line and requests a completion after it.
    pub(super) fn edit(&mut self, line: usize, text: &str) -> Result<i64> {
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

    /// Receives responses until `end`, or in a final wait until none is pending.
    fn collect_until(&mut self, end: Instant, crowd: &mut Crowd, times: &mut Vec<f64>) -> Result<()> {
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left > TIMEOUT / 2 && self.pending.is_empty() {
                return Ok(());
            }
            let (at, message) = match self.messages.recv_timeout(left) {
                Ok(message) => message,
                Err(mpsc::RecvTimeoutError::Timeout) => return Ok(()),
                Err(mpsc::RecvTimeoutError::Disconnected) => bail!("the language server exited"),
            };
            if let Some(ms) = self.response_ms(at, &message) {
                crowd.answered += 1;
                crowd.stalled += usize::from(ms > milliseconds(STALL));
                times.push(ms);
            }
        }
    }

    pub(super) fn end(mut self) -> Result<()> {
        self.call("shutdown", &Value::Null)?;
        self.notify("exit", &Value::Null)?;
        ensure!(self.child.wait()?.success(), "the language server failed");
        Ok(())
    }

    fn call(&mut self, method: &str, params: &Value) -> Result<Value> {
        let id = self.request(method, params)?;
        loop {
            let (_, mut message) =
                self.messages.recv_timeout(TIMEOUT).context("the language server does not respond")?;
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
        self.to_server.write_all(&frame).context("the language server exited")
    }
}

fn word_position(character: usize) -> Value {
    json!({"line": WORD_LINE, "character": character})
}

/// Parameters of an automatic request at a position.
fn at(position: &Value) -> Value {
    json!({"textDocument": {"uri": URI}, "position": position, "context": {"triggerKind": 2}})
}

fn read(reader: &mut impl BufRead) -> Option<Value> {
    serde_json::from_slice(&lsp::read_blocking(reader).ok()??).ok()
}
