//! Turns the answer of a chat model into the lines of code that replace others. Pure.

use std::ops::Range;

use crate::decode::stop::Passage;
use crate::text::{Indentation, Language, indentation};

/// A Markdown fence longer than any in `code`: backquotes, three or more.
pub fn fence_for(code: &str) -> String {
    let longest = code.split(|c| c != '`').map(str::len).max().unwrap_or(0);
    "`".repeat(longest.max(2) + 1)
}

/// The code in an answer that was begun with `fence`, whether or not the model repeats the fence.
pub fn code<'a>(answer: &'a str, fence: &str) -> &'a str {
    let inner = answer.trim_start_matches('\n');
    let opened_again = inner.strip_prefix(fence).and_then(|rest| rest.split_once('\n'));
    let answer = opened_again.filter(|(name, _)| !name.trim().is_empty()).map_or(answer, |(_, code)| code);
    &answer[..Passage::Fenced(fence.len()).end(answer).unwrap_or(answer.len())]
}

/// `code` with the indentation of `lines` of `text` and the line ends of the document, without the last one. `None`
/// if it is only whitespace.
pub fn fit(language: &'static Language, text: &str, lines: Range<usize>, code: &str) -> Option<String> {
    let code = code.replace("\r\n", "\n");
    let code = code.trim_end().trim_start_matches('\n');
    if code.trim().is_empty() {
        return None;
    }
    let old = &text[lines.clone()];
    let code = Indentation::replacing(language, text, lines.clone()).apply(code, true);
    let margin = |text: &str| {
        text.lines().filter(|line| !line.trim().is_empty()).map(indentation::width).min().unwrap_or(0)
    };
    let (wanted, found) = (margin(old), margin(&code));
    let least =
        old.lines().filter(|line| !line.trim().is_empty()).min_by_key(|line| indentation::width(line));
    let least = least.map_or("", indentation::of_line);
    let shifted = |line: &str| {
        if line.trim().is_empty() || wanted == found {
            return line.trim_end().to_owned();
        }
        let mut left = found;
        let rest = line.trim_start_matches(|c| {
            let width = if c == '\t' { 4 } else { usize::from(c == ' ') };
            let is_margin = width > 0 && width <= left;
            left -= if is_margin { width } else { 0 };
            is_margin
        });
        format!("{least}{rest}").trim_end().to_owned()
    };
    let code = code.lines().map(shifted).collect::<Vec<_>>();
    let before = &text[..lines.end];
    let uses_crlf = old.contains("\r\n") || text[lines.end..].starts_with("\r\n") || before.contains("\r\n");
    Some(code.join(if uses_crlf { "\r\n" } else { "\n" }))
}

/// The part of a replacement of `lines` of `text` by `new` that changes anything, in whole lines; `None` if
/// nothing does.
pub fn minimal_edit(text: &str, lines: Range<usize>, new: &str) -> Option<(Range<usize>, String)> {
    let old = &text[lines.clone()];
    if old == new {
        return None;
    }
    let (old_lines, new_lines): (Vec<&str>, Vec<&str>) =
        (old.split_inclusive('\n').collect(), new.split_inclusive('\n').collect());
    let shorter = old_lines.len().min(new_lines.len());
    let head = old_lines.iter().zip(&new_lines).take_while(|(a, b)| a == b).count();
    let same_ends = old_lines.iter().rev().zip(new_lines.iter().rev()).take_while(|(a, b)| a == b).count();
    let tail = same_ends.min(shorter - head);
    let bytes = |lines: &[&str]| lines.iter().map(|line| line.len()).sum::<usize>();
    let (before, after) = (bytes(&old_lines[..head]), bytes(&old_lines[old_lines.len() - tail..]));
    let changed = new_lines[head..new_lines.len() - tail].concat();
    Some((lines.start + before..lines.end - after, changed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fences_enclose_their_code() {
        for (code, fence) in [("a", "```"), ("`a`", "```"), ("```\na\n```", "````")] {
            assert_eq!(fence_for(code), fence);
        }
        for (answer, expected) in [
            ("a\n  b\n```\nThis does it.", "a\n  b"),
            ("a", "a"),
            ("```rust\na\n```\n", "a"),
            ("```\na", ""),
            ("", ""),
        ] {
            assert_eq!(code(answer, "```"), expected, "{answer:?}");
        }
    }

    #[test]
    fn code_takes_the_indentation_of_the_lines_it_replaces() {
        for (before, old, answer, expected) in [
            (
                "class A:\n",
                "    def f():\n        pass",
                "def f():\n    return 1\n",
                "    def f():\n        return 1",
            ),
            ("", "x = 1", "    x = 2", "x = 2"),
            ("if x {\n", "\ty()\n", "y()\n    z()", "\ty()\n\t\tz()"),
            ("a:\n", "  b:\n    c", "  b:\n\n    d  \n\n", "  b:\n\n    d"),
            ("a\r\n", "b", "c\nd", "c\r\nd"),
        ] {
            let text = format!("{before}{old}\n");
            let fit =
                fit(Language::UNKNOWN, &text, before.len()..before.len() + old.trim_end().len(), answer);
            assert_eq!(fit.as_deref(), Some(expected), "{answer:?}");
        }
        for nothing in ["", "\n \n"] {
            assert_eq!(fit(Language::UNKNOWN, "x", 0..1, nothing), None);
        }
    }

    #[test]
    fn only_what_changes_is_replaced() {
        let text = "0\na\nb\nc\n9\n";
        for (new, expected) in [
            ("a\nb\nc", None),
            ("a\nx\nc", Some((4..6, "x\n"))),
            ("a\nc", Some((4..6, ""))),
            ("a\nb\nb\nc", Some((6..6, "b\n"))),
            ("x\nb\nc\nd", Some((2..7, "x\nb\nc\nd"))),
            ("a\nb\nc\nd", Some((6..7, "c\nd"))),
        ] {
            let expected = expected.map(|(range, new): (_, &str)| (range, new.to_owned()));
            assert_eq!(minimal_edit(text, 2..7, new), expected, "{new:?}");
        }
    }
}
