//! Disks that fail and stall, and memory that the system refuses.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use fimd::base::Cancel;
use fimd::base::process;
use fimd::base::reads::Reader;
use fimd::compute::Precision;
use fimd::compute::cpu::Cpu;
use fimd::decode::{Generated, StopReason, Task};
use fimd::format::ModelDir;
use fimd::model::experts::{Budget, ExpertOptions};
use fimd::model::{Config, Model, ModelOptions};
use fimd::serve::{Engine, Event, Priority, Request};
use fimd::session::Session;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::{LAYERS, RECORD_BYTES, TOP_K, budget, folder, logits, open_with, usage};
use crate::{child, load};

/// The error that a broken disk gives, and what the system calls it.
const EIO: (i32, &str) = (5, "Input/output error");

/// A disk that can be told to fail or to stall.
#[derive(Default)]
struct Disk {
    fails: AtomicBool,
    stalls: Mutex<bool>,
    changed: Condvar,
}

impl Disk {
    fn new() -> &'static Self {
        Box::leak(Box::default())
    }

    fn reader(&'static self) -> Reader {
        Reader::new(Box::leak(Box::new(|file: &File, offset: u64, into: &mut [u8]| {
            self.read(file, offset, into)
        })))
    }

    fn read(&self, file: &File, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        let stalls = self.stalls.lock().unwrap();
        drop(self.changed.wait_while(stalls, |stalls| *stalls).unwrap());
        match self.fails.load(Ordering::Relaxed) {
            true => Err(io::Error::from_raw_os_error(EIO.0)),
            false => file.read_at(into, offset),
        }
    }

    fn stall(&self, stalls: bool) {
        *self.stalls.lock().unwrap() = stalls;
        self.changed.notify_all();
    }
}

/// What is logged from now on, by any thread of this process.
fn log() -> Arc<Mutex<Vec<u8>>> {
    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl Write for Log {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone());
    tracing::subscriber::set_global_default(subscriber.finish()).expect("a process of its own");
    log.0
}

fn text(log: &Mutex<Vec<u8>>) -> String {
    String::from_utf8(log.lock().unwrap().clone()).unwrap()
}

/// An engine of the model at `path` with few slots.
fn engine(path: &Path, reader: Reader) -> Engine {
    let dir = ModelDir::open(path).unwrap();
    let budget = Budget::Given(budget(&dir, 2 * TOP_K));
    let path: PathBuf = path.to_owned();
    let open = move || open_with(&path, ExpertOptions { budget, reader, ..ExpertOptions::MAPPED });
    Engine::start(open().unwrap(), load::tokenizer(&dir), open)
}

fn submit(engine: &Engine, prompt: Vec<u32>, cancel: Cancel) -> mpsc::Receiver<Result<Generated, String>> {
    let (send, receive) = mpsc::channel();
    engine.submit(Request {
        key: "a document".into(),
        task: Task::greedy(prompt, 6),
        cancel,
        priority: Priority::Interactive,
        not_before: None,
        listener: Box::new(move |event| {
            if let Event::Done(result) = event {
                let only = result.map(|mut all| all.remove(0)).map_err(|error| format!("{error:#}"));
                let _ = send.send(only);
            }
        }),
    });
    receive
}

fn ask(engine: &Engine, prompt: Vec<u32>) -> Result<String, String> {
    submit(engine, prompt, Cancel::new()).recv().unwrap().map(|generated| generated.text)
}

#[test]
fn a_disk_that_fails_is_the_error_of_its_requests_alone() {
    let (dir, disk) = (folder(), Disk::new());
    let engine = engine(dir.path(), disk.reader());
    assert_eq!(ask(&engine, b"ab".map(u32::from).to_vec()).unwrap(), "cdefgh");
    disk.fails.store(true, Ordering::Relaxed);
    let error = ask(&engine, b"klm".map(u32::from).to_vec()).unwrap_err();
    for words in ["the weights of an expert cannot be read", super::WEIGHTS, EIO.1] {
        assert!(error.contains(words), "{error}");
    }
    let closed = ask(&engine, b"klm".map(u32::from).to_vec()).unwrap_err();
    assert!(closed.contains("the model is opened again in") && closed.contains(EIO.1), "{closed}");
    disk.fails.store(false, Ordering::Relaxed);
    let started = Instant::now();
    let text = loop {
        match ask(&engine, b"klm".map(u32::from).to_vec()) {
            Ok(text) => break text,
            Err(error) => assert!(started.elapsed() < Duration::from_secs(60), "{error}"),
        }
        thread::sleep(Duration::from_millis(100));
    };
    assert_eq!(text, "nopqrs");
    assert_eq!(ask(&engine, b"ab".map(u32::from).to_vec()).unwrap(), "cdefgh");
}

