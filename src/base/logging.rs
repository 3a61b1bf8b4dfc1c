//! Logging, never to stdout, which carries results or the LSP wire. Document text is never logged.

use std::fs;
use std::io::{self, IsTerminal};
use std::path::Path;

use anyhow::{Context, Result};
use tracing_appender::rolling::{RollingFileAppender, Rotation};
use tracing_subscriber::EnvFilter;

/// Protocol libraries, which log whole messages, and so documents, at debug and trace level.
const WIRES: [&str; 4] = ["tower_lsp_server=warn", "ureq=warn", "ureq_proto=warn", "rustls=warn"];

/// Log retention, in days.
const DAYS_MAX: usize = 7;

/// Destination of the log.
#[derive(Clone, Copy, Debug)]
pub enum Target<'p> {
    Stderr,
    /// Files in this folder, one per day.
    Files(&'p Path),
}

/// Starts logging at the level of `FIMD_LOG` (with the syntax of `RUST_LOG`), or else at `level`. Panics are logged with
/// their location only, since their messages may quote text.
pub fn start(target: Target, level: &str) -> Result<()> {
    let filter = EnvFilter::try_from_env("FIMD_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    let wires = WIRES.map(|wire| wire.parse().expect("the directive is well formed"));
    let filter = wires.into_iter().fold(filter, EnvFilter::add_directive);
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_target(false).compact();
    match target {
        Target::Stderr => log.with_writer(io::stderr).with_ansi(io::stderr().is_terminal()).init(),
        Target::Files(dir) => log.with_writer(files(dir)?).with_ansi(false).init(),
    }
    std::panic::set_hook(Box::new(|panic| {
        let location = panic.location().map_or_else(|| "an unknown location".into(), ToString::to_string);
        tracing::error!("fimd has a bug at {location}; please report it");
    }));
    Ok(())
}

fn files(dir: &Path) -> Result<RollingFileAppender> {
    let describe = || format!("cannot write logs in {}", dir.display());
    fs::create_dir_all(dir).with_context(describe)?;
    let rotation = RollingFileAppender::builder().rotation(Rotation::DAILY).max_log_files(DAYS_MAX);
    rotation.filename_prefix("fimd").filename_suffix("log").build(dir).with_context(describe)
}
