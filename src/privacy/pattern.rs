//! Patterns of a `.gitignore`, matched as git does (`gitignore(5)`), in time linear in the pattern and the path, which is
//! counted: both are untrusted. Pure.
//!
//! The crate `ignore` compiles all patterns of a file into automata, which costs more than a hostile file may: 20,000
//! patterns like `*a*a*a*b`, 1 MiB in all, take 5 s and 640 MB before its limit makes the build fail, and so do 20,000
//! harmless ones like `/a1*/**/b?c`. Bounded to 1,000 patterns, a file still takes 0.5 s and 46 MB. Here a file takes its
//! size times 30 at most, and matching is bounded by [`Steps`].

/// The patterns of one file or setting, the weakest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Patterns(Vec<Pattern>);

/// How many bytes of paths may still be compared with tokens of patterns.
#[derive(Clone, Copy, Debug)]
pub(super) struct Steps(u64);

/// No steps are left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooManySteps;

impl Steps {
    pub(super) fn new(count: u64) -> Self {
        Self(count)
    }

    fn take(&mut self, count: usize) -> Result<(), TooManySteps> {
        self.0 = self.0.checked_sub(count as u64).ok_or(TooManySteps)?;
        Ok(())
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Pattern {
    /// As it was written.
    text: String,
    tokens: Vec<Token>,
    /// Whether it includes again what an earlier one excludes.
    is_negated: bool,
    /// Whether it matches folders only.
    is_of_folders: bool,
    /// Whether it matches the whole path, and not the last name in it.
    is_anchored: bool,
    ignores_case: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Byte(u8),
    /// `?`: any byte but a slash.
    One,
    /// `*`: any bytes but a slash.
    Many,
    /// `**` at the end: any bytes.
    Rest,
    /// `**/`: any number of folders.
    Folders,
    /// `[...]`: a byte in one of these ranges, or in none of them where it is negated.
    Class(Box<[(u8, u8)]>, bool),
}

impl Patterns {
    /// The lines of a file.
    pub(super) fn parse(text: &str, ignores_case: bool) -> Self {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        Self(text.lines().filter_map(|line| Pattern::parse(line, ignores_case)).collect())
    }

    /// The patterns of a setting.
    pub(super) fn of(lines: &[String], ignores_case: bool) -> Self {
        Self(lines.iter().filter_map(|line| Pattern::parse(line, ignores_case)).collect())
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.0.len()
    }

    /// The last pattern that matches a path relative to their folder, and whether it excludes it.
    pub(super) fn verdict(
        &self,
        path: &str,
        is_folder: bool,
        steps: &mut Steps,
    ) -> Result<Option<(&str, bool)>, TooManySteps> {
        for pattern in self.0.iter().rev() {
            if pattern.matches(path, is_folder, steps)? {
                return Ok(Some((&pattern.text, !pattern.is_negated)));
            }
        }
        Ok(None)
    }

    /// The pattern that excludes a file: the last to match it, or else the innermost of its folders that any matches. For
    /// patterns of the user, which are matched however long it takes.
    pub(super) fn covering(&self, path: &str) -> Option<&str> {
        let ends = path.match_indices('/').map(|(at, _)| at);
        let folders = ends.rev().filter(|&end| end > 0).map(|end| (&path[..end], true));
        let mut verdicts = std::iter::once((path, false))
            .chain(folders)
            .filter_map(|(path, is_folder)| self.verdict(path, is_folder, &mut Steps::new(u64::MAX)).ok()?);
        verdicts.next().filter(|&(_, excludes)| excludes).map(|(text, _)| text)
    }
}

impl Pattern {
    /// `None` for an empty line, a comment, and what can match nothing.
    fn parse(line: &str, ignores_case: bool) -> Option<Self> {
        let text = without_trailing_spaces(line.strip_suffix('\r').unwrap_or(line));
        if text.starts_with('#') {
            return None;
        }
        let (is_negated, glob) = text.strip_prefix('!').map_or((false, text), |rest| (true, rest));
        let (is_of_folders, glob) = glob.strip_suffix('/').map_or((false, glob), |rest| (true, rest));
        let is_anchored = glob.contains('/');
        let glob = glob.strip_prefix('/').unwrap_or(glob);
        let glob = if ignores_case { glob.to_ascii_lowercase() } else { glob.to_owned() };
        let tokens = tokens(glob.as_bytes()).filter(|tokens| !tokens.is_empty())?;
        Some(Self { text: text.to_owned(), tokens, is_negated, is_of_folders, is_anchored, ignores_case })
    }

    fn matches(&self, path: &str, is_folder: bool, steps: &mut Steps) -> Result<bool, TooManySteps> {
        steps.take(1)?;
        if self.is_of_folders && !is_folder {
            return Ok(false);
        }
        let path = path.trim_start_matches('/');
        let subject = if self.is_anchored { path } else { path.rsplit('/').next().unwrap_or_default() };
        if self.ignores_case {
            matches(&self.tokens, subject.to_ascii_lowercase().as_bytes(), steps)
        } else {
            matches(&self.tokens, subject.as_bytes(), steps)
        }
    }
}

/// A line without the spaces at its end that no backslash keeps.
fn without_trailing_spaces(line: &str) -> &str {
    let trimmed = line.trim_end_matches(' ');
    let backslashes = trimmed.bytes().rev().take_while(|&byte| byte == b'\\').count();
    if backslashes % 2 == 1 && trimmed.len() < line.len() { &line[..=trimmed.len()] } else { trimmed }
}

/// `None` for a pattern that git holds to be invalid, which matches nothing.
fn tokens(glob: &[u8]) -> Option<Vec<Token>> {
    let (mut tokens, mut at) = (Vec::new(), 0);
    while let Some(&byte) = glob.get(at) {
        let rest = &glob[at + 1..];
        at += 1;
        tokens.push(match byte {
            b'\\' => {
                at += 1;
                Token::Byte(*rest.first()?)
            }
            b'?' => Token::One,
            b'[' => {
                let (class, length) = class(rest)?;
                at += length;
                class
            }
            b'*' => {
                let stars = rest.iter().take_while(|&&byte| byte == b'*').count();
                let is_whole = stars == 1 && (at == 1 || glob[at - 2] == b'/');
                at += stars;
                match glob.get(at) {
                    None if is_whole => Token::Rest,
                    Some(b'/') if is_whole => {
                        at += 1;
                        Token::Folders
                    }
                    _ => Token::Many,
                }
            }
            byte => Token::Byte(byte),
        });
    }
    Some(tokens)
}

/// A class, of which `text` is what follows the bracket, and the length of that.
fn class(text: &[u8]) -> Option<(Token, usize)> {
    let is_negated = matches!(text.first(), Some(b'!' | b'^'));
    let (mut ranges, mut at) = (Vec::new(), usize::from(is_negated));
    let start = at;
    loop {
        match *text.get(at)? {
            b']' if at > start => return Some((Token::Class(ranges.into(), is_negated), at + 1)),
            b'[' if text.get(at + 1) == Some(&b':') => {
                let name = &text[at + 2..];
                let length = name.windows(2).position(|pair| pair == b":]")?;
                ranges.extend_from_slice(named_class(&name[..length])?);
                at += length + 4;
            }
            _ => {
                let (first, next) = escaped(text, at)?;
                let is_range =
                    text.get(next) == Some(&b'-') && text.get(next + 1).is_some_and(|&b| b != b']');
                let (last, next) = if is_range { escaped(text, next + 1)? } else { (first, next) };
                ranges.push((first, last));
                at = next;
            }
        }
    }
}

/// The byte at `at`, after a backslash if there is one, and where the next one is.
fn escaped(text: &[u8], at: usize) -> Option<(u8, usize)> {
    match text.get(at)? {
        b'\\' => Some((*text.get(at + 1)?, at + 2)),
        &byte => Some((byte, at + 1)),
    }
}

fn named_class(name: &[u8]) -> Option<&'static [(u8, u8)]> {
    Some(match name {
        b"alnum" => &[(b'0', b'9'), (b'A', b'Z'), (b'a', b'z')],
        b"alpha" => &[(b'A', b'Z'), (b'a', b'z')],
        b"blank" => &[(b' ', b' '), (b'\t', b'\t')],
        b"cntrl" => &[(0, 31), (127, 127)],
        b"digit" => &[(b'0', b'9')],
        b"graph" => &[(33, 126)],
        b"lower" => &[(b'a', b'z')],
        b"print" => &[(32, 126)],
        b"punct" => &[(33, 47), (58, 64), (91, 96), (123, 126)],
        b"space" => &[(b' ', b' '), (9, 13)],
        b"upper" => &[(b'A', b'Z')],
        b"xdigit" => &[(b'0', b'9'), (b'A', b'F'), (b'a', b'f')],
        _ => return None,
    })
}

/// Whether `tokens` match all of `text`: the sets of places in the pattern that each byte leads to.
fn matches(tokens: &[Token], text: &[u8], steps: &mut Steps) -> Result<bool, TooManySteps> {
    let literal = |(token, byte): (&Token, &u8)| *token == Token::Byte(*byte);
    if tokens.iter().all(|token| matches!(token, Token::Byte(_))) {
        steps.take(tokens.len().min(text.len()))?;
        return Ok(tokens.len() == text.len() && tokens.iter().zip(text).all(literal));
    }
    // Of `Folders`, the second set has the places inside the name of a folder, which only a slash leaves.
    let mut places = vec![false; tokens.len() + 1];
    let mut inside = vec![false; tokens.len()];
    places[0] = true;
    skip(tokens, &mut places);
    for &byte in text {
        steps.take(tokens.len())?;
        let (before, inside_before) = (places.clone(), inside.clone());
        places.fill(false);
        inside.fill(false);
        for (at, token) in tokens.iter().enumerate() {
            if *token == Token::Folders && (before[at] || inside_before[at]) {
                *(if byte == b'/' { &mut places[at] } else { &mut inside[at] }) = true;
            }
            if !before[at] {
                continue;
            }
            let is_slash = byte == b'/';
            match token {
                Token::Byte(expected) => places[at + 1] |= *expected == byte,
                Token::One => places[at + 1] |= !is_slash,
                Token::Many => places[at] |= !is_slash,
                Token::Rest => places[at] = true,
                Token::Folders => {}
                Token::Class(ranges, is_negated) => {
                    let is_in = ranges.iter().any(|&(first, last)| (first..=last).contains(&byte));
                    places[at + 1] |= !is_slash && is_in != *is_negated;
                }
            }
        }
        skip(tokens, &mut places);
        if !places.contains(&true) && !inside.contains(&true) {
            return Ok(false);
        }
    }
    // A pattern that ends with `/**` matches what is in the folder, but not the folder.
    Ok(places[tokens.len()])
}

/// Adds the places that nothing leads to: those after tokens that match nothing too.
fn skip(tokens: &[Token], places: &mut [bool]) {
    for (at, token) in tokens.iter().enumerate() {
        if matches!(token, Token::Many | Token::Rest | Token::Folders) && places[at] {
            places[at + 1] = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether the lines of a file exclude a path; a folder where it ends with a slash.
    fn verdict(lines: &str, path: &str) -> Option<bool> {
        let (path, is_folder) = path.strip_suffix('/').map_or((path, false), |path| (path, true));
        let steps = &mut Steps::new(1 << 30);
        Patterns::parse(lines, false).verdict(path, is_folder, steps).unwrap().map(|(_, excludes)| excludes)
    }

    #[test]
    fn patterns_match_as_in_git() {
        for (line, path, is_match) in [
            ("a", "a", true),
            ("a", "b/a", true),
            ("a", "ab", false),
            ("/a", "a", true),
            ("/a", "b/a", false),
            ("b/a", "b/a", true),
            ("b/a", "c/b/a", false),
            ("a/", "a/", true),
            ("a/", "a", false),
            ("*.rs", "b/c.rs", true),
            ("*", ".a", true),
            ("/*.rs", "b/c.rs", false),
            ("b/*", "b/c/d", false),
            ("b?c", "b/c", false),
            ("/b?c", "bxc", true),
            ("**/a", "a", true),
            ("**/a", "b/c/a", true),
            ("**/a", "b/ca", false),
            ("b/**", "b/c/d", true),
            ("b/**", "b/", false),
            ("b/**/a", "b/a", true),
            ("b/**/a", "b/c/d/a", true),
            ("b/**/a", "bc/a", false),
            ("b/**a", "b/c/a", false),
            ("b/**a", "b/ca", true),
            ("a**b", "axxb", true),
            ("/a***b", "a/b", false),
            ("x/**/**/y", "x/y", true),
            ("**", "a", true),
            ("[ab]c", "bc", true),
            ("[!ab]c", "bc", false),
            ("[^ab]c", "dc", true),
            ("[a-c]", "b", true),
            ("[]-]x", "]x", true),
            ("[]-]x", "-x", true),
            ("[a-]x", "-x", true),
            ("[[:digit:]]x", "7x", true),
            ("[[:digit:]]x", "ax", false),
            ("[[:none:]]x", "7x", false),
            ("[\\]]", "]", true),
            ("[a", "a", false),
            ("[a", "[a", false),
            ("/a[!b]c", "a/c", false),
            ("f{1,2}", "f{1,2}", true),
            ("f{1,2}", "f1", false),
            ("\\#a", "#a", true),
            ("#a", "#a", false),
            ("\\!a", "!a", true),
            ("a\\*", "a*", true),
            ("a\\*", "ab", false),
            ("a\\", "a\\", false),
            ("a ", "a", true),
            ("a\\ ", "a ", true),
            ("a\\  ", "a ", true),
            ("a\r", "a", true),
            ("\u{feff}a", "a", true),
            ("世", "b/世", true),
            ("A", "a", false),
            ("", "", false),
            ("/", "a", false),
        ] {
            assert_eq!(verdict(line, path), is_match.then_some(true), "{line:?} {path:?}");
        }
        let (patterns, steps) = (Patterns::parse("*.KEY", true), &mut Steps::new(100));
        assert!(patterns.verdict("a/B.Key", false, steps).unwrap().is_some());
    }

    #[test]
    fn the_last_match_counts() {
        assert_eq!(verdict("*.rs\n!a.rs", "a.rs"), Some(false));
        assert_eq!(verdict("!a.rs\n*.rs", "a.rs"), Some(true));
        assert_eq!(verdict("*.rs\n!a.rs", "b.py"), None);
        let patterns = Patterns::of(&["/gen/*".into(), "!/gen/kept.rs".into()], false);
        assert_eq!(patterns.covering("gen/a/b.rs"), Some("/gen/*"));
        assert_eq!(patterns.covering("gen/kept.rs"), None);
        assert_eq!((patterns.count(), patterns.covering("/")), (2, None));
    }

    #[test]
    fn a_hostile_pattern_takes_no_time() {
        let pattern = "*a".repeat(2000) + "b";
        let path = "a".repeat(2000);
        let started = std::time::Instant::now();
        assert_eq!(verdict(&pattern, &path), None);
        assert_eq!(verdict(&("**/".repeat(1000) + "b"), &"a/".repeat(1000)), None);
        assert!(started.elapsed().as_secs() < 20);
    }

    #[test]
    fn steps_are_counted() {
        for (pattern, path, count) in
            [("abc", "abd", 4), ("a*", "bbbbbbbb", 3), ("*b", "aaaa", 9), ("[ab]", "aa", 3), ("x/", "x", 1)]
        {
            let patterns = Patterns::parse(pattern, false);
            for (given, is_enough) in [(count, true), (count - 1, false)] {
                let verdict = patterns.verdict(path, false, &mut Steps::new(given));
                assert_eq!(verdict, if is_enough { Ok(None) } else { Err(TooManySteps) }, "{pattern} {path}");
            }
        }
    }
}
