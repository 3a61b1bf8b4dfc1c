use std::path::Path;

use serde_json::{Value, json};

use super::*;
use crate::complete;

const PATH: &str = "/home/me/.config/fimd/fimd.toml";

/// What each source says, the weakest first.
#[derive(Default)]
struct Given {
    file: &'static str,
    environment: &'static [(&'static str, &'static str)],
    editor: Value,
    flags: &'static [(&'static str, &'static str)],
}

/// A configuration of these sources, and all that is wrong with them.
fn configured(given: &Given) -> (Configuration, Vec<String>) {
    let mut configuration = Configuration::default();
    configuration.read(Path::new(PATH), given.file);
    let variables = given.environment.iter().map(|&(name, value)| (name.to_owned(), value.to_owned()));
    configuration.environment(variables);
    let mut wrong: Vec<Problem> =
        given.flags.iter().filter_map(|(name, text)| configuration.fix(name, text).err()).collect();
    wrong.splice(..0, configuration.overlay(&given.editor));
    wrong.splice(..0, configuration.problems().iter().cloned());
    (configuration, wrong.iter().map(ToString::to_string).collect())
}

/// The value of a setting and where it came from, as `fimd config` shows them.
fn shown(configuration: &Configuration, name: &str) -> String {
    let (_, value, source) = configuration.effective().find(|(setting, ..)| setting.name == name).unwrap();
    format!("{value} from {source}")
}

#[test]
fn the_strongest_source_counts() {
    let file = "alternatives = 1\n[budget]\nsoft_ms = 100";
    let environment = &[("FIMD_BUDGET_SOFT_MS", "200"), ("HOME", "/")];
    let editor = || json!({"budget": {"soft_ms": 300}});
    let flags = &[("budget.soft_ms", "400")];
    for (given, expected) in [
        (Given::default(), "250 from default"),
        (Given { file, ..Given::default() }, "100 from /home/me/.config/fimd/fimd.toml:3"),
        (Given { file, environment, ..Given::default() }, "200 from FIMD_BUDGET_SOFT_MS"),
        (Given { file, environment, editor: editor(), ..Given::default() }, "300 from editor"),
        (Given { file, environment, editor: editor(), flags }, "400 from --set"),
        (Given { environment, flags, ..Given::default() }, "400 from --set"),
        (Given { file, editor: editor(), ..Given::default() }, "300 from editor"),
    ] {
        let (configuration, problems) = configured(&given);
        assert_eq!(problems, Vec::<String>::new());
        assert_eq!(shown(&configuration, "budget.soft_ms"), expected);
        let soft_ms = configuration.settings().budget.soft_ms.to_string();
        assert!(expected.starts_with(&soft_ms), "{soft_ms}");
    }
}

#[test]
fn an_editor_can_exclude_more_and_never_less() {
    let editor = |editor: &Value, file: &'static str| {
        let (configuration, problems) =
            configured(&Given { file, editor: editor.clone(), ..Given::default() });
        assert_eq!(problems, Vec::<String>::new());
        configuration
    };
    for (name, strict, lax) in [
        ("enabled", "false", "true"),
        ("hover.enabled", "false", "true"),
        ("trigger", "'manual'", "'automatic'"),
        ("context.tokens_max", "0", "512"),
    ] {
        let value = |text: &str| serde_json::from_str::<Value>(&text.replace('\'', "\"")).unwrap();
        for (of_user, of_editor) in [(strict, lax), (lax, strict)] {
            let file = format!("{name} = {of_user}").leak();
            let configuration = editor(&json!({ name: value(of_editor) }), file);
            assert!(shown(&configuration, name).starts_with(&value(strict).to_string()), "{name}");
            let settings = serde_json::to_value(configuration.settings()).unwrap();
            assert_eq!(settings.pointer(&format!("/{}", name.replace('.', "/"))), Some(&value(strict)));
        }
    }
    let file = "disabled.globs = ['*.a']\ndisabled.languages = ['a']\nprivacy.secret_files = ['a']";
    for given in [json!([]), json!(["!*.a", "!a"]), json!(["b"])] {
        let lists =
            json!({"disabled.globs": given, "disabled.languages": given, "privacy.secret_files": given});
        let privacy = editor(&lists, file).privacy();
        let of_editor: Vec<String> = serde_json::from_value(given).unwrap();
        assert_eq!(privacy.files, [vec!["*.a".to_owned()], of_editor.clone()]);
        assert_eq!(privacy.languages, [vec!["a".to_owned()], of_editor.clone()]);
        assert_eq!(privacy.secrets, [vec!["a".to_owned()], of_editor]);
    }
    let (_, problems) = configured(&Given { editor: json!({"privacy.allow": [".env"]}), ..Given::default() });
    assert!(problems[0].contains("privacy.allow is shared by all editors"), "{problems:?}");
}

