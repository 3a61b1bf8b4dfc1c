//! The program as a user runs it.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

/// The program, away from the daemon and the settings of the user who runs the tests.
pub fn program() -> Command {
    // The path of a socket is short; where the build lies deep, the folder for temporary files does.
    let own = Path::new(env!("CARGO_TARGET_TMPDIR")).join("run");
    let is_short = own.as_os_str().len() < 80;
    let elsewhere = if is_short { own } else { std::env::temp_dir().join("fimd-tests") };
    let mut command = Command::new(env!("CARGO_BIN_EXE_fimd"));
    command.env("FIMD_RUNTIME_DIR", elsewhere).env("FIMD_CONFIG", "").stdin(Stdio::null());
    command
}

fn fimd(args: &[&str]) -> Output {
    program().args(args).output().unwrap()
}

/// What a command prints, which must succeed.
#[track_caller]
pub fn stdout(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{command:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// The object a command prints.
#[track_caller]
pub fn json(args: &[&str]) -> Value {
    let text = stdout(program().args(args));
    assert_eq!(text.lines().count(), 1, "one JSON object: {text}");
    serde_json::from_str(&text).unwrap()
}

/// Fails with `code`, says every one of `words` on stderr and nothing on stdout.
#[track_caller]
pub fn check_fails(args: &[&str], code: i32, words: &[&str]) {
    let output = fimd(args);
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{args:?}: {errors}");
    assert!(output.stdout.is_empty());
    for word in words {
        assert!(errors.contains(word), "{args:?}: {word:?} is not in: {errors}");
    }
}

fn vectors(case: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/vectors").join(case);
    path.to_str().unwrap().to_owned()
}

fn file(dir: &TempDir, name: &str, content: impl AsRef<[u8]>) -> String {
    let path = dir.path().join(name);
    fs::write(&path, content).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn generate_needs_no_tokenizer_for_ids() {
    let model = vectors("tied");
    let ids =
        ["generate", "--model", &model, "--ids", "3,1,4", "--max-tokens", "5", "--ignore-eos", "--json"];
    let value = json(&[&ids[..], &["--top-logprobs", "2", "--threads", "1"]].concat());
    assert_eq!(value["prompt_ids"], serde_json::json!([3, 1, 4]));
    assert_eq!(value["ids"].as_array().unwrap().len(), 5);
    assert_eq!(value["logprobs"].as_array().unwrap().len(), 5);
    for i in 0..5 {
        let best = &value["top_logprobs"][i][0];
        assert_eq!(best[0], value["ids"][i], "greedy takes the likeliest");
        assert_eq!(best[1], value["logprobs"][i]);
        assert_eq!(value["top_logprobs"][i].as_array().unwrap().len(), 2);
    }
    assert_eq!(value["text"], Value::Null);
    for key in ["load_ms", "prefill_tokens", "prefill_ms", "decode_tokens", "decode_ms"] {
        assert!(value["timings"][key].is_number(), "{key}");
    }
    assert_eq!(value["timings"]["prefill_tokens"], 3);
    assert_eq!(value["ids"], json(&ids)["ids"], "threads do not change the result");
}

#[test]
fn without_a_subcommand_it_says_what_to_do_next() {
    let dir = TempDir::new().unwrap();
    let said = |model: &str| {
        let mut command = program();
        command.env("HF_HOME", dir.path()).env("FIMD_RUNTIME_DIR", dir.path().join("run"));
        if !model.is_empty() {
            command.env("FIMD_MODEL", model);
        }
        let output = command.output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap()
    };
    let text = said("");
    for words in ["not running", "starter: a toy", "fimd --help", "fimd doctor", "fimd pull "] {
        assert!(text.contains(words), "{words:?} is not in {text}");
    }
    assert!(text.lines().count() <= 8 && !text.contains('\x1b'), "{text}");
    let text = said("/m.gguf");
    assert!(text.contains("/m.gguf") && !text.contains("toy") && !text.contains("pull"), "{text}");
}

#[test]
fn messages_are_coloured_where_colours_are_wanted() {
    let shown = |name: &str| {
        let said = |args: &[&str]| {
            let output = program().args(args).env(name, "1").output().unwrap();
            String::from_utf8(output.stderr).unwrap()
        };
        [said(&["load", "a", "b"]), said(&["score", "--text-file", "/nowhere"])]
    };
    let [of_clap, own] = shown("CLICOLOR_FORCE");
    let (style, _) = of_clap.split_once("error:").unwrap();
    assert!(!style.is_empty() && own.starts_with(&format!("{style}error:")), "{own:?} {of_clap:?}");
    assert!(shown("NO_COLOR").iter().all(|text| text.starts_with("error: ")));
}

#[test]
fn generate_samples_by_seed() {
    let draw = |seed| {
        let args = ["generate", "--prompt", "def f(", "--temperature", "2", "--json", "--ignore-eos"];
        json(&[&args[..], &["--max-tokens", "12", "--seed", seed]].concat())["ids"].clone()
    };
    assert_eq!(draw("1"), draw("1"));
    assert_ne!(draw("1"), draw("2"));
}

#[test]
fn generate_refuses_bad_prompts() {
    let model = vectors("tied");
    check_fails(&["generate", "--model", &model, "--prompt", "x"], 1, &["tokenizer.json", "--ids"]);
    check_fails(&["generate", "--model", &model, "--ids", "3,9999"], 1, &["9999", "out of range"]);
    check_fails(&["generate", "--prompt", ""], 1, &["empty"]);
    check_fails(&["generate", "--prompt-file", "/nonexistent"], 1, &["/nonexistent"]);
    check_fails(&["generate", "--model", "/nonexistent", "--prompt", "x"], 1, &["/nonexistent"]);
    check_fails(&["generate", "--ids", "1,2,3", "--context", "2"], 1, &["3 tokens", "--context"]);
    check_fails(&["generate", "--prompt", "x", "--context", "10000000"], 1, &["10000000"]);
    check_fails(&["generate"], 2, &["--prompt"]);
    check_fails(&["generate", "--prompt", "x", "--ids", "1"], 2, &["--ids"]);
    check_fails(&["generate", "--ids", "1,x"], 2, &["\"x\""]);
    check_fails(&["generate", "--prompt", "x", "--threads", "0"], 2, &["--threads"]);
    check_fails(&["generate", "--prompt", "x", "--temperature", "nan"], 2, &["--temperature"]);
    check_fails(&["nonsense"], 2, &["nonsense"]);
}

#[test]
fn score_measures_text_and_ids() {
    let dir = TempDir::new().unwrap();
    let code = "def add(a, b):\n    return a + b\n\n\ndef sub(a, b):\n    return a - b\n".repeat(4);
    let path = file(&dir, "code.py", &code);
    let value = json(&["score", "--text-file", &path, "--json"]);
    let bits = value["bits_per_byte"].as_f64().unwrap();
    assert!(bits > 0.0 && bits < 4.0, "{bits}");

    let windows = json(&["score", "--text-file", &path, "--json", "--context", "32"]);
    assert_eq!(windows["tokens"], value["tokens"]);
    assert_eq!(windows["overlap"], 16);
    let short = windows["bits_per_byte"].as_f64().unwrap();
    assert!(short > bits, "less context predicts worse: {short} {bits}");

    let ids = json(&["score", "--model", &vectors("odd"), "--ids", "1,2,3,4,5", "--json", "--logprobs"]);
    let logprobs: Vec<f64> = serde_json::from_value(ids["logprobs"].clone()).unwrap();
    let mean = -logprobs.iter().sum::<f64>() / 4.0;
    assert!(logprobs.len() == 4 && (mean - ids["mean_nll"].as_f64().unwrap()).abs() < 1e-6);
    assert_eq!(ids["tokens"], 5);
    assert_eq!(ids["bits_per_byte"], Value::Null);
    assert!(ids["mean_nll"].as_f64().unwrap() > 0.0);

    check_fails(&["score", "--text-file", &file(&dir, "empty", "")], 1, &["two tokens"]);
    check_fails(&["score", "--text-file", &file(&dir, "bad", b"a\xffb")], 1, &["UTF-8", "byte 1"]);
}

#[test]
fn complete_answers_at_a_place() {
    let dir = TempDir::new().unwrap();
    let code = "def area(width, height):\n    return width * height\n\n\nprint(area(2, 3))\nprint(ar\n";
    let place = format!("{}:6:9", file(&dir, "shapes.py", code));
    let value = json(&["complete", &place, "--json", "--max-tokens", "16"]);
    assert_eq!(value["insert"], serde_json::json!({ "line": 6, "column": 9 }));
    assert!(value["text"].as_str().unwrap().starts_with("ea("), "{}", value["text"]);
    assert!(value["stop"].is_string());
    assert!(value["timings"]["decode_tokens"].as_u64().unwrap() > 0);

    let output = fimd(&["complete", &place, "--max-tokens", "16"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("    6 │ print(area("), "{text}");
    assert!(!text.contains('\u{1b}'), "no colours into a pipe: {text:?}");
    assert!(text.lines().last().unwrap().contains("tokens"));
}

#[test]
fn complete_refuses_bad_places() {
    let dir = TempDir::new().unwrap();
    let crlf = file(&dir, "crlf.txt", "ab\r\nc\u{1F600}\r\n");
    check_fails(&["complete", &format!("{crlf}:1:4")], 1, &["crlf.txt", "column 4", "2 characters"]);
    check_fails(&["complete", &format!("{crlf}:9:1")], 1, &["line 9", "3"]);
    check_fails(&["complete", &format!("{}:1:1", file(&dir, "bad", b"\xff"))], 1, &["UTF-8"]);
    check_fails(&["complete", "/nonexistent:1:1"], 1, &["/nonexistent"]);
    check_fails(&["complete", "a.py"], 2, &["FILE:LINE:COL"]);
    let model = vectors("odd");
    check_fails(&["complete", &format!("{crlf}:1:1"), "--model", &model], 1, &["tokenizer.json"]);
}

/// Every command that prints, with a stdout that fails.
#[test]
fn wrong_settings_on_the_command_line_are_refused() {
    for (setting, code, words) in [
        ("fim.ordre=spm", 1, &["fim.ordre", "fim.order"][..]),
        ("alternatives=many", 1, &["alternatives"]),
        ("warm", 2, &["NAME=VALUE"]),
    ] {
        check_fails(&["lsp", "--set", setting], code, words);
    }
}

#[test]
fn a_full_or_closed_stdout_is_no_panic() {
    if !Path::new("/dev/full").exists() {
        println!("skipped: there is no /dev/full here");
        return;
    }
    let dir = TempDir::new().unwrap();
    let path = file(&dir, "a.py", "import os\nos.\n");
    let place = format!("{path}:2:4");
    let commands: [&[&str]; 4] = [
        &["complete", &place],
        &["complete", &place, "--json"],
        &["generate", "--prompt", "x", "--max-tokens", "4"],
        &["score", "--text-file", &path],
    ];
    for args in commands {
        let run =
            |stdout: Stdio| program().args(args).stdout(stdout).stderr(Stdio::piped()).output().unwrap();
        let full = run(fs::OpenOptions::new().write(true).open("/dev/full").unwrap().into());
        assert_eq!(full.status.code(), Some(1), "{args:?}");
        assert!(String::from_utf8_lossy(&full.stderr).contains("stdout"), "{args:?}");
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let closed = run(writer.into());
        assert!(closed.status.success() && closed.stderr.is_empty(), "{args:?}");
    }
}

/// What suits the starter travels in its files.
#[test]
fn the_starter_completes_alike_from_every_place() {
    let dir = TempDir::new().unwrap();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/starter").to_str().unwrap().to_owned();
    let quantised = dir.path().join("starter.gguf").to_str().unwrap().to_owned();
    assert!(fimd(&["quantize", &folder, &quantised, "--mix", "q8_0"]).status.success());
    let source = "def names(paths):\n    result = []\n    for path in paths:\n        result.append(path.name)\n    return \n";
    let path = file(&dir, "names.py", source);
    let complete = |model: &[&str]| {
        let place = format!("{path}:5:12");
        let args = ["complete", &place, "--json", "--no-daemon"];
        json(&[&args[..], model].concat())["text"].clone()
    };
    assert_eq!(complete(&[]), "result");
    assert_eq!(complete(&["--model", &folder]), "result");
    assert_eq!(complete(&["--model", &quantised]), "result");
}
