//! The layers and absences that the crate doc promises.

use std::fs;
use std::path::{Path, PathBuf};

/// The modules of each layer, lowest first. A module names only itself and what stands on a lower layer.
const LAYERS: &[&[&str]] = &[
    &["base"],
    &["format", "text"],
    &["compute"],
    &["model"],
    &["hub", "session"],
    &["decode"],
    &["serve"],
    &["complete"],
    &["assist"],
    &["config"],
    &["resident"],
    &["lsp"],
    &["daemon", "bench"],
    &["cli"],
];

/// A text and the only places below `src` that may contain it, outside unit tests.
const RESERVED: &[(&str, &[&str])] = &[
    ("tower_lsp::", &["lsp/"]),
    ("tokio", &["resident/mod.rs", "lsp/", "daemon/", "cli/", "bench/keystrokes/client.rs"]),
    ("async fn", &["lsp/", "daemon/", "cli/", "bench/keystrokes/client.rs"]),
    ("std::arch", &["compute/cpu/"]),
    ("memmap2", &["format/"]),
    ("std::net", &["bench/keystrokes/infill.rs"]),
    ("ureq", &["complete/remote/transport.rs", "base/logging.rs"]),
    ("println!", &["cli/mod.rs"]),
    ("unsafe {", &["base/pool.rs", "format/mmap.rs", "compute/cpu/"]),
    ("unsafe fn", &["base/pool.rs", "compute/cpu/"]),
];

/// Files that decide without touching the world.
const PURE: &[&str] = &[
    "session/keep.rs",
    "session/prefix.rs",
    "decode/drafts.rs",
    "decode/stop/fence.rs",
    "decode/stop/mod.rs",
    "decode/stop/passage.rs",
    "decode/stop/repetition.rs",
    "serve/queue.rs",
    "complete/anchor.rs",
    "complete/encode.rs",
    "complete/fim.rs",
    "complete/context.rs",
    "complete/edit.rs",
    "complete/gate.rs",
    "complete/options.rs",
    "complete/plan.rs",
    "complete/record.rs",
    "complete/remote/wire.rs",
    "complete/request.rs",
    "complete/retained.rs",
    "complete/rules.rs",
    "complete/service/action.rs",
    "complete/service/decide.rs",
    "complete/service/job.rs",
    "complete/service/pace.rs",
    "complete/service/place.rs",
    "complete/service/suggestion.rs",
    "complete/service/tracked.rs",
    "complete/stats.rs",
    "complete/trim.rs",
    "assist/answer.rs",
    "assist/definition.rs",
    "assist/documentation.rs",
    "assist/memory.rs",
    "assist/prompt.rs",
    "assist/symbol.rs",
    "text/delimiters.rs",
    "text/families.rs",
    "text/indentation.rs",
    "text/language.rs",
    "text/lexer.rs",
    "text/mod.rs",
    "text/recent.rs",
    "text/syntax.rs",
    "text/words.rs",
    "bench/fit.rs",
    "bench/keystrokes/plot.rs",
    "bench/keystrokes/report.rs",
    "bench/keystrokes/session.rs",
    "bench/keystrokes/typist.rs",
    "lsp/bridge/past.rs",
    "model/architecture/mod.rs",
    "model/architecture/part.rs",
    "model/architecture/qwen3next.rs",
    "model/export/mod.rs",
    "model/export/metadata.rs",
    "model/export/recipe.rs",
    "model/export/vocabulary.rs",
];

#[test]
fn modules_use_only_lower_layers() {
    for (path, text) in sources() {
        let module = path.split(['/', '.']).next().unwrap();
        let Some(own) = layer(module) else { continue };
        for (_, rest) in text.match_indices("crate::").map(|(at, found)| text[at..].split_at(found.len())) {
            for used in imported(rest) {
                let Some(other) = layer(used) else {
                    panic!("{path} uses crate::{used}, which is in no layer")
                };
                assert!(used == module || other < own, "{path} uses {used}, which is not below {module}");
            }
        }
    }
}

#[test]
fn every_module_has_a_layer_and_is_in_the_crate_doc() {
    let doc = fs::read_to_string(source_dir().join("lib.rs")).unwrap();
    for line in doc.lines().filter_map(|line| line.strip_prefix("pub mod ")) {
        let module = line.trim_end_matches(';');
        assert!(layer(module).is_some(), "{module} has no layer");
        assert!(doc.contains(&format!("[`{module}`]")), "{module} is not in the crate doc");
    }
}

#[test]
fn reserved_names_stay_where_they_belong() {
    for (path, text) in sources().into_iter().filter(|(path, _)| !path.ends_with("/tests.rs")) {
        let text = text.split("#[cfg(test)]").next().unwrap();
        for (name, places) in RESERVED.iter().copied() {
            let allowed = places.iter().any(|place| path.starts_with(place));
            let line =
                text.lines().position(|line| line.contains(name) && !line.trim_start().starts_with("//"));
            if let Some(line) = line.filter(|_| !allowed) {
                panic!("src/{path}:{} names {name}, which belongs in {places:?}", line + 1);
            }
        }
    }
}

#[test]
fn pure_files_touch_nothing() {
    for file in PURE {
        let text = fs::read_to_string(source_dir().join(file)).unwrap();
        let text = text.split("#[cfg(test)]").next().unwrap();
        for impure in ["std::fs", "std::io", "std::thread", "std::env", "Instant::now", "SystemTime"] {
            assert!(!text.contains(impure), "src/{file} is pure, but names {impure}");
        }
    }
}

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|modules| modules.contains(&module))
}

/// The modules that stand right after `crate::`: one, or those of a `{..}` group.
fn imported(rest: &str) -> Vec<&str> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let Some(group) = rest.strip_prefix('{') else {
        return vec![rest.split(|c| !is_name(c)).next().unwrap()];
    };
    let mut names = Vec::new();
    let (mut depth, mut start) = (0, 0);
    for (at, c) in group.char_indices() {
        match c {
            ',' | '}' if depth == 0 => {
                names.push(group[start..at].trim().split(|c| !is_name(c)).next().unwrap());
                start = at + 1;
                if c == '}' {
                    break;
                }
            }
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

fn source_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// Path below `src` and text of every source file, comments included.
fn sources() -> Vec<(String, String)> {
    let mut files = Vec::new();
    let mut dirs = vec![source_dir()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(source_dir()).unwrap().to_string_lossy().replace('\\', "/");
                files.push((name, fs::read_to_string(&path).unwrap()));
            }
        }
    }
    assert!(files.len() > 20);
    files
}