#[test]
fn every_setting_can_be_given_by_every_source() {
    for setting in SETTINGS {
        let (text, value) = match &setting.kind {
            Kind::Bool => ("false", json!(false)),
            Kind::Integer(range) => (if range.contains(&2) { "2" } else { "1" }, json!(2.min(*range.end()))),
            Kind::Number(_) => ("1.5", json!(1.5)),
            Kind::Text | Kind::Path => ("/a", json!("/a")),
            Kind::Texts => ("a,b", json!(["a", "b"])),
            Kind::Choice(choices) => (*choices.last().unwrap(), json!(choices.last())),
        };
        let name = setting.name;
        let file = format!("{name} = {value}");
        let mut configurations = [(); 4].map(|()| Configuration::default());
        configurations[0].read(Path::new("/f.toml"), &file);
        configurations[1].environment([(setting.variable(), text.to_owned())].into_iter());
        configurations[2].fix(name, text).unwrap();
        if setting.scope == Scope::Editor {
            assert_eq!(configurations[3].overlay(&json!({ name: value })), []);
        }
        for (configuration, source) in
            configurations.iter().zip(["/f.toml:1", &setting.variable(), "--set", "editor"])
        {
            if source != "editor" || setting.scope == Scope::Editor {
                assert_eq!(configuration.problems(), []);
                assert_eq!(shown(configuration, name), format!("{value} from {source}"));
            }
        }
    }
}

#[test]
fn settings_are_given_nested_by_path_and_under_our_name() {
    for editor in [
        json!({"fim": {"order": "spm", "format": "chat"}, "budget.hard_ms": 900, "context": null}),
        json!({"fim.order": "spm", "fim": {"format": "chat"}, "budget": {"hard_ms": 900, "soft_ms": null}}),
        json!({"fimd": {"fim.order": "spm", "fim.format": "chat", "budget.hard_ms": 900}, "pylsp": {"x": 1}}),
        json!({"fimd": {"fim.order": "spm", "fim.format": "chat", "budget.hard_ms": 900, "path": "fimd",
            "trace": {"server": "off"}, "trace.server": "off", "ghostText.enabled": true}}),
    ] {
        let (configuration, problems) = configured(&Given { editor, ..Given::default() });
        assert_eq!(problems, Vec::<String>::new());
        let expected = Settings {
            fim: Fim { order: Some(complete::fim::Order::Spm), format: Some(complete::fim::Format::Chat) },
            budget: Budget { hard_ms: 900, ..Budget::default() },
            ..Settings::default()
        };
        assert_eq!(*configuration.settings(), expected);
    }
}

