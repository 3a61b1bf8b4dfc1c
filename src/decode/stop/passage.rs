//! Stop rules for text other than completions.

/// Text other than a completion, by its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Passage {
    /// Before this text.
    Until(&'static str),
    /// Before the first line, after its own first, that does not begin with this after whitespace.
    Lines(&'static str),
    /// Before the closing fence of a code block that a fence of this many backquotes has opened.
    Fenced(usize),
    /// At the stop token of the model.
    Answer,
}

impl Passage {
    /// The end in the generated `text`, in bytes.
    pub fn end(&self, text: &str) -> Option<usize> {
        let line_starts = || text.match_indices('\n').map(|(end, _)| (end, text[end + 1..].trim_start()));
        match self {
            Self::Until(mark) => text.find(mark),
            Self::Lines(mark) => line_starts()
                .find(|(_, line)| !line.starts_with(mark) && !mark.starts_with(line))
                .map(|(end, _)| end),
            Self::Fenced(length) => {
                const INDENT_MAX: usize = 3;
                let fence = "`".repeat(*length);
                let first = [(0, text)].into_iter();
                let rest = text.match_indices('\n').map(|(end, _)| (end, &text[end + 1..]));
                first.chain(rest).find_map(|(end, rest)| {
                    // A longer line may still become an opening fence.
                    let (line, _) = rest.split_once('\n').unwrap_or((rest, ""));
                    let blank = line.len() - line.trim_start().len();
                    let is_bare =
                        line.trim().strip_prefix(&fence).is_some_and(|rest| rest.chars().all(|c| c == '`'));
                    (blank <= INDENT_MAX && is_bare).then_some(end)
                })
            }
            Self::Answer => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Stop;
    use super::*;

    #[test]
    fn passages_end_where_their_kind_does() {
        for (passage, text, expected) in [
            (Passage::Until("\"\"\""), "One line.\"\"\"\n", Some("One line.")),
            (Passage::Until("*/"), "One *line", None),
            (Passage::Lines("///"), "One.\n    /// Two.\n    fn f", Some("One.\n    /// Two.")),
            (Passage::Lines("//"), "One.\n  /", None),
            (Passage::Lines("//"), "One.\n  \n", None),
            (Passage::Lines("//"), "One.\n\nx", Some("One.")),
            (Passage::Fenced(3), "a\n  b\n```\nDone", Some("a\n  b")),
            (Passage::Fenced(3), "a\n      ```\nb\n```x\n", None),
            (Passage::Fenced(4), "a\n```\nb\n````", Some("a\n```\nb")),
            (Passage::Fenced(3), "```", Some("")),
            (Passage::Answer, "a\n```\nb\n```\nc", None),
        ] {
            assert_eq!(passage.end(text).map(|end| &text[..end]), expected, "{passage:?} {text:?}");
        }
        let again = "it is a thing and ".repeat(20);
        assert!(Stop::passage(Passage::Answer).check(&again).is_some());
        assert_eq!(Stop::passage(Passage::Fenced(3)).check(&again), None);
    }
}
