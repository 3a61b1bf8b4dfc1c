//! `workspace/executeCommand`.

use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::Value;
use tower_lsp::Client;
use tower_lsp::gen_lsp_types::{ExecuteCommandParams, MessageType, WorkspaceEdit};
use tower_lsp::jsonrpc::{Error, Result};

use super::code_action_resolve::edit;
use super::connection::Connection;
use super::explain::explain;
use crate::resident::{PAUSE_MINUTES_MAX, Resident};

/// Explains a selection: `[{uri, range}]`.
pub(super) const EXPLAIN: &str = "fimd.explain";
/// Computes the edit of a code action and sends it as `workspace/applyEdit`: `[data of the action]`.
pub(super) const APPLY: &str = "fimd.apply";
/// Pauses completion in all editors, for `[minutes]` or until resumed.
pub(super) const PAUSE: &str = "fimd.pause";
/// Ends a pause.
pub(super) const RESUME: &str = "fimd.resume";

pub(super) const COMMANDS: [&str; 4] = [APPLY, EXPLAIN, PAUSE, RESUME];

/// Executes a command. The response is null, once it is done.
pub(super) async fn execute_command(
    connection: Arc<Connection>,
    params: ExecuteCommandParams,
) -> Result<Value> {
    let (arguments, token) =
        (params.arguments.unwrap_or_default(), params.work_done_progress_params.work_done_token);
    match params.command.as_str() {
        EXPLAIN => explain(&connection, only(arguments)?, token).await?,
        APPLY => {
            let edit = edit(&connection, only(arguments)?, token, "fimd".into()).await?;
            // Not awaited: a handler that waits for the client would block further messages.
            tokio::spawn(apply(connection.client().clone(), edit));
        }
        PAUSE => pause(connection.resident(), duration(&arguments)?),
        RESUME => connection.resident().resume(),
        unknown => return Err(Error::invalid_params(format!("unknown command {unknown}"))),
    }
    Ok(Value::Null)
}

/// Pauses completion in all editors, for a duration or until resumed.
pub fn pause(resident: &Arc<Resident>, duration: Option<Duration>) {
    let pause = resident.pause(duration);
    let Some(until) = pause.until else { return };
    let resident = Arc::downgrade(resident);
    tokio::spawn(async move {
        tokio::time::sleep_until(until.into()).await;
        if let Some(resident) = resident.upgrade() {
            resident.end_pause(pause);
        }
    });
}

async fn apply(client: Client, edit: WorkspaceEdit) {
    let applied = client.apply_edit(edit).await;
    if !applied.is_ok_and(|result| result.applied) {
        client.show_message(MessageType::Warning, "fimd: the edit was not applied").await;
    }
}

/// The length of a pause; `None` for one without an end.
fn duration(arguments: &[Value]) -> Result<Option<Duration>> {
    match arguments {
        [] | [Value::Null] => Ok(None),
        [minutes] => {
            let minutes = minutes.as_f64().filter(|minutes| (0.0..=PAUSE_MINUTES_MAX).contains(minutes));
            let minutes = minutes.ok_or_else(|| Error::invalid_params("expected a number of minutes"))?;
            Ok(Some(Duration::from_secs_f64(minutes * 60.0)))
        }
        _ => Err(Error::invalid_params("expected a number of minutes or nothing")),
    }
}

/// The one argument of a command.
fn only<T: DeserializeOwned>(arguments: Vec<Value>) -> Result<T> {
    let invalid = |why: String| Error::invalid_params(why);
    let [argument] =
        <[Value; 1]>::try_from(arguments).map_err(|_| invalid("expected one argument".into()))?;
    serde_json::from_value(argument).map_err(|error| invalid(error.to_string()))
}
