//! What authenticates a user to a server.

use std::fmt;

use anyhow::{Result, ensure};

/// A secret that authenticates the user. It is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// Fails for what cannot be sent in a header.
    pub fn new(text: &str) -> Result<Self> {
        let text = text.trim();
        ensure!(!text.is_empty(), "the token is empty");
        ensure!(
            text.bytes().all(|byte| byte.is_ascii_graphic()),
            "the token has characters that no token has"
        );
        Ok(Self(text.to_owned()))
    }

    /// The value of an `Authorization` header.
    pub fn bearer(&self) -> String {
        format!("Bearer {}", self.0)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_not_shown() {
        let token = Token::new(" secret\n").unwrap();
        assert!(token == Token("secret".into()) && !format!("{token:?}").contains("secret"));
        for wrong in ["", " \n", "a b", "a\nb", "é"] {
            let error = Token::new(wrong).unwrap_err().to_string();
            assert!(!error.contains("a b"), "{error}");
        }
    }
}
