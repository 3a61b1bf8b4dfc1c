#!/usr/bin/env python3
"""Make GGUF files of reference vectors with llama.cpp's converter.

    pip install torch transformers safetensors gguf sentencepiece
    python scripts/make_gguf_vectors.py [FILE ...]

Every file is tests/data/vectors/gguf/CASE-TYPE.gguf, without a tokenizer. What it should compute is in the
expected.safetensors of its case, whatever the type: the matrices of these cases are what it holds exactly.

The converter is that of the sources of llama-cpp-python, fetched with pip, or of a checkout (--llama-cpp).
"""

import argparse
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VECTORS = ROOT / "tests/data/vectors"
PACKAGE = "llama-cpp-python==0.3.36"

FILES = {
    "qwen2_odd-f32": [],
    "qwen2_tied-q8_0": ["--fuse-qkv"],
    "qwen3_odd-f32": [],
    "qwen3_tied-q8_0": [],
    "qwen3_5_text-f32": ["--no-mtp"],
    "qwen3_5-bf16": ["--no-mtp", "--fuse-qkv"],
    "qwen3_5-q8_0": [],
    "qwen3_moe_odd-f32": [],
    "qwen3_moe_q8_0-q8_0": [],
    "qwen3_5_moe_odd-f32": ["--no-mtp"],
    "qwen3_5_moe-q8_0": ["--fuse-gate-up-exps"],
}

# Runs the converter on a checkpoint that has no tokenizer.
DRIVER = """
import sys
sys.path.insert(0, sys.argv.pop(1))
import convert_hf_to_gguf as converter

find = converter.get_model_class

def set_no_vocabulary(self):
    self._set_vocab_none()
    self.gguf_writer.add_vocab_size(self.hparams["vocab_size"])

def find_without_vocabulary(*args, **kwargs):
    model = find(*args, **kwargs)
    model.set_vocab = set_no_vocabulary
    return model

converter.get_model_class = find_without_vocabulary
converter.main()
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", metavar="FILE", help=f"which (default: all of {', '.join(FILES)})")
    parser.add_argument("--llama-cpp", type=Path, metavar="FOLDER", help="where convert_hf_to_gguf.py is")
    parser.add_argument("--vectors", type=Path, default=VECTORS, help="where the cases are [default: %(default)s]")
    arguments = parser.parse_args()
    if unknown := set(arguments.files) - set(FILES):
        parser.error(f"no such file: {', '.join(sorted(unknown))}")
    with tempfile.TemporaryDirectory() as folder:
        sources = arguments.llama_cpp or fetch(Path(folder))
        for file in arguments.files or FILES:
            convert(sources, arguments.vectors, file)


def fetch(folder):
    options = ["--no-deps", "--no-binary", "llama-cpp-python", "--dest", folder]
    subprocess.run([sys.executable, "-m", "pip", "download", *options, PACKAGE], check=True)
    [archive] = folder.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    return next(folder.glob("*/vendor/llama.cpp"))


def convert(sources, vectors, file):
    case, _, kind = file.rpartition("-")
    out = vectors / "gguf" / f"{file}.gguf"
    out.parent.mkdir(exist_ok=True)
    command = [sys.executable, "-c", DRIVER, sources, vectors / case, "--outfile", out, "--outtype", kind, *FILES[file]]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{file}: {done.stderr}")
    print(f"{file:20} {out.stat().st_size:8} bytes", flush=True)


if __name__ == "__main__":
    main()
