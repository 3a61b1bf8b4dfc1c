//! An editor for the language server in this process: the real server, over pipes in memory.
//!
//! As in VS Code, every change is sent with `didChange`, cancels the request before with `$/cancelRequest`, and sends a
//! new request; but without the debounce of 50 ms that VS Code adds.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use tokio::io::{AsyncBufRead, BufReader, DuplexStream};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinHandle;

use super::replay::{Answer, Figures, Peer};
use super::session::{Change, Editor, Session};
use crate::complete::record::Record;
use crate::complete::stats::Observer;
use crate::config::Configuration;
use crate::lsp::{self, Exit, Options, wire};
use crate::resident::{Resident, Served};

/// Bytes between the client and the server.
const PIPE_BYTES: usize = 1 << 16;
/// Longer than any response but a completion takes.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Longest delay of the record of a response.
const RECORD_DELAY: Duration = Duration::from_millis(20);
/// Trigger kind of completions while typing.
const AUTOMATIC: u32 = 2;

/// A client and its server.
pub struct Client {
    runtime: Runtime,
    server: JoinHandle<Exit>,
    outbox: UnboundedSender<Value>,
    inbox: mpsc::Receiver<(Instant, Value)>,
    reports: Reports,
    next_id: u64,
    /// Which request an id stands for, until it is answered.
    in_flight: HashMap<u64, usize>,
    newest: Option<u64>,
    documents: usize,
    uri: String,
    version: u64,
}

/// What the server has said of its requests, and of which no answer is known.
struct Reports {
    receiver: mpsc::Receiver<Record>,
    unmatched: Vec<Record>,
}

/// Starts the server between two pipes.
fn start(
    runtime: &Runtime,
    input: DuplexStream,
    output: DuplexStream,
    resident: Arc<Resident>,
) -> (JoinHandle<Exit>, mpsc::Receiver<Record>) {
    let (sender, receiver) = mpsc::channel();
    let observer: Observer = Arc::new(move |record: &Record| {
        let _ = sender.send(*record);
    });
    let options = Options { observer: Some(observer), ..Options::default() };
    (runtime.spawn(lsp::serve(input, output, resident, options)), receiver)
}

impl Client {
    /// Starts a server of the model, with the settings that editors have by default, and introduces itself.
    pub fn start(served: Served) -> Result<Self> {
        let resident = Resident::of(served, Configuration::default());
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.context("cannot start the runtime of the language server")?;
        let (to_server, input) = tokio::io::duplex(PIPE_BYTES);
        let (output, from_server) = tokio::io::duplex(PIPE_BYTES);
        let (server, receiver) = start(&runtime, input, output, resident);
        let (outbox, outgoing) = unbounded_channel();
        let (incoming, inbox) = mpsc::channel();
        runtime.spawn(write(to_server, outgoing));
        runtime.spawn(async move {
            let mut reader = BufReader::new(from_server);
            while let Some(message) = read(&mut reader).await {
                let _ = incoming.send((Instant::now(), message));
            }
        });
        let mut client = Self {
            runtime,
            server,
            outbox,
            inbox,
            reports: Reports { receiver, unmatched: Vec::new() },
            next_id: 0,
            in_flight: HashMap::new(),
            newest: None,
            documents: 0,
            uri: String::new(),
            version: 0,
        };
        let capabilities = json!({
            "general": {"positionEncodings": ["utf-16"]},
            "textDocument": {"inlineCompletion": {}},
        });
        client
            .call("initialize", json!({"processId": null, "rootUri": null, "capabilities": capabilities}))?;
        client.notify("initialized", json!({}))?;
        Ok(client)
    }

    /// Shuts the server down.
    pub fn finish(mut self) -> Result<()> {
        self.call("shutdown", Value::Null)?;
        self.notify("exit", Value::Null)?;
        let server = self.server;
        let exit = self.runtime.block_on(async { tokio::time::timeout(TIMEOUT, server).await });
        self.runtime.shutdown_background();
        let exit =
            exit.context("the language server does not exit")?.context("the language server failed")?;
        ensure!(exit == Exit::Clean, "unclean exit of the language server");
        Ok(())
    }

    fn request(&mut self, method: &str, params: Value) -> Result<u64> {
        self.next_id += 1;
        self.send(json!({"jsonrpc": "2.0", "id": self.next_id, "method": method, "params": params}))?;
        Ok(self.next_id)
    }

    fn notify(&self, method: &str, params: Value) -> Result<()> {
        self.send(json!({"jsonrpc": "2.0", "method": method, "params": params}))
    }

    fn send(&self, message: Value) -> Result<()> {
        self.outbox.send(message).ok().context("the language server exited")
    }

    /// Sends a request while no completion is in flight, and waits for its response.
    fn call(&mut self, method: &str, params: Value) -> Result<Value> {
        let id = self.request(method, params)?;
        loop {
            let (_, mut message) =
                self.receive(TIMEOUT)?.with_context(|| format!("no response to {method}"))?;
            if response_id(&message) == Some(id) {
                ensure!(message.get("error").is_none(), "{method} failed: {}", message["error"]);
                return Ok(message["result"].take());
            }
        }
    }

    fn receive(&mut self, wait: Duration) -> Result<Option<(Instant, Value)>> {
        match self.inbox.recv_timeout(wait) {
            Ok(message) => Ok(Some(message)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => bail!("the language server exited"),
        }
    }
}

impl Peer for Client {
    fn open(&mut self, session: &Session) -> Result<()> {
        self.documents += 1;
        self.uri = format!("file:///typing/{}/{}", self.documents, session.path);
        self.version = 1;
        let document = json!({
            "uri": self.uri, "languageId": session.language, "version": self.version, "text": session.text,
        });
        self.notify("textDocument/didOpen", json!({"textDocument": document}))
    }

