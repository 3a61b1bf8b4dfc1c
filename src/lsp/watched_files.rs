//! `workspace/didChangeWatchedFiles`: the rules of git have changed.

use std::sync::Arc;

use serde_json::{Value, json};
use tower_lsp::gen_lsp_types::{DidChangeWatchedFilesParams, Registration};

use super::connection::Connection;

/// What to watch.
const PATTERNS: [&str; 2] = ["**/.gitignore", "**/.git/info/exclude"];

pub(super) async fn did_change_watched_files(connection: Arc<Connection>, _: DidChangeWatchedFilesParams) {
    connection.settings().workspace.outdate();
}

/// Asks for these notifications.
pub(super) fn registration() -> Registration {
    let watchers: Vec<Value> = PATTERNS.iter().map(|pattern| json!({"globPattern": pattern})).collect();
    Registration {
        id: "fimd/watched".into(),
        method: "workspace/didChangeWatchedFiles".into(),
        register_options: Some(json!({"watchers": watchers})),
    }
}
