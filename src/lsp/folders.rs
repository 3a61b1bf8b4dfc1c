//! `workspace/didChangeWorkspaceFolders`.

use std::sync::Arc;

use tower_lsp::gen_lsp_types::{DidChangeWorkspaceFoldersParams, WorkspaceFolder};

use super::connection::Connection;

pub(super) async fn did_change_workspace_folders(
    connection: Arc<Connection>,
    params: DidChangeWorkspaceFoldersParams,
) {
    let uris = |folders: Vec<WorkspaceFolder>| folders.into_iter().map(|folder| folder.uri.0).collect();
    let (added, removed): (Vec<String>, Vec<String>) = (uris(params.event.added), uris(params.event.removed));
    connection.change_roots(added, &removed);
}
