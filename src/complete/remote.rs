//! A completion server elsewhere (vLLM, SGLang, llama.cpp, anything with OpenAI's `/v1/completions`) in the place of
//! the model on this machine: an [`Engine`] whose work is done there. What is asked, kept, shown and dropped is
//! decided here as ever.
//!
//! - This is the only place that sends what is edited to another machine, and it does so to one URL only: it
//!   follows no redirect, uses no proxy, and sends nothing before a completion is wanted. Warming a prompt is left
//!   out.
//! - Prompts go as text. They are made, and their lengths counted, with the tokenizer of the starter model: one
//!   with fewer words, so that a budget of tokens is a little less text than the server's own tokens would be.
//! - One request at a time, as with a model of our own; a newer one ends it by dropping the connection.
//! - What goes wrong is said without a word of what was sent or answered: both hold text of documents.

use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{BufRead, BufReader, Read};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use ureq::http::{StatusCode, Uri};
use ureq::tls::{RootCerts, TlsConfig};
use ureq::{Agent, Body};

use crate::base::Cancel;
use crate::base::timings::milliseconds;
use crate::decode::{Generated, StopReason, Task};
use crate::model::Tokenizer;
use crate::serve::Engine;

/// How soon somebody who gives up is heard.
const POLL: Duration = Duration::from_millis(10);
/// The wait before the first new attempt; it doubles with each.
const BACK_OFF: Duration = Duration::from_millis(200);
/// The longest wait between two attempts.
const BACK_OFF_MAX: Duration = Duration::from_secs(10);
/// The longest answer, and line of one, in bytes.
const ANSWER_BYTES_MAX: u64 = 1 << 24;
/// How much of a refusal is looked at.
const REFUSAL_BYTES_MAX: u64 = 1 << 14;
/// Lines of an answer that wait to be looked at.
const LINES_MAX: usize = 64;
/// Texts that end a completion for the server too, of those that end one here; some servers take four.
const STOPS: [&str; 4] = ["<|endoftext|>", "<|file_sep|>", "<|repo_name|>", "<|fim_pad|>"];

/// What shows the server the text around the cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Template {
    /// Our prompt, with the special tokens written out as Qwen spells them.
    Ours,
    /// The server's own, from `prompt` and `suffix`. It shows no other files.
    Server,
}

/// A secret that says who asks. It is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// Fails for what cannot be sent in a header.
    pub fn new(text: &str) -> Result<Self> {
        let text = text.trim();
        ensure!(!text.is_empty(), "the token of the remote server is empty");
        ensure!(
            text.bytes().all(|byte| byte.is_ascii_graphic()),
            "the token of the remote server has characters that no token has"
        );
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// Which server, and how to ask it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Its address: `http://host:8000`, or to `/v1`, or to `/v1/completions`.
    pub url: String,
    /// Which of its models; the server's own choice otherwise.
    pub model: Option<String>,
    /// Says who asks.
    pub token: Option<Token>,
    /// Longest wait for a connection, and for the server to say more.
    pub timeout: Duration,
    /// New attempts after a connection that failed, or a server that was busy.
    pub retries: u32,
    /// What shows it the text around the cursor.
    pub template: Template,
    /// Most tokens that prompt and completion may have together.
    pub context: usize,
}

/// A server elsewhere.
pub struct Remote {
    options: Options,
    endpoint: Uri,
    tokenizer: Arc<Tokenizer>,
    /// With a connection that may still be open.
    idle: Option<Agent>,
    /// Whether the server gives log-probabilities, as far as is known.
    gives_logprobs: bool,
    /// The server does not want to be asked before.
    not_before: Option<Instant>,
}

/// Why an attempt came to nothing.
enum Failure {
    /// Another one may do better, after this time if the server said so.
    Passing(anyhow::Error, Option<Duration>),
    /// Another one would end the same way.
    Lasting(anyhow::Error),
    /// The server cannot give log-probabilities.
    NoLogprobs,
}

