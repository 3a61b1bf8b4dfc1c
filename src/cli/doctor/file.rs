//! What may be completed, read and sent of a file, and by which rule the rest is not.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use serde::Serialize;

use super::findings::{Finding, Verdict};
use crate::cli::{args, guard};
use crate::config::Configuration;
use crate::privacy::content;

/// What is said of one file.
#[derive(Serialize)]
struct Report {
    file: PathBuf,
    /// The rule that excludes it.
    refusal: Option<String>,
    /// What is left out of its text, with the line from 1.
    left_out: Vec<(usize, &'static str)>,
}

pub(super) fn run(files: &[PathBuf], as_json: bool) -> Result<()> {
    let configuration = args::configuration(&[])?;
    let reports: Vec<Report> =
        files.iter().map(|file| report(&configuration, file)).collect::<Result<_>>()?;
    if as_json {
        args::print_json(&reports)?;
    } else {
        args::print(&reports.iter().map(|report| super::describe(&report.finding())).collect::<String>())?;
    }
    let refused = reports.iter().filter(|report| report.refusal.is_some()).count();
    ensure!(refused == 0, "{refused} of these are never completed, read or sent");
    Ok(())
}

fn report(configuration: &Configuration, file: &Path) -> Result<Report> {
    let refusal = guard::verdict(configuration, file)?.err().map(|refusal| refusal.to_string());
    let left_out = if refusal.is_none() { left_out(&args::read_text(file)?) } else { Vec::new() };
    Ok(Report { file: file.to_owned(), refusal, left_out })
}

/// The first line of each secret of a text.
fn left_out(text: &str) -> Vec<(usize, &'static str)> {
    let line = |at: usize| text[..at].matches('\n').count() + 1;
    let mut found: Vec<_> =
        content::secrets(text).into_iter().map(|(range, kind)| (line(range.start), kind.name())).collect();
    found.dedup();
    found
}

impl Report {
    fn finding(&self) -> Finding {
        let file = self.file.display().to_string();
        match &self.refusal {
            Some(refusal) => Finding {
                topic: "file",
                verdict: Verdict::Bad,
                text: format!("{file} is never completed, read or sent"),
                remedy: Some(refusal.clone()),
            },
            None => Finding {
                topic: "file",
                verdict: Verdict::Good,
                text: format!("{file} may be completed, read and sent"),
                remedy: (!self.left_out.is_empty()).then(|| self.lines()),
            },
        }
    }

    fn lines(&self) -> String {
        let lines = self.left_out.iter().map(|(line, what)| format!("line {line}: {what} is left out"));
        lines.collect::<Vec<_>>().join("\n            ")
    }
}
