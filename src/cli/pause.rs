//! `fimd pause` and `fimd resume`.

use anyhow::{Result, bail};

use super::args;
use crate::daemon::{Client, Request, RuntimeDir};
use crate::resident::PAUSE_MINUTES_MAX;

#[derive(clap::Args)]
pub(super) struct Args {
    /// Duration in minutes [default: until `fimd resume`]
    #[arg(value_name = "MINUTES", value_parser = minutes)]
    minutes: Option<f64>,
}

pub(super) fn run(args: &Args) -> Result<()> {
    request(&Request::Pause { minutes: args.minutes })
}

pub(super) fn resume() -> Result<()> {
    request(&Request::Resume)
}

fn request(request: &Request) -> Result<()> {
    let Some(client) = Client::connect(&RuntimeDir::find()?)? else { bail!(args::NO_DAEMON) };
    client.request(request)?;
    Ok(())
}

/// Parses a duration in minutes, a year at most.
fn minutes(text: &str) -> Result<f64, String> {
    let minutes: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    let is_valid = (0.0..=PAUSE_MINUTES_MAX).contains(&minutes);
    if is_valid { Ok(minutes) } else { Err(format!("must lie between 0 and {PAUSE_MINUTES_MAX}")) }
}
