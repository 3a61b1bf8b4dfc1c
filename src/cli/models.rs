//! `fimd models`: which models there are, which are on disk, and which suit this machine.

use std::fmt::Write as _;
use std::io::{BufRead, IsTerminal, stdin};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::args;
use super::planner::{self, Overrides, Planner};
use super::pull::size;
use crate::base::memory;
use crate::bench::plan::{self, Place, Plan, Rates, Sizes};
use crate::bench::synthetic::Published;
use crate::bench::{machine, sizes};
use crate::config::{self, Settings};
use crate::daemon::{Client, RuntimeDir};
use crate::hub::cache::{Cache, Cached};
use crate::hub::catalog::{self, Fit, MODELS, Machine, Model};
use crate::hub::reference::Reference;
use crate::model::experts::tiers::Tiers;
use crate::model::export::Recipe;
use crate::model::layout::Types;

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
    /// None for one that is not here, and that the catalogue says too little of.
    plan: Option<Planned>,
}

/// What is planned for a model.
struct Planned {
    plan: Plan,
    /// Experts of each layer.
    experts: usize,
}

impl Planned {
    fn new(plan: Plan, sizes: &Sizes) -> Self {
        Self { plan, experts: sizes.layers.iter().map(|layer| layer.experts).max().unwrap_or_default() }
    }

    /// How fast it is to be where not all of it fits in memory.
    fn tiers(&self) -> Option<(&Tiers, f64)> {
        match &self.plan.place {
            Place::Tiers(tiers) => Some((tiers, self.plan.text?.tokens_per_s)),
            _ => None,
        }
    }
}

fn list(as_json: bool) -> Result<()> {
    let cache = Cache::new(&config::hub()?.cache);
    let configuration = args::configuration(&[])?;
    let default = configuration.settings().model.as_deref();
    let machine = machine(configuration.settings());
    let mut rows = rows(&cache, default);
    plan(&mut rows, configuration.settings(), machine);
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
        Row { name: model.name.into(), bytes: model.bytes, model: Some(model), path, is_default, plan: None }
    });
    let mut rows: Vec<Row> = known.collect();
    for Cached { reference, path, bytes } in cache.models() {
        let is_known = |row: &Row| row.path.as_deref().is_some_and(|known| is_same(known, &path));
        if !rows.iter().any(is_known) {
            let is_default = is_default(&path);
            let (name, path) = (reference.to_string(), Some(path));
            rows.push(Row { name, bytes, model: None, path, is_default, plan: None });
        }
    }
    rows
}

/// Plans for the models that are here, and for mixtures that may run without being whole in memory.
fn plan(rows: &mut [Row], settings: &Settings, machine: Machine) {
    let planner = Planner::new(settings, Overrides::default(), planner::held());
    let largest = rows.iter().filter(|row| row.path.is_some()).max_by_key(|row| row.bytes);
    let disk = sizes::disk(largest.and_then(|row| row.path.as_deref())).or_else(|_| sizes::disk(None));
    // A plan for a machine whose disk cannot be read would be none.
    let Ok(disk) = disk else { return };
    let rates = Rates::at_a_glance(machine.bandwidth, disk.bytes_per_s);
    for row in rows {
        row.plan = match (&row.path, Published::of_name(&row.name)) {
            (Some(path), _) => planner.plan(path, rates).ok().map(|(plan, sizes)| Planned::new(plan, &sizes)),
            (None, Some(published)) => of_published(&planner, &published, rates).ok(),
            (None, None) => None,
        };
    }
}

/// Of a model that is published in about 4 bits.
fn of_published(planner: &Planner, published: &Published, rates: Rates) -> Result<Planned> {
    let (config, mix) = (published.config(published.layers), Recipe::q4_k_m());
    let (sizes, _) = sizes::in_mix(&config, &mix)?;
    let (machine, _) = planner.machine(&config, &Types::Mix(&mix), rates, None)?;
    Ok(Planned::new(plan::plan(&sizes, &machine), &sizes))
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
            _ if self.plan.as_ref().is_some_and(|plan| plan.tiers().is_some()) => "from disk",
            Some(Fit::Suits) => "suits",
            Some(Fit::Slow) => "slow here",
            Some(Fit::TooLarge) => "too large",
            None => "",
        }
    }

    fn tokens_per_second(&self, machine: Machine) -> Option<f64> {
        if let Some(planned) = &self.plan {
            return planned.plan.text.map(|speed| speed.tokens_per_s);
        }
        let fits = self.model.filter(|model| model.fit(machine) != Fit::TooLarge);
        fits.map(|model| model.tokens_per_second(machine))
    }

    /// Where its experts are to be, if not all fit in memory.
    fn place(&self) -> Option<String> {
        let planned = self.plan.as_ref()?;
        let (tiers, _) = planned.tiers()?;
        Some(format!("{} of {} experts of each layer in memory", tiers.slots, planned.experts))
    }
}

fn print_table(rows: &[Row], machine: Machine, default: Option<&Path>) -> Result<()> {
    let width = rows.iter().map(|row| row.name.len()).max().unwrap_or_default();
    let mut text =
        format!("  {:width$}  {:>8}  {:>8}  {:>12}  {:9}\n", "model", "size", "needs", "speed", "here");
    for row in rows {
        let mark = if row.is_default { '*' } else { ' ' };
        let speed = row.tokens_per_second(machine).map_or_else(String::new, |speed| match speed {
            10.0.. => format!("~{speed:.0} tokens/s"),
            _ => format!("~{speed:.1} tokens/s"),
        });
        let (bytes, needs, verdict) = (size(row.bytes), size(row.needs_bytes()), row.verdict(machine));
        let about = match (&row.path, row.model) {
            (Some(path), _) => path.display().to_string(),
            (None, Some(model)) => model.about.to_owned(),
            (None, None) => String::new(),
        };
        let about = row.place().map_or(about.clone(), |place| format!("{about} ({place})"));
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
                "place": row.plan.as_ref().map(|planned| &planned.plan.place),
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
