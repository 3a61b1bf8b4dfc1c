//! The parts of a document that stay the same from one prompt to the next. Pure.
//!
//! A prompt fixes the text before its anchor and the text after the cursor, so that typing between them only appends.
//! [`Anchor::follow`] checks whether a document still has these texts around its cursor.

use super::context::{Place, is_closers};
use super::fim::after_cursor;

/// Bytes to compare at the beginning or end of a text.
const SAMPLE: usize = 256;
/// Fewer bytes are not searched for in the rest of a document.
const SAMPLE_MIN: usize = 64;
/// Most lines typed after the anchor.
const LINES_MAX: usize = 24;
/// The same when a prompt with a later anchor is prewarmed.
const LINES_MAX_READY: usize = 8;
/// Most bytes typed after the anchor, unless it is the start of the cursor's line.
const BYTES_MAX: usize = 1500;

/// Why a prompt has a new anchor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The document has no prompt yet.
    First,
    /// The cursor has moved.
    Jump,
    /// The text before the anchor changed.
    EditBefore,
    /// The text was deleted or undone to before the anchor.
    Undone,
    /// The text after the cursor changed.
    Suffix,
    /// Too much was typed since the anchor.
    MiddleGrown,
    /// The text before the cursor exceeds its part of the prompt, or the prompt exceeds the context.
    WindowFull,
    /// A file of its context was closed, excluded or changed.
    Context,
    /// No request is pending: prewarming.
    Idle,
}

/// The fixed parts of a document, with its line ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Anchor {
    /// Where the prompt's text begins in the document, in bytes.
    pub start: usize,
    /// The text from there to the anchor.
    pub before: String,
    /// The text after the cursor, as far as the prompt shows it.
    pub suffix: String,
    /// Whether `suffix` reached to the end of the document.
    pub is_whole: bool,
    /// The text from the anchor to the cursor in the last prompt.
    pub typed: String,
    /// The start of the text after the cursor at that time, shown or not.
    pub rest: String,
}

impl Anchor {
    /// Where the prompt's text begins in `prefix`. Fails with a reason when the document no longer has this anchor.
    pub fn follow(&self, prefix: &str, suffix: &str) -> Result<usize, Reason> {
        let has_suffix = self.has_suffix(suffix);
        match self.locate(prefix) {
            Some(start) if has_suffix => Ok(start),
            Some(start) => {
                let typed = &prefix[start + self.before.len()..];
                Err(if self.is_moved(typed, suffix) { Reason::Jump } else { Reason::Suffix })
            }
            None => Err(match prefix.get(self.start..).filter(|shown| self.before.starts_with(shown)) {
                Some(_) if has_suffix => Reason::Undone,
                Some(_) => Reason::Jump,
                None if has_suffix => Reason::EditBefore,
                None => Reason::Jump,
            }),
        }
    }

    /// Where the prompt's text begins in a document with `prefix` before the cursor, if it is still there;
    /// text above it may have been inserted or deleted, but not above a text that began with the document: there a
    /// prompt shows what was inserted.
    pub fn locate(&self, prefix: &str) -> Option<usize> {
        self.find(prefix).filter(|&start| self.start > 0 || start == 0)
    }

    fn find(&self, prefix: &str) -> Option<usize> {
        let shown = prefix.get(self.start..);
        if self.before.is_empty() {
            let shares = |shown: &&str| {
                common(shown, &self.typed) * 2 >= shown.len().min(self.typed.len()).min(SAMPLE)
            };
            if shown.filter(shares).is_some() {
                return Some(self.start);
            }
            let sample = head(&self.typed);
            return prefix.rfind(sample).filter(|_| sample.len() >= SAMPLE_MIN);
        }
        if shown.is_some_and(|shown| shown.starts_with(&self.before)) {
            return Some(self.start);
        }
        prefix.rfind(&self.before).filter(|_| self.before.len() >= SAMPLE_MIN)
    }

