//! The command `fimd.explain`: streams an explanation to the client, or shows it in a file that only the user can
//! read.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tower_lsp::Client;
use tower_lsp::gen_lsp_types::{
    LspNotificationMethod, MessageDirection, MessageType, Notification, ProgressToken, Range,
    ShowDocumentParams,
};
use tower_lsp::jsonrpc::Result;

use super::assist::{ActionRequest, job, progress_message, readable, request_failed, run, subject};
use super::connection::Connection;
use super::progress::Progress;
use crate::assist::{Action, Outcome};
use crate::base::escape;

/// Percent-encoded in the path of a URI.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'_').remove(b'.').remove(b'~');
/// What the names of files begin with; the number of the process follows.
const PREFIX: &str = "fimd-explanation-";
/// Least time between two notifications.
const INTERVAL: Duration = Duration::from_millis(50);

/// The argument of the command.
#[derive(Deserialize)]
pub(super) struct Selection {
    uri: String,
    range: Range,
}

/// The parameters of `fimd/explanation`, as `editors/README.md` describes them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Explanation {
    id: u64,
    title: String,
    markdown: String,
    done: bool,
}

impl Notification for Explanation {
    type Params = Self;
    const METHOD: LspNotificationMethod<'static> = LspNotificationMethod::new("fimd/explanation");
    const MESSAGE_DIRECTION: MessageDirection = MessageDirection::ServerToClient;
}

/// An explanation that is streamed to a client. When dropped, it sends the last notification, with `done`.
struct Stream {
    texts: mpsc::UnboundedSender<String>,
    task: JoinHandle<()>,
}

impl Stream {
    fn begin(client: Client, id: u64, title: String) -> Self {
        let (texts, received) = mpsc::unbounded_channel();
        let explanation = Explanation { id, title, markdown: String::new(), done: false };
        Self { texts, task: tokio::spawn(send(client, explanation, received)) }
    }

    /// Replaces the text.
    fn show(&self, markdown: &str) {
        // The receiving task outlives this sender.
        let _ = self.texts.send(escape::text(markdown).into_owned());
    }

    async fn finish(self) {
        drop(self.texts);
        let _ = self.task.await;
    }
}

async fn send(client: Client, mut explanation: Explanation, mut received: mpsc::UnboundedReceiver<String>) {
    while let Some(mut markdown) = received.recv().await {
        while let Ok(newer) = received.try_recv() {
            markdown = newer;
        }
        explanation.markdown = markdown;
        if !received.is_closed() {
            client.send_notification::<Explanation>(explanation.clone()).await;
            sleep(INTERVAL).await;
        }
    }
    explanation.done = true;
    client.send_notification::<Explanation>(explanation).await;
}

/// Explains a selection.
pub(super) async fn explain(
    connection: &Connection,
    selection: Selection,
    token: Option<ProgressToken>,
) -> Result<()> {
    let Selection { uri, range } = selection;
    let snapshot = readable(connection, &uri).await?;
    let symbol = subject(&snapshot, range).and_then(|subject| subject.symbol);
    let title =
        symbol.map_or_else(|| "Explanation".into(), |symbol| format!("Explanation of {}", symbol.name));
    let revision = snapshot.document.revision;
    let request = ActionRequest { action: Action::Explain, uri, range, revision, problems: Vec::new() };
    let job = job(&snapshot, request)?;

    let (client, capabilities) = (connection.client(), connection.capabilities());
    let progress = Progress::begin(client, capabilities, token, format!("fimd: {title}"));
    let stream = || Stream::begin(client.clone(), connection.next_number(), title.clone());
    let stream = capabilities.explanation.then(stream);
    let generated = run(connection, &snapshot, &job, |text| {
        progress.report(progress_message(text));
        if let Some(stream) = &stream {
            stream.show(text);
        }
    });
    let outcome = generated.await.and_then(|generated| job.finish(&generated).map_err(request_failed));
    progress.finish().await;
    match (stream, &outcome) {
        (Some(stream), outcome) => {
            if let Ok(Outcome::Explanation(markdown)) = outcome {
                stream.show(markdown);
            }
            stream.finish().await;
        }
        (None, Ok(Outcome::Explanation(markdown))) => show(connection, &title, markdown),
        _ => {}
    }
    outcome.map(drop)
}

