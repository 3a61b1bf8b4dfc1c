//! What a detached daemon says on stderr when it ends uncleanly, kept for the log of the next one. On Windows nothing
//! is kept.

use std::fs;
use std::path::PathBuf;

use super::runtime_dir::RuntimeDir;
use crate::base::file;

/// Most bytes that are read of them.
const BYTES_MAX: u64 = 1 << 16;
/// Most lines that are logged.
const LINES_MAX: usize = 20;

/// The file that stderr goes to. Dropping it, as on a clean exit, removes the file and restores stderr.
pub(super) struct LastWords {
    path: PathBuf,
    #[cfg(unix)]
    before: Option<std::os::fd::OwnedFd>,
}

impl LastWords {
    /// Logs those of the daemon before, and redirects stderr. Without a file, stderr stays as it is.
    pub(super) fn begin(runtime_dir: &RuntimeDir) -> Self {
        let path = runtime_dir.last_words();
        log(&path);
        Self {
            #[cfg(unix)]
            before: fs::File::create(&path).ok().and_then(redirect),
            path,
        }
    }

    /// Forgets where stderr went before: the program that started the daemon no longer listens.
    pub(super) fn detach(&mut self) {
        #[cfg(unix)]
        {
            self.before = None;
        }
    }
}

impl Drop for LastWords {
    fn drop(&mut self) {
        #[cfg(unix)]
        if let Some(before) = &self.before {
            let _ = rustix::stdio::dup2_stderr(before);
        }
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(unix)]
fn redirect(file: fs::File) -> Option<std::os::fd::OwnedFd> {
    let before = rustix::io::dup(rustix::stdio::stderr()).ok()?;
    rustix::stdio::dup2_stderr(&file).ok()?;
    Some(before)
}

/// A daemon that ends cleanly leaves no file.
fn log(path: &std::path::Path) {
    if !path.exists() {
        return;
    }
    let said = file::read(path, BYTES_MAX).unwrap_or_default();
    let said = String::from_utf8_lossy(&said);
    let lines: Vec<&str> = said.lines().filter(|line| !line.trim().is_empty()).collect();
    if lines.is_empty() {
        tracing::error!(
            "the daemon before this one was killed without a word (SIGKILL), as the system does when memory runs out"
        );
    }
    for line in &lines[lines.len().saturating_sub(LINES_MAX)..] {
        tracing::error!("the daemon before this one ended uncleanly: {line}");
    }
}
