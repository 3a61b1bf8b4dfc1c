"""The report of a run, in Markdown."""

from harness import table

# What is wanted of a GPU of 8 GiB.
FIXED_MS, ROOFLINE, KERNELS, PROJECTED, KEYSTROKE_MS, RESTORE_MS, SWEEPS = 3, 0.6, 0.65, 40, 150, 10, 1.5
KERNEL_BYTES = 8e6


def render(results):
    timings = Timings(results)
    parts = [head(results, timings), checks(results), timings.table(), timings.prompts(), timings.kernels(), timings.targets(),
             timings.others(), failures(results)]
    return "\n\n".join(part for part in parts if part)


def head(results, timings):
    folder = results["folder"]
    commit = f"{folder['commit'] or 'unknown commit'}{' with changes' if folder['is_changed'] else ''}"
    lines = ["# A GPU: checks and figures", ""]
    if not results["is_whole"]:
        lines += ["The run has not ended.", ""]
    lines.append(f"{results['began']}, {commit}, profile {folder['profile']}, seed {results['seed']}"
                 f"{', quick' if results['is_quick'] else ''}.")
    if device := timings.device:
        gpu, machine = device["gpu"], device["machine"]
        lines.append(
            f"{gpu['name']} (compute capability {gpu['capability']}, driver for CUDA {gpu['driver']}, "
            f"{gpu['free_bytes'] / 2**30:.1f} of {gpu['memory_bytes'] / 2**30:.1f} GiB free): memory {gpu['memory_gb_per_s']:.0f} GB/s, "
            f"link {gpu['link_gb_per_s']:.1f} GB/s, a kernel {gpu['launch_us']:.1f} us, a wait {gpu['wait_us']:.1f} us. "
            f"{machine['cpu']}, {device['threads']} threads that read {gpu['host_gb_per_s']:.1f} GB/s, "
            f"{machine['memory_bytes'] / 2**30:.0f} GiB.")
    if results["is_tiny"]:
        lines.append("**A tiny checkpoint was timed: no figure below says anything of a GPU.**")
    return "\n".join(lines)


def checks(results):
    if not results["checks"]:
        return ""
    groups = {}
    for result in results["checks"]:
        groups.setdefault(result["group"], []).append(result)
    rows = []
    for group, some in groups.items():
        count = {state: sum(result["state"] == state for result in some) for state in ["passed", "failed", "skipped", "not reached"]}
        rows.append([group, *count.values(), f"{sum(result['seconds'] for result in some):.0f} s"])
    text = "## Checks\n\n" + table(["against the CPU", "passed", "failed", "skipped", "not reached", "time"], rows)
    failed = [result for result in results["checks"] if result["state"] == "failed"]
    return text + "".join(f"\n\n**{result['name']}**: {result['reason']}" for result in failed)


def failures(results):
    lines = [f"- {result['name']}: {result['reason']}" for result in results["timings"] if result["state"] != "measured"]
    skipped = [f"- {result['name']}: {result['reason']}" for result in results["checks"] if result["state"] == "skipped"]
    parts = ["## Not measured\n\n" + "\n".join(lines)] if lines else []
    parts += ["## Skipped checks\n\n" + "\n".join(skipped)] if skipped else []
    return "\n\n".join(parts)


