//! To a server and back: the connection, the thread that reads from it, retries, back-off and deadlines.

use std::io::{BufRead, BufReader, Read};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use ureq::http::{Response, Uri};
use ureq::tls::{RootCerts, TlsConfig};
use ureq::{Agent, Body};

use crate::base::{Cancel, Token, back_off};
use crate::decode::StopReason;

/// How soon a cancel is noticed.
pub(super) const POLL: Duration = Duration::from_millis(10);
/// The back-off before the first retry; it doubles with each.
const BACK_OFF: Duration = Duration::from_millis(200);
/// The longest back-off.
const BACK_OFF_MAX: Duration = Duration::from_secs(10);
/// The longest answer, and line of one, in bytes.
const ANSWER_BYTES_MAX: u64 = 1 << 24;
/// How much of a refusal is read, in bytes.
const REFUSAL_BYTES_MAX: u64 = 1 << 14;
/// Lines of an answer that are buffered.
const LINES_MAX: usize = 64;

/// The way to one server.
pub(super) struct Transport {
    endpoint: Uri,
    token: Option<Token>,
    timeout: Duration,
    /// With a connection that may still be open.
    idle: Option<Agent>,
    /// From the server's Retry-After.
    not_before: Option<Instant>,
}

/// A request that was sent.
pub(super) struct Exchange {
    agent: Agent,
    /// What is read of the answer.
    pub answer: mpsc::Receiver<Heard>,
}

/// Why an attempt came to nothing.
pub(super) enum Failure {
    /// Another one may do better, after this time if the server said so.
    Passing(anyhow::Error, Option<Duration>),
    /// Another one would end the same way.
    Lasting(anyhow::Error),
    /// The server cannot give log-probabilities.
    NoLogprobs,
}

/// What is read of an answer.
pub(super) enum Heard {
    Status(u16, Option<Duration>),
    Line(String),
    End(Result<()>),
}

impl Transport {
    /// To the server at `url`. Nothing is sent yet.
    pub(super) fn new(url: &str, token: Option<Token>, timeout: Duration) -> Result<Self> {
        let endpoint = endpoint(url)?;
        if endpoint.scheme_str() == Some("http") && !is_loopback(&endpoint) {
            tracing::warn!("remote.url is http: what you edit goes over the network unencrypted");
        }
        Ok(Self { endpoint, token, timeout, idle: None, not_before: None })
    }

    /// The server's name, with its port if the URL has one.
    pub(super) fn host(&self) -> &str {
        self.endpoint.authority().map_or("", |authority| authority.as_str())
    }

    /// Sends a request from a thread of its own, which ends with [`Transport::end`] at the latest.
    pub(super) fn send(&mut self, body: String) -> Exchange {
        let agent = self.idle.take().unwrap_or_else(|| agent(self.timeout));
        let (send, answer) = mpsc::sync_channel(LINES_MAX);
        let request = agent.post(self.endpoint.clone()).header("content-type", "application/json");
        let mut request = request.header("accept", "text/event-stream");
        if let Some(token) = &self.token {
            request = request.header("authorization", token.bearer());
        }
        let work = move || {
            let answer = request.send(&body).map_err(anyhow::Error::from);
            // A send fails when the request is over: there is nothing left to do.
            let _ = match answer {
                Ok(answer) => relay(answer, &send),
                Err(error) => send.send(Heard::End(Err(error))).ok(),
            };
        };
        thread::Builder::new().name("fimd-remote".into()).spawn(work).expect("the system can start a thread");
        Exchange { agent, answer }
    }

    /// Keeps the connection of an exchange whose answer `is_read` to its end, and drops any other, which ends
    /// the server's work.
    pub(super) fn end(&mut self, exchange: Exchange, is_read: bool) {
        if is_read {
            self.idle = Some(exchange.agent);
        } else {
            exchange.agent.shutdown();
        }
    }

    /// Waits as long as the server has said, or says why that takes too long.
    pub(super) fn wait_turn(
        &mut self,
        until: Option<Instant>,
        cancel: &Cancel,
    ) -> Result<Option<StopReason>> {
        let wait = self.not_before.map(|at| at.saturating_duration_since(Instant::now()));
        let stop = rest(wait.unwrap_or_default(), until, cancel);
        ensure!(stop != Some(StopReason::Time), "the server wants to be left alone for a while");
        if stop.is_none() {
            self.not_before = None;
        }
        Ok(stop)
    }

