//! Collects the facts about this machine and what is installed on it.

use std::env;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::findings::{Daemon, Disk, Editor, EditorKind, Facts, Gpu, Model, Tiered};
use crate::base::memory;
use crate::bench::machine::Machine;
use crate::bench::plan::{Place, Rates};
use crate::bench::sizes;
use crate::cli::planner::{Device, Overrides, Planner};
use crate::cli::{args, models};
use crate::compute::cpu::Level;
use crate::compute::cuda;
use crate::config::{self, Settings};
use crate::daemon::{Client, RuntimeDir, Status};
use crate::hub;

/// How long an editor may take to tell its version.
const VERSION_TIME_MAX: Duration = Duration::from_secs(5);
/// Between two checks whether it has.
const STEP: Duration = Duration::from_millis(10);
pub(super) fn probe() -> Result<Facts> {
    let configuration = args::read_configuration(&[])?;
    let settings = configuration.settings();
    let Machine { cpu, cores, .. } = Machine::read();
    let (mut model, measured) = (model(settings), models::machine(settings));
    let (disk, daemon) = (disk(&model), daemon());
    if let (Model::Local { path, tiers, .. }, Disk::Read { bytes_per_second, .. }) = (&mut model, &disk) {
        let held = if let Daemon::Running { memory_bytes, .. } = daemon { memory_bytes } else { 0 };
        // What cannot be planned for is reported where it is loaded.
        let rates = Rates::at_a_glance(measured.bandwidth, *bytes_per_second);
        *tiers = tiered(&Planner::new(settings, Overrides::default(), held), path, rates).ok().flatten();
    }
    Ok(Facts {
        version: env!("CARGO_PKG_VERSION").into(),
        cpu,
        cores,
        level: Level::detect().to_string(),
        threads: args::threads(settings.threads),
        memory: memory::host(),
        memory_bandwidth: measured.bandwidth,
        disk,
        gpu: gpu(&model, settings),
        daemon,
        model,
        editors: editors(),
        settings_file: config::file().filter(|path| path.exists()),
        settings_problems: configuration.problems().iter().map(ToString::to_string).collect(),
        advice: models::advice(measured),
    })
}

fn model(settings: &Settings) -> Model {
    if let Some(url) = &settings.remote.url {
        return Model::Remote(url.clone());
    }
    let Some(path) = settings.model.clone() else { return Model::Starter };
    match weight_bytes(&path) {
        Ok(weight_bytes) => {
            Model::Local { path, weight_bytes, cache_bytes: settings.cache_bytes_max(), tiers: None }
        }
        Err(error) => Model::Unusable { path, why: format!("{error:#}") },
    }
}

fn weight_bytes(path: &Path) -> Result<u64> {
    let dir = hub::open(Some(path))?;
    crate::model::Config::read(&dir)?;
    let sizes = dir.names().map(|name| Ok(dir.tensor(name)?.bytes.len() as u64));
    sizes.sum()
}

/// What memory holds of a model's experts, if not all, and how fast it is to be.
fn tiered(planner: &Planner, path: &Path, rates: Rates) -> Result<Option<Tiered>> {
    let (plan, sizes) = planner.plan(path, rates)?;
    let (Place::Tiers(tiers), Some(speed)) = (plan.place, plan.text) else { return Ok(None) };
    let experts = sizes.layers.iter().map(|layer| layer.experts).max().unwrap_or_default();
    Ok(Some(Tiered { slots: tiers.slots, experts, tokens_per_s: speed.tokens_per_s }))
}

fn disk(model: &Model) -> Disk {
    match model {
        Model::Starter => Disk::Skipped("the starter is in the program".into()),
        Model::Remote(_) => Disk::Skipped("the model is on a server".into()),
        Model::Unusable { .. } => Disk::Skipped("the model cannot be read".into()),
        Model::Local { path, .. } => match sizes::disk(Some(path)) {
            Ok(disk) => Disk::Read { path: disk.file, bytes_per_second: disk.bytes_per_s },
            Err(error) => Disk::Skipped(format!("{error:#}")),
        },
    }
}

