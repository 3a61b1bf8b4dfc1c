//! Analysis of source text without a grammar: code, comments and strings, delimiters, identifiers, indentation. Pure.
//!
//! [`language`] is the table of languages, where new ones are added; [`families`] describes the comments, strings and
//! other literals of language families; a [`Lexer`] reads text one character at a time, so that it can follow a
//! generation.

pub mod blocks;
pub mod delimiters;
pub mod families;
pub mod fences;
mod heads;
pub mod imports;
pub mod indentation;
pub mod language;
pub mod lexer;
pub mod outline;
mod recent;
pub mod syntax;
pub mod tags;
pub mod whitespace;
pub mod words;

#[cfg(test)]
mod tests;

pub use delimiters::{Delimiters, first_block_end, open_delimiters, opener_of};
pub use indentation::Indentation;
pub use language::Language;
pub use lexer::Lexer;
pub use outline::Outline;
pub use syntax::{Class, Syntax};
