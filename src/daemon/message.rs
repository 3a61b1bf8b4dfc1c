//! The daemon protocol: lines of JSON. After the handshake an editor speaks LSP; a command sends one request and
//! reads its responses.

use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow, ensure};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::complete::Completion;
use crate::complete::stats::Statistics;
use crate::decode::{Generated, Task, sample::Sampling};
use crate::model::tokenizer::Tokenizer;
use crate::resident::{Connected, ExpertMemory, ModelInfo, Spec};
use crate::serve::Gauge;

/// Incremented by an incompatible change.
pub(super) const PROTOCOL: u32 = 1;

/// Longest wait for the other side's part of the handshake, or for a request after it.
pub(super) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest handshake: it is read before the peer is known.
pub(super) const HANDSHAKE_BYTES_MAX: usize = 1 << 16;
/// Longest request or response.
pub(super) const LINE_BYTES_MAX: usize = 1 << 26;

/// Sent first by the client.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Handshake {
    /// See [`PROTOCOL`].
    pub protocol: u32,
    /// The program that connects.
    pub program: Program,
    pub purpose: Purpose,
}

/// A build of fimd.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    pub version: String,
    /// Modification time of its file, in seconds since 1970.
    pub built_s: u64,
}

/// What a connection is for.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Purpose {
    /// LSP follows.
    Edit {
        /// The environment and flags of the client, see
        /// [`Configuration::client_overrides`](crate::config::Configuration::client_overrides).
        overrides: Value,
        #[serde(rename = "wishes")]
        model: ModelOverrides,
    },
    /// A [`Request`] follows.
    #[serde(rename = "ask")]
    Request,
}

/// The daemon's part of the handshake.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum HandshakeReply {
    #[serde(rename = "yes")]
    Accepted(Program),
    /// It speaks another version of the protocol.
    #[serde(rename = "protocol")]
    VersionMismatch(Program),
}

/// The model as flags name it; what is not named stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ModelOverrides {
    /// Path of a checkpoint.
    pub model: Option<PathBuf>,
    /// Whether to load the starter model.
    pub starter: bool,
    /// Context length, in tokens.
    pub context: Option<u32>,
    /// Budget of the prefix cache, in bytes.
    pub cache_bytes_max: Option<u64>,
    /// Memory budget of the model, in bytes.
    pub ram_bytes_max: Option<u64>,
    /// A smaller copy of the model's experts.
    pub cold: Option<PathBuf>,
    /// Budget of GPU memory, in bytes.
    pub vram_bytes_max: Option<u64>,
    /// Compute threads.
    pub threads: Option<usize>,
    /// Name of a SIMD level.
    pub kernels: Option<String>,
    /// Whether quantised weights are dequantised to f32.
    pub exact: bool,
    /// Whether weights are copied into memory in the order in which the CPU reads them.
    pub repack: bool,
}

/// A request to the daemon.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// For its [`Status`].
    Status,
    /// To shut down.
    Stop {
        /// Whether it is replaced: editors may start another one at once.
        for_another: bool,
    },
    /// To pause completion for `minutes`, or until [`Self::Resume`].
    Pause {
        minutes: Option<f64>,
    },
    Resume,
    /// To swap the model.
    Load(ModelOverrides),
    /// For a [`Response::Completion`].
    Complete(CompletionRequest),
    /// To continue a prompt: for [`Response::Text`]s and a [`Response::Generated`].
    Generate(Box<Generation>),
}

/// A cursor in a file, and how to complete there.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CompletionRequest {
    /// Path of the file, as the prompt has it.
    pub path: String,
    /// Its absolute path, by which the daemon decides whether it may be read.
    #[serde(default)]
    pub file: PathBuf,
    /// The text before the cursor.
    pub prefix: String,
    /// The text after it.
    pub suffix: String,
    /// Whether to complete several lines whatever stands at the cursor.
    pub is_multi_line: bool,
    /// Generation limit, in tokens.
    pub max_tokens: usize,
    /// The environment and flags of the client.
    pub overrides: Value,
}

