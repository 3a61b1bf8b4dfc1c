//! One connection to the daemon: an editor, or a request and its answers.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use interprocess::local_socket::tokio::Stream;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::time::timeout;

use super::message::{
    Answer, GREETING_BYTES_MAX, Generation, Greeting, LINE_BYTES_MAX, PROTOCOL, Place as Cursor, Program,
    Purpose, Request, Welcome, Wishes, line, parse,
};
use super::state::Host;
use crate::base::Cancel;
use crate::complete::{self, Completion, Document, Lines, driver};
use crate::lsp;
use crate::resident::Resident;
use crate::serve::{self, Event, Priority};

/// How long a client may take to say what it wants.
const GREETING_MAX: Duration = Duration::from_secs(10);

/// Does what one connection is for.
pub(super) async fn talk(host: Arc<Host>, stream: Stream) -> Result<()> {
    let (reader, mut writer) = tokio::io::split(stream);
    let mut reader = BufReader::new(reader);
    let greeting = timeout(GREETING_MAX, read_line(&mut reader, GREETING_BYTES_MAX));
    let greeting: Greeting = parse(&greeting.await.context("nothing was said")??)?;
    if greeting.protocol != PROTOCOL {
        return write(&mut writer, &Welcome::Protocol(Program::own())).await;
    }
    write(&mut writer, &Welcome::Yes(Program::own())).await?;
    match greeting.purpose {
        Purpose::Edit { overrides, wishes } => {
            let options =
                lsp::Options { overrides: Some(overrides), notice: wish(&host, &wishes), observer: None };
            tokio::select! {
                _ = lsp::serve(reader, writer, host.resident.clone(), options) => {}
                () = host.stopped() => {}
            }
            Ok(())
        }
        Purpose::Ask => {
            let request = timeout(GREETING_MAX, read_line(&mut reader, LINE_BYTES_MAX));
            let request: Request = parse(&request.await.context("nothing was asked")??)?;
            answer(host, request, reader, &mut writer).await
        }
    }
}

/// Loads the model that an editor was started with, unless others use another one; then says so.
fn wish(host: &Host, wishes: &Wishes) -> Option<String> {
    let before = host.resident.wanted()?;
    let wanted = match wishes.over(&before) {
        Ok(wanted) if wishes.names_model() && wanted.model != before.model => wanted,
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

/// Answers a request.
async fn answer(
    host: Arc<Host>,
    request: Request,
    reader: impl AsyncBufRead + Unpin,
    writer: &mut (impl AsyncWrite + Unpin),
) -> Result<()> {
    let answer = match request {
        Request::Status => Answer::Status(Box::new(host.status())),
        Request::Stop { for_another } => {
            if !for_another && let Err(error) = host.place.note_stop() {
                tracing::warn!("editors may start the daemon again: {error}");
            }
            write(writer, &Answer::Done).await?;
            host.stop.send_replace(true);
            return Ok(());
        }
        Request::Pause { minutes } => {
            match minutes.map(|m| Duration::try_from_secs_f64(m * 60.0)).transpose() {
                Ok(time) => {
                    host.resident.pause(time);
                    Answer::Done
                }
                Err(error) => Answer::Failed(format!("that is no time: {error}")),
            }
        }
        Request::Resume => {
            host.resident.resume();
            Answer::Done
        }
        Request::Load(wishes) => match host.resident.wanted().map(|before| wishes.over(&before)) {
            Some(Ok(spec)) => {
                host.resident.load(spec);
                Answer::Done
            }
            Some(Err(error)) => Answer::Failed(format!("{error:#}")),
            None => Answer::Failed("this daemon cannot load models".into()),
        },
        Request::Complete(cursor) => {
            let completed = tokio::task::spawn_blocking(move || complete(&host.resident, cursor)).await;
            match completed.context("fimd failed on this request").flatten() {
                Ok(completion) => Answer::Completion(completion),
                Err(error) => Answer::Failed(format!("{error:#}")),
            }
        }
        Request::Generate(generation) => return generate(&host, *generation, reader, writer).await,
    };
    write(writer, &answer).await
}

fn complete(resident: &Resident, cursor: Cursor) -> Result<Option<Completion>> {
    let view = resident.view();
    let configuration = view.configuration.with_client(&cursor.overrides);
    let options = configuration.settings().prompt(view.served.suited);
    let request = complete::Request {
        lines: if cursor.is_multi_line { Lines::Multi } else { Lines::Auto },
        max_tokens: cursor.max_tokens,
        is_invoked: true,
        ..complete::Request::of(Document::new(Some(cursor.path), cursor.prefix, cursor.suffix))
    };
    driver::once(&view.served.engine, options, request)
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
        Err(error) => return write(writer, &Answer::Failed(format!("{error:#}"))).await,
    };
    let (cancel, prompt) = (Cancel::new(), task.prompt.clone());
    let (send, mut events) = tokio::sync::mpsc::unbounded_channel();
    engine.submit(serve::Request {
        key: format!("generate/{}", host.next_number()),
        priority: Priority::Patient,
        not_before: None,
        task,
        cancel: cancel.clone(),
        listener: Box::new(move |event| {
            let _ = send.send(match event {
                Event::Text(text) => Answer::Text(text.to_owned()),
                Event::Done(Ok(mut generated)) => {
                    Answer::Generated(prompt.clone(), Box::new(generated.swap_remove(0)))
                }
                Event::Done(Err(error)) => Answer::Failed(format!("{error:#}")),
            });
        }),
    });
    let mut more = Vec::new();
    loop {
        tokio::select! {
            answer = events.recv() => {
                let Some(answer) = answer else { return Ok(()) };
                let is_last = !matches!(answer, Answer::Text(_));
                if let Err(error) = write(writer, &answer).await {
                    cancel.cancel();
                    return Err(error);
                }
                if is_last {
                    return Ok(());
                }
            }
            // Nobody says more: this is the end of the connection.
            read = reader.read_until(b'\n', &mut more) => {
                cancel.cancel();
                ensure!(read.is_ok_and(|read| read == 0), "more was said than a request");
                return Ok(());
            }
        }
    }
}

async fn read_line(reader: &mut (impl AsyncBufRead + Unpin), bytes_max: usize) -> Result<String> {
    let mut text = String::new();
    reader.take(bytes_max as u64).read_line(&mut text).await.context("the connection broke")?;
    ensure!(text.ends_with('\n'), "what was said has no end within {bytes_max} bytes");
    Ok(text)
}

async fn write(writer: &mut (impl AsyncWrite + Unpin), message: &impl serde::Serialize) -> Result<()> {
    writer.write_all(line(message)?.as_bytes()).await.context("the other side went away")?;
    writer.flush().await.context("the other side went away")
}
