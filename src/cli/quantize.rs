//! `fimd quantize`: a checkpoint as one GGUF file.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use super::args;
use crate::base::dtype::DType;
use crate::format::ModelDir;
use crate::format::imatrix::Importance;
use crate::hub::quantize::{Deviation, Outcome, Plan};
use crate::model::export::{ExpertLayout, Recipe, exportable};

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  fimd quantize Qwen3-Coder-Next-FP8 coder.gguf
  fimd quantize Qwen3-Coder-Next-FP8 coder.gguf --mix q8_0 --experts mxfp4
  fimd quantize coder-bf16.gguf coder.gguf --mix iq3_m --imatrix coder.imatrix
  fimd quantize coder-q8_0.gguf coder.gguf --report report.txt
  fimd quantize coder.gguf coder-experts.gguf --layout experts
  fimd quantize coder.gguf coder-cold.gguf --cold q2_k --imatrix coder.imatrix")]
pub(super) struct Args {
    /// Checkpoint folder, .safetensors or .gguf file
    #[arg(value_name = "IN")]
    input: PathBuf,

    /// Output file, written atomically
    #[arg(value_name = "OUT.gguf")]
    output: PathBuf,

    /// Base types: q4_k_m (q4_k, and q6_k for the head and sensitive tensors), q3_k_m, iq3_m, q2_k or iq2_m (fewer
    /// bits, likewise), mxfp4 (experts mxfp4, the rest q8_0), or one type for all
    #[arg(long, value_name = "MIX", default_value = "q4_k_m")]
    mix: Recipe,

    /// Type of the routed experts: most of a large model
    #[arg(long, value_name = "TYPE", value_parser = exportable)]
    experts: Option<DType>,

    /// Type of attention, DeltaNet and shared experts: the trunk, read for every token
    #[arg(long, value_name = "TYPE", value_parser = exportable)]
    trunk: Option<DType>,

    /// Type of the embedding, unless it is tied to the head
    #[arg(long, value_name = "TYPE", value_parser = exportable)]
    embedding: Option<DType>,

    /// Type of the head
    #[arg(long, value_name = "TYPE", value_parser = exportable)]
    head: Option<DType>,

    /// Write a smaller copy of the routed experts alone, in this type, for `--cold` of the commands that run the model
    #[arg(
        long, value_name = "TYPE", value_parser = exportable,
        conflicts_with_all = ["mix", "experts", "trunk", "embedding", "head"]
    )]
    cold: Option<DType>,

    /// Importance matrix of the model, as `fimd imatrix` or llama.cpp writes it: errors are smaller in the columns
    /// that matter
    #[arg(long, value_name = "FILE")]
    imatrix: Option<PathBuf>,

    /// How routed experts are laid out: stacked, as other programs read them, or each expert in one piece, which is read at
    /// once from disk where memory does not hold all
    #[arg(long, value_name = "LAYOUT", default_value = "stacked")]
    layout: Layout,

    /// Write a report on each tensor: a table, or JSON lines if the name ends in .json or .jsonl; - for stdout
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,

    /// Encoder threads [default: all cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,

    /// Replace OUT if it exists
    #[arg(long)]
    force: bool,
}

/// How routed experts lie in a file.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Layout {
    Stacked,
    Experts,
}

impl From<Layout> for ExpertLayout {
    fn from(layout: Layout) -> Self {
        match layout {
            Layout::Stacked => ExpertLayout::Stacked,
            Layout::Experts => ExpertLayout::Pieces,
        }
    }
}

pub(super) fn run(args: &Args) -> Result<()> {
    let output = args.output.display();
    let is_gguf = args.output.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"));
    ensure!(is_gguf, "the output {output} must end in .gguf");
    ensure!(args.force || !args.output.exists(), "{output} exists; --force replaces it");
    let dir = ModelDir::open(&args.input)?;
    let plan = Plan::new(&dir, &args.recipe(), &name_of(&args.input))?;
    let plan = match &args.imatrix {
        Some(file) => plan.weighted(&Importance::read(file)?, file)?,
        None => plan,
    };
    let plan = if args.cold.is_some() { plan.experts_alone()? } else { plan };
    let plan = if args.layout == Layout::Experts { plan.by_expert()? } else { plan };
    let mut report = args.report.as_deref().map(Report::create).transpose()?;

    let started = Instant::now();
    let progress = progress_bar(plan.bytes());
    let size = size(plan.bytes(), plan.elements());
    progress.println(format!("{output} will hold {size}"));
    let outcomes = plan.write(&args.output, args.threads(), |bytes| progress.inc(bytes))?;
    progress.finish_and_clear();
    if let Some(report) = &mut report {
        report.write(&outcomes)?;
    }
    if report.is_some_and(|report| report.file.is_none()) {
        return Ok(());
    }
    let (seconds, summary) = (started.elapsed().as_secs_f64(), summary(&outcomes));
    args::print(&format!("{output} holds {size}; {summary}; took {seconds:.1} s\n"))
}

impl Args {
    fn recipe(&self) -> Recipe {
        let mut recipe = self.mix;
        if let Some(dtype) = self.experts.or(self.cold) {
            (recipe.experts, recipe.experts_raised) = (dtype, dtype);
        }
        if let Some(dtype) = self.trunk {
            (recipe.trunk, recipe.trunk_raised) = (dtype, dtype);
        }
        recipe.embedding = self.embedding.unwrap_or(recipe.embedding);
        recipe.head = self.head.unwrap_or(recipe.head);
        recipe
    }

