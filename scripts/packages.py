"""Programs of others from the Python package index, in environments of their own."""

import subprocess
import venv


class Unavailable(Exception):
    """The package index does not answer, or serves no longer what is needed."""


def environment(folder, package, *options):
    """The Python of an environment in `folder` that has `package`; the folder is made if it is not complete."""
    python = folder / "bin/python"
    if not (folder / "ready").exists():
        venv.create(folder, with_pip=True, clear=True)
        pip(python, "install", *(options or ["--only-binary", ":all:"]), package)
        (folder / "ready").touch()
    return python


def pip(python, command, *arguments):
    """Runs pip, which gives up soon where there is no network."""
    full = [python, "-m", "pip", command, "--quiet", "--retries", "1", "--timeout", "30", *arguments]
    done = subprocess.run(list(map(str, full)), capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip() or "no reason given").splitlines()[-1]
        raise Unavailable(f"pip {command} {arguments[-1]}: {reason}")
