//! Replays one session with one server and measures every keystroke.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use serde::Serialize;

use super::session::{Action, Change, Editor, Session};
use super::typist::{Typist, remainder};
use crate::base::timings::milliseconds;
use crate::complete::record::Source;

/// Longer than any response takes.
const TIMEOUT: Duration = Duration::from_secs(600);

/// A server that completes while a document is typed.
pub trait Peer {
    /// Opens the document of a session.
    fn open(&mut self, session: &Session) -> Result<()>;

    /// Sends the changes, cancels the request before if it is in flight, and requests a completion at the cursor.
    /// `request` identifies the response; it counts from 0 in each session.
    fn request_completion(&mut self, request: usize, changes: &[Change], editor: &Editor) -> Result<()>;

    /// The next response; `None` after waiting for that long.
    fn answer(&mut self, wait: Duration) -> Result<Option<Answer>>;

    /// Closes the document and waits for all requests in flight. Returns their responses, and the cost of requests
    /// without one.
    fn close(&mut self) -> Result<(Vec<Answer>, Vec<Figures>)>;
}

/// A response to a completion request.
#[derive(Clone, Debug)]
pub struct Answer {
    pub request: usize,
    /// Time of arrival.
    pub at: Instant,
    /// The text to insert at the cursor; empty for none.
    pub text: String,
    /// Whether the request was cancelled first.
    pub is_superseded: bool,
    /// Its cost, where the server reports it.
    pub figures: Option<Figures>,
}

/// Cost of a response.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Figures {
    pub source: Source,
    /// Tokens of the prompt; 0 where the model did not run for it.
    pub prompt_tokens: usize,
    /// Prompt tokens evaluated.
    pub evaluated: usize,
    /// Prompt tokens replayed: only their recurrence was run again.
    pub replayed: usize,
    /// Tokens generated.
    pub generated: usize,
    /// From the request to the first token; none where there was no token.
    pub first_token_ms: Option<f64>,
}

/// One request and its outcome.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Keystroke {
    /// The session.
    pub session: String,
    /// The event in it, from 0.
    pub event: usize,
    pub cause: Cause,
    pub outcome: Outcome,
    /// Characters suggested.
    pub shown_chars: usize,
    /// Cost of the response, where the server reports it.
    #[serde(flatten)]
    pub figures: Option<Figures>,
    /// From the request to the response, unless it was superseded.
    pub answer_ms: Option<f64>,
    /// From the request until a suggestion was shown: 0 where the typed text is a prefix of the one already shown; a
    /// superseded request waits for the response to a later one. None if there was none.
    pub line_ms: Option<f64>,
}

/// Cause of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// The first key in a document.
    Start,
    /// A character.
    Typing,
    /// A line end.
    Newline,
    /// A deletion.
    Deletion,
    /// An accepted suggestion.
    Accept,
    /// The first key after the cursor was moved.
    Jump,
    /// Something undone.
    Undo,
    /// A change away from the cursor.
    Edit,
}

impl Cause {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Start,
        Self::Typing,
        Self::Newline,
        Self::Deletion,
        Self::Accept,
        Self::Jump,
        Self::Undo,
        Self::Edit,
    ];
}

/// Outcome of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The response came while it was the newest.
    Answered,
    /// A newer request came first.
    Superseded,
    /// There was no response.
    Unanswered,
}

/// Results of a session.
#[derive(Clone, Debug, Default)]
pub struct Replayed {
    /// Every request.
    pub keystrokes: Vec<Keystroke>,
    /// Cost of superseded requests.
    pub wasted: Vec<Figures>,
}

/// Lets `typist` type `session` with `peer`. `pace` multiplies the pauses; at 0 there are none, and each key
/// waits for the response to the one before.
pub fn replay(peer: &mut dyn Peer, session: &Session, typist: Typist, pace: f64) -> Result<Replayed> {
    peer.open(session)?;
    let mut replay = Replay {
        peer,
        pace,
        editor: Editor::new(session),
        shown: None,
        newest: None,
        sent: Vec::new(),
        waiting: Vec::new(),
        result: Replayed::default(),
    };
    replay.run(session, typist)?;
    Ok(replay.result)
}

struct Replay<'a> {
    peer: &'a mut dyn Peer,
    pace: f64,
    editor: Editor,
    /// The suggestion shown, which is not empty.
    shown: Option<String>,
    /// The newest request, while it is in flight.
    newest: Option<usize>,
    /// When each request was sent.
    sent: Vec<Instant>,
    /// Requests since the last suggestion.
    waiting: Vec<usize>,
    result: Replayed,
}

