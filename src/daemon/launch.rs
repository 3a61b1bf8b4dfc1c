//! Starting the daemon.

use std::env;
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::client::Client;
use super::place::Place;

/// How long a daemon may take to start; it answers before a large model is loaded.
pub(super) const START_MAX: Duration = Duration::from_secs(20);
/// Between two looks whether it has.
const STEP: Duration = Duration::from_millis(10);

/// Starts a daemon in the background and returns when it listens, or when another one does.
pub fn launch(place: &Place) -> Result<()> {
    let started = Instant::now();
    let mut daemon = spawn(place, "--detached", Stdio::inherit())?;
    while started.elapsed() < START_MAX {
        if let Some(status) = daemon.try_wait().context("cannot watch the daemon start")? {
            // It has said why.
            ensure!(status.success(), "it ended with {status}");
            return Ok(());
        }
        if Client::connect(place)?.is_some() {
            return Ok(());
        }
        thread::sleep(STEP);
    }
    bail!("it does not listen")
}

fn spawn(place: &Place, how: &str, errors: Stdio) -> Result<Child> {
    let program = env::current_exe().context("cannot find the program fimd")?;
    Command::new(&program)
        .args(["daemon", how])
        .current_dir(place.dir())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(errors)
        .spawn()
        .with_context(|| format!("cannot start {}", program.display()))
}

/// A daemon on its way, by [`launch`] in a process of its own.
pub(super) struct Start {
    child: Child,
    errors: PathBuf,
}

impl Start {
    pub(super) fn new(place: &Place) -> Result<Self> {
        let errors = place.dir().join(format!("start-{}.log", std::process::id()));
        let file = File::create(&errors).with_context(|| format!("cannot write {}", errors.display()))?;
        Ok(Self { child: spawn(place, "--launch", file.into())?, errors })
    }

    /// Fails when it could not start. One that ended well found another one running.
    pub(super) fn check(&mut self) -> Result<()> {
        match self.child.try_wait() {
            Ok(Some(status)) if !status.success() => {
                let said = fs::read_to_string(&self.errors).unwrap_or_default();
                let said = said.trim().lines().next().unwrap_or_default().trim_start_matches("fimd: ");
                bail!("the daemon cannot start: {}", if said.is_empty() { "it says nothing" } else { said })
            }
            _ => Ok(()),
        }
    }
}

impl Drop for Start {
    fn drop(&mut self) {
        // It ends as soon as the daemon listens.
        let _ = self.child.wait();
        let _ = fs::remove_file(&self.errors);
    }
}