/// What is read of an answer.
enum Heard {
    Status(StatusCode, Option<Duration>),
    Line(String),
    End(Result<()>),
}

impl Remote {
    /// Prompts are made with `tokenizer`, that of the starter model. Nothing is sent yet.
    pub fn new(options: Options, tokenizer: Tokenizer) -> Result<Self> {
        let endpoint = endpoint(&options.url)?;
        if endpoint.scheme_str() == Some("http") && !is_loopback(&endpoint) {
            tracing::warn!("remote.url is http: what you edit goes over the network unencrypted");
        }
        let tokenizer = Arc::new(tokenizer);
        Ok(Self { options, endpoint, tokenizer, idle: None, gives_logprobs: true, not_before: None })
    }

    /// What to call it: the model and the host.
    pub fn describe(&self) -> String {
        let host = self.endpoint.authority().map_or("", |authority| authority.as_str());
        format!("{} at {host}", self.options.model.as_deref().unwrap_or("the model"))
    }

    /// An engine that has its work done there.
    pub fn engine(mut self) -> Engine {
        let (tokenizer, context) = (self.tokenizer.clone(), self.options.context);
        Engine::elsewhere(tokenizer, context, move |task, cancel, show| self.generate(task, cancel, show))
    }

    fn generate(
        &mut self,
        task: &Task,
        cancel: &Cancel,
        show: &mut dyn FnMut(&str),
    ) -> Result<Vec<Generated>> {
        if task.max_tokens == 0 {
            return Ok(vec![Generated::nothing(StopReason::Length)]);
        }
        let started = Instant::now();
        let mut attempts = 0..self.options.retries;
        loop {
            let wait = self.not_before.map(|until| until.saturating_duration_since(Instant::now()));
            if let Some(stop) = rest(wait.unwrap_or_default(), task, cancel) {
                ensure!(stop != StopReason::Time, "the server wants to be left alone for a while");
                return Ok(vec![Generated::nothing(stop)]);
            }
            self.not_before = None;
            match self.attempt(task, cancel, started, show) {
                Ok(generated) => return Ok(vec![generated]),
                Err(Failure::NoLogprobs) => self.gives_logprobs = false,
                Err(Failure::Lasting(error)) => return Err(error),
                Err(Failure::Passing(error, after)) => {
                    self.not_before = after.map(|after| Instant::now() + after);
                    let Some(attempt) = attempts.next() else { return Err(error) };
                    let wait = after.unwrap_or_else(|| back_off(attempt));
                    if task.budget.until.is_some_and(|until| Instant::now() + wait >= until) {
                        return Err(error);
                    }
                    tracing::debug!("asking again in {} ms: {error:#}", wait.as_millis());
                    if let Some(stop) = rest(wait, task, cancel) {
                        return Ok(vec![Generated::nothing(stop)]);
                    }
                }
            }
        }
    }

    /// Asks once. Text that was shown is never asked for again.
    fn attempt(
        &mut self,
        task: &Task,
        cancel: &Cancel,
        started: Instant,
        show: &mut dyn FnMut(&str),
    ) -> Result<Generated, Failure> {
        let agent = self.idle.take().unwrap_or_else(|| self.agent());
        let (question, held) = self.question(task);
        let lines = self.ask(&agent, &question);
        let ended = self.listen(&lines, &held, task, cancel, started, show);
        match ended {
            // Read to its end: the connection can serve again.
            Ok((generated, true)) => {
                self.idle = Some(agent);
                Ok(generated)
            }
            Ok((generated, false)) => {
                agent.shutdown();
                Ok(generated)
            }
            Err(failure) => {
                agent.shutdown();
                Err(failure)
            }
        }
    }

