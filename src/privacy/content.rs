//! Secrets in a text that may be read otherwise: private keys, tokens of known forms, and random values with names like
//! those of keys. They are masked, each character by another one of its length in UTF-8 and UTF-16, so that positions
//! stay. Pure.

use std::ops::Range;
use std::sync::LazyLock;

use aho_corasick::{AhoCorasick, MatchKind};
use ropey::Rope;

/// Why a part of a text is masked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    PrivateKey,
    /// A token, by its form.
    Token,
    /// A password in a URL.
    Url,
    /// The value of a name like that of a key.
    Value,
}

impl Kind {
    /// As a message names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::PrivateKey => "a private key",
            Self::Token => "a token of a known form",
            Self::Url => "a password in a URL",
            Self::Value => "a random value with a name like that of a key",
        }
    }
}

/// A text without its secrets.
pub fn masked(text: String) -> String {
    let secrets = secrets(&text);
    if secrets.is_empty() { text } else { mask(&text, &secrets) }
}

/// The same for a text that the cursor splits.
pub fn masked_parts(before: &str, after: &str) -> (String, String) {
    Scanner::default().masked_parts(&Rope::from_str(&(before.to_owned() + after)), before.len())
}

/// The secrets of a text that is edited again and again: only the lines that have changed are searched.
#[derive(Default)]
pub struct Scanner {
    secrets: Vec<(Range<usize>, Kind)>,
    has_keys: bool,
    /// Bytes of the text when it was searched.
    len: usize,
    /// How many bytes at its start and at its end are the same since.
    same: [usize; 2],
}

impl Scanner {
    /// Notes an edit that leaves this many bytes at the start and at the end of the text as they were.
    pub fn edited(&mut self, before: usize, after: usize) {
        self.same = [self.same[0].min(before), self.same[1].min(after)];
    }

    /// [`masked_parts`] of the text as it is now, before and after byte `cursor`. All edits were noted.
    pub fn masked_parts(&mut self, text: &Rope, cursor: usize) -> (String, String) {
        self.update(text);
        if self.secrets.is_empty() {
            let part = |range| String::from(text.byte_slice(range));
            return (part(0..cursor), part(cursor..text.len_bytes()));
        }
        let mut masked = mask(&String::from(text), &self.secrets);
        let after = masked.split_off(cursor);
        (masked, after)
    }

    /// Finds the secrets of a text. All but private keys are inside of lines.
    fn update(&mut self, text: &Rope) {
        let (old, new) = self.changed_lines(text);
        let (found, has_keys) = search(&String::from(text.byte_slice(new.clone())));
        self.len = text.len_bytes();
        self.same = [self.len; 2];
        if has_keys || self.has_keys {
            (self.secrets, self.has_keys) = search(&String::from(text));
            return;
        }
        let at = |end: usize| self.secrets.partition_point(|(range, _)| range.start < end);
        let (first, last) = (at(old.start), at(old.end));
        for (range, _) in &mut self.secrets[last..] {
            *range = range.start + new.end - old.end..range.end + new.end - old.end;
        }
        let moved =
            found.into_iter().map(|(range, kind)| (new.start + range.start..new.start + range.end, kind));
        self.secrets.splice(first..last, moved);
    }

    /// The lines that may have changed, as bytes of the text that was searched and of this one.
    fn changed_lines(&self, text: &Rope) -> (Range<usize>, Range<usize>) {
        let len = text.len_bytes();
        let shorter = len.min(self.len);
        let before = self.same[0].min(shorter);
        let after = self.same[1].min(shorter - before);
        let start = before - line_bytes(text.bytes_at(before).reversed());
        let end = (len - after + line_bytes(text.bytes_at(len - after)) + 1).min(len);
        (start..end + self.len - len, start..end)
    }
}

/// How many bytes come before the next end of a line.
fn line_bytes(bytes: impl Iterator<Item = u8>) -> usize {
    bytes.take_while(|&byte| byte != b'\n').count()
}

/// The secrets in a text, in bytes, in their order.
pub fn secrets(text: &str) -> Vec<(Range<usize>, Kind)> {
    search(text).0
}

