//! Typing sessions: edits of a document, key by key. Pure.
//!
//! `tests/data/typing/README.md` describes the files.

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use serde_json::Value;

/// A document and the edits made to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// Name of its file without folder and extension.
    pub name: String,
    /// Path of the document.
    pub path: String,
    /// LSP language identifier.
    pub language: String,
    /// The document before the first event.
    pub text: String,
    /// Byte offset of the cursor in `text`.
    pub cursor: usize,
    pub events: Vec<Event>,
    /// The document after the last event.
    pub end: String,
}

/// An action after a pause.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Milliseconds since the event before.
    pub pause_ms: u32,
    pub action: Action,
}

/// A line and a character in it, both counted from 0.
pub type Position = [usize; 2];

/// An action on a document.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Action {
    /// A character at the cursor; the editor may add a closing delimiter after the cursor by itself.
    Type {
        /// The character.
        text: char,
        /// What the editor adds.
        #[serde(default)]
        closes: Option<char>,
    },
    /// A closing delimiter that already stands at the cursor: the cursor moves past it.
    Over {
        /// The delimiter.
        text: char,
    },
    /// A line end and the indentation that the editor gives the new line.
    Newline {
        /// The indentation.
        indent: String,
        /// Between two brackets the editor adds a second line end, with this indentation, after the cursor.
        #[serde(default)]
        below: Option<String>,
    },
    /// Deletes characters around the cursor.
    Delete {
        /// Number before it.
        #[serde(default = "one")]
        before: usize,
        /// Number after it.
        #[serde(default)]
        after: usize,
    },
    /// Inserts text at once, as accepted ghost text.
    Accept {
        /// The text.
        text: String,
    },
    /// The cursor moves.
    Jump { to: Position },
    /// Undoes the last edits that are not yet undone.
    Undo {
        /// How many.
        #[serde(default = "one")]
        edits: usize,
    },
    /// Text changes away from the cursor, which stays in front of the same character.
    Edit {
        /// Where.
        at: Position,
        /// Number of characters to remove.
        #[serde(default)]
        remove: usize,
        /// Replacement.
        #[serde(default)]
        text: String,
    },
}

/// How a file spells a [`Session`].
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    path: String,
    language: String,
    text: Vec<String>,
    cursor: Position,
    events: Vec<Value>,
    end: Vec<String>,
}

fn one() -> usize {
    1
}

impl Session {
    /// The built-in sessions.
    pub fn embedded() -> Result<Vec<Self>> {
        [
            ("c.json", include_str!("../../../tests/data/typing/c.json")),
            ("go.json", include_str!("../../../tests/data/typing/go.json")),
            ("lua.json", include_str!("../../../tests/data/typing/lua.json")),
            ("python.json", include_str!("../../../tests/data/typing/python.json")),
            ("rust.json", include_str!("../../../tests/data/typing/rust.json")),
            ("typescript.json", include_str!("../../../tests/data/typing/typescript.json")),
        ]
        .map(|(origin, json)| Self::parse(origin, json))
        .into_iter()
        .collect()
    }

    /// Reads the session in the file `origin`, and replays it: what is returned is sound. Errors name the file
    /// and the event, counted from 0.
    pub fn parse(origin: &str, json: &str) -> Result<Self> {
        Self::read(origin, json).with_context(|| format!("{origin} is not a typing session"))
    }

    /// Keeps the first `events` events only.
    pub fn truncate(&mut self, events: usize) {
        if events < self.events.len() {
            self.events.truncate(events);
            let mut editor = Editor::new(self);
            for event in &self.events {
                editor.apply(&event.action).expect("a session is sound");
            }
            self.end = editor.text;
        }
    }

    fn read(origin: &str, json: &str) -> Result<Self> {
        let file: File = serde_json::from_str(json)?;
        let text = file.text.join("\n");
        let events: Result<Vec<Event>> = (0..)
            .zip(file.events)
            .map(|(i, value)| Event::read(value).with_context(|| format!("event {i}")))
            .collect();
        let name = origin.rsplit(['/', '\\']).next().unwrap_or(origin);
        let session = Self {
            name: name.strip_suffix(".json").unwrap_or(name).into(),
            path: file.path,
            language: file.language,
            cursor: offset(&text, file.cursor).context("cursor")?,
            text,
            events: events?,
            end: file.end.join("\n"),
        };
        session.check()?;
        Ok(session)
    }

