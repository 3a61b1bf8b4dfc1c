//! Connecting an editor to the daemon, which is started if none runs.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use interprocess::local_socket::tokio::{Stream, prelude::*};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::time::{sleep, timeout};

use super::client::{is_absence, mismatch, stop};
use super::launch::{START_MAX, Start};
use super::message::{
    HANDSHAKE_BYTES_MAX, HANDSHAKE_TIMEOUT, Handshake, HandshakeReply, Program, Purpose, line, parse,
};
use super::runtime_dir::RuntimeDir;
use crate::lsp::Duplex;

/// Between two attempts.
const STEP: Duration = Duration::from_millis(10);

/// Connects an editor to the daemon, which is started if none runs; `None` when the user has stopped it and
/// `may_start` is false.
pub async fn connect_editor(
    runtime_dir: &RuntimeDir,
    purpose: Purpose,
    may_start: bool,
) -> Result<Option<Duplex>> {
    let started = Instant::now();
    let mut start: Option<Start> = None;
    loop {
        match Stream::connect(runtime_dir.socket()?).await {
            Ok(stream) => {
                if let Some(connection) = handshake(stream, purpose.clone(), runtime_dir).await? {
                    return Ok(Some(connection));
                }
            }
            Err(error) if !is_absence(error.kind()) => {
                return Err(error)
                    .with_context(|| format!("cannot use {}", runtime_dir.socket_path().display()));
            }
            Err(_) if start.is_none() => {
                if !may_start && runtime_dir.is_stopped() {
                    return Ok(None);
                }
                start = Some(Start::new(runtime_dir)?);
            }
            Err(_) => {}
        }
        if let Some(start) = &mut start {
            start.check()?;
        }
        ensure!(
            started.elapsed() < START_MAX,
            "the daemon does not respond; see {}",
            runtime_dir.log_dir().display()
        );
        sleep(STEP).await;
    }
}

/// Does the handshake; `None` when the daemon closed the connection, or is replaced by this newer build.
async fn handshake(stream: Stream, purpose: Purpose, runtime_dir: &RuntimeDir) -> Result<Option<Duplex>> {
    let (reader, mut writer) = tokio::io::split(stream);
    if writer.write_all(line(&Handshake::new(purpose))?.as_bytes()).await.is_err() {
        return Ok(None);
    }
    let mut reader = BufReader::new(reader);
    let mut text = String::new();
    let mut limited = (&mut reader).take(HANDSHAKE_BYTES_MAX as u64);
    let read = timeout(HANDSHAKE_TIMEOUT, limited.read_line(&mut text));
    let is_read = read.await.context("the daemon does not respond")?.is_ok_and(|length| length > 0);
    if !is_read {
        return Ok(None);
    }
    let own = Program::own();
    let other = match parse(&text)? {
        HandshakeReply::Accepted(other) => {
            if other == own || other.built_s >= own.built_s {
                return Ok(Some((Box::new(reader), Box::new(writer))));
            }
            other
        }
        HandshakeReply::VersionMismatch(other) => {
            ensure!(other.built_s < own.built_s, "{}", mismatch(&other));
            other
        }
    };
    tracing::info!("replacing a daemon of version {}", other.version);
    drop((reader, writer));
    let runtime_dir = runtime_dir.clone();
    tokio::task::spawn_blocking(move || stop(&runtime_dir, true))
        .await
        .context("fimd is shutting down")??;
    Ok(None)
}
