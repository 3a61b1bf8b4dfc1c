#!/usr/bin/env python3
"""Measure how well a model fills holes in code through fimd, by order of the prompt.

    cargo build --release
    python3 scripts/eval_infilling FOLDER --model FILE        # HumanEval infilling and SAFIM, as .jsonl or .jsonl.gz
    python3 scripts/eval_infilling --files src --model FILE   # holes cut from source files
    python3 scripts/eval_infilling FOLDER --truth             # the reference answers: what is missing to 100 % is ours

One daemon holds the model and answers `fimd complete`, with the rules by which completions stop and are trimmed. An
answer is exact if it is the reference but for whitespace. Where a benchmark has tests, the completed Python or C++
program is run, with no network, and passes or not; other languages are judged by exactness alone. The last table
says what the setting `logprob_min`, by which unlikely completions are not shown unasked, would leave: of what is
shown, how much is right (precision), and of what is right, how much is shown (recall).
"""

import argparse
import random
import statistics
import sys
import tempfile
from collections import Counter
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent.parent))

import sandbox
from cases import HOLE, cases, holes
from harness import BINARY, Daemon, position, table

ORDERS = ["psm", "spm", "psm-anchored"]
THRESHOLDS = [None, -2.1, -1.5, -1.2, -1.0, -0.8, -0.6, -0.5, -0.4, -0.3, -0.2, -0.1]
TOKENS_SINGLE, TOKENS_MULTI = 64, 160


def main():
    args = parse()
    rng = random.Random(args.seed)
    chosen = [case for path in args.paths for case in cases(path, args.limit, rng)]
    chosen += [case for folder in args.files for case in holes(folder, args.limit or 50, rng)]
    orders = ["reference"] if args.truth else args.order.split(",")
    results = [judge(args, case, order, *answer) for case, order, answer in answers(args, chosen, orders)]
    print(rates(results, orders))
    for reason, count in Counter(result["not_run"] for result in results if result["not_run"]).items():
        print(f"\nTests of {count} answers were not run: {reason}.")
    if not args.truth:
        print(f"\n{thresholds(results, orders)}")


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", type=Path, nargs="*", metavar="PATH", help="a file of a benchmark, or a folder of them")
    parser.add_argument("--files", type=Path, action="append", default=[], metavar="DIR", help="cut holes from these")
    parser.add_argument("--fimd", type=Path, default=BINARY)
    parser.add_argument("--model", type=Path, help="checkpoint; the starter model without it")
    parser.add_argument("--order", default=",".join(ORDERS), help="as for `fimd complete` [default: %(default)s]")
    parser.add_argument("--limit", type=int, help="most holes of each benchmark, drawn at random")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--no-tests", action="store_true", help="run no program, compare with the reference alone")
    parser.add_argument("--truth", action="store_true", help="judge the reference answers instead of a model's")
    args = parser.parse_args()
    if not args.paths and not args.files:
        parser.error("name a benchmark, or source files with --files")
    return args


def answers(args, chosen, orders):
    """Each case with each order and what came: a text and its mean log-probability."""
    if args.truth:
        yield from ((case, "reference", (case.expected, 0.0)) for case in chosen)
        return
    flags = [*(["--model", args.model] if args.model else []), *(["--threads", args.threads] if args.threads else [])]
    with Daemon(args.fimd, *flags) as daemon, tempfile.TemporaryDirectory() as folder:
        for number, case in enumerate(chosen):
            if number % 25 == 0:
                print(f"{number} of {len(chosen)}", file=sys.stderr)
            for order in orders:
                yield case, order, ask(daemon, Path(folder), case, order)


def ask(daemon, folder, case, order):
    file = folder / f"document{case.ending}"
    file.write_bytes((case.before + case.after).encode())
    line, column = position(case.before)
    lines = ["--max-tokens", TOKENS_SINGLE] if case.is_single else ["--max-tokens", TOKENS_MULTI, "--multiline"]
    answer = daemon.json("complete", f"{file}:{line + 1}:{column + 1}", "--fim-order", order, *lines)
    return answer["text"], answer["mean_logprob"]


def judge(args, case, order, text, logprob):
    is_exact = text.split() == case.expected.split()
    passed, not_run = None, None
    if case.runs:
        not_run = "--no-tests" if args.no_tests else sandbox.missing(case.ending)
        if not not_run:
            program = case.program.replace(HOLE, text)
            runs = tuple((given, wanted and tuple(wanted)) for given, wanted in case.runs)
            passed = sandbox.passes(case.ending, program, runs)
    is_right = is_exact if passed is None else passed
    return {"benchmark": case.benchmark, "order": order, "is_offered": bool(text), "is_exact": is_exact,
            "passed": passed, "is_right": is_right, "logprob": logprob, "not_run": not_run}


def rates(results, orders):
    rows = []
    for benchmark in dict.fromkeys(result["benchmark"] for result in results):
        for order in orders:
            some = [result for result in results if (result["benchmark"], result["order"]) == (benchmark, order)]
            tested = [result for result in some if result["passed"] is not None]
            right, wrong = ([result["logprob"] for result in some
                             if result["is_offered"] and result["is_right"] == is_right] for is_right in (True, False))
            rows.append([benchmark, order, len(some), share(count(some, "is_offered"), len(some)),
                         share(count(some, "is_exact"), len(some)),
                         f"{share(count(tested, 'passed'), len(tested))} of {len(tested)}" if tested else "-",
                         mean(right), mean(wrong)])
    return table(["benchmark", "order", "holes", "offered", "exact", "pass", "mean logprob where right", "where wrong"],
                 rows)


def thresholds(results, orders):
    rows = []
    for least in THRESHOLDS:
        row = ["none" if least is None else str(least)]
        for order in orders:
            offered = [result for result in results if result["order"] == order and result["is_offered"]]
            shown = [result for result in offered if least is None or result["logprob"] >= least]
            right = count(shown, "is_right")
            row += [share(len(shown), len(offered)), share(right, len(shown)),
                    share(right, count(offered, "is_right"))]
        rows.append(row)
    head = [f"{order}: {what}" for order in orders for what in ["shown", "precision", "recall"]]
    return table(["logprob_min", *head], rows)


def count(results, key):
    return sum(bool(result[key]) for result in results)


def share(part, whole):
    return f"{100 * part / whole:.0f} %" if whole else "-"


def mean(values):
    return f"{statistics.mean(values):.2f}" if values else "-"


if __name__ == "__main__":
    main()
