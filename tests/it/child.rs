//! Tests in processes of their own: limits, settings, drivers and the log are of a whole process.

use std::any::type_name;
use std::env;
use std::io::Read;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// The test that a child process runs.
const CHILD: &str = "FIMD_TEST_ALONE";
/// What waits for what never comes is ended then.
const LIMIT: Duration = Duration::from_secs(120);

/// Runs the body of the test that calls this in a process of its own.
#[track_caller]
pub fn alone<F: FnOnce()>(body: F) {
    under(&[], &[], body);
}

/// The same, started by a program with arguments, and with more environment.
#[track_caller]
pub fn under<F: FnOnce()>(program: &[&str], environment: &[(String, String)], body: F) {
    if is_child::<F>() { body() } else { run::<F>(program, environment) }
}

/// Whether this process is the child that runs the test.
pub fn is_child<F>() -> bool {
    env::var(CHILD).is_ok_and(|test| test == test_of::<F>())
}

/// The test that a closure is written in.
pub fn test_of<F>() -> &'static str {
    let closure = type_name::<F>();
    let path = closure.split_once("::").expect("a closure in a test").1;
    path.split("::{{closure}}").next().unwrap()
}

#[track_caller]
fn run<F>(program: &[&str], environment: &[(String, String)]) {
    let test = test_of::<F>();
    let own = env::current_exe().unwrap();
    let mut command = match program {
        [] => Command::new(own),
        [program, args @ ..] => {
            let mut command = Command::new(program);
            command.args(args).arg(own);
            command
        }
    };
    command.args(["--exact", test, "--nocapture", "--test-threads", "1"]).env(CHILD, test);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.envs(environment.iter().cloned());
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