/// Shows Markdown to a client that does not support `fimd/explanation`: in a file if possible, or else in a message.
fn show(connection: &Connection, title: &str, markdown: &str) {
    let markdown = &*escape::text(markdown);
    let mut uri = None;
    if connection.capabilities().show_document {
        match write(&format!("# {title}\n\n{markdown}\n")) {
            Ok(file) => {
                uri = Some(uri_of(file.path()));
                connection.keep(file);
            }
            Err(error) => tracing::warn!("cannot write an explanation: {error}"),
        }
    }
    let (client, markdown) = (connection.client().clone(), markdown.to_owned());
    // Not awaited: a handler that waits for the client would block further messages.
    tokio::spawn(async move {
        let is_shown = match uri {
            Some(uri) => {
                let uri = uri.into();
                let params =
                    ShowDocumentParams { uri, external: None, take_focus: Some(false), selection: None };
                client.show_document(params).await.unwrap_or_default()
            }
            None => false,
        };
        if !is_shown {
            client.show_message(MessageType::Info, markdown).await;
        }
    });
}

/// Writes a temporary file that only the user can read.
fn write(markdown: &str) -> std::io::Result<NamedTempFile> {
    let dir = folder();
    let dir = if fs::create_dir_all(&dir).is_ok() { dir } else { std::env::temp_dir() };
    let prefix = format!("{PREFIX}{}-", std::process::id());
    let mut file = tempfile::Builder::new().prefix(&prefix).suffix(".md").tempfile_in(dir)?;
    file.write_all(markdown.as_bytes())?;
    Ok(file)
}

fn folder() -> PathBuf {
    dirs::runtime_dir().unwrap_or_else(std::env::temp_dir).join("fimd")
}

/// Removes the files of processes that ended without doing so.
pub fn remove_left_explanations() {
    for dir in [folder(), std::env::temp_dir()] {
        remove_left(&dir);
    }
}

fn remove_left(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name();
        if name.to_str().and_then(writer).is_some_and(|process| !is_running(process)) {
            // It may be that of another user.
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// The process that wrote the file of an explanation, by its name.
fn writer(name: &str) -> Option<u32> {
    name.strip_prefix(PREFIX)?.strip_suffix(".md")?.split_once('-')?.0.parse().ok()
}

#[cfg(unix)]
fn is_running(process: u32) -> bool {
    let process = i32::try_from(process).ok().and_then(rustix::process::Pid::from_raw);
    process.is_some_and(|process| rustix::process::test_kill_process(process) != Err(rustix::io::Errno::SRCH))
}

#[cfg(not(unix))]
fn is_running(process: u32) -> bool {
    process == std::process::id()
}

/// The `file:` URI of a path.
fn uri_of(path: &Path) -> String {
    let path = path.to_string_lossy().replace('\\', "/");
    let start = if path.starts_with('/') { "file://" } else { "file:///" };
    format!("{start}{}", utf8_percent_encode(&path, ENCODED))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_user_can_read_explanations() {
        let file = write("# A\n").unwrap();
        let path = file.path().to_owned();
        assert_eq!(fs::read_to_string(&path).unwrap(), "# A\n");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        }
        drop(file);
        assert!(!path.exists());
        let dir = tempfile::tempdir().unwrap();
        let own = format!("fimd-explanation-{}-x.md", std::process::id());
        // No process has that number.
        let left = format!("fimd-explanation-{}-x.md", i32::MAX);
        for name in [&own, &left, "explanation-1.md", "fimd-explanation-x.md"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        remove_left(dir.path());
        let is_there = |name: &str| dir.path().join(name).exists();
        assert!(
            is_there(&own)
                && !is_there(&left)
                && is_there("explanation-1.md")
                && is_there("fimd-explanation-x.md")
        );
        assert_eq!(uri_of(Path::new("/a b/é.md")), "file:///a%20b/%C3%A9.md");
    }
}
