//! `fimd log`: the end of the daemon's log.

use anyhow::{Context, Result};

use super::{args, message};
use crate::base::escape;
use crate::daemon::RuntimeDir;

#[derive(clap::Args)]
pub(super) struct Args {
    /// How many lines
    #[arg(long, short = 'n', value_name = "N", default_value_t = 40)]
    lines: usize,

    /// Print the path of the file instead
    #[arg(long)]
    path: bool,
}

pub(super) fn run(args: &Args) -> Result<()> {
    let runtime_dir = RuntimeDir::find()?;
    let file = runtime_dir
        .log_file()
        .with_context(|| format!("no daemon has written a log in {} yet", runtime_dir.log_dir().display()))?;
    if args.path {
        return args::print(&format!("{}\n", file.display()));
    }
    let text = args::read_text(&file)?;
    let lines: Vec<&str> = text.lines().collect();
    let end: String = lines[lines.len().saturating_sub(args.lines)..]
        .iter()
        .map(|line| escape::line(line) + "\n")
        .collect();
    args::print(&end)?;
    message::hint(format_args!("this is the end of {}", file.display()));
    Ok(())
}
