//! `fimd bench`: benchmarks on this machine.

mod batch;
mod gpu;
mod schedule;
mod threads;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Subcommand;
use clap::builder::PossibleValuesParser;
use indicatif::{ProgressBar, ProgressStyle};

use super::args::{self, ComputeArgs, EngineArgs};
use super::quantize::Layout;
use crate::base::disk;
use crate::base::dtype::DType;
use crate::bench::experts::{self, Rates, Report};
use crate::bench::gpu::Gpu;
use crate::bench::keystrokes::client::Client;
use crate::bench::keystrokes::infill::{Address, Infill};
use crate::bench::keystrokes::session::Session;
use crate::bench::keystrokes::{self, Who, plot};
use crate::bench::plan::Sizes;
use crate::bench::report::Subject;
use crate::bench::routing::{self, Requests};
use crate::bench::speed::{self, Engine, Open, Whole, Workload};
use crate::bench::synthetic::{self, Published, Routing, Synthetic};
use crate::bench::{daemon, fidelity, kernels, machine, sizes, soak, warmups};
use crate::complete::PromptProfile;
use crate::complete::fim::Order;
use crate::hub;
use crate::model::experts::trace::{LayerHeader, Trace};
use crate::model::export::Recipe;
use crate::model::{Config, layout};
use crate::resident::Served;

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  fimd bench speed --model model.gguf
  fimd bench speed --synthetic qwen3-coder-next
  fimd bench keystrokes --model model.gguf --plot keys.svg
  fimd bench fidelity ~/src/project --show 3")]
pub(super) struct Args {
    #[command(subcommand)]
    benchmark: Benchmark,
}

#[derive(Subcommand)]
enum Benchmark {
    /// Measure the prefill and decode speed of a model
    Speed(SpeedArgs),
    /// Measure what a few tokens at once, such as drafts, cost beside one
    Batch(batch::BatchArgs),
    /// Measure the speed with more and more threads
    Threads(threads::ThreadsArgs),
    /// Measure the matmul of each weight type
    Kernels(KernelsArgs),
    /// Measure the GPU: its memory, its link, and its kernels with each weight type
    Gpu(gpu::GpuArgs),
    /// Measure the cost of a keystroke, by replaying typing sessions
    Keystrokes(KeystrokesArgs),
    /// Soak test with random edits: every request must be answered, and memory must not grow
    Soak(SoakArgs),
    /// Measure the overhead of the daemon, and its load with many editors
    Daemon(DaemonArgs),
    /// Measure what the rules of completion make of a correct answer, at places of your own source files
    Fidelity(FidelityArgs),
    /// Replay which experts tokens visited, with policies and sizes of memory for them
    Experts(ExpertsArgs),
    /// Predict the speed on machines with a GPU, by specifications
    Schedule(schedule::ScheduleArgs),
}

/// Measures the built-in starter model, the one that --model names, or a synthetic one.
///
/// A synthetic model has the exact shapes of a real one, fewer layers and random weights. It is measured at
/// two depths, and the time of the whole model is extrapolated linearly: an estimate of the speed of the real
/// model on this machine before you download it.
#[derive(clap::Args)]
struct SpeedArgs {
    /// Measure a model with the shapes of this one and random weights
    #[arg(long, value_name = "NAME", conflicts_with = "model", value_parser = published())]
    synthetic: Option<String>,

    /// Layers of the synthetic model: a multiple of 4, to keep the proportion of layer types
    #[arg(long, value_name = "N", default_value_t = 4, requires = "synthetic", value_parser = layers)]
    layers: usize,

    /// Its weight types: q4_k_m, mxfp4, or one type for every matrix
    #[arg(long, value_name = "MIX", default_value = "Q4_K_M", requires = "synthetic", value_parser = quant)]
    quant: Quant,

    /// How its experts are laid out, see `fimd quantize`
    #[arg(long, value_name = "LAYOUT", default_value = "stacked", requires = "synthetic")]
    layout: Layout,

