//! What processes of fimd say to one another: lines of JSON. After the greeting of an editor its language protocol
//! follows; everyone else asks one thing and is answered.

use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::complete::Completion;
use crate::complete::stats::Statistics;
use crate::decode::{Generated, Task, sample::Sampling};
use crate::model::tokenizer::Tokenizer;
use crate::resident::{Connected, Facts, Spec};
use crate::serve::Gauge;

/// Changes when an older daemon would misunderstand.
pub(super) const PROTOCOL: u32 = 1;

/// How long a daemon may take to answer a greeting.
pub(super) const WELCOME_MAX: Duration = Duration::from_secs(10);
/// The longest greeting: it is read before anything is known of who sends it.
pub(super) const GREETING_BYTES_MAX: usize = 1 << 16;
/// The longest request or answer.
pub(super) const LINE_BYTES_MAX: usize = 1 << 26;

/// Who asks, and what for.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Greeting {
    /// See [`PROTOCOL`].
    pub protocol: u32,
    /// The program that asks.
    pub program: Program,
    /// What it wants.
    pub purpose: Purpose,
}

/// A build of fimd.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// Its version.
    pub version: String,
    /// When its file was written, in seconds since 1970.
    pub built_s: u64,
}

/// What a connection is for.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Purpose {
    /// The language protocol follows.
    Edit {
        /// What the program has in its environment and flags, see
        /// [`Configuration::client_overrides`](crate::config::Configuration::client_overrides).
        overrides: Value,
        /// Which model is wanted.
        wishes: Wishes,
    },
    /// A [`Request`] follows.
    Ask,
}

/// How the daemon answers a greeting.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Welcome {
    /// Go on.
    Yes(Program),
    /// It does not speak this protocol.
    Protocol(Program),
}

/// A model, as flags name it; what is not named stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Wishes {
    /// A checkpoint.
    pub model: Option<PathBuf>,
    /// Whether the starter is wanted.
    pub starter: bool,
    /// Most tokens that prompt and completion may have together.
    pub context: Option<u32>,
    /// Bytes that earlier prompts may leave behind.
    pub cache_bytes_max: Option<u64>,
    /// Threads that compute.
    pub threads: Option<usize>,
    /// Name of a level of vector instructions.
    pub kernels: Option<String>,
    /// Whether quantised weights are converted to f32.
    pub exact: bool,
}

/// What can be asked of the daemon.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// How it is doing: a [`Status`].
    Status,
    /// To end.
    Stop {
        /// Whether editors may start another one at once.
        for_another: bool,
    },
    /// Not to complete, for so many minutes or until told otherwise.
    Pause {
        /// Minutes.
        minutes: Option<f64>,
    },
    /// To complete again.
    Resume,
    /// To serve another model.
    Load(Wishes),
    /// To complete once: an [`Answer::Completion`].
    Complete(Place),
    /// To continue a prompt: [`Answer::Text`]s and an [`Answer::Generated`].
    Generate(Box<Generation>),
}

/// A place in a file, and how to complete there.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Place {
    /// What to call the file.
    pub path: String,
    /// The text before the cursor.
    pub prefix: String,
    /// The text after it.
    pub suffix: String,
    /// Whether several lines are wanted whatever stands at the cursor.
    pub is_multi_line: bool,
    /// Most tokens to generate.
    pub max_tokens: usize,
    /// What the program has in its environment and flags.
    pub overrides: Value,
}

/// A prompt, and how to go on with it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Generation {
    /// The prompt as text, special tokens written out.
    pub text: Option<String>,
    /// The prompt as token ids.
    pub ids: Option<Vec<u32>>,
    /// Most tokens to generate.
    pub max_tokens: usize,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Whether to go on past the tokens that end a text.
    pub ignores_end: bool,
    /// How many of the likeliest tokens to report.
    pub top_logprobs: usize,
}

/// What the daemon answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// It was done.
    Done,
    /// It cannot be done.
    Failed(String),
    /// How it is doing.
    Status(Box<Status>),
    /// What belongs at a place, if anything.
    Completion(Option<Completion>),
    /// More text.
    Text(String),
    /// All of it: the prompt's tokens and what was generated.
    Generated(Vec<u32>, Box<Generated>),
}

