//! Trims generated text to fit the document. Pure.

use super::context::Place;
use super::gate::Dropped;
use crate::decode::StopReason;
use crate::decode::stop::Stop;
use crate::text::lexer::string_end;
use crate::text::words::{first_word, has_substance, is_identifier};
use crate::text::{Class, Delimiters, Indentation, Lexer, indentation};

/// Trims `text` for insertion at `place`, with line feeds as line ends and the document's indentation. `stop` is an unused
/// clone of the stop rule, and `reason` says what ended the text.
pub fn trim(
    text: &str,
    place: &Place,
    indentation: &Indentation,
    stop: &Stop,
    reason: StopReason,
) -> Result<String, Dropped> {
    let text = indentation.apply(&text.replace("\r\n", "\n"), place.starts_line());
    let text = without_half_character(without_repeated_whitespace(&text, place));
    let is_torn = is_limit(reason) && !text.trim_end_matches([' ', '\t']).ends_with('\n');
    let cut = stop.clone().end(text, reason);
    let is_ruled = reason != StopReason::EndToken || cut.is_some_and(|cut| cut < text.len());
    let is_torn = is_torn && cut.is_none();
    let text = &text[..cut.unwrap_or(text.len())];
    let text = without_rest(text, place, stop, is_ruled || is_torn);
    let text = if is_torn { whole_pieces(text, place, stop) } else { text };

    if text.trim().is_empty() {
        return Err(Dropped::Blank);
    }
    if is_replacement(text, place) || leaves_open(text, place, stop) {
        return Err(Dropped::Fragment);
    }
    if repeats_lines(text, place) {
        return Err(Dropped::Repeats);
    }
    Ok(joined(text, place, stop, is_ruled))
}

/// Whether a text that ended for this reason may end anywhere.
pub fn is_limit(reason: StopReason) -> bool {
    matches!(reason, StopReason::Length | StopReason::Context | StopReason::Time)
}

/// Whether `text` repeats the two equal lines above the cursor, unless they close blocks, or several others there.
fn repeats_lines(text: &str, place: &Place) -> bool {
    let line = format!("{}{text}", place.line);
    let line = line.trim();
    let is_third = place.above.iter().all(|above| above.trim() == line);
    let closes = line.starts_with("</") || place.language.blocks.closes(first_word(line));
    has_substance(line) && is_third && !closes || repeats_above(text, place)
}

/// `text` as it is followed by the rest of the line: a closing delimiter there stands on a line of its own where the model
/// has put it there, and behind a block in braces or a comment.
fn joined(text: &str, place: &Place, stop: &Stop, is_ruled: bool) -> String {
    let (body, rest) = (text.trim_end(), place.rest.trim_start());
    if !rest.starts_with([')', ']', '}']) {
        return body.to_owned();
    }
    let space = &text[body.len()..];
    let has_lines = body.contains('\n');
    let is_comment = |lexer: Lexer| lexer.class() == Class::Comment;
    let ends_in_comment = !is_comment(stop.lexer()) && is_comment(stop.lexer().read_all(body));
    let indent = place.closer_whitespace();
    let own = space.rsplit_once('\n').map_or("", |(_, own)| own);
    let is_own = !own.is_empty() && (is_ruled || has_lines && is_closer_whitespace(own, body, place));
    let has_line = space.contains('\n')
        && (!indent.is_empty() && own.starts_with(indent) || has_lines && is_shallow(own, body));
    let is_placed = space == "\n" || is_own || has_line;
    let is_block = rest.starts_with('}') || body.ends_with(',') || is_placed;
    let ends_line = if is_ruled { space.contains('\n') } else { has_lines && is_block };
    if ends_line || ends_in_comment {
        return format!("{body}\n{}", if is_own { own } else { indent });
    }
    format!("{body}{}", if is_ruled && !place.rest.starts_with([' ', '\t']) { space } else { "" })
}

/// Whether a model that ends `body` and begins a line with `whitespace` has placed the closing delimiter there that follows,
/// and not begun one more line of the block.
fn is_closer_whitespace(whitespace: &str, body: &str, place: &Place) -> bool {
    let indent = place.closer_whitespace();
    let is_item = place.rest.trim_start().starts_with('}') || !is_shallow(whitespace, body);
    whitespace == indent || !is_item && place.has_above(whitespace)
}

/// Whether a line with this whitespace is indented less deeply than the last one of `body`.
fn is_shallow(whitespace: &str, body: &str) -> bool {
    let last_line = &body[body.rfind('\n').map_or(0, |end| end + 1)..];
    indentation::width(whitespace) < indentation::width(last_line)
}