    /// Write it to this GGUF file or folder instead of the cache folder
    #[arg(long, value_name = "FILE|DIR", requires = "synthetic")]
    write: Option<PathBuf>,

    /// Prompt lengths, in tokens
    #[arg(long, value_name = "TOKENS", value_delimiter = ',', default_value = "64,512", value_parser = clap::value_parser!(u32).range(1..))]
    prompt: Vec<u32>,

    /// Tokens to decode
    #[arg(long, value_name = "TOKENS", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..))]
    generate: u32,

    /// Repetitions of each measurement; medians are shown
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    runs: u16,

    /// How tokens choose experts: uniform, or as text does, with popular experts and topics
    #[arg(long, value_name = "uniform|text", default_value = "uniform")]
    routing: Routing,

    /// Run on the GPU with slots for N experts of each layer, in as much of its memory as that takes
    #[arg(long, value_name = "N", conflicts_with = "vram_budget")]
    slots: Option<usize>,

    /// Measure N more tokens of a known prompt, too, as a keystroke brings them, and the return to that prompt
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u16).range(0..=512))]
    more: u16,

    /// Print one JSON object
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    engine: EngineArgs,
}

/// One matrix stays in the CPU caches; several in turn show the memory-bound speed.
#[derive(clap::Args)]
struct KernelsArgs {
    /// Types of the matrix [default: all but f8_e4m3]
    #[arg(long, value_name = "TYPE", value_delimiter = ',')]
    types: Vec<DType>,

    /// Rows of the matrix
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    rows: u32,

    /// Columns of the matrix, a multiple of 256
    #[arg(long, value_name = "N", default_value_t = 2048, value_parser = clap::value_parser!(u32).range(256..=1 << 16))]
    cols: u32,

    /// Matrices used in turn
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    copies: u32,

    /// Batch sizes: rows of activations per matmul
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "1,2,4,8,16,64,512", value_parser = clap::value_parser!(u32).range(1..=4096))]
    inputs: Vec<u32>,

    /// Duration of each measurement, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 100)]
    time: u64,

    /// Print one JSON array
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    compute: ComputeArgs,
}

/// Replays typing sessions with the language server and reports the cost of every key: tokens evaluated, time to
/// the first token, to the response and to a line on screen, the share served without the model, and the share of
/// wasted computation.
///
/// Every change requests ghost text and cancels the request before, as in an editor. Each prompt order is measured
/// with a newly opened model.
#[derive(clap::Args)]
struct KeystrokesArgs {
    /// Sessions to replay: built-in ones by name (c, go, lua, python, rust, typescript), files, or folders of
    /// .json files [default: all built-in ones]
    #[arg(long, value_name = "NAME|FILE|DIR", value_delimiter = ',')]
    sessions: Vec<PathBuf>,

    /// Replay only the first N events of each session
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    events: Option<u32>,

    /// Prompt orders: psm, spm or psm-anchored [default: all; with --url none]
    #[arg(long, value_name = "ORDER", value_delimiter = ',')]
    order: Vec<Order>,

    /// Type what the model suggests, and accept some of it, instead of the text of the sessions
    #[arg(long)]
    oracle: bool,

    /// Factor for the pauses between keys; with 0 each key waits only for the response to the one before
    #[arg(long, value_name = "FACTOR", default_value = "1", value_parser = pace)]
    pace: f64,

    /// Replay with a llama.cpp server on this machine, such as http://127.0.0.1:8080
    #[arg(long, value_name = "URL", value_parser = Address::parse)]
    url: Option<Address>,

    /// Request to send it: /infill with all before the cursor as prefix (psm) or with the cursor's line separate
    /// (psm-anchored), or /completion with the suffix first (spm)
    #[arg(long, value_name = "ORDER", value_delimiter = ',', default_value = "psm", requires = "url")]
    url_order: Vec<Order>,

    /// Plot latency and tokens to an SVG file
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,

    /// Print one JSON object, with every keystroke
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    engine: EngineArgs,
}

#[derive(Clone)]
struct Quant {
    name: String,
    recipe: Recipe,
}

