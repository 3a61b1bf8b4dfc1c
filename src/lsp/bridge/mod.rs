//! What editors start: copies messages between an editor and the daemon, and hides from the editor that daemons
//! come and go.
//!
//! When a daemon goes away, whoever waits for it is answered, and the next one is told what `past` remembers.

mod past;

use std::io;
use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};
use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::sync::mpsc::{self, UnboundedReceiver};
use tokio::time::{Instant, timeout};

use super::wire::{self, Exit};
use past::{Kind, Past};

/// Both directions of a connection to a daemon.
pub type Duplex = (Box<dyn AsyncRead + Send + Unpin>, Box<dyn AsyncWrite + Send + Unpin>);

/// Why a daemon is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// An editor has started.
    Start,
    /// The one before went away.
    Again,
}

/// Messages of the editor that may wait to be copied.
const MESSAGES_MAX: usize = 64;
/// Without a daemon, the next attempt to reach one is not made earlier.
const RETRY: Duration = Duration::from_secs(2);
/// How long a daemon may take to answer `initialize` when it is said again.
const RETELL_MAX: Duration = Duration::from_secs(20);
/// A daemon that lasts less long has failed early.
const LIFE_MIN: Duration = Duration::from_secs(10);
/// After more that fail early in a row, the next one is not started at once.
const EARLY_MAX: u32 = 2;

/// Serves one editor until it says `exit` or closes `input`. `connect` finds a daemon, or starts one; there is none
/// when the user has stopped it.
pub async fn bridge<C>(
    input: impl AsyncRead + Send + Unpin + 'static,
    output: impl AsyncWrite + Unpin,
    connect: C,
) -> Exit
where
    C: AsyncFn(Need) -> Result<Option<Duplex>>,
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
        past: Past::default(),
        link: None,
        connected_at: None,
        retry_at: None,
        early: 0,
        complaint: String::new(),
        exit: Exit::Unclean,
    };
    loop {
        let link = &mut bridge.link;
        let next = async {
            match link {
                Some(link) => link.messages.recv().await,
                None => std::future::pending().await,
            }
        };
        let go_on = tokio::select! {
            // Answers first: a client that floods the bridge still gets them.
            biased;
            message = next => match message {
                Some(message) => bridge.daemon_said(&message).await,
                None => bridge.lost().await,
            },
            message = messages.recv() => match message {
                Some(message) => bridge.editor_said(&message).await,
                None => Err(Over),
            },
        };
        if go_on.is_err() {
            return bridge.exit;
        }
    }
}

/// The session with the editor is over.
struct Over;

struct Bridge<O, C> {
    output: O,
    connect: C,
    past: Past,
    link: Option<Link>,
    connected_at: Option<Instant>,
    retry_at: Option<Instant>,
    /// How many daemons have failed early in a row.
    early: u32,
    /// What the user was told last.
    complaint: String,
    exit: Exit,
}

struct Link {
    writer: Box<dyn AsyncWrite + Send + Unpin>,
    messages: UnboundedReceiver<Vec<u8>>,
}

