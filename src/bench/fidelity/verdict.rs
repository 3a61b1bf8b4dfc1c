//! What a shown text is worth, compared with what the author wrote. Pure.

use serde::Serialize;

use crate::text::opener_of;

/// Lines of a completion that has as many as there may be.
const LINES_MANY: usize = 23;
/// How much of the suffix counts, in characters.
const TAIL_CHARS: usize = 300;

/// What a shown text is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Verdict {
    /// It is what the author wrote, or nothing where nothing is missing.
    Exact,
    /// It is the beginning of that.
    Prefix(Ending),
    /// Nothing is shown.
    Nothing,
    /// The document is not what the author wrote.
    Wrong(Fault),
}

/// Why a correct beginning ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Ending {
    /// Only whitespace is missing.
    Whitespace,
    /// One line is all that is shown here.
    Line,
    /// The budget ended the text.
    Budget,
    /// It has as many lines as there may be.
    Long,
    /// At the end of a line, too early.
    Early,
    /// Within a line, too early.
    EarlyInLine,
}

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Fault {
    /// A closing delimiter stands on a line of its own, and should not.
    CloserOnLine,
    /// It follows the text, and should stand on a line of its own.
    CloserGlued,
    /// A torn line has a line end behind it.
    Torn,
    /// Delimiters and punctuation that are too much.
    Closers,
    /// It repeats the text behind the cursor.
    Repeats,
    /// More than is missing.
    Extra,
    /// Another indentation.
    Indentation,
    /// Other whitespace.
    Whitespace,
    /// Anything else.
    Other,
}

/// The truth at a place, and what is known about the answer.
pub(super) struct Truth<'a> {
    pub middle: &'a str,
    pub suffix: &'a str,
    /// What the model said, as much as the budget allowed.
    pub said: &'a str,
    /// Whether a budget ended it.
    pub is_cut: bool,
    /// Whether one line is all that should be shown.
    pub is_single: bool,
}

impl Verdict {
    pub(super) fn is_exact(self) -> bool {
        self == Self::Exact
    }

    pub(super) fn is_wrong(self) -> bool {
        matches!(self, Self::Wrong(_))
    }

    /// Whether it ends where neither a budget nor the number of lines had to end it.
    pub(super) fn is_early(self) -> bool {
        matches!(self, Self::Prefix(Ending::Early | Ending::EarlyInLine))
    }

    /// A larger one is better.
    pub(super) fn rank(self) -> u8 {
        match self {
            Self::Exact => 3,
            Self::Prefix(_) => 2,
            Self::Nothing => 1,
            Self::Wrong(_) => 0,
        }
    }
}

/// Judges what is shown.
pub(super) fn judge(truth: &Truth, shown: &str) -> Verdict {
    let (middle, text) = (squeezed(truth.middle), squeezed(shown));
    let tail: String = truth.suffix.chars().take(TAIL_CHARS).collect();
    let tail = squeezed(&tail);
    let is_nothing = middle.trim().is_empty();
    if shown.trim().is_empty() {
        return if is_nothing { Verdict::Exact } else { Verdict::Nothing };
    }
    if squeezed(&format!("{text}{tail}")) == squeezed(&format!("{middle}{tail}")) {
        return Verdict::Exact;
    }
    if !is_nothing && let Some(rest) = middle.strip_prefix(text.trim_end()) {
        return judge_beginning(truth, &middle, &text, rest, &tail);
    }
    if text.starts_with(&middle) {
        return Verdict::Wrong(excess(&text[middle.len()..], &squeezed(truth.suffix)));
    }
    Verdict::Wrong(difference(&middle, &text))
}

