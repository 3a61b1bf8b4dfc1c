//! The syntax of comments, strings and other literals.

use super::recent::Recent;

/// The class of a character.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Everything else.
    Code,
    /// Text that is not a comment, as in Markdown.
    Prose,
    /// A comment, its delimiters included.
    Comment,
    /// A string, its quotes included.
    String,
    /// A character literal, its quotes included.
    Character,
    /// A regular expression literal.
    Regex,
}

/// The syntax of a language family, as far as a [`Lexer`](super::Lexer) needs it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Syntax {
    /// Comments, strings and other literals. Of several that match, the one with the longest opener begins, and of those
    /// the first.
    pub forms: &'static [Form],
    /// Whether everything else is prose rather than code.
    pub is_prose: bool,
    /// The characters that openers end with, a bit for each: what lets a lexer skip all others.
    last_of_openers: u128,
}

/// One kind of comment, string or literal.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Form {
    pub class: Class,
    pub open: Pattern,
    /// What may precede the opener.
    pub after: After,
    pub close: Close,
    /// The escape character.
    pub escape: Option<char>,
    /// The opener of an interpolation, which ends with the delimiter that closes its last character; empty if there is
    /// none.
    pub interpolation: &'static str,
    pub span: Span,
    /// Whether it may be nested.
    pub nests: bool,
}

/// A text, with one character repeated any number of times in its middle.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pattern {
    pub head: &'static str,
    /// The byte that may be repeated.
    pub fill: Option<u8>,
    pub tail: &'static str,
}

/// What has to precede an opener.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum After {
    /// Anything.
    Any,
    /// Whitespace, or the start of the text.
    Whitespace,
    /// No character of an identifier.
    NotWord,
    /// One of these.
    OneOf(&'static str),
    /// None of these.
    NoneOf(&'static str),
    /// No character of an identifier, no closing delimiter and no quote.
    NotOperand,
    /// An operator, an opening delimiter or a keyword.
    Operator,
}

/// What ends a [`Form`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Close {
    /// The end of the line.
    Line,
    /// This text, with as many repetitions as the opener had.
    Pattern(Pattern),
    /// The next character.
    Next,
    /// The same quote after one character, which may be escaped. With several characters it is not a literal but a
    /// lifetime or a digit separator.
    Quote,
    /// The line that begins with the word after the opener, possibly indented; the text begins on the next line.
    Heredoc(Spacing),
    /// `)`, the text between the opener and the first `(`, and `"`.
    Raw,
    /// What belongs to the punctuation after the opener: the same, or the other delimiter of its kind. Substitutions have
    /// two such parts.
    Delimited { parts: u8 },
}

/// Whether spaces are allowed between the opener of a heredoc and its word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spacing {
    /// Allowed.
    Free,
    /// Not allowed: the opener is then an operator.
    Tight,
}

/// How many lines a [`Form`] has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Span {
    /// It ends with its line at the latest.
    Line,
    /// Usually one: a lexer for text that may begin inside a string ends it with its line, to recover from errors.
    MostlyLine,
    /// Any number.
    Lines,
}

impl Syntax {
    pub(super) const fn new(forms: &'static [Form]) -> Self {
        let (mut last_of_openers, mut at) = (0, 0);
        while at < forms.len() {
            let tail = forms[at].open.tail.as_bytes();
            last_of_openers |= 1 << tail[tail.len() - 1];
            at += 1;
        }
        Self { forms, is_prose: false, last_of_openers }
    }

    pub(super) const fn of_prose(self) -> Self {
        Self { is_prose: true, ..self }
    }

    fn may_open(&self, recent: Recent) -> bool {
        self.last_of_openers.checked_shr(recent.last().into()).is_some_and(|bits| bits & 1 == 1)
    }

    /// Whether `mark` begins a comment that ends with its line.
    pub fn has_line_comment(&self, mark: &str) -> bool {
        self.line_comments().any(|one| one == mark)
    }

    /// Whether `line` begins with one.
    pub fn begins_with_comment(&self, line: &str) -> bool {
        self.line_comments().any(|mark| line.starts_with(mark))
    }

    /// Whether `line` ends with one of several lines.
    pub fn ends_with_comment(&self, line: &str) -> bool {
        self.block_comments().any(|(.., close)| line.ends_with(close))
    }

