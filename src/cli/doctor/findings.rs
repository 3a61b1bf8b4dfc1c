//! What the facts about a machine mean for a user. Pure.

use std::path::PathBuf;

use indicatif::HumanBytes;
use serde::Serialize;

use crate::base::memory::Space;

/// Below this many bytes per second of memory bandwidth even small models are slow.
const BANDWIDTH_MIN: f64 = 8e9;
/// Below this many bytes per second it takes long to load a model.
const DISK_MIN: f64 = 2e8;
/// The oldest Neovim with ghost text of its own.
const NEOVIM_MIN: (u32, u32) = (0, 12);

/// What was found on a machine.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Facts {
    pub version: String,
    /// Brand name of the CPU.
    pub cpu: String,
    pub cores: usize,
    /// SIMD level of the kernels.
    pub level: String,
    /// Compute threads.
    pub threads: usize,
    pub memory: Space,
    /// Bytes per second.
    pub memory_bandwidth: f64,
    pub disk: Disk,
    pub gpu: Gpu,
    pub daemon: Daemon,
    pub model: Model,
    pub editors: Vec<Editor>,
    pub settings_file: Option<PathBuf>,
    pub settings_problems: Vec<String>,
    /// How to get the best model for this machine, if there is one.
    pub advice: Option<String>,
}

/// The disk that holds the model.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Disk {
    Read {
        path: PathBuf,
        bytes_per_second: f64,
    },
    /// Why it was not measured.
    Skipped(String),
}

/// GPUs of NVIDIA.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Gpu {
    /// How many the system has, as far as it has a driver.
    pub devices: usize,
    /// The one that models run on.
    pub usable: Option<String>,
    /// Why none can be used, unless there is none.
    pub problem: Option<String>,
    /// What the model that the settings name takes of its memory.
    pub plan: Option<String>,
    /// Why that model does not fit it.
    pub refused: Option<String>,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Daemon {
    Stopped,
    Running {
        version: String,
        /// Whether it is this build.
        is_own: bool,
        /// Whether only the fallback model serves.
        lacks_its_model: bool,
        /// The model that it serves.
        model: String,
        /// Resident set size, in bytes.
        memory_bytes: u64,
        /// Why the last load failed.
        failure: Option<String>,
    },
    /// Why it could not be asked.
    Unreachable(String),
}

/// A model some of whose experts are read from disk, see `fimd plan`.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Tiered {
    /// Experts of each layer that fit in memory.
    pub slots: usize,
    /// Experts of each layer.
    pub experts: usize,
    /// What memory and disk then allow, with the routing of text.
    pub tokens_per_s: f64,
}

/// The model that the settings name.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Model {
    Starter,
    /// The URL of a remote backend.
    Remote(String),
    Local {
        path: PathBuf,
        weight_bytes: u64,
        cache_bytes: u64,
        /// Where only some of its experts fit in memory.
        tiers: Option<Tiered>,
    },
    Unusable {
        path: PathBuf,
        why: String,
    },
}

/// An editor on the `PATH`.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Editor {
    pub kind: EditorKind,
    /// As it says it itself.
    pub version: Option<String>,
    /// Where our plug-in or configuration was found.
    pub plugin: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum EditorKind {
    Neovim,
    Helix,
    VsCode,
}

/// One line of the report.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Finding {
    pub topic: &'static str,
    pub verdict: Verdict,
    pub text: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Verdict {
    Good,
    /// It works, but not as well as it could.
    Warning,
    /// It must be corrected.
    Bad,
}

/// What to tell of each fact, in the order of the report.
pub(super) fn findings(facts: &Facts) -> Vec<Finding> {
    let mut found = vec![
        good("program", format!("fimd {}", facts.version)),
        cpu(facts),
        memory(facts),
        disk(&facts.disk),
        gpu(&facts.gpu),
        daemon(&facts.daemon),
        model(facts),
    ];
    found.extend(editors(&facts.editors));
    found.extend(settings(facts));
    found
}

fn cpu(facts: &Facts) -> Finding {
    let Facts { cpu, cores, level, threads, .. } = facts;
    let text = format!("{cpu}, {cores} cores, {level}, computes with {threads} threads");
    if level == "portable" {
        let remedy =
            "The kernels have no SIMD for this CPU and are several times slower: choose a small model.";
        return warning("cpu", text, remedy);
    }
    good("cpu", text)
}

fn memory(facts: &Facts) -> Finding {
    let Space { total, free } = facts.memory;
    let (total, free) = (HumanBytes(total), HumanBytes(free));
    let text = format!("{total}, {free} of it free, {}", rate(facts.memory_bandwidth));
    if facts.memory_bandwidth < BANDWIDTH_MIN {
        return warning(
            "memory",
            text,
            "Each token reads the weights once: on slow memory choose a small model.",
        );
    }
    good("memory", text)
}