/// Judges a text that is right up to its last character that is not whitespace.
fn judge_beginning(truth: &Truth, middle: &str, text: &str, rest: &str, tail: &str) -> Verdict {
    let begun = text.trim_end();
    let ends_line = rest.trim_start_matches([' ', '\t']).starts_with('\n');
    let added_line = text[begun.len()..].contains('\n');
    if rest.trim().is_empty() {
        return match (added_line, rest.contains('\n')) {
            (true, _) => Verdict::Wrong(Fault::CloserOnLine),
            (_, true) => Verdict::Wrong(Fault::CloserGlued),
            _ => Verdict::Prefix(Ending::Whitespace),
        };
    }
    let before_closer = tail.chars().next().is_some_and(|c| opener_of(c).is_some());
    if ends_line && begun.starts_with('\n') && before_closer && !added_line {
        return Verdict::Wrong(Fault::CloserGlued);
    }
    if !ends_line && added_line {
        return Verdict::Wrong(Fault::Torn);
    }
    let said = squeezed(truth.said);
    let is_cut = truth.is_cut && !said.starts_with(middle);
    let last_line = said.trim_end().rfind('\n').unwrap_or(0);
    Verdict::Prefix(if ends_line && truth.is_single && !begun.trim_matches('\n').contains('\n') {
        Ending::Line
    } else if is_cut && begun.len() >= last_line {
        Ending::Budget
    } else if begun.matches('\n').count() >= LINES_MANY {
        Ending::Long
    } else if ends_line {
        Ending::Early
    } else {
        Ending::EarlyInLine
    })
}

fn excess(extra: &str, suffix: &str) -> Fault {
    let is_closer = |c: char| c.is_whitespace() || opener_of(c).is_some() || ">\"'`;,:*/".contains(c);
    if extra.chars().all(is_closer) {
        return Fault::Closers;
    }
    let below: String = suffix.trim_start().chars().take(3000).collect();
    let is_known = |line: &str| below.lines().any(|known| known.trim() == line.trim());
    let repeats = below.starts_with(extra.trim()) || extra.trim().lines().all(is_known);
    if repeats { Fault::Repeats } else { Fault::Extra }
}

fn difference(middle: &str, text: &str) -> Fault {
    let bare = |text: &str| text.lines().map(str::trim).collect::<Vec<_>>().join("\n").trim().to_owned();
    let solid = |text: &str| text.split_whitespace().collect::<String>();
    if bare(middle).starts_with(&bare(text)) {
        Fault::Indentation
    } else if solid(middle).starts_with(&solid(text)) {
        Fault::Whitespace
    } else if solid(text).starts_with(&solid(middle)) {
        Fault::Repeats
    } else {
        Fault::Other
    }
}

/// With line feeds, and without whitespace before them.
fn squeezed(text: &str) -> String {
    let text = text.replace("\r\n", "\n");
    let mut lines: Vec<&str> = text.split('\n').collect();
    if let Some((_, before)) = lines.split_last_mut() {
        before.iter_mut().for_each(|line| *line = line.trim_end_matches([' ', '\t']));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_compared_with_the_truth() {
        use Verdict::*;
        for (middle, suffix, shown, expected) in [
            ("a + b", "\n", "a + b", Exact),
            ("a\n    b", "\n}", "a\r\n    b  ", Exact),
            ("", "\nx", "", Exact),
            ("a", "\n", " ", Nothing),
            ("a\nb", "\n", "a", Prefix(Ending::Line)),
            ("a b", "\n", "a", Prefix(Ending::EarlyInLine)),
            ("a ", ")", "a", Prefix(Ending::Whitespace)),
            ("\na\n", "}", "\na", Wrong(Fault::CloserGlued)),
            ("\na", ")", "\na\n", Wrong(Fault::CloserOnLine)),
            ("\nab\n", "}", "\na\n", Wrong(Fault::Torn)),
            ("a", ")", "a)", Wrong(Fault::Closers)),
            ("a", "\nbb\n", "a\nbb", Wrong(Fault::Repeats)),
            ("a", "\nbb\n", "a, other", Wrong(Fault::Extra)),
            ("\n    a\n    b", "\n", "\n  a\n  b", Wrong(Fault::Indentation)),
            ("a b c", "", "ab", Wrong(Fault::Whitespace)),
            ("a b", "", "c", Wrong(Fault::Other)),
        ] {
            let truth = Truth { middle, suffix, said: middle, is_cut: false, is_single: true };
            assert_eq!(judge(&truth, shown), expected, "{middle:?} {shown:?}");
        }
        let truth = Truth { middle: "a\nbcd", suffix: "\n", said: "a\nb", is_cut: true, is_single: false };
        assert_eq!(judge(&truth, "a\nb"), Prefix(Ending::Budget));
        assert_eq!(judge(&truth, "a"), Prefix(Ending::Budget));
        assert_eq!(judge(&Truth { is_cut: false, ..truth }, "a"), Prefix(Ending::Early));
    }
}
