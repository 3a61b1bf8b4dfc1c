//! Classifies text one character at a time, without lookahead: a comment or string begins with the last character of
//! its opener.

use super::recent::Recent;
use super::syntax::{Class, Close, Form, Spacing, Span, Syntax};

/// Most nested interpolations; deeper ones are read as text.
const INTERPOLATIONS_MAX: usize = 4;
/// How far back the opener of a comment is searched for, in bytes.
const COMMENT_BYTES_MAX: usize = 1 << 14;

/// The state of a lexer for one language. Small and `Copy`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Lexer {
    syntax: &'static Syntax,
    state: State,
    recent: Recent,
    interpolations: [Option<Interpolation>; INTERPOLATIONS_MAX],
    /// The heredoc whose text begins on the next line.
    heredoc: Option<(&'static Form, Word)>,
    /// Whether the text may have begun inside a string.
    is_unsure: bool,
}

/// The classification of a character.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Read {
    pub class: Class,
    /// Number of preceding delimiters, classified as code, that belong to the opener which it completes.
    pub retracted: usize,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    Code,
    Inside(Inside),
    /// After a quote that may begin a character literal, and possibly one character.
    Quote {
        form: &'static Form,
        is_full: bool,
    },
    /// In the word after the opener of a heredoc or raw string.
    Tag {
        form: &'static Form,
        tag: Word,
    },
    /// In a raw string, with the text since its last `)`.
    Raw {
        form: &'static Form,
        tag: Word,
        since: Option<Word>,
    },
    /// Before the delimiter of a part of a literal.
    Delimiter {
        form: &'static Form,
        parts: u8,
    },
    /// In such a part.
    Delimited {
        form: &'static Form,
        part: Part,
    },
    /// In a heredoc, with the line so far.
    Heredoc {
        form: &'static Form,
        tag: Word,
        line: FirstWord,
    },
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Inside {
    form: &'static Form,
    /// Repetitions in the opener.
    fill: usize,
    /// Nesting depth; for a regex, 1 in a character class.
    depth: usize,
    /// Characters since its opener, or since a nested one began or ended.
    length: usize,
    is_escaped: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Part {
    open: char,
    close: char,
    /// Parts that are left, this one included.
    parts: u8,
    depth: usize,
    is_empty: bool,
    is_escaped: bool,
}

/// An interpolation: code in a string.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Interpolation {
    inside: Inside,
    /// Open delimiters of its kind.
    depth: usize,
}

/// The hash of a word.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Word(u32);

#[derive(Clone, Copy, Debug, PartialEq)]
enum FirstWord {
    Growing(Word),
    /// Not the word that ends the heredoc.
    Other,
}

impl Lexer {
    /// For text that begins in code.
    pub fn new(syntax: &'static Syntax) -> Self {
        let (interpolations, recent) = ([None; INTERPOLATIONS_MAX], Recent::default());
        Self { syntax, state: State::Code, recent, interpolations, heredoc: None, is_unsure: false }
    }

    /// For text that may begin inside a string, such as text from the cursor on: errors end with the line, as far as
    /// [`Span`] allows.
    pub fn unsure(syntax: &'static Syntax) -> Self {
        Self { is_unsure: true, ..Self::new(syntax) }
    }

    /// For text after `prefix`, the start of a document.
    pub fn after(syntax: &'static Syntax, prefix: &str) -> Self {
        let line_start = prefix.rfind('\n').map_or(0, |end| end + 1);
        Self::at(syntax, prefix, line_start).read_all(&prefix[line_start..])
    }

    /// For the text of a document from the byte `start` on, where a line begins. What is before is only searched for an
    /// opener of a block comment or of a triple-quoted string, to be fast.
    pub fn at(syntax: &'static Syntax, document: &str, start: usize) -> Self {
        let prefix = &document[..start];
        let is_open = |form: &&Form| prefix.matches(form.open.tail).count() % 2 == 1;
        let string = syntax.triple_quotes().find(is_open).map(|form| Inside::new(form, 0));
        let inside = string.or_else(|| Self::open_comment(syntax, prefix));
        Self { state: inside.map_or(State::Code, State::Inside), ..Self::unsure(syntax) }
    }

