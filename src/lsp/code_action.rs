//! `textDocument/codeAction`: explain, fix, document.
//!
//! What to change is computed when the user wants it: when the action is resolved, or, for clients that cannot
//! do that, by the command `fimd.apply`.

use tower_lsp::gen_lsp_types::{
    ClientCapabilities, CodeAction, CodeActionClientCapabilities, CodeActionDisabled, CodeActionKind,
    CodeActionParams, CodeActionResponse, CodeActionTag, CodeActionTriggerKind, Command, Diagnostic, Message,
};

use super::assist::{Wanted, assistant, readable, subject_of};
use super::connection::Connection;
use super::execute_command::{APPLY, EXPLAIN};
use crate::assist::documentation::Writing;
use crate::assist::{self, Action, Problem};

/// The kinds of actions that are offered, besides explaining.
pub const KINDS: [CodeActionKind; 2] = [CodeActionKind::QuickFix, CodeActionKind::RefactorRewrite];

/// What the model can do for a selection, or for the definition around the cursor. Clients ask unasked at
/// every move of the cursor; then only selections and problems are worth an offer.
pub fn code_action(connection: &Connection, params: CodeActionParams) -> Vec<CodeActionResponse> {
    let uri = params.text_document.uri.0;
    let context = params.context;
    let is_automatic = context.trigger_kind == Some(CodeActionTriggerKind::Automatic);
    let has_problems = !context.diagnostics.is_empty();
    if is_automatic && !has_problems && params.range.start == params.range.end {
        return Vec::new();
    }
    let Ok(snapshot) = readable(connection, &uri) else { return Vec::new() };
    let Some(subject) = subject_of(connection, &snapshot, params.range) else { return Vec::new() };
    let (engine, _) = assistant(connection);
    let can = Can::of(&connection.capabilities);
    let wanted = |kind: &CodeActionKind| {
        let is_within = |only: &CodeActionKind| {
            let (only, kind) = (String::from(only.clone()), String::from(kind.clone()));
            kind == only || kind.starts_with(&format!("{only}.")) || only.is_empty()
        };
        context.only.as_ref().is_none_or(|only| only.iter().any(is_within))
    };
    let what = match &subject.symbol {
        _ if params.range.start != params.range.end => "the selection".into(),
        Some(symbol) => format!("`{}`", symbol.name),
        None => "the line".into(),
    };

    let mut offers = Vec::new();
    for action in [Action::Fix, Action::Document, Action::Explain] {
        let (title, kind) = match action {
            Action::Fix if has_problems => (format!("fix {what}"), CodeActionKind::QuickFix),
            Action::Fix => (format!("fix {what}"), CodeActionKind::RefactorRewrite),
            Action::Document => match subject.symbol.as_ref() {
                Some(symbol) if Writing::of(symbol, subject.language()).is_some() => {
                    (format!("document `{}`", symbol.name), CodeActionKind::RefactorRewrite)
                }
                _ => continue,
            },
            Action::Explain => (format!("explain {what}"), CodeActionKind::Custom("fimd.explain".into())),
        };
        if !wanted(&kind) || is_automatic && !has_problems && action == Action::Fix {
            continue;
        }
        let why_not = assist::can(engine.tokenizer(), action).err();
        let problems = if action == Action::Fix { problems(&context.diagnostics) } else { Vec::new() };
        let wanted =
            Wanted { action, uri: uri.clone(), range: params.range, revision: snapshot.revision, problems };
        offers.extend(match why_not {
            Some(why) => can.disabled(title, kind, why.0),
            None => {
                let diagnostics = if action == Action::Fix { &context.diagnostics[..] } else { &[] };
                can.offer(title, kind, wanted, diagnostics)
            }
        });
    }
    offers
}

/// What diagnostics say of which line.
fn problems(diagnostics: &[Diagnostic]) -> Vec<Problem> {
    let problem = |diagnostic: &Diagnostic| Problem {
        line: diagnostic.range.start.line as usize,
        message: match &diagnostic.message {
            Message::String(text) => text.clone(),
            Message::MarkupContent(markup) => markup.value.clone(),
        },
    };
    diagnostics.iter().map(problem).collect()
}

/// What a client can do with actions.
struct Can {
    literals: bool,
    resolve: bool,
    apply: bool,
    disabled: bool,
    tags: bool,
}

impl Can {
    fn of(client: &ClientCapabilities) -> Self {
        let actions = client.text_document.as_ref().and_then(|can| can.code_action.as_ref());
        let is = |can: &dyn Fn(&CodeActionClientCapabilities) -> bool| actions.is_some_and(can);
        let resolves = |can: &CodeActionClientCapabilities| {
            let properties = can.resolve_support.as_ref().map(|support| &support.properties);
            can.data_support == Some(true)
                && properties.is_some_and(|properties| properties.iter().any(|property| property == "edit"))
        };
        let tags = |can: &CodeActionClientCapabilities| {
            let tags = can.tag_support.as_ref();
            tags.is_some_and(|support| support.value_set.contains(&CodeActionTag::LLMGenerated))
        };
        Self {
            literals: is(&|can| can.code_action_literal_support.is_some()),
            resolve: is(&resolves),
            apply: client.workspace.as_ref().is_some_and(|can| can.apply_edit == Some(true)),
            disabled: is(&|can| can.disabled_support == Some(true)),
            tags: is(&tags),
        }
    }

    /// An action that the model cannot do, where the client shows why.
    fn disabled(&self, title: String, kind: CodeActionKind, reason: String) -> Option<CodeActionResponse> {
        let disabled = Some(CodeActionDisabled { reason });
        let action = CodeAction { title: named(title), kind: Some(kind), disabled, ..CodeAction::default() };
        (self.literals && self.disabled).then(|| action.into())
    }

    /// An action, where the client has a way to carry it out.
    fn offer(
        &self,
        title: String,
        kind: CodeActionKind,
        wanted: Wanted,
        diagnostics: &[Diagnostic],
    ) -> Option<CodeActionResponse> {
        let title = named(title);
        let command = |command: &str, argument| Command {
            title: title.clone(),
            tooltip: None,
            command: command.into(),
            arguments: Some(vec![argument]),
        };
        let is_explanation = wanted.action == Action::Explain;
        let json = |wanted: &Wanted| serde_json::to_value(wanted).expect("it is JSON");
        let command = if is_explanation {
            Some(command(EXPLAIN, serde_json::json!({"uri": wanted.uri, "range": wanted.range})))
        } else {
            (!(self.literals && self.resolve)).then(|| command(APPLY, json(&wanted)))
        };
        if command.is_some() && !is_explanation && !self.apply {
            return None;
        }
        if !self.literals {
            return command.map(CodeActionResponse::from);
        }
        let action = CodeAction {
            kind: Some(kind),
            diagnostics: (!diagnostics.is_empty()).then(|| diagnostics.to_vec()),
            data: command.is_none().then(|| json(&wanted)),
            command,
            tags: self.tags.then(|| vec![CodeActionTag::LLMGenerated]),
            title,
            ..CodeAction::default()
        };
        Some(action.into())
    }
}

/// A title that says who would do it.
fn named(title: String) -> String {
    format!("fimd: {title}")
}
