//! The model that is served, and information on it.

use serde::{Deserialize, Serialize};

use crate::complete::PromptProfile;
use crate::complete::remote::BackOff;
use crate::serve::Engine;

/// A model with its engine.
pub struct Served {
    pub engine: Engine,
    pub profile: PromptProfile,
    /// For a local model.
    pub info: Option<ModelInfo>,
    /// Name for messages of a remote backend.
    pub remote: Option<String>,
    /// How long its server is left alone.
    pub back_off: Option<BackOff>,
    /// Whether it is the fallback model, served until another is loaded.
    pub is_fallback: bool,
}

/// A model that is loaded already.
pub fn served(engine: Engine, profile: impl Into<PromptProfile>) -> Served {
    Served { engine, profile: profile.into(), info: None, remote: None, back_off: None, is_fallback: false }
}

impl Served {
    /// Name for messages.
    pub fn name(&self) -> &str {
        let name = self.info.as_ref().map(|info| &info.name).or(self.remote.as_ref());
        name.map_or("a model", |name| name)
    }
}

/// Information on a loaded model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelInfo {
    /// Path of the checkpoint, or "the starter model".
    pub name: String,
    pub layers: usize,
    /// Size of the weights as stored, in bytes.
    pub weight_bytes: u64,
    /// Size of the routed experts among them, in bytes.
    pub expert_bytes: u64,
    /// Context length, in tokens.
    pub context: usize,
    /// Compute threads.
    pub threads: usize,
    /// SIMD level of the kernels.
    pub kernels: String,
    /// Load time, in milliseconds.
    pub load_ms: f64,
}
