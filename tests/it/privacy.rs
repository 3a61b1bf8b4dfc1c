//! What is never completed, read or sent, and never logged: what the guide says of it, each sentence with its test.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::cli::{check_fails, program, stdout};
use crate::client::{Client, deterministic, place};
use crate::remote::{Act, Server};

/// A text that no log and no prompt may have, but for documents that may be read.
const MARK: &str = "hunter2-Zq9xK";
/// `LSPErrorCodes.RequestFailed`.
const REQUEST_FAILED: i64 = -32803;

/// An editor, and the server that it would send text to.
struct Editor {
    client: Client,
    server: Server,
    asked: usize,
}

impl Editor {
    fn new(settings: Value) -> Self {
        Self::in_folder("file:///w", settings)
    }

    fn in_folder(root: &str, settings: Value) -> Self {
        let server = Server::new(&[Act::Stream(&["word()"], Duration::ZERO)]);
        let mut configuration = deterministic();
        configuration.fix("context.tokens_max", "512").unwrap();
        let mut client = Client::start_with(server.engine(), configuration, None);
        client.call(
            "initialize",
            json!({
                "processId": null,
                "rootUri": root,
                "capabilities": {
                    "textDocument": {"inlineCompletion": {}},
                    "experimental": {"fimd": {"status": true}},
                },
                "initializationOptions": settings,
            }),
        );
        client.notify("initialized", json!({}));
        let mut editor = Self { client, server, asked: 0 };
        // A prompt has context once the speed of the server is known.
        if settings["enabled"] != false && settings["privacy.secret_files"].is_null() {
            editor.prompt_of(&"value = 1\n".repeat(40));
        }
        editor
    }

    fn open(&mut self, uri: &str, language: &str, text: &str) {
        let document = json!({"uri": uri, "languageId": language, "version": 1, "text": text});
        self.client.notify("textDocument/didOpen", json!({"textDocument": document}));
    }

    /// How many items there are at the start of a document.
    fn items(&mut self, uri: &str) -> usize {
        let params = place(uri, [0, 0], json!({"triggerKind": 1}));
        self.client.call("textDocument/inlineCompletion", params)["items"].as_array().unwrap().len()
    }

    /// Whether a document is completed. If not, nothing about it may be sent, for any reason.
    #[track_caller]
    fn completes(&mut self, uri: &str, language: &str) -> bool {
        self.open(uri, language, &format!("\ndef f():\n    {MARK}\n"));
        let is_completed = self.items(uri) > 0;
        if is_completed {
            self.server.asked();
        } else {
            self.refuses_all(uri);
        }
        let prompt = self.prompt();
        assert_eq!(prompt.contains(MARK), is_completed, "as context: {uri}: {prompt}");
        self.client.close(uri);
        is_completed
    }

    /// Checks that nothing else is said of a document either.
    #[track_caller]
    fn refuses_all(&mut self, uri: &str) {
        let at = json!({"textDocument": {"uri": uri}, "position": {"line": 1, "character": 4}});
        assert_eq!(self.client.call("textDocument/hover", at), Value::Null);
        let range = json!({"start": {"line": 1, "character": 0}, "end": {"line": 2, "character": 0}});
        let params = json!({"textDocument": {"uri": uri}, "range": range, "context": {"diagnostics": []}});
        assert_eq!(self.client.call("textDocument/codeAction", params), json!([]));
        let arguments = json!([{"uri": uri, "range": range}]);
        let params = json!({"command": "fimd.explain", "arguments": arguments});
        let id = self.client.request("workspace/executeCommand", params);
        assert_eq!(self.client.error(id), REQUEST_FAILED);
    }

    /// The prompt for a document that may be read. It is the first that is sent since the last one.
    #[track_caller]
    fn prompt(&mut self) -> String {
        self.prompt_of("x = 1\n")
    }

