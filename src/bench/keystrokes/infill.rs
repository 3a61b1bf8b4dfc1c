//! A llama.cpp server, asked as its editor plugins do, for comparison.
//!
//! A request is cancelled by closing its connection, which is the only way there is; this is why requests are
//! written to a socket here, and not by an HTTP library, whose requests cannot be cancelled while they wait.
//! Only servers on this machine are asked: documents do not leave it.

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

/// Most tokens of a completion, as many as fimd generates for somebody who types.
const TOKENS_MAX: usize = 64;
/// Most lines before the cursor that are sent.
const LINES_BEFORE_MAX: usize = 256;
/// Most lines after the cursor that are sent.
const LINES_AFTER_MAX: usize = 64;
/// A server on this machine accepts within this time, if it is there.
const CONNECT: Duration = Duration::from_secs(5);
/// A server that says nothing for so long says nothing any more.
const SILENCE: Duration = Duration::from_secs(600);
/// How long cancelled requests may take to end.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where a server listens.
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
            _ => Err(format!("{host:?} is not this machine, and documents do not leave it")),
        }
    }

    fn connect(&self) -> Result<TcpStream> {
        let addresses = (self.host.as_str(), self.port).to_socket_addrs()?;
        let mut error = None;
        for address in addresses {
            match TcpStream::connect_timeout(&address, CONNECT) {
                Ok(stream) => return Ok(stream),
                Err(refused) => error = Some(refused),
            }
        }
        Err(error.map_or_else(|| anyhow::anyhow!("there is no such host"), Into::into))
            .with_context(|| format!("cannot reach the server at {self}"))
    }
}

/// With the port, and with brackets around what has colons.
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
    under_way: usize,
    newest: Option<UnderWay>,
}

/// The newest request.
struct UnderWay {
    stream: TcpStream,
    is_taken_back: Arc<AtomicBool>,
}

impl Infill {
    /// A client that asks in this order: with the suffix last through `/infill`, where the anchored order
    /// sends the cursor's line apart from what precedes it; with the suffix first through `/completion`, in a
    /// prompt made by hand.
    pub fn new(address: Address, order: Order) -> Self {
        let (sender, answers) = mpsc::channel();
        Self { address, order, sender, answers, under_way: 0, newest: None }
    }
}

impl Peer for Infill {
    fn open(&mut self, _: &Session) -> Result<()> {
        Ok(())
    }

    fn ask(&mut self, request: usize, _: &[Change], editor: &Editor) -> Result<()> {
        self.give_up();
        let (prefix, suffix) = editor.around();
        let (path, body) = question(self.order, prefix, suffix);
        let sent = Instant::now();
        let stream = self.address.connect()?;
        stream.set_read_timeout(Some(SILENCE))?;
        stream.set_nodelay(true)?;
        let body = body.to_string();
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            self.address,
            body.len()
        );
        (&stream).write_all((head + &body).as_bytes()).context("cannot write to the server")?;
        let is_taken_back = Arc::new(AtomicBool::new(false));
        self.newest = Some(UnderWay { stream: stream.try_clone()?, is_taken_back: is_taken_back.clone() });
        self.under_way += 1;
        let sender = self.sender.clone();
        thread::spawn(move || {
            let _ = sender.send(listen(stream, sent, request, &is_taken_back));
        });
        Ok(())
    }

    fn answer(&mut self, wait: Duration) -> Result<Option<Answer>> {
        match self.answers.recv_timeout(wait) {
            Ok(answer) => {
                self.under_way -= 1;
                answer.map(Some)
            }
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => bail!("no request is under way"),
        }
    }

    fn close(&mut self) -> Result<(Vec<Answer>, Vec<Figures>)> {
        self.give_up();
        let mut answers = Vec::new();
        while self.under_way > 0
            && let Some(answer) = self.answer(PATIENCE)?
        {
            answers.push(answer);
        }
        Ok((answers, Vec::new()))
    }
}

impl Infill {
    /// Cancels the newest request.
    fn give_up(&mut self) {
        if let Some(UnderWay { stream, is_taken_back }) = self.newest.take() {
            is_taken_back.store(true, Ordering::Release);
            // It fails where the answer is complete and the connection closed.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

/// The path to ask, and the question.
fn question(order: Order, prefix: &str, suffix: &str) -> (&'static str, Value) {
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

/// What a server says with each token, and at the end.
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
    /// Tokens of the prompt that were not taken from the cache.
    #[serde(default)]
    prompt_n: usize,
    /// Those that were.
    #[serde(default)]
    cache_n: usize,
    #[serde(default)]
    predicted_n: usize,
}

/// Reads the answer to a request to its end, or until it is cancelled.
fn listen(stream: TcpStream, sent: Instant, request: usize, is_taken_back: &AtomicBool) -> Result<Answer> {
    let mut heard = Heard::default();
    let ended = heard.read(stream, sent);
    let at = Instant::now();
    if !heard.is_complete && !is_taken_back.load(Ordering::Acquire) {
        ended?;
        bail!("the server broke off in the middle of its answer");
    }
    let (is_superseded, figures) = (!heard.is_complete, heard.figures());
    let text = if is_superseded { String::new() } else { heard.text };
    Ok(Answer { request, at, text, is_superseded, figures })
}

/// What has been read of an answer.
#[derive(Default)]
struct Heard {
    text: String,
    first_token_ms: Option<f64>,
    prompt_tokens: usize,
    timings: Option<Timings>,
    is_complete: bool,
}

impl Heard {
    fn read(&mut self, stream: TcpStream, sent: Instant) -> Result<()> {
        let mut reader = BufReader::new(stream);
        let (status, mut body) = response(&mut reader)?;
        if status != 200 {
            let mut message = String::new();
            let _ = body.take(500).read_to_string(&mut message);
            bail!("the server answered with status {status}: {}", message.trim());
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
            self.note(serde_json::from_str(data).context("the server sent something else than JSON")?, sent);
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
    reader.read_line(&mut line).context("the server did not answer")?;
    let status = line.split(' ').nth(1).and_then(|status| status.trim().parse().ok());
    let status = status.with_context(|| format!("{:?} is not HTTP", line.trim()))?;
    let (mut length, mut is_chunked) = (u64::MAX, false);
    loop {
        line.clear();
        ensure!(reader.read_line(&mut line)? > 0, "the server broke off");
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

/// A body that comes in chunks, each with its length before it (RFC 9112, section 7.1).
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
                    .map_err(|_| std::io::Error::other("a chunk has no length"))?;
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
    fn only_this_machine_is_asked() {
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
    fn questions_follow_the_order() {
        let parts = |order| {
            let (path, body) = question(order, "a\nb c", "d\ne");
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
