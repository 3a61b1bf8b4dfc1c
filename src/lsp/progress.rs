//! Work that takes a while, as the client shows it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tower_lsp::Client;
use tower_lsp::gen_lsp_types::ProgressToken;

use super::capabilities::Capabilities;

/// A client is told of changes no more often.
const INTERVAL: Duration = Duration::from_millis(100);

/// Numbers the tokens that are the server's idea.
static TOKENS: AtomicU64 = AtomicU64::new(0);

/// A progress that the client may be shown. It ends when this is dropped.
pub(super) struct Progress {
    messages: Option<mpsc::UnboundedSender<String>>,
    /// What has to be awaited before the request is answered: a token that came with it ends there.
    ended: Option<JoinHandle<()>>,
}

impl Progress {
    /// Begins one with the `token` of a request, or with one of its own where the client allows that.
    pub(super) fn begin(
        client: &Client,
        capabilities: &Capabilities,
        token: Option<ProgressToken>,
        title: String,
    ) -> Self {
        let is_given = token.is_some();
        if !is_given && !capabilities.work_done_progress {
            return Self { messages: None, ended: None };
        }
        let (messages, said) = mpsc::unbounded_channel();
        let shown = tokio::spawn(show(client.clone(), token, title, said));
        Self { messages: Some(messages), ended: is_given.then_some(shown) }
    }

    /// Says how far the work is.
    pub(super) fn report(&self, message: String) {
        if let Some(messages) = &self.messages {
            // Nobody listens any more where the client refused the progress.
            let _ = messages.send(message);
        }
    }

    /// Ends it.
    pub(super) async fn finish(mut self) {
        self.messages = None;
        if let Some(ended) = self.ended.take() {
            let _ = ended.await;
        }
    }
}

async fn show(
    client: Client,
    token: Option<ProgressToken>,
    title: String,
    mut said: mpsc::UnboundedReceiver<String>,
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
    while let Some(mut message) = said.recv().await {
        while let Ok(newer) = said.try_recv() {
            message = newer;
        }
        progress.report(message).await;
        if !said.is_closed() {
            sleep(INTERVAL).await;
        }
    }
    progress.finish().await;
}
