//! `fimd plan`: where the weights of a model live on this machine, and how fast it is to be.

use std::fmt::Write as _;

use anyhow::Result;
use clap::builder::PossibleValuesParser;
use serde::Serialize;

use super::planner::{self, Overrides, Planner};
use super::{args, use_model};
use crate::bench::plan::{self, Machine, Plan, Sizes};
use crate::bench::sizes;
use crate::bench::synthetic::{self, Published};
use crate::hub;
use crate::model::Config;
use crate::model::export::Recipe;

/// Shows what of a model lives in memory and what on disk, the speed that the rates of this machine then allow, and what
/// would make it faster. Nothing is loaded; measuring takes a few seconds.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  fimd plan --model coder.gguf
  fimd plan --synthetic qwen3-coder-next --quant q4_k_m --ram-budget 24000")]
pub(super) struct Args {
    /// A model on disk, by its path or by its name in `fimd models` [default: the one that the settings name]
    #[arg(long, value_name = "PATH|NAME", conflicts_with = "synthetic")]
    model: Option<String>,

    /// A published model that need not be here
    #[arg(long, value_name = "NAME", value_parser = PossibleValuesParser::from(synthetic::MODELS.map(|model| model.name)))]
    synthetic: Option<String>,

    /// Its weight types: q4_k_m, mxfp4, or one type for every matrix
    #[arg(long, value_name = "MIX", default_value = "q4_k_m", requires = "synthetic")]
    quant: Recipe,

    /// Memory budget of the model with its caches, in MiB [default: what is free, less a margin]
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u32).range(1..))]
    ram_budget: Option<u32>,

    /// Context length, in tokens [default: 4096, or the model's own]
    #[arg(long, value_name = "TOKENS", value_parser = clap::value_parser!(u32).range(1..))]
    context: Option<u32>,

    /// Compute threads [default: one for each physical core, of a hybrid CPU each for performance]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,

    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Mixes that are compared, the most precise first.
const MIXES: [&str; 5] = ["q8_0", "q6_k", "q5_k", "q4_k_m", "mxfp4"];
/// Tokens per second from which a model is of use for completions.
const USEFUL_PER_S: f64 = 8.0;

#[derive(Serialize)]
struct Report {
    model: String,
    sizes: Sizes,
    machine: Machine,
    #[serde(flatten)]
    plan: Plan,
    /// The same model in other types.
    quants: Vec<(&'static str, Plan)>,
    advice: Vec<String>,
}

pub(super) fn run(args: &Args) -> Result<()> {
    let configuration = args::configuration(&[])?;
    let settings = configuration.settings();
    let path = match &args.model {
        Some(model) => use_model::find(model)?,
        None => settings.model.clone().filter(|_| args.synthetic.is_none()),
    };
    let (name, config, sizes, dtype) = match args.synthetic.as_deref().and_then(Published::of_name) {
        Some(model) => {
            let config = model.config(model.layers);
            let (sizes, dtype) = sizes::in_mix(&config, &args.quant)?;
            (model.name.to_owned(), config, sizes, dtype)
        }
        None => {
            let dir = hub::open(path.as_deref())?;
            let config = Config::read(&dir)?;
            let (sizes, dtype) = sizes::of_files(&dir, &config)?;
            (dir.origin().to_owned(), config, sizes, dtype)
        }
    };
    let overrides = Overrides {
        context: args.context,
        threads: args.threads,
        ram_budget: args.ram_budget.map(|mib| u64::from(mib) << 20),
    };
    let planner = Planner::new(settings, overrides, planner::held());
    let rates = sizes::rates(planner.spec().cpu(), dtype, path.as_deref())?;
    let machine = planner.machine(&config, rates)?;
    let plan = plan::plan(&sizes, &machine);
    let mut quants = Vec::new();
    for name in MIXES {
        let mix: Recipe = name.parse().map_err(anyhow::Error::msg)?;
        quants.extend(
            sizes::in_mix(&config.clone().as_in_gguf(), &mix)
                .ok()
                .map(|(sizes, _)| (name, plan::plan(&sizes, &machine))),
        );
    }
    let advice = advice(&sizes, &machine, &plan, &quants);
    let report = Report { model: name, sizes, machine, plan, quants, advice };
    if args.json { args::print_json(&report) } else { args::print(&text(&report)?) }
}

/// What to change to get more.
fn advice(sizes: &Sizes, machine: &Machine, plan: &Plan, quants: &[(&'static str, Plan)]) -> Vec<String> {
    let mut advice = Vec::new();
    let speed = |plan: &Plan| plan.text.map_or(0.0, |speed| speed.tokens_per_s);
    if plan.place != plan::Place::Memory {
        let more = plan.weight_bytes + machine.other_bytes;
        let whole = plan::plan(sizes, &Machine { ram_bytes: more, ..*machine });
        advice.push(format!(
            "with a budget of {:.1} GB all of it fits, and {:.1} tokens/s are possible",
            more as f64 / 1e9,
            speed(&whole)
        ));
        let useful = quants.iter().find(|(_, plan)| speed(plan) >= USEFUL_PER_S);
        let fastest = quants.iter().max_by(|(_, a), (_, b)| speed(a).total_cmp(&speed(b)));
        if let Some((name, best)) = useful.or(fastest).filter(|(_, best)| speed(best) > 1.1 * speed(plan)) {
            advice.push(format!(
                "in {name} it takes {:.1} GB and does {:.1} tokens/s",
                best.weight_bytes as f64 / 1e9,
                speed(best)
            ));
        }
        if !sizes.layers.is_empty() {
            advice.push("`fimd quantize --layout experts` makes an expert one read".into());
        }
    }
    advice
}

fn text(report: &Report) -> Result<String> {
    let Report { model, machine, plan, quants, advice, .. } = report;
    let gigabytes = |bytes: f64| bytes / 1e9;
    let mut text = format!("{model}\n");
    writeln!(
        text,
        "{:.2} GB of memory, {:.2} GB of them for caches and the program\nweights are multiplied at {:.1} GB/s, {:.0} GMAC/s in prompts; the disk reads {:.2} GB/s\n",
        gigabytes(machine.ram_bytes as f64),
        gigabytes(machine.other_bytes as f64),
        gigabytes(machine.rates.weights_per_s),
        gigabytes(machine.rates.macs_per_s),
        gigabytes(machine.rates.disk_per_s)
    )?;
    writeln!(text, "{plan}")?;
    writeln!(text, "| types | size | tokens/s, text |\n|---|---:|---:|")?;
    for (name, plan) in quants {
        let speed =
            plan.text.map_or_else(|| "too large".into(), |speed| format!("{:.2}", speed.tokens_per_s));
        writeln!(text, "| {name} | {:.1} GB | {speed} |", gigabytes(plan.weight_bytes as f64))?;
    }
    if !advice.is_empty() {
        text += "\n";
    }
    advice.iter().for_each(|line| text += &format!("{line}\n"));
    Ok(text)
}
