//! What a request is to generate: known from the start, or planned when its turn comes.

use std::panic::{AssertUnwindSafe, catch_unwind};

use anyhow::Result;

use crate::decode::Task;
use crate::model::Tokenizer;

/// A task, or how to make it.
pub enum Plan {
    /// It is there.
    Ready(Box<Task>),
    /// It is made on the engine's thread when the queue hands the request out, so that one that is superseded
    /// before is never tokenised; or, while a prefill pass runs that it may share, where it is submitted.
    Lazy(Planning),
}

/// Makes a task.
pub(super) type Planning = Box<dyn FnOnce(&PlanInput) -> Result<Task> + Send>;

/// What an engine says of its model to whoever makes a task for it.
pub struct PlanInput<'a> {
    /// The tokenizer of the model being served.
    pub tokenizer: &'a Tokenizer,
    /// Most tokens a prompt and its completion may have together.
    pub context_tokens: usize,
    /// Prompt tokens evaluated per second, a moving average; `None` before the first prompt of some length.
    pub prefill_per_second: Option<f64>,
}

impl Plan {
    /// One that is made when it is needed.
    pub fn lazy(planning: impl FnOnce(&PlanInput) -> Result<Task> + Send + 'static) -> Self {
        Self::Lazy(Box::new(planning))
    }

    /// The task. A panic is an error of this request, as it is while the task runs.
    pub(super) fn make(self, input: &PlanInput) -> Result<Task> {
        match self {
            Self::Ready(task) => Ok(*task),
            Self::Lazy(planning) => {
                catch_unwind(AssertUnwindSafe(|| planning(input))).unwrap_or_else(|_| Err(super::failed()))
            }
        }
    }

    /// The tokens it begins with; none before it is made.
    pub(super) fn prompt(&self) -> &[u32] {
        match self {
            Self::Ready(task) => &task.prompt,
            Self::Lazy(_) => &[],
        }
    }
}

impl From<Task> for Plan {
    fn from(task: Task) -> Self {
        Self::Ready(Box::new(task))
    }
}
