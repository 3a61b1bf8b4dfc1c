//! A minimal language client, over any pair of pipes. Dropping it shuts the session down and asserts a clean exit
//! and that the server sent nothing unexpected.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use fimd::complete::fim::Order;
use fimd::complete::stats::Observer;
use fimd::config::Configuration;
use fimd::lsp::{self, Exit, Options};
use fimd::resident::{self, Resident};
use fimd::serve::Engine;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::task::JoinHandle;

/// Longer than any response takes on a slow and busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// Small, so that writers have to wait.
const PIPE_BYTES: usize = 1 << 12;

/// The code of requests the client cancelled.
pub const CANCELLED: i64 = -32800;
/// The code of requests whose document changed.
pub const CONTENT_MODIFIED: i64 = -32801;

pub struct Client {
    server: Option<Server>,
    to_server: Option<Box<dyn Write>>,
    from_server: mpsc::Receiver<Value>,
    unread: VecDeque<Value>,
    next_id: i64,
}

enum Server {
    Task(Runtime, JoinHandle<Exit>),
    Process(Child),
}

impl Client {
    /// A client of a server in this process, over an in-memory pipe, without time limits or background work.
    pub fn start(engine: Engine) -> Self {
        Self::start_with(engine, deterministic(), None)
    }

    /// A client of a server in this process with these settings, over an in-memory pipe.
    pub fn start_with(engine: Engine, configuration: Configuration, observer: Option<Observer>) -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (to_server, input) = tokio::io::duplex(PIPE_BYTES);
        let (output, from_server) = tokio::io::duplex(PIPE_BYTES);
        let resident = Resident::of(resident::served(engine, Order::Psm), configuration);
        let options = Options { observer, ..Options::default() };
        let task = runtime.spawn(lsp::serve(input, output, resident, options));
        let on = |pipe| Blocking(runtime.handle().clone(), pipe);
        let (reader, writer) = (on(from_server), on(to_server));
        Self::new(Server::Task(runtime, task), reader, writer)
    }

    /// A client of a language server on the stdin and stdout of a program.
    pub fn spawn(mut command: Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (reader, writer) = (child.stdout.take().unwrap(), child.stdin.take().unwrap());
        Self::new(Server::Process(child), reader, writer)
    }

    fn new(server: Server, reader: impl Read + Send + 'static, writer: impl Write + 'static) -> Self {
        let (message, from_server) = mpsc::channel();
        thread::spawn(move || {
            let mut reader = BufReader::new(reader);
            while let Some(text) = read(&mut reader) {
                let _ = message.send(text);
            }
        });
        let to_server: Box<dyn Write> = Box::new(writer);
        Self {
            server: Some(server),
            to_server: Some(to_server),
            from_server,
            unread: VecDeque::new(),
            next_id: 0,
        }
    }

    /// Initialises with these capabilities; returns those of the server.
    pub fn initialize(&mut self, capabilities: Value) -> Value {
        self.initialize_with(capabilities, Value::Null)
    }

    /// Initialises with these capabilities and settings; returns the server's capabilities.
    pub fn initialize_with(&mut self, capabilities: Value, settings: Value) -> Value {
        let params = json!({
            "processId": null,
            "rootUri": "file:///home/me",
            "capabilities": capabilities,
            "initializationOptions": settings,
        });
        let result = self.call("initialize", params);
        self.notify("initialized", json!({}));
        result
    }

    /// The parameters of the next notification of this kind.
    #[track_caller]
    pub fn notification(&mut self, method: &str) -> Value {
        self.message(&|message| message["method"] == method)["params"].clone()
    }

    /// Answers the next request of this kind that the server makes, and returns its parameters.
    #[track_caller]
    pub fn answer(&mut self, method: &str, result: Value) -> Value {
        let asked = self.message(&|message| message["method"] == method);
        self.send(&json!({"jsonrpc": "2.0", "id": asked["id"], "result": result}));
        asked["params"].clone()
    }

    /// Sends a request and returns its id.
    pub fn request(&mut self, method: &str, params: Value) -> i64 {
        self.next_id += 1;
        self.send(&json!({"jsonrpc": "2.0", "id": self.next_id, "method": method, "params": params}));
        self.next_id
    }

    /// Sends a notification.
    pub fn notify(&mut self, method: &str, params: Value) {
        self.send(&json!({"jsonrpc": "2.0", "method": method, "params": params}));
    }

    /// Sends a request and returns its result.
    #[track_caller]
    pub fn call(&mut self, method: &str, params: Value) -> Value {
        let id = self.request(method, params);
        self.result(id)
    }

    /// The result of an earlier request.
    #[track_caller]
    pub fn result(&mut self, id: i64) -> Value {
        let response = self.response(&json!(id));
        assert!(response.get("error").is_none(), "request {id} failed: {response}");
        response["result"].clone()
    }

    /// The error code of an earlier request.
    #[track_caller]
    pub fn error(&mut self, id: i64) -> i64 {
        let response = self.response(&json!(id));
        response["error"]["code"].as_i64().unwrap_or_else(|| panic!("request {id} succeeded: {response}"))
    }

    /// The response with this id, which need not be the next message.
    #[track_caller]
    pub fn response(&mut self, id: &Value) -> Value {
        self.message(&|message| message.get("method").is_none() && message["id"] == *id)
    }

    /// The next message of which `is_it` is true, which need not be the next of all.
    #[track_caller]
    fn message(&mut self, is_it: &dyn Fn(&Value) -> bool) -> Value {
        if let Some(at) = self.unread.iter().position(is_it) {
            return self.unread.remove(at).unwrap();
        }
        loop {
            let message = self.from_server.recv_timeout(PATIENCE).expect("the server says nothing");
            if is_it(&message) {
                return message;
            }
            self.unread.push_back(message);
        }
    }

    /// Reads all messages received so far.
    pub fn forget_unread(&mut self) {
        self.unread.clear();
    }

    pub fn open(&mut self, uri: &str, text: &str) {
        let document = json!({"uri": uri, "languageId": "python", "version": 1, "text": text});
        self.notify("textDocument/didOpen", json!({"textDocument": document}));
    }

    pub fn change(&mut self, uri: &str, version: i64, changes: Value) {
        let document = json!({"uri": uri, "version": version});
        self.notify("textDocument/didChange", json!({"textDocument": document, "contentChanges": changes}));
    }

    pub fn close(&mut self, uri: &str) {
        self.notify("textDocument/didClose", json!({"textDocument": {"uri": uri}}));
    }

    /// Requests ghost text and returns the id of the request.
    pub fn request_inline(&mut self, uri: &str, position: [u32; 2], context: Value) -> i64 {
        self.request("textDocument/inlineCompletion", place(uri, position, context))
    }

    /// Sends a message in a frame.
    pub fn send(&mut self, message: &Value) {
        self.send_body(message.to_string().as_bytes());
    }

    /// Sends any bytes in a frame.
    pub fn send_body(&mut self, body: &[u8]) {
        self.send_bytes(&lsp::frame(body));
    }

    /// Sends any bytes.
    pub fn send_bytes(&mut self, bytes: &[u8]) {
        let to_server = self.to_server.as_mut().unwrap();
        to_server.write_all(bytes).and_then(|()| to_server.flush()).unwrap();
    }

    /// Closes the pipe and returns the exit code.
    pub fn hang_up(&mut self) -> i32 {
        self.to_server = None;
        self.exit_code()
    }

    /// Sends `exit`, keeps the pipe open, and returns the exit code.
    pub fn exit(&mut self) -> i32 {
        self.notify("exit", Value::Null);
        self.exit_code()
    }

    /// Waits for the server to exit, and keeps its messages until then.
    fn exit_code(&mut self) -> i32 {
        let code = match self.server.take().expect("the session has not ended yet") {
            Server::Task(runtime, task) => {
                let exit = runtime.block_on(async { tokio::time::timeout(PATIENCE, task).await });
                match exit.expect("the server does not end").expect("the server panicked") {
                    Exit::Clean => 0,
                    Exit::Unclean => 1,
                }
            }
            Server::Process(mut child) => child.wait().unwrap().code().expect("the server was killed"),
        };
        self.unread.extend(self.from_server.iter());
        code
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        if thread::panicking() {
            return;
        }
        if self.server.is_some() {
            assert_eq!(self.call("shutdown", Value::Null), Value::Null);
            assert_eq!(self.exit(), 0);
        }
        assert!(self.unread.is_empty(), "messages nobody read: {:?}", self.unread);
    }
}

/// Settings that make answers independent of the speed of the machine and of earlier requests.
pub fn deterministic() -> Configuration {
    let mut configuration = Configuration::default();
    for (name, value) in [
        ("budget.soft_ms", "600000"),
        ("budget.hard_ms", "600000"),
        ("warm", "false"),
        ("speculate", "false"),
    ] {
        configuration.fix(name, value).unwrap();
    }
    configuration
}

/// The parameters of a request at a position in a document.
pub fn place(uri: &str, [line, character]: [u32; 2], context: Value) -> Value {
    json!({
        "textDocument": {"uri": uri},
        "position": {"line": line, "character": character},
        "context": context,
    })
}

fn read(reader: &mut impl BufRead) -> Option<Value> {
    let body = lsp::read_blocking(reader).ok()??;
    Some(serde_json::from_slice(&body).expect("a message is JSON"))
}

/// An asynchronous pipe for blocking threads.
struct Blocking(Handle, DuplexStream);

impl Read for Blocking {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.0.block_on(self.1.read(buffer))
    }
}

impl Write for Blocking {
    fn write(&mut self, buffer: &[u8]) -> std::io::Result<usize> {
        self.0.block_on(self.1.write(buffer))
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.block_on(self.1.flush())
    }
}
