//! Notifies the client of the state of the model: `fimd/status`, load progress, and load failures.

use std::sync::{Arc, Weak};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep_until};
use tower_lsp::gen_lsp_types::{
    LspNotificationMethod, MessageDirection, MessageType, Notification, ProgressToken,
};
use tower_lsp::{Bounded, Client, NotCancellable, OngoingProgress};

use super::configuration;
use super::connection::Connection;
use crate::base::escape;
use crate::resident::View;

/// Least time between two notifications.
const INTERVAL: Duration = Duration::from_secs(1);
/// The token of the load progress, of which a client has at most one.
const TOKEN: &str = "fimd/loading";

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum State {
    Ready,
    Loading,
    Paused,
    Disabled,
    Failed,
}

/// The parameters of `fimd/status`, as `editors/README.md` describes them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Status {
    state: State,
    model: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    percentage: Option<u32>,
    busy: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    answer_ms: Option<f64>,
}

impl Notification for Status {
    type Params = Self;
    const METHOD: LspNotificationMethod<'static> = LspNotificationMethod::new("fimd/status");
    const MESSAGE_DIRECTION: MessageDirection = MessageDirection::ServerToClient;
}

impl Status {
    fn new(connection: &Connection, view: &View) -> Self {
        let statistics = connection.completer().statistics();
        let settings = connection.settings();
        let state = match view {
            View { loading: Some(_), .. } => State::Loading,
            View { pause: Some(_), .. } => State::Paused,
            _ if !settings.settings.enabled => State::Disabled,
            view if view.lacks_its_model() => State::Failed,
            _ => State::Ready,
        };
        Self {
            state,
            model: escape::line(view.served.name()).into_owned(),
            message: match &view.loading {
                Some(loading) => Some(format!("loading {}", loading.name)),
                None => view
                    .failure
                    .clone()
                    .or_else(|| settings.problems.first().map(ToString::to_string))
                    .or_else(|| settings.workspace.problem())
                    .map(|message| escape::text(&message).into_owned()),
            },
            percentage: view.loading.as_ref().map(|loading| loading.percentage),
            busy: connection.completer().is_busy(),
            answer_ms: (statistics.counters.requests > 0).then_some(statistics.answer_ms.p50),
        }
    }
}

/// Starts the task, which ends with the connection.
pub(super) fn spawn(connection: &Arc<Connection>) {
    tokio::spawn(follow(Arc::downgrade(connection)));
}

async fn follow(connection: Weak<Connection>) {
    let Some(current) = connection.upgrade() else { return };
    let client = current.client().clone();
    let (wants_status, supports_progress) =
        (current.capabilities().status, current.capabilities().work_done_progress);
    let (activity, mut changes) = current.watch();
    drop(current);
    let (mut sent, mut failure, mut progress) = (None, None, None);
    let mut next = Instant::now();
    loop {
        let Some(current) = connection.upgrade() else { return };
        let view = changes.borrow_and_update().clone();
        let problems = current.follow(&view);
        let status = Status::new(&current, &view);
        drop(current);
        configuration::warn(&client, &problems).await;
        let mut is_outdated = wants_status && sent.as_ref() != Some(&status);
        if is_outdated && Instant::now() >= next {
            client.send_notification::<Status>(status.clone()).await;
            (sent, next, is_outdated) = (Some(status), Instant::now() + INTERVAL, false);
        }
        if view.failure != failure {
            if let Some(message) = &view.failure {
                let message = format!("fimd: {message}");
                client.show_message(MessageType::Error, escape::text(&message)).await;
            }
            failure.clone_from(&view.failure);
        }
        if supports_progress {
            progress = update_progress(&client, progress, &view).await;
        }
        drop(view);
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            () = activity.notified() => {}
            () = sleep_until(next), if is_outdated => {}
        }
    }
}

type Progress = OngoingProgress<Bounded, NotCancellable>;

/// Begins, updates or ends the load progress.
async fn update_progress(client: &Client, progress: Option<Progress>, view: &View) -> Option<Progress> {
    match (progress, &view.loading) {
        (None, Some(loading)) => {
            let token = ProgressToken::String(TOKEN.into());
            client.create_work_done_progress(token.clone()).await.ok()?;
            let progress = client.progress(token, "fimd: loading the model");
            let progress = progress.with_message(loading.name.clone()).with_percentage(loading.percentage);
            Some(progress.begin().await)
        }
        (Some(progress), Some(loading)) => {
            progress.report_with_message(loading.name.clone(), loading.percentage).await;
            Some(progress)
        }
        (Some(progress), None) => {
            progress.finish().await;
            None
        }
        (None, None) => None,
    }
}
