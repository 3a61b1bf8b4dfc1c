//! Plays a perfect model: what it says passes the rules of a real completion. Pure.

use std::sync::Arc;

use serde::Serialize;

use super::places::{Chance, Kind, Place};
use super::source::Source;
use super::variants::{Case, Variant, cases, continuation, pieces};
use super::verdict::{Ending, Truth, Verdict, judge};
use crate::complete::fim::{Format, Order};
use crate::complete::{Document, Lines, Options, Request, rules};
use crate::decode::{Generated, StopReason};
use crate::text::words::first_word;

/// Most texts that are accepted one after the other.
const ACCEPTS_MAX: usize = 8;
/// Most tokens of a completion, as in the default settings.
const AUTO_TOKENS_MAX: usize = 64;
const INVOKED_TOKENS_MAX: usize = 128;
/// Shorter texts are not shown automatically, in characters.
const CHARS_MIN: usize = 3;
/// How much of the document an example shows on either side, in characters.
const AROUND: usize = 240;

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Trigger {
    Automatic,
    Invoked,
}

impl Trigger {
    pub(super) const ALL: [Self; 2] = [Self::Automatic, Self::Invoked];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Automatic => "automatic",
            Self::Invoked => "invoked",
        }
    }
}

/// A judged answer.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Answer {
    pub file: String,
    pub language: &'static str,
    pub kind: Kind,
    pub variant: Variant,
    pub trigger: Trigger,
    pub verdict: Verdict,
    /// Whether the first line of what the model said would have been better.
    pub is_worse: bool,
    /// Where it is wrong, worse or ends too early: the text around the cursor, the truth, and what was said and shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub example: Option<Example>,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct Example {
    pub before: String,
    pub after: String,
    pub middle: String,
    pub said: String,
    pub shown: String,
}

/// The answers at all variants of `place`.
pub(super) fn answers(
    source: &Source,
    place: &Place,
    file: &str,
    language: &'static str,
    chance: &mut Chance,
) -> Vec<Answer> {
    let mut all = Vec::new();
    for case in cases(source, place, chance) {
        all.extend(Trigger::ALL.map(|trigger| answer(&case, trigger, file, language)));
    }
    if place.kind.has_several_lines() {
        all.push(accept_all(place, file, language));
    }
    all
}

fn answer(case: &Case, trigger: Trigger, file: &str, language: &'static str) -> Answer {
    let Case { variant, place, said, limit } = case;
    let request = request(place, file, trigger, false);
    let played = play(&request, said, *limit);
    let truth = Truth {
        middle: &place.middle,
        suffix: &place.suffix,
        said: &played.said,
        is_cut: played.is_cut,
        is_single: is_single_line(&request),
    };
    let verdict = judge(&truth, &played.shown);
    let first_line = played.said.lines().next().unwrap_or_default();
    let naive = judge(&Truth { is_single: true, ..truth }, first_line);
    let is_worse = verdict.rank() < naive.rank() && !is_by_design(&request, verdict, &truth);
    let has_example = verdict.is_wrong() || verdict.is_early() || is_worse;
    let example = has_example.then(|| Example::new(place, &played.said, &played.shown));
    Answer {
        file: file.into(),
        language,
        kind: place.kind,
        variant: *variant,
        trigger,
        verdict,
        is_worse,
        example,
    }
}

/// Accepts what is shown and asks again, as long as there is anything: the model continues from the cursor, wherever it is.
fn accept_all(place: &Place, file: &str, language: &'static str) -> Answer {
    let mut place = place.clone();
    let mut verdict = Verdict::Nothing;
    let mut example = None;
    for round in 0..ACCEPTS_MAX {
        let said = format!("{}{}", place.middle, &place.suffix[..continuation(&place.suffix)]);
        let played = play(&request(&place, file, Trigger::Automatic, round > 0), &said, None);
        if played.shown.trim().is_empty() {
            break;
        }
        let truth = Truth {
            middle: &place.middle,
            suffix: &place.suffix,
            said: &played.said,
            is_cut: played.is_cut,
            is_single: true,
        };
        verdict = judge(&truth, &played.shown);
        if verdict.is_wrong() {
            example = Some(Example::new(&place, &played.said, &played.shown));
        }
        let begun = played.shown.trim_end();
        if verdict.is_wrong() || verdict.is_exact() || begun != played.shown {
            break;
        }
        place.prefix.push_str(begun);
        place.middle.drain(..begun.len().min(place.middle.len()));
    }
    let is_done = place.middle.trim().is_empty();
    let verdict = if is_done && !verdict.is_wrong() { Verdict::Exact } else { verdict };
    let (kind, variant, trigger) = (place.kind, Variant::TabAfterTab, Trigger::Automatic);
    Answer { file: file.into(), language, kind, variant, trigger, verdict, is_worse: false, example }
}

/// What comes of what the model says.
struct Played {
    shown: String,
    /// What it said, as much as the budget allowed.
    said: String,
    /// Whether the budget ended it.
    is_cut: bool,
}

