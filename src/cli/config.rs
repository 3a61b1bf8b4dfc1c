//! `fimd config`: the effective settings and their sources.

use std::fs;
use std::io::Write;

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

use super::args::{self, EngineArgs, PromptArgs};
use crate::config;

#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    what: What,

    #[command(flatten)]
    prompt: PromptArgs,

    #[command(flatten)]
    engine: EngineArgs,
}

#[derive(clap::Args)]
#[group(multiple = false)]
struct What {
    /// Print one JSON object
    #[arg(long)]
    json: bool,

    /// Print the path of the settings file
    #[arg(long)]
    path: bool,

    /// Create that file, with every setting commented out
    #[arg(long)]
    init: bool,

    /// Print a JSON schema: of that file, or of the VS Code settings
    #[arg(long, value_name = "OF", num_args = 0..=1, default_missing_value = "toml")]
    schema: Option<Schema>,

    /// Print the tables of settings in the README
    #[arg(long, hide = true)]
    markdown: bool,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Schema {
    Toml,
    Vscode,
}

pub(super) fn run(args: &Args) -> Result<()> {
    match &args.what {
        What { path: true, .. } => args::print(&format!("{}\n", file()?.display())),
        What { init: true, .. } => init(),
        What { schema: Some(schema), .. } => {
            let schema = match schema {
                Schema::Toml => config::schema(),
                Schema::Vscode => config::vscode(),
            };
            args::print(&(serde_json::to_string_pretty(&schema)? + "\n"))
        }
        What { markdown: true, .. } => args::print(&config::markdown()),
        What { json, .. } => show(args, *json),
    }
}

fn file() -> Result<std::path::PathBuf> {
    config::file().context("this system has no folder for settings; set FIMD_CONFIG to the path of a file")
}

fn init() -> Result<()> {
    let path = file()?;
    let describe = || format!("cannot write {}", path.display());
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(describe)?;
    }
    let file = fs::File::create_new(&path).with_context(describe);
    file?.write_all(config::template().as_bytes()).with_context(describe)?;
    args::print(&format!("{}\n", path.display()))
}

fn show(args: &Args, as_json: bool) -> Result<()> {
    let configuration = args::configuration(&[args.prompt.flags(), args.engine.flags()].concat())?;
    if as_json {
        let settings = configuration.effective().map(|(setting, value, source)| {
            (setting.name.to_owned(), json!({"value": value, "from": source.to_string()}))
        });
        let problems: Vec<String> = configuration.problems().iter().map(ToString::to_string).collect();
        return args::print_json(&json!({
            "file": config::file(),
            "settings": settings.collect::<Map<_, _>>(),
            "problems": problems,
        }));
    }
    let rows: Vec<[String; 3]> = configuration
        .effective()
        .map(|(setting, value, source)| {
            let value = match (&value, setting.unset) {
                (Value::Null, Some(unset)) => format!("({unset})"),
                _ => value.to_string(),
            };
            [setting.name.to_owned(), value, source.to_string()]
        })
        .collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let (name, value) = (width(0), width(1));
    let lines = rows.iter().map(|row| format!("{:name$}  {:value$}  {}\n", row[0], row[1], row[2]));
    args::print(&lines.collect::<String>())
}
