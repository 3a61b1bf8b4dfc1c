"""How fast it is: keystrokes, and reading and writing beside llama.cpp."""

import os
import statistics

from harness import table
from peers import llama
from report import Finding

ORDER = "psm-anchored"
# Tokens that nine keystrokes in ten need at most.
EVALUATED = 2
PREFILL = [64, 512]
DECODE = 32
# The share of llama.cpp's speed that is enough: what a busy machine makes of equal ones.
SPEED = 0.95
# Load of the machine from which on it is not a fair comparison.
BUSY = 0.5


def keystrokes(setup):
    """fimd bench keystrokes at the pace of a typist, in the order psm-anchored"""
    options = ["--model", setup.model, "--threads", setup.threads, "--order", ORDER]
    if setup.events:
        options += ["--events", setup.events]
    report = setup.fimd.json("bench", "keystrokes", *options)
    run = report["runs"][0]["summary"]
    measures = ["prompt_tokens", "evaluated", "replayed", "first_token_ms", "answer_ms", "line_ms"]
    rows = [[name.replace("_", " "), *(f"{run[name][part]:.0f}" for part in ["p50", "p90", "p99", "max"])]
            for name in measures]
    print(f"{run['requests']} requests in the sessions {', '.join(report['sessions'])}\n")
    print(table(["per keystroke", "p50", "p90", "p99", "max"], rows))
    evaluated = run["evaluated"]["p90"]
    return [Finding("keystrokes", "requests answered", f"{run['answered']} of {run['requests']}", "all",
                    run["unanswered"] == 0),
            Finding("keystrokes", "evaluated tokens, p90", f"{evaluated:.0f}", f"at most {EVALUATED}",
                    evaluated <= EVALUATED)]


def speed(setup):
    """Tokens in a second, fimd and llama.cpp in turn"""
    load = os.getloadavg()[0]
    ours, theirs = [], []
    for _ in range(setup.runs):
        ours.append(run_fimd(setup))
        measured, system = llama.speeds(setup.llama_python(), setup.model, setup.threads, PREFILL, DECODE)
        theirs.append(measured)
    rows, found = [], []
    for test in ours[0]:
        mine, other = ([run[test] for run in runs] for runs in [ours, theirs])
        ratio = statistics.median(mine) / statistics.median(other)
        rows.append([test, spread(mine), spread(other), f"{ratio:.2f}"])
        found.append(Finding("speed", test, f"{statistics.median(mine):.1f} / {statistics.median(other):.1f}",
                             f"ratio at least {SPEED}", ratio >= SPEED))
    print(f"{setup.threads} threads; medians of {setup.runs} runs in turn (range); llama.cpp: {system}\n")
    if load > BUSY:
        print(f"The machine was busy before (load {load:.1f}), which llama.cpp, whose threads wait for each other "
              "spinning, pays for more dearly: these numbers say little.\n")
    print(table(["tokens/s", "fimd", "llama.cpp", "ratio"], rows))
    return found


def run_fimd(setup):
    lengths = ",".join(map(str, PREFILL))
    report = setup.fimd.json("bench", "speed", "--model", setup.model, "--threads", setup.threads, "--prompt", lengths,
                             "--generate", DECODE, "--runs", 1)
    speeds = {f"prefill of {part['tokens']}": part["tokens_per_s"]["median"] for part in report["prefill"]}
    return {**speeds, f"decode of {DECODE}": report["decode"]["tokens_per_s"]["median"]}


def spread(values):
    return f"{statistics.median(values):.1f} ({min(values):.1f} to {max(values):.1f})"
