"""Tests of the suite that run on the machine's own driver, what would spoil the others first."""

import sys
import time
from concurrent.futures import ThreadPoolExecutor

# What is tested, and what names of its tests begin with.
GROUPS = [
    ("wrappers of inline PTX against scalars", ["cuda::wrappers::", "cuda::trial::"]),
    ("kernels of every weight type, attention, and chunks of DeltaNet", ["cuda::products::", "cuda::attention::", "cuda::delta::", "gpu::every_weight_type", "sweeps::experts_of_every_type"]),
    ("checkpoints of every architecture", ["reference::on_a_gpu::", "gpu_models::", "gpu::the_program_generates"]),
    ("sessions with random edits", ["session::on_a_gpu::"]),
    ("experts in slots, states, graphs, sweeps", ["gpu::", "states::", "graphs::", "sweeps::"]),
]
LIMIT_S = 180


def run(carried, results, args):
    env = carried.environment(FIMD_TEST_DRIVER="own", FIMD_TEST_ROOT=str(carried.path), FIMD_TEST_SEED=str(args.seed),
                              FIMD_TEST_PROGRAM=str(carried.program), RUST_BACKTRACE="1")
    listed, failure = results.command("list of tests", [carried.tests, "--list", "--format", "terse"], env)
    if failure:
        sys.exit(f"{carried.tests} does not run: {failure}")
    names = [line[:-len(": test")] for line in listed.splitlines() if line.endswith(": test")]
    print(f"seed {args.seed}", file=sys.stderr)
    seen = set()
    for group, prefixes in GROUPS:
        chosen = [name for name in names if name not in seen and name.startswith(tuple(prefixes))]
        seen.update(chosen)
        if args.tests:
            chosen = [name for name in chosen if any(text in name for text in args.tests)]
        # A fault stays in the context of its process: each test has its own.
        with ThreadPoolExecutor(args.jobs) as pool:
            for result in pool.map(lambda name: check(carried, results, env, group, name), chosen):
                results.add("checks", result)


def check(carried, results, env, group, name):
    began = time.monotonic()
    command = [carried.tests, "--exact", name, "--nocapture", "--test-threads", "1"]
    # It is alone already.
    stdout, failure = results.command(name, command, {**env, "FIMD_TEST_ALONE": name}, LIMIT_S)
    result = {"group": group, "name": name, "seconds": time.monotonic() - began}
    if stdout is None:
        return {**result, "state": "not reached"}
    log = results.log(name)
    said = log.read_text(errors="replace")
    skipped = [line for line in said.splitlines() if line.startswith("SKIPPED: ")]
    if failure is None and "1 passed" not in stdout:
        failure = "the test was not found"
    if failure:
        log.write_text(f"{stdout}\n{said}")
        return {**result, "state": "failed", "reason": panic(said) or failure}
    log.unlink()
    if skipped:
        return {**result, "state": "skipped", "reason": skipped[0].rsplit(": ", 1)[-1]}
    # What tests say of errors.
    figures = [line for line in stdout.splitlines() if line and not line.startswith(("running", "test ", "FIMD_TEST_SEED"))]
    return {**result, "state": "passed", "said": figures[:60]}


def panic(said):
    """What the test that panicked first said."""
    lines = said.splitlines()
    for at, line in enumerate(lines):
        if " panicked at " in line:
            return " ".join(lines[at + 1:at + 2]).strip()
    return None
