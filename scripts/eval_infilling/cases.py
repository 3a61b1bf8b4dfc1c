"""Holes to fill: of HumanEval infilling, of SAFIM, and cut from files."""

import gzip
import json
import random
from dataclasses import dataclass, field
from pathlib import Path

LINES_BEFORE, LINES_AFTER = 80, 40
ENDINGS = {"python": ".py", "java": ".java", "cpp": ".cpp", "csharp": ".cs"}
# What SAFIM shows in the place of the hole.
MARKS = ["# TODO: Your code here", "/* TODO: Your code here */", "// TODO: Your code here"]
HOLE = "{{completion}}"
# Benchmarks whose answers are a line or less.
SINGLE = ["SingleLine", "api", "control", "rest of a line"]
SOURCES = {".py", ".rs", ".go", ".c", ".h", ".cpp", ".java", ".ts", ".js", ".lua"}


@dataclass
class Case:
    benchmark: str
    ending: str
    before: str
    after: str
    expected: str
    # The program that shows whether an answer is right, with the answer for HOLE; and what it reads and prints.
    program: str | None = None
    runs: list = field(default_factory=list)

    @property
    def is_single(self):
        return any(name in self.benchmark for name in SINGLE)


def cases(path, limit, rng):
    """Of a file in the format of HumanEval infilling or SAFIM, or of all such files in a folder."""
    files = sorted(path.glob("*.jsonl*")) if path.is_dir() else [path]
    return [case for file in files for case in sample(read(file), limit, rng)]


def read(file):
    opened = gzip.open(file, "rt") if file.suffix == ".gz" else file.open()
    with opened:
        records = [json.loads(line) for line in opened]
    name = file.name.split(".")[0]
    return [human_eval(name, record) if "canonical_solution" in record else safim(name, record)
            for record in records]


def human_eval(name, record):
    before, after, expected = record["prompt"], record["suffix"], record["canonical_solution"]
    if before.endswith("\n") and expected.endswith("\n"):
        # In an editor, whole lines are written on an empty line.
        after, expected = "\n" + after, expected.removesuffix("\n")
    program = f"{before}{HOLE}{after}{record['test']}\ncheck({record['entry_point']})\n"
    return Case(name, ".py", before, after, expected, program, [("", None)])


def safim(name, record):
    mark = next(mark for mark in MARKS if mark in record["prompt"])
    before, after = record["prompt"].split(mark)
    runs = [(run["input"], run["output"]) for run in record["unit_tests"]]
    return Case(name, ENDINGS[record["lang"]], before, after, record["ground_truth"], record["eval_prompt"], runs)


def holes(folder, limit, rng):
    """Cut from the files below a folder: the rest of a line, and some whole lines."""
    files = sorted(path for path in folder.rglob("*") if path.suffix in SOURCES and path.is_file())
    cut = [rest_of_line, whole_lines]
    return [make(*line(files, rng), rng) for make in cut for _ in range(limit)]


def line(files, rng):
    """A file's ending, its lines, and the number of one with code, from 0."""
    while True:
        path = rng.choice(files)
        try:
            lines = path.read_text().split("\n")
        except UnicodeDecodeError:
            continue
        at = rng.randrange(len(lines))
        code = lines[at].strip()
        if code and not code.startswith(("#", "/", "*", "--", '"')):
            return path.suffix, lines, at


def rest_of_line(ending, lines, at, rng):
    text = lines[at]
    column = rng.randrange(len(text) - len(text.lstrip()), len(text))
    before = "\n".join([*lines[max(0, at - LINES_BEFORE):at], text[:column]])
    after = "\n".join(["", *lines[at + 1:at + 1 + LINES_AFTER]])
    return Case("files, rest of a line", ending, before, after, text[column:])


def whole_lines(ending, lines, at, rng):
    end = min(at + rng.randint(1, 4), len(lines))
    before = "\n".join([*lines[max(0, at - LINES_BEFORE):at], ""])
    after = "\n".join(["", *lines[end:end + LINES_AFTER]])
    return Case("files, 1 to 4 lines", ending, before, after, "\n".join(lines[at:end]))


def sample(cases, limit, rng):
    return cases if limit is None or limit >= len(cases) else rng.sample(cases, limit)