impl Replay<'_> {
    fn run(&mut self, session: &Session, mut typist: Typist) -> Result<()> {
        let (mut last, mut jumped) = (Instant::now(), false);
        for event in 0.. {
            let Some(pause_ms) = typist.pause_ms() else { break };
            self.pause(last + Duration::from_secs_f64(f64::from(pause_ms) / 1e3 * self.pace))?;
            if self.pace == 0.0 || (typist.waits() && self.shown.is_none()) {
                self.settle()?;
            }
            let Some(action) = typist.next(self.shown.as_deref(), &self.editor) else { break };
            last = Instant::now();
            let changes = self.editor.apply(&action)?;
            let rest = self.shown.take().and_then(|shown| remainder(&shown, &action).map(String::from));
            let is_typed_through = rest.is_some();
            self.shown = rest.filter(|rest| !rest.is_empty());
            if changes.is_empty() {
                jumped = true;
                self.waiting.clear();
                continue;
            }
            let request = self.sent.len();
            let cause = match action {
                _ if request == 0 => Cause::Start,
                _ if std::mem::take(&mut jumped) => Cause::Jump,
                Action::Type { .. } | Action::Over { .. } | Action::Jump { .. } => Cause::Typing,
                Action::Newline { .. } => Cause::Newline,
                Action::Delete { .. } => Cause::Deletion,
                Action::Accept { .. } => Cause::Accept,
                Action::Undo { .. } => Cause::Undo,
                Action::Edit { .. } => Cause::Edit,
            };
            if !is_typed_through {
                self.waiting.push(request);
            }
            self.result.keystrokes.push(Keystroke {
                session: session.name.clone(),
                event,
                cause,
                outcome: Outcome::Unanswered,
                shown_chars: 0,
                figures: None,
                answer_ms: None,
                line_ms: is_typed_through.then_some(0.0),
            });
            self.newest = Some(request);
            self.sent.push(Instant::now());
            self.peer.request_completion(request, &changes, &self.editor)?;
        }
        self.settle()?;
        let (answers, wasted) = self.peer.close()?;
        answers.into_iter().for_each(|answer| self.take(answer));
        self.result.wasted.extend(wasted);
        Ok(())
    }

    /// Receives responses until then.
    fn pause(&mut self, until: Instant) -> Result<()> {
        loop {
            let wait = until.saturating_duration_since(Instant::now());
            match self.peer.answer(wait)? {
                Some(answer) => self.take(answer),
                None if wait.is_zero() => return Ok(()),
                None => {}
            }
        }
    }

    /// Waits for the response to the newest request.
    fn settle(&mut self) -> Result<()> {
        while self.newest.is_some() {
            match self.peer.answer(TIMEOUT)? {
                Some(answer) => self.take(answer),
                None => bail!("no response within {} s", TIMEOUT.as_secs()),
            }
        }
        Ok(())
    }

    fn take(&mut self, answer: Answer) {
        let Answer { request, at, text, is_superseded, figures } = answer;
        let keystroke = &mut self.result.keystrokes[request];
        let is_newest = self.newest.take_if(|newest| *newest == request).is_some();
        if is_superseded || !is_newest {
            keystroke.outcome = Outcome::Superseded;
            self.result.wasted.extend(figures);
            return;
        }
        let since = |request: usize| milliseconds(at.saturating_duration_since(self.sent[request]));
        keystroke.outcome = Outcome::Answered;
        keystroke.shown_chars = text.chars().count();
        keystroke.figures = figures;
        keystroke.answer_ms = Some(since(request));
        if !text.is_empty() {
            for waiting in self.waiting.drain(..) {
                self.result.keystrokes[waiting].line_ms = Some(since(waiting));
            }
        }
        self.shown = Some(text).filter(|text| !text.is_empty());
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;
    use crate::bench::keystrokes::session::Event;

    /// Answers `text` to every request, or to every other one when it is busy.
    struct Echo {
        text: &'static str,
        is_busy: bool,
        in_flight: Option<usize>,
        answers: VecDeque<Answer>,
        documents: Vec<String>,
    }

    fn figures(evaluated: usize) -> Figures {
        Figures {
            source: Source::Model,
            prompt_tokens: 10,
            evaluated,
            replayed: 0,
            generated: 1,
            first_token_ms: Some(1.0),
        }
    }

    impl Echo {
        fn new(text: &'static str, is_busy: bool) -> Self {
            Self { text, is_busy, in_flight: None, answers: VecDeque::new(), documents: Vec::new() }
        }

        fn push(&mut self, request: usize, is_superseded: bool) {
            self.answers.push_back(Answer {
                request,
                at: Instant::now(),
                text: if is_superseded { String::new() } else { self.text.into() },
                is_superseded,
                figures: Some(figures(if is_superseded { 7 } else { 2 })),
            });
        }
    }

    impl Peer for Echo {
        fn open(&mut self, session: &Session) -> Result<()> {
            self.documents.push(session.text.clone());
            Ok(())
        }

        fn request_completion(&mut self, request: usize, changes: &[Change], editor: &Editor) -> Result<()> {
            assert!(!changes.is_empty());
            self.documents.push(editor.text().into());
            if let Some(before) = self.in_flight.take() {
                self.push(before, true);
            }
            if self.is_busy && request.is_multiple_of(2) {
                self.in_flight = Some(request);
            } else {
                self.push(request, false);
            }
            Ok(())
        }

        fn answer(&mut self, _: Duration) -> Result<Option<Answer>> {
            Ok(self.answers.pop_front())
        }

        fn close(&mut self) -> Result<(Vec<Answer>, Vec<Figures>)> {
            Ok((self.answers.drain(..).collect(), vec![figures(3)]))
        }
    }

    fn session(actions: Vec<Action>) -> Session {
        Session {
            name: "a".into(),
            path: "a.py".into(),
            language: "python".into(),
            text: "x\n\n".into(),
            cursor: 1,
            events: actions.into_iter().map(|action| Event { pause_ms: 1, action }).collect(),
            end: String::new(),
        }
    }

    fn typed(text: char) -> Action {
        Action::Type { text, closes: None }
    }

    #[test]
    fn every_change_asks_and_says_why() {
        let session = session(vec![
            typed('a'),
            typed('b'),
            Action::Delete { before: 1, after: 0 },
            Action::Jump { to: [2, 0] },
            typed('c'),
            Action::Edit { at: [0, 0], remove: 1, text: "z".into() },
            Action::Undo { edits: 1 },
            Action::Newline { indent: String::new(), below: None },
            Action::Accept { text: "bc".into() },
        ]);
        let mut echo = Echo::new("bc", false);
        let replayed = replay(&mut echo, &session, Typist::script(&session), 0.0).unwrap();
        let causes: Vec<Cause> = replayed.keystrokes.iter().map(|keystroke| keystroke.cause).collect();
        use Cause::*;
        assert_eq!(causes, [Start, Typing, Deletion, Jump, Edit, Undo, Newline, Accept]);
        assert!(replayed.keystrokes.iter().all(|keystroke| keystroke.outcome == Outcome::Answered));
        assert_eq!(replayed.wasted, [figures(3)]);
        assert_eq!(echo.documents[0..3], ["x\n\n", "xa\n\n", "xab\n\n"]);
        assert_eq!(echo.documents.last().unwrap(), "xa\n\nc\nbc");
        let on_screen = |at: usize| replayed.keystrokes[at].line_ms == Some(0.0);
        assert!(on_screen(1) && on_screen(7), "what is typed or accepted was shown");
        assert!(replayed.keystrokes[2].line_ms.unwrap() > 0.0);
    }

    #[test]
    fn superseded_requests_wait_for_a_later_line() {
        let session = session("abcd".chars().map(typed).collect());
        let mut echo = Echo::new("?", true);
        let replayed = replay(&mut echo, &session, Typist::script(&session), 1e-9).unwrap();
        let outcomes: Vec<Outcome> = replayed.keystrokes.iter().map(|keystroke| keystroke.outcome).collect();
        use Outcome::*;
        assert_eq!(outcomes, [Superseded, Answered, Superseded, Answered]);
        assert_eq!(replayed.wasted, [figures(7), figures(7), figures(3)]);
        for keystroke in &replayed.keystrokes {
            assert_eq!(keystroke.answer_ms.is_some(), keystroke.outcome == Answered);
            assert!(keystroke.line_ms.unwrap() > 0.0);
        }
        let lines: Vec<f64> = replayed.keystrokes.iter().filter_map(|keystroke| keystroke.line_ms).collect();
        assert!(lines[0] >= lines[1], "it has waited for longer");
    }
}
