//! Getting a model: downloads from a small hub that does what a test wants, the cache on disk, and the commands.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use fimd::base::client::Token;
use fimd::hub::cache::Cache;
use fimd::hub::download::{self, Event, Options, Outcome};
use fimd::hub::reference::Reference;
use ring::digest::{SHA256, digest};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{cli, tiny};

/// What a server does with a request for the content of a file. Positions count the bytes of its answer.
#[derive(Clone, Copy, Debug)]
enum Act {
    /// Sends what is asked for.
    Send,
    /// Breaks off before this byte.
    Cut(usize),
    /// Sends no more from this byte on, and keeps the connection.
    Stall(usize),
    /// Gets this byte wrong.
    Corrupt(usize),
    /// Sends all of it, whatever part is asked for.
    Whole,
    /// Sends another part than was asked for.
    WrongPart,
    /// Has no such part.
    NoPart,
    /// Answers with a status and headers.
    Status(u16, &'static str),
}

/// A request as it came.
#[derive(Clone, Debug)]
struct Asked {
    server: &'static str,
    line: String,
    headers: BTreeMap<String, String>,
}

impl Asked {
    fn is(&self, server: &str, method: &str) -> bool {
        self.server == server && self.line.starts_with(method)
    }
}

/// A repository.
#[derive(Clone, Default)]
struct Files {
    content: BTreeMap<String, Vec<u8>>,
    /// What the hub says of the sizes of all files, where it lies.
    claimed_bytes: Option<u64>,
    commit: String,
}

/// A hub, and the server that it redirects to for the content of large files.
struct Hub {
    url: String,
    asked: Arc<Mutex<Vec<Asked>>>,
    acts: Arc<Mutex<VecDeque<Act>>>,
}

/// From how many bytes on a file is large.
const LARGE_BYTES: usize = 1000;

impl Hub {
    /// With one repository, `me/m`.
    fn new(files: &[(&str, &[u8])]) -> Self {
        let content = files.iter().map(|(name, bytes)| ((*name).to_owned(), bytes.to_vec())).collect();
        Self::of(Files { content, claimed_bytes: None, commit: "c0ffee".into() })
    }

    fn of(files: Files) -> Self {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let acts = Arc::new(Mutex::new(VecDeque::new()));
        let files = Arc::new(files);
        let store = {
            let (files, acts) = (files.clone(), acts.clone());
            serve("store", asked.clone(), move |asked, stream| answer_content(asked, stream, &files, &acts))
        };
        let url = serve("hub", asked.clone(), move |asked, stream| answer_hub(asked, stream, &files, &store));
        Self { url, asked, acts }
    }

    /// What is done with the next requests for content; those after them are answered as they should be.
    fn will(&self, acts: &[Act]) {
        *self.acts.lock().unwrap() = acts.iter().copied().collect();
    }

    fn options(&self, cache: &Path) -> Options {
        Options {
            endpoint: self.url.clone(),
            token: Some(Token::new("secret").unwrap()),
            cache: cache.to_owned(),
            stall: Duration::from_secs(20),
            back_off: Duration::from_millis(1),
            retries: 3,
        }
    }

    fn pull(&self, cache: &Path, what: &str) -> Result<PathBuf, String> {
        pull(&self.options(cache), what)
    }

    /// The `Range` of each request for content since the last look; empty for all of it.
    fn ranges(&self) -> Vec<String> {
        let asked = std::mem::take(&mut *self.asked.lock().unwrap());
        let content = asked.iter().filter(|asked| asked.is("store", "GET"));
        content.map(|asked| asked.headers.get("range").cloned().unwrap_or_default()).collect()
    }
}

fn pull(options: &Options, what: &str) -> Result<PathBuf, String> {
    match download::pull(options, &what.parse().unwrap(), &mut |_| {}) {
        Ok(Outcome::Pulled { path, .. }) => Ok(path),
        Ok(Outcome::Choices(variants)) => {
            Err(variants.iter().map(|variant| variant.name.clone()).collect::<Vec<_>>().join(" "))
        }
        Err(error) => Err(format!("{error:#}")),
    }
}

/// Starts a server; returns its address. `answer` says whether the connection stays open.
fn serve(
    server: &'static str,
    asked: Arc<Mutex<Vec<Asked>>>,
    answer: impl Fn(&Asked, &mut TcpStream) -> std::io::Result<bool> + Send + Sync + 'static,
) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let answer = Arc::new(answer);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, answer, asked) = (stream.unwrap(), answer.clone(), asked.clone());
            thread::spawn(move || {
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                while let Some(request) = read_request(server, &mut reader) {
                    asked.lock().unwrap().push(request.clone());
                    if !answer(&request, &mut stream).unwrap_or(false) {
                        return;
                    }
                }
            });
        }
    });
    url
}

