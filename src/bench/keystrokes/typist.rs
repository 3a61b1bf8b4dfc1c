//! Typists: the script of a session, or an oracle that follows the model's suggestions. Pure.

use std::collections::VecDeque;

use super::session::{Action, Editor, Event, Session};

/// One suggestion in this many is accepted; the others are typed to their end.
const ACCEPTED_OF: usize = 4;
/// Characters of a suggestion that are typed before the rest is accepted.
const TYPED_BEFORE_ACCEPT: usize = 3;

/// Chooses the next action.
#[derive(Clone, Debug)]
pub enum Typist {
    /// Follows the session, whatever is shown, so that all servers see the same documents.
    Script(VecDeque<Event>),
    /// Types what is shown, or accepts it; see [`Oracle`].
    Oracle(Oracle),
}

/// Always types what the model suggests. Waits for a suggestion, types it character by character, accepts the rest of
/// every fourth, and begins a new line after each. Without a suggestion, takes characters from the script of the
/// session, without its jumps and deletions. Pauses as the script does.
#[derive(Clone, Debug)]
pub struct Oracle {
    pauses: VecDeque<u32>,
    script: VecDeque<Action>,
    /// The remainder of the suggestion after the last event, if that was taken from one.
    rest: Option<String>,
    suggestions: usize,
    typed: usize,
}

impl Typist {
    /// Follows the session.
    pub fn script(session: &Session) -> Self {
        Self::Script(session.events.iter().cloned().collect())
    }

    /// Types what is shown, with as many events as the session has.
    pub fn oracle(session: &Session) -> Self {
        let script = session.events.iter().filter_map(|event| match &event.action {
            Action::Type { text, .. } => Some(Action::Type { text: *text, closes: None }),
            Action::Newline { indent, .. } => Some(Action::Newline { indent: indent.clone(), below: None }),
            _ => None,
        });
        Self::Oracle(Oracle {
            pauses: session.events.iter().map(|event| event.pause_ms).collect(),
            script: script.collect(),
            rest: None,
            suggestions: 0,
            typed: 0,
        })
    }

    /// Pause before the next event in milliseconds; `None` when there is none.
    pub fn pause_ms(&self) -> Option<u32> {
        match self {
            Self::Script(events) => events.front().map(|event| event.pause_ms),
            Self::Oracle(oracle) => oracle.pauses.front().copied(),
        }
    }

    /// Whether to wait for a response in flight when nothing is shown.
    pub fn waits(&self) -> bool {
        matches!(self, Self::Oracle(_))
    }

    /// The next action while `shown`, which is never empty, is on screen.
    pub fn next(&mut self, shown: Option<&str>, editor: &Editor) -> Option<Action> {
        match self {
            Self::Script(events) => events.pop_front().map(|event| event.action),
            Self::Oracle(oracle) => oracle.next(shown, editor),
        }
    }
}

impl Oracle {
    fn next(&mut self, shown: Option<&str>, editor: &Editor) -> Option<Action> {
        self.pauses.pop_front()?;
        let rest = self.rest.take();
        let Some(shown) = shown else {
            return Some(match rest {
                Some(rest) if rest.is_empty() => {
                    Action::Newline { indent: editor.indent().into(), below: None }
                }
                _ => {
                    let action = self.script.pop_front().unwrap_or(Action::Type { text: ' ', closes: None });
                    self.script.push_back(action.clone());
                    action
                }
            });
        };
        if rest.as_deref() != Some(shown) {
            self.suggestions += 1;
            self.typed = 0;
        }
        let action = if self.suggestions.is_multiple_of(ACCEPTED_OF) && self.typed >= TYPED_BEFORE_ACCEPT {
            Action::Accept { text: shown.into() }
        } else {
            typing(shown)
        };
        self.typed += 1;
        self.rest = remainder(shown, &action).map(String::from);
        Some(action)
    }
}

/// The key that types the beginning of `shown`.
fn typing(shown: &str) -> Action {
    if let Some(line) = shown.strip_prefix('\n') {
        let indent = &line[..line.len() - line.trim_start_matches([' ', '\t']).len()];
        return Action::Newline { indent: indent.into(), below: None };
    }
    Action::Type { text: shown.chars().next().unwrap_or(' '), closes: None }
}

/// The remainder of `shown`, the text on screen, after `action`: `None` when that does not match it, and "" when it
/// was typed to its end.
pub fn remainder<'a>(shown: &'a str, action: &Action) -> Option<&'a str> {
    match action {
        Action::Type { text, closes: None } => shown.strip_prefix(*text),
        Action::Newline { indent, below: None } => shown.strip_prefix('\n')?.strip_prefix(indent.as_str()),
        Action::Accept { text } => shown.strip_prefix(text.as_str()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session() -> Session {
        let event = |text| Event { pause_ms: 5, action: Action::Type { text, closes: None } };
        Session {
            name: "a".into(),
            path: "a.py".into(),
            language: "python".into(),
            text: "  x\n".into(),
            cursor: 3,
            events: "script".chars().cycle().take(40).map(event).collect(),
            end: String::new(),
        }
    }

    #[test]
    fn the_script_is_followed_whatever_is_shown() {
        let session = session();
        let (mut typist, editor) = (Typist::script(&session), Editor::new(&session));
        for event in &session.events {
            assert_eq!(typist.pause_ms(), Some(5));
            assert_eq!(typist.next(Some("else"), &editor).as_ref(), Some(&event.action));
        }
        assert_eq!((typist.pause_ms(), typist.next(None, &editor)), (None, None));
    }

    #[test]
    fn the_oracle_types_what_is_shown_and_accepts_a_part() {
        let session = session();
        let (mut typist, mut editor) = (Typist::oracle(&session), Editor::new(&session));
        let mut shown: Option<String> = None;
        let mut steps = Vec::new();
        while typist.pause_ms().is_some() {
            let action = typist.next(shown.as_deref(), &editor).unwrap();
            editor.apply(&action).unwrap();
            let rest = shown.as_deref().and_then(|shown| remainder(shown, &action)).unwrap_or_default();
            steps.push(match &action {
                Action::Type { text, .. } => text.to_string(),
                Action::Accept { text } => format!("<{text}>"),
                _ => "|".into(),
            });
            // The model answers `abcde` after every key that is not in a suggestion, except after a line end.
            shown = match (rest, &action) {
                ("", Action::Type { text, .. }) if *text != 'e' => Some("abcde".into()),
                ("", _) => None,
                (rest, _) => Some(rest.into()),
            };
        }
        assert_eq!(steps.concat(), "sabcde|cabcde|rabcde|iabc<de>|pabcde|tabcde");
        assert_eq!(editor.text(), "  xsabcde\n  cabcde\n  rabcde\n  iabcde\n  pabcde\n  tabcde\n");
    }

    #[test]
    fn ghost_text_is_typed_through_or_not() {
        let typed = |text| Action::Type { text, closes: None };
        for (shown, action, rest) in [
            ("ab", typed('a'), Some("b")),
            ("a", typed('a'), Some("")),
            ("ab", typed('b'), None),
            ("()", Action::Type { text: '(', closes: Some(')') }, None),
            ("\n  a", Action::Newline { indent: "  ".into(), below: None }, Some("a")),
            ("ab", Action::Accept { text: "ab".into() }, Some("")),
            ("ab", Action::Delete { before: 1, after: 0 }, None),
        ] {
            assert_eq!(remainder(shown, &action), rest);
        }
        assert_eq!(typing("\n\tx"), Action::Newline { indent: "\t".into(), below: None });
    }
}
