//! Where to complete, where completions stop, and which are shown. Pure.

use super::context::Place;
use super::fim::Format;
use super::gate::{self, Dropped};
use super::nesting::Nesting;
use super::options::Options;
use super::request::{Completion, Document, Lines, Request};
use super::trim::{inside_fence, is_limit, trim, without_fence};
use crate::decode::stop::{Block, Extent, Stop};
use crate::decode::{Generated, StopReason};
use crate::text::blocks::Blocks;
use crate::text::fences::{Fenced, fenced};
use crate::text::words::has_substance;
use crate::text::{Indentation, Language, indentation};

/// Most lines of a completion.
const LINES_MAX: usize = 24;
/// How many lines an invoked completion may have behind the end of its block if it ends by itself there.
const LINES_BEYOND: usize = 4;
/// How much of the suffix the stop rules read, in characters.
const SUFFIX_START_CHARS: usize = 2048;
/// Larger documents are not completed, in bytes.
pub const DOCUMENT_BYTES_MAX: usize = 8 << 20;
/// How much of a document to search for a mark of generated code, in bytes.
const MARK_BYTES: usize = 2048;
/// How much of a document to sample for minified code, in bytes.
const MINIFIED_SAMPLE: usize = 1 << 16;
/// Mean line length above which a document is minified, in bytes.
const MINIFIED_LINE_BYTES: usize = 400;

/// Why a document is not completed automatically.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ineligible {
    /// It is larger than 8 MiB.
    Huge,
    /// It is marked as generated.
    Generated,
    /// Its lines are too long for code written by hand.
    Minified,
}

/// Whether an automatic completion may be shown here: only where at most closing delimiters and punctuation follow on the
/// line, in a document that is written by hand.
pub fn may_show(prefix: &str, suffix: &str) -> bool {
    Place::new(prefix, suffix).ends_line() && ineligible(prefix, suffix).is_none()
}

/// Why a document is not completed automatically; `None` if it is.
pub fn ineligible(prefix: &str, suffix: &str) -> Option<Ineligible> {
    const MARKS: [&[u8]; 2] = [b"@generated", b"DO NOT EDIT"];
    let length = prefix.len() + suffix.len();
    if length > DOCUMENT_BYTES_MAX {
        return Some(Ineligible::Huge);
    }
    let head = |bytes: usize| -> Vec<u8> { prefix.bytes().chain(suffix.bytes()).take(bytes).collect() };
    let marked = head(MARK_BYTES);
    if MARKS.iter().any(|mark| marked.windows(mark.len()).any(|found| found == *mark)) {
        return Some(Ineligible::Generated);
    }
    let sample = head(MINIFIED_SAMPLE);
    let lines = sample.iter().filter(|&&byte| byte == b'\n').count() + 1;
    let is_minified = sample.len() > 4 * MINIFIED_LINE_BYTES && sample.len() / lines > MINIFIED_LINE_BYTES;
    is_minified.then_some(Ineligible::Minified)
}

/// Whether an automatic completion at this place has several lines: at the start of a block that is
/// still empty, also between its braces or tags, and after a comment or docstring.
pub fn is_multi_line(place: &Place) -> bool {
    let is_empty_block = || {
        let is_empty = |indent: usize| {
            !place.rest.trim().is_empty()
                || place.below.is_empty()
                || indentation::width(place.below) <= indent
        };
        place.opener_indent().is_some_and(is_empty)
    };
    let is_start = || {
        place.follows_comment()
            || place.follows_docstring()
            || place.follows_condition()
            || place.begins_item()
            || place.is_in_open_comment()
    };
    place.is_free() && (is_start() || is_empty_block())
}

/// The completion in `generated`, or why it is not shown.
pub fn judge(request: &Request, generated: Generated, options: &Options) -> Result<Completion, Dropped> {
    if generated.stop == StopReason::Cancelled {
        return Err(Dropped::Cancelled);
    }
    let output = match options.format() {
        Format::Raw => &generated.text,
        Format::Chat => without_fence(&generated.text),
        Format::SearchReplace => inside_fence(&generated.text),
    };
    let text = trimmed(request, output, generated.stop)?;
    let mean = generated.mean_logprob();
    if !request.is_invoked {
        let place = place_of(&request.document);
        gate::judge(&text, &place, place.language.syntax)?;
        if let Some(min) = options.logprob_min.filter(|&min| mean < min) {
            return Err(Dropped::Unsure { mean, min });
        }
    }
    Ok(Completion { text, stop: generated.stop, mean_logprob: mean, timings: generated.timings })
}

