//! Tests in processes of their own: driver, settings and errors are of a whole process.

use std::any::type_name;
use std::env;
use std::io::Read;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::build::{self, Emulator};

/// The test that a child process runs.
const CHILD: &str = "EMULATED_CUDA_TEST";
/// A kernel that waits for what never comes is ended then.
const LIMIT: Duration = Duration::from_secs(120);

/// Runs the body of the test that calls this, in a process that has the emulated driver with the kernels of the folder
/// `kernels`, and these settings (names without `EMULATED_CUDA_`). Does nothing where the driver cannot be built.
#[track_caller]
pub fn with_driver<F: FnOnce()>(kernels: &str, settings: &[(&str, &str)], body: F) {
    if is_child::<F>() {
        return body();
    }
    let Some(emulator) = build::emulator(kernels) else { return };
    run_child::<F>(Some(&emulator), settings);
}

/// Runs the body of the test on whatever device there is: a real one where `EMULATED_CUDA` is `no`, else the emulated
/// one with the kernels of the folder.
#[track_caller]
pub fn on_device<F: FnOnce()>(kernels: &str, body: F) {
    match env::var("EMULATED_CUDA").as_deref() {
        Ok("no") => without_driver(body),
        _ => with_driver(kernels, &[], body),
    }
}

/// The same with what the machine has, a driver or none.
#[track_caller]
pub fn without_driver<F: FnOnce()>(body: F) {
    if is_child::<F>() { body() } else { run_child::<F>(None, &[]) }
}

/// The test that a closure is written in.
fn test_of<F>() -> &'static str {
    let closure = type_name::<F>();
    let path = closure.split_once("::").expect("a closure in a test").1;
    path.split("::{{closure}}").next().unwrap()
}

fn is_child<F>() -> bool {
    env::var(CHILD).is_ok_and(|test| test == test_of::<F>())
}

#[track_caller]
fn run_child<F>(emulator: Option<&Emulator>, settings: &[(&str, &str)]) {
    let test = test_of::<F>();
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture", "--test-threads", "1"]).env(CHILD, test);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.envs(emulator.iter().flat_map(|emulator| emulator.environment(settings)));
    let mut child = command.spawn().unwrap();
    let (stdout, stderr) = (read(child.stdout.take().unwrap()), read(child.stderr.take().unwrap()));
    let until = Instant::now() + LIMIT;
    let status = loop {
        match child.try_wait().unwrap() {
            Some(status) => break Some(status),
            None if Instant::now() > until => break None,
            None => thread::sleep(Duration::from_millis(5)),
        }
    };
    if status.is_none() {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let (stdout, stderr) = (stdout.join().unwrap(), stderr.join().unwrap());
    match status {
        None => panic!("{test} in a process of its own: still running after {LIMIT:?}\n{stdout}\n{stderr}"),
        Some(status) => {
            assert!(status.success(), "{test} in a process of its own: {status}\n{stdout}\n{stderr}");
            assert!(stdout.contains("1 passed"), "{test} is not the name of the test: {stdout}");
        }
    }
}

fn read(mut from: impl Read + Send + 'static) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        from.read_to_end(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes).into_owned()
    })
}
