//! `fimd plan`: where the weights of a model live on this machine, and how fast it is to be.

use std::fmt::Write as _;

use anyhow::{Result, bail};
use clap::builder::PossibleValuesParser;
use serde::Serialize;

use super::planner::{self, ColdCopy, Device, Overrides, Planner, Subject};
use super::{args, use_model};
use crate::base::dtype::DType;
use crate::bench::hardware::{self, Hardware};
use crate::bench::plan::{self, Machine, Plan, Sizes};
use crate::bench::sizes;
use crate::bench::synthetic::{self, Published};
use crate::compute::cuda::probe::probe;
use crate::config::Settings;
use crate::hub;
use crate::model::export::Recipe;
use crate::model::layout::Types;
use crate::resident::GpuPlan;

/// Shows what of a model lives in memory and what on disk, the speed that the rates of this machine then allow, and what
/// would make it faster. Nothing is loaded; measuring takes a few seconds.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  fimd plan --model coder.gguf
  fimd plan --model coder.gguf --cold coder-cold.gguf
  fimd plan --synthetic qwen3-coder-next --machine rtx-3070-ti-laptop --vram-budget 8192
  fimd plan --synthetic qwen3-coder-next --quant q4_k_m --ram-budget 24000 --cold q2_k")]
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

    /// Plan for the GPU with this budget of its memory, in MiB; with 0 for the CPU [default: as `gpu.enabled` says]
    #[arg(long, value_name = "MIB")]
    vram_budget: Option<u32>,

    /// Plan for such a machine instead of this one, by published specifications: nothing is measured
    #[arg(long, value_name = "NAME", value_parser = PossibleValuesParser::from(hardware::MACHINES.map(|machine| machine.name)))]
    machine: Option<String>,

    /// A smaller copy of the experts: the file that `fimd quantize --cold` wrote, or a type to plan for one
    #[arg(long, value_name = "PATH|TYPE")]
    cold: Option<ColdCopy>,

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
/// The type of a smaller copy that is suggested.
const COPY: DType = DType::Q2K;
/// Tokens per second from which a model is of use for completions.
const USEFUL_PER_S: f64 = 8.0;

#[derive(Serialize)]
struct Report {
    model: String,
    sizes: Sizes,
    machine: Machine,
    /// Where the rates are from, if they were not measured.
    sources: Option<&'static str>,
    /// Why it cannot run on the GPU.
    gpu_refused: Option<String>,
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
    let overrides = Overrides {
        context: args.context,
        threads: args.threads,
        ram_budget: args.ram_budget.map(|mib| u64::from(mib) << 20),
        vram_budget: args.vram_budget.map(|mib| u64::from(mib) << 20),
        copy: args.cold.clone(),
        device: device(args, settings)?,
        locks: false,
    };
    let planner = Planner::new(settings, overrides.clone(), planner::held());
    let dir;
    let (name, types, subject) = match args.synthetic.as_deref().and_then(Published::of_name) {
        Some(model) => {
            if let Some(ColdCopy::At(path)) = &args.cold {
                bail!(
                    "{} is the smaller copy of a model that is here; --cold TYPE plans for one of --synthetic",
                    path.display()
                );
            }
            let subject = planner.in_mix(model.config(model.layers), &args.quant)?;
            (model.name.to_owned(), Types::Mix(&args.quant), subject)
        }
        None => {
            dir = hub::open(path.as_deref())?;
            (dir.origin().to_owned(), Types::Files(&dir), planner.of_files(&dir)?)
        }
    };
    let Subject { config, sizes, dtype, copy } = subject;
    let (rates, gpu) = planner.rates(dtype, copy, path.as_deref())?;
    let (machine, gpu_refused) = planner.machine(&config, &types, rates, gpu)?;
    let plan = plan::plan(&sizes, &machine);
    let in_gguf = config.as_in_gguf();
    let mut quants = Vec::new();
    for name in MIXES {
        let mix: Recipe = name.parse().map_err(anyhow::Error::msg)?;
        // A copy is as large whatever it is a copy of.
        let own = sizes::in_mix(&in_gguf, &mix).ok();
        let own = own.map(|(own, _)| Sizes { cold_bytes: sizes.cold_bytes, ..own });
        let Some(own) = own else { continue };
        let (machine, _) = planner.machine(&in_gguf, &Types::Mix(&mix), rates, gpu)?;
        quants.push((name, plan::plan(&own, &machine)));
    }
    let copied = sizes::of_copy(&in_gguf, COPY).ok().filter(|_| sizes.cold_bytes == 0);
    let copied = copied.map(|cold_bytes| plan::plan(&Sizes { cold_bytes, ..sizes.clone() }, &machine));
    let advice = advice(&sizes, &machine, &plan, &quants, copied.as_ref());
    let sources = match overrides.device {
        Device::Named(machine) => Some(machine.sources),
        _ => None,
    };
    let report = Report { model: name, sizes, machine, sources, gpu_refused, plan, quants, advice };
    if args.json { args::print_json(&report) } else { args::print(&text(&report)?) }
}

