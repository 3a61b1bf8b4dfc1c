//! `fimd status`: the status of the daemon.

mod dashboard;

use std::io::{IsTerminal, stdout};
use std::thread;
use std::time::Duration;

use anstyle::Style;
use anyhow::{Result, bail};
use console::{Term, truncate_str};
use indicatif::{HumanBytes, HumanDuration};
use serde_json::json;

use self::dashboard::dashboard;
use super::args;
use super::message::{ERROR, GOOD, LABEL, WARNING};
use crate::daemon::{Client, RuntimeDir, Status};

/// Between two polls with `--watch`.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  fimd status
  fimd status --watch
  fimd status --json")]
pub(super) struct Args {
    /// Show the model, its memory and speed, latencies and acceptance, renewed every second, until interrupted
    #[arg(long)]
    watch: bool,

    /// Print one JSON object, with --watch one per second
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> Result<()> {
    let runtime_dir = RuntimeDir::find()?;
    let mut lines = 0;
    loop {
        let status = Client::connect(&runtime_dir)?.map(Client::status).transpose()?;
        match (&status, args.json, args.watch) {
            (Some(status), true, _) => args::print_json(status)?,
            (None, true, _) => args::print_json(&json!({"state": "stopped"}))?,
            (Some(status), false, false) => args::print(&describe(status))?,
            (None, false, false) => {}
            (status, false, true) => lines = draw(status.as_ref(), lines)?,
        }
        if !args.watch {
            return if status.is_some() { Ok(()) } else { bail!(args::NO_DAEMON) };
        }
        thread::sleep(POLL_INTERVAL);
    }
}

/// Prints the dashboard, in the place of the `lines` that it had before, and returns how many it has. On a terminal no
/// line wraps, and the cursor stands below: an interrupt leaves nothing to clean up.
fn draw(status: Option<&Status>, lines: usize) -> Result<usize> {
    let text = status.map_or_else(|| "no daemon runs\n".to_owned(), dashboard);
    if !stdout().is_terminal() {
        args::print(&(text + "\n"))?;
        return Ok(0);
    }
    let terminal = Term::stdout();
    let (rows, columns) = terminal.size();
    let shown: Vec<_> = text
        .lines()
        .take(usize::from(rows).saturating_sub(1))
        .map(|line| truncate_str(line, columns.into(), "…"))
        .collect();
    terminal.clear_last_lines(lines)?;
    args::print(&shown.iter().map(|line| format!("{line}\n")).collect::<String>())?;
    Ok(shown.len())
}

/// What the daemon does, and the colour of that.
fn state(status: &Status) -> (String, Style) {
    match (&status.loading, status.paused_s) {
        (Some((name, percentage)), _) => (format!("loading {name}: {percentage} %"), WARNING),
        (None, Some(seconds)) => {
            (format!("paused for {}", HumanDuration(Duration::from_secs(seconds))), WARNING)
        }
        (None, None) if status.is_paused => ("paused until `fimd resume`".into(), WARNING),
        (None, None) if status.engine.is_resting => {
            (format!("{}; the memory of the GPU is given back until the next request", status.state), GOOD)
        }
        (None, None) => (status.state.clone(), if status.state == "ready" { GOOD } else { ERROR }),
    }
}

/// What to correct, each with its label.
fn complaints(status: &Status) -> String {
    let failure = status.failure.iter().map(|failure| ("", format!("last load failed: {failure}")));
    let problems = status.problems.iter().map(|problem| ("settings", problem.clone()));
    let shown = failure.chain(problems);
    shown.map(|(name, text)| line(name, &format!("{WARNING}{text}{WARNING:#}"))).collect()
}

fn line(name: &str, text: &str) -> String {
    format!("{LABEL}{name:<12}{LABEL:#}{text}\n")
}

/// Where the experts of a model come from that memory does not hold: the GPU's, then that of the host.
fn experts(status: &Status) -> Option<String> {
    let usage = &status.engine.usage;
    let on_device = usage.device_experts.map(|usage| {
        let hits = percent(usage.hit_rate());
        format!("{} of each layer on the GPU, {hits} of the visits hit", usage.slots)
    });
    let in_memory = usage.experts.map(|usage| {
        let (hits, read) = (percent(usage.hit_rate()), HumanBytes(usage.bytes_per_token() as u64));
        let slots = usage.slots;
        if usage.cold > 0 {
            let cold = percent(usage.cold as f64 / (usage.visits as f64).max(1.0));
            return format!(
                "{slots} of each layer in memory, {hits} of the visits hit, {cold} the smaller copy"
            );
        }
        format!("{slots} of each layer in memory, {hits} of the visits hit; a token waits for {read}")
    });
    let parts: Vec<String> = on_device.into_iter().chain(in_memory).collect();
    (!parts.is_empty()).then(|| parts.join("; "))
}

fn describe(status: &Status) -> String {
    let mut text = String::new();
    let mut row = |name: &str, value: String| text.push_str(&line(name, &value));
    let (state, style) = state(status);
    row("state", format!("{style}{state}{style:#}"));
    for (name, value) in model(status) {
        row(name, value);
    }
    let (usage, budget) = (&status.engine.usage, status.cache_bytes_max);
    if let Some(seconds) = status.back_off_s {
        row("server", format!("busy; it is asked again in {seconds} s"));
    }
    row("memory", HumanBytes(status.memory_bytes).to_string());
    row(
        "cache",
        format!(
            "{} of {}: {} recurrent states, {} KV cache",
            HumanBytes(usage.kv_bytes + usage.state_bytes),
            HumanBytes(budget),
            HumanBytes(usage.state_bytes),
            HumanBytes(usage.kv_bytes)
        ),
    );
    if let Some(experts) = experts(status) {
        row("experts", experts);
    }
    if let Some(speed) = speed(status) {
        row("speed", speed);
    }
    let (statistics, counters) = (&status.statistics, &status.statistics.counters);
    row(
        "requests",
        format!(
            "{}, {} cancelled, {} shown, {} of these without the model",
            counters.requests,
            counters.cancelled,
            counters.offered,
            percent(statistics.without_model)
        ),
    );
    row("accepted", format!("{} ({})", counters.accepted, percent(statistics.acceptance)));
    row("latency", latency(status));
    let tokens = counters.tokens_reused + counters.tokens_evaluated;
    let reused = if tokens == 0 { 0.0 } else { counters.tokens_reused as f64 / tokens as f64 };
    row("cache hits", format!("{} of {tokens} prompt tokens", percent(reused)));
    for (at, connected) in status.editors.iter().enumerate() {
        let editor = &connected.editor;
        let version = editor.version.as_ref().map_or(String::new(), |version| format!(" {version}"));
        let folder = editor.folder.as_ref().map_or(String::new(), |folder| format!(" in {folder}"));
        row(if at == 0 { "editors" } else { "" }, format!("{}{version}{folder}", editor.name));
    }
    row(
        "daemon",
        format!(
            "fimd {}, process {}, up {}",
            status.program.version,
            status.pid,
            HumanDuration(Duration::from_secs(status.uptime_s))
        ),
    );
    row("log", status.log_file.as_ref().unwrap_or(&status.log).display().to_string());
    text + &complaints(status)
}

fn model(status: &Status) -> Vec<(&'static str, String)> {
    let Some(model) = &status.model else { return Vec::new() };
    let fallback = if status.is_fallback { " (fallback until the other is loaded)" } else { "" };
    let (bytes, context) = (HumanBytes(model.weight_bytes), model.context);
    let about = format!(
        "{} layers, {bytes}, context {context}, {} threads, {}",
        model.layers, model.threads, model.kernels
    );
    vec![("model", format!("{}{fallback}", model.name)), ("", about)]
}

/// The speed of the model, as far as it has run.
fn speed(status: &Status) -> Option<String> {
    let named = |name: &str, speed: Option<f64>| Some(format!("{name} {:.0} tokens/s", speed?));
    let engine = &status.engine;
    let known = [named("prefill", engine.prefill_per_second), named("decode", engine.decode_per_second)];
    let known: Vec<String> = known.into_iter().flatten().collect();
    (!known.is_empty()).then(|| known.join(", "))
}

fn latency(status: &Status) -> String {
    let ms = &status.statistics.answer_ms;
    format!("p50 {:.1} ms, p95 {:.1} ms, p99 {:.1} ms", ms.p50, ms.p95, ms.p99)
}

/// A share in per cent.
fn percent(share: f64) -> String {
    format!("{:.0} %", share * 100.0)
}
