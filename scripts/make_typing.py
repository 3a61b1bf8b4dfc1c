#!/usr/bin/env python3
"""Makes tests/data/typing/*.json from scripts/typing/*.txt.

A script is a head (path, language, seed), a document, and what somebody does to it:

    @at TEXT            put the cursor behind the only such text; the first one is where it stands at the start
    @type TEXT          type it, closers and indentation as an editor gives them
    @accept TEXT        accept it as ghost text
    @edit OLD => NEW    change the only such text elsewhere
    @undo               undo the last @type or @accept

A text begins on the line of its command, or on the next one, and ends before the next command. Typing gets the
pauses and the errors of a person from a generator of fixed seed: equal scripts make equal files.
"""

import json
import math
import random
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CLOSERS = {"(": ")", "[": "]", "{": "}", '"': '"'}
COMMENTS = {"python": "#", "rust": "//", "typescript": "//", "go": "//", "c": "/*", "lua": "--"}
ROWS = ["qwertyuiop", "asdfghjkl", "zxcvbnm"]
# Median pause in milliseconds before a key, and how widely pauses spread (log-normal).
PAUSES = {
    "letter": (125, 0.40),
    "word": (190, 0.50),
    "symbol": (240, 0.50),
    "line": (520, 0.70),
    "notice": (420, 0.40),
    "erase": (110, 0.25),
    "think": (1400, 0.50),
    "accept": (650, 0.40),
}
TYPO = 0.035


class Typing:
    def __init__(self, text, language, seed):
        self.text, self.cursor = text, None
        self.comment = COMMENTS[language]
        self.random = random.Random(seed)
        self.events, self.done, self.pending = [], [], []
        self.block = 0

    def pause(self, kind):
        median, spread = PAUSES[kind]
        return round(min(max(median * math.exp(self.random.gauss(0, spread)), 25), 6000))

    def event(self, pause, kind, **fields):
        self.events.append({"pause_ms": self.pause(pause), "kind": kind, **fields})

    def replace(self, start, end, text, cursor):
        self.done.append((start, self.text[start:end], len(text), self.cursor))
        self.text = self.text[:start] + text + self.text[end:]
        self.cursor = cursor

    def place(self, offset):
        line_start = self.text.rfind("\n", 0, offset) + 1
        return [self.text.count("\n", 0, offset), offset - line_start]

    def find(self, text):
        if self.text.count(text) != 1:
            sys.exit(f"{text!r} occurs {self.text.count(text)} times")
        return self.text.index(text)

    def line(self):
        return self.text[self.text.rfind("\n", 0, self.cursor) + 1 : self.cursor]

    def jump(self, offset):
        self.pending.clear()
        if self.cursor is not None:
            self.event("think", "jump", to=self.place(offset))
        self.cursor = offset

    def type(self, text):
        self.block = len(self.done)
        i = 0
        while i < len(text):
            if text[i] == "\n":
                i += self.newline(text, i)
            else:
                if text[i].isalpha() and self.random.random() < TYPO:
                    self.typo(text, i)
                self.key(text, i)
                i += 1

    def newline(self, text, i):
        indent = re.match(r"[ \t]*", text[i + 1 :]).group()
        closer = self.pending[-1] if self.pending else None
        # The closer that the editor put on a line of its own.
        if closer and self.text[self.cursor :].startswith(f"\n{indent}{closer}") and text[i + 1 + len(indent) :][:1] == closer:
            self.event("symbol", "jump", to=self.place(self.cursor + 1 + len(indent) + 1))
            self.cursor += 1 + len(indent) + 1
            self.pending.pop()
            return 2 + len(indent)
        fields, below = {"indent": indent}, ""
        if closer and closer != '"' and self.text[self.cursor :].startswith(closer) and self.line()[-1:] in "([{":
            line = self.line()
            fields["below"] = line[: len(line) - len(line.lstrip())]
            below = "\n" + fields["below"]
        self.event("line", "newline", **fields)
        self.replace(self.cursor, self.cursor, f"\n{indent}{below}", self.cursor + 1 + len(indent))
        return 1 + len(indent)

    def key(self, text, i):
        key, next_ = text[i], self.text[self.cursor : self.cursor + 1]
        line = self.line()
        in_string = line.count('"') % 2 == 1
        before = text[i - 1] if i > 0 else " "
        pause = "symbol" if not (key.isalnum() or key in "_ ") else "letter" if before.isalnum() else "word"
        if self.pending and key == self.pending[-1] == next_:
            self.event(pause, "over", text=key)
            self.replace(self.cursor, self.cursor + 1, key, self.cursor + 1)
            self.pending.pop()
            return
        fields, closer = {"text": key}, ""
        if key in CLOSERS and not in_string and self.comment not in line and (next_ == "" or next_ in ")]};, \n"):
            closer = fields["closes"] = CLOSERS[key]
            self.pending.append(closer)
        self.event(pause, "type", **fields)
        self.replace(self.cursor, self.cursor, key + closer, self.cursor + 1)

    def typo(self, text, i):
        """A wrong key, perhaps some right ones, and all of them erased."""
        row = next(row for row in ROWS if text[i].lower() in row)
        at = row.index(text[i].lower()) + self.random.choice([-1, 1])
        wrong = row[min(max(at, 0), len(row) - 1)]
        wrong = wrong if wrong != text[i] else row[max(at - 2, 0)]
        rest = re.match(r"\w*", text[i + 1 :]).group()[: self.random.choice([0, 0, 1, 2])]
        for key in wrong + rest:
            self.event("letter", "type", text=key)
            self.replace(self.cursor, self.cursor, key, self.cursor + 1)
        for n in range(1 + len(rest)):
            self.event("erase" if n else "notice", "delete")
            self.replace(self.cursor - 1, self.cursor, "", self.cursor - 1)

    def accept(self, text):
        self.block = len(self.done)
        self.event("accept", "accept", text=text)
        self.replace(self.cursor, self.cursor, text, self.cursor + len(text))

    def edit(self, old, new):
        # Only what differs changes.
        start = self.find(old)
        same = 0
        while same < min(len(old), len(new)) and old[same] == new[same]:
            same += 1
        start, old, new = start + same, old[same:], new[same:]
        self.event("think", "edit", at=self.place(start), remove=len(old), text=new)
        cursor = self.cursor + (len(new) - len(old) if start + len(old) <= self.cursor else 0)
        self.replace(start, start + len(old), new, cursor)

    def undo(self):
        edits = len(self.done) - self.block
        self.event("think", "undo", edits=edits)
        for _ in range(edits):
            start, removed, inserted, cursor = self.done.pop()
            self.text = self.text[:start] + removed + self.text[start + inserted :]
            self.cursor = cursor
        self.pending.clear()


