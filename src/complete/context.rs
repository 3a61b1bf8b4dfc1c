//! The window of a prompt, and the lines around the cursor. Pure.

use std::cell::OnceCell;

use crate::text::{Class, Language, Lexer, Outline, indentation, tags};

/// Assumed upper bound of the bytes per token, for cutting text before counting.
pub const TOKEN_BYTES_MAX: usize = 8;
/// Most lines of a block's head.
const HEAD_LINES_MAX: usize = 40;

/// The end of `prefix` that a prompt shows: as much as has at most `tokens_max` tokens by `count`.
///
/// It starts at a line start, or inside a line that alone has more tokens than that. The possible
/// starts lie in steps of `tokens_max` bytes from the start of the document, which in code is about
/// a quarter of the window: so typing at its end moves its start rarely and far, and the
/// prefix cache stays useful. A step never has more tokens than the budget, since a token has
/// at least one byte; inside a line steps are a quarter of that, to lose little of dense text.
pub fn prefix_window(prefix: &str, tokens_max: usize, mut count: impl FnMut(&str) -> usize) -> &str {
    let floor = prefix.len().saturating_sub(tokens_max.saturating_mul(TOKEN_BYTES_MAX));
    let steps = |step: usize| (floor.div_ceil(step)..=prefix.len() / step).map(move |n| n * step);
    let line_start = |at: usize| match at {
        0 => Some(0),
        _ => prefix.as_bytes()[at - 1..].iter().position(|&byte| byte == b'\n').map(|skip| at + skip),
    };
    let mut fitting = |starts: Vec<usize>| {
        let at = starts.partition_point(|&at| count(&prefix[at..]) > tokens_max);
        starts.get(at).map(|&at| &prefix[at..])
    };
    let line_starts = steps(tokens_max.max(1)).filter_map(line_start).filter(|&at| at < prefix.len());
    let inside = steps((tokens_max / 4).max(1)).map(|at| char_boundary_after(prefix, at));
    fitting(line_starts.collect()).or_else(|| fitting(inside.collect())).unwrap_or_default()
}

/// The start of `suffix` that a prompt shows: as much as has at most `tokens_max` tokens by `count`,
/// up to a line end, or cut inside its first line if that alone has more.
pub fn suffix_window(suffix: &str, tokens_max: usize, mut count: impl FnMut(&str) -> usize) -> &str {
    let bytes_max = suffix.len().min(tokens_max.saturating_mul(TOKEN_BYTES_MAX));
    let head = &suffix[..char_boundary_before(suffix, bytes_max)];
    let mut line_ends: Vec<usize> = head.match_indices('\n').map(|(at, _)| at + 1).collect();
    if head.len() == suffix.len() {
        line_ends.push(suffix.len());
    }
    let mut fits = |end: &usize| count(&suffix[..*end]) <= tokens_max;
    let lines = line_ends.partition_point(&mut fits);
    if let Some(&end) = lines.checked_sub(1).and_then(|last| line_ends.get(last)) {
        return &suffix[..end];
    }
    let inside: Vec<usize> = head.char_indices().map(|(at, _)| at).collect();
    let end = inside.partition_point(&mut fits).checked_sub(1).map_or(0, |last| inside[last]);
    suffix[..end].trim_end_matches('\r')
}

fn char_boundary_after(text: &str, at: usize) -> usize {
    (at..).find(|&at| text.is_char_boundary(at)).expect("the end is a boundary")
}

fn char_boundary_before(text: &str, at: usize) -> usize {
    (0..=at).rev().find(|&at| text.is_char_boundary(at)).expect("the start is a boundary")
}

/// The lines around the cursor, without their line ends.
#[derive(Clone, Debug)]
pub struct Place<'a> {
    pub language: &'static Language,
    prefix: &'a str,
    suffix: &'a str,
    outline: OnceCell<Outline<'a>>,
    /// The cursor's line before the cursor.
    pub line: &'a str,
    /// The cursor's line after the cursor.
    pub rest: &'a str,
    /// All the text before the cursor's line, with its line ends.
    pub before_line: &'a str,
    /// The line before the cursor's.
    pub previous: &'a str,
    /// The two last lines before the cursor's that are not blank, nearest first; empty if there are none.
    pub above: [&'a str; 2],
    /// The first line after the cursor's that is not blank; empty if there is none.
    pub below: &'a str,
}

impl<'a> Place<'a> {
    /// The place between `prefix` and `suffix`.
    pub fn new(prefix: &'a str, suffix: &'a str) -> Self {
        let mut before = prefix.rsplit('\n').map(|line| line.strip_suffix('\r').unwrap_or(line));
        let mut after = suffix.split('\n').map(|line| line.strip_suffix('\r').unwrap_or(line));
        let is_text = |line: &&str| !line.trim().is_empty();
        let line = before.next().unwrap_or_default();
        let previous = before.clone().next().unwrap_or_default();
        let mut above = before.filter(is_text);
        let above = [above.next().unwrap_or_default(), above.next().unwrap_or_default()];
        let rest = after.next().unwrap_or_default();
        let before_line = &prefix[..prefix.rfind('\n').map_or(0, |end| end + 1)];
        let below = after.find(is_text).unwrap_or_default();
        let (language, outline) = (Language::UNKNOWN, OnceCell::new());
        Self { language, prefix, suffix, outline, line, rest, before_line, previous, above, below }
    }

