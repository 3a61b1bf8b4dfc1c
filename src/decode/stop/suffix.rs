//! What follows the cursor, and where a text repeats it.

use crate::text::words::has_substance;
use crate::text::{indentation, opener_of};

/// Most lines below the cursor to compare with.
const LINES_MAX: usize = 12;

/// The text after the cursor.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Suffix {
    /// The rest of the cursor's line.
    pub rest: String,
    /// The lines below it that are not blank.
    pub lines: Vec<String>,
}

/// Lines of a text that equal lines of the suffix so far: one may be a coincidence, two are a repetition.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Repeated {
    /// Where the first of them begins in the text, in bytes.
    pub start: usize,
    /// The line of the suffix that has to come next.
    next: usize,
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

    /// The width of the first line below.
    pub(super) fn width(&self) -> Option<usize> {
        self.lines.first().map(|line| indentation::width(line))
    }

    /// The first word or sign that follows, on the cursor's line or below.
    pub(super) fn first(&self) -> &str {
        let rest = self.rest.trim_start();
        if rest.is_empty() { self.lines.first().map_or("", |line| line.trim_start()) } else { rest }
    }

    /// Judges a whole line of a text, which begins at the byte `start`.
    pub(super) fn judge(&self, line: &str, start: usize, so_far: Option<Repeated>) -> Repeats {
        let line = line.trim_end();
        if let Some(Repeated { start, next }) = so_far
            && self.lines.get(next).is_none_or(|expected| expected == line)
        {
            return Repeats::From(start);
        }
        // Whose closing delimiters they are is a matter of what is open.
        if begins_with_closer(line) {
            return Repeats::No;
        }
        match self.lines.iter().position(|other| other == line) {
            Some(0) if self.lines.len() == 1 => Repeats::From(start),
            Some(at) if at == 0 || has_substance(line) => Repeats::Maybe(Repeated { start, next: at + 1 }),
            _ if self.lines.first().is_some_and(|first| is_same_entry(first, line)) => Repeats::From(start),
            _ => Repeats::No,
        }
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
            Some(Repeated { start, next }) if is_blank && next == 1 || !is_blank && is_at(next) => {
                Some(start)
            }
            _ if is_blank => None,
            _ => (is_at(0) && !begins_with_closer(line)).then_some(start),
        }
    }
}

fn begins_with_closer(line: &str) -> bool {
    line.trim_start().starts_with(|c| opener_of(c).is_some())
}

/// Whether lines differ only in the comma that separates one entry from the next.
fn is_same_entry(a: &str, b: &str) -> bool {
    let bare = |line: &str| line.trim_end_matches(',').len();
    has_substance(a) && a != b && a[..bare(a)] == b[..bare(b)]
}