    fn agent(&self) -> Agent {
        let timeout = Some(self.options.timeout);
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

    /// Sends a request from a thread of its own, which ends with the agent's shutdown at the latest.
    fn ask(&self, agent: &Agent, question: &Value) -> mpsc::Receiver<Heard> {
        let (send, receive) = mpsc::sync_channel(LINES_MAX);
        let request = agent.post(self.endpoint.clone()).header("content-type", "application/json");
        let mut request = request.header("accept", "text/event-stream");
        if let Some(Token(token)) = &self.options.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let question = question.to_string();
        let work = move || {
            let answer = request.send(&question).map_err(anyhow::Error::from);
            // Nobody listens any more: there is nothing left to do.
            let _ = match answer {
                Ok(answer) => relay(answer, &send),
                Err(error) => send.send(Heard::End(Err(error))).ok(),
            };
        };
        thread::Builder::new().name("fimd-remote".into()).spawn(work).expect("the system can start a thread");
        receive
    }

    /// What to send, and the blank that the text begins with besides: words begin with theirs, and a prompt that
    /// ends with it makes the server go on with words that have none.
    fn question(&self, task: &Task) -> (Value, String) {
        let text = |ids: &[u32]| self.tokenizer.decode(ids);
        let mut held = String::new();
        let mut prompt = |ids: &[u32]| {
            let prompt = text(ids) + &task.open;
            let end = prompt.trim_end_matches(is_blank).len();
            held = prompt[end..].to_owned();
            Value::from(&prompt[..end])
        };
        let mut question = json!({
            "max_tokens": task.max_tokens,
            "temperature": task.sampling.temperature,
            "stream": true,
        });
        match (self.options.template, parts(task, &self.tokenizer)) {
            (Template::Server, Some((before, suffix))) => {
                question["prompt"] = prompt(&before);
                question["suffix"] = text(&suffix).into();
            }
            _ => question["prompt"] = prompt(&task.prompt),
        }
        if let Some(model) = &self.options.model {
            question["model"] = model.as_str().into();
        }
        if task.sampling.temperature > 0.0 {
            question["top_p"] = task.sampling.top_p.into();
            question["seed"] = task.sampling.seed.into();
        }
        if self.gives_logprobs {
            question["logprobs"] = 1.into();
        }
        let is_stop =
            |stop: &&&str| self.tokenizer.special(stop).is_some_and(|id| task.stop_ids.contains(&id));
        let stops: Vec<&str> = STOPS.iter().filter(is_stop).copied().collect();
        if !stops.is_empty() {
            question["stop"] = stops.into();
        }
        (question, held)
    }

    /// What comes of an answer, and whether it was read to its end.
    fn listen(
        &self,
        answer: &mpsc::Receiver<Heard>,
        mut held: &str,
        task: &Task,
        cancel: &Cancel,
        started: Instant,
        show: &mut dyn FnMut(&str),
    ) -> Result<(Generated, bool), Failure> {
        let mut out = Generated::nothing(StopReason::Length);
        let mut stop = task.stop.clone();
        let (mut refused, mut refusal) = (None, String::new());
        let (mut pieces, mut is_answered, mut is_complete) = (0, false, false);
        let finish = |mut out: Generated, is_whole: bool, pieces: usize| {
            out.timings.decode_tokens = out.logprobs.len().max(pieces);
            out.timings.decode_ms = milliseconds(started.elapsed()) - out.timings.first_token_ms;
            Ok((out, is_whole))
        };
        loop {
            if cancel.is_ending() {
                out.stop = StopReason::Cancelled;
                return finish(out, false, pieces);
            }
            if let Some(length) = task.budget.check(&out.text) {
                out.text.truncate(length);
                out.stop = StopReason::Time;
                return finish(out, false, pieces);
            }
            let line = match answer.recv_timeout(POLL) {
                Ok(Heard::Line(line)) => line,
                Ok(Heard::Status(status, after)) => {
                    is_answered = true;
                    refused = (!status.is_success()).then_some((status, after));
                    continue;
                }
                Ok(Heard::End(ending)) => {
                    if let Some((status, after)) = refused {
                        return Err(self.refusal(status, after, &refusal));
                    }
                    if is_complete {
                        return finish(out, ending.is_ok(), pieces);
                    }
                    let error = match ending {
                        Err(error) if is_answered => error.context("the remote server broke off"),
                        Err(error) => error.context("the remote server cannot be asked"),
                        Ok(()) => anyhow!("the remote server broke off"),
                    };
                    // Of what was shown already, whole lines are as good as any.
                    let Some(end) = out.text.rfind('\n').filter(|&end| !out.text[..end].trim().is_empty())
                    else {
                        let is_begun = pieces > 0;
                        return Err(if is_begun {
                            Failure::Lasting(error)
                        } else {
                            Failure::Passing(error, None)
                        });
                    };
                    tracing::warn!("{error:#}");
                    out.text.truncate(end);
                    out.stop = StopReason::Time;
                    return finish(out, false, pieces);
                }
                Err(RecvTimeoutError::Timeout) => continue,
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(Failure::Lasting(anyhow!("fimd failed while reading the answer")));
                }
            };
            if refused.is_some() {
                refusal.push_str(&line);
                continue;
            }
            let piece = match piece(&line) {
                Ok(Some(piece)) => piece,
                Ok(None) => continue,
                Err(error) if pieces == 0 => return Err(Failure::Passing(error, None)),
                Err(error) => return Err(Failure::Lasting(error)),
            };
            is_complete |= piece.is_last;
            out.logprobs.extend(piece.logprobs);
            if let Some(reason) = piece.stop {
                out.stop = reason;
            }
            if piece.text.is_empty() {
                continue;
            }
            if pieces == 0 {
                out.timings.first_token_ms = milliseconds(started.elapsed());
                out.timings.prefill_ms = out.timings.first_token_ms;
                out.timings.prefill_tokens = task.prompt.len();
                out.synced.evaluated = task.prompt.len();
            }
            pieces += 1;
            let text = without(&mut held, &piece.text);
            show(text);
            out.text.push_str(text);
            if let Some(length) = stop.check(&out.text) {
                out.text.truncate(length);
                out.stop = StopReason::Rule;
                return finish(out, false, pieces);
            }
        }
    }

