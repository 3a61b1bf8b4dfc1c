//! Places in a source file: a cursor, and the text behind it that is cut out. Pure.

use serde::Serialize;

use super::source::Source;
use crate::base::random::SplitMix64;
use crate::text::words::is_identifier;

/// Most lines and bytes that are cut out.
const LINES_MAX: usize = 20;
const BYTES_MAX: usize = 1600;
/// Attempts for each place that is wanted.
const ATTEMPTS: usize = 60;

/// A cursor between `prefix` and `suffix`, where the author wrote `middle`.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub kind: Kind,
    pub prefix: String,
    pub middle: String,
    pub suffix: String,
}

/// Where a place lies, and what is cut out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Kind {
    /// In a line, up to its end.
    LineEnd,
    /// In a line that opens a delimiter, up to the end of the line that closes it.
    Statement,
    /// The body of a block, from the first character of its first line.
    BlockInside,
    /// The same from the end of the line above.
    BlockBelow,
    /// Between braces or other delimiters, over several lines.
    Delimiters,
    /// Several lines.
    Lines,
    /// What follows a comment.
    Item,
    /// A definition at the top level.
    Top,
    /// In parentheses or brackets, up to the closing one.
    Arguments,
    /// In a string, up to its end.
    String,
    /// A few words in the middle of a line.
    MidLine,
    /// The body below a head of several lines.
    Wrapped,
    /// Nothing, at the end of a line.
    NothingAtEnd,
    /// Nothing, on a blank line.
    NothingOnBlankLine,
    /// Nothing, in the middle of a line.
    NothingMidLine,
    /// Nothing, before closing delimiters.
    NothingBeforeClosers,
}

impl Kind {
    const ALL: [(Self, usize); 16] = [
        (Self::LineEnd, 4),
        (Self::Statement, 1),
        (Self::BlockInside, 2),
        (Self::BlockBelow, 1),
        (Self::Delimiters, 1),
        (Self::Lines, 2),
        (Self::Item, 1),
        (Self::Top, 1),
        (Self::Arguments, 2),
        (Self::String, 1),
        (Self::MidLine, 1),
        (Self::Wrapped, 2),
        (Self::NothingAtEnd, 1),
        (Self::NothingOnBlankLine, 1),
        (Self::NothingMidLine, 1),
        (Self::NothingBeforeClosers, 1),
    ];

    /// Whether nothing is cut out.
    pub(super) fn is_nothing(self) -> bool {
        use Kind::*;
        matches!(self, NothingAtEnd | NothingOnBlankLine | NothingMidLine | NothingBeforeClosers)
    }

    /// Whether several lines are usually cut out.
    pub(super) fn has_several_lines(self) -> bool {
        use Kind::*;
        matches!(self, Statement | BlockInside | BlockBelow | Delimiters | Lines | Item | Top | Wrapped)
    }
}

/// Random choices, the same for the same seed.
pub(super) struct Chance(SplitMix64);

impl Chance {
    /// Of the words that `parts` are.
    pub(super) fn new(parts: &[&str]) -> Self {
        let bytes = parts.iter().flat_map(|part| part.bytes().chain([0]));
        let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
        });
        Self(SplitMix64(hash))
    }

    /// The number that all parts together are: for an order.
    pub(super) fn bits(&mut self) -> u64 {
        self.0.bits()
    }

    pub(super) fn below(&mut self, end: usize) -> usize {
        (self.bits() % end.max(1) as u64) as usize
    }

    /// From `least` to `most`, both included.
    pub(super) fn between(&mut self, least: usize, most: usize) -> usize {
        least + self.below(most + 1 - least)
    }

    pub(super) fn is_likely(&mut self, probability: f32) -> bool {
        self.0.uniform() < probability
    }

    pub(super) fn choose<T: Copy>(&mut self, all: &[T]) -> Option<T> {
        all.get(self.below(all.len())).copied()
    }
}

