//! `fimd doctor`: what this machine offers, what is installed, and what to do about problems.
//!
//! With files, `file` says instead what the rules of privacy are for them.
//!
//! `probe` collects [`Facts`](findings::Facts), and `findings` decides what they mean.

mod file;
mod findings;
mod probe;

use std::fmt::Write;
use std::path::PathBuf;

use anyhow::{Result, ensure};
use serde_json::json;

use self::findings::{Finding, Verdict, findings};
use super::args;
use super::message::{ERROR, GOOD, WARNING};

#[derive(clap::Args)]
pub(super) struct Args {
    /// Print one JSON object, with the facts that the findings follow from
    #[arg(long)]
    json: bool,

    /// Say whether these files may be completed, read and sent, or else by which rule not
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
}

pub(super) fn run(args: &Args) -> Result<()> {
    if !args.files.is_empty() {
        return file::run(&args.files, args.json);
    }
    let facts = probe::probe()?;
    let findings = findings(&facts);
    let bad = findings.iter().filter(|finding| finding.verdict == Verdict::Bad).count();
    if args.json {
        args::print_json(&json!({"is_healthy": bad == 0, "findings": findings, "facts": facts}))?;
    } else {
        args::print(&findings.iter().map(describe).collect::<String>())?;
    }
    ensure!(bad == 0, "{bad} of these must be corrected (✗)");
    Ok(())
}

fn describe(finding: &Finding) -> String {
    let (mark, style) = match finding.verdict {
        Verdict::Good => ("✓", GOOD),
        Verdict::Warning => ("!", WARNING),
        Verdict::Bad => ("✗", ERROR),
    };
    let mut text = format!("{style}{mark}{style:#} {:<9} {}\n", finding.topic, finding.text);
    if let Some(remedy) = &finding.remedy {
        writeln!(text, "{:12}{remedy}", "").expect("a string takes everything");
    }
    text
}
