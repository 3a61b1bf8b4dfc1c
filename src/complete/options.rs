//! Options of prompts and completions. Pure.

use super::fim::{Format, Order};
use crate::model::Tokenizer;

/// How to make prompts, and which completions to show.
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
    /// Whether the prompt names its file even without context.
    pub names_files: bool,
    /// Least mean natural log-probability of an automatic completion to show.
    pub logprob_min: Option<f32>,
}

/// How much of the document a prompt shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Window {
    /// As much as can be evaluated within the latency of a first completion.
    Small,
    /// As much as the options allow, evaluated in the background. Prompts use it from the next new anchor on.
    Large,
}

impl Options {
    /// The default of `logprob_min`: a probability of one in eight per token.
    pub const LOGPROB_MIN: f32 = -2.1;

    /// The default options for prompts in this order.
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

    /// The FIM format; `raw` until [`Options::for_model`] has chosen one.
    pub fn format(&self) -> Format {
        self.format.unwrap_or(Format::Raw)
    }

    /// Chooses the FIM format by the tokenizer, where it is not set.
    pub fn for_model(self, tokenizer: &Tokenizer) -> Self {
        let format = self.format.unwrap_or_else(|| Format::for_tokenizer(tokenizer));
        // In another order the answer would begin with more than a line, or in the middle of one.
        let order = if format == Format::SearchReplace { Order::PsmAnchored } else { self.order };
        Self { order, format: Some(format), ..self }
    }
}
