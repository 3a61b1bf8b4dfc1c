//! `fimd lsp`: the language server on stdin and stdout.

use anyhow::{Context, Result, ensure};
use tokio::io::{stdin, stdout};

use super::args::{self, EngineArgs, PromptArgs};
use super::daemon::yield_to_others;
use crate::daemon::{Place, Purpose, connect_editor};
use crate::lsp::{self, Ending, Need};
use crate::resident::Resident;

#[derive(clap::Args)]
pub(super) struct Args {
    /// Hold the model in this process instead of sharing a daemon with other editors
    #[arg(long)]
    no_daemon: bool,

    #[command(flatten)]
    prompt: PromptArgs,

    #[command(flatten)]
    engine: EngineArgs,
}

pub(super) fn run(args: &Args) -> Result<()> {
    let ending = if args.no_daemon { serve(args) } else { bridge(args) }?;
    ensure!(ending == Ending::Orderly, "the editor left without shutting the server down");
    Ok(())
}

/// Serves the editor from this process.
fn serve(args: &Args) -> Result<Ending> {
    yield_to_others();
    let flags = [args.prompt.flags(), args.engine.flags()].concat();
    let configuration = args::configuration(&flags)?;
    let spec = args.engine.spec(configuration.settings())?;
    let resident = Resident::start(spec, configuration)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.context("cannot start the runtime of the language server")?;
    let ending = runtime.block_on(lsp::serve(stdin(), stdout(), resident, lsp::Options::default()));
    // A read of stdin cannot be interrupted; the runtime would wait for it for ever.
    runtime.shutdown_background();
    Ok(ending)
}

/// Copies messages between the editor and the daemon.
fn bridge(args: &Args) -> Result<Ending> {
    let place = Place::find().context("there is no place for the daemon; --no-daemon does without")?;
    let overrides = args::configuration(&args.prompt.flags())?.client_overrides();
    let purpose = Purpose::Edit { overrides, wishes: args.engine.wishes()? };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("cannot start the runtime of the bridge")?;
    let connect = async |need: Need| connect_editor(&place, purpose.clone(), need == Need::Start).await;
    let ending = runtime.block_on(lsp::bridge(stdin(), stdout(), connect));
    runtime.shutdown_background();
    Ok(ending)
}
