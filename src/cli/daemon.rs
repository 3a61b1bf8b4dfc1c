//! `fimd daemon`: the process that holds the model.

use anyhow::{Result, anyhow, ensure};

use super::args::{self, EngineArgs, PromptArgs};
use crate::base::logging::{self, Target};
use crate::config::Configuration;
use crate::daemon::{self, Place};

#[derive(clap::Args)]
pub(super) struct Args {
    /// Start one in the background and end when it listens: an editor that kills what it has started, and what
    /// that has started, then does not find it
    #[arg(long, hide = true)]
    launch: bool,

    /// Leave the terminal, log to a file
    #[arg(long, hide = true)]
    detached: bool,

    #[command(flatten)]
    prompt: PromptArgs,

    #[command(flatten)]
    engine: EngineArgs,
}

impl Args {
    /// Starts logging, which a daemon in the background does to a file.
    pub(super) fn start_logging(&self) -> Result<()> {
        let flags = [self.prompt.flags(), self.engine.flags()].concat();
        let configuration = Configuration::for_process(&flags).map_err(|problem| anyhow!("{problem}"))?;
        let level = &configuration.settings().log.level;
        if self.detached {
            logging::start(Target::Files(&Place::find()?.log_dir()), level)
        } else {
            logging::start(Target::Stderr, level)
        }
    }
}

pub(super) fn run(args: &Args) -> Result<()> {
    if args.launch {
        return daemon::launch(&Place::find()?);
    }
    if args.detached {
        leave_terminal();
    }
    yield_to_others();
    let place = Place::find()?;
    let flags = [args.prompt.flags(), args.engine.flags()].concat();
    let configure = || {
        let configuration = args::configuration(&flags)?;
        let spec = args.engine.spec(configuration.settings())?;
        Ok((configuration, spec))
    };
    let ran = daemon::run(&place, &configure)?;
    // Two editors that start at once both start a daemon; one is enough.
    ensure!(ran || args.detached, "a daemon runs already; `fimd status` says how it is doing");
    Ok(())
}

/// Lowers the priority of this process, so that editors stay responsive while a model computes.
pub(super) fn yield_to_others() {
    #[cfg(unix)]
    {
        const NICE: i32 = 5;
        if let Err(error) = rustix::process::nice(NICE) {
            tracing::warn!("cannot lower the priority: {error}");
        }
    }
}

/// Goes on when the terminal closes that the editor runs in.
fn leave_terminal() {
    #[cfg(unix)]
    if let Err(error) = rustix::process::setsid() {
        tracing::warn!("cannot leave the terminal: {error}");
    }
}
