//! The command `fimd.explain`: what code does, in the client's own view, or else in a file that only the user
//! can read.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

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

use super::assist::{Wanted, job_for, readable, refused, run, so_far, subject_of};
use super::connection::Connection;
use super::progress::Progress;
use crate::assist::{Action, Outcome};

/// A client is told of more text no more often.
const INTERVAL: Duration = Duration::from_millis(50);

/// The argument of the command.
#[derive(Deserialize)]
pub struct Selection {
    uri: String,
    range: Range,
}

/// The parameters of `fimd/explanation`, as `editors/README.md` describes them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Explanation {
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

/// An explanation on its way to a client that shows it as it grows. When it is dropped, the client learns that
/// no more comes.
struct Stream {
    texts: mpsc::UnboundedSender<String>,
    ended: JoinHandle<()>,
}

impl Stream {
    fn begin(client: Client, id: u64, title: String) -> Self {
        let (texts, written) = mpsc::unbounded_channel();
        let shown = Explanation { id, title, markdown: String::new(), done: false };
        Self { texts, ended: tokio::spawn(tell(client, shown, written)) }
    }

    /// The whole text so far.
    fn show(&self, markdown: &str) {
        // The task that listens ends after this.
        let _ = self.texts.send(markdown.to_owned());
    }

    async fn finish(self) {
        drop(self.texts);
        let _ = self.ended.await;
    }
}

async fn tell(client: Client, mut shown: Explanation, mut written: mpsc::UnboundedReceiver<String>) {
    while let Some(mut markdown) = written.recv().await {
        while let Ok(newer) = written.try_recv() {
            markdown = newer;
        }
        shown.markdown = markdown;
        if !written.is_closed() {
            client.send_notification::<Explanation>(shown.clone()).await;
            sleep(INTERVAL).await;
        }
    }
    shown.done = true;
    client.send_notification::<Explanation>(shown).await;
}

/// Explains a selection.
pub async fn explain(
    connection: &Connection,
    selection: Selection,
    token: Option<ProgressToken>,
) -> Result<()> {
    let Selection { uri, range } = selection;
    let snapshot = readable(connection, &uri)?;
    let revision = snapshot.revision;
    let wanted = Wanted { action: Action::Explain, uri, range, revision, problems: Vec::new() };
    let title = subject_of(connection, &snapshot, range).and_then(|subject| subject.symbol);
    let title =
        title.map_or_else(|| "Explanation".into(), |symbol| format!("Explanation of {}", symbol.name));
    let (engine, job) = job_for(connection, &snapshot, wanted)?;

    let capabilities = &connection.capabilities;
    let streams = capabilities.experimental.as_ref().is_some_and(|can| can["fimd"]["explanation"] == true);
    let progress = Progress::begin(&connection.client, capabilities, token, format!("fimd: {title}"));
    let stream =
        streams.then(|| Stream::begin(connection.client.clone(), connection.next_number(), title.clone()));
    let generated = run(connection, &engine, &job, &snapshot, |text| {
        progress.report(so_far(text));
        if let Some(stream) = &stream {
            stream.show(text);
        }
    });
    let outcome = generated.await.and_then(|generated| job.finish(&generated).map_err(refused));
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

/// Shows Markdown to a client that has no view for it.
fn show(connection: &Connection, title: &str, markdown: &str) {
    let window = connection.capabilities.window.as_ref();
    let shows = window.and_then(|window| window.show_document.as_ref()).is_some_and(|can| can.support);
    let file = shows.then(|| write(&format!("# {title}\n\n{markdown}\n")));
    let uri = match file {
        Some(Ok(file)) => {
            let uri = uri_of(file.path());
            connection.keep(file);
            Some(uri)
        }
        Some(Err(error)) => {
            tracing::warn!("cannot write an explanation: {error}");
            None
        }
        None => None,
    };
    let (client, markdown) = (connection.client.clone(), markdown.to_owned());
    tokio::spawn(async move {
        let shown = match uri {
            Some(uri) => {
                let uri = uri.into();
                let params =
                    ShowDocumentParams { uri, external: None, take_focus: Some(false), selection: None };
                client.show_document(params).await.unwrap_or_default()
            }
            None => false,
        };
        if !shown {
            client.show_message(MessageType::Info, markdown).await;
        }
    });
}

/// Writes a file for the user alone, which goes when it is dropped.
fn write(markdown: &str) -> std::io::Result<NamedTempFile> {
    let dir = dirs::runtime_dir().unwrap_or_else(std::env::temp_dir).join("fimd");
    let dir = if fs::create_dir_all(&dir).is_ok() { dir } else { std::env::temp_dir() };
    let mut builder = tempfile::Builder::new();
    let mut file = builder.prefix("explanation-").suffix(".md").tempfile_in(dir)?;
    file.write_all(markdown.as_bytes())?;
    Ok(file)
}

/// The `file:` URI of a path.
fn uri_of(path: &Path) -> String {
    let path = path.to_string_lossy().replace('\\', "/");
    let mut uri = String::from(if path.starts_with('/') { "file://" } else { "file:///" });
    for byte in path.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'-' | b'_' | b'.' | b'~' => {
                uri.push(byte.into())
            }
            _ => uri.push_str(&format!("%{byte:02X}")),
        }
    }
    uri
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn explanations_are_the_users_own() {
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
        assert_eq!(uri_of(Path::new("/a b/é.md")), "file:///a%20b/%C3%A9.md");
    }
}