class Timings:
    def __init__(self, results):
        measured = [result for result in results["timings"] if result["state"] == "measured"]
        self.all = measured
        self.device = next((result["report"] for result in measured if result["kind"] == "device"), None)
        self.speeds = [result for result in measured if result["kind"] == "speed"]
        schedule = next((result["report"][0] for result in measured if result["kind"] == "schedule"), None)
        self.schedule = schedule
        self.predicted = {(row["routing"], row["wanted"]): row for row in schedule["rows"]} if schedule else {}
        fixed = next((result for result in self.speeds if result.get("is_fixed")), None)
        # Of a layer: launches and waits of a token are by layer.
        self.fixed_ms_of_layer = None
        if fixed:
            report = fixed["report"]
            over = token_ms(report) - 1e3 / report["on_gpu"]["bound_tokens_per_s"]
            self.fixed_ms_of_layer = max(over, 0) / report["model"]["layers"]

    def fixed_ms(self, layers):
        return None if self.fixed_ms_of_layer is None else self.fixed_ms_of_layer * layers

    def bound_ms(self, result):
        """What the bytes of a token take at the measured bandwidths; those from disk one after the other."""
        report = result["report"]
        bound = 1e3 / report["on_gpu"]["bound_tokens_per_s"]
        experts = report["experts"]
        return bound + (1e3 * experts["bytes_per_token"] / (1e9 * experts["disk_gb_per_s"]) if experts else 0)

    def roofline(self, result):
        """The share of the speed that bandwidths and the fixed cost allow."""
        fixed = self.fixed_ms(result["report"]["model"]["layers"])
        return None if fixed is None else (self.bound_ms(result) + fixed) / token_ms(result["report"])

    def projected(self, result):
        """Tokens per second on the laptop: what its bandwidths allow with the fixed cost of here, by the share reached here."""
        row = self.predicted.get((result["routing"], result.get("wanted")))
        share = self.roofline(result)
        is_of_laptop = not any(result.get(name) for name in ["is_fixed", "is_from_disk", "is_other"])
        if not row or share is None or not is_of_laptop:
            return None
        ideal_ms = 1e3 / row["tokens_per_s"] * row["of_ideal"]
        depth = (result["report"]["estimate"] or {}).get("layers", result["report"]["model"]["layers"])
        return 1e3 * share / (ideal_ms + self.fixed_ms(depth))

    def table(self):
        rows = []
        for result in self.speeds:
            report = result["report"]
            gpu, speed, experts = report["on_gpu"], report["decode"]["tokens_per_s"], report["experts"]
            whole = (report["estimate"] or {}).get("decode_tokens_per_s", {}).get("median")
            rows.append([
                result["name"], report["model"]["layers"], f"{gpu['slots']} of {gpu['experts']}", percent(gpu["hit_rate"]),
                f"{speed['median']:.1f} ({speed['min']:.1f} to {speed['max']:.1f})", number(whole),
                megabytes(gpu["gpu_bytes"]), megabytes(gpu["link_bytes"]), megabytes(gpu["cpu_bytes"]),
                megabytes(experts["bytes_per_token"] if experts else 0), number(1e3 / self.bound_ms(result)),
                percent(self.roofline(result)), number(self.projected(result))])
        if not rows:
            return ""
        heads = ["decode", "layers", "slots", "hits", "tokens/s", "whole model, estimated", "GPU, MB", "link, MB", "CPU, MB", "disk, MB",
                 "bandwidths allow", "of the roofline", "on the laptop, projected"]
        fixed = next((result for result in self.speeds if result.get("is_fixed")), None)
        notes = ("MB: weights that the GPU reads of its memory for a token, that come over the link, that the CPU reads, and that come "
                 "from disk. The roofline is what these bytes take at the measured bandwidths, and the fixed cost. The projection is the "
                 "roofline of the laptop (`fimd bench schedule`), its bandwidths and the fixed cost of here, by the share reached here.")
        if fixed:
            layers = fixed["report"]["model"]["layers"]
            notes = f"Fixed cost of a token: {self.fixed_ms(layers):.2f} ms with {layers} layers. " + notes
        return f"## Decode\n\n{table(heads, rows)}\n\n{notes}"

    def prompts(self):
        rows = []
        for result in self.speeds:
            report = result["report"]
            for prompt, experts in zip(report["prefill"], report["on_gpu"]["prefill"]):
                ms = 1e3 * prompt["tokens"] / prompt["tokens_per_s"]["median"]
                rows.append([result["name"], report["model"]["layers"], prompt["tokens"], f"{ms:.1f}",
                             f"{prompt['tokens_per_s']['median']:.0f}", percent(experts["hit_rate"]), megabytes(experts["link_bytes"]),
                             number(self.sweeps(report, ms, experts))])
            if more := report["more"]:
                rows.append([f"{result['name']}, after {more['context']} known", report["model"]["layers"], more["tokens"],
                             f"{more['ms']['median']:.1f}", f"{1e3 * more['tokens'] / more['ms']['median']:.0f}", "", "", ""])
        heads = ["prompt", "layers", "new tokens", "ms", "tokens/s", "hits", "link, MB", "times its bytes over the link"]
        return f"## Prompts\n\n{table(heads, rows)}" if rows else ""

    @staticmethod
    def sweeps(report, ms, experts):
        link_ms = 1e3 * experts["link_bytes"] / (1e9 * report["on_gpu"]["gpu"]["link_gb_per_s"])
        return ms / link_ms if link_ms > 0.1 * ms else None

    def kernels(self):
        if not self.device or not self.device["kernels"]:
            return ""
        rows = [[kernel["dtype"], f"{kernel['gb_per_s']:.0f}", percent(kernel["memory_share"]), f"{kernel['gmacs']:.0f}"]
                for kernel in self.device["kernels"]]
        return "## Kernels\n\n" + table(["weights", "one row, GB/s", "of the memory", "64 rows, GMAC/s"], rows)

    def others(self):
        parts = []
        for result in self.all:
            if result["kind"] == "keystrokes":
                for run in result["report"]["runs"]:
                    summary = run["summary"]
                    first, evaluated = summary["first_token_ms"] or {}, summary["evaluated"] or {}
                    parts.append(f"Keystrokes ({run['order']}): {summary['requests']} requests, first token p50 {number(first.get('p50'))} ms, "
                                 f"p90 {number(first.get('p90'))} ms, {number(evaluated.get('p50'))} tokens evaluated (p50).")
            if result["kind"] == "llama":
                rows = [[test.get("n_prompt"), test.get("n_gen"), f"{test['avg_ts']:.1f}"] for test in result["report"]]
                parts.append(f"llama-bench {result['arguments']}:\n\n" + table(["prompt", "decoded", "tokens/s"], rows))
        return "## Beside that\n\n" + "\n\n".join(parts) if parts else ""

    def targets(self):
        """What was wanted, what was found, and whether that is enough."""
        rows = []

        def row(what, wanted, found, is_met):
            rows.append([what, wanted, found, "met" if is_met else "missed"])

        whole = 48
        fixed = self.fixed_ms(whole)
        if fixed is not None:
            row(f"fixed cost of {whole} layers", f"at most {FIXED_MS} ms", f"{fixed:.2f} ms", fixed <= FIXED_MS)
        if self.device and self.device["kernels"]:
            worst = min(self.device["kernels"], key=lambda kernel: kernel["memory_share"])
            row("memory bandwidth of kernels", f"{KERNELS:.0%}", f"{percent(worst['memory_share'])} ({worst['dtype']})",
                worst["memory_share"] >= KERNELS)
        shares = [(self.roofline(result), result["name"]) for result in self.speeds
                  if not result.get("is_fixed") and not result.get("is_other") and self.roofline(result)]
        if shares:
            share, name = min(shares)
            row("of the roofline, at every hit rate", f"{ROOFLINE:.0%}", f"{percent(share)} ({name})", share >= ROOFLINE)
        at_60 = next((result for result in self.speeds if result.get("wanted") == 0.6 and result["routing"] == "text"), None)
        if at_60 and self.projected(at_60):
            row("projected to the laptop at 60 % hits", f"{PROJECTED} tokens/s", number(self.projected(at_60)),
                self.projected(at_60) >= PROJECTED)
        if at_60 and at_60["report"]["more"]:
            more = at_60["report"]["more"]
            row(f"{more['tokens']} new tokens at 60 % hits", f"under {KEYSTROKE_MS} ms", f"{more['ms']['median']:.1f} ms",
                more["ms"]["median"] < KEYSTROKE_MS)
            restore = more["back_ms"]["median"] - token_ms(at_60["report"])
            row("restoring a state", f"under {RESTORE_MS} ms", f"{max(restore, 0):.2f} ms", restore < RESTORE_MS)
        swept = [(self.sweeps(result["report"], 1e3 * prompt["tokens"] / prompt["tokens_per_s"]["median"], experts), result["name"])
                 for result in self.speeds[:1]
                 for prompt, experts in zip(result["report"]["prefill"], result["report"]["on_gpu"]["prefill"]) if prompt["tokens"] == 1024]
        if swept and swept[0][0]:
            row("a prompt of 1,024 tokens", f"at most {SWEEPS} sweeps", number(swept[0][0]), swept[0][0] <= SWEEPS)
        return "## Targets\n\n" + table(["what", "wanted", "found", ""], rows) if rows else ""


def token_ms(report):
    return 1e3 / report["decode"]["tokens_per_s"]["median"]


def number(value):
    return "" if value is None else f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def percent(share):
    return "" if share is None else f"{100 * share:.0f} %"


def megabytes(count):
    return f"{count / 1e6:.0f}" if count >= 1e7 or count == 0 else f"{count / 1e6:.2f}"
