//! `fimd use`: make a model the default.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, ensure};

use super::config::file;
use super::{args, load, message};
use crate::config::{self, Source};
use crate::daemon::{Client, ModelOverrides, RuntimeDir, absolute};
use crate::hub::cache::Cache;
use crate::hub::reference::Reference;
use crate::resident::check;

/// What the model in the program is called.
pub(super) const STARTER: &str = "starter";

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
        check(path).with_context(|| format!("{} stays the default", default_name()))?;
    }
    let file = file()?;
    let value = model.as_ref().map_or_else(|| "null".into(), |path| path.display().to_string());
    config::set(&file, "model", &value)?;
    let shown = model.as_ref().map_or_else(|| "the starter model".into(), |path| path.display().to_string());
    args::print(&format!("{shown} is the default now ({})\n", file.display()))?;
    let configuration = args::configuration(&[])?;
    for (setting, value, source) in configuration.effective() {
        let is_stronger = match setting.name {
            "model" => matches!(source, Source::Environment(_)),
            "remote.url" => !value.is_null(),
            _ => false,
        };
        if is_stronger {
            message::warning(format_args!("{} counts more: {source} sets it to {value}", setting.name));
            return Ok(());
        }
    }
    let Some(client) = Client::connect(&RuntimeDir::find()?)? else {
        return args::print("no daemon runs; it loads this model when an editor starts it\n");
    };
    drop(client);
    let context = configuration.settings().context.length;
    load::load(ModelOverrides { starter: model.is_none(), model, context, ..ModelOverrides::default() })
}

/// The model that is meant; none for the one in the program.
fn find(text: &str) -> Result<Option<PathBuf>> {
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

fn default_name() -> String {
    let configuration = args::configuration(&[]).ok();
    let model = configuration.and_then(|configuration| configuration.settings().model.clone());
    model.map_or_else(|| "the starter model".into(), |path| path.display().to_string())
}
