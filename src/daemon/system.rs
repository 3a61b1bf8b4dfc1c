//! What the daemon needs of the system: its socket, the peer's identity, signals, and file changes.

use std::future::Future;
use std::path::PathBuf;
use std::time::SystemTime;

use anyhow::{Context, Result};
use interprocess::local_socket::ListenerOptions;
use interprocess::local_socket::tokio::{Listener, Stream};
use interprocess::local_socket::traits::StreamCommon;

use super::runtime_dir::RuntimeDir;

/// Listens. The lock is held, so an existing socket is left over from an unclean exit.
pub(super) fn listen(runtime_dir: &RuntimeDir) -> Result<Listener> {
    let options = ListenerOptions::new().name(runtime_dir.socket()?).try_overwrite(true);
    #[cfg(unix)]
    let options = {
        use interprocess::os::unix::local_socket::ListenerOptionsExt;
        let _ = std::fs::remove_file(runtime_dir.socket_path());
        // On other systems the mode of the folder keeps other users out.
        if cfg!(target_os = "linux") { options.mode(0o600) } else { options }
    };
    options
        .create_tokio()
        .with_context(|| format!("cannot listen at {}", runtime_dir.socket_path().display()))
}

/// Refuses processes of other users, whatever the folder of the socket allows. On Windows the system does: by default
/// only the user who makes a pipe, administrators and services may write to it.
pub(super) fn check_peer(stream: &Stream) -> Result<()> {
    let peer = stream.peer_creds().context("cannot identify the peer")?;
    #[cfg(unix)]
    {
        let own = rustix::process::geteuid().as_raw();
        let other = peer.euid().context("the peer's user is unknown")?;
        anyhow::ensure!(other == own, "the peer is from user {other}, and this is the daemon of user {own}");
    }
    let _ = peer;
    Ok(())
}

/// Resolves on a signal to terminate.
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

/// Resolves on a signal to terminate.
#[cfg(not(unix))]
pub(super) fn terminated() -> impl Future<Output = ()> {
    async {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending().await
        }
    }
}

/// A file whose modification time is polled.
pub(super) struct WatchedFile {
    path: Option<PathBuf>,
    modified: Option<SystemTime>,
}

impl WatchedFile {
    pub(super) fn new(path: Option<PathBuf>) -> Self {
        let mut this = Self { path, modified: None };
        this.has_changed();
        this
    }

    pub(super) fn has_changed(&mut self) -> bool {
        let modified = self.path.as_ref().and_then(|path| path.metadata().ok()?.modified().ok());
        std::mem::replace(&mut self.modified, modified) != modified
    }
}
