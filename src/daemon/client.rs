//! Reaching the daemon, and starting it where it does not run.

use std::env;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use interprocess::local_socket::traits::tokio::Stream as _;
use interprocess::local_socket::{Stream, prelude::*, tokio as asynchronous};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
use tokio::time::sleep;

use super::message::{
    Answer, GREETING_BYTES_MAX, Greeting, LINE_BYTES_MAX, Program, Purpose, Request, Status, Welcome, line,
    parse,
};
use super::place::Place;
use crate::lsp::Duplex;

/// How long a daemon may take to start; it answers before a large model is loaded.
const START_MAX: Duration = Duration::from_secs(20);
/// How long one may take to end.
const END_MAX: Duration = Duration::from_secs(10);
/// Between two attempts.
const STEP: Duration = Duration::from_millis(10);
/// How long a daemon may take to answer a greeting.
const WELCOME_MAX: Duration = Duration::from_secs(10);

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

/// A connection for an editor to the daemon, which is started if it is not there; `None` when the user has stopped
/// it and `may_start` is false.
pub async fn connect_editor(place: &Place, purpose: Purpose, may_start: bool) -> Result<Option<Duplex>> {
    let started = Instant::now();
    let mut start: Option<Start> = None;
    loop {
        match asynchronous::Stream::connect(place.socket()?).await {
            Ok(stream) => {
                if let Some(connection) = greet(stream, purpose.clone(), place).await? {
                    return Ok(Some(connection));
                }
            }
            Err(error) if !is_absence(error.kind()) => {
                return Err(error).with_context(|| format!("cannot use {}", place.socket_path().display()));
            }
            Err(_) if start.is_none() => {
                if !may_start && place.is_stopped() {
                    return Ok(None);
                }
                start = Some(Start::new(place)?);
            }
            Err(_) => {}
        }
        if let Some(start) = &mut start {
            start.check()?;
        }
        ensure!(
            started.elapsed() < START_MAX,
            "the daemon does not answer; see {}",
            place.log_dir().display()
        );
        sleep(STEP).await;
    }
}

/// Greets a daemon; `None` when it went away, or made way for this newer program.
async fn greet(stream: asynchronous::Stream, purpose: Purpose, place: &Place) -> Result<Option<Duplex>> {
    let (reader, mut writer) = tokio::io::split(stream);
    if writer.write_all(line(&Greeting::new(purpose))?.as_bytes()).await.is_err() {
        return Ok(None);
    }
    let mut reader = tokio::io::BufReader::new(reader);
    let mut text = String::new();
    let mut limited = (&mut reader).take(GREETING_BYTES_MAX as u64);
    let read = tokio::time::timeout(WELCOME_MAX, limited.read_line(&mut text));
    let is_read = read.await.context("the daemon does not answer")?.is_ok_and(|length| length > 0);
    if !is_read {
        return Ok(None);
    }
    let own = Program::own();
    let other = match parse(&text)? {
        Welcome::Yes(other) => {
            if other == own || other.built_s >= own.built_s {
                return Ok(Some((Box::new(reader), Box::new(writer))));
            }
            other
        }
        Welcome::Protocol(other) => {
            ensure!(other.built_s < own.built_s, "{}", mismatch(&other));
            other
        }
    };
    tracing::info!("replacing a daemon of version {}", other.version);
    drop((reader, writer));
    let place = place.clone();
    tokio::task::spawn_blocking(move || stop(&place, true)).await.context("fimd is ending")??;
    Ok(None)
}

fn mismatch(other: &Program) -> String {
    format!(
        "the daemon that runs is fimd {}, and this is {} of another build; `fimd stop` ends the daemon",
        other.version,
        env!("CARGO_PKG_VERSION")
    )
}

/// Whether an error means that nobody listens.
fn is_absence(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::NotFound | ErrorKind::ConnectionRefused)
}

/// Starts a daemon in the background and returns when it listens, or when another one does.
pub fn launch(place: &Place) -> Result<()> {
    let started = Instant::now();
    let mut daemon = spawn(place, "--detached", Stdio::inherit())?;
    while started.elapsed() < START_MAX {
        if let Some(status) = daemon.try_wait().context("cannot watch the daemon start")? {
            // It has said why.
            ensure!(status.success(), "it ended with {status}");
            return Ok(());
        }
        if Client::connect(place)?.is_some() {
            return Ok(());
        }
        thread::sleep(STEP);
    }
    bail!("it does not listen")
}

fn spawn(place: &Place, how: &str, errors: Stdio) -> Result<Child> {
    let program = env::current_exe().context("cannot find the program fimd")?;
    Command::new(&program)
        .args(["daemon", how])
        .current_dir(place.dir())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(errors)
        .spawn()
        .with_context(|| format!("cannot start {}", program.display()))
}

/// A daemon on its way, by [`launch`] in a process of its own.
struct Start {
    child: Child,
    errors: std::path::PathBuf,
}

impl Start {
    fn new(place: &Place) -> Result<Self> {
        let errors = place.dir().join(format!("start-{}.log", std::process::id()));
        let file = File::create(&errors).with_context(|| format!("cannot write {}", errors.display()))?;
        Ok(Self { child: spawn(place, "--launch", file.into())?, errors })
    }

    /// Fails when it could not start. One that ended well found another one running.
    fn check(&mut self) -> Result<()> {
        match self.child.try_wait() {
            Ok(Some(status)) if !status.success() => {
                let said = fs::read_to_string(&self.errors).unwrap_or_default();
                let said = said.trim().lines().next().unwrap_or_default().trim_start_matches("fimd: ");
                bail!("the daemon cannot start: {}", if said.is_empty() { "it says nothing" } else { said })
            }
            _ => Ok(()),
        }
    }
}

impl Drop for Start {
    fn drop(&mut self) {
        // It ends as soon as the daemon listens.
        let _ = self.child.wait();
        let _ = fs::remove_file(&self.errors);
    }
}
