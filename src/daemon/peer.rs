//! One connection to the daemon: an editor, or a request and its responses.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use interprocess::local_socket::tokio::Stream;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::time::timeout;

use super::message::{
    CompletionRequest, Generation, HANDSHAKE_BYTES_MAX, HANDSHAKE_TIMEOUT, Handshake, HandshakeReply,
    LINE_BYTES_MAX, ModelOverrides, PROTOCOL, Program, Purpose, Request, Response, line, parse,
};
use super::state::Host;
use crate::base::Cancel;
use crate::complete::{self, Completion, Document, Lines, driver};
use crate::lsp;
use crate::resident::Resident;
use crate::serve::{self, Event, Priority};

/// Serves one connection.
pub(super) async fn serve(host: Arc<Host>, stream: Stream) -> Result<()> {
    let (reader, mut writer) = tokio::io::split(stream);
    let mut reader = BufReader::new(reader);
    let handshake = timeout(HANDSHAKE_TIMEOUT, read_line(&mut reader, HANDSHAKE_BYTES_MAX));
    let handshake: Handshake = parse(&handshake.await.context("no handshake within the timeout")??)?;
    if handshake.protocol != PROTOCOL {
        return write(&mut writer, &HandshakeReply::VersionMismatch(Program::own())).await;
    }
    write(&mut writer, &HandshakeReply::Accepted(Program::own())).await?;
    match handshake.purpose {
        Purpose::Edit { overrides, model } => {
            let options = lsp::Options {
                overrides: Some(overrides),
                notice: apply_model_overrides(&host, &model),
                observer: None,
            };
            tokio::select! {
                _ = lsp::serve(reader, writer, host.resident.clone(), options) => {}
                () = host.stopped() => {}
            }
            Ok(())
        }
        Purpose::Request => {
            let request = timeout(HANDSHAKE_TIMEOUT, read_line(&mut reader, LINE_BYTES_MAX));
            let request = request.await.context("no request within the timeout")??;
            // The process that started the daemon only probes whether it listens.
            if request.is_empty() {
                Ok(())
            } else {
                respond(host, parse(&request)?, reader, &mut writer).await
            }
        }
    }
}

/// Loads the model that an editor was started with. Returns a notice for the user when other editors use another one.
fn apply_model_overrides(host: &Host, overrides: &ModelOverrides) -> Option<String> {
    let before = host.resident.requested()?;
    let wanted = match overrides.over(&before) {
        Ok(wanted) if overrides.names_model() && wanted.model != before.model => wanted,
        Ok(_) => return None,
        Err(error) => return Some(format!("{error:#}")),
    };
    let name =
        |path: Option<PathBuf>| path.map_or("the starter model".into(), |path| path.display().to_string());
    if !host.resident.connected().is_empty() {
        return Some(format!(
            "the daemon serves {} to all editors, not {}; `fimd load` changes that",
            name(before.model),
            name(wanted.model)
        ));
    }
    host.resident.load(wanted);
    None
}

async fn respond(
    host: Arc<Host>,
    request: Request,
    mut reader: impl AsyncBufRead + Unpin,
    writer: &mut (impl AsyncWrite + Unpin),
) -> Result<()> {
    let response = match request {
        Request::Status => Response::Status(Box::new(host.status())),
        Request::Stop { for_another } => {
            if !for_another && let Err(error) = host.runtime_dir.mark_stopped() {
                tracing::warn!(
                    "cannot mark the daemon as stopped, so that editors may start it again: {error}"
                );
            }
            write(writer, &Response::Done).await?;
            host.stop.send_replace(true);
            return Ok(());
        }
        Request::Pause { minutes } => {
            match minutes.map(|m| Duration::try_from_secs_f64(m * 60.0)).transpose() {
                Ok(time) => {
                    lsp::pause(&host.resident, time);
                    Response::Done
                }
                Err(error) => Response::Failed(format!("invalid duration: {error}")),
            }
        }
        Request::Resume => {
            host.resident.resume();
            Response::Done
        }
        Request::Load(model) => match host.resident.requested().map(|before| model.over(&before)) {
            Some(Ok(spec)) => {
                host.resident.load(spec);
                Response::Done
            }
            Some(Err(error)) => Response::Failed(format!("{error:#}")),
            None => Response::Failed("this daemon cannot load models".into()),
        },
        Request::Complete(request) => {
            let cancel = Cancel::new();
            let flag = cancel.clone();
            let work = tokio::task::spawn_blocking(move || complete(&host.resident, request, &flag));
            let completed = tokio::select! {
                completed = work => completed,
                // No more messages are valid: this is the end of the connection.
                _ = reader.read_u8() => {
                    cancel.cancel();
                    return Ok(());
                }
            };
            // The message of a panic may quote text.
            match completed.unwrap_or_else(|_| bail!("fimd failed on this request")) {
                Ok(completion) => Response::Completion(completion),
                Err(error) => Response::Failed(format!("{error:#}")),
            }
        }
        Request::Generate(generation) => return generate(&host, *generation, reader, writer).await,
    };
    write(writer, &response).await
}

