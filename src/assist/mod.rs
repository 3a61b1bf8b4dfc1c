//! Explaining, fixing and documenting code, with no LSP and no tensors.
//!
//! [`symbol`] finds definitions, [`prompt`] makes chat prompts, [`documentation`] and [`answer`] turn the generated
//! text into edits. A [`Job`] has the task for the engine and [makes a result](Job::finish) of its output. Edits
//! change no more of a document than the selected lines.

pub mod answer;
pub mod cache;
mod definition;
pub mod documentation;
pub mod prompt;
pub mod symbol;

use std::fmt;
use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::complete::{self, Document, Planner, Window};
use crate::decode::stop::{Passage, Stop};
use crate::decode::{Generated, StopReason, Task};
use crate::model::Tokenizer;
use crate::model::tokenizer::chat::{Message, Role};
use crate::serve::Engine;
use crate::text::Language;
use documentation::CommentSlot;
use prompt::ChatPrompt;
use symbol::Symbol;

/// Most tokens of a comment.
const COMMENT_TOKENS_MAX: usize = 256;
/// Tokens that fixed lines may have beyond those they replace.
const FIX_TOKENS_MARGIN: usize = 256;

/// Options of a job.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Options {
    /// How to make FIM prompts, for models without a chat template.
    pub prompt: complete::Options,
    /// Most tokens of an answer.
    pub max_tokens: usize,
}

/// What to do with the code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Explain it, in Markdown.
    Explain,
    /// Correct its diagnostics.
    Fix,
    /// Write the documentation comment of a definition.
    Document,
}

/// Why there is no result, as a message for the user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal(pub String);

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refusal {}

/// The code of a request.
#[derive(Clone, Debug)]
pub struct Subject {
    /// The whole document.
    pub text: String,
    /// Its path, as it appears in prompts.
    pub path: String,
    /// Its language identifier in the editor.
    pub language_id: String,
    /// The selected lines, in bytes, without the last line end.
    pub lines: Range<usize>,
    /// The selected definition.
    pub symbol: Option<Symbol>,
    /// Diagnostics of the selected lines.
    pub problems: Vec<Problem>,
}

/// A diagnostic of a compiler or a linter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Problem {
    /// The line, from 0.
    pub line: usize,
    /// Its message.
    pub message: String,
}

impl Subject {
    /// The lines of a selection, in bytes; of an empty one the definition around it, or else its line. `None` where
    /// there is only whitespace.
    pub fn new(text: String, path: String, language_id: String, selected: Range<usize>) -> Option<Self> {
        let language = Language::of(&language_id, &path);
        let (lines, symbol) = if selected.is_empty() {
            let symbol = symbol::around(&text, selected.start, language);
            let lines = symbol.as_ref().map(|symbol| symbol.whole.clone());
            (lines.unwrap_or_else(|| symbol::whole_lines(&text, selected)), symbol)
        } else {
            let lines = symbol::whole_lines(&text, selected);
            let first = symbol::first_in(&text, lines.clone(), language);
            let symbol = first.or_else(|| symbol::around(&text, lines.start, language));
            (lines, symbol)
        };
        let is_blank = text[lines.clone()].trim().is_empty();
        (!is_blank).then_some(Self { text, path, language_id, lines, symbol, problems: Vec::new() })
    }

    /// A whole definition.
    pub fn of_symbol(text: String, path: String, language_id: String, symbol: Symbol) -> Self {
        let lines = symbol.whole.clone();
        Self { text, path, language_id, lines, symbol: Some(symbol), problems: Vec::new() }
    }

    pub fn language(&self) -> &'static Language {
        Language::of(&self.language_id, &self.path)
    }

    /// The info string of its code blocks.
    fn language_name(&self) -> &str {
        let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '+' | '#' | '_');
        if self.language_id.chars().all(is_name) { &self.language_id } else { "" }
    }

    /// The fence of code blocks in the answer.
    fn fence(&self) -> String {
        answer::fence_for(&self.text[self.lines.clone()])
    }
}

/// Fails with the reason when the model does not support `action`.
pub fn check_support(tokenizer: &Tokenizer, action: Action) -> Result<(), Refusal> {
    match (tokenizer.cannot_chat(), action) {
        (None, _) => Ok(()),
        (Some(_), Action::Document) if tokenizer.fim().is_ok() => Ok(()),
        (Some(why), _) => Err(Refusal(format!("this model only completes code: {why}"))),
    }
}

/// A task for the engine, and how to turn its output into a result.
#[derive(Clone, Debug)]
pub struct Job {
    /// What to generate.
    pub task: Task,
    subject: Subject,
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    Explain,
    Fix,
    Document(CommentSlot),
}

/// The result of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Markdown.
    Explanation(String),
    /// The text that replaces these bytes of the document.
    Edit(Range<usize>, String),
}