fn disk(disk: &Disk) -> Finding {
    match disk {
        Disk::Skipped(why) => good("disk", format!("not measured: {why}")),
        Disk::Read { path, bytes_per_second } => {
            let text = format!("{} read at {}", path.display(), rate(*bytes_per_second));
            if *bytes_per_second < DISK_MIN {
                return warning("disk", text, "Loading takes long: move the model to a faster disk.");
            }
            good("disk", text)
        }
    }
}

fn gpu(gpu: &Gpu) -> Finding {
    match gpu {
        Gpu { usable: Some(name), refused: Some(refused), .. } => {
            warning("gpu", format!("{name}; the model runs on the CPU"), &format!("On the GPU {refused}."))
        }
        Gpu { usable: Some(name), plan: Some(plan), .. } => {
            good("gpu", format!("{name}; with gpu.enabled the model takes of its memory {plan}"))
        }
        Gpu { usable: Some(name), .. } => {
            good("gpu", format!("{name}; with gpu.enabled models that fit run on it"))
        }
        Gpu { problem: Some(problem), .. } => warning(
            "gpu",
            format!("{problem}; models run on the CPU"),
            "With gpu.enabled the log says the same when a model is loaded.",
        ),
        Gpu { devices: 0, .. } => good("gpu", "none of NVIDIA; models run on the CPU".to_owned()),
        Gpu { devices, .. } => warning(
            "gpu",
            format!("{devices} of NVIDIA, without libcuda; models run on the CPU"),
            "Install the library of the NVIDIA driver (libcuda.so.1): in a container, with the NVIDIA runtime.",
        ),
    }
}

fn daemon(daemon: &Daemon) -> Finding {
    match daemon {
        Daemon::Stopped => good("daemon", "not running; an editor starts it".into()),
        Daemon::Unreachable(why) => bad(
            "daemon",
            why.clone(),
            "`fimd stop` ends a daemon of another build; the next editor starts this one.",
        ),
        Daemon::Running { version, is_own, lacks_its_model, model, failure, .. } => {
            let text = format!("fimd {version} serves {model}");
            match failure {
                Some(failure) if *lacks_its_model => bad(
                    "daemon",
                    format!("{text}, a fallback: {failure}"),
                    "`fimd use NAME|PATH` makes another one the default, and the daemon loads it at once.",
                ),
                Some(failure) => warning(
                    "daemon",
                    format!("{text}; last load failed: {failure}"),
                    "`fimd load PATH` with a model that exists makes that the last one.",
                ),
                None if !is_own => warning(
                    "daemon",
                    format!("{text}, from another build than this program"),
                    "`fimd stop` ends it; the next editor starts this build.",
                ),
                None => good("daemon", text),
            }
        }
    }
}

fn model(facts: &Facts) -> Finding {
    let (path, weight_bytes, cache_bytes, tiers) = match &facts.model {
        Model::Starter => {
            let usual = || "`fimd use PATH` makes a checkpoint or a GGUF file the default.".to_owned();
            let remedy = facts.advice.as_ref().map_or_else(usual, |advice| format!("{advice}."));
            return warning("model", "the built-in starter, a toy".into(), &remedy);
        }
        Model::Remote(url) => return good("model", format!("that of the server {url}")),
        Model::Unusable { path, why } => {
            let remedy = "`fimd use NAME|PATH` makes another one the default; `fimd models` lists some.";
            return bad("model", format!("{}: {why}", path.display()), remedy);
        }
        Model::Local { path, weight_bytes, cache_bytes, tiers } => (path, *weight_bytes, *cache_bytes, tiers),
    };
    let needs = weight_bytes + cache_bytes;
    let text = format!(
        "{}: {} of weights, {} with the cache",
        path.display(),
        HumanBytes(weight_bytes),
        HumanBytes(needs)
    );
    // What the daemon holds is free for what it holds.
    let held = match facts.daemon {
        Daemon::Running { memory_bytes, .. } => memory_bytes,
        _ => 0,
    };
    if let Some(Tiered { slots, experts, tokens_per_s }) = tiers {
        let text = format!(
            "{text}; {slots} of {experts} experts of each layer fit in memory, which allows about {tokens_per_s:.1} tokens/s"
        );
        warning("model", text, "`fimd plan` shows what would make it faster.")
    } else if weight_bytes > facts.memory.total {
        let remedy = "It exceeds the memory, so each token reads from the disk: choose a smaller one, or fewer bits by `fimd quantize`.";
        bad("model", text, remedy)
    } else if needs > facts.memory.free + held {
        warning("model", text, "It exceeds the free memory: close other programs, or choose a smaller one.")
    } else {
        good("model", text)
    }
}

