//! `fimd models`: which models there are, which are on disk, and which suit this machine.

use std::fmt::Write as _;
use std::io::{BufRead, IsTerminal, stdin};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::args;
use super::pull::size;
use crate::base::memory;
use crate::bench::machine;
use crate::config::{self, Settings};
use crate::daemon::{Client, RuntimeDir};
use crate::hub::cache::{Cache, Cached};
use crate::hub::catalog::{self, Fit, MODELS, Machine, Model};
use crate::hub::reference::Reference;

#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Option<Command>,

    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Delete a model from the disk
    Rm(RmArgs),
}

#[derive(clap::Args)]
struct RmArgs {
    /// A name that `fimd models` lists, or a repository and perhaps a file of it
    #[arg(value_name = "NAME|REPO[:FILE]")]
    model: Reference,

    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

pub(super) fn run(args: &Args) -> Result<()> {
    match &args.command {
        Some(Command::Rm(args)) => rm(args),
        None => list(args.json),
    }
}

/// A model that is recommended or on disk.
struct Row {
    name: String,
    bytes: u64,
    /// None for one that the catalogue does not have.
    model: Option<&'static Model>,
    path: Option<PathBuf>,
    is_default: bool,
}

fn list(as_json: bool) -> Result<()> {
    let cache = Cache::new(&config::hub()?.cache);
    let configuration = args::configuration(&[])?;
    let default = configuration.settings().model.as_deref();
    let machine = machine(configuration.settings());
    let rows = rows(&cache, default);
    if as_json { print_json(&rows, machine, default) } else { print_table(&rows, machine, default) }
}

/// This machine, measured.
pub(super) fn machine(settings: &Settings) -> Machine {
    let bandwidth = machine::bandwidth_at_a_glance(args::threads(settings.threads));
    Machine { memory_bytes: memory::host().total, bandwidth }
}

/// How to get the best model that suits a machine.
pub(super) fn advice(machine: Machine) -> Option<String> {
    let best = catalog::best(machine)?;
    let cache = config::hub().ok().map(|options| Cache::new(&options.cache));
    let is_here = cache.is_some_and(|cache| path(&cache, best).is_some());
    Some(advice_on(best, is_here))
}

fn advice_on(best: &Model, is_here: bool) -> String {
    let what = if is_here { "use" } else { "pull" };
    let size = size(best.bytes);
    format!(
        "`fimd {what} {}` gets you the best that suits this machine ({size}, {})",
        best.name, best.license
    )
}

/// Where a model of the catalogue is on disk.
fn path(cache: &Cache, model: &Model) -> Option<PathBuf> {
    cache.find(&model.name.parse().ok()?).ok().flatten()
}

/// Those of the catalogue, then what else is on disk.
fn rows(cache: &Cache, default: Option<&Path>) -> Vec<Row> {
    let is_default = |path: &Path| default.is_some_and(|default| is_same(default, path));
    let known = MODELS.iter().map(|model| {
        let path = path(cache, model);
        let is_default = path.as_deref().is_some_and(is_default);
        Row { name: model.name.into(), bytes: model.bytes, model: Some(model), path, is_default }
    });
    let mut rows: Vec<Row> = known.collect();
    for Cached { reference, path, bytes } in cache.models() {
        let is_known = |row: &Row| row.path.as_deref().is_some_and(|known| is_same(known, &path));
        if !rows.iter().any(is_known) {
            let is_default = is_default(&path);
            rows.push(Row { name: reference.to_string(), bytes, model: None, path: Some(path), is_default });
        }
    }
    rows
}

/// Whether two paths name the same, through whatever links.
fn is_same(one: &Path, other: &Path) -> bool {
    one == other || one.canonicalize().is_ok_and(|one| other.canonicalize().is_ok_and(|other| one == other))
}

impl Row {
    fn needs_bytes(&self) -> u64 {
        self.model.map_or_else(|| catalog::needs_bytes(self.bytes), Model::needs_bytes)
    }

    /// What to say about it on this machine.
    fn verdict(&self, machine: Machine) -> &'static str {
        match self.model.map(|model| model.fit(machine)) {
            _ if self.model.is_some() && self.model == catalog::best(machine) => "best here",
            Some(Fit::Suits) => "suits",
            Some(Fit::Slow) => "slow here",
            Some(Fit::TooLarge) => "too large",
            None => "",
        }
    }

    fn tokens_per_second(&self, machine: Machine) -> Option<f64> {
        let fits = self.model.filter(|model| model.fit(machine) != Fit::TooLarge);
        fits.map(|model| model.tokens_per_second(machine))
    }
}

