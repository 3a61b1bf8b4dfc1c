//! Plans the prompt and the task of a request. Pure.

use std::collections::HashMap;

use anyhow::{Result, ensure};

use super::anchor::{Anchor, Reason};
use super::context::{self, Place};
use super::encode::Encoder;
use super::fim::{Frame, Order, Parts, after_cursor};
use super::gate::Dropped;
use super::options::{Options, Window};
use super::request::{Completion, ContextFile, Document, Request};
use super::rules;
use crate::base::digest::digest;
use crate::decode::{Generated, Task};
use crate::model::Tokenizer;
use crate::model::tokenizer::specials::TextKind;
use crate::session::Mark;
use crate::text::Language;
use crate::text::blocks::Blocks;
use crate::text::imports::imports;

/// Least tokens for the document.
const DOCUMENT_TOKENS_MIN: usize = 16;
/// Tokens reserved for the completion, so that the window does not depend on the request; at most an eighth of the
/// context.
const RESERVED_TOKENS: usize = 256;
/// Most documents to keep state for.
const DOCUMENTS_MAX: usize = 32;

/// Most seconds for evaluating an uncached prompt of a small window.
const SMALL_SECONDS: f64 = 1.5;
/// The tokens of a small window, fewest and most.
const SMALL_TOKENS: (f64, f64) = (256.0, 2048.0);
/// The tokens of a small window while the speed of the machine is unknown.
const SMALL_TOKENS_UNKNOWN: usize = 1280;
/// Most seconds for evaluating an uncached prompt of a large window, in the background.
const LARGE_SECONDS: f64 = 15.0;
/// The suffix's share of the document's tokens, as a divisor.
const SUFFIX_SHARE: usize = 5;

/// The share of the text before the cursor that imports above the window have, as a divisor.
const IMPORTS_SHARE: usize = 8;

/// Lines between the anchor and the cursor while text is being deleted upwards.
const LINES_ABOVE: usize = 3;

/// Whether a prompt extends the last one of its document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Anchoring {
    /// Its fixed parts are the same.
    Kept,
    /// It has a new anchor.
    Anchored(Reason),
}

/// A task, and how its prompt was made.
#[derive(Clone, Debug)]
pub struct Planned {
    pub task: Task,
    pub anchoring: Anchoring,
}

/// Makes the prompts for one model, and keeps the fixed parts per document, so that as few tokens as possible change from
/// one prompt to the next.
pub struct Planner {
    options: Options,
    frame: Option<Frame>,
    encoder: Encoder,
    documents: HashMap<String, DocumentState>,
    /// Number of plans, for LRU eviction.
    clock: u64,
}

struct DocumentState {
    current: FixedParts,
    /// Those of a large prompt planned in the background, for the next new anchor.
    next: Option<FixedParts>,
    used: u64,
}

/// The parts of a prompt that do not change while the user types.
#[derive(Clone, PartialEq)]
struct FixedParts {
    window: Window,
    budget: Budget,
    anchor: Anchor,
    context: Context,
    header: Vec<u32>,
    imports: Imports,
    before: Vec<u32>,
    suffix: Vec<u32>,
}

/// The imports of the document that stand above the window.
#[derive(Clone, Default, PartialEq)]
struct Imports {
    /// The digests of all of them.
    all: Vec<u64>,
    /// Of those that are shown.
    shown: Vec<u64>,
    /// Their text.
    ids: Vec<u32>,
}

/// Most tokens of the parts of a prompt.
#[derive(Clone, Copy, PartialEq)]
struct Budget {
    prefix: usize,
    suffix: usize,
    context: usize,
}

/// The context files of a prompt, each once and as it is now. Their order is stable.
#[derive(Clone, Default, PartialEq)]
struct Context {
    repository: Vec<u32>,
    files: Vec<File>,
}

#[derive(Clone, PartialEq)]
struct File {
    path: String,
    digest: u64,
    ids: Vec<u32>,
}

/// The inputs of one plan.
struct PlanContext<'a> {
    options: &'a Options,
    frame: &'a Frame,
    tokenizer: &'a Tokenizer,
    document: &'a Document,
    /// Most tokens of all parts of the prompt together.
    parts_tokens_max: usize,
    prefill_per_second: Option<f64>,
}

