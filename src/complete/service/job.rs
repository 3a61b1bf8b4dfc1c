//! A generation in flight, and which requests it serves. Pure.

use super::super::edit::Change;
use super::action::{Ask, JobId, Trigger};
use super::place::{Here, Place};

/// A generation in flight.
pub(super) struct Job {
    pub id: JobId,
    pub place: Place,
    pub trigger: Trigger,
    /// Bytes before its place.
    cursor: usize,
    /// What was typed since, as far as changes of the document tell.
    typed: String,
    /// What it said so far, before any rule cuts it.
    text: String,
}

impl Job {
    /// One begun for `ask`.
    pub(super) fn new(id: JobId, ask: &Ask) -> Self {
        Self {
            id,
            place: Place::new(&ask.document),
            trigger: ask.trigger,
            cursor: ask.document.prefix.len(),
            typed: String::new(),
            text: String::new(),
        }
    }

    /// It says more.
    pub(super) fn say(&mut self, text: &str) {
        self.text.push_str(text);
    }

    /// Whether what it said so far does not contradict what was typed since.
    pub(super) fn agrees(&self) -> bool {
        self.agrees_with(&self.typed)
    }

    /// Whether `ask` may wait for this instead of for a generation of its own.
    pub(super) fn fits(&self, ask: &Ask, here: &Here) -> bool {
        ask.trigger.is_served_by(self.trigger)
            && here.typed_since(&self.place).any(|(typed, _)| self.agrees_with(typed))
    }

    /// Takes note of a change of the document; says whether the place may still be the same.
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
        self.agrees()
    }

    fn agrees_with(&self, typed: &str) -> bool {
        let typed = typed.replace("\r\n", "\n");
        let said = self.text.as_str();
        let (said, typed) = if self.place.follows_whitespace() {
            // Whitespace that the cursor stands behind is cut from the answer.
            (said.trim_start_matches([' ', '\t']), typed.trim_start_matches([' ', '\t']))
        } else {
            (said, &*typed)
        };
        said.starts_with(typed) || typed.starts_with(said)
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::request::Document;
    use super::*;

    #[test]
    fn changes_are_followed_while_they_agree() {
        let document = Document::new(None, "x = ", "\n").into();
        let ask = Ask { id: 1, key: "a".into(), document, trigger: Trigger::Automatic };
        for (said, changes, expected) in [
            ("foo", &[(4, 0, "f")][..], true),
            ("foo", &[(4, 0, "f"), (5, 0, "ob")], false),
            ("foo", &[(4, 0, "g"), (4, 1, "f")], true),
            (" foo", &[(4, 0, "f")], true),
            ("foo(a)", &[(4, 0, "foo()")], true),
            ("foo", &[(0, 0, "f")], false),
            ("é", &[(4, 0, "é"), (5, 0, "x")], false),
        ] {
            let mut job = Job::new(1, &ask);
            job.say(said);
            let follows = |&(at, removed, inserted): &(usize, usize, &str)| {
                job.follows(&Change { at, removed, inserted: inserted.into() })
            };
            assert_eq!(changes.iter().map(follows).last(), Some(expected), "{said:?} {changes:?}");
        }
    }
}
