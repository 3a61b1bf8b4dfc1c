//! `fimd config`: the effective settings and their sources.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

use super::args::{self, EngineArgs, PromptArgs};
use crate::config::{self, Kind, Setting};
use crate::daemon::absolute;

#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Option<Command>,

    #[command(flatten)]
    what: What,

    #[command(flatten)]
    prompt: PromptArgs,

    #[command(flatten)]
    engine: EngineArgs,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Give a setting a value in the file of settings, and leave everything else in it as it is
    #[command(after_help = "\
Examples:
  fimd config set budget.soft_ms 400
  fimd config set disabled.languages markdown,plaintext
  fimd config set fim.order null")]
    Set(SetArgs),
}

#[derive(clap::Args)]
struct SetArgs {
    /// The setting, as `fimd config` lists it
    #[arg(value_name = "KEY")]
    name: String,

    /// Its value: a text, a number, true or false, a list with commas; null takes the setting out of the file
    #[arg(value_name = "VALUE", allow_hyphen_values = true)]
    value: String,
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

    /// Print the tables of settings in the guide
    #[arg(long, hide = true)]
    markdown: bool,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Schema {
    Toml,
    Vscode,
}

pub(super) fn run(args: &Args) -> Result<()> {
    if let Some(Command::Set(args)) = &args.command {
        return set(args);
    }
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

/// The file of settings, whether or not it is there.
pub(super) fn file() -> Result<PathBuf> {
    config::file().context("this system has no folder for settings; set FIMD_CONFIG to the path of a file")
}

fn set(args: &SetArgs) -> Result<()> {
    let file = file()?;
    let is_path = Setting::named(&args.name).is_some_and(|setting| setting.kind == Kind::Path);
    let is_relative = is_path && args.value != "null" && !args.value.starts_with("~/");
    // A relative path is relative to the folder of the file there, and to the current folder on the command line.
    let value = if is_relative {
        absolute(Path::new(&args.value))?.display().to_string()
    } else {
        args.value.clone()
    };
    config::set(&file, &args.name, &value)?;
    args::print(&format!("{}: {} = {value}\n", file.display(), args.name))
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
