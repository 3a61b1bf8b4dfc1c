//! What editors start: copies messages between an editor and the daemon, and reconnects without the editor noticing.
//!
//! When a daemon disconnects, pending requests are answered, and the session is replayed to the next one from what
//! `replay` has recorded.

mod link;
mod replay;

use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite, BufReader};
use tokio::sync::mpsc;
use tokio::time::{Instant, interval, timeout};

use super::wire::{self, Exit};
use crate::base::{escape, process};
use link::Link;
use replay::{Kind, SessionRecord};

pub use link::Duplex;

/// Why a connection to a daemon is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectReason {
    /// An editor has started.
    Start,
    /// The previous connection was lost.
    Reconnect,
}

/// Messages of the editor that may be queued.
const MESSAGES_MAX: usize = 64;
/// Between two attempts to connect.
const RETRY_DELAY: Duration = Duration::from_secs(2);
/// A daemon that disconnects sooner has failed early.
const UPTIME_MIN: Duration = Duration::from_secs(10);
/// After more early failures in a row, reconnecting waits for [`RETRY_DELAY`].
const EARLY_FAILURES_MAX: u32 = 2;

/// Between two checks of the editor and the daemon.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// A daemon that is silent for longer, though it is asked, is hung.
const SILENCE_MAX: Duration = Duration::from_secs(20);

/// Serves one editor until it sends `exit`, closes `input` or is gone. `connect` finds or starts a daemon; it returns `None`
/// when the user has stopped it.
pub async fn bridge<C>(
    input: impl AsyncRead + Send + Unpin + 'static,
    output: impl AsyncWrite + Unpin,
    connect: C,
) -> Exit
where
    C: AsyncFn(ConnectReason) -> Result<Option<Duplex>>,
{
    let (send, mut messages) = mpsc::channel(MESSAGES_MAX);
    tokio::spawn(async move {
        let mut input = BufReader::new(input);
        while let Ok(Some(message)) = wire::read(&mut input).await {
            if send.send(message).await.is_err() {
                break;
            }
        }
    });
    let mut bridge = Bridge {
        output,
        connect,
        record: SessionRecord::default(),
        link: None,
        connected_at: None,
        retry_at: None,
        early_failures: 0,
        heard_at: Instant::now(),
        is_hung: false,
        last_error: String::new(),
        exit: Exit::Unclean,
    };
    let mut heartbeat = interval(HEARTBEAT);
    loop {
        let link = &mut bridge.link;
        let received = async {
            match link {
                Some(link) => link.receive().await,
                None => std::future::pending().await,
            }
        };
        let handled = tokio::select! {
            // Responses first: a client that floods the bridge still gets them.
            biased;
            message = received => match message {
                Some(message) => bridge.on_daemon_message(&message).await,
                None => bridge.on_disconnect().await,
            },
            message = messages.recv() => match message {
                Some(message) => bridge.on_editor_message(&message).await,
                None => Err(Closed),
            },
            _ = heartbeat.tick() => bridge.on_heartbeat().await,
        };
        if handled.is_err() {
            return bridge.exit;
        }
    }
}

/// The session with the editor has ended.
struct Closed;

struct Bridge<O, C> {
    output: O,
    connect: C,
    record: SessionRecord,
    link: Option<Link>,
    connected_at: Option<Instant>,
    /// The earliest next attempt to connect.
    retry_at: Option<Instant>,
    /// Early failures in a row.
    early_failures: u32,
    /// When the daemon last said something.
    heard_at: Instant,
    is_hung: bool,
    /// Why connecting failed, as shown to the user; empty after a success.
    last_error: String,
    exit: Exit,
}

