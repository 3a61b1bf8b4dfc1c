//! The remote backend: a completion server (vLLM, SGLang, llama.cpp, anything with OpenAI's `/v1/completions`) in the
//! place of the model on this machine, as an [`Engine`] whose work is done there. What is requested, kept, shown and
//! dropped is decided here as ever.
//!
//! - This is the only place that sends what is edited to another machine, and it does so to one URL only: it
//!   follows no redirect, uses no proxy, and sends nothing before a completion is requested. Prewarming is left
//!   out.
//! - Prompts go as text. They are made, and their lengths counted, with the tokenizer of the starter model: one
//!   with fewer words, so that a budget of tokens is a little less text than the server's own tokens would be.
//! - One request at a time, as with a model of our own; a newer one ends it by dropping the connection.
//! - What goes wrong is said without a word of what was sent or answered: both hold text of documents.

mod transport;
mod wire;

use std::sync::Arc;
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};

use crate::base::Cancel;
use crate::base::timings::milliseconds;
use crate::decode::stop::Stop;
use crate::decode::{Generated, StopReason, Task};
use crate::model::Tokenizer;
use crate::serve::Engine;
use transport::{Exchange, Failure, Heard, POLL, Transport};
use wire::{Piece, Question};

pub use crate::base::Token;
pub use wire::Template;

/// Which server, and how to ask it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Its address: `http://host:8000`, or to `/v1`, or to `/v1/completions`.
    pub url: String,
    /// Which of its models; the server's own choice otherwise.
    pub model: Option<String>,
    /// Authenticates the user.
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

/// The remote backend.
pub struct Remote {
    options: Options,
    tokenizer: Arc<Tokenizer>,
    transport: Transport,
    /// Whether the server gives log-probabilities, as far as is known.
    gives_logprobs: bool,
}

impl Remote {
    /// Prompts are made with `tokenizer`, that of the starter model. Nothing is sent yet.
    pub fn new(options: Options, tokenizer: Tokenizer) -> Result<Self> {
        let transport = Transport::new(&options.url, options.token.clone(), options.timeout)?;
        Ok(Self { options, tokenizer: tokenizer.into(), transport, gives_logprobs: true })
    }

    /// What to call it: the model and the host.
    pub fn describe(&self) -> String {
        let model = self.options.model.as_deref().unwrap_or("the model");
        format!("{model} at {}", self.transport.host())
    }

    /// An engine that has its work done there.
    pub fn engine(mut self) -> Engine {
        let (tokenizer, context) = (self.tokenizer.clone(), self.options.context);
        Engine::remote(tokenizer, context, move |task, cancel, show| self.generate(task, cancel, show))
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
        let (started, until) = (Instant::now(), task.budget.until);
        let mut attempts = 0..self.options.retries;
        loop {
            let mut stop = self.transport.wait_turn(until, cancel)?;
            if stop.is_none() {
                match self.attempt(task, cancel, started, show) {
                    Ok(generated) => return Ok(vec![generated]),
                    Err(Failure::NoLogprobs) => self.gives_logprobs = false,
                    Err(Failure::Lasting(error)) => return Err(error),
                    Err(Failure::Passing(error, after)) => {
                        let attempt = attempts.next();
                        stop = self.transport.wait_retry(attempt, error, after, until, cancel)?;
                    }
                }
            }
            if let Some(stop) = stop {
                return Ok(vec![Generated::nothing(stop)]);
            }
        }
    }

    /// Sends one request. Text that was shown is never requested again.
    fn attempt(
        &mut self,
        task: &Task,
        cancel: &Cancel,
        started: Instant,
        show: &mut dyn FnMut(&str),
    ) -> Result<Generated, Failure> {
        let Options { model, template, .. } = &self.options;
        let question = Question::new(task, &self.tokenizer, *template, model.as_deref(), self.gives_logprobs);
        let exchange = self.transport.send(question.body.to_string());
        let mut answer = Answer::new(task, question.held, started, self.gives_logprobs);
        let ended = answer.listen(&exchange, cancel, show);
        self.transport.end(exchange, matches!(ended, Ok(Ending::Read)));
        ended.map(|_| answer.finish())
    }
}

/// What comes of an answer.
struct Answer<'a> {
    task: &'a Task,
    stop: Stop,
    /// What the text begins with besides, see [`Question`].
    held: String,
    started: Instant,
    gives_logprobs: bool,
    out: Generated,
    /// Pieces with text.
    pieces: usize,
    /// Whether the server has answered at all.
    is_answered: bool,
    /// Whether the server has said that it has nothing more to say.
    is_complete: bool,
    /// The status of a refusal, and when to ask again.
    refused: Option<(u16, Option<Duration>)>,
    refusal: String,
}