#[test]
fn what_is_wrong_is_named_and_changes_nothing_else() {
    let file = |file| Given { file, ..Given::default() };
    let environment = |environment| Given { environment, ..Given::default() };
    let editor = |editor| Given { editor, ..Given::default() };
    let flags = |flags| Given { flags, ..Given::default() };
    for (given, message) in [
        (
            file("\ndebounce_ms = 3"),
            "/home/me/.config/fimd/fimd.toml:2: unknown setting debounce_ms; did you mean debounce_ms_max?",
        ),
        (
            file("[fim]\n\nordre = 'spm'"),
            "/home/me/.config/fimd/fimd.toml:3: unknown setting fim.ordre; did you mean fim.order?",
        ),
        (file("warm = 'no'"), "/home/me/.config/fimd/fimd.toml:1: warm: expected true or false, not \"no\""),
        (
            file("alternatives = 0x10"),
            "/home/me/.config/fimd/fimd.toml:1: alternatives: expected an integer from 1 to 3, not 16",
        ),
        (
            file("alternatives = 1_000"),
            "/home/me/.config/fimd/fimd.toml:1: alternatives: expected an integer from 1 to 3, not 1000",
        ),
        (
            file("alternatives = -1"),
            "/home/me/.config/fimd/fimd.toml:1: alternatives: expected an integer from 1 to 3, not -1",
        ),
        (
            file("logprob_min = nan"),
            "/home/me/.config/fimd/fimd.toml:1: logprob_min: expected a number from -1000000 to 1000000, not \"nan\"",
        ),
        (file("model = 2020-01-01"), ""),
        (
            file("budget = 3"),
            "/home/me/.config/fimd/fimd.toml:1: budget is a group of settings, such as budget.soft_ms",
        ),
        (
            file("[nonsense]\na = 1"),
            "/home/me/.config/fimd/fimd.toml:1: unknown setting nonsense; did you mean",
        ),
        (
            environment(&[("FIMD_BUDGET_SOFT", "1")]),
            "FIMD_BUDGET_SOFT: unknown setting; did you mean FIMD_BUDGET_SOFT_MS?",
        ),
        (environment(&[("FIMD_WARM", "2")]), "FIMD_WARM: expected true or false, not 2"),
        (
            environment(&[
                ("FIMD_LOG", "x"),
                ("FIMD_CONFIG", "x"),
                ("FIMD_RUNTIME_DIR", "x"),
                ("FIMD_TEST_A", "x"),
                ("FIMD_REMOTE_TOKEN", "x"),
            ]),
            "",
        ),
        (editor(json!({"debounce_ms": 3})), "unknown setting debounce_ms; did you mean debounce_ms_max?"),
        (editor(json!({"fim": {"order": "x"}})), "fim.order: expected psm, spm or psm-anchored, not \"x\""),
        (editor(json!({"enabled": 1})), "enabled: expected true or false, not 1"),
        (editor(json!({"alternatives": 9})), "alternatives: expected an integer from 1 to 3, not 9"),
        (editor(json!({"alternatives": 2.5})), "alternatives: expected an integer from 1 to 3, not 2.5"),
        (
            editor(json!({"disabled.languages": ["a", 1]})),
            "disabled.languages: expected a list of strings, not a list",
        ),
        (editor(json!({"fim": 7})), "fim is a group of settings, such as fim.order"),
        (editor(json!([1])), "the settings are not an object"),
        (editor(json!({"fimd": 1})), "the settings are not an object"),
        (editor(json!([])), ""),
        (editor(json!({"fimd": null})), ""),
        (
            editor(json!({"model": "/m"})),
            "model is shared by all editors and cannot be set by one: set it in fimd.toml, by FIMD_MODEL or by a flag",
        ),
        (
            editor(json!({"cache": {"bytes_max": 1}})),
            "cache.bytes_max is shared by all editors and cannot be set by one",
        ),
        (
            flags(&[("alternatives", "many")]),
            "--set: alternatives: expected an integer from 1 to 3, not \"many\"",
        ),
        (flags(&[("alternative", "2")]), "--set: unknown setting alternative; did you mean alternatives?"),
    ] {
        let (configuration, problems) = configured(&given);
        if message.is_empty() {
            assert_eq!(problems, Vec::<String>::new());
            continue;
        }
        assert_eq!(*configuration.settings(), Settings::default(), "{message}");
        assert!(problems.len() == 1 && problems[0].starts_with(message), "{problems:?} {message}");
    }
    let editor = json!({"a": 1, "warm": false, "logprob_min": "high"});
    let (configuration, two) = configured(&Given { editor, ..Given::default() });
    assert!(two.len() == 2 && !configuration.settings().warm);
}

