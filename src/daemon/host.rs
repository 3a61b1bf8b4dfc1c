//! The daemon: it listens, and ends when it was idle for a while or is told to.

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use interprocess::local_socket::ListenerOptions;
use interprocess::local_socket::tokio::{Listener, Stream};
use interprocess::local_socket::traits::StreamCommon;
use interprocess::local_socket::traits::tokio::Listener as _;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::message::{
    Answer, GREETING_BYTES_MAX, Generation, Greeting, LINE_BYTES_MAX, PROTOCOL, Place as Cursor, Program,
    Purpose, Request, Status, Welcome, Wishes, line, parse,
};
use super::place::Place;
use crate::base::Cancel;
use crate::base::process::memory_bytes;
use crate::complete::{Document, Lines, driver};
use crate::config::{self, Configuration};
use crate::decode::Task;
use crate::lsp;
use crate::resident::{Resident, Spec};
use crate::serve::{self, Event, Priority};

/// How long a client may take to say what it wants.
const GREETING_MAX: Duration = Duration::from_secs(10);
/// How often it looks whether it is idle.
const LOOK: Duration = Duration::from_secs(1);
/// After a failed `accept`, as when there are too many open files.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// The settings of the daemon and the model that they name, read anew each time.
pub type Configure<'c> = &'c dyn Fn() -> Result<(Configuration, Spec)>;

struct Host {
    resident: Arc<Resident>,
    place: Place,
    started: Instant,
    requests: AtomicU64,
    stop: watch::Sender<bool>,
}

/// Serves until told to stop, or until no editor came for a while. Returns false at once when another daemon runs.
pub fn run(place: &Place, configure: Configure) -> Result<bool> {
    let Some(_lock) = place.lock()? else { return Ok(false) };
    place.forget_stop();
    let file = Watched::new(config::file());
    let (configuration, spec) = configure()?;
    let resident = Resident::start(spec.clone(), configuration)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the runtime of the daemon")?;
    let result = runtime.block_on(async {
        let listener = listen(place)?;
        let (place, stop) = (place.clone(), watch::Sender::new(false));
        let host =
            Arc::new(Host { resident, place, started: Instant::now(), requests: AtomicU64::new(0), stop });
        tracing::info!("listening at {}", host.place.socket_path().display());
        host.serve(listener, file, spec, configure).await;
        tracing::info!("ending");
        Ok(true)
    });
    runtime.shutdown_background();
    result
}

/// Listens where nobody else does: the lock is held, so what is left of a socket is of a daemon that is gone.
fn listen(place: &Place) -> Result<Listener> {
    let options = ListenerOptions::new().name(place.socket()?).try_overwrite(true);
    #[cfg(unix)]
    let options = {
        use interprocess::os::unix::local_socket::ListenerOptionsExt;
        let _ = std::fs::remove_file(place.socket_path());
        // Where the system cannot do this, the folder keeps others out.
        if cfg!(target_os = "linux") { options.mode(0o600) } else { options }
    };
    options.create_tokio().with_context(|| format!("cannot listen at {}", place.socket_path().display()))
}

