//! What follows the cursor, and where a text repeats it.

use crate::text::words::{has_substance, is_identifier};
use crate::text::{indentation, opener_of};

/// Most lines below the cursor to compare with.
const LINES_MAX: usize = 12;

/// How many lines of a text have to equal the first ones of the suffix to be a repetition.
pub(super) const LINES: usize = 2;
/// The same where a text of several lines begins with them: it may begin as what follows does, like the next entry of a list.
pub(super) const LINES_AT_START: usize = 4;

/// The text after the cursor.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Suffix {
    /// The rest of the cursor's line.
    pub rest: String,
    /// The lines below it that are not blank.
    pub lines: Vec<String>,
}

/// Lines of a text that equal the first ones of the suffix so far: one may be a coincidence, two are a repetition.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Repeated {
    /// Where the first of them begins in the text, in bytes.
    pub start: usize,
    /// The line of the suffix that has to come next.
    next: usize,
    /// How many of them are more than closing delimiters.
    substantial: usize,
}

/// How a line of a text continues a repetition.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Repeats {
    /// It does not.
    No,
    /// Possibly.
    Maybe(Repeated),
    /// The text repeats the suffix from this byte on.
    From(usize),
}

impl Repeated {
    /// Whether it has more than closing delimiters.
    pub(super) fn is_substantial(&self) -> bool {
        self.substantial > 0
    }
}

impl Suffix {
    pub(super) fn new(start: &str) -> Self {
        let mut lines = start.lines().map(str::trim_end);
        let rest = lines.next().unwrap_or_default().to_owned();
        let lines = lines.filter(|line| !line.is_empty()).take(LINES_MAX);
        Self { rest, lines: lines.map(String::from).collect() }
    }

    /// Whether a closing delimiter follows the cursor on its line.
    pub(super) fn has_closer(&self) -> bool {
        self.rest.trim_start().starts_with([')', ']', '}'])
    }

    /// Whether more than closing delimiters and punctuation follows the cursor on its line.
    pub(super) fn has_code(&self) -> bool {
        self.rest.contains(is_identifier)
    }

    /// The width of the first line below.
    pub(super) fn width(&self) -> Option<usize> {
        self.lines.first().map(|line| indentation::width(line))
    }

    /// The first word or sign that follows, on the cursor's line or below.
    pub(super) fn first(&self) -> &str {
        let rest = self.rest.trim_start();
        if rest.is_empty() { self.lines.first().map_or("", |line| line.trim_start()) } else { rest }
    }

    /// Judges a whole line of a text, which begins at the byte `start`. A text that begins like the suffix repeats it if at least
    /// `least` lines are equal.
    pub(super) fn judge(&self, line: &str, start: usize, so_far: Option<Repeated>, least: usize) -> Repeats {
        let line = line.trim_end();
        let is_next = |repeated: &Repeated| self.lines.get(repeated.next).is_some_and(|next| next == line);
        let is_first = self.lines.first().is_some_and(|first| first == line);
        let begun = is_first.then_some(Repeated { start, next: 0, substantial: 0 });
        match so_far.filter(is_next).or(begun) {
            Some(repeated) => self.with(repeated, line, if repeated.start == 0 { least } else { LINES }),
            None if self.lines.first().is_some_and(|first| is_same_entry(first, line)) => {
                Repeats::From(start)
            }
            None => Repeats::No,
        }
    }

    /// The repetition with one more line.
    fn with(&self, repeated: Repeated, line: &str, least: usize) -> Repeats {
        let Repeated { start, next, .. } = repeated;
        let substantial =
            repeated.substantial + usize::from(!begins_with_closer(line) || line.contains(is_identifier));
        let next = next + 1;
        let is_whole = next == self.lines.len();
        if (next >= least || is_whole) && substantial > 0 {
            return Repeats::From(start);
        }
        Repeats::Maybe(Repeated { next, substantial, ..repeated })
    }

    /// Where a text that ends with `line`, which begins at the byte `start`, repeats the suffix. With `is_torn`, the line may
    /// go on.
    pub(super) fn judge_end(
        &self,
        line: &str,
        start: usize,
        so_far: Option<Repeated>,
        is_torn: bool,
    ) -> Option<usize> {
        let is_at = |at: usize| {
            let expected = self.lines.get(at);
            expected.is_some_and(|other| other == line.trim_end() || is_torn && other.starts_with(line))
        };
        let is_blank = line.trim().is_empty();
        match so_far {
            Some(repeated) if is_blank => (repeated.substantial > 0).then_some(repeated.start),
            Some(repeated) if is_at(repeated.next) => Some(repeated.start),
            _ if is_blank => None,
            _ => (is_at(0) && !begins_with_closer(line)).then_some(start),
        }
    }

    /// Where the text whose last line so far is `line`, which begins at the byte `start`, repeats the suffix, if it continues
    /// like that.
    pub(super) fn goes_on(&self, line: &str, start: usize, so_far: Option<Repeated>) -> Option<usize> {
        let (start, next) = match so_far {
            Some(Repeated { start, next, .. }) => (start, next),
            None if line.contains(is_identifier) => (start, 0),
            None => return None,
        };
        self.lines.get(next).is_some_and(|next| next.starts_with(line)).then_some(start)
    }

    /// Where `text` begins to repeat the rest of the cursor's line, as far as it goes.
    pub(super) fn repeats_rest(&self, text: &str) -> Option<usize> {
        let rest = self.rest.trim();
        let is_repeated = |at: &usize| {
            let part = text[*at..].trim_start();
            part.contains(is_identifier) && rest.starts_with(part) && is_boundary(text, *at)
        };
        text.char_indices().map(|(at, _)| at).find(is_repeated).filter(|_| !rest.is_empty())
    }
}

/// Whether no identifier goes across the byte `at`.
pub(super) fn is_boundary(text: &str, at: usize) -> bool {
    !(text[..at].ends_with(is_identifier) && text[at..].starts_with(is_identifier))
}

fn begins_with_closer(line: &str) -> bool {
    line.trim_start().starts_with(|c| opener_of(c).is_some())
}

/// Whether lines differ only in the comma that separates one entry from the next.
fn is_same_entry(a: &str, b: &str) -> bool {
    let bare = |line: &str| line.trim_end_matches(',').len();
    has_substance(a) && a != b && a[..bare(a)] == b[..bare(b)]
}