/// What is complete of a text that a budget has ended: its whole lines, or a line without the operators, opening
/// delimiters and the open string at its end.
fn whole_pieces<'a>(text: &'a str, place: &Place, stop: &Stop) -> &'a str {
    let body = text.trim_end();
    if let Some(end) = body.rfind('\n') {
        let lines = &text[..=end];
        if !lines.trim().is_empty() || place.rest.trim_start().starts_with([')', ']', '}']) {
            return lines;
        }
    }
    let string = string_start(body, stop);
    let mut piece = body[..string.unwrap_or(body.len())].trim_end();
    if string.is_some() && piece.ends_with(|c| "+*/%=<>&|^".contains(c)) {
        // Without the operand it would be another expression.
        return "";
    }
    while let Some(c) = piece.chars().next_back().filter(|&c| is_dangling(c)) {
        piece = piece[..piece.len() - c.len_utf8()].trim_end();
    }
    piece
}

/// The start of the string that `text` ends in, if it has begun there.
fn string_start(text: &str, stop: &Stop) -> Option<usize> {
    let mut lexer = stop.lexer();
    let mut start = None;
    for (at, c) in text.char_indices() {
        let was_inside = lexer.is_inside();
        lexer.read(c);
        match (was_inside, lexer.class()) {
            (false, Class::String | Class::Character) => start = Some(at),
            (_, Class::String | Class::Character) => {}
            _ => start = None,
        }
    }
    start
}

fn is_dangling(c: char) -> bool {
    c.is_whitespace() || "([{+-*/%=<>&|^~!?:.,@\\".contains(c)
}

/// A budget may end a text within a character.
fn without_half_character(text: &str) -> &str {
    text.trim_end_matches('\u{fffd}')
}

/// Whether `text` is another version of what follows on the line, not something before it.
fn is_replacement(text: &str, place: &Place) -> bool {
    let first = |text: &str| text.trim_start().chars().next();
    matches!(first(place.rest), Some(':' | '='))
        && first(text) == first(place.rest)
        && text.contains(is_identifier)
}

/// Whether a line, with code after it, opens a delimiter that neither it nor that code closes.
fn leaves_open(text: &str, place: &Place, stop: &Stop) -> bool {
    let mut delimiters = Delimiters::new(stop.lexer(), "");
    delimiters.read_all(text);
    let mut is_open = !delimiters.open().is_empty();
    for c in place.rest.chars() {
        delimiters.read(c);
        is_open &= !delimiters.open().is_empty();
    }
    is_open && !place.ends_line() && !is_closed_below(text, place, stop)
}

/// Whether the statement continues with closing delimiters whose openers are in `text`.
fn is_closed_below(text: &str, place: &Place, stop: &Stop) -> bool {
    let opened = place.outline().opened();
    let open: String = opened.delimiters.iter().map(|open| open.delimiter).collect();
    let below = place.rest_of_statement();
    let unmatched = |text: &str| {
        let mut delimiters = Delimiters::new(stop.lexer(), &open);
        delimiters.read_all(text);
        below.chars().filter(|&c| delimiters.read(c)).count()
    };
    opened.is_complete && unmatched(text) < unmatched("")
}

/// Whether all lines of `text`, two or more with substance, repeat those right above the cursor.
fn repeats_above(text: &str, place: &Place) -> bool {
    let own = format!("{}{text}", place.line);
    let own: Vec<&str> = own.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let substance = own.iter().filter(|line| has_substance(line)).count();
    let mut above = place.before_line.lines().rev().map(str::trim).filter(|line| !line.is_empty());
    substance >= 2 && own.iter().rev().all(|&line| above.next() == Some(line))
}

/// The text of a chat model without the Markdown fence around it.
pub fn without_fence(text: &str) -> &str {
    let Some((first, inside)) = text.trim_start().split_once('\n') else { return text };
    if !first.starts_with("```") {
        return text;
    }
    match inside.find("\n```") {
        Some(end) => &inside[..end],
        None if inside.starts_with("```") => "",
        None => inside,
    }
}

/// The text up to the closing fence, after a fence that the prompt opened.
pub fn inside_fence(text: &str) -> &str {
    if text.starts_with("```") {
        return "";
    }
    &text[..text.find("\n```").unwrap_or(text.len())]
}

