//! `fimd load`: have the daemon serve another model.

use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};

use super::args;
use crate::daemon::{Client, Place, Request, Status, Wishes, absolute};

/// Between two looks at how far it is.
const LOOK: Duration = Duration::from_millis(200);

#[derive(clap::Args)]
pub(super) struct Args {
    /// Checkpoint folder, .safetensors or .gguf file; the starter model if it is left out
    #[arg(value_name = "PATH")]
    model: Option<PathBuf>,

    /// Most tokens that prompt and completion may have together
    #[arg(long, value_name = "TOKENS", value_parser = clap::value_parser!(u32).range(1..))]
    context: Option<u32>,
}

pub(super) fn run(args: &Args) -> Result<()> {
    let place = Place::find()?;
    let wishes = Wishes {
        model: args.model.as_deref().map(absolute).transpose()?,
        starter: args.model.is_none(),
        context: args.context,
        ..Wishes::default()
    };
    let connect = || Client::connect(&place)?.context(args::NO_DAEMON);
    connect()?.ask(&Request::Load(wishes))?;
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
        thread::sleep(LOOK);
    }
}
