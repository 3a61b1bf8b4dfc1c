"""The folder that is carried to a machine with a GPU."""

import atexit
import json
import lzma
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parent.parent
MANIFEST = "folder.json"
# What can be carried.
BYTES_MAX = 64 << 20
PACKED = "bin.tar.xz"
# Both programs have the starter model in them, tens of MB apart: it is packed once.
FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 2, "dict_size": 192 << 20}]


class Folder:
    """A folder that was prepared."""

    def __init__(self, path):
        self.path = Path(path).resolve()
        if not (self.path / MANIFEST).exists():
            sys.exit(f"{path} is no folder that gpu_check has prepared: scripts/gpu_check prepare FOLDER")
        self.manifest = json.loads((self.path / MANIFEST).read_text())
        programs = self.path / "bin"
        if (self.path / PACKED).exists() and not programs.exists():
            programs = unpack(self.path)
        self.program, self.tests = programs / "fimd", programs / "it"

    def environment(self, **more):
        """Without what this user has set for fimd, and for its tests elsewhere."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("FIMD_")}
        return {**kept, "FIMD_CONFIG": "", "FIMD_LOG": "info", **more}

    def checkpoint(self, name):
        return self.path / "tests/data/vectors" / name


def prepare(args):
    root = SCRIPTS.parent
    program, tests = (args.program, args.tests) if args.program else build(root, args.profile)
    folder = args.folder
    if folder.exists():
        if any(folder.iterdir()) and not (folder / MANIFEST).exists():
            sys.exit(f"{folder} exists, and is no folder that gpu_check has prepared")
        shutil.rmtree(folder)
    (folder / "bin").mkdir(parents=True)
    copy_program(program, folder / "bin/fimd")
    copy_program(tests, folder / "bin/it")
    if args.pack:
        pack(folder)
    shutil.copytree(root / "tests/data/vectors", folder / "tests/data/vectors")
    kernels = "src/compute/cuda/kernels"
    (folder / kernels).mkdir(parents=True)
    for ptx in sorted((root / kernels).glob("*.ptx")):
        shutil.copy(ptx, folder / kernels)
    shutil.copy(SCRIPTS / "gpu_check", folder)
    shutil.copy(SCRIPTS / "harness.py", folder)
    shutil.copytree(SCRIPTS / "gpu", folder / "gpu", ignore=shutil.ignore_patterns("__pycache__"))
    manifest = {"profile": args.profile, "made": time.strftime("%Y-%m-%d"), **commit(root)}
    (folder / MANIFEST).write_text(json.dumps(manifest) + "\n")
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    print(f"{folder}: {size / (1 << 20):.1f} MiB")
    if size > BYTES_MAX:
        advice = "" if args.pack else "; --pack makes it smaller"
        print(f"that is more than {BYTES_MAX >> 20} MiB{advice}", file=sys.stderr)


def pack(folder):
    with lzma.open(folder / PACKED, "wb", filters=FILTERS) as packed, tarfile.open(fileobj=packed, mode="w|") as archive:
        archive.add(folder / "bin", "bin")
    shutil.rmtree(folder / "bin")


def unpack(folder):
    """Where the programs are: in the folder, or, where nothing can be written, in one that goes."""
    if os.access(folder, os.W_OK):
        to = folder
    else:
        to = Path(tempfile.mkdtemp(prefix="fimd-"))
        atexit.register(shutil.rmtree, to, ignore_errors=True)
    with lzma.open(folder / PACKED) as packed, tarfile.open(fileobj=packed, mode="r|") as archive:
        archive.extractall(to)
    return to / "bin"


def build(root, profile):
    """The program and its integration tests."""
    command = [os.environ.get("CARGO", "cargo"), "test", "--no-run", "--locked", "--test", "it", "--profile", profile,
               "--message-format", "json-render-diagnostics"]
    done = subprocess.run(command, cwd=root, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit("the build failed")
    made = {}
    for line in done.stdout.splitlines():
        message = json.loads(line)
        if message.get("executable"):
            made[message["target"]["name"]] = Path(message["executable"])
    return made["fimd"], made["it"]


def copy_program(program, to):
    """Without what only a debugger needs, where there is a program that removes it."""
    strip = shutil.which("strip")
    if not strip or subprocess.run([strip, "-o", to, program], stderr=subprocess.DEVNULL).returncode:
        shutil.copy(program, to)
    to.chmod(0o755)


def commit(root):
    def git(*arguments):
        done = subprocess.run(["git", "-C", root, *arguments], capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else None
    head = git("rev-parse", "--short=12", "HEAD") if shutil.which("git") else None
    return {"commit": head, "is_changed": bool(head and git("status", "--porcelain"))}
