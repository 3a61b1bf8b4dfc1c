//! `fimd status`: the status of the daemon.

use std::fmt::Write;
use std::io::{IsTerminal, stdout};
use std::thread;
use std::time::Duration;

use anyhow::{Result, bail};
use indicatif::{HumanBytes, HumanDuration};
use serde_json::json;

use super::args;
use crate::daemon::{Client, RuntimeDir, Status};

/// Between two polls with `--watch`.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// Clears a terminal and moves its cursor to the upper left corner.
const CLEAR: &str = "\x1b[2J\x1b[H";

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  fimd status
  fimd status --watch
  fimd status --json")]
pub(super) struct Args {
    /// Update every second, until interrupted
    #[arg(long)]
    watch: bool,

    /// Print one JSON object, with --watch one per second
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> Result<()> {
    let runtime_dir = RuntimeDir::find()?;
    loop {
        let status = Client::connect(&runtime_dir)?.map(Client::status).transpose()?;
        let is_running = status.is_some();
        match (args.json, status) {
            (true, Some(status)) => args::print_json(&status)?,
            (true, None) => args::print_json(&json!({"state": "stopped"}))?,
            (false, Some(status)) => {
                let clear = if args.watch && stdout().is_terminal() { CLEAR } else { "" };
                args::print(&format!("{clear}{}", describe(&status)))?;
            }
            (false, None) if args.watch => args::print("no daemon runs\n")?,
            (false, None) => {}
        }
        if !args.watch {
            return if is_running { Ok(()) } else { bail!(args::NO_DAEMON) };
        }
        thread::sleep(POLL_INTERVAL);
    }
}

fn describe(status: &Status) -> String {
    let mut text = String::new();
    let mut row =
        |name: &str, value: String| writeln!(text, "{name:<12}{value}").expect("a string takes everything");
    let state = match (&status.loading, status.paused_s) {
        (Some((name, percentage)), _) => format!("loading {name}: {percentage} %"),
        (None, Some(seconds)) => format!("paused for {}", HumanDuration(Duration::from_secs(seconds))),
        (None, None) if status.is_paused => "paused until `fimd resume`".into(),
        (None, None) => status.state.clone(),
    };
    row("state", state);
    if let Some(failure) = &status.failure {
        row("", failure.clone());
    }
    if let Some(model) = &status.model {
        let fallback = if status.is_fallback { " (fallback until the other is loaded)" } else { "" };
        row("model", format!("{}{fallback}", model.name));
        row(
            "",
            format!(
                "{} layers, {}, context {}, {} threads, {}",
                model.layers,
                HumanBytes(model.weight_bytes),
                model.context,
                model.threads,
                model.kernels
            ),
        );
    }
    let (usage, budget) = (&status.engine.usage, status.cache_bytes_max);
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
    if let (Some(prefill), decode) = (status.engine.prefill_per_second, status.engine.decode_per_second) {
        let decode = decode.map_or(String::new(), |decode| format!(", decode {decode:.0} tokens/s"));
        row("speed", format!("prefill {prefill:.0} tokens/s{decode}"));
    }
    let (statistics, counters) = (&status.statistics, &status.statistics.counters);
    let percent = |share: f64| format!("{:.0} %", share * 100.0);
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
    row(
        "latency",
        format!(
            "p50 {:.1} ms, p95 {:.1} ms, p99 {:.1} ms",
            statistics.answer_ms.p50, statistics.answer_ms.p95, statistics.answer_ms.p99
        ),
    );
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
    row("log", status.log.display().to_string());
    text
}
