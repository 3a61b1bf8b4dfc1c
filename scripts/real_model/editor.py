"""What an editor gets: `fimd lsp`, which starts the daemon, as a user's editor does."""

import time

from harness import Fimd, Lsp, position
from report import Finding

# Text before and after the cursor, and what must stand in the completion.
PLACES = {
    "fibonacci.py": ("def fibonacci(n):\n    if n < 2:\n        return n\n    return ", "\n", "fibonacci(n - 2)"),
    "stack.rs": ("struct Stack {\n    items: Vec<u32>,\n}\n\nimpl Stack {\n    fn push(&mut self, item: u32) {\n"
                 "        self.items.", "\n    }\n}\n", "push(item)"),
    "mean.go": ("package main\n\nfunc mean(values []float64) float64 {\n\tsum := 0.0\n"
                "\tfor _, value := range values {\n\t\t", "\n\t}\n\treturn sum / float64(len(values))\n}\n",
                "sum += value"),
}
LANGUAGES = {"py": "python", "rs": "rust", "go": "go"}
CODE = ("def evict(cache, limit):\n    while sum(cache.values()) > limit:\n"
        "        oldest = next(iter(cache))\n        del cache[oldest]\n")
# Any explanation of that code in English has some of these.
WORDS = ["cache", "limit", "oldest", "remove", "delete", "sum", "size"]
WORDS_LEAST = 3


def complete(setup):
    """A FIM completion through the language server"""
    with editing(setup) as (fimd, client):
        status = fimd.wait_for_model()
        found = [Finding("complete", "model of the daemon", status["model"]["name"])]
        for name, (before, after, expected) in PLACES.items():
            uri = f"file:///{name}"
            client.open(uri, LANGUAGES[name.split(".")[1]], before + after)
            started = time.perf_counter()
            text = client.inline(uri, *position(before), trigger=1)
            ms = (time.perf_counter() - started) * 1e3
            print(f"{name}: {text!r} in {ms:.0f} ms")
            found.append(Finding("complete", name, repr(text), f"{expected!r} in it",
                                 packed(expected) in packed(text)))
        return found


def explain(setup):
    """A chat answer through the code action `fimd: Explain`"""
    with editing(setup) as (fimd, client):
        fimd.wait_for_model()
        uri = "file:///cache.py"
        client.open(uri, "python", CODE)
        start, end = {"line": 0, "character": 0}, {"line": 4, "character": 0}
        actions = client.call("textDocument/codeAction", {
            "textDocument": {"uri": uri}, "range": {"start": start, "end": end}, "context": {"diagnostics": []}})
        action = next((action for action in actions if action["title"].startswith("fimd: explain")), None)
        if action is None or "command" not in action:
            return [Finding("explain", "code action", str(action), "an action with a command", False)]
        started = time.perf_counter()
        command = action["command"]
        client.call("workspace/executeCommand", {"command": command["command"], "arguments": command["arguments"]})
        seconds = time.perf_counter() - started
        text = shown(client)
        print(f"{action['title']}, in {seconds:.1f} s:\n\n{text}\n")
        words = [word for word in WORDS if word in text.lower()]
        return [Finding("explain", f"words of {', '.join(WORDS)}", ", ".join(words) or "none",
                        f"at least {WORDS_LEAST}", len(words) >= WORDS_LEAST)]


def packed(text):
    """A text without whitespace, which is a matter of style."""
    return "".join(text.split())


class editing:
    """An editor, and what there is of fimd besides; the daemon ends with it."""

    def __init__(self, setup):
        self.fimd = Fimd(setup.binary, FIMD_MODEL=str(setup.model), FIMD_THREADS=str(setup.threads))

    def __enter__(self):
        self.client = Lsp(self.fimd.command("lsp", "--set", "budget.hard_ms=600000"), self.fimd.env,
                          textDocument={"inlineCompletion": {}, "codeAction": {"codeActionLiteralSupport": {
                              "codeActionKind": {"valueSet": [""]}}}},
                          experimental={"fimd": {"explanation": True}})
        return self.fimd, self.client

    def __exit__(self, kind, *_):
        if kind is None:
            self.client.close()
        else:
            self.client.process.kill()
        self.fimd.run("stop")
        self.fimd.__exit__()


def shown(client):
    """The explanation as it was when it was done, which may come after the command's own answer."""
    while True:
        for message in client.notifications:
            if message["method"] == "fimd/explanation" and message["params"]["done"]:
                return message["params"]["markdown"]
        client.wait()
