//! Asking the daemon for one thing.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use interprocess::local_socket::{Stream, prelude::*};

use super::message::{
    Answer, GREETING_BYTES_MAX, Greeting, LINE_BYTES_MAX, Program, Purpose, Request, Status, WELCOME_MAX,
    Welcome, line, parse,
};
use super::place::Place;

/// How long a daemon may take to end.
const END_MAX: Duration = Duration::from_secs(10);
/// Between two looks whether it has.
const STEP: Duration = Duration::from_millis(10);

/// A connection on which one thing is asked.
pub struct Client {
    stream: BufReader<Stream>,
}

impl Client {
    /// A connection to the daemon; `None` when none runs.
    pub fn connect(place: &Place) -> Result<Option<Self>> {
        let stream = match Stream::connect(place.socket()?) {
            Ok(stream) => stream,
            Err(error) if is_absence(error.kind()) => return Ok(None),
            Err(error) => {
                return Err(error).with_context(|| format!("cannot use {}", place.socket_path().display()));
            }
        };
        let _ = stream.set_recv_timeout(Some(WELCOME_MAX));
        let mut client = Self { stream: BufReader::new(stream) };
        client.say(&Greeting::new(Purpose::Ask))?;
        let answer = client.read_line(GREETING_BYTES_MAX)?;
        if let Welcome::Protocol(other) = parse(&answer)? {
            bail!("{}", mismatch(&other));
        }
        let _ = client.stream.get_ref().set_recv_timeout(None);
        Ok(Some(client))
    }

    /// Asks for one thing.
    pub fn ask(mut self, request: &Request) -> Result<Answer> {
        self.send(request)?;
        self.answer()
    }

    /// How the daemon is doing.
    pub fn status(self) -> Result<Status> {
        match self.ask(&Request::Status)? {
            Answer::Status(status) => Ok(*status),
            _ => bail!("the daemon gives no status"),
        }
    }

    /// Asks for something that is answered more than once.
    pub fn send(&mut self, request: &Request) -> Result<()> {
        self.say(request)
    }

    /// The next answer.
    pub fn answer(&mut self) -> Result<Answer> {
        match parse(&self.read_line(LINE_BYTES_MAX)?)? {
            Answer::Failed(why) => Err(anyhow!(why)),
            answer => Ok(answer),
        }
    }

    fn say(&mut self, message: &impl serde::Serialize) -> Result<()> {
        let sent = self.stream.get_mut().write_all(line(message)?.as_bytes());
        sent.context("the daemon went away")
    }

    fn read_line(&mut self, bytes_max: usize) -> Result<String> {
        let mut text = String::new();
        let mut limited = (&mut self.stream).take(bytes_max as u64);
        limited.read_line(&mut text).context("the daemon does not answer")?;
        ensure!(text.ends_with('\n'), "the daemon went away");
        Ok(text)
    }
}

/// Tells the daemon to end and waits until it has; false when there was none.
pub fn stop(place: &Place, for_another: bool) -> Result<bool> {
    let Some(client) = Client::connect(place)? else { return Ok(false) };
    client.ask(&Request::Stop { for_another })?;
    wait_until_gone(place)?;
    Ok(true)
}

/// Waits until no daemon holds its place.
fn wait_until_gone(place: &Place) -> Result<()> {
    let started = Instant::now();
    while started.elapsed() < END_MAX {
        if place.lock()?.is_some() {
            return Ok(());
        }
        thread::sleep(STEP);
    }
    bail!("the daemon was told to end and did not; `fimd status` names its process")
}

/// What to say to the user of a daemon of another build.
pub(super) fn mismatch(other: &Program) -> String {
    format!(
        "the daemon that runs is fimd {}, and this is {} of another build; `fimd stop` ends the daemon",
        other.version,
        env!("CARGO_PKG_VERSION")
    )
}

/// Whether an error means that nobody listens.
pub(super) fn is_absence(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::NotFound | ErrorKind::ConnectionRefused)
}