    fn check(&self) -> Result<()> {
        let mut editor = Editor::new(self);
        for (i, event) in self.events.iter().enumerate() {
            editor.apply(&event.action).with_context(|| format!("event {i}"))?;
        }
        let same = editor.text.lines().zip(self.end.lines()).take_while(|(a, b)| a == b).count();
        ensure!(
            editor.text == self.end,
            "the events do not lead to the text under \"end\": line {} differs",
            same + 1
        );
        Ok(())
    }
}

impl Event {
    fn read(mut value: Value) -> Result<Self> {
        let object = value.as_object_mut().context("is not an object")?;
        let pause = object.remove("pause_ms").context("has no pause_ms")?;
        let pause_ms = serde_json::from_value(pause).context("pause_ms")?;
        Ok(Self { pause_ms, action: serde_json::from_value(value)? })
    }
}

/// A change of a document, in the terms of LSP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Line and UTF-16 unit of the start of the removed range.
    pub start: [usize; 2],
    /// Of its end.
    pub end: [usize; 2],
    /// Replacement.
    pub text: String,
}

/// A document, a cursor, and what can be undone.
#[derive(Clone, Debug)]
pub struct Editor {
    text: String,
    cursor: usize,
    done: Vec<Edit>,
}

#[derive(Clone, Debug)]
struct Edit {
    start: usize,
    removed: String,
    inserted: usize,
    cursor_before: usize,
}

impl Editor {
    /// Opens the document of a session.
    pub fn new(session: &Session) -> Self {
        Self { text: session.text.clone(), cursor: session.cursor, done: Vec::new() }
    }

    /// The whole document.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The text before and after the cursor.
    pub fn around(&self) -> (&str, &str) {
        self.text.split_at(self.cursor)
    }

    /// Line and UTF-16 unit of the cursor.
    pub fn position(&self) -> [usize; 2] {
        position(&self.text, self.cursor)
    }

    /// The indentation of the cursor's line.
    pub fn indent(&self) -> &str {
        let start = self.text[..self.cursor].rfind('\n').map_or(0, |end| end + 1);
        let line = &self.text[start..self.cursor];
        &line[..line.len() - line.trim_start().len()]
    }

    /// Does `action` and returns what it changed; nothing, if it only moves the cursor. Fails, leaving
    /// everything as it is, where it cannot be done.
    pub fn apply(&mut self, action: &Action) -> Result<Vec<Change>> {
        let at = self.cursor;
        let change = match action {
            Action::Type { text, closes } => self.insert(&text.to_string(), closes.map(String::from)),
            Action::Over { text } => {
                ensure!(self.text[at..].starts_with(*text), "{text:?} is not at the cursor");
                let change = self.replace(at, at + text.len_utf8(), &text.to_string());
                self.cursor = at + text.len_utf8();
                change
            }
            Action::Newline { indent, below } => {
                self.insert(&format!("\n{indent}"), below.as_ref().map(|below| format!("\n{below}")))
            }
            Action::Delete { before, after } => {
                let start = back(&self.text, at, *before)
                    .with_context(|| format!("there are no {before} characters before the cursor"))?;
                let end = forth(&self.text, at, *after)
                    .with_context(|| format!("there are no {after} characters after the cursor"))?;
                let change = self.replace(start, end, "");
                self.cursor = start;
                change
            }
            Action::Accept { text } => self.insert(text, None),
            Action::Jump { to } => {
                self.cursor = offset(&self.text, *to)?;
                return Ok(Vec::new());
            }
            Action::Undo { edits } => return self.undo(*edits),
            Action::Edit { at: position, remove, text } => {
                let start = offset(&self.text, *position)?;
                let end = forth(&self.text, start, *remove)
                    .with_context(|| format!("there are no {remove} characters to remove"))?;
                ensure!(end <= at || at <= start, "the cursor is inside the removed range");
                let change = self.replace(start, end, text);
                if end <= at {
                    self.cursor = at - (end - start) + text.len();
                }
                change
            }
        };
        Ok(vec![change])
    }

    /// Inserts at the cursor, which goes between `before` and `after`.
    fn insert(&mut self, before: &str, after: Option<String>) -> Change {
        let at = self.cursor;
        let change = self.replace(at, at, &(before.to_owned() + after.as_deref().unwrap_or_default()));
        self.cursor = at + before.len();
        change
    }

    fn undo(&mut self, edits: usize) -> Result<Vec<Change>> {
        if edits > self.done.len() {
            bail!("{edits} edits cannot be undone, only {}", self.done.len());
        }
        let mut changes = Vec::new();
        for _ in 0..edits {
            let Some(edit) = self.done.pop() else { break };
            changes.push(self.replace(edit.start, edit.start + edit.inserted, &edit.removed));
            self.done.pop();
            self.cursor = edit.cursor_before;
        }
        Ok(changes)
    }

