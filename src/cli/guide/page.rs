//! The Markdown of the guide: headings, paragraphs, items, code, tables. Links become their text, images and comments
//! nothing.

/// A part of a page.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Block {
    Heading {
        level: usize,
        text: String,
    },
    Paragraph(String),
    /// `marker` is `-` or a number with a period.
    Item {
        marker: String,
        text: String,
    },
    Code(Vec<String>),
    /// The first row is the header.
    Table(Vec<Vec<String>>),
}

/// A part of a line of text.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Span<'t> {
    Plain(&'t str),
    Code(&'t str),
    Strong(&'t str),
    Emphasis(&'t str),
}

/// The parts of a page.
pub(super) fn blocks(markdown: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut lines = markdown.lines();
    let mut is_open = false;
    while let Some(line) = lines.next() {
        let continues = is_open;
        is_open = false;
        if line.starts_with("```") {
            blocks.push(Block::Code(
                lines.by_ref().take_while(|line| *line != "```").map(str::to_owned).collect(),
            ));
        } else if line.starts_with('#') {
            let text = line.trim_start_matches('#');
            blocks.push(Block::Heading { level: line.len() - text.len(), text: without_links(text.trim()) });
        } else if line.starts_with('|') {
            table_row(&mut blocks, line);
        } else if !(line.trim().is_empty() || line.starts_with("<!--") || line.starts_with("![")) {
            is_open = true;
            match (item(line), blocks.last_mut()) {
                (None, Some(Block::Paragraph(text) | Block::Item { text, .. })) if continues => {
                    text.push(' ');
                    text.push_str(line.trim());
                }
                (None, _) => blocks.push(Block::Paragraph(line.to_owned())),
                (Some((marker, text)), _) => {
                    blocks.push(Block::Item { marker: marker.to_owned(), text: text.to_owned() });
                }
            }
        }
    }
    for block in &mut blocks {
        if let Block::Paragraph(text) | Block::Item { text, .. } = block {
            *text = without_links(text);
        }
    }
    blocks
}

/// Marker and text of a line that begins an item.
fn item(line: &str) -> Option<(&str, &str)> {
    let (marker, text) = line.split_once(' ')?;
    let number = marker.strip_suffix('.').unwrap_or_default();
    let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    (marker == "-" || is_number).then_some((marker, text))
}

/// Adds a row to the table that is the last block, or begins one.
fn table_row(blocks: &mut Vec<Block>, line: &str) {
    let cells = line.trim_matches('|').split('|').map(|cell| without_links(cell.trim()));
    let row: Vec<String> = cells.collect();
    match blocks.last_mut() {
        Some(Block::Table(_)) if row.iter().all(|cell| cell.trim_matches(['-', ':']).is_empty()) => {}
        Some(Block::Table(rows)) => rows.push(row),
        _ => blocks.push(Block::Table(vec![row])),
    }
}

/// `[text](address)` as `text`.
fn without_links(text: &str) -> String {
    let link = text.find("](").and_then(|middle| {
        let start = text[..middle].rfind('[')?;
        let end = middle + text[middle..].find(')')?;
        Some((start, middle, end))
    });
    let Some((start, middle, end)) = link else { return text.to_owned() };
    format!("{}{}{}", &text[..start], &text[start + 1..middle], without_links(&text[end + 1..]))
}

/// The parts of a text. A mark without its counterpart is text.
pub(super) fn spans(text: &str) -> Vec<Span<'_>> {
    let mut spans = Vec::new();
    let mut rest = text;
    while let Some((before, span, after)) = first_span(rest) {
        spans.extend((!before.is_empty()).then_some(Span::Plain(before)));
        spans.push(span);
        rest = after;
    }
    spans.extend((!rest.is_empty()).then_some(Span::Plain(rest)));
    spans
}

fn first_span(text: &str) -> Option<(&str, Span<'_>, &str)> {
    let (before, from) = text.split_at(text.find(['`', '*'])?);
    let mark = ["`", "**", "*"].into_iter().find(|mark| from.starts_with(mark))?;
    let (inner, after) = from[mark.len()..].split_once(mark)?;
    let span = match mark {
        "`" => Span::Code(inner),
        "**" => Span::Strong(inner),
        _ => Span::Emphasis(inner),
    };
    Some((before, span, after))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_told_apart() {
        let text = "# A [page](page.md)\n\nTwo\nlines\n- one\n  more\n- two\n\n<!-- x -->\n![no](no.svg)\n\
                    | a | b |\n|---|--:|\n| [`c`](d) | |\n```sh\n# x\n\n```\n1. n";
        let item = |marker: &str, text: &str| Block::Item { marker: marker.into(), text: text.into() };
        let row = |cells: [&str; 2]| cells.map(str::to_owned).to_vec();
        let expected = [
            Block::Heading { level: 1, text: "A page".into() },
            Block::Paragraph("Two lines".into()),
            item("-", "one more"),
            item("-", "two"),
            Block::Table(vec![row(["a", "b"]), row(["`c`", ""])]),
            Block::Code(vec!["# x".into(), String::new()]),
            item("1.", "n"),
        ];
        assert_eq!(blocks(text), expected);
    }

    #[test]
    fn spans_are_told_apart() {
        let expected =
            [Span::Plain("a "), Span::Code("*b*"), Span::Strong("c"), Span::Plain(" "), Span::Emphasis("d")];
        assert_eq!(spans("a `*b*`**c** *d*"), expected);
        assert_eq!(spans("3 * 4"), [Span::Plain("3 * 4")]);
        assert_eq!(without_links("[a](b), `[\"c\"]` and [`d`](e/f.md)"), "a, `[\"c\"]` and `d`");
    }
}