    /// What a status that is no success means.
    fn refusal(&self, status: StatusCode, after: Option<Duration>, text: &str) -> Failure {
        let text = text.to_ascii_lowercase();
        let is_about_logprobs = ["logprobs", "logits_all"].iter().any(|word| text.contains(word));
        if self.gives_logprobs && is_about_logprobs {
            return Failure::NoLogprobs;
        }
        let advice = match status.as_u16() {
            300..=399 => "; it sends elsewhere, which is not followed: set remote.url to the final address",
            401 | 403 => "; see remote.token_env, remote.token_file and remote.token_command",
            404 => "; see remote.url and remote.model",
            _ => "",
        };
        let error = anyhow!("the remote server answers {}{advice}", status.as_u16());
        match status.as_u16() {
            429 | 500..=599 => Failure::Passing(error, after),
            _ => Failure::Lasting(error),
        }
    }
}

/// Part of an answer.
#[derive(Debug, Default, PartialEq)]
struct Piece {
    text: String,
    logprobs: Vec<f32>,
    stop: Option<StopReason>,
    /// Whether the server has nothing more to say.
    is_last: bool,
}

/// Reads a line of an answer; `None` for one that says nothing.
fn piece(line: &str) -> Result<Option<Piece>> {
    let line = line.trim();
    let data = match line.strip_prefix("data:") {
        Some(data) => data.trim(),
        // A server that does not stream.
        None if line.starts_with('{') => line,
        None => return Ok(None),
    };
    if data == "[DONE]" {
        return Ok(Some(Piece { is_last: true, ..Piece::default() }));
    }
    let data: Value =
        serde_json::from_str(data).map_err(|_| anyhow!("the remote server answers something else"))?;
    ensure!(data["error"].is_null(), "the remote server reports an error");
    let choice = &data["choices"][0];
    if choice.is_null() {
        return Ok(None);
    }
    let logprobs = &choice["logprobs"];
    let numbers = logprobs["token_logprobs"].as_array().into_iter().flatten();
    // As llama.cpp has it, the way of chats.
    let content = logprobs["content"].as_array().into_iter().flatten().map(|token| &token["logprob"]);
    let logprobs = numbers.chain(content).filter_map(Value::as_f64).map(|number| number as f32).collect();
    let stop = match choice["finish_reason"].as_str() {
        Some("length") => Some(StopReason::Length),
        Some(_) => Some(StopReason::EndToken),
        None => None,
    };
    let text = choice["text"].as_str().context("the remote server answers something else than text")?;
    Ok(Some(Piece { text: text.to_owned(), logprobs, stop, is_last: stop.is_some() }))
}