pub(super) fn run(args: &Args) -> Result<()> {
    match &args.benchmark {
        Benchmark::Speed(args) => run_speed(args),
        Benchmark::Batch(args) => batch::run(args),
        Benchmark::Threads(args) => threads::run(args),
        Benchmark::Kernels(args) => run_kernels(args),
        Benchmark::Gpu(args) => gpu::run(args),
        Benchmark::Keystrokes(args) => run_keystrokes(args),
        Benchmark::Soak(args) => run_soak(args),
        Benchmark::Daemon(args) => run_daemon(args),
        Benchmark::Fidelity(args) => run_fidelity(args),
        Benchmark::Experts(args) => run_experts(args),
        Benchmark::Schedule(args) => schedule::run(args),
    }
}

/// Shows for parts of the experts that are in memory which policy finds how many of the visited ones there, beside
/// Belady's optimum, which knows the future; and the speed that the rates of memory and disk then allow. Then what two ways gain
/// to bring experts to memory before tokens ask for them.
///
/// Any command that takes --trace records such a file: `fimd bench keystrokes --trace FILE` while it replays typing
/// sessions, `fimd daemon --trace FILE` while you work.
#[derive(clap::Args)]
struct ExpertsArgs {
    /// What --trace recorded
    #[arg(long, value_name = "FILE", required_unless_present = "routing")]
    trace: Option<PathBuf>,

    /// Instead of a trace, requests of an editor that are drawn: 512 experts of which a token visits 10 evenly, or as text does
    #[arg(long, value_name = "uniform|text", conflicts_with = "trace")]
    routing: Option<Routing>,

    /// Parts of the experts that are in memory, in percent
    #[arg(long, value_name = "PERCENT", value_delimiter = ',', default_value = "6.25,12.5,25,50", value_parser = percent)]
    memory: Vec<f64>,

    /// Memory bandwidth in GB/s [default: measured]
    #[arg(long, value_name = "GB/S", value_parser = rate)]
    memory_rate: Option<f64>,

    /// What the disk reads in a second, in GB [default: measured where this program is]
    #[arg(long, value_name = "GB/S", value_parser = rate)]
    disk_rate: Option<f64>,

    /// Plot the hit rates to an SVG file
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,

    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

fn run_experts(args: &ExpertsArgs) -> Result<()> {
    let (trace, ids) = match (&args.trace, args.routing) {
        (Some(path), _) => (Trace::read(path)?, None),
        (None, routing) => {
            let Requests { trace, ids } =
                routing::requests(routing.unwrap_or_default(), DRAWN_LAYER, DRAWN_LAYERS, DRAWN_REQUESTS);
            (trace, Some(ids))
        }
    };
    let memory = || machine::bandwidth_at_a_glance(args::threads(None)) / 1e9;
    let disk = match args.disk_rate {
        Some(rate) => rate,
        None => sizes::disk(None)?.bytes_per_s / 1e9,
    };
    let rates = Rates { memory: 1e9 * args.memory_rate.unwrap_or_else(memory), disk: 1e9 * disk };
    let shares: Vec<f64> = args.memory.iter().map(|percent| percent / 100.0).collect();
    let report = Report {
        warm_ups: warmups::judge(&trace, ids.as_deref(), &shares),
        ..experts::replay(&trace, &shares, rates)
    };
    if let Some(path) = &args.plot {
        fs::write(path, report.svg()).with_context(|| format!("cannot write {}", path.display()))?;
    }
    if args.json { args::print_json(&report) } else { args::print(&report.to_string()) }
}

/// The layers of a model that is drawn, of the size of those of Qwen3-Coder-Next in 4 bits, and how many requests it is asked.
const DRAWN_LAYER: LayerHeader = LayerHeader { experts: 512, top_k: 10, record_bytes: 1_900_000 };
const DRAWN_LAYERS: usize = 3;
const DRAWN_REQUESTS: usize = 240;

/// The folder of a file.
fn parent(path: &Path) -> &Path {
    path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn percent(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(percent) if percent > 0.0 && percent <= 100.0 => Ok(percent),
        _ => Err("must be a number above 0, up to 100".into()),
    }
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(rate) if (1e-3..=1e5).contains(&rate) => Ok(rate),
        _ => Err("must be a number from 0.001 to 100000".into()),
    }
}

