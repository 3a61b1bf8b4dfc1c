//! The remote backend: a completion server (vLLM, SGLang, llama.cpp, anything with OpenAI's `/v1/completions`) in the
//! place of the local model, as an [`Engine`] whose tasks run there. Everything else works as with a local model.
//!
//! - This is the only module that sends document text to another machine, and to one URL only: it follows no redirect,
//!   uses no proxy, and sends nothing before a completion is requested. There is no prewarming.
//! - Prompts are sent as text. Their tokens are counted with the tokenizer of the starter model, whose vocabulary is
//!   smaller, so that a budget of tokens is a little less text than by the server's tokenizer.
//! - A bounded number of requests at once. A newer one about the same document cancels an older one by closing its
//!   connection, and a more urgent one stops the others for a moment, so that the server begins with it.
//! - Errors contain nothing of request or response bodies, as both have document text.

mod token;
mod transport;
mod wire;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};

use crate::base::Cancel;
use crate::base::timings::milliseconds;
use crate::decode::stop::Stop;
use crate::decode::{Generated, StopReason, Task};
use crate::model::Tokenizer;
use crate::model::tokenizer::specials::SpecialsCut;
use crate::serve::{Engine, Refused};
use transport::{Exchange, Failure, POLL, Received, Transport};
use wire::{CompletionRequest, Piece, Support};

pub use crate::base::client::Token;
pub use token::TokenSource;
pub use transport::BackOff;
pub use wire::Template;

/// Options of the remote backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Its address: `http://host:8000`, or to `/v1`, or to `/v1/completions`.
    pub url: String,
    /// The name of the model; by default the server's choice.
    pub model: Option<String>,
    /// Authenticates the user.
    pub token: Option<TokenSource>,
    /// Timeout of connecting, and of each read and write; a request may take three of these in all.
    pub timeout: Duration,
    /// Most requests in flight at once.
    pub requests_max: usize,
    /// Retries after a failed connection, or a busy server.
    pub retries: u32,
    /// Who renders the FIM prompt.
    pub template: Template,
    /// Most tokens of a prompt and its completion together.
    pub context: usize,
}

/// Most timeouts that a request without a time limit of its own may take.
const REQUEST_TIMEOUTS: u32 = 3;

/// The remote backend.
pub struct Remote {
    options: Options,
    tokenizer: Arc<Tokenizer>,
    transport: Transport,
    support: Mutex<Support>,
    in_flight: AtomicUsize,
}

impl Remote {
    /// `tokenizer` is that of the starter model. Nothing is sent yet.
    pub fn new(options: Options, tokenizer: Tokenizer) -> Result<Self> {
        let transport = Transport::new(&options.url, options.token.clone(), options.timeout)?;
        let support = Mutex::new(Support { logprobs: true, stops: true });
        Ok(Self { options, tokenizer: tokenizer.into(), transport, support, in_flight: AtomicUsize::new(0) })
    }

    /// The model and the host, for the user.
    pub fn describe(&self) -> String {
        let model = self.options.model.as_deref().unwrap_or("the model");
        format!("{model} at {}", self.transport.host())
    }

    /// How long the server is left alone.
    pub fn back_off(&self) -> BackOff {
        self.transport.back_off()
    }

    /// An engine whose tasks run on the server.
    pub fn engine(self) -> Engine {
        let (tokenizer, context) = (self.tokenizer.clone(), self.options.context);
        let address = self.transport.address();
        Engine::remote(tokenizer, context, self.options.requests_max, move |task, cancel, show| {
            self.generate(task, cancel, show).with_context(|| format!("no completion from {address}"))
        })
    }

    fn generate(&self, task: &Task, cancel: &Cancel, show: &mut dyn FnMut(&str)) -> Result<Vec<Generated>> {
        if task.max_tokens == 0 {
            return Ok(vec![Generated::empty(StopReason::Length)]);
        }
        let started = Instant::now();
        let total = started + self.options.timeout * REQUEST_TIMEOUTS;
        let until = Some(task.budget.until.map_or(total, |until| until.min(total)));
        let mut attempts = 0..self.options.retries;
        loop {
            let mut stop = self.transport.wait_turn(until, cancel)?;
            if stop.is_none() {
                match self.attempt(task, cancel, (started, total), show) {
                    Ok(generated) => return Ok(vec![generated]),
                    Err(Failure::NoLogprobs) => self.lacks(|support| support.logprobs = false),
                    Err(Failure::FewStops) => self.lacks(|support| support.stops = false),
                    Err(Failure::Busy(error, after)) => {
                        self.transport.back_off().set(after);
                        return Err(error.context(Refused));
                    }
                    Err(Failure::Unauthorized(error)) => {
                        self.transport.forget_token();
                        return Err(error);
                    }
                    Err(Failure::Permanent(error)) => return Err(error),
                    Err(Failure::Retryable(error, after)) => {
                        let attempt = attempts.next();
                        stop = self.transport.wait_retry(attempt, error, after, until, cancel)?;
                    }
                }
            }
            if let Some(stop) = stop {
                return Ok(vec![Generated::empty(stop)]);
            }
        }
    }

