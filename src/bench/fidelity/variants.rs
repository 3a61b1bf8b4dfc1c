//! What a perfect model says at a place: the truth, and ways in which models say more, less or the same otherwise. Pure.

use serde::Serialize;

use super::places::{Chance, Kind, Place};
use super::source::Source;
use crate::text::opener_of;

/// How much of the suffix the model continues with, in characters.
pub(super) const CONTINUATION: usize = 420;
/// Most bytes that are said when closers are repeated.
const SAID_MAX: usize = 2400;

/// How what the model says differs from the truth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Variant {
    /// Not at all.
    TheMiddle,
    /// It continues into the suffix.
    Continues,
    /// It repeats the delimiters that the editor has closed.
    RepeatsClosers,
    /// It has other line ends, or whitespace at line ends.
    Whitespace,
    /// It is ended by a budget.
    Cut,
    /// The text is accepted, and the next asked for, as long as there is any.
    TabAfterTab,
    /// Nothing is missing: it repeats the suffix.
    NothingMissing,
}

impl Variant {
    pub(super) const ALL: [Self; 7] = [
        Self::TheMiddle,
        Self::Continues,
        Self::RepeatsClosers,
        Self::Whitespace,
        Self::Cut,
        Self::TabAfterTab,
        Self::NothingMissing,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::TheMiddle => "the true middle",
            Self::Continues => "continues into the suffix",
            Self::RepeatsClosers => "repeats closed delimiters",
            Self::Whitespace => "odd whitespace, CRLF",
            Self::Cut => "cut by the budget",
            Self::TabAfterTab => "Tab after Tab",
            Self::NothingMissing => "nothing missing",
        }
    }
}

/// A place, and what the model says there.
pub(super) struct Case {
    pub variant: Variant,
    pub place: Place,
    pub said: String,
    /// Most tokens of it.
    pub limit: Option<usize>,
}

/// All that may be said at `place` at once.
pub(super) fn cases(source: &Source, place: &Place, chance: &mut Chance) -> Vec<Case> {
    let follows = &place.suffix[..continuation(&place.suffix)];
    let case = |variant, said: String| Case { variant, place: place.clone(), said, limit: None };
    if place.kind.is_nothing() {
        return vec![case(Variant::NothingMissing, follows.to_owned())];
    }
    let middle = &place.middle;
    let goes_on = format!("{middle}{follows}");
    let mut cases = vec![case(Variant::TheMiddle, middle.clone()), case(Variant::Continues, goes_on.clone())];
    cases.extend(repeated_closers(source, place, chance.is_likely(0.5)));
    cases.push(odd_whitespace(place, follows, chance));
    let tokens = pieces(middle).count();
    if tokens > 2 {
        cases.push(Case { limit: Some(chance.between(1, tokens - 1)), ..case(Variant::Cut, goes_on) });
    }
    cases
}

/// The bytes of `suffix` that a model continues with.
pub(super) fn continuation(suffix: &str) -> usize {
    suffix.char_indices().nth(CONTINUATION).map_or(suffix.len(), |(at, _)| at)
}

fn odd_whitespace(place: &Place, follows: &str, chance: &mut Chance) -> Case {
    let crlf = |text: &str| text.replace('\n', "\r\n");
    let middle = &place.middle;
    let may_follow = if chance.is_likely(0.5) { follows } else { "" };
    let (kind, mut place) = (chance.below(5), place.clone());
    let said = match kind {
        0 => format!("{middle}{}", chance.choose(&["  ", " ", "\t"]).unwrap_or_default()),
        1 => format!("{middle}{}", "\n".repeat(chance.between(1, 3))),
        2 => format!("{middle}{may_follow}"),
        3 => crlf(&format!("{middle}{may_follow}")),
        _ => format!("{}  \n", middle.replace('\n', "  \n")),
    };
    if kind == 2 {
        (place.prefix, place.middle, place.suffix) =
            (crlf(&place.prefix), crlf(&place.middle), crlf(&place.suffix));
    }
    Case { variant: Variant::Whitespace, place, said, limit: None }
}

fn repeated_closers(source: &Source, place: &Place, goes_on: bool) -> Option<Case> {
    let case =
        |place: Place, said: String| Case { variant: Variant::RepeatsClosers, place, said, limit: None };
    if matches!(place.kind, Kind::LineEnd | Kind::Statement | Kind::BlockBelow) {
        let (place, said) = auto_closed(source, place, goes_on)?;
        return Some(case(place, said));
    }
    let rest = place.suffix.lines().next().unwrap_or_default();
    let only_closers = !rest.trim().is_empty()
        && rest.trim().chars().all(|c| opener_of(c).is_some() || "\"'`:;,{>".contains(c));
    let follows = if goes_on { &place.suffix[..continuation(&place.suffix)] } else { rest };
    only_closers.then(|| case(place.clone(), format!("{}{follows}", place.middle)))
}

