//! Converts between LSP positions and character indices.

use ropey::{Rope, RopeSlice};
use tower_lsp::gen_lsp_types::{InitializeParams, Position, PositionEncodingKind, Range};

/// The unit of the `character` of a position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    /// Bytes.
    Utf8,
    /// UTF-16 code units, the default of the protocol.
    Utf16,
    /// Characters.
    Utf32,
}

impl Encoding {
    /// UTF-8 where the client supports it, else UTF-16, and UTF-32 where the client supports only that.
    pub(super) fn negotiate(client: &InitializeParams) -> Self {
        let supported =
            client.capabilities.general.as_ref().and_then(|general| general.position_encodings.as_deref());
        let supports = |kind| supported.is_some_and(|supported| supported.contains(&kind));
        if supports(PositionEncodingKind::UTF8) {
            Self::Utf8
        } else if supports(PositionEncodingKind::UTF32) && !supports(PositionEncodingKind::UTF16) {
            Self::Utf32
        } else {
            Self::Utf16
        }
    }

    pub(super) fn kind(self) -> PositionEncodingKind {
        match self {
            Self::Utf8 => PositionEncodingKind::UTF8,
            Self::Utf16 => PositionEncodingKind::UTF16,
            Self::Utf32 => PositionEncodingKind::UTF32,
        }
    }

    /// The index of the character at `position`. A line past the end is clamped to the end of the text, a position past
    /// the end of its line to that end, before the line break, and one inside a character to its start.
    pub(super) fn to_char(self, text: &Rope, position: Position) -> usize {
        let line = position.line as usize;
        if line >= text.len_lines() {
            return text.len_chars();
        }
        let content = without_line_break(text.line(line));
        let column = position.character as usize;
        text.line_to_char(line)
            + match self {
                Self::Utf8 => content.byte_to_char(column.min(content.len_bytes())),
                Self::Utf16 => content.utf16_cu_to_char(column.min(content.len_utf16_cu())),
                Self::Utf32 => column.min(content.len_chars()),
            }
    }

    /// The characters of `range`, whose ends may be swapped.
    pub(super) fn to_chars(self, text: &Rope, range: Range) -> std::ops::Range<usize> {
        let (start, end) = (self.to_char(text, range.start), self.to_char(text, range.end));
        start.min(end)..start.max(end)
    }

    /// The position of the character with this index, which is at most the length of the text.
    pub(super) fn to_position(self, text: &Rope, char: usize) -> Position {
        let line = text.char_to_line(char);
        let before = text.slice(text.line_to_char(line)..char);
        let character = match self {
            Self::Utf8 => before.len_bytes(),
            Self::Utf16 => before.len_utf16_cu(),
            Self::Utf32 => before.len_chars(),
        };
        Position { line: line as u32, character: character as u32 }
    }

    pub(super) fn to_range(self, text: &Rope, chars: std::ops::Range<usize>) -> Range {
        Range { start: self.to_position(text, chars.start), end: self.to_position(text, chars.end) }
    }
}

fn without_line_break(line: RopeSlice<'_>) -> RopeSlice<'_> {
    let ends_with = |line: &RopeSlice<'_>, c| line.chars_at(line.len_chars()).prev() == Some(c);
    let line = if ends_with(&line, '\n') { line.slice(..line.len_chars() - 1) } else { line };
    if ends_with(&line, '\r') { line.slice(..line.len_chars() - 1) } else { line }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_character_has_its_position() {
        let text = Rope::from_str("a🦀\tb\r\n\u{2028}é\u{b}\r🦀\n\n世");
        for encoding in [Encoding::Utf8, Encoding::Utf16, Encoding::Utf32] {
            for char in 0..=text.len_chars() {
                let inside_break =
                    char > 0 && text.get_char(char) == Some('\n') && text.char(char - 1) == '\r';
                if !inside_break {
                    let position = encoding.to_position(&text, char);
                    assert_eq!(encoding.to_char(&text, position), char, "{encoding:?} {position:?}");
                }
            }
        }
    }

    #[test]
    fn positions_outside_the_text_are_clamped() {
        let text = Rope::from_str("a🦀\r\nb\rc");
        let at = |line, character| Position { line, character };
        for (encoding, position, char) in [
            (Encoding::Utf8, at(0, 1), 1),
            (Encoding::Utf8, at(0, 3), 1),
            (Encoding::Utf8, at(0, 5), 2),
            (Encoding::Utf16, at(0, 2), 1),
            (Encoding::Utf16, at(0, 3), 2),
            (Encoding::Utf32, at(0, 2), 2),
            (Encoding::Utf32, at(0, u32::MAX), 2),
            (Encoding::Utf16, at(0, 4), 2),
            (Encoding::Utf16, at(1, 9), 5),
            (Encoding::Utf16, at(2, 9), 7),
            (Encoding::Utf16, at(3, 0), 7),
            (Encoding::Utf8, at(u32::MAX, u32::MAX), 7),
        ] {
            assert_eq!(encoding.to_char(&text, position), char, "{encoding:?} {position:?}");
        }
        assert_eq!(Encoding::Utf8.to_char(&Rope::new(), at(0, 7)), 0);
        assert_eq!(Encoding::Utf16.to_chars(&text, Range { start: at(1, 0), end: at(0, 1) }), 1..4);
    }
}