fn print_table(rows: &[Row], machine: Machine, default: Option<&Path>) -> Result<()> {
    let width = rows.iter().map(|row| row.name.len()).max().unwrap_or_default();
    let mut text =
        format!("  {:width$}  {:>8}  {:>8}  {:>12}  {:9}\n", "model", "size", "needs", "speed", "here");
    for row in rows {
        let mark = if row.is_default { '*' } else { ' ' };
        let speed =
            row.tokens_per_second(machine).map_or_else(String::new, |speed| format!("~{speed:.0} tokens/s"));
        let (bytes, needs, verdict) = (size(row.bytes), size(row.needs_bytes()), row.verdict(machine));
        let about = match (&row.path, row.model) {
            (Some(path), _) => path.display().to_string(),
            (None, Some(model)) => model.about.to_owned(),
            (None, None) => String::new(),
        };
        let line =
            format!("{mark} {:width$}  {bytes:>8}  {needs:>8}  {speed:>12}  {verdict:9}  {about}", row.name);
        writeln!(text, "{}", line.trim_end())?;
    }
    let is_listed = rows.iter().any(|row| row.is_default);
    match default {
        None => text += "\nthe default is the starter model in the program, a toy\n",
        Some(_) if is_listed => text += "\n* is the default\n",
        Some(path) => writeln!(text, "\nthe default is {}", path.display())?,
    }
    writeln!(
        text,
        "this machine has {} of memory, which it reads at {}/s; a path is a model on disk",
        size(machine.memory_bytes),
        size(machine.bandwidth as u64)
    )?;
    if let Some(best) = catalog::best(machine) {
        let is_here = rows.iter().any(|row| row.model == Some(best) && row.path.is_some());
        writeln!(text, "{}", advice_on(best, is_here))?;
    }
    args::print(&text)
}

fn print_json(rows: &[Row], machine: Machine, default: Option<&Path>) -> Result<()> {
    let models: Vec<Value> = rows
        .iter()
        .map(|row| {
            json!({
                "name": row.name,
                "repo": row.model.map(|model| model.repo),
                "file": row.model.and_then(|model| model.file),
                "bytes": row.bytes,
                "needs_bytes": row.needs_bytes(),
                "tokens_per_second": row.tokens_per_second(machine),
                "fit": row.model.map(|model| match model.fit(machine) {
                    Fit::Suits => "suits",
                    Fit::Slow => "slow",
                    Fit::TooLarge => "too_large",
                }),
                "license": row.model.map(|model| model.license),
                "about": row.model.map(|model| model.about),
                "path": row.path,
                "is_default": row.is_default,
            })
        })
        .collect();
    args::print_json(&json!({
        "models": models,
        "default": default,
        "best": catalog::best(machine).map(|model| model.name),
        "memory_bytes": machine.memory_bytes,
        "bandwidth_bytes_per_second": machine.bandwidth,
    }))
}

fn rm(args: &RmArgs) -> Result<()> {
    let (cache, reference) = (Cache::new(&config::hub()?.cache), &args.model);
    if let Some(path) = cache.find(reference)? {
        check_unused(reference, &path)?;
        if !args.yes && !confirm(&format!("delete {}?", path.display()))? {
            bail!("{reference} stays");
        }
    }
    let freed = cache.remove(reference)?;
    args::print(&format!("{reference} is deleted, {} are free again\n", size(freed)))
}

/// Fails for a model that is the default, or that the daemon serves.
fn check_unused(reference: &Reference, path: &Path) -> Result<()> {
    let configuration = args::configuration(&[])?;
    let is_default = configuration.settings().model.as_deref().is_some_and(|default| is_same(default, path));
    ensure!(!is_default, "{reference} is the default; `fimd use` another one first, such as starter");
    let Some(client) = Client::connect(&RuntimeDir::find()?)? else { return Ok(()) };
    let model = client.status()?.model;
    let is_served = model.is_some_and(|model| is_same(Path::new(&model.name), path));
    ensure!(!is_served, "the daemon serves {reference}; `fimd load` another one first, or `fimd stop`");
    Ok(())
}

/// Asks the user.
fn confirm(question: &str) -> Result<bool> {
    ensure!(stdin().is_terminal(), "{question} Without a terminal, confirm with --yes");
    eprint!("{question} [y/N] ");
    let mut answer = String::new();
    stdin().lock().read_line(&mut answer).context("cannot read the answer")?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