    fn replace(&mut self, start: usize, end: usize, text: &str) -> Change {
        let change =
            Change { start: position(&self.text, start), end: position(&self.text, end), text: text.into() };
        self.done.push(Edit {
            start,
            removed: self.text[start..end].into(),
            inserted: text.len(),
            cursor_before: self.cursor,
        });
        self.text.replace_range(start..end, text);
        change
    }
}

/// Byte offset of a position.
fn offset(text: &str, [line, column]: Position) -> Result<usize> {
    let start = match line {
        0 => 0,
        _ => {
            let end =
                text.match_indices('\n').nth(line - 1).with_context(|| format!("there is no line {line}"))?;
            end.0 + 1
        }
    };
    let length = text[start..].find('\n').unwrap_or(text.len() - start);
    forth(&text[..start + length], start, column)
        .with_context(|| format!("line {line} has no column {column}"))
}

/// Line and UTF-16 unit of a byte.
fn position(text: &str, offset: usize) -> [usize; 2] {
    let before = &text[..offset];
    let start = before.rfind('\n').map_or(0, |end| end + 1);
    [before.matches('\n').count(), before[start..].encode_utf16().count()]
}

fn back(text: &str, at: usize, chars: usize) -> Option<usize> {
    let mut before = text[..at].chars();
    for _ in 0..chars {
        before.next_back()?;
    }
    Some(before.as_str().len())
}

