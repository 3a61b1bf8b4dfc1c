//! From a request to what the model is to generate, and from what it generated to what to show. Pure.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use anyhow::{Result, ensure};

use super::anchor::{Anchor, Reason};
use super::context::{self, Indentation, Place};
use super::encode::Encoder;
use super::fim::{Format, Frame, Order, Parts, after_cursor};
use super::gate::{self, Dropped};
use super::trim::{inside_fence, trim, without_fence};
use super::{Completion, Lines, Options, Request};
use crate::decode::stop::{Block, Extent, Stop, Syntax, indent_width, opener_of};
use crate::decode::{Generated, StopReason, Task};
use crate::model::Tokenizer;

/// Most lines of a completion.
const LINES_MAX: usize = 24;
/// How much of the suffix the stop rules look at, in characters.
const SUFFIX_START_CHARS: usize = 2048;
/// Fewer tokens of document than this say too little to complete anything.
const ROOM_TOKENS_MIN: usize = 16;
/// Room for the completion, whatever the request says, so that the window does not depend on it; at most
/// an eighth of the context.
const RESERVED_TOKENS: usize = 256;
/// Most documents whose prompts are remembered.
const DOCUMENTS_MAX: usize = 32;

/// How long a cold prompt of a small window may take.
const SMALL_SECONDS: f64 = 1.5;
/// The tokens of a small window, fewest and most.
const SMALL_TOKENS: (f64, f64) = (256.0, 2048.0);
/// The tokens of a small window where nothing is known of the machine.
const SMALL_TOKENS_UNKNOWN: usize = 1280;
/// How long a cold prompt of a large window may take while nobody waits.
const LARGE_SECONDS: f64 = 15.0;
/// One in so many tokens of document comes after the cursor.
const SUFFIX_SHARE: usize = 5;

/// How many lines above the cursor an anchor is placed where text is being deleted upwards.
const LINES_ABOVE: usize = 3;

/// Larger documents are not completed unasked, in bytes.
const DOCUMENT_BYTES_MAX: usize = 8 << 20;
/// How much of a document is searched for a mark of generated code, in bytes.
const MARK_BYTES: usize = 2048;
/// How much of a document is looked at to tell whether it is minified, in bytes.
const MINIFIED_SAMPLE: usize = 1 << 16;
/// The mean length of a line from which on a document is minified, in bytes.
const MINIFIED_LINE_BYTES: usize = 400;

/// How much of the document a prompt shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Window {
    /// As much as is evaluated in the time that somebody waits for a first completion.
    Small,
    /// As much as the options allow, to be evaluated while nobody waits. Later prompts go on from it as soon
    /// as they have to be anchored anew.
    Large,
}

/// Whether a prompt goes on from the last one of its document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Anchoring {
    /// Everything it holds fixed is the same.
    Kept,
    /// It was anchored anew.
    Anchored(Reason),
}

/// What to generate, and how its prompt came about.
#[derive(Clone, Debug)]
pub struct Planned {
    /// What to generate.
    pub task: Task,
    /// Whether the prompt goes on from the last one.
    pub anchoring: Anchoring,
}

/// Why a document is not completed unless somebody asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// It is larger than 8 MiB.
    Huge,
    /// It says that it was generated.
    Generated,
    /// Its lines are too long to have been written.
    Minified,
}

/// Makes the prompts of one model, and remembers what those of each document hold fixed, so that as few
/// tokens as possible change from one prompt to the next.
pub struct Planner {
    options: Options,
    frame: Option<Frame>,
    encoder: Encoder,
    documents: HashMap<String, Document>,
    /// Counts plans, to know which document was used last.
    clock: u64,
}

struct Document {
    current: Composed,
    /// What a large prompt holds fixed that was planned while nobody waited.
    next: Option<Composed>,
    used: u64,
}

/// What a prompt holds fixed.
#[derive(Clone, PartialEq)]
struct Composed {
    window: Window,
    budget: Budget,
    anchor: Anchor,
    context: Context,
    header: Vec<u32>,
    before: Vec<u32>,
    suffix: Vec<u32>,
}

/// Most tokens of the parts of a prompt.
#[derive(Clone, Copy, PartialEq)]
struct Budget {
    prefix: usize,
    suffix: usize,
    context: usize,
}

/// The files a prompt shows before the document's own. What is there stays where it is.
#[derive(Clone, Default, PartialEq)]
struct Context {
    repository: Vec<u32>,
    files: Vec<File>,
}

#[derive(Clone, PartialEq)]
struct File {
    path: String,
    hash: u64,
    ids: Vec<u32>,
}

/// What one call plans for.
struct Call<'a> {
    options: &'a Options,
    frame: &'a Frame,
    tokenizer: &'a Tokenizer,
    request: &'a Request,
    /// Tokens there are for all parts of the prompt.
    room: usize,
    prefill_per_second: Option<f64>,
}

impl Planner {
    /// For a model whose prompts are made as `options` say.
    pub fn new(options: Options) -> Self {
        Self { options, frame: None, encoder: Encoder::default(), documents: HashMap::new(), clock: 0 }
    }

