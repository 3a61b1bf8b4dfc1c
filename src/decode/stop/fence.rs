//! Markdown fences around what a chat model writes.

/// What is known about a Markdown fence around the text.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Fence {
    None,
    Possible,
    /// Its first line has so many bytes.
    Open(usize),
}

impl Fence {
    /// How much of `text` its first line is; `None` as long as that is unfinished.
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
