"""`fimd bench` on the GPU: which figures are taken, the most important ones first."""

import json
import shlex
import shutil
import time

from gpu import report

# The laptop that figures are projected to, by its name in `fimd bench schedule`; and its memory.
LAPTOP = "rtx-3070-ti-laptop"
VRAM_MIB, RAM_MIB = 8192, 22 << 10
# Shares of the visits that hit; what `fimd bench schedule` looks for.
HITS = [0.6, 0.0, 0.3, 0.85]
MODEL, OTHER_MODEL = "qwen3-coder-next", "qwen3.6-35b-a3b"
# Bytes of a layer and of the rest, in Q4_K_M; layers of the models of which fewer are enough; and what a second writes.
LAYER_BYTES, REST_BYTES, FEWER_LAYERS, WRITTEN_PER_S = 1.0e9, 0.5e9, 12, 0.4e9
# A tiny checkpoint with 8 experts in each layer.
TINY = "qwen3_moe_q8_0"


class Bench:
    """The program, its models, and where figures go."""

    def __init__(self, carried, results, args):
        self.carried, self.results, self.args = carried, results, args
        self.files = (args.files or args.out / "models").resolve()
        self.env = carried.environment(XDG_CACHE_HOME=str(self.files))

    def json(self, name, *arguments, **facts):
        """The report of `fimd bench ...`, which is a result; none where it fails."""
        if self.args.timings and not any(text in name for text in self.args.timings):
            return None
        return self.take(name, [self.carried.program, "bench", *arguments, "--json"], facts)

    def take(self, name, command, facts):
        began = time.monotonic()
        # What hangs is not to take the time of all others.
        stdout, failure = self.results.command(name, command, self.env, 60 * self.args.minutes / 2)
        result = {"name": name, "seconds": time.monotonic() - began, **facts}
        report = None
        if failure is None:
            try:
                report = json.loads(stdout)
            except ValueError as error:
                failure = f"no JSON: {error}"
        state = "measured" if report is not None else "not reached" if stdout is None else "failed to run"
        self.results.add("timings", {**result, "state": state, "reason": failure, "report": report})
        return report

    def speed(self, name, model, *arguments, **facts):
        return self.json(name, "speed", *model, *arguments, kind="speed", **facts)


def device(carried, results, args):
    """Measures the GPU; whether there is one."""
    is_short = args.quick or args.tiny or args.only == "check"
    types = ["--types", "q8_0"] if args.tiny else ["--types", "q4_k,q8_0,f8_e4m3"] if is_short else []
    bench = Bench(carried, results, args)
    return bench.take("device", [carried.program, "bench", "gpu", *types, "--json"], {"kind": "device"}) is not None


def run(carried, results, args):
    bench = Bench(carried, results, args)
    bench.files.mkdir(parents=True, exist_ok=True)
    models = Tiny(carried) if args.tiny else Synthetic(bench, report.Timings(results.all).device)
    # What the slots are taken from.
    scheduled = [carried.program, "bench", "schedule", *models.scheduled(), "--machine", LAPTOP, "--json"]
    schedule = bench.take("schedule", scheduled, {"kind": "schedule"})
    slots = wanted_slots(schedule[0]) if schedule else {}
    text, prompts = models.whole("text"), "16,64" if args.tiny else "16,64,512,1024,2048"
    decoded = ["--generate", models.generate, "--runs", 1 if args.tiny else 2 if args.quick else 3]
    main = ["--prompt", prompts, "--more", 16, *decoded]
    short = ["--prompt", models.short_prompt, "--more", 16, *decoded]
    bench.speed("text, 8 GiB", text, *main, "--vram-budget", models.vram_mib, routing="text")
    bench.speed("all experts on the GPU", models.fitting("text"), *short, "--slots", models.experts, routing="text", is_fixed=True)
    for hits in HITS:
        if count := slots.get(("text", hits)):
            bench.speed(f"text, {hits:.0%} hits", models.with_slots(count, "text"), *short, "--slots", count, routing="text", wanted=hits)
    for hits in HITS:
        if count := slots.get(("uniform", hits)):
            bench.speed(f"uniform, {hits:.0%} hits", models.with_slots(count, "uniform", FEWER_LAYERS), *short, "--slots", count, routing="uniform", wanted=hits)
    budgets = ["--vram-budget", models.vram_mib, "--ram-budget", models.ram_mib]
    bench.speed("text, 8 GiB, 22 GiB of RAM, the rest on disk", text, *short, *budgets, routing="text", is_from_disk=True)
    if not args.tiny:
        bench.json("keystrokes", "keystrokes", "--model", bench.files / models.file, "--vram-budget", VRAM_MIB, "--sessions", "rust",
                   "--events", 20 if args.quick else 60, "--order", "psm-anchored", "--pace", 0, kind="keystrokes")
        others = [(OTHER_MODEL, "q4_k_m"), (MODEL, "q8_0")]
        for name, quant in others[:1] if args.quick else others:
            bench.speed(f"{name} in {quant.upper()}, 8 GiB", models.fewer("text", name, quant), *main, "--vram-budget", VRAM_MIB,
                        routing="text", is_other=True)
    if args.llama_bench:
        file = carried.checkpoint(TINY) / "model.gguf" if args.tiny else bench.files / models.file
        command = [args.llama_bench, "-m", file, "-p", prompts, "-n", models.generate, "-r", 2, "-o", "json", *shlex.split(args.llama_args)]
        bench.take("llama-bench", command, {"kind": "llama", "arguments": args.llama_args})


