//! `textDocument/codeAction`: explain, fix, document.
//!
//! Edits are computed when the action is resolved, or, for clients that cannot resolve it, by the command
//! `fimd.apply`.

use std::sync::Arc;

use serde_json::{Value, json};
use tower_lsp::gen_lsp_types::{
    CodeAction, CodeActionContext, CodeActionDisabled, CodeActionKind, CodeActionParams, CodeActionResponse,
    CodeActionTag, CodeActionTriggerKind, Command, Diagnostic, Message, Range,
};
use tower_lsp::jsonrpc::Result;

use super::assist::{ActionRequest, readable, subject};
use super::capabilities::Capabilities;
use super::connection::Connection;
use super::execute_command::{APPLY, EXPLAIN};
use crate::assist::documentation::CommentSlot;
use crate::assist::{self, Action, Problem, Subject};

/// The kinds of actions, besides explaining.
pub(super) const KINDS: [CodeActionKind; 2] = [CodeActionKind::QuickFix, CodeActionKind::RefactorRewrite];

/// The actions for a selection, or for the definition around the cursor. Clients send automatic requests at every move
/// of the cursor; those get actions only for selections and diagnostics.
pub(super) async fn code_action(
    connection: Arc<Connection>,
    params: CodeActionParams,
) -> Result<Vec<CodeActionResponse>> {
    let CodeActionParams { text_document, range, context, .. } = params;
    let is_automatic = context.trigger_kind == Some(CodeActionTriggerKind::Automatic);
    let has_problems = !context.diagnostics.is_empty();
    if is_automatic && !has_problems && range.start == range.end {
        return Ok(Vec::new());
    }
    let Ok(snapshot) = readable(&connection, &text_document.uri.0).await else { return Ok(Vec::new()) };
    let Some(subject) = subject(&snapshot, range) else { return Ok(Vec::new()) };

    let mut actions = Vec::new();
    for action in [Action::Fix, Action::Document, Action::Explain] {
        let is_fix = action == Action::Fix;
        let Some((title, kind)) = title_and_kind(action, &subject, range, has_problems) else { continue };
        if !is_requested(&context, &kind) || is_automatic && !has_problems && is_fix {
            continue;
        }
        let diagnostics = if is_fix { &context.diagnostics[..] } else { &[] };
        let builder =
            ActionBuilder { client: connection.capabilities(), title: format!("fimd: {title}"), kind };
        actions.extend(match assist::check_support(snapshot.engine().tokenizer(), action) {
            Err(reason) => builder.disabled(reason.0),
            Ok(_) => {
                let (uri, revision) = (text_document.uri.0.clone(), snapshot.document.revision);
                let problems = diagnostics.iter().map(problem).collect();
                builder.action(ActionRequest { action, uri, range, revision, problems }, diagnostics)
            }
        });
    }
    Ok(actions)
}

/// The title and the kind of an action, if it applies to `subject`.
fn title_and_kind(
    action: Action,
    subject: &Subject,
    range: Range,
    has_problems: bool,
) -> Option<(String, CodeActionKind)> {
    let what = match &subject.symbol {
        _ if range.start != range.end => "the selection".into(),
        Some(symbol) => format!("`{}`", symbol.name),
        None => "the line".into(),
    };
    Some(match action {
        Action::Fix if has_problems => (format!("fix {what}"), CodeActionKind::QuickFix),
        Action::Fix => (format!("fix {what}"), CodeActionKind::RefactorRewrite),
        Action::Document => {
            let symbol = subject.symbol.as_ref()?;
            CommentSlot::of(symbol, subject.language())?;
            (format!("document `{}`", symbol.name), CodeActionKind::RefactorRewrite)
        }
        Action::Explain => (format!("explain {what}"), CodeActionKind::Custom("fimd.explain".into())),
    })
}

/// Whether the request includes actions of this kind.
fn is_requested(context: &CodeActionContext, kind: &CodeActionKind) -> bool {
    let kind = String::from(kind.clone());
    let is_within = |only: &CodeActionKind| {
        let only = String::from(only.clone());
        kind == only || kind.starts_with(&format!("{only}.")) || only.is_empty()
    };
    context.only.as_ref().is_none_or(|only| only.iter().any(is_within))
}

fn problem(diagnostic: &Diagnostic) -> Problem {
    Problem {
        line: diagnostic.range.start.line as usize,
        message: match &diagnostic.message {
            Message::String(text) => text.clone(),
            Message::MarkupContent(markup) => markup.value.clone(),
        },
    }
}

/// What all forms of an action for a client have in common.
struct ActionBuilder<'a> {
    client: &'a Capabilities,
    title: String,
    kind: CodeActionKind,
}

impl ActionBuilder<'_> {
    /// An action that the model does not support, where the client shows the reason.
    fn disabled(self, reason: String) -> Option<CodeActionResponse> {
        let (can, disabled) = (&self.client.code_action, Some(CodeActionDisabled { reason }));
        let action =
            CodeAction { title: self.title, kind: Some(self.kind), disabled, ..CodeAction::default() };
        (can.literals && can.disabled).then(|| action.into())
    }

    /// An action, where the client can execute it.
    fn action(self, request: ActionRequest, diagnostics: &[Diagnostic]) -> Option<CodeActionResponse> {
        let can = &self.client.code_action;
        let data = serde_json::to_value(&request).expect("it is JSON");
        let command = if request.action == Action::Explain {
            Some(self.command(EXPLAIN, json!({"uri": request.uri, "range": request.range})))
        } else if can.literals && can.resolve {
            None
        } else if self.client.edit.apply {
            Some(self.command(APPLY, data.clone()))
        } else {
            return None;
        };
        if !can.literals {
            return command.map(CodeActionResponse::from);
        }
        let action = CodeAction {
            kind: Some(self.kind),
            diagnostics: (!diagnostics.is_empty()).then(|| diagnostics.to_vec()),
            data: command.is_none().then_some(data),
            command,
            tags: can.tags.then(|| vec![CodeActionTag::LLMGenerated]),
            title: self.title,
            ..CodeAction::default()
        };
        Some(action.into())
    }

    fn command(&self, command: &str, argument: Value) -> Command {
        let (title, arguments) = (self.title.clone(), Some(vec![argument]));
        Command { title, tooltip: None, command: command.into(), arguments }
    }
}
