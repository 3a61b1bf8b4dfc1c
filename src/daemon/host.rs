//! The daemon: it listens, and ends when it was idle for a while or is told to.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use interprocess::local_socket::tokio::{Listener, Stream};
use interprocess::local_socket::traits::tokio::Listener as _;
use tokio::time::sleep;

use super::peer;
use super::place::Place;
use super::state::Host;
use super::system::{Watched, check_peer, listen, terminated};
use crate::config::{self, Configuration};
use crate::resident::{Resident, Spec};

/// How often it looks whether it is idle.
const LOOK: Duration = Duration::from_secs(1);
/// After a failed `accept`, as when there are too many open files.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// The settings of the daemon and the model that they name, read anew each time.
pub type Configure<'c> = &'c dyn Fn() -> Result<(Configuration, Spec)>;

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
        let host = Arc::new(Host::new(resident, place.clone()));
        tracing::info!("listening at {}", host.place.socket_path().display());
        serve(&host, listener, file, spec, configure).await;
        tracing::info!("ending");
        Ok(true)
    });
    runtime.shutdown_background();
    result
}

/// `spec` is the model that the settings name.
async fn serve(
    host: &Arc<Host>,
    listener: Listener,
    mut file: Watched,
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
            () = sleep(LOOK) => {}
        }
        if file.has_changed() {
            reload(&host.resident, configure, &mut spec);
        }
        if is_idle(&host.resident) {
            tracing::info!("no editor came for a while");
            return;
        }
    }
}

/// Follows changed settings. A model that was asked for otherwise stays until they name another one than
/// before.
fn reload(resident: &Arc<Resident>, configure: Configure, spec: &mut Spec) {
    match configure() {
        Ok((configuration, new)) => {
            tracing::info!("the settings have changed");
            resident.configure(configuration);
            if new != *spec {
                resident.load(new.clone());
                *spec = new;
            }
        }
        Err(error) => tracing::error!("the settings stay as they were: {error:#}"),
    }
}

fn is_idle(resident: &Resident) -> bool {
    let minutes = resident.view().configuration.settings().daemon.idle_exit_minutes;
    let most = Duration::from_secs_f64(minutes * 60.0);
    !most.is_zero() && resident.idle().is_some_and(|idle| idle >= most)
}

fn accept(host: Arc<Host>, stream: Stream) {
    if let Err(error) = check_peer(&stream) {
        tracing::warn!("a connection is refused: {error:#}");
        return;
    }
    tokio::spawn(async move {
        // A panic ends this connection only, and is reported by the panic hook.
        if let Err(error) = peer::talk(host, stream).await {
            tracing::warn!("a connection ended: {error:#}");
        }
    });
}