/// The same, and whether there are headers of private keys.
fn search(text: &str) -> (Vec<(Range<usize>, Kind)>, bool) {
    let mut found: Vec<(Range<usize>, Kind)> = Vec::new();
    let (mut line_done, mut has_keys) = (0, false);
    for hit in SIGNS.find_iter(text) {
        match SIGN_KINDS[hit.pattern().as_usize()] {
            Sign::PrivateKey => {
                has_keys = true;
                found.extend(private_key(text, hit.end()).into_iter().map(|range| (range, Kind::PrivateKey)))
            }
            Sign::Token(start, length_min) => {
                found.extend(token(text, hit.start(), start, length_min).map(|range| (range, Kind::Token)))
            }
            Sign::Url => found.extend(url_password(text, hit.end()).map(|range| (range, Kind::Url))),
            Sign::Name(strength) if hit.end() > line_done => {
                let values = values(text, hit.range(), strength);
                if let Some(last) = values.last() {
                    line_done = last.end;
                }
                found.extend(values.into_iter().map(|range| (range, Kind::Value)));
            }
            Sign::Name(_) => {}
        }
    }
    found.sort_by_key(|(range, _)| range.start);
    (found, has_keys)
}

/// Longest part of a line after a name that is looked at for the start of a value.
const BYTES_MAX: usize = 256;

#[derive(Clone, Copy)]
enum Sign {
    PrivateKey,
    /// A token that begins so and has at least this many further characters.
    Token(&'static str, usize),
    Url,
    /// A part of a name.
    Name(Strength),
}

/// How sure a name is that its value is a secret.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Strength {
    Strong,
    /// The value must be long and random.
    Weak,
}

const STRONG: [&str; 22] = [
    "passw",
    "passphrase",
    "pwd",
    "secret",
    "token",
    "apikey",
    "api_key",
    "api-key",
    "api key",
    "accesskey",
    "access_key",
    "access-key",
    "accountkey",
    "account_key",
    "private_key",
    "privatekey",
    "private-key",
    "encryption_key",
    "signing_key",
    "credential",
    "bearer",
    "authorization",
];
const WEAK: [&str; 6] = ["key", "auth", "cookie", "session", "salt", "jwt"];
const TOKENS: [(&str, usize); 25] = [
    ("ghp_", 30),
    ("gho_", 30),
    ("ghu_", 30),
    ("ghs_", 30),
    ("ghr_", 30),
    ("github_pat_", 30),
    ("glpat-", 18),
    ("sk-", 20),
    ("sk_live_", 16),
    ("sk_test_", 16),
    ("rk_live_", 16),
    ("xoxb-", 16),
    ("xoxp-", 16),
    ("xoxa-", 16),
    ("xoxs-", 16),
    ("xapp-", 16),
    ("AKIA", 16),
    ("ASIA", 16),
    ("AIza", 30),
    ("ya29.", 20),
    ("npm_", 30),
    ("pypi-", 30),
    ("hf_", 30),
    ("dop_v1_", 30),
    ("eyJ", 40),
];
const PRIVATE: [&str; 3] = ["PRIVATE KEY-----", "PRIVATE KEY BLOCK-----", "Private-Lines:"];

static SIGNS: LazyLock<AhoCorasick> = LazyLock::new(|| {
    let tokens = TOKENS.iter().map(|(start, _)| *start);
    let words = PRIVATE.into_iter().chain(tokens).chain(["://"]).chain(STRONG).chain(WEAK);
    let built = AhoCorasick::builder()
        .ascii_case_insensitive(true)
        .match_kind(MatchKind::LeftmostLongest)
        .build(words);
    built.expect("the signs are few")
});

static SIGN_KINDS: LazyLock<Vec<Sign>> = LazyLock::new(|| {
    let tokens = TOKENS.iter().map(|&(start, length_min)| Sign::Token(start, length_min));
    let strong = STRONG.iter().map(|_| Sign::Name(Strength::Strong));
    let weak = WEAK.iter().map(|_| Sign::Name(Strength::Weak));
    PRIVATE
        .iter()
        .map(|_| Sign::PrivateKey)
        .chain(tokens)
        .chain([Sign::Url])
        .chain(strong)
        .chain(weak)
        .collect()
});

