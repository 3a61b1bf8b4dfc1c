//! What a chat template may be and make: it is part of a model, and models are untrusted. Instructions and the data that
//! they make are counted by minijinja; here is what it leaves open.

use anyhow::{Result, bail, ensure};
use minijinja::machinery::{Token, Tokenizer};
use minijinja::syntax::SyntaxConfig;
use minijinja::{Error, ErrorKind, Output, State, Value};

/// Most tokens between two delimiters: chains of operators, attributes or filters are walked by recursion, which the
/// parser does not bound.
const TAG_TOKENS_MAX: usize = 256;
/// Most branches of conditions in all, which are walked by recursion too.
const BRANCHES_MAX: usize = 128;
/// Longest text that `tojson` gives, in bytes.
const JSON_BYTES_MAX: usize = 1 << 22;
/// Words that stand for values in lists and maps.
const CONSTANTS: [&str; 6] = ["true", "false", "none", "True", "False", "None"];

/// Fails where a chain is too long to be walked by recursion, and where a list or map is made of variables: nested in
/// themselves, a few of these stand for a text without end.
pub(super) fn check_tokens(source: &str, syntax: SyntaxConfig) -> Result<()> {
    let (mut in_tag, mut branches, mut literals) = (0, 0, Vec::new());
    let mut before = Token::BlockEnd;
    let mut tokens = Tokenizer::new(source, "chat template", false, syntax);
    while let Some((token, at)) = tokens.next_token()? {
        let line = at.start_line;
        in_tag = match token {
            Token::VariableStart | Token::BlockStart | Token::TemplateData(_) => 0,
            _ => in_tag + 1,
        };
        match &token {
            Token::BracketOpen | Token::BraceOpen => literals.push(!is_operand(&before)),
            Token::BracketClose | Token::BraceClose => drop(literals.pop()),
            Token::Ident("elif") => branches += 1,
            Token::Ident(name) if literals.last() == Some(&true) && !CONSTANTS.contains(name) => {
                bail!("line {line}: lists and maps of variables ({name}) are not supported");
            }
            Token::BlockEnd | Token::VariableEnd => literals.clear(),
            _ => {}
        }
        ensure!(in_tag <= TAG_TOKENS_MAX, "line {line}: a tag has more than {TAG_TOKENS_MAX} tokens");
        before = token;
    }
    ensure!(
        branches <= BRANCHES_MAX,
        "it has {branches} branches of conditions; at most {BRANCHES_MAX} are read"
    );
    Ok(())
}

/// Whether a bracket after this token takes an element of it.
fn is_operand(token: &Token) -> bool {
    const WORDS: [&str; 8] = ["in", "and", "or", "not", "if", "else", "is", "elif"];
    match token {
        Token::Ident(name) => !WORDS.contains(name),
        Token::Str(_) | Token::String(_) | Token::BracketClose | Token::BraceClose | Token::ParenClose => {
            true
        }
        _ => false,
    }
}

/// As minijinja prints a value, but lists and maps not at all: no supported template does without `tojson`.
pub(super) fn print(out: &mut Output, state: &mut State, value: &Value) -> Result<(), Error> {
    if value.as_object().is_some() {
        return Err(Error::new(ErrorKind::InvalidOperation, "a list or map is printed without tojson"));
    }
    minijinja::escape_formatter(out, state, value)
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