/// What is planned for.
fn device(args: &Args, settings: &Settings) -> Result<Device> {
    if let Some(machine) = args.machine.as_deref().and_then(Hardware::of_name) {
        return Ok(Device::Named(machine));
    }
    let is_wanted = args.vram_budget.map_or(settings.gpu.enabled, |mib| mib > 0);
    if !is_wanted {
        return Ok(Device::Cpu);
    }
    match probe() {
        Ok(gpu) => Ok(Device::Gpu(gpu.memory.free)),
        Err(_) if args.vram_budget.is_none() => Ok(Device::Cpu),
        Err(unusable) => {
            let names = hardware::MACHINES.map(|machine| machine.name).join(", ");
            bail!("{unusable}; --machine NAME plans for a machine that has one ({names})")
        }
    }
}

/// What to change to get more.
fn advice(
    sizes: &Sizes,
    machine: &Machine,
    plan: &Plan,
    quants: &[(&'static str, Plan)],
    copied: Option<&Plan>,
) -> Vec<String> {
    let mut advice = Vec::new();
    let speed = |plan: &Plan| plan.text.map_or(0.0, |speed| speed.tokens_per_s);
    if let (plan::Place::Memory, Some(gpu)) = (plan.place, machine.gpu) {
        let locked = plan::plan(sizes, &Machine { gpu: Some(plan::Gpu { locks: true, ..gpu }), ..*machine });
        if speed(&locked) > 1.05 * speed(plan) {
            advice.push(format!(
                "with experts.lock = true the GPU copies experts from where they are, and {:.1} tokens/s are possible; the \
                 system cannot use their memory otherwise then",
                speed(&locked)
            ));
        }
    }
    if !matches!(plan.place, plan::Place::Memory | plan::Place::Gpu) {
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
        if let Some(copied) = copied.filter(|copied| speed(copied) > 1.1 * speed(plan)) {
            advice.push(format!(
                "with `fimd quantize --cold {}` and --cold it does {:.1} tokens/s: no token waits for the disk, and results are \
                 less exact while experts are in the copy alone",
                COPY.to_string().to_lowercase(),
                speed(copied)
            ));
        }
        if !sizes.layers.is_empty() && sizes.cold_bytes == 0 {
            advice.push("`fimd quantize --layout experts` makes an expert one read".into());
        }
    }
    advice
}

/// Where the memory of the GPU goes.
fn on_gpu(plan: &GpuPlan) -> String {
    let mib = |bytes: u64| format!("{} MiB", bytes >> 20);
    let mut text = format!("GPU:    {} that every token reads\n", mib(plan.trunk_bytes));
    if plan.experts > 0 {
        let experts = format!("{} of {} experts of each layer", plan.slots, plan.experts);
        text += &format!("        {} for {experts}\n", mib(plan.expert_bytes));
        if plan.sweep_bytes > 0 {
            text += &format!("        {} for the others to pass through\n", mib(plan.sweep_bytes));
        }
    }
    if let Some(part) = plan.host_part() {
        text += &format!("        {part}\n");
    }
    text += &format!("        {} of KV cache for the context", mib(plan.kv_bytes));
    text += &format!(", {} for what earlier prompts left\n", mib(plan.kept_kv_bytes));
    text +=
        &format!("        {} of states, {} of activations\n", mib(plan.state_bytes), mib(plan.working_bytes));
    text +=
        &format!("        {} in all, of a budget of {}; ", mib(plan.taken_bytes()), mib(plan.budget_bytes));
    let (locked, saved) = (mib(plan.locked_bytes), mib(plan.saved_bytes_max));
    text + &format!("beside it {locked} of page-locked memory, and up to {saved} for saved states\n")
}

fn text(report: &Report) -> Result<String> {
    let Report { model, machine, sources, gpu_refused, plan, quants, advice, .. } = report;
    let gigabytes = |bytes: f64| bytes / 1e9;
    let mut text = format!("{model}\n");
    writeln!(
        text,
        "{:.2} GB of memory, {:.2} GB of them for caches and the program\nweights are multiplied at {:.1} GB/s, {:.0} GMAC/s in prompts; {}the disk reads {:.2} GB/s\n",
        gigabytes(machine.ram_bytes as f64),
        gigabytes(machine.other_bytes as f64),
        gigabytes(machine.rates.weights_per_s),
        gigabytes(machine.rates.macs_per_s),
        match report.sizes.cold_bytes {
            0 => String::new(),
            _ => format!("those of the smaller copy at {:.1} GB/s; ", gigabytes(machine.rates.cold_per_s)),
        },
        gigabytes(machine.rates.disk_per_s)
    )?;
    if let Some(gpu) = &machine.gpu {
        let plan::GpuRates { weights_per_s, macs_per_s, link_per_s, launch_s, .. } = gpu.rates;
        writeln!(
            text,
            "the GPU multiplies weights at {:.1} GB/s, {:.0} GMAC/s in prompts; {:.1} GB/s come to it, a kernel takes {:.1} us\n",
            gigabytes(weights_per_s),
            gigabytes(macs_per_s),
            gigabytes(link_per_s),
            1e6 * launch_s
        )?;
        writeln!(text, "{}", on_gpu(&gpu.plan))?;
    }
    if let Some(refused) = gpu_refused {
        writeln!(text, "not on the GPU: {refused}\n")?;
    }
    writeln!(text, "{plan}")?;
    if let Some(sources) = sources {
        writeln!(text, "predicted from specifications: {sources}\n")?;
    }
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