    #[track_caller]
    fn prompt_of(&mut self, text: &str) -> String {
        self.asked += 1;
        let (uri, line) = (format!("file:///w/good{}.py", self.asked), format!("good_{} = \n", self.asked));
        self.open(&uri, "python", &(line.clone() + text));
        assert!(self.items(&uri) > 0);
        self.client.close(&uri);
        let prompt = self.server.asked().body["prompt"].as_str().unwrap().to_owned();
        assert!(prompt.contains(line.trim_end()), "another document was sent: {prompt}");
        prompt
    }
}

impl Drop for Editor {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.client.call("shutdown", Value::Null);
            assert_eq!(self.client.exit(), 0);
            self.client.forget_unread();
        }
    }
}

/// A folder with these files, and its path without links.
fn folder(files: &[(&str, &str)]) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let root = fs::canonicalize(dir.path()).unwrap();
    for (name, text) in files {
        fs::create_dir_all(root.join(name).parent().unwrap()).unwrap();
        fs::write(root.join(name), text).unwrap();
    }
    (dir, root)
}

fn uri(path: &Path) -> String {
    format!("file://{}", path.display())
}

#[test]
fn names_schemes_and_settings_exclude_documents() {
    let settings = json!({"disabled.globs": ["*.csv"], "disabled.languages": ["markdown"]});
    let mut editor = Editor::new(settings);
    for (uri, language, is_completed) in [
        ("file:///w/a.py", "python", true),
        ("file:///w/.env", "plaintext", false),
        ("FILE:///w/.env", "plaintext", false),
        ("file:///w/prod.env/", "plaintext", false),
        ("file:///w%5C.env", "plaintext", false),
        ("file:///w/.ssh/config", "plaintext", false),
        ("file:///w/credentials", "plaintext", false),
        ("vscode-notebook-cell:/w/.env#W0sZmlsZQ%3D%3D", "python", false),
        ("vscode-notebook-cell:/w/a.ipynb#W0sZmlsZQ%3D%3D", "python", true),
        ("vscode-remote://ssh-remote%2Bhost/w/id_rsa.bak", "plaintext", false),
        ("vscode-remote://ssh-remote%2Bhost/w/a.py", "python", true),
        ("output:extension-output-x", "Log", false),
        ("vscode-scm:git/scm0/input?rootUri%3Dfile:///w", "scminput", false),
        ("git:/w/a.py?%7B%7D", "python", false),
        ("untitled:Untitled-1", "python", true),
        ("untitled:/w/.env", "plaintext", false),
        ("file:///w/a.csv", "plaintext", false),
        ("file:///w/a.md", "markdown", false),
    ] {
        assert_eq!(editor.completes(uri, language), is_completed, "{uri}");
    }
    drop(editor);
    for settings in [json!({"privacy.secret_files": ["a.*"]}), json!({"enabled": false})] {
        let mut editor = Editor::new(settings);
        editor.open("file:///w/a.py", "python", MARK);
        assert_eq!(editor.items("file:///w/a.py"), 0);
        editor.refuses_all("file:///w/a.py");
    }
}