    /// The same place in `language`.
    pub fn in_language(self, language: &'static Language) -> Self {
        Self { language, outline: OnceCell::new(), ..self }
    }

    /// The lines before the cursor. They are read at the first call.
    pub fn outline(&self) -> &Outline<'a> {
        self.outline.get_or_init(|| Outline::new(self.language, self.prefix))
    }

    /// Whether only closing delimiters and punctuation follow on the cursor's line.
    pub fn ends_line(&self) -> bool {
        is_closers(self.rest)
    }

    /// Whether the cursor's line is blank before the cursor.
    pub fn starts_line(&self) -> bool {
        self.line.trim().is_empty()
    }

    /// Whether a completion here may have several lines: only what closes something follows on the line, or a comment.
    pub fn is_free(&self) -> bool {
        let rest = code(self.outline().lexer(), self.rest);
        is_closers(rest) || rest.trim_start().starts_with('}')
    }

    /// The indentation of the line that opens the block the cursor is at the start of: its own line,
    /// or, on a blank line, the last one with text.
    pub fn opener_indent(&self) -> Option<usize> {
        self.outline().opener_width()
    }

    /// The indentation of a closer on a line below the cursor's: that of the line which the block's head begins on.
    pub fn closer_whitespace(&self) -> &'a str {
        let own = indentation::of_line(self.line);
        // A brace on a line of its own is aligned with the closing one.
        let is_alone = self.line.trim() == "{";
        let is_wrapped =
            |&opener: &usize| !self.starts_line() && !is_alone && opener < indentation::width(own);
        let Some(opener) = self.opener_indent().filter(is_wrapped) else { return own };
        let is_head = |line: &&str| !line.trim().is_empty() && indentation::width(line) == opener;
        self.before_line.lines().rev().take(HEAD_LINES_MAX).find(is_head).map_or(own, indentation::of_line)
    }

    /// The text behind the cursor in its statement at the top level, or in the next lines of that.
    pub fn rest_of_statement(&self) -> &'a str {
        let lines = || self.suffix.split_inclusive('\n').take(HEAD_LINES_MAX);
        let count = lines().skip(1).take_while(|line| !self.language.begins_statement(line)).count();
        &self.suffix[..lines().take(count + 1).map(str::len).sum()]
    }

    /// The first line below that is neither blank nor a comment; empty if there is none among the next ones.
    pub fn below_code(&self) -> &'a str {
        let is_code = |line: &&str| {
            !line.trim().is_empty() && !self.language.syntax.begins_with_comment(line.trim_start())
        };
        self.suffix.lines().skip(1).take(HEAD_LINES_MAX).find(is_code).unwrap_or_default()
    }

    /// Whether one of the nearest lines above is indented by exactly `whitespace`.
    pub fn has_above(&self, whitespace: &str) -> bool {
        let mut lines = self.before_line.lines().rev().filter(|line| !line.trim().is_empty());
        lines.by_ref().take(HEAD_LINES_MAX).any(|line| indentation::of_line(line) == whitespace)
    }

    /// Whether the line just above is a comment about what comes next.
    pub fn follows_comment(&self) -> bool {
        let line = self.previous.trim();
        let syntax = self.language.syntax;
        let is_directive = ["#[", "#!", "#include", "#define", "#if", "#el", "#end", "#pragma"]
            .iter()
            .any(|d| line.starts_with(d));
        let is_decrement = line.starts_with("--") && line.ends_with(';');
        let is_comment = syntax.begins_with_comment(line) && !is_decrement
            || syntax.ends_with_comment(line)
            || line.ends_with("*/");
        self.starts_line() && is_comment && !is_directive && !self.outline().lexer().is_inside()
    }

    /// Whether the line just above is a condition of a preprocessor, and nothing is written under it yet.
    pub fn follows_condition(&self) -> bool {
        let directive = |line: &'a str| line.trim_start().strip_prefix('#').map(str::trim_start);
        let is_condition =
            directive(self.previous).is_some_and(|name| name.starts_with("if") || name.starts_with("el"));
        let ends = directive(self.below).is_some_and(|name| name.starts_with('e'));
        self.starts_line() && is_condition && ends && self.language.blocks.are_braces()
    }

    /// Whether something begins here at the top level: on an empty line, with a blank one above, in code.
    pub fn begins_item(&self) -> bool {
        let is_code = !self.language.syntax.is_prose && !self.outline().lexer().is_inside();
        self.line.is_empty() && self.rest.trim().is_empty() && self.previous.trim().is_empty() && is_code
    }

    /// Whether the cursor is in a comment of several lines that the text behind it does not end, at the start of a line of
    /// it.
    pub fn is_in_open_comment(&self) -> bool {
        let lexer = self.outline().lexer();
        let Some((open, close)) = lexer.comment() else { return false };
        let bare = |text: &'a str| text.trim_end_matches('*');
        let line = self.line.trim();
        let is_start = bare(line).is_empty() || line.contains(open) && bare(line).ends_with(bare(open));
        let begins = |mark: &str| self.suffix.find(mark).unwrap_or(usize::MAX);
        is_start && self.rest.trim().is_empty() && begins(open) <= begins(close)
    }

    /// Whether the line just above ends a docstring.
    pub fn follows_docstring(&self) -> bool {
        let line = self.previous.trim();
        let is_quote = line.ends_with("\"\"\"") || line.ends_with("'''");
        self.starts_line() && is_quote && !self.outline().lexer().is_inside()
    }
}

