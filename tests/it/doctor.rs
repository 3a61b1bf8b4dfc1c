//! `fimd doctor` on machines made up for it.

use std::fs;
use std::path::Path;
use std::process::Output;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::cli::program;
use crate::tiny;

fn doctor(home: &Path, settings: &str, args: &[&str]) -> Output {
    let file = home.join("fimd.toml");
    fs::write(&file, settings).unwrap();
    let mut command = program();
    command.arg("doctor").args(args).env("FIMD_CONFIG", file).env("FIMD_RUNTIME_DIR", home.join("run"));
    for name in ["XDG_DATA_HOME", "XDG_CONFIG_HOME"] {
        command.env_remove(name);
    }
    command.env("HOME", home).env("PATH", home.join("bin")).output().unwrap()
}

fn findings(home: &Path, settings: &str) -> (Value, Option<i32>) {
    let output = doctor(home, settings, &["--json"]);
    let value: Value = serde_json::from_slice(&output.stdout).unwrap();
    (value, output.status.code())
}

/// The findings on a topic.
fn on<'v>(report: &'v Value, topic: &str) -> Vec<&'v Value> {
    let all = report["findings"].as_array().unwrap();
    all.iter().filter(|finding| finding["topic"] == topic).collect()
}

#[test]
fn what_is_healthy_is_said_to_be_with_the_facts() {
    let (home, model) = (TempDir::new().unwrap(), tiny::folder());
    let settings = format!("model = '{}'\n", model.path().display());
    let (report, code) = findings(home.path(), &settings);
    assert_eq!((report["is_healthy"].clone(), code), (json!(true), Some(0)), "{report:#}");
    for topic in ["program", "cpu", "memory", "disk", "gpu", "daemon", "model", "editor", "settings"] {
        assert_eq!(on(&report, topic).len(), 1, "{report:#}");
    }
    let facts = &report["facts"];
    for number in ["/cores", "/memory/total", "/memory_bandwidth", "/disk/read/bytes_per_second"] {
        assert!(facts.pointer(number).unwrap().as_f64().unwrap() > 0.0, "{number}: {facts:#}");
    }
    assert!(facts["model"]["local"]["weight_bytes"].as_u64().unwrap() > 0);
    assert_eq!(facts["daemon"], "stopped");
    assert!(!home.path().join("run/daemon.sock").exists(), "it starts no daemon");
}

#[test]
fn what_must_be_corrected_makes_the_exit_code() {
    let home = TempDir::new().unwrap();
    let (report, code) = findings(home.path(), "model = '/nowhere'\nwarm = 7\n");
    assert_eq!((report["is_healthy"].clone(), code), (json!(false), Some(1)));
    let (model, settings) = (on(&report, "model")[0], on(&report, "settings")[0]);
    for (finding, words) in [(model, "/nowhere"), (settings, "fimd.toml:2: warm: expected true or false")] {
        assert!(
            finding["verdict"] == "bad" && finding["text"].as_str().unwrap().contains(words),
            "{finding}"
        );
        assert!(finding["remedy"].as_str().unwrap().ends_with('.'), "{finding}");
    }
    let output = doctor(home.path(), "warm = 7\n", &[]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("✓ program") && text.contains("! model") && text.contains("✗ settings"), "{text}");
    assert!(!text.contains('\x1b'), "a pipe has no colours");
    assert!(String::from_utf8_lossy(&output.stderr).starts_with("error: 1 of these"));
}

#[cfg(unix)]
#[test]
fn editors_are_found_with_what_is_set_up_in_them() {
    use std::os::unix::fs::PermissionsExt;
    let home = TempDir::new().unwrap();
    let write = |path: &str, text: &str| {
        let path = home.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    };
    write("bin/nvim", "#!/bin/sh\necho 'NVIM v0.12.1'\necho more\n");
    write("bin/hx", "#!/bin/sh\necho 'helix 25.07 (abc)'\n");
    write("bin/code", "#!/bin/sh\nexit 1\n");
    let versions = |report: &Value| {
        let editors = report["facts"]["editors"].as_array().unwrap().clone();
        editors.iter().map(|editor| (editor["kind"].clone(), editor["version"].clone())).collect::<Vec<_>>()
    };
    let (before, _) = findings(home.path(), "");
    let expected = [
        (json!("neovim"), json!("v0.12.1")),
        (json!("helix"), json!("25.07")),
        (json!("vs_code"), json!(null)),
    ];
    assert_eq!(versions(&before), expected);
    assert!(on(&before, "editor").iter().all(|finding| finding["verdict"] == "warning"), "{before:#}");
    if cfg!(not(target_os = "linux")) {
        return;
    }
    write(".config/nvim/init.lua", "vim.opt.runtimepath:append('~/src/fimd/editors/neovim')\n");
    write(".config/helix/languages.toml", "[language-server.fimd]\ncommand = 'fimd'\n");
    write(".vscode/extensions/fimd.fimd-0.1.0/package.json", "{}");
    let (after, _) = findings(home.path(), "");
    assert!(on(&after, "editor").iter().all(|finding| finding["verdict"] == "good"), "{after:#}");
    write(".config/nvim/init.lua", "");
    write(".local/share/nvim/site/pack/x/start/fimd/lua/fimd/init.lua", "");
    let (packed, _) = findings(home.path(), "");
    assert!(on(&packed, "editor")[0]["text"].as_str().unwrap().contains("pack/x/start/fimd"), "{packed:#}");
}