fn complete(resident: &Resident, request: CompletionRequest, cancel: &Cancel) -> Result<Option<Completion>> {
    let view = resident.view();
    let configuration = view.configuration.with_client(&request.overrides);
    if let Err(refusal) = configuration.check_file(&request.file, &[], resident.git().clone()) {
        bail!("fimd does not read {}: {refusal}", request.path);
    }
    let options = configuration.settings().prompt(view.served.profile);
    let request = complete::Request {
        lines: if request.is_multi_line { Lines::Multi } else { Lines::Auto },
        max_tokens: request.max_tokens,
        is_invoked: true,
        ..complete::Request::of(Document::new(Some(request.path), request.prefix, request.suffix))
    };
    driver::once(&view.served.engine, options, request, cancel)
}

async fn generate(
    host: &Host,
    generation: Generation,
    mut reader: impl AsyncBufRead + Unpin,
    writer: &mut (impl AsyncWrite + Unpin),
) -> Result<()> {
    let engine = host.resident.view().served.engine.clone();
    let task = match generation.task(Ok(engine.tokenizer())) {
        Ok(task) => task,
        Err(error) => return write(writer, &Response::Failed(format!("{error:#}"))).await,
    };
    let (cancel, prompt) = (Cancel::new(), task.prompt.clone());
    let (send, mut events) = tokio::sync::mpsc::unbounded_channel();
    engine.submit(serve::Request {
        key: format!("generate/{}", host.next_number()),
        priority: Priority::Standard,
        not_before: None,
        task,
        cancel: cancel.clone(),
        listener: Box::new(move |event| {
            let _ = send.send(match event {
                Event::Text(text) => Response::Text(text.to_owned()),
                Event::Done(Ok(mut generated)) => {
                    Response::Generated(prompt.clone(), Box::new(generated.swap_remove(0)))
                }
                Event::Done(Err(error)) => Response::Failed(format!("{error:#}")),
            });
        }),
    });
    let mut more = Vec::new();
    loop {
        tokio::select! {
            response = events.recv() => {
                let Some(response) = response else { return Ok(()) };
                let is_last = !matches!(response, Response::Text(_));
                if let Err(error) = write(writer, &response).await {
                    cancel.cancel();
                    return Err(error);
                }
                if is_last {
                    return Ok(());
                }
            }
            // No more messages are valid: this is the end of the connection.
            read = reader.read_until(b'\n', &mut more) => {
                cancel.cancel();
                ensure!(read.is_ok_and(|read| read == 0), "unexpected message after the request");
                return Ok(());
            }
        }
    }
}

/// The next line; empty at the end of the connection.
async fn read_line(reader: &mut (impl AsyncBufRead + Unpin), bytes_max: usize) -> Result<String> {
    let mut text = String::new();
    reader.take(bytes_max as u64).read_line(&mut text).await.context("the connection failed")?;
    ensure!(text.is_empty() || text.ends_with('\n'), "message exceeds {bytes_max} bytes or is cut off");
    Ok(text)
}

async fn write(writer: &mut (impl AsyncWrite + Unpin), message: &impl serde::Serialize) -> Result<()> {
    writer.write_all(line(message)?.as_bytes()).await.context("the peer closed the connection")?;
    writer.flush().await.context("the peer closed the connection")
}
