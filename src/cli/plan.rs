//! `fimd plan`: where the weights of a model live on this machine, and how fast it is to be.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::builder::PossibleValuesParser;
use serde::Serialize;

use super::{args, use_model};
use crate::base::dtype::DType;
use crate::base::memory;
use crate::base::reads::ReadFile;
use crate::bench::plan::{self, Machine, Plan, Sizes};
use crate::bench::synthetic::{self, Published};
use crate::bench::{kernels, machine};
use crate::hub;
use crate::model::Config;
use crate::model::export::{self, Recipe};
use crate::model::layout;
use crate::resident::Spec;

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

    /// Compute threads [default: one for each physical core]
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
/// For how long a kernel is measured.
const MEASURED: Duration = Duration::from_millis(100);

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
            let (sizes, dtype) = sizes_in(&config, &args.quant)?;
            (model.name.to_owned(), config, sizes, dtype)
        }
        None => existing(path.as_deref())?,
    };
    let spec =
        Spec { context: args.context.or(settings.context.length), ..spec(args, settings.cache_bytes_max()) };
    let ram = args.ram_budget.map(|mib| u64::from(mib) << 20).or(settings.experts.ram_bytes_max);
    let machine = Machine {
        ram_bytes: ram.unwrap_or_else(|| memory::host().free),
        other_bytes: spec.other_bytes(&config, ram.is_none())?,
        ..measure(&spec, dtype, path.as_deref())?
    };
    let plan = plan::plan(&sizes, &machine);
    let mut quants = Vec::new();
    for name in MIXES {
        let mix: Recipe = name.parse().map_err(anyhow::Error::msg)?;
        quants.extend(
            sizes_in(&config.clone().as_in_gguf(), &mix)
                .ok()
                .map(|(sizes, _)| (name, plan::plan(&sizes, &machine))),
        );
    }
    let advice = advice(&sizes, &machine, &plan, &quants);
    let report = Report { model: name, sizes, machine, plan, quants, advice };
    if args.json { args::print_json(&report) } else { args::print(&text(&report)?) }
}

fn spec(args: &Args, cache_bytes_max: u64) -> Spec {
    let compute = args::ComputeArgs { threads: args.threads, kernels: None, exact: false };
    Spec { cache_bytes_max, ..compute.spec() }
}

fn existing(path: Option<&Path>) -> Result<(String, Config, Sizes, DType)> {
    let dir = hub::open(path)?;
    let config = Config::read(&dir)?;
    let (layers, dtype) = layout::expert_layers(&dir, &config)?;
    let (_, bytes) = layout::embedding(&dir, &config)?;
    let sizes = Sizes {
        trunk_bytes: layout::trunk_bytes(&dir, &config),
        lookup_bytes: if config.tied { 0 } else { bytes },
        token_weights: token_weights(&config),
        layers,
    };
    Ok((dir.origin().to_owned(), config, sizes, dtype))
}

/// The sizes of a model in the types of a mix, and the type of most of its weights.
fn sizes_in(config: &Config, mix: &Recipe) -> Result<(Sizes, DType)> {
    let mut sizes =
        Sizes { trunk_bytes: 0, lookup_bytes: 0, token_weights: token_weights(config), layers: Vec::new() };
    let mut headers: Vec<_> = config.layers.iter().map(layout::expert_header).collect();
    let mut dtypes = Vec::new();
    for (tensor, part) in export::tensors(config)? {
        let dtype = mix.choose(&tensor, config.layers.len()).dtype;
        let elements = tensor.shape.iter().product();
        let bytes = dtype.bytes(elements).context("rows are whole blocks")?;
        dtypes.push((elements, dtype));
        match part
            .field
            .layer()
            .and_then(|layer| headers[layer].as_mut())
            .filter(|_| part.role.is_of_experts())
        {
            Some(header) => header.record_bytes += bytes / header.experts,
            None => sizes.trunk_bytes += bytes as u64,
        }
        if part.field == crate::model::architecture::Field::Embedding && !config.tied {
            sizes.lookup_bytes = bytes as u64;
        }
    }
    sizes.layers = headers.into_iter().flatten().collect();
    let (_, dtype) =
        dtypes.into_iter().max_by_key(|&(elements, _)| elements).context("a model without tensors")?;
    Ok((sizes, dtype))
}

/// Weights that a token is multiplied with.
fn token_weights(config: &Config) -> u64 {
    let parts = crate::model::architecture::tensors(config);
    let of_part = |part: &crate::model::architecture::Part| {
        let elements: usize = part.shape.iter().product();
        let header = part.field.layer().and_then(|layer| layout::expert_header(&config.layers[layer]));
        match header.filter(|_| part.role.is_of_experts()) {
            Some(header) => elements / header.experts * header.top_k,
            None if part.field == crate::model::architecture::Field::Embedding && !config.tied => 0,
            None => elements,
        }
    };
    parts.iter().map(of_part).sum::<usize>() as u64
}

/// What memory, arithmetic and disk do in a second, for weights of a type.
fn measure(spec: &Spec, dtype: DType, path: Option<&Path>) -> Result<Machine> {
    let measured = if dtype == DType::F8E4M3 { DType::Q8_0 } else { dtype };
    // More than caches hold.
    let workload = kernels::Workload {
        types: vec![measured],
        rows: 512,
        cols: 2048,
        copies: 64,
        inputs: vec![1, 64],
        time: MEASURED,
    };
    let speeds = kernels::run(&workload, spec.cpu())?;
    ensure!(speeds.len() == 2, "the kernels cannot be measured");
    Ok(Machine {
        ram_bytes: 0,
        other_bytes: 0,
        weights_per_s: 1e9 * speeds[0].gigabytes,
        macs_per_s: 1e9 * speeds[1].gmacs,
        disk_per_s: disk_rate(path)?,
    })
}

/// Of the disk that the model is on, or else of that of temporary files.
fn disk_rate(path: Option<&Path>) -> Result<f64> {
    let file = path.map(|path| hub::open(Some(path))).transpose()?;
    let file: Option<PathBuf> = file.and_then(|dir| Some(dir.files().first()?.path().to_owned()));
    match file {
        Some(file) => {
            let describe = || format!("cannot read {}", file.display());
            Ok(ReadFile::open(&file, true).and_then(|file| file.rate()).with_context(describe)?.bytes_per_s)
        }
        None => machine::disk_rate(&synthetic::folder()?),
    }
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
        gigabytes(machine.weights_per_s),
        gigabytes(machine.macs_per_s),
        gigabytes(machine.disk_per_s)
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
