//! The daemon as editors, commands and strangers meet it.

use std::io::{BufRead, BufReader};
#[cfg(unix)]
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::client::{CONTENT_MODIFIED, Client};
use crate::remote::{Act, Server};
use crate::{cli, tiny};

const URI: &str = "file:///home/me/a.py";
/// Longer than anything takes on a slow and busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A user of their own, whose daemon ends with the test.
struct User {
    dir: TempDir,
}

impl User {
    fn new() -> Self {
        let user = Self { dir: tempfile::tempdir().unwrap() };
        std::fs::write(user.settings(), "").unwrap();
        user
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = cli::program();
        command.args(args).env("FIMD_RUNTIME_DIR", self.runtime()).env("FIMD_CONFIG", self.settings());
        command
    }

    fn settings(&self) -> std::path::PathBuf {
        self.dir.path().join("fimd.toml")
    }

    fn runtime(&self) -> std::path::PathBuf {
        self.dir.path().join("run")
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    #[track_caller]
    fn ok(&self, args: &[&str]) -> String {
        cli::stdout(&mut self.command(args))
    }

    #[track_caller]
    fn fails(&self, args: &[&str], words: &str) {
        let output = self.run(args);
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && errors.contains(words), "{args:?}: {errors}");
    }

    #[track_caller]
    fn status(&self) -> Value {
        serde_json::from_str(&self.ok(&["status", "--json"])).unwrap()
    }

