//! The task of a request: given, or planned when the request is scheduled.

use std::panic::{AssertUnwindSafe, catch_unwind};

use anyhow::Result;

use crate::decode::Task;
use crate::model::Tokenizer;

/// A task, or a closure that makes it.
pub enum Plan {
    Ready(Box<Task>),
    /// Called on the engine's thread when the request is scheduled, so that one superseded before is never tokenised; or
    /// on the submitting thread, while a prefill pass runs that the request may share.
    Lazy(Planning),
}

pub(super) type Planning = Box<dyn FnOnce(&PlanInput) -> Result<Task> + Send>;

/// What a task depends on.
pub struct PlanInput<'a> {
    /// The tokenizer of the model being served.
    pub tokenizer: &'a Tokenizer,
    /// Most tokens of a prompt and its completion together.
    pub context_tokens: usize,
    /// Prompt tokens evaluated per second, a moving average; `None` before the first prompt of some length.
    pub prefill_per_second: Option<f64>,
}

impl Plan {
    pub fn lazy(planning: impl FnOnce(&PlanInput) -> Result<Task> + Send + 'static) -> Self {
        Self::Lazy(Box::new(planning))
    }

    /// A panic is an error of this request, as it is while the task runs.
    pub(super) fn make(self, input: &PlanInput) -> Result<Task> {
        match self {
            Self::Ready(task) => Ok(*task),
            Self::Lazy(planning) => {
                catch_unwind(AssertUnwindSafe(|| planning(input))).unwrap_or_else(|_| Err(super::failed()))
            }
        }
    }

    /// The prompt; empty before it is made.
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