fn gpu(model: &Model, settings: &Settings) -> Gpu {
    let names = fs::read_dir("/dev").into_iter().flatten();
    let names = names.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let is_device =
        |name: &String| name.strip_prefix("nvidia").is_some_and(|number| number.parse::<u32>().is_ok());
    let found = cuda::probe::probe();
    let plan = match (&found, model) {
        (Ok(gpu), Model::Local { path, .. }) => {
            let overrides = Overrides { device: Device::Gpu(gpu.memory.free), ..Overrides::default() };
            Some(Planner::new(settings, overrides, 0).on_gpu(path, gpu.memory.free))
        }
        _ => None,
    };
    let (plan, refused) = match plan {
        Some(Ok(plan)) => (Some(plan.to_string()), None),
        Some(Err(error)) => (None, Some(format!("{error:#}"))),
        None => (None, None),
    };
    Gpu {
        plan,
        refused,
        devices: names.filter(is_device).count(),
        usable: found.as_ref().ok().map(ToString::to_string),
        problem: found.err().filter(|unusable| !unusable.is_absent()).map(|unusable| unusable.to_string()),
    }
}

fn daemon() -> Daemon {
    let client = RuntimeDir::find().and_then(|runtime_dir| Client::connect(&runtime_dir));
    match client.and_then(|client| client.map(Client::status).transpose()) {
        Ok(None) => Daemon::Stopped,
        Err(error) => Daemon::Unreachable(format!("{error:#}")),
        Ok(Some(status)) => running(status),
    }
}

fn running(status: Status) -> Daemon {
    Daemon::Running {
        is_own: status.is_this_build(),
        version: status.program.version,
        lacks_its_model: status.state == "failed",
        model: status.model.map_or_else(|| "a remote backend".into(), |model| model.name),
        memory_bytes: status.memory_bytes,
        failure: status.failure,
    }
}

fn editors() -> Vec<Editor> {
    let known = [
        (EditorKind::Neovim, "nvim", neovim_plugin as fn() -> Option<PathBuf>),
        (EditorKind::Helix, "hx", helix_configuration),
        (EditorKind::VsCode, "code", vscode_extension),
    ];
    let found = known.into_iter().filter_map(|(kind, program, plugin)| {
        let version = version_of(&on_path(program)?);
        Some(Editor { kind, version, plugin: plugin() })
    });
    found.collect()
}

fn on_path(program: &str) -> Option<PathBuf> {
    let names = if cfg!(windows) {
        vec![format!("{program}.exe"), format!("{program}.cmd")]
    } else {
        vec![program.to_owned()]
    };
    env::split_paths(&env::var_os("PATH")?)
        .flat_map(|dir| names.iter().map(move |name| dir.join(name)).collect::<Vec<_>>())
        .find(|path| path.is_file())
}

/// The first word with a digit of what `--version` prints.
fn version_of(program: &Path) -> Option<String> {
    let mut command = Command::new(program);
    command.arg("--version").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().ok()?;
    let started = Instant::now();
    while child.try_wait().ok()?.is_none() {
        if started.elapsed() > VERSION_TIME_MAX {
            let _ = child.kill();
            let _ = child.wait();
            return None;
        }
        thread::sleep(STEP);
    }
    let mut text = String::new();
    child.stdout.take()?.read_to_string(&mut text).ok()?;
    let words = text.lines().next()?.split_whitespace();
    words.into_iter().find(|word| word.contains(|c: char| c.is_ascii_digit())).map(str::to_owned)
}

/// A package with our plug-in, or a configuration that names it.
fn neovim_plugin() -> Option<PathBuf> {
    let data = dirs::data_dir()?.join("nvim");
    let packs = children(&data.join("site/pack")).into_iter();
    let packs = packs.flat_map(|pack| [pack.join("start"), pack.join("opt")]);
    let packages = packs.chain([data.join("lazy")]).flat_map(|dir| children(&dir));
    let is_ours = |dir: &PathBuf| dir.join("lua/fimd/init.lua").exists();
    let config = dirs::config_dir()?.join("nvim");
    let files = ["", "lua", "lua/plugins", "lua/config", "plugin", "after/plugin", "lsp"];
    let mut files = files.iter().flat_map(|dir| children(&config.join(dir)));
    packages.into_iter().find(is_ours).or_else(|| files.find(|path| names_us(path)))
}

fn helix_configuration() -> Option<PathBuf> {
    Some(dirs::config_dir()?.join("helix/languages.toml")).filter(|path| names_us(path))
}

fn vscode_extension() -> Option<PathBuf> {
    let home = dirs::home_dir()?;
    let dirs = [".vscode", ".vscode-server", ".vscode-insiders", ".vscode-oss"];
    let mut extensions = dirs.iter().flat_map(|dir| children(&home.join(dir).join("extensions")));
    extensions
        .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("fimd.fimd-")))
}

/// The entries of a folder, none where there is none.
fn children(dir: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> =
        fs::read_dir(dir).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.sort();
    paths
}

fn names_us(file: &Path) -> bool {
    file.is_file() && fs::read_to_string(file).is_ok_and(|text| text.contains("fimd"))
}