    /// The block comment that `prefix` ends in.
    fn open_comment(syntax: &'static Syntax, prefix: &str) -> Option<Inside> {
        let floor = prefix.len().saturating_sub(COMMENT_BYTES_MAX);
        let near = &prefix[(floor..).find(|&at| prefix.is_char_boundary(at))?..];
        let (form, at) = syntax.block_comments().find_map(|(form, open, close)| {
            let at = near.rfind(open)?;
            (!near[at + open.len()..].contains(close)).then_some((form, at))
        })?;
        let line = &near[near[..at].rfind('\n').map_or(0, |end| end + 1)..];
        let line = &line[..line.find('\n').map_or(line.len(), |end| end + 1)];
        let lexer = Self::unsure(syntax).read_all(line);
        (lexer.is_inside() && lexer.class() == Class::Comment).then(|| Inside::new(form, 0))
    }

    pub fn syntax(&self) -> &'static Syntax {
        self.syntax
    }

    /// Whether the next character is in a comment, a string or another literal.
    pub fn is_inside(&self) -> bool {
        !matches!(self.state, State::Code | State::Tag { .. } | State::Delimiter { .. })
    }

    /// The class of the last character, and of the next one unless that begins or ends a form.
    pub fn class(&self) -> Class {
        match self.state {
            State::Code if self.syntax.is_prose => Class::Prose,
            State::Code | State::Delimiter { .. } => Class::Code,
            State::Inside(Inside { form, .. })
            | State::Quote { form, .. }
            | State::Tag { form, .. }
            | State::Raw { form, .. }
            | State::Delimited { form, .. }
            | State::Heredoc { form, .. } => form.class,
        }
    }

    /// The closing quote of the current string or character literal.
    pub fn quote(&self) -> Option<char> {
        if let State::Delimited { part, .. } = self.state {
            return Some(part.close);
        }
        let (State::Inside(Inside { form, .. }) | State::Quote { form, .. }) = self.state else {
            return None;
        };
        match form.close {
            Close::Pattern(close) => close.head.chars().chain(close.tail.chars()).find(|&c| is_quote(c)),
            Close::Quote => form.open.tail.chars().next_back(),
            _ => None,
        }
    }

    /// What opens and closes the comment of several lines that the next character is in.
    pub fn comment(&self) -> Option<(&'static str, &'static str)> {
        let State::Inside(Inside { form, .. }) = self.state else { return None };
        let mut comments = self.syntax.block_comments();
        comments.find(|(other, ..)| *other == form).map(|(_, open, close)| (open, close))
    }

    /// The quotes of the current string, if there are three of them on either side.
    pub fn triple_quote(&self) -> Option<&'static str> {
        let State::Inside(Inside { form, .. }) = self.state else { return None };
        self.syntax.triple_quotes().any(|other| other == form).then_some(form.open.tail)
    }

    /// The length of the current form's opener, in bytes.
    pub fn opener_length(&self) -> usize {
        match self.state {
            State::Inside(Inside { form, fill, .. }) => form.open.length(fill),
            _ => 1,
        }
    }

    /// The length of the current form's closing quotes, in bytes.
    fn closer_length(&self) -> Option<usize> {
        match self.state {
            State::Inside(Inside { form, fill, .. }) => match form.close {
                Close::Pattern(close) => Some(close.length(fill)),
                Close::Quote => Some(1),
                _ => None,
            },
            State::Quote { .. } | State::Delimited { .. } => Some(1),
            _ => None,
        }
    }

    /// Reads all of `text`.
    pub fn read_all(mut self, text: &str) -> Self {
        text.chars().for_each(|c| {
            self.read(c);
        });
        self
    }

    /// Reads one character.
    pub fn read(&mut self, c: char) -> Read {
        match self.state {
            State::Code => self.read_code(c),
            State::Inside(inside) => self.read_inside(inside, c),
            State::Quote { form, is_full } => self.read_quote(form, is_full, c),
            State::Tag { form, tag } => self.read_tag(form, tag, c),
            State::Raw { form, tag, since } => self.read_raw(form, tag, since, c),
            State::Delimiter { form, parts } => self.read_delimiter(form, parts, c),
            State::Delimited { form, part } => self.read_delimited(form, part, c),
            State::Heredoc { form, tag, line } => self.read_heredoc(form, tag, line, c),
        }
    }

    fn read_code(&mut self, c: char) -> Read {
        self.recent.push(c);
        if let Some(inside) = self.leave_hole(c) {
            self.state = State::Inside(inside);
            self.recent = Recent::CLEAR;
            return Read::of(Class::Code);
        }
        if c == '\n'
            && let Some((form, tag)) = self.heredoc.take()
        {
            self.state = State::Heredoc { form, tag, line: FirstWord::default() };
            return Read::of(Class::Code);
        }
        match self.syntax.opening(self.recent) {
            Some((form, fill)) => {
                self.open(form, fill);
                // A word may begin with the opener.
                let class =
                    if matches!(self.state, State::Delimiter { .. }) { Class::Code } else { form.class };
                Read { class, retracted: form.delimiters_in_opener() }
            }
            None => Read::of(self.class()),
        }
    }

    fn open(&mut self, form: &'static Form, fill: usize) {
        self.state = match form.close {
            Close::Quote => State::Quote { form, is_full: false },
            Close::Heredoc(_) | Close::Raw => State::Tag { form, tag: Word::default() },
            Close::Delimited { parts } => State::Delimiter { form, parts },
            _ => State::Inside(Inside::new(form, fill)),
        }
    }

    /// Nothing of what ended belongs to what comes.
    fn end(&mut self) {
        self.state = State::Code;
        self.recent = Recent::CLEAR;
    }

    fn read_inside(&mut self, inside: Inside, c: char) -> Read {
        let Inside { form, fill, .. } = inside;
        let length = inside.length + 1;
        if c == '\n' && self.ends_with_line(form) {
            self.state = State::Code;
            return self.read_code(c);
        }
        self.recent.push(if inside.is_escaped { '\0' } else { c });
        if let Some((longer, fill)) =
            self.syntax.opening_of_length(self.recent, form.open.length(fill) + length)
        {
            self.open(longer, fill);
            return Read::of(longer.class);
        }
        if self.enter_hole(inside, c) {
            return Read::of(Class::Code);
        }
        match inside.next(self.recent, c) {
            Some(next) => self.state = State::Inside(next),
            // The two quotes of an empty string may be the first ones of three.
            None if length == 1 && form.open.length(fill) == 1 => self.state = State::Code,
            None => self.end(),
        }
        Read::of(form.class)
    }

    fn ends_with_line(&self, form: &Form) -> bool {
        match form.span {
            Span::Line => true,
            Span::MostlyLine => self.is_unsure,
            Span::Lines => false,
        }
    }

    /// Whether `c` completes the opener of an interpolation.
    fn enter_hole(&mut self, inside: Inside, c: char) -> bool {
        let interpolation = inside.form.interpolation;
        // Where the escape character begins an interpolation, `c` is the escaped character.
        let is_hole = match interpolation.strip_prefix('\\') {
            Some(rest) => inside.is_escaped && rest.starts_with(c),
            None => !interpolation.is_empty() && self.recent.ends_with(interpolation),
        };
        let free = self.interpolations.iter().position(Option::is_none).filter(|_| is_hole);
        let Some(free) = free else { return false };
        self.interpolations[free] =
            Some(Interpolation { inside: Inside { is_escaped: false, ..inside }, depth: 1 });
        self.state = State::Code;
        true
    }

    /// The string whose interpolation `c` ends.
    fn leave_hole(&mut self, c: char) -> Option<Inside> {
        let last = self.interpolations.iter().rposition(Option::is_some)?;
        let interpolation = self.interpolations[last].as_mut()?;
        if interpolation.inside.form.interpolation.ends_with(c) {
            interpolation.depth += 1;
        } else if c == interpolation.inside.form.interpolation_closer() {
            interpolation.depth -= 1;
        }
        let is_over = interpolation.depth == 0;
        if is_over {
            self.interpolations[last].take().map(|interpolation| interpolation.inside)
        } else {
            None
        }
    }

    fn read_quote(&mut self, form: &'static Form, is_full: bool, c: char) -> Read {
        let is_literal = is_full && form.open.tail.ends_with(c);
        if is_full && !is_literal || c == '\n' {
            self.state = State::Code;
            return self.read_code(c);
        }
        self.recent.push(c);
        match c {
            '\\' if !is_full => {
                let inside = Inside { is_escaped: true, ..Inside::new(form, 0) };
                self.state = State::Inside(inside);
            }
            _ if is_literal => self.end(),
            _ => self.state = State::Quote { form, is_full: true },
        }
        Read::of(form.class)
    }

    fn read_tag(&mut self, form: &'static Form, tag: Word, c: char) -> Read {
        let Close::Heredoc(spacing) = form.close else {
            self.recent.push(c);
            match c {
                '(' => self.state = State::Raw { form, tag, since: None },
                '\n' | '"' => self.end(),
                _ => self.state = State::Tag { form, tag: tag.with(c) },
            }
            return Read::of(form.class);
        };
        let is_empty = tag == Word::default();
        let is_before = match c {
            '-' | '~' | '"' | '\'' | '\\' => true,
            ' ' | '\t' => spacing == Spacing::Free,
            _ => false,
        };
        let is_word = c.is_alphanumeric() && !(is_empty && c.is_ascii_digit()) || c == '_';
        // `a <<b` appends in Ruby and Perl.
        let is_marked = !self.recent.ends_with("<");
        let is_name = is_word && (!is_empty || spacing == Spacing::Free || is_marked || !c.is_lowercase());
        if is_name || is_empty && is_before {
            self.recent.push(c);
            self.state = State::Tag { form, tag: if is_name { tag.with(c) } else { tag } };
            return Read::of(form.class);
        }
        self.state = State::Code;
        if is_empty {
            return self.read_code(c);
        }
        self.heredoc = Some((form, tag));
        if is_quote(c) {
            self.recent = Recent::CLEAR;
            return Read::of(form.class);
        }
        self.read_code(c)
    }

    fn read_delimiter(&mut self, form: &'static Form, parts: u8, c: char) -> Read {
        let is_between =
            matches!(form.close, Close::Delimited { parts: all } if all > parts) && c.is_whitespace();
        if is_between {
            return Read::of(form.class);
        }
        let close = match c {
            '(' => ')',
            '[' => ']',
            '{' => '}',
            '<' => '>',
            ',' if form.class == Class::Regex => c,
            '/' | '|' | '!' | '#' | '~' | '^' | '@' | '"' | '\'' | '`' => c,
            _ => {
                self.state = State::Code;
                return self.read_code(c);
            }
        };
        self.recent.push(c);
        let part = Part { open: c, close, parts, depth: 0, is_empty: true, is_escaped: false };
        self.state = State::Delimited { form, part };
        Read::of(form.class)
    }

    fn read_delimited(&mut self, form: &'static Form, part: Part, c: char) -> Read {
        let next = Part { is_escaped: c == '\\' && !part.is_escaped, is_empty: false, ..part };
        self.state = match part.depth.checked_sub(1) {
            _ if part.is_escaped => State::Delimited { form, part: next },
            None if c == part.close && part.parts > 1 => {
                let rest = Part { parts: part.parts - 1, ..next };
                let is_paired = part.open != part.close;
                if is_paired {
                    State::Delimiter { form, parts: rest.parts }
                } else {
                    State::Delimited { form, part: rest }
                }
            }
            None if c == part.close => {
                // The two quotes of an empty literal may be the first ones of three.
                if part.is_empty {
                    self.recent.push(c)
                } else {
                    self.recent = Recent::CLEAR
                }
                State::Code
            }
            Some(depth) if c == part.close => State::Delimited { form, part: Part { depth, ..next } },
            _ if c == part.open => State::Delimited { form, part: Part { depth: part.depth + 1, ..next } },
            _ => State::Delimited { form, part: next },
        };
        Read::of(form.class)
    }

    fn read_raw(&mut self, form: &'static Form, tag: Word, since: Option<Word>, c: char) -> Read {
        let since = match (c, since) {
            (')', _) => Some(Word::default()),
            ('"', Some(word)) if word == tag => {
                self.end();
                return Read::of(form.class);
            }
            (_, since) => since.map(|word| word.with(c)),
        };
        self.state = State::Raw { form, tag, since };
        Read::of(form.class)
    }

    fn read_heredoc(&mut self, form: &'static Form, tag: Word, line: FirstWord, c: char) -> Read {
        let line = match (c, line) {
            (c, FirstWord::Growing(word)) if c.is_alphanumeric() || c == '_' => {
                FirstWord::Growing(word.with(c))
            }
            (' ' | '\t', FirstWord::Growing(word)) if word == Word::default() => line,
            (_, FirstWord::Growing(word)) if word == tag => {
                self.end();
                return self.read_code(c);
            }
            ('\n', _) => FirstWord::default(),
            _ => FirstWord::Other,
        };
        self.state = State::Heredoc { form, tag, line };
        Read::of(form.class)
    }
}