    /// What to generate for `request` in the document `key`, within a context of `context_tokens`. The
    /// tokenizer is always that of the model; a small window is as large as a machine that evaluates
    /// `prefill_per_second` tokens bears. Fails, naming the missing token, for a tokenizer that cannot fill
    /// in the middle, and for a context too small to say anything in.
    pub fn plan(
        &mut self,
        key: &str,
        request: &Request,
        window: Window,
        tokenizer: &Tokenizer,
        context_tokens: usize,
        prefill_per_second: Option<f64>,
    ) -> Result<Planned> {
        let format = *self.options.format.get_or_insert_with(|| Format::suiting(tokenizer));
        if format == Format::SearchReplace {
            // In another order the answer would begin with more than a line, or in the middle of one.
            self.options.order = Order::PsmAnchored;
        }
        let order = self.options.order;
        let frame = match self.frame.take() {
            Some(frame) => frame,
            None => Frame::new(order, format, tokenizer)?,
        };
        let frame = &*self.frame.insert(frame);
        let max_tokens = request.max_tokens.min(context_tokens / 2);
        let reserved = max_tokens.max(RESERVED_TOKENS.min(context_tokens / 8));
        let room = context_tokens.saturating_sub(reserved + frame.tokens());
        ensure!(room >= ROOM_TOKENS_MIN, "a context of {context_tokens} tokens is too small to complete in");

        let call = Call { options: &self.options, frame, tokenizer, request, room, prefill_per_second };
        let document = self.documents.remove(key);
        let (mut document, anchoring) = match window {
            Window::Small => call.follow(document, &mut self.encoder),
            Window::Large => call.prepare(document, &mut self.encoder),
        };
        let is_prepared = window == Window::Large && anchoring != Anchoring::Kept;
        let composed = document.next.as_mut().filter(|_| is_prepared).unwrap_or(&mut document.current);
        let (prompt, open, marks) = call.prompt(composed, &mut self.encoder);

        self.clock += 1;
        document.used = self.clock;
        if self.documents.len() >= DOCUMENTS_MAX {
            let oldest = self.documents.iter().min_by_key(|(_, document)| document.used);
            let oldest = oldest.map(|(key, _)| key.clone());
            oldest.map(|oldest| self.documents.remove(&oldest));
        }
        self.documents.insert(key.to_owned(), document);

        let stop = stop(request, &Place::new(&request.prefix, &request.suffix));
        let stop = match format {
            Format::Raw => stop,
            Format::Chat => stop.with_fences(),
            Format::SearchReplace => stop.inside_fence(),
        };
        let task =
            Task { open, marks, stop_ids: tokenizer.stop_ids(), stop, ..Task::greedy(prompt, max_tokens) };
        Ok(Planned { task, anchoring })
    }

    /// Forgets the document `key`: it was closed.
    pub fn forget(&mut self, key: &str) {
        self.documents.remove(key);
    }

    /// What `generated` for `request` is worth inserting, or why nothing is.
    pub fn finish(&self, request: &Request, generated: Generated) -> Result<Completion, Dropped> {
        judge(request, generated, self.options.format.unwrap_or(Format::Raw), self.options.logprob_min)
    }
}

