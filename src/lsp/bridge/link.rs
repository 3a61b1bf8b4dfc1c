//! The connection to one daemon: the handshake and the replay, then messages in both directions.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite, BufReader};
use tokio::sync::mpsc::{self, UnboundedReceiver};
use tokio::time::timeout;

use super::replay::{self, SessionRecord};
use crate::lsp::wire;

/// Both directions of a connection to a daemon.
pub type Duplex = (Box<dyn AsyncRead + Send + Unpin>, Box<dyn AsyncWrite + Send + Unpin>);

/// How long a daemon may take to answer a replayed `initialize`.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(20);

pub(super) struct Link {
    writer: Box<dyn AsyncWrite + Send + Unpin>,
    messages: UnboundedReceiver<Vec<u8>>,
}

impl Link {
    /// Replays the session on a new connection, once a daemon has answered `initialize` before; `None` on a timeout
    /// of the handshake.
    pub(super) async fn open((reader, mut writer): Duplex, record: &SessionRecord) -> Option<Self> {
        let mut reader = BufReader::new(reader);
        if record.is_handshake_done() {
            // A connection that breaks meanwhile is noticed with the next message.
            let _ = timeout(HANDSHAKE_TIMEOUT, replay(record, &mut reader, &mut writer)).await.ok()?;
        }
        let (send, messages) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok(Some(message)) = wire::read(&mut reader).await {
                if send.send(message).is_err() {
                    break;
                }
            }
        });
        Some(Self { writer, messages })
    }

    pub(super) async fn send(&mut self, message: &[u8]) -> io::Result<()> {
        wire::write(&mut self.writer, message).await
    }

    /// The next message of the daemon; `None` once the connection is closed.
    pub(super) async fn receive(&mut self) -> Option<Vec<u8>> {
        self.messages.recv().await
    }
}

async fn replay(
    record: &SessionRecord,
    reader: &mut (impl AsyncBufRead + Unpin),
    writer: &mut (impl AsyncWrite + Unpin),
) -> io::Result<()> {
    wire::write(writer, &record.replayed_initialize()).await?;
    // The protocol forbids other messages before the response.
    while let Some(message) = wire::read(reader).await? {
        if replay::is_initialize_response(&message) {
            break;
        }
    }
    for message in record.replay() {
        wire::write(writer, &message).await?;
    }
    Ok(())
}
