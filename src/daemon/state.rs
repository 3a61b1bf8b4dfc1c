//! The state that all connections to the daemon share.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use tokio::sync::watch;

use super::message::{Program, Status};
use super::runtime_dir::RuntimeDir;
use crate::base::process::memory_bytes;
use crate::complete::remote::BackOff;
use crate::resident::{Resident, View};

pub(super) struct Host {
    pub resident: Arc<Resident>,
    pub runtime_dir: RuntimeDir,
    /// Whether to shut down.
    pub stop: watch::Sender<bool>,
    started: Instant,
    requests: AtomicU64,
}

impl Host {
    pub(super) fn new(resident: Arc<Resident>, runtime_dir: RuntimeDir) -> Self {
        let stop = watch::Sender::new(false);
        Self { resident, runtime_dir, stop, started: Instant::now(), requests: AtomicU64::new(0) }
    }

    /// A number unique per request.
    pub(super) fn next_number(&self) -> u64 {
        self.requests.fetch_add(1, Ordering::Relaxed)
    }

    /// Resolves when the daemon is to shut down.
    pub(super) async fn stopped(&self) {
        // It cannot fail: `self` owns the sender.
        let _ = self.stop.subscribe().wait_for(|stop| *stop).await;
    }

    /// Problems with settings, and with rules of git.
    fn problems(&self, view: &View) -> Vec<String> {
        let settings = view.configuration.problems().iter().map(ToString::to_string);
        settings.chain(self.resident.git().problems()).collect()
    }

    pub(super) fn status(&self) -> Status {
        let (view, spec) = (self.resident.view(), self.resident.requested());
        let state = match (&view.loading, &view.pause) {
            (Some(_), _) => "loading",
            (_, Some(_)) => "paused",
            _ if view.lacks_its_model() => "failed",
            _ => "ready",
        };
        let until = view.pause.and_then(|pause| pause.until);
        Status {
            program: Program::own(),
            pid: std::process::id(),
            uptime_s: self.started.elapsed().as_secs(),
            socket: self.runtime_dir.socket_path(),
            log: self.runtime_dir.log_dir(),
            log_file: self.runtime_dir.log_file(),
            state: state.into(),
            failure: view.failure.clone(),
            problems: self.problems(&view),
            model: view.served.info.clone(),
            back_off_s: view.served.back_off.as_ref().and_then(BackOff::left).map(|left| left.as_secs()),
            is_fallback: view.served.is_fallback,
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
