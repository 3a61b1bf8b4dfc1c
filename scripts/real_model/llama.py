"""llama.cpp to compare with, from the package xllamacpp in a virtual environment."""

import json
import os
import subprocess
import sys
import tempfile
import urllib.request
import venv
from pathlib import Path

from fetch import pip

PACKAGE = "xllamacpp"


def install(folder):
    """The Python of an environment that has the package."""
    environment = folder / "llama"
    python = environment / "bin/python"
    if not (environment / "ready").exists():
        venv.create(environment, with_pip=True, clear=True)
        pip(python, "install", "--only-binary", ":all:", PACKAGE)
        (environment / "ready").touch()
    return python


class Llama:
    """A server while it is needed."""

    def __init__(self, python, model, threads, context=4096, **variables):
        self.log = tempfile.TemporaryFile()
        command = [python, Path(__file__).with_name("serve_llama.py"), model, threads, context]
        self.process = subprocess.Popen(list(map(str, command)), env={**os.environ, **variables}, text=True,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log)

    def __enter__(self):
        line = self.process.stdout.readline()
        if not line:
            self.log.seek(0)
            sys.exit(f"llama.cpp does not start: {self.log.read().decode(errors='replace')[-3000:]}")
        self.address, self.system = line.strip().split("\t")
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait()
        self.log.close()

    def ask(self, path, **body):
        request = urllib.request.Request(self.address + path, json.dumps(body).encode(),
                                         {"content-type": "application/json"})
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)

    def greedy(self, prompt, tokens, **options):
        """The likeliest token again and again, without what earlier prompts left in the cache."""
        return self.ask("/completion", prompt=prompt, n_predict=tokens, samplers=["top_k"], top_k=1,
                        cache_prompt=False, return_tokens=True, **options)