/// All places of a file.
pub(super) fn places(source: &Source, seed: &str) -> Vec<Place> {
    let mut places = Vec::new();
    for (kind, count) in Kind::ALL {
        let mut chance = Chance::new(&[seed, &format!("{kind:?}")]);
        let mut seen = Vec::new();
        for _ in 0..count * ATTEMPTS {
            if seen.len() == count {
                break;
            }
            if let Some(place) = place(source, kind, &mut chance)
                && !seen.contains(&(place.prefix.len(), place.middle.len()))
            {
                seen.push((place.prefix.len(), place.middle.len()));
                places.push(place);
            }
        }
    }
    places
}

fn place(source: &Source, kind: Kind, chance: &mut Chance) -> Option<Place> {
    match kind {
        Kind::LineEnd => line_end(source, kind, chance),
        Kind::Statement => statement(source, kind, chance),
        Kind::BlockInside | Kind::BlockBelow => block(source, kind, chance),
        Kind::Delimiters => delimiters(source, kind, chance),
        Kind::Lines => lines(source, kind, chance),
        Kind::Item => item(source, kind, chance),
        Kind::Top => top(source, kind, chance),
        Kind::Arguments => arguments(source, kind, chance),
        Kind::String => string(source, kind, chance),
        Kind::MidLine => mid_line(source, kind, chance),
        Kind::Wrapped => wrapped(source, kind, chance),
        Kind::NothingAtEnd | Kind::NothingOnBlankLine | Kind::NothingMidLine | Kind::NothingBeforeClosers => {
            nothing(source, kind, chance)
        }
    }
}

/// The place with the text from `start` to `end` cut out, if that is neither blank nor large.
fn cut(source: &Source, kind: Kind, start: usize, end: usize) -> Option<Place> {
    let text = source.text;
    let middle = text.get(start..end)?;
    let ends_in_blank = middle.ends_with([' ', '\t']);
    let fits = middle.matches('\n').count() <= LINES_MAX && middle.len() <= BYTES_MAX;
    (fits && !middle.trim().is_empty() && !ends_in_blank).then(|| Place {
        kind,
        prefix: text[..start].into(),
        middle: middle.into(),
        suffix: text[end..].into(),
    })
}

/// A line with text; one with a comment is taken with the probability `comments`.
fn some_line(source: &Source, chance: &mut Chance, comments: f32) -> Option<usize> {
    let n = chance.below(source.lines.len());
    let is_taken = chance.is_likely(comments);
    (!source.is_blank(n) && (is_taken || !source.is_comment(n))).then_some(n)
}

fn line_end(source: &Source, kind: Kind, chance: &mut Chance) -> Option<Place> {
    let n = some_line(source, chance, 0.25)?;
    let (start, end) = (source.first(n), source.end(n));
    let boundaries = source.boundaries(start, end);
    let at = match chance.is_likely(0.8) {
        true => chance.choose(&boundaries)?,
        false => start + chance.below(end - start),
    };
    (source.line(n).trim().len() >= 4 && at > start).then(|| cut(source, kind, at, end))?
}

fn statement(source: &Source, kind: Kind, chance: &mut Chance) -> Option<Place> {
    let n = some_line(source, chance, 0.0)?;
    let line = &source.lines[n];
    let open_here = source.pairs.iter().filter(|(open, close)| line.contains(open) && *close > line.end);
    let &(outermost, closer) = open_here.min()?;
    let mut cursors = source.boundaries(source.first(n), line.end);
    cursors.extend([line.end, outermost + 1]);
    cut(source, kind, chance.choose(&cursors)?, source.end(source.number(closer)))
}

/// The last line of the block below line `n`, which are the lines indented deeper than `indent`.
fn block_end(source: &Source, n: usize, indent: usize) -> Option<usize> {
    let is_text = |m: &usize| !source.is_blank(*m);
    let below = (n + 1..source.lines.len()).filter(is_text);
    below.take_while(|&m| source.indent(m) > indent).last()
}

