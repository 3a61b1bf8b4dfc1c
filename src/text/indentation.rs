//! Indentation of lines and of documents.

/// The width of a line's indentation in columns, with tab stops every four.
pub fn width(line: &str) -> usize {
    let whitespace = line.chars().take_while(|c| matches!(c, ' ' | '\t'));
    whitespace.fold(0, |width, c| if c == '\t' { (width / 4 + 1) * 4 } else { width + 1 })
}

/// The leading whitespace of a line.
pub fn of_line(line: &str) -> &str {
    &line[..line.len() - line.trim_start().len()]
}

/// The indentation style of a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Indentation {
    /// One tab for each level.
    Tabs,
    /// Spaces for each level.
    Spaces(usize),
    /// Both, or nothing is indented yet.
    Unknown,
}

impl Indentation {
    /// Most lines to inspect on either side of the cursor.
    const LINES_MAX: usize = 200;

    /// The style of the lines around the cursor.
    pub fn new(prefix: &str, suffix: &str) -> Self {
        let before = prefix.rsplit('\n').take(Self::LINES_MAX);
        let after = suffix.split('\n').skip(1).take(Self::LINES_MAX);
        let (mut tabs, mut spaces, mut unit) = (false, false, usize::MAX);
        for line in before.chain(after) {
            let width = line.len() - line.trim_start_matches(' ').len();
            tabs |= line.starts_with('\t');
            // A single space begins the lines of a block comment.
            if width > 1 {
                spaces = true;
                unit = unit.min(width);
            }
        }
        match (tabs, spaces) {
            (true, false) => Self::Tabs,
            (false, true) => Self::Spaces(unit),
            _ => Self::Unknown,
        }
    }

    /// `text` indented in this style; its first line only where the cursor is at the start of a line.
    pub fn apply(self, text: &str, starts_line: bool) -> String {
        let lines = text.split('\n').skip(usize::from(!starts_line));
        let all_by = |unit| {
            lines.clone().all(|line| (line.len() - line.trim_start_matches(' ').len()).is_multiple_of(unit))
        };
        let unit = if all_by(4) || !all_by(2) { 4 } else { 2 };
        let indented = |(at, line): (usize, &str)| {
            let content = line.trim_start_matches([' ', '\t']);
            let own = &line[..line.len() - content.len()];
            let fitted = match self {
                _ if at == 0 && !starts_line => own.to_owned(),
                Self::Tabs if own.starts_with(' ') => {
                    "\t".repeat(own.len() / unit) + &" ".repeat(own.len() % unit)
                }
                Self::Spaces(unit) => own.replace('\t', &" ".repeat(unit)),
                _ => own.to_owned(),
            };
            fitted + content
        };
        text.split('\n').enumerate().map(indented).collect::<Vec<_>>().join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_documents_are_indented() {
        for (line, expected, whitespace) in
            [("", 0, ""), ("  x ", 2, "  "), ("\tx", 4, "\t"), ("  \tx", 4, "  \t"), (" \t ", 5, " \t ")]
        {
            assert_eq!((width(line), of_line(line)), (expected, whitespace), "{line:?}");
        }
        for (prefix, suffix, expected) in [
            ("a\n\tb", "\n\tc", Indentation::Tabs),
            ("a\n    b\n  c", "", Indentation::Spaces(2)),
            ("a", "\n    b\n", Indentation::Spaces(4)),
            ("/*\n * a", "", Indentation::Unknown),
            ("\ta\n  b", "", Indentation::Unknown),
        ] {
            assert_eq!(Indentation::new(prefix, suffix), expected, "{prefix:?}");
        }
        for (own, starts_line, text, expected) in [
            (Indentation::Tabs, true, "    a\n       b\n", "\ta\n\t   b\n"),
            (Indentation::Tabs, false, "  a\n  b\n    c", "  a\n\tb\n\t\tc"),
            (Indentation::Spaces(2), true, "\ta", "  a"),
            (Indentation::Unknown, true, "\ta\n  b", "\ta\n  b"),
        ] {
            assert_eq!(own.apply(text, starts_line), expected, "{text:?}");
        }
    }
}