    /// Sends one request. Text that was shown is never requested again.
    fn attempt(
        &self,
        task: &Task,
        cancel: &Cancel,
        (started, total): (Instant, Instant),
        show: &mut dyn FnMut(&str),
    ) -> Result<Generated, Failure> {
        let token = self.transport.token(cancel).map_err(Failure::Permanent)?;
        let Options { model, template, .. } = &self.options;
        let support = *self.support.lock().unwrap_or_else(PoisonError::into_inner);
        let request = CompletionRequest::new(task, &self.tokenizer, *template, model.as_deref(), support);
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        let exchange = self.transport.send(request.body.to_string(), token);
        let mut answer = ResponseReader::new(task, request.withheld, started, support);
        let ended = answer.listen(&exchange, total, cancel, show);
        self.transport.end(exchange, matches!(ended, Ok(ResponseEnd::Read)));
        let is_alone = self.in_flight.fetch_sub(1, Ordering::Relaxed) == 1;
        match ended {
            Ok(_) => Ok(answer.finish()),
            Err(Failure::Busy(error, after)) if is_alone => Err(Failure::Retryable(error, after)),
            Err(failure) => Err(failure),
        }
    }

    fn lacks(&self, without: impl FnOnce(&mut Support)) {
        without(&mut self.support.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// Reads a response.
struct ResponseReader<'a> {
    task: &'a Task,
    stop: Stop,
    /// See [`CompletionRequest`].
    withheld: String,
    specials: SpecialsCut,
    started: Instant,
    support: Support,
    out: Generated,
    /// Pieces with text.
    pieces: usize,
    /// Whether a status line was received.
    is_answered: bool,
    /// Whether the last piece was received.
    is_complete: bool,
    /// The status of an error response, and its Retry-After.
    error_status: Option<(u16, Option<Duration>)>,
    error_body: String,
}

/// How a response ended.
enum ResponseEnd {
    /// Read to its end: the connection can be reused.
    Read,
    /// Ended early, by the server or by us.
    Aborted,
}

impl<'a> ResponseReader<'a> {
    fn new(task: &'a Task, withheld: String, started: Instant, support: Support) -> Self {
        Self {
            task,
            stop: task.stop.clone(),
            withheld,
            specials: SpecialsCut::new(task.ends_at_specials),
            started,
            support,
            out: Generated::empty(StopReason::Length),
            pieces: 0,
            is_answered: false,
            is_complete: false,
            error_status: None,
            error_body: String::new(),
        }
    }

    /// Reads until it ends, is cancelled, or exceeds its time limit.
    fn listen(
        &mut self,
        exchange: &Exchange,
        total: Instant,
        cancel: &Cancel,
        show: &mut dyn FnMut(&str),
    ) -> Result<ResponseEnd, Failure> {
        loop {
            if cancel.is_ending() {
                self.out.stop = StopReason::Cancelled;
                return Ok(ResponseEnd::Aborted);
            }
            if let Some(length) = self.task.budget.check(&self.out.text) {
                return Ok(self.cut(length, StopReason::Time));
            }
            if Instant::now() >= total {
                let limit = total.saturating_duration_since(self.started).as_secs();
                return self.cut_off(anyhow!("the remote server has not finished within {limit} s"));
            }
            let ended = match exchange.answer.recv_timeout(POLL) {
                Ok(Received::Status(status, after)) => {
                    self.is_answered = true;
                    self.error_status = (!(200..300).contains(&status)).then_some((status, after));
                    None
                }
                Ok(Received::Line(line)) if self.error_status.is_some() => {
                    self.error_body.push_str(&line);
                    None
                }
                Ok(Received::Line(line)) => self.line(&line, show)?,
                Ok(Received::End(ending)) => Some(self.end(ending)?),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(Failure::Permanent(anyhow!("internal error while reading the response")));
                }
            };
            if let Some(ended) = ended {
                return Ok(ended);
            }
        }
    }

    fn line(&mut self, line: &str, show: &mut dyn FnMut(&str)) -> Result<Option<ResponseEnd>, Failure> {
        let piece = match wire::piece(line) {
            Ok(Some(piece)) => piece,
            Ok(None) => return Ok(None),
            Err(error) => return Err(self.failure(error)),
        };
        let Piece { text, logprobs, stop, is_last } = piece;
        self.is_complete |= is_last;
        self.out.logprobs.extend(logprobs);
        self.out.stop = stop.unwrap_or(self.out.stop);
        if text.is_empty() {
            return Ok(None);
        }
        if self.pieces == 0 {
            let Generated { timings, synced, .. } = &mut self.out;
            timings.first_token_ms = milliseconds(self.started.elapsed());
            timings.prefill_ms = timings.first_token_ms;
            timings.prefill_tokens = self.task.prompt.len();
            synced.evaluated = self.task.prompt.len();
        }
        self.pieces += 1;
        let text = self.specials.push(wire::without(&mut self.withheld, &text));
        show(&text);
        self.out.text.push_str(&text);
        if let Some(length) = self.stop.check(&self.out.text) {
            return Ok(Some(self.cut(length, StopReason::Rule)));
        }
        Ok(self.specials.cut().map(|cut| self.cut(self.out.text.len(), cut.into())))
    }

    /// Handles the end of the response.
    fn end(&mut self, ending: Result<()>) -> Result<ResponseEnd, Failure> {
        if let Some((status, after)) = self.error_status {
            return Err(status_failure(status, after, &self.error_body, self.support));
        }
        if self.is_complete {
            self.out.text.push_str(&self.specials.finish());
            return Ok(if ending.is_ok() { ResponseEnd::Read } else { ResponseEnd::Aborted });
        }
        let error = match ending {
            Err(error) if self.is_answered => error.context("the remote server closed the connection early"),
            Err(error) => error.context("the remote server cannot be reached"),
            Ok(()) => anyhow!("the remote server closed the connection early"),
        };
        self.cut_off(error)
    }

    /// Ends a response that is not complete; whole lines of it are usable.
    fn cut_off(&mut self, error: anyhow::Error) -> Result<ResponseEnd, Failure> {
        let text = &self.out.text;
        match text.rfind('\n').filter(|&end| !text[..end].trim().is_empty()) {
            Some(end) => {
                tracing::warn!("{error:#}");
                Ok(self.cut(end, StopReason::Time))
            }
            None => Err(self.failure(error)),
        }
    }

    /// Not retried once text was shown.
    fn failure(&self, error: anyhow::Error) -> Failure {
        if self.pieces > 0 { Failure::Permanent(error) } else { Failure::Retryable(error, None) }
    }

    fn cut(&mut self, length: usize, stop: StopReason) -> ResponseEnd {
        self.out.text.truncate(length);
        self.out.stop = stop;
        ResponseEnd::Aborted
    }

    fn finish(self) -> Generated {
        let mut out = self.out;
        out.timings.decode_tokens = out.logprobs.len().max(self.pieces);
        out.timings.decode_ms = milliseconds(self.started.elapsed()) - out.timings.first_token_ms;
        out
    }
}

/// The failure for an error status.
fn status_failure(status: u16, after: Option<Duration>, text: &str, support: Support) -> Failure {
    let text = text.to_ascii_lowercase();
    let is_about_logprobs = ["logprobs", "logits_all"].iter().any(|word| text.contains(word));
    if support.logprobs && is_about_logprobs {
        return Failure::NoLogprobs;
    }
    if support.stops && matches!(status, 400 | 422) && text.contains("stop") {
        return Failure::FewStops;
    }
    let advice = match status {
        300..=399 => "; it redirects, which is not followed: set remote.url to the final address",
        401 | 403 => "; see remote.token_env, remote.token_file and remote.token_command",
        404 => "; see remote.url and remote.model",
        _ => "",
    };
    let error = anyhow!("the remote server responded with status {status}{advice}");
    match status {
        401 | 403 => Failure::Unauthorized(error),
        429 | 503 => Failure::Busy(error, after),
        500..=599 => Failure::Retryable(error, after),
        _ => Failure::Permanent(error),
    }
}
