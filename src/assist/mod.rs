//! Beyond completion, with no LSP and no tensors: explaining, fixing and documenting what an editor shows.
//!
//! [`symbol`] finds definitions, [`prompt`] asks a chat model, [`documentation`] and [`answer`] make edits of
//! what was generated. A [`Job`] holds it together: its task runs on the engine, and what came of that is
//! [finished](Job::finish). Nothing here touches more of a document than the lines in question.

pub mod answer;
mod definition;
pub mod documentation;
pub mod memory;
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
use documentation::Writing;
use prompt::Said;
use symbol::Symbol;

/// Most tokens of a comment.
const COMMENT_TOKENS_MAX: usize = 256;
/// Tokens that lines written anew may have more than the old ones.
const FIX_TOKENS_MORE: usize = 256;

/// How to ask.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Options {
    /// How prompts of models that only fill in are made.
    pub prompt: complete::Options,
    /// Most tokens of an answer.
    pub max_tokens: usize,
}

/// What can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// What the code does, in Markdown.
    Explain,
    /// The same lines without their problems.
    Fix,
    /// A comment about a definition.
    Document,
}

/// Why there is no result, for the user to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal(pub String);

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refusal {}

/// What is asked about.
#[derive(Clone, Debug)]
pub struct Subject {
    /// The whole document.
    pub text: String,
    /// Where it lies, as prompts call it.
    pub path: String,
    /// What the editor calls its language.
    pub language_id: String,
    /// The lines in question, in bytes, without the last line end.
    pub lines: Range<usize>,
    /// The definition in question.
    pub symbol: Option<Symbol>,
    /// What is known to be wrong.
    pub problems: Vec<Problem>,
}

/// What a compiler or a linter says about a line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Problem {
    /// The line, from 0.
    pub line: usize,
    /// What it says.
    pub message: String,
}

impl Subject {
    /// What a selection in a document is about: its lines, or, if it is empty, the definition around it, or else
    /// its line. `None` where there is nothing but blank.
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

    /// The same about a definition.
    pub fn of_symbol(text: String, path: String, language_id: String, symbol: Symbol) -> Self {
        let lines = symbol.whole.clone();
        Self { text, path, language_id, lines, symbol: Some(symbol), problems: Vec::new() }
    }

    /// Its language.
    pub fn language(&self) -> &'static Language {
        Language::of(&self.language_id, &self.path)
    }

    /// The name of its language as code blocks have it.
    fn language_name(&self) -> &str {
        let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '+' | '#' | '_');
        if self.language_id.chars().all(is_name) { &self.language_id } else { "" }
    }

    /// The fence an answer with code comes in.
    fn fence(&self) -> String {
        answer::fence_for(&self.text[self.lines.clone()])
    }
}

/// Whether a model can do what `action` asks for, and otherwise why not.
pub fn can(tokenizer: &Tokenizer, action: Action) -> Result<(), Refusal> {
    match (tokenizer.cannot_chat(), action) {
        (None, _) => Ok(()),
        (Some(_), Action::Document) if tokenizer.fim().is_ok() => Ok(()),
        (Some(why), _) => Err(Refusal(format!("this model only completes code: {why}"))),
    }
}

/// Something for the engine to do, and what to make of it.
#[derive(Clone, Debug)]
pub struct Job {
    /// What to generate.
    pub task: Task,
    subject: Subject,
    work: Work,
}

#[derive(Clone, Debug)]
enum Work {
    Explain,
    Fix,
    Document(Writing),
}

/// What came of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Markdown.
    Explanation(String),
    /// These bytes of the document become this text.
    Edit(Range<usize>, String),
}

impl Job {
    /// What `action` asks for about `subject`. Fails when the model cannot do it, or not with so much code.
    pub fn new(
        engine: &Engine,
        options: &Options,
        action: Action,
        subject: Subject,
    ) -> Result<Self, Refusal> {
        let tokenizer = engine.tokenizer();
        can(tokenizer, action)?;
        let max_tokens = options.max_tokens.min(engine.context() / 2);
        let (task, work) = match action {
            Action::Explain => {
                let said = prompt::explain(&subject, tokenizer);
                (chat(engine, said, max_tokens, Passage::Answer)?, Work::Explain)
            }
            Action::Fix => {
                let old = tokenizer.encode(&subject.text[subject.lines.clone()]).len();
                let needed = old + FIX_TOKENS_MORE.min(old + FIX_TOKENS_MORE / 4);
                if old > max_tokens {
                    return Err(Refusal(format!(
                        "these lines are {old} tokens long; at most {max_tokens} can be written anew: select fewer"
                    )));
                }
                let said = prompt::fix(&subject, tokenizer);
                let stop = Passage::Fenced(subject.fence().len());
                (chat(engine, said, needed.min(max_tokens), stop)?, Work::Fix)
            }
            Action::Document => {
                let writing = subject.symbol.as_ref();
                let writing = writing.and_then(|symbol| Writing::of(symbol, subject.language()));
                let nothing = || Refusal("there is no definition here without documentation".into());
                let writing = writing.ok_or_else(nothing)?;
                let max_tokens = max_tokens.min(COMMENT_TOKENS_MAX);
                (document(engine, options, &subject, &writing, max_tokens)?, Work::Document(writing))
            }
        };
        Ok(Self { task, subject, work })
    }

