//! `textDocument/inlineCompletion`: ghost text.

use std::sync::atomic::Ordering;

use tower_lsp::gen_lsp_types::{
    InlineCompletionItem, InlineCompletionList, InlineCompletionParams, InlineCompletionTriggerKind,
    SelectedCompletionInfo,
};
use tower_lsp::jsonrpc::Result;

use super::complete::complete;
use super::connection::Connection;
use crate::complete::service::Trigger;

/// One item at most, some more when asked for by hand. With an entry of the client's completion menu selected, the
/// item goes on from the text of that entry, in its range; otherwise its range is empty and lies at the cursor.
pub async fn inline_completion(
    connection: &Connection,
    params: InlineCompletionParams,
) -> Result<InlineCompletionList> {
    let trigger = trigger_of(connection, params.context.trigger_kind);
    let at = params.text_document_position_params;
    let uri = at.text_document.uri.0;
    let Some(snapshot) = connection.documents.snapshot(&uri) else {
        tracing::warn!("a completion was asked for in a document that is not open");
        return Ok(InlineCompletionList::default());
    };
    let encoding = connection.encoding;
    let (text, cursor) = (&snapshot.text, encoding.to_char(&snapshot.text, at.position));
    let (replaced, selected) = match params.context.selected_completion_info {
        // The protocol has items replace parts of one line only.
        Some(SelectedCompletionInfo { range, text: selected }) if range.start.line == range.end.line => {
            (encoding.to_chars(text, range), selected)
        }
        _ => (cursor..cursor, String::new()),
    };
    let prefix = text.slice(..replaced.start).to_string() + &selected;
    let suffix = text.slice(replaced.end..).to_string();
    let completions = complete(connection, &snapshot, prefix, suffix, trigger).await?;
    let range = encoding.to_range(text, replaced);
    // No command: one that runs after an accept would keep VS Code from asking for more.
    let item = |completion: String| InlineCompletionItem {
        insert_text: format!("{selected}{completion}").into(),
        filter_text: None,
        range: Some(range),
        command: None,
    };
    Ok(InlineCompletionList { items: completions.into_iter().map(item).collect() })
}

/// Early VS Code clients say 0 for invoked and 1 for automatic, where the protocol has 1 and 2: who
/// ever says 0 is one of them.
fn trigger_of(connection: &Connection, kind: InlineCompletionTriggerKind) -> Trigger {
    let kind = u32::from(kind);
    let from_zero = kind == 0 || connection.counts_triggers_from_zero.load(Ordering::Relaxed);
    connection.counts_triggers_from_zero.store(from_zero, Ordering::Relaxed);
    if kind == u32::from(!from_zero) { Trigger::Invoked } else { Trigger::Automatic }
}