impl Planner {
    pub fn new(options: Options) -> Self {
        Self { options, frame: None, encoder: Encoder::default(), documents: HashMap::new(), clock: 0 }
    }

    /// Plans `request` in the document `key`, within a context of `context_tokens`. The tokenizer is always that of the
    /// model; the size of a small window depends on `prefill_per_second`. Fails, naming the missing token, for a
    /// tokenizer without FIM tokens, and for a context that is too small.
    pub fn plan(
        &mut self,
        key: &str,
        request: &Request,
        window: Window,
        tokenizer: &Tokenizer,
        context_tokens: usize,
        prefill_per_second: Option<f64>,
    ) -> Result<Planned> {
        self.options = self.options.for_model(tokenizer);
        let frame = match self.frame.take() {
            Some(frame) => frame,
            None => Frame::new(self.options.order, self.options.format(), tokenizer)?,
        };
        let frame = &*self.frame.insert(frame);
        let max_tokens = request.max_tokens.min(context_tokens / 2);
        let reserved = max_tokens.max(RESERVED_TOKENS.min(context_tokens / 8));
        let parts_tokens_max = context_tokens.saturating_sub(reserved + frame.tokens());
        ensure!(
            parts_tokens_max >= DOCUMENT_TOKENS_MIN,
            "a context of {context_tokens} tokens is too small for completion"
        );

        let plan_context = PlanContext {
            options: &self.options,
            frame,
            tokenizer,
            document: &request.document,
            parts_tokens_max,
            prefill_per_second,
        };
        let document = self.documents.remove(key);
        let (mut document, anchoring) = match window {
            Window::Small => plan_context.follow(document, &mut self.encoder),
            Window::Large => plan_context.prepare(document, &mut self.encoder),
        };
        let is_prepared = window == Window::Large && anchoring != Anchoring::Kept;
        let fixed = document.next.as_mut().filter(|_| is_prepared).unwrap_or(&mut document.current);
        let (prompt, open, marks) = plan_context.prompt(fixed, &mut self.encoder);

        self.clock += 1;
        document.used = self.clock;
        if self.documents.len() >= DOCUMENTS_MAX {
            let oldest = self.documents.iter().min_by_key(|(_, document)| document.used);
            let oldest = oldest.map(|(key, _)| key.clone());
            oldest.map(|oldest| self.documents.remove(&oldest));
        }
        self.documents.insert(key.to_owned(), document);

        let (stop_ids, stop) = (tokenizer.stop_ids(), rules::stop(request, self.options.format()));
        let ends_at_specials = Some(text_kind(&request.document));
        let task = Task { forced_prefix: open, marks, stop_ids, stop, ..Task::greedy(prompt, max_tokens) };
        let task = Task { ends_at_specials, ..task };
        Ok(Planned { task, anchoring })
    }

    /// Forgets the document `key`.
    pub fn forget(&mut self, key: &str) {
        self.documents.remove(key);
    }

    /// The completion in `generated`, or why it is not shown.
    pub fn finish(&self, request: &Request, generated: Generated) -> Result<Completion, Dropped> {
        rules::judge(request, generated, &self.options)
    }
}

