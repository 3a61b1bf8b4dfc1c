//! Starting the daemon.

use std::env;
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::client::Client;
use super::runtime_dir::RuntimeDir;
use crate::config::RUNTIME_DIR_VARIABLE;

/// How long a daemon may take to start; it listens before a large model is loaded.
pub(super) const START_MAX: Duration = Duration::from_secs(20);
/// Between two checks whether it has.
const STEP: Duration = Duration::from_millis(10);

/// Starts a daemon in the background and returns when it, or another one, listens.
pub fn launch(runtime_dir: &RuntimeDir) -> Result<()> {
    let started = Instant::now();
    let mut daemon = spawn(runtime_dir, "--detached", Stdio::inherit())?;
    while started.elapsed() < START_MAX {
        if let Some(status) = daemon.try_wait().context("cannot watch the daemon start")? {
            // It has written the cause to stderr.
            ensure!(status.success(), "the daemon exited with {status}");
            return Ok(());
        }
        if Client::connect(runtime_dir)?.is_some() {
            return Ok(());
        }
        thread::sleep(STEP);
    }
    bail!("the daemon does not listen")
}

/// Starts a daemon as an editor does, and returns when it listens: it keeps nothing open of who has started it.
pub fn start(runtime_dir: &RuntimeDir) -> Result<()> {
    let started = Instant::now();
    let mut start = Start::new(runtime_dir)?;
    while started.elapsed() < START_MAX {
        if Client::connect(runtime_dir)?.is_some() {
            return Ok(());
        }
        start.check()?;
        thread::sleep(STEP);
    }
    bail!("the daemon does not answer; see {}", runtime_dir.log_dir().display())
}

fn spawn(runtime_dir: &RuntimeDir, how: &str, errors: Stdio) -> Result<Child> {
    let program = env::current_exe().context("cannot find the program fimd")?;
    let mut command = Command::new(&program);
    // The daemon runs in another folder than the editor, where a relative path would be another one.
    if env::var_os(RUNTIME_DIR_VARIABLE).is_some_and(|dir| !dir.is_empty()) {
        command.env(RUNTIME_DIR_VARIABLE, runtime_dir.dir());
    }
    // It would end with the console of the editor, or open one.
    #[cfg(windows)]
    {
        const DETACHED_PROCESS: u32 = 8;
        std::os::windows::process::CommandExt::creation_flags(&mut command, DETACHED_PROCESS);
    }
    command
        .args(["daemon", how])
        .current_dir(runtime_dir.dir())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(errors)
        .spawn()
        .with_context(|| format!("cannot start {}", program.display()))
}

/// A daemon being started by [`launch`] in a separate process.
pub(super) struct Start {
    child: Child,
    errors: PathBuf,
}

impl Start {
    pub(super) fn new(runtime_dir: &RuntimeDir) -> Result<Self> {
        let errors = runtime_dir.dir().join(format!("start-{}.log", std::process::id()));
        // On a full disk it starts, but cannot say why if it does not.
        let file = File::create(&errors).map_or_else(|_| Stdio::null(), Stdio::from);
        Ok(Self { child: spawn(runtime_dir, "--launch", file)?, errors })
    }

    /// Fails when it could not start. A clean exit means that another daemon runs.
    pub(super) fn check(&mut self) -> Result<()> {
        match self.child.try_wait() {
            Ok(Some(status)) if !status.success() => {
                let errors = fs::read_to_string(&self.errors).unwrap_or_default();
                let error = errors.trim().lines().next().unwrap_or_default().trim_start_matches("error: ");
                bail!(
                    "the daemon cannot start: {}",
                    if error.is_empty() { "no cause is given" } else { error }
                )
            }
            _ => Ok(()),
        }
    }
}

impl Drop for Start {
    fn drop(&mut self) {
        // It exits as soon as the daemon listens.
        let _ = self.child.wait();
        let _ = fs::remove_file(&self.errors);
    }
}
