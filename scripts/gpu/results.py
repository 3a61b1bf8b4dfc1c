"""What a run has found, on disk after each step."""

import json
import os
import platform
import signal
import subprocess
import sys
import time
import traceback

from gpu import report

# A step is not begun in what is left of the time below that.
LEAST_S = 3


class Results:
    def __init__(self, out, carried, options):
        self.out = out
        (out / "logs").mkdir(parents=True, exist_ok=True)
        self.deadline = time.monotonic() + 60 * options["minutes"]
        self.all = {
            "folder": carried.manifest, "began": time.strftime("%Y-%m-%d %H:%M:%S"), "is_whole": False,
            "host": platform.node(), "seed": options["seed"], "is_tiny": options["tiny"], "is_quick": options["quick"],
            "checks": [], "timings": [],
        }

    def left_s(self):
        return self.deadline - time.monotonic()

    def command(self, name, command, env, limit_s=float("inf")):
        """Runs a command within the time that is left: what it wrote to stdout, and what went wrong, if anything. Its
        stderr is in a file of `logs`."""
        seconds = min(limit_s, self.left_s())
        if seconds < LEAST_S:
            return None, "not reached in the time there was"
        log = self.log(name)
        with open(log, "w+") as stderr:
            process = subprocess.Popen(list(map(str, command)), env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                       stderr=stderr, text=True, errors="replace", start_new_session=True)
            try:
                stdout, _ = process.communicate(timeout=seconds)
            except subprocess.TimeoutExpired:
                # Its own children, too.
                os.killpg(process.pid, signal.SIGKILL)
                stdout, _ = process.communicate()
                return stdout, f"ended after {seconds:.0f} s"
            stderr.seek(0)
            said = stderr.read()
        if process.returncode == 0:
            return stdout, None
        return stdout, (said.strip().splitlines() or [f"exit status {process.returncode}"])[-1]

    def log(self, name):
        return self.out / "logs" / ("".join(c if c.isalnum() or c in "-_." else "-" for c in name) + ".txt")

    def add(self, kind, result):
        self.all[kind].append(result)
        shown = {"passed": "ok", "failed": "FAILED", "skipped": "skipped"}.get(result["state"], result["state"])
        reason = f": {result['reason']}" if result.get("reason") else ""
        print(f"{shown:8} {result['name']} ({result['seconds']:.1f} s){reason}", file=sys.stderr)
        self.write()

    def write(self):
        self.replace("results.json", json.dumps(self.all, indent=1))
        try:
            text = report.render(self.all)
        except Exception:
            # The figures are worth more than how they look.
            text = f"The report cannot be made of results.json:\n\n{traceback.format_exc()}"
        self.replace("report.md", text)

    def replace(self, name, text):
        part = self.out / (name + ".part")
        part.write_text(text + "\n")
        part.replace(self.out / name)

    def finish(self):
        self.all["is_whole"] = True
        self.write()

    def has_failed(self):
        return any(result["state"] == "failed" for result in self.all["checks"])