def make(path):
    head, text, actions = path.read_text().split("====\n")
    head = dict(line.split(": ", 1) for line in head.splitlines())
    typing = Typing(text, head["language"], int(head["seed"]))
    start = None
    for action in re.split(r"^@", actions, flags=re.M)[1:]:
        command = re.match(r"\w+", action).group()
        # The space or line end after the command, and the line end before the next one, are no part of the text.
        body = action[len(command) + 1 :].removesuffix("\n")
        if command == "at":
            typing.jump(typing.find(body) + len(body))
            start = start or typing.place(typing.cursor)
        elif command == "edit":
            typing.edit(*body.split(" => ", 1))
        elif command == "undo":
            typing.undo()
        else:
            {"type": typing.type, "accept": typing.accept}[command](body)
    dump = lambda value: json.dumps(value, ensure_ascii=False)
    lines = lambda text: ",\n".join("    " + dump(line) for line in text.split("\n"))
    events = ",\n".join("    " + dump(event) for event in typing.events)
    return (
        f'{{\n  "path": {dump(head["path"])},\n  "language": {dump(head["language"])},\n  "text": [\n{lines(text)}\n  ],\n'
        f'  "cursor": {start},\n  "events": [\n{events}\n  ],\n  "end": [\n{lines(typing.text)}\n  ]\n}}\n'
    )


def main():
    for script in sorted((ROOT / "scripts/typing").glob("*.txt")):
        (ROOT / "tests/data/typing" / f"{script.stem}.json").write_text(make(script))


if __name__ == "__main__":
    main()
