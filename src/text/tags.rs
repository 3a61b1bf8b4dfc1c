//! Tags of markup.

use super::words::is_identifier;

/// HTML elements without content.
const VOID: [&str; 14] = [
    "area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "param", "source", "track",
    "wbr",
];

/// Whether `code` leaves the tag that it ends with open.
pub(super) fn opens(code: &str) -> bool {
    let code = code.trim_end();
    let mut open: Vec<&str> = Vec::new();
    for tag in code.split('<').skip(1) {
        let name = tag_name(tag.trim_start_matches('/'));
        let (attributes, is_whole) = tag.split_once('>').map_or((tag, false), |(tag, _)| (tag, true));
        if tag.starts_with('/') {
            if let Some(at) = open.iter().rposition(|&one| one == name) {
                open.truncate(at);
            }
        } else if is_whole && !name.is_empty() && !attributes.ends_with('/') && !VOID.contains(&name) {
            open.push(name);
        }
    }
    code.ends_with('>') && !open.is_empty()
}

/// The closing tag that `text` begins with.
pub fn closing(text: &str) -> Option<&str> {
    let name = tag_name(text.strip_prefix("</")?);
    let end = 2 + name.len();
    (text[end..].starts_with('>')).then(|| &text[..=end])
}

fn tag_name(text: &str) -> &str {
    let is_part = |c: char| is_identifier(c) || matches!(c, '-' | ':' | '.');
    &text[..text.find(|c| !is_part(c)).unwrap_or(text.len())]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closing_tags_are_read() {
        for (text, expected) in [
            ("</li>", Some("</li>")),
            ("</a:b-c></d>", Some("</a:b-c>")),
            ("</>x", Some("</>")),
            ("</li", None),
            ("<li>", None),
        ] {
            assert_eq!(closing(text), expected);
        }
    }
}