/// The byte in `text` before the closing quote of the literal that `lexer` is in. `None` if it is not closed, or only by
/// the end of its line.
pub fn string_end(mut lexer: Lexer, text: &str) -> Option<usize> {
    let (interpolations, class, closer) = (lexer.interpolations, lexer.class(), lexer.closer_length()?);
    text.char_indices()
        .find_map(|(at, c)| {
            lexer.read(c);
            let is_over = lexer.interpolations == interpolations && lexer.class() != class;
            is_over.then(|| (c, (at + c.len_utf8()).saturating_sub(closer)))
        })
        .and_then(|(c, end)| (c != '\n').then_some(end))
}

fn is_quote(c: char) -> bool {
    matches!(c, '"' | '\'' | '`')
}

impl Read {
    fn of(class: Class) -> Self {
        Self { class, retracted: 0 }
    }
}

impl Inside {
    fn new(form: &'static Form, fill: usize) -> Self {
        Self { form, fill, depth: 0, length: 0, is_escaped: false }
    }

    /// The state after `c`, the last of `recent`; `None` if `c` ends the form.
    fn next(self, recent: Recent, c: char) -> Option<Self> {
        let Self { form, fill, depth, .. } = self;
        let length = self.length + 1;
        let next = Self { length, is_escaped: !self.is_escaped && form.escape == Some(c), ..self };
        if form.class == Class::Regex && !self.is_escaped && matches!(c, '[' | ']') {
            return Some(Self { depth: usize::from(c == '['), ..next });
        }
        if form.nests && length >= form.open.length(fill) && form.open.ends(recent).is_some() {
            return Some(Self { depth: depth + 1, length: 0, ..next });
        }
        if !form.closes(recent, fill, length) {
            return Some(next);
        }
        let is_in_class = form.class == Class::Regex && depth > 0;
        match depth.checked_sub(1) {
            _ if is_in_class => Some(next),
            Some(depth) => Some(Self { depth, length: 0, ..next }),
            None => None,
        }
    }
}

impl Form {
    /// Whether `recent` ends with its closer, `length` characters after its opener.
    fn closes(&self, recent: Recent, fill: usize, length: usize) -> bool {
        match self.close {
            Close::Pattern(close) => length >= close.length(fill) && close.ends_filled(recent, fill),
            Close::Next => true,
            Close::Quote => recent.ends_with(self.open.tail),
            Close::Line | Close::Heredoc(_) | Close::Raw | Close::Delimited { .. } => false,
        }
    }
}

impl Word {
    fn with(self, c: char) -> Self {
        Self((self.0 ^ u32::from(c)).wrapping_add(1).wrapping_mul(0x0100_0193))
    }
}

impl Default for FirstWord {
    fn default() -> Self {
        Self::Growing(Word::default())
    }
}
