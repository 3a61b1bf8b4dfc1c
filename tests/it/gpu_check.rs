//! `scripts/gpu_check`: what it carries runs without the sources, here on the emulated driver.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::cuda::build::{self, PRODUCT};
use crate::cuda::child;
use crate::paths;

/// A check of each kind: one that runs on any driver, and one that needs the emulated one; and a timing.
const CHOSEN: [&str; 8] = [
    "--tests",
    "gpu::a_tensor_is_copied_once",
    "--tests",
    "gpu::a_token_is_waited_for_once",
    "--tests",
    "cuda::attention::",
    "--timings",
    "text, 60% hits",
];

fn script(arguments: &[&str], root: &Path, environment: &[(String, String)]) -> (bool, String) {
    let mut command = Command::new("python3");
    command.arg(root.join("gpu_check")).args(arguments).env("PYTHONDONTWRITEBYTECODE", "1");
    let output = command.envs(environment.iter().cloned()).output().unwrap();
    (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// The results named `name`.
fn named<'a>(results: &'a Value, kind: &str, name: &str) -> &'a Value {
    let all = results[kind].as_array().unwrap();
    all.iter().find(|result| result["name"] == name).unwrap_or_else(|| panic!("{name} is not in {results}"))
}

#[test]
fn what_is_carried_checks_and_times() {
    if Command::new("python3").arg("--version").output().is_err() {
        return child::skip("scripts/gpu_check", "there is no python3");
    }
    let Some(emulator) = build::emulator(PRODUCT) else { return };
    let folder = tempfile::tempdir().unwrap();
    let (carried, out) = (folder.path().join("carried"), folder.path().join("out"));
    let (program, tests) = (paths::program(), std::env::current_exe().unwrap());
    let [carried_text, out_text, program, tests] =
        [&carried, &out, &program, &tests].map(|path| path.to_str().unwrap());
    let scripts = paths::root().join("scripts");
    let prepare = ["prepare", carried_text, "--program", program, "--tests", tests];
    let (is_done, said) = script(&prepare, &scripts, &[]);
    assert!(is_done, "{said}");
    // Nothing is read from the sources but what was carried.
    assert!(carried.join("tests/data/vectors/long").is_dir() && !carried.join("Cargo.toml").exists());

    let run = [&["run", "--out", out_text, "--tiny", "--seed", "7", "--minutes", "5"], &CHOSEN[..]].concat();
    let (is_done, said) = script(&run, &carried, &emulator.environment(&[]));
    assert!(is_done, "{said}");
    let read = |name: &str| fs::read_to_string(out.join(name)).unwrap();
    let results: Value = serde_json::from_str(&read("results.json")).unwrap();
    assert_eq!((&results["is_whole"], &results["seed"]), (&true.into(), &7.into()));
    assert_eq!(results["checks"].as_array().unwrap().len(), 3, "{said}");
    assert_eq!(named(&results, "checks", CHOSEN[1])["state"], "passed");
    assert_eq!(named(&results, "checks", CHOSEN[3])["state"], "skipped");
    let report = &named(&results, "timings", CHOSEN[7])["report"];
    let (slots, experts) = (report["on_gpu"]["slots"].as_u64(), report["on_gpu"]["experts"].as_u64());
    assert!((Some(1)..Some(8)).contains(&slots) && experts == Some(8), "{report}");
    let bytes = ["gpu_bytes", "link_bytes", "cpu_bytes"].map(|name| report["on_gpu"][name].as_f64().unwrap());
    assert!(bytes.iter().all(|&bytes| bytes >= 0.0) && bytes[0] > 0.0, "{report}");
    assert!(report["more"]["ms"]["median"].as_f64().unwrap() > 0.0, "{report}");
    let text = read("report.md");
    for expected in ["Emulated GPU", "seed 7", "| text, 60% hits | 3 |", "it needs the emulated driver"] {
        assert!(text.contains(expected), "{expected}: {text}");
    }
    assert!(
        !text.contains("The run has not ended") && text.contains("no figure below says anything of a GPU")
    );

    // A check that fails is told, and one that is not there is not passed.
    let broken = carried.join("tests/data/vectors/qwen2_tied/model-00001-of-00002.safetensors");
    fs::write(&broken, "{").unwrap();
    let run = ["run", "--out", out_text, "--only", "check", "--tests", CHOSEN[1]];
    let (is_done, said) = script(&run, &carried, &emulator.environment(&[]));
    assert!(!is_done && said.contains("FAILED") && said.contains("a check failed"), "{said}");
    let text = read("report.md");
    assert!(text.contains("## Checks") && text.contains("**gpu::a_tensor_is_copied_once**"), "{text}");
}
