//! `workspace/didChangeConfiguration`, and asking for what it does not say.

use serde_json::json;
use tower_lsp::Client;
use tower_lsp::gen_lsp_types::{
    ClientCapabilities, ConfigurationItem, DidChangeConfigurationParams, MessageType, Registration,
};

use super::server::Server;
use crate::config::{Problem, SECTION};

/// What a client can do about settings.
#[derive(Clone, Copy)]
pub struct CanConfigure {
    /// Tell them when asked.
    pub tell: bool,
    /// Be told that we want to know of changes.
    pub register: bool,
}

impl CanConfigure {
    /// As the client says.
    pub fn of(client: &ClientCapabilities) -> Self {
        let workspace = client.workspace.as_ref();
        let change = workspace.and_then(|can| can.did_change_configuration.as_ref());
        Self {
            tell: workspace.is_some_and(|can| can.configuration == Some(true)),
            register: change.is_some_and(|can| can.dynamic_registration == Some(true)),
        }
    }
}

impl Server {
    /// Takes over the settings of a client, which replace those it gave before; with null it is asked for them.
    pub async fn did_change_configuration(&self, params: DidChangeConfigurationParams) {
        let settings = params.settings;
        let ready = self.ready().clone();
        ready.activity.notify_one();
        if !settings.is_null() {
            let problems = ready.configure(settings);
            return warn(&self.client, &problems).await;
        }
        if !ready.can().tell {
            return;
        }
        let client = self.client.clone();
        // Not awaited here: a handler that waits for the client keeps messages from being read.
        tokio::spawn(async move {
            let item = ConfigurationItem { scope_uri: None, section: Some(SECTION.into()) };
            match client.configuration(vec![item]).await {
                Ok(told) => {
                    let problems = ready.configure(told.into_iter().next().unwrap_or_default());
                    warn(&client, &problems).await;
                }
                Err(error) => tracing::warn!("the client does not tell its settings: {error}"),
            }
        });
    }
}

/// Asks a client to tell of changes.
pub fn register(client: Client) {
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
pub async fn warn(client: &Client, problems: &[Problem]) {
    for problem in problems {
        tracing::warn!("a setting is wrong: {problem}");
        client.show_message(MessageType::Warning, format!("fimd: {problem}")).await;
    }
}
