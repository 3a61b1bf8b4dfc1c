//! Trims generated text to fit the document. Pure.

use super::context::Place;
use super::gate::Dropped;
use crate::decode::StopReason;
use crate::decode::stop::Stop;
use crate::text::lexer::string_end;
use crate::text::words::{has_substance, is_identifier};
use crate::text::{Class, Delimiters, Indentation, indentation};

/// Trims `text` for insertion at `place`, with line feeds as line ends and the document's indentation. `stop` is an unused
/// clone of the stop rule, and `reason` says what ended the text.
pub fn trim(
    text: &str,
    place: &Place,
    indentation: Indentation,
    stop: &Stop,
    reason: StopReason,
) -> Result<String, Dropped> {
    let text = indentation.apply(&text.replace("\r\n", "\n"), place.starts_line());
    let text = without_half_character(without_repeated_whitespace(&text, place));
    let is_torn = matches!(reason, StopReason::Length | StopReason::Context | StopReason::Time)
        && !text.trim_end_matches([' ', '\t']).ends_with('\n');
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

/// Whether `text` repeats the two equal lines above the cursor, or several others there.
fn repeats_lines(text: &str, place: &Place) -> bool {
    let line = format!("{}{text}", place.line);
    let line = line.trim();
    let is_third = place.above.iter().all(|above| above.trim() == line);
    has_substance(line) && is_third || repeats_above(text, place)
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
    let ends_in_comment = stop.lexer().read_all(body).class() == Class::Comment;
    let indent = place.closer_whitespace();
    let own = space.rsplit_once('\n').map_or("", |(_, own)| own);
    let is_placed = space == "\n" || space.contains('\n') && !indent.is_empty() && own.starts_with(indent);
    let is_block = rest.starts_with('}') || body.ends_with(',') || is_placed;
    let ends_line = if is_ruled { space.contains('\n') } else { has_lines && is_block };
    if ends_line || ends_in_comment {
        return format!("{body}\n{}", if own.is_empty() || !is_ruled { indent } else { own });
    }
    format!("{body}{}", if is_ruled && !place.rest.starts_with([' ', '\t']) { space } else { "" })
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
    let mut piece = &body[..string_start(body, stop).unwrap_or(body.len())];
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
    is_open && !place.ends_line()
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
        return if text.len() - own.len() > 1 { text } else { own };
    }
    let is_deep_enough = place.opener_indent().is_none_or(|opener| indentation::width(place.line) > opener);
    if is_deep_enough { text.strip_prefix(place.line).unwrap_or(text) } else { text }
}

/// Drops a repetition of the text after the cursor on its line: the end of the current string, and the rest, also in part
/// if the text goes on or is torn. Closing delimiters are the stop rule's.
fn without_rest<'a>(text: &'a str, place: &Place, stop: &Stop, goes_on: bool) -> &'a str {
    let rest = place.rest.trim();
    let Some(first) = rest.chars().next() else { return text };
    if stop.is_in_string() {
        let in_string = place.rest[..string_end(stop.lexer(), place.rest).unwrap_or(0)].trim();
        return &text[..repeated_rest(text, in_string, stop, goes_on).unwrap_or(text.len())];
    }
    let is_quote = matches!(first, '"' | '\'' | '`');
    let end = end_of_string(text, place, first).filter(|_| is_quote);
    let end = end.or_else(|| repeated_rest(text.trim_end(), rest, stop, goes_on));
    let end = end.or_else(|| unmatched_angle(text).filter(|_| first == '>'));
    &text[..end.unwrap_or(text.len())]
}

/// Where the end of `text` repeats the beginning of `rest`: all of it, or a part if the text goes on with it, has nothing
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
        let is_certain = left.is_empty() && part.contains(is_identifier) || closes_nothing(part, stop);
        (is_all || (goes_on || is_punctuation) && is_split(part, left))
            && is_split(before, part)
            && is_certain
    };
    text.char_indices().map(|(at, _)| at).find(is_repeated)
}

