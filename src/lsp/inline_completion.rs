//! `textDocument/inlineCompletion`.

use std::sync::Arc;

use tower_lsp::gen_lsp_types::{
    InlineCompletionItem, InlineCompletionList, InlineCompletionParams, SelectedCompletionInfo,
};
use tower_lsp::jsonrpc::Result;

use super::complete::complete;
use super::connection::Connection;

/// At most one item, or several when invoked by hand. With an entry of the completion menu selected, the item extends
/// the text of that entry, in its range; otherwise its range is empty and at the cursor.
pub(super) async fn inline_completion(
    connection: Arc<Connection>,
    params: InlineCompletionParams,
) -> Result<InlineCompletionList> {
    let trigger = connection.trigger(params.context.trigger_kind);
    let at = params.text_document_position_params;
    let Some(snapshot) = connection.snapshot(&at.text_document.uri.0) else {
        tracing::warn!("completion requested in a document that is not open");
        return Ok(InlineCompletionList::default());
    };
    let (text, encoding) = (&snapshot.document.text, snapshot.encoding);
    let (replaced, selected) = match params.context.selected_completion_info {
        // The protocol requires the range of an item to be on one line.
        Some(SelectedCompletionInfo { range, text: selected }) if range.start.line == range.end.line => {
            (encoding.to_chars(text, range), selected)
        }
        _ => {
            let cursor = encoding.to_char(text, at.position);
            (cursor..cursor, String::new())
        }
    };
    let bytes = text.char_to_byte(replaced.start)..text.char_to_byte(replaced.end);
    let completions = complete(&connection, &snapshot, bytes, &selected, trigger).await?;
    let range = encoding.to_range(text, replaced);
    // No command: VS Code would not request the next completion after one.
    let item = |completion: String| InlineCompletionItem {
        insert_text: format!("{selected}{completion}").into(),
        filter_text: None,
        range: Some(range),
        command: None,
    };
    Ok(InlineCompletionList { items: completions.into_iter().map(item).collect() })
}
