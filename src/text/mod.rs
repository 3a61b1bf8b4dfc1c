//! Source text with no grammar: what is code, comment or string, which delimiters are open, words, indentation.
//!
//! [`language`] is the table of languages and the place where one is added, [`families`] says how families of
//! them write comments, strings and other literals, and a [`Lexer`] reads text by that, one character at a
//! time, so that it can follow a text while it is generated. Pure.

pub mod delimiters;
pub mod families;
pub mod indentation;
pub mod language;
pub mod lexer;
mod recent;
pub mod syntax;
pub mod words;

#[cfg(test)]
mod tests;

pub use delimiters::{Delimiters, first_block_end, open_delimiters, opener_of};
pub use indentation::Indentation;
pub use language::Language;
pub use lexer::Lexer;
pub use syntax::{Class, Syntax};
