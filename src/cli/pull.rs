//! `fimd pull`: download a model.

use std::io::{IsTerminal, stderr};
use std::time::Instant;

use anyhow::{Result, bail};
use indicatif::{HumanDuration, ProgressBar, ProgressStyle};

use super::args;
use crate::config;
use crate::hub::download::{self, Event, Outcome};
use crate::hub::reference::Reference;
use crate::hub::select::Variant;

/// Percent between two lines of progress where there is no terminal.
const STEP_PERCENT: u64 = 10;

#[derive(clap::Args)]
pub(super) struct Args {
    /// A name that `fimd models` lists, or a repository with perhaps a file of it, or the quantisation that is wanted
    #[arg(value_name = "NAME|REPO[:FILE]")]
    model: Reference,
}

pub(super) fn run(args: &Args) -> Result<()> {
    let reference = &args.model;
    let mut progress = Progress::new();
    match download::pull(&config::hub()?, reference, &mut |event| progress.see(event))? {
        Outcome::Pulled { path, bytes, was_here } => {
            let what = if was_here { "is on disk already" } else { "was downloaded" };
            args::print(&format!(
                "{reference} {what}: {}, {}\n`fimd use {reference}` makes it the default\n",
                path.display(),
                size(bytes)
            ))
        }
        Outcome::Choices(variants) if variants.is_empty() => {
            bail!("{reference}: there is neither a GGUF file nor a checkpoint (config.json, *.safetensors)")
        }
        Outcome::Choices(variants) => bail!("{}", choices(reference, &variants)),
    }
}

/// A size as files are sold.
pub(super) fn size(bytes: u64) -> String {
    match bytes as f64 {
        bytes if bytes >= 1e9 => format!("{:.1} GB", bytes / 1e9),
        bytes if bytes >= 1e6 => format!("{:.0} MB", bytes / 1e6),
        bytes => format!("{:.1} kB", bytes / 1e3),
    }
}

/// What to say where the user has to choose a file.
fn choices(reference: &Reference, variants: &[Variant]) -> String {
    let repo = reference.repo.name();
    let rows = variants.iter().map(|variant| {
        let bytes = variant.bytes().map_or_else(String::new, size);
        let parts = match variant.files.len() {
            1 => String::new(),
            parts => format!("  in {parts} parts"),
        };
        format!("\n  {bytes:>8}  {repo}:{}{parts}", variant.name)
    });
    let why = match &reference.file {
        Some(file) => format!("{file} names no single file of {repo}"),
        None => format!("{repo} has several files"),
    };
    format!("{why}; choose one:{}", rows.collect::<String>())
}

/// A bar on a terminal, else a line now and then; on stderr.
struct Progress {
    /// Where stderr is a terminal.
    bar: Option<ProgressBar>,
    /// Of the file that is downloaded.
    path: String,
    bytes: u64,
    done: u64,
    /// What was there when it began.
    had: u64,
    started: Instant,
}

impl Progress {
    fn new() -> Self {
        let style = ProgressStyle::with_template(
            "{msg}\n{wide_bar} {decimal_bytes} of {decimal_total_bytes}, {decimal_bytes_per_sec}, {eta} left",
        );
        let bar = ProgressBar::new(0).with_style(style.expect("the template is well formed"));
        let bar = stderr().is_terminal().then_some(bar);
        Self { bar, path: String::new(), bytes: 0, done: 0, had: 0, started: Instant::now() }
    }

    fn see(&mut self, event: Event) {
        match event {
            Event::Start { bytes, files } if files > 1 => {
                self.say(&format!("downloading {files} files, {}", size(bytes)));
            }
            Event::Start { .. } => {}
            Event::File { path, bytes, had } => self.begin(path, bytes, had),
            Event::Bytes(bytes) => self.advance(bytes),
            Event::Restart => {
                self.say("the server cannot go on where it has stopped; the file begins anew");
                (self.done, self.had, self.started) = (0, 0, Instant::now());
                if let Some(bar) = &self.bar {
                    bar.reset();
                }
            }
            Event::Note(text) => self.say(text),
        }
    }

    fn begin(&mut self, path: &str, bytes: u64, had: u64) {
        (self.path, self.bytes, self.done, self.had) = (path.to_owned(), bytes, had, had);
        self.started = Instant::now();
        let from = if had > 0 { format!(", of which {} are here", size(had)) } else { String::new() };
        match &self.bar {
            None => self.say(&format!("{path}: {}{from}", size(bytes))),
            Some(bar) => {
                bar.reset();
                bar.set_message(path.to_owned());
                bar.set_length(bytes);
                bar.set_position(had);
                bar.reset_eta();
            }
        }
    }

    fn advance(&mut self, bytes: u64) {
        let before = self.percent();
        self.done += bytes;
        match &self.bar {
            Some(bar) if self.done == self.bytes => bar.finish_and_clear(),
            Some(bar) => bar.inc(bytes),
            None if self.percent() / STEP_PERCENT > before / STEP_PERCENT => self.say(&self.describe()),
            None => {}
        }
    }

    fn percent(&self) -> u64 {
        (self.done * 100).checked_div(self.bytes).unwrap_or(100)
    }

    fn describe(&self) -> String {
        let elapsed = self.started.elapsed();
        let rate = (self.done - self.had) as f64 / elapsed.as_secs_f64().max(1e-3);
        let left = elapsed.mul_f64((self.bytes - self.done) as f64 / (self.done - self.had).max(1) as f64);
        let left =
            if self.done < self.bytes { format!(", {} left", HumanDuration(left)) } else { String::new() };
        format!("{}: {} %, {}/s{left}", self.path, self.percent(), size(rate as u64))
    }

    fn say(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| eprintln!("{text}")),
            None => eprintln!("{text}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::select::Listed;

    #[test]
    fn choices_are_listed_with_their_sizes() {
        let file = |path: &str, bytes| Listed { path: path.to_owned(), bytes };
        let variants = [
            Variant { name: "a.gguf".into(), files: vec![file("a.gguf", Some(1_500_000_000))] },
            Variant {
                name: "b-1".into(),
                files: vec![file("b-1", Some(9_000_000)), file("b-2", Some(9_000_000))],
            },
            Variant { name: "c.gguf".into(), files: vec![file("c.gguf", None)] },
        ];
        let expected = "me/m has several files; choose one:\n    1.5 GB  me/m:a.gguf\n     18 MB  me/m:b-1  in 2 parts\n            me/m:c.gguf";
        assert_eq!(choices(&"me/m".parse().unwrap(), &variants), expected);
    }
}
