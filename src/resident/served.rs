//! The model that answers, and what is worth knowing about it.

use serde::{Deserialize, Serialize};

use crate::complete::PromptProfile;
use crate::serve::Engine;

/// The model that answers.
pub struct Served {
    /// Runs it.
    pub engine: Engine,
    /// How prompts are best made for it.
    pub suited: PromptProfile,
    /// About it, where it came from files.
    pub facts: Option<Facts>,
    /// What to call it, where it is a server elsewhere.
    pub remote: Option<String>,
    /// Whether it answers only until another is loaded.
    pub is_stand_in: bool,
}

/// A model that runs already.
pub fn served(engine: Engine, suited: impl Into<PromptProfile>) -> Served {
    Served { engine, suited: suited.into(), facts: None, remote: None, is_stand_in: false }
}

impl Served {
    /// What to call it.
    pub fn name(&self) -> &str {
        let name = self.facts.as_ref().map(|facts| &facts.name).or(self.remote.as_ref());
        name.map_or("a model", |name| name)
    }
}

/// What is worth knowing about a model that runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Facts {
    /// What to call it: the path it comes from, or that it is the starter.
    pub name: String,
    pub layers: usize,
    /// Bytes of weights as stored.
    pub weight_bytes: u64,
    /// Of these, the bytes of routed experts.
    pub expert_bytes: u64,
    /// Most tokens that prompt and completion may have together.
    pub context: usize,
    /// Threads that compute.
    pub threads: usize,
    /// What the products are computed with.
    pub kernels: String,
    /// Opening it took so many milliseconds.
    pub load_ms: f64,
}
