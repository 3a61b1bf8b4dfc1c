//! `fimd lsp`: the language server on stdin and stdout.

use anyhow::{Context, Result, ensure};

use super::args::EngineArgs;
use crate::lsp;

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    engine: EngineArgs,
}

pub fn run(args: &Args) -> Result<()> {
    let (engine, _) = args.engine.open()?.into_engine()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the runtime of the language server")?;
    let clean = runtime.block_on(lsp::serve(tokio::io::stdin(), tokio::io::stdout(), engine));
    // A read of stdin cannot be interrupted; the runtime would wait for it for ever.
    runtime.shutdown_background();
    ensure!(clean, "the editor left without shutting the server down");
    Ok(())
}