fn read_request(server: &'static str, reader: &mut impl BufRead) -> Option<Asked> {
    let mut lines = reader.lines().map_while(Result::ok).take_while(|line| !line.is_empty());
    let line = lines.next()?;
    let headers = lines.filter_map(|line| {
        let (name, value) = line.split_once(':')?;
        Some((name.to_ascii_lowercase(), value.trim().to_owned()))
    });
    Some(Asked { server, line, headers: headers.collect() })
}

fn sha256(bytes: &[u8]) -> String {
    digest(&SHA256, bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What Hugging Face says of a repository and its files.
fn answer_hub(asked: &Asked, stream: &mut TcpStream, files: &Files, store: &str) -> std::io::Result<bool> {
    let mut line = asked.line.split(' ');
    let (method, path) = (line.next().unwrap(), line.next().unwrap());
    if path.starts_with("/api/models/me/m/revision/main") {
        let size = |bytes: &[u8]| files.claimed_bytes.unwrap_or(bytes.len() as u64);
        let siblings =
            files.content.iter().map(|(name, bytes)| json!({"rfilename": name, "size": size(bytes)}));
        let listing = json!({"sha": files.commit, "siblings": siblings.collect::<Vec<_>>()}).to_string();
        let length = listing.len();
        return write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{listing}").map(|()| true);
    }
    // Small files are not in the store, and not where they are asked for.
    let (start, other) = (format!("/me/m/resolve/{}/", files.commit), "/api/resolve-cache/");
    let name = path.strip_prefix(&start).or(path.strip_prefix(other)).unwrap_or_default();
    let Some(bytes) = files.content.get(name) else {
        return stream.write_all(b"HTTP/1.1 404 X\r\ncontent-length: 0\r\n\r\n").map(|()| true);
    };
    let length = bytes.len();
    if length >= LARGE_BYTES {
        let (claimed, sha) = (files.claimed_bytes.unwrap_or(length as u64), sha256(bytes));
        let linked = format!("x-linked-etag: \"{sha}\"\r\nx-linked-size: {claimed}\r\netag: \"other\"\r\n");
        let head = format!(
            "HTTP/1.1 302 X\r\n{linked}location: {store}/{name}?signed=x\r\ncontent-length: 0\r\n\r\n"
        );
        return stream.write_all(head.as_bytes()).map(|()| true);
    }
    if !path.starts_with(other) {
        let head = format!("HTTP/1.1 307 X\r\nlocation: {other}{name}\r\ncontent-length: 0\r\n\r\n");
        return stream.write_all(head.as_bytes()).map(|()| true);
    }
    let etag = &sha256(bytes)[..40];
    write!(stream, "HTTP/1.1 200 OK\r\netag: \"{etag}\"\r\ncontent-length: {length}\r\n\r\n")?;
    if method == "GET" { stream.write_all(bytes).map(|()| true) } else { Ok(true) }
}

/// What the store sends.
fn answer_content(
    asked: &Asked,
    stream: &mut TcpStream,
    files: &Files,
    acts: &Mutex<VecDeque<Act>>,
) -> std::io::Result<bool> {
    let act = acts.lock().unwrap().pop_front().unwrap_or(Act::Send);
    let name = asked.line.split([' ', '?']).nth(1).unwrap().trim_start_matches('/');
    let bytes = &files.content[name];
    let start = asked.headers.get("range").map(|range| {
        range.strip_prefix("bytes=").unwrap().strip_suffix('-').unwrap().parse::<usize>().unwrap()
    });
    let start = match (act, start) {
        (Act::Whole, _) => None,
        (Act::WrongPart, start) => start.map(|start| start + 1),
        (_, start) => start,
    };
    match act {
        Act::NoPart => {
            return stream.write_all(b"HTTP/1.1 416 X\r\ncontent-length: 0\r\n\r\n").map(|()| true);
        }
        Act::Status(status, headers) => {
            let head = format!("HTTP/1.1 {status} X\r\n{headers}content-length: 0\r\n\r\n");
            return stream.write_all(head.as_bytes()).map(|()| true);
        }
        _ => {}
    }
    let mut part = bytes[start.unwrap_or(0)..].to_vec();
    let length = part.len();
    let status = match start {
        Some(start) => format!("206 X\r\ncontent-range: bytes {start}-{}/{}", bytes.len() - 1, bytes.len()),
        None => "200 OK".into(),
    };
    // Its own name for the content, as stores have.
    write!(stream, "HTTP/1.1 {status}\r\netag: \"of-the-store\"\r\ncontent-length: {length}\r\n\r\n")?;
    match act {
        Act::Cut(at) => part.truncate(at),
        Act::Stall(at) => part.truncate(at),
        Act::Corrupt(at) => part[at] ^= 1,
        _ => {}
    }
    stream.write_all(&part)?;
    if let Act::Stall(_) = act {
        // Until the client has had enough.
        let _ = stream.read(&mut [0])?;
    }
    Ok(part.len() == length)
}

/// Content that no two positions of which are alike.
fn content(length: usize) -> Vec<u8> {
    (0..length as u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

const FILE: &str = "m-Q4_K_M.gguf";
/// No multiple of anything.
const BYTES: usize = 300_007;

fn cache() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn partial(cache: &Path, bytes: &[u8]) -> PathBuf {
    cache.join("models--me--m/blobs").join(format!("{}.incomplete", sha256(bytes)))
}

#[test]
fn a_model_lies_in_the_cache_as_all_tools_expect_it() {
    let bytes = content(BYTES);
    let hub = Hub::new(&[(FILE, &bytes), ("README.md", b"me")]);
    let cache = cache();
    let path = hub.pull(cache.path(), "me/m").unwrap();
    assert_eq!(fs::read(&path).unwrap(), bytes);
    let root = cache.path().join("models--me--m");
    assert_eq!(path, root.join("snapshots/c0ffee").join(FILE));
    assert_eq!(fs::read_to_string(root.join("refs/main")).unwrap(), "c0ffee");
    #[cfg(unix)]
    {
        assert_eq!(fs::read_link(&path).unwrap(), Path::new(&format!("../../blobs/{}", sha256(&bytes))));
        assert_eq!(fs::read_dir(root.join("blobs")).unwrap().count(), 1);
    }
    for asked in std::mem::take(&mut *hub.asked.lock().unwrap()) {
        let token = asked.headers.get("authorization").map(String::as_str);
        let expected = if asked.server == "hub" { Some("Bearer secret") } else { None };
        assert_eq!(token, expected, "{asked:?}");
    }
    // Nothing is downloaded twice.
    let again = download::pull(&hub.options(cache.path()), &"me/m".parse().unwrap(), &mut |event| {
        assert!(!matches!(event, Event::File { .. } | Event::Bytes(_)), "{event:?}");
    });
    assert!(matches!(again.unwrap(), Outcome::Pulled { was_here: true, .. }));
    assert_eq!(hub.ranges(), Vec::<String>::new());
}

#[test]
fn a_cut_at_any_byte_goes_on_there() {
    let bytes = content(BYTES);
    let hub = Hub::new(&[(FILE, &bytes)]);
    let asked = |start: usize| if start == 0 { String::new() } else { format!("bytes={start}-") };
    for cut in [0, 1, 2, 4096, BYTES / 2, BYTES - 2, BYTES - 1] {
        // In one go.
        let one = cache();
        hub.will(&[Act::Cut(cut)]);
        let path = hub.pull(one.path(), "me/m").unwrap();
        assert!(fs::read(&path).unwrap() == bytes, "{cut}");
        assert_eq!(hub.ranges(), [asked(0), asked(cut)]);

        // By the same command, given again.
        let two = cache();
        hub.will(&[Act::Cut(cut)]);
        let impatient = Options { retries: 0, ..hub.options(two.path()) };
        let error = pull(&impatient, "me/m").unwrap_err();
        assert!(error.contains("repeat the command to resume") && error.contains(FILE), "{error}");
        assert_eq!(fs::metadata(partial(two.path(), &bytes)).unwrap().len(), cut as u64);
        let mut had = None;
        let outcome = download::pull(&impatient, &"me/m".parse().unwrap(), &mut |event| {
            if let Event::File { had: there, .. } = event {
                had = Some(there);
            }
        });
        assert!(matches!(outcome.unwrap(), Outcome::Pulled { was_here: false, .. }));
        assert_eq!((had, hub.ranges()), (Some(cut as u64), vec![asked(0), asked(cut)]));
    }
    // Many cuts, each of which got on: more than the attempts that may fail in a row.
    let dir = cache();
    hub.will(&[Act::Cut(BYTES / 20); 12]);
    assert!(fs::read(hub.pull(dir.path(), "me/m").unwrap()).unwrap() == bytes);
    assert_eq!(hub.ranges().len(), 13);
}

#[test]
fn a_part_of_any_length_is_taken_up() {
    let bytes = content(BYTES);
    let hub = Hub::new(&[(FILE, &bytes)]);
    for (length, requests) in [(BYTES, 0), (BYTES + 1, 1), (0, 1)] {
        let cache = cache();
        let part = partial(cache.path(), &bytes);
        fs::create_dir_all(part.parent().unwrap()).unwrap();
        fs::write(&part, [&bytes[..], b"x"].concat().get(..length).unwrap()).unwrap();
        let path = hub.pull(cache.path(), "me/m").unwrap();
        assert!(fs::read(path).unwrap() == bytes, "{length}");
        assert_eq!(hub.ranges().len(), requests, "{length}");
    }
}

#[test]
fn a_stalled_server_is_left_and_asked_again() {
    let bytes = content(BYTES);
    let hub = Hub::new(&[(FILE, &bytes)]);
    let cache = cache();
    let soon = Options { stall: Duration::from_millis(500), ..hub.options(cache.path()) };
    hub.will(&[Act::Stall(1000), Act::Stall(0), Act::Stall(0), Act::Stall(0)]);
    let error = pull(&soon, "me/m").unwrap_err();
    for words in [
        "failed 4 times in a row",
        "no more came",
        "1000 of 300007 bytes of m-Q4_K_M.gguf are on disk; repeat the command",
    ] {
        assert!(error.contains(words), "{error}");
    }
    hub.ranges();
    hub.will(&[Act::Stall(500)]);
    assert!(fs::read(pull(&soon, "me/m").unwrap()).unwrap() == bytes);
    assert_eq!(hub.ranges(), ["bytes=1000-", "bytes=1500-"]);
}

#[test]
fn what_arrives_damaged_is_deleted() {
    let bytes = content(BYTES);
    let hub = Hub::new(&[(FILE, &bytes)]);
    let cache = cache();
    let part = partial(cache.path(), &bytes);
    let blob = part.with_extension("");
    for at in [0, BYTES / 2, BYTES - 1] {
        hub.will(&[Act::Corrupt(at)]);
        let error = hub.pull(cache.path(), "me/m").unwrap_err();
        assert!(error.contains("arrived damaged") && error.contains(&sha256(&bytes)), "{error}");
        assert!(!part.exists() && !blob.exists());
    }
    // The damage may be in what was there before.
    fs::write(&part, [&bytes[..10], b"x"].concat()).unwrap();
    let error = hub.pull(cache.path(), "me/m").unwrap_err();
    assert!(error.contains("arrived damaged") && !part.exists(), "{error}");
    assert!(fs::read(hub.pull(cache.path(), "me/m").unwrap()).unwrap() == bytes);
}

#[test]
fn a_server_that_cannot_go_on_begins_anew() {
    let bytes = content(BYTES);
    let hub = Hub::new(&[(FILE, &bytes)]);
    for act in [Act::Whole, Act::WrongPart, Act::NoPart] {
        let cache = cache();
        hub.will(&[Act::Cut(1000), act]);
        let mut restarts = 0;
        let outcome = download::pull(&hub.options(cache.path()), &"me/m".parse().unwrap(), &mut |event| {
            restarts += usize::from(matches!(event, Event::Restart));
        });
        let Outcome::Pulled { path, .. } = outcome.unwrap() else { panic!("{act:?}") };
        assert!(fs::read(path).unwrap() == bytes, "{act:?}");
        assert_eq!(restarts, 1, "{act:?}");
    }
}

#[test]
fn refusals_are_waited_for_or_explained() {
    let bytes = content(BYTES);
    let hub = Hub::new(&[(FILE, &bytes)]);
    let cache = cache();
    let started = Instant::now();
    for (act, words) in [
        (Act::Status(401, ""), "HF_TOKEN"),
        (Act::Status(403, ""), "licence"),
        (Act::Status(404, ""), "404"),
        (Act::Status(400, ""), "400"),
        (Act::Status(429, "retry-after: 86400\r\n"), "asks to wait for 86400 s"),
        (Act::Status(302, "location: ftp:\r\n"), "not an address"),
    ] {
        hub.will(&[act]);
        let error = hub.pull(cache.path(), "me/m").unwrap_err();
        assert!(error.contains(words), "{error}");
        assert_eq!(hub.ranges().len(), 1, "{act:?}");
    }
    hub.will(&[
        Act::Status(429, "retry-after: 0\r\n"),
        Act::Status(503, ""),
        Act::Status(500, "retry-after: Fri, 31 Dec 1999 23:59:59 GMT\r\n"),
    ]);
    assert!(fs::read(hub.pull(cache.path(), "me/m").unwrap()).unwrap() == bytes);
    assert!(started.elapsed() < Duration::from_secs(60));

    for (what, words) in [("me/other", "404"), ("me/m:Q5_K_M", FILE), ("me/m:x.gguf", FILE)] {
        let error = hub.pull(cache.path(), what).unwrap_err();
        assert!(error.contains(words), "{error}");
    }
    let nobody = Options { endpoint: "http://127.0.0.1:1".into(), retries: 1, ..hub.options(cache.path()) };
    let error = pull(&nobody, "me/m").unwrap_err();
    assert!(error.contains("127.0.0.1:1") && error.contains("2 times in a row"), "{error}");
    for endpoint in ["nowhere", "ftp://x", ""] {
        let error = pull(&Options { endpoint: endpoint.into(), ..nobody.clone() }, "me/m").unwrap_err();
        assert!(error.contains("HF_ENDPOINT"), "{error}");
    }
}

#[test]
fn redirects_without_an_end_are_left() {
    let store = serve("store", Arc::default(), |_, stream| {
        let head = "HTTP/1.1 302 X\r\nlocation: /again\r\ncontent-length: 0\r\n\r\n";
        stream.write_all(head.as_bytes()).map(|()| true)
    });
    let cache = cache();
    let options = Options { endpoint: store, ..Hub::new(&[]).options(cache.path()) };
    let error = pull(&options, "me/m").unwrap_err();
    assert!(error.contains("redirects without an end"), "{error}");
}

#[test]
fn a_full_disk_is_noticed_before_the_first_byte() {
    let content = [(FILE.to_owned(), content(BYTES))].into();
    let hub = Hub::of(Files { content, claimed_bytes: Some(1 << 60), commit: "1".into() });
    let cache = cache();
    let error = hub.pull(cache.path(), "me/m").unwrap_err();
    assert!(error.contains("needs 1152921504.6 GB more") && error.contains("HF_HOME"), "{error}");
    assert_eq!(hub.ranges(), Vec::<String>::new());
}

#[test]
fn names_of_a_hub_do_not_leave_the_cache() {
    let bytes = content(BYTES);
    let hub = Hub::new(&[("../../../m.gguf", &bytes), ("/tmp/m.gguf", &bytes)]);
    let cache = cache();
    assert_eq!(hub.pull(cache.path(), "me/m").unwrap_err(), "");
    let content = [(FILE.to_owned(), bytes)].into();
    let hub = Hub::of(Files { content, claimed_bytes: None, commit: "../..".into() });
    let error = hub.pull(cache.path(), "me/m").unwrap_err();
    assert!(error.contains("not the name of a commit"), "{error}");
    assert!(hub.ranges().is_empty());
}

#[test]
fn models_of_many_files_are_pulled_whole() {
    let (one, two, small) = (content(BYTES), content(BYTES + 1), content(10));
    let split = ["q/m-Q4_K_M-00001-of-00002.gguf", "q/m-Q4_K_M-00002-of-00002.gguf"];
    let hub =
        Hub::new(&[(split[0], &one), (split[1], &two), ("q/m-Q8_0.gguf", &small), ("mmproj-F16.gguf", &one)]);
    let cache = cache();
    let path = hub.pull(cache.path(), "me/m").unwrap();
    assert!(path.ends_with(split[0]));
    assert!(fs::read(&path).unwrap() == one);
    assert!(fs::read(path.with_file_name("m-Q4_K_M-00002-of-00002.gguf")).unwrap() == two);
    assert!(!path.with_file_name("m-Q8_0.gguf").exists());

    let hub = Hub::new(&[
        ("config.json", b"{}"),
        ("tokenizer.json", &small),
        ("README.md", &small),
        ("model.safetensors", &one),
        ("onnx/model.safetensors", &two),
    ]);
    let cache = tempfile::tempdir().unwrap();
    hub.will(&[Act::Cut(1000)]);
    let path = hub.pull(cache.path(), "me/m").unwrap();
    let mut names: Vec<_> = fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["config.json", "model.safetensors", "tokenizer.json"]);
    assert_eq!(fs::read(path.join("config.json")).unwrap(), b"{}");
    let reference: Reference = "me/m".parse().unwrap();
    assert_eq!(Cache::new(cache.path()).find(&reference).unwrap(), Some(path.join("")));
}

/// A user of their own, whose daemon ends with the test.
struct User {
    dir: TempDir,
    hub: Hub,
}

impl User {
    /// The hub has the tiny model.
    fn new() -> Self {
        let model = tiny::folder();
        let file = |name: &str| fs::read(model.path().join(name)).unwrap();
        let names = ["config.json", "tokenizer.json", "model.safetensors"];
        let content = names.map(|name| (name, file(name)));
        let hub = Hub::new(&content.each_ref().map(|(name, bytes)| (*name, &bytes[..])));
        Self { dir: tempfile::tempdir().unwrap(), hub }
    }

    fn settings(&self) -> PathBuf {
        self.dir.path().join("settings/fimd.toml")
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = cli::program();
        command.args(args).env("FIMD_RUNTIME_DIR", self.dir.path().join("run"));
        command.env("FIMD_CONFIG", self.settings()).env("HF_HOME", self.dir.path().join("hf"));
        command.env("HF_ENDPOINT", &self.hub.url);
        for name in ["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_TOKEN", "HF_TOKEN_PATH"] {
            command.env_remove(name);
        }
        command
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
        assert!(output.status.code() == Some(1) && errors.contains(words), "{args:?}: {errors}");
    }

    /// The model that `fimd config` says is the default.
    fn default(&self) -> Value {
        let config: Value = serde_json::from_str(&self.ok(&["config", "--json"])).unwrap();
        config["settings"]["model"]["value"].clone()
    }

    fn status(&self) -> Value {
        serde_json::from_str(&self.ok(&["status", "--json"])).unwrap()
    }
}

impl Drop for User {
    fn drop(&mut self) {
        self.run(&["stop"]);
    }
}

#[test]
fn a_model_is_pulled_used_and_removed() {
    let user = User::new();
    user.fails(&["use", "me/m"], "`fimd pull me/m`");
    assert_eq!(user.default(), Value::Null);
    let output = user.run(&["pull", "me/m"]);
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    assert!(output.status.success(), "{said:?}");
    assert!(said[0].contains("`fimd use me/m`") && said[1].contains("model.safetensors: 100 %"), "{said:?}");
    assert!(user.ok(&["pull", "me/m"]).contains("already"));

    let models: Value = serde_json::from_str(&user.ok(&["models", "--json"])).unwrap();
    let own = models["models"].as_array().unwrap().iter().find(|model| model["name"] == "me/m").unwrap();
    let path = own["path"].as_str().unwrap().to_owned();
    assert!(own["place"] == "memory" && own["tokens_per_second"].as_f64() > Some(0.0), "{own}");
    assert!(own["is_default"] == false && Path::new(&path).join("config.json").exists());
    assert!(
        models["memory_bytes"].as_u64() > Some(0)
            && models["bandwidth_bytes_per_second"].as_f64() > Some(1e6)
    );

    fs::create_dir(user.settings().parent().unwrap()).unwrap();
    fs::write(user.settings(), "# Mine.\nwarm = false # slow\n").unwrap();
    let said = user.ok(&["use", "me/m"]);
    assert!(said.contains("is the default now") && said.contains("no daemon runs"), "{said}");
    assert_eq!(user.default(), json!(path));
    let file = fs::read_to_string(user.settings()).unwrap();
    assert!(file.starts_with("# Mine.\nwarm = false # slow\n"), "{file}");
    let table = user.ok(&["models"]);
    assert!(table.lines().any(|line| line.starts_with("* me/m ") && line.contains(&path)), "{table}");

    let damaged = user.dir.path().join("x.gguf");
    fs::write(&damaged, "GGUF").unwrap();
    user.fails(&["use", damaged.to_str().unwrap()], "the default stays as it was");
    user.fails(&["use", "./nowhere"], "there is no ./nowhere");
    user.fails(&["use", "qwen3.5-4"], "did you mean qwen3.5-4b?");
    assert_eq!(user.default(), json!(path));

    user.fails(&["models", "rm", "me/m", "--yes"], "is the default");
    assert!(user.ok(&["use", "starter"]).contains("the starter model is the default"));
    assert_eq!(user.default(), Value::Null);
    user.fails(&["models", "rm", "me/m"], "--yes");
    assert!(user.ok(&["models", "rm", "me/m", "--yes"]).contains("free again"));
    assert!(!Path::new(&path).exists());
    user.fails(&["models", "rm", "me/m", "--yes"], "not on disk");
}

#[test]
fn a_daemon_follows_the_choice_of_a_model() {
    let user = User::new();
    user.ok(&["pull", "me/m"]);
    let said = user.ok(&["load"]);
    assert!(said.contains("until the daemon ends"), "{said}");
    let pid = user.status()["pid"].clone();
    let said = user.ok(&["use", "me/m"]);
    assert!(said.contains("the daemon serves"), "{said}");
    let status = user.status();
    let name = status["model"]["name"].as_str().unwrap();
    assert!(name.contains("models--me--m") && status["pid"] == pid, "{status:#}");
    assert_eq!(user.default(), json!(name));

    user.ok(&["use", "starter"]);
    let starter = user.status()["model"]["name"].clone();
    assert_eq!(starter, "the starter model");
    user.ok(&["load", name]);
    user.fails(&["models", "rm", "me/m", "--yes"], "the daemon serves me/m");
    // A stronger source of the setting is named.
    let output = user.command(&["use", "starter"]).env("FIMD_MODEL", name).output().unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(
        output.status.success() && errors.contains("FIMD_MODEL=") && errors.contains("overrides"),
        "{errors}"
    );
}

#[test]
fn settings_are_set_by_a_command() {
    let user = User::new();
    let set = |name: &str, value: &str| user.ok(&["config", "set", name, value]);
    assert!(set("budget.soft_ms", "400").contains("budget.soft_ms = 400"));
    set("logprob_min", "-3.5");
    set("disabled.languages", "markdown,plaintext");
    let config: Value = serde_json::from_str(&user.ok(&["config", "--json"])).unwrap();
    let value = |name: &str| config["settings"][name]["value"].clone();
    assert_eq!((value("budget.soft_ms"), value("logprob_min")), (json!(400), json!(-3.5)));
    assert_eq!(value("disabled.languages"), json!(["markdown", "plaintext"]));
    assert!(config["settings"]["budget.soft_ms"]["from"].as_str().unwrap().contains("fimd.toml"));
    set("budget.soft_ms", "null");
    assert!(!fs::read_to_string(user.settings()).unwrap().contains("soft_ms"));
    user.fails(&["config", "set", "budget.soft", "1"], "did you mean budget.soft_ms?");
    user.fails(&["config", "set", "alternatives", "9"], "from 1 to 3");
    set("model", "m.gguf");
    assert_eq!(user.default(), json!(std::env::current_dir().unwrap().join("m.gguf")));
}

#[test]
fn without_a_network_only_pulling_fails() {
    let user = User::new();
    let alone = |args: &[&str]| user.command(args).env("HF_ENDPOINT", "http://127.0.0.1:1").output().unwrap();
    for args in [&["models"][..], &["models", "--json"], &["config"], &["use", "starter"]] {
        assert!(alone(args).status.success(), "{args:?}");
    }
}
