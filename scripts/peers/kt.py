"""The kernels of KTransformers to compare with, from the package kt-kernel in a virtual environment."""

import json
import subprocess
import sys
from pathlib import Path

from packages import Unavailable, environment

# The wheel demands PyTorch with CUDA, gigabytes of it, for its layer in Python; the library itself needs none.
ALONE = ["--only-binary", ":all:", "--no-deps", "numpy", "gguf", "pyyaml", "tqdm"]


def install(folder, model):
    """The Python of an environment that has the package, if it can compute with the experts of `model`."""
    python = environment(folder / "kt", "kt-kernel", *ALONE)
    checked = run(python, model)
    if checked.returncode:
        raise Unavailable((checked.stderr.strip() or "it does not load").splitlines()[-1])
    return python


def speeds(python, model, threads, prompts, generate):
    """Tokens in a second by test that the routed experts alone would allow, and what it says of the processor."""
    done = run(python, model, threads, ",".join(map(str, prompts)), generate)
    if done.returncode:
        sys.exit(f"kt-kernel fails: {done.stderr[-3000:]}")
    report = json.loads(done.stdout.splitlines()[-1])
    return report["speeds"], report["system"]


def run(python, *arguments):
    command = [python, Path(__file__).with_name("run_kt.py"), *arguments]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True)