impl Call<'_> {
    /// What the next prompt of `document` holds fixed: what the last one did, if that may be.
    fn follow(&self, document: Option<Document>, encoder: &mut Encoder) -> (Document, Anchoring) {
        let Some(mut document) = document else {
            let current = self.compose(None, Window::Small, Reason::First, encoder);
            return (Document { current, next: None, used: 0 }, Anchoring::Anchored(Reason::First));
        };
        let reason = match self.start(&document.current, document.next.is_some(), encoder) {
            Ok(start) => {
                document.current.anchor.start = start;
                return (document, Anchoring::Kept);
            }
            Err(reason) => reason,
        };
        document.current = match document.next.take() {
            Some(mut next) => match self.start(&next, false, encoder) {
                Ok(start) => {
                    next.anchor.start = start;
                    next
                }
                Err(_) => self.compose(Some(&next), Window::Small, reason, encoder),
            },
            None => self.compose(Some(&document.current), Window::Small, reason, encoder),
        };
        (document, Anchoring::Anchored(reason))
    }

    /// Has a large prompt ready for when `document` has to be anchored anew.
    fn prepare(&self, document: Option<Document>, encoder: &mut Encoder) -> (Document, Anchoring) {
        let Some(mut document) = document else {
            let current = self.compose(None, Window::Large, Reason::First, encoder);
            return (Document { current, next: None, used: 0 }, Anchoring::Anchored(Reason::First));
        };
        let next = {
            let followed = document.next.as_ref().filter(|next| self.start(next, true, encoder).is_ok());
            let base = followed.unwrap_or(&document.current);
            self.compose(Some(base), Window::Large, Reason::Idle, encoder)
        };
        let is_same = next.context == document.current.context
            && (&next.header, &next.before, &next.suffix)
                == (&document.current.header, &document.current.before, &document.current.suffix);
        if is_same {
            document.current = next;
            document.next = None;
            return (document, Anchoring::Kept);
        }
        document.next = Some(next);
        (document, Anchoring::Anchored(Reason::Idle))
    }

    /// Where the text of a prompt begins that holds the same fixed as the last one, or why there is none.
    fn start(&self, last: &Composed, is_ready: bool, encoder: &mut Encoder) -> Result<usize, Reason> {
        let Request { prefix, suffix, .. } = self.request;
        let start = last.anchor.follow(prefix, suffix)?;
        let typed = &prefix[start + last.anchor.before.len()..];
        if self.options.order == Order::PsmAnchored && Anchor::is_outgrown(typed, is_ready) {
            return Err(Reason::MiddleGrown);
        }
        let tokens = last.before.len() + encoder.count(typed, self.tokenizer);
        let others = last.header.len() + last.context.tokens() + last.suffix.len();
        if tokens > last.budget.prefix || tokens + others > self.room {
            return Err(Reason::WindowFull);
        }
        Ok(start)
    }

    /// What a prompt anchored anew holds fixed; as much as possible of what `last` did.
    fn compose(
        &self,
        last: Option<&Composed>,
        window: Window,
        reason: Reason,
        encoder: &mut Encoder,
    ) -> Composed {
        let Request { prefix, suffix, .. } = self.request;
        let kept_start = last.and_then(|last| last.anchor.reusable_start(prefix));
        // A window that moves is evaluated from its start: it begins small.
        let larger = last.map_or(window, |last| if window == Window::Large { window } else { last.window });
        [larger, window]
            .into_iter()
            .find_map(|window| {
                let budget = self.budget(window);
                let mut context = last.map(|last| last.context.clone()).unwrap_or_default();
                context.add(self, budget.context, reason == Reason::Idle || last.is_none(), encoder);
                let header = self.header(&context);
                let room = self.room.saturating_sub(context.tokens() + header.len());

                let mut count = |text: &str| encoder.count(text, self.tokenizer);
                let shown = after_cursor(suffix, Place::new(prefix, suffix).ends_line());
                let shown = context::suffix_window(shown, budget.suffix.min(room / 4), &mut count);
                let budget = Budget { prefix: budget.prefix.min(room - count(shown)), ..budget };
                let fits = |start: usize, count: &mut dyn FnMut(&str) -> usize| {
                    let tokens = count(&prefix[start..]);
                    tokens <= budget.prefix && (start == 0 || tokens >= budget.prefix / 2)
                };
                let kept = kept_start.filter(|&start| fits(start, &mut count));
                let is_too_large =
                    kept.is_none() && window == Window::Large && reason != Reason::Idle && last.is_some();
                if is_too_large {
                    return None;
                }
                let start = kept.unwrap_or_else(|| {
                    let split = |text: &str| {
                        let (before, typed) = text.split_at(text.rfind('\n').map_or(0, |end| end + 1));
                        count(before) + count(typed)
                    };
                    prefix.len() - context::prefix_window(prefix, budget.prefix, split).len()
                });
                let anchor = Anchor {
                    start,
                    before: prefix[start..self.anchor_at(start, reason)].to_owned(),
                    suffix: shown.to_owned(),
                    is_whole: suffix.ends_with(shown),
                    typed: String::new(),
                    rest: String::new(),
                };
                let before = encoder.encode(&anchor.before, self.tokenizer);
                let suffix = encoder.encode(shown, self.tokenizer);
                Some(Composed { window, budget, anchor, context, header, before, suffix })
            })
            .expect("a small window is never too large")
    }

    /// Where the anchor of a window from `start` stands.
    fn anchor_at(&self, start: usize, reason: Reason) -> usize {
        let prefix = &self.request.prefix;
        let line_starts = prefix[start..].rmatch_indices('\n').map(|(end, _)| start + end + 1);
        let above = if reason == Reason::Undone { LINES_ABOVE } else { 0 };
        match self.options.order {
            Order::PsmAnchored => line_starts.chain([start]).take(above + 1).last().unwrap_or(start),
            Order::Psm | Order::Spm => start,
        }
    }

    fn prompt(
        &self,
        composed: &mut Composed,
        encoder: &mut Encoder,
    ) -> (Vec<u32>, String, Vec<crate::session::Mark>) {
        let Request { prefix, suffix, .. } = self.request;
        let start = composed.anchor.start;
        composed.anchor.note(start, prefix, suffix);
        let typed = &prefix[start + composed.anchor.before.len()..];
        let context = composed.context.ids();
        let parts = Parts {
            context: &context,
            header: &composed.header,
            before: &composed.before,
            suffix: &composed.suffix,
            typed: &[],
        };
        let (parts_text, open) = match self.options.order {
            Order::Psm => (encoder.encode(typed, self.tokenizer), String::new()),
            Order::Spm | Order::PsmAnchored => encoder.encode_open(typed, self.tokenizer),
        };
        let (ids, marks) = self.frame.prompt(&match self.options.order {
            Order::Psm => Parts { before: &parts_text, ..parts },
            Order::Spm | Order::PsmAnchored => Parts { typed: &parts_text, ..parts },
        });
        (ids, open, marks)
    }

    /// The name of the document's own file, where the prompt shows it.
    fn header(&self, context: &Context) -> Vec<u32> {
        let is_shown = self.options.names_files || !context.files.is_empty();
        let path = self.request.path.as_ref().filter(|_| is_shown);
        let ids = path.and_then(|path| self.frame.file_header(path, self.tokenizer)).unwrap_or_default();
        if ids.len() <= self.room / 8 { ids } else { Vec::new() }
    }

    fn budget(&self, window: Window) -> Budget {
        let Options { prefix_tokens_max, suffix_tokens_max, context_tokens_max, .. } = *self.options;
        let within = |seconds: f64| self.prefill_per_second.map(|speed| speed * seconds);
        let (least, most) = SMALL_TOKENS;
        let small = within(SMALL_SECONDS);
        let small_document = small.map_or(SMALL_TOKENS_UNKNOWN, |tokens| tokens.clamp(least, most) as usize);
        let (document, all) = match window {
            Window::Small => (small_document, small.map_or(small_document, |tokens| tokens as usize)),
            Window::Large => {
                let tokens = within(LARGE_SECONDS).map_or(usize::MAX, |tokens| tokens as usize);
                (tokens.max(small_document), tokens.max(small_document))
            }
        };
        let suffix = (document / SUFFIX_SHARE).min(suffix_tokens_max).min(self.room / 4);
        let prefix = (document - document / SUFFIX_SHARE).min(prefix_tokens_max);
        let is_shown = !self.request.context.is_empty();
        let prefix = prefix.min(if is_shown { self.room / 2 } else { self.room });
        let left = self.room.min(all).saturating_sub(prefix + suffix);
        Budget { prefix, suffix, context: left.min(context_tokens_max) }
    }
}

impl Context {
    fn tokens(&self) -> usize {
        self.repository.len() + self.files.iter().map(|file| file.ids.len()).sum::<usize>()
    }

    fn ids(&self) -> Vec<u32> {
        let mut ids = self.repository.clone();
        self.files.iter().for_each(|file| ids.extend_from_slice(&file.ids));
        ids
    }

