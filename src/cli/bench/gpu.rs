//! `fimd bench gpu`: what the GPU of this machine does.

use anyhow::Result;

use super::spinner;
use crate::base::dtype::DType;
use crate::bench::gpu;
use crate::cli::args::{self, ComputeArgs};

/// Measures the bandwidth of the memory of the first GPU and of its link, what launches and waits cost, and the speed of the
/// kernels with each weight type: with one row of activations, which the memory bounds, and with 64, which the arithmetic does.
#[derive(clap::Args)]
pub(super) struct GpuArgs {
    /// Weight types [default: all]
    #[arg(long, value_name = "TYPE", value_delimiter = ',')]
    types: Vec<DType>,

    /// Print one JSON object
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    compute: ComputeArgs,
}

pub(super) fn run(args: &GpuArgs) -> Result<()> {
    let (status, say) = spinner();
    let types = if args.types.is_empty() { DType::ALL.to_vec() } else { args.types.clone() };
    let report = gpu::run(&types, args.compute.spec().cpu(), &say)?;
    status.finish_and_clear();
    if args.json { args::print_json(&report) } else { args::print(&report.to_string()) }
}
