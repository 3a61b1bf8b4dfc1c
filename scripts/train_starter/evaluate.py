"""Bits per byte, fill-in-the-middle exact match, and the showcase."""

import json
import lzma
import math
import random
from collections import Counter, defaultdict

import torch
from torch.nn import functional as F

from checkpoint import read_checkpoint
from pack import Encoder, SCORING
from showcase import SHOWCASE
from vocabulary import TOKENS, documents


def log_probabilities(model, ids):
    hidden, _ = model(torch.tensor(ids)[None])
    return F.linear(hidden[0], model.embed)[:, :TOKENS].log_softmax(-1)


def file_bits(model, encode, text):
    """Bits for every byte of the file, in windows of SCORING tokens that overlap by a quarter."""
    ids = [encode.end, *encode([text])[0].tolist()]
    overlap, nats, start = SCORING // 4, 0.0, 0
    while True:
        window = ids[start:start + SCORING + 1]
        known = overlap if start else 0
        chosen = torch.tensor(window[1:])[:, None]
        nats -= log_probabilities(model, window[:-1]).gather(1, chosen)[known:].sum().item()
        if start + SCORING + 1 >= len(ids):
            return nats / math.log(2)
        start += SCORING - overlap


def greedy(model, encode, prompt, limit=32, healing=False):
    """The first line of the greedy completion."""
    prompt, typed, penalty = encode.heal(prompt) if healing else (prompt, "", 0)
    ids, text = list(prompt), ""
    for _ in range(limit):
        token = int((log_probabilities(model, ids)[-1] + penalty).argmax())
        if token in encode.special.values():
            break
        ids.append(token)
        text, penalty = encode.bpe.decode(ids[len(prompt):]), 0
        if "\n" in text:
            break
    return text.removeprefix(typed).split("\n")[0]


def exact(model, encode, prompt, rest, healing=False):
    """Whether the greedy completion is the given rest of the line, and then ends the line or itself."""
    prompt, typed, penalty = encode.heal(prompt) if healing else (prompt, "", 0)
    target = encode([typed + rest])[0].tolist()
    scores = log_probabilities(model, prompt + target)[len(prompt) - 1:]
    scores[0] += penalty
    best = scores.argmax(-1).tolist()
    return best[:-1] == target and (best[-1] == encode.end or encode.bpe.id_to_token(best[-1]).startswith("Ċ"))


# Prefix-suffix-middle cut at the cursor; the same with the typed part of the line at the head of the middle; suffix
# first. The last two end in what was typed, so their last token can be healed.
LAYOUTS = ("psm", "anchored", "spm")


def layout_prompt(encode, prefix, suffix, layout):
    if layout != "anchored":
        return encode.prompt(prefix, suffix, layout)
    start = prefix.rfind("\n") + 1
    return encode.prompt(prefix[:start], suffix) + encode([prefix[start:]])[0].tolist()


@torch.no_grad()
def evaluate(args):
    """Bits per byte of the held-out files against xz, FIM exact match, and a few completions."""
    model = read_checkpoint(args.model)
    encode = Encoder(args.model / "tokenizer.json")
    held = list(documents(args, "test"))
    rng = random.Random(0)
    if args.files:
        held = rng.sample(held, min(args.files, len(held)))
    sums = defaultdict(Counter)
    for document in held:
        text, size = document["text"], len(document["text"].encode())
        found = {"files": 1, "bytes": size, "bits": file_bits(model, encode, text),
                 "xz_bits": 8 * len(lzma.compress(text.encode(), preset=9 | lzma.PRESET_EXTREME))}
        for _ in range(args.cursors):
            lines = text.split("\n")
            line = rng.randrange(len(lines))
            content = lines[line]
            first = len(content) - len(content.lstrip())
            if not content.strip():
                continue
            column = rng.randrange(first, len(content))
            prefix = "\n".join([*lines[:line], content[:column]])[-4000:]
            suffix = "\n".join(["", *lines[line + 1:]])[:1500]
            for layout in LAYOUTS:
                prompt = layout_prompt(encode, prefix, suffix, layout)
                hit = exact(model, encode, prompt, content[column:], healing=layout != "psm")
                found[layout] = found.get(layout, 0) + hit
            found["cursors"] = found.get("cursors", 0) + 1
        sums[document["language"]].update(found)
        sums["all"].update(found)
    report = {}
    for language, s in sorted(sums.items()):
        report[language] = {
            "files": s["files"], "bytes": s["bytes"], "bits_per_byte": round(s["bits"] / s["bytes"], 4),
            "xz_bits_per_byte": round(s["xz_bits"] / s["bytes"], 4), "cursors": s["cursors"],
            **{f"fim_{layout}_exact": round(s[layout] / max(1, s["cursors"]), 3) for layout in LAYOUTS}}
        print(language, json.dumps(report[language]), flush=True)
    report["completions"] = []
    for title, language, code in SHOWCASE:
        prefix, suffix = code.lstrip().split("▮")
        line = {layout: greedy(model, encode, layout_prompt(encode, prefix, suffix, layout), healing=layout != "psm")
                for layout in LAYOUTS}
        report["completions"].append({"title": title, "language": language, "prefix": prefix, "suffix": suffix, **line})
        print(f"{title} ({language}): {prefix.splitlines()[-1]!r} -> {line}")
    (args.work / "eval.json").write_text(json.dumps(report, indent=1))
