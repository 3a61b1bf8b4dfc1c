//! What a chat template may be and print: it is part of a model, and models are untrusted. minijinja counts instructions;
//! here is what it leaves open of a template's source and of its text, and in `values` what of its values.

use anyhow::{Result, ensure};
use minijinja::machinery::{Token, Tokenizer};
use minijinja::syntax::SyntaxConfig;
use minijinja::{Error, ErrorKind, Output, State, Value};

/// Most tokens between two delimiters: chains of operators, attributes or filters are walked by recursion, which the
/// parser does not bound.
const TAG_TOKENS_MAX: usize = 256;
/// Most branches of conditions in all, which are walked by recursion too.
const BRANCHES_MAX: usize = 128;
/// Most digits of a width that a text is padded to.
const WIDTH_DIGITS_MAX: usize = 4;
/// Longest text that `tojson` gives, in bytes.
const JSON_BYTES_MAX: usize = 1 << 22;

/// Fails where a chain is too long to be walked by recursion.
pub(super) fn check_tokens(source: &str, syntax: SyntaxConfig) -> Result<()> {
    let (mut in_tag, mut branches) = (0, 0);
    let mut tokens = Tokenizer::new(source, "chat template", false, syntax);
    while let Some((token, at)) = tokens.next_token()? {
        let line = at.start_line;
        in_tag = match token {
            Token::VariableStart | Token::BlockStart | Token::TemplateData(_) => 0,
            _ => in_tag + 1,
        };
        branches += usize::from(matches!(token, Token::Ident("elif")));
        ensure!(in_tag <= TAG_TOKENS_MAX, "line {line}: a tag has more than {TAG_TOKENS_MAX} tokens");
    }
    ensure!(
        branches <= BRANCHES_MAX,
        "it has {branches} branches of conditions; at most {BRANCHES_MAX} are read"
    );
    Ok(())
}

/// As minijinja prints a value, but lists and maps not at all: no supported template does without `tojson`.
pub(super) fn print(out: &mut Output, state: &mut State, value: &Value) -> Result<(), Error> {
    if value.as_object().is_some() {
        return Err(Error::new(ErrorKind::InvalidOperation, "a list or map is printed without tojson"));
    }
    minijinja::escape_formatter(out, state, value)
}

/// Fails for the format of a text that is padded to a great width, for which minijinja does not count.
pub(super) fn check_widths(format: &str) -> Result<(), Error> {
    let mut numbers = format.split(|c: char| !c.is_ascii_digit());
    match numbers.any(|digits| digits.len() > WIDTH_DIGITS_MAX) {
        true => Err(Error::new(ErrorKind::InvalidOperation, "a text is padded to a great width")),
        false => Ok(()),
    }
}

/// Bytes in memory, at most.
#[derive(Default)]
pub(super) struct Bounded(pub Vec<u8>);

impl std::io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.0.len() + bytes.len() > JSON_BYTES_MAX {
            return Err(std::io::ErrorKind::OutOfMemory.into());
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
