//! `fimd daemon`: the process that holds the model.

use anyhow::{Result, anyhow, ensure};

use super::args::{self, EngineArgs, PromptArgs};
use crate::base::logging::{self, Target};
use crate::config::Configuration;
use crate::daemon::{self, RuntimeDir};

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  fimd daemon
  fimd daemon --set log.level=debug
  fimd daemon --model model.gguf --threads 4")]
pub(super) struct Args {
    /// Start a daemon in the background and exit when it listens: it survives an editor that kills its process tree
    #[arg(long, hide = true)]
    launch: bool,

    /// Detach from the terminal and log to a file
    #[arg(long, hide = true)]
    detached: bool,

    #[command(flatten)]
    prompt: PromptArgs,

    #[command(flatten)]
    engine: EngineArgs,
}

impl Args {
    /// Starts logging: to a file if detached.
    pub(super) fn start_logging(&self) -> Result<()> {
        let flags = [self.prompt.flags(), self.engine.flags()].concat();
        let configuration = Configuration::for_process(&flags).map_err(|problem| anyhow!("{problem}"))?;
        let level = &configuration.settings().log.level;
        if self.detached {
            logging::start(Target::Files(&RuntimeDir::find()?.log_dir()), level)
        } else {
            logging::start(Target::Stderr, level)
        }
    }
}

pub(super) fn run(args: &Args) -> Result<()> {
    if args.launch {
        return daemon::launch(&RuntimeDir::find()?);
    }
    if args.detached {
        detach_from_terminal();
    }
    lower_priority();
    let runtime_dir = RuntimeDir::find()?;
    let flags = [args.prompt.flags(), args.engine.flags()].concat();
    let configure = |before: Option<&Configuration>| {
        let configuration = args::read_configuration(&flags)?;
        let configuration = match before {
            Some(before) => configuration.keeping_file_of(before),
            None => configuration,
        };
        args::log_problems(&configuration);
        let spec = args.engine.spec(configuration.settings())?;
        Ok((configuration, spec))
    };
    let ran = daemon::run(&runtime_dir, args.detached, &configure)?;
    // Two editors that start at once both start a daemon; one is enough.
    ensure!(ran || args.detached, "a daemon runs already; `fimd status` shows it");
    Ok(())
}

/// Lowers the priority of this process, so that editors stay responsive during inference.
pub(super) fn lower_priority() {
    #[cfg(unix)]
    {
        const NICE: i32 = 5;
        if let Err(error) = rustix::process::nice(NICE) {
            tracing::warn!("cannot lower the priority: {error}");
        }
    }
}

/// Detaches from the terminal of the editor, and survives it.
fn detach_from_terminal() {
    #[cfg(unix)]
    if let Err(error) = rustix::process::setsid() {
        tracing::warn!("cannot detach from the terminal: {error}");
    }
}
