//! `fimd lsp`: the language server on stdin and stdout.

use anyhow::{Context, Result, ensure};
use tokio::io::{stdin, stdout};

use super::args::{self, EngineArgs, PromptArgs};
use super::daemon::lower_priority;
use crate::daemon::{Purpose, RuntimeDir, connect_editor};
use crate::lsp::{self, ConnectReason, Exit};
use crate::resident::{LoadMarker, Resident};

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  fimd lsp
  fimd lsp --set budget.soft_ms=400
  fimd lsp --no-daemon --model model.gguf")]
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
    let exit = if args.no_daemon { serve(args) } else { bridge(args) }?;
    ensure!(exit == Exit::Clean, "unclean exit: the editor disconnected without a shutdown request");
    Ok(())
}

fn serve(args: &Args) -> Result<Exit> {
    lower_priority();
    lsp::remove_left_explanations();
    let flags = [args.prompt.flags(), args.engine.flags()].concat();
    let configuration = args::logged_configuration(&flags)?;
    let spec = args.engine.spec(configuration.settings())?;
    let resident = Resident::start(spec, configuration, LoadMarker::default())?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.context("cannot start the runtime of the language server")?;
    let exit = runtime.block_on(lsp::serve(stdin(), stdout(), resident, lsp::Options::default()));
    // A read of stdin cannot be interrupted, and dropping the runtime would wait for it.
    runtime.shutdown_background();
    Ok(exit)
}

fn bridge(args: &Args) -> Result<Exit> {
    let runtime_dir = RuntimeDir::find()
        .context("cannot use the runtime folder of the daemon; --no-daemon does without")?;
    let overrides = args::logged_configuration(&args.prompt.flags())?.client_overrides();
    let purpose = Purpose::Edit { overrides, model: args.engine.model_overrides()? };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("cannot start the runtime of the bridge")?;
    let connect = async |reason: ConnectReason| {
        connect_editor(&runtime_dir, purpose.clone(), reason == ConnectReason::Start).await
    };
    let exit = runtime.block_on(lsp::bridge(stdin(), stdout(), connect));
    runtime.shutdown_background();
    Ok(exit)
}