#[cfg(unix)]
#[test]
fn links_and_rules_of_git_exclude_documents() {
    use std::os::unix::fs::symlink;
    let (_dir, root) = folder(&[
        ("repo/.git/info/exclude", "excluded.py\n"),
        ("repo/.gitignore", "ignored.*\n/gen/*\n!/gen/kept.py\n"),
        ("repo/inner/.gitignore", "!ignored.rs\n"),
        ("repo/.env", ""),
        ("home/.ssh/config", ""),
        ("clone/.git/HEAD", ""),
        ("clone/deep/a.py", ""),
    ]);
    symlink(".env", root.join("repo/settings.txt")).unwrap();
    symlink("../home/.ssh", root.join("repo/keys")).unwrap();
    symlink("/dev/zero", root.join("clone/.gitignore")).unwrap();
    let mut editor = Editor::in_folder(&uri(&root), Value::Null);
    for (path, is_completed) in [
        ("repo/a.py", true),
        ("repo/excluded.py", false),
        ("repo/ignored.py", false),
        ("repo/inner/ignored.rs", true),
        ("repo/gen/kept.py", true),
        ("repo/gen/other.py", false),
        ("repo/settings.txt", false),
        ("repo/keys/config", false),
        ("clone/deep/a.py", false),
    ] {
        assert_eq!(editor.completes(&uri(&root.join(path)), "python"), is_completed, "{path}");
    }
    let cell = format!("vscode-notebook-cell:{}#W0", root.join("repo/ignored.ipynb").display());
    assert!(!editor.completes(&cell, "python"));
    // The status says what cannot be read, and no longer once it can.
    let open = uri(&root.join("clone/deep/b.py"));
    editor.open(&open, "python", "");
    assert_eq!(editor.items(&open), 0);
    let message = |editor: &mut Editor| editor.client.notification("fimd/status")["message"].clone();
    while !message(&mut editor).as_str().unwrap_or_default().contains(".gitignore is a link") {}
    fs::remove_file(root.join("clone/.gitignore")).unwrap();
    editor.client.notify("workspace/didChangeWatchedFiles", json!({"changes": []}));
    assert!(editor.items(&open) > 0);
}

#[test]
fn rules_that_change_and_folders_that_are_added_count() {
    let mut editor = Editor::new(json!({"disabled.globs": ["/vendor/"]}));
    let (_dir, root) = folder(&[("repo/.git/HEAD", ""), ("repo/a.py", "")]);
    let [vendored, file] = ["repo/vendor/a.py", "repo/a.py"].map(|path| uri(&root.join(path)));
    assert!(editor.completes(&vendored, "python"));
    let added = json!([{"uri": uri(&root.join("repo")), "name": "repo"}]);
    let event = json!({"event": {"added": added, "removed": []}});
    editor.client.notify("workspace/didChangeWorkspaceFolders", event);
    assert!(!editor.completes(&vendored, "python"));
    let event = json!({"event": {"added": [], "removed": added}});
    editor.client.notify("workspace/didChangeWorkspaceFolders", event);
    assert!(editor.completes(&vendored, "python"));

    assert!(editor.completes(&file, "python"));
    editor.open(&file, "python", "");
    assert!(editor.items(&file) > 0);
    fs::write(root.join("repo/.gitignore"), "a.py\n").unwrap();
    // Without a watching client a verdict is made again after some seconds.
    let ignored = (0..100).any(|_| {
        std::thread::sleep(Duration::from_millis(100));
        editor.items(&file) == 0
    });
    assert!(ignored);
}

#[test]
fn what_is_excluded_later_leaves_the_prompts() {
    let (_dir, root) = folder(&[("repo/.git/HEAD", "")]);
    let [context, file] = ["repo/context.py", "repo/a.py"].map(|path| uri(&root.join(path)));
    let mut editor = Editor::in_folder(&uri(&root), Value::Null);
    editor.open(&context, "python", &format!("# {MARK}\n"));
    editor.open(&file, "python", "x = \n");
    let ask = |editor: &mut Editor, version: i64| {
        let at = json!({"start": {"line": 0, "character": 0}, "end": {"line": 0, "character": 0}});
        editor.client.change(&file, version, json!([{"range": at, "text": format!("v{version} = 1\n")}]));
        assert!(editor.items(&file) > 0);
        editor.server.asked().body["prompt"].as_str().unwrap().contains(MARK)
    };
    assert!(ask(&mut editor, 2));
    fs::write(root.join("repo/.gitignore"), "context.py\n").unwrap();
    editor.client.notify("workspace/didChangeWatchedFiles", json!({"changes": []}));
    assert!(!ask(&mut editor, 3));
    fs::remove_file(root.join("repo/.gitignore")).unwrap();
    editor.client.notify("workspace/didChangeWatchedFiles", json!({"changes": []}));
    editor.items(&file);
    let settings = json!({"settings": {"disabled.globs": ["context.*"]}});
    editor.client.notify("workspace/didChangeConfiguration", settings);
    assert!(!ask(&mut editor, 4));
}

