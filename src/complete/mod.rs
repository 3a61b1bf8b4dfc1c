//! Ghost text, with no LSP and no tensors: from a document and a cursor to what to insert there.
//!
//! [`service`] decides what to do about each keystroke, [`driver`] does it.

pub mod context;
pub mod driver;
pub mod fim;
pub mod record;
pub mod service;
pub mod stats;
pub mod trim;

use anyhow::{Result, ensure};
use serde::Serialize;

use crate::base::Timings;
use crate::decode::stop::{Block, Extent, Stop, indent_width, open_brackets, opener_of};
use crate::decode::{Generated, StopReason, Task};
use crate::model::Tokenizer;
use context::Place;
use fim::{Order, Prompt};

/// Most tokens of text before the cursor.
const PREFIX_TOKENS_MAX: usize = 1024;
/// Most tokens of text after the cursor.
const SUFFIX_TOKENS_MAX: usize = 256;
/// Most lines of a completion.
const LINES_MAX: usize = 24;
/// How much of the suffix the stop rules look at, in characters.
const SUFFIX_START_CHARS: usize = 2048;
/// Fewer tokens of document than this say too little to complete anything.
const ROOM_TOKENS_MIN: usize = 16;

/// How prompts are made for a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// The order of their parts.
    pub order: Order,
}

/// What to complete: a document, split at the cursor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Where the document lies. The prompt does not show it yet.
    pub path: Option<String>,
    /// The text before the cursor.
    pub prefix: String,
    /// The text after the cursor.
    pub suffix: String,
    /// Whether the completion may go beyond the cursor's line.
    pub lines: Lines,
    /// Most tokens to generate; a completion takes at most half the context whatever this says.
    pub max_tokens: usize,
}

/// Another file that may help to complete this one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContextFile {
    /// Where it lies in its workspace.
    pub path: String,
    /// Its text.
    pub text: String,
}

/// How many lines a completion may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lines {
    /// Several at the start of an empty block and after a comment, else one.
    Auto,
    /// One.
    Single,
    /// Several.
    Multi,
}

/// Text to insert at the cursor.
#[derive(Clone, Debug, Serialize)]
pub struct Completion {
    /// The text, with the line ends of the document; never blank.
    pub text: String,
    /// Why the model stopped.
    pub stop: StopReason,
    /// Mean natural log-probability of what was generated, before trimming.
    pub mean_logprob: f32,
    /// Where the time went.
    pub timings: Timings,
}

impl Request {
    /// Whether the document ends its lines with CRLF, judged by the line end nearest to the cursor.
    pub fn uses_crlf(&self) -> bool {
        match self.prefix.rfind('\n') {
            Some(end) => self.prefix[..end].ends_with('\r'),
            None => self.suffix.split_once('\n').is_some_and(|(line, _)| line.ends_with('\r')),
        }
    }
}

/// Whether a completion nobody asked for may be offered here: only where nothing but closers and
/// punctuation follows on the line.
pub fn should_offer(prefix: &str, suffix: &str) -> bool {
    Place::new(prefix, suffix).ends_line()
}

/// Whether a completion at this place has several lines by itself: at the start of a block that is
/// still empty, also between its braces, and after a comment or docstring.
pub fn is_multi_line(place: &Place) -> bool {
    let is_empty_block = place.opener_indent().is_some_and(|indent| {
        !place.rest.trim().is_empty() || place.below.is_empty() || indent_width(place.below) <= indent
    });
    let follows_text = place.follows_comment() || place.follows_docstring();
    let is_free = place.ends_line() || place.rest.trim_start().starts_with('}');
    is_free && (is_empty_block || follows_text)
}

/// What to generate for `request` within a context of `context_tokens`. Fails, naming the missing
/// token, for a tokenizer that cannot fill in the middle, and for a context too small to say
/// anything in.
pub fn plan(
    request: &Request,
    options: Options,
    tokenizer: &Tokenizer,
    context_tokens: usize,
) -> Result<Task> {
    let fim = tokenizer.fim()?;
    let max_tokens = request.max_tokens.min(context_tokens / 2);
    let room = context_tokens.saturating_sub(max_tokens + Prompt::SPECIALS);
    ensure!(room >= ROOM_TOKENS_MIN, "a context of {context_tokens} tokens is too small to complete in");

    let count = |text: &str| tokenizer.encode(&with_line_feeds(text)).len();
    let count_split = |text: &str| {
        let (before, typed) = options.order.split(text);
        count(before) + count(typed)
    };
    let place = Place::new(&request.prefix, &request.suffix);
    let suffix = fim::after_cursor(&request.suffix, place.ends_line());
    let suffix = with_line_feeds(context::suffix_window(suffix, SUFFIX_TOKENS_MAX.min(room / 4), count));
    let prefix_tokens = PREFIX_TOKENS_MAX.min(room - count(&suffix));
    let prefix = with_line_feeds(context::prefix_window(&request.prefix, prefix_tokens, count_split));
    let (before, typed) = options.order.split(&prefix);
    let (prompt, open) = Prompt { context: &[], before, typed, suffix: &suffix }.build(tokenizer, &fim);
    Ok(Task {
        open,
        stop_ids: tokenizer.stop_ids(),
        stop: stop(request, &place),
        ..Task::greedy(prompt, max_tokens)
    })
}

/// What `generated` for `request` is worth inserting, if anything. Nobody waits for what was cancelled.
pub fn finish(request: &Request, generated: Generated) -> Option<Completion> {
    if generated.stop == StopReason::Cancelled {
        return None;
    }
    Some(Completion {
        text: trimmed(request, &generated.text)?,
        stop: generated.stop,
        mean_logprob: generated.mean_logprob(),
        timings: generated.timings,
    })
}