    fn request_completion(&mut self, request: usize, changes: &[Change], editor: &Editor) -> Result<()> {
        self.version += 1;
        let place = |[line, character]: [usize; 2]| json!({"line": line, "character": character});
        let change = |change: &Change| {
            let range = json!({"start": place(change.start), "end": place(change.end)});
            json!({"range": range, "text": change.text})
        };
        let changes: Vec<Value> = changes.iter().map(change).collect();
        let document = json!({"uri": self.uri, "version": self.version});
        self.notify("textDocument/didChange", json!({"textDocument": document, "contentChanges": changes}))?;
        if let Some(id) = self.newest.take().filter(|id| self.in_flight.contains_key(id)) {
            self.notify("$/cancelRequest", json!({"id": id}))?;
        }
        let params = json!({
            "textDocument": {"uri": self.uri},
            "position": place(editor.position()),
            "context": {"triggerKind": AUTOMATIC},
        });
        let id = self.request("textDocument/inlineCompletion", params)?;
        self.in_flight.insert(id, request);
        self.newest = Some(id);
        Ok(())
    }

    fn answer(&mut self, wait: Duration) -> Result<Option<Answer>> {
        let until = Instant::now() + wait;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let Some((at, message)) = self.receive(left)? else { return Ok(None) };
            let Some(request) = response_id(&message).and_then(|id| self.in_flight.remove(&id)) else {
                continue;
            };
            // The response to a cancelled or outdated request is an error.
            let is_superseded = message.get("error").is_some();
            let text = message["result"]["items"][0]["insertText"].as_str().unwrap_or_default().to_owned();
            let record = if is_superseded { None } else { self.reports.of_answer(text.chars().count()) };
            let figures = record.map(Figures::from);
            return Ok(Some(Answer { request, at, text, is_superseded, figures }));
        }
    }

    fn close(&mut self) -> Result<(Vec<Answer>, Vec<Figures>)> {
        self.notify("textDocument/didClose", json!({"textDocument": {"uri": self.uri}}))?;
        let mut answers = Vec::new();
        while !self.in_flight.is_empty()
            && let Some(answer) = self.answer(TIMEOUT)?
        {
            answers.push(answer);
        }
        Ok((answers, self.reports.rest()))
    }
}

impl Reports {
    /// The newest record that matches a response of `shown_chars` characters.
    fn of_answer(&mut self, shown_chars: usize) -> Option<Record> {
        let is_it = |record: &Record| !record.is_cancelled && record.shown_chars == shown_chars;
        loop {
            self.unmatched.extend(self.receiver.try_iter());
            if let Some(at) = self.unmatched.iter().rposition(is_it) {
                return Some(self.unmatched.remove(at));
            }
            self.unmatched.push(self.receiver.recv_timeout(RECORD_DELAY).ok()?);
        }
    }

    /// The cost of requests without a response.
    fn rest(&mut self) -> Vec<Figures> {
        self.unmatched.extend(self.receiver.try_iter());
        self.unmatched.drain(..).map(Figures::from).collect()
    }
}

impl From<Record> for Figures {
    fn from(record: Record) -> Self {
        Self {
            source: record.source,
            prompt_tokens: record.prompt_tokens,
            evaluated: record.synced.evaluated,
            replayed: record.synced.replayed,
            generated: record.decode_tokens,
            first_token_ms: Some(record.first_token_ms).filter(|&ms| ms > 0.0),
        }
    }
}

/// The id of a response; none of a request or notification.
fn response_id(message: &Value) -> Option<u64> {
    if message.get("method").is_some() { None } else { message["id"].as_u64() }
}

async fn write(mut pipe: DuplexStream, mut messages: UnboundedReceiver<Value>) {
    while let Some(message) = messages.recv().await {
        let body = message.to_string();
        if wire::write(&mut pipe, body.as_bytes()).await.is_err() {
            return;
        }
    }
}

async fn read(reader: &mut (impl AsyncBufRead + Unpin)) -> Option<Value> {
    let body = wire::read(reader).await.ok()??;
    serde_json::from_slice(&body).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::complete::record::Source;
    use crate::session::Synced;

    fn record(is_cancelled: bool, shown_chars: usize, evaluated: usize) -> Record {
        Record {
            source: Source::Model,
            is_cancelled,
            shown_chars,
            prompt_tokens: 100,
            synced: Synced { evaluated, ..Synced::default() },
            decode_tokens: 4,
            queue_ms: 0.0,
            prefill_ms: 0.0,
            first_token_ms: 0.0,
            total_ms: 0.0,
        }
    }

    #[test]
    fn records_find_their_answers() {
        let (sender, receiver) = mpsc::channel();
        let mut reports = Reports { receiver, unmatched: Vec::new() };
        // The second was outrun on its way to the client; the fourth tells of the answer.
        for sent in [record(true, 0, 50), record(false, 9, 3), record(true, 0, 20), record(false, 9, 2)] {
            sender.send(sent).unwrap();
        }
        assert_eq!(reports.of_answer(9).unwrap().synced.evaluated, 2);
        assert!(reports.of_answer(8).is_none(), "none comes");
        drop(sender);
        assert!(reports.of_answer(8).is_none(), "none can come");
        let rest: Vec<usize> = reports.rest().iter().map(|figures| figures.evaluated).collect();
        assert_eq!(rest, [50, 3, 20]);
        assert_eq!(reports.rest(), []);
    }
}
