//! `fimd pause` and `fimd resume`.

use anyhow::{Result, bail};

use super::args;
use crate::daemon::{Client, Place, Request};
use crate::resident::PAUSE_MINUTES_MAX;

#[derive(clap::Args)]
pub(super) struct Args {
    /// For how long; until `fimd resume` if it is left out
    #[arg(value_name = "MINUTES", value_parser = minutes)]
    minutes: Option<f64>,
}

pub(super) fn run(args: &Args) -> Result<()> {
    ask(&Request::Pause { minutes: args.minutes })
}

pub(super) fn resume() -> Result<()> {
    ask(&Request::Resume)
}

fn ask(request: &Request) -> Result<()> {
    let Some(client) = Client::connect(&Place::find()?)? else { bail!(args::NO_DAEMON) };
    client.ask(request)?;
    Ok(())
}

/// Parses a time in minutes, a year at most.
fn minutes(text: &str) -> Result<f64, String> {
    let minutes: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    let is_valid = (0.0..=PAUSE_MINUTES_MAX).contains(&minutes);
    if is_valid { Ok(minutes) } else { Err(format!("must lie between 0 and {PAUSE_MINUTES_MAX}")) }
}