#[test]
fn secrets_are_left_out_of_prompts() {
    let mut editor = Editor::new(Value::Null);
    let key = "MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSj";
    let text =
        format!("password = \"{MARK}\"\nPEM = '''\n-----BEGIN PRIVATE KEY-----\n{key}\n'''\nlast = 1\n");
    let prompt = editor.prompt_of(&text);
    assert!(prompt.contains("password = \"*************\"") && prompt.contains("last = 1"), "{prompt}");
    assert!(!prompt.contains(MARK) && !prompt.contains(key));
    editor.open("file:///w/context.py", "python", &text);
    let prompt = editor.prompt();
    assert!(prompt.contains("last = 1") && !prompt.contains(MARK) && !prompt.contains(key), "{prompt}");
}

#[test]
fn only_open_documents_are_context() {
    let (_dir, root) = folder(&[
        ("fimd.toml", "enabled = false\n"),
        (".vscode/settings.json", "{\"fimd.enabled\": false}"),
        ("lib.py", "on_disk = 1\n"),
        ("a.py", ""),
    ]);
    let mut editor = Editor::in_folder(&uri(&root), Value::Null);
    assert!(editor.completes(&uri(&root.join("a.py")), "python"));
    let lib = uri(&root.join("lib.py"));
    editor.open(&lib, "python", "was_open = 1\n");
    assert!(editor.prompt().contains("was_open"));
    editor.client.close(&lib);
    let prompt = editor.prompt_of("another = 1\n");
    assert!(!prompt.contains("was_open") && !prompt.contains("on_disk"), "{prompt}");
}

#[test]
fn commands_keep_the_same_rules() {
    let (_dir, root) = folder(&[
        (".git/HEAD", ""),
        (".gitignore", "ignored.py\n"),
        (".env", "KEY=1\n"),
        ("ignored.py", "x = 1\n"),
        ("a.py", "x = 1\npassword = \"hunter2-Zq9xK\"\n"),
        ("fimd.toml", "privacy.allow = ['.env']\n"),
    ]);
    let path = |name: &str| root.join(name).display().to_string();
    let at = |name: &str| path(name) + ":1:1";
    let none = "--no-daemon";
    check_fails(&["complete", &at(".env"), none], 1, &["does not read", ".env*", "privacy.allow"]);
    check_fails(&["complete", &at("ignored.py"), none], 1, &["git ignores it", "ignored.py in "]);
    check_fails(&["generate", "--prompt-file", &path(".env"), none], 1, &[".env*"]);
    for (setting, word) in [
        ("enabled=false", "enabled = false"),
        ("disabled.languages=python", "disabled.languages excludes python"),
        ("disabled.globs=*.py", "disabled.globs excludes it (*.py)"),
        ("privacy.secret_files=a.*", "with secrets (a.*)"),
    ] {
        check_fails(&["complete", &at("a.py"), none, "--set", setting], 1, &[word]);
    }
    let ids = |arguments: &[&str]| {
        let generate = ["generate", none, "--max-tokens", "1", "--json"];
        let value: Value = serde_json::from_str(&stdout(program().args(generate).args(arguments))).unwrap();
        value["prompt_ids"].clone()
    };
    let typed = fs::read_to_string(root.join("a.py")).unwrap();
    assert_ne!(ids(&["--prompt", &typed]), ids(&["--prompt-file", &path("a.py")]));
    assert_eq!(
        ids(&["--prompt", &typed.replace(MARK, "*************")]),
        ids(&["--prompt-file", &path("a.py")])
    );
    let doctor = |name: &str| program().args(["doctor", &path(name)]).output().unwrap();
    let refused = doctor(".env");
    let shown = String::from_utf8(refused.stdout).unwrap();
    assert!(
        !refused.status.success()
            && shown.contains("never completed, read or sent")
            && shown.contains(".env*")
    );
    let shown = String::from_utf8(doctor("a.py").stdout).unwrap();
    assert!(
        shown.contains("may be completed, read and sent") && shown.contains("line 2: a random value"),
        "{shown}"
    );
    let allowed = stdout(program().args(["doctor", &path(".env")]).env("FIMD_CONFIG", path("fimd.toml")));
    assert!(allowed.contains("may be completed"));
}