/// Starts this program as editors do, with a separate daemon and the starter model, and measures the latency that the
/// daemon adds, the start-up time of an editor, memory, and throughput with many editors that type, cancel requests
/// and crash.
#[derive(clap::Args)]
struct DaemonArgs {
    /// Responses to measure, with and without the daemon
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    answers: u32,

    /// Size of the open document, in KiB
    #[arg(long, value_name = "KIB", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=4096))]
    document: u32,

    /// Concurrent editors
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    clients: u32,

    /// Edits per second, of all editors together
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..))]
    rate: u32,

    /// Duration of the load test
    #[arg(long, value_name = "SECONDS", default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,

    /// Instead of all that, send this many requests as fast as they are answered, and fail if one is answered late
    #[arg(long, value_name = "N", conflicts_with_all = ["answers", "document", "rate", "seconds"], value_parser = clap::value_parser!(u32).range(1..))]
    requests: Option<u32>,

    /// Random seed of the edits
    #[arg(long, value_name = "S", default_value_t = 0)]
    seed: u64,

    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

fn run_daemon(args: &DaemonArgs) -> Result<()> {
    let (status, say) = spinner();
    let dir = tempfile::tempdir().context("cannot create a folder for the daemon")?;
    let options = daemon::Options {
        program: std::env::current_exe().context("cannot find the program fimd")?,
        runtime: dir.path().join("run"),
        answers: args.answers as usize,
        document_bytes: (args.document as usize) << 10,
        clients: args.clients as usize,
        edits_per_second: args.rate.into(),
        time: Duration::from_secs(args.seconds.into()),
        seed: args.seed,
    };
    if let Some(requests) = args.requests {
        let report = soak::run(&options, requests as usize, &say)?;
        status.finish_and_clear();
        if args.json {
            args::print_json(&report)?
        } else {
            args::print(&report.to_string())?
        }
        ensure!(report.is_passed(), "a response was late or missing");
        return Ok(());
    }
    let report = daemon::run(&options, &say)?;
    status.finish_and_clear();
    if args.json { args::print_json(&report) } else { args::print(&report.to_string()) }
}

/// Edits the documents of the built-in typing sessions at random, requests a completion after each edit, cancels
/// most requests, and accepts some suggestions: at the maximum rate of the server.
#[derive(clap::Args)]
struct SoakArgs {
    /// Edits, each with a request
    #[arg(long, value_name = "N", default_value_t = 50_000, value_parser = clap::value_parser!(u32).range(1..))]
    edits: u32,

    /// Random seed of the edits
    #[arg(long, value_name = "S", default_value_t = 0)]
    seed: u64,

    /// Print one JSON object
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    engine: EngineArgs,
}

fn run_soak(args: &SoakArgs) -> Result<()> {
    let (status, say) = spinner();
    let served = args.engine.open()?.into_served()?;
    let mut client = Client::start(in_order(served, Order::PsmAnchored))?;
    let sessions = Session::embedded()?;
    let report = keystrokes::soak::run(&mut client, &sessions, args.edits as usize, args.seed, &say)?;
    client.finish()?;
    status.finish_and_clear();
    if args.json { args::print_json(&report) } else { args::print(&report.to_string()) }
}

/// Plays a model that knows the file: at places of the source files in a folder, some text is cut out behind the cursor,
/// and what the model says there passes the rules of a real completion, as an automatic and as an invoked one. What
/// would be shown is compared with the file. No model is loaded.
///
/// The model says the truth; continues into the suffix; repeats the delimiters that an editor has closed; writes other
/// line ends and whitespace; is cut by the token budget; is asked again after every accept; or repeats the suffix where
/// nothing is missing. An answer is exact, a correct beginning, nothing, or wrong: then the document is not what the
/// author wrote.
#[derive(clap::Args)]
struct FidelityArgs {
    /// The folder; files that git ignores are left out
    #[arg(value_name = "DIR")]
    folder: PathBuf,