impl PlanContext<'_> {
    /// The fixed parts of the next prompt: those of the last one, where possible.
    fn follow(&self, document: Option<DocumentState>, encoder: &mut Encoder) -> (DocumentState, Anchoring) {
        let Some(mut document) = document else {
            let current = self.compose(None, Window::Small, Reason::First, encoder);
            return (DocumentState { current, next: None, used: 0 }, Anchoring::Anchored(Reason::First));
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

    /// Plans a large prompt for the next new anchor of `document`.
    fn prepare(&self, document: Option<DocumentState>, encoder: &mut Encoder) -> (DocumentState, Anchoring) {
        let Some(mut document) = document else {
            let current = self.compose(None, Window::Large, Reason::First, encoder);
            return (DocumentState { current, next: None, used: 0 }, Anchoring::Anchored(Reason::First));
        };
        let next = {
            let followed = document.next.as_ref().filter(|next| self.start(next, true, encoder).is_ok());
            let base = followed.unwrap_or(&document.current);
            self.compose(Some(base), Window::Large, Reason::Idle, encoder)
        };
        let is_same = next.context == document.current.context
            && next.imports == document.current.imports
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
    fn start(&self, last: &FixedParts, is_ready: bool, encoder: &mut Encoder) -> Result<usize, Reason> {
        let Document { prefix, suffix, context, .. } = self.document;
        let start = last.anchor.follow(prefix, suffix)?;
        let is_inserted_above = start > last.anchor.start;
        if is_inserted_above
            && self.shows_all(last.budget.prefix, &mut |text| encoder.count(text, self.tokenizer))
        {
            return Err(Reason::EditBefore);
        }
        let digests = self.imports(start).into_iter().map(digest);
        if !digests.eq(last.imports.all.iter().copied()) {
            return Err(Reason::EditBefore);
        }
        if !last.context.is_current(context) {
            return Err(Reason::Context);
        }
        let typed = &prefix[start + last.anchor.before.len()..];
        if self.options.order == Order::PsmAnchored && Anchor::is_outgrown(typed, is_ready) {
            return Err(Reason::MiddleGrown);
        }
        let tokens = last.imports.ids.len() + last.before.len() + encoder.count(typed, self.tokenizer);
        let others = last.header.len() + last.context.tokens() + last.suffix.len();
        if tokens > last.budget.prefix || tokens + others > self.parts_tokens_max {
            return Err(Reason::WindowFull);
        }
        Ok(start)
    }

    /// What a prompt anchored anew holds fixed; as much as possible of what `last` did.
    fn compose(
        &self,
        last: Option<&FixedParts>,
        window: Window,
        reason: Reason,
        encoder: &mut Encoder,
    ) -> FixedParts {
        let Document { prefix, suffix, .. } = self.document;
        let kept_start = last.and_then(|last| last.anchor.reusable_start(prefix));
        // A window that moves is evaluated from its start: it begins small.
        let larger = last.map_or(window, |last| if window == Window::Large { window } else { last.window });
        [larger, window]
            .into_iter()
            .find_map(|window| {
                let budget = self.budget(window);
                let mut context = last.map(|last| last.context.clone()).unwrap_or_default();
                context.update(self, budget.context, reason == Reason::Idle || last.is_none(), encoder);
                let header = self.header(&context);
                let parts_tokens_max = self.parts_tokens_max.saturating_sub(context.tokens() + header.len());

                let mut count = |text: &str| encoder.count(text, self.tokenizer);
                let shown = after_cursor(suffix, Place::new(prefix, suffix).ends_line());
                let shown =
                    context::suffix_window(shown, budget.suffix.min(parts_tokens_max / 4), &mut count);
                let budget = Budget { prefix: budget.prefix.min(parts_tokens_max - count(shown)), ..budget };
                let from_top = reason == Reason::EditBefore && self.shows_all(budget.prefix, &mut count);
                let imports_max = budget.prefix / IMPORTS_SHARE;
                let imports = self.imports(prefix.len()).iter().map(|import| count(import)).sum::<usize>();
                let shown_max = budget.prefix - imports.min(imports_max);
                let fits = |start: usize, count: &mut dyn FnMut(&str) -> usize| {
                    let tokens = count(&prefix[start..]);
                    let most = if start == 0 { budget.prefix } else { shown_max };
                    tokens <= most && (start == 0 || tokens >= shown_max / 2)
                };
                let kept =
                    if from_top { Some(0) } else { kept_start.filter(|&start| fits(start, &mut count)) };
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
                    prefix.len() - context::prefix_window(prefix, shown_max, split).len()
                });
                let anchor = Anchor {
                    start,
                    before: prefix[start..self.anchor_at(start, reason)].to_owned(),
                    suffix: shown.to_owned(),
                    is_whole: suffix.ends_with(shown),
                    typed: String::new(),
                    rest: String::new(),
                };
                let known = last.map(|last| &last.imports);
                let imports = self.shown_imports(start, imports_max, known, encoder);
                let before = encoder.encode(&anchor.before, self.tokenizer);
                let suffix = encoder.encode(shown, self.tokenizer);
                Some(FixedParts { window, budget, anchor, context, header, imports, before, suffix })
            })
            .expect("a small window is never too large")
    }

    /// The imports of the document in front of the byte `start`.
    fn imports(&self, start: usize) -> Vec<&str> {
        let Document { path, prefix, .. } = self.document;
        imports(Language::of_path(path.as_deref()), &prefix[..start])
    }

    /// Those that a prompt shows above a window from `start`, with at most `tokens_max` tokens: those that are not among the
    /// `known` ones, then those that were shown, then the last ones.
    fn shown_imports(
        &self,
        start: usize,
        tokens_max: usize,
        known: Option<&Imports>,
        encoder: &mut Encoder,
    ) -> Imports {
        let imports = self.imports(start);
        let all: Vec<u64> = imports.iter().map(|import| digest(import)).collect();
        let rank = |&at: &usize| match known {
            Some(known) if !known.all.contains(&all[at]) => 0,
            Some(known) if known.shown.contains(&all[at]) => 1,
            _ => 2,
        };
        let mut order: Vec<usize> = (0..all.len()).rev().collect();
        order.sort_by_key(rank);
        let mut left = tokens_max;
        let mut fits = |&at: &usize| {
            let rest = left.checked_sub(encoder.count(imports[at], self.tokenizer));
            left = rest.unwrap_or(left);
            rest.is_some()
        };
        let mut chosen: Vec<usize> = order.into_iter().filter(|at| fits(at)).collect();
        chosen.sort_unstable();
        let text: String = chosen.iter().map(|&at| imports[at]).collect();
        let shown = chosen.iter().map(|&at| all[at]).collect();
        Imports { all, shown, ids: encoder.encode(&text, self.tokenizer) }
    }

    /// Whether a window of `tokens_max` tokens by `count` shows all the text before the cursor.
    fn shows_all(&self, tokens_max: usize, count: &mut dyn FnMut(&str) -> usize) -> bool {
        let prefix = &self.document.prefix;
        prefix.len() <= tokens_max.saturating_mul(context::TOKEN_BYTES_MAX) && count(prefix) <= tokens_max
    }

    /// The anchor of a window from `start`, in bytes.
    fn anchor_at(&self, start: usize, reason: Reason) -> usize {
        let prefix = &self.document.prefix;
        let line_starts = prefix[start..].rmatch_indices('\n').map(|(end, _)| start + end + 1);
        let above = if reason == Reason::Undone { LINES_ABOVE } else { 0 };
        match self.options.order {
            Order::PsmAnchored => line_starts.chain([start]).take(above + 1).last().unwrap_or(start),
            Order::Psm | Order::Spm => start,
        }
    }

    fn prompt(&self, fixed: &mut FixedParts, encoder: &mut Encoder) -> (Vec<u32>, String, Vec<Mark>) {
        let Document { prefix, suffix, .. } = self.document;
        let start = fixed.anchor.start;
        fixed.anchor.note(start, prefix, suffix);
        let typed = &prefix[start + fixed.anchor.before.len()..];
        let context = fixed.context.ids();
        let imports = &fixed.imports.ids[..];
        let (text, open) = match self.options.order {
            Order::Psm => (encoder.encode(typed, self.tokenizer), String::new()),
            Order::Spm | Order::PsmAnchored => encoder.encode_open(typed, self.tokenizer),
        };
        // The imports stand in front of the window, wherever that is.
        let (before, typed) = match self.options.order {
            Order::Psm => ([imports, &text].concat(), Vec::new()),
            Order::Spm => (Vec::new(), [imports, &text].concat()),
            Order::PsmAnchored => ([imports, &fixed.before].concat(), text),
        };
        let (header, suffix) = (&fixed.header, &fixed.suffix);
        let parts = Parts { context: &context, header, before: &before, suffix, typed: &typed };
        let (ids, marks) = self.frame.prompt(&parts);
        (ids, open, marks)
    }

    /// A file as context, with at most `tokens_max` tokens of text; none where it is empty or the model has no way to
    /// show it.
    fn render(&self, file: &ContextFile, tokens_max: usize, encoder: &mut Encoder) -> Option<File> {
        let mut ids = self.frame.file_header(&file.path, self.tokenizer)?;
        let mut count = |text: &str| encoder.count(text, self.tokenizer);
        let text = context::suffix_window(&file.text, tokens_max / 2, &mut count);
        ids.extend(encoder.encode(text, self.tokenizer));
        if !text.ends_with('\n') {
            ids.extend(encoder.encode("\n", self.tokenizer));
        }
        (!text.is_empty()).then(|| File { path: file.path.clone(), digest: digest(&file.text), ids })
    }

    fn repository(&self) -> Vec<u32> {
        let name = self.document.repository.as_ref();
        name.and_then(|name| self.frame.repository_header(name, self.tokenizer)).unwrap_or_default()
    }

    /// The name of the document's file, where the prompt includes it.
    fn header(&self, context: &Context) -> Vec<u32> {
        let is_shown = self.options.names_files || !context.files.is_empty();
        let path = self.document.path.as_ref().filter(|_| is_shown);
        let ids = path.and_then(|path| self.frame.file_header(path, self.tokenizer)).unwrap_or_default();
        if ids.len() <= self.parts_tokens_max / 8 { ids } else { Vec::new() }
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
        let suffix = (document / SUFFIX_SHARE).min(suffix_tokens_max).min(self.parts_tokens_max / 4);
        let prefix = (document - document / SUFFIX_SHARE).min(prefix_tokens_max);
        let is_shown = !self.document.context.is_empty();
        let prefix = prefix.min(if is_shown { self.parts_tokens_max / 2 } else { self.parts_tokens_max });
        let left = self.parts_tokens_max.min(all).saturating_sub(prefix + suffix);
        Budget { prefix, suffix, context: left.min(context_tokens_max) }
    }
}