    fn line_comments(&self) -> impl Iterator<Item = &'static str> {
        let comments = self.forms.iter().filter(|form| form.class == Class::Comment);
        comments.filter(|form| form.close == Close::Line).map(|form| form.open.tail)
    }

    /// The quotes of strings that begin and end with three of them.
    pub(super) fn triple_quotes(&self) -> impl Iterator<Item = &'static Form> {
        self.forms.iter().filter(|form| matches!(form.open.tail, "\"\"\"" | "'''"))
    }

    /// Comments of several lines that have an opener and a closer of their own, and both.
    pub(super) fn block_comments(&self) -> impl Iterator<Item = (&'static Form, &'static str, &'static str)> {
        self.forms.iter().filter_map(|form| match (form.class, form.close) {
            (Class::Comment, Close::Pattern(close)) if form.open.fill.is_none() => {
                Some((form, form.open.tail, close.tail))
            }
            _ => None,
        })
    }

    /// The form whose opener `recent` ends with, and the repetitions in it.
    pub(super) fn opening(&self, recent: Recent) -> Option<(&'static Form, usize)> {
        if !self.may_open(recent) {
            return None;
        }
        let mut longest = None;
        let mut length_max = 0;
        for form in self.forms {
            if let Some(fill) = form.opens(recent)
                && form.open.length(fill) > length_max
            {
                longest = Some((form, fill));
                length_max = form.open.length(fill);
            }
        }
        longest
    }

    /// The same for an opener of `length` bytes.
    pub(super) fn opening_of_length(&self, recent: Recent, length: usize) -> Option<(&'static Form, usize)> {
        if length > Recent::BYTES || !self.may_open(recent) {
            return None;
        }
        self.forms.iter().find_map(|form| {
            let fill = form.opens(recent).filter(|&fill| form.open.length(fill) == length)?;
            Some((form, fill))
        })
    }
}

impl Form {
    fn opens(&self, recent: Recent) -> Option<usize> {
        let fill = self.open.ends(recent)?;
        self.after.holds(recent.before(self.open.length(fill))).then_some(fill)
    }

    /// Delimiters in its opener before the last character, which were classified as code.
    pub(super) fn delimiters_in_opener(&self) -> usize {
        let Pattern { head, tail, .. } = self.open;
        let before_last = &tail[..tail.len() - 1];
        let is_opener = |c: &char| matches!(c, '(' | '[' | '{');
        head.chars().chain(before_last.chars()).filter(is_opener).count()
    }

    /// The character that closes an interpolation.
    pub(super) fn interpolation_closer(&self) -> char {
        if self.interpolation.ends_with('(') { ')' } else { '}' }
    }
}

impl Pattern {
    pub(super) fn length(&self, fill: usize) -> usize {
        self.head.len() + fill + self.tail.len()
    }

    /// The repetitions in it, if `recent` ends with it.
    pub(super) fn ends(&self, recent: Recent) -> Option<usize> {
        if !recent.ends_with(self.tail) {
            return None;
        }
        let before = recent.before(self.tail.len());
        let fill = self.fill.map_or(0, |fill| before.repetitions(fill));
        before.before(fill).ends_with(self.head).then_some(fill)
    }

    /// Whether `recent` ends with it, with `count` repetitions.
    pub(super) fn ends_filled(&self, recent: Recent, count: usize) -> bool {
        let before = recent.before(self.tail.len());
        recent.ends_with(self.tail)
            && self.fill.is_none_or(|fill| before.repetitions(fill) >= count)
            && before.before(count).ends_with(self.head)
    }
}

impl After {
    fn holds(self, before: Recent) -> bool {
        let last = before.last();
        match self {
            Self::Any => true,
            Self::Whitespace => matches!(last, b' ' | b'\n'),
            Self::NotWord => !Recent::is_word(last),
            Self::OneOf(bytes) => bytes.as_bytes().contains(&last),
            Self::NoneOf(bytes) => !bytes.as_bytes().contains(&last),
            Self::NotOperand => !Recent::is_word(last) && !b")]}'\"".contains(&last),
            Self::Operator => before.expects_operand(),
        }
    }
}
