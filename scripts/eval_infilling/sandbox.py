"""Runs what a model wrote: without a network, as nobody where that can be chosen, with little time and memory."""

import functools
import os
import resource
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

WALL_S = 20
CPU_S = 10
MEMORY_BYTES = 1 << 30
FILE_BYTES = 64 << 20
NOBODY = 65534
# A name space of its own has no network.
ISOLATED = ["unshare", "--user", "--net", "--"]
COMPILE = {".cpp": ["g++", "-O1", "-w", "-o", "program", "program.cpp"]}
RUN = {".py": ["python3", "-I", "program.py"], ".cpp": ["./program"]}


def missing(ending):
    """Why programs of this kind cannot be run here; None where they can."""
    if ending not in RUN:
        return f"no {ending} program is run"
    if reason := no_isolation():
        return reason
    compiler = COMPILE.get(ending, RUN[ending])[0]
    return None if shutil.which(compiler) else f"there is no {compiler} here"


@functools.cache
def no_isolation():
    if not shutil.which("unshare"):
        return "there is no unshare here, which keeps programs from the network"
    if subprocess.run([*ISOLATED, "true"], capture_output=True).returncode:
        return "unshare is not permitted here, which keeps programs from the network"
    return None


@functools.cache
def passes(ending, program, runs):
    """Whether a program does what it has to: print one of the outputs for each input, or end well where none is said."""
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        (folder / f"program{ending}").write_bytes(program.encode())
        if os.geteuid() == 0:
            os.chown(folder, NOBODY, NOBODY)
        if ending in COMPILE and run(COMPILE[ending], folder, "") is None:
            return False
        for given, wanted in runs:
            output = run(RUN[ending], folder, given)
            if output is None or wanted and words(output) not in map(words, wanted):
                return False
        return True


def words(output):
    """What is compared of an output: the judges of the contests take YES for yes."""
    return output.lower().split()


def run(command, folder, given):
    """Output of a program; None if it failed or took too long."""
    identity = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
    process = subprocess.Popen([*ISOLATED, *command], cwd=folder, env={"PATH": os.defpath, "LANG": "C.UTF-8"},
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                               start_new_session=True, preexec_fn=limit, **identity)
    try:
        output, _ = process.communicate(given.encode(), timeout=WALL_S)
        return output.decode(errors="replace") if process.returncode == 0 else None
    except subprocess.TimeoutExpired:
        return None
    finally:
        # Whatever it started has the number of its group.
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait()


def limit():
    for what, most in [(resource.RLIMIT_CPU, CPU_S), (resource.RLIMIT_AS, MEMORY_BYTES),
                       (resource.RLIMIT_FSIZE, FILE_BYTES), (resource.RLIMIT_CORE, 0)]:
        resource.setrlimit(what, (most, most))