/// A prompt, and how to continue it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Generation {
    /// The prompt as text, in which special tokens are parsed.
    pub text: Option<String>,
    /// The prompt as token ids.
    pub ids: Option<Vec<u32>>,
    /// Generation limit, in tokens.
    pub max_tokens: usize,
    pub sampling: Sampling,
    /// Whether to ignore end-of-text tokens.
    pub ignores_end: bool,
    /// How many of the likeliest tokens to report at each position.
    pub top_logprobs: usize,
}

/// A response of the daemon.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Response {
    /// Success.
    Done,
    /// Failure, with the cause.
    Failed(String),
    Status(Box<Status>),
    Completion(Option<Completion>),
    /// The next piece of generated text.
    Text(String),
    /// The end of a generation: the prompt's tokens and what was generated.
    Generated(Vec<u32>, Box<Generated>),
}

/// Status of the daemon, as `fimd status --json` prints it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// The build that runs.
    pub program: Program,
    pub pid: u32,
    /// Seconds since the start.
    pub uptime_s: u64,
    /// Path of the socket.
    pub socket: PathBuf,
    /// Folder of the log.
    pub log: PathBuf,
    /// The file in it that is written now.
    #[serde(default)]
    pub log_file: Option<PathBuf>,
    /// `ready`, `loading`, `paused`, or `failed` while only the fallback model is there since loading failed.
    pub state: String,
    /// Why the last load failed; the model before it serves on.
    pub failure: Option<String>,
    /// Problems with the settings.
    #[serde(default)]
    pub problems: Vec<String>,
    /// The model in use; none for a remote backend.
    pub model: Option<ModelInfo>,
    /// Seconds for which a remote server that is busy is left alone.
    #[serde(default)]
    pub back_off_s: Option<u64>,
    /// Whether that is the fallback model, in use until another is loaded.
    #[serde(rename = "is_stand_in")]
    pub is_fallback: bool,
    /// The model being loaded, and its load progress in per cent.
    pub loading: Option<(String, u32)>,
    /// Whether completion is paused.
    pub is_paused: bool,
    /// Seconds until the pause ends, where it has an end.
    pub paused_s: Option<u64>,
    /// Resident set size in bytes, the mapped weights that were read included.
    pub memory_bytes: u64,
    /// Budget of the prefix cache, in bytes.
    pub cache_bytes_max: u64,
    /// Speed of the model, and use of the prefix cache.
    pub engine: Gauge,
    /// Counted since the start, over all editors.
    pub statistics: Statistics,
    pub editors: Vec<Connected>,
}

impl Program {
    /// This build.
    pub fn own() -> Self {
        let written = std::env::current_exe().and_then(|path| path.metadata()?.modified()).ok();
        let built_s = written.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            built_s: built_s.map_or(0, |time| time.as_secs()),
        }
    }
}

impl Status {
    /// Whether the daemon is of the build of this process.
    pub fn is_this_build(&self) -> bool {
        self.program == Program::own()
    }
}

impl Handshake {
    /// From this program.
    pub(super) fn new(purpose: Purpose) -> Self {
        Self { protocol: PROTOCOL, program: Program::own(), purpose }
    }
}

impl Generation {
    /// The decode task. Without a tokenizer only ids can be continued, with no stop token.
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

impl ModelOverrides {
    /// Whether a model is named.
    pub fn names_model(&self) -> bool {
        self.model.is_some() || self.starter
    }

    /// The model to run in the place of `before`.
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
            experts: ExpertMemory {
                ram_bytes_max: self.ram_bytes_max.or(before.experts.ram_bytes_max),
                cold: self.cold.clone().or_else(|| before.experts.cold.clone().filter(|_| same_model)),
                ..before.experts.clone()
            },
            vram_bytes_max: self.vram_bytes_max.or(before.vram_bytes_max),
            vram_idle: before.vram_idle,
            threads: self.threads.unwrap_or(before.threads),
            level,
            exact: self.exact || before.exact,
            repack: self.repack || before.repack,
            trace: before.trace.clone().filter(|_| same_model),
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
    // The error of the parser may quote text.
    let invalid = |_| anyhow!("invalid message: the peer does not speak fimd's protocol");
    serde_json::from_str(line).map_err(invalid)
}

/// A path that is valid in another process.
pub fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).with_context(|| format!("cannot find {}", path.display()))
}