fn block(source: &Source, kind: Kind, chance: &mut Chance) -> Option<Place> {
    let n = some_line(source, chance, 0.1)?;
    let last = block_end(source, n, source.indent(n)).filter(|_| !source.is_blank(n + 1))?;
    let start = if kind == Kind::BlockInside { source.first(n + 1) } else { source.end(n) };
    cut(source, kind, start, source.end(last))
}

fn delimiters(source: &Source, kind: Kind, chance: &mut Chance) -> Option<Place> {
    let (opener, closer) = chance.choose(&source.pairs)?;
    let (first, last) = (source.number(opener), source.number(closer));
    let opens_block = last > first && source.text[opener + 1..source.end(first)].trim().is_empty();
    let closes_block = source.text[source.lines[last].start..closer].trim().is_empty();
    let (prefix, middle) = (&source.text[..opener + 1], &source.text[opener + 1..closer]);
    let fits = middle.matches('\n').count() <= LINES_MAX + 1 && middle.len() <= BYTES_MAX;
    (opens_block && closes_block && fits && !middle.trim().is_empty()).then(|| Place {
        kind,
        prefix: prefix.into(),
        middle: middle.into(),
        suffix: source.text[closer..].into(),
    })
}

fn lines(source: &Source, kind: Kind, chance: &mut Chance) -> Option<Place> {
    let n = some_line(source, chance, 0.25)?;
    let m = n + chance.between(1, 5);
    (m < source.lines.len() && !source.is_blank(m))
        .then(|| cut(source, kind, source.first(n), source.end(m)))?
}

fn item(source: &Source, kind: Kind, chance: &mut Chance) -> Option<Place> {
    let n = some_line(source, chance, 1.0)?;
    let below = n + 1;
    let is_last = below < source.lines.len() && !source.is_blank(below) && !source.is_comment(below);
    if !source.is_comment(n) || !is_last {
        return None;
    }
    let is_in = |m: &usize| !source.is_blank(*m) && source.indent(*m) >= source.indent(below);
    let last = (below..source.lines.len()).take_while(is_in).last()?;
    cut(source, kind, source.first(below), source.end(last))
}

fn top(source: &Source, kind: Kind, chance: &mut Chance) -> Option<Place> {
    let n = some_line(source, chance, 0.25)?;
    if n == 0 || !source.is_blank(n - 1) || source.indent(n) > 0 {
        return None;
    }
    let is_next = |m: &usize| !source.is_blank(*m) && source.indent(*m) == 0 && source.is_blank(*m - 1);
    let end = (n + 1..source.lines.len()).find(is_next).unwrap_or(source.lines.len());
    let last = (n..end).rev().find(|&m| !source.is_blank(m))?;
    cut(source, kind, source.lines[n].start, source.end(last))
}

fn wrapped(source: &Source, kind: Kind, chance: &mut Chance) -> Option<Place> {
    let is_head = |&&(open, close): &&(usize, usize)| {
        let (first, last) = (source.number(open), source.number(close));
        let is_block = source.line(last).trim_end().ends_with(['{', ':']);
        source.text[open..].starts_with('(') && last > first && is_block
    };
    let heads: Vec<_> = source.pairs.iter().filter(is_head).copied().collect();
    let (open, close) = chance.choose(&heads)?;
    let (head, n) = (source.number(open), source.number(close));
    let last = block_end(source, n, source.indent(head)).filter(|_| !source.is_blank(n + 1))?;
    let start = if chance.is_likely(0.5) { source.first(n + 1) } else { source.end(n) };
    cut(source, kind, start, source.end(last))
}

fn arguments(source: &Source, kind: Kind, chance: &mut Chance) -> Option<Place> {
    let is_call = |&&(open, close): &&(usize, usize)| {
        let inside = &source.text[open..close];
        close - open > 2 && !inside.contains('\n') && !inside.starts_with('{')
    };
    let calls: Vec<_> = source.pairs.iter().filter(is_call).copied().collect();
    let (open, close) = chance.choose(&calls)?;
    inside(source, kind, chance, open + 1, close)
}