    /// What to show or to change. Fails when nothing usable came.
    pub fn finish(&self, generated: &Generated) -> Result<Outcome, Refusal> {
        let Subject { text, lines, .. } = &self.subject;
        let unusable = || Refusal("the model returned nothing usable".into());
        match &self.work {
            Work::Explain => match generated.text.trim() {
                "" => Err(unusable()),
                text => Ok(Outcome::Explanation(text.to_owned())),
            },
            Work::Fix => {
                if !matches!(generated.stop, StopReason::Rule | StopReason::EndToken) {
                    return Err(Refusal("the model did not come to an end: select fewer lines".into()));
                }
                let code = answer::code(&generated.text, &self.subject.fence());
                let new = answer::fitted(text, lines.clone(), code).ok_or_else(unusable)?;
                let changed = answer::narrowed(text, lines.clone(), &new);
                let (range, new) = changed.ok_or_else(|| Refusal("the model proposes no change".into()))?;
                Ok(Outcome::Edit(range, new))
            }
            Work::Document(writing) => {
                let comment = writing.comment(&writing.lines(&generated.text));
                if comment.is_empty() {
                    return Err(unusable());
                }
                let uses_crlf = text[..writing.at].ends_with("\r\n")
                    || text[writing.at..].lines().count() > 0
                        && text[writing.at..]
                            .split_inclusive('\n')
                            .next()
                            .is_some_and(|line| line.ends_with("\r\n"));
                let comment = if uses_crlf { comment.replace('\n', "\r\n") } else { comment };
                Ok(Outcome::Edit(writing.at..writing.at, comment))
            }
        }
    }

    /// The text of the documentation that `generated` is, complete or not; empty if it says nothing.
    pub fn documentation(&self, generated: &str) -> String {
        match &self.work {
            Work::Document(writing) => writing.lines(generated).join("\n"),
            Work::Explain | Work::Fix => String::new(),
        }
    }
}

/// A comment: asked for where the model chats, else the middle between the signature and its body.
fn document(
    engine: &Engine,
    options: &Options,
    subject: &Subject,
    writing: &Writing,
    max_tokens: usize,
) -> Result<Task, Refusal> {
    let tokenizer = engine.tokenizer();
    if tokenizer.cannot_chat().is_none() {
        let said = prompt::document(subject, tokenizer, &writing.opening());
        let task = chat(engine, said, max_tokens, Passage::Answer)?;
        return Ok(Task { stop: writing.stop(), ..task });
    }
    let (before, after) = subject.text.split_at(writing.at);
    let before = format!("{before}{}", writing.opening());
    let after = format!("{}{after}", writing.closing());
    let document = Document::new(Some(subject.path.clone()), before, after);
    let request = complete::Request { max_tokens, ..complete::Request::of(document) };
    let speed = engine.prefill_per_second();
    let mut planner = Planner::new(options.prompt);
    let planned = planner.plan("document", &request, Window::Small, tokenizer, engine.context(), speed);
    let planned = planned.map_err(|error| Refusal(format!("{error:#}")))?;
    Ok(Task { stop: writing.stop(), ..planned.task })
}

/// A chat in which `said` is said, whose answer ends with a passage.
fn chat(engine: &Engine, said: Said, max_tokens: usize, passage: Passage) -> Result<Task, Refusal> {
    let tokenizer = engine.tokenizer();
    let Said { messages, begun } = said;
    let prompt = tokenizer.encode_chat(&messages).or_else(|error| {
        // Some templates know no system messages.
        let [system, user] = &messages[..] else { return Err(error) };
        let both = format!("{}\n\n{}", system.content, user.content);
        tokenizer.encode_chat(&[Message::new(Role::User, both)]).map_err(|_| error)
    });
    let mut prompt = prompt.map_err(|error| Refusal(format!("this model cannot be asked: {error:#}")))?;
    prompt.extend(tokenizer.encode(&begun));
    let room = engine.context().saturating_sub(max_tokens);
    if prompt.len() > room {
        return Err(Refusal(format!(
            "these lines are too long for the model: the prompt has {} tokens, at most {room} fit; select fewer",
            prompt.len()
        )));
    }
    let (stop_ids, stop) = (tokenizer.stop_ids(), Stop::passage(passage));
    Ok(Task { stop_ids, stop, ..Task::greedy(prompt, max_tokens) })
}
