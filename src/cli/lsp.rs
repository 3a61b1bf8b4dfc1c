//! `fimd lsp`: the language server on stdin and stdout.

use anyhow::{Context, Result, ensure};

use super::args::{EngineArgs, PromptArgs};
use crate::lsp;
use crate::resident::Resident;

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    prompt: PromptArgs,

    #[command(flatten)]
    engine: EngineArgs,
}

pub fn run(args: &Args) -> Result<()> {
    yield_to_others();
    let configuration = args.prompt.configuration()?;
    let spec = args.engine.spec(configuration.settings().cache.bytes_max);
    let resident = Resident::start(spec, configuration)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the runtime of the language server")?;
    let options = lsp::Options::default();
    let ending = runtime.block_on(lsp::serve(tokio::io::stdin(), tokio::io::stdout(), resident, options));
    // A read of stdin cannot be interrupted; the runtime would wait for it for ever.
    runtime.shutdown_background();
    ensure!(ending == lsp::Ending::Orderly, "the editor left without shutting the server down");
    Ok(())
}

/// Lowers the priority of this process, so that the editor stays responsive while a model computes.
fn yield_to_others() {
    #[cfg(unix)]
    {
        const NICE: i32 = 5;
        if let Err(error) = rustix::process::nice(NICE) {
            tracing::warn!("cannot lower the priority: {error}");
        }
    }
}
