//! How text is split into the words that byte-level BPE never merges across. GGUF files name the rule and do not hold
//! it.

use anyhow::{Result, anyhow, ensure};
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
}

/// Words by a regular expression, then the byte alphabet, as the `tokenizers` crate has them.
pub(super) fn pre_tokenizer(pattern: &str) -> Result<PreTokenizerWrapper> {
    check(pattern)?;
    let pattern = SplitPattern::Regex(pattern.into());
    let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false);
    let split = split.map_err(|error| anyhow!("the pattern of words: {error}"))?;
    let bytes = ByteLevel::new(false, true, false);
    Ok(Sequence::new(vec![split.into(), bytes.into()]).into())
}

/// Longest pattern, in bytes: several times the longest known.
const PATTERN_BYTES_MAX: usize = 1 << 10;
/// Most groups with flags or that look ahead: the parts between these are compiled one by one, each of some megabytes.
const EXTENDED_GROUPS_MAX: usize = 8;

/// Fails for patterns that could take much memory: long ones, or those that name or refer back to groups.
fn check(pattern: &str) -> Result<()> {
    let bytes = pattern.len();
    ensure!(
        bytes <= PATTERN_BYTES_MAX,
        "the pattern of words has {bytes} bytes; at most {PATTERN_BYTES_MAX} are read"
    );
    let groups = pattern.matches("(?").count();
    ensure!(groups <= EXTENDED_GROUPS_MAX, "the pattern of words has {groups} groups that begin with \"(?\"");
    let is_reference = |pair: &[u8]| pair[0] == b'\\' && (pair[1].is_ascii_digit() || pair[1] == b'k');
    let has_references = pattern.as_bytes().windows(2).any(is_reference);
    let has_names = ["(?<", "(?P"].iter().any(|start| pattern.contains(start));
    ensure!(
        !has_references && !has_names,
        "the pattern of words names groups, looks behind or refers back, which no supported model's does"
    );
    Ok(())
}
