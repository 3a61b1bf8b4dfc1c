"""Greedy text and log-probabilities beside llama.cpp's.

Both programs round activations to 8 bits on the way into quantised weights, each in its way, so that their numbers
differ a little, and where two tokens are about as likely, so may the texts. What measures them is the same model
computed in float32 with the same stored weights (`--exact`): fimd may be no farther from it than llama.cpp, and where
the texts part, its token must be about as likely there as any.
"""

import statistics
import sys

from harness import Daemon, table
from peers.llama import Llama
from prompts import prompts
from report import Finding

TOKENS = 48
TOP = 10
# In nats. Where texts part, the token of fimd may be this much less likely, computed exactly, than the likeliest.
TIE = 0.3
# The mean distance between both programs over the likeliest tokens.
DISTANCE = 0.1
# How much greater fimd's mean error may be than llama.cpp's: two ways to round are not equal by accident.
ERROR_RATIO = 1.1
# What may end a text stands for one token: llama.cpp names the one it was, fimd does not.
ENDS = ["<|endoftext|>", "<|im_end|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>"]
END = -1


def compare(setup):
    """Greedy text and log-probabilities of 50 prompts, fimd and llama.cpp"""
    cases = prompts()
    cases = cases[::max(1, len(cases) // setup.prompts)][:setup.prompts]
    theirs = ask_llama(setup, cases)
    ours = ask_fimd(setup, cases, theirs[0]["ends"])
    results = []
    for number, ((kind, _), our, their) in enumerate(zip(cases, ours, theirs)):
        progress("exactly", number, cases)
        results.append(result(setup, kind, our, their))
    kinds = list(dict.fromkeys(kind for kind, _ in cases))
    rows = [row(kind, [result for result in results if result["kind"] == kind]) for kind in kinds]
    print(table(["prompts", "number", "same text", "same tokens before they part, mean",
                 "distance of the 10 likeliest, mean / greatest", "error of llama.cpp, mean / greatest",
                 "error of fimd, mean / greatest"], [*rows, row("all", results)]))
    return findings(results)


def ask_llama(setup, cases):
    # Its threads spin while they wait, and would take the cores from everything else.
    with Llama(setup.llama_python(), setup.model, setup.threads, OMP_WAIT_POLICY="passive") as llama:
        def tokens(text):
            return llama.ask("/tokenize", content=text, parse_special=True, add_special=False)["tokens"]

        ends = {id for text in ENDS for id in tokens(text)}
        answers = []
        for number, (_, prompt) in enumerate(cases):
            progress("llama.cpp", number, cases)
            ids = tokens(prompt)
            steps = llama.greedy(ids, TOKENS, n_probs=TOP)["completion_probabilities"]
            top = [likeliest([(token["id"], token["logprob"]) for token in step["top_logprobs"]], ends)
                   for step in steps]
            answers.append({"prompt": ids, "ids": [END if step["id"] in ends else step["id"] for step in steps],
                            "top": top, "ends": ends})
        return answers


def likeliest(tokens, ends):
    """Log-probability by token; the likeliest end stands for all."""
    by_token = {}
    for token, logprob in tokens:
        by_token.setdefault(END if token in ends else token, logprob)
    return by_token


def ask_fimd(setup, cases, ends):
    file = setup.scratch / "prompt.txt"
    with Daemon(setup.binary, "--model", setup.model, "--threads", setup.threads) as daemon:
        answers = []
        for number, (_, prompt) in enumerate(cases):
            progress("fimd", number, cases)
            file.write_text(prompt)
            answer = daemon.json("generate", "--prompt-file", file, "--max-tokens", TOKENS, "--top-logprobs", TOP)
            end = [END] if answer["stop"] == "end_token" else []
            answers.append({"prompt": answer["prompt_ids"], "ids": answer["ids"] + end,
                            "top": [likeliest(step, ends) for step in answer["top_logprobs"]]})
        return answers


def progress(who, number, cases):
    if number % 10 == 0:
        print(f"{who}: prompt {number + 1} of {len(cases)}", file=sys.stderr)


def result(setup, kind, ours, theirs):
    """How far both agree, and how far each is from the same model computed exactly."""
    # Up to the token with which they part they were asked the same; at that token still.
    same = shared(ours["ids"], theirs["ids"])
    compared = min(same + 1, len(ours["top"]), len(theirs["top"]))
    distances = [abs(our[token] - their[token])
                 for our, their in zip(ours["top"][:compared], theirs["top"][:compared])
                 for token in our.keys() & their.keys()]
    tokens = [token for token in theirs["ids"][:same] if token != END]
    logprobs = [[answer["top"][at][token] for at, token in enumerate(tokens)] for answer in (theirs, ours)]
    exact = exact_logprobs(setup, theirs["prompt"], tokens)
    their_errors, our_errors = ([abs(a - b) for a, b in zip(found, exact)] for found in logprobs)
    return {"kind": kind, "same_prompt": ours["prompt"] == theirs["prompt"], "same": same,
            "is_same": ours["ids"] == theirs["ids"], "gaps": gaps(setup, ours, theirs, same), "distances": distances,
            "their_errors": their_errors, "our_errors": our_errors}


def shared(a, b):
    return next((at for at, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))


def gaps(setup, ours, theirs, at):
    """How much less likely, computed exactly, the tokens of fimd and of llama.cpp are than the likeliest where the
    texts part; none where they do not."""
    if ours["ids"] == theirs["ids"]:
        return []
    ids = ",".join(map(str, theirs["prompt"] + theirs["ids"][:at]))
    answer = setup.fimd.json("generate", "--ids", ids, "--max-tokens", 1, "--top-logprobs", TOP, "--ignore-eos",
                             "--model", setup.model, "--threads", setup.threads, "--exact")
    likely = likeliest(answer["top_logprobs"][0], theirs["ends"])
    tokens = [answer["ids"][at] if at < len(answer["ids"]) else END for answer in (ours, theirs)]
    return [max(likely.values()) - likely.get(token, float("-inf")) for token in tokens]


def exact_logprobs(setup, prompt, ids):
    if not ids:
        return []
    whole = ",".join(map(str, prompt + ids))
    options = ["--model", setup.model, "--threads", setup.threads, "--exact", "--logprobs"]
    return setup.fimd.json("score", "--ids", whole, *options)["logprobs"][-len(ids):]


def row(name, results):
    def gather(key):
        return [value for result in results for value in result[key]]

    return [name, len(results), sum(result["is_same"] for result in results),
            f"{statistics.mean(result['same'] for result in results):.1f}", spread(gather("distances")),
            spread(gather("their_errors")), spread(gather("our_errors"))]


def spread(values):
    return f"{statistics.mean(values):.4f} / {max(values):.3f}" if values else "-"


def findings(results):
    count = len(results)
    prompts_same = sum(result["same_prompt"] for result in results)
    same = sum(result["is_same"] for result in results)
    parted = [result["gaps"] for result in results if result["gaps"]]
    our_gap, their_gap = (max((gaps[who] for gaps in parted), default=0.0) for who in (0, 1))
    first = [sum(gaps[who] == 0 for gaps in parted) for who in (0, 1)]
    distance = statistics.mean(value for result in results for value in result["distances"])
    theirs, ours = (statistics.mean(value for result in results for value in result[key])
                    for key in ["their_errors", "our_errors"])
    return [
        Finding("compare", "prompts of the same tokens", f"{prompts_same} of {count}", f"{count}",
                prompts_same == count),
        Finding("compare", "same greedy text", f"{same} of {count}"),
        Finding("compare", "where texts part, exactly the likeliest token: fimd / llama.cpp",
                f"{first[0]} / {first[1]} of {len(parted)}"),
        Finding("compare", "where texts part, less likely than that: fimd (llama.cpp)",
                f"at most {our_gap:.3f} ({their_gap:.3f}) nats", f"at most {TIE}", our_gap <= TIE),
        Finding("compare", f"distance of the {TOP} likeliest, mean", f"{distance:.4f} nats", f"at most {DISTANCE}",
                distance <= DISTANCE),
        Finding("compare", "error of fimd / of llama.cpp, mean", f"{ours:.4f} / {theirs:.4f} nats",
                f"ratio at most {ERROR_RATIO}", ours <= theirs * ERROR_RATIO),
    ]
