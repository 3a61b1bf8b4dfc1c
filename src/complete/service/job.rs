//! A generation in flight, and which requests it serves. Pure.

use super::super::edit::Change;
use super::action::{EditorRequest, JobId, Trigger};
use super::location::{Location, LocationMatcher};

/// A generation in flight.
pub(super) struct Job {
    pub id: JobId,
    pub location: Location,
    pub trigger: Trigger,
    /// Bytes before its location.
    cursor: usize,
    /// The text typed since, according to the changes of the document.
    typed: String,
    /// The text so far, before any stop rule cuts it.
    text: String,
}

impl Job {
    pub(super) fn new(id: JobId, editor_request: &EditorRequest) -> Self {
        Self {
            id,
            location: Location::new(&editor_request.document),
            trigger: editor_request.trigger,
            cursor: editor_request.document.prefix.len(),
            typed: String::new(),
            text: String::new(),
        }
    }

    pub(super) fn push_text(&mut self, text: &str) {
        self.text.push_str(text);
    }

    /// Whether the generated text is consistent with the text typed since.
    pub(super) fn is_consistent(&self) -> bool {
        self.is_consistent_with(&self.typed)
    }

    /// Whether a request can join this generation.
    pub(super) fn fits(&self, editor_request: &EditorRequest, matcher: &LocationMatcher) -> bool {
        editor_request.trigger.is_served_by(self.trigger)
            && matcher.typed_since(&self.location).is_some_and(|(typed, _)| self.is_consistent_with(typed))
    }

    /// Applies a change of the document; false if the generation is then inconsistent or elsewhere.
    pub(super) fn follows(&mut self, change: &Change) -> bool {
        let end = self.cursor + self.typed.len();
        let Some(from) = change.at.checked_sub(self.cursor).filter(|_| change.at + change.removed <= end)
        else {
            return false;
        };
        if !self.typed.is_char_boundary(from) || !self.typed.is_char_boundary(from + change.removed) {
            return false;
        }
        self.typed.replace_range(from..from + change.removed, change.typed());
        self.is_consistent()
    }

    fn is_consistent_with(&self, typed: &str) -> bool {
        let typed = typed.replace("\r\n", "\n");
        let generated_text = self.text.as_str();
        let (generated_text, typed) = if self.location.follows_whitespace() {
            // Whitespace before the cursor is cut from the answer.
            (generated_text.trim_start_matches([' ', '\t']), typed.trim_start_matches([' ', '\t']))
        } else {
            (generated_text, &*typed)
        };
        generated_text.starts_with(typed) || typed.starts_with(generated_text)
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::request::Document;
    use super::*;

    #[test]
    fn changes_are_followed_while_consistent() {
        let document = Document::new(None, "x = ", "\n").into();
        let editor_request = EditorRequest { id: 1, key: "a".into(), document, trigger: Trigger::Automatic };
        for (generated_text, changes, expected) in [
            ("foo", &[(4, 0, "f")][..], true),
            ("foo", &[(4, 0, "f"), (5, 0, "ob")], false),
            ("foo", &[(4, 0, "g"), (4, 1, "f")], true),
            (" foo", &[(4, 0, "f")], true),
            ("foo(a)", &[(4, 0, "foo()")], true),
            ("foo", &[(0, 0, "f")], false),
            ("é", &[(4, 0, "é"), (5, 0, "x")], false),
        ] {
            let mut job = Job::new(1, &editor_request);
            job.push_text(generated_text);
            let follows = |&(at, removed, inserted): &(usize, usize, &str)| {
                job.follows(&Change { at, removed, inserted: inserted.into() })
            };
            assert_eq!(changes.iter().map(follows).last(), Some(expected), "{generated_text:?} {changes:?}");
        }
    }
}
