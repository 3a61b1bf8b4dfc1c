//! Text from models and files, for terminals and messages: what would control them, or hide what is there, is escaped.

use std::borrow::Cow;
use std::fmt::Write;

/// The text in one line: line breaks and tabs are escaped too.
pub fn line(text: &str) -> Cow<'_, str> {
    escaped(text, is_unsafe)
}

/// The text with its line breaks and tabs.
pub fn text(text: &str) -> Cow<'_, str> {
    escaped(text, |c| is_unsafe(c) && !matches!(c, '\n' | '\t'))
}

/// The text of a program with its colours: of what controls a terminal, only those pass.
pub fn styled(text: &str) -> Cow<'_, str> {
    if !text.contains(|c| is_unsafe(c) && !matches!(c, '\n' | '\t')) {
        return text.into();
    }
    let (mut out, mut rest) = (String::with_capacity(text.len() + 16), text);
    while let Some(at) = rest.find('\u{1b}') {
        out += &self::text(&rest[..at]);
        let length = style_length(&rest[at..]);
        out += &if length == 0 { self::text(&rest[at..=at]) } else { rest[at..at + length].into() };
        rest = &rest[at + length.max(1)..];
    }
    out += &self::text(rest);
    out.into()
}

/// The length of the sequence for colours that `text` starts with; 0 for any other.
fn style_length(text: &str) -> usize {
    let Some(parameters) = text.strip_prefix("\u{1b}[") else { return 0 };
    let end = parameters.find(|c: char| !c.is_ascii_digit() && c != ';');
    end.filter(|&end| parameters[end..].starts_with('m')).map_or(0, |end| end + 3)
}

/// Whether a character controls a terminal, changes the direction of the text, or shows nothing.
pub fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}'
        )
}

fn escaped(text: &str, is_escaped: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.contains(&is_escaped) {
        return text.into();
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            '\n' if is_escaped(c) => out.push_str("\\n"),
            '\r' if is_escaped(c) => out.push_str("\\r"),
            '\t' if is_escaped(c) => out.push_str("\\t"),
            c if is_escaped(c) => {
                write!(out, "\\u{{{:x}}}", u32::from(c)).expect("a string takes everything")
            }
            c => out.push(c),
        }
    }
    out.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_controls_a_terminal_or_hides_text_is_escaped() {
        assert_eq!(line("a\n\t世é🦀"), "a\\n\\t世é🦀");
        assert_eq!(text("a\n\tb\r"), "a\n\tb\\r");
        assert_eq!(
            line("\u{1b}]0;x\u{7}\u{9b}31m\u{202e}\u{2066}\u{200b}\u{7f}"),
            "\\u{1b}]0;x\\u{7}\\u{9b}31m\\u{202e}\\u{2066}\\u{200b}\\u{7f}"
        );
        assert_eq!(
            styled("\u{1b}[1;31mred\u{1b}[0m\u{1b}[2J\u{202e}\n"),
            "\u{1b}[1;31mred\u{1b}[0m\\u{1b}[2J\\u{202e}\n"
        );
        assert!(matches!(text("plain\n"), Cow::Borrowed(_)));
    }
}
