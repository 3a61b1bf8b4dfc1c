//! A request to the daemon.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use interprocess::local_socket::{Stream, prelude::*};

use super::message::{
    HANDSHAKE_BYTES_MAX, HANDSHAKE_TIMEOUT, Handshake, HandshakeReply, LINE_BYTES_MAX, Program, Purpose,
    Request, Response, Status, line, parse,
};
use super::runtime_dir::RuntimeDir;

/// How long a daemon may take to shut down.
const SHUTDOWN_MAX: Duration = Duration::from_secs(10);
/// Between two checks whether it has.
const STEP: Duration = Duration::from_millis(10);

/// A connection for one request.
pub struct Client {
    stream: BufReader<Stream>,
}

impl Client {
    /// Connects to the daemon; `None` when none runs.
    pub fn connect(runtime_dir: &RuntimeDir) -> Result<Option<Self>> {
        let stream = match Stream::connect(runtime_dir.socket()?) {
            Ok(stream) => stream,
            Err(error) if is_absence(error.kind()) => return Ok(None),
            Err(error) => {
                return Err(error)
                    .with_context(|| format!("cannot use {}", runtime_dir.socket_path().display()));
            }
        };
        let _ = stream.set_recv_timeout(Some(HANDSHAKE_TIMEOUT));
        let mut client = Self { stream: BufReader::new(stream) };
        client.write(&Handshake::new(Purpose::Request))?;
        let reply = client.read_line(HANDSHAKE_BYTES_MAX)?;
        if let HandshakeReply::VersionMismatch(other) = parse(&reply)? {
            bail!("{}", mismatch(&other));
        }
        let _ = client.stream.get_ref().set_recv_timeout(None);
        Ok(Some(client))
    }

    /// Sends a request with one response, and waits for it.
    pub fn request(mut self, request: &Request) -> Result<Response> {
        self.send(request)?;
        self.response()
    }

    /// The status of the daemon.
    pub fn status(self) -> Result<Status> {
        match self.request(&Request::Status)? {
            Response::Status(status) => Ok(*status),
            _ => bail!("unexpected reply from the daemon"),
        }
    }

    /// Sends a request with several responses.
    pub fn send(&mut self, request: &Request) -> Result<()> {
        self.write(request)
    }

    /// The next response.
    pub fn response(&mut self) -> Result<Response> {
        match parse(&self.read_line(LINE_BYTES_MAX)?)? {
            Response::Failed(why) => Err(anyhow!(why)),
            response => Ok(response),
        }
    }

    fn write(&mut self, message: &impl serde::Serialize) -> Result<()> {
        let sent = self.stream.get_mut().write_all(line(message)?.as_bytes());
        sent.context("the daemon closed the connection")
    }

    fn read_line(&mut self, bytes_max: usize) -> Result<String> {
        let mut text = String::new();
        let mut limited = (&mut self.stream).take(bytes_max as u64);
        limited.read_line(&mut text).context("the daemon does not respond")?;
        ensure!(text.ends_with('\n'), "the daemon closed the connection");
        Ok(text)
    }
}

/// Shuts the daemon down and waits until it has exited; false when none ran.
pub fn stop(runtime_dir: &RuntimeDir, for_another: bool) -> Result<bool> {
    let Some(client) = Client::connect(runtime_dir)? else { return Ok(false) };
    client.request(&Request::Stop { for_another })?;
    wait_for_exit(runtime_dir)?;
    Ok(true)
}

/// Waits until no daemon holds the lock.
fn wait_for_exit(runtime_dir: &RuntimeDir) -> Result<()> {
    let started = Instant::now();
    while started.elapsed() < SHUTDOWN_MAX {
        if runtime_dir.lock()?.is_some() {
            return Ok(());
        }
        thread::sleep(STEP);
    }
    bail!("the daemon did not shut down within 10 s; `fimd status` names its process")
}

/// The error for a daemon of another build.
pub(super) fn mismatch(other: &Program) -> String {
    format!(
        "version mismatch: the daemon is fimd {}, and this is {} of another build; `fimd stop` shuts the daemon down",
        other.version,
        env!("CARGO_PKG_VERSION")
    )
}

/// Whether an error means that no daemon listens.
pub(super) fn is_absence(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::NotFound | ErrorKind::ConnectionRefused)
}