/// `output`, which ended for this reason, trimmed for insertion, with the document's line ends.
pub fn trimmed(request: &Request, output: &str, reason: StopReason) -> Result<String, Dropped> {
    let place = place_of(&request.document);
    let Code { prefix, suffix, .. } = Code::of(&request.document);
    let indentation = Indentation::new(place.outline(), prefix, suffix);
    let stop = stop_at(request, &place);
    let text = match trim(output, &place, &indentation, &stop, reason) {
        // Of a fragment there is nothing complete: an invoked completion shows it as it is.
        Err(Dropped::Blank) if request.is_invoked && is_limit(reason) && !output.contains('\n') => {
            trim(output, &place, &indentation, &stop, StopReason::EndToken)?
        }
        text => text?,
    };
    if request.follows_accept && is_accepted_again(&text, &place) {
        return Err(Dropped::Repeats);
    }
    Ok(if request.document.uses_crlf() { text.replace('\n', "\r\n") } else { text })
}

/// Whether `text` is one more of the line that has just been accepted.
fn is_accepted_again(text: &str, place: &Place) -> bool {
    let begins_line = place.starts_line() || text.starts_with('\n');
    let accepted = if place.starts_line() { place.above[0] } else { place.line };
    begins_line && has_substance(text) && text.trim() == accepted.trim()
}

/// The rule that ends a completion of `request` by a model with this FIM format.
pub fn stop(request: &Request, format: Format) -> Stop {
    let stop = stop_at(request, &place_of(&request.document));
    match format {
        Format::Raw => stop,
        Format::Chat => stop.with_fences(),
        Format::SearchReplace => stop.inside_fence(),
    }
}

/// The cursor's place in `document`.
pub fn place_of(document: &Document) -> Place<'_> {
    let Code { language, prefix, suffix, .. } = Code::of(document);
    Place::new(prefix, suffix).in_language(language)
}

/// The code that the cursor is in: the document, or what is between two fences of it.
struct Code<'a> {
    language: &'static Language,
    prefix: &'a str,
    suffix: &'a str,
    is_fenced: bool,
}

impl<'a> Code<'a> {
    fn of(document: &'a Document) -> Self {
        let Document { path, prefix, suffix, .. } = document;
        let language = Language::of_path(path.as_deref());
        let inside = if language.has_fences() { fenced(prefix, suffix) } else { None };
        match inside {
            Some(Fenced { language, prefix, suffix }) => Self { language, prefix, suffix, is_fenced: true },
            None => Self { language, prefix, suffix, is_fenced: false },
        }
    }
}

/// The rule that ends a completion at `place`.
fn stop_at(request: &Request, place: &Place) -> Stop {
    let continues = request.follows_accept && place.ends_line();
    let is_multi_line = match request.lines {
        Lines::Auto => continues || is_multi_line(place),
        Lines::Single => false,
        Lines::Multi => may_have_lines(place),
    };
    let Code { suffix, is_fenced, .. } = Code::of(&request.document);
    let nesting = Nesting::new(place, suffix);
    let Nesting { lexer, open, closed, closer, is_in_string } = nesting;
    let is_followed = place.rest.trim().is_empty() && !place.below.is_empty();
    let lines_beyond = if request.is_invoked && is_followed { LINES_BEYOND } else { 0 };
    let fitted = |stop: Stop| {
        let stop = stop.read_by(lexer).after(place.line).before_closer(closer).inside_string(is_in_string);
        let stop = stop.beyond_block(lines_beyond, &closed);
        if is_fenced { stop.inside_fence() } else { stop }
    };
    let suffix_start: String = suffix.chars().take(SUFFIX_START_CHARS).collect();
    let has_statement = request.lines == Lines::Auto && place.ends_line() && !place.language.syntax.is_prose;
    if !is_multi_line && !has_statement {
        return fitted(Stop::single_line(&open, &suffix_start));
    }
    let indent = if is_multi_line { block_indent(place) } else { statement_indent(place) };
    let is_item = continues || place.follows_comment() || indent == 0;
    let extent = match () {
        () if place.is_in_open_comment() => Extent::Comment,
        () if !is_multi_line => Extent::Statement,
        () if is_item => Extent::Item,
        () => Extent::Block,
    };
    let (blocks, lines_max) = (place.language.blocks, LINES_MAX);
    let joins = if is_multi_line { joined_indent(place) } else { None };
    let block = Block { open, indent, extent, suffix_start, lines_max, blocks, joins };
    fitted(if is_multi_line { Stop::multi_line(block) } else { Stop::statement(block) })
}

/// The indentation of the first line of the statement at `place`.
fn statement_indent(place: &Place) -> usize {
    place.outline().continued_width().unwrap_or(usize::MAX).min(indentation::width(place.line))
}

