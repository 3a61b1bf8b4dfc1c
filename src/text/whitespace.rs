//! The whitespace that lines begin with.

/// The columns from one tab stop to the next.
pub(super) const TAB_STOP: usize = 4;

/// The width of a line's indentation in columns, with tab stops every four.
pub fn width(line: &str) -> usize {
    let whitespace = line.chars().take_while(|c| matches!(c, ' ' | '\t'));
    whitespace.fold(0, |width, c| if c == '\t' { (width / TAB_STOP + 1) * TAB_STOP } else { width + 1 })
}

/// The leading whitespace of a line.
pub fn of_line(line: &str) -> &str {
    &line[..line.len() - line.trim_start().len()]
}