fn editors(editors: &[Editor]) -> Vec<Finding> {
    if editors.is_empty() {
        let remedy = "Any editor with a language client can start `fimd lsp`.";
        return vec![warning("editor", "no nvim, hx or code on the PATH".into(), remedy)];
    }
    editors.iter().map(editor).collect()
}

fn editor(editor: &Editor) -> Finding {
    let Editor { kind, version, plugin } = editor;
    let version = version.as_deref().unwrap_or("of unknown version");
    let name = format!("{} {version}", kind.name());
    let is_old = version_of(version).is_some_and(|version| version < NEOVIM_MIN);
    match plugin {
        _ if *kind == EditorKind::Neovim && is_old => {
            warning("editor", name, "The plug-in needs Neovim 0.12, which has ghost text of its own.")
        }
        Some(path) => good("editor", format!("{name}, set up in {}", path.display())),
        None => warning("editor", format!("{name}, not set up for fimd"), kind.remedy()),
    }
}

impl EditorKind {
    fn name(self) -> &'static str {
        match self {
            Self::Neovim => "Neovim",
            Self::Helix => "Helix",
            Self::VsCode => "Visual Studio Code",
        }
    }

    fn remedy(self) -> &'static str {
        match self {
            Self::Neovim => "Append the folder editors/neovim of the sources to `runtimepath` in init.lua.",
            Self::Helix => {
                "Append editors/helix/languages.toml of the sources to the languages.toml of Helix."
            }
            Self::VsCode => {
                "In editors/vscode of the sources: `npm ci`, `npm run package`, `code --install-extension fimd.vsix`."
            }
        }
    }
}

