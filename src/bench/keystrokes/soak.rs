//! Soak test: random edits and requests at the maximum rate. Every request must get a response, and memory must not
//! grow.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde::Serialize;

use super::replay::Peer;
use super::session::{Action, Editor, Session};
use crate::bench::machine;
use crate::bench::random::fraction;

/// Edits of a document before another one is opened.
const EDITS_OF_A_DOCUMENT: usize = 250;
/// Longer than any response takes.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Memory is first measured after this share of the edits, when caches are full.
const WARM_SHARE: f64 = 0.25;
/// Characters to type.
const CHARACTERS: &str = "etaoinshrdlucmfwypvbgkqjxz  ____..,,((()));;==::{}[]\"'é🦀";

/// Results.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Edits, each with a request.
    pub edits: usize,
    /// Requests that got a suggestion or an empty response.
    pub answered: usize,
    /// Requests that a newer one cancelled, which got a response too.
    pub superseded: usize,
    /// Suggestions among the responses.
    pub suggestions: usize,
    /// Duration, in seconds.
    pub seconds: f64,
    /// Resident set size in bytes after a quarter of the edits, and at the end; none where it is unknown.
    pub memory_bytes: Option<[u64; 2]>,
}

/// Makes `edits` random edits to the documents of `sessions`, by `seed`, and requests a completion after each. Fails
/// when a request gets no response.
pub fn run(
    peer: &mut dyn Peer,
    sessions: &[Session],
    edits: usize,
    seed: u64,
    say: &dyn Fn(String),
) -> Result<Report> {
    let mut dice = Dice::new(seed);
    let (mut answered, mut superseded, mut suggestions) = (0, 0, 0);
    let (mut memory_first, started) = (None, Instant::now());
    for first in (0..edits).step_by(EDITS_OF_A_DOCUMENT) {
        say(format!("{first} of {edits} edits"));
        let session = &sessions[dice.below(sessions.len())];
        let mut editor = Editor::new(session);
        peer.open(session)?;
        let (mut requests, mut answers) = (0, Vec::new());
        let mut suggestion = None;
        while requests < EDITS_OF_A_DOCUMENT.min(edits - first) {
            let action = dice.action(&editor, suggestion.take());
            let Ok(changes) = editor.apply(&action) else { continue };
            peer.request_completion(requests, &changes, &editor)?;
            requests += 1;
            let wait = match dice.below(8) {
                0..=1 => TIMEOUT,
                2..=4 => Duration::from_millis(dice.below(100) as u64),
                _ => Duration::ZERO,
            };
            let until = Instant::now() + wait;
            while suggestion.is_none()
                && let Some(answer) = peer.answer(until.saturating_duration_since(Instant::now()))?
            {
                suggestion = (answer.request + 1 == requests).then(|| answer.text.clone());
                answers.push(answer);
            }
        }
        answers.extend(peer.close()?.0);
        ensure!(answers.len() == requests, "of {requests} requests {} were answered", answers.len());
        superseded += answers.iter().filter(|answer| answer.is_superseded).count();
        answered += answers.iter().filter(|answer| !answer.is_superseded).count();
        suggestions += answers.iter().filter(|answer| !answer.text.is_empty()).count();
        if memory_first.is_none() && (first + requests) as f64 >= WARM_SHARE * edits as f64 {
            memory_first = machine::resident_memory();
        }
    }
    let memory_bytes = memory_first.zip(machine::resident_memory()).map(|(first, last)| [first, last]);
    let seconds = started.elapsed().as_secs_f64();
    Ok(Report { edits, answered, superseded, suggestions, seconds, memory_bytes })
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { edits, answered, superseded, suggestions, seconds, memory_bytes } = self;
        writeln!(
            f,
            "{edits} edits and requests in {seconds:.0} s: {answered} answered ({suggestions} suggestions), \
             {superseded} superseded, 0 unanswered"
        )?;
        if let Some([first, last]) = memory_bytes.map(|bytes| bytes.map(|bytes| bytes >> 20)) {
            writeln!(f, "memory: {first} MiB after a quarter of them, {last} MiB at the end")?;
        }
        Ok(())
    }
}

/// A random generator.
pub struct Dice {
    seed: u64,
    drawn: u64,
}

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self { seed, drawn: 0 }
    }

    /// Uniform in `[0, 1)`.
    pub fn share(&mut self) -> f64 {
        self.drawn += 1;
        fraction(self.seed, self.drawn).into()
    }

    /// Uniform below `count`.
    pub fn below(&mut self, count: usize) -> usize {
        self.drawn += 1;
        (fraction(self.seed, self.drawn) * count as f32) as usize
    }

    fn action(&mut self, editor: &Editor, suggestion: Option<String>) -> Action {
        let characters: Vec<char> = CHARACTERS.chars().collect();
        if let Some(text) = suggestion.filter(|text| !text.is_empty() && self.below(3) == 0) {
            return Action::Accept { text };
        }
        let lines: Vec<&str> = editor.text().split('\n').collect();
        let line = self.below(lines.len());
        let line_end = lines[line].encode_utf16().count();
        match self.below(40) {
            0..=2 => Action::Newline { indent: editor.indent().to_owned(), below: None },
            3..=8 => Action::Delete { before: 1 + self.below(6), after: 0 },
            9 => Action::Undo { edits: 1 + self.below(4) },
            10 => Action::Edit { at: [line, 0], remove: self.below(4), text: "// é\n".into() },
            11 => Action::Jump { to: [line, line_end] },
            12 => Action::Type { text: '(', closes: Some(')') },
            _ => Action::Type { text: characters[self.below(characters.len())], closes: None },
        }
    }
}