#[test]
fn a_disk_that_stalls_delays_its_request_and_is_logged() {
    child::alone(|| {
        let (log, dir, disk) = (log(), folder(), Disk::new());
        let engine = engine(dir.path(), disk.reader());
        disk.stall(true);
        let stalled = submit(&engine, b"ab".map(u32::from).to_vec(), Cancel::new());
        assert!(stalled.recv_timeout(Duration::from_millis(2500)).is_err(), "it waits for the disk");
        disk.stall(false);
        assert_eq!(stalled.recv().unwrap().unwrap().text, "cdefgh");
        assert!(text(&log).contains("the disk stalls"), "{}", text(&log));

        disk.stall(true);
        let cancel = Cancel::new();
        let unwanted = submit(&engine, b"xyz".map(u32::from).to_vec(), cancel.clone());
        thread::sleep(Duration::from_millis(50));
        cancel.cancel();
        disk.stall(false);
        assert_eq!(unwanted.recv().unwrap().unwrap().stop, StopReason::Cancelled);
        assert_eq!(ask(&engine, b"klm".map(u32::from).to_vec()).unwrap(), "nopqrs");
    });
}

/// Logits with the experts mapped.
fn expected(path: &Path) -> Vec<Vec<f32>> {
    logits(&mut open_with(path, ExpertOptions::MAPPED).unwrap())
}

#[test]
fn memory_that_cannot_be_locked_is_used_as_it_is() {
    // Root may lock what it likes.
    let is_root = rustix::process::geteuid().is_root();
    let has_program = Command::new("setpriv").arg("--version").output().is_ok();
    let unprivileged = ["setpriv", "--bounding-set=-ipc_lock", "--inh-caps=-ipc_lock"];
    if is_root && !has_program {
        eprintln!("skipped: root may lock what it likes, and there is no setpriv");
        return;
    }
    child::under(if is_root { &unprivileged } else { &[] }, &[], || {
        let (log, dir) = (log(), folder());
        let expected = expected(dir.path());
        // A whole layer and a part of the next one.
        let limit = Some(12 * RECORD_BYTES as u64);
        let maximum = getrlimit(Resource::Memlock).maximum;
        setrlimit(Resource::Memlock, Rlimit { current: limit, maximum }).unwrap();
        let budget = Budget::Given(budget(&ModelDir::open(dir.path()).unwrap(), 8));
        let mut session =
            open_with(dir.path(), ExpertOptions { budget, locks: true, ..ExpertOptions::MAPPED });
        let session = session.as_mut().unwrap();
        let refusal = "keeps the experts of 1 layers in memory and refuses more";
        assert!(text(&log).contains(refusal), "{}", text(&log));
        assert!(logits(session) == expected && usage(session).slots == 8);
    });
}

#[test]
fn address_space_for_fewer_experts_is_a_smaller_plan() {
    /// What is left for everything but slots and experts on their way.
    const OTHERS: u64 = 48 << 20;
    const PLANNED: usize = 32;
    child::alone(|| {
        let (log, dir) = (log(), folder());
        let expected = expected(dir.path());
        let opened = ModelDir::open(dir.path()).unwrap();
        let config = Config::read(&opened).unwrap();
        let backend = Cpu::new(load::cpu(2, 16, Precision::F32));
        let record = RECORD_BYTES as u64;
        let layers = LAYERS.len() as u64;
        let options = |slots| ModelOptions {
            experts: ExpertOptions {
                budget: Budget::Given(budget(&opened, slots)),
                others_bytes: OTHERS,
                ..ExpertOptions::MAPPED
            },
            kv_bytes_max: 0,
            ..load::options(512, 64)
        };
        // Half of the slots.
        let left = OTHERS + 96 * record + (PLANNED as u64 / 2 + 2) * layers * record;
        let limit = process::address_space_bytes(std::process::id()) + left;
        let maximum = getrlimit(Resource::As).maximum;
        setrlimit(Resource::As, Rlimit { current: Some(limit), maximum }).unwrap();
        let model = Model::load(&opened, config, options(PLANNED), backend).unwrap();
        let mut session: Session<Cpu> = load::session(model);
        let slots = usage(&session).slots;
        assert!((2 * TOP_K..PLANNED).contains(&slots), "{slots}");
        assert!(text(&log).contains(&format!("memory for {slots} experts of each layer")), "{}", text(&log));
        assert!(logits(&mut session) == expected);
        drop(session);

        // Not even two tokens' experts.
        let limit = process::address_space_bytes(std::process::id()) + OTHERS;
        setrlimit(Resource::As, Rlimit { current: Some(limit), maximum }).unwrap();
        let backend = Cpu::new(load::cpu(1, 16, Precision::F32));
        let config = Config::read(&opened).unwrap();
        let error = Model::load(&opened, config, options(PLANNED), backend).err().unwrap();
        let error = format!("{error:#}");
        assert!(
            error.contains("no memory for 4 experts of each layer") && error.contains("--ram-budget"),
            "{error}"
        );
    });
}