fn string(source: &Source, kind: Kind, chance: &mut Chance) -> Option<Place> {
    let strings: Vec<_> =
        source.strings.iter().filter(|range| range.len() > 2).map(|range| (range.start, range.end)).collect();
    let (start, end) = chance.choose(&strings)?;
    inside(source, kind, chance, start, end)
}

/// From the start or from a word on, up to `end`.
fn inside(source: &Source, kind: Kind, chance: &mut Chance, start: usize, end: usize) -> Option<Place> {
    let is_start = chance.is_likely(0.6);
    let at = if is_start { None } else { chance.choose(&source.boundaries(start, end)) };
    cut(source, kind, at.unwrap_or(start), end)
}

fn mid_line(source: &Source, kind: Kind, chance: &mut Chance) -> Option<Place> {
    let n = some_line(source, chance, 0.25)?;
    let end = source.end(n);
    let cursors = source.boundaries(source.first(n), end);
    let first = chance.below(cursors.len().saturating_sub(2));
    let last = (first + chance.between(1, 5)).min(cursors.len().saturating_sub(1));
    let (&at, &to) = (cursors.get(first)?, cursors.get(last)?);
    let to = at + source.text[at..to].trim_end().len();
    let goes_on = source.text[to..end].contains(is_identifier);
    (cursors.len() >= 5 && to > at && goes_on).then(|| cut(source, kind, at, to))?
}

fn nothing(source: &Source, kind: Kind, chance: &mut Chance) -> Option<Place> {
    let n = some_line(source, chance, 0.25)?;
    let (text, line) = (source.text, source.line(n));
    let end = source.end(n);
    let at = |at: usize| Place {
        kind,
        prefix: text[..at].into(),
        middle: String::new(),
        suffix: text[at..].into(),
    };
    match kind {
        Kind::NothingAtEnd => Some(at(end)),
        Kind::NothingOnBlankLine => {
            let next = (n + 1..source.lines.len()).find(|&m| !source.is_blank(m))?;
            let is_next = chance.is_likely(0.5) && source.indent(next) > source.indent(n);
            let like = if is_next { next } else { n };
            let whitespace = &text[source.lines[like].start..source.first(like)];
            Some(Place { prefix: format!("{}\n{whitespace}", &text[..end]), ..at(end) })
        }
        Kind::NothingMidLine => {
            let mut cursors = source.boundaries(source.first(n), end);
            cursors.retain(|&at| text[at..end].contains(is_identifier));
            chance.choose(&cursors).map(at)
        }
        _ => {
            let closers = |c: char| matches!(c, ')' | ']' | '}' | '"' | '\'' | '`');
            let bare = line.trim_end_matches([';', ',', ':']);
            let before = bare.trim_end_matches(closers);
            let is_found = before.len() < bare.len() && before.ends_with(is_identifier);
            is_found.then(|| at(source.lines[n].start + before.len()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::Language;

    #[test]
    fn places_are_cut_out_of_the_text() {
        let text = "# Adds.\ndef add(\n    a,\n    b,\n):\n    if a == \"zero\":\n        return f(b, [1, 2])\n\n    \
                    return a + b\n\n\ndef g(x):\n    y = {\n        1: x,\n    }\n    return y[x] + x * 2\n";
        let source = Source::new(text, Language::of_path(Some("a.py")));
        let found = places(&source, "1");
        for place in &found {
            let whole = format!("{}{}{}", place.prefix, place.middle, place.suffix);
            assert!(whole == text || place.kind == Kind::NothingOnBlankLine, "{place:?}");
            assert_eq!(place.middle.is_empty(), place.kind.is_nothing(), "{place:?}");
        }
        for (kind, count) in Kind::ALL {
            let made = found.iter().filter(|place| place.kind == kind).count();
            assert!(made > 0 && made <= count, "{kind:?}: {made}");
        }
        let again: Vec<usize> = places(&source, "1").iter().map(|place| place.prefix.len()).collect();
        assert_eq!(again, found.iter().map(|place| place.prefix.len()).collect::<Vec<_>>());
    }
}
