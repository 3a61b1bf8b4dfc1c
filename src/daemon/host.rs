//! The daemon: listens, and shuts down on request or after the idle timeout.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use interprocess::local_socket::tokio::{Listener, Stream};
use interprocess::local_socket::traits::tokio::Listener as _;
use tokio::time::sleep;

use super::last_words::LastWords;
use super::peer;
use super::runtime_dir::RuntimeDir;
use super::state::Host;
use super::system::{WatchedFile, check_peer, listen, terminated};
use crate::config::{self, Configuration};
use crate::lsp;
use crate::resident::{LoadMarker, Resident, Spec};

/// Between two checks of the idle timeout and of the settings file.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Wait after a failed `accept`, as when there are too many open files.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Reads the settings of the daemon, which were those given before, and the model that they name.
pub type Configure<'c> = &'c dyn Fn(Option<&Configuration>) -> Result<(Configuration, Spec)>;

/// Serves until shut down by request or idle timeout. Returns false at once when another daemon runs. One that is
/// detached keeps its last words for the next.
pub fn run(runtime_dir: &RuntimeDir, is_detached: bool, configure: Configure) -> Result<bool> {
    let Some(_lock) = runtime_dir.lock()? else { return Ok(false) };
    let mut last_words = is_detached.then(|| LastWords::begin(runtime_dir));
    runtime_dir.clear_stopped();
    lsp::remove_left_explanations();
    let file = WatchedFile::new(config::file());
    let (configuration, spec) = configure(None)?;
    let resident = Resident::start(spec.clone(), configuration, LoadMarker::at(runtime_dir.load_marker()))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the runtime of the daemon")?;
    let result = runtime.block_on(async {
        let listener = listen(runtime_dir)?;
        let host = Arc::new(Host::new(resident, runtime_dir.clone()));
        tracing::info!("listening at {}", host.runtime_dir.socket_path().display());
        last_words.iter_mut().for_each(LastWords::detach);
        serve(&host, listener, file, spec, configure).await;
        tracing::info!("shutting down");
        host.resident.end_loads();
        Ok(true)
    });
    runtime.shutdown_background();
    result
}

/// `spec` is the model that the settings name.
async fn serve(
    host: &Arc<Host>,
    listener: Listener,
    mut file: WatchedFile,
    mut spec: Spec,
    configure: Configure<'_>,
) {
    let mut stopped = std::pin::pin!(host.stopped());
    let mut terminated = std::pin::pin!(terminated());
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(stream) => accept(host.clone(), stream),
                Err(error) => {
                    tracing::warn!("cannot accept a connection: {error}");
                    sleep(ACCEPT_RETRY).await;
                }
            },
            () = &mut terminated => return,
            () = &mut stopped => return,
            () = sleep(CHECK_INTERVAL) => {}
        }
        if file.has_changed() {
            reload(&host.resident, configure, &mut spec);
        }
        if is_idle(&host.resident) {
            tracing::info!("no editor within the idle timeout");
            return;
        }
    }
}

/// Applies changed settings. A model loaded by request stays until they name another one than before.
fn reload(resident: &Arc<Resident>, configure: Configure, spec: &mut Spec) {
    let before = resident.view().configuration;
    match configure(Some(&before)) {
        Ok((configuration, new)) => {
            tracing::info!("the settings have changed");
            resident.configure(configuration);
            let is_requested = resident.requested().as_ref() == Some(&new);
            if new != *spec && !is_requested {
                resident.load(new.clone());
            }
            *spec = new;
        }
        Err(error) => {
            let problem = format!("{error:#}; until that is corrected, the settings stay as they were");
            tracing::error!("{problem}");
            resident.configure(before.with_problem(problem));
        }
    }
}

fn is_idle(resident: &Resident) -> bool {
    let minutes = resident.view().configuration.settings().daemon.idle_exit_minutes;
    let timeout = Duration::from_secs_f64(minutes * 60.0);
    !timeout.is_zero() && resident.idle().is_some_and(|idle| idle >= timeout)
}

fn accept(host: Arc<Host>, stream: Stream) {
    if let Err(error) = check_peer(&stream) {
        tracing::warn!("connection refused: {error:#}");
        return;
    }
    tokio::spawn(async move {
        // A panic ends only this connection; the panic hook reports it.
        if let Err(error) = peer::serve(host, stream).await {
            tracing::warn!("connection failed: {error:#}");
        }
    });
}
