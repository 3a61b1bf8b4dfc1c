#!/usr/bin/env python3
"""Measure fimd and llama.cpp side by side on one GGUF file, and print a Markdown table for tests/bench/.

    cargo build --release
    target/release/fimd bench speed --synthetic qwen3-coder-next --write model.gguf
    scripts/bench_llama_cpp.py --model model.gguf --llama-bin DIR
    pip install cmake ninja && scripts/bench_llama_cpp.py --model model.gguf

The two take turns, each run a fresh process with the same threads; the figures are medians over the
runs, with the range behind them. Without --llama-bin, llama.cpp is built from the source package of
llama-cpp-python, which holds all of it, in --build-dir (12 minutes on two cores, once).
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "llama-cpp-python"
TOOLS = ["llama-bench", "llama-server", "llama-quantize"]
OPTIONS = ["-DCMAKE_BUILD_TYPE=Release", "-DGGML_NATIVE=ON", "-DLLAMA_BUILD_TESTS=OFF",
           "-DLLAMA_BUILD_EXAMPLES=OFF", "-DLLAMA_BUILD_UI=OFF", "-DLLAMA_OPENSSL=OFF"]


def main():
    args = parse()
    llama_bin = args.llama_bin or build(args.build_dir, args.llama_version)
    if not (llama_bin / "llama-bench").exists():
        sys.exit(f"there is no llama-bench in {llama_bin}")
    fimd, llama, reports = [], [], []
    for run in range(1, args.runs + 1):
        print(f"run {run} of {args.runs}", file=sys.stderr)
        speeds, memory, report = run_fimd(args)
        fimd.append((speeds, memory))
        reports.append(report)
        llama.append(run_llama(args, llama_bin))
    print(table(args, fimd, llama, reports))


def parse():
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fimd" / "llama.cpp"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="a GGUF file")
    parser.add_argument("--binary", type=Path, default=ROOT / "target/release/fimd", help="fimd")
    parser.add_argument("--llama-bin", type=Path, metavar="DIR", help="folder with llama-bench")
    parser.add_argument("--llama-version", metavar="VERSION", help=f"of {PACKAGE}; the newest without it")
    parser.add_argument("--build-dir", type=Path, default=cache, help=f"where llama.cpp is built [default: {cache}]")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--prompt", default="16,64,512", help="lengths of prompts [default: %(default)s]")
    parser.add_argument("--generate", type=int, default=32, help="tokens to decode [default: %(default)s]")
    parser.add_argument("--runs", type=int, default=5, help="of each [default: %(default)s]")
    args = parser.parse_args()
    args.prompts = [int(tokens) for tokens in args.prompt.split(",")]
    for path in [args.model, args.binary]:
        if not path.exists():
            parser.error(f"{path} does not exist")
    return args


def build(folder, version):
    """Downloads and builds llama.cpp; returns the folder of its programs."""
    binaries = folder / "build" / "bin"
    if all((binaries / tool).exists() for tool in TOOLS):
        return binaries
    for tool in ["cmake", "ninja"]:
        if not shutil.which(tool):
            sys.exit(f"{tool} is missing: pip install cmake ninja, or name built programs with --llama-bin")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as download:
        package = f"{PACKAGE}=={version}" if version else PACKAGE
        pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", PACKAGE, "--dest", download]
        subprocess.run([*pip, package], check=True, stdout=sys.stderr)
        with tarfile.open(next(Path(download).glob("*.tar.gz"))) as archive:
            archive.extractall(folder / "source", filter="data")
    source = next((folder / "source").glob("*/vendor/llama.cpp"))
    configure = ["cmake", "-G", "Ninja", "-S", source, "-B", folder / "build", *OPTIONS]
    subprocess.run(configure, check=True, stdout=sys.stderr)
    subprocess.run(["cmake", "--build", folder / "build", "--target", *TOOLS], check=True, stdout=sys.stderr)
    return binaries


def run_fimd(args):
    """Tokens in a second by test, peak memory in bytes, and the whole report."""
    command = [args.binary, "bench", "speed", "--model", args.model, "--threads", str(args.threads)]
    command += ["--prompt", args.prompt, "--generate", str(args.generate), "--runs", "1", "--json"]
    output, memory = run(command, os.environ)
    report = json.loads(output)
    speeds = {f"prefill, {part['tokens']} tokens": part["tokens_per_s"]["median"] for part in report["prefill"]}
    speeds[f"decode, {args.generate} tokens"] = report["decode"]["tokens_per_s"]["median"]
    return speeds, report["peak_memory_bytes"] or memory, report


def run_llama(args, llama_bin):
    """Tokens in a second by test, and peak memory in bytes."""
    command = [llama_bin / "llama-bench", "-m", args.model, "-t", str(args.threads), "-ngl", "0"]
    command += ["-p", args.prompt, "-n", str(args.generate), "-r", "1", "-o", "json"]
    libraries = os.pathsep.join(filter(None, [str(llama_bin), os.environ.get("LD_LIBRARY_PATH")]))
    output, memory = run(command, {**os.environ, "LD_LIBRARY_PATH": libraries})
    speeds = {}
    for test in json.loads(output):
        name = f"prefill, {test['n_prompt']} tokens" if test["n_prompt"] else f"decode, {test['n_gen']} tokens"
        speeds[name] = test["avg_ts"]
    return speeds, memory


def run(command, environment):
    """Output and peak memory in bytes of a program; its messages are shown if it fails."""
    with tempfile.TemporaryFile() as messages:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=messages, env=environment)
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            messages.seek(0)
            sys.exit(f"{command[0]} failed ({process.returncode}):\n{messages.read().decode(errors='replace')}")
    # Kilobytes everywhere but on macOS.
    return output, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def table(args, fimd, llama, reports):
    machine = reports[0]["machine"]
    memory = statistics.median(report["memory_gb_per_s"] for report in reports)
    share = statistics.median(report["decode"]["memory_share"] for report in reports)
    lines = [
        f"{machine['cpu'] or platform.machine()}, {machine['cores']} cores, {machine['memory_bytes'] / 1e9:.0f} GB; "
        f"{args.threads} threads, which read {memory:.1f} GB/s; {args.model.name}, "
        f"{args.model.stat().st_size / 1e9:.2f} GB; medians of {args.runs} alternating runs (range).",
        "",
        "| | fimd tokens/s | llama.cpp tokens/s | ratio |",
        "|---|---:|---:|---:|",
    ]
    for test in fimd[0][0]:
        ours, theirs = ([speeds[test] for speeds, _ in runs] for runs in [fimd, llama])
        ratio = statistics.median(ours) / statistics.median(theirs)
        lines.append(f"| {test} | {spread(ours)} | {spread(theirs)} | {ratio:.2f} |")
    ours, theirs = (statistics.median(memory for _, memory in runs) / 1e9 for runs in [fimd, llama])
    lines.append(f"| peak memory, GB | {ours:.2f} | {theirs:.2f} | {ours / theirs:.2f} |")
    load = statistics.median(report["load_ms"] for report in reports)
    hashes = sorted({report["logits_hash"] for report in reports})
    lines += ["", f"fimd decodes at {share:.0%} of the memory's speed and loads in {load:.0f} ms; "
                  f"hash of its last logits: {', '.join(hashes)}."]
    return "\n".join(lines)


def spread(values):
    return f"{statistics.median(values):.1f} ({min(values):.1f} to {max(values):.1f})"


if __name__ == "__main__":
    main()