/// The indentation of the line below a blank one at `place`, if that is in a block which is opened neither above it nor on
/// it.
fn joined_indent(place: &Place) -> Option<usize> {
    let below = indentation::width(place.below);
    let has_levels =
        !place.language.syntax.is_prose && !matches!(place.language.blocks, Blocks::Parentheses { .. });
    let is_blank = place.starts_line() && place.rest.trim().is_empty();
    let is_deeper = below > indentation::width(place.line);
    let begins = place.opener_indent().is_none() && place.outline().continued_width().is_none();
    (has_levels && is_blank && is_deeper && begins).then_some(below)
}

/// The least indentation of a line in the block that the cursor is in. Lines that go on with a statement are in the block
/// of its first one.
fn block_indent(place: &Place) -> usize {
    let line_indent = indentation::width(place.line);
    let blocks = place.language.blocks;
    let has_forms = matches!(blocks, Blocks::Parentheses { .. });
    let is_flat = |opener| blocks.may_be_flat() && place.starts_line() && line_indent == opener;
    match place.opener_indent() {
        Some(opener) if is_flat(opener) => line_indent,
        Some(opener) if !place.starts_line() || line_indent <= opener || has_forms => opener + 1,
        Some(_) => line_indent,
        None => match place.outline().continued_width() {
            Some(first) => line_indent.min(first + usize::from(has_forms)),
            None => line_indent,
        },
    }
}

/// Whether a completion at this place may have several lines: where code follows on the line, it has one.
fn may_have_lines(place: &Place) -> bool {
    let rest = place.rest.trim_start();
    let goes_on = rest.starts_with([';', ':', ',', '{']);
    rest.starts_with([')', ']', '}', '"', '\'', '`']) || place.is_free() && !goes_on
}

#[cfg(test)]
mod tests {
    use super::super::fim::Order;
    use super::*;

    fn request(document: &str) -> Request {
        let (prefix, suffix) = document.split_once("$0").unwrap();
        Request::new(prefix, suffix)
    }

    /// The completion in the output of a raw prompt.
    fn finish(request: &Request, generated: Generated) -> Result<Completion, Dropped> {
        judge(request, generated, &Options::new(Order::Psm))
    }

    #[test]
    fn several_lines_at_empty_blocks_and_after_comments() {
        for (document, expected) in [
            ("x = $0\n", false),
            ("fn f() {$0}\n", true),
            ("fn f() {$0", true),
            ("if a {$0} else {", true),
            ("fn f() {\n    $0\n}\n", true),
            ("fn f() {\r\n    $0\r\n}\r\n", true),
            ("fn f() {\n    $0\n    x\n}\n", false),
            ("foo($0)", false),
            ("foo(\n    $0\n)", true),
            ("def f():$0", true),
            ("def f():\n    $0\n\nx = 1", true),
            ("def f():\n$0\n    x = 1", false),
            ("let x:$0\n", false),
            ("{ $0 x", false),
            ("-- Adds.\n$0\n", true),
            ("--count;\n$0\n", false),
            ("// Adds.\n$0\n", true),
            ("    # Adds.\n    $0x", false),
            ("# Adds.\nx = $0", false),
            ("#include <a.h>\n$0", false),
            ("def f():\n    \"\"\"Doc.\"\"\"\n    $0", true),
            ("if x then\n  $0\nend", true),
            ("local f = function(a)$0\nend", true),
        ] {
            let request = request(document);
            let place = Place::new(&request.document.prefix, &request.document.suffix);
            assert_eq!(is_multi_line(&place), expected, "{document:?}");
        }
        assert!(may_show("foo(", ")\nx") && !may_show("foo(", "x)"));
    }

