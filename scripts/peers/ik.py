"""ik_llama.cpp to compare with, from the package ik-llama-cpp-python in a virtual environment."""

import json
import os
import subprocess
import sys
from pathlib import Path

from packages import environment

PACKAGE = "ik-llama-cpp-python"


def install(folder):
    """The Python of an environment that has the package as it is published, for processors with AVX2."""
    return environment(folder / "ik", PACKAGE)


def speeds(python, model, threads, prompts, generate, repack):
    """Tokens in a second by test, and what it says of the processor; `repack` interleaves the weights at load."""
    command = [python, Path(__file__).with_name("run_ik.py"), model, threads, ",".join(map(str, prompts)), generate,
               int(repack)]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True,
                          env={**os.environ, "OMP_NUM_THREADS": str(threads)})
    if done.returncode:
        sys.exit(f"ik_llama.cpp fails: {done.stderr[-3000:]}")
    report = json.loads(done.stdout.splitlines()[-1])
    return report["speeds"], report["system"]