#[test]
fn a_damaged_file_does_not_count_at_all() {
    for (file, line) in
        [("warm = false\nalternatives =\n", 2), ("[a\n", 1), ("warm = 1\nwarm = 2", 2), ("\0", 1)]
    {
        let (configuration, problems) = configured(&Given { file, ..Given::default() });
        let start = format!("{PATH}:{line}: ");
        assert!(problems.len() == 1 && problems[0].starts_with(&start), "{problems:?}");
        assert!(problems[0].ends_with("this file is ignored"), "{problems:?}");
        assert_eq!(*configuration.settings(), Settings::default());
    }
}

#[test]
fn a_file_with_problems_leaves_the_settings_as_they_were() {
    let read = |file| configured(&Given { file, flags: &[("alternatives", "2")], ..Given::default() }).0;
    let before = read("model = '/m'\nthreads = 3\n[disabled]\nlanguages = ['c']");
    for (file, count) in [
        ("model = '/m", 1),
        ("model = '/other'\nthreads = 0", 1),
        ("modle = '/m'\nwarm = false", 1),
        ("model = 7\n[disabled]\nlanguages = 'c'\nglobs = 1", 3),
    ] {
        let now = read(file).keeping_file_of(&before);
        assert_eq!(now.settings(), before.settings(), "{file}");
        assert_eq!(shown(&now, "threads"), format!("3 from {PATH}:2"));
        let problems: Vec<String> = now.problems().iter().map(ToString::to_string).collect();
        assert_eq!(problems.len(), count, "{problems:?}");
        for problem in problems {
            assert!(problem.starts_with(PATH) && problem.ends_with("stay as they were"), "{problem}");
            assert!(!problem.contains("ignored"), "{problem}");
        }
        let corrected = read("threads = 4").keeping_file_of(&now);
        assert_eq!((corrected.settings().threads, corrected.problems()), (Some(4), &[][..]));
        assert_eq!(corrected.settings().model, None);
    }
    let told = before.with_problem("a".into()).with_problem("b".into());
    assert_eq!((told.problems().len(), told.problems()[0].to_string()), (1, "b".to_owned()));
    assert_eq!(told.settings(), before.settings());
}

#[test]
fn paths_in_the_file_are_beside_it() {
    for (text, expected) in [("m.gguf", "/home/me/.config/fimd/m.gguf"), ("/m.gguf", "/m.gguf")] {
        let mut configuration = Configuration::default();
        configuration.read(Path::new(PATH), &format!("model = '{text}'"));
        assert_eq!(configuration.settings().model.as_deref(), Some(Path::new(expected)));
    }
    let mut configuration = Configuration::default();
    configuration.read(Path::new(PATH), "model = '~/m.gguf'");
    assert_eq!(configuration.settings().model, dirs::home_dir().map(|home| home.join("m.gguf")));
    configuration.fix("model", "null").unwrap();
    assert_eq!(configuration.settings().model, None);
}

#[test]
fn a_change_replaces_what_the_editor_said() {
    let mut configuration = Configuration::default();
    configuration.fix("alternatives", "2").unwrap();
    configuration.overlay(&json!({"warm": false, "speculate": false, "alternatives": 1}));
    configuration.overlay(&Value::Null);
    assert!(!configuration.settings().warm && configuration.settings().alternatives == 2);
    configuration.overlay(&json!({"fimd": {"speculate": false}}));
    assert!(configuration.settings().warm && !configuration.settings().speculate);
    configuration.overlay(&json!({}));
    let mut fixed = Configuration::default();
    fixed.fix("alternatives", "2").unwrap();
    assert_eq!(configuration, fixed);
}

