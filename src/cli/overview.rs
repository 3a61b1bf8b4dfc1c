//! `fimd` without a subcommand: what runs, and what to do next.

use anyhow::Result;

use super::message::LABEL;
use super::{args, models};
use crate::config::Settings;
use crate::daemon::{Client, RuntimeDir, Status};

pub(super) fn run() -> Result<()> {
    let configuration = args::configuration(&[])?;
    let settings = configuration.settings();
    let status = Client::connect(&RuntimeDir::find()?)?.map(Client::status).transpose()?;
    let mut text =
        format!("fimd {}: private code completion on your own machine\n\n", env!("CARGO_PKG_VERSION"));
    text += &line("daemon", &daemon(status.as_ref()));
    text += &line("model", &model(settings));
    if is_starter(settings)
        && let Some(advice) = models::advice(models::machine(settings))
    {
        text += &line("", &advice);
    }
    text += &line("help", "`fimd --help` lists the commands, `fimd doctor` looks for problems");
    args::print(&text)
}

fn daemon(status: Option<&Status>) -> String {
    let Some(status) = status else { return "not running; an editor starts it".into() };
    let model = status.model.as_ref().map_or("a remote backend", |model| &model.name);
    let count = status.editors.len();
    let editors = if count == 1 { "editor" } else { "editors" };
    format!("{}: {model} for {count} {editors}; `fimd status` shows more", status.state)
}

fn model(settings: &Settings) -> String {
    match (&settings.remote.url, &settings.model) {
        (Some(url), _) => format!("that of the server {url}"),
        (None, Some(path)) => path.display().to_string(),
        (None, None) => "the built-in starter: a toy, which shows that everything works".into(),
    }
}

fn is_starter(settings: &Settings) -> bool {
    settings.remote.url.is_none() && settings.model.is_none()
}

fn line(name: &str, text: &str) -> String {
    format!("{LABEL}{name:<8}{LABEL:#}{text}\n")
}