impl<O, C> Bridge<O, C>
where
    O: AsyncWrite + Unpin,
    C: AsyncFn(Need) -> Result<Option<Duplex>>,
{
    async fn editor_said(&mut self, message: &[u8]) -> Result<(), Over> {
        let kind = self.past.note_of_editor(message);
        match kind {
            Kind::Exit => {
                if let Some(link) = &mut self.link {
                    // The daemon cleans up; nobody waits for it.
                    let _ = wire::write(&mut link.writer, message).await;
                    let _ = link.writer.flush().await;
                }
                return Err(Over);
            }
            Kind::StaleResponse => return Ok(()),
            Kind::Request | Kind::Other => {}
        }
        if self.past.is_shutting_down() {
            self.exit = Exit::Clean;
        }
        if self.link.is_none() && kind == Kind::Request {
            let need = if self.connected_at.is_none() { Need::Start } else { Need::Again };
            if self.reconnect(need).await? {
                self.tell_daemon(message).await?;
            }
        } else if self.link.is_some() {
            self.tell_daemon(message).await?;
        }
        if self.link.is_none() {
            self.answer_all().await?;
        }
        Ok(())
    }

    async fn tell_daemon(&mut self, message: &[u8]) -> Result<(), Over> {
        let Some(link) = &mut self.link else { return Ok(()) };
        match wire::write(&mut link.writer, message).await {
            Ok(()) => Ok(()),
            Err(_) => self.lost().await,
        }
    }

    async fn daemon_said(&mut self, message: &[u8]) -> Result<(), Over> {
        if self.past.note_of_daemon(message) { self.tell_editor(message).await } else { Ok(()) }
    }

    async fn tell_editor(&mut self, message: &[u8]) -> Result<(), Over> {
        wire::write(&mut self.output, message).await.map_err(|_| Over)
    }

    /// The daemon went away.
    async fn lost(&mut self) -> Result<(), Over> {
        self.link = None;
        self.past.forget_asked();
        if self.past.is_shutting_down() {
            return self.answer_all().await;
        }
        tracing::warn!("the daemon went away");
        let is_early = self.connected_at.is_some_and(|at| at.elapsed() < LIFE_MIN);
        self.early = if is_early { self.early + 1 } else { 0 };
        if self.early > EARLY_MAX {
            self.retry_at = Some(Instant::now() + RETRY);
        }
        // Those that were asked before stay unanswered by the new one.
        for message in self.past.answers(None) {
            self.tell_editor(&message).await?;
        }
        if self.reconnect(Need::Again).await? {
            if let (Some(message), Some(link)) = (self.past.unanswered_introduction(), &mut self.link) {
                // A connection that breaks here is found out like any other.
                let _ = wire::write(&mut link.writer, &message).await;
            }
            return Ok(());
        }
        self.say_disconnected().await?;
        self.answer_all().await
    }

    /// Finds a daemon and tells it the past. Fails only when the editor is gone.
    async fn reconnect(&mut self, need: Need) -> Result<bool, Over> {
        if self.retry_at.is_some_and(|at| Instant::now() < at) {
            return Ok(false);
        }
        self.retry_at = Some(Instant::now() + RETRY);
        let (reader, mut writer) = match (self.connect)(need).await {
            Ok(Some(connection)) => connection,
            Ok(None) => return Ok(false),
            Err(error) => {
                let complaint = format!("fimd: {error:#}");
                tracing::error!("{error:#}");
                if self.past.is_initialized() && self.complaint != complaint {
                    let params = json!({"type": 1, "message": complaint});
                    self.say("window/showMessage", params).await?;
                }
                self.complaint = complaint;
                return Ok(false);
            }
        };
        self.complaint.clear();
        let mut reader = BufReader::new(reader);
        if self.past.is_introduced()
            && timeout(RETELL_MAX, self.retell(&mut reader, &mut writer)).await.is_err()
        {
            return Ok(false);
        }
        let (send, messages) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok(Some(message)) = wire::read(&mut reader).await {
                if send.send(message).is_err() {
                    break;
                }
            }
        });
        self.link = Some(Link { writer, messages });
        (self.connected_at, self.retry_at) = (Some(Instant::now()), None);
        Ok(true)
    }

    /// Introduces the editor to another daemon and tells it what the one before knew. Where the connection breaks
    /// meanwhile, the next message finds out.
    async fn retell(
        &self,
        reader: &mut (impl AsyncBufRead + Unpin),
        writer: &mut (impl AsyncWrite + Unpin),
    ) -> io::Result<()> {
        wire::write(writer, &self.past.introduction()).await?;
        // Nothing may be said to a server before it has answered this.
        while let Some(message) = wire::read(reader).await? {
            if past::answers_introduction(&message) {
                break;
            }
        }
        for message in self.past.retell() {
            wire::write(writer, &message).await?;
        }
        Ok(())
    }

    /// Answers everyone who waits: there is no daemon.
    async fn answer_all(&mut self) -> Result<(), Over> {
        let reason = if self.complaint.is_empty() { "fimd was stopped" } else { &self.complaint };
        for message in self.past.answers(Some(reason)) {
            self.tell_editor(&message).await?;
        }
        Ok(())
    }

    async fn say_disconnected(&mut self) -> Result<(), Over> {
        if !self.past.wants_status() {
            return Ok(());
        }
        self.say("fimd/status", json!({"state": "disconnected", "model": "", "busy": false})).await
    }

    async fn say(&mut self, method: &str, params: Value) -> Result<(), Over> {
        let message = json!({"jsonrpc": "2.0", "method": method, "params": params});
        self.tell_editor(message.to_string().as_bytes()).await
    }
}