#[test]
fn what_a_terminal_obeys_is_escaped() {
    let (_dir, root) = folder(&[("a.py", "# \u{1b}[2J\u{202e}evil\nx = \n")]);
    let at = format!("{}:2:5", root.join("a.py").display());
    let shown = stdout(program().args(["complete", &at, "--no-daemon", "--max-tokens", "1"]));
    assert!(shown.contains("# \\u{1b}[2J\\u{202e}evil"), "{shown:?}");
    let output = program().args(["complete", "\u{1b}]0;x\u{7}.py:1:1"]).output().unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(errors.contains("\\u{1b}]0;x\\u{7}.py") && !errors.contains('\u{7}'), "{errors:?}");
}

#[test]
fn a_completion_that_hides_text_is_not_shown() {
    let server = Server::new(&[Act::Stream(&["safe(\u{202e})"], Duration::ZERO)]);
    let mut client = Client::start_with(server.engine(), deterministic(), None);
    client.initialize(json!({"textDocument": {"inlineCompletion": {}}}));
    for (uri, text, is_shown) in
        [("file:///w/a.py", "x = ", false), ("file:///w/b.py", "# \u{202e}\nx = ", true)]
    {
        client.open(uri, text);
        let line = text.matches('\n').count() as u32;
        let params = place(uri, [line, 4], json!({"triggerKind": 1}));
        let items = client.call("textDocument/inlineCompletion", params)["items"].clone();
        assert_eq!(!items.as_array().unwrap().is_empty(), is_shown, "{items}");
    }
}

#[test]
fn nothing_of_a_document_is_logged_at_any_level() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let mut program = program();
    program
        .args(["lsp", "--no-daemon", "--threads", "1"])
        .env("FIMD_LOG", "trace,tokenizers=trace,log=trace");
    program.stderr(Stdio::from(fs::File::create(&log).unwrap()));
    let mut client = Client::spawn(program);
    client.initialize(json!({"textDocument": {"inlineCompletion": {}}}));
    client.open("file:///w/a.py", &format!("name = \"{MARK}\"\nother = "));
    let params = place("file:///w/a.py", [1, 8], json!({"triggerKind": 1}));
    client.call("textDocument/inlineCompletion", params);
    client.notify("textDocument/didChange", json!({"textDocument": MARK}));
    client.call("shutdown", Value::Null);
    client.exit();
    client.forget_unread();
    let text = fs::read_to_string(log).unwrap();
    assert!(!text.contains(MARK) && !text.contains("###") && text.lines().count() < 100, "{text}");
}

/// The sentences of other pages about privacy, each with its page and the file and name of its test.
const ELSEWHERE: &[(&str, &str, &str, &str)] = &[
    ("README.md", "Nothing leaves the machine.", "layering", "sources_keep_the_rules"),
    ("editors/vscode/README.md", "Nothing leaves it,", "privacy", "extensions_open_no_connection"),
    (
        "src/guide/remote.md",
        "**Your code then leaves this machine**",
        "remote",
        "a_prompt_is_sent_and_a_completion_received",
    ),
    ("src/guide/remote.md", "It is sent to that URL only", "remote", "nothing_is_sent_elsewhere"),
    (
        "src/guide/remote.md",
        "Only your own file, environment and flags",
        "../../src/config/tests",
        "what_is_wrong_is_named_and_changes_nothing_else",
    ),
    (
        "src/guide/remote.md",
        "The API token comes from",
        "../../src/config/remote",
        "a_token_comes_from_where_the_settings_say",
    ),
    ("src/guide/remote.md", "It is never logged.", "remote", "the_program_logs_no_tokens_and_documents"),
    (
        "src/guide/remote.md",
        "Where a document or a file name has such a text",
        "../../src/complete/remote/wire",
        "documents_are_sent_as_text",
    ),
    ("src/guide/models.md", "`--trace FILE`, which all commands", "experts/mod", "routing_is_recorded"),
    (
        "src/guide/completion.md",
        "Files that are not open are never read.",
        "privacy",
        "only_open_documents_are_context",
    ),
    (
        "src/guide/completion.md",
        "Each file is in a prompt once",
        "privacy",
        "what_is_excluded_later_leaves_the_prompts",
    ),
];

