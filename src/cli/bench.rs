//! `fimd bench`: how fast things are on this machine.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::{Subcommand, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};

use super::args::{self, EngineArgs};
use crate::bench::machine;
use crate::bench::report::Subject;
use crate::bench::speed::{self, Whole, Workload};
use crate::bench::synthetic::{self, Synthetic};
use crate::model::export::Recipe;

/// Without --model and --synthetic, the starter model in the program is measured.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    benchmark: Benchmark,
}

#[derive(Subcommand)]
enum Benchmark {
    /// Measure how fast a model reads prompts and writes tokens
    Speed(SpeedArgs),
}

/// A synthetic model has the exact sizes of a real one, fewer layers and random weights. It is measured at
/// two depths, and the time of the whole model is read off the line through them: so you know how fast the
/// real model would run on this machine before you download it.
#[derive(clap::Args)]
struct SpeedArgs {
    /// Measure a model with the sizes of this one and random weights
    #[arg(long, value_name = "NAME", conflicts_with = "model")]
    synthetic: Option<Imitated>,

    /// Layers of the synthetic model: a multiple of 4, so that all kinds of layers are in proportion
    #[arg(long, value_name = "N", default_value_t = 4, requires = "synthetic", value_parser = layers)]
    layers: usize,

    /// Types of its weights: q4_k_m, mxfp4, or one type for every matrix
    #[arg(long, value_name = "MIX", default_value = "Q4_K_M", requires = "synthetic", value_parser = quant)]
    quant: Quant,

    /// Keep it as this GGUF file, or in this folder, not in the cache
    #[arg(long, value_name = "FILE|DIR", requires = "synthetic")]
    write: Option<PathBuf>,

    /// Lengths of prompts, in tokens
    #[arg(long, value_name = "TOKENS", value_delimiter = ',', default_value = "64,512", value_parser = clap::value_parser!(u32).range(1..))]
    prompt: Vec<u32>,

    /// Tokens to decode
    #[arg(long, value_name = "TOKENS", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..))]
    generate: u32,

    /// How often each speed is measured; medians are shown
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    runs: u16,

    /// Print one JSON object
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    engine: EngineArgs,
}

/// Models that can be imitated.
#[derive(Clone, Copy, ValueEnum)]
enum Imitated {
    #[value(name = "qwen3-coder-next")]
    Qwen3CoderNext,
}

#[derive(Clone)]
struct Quant {
    name: String,
    recipe: Recipe,
}

pub fn run(args: &Args) -> Result<()> {
    match &args.benchmark {
        Benchmark::Speed(args) => run_speed(args),
    }
}

fn run_speed(args: &SpeedArgs) -> Result<()> {
    let (model, subject, whole) = match args.synthetic {
        Some(Imitated::Qwen3CoderNext) => synthetic(args)?,
        None => existing(args)?,
    };
    let workload = Workload {
        prompts: args.prompt.iter().map(|&tokens| tokens as usize).collect(),
        generate: args.generate as usize,
        runs: args.runs.into(),
    };
    let status = ProgressBar::new_spinner();
    let open = |layers| args.engine.open_layers(model.as_deref(), layers);
    let say = |text| {
        status.set_message(text);
        status.tick();
    };
    let report = speed::run(subject, &workload, whole, args.engine.threads(), open, &say)?;
    status.finish_and_clear();
    if args.json { args::print_json(&report) } else { args::print(&report.to_string()) }
}

/// What is measured: the path of the model (none for the starter), its description, and the whole of which
/// it is a part.
type Measured = (Option<PathBuf>, Subject, Option<Whole>);

fn existing(args: &SpeedArgs) -> Result<Measured> {
    let path = args.engine.model.clone();
    let (origin, config) = args.engine.describe()?;
    let file_bytes = path.as_deref().map(size).transpose()?;
    let (layers, quant) = (config.layers.len(), None);
    let subject = Subject { name: origin, path: path.clone(), layers, quant, file_bytes };
    Ok((path, subject, None))
}

/// Bytes of a file, or of all files of a folder.
fn size(path: &Path) -> Result<u64> {
    let describe = || format!("cannot read {}", path.display());
    let metadata = fs::metadata(path).with_context(describe)?;
    if !metadata.is_dir() {
        return Ok(metadata.len());
    }
    let mut bytes = 0;
    for entry in fs::read_dir(path).with_context(describe)? {
        let metadata = entry.and_then(|entry| entry.metadata()).with_context(describe)?;
        bytes += if metadata.is_file() { metadata.len() } else { 0 };
    }
    Ok(bytes)
}

fn synthetic(args: &SpeedArgs) -> Result<Measured> {
    const NAME: &str = "qwen3-coder-next";
    let Quant { name: quant, recipe } = &args.quant;
    let model = |layers| Synthetic::new(NAME, synthetic::qwen3_coder_next(layers), *recipe);
    let path = match &args.write {
        None => synthetic::cached(NAME, args.layers, quant)?,
        Some(path) if path.is_dir() => path.join(synthetic::file_name(NAME, args.layers, quant)),
        Some(path) => path.clone(),
    };
    if args.write.is_some() || !path.exists() {
        write(&model(args.layers)?, &path)?;
    }
    let file_bytes = Some(size(&path)?);
    let subject = Subject {
        name: NAME.into(),
        path: Some(path.clone()),
        layers: args.layers,
        quant: Some(quant.clone()),
        file_bytes,
    };
    let whole = Whole {
        layers: synthetic::LAYERS,
        file_bytes: model(synthetic::LAYERS)?.bytes()?,
        shallow: args.layers / 2 / synthetic::GROUP * synthetic::GROUP,
    };
    Ok((Some(path), subject, Some(whole)))
}

fn write(model: &Synthetic, path: &Path) -> Result<()> {
    const SEED: u64 = 1;
    let shown = path.display();
    ensure!(!path.exists(), "{shown} exists already; remove it, or measure it with --model");
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(dir).with_context(|| format!("cannot make the folder {}", dir.display()))?;
    let bytes = model.bytes()?;
    let gigabytes = |bytes: u64| bytes as f64 / 1e9;
    let dir = dir.canonicalize().with_context(|| format!("cannot find {}", dir.display()))?;
    if let Some(free) = machine::free_space(&dir) {
        ensure!(
            bytes < free,
            "{shown} would take {:.1} GB, and {:.1} GB are free; choose another place with --write, or fewer --layers",
            gigabytes(bytes),
            gigabytes(free)
        );
    }
    tracing::info!("writing {shown}, {:.1} GB", gigabytes(bytes));
    let bar = ProgressBar::new(bytes).with_message(format!("writing {shown}")).with_style(
        ProgressStyle::with_template(
            "{msg}\n{wide_bar} {decimal_bytes} of {decimal_total_bytes}, {decimal_bytes_per_sec}, {eta}",
        )?,
    );
    model.write(path, SEED, &mut |bytes| bar.inc(bytes))?;
    bar.finish_and_clear();
    Ok(())
}

fn layers(text: &str) -> Result<usize, String> {
    let (group, most) = (synthetic::GROUP, synthetic::LAYERS);
    match text.parse() {
        Ok(layers) if (group..=most).contains(&layers) && layers.is_multiple_of(group) => Ok(layers),
        _ => Err(format!("must be a multiple of {group} up to {most}")),
    }
}

fn quant(name: &str) -> Result<Quant, String> {
    Ok(Quant { name: name.to_uppercase(), recipe: name.parse()? })
}