    /// Waits until the status is as it should be.
    #[track_caller]
    fn wait(&self, is_so: impl Fn(&Value) -> bool) -> Value {
        let started = Instant::now();
        loop {
            let status = self.status();
            if is_so(&status) {
                return status;
            }
            assert!(started.elapsed() < PATIENCE, "{status:#}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until so many editors are connected to a daemon, which may only start now.
    #[cfg(unix)]
    fn wait_for_editors(&self, count: usize) {
        let started = Instant::now();
        loop {
            let status: Value =
                serde_json::from_slice(&self.run(&["status", "--json"]).stdout).unwrap_or_default();
            if status["editors"].as_array().is_some_and(|editors| editors.len() == count) {
                return;
            }
            assert!(started.elapsed() < PATIENCE, "{status:#}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// An editor that has started `fimd lsp` and opened a document.
    fn editor(&self, args: &[&str], text: &str) -> Client {
        let mut client = Client::spawn(self.command(&[&["lsp"], args].concat()));
        client.initialize_with(
            json!({"textDocument": {"inlineCompletion": {}}, "general": {"positionEncodings": ["utf-8"]}}),
            json!({"fim.order": "spm", "warm": false, "speculate": false, "budget": {"soft_ms": 600_000, "hard_ms": 600_000}}),
        );
        client.open(URI, text);
        client
    }
}

impl Drop for User {
    fn drop(&mut self) {
        self.run(&["stop"]);
    }
}

/// The ghost text at a place, asked for by hand.
#[track_caller]
fn ghost(client: &mut Client, line: u32, column: u32) -> Option<String> {
    let id = request_ghost(client, line, column);
    let result = client.result(id);
    result["items"].as_array().unwrap().first().map(|item| item["insertText"].as_str().unwrap().to_owned())
}

fn request_ghost(client: &mut Client, line: u32, column: u32) -> i64 {
    client.request_inline(URI, [line, column], json!({"triggerKind": 1}))
}

const STACK: &str = "class Stack:\n    def pop(self):\n        item = self.items.pop()\n        return ";

fn kill(pid: u64) {
    assert!(Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap().success());
}

#[test]
fn editors_share_a_daemon_and_its_model() {
    let user = User::new();
    assert_eq!(user.run(&["status"]).status.code(), Some(1));
    let (mut one, mut two) = (user.editor(&[], STACK), user.editor(&[], STACK));
    let texts = [&mut one, &mut two].map(|editor| ghost(editor, 3, 15).unwrap());
    assert_eq!(texts[0], texts[1]);
    let status = user.status();
    assert_eq!(status["editors"].as_array().unwrap().len(), 2, "{status:#}");
    assert_eq!(status["statistics"]["requests"], 2);
    assert!(status["statistics"]["tokens_reused"].as_u64().unwrap() > 10, "the second had it from the first");

    let elsewhere =
        |args: &[&str]| user.ok(&[&["complete", "tests/data/demo/stack.py:22:11", "--json"], args].concat());
    let [shared, own] = [elsewhere(&[]), elsewhere(&["--no-daemon"])];
    let [shared, own]: [Value; 2] = [shared, own].map(|text| serde_json::from_str(&text).unwrap());
    assert_eq!(shared["text"], own["text"]);
    assert!(shared["timings"]["load_ms"] == 0.0 && own["timings"]["load_ms"].as_f64().unwrap() > 0.0);
    let generate = |args: &[&str]| {
        user.ok(&[&["generate", "--prompt", "def f(x):\n    return", "--max-tokens", "8"], args].concat())
    };
    assert_eq!(generate(&[]), generate(&["--no-daemon"]));

    user.ok(&["pause"]);
    assert_eq!((ghost(&mut one, 3, 15), user.status()["state"].clone()), (None, json!("paused")));
    user.ok(&["resume"]);
    assert!(ghost(&mut one, 3, 15).is_some());
    user.ok(&["pause", "0.005"]);
    user.wait(|status| status["state"] == "ready");
    drop(two);
    user.wait(|status| status["editors"].as_array().unwrap().len() == 1);
}

#[test]
fn an_editor_outlives_its_daemon() {
    let user = User::new();
    let mut editor = user.editor(&[], "x = 1\n");
    let whole = |text: &str| json!([{"text": text}]);
    editor.change(URI, 2, whole(STACK));
    assert!(ghost(&mut editor, 3, 15).is_some());
    let first = user.status()["pid"].as_u64().unwrap();
    kill(first);
    let insert = json!([{"range": {"start": {"line": 3, "character": 15}, "end": {"line": 3, "character": 15}},
        "text": "it"}]);
    editor.change(URI, 3, insert);
    let started = Instant::now();
    // One that was on its way when the daemon went is answered, but not by it.
    let text = loop {
        let id = editor.request_inline(URI, [3, 17], json!({"triggerKind": 1}));
        let response = editor.response(&json!(id));
        if let Some(items) = response["result"]["items"].as_array().filter(|items| !items.is_empty()) {
            break items[0]["insertText"].clone();
        }
        assert!(
            response["error"]["code"] == CONTENT_MODIFIED || response["result"].is_object(),
            "{response}"
        );
        assert!(started.elapsed() < PATIENCE);
        thread::sleep(Duration::from_millis(50));
    };
    assert!(!text.as_str().unwrap().is_empty());
    assert_ne!(user.status()["pid"].as_u64().unwrap(), first);
}

#[test]
fn a_stopped_daemon_stays_stopped_until_it_is_wanted_again() {
    let user = User::new();
    let mut editor = user.editor(&[], STACK);
    assert!(ghost(&mut editor, 3, 15).is_some());
    user.ok(&["stop"]);
    user.fails(&["stop"], "no daemon runs");
    assert_eq!(ghost(&mut editor, 3, 15), None);
    assert_eq!(user.run(&["status"]).status.code(), Some(1));
    let mut other = user.editor(&[], STACK);
    assert!(ghost(&mut other, 3, 15).is_some());
    let started = Instant::now();
    while ghost(&mut editor, 3, 15).is_none() {
        assert!(started.elapsed() < PATIENCE);
        thread::sleep(Duration::from_millis(100));
    }
    user.wait(|status| status["editors"].as_array().unwrap().len() == 2);
}

#[test]
fn editors_that_start_at_once_start_one_daemon() {
    let user = User::new();
    let editors: Vec<Client> = thread::scope(|scope| {
        let started: Vec<_> = (0..6).map(|_| scope.spawn(|| user.command(&["lsp"]))).collect();
        let spawned: Vec<Client> =
            started.into_iter().map(|command| Client::spawn(command.join().unwrap())).collect();
        spawned
    });
    let mut editors = editors;
    for editor in &mut editors {
        editor.initialize(json!({"textDocument": {"inlineCompletion": {}}}));
    }
    user.wait(|status| status["editors"].as_array().unwrap().len() == 6);
}

#[test]
fn another_model_is_a_swap_that_editors_do_not_notice() {
    let (user, model) = (User::new(), tiny::folder());
    let said = user.ok(&["load"]);
    assert!(said.contains("serves the starter model") && said.contains("until the daemon ends"), "{said}");
    let mut editor = user.editor(&[], "x = ");
    let path = model.path().to_str().unwrap();
    user.ok(&["load", path]);
    let status = user.wait(|status| status["model"]["name"] == path);
    assert_eq!((status["state"].clone(), status["is_stand_in"].clone()), (json!("ready"), json!(false)));
    let started = Instant::now();
    // One that was on its way when the model came is answered with nothing.
    while !ghost(&mut editor, 0, 4).is_some_and(|text| text.starts_with(tiny::LINE)) {
        assert!(started.elapsed() < PATIENCE);
    }
    user.fails(&["load", "/nowhere"], "/nowhere");
    let said = editor.notification("window/showMessage")["message"].as_str().unwrap().to_owned();
    assert!(said.contains("cannot load /nowhere"), "{said}");
    let status = user.status();
    assert_eq!((status["state"].clone(), status["model"]["name"].clone()), (json!("ready"), json!(path)));
    assert!(status["failure"].as_str().unwrap().contains("/nowhere"), "{status:#}");
    let said = user.ok(&["status"]);
    assert!(said.contains("last load failed: cannot load /nowhere") && said.contains(path), "{said}");
    // An editor that wants another model while others are there is told.
    let mut other = user.editor(&["--model", "/elsewhere"], "");
    let mut said = || other.notification("window/showMessage")["message"].as_str().unwrap().to_owned();
    let said = [said(), said()].concat();
    for words in ["/elsewhere", "fimd load", "cannot load /nowhere"] {
        assert!(said.contains(words), "{said}");
    }
    user.ok(&["load"]);
    user.wait(|status| status["model"]["name"] == "the starter model" && status["state"] == "ready");
    while ghost(&mut editor, 0, 4).is_none_or(|text| text.starts_with(tiny::LINE)) {
        assert!(started.elapsed() < PATIENCE);
    }
}

#[test]
fn a_typo_in_the_file_of_settings_changes_nothing_and_is_shown() {
    let (user, model) = (User::new(), tiny::folder());
    let path = model.path().to_str().unwrap();
    let good = format!("model = '{path}'\n[disabled]\nlanguages = ['c']\n");
    std::fs::write(user.settings(), &good).unwrap();
    let mut editor = user.editor(&[], "x = ");
    editor.notify(
        "textDocument/didOpen",
        json!({"textDocument": {"uri": "file:///home/me/a.c", "languageId": "c", "version": 1, "text": "x = "}}),
    );
    let of_c = |editor: &mut Client| {
        let params = json!({"textDocument": {"uri": "file:///home/me/a.c"},
            "position": {"line": 0, "character": 4}, "context": {"triggerKind": 1}});
        editor.call("textDocument/inlineCompletion", params)["items"].clone()
    };
    user.wait(|status| status["state"] == "ready" && status["model"]["name"] == path);
    for (typo, words) in [
        (good.replace("']", "'"), "the settings stay as they were"),
        (good.replace("['c']", "'c'"), "disabled.languages: expected a list"),
        (good.replace("model", "modle"), "did you mean model?"),
    ] {
        std::fs::write(user.settings(), &typo).unwrap();
        let status =
            user.wait(|status| status["problems"][0].as_str().is_some_and(|problem| problem.contains(words)));
        assert_eq!((status["state"].clone(), status["model"]["name"].clone()), (json!("ready"), json!(path)));
        assert!(user.ok(&["status"]).contains(words));
        let said = editor.notification("window/showMessage")["message"].as_str().unwrap().to_owned();
        assert!(said.contains(words), "{said}");
        assert_eq!(of_c(&mut editor), json!([]), "the language stays disabled");
    }
    std::fs::write(user.settings(), &good).unwrap();
    user.wait(|status| status["problems"] == json!([]) && status["model"]["name"] == path);
    // A daemon that starts with a typo has what the rest of the file says.
    drop(editor);
    user.ok(&["stop"]);
    std::fs::write(user.settings(), good.replace("['c']", "'c'")).unwrap();
    let mut editor = user.editor(&[], "x = ");
    let said = editor.notification("window/showMessage")["message"].as_str().unwrap().to_owned();
    assert!(said.contains("disabled.languages: expected a list"), "{said}");
    let status = user.wait(|status| status["model"]["name"] == path);
    assert_eq!(status["problems"].as_array().unwrap().len(), 1);
}

#[test]
fn the_log_of_a_normal_start_has_no_warning_and_is_named() {
    let user = User::new();
    user.fails(&["log"], "no daemon has written a log");
    let mut editor = user.editor(&[], STACK);
    assert!(ghost(&mut editor, 3, 15).is_some());
    user.ok(&["log"]);
    let file = user.ok(&["log", "--path"]);
    let log = user.run(&["log", "--lines", "1000"]);
    let (log, hint) = (String::from_utf8(log.stdout).unwrap(), String::from_utf8(log.stderr).unwrap());
    assert!(log.contains("listening at") && !log.contains("WARN") && !log.contains("ERROR"), "{log}");
    assert!(hint.contains(file.trim()) && user.ok(&["status"]).contains(file.trim()), "{hint}");
    assert_eq!(user.ok(&["log", "-n", "1"]).lines().count(), 1);
}

#[test]
fn a_watched_status_is_printed_every_second() {
    let user = User::new();
    let mut editor = user.editor(&[], STACK);
    assert!(ghost(&mut editor, 3, 15).is_some());
    let mut watch = user.command(&["status", "--watch"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines().map_while(Result::ok);
    let mut block = || lines.by_ref().take_while(|line| !line.is_empty()).collect::<Vec<_>>().join("\n");
    let blocks = [block(), block()];
    watch.kill().unwrap();
    watch.wait().unwrap();
    for text in blocks {
        let expected =
            ["ready", "the starter model", "tokens/s", "█", "accepted    0 (0 %)", "Python: 0 of 1 (0 %)"];
        for words in expected {
            assert!(text.contains(words), "{words:?} is not in {text}");
        }
        assert!(!text.contains('\x1b'), "a pipe has no colours");
    }
    let coloured = user.command(&["status"]).env("CLICOLOR_FORCE", "1").output().unwrap();
    assert!(String::from_utf8_lossy(&coloured.stdout).contains("\x1b[32mready"));
}

#[test]
fn a_daemon_without_editors_ends() {
    let user = User::new();
    let mut daemon = user.command(&["daemon", "--set", "daemon.idle_exit_minutes=0.02"]).spawn().unwrap();
    let started = Instant::now();
    let status = loop {
        match daemon.try_wait().unwrap() {
            Some(status) => break status,
            None => assert!(started.elapsed() < PATIENCE),
        }
        thread::sleep(Duration::from_millis(20));
    };
    assert!(status.success());
    assert!(!user.runtime().join("daemon.sock").exists());
}

#[cfg(unix)]
mod strangers {
    use std::fs;
    use std::io::{Read, Write};
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixStream;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn what_makes_no_sense_does_not_take_the_daemon_down() {
        let user = User::new();
        let mut editor = user.editor(&[], STACK);
        let socket = user.runtime().join("daemon.sock");
        assert_eq!((mode(&user.runtime()), mode(&socket)), (0o700, 0o600));
        let silent = UnixStream::connect(&socket).unwrap();
        let greeting = |protocol: u32, purpose: &str| {
            format!(
                "{{\"protocol\":{protocol},\"program\":{{\"version\":\"0\",\"built_s\":0}},\"purpose\":{purpose}}}\n"
            )
        };
        let edit = r#"{"edit":{"overrides":{"settings":{"alternatives":[{"from":"editor","value":"many"}]}},"wishes":{"threads":0}}}"#;
        for said in [
            b"\n".to_vec(),
            b"GET / HTTP/1.1\r\n\r\n".to_vec(),
            vec![b'x'; 1 << 20],
            vec![0xff; 100],
            b"[[[[[[[[[[".repeat(5000),
            greeting(0, "\"ask\"").into_bytes(),
            greeting(1, "\"ask\"").into_bytes(),
            [greeting(1, "\"ask\"").into_bytes(), b"{\"pause\":{\"minutes\":-1}}\n".to_vec()].concat(),
            [greeting(1, "\"ask\"").into_bytes(), b"{\"generate\":{}}\n".to_vec()].concat(),
            [greeting(1, edit).into_bytes(), b"Content-Length: 99999999999\r\n\r\n{".to_vec()].concat(),
            [greeting(1, edit).into_bytes(), b"Content-Length: 2\r\n\r\n{}".repeat(50)].concat(),
        ] {
            let mut stream = UnixStream::connect(&socket).unwrap();
            // The daemon may hang up in the middle.
            let _ = stream.write_all(&said);
            let _ = stream.shutdown(std::net::Shutdown::Write);
            let _ = stream.read_to_end(&mut Vec::new());
        }
        assert!(ghost(&mut editor, 3, 15).is_some());
        let status = user.status();
        assert_eq!(
            (status["editors"].as_array().unwrap().len(), status["state"].clone()),
            (1, json!("ready"))
        );
        drop(silent);
    }

    #[test]
    fn a_folder_that_others_can_enter_is_refused() {
        let user = User::new();
        fs::create_dir(user.runtime()).unwrap();
        fs::set_permissions(user.runtime(), fs::Permissions::from_mode(0o755)).unwrap();
        user.fails(&["status"], "mode 755");
        user.fails(&["lsp"], "--no-daemon");
        fs::set_permissions(user.runtime(), fs::Permissions::from_mode(0o700)).unwrap();
    }

    /// Only root can become somebody else.
    #[test]
    fn other_users_are_refused() {
        if !rustix_is_root() {
            eprintln!("skipped: only root can try to connect as another user");
            return;
        }
        let user = User::new();
        let mut editor = user.editor(&[], STACK);
        for path in [user.dir.path().to_owned(), user.runtime()] {
            fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
        }
        let socket = user.runtime().join("daemon.sock");
        fs::set_permissions(&socket, fs::Permissions::from_mode(0o666)).unwrap();
        // It says that it is connected, and then what it hears, which is nothing.
        let script = "socket(S, PF_UNIX, SOCK_STREAM, 0); connect(S, sockaddr_un($ARGV[0])) or die $!;
            syswrite(STDOUT, 'connected:'); syswrite(S, qq({}\n)); sysread(S, $said, 100); print $said";
        let stranger = Command::new("setpriv")
            .args(["--reuid=65534", "--clear-groups", "perl", "-MSocket", "-e", script])
            .arg(&socket)
            .output();
        fs::set_permissions(user.runtime(), fs::Permissions::from_mode(0o700)).unwrap();
        match stranger {
            Ok(output) if output.stdout.starts_with(b"connected:") => {
                assert_eq!(output.stdout, b"connected:")
            }
            other => {
                eprintln!("skipped: nobody else can connect here: {other:?}");
                return;
            }
        }
        let log = fs::read_dir(user.runtime())
            .unwrap()
            .filter_map(|entry| fs::read_to_string(entry.unwrap().path()).ok());
        assert!(log.collect::<String>().contains("from user 65534"), "the daemon says whom it refused");
        assert!(ghost(&mut editor, 3, 15).is_some());
    }

    fn rustix_is_root() -> bool {
        let output = Command::new("id").arg("-u").output();
        output.is_ok_and(|output| output.stdout == b"0\n")
    }
}

/// The log of the user's daemon.
fn log(user: &User) -> String {
    std::fs::read_to_string(user.runtime().join("fimd.log")).unwrap_or_default()
}

#[test]
fn a_model_that_has_ended_the_daemon_is_not_loaded_again() {
    let (user, model) = (User::new(), tiny::folder());
    let path = model.path().to_str().unwrap();
    std::fs::write(user.settings(), format!("model = {path:?}\n")).unwrap();
    let ready = |status: &Value| status["state"] == "ready" && status["is_stand_in"] == false;
    let mut editor = user.editor(&[], STACK);
    user.wait(ready);
    user.ok(&["stop"]);
    assert!(!user.runtime().join("loading").exists() && !user.runtime().join("last-words").exists());

    std::fs::write(user.runtime().join("loading"), path).unwrap();
    let mut other = user.editor(&[], STACK);
    let status = user.wait(|status| status["state"] == "failed");
    assert!(status["failure"].as_str().unwrap().contains("has ended the daemon before"), "{status:#}");
    assert!(log(&user).contains("has ended the daemon before"), "{}", log(&user));
    assert!(ghost(&mut other, 3, 15).is_some(), "the starter answers");
    let told = other.notification("window/showMessage");
    assert!(told["message"].as_str().unwrap().contains("has ended the daemon before"), "{told}");
    user.ok(&["load", path]);
    user.wait(ready);
    editor.forget_unread();
    other.forget_unread();
}

#[cfg(unix)]
#[test]
fn the_next_daemon_logs_how_the_one_before_has_ended() {
    let user = User::new();
    for (signal, expected) in [("-ABRT", "fimd ends with SIGABRT"), ("-9", "killed without a word")] {
        let mut editor = user.editor(&[], STACK);
        assert!(ghost(&mut editor, 3, 15).is_some());
        let pid = user.status()["pid"].as_u64().unwrap();
        assert!(Command::new("kill").args([signal, &pid.to_string()]).status().unwrap().success());
        let started = Instant::now();
        while !log(&user).contains(expected) {
            assert!(started.elapsed() < PATIENCE, "{signal}: {}", log(&user));
            thread::sleep(Duration::from_millis(50));
        }
        editor.forget_unread();
    }
}

#[cfg(unix)]
#[test]
fn a_bridge_ends_with_the_process_of_its_editor() {
    let user = User::new();
    let mut editor = Command::new("sleep").arg("600").spawn().unwrap();
    let mut bridge = user
        .command(&["lsp"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let params = json!({"processId": editor.id(), "rootUri": null, "capabilities": {}});
    let request = json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params});
    let mut pipe = bridge.stdin.take().unwrap();
    std::io::Write::write_all(&mut pipe, &fimd::lsp::frame(request.to_string().as_bytes())).unwrap();
    user.wait_for_editors(1);
    editor.kill().unwrap();
    editor.wait().unwrap();
    let started = Instant::now();
    while bridge.try_wait().unwrap().is_none() {
        assert!(started.elapsed() < PATIENCE, "the pipe is open, but the editor is gone");
        thread::sleep(Duration::from_millis(50));
    }
    drop(pipe);
}

#[test]
fn a_command_that_ends_cancels_its_request() {
    let (user, server) = (User::new(), Server::new(&[Act::Hang]));
    std::fs::write(user.settings(), format!("[remote]\nurl = {:?}\n", server.url)).unwrap();
    let file = user.dir.path().join("a.py");
    std::fs::write(&file, "x = ").unwrap();
    let mut editor = user.editor(&[], STACK);
    let mut command = user
        .command(&["complete", &format!("{}:1:5", file.display())])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    server.asked();
    command.kill().unwrap();
    command.wait().unwrap();
    server.wait_until_dropped();
    editor.forget_unread();
}

#[cfg(unix)]
#[test]
fn a_hung_daemon_is_noticed() {
    let signal = |signal: &str, pid: u64| {
        assert!(Command::new("kill").args([signal, &pid.to_string()]).status().unwrap().success());
    };
    // The bridge of the second editor has more to send than the system takes.
    for text in ["y = ".to_owned(), "y = 1\n".repeat(1 << 19)] {
        let user = User::new();
        let mut editor = user.editor(&[], STACK);
        assert!(ghost(&mut editor, 3, 15).is_some());
        let pid = user.status()["pid"].as_u64().unwrap();
        signal("-STOP", pid);
        editor.change(URI, 2, json!([{"text": text}]));
        let told = editor.notification("window/showMessage");
        assert!(told["message"].as_str().unwrap().contains("the daemon has not responded for"), "{told}");
        kill(pid);
        editor.change(URI, 3, json!([{"text": STACK}]));
        // A request that the killed daemon was still sent is refused, and the next one goes to its successor.
        let id = request_ghost(&mut editor, 3, 15);
        if let Some(error) = editor.response(&json!(id)).get("error") {
            assert_eq!(error["code"], CONTENT_MODIFIED, "{error}");
        }
        assert!(ghost(&mut editor, 3, 15).is_some(), "a new one starts");
        editor.forget_unread();
    }
}

#[cfg(unix)]
#[test]
fn a_model_that_is_cut_short_is_named() {
    let (user, model) = (User::new(), tiny::folder());
    let path = model.path().to_str().unwrap();
    std::fs::write(user.settings(), format!("model = {path:?}\n")).unwrap();
    let mut editor = user.editor(&[], STACK);
    let pid = user.wait(|status| status["state"] == "ready" && status["is_stand_in"] == false)["pid"].clone();
    let weights = model.path().join("model.safetensors");
    std::fs::File::options().write(true).open(&weights).unwrap().set_len(0).unwrap();
    assert_eq!(ghost(&mut editor, 3, 15), None);
    let expected = format!("{} was truncated from", weights.display());
    assert!(log(&user).contains(&expected), "{}", log(&user));
    assert_eq!(user.status()["pid"], pid);
    editor.forget_unread();
}

/// A file that is cut short while its pages are read. The test runs itself again, and that process ends.
#[cfg(unix)]
#[test]
fn a_file_whose_pages_are_gone_is_named() {
    const MAPPED: &str = "FIMD_TEST_MAPPED";
    if let Some(folder) = std::env::var_os(MAPPED) {
        fimd::base::crash::name_signals();
        let folder = Path::new(&folder);
        let dir = fimd::format::ModelDir::open(folder).unwrap();
        let weights = std::fs::File::options().write(true).open(folder.join("model.safetensors")).unwrap();
        weights.set_len(0).unwrap();
        let name = dir.names().next().unwrap();
        println!("{}", dir.tensor(name).unwrap().bytes.iter().map(|&byte| u64::from(byte)).sum::<u64>());
        return;
    }
    let model = tiny::folder();
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "daemon::a_file_whose_pages_are_gone_is_named", "--nocapture"])
        .env(MAPPED, model.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let file = model.path().join("model.safetensors");
    let expected = format!("fimd ends with SIGBUS: the mapped file {} cannot be read", file.display());
    assert!(!output.status.success() && said.contains(&expected), "{said}");
}