    /// Most files of each language
    #[arg(long, value_name = "N", default_value_t = 40, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,

    /// Only these languages, such as rust or c++ [default: all]
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    languages: Vec<String>,

    /// Random seed of the files and places
    #[arg(long, value_name = "S", default_value_t = 0)]
    seed: u64,

    /// Print N examples of each kind of fault
    #[arg(long, value_name = "N", default_value_t = 0)]
    show: usize,

    /// Print one JSON object, with every faulty answer
    #[arg(long)]
    json: bool,
}

fn run_fidelity(args: &FidelityArgs) -> Result<()> {
    ensure!(args.folder.is_dir(), "{} is not a folder", args.folder.display());
    let (status, say) = spinner();
    let options = fidelity::Options {
        folder: args.folder.clone(),
        files_max: args.limit as usize,
        languages: args.languages.clone(),
        seed: args.seed,
        examples: args.show,
    };
    let report = fidelity::run(&options, &say)?;
    status.finish_and_clear();
    if args.json { args::print_json(&report) } else { args::print(&report.to_string()) }
}

/// A progress line, and a function that updates it.
fn spinner() -> (ProgressBar, impl Fn(String)) {
    let status = ProgressBar::new_spinner();
    let said = status.clone();
    let say = move |text| {
        said.set_message(text);
        said.tick();
    };
    (status, say)
}

fn run_keystrokes(args: &KeystrokesArgs) -> Result<()> {
    let sessions = args.sessions()?;
    let (status, say) = spinner();
    let who = if args.oracle { Who::Oracle } else { Who::Script };
    let mut runs = Vec::new();
    for order in args.orders() {
        let opened = args.engine.open()?;
        let name = opened.info.name.clone();
        let mut client = Client::start(in_order(opened.into_served()?, order))?;
        let mut run = keystrokes::run(&mut client, "fimd", order, &sessions, who, args.pace, &say)?;
        client.finish()?;
        (run.model, run.threads) = (Some(name), Some(args.engine.compute.threads()));
        runs.push(run);
    }
    if let Some(address) = &args.url {
        for &order in &args.url_order {
            let mut peer = Infill::new(address.clone(), order);
            runs.push(keystrokes::run(&mut peer, "llama.cpp", order, &sessions, who, args.pace, &say)?);
        }
    }
    status.finish_and_clear();
    if let Some(path) = &args.plot {
        fs::write(path, plot::svg(&runs)).with_context(|| format!("cannot write {}", path.display()))?;
    }
    let report = keystrokes::report::Report {
        version: env!("CARGO_PKG_VERSION"),
        machine: machine::Machine::read(),
        typist: if args.oracle { "the oracle" } else { "the script" },
        pace: args.pace,
        sessions: sessions.into_iter().map(|session| session.name).collect(),
        runs,
    };
    if args.json { args::print_json(&report) } else { args::print(&report.to_string()) }
}

impl KeystrokesArgs {
    fn orders(&self) -> Vec<Order> {
        match self.url {
            None if self.order.is_empty() => vec![Order::PsmAnchored, Order::Spm, Order::Psm],
            _ => self.order.clone(),
        }
    }

    fn sessions(&self) -> Result<Vec<Session>> {
        let mut sessions = if self.sessions.is_empty() { Session::embedded()? } else { Vec::new() };
        for path in &self.sessions {
            if path.is_dir() {
                let describe = || format!("cannot read {}", path.display());
                let entries: Result<Vec<_>, _> = fs::read_dir(path).with_context(describe)?.collect();
                let mut files: Vec<PathBuf> =
                    entries.with_context(describe)?.into_iter().map(|entry| entry.path()).collect();
                files.retain(|file| file.extension().is_some_and(|extension| extension == "json"));
                files.sort();
                ensure!(!files.is_empty(), "there are no .json files in {}", path.display());
                for file in files {
                    sessions.push(Session::parse(&file.display().to_string(), &args::read_text(&file)?)?);
                }
            } else if let Some(name) = path.to_str().filter(|_| !path.exists())
                && let Some(session) = Session::embedded()?.into_iter().find(|session| session.name == name)
            {
                sessions.push(session);
            } else {
                sessions.push(Session::parse(&path.display().to_string(), &args::read_text(path)?)?);
            }
        }
        if let Some(events) = self.events {
            sessions.iter_mut().for_each(|session| session.truncate(events as usize));
        }
        Ok(sessions)
    }
}

