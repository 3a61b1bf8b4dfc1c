//! Message framing, and a filter before the server, as tower-lsp stops at the first malformed message.

use std::io::{self, BufRead, Read};

use tokio::io::{
    AsyncBufRead, AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader,
};
use tower_lsp::jsonrpc::Request;

/// The method that replaces malformed messages.
pub(crate) const MALFORMED: &str = "fimd/unreadable";

const MALFORMED_MESSAGE: &str = r#"{"jsonrpc":"2.0","id":null,"method":"fimd/unreadable"}"#;
const EXIT_MESSAGE: &str = r#"{"jsonrpc":"2.0","method":"exit"}"#;

/// Longest header line; a longer one is read as several.
const HEADER_BYTES_MAX: u64 = 1 << 12;

/// Longest message; a longer one is skipped.
const MESSAGE_BYTES_MAX: u64 = 1 << 28;

/// How a session with a client ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// The client asked to shut down first: the process should exit with 0.
    Clean,
    /// `exit`, or the end of the input, came without `shutdown`: the process should exit with 1.
    Unclean,
}

/// Copies messages until `exit`, replaces malformed ones by [`MALFORMED`], and adds `exit` at the end of the input.
pub(crate) async fn filter(input: impl AsyncRead + Unpin, mut output: impl AsyncWrite + Unpin) -> Exit {
    let mut input = BufReader::new(input);
    let mut exit = Exit::Unclean;
    loop {
        let message = match read(&mut input).await {
            Ok(Some(message)) => message,
            Ok(None) => EXIT_MESSAGE.into(),
            Err(error) => {
                tracing::warn!("cannot read from the client: {error}");
                EXIT_MESSAGE.into()
            }
        };
        // This type parses a response as a request with an empty method.
        let text = std::str::from_utf8(&message).unwrap_or_default();
        let (text, is_exit) = match serde_json::from_str::<Request>(text) {
            Ok(request) => {
                if request.method() == "shutdown" {
                    exit = Exit::Clean;
                }
                (text, request.method() == "exit")
            }
            Err(_) => {
                tracing::warn!("the client sent a malformed message of {} bytes", message.len());
                (MALFORMED_MESSAGE, false)
            }
        };
        let sent = write(&mut output, text.as_bytes()).await;
        if is_exit || sent.is_err() {
            return exit;
        }
    }
}

/// Writes a message.
pub(crate) async fn write(output: &mut (impl AsyncWrite + Unpin), body: &[u8]) -> io::Result<()> {
    output.write_all(&frame(body)).await?;
    output.flush().await
}

/// A message with its header.
pub fn frame(body: &[u8]) -> Vec<u8> {
    [format!("Content-Length: {}\r\n\r\n", body.len()).as_bytes(), body].concat()
}

/// The body of the next message, empty when it is too long to be read; `None` at the end of the input.
/// Between messages, everything is skipped that is not a `Content-Length`.
pub(crate) async fn read(input: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Option<Vec<u8>>> {
    const LENGTH: &str = "content-length:";
    let mut length: Option<u64> = None;
    loop {
        let mut line = Vec::new();
        if (&mut *input).take(HEADER_BYTES_MAX).read_until(b'\n', &mut line).await? == 0 {
            return Ok(None);
        }
        let line = String::from_utf8_lossy(&line).to_ascii_lowercase();
        if let Some((_, value)) = line.rsplit_once(LENGTH) {
            length = value.trim().parse().ok();
        }
        if line.trim().is_empty() && length.is_some() {
            break;
        }
    }
    let length = length.unwrap_or_default();
    let mut body = Vec::new();
    let mut rest = input.take(length);
    let read = if length > MESSAGE_BYTES_MAX {
        tokio::io::copy(&mut rest, &mut tokio::io::sink()).await?
    } else {
        rest.read_to_end(&mut body).await? as u64
    };
    Ok((read == length).then_some(body))
}

/// The body of the next message of a server, for a client that waits for it; `None` at the end of the input.
pub fn read_blocking(input: &mut impl BufRead) -> io::Result<Option<Vec<u8>>> {
    let mut length = None;
    loop {
        let mut line = String::new();
        if BufRead::read_line(input, &mut line)? == 0 {
            return Ok(None);
        }
        match line.trim().split_once(": ") {
            Some(("Content-Length", value)) => length = value.parse().ok(),
            Some(_) => {}
            None => break,
        }
    }
    let mut body = vec![0; length.ok_or(io::ErrorKind::InvalidData)?];
    Read::read_exact(input, &mut body)?;
    Ok(Some(body))
}
