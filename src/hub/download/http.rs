//! Requests to the hub: who gets the token, redirects, refusals, and when to try again.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use ureq::http::{HeaderMap, Response, Uri};
use ureq::tls::{RootCerts, TlsConfig};
use ureq::{Agent, Body};

use super::{Event, Options};
use crate::base::client::{back_off, is_loopback};

const REDIRECTS_MAX: usize = 10;
/// The longest time that is waited because a server asks for it.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(120);
/// The longest wait between two attempts.
const BACK_OFF_MAX: Duration = Duration::from_secs(30);
/// What a path may have as it is.
const PATH: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// Asks the hub, and those whom it redirects to.
pub(super) struct Http<'o> {
    pub options: &'o Options,
    endpoint: Uri,
    agent: Agent,
}

/// Why an attempt came to nothing.
pub(super) enum Failure {
    /// Another one may do better, after this time if the server said so.
    Passing(anyhow::Error, Option<Duration>),
    /// Another one would end the same way.
    Lasting(anyhow::Error),
}

/// What is asked for.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Method {
    /// The headers of the first that says what content there is.
    Head,
    Get,
}

impl<'o> Http<'o> {
    pub(super) fn new(options: &'o Options) -> Result<Self> {
        let wrong = || format!("HF_ENDPOINT: {} is not the address of a server", options.endpoint);
        let endpoint: Uri = options.endpoint.trim_end_matches('/').parse().with_context(wrong)?;
        ensure!(
            matches!(endpoint.scheme_str(), Some("http" | "https")) && endpoint.host().is_some(),
            wrong()
        );
        let is_open =
            endpoint.scheme_str() == Some("http") && !is_loopback(endpoint.host().unwrap_or_default());
        if options.token.is_some() && is_open {
            tracing::warn!("HF_ENDPOINT is http: your token goes over the network unencrypted");
        }
        Ok(Self { options, agent: agent(options, &endpoint), endpoint })
    }

    /// The address of a path on the hub.
    pub(super) fn address(&self, path: &str) -> String {
        let base = self.endpoint.to_string();
        format!("{}/{}", base.trim_end_matches('/'), utf8_percent_encode(path, PATH))
    }

    /// Sends a request and follows redirects. The answer has a status of success, or 416.
    pub(super) fn send(
        &self,
        method: Method,
        url: &str,
        headers: &[(&str, String)],
    ) -> Result<Response<Body>, Failure> {
        let mut url: Uri = url.parse().map_err(|_| lasting(format!("{url} is not an address")))?;
        for _ in 0..REDIRECTS_MAX {
            let answer = self.send_once(method, &url, headers)?;
            let status = answer.status().as_u16();
            if status == 416 || answer.status().is_success() {
                return Ok(answer);
            }
            let Some(target) = redirect(status, answer.headers()) else { return Err(refusal(&url, &answer)) };
            if method == Method::Head && is_described(answer.headers()) {
                return Ok(answer);
            }
            let target = join(&url, target)?;
            if url.scheme_str() == Some("https") && target.scheme_str() != Some("https") {
                return Err(lasting(format!(
                    "{} redirects to {target}, which is not encrypted",
                    place(&url)
                )));
            }
            url = target;
        }
        Err(lasting(format!("{} redirects without an end", place(&url))))
    }

    fn send_once(
        &self,
        method: Method,
        url: &Uri,
        headers: &[(&str, String)],
    ) -> Result<Response<Body>, Failure> {
        let mut request = match method {
            Method::Head => self.agent.head(url),
            Method::Get => self.agent.get(url),
        };
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        // Whom the hub redirects to is not to know who the user is.
        if let Some(token) = self.options.token.as_ref().filter(|_| is_same_place(url, &self.endpoint)) {
            request = request.header("authorization", token.bearer());
        }
        request.call().map_err(|error| unanswered(url, error))
    }

    /// Attempts again what fails and may do better, until it has failed `retries` times more. An attempt that says it
    /// has got on with its work counts as the first.
    pub(super) fn persist<T>(
        &self,
        events: &mut dyn FnMut(Event),
        mut attempt: impl FnMut(&mut dyn FnMut(Event), &mut bool) -> Result<T, Failure>,
    ) -> Result<T> {
        let mut failed = 0;
        loop {
            let mut got_on = false;
            let (error, after) = match attempt(events, &mut got_on) {
                Ok(value) => return Ok(value),
                Err(Failure::Lasting(error)) => return Err(error),
                Err(Failure::Passing(error, after)) => (error, after),
            };
            failed = if got_on { 0 } else { failed };
            if failed >= self.options.retries {
                return Err(error.context(format!("failed {} times in a row", failed + 1)));
            }
            if let Some(after) = after.filter(|after| *after > RETRY_AFTER_MAX) {
                return Err(error.context(format!("the server asks to wait for {} s", after.as_secs())));
            }
            let wait = after.unwrap_or_else(|| back_off(failed, self.options.back_off, BACK_OFF_MAX));
            events(Event::Note(&format!("{error:#}; retrying in {:.1} s", wait.as_secs_f64())));
            thread::sleep(wait);
            failed += 1;
        }
    }
}

