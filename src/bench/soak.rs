//! A soak of the daemon: editors that ask as fast as they are answered. No answer may be later than its budget and a
//! margin. The text edited is small, as what is measured is whether anything is forgotten.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use serde::Serialize;

use super::daemon::{Editor, Latency, Options, Stop, TEXT, WORD_LINE, daemon_memory};
use super::keystrokes::soak::Dice;

/// Time limit of a completion in the soak.
const BUDGET: Duration = Duration::from_secs(1);
/// How much later an answer may come.
const MARGIN: Duration = Duration::from_millis(100);
/// Longer than any response takes.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Requests of a document before it is opened again as it was.
const REQUESTS_OF_A_DOCUMENT: usize = 250;
/// How often, in a thousand requests, the model may be asked.
const MODEL_PERMILLE: usize = 10;
/// How often, in a thousand requests, the next one does not wait for the answer.
const IMPATIENT_PERMILLE: usize = 100;

/// Results.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    pub requests: usize,
    pub clients: usize,
    /// Duration, in seconds.
    pub seconds: f64,
    /// Responses, errors that clients hide included.
    pub answered: usize,
    /// Requests without a response.
    pub lost: usize,
    /// Responses later than the time limit of a completion and 100 ms.
    pub late: usize,
    /// That time limit, in milliseconds.
    pub budget_ms: u64,
    /// From request to response.
    pub latency: Latency,
    /// Resident set size of the daemon after a quarter of the requests, in bytes.
    pub early_bytes: u64,
    /// The same at the end.
    pub late_bytes: u64,
}

impl Report {
    /// Whether every response came in time.
    pub fn is_passed(&self) -> bool {
        self.late == 0 && self.lost == 0 && self.answered == self.requests
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Self { requests, clients, seconds, answered, lost, late, budget_ms, .. } = self;
        writeln!(
            f,
            "{requests} requests of {clients} editors in {seconds:.0} s: {answered} responses, {lost} lost, {late} later \
             than {budget_ms} ms + {} ms",
            MARGIN.as_millis()
        )?;
        let Latency { p50, p99, max } = self.latency;
        writeln!(f, "latency p50 {p50:.1} ms, p99 {p99:.1} ms, max {max:.1} ms")?;
        let mib = |bytes: u64| bytes >> 20;
        let (early, late) = (mib(self.early_bytes), mib(self.late_bytes));
        writeln!(
            f,
            "memory of the daemon: {early} MiB after a quarter of the requests, {late} MiB at the end"
        )
    }
}

/// Sends `requests` requests from the editors of `options`, to a daemon that is stopped afterwards.
pub fn run(options: &Options, requests: usize, say: &impl Fn(String)) -> Result<Report> {
    let _stop = Stop(options);
    let (started, sent) = (Instant::now(), AtomicUsize::new(0));
    let mut report = thread::scope(|scope| -> Result<Report> {
        let shares = (0..options.clients).map(|number| {
            (requests * (number + 1) / options.clients) - (requests * number / options.clients)
        });
        let clients: Vec<_> = shares
            .enumerate()
            .map(|(number, share)| {
                let sent = &sent;
                scope.spawn(move || client(options, number, share, sent))
            })
            .collect();
        let mut report = Report { requests, clients: options.clients, ..Report::default() };
        while clients.iter().any(|client| !client.is_finished()) {
            thread::sleep(Duration::from_millis(100));
            let sent = sent.load(Ordering::Relaxed);
            say(format!("{sent} of {requests} requests"));
            if report.early_bytes == 0 && sent >= requests / 4 {
                report.early_bytes = daemon_memory(options);
            }
        }
        report.late_bytes = daemon_memory(options);
        let mut times = Vec::new();
        for client in clients {
            let Ok(own) = client.join() else { bail!("a client failed") };
            let (own, lost) = own?;
            report.lost += lost;
            times.extend(own);
        }
        report.answered = times.len();
        let limit_ms = (BUDGET + MARGIN).as_millis() as f64;
        report.late = times.iter().filter(|&&ms| ms > limit_ms).count();
        report.latency = Latency::of(times);
        Ok(report)
    })?;
    (report.budget_ms, report.seconds) = (BUDGET.as_millis() as u64, started.elapsed().as_secs_f64());
    Ok(report)
}

/// One editor: the times to its responses in milliseconds, and how many requests had none.
fn client(
    options: &Options,
    number: usize,
    requests: usize,
    sent: &AtomicUsize,
) -> Result<(Vec<f64>, usize)> {
    let mut dice = Dice::new(options.seed.wrapping_mul(1_000_003).wrapping_add(number as u64));
    let budget = format!("budget.hard_ms={}", BUDGET.as_millis());
    // The wait for more typing is no part of a budget.
    let mut editor = Editor::start(options, &["lsp", "--set", &budget, "--set", "debounce_ms_max=0"])?;
    let mut times = Vec::new();
    for n in 0..requests {
        if n % REQUESTS_OF_A_DOCUMENT == 0 {
            editor.open(TEXT)?;
        }
        let id = match dice.below(1000) {
            0..MODEL_PERMILLE => {
                // The word that is asked in stays where it is.
                let line = WORD_LINE + 1 + dice.below(TEXT.lines().count() - WORD_LINE - 1);
                editor.edit(line, ["a", "(", "\n    ", "x.", " "][dice.below(5)])?
            }
            _ => editor.ask_inside_word()?,
        };
        sent.fetch_add(1, Ordering::Relaxed);
        if dice.below(1000) >= IMPATIENT_PERMILLE {
            editor.receive_until(Instant::now() + TIMEOUT, |editor| !editor.is_pending(id), &mut times)?;
        }
    }
    editor.receive_until(Instant::now() + TIMEOUT, Editor::is_idle, &mut times)?;
    let lost = editor.pending();
    editor.end()?;
    Ok((times, lost))
}