/// The lines of a private key whose header ends at `start`.
fn private_key(text: &str, start: usize) -> Vec<Range<usize>> {
    /// An encoded line that is surely none of code.
    const LINE_MIN: usize = 24;
    let (mut found, mut at) = (Vec::new(), start);
    for line in text[start..].split_inclusive(['\n', '\\']) {
        let range = at..at + line.len();
        at = range.end;
        let armour = line.strip_prefix('n').filter(|_| text[..range.start].ends_with('\\')).unwrap_or(line);
        let content = armour.trim_matches(|c: char| c.is_whitespace() || "\"'`,;+\\#/*|>-".contains(c));
        let is_code = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '/' | '=');
        if armour.contains("-----END") || (armour.contains("-----") && !armour.contains("PRIVATE KEY")) {
            break;
        }
        let is_header = content.is_empty() || content.contains(": ");
        let is_encoded = content.chars().all(is_code) && (!found.is_empty() || content.len() >= LINE_MIN);
        if !is_header && !is_encoded {
            break;
        }
        if !content.is_empty() && is_encoded {
            let from = content.as_ptr() as usize - text.as_ptr() as usize;
            found.push(from..from + content.len());
        }
    }
    found
}

/// The token at `at` that begins with `start`.
fn token(text: &str, at: usize, start: &str, length_min: usize) -> Option<Range<usize>> {
    let is_inside = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    let rest = text[at..].strip_prefix(start)?;
    if text.as_bytes()[..at].last().is_some_and(is_inside) {
        return None;
    }
    // A JSON web token has three parts.
    let length = rest.bytes().take_while(|byte| is_inside(byte) || *byte == b'.').count();
    let rest = &rest[..length];
    let has = |test: fn(&u8) -> bool| rest.bytes().any(|byte| test(&byte));
    let is_random = has(u8::is_ascii_digit) && has(u8::is_ascii_alphabetic) && !is_of_words(rest);
    (length >= length_min && is_random).then_some(at..at + start.len() + length)
}

/// The password of a URL whose authority begins at `start`.
fn url_password(text: &str, start: usize) -> Option<Range<usize>> {
    let is_end = |c: char| {
        c.is_whitespace() || matches!(c, '/' | '"' | '\'' | '`' | '<' | '>' | ',' | ')' | '$' | '{')
    };
    let authority = text[start..].split(is_end).next().unwrap_or_default();
    let (user, _) = authority.rsplit_once('@')?;
    let (name, password) = user.split_once(':')?;
    let from = start + name.len() + 1;
    (password.len() >= 3).then_some(from..from + password.len())
}

/// The random values after the name of which `part` is a part, in the same line.
fn values(text: &str, part: Range<usize>, strength: Strength) -> Vec<Range<usize>> {
    let is_name = |byte: &&u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    let bytes = text.as_bytes();
    let tail = bytes[part.end..].iter().take_while(is_name).count();
    // Of weak names only the ends of words count: `keyboard` is none.
    let follows = bytes.get(part.end).copied().unwrap_or_default();
    let is_in_a_word = strength == Strength::Weak && follows.is_ascii_lowercase();
    // Of tokenizers there are many here.
    if is_in_a_word || bytes[part.end..].starts_with(b"iz") {
        return Vec::new();
    }
    let start = part.end + tail;
    let Some(offset) = separator(head(&text[start..], BYTES_MAX)) else { return Vec::new() };
    let from = start + offset;
    let rest = head(&text[from..], BYTES_MAX);
    let rest = rest.split('\n').next().unwrap_or_default();
    let mut found = quoted(rest, strength);
    if found.is_empty() {
        found.extend(bare(rest, strength));
    }
    // A long value extends to its end.
    let is_end = |c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '`' | '<');
    let end = |at: usize| match at == rest.len() {
        true => text[from + at..].find(is_end).map_or(text.len(), |length| from + at + length),
        false => from + at,
    };
    found.into_iter().map(|range| from + range.start..end(range.end)).collect()
}

/// The start of a text, of at most `bytes_max` bytes.
fn head(text: &str, bytes_max: usize) -> &str {
    let end = (0..=bytes_max.min(text.len())).rev().find(|&end| text.is_char_boundary(end));
    &text[..end.unwrap_or_default()]
}

/// Where values begin in what follows a name; `None` where none does.
fn separator(rest: &str) -> Option<usize> {
    let after_quote = rest.trim_start_matches(['"', '\'', '`', ']', ' ', '\t', '?', '!']);
    let skipped = rest.len() - after_quote.len();
    let is_spaced = rest.starts_with([' ', '\t']);
    let length = after_quote.chars().next().filter(|c| "=:,>(|".contains(*c)).map(char::len_utf8);
    match length {
        Some(length) => Some(skipped + length),
        // As in .netrc, a header, and arguments of a command.
        None if is_spaced => Some(skipped),
        None => None,
    }
}

