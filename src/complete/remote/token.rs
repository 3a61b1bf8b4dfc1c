//! Where the token of the server comes from. It is read on the engine's thread, when it is first needed: a keyring may
//! wait for its password.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::base::client::Token;
use crate::base::{Cancel, file};

/// Latency of a cancel.
const POLL: Duration = Duration::from_millis(10);
/// How long a program may take.
const PROGRAM_MAX: Duration = Duration::from_secs(20);
/// Most bytes that are read.
const BYTES_MAX: u64 = 1 << 16;

/// Where a token comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenSource {
    /// It is here.
    Text(Token),
    /// A regular file that only the user can read.
    File(PathBuf),
    /// The first line that a program prints, with its arguments.
    Program(Vec<String>),
}

impl TokenSource {
    /// Reads the token. Fails when that takes too long, is cancelled, or there is none.
    pub(super) fn read(&self, cancel: &Cancel) -> Result<Token> {
        let text = match self {
            Self::Text(token) => return Ok(token.clone()),
            Self::File(path) => from_file(path)?,
            Self::Program(command) => from_program(command, PROGRAM_MAX, cancel)?,
        };
        Token::new(&text).context("the token of the remote server")
    }
}

fn from_file(path: &Path) -> Result<String> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let describe = || format!("remote.token_file: cannot read {}", path.display());
        let mode = path.metadata().with_context(describe)?.permissions().mode();
        ensure!(
            mode & 0o077 == 0,
            "remote.token_file: other users may read {0}; `chmod 600 {0}` makes it private",
            path.display()
        );
    }
    file::read_text(path, BYTES_MAX).context("remote.token_file")
}

fn from_program(command: &[String], time_max: Duration, cancel: &Cancel) -> Result<String> {
    let Some((program, arguments)) = command.split_first() else { bail!("remote.token_command is empty") };
    let describe = || format!("remote.token_command: cannot run {program}");
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut running = Running(command.spawn().with_context(describe)?);
    let output = running.0.stdout.take().with_context(describe)?;
    let (send, receive) = mpsc::channel();
    let read = move || {
        let mut bytes = Vec::new();
        let _ = output.take(BYTES_MAX).read_to_end(&mut bytes);
        let _ = send.send(bytes);
    };
    thread::Builder::new().name("fimd-token".into()).spawn(read).context("cannot start a thread")?;
    let until = Instant::now() + time_max;
    let (mut bytes, mut status) = (None, None);
    while bytes.is_none() || status.is_none() {
        ensure!(!cancel.is_ending(), "cancelled while {program} was asked for the token");
        ensure!(
            Instant::now() < until,
            "remote.token_command: {program} did not end within {} s",
            time_max.as_secs()
        );
        if let Ok(read) = receive.recv_timeout(POLL) {
            bytes = Some(read);
        }
        status = running.0.try_wait().with_context(describe)?;
    }
    if let Some(status) = status.filter(|status| !status.success()) {
        bail!("remote.token_command: {program} failed ({status})");
    }
    let bytes = bytes.unwrap_or_default();
    Ok(String::from_utf8_lossy(&bytes).lines().next().unwrap_or_default().to_owned())
}

/// A program that is ended when no caller waits for it any more.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    fn program(words: &[&str], cancel: &Cancel) -> Result<String> {
        let words: Vec<String> = words.iter().map(ToString::to_string).collect();
        from_program(&words, Duration::from_millis(300), cancel)
    }

    #[test]
    fn a_token_file_is_private_and_regular() {
        let secret = Token::new("secret").unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "secret\n").unwrap();
        let source = TokenSource::File(file.path().to_owned());
        for (mode, is_private) in [(0o600, true), (0o400, true), (0o640, false), (0o604, false)] {
            fs::set_permissions(file.path(), fs::Permissions::from_mode(mode)).unwrap();
            match source.read(&Cancel::new()) {
                Ok(token) => assert!(is_private && token == secret, "{mode:o}"),
                Err(error) => assert!(!is_private && error.to_string().contains("chmod 600"), "{mode:o}"),
            }
        }
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        let error = TokenSource::File(pipe).read(&Cancel::new()).unwrap_err();
        assert!(format!("{error:#}").contains("not a regular file"), "{error:#}");
    }

    #[test]
    fn a_program_has_its_time_and_its_size() {
        let source = |words: &[&str]| TokenSource::Program(words.iter().map(ToString::to_string).collect());
        let secret = source(&["echo", "secret"]).read(&Cancel::new()).unwrap();
        assert_eq!(secret, Token::new("secret").unwrap());
        for (words, expected) in [
            (&["false"][..], "failed"),
            (&["/nonexistent"], "cannot run"),
            (&["true"], "empty"),
            (&["yes"], "token"),
        ] {
            let error = format!("{:#}", source(words).read(&Cancel::new()).unwrap_err());
            assert!(error.contains(expected), "{words:?}: {error}");
        }
        let started = Instant::now();
        let error = program(&["sleep", "60"], &Cancel::new()).unwrap_err().to_string();
        assert!(error.contains("did not end within"), "{error}");
        let cancel = Cancel::new();
        cancel.cancel();
        assert!(program(&["sleep", "60"], &cancel).unwrap_err().to_string().contains("cancelled"));
        assert!(started.elapsed() < Duration::from_secs(20));
    }
}
