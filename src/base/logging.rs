//! Logging, always to stderr: stdout carries results or the LSP wire.

use tracing_subscriber::EnvFilter;

/// Starts logging to stderr at the level of `FIMD_LOG` (as `RUST_LOG` spells it), warnings if unset.
pub fn start() {
    let filter = EnvFilter::try_from_env("FIMD_LOG").unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        .compact()
        .init();
}
