//! How prompts are made, and which completions are shown. Pure.

use super::fim::{Format, Order};
use crate::model::Tokenizer;

/// How prompts are made for a model, and which of its completions are shown.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Options {
    /// The order of their parts.
    pub order: Order,
    /// The FIM format; by default the one for the model's tokenizer.
    pub format: Option<Format>,
    /// Most tokens of text before the cursor.
    pub prefix_tokens_max: usize,
    /// Most tokens of text after the cursor.
    pub suffix_tokens_max: usize,
    /// Most tokens of other files.
    pub context_tokens_max: usize,
    /// Whether the prompt says which file it is about even if it shows no other.
    pub names_files: bool,
    /// The least mean natural log-probability of an automatic completion that is shown.
    pub logprob_min: Option<f32>,
}

/// How much of the document a prompt shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Window {
    /// As much as is evaluated in the time that a first completion may take.
    Small,
    /// As much as the options allow, to be evaluated in the background. Later prompts go on from it as soon
    /// as they have to be anchored anew.
    Large,
}

impl Options {
    /// The usual least mean natural log-probability: less than one in eight for each token is a guess.
    pub const LOGPROB_MIN: f32 = -2.1;

    /// The usual options for prompts in this order.
    pub fn new(order: Order) -> Self {
        Self {
            order,
            format: None,
            prefix_tokens_max: 4096,
            suffix_tokens_max: 1024,
            context_tokens_max: 4096,
            names_files: false,
            logprob_min: Some(Self::LOGPROB_MIN),
        }
    }

    /// The FIM format, once that is chosen.
    pub fn format(&self) -> Format {
        self.format.unwrap_or(Format::Raw)
    }

    /// The same with what is left to the model chosen for one with this tokenizer.
    pub fn for_model(self, tokenizer: &Tokenizer) -> Self {
        let format = self.format.unwrap_or_else(|| Format::suiting(tokenizer));
        // In another order the answer would begin with more than a line, or in the middle of one.
        let order = if format == Format::SearchReplace { Order::PsmAnchored } else { self.order };
        Self { order, format: Some(format), ..self }
    }
}
