//! `fimd complete`: one completion, shown as ghost text.

use std::fmt::Write;
use std::path::PathBuf;
use std::str::FromStr;

use anstyle::{AnsiColor, Style};
use anyhow::{Context, Result, bail, ensure};
use serde_json::json;

use super::args::{self, EngineArgs, PromptArgs};
use super::guard;
use crate::base::{Cancel, escape};
use crate::complete::{Completion, Document, Lines, Request, driver};
use crate::config::Configuration;
use crate::daemon::{self, Client, CompletionRequest, Response, absolute};
use crate::privacy::content;

/// Lines shown before and after the completion.
const LINES_AROUND: usize = 4;

const GHOST: Style = AnsiColor::BrightBlack.on_default().italic();
const QUIET: Style = Style::new().dimmed();

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  fimd complete src/main.rs:12:5
  fimd complete src/main.rs:12:5 --multiline --json
  fimd complete src/main.rs:12:5 --model model.gguf --fim-order spm")]
pub(super) struct Args {
    /// Cursor position; line and character column count from 1
    #[arg(value_name = "FILE:LINE:COL")]
    position: Position,

    /// Generation limit, in tokens
    #[arg(long, value_name = "N", default_value_t = 64)]
    max_tokens: usize,

    /// Complete several lines, whatever stands at the cursor
    #[arg(long)]
    multiline: bool,

    /// Print one JSON object
    #[arg(long)]
    json: bool,

    /// Load the model in this process even if a daemon runs
    #[arg(long)]
    no_daemon: bool,

    #[command(flatten)]
    prompt: PromptArgs,

    #[command(flatten)]
    engine: EngineArgs,
}

/// A cursor position in a file.
#[derive(Clone, Debug, PartialEq)]
struct Position {
    file: PathBuf,
    line: usize,
    column: usize,
}

impl FromStr for Position {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = text.rsplitn(3, ':');
        let mut number = || {
            let part = parts.next()?;
            part.parse().ok().filter(|&number: &usize| number > 0)
        };
        let (column, line) = (number(), number());
        match (parts.next(), line, column) {
            (Some(file), Some(line), Some(column)) if !file.is_empty() => {
                Ok(Self { file: file.into(), line, column })
            }
            _ => Err("expected FILE:LINE:COL with a line and a column from 1, as in src/main.rs:12:5".into()),
        }
    }
}

pub(super) fn run(args: &Args) -> Result<()> {
    let Position { file, line, column } = &args.position;
    let configuration = args::configuration(&[args.prompt.flags(), args.engine.flags()].concat())?;
    guard::check(&configuration, file)?;
    let text = args::read_text(file)?;
    let cursor = offset(&text, *line, *column).with_context(|| file.display().to_string())?;
    let (completion, load_ms) = match args.engine.daemon(args.no_daemon)? {
        Some(daemon) => (args.request(daemon, &configuration, &text, cursor)?, 0.0),
        None => args.complete(&configuration, &text, cursor)?,
    };
    let shown = completion.as_ref().map_or("", |completion| completion.text.as_str());

    if args.json {
        let timings = completion.as_ref().map(|completion| completion.timings);
        return args::print_json(&json!({
            "text": shown,
            "insert": { "line": line, "column": column },
            "stop": completion.as_ref().map(|completion| completion.stop),
            "mean_logprob": completion.as_ref().map(|completion| completion.mean_logprob),
            "timings": timings.map(|timings| crate::base::Timings { load_ms, ..timings }),
        }));
    }
    let lines = render(&text, cursor, shown);
    args::print(&format!("{lines}{QUIET}{}{QUIET:#}\n", summary(completion.as_ref(), load_ms)))
}

impl Args {
    /// Completes in the daemon.
    fn request(
        &self,
        daemon: Client,
        configuration: &Configuration,
        text: &str,
        cursor: usize,
    ) -> Result<Option<Completion>> {
        let (prefix, suffix) = parts(text, cursor);
        let request = daemon::Request::Complete(CompletionRequest {
            path: self.position.file.display().to_string(),
            file: absolute(&self.position.file)?,
            prefix,
            suffix,
            is_multi_line: self.multiline,
            max_tokens: self.max_tokens,
            overrides: configuration.client_overrides(),
        });
        match daemon.request(&request)? {
            Response::Completion(completion) => Ok(completion),
            _ => bail!("unexpected reply from the daemon"),
        }
    }

    /// Completes in this process; also returns the load time in milliseconds.
    fn complete(
        &self,
        configuration: &Configuration,
        text: &str,
        cursor: usize,
    ) -> Result<(Option<Completion>, f64)> {
        let (prefix, suffix) = parts(text, cursor);
        let settings = configuration.settings();
        let served = self.engine.spec(settings)?.serve()?;
        let options = settings.prompt(served.profile);
        let load_ms = served.info.as_ref().map_or(0.0, |info| info.load_ms);
        let path = Some(self.position.file.display().to_string());
        let request = Request {
            lines: if self.multiline { Lines::Multi } else { Lines::Auto },
            max_tokens: self.max_tokens,
            is_invoked: true,
            ..Request::of(Document::new(path, prefix, suffix))
        };
        Ok((driver::once(&served.engine, options, request, &Cancel::new())?, load_ms))
    }
}

