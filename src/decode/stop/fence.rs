//! Markdown fences around the code of a chat model.

/// Whether the text begins with a Markdown fence.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Fence {
    None,
    Possible,
    /// Bytes of its first line.
    Open(usize),
}

impl Fence {
    /// Bytes of `text` to skip; `None` until that is known.
    pub(super) fn skip(&mut self, text: &str) -> Option<usize> {
        const FENCE: &str = "```";
        if *self == Self::Possible && !FENCE.starts_with(text) {
            *self = match text.find('\n') {
                _ if !text.starts_with(FENCE) => Self::None,
                Some(end) => Self::Open(end + 1),
                None => Self::Possible,
            };
        }
        match *self {
            Self::None => Some(0),
            Self::Possible => None,
            Self::Open(length) => Some(length),
        }
    }
}