/// Whether `part` has no closing delimiter without its opener.
fn closes_nothing(part: &str, stop: &Stop) -> bool {
    let mut delimiters = Delimiters::new(stop.lexer(), "");
    part.chars().all(|c| !delimiters.read(c))
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
mod tests {
    use super::without_fence;
    use crate::base::random::Mmix;
    use crate::complete::rules::trimmed;
    use crate::complete::{Document, Lines, Request};
    use crate::decode::StopReason;

    /// `document` has the cursor at `$0`, `output` is what the model writes there.
    #[track_caller]
    fn check(document: &str, output: &str, expected: Option<&str>) {
        check_in(None, document, output, expected);
    }

    /// The same in the file `path`.
    #[track_caller]
    fn check_in(path: Option<&str>, document: &str, output: &str, expected: Option<&str>) {
        let (prefix, suffix) = document.split_once("$0").unwrap();
        for crlf in [false, true] {
            let ends = |text: &str| if crlf { text.replace('\n', "\r\n") } else { text.to_owned() };
            let request = Request::of(Document::new(path.map(String::from), ends(prefix), ends(suffix)));
            let is_crlf = request.document.uses_crlf();
            let expected = expected.map(|text| if is_crlf { ends(text) } else { text.into() });
            for output in [output.to_owned(), ends(output)] {
                assert_eq!(
                    trimmed(&request, &output, StopReason::EndToken).ok(),
                    expected,
                    "{document:?}, CRLF {crlf}"
                );
            }
        }
    }

    #[test]
    fn python() {
        check("def add(a, b):\n    $0\n", "    return a + b\n\nprint(1)\n", Some("return a + b"));
        check("def add(a, b):$0\n", "\n    return a + b\n\ndef sub", Some("\n    return a + b"));
        check("class A:\n    def f(self):\n    $0\n", "    return 1\n", Some("    return 1"));
        check("print($0)\n", "x)\n", Some("x"));
        check("print($0)\n", "f(x), g(y))  # done\n", Some("f(x), g(y)"));
        check("print(\"$0\")\n", "it's \\\"here\\\"\")\n", Some("it's \\\"here\\\""));
        check("for x in $0:\n    pass\n", "range(3):\n", Some("range(3)"));
        check("x = $0\n", " 1  \n", Some("1"));
        check("a = 1\n$0\nb = 2\n", "b = 2\n", None);
        check("run()\nrun()\n$0", "run()\n", None);
        check(
            "# All primes below n.\n$0",
            "def primes(n):\n    s = 1\n\n    return s\n\nx",
            Some("def primes(n):\n    s = 1\n\n    return s"),
        );
        check(
            "def f():\n    \"\"\"One.\"\"\"\n    $0",
            "a = 1\n\n    return a\n\nx",
            Some("a = 1\n\n    return a"),
        );
    }

    #[test]
    fn rust() {
        check("fn f() {$0}\n", "\n    body();\n}\n", Some("\n    body();\n"));
        check("mod m {\n    fn f() {$0}\n}\n", "\n        body();\n    }\n", Some("\n        body();\n    "));
        check("fn f() {\n    $0\n}\n", "let x = 1;\n    x\n}\n\nfn g", Some("let x = 1;\n    x"));
        check("fn f() {\n    $0", "let x = 1;\n    x\n}\n\nfn g", Some("let x = 1;\n    x\n}"));
        check("    let v: Vec<$0> = x;\n", "u8> = x;\n", Some("u8"));
        check("    let v = Vec::<$0>", "Option<fn() -> u8>>::new();\n", Some("Option<fn() -> u8>"));
        check("    s.push('$0')\n", "🦀')\n", Some("🦀"));
        check(
            "/// Twice.\n$0\n\nfn g() {}\n",
            "fn f<'a>(x: &'a u8) -> u8 {\n    x * 2\n}\n\nfn h",
            Some("fn f<'a>(x: &'a u8) -> u8 {\n    x * 2\n}"),
        );
        check("if a {$0} else {\n", "\n    b();\n} else {\n    c();\n}", Some("\n    b();\n"));
        check("    x.iter()$0;\n", ".sum();\n", Some(".sum()"));
    }

    #[test]
    fn typescript() {
        check("items.forEach((item) => {$0});\n", "\n  use(item);\n});\n", Some("\n  use(item);\n"));
        check("const s = `$0`;\n", "a ${b}`;\n", Some("a ${b}"));
        check("const a = [$0];\n", "1, f([2])];\n", Some("1, f([2])"));
        check("const n:$0\n", " number = 1;\nconst m", Some(" number = 1;"));
        check("if (a$0) {\n", " && b) {\n", Some(" && b"));
    }

    #[test]
    fn go() {
        check(
            "func f() error {\n\t$0\n}\n",
            "\tif err != nil {\n\t\treturn err\n\t}\n\treturn nil\n}\n",
            Some("if err != nil {\n\t\treturn err\n\t}\n\treturn nil"),
        );
        check("\tfmt.Println($0)\n", "\"a)\", b)\n", Some("\"a)\", b"));
        check("\tx := $0\n\ty := 2\n", "1\n\ty := 2\n", Some("1"));
    }

    #[test]
    fn c() {
        check("int main(void)\n{\n\t$0\n}\n", "return 0;\n}\n", Some("return 0;"));
        check("\tfor (int i = 0; $0)\n", "i < n; i++) {\n", Some("i < n; i++"));
        check("#include $0\n", "<stdio.h>\n#include", Some("<stdio.h>"));
        check(
            "/* Sum. */\n$0",
            "int sum(int a)\n{\n\treturn a;\n}\n\nint x",
            Some("int sum(int a)\n{\n\treturn a;\n}"),
        );
    }

    #[test]
    fn lua() {
        check("local function f(x)\n  $0\nend\n", "return x\nend\n", Some("return x"));
        check("for i = 1, 3 do\n  $0", "print(i)\nend\nprint(2)", Some("print(i)\nend"));
        check("t[$0] = 1\n", "#t + 1] = 1", Some("#t + 1"));
        check("x = 1$0\n", "\n\n", None);
    }

    #[test]
    fn indentation_is_the_documents() {
        check(
            "class A:\n\tdef f(self):\n\t\t$0\n",
            "        x = 1\n        return x\n",
            Some("x = 1\n\t\treturn x"),
        );
        check("func f() {\n\tif x {$0}\n}\n", "\n        return\n    }\n", Some("\n\t\treturn\n\t"));
        check("func f() {\n\tif x {$0}\n}\n", "\n    return\n  }\n", Some("\n\t\treturn\n\t"));
        check("function f() {\n  if (a) {$0}\n}\n", "\n\t\treturn;\n\t}\n", Some("\n    return;\n  "));
        check("def f():$0\n", "\n\treturn 1\n", Some("\n\treturn 1"));
        check("/* a\n * b */\nint f() {\n\t$0\n}\n", "\treturn 1;\n}\n", Some("return 1;"));
    }

    #[test]
    fn comments_are_the_languages() {
        let lua = "return 1 -- done (\nend\n";
        check_in(Some("a.lua"), "if x then\n  $0\nend\n", lua, Some("return 1 -- done ("));
        check_in(Some("a.py"), "x = ($0)\n", "a // b) + c\n", Some("a // b"));
        check_in(Some("a.py"), "def f():\n    \"\"\"$0\n", "Adds (a\nand b.\n", Some("Adds (a"));
        check_in(
            Some("a.py"),
            "def f():\n    $0\n",
            "\"\"\"Adds.\n\nAnd more.\n\"\"\"\n    return 1\n\nx",
            Some("\"\"\"Adds.\n\nAnd more.\n\"\"\"\n    return 1"),
        );
        check_in(Some("a.rs"), "fn f<'a>($0)\n", "x: &'a A<'a, 'b>) {\n", Some("x: &'a A<'a, 'b>"));
        check_in(Some("a.c"), "for (; i; $0)\n", "i--)\n", Some("i--"));
        check_in(
            Some("a.c"),
            "switch (x) {$0}\n",
            "\ncase 1:\n    f();\n}\ng();",
            Some("\ncase 1:\n    f();\n"),
        );
        check_in(Some("a.ts"), "function f() {\n  $0\n}\n", "return `a\n}`;\n}\n", Some("return `a\n}`;"));
        check_in(
            Some("a.go"),
            "func f() {\n\t$0\n}\n",
            "s := `a\n}`\n\tg(s)\n}\n",
            Some("s := `a\n}`\n\tg(s)"),
        );
    }

    #[test]
    fn the_suffix_is_not_repeated() {
        check("    let a = 1;\n    $0\n    let b = 2;\n", "let b = 2;\n", None);
        check("let x = foo($0);\n", "a, b);\n", Some("a, b"));
        check("const x = f({ $0 });\n", "a: 1 });\n", Some("a: 1"));
        check("x := []int{$0}\n", "1, 2}\n", Some("1, 2"));
        check("int a[] = {$0};\n", "1, 2};\n", Some("1, 2"));
        check("local t = {$0}\n", "1, 2}\n", Some("1, 2"));
        check("d = {\"a\": [$0]}\n", "1, 2]}\n", Some("1, 2"));
        // Two lines that stand above already.
        check("// One.\na(1);\nb(2);\n// One.\n$0", "a(1);\nb(2);\n", Some("a(1);\nb(2);"));
        check("{\na(1);\nb(2);\n{\n$0", "{\na(1);\nb(2);\n{\n", Some("{"));
    }

    #[test]
    fn fences_are_dropped() {
        for (text, expected) in [
            ("```rust\nlet x = 1;\n```\nDone.", "let x = 1;"),
            ("```\nlet x", "let x"),
            ("```\n```\n", ""),
            ("let x = 1;\n```", "let x = 1;\n```"),
            ("```", "```"),
        ] {
            assert_eq!(without_fence(text), expected);
        }
    }

    #[test]
    fn no_text_is_too_strange() {
        const PIECES: [&str; 20] = [
            "{", "}", "(", ")", "\n", "\r\n", "\r", "\t", "    ", "\"", "'", "\\", "🦀", "é", "end", "x",
            ">", ":", "// ", ";",
        ];
        let mut random = Mmix(1);
        let mut text =
            |pieces: usize| -> String { (0..pieces).map(|_| PIECES[random.below(PIECES.len())]).collect() };
        for round in 0..3000 {
            let (prefix, suffix, output) = (text(round % 13), text(round % 7), text(round % 17));
            for lines in [Lines::Auto, Lines::Single, Lines::Multi] {
                let request = Request { lines, ..Request::new(prefix.clone(), suffix.clone()) };
                let text = trimmed(&request, &output, StopReason::EndToken).ok();
                assert!(text.is_none_or(|text| !text.trim().is_empty()), "{request:?} {output:?}");
            }
        }
    }
}
