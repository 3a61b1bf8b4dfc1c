//! Work-done progress of long requests.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tower_lsp::Client;
use tower_lsp::gen_lsp_types::ProgressToken;

use super::capabilities::Capabilities;

/// Least time between two reports.
const INTERVAL: Duration = Duration::from_millis(100);

/// Numbers the tokens that the server creates.
static TOKENS: AtomicU64 = AtomicU64::new(0);

/// A progress, which ends when dropped. Does nothing where the client supports none.
pub(super) struct Progress {
    messages: Option<mpsc::UnboundedSender<String>>,
    /// With a token of the request, which ends before the response.
    task: Option<JoinHandle<()>>,
}

impl Progress {
    /// Begins with the `token` of a request, or with a new one where the client supports it.
    pub(super) fn begin(
        client: &Client,
        capabilities: &Capabilities,
        token: Option<ProgressToken>,
        title: String,
    ) -> Self {
        let is_client_token = token.is_some();
        if !is_client_token && !capabilities.work_done_progress {
            return Self { messages: None, task: None };
        }
        let (messages, received) = mpsc::unbounded_channel();
        let task = tokio::spawn(show(client.clone(), token, title, received));
        Self { messages: Some(messages), task: is_client_token.then_some(task) }
    }

    pub(super) fn report(&self, message: String) {
        if let Some(messages) = &self.messages {
            // Fails when the client refused the progress.
            let _ = messages.send(message);
        }
    }

    pub(super) async fn finish(mut self) {
        self.messages = None;
        if let Some(task) = self.task.take() {
            let _ = task.await;
        }
    }
}

async fn show(
    client: Client,
    token: Option<ProgressToken>,
    title: String,
    mut received: mpsc::UnboundedReceiver<String>,
) {
    let token = match token {
        Some(token) => token,
        None => {
            let number = TOKENS.fetch_add(1, Ordering::Relaxed);
            let token = ProgressToken::String(format!("fimd/work/{number}"));
            if client.create_work_done_progress(token.clone()).await.is_err() {
                return;
            }
            token
        }
    };
    let progress = client.progress(token, title).begin().await;
    while let Some(mut message) = received.recv().await {
        while let Ok(newer) = received.try_recv() {
            message = newer;
        }
        progress.report(message).await;
        if !received.is_closed() {
            sleep(INTERVAL).await;
        }
    }
    progress.finish().await;
}
