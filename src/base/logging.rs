//! Logging, never to stdout, which carries results or the LSP wire. Document text is never logged.

use std::io::{self, IsTerminal};
use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use tracing::{Metadata, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::FilterFn;
use tracing_subscriber::layer::SubscriberExt;

use super::log_file::LogFile;

/// The only crate that logs. Others write messages, characters and paths, and so documents, at one level or another.
const CRATE: &str = "fimd";

/// Destination of the log.
#[derive(Clone, Copy, Debug)]
pub enum Target<'p> {
    Stderr,
    /// Files in this folder, of bounded size.
    Files(&'p Path),
}

/// Starts logging at the level of `FIMD_LOG` (with the syntax of `RUST_LOG`), or else at `level`. Panics are logged with
/// their location only, since their messages may quote text.
pub fn start(target: Target, level: &str) -> Result<()> {
    let filter = EnvFilter::try_from_env("FIMD_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_target(false).compact();
    // Where the log cannot be written, neither can what is said of that.
    let log = log.log_internal_errors(false);
    match target {
        Target::Stderr => install(log.with_writer(io::stderr).with_ansi(io::stderr().is_terminal()).finish()),
        Target::Files(dir) => {
            install(log.with_writer(Arc::new(LogFile::open(dir)?)).with_ansi(false).finish())
        }
    }
    std::panic::set_hook(Box::new(|panic| {
        let location = panic.location().map_or_else(
            || "an unknown location".into(),
            |at| format!("{}:{}:{}", without_build_folder(at.file()), at.line(), at.column()),
        );
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

/// The path of a source file without the folders of who has built the program.
fn without_build_folder(path: &str) -> &str {
    let is_separator = |c| c == '/' || c == '\\';
    let Some(at) = path.rfind("/src/").or_else(|| path.rfind("\\src\\")) else { return path };
    path[..at].rfind(is_separator).map_or(path, |start| &path[start + 1..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_name_no_build_folder() {
        for (path, expected) in [
            ("src/lsp/mod.rs", "src/lsp/mod.rs"),
            (
                "/home/me/.cargo/registry/src/index.crates.io-1/ropey-1.6.1/src/rope.rs",
                "ropey-1.6.1/src/rope.rs",
            ),
            ("/rustc/01f6ddf/library/core/src/option.rs", "core/src/option.rs"),
            (r"C:\u\me\ropey-1.6.1\src\rope.rs", r"ropey-1.6.1\src\rope.rs"),
        ] {
            assert_eq!(without_build_folder(path), expected);
        }
    }
}