impl<O, C> Bridge<O, C>
where
    O: AsyncWrite + Unpin,
    C: AsyncFn(ConnectReason) -> Result<Option<Duplex>>,
{
    async fn on_editor_message(&mut self, message: &[u8]) -> Result<(), Closed> {
        let is_first = self.record.editor_process().is_none();
        let kind = self.record.record_editor_message(message);
        if is_first && self.record.editor_process().is_some_and(|pid| !process::exists(pid)) {
            self.record.forget_editor_process();
        }
        match kind {
            Kind::Exit => {
                if let Some(link) = &mut self.link {
                    let _ = link.send(message).await;
                }
                return Err(Closed);
            }
            Kind::StaleResponse => return Ok(()),
            Kind::Request | Kind::Other => {}
        }
        if self.record.is_shutting_down() {
            self.exit = Exit::Clean;
        }
        if self.link.is_none() && kind == Kind::Request {
            let is_first = self.connected_at.is_none();
            let reason = if is_first { ConnectReason::Start } else { ConnectReason::Reconnect };
            if self.connect(reason).await? {
                self.send_to_daemon(message).await?;
            }
        } else if self.link.is_some() {
            self.send_to_daemon(message).await?;
        }
        if self.link.is_none() {
            self.fail_pending().await?;
        }
        Ok(())
    }

    async fn on_daemon_message(&mut self, message: &[u8]) -> Result<(), Closed> {
        (self.heard_at, self.is_hung) = (Instant::now(), false);
        if self.record.record_daemon_message(message) { self.send_to_editor(message).await } else { Ok(()) }
    }

    /// Ends with the editor, which may leave its end of the pipe to another process, and tells of a hung daemon once.
    async fn on_heartbeat(&mut self) -> Result<(), Closed> {
        if self.record.editor_process().is_some_and(|pid| !process::exists(pid)) {
            tracing::warn!("the editor is gone");
            return Err(Closed);
        }
        if !self.record.is_handshake_done() || self.link.is_none() {
            return Ok(());
        }
        let silence = self.heard_at.elapsed();
        if silence > SILENCE_MAX {
            self.tell_of_silence().await?;
        }
        if silence > HEARTBEAT && !self.is_hung {
            return self.send_to_daemon(&replay::heartbeat()).await;
        }
        Ok(())
    }

    async fn tell_of_silence(&mut self) -> Result<(), Closed> {
        if std::mem::replace(&mut self.is_hung, true) {
            return Ok(());
        }
        let text = format!(
            "fimd: the daemon has not responded for {} s; end its process, `fimd daemon`, and a new one starts",
            self.heard_at.elapsed().as_secs()
        );
        tracing::error!("{text}");
        self.notify("window/showMessage", json!({"type": 1, "message": text})).await
    }

    async fn on_disconnect(&mut self) -> Result<(), Closed> {
        self.link = None;
        self.record.forget_daemon_requests();
        if self.record.is_shutting_down() {
            return self.fail_pending().await;
        }
        tracing::warn!("the daemon disconnected");
        let is_early = self.connected_at.is_some_and(|at| at.elapsed() < UPTIME_MIN);
        self.early_failures = if is_early { self.early_failures + 1 } else { 0 };
        if self.early_failures > EARLY_FAILURES_MAX {
            self.retry_at = Some(Instant::now() + RETRY_DELAY);
        }
        // The next daemon has not received these requests.
        for message in self.record.drain_pending(None) {
            self.send_to_editor(&message).await?;
        }
        if self.connect(ConnectReason::Reconnect).await? {
            if let (Some(message), Some(link)) = (self.record.pending_initialize(), &mut self.link) {
                // A connection that breaks here is noticed by the reader.
                let _ = link.send(&message).await;
            }
            return Ok(());
        }
        self.notify_disconnected().await?;
        self.fail_pending().await
    }

    async fn send_to_daemon(&mut self, message: &[u8]) -> Result<(), Closed> {
        let Some(link) = &mut self.link else { return Ok(()) };
        match timeout(SILENCE_MAX, link.send(message)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => self.on_disconnect().await,
            // It reads no more. Half of the message may be on its way, so this connection is of no use.
            Err(_) => {
                self.tell_of_silence().await?;
                self.on_disconnect().await
            }
        }
    }

    async fn send_to_editor(&mut self, message: &[u8]) -> Result<(), Closed> {
        wire::write(&mut self.output, message).await.map_err(|_| Closed)
    }

    /// Whether a daemon is connected now.
    async fn connect(&mut self, reason: ConnectReason) -> Result<bool, Closed> {
        if self.retry_at.is_some_and(|at| Instant::now() < at) {
            return Ok(false);
        }
        self.retry_at = Some(Instant::now() + RETRY_DELAY);
        let connection = match (self.connect)(reason).await {
            Ok(Some(connection)) => connection,
            Ok(None) => return Ok(false),
            Err(error) => {
                self.report(&error).await?;
                return Ok(false);
            }
        };
        self.last_error.clear();
        self.link = Link::open(connection, &self.record).await;
        if self.link.is_some() {
            (self.connected_at, self.retry_at) = (Some(Instant::now()), None);
            (self.heard_at, self.is_hung) = (Instant::now(), false);
        }
        Ok(self.link.is_some())
    }

    /// Shows the user why connecting failed, unless the previous attempt failed for the same reason.
    async fn report(&mut self, error: &anyhow::Error) -> Result<(), Closed> {
        tracing::error!("{error:#}");
        let message = escape::text(&format!("fimd: {error:#}")).into_owned();
        if self.record.is_initialized() && self.last_error != message {
            self.notify("window/showMessage", json!({"type": 1, "message": message})).await?;
        }
        self.last_error = message;
        Ok(())
    }

    /// Answers all pending requests: no daemon is connected.
    async fn fail_pending(&mut self) -> Result<(), Closed> {
        let reason = if self.last_error.is_empty() { "fimd was stopped" } else { &self.last_error };
        for message in self.record.drain_pending(Some(reason)) {
            self.send_to_editor(&message).await?;
        }
        Ok(())
    }

    async fn notify_disconnected(&mut self) -> Result<(), Closed> {
        if !self.record.wants_status() {
            return Ok(());
        }
        self.notify("fimd/status", json!({"state": "disconnected", "model": "", "busy": false})).await
    }

    async fn notify(&mut self, method: &str, params: Value) -> Result<(), Closed> {
        let message = json!({"jsonrpc": "2.0", "method": method, "params": params});
        self.send_to_editor(message.to_string().as_bytes()).await
    }
}
