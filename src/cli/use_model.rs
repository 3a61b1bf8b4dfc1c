//! `fimd use`: make a model the default.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, ensure};

use super::config::file;
use super::{args, load, message};
use crate::config::{self, Configuration, Source};
use crate::daemon::{Client, ModelOverrides, RuntimeDir, absolute};
use crate::hub::cache::Cache;
use crate::hub::reference::Reference;
use crate::resident::check;

/// What the model in the program is called.
const STARTER: &str = "starter";

#[derive(clap::Args)]
pub(super) struct Args {
    /// A model on disk, by its name in `fimd models` or as REPO[:FILE]; a checkpoint folder, .safetensors or .gguf file;
    /// or starter, for the model in the program
    #[arg(value_name = "NAME|PATH")]
    model: String,
}

pub(super) fn run(args: &Args) -> Result<()> {
    let model = find(&args.model)?;
    if let Some(path) = &model {
        check(path).context("the default stays as it was")?;
    }
    let (file, path) = (file()?, model.as_ref().map(|path| path.display().to_string()));
    config::set(&file, "model", path.as_deref().unwrap_or("null"))?;
    let name = path.as_deref().unwrap_or("the starter model");
    args::print(&format!("{name} is the default now ({})\n", file.display()))?;
    let configuration = args::configuration(&[])?;
    if let Some(stronger) = stronger(&configuration) {
        message::warning(format_args!("{stronger} overrides this"));
        return Ok(());
    }
    if Client::connect(&RuntimeDir::find()?)?.is_none() {
        return args::print("no daemon runs; it loads this model when an editor starts it\n");
    }
    let context = configuration.settings().context.length;
    load::load(ModelOverrides { starter: model.is_none(), model, context, ..ModelOverrides::default() })
}

/// The source that overrides the model of the settings file.
fn stronger(configuration: &Configuration) -> Option<String> {
    configuration.effective().find_map(|(setting, value, source)| match (setting.name, &source) {
        ("model", Source::Environment(name)) => Some(format!("{name}={value}")),
        ("remote.url", _) if !value.is_null() => Some(format!("remote.url = {value} ({source})")),
        _ => None,
    })
}

/// The model that is meant; none for the one in the program.
pub(super) fn find(text: &str) -> Result<Option<PathBuf>> {
    if text == STARTER {
        return Ok(None);
    }
    let path = Path::new(text);
    if path.exists() {
        return absolute(path).map(Some);
    }
    let is_path = path.is_absolute() || text.starts_with('.') || text.starts_with('~');
    ensure!(!is_path, "there is no {text}");
    let reference: Reference = text.parse().map_err(|why| anyhow!("{why}, and there is no such file"))?;
    let found = Cache::new(&config::hub()?.cache).find(&reference)?;
    found.map(Some).with_context(|| format!("{reference} is not on disk; `fimd pull {text}` downloads it"))
}