/// The text before and after the cursor, without its secrets.
fn parts(text: &str, cursor: usize) -> (String, String) {
    let (prefix, suffix) = text.split_at(cursor);
    content::masked_parts(prefix, suffix)
}

/// Byte offset of a line and character column, both from 1. The end of a line is a valid column.
fn offset(text: &str, line: usize, column: usize) -> Result<usize> {
    let mut lines = text.split_inclusive('\n');
    let start: usize = lines.by_ref().take(line - 1).map(str::len).sum();
    let count = text.split('\n').count();
    ensure!(line <= count, "line {line} is past the end; the file has {count} lines");
    let content = text[start..].split('\n').next().unwrap_or_default();
    let content = content.strip_suffix('\r').unwrap_or(content);
    let length = content.chars().count();
    ensure!(
        column <= length + 1,
        "column {column} is past the end of line {line}; it has {length} characters"
    );
    Ok(start + content.chars().take(column - 1).map(char::len_utf8).sum::<usize>())
}

/// The lines around the cursor with `ghost` at it, each under its number in the completed text.
fn render(text: &str, cursor: usize, ghost: &str) -> String {
    let (before, after) = text.split_at(cursor);
    let start = before.rmatch_indices('\n').nth(LINES_AROUND).map_or(0, |(at, _)| at + 1);
    let after = after.strip_suffix('\n').unwrap_or(after);
    let end = after.match_indices('\n').nth(LINES_AROUND).map_or(after.len(), |(at, _)| at);

    let plain = Style::new();
    let mut number = text[..start].matches('\n').count() + 1;
    let mut out = format!("{QUIET}{number:5} │{QUIET:#} ");
    for (part, style) in [(&before[start..], plain), (ghost, GHOST), (&after[..end], plain)] {
        for (i, line) in part.split('\n').enumerate() {
            if i > 0 {
                number += 1;
                let _ = write!(out, "\n{QUIET}{number:5} │{QUIET:#} ");
            }
            let line = line.trim_end_matches('\r');
            if !line.is_empty() {
                let _ = write!(out, "{style}{}{style:#}", escape::text(line));
            }
        }
    }
    out.push('\n');
    out
}

fn summary(completion: Option<&Completion>, load_ms: f64) -> String {
    let Some(Completion { timings, .. }) = completion else {
        return "no completion here".into();
    };
    format!(
        "load {load_ms:.0} ms; {} prompt tokens in {:.0} ms ({:.0}/s); {} tokens in {:.0} ms ({:.0}/s)",
        timings.prefill_tokens,
        timings.prefill_ms,
        timings.prefill_per_second(),
        timings.decode_tokens,
        timings.decode_ms,
        timings.decode_per_second(),
    )
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use clap::Parser;

    use super::*;
    use crate::compute::cpu::Level;

    #[test]
    fn positions_are_parsed_from_the_right() {
        let position = |text: &str| text.parse::<Position>();
        assert_eq!(position("a:b.rs:3:1"), Ok(Position { file: "a:b.rs".into(), line: 3, column: 1 }));
        for wrong in ["a.rs", "a.rs:3", ":3:1", "a.rs:0:1", "a.rs:3:0", "a.rs:x:1", "a.rs:3:-1"] {
            assert!(position(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn columns_count_characters_and_ends_are_positions() {
        let text = "ab\r\n\u{1F600}x\n";
        for (line, column, at) in [(1, 1, 0), (1, 3, 2), (2, 1, 4), (2, 2, 8), (2, 3, 9), (3, 1, 10)] {
            assert_eq!(offset(text, line, column).unwrap(), at, "{line}:{column}");
        }
        for (line, column) in [(1, 4), (2, 4), (3, 2), (4, 1)] {
            assert!(offset(text, line, column).is_err(), "{line}:{column}");
        }
        assert_eq!(offset("", 1, 1).unwrap(), 0);
    }

    #[test]
    fn ghost_text_stands_at_the_cursor() {
        let text = "one\ntwo()\nthree\n";
        let plain = anstream::adapter::strip_str(&render(text, 8, "a,\n  b")).to_string();
        assert_eq!(plain, "    1 │ one\n    2 │ two(a,\n    3 │   b)\n    4 │ three\n");
    }

    #[derive(clap::Parser)]
    struct Command {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn the_starter_completes_the_example_of_the_readme_at_every_level() {
        let readme = include_str!("../../README.md");
        for level in Level::supported() {
            // However slow the machine is.
            let budgets = ["--set", "budget.soft_ms=600000", "--set", "budget.hard_ms=600000"];
            let position = ["fimd", "tests/data/demo/stack.py:22:11", "--kernels", &level.to_string()];
            let Command { args } = Command::parse_from([&position[..], &budgets].concat());
            let flags = [args.prompt.flags(), args.engine.flags()].concat();
            let configuration = Configuration::of_flags(&flags).unwrap();
            let Position { file, line, column } = &args.position;
            let text = args::read_text(&Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap();
            let cursor = offset(&text, *line, *column).unwrap();
            let (completion, _) = args.complete(&configuration, &text, cursor).unwrap();
            let shown = render(&text, cursor, &completion.unwrap().text);
            let shown = anstream::adapter::strip_str(&shown).to_string();
            assert!(readme.contains(&shown), "{level}: {shown}");
        }
    }
}