fn run_kernels(args: &KernelsArgs) -> Result<()> {
    ensure!(args.cols.is_multiple_of(256), "--cols {} is not a multiple of 256", args.cols);
    // FP8 has its scales in a separate tensor.
    let is_supported = |dtype: &DType| *dtype != DType::F8E4M3;
    ensure!(args.types.iter().all(is_supported), "unsupported type F8_E4M3");
    let workload = kernels::Workload {
        types: if args.types.is_empty() {
            DType::ALL.into_iter().filter(is_supported).collect()
        } else {
            args.types.clone()
        },
        rows: args.rows as usize,
        cols: args.cols as usize,
        copies: args.copies as usize,
        inputs: args.inputs.iter().map(|&inputs| inputs as usize).collect(),
        time: Duration::from_millis(args.time),
    };
    let options = args.compute.spec().cpu();
    let speeds = kernels::run(&workload, options)?;
    if args.json {
        return args::print_json(&speeds);
    }
    let mut text = format!(
        "[{}, {}], {} matrices, {} threads, {}\n\n| type | batch | us | GMAC/s | GB/s |\n|---|---:|---:|---:|---:|\n",
        args.rows, args.cols, args.copies, options.threads, options.level
    );
    for speed in speeds {
        text += &format!("{speed}\n");
    }
    args::print(&text)
}

fn run_speed(args: &SpeedArgs) -> Result<()> {
    let (model, subject, whole) = match args.synthetic.as_deref().and_then(Published::of_name) {
        Some(model) => synthetic(args, &model)?,
        None => existing(&args.engine)?,
    };
    let workload = Workload {
        prompts: args.prompt.iter().map(|&tokens| tokens as usize).collect(),
        generate: args.generate as usize,
        runs: args.runs.into(),
        routing: args.routing,
        more: args.more.into(),
    };
    let (status, say) = spinner();
    let open = |layers| match args.slots {
        Some(slots) => args.engine.open_layers_in_slots(model.as_deref(), layers, slots),
        None => args.engine.open_layers(model.as_deref(), layers),
    };
    let of_model = |path: Option<&Path>| {
        let dir = hub::open(path)?;
        sizes::of_files(&dir, &Config::read(&dir)?)
    };
    let plan = || {
        let dir = hub::open(model.as_deref())?;
        let config = Config::read(&dir)?;
        let (sizes, dtype) = sizes::of_files(&dir, &config)?;
        let copy = args.engine.cold.as_deref().map(|path| layout::cold_copy(path, &dir, &config));
        let (cold_bytes, cold) = copy.transpose()?.unzip();
        let sizes = Sizes { cold_bytes: cold_bytes.unwrap_or_default(), ..sizes };
        Ok((sizes, sizes::rates(args.engine.compute.spec().cpu(), dtype, cold, model.as_deref())?))
    };
    let threads = args.engine.compute.threads();
    let gpu = match args.slots.is_some() || args.engine.vram_budget.is_some_and(|mib| mib > 0) {
        true => Some((Gpu::measure(threads)?, of_model(model.as_deref())?.0)),
        false => None,
    };
    let kernels = gpu.as_ref().map_or_else(|| args.engine.compute.kernels(), |(gpu, _)| gpu.name.clone());
    let engine = Engine { threads, kernels, gpu };
    let exact = || args.engine.open_exact(model.as_deref());
    let open = Open { model: open, exact };
    let report = speed::run(subject, &workload, whole, engine, open, plan, &say)?;
    status.finish_and_clear();
    if args.json { args::print_json(&report) } else { args::print(&report.to_string()) }
}