/// Hands on what is read of an answer; `None` when nobody wants it.
fn relay(answer: ureq::http::Response<Body>, send: &mpsc::SyncSender<Heard>) -> Option<()> {
    let (status, headers) = (answer.status(), answer.headers());
    let after = headers.get("retry-after").and_then(|value| value.to_str().ok()?.trim().parse().ok());
    let is_whole =
        headers.get("content-type").is_some_and(|kind| kind.as_bytes().starts_with(b"application/json"));
    send.send(Heard::Status(status, after.map(Duration::from_secs))).ok()?;
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

/// The ids before and after the gap of a fill-in-the-middle prompt, without other files.
fn parts(task: &Task, tokenizer: &Tokenizer) -> Option<(Vec<u32>, Vec<u32>)> {
    let fim = tokenizer.fim().ok()?;
    let find = |id| task.prompt.iter().rposition(|&other| other == id);
    let (prefix, suffix, middle) = (find(fim.prefix)?, find(fim.suffix)?, find(fim.middle)?);
    let typed = task.marks.last()?.at.max(middle + 1);
    let before = [task.prompt.get(prefix + 1..suffix)?, task.prompt.get(typed..)?].concat();
    Some((before, task.prompt.get(suffix + 1..middle)?.to_vec()))
}

fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t')
}

/// What `text` says beyond what is held back of it, as far as it begins with that.
fn without<'t>(held: &mut &str, text: &'t str) -> &'t str {
    let shared = held.bytes().zip(text.bytes()).take_while(|(a, b)| a == b).count();
    *held = if shared == text.len() { &held[shared..] } else { "" };
    &text[shared..]
}

/// Waits, unless somebody gives up or the time of the task is over; then says why it ends.
fn rest(wait: Duration, task: &Task, cancel: &Cancel) -> Option<StopReason> {
    let until = Instant::now() + wait;
    loop {
        let now = Instant::now();
        if cancel.is_ending() {
            return Some(StopReason::Cancelled);
        }
        if now >= until {
            return None;
        }
        if task.budget.until.is_some_and(|end| until >= end) {
            return Some(StopReason::Time);
        }
        thread::sleep(POLL.min(until - now));
    }
}

/// The wait before a new attempt: twice as long each time, and of random length, so that those whom a server
/// failed together do not come back together.
fn back_off(attempt: u32) -> Duration {
    let longest = BACK_OFF.saturating_mul(1 << attempt.min(16)).min(BACK_OFF_MAX);
    let random = RandomState::new().build_hasher().finish() as f64 / u64::MAX as f64;
    longest.mul_f64(0.5 + random / 2.0)
}