    fn threads(&self) -> usize {
        self.threads.map_or_else(|| thread::available_parallelism().map_or(1, usize::from), usize::from)
    }
}

/// Name of the model: its folder or file.
fn name_of(input: &Path) -> String {
    let absolute = input.canonicalize().unwrap_or_else(|_| input.to_owned());
    let name = if absolute.is_dir() { absolute.file_name() } else { absolute.file_stem() };
    name.map_or_else(|| "model".into(), |name| name.to_string_lossy().into_owned())
}

/// On stderr, and only if that is a terminal.
fn progress_bar(bytes: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:40} {bytes}/{total_bytes} {bytes_per_sec}, {eta} left")
        .expect("the template is well formed");
    ProgressBar::new(bytes).with_style(style)
}

fn size(bytes: u64, elements: u64) -> String {
    let bits = 8.0 * bytes as f64 / elements.max(1) as f64;
    format!("{} of tensors, {bits:.2} bits per weight", indicatif::BinaryBytes(bytes))
}

fn summary(outcomes: &[Outcome]) -> String {
    let total = total(outcomes);
    let moved = outcomes.iter().filter(|outcome| outcome.to.instead_of.is_some()).count();
    let mut text = format!("the error is {:.3} % of the weights", 100.0 * total.relative());
    if moved > 0 {
        let _ = write!(
            text,
            "; {moved} tensors have another type than requested: their rows are not a multiple of its block size"
        );
    }
    text
}

fn total(outcomes: &[Outcome]) -> Deviation {
    outcomes.iter().fold(Deviation::default(), |mut total, outcome| {
        total.add(&outcome.deviation);
        total
    })
}

/// The output of the report, opened before the work begins.
struct Report {
    path: PathBuf,
    /// None for stdout.
    file: Option<File>,
}

impl Report {
    fn create(path: &Path) -> Result<Self> {
        let create = || File::create(path).with_context(|| format!("cannot write {}", path.display()));
        let file = if path == Path::new("-") { None } else { Some(create()?) };
        Ok(Self { path: path.to_owned(), file })
    }

    fn write(&mut self, outcomes: &[Outcome]) -> Result<()> {
        let is_json =
            self.path.extension().is_some_and(|extension| extension == "json" || extension == "jsonl");
        let text = if is_json { json_lines(outcomes) } else { table(outcomes) };
        match &mut self.file {
            Some(file) => file
                .write_all(text.as_bytes())
                .with_context(|| format!("cannot write {}", self.path.display())),
            None => args::print(&text),
        }
    }
}

fn json_lines(outcomes: &[Outcome]) -> String {
    let line = |outcome: &Outcome| {
        json!({
            "name": outcome.name,
            "shape": outcome.shape,
            "from": outcome.from.to_string(),
            "to": outcome.to.dtype.to_string(),
            "asked": outcome.to.instead_of.map(|dtype| dtype.to_string()),
            "bits_per_weight": outcome.to.dtype.bits(),
            "relative_rms_error": outcome.deviation.relative(),
            "max_error": outcome.deviation.max,
        })
    };
    let total = total(outcomes);
    let last = json!({
        "total": {
            "elements": total.count,
            "bits_per_weight": bits(outcomes),
            "relative_rms_error": total.relative(),
            "max_error": total.max,
        }
    });
    outcomes.iter().map(line).chain([last]).map(|line: Value| format!("{line}\n")).collect()
}

fn table(outcomes: &[Outcome]) -> String {
    let name_width = outcomes.iter().map(|outcome| outcome.name.len()).max().unwrap_or(0).max(6);
    let mut text = format!(
        "{:name_width$}  {:>18}  {:>7} -> {:7}  {:>6}  {:>11}  {:>9}\n",
        "tensor", "shape", "from", "to", "bits", "rms error %", "max error"
    );
    let mut line = |name: &str,
                    shape: &str,
                    from: &str,
                    to: &str,
                    bits: f64,
                    deviation: &Deviation,
                    note: &str| {
        let (relative, max) = (100.0 * deviation.relative(), deviation.max);
        let _ = writeln!(
            text,
            "{name:name_width$}  {shape:>18}  {from:>7} -> {to:7}  {bits:6.3}  {relative:11.4}  {max:9.2e}{note}"
        );
    };
    for outcome in outcomes {
        let shape: Vec<String> = outcome.shape.iter().map(ToString::to_string).collect();
        let note = outcome.to.instead_of.map(|asked| format!("  instead of {asked}")).unwrap_or_default();
        let (from, to) = (outcome.from.to_string(), outcome.to.dtype);
        line(&outcome.name, &shape.join(" x "), &from, &to.to_string(), to.bits(), &outcome.deviation, &note);
    }
    line("total", "", "", "", bits(outcomes), &total(outcomes), "");
    text
}

/// Mean bits of an element.
fn bits(outcomes: &[Outcome]) -> f64 {
    let bits: f64 =
        outcomes.iter().map(|outcome| outcome.to.dtype.bits() * outcome.deviation.count as f64).sum();
    bits / total(outcomes).count.max(1) as f64
}
