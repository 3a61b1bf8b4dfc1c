//! `textDocument/completion`: the same text for clients without inline completion, such as Helix.

use std::sync::Arc;

use tower_lsp::gen_lsp_types::{
    CompletionItem, CompletionItemKind, CompletionList, CompletionParams, InsertTextMode, TextEdit,
};
use tower_lsp::jsonrpc::Result;

use super::complete::complete;
use super::connection::Connection;
use crate::complete::service::Trigger;

/// Most characters of a menu entry.
const LABEL_CHARS_MAX: usize = 60;

/// At most one item, which replaces the identifier before the cursor by itself and the completion. Clients send
/// "invoked" also for menus that open while typing, so all requests count as automatic.
pub(super) async fn completion(
    connection: Arc<Connection>,
    params: CompletionParams,
) -> Result<CompletionList> {
    // Incomplete: the completion changes with each character.
    let mut list = CompletionList { is_incomplete: true, ..Default::default() };
    let at = params.text_document_position_params;
    let Some(snapshot) = connection.snapshot(&at.text_document.uri.0) else {
        tracing::warn!("completion requested in a document that is not open");
        return Ok(list);
    };
    let (text, encoding) = (&snapshot.document.text, snapshot.encoding);
    let cursor = encoding.to_char(text, at.position);
    let is_identifier = |c: &char| c.is_alphanumeric() || *c == '_';
    let identifier_chars = text.chars_at(cursor).reversed().take_while(is_identifier).count();
    let identifier = text.slice(cursor - identifier_chars..cursor).to_string();
    let byte = text.char_to_byte(cursor);
    let completions = complete(&connection, &snapshot, byte..byte, "", Trigger::Automatic).await?;
    if let Some(completion) = completions.first() {
        let new_text = format!("{identifier}{completion}");
        let edit = TextEdit { range: encoding.to_range(text, cursor - identifier_chars..cursor), new_text };
        list.items.push(CompletionItem {
            label: label(&edit.new_text),
            kind: Some(CompletionItemKind::Text),
            detail: Some("fimd".into()),
            // The menu filters by what was typed: it always matches.
            filter_text: Some(identifier),
            insert_text_mode: Some(InsertTextMode::AsIs),
            text_edit: Some(edit.into()),
            ..Default::default()
        });
    }
    Ok(list)
}

/// The first line that is not blank, shortened.
fn label(text: &str) -> String {
    let line = text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
    line.chars().take(LABEL_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_is_one_short_line() {
        assert_eq!(label("for x in y:\n    z"), "for x in y:");
        assert_eq!(label("\r\n\t return 1 \r\n"), "return 1");
        assert_eq!(label(&"🦀".repeat(80)), "🦀".repeat(60));
    }
}
