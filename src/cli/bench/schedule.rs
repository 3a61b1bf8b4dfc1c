//! `fimd bench schedule`: predictions for machines with a GPU.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::builder::PossibleValuesParser;

use crate::bench::hardware::{self, Hardware};
use crate::bench::schedule::Pair;
use crate::bench::simulate::{self, Report, Routed, Subject};
use crate::bench::synthetic::{self, Published, Routing};
use crate::cli::args;
use crate::cli::planner::{self, Device, Overrides, Planner};
use crate::hub;
use crate::model::experts::trace::Trace;
use crate::model::export::Recipe;
use crate::model::layout::Types;

/// Predicts what a mixture of experts is to do on machines with a GPU, without having one: decode with 0, 30, 60 and 85 % of the
/// visits found on the GPU, with as many slots as that takes and with as many as fit it; prompts, a keystroke, the fixed cost, and
/// the bytes over each link.
///
/// The policy of the slots and the division of what is missing are those of the program, and routing is drawn, or replayed from
/// a trace; how long something takes is computed from published specifications. Nothing is measured.
#[derive(clap::Args)]
pub(super) struct ScheduleArgs {
    /// A model on disk [default: the synthetic one]
    #[arg(long, value_name = "PATH", conflicts_with = "synthetic")]
    model: Option<PathBuf>,

    /// A published model that need not be here
    #[arg(long, value_name = "NAME", default_value = "qwen3-coder-next", value_parser = PossibleValuesParser::from(synthetic::MODELS.map(|model| model.name)))]
    synthetic: String,

    /// Its weight types: q4_k_m, mxfp4, or one type for every matrix
    #[arg(long, value_name = "MIX", default_value = "q4_k_m")]
    quant: Recipe,

    /// The machines [default: all]
    #[arg(long, value_name = "NAME", value_delimiter = ',', value_parser = PossibleValuesParser::from(hardware::MACHINES.map(|machine| machine.name)))]
    machine: Vec<String>,

    /// Budget of GPU memory, in MiB [default: what the machine has, less a margin]
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u32).range(1..))]
    vram_budget: Option<u32>,

    /// Context length, in tokens [default: 4096, or the model's own]
    #[arg(long, value_name = "TOKENS", value_parser = clap::value_parser!(u32).range(1..))]
    context: Option<u32>,

    /// Experts are page-locked where they are, as with experts.lock
    #[arg(long)]
    lock: bool,

    /// Replay the routing that --trace recorded with this model instead of drawing it
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,

    /// Print one JSON array
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &ScheduleArgs) -> Result<()> {
    let trace = args.trace.as_deref().map(Trace::read).transpose()?;
    let configuration = args::configuration(&[])?;
    let names: Vec<&str> = match &args.machine[..] {
        [] => hardware::MACHINES.iter().map(|machine| machine.name).collect(),
        names => names.iter().map(String::as_str).collect(),
    };
    let mut reports = Vec::new();
    for machine in names.into_iter().filter_map(Hardware::of_name) {
        let overrides = Overrides {
            context: args.context,
            vram_budget: args.vram_budget.map(|mib| u64::from(mib) << 20),
            device: Device::Named(machine),
            locks: args.lock,
            ..Overrides::default()
        };
        let planner = Planner::new(configuration.settings(), overrides, planner::held());
        reports.push(report(args, machine, &planner, trace.as_ref())?);
    }
    if args.json {
        return args::print_json(&reports);
    }
    args::print(&reports.iter().map(|report| format!("{report}\n")).collect::<String>())
}

fn report(
    args: &ScheduleArgs,
    machine: &Hardware,
    planner: &Planner,
    trace: Option<&Trace>,
) -> Result<Report> {
    let dir = args.model.as_deref().map(|path| hub::open(Some(path))).transpose()?;
    let (model, types, subject) = match &dir {
        Some(dir) => (dir.origin().to_owned(), Types::Files(dir), planner.of_files(dir)?),
        None => {
            let published = Published::of_name(&args.synthetic).context("an unknown model")?;
            let subject = planner.in_mix(published.config(published.layers), &args.quant)?;
            (args.synthetic.clone(), Types::Mix(&args.quant), subject)
        }
    };
    let Pair { cpu, gpu } = machine.rates;
    let (planned, refused) = planner.machine(&subject.config, &types, cpu, Some(gpu))?;
    let on_gpu = planned
        .gpu
        .with_context(|| format!("{model} does not fit {}: {}", machine.name, refused.unwrap_or_default()))?;
    let (slots, experts) = (on_gpu.plan.slots, on_gpu.plan.experts);
    let pair = if on_gpu.locks { Pair { cpu, gpu: gpu.page_locked() } } else { machine.rates };
    let simulated = Subject {
        sizes: &subject.sizes,
        pair,
        host_tables: on_gpu.plan.host_tables,
        rows_max: on_gpu.plan.rows_max,
    };
    let rows = match trace {
        Some(trace) => simulate::run(simulated, slots, &Routed::Recorded(trace))?,
        None => {
            let mut rows = simulate::run(simulated, slots, &Routed::Drawn(Routing::Uniform))?;
            rows.extend(simulate::run(simulated, slots, &Routed::Drawn(Routing::Text))?);
            rows
        }
    };
    let fixed_s = machine.rates.fixed_s(subject.sizes.kernels as f64);
    Ok(Report {
        machine: machine.name.into(),
        sources: machine.sources,
        model,
        slots,
        experts,
        fixed_s,
        rows,
    })
}
