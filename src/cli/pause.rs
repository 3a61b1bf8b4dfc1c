//! `fimd pause` and `fimd resume`.

use anyhow::{Result, bail};

use super::args;
use crate::daemon::{Client, Place, Request};

#[derive(clap::Args)]
pub struct Args {
    /// For how long; until `fimd resume` if it is left out
    #[arg(value_name = "MINUTES", value_parser = args::minutes)]
    minutes: Option<f64>,
}

pub fn run(args: &Args) -> Result<()> {
    ask(&Request::Pause { minutes: args.minutes })
}

pub fn resume() -> Result<()> {
    ask(&Request::Resume)
}

fn ask(request: &Request) -> Result<()> {
    let Some(client) = Client::connect(&Place::find()?)? else { bail!(args::NO_DAEMON) };
    client.ask(request)?;
    Ok(())
}