fn forth(text: &str, at: usize, chars: usize) -> Option<usize> {
    let mut after = text[at..].chars();
    for _ in 0..chars {
        after.next()?;
    }
    Some(text.len() - after.as_str().len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(text: &str, cursor: Position, events: &str, end: &str) -> Result<Session> {
        let lines = |text: &str| serde_json::to_string(&text.split('\n').collect::<Vec<_>>()).unwrap();
        let json = format!(
            r#"{{"path": "a.rs", "language": "rust", "text": {}, "cursor": {cursor:?}, "events": [{events}], "end": {}}}"#,
            lines(text),
            lines(end)
        );
        Session::parse("here/a.json", &json)
    }

    #[test]
    fn embedded_sessions_are_sound_and_look_like_typing() {
        let sessions = Session::embedded().unwrap();
        assert!(sessions.len() >= 6);
        for session in &sessions {
            let name = &session.name;
            let count = |is: fn(&Action) -> bool| session.events.iter().filter(|e| is(&e.action)).count();
            let lines = session.text.lines().count();
            assert!((60..=200).contains(&lines), "{name}: {lines} lines");
            let events = session.events.len();
            assert!((100..=300).contains(&events), "{name}: {events} events");
            assert!(count(|a| matches!(a, Action::Type { closes: Some(_), .. })) > 0, "{name}: no closers");
            assert!(count(|a| matches!(a, Action::Over { .. })) > 0, "{name}: nothing typed over");
            assert!(count(|a| matches!(a, Action::Delete { .. })) >= 5, "{name}: few deletions");
            assert!(count(|a| matches!(a, Action::Newline { .. })) > 0, "{name}: one line");
            assert!(count(|a| matches!(a, Action::Accept { .. })) > 0, "{name}: nothing accepted");
            assert!(count(|a| matches!(a, Action::Jump { .. })) > 0, "{name}: no jump");
            assert!(count(|a| matches!(a, Action::Edit { .. })) > 0, "{name}: no edit elsewhere");
            let mut pauses: Vec<u32> = session.events.iter().map(|event| event.pause_ms).collect();
            pauses.sort_unstable();
            assert!((80..=300).contains(&pauses[events / 2]) && pauses[events - 1] < 10_000, "{name}");
        }
        assert!(sessions.iter().any(|session| {
            session.events.iter().any(|event| matches!(event.action, Action::Undo { .. }))
        }));
    }

    #[test]
    fn actions_change_the_document() {
        let check = |events: &str, end: &str| {
            let events: Vec<String> =
                events.split('|').map(|event| format!("{{\"pause_ms\": 1, \"kind\": {event}}}")).collect();
            session("é = x\n", [0, 5], &events.join(","), end).unwrap();
        };
        check(r#""type", "text": "(""#, "é = x(\n");
        check(r#""type", "text": "(", "closes": ")""#, "é = x()\n");
        check(r#""type", "text": "(", "closes": ")"|"over", "text": ")"|"type", "text": ";""#, "é = x();\n");
        check(
            r#""type", "text": "{", "closes": "}"|"newline", "indent": "  ", "below": """#,
            "é = x{\n  \n}\n",
        );
        check(r#""delete""#, "é = \n");
        check(r#""type", "text": "(", "closes": ")"|"delete", "after": 1"#, "é = x\n");
        check(r#""accept", "text": "\ny"|"delete", "before": 2"#, "é = x\n");
        check(r#""jump", "to": [1, 0]|"type", "text": "é""#, "é = x\né");
        check(r#""edit", "at": [0, 0], "remove": 1, "text": "abc"|"type", "text": "y""#, "abc = xy\n");
        check(r#""edit", "at": [1, 0], "text": "z"|"type", "text": "y""#, "é = xy\nz");
        check(
            r#""type", "text": "y"|"delete", "before": 3|"undo", "edits": 2|"type", "text": "z""#,
            "é = xz\n",
        );
    }

    #[test]
    fn sessions_can_be_cut() {
        let mut session = Session::embedded().unwrap().remove(0);
        let (whole, count) = (session.clone(), session.events.len());
        session.truncate(count);
        assert_eq!(session, whole);
        session.truncate(1);
        assert_eq!((session.events.len(), session.text.len() + 1), (1, session.end.len()));
    }

    #[test]
    fn changes_are_told_in_utf_16() {
        let session = session("🦀é\n🦀é", [1, 2], "", "🦀é\n🦀é").unwrap();
        let mut editor = Editor::new(&session);
        assert_eq!(editor.position(), [1, 3]);
        let changes = editor.apply(&Action::Delete { before: 3, after: 0 }).unwrap();
        assert_eq!(changes, [Change { start: [0, 3], end: [1, 3], text: String::new() }]);
        let changes = editor.apply(&Action::Undo { edits: 1 }).unwrap();
        assert_eq!(changes, [Change { start: [0, 3], end: [0, 3], text: "\n🦀é".into() }]);
        assert_eq!((editor.position(), editor.text()), ([1, 3], "🦀é\n🦀é"));
    }

    #[test]
    fn bad_files_say_where_and_why() {
        let check = |event: &str, words: &[&str]| {
            let good = r#"{"pause_ms": 1, "kind": "type", "text": "y"}"#;
            let error = session("x\n", [0, 1], &format!("{good}, {event}"), "xy\n").unwrap_err();
            let error = format!("{error:#}");
            for word in ["here/a.json"].iter().chain(words) {
                assert!(error.contains(word), "{word:?} is not in {error}");
            }
        };
        check("7", &["event 1", "not an object"]);
        check(r#"{"kind": "type", "text": "y"}"#, &["event 1", "pause_ms"]);
        check(r#"{"pause_ms": -1, "kind": "type", "text": "y"}"#, &["event 1", "pause_ms"]);
        check(r#"{"pause_ms": 1, "kind": "sing"}"#, &["event 1", "sing", "newline"]);
        check(r#"{"pause_ms": 1, "kind": "type", "text": "yy"}"#, &["event 1", "yy"]);
        check(r#"{"pause_ms": 1, "kind": "delete", "count": 1}"#, &["event 1", "count"]);
        check(r#"{"pause_ms": 1, "kind": "delete", "before": 9}"#, &["event 1", "9 characters before"]);
        check(r#"{"pause_ms": 1, "kind": "delete", "after": 9}"#, &["event 1", "9 characters after"]);
        check(r#"{"pause_ms": 1, "kind": "over", "text": ")"}"#, &["event 1", "')'"]);
        check(r#"{"pause_ms": 1, "kind": "undo", "edits": 2}"#, &["event 1", "only 1"]);
        check(r#"{"pause_ms": 1, "kind": "jump", "to": [5, 0]}"#, &["event 1", "no line 5"]);
        check(r#"{"pause_ms": 1, "kind": "jump", "to": [0, 5]}"#, &["event 1", "no column 5"]);
        check(
            r#"{"pause_ms": 1, "kind": "edit", "at": [0, 0], "remove": 3}"#,
            &["event 1", "cursor is inside"],
        );
        check(r#"{"pause_ms": 1, "kind": "type", "text": "z"}"#, &["line 1 differs"]);
        let error = format!("{:#}", session("x", [3, 0], "", "x").unwrap_err());
        assert!(error.contains("cursor") && error.contains("no line 3"), "{error}");
        let error = format!("{:#}", Session::parse("b.json", "{").unwrap_err());
        assert!(error.contains("b.json") && error.contains("line 1"), "{error}");
    }
}
