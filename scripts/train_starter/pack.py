"""Fill-in-the-middle documents in packed windows."""

import math
import random
import re

import numpy as np
import torch

from vocabulary import ROWS, SPECIAL_TOKENS, TOKENS, documents

# Windows in tokens: most of the training, its last phase, scoring.
MAIN, FINAL, SCORING = 1024, 2048, 4096
# Set on the stored ids that a completion would have to produce; the last phase weighs all others less.
WANTED, CONTEXT_WEIGHT = 0x8000, 0.1


def fill_in_the_middle(rng, piece):
    """Cut a piece of text into prefix, suffix and middle the way an editor asks."""
    begin = rng.choice([match.start() for match in re.finditer(r"^.*\S", piece, re.M)] or [0])

    def line_end(at):
        found = piece.find("\n", at)
        return len(piece) if found < 0 else found

    stop = line_end(begin)
    indent = len(piece[begin:stop]) - len(piece[begin:stop].lstrip())
    cursor = rng.choices(("span", "in line", "indented", "line end", "line start"), (10, 45, 25, 10, 10))[0]
    if cursor == "span":
        begin, stop = sorted(rng.choices(range(len(piece)), k=2))
        stop = min(stop, begin + 400)
        return piece[:begin], piece[stop:], piece[begin:stop]
    if cursor == "in line":
        begin = rng.randint(begin + indent, max(begin + indent, stop - 1))
    elif cursor == "indented":
        begin += indent
    elif cursor == "line end":
        begin = stop
    if rng.random() < 0.1 and stop > begin:
        stop = rng.randint(begin + 1, stop)
    elif cursor.startswith("line") or rng.random() < 0.3:
        for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 4, 6))):
            stop = line_end(stop + 1)
    return piece[:begin], "" if rng.random() < 0.05 else piece[stop:], piece[begin:stop]


def pieces(rng, text, longest):
    """Consecutive pieces of log-uniform size, cut at line ends."""
    start = 0
    while start < len(text):
        size = int(math.exp(rng.uniform(math.log(300), math.log(longest))))
        cut = text.find("\n", start + size)
        stop = len(text) if cut < 0 else cut + 1
        yield text[start:stop]
        start = stop


class Encoder:
    def __init__(self, path):
        from tokenizers import Tokenizer
        self.bpe = Tokenizer.from_file(str(path))
        self.special = {text: self.bpe.token_to_id(text) for text in SPECIAL_TOKENS}
        self.end, self.prefix, self.suffix, self.middle = (
            self.special[f"<|{name}|>"] for name in ("endoftext", "fim_prefix", "fim_suffix", "fim_middle"))

    def __call__(self, texts):
        return [np.array(e.ids, np.uint16) for e in self.bpe.encode_batch_fast(texts, add_special_tokens=False)]

    def token_bytes(self):
        """Bytes that each id stands for; special tokens and unused rows stand for none."""
        sizes = np.zeros(ROWS, np.int64)
        for text, index in self.bpe.get_vocab().items():
            sizes[index] = 0 if text in self.special else len(text)
        return sizes

    def prompt(self, prefix, suffix, order="psm"):
        """The raw prompt as ids; the spm order is the same builder with an empty prefix."""
        p, s = (ids.tolist() for ids in self([prefix, suffix]))
        if order == "psm":
            return [self.prefix, *p, self.suffix, *s, self.middle]
        return [self.prefix, self.suffix, *s, self.middle, *p]

    def heal(self, prompt):
        """The prompt without its last token, that token's text, and a penalty on all that do not begin so:
        the cursor may stand inside what the tokenizer would have made one token."""
        last = self.bpe.id_to_token(prompt[-1])
        penalty = torch.full((TOKENS,), -1e9)
        penalty[[i for text, i in self.bpe.get_vocab().items() if text.startswith(last)]] = 0
        return prompt[:-1], self.bpe.decode(prompt[-1:]), penalty


def training_units(rng, encode, longest, share, docs):
    """(whole, ids): a fill-in-the-middle example must stay whole, plain text may be cut."""
    for start in range(0, len(docs), 512):
        plain, examples = [], []
        for text in docs[start:start + 512]:
            if rng.random() > share:
                plain.append(text)
                continue
            for piece in pieces(rng, text, longest):
                p, s, m = fill_in_the_middle(rng, piece)
                cut = s.find("\n", 1500)
                examples.append((p, s if cut < 0 else s[:cut + 1], m))
        for ids in encode(plain):
            yield False, np.append(ids, np.uint16(encode.end))
        parts = encode([text for example in examples for text in example])
        mark = lambda token: np.array([token], np.uint16)
        for p, s, m in zip(*[iter(parts)] * 3):
            m = np.append(m, np.uint16(encode.end)) | np.uint16(WANTED)
            if rng.random() < 0.5:
                ids = (mark(encode.prefix), p, mark(encode.suffix), s, mark(encode.middle), m)
            else:
                ids = (mark(encode.prefix), mark(encode.suffix), s, mark(encode.middle), p, m)
            yield True, np.concatenate(ids)


def windows(units, width):
    """Pack units into windows; plain text fills what examples leave over, then windows of its own."""
    rows, row, room = [], [], width
    plain, held = [], 0

    def take(count):
        nonlocal plain, held
        stream = np.concatenate(plain)
        plain, held = [stream[count:]], held - count
        return stream[:count]

    for whole, ids in units:
        if not whole:
            plain.append(ids)
            held += len(ids)
        elif len(ids) <= width:
            if len(ids) > room:
                if held < room:
                    continue
                rows.append(np.concatenate([*row, take(room)]) if room else np.concatenate(row))
                row, room = [], width
            row.append(ids)
            room -= len(ids)
        # Enough is held back that examples never wait for something to fill their window.
        if held > 512 * width:
            rows.extend(take(held // width // 2 * width).reshape(-1, width))
    rows.extend(take(held // width * width).reshape(-1, width))
    return np.stack(rows)


def pack(args):
    """Tokenise the splits and pack them into windows, partly as fill-in-the-middle."""
    encode = Encoder(args.work / "tokenizer.json")
    rng = random.Random(0)
    texts = [d["text"] for d in documents(args, "train")]
    rng.shuffle(texts)
    last = len(texts) // 5
    for name, width, longest, share, docs in (("final", FINAL, 6000, 0.85, texts[:last]),
                                              ("main", MAIN, 3000, 0.5, texts[last:])):
        rows = windows(training_units(rng, encode, longest, share, docs), width)
        np.random.default_rng(0).shuffle(rows)
        np.save(args.work / f"{name}.npy", rows)
        print(name, rows.shape, f"{rows.size / 1e6:.1f} M tokens", flush=True)
    held = [np.append(ids, np.uint16(encode.end)) for ids in encode([d["text"] for d in documents(args, "validation")])]
    random.Random(0).shuffle(held)
    stream = np.concatenate(held)[:64 * MAIN]
    np.save(args.work / "validation.npy", stream.reshape(-1, MAIN))
    np.save(args.work / "token_bytes.npy", encode.token_bytes())