/// Where completions are asked for.
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
        bail!("remote.url is that of chats; completions are asked for at /v1/completions");
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
    use crate::complete::{Options as Prompts, Planner, Request, Window, fim};
    use crate::model::tokenizer::tests::tiny_fim;

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

    #[test]
    fn tokens_are_not_shown() {
        let token = Token::new(" secret\n").unwrap();
        assert!(token == Token("secret".into()) && !format!("{token:?}").contains("secret"));
        for wrong in ["", " \n", "a b", "a\nb", "é"] {
            let error = Token::new(wrong).unwrap_err().to_string();
            assert!(!error.contains("a b"), "{error}");
        }
    }

    #[test]
    fn lines_of_answers_are_understood() {
        let text = |text: &str| Piece { text: text.into(), ..Piece::default() };
        for (line, expected) in [
            ("", None),
            (": comment", None),
            ("event: x", None),
            ("data: {\"choices\":[]}", None),
            ("data: [DONE]", Some(Piece { is_last: true, ..Piece::default() })),
            ("data: {\"choices\":[{\"text\":\"a\\n\",\"finish_reason\":null}]}\r\n", Some(text("a\n"))),
            (
                "data:{\"choices\":[{\"text\":\"\",\"finish_reason\":\"length\"}]}",
                Some(Piece { stop: Some(StopReason::Length), is_last: true, ..Piece::default() }),
            ),
            (
                "{\"choices\":[{\"text\":\"a\",\"finish_reason\":\"stop\",\"logprobs\":{\"token_logprobs\":[-1,null]}}]}",
                Some(Piece {
                    logprobs: vec![-1.0],
                    stop: Some(StopReason::EndToken),
                    is_last: true,
                    ..text("a")
                }),
            ),
            (
                "data: {\"choices\":[{\"text\":\"a\",\"logprobs\":{\"content\":[{\"logprob\":-0.5}]}}]}",
                Some(Piece { logprobs: vec![-0.5], ..text("a") }),
            ),
        ] {
            assert_eq!(piece(line).unwrap(), expected, "{line}");
        }
        for wrong in ["data: x", "data: {\"error\":{}}", "data: {\"choices\":[{}]}", "{"] {
            let error = piece(wrong).unwrap_err().to_string();
            assert!(error.starts_with("the remote server"), "{error}");
        }
    }

    #[test]
    fn prompts_are_taken_apart_for_the_template_of_the_server() {
        let tokenizer = tiny_fim();
        for order in [fim::Order::Psm, fim::Order::Spm, fim::Order::PsmAnchored] {
            let mut planner = Planner::new(Prompts::new(order));
            let request = Request::new("a\nb = c", ")\nd\n");
            let planned = planner.plan("", &request, Window::Small, &tokenizer, 256, None).unwrap();
            let (before, suffix) = parts(&planned.task, &tokenizer).unwrap();
            let before = tokenizer.decode(&before) + &planned.task.open;
            assert_eq!((&*before, &*tokenizer.decode(&suffix)), ("a\nb = c", "\nd\n"), "{order}");
        }
        assert!(parts(&Task::greedy(vec![97], 1), &tokenizer).is_none());
    }

    #[test]
    fn blank_that_was_held_back_is_not_said_again() {
        for (held, pieces, expected) in [
            (" ", &[" a b"][..], "a b"),
            (" ", &["a", " b"], "a b"),
            ("    ", &["  ", "      a"], "    a"),
            ("    ", &["  ", "a"], "a"),
            ("\t", &[" a"], " a"),
            (" ", &["\n", " a"], "\n a"),
            ("", &[" a"], " a"),
        ] {
            let mut held = held;
            let text: String = pieces.iter().map(|piece| without(&mut held, piece)).collect();
            assert_eq!(text, expected);
        }
    }

    #[test]
    fn waits_grow_and_differ() {
        for attempt in 0..40 {
            let longest = (200 << attempt.min(16)).min(10_000) as u128;
            let wait = back_off(attempt).as_millis();
            assert!((longest / 2 - 1..=longest).contains(&wait), "{attempt}: {wait}");
        }
    }
}
