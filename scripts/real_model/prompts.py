"""Fifty prompts: holes in the files of this repository, their beginnings, and questions."""

import random

from harness import ROOT

FILES = ["src/text/**/*.rs", "src/decode/**/*.rs", "src/complete/*.rs", "scripts/*.py", "editors/**/*.lua",
         "editors/vscode/src/*.ts"]
HOLES, BEGINNINGS = 20, 15
LINES_BEFORE, LINES_AFTER = 20, 10
QUESTIONS = """
Write a Python function that returns the n-th Fibonacci number.
What is the difference between a process and a thread?
Reverse a singly linked list in C.
Explain in two sentences what a hash table is.
Write a regular expression that matches an IPv4 address.
How do I read a file line by line in Rust?
Write an SQL query that finds the three customers with the most orders.
What does `git rebase -i` do?
Convert this to a list comprehension: result = []; for x in xs: if x > 0: result.append(x * x)
Why is `0.1 + 0.2 == 0.3` false in most languages?
Write a JavaScript function that debounces another function.
What is the time complexity of binary search, and why?
Write a Go function that merges two sorted slices.
Name three ways to avoid a deadlock.
Write a shell command that counts the lines of all .rs files below the current folder.
""".strip().splitlines()


def prompts(seed=1):
    """Pairs of a kind and a text with special tokens written out."""
    rng = random.Random(seed)
    files = sorted(path for pattern in FILES for path in ROOT.glob(pattern))
    return [*(("FIM", hole(rng, files)) for _ in range(HOLES)),
            *(("code", beginning(rng, files)) for _ in range(BEGINNINGS)),
            *(("chat", chat(question)) for question in QUESTIONS)]


def line_of_code(rng, files):
    """The lines of a file, and the number of one that says something, from 0."""
    while True:
        lines = rng.choice(files).read_text().split("\n")
        at = rng.randrange(len(lines))
        if len(lines[at].strip()) > 8:
            return lines, at


def hole(rng, files):
    """A line's second half is missing."""
    lines, at = line_of_code(rng, files)
    line = lines[at]
    column = rng.randrange(len(line) - len(line.lstrip()), len(line))
    before = "\n".join([*lines[max(0, at - LINES_BEFORE):at], line[:column]])
    after = "\n".join(["", *lines[at + 1:at + 1 + LINES_AFTER]])
    return f"<|fim_prefix|>{before}<|fim_suffix|>{after}<|fim_middle|>"


def beginning(rng, files):
    lines, at = line_of_code(rng, files)
    return "\n".join([*lines[max(0, at - LINES_BEFORE):at], ""]).lstrip("\n") or lines[at] + "\n"


def chat(question):
    turns = [("system", "You are a helpful assistant."), ("user", question)]
    said = "".join(f"<|im_start|>{role}\n{text}<|im_end|>\n" for role, text in turns)
    return f"{said}<|im_start|>assistant\n"