/// The random texts among the first in quotes.
fn quoted(rest: &str, strength: Strength) -> Vec<Range<usize>> {
    /// How many are looked at: a value may have a name of its own.
    const QUOTED_MAX: usize = 2;
    let (mut found, mut at) = (Vec::new(), 0);
    for _ in 0..QUOTED_MAX {
        let Some(open) = rest[at..].find(['"', '\'', '`']) else { break };
        let quote = &rest[at + open..=at + open];
        let start = at + open + 1;
        // A quote that closes further on is that of a long value.
        let is_cut = rest.len() > BYTES_MAX - char::MAX.len_utf8();
        let cut = is_cut.then_some(rest.len() - start);
        let Some(length) = closing(&rest[start..], quote).or(cut) else { break };
        let text = &rest[start..start + length];
        let skipped = ["Bearer ", "bearer ", "Basic ", "basic ", "token "]
            .iter()
            .find(|start| text.starts_with(**start));
        let skipped = skipped.map_or(0, |start| start.len());
        if is_random(&text[skipped..], strength) {
            found.push(start + skipped..start + length);
        }
        at = (start + length + 1).min(rest.len());
    }
    found
}

/// Where the quote that opened before `text` closes.
fn closing(text: &str, quote: &str) -> Option<usize> {
    let mut from = 0;
    loop {
        let at = from + text[from..].find(quote)?;
        let backslashes = text[..at].bytes().rev().take_while(|&byte| byte == b'\\').count();
        if backslashes % 2 == 0 {
            return Some(at);
        }
        from = at + 1;
    }
}

/// The random text without quotes at the start of what follows a name, unless it is code.
fn bare(rest: &str, strength: Strength) -> Option<Range<usize>> {
    let rest_trimmed = rest.trim_start_matches([' ', '\t', '=', '>', ':', '\'', '"', '-']);
    let mut start = rest.len() - rest_trimmed.len();
    let mut words = rest_trimmed.split_inclusive([' ', '\t']);
    let mut word = words.next()?;
    if ["bearer", "basic", "token"].contains(&&*word.trim().to_ascii_lowercase()) {
        start += word.len();
        word = words.next()?;
    }
    let word = word.trim_end().trim_end_matches([',', ';', '\r', '"', '\'']);
    let word = word.split(['<', '&']).next().unwrap_or_default();
    let is_code =
        word.contains(['(', ')', '{', '}', '[', ']', '$']) || word.contains("::") || word.contains("->");
    (!is_code && !is_identifier(word) && is_random(word, strength)).then_some(start..start + word.len())
}

/// Whether a word may be a name in code, and is not too random for one.
fn is_identifier(word: &str) -> bool {
    let digits = word.bytes().filter(u8::is_ascii_digit).count();
    let is_path = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.');
    word.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && word.chars().all(is_path)
        && (digits < 3 || word.len() < 16)
}

/// Whether a value is random, and no word, path or placeholder.
fn is_random(value: &str, strength: Strength) -> bool {
    let (length_min, bits_min) = match strength {
        Strength::Strong => (8, 2.5),
        Strength::Weak => (20, 3.5),
    };
    let has = |test: fn(&u8) -> bool| value.bytes().any(|byte| test(&byte));
    let classes =
        [u8::is_ascii_lowercase, u8::is_ascii_uppercase, u8::is_ascii_digit, u8::is_ascii_punctuation];
    let classes = classes.into_iter().filter(|class| has(*class)).count();
    let has_digit = has(u8::is_ascii_digit);
    value.len() >= length_min
        && !value.contains(|c: char| c.is_whitespace() || c.is_control())
        && !value.contains("://")
        && !["${", "{{", "%(", "<", "/", "./", "../", "~/", "$"].iter().any(|start| value.starts_with(start))
        && (has_digit && has(u8::is_ascii_alphabetic) || classes >= 3 || (classes >= 2 && value.len() >= 24))
        && !is_of_words(value)
        && bits_per_char(value) >= bits_min
}