    /// Appends the files of the request that are new and fit; with `is_idle` also those that changed, and
    /// starts over with the newest ones where there is no room left.
    fn add(&mut self, call: &Call, tokens_max: usize, is_idle: bool, encoder: &mut Encoder) {
        let hash_of = |text: &str| {
            let mut hasher = DefaultHasher::new();
            text.hash(&mut hasher);
            hasher.finish()
        };
        let files = call.request.context.iter().map(|file| (file, hash_of(&file.text)));
        let is_known =
            |known: &File, path: &str, hash: u64| known.path == path && (!is_idle || known.hash == hash);
        let is_wanted = |path: &str, hash: u64| !self.files.iter().any(|known| is_known(known, path, hash));
        let missing: Vec<_> = files.clone().filter(|(file, hash)| is_wanted(&file.path, *hash)).collect();
        if missing.is_empty() || tokens_max == 0 {
            return;
        }
        let mut render = |(file, hash): (&super::ContextFile, u64)| {
            let mut ids = call.frame.file_header(&file.path, call.tokenizer)?;
            let mut count = |text: &str| encoder.count(text, call.tokenizer);
            let text = context::suffix_window(&file.text, tokens_max / 2, &mut count);
            ids.extend(encoder.encode(text, call.tokenizer));
            if !text.ends_with('\n') {
                ids.extend(encoder.encode("\n", call.tokenizer));
            }
            Some(File { path: file.path.clone(), hash, ids })
        };
        let repository = call.request.repository.as_ref().filter(|_| self.files.is_empty());
        if let Some(name) = repository {
            self.repository = call.frame.repository_header(name, call.tokenizer).unwrap_or_default();
        }
        let mut left = tokens_max.saturating_sub(self.tokens());
        let rendered: Vec<File> = missing.into_iter().filter_map(&mut render).collect();
        let is_full = rendered.iter().map(|file| file.ids.len()).sum::<usize>() > left;
        if !(is_full && is_idle) {
            for file in rendered.into_iter().filter(|file| !file.ids.is_empty()) {
                if let Some(rest) = left.checked_sub(file.ids.len()) {
                    left = rest;
                    self.files.push(file);
                }
            }
        } else {
            left = (tokens_max - tokens_max / 4).saturating_sub(self.repository.len());
            self.files.clear();
            for file in files.rev().filter_map(&mut render) {
                if let Some(rest) = left.checked_sub(file.ids.len()) {
                    left = rest;
                    self.files.insert(0, file);
                }
            }
        }
        if self.files.is_empty() {
            self.repository.clear();
        }
    }
}

/// Whether a completion nobody asked for may be offered here: only where nothing but closers and
/// punctuation follows on the line, in a document that somebody writes.
pub fn should_offer(prefix: &str, suffix: &str) -> bool {
    Place::new(prefix, suffix).ends_line() && unfit(prefix, suffix).is_none()
}