/// `output` as it should be inserted, with the document's line ends.
fn trimmed(request: &Request, output: &str) -> Option<String> {
    let place = Place::new(&request.prefix, &request.suffix);
    let text = trim::trim(output, &place, &stop(request, &place))?;
    Some(if request.uses_crlf() { text.replace('\n', "\r\n") } else { text })
}

/// The rule that ends a completion at `place`.
fn stop(request: &Request, place: &Place) -> Stop {
    let is_multi_line = match request.lines {
        Lines::Auto => is_multi_line(place),
        Lines::Single => false,
        Lines::Multi => true,
    };
    let open = open_for_completion(place);
    let suffix_start: String = request.suffix.chars().take(SUFFIX_START_CHARS).collect();
    if !is_multi_line {
        return Stop::single_line(&open, &suffix_start);
    }
    let line_indent = indent_width(place.line);
    let indent = match place.opener_indent() {
        Some(opener) if !place.starts_line() || line_indent <= opener => opener + 1,
        _ => line_indent,
    };
    let extent = if place.follows_comment() || indent == 0 { Extent::Item } else { Extent::Block };
    Stop::multi_line(Block { open, indent, extent, suffix_start, lines_max: LINES_MAX })
}

/// The brackets open on the cursor's line that the document does not close: neither in the rest of
/// the line nor, in the way blocks are written, at the line's indentation below.
fn open_for_completion(place: &Place) -> String {
    let mut open = open_brackets(place.line);
    for opener in
        place.rest.chars().map_while(|c| if c.is_whitespace() { Some(None) } else { opener_of(c).map(Some) })
    {
        if opener.is_some() && open.chars().next_back() == opener {
            open.pop();
        }
    }
    let below = place.below.trim_start().chars().next().and_then(opener_of);
    if place.rest.trim().is_empty()
        && indent_width(place.below) == indent_width(place.line)
        && let Some(at) = below.and_then(|opener| open.find(opener))
    {
        open.remove(at);
    }
    open
}

/// Models are trained on line feeds: CRLF is undone for the prompt and redone for the completion.
fn with_line_feeds(text: &str) -> String {
    text.replace("\r\n", "\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::tokenizer::tests::{tiny, tiny_fim};
    use crate::session::Synced;

    const PSM: Options = Options { order: Order::Psm };

    fn request(document: &str) -> Request {
        let (prefix, suffix) = document.split_once("$0").unwrap();
        let (prefix, suffix) = (prefix.into(), suffix.into());
        Request { path: None, prefix, suffix, lines: Lines::Auto, max_tokens: 32 }
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
            ("// Adds.\n$0\n", true),
            ("    # Adds.\n    $0x", false),
            ("# Adds.\nx = $0", false),
            ("#include <a.h>\n$0", false),
            ("def f():\n    \"\"\"Doc.\"\"\"\n    $0", true),
            ("if x then\n  $0\nend", true),
            ("local f = function(a)$0\nend", true),
        ] {
            let request = request(document);
            let place = Place::new(&request.prefix, &request.suffix);
            assert_eq!(is_multi_line(&place), expected, "{document:?}");
        }
        assert!(should_offer("foo(", ")\nx") && !should_offer("foo(", "x)"));
    }

    #[test]
    fn plans_fit_the_context() {
        let tokenizer = tiny_fim();
        let long = "let a = b;\r\n".repeat(2000);
        for (prefix, suffix) in [("x = ", ")\n"), (&*long, &*long), ("", ""), (&*long, ""), ("é", &*long)] {
            for context in [64, 200, 2000, 100_000] {
                let request = Request { prefix: prefix.into(), suffix: suffix.into(), ..request("$0") };
                let task = plan(&request, PSM, &tokenizer, context).unwrap();
                assert!(task.prompt.len() + task.max_tokens <= context && task.max_tokens == 32);
                assert!(task.prompt.len() <= 3 + PREFIX_TOKENS_MAX + SUFFIX_TOKENS_MAX);
                assert!(!tokenizer.decode(&task.prompt).contains('\r'));
            }
        }
        let task = plan(&request("foo($0);\r\nbar"), PSM, &tokenizer, 4096).unwrap();
        assert_eq!(tokenizer.decode(&task.prompt), "<|fim_prefix|>foo(<|fim_suffix|>\nbar<|fim_middle|>");
        assert_eq!(task.stop_ids, tokenizer.stop_ids());
    }

    #[test]
    fn what_cannot_be_planned_says_why() {
        let error = plan(&request("$0"), PSM, &tiny(&["<|fim_prefix|>"]), 4096).unwrap_err().to_string();
        assert!(error.contains("<|fim_middle|>"), "{error}");
        assert!(plan(&request("$0"), PSM, &tiny_fim(), 20).unwrap_err().to_string().contains("20 tokens"));
    }

    #[test]
    fn finish_reports_the_generation() {
        let generated = Generated {
            ids: vec![1, 2],
            text: "x)\n".into(),
            logprobs: vec![-1.0, -2.0],
            top_logprobs: Vec::new(),
            stop: StopReason::Rule,
            synced: Synced::default(),
            timings: Timings::default(),
        };
        let completion = finish(&request("foo($0)"), generated.clone()).unwrap();
        assert_eq!(
            (&*completion.text, completion.stop, completion.mean_logprob),
            ("x", StopReason::Rule, -1.5)
        );
        let nothing = Generated { text: ")".into(), ..generated.clone() };
        assert!(finish(&request("foo($0)"), nothing).is_none());
        let cancelled = Generated { stop: StopReason::Cancelled, ..generated };
        assert!(finish(&request("foo($0)"), cancelled).is_none());
    }
}
