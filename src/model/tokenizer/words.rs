//! How text is split into the words that byte-level BPE never merges across. GGUF files name the rule and do not hold
//! it.

use anyhow::{Result, anyhow};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{PreTokenizerWrapper, SplitDelimiterBehavior};

/// A rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Words {
    /// Of Qwen2, Qwen2.5 and Qwen3.
    Qwen2,
    /// Of Qwen3.5 and Qwen3.6: marks belong to words.
    Qwen35,
}

impl Words {
    const ALL: [Self; 2] = [Self::Qwen2, Self::Qwen35];

    /// What `tokenizer.ggml.pre` says.
    pub fn name(self) -> &'static str {
        match self {
            Self::Qwen2 => "qwen2",
            Self::Qwen35 => "qwen35",
        }
    }

    /// The regular expression of a word, as `tokenizer.json` gives it.
    pub fn pattern(self) -> &'static str {
        match self {
            Self::Qwen2 => {
                r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
            }
            Self::Qwen35 => {
                r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
            }
        }
    }

    /// The rule that GGUF calls `name`.
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|words| words.name() == name)
    }

    /// The rule with this regular expression.
    pub fn of_pattern(pattern: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|words| words.pattern() == pattern)
    }

    /// The rule and the byte alphabet, as the `tokenizers` crate has them.
    pub(super) fn pre_tokenizer(self) -> Result<PreTokenizerWrapper> {
        let pattern = SplitPattern::Regex(self.pattern().into());
        let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false);
        let split = split.map_err(|error| anyhow!("the pattern of words: {error}"))?;
        let bytes = ByteLevel::new(false, true, false);
        Ok(Sequence::new(vec![split.into(), bytes.into()]).into())
    }
}