impl Job {
    /// Fails when the model does not support `action`, or the code exceeds its context.
    pub fn new(
        engine: &Engine,
        options: &Options,
        action: Action,
        subject: Subject,
    ) -> Result<Self, Refusal> {
        let tokenizer = engine.tokenizer();
        check_support(tokenizer, action)?;
        let max_tokens = options.max_tokens.min(engine.context() / 2);
        let (task, kind) = match action {
            Action::Explain => {
                let chat_prompt = prompt::explain(&subject, tokenizer);
                (chat(engine, chat_prompt, max_tokens, Passage::Answer)?, Kind::Explain)
            }
            Action::Fix => {
                let old = tokenizer.encode(&subject.text[subject.lines.clone()]).len();
                let needed = old + FIX_TOKENS_MARGIN.min(old + FIX_TOKENS_MARGIN / 4);
                if old > max_tokens {
                    return Err(Refusal(format!(
                        "these lines are {old} tokens long; at most {max_tokens} can be rewritten: select fewer"
                    )));
                }
                let chat_prompt = prompt::fix(&subject, tokenizer);
                let stop = Passage::Fenced(subject.fence().len());
                (chat(engine, chat_prompt, needed.min(max_tokens), stop)?, Kind::Fix)
            }
            Action::Document => {
                let slot = subject.symbol.as_ref();
                let slot = slot.and_then(|symbol| CommentSlot::of(symbol, subject.language()));
                let nothing = || Refusal("no undocumented definition at this position".into());
                let slot = slot.ok_or_else(nothing)?;
                let max_tokens = max_tokens.min(COMMENT_TOKENS_MAX);
                (document(engine, options, &subject, &slot, max_tokens)?, Kind::Document(slot))
            }
        };
        Ok(Self { task, subject, kind })
    }

    /// Fails when the output is unusable.
    pub fn finish(&self, generated: &Generated) -> Result<Outcome, Refusal> {
        let Subject { text, lines, .. } = &self.subject;
        let unusable = || Refusal("the model returned nothing usable".into());
        match &self.kind {
            Kind::Explain => match generated.text.trim() {
                "" => Err(unusable()),
                text => Ok(Outcome::Explanation(text.to_owned())),
            },
            Kind::Fix => {
                if !matches!(generated.stop, StopReason::Rule | StopReason::EndToken) {
                    return Err(Refusal("the answer exceeds its token limit: select fewer lines".into()));
                }
                let code = answer::code(&generated.text, &self.subject.fence());
                let new =
                    answer::fit(self.subject.language(), text, lines.clone(), code).ok_or_else(unusable)?;
                let changed = answer::minimal_edit(text, lines.clone(), &new);
                let (range, new) = changed.ok_or_else(|| Refusal("the model proposes no change".into()))?;
                Ok(Outcome::Edit(range, new))
            }
            Kind::Document(slot) => {
                let comment = slot.comment(&slot.lines(&generated.text));
                if comment.is_empty() {
                    return Err(unusable());
                }
                let uses_crlf = text[..slot.at].ends_with("\r\n")
                    || text[slot.at..].lines().count() > 0
                        && text[slot.at..]
                            .split_inclusive('\n')
                            .next()
                            .is_some_and(|line| line.ends_with("\r\n"));
                let comment = if uses_crlf { comment.replace('\n', "\r\n") } else { comment };
                Ok(Outcome::Edit(slot.at..slot.at, comment))
            }
        }
    }

    /// The text of the documentation in `generated`, complete or not; empty when there is too little.
    pub fn documentation(&self, generated: &str) -> String {
        match &self.kind {
            Kind::Document(slot) => slot.lines(generated).join("\n"),
            Kind::Explain | Kind::Fix => String::new(),
        }
    }
}

/// Asks a chat model for the comment; with any other, the comment is the middle between signature and body.
fn document(
    engine: &Engine,
    options: &Options,
    subject: &Subject,
    slot: &CommentSlot,
    max_tokens: usize,
) -> Result<Task, Refusal> {
    let tokenizer = engine.tokenizer();
    if tokenizer.cannot_chat().is_none() {
        let chat_prompt = prompt::document(subject, tokenizer, &slot.opening());
        let task = chat(engine, chat_prompt, max_tokens, Passage::Answer)?;
        return Ok(Task { stop: slot.stop(), ..task });
    }
    let (before, after) = subject.text.split_at(slot.at);
    let before = format!("{before}{}", slot.opening());
    let after = format!("{}{after}", slot.closing());
    let document = Document::new(Some(subject.path.clone()), before, after);
    let request = complete::Request { max_tokens, ..complete::Request::of(document) };
    let speed = engine.prefill_per_second();
    let mut planner = Planner::new(options.prompt);
    let planned = planner.plan("document", &request, Window::Small, tokenizer, engine.context(), speed);
    let planned = planned.map_err(|error| Refusal(format!("{error:#}")))?;
    Ok(Task { stop: slot.stop(), ..planned.task })
}

/// A chat whose answer ends with `passage`.
fn chat(
    engine: &Engine,
    chat_prompt: ChatPrompt,
    max_tokens: usize,
    passage: Passage,
) -> Result<Task, Refusal> {
    let tokenizer = engine.tokenizer();
    let ChatPrompt { messages, answer_start } = chat_prompt;
    let prompt = tokenizer.encode_chat(&messages).or_else(|error| {
        // Some templates do not support system messages.
        let [system, user] = &messages[..] else { return Err(error) };
        let both = format!("{}\n\n{}", system.content, user.content);
        tokenizer.encode_chat(&[Message::new(Role::User, both)]).map_err(|_| error)
    });
    let mut prompt =
        prompt.map_err(|error| Refusal(format!("the chat template of this model failed: {error:#}")))?;
    prompt.extend(tokenizer.encode(&answer_start));
    let prompt_tokens_max = engine.context().saturating_sub(max_tokens);
    if prompt.len() > prompt_tokens_max {
        return Err(Refusal(format!(
            "these lines are too long for the model: the prompt has {} tokens, at most {prompt_tokens_max} fit; select fewer",
            prompt.len()
        )));
    }
    let (stop_ids, stop) = (tokenizer.stop_ids(), Stop::passage(passage));
    Ok(Task { stop_ids, stop, ..Task::greedy(prompt, max_tokens) })
}