/// Whether a value is words and short numbers with separators between them, as names, models and dates are.
fn is_of_words(value: &str) -> bool {
    let is_word = |part: &str| {
        let letters = part.trim_end_matches(|c: char| c.is_ascii_digit());
        let is_plain = letters.bytes().all(|byte| byte.is_ascii_alphabetic());
        let humps = letters.bytes().skip(1).filter(u8::is_ascii_uppercase).count();
        let is_capital = letters.bytes().all(|byte| byte.is_ascii_uppercase());
        let is_named = is_capital || humps * 3 <= letters.len();
        is_plain
            && is_named
            && part.len() <= 20
            && part.len() - letters.len() <= if letters.is_empty() { 4 } else { 1 }
    };
    value.split(['-', '_', '.', '/', ':', '@', ' ', ',']).all(is_word)
}

/// Shannon's entropy of the characters of a text, in bits per character.
fn bits_per_char(text: &str) -> f64 {
    let mut counts = [0_u32; 256];
    text.bytes().for_each(|byte| counts[usize::from(byte)] += 1);
    let total = text.len() as f64;
    let shares = counts.iter().filter(|&&count| count > 0).map(|&count| f64::from(count) / total);
    shares.map(|share| -share * share.log2()).sum()
}

fn mask(text: &str, secrets: &[(Range<usize>, Kind)]) -> String {
    let (mut out, mut at) = (String::with_capacity(text.len()), 0);
    for (range, _) in secrets {
        let start = range.start.max(at);
        if start >= range.end {
            continue;
        }
        out.push_str(&text[at..start]);
        out.extend(text[start..range.end].chars().map(masked_char));
        at = range.end;
    }
    out.push_str(&text[at..]);
    out
}