/// How the daemon is doing, as `fimd status --json` prints it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// Which program it runs.
    pub program: Program,
    /// Its process.
    pub pid: u32,
    /// Seconds since it started.
    pub uptime_s: u64,
    /// Where it listens.
    pub socket: PathBuf,
    /// Where it logs.
    pub log: PathBuf,
    /// `ready`, `loading`, `paused` or `failed`.
    pub state: String,
    /// Why loading failed.
    pub failure: Option<String>,
    /// The model that answers.
    pub model: Option<Facts>,
    /// Whether it only answers until another is loaded.
    pub is_stand_in: bool,
    /// What is being loaded, and how far it is in per cent.
    pub loading: Option<(String, u32)>,
    /// Whether completing is paused.
    pub is_paused: bool,
    /// For how many seconds still, where the pause ends by itself.
    pub paused_s: Option<u64>,
    /// Bytes of memory in use, mapped weights included as far as they were read.
    pub memory_bytes: u64,
    /// Most bytes that earlier prompts may leave behind.
    pub cache_bytes_max: u64,
    /// How fast the model is, and what earlier prompts left behind.
    pub engine: Gauge,
    /// What was counted since the start, over all editors.
    pub statistics: Statistics,
    /// Who is connected.
    pub editors: Vec<Connected>,
}

impl Program {
    /// This one.
    pub fn own() -> Self {
        let written = std::env::current_exe().and_then(|path| path.metadata()?.modified()).ok();
        let built_s = written.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            built_s: built_s.map_or(0, |time| time.as_secs()),
        }
    }
}

impl Greeting {
    /// From this program.
    pub(super) fn new(purpose: Purpose) -> Self {
        Self { protocol: PROTOCOL, program: Program::own(), purpose }
    }
}

impl Generation {
    /// What there is to decode. Without a tokenizer only ids can be continued, and nothing ends them.
    pub fn task(&self, tokenizer: Result<&Tokenizer>) -> Result<Task> {
        let (prompt, stop_ids) = match (&self.text, tokenizer) {
            (Some(text), tokenizer) => {
                let tokenizer = tokenizer?;
                (tokenizer.encode_with_specials(text), tokenizer.stop_ids())
            }
            (None, tokenizer) => (
                self.ids.clone().unwrap_or_default(),
                tokenizer.map_or_else(|_| Vec::new(), Tokenizer::stop_ids),
            ),
        };
        ensure!(!prompt.is_empty(), "the prompt is empty: give at least one token");
        let stop_ids = if self.ignores_end { Vec::new() } else { stop_ids };
        let (sampling, top_logprobs) = (self.sampling.clone(), self.top_logprobs);
        Ok(Task { sampling, stop_ids, top_logprobs, ..Task::greedy(prompt, self.max_tokens) })
    }
}

impl Wishes {
    /// Whether a model is named.
    pub fn names_model(&self) -> bool {
        self.model.is_some() || self.starter
    }

    /// What to run, where `before` is what was.
    pub fn over(&self, before: &Spec) -> Result<Spec> {
        let level = match &self.kernels {
            Some(name) => name.parse().map_err(anyhow::Error::msg)?,
            None => before.level,
        };
        let same_model = !self.names_model();
        Ok(Spec {
            model: if self.starter { None } else { self.model.clone().or_else(|| before.model.clone()) },
            context: self.context.or(before.context.filter(|_| same_model)),
            cache_bytes_max: self.cache_bytes_max.unwrap_or(before.cache_bytes_max),
            threads: self.threads.unwrap_or(before.threads),
            level,
            exact: self.exact || before.exact,
            remote: before.remote.clone().filter(|_| same_model),
        })
    }
}

/// One message as a line.
pub(super) fn line(message: &impl Serialize) -> Result<String> {
    Ok(serde_json::to_string(message)? + "\n")
}

/// One line as a message.
pub(super) fn parse<'l, M: Deserialize<'l>>(line: &'l str) -> Result<M> {
    serde_json::from_str(line).context("the other side of the connection does not speak fimd's protocol")
}

/// A path that means the same in another process.
pub fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).with_context(|| format!("cannot find {}", path.display()))
}