/// Passes what the model says, piece by piece, through the stop rule of `request`, and the rest through what follows.
fn play(request: &Request, said: &str, limit: Option<usize>) -> Played {
    let tokens_max = limit.map_or(request.max_tokens, |limit| limit.min(request.max_tokens));
    if !request.is_invoked && !rules::may_show(&request.document.prefix, &request.document.suffix) {
        return Played { shown: String::new(), said: said.into(), is_cut: false };
    }
    let mut stop = rules::stop(request, Format::Raw);
    let (mut text, mut reason) = (String::new(), StopReason::EndToken);
    let said_within: String = pieces(said).take(tokens_max).collect();
    let is_cut = said_within.len() < said.len();
    for (n, piece) in pieces(said).enumerate() {
        text.push_str(piece);
        if let Some(length) = stop.check(&text) {
            text.truncate(length);
            reason = StopReason::Rule;
            break;
        }
        if n + 1 == tokens_max {
            reason = StopReason::Length;
            break;
        }
    }
    let generated = Generated { text, ..Generated::empty(reason) };
    let completion = rules::judge(request, generated, &Options::new(Order::Psm)).ok();
    let shown = completion.map(|completion| completion.text).unwrap_or_default();
    Played { shown, said: said_within, is_cut }
}

fn request(place: &Place, file: &str, trigger: Trigger, follows_accept: bool) -> Request {
    let is_invoked = trigger == Trigger::Invoked;
    let document = Document::new(Some(file.into()), &*place.prefix, &*place.suffix);
    Request {
        lines: if is_invoked { Lines::Multi } else { Lines::Auto },
        max_tokens: if is_invoked { INVOKED_TOKENS_MAX } else { AUTO_TOKENS_MAX },
        is_invoked,
        follows_accept,
        ..Request::of(Arc::new(document))
    }
}

/// Whether one line is all that is shown.
fn is_single_line(request: &Request) -> bool {
    !request.is_invoked && !rules::is_multi_line(&rules::place_of(&request.document))
}

/// Whether less than the first line is shown because that is how completion is meant to be: it does not leave the block that
/// the suffix closes, or the string, and of a text that the budget has torn it shows what is complete.
fn is_by_design(request: &Request, verdict: Verdict, truth: &Truth) -> bool {
    let Document { prefix, suffix, .. } = &*request.document;
    let is_fragment = truth.is_cut && !truth.said.trim().contains('\n');
    let begins = truth.middle.trim_start();
    let leaves_block = begins.starts_with([')', ']', '}']) || first_word(begins) == "end";
    let quote = rules::place_of(&request.document).outline().lexer().quote();
    let leaves_string = quote.is_some_and(|quote| begins.starts_with(quote));
    match verdict {
        Verdict::Prefix(ending) => matches!(ending, Ending::Line | Ending::Long | Ending::Budget),
        Verdict::Nothing if is_fragment || leaves_block || leaves_string => true,
        Verdict::Nothing if !request.is_invoked => {
            let first_line = truth.said.lines().next().unwrap_or_default();
            let whole_lines = truth.said.rsplit_once('\n').filter(|_| truth.is_cut);
            let said = whole_lines.map_or(truth.said, |(lines, _)| lines);
            let text = if truth.is_single { first_line } else { said };
            !rules::may_show(prefix, suffix) || text.trim().chars().count() < CHARS_MIN
        }
        _ => false,
    }
}

impl Example {
    fn new(place: &Place, said: &str, shown: &str) -> Self {
        let before = place.prefix.char_indices().rev().nth(AROUND).map_or(0, |(at, _)| at);
        let after = place.suffix.char_indices().nth(AROUND).map_or(place.suffix.len(), |(at, _)| at);
        Self {
            before: place.prefix[before..].into(),
            after: place.suffix[..after].into(),
            middle: place.middle.clone(),
            said: said.into(),
            shown: shown.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(document: &str, middle: &str) -> Place {
        let (prefix, suffix) = document.split_once("$0").unwrap();
        Place { kind: Kind::LineEnd, prefix: prefix.into(), middle: middle.into(), suffix: suffix.into() }
    }

    #[test]
    fn the_rules_of_a_completion_apply() {
        for (trigger, document, said, limit, shown) in [
            (Trigger::Automatic, "x = $0\n", "a + b\ny = c\n", None, "a + b"),
            (Trigger::Automatic, "x = $0 + y\n", "a", None, ""),
            (Trigger::Invoked, "x = $0 + y\n", "a", None, "a"),
            (Trigger::Invoked, "x = $0\n", "first + second", Some(1), "first"),
        ] {
            let place = place(document, said);
            let played = play(&request(&place, "a.py", trigger, false), said, limit);
            assert_eq!(played.shown, shown, "{document:?}");
            assert_eq!(played.is_cut, limit.is_some());
        }
    }

    #[test]
    fn accepting_goes_on_to_the_end() {
        let place = place("def f():\n    $0\n\n\nx = 1\n", "a = g()\n    return a");
        let answer = accept_all(&place, "a.py", "Python");
        assert_eq!((answer.verdict, answer.variant), (Verdict::Exact, Variant::TabAfterTab));
    }
}
