//! Drops automatic completions that are not worth showing. Pure.

use super::context::Place;
use crate::text::words::is_identifier;
use crate::text::{Syntax, open_delimiters, opener_of};

/// Shorter completions are shown only if they finish something.
const CHARS_MIN: usize = 3;
/// Shorter texts are never repetitive, in bytes.
const REPETITIVE_MIN: usize = 24;

/// Why a completion is not shown.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Dropped {
    /// It was cancelled.
    Cancelled,
    /// It is only whitespace.
    Blank,
    /// It repeats the lines above or below the cursor.
    Repeats,
    /// It repeats itself.
    Repetitive,
    /// It is no piece of code that fits before what follows on the line.
    Fragment,
    /// It is too short, and finishes nothing.
    Short,
    /// The model is too uncertain.
    Unsure {
        /// Mean natural log-probability of what was generated.
        mean: f32,
        /// The least that is shown.
        min: f32,
    },
}

/// Fails if `text` at `place` is not worth showing, whatever its probability.
pub fn judge(text: &str, place: &Place, syntax: &'static Syntax) -> Result<(), Dropped> {
    if text.trim().chars().count() < CHARS_MIN && !finishes(text.trim(), place, syntax) {
        return Err(Dropped::Short);
    }
    if is_repetitive(text) {
        return Err(Dropped::Repetitive);
    }
    Ok(())
}

/// Whether a short text finishes something: all delimiters that the cursor's line has open, a comment of several lines, or
/// an expression by a word of its own or by an empty list. The last letters of a word, an operator and a semicolon are typed
/// faster than read.
fn finishes(text: &str, place: &Place, syntax: &'static Syntax) -> bool {
    let is_empty_list = matches!(text, "()" | "[]" | "{}") && place.starts_line();
    let ends_comment = place.outline().lexer().comment().is_some_and(|(_, close)| text == close);
    if is_empty_list || ends_comment {
        return true;
    }
    let closers = text.trim_end_matches([';', ',', ':']);
    if !closers.is_empty() && closers.chars().all(|c| opener_of(c).is_some()) {
        let is_closed = |line: &str| open_delimiters(syntax, line).is_empty();
        return !is_closed(place.line) && is_closed(&format!("{}{closers}", place.line));
    }
    let begins_word = !place.line.trim_end().is_empty() && !place.line.ends_with(is_identifier);
    begins_word && text.chars().any(|c| is_identifier(c) || !c.is_ascii())
}

/// Whether most of `text` is a short pattern with words or signs, four times or more. Numbers in a table repeat, and a ruler.
fn is_repetitive(text: &str) -> bool {
    let text = text.trim();
    let bytes = text.as_bytes();
    let repeats = |period: usize| {
        let equal = (period..bytes.len()).filter(|&at| bytes[at] == bytes[at - period]).count();
        equal * 10 >= (bytes.len() - period) * 9
    };
    let period = (1..=bytes.len() / 4).find(|&period| repeats(period));
    let pattern = period.map(|period| String::from_utf8_lossy(&bytes[..period]));
    bytes.len() >= REPETITIVE_MIN && pattern.is_some_and(|pattern| has_word(&pattern) || has_signs(&pattern))
}

/// Whether `pattern` has a word that is no number.
fn has_word(pattern: &str) -> bool {
    let words = pattern.split(|c| !is_identifier(c));
    words.into_iter().any(|word| word.starts_with(|c: char| c.is_alphabetic()))
}

/// Whether `pattern` has no word or number, but two different signs that do not only separate values.
fn has_signs(pattern: &str) -> bool {
    let is_sign = |c: &char| !c.is_whitespace() && !",;()[]{}".contains(*c);
    let mut signs = pattern.chars().filter(is_sign);
    let first = signs.next();
    !pattern.contains(is_identifier) && first.is_some_and(|first| signs.any(|c| c != first))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::{Language, families};

    #[track_caller]
    fn check(line: &str, text: &str, expected: Result<(), Dropped>) {
        assert_eq!(judge(text, &Place::new(line, ""), &families::UNKNOWN), expected, "{line:?} {text:?}");
    }

    #[test]
    fn short_texts_have_to_finish_something() {
        let short = Err(Dropped::Short);
        for (line, text, expected) in [
            ("self.y = ", "y", Ok(())),
            ("return ", "-1", Ok(())),
            ("f(", "x", Ok(())),
            ("f(x", ")", Ok(())),
            ("f(g(x", "))", Ok(())),
            ("f(x", ");", Ok(())),
            ("f(g(x", ");", short),
            ("x", ")", short),
            ("x = 1", ";", short),
            ("x ", "==", short),
            ("nam", "e", short),
            ("na", "me", short),
            ("n", "ame", Ok(())),
            ("", "}", short),
            ("    ", "x", short),
            ("s.push('", "🦀", Ok(())),
            ("    ", "[]", Ok(())),
            ("x", "[]", short),
        ] {
            check(line, text, expected);
        }
    }

    #[test]
    fn the_end_of_a_comment_is_shown() {
        let language = Language::of_path(Some("a.elm"));
        let judge = |prefix: &str| {
            let place = Place::new(prefix, "").in_language(language);
            super::judge("-}", &place, language.syntax)
        };
        assert_eq!((judge("{-| A.\n"), judge("x = 1\n")), (Ok(()), Err(Dropped::Short)));
    }

    #[test]
    fn repetitions_are_not_shown() {
        let repetitive = Err(Dropped::Repetitive);
        for (text, expected) in [
            ("a.b.a.b.a.b.a.b.a.b.a.b.a.b.", repetitive),
            ("foo(bar, foo(bar, foo(bar, foo(bar, foo(bar", repetitive),
            ("' ' : ' ' : ' ' : ' ' : ' ' : ' '", repetitive),
            ("0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0", Ok(())),
            ("2.5f, 2.5f, 2.5f, 2.5f, 2.5f, 2.5f", Ok(())),
            ("{}, {}, {}, {}, {}, {}, {}, {}", Ok(())),
            ("--------------------------------", Ok(())),
            ("ha ha ha ha", Ok(())),
            ("self.a = a\n    self.b = b\n    self.c = c", Ok(())),
        ] {
            check("x = ", text, expected);
        }
    }
}
