//! Tracks open delimiters outside comments, strings and other literals.

use super::lexer::Lexer;
use super::syntax::{Class, Syntax};

/// The open delimiters at the end of the text read so far.
#[derive(Clone, Debug, PartialEq)]
pub struct Delimiters {
    lexer: Lexer,
    open: Vec<char>,
}

impl Delimiters {
    /// Starts with the delimiters `open`, outermost first; `lexer` reads the text that follows.
    pub fn new(lexer: Lexer, open: &str) -> Self {
        Self { lexer, open: open.chars().collect() }
    }

    /// Replaces the lexer for the text that follows.
    pub fn read_by(self, lexer: Lexer) -> Self {
        Self { lexer, ..self }
    }

    /// Reads one character; true if it is an unmatched closing delimiter. One that closes an outer delimiter closes all
    /// inside it too.
    pub fn read(&mut self, c: char) -> bool {
        let read = self.lexer.read(c);
        self.open.truncate(self.open.len().saturating_sub(read.retracted));
        if !matches!(read.class, Class::Code | Class::Prose) {
            return false;
        }
        if matches!(c, '(' | '[' | '{') {
            self.open.push(c);
        } else if let Some(opener) = opener_of(c) {
            match self.open.iter().rposition(|&open| open == opener) {
                Some(at) => self.open.truncate(at),
                None => return true,
            }
        }
        false
    }

    /// Reads all of `text`.
    pub fn read_all(&mut self, text: &str) {
        text.chars().for_each(|c| {
            self.read(c);
        });
    }

    /// The open delimiters, outermost first.
    pub fn open(&self) -> &[char] {
        &self.open
    }

    pub fn lexer(&self) -> &Lexer {
        &self.lexer
    }
}

/// The delimiters that `text`, the start of a line, leaves open, outermost first.
pub fn open_delimiters(syntax: &'static Syntax, text: &str) -> String {
    let mut delimiters = Delimiters::new(Lexer::unsure(syntax), "");
    delimiters.read_all(text);
    delimiters.open.into_iter().collect()
}

/// The byte after the closing delimiter of the first block in `text`, which begins in code.
pub fn first_block_end(syntax: &'static Syntax, text: &str) -> Option<usize> {
    let mut delimiters = Delimiters::new(Lexer::new(syntax), "");
    let mut was_open = false;
    text.char_indices().find_map(|(at, c)| {
        delimiters.read(c);
        let is_closed = was_open && delimiters.open.is_empty();
        was_open |= !delimiters.open.is_empty();
        is_closed.then(|| at + c.len_utf8())
    })
}

/// The delimiter that `c` closes.
pub fn opener_of(c: char) -> Option<char> {
    match c {
        ')' => Some('('),
        ']' => Some('['),
        '}' => Some('{'),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::families;
    use super::*;

    #[test]
    fn the_first_block_ends_with_its_closer() {
        for (syntax, block, rest) in [
            (&families::RUST, "(x: &'a str)", " {\n}"),
            (&families::RUST, "{\n  '}'; \"}\" // }\n}", " x"),
            (&families::RUST, "{ \"}\n}\" r#\"}\"}\"# /* } /* */ } */ '}' }", " }"),
            (&families::C, "{ a{} }", " b"),
        ] {
            let text = format!("{block}{rest}");
            assert_eq!(first_block_end(syntax, &text).map(|end| &text[..end]), Some(block));
        }
        for text in ["{ a ", "a "] {
            assert_eq!(first_block_end(&families::C, text), None);
        }
    }

    #[test]
    fn openers_of_comments_and_strings_are_no_delimiters() {
        for (syntax, text, expected) in [
            (&families::OCAML, "f (g (* ( *) [", "(["),
            (&families::HASKELL, "f { {- { -} (", "{("),
            (&families::LUA, "f([[ ( ]], { [=[ ]] ]=]", "({"),
            (&families::LUA, "t[a[1]", "["),
            (&families::SCRIPT, "f(`a ${g({ b: `)${c", "({({{"),
            (&families::PROSE, "it's [a](b", "("),
        ] {
            assert_eq!(open_delimiters(syntax, text), expected, "{text:?}");
        }
    }

    #[test]
    fn a_closer_of_an_outer_one_closes_what_is_inside() {
        let mut delimiters = Delimiters::new(Lexer::new(&families::C), "{");
        let unmatched: Vec<bool> = "([{)]}}".chars().map(|c| delimiters.read(c)).collect();
        assert_eq!(unmatched, [false, false, false, false, true, false, true]);
        assert!(delimiters.open().is_empty());
    }
}
