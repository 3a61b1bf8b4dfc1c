//! A page as text, with light styling, which `args::print` takes out where stdout is no terminal.

use anstyle::{AnsiColor, Style};

use super::page::{Block, Span, spans};

/// Columns of a page.
const WIDTH: usize = 80;
const INDENT: usize = 4;
/// Between two columns of a table.
const GAP: usize = 2;

const HEADING: Style = Style::new().bold().underline();
const STRONG: Style = Style::new().bold();
const EMPHASIS: Style = Style::new().italic();
const CODE: Style = AnsiColor::Cyan.on_default();

pub(super) fn render(blocks: &[Block]) -> String {
    let mut text = String::new();
    let mut before = None;
    for block in blocks {
        let is_list = |block: &Block| matches!(block, Block::Item { .. });
        if before.is_some_and(|before| !(is_list(before) && is_list(block))) {
            text.push('\n');
        }
        text += &self::block(block);
        before = Some(block);
    }
    text
}

/// Styled as code.
pub(super) fn code(text: &str) -> String {
    format!("{CODE}{text}{CODE:#}")
}

fn block(block: &Block) -> String {
    match block {
        Block::Heading { text, .. } => format!("{HEADING}{text}{HEADING:#}\n"),
        Block::Paragraph(text) => styled(&wrap(text, 0)),
        Block::Item { marker, text } => {
            let hanging = wrap(text, marker.len() + 1);
            format!("{marker} {}", styled(hanging.trim_start()))
        }
        Block::Code(lines) => lines.iter().map(|line| format!("{:INDENT$}{}\n", "", code(line))).collect(),
        Block::Table(rows) => table(rows),
    }
}

/// `text` in lines of at most [`WIDTH`], all of them indented.
fn wrap(text: &str, indent: usize) -> String {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let line = lines.last_mut().expect("there is a line");
        let columns = indent + line.chars().count() + 1 + word.chars().count();
        if line.is_empty() {
            line.push_str(word);
        } else if columns <= WIDTH {
            line.push(' ');
            line.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines.iter().map(|line| format!("{:indent$}{line}\n", "")).collect()
}

/// Code keeps its quotes, which tell it from text where there are no colours.
fn styled(text: &str) -> String {
    let styled = |span| match span {
        Span::Plain(text) => text.to_owned(),
        Span::Code(text) => code(&format!("`{text}`")),
        Span::Strong(text) => format!("{STRONG}{text}{STRONG:#}"),
        Span::Emphasis(text) => format!("{EMPHASIS}{text}{EMPHASIS:#}"),
    };
    spans(text).into_iter().map(styled).collect()
}

/// In columns where they fit; else each row by itself.
fn table(rows: &[Vec<String>]) -> String {
    let cell_width = |cell: &String| cell.chars().count();
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width =
        |column: usize| rows.iter().filter_map(|row| row.get(column)).map(cell_width).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    if widths.iter().map(|width| width + GAP).sum::<usize>() <= WIDTH + GAP {
        return rows.iter().filter(|row| !is_blank(row)).map(|row| in_columns(row, &widths)).collect();
    }
    let [header, rows @ ..] = rows else { return String::new() };
    rows.iter().map(|row| by_itself(header, row)).collect()
}

fn is_blank(row: &[String]) -> bool {
    row.iter().all(String::is_empty)
}

fn in_columns(row: &[String], widths: &[usize]) -> String {
    let mut line = String::new();
    let mut padding = 0;
    for (cell, width) in row.iter().zip(widths) {
        line += &format!("{:padding$}{}", "", styled(cell));
        padding = width - cell.chars().count() + GAP;
    }
    line + "\n"
}

/// The first cell, and below it the others, under the names of their columns where there are several.
fn by_itself(header: &[String], row: &[String]) -> String {
    let [first, others @ ..] = row else { return String::new() };
    let named = header[1..].iter().zip(others).filter(|(_, cell)| !cell.is_empty());
    let below = named.map(|(name, cell)| {
        let label = if name.is_empty() || others.len() == 1 { String::new() } else { format!("{name}: ") };
        styled(&wrap(&format!("{label}{cell}"), INDENT))
    });
    format!("{}\n{}", styled(first), below.collect::<String>())
}