/// Major and minor version, from text such as `0.12.1`.
fn version_of(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.trim_start_matches('v').split(['.', '-', '+']).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

fn settings(facts: &Facts) -> Vec<Finding> {
    let remedy = "Correct it: `fimd config` shows what counts and where it comes from.";
    if !facts.settings_problems.is_empty() {
        return facts
            .settings_problems
            .iter()
            .map(|problem| bad("settings", problem.clone(), remedy))
            .collect();
    }
    vec![good(
        "settings",
        match &facts.settings_file {
            Some(path) => format!("{}", path.display()),
            None => "no file; `fimd config --init` writes one".into(),
        },
    )]
}

/// Bytes per second, for people.
fn rate(bytes_per_second: f64) -> String {
    format!("{:.1} GB/s", bytes_per_second / 1e9)
}

fn good(topic: &'static str, text: String) -> Finding {
    Finding { topic, verdict: Verdict::Good, text, remedy: None }
}

fn warning(topic: &'static str, text: String, remedy: &str) -> Finding {
    Finding { topic, verdict: Verdict::Warning, text, remedy: Some(remedy.to_owned()) }
}

fn bad(topic: &'static str, text: String, remedy: &str) -> Finding {
    Finding { topic, verdict: Verdict::Bad, text, remedy: Some(remedy.to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn healthy() -> Facts {
        Facts {
            version: "1.2.3".into(),
            cpu: "a CPU".into(),
            cores: 8,
            level: "avx2".into(),
            threads: 4,
            memory: Space { free: 12 * GIB, total: 16 * GIB },
            memory_bandwidth: 3e10,
            disk: Disk::Read { path: "/m".into(), bytes_per_second: 2e9 },
            gpu: Gpu::default(),
            daemon: Daemon::Stopped,
            model: local(4 * GIB),
            editors: vec![editor_of(EditorKind::Helix, "25.07", true)],
            settings_file: None,
            settings_problems: Vec::new(),
            advice: Some("`fimd pull x` gets it".into()),
        }
    }

    fn local(weight_bytes: u64) -> Model {
        Model::Local { path: "/m".into(), weight_bytes, cache_bytes: GIB, tiers: None }
    }

    fn tiered(weight_bytes: u64) -> Model {
        let tiers = Some(Tiered { slots: 100, experts: 512, tokens_per_s: 2.5 });
        Model::Local { path: "/m".into(), weight_bytes, cache_bytes: GIB, tiers }
    }

    fn editor_of(kind: EditorKind, version: &str, is_set_up: bool) -> Editor {
        let plugin = is_set_up.then(|| PathBuf::from("/plugin"));
        Editor { kind, version: Some(version.into()), plugin }
    }

    fn running(is_own: bool, lacks_its_model: bool, failure: Option<&str>) -> Daemon {
        Daemon::Running {
            version: "1.2.3".into(),
            is_own,
            lacks_its_model,
            model: "/m".into(),
            memory_bytes: 5 * GIB,
            failure: failure.map(str::to_owned),
        }
    }

    #[test]
    fn a_machine_without_problems_has_a_line_for_each_topic() {
        let found = findings(&healthy());
        let topics: Vec<&str> = found.iter().map(|finding| finding.topic).collect();
        let expected = ["program", "cpu", "memory", "disk", "gpu", "daemon", "model", "editor", "settings"];
        assert_eq!(topics, expected);
        assert!(found.iter().all(|finding| finding.verdict == Verdict::Good && finding.remedy.is_none()));
        assert_eq!(found[1].text, "a CPU, 8 cores, avx2, computes with 4 threads");
        assert_eq!(found[2].text, "16.00 GiB, 12.00 GiB of it free, 30.0 GB/s");
    }

    #[test]
    fn each_problem_has_its_verdict_and_a_remedy() {
        use EditorKind::{Neovim, VsCode};
        use Verdict::{Bad, Good, Warning};
        type Change = fn(&mut Facts);
        let cases: &[(Change, &str, Verdict, &str)] = &[
            (|f| f.level = "portable".into(), "cpu", Warning, "portable"),
            (|f| f.memory_bandwidth = 4e9, "memory", Warning, "4.0 GB/s"),
            (|f| f.disk = Disk::Skipped("no file".into()), "disk", Good, "no file"),
            (|f| f.disk = Disk::Read { path: "/m".into(), bytes_per_second: 1e8 }, "disk", Warning, "/m"),
            (|f| f.gpu.devices = 2, "gpu", Warning, "2 of NVIDIA, without libcuda"),
            (|f| f.gpu.usable = Some("RTX".into()), "gpu", Good, "RTX; with gpu.enabled models that fit"),
            (|f| f.gpu.problem = Some("too old".into()), "gpu", Warning, "too old; models run on the CPU"),
            (|f| f.daemon = running(true, false, None), "daemon", Good, "serves /m"),
            (|f| f.daemon = running(false, false, None), "daemon", Warning, "another build"),
            (|f| f.daemon = running(true, false, Some("gone")), "daemon", Warning, "last load failed: gone"),
            (|f| f.daemon = running(true, true, Some("gone")), "daemon", Bad, "a fallback: gone"),
            (|f| f.daemon = Daemon::Unreachable("mismatch".into()), "daemon", Bad, "mismatch"),
            (|f| f.model = Model::Starter, "model", Warning, "toy"),
            (|f| f.model = Model::Remote("http://x".into()), "model", Good, "http://x"),
            (
                |f| f.model = Model::Unusable { path: "/x".into(), why: "not there".into() },
                "model",
                Bad,
                "/x: not there",
            ),
            (|f| f.model = local(11 * GIB), "model", Good, "12.00 GiB with the cache"),
            (|f| f.model = local(12 * GIB), "model", Warning, "13.00 GiB with the cache"),
            (
                |f| (f.model, f.daemon) = (local(12 * GIB), running(true, false, None)),
                "model",
                Good,
                "13.00 GiB with the cache",
            ),
            (|f| f.model = local(17 * GIB), "model", Bad, "17.00 GiB of weights"),
            (|f| f.model = tiered(17 * GIB), "model", Warning, "100 of 512 experts of each layer"),
            (|f| f.editors = Vec::new(), "editor", Warning, "no nvim"),
            (|f| f.editors = vec![editor_of(Neovim, "v0.11.4", true)], "editor", Warning, "v0.11.4"),
            (
                |f| f.editors = vec![editor_of(Neovim, "v0.12.0-dev", true)],
                "editor",
                Good,
                "set up in /plugin",
            ),
            (|f| f.editors = vec![editor_of(Neovim, "v1.0", false)], "editor", Warning, "not set up"),
            (|f| f.editors = vec![editor_of(VsCode, "1.91", false)], "editor", Warning, "not set up"),
            (|f| f.settings_file = Some("/f.toml".into()), "settings", Good, "/f.toml"),
            (|f| f.settings_problems = vec!["/f.toml:1: a".into()], "settings", Bad, "/f.toml:1: a"),
        ];
        for (change, topic, verdict, words) in cases {
            let mut facts = healthy();
            change(&mut facts);
            let found = findings(&facts);
            let finding = found.iter().find(|finding| finding.topic == *topic).unwrap();
            assert!(finding.verdict == *verdict && finding.text.contains(words), "{finding:?}");
            assert_eq!(finding.remedy.is_some(), *verdict != Good, "{finding:?}");
            let others = found.iter().filter(|finding| finding.topic != *topic);
            assert!(others.into_iter().all(|finding| finding.verdict == Good), "{found:?}");
        }
        let two = Facts { settings_problems: vec!["a".into(), "b".into()], ..healthy() };
        assert_eq!(findings(&two).iter().filter(|finding| finding.verdict == Bad).count(), 2);
    }
}