/// Drops leading whitespace that the document already has before the cursor: a space after text (more of them align
/// columns), and on a blank line the indentation, unless it leads deeper into a block opened above.
fn without_repeated_whitespace<'a>(text: &'a str, place: &Place) -> &'a str {
    let is_blank = |c| matches!(c, ' ' | '\t');
    if place.line.is_empty() || !place.line.ends_with(is_blank) {
        return text;
    }
    if !place.starts_line() {
        let own = text.trim_start_matches(is_blank);
        let is_aligned = place.line.trim_end_matches(is_blank).len() + 1 < place.line.len();
        return if text.len() - own.len() > 1 || is_aligned { text } else { own };
    }
    let is_deep_enough = place.opener_indent().is_none_or(|opener| indentation::width(place.line) > opener);
    if is_deep_enough { text.strip_prefix(place.line).unwrap_or(text) } else { text }
}

/// Drops a repetition of the text after the cursor on its line: the end of the current string, and the rest, also in part
/// if the text continues or is torn. Closing delimiters are the stop rule's.
fn without_rest<'a>(text: &'a str, place: &Place, stop: &Stop, goes_on: bool) -> &'a str {
    let rest = place.rest.trim();
    let Some(first) = rest.chars().next() else { return text };
    if stop.is_in_string()
        && let Some(end) = string_end(stop.lexer(), place.rest)
    {
        let in_string = place.rest[..end].trim();
        return &text[..repeated_rest(text.trim_end(), in_string, stop, goes_on).unwrap_or(text.len())];
    }
    let is_quote = matches!(first, '"' | '\'' | '`');
    let end = end_of_string(text, place, first).filter(|_| is_quote);
    let end = end.or_else(|| repeated_rest(text.trim_end(), rest, stop, goes_on));
    let end = end.or_else(|| unmatched_angle(text).filter(|_| first == '>'));
    &text[..end.unwrap_or(text.len())]
}

/// Where the end of `text` repeats the beginning of `rest`: all of it, or a part if the text continues with it, has nothing
/// else, or ends in punctuation.
fn repeated_rest(text: &str, rest: &str, stop: &Stop, goes_on: bool) -> Option<usize> {
    let is_split =
        |before: &str, after: &str| !(before.ends_with(is_identifier) && after.starts_with(is_identifier));
    let is_repeated = |&at: &usize| {
        let (before, part) = text.split_at(at);
        let part = part.trim_start();
        let Some(left) = rest.strip_prefix(part).filter(|_| !part.is_empty()) else { return false };
        let is_all = left.is_empty() || before.trim().is_empty() && part.contains(is_identifier);
        let is_punctuation = part.chars().all(|c| matches!(c, ';' | ','));
        let is_certain =
            left.is_empty() && part.contains(is_identifier) || closes_nothing(before, part, stop);
        (is_all || (goes_on || is_punctuation) && is_split(part, left))
            && is_split(before, part)
            && is_certain
    };
    text.char_indices().map(|(at, _)| at).find(is_repeated)
}

/// Whether `part`, after `before`, has no closing delimiter without its opener.
fn closes_nothing(before: &str, part: &str, stop: &Stop) -> bool {
    let lexer = stop.lexer().read_all(before);
    // What the text has in a comment of its own is not what follows the cursor.
    let is_other = lexer.is_inside() && !stop.lexer().is_inside();
    let mut delimiters = Delimiters::new(lexer, "");
    !is_other && part.chars().all(|c| !delimiters.read(c))
}

/// Where `text` ends a string that the lexer does not see, as in comments and prose: an odd number of quotes on the line
/// before the cursor and after it counts as one.
fn end_of_string(text: &str, place: &Place, quote: char) -> Option<usize> {
    let is_odd = |line: &str| unescaped(line, quote).count() % 2 == 1;
    let is_inside = is_odd(place.line) && is_odd(place.rest);
    unescaped(text, quote).next().filter(|_| is_inside)
}

/// The byte of a `>` that is neither matched by a `<` in `text` nor part of an arrow.
fn unmatched_angle(text: &str) -> Option<usize> {
    let (mut open, mut previous) = (0, ' ');
    text.char_indices().find_map(|(at, c)| {
        let is_arrow = matches!(std::mem::replace(&mut previous, c), '-' | '=');
        let is_unmatched = c == '>' && !is_arrow && open == 0;
        match c {
            '<' => open += 1,
            '>' if !is_arrow && !is_unmatched => open -= 1,
            _ => {}
        }
        is_unmatched.then_some(at)
    })
}

/// The bytes of `quote` in `text` without a backslash before it.
fn unescaped(text: &str, quote: char) -> impl Iterator<Item = usize> {
    let mut is_escaped = false;
    text.char_indices().filter_map(move |(at, c)| {
        let is_free = !is_escaped;
        is_escaped = c == '\\' && is_free;
        (c == quote && is_free).then_some(at)
    })
}

#[cfg(test)]
mod tests;