#[test]
fn a_client_brings_its_environment_and_flags_along() {
    let file = "alternatives = 1\nthreads = 3";
    let environment =
        &[("FIMD_BUDGET_HARD_MS", "900"), ("FIMD_WARM", "false"), ("FIMD_MODEL", "/m"), ("FIMD_A", "1")];
    let flags = &[("speculate", "false"), ("max_tokens.auto", "8")];
    let (process, _) = configured(&Given { file, environment, flags, ..Given::default() });

    let environment =
        &[("FIMD_BUDGET_SOFT_MS", "400"), ("FIMD_THREADS", "9"), ("FIMD_B", "1"), ("FIMD_ENABLED", "7")];
    let flags = &[("max_tokens.auto", "16"), ("budget.soft_ms", "500")];
    let file = "alternatives = 2";
    let (client, _) = configured(&Given { file, environment, flags, ..Given::default() });
    let overrides = client.client_overrides();
    let text = overrides.to_string();
    for absent in ["threads", "alternatives", "fimd.toml"] {
        assert!(!text.contains(absent), "{text}");
    }
    let together = process.with_client(&serde_json::from_str(&text).unwrap());
    for (name, expected) in [
        ("alternatives", format!("1 from {PATH}:1")),
        ("threads", format!("3 from {PATH}:2")),
        ("model", "\"/m\" from FIMD_MODEL".into()),
        // The environment of the process is that of whoever started it.
        ("budget.hard_ms", "5000 from default".into()),
        ("warm", "true from default".into()),
        ("speculate", "false from --set".into()),
        ("max_tokens.auto", "16 from --set".into()),
        ("budget.soft_ms", "500 from --set".into()),
    ] {
        assert_eq!(shown(&together, name), expected, "{name}");
    }
    let problems: Vec<String> = together.problems().iter().map(ToString::to_string).collect();
    let expected = ["FIMD_ENABLED: expected true or false, not 7", "FIMD_B: unknown setting; did you mean"];
    assert!(
        problems.len() == 2 && problems.iter().zip(expected).all(|(a, b)| a.starts_with(b)),
        "{problems:?}"
    );

    // A client of another version, or none.
    for (overrides, count) in [
        (json!({"settings": {"nonsense": [{"from": {"flag": "--set"}, "value": 1}]}}), 1),
        (json!({"settings": {"warm": [{"from": {"flag": "--set"}, "value": 1}]}}), 1),
        (json!({"settings": {"model": [{"from": {"flag": "--set"}, "value": "/evil"}]}}), 0),
        (json!({"settings": {"warm": [{"from": "editor", "value": false}]}}), 0),
        (json!({"settings": {"warm": 7}, "problems": 7}), 0),
        (json!(7), 0),
    ] {
        let together = process.with_client(&overrides);
        assert_eq!(together.problems().len(), count, "{overrides}");
        assert_eq!(together.settings().model.as_deref(), Some(Path::new("/m")));
        assert!(together.settings().warm);
    }
}

#[test]
fn the_template_is_right_once_its_lines_are_taken_in() {
    let taken_in: String = template()
        .lines()
        .map(|line| {
            format!(
                "{}\n",
                line.strip_prefix('#')
                    .filter(|line| !line.is_empty() && !line.starts_with(' '))
                    .unwrap_or(line)
            )
        })
        .collect();
    let mut configuration = Configuration::default();
    configuration.read(Path::new(PATH), &taken_in);
    assert_eq!(configuration.problems(), []);
    for (setting, _, source) in configuration.effective() {
        assert_ne!(source, Source::Default, "{}", setting.name);
    }
    let mut untouched = Configuration::default();
    untouched.read(Path::new(PATH), &template());
    assert_eq!(untouched, Configuration::default());
}

#[test]
fn schemas_have_what_they_are_for() {
    let (toml, vscode) = (schema(), vscode());
    assert_eq!(toml["properties"]["budget"]["properties"]["soft_ms"]["default"], 250);
    assert_eq!(toml["properties"]["logprob_min"]["type"], "number");
    assert_eq!(toml["properties"]["fim"]["properties"]["order"]["type"], "string");
    let order = &vscode["properties"]["fimd.fim.order"];
    assert_eq!((&order["type"], &order["default"]), (&json!(["string", "null"]), &Value::Null));
    assert!(vscode["properties"].get("fimd.model").is_none() && toml["properties"].get("model").is_some());
}
