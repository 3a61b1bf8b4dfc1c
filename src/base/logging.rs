//! Logging, never to stdout, which carries results or the LSP wire. Document text is never logged.

use std::fs;
use std::io::{self, IsTerminal};
use std::path::Path;

use anyhow::{Context, Result};
use tracing::{Metadata, Subscriber};
use tracing_appender::rolling::{RollingFileAppender, Rotation};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::FilterFn;
use tracing_subscriber::layer::SubscriberExt;

/// The only crate that logs. Others write messages, characters and paths, and so documents, at one level or another.
const CRATE: &str = "fimd";

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
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_target(false).compact();
    match target {
        Target::Stderr => install(log.with_writer(io::stderr).with_ansi(io::stderr().is_terminal()).finish()),
        Target::Files(dir) => install(log.with_writer(files(dir)?).with_ansi(false).finish()),
    }
    std::panic::set_hook(Box::new(|panic| {
        let location = panic.location().map_or_else(|| "an unknown location".into(), ToString::to_string);
        tracing::error!("fimd has a bug at {location}; please report it");
    }));
    Ok(())
}

/// Makes `subscriber` the one of this process, for events of this crate. Those of the crate `log`, which others use, have
/// no way to it.
fn install(subscriber: impl Subscriber + Send + Sync) {
    let is_ours = |metadata: &Metadata| {
        let rest = metadata.target().strip_prefix(CRATE);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
    };
    let subscriber = subscriber.with(FilterFn::new(is_ours));
    tracing::subscriber::set_global_default(subscriber).expect("logging is started once");
}

fn files(dir: &Path) -> Result<RollingFileAppender> {
    let describe = || format!("cannot write logs in {}", dir.display());
    fs::create_dir_all(dir).with_context(describe)?;
    let rotation = RollingFileAppender::builder().rotation(Rotation::DAILY).max_log_files(DAYS_MAX);
    rotation.filename_prefix("fimd").filename_suffix("log").build(dir).with_context(describe)
}
