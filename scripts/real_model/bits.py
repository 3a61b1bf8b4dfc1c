"""Bits per byte in each type that `fimd quantize` writes."""

from harness import ROOT, table
from report import Finding

# As `--mix` names them, and how much more than the file itself the result may cost, in per cent: what is wider than
# Q4_K and Q6_K loses nothing, and what is as narrow loses what rounding twice loses.
MIXES = {"f32": 0.2, "bf16": 0.5, "f16": 0.2, "q8_0": 0.5, "q6_k": 1.5, "q5_k": 3, "q5_0": 4, "q4_k_m": 0.2,
         "q4_k": 8, "q4_0": 12, "iq4_nl": 12, "iq4_xs": 12, "mxfp4": 25}
TEXT = ROOT / "src/text/language.rs"


def bits(setup):
    """Bits per byte of a text in each quantisation"""
    original = bits_per_byte(setup, setup.model)
    rows = [["the file itself", mib(setup.model), f"{original:.4f}", ""]]
    found = []
    for mix, limit in MIXES.items():
        file = setup.scratch / f"{mix}.gguf"
        setup.fimd.run("quantize", setup.model, file, "--mix", mix, "--threads", setup.threads)
        cost = bits_per_byte(setup, file)
        more = 100 * (cost / original - 1)
        rows.append([mix, mib(file), f"{cost:.4f}", f"{more:+.2f} %"])
        found.append(Finding("bits", mix, f"{cost:.4f} bits per byte, {more:+.2f} %", f"at most +{limit} %",
                             more <= limit))
        file.unlink()
    print(table(["mix", "MiB", "bits per byte", "more"], rows))
    return [Finding("bits", "the file itself", f"{original:.4f} bits per byte"), *found]


def bits_per_byte(setup, model):
    options = ["--model", model, "--threads", setup.threads]
    return setup.fimd.json("score", "--text-file", setup.text or TEXT, *options)["bits_per_byte"]


def mib(file):
    return f"{file.stat().st_size / 2**20:.0f}"