/// The path of the model (none for the starter), its description, and the whole model of which it is a part.
type Measured = (Option<PathBuf>, Subject, Option<Whole>);

fn existing(engine: &EngineArgs) -> Result<Measured> {
    let path = engine.model.clone();
    let (origin, config) = engine.describe()?;
    let file_bytes = path.as_deref().map(size).transpose()?;
    let (layers, quant) = (config.layers.len(), None);
    let subject = Subject { name: origin, path: path.clone(), layers, quant, file_bytes };
    Ok((path, subject, None))
}

/// Size of a file, or of all files of a folder, in bytes.
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

fn synthetic(args: &SpeedArgs, published: &Published) -> Result<Measured> {
    let (name, all_layers) = (published.name, published.layers);
    ensure!(args.layers <= all_layers, "{name} has {all_layers} layers; --layers {} is more", args.layers);
    let Quant { name: quant, recipe } = &args.quant;
    let mut kind = quant.clone();
    kind += if args.layout == Layout::Experts { "-in-pieces" } else { "" };
    kind += if args.routing == Routing::Text { "-text" } else { "" };
    let model =
        |layers| Synthetic::new(name, published.config(layers), *recipe, args.layout.into(), args.routing);
    let path = match &args.write {
        None => synthetic::cached(name, args.layers, &kind)?,
        Some(path) if path.is_dir() => path.join(synthetic::file_name(name, args.layers, &kind)),
        Some(path) => path.clone(),
    };
    if args.write.is_some() || !path.exists() {
        write(&model(args.layers)?, &path)?;
    }
    let file_bytes = Some(size(&path)?);
    let subject = Subject {
        name: name.into(),
        path: Some(path.clone()),
        layers: args.layers,
        quant: Some(quant.clone()),
        file_bytes,
    };
    let whole = Whole {
        layers: all_layers,
        file_bytes: model(all_layers)?.bytes()?,
        shallow: args.layers / 2 / synthetic::GROUP * synthetic::GROUP,
    };
    Ok((Some(path), subject, Some(whole)))
}

fn write(model: &Synthetic, path: &Path) -> Result<()> {
    const SEED: u64 = 1;
    let shown = path.display();
    ensure!(!path.exists(), "{shown} exists; remove it, or measure it with --model");
    let dir = parent(path);
    fs::create_dir_all(dir).with_context(|| format!("cannot create the folder {}", dir.display()))?;
    let bytes = model.bytes()?;
    let gigabytes = |bytes: u64| bytes as f64 / 1e9;
    let dir = dir.canonicalize().with_context(|| format!("cannot find {}", dir.display()))?;
    if let Some(free) = disk::free_space(&dir) {
        ensure!(
            bytes < free,
            "{shown} takes {:.1} GB, and only {:.1} GB are free; choose another folder with --write, or fewer --layers",
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

fn pace(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(pace) if (0.0..=1000.0).contains(&pace) => Ok(pace),
        _ => Err("must be a number from 0 to 1000".into()),
    }
}

/// The model with this prompt order.
fn in_order(served: Served, order: Order) -> Served {
    Served { profile: PromptProfile { order, ..served.profile }, ..served }
}

fn published() -> PossibleValuesParser {
    synthetic::MODELS.map(|model| model.name).into()
}

fn layers(text: &str) -> Result<usize, String> {
    let group = synthetic::GROUP;
    let most = synthetic::MODELS.iter().map(|model| model.layers).max().unwrap_or(group);
    match text.parse() {
        Ok(layers) if (group..=most).contains(&layers) && layers.is_multiple_of(group) => Ok(layers),
        _ => Err(format!("must be a multiple of {group} up to {most}")),
    }
}

fn quant(name: &str) -> Result<Quant, String> {
    Ok(Quant { name: name.to_uppercase(), recipe: name.parse()? })
}