    /// Where the text of a new prompt has to begin to share a prefix with the last one.
    pub fn reusable_start(&self, prefix: &str) -> Option<usize> {
        let shares = |&start: &usize| {
            let shown = prefix.get(start..).unwrap_or_default();
            let held = if self.before.is_empty() { &self.typed } else { &self.before };
            common(shown, held) > 0
        };
        self.locate(prefix).or(Some(self.start).filter(shares))
    }

    /// Whether `suffix` is the text after the cursor that the prompt shows. Closing delimiters on the cursor's line,
    /// or alone on the line below after a line end was typed before them, may have been added.
    pub fn has_suffix(&self, suffix: &str) -> bool {
        let shown = after_cursor(suffix, Place::new("", suffix).ends_line());
        let is_same = |shown: &str| {
            shown.starts_with(&self.suffix) && (!self.is_whole || shown.len() == self.suffix.len())
        };
        is_same(shown) || without_closing_line(shown).is_some_and(is_same)
    }

    /// Records the cursor.
    pub fn note(&mut self, start: usize, prefix: &str, suffix: &str) {
        self.typed = prefix[start + self.before.len()..].to_owned();
        self.rest = head(suffix).to_owned();
        self.start = start;
    }

    /// Whether a later anchor is due after `typed`; `is_ready` if its prompt is prewarmed.
    pub fn is_outgrown(typed: &str, is_ready: bool) -> bool {
        let lines = typed.bytes().filter(|&byte| byte == b'\n').count();
        lines > if is_ready { LINES_MAX_READY } else { LINES_MAX } || lines > 0 && typed.len() > BYTES_MAX
    }

    /// Whether only the cursor has moved.
    fn is_moved(&self, typed: &str, suffix: &str) -> bool {
        let (old, new) = (self.typed.bytes().chain(self.rest.bytes()), typed.bytes().chain(suffix.bytes()));
        typed.len() != self.typed.len() && old.zip(new).all(|(old, new)| old == new)
    }
}

/// `shown` without its first line below the cursor's, if that has nothing but closing delimiters and punctuation.
fn without_closing_line(shown: &str) -> Option<&str> {
    let below = shown.strip_prefix('\n').or_else(|| shown.strip_prefix("\r\n"))?;
    let line = &below[..below.find('\n').unwrap_or(below.len())];
    let closes = line.trim_start().starts_with([')', ']', '}', '>']) && is_closers(line);
    closes.then(|| after_cursor(below, true))
}

/// The first bytes of `text`, cut between characters.
fn head(text: &str) -> &str {
    let end = (0..=SAMPLE.min(text.len())).rev().find(|&end| text.is_char_boundary(end));
    &text[..end.expect("the start is a boundary")]
}

