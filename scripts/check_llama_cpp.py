#!/usr/bin/env python3
"""Load what `fimd quantize` writes in llama.cpp, compare the log-probabilities, print a Markdown table.

    cargo build --release
    pip install llama-cpp-python numpy
    scripts/check_llama_cpp.py                      # the starter model, all types
    scripts/check_llama_cpp.py --model DIR --mixes q4_k_m,mxfp4 --text FILE

For each mix the model is quantised and both programs read the same file and the same tokens. The measure is
`fimd score --exact`, which computes with the stored weights in float32. An error is the distance from it in
the log-probability of the token that really comes next, in nats: of llama.cpp, of fimd with its fast kernels.
The column "quantised" is another thing: how far the measure itself is from that of the unquantised model. Every
file must also continue a prompt in llama.cpp; the continuations are printed below the table.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy
from llama_cpp import Llama

ROOT = Path(__file__).resolve().parent.parent
MIXES = ("f32,bf16,f16,q8_0,q6_k,q5_k,q5_0,q5_1,q4_k_m,q4_k,q4_0,q4_1,iq4_nl,iq4_xs,mxfp4,"
         "q3_k_m,q3_k,iq3_m,iq3_s,q2_k,iq2_m,iq2_s")
PROMPT = "def read_lines(path):\n    with open(path) as f:\n        return "


def main():
    args = parse()
    text = args.text.read_bytes()
    rows, continuations = [], []
    with tempfile.TemporaryDirectory() as folder:
        original = None
        for mix in args.mixes.split(","):
            file = Path(folder) / f"{mix}.gguf"
            run(args, "quantize", args.model, file, "--mix", mix)
            llama = Llama(str(file), n_ctx=args.tokens, n_batch=args.tokens, n_threads=args.threads,
                          logits_all=True, verbose=False)
            ids = llama.tokenize(text, add_bos=False, special=False)[:args.tokens]
            if original is None:
                original = fimd_logprobs(args, args.model, ids, "--exact")
            exact = fimd_logprobs(args, file, ids, "--exact")
            fast = fimd_logprobs(args, file, ids)
            other = llama_logprobs(llama, ids)
            rows.append([mix, f"{file.stat().st_size / 2**20:.1f}", errors(exact, original),
                         errors(other, exact), errors(fast, exact)])
            continuations.append((mix, continuation(llama)))
            print(f"{mix} done", file=sys.stderr)
            del llama
            file.unlink()
    print(table(["mix", "MiB", "quantised", "llama.cpp", "fimd"], rows))
    print(f"\nErrors over {len(ids) - 1} tokens: mean of the magnitudes / greatest.\n")
    for mix, text in continuations:
        print(f"- {mix}: {text!r}")


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=ROOT / "src/starter", help="what to quantise")
    parser.add_argument("--mixes", default=MIXES, help="values of --mix [default: %(default)s]")
    parser.add_argument("--text", type=Path, default=ROOT / "src/decode/stop.rs", help="a UTF-8 file")
    parser.add_argument("--tokens", type=int, default=1024, help="of the text's beginning [default: %(default)s]")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--binary", type=Path, default=ROOT / "target/release/fimd", help="fimd")
    return parser.parse_args()


def run(args, *command):
    command = [args.binary, *command, "--threads", str(args.threads)]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{command} failed: {done.stderr}")
    return done.stdout


def fimd_logprobs(args, model, ids, *options):
    ids = ",".join(map(str, ids))
    output = run(args, "score", "--model", model, "--ids", ids, "--json", "--logprobs", *options)
    return numpy.array(json.loads(output)["logprobs"])


def llama_logprobs(llama, ids):
    llama.reset()
    llama.eval(ids)
    logits = numpy.array(llama.scores[:len(ids)], dtype=numpy.float64)
    logits -= logits.max(axis=1, keepdims=True)
    logprobs = logits - numpy.log(numpy.exp(logits).sum(axis=1, keepdims=True))
    return logprobs[numpy.arange(len(ids) - 1), ids[1:]]


def continuation(llama):
    llama.reset()
    return llama.create_completion(PROMPT, max_tokens=24, temperature=0)["choices"][0]["text"]


def errors(found, measure):
    distance = numpy.abs(found - measure)
    return f"{distance.mean():.5f} / {distance.max():.4f}"


def table(head, rows):
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


if __name__ == "__main__":
    main()