/// Words that a sentence about privacy has.
const WORDS: [&str; 12] = [
    "leaves this machine",
    "leaves the machine",
    "leaves it,",
    "never logged",
    "never read",
    "leaves it with",
    "sent to that",
    "it is sent",
    "no text;",
    "telemetry",
    "set a server",
    "token comes",
];

/// The sentences of the guide about privacy, each with the file and the name of its test.
const SENTENCES: &[(&str, &str, &str)] = &[
    ("`fimd doctor FILE` says whether a file may be completed", "privacy", "commands_keep_the_same_rules"),
    ("The daemon opens no connection to a network", "layering", "sources_keep_the_rules"),
    ("Of the commands, `fimd pull` downloads", "layering", "sources_keep_the_rules"),
    ("`strace -f -e trace=network fimd daemon` shows", "layering", "sources_keep_the_rules"),
    (
        "Only your own file, environment and flags",
        "../../src/config/tests",
        "what_is_wrong_is_named_and_changes_nothing_else",
    ),
    ("One rule decides for completions", "privacy", "names_schemes_and_settings_exclude_documents"),
    ("These documents are excluded", "privacy", "names_schemes_and_settings_exclude_documents"),
    ("Files with names of secrets", "../../src/privacy/names", "secret_files_are_recognised_by_name"),
    ("`privacy.secret_files` adds names", "privacy", "commands_keep_the_same_rules"),
    ("Files that git ignores", "privacy", "links_and_rules_of_git_exclude_documents"),
    (
        "All files below a folder whose ignore rules cannot be read",
        "../../src/privacy/guard",
        "files_that_git_ignores_are_excluded",
    ),
    ("`fimd status` and the log say so.", "privacy", "links_and_rules_of_git_exclude_documents"),
    ("Files and languages of `disabled.globs`", "privacy", "commands_keep_the_same_rules"),
    (
        "Documents that are no files which you write",
        "privacy",
        "names_schemes_and_settings_exclude_documents",
    ),
    ("Only the schemes `file`", "../../src/privacy/location", "locations_have_a_scheme_and_a_plain_path"),
    (
        "A link to any of these",
        "../../src/privacy/guard",
        "links_are_seen_through_and_rules_never_come_from_them",
    ),
    ("Other files are used in a prompt only if they are open", "privacy", "only_open_documents_are_context"),
    (
        "Private keys, tokens of known forms",
        "../../src/privacy/content",
        "random_values_of_key_like_names_are_masked",
    ),
    ("Lines with such a secret are not fixed.", "assist", "lines_with_secrets_are_not_fixed"),
    ("A prompt that you type after `fimd generate --prompt`", "privacy", "commands_keep_the_same_rules"),
    ("No file of a workspace is read as settings", "privacy", "only_open_documents_are_context"),
    ("What an editor passes on", "../../src/config/tests", "an_editor_can_exclude_more_and_never_less"),
    (
        "Document text is never logged, at any level",
        "privacy",
        "nothing_of_a_document_is_logged_at_any_level",
    ),
    (
        "Document text is written to disk only when you ask",
        "assist",
        "an_explanation_is_a_file_that_goes_with_the_session",
    ),
    ("That file is readable only by you", "../../src/lsp/explain", "only_the_user_can_read_explanations"),
    ("Caches are in memory only", "layering", "sources_keep_the_rules"),
    (
        "Counters stay on the machine",
        "../../src/complete/stats",
        "requests_are_counted_by_what_became_of_them",
    ),
    ("Characters that control a terminal", "privacy", "what_a_terminal_obeys_is_escaped"),
];

