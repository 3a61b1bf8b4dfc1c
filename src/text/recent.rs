//! The characters read last.

/// The latest characters, one byte each, the newest in the lowest byte. A run of whitespace is one character.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Recent(u128);

impl Default for Recent {
    /// After a line end.
    fn default() -> Self {
        Self(u128::from_ne_bytes([b'\n'; Self::BYTES]))
    }
}

impl Recent {
    pub(super) const BYTES: usize = 16;
    pub(super) const CLEAR: Self = Self(0);
    const LETTER: u8 = 0xff;
    const OTHER: u8 = 0xfe;

    pub(super) fn push(&mut self, c: char) {
        let byte = match c {
            '\n' => b'\n',
            c if c.is_ascii() => {
                if c.is_ascii_whitespace() {
                    b' '
                } else {
                    c as u8
                }
            }
            c if c.is_whitespace() => b' ',
            c if c.is_alphanumeric() => Self::LETTER,
            _ => Self::OTHER,
        };
        match (self.last(), byte) {
            (b' ' | b'\n', b' ') | (b'\n', b'\n') => {}
            (b' ', b'\n') => self.0 = self.before(1).0 << 8 | u128::from(byte),
            _ => self.0 = self.0 << 8 | u128::from(byte),
        }
    }

    pub(super) fn last(self) -> u8 {
        self.0 as u8
    }

    /// Without the last `count`.
    pub(super) fn before(self, count: usize) -> Self {
        Self(self.0.checked_shr(8 * count as u32).unwrap_or(0))
    }

    pub(super) fn ends_with(self, text: &str) -> bool {
        let mut rest = self;
        text.bytes().rev().all(|byte| {
            let is_it = rest.last() == byte;
            rest = rest.before(1);
            is_it
        })
    }

    /// The length of the run of `byte` at the end.
    pub(super) fn repetitions(self, byte: u8) -> usize {
        (0..Self::BYTES).take_while(|&at| self.before(at).last() == byte).count()
    }

    pub(super) fn is_word(byte: u8) -> bool {
        byte.is_ascii_alphanumeric() || matches!(byte, b'_' | Self::LETTER)
    }

    /// Whether an operand comes next: after an operator, an opening delimiter or a keyword.
    pub(super) fn expects_operand(self) -> bool {
        const KEYWORDS: [&str; 20] = [
            "return", "typeof", "case", "in", "of", "do", "else", "void", "delete", "throw", "yield",
            "await", "if", "unless", "when", "and", "or", "not", "split", "grep",
        ];
        let code = if matches!(self.last(), b' ' | b'\n') { self.before(1) } else { self };
        match code.last() {
            b'+' | b'-' => code.before(1).last() != code.last(),
            b'>' => code.before(1).last() == b'=',
            b'(' | b',' | b'=' | b':' | b'[' | b'!' | b'&' | b'|' | b'?' | b'{' | b';' | b'*' | b'%'
            | b'^' | b'~' => true,
            last if last.is_ascii_lowercase() => KEYWORDS
                .iter()
                .any(|word| code.ends_with(word) && !Self::is_word(code.before(word.len()).last())),
            _ => false,
        }
    }
}
