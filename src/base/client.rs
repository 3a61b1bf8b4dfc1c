//! What clients of servers share: tokens, the wait before another attempt, and which server is this machine.

use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

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

/// The wait before a new attempt, `first` at most before the first: twice as long each time, and of random length, so
/// that those whom a server failed together do not come back together.
pub fn back_off(attempt: u32, first: Duration, max: Duration) -> Duration {
    let longest = first.saturating_mul(1 << attempt.min(16)).min(max);
    let random = RandomState::new().build_hasher().finish() as f64 / u64::MAX as f64;
    longest.mul_f64(0.5 + random / 2.0)
}

/// Whether a host, as a URL names it, is this machine.
pub fn is_loopback(host: &str) -> bool {
    matches!(host, "localhost" | "[::1]") || host.starts_with("127.")
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

    #[test]
    fn waits_grow_and_differ() {
        let (first, max) = (Duration::from_millis(200), Duration::from_secs(10));
        for attempt in 0..40 {
            let longest = (200 << attempt.min(16)).min(10_000) as u128;
            let wait = back_off(attempt, first, max).as_millis();
            assert!((longest / 2 - 1..=longest).contains(&wait), "{attempt}: {wait}");
        }
    }

    #[test]
    fn this_machine_has_several_names() {
        for (host, expected) in [
            ("localhost", true),
            ("127.0.0.1", true),
            ("127.1.2.3", true),
            ("[::1]", true),
            ("10.0.0.1", false),
            ("localhost.example.org", false),
        ] {
            assert_eq!(is_loopback(host), expected, "{host}");
        }
    }
}
