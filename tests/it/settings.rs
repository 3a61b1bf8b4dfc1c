//! Settings, from wherever they come to what follows from them.

use std::fs;
use std::path::{Path, PathBuf};

use fimd::config::{self, Configuration};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::cli::{check_fails, program};
use crate::client::{Client, deterministic, place};
use crate::tiny;

const URI: &str = "file:///home/me/a.py";
const CHANGED: &str = "workspace/didChangeConfiguration";

/// A client of the tiny model with an open document, in which it asks for ghost text.
struct Editor {
    client: Client,
    _model: TempDir,
}

impl Editor {
    fn new(workspace: Value) -> Self {
        let model = tiny::folder();
        let mut client = Client::start_with(tiny::engine(model.path()), deterministic(), None);
        client.initialize_with(
            json!({"textDocument": {"inlineCompletion": {}}, "workspace": workspace}),
            json!({"max_tokens.auto": 5}),
        );
        client.open(URI, "x = ");
        Self { client, _model: model }
    }

    fn inline(&mut self) -> Option<String> {
        let params = place(URI, [0, 4], json!({"triggerKind": 2}));
        let result = self.client.call("textDocument/inlineCompletion", params);
        Some(result["items"].get(0)?["insertText"].as_str().unwrap().to_owned())
    }

    fn warning(&mut self) -> String {
        self.client.notification("window/showMessage")["message"].as_str().unwrap().to_owned()
    }
}

#[test]
fn changed_settings_count_from_the_next_request_on() {
    let mut editor = Editor::new(json!({}));
    let first = |tokens: usize| Some(tiny::LINE[..tokens].to_owned());
    assert_eq!(editor.inline(), first(5));
    for (settings, expected) in [
        (json!({"max_tokens": {"auto": 3}}), first(3)),
        (json!(null), first(3)),
        (json!({"fimd": {"max_tokens.auto": 4}, "pylsp": {}}), first(4)),
        (json!({"enabled": false}), None),
        (json!({}), Some(tiny::LINE.to_owned())),
        (json!({"disabled": {"languages": ["python"]}}), None),
        (json!({"disabled": {"languages": ["*", "!python"]}, "max_tokens.auto": 6}), first(6)),
        (json!({"disabled": {"globs": ["*.py"]}}), None),
        (json!({"disabled": {"globs": ["*", "!*.py"]}, "max_tokens.auto": 7}), first(7)),
        (json!([]), Some(tiny::LINE.to_owned())),
    ] {
        editor.client.notify(CHANGED, json!({"settings": settings}));
        assert_eq!(editor.inline(), expected, "{settings}");
    }
}

#[test]
fn what_is_wrong_with_changed_settings_is_said_once() {
    let mut editor = Editor::new(json!({}));
    let settings = json!({"model": "/elsewhere", "alternative": 1, "max_tokens": {"auto": 3}});
    editor.client.notify(CHANGED, json!({"settings": settings}));
    editor.client.notify(CHANGED, json!({"settings": settings}));
    let said = [editor.warning(), editor.warning()];
    for words in [["alternative;", "alternatives?"], ["model is shared by all editors", "FIMD_MODEL"]] {
        assert!(said.iter().any(|said| words.iter().all(|word| said.contains(word))), "{said:?}");
    }
    assert_eq!(editor.inline().as_deref(), Some(&tiny::LINE[..3]));
    editor.client.notify(CHANGED, json!({"settings": {}}));
    editor.client.notify(CHANGED, json!({"settings": {"fimd": 1}}));
    assert!(editor.warning().contains("not an object"));
}