/// Why a document is not completed unless somebody asks, if that is so.
pub fn unfit(prefix: &str, suffix: &str) -> Option<Unfit> {
    const MARKS: [&[u8]; 2] = [b"@generated", b"DO NOT EDIT"];
    let length = prefix.len() + suffix.len();
    if length > DOCUMENT_BYTES_MAX {
        return Some(Unfit::Huge);
    }
    let head = |bytes: usize| -> Vec<u8> { prefix.bytes().chain(suffix.bytes()).take(bytes).collect() };
    let marked = head(MARK_BYTES);
    if MARKS.iter().any(|mark| marked.windows(mark.len()).any(|found| found == *mark)) {
        return Some(Unfit::Generated);
    }
    let sample = head(MINIFIED_SAMPLE);
    let lines = sample.iter().filter(|&&byte| byte == b'\n').count() + 1;
    let is_minified = sample.len() > 4 * MINIFIED_LINE_BYTES && sample.len() / lines > MINIFIED_LINE_BYTES;
    is_minified.then_some(Unfit::Minified)
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

fn judge(
    request: &Request,
    generated: Generated,
    format: Format,
    logprob_min: Option<f32>,
) -> Result<Completion, Dropped> {
    if generated.stop == StopReason::Cancelled {
        return Err(Dropped::Cancelled);
    }
    let output = match format {
        Format::Raw => &generated.text,
        Format::Chat => without_fence(&generated.text),
        Format::SearchReplace => inside_fence(&generated.text),
    };
    let text = trimmed(request, output)?;
    let mean = generated.mean_logprob();
    if !request.is_invoked {
        gate::judge(
            &text,
            &Place::new(&request.prefix, &request.suffix),
            Syntax::of(request.path.as_deref()),
        )?;
        if let Some(min) = logprob_min.filter(|&min| mean < min) {
            return Err(Dropped::Unsure { mean, min });
        }
    }
    Ok(Completion { text, stop: generated.stop, mean_logprob: mean, timings: generated.timings })
}

/// `output` as it should be inserted, with the document's line ends.
pub(super) fn trimmed(request: &Request, output: &str) -> Result<String, Dropped> {
    let place = Place::new(&request.prefix, &request.suffix);
    let indentation = Indentation::new(&request.prefix, &request.suffix);
    let text = trim(output, &place, indentation, &stop(request, &place))?;
    Ok(if request.uses_crlf() { text.replace('\n', "\r\n") } else { text })
}

/// The rule that ends a completion at `place`.
fn stop(request: &Request, place: &Place) -> Stop {
    let syntax = Syntax::of(request.path.as_deref());
    let continues = request.follows_accept && place.ends_line();
    let is_multi_line = match request.lines {
        Lines::Auto => continues || is_multi_line(place),
        Lines::Single => false,
        Lines::Multi => true,
    };
    let open = open_for_completion(place, syntax);
    let text = syntax.open_text(&request.prefix);
    let suffix_start: String = request.suffix.chars().take(SUFFIX_START_CHARS).collect();
    if !is_multi_line {
        return Stop::single_line(&open, &suffix_start).written_in(syntax, text);
    }
    let line_indent = indent_width(place.line);
    let indent = match place.opener_indent() {
        Some(opener) if !place.starts_line() || line_indent <= opener => opener + 1,
        _ => line_indent,
    };
    let is_item = continues || place.follows_comment() || indent == 0;
    let extent = if is_item { Extent::Item } else { Extent::Block };
    Stop::multi_line(Block { open, indent, extent, suffix_start, lines_max: LINES_MAX })
        .written_in(syntax, text)
}

/// The brackets open on the cursor's line that the document does not close: neither in the rest of
/// the line nor, in the way blocks are written, at the line's indentation below.
fn open_for_completion(place: &Place, syntax: Syntax) -> String {
    let mut open = syntax.open_brackets(place.line);
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

#[cfg(test)]
mod tests {
    use super::super::ContextFile;
    use super::super::encode::tests::{starter, tokenizers};
    use super::*;
    use crate::model::tokenizer::tests::{tiny, tiny_fim};

    const ORDERS: [Order; 3] = [Order::Psm, Order::Spm, Order::PsmAnchored];

    fn request(document: &str) -> Request {
        let (prefix, suffix) = document.split_once("$0").unwrap();
        Request { max_tokens: 32, ..Request::new(prefix, suffix) }
    }

    fn plan(request: &Request, order: Order, tokenizer: &Tokenizer, context: usize) -> Result<Task> {
        let planned =
            Planner::new(Options::new(order)).plan("a", request, Window::Small, tokenizer, context, None);
        planned.map(|planned| planned.task)
    }

    /// What a raw prompt's generation is worth inserting, if anything.
    fn finish(request: &Request, generated: Generated) -> Option<Completion> {
        judge(request, generated, Format::Raw, Some(Options::LOGPROB_MIN)).ok()
    }

    /// The text of a whole prompt.
    fn spell(task: &Task, tokenizer: &Tokenizer) -> String {
        tokenizer.decode(&task.prompt) + &task.open
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
            let place = Place::new(&request.prefix, &request.suffix);
            assert_eq!(is_multi_line(&place), expected, "{document:?}");
        }
        assert!(should_offer("foo(", ")\nx") && !should_offer("foo(", "x)"));
    }

    #[test]
    fn documents_nobody_writes_are_left_alone() {
        let (long, huge) = ("x = 1; ".repeat(1000), "x = 1\n".repeat(2 << 20));
        for (prefix, suffix, expected) in [
            ("x", "\ny", None),
            ("", "", None),
            ("// @generated by a tool\n", "", Some(Unfit::Generated)),
            ("", "// Code generated by a tool. DO NOT EDIT.\n", Some(Unfit::Generated)),
            (&long, "", Some(Unfit::Minified)),
            (&long[..900], "\n", None),
            ("", &huge, Some(Unfit::Huge)),
        ] {
            assert_eq!(unfit(prefix, suffix), expected);
            assert_eq!(should_offer(prefix, suffix), expected.is_none());
        }
    }

    #[test]
    fn plans_fit_the_context() {
        let tokenizer = tiny_fim();
        let long = "let a = b;\r\n".repeat(2000);
        for (prefix, suffix) in [("x = ", ")\n"), (&*long, &*long), ("", ""), (&*long, ""), ("é", &*long)] {
            for (context, order) in [64, 200, 2000, 100_000].into_iter().flat_map(|c| ORDERS.map(|o| (c, o)))
            {
                let request = Request { max_tokens: 32, ..Request::new(prefix, suffix) };
                for (window, speed) in
                    [(Window::Small, None), (Window::Small, Some(1e4)), (Window::Large, None)]
                {
                    let mut planner = Planner::new(Options::new(order));
                    let task = planner.plan("a", &request, window, &tokenizer, context, speed).unwrap().task;
                    assert!(task.prompt.len() + task.max_tokens <= context && task.max_tokens == 32);
                    let most =
                        if window == Window::Large { 4096 + 1024 } else { speed.map_or(1280, |_| 2048) };
                    assert!(task.prompt.len() <= 3 + most);
                    assert!(!tokenizer.decode(&task.prompt).contains('\r'));
                    assert!(
                        task.marks.iter().all(|mark| mark.at <= task.prompt.len() && mark.behind <= mark.at)
                    );
                }
            }
        }
        let task = plan(&request("foo($0);\r\nbar"), Order::Psm, &tokenizer, 4096).unwrap();
        assert_eq!(tokenizer.decode(&task.prompt), "<|fim_prefix|>foo(<|fim_suffix|>\nbar<|fim_middle|>");
        assert_eq!(task.stop_ids, tokenizer.stop_ids());
    }

    #[test]
    fn a_small_window_fits_the_machine() {
        let (tokenizer, long) = (starter(), "let a = b(c);\n".repeat(5000));
        let request = Request { max_tokens: 32, ..Request::new(long.clone(), format!("\n{long}")) };
        let tokens = |window, speed| {
            let mut planner = Planner::new(Options::new(Order::PsmAnchored));
            planner.plan("a", &request, window, &tokenizer, 100_000, speed).unwrap().task.prompt.len()
        };
        let small = [Some(10.0), None, Some(300.0), Some(1e6)].map(|speed| tokens(Window::Small, speed));
        for (tokens, expected) in small.into_iter().zip([256, 1280, 450, 2048]) {
            assert!(tokens <= expected + 3 && tokens * 10 >= expected * 6, "{tokens} of {expected}");
        }
        let large = tokens(Window::Large, None);
        assert!((4000..=5123).contains(&large), "{large}");
        assert!(tokens(Window::Large, Some(100.0)) <= 1503);
    }

    #[test]
    fn orders_differ_in_the_anchor() {
        let tokenizer = tiny_fim();
        let cases = [
            (Order::Psm, "<|fim_prefix|>a\n b<|fim_suffix|>\nc<|fim_middle|>", ""),
            (Order::Spm, "<|fim_prefix|><|fim_suffix|>\nc<|fim_middle|>a\n", " b"),
            (Order::PsmAnchored, "<|fim_prefix|>a\n<|fim_suffix|>\nc<|fim_middle|>", " b"),
        ];
        for (order, prompt, open) in cases {
            let task = plan(&request("a\n b$0)\nc"), order, &tokenizer, 4096).unwrap();
            assert_eq!((tokenizer.decode(&task.prompt), &*task.open), (prompt.into(), open));
        }
    }

    /// The prompts of one document as it changes, with whether they were kept.
    fn prompts(options: Options, steps: &[(&str, Window)], more: Request) -> Vec<(String, Anchoring)> {
        let (tokenizer, mut planner) = (starter(), Planner::new(options));
        let mut step = |&(document, window): &(&str, Window)| {
            let (prefix, suffix) = document.split_once("$0").unwrap();
            let request = Request { prefix: prefix.into(), suffix: suffix.into(), ..more.clone() };
            let planned = planner.plan("a", &request, window, &tokenizer, 8192, None).unwrap();
            (spell(&planned.task, &tokenizer), planned.anchoring)
        };
        steps.iter().map(&mut step).collect()
    }

    #[test]
    fn a_large_window_waits_for_its_turn() {
        let body: String =
            (0..300).map(|i| format!("fn item{i}(index: usize) -> usize {{ index }}\n")).collect();
        let at = |typed: &str| format!("{body}{typed}");
        let (one, two, undone) = (at("x$0\nz"), at("x.y$0\nz"), body.trim_end().to_owned() + "$0\nz");
        let steps = [
            (&*one, Window::Small),
            (&*two, Window::Small),
            (&*two, Window::Large),
            (&*two, Window::Large),
            (&*one, Window::Small),
            (&*undone, Window::Small),
            (&*undone, Window::Large),
        ];
        let prompts = prompts(Options::new(Order::PsmAnchored), &steps, Request::new("", ""));
        let expected =
            [Some(Reason::First), None, Some(Reason::Idle), Some(Reason::Idle), None, Some(Reason::Undone)];
        for ((_, anchoring), expected) in prompts.iter().zip(expected) {
            assert_eq!(*anchoring, expected.map_or(Anchoring::Kept, Anchoring::Anchored));
        }
        let before = |prompt: &str| prompt.split("<|fim_suffix|>").next().unwrap().to_owned();
        let [small, large, again, kept, switched] = [0, 2, 3, 4, 5].map(|at| prompts[at].0.clone());
        assert!(large.len() > 2 * small.len());
        assert_eq!(large, again);
        assert_eq!(before(&small), before(&kept), "still the small one");
        assert!(large.starts_with(&before(&switched)), "goes on from the large one");
    }

    #[test]
    fn context_stands_first_and_stays() {
        let tokenizer = starter();
        let file = |path: &str, text: &str| ContextFile { path: path.into(), text: text.into() };
        let mut planner = Planner::new(Options::new(Order::PsmAnchored));
        let mut spelled = |prefix: &str, context: &[ContextFile], window, speed| {
            let request = Request {
                path: Some("c.rs".into()),
                repository: Some("repo".into()),
                context: context.to_vec(),
                ..Request::new(prefix, "\nz")
            };
            let task = planner.plan("a", &request, window, &tokenizer, 8192, speed).unwrap().task;
            assert_eq!(task.marks.len(), if context.is_empty() { 2 } else { 3 });
            spell(&task, &tokenizer)
        };
        let fast = Some(5000.0);
        let (a, b, b2) =
            (file("a.rs", "fn a() {}\n"), file("b.rs", "fn b() {}"), file("b.rs", "fn b2() {}\n"));
        let with_a = "<|repo_name|>repo\n<|file_sep|>a.rs\nfn a() {}\n";
        let with_b = "<|file_sep|>b.rs\nfn b() {}\n";
        let own = "<|file_sep|>c.rs\n<|fim_prefix|><|fim_suffix|>\nz<|fim_middle|>";
        assert_eq!(spelled("x", std::slice::from_ref(&a), Window::Small, fast), format!("{with_a}{own}x"));
        // Frozen while kept, appended to when anchored anew, and changed files only while nobody waits.
        let both = [a.clone(), b];
        assert_eq!(spelled("xy", &both, Window::Small, fast), format!("{with_a}{own}xy"));
        let own = "<|file_sep|>c.rs\n<|fim_prefix|>q\n<|fim_suffix|>\nz<|fim_middle|>";
        assert_eq!(spelled("q\nx", &both, Window::Large, None), format!("{with_a}{with_b}{own}x"));
        let changed = [a, b2];
        let with_b2 = "<|file_sep|>b.rs\nfn b2() {}\n";
        assert_eq!(
            spelled("q\nx", &changed, Window::Large, None),
            format!("{with_a}{with_b}{with_b2}{own}x")
        );
    }

    #[test]
    fn context_has_a_budget() {
        let (tokenizer, text) = (starter(), "let a = b(c);\n".repeat(80));
        let options = Options { context_tokens_max: 1500, ..Options::new(Order::Psm) };
        let mut planner = Planner::new(options);
        let mut context = Vec::new();
        for round in 0..12 {
            context.push(ContextFile { path: format!("{round}.rs"), text: format!("{round}\n{text}") });
            let request = Request { context: context.clone(), ..Request::new("x", "\nz") };
            let task = planner.plan("a", &request, Window::Large, &tokenizer, 8192, None).unwrap().task;
            let spelled = spell(&task, &tokenizer);
            assert!(task.marks[0].at <= 1500);
            assert!(spelled.contains(&format!("<|file_sep|>{round}.rs\n")), "the newest is shown");
        }
    }

    #[test]
    fn a_chat_is_prefilled_and_its_fence_is_dropped() {
        let options = Options { format: Some(Format::Chat), ..Options::new(Order::PsmAnchored) };
        let prompts = prompts(options, &[("a\nx = 1$0\nb", Window::Small)], Request::new("", ""));
        assert!(
            prompts[0].0.ends_with("<|fim_middle|><|im_end|>\n<|im_start|>assistant\nx = 1"),
            "{}",
            prompts[0].0
        );

        let planner = Planner::new(options);
        for (output, expected) in
            [("```python\nreturn 1\n```\nDone.", "return 1"), ("return 1\n", "return 1")]
        {
            let request = request("def f():\n    $0\n");
            let mut stop = stop(&request, &Place::new(&request.prefix, &request.suffix)).with_fences();
            let cut = (0..=output.len()).find_map(|end| stop.check(&output[..end]));
            let generated = Generated {
                text: output[..cut.unwrap_or(output.len())].into(),
                ..Generated::nothing(StopReason::Rule)
            };
            assert_eq!(planner.finish(&request, generated).unwrap().text, expected);
        }
    }

    #[test]
    fn a_model_that_only_chats_is_asked_for_a_replacement() {
        let tokenizer = tiny(&["<s>"]).with_chat("{% for m in messages %}<s>{{ m.content }}{% endfor %}<s>");
        let mut planner = Planner::new(Options::new(Order::Spm));
        let request = request("a\n    x = 1$0)\nb\n");
        let task = planner.plan("a", &request, Window::Small, &tokenizer, 4096, None).unwrap().task;
        let spelled = spell(&task, &tokenizer);
        assert!(spelled.contains("a\n<<<HERE>>>\nb\n"), "{spelled}");
        assert!(spelled.ends_with("<s>`````\n    x = 1"), "{spelled}");
        for (output, expected) in [("2\n`````\nDone.", Some("2")), ("2", Some("2")), ("`````", None)] {
            let mut stop = task.stop.clone();
            let cut = (0..=output.len()).find_map(|end| stop.check(&output[..end]));
            let text = output[..cut.unwrap_or(output.len())].into();
            let generated = Generated { text, ..Generated::nothing(StopReason::Rule) };
            let invoked = Request { is_invoked: true, ..request.clone() };
            let completion = planner.finish(&invoked, generated).ok();
            assert_eq!(completion.as_ref().map(|completion| completion.text.as_str()), expected, "{output}");
        }
    }

    #[test]
    fn documents_are_forgotten() {
        let (tokenizer, mut planner) = (tiny_fim(), Planner::new(Options::new(Order::Psm)));
        let anchoring = |planner: &mut Planner, key: &str| {
            planner.plan(key, &request("x$0"), Window::Small, &tokenizer, 4096, None).unwrap().anchoring
        };
        let first = Anchoring::Anchored(Reason::First);
        assert_eq!(anchoring(&mut planner, "0"), first);
        assert_eq!(anchoring(&mut planner, "0"), Anchoring::Kept);
        planner.forget("0");
        assert_eq!(anchoring(&mut planner, "0"), first);
        for key in 1..=DOCUMENTS_MAX {
            anchoring(&mut planner, &key.to_string());
        }
        assert_eq!(anchoring(&mut planner, "0"), first);
        assert!(planner.documents.len() <= DOCUMENTS_MAX);
    }

    #[test]
    fn what_cannot_be_planned_says_why() {
        let error =
            plan(&request("$0"), Order::Psm, &tiny(&["<|fim_prefix|>"]), 4096).unwrap_err().to_string();
        assert!(error.contains("<|fim_middle|>"), "{error}");
        let error = plan(&request("$0"), Order::Psm, &tiny_fim(), 20).unwrap_err().to_string();
        assert!(error.contains("20 tokens"), "{error}");
    }

    #[test]
    fn finish_reports_the_generation() {
        let generated = Generated {
            ids: vec![1, 2],
            text: "x)\n".into(),
            logprobs: vec![-1.0, -2.0],
            ..Generated::nothing(StopReason::Rule)
        };
        let completion = finish(&request("foo($0)"), generated.clone()).unwrap();
        assert_eq!(
            (&*completion.text, completion.stop, completion.mean_logprob),
            ("x", StopReason::Rule, -1.5)
        );
        let planner = Planner::new(Options::new(Order::Psm));
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
            assert_eq!(planner.finish(&request, generated).err(), Some(expected), "{request:?}");
        }
        assert_eq!(planner.finish(&invoked("foo($0)"), unsure).unwrap().text, "x");
        assert_eq!(planner.finish(&invoked("x = 1$0"), with(";")).unwrap().text, ";");
    }

    /// Tokens of a prompt, its last word included.
    fn full(task: &Task, tokenizer: &Tokenizer) -> Vec<u32> {
        [&task.prompt[..], &tokenizer.encode(&task.open)].concat()
    }

    fn common(one: &[u32], other: &[u32]) -> usize {
        one.iter().zip(other).take_while(|(a, b)| a == b).count()
    }

    /// What happened over many prompts of one order.
    #[derive(Default)]
    struct Tally {
        kept: usize,
        reasons: HashMap<Reason, usize>,
        /// For each prompt that was kept: tokens of the changed text, tokens of it from the start of the word
        /// that it changed, and tokens that differ.
        tokens: Vec<[usize; 3]>,
    }

    /// Somebody who types, deletes, undoes, jumps and accepts at random.
    struct Typist {
        text: String,
        cursor: usize,
        undo: Vec<(String, usize)>,
        random: u64,
    }

    impl Typist {
        fn below(&mut self, limit: usize) -> usize {
            self.random = self.random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (self.random >> 33) as usize % limit.max(1)
        }

        fn insert(&mut self, text: &str) {
            self.text.insert_str(self.cursor, text);
            self.cursor += text.len();
        }

        fn delete(&mut self) {
            if let Some(last) = self.text[..self.cursor].chars().next_back() {
                self.cursor -= last.len_utf8();
                self.text.remove(self.cursor);
            }
        }

        /// Whether it was a keystroke, not a jump.
        fn act(&mut self, words: &[&str]) -> bool {
            if self.below(40) == 0 {
                self.undo.push((self.text.clone(), self.cursor));
            }
            let line_start = self.text[..self.cursor].rfind('\n').map_or(0, |end| end + 1);
            match self.below(200) {
                0 => {
                    let at = self.below(self.text.len() + 1);
                    self.cursor = (at..).find(|&at| self.text.is_char_boundary(at)).unwrap();
                    self.cursor +=
                        self.text[self.cursor..].find('\n').unwrap_or(self.text.len() - self.cursor);
                    return false;
                }
                1 if !self.undo.is_empty() => {
                    (self.text, self.cursor) = self.undo.pop().unwrap();
                    return false;
                }
                2..20 => self.delete(),
                20..24 => (0..self.below(12)).for_each(|_| self.delete()),
                24..34 => {
                    let line = &self.text[line_start..self.cursor];
                    let blank = line[..line.len() - line.trim_start().len()].to_owned();
                    self.insert(&format!("\n{blank}"));
                }
                34..40 => {
                    self.insert("()");
                    self.cursor -= 1;
                }
                40..44 if self.text[self.cursor..].starts_with(')') => self.cursor += 1,
                44..48 => {
                    let accepted: Vec<&str> = (0..4).map(|_| words[self.below(words.len())]).collect();
                    self.insert(&accepted.join(" "));
                }
                _ => {
                    let word = words[self.below(words.len())];
                    let at = self.below(word.len());
                    let letter = word.chars().nth(at).unwrap_or(' ').to_string();
                    let is_blank = self.below(6) == 0;
                    self.insert(if is_blank { " " } else { &letter });
                }
            }
            true
        }
    }

    #[test]
    fn a_keystroke_changes_what_was_typed() {
        let texts = [
            include_str!("gate.rs"),
            include_str!("../../scripts/make_vectors.py"),
            &include_str!("trim.rs").replace('\n', "\r\n"),
            "",
        ];
        for tokenizer in tokenizers() {
            for order in ORDERS {
                let mut tally = Tally::default();
                for (seed, text) in (1..).zip(texts) {
                    let cursor = text[..text.len() / 2].rfind('\n').map_or(0, |end| end + 1);
                    let mut typist = Typist { text: text.into(), cursor, undo: Vec::new(), random: seed };
                    walk(&mut typist, order, &tokenizer, &mut tally);
                }
                let Tally { kept, reasons, mut tokens } = tally;
                let anchored: usize = reasons.values().sum();
                let over = |at: usize| tokens.iter().filter(|tokens| tokens[2] > tokens[at] + 2).count();
                let (letters, words) = (over(0), over(1));
                tokens.sort_unstable_by_key(|tokens| tokens[2]);
                let at = |share: usize| tokens[tokens.len() * share / 100][2];
                eprintln!(
                    "{order:?}: kept {kept}, anchored anew {reasons:?}; tokens that differ: median {}, p90 {}, \
                     p99 {}; more than those of the changed text + 2: {letters}, of the changed words + 2: {words}",
                    at(50),
                    at(90),
                    at(99)
                );
                assert_eq!(words, 0, "{order:?}");
                assert!(letters * 20 <= kept, "{order:?}: {letters}");
                assert!(
                    anchored * 12 <= kept,
                    "{order:?}: anchored anew {anchored} times, kept {kept} times"
                );
            }
        }
    }

    fn walk(typist: &mut Typist, order: Order, tokenizer: &Tokenizer, tally: &mut Tally) {
        let words: Vec<&str> =
            "let self return foo_bar HashMap 12 == ( ) \" ' , ; : é // value.len() += }".split(' ').collect();
        let mut planner = Planner::new(Options::new(order));
        let mut last: Option<(Vec<u32>, String, String)> = None;
        for _ in 0..400 {
            typist.act(&words);
            let (prefix, suffix) = typist.text.split_at(typist.cursor);
            let request = Request { max_tokens: 48, ..Request::new(prefix, suffix) };
            let planned = planner.plan("a", &request, Window::Small, tokenizer, 4096, None).unwrap();
            let ids = full(&planned.task, tokenizer);

            // The prompt spells the text around the cursor.
            let spelled = tokenizer.decode(&ids);
            let (before, rest) =
                spelled.strip_prefix("<|fim_prefix|>").unwrap().split_once("<|fim_suffix|>").unwrap();
            let (shown, typed) = rest.split_once("<|fim_middle|>").unwrap();
            let plain = |text: &str| text.replace("\r\n", "\n");
            let around = format!("{before}{typed}");
            assert!(plain(prefix).ends_with(&around), "{order:?}: {around:?}");
            assert!(!around.is_empty() || prefix.is_empty());
            assert!(plain(suffix).contains(shown), "{order:?}: {shown:?}");

            if let Some((old, old_prefix, old_shown)) = &last {
                match planned.anchoring {
                    Anchoring::Kept => {
                        tally.kept += 1;
                        assert_eq!(shown, old_shown, "the suffix is stable");
                        let same = common_bytes(old_prefix, prefix);
                        // Words are what the tokenizer changes: the last one counts as a whole.
                        let word = plain(&prefix[word_start(&prefix[..same])..]);
                        let mut new = ids.len() - common(old, &ids);
                        if order == Order::Psm {
                            new = new.saturating_sub(tokenizer.encode(shown).len() + 2);
                        }
                        let changed = tokenizer.encode(&plain(&prefix[same..])).len();
                        tally.tokens.push([changed, tokenizer.encode(&word).len(), new]);
                    }
                    Anchoring::Anchored(reason) => *tally.reasons.entry(reason).or_default() += 1,
                }
            }
            last = Some((ids, prefix.to_owned(), shown.to_owned()));
        }
    }

    fn common_bytes(one: &str, other: &str) -> usize {
        let same = one.bytes().zip(other.bytes()).take_while(|(a, b)| a == b).count();
        (0..=same).rev().find(|&at| other.is_char_boundary(at)).unwrap()
    }

    /// Where the last word of `text` begins, with the blank or the sign before it.
    fn word_start(text: &str) -> usize {
        let last = text.chars().next_back().unwrap_or(' ');
        let is_same = |c: char| {
            c.is_alphanumeric() == last.is_alphanumeric() && c.is_whitespace() == last.is_whitespace()
        };
        let start = text.trim_end_matches(is_same).len();
        text[..start].char_indices().next_back().map_or(0, |(at, _)| at)
    }
}