/// A character of the same length.
fn masked_char(c: char) -> char {
    match c.len_utf8() {
        1 => '*',
        2 => '\u{a4}',
        3 => '\u{2022}',
        _ => '\u{1f512}',
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks that of a text just what is between « and » is masked.
    #[track_caller]
    fn check(marked: &str) {
        let text = marked.replace(['«', '»'], "");
        let expected: String = marked
            .split('«')
            .enumerate()
            .map(|(i, part)| match part.split_once('»') {
                Some((secret, rest)) if i > 0 => secret.chars().map(masked_char).collect::<String>() + rest,
                _ => part.to_owned(),
            })
            .collect();
        assert_eq!(masked(text), expected);
    }

    #[test]
    fn edits_find_what_the_whole_text_has() {
        const PIECES: [&str; 12] = [
            "password = \"hunter2-Zq9xK\"",
            "-----BEGIN rsa PRIVATE KEY-----\n",
            "MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQDx\n",
            "-----END RSA PRIVATE KEY-----\n",
            "\n",
            "ghp_16C7e42F292c6912E7710c838347Ae178B4a",
            "postgres://me:pa55word@db/x",
            "api",
            "_key: 9f86d081884c7d65",
            "é = 1; ",
            " ",
            "\"",
        ];
        let mut random = crate::base::random::Mmix(3);
        for _ in 0..40 {
            let (mut scanner, mut text, mut rope) = (Scanner::default(), String::new(), Rope::new());
            for _ in 0..60 {
                let mut cut = || {
                    let at = random.below(text.len() + 1);
                    (0..=at).rev().find(|&at| text.is_char_boundary(at)).unwrap()
                };
                let (one, other) = (cut(), cut());
                let start = one.min(other);
                let end = if random.below(3) == 0 { one.max(other) } else { start };
                let piece = PIECES[random.below(PIECES.len())];
                text.replace_range(start..end, piece);
                let chars = rope.byte_to_char(start)..rope.byte_to_char(end);
                rope.remove(chars.clone());
                rope.insert(chars.start, piece);
                scanner.edited(start, text.len() - start - piece.len());
                if random.below(3) == 0 {
                    continue;
                }
                let (before, after) = scanner.masked_parts(&rope, start);
                assert_eq!(before.len(), start);
                assert_eq!(before + &after, masked(text.clone()));
            }
        }
    }

    #[test]
    fn private_keys_are_masked() {
        let line = "MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQDx";
        check(&format!(
            "a\n-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\n«{line}»\n«{line}»\n«abc=»\n-----END RSA PRIVATE KEY-----\nb = 1\n"
        ));
        check(&format!(
            "key = \"-----BEGIN PRIVATE KEY-----\\n«{line}»\\n«ab12»\\n-----END PRIVATE KEY-----\\n\"\nb"
        ));
        check(&format!("-----BEGIN OPENSSH PRIVATE KEY-----\n«{line}»\n«{line}»"));
        check("if text.contains(\"-----BEGIN RSA PRIVATE KEY-----\") {\n    return parse(text);\n}\n");
        check("-----BEGIN PUBLIC KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQEF\n-----END PUBLIC KEY-----\n");
    }

    #[test]
    fn random_values_of_key_like_names_are_masked() {
        for line in [
            "AWS_SECRET_ACCESS_KEY = \"«wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY»\"",
            "aws_secret_access_key=«wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY»",
            "password = \"«hunter2-Zq9xK»\"",
            "password: str = '«hunter2-Zq9xK»'  # mine",
            "const apiKey: string = `«f3a9c04d17be82ac»`;",
            "  \"client_secret\": \"«9aF3kQ0pLmZ7xYtRw2»\",",
            "db_password: «s3cr3t!Pa55»",
            "export API_TOKEN=«9f86d081884c7d659a2feaa0»",
            "setenv(\"API_KEY\", \"«9f86d081884c7d65»\", 1);",
            "<password>«hUnter2!99x»</password>",
            "machine example.org login me password «hUnter2!99x»",
            "curl -H 'Authorization: Bearer «9f86d081884c7d659a2feaa0»'",
            "headers = {\"Authorization\": \"Bearer «9f86d081884c7d659a2feaa0»\"}",
            "STRIPE_KEY = \"«4eC39HqLyjWDarjtT1zdp7dcAb»\"",
            "url = \"postgres://me:«pa55word»@db.example.org/x\"",
            "x = \"«ghp_16C7e42F292c6912E7710c838347Ae178B4a»\"",
            "x = '«AKIAIOSFODNN7EXAMPLE»'",
            "x = \"«sk-proj-abcdefghij0123456789ABCD»\"",
            "j = \"«eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9P»\"",
            "passwort = 1; secret = \"«é7世-Zq9🦀xK»\"",
        ] {
            check(line);
        }
    }

    #[test]
    fn long_values_are_masked_to_their_end() {
        let value = "aB3dE6gH9/".repeat(100);
        check(&format!("secret = \"«{value}»\"\nx = 1"));
        check(&format!("SECRET=«{value}»\nx = 1"));
    }

    #[test]
    fn code_is_not() {
        for line in [
            "let token = lexer.next_token2();",
            "token = os.environ[\"API_TOKEN_2\"]",
            "password = getpass.getpass(\"Password: \")",
            "max_tokens = 4096",
            "tokens: Vec<Token2> = parse(text);",
            "secret = \"${{ secrets.DEPLOY_KEY_2 }}\"",
            "api_key = \"<your-api-key-1>\"",
            "password = \"changeme\"",
            "token_url = \"https://example.org/oauth2/token\"",
            "tokenizer = load(\"qwen2.5-coder-1.5b\")",
            "for key, value in sorted(items2.items()):",
            "keyboard = \"us-intl-with-dead-keys-2\"",
            "secret_file = \"/run/secrets/db1\"",
            "case Key::Enter2 => self.confirm(),",
            "author = \"Somebody With A Very Long Name 2\"",
            "model_key: \"text-embedding-3-small\"",
            "let password_hash = hash(password, salt16);",
            "the token after this one is an identifier",
            "if token == Token::Plus1 && key != last_key3 {",
            "x = skeleton-abcdefghijklmnopqrst",
            "self.api_key = api_key_from_config_2024",
            "url = \"https://example.org:8000/a@b\"",
        ] {
            check(line);
        }
    }

    #[test]
    fn a_split_text_is_masked_as_one() {
        let (before, after) = masked_parts("password = \"hunter2", "-Zq9xK\"\nx = 1");
        assert_eq!((&*before, &*after), ("password = \"*******", "******\"\nx = 1"));
        let (before, after) = masked_parts("a = ", "b");
        assert_eq!((&*before, &*after), ("a = ", "b"));
    }

    #[test]
    fn much_text_takes_little_time() {
        let started = std::time::Instant::now();
        let line = "key = token ".repeat(20_000);
        assert_eq!(masked(line.clone()), line);
        let lines = "let token = self.tokens.next_token();\n".repeat(20_000);
        assert_eq!(masked(lines.clone()), lines);
        assert!(started.elapsed().as_secs() < 60);
    }
}
