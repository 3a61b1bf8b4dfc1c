//! Random edits and requests, as fast as the server takes them: whatever happens, every request is answered, and
//! memory does not grow.

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
/// Longer than any answer takes.
const PATIENCE: Duration = Duration::from_secs(60);
/// Memory is first looked at after so much of the work: by then what can be kept is.
const WARM_SHARE: f64 = 0.25;
/// What somebody might type.
const CHARACTERS: &str = "etaoinshrdlucmfwypvbgkqjxz  ____..,,((()));;==::{}[]\"'é🦀";

/// What became of it all.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Edits made; there was a request after each.
    pub edits: usize,
    /// Requests answered with a suggestion, or with nothing to suggest.
    pub answered: usize,
    /// Requests that a newer one took back, answered too.
    pub superseded: usize,
    /// Suggestions among the answers.
    pub suggestions: usize,
    /// Seconds it took.
    pub seconds: f64,
    /// Bytes of memory held after a quarter of the edits, and at the end; none where the system does not say.
    pub memory_bytes: Option<[u64; 2]>,
}

/// Makes `edits` random edits to the documents of `sessions`, which `seed` decides, and asks for a completion
/// after each. Fails when a request stays unanswered.
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
        let (mut asked, mut answers) = (0, Vec::new());
        let mut suggestion = None;
        while asked < EDITS_OF_A_DOCUMENT.min(edits - first) {
            let action = dice.action(&editor, suggestion.take());
            let Ok(changes) = editor.apply(&action) else { continue };
            peer.ask(asked, &changes, &editor)?;
            asked += 1;
            let wait = match dice.below(8) {
                0..=1 => PATIENCE,
                2..=4 => Duration::from_millis(dice.below(100) as u64),
                _ => Duration::ZERO,
            };
            let until = Instant::now() + wait;
            while suggestion.is_none()
                && let Some(answer) = peer.answer(until.saturating_duration_since(Instant::now()))?
            {
                suggestion = (answer.request + 1 == asked).then(|| answer.text.clone());
                answers.push(answer);
            }
        }
        answers.extend(peer.close()?.0);
        ensure!(answers.len() == asked, "of {asked} requests {} were answered", answers.len());
        superseded += answers.iter().filter(|answer| answer.is_superseded).count();
        answered += answers.iter().filter(|answer| !answer.is_superseded).count();
        suggestions += answers.iter().filter(|answer| !answer.text.is_empty()).count();
        if memory_first.is_none() && (first + asked) as f64 >= WARM_SHARE * edits as f64 {
            memory_first = machine::held_memory();
        }
    }
    let memory_bytes = memory_first.zip(machine::held_memory()).map(|(first, last)| [first, last]);
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

/// A sequence of random numbers.
pub struct Dice {
    seed: u64,
    thrown: u64,
}

impl Dice {
    /// The sequence that `seed` begins.
    pub fn new(seed: u64) -> Self {
        Self { seed, thrown: 0 }
    }

    /// From 0 to below 1.
    pub fn share(&mut self) -> f64 {
        self.thrown += 1;
        fraction(self.seed, self.thrown).into()
    }

    /// From 0 to below `count`.
    pub fn below(&mut self, count: usize) -> usize {
        self.thrown += 1;
        (fraction(self.seed, self.thrown) * count as f32) as usize
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
