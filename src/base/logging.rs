//! Logging, always to stderr: stdout carries results or the LSP wire. Document text is never logged.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;

/// The LSP library logs whole messages, and so documents, at its lowest level.
const WIRE: &str = "tower_lsp_server=warn";

/// Starts logging to stderr at the level of `FIMD_LOG` (as `RUST_LOG` spells it), warnings if unset, and
/// makes panics say where they happened and nothing else: their messages may quote text.
pub fn start() {
    let filter = EnvFilter::try_from_env("FIMD_LOG").unwrap_or_else(|_| EnvFilter::new("warn"));
    let wire = WIRE.parse().expect("the directive is well formed");
    tracing_subscriber::fmt()
        .with_env_filter(filter.add_directive(wire))
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_target(false)
        .compact()
        .init();
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map_or_else(|| "an unknown place".into(), ToString::to_string);
        tracing::error!("fimd has a bug at {place}; please report it");
    }));
}
