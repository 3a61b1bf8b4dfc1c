//! A client of a llama.cpp server with the requests of its editor plugins, for comparison.
//!
//! The only way to cancel a request is to close its connection; so requests are written to a socket here, and not by
//! an HTTP library, whose requests cannot be cancelled while they wait. Only servers on this machine are allowed:
//! documents do not leave it.

use std::fmt::{self, Display, Formatter};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use serde_json::{Value, json};

use super::replay::{Answer, Figures, Peer};
use super::session::{Change, Editor, Session};
use crate::base::timings::milliseconds;
use crate::complete::fim::Order;
use crate::complete::record::Source;

/// Length limit of a completion in tokens, as in automatic completions of fimd.
const TOKENS_MAX: usize = 64;
/// Most lines before the cursor that are sent.
const LINES_BEFORE_MAX: usize = 256;
/// Most lines after the cursor that are sent.
const LINES_AFTER_MAX: usize = 64;
/// Timeout of a connection attempt.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Timeout of a read.
const READ_TIMEOUT: Duration = Duration::from_secs(600);
/// Longest wait for the end of cancelled requests.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(10);

/// Address of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    host: String,
    port: u16,
}

impl Address {
    /// Of a URL such as `http://127.0.0.1:8080`. Fails unless it is plain HTTP on this machine, with no path.
    pub fn parse(url: &str) -> Result<Self, String> {
        let rest = url.strip_prefix("http://").ok_or("expected http://127.0.0.1:PORT")?;
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = match rest.rsplit_once(':').filter(|(_, port)| !port.contains(']')) {
            Some((host, port)) => (host, port.parse().map_err(|_| format!("{port:?} is not a port"))?),
            None => (rest, 80),
        };
        let host = host.trim_matches(['[', ']']);
        match host {
            "localhost" | "127.0.0.1" | "::1" => Ok(Self { host: host.into(), port }),
            _ => Err(format!("{host:?} is not this machine; documents must not leave it")),
        }
    }

    fn connect(&self) -> Result<TcpStream> {
        let addresses = (self.host.as_str(), self.port).to_socket_addrs()?;
        let mut error = None;
        for address in addresses {
            match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
                Ok(stream) => return Ok(stream),
                Err(refused) => error = Some(refused),
            }
        }
        Err(error.map_or_else(|| anyhow::anyhow!("unknown host"), Into::into))
            .with_context(|| format!("cannot reach the server at {self}"))
    }
}

/// With the port, and with brackets around an IPv6 address.
impl Display for Address {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

/// A client of a llama.cpp server.
pub struct Infill {
    address: Address,
    order: Order,
    sender: mpsc::Sender<Result<Answer>>,
    answers: mpsc::Receiver<Result<Answer>>,
    in_flight: usize,
    newest: Option<InFlight>,
}

/// The newest request.
struct InFlight {
    stream: TcpStream,
    is_cancelled: Arc<AtomicBool>,
}

impl Infill {
    /// A client with this prompt order: with the suffix last through `/infill`, where the anchored order sends the
    /// cursor's line separately from what precedes it; with the suffix first through `/completion`, with a complete
    /// prompt.
    pub fn new(address: Address, order: Order) -> Self {
        let (sender, answers) = mpsc::channel();
        Self { address, order, sender, answers, in_flight: 0, newest: None }
    }
}

impl Peer for Infill {
    fn open(&mut self, _: &Session) -> Result<()> {
        Ok(())
    }

    fn request_completion(&mut self, request: usize, _: &[Change], editor: &Editor) -> Result<()> {
        self.cancel();
        let (prefix, suffix) = editor.around();
        let (path, body) = request_body(self.order, prefix, suffix);
        let sent = Instant::now();
        let stream = self.address.connect()?;
        stream.set_read_timeout(Some(READ_TIMEOUT))?;
        stream.set_nodelay(true)?;
        let body = body.to_string();
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            self.address,
            body.len()
        );
        (&stream).write_all((head + &body).as_bytes()).context("cannot write to the server")?;
        let is_cancelled = Arc::new(AtomicBool::new(false));
        self.newest = Some(InFlight { stream: stream.try_clone()?, is_cancelled: is_cancelled.clone() });
        self.in_flight += 1;
        let sender = self.sender.clone();
        thread::spawn(move || {
            let _ = sender.send(receive(stream, sent, request, &is_cancelled));
        });
        Ok(())
    }

    fn answer(&mut self, wait: Duration) -> Result<Option<Answer>> {
        match self.answers.recv_timeout(wait) {
            Ok(answer) => {
                self.in_flight -= 1;
                answer.map(Some)
            }
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => bail!("no request is in flight"),
        }
    }

