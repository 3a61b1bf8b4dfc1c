//! The HTTP connection, the thread that reads from it, retries, back-off and timeouts.

use std::io::{BufRead, BufReader, Read};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use ureq::http::{Response, Uri};
use ureq::tls::{RootCerts, TlsConfig};
use ureq::{Agent, Body};

use super::token::TokenSource;
use crate::base::Cancel;
use crate::base::client::{Token, back_off, is_loopback};
use crate::decode::StopReason;

/// Latency of a cancel.
pub(super) const POLL: Duration = Duration::from_millis(10);
/// The back-off before the first retry; it doubles with each.
const BACK_OFF: Duration = Duration::from_millis(200);
/// The longest back-off.
const BACK_OFF_MAX: Duration = Duration::from_secs(10);
/// The longest time that a server is left alone, whatever it asks for.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);
/// Most bytes of a response, or of a line of one.
const RESPONSE_BYTES_MAX: u64 = 1 << 24;
/// Most bytes of an error response.
const ERROR_BODY_BYTES_MAX: u64 = 1 << 14;
/// Buffered lines of a response.
const LINES_MAX: usize = 64;

/// The connection to one server.
pub(super) struct Transport {
    endpoint: Uri,
    source: Option<TokenSource>,
    /// What was read of it.
    token: Mutex<Option<Token>>,
    timeout: Duration,
    /// Each with an idle connection to reuse.
    idle: Mutex<Vec<Agent>>,
    /// From the server's Retry-After.
    not_before: BackOff,
}

/// Until when a server is left alone. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct BackOff(Arc<Mutex<Option<Instant>>>);

impl BackOff {
    /// How long that is from now; none when it may be asked.
    pub fn left(&self) -> Option<Duration> {
        let until = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        until?.checked_duration_since(Instant::now())
    }

    /// Leaves it alone for that long, if the server asks for it.
    pub(super) fn set(&self, wait: Option<Duration>) {
        let Some(wait) = wait else { return };
        let until = Instant::now() + wait.min(RETRY_AFTER_MAX);
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(until);
    }
}

/// A request that was sent.
pub(super) struct Exchange {
    agent: Agent,
    pub answer: mpsc::Receiver<Received>,
}

/// Why an attempt failed.
pub(super) enum Failure {
    /// Another attempt may succeed, after this time if there is a Retry-After.
    Retryable(anyhow::Error, Option<Duration>),
    /// The server is busy, maybe with other requests of ours.
    Busy(anyhow::Error, Option<Duration>),
    /// The server refuses the token.
    Unauthorized(anyhow::Error),
    /// Another one would end the same way.
    Permanent(anyhow::Error),
    /// The server does not support log-probabilities.
    NoLogprobs,
    /// The server supports four stop sequences only.
    FewStops,
}

/// A part of a response.
pub(super) enum Received {
    Status(u16, Option<Duration>),
    Line(String),
    End(Result<()>),
}

impl Transport {
    /// To the server at `url`. Nothing is sent yet.
    pub(super) fn new(url: &str, source: Option<TokenSource>, timeout: Duration) -> Result<Self> {
        let endpoint = endpoint(url)?;
        if endpoint.scheme_str() == Some("http") && !is_loopback(endpoint.host().unwrap_or_default()) {
            tracing::warn!("remote.url is http: document text is sent unencrypted over the network");
        }
        let (token, idle) = (Mutex::default(), Mutex::default());
        Ok(Self { endpoint, source, token, timeout, idle, not_before: BackOff::default() })
    }

    pub(super) fn back_off(&self) -> BackOff {
        self.not_before.clone()
    }

    /// The token, read unless that was done; another request may be reading it.
    pub(super) fn token(&self, cancel: &Cancel) -> Result<Option<Token>> {
        let Some(source) = &self.source else { return Ok(None) };
        let mut token = loop {
            match self.token.try_lock() {
                Ok(token) => break token,
                Err(TryLockError::Poisoned(poisoned)) => break poisoned.into_inner(),
                Err(TryLockError::WouldBlock) => thread::sleep(POLL),
            }
            ensure!(!cancel.is_ending(), "cancelled while another request reads the token");
        };
        if token.is_none() {
            *token = Some(source.read(cancel)?);
        }
        Ok(token.clone())
    }

