//! `workspace/didChangeConfiguration`, and `workspace/configuration` where it carries no settings.

use std::sync::{Arc, Weak};

use serde_json::json;
use tower_lsp::Client;
use tower_lsp::gen_lsp_types::{ConfigurationItem, DidChangeConfigurationParams, MessageType, Registration};

use super::connection::Connection;
use super::watched_files;
use crate::base::escape;
use crate::config::{Problem, SECTION};

/// Replaces the client's settings; with null they are requested from the client.
pub(super) async fn did_change_configuration(
    connection: Arc<Connection>,
    params: DidChangeConfigurationParams,
) {
    let settings = params.settings;
    connection.signal_activity();
    if !settings.is_null() {
        let problems = connection.configure(settings);
        return warn(connection.client(), &problems).await;
    }
    if connection.capabilities().configuration {
        // Not awaited: a handler that waits for the client would block further messages.
        tokio::spawn(request(connection.client().clone(), Arc::downgrade(&connection)));
    }
}

/// Requests a client's settings and applies them, unless the session ends first.
async fn request(client: Client, connection: Weak<Connection>) {
    let item = ConfigurationItem { scope_uri: None, section: Some(SECTION.into()) };
    let settings = match client.configuration(vec![item]).await {
        Ok(settings) => settings.into_iter().next().unwrap_or_default(),
        Err(error) => return tracing::warn!("workspace/configuration failed: {error}"),
    };
    let Some(problems) = connection.upgrade().map(|connection| connection.configure(settings)) else {
        return;
    };
    warn(&client, &problems).await;
}

/// Registers for changes of settings and of the rules of git, where the client supports it.
pub(super) fn register(connection: &Connection) {
    let capabilities = connection.capabilities();
    let configuration = || Registration {
        id: "fimd/configuration".into(),
        method: "workspace/didChangeConfiguration".into(),
        register_options: Some(json!({"section": SECTION})),
    };
    let wanted = [
        capabilities.register_configuration.then(configuration),
        capabilities.register_watched_files.then(watched_files::registration),
    ];
    let client = connection.client().clone();
    tokio::spawn(async move {
        for registration in wanted.into_iter().flatten() {
            let method = registration.method.clone();
            if let Err(error) = client.register_capability(vec![registration]).await {
                tracing::warn!("cannot register for {method}: {error}");
            }
        }
    });
}

/// Shows problems of settings to the user.
pub(super) async fn warn(client: &Client, problems: &[Problem]) {
    for problem in problems {
        tracing::warn!("invalid setting: {problem}");
        let message = format!("fimd: {problem}");
        client.show_message(MessageType::Warning, escape::text(&message)).await;
    }
}
