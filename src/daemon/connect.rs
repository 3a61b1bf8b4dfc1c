//! Connecting an editor to the daemon, which is started where it does not run.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use interprocess::local_socket::tokio::{Stream, prelude::*};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::time::{sleep, timeout};

use super::client::{is_absence, mismatch, stop};
use super::launch::{START_MAX, Start};
use super::message::{GREETING_BYTES_MAX, Greeting, Program, Purpose, WELCOME_MAX, Welcome, line, parse};
use super::place::Place;
use crate::lsp::Duplex;

/// Between two attempts.
const STEP: Duration = Duration::from_millis(10);

/// A connection for an editor to the daemon, which is started if it is not there; `None` when the user has stopped
/// it and `may_start` is false.
pub async fn connect_editor(place: &Place, purpose: Purpose, may_start: bool) -> Result<Option<Duplex>> {
    let started = Instant::now();
    let mut start: Option<Start> = None;
    loop {
        match Stream::connect(place.socket()?).await {
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
async fn greet(stream: Stream, purpose: Purpose, place: &Place) -> Result<Option<Duplex>> {
    let (reader, mut writer) = tokio::io::split(stream);
    if writer.write_all(line(&Greeting::new(purpose))?.as_bytes()).await.is_err() {
        return Ok(None);
    }
    let mut reader = BufReader::new(reader);
    let mut text = String::new();
    let mut limited = (&mut reader).take(GREETING_BYTES_MAX as u64);
    let read = timeout(WELCOME_MAX, limited.read_line(&mut text));
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