    /// Reads the token again before the next request: the server has refused it.
    pub(super) fn forget_token(&self) {
        *self.token.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Where requests are sent to.
    pub(super) fn address(&self) -> String {
        self.endpoint.to_string()
    }

    /// The server's name, with its port if the URL has one.
    pub(super) fn host(&self) -> &str {
        self.endpoint.authority().map_or("", |authority| authority.as_str())
    }

    /// Sends a request from a thread of its own, which ends with [`Transport::end`] at the latest.
    pub(super) fn send(&self, body: String, token: Option<Token>) -> Exchange {
        let agent = self.idle().pop().unwrap_or_else(|| agent(self.timeout));
        let (send, answer) = mpsc::sync_channel(LINES_MAX);
        let request = agent.post(self.endpoint.clone()).header("content-type", "application/json");
        let mut request = request.header("accept", "text/event-stream");
        if let Some(token) = &token {
            request = request.header("authorization", token.bearer());
        }
        let work = move || {
            let answer = request.send(&body).map_err(explain);
            // A send fails once the request has ended.
            let _ = match answer {
                Ok(answer) => relay(answer, &send),
                Err(error) => send.send(Received::End(Err(error))).ok(),
            };
        };
        thread::Builder::new().name("fimd-remote".into()).spawn(work).expect("the system can start a thread");
        Exchange { agent, answer }
    }

    /// Keeps the connection of an exchange whose response `is_read` to its end, and closes any other, which cancels the
    /// server's work.
    pub(super) fn end(&self, exchange: Exchange, is_read: bool) {
        if is_read {
            self.idle().push(exchange.agent);
        } else {
            exchange.agent.shutdown();
        }
    }

    /// No more than there were requests at once.
    fn idle(&self) -> MutexGuard<'_, Vec<Agent>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the server's Retry-After. Fails when that exceeds the time limit.
    pub(super) fn wait_turn(&self, until: Option<Instant>, cancel: &Cancel) -> Result<Option<StopReason>> {
        let stop = sleep(self.not_before.left().unwrap_or_default(), until, cancel);
        ensure!(
            stop != Some(StopReason::Time),
            "the Retry-After of the remote server exceeds the time limit"
        );
        Ok(stop)
    }

    /// Waits before a retry with this number, for the Retry-After `after` or the back-off. Fails with `error` when no
    /// retry or no time is left.
    pub(super) fn wait_retry(
        &self,
        attempt: Option<u32>,
        error: anyhow::Error,
        after: Option<Duration>,
        until: Option<Instant>,
        cancel: &Cancel,
    ) -> Result<Option<StopReason>> {
        self.not_before.set(after);
        let Some(attempt) = attempt else { return Err(error) };
        let wait = self.not_before.left().unwrap_or_else(|| back_off(attempt, BACK_OFF, BACK_OFF_MAX));
        if until.is_some_and(|until| Instant::now() + wait >= until) {
            return Err(error);
        }
        tracing::debug!("retrying in {} ms: {error:#}", wait.as_millis());
        Ok(sleep(wait, until, cancel))
    }
}

/// An error of the connection, with what to do about it where that is known.
fn explain(error: ureq::Error) -> anyhow::Error {
    let text = error.to_string().to_ascii_lowercase();
    let is_tls = ["certificate", "rustls", "tls"].iter().any(|word| text.contains(word));
    let error = anyhow::Error::from(error);
    if !is_tls {
        return error;
    }
    error.context(
        "its certificate is not accepted; SSL_CERT_FILE names a file with that of a private authority (`fimd guide remote`)",
    )
}

fn agent(timeout: Duration) -> Agent {
    let timeout = Some(timeout);
    let tls = TlsConfig::builder().root_certs(RootCerts::PlatformVerifier).build();
    Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .proxy(None)
        .no_delay(true)
        .tls_config(tls)
        .timeout_resolve(timeout)
        .timeout_connect(timeout)
        .timeout_per_read(timeout)
        .timeout_per_write(timeout)
        .user_agent(concat!("fimd/", env!("CARGO_PKG_VERSION")))
        .build()
        .into()
}

/// Forwards a response; `None` once the request has ended.
fn relay(answer: Response<Body>, send: &mpsc::SyncSender<Received>) -> Option<()> {
    let (status, headers) = (answer.status(), answer.headers());
    let after = headers.get("retry-after").and_then(|value| value.to_str().ok()?.trim().parse().ok());
    let is_whole =
        headers.get("content-type").is_some_and(|kind| kind.as_bytes().starts_with(b"application/json"));
    send.send(Received::Status(status.as_u16(), after.map(Duration::from_secs))).ok()?;
    let bytes_max = if status.is_success() { RESPONSE_BYTES_MAX } else { ERROR_BODY_BYTES_MAX };
    let mut reader = BufReader::new(answer.into_body().into_reader().take(bytes_max));
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = match is_whole {
            true => reader.read_to_end(&mut line),
            false => reader.read_until(b'\n', &mut line),
        };
        match read {
            Ok(0) => return send.send(Received::End(Ok(()))).ok(),
            Ok(_) => send.send(Received::Line(String::from_utf8_lossy(&line).into_owned())).ok()?,
            Err(error) => return send.send(Received::End(Err(error.into()))).ok(),
        }
    }
}

