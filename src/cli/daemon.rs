//! `fimd daemon`: the process that holds the model.

use std::time::Duration;

use anyhow::Result;

use super::args::{self, EngineArgs, PromptArgs, minutes};
use crate::base::logging::{self, Target};
use crate::config::{Configuration, Flag, Settings};
use crate::daemon::{self, Place};
use crate::resident::Resident;

#[derive(clap::Args)]
pub struct Args {
    /// Started by an editor: leave its terminal, log to a file
    #[arg(long, hide = true)]
    detached: bool,

    /// End after so many minutes without an editor; 0 for never [default: 30]
    #[arg(long, value_name = "MINUTES", value_parser = minutes)]
    idle_exit: Option<f64>,

    #[command(flatten)]
    prompt: PromptArgs,

    #[command(flatten)]
    engine: EngineArgs,
}

impl Args {
    /// Starts logging, which a daemon in the background does to a file, at the level of `FIMD_LOG` or else of the
    /// settings.
    pub fn start_logging(&self) -> Result<()> {
        let configuration = Configuration::for_process(&self.flags());
        let settings = configuration.map_or_else(|_| Settings::default(), |known| known.settings().clone());
        if self.detached {
            logging::start(Target::Files(&Place::find()?.log_dir()), &settings.log.level)
        } else {
            logging::start(Target::Stderr, &settings.log.level)
        }
    }

    fn flags(&self) -> Vec<Flag> {
        [self.prompt.flags(), self.engine.flags()].concat()
    }
}

pub fn run(args: &Args) -> Result<()> {
    if args.detached {
        leave_terminal();
    }
    yield_to_others();
    let place = Place::find()?;
    let configuration = args::configuration(&args.flags())?;
    let spec = args.engine.spec(configuration.settings());
    let idle_minutes = args.idle_exit.unwrap_or(configuration.settings().daemon.idle_exit_minutes as f64);
    let idle_exit = Some(Duration::from_secs_f64(idle_minutes * 60.0)).filter(|time| !time.is_zero());
    let options = daemon::Options { place, idle_exit };
    let ran = daemon::run(options, || Resident::start(spec, configuration))?;
    if !ran {
        // Two editors that start at once both start a daemon; one is enough.
        eprintln!("a daemon runs already");
    }
    Ok(())
}

/// Lowers the priority of this process, so that editors stay responsive while a model computes.
pub fn yield_to_others() {
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