/// The sentences of a page, without headings.
fn sentences(page: &str) -> Vec<String> {
    let paragraphs =
        page.split("\n\n").flat_map(|text| text.split("\n- ")).filter(|text| !text.starts_with('#'));
    let joined = paragraphs.map(|text| text.trim_start_matches("- ").replace("\n  ", " ").replace('\n', " "));
    let is_start = |text: &str| text.starts_with(|c: char| c.is_uppercase() || c == '`');
    joined
        .flat_map(|text| {
            let mut found = Vec::<String>::new();
            for part in text.split_inclusive(". ") {
                match found.last_mut() {
                    Some(last) if !is_start(part) => last.push_str(part),
                    _ => found.push(part.to_owned()),
                }
            }
            found
        })
        .map(|sentence| sentence.trim().to_owned())
        .collect()
}

#[test]
fn every_sentence_on_privacy_has_a_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("src/guide/privacy.md")).unwrap();
    let mut unused: BTreeSet<&str> = SENTENCES.iter().map(|(start, ..)| *start).collect();
    for sentence in sentences(&page) {
        let checked = SENTENCES.iter().find(|(start, ..)| sentence.starts_with(start));
        let (start, file, test) = checked.unwrap_or_else(|| panic!("no test checks: {sentence}"));
        unused.remove(start);
        check_test(file, test);
    }
    assert!(unused.is_empty(), "the page no longer says {unused:?}");
}

#[track_caller]
fn check_test(file: &str, test: &str) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let source = fs::read_to_string(root.join("tests/it").join(format!("{file}.rs"))).unwrap();
    assert!(source.contains(&format!("fn {test}(")), "{file}.rs has no {test}");
}

#[test]
fn sentences_on_privacy_of_other_pages_have_tests() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut pages = vec![root.join("README.md"), root.join("editors/vscode/README.md")];
    pages.extend(fs::read_dir(root.join("src/guide")).unwrap().map(|entry| entry.unwrap().path()));
    let mut unused: BTreeSet<&str> = ELSEWHERE.iter().map(|(_, start, ..)| *start).collect();
    // Each page but the one with a table of its own, and the one that is a table.
    pages.retain(|page| !page.ends_with("privacy.md") && !page.ends_with("settings.md"));
    for page in &pages {
        let name = page.strip_prefix(root).unwrap().to_str().unwrap();
        for sentence in sentences(&fs::read_to_string(page).unwrap()) {
            let checked = ELSEWHERE.iter().find(|(of, start, ..)| *of == name && sentence.starts_with(start));
            if let Some((_, start, file, test)) = checked {
                unused.remove(start);
                check_test(file, test);
            }
            let is_about_privacy = WORDS.iter().any(|word| sentence.contains(word));
            assert!(checked.is_some() || !is_about_privacy, "no test checks this of {name}: {sentence}");
        }
    }
    assert!(unused.is_empty(), "the pages no longer say {unused:?}");
}

#[test]
fn extensions_open_no_connection() {
    let editors = Path::new(env!("CARGO_MANIFEST_DIR")).join("editors");
    let mut folders = vec![editors.join("vscode/src"), editors.join("neovim")];
    let mut count = 0;
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|end| end == "ts" || end == "lua") {
                let source = fs::read_to_string(&path).unwrap();
                for word in
                    ["fetch(", "XMLHttp", "WebSocket", "node:http", "node:net", "new_tcp", "elemetry", "://"]
                {
                    assert!(!source.contains(word), "{}: {word}", path.display());
                }
                count += 1;
            }
        }
    }
    assert!(count > 10, "{count} files");
}