impl Host {
    /// `spec` is the model that the settings name.
    async fn serve(
        self: Arc<Self>,
        listener: Listener,
        mut file: Watched,
        mut spec: Spec,
        configure: Configure<'_>,
    ) {
        let mut stop = self.stop.subscribe();
        let mut terminated = std::pin::pin!(terminated());
        loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok(stream) => self.clone().accept(stream),
                    Err(error) => {
                        tracing::warn!("cannot accept a connection: {error}");
                        sleep(ACCEPT_RETRY).await;
                    }
                },
                () = &mut terminated => return,
                _ = stop.wait_for(|stop| *stop) => return,
                () = sleep(LOOK) => {}
            }
            if file.has_changed() {
                self.reload(configure, &mut spec);
            }
            if self.is_idle() {
                tracing::info!("no editor came for a while");
                return;
            }
        }
    }

    /// Follows changed settings. A model that was asked for otherwise stays until they name another one than
    /// before.
    fn reload(&self, configure: Configure, spec: &mut Spec) {
        match configure() {
            Ok((configuration, new)) => {
                tracing::info!("the settings have changed");
                self.resident.configure(configuration);
                if new != *spec {
                    self.resident.load(new.clone());
                    *spec = new;
                }
            }
            Err(error) => tracing::error!("the settings stay as they were: {error:#}"),
        }
    }

    fn is_idle(&self) -> bool {
        let minutes = self.resident.view().configuration.settings().daemon.idle_exit_minutes;
        let most = Duration::from_secs_f64(minutes * 60.0);
        !most.is_zero() && self.resident.idle().is_some_and(|idle| idle >= most)
    }

    fn accept(self: Arc<Self>, stream: Stream) {
        if let Err(error) = check_peer(&stream) {
            tracing::warn!("a connection is refused: {error:#}");
            return;
        }
        tokio::spawn(async move {
            // A panic ends this connection only, and is reported by the panic hook.
            if let Err(error) = self.talk(stream).await {
                tracing::warn!("a connection ended: {error:#}");
            }
        });
    }

    async fn talk(self: Arc<Self>, stream: Stream) -> Result<()> {
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
                    lsp::Options { overrides: Some(overrides), notice: self.wish(&wishes), observer: None };
                let mut stop = self.stop.subscribe();
                tokio::select! {
                    _ = lsp::serve(reader, writer, self.resident.clone(), options) => {}
                    _ = stop.wait_for(|stop| *stop) => {}
                }
                Ok(())
            }
            Purpose::Ask => {
                let request = timeout(GREETING_MAX, read_line(&mut reader, LINE_BYTES_MAX));
                let request: Request = parse(&request.await.context("nothing was asked")??)?;
                self.answer(request, reader, &mut writer).await
            }
        }
    }

    /// Loads the model that an editor was started with, unless others use another one; then says so.
    fn wish(&self, wishes: &Wishes) -> Option<String> {
        let before = self.resident.wanted()?;
        let wanted = match wishes.over(&before) {
            Ok(wanted) if wishes.names_model() && wanted.model != before.model => wanted,
            Ok(_) => return None,
            Err(error) => return Some(format!("{error:#}")),
        };
        let name = |path: Option<PathBuf>| {
            path.map_or("the starter model".into(), |path| path.display().to_string())
        };
        if !self.resident.connected().is_empty() {
            return Some(format!(
                "the daemon serves {} to all editors, not {}; `fimd load` changes that",
                name(before.model),
                name(wanted.model)
            ));
        }
        self.resident.load(wanted);
        None
    }

    async fn answer<W>(
        self: Arc<Self>,
        request: Request,
        reader: impl AsyncBufRead + Unpin,
        writer: &mut W,
    ) -> Result<()>
    where
        W: AsyncWrite + Unpin,
    {
        let answer = match request {
            Request::Status => Answer::Status(Box::new(self.status())),
            Request::Stop { for_another } => {
                if !for_another && let Err(error) = self.place.note_stop() {
                    tracing::warn!("editors may start the daemon again: {error}");
                }
                write(writer, &Answer::Done).await?;
                self.stop.send_replace(true);
                return Ok(());
            }
            Request::Pause { minutes } => {
                match minutes.map(|m| Duration::try_from_secs_f64(m * 60.0)).transpose() {
                    Ok(time) => {
                        self.resident.pause(time);
                        Answer::Done
                    }
                    Err(error) => Answer::Failed(format!("that is no time: {error}")),
                }
            }
            Request::Resume => {
                self.resident.resume();
                Answer::Done
            }
            Request::Load(wishes) => match self.resident.wanted().map(|before| wishes.over(&before)) {
                Some(Ok(spec)) => {
                    self.resident.load(spec);
                    Answer::Done
                }
                Some(Err(error)) => Answer::Failed(format!("{error:#}")),
                None => Answer::Failed("this daemon cannot load models".into()),
            },
            Request::Complete(cursor) => {
                let completed = tokio::task::spawn_blocking(move || self.complete(cursor)).await;
                match completed.context("fimd failed on this request").flatten() {
                    Ok(completion) => Answer::Completion(completion),
                    Err(error) => Answer::Failed(format!("{error:#}")),
                }
            }
            Request::Generate(generation) => return self.generate(*generation, reader, writer).await,
        };
        write(writer, &answer).await
    }

    fn complete(&self, cursor: Cursor) -> Result<Option<crate::complete::Completion>> {
        let view = self.resident.view();
        let configuration = view.configuration.with_client(&cursor.overrides);
        let options = configuration.settings().prompt(view.served.suited);
        let request = crate::complete::Request {
            lines: if cursor.is_multi_line { Lines::Multi } else { Lines::Auto },
            max_tokens: cursor.max_tokens,
            is_invoked: true,
            ..crate::complete::Request::of(Document::new(Some(cursor.path), cursor.prefix, cursor.suffix))
        };
        driver::once(&view.served.engine, options, request)
    }

    async fn generate(
        &self,
        generation: Generation,
        mut reader: impl AsyncBufRead + Unpin,
        writer: &mut (impl AsyncWrite + Unpin),
    ) -> Result<()> {
        let engine = self.resident.view().served.engine.clone();
        let task = generation.task(&engine);
        let task = match task {
            Ok(task) => task,
            Err(error) => return write(writer, &Answer::Failed(format!("{error:#}"))).await,
        };
        let (cancel, prompt) = (Cancel::new(), task.prompt.clone());
        let (send, mut events) = tokio::sync::mpsc::unbounded_channel();
        engine.submit(serve::Request {
            key: format!("generate/{}", self.requests.fetch_add(1, Ordering::Relaxed)),
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

    fn status(&self) -> Status {
        let (view, spec) = (self.resident.view(), self.resident.wanted());
        let state = match (&view.loading, &view.pause, &view.failure) {
            (Some(_), ..) => "loading",
            (_, Some(_), _) => "paused",
            (.., Some(_)) => "failed",
            _ => "ready",
        };
        let until = view.pause.and_then(|pause| pause.until);
        Status {
            program: Program::own(),
            pid: std::process::id(),
            uptime_s: self.started.elapsed().as_secs(),
            socket: self.place.socket_path(),
            log: self.place.log_dir(),
            state: state.into(),
            failure: view.failure.clone(),
            model: view.served.facts.clone(),
            is_stand_in: view.served.is_stand_in,
            loading: view.loading.as_ref().map(|loading| (loading.name.clone(), loading.percentage)),
            is_paused: view.pause.is_some(),
            paused_s: until.map(|until| until.saturating_duration_since(Instant::now()).as_secs()),
            memory_bytes: memory_bytes(std::process::id()),
            cache_bytes_max: spec.map_or(0, |spec| spec.cache_bytes_max),
            engine: view.served.engine.gauge(),
            statistics: self.resident.statistics(),
            editors: self.resident.connected(),
        }
    }
}

impl Generation {
    fn task(&self, engine: &serve::Engine) -> Result<Task> {
        let prompt = match (&self.text, &self.ids) {
            (Some(text), _) => engine.tokenizer().encode_with_specials(text),
            (_, ids) => ids.clone().unwrap_or_default(),
        };
        ensure!(!prompt.is_empty(), "the prompt is empty: give at least one token");
        let stop_ids = if self.ignores_end { Vec::new() } else { engine.tokenizer().stop_ids() };
        let (sampling, top_logprobs) = (self.sampling.clone(), self.top_logprobs);
        Ok(Task { sampling, stop_ids, top_logprobs, ..Task::greedy(prompt, self.max_tokens) })
    }
}

/// Only the user's own processes are served, whatever the folder of the socket allows.
fn check_peer(stream: &Stream) -> Result<()> {
    let peer = stream.peer_creds().context("the other side cannot be identified")?;
    #[cfg(unix)]
    {
        let own = rustix::process::geteuid().as_raw();
        let other = peer.euid().context("the user of the other side is unknown")?;
        ensure!(other == own, "it comes from user {other}, and this is the daemon of user {own}");
    }
    let _ = peer;
    Ok(())
}

/// A file that may change.
struct Watched {
    path: Option<PathBuf>,
    written: Option<SystemTime>,
}

impl Watched {
    fn new(path: Option<PathBuf>) -> Self {
        let mut this = Self { path, written: None };
        this.has_changed();
        this
    }

    fn has_changed(&mut self) -> bool {
        let written = self.path.as_ref().and_then(|path| path.metadata().ok()?.modified().ok());
        std::mem::replace(&mut self.written, written) != written
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

/// Ends when the system asks the process to.
#[cfg(unix)]
fn terminated() -> impl Future<Output = ()> {
    use tokio::signal::unix::{SignalKind, signal};
    let signals = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()].map(signal);
    async move {
        let [Ok(mut terminate), Ok(mut interrupt), Ok(mut hangup)] = signals else {
            return std::future::pending().await;
        };
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}

/// Ends when the system asks the process to.
#[cfg(not(unix))]
fn terminated() -> impl Future<Output = ()> {
    async {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending().await
        }
    }
}
