//! A page as a manual page.

use clap_mangen::roff::{Inline, Roff, bold, italic, roman};

use super::page::{Block, Span, spans};

/// Renders the manual page `name`, which is about `about`, in section 7. Its title is the name.
pub(super) fn render(name: &str, about: &str, blocks: &[Block]) -> String {
    let version = concat!("fimd ", env!("CARGO_PKG_VERSION"));
    let mut roff = Roff::new();
    // An empty date would be left out, and the version be taken for it.
    roff.control("TH", [name, "7", " ", version]);
    roff.control("SH", ["NAME"]);
    roff.text([roman(format!("{name} - {about}"))]);
    roff.control("SH", ["DESCRIPTION"]);
    for block in blocks {
        add(&mut roff, block);
    }
    roff.render()
}

fn add(roff: &mut Roff, block: &Block) {
    match block {
        Block::Heading { level: 1, .. } => {}
        Block::Heading { text, .. } => {
            roff.control("SH", [&**text]);
        }
        Block::Paragraph(text) => {
            roff.control("PP", []);
            roff.text(inlines(text));
        }
        Block::Item { marker, text } => {
            roff.control("IP", [&**marker, "4"]);
            roff.text(inlines(text));
        }
        Block::Code(lines) => code(roff, lines),
        Block::Table(rows) => table(roff, rows),
    }
}

fn code(roff: &mut Roff, lines: &[String]) {
    roff.control("PP", []).control("RS", ["4"]).control("nf", []);
    for line in lines {
        roff.text([roman(&**line)]);
    }
    roff.control("fi", []).control("RE", []);
}

/// Each row as a tagged paragraph.
fn table(roff: &mut Roff, rows: &[Vec<String>]) {
    let [header, rows @ ..] = rows else { return };
    for row in rows {
        let [first, others @ ..] = &row[..] else { continue };
        roff.control("TP", []);
        roff.text(inlines(first));
        for (name, cell) in header[1..].iter().zip(others).filter(|(_, cell)| !cell.is_empty()) {
            let label =
                if name.is_empty() || others.len() == 1 { String::new() } else { format!("{name}: ") };
            roff.text(inlines(&format!("{label}{cell}")));
            roff.control("br", []);
        }
    }
}

fn inlines(text: &str) -> Vec<Inline> {
    let inline = |span| match span {
        Span::Plain(text) => roman(text),
        Span::Code(text) | Span::Strong(text) => bold(text),
        Span::Emphasis(text) => italic(text),
    };
    spans(text).into_iter().map(inline).collect()
}