fn agent(options: &Options, endpoint: &Uri) -> Agent {
    let stall = Some(options.stall);
    let tls = TlsConfig::builder().root_certs(RootCerts::PlatformVerifier).build();
    let mut config = Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .accept_encoding("identity")
        .input_buffer_size(1 << 18)
        .tls_config(tls)
        .timeout_resolve(stall)
        .timeout_connect(stall)
        .timeout_per_read(stall)
        .timeout_per_write(stall)
        .user_agent(concat!("fimd/", env!("CARGO_PKG_VERSION")));
    if is_loopback(endpoint.host().unwrap_or_default()) {
        config = config.proxy(None);
    }
    config.build().into()
}

/// Whether headers say what content a file has.
fn is_described(headers: &HeaderMap) -> bool {
    headers.contains_key("x-linked-etag")
}

fn redirect(status: u16, headers: &HeaderMap) -> Option<&str> {
    if !(300..400).contains(&status) { None } else { headers.get("location")?.to_str().ok() }
}

/// The address that `target` is, seen from `base`.
fn join(base: &Uri, target: &str) -> Result<Uri, Failure> {
    let (scheme, authority) = (base.scheme_str().unwrap_or_default(), place(base));
    let whole = match target {
        _ if target.starts_with("//") => format!("{scheme}:{target}"),
        _ if target.starts_with('/') => format!("{scheme}://{authority}{target}"),
        _ => target.to_owned(),
    };
    let uri: Option<Uri> = whole.parse().ok();
    uri.filter(|uri| matches!(uri.scheme_str(), Some("http" | "https")) && uri.authority().is_some())
        .ok_or_else(|| lasting(format!("{authority} redirects to {target:?}, which is not an address")))
}

fn is_same_place(one: &Uri, other: &Uri) -> bool {
    one.scheme() == other.scheme() && one.authority() == other.authority()
}

/// The server that an address names.
fn place(url: &Uri) -> &str {
    url.authority().map_or("", |authority| authority.as_str())
}

fn lasting(message: String) -> Failure {
    Failure::Lasting(anyhow!(message))
}

/// What to say of a request without an answer.
fn unanswered(url: &Uri, error: ureq::Error) -> Failure {
    let place = place(url);
    match error {
        ureq::Error::Timeout(_) => Failure::Passing(anyhow!("{place} does not answer"), None),
        ureq::Error::HostNotFound => {
            Failure::Lasting(anyhow!("{place} cannot be found; is this machine connected to the internet?"))
        }
        ureq::Error::BadUri(_) | ureq::Error::Http(_) | ureq::Error::Rustls(_) | ureq::Error::Tls(_) => {
            Failure::Lasting(anyhow!(error).context(format!("no response from {place}")))
        }
        error => Failure::Passing(anyhow!(error).context(format!("no response from {place}")), None),
    }
}

/// What to say of an answer that is no success.
fn refusal(url: &Uri, answer: &Response<Body>) -> Failure {
    let (status, place) = (answer.status().as_u16(), place(url));
    let header = |name: &str| answer.headers().get(name).and_then(|value| value.to_str().ok());
    let after = header("retry-after").and_then(|value| value.trim().parse().ok()).map(Duration::from_secs);
    match status {
        401 | 403 => lasting(format!(
            "{place} refuses {} ({status}): it does not exist, or needs the token of a user who has accepted its licence; \
             make one at https://huggingface.co/settings/tokens and put it into HF_TOKEN",
            url.path()
        )),
        404 | 410 => lasting(format!("{place} has no {} ({status}); is it spelt right?", url.path())),
        429 => Failure::Passing(anyhow!("{place} is asked too often (429)"), after),
        408 | 500..600 => Failure::Passing(anyhow!("{place} is in trouble ({status})"), after),
        _ => lasting(format!("{place} answers {status} to {}", url.path())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_are_read_as_addresses() {
        let base: Uri = "https://hub:1/a/b".parse().unwrap();
        for (target, expected) in [
            ("https://cdn/x?y=z", Some("https://cdn/x?y=z")),
            ("/c?d", Some("https://hub:1/c?d")),
            ("//cdn/x", Some("https://cdn/x")),
            ("c/d", None),
            ("ftp://cdn/x", None),
            ("", None),
        ] {
            assert_eq!(join(&base, target).ok().map(|uri| uri.to_string()).as_deref(), expected, "{target}");
        }
        let other = |text: &str| is_same_place(&base, &text.parse().unwrap());
        assert!(other("https://hub:1/") && !other("https://hub:2/") && !other("http://hub:1/"));
    }
}