/// Whether `<s>` is a tag in a document.
fn text_kind(document: &Document) -> TextKind {
    let language = Language::of_path(document.path.as_deref());
    let has_tags = language.blocks == Blocks::Tags;
    let may_have_tags = matches!(language.name, "Markdown" | "PHP" | "TSX" | "JSX");
    if has_tags || may_have_tags { TextKind::Markup } else { TextKind::Code }
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

    /// Whether all its files are files of the request, as they are now.
    fn is_current(&self, files: &[ContextFile]) -> bool {
        self.files.iter().all(|known| files.iter().any(|file| known.shows(file)))
    }

    /// Drops what is no longer as in the request, and what follows it, which has to be evaluated again anyway. Appends
    /// the newest of the missing files that fit; when the budget is exceeded and `is_idle`, starts over with the newest.
    fn update(
        &mut self,
        plan_context: &PlanContext,
        tokens_max: usize,
        is_idle: bool,
        encoder: &mut Encoder,
    ) {
        let all = &plan_context.document.context;
        let current = self.files.iter().take_while(|known| all.iter().any(|file| known.shows(file))).count();
        self.files.truncate(current);
        let mut missing: Vec<File> = Vec::new();
        for file in all.iter().filter(|file| !self.files.iter().any(|known| known.shows(file))) {
            if !missing.iter().any(|known| known.shows(file)) {
                missing.extend(plan_context.render(file, tokens_max, encoder));
            }
        }
        if !missing.is_empty() && self.files.is_empty() {
            self.repository = plan_context.repository();
        }
        let left = tokens_max.saturating_sub(self.tokens());
        let is_full = missing.iter().map(|file| file.ids.len()).sum::<usize>() > left;
        if is_full && is_idle {
            missing = all.iter().filter_map(|file| plan_context.render(file, tokens_max, encoder)).collect();
            self.files.clear();
            self.repository = plan_context.repository();
            self.append(missing, tokens_max - tokens_max / 4);
        } else {
            self.append(missing, tokens_max);
        }
        if self.files.is_empty() {
            self.repository.clear();
        }
    }

    /// Appends as many of `files` as fit, the newest first, which is the last.
    fn append(&mut self, files: Vec<File>, tokens_max: usize) {
        let (mut left, end) = (tokens_max.saturating_sub(self.tokens()), self.files.len());
        for file in files.into_iter().rev() {
            if let Some(rest) = left.checked_sub(file.ids.len()) {
                left = rest;
                self.files.insert(end, file);
            }
        }
    }
}

impl File {
    fn shows(&self, file: &ContextFile) -> bool {
        self.path == file.path && self.digest == digest(&file.text)
    }
}

#[cfg(test)]
mod tests;