    fn close(&mut self) -> Result<(Vec<Answer>, Vec<Figures>)> {
        self.cancel();
        let mut answers = Vec::new();
        while self.in_flight > 0
            && let Some(answer) = self.answer(CANCEL_TIMEOUT)?
        {
            answers.push(answer);
        }
        Ok((answers, Vec::new()))
    }
}

impl Infill {
    /// Cancels the newest request.
    fn cancel(&mut self) {
        if let Some(InFlight { stream, is_cancelled }) = self.newest.take() {
            is_cancelled.store(true, Ordering::Release);
            // It fails if the response is complete and the connection closed.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

/// Path and body of a request.
fn request_body(order: Order, prefix: &str, suffix: &str) -> (&'static str, Value) {
    let prefix = last_lines(prefix, LINES_BEFORE_MAX);
    let suffix = first_lines(suffix, LINES_AFTER_MAX);
    let line_start = prefix.rfind('\n').map_or(0, |end| end + 1);
    let (before, typed) =
        prefix.split_at(if order == Order::PsmAnchored { line_start } else { prefix.len() });
    let mut body = json!({
        "n_predict": TOKENS_MAX,
        "stop": ["\n"],
        "temperature": 0.0,
        "cache_prompt": true,
        "stream": true,
        "timings_per_token": true,
    });
    if order == Order::Spm {
        body["prompt"] = json!(format!("<|fim_prefix|><|fim_suffix|>{suffix}<|fim_middle|>{prefix}"));
        return ("/completion", body);
    }
    body["input_prefix"] = json!(before);
    body["input_suffix"] = json!(suffix);
    body["prompt"] = json!(typed);
    ("/infill", body)
}

fn last_lines(text: &str, lines: usize) -> &str {
    text.rmatch_indices('\n').nth(lines).map_or(text, |(end, _)| &text[end + 1..])
}

fn first_lines(text: &str, lines: usize) -> &str {
    text.match_indices('\n').nth(lines).map_or(text, |(end, _)| &text[..=end])
}

/// A server-sent event: one per token, and a last one.
#[derive(Default, Deserialize)]
struct Event {
    #[serde(default)]
    content: String,
    #[serde(default)]
    stop: bool,
    #[serde(default)]
    tokens_evaluated: usize,
    #[serde(default)]
    timings: Option<Timings>,
}

#[derive(Clone, Copy, Default, Deserialize)]
struct Timings {
    /// Prompt tokens evaluated.
    #[serde(default)]
    prompt_n: usize,
    /// Prompt tokens from the cache.
    #[serde(default)]
    cache_n: usize,
    #[serde(default)]
    predicted_n: usize,
}

/// Reads the response to a request to its end, or until it is cancelled.
fn receive(stream: TcpStream, sent: Instant, request: usize, is_cancelled: &AtomicBool) -> Result<Answer> {
    let mut received = Received::default();
    let ended = received.read(stream, sent);
    let at = Instant::now();
    if !received.is_complete && !is_cancelled.load(Ordering::Acquire) {
        ended?;
        bail!("the server closed the connection before the end of its response");
    }
    let (is_superseded, figures) = (!received.is_complete, received.figures());
    let text = if is_superseded { String::new() } else { received.text };
    Ok(Answer { request, at, text, is_superseded, figures })
}

/// A response as far as it was read.
#[derive(Default)]
struct Received {
    text: String,
    first_token_ms: Option<f64>,
    prompt_tokens: usize,
    timings: Option<Timings>,
    is_complete: bool,
}

impl Received {
    fn read(&mut self, stream: TcpStream, sent: Instant) -> Result<()> {
        let mut reader = BufReader::new(stream);
        let (status, mut body) = response(&mut reader)?;
        if status != 200 {
            let mut message = String::new();
            let _ = body.take(500).read_to_string(&mut message);
            bail!("unexpected status {status} from the server: {}", message.trim());
        }
        for line in BufReader::new(&mut body).lines() {
            let line = line?;
            let Some(data) = line.strip_prefix("data: ") else {
                if let Some(error) = line.strip_prefix("error: ") {
                    bail!("the server failed: {error}");
                }
                continue;
            };
            if data == "[DONE]" {
                break;
            }
            self.note(
                serde_json::from_str(data).context("unexpected response from the server: invalid JSON")?,
                sent,
            );
        }
        Ok(())
    }

    fn note(&mut self, event: Event, sent: Instant) {
        if !event.content.is_empty() {
            self.first_token_ms.get_or_insert_with(|| milliseconds(sent.elapsed()));
        }
        self.text += &event.content;
        self.timings = event.timings.or(self.timings);
        self.prompt_tokens = self.prompt_tokens.max(event.tokens_evaluated);
        self.is_complete |= event.stop;
    }

    fn figures(&self) -> Option<Figures> {
        let timings = self.timings?;
        Some(Figures {
            source: Source::Model,
            prompt_tokens: self.prompt_tokens.max(timings.prompt_n + timings.cache_n),
            evaluated: timings.prompt_n,
            replayed: 0,
            generated: timings.predicted_n,
            first_token_ms: self.first_token_ms,
        })
    }
}

/// The status of a response, and its body.
fn response(reader: &mut BufReader<TcpStream>) -> Result<(u16, Box<dyn Read + '_>)> {
    let mut line = String::new();
    reader.read_line(&mut line).context("the server did not respond")?;
    let status = line.split(' ').nth(1).and_then(|status| status.trim().parse().ok());
    let status = status.with_context(|| format!("{:?} is no valid HTTP status line", line.trim()))?;
    let (mut length, mut is_chunked) = (u64::MAX, false);
    loop {
        line.clear();
        ensure!(reader.read_line(&mut line)? > 0, "the server closed the connection");
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.trim().parse().context("Content-Length")?,
            "transfer-encoding" => is_chunked = value.trim().eq_ignore_ascii_case("chunked"),
            _ => {}
        }
    }
    let body: Box<dyn Read> =
        if is_chunked { Box::new(Chunked { reader, left: 0 }) } else { Box::new(reader.take(length)) };
    Ok((status, body))
}

/// A chunked body (RFC 9112, section 7.1).
struct Chunked<R> {
    reader: R,
    left: usize,
}

impl<R: BufRead> Read for Chunked<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        while self.left == 0 {
            let mut line = String::new();
            if self.reader.read_line(&mut line)? == 0 {
                return Ok(0);
            }
            // A chunk ends with an empty line.
            let length = line.trim_end().split(';').next().unwrap_or_default();
            if !length.is_empty() {
                self.left = usize::from_str_radix(length, 16)
                    .map_err(|_| std::io::Error::other("a chunk without a length"))?;
                if self.left == 0 {
                    return Ok(0);
                }
            }
        }
        let most = buffer.len().min(self.left);
        let read = self.reader.read(&mut buffer[..most])?;
        self.left -= read;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_allowed() {
        for (url, host, port) in [
            ("http://127.0.0.1:8080", "127.0.0.1", 8080),
            ("http://localhost/", "localhost", 80),
            ("http://[::1]:90/", "::1", 90),
            ("http://[::1]", "::1", 80),
        ] {
            assert_eq!(Address::parse(url), Ok(Address { host: host.into(), port }));
        }
        for (url, word) in [
            ("https://127.0.0.1", "http://"),
            ("http://example.org:80", "example.org"),
            ("http://127.0.0.1:x", "\"x\""),
            ("http://127.0.0.1/v1", "127.0.0.1/v1"),
            ("http://127.0.0.1@example.org", "example.org"),
        ] {
            let error = Address::parse(url).unwrap_err();
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn requests_follow_the_order() {
        let parts = |order| {
            let (path, body) = request_body(order, "a\nb c", "d\ne");
            let part = |name: &str| body[name].as_str().unwrap_or("-").to_owned();
            (path, part("input_prefix"), part("prompt"), part("input_suffix"))
        };
        let expect = |path, prefix: &str, prompt: &str, suffix: &str| {
            (path, prefix.to_owned(), prompt.to_owned(), suffix.to_owned())
        };
        assert_eq!(parts(Order::Psm), expect("/infill", "a\nb c", "", "d\ne"));
        assert_eq!(parts(Order::PsmAnchored), expect("/infill", "a\n", "b c", "d\ne"));
        let prompt = "<|fim_prefix|><|fim_suffix|>d\ne<|fim_middle|>a\nb c";
        assert_eq!(parts(Order::Spm), expect("/completion", "-", prompt, "-"));
        assert_eq!((last_lines("a\nb\nc", 1), first_lines("a\nb\nc", 1)), ("b\nc", "a\nb\n"));
        assert_eq!((last_lines("a\nb\nc", 2), first_lines("a\nb\nc", 2)), ("a\nb\nc", "a\nb\nc"));
    }

    #[test]
    fn chunks_are_joined() {
        let read = |text: &str| {
            let mut body = String::new();
            Chunked { reader: text.as_bytes(), left: 0 }.read_to_string(&mut body).map(|_| body)
        };
        assert_eq!(read("3\r\nabc\r\nA;x=y\r\n0123456789\r\n0\r\n\r\n").unwrap(), "abc0123456789");
        assert_eq!(read("5\r\nabc").unwrap(), "abc", "what came before the connection closed");
        assert!(read("z\r\n").is_err());
    }
}
