//! `fimd guide`: the documentation, a page per topic.

mod page;
mod roff;
mod terminal;

use std::fmt::Write;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use clap::builder::PossibleValuesParser;

use super::args;

/// A page of the guide.
struct Topic {
    name: &'static str,
    /// Markdown, of which [`page`] knows what the pages use.
    text: &'static str,
}

macro_rules! topics {
    ($($name:literal)*) => {
        &[$(Topic { name: $name, text: include_str!(concat!("../guide/", $name, ".md")) }),*]
    };
}

static TOPICS: &[Topic] = topics! {
    "models" "editors" "completion" "assist" "settings" "daemon" "remote" "privacy" "troubleshooting" "commands"
    "quantize" "benchmarks" "design"
};

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  fimd guide
  fimd guide models
  fimd guide settings | less")]
pub(super) struct Args {
    /// The page to print [default: a list of all]
    #[arg(value_name = "TOPIC", value_parser = PossibleValuesParser::new(TOPICS.iter().map(|topic| topic.name)))]
    topic: Option<String>,
}

pub(super) fn run(args: &Args) -> Result<()> {
    match TOPICS.iter().find(|topic| args.topic.as_deref() == Some(topic.name)) {
        Some(topic) => args::print(&terminal::render(&page::blocks(topic.text))),
        None => args::print(&list()),
    }
}

fn list() -> String {
    let width = TOPICS.iter().map(|topic| topic.name.len()).max().unwrap_or_default();
    let mut text = String::new();
    for topic in TOPICS {
        let name = terminal::code(topic.name);
        let padding = width - topic.name.len();
        writeln!(text, "{name}{:padding$}  {}", "", topic.about()).expect("a string takes everything");
    }
    text + &format!("\n{} prints a page\n", terminal::code("fimd guide TOPIC"))
}

/// Writes every page into `folder` as a manual page.
pub(super) fn write_manual(folder: &Path) -> Result<()> {
    for topic in TOPICS {
        let path = folder.join(format!("{}.7", topic.manual_name()));
        let page = roff::render(&topic.manual_name(), topic.about(), &page::blocks(topic.text));
        fs::write(&path, page).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

impl Topic {
    /// What it is about, as its title says after the colon.
    fn about(&self) -> &'static str {
        let title = self.text.lines().next().unwrap_or_default();
        title.split_once(": ").map_or(title, |(_, about)| about)
    }

    fn manual_name(&self) -> String {
        format!("fimd-guide-{}", self.name)
    }
}
