"""fimd as scripts run it: alone, with the settings they give it and nobody's else."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BINARY = ROOT / "target/release/fimd"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fimd"
# A large model is read from the disk first.
LOAD_S = 600


class Fimd:
    """The program in an environment of its own: no file of settings, and its daemon in a folder that goes."""

    def __init__(self, binary, **variables):
        if not Path(binary).exists():
            sys.exit(f"{binary} does not exist: cargo build --release, or name another with --fimd")
        self.binary = Path(binary).resolve()
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("FIMD_")}
        # The path of a socket must be short.
        self.folder = Path(tempfile.mkdtemp(prefix="fimd-"))
        self.env = {**inherited, "FIMD_CONFIG": "", "FIMD_RUNTIME_DIR": str(self.folder), **variables}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        shutil.rmtree(self.folder, ignore_errors=True)

    def command(self, *arguments):
        return [str(self.binary), *map(str, arguments)]

    def run(self, *arguments):
        done = subprocess.run(self.command(*arguments), env=self.env, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"fimd {arguments[0]} failed: {done.stderr.strip()}")
        return done.stdout

    def json(self, *arguments):
        return json.loads(self.run(*arguments, "--json"))

    def wait_for_model(self):
        """The status of the daemon once it serves the model that was named, not the one that stands in for it."""
        until = time.monotonic() + LOAD_S
        while time.monotonic() < until:
            status = self.json("status")
            if status["failure"]:
                sys.exit(f"the model does not load: {status['failure']}")
            if status["state"] == "ready" and not status["is_stand_in"]:
                return status
            time.sleep(0.2)
        sys.exit(f"the model is not loaded after {LOAD_S} s")


class Daemon(Fimd):
    """A daemon that holds a model as long as it is needed; the commands that can ask it do."""

    def __init__(self, binary, *flags, **variables):
        super().__init__(binary, **variables)
        self.flags = flags

    def __enter__(self):
        self.log = open(self.folder / "daemon.err", "w+")
        self.process = subprocess.Popen(self.command("daemon", *self.flags), env=self.env, stdin=subprocess.DEVNULL,
                                        stdout=subprocess.DEVNULL, stderr=self.log)
        # The socket is there a moment before anybody listens.
        while subprocess.run(self.command("status"), env=self.env, capture_output=True).returncode:
            if self.process.poll() is not None:
                self.log.seek(0)
                sys.exit(f"fimd daemon does not start: {self.log.read().strip()}")
            time.sleep(0.02)
        self.wait_for_model()
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()
        self.log.close()
        super().__exit__()


class Lsp:
    """A language client in miniature."""

    def __init__(self, command, env, **capabilities):
        self.process = subprocess.Popen(list(map(str, command)), env=env, stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE)
        self.ids = 0
        # What the server sent meanwhile, newest last.
        self.notifications = []
        self.call("initialize", {"processId": None, "rootUri": None, "initializationOptions": None,
                                 "capabilities": capabilities})
        self.notify("initialized", {})

    def send(self, message):
        body = json.dumps({"jsonrpc": "2.0", **message}).encode()
        self.process.stdin.write(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
        self.process.stdin.flush()

    def notify(self, method, params):
        self.send({"method": method, **({} if params is None else {"params": params})})

    def call(self, method, params):
        self.ids += 1
        self.send({"id": self.ids, "method": method, **({} if params is None else {"params": params})})
        while True:
            message = self.wait()
            if message.get("id") == self.ids and "method" not in message:
                if "error" in message:
                    sys.exit(f"{method} failed: {message['error']}")
                return message["result"]

    def wait(self):
        """The next message. What the server asks is answered with nothing, what it tells is kept."""
        message = self.read()
        if "method" in message and "id" in message:
            self.send({"id": message["id"], "result": None})
        elif "method" in message:
            self.notifications.append(message)
        return message

    def read(self):
        length = None
        while line := self.process.stdout.readline().strip():
            if line.lower().startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        if length is None:
            sys.exit("the language server went away")
        return json.loads(self.process.stdout.read(length))

    def open(self, uri, language, text):
        document = {"uri": uri, "languageId": language, "version": 1, "text": text}
        self.notify("textDocument/didOpen", {"textDocument": document})

    def inline(self, uri, line, character, trigger=2):
        """The text that would be shown as ghost text; trigger 1 is by hand, 2 unasked."""
        result = self.call("textDocument/inlineCompletion", {
            "textDocument": {"uri": uri}, "position": {"line": line, "character": character},
            "context": {"triggerKind": trigger}})
        items = result["items"]
        return items[0]["insertText"] if items else ""

    def close(self):
        self.call("shutdown", None)
        self.notify("exit", None)
        if self.process.wait():
            sys.exit("the language server did not end well")


def position(before):
    """Line and column, both from 0, of the end of a text."""
    return before.count("\n"), len(before.rsplit("\n", 1)[-1])


def table(head, rows):
    """In Markdown; what looks like a number stands at the right."""
    number = re.compile(r"[-+]?[\d.,]+( ?[%a-zA-Z/]+)?")
    columns = list(zip(*rows)) or [()] * len(head)
    rule = ["---:" if all(number.fullmatch(str(cell)) or cell in ("", "-") for cell in column) else "---"
            for column in columns]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in [head, rule, *rows])