def wanted_slots(schedule):
    """Slots by routing and the share of hits that they are to give."""
    return {(row["routing"], row["wanted"]): max(row["slots"], 1) for row in schedule["rows"] if row["wanted"] is not None}


class Synthetic:
    """Models with the shapes of published ones and random weights, which are written by the first command that needs them."""

    generate, short_prompt, experts, vram_mib, ram_mib = 64, "64", 512, VRAM_MIB, RAM_MIB

    def __init__(self, bench, device):
        args = bench.args
        if args.quick:
            self.generate = 24
        free_disk = shutil.disk_usage(bench.files).free
        room = min(0.8 * free_disk, 0.45 * device["machine"]["memory_bytes"], 60 * args.minutes / 4 * WRITTEN_PER_S)
        self.layers = args.layers or groups(room, 48)
        self.vram = 0.85 * device["gpu"]["free_bytes"] / 1.3
        self.bench = bench

    @property
    def file(self):
        # As `fimd bench speed` calls it in the cache folder.
        found = sorted((self.bench.files / "fimd").glob(f"{MODEL}-{self.layers}-layers-*-text-*.gguf"))
        return found[0].relative_to(self.bench.files) if found else "fimd/missing.gguf"

    def scheduled(self):
        return ["--synthetic", MODEL]

    def of(self, layers, routing, name=MODEL, quant="q4_k_m"):
        return ["--synthetic", name, "--layers", layers, "--quant", quant, "--routing", routing]

    def whole(self, routing):
        return self.of(self.layers, routing)

    def fitting(self, routing):
        return self.with_slots(self.experts, routing)

    def with_slots(self, count, routing, most=48):
        """With as many layers as have that many slots in the memory of the GPU; of few numbers, since each is a file."""
        fitting = groups(self.vram / max(count / self.experts, 0.05), 48)
        layers = [number for number in [self.layers, FEWER_LAYERS, 4] if number <= min(fitting, most, self.layers)]
        return self.of(layers[0] if layers else 4, routing)

    def fewer(self, routing, name=MODEL, quant="q4_k_m"):
        return self.of(min(self.layers, FEWER_LAYERS), routing, name, quant)


class Tiny:
    """A checkpoint of some hundred KB, to see that all works."""

    generate, short_prompt, experts, vram_mib, ram_mib = 4, "16", 8, 64, 512

    def __init__(self, carried):
        self.model = ["--model", carried.checkpoint(TINY)]
        # A checkpoint has no more.
        self.context = ["--context", 256]

    def scheduled(self):
        return [*self.model, *self.context]

    def whole(self, routing):
        return [*self.model, *self.context, "--routing", routing]

    fitting = fewer = whole

    def with_slots(self, _count, routing, _most=48):
        return self.whole(routing)


def groups(bytes_max, most):
    """Layers of Q4_K_M that take at most that many bytes, by groups of four."""
    return int(max(4, min(most, (bytes_max - REST_BYTES) / LAYER_BYTES // 4 * 4)))