/// How an answer ended.
enum Ending {
    /// Read to its end: the connection can serve again.
    Read,
    /// Ended early, by the server or because no more is needed.
    BrokenOff,
}

impl<'a> Answer<'a> {
    fn new(task: &'a Task, held: String, started: Instant, gives_logprobs: bool) -> Self {
        Self {
            task,
            stop: task.stop.clone(),
            held,
            started,
            gives_logprobs,
            out: Generated::nothing(StopReason::Length),
            pieces: 0,
            is_answered: false,
            is_complete: false,
            refused: None,
            refusal: String::new(),
        }
    }

    /// Listens until it ends, is cancelled, or exceeds its time.
    fn listen(
        &mut self,
        exchange: &Exchange,
        cancel: &Cancel,
        show: &mut dyn FnMut(&str),
    ) -> Result<Ending, Failure> {
        loop {
            if cancel.is_ending() {
                self.out.stop = StopReason::Cancelled;
                return Ok(Ending::BrokenOff);
            }
            if let Some(length) = self.task.budget.check(&self.out.text) {
                return Ok(self.cut(length, StopReason::Time));
            }
            let ended = match exchange.answer.recv_timeout(POLL) {
                Ok(Heard::Status(status, after)) => {
                    self.is_answered = true;
                    self.refused = (!(200..300).contains(&status)).then_some((status, after));
                    None
                }
                Ok(Heard::Line(line)) if self.refused.is_some() => {
                    self.refusal.push_str(&line);
                    None
                }
                Ok(Heard::Line(line)) => self.line(&line, show)?,
                Ok(Heard::End(ending)) => Some(self.end(ending)?),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(Failure::Lasting(anyhow!("fimd failed while reading the answer")));
                }
            };
            if let Some(ended) = ended {
                return Ok(ended);
            }
        }
    }

    /// A line of it.
    fn line(&mut self, line: &str, show: &mut dyn FnMut(&str)) -> Result<Option<Ending>, Failure> {
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
        let text = wire::without(&mut self.held, &text);
        show(text);
        self.out.text.push_str(text);
        let length = self.stop.check(&self.out.text);
        Ok(length.map(|length| self.cut(length, StopReason::Rule)))
    }

    /// Nothing more is read of it.
    fn end(&mut self, ending: Result<()>) -> Result<Ending, Failure> {
        if let Some((status, after)) = self.refused {
            return Err(refusal(status, after, &self.refusal, self.gives_logprobs));
        }
        if self.is_complete {
            return Ok(if ending.is_ok() { Ending::Read } else { Ending::BrokenOff });
        }
        let error = match ending {
            Err(error) if self.is_answered => error.context("the remote server broke off"),
            Err(error) => error.context("the remote server cannot be reached"),
            Ok(()) => anyhow!("the remote server broke off"),
        };
        // Of what was shown already, whole lines are as good as any.
        let text = &self.out.text;
        match text.rfind('\n').filter(|&end| !text[..end].trim().is_empty()) {
            Some(end) => {
                tracing::warn!("{error:#}");
                Ok(self.cut(end, StopReason::Time))
            }
            None => Err(self.failure(error)),
        }
    }

    /// Nothing that was shown is requested again.
    fn failure(&self, error: anyhow::Error) -> Failure {
        if self.pieces > 0 { Failure::Lasting(error) } else { Failure::Passing(error, None) }
    }

    fn cut(&mut self, length: usize, stop: StopReason) -> Ending {
        self.out.text.truncate(length);
        self.out.stop = stop;
        Ending::BrokenOff
    }

    fn finish(self) -> Generated {
        let mut out = self.out;
        out.timings.decode_tokens = out.logprobs.len().max(self.pieces);
        out.timings.decode_ms = milliseconds(self.started.elapsed()) - out.timings.first_token_ms;
        out
    }
}

/// What a status that is no success means.
fn refusal(status: u16, after: Option<Duration>, text: &str, asked_logprobs: bool) -> Failure {
    let text = text.to_ascii_lowercase();
    let is_about_logprobs = ["logprobs", "logits_all"].iter().any(|word| text.contains(word));
    if asked_logprobs && is_about_logprobs {
        return Failure::NoLogprobs;
    }
    let advice = match status {
        300..=399 => "; it redirects, which is not followed: set remote.url to the final address",
        401 | 403 => "; see remote.token_env, remote.token_file and remote.token_command",
        404 => "; see remote.url and remote.model",
        _ => "",
    };
    let error = anyhow!("the remote server answers {status}{advice}");
    match status {
        429 | 500..=599 => Failure::Passing(error, after),
        _ => Failure::Lasting(error),
    }
}