    /// Waits for a new attempt after the one with this number has failed, `after` so long if the server said so.
    /// Fails with `error` where there is none left, or no time for it.
    pub(super) fn wait_retry(
        &mut self,
        attempt: Option<u32>,
        error: anyhow::Error,
        after: Option<Duration>,
        until: Option<Instant>,
        cancel: &Cancel,
    ) -> Result<Option<StopReason>> {
        self.not_before = after.map(|after| Instant::now() + after);
        let Some(attempt) = attempt else { return Err(error) };
        let wait = after.unwrap_or_else(|| back_off(attempt, BACK_OFF, BACK_OFF_MAX));
        if until.is_some_and(|until| Instant::now() + wait >= until) {
            return Err(error);
        }
        tracing::debug!("retrying in {} ms: {error:#}", wait.as_millis());
        Ok(rest(wait, until, cancel))
    }
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

/// Hands on what is read of an answer; `None` when the request is over.
fn relay(answer: Response<Body>, send: &mpsc::SyncSender<Heard>) -> Option<()> {
    let (status, headers) = (answer.status(), answer.headers());
    let after = headers.get("retry-after").and_then(|value| value.to_str().ok()?.trim().parse().ok());
    let is_whole =
        headers.get("content-type").is_some_and(|kind| kind.as_bytes().starts_with(b"application/json"));
    send.send(Heard::Status(status.as_u16(), after.map(Duration::from_secs))).ok()?;
    let bytes_max = if status.is_success() { ANSWER_BYTES_MAX } else { REFUSAL_BYTES_MAX };
    let mut reader = BufReader::new(answer.into_body().into_reader().take(bytes_max));
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = match is_whole {
            true => reader.read_to_end(&mut line),
            false => reader.read_until(b'\n', &mut line),
        };
        match read {
            Ok(0) => return send.send(Heard::End(Ok(()))).ok(),
            Ok(_) => send.send(Heard::Line(String::from_utf8_lossy(&line).into_owned())).ok()?,
            Err(error) => return send.send(Heard::End(Err(error.into()))).ok(),
        }
    }
}

/// Waits, unless cancelled or the time until `end` is not enough; then says why.
fn rest(wait: Duration, end: Option<Instant>, cancel: &Cancel) -> Option<StopReason> {
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

/// Where completion requests go.
fn endpoint(url: &str) -> Result<Uri> {
    let wrong = "remote.url is not the address of a server, such as http://localhost:8000";
    let uri: Uri = url.trim().parse().context(wrong)?;
    ensure!(matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some(), wrong);
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    ensure!(!authority.contains('@'), "remote.url has a password in it; see remote.token_env");
    ensure!(uri.query().is_none(), "remote.url has a query");
    let path = uri.path().trim_end_matches('/');
    let path = match path.rsplit('/').next() {
        Some("completions") => path.to_owned(),
        Some("v1") => format!("{path}/completions"),
        _ => format!("{path}/v1/completions"),
    };
    if path.ends_with("/chat/completions") {
        bail!("remote.url is that of chats; completions are served at /v1/completions");
    }
    let scheme = uri.scheme_str().unwrap_or_default();
    format!("{scheme}://{authority}{path}").parse().context(wrong)
}

fn is_loopback(uri: &Uri) -> bool {
    let host = uri.host().unwrap_or_default();
    matches!(host, "localhost" | "[::1]") || host.starts_with("127.")
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
            ("http://me:secret@host", "password"),
            ("http://host?key=secret", "query"),
            ("http://host/v1/chat/completions", "chats"),
        ] {
            let error = format!("{:#}", endpoint(url).unwrap_err());
            assert!(error.contains(word) && !error.contains("secret"), "{url}: {error}");
        }
        for (url, expected) in
            [("http://127.0.0.1:1", true), ("http://[::1]", true), ("http://10.0.0.1", false)]
        {
            assert_eq!(is_loopback(&url.parse().unwrap()), expected, "{url}");
        }
    }
}
