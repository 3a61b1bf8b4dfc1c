#!/usr/bin/env python3
"""Load what `fimd quantize` writes in llama.cpp, compare the log-probabilities, print a Markdown table.

    cargo build --release
    scripts/check_llama_cpp.py                      # the starter model, all types
    scripts/check_llama_cpp.py --model DIR --mixes q4_k_m,mxfp4 --prompts 100

For each mix the model is quantised and both programs read the same file and the same prompts: beginnings of source
files of this repository. The measure is `fimd score --exact`, which computes with the stored weights in float32. An
error is the distance from it in the log-probability of the token that really comes next, in nats: of llama.cpp, of
fimd with its fast kernels. The column "quantised" is another thing: how far the measure itself is from that of the
unquantised model. Which rounding makes a router choose another expert is chance, so the last column says how certain
the difference is: fimd's mean less llama.cpp's, over the prompts, and twice its standard error. Every file must also
continue a prompt in llama.cpp; the continuations are printed below the table.

llama.cpp comes from the package index, into the cache folder.
"""

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

from harness import BINARY, CACHE, ROOT, Fimd, table
from packages import Unavailable
from peers import llama

MIXES = ("f32,bf16,f16,q8_0,q6_k,q5_k,q5_0,q5_1,q4_k_m,q4_k,q4_0,q4_1,iq4_nl,iq4_xs,mxfp4,"
         "q3_k_m,q3_k,iq3_m,iq3_s,q2_k,iq2_m,iq2_s")
PROMPT = "def read_lines(path):\n    with open(path) as f:\n        return "
SOURCES = ("src/**/*.rs", "tests/it/*.rs", "editors/**/*.lua", "editors/vscode/src/*.ts", "scripts/**/*.py")
# A token that is less likely than that many others is left out, for both programs.
LIKELIEST = 1000


def main():
    args = parse()
    try:
        python = llama.install(CACHE / "real_model")
    except Unavailable as error:
        sys.exit(f"llama.cpp cannot be prepared: {error}")
    lengths = [round(args.tokens * (i + 1) / args.positions) for i in range(args.positions)]
    rows, continuations, prompts, originals = [], [], None, None
    with Fimd(args.fimd) as fimd, tempfile.TemporaryDirectory() as folder:
        def logprobs(model, *options):
            """Of the token after each length of each prompt."""
            scored = [fimd.json("score", "--model", model, "--ids", ",".join(map(str, ids)), "--logprobs",
                                "--threads", args.threads, *options)["logprobs"] for ids in prompts]
            return [[scores[length - 1] for length in lengths] for scores in scored]

        for mix in args.mixes.split(","):
            file = Path(folder) / f"{mix}.gguf"
            fimd.run("quantize", args.model, file, "--mix", mix, "--threads", args.threads)
            with llama.Llama(python, file, args.threads, OMP_WAIT_POLICY="passive") as server:
                if prompts is None:
                    prompts = tokenised(server, args.prompts, args.tokens + 1)
                    originals = logprobs(args.model, "--exact")
                theirs = [[asked(server, ids, length) for length in lengths] for ids in prompts]
                answer = server.greedy(PROMPT, 24)
                continuations.append((mix, answer["content"]))
            exact, ours = logprobs(file, "--exact"), logprobs(file)
            rows.append([mix, f"{file.stat().st_size / 2**20:.1f}", shown(errors(exact, originals, theirs)),
                         *compared(errors(theirs, exact, theirs), errors(ours, exact, theirs))])
            print(f"{mix} done", file=sys.stderr)
            file.unlink()
    print(table(["mix", "MiB", "quantised", "llama.cpp", "fimd", "ratio", "difference"], rows))
    print(f"\nErrors at {len(prompts) * args.positions} places of {len(prompts)} prompts: mean of the magnitudes / "
          "greatest.\n")
    for mix, text in continuations:
        print(f"- {mix}: {text!r}")


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=ROOT / "src/starter", help="what to quantise")
    parser.add_argument("--mixes", default=MIXES, help="values of --mix [default: %(default)s]")
    parser.add_argument("--prompts", type=int, default=24, help="how many, of a file each [default: %(default)s]")
    parser.add_argument("--tokens", type=int, default=256, help="of each prompt [default: %(default)s]")
    parser.add_argument("--positions", type=int, default=8, help="places in each prompt [default: %(default)s]")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--fimd", type=Path, default=BINARY, help="the program [default: %(default)s]")
    return parser.parse_args()


def tokenised(server, count, tokens):
    """The beginnings of files that are evenly spread over those that are long enough."""
    files = sorted({file for pattern in SOURCES for file in ROOT.glob(pattern)})
    files = [file for file in files if file.stat().st_size > 8 * tokens and "data" not in file.parts]
    if len(files) < count:
        sys.exit(f"there are {len(files)} files, which are fewer than --prompts {count}")
    chosen = [files[i * len(files) // count] for i in range(count)]
    texts = [server.ask("/tokenize", content=file.read_text(), add_special=False)["tokens"] for file in chosen]
    return [ids[:tokens] for ids in texts]


def asked(server, ids, length):
    """What llama.cpp says of the token after the first ones; nothing where it is not among the likeliest."""
    step = server.greedy(ids[:length], 1, n_probs=LIKELIEST)["completion_probabilities"][0]
    return next((top["logprob"] for top in step["top_logprobs"] if top["id"] == ids[length]), None)


def errors(found, measure, told):
    """Distances by prompt, at the places that llama.cpp told something of."""
    return [[abs(a - b) for a, b, there in zip(*prompt) if there is not None]
            for prompt in zip(found, measure, told)]


def shown(by_prompt):
    every = [error for prompt in by_prompt for error in prompt]
    return f"{statistics.fmean(every):.5f} / {max(every):.4f}"


def compared(theirs, ours):
    differences = [statistics.fmean(our) - statistics.fmean(their) for our, their in zip(ours, theirs) if our]
    spread = 2 * statistics.stdev(differences) / len(differences) ** 0.5
    mean = statistics.fmean([statistics.fmean(their) for their in theirs if their])
    difference = statistics.fmean(differences)
    ratio = f"{(mean + difference) / mean:.2f}" if mean else "-"
    return [shown(theirs), shown(ours), ratio, f"{difference:+.5f} ± {spread:.5f}"]


if __name__ == "__main__":
    main()