/// Sleeps for `wait`; returns the reason at once when cancelled or when that passes `end`.
fn sleep(wait: Duration, end: Option<Instant>, cancel: &Cancel) -> Option<StopReason> {
    let until = Instant::now() + wait;
    loop {
        let now = Instant::now();
        if cancel.is_ending() {
            return Some(StopReason::Cancelled);
        }
        if now >= until {
            return None;
        }
        if end.is_some_and(|end| until >= end) {
            return Some(StopReason::Time);
        }
        thread::sleep(POLL.min(until - now));
    }
}

/// The URL of the completion endpoint.
fn endpoint(url: &str) -> Result<Uri> {
    let wrong = "remote.url is not a valid server URL, such as http://localhost:8000";
    let uri: Uri = url.trim().parse().context(wrong)?;
    ensure!(matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some(), wrong);
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    ensure!(
        !authority.contains('@'),
        "remote.url contains credentials, which is unsupported: use remote.token_env"
    );
    ensure!(uri.query().is_none(), "remote.url has a query, which is unsupported");
    let path = uri.path().trim_end_matches('/');
    let path = match path.rsplit('/').next() {
        Some("completions") => path.to_owned(),
        Some("v1") => format!("{path}/completions"),
        _ => format!("{path}/v1/completions"),
    };
    if path.ends_with("/chat/completions") {
        bail!("remote.url is a chat endpoint; completions are served at /v1/completions");
    }
    let scheme = uri.scheme_str().unwrap_or_default();
    format!("{scheme}://{authority}{path}").parse().context(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_completed_and_checked() {
        for (url, expected) in [
            ("http://localhost:8000", "http://localhost:8000/v1/completions"),
            ("https://host/", "https://host/v1/completions"),
            ("https://host/llm/v1/", "https://host/llm/v1/completions"),
            ("http://[::1]:1/v1/completions", "http://[::1]:1/v1/completions"),
            ("http://host/completions", "http://host/completions"),
        ] {
            assert_eq!(endpoint(url).unwrap().to_string(), expected);
        }
        for (url, word) in [
            ("localhost:8000", "remote.url"),
            ("ftp://host", "remote.url"),
            ("", "remote.url"),
            ("http://me:secret@host", "credentials"),
            ("http://host?key=secret", "query"),
            ("http://host/v1/chat/completions", "chat endpoint"),
        ] {
            let error = format!("{:#}", endpoint(url).unwrap_err());
            assert!(error.contains(word) && !error.contains("secret"), "{url}: {error}");
        }
    }
}