#[test]
fn what_is_triggered_by_hand_is_computed_for_nobody_else() {
    let model = tiny::folder();
    let mut client = Client::start_with(tiny::engine(model.path()), Configuration::default(), None);
    let wide = json!({"budget": {"soft_ms": 600_000, "hard_ms": 600_000}, "max_tokens": {"invoked": 5}});
    let mut settings = wide.clone();
    settings["trigger"] = "manual".into();
    client.initialize_with(json!({"textDocument": {"inlineCompletion": {}}}), settings);
    client.open(URI, "x = ");
    client.notify("textDocument/didFocus", json!({"textDocument": {"uri": URI}}));
    let ask = |client: &mut Client, kind: u32| {
        let params = place(URI, [0, 4], json!({"triggerKind": kind}));
        client.call("textDocument/inlineCompletion", params)["items"].as_array().unwrap().len()
    };
    let counted = |client: &mut Client| {
        let counted = client.call("fimd/statistics", Value::Null);
        ["requests", "tokens_evaluated", "unasked_evaluated"].map(|name| counted[name].as_u64().unwrap())
    };
    assert_eq!((ask(&mut client, 2), counted(&mut client)), (0, [0, 0, 0]));
    let menu = client.call("textDocument/completion", place(URI, [0, 4], json!({"triggerKind": 1})));
    assert_eq!((menu["items"].clone(), counted(&mut client)), (json!([]), [0, 0, 0]));
    assert!(ask(&mut client, 1) > 0);
    let [requests, evaluated, unasked] = counted(&mut client);
    assert!(requests == 1 && evaluated > 0 && unasked == 0);
    client.notify(CHANGED, json!({"settings": wide}));
    assert_eq!(ask(&mut client, 2), 1);
}

#[test]
fn a_client_that_can_is_asked() {
    let mut editor = Editor::new(json!({
        "configuration": true,
        "didChangeConfiguration": {"dynamicRegistration": true},
    }));
    let registered = editor.client.answer("client/registerCapability", Value::Null);
    assert_eq!(registered["registrations"][0]["method"], CHANGED);
    for (told, tokens) in [(json!([{"max_tokens.auto": 3}]), 3), (json!([null]), 3), (json!([]), 3)] {
        editor.client.notify(CHANGED, json!({"settings": null}));
        let asked = editor.client.answer("workspace/configuration", told);
        assert_eq!(asked, json!({"items": [{"section": "fimd"}]}));
        // The answer is no message of ours that the server would answer in turn.
        let counts = (0..6000).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(10));
            editor.inline().as_deref() == Some(&tiny::LINE[..tokens])
        });
        assert!(counts);
    }
}

#[test]
fn config_says_where_every_value_came_from() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("fimd.toml");
    fs::write(&path, "threads = 1\n[budget]\nsoft_ms = 300\nhard_ms = 'x'\n").unwrap();
    let run = |args: &[&str]| {
        let mut command = program();
        command.arg("config").args(args).env("FIMD_CONFIG", &path).env("FIMD_WARM", "false");
        let output = command.env("FIMD_WRAM", "1").output().unwrap();
        assert!(output.status.success());
        [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap())
    };
    let [out, errors] = run(&["--set", "alternatives=2", "--cache", "7", "--fim-order", "spm"]);
    let file = path.display();
    for line in [
        "alternatives 2 --set".to_owned(),
        "cache.bytes_max 7340032 --cache".into(),
        "fim.order \"spm\" --fim-order".into(),
        "warm false FIMD_WARM".into(),
        format!("threads 1 {file}:1"),
        format!("budget.soft_ms 300 {file}:3"),
        "budget.hard_ms 5000 default".into(),
        "model (the built-in starter model) default".into(),
    ] {
        let squeezed = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(out.lines().any(|shown| squeezed(shown) == line), "{line} is not in {out}");
    }
    for words in [&format!("{file}:4: budget.hard_ms"), "FIMD_WRAM", "did you mean FIMD_WARM?"] {
        assert!(errors.contains(words), "{words} is not in {errors}");
    }
    let json: Value = serde_json::from_str(&run(&["--json"])[0]).unwrap();
    assert_eq!(json["settings"]["warm"], json!({"value": false, "from": "FIMD_WARM"}));
    assert_eq!((&json["file"], json["problems"].as_array().unwrap().len()), (&json!(path), 2));
    assert_eq!(run(&["--path"])[0].trim(), path.to_str().unwrap());
    check_fails(&["config", "--set", "warm=2"], 1, &["--set: warm: expected true or false"]);
    check_fails(&["config", "--json", "--path"], 2, &["--path"]);
}