    #[test]
    fn blocks_are_those_of_the_language() {
        for (path, document, expected) in [
            ("a.rb", "def f\n  $0\nend\n", true),
            ("a.rb", "def f\n  $0\n  x\nend\n", false),
            ("a.hs", "f x = do$0\n\ng = 1\n", true),
            ("a.ml", "let f x =\n  $0\n", true),
            ("a.lisp", "(defun f (x)\n  $0)\n", true),
            ("a.sh", "if a; then\n  $0\nfi\n", true),
            ("a.jl", "for i in x\n    $0\nend\n", true),
            ("a.html", "<ul>\n  $0\n</ul>\n", true),
            ("a.html", "<li>$0</li>\n", true),
            ("a.html", "<li>a$0</li>\n", false),
            ("a.md", "Add this:\n$0\n", false),
            ("a.md", "# Title\n$0\n", false),
            ("a.lisp", "; Adds.\n$0\n", true),
            ("a.py", "// Adds.\n$0\n", false),
            ("a.rs", "    match Pin:$0 {\n    }\n", false),
            ("a.py", "def f(a,\n      b):\n    $0\n", true),
            ("a.c", "#else\n$0\n#endif\n", true),
            ("a.c", "#else\n$0\nx\n#endif\n", false),
            ("a.c", "f();\n\n$0\n\ng();\n", true),
            ("a.c", "f();\n$0\n", false),
            ("a.md", "A\n\n$0\n", false),
            ("a.js", "/**$0\nf() {}\n", true),
            ("a.js", "/**\n * $0\nf() {}\n/* a */\n", true),
            ("a.js", "/**\n * $0\n */\nf() {}\n", false),
            ("a.js", "/**\n * A $0\nf() {}\n", false),
        ] {
            let request = Request::of(document_of(path, document));
            assert_eq!(is_multi_line(&place_of(&request.document)), expected, "{document:?}");
        }
    }

    #[test]
    fn lines_that_go_on_with_a_statement_are_in_the_block_of_its_first() {
        for (path, document, expected) in [
            ("a.py", "def f(a,\n      b):\n    $0\n", 4),
            ("a.py", "def f(a,\n      b):$0\n", 1),
            ("a.cpp", "  int f(int a,\n        int b) {$0}\n", 3),
            ("a.c", "    f(a,\n      $0", 4),
            ("a.c", "    f(\n        a,\n        $0", 8),
            ("a.lisp", "(defun f (x)\n  (if (p x)\n      $0\n", 3),
            ("a.lisp", "(defun f (x)\n  (g x)\n  (h $0\n", 1),
            ("a.html", "<body>\n$0\n</body>\n", 0),
        ] {
            let request = Request::of(document_of(path, document));
            assert_eq!(block_indent(&place_of(&request.document)), expected, "{document:?}");
        }
    }

    fn document_of(path: &str, document: &str) -> Document {
        let (prefix, suffix) = document.split_once("$0").unwrap();
        Document::new(Some(path.into()), prefix, suffix)
    }

    #[test]
    fn generated_and_minified_documents_are_ineligible() {
        let (long, huge) = ("x = 1; ".repeat(1000), "x = 1\n".repeat(2 << 20));
        for (prefix, suffix, expected) in [
            ("x", "\ny", None),
            ("", "", None),
            ("// @generated by a tool\n", "", Some(Ineligible::Generated)),
            ("", "// Code generated by a tool. DO NOT EDIT.\n", Some(Ineligible::Generated)),
            (&long, "", Some(Ineligible::Minified)),
            (&long[..900], "\n", None),
            ("", &huge, Some(Ineligible::Huge)),
        ] {
            assert_eq!(ineligible(prefix, suffix), expected);
            assert_eq!(may_show(prefix, suffix), expected.is_none());
        }
    }

    #[test]
    fn finish_reports_the_generation() {
        let generated = Generated {
            ids: vec![1, 2],
            text: "x)\n".into(),
            logprobs: vec![-1.0, -2.0],
            ..Generated::empty(StopReason::Rule)
        };
        let completion = finish(&request("foo($0)"), generated.clone()).unwrap();
        assert_eq!(
            (&*completion.text, completion.stop, completion.mean_logprob),
            ("x", StopReason::Rule, -1.5)
        );
        let invoked = |document| Request { is_invoked: true, ..request(document) };
        let unsure = Generated { logprobs: vec![-3.0, -2.0], ..generated.clone() };
        let with = |text: &str| Generated { text: text.into(), ..generated.clone() };
        for (request, generated, expected) in [
            (request("foo($0)"), with(")"), Dropped::Blank),
            (
                request("foo($0)"),
                Generated { stop: StopReason::Cancelled, ..generated.clone() },
                Dropped::Cancelled,
            ),
            (request("run()\nrun()\n$0"), with("run()\n"), Dropped::Repeats),
            (request("x = $0"), with(&"ab, ".repeat(12)), Dropped::Repetitive),
            (request("x = 1$0"), with(";"), Dropped::Short),
            (request("foo($0)"), unsure.clone(), Dropped::Unsure { mean: -2.5, min: Options::LOGPROB_MIN }),
            (invoked("foo($0)"), with(")"), Dropped::Blank),
        ] {
            assert_eq!(finish(&request, generated).err(), Some(expected), "{request:?}");
        }
        assert_eq!(finish(&invoked("foo($0)"), unsure).unwrap().text, "x");
        assert_eq!(finish(&invoked("x = 1$0"), with(";")).unwrap().text, ";");
    }
}
