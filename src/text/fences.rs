//! Code between fences in Markdown.

use super::language::{LANGUAGES, Language};

/// How much of a document before the cursor is searched for fences, in bytes.
const BYTES_MAX: usize = 1 << 18;
/// How much after it.
const BYTES_BELOW_MAX: usize = 1 << 14;

/// The code around a cursor between two fences.
#[derive(Clone, Copy, Debug)]
pub struct Fenced<'a> {
    pub language: &'static Language,
    /// The code before the cursor.
    pub prefix: &'a str,
    /// The code after it.
    pub suffix: &'a str,
}

/// The line that begins or ends a block of code.
#[derive(Clone, Copy)]
struct Fence<'a> {
    mark: char,
    length: usize,
    /// What follows the marks: the language, first of all.
    info: &'a str,
}

/// The code in a known language that a cursor between `prefix` and `suffix` of a Markdown document is in, if fences begin and
/// end it. The cursor is not on their lines.
pub fn fenced<'a>(prefix: &'a str, suffix: &'a str) -> Option<Fenced<'a>> {
    let floor = prefix.len().saturating_sub(BYTES_MAX);
    let mut at = (floor..=prefix.len()).find(|&at| prefix.is_char_boundary(at))?;
    let mut open: Option<(Fence, usize)> = None;
    for line in prefix[at..].split_inclusive('\n') {
        at += line.len();
        let Some(fence) = Fence::of(line).filter(|_| line.ends_with('\n')) else { continue };
        open = match open {
            Some((first, _)) if fence.closes(&first) => None,
            Some(inside) => Some(inside),
            None => Some((fence, at)),
        };
    }
    let (first, start) = open?;
    let language = first.language().filter(|language| !language.syntax.is_prose)?;
    let line = suffix.find('\n')? + 1;
    let mut end = line;
    for line in suffix[line..].split_inclusive('\n') {
        if Fence::of(line).is_some_and(|fence| fence.closes(&first)) {
            return Some(Fenced { language, prefix: &prefix[start..], suffix: &suffix[..end] });
        }
        end += line.len();
        if end > BYTES_BELOW_MAX {
            break;
        }
    }
    None
}

impl<'a> Fence<'a> {
    /// The fence that `line` is.
    fn of(line: &'a str) -> Option<Self> {
        let line = line.trim();
        let mark = line.chars().next().filter(|mark| matches!(mark, '`' | '~'))?;
        let info = line.trim_start_matches(mark);
        let length = line.len() - info.len();
        // A line of code in the text may begin with one.
        (length >= 3 && !info.contains(mark)).then_some(Self { mark, length, info: info.trim() })
    }

    fn closes(&self, first: &Fence) -> bool {
        self.info.is_empty() && self.mark == first.mark && self.length >= first.length
    }

    fn language(&self) -> Option<&'static Language> {
        let info = self.info.trim_start_matches(['{', '.', ' ']);
        let is_end = |c: char| !(c.is_alphanumeric() || "+#-_".contains(c));
        let id = info[..info.find(is_end).unwrap_or(info.len())].to_lowercase();
        let by_name = LANGUAGES.iter().find(|language| language.name.eq_ignore_ascii_case(&id));
        let language = by_name.unwrap_or_else(|| Language::of(&id, &format!("a.{id}")));
        (!id.is_empty() && language.name != Language::UNKNOWN.name).then_some(language)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_is_found_between_fences() {
        for (document, expected) in [
            ("# A\n\n```python\nx = $0\ny = 1\n```\n\nB\n", Some(("Python", "x = ", "\ny = 1\n"))),
            ("~~~rs,no_run\n```\n$0\n~~~\n", Some(("Rust", "```\n", "\n"))),
            ("````{.js}\n```\n$0\n````\n", Some(("JavaScript", "```\n", "\n"))),
            ("- a\n  ```sh\n  $0\n  ```\n", Some(("Shell", "  ", "\n"))),
            ("```c++ title=\"a\"\n$0\n```\n", Some(("C++", "", "\n"))),
            ("```py\na\n```\n$0\n", None),
            ("```py\na\n```\nb\n```js\n$0\n```\n", Some(("JavaScript", "", "\n"))),
            ("```\n$0\n```\n", None),
            ("```nonsense\n$0\n```\n", None),
            ("```text\n$0\n```\n", None),
            ("```py\n$0\n", None),
            ("```py$0\n```\n", None),
            ("a ```py\n$0\n```\n", None),
        ] {
            let (prefix, suffix) = document.split_once("$0").unwrap();
            let found = fenced(prefix, suffix).map(|found| (found.language.name, found.prefix, found.suffix));
            assert_eq!(found, expected, "{document:?}");
        }
    }
}