#[test]
fn a_file_of_settings_is_begun_and_never_overwritten() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("new/fimd.toml");
    let init = || program().args(["config", "--init"]).env("FIMD_CONFIG", &path).output().unwrap();
    assert!(init().status.success());
    assert_eq!(fs::read_to_string(&path).unwrap(), config::template());
    fs::write(&path, "mine").unwrap();
    assert!(!init().status.success());
    assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
}

#[test]
fn measurements_do_not_depend_on_settings() {
    let dir = TempDir::new().unwrap();
    let text = dir.path().join("a.py");
    fs::write(&text, "import os\n").unwrap();
    for (args, is_free) in [
        (&["score", "--text-file", text.to_str().unwrap()][..], true),
        (&["generate", "--prompt", "x", "--max-tokens", "1"], false),
        (&["complete", &format!("{}:1:1", text.display())], false),
    ] {
        let output = program().args(args).env("FIMD_MODEL", "/nonexistent/model").output().unwrap();
        assert_eq!(output.status.success(), is_free, "{args:?}");
    }
}

/// The text of a file of the project, and what it should be; `None` without the file.
fn generated(name: &str, make: impl Fn(&str) -> String) -> Option<()> {
    let path: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    let text = fs::read_to_string(&path).ok()?;
    let expected = make(&text);
    if text != expected && std::env::var_os("UPDATE_GENERATED").is_some() {
        fs::write(&path, expected).unwrap();
        return Some(());
    }
    assert!(
        text == expected,
        "{name} is out of date: UPDATE_GENERATED=1 cargo test --test it settings renews it"
    );
    Some(())
}

#[test]
fn the_guide_lists_the_settings() {
    const MARKS: [&str; 2] = ["<!-- settings -->\n", "<!-- /settings -->"];
    let made = generated("src/guide/settings.md", |text| {
        let (before, rest) = text.split_once(MARKS[0]).expect("the list has a place");
        let (_, after) = rest.split_once(MARKS[1]).expect("the list has an end");
        format!("{before}{}\n{}\n{}{after}", MARKS[0], config::markdown(), MARKS[1])
    });
    assert!(made.is_some());
}

#[test]
fn the_extension_declares_the_settings() {
    #[derive(serde::Deserialize)]
    struct Package<'a> {
        #[serde(borrow)]
        contributes: Contributes<'a>,
    }
    #[derive(serde::Deserialize)]
    struct Contributes<'a> {
        /// The sections that are shown, one of which has the settings of the server.
        #[serde(borrow)]
        configuration: Vec<&'a RawValue>,
    }
    let made = generated("editors/vscode/package.json", |text| {
        let package: Package = serde_json::from_str(text).unwrap();
        let is_ours =
            |section: &&&RawValue| serde_json::from_str::<Value>(section.get()).unwrap()["title"] == "fimd";
        let section = package.contributes.configuration.iter().find(is_ours);
        let section = section.expect("contributes.configuration has a section titled fimd").get();
        if serde_json::from_str::<Value>(section).unwrap() == config::vscode() {
            return text.to_owned();
        }
        let pretty = serde_json::to_string_pretty(&config::vscode()).unwrap();
        let at = section.as_ptr() as usize - text.as_ptr() as usize;
        let line = &text[text[..at].rfind('\n').map_or(0, |end| end + 1)..at];
        let indent: String = line.chars().take_while(|c| c.is_whitespace()).collect();
        format!(
            "{}{}{}",
            &text[..at],
            pretty.replace('\n', &format!("\n{indent}")),
            &text[at + section.len()..]
        )
    });
    if made.is_none() {
        println!("skipped: there is no editors/vscode/package.json");
    }
}
