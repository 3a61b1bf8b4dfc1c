//! Markdown fences around the code of a chat model.

const FENCE: &str = "```";

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

    /// The part of `text` in front of the closing fence, or of what may become one, and whether there is one.
    pub(super) fn inside<'a>(&self, text: &'a str) -> (&'a str, bool) {
        if *self == Self::None {
            return (text, false);
        }
        if text.starts_with(FENCE) {
            return ("", true);
        }
        if let Some((inside, _)) = text.split_once("\n```") {
            return (inside, true);
        }
        let line_end = text.rfind('\n').filter(|&end| FENCE.starts_with(&text[end + 1..]));
        let begins = if FENCE.starts_with(text) { "" } else { text };
        (line_end.map_or(begins, |end| &text[..end]), false)
    }
}
