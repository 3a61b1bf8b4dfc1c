//! Recovers from failures of the device by reopening the session, and gives the device back while nothing is asked.

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

/// Why a session is opened again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reopen {
    /// Its device has failed, and may fail again.
    AfterFailure,
    /// Nothing was asked for a while, and the device was given back.
    AfterRest,
}

/// A session, and the function that opens another one in its place.
pub(super) struct Reopening<B: Backend, R> {
    session: State<B>,
    reopen: R,
    /// Whether the device has ever failed.
    has_failed: bool,
    /// Whether no request has succeeded since the session was opened again.
    is_on_probation: bool,
    /// How long it took to open the session again.
    opening: Duration,
}

enum State<B: Backend> {
    Open(Box<Session<B>>),
    Closed(Closed),
    /// Until something is asked.
    Resting,
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

impl<B: Backend, R: FnMut(Reopen) -> Result<Session<B>>> Reopening<B, R> {
    pub(super) fn new(session: Session<B>, reopen: R) -> Self {
        let (session, opening) = (State::Open(Box::new(session)), Duration::ZERO);
        Self { session, reopen, has_failed: false, is_on_probation: false, opening }
    }

    /// Runs `work` on the session. When the device fails, the session is reopened, and the work is done again if it may
    /// be; else it fails with the cause. A device that fails again before any success stays closed for a while, in which
    /// all work fails; a disk may work again then.
    pub(super) fn with<T>(&mut self, mut work: impl FnMut(&mut Session<B>) -> Attempt<T>) -> Result<T> {
        match &self.session {
            State::Closed(closed) if closed.until <= Instant::now() => self.open(Reopen::AfterFailure),
            State::Resting => self.open(Reopen::AfterRest),
            _ => {}
        }
        loop {
            let session = match &mut self.session {
                State::Open(session) => session,
                State::Resting => unreachable!("it was opened or closed"),
                State::Closed(Closed { cause, until }) => {
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
                    if may_repeat && is_first && matches!(self.session, State::Open(_)) {
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
        match &self.session {
            State::Open(session) => session.usage(),
            _ => Usage::default(),
        }
    }

    /// Drops the session until the next work, which then finds nothing evaluated. Returns whether it did: after a failure it runs
    /// where nothing has to be given back.
    pub(super) fn rest(&mut self) -> bool {
        let may_rest = !self.has_failed && matches!(self.session, State::Open(_));
        if may_rest {
            self.session = State::Resting;
        }
        may_rest
    }

    fn recover(&mut self, cause: String) {
        tracing::error!(cause, "the device failed");
        self.has_failed = true;
        // The memory of the failed session has to be free before another one is opened.
        self.close(anyhow!(cause));
        if !self.is_on_probation {
            self.is_on_probation = true;
            self.open(Reopen::AfterFailure);
        }
    }

    fn open(&mut self, why: Reopen) {
        let started = Instant::now();
        let opened = (self.reopen)(why);
        self.opening = started.elapsed();
        match opened {
            Ok(session) => self.session = State::Open(Box::new(session)),
            Err(cause) => self.close(cause),
        }
    }

    fn close(&mut self, cause: Error) {
        let until = Instant::now() + CLOSED_MIN.max(CLOSED_FACTOR * self.opening);
        self.session = State::Closed(Closed { cause, until });
    }
}