fn common(one: &str, other: &str) -> usize {
    one.bytes().zip(other.bytes()).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A document before and after an edit, the cursor at `$0`, the anchor at `$^` before it.
    #[track_caller]
    fn check(before: &str, after: &str, expected: Result<(), Reason>) {
        for crlf in [false, true] {
            let ends = |text: &str| if crlf { text.replace('\n', "\r\n") } else { text.to_owned() };
            let (before, after) = (ends(before), ends(after));
            let (head, tail) = before.split_once("$^").unwrap();
            let (typed, rest) = tail.split_once("$0").unwrap();
            let shown = after_cursor(rest, Place::new("", rest).ends_line());
            let anchor = Anchor {
                start: 0,
                before: head.into(),
                suffix: shown.into(),
                is_whole: true,
                typed: typed.into(),
                rest: rest.into(),
            };
            let (prefix, suffix) = after.split_once("$0").unwrap();
            assert_eq!(anchor.follow(prefix, suffix).map(drop), expected, "{before:?} -> {after:?}");
        }
    }

    #[test]
    fn what_is_kept_and_what_is_not() {
        let keep = Ok(());
        for (before, after, expected) in [
            // Typing, deleting and retyping after the anchor.
            ("a\n$^$0\nb", "a\nx$0\nb", keep),
            ("a\n$^xy$0\nb", "a\nx$0\nb", keep),
            ("a\n$^xy$0\nb", "a\nz$0\nb", keep),
            ("a\n$^xy$0\nb", "a\n$0\nb", keep),
            ("a\n$^x$0\nb", "a\nx\n  y\n$0\nb", keep),
            // Closing delimiters that the editor adds, that are typed over, and that a line end pushes down.
            ("a\n$^f$0\nb", "a\nf($0)\nb", keep),
            ("a\n$^f($0)\nb", "a\nf()$0\nb", keep),
            ("a\n$^f(\"$0\");\nb", "a\nf(\"x\")$0;\nb", keep),
            ("a\n$^if x $0\nb", "a\nif x {$0}\nb", keep),
            ("a\n$^if x {$0}\nb", "a\nif x {\n  $0\n}\nb", keep),
            ("a\n$^f(() => {$0});\nb", "a\nf(() => {\n  x;\n  $0\n});\nb", keep),
            ("a\n$^f($0)", "a\nf(\n  $0\n)", keep),
            // In the middle of a line the whole rest is the suffix.
            ("a\n$^x$0 + y\nb", "a\nxz$0 + y\nb", keep),
            ("a\n$^x$0 + y\nb", "a\nx + $0y\nb", Err(Reason::Jump)),
            // Elsewhere.
            ("a\n$^x$0\nb\nc", "a\nx\nb$0\nc", Err(Reason::Jump)),
            ("a\nb\n$^x$0\nc", "a$0\nb\nx\nc", Err(Reason::Jump)),
            ("a\nb\n$^x$0\nc", "a\n$0b\nx\nc", Err(Reason::Jump)),
            // Before the anchor.
            ("a\nb\n$^x$0\nc", "z\nb\nx$0\nc", Err(Reason::EditBefore)),
            ("a\nb\n$^x$0\nc", "a\nb$0\nc", Err(Reason::Undone)),
            ("a\nb\n$^x$0\nc", "$0\nc", Err(Reason::Undone)),
            // After the cursor.
            ("a\n$^x$0\nb\nc", "a\nx$0\nz\nc", Err(Reason::Suffix)),
            ("a\n$^x$0\n}\nc", "a\nx$0\nc", Err(Reason::Suffix)),
            ("a\n$^x$0\nb", "a\nx$0\nb\nc", Err(Reason::Suffix)),
            ("a\n$^x$0", "a\nx$0\nb", Err(Reason::Suffix)),
            ("a\n$^x$0\nb", "a\nx$0\nend\nb", Err(Reason::Suffix)),
            // Another document under the same name.
            ("a\n$^x$0\nb", "q\nr$0\ns", Err(Reason::Jump)),
        ] {
            check(before, after, expected);
        }
    }

    #[test]
    fn text_far_above_may_change() {
        let body = "let a_rather_long_line = some_function(with, arguments);\n".repeat(4);
        let anchor = |before: &str, typed: &str| Anchor {
            start: 10,
            before: before.into(),
            suffix: "\nb".into(),
            is_whole: false,
            typed: typed.into(),
            rest: "\nb".into(),
        };
        let document = format!("use one::two;\n\n{body}x = ");
        assert_eq!(anchor(&body, "x").follow(&document, "\nb\nmore"), Ok(15));
        assert_eq!(anchor("", &body).follow(&document, "\nb\nmore"), Ok(15));
        let whole = |before: &str, typed: &str| Anchor { start: 0, ..anchor(before, typed) };
        assert_eq!(whole(&body, "x").follow(&document, "\nb\nmore"), Err(Reason::EditBefore));
        assert_eq!(whole("", &body).follow(&document, "\nb\nmore"), Err(Reason::EditBefore));
        assert_eq!(whole(&body, "x").reusable_start(&document), None);
        assert_eq!(anchor("short\n", "x").follow(&document, "\nb"), Err(Reason::EditBefore));
    }

    #[test]
    fn a_long_middle_wants_a_later_anchor() {
        let lines = |count: usize| "x\n".repeat(count);
        for (typed, is_ready, expected) in [
            (lines(24), false, false),
            (lines(25), false, true),
            (lines(8), true, false),
            (lines(9), true, true),
            ("x".repeat(5000), false, false),
            ("\n".to_owned() + &"x".repeat(5000), false, true),
        ] {
            assert_eq!(Anchor::is_outgrown(&typed, is_ready), expected);
        }
    }
}
