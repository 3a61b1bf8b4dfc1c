//! `fimd completions` and `fimd man`, for packagers.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::{Command, CommandFactory};
use clap_complete::Shell;

use super::{Cli, args, guide};

#[derive(clap::Args)]
pub(super) struct Args {
    /// The shell
    shell: Shell,
}

#[derive(clap::Args)]
pub(super) struct ManArgs {
    /// Write one page per command and topic of the guide into this folder, instead of the main page to stdout
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
}

pub(super) fn run(args: &Args) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "fimd", &mut script);
    args::print(&String::from_utf8_lossy(&script))
}

pub(super) fn man(args: &ManArgs) -> Result<()> {
    match &args.out {
        Some(folder) => write_pages(folder),
        None => args::print(&String::from_utf8_lossy(&page(Cli::command())?)),
    }
}

fn write_pages(folder: &Path) -> Result<()> {
    let mut command = Cli::command();
    command.build();
    clap_mangen::generate_to(command, folder)
        .with_context(|| format!("cannot write manual pages into {}", folder.display()))?;
    guide::write_manual(folder)
}

fn page(command: Command) -> Result<Vec<u8>> {
    let mut page = Vec::new();
    clap_mangen::Man::new(command).render(&mut page).context("cannot render the manual page")?;
    Ok(page)
}