/// The place as an editor leaves it that closes what is opened on the cursor's line, and what a model says there that
/// types the closers again: up to the end of the line where the outermost pair ends.
fn auto_closed(source: &Source, place: &Place, goes_on: bool) -> Option<(Place, String)> {
    let (text, cursor) = (source.text, place.prefix.len());
    let start = text[..cursor].rfind('\n').map_or(0, |end| end + 1);
    let pairs = source.pairs.iter().copied();
    let strings = source.strings.iter().map(|range| (range.start - 1, range.end));
    let is_open = |&(open, close): &(usize, usize)| start <= open && open < cursor && cursor <= close;
    let mut open: Vec<_> = pairs.chain(strings).filter(is_open).collect();
    open.sort_unstable_by(|a, b| b.cmp(a));
    let (&(_, innermost), &(_, outermost)) = (open.first()?, open.last()?);
    let end = outermost + text[outermost..].find('\n').unwrap_or(text.len() - outermost);
    let middle = &text[cursor..innermost];
    // What an editor closes is code.
    if middle.trim().is_empty() || end - cursor > SAID_MAX || source.is_in_comment(cursor) {
        return None;
    }
    let closers: String = open.iter().filter_map(|&(_, close)| text[close..].chars().next()).collect();
    let after = &text[end..];
    let follows = if goes_on { &after[..continuation(after)] } else { "" };
    let suffix = format!("{closers}{after}");
    let said = format!("{}{follows}", &text[cursor..end]);
    Some((Place { middle: middle.into(), suffix, ..place.clone() }, said))
}

/// The pieces that a text is said in, about as long as tokens.
pub(super) fn pieces(text: &str) -> impl Iterator<Item = &str> {
    const BYTES_MAX: usize = 8;
    let mut rest = text;
    std::iter::from_fn(move || {
        let first = rest.chars().next()?;
        let after_space = if first == ' ' { &rest[1..] } else { rest };
        let kind = |c: char| (c.is_alphanumeric(), c == '\n' || c == '\r', c == ' ' || c == '\t');
        let head = after_space.chars().next().unwrap_or(' ');
        let begins_word = kind(head) != kind(' ');
        let (skipped, body) = if begins_word { (rest.len() - after_space.len(), head) } else { (0, first) };
        let same = rest[skipped..].char_indices().find(|&(_, c)| kind(c) != kind(body));
        let length = skipped + same.map_or(rest.len() - skipped, |(at, _)| at);
        let most =
            (1..=BYTES_MAX).rev().find(|&at| rest.is_char_boundary(at.min(rest.len()))).unwrap_or(length);
        let is_blank = kind(body) == kind(' ');
        let length = if is_blank { length } else { length.min(most.min(rest.len())) };
        let (piece, left) = rest.split_at(length.max(first.len_utf8()));
        rest = left;
        Some(piece)
    })
}

#[cfg(test)]
mod tests {
    use super::super::places::places;
    use super::*;
    use crate::text::Language;

    #[test]
    fn pieces_are_the_text() {
        for text in ["", "a  b\n\n    return x.y(é🦀🦀🦀🦀)\r\n\t}", "internationalisation = 1", " ", "\n"]
        {
            let all: Vec<&str> = pieces(text).collect();
            assert_eq!(all.concat(), text);
            assert!(all.iter().all(|piece| !piece.is_empty()), "{all:?}");
        }
        let all: Vec<&str> = pieces("if x:\n    y += 1").collect();
        assert_eq!(all, ["if", " x", ":", "\n", "    ", "y", " +=", " 1"]);
    }

    #[test]
    fn an_editor_closes_what_the_line_opens() {
        let text = "call(a, [\"one\", 2],\n     b)\nnext()\n";
        let source = Source::new(text, Language::of_path(Some("a.py")));
        let place = Place {
            kind: Kind::LineEnd,
            prefix: text[..12].into(),
            middle: text[12..19].into(),
            suffix: text[19..].into(),
        };
        let (closed, said) = auto_closed(&source, &place, false).unwrap();
        assert_eq!((&*closed.middle, &*closed.suffix), ("e", "\"])\nnext()\n"));
        assert_eq!(said, "e\", 2],\n     b)");
    }

    #[test]
    fn the_truth_is_part_of_what_is_said() {
        let text = "fn f(a: u8) -> u8 {\n    // Twice.\n    let b = g(a);\n    b * 2\n}\n";
        let source = Source::new(text, Language::of_path(Some("a.rs")));
        let mut variants = Vec::new();
        for place in places(&source, "1") {
            for case in cases(&source, &place, &mut Chance::new(&["1"])) {
                variants.push(case.variant);
                let solid = |text: &str| -> String { text.split_whitespace().collect() };
                assert!(solid(&case.said).starts_with(&solid(&case.place.middle)));
            }
        }
        let all = Variant::ALL.into_iter().filter(|&variant| variant != Variant::TabAfterTab);
        assert!(all.into_iter().all(|variant| variants.contains(&variant)), "{variants:?}");
    }
}
