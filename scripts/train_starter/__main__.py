#!/usr/bin/env python3
"""Train the starter model: a miniature Qwen3-Next for code completion.

    pip install -r scripts/requirements-train.txt
    python scripts/train_starter fetch        # permissive source from PyPI, crates.io and npm
    python scripts/train_starter data         # filter, deduplicate, split, write the manifest
    python scripts/train_starter tokenizer    # byte-level BPE with Qwen's pre-tokenizer
    python scripts/train_starter pack         # fill-in-the-middle documents, packed windows
    python scripts/train_starter check        # this model against transformers (needs transformers)
    python scripts/train_starter train        # about 100 minutes of wall clock
    python scripts/train_starter export       # FP8 checkpoint into src/starter
    python scripts/train_starter eval         # bits per byte against xz, FIM exact match
    python scripts/train_starter credits      # the packages by licence, for the model card

Everything but the export lies in the work folder, target/starter unless --work says otherwise.
"""

import argparse
import os
import sysconfig
from pathlib import Path

from check import check
from checkpoint import export
from credits import credits
from data import data
from evaluate import evaluate
from fetch import fetch
from pack import pack
from paths import REPO
from train import train
from vocabulary import tokenizer


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=REPO / "target/starter", help="data and checkpoints")
    commands = parser.add_subparsers(required=True)

    def command(function, name=None):
        sub = commands.add_parser(name or function.__name__, help=function.__doc__, description=function.__doc__)
        sub.set_defaults(run=function)
        return sub

    command(fetch)
    sub = command(data)
    sub.add_argument("--stdlib", type=Path, default=Path(sysconfig.get_path("stdlib")))
    sub.add_argument("--site-packages", type=Path, default=Path(sysconfig.get_path("purelib")))
    sub.add_argument("--cargo-home", type=Path, default=Path(os.environ.get("CARGO_HOME", Path.home() / ".cargo")))
    sub.add_argument("--rust-src", type=Path, nargs="*", default=[], help="the library folder of rust-src")
    command(tokenizer)
    command(pack)
    command(check)
    sub = command(train)
    sub.add_argument("--hours", type=float, default=1.6, help="wall-clock budget")
    sub.add_argument("--steps", type=int, default=0, help="stop early after so many steps")
    sub.add_argument("--batch", type=int, default=8192, help="tokens per step")
    sub.add_argument("--workers", type=int, default=os.cpu_count(), help="single-threaded processes")
    sub.add_argument("--final-from", type=float, default=0.78, help="share of the budget before the last phase")
    sub.add_argument("--eager", action="store_true", help="without torch.compile")
    sub.add_argument("--resume", action="store_true", help="continue from the last checkpoint")
    sub = command(export)
    sub.add_argument("--out", type=Path, default=REPO / "src/starter")
    sub = command(evaluate, "eval")
    sub.add_argument("--model", type=Path, default=REPO / "src/starter", help="an exported folder")
    sub.add_argument("--files", type=int, default=0, help="only so many held-out files")
    sub.add_argument("--cursors", type=int, default=3, help="fill-in-the-middle questions per file")
    command(credits)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    args.run(args)


if __name__ == "__main__":
    main()
