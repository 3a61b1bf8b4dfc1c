//! `workspace/didChangeConfiguration`, and asking for what it does not say.

use std::sync::{Arc, Weak};

use serde_json::json;
use tower_lsp::Client;
use tower_lsp::gen_lsp_types::{ConfigurationItem, DidChangeConfigurationParams, MessageType, Registration};

use super::connection::Connection;
use crate::config::{Problem, SECTION};

/// Takes over the settings of a client, which replace those it gave before; with null it is asked for them.
pub(super) async fn did_change_configuration(
    connection: Arc<Connection>,
    params: DidChangeConfigurationParams,
) {
    let settings = params.settings;
    connection.note_activity();
    if !settings.is_null() {
        let problems = connection.configure(settings);
        return warn(connection.client(), &problems).await;
    }
    if connection.capabilities().configuration {
        // Not awaited here: a handler that waits for the client keeps messages from being read.
        tokio::spawn(ask(connection.client().clone(), Arc::downgrade(&connection)));
    }
}

/// Asks a client for its settings and takes them over, unless the session ends before it answers.
async fn ask(client: Client, connection: Weak<Connection>) {
    let item = ConfigurationItem { scope_uri: None, section: Some(SECTION.into()) };
    let told = match client.configuration(vec![item]).await {
        Ok(told) => told.into_iter().next().unwrap_or_default(),
        Err(error) => return tracing::warn!("the client does not tell its settings: {error}"),
    };
    let Some(problems) = connection.upgrade().map(|connection| connection.configure(told)) else { return };
    warn(&client, &problems).await;
}

/// Asks a client to tell of changes, where it can.
pub(super) fn register(connection: &Connection) {
    if !connection.capabilities().register_configuration {
        return;
    }
    let client = connection.client().clone();
    tokio::spawn(async move {
        let registration = Registration {
            id: "fimd/configuration".into(),
            method: "workspace/didChangeConfiguration".into(),
            register_options: Some(json!({"section": SECTION})),
        };
        if let Err(error) = client.register_capability(vec![registration]).await {
            tracing::warn!("the client does not tell of changed settings: {error}");
        }
    });
}

/// Shows the user what is wrong with settings.
pub(super) async fn warn(client: &Client, problems: &[Problem]) {
    for problem in problems {
        tracing::warn!("a setting is wrong: {problem}");
        client.show_message(MessageType::Warning, format!("fimd: {problem}")).await;
    }
}
