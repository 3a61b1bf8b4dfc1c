"""llama.cpp to compare with, from the package xllamacpp in a virtual environment."""

import json
import os
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

from packages import environment


def install(folder):
    """The Python of an environment that has the package."""
    return environment(folder / "llama", "xllamacpp")


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


def speeds(python, model, threads, prompts, generate):
    """Tokens in a second by test, and what it says of the processor. The text of the prompts is its own source."""
    with Llama(python, model, threads) as server:
        text = Path(__file__).read_text() * (1 + max(prompts) // 512)
        ids = server.ask("/tokenize", content=text)["tokens"]

        def run(length, tokens):
            return server.greedy(ids[:length], tokens, ignore_eos=True)["timings"]

        run(64, 4)
        found = {f"prefill of {length}": run(length, 1)["prompt_per_second"] for length in prompts}
        # The first token comes of the prompt.
        timings = run(64, generate + 1)
        found[f"decode of {generate}"] = 1e3 * (timings["predicted_n"] - 1) / timings["predicted_ms"]
        return found, server.system