/// `line` without the comment that ends it, as `lexer` reads it.
fn code(mut lexer: Lexer, line: &str) -> &str {
    let is_comment = |lexer: &Lexer| lexer.class() == Class::Comment;
    let was_comment = is_comment(&lexer);
    let opened = line.char_indices().find_map(|(at, c)| {
        lexer.read(c);
        (is_comment(&lexer) && !was_comment)
            .then(|| (at + c.len_utf8()).saturating_sub(lexer.opener_length()))
    });
    opened.filter(|_| is_comment(&lexer)).map_or(line, |at| &line[..at])
}

/// Whether a line is blank but for closers and punctuation: `^\s*(</tag>)*[)>}\]"'`]*\s*[:{;,]?\s*$`.
pub fn is_closers(line: &str) -> bool {
    let mut rest = line.trim_start();
    while let Some(tag) = tags::closing(rest) {
        rest = rest[tag.len()..].trim_start();
    }
    let rest = rest.trim_start_matches([')', '>', '}', ']', '"', '\'', '`']).trim();
    rest.is_empty() || matches!(rest, ":" | "{" | ";" | ",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> usize {
        text.split_whitespace().count()
    }

    #[test]
    fn windows_keep_whole_lines_within_budget() {
        let text: String = (0..4000).map(|i| format!("    let x{i} = y;\r\n")).collect();
        for budget in [8, 50, 300] {
            let prefix = prefix_window(&text, budget, words);
            assert!(words(prefix) <= budget && 2 * words(prefix) >= budget, "{budget}: {}", words(prefix));
            assert!(prefix.starts_with("    let"));
            let suffix = suffix_window(&text, budget, words);
            assert!(words(suffix) <= budget && words(suffix) + 4 > budget && suffix.ends_with("\r\n"));
        }
        assert_eq!(prefix_window("a b\nc d", 10, words), "a b\nc d");
        assert_eq!(suffix_window("a b\nc d", 10, words), "a b\nc d");
        assert_eq!((prefix_window("", 9, words), suffix_window("", 9, words)), ("", ""));
        assert_eq!((prefix_window("a", 0, words), suffix_window("a", 0, words)), ("", ""));
    }

    #[test]
    fn a_long_line_is_cut_between_characters() {
        let crabs = "🦀".repeat(100_000);
        let bytes = str::len;
        let window = prefix_window(&crabs, 101, bytes);
        assert!(window.len() <= 101 && window.len() > 75 && window.starts_with('🦀'));
        assert_eq!(suffix_window(&crabs, 101, bytes).len(), 100);
        assert_eq!(suffix_window(&(crabs.clone() + "\r\n"), 3, bytes), "");
    }

    #[test]
    fn the_window_moves_rarely_and_counts_little() {
        let mut text = String::new();
        let (mut starts, counted) = (std::collections::BTreeSet::new(), std::cell::Cell::new(0));
        for i in 0..3000 {
            text.push_str(if i % 7 == 0 { "xy = z\n" } else { "word " });
            let window = prefix_window(&text, 400, |text| {
                counted.set(counted.get().max(text.len()));
                words(text)
            });
            starts.insert(text.len() - window.len());
        }
        assert!(starts.len() < 45, "{} starts over {} bytes", starts.len(), text.len());
        assert!(counted.get() <= 400 * TOKEN_BYTES_MAX);
    }

    #[test]
    fn the_lines_around_the_cursor() {
        let place = Place::new("a\r\n\r\nb\r\n\tc", "d)\r\n\r\ne\r\n");
        assert_eq!((place.line, place.rest, place.previous), ("\tc", "d)", "b"));
        assert_eq!((place.above, place.below), (["b", "a"], "e"));
        for (rest, expected) in [
            ("", true),
            (")", true),
            ("  )]}\"' ; ", true),
            (") {", true),
            ("\t:", true),
            ("x", false),
            (") => x", false),
            (";;", false),
            (") )", false),
        ] {
            assert_eq!(Place::new("", rest).ends_line(), expected, "{rest:?}");
        }
    }
}
