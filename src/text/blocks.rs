//! What opens and closes blocks.

use super::words::has;

/// Words that open blocks in Python before a colon.
pub(super) const PYTHON_HEADS: &str =
    "async case class def elif else except finally for if match try while with";

/// Words that go on with a block of words.
const MIDDLES: &str =
    "begin catch do else elseif elsif except exception finally is private rescue then until where";

/// What opens and closes blocks, besides delimiters at the end of a line. Lists of words are separated by spaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blocks {
    /// Braces; also arrows, and these words and signs at the end of a line.
    Braces { last: &'static str },
    /// A line that begins with one of these words and ends with a colon; indentation delimits the block.
    Colon { first: &'static str },
    /// Words.
    Words {
        /// Words that open a block where a statement begins with them, unless one of `close` follows.
        first: &'static str,
        /// Words and signs that open one at the end of a line.
        last: &'static str,
        /// Words that close one; where there are none, indentation delimits it.
        close: &'static str,
        ignores_case: bool,
    },
    /// Parentheses; `heads` are the forms whose bodies are written on lines of their own. A `*` stands for any end.
    Parentheses { heads: &'static str },
    /// Tags.
    Tags,
    /// Targets of a makefile, above their recipes.
    Recipes,
    /// `\begin` and `\end`.
    Environments,
    /// What most languages have.
    Any,
    /// No blocks.
    None,
}

impl Blocks {
    /// Whether they are between braces.
    pub fn are_braces(self) -> bool {
        matches!(self, Self::Braces { .. })
    }

    /// Whether a line that begins with `head` closes a block.
    pub fn closes(self, head: &str) -> bool {
        let is_word = match self {
            Self::Words { close, ignores_case: true, .. } => has(close, &head.to_lowercase()),
            Self::Words { close, .. } => has(close, head),
            _ => false,
        };
        is_word || matches!(head, "}" | "end")
    }

    /// Whether a line that begins with `head`, indented like the line that opens its block, continues that block.
    pub fn continues(self, head: &str) -> bool {
        matches!(self, Self::Words { .. }) && has(MIDDLES, &head.to_lowercase())
    }

    /// Whether those of several languages are never indented less deeply than what opens them, but may be level with it.
    pub fn may_be_flat(self) -> bool {
        matches!(self, Self::Tags | Self::Environments)
    }
}

/// Where a block is expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// On the lines below.
    Below,
    /// Right after the line, which may also go on.
    Here,
}
