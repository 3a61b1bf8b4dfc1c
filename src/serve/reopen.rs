//! Recovers from failures of the device by reopening the session.

use std::time::{Duration, Instant};

use anyhow::{Error, Result, anyhow};

use crate::compute::Backend;
use crate::session::{DeviceFailure, Session, Usage};

/// What came of work on a session.
pub(super) struct Attempt<T> {
    pub result: Result<T>,
    /// Whether it has left nothing behind, so that it may be done again.
    pub may_repeat: bool,
}

/// A session, and the function that opens another one in its place.
pub(super) struct Reopening<B: Backend, R> {
    session: Result<Session<B>, Closed>,
    reopen: R,
    /// Whether no request has succeeded since the session was opened again.
    is_on_probation: bool,
    /// How long it took to open the session again.
    opening: Duration,
}

/// Why there is no session, and until when.
struct Closed {
    cause: Error,
    until: Instant,
}

/// For how long a device that fails again stays closed, at least,
const CLOSED_MIN: Duration = Duration::from_secs(1);
/// and as a multiple of the time that it takes to open the session.
const CLOSED_FACTOR: u32 = 4;

impl<B: Backend, R: FnMut() -> Result<Session<B>>> Reopening<B, R> {
    pub(super) fn new(session: Session<B>, reopen: R) -> Self {
        Self { session: Ok(session), reopen, is_on_probation: false, opening: Duration::ZERO }
    }

    /// Runs `work` on the session. When the device fails, the session is reopened, and the work is done again if it may
    /// be; else it fails with the cause. A device that fails again before any success stays closed for a while, in which
    /// all work fails; a disk may work again then.
    pub(super) fn with<T>(&mut self, mut work: impl FnMut(&mut Session<B>) -> Attempt<T>) -> Result<T> {
        if matches!(&self.session, Err(closed) if closed.until <= Instant::now()) {
            self.open();
        }
        loop {
            let session = match &mut self.session {
                Ok(session) => session,
                Err(Closed { cause, until }) => {
                    let seconds = until.saturating_duration_since(Instant::now()).as_secs() + 1;
                    return Err(anyhow!(
                        "the device has failed ({cause:#}); the model is opened again in {seconds} s"
                    ));
                }
            };
            let Attempt { result, may_repeat } = work(session);
            match &result {
                Ok(_) => self.is_on_probation = false,
                Err(error) if error.is::<DeviceFailure>() => {
                    let is_first = !self.is_on_probation;
                    self.recover(format!("{error:#}"));
                    if may_repeat && is_first && self.session.is_ok() {
                        continue;
                    }
                }
                Err(_) => {}
            }
            return result;
        }
    }

    /// Memory of the prefix cache.
    pub(super) fn usage(&self) -> Usage {
        self.session.as_ref().map_or_else(|_| Usage::default(), Session::usage)
    }

    fn recover(&mut self, cause: String) {
        tracing::error!(cause, "the device failed");
        // The memory of the failed session has to be free before another one is opened.
        self.close(anyhow!(cause));
        if !self.is_on_probation {
            self.is_on_probation = true;
            self.open();
        }
    }

    fn open(&mut self) {
        let started = Instant::now();
        let opened = (self.reopen)();
        self.opening = started.elapsed();
        match opened {
            Ok(session) => self.session = Ok(session),
            Err(cause) => self.close(cause),
        }
    }

    fn close(&mut self, cause: Error) {
        let until = Instant::now() + CLOSED_MIN.max(CLOSED_FACTOR * self.opening);
        self.session = Err(Closed { cause, until });
    }
}
