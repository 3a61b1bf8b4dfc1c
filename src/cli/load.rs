//! `fimd load`: swap the daemon's model.

use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};

use super::args;
use crate::daemon::{self, Client, ModelOverrides, Request, RuntimeDir, Status, absolute};

/// Between two polls of the load progress.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  fimd load model.gguf
  fimd load model.gguf --context 8192
  fimd load")]
pub(super) struct Args {
    /// Checkpoint folder, .safetensors or .gguf file [default: the built-in starter model]
    #[arg(value_name = "PATH")]
    model: Option<PathBuf>,

    /// Context length, in tokens: prompt and completion together
    #[arg(long, value_name = "TOKENS", value_parser = clap::value_parser!(u32).range(1..))]
    context: Option<u32>,
}

pub(super) fn run(args: &Args) -> Result<()> {
    let runtime_dir = RuntimeDir::find()?;
    if Client::connect(&runtime_dir)?.is_none() {
        daemon::start(&runtime_dir)?;
    }
    let overrides = ModelOverrides {
        model: args.model.as_deref().map(absolute).transpose()?,
        starter: args.model.is_none(),
        context: args.context,
        ..ModelOverrides::default()
    };
    load(overrides)?;
    args::print("this lasts until the daemon ends; `fimd use` makes a model the default\n")
}

/// Swaps the model of the running daemon, and waits until it is loaded.
pub(super) fn load(overrides: ModelOverrides) -> Result<()> {
    let runtime_dir = RuntimeDir::find()?;
    let connect = || Client::connect(&runtime_dir)?.context(args::NO_DAEMON);
    connect()?.request(&Request::Load(overrides))?;
    let bar = ProgressBar::new(100);
    bar.set_style(
        ProgressStyle::with_template("{msg} {bar:40} {percent} %").expect("the template is well formed"),
    );
    loop {
        let Status { loading, failure, model, .. } = connect()?.status()?;
        let Some((name, percentage)) = loading else {
            bar.finish_and_clear();
            return match (failure, model) {
                (Some(failure), _) => bail!(failure),
                (None, Some(model)) => args::print(&format!("the daemon serves {}\n", model.name)),
                (None, None) => Ok(()),
            };
        };
        bar.set_message(format!("loading {name}"));
        bar.set_position(percentage.into());
        thread::sleep(POLL_INTERVAL);
    }
}
