//! `textDocument/hover`: generated documentation of undocumented definitions.

use std::sync::Arc;
use std::time::Duration;

use tower_lsp::gen_lsp_types::{Hover, HoverParams, MarkupContent, MarkupKind};
use tower_lsp::jsonrpc::Result;

use super::connection::Connection;
use super::documents::DocumentSnapshot;
use super::snapshot::Snapshot;
use crate::assist::Subject;
use crate::assist::cache::CachedText;
use crate::assist::documentation::CommentSlot;
use crate::assist::symbol::{self, Symbol};
use crate::base::escape;
use crate::privacy::content;
use crate::text::Language;

/// Most other documents to search for a definition, and the most bytes of each.
const OTHERS_MAX: usize = 32;
const OTHER_BYTES_MAX: usize = 1 << 20;

/// Documentation of the definition at a position, or of the function called there. `None` where it is documented
/// already: other servers show that.
pub(super) async fn hover(connection: Arc<Connection>, params: HoverParams) -> Result<Option<Hover>> {
    let at = params.text_document_position_params;
    let Some(snapshot) = connection.snapshot(&at.text_document.uri.0) else { return Ok(None) };
    let options = &snapshot.settings.settings.hover;
    if !options.enabled || !snapshot.may_complete().await {
        return Ok(None);
    }
    let text = &snapshot.document.text;
    let at = text.char_to_byte(snapshot.encoding.to_char(text, at.position));
    let Some(subject) = undocumented(&connection, &snapshot, at).await else { return Ok(None) };
    let budget = Duration::from_millis(options.budget_ms);
    let assist = snapshot.settings.assist();
    let cached = connection.hovers().documentation(&snapshot.served, &assist, subject, budget).await;
    Ok(cached.map(|cached| render(cached, connection.capabilities().markdown_hover)))
}

/// The undocumented definition, or the one called, at the byte `at`.
async fn undocumented(connection: &Connection, snapshot: &Snapshot, at: usize) -> Option<Subject> {
    let (document, path) = (&snapshot.document, snapshot.path());
    let language = Language::of(&document.language, &path);
    let text = content::masked((&document.text).into());
    let subject = |text: String, path: String, of: &DocumentSnapshot, symbol: Symbol| {
        let is_undocumented = CommentSlot::of(&symbol, language).is_some();
        is_undocumented.then(|| Subject::of_symbol(text, path, of.language.clone(), symbol))
    };
    if let Some(symbol) = symbol::defined_at(&text, at, language) {
        return subject(text, path, document, symbol);
    }
    let (name, is_called) = symbol::name_at(&text, at)?;
    if !is_called {
        return None;
    }
    if let Some(symbol) = symbol::named(&text, name, language) {
        return subject(text, path, document, symbol);
    }
    let workspace = &snapshot.settings.workspace;
    let others = connection.others(snapshot);
    let others = others.filter(|other| other.text.len_bytes() <= OTHER_BYTES_MAX);
    let others: Vec<DocumentSnapshot> =
        others.filter(|other| workspace.may_be_read(other)).take(OTHERS_MAX).collect();
    workspace.check(&others).await;
    others.into_iter().filter(|other| workspace.verdict(other).is_ok()).find_map(|other| {
        let path = workspace.relative(&other.uri);
        let is_alike = Language::of(&other.language, &path).is_like(language);
        let text = content::masked((&other.text).into());
        let symbol = symbol::named(&text, name, language).filter(|_| is_alike)?;
        subject(text, path, &other, symbol)
    })
}

fn render(cached: CachedText, takes_markdown: bool) -> Hover {
    let suffix = if cached.is_complete { "" } else { " (writing...)" };
    let (kind, note) = match takes_markdown {
        true => (MarkupKind::Markdown, "*written by fimd*"),
        false => (MarkupKind::PlainText, "(written by fimd)"),
    };
    let value = format!("{}{suffix}\n\n{note}", escape::text(&cached.text));
    Hover { contents: MarkupContent { kind, value }.into(), range: None }
}
