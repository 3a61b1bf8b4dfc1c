//! What the daemon needs of the system: a socket of its own, who is at the other side, signals, and changed files.

use std::future::Future;
use std::path::PathBuf;
use std::time::SystemTime;

use anyhow::{Context, Result, ensure};
use interprocess::local_socket::ListenerOptions;
use interprocess::local_socket::tokio::{Listener, Stream};
use interprocess::local_socket::traits::StreamCommon;

use super::place::Place;

/// Listens where nobody else does: the lock is held, so what is left of a socket is of a daemon that is gone.
pub(super) fn listen(place: &Place) -> Result<Listener> {
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

/// Only the user's own processes are served, whatever the folder of the socket allows.
pub(super) fn check_peer(stream: &Stream) -> Result<()> {
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

/// Ends when the system asks the process to.
#[cfg(unix)]
pub(super) fn terminated() -> impl Future<Output = ()> {
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
pub fn terminated() -> impl Future<Output = ()> {
    async {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending().await
        }
    }
}

/// A file that may change.
pub(super) struct Watched {
    path: Option<PathBuf>,
    written: Option<SystemTime>,
}

impl Watched {
    pub(super) fn new(path: Option<PathBuf>) -> Self {
        let mut this = Self { path, written: None };
        this.has_changed();
        this
    }

    pub(super) fn has_changed(&mut self) -> bool {
        let written = self.path.as_ref().and_then(|path| path.metadata().ok()?.modified().ok());
        std::mem::replace(&mut self.written, written) != written
    }
}
